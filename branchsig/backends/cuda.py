"""CUDA for CuPy arrays: picks, compiles and launches the kernels of `raw_kernels`, on the device of the arrays.

A `Problem` on CuPy arrays comes in; logarithms of kernels, grids or gradients go out, computed on CuPy's current
stream. A warp owns a pair of paths at a time, or a team of warps where there are few, or half of one where there are
many of short paths; a few pairs of long paths go from team to team. So memory beyond the result is that of the pairs in
flight, O(depth · (length1 + length2)) each; the gradients without truncation keep K at every node where it fits, and
otherwise at those of as many columns as a team has. Pairs whose kernels leave the range of the running products are
done again in float64 in the log domain, by kernels that find them on the device: the host never waits. What the kernels
cannot do is left to the reference, in CuPy's own namespace.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from branchsig import _validation
from branchsig import static_kernels as kernels
from branchsig._arrays import Array, filled
from branchsig.backends._instances import (
    ANY_DIMENSION,
    CHANNELS,
    GIVEN,
    INTEGERS,
    REALS,
    Instance,
    depth_of,
    fused,
    source,
    task_type,
    weights_of,
)
from branchsig.backends.reference import ReferenceBackend
from branchsig.quadrature import Quadrature

if TYPE_CHECKING:
    from branchsig.backends import Problem

__all__ = ["CudaBackend", "Instance", "source", "warm_up"]

_PAIRINGS = {"paired": 0, "gram": 1, "symmetric": 2}

_LARGEST_DEPTH = 15
"""Beyond it the reference serves; MOST_LEVELS in sweep.cuh holds one level more, for grids."""

_LONGEST_SIDE = 2**28
"""Refined cells along a path are counted in 32 bits."""

_LONGEST_TEAM = 8
_RELAY_TEAM = 4
"""Warps of the teams that relay a pair, if not more are needed: one for every scheduler of a multiprocessor."""

_MOST_STAGES = 2**24
"""Stages of all pairs that are relayed; how far each has come is kept in memory."""

_WARPS_PER_BLOCK, _MOST_TEAMS = 4, 8
_WARPS_PER_PROCESSOR = 16

_PAIRS_PER_PROCESSOR = 16
"""So many pairs to a multiprocessor may be done by halves of warps."""

_STEPS_OF_A_PASS = 3
"""What it costs to begin and end a pass, in steps."""

_WORKSPACE_BYTES = 2**28
"""Memory for the workspaces of the pairs in flight."""

_CHUNK_BYTES = 2**28
"""Memory for what a chunk of pairs hands on: increments of a user's own kernel, or gradients to be summed."""

_MOST_PLANS = 1024
"""Plans that a backend remembers."""

_NULL = np.int64(0)

_LAST_LEVEL, _ALL_LEVELS, _LOGARITHM = range(3)
"""What a grid holds, as in sweep.cuh."""


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
        Compile the kernels for the truncation by this number of nodes, in the place of those for a depth.
    dimension : int, optional
        The number of channels of the paths; the kernels for any number if None, which are up to three times as many.

    Raises
    ------
    ImportError
        If CuPy is not installed.
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
        raise ImportError(
            f"CuPy is not installed ({error}): pip install 'branchsig[cuda12]', or 'branchsig[cuda13]' for CUDA 13"
        ) from error
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
    depth, parts = (depth, False) if order is None else (order, True)
    if depth == 0 or _LARGEST_DEPTH < depth < math.inf:
        return
    for careful in (False, True) if not parts and depth > (not grid) else (False,):
        form = {"grid": grid, "careful": careful, "parts": parts}
        for each in dimensions:
            instance = Instance.widest(kernel, real, static_kernel, depth, quadrature, **form, dimension=each)
            while instance.columns:
                yield instance
                instance = instance.narrower()


def _aligned(values: int) -> int:
    """Round a number of values up, so that what stands behind them can be read by groups of channels."""
    return -(-values // (2 * CHANNELS)) * (2 * CHANNELS)


@dataclasses.dataclass(frozen=True)
class _Launch:
    """How many teams of how many lanes and warps run an instance, and the values of work for each pair in flight.

    Of kernels without truncation the way back has the values of one pass in memory, or of all. A pair is done by a
    team, or relayed through so many `stages` from team to team.
    """

    lanes: int
    warps: int
    teams: int
    pairs: int
    workspace: int
    by_pass: bool = False
    stages: int = 0

    @property
    def teams_per_block(self) -> int:
        per_warp = 32 // self.lanes
        warps = min(-(-self.teams // per_warp), _WARPS_PER_BLOCK, _MOST_TEAMS // per_warp)
        return 1 if self.warps > 1 or self.stages else warps * per_warp

    @property
    def blocks(self) -> int:
        return -(-self.teams // self.teams_per_block)

    @property
    def threads(self) -> int:
        return self.lanes * self.warps * self.teams_per_block

    @property
    def in_flight(self) -> int:
        """Pairs that have a workspace at a time."""
        return self.pairs if self.stages else self.blocks * self.teams_per_block


class _Prepared(NamedTuple):
    """A kernel that is ready to be launched, but for its arrays."""

    function: Any
    blocks: int
    threads: int
    workspace_bytes: int
    turns: int  # of pairs that are relayed
    task: np.ndarray
    argument: np.ndarray  # the task as bytes: CuPy takes long over a structure with fields

    def from_pair(self, first: int) -> np.ndarray:
        """Return the argument for pairs from one on."""
        if first == 0:
            return self.argument
        task = self.task.copy()
        task["first_pair"] = first
        return _as_bytes(task)


def _as_bytes(task: np.ndarray) -> np.ndarray:
    return task.view(np.dtype((np.void, task.itemsize)))


class CudaBackend:
    """The CUDA kernels. See `branchsig.backends.Backend` for the methods.

    Parameters
    ----------
    cupy : module
        CuPy, imported by whoever holds an array of it already.
    """

    name = "cuda"

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._reference = ReferenceBackend()
        self._functions: dict[tuple[int, str], Any] = {}
        self._processors: dict[int, int] = {}
        self.plans: dict[Any, list[_Prepared]] = {}

    def log_kernel(self, problem: Problem) -> Array:
        """Return log K_depth at the end of both paths."""
        if not _serves(problem):
            return self._reference.log_kernel(problem)
        with self._on_device_of(problem.path1):
            sweep = _Sweep(self, problem, grid=False)
            if sweep.trivial:
                return self._cupy.zeros(sweep.shape, dtype=sweep.dtype)
            log_k = sweep.room(sweep.shape)
            for first, count in sweep.chunks():
                increments, _ = sweep.given(first, count)
                sweep.launch("forward", first, count, _LAST_LEVEL, increments, log_k, _NULL)
            return log_k

    def grid(self, problem: Problem, *, all_levels: bool) -> Array:
        """Return K_depth, its logarithm, or K_0 to K_depth, at every node."""
        if not _serves(problem):
            return self._reference.grid(problem, all_levels=all_levels)
        with self._on_device_of(problem.path1):
            sweep = _Sweep(self, problem, grid=True)
            levels = (int(problem.depth) + 1,) if all_levels else ()
            shape = (*levels, sweep.rows + 1, sweep.columns + 1)
            if sweep.trivial:
                filled = self._cupy.zeros if problem.log_grid else self._cupy.ones
                return filled((*sweep.shape, *shape), dtype=sweep.dtype)
            content = _ALL_LEVELS if all_levels else _LOGARITHM if problem.log_grid else _LAST_LEVEL
            grid = sweep.room((sweep.count, *shape))
            for first, count in sweep.chunks():
                increments, _ = sweep.given(first, count)
                part = grid[first : first + count]
                sweep.launch("forward", first, count, content, increments, _NULL, part, careful_alone=problem.log_grid)
            return grid.reshape(*sweep.shape, *shape)

    def parts(self, problem: Problem, *, grid: bool) -> Array:
        """Return k_0 to k_order at the end of both paths, or at every node."""
        if not _serves(problem):
            return self._reference.parts(problem, grid=grid)
        with self._on_device_of(problem.path1):
            sweep = _Sweep(self, problem, grid=grid)
            shape = (*((sweep.rows + 1, sweep.columns + 1) if grid else ()), sweep.depth + 1)
            if sweep.trivial:
                parts = self._cupy.zeros((*sweep.shape, *shape), dtype=sweep.dtype)
                parts[..., 0] = 1
                return parts
            parts = sweep.room((math.prod(sweep.shape), *shape))
            for first, count in sweep.chunks():
                increments, _ = sweep.given(first, count)
                results = (_NULL, parts[first : first + count]) if grid else (parts, _NULL)
                sweep.launch("forward", first, count, _ALL_LEVELS, increments, *results)
            return parts.reshape(*sweep.shape, *shape)

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
        if not _serves(problem):
            return self._reference.gradients(problem, derivs, wrt_log=wrt_log, left=left, right=right, k_stack=k_stack)
        cupy = self._cupy
        with self._on_device_of(problem.path1):
            of_grid = derivs.ndim > (1 if problem.pairing == "paired" else 2) + (problem.order is not None)
            sweep = _Sweep(self, problem, grid=of_grid)
            d_path1 = cupy.zeros(problem.path1.shape, dtype=sweep.dtype) if left else None
            d_path2 = cupy.zeros(problem.path2.shape, dtype=sweep.dtype) if right else None
            if sweep.trivial or not (left or right):
                return d_path1, d_path2
            derivs = cupy.ascontiguousarray(sweep.gathered(derivs) if of_grid else derivs)
            for first, count in sweep.chunks(gradients=True):
                gradients = sweep.pair_gradients(first, count, derivs, d_path1, d_path2, wrt_log=wrt_log)
                if problem.pairing == "paired":
                    continue
                for second, (total, part) in enumerate(zip((d_path1, d_path2), gradients, strict=True)):
                    if part is not None:
                        # Both places of a symmetric problem hold the same paths.
                        sweep.add_up(part, d_path1 if total is None else total, first, count, second=bool(second))
            return d_path1, d_path2

    def sweeps(self, problem: Problem) -> bool:
        """Tell whether there is anything in a problem that the kernels do."""
        moving = all(path.shape[0] > 0 and path.shape[1] > 1 for path in (problem.path1, problem.path2))
        return moving and _serves(problem) and problem.depth != 0 and problem.order != 0

    def function(self, expression: str) -> Any:
        """Return a kernel for the current device, compiled on first use."""
        key = (self.device(), expression)
        if key not in self._functions:
            module = self._cupy.RawModule(code=source(), options=("--std=c++17",), name_expressions=(expression,))
            try:
                self._functions[key] = module.get_function(expression)
            except Exception as error:
                raise RuntimeError(
                    f"the CUDA kernel {expression} could not be compiled: {error}. Install a CuPy that fits the driver "
                    "(pip install 'branchsig[cuda12]' or 'branchsig[cuda13]'), or move the paths to NumPy"
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

    @contextlib.contextmanager
    def _on_device_of(self, path: Array) -> Iterator[None]:
        """Work on the device of an array, and say what to do where its memory does not suffice."""
        try:
            with path.device:
                yield
        except (MemoryError, RuntimeError) as error:
            # The driver sets memory aside for the threads of a kernel, and has an error of its own for it.
            if not isinstance(error, MemoryError) and "OUT_OF_MEMORY" not in str(error):
                raise
            raise MemoryError(
                f"out of device memory: {error}. Take fewer pairs at a time (max_batch for a Gram matrix), or free "
                "what CuPy holds with cupy.get_default_memory_pool().free_all_blocks()"
            ) from error


def _serves(problem: Problem) -> bool:
    """Tell whether the kernels serve a problem; if not, the reference does."""
    sides = [(p.shape[1] - 1) << order for p, order in zip((problem.path1, problem.path2), problem.dyadic_order)]
    return (depth_of(problem) <= _LARGEST_DEPTH or depth_of(problem) == math.inf) and max(sides) < _LONGEST_SIDE


class _Sweep:
    """One call: its sizes, its chunks of pairs, and its launches."""

    def __init__(self, backend: CudaBackend, problem: Problem, *, grid: bool) -> None:
        self.backend = backend
        self.cupy = backend._cupy
        # A grid is that of (x, y) in this order, so it is not mirrored.
        self.pairing = "gram" if grid and problem.pairing == "symmetric" else problem.pairing
        self.problem = problem
        self.path1 = self.cupy.ascontiguousarray(problem.path1)
        same = problem.path2 is problem.path1
        self.path2 = self.path1 if same else self.cupy.ascontiguousarray(problem.path2)
        self.lengths1 = self._lengths(problem.lengths1)
        self.lengths2 = self.lengths1 if problem.itself else self._lengths(problem.lengths2)
        self.grid = grid
        self.dtype = np.dtype(problem.path1.dtype)
        self.rows = int(self.path1.shape[1] - 1) << problem.dyadic_order[0]
        self.columns = int(self.path2.shape[1] - 1) << problem.dyadic_order[1]
        n1, n2 = self.path1.shape[0], self.path2.shape[0]
        self.shape = (n1,) if self.pairing == "paired" else (n1, n2)
        self.count = n1 * (n1 + 1) // 2 if self.pairing == "symmetric" else math.prod(self.shape)
        untruncated = depth_of(problem) == math.inf
        self.depth = 1 if untruncated else int(depth_of(problem))
        self.levels = self.depth - (not grid and not untruncated and problem.order is None)
        made = fused(problem.static_kernel)
        self.static_kernel, self.parameters, self.dilated = made
        self.padded = problem.lengths1 is not None or problem.lengths2 is not None
        # all that the kernels depend on beside the values
        shapes = self.path1.shape, self.path2.shape
        rules = problem.depth, problem.order, problem.quadrature, problem.dyadic_order
        self.form = (self.pairing, grid, self.dtype, shapes, rules, made)

    def _lengths(self, lengths: np.ndarray | None) -> Array:
        """Valid lengths for the kernels, null where nothing is padded."""
        return _NULL if lengths is None else self.cupy.asarray(lengths.astype(np.int32))

    @property
    def trivial(self) -> bool:
        """Nothing to sweep: no pairs, a path that does not move, or no level."""
        return self.count == 0 or self.rows == 0 or self.columns == 0 or self.depth == 0

    def room(self, shape: tuple[int, ...]) -> Array:
        """An array for results, 0 where they are not those of the share of the pairs that is to be done."""
        return (self.cupy.empty if self.problem.share == (0, 1) else self.cupy.zeros)(shape, dtype=self.dtype)

    def chunks(self, *, gradients: bool = False) -> Iterator[tuple[int, int]]:
        """The pairs in runs of (first, count), each reported once it is on its way to the device."""
        problem, size = self.problem, self.count
        if self.static_kernel == GIVEN:
            # The points a kernel of the user's own works with are several arrays of this size.
            size = min(size, _CHUNK_BYTES // (8 * self.dtype.itemsize * self.path1.shape[1] * self.path2.shape[1]))
        if gradients and self.pairing != "paired":
            points = (self.path1.shape[1] + self.path2.shape[1]) * self.path1.shape[2]
            size = min(size, _CHUNK_BYTES // (self.dtype.itemsize * points))
        if problem.progress is not None:
            size = min(size, -(-self.count // 32))
        if problem.max_batch > 0:
            size = min(size, problem.max_batch**2)
        size = max(size, 1)
        share, shares = problem.share
        start, stop = self.count * share // shares, self.count * (share + 1) // shares
        for first in range(start, stop, size):
            count = min(size, stop - first)
            yield first, count
            if problem.progress is not None:
                problem.progress(first + count, self.count)

    def index(self, first: int, count: int) -> tuple[Array, Array]:
        """Places of the two paths of every pair of a chunk."""
        cupy = self.cupy
        k = cupy.arange(first, first + count, dtype=np.int64)
        if self.pairing == "paired":
            return k, k
        if self.pairing == "gram":
            n2 = self.path2.shape[0]
            return k // n2, k % n2
        i = ((cupy.sqrt(8.0 * k + 1.0) - 1.0) / 2.0).astype(np.int64)
        i = i - (i * (i + 1) // 2 > k) + ((i + 1) * (i + 2) // 2 <= k)  # the root may be off by one unit
        return i, k - i * (i + 1) // 2

    def given(self, first: int, count: int) -> tuple[Array, kernels.Context]:
        """Increments of a static kernel that the CUDA kernels do not know, of the pairs of a chunk."""
        ctx = kernels.Context()
        if self.static_kernel != GIVEN:
            return _NULL, ctx
        problem = self.problem
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
        increments: Array,
        *results: Any,
        careful_alone: bool = False,
    ) -> None:
        """Run a kernel on a chunk of pairs, and its careful form on those of them that it flags, or on all of them.

        `kind` is the content of a grid, or whether derivatives are those of logarithms.
        """
        flags = (self.cupy.ones if careful_alone else self.cupy.empty)((count,), dtype=np.int32)
        prepared = self.prepared(kernel, count, kind, careful_alone=careful_alone)
        workspace = self.cupy.empty((max(one.workspace_bytes for one in prepared),), dtype=np.int8)
        paths = (self.path1, self.path2, increments, self.lengths1, self.lengths2)
        for one in prepared:
            progress = self.cupy.zeros((1 + one.turns,), dtype=np.int32) if one.turns else _NULL
            arguments = (*paths, one.from_pair(first), workspace, progress, flags, *results)
            one.function((one.blocks,), (one.threads,), arguments)

    def prepared(self, kernel: str, count: int, kind: int, *, careful_alone: bool) -> list[_Prepared]:
        """Return the kernels to be launched; they are the same for all problems that differ in their values alone."""
        limits = (self.backend.device(), _LONGEST_TEAM, _RELAY_TEAM, _WORKSPACE_BYTES, _PAIRS_PER_PROCESSOR)
        key = None if self.padded else (kernel, count, kind, careful_alone, limits, self.form)
        plans = self.backend.plans
        if key is not None and key in plans:
            return plans[key]
        has_careful = self.levels and self.problem.order is None
        forms = (True,) if careful_alone else (False, True) if has_careful else (False,)
        made = [
            self.prepare(kernel, count, kind, *strips)
            for careful in forms
            for strips in self.strips(kernel, careful=careful)
        ]
        if key is not None:
            if len(plans) >= _MOST_PLANS:
                plans.clear()
            plans[key] = made
        return made

    def prepare(
        self, kernel: str, count: int, kind: int, instance: Instance, lanes: int, fewest: int, most: int
    ) -> _Prepared:
        """Plan the launch of an instance."""
        problem = self.problem
        launch = self.planned(instance, lanes, count, min(self.columns, most))
        weights = weights_of(problem.quadrature)
        task = np.zeros(1, dtype=task_type(weights.size))
        sizes = (self.path1.shape[1], self.path2.shape[1], self.path1.shape[2], *problem.dyadic_order, self.depth)
        teams = launch.warps, launch.lanes, launch.stages, launch.by_pass
        kinds = (kind, 0) if kernel == "forward" else (0, kind)
        integers = (*sizes, self.dilated, _PAIRINGS[self.pairing], fewest, most, *teams, *kinds)
        for name, value in zip(INTEGERS, integers, strict=True):
            task[name] = value
        task["n2"], task["pairs"], task["turns"] = self.path2.shape[0], count, count * max(launch.stages, 1)
        task["workspace_size"] = launch.workspace
        task["parameter"], task["weights"] = self.parameters, weights
        # One value at least: an array without memory has no address.
        size = launch.in_flight * launch.workspace + 1
        size *= 8 if instance.work == "double" else 4
        function = self.backend.function(instance.expression)
        return _Prepared(function, launch.blocks, launch.threads, size, count * launch.stages, task, _as_bytes(task))

    def strips(self, kernel: str, *, careful: bool) -> Iterator[tuple[Instance, int, int, int]]:
        """Instances, the lanes of their teams, and the columns of their pairs: more than the third, at most the fourth.

        A padded pair gets the strips of a pair that is as short.
        """
        instance = Instance.for_problem(kernel, self.problem, grid=self.grid, careful=careful)
        if self.problem.lengths2 is None:
            yield *self.fitted(instance, self.columns), -1, 2**31 - 1
            return
        most: dict[Instance, int] = {}
        for length in np.unique(self.problem.lengths2):
            columns = int(length - 1) << self.problem.dyadic_order[1]
            most[self.fitted(instance, columns)[0]] = columns
        fewest = -1
        for narrowest, columns in most.items():
            yield narrowest, 32, fewest, columns
            fewest = columns

    def fitted(self, instance: Instance, columns: int) -> tuple[Instance, int]:
        """Choose strips for a number of columns and that of the pairs, and the lanes of a team.

        No wider than a warp needs them, nor so wide that few pairs leave the device without work. Many pairs are done
        by halves of warps where that saves steps, for every lane waits for those before it.
        """
        processors = self.backend.processors()
        if instance.divides and self.count >= _PAIRS_PER_PROCESSOR * processors:
            choices = [(instance.covering(columns, lanes), lanes) for lanes in (32, 16)]
            whole, half = (self.work(strips, lanes, columns) for strips, lanes in choices)
            return choices[half < 0.95 * whole]
        instance = instance.covering(columns, 32)
        while instance.columns > 1:
            parts = -(-columns // instance.span)
            if parts >= _LONGEST_TEAM or parts * self.count >= 2 * processors:
                break
            instance = instance.narrower()
        return instance, 32

    def work(self, instance: Instance, lanes: int, columns: int) -> int:
        """Return about the work of a pair; a step of a lane costs as much as a column of its strip beside the strip."""
        passes = -(-columns // (lanes * instance.columns))
        steps = self.rows + instance.lag(self.levels) + lanes + _STEPS_OF_A_PASS
        return passes * steps * lanes * (instance.columns + 1)

    def planned(self, instance: Instance, lanes: int, count: int, columns: int) -> _Launch:
        """Choose the teams that fill the device, as far as the workspace and `max_batch` allow."""
        processors = self.backend.processors()
        room = _WORKSPACE_BYTES // (8 if instance.work == "double" else 4)
        relayed = self.relayed(instance, count, columns, room) if lanes == 32 else None
        if relayed is not None:
            return relayed
        warps = 1
        longest = min(_LONGEST_TEAM, 8 * processors // count) if lanes == 32 else 1
        while 2 * warps <= longest and warps * instance.span < columns:
            warps *= 2
        wanted = min(count, max(1, processors * _WARPS_PER_PROCESSOR * 32 // (lanes * warps)))

        workspace = self.workspace(instance, lanes, warps)
        by_pass = False
        if wanted * workspace > room:
            # Another sweep down costs less than processors without work.
            of_a_pass = self.workspace(instance, lanes, warps, by_pass=True)
            by_pass, workspace = of_a_pass < workspace, min(of_a_pass, workspace)
        return _Launch(lanes, warps, min(wanted, max(1, room // max(1, workspace))), count, workspace, by_pass)

    def relayed(self, instance: Instance, count: int, columns: int, room: int) -> _Launch | None:
        """Relay pairs that are so few that this gives more processors work, and more than a column for every lane."""
        processors = self.backend.processors()
        warps, parts = _RELAY_TEAM, -(-columns // instance.span)
        while warps < _LONGEST_TEAM and -(-parts // warps) * count > processors:
            warps *= 2
        passes = -(-parts // warps)
        stages = passes * (2 if instance.kernel == "backward" else 1)
        short = columns <= 32 * _LONGEST_TEAM
        workspace = _aligned(self.workspace(instance, 32, warps) + 2 * stages)
        if short or passes == 1 or 2 * count > processors or count * stages > _MOST_STAGES or count * workspace > room:
            return None
        return _Launch(32, warps, min(count * passes, processors), count, workspace, stages=stages)

    def workspace(self, instance: Instance, lanes: int, warps: int, *, by_pass: bool = False) -> int:
        """Return the values of work a pair in flight needs; the kernels lay them out in this order."""
        levels, dimension = self.levels, int(self.path1.shape[2])
        length1, length2 = int(self.path1.shape[1]), int(self.path2.shape[1])
        groups = 0 if self.static_kernel == GIVEN else -(-max(dimension - self.dilated, 1) // instance.channels)
        channels = groups * instance.channels
        # Rows of points are laid out by blocks of 32; the two factors of a dilated kernel come last.
        rows1, rows2 = (-(-(length + 1) // 32) * 32 for length in (length1, length2))
        paths = channels * (rows1 + rows2)
        handed_on = (self.rows + instance.lag(levels)) * instance.handed_on * levels
        if instance.kernel == "forward":
            return _aligned(paths + handed_on)
        parts = (self.columns - 1) // (lanes * instance.columns) + 1
        return _aligned(
            paths
            + channels * (rows1 + lanes * parts * instance.slots)
            + handed_on
            + levels * instance.kept(self.rows, self.columns, warps, by_pass=by_pass)
            + parts
            + 2
        )

    def pair_gradients(
        self, first: int, count: int, derivs: Array, d_path1: Array | None, d_path2: Array | None, *, wrt_log: bool
    ) -> tuple[Array | None, Array | None]:
        """Gradients of every pair of a chunk: written into the results where pairs are paired, returned otherwise."""
        cupy, part = self.cupy, slice(first, first + count)
        paired, symmetric = self.pairing == "paired", self.pairing == "symmetric"

        def room(total: Array | None, path: Array) -> Array | None:
            if total is None:
                return None
            return total[part] if paired else cupy.empty((count, *path.shape[1:]), dtype=self.dtype)

        gradient1 = room(d_path1, self.path1)
        gradient2 = room(d_path1 if symmetric else d_path2, self.path2)
        increments, ctx = self.given(first, count)
        if self.static_kernel != GIVEN:
            results = (_NULL if g is None else g for g in (gradient1, gradient2))
            self.launch("backward", first, count, wrt_log, increments, derivs, *results, _NULL)
            return gradient1, gradient2
        d_increments = cupy.empty(increments.shape, dtype=self.dtype)
        index1, index2 = self.index(first, count)
        if symmetric:
            # The two places have weights of their own, so the sweep runs with ones.
            weights1 = derivs[index1, index2]
            weights2 = cupy.where(index1 == index2, 0.0, derivs[index2, index1]).astype(self.dtype)
            ones = cupy.ones(self.shape, dtype=self.dtype)
            self.launch("backward", first, count, wrt_log, increments, ones, _NULL, _NULL, d_increments)
        else:
            weights1 = weights2 = cupy.ones((count,), dtype=self.dtype)
            self.launch("backward", first, count, wrt_log, increments, derivs, _NULL, _NULL, d_increments)
        static_kernel = self.problem.static_kernel
        if gradient1 is not None:
            made = kernels.gradient_x(static_kernel, ctx, d_increments, self.path1[index1])
            gradient1[...] = self.unpadded(made * weights1[:, None, None], self.lengths1, index1)
        if gradient2 is not None:
            made = kernels.gradient_y(static_kernel, ctx, d_increments, self.path2[index2])
            gradient2[...] = self.unpadded(made * weights2[:, None, None], self.lengths2, index2)
        return gradient1, gradient2

    def unpadded(self, gradients: Array, lengths: Array, index: Array) -> Array:
        """Gradients with zeros behind the valid points."""
        if lengths is _NULL:
            return gradients
        valid = self.cupy.arange(0, gradients.shape[1])[None, :] < lengths[index][:, None]
        return self.cupy.where(valid[:, :, None], gradients, 0.0)

    def gathered(self, derivs: Array) -> Array:
        """Derivatives at the nodes of grids, those at padded nodes added to those at the valid nodes they repeat."""
        cupy, problem = self.cupy, self.problem
        for side, lengths in enumerate((self.lengths1, self.lengths2)):
            if lengths is _NULL:
                continue
            axis = len(self.shape) + side
            shape = [1] * derivs.ndim
            shape[0 if self.pairing == "paired" else side] = lengths.shape[0]
            last = ((lengths - 1) << problem.dyadic_order[side]).reshape(shape)
            shape = [1] * derivs.ndim
            shape[axis] = derivs.shape[axis]
            node = cupy.arange(0, derivs.shape[axis]).reshape(shape)
            behind = cupy.where(node < last, 0.0, derivs).sum(axis=axis, keepdims=True)
            derivs = cupy.where(node < last, derivs, cupy.where(node == last, behind, 0.0)).astype(self.dtype)
        return derivs

    def add_up(self, gradients: Array, total: Array, first: int, count: int, *, second: bool) -> None:
        """Add the gradients of a chunk of pairs to those of their first (or second) paths, pair after pair."""
        size = math.prod(total.shape[1:])
        threads = 256
        blocks = min(-(-total.shape[0] * size // threads), 2**16)
        function = self.backend.function(f"sum_over_partners<{REALS[self.dtype.itemsize]}>")
        integers = (*self.shape, first, count, size)
        sides = (np.int32(_PAIRINGS[self.pairing]), np.int32(second))
        function((blocks,), (threads,), (gradients, total, *sides, *(np.int64(value) for value in integers)))
