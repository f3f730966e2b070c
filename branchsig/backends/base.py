"""What a backend is, and the problem it is handed.

The public functions check and transform their arguments and describe what is left in a `Problem`: two stacks of paths,
how to pair them, and how fine to solve. A `Backend` turns a problem into kernels, their logarithms, grids or gradients.
It checks nothing, warns of nothing about values, and knows no array but those of the problem.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from branchsig._arrays import Array
from branchsig.quadrature import TRAPEZOID, Quadrature
from branchsig.static_kernels import StaticKernel

__all__ = ["Backend", "Gradients", "Problem", "Want", "Wrt"]

Want = Literal["end", "grid", "stack", "prefixes"]
"""Where values are wanted: see `Backend.solve`."""


@dataclasses.dataclass(slots=True)  # frozen, it would take twice the time to make
class Problem:
    """Pairs of paths, and how their branched signature kernels are to be computed.

    Attributes
    ----------
    path1 : array, shape (n1, length1, dimension)
        C-contiguous, native byte order, float32 or float64, all transformations already applied. Read, never written.
    path2 : array, shape (n2, length2, dimension)
        Same library, dtype and device as `path1`; the same object for a symmetric Gram matrix.
    pairing : {"paired", "gram", "symmetric"}
        "paired": path k with path k, results of shape (n1,). "gram": all pairs, results of shape (n1, n2).
        "symmetric": a Gram matrix of `path1` with itself at equal dyadic orders, of which one triangle is computed.
    static_kernel : StaticKernel
        The kernel on the space the paths live in.
    depth : int or math.inf
        Largest tree depth, at least 0; of no effect beside `order`.
    dyadic_order : tuple of int
        A cell is split into ``2**dyadic_order[0]`` by ``2**dyadic_order[1]`` equal sub-cells.
    n_jobs : int
        Number of threads, at least 1.
    max_batch : int
        A Gram matrix holds at most ``max_batch**2`` pairs in flight; -1 leaves the choice to the backend.
    progress : callable or None
        Called with (pairs done, pairs in all) as the work goes on.
    quadrature : Quadrature
        The rule for the integral over a sub-cell.
    order : int or None
        Largest number of nodes of a forest, at least 0. The problem is then one for components.
    lengths1, lengths2 : int64 NumPy array, shape (n1,) and (n2,), or None
        Valid lengths, from 1 to that of the padded paths. What lies behind is never read, contributes nothing, and has
        the gradient 0. Grids are constant behind the last valid node. One object for a symmetric problem.
    devices : tuple of int
        The CUDA devices that share the pairs among them; empty for that of the paths alone.
    share : tuple of int
        (k, n): the k-th of n runs of pairs alone is to be done, and all else in the results is to be 0. For the CUDA
        backend alone.
    batches : tuple of tuple of int
        The batch shapes of the two arguments that the stacks were made from, to name single paths by. Backends see
        stacks alone.
    dilations : tuple or None
        What `branchsig.dilation.dilated` has found of these paths, so that gradients need not search again. No backend
        looks at it.
    purpose : {"kernel", "log", "difference", "quotient", "rough"} or None
        What values are wanted for, which decides how many digits they must have: a value whose error may be too large
        is NaN (see `_digits`). None is "kernel", or "log" for logarithms; of components every one counts by itself.
        "difference" is for logarithms, or logarithms of the sum of components, that others are subtracted from,
        "quotient" for those of kernels that are divided by others, and "rough" for ends alone that are taken as they
        come: a search looks on both sides of what has digits.
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
    batches: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    dilations: Any = None
    purpose: str | None = None

    @property
    def axes(self) -> int:
        """Number of axes of pairs in results: one for pairs of paths, two for Gram matrices."""
        return 1 if self.pairing == "paired" else 2

    @property
    def itself(self) -> bool:
        """Whether the second paths are the first, lengths included."""
        return self.path2 is self.path1 and self.lengths2 is self.lengths1


class Wrt(NamedTuple):
    """What gradients are asked for: with respect to the paths, and to the parameters of the static kernel."""

    path1: bool = False
    path2: bool = False
    parameters: bool = False


class Gradients(NamedTuple):
    """Gradients, or None where they are not asked for.

    Those of the paths have the shapes of the paths; those of the parameters (*pairs, number of parameters), in the
    order of the fields of the static kernel.
    """

    path1: Array | None = None
    path2: Array | None = None
    parameters: Array | None = None


class Backend(Protocol):
    """What every backend offers. ``*pairs`` is (n1,) for paired problems and (n1, n2) for Gram matrices."""

    name: str

    def solve(self, problem: Problem, want: Want, *, log: bool = False) -> Array:
        """Return the kernels K_depth of all pairs, or with `log` their logarithms.

        "end"
            At the end of both paths, shape (*pairs,).
        "grid"
            At every node, shape (*pairs, grid1, grid2). Nodes are the corners of the sub-cells, whatever nodes the
            quadrature has inside.
        "stack"
            The kernels K_0 to K_depth at every node, shape (*pairs, depth + 1, grid1, grid2), whatever `log`.
        "prefixes"
            log K_depth of every path x[:i + 1] with itself, shape (n1, length1), whatever `log`. For paired problems
            alone whose second paths are the first, lengths and dyadic orders included: these are the nodes of their
            grids that belong to two equal points. Constant behind the last valid point. Memory grows with the lengths,
            not with their squares.

        Where the problem has an `order`, the components k_0 to k_order take the place of K_depth, on a last axis of
        order + 1, whatever `log`; there is no stack of them.
        """

    def adjoint(
        self, problem: Problem, want: Want, derivs: Array, wrt: Wrt, *, log: bool = False, stack: Array | None = None
    ) -> Gradients:
        """Return the gradients for `derivs` of the "end" or the "grid" that `solve` returns with the same `log`.

        `stack` is the "stack" of the problem, if it is at hand. A symmetric problem takes derivs of ends and gives the
        gradient of `path1` alone: ``sum_j derivs[i, j] d_1 k(x_i, x_j)``. A problem with an `order` is never symmetric.
        A pair whose value (any value of its grid) is not finite gives NaN in every entry of its own two paths, unless
        all its derivatives are 0: such a pair contributes nothing, whatever its value. A value that has lost its digits
        is not finite either.
        """
