"""What a backend is, and the problem it is handed.

The public functions check and transform their arguments and describe what is left in a `Problem`: two stacks of paths,
how to pair them, and how fine to solve. A `Backend` turns a problem into kernels, their logarithms, grids or gradients.
It checks nothing, warns of nothing about values, and knows no array but those of the problem.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from branchsig._arrays import Array
from branchsig.quadrature import TRAPEZOID, Quadrature
from branchsig.static_kernels import StaticKernel

__all__ = ["Backend", "Problem"]


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
        Largest number of nodes of a forest, at least 0. The problem is then one for `Backend.parts`.
    lengths1, lengths2 : int64 NumPy array, shape (n1,) and (n2,), or None
        Valid lengths, from 1 to that of the padded paths. What lies behind is never read, contributes nothing, and has
        the gradient 0. Grids are constant behind the last valid node. One object for a symmetric problem.
    log_grid : bool
        Whether `Backend.grid` is to return logarithms.
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
        is NaN (see `_digits`). None goes by the method: "kernel" or "log", and for `Backend.parts` every part for
        itself. "difference" is for logarithms, or logarithms of the sum of parts, that others are subtracted from,
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
    log_grid: bool = False
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


class Backend(Protocol):
    """What every backend offers. ``*pairs`` is (n1,) for paired problems and (n1, n2) for Gram matrices."""

    name: str

    def log_kernel(self, problem: Problem) -> Array:
        """Return log K_depth at the end of both paths, shape (*pairs,)."""

    def kernel(self, problem: Problem) -> Array:
        """Return K_depth at the end of both paths, shape (*pairs,)."""

    def grid(self, problem: Problem, *, all_levels: bool) -> Array:
        """Return K_depth, or log K_depth where the problem says so, at every node, shape (*pairs, grid1, grid2).

        With `all_levels` the kernels K_0 to K_depth, shape (*pairs, depth + 1, grid1, grid2). Nodes are the corners of
        the sub-cells, whatever nodes the quadrature has inside.
        """

    def parts(self, problem: Problem, *, grid: bool) -> Array:
        """Return k_0 to k_order at the end of both paths, shape (*pairs, order + 1).

        With `grid` at every node, shape (*pairs, grid1, grid2, order + 1). For problems with an `order` alone.
        """

    def diagonal(self, problem: Problem) -> Array:
        """Return log K_depth of every path x[:i + 1] with itself, shape (n1, length1).

        With an `order` k_0 to k_order, shape (n1, length1, order + 1). For paired problems alone whose second paths are
        the first, lengths and dyadic orders included: these are the nodes of their grids that belong to two equal
        points. Constant behind the last valid point. Memory grows with the lengths, not with their squares.
        """

    def gradients(
        self,
        problem: Problem,
        derivs: Array,
        *,
        wrt_log: bool,
        left: bool,
        right: bool,
        k_stack: Array | None = None,
    ) -> tuple[Array | None, Array | None]:
        """Return the gradients with respect to `path1` (where `left`) and `path2` (where `right`).

        `derivs` are those of `kernel` or `log_kernel`, shape (*pairs,), or of `grid`, shape (*pairs, grid1, grid2);
        with respect to log K_depth where `wrt_log`, to K_depth otherwise. `k_stack` is the result of
        ``grid(all_levels=True)``. A symmetric problem takes scalar derivs and gives the left gradient ``sum_j derivs[i,
        j] d_1 k(x_i, x_j)`` alone. Derivatives for a problem with an `order`, which is never symmetric, are those of
        `parts`, whatever `wrt_log`. A pair whose value (any value of its grid) is not finite gives NaN in every entry
        of its own two paths, unless all its derivatives are 0: such a pair contributes nothing, whatever its value.
        A value that has lost its digits is not finite either.
        """
