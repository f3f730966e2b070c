"""CUDA for CuPy arrays: compiles and launches the kernels of `raw_kernels`, on the device of the arrays.

A `Problem` on CuPy arrays comes in; kernels, their logarithms, grids or gradients go out, computed on CuPy's current
stream. A warp owns a pair of paths at a time, or a team of warps where there are few, or half of one where there are
many of short paths; a few pairs of long paths go from team to team. So memory beyond the result is that of the pairs in
flight, O(depth · (length1 + length2)) each; the gradients without truncation keep K at every node where it fits, and
otherwise at those of as many columns as a team has. Pairs whose kernels leave the range of the running products are
done again in float64 in the log domain, by kernels that find them on the device: the host never waits. What the kernels
cannot do is left to the reference, in CuPy's own namespace.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from branchsig import _validation
from branchsig import static_kernels as kernels
from branchsig._arrays import Array, filled, weighted
from branchsig.backends._instances import ANY_DIMENSION, GIVEN, REALS, Instance, fused, source
from branchsig.backends._plans import ALL_LEVELS, DIAGONAL, LARGEST_DEPTH, LAST_LEVEL, LOGARITHM, PAIRINGS, Plan
from branchsig.backends.reference import ReferenceBackend
from branchsig.quadrature import Quadrature

if TYPE_CHECKING:
    from branchsig.backends import Problem

__all__ = ["CudaBackend", "Instance", "source", "warm_up"]

_MOST_PLANS = 1024
"""Plans that a backend remembers."""

_OLDEST_CUPY = 14
"""Before it a kernel that is handed None gets no null pointer."""

_REMEDY = "pip install 'branchsig[cuda12]', or 'branchsig[cuda13]' for CUDA 13"


def warm_up(
    depth: int,
    *,
    static_kernel: kernels.StaticKernel | None = None,
    dtype: Any = "float64",
    gradients: bool = True,
    return_grid: bool = False,
    quadrature: Quadrature | str = "trapezoid",
    order: int | None = None,
    dimension: int | None = None,
) -> None:
    """Compile the CUDA kernels of a depth for the current device of CuPy, before they are needed.

    A kernel is otherwise compiled when it is first used, which takes about a second; CuPy keeps the result in a cache
    on disk. Nothing has to be warmed up for arrays that do not lie on a CUDA device. The kernels for padded paths are
    left out: they are compiled when lengths are first given.

    Parameters
    ----------
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound.
    static_kernel : StaticKernel, optional
        The static kernel; the linear one if None.
    dtype : dtype, default: "float64"
        That of the paths: float32 or float64.
    gradients : bool, default: True
        Compile the backward kernels too.
    return_grid : bool, default: False
        Compile the kernels for grids, in the place of those for values.
    quadrature : Quadrature or str, default: "trapezoid"
        The rule for the integral over a sub-cell.
    order : int, optional
        Compile the kernels for the truncation by this number of nodes, in the place of those for a depth. There are
        none for a `depth` below it: the reference does that.
    dimension : int, optional
        The number of channels of the paths; the kernels for any number if None, which are up to three times as many.

    Raises
    ------
    ImportError
        If CuPy is not installed, or too old.
    RuntimeError
        If CuPy finds no CUDA device, or a kernel cannot be compiled.
    TypeError
        If `depth`, `order` or `dimension` is no integer.
    ValueError
        If `depth`, `dtype` or `dimension` is not among those named above.

    Examples
    --------
    >>> import branchsig
    >>> branchsig.warm_up(depth=4, dtype="float32")  # doctest: +SKIP
    """
    checked = _validation.depth(depth)
    real = REALS.get(np.dtype(dtype).itemsize) if np.dtype(dtype).kind == "f" else None
    if real is None:
        raise ValueError(f"dtype is {dtype!r}: expected float32 or float64")
    made = fused(_validation.static_kernel(static_kernel))
    rule = _validation.quadrature(quadrature)
    nodes = _validation.order(order)
    channels = _validation.dimension(dimension)
    coordinates = None if channels is None else channels - made.dilated
    _require_device()
    from branchsig.backends import for_cupy

    over_devices: Any = for_cupy()
    backend = over_devices.inner
    for kernel in ("forward", "backward") if gradients else ("forward",):
        for instance in _instances(kernel, real, made.name, checked, rule, nodes, coordinates, grid=return_grid):
            backend.function(instance.expression)
    if gradients:
        backend.function(f"sum_over_partners<{real}>")


def _require_device() -> None:
    try:
        import cupy
    except ImportError as error:
        raise ImportError(f"CuPy is not installed ({error}): {_REMEDY}") from error
    if not cupy.is_available():
        raise RuntimeError("CuPy finds no CUDA device: check the driver with nvidia-smi, or keep the paths in NumPy")


def _instances(
    kernel: str,
    real: str,
    static_kernel: str,
    depth: float,
    quadrature: Quadrature,
    order: int | None,
    coordinates: int | None,
    *,
    grid: bool,
) -> Iterator[Instance]:
    """Every instance that problems of a depth, or an order, may need, whatever their lengths."""
    dimensions = ANY_DIMENSION if coordinates is None else (coordinates,)
    if order is not None and depth < order:
        return
    depth, parts = (depth, False) if order is None else (order, True)
    if depth == 0 or LARGEST_DEPTH < depth < math.inf:
        return
    for careful in (False,) if parts else (False, True):
        form = {"grid": grid, "careful": careful, "parts": parts}
        for each in dimensions:
            instance = Instance.widest(kernel, real, static_kernel, depth, quadrature, **form, dimension=each)
            while instance.columns:
                yield instance
                instance = instance.narrower()


class CudaBackend:
    """The CUDA kernels. See `branchsig.backends.Backend` for the methods.

    Parameters
    ----------
    cupy : module
        CuPy, imported by whoever holds an array of it already.

    Raises
    ------
    ImportError
        If this CuPy is too old.
    """

    name = "cuda"

    def __init__(self, cupy: Any) -> None:
        version = cupy.__version__
        if int(version.partition(".")[0]) < _OLDEST_CUPY:
            wanted = f"branchsig needs CuPy {_OLDEST_CUPY} or newer"
            raise ImportError(f"CuPy {version} is installed, and {wanted}: {_REMEDY}")
        self._cupy = cupy
        self._reference = ReferenceBackend()
        self._functions: dict[tuple[int, str], Any] = {}
        self._processors: dict[int, int] = {}
        self.plans: dict[Any, Plan] = {}

    def log_kernel(self, problem: Problem) -> Array:
        """Return log K_depth at the end of both paths."""
        plan = self.plan(problem, grid=False)
        return self._ends(problem, plan, LOGARITHM) if plan.serves else self._reference.log_kernel(problem)

    def kernel(self, problem: Problem) -> Array:
        """Return K_depth at the end of both paths."""
        plan = self.plan(problem, grid=False)
        return self._ends(problem, plan, LAST_LEVEL) if plan.serves else self._reference.kernel(problem)

    def _ends(self, problem: Problem, plan: Plan, content: int) -> Array:
        with _OnDeviceOf(problem.path1):
            if plan.trivial:
                filled = self._cupy.zeros if content == LOGARITHM else self._cupy.ones
                return filled(plan.shape, dtype=plan.dtype)
            sweep = _Sweep(self, problem, plan)
            ends = sweep.room(plan.shape, dtype=plan.dtype)
            for first, count in sweep.chunks():
                increments, _ = sweep.given(first, count)
                sweep.launch("forward", first, count, content, increments, ends, None)
            return ends

    def grid(self, problem: Problem, *, all_levels: bool) -> Array:
        """Return K_depth, its logarithm, or K_0 to K_depth, at every node."""
        plan = self.plan(problem, grid=True)
        if not plan.serves:
            return self._reference.grid(problem, all_levels=all_levels)
        with _OnDeviceOf(problem.path1):
            levels = (int(problem.depth) + 1,) if all_levels else ()
            shape = (*levels, plan.rows + 1, plan.columns + 1)
            if plan.trivial:
                filled = self._cupy.zeros if problem.log_grid else self._cupy.ones
                return filled((*plan.shape, *shape), dtype=plan.dtype)
            content = ALL_LEVELS if all_levels else LOGARITHM if problem.log_grid else LAST_LEVEL
            sweep = _Sweep(self, problem, plan)
            grid = sweep.room((plan.count, *shape), dtype=plan.dtype)
            for first, count in sweep.chunks():
                increments, _ = sweep.given(first, count)
                part = grid[first : first + count]
                sweep.launch("forward", first, count, content, increments, None, part, careful_alone=problem.log_grid)
            return grid.reshape(*plan.shape, *shape)

    def parts(self, problem: Problem, *, grid: bool) -> Array:
        """Return k_0 to k_order at the end of both paths, or at every node."""
        plan = self.plan(problem, grid=grid)
        if not plan.serves:
            return self._reference.parts(problem, grid=grid)
        with _OnDeviceOf(problem.path1):
            shape = (*((plan.rows + 1, plan.columns + 1) if grid else ()), plan.depth + 1)
            if plan.trivial:
                parts = self._cupy.zeros((*plan.shape, *shape), dtype=plan.dtype)
                parts[..., 0] = 1
                return parts
            sweep = _Sweep(self, problem, plan)
            parts = sweep.room((math.prod(plan.shape), *shape), dtype=plan.dtype)
            for first, count in sweep.chunks():
                increments, _ = sweep.given(first, count)
                results = (None, parts[first : first + count]) if grid else (parts, None)
                sweep.launch("forward", first, count, ALL_LEVELS, increments, *results)
            return parts.reshape(*plan.shape, *shape)

    def diagonal(self, problem: Problem) -> Array:
        """Return log K_depth, or k_0 to k_order, of every path up to each of its points with itself."""
        plan = self.plan(problem, grid=True)
        if not plan.serves:
            return self._reference.diagonal(problem)
        with _OnDeviceOf(problem.path1):
            shape = (plan.count, problem.path1.shape[1], *((plan.depth + 1,) if plan.parts else ()))
            if plan.trivial:
                diagonal = self._cupy.zeros(shape, dtype=plan.dtype)
                if plan.parts:
                    diagonal[..., 0] = 1
                return diagonal
            sweep = _Sweep(self, problem, plan)
            diagonal = sweep.room(shape, dtype=plan.dtype)
            for first, count in sweep.chunks():
                increments, _ = sweep.given(first, count)
                part = diagonal[first : first + count]
                alone = not plan.parts
                sweep.launch("forward", first, count, DIAGONAL, increments, None, part, careful_alone=alone)
            return diagonal

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
        """Return the gradients with respect to `path1` and `path2`.

        A `k_stack` is not read: to sweep again takes less time than to fetch depth + 1 grids from memory.
        """
        of_grid = derivs.ndim > (1 if problem.pairing == "paired" else 2) + (problem.order is not None)
        plan, cupy = self.plan(problem, grid=of_grid), self._cupy
        if not plan.serves:
            return self._reference.gradients(problem, derivs, wrt_log=wrt_log, left=left, right=right, k_stack=k_stack)
        with _OnDeviceOf(problem.path1):
            sweep = _Sweep(self, problem, plan)
            room1 = cupy.zeros if plan.trivial else sweep.room
            room2 = cupy.zeros if problem.pairing == "symmetric" else room1  # the second is a part of the first
            d_path1 = room1(problem.path1.shape, dtype=plan.dtype) if left else None
            d_path2 = room2(problem.path2.shape, dtype=plan.dtype) if right else None
            if plan.trivial or not (left or right):
                return d_path1, d_path2
            derivs = cupy.ascontiguousarray(sweep.gathered(derivs) if of_grid else derivs)
            adds = False
            for first, count in sweep.chunks(gradients=True):
                part1, part2 = sweep.pair_gradients(first, count, derivs, d_path1, d_path2, wrt_log=wrt_log)
                if problem.pairing == "symmetric":  # both places hold the same paths
                    sweep.add_up(d_path1, part1, part2, first, count, adds=adds)
                elif problem.pairing == "gram":
                    sweep.add_up(d_path1, part1, None, first, count, adds=adds)
                    sweep.add_up(d_path2, None, part2, first, count, adds=adds)
                adds = True
            return d_path1, d_path2

    def sweeps(self, problem: Problem) -> bool:
        """Tell whether there is anything in a problem that the kernels do."""
        plan = self.plan(problem, grid=False)
        return plan.serves and not plan.trivial

    def plan(self, problem: Problem, *, grid: bool) -> Plan:
        """Return the plan of a problem, which is that of all problems that differ in their values alone."""
        made = fused(problem.static_kernel)
        key = Plan.key_of(problem, made, grid=grid), problem.path1.device.id
        plan = self.plans.get(key)
        if plan is None:
            plan = Plan(self, problem, made, grid=grid)
            if key[0] is not None:
                if len(self.plans) >= _MOST_PLANS:
                    self.plans.clear()
                self.plans[key] = plan
        return plan

    def function(self, expression: str) -> Any:
        """Return a kernel for the current device, compiled on first use."""
        key = (self.device(), expression)
        if key not in self._functions:
            module = self._cupy.RawModule(code=source(), options=("--std=c++17",), name_expressions=(expression,))
            try:
                self._functions[key] = module.get_function(expression)
            except Exception as error:
                raise RuntimeError(
                    f"the CUDA kernel {expression} could not be compiled: {str(error).strip()}. Install a CuPy that "
                    "fits the driver (pip install 'branchsig[cuda12]' or 'branchsig[cuda13]'), or move the paths to "
                    "NumPy"
                ) from error
        return self._functions[key]

    def device(self) -> int:
        """Return the number of the current device."""
        return int(self._cupy.cuda.Device().id)

    def processors(self) -> int:
        """Return the number of multiprocessors of the current device."""
        device = self._cupy.cuda.Device()
        if device.id not in self._processors:
            self._processors[device.id] = int(device.attributes["MultiProcessorCount"])
        return self._processors[device.id]


class _OnDeviceOf:
    """Works on the device of an array, and says what to do where its memory does not suffice."""

    def __init__(self, path: Array) -> None:
        self._device = path.device

    def __enter__(self) -> None:
        self._device.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._device.__exit__(kind, error, trace)
        # The driver sets memory aside for the threads of a kernel, and has an error of its own for it.
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "OUT_OF_MEMORY" in str(error)):
            raise MemoryError(
                f"out of device memory: {error}. Take fewer pairs at a time (max_batch for a Gram matrix), or free "
                "what CuPy holds with cupy.get_default_memory_pool().free_all_blocks()"
            ) from error


class _Sweep:
    """One call: its arrays, and its launches."""

    def __init__(self, backend: CudaBackend, problem: Problem, plan: Plan) -> None:
        self.backend, self.problem, self.plan = backend, problem, plan
        self.cupy = backend._cupy
        self.path1 = self.cupy.ascontiguousarray(problem.path1)
        same = problem.path2 is problem.path1
        self.path2 = self.path1 if same else self.cupy.ascontiguousarray(problem.path2)
        self.lengths1 = self._lengths(problem.lengths1)
        self.lengths2 = self.lengths1 if problem.itself else self._lengths(problem.lengths2)

    def _lengths(self, lengths: np.ndarray | None) -> Array | None:
        """Valid lengths for the kernels."""
        return None if lengths is None else self.cupy.asarray(lengths.astype(np.int32))

    @property
    def room(self) -> Any:
        """What makes an array for results: 0 where they are not those of the share of the pairs that is to be done."""
        return self.cupy.empty if self.problem.share == (0, 1) else self.cupy.zeros

    def chunks(self, *, gradients: bool = False) -> Iterator[tuple[int, int]]:
        """The pairs in runs of (first, count), each reported once it is on its way to the device."""
        problem, total = self.problem, self.plan.count
        size = self.plan.chunk(gradients=gradients)
        if problem.progress is not None:
            size = min(size, -(-total // 32))
        if problem.max_batch > 0:
            size = min(size, problem.max_batch**2)
        share, shares = problem.share
        start, stop = total * share // shares, total * (share + 1) // shares
        for first in range(start, stop, size):
            count = min(size, stop - first)
            yield first, count
            if problem.progress is not None:
                problem.progress(first + count, total)

    def index(self, first: int, count: int) -> tuple[Array, Array]:
        """Places of the two paths of every pair of a chunk."""
        cupy = self.cupy
        k = cupy.arange(first, first + count, dtype=np.int64)
        if self.plan.pairing == "paired":
            return k, k
        if self.plan.pairing == "gram":
            n2 = self.path2.shape[0]
            return k // n2, k % n2
        i = ((cupy.sqrt(8.0 * k + 1.0) - 1.0) / 2.0).astype(np.int64)
        i = i - (i * (i + 1) // 2 > k) + ((i + 1) * (i + 2) // 2 <= k)  # the root may be off by one unit
        return i, k - i * (i + 1) // 2

    def given(self, first: int, count: int) -> tuple[Array | None, Any]:
        """Increments of a static kernel that the CUDA kernels do not know, of the pairs of a chunk; their context."""
        if self.plan.static_kernel != GIVEN:
            return None, None
        problem, ctx = self.problem, kernels.Context()
        index1, index2 = self.index(first, count)
        points1, points2 = filled(self.path1, problem.lengths1)[index1], filled(self.path2, problem.lengths2)[index2]
        made = kernels.increments(problem.static_kernel, ctx, points1, points2)
        return self.cupy.ascontiguousarray(made), ctx

    def launch(
        self,
        kernel: str,
        first: int,
        count: int,
        kind: int,
        increments: Array | None,
        *results: Array | None,
        careful_alone: bool = False,
    ) -> None:
        """Run a kernel on a chunk of pairs, and its careful form on those of them that it flags, or on all of them.

        `kind` is the content of the results, or whether derivatives are those of logarithms.
        """
        cupy = self.cupy
        launches = self.plan.launches(kernel, count, kind, careful_alone=careful_alone)
        workspace = cupy.cuda.alloc(launches.workspace_bytes)
        flags = None if careful_alone else cupy.cuda.alloc(4 * count)
        arrays = self.path1, self.path2, increments, self.lengths1, self.lengths2
        for one in launches.kernels:
            progress = cupy.zeros((1 + one.turns,), dtype=np.int32) if one.turns else None
            arguments = (*arrays, one.from_pair(first), workspace, progress, flags, *results)
            one.function(one.blocks, one.threads, arguments)

    def pair_gradients(
        self, first: int, count: int, derivs: Array, d_path1: Array | None, d_path2: Array | None, *, wrt_log: bool
    ) -> tuple[Array | None, Array | None]:
        """Gradients of every pair of a chunk: written into the results where pairs are paired, returned otherwise."""
        cupy = self.cupy
        paired, symmetric = self.plan.pairing == "paired", self.plan.pairing == "symmetric"

        def room(total: Array | None, path: Array) -> Array | None:
            if total is None:
                return None
            if not paired:
                return cupy.empty((count, *path.shape[1:]), dtype=self.plan.dtype)
            return total if count == self.plan.count else total[first : first + count]

        gradient1 = room(d_path1, self.path1)
        gradient2 = room(d_path1 if symmetric else d_path2, self.path2)
        increments, ctx = self.given(first, count)
        if increments is None:
            self.launch("backward", first, count, wrt_log, None, derivs, gradient1, gradient2, None)
            return gradient1, gradient2
        d_increments = cupy.empty(increments.shape, dtype=self.plan.dtype)
        index1, index2 = self.index(first, count)
        if symmetric:
            # The two places have weights of their own, so the sweep runs with ones.
            weights1 = derivs[index1, index2]
            weights2 = cupy.where(index1 == index2, 0.0, derivs[index2, index1]).astype(self.plan.dtype)
            ones = cupy.ones(self.plan.shape, dtype=self.plan.dtype)
            self.launch("backward", first, count, wrt_log, increments, ones, None, None, d_increments)
        else:
            # The sweep has the derivatives, and what is left are the pairs that have none.
            of_pairs = derivs.reshape(math.prod(self.plan.shape), -1)[first : first + count]
            weights1 = weights2 = (of_pairs != 0.0).any(axis=1).astype(self.plan.dtype)
            self.launch("backward", first, count, wrt_log, increments, derivs, None, None, d_increments)
        static_kernel = self.problem.static_kernel
        if gradient1 is not None:
            made = kernels.gradient_x(static_kernel, ctx, d_increments, self.path1[index1])
            gradient1[...] = self.unpadded(weighted(weights1[:, None, None], made), self.lengths1, index1)
        if gradient2 is not None:
            made = kernels.gradient_y(static_kernel, ctx, d_increments, self.path2[index2])
            gradient2[...] = self.unpadded(weighted(weights2[:, None, None], made), self.lengths2, index2)
        return gradient1, gradient2

    def unpadded(self, gradients: Array, lengths: Array | None, index: Array) -> Array:
        """Gradients with zeros behind the valid points."""
        if lengths is None:
            return gradients
        valid = self.cupy.arange(0, gradients.shape[1])[None, :] < lengths[index][:, None]
        return self.cupy.where(valid[:, :, None], gradients, 0.0)

    def gathered(self, derivs: Array) -> Array:
        """Derivatives at the nodes of grids, those at padded nodes added to those at the valid nodes they repeat."""
        cupy, problem = self.cupy, self.problem
        for side, lengths in enumerate((self.lengths1, self.lengths2)):
            if lengths is None:
                continue
            axis = len(self.plan.shape) + side
            shape = [1] * derivs.ndim
            shape[0 if self.plan.pairing == "paired" else side] = lengths.shape[0]
            last = ((lengths - 1) << problem.dyadic_order[side]).reshape(shape)
            shape = [1] * derivs.ndim
            shape[axis] = derivs.shape[axis]
            node = cupy.arange(0, derivs.shape[axis]).reshape(shape)
            behind = cupy.where(node < last, 0.0, derivs).sum(axis=axis, keepdims=True)
            derivs = cupy.where(node < last, derivs, cupy.where(node == last, behind, 0.0)).astype(self.plan.dtype)
        return derivs

    def add_up(
        self, total: Array | None, firsts: Array | None, seconds: Array | None, first: int, count: int, *, adds: bool
    ) -> None:
        """Sum, or add, the gradients of a chunk of pairs to those of their first and second paths, pair after pair."""
        if total is None:
            return
        size = math.prod(total.shape[1:])
        threads = 256
        blocks = min(-(-total.shape[0] * size // threads), 2**16)
        function = self.backend.function(f"sum_over_partners<{REALS[self.plan.dtype.itemsize]}>")
        integers = (*self.plan.shape, first, count, size)
        kinds = (np.int32(PAIRINGS[self.plan.pairing]), np.int32(adds))
        arguments = (firsts, seconds, total, *kinds, *(np.int64(value) for value in integers))
        function((blocks,), (threads,), arguments)
