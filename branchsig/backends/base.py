"""The interface of a backend, and the `Problem` that it solves.

Operations check and transform the arguments of public functions and describe the result as a `Problem`: two stacks of
paths, how to pair them, and how finely to solve. A `Backend` computes kernels, their logarithms, grids or gradients. It
checks nothing and does not warn about values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from branchsig._arrays import Array
from branchsig.quadrature import TRAPEZOID, Quadrature
from branchsig.static_kernels import StaticKernel

__all__ = ["Backend", "Gradients", "Problem", "Want", "Wrt"]

Want = Literal["end", "grid", "stack", "prefixes"]
"""Where values are requested: see `Backend.solve`."""


@dataclasses.dataclass(slots=True)  # not frozen: that would double the time to create one
class Problem:
    """Pairs of paths, and how their branched signature kernels are to be computed.

    Attributes
    ----------
    path1 : array, shape (n1, length1, dimension)
        C-contiguous, native byte order, float32 or float64, with all transformations applied. Never modified.
    path2 : array, shape (n2, length2, dimension)
        Same library, dtype and device as `path1`; the same object for a symmetric Gram matrix.
    pairing : {"paired", "gram", "symmetric"}
        "paired": path k with path k, results of shape (n1,). "gram": all pairs, results of shape (n1, n2). "symmetric":
        the Gram matrix of `path1` with itself at equal dyadic orders; one triangle is computed.
    static_kernel : StaticKernel
        The kernel on the space the paths live in.
    depth : int or math.inf
        Largest tree depth, at least 0; `math.inf` for no bound.
    dyadic_order : tuple of int
        A cell is split into ``2**dyadic_order[0]`` by ``2**dyadic_order[1]`` equal sub-cells.
    n_jobs : int
        Number of threads, at least 1.
    max_batch : int
        At most ``max_batch**2`` pairs of a Gram matrix are processed at a time; -1 lets the backend choose.
    progress : callable or None
        Called with (pairs done, total pairs) during the work.
    quadrature : Quadrature
        The rule for the integral over a sub-cell.
    order : int or None
        Largest number of nodes of a forest, at least 0, in addition to the bound on the depth. Values are then
        components.
    lengths1, lengths2 : int64 NumPy array, shape (n1,) and (n2,), or None
        Valid lengths, from 1 to that of the padded paths. Padding is never read, contributes nothing, and has gradient
        0. Grids are constant beyond the last valid node. Both are one object for a symmetric problem.
    devices : tuple of int
        The CUDA devices to distribute the pairs over; empty for the device of the paths only.
    share : tuple of int
        (k, n): compute only the k-th of n ranges of pairs, and return 0 for all other pairs. Only for the CUDA backend.
    purpose : {"kernel", "log", "difference", "quotient", "rough"} or None
        The purpose of the values, which determines how many digits they need: a value whose error may be too large is
        NaN (see `_digits`). None means "kernel", or "log" for logarithms; each component is then judged by itself.
        "difference" is for logarithms (also of the sum of components) that enter differences, and "quotient" for
        logarithms of kernels that are divided by others. "rough" accepts every value at the end: a search also
        evaluates where digits are lost.
    planar : bool
        Ordered forests of planar trees in the place of unordered forests.
    """

    path1: Array
    path2: Array
    pairing: str
    static_kernel: StaticKernel
    depth: float
    dyadic_order: tuple[int, int]
    n_jobs: int = 1
    max_batch: int = -1
    progress: Callable[[int, int], None] | None = None
    quadrature: Quadrature = TRAPEZOID
    order: int | None = None
    lengths1: npt.NDArray[np.int64] | None = None
    lengths2: npt.NDArray[np.int64] | None = None
    devices: tuple[int, ...] = ()
    share: tuple[int, int] = (0, 1)
    purpose: str | None = None
    planar: bool = False

    @property
    def axes(self) -> int:
        """Number of axes of pairs in results: one for pairs of paths, two for Gram matrices."""
        return 1 if self.pairing == "paired" else 2

    @property
    def largest_depth(self) -> float:
        """The depth of the deepest forest; no forest is deeper than its number of nodes."""
        return self.depth if self.order is None else min(self.depth, self.order)

    @property
    def signed(self) -> bool:
        """Whether K need not be positive, so that a backend returns its components, or K - 1, and no logarithms."""
        return self.planar or self.order is not None

    @property
    def itself(self) -> bool:
        """Whether the second paths are the first, lengths included."""
        return self.path2 is self.path1 and self.lengths2 is self.lengths1


class Wrt(NamedTuple):
    """Which gradients are requested: with respect to the paths, and to the parameters of the static kernel."""

    path1: bool = False
    path2: bool = False
    parameters: bool = False


class Gradients(NamedTuple):
    """Gradients, or None for those that were not requested.

    Gradients of the paths have the shapes of the paths. The gradient of the parameters has the shape (*pairs, number of
    parameters), in the order of the fields of the static kernel.
    """

    path1: Array | None = None
    path2: Array | None = None
    parameters: Array | None = None


class Backend(Protocol):
    """The interface of a backend. ``*pairs`` is (n1,) for paired problems and (n1, n2) for Gram matrices."""

    name: str

    def solve(self, problem: Problem, want: Want, *, log: bool = False) -> Array:
        """Return the kernels K_depth of all pairs, or with `log` their logarithms.

        "end"
            At the end of both paths, shape (*pairs,).
        "grid"
            At every node, shape (*pairs, grid1, grid2). Nodes are the corners of the sub-cells; inner nodes of the
            quadrature are not returned.
        "stack"
            The kernels K_0 to K_depth at every node, shape (*pairs, depth + 1, grid1, grid2), for either value of
            `log`.
        "prefixes"
            log K_depth of every prefix x[:i + 1] with itself, shape (n1, length1), for either value of `log`. Only for
            paired problems whose second paths are the first, with equal lengths and dyadic orders: these are the nodes
            on the diagonals of their grids. Constant beyond the last valid point. Memory grows with the lengths, not
            with their squares.

        If the problem has an `order`, the components k_0 to k_order replace K_depth, on a last axis of size order + 1,
        for either value of `log`; there is no stack of them. Otherwise, if it is planar, K_depth - 1 replaces K_depth
        and its logarithm, except in a stack.
        """

    def adjoint(
        self, problem: Problem, want: Want, derivs: Array, wrt: Wrt, *, log: bool = False, stack: Array | None = None
    ) -> Gradients:
        """Return the gradients for `derivs` of the "end" or the "grid" that `solve` returns with the same `log`.

        `stack` is the "stack" of the problem, if available. A symmetric problem takes derivs of ends and returns only
        the gradient of `path1`: ``sum_j derivs[i, j] d_1 k(x_i, x_j)``. A problem with an `order` is never symmetric. A
        pair whose value (or any value of its grid) is not finite gives NaN in every entry of its two paths, unless all
        its derivatives are 0: such a pair contributes nothing. Values that have lost their digits are not finite.
        """
