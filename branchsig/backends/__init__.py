"""What a backend is, the problem it is handed, and which backend serves an array.

The public functions check and transform their arguments and describe what is left in a `Problem`: two stacks of paths,
how to pair them, and how fine to solve. A `Backend` turns a problem into kernels, their logarithms, grids or gradients.
It checks nothing, warns of nothing about values, and knows no array but those of the problem.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from branchsig._arrays import Array, from_cupy, from_numpy, is_cupy, lies_on_cuda, to_cupy, to_numpy
from branchsig._warnings import warn
from branchsig.backends.reference import ReferenceBackend
from branchsig.quadrature import TRAPEZOID, Quadrature
from branchsig.static_kernels import StaticKernel, is_built_in

__all__ = ["Backend", "Problem", "backend_for", "for_cupy"]


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
        Largest tree depth, at least 0; `math.inf` for no bound.
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
        Largest number of nodes of a forest, at least 0, beside the bound on the depth. The problem is then one for
        `Backend.parts`.
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
    def largest_depth(self) -> float:
        """The depth of the deepest forest: none is deeper than it has nodes."""
        return self.depth if self.order is None else min(self.depth, self.order)

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
        """Return k_0 to k_order, of forests within `depth`, at the end of both paths, shape (*pairs, order + 1).

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


class ThroughNumpy:
    """Serves arrays of another library that lie on the CPU: DLPack to NumPy, a backend for NumPy, and back.

    A static kernel of the user's own expects arrays of the user's own library, and is therefore left to the reference.
    """

    def __init__(self, inner: Backend) -> None:
        self.name = inner.name
        self._inner = inner
        self._own_namespace = ReferenceBackend()

    def log_kernel(self, problem: Problem) -> Array:
        """See `Backend.log_kernel`."""
        return self._through(problem, lambda backend, there: backend.log_kernel(there))

    def kernel(self, problem: Problem) -> Array:
        """See `Backend.kernel`."""
        return self._through(problem, lambda backend, there: backend.kernel(there))

    def grid(self, problem: Problem, *, all_levels: bool) -> Array:
        """See `Backend.grid`."""
        return self._through(problem, lambda backend, there: backend.grid(there, all_levels=all_levels))

    def parts(self, problem: Problem, *, grid: bool) -> Array:
        """See `Backend.parts`."""
        return self._through(problem, lambda backend, there: backend.parts(there, grid=grid))

    def diagonal(self, problem: Problem) -> Array:
        """See `Backend.diagonal`."""
        return self._through(problem, lambda backend, there: backend.diagonal(there))

    def _through(self, problem: Problem, work: Callable[[Backend, Problem], Array]) -> Array:
        converted = self._converted(problem)
        if converted is None:
            return work(self._own_namespace, problem)
        return self._back(work(self._inner, converted), problem.path1)

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
        """See `Backend.gradients`."""
        converted = self._converted(problem)
        derivs_there = self._there(derivs)
        stack_there = None if k_stack is None else self._there(k_stack)
        if converted is None or derivs_there is None or (k_stack is not None and stack_there is None):
            return self._own_namespace.gradients(
                problem, derivs, wrt_log=wrt_log, left=left, right=right, k_stack=k_stack
            )
        d_path1, d_path2 = self._inner.gradients(
            converted, derivs_there, wrt_log=wrt_log, left=left, right=right, k_stack=stack_there
        )
        return (
            None if d_path1 is None else self._back(d_path1, problem.path1),
            None if d_path2 is None else self._back(d_path2, problem.path2),
        )

    def _there(self, array: Array) -> Array | None:
        return to_numpy(array)

    def _back(self, result: Array, like: Array) -> Array:
        return from_numpy(result, like)

    def _converted(self, problem: Problem) -> Problem | None:
        if not is_built_in(problem.static_kernel):
            return None
        path1 = self._there(problem.path1)
        path2 = path1 if problem.path2 is problem.path1 else self._there(problem.path2)
        if path1 is None or path2 is None:
            return None
        return dataclasses.replace(problem, path1=path1, path2=path2)


class ThroughCupy(ThroughNumpy):
    """Serves arrays of another library that lie on a CUDA device: DLPack to CuPy, its backend, and back."""

    def __init__(self, inner: Backend, cupy: Any) -> None:
        super().__init__(inner)
        self._cupy = cupy

    def _there(self, array: Array) -> Array | None:
        return to_cupy(array, self._cupy)

    def _back(self, result: Array, like: Array) -> Array:
        return from_cupy(result, like)


_for_numpy: Backend | None = None
_for_others: Backend | None = None


def backend_for(problem: Problem) -> Backend:
    """Return the backend that serves a problem.

    Parameters
    ----------
    problem : Problem
        The problem to be solved.

    Returns
    -------
    Backend
        One object for all NumPy arrays, one for those of CuPy, one for others on the CPU, one for others on a
        CUDA device.

    Warns
    -----
    RuntimeWarning
        Once per process, where the compiled core is missing.
    """
    if _for_numpy is None:
        _choose()
    path = problem.path1
    if isinstance(path, np.ndarray):
        found = _for_numpy
    elif is_cupy(path):
        found = for_cupy()
    else:
        found = (lies_on_cuda(path) and _through_cupy()) or _for_others
    return cast(Backend, found)


@functools.cache
def for_cupy() -> Backend:
    """Return the backend for the arrays of CuPy, which is imported already where there is one.

    Raises
    ------
    ImportError
        If this is a CuPy that is too old.
    """
    import cupy

    from branchsig.backends.cuda import CudaBackend
    from branchsig.backends.devices import OverDevices

    return cast(Backend, OverDevices(CudaBackend(cupy), cupy))


@functools.cache
def _through_cupy() -> Backend | None:
    """Return the backend for arrays of other libraries on a CUDA device, or None where CuPy is not installed."""
    try:
        import cupy
    except ImportError:
        return None
    return ThroughCupy(for_cupy(), cupy)


def _choose() -> None:
    """Find the backends of this process. The choice stands before the warning, which may be an exception, is given."""
    global _for_numpy, _for_others
    try:
        from branchsig.backends import cpu

        core = cast(Backend, cpu.CpuBackend())
        _for_numpy, _for_others = core, ThroughNumpy(core)
        cpu.warn_of_environment()
    except ImportError as error:
        _for_numpy = ReferenceBackend()
        _for_others = ThroughNumpy(_for_numpy)
        warn(
            f"the compiled core of branchsig is not available ({error}): the reference implementation serves in its "
            "place, which is slower and needs more memory. Install branchsig where there is a C compiler, with "
            "'pip install --force-reinstall --no-deps branchsig', to get the core"
        )
