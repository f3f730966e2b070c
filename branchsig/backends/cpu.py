"""The compiled core for NumPy arrays: packs its arguments, splits the pairs over threads, and collects the results.

A `Problem` on NumPy arrays comes in. The core (``c_src``) sweeps tiles of pairs by running products; the few pairs whose
kernels leave the range of those are swept again in the log domain, in float64. Memory beyond the result is a workspace of
O(depth · length2) a thread. Increments of a static kernel of the user's own are computed in blocks of bounded size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from branchsig import static_kernels as kernels
from branchsig._core import ffi, lib
from branchsig.backends import _schedule

if TYPE_CHECKING:
    from branchsig.backends import Problem

__all__ = ["CpuBackend", "available", "instruction_set", "instruction_sets", "set_instruction_set"]

_BLOCK_BYTES = 32 * 2**20
"""Memory for the increments of a user's own kernel, or for the derivatives of grids, that are handed in at once."""

_INLINE_NODES = 2e7
"""Up to so many nodes times levels a single job runs in the calling thread: a few milliseconds."""

_JOB_NODES = 1e6
"""Nodes times levels that a job of several has at least: enough to outweigh its overhead."""

_GIVEN = 0
_FUSED: dict[type, tuple[int, Callable[[Any], tuple[float, ...]]]] = {
    kernels.LinearKernel: (1, lambda k: (1.0,)),
    kernels.ScaledLinearKernel: (1, lambda k: (k.scale**2,)),
    kernels.PolynomialKernel: (2, lambda k: (k.degree, k.gamma, k.scale)),
    kernels.RBFKernel: (3, lambda k: (k.sigma,)),
    kernels.Matern12Kernel: (4, lambda k: (k.sigma,)),
    kernels.Matern32Kernel: (5, lambda k: (k.sigma,)),
    kernels.Matern52Kernel: (6, lambda k: (k.sigma,)),
    kernels.RationalQuadraticKernel: (7, lambda k: (k.sigma, k.alpha)),
}
"""Static kernels whose increments the core makes itself: its number for them, and their parameters."""


def available() -> bool:
    """Tell whether the core is there; importing this module has shown it."""
    return True


def instruction_set() -> str:
    """Return the instruction set in use: "avx512", "avx2" or "baseline"."""
    return str(ffi.string(lib.bs_isa_name()).decode())


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that this build and this machine can run, the best one first."""
    in_use = instruction_set()
    usable = tuple(name for name in ("avx512", "avx2", "baseline") if lib.bs_set_isa(name.encode()) == 0)
    lib.bs_set_isa(in_use.encode())
    return usable


def set_instruction_set(name: str) -> None:
    """Choose the instruction set for all later calls.

    Raises
    ------
    ValueError
        If this build or this machine cannot run it.
    """
    if lib.bs_set_isa(name.encode()) != 0:
        raise ValueError(f"instruction set {name!r} cannot be used here: expected one of {instruction_sets()}")


class _Core:
    """The entry points of the core for one real type."""

    def __init__(self, bits: int) -> None:
        self.dtype = np.dtype(f"float{bits}")
        self.workspace = getattr(lib, f"bs_workspace_{bits}")
        self.forward = getattr(lib, f"bs_forward_{bits}")
        self.backward = getattr(lib, f"bs_backward_{bits}")
        self.lanes = getattr(lib, f"bs_lanes_{bits}")


_CORES = {np.dtype(np.float32): _Core(32), np.dtype(np.float64): _Core(64)}
_DOUBLE = np.dtype(np.float64)


_ELEMENTS = {"index1": "int64_t[]", "index2": "int64_t[]", "out_of_range": "uint8_t[]", "stop": "int32_t[]"}
_UNTYPED = "char[]"


def _call(core: _Core, template: Any, *, backward: bool, flags: dict[str, bool], arrays: dict[str, np.ndarray | None]) -> None:
    """Call the core: `flags` and `arrays` are fields of a task, None a null pointer."""
    task = ffi.new("bs_task *", template)
    for name, value in flags.items():
        setattr(task, name, value)
    task.pairs = len(arrays["index1"])  # type: ignore[arg-type]
    alive = []
    for name, array in arrays.items():
        if array is not None:
            pointer = ffi.from_buffer(_ELEMENTS.get(name, _UNTYPED), array)
            alive.append(pointer)
            setattr(task, name, pointer)
    workspace = ffi.from_buffer(np.empty(core.workspace(task, backward), dtype=np.uint8))
    task.workspace = workspace
    (core.backward if backward else core.forward)(task)


@functools.lru_cache(maxsize=64)
def _template(
    lengths: tuple[int, int], dimension: int, depth: int, dyadic_order: tuple[int, int], static_kernel: Any
) -> Any:
    """A task with everything that depends on no array; `static_kernel` is None where increments are handed in."""
    task = ffi.new("bs_task *")
    task.length1, task.length2 = lengths
    task.dimension = dimension
    task.depth = depth
    task.dyadic1, task.dyadic2 = dyadic_order
    task.static_kernel = _GIVEN
    if static_kernel is not None:
        task.static_kernel, parameters = _FUSED[type(static_kernel)]
        for k, value in enumerate(parameters(static_kernel)):
            task.parameter[k] = value
    return task


_Paths = tuple[np.ndarray, ...]
_Arrays = dict[str, Any]


class _Sweep:
    """A problem in the terms of the core: its template, its pairs cut into jobs, and the calls that work on them."""

    def __init__(self, problem: Problem, *, grids: bool, all_levels: bool = False) -> None:
        x, y = problem.path1, problem.path2
        self.problem = problem
        self.core = _CORES[x.dtype]
        self.lengths = x.shape[1], y.shape[1]
        self.fused = type(problem.static_kernel) in _FUSED
        self.template = _template(
            self.lengths, x.shape[2], problem.depth, problem.dyadic_order, problem.static_kernel if self.fused else None
        )[0]
        order1, order2 = problem.dyadic_order
        self.rows, self.columns = (self.lengths[0] - 1) << order1, (self.lengths[1] - 1) << order2
        self.shape = (x.shape[0],) if problem.pairing == "paired" else (x.shape[0], y.shape[0])
        self.count = _schedule.count(problem.pairing, x.shape[0], y.shape[0])
        self.grids = grids
        self.all_levels = all_levels
        self.nodes = max(1.0, float(self.rows) * self.columns * problem.depth)
        self.stop = np.zeros(1, dtype=np.int32)

    @property
    def trivial(self) -> bool:
        """Nothing to sweep: no pairs, a path that does not move, or no level."""
        return self.count == 0 or self.rows == 0 or self.columns == 0 or self.problem.depth == 0

    @property
    def count_all(self) -> int:
        """Number of pairs of the result, mirrored ones too."""
        return math.prod(self.shape)

    def part(self, index1: np.ndarray, index2: np.ndarray) -> slice:
        """Where a job taken in order lies among all pairs."""
        first = int(index1[0]) if len(self.shape) == 1 else int(index1[0]) * self.shape[1] + int(index2[0])
        return slice(first, first + len(index1))

    def jobs(self, *, fixed: bool) -> Iterator[_schedule.Job]:
        """The pairs in jobs, which depend on the number of threads only where they are not `fixed`."""
        problem = self.problem
        total = self.nodes * self.count
        parts = 32 if fixed else 4 * problem.n_jobs
        size = int(max(total / parts, _JOB_NODES) / self.nodes)
        if not self.fused:
            size = min(size, self._pairs_in_block((self.lengths[0] - 1) * (self.lengths[1] - 1)))
        if self.grids:
            size = min(size, self._pairs_in_block((self.rows + 1) * (self.columns + 1)))
        if problem.max_batch > 0:
            size = min(size, problem.max_batch**2)
        lanes = self.core.lanes()
        size = max(1, -(-size // lanes)) * lanes
        n1, n2 = problem.path1.shape[0], problem.path2.shape[0]
        if self.grids:
            return _schedule.in_order(problem.pairing, n1, n2, size)
        return _schedule.in_tiles(problem.pairing, n1, n2, size, lanes)

    def _pairs_in_block(self, values: int) -> int:
        return _BLOCK_BYTES // (self.core.dtype.itemsize * values)

    def run(self, work: Callable[[np.ndarray, np.ndarray], Any], collect: Callable[[Any], None], *, fixed: bool) -> None:
        """Do the work on every job, and collect the results in order."""
        problem, done = self.problem, 0

        def call(job: _schedule.Job) -> Any:
            return len(job[0]), work(*job)

        def collected(result: Any) -> None:
            nonlocal done
            done += result[0]
            collect(result[1])
            if problem.progress is not None:
                problem.progress(done, self.count)

        total = self.nodes * self.count
        inline = total < (_INLINE_NODES if problem.n_jobs == 1 else _JOB_NODES)
        calls = (functools.partial(call, job) for job in self.jobs(fixed=fixed))
        _schedule.run(calls, problem.n_jobs, self.stop, collected, inline=inline)

    def given(self, index1: np.ndarray, index2: np.ndarray) -> tuple[kernels.Context, np.ndarray | None]:
        """Increments of a static kernel that the core does not know."""
        ctx = kernels.Context()
        if self.fused:
            return ctx, None
        problem = self.problem
        made = kernels.increments(problem.static_kernel, ctx, problem.path1[index1], problem.path2[index2])
        return ctx, np.ascontiguousarray(made)

    def forward(self, paths: _Paths, job: _schedule.Job, given: np.ndarray | None, results: _Arrays) -> None:
        """Fill the results, log_k or grid, of the pairs of a job."""
        self._call(paths, job, given, {"all_levels": self.all_levels}, results, {})

    def backward(
        self, paths: _Paths, job: _schedule.Job, given: np.ndarray | None, results: _Arrays, derivs: _Arrays, *, wrt_log: bool
    ) -> None:
        """Add the gradients of the pairs of a job to the results: grad1 and grad2, or grad_increments.

        `derivs` has weight1, weight2, grid_derivs and k_stack, with an entry for every pair of the job.
        """
        self._call(paths, job, given, {"wrt_log": wrt_log}, results, derivs)

    def _call(
        self,
        paths: _Paths,
        job: _schedule.Job,
        given: np.ndarray | None,
        flags: dict[str, bool],
        results: _Arrays,
        derivs: _Arrays,
    ) -> None:
        dtype = (paths[0] if given is None else given).dtype
        left_range = np.zeros(len(job[0]), dtype=np.uint8)
        arrays = {
            "index1": job[0],
            "index2": job[1],
            "path1": paths[0],
            "path2": paths[1],
            "increments": given,
            "out_of_range": left_range,
            "stop": self.stop,
        }
        _call(_CORES[dtype], self.template, backward=bool(derivs), flags=flags, arrays=arrays | results | derivs)
        if left_range.any():
            self._call_again(np.flatnonzero(left_range), paths, job, given, flags | {"careful": dtype == _DOUBLE}, results, derivs)

    def _call_again(
        self,
        pairs: np.ndarray,
        paths: _Paths,
        job: _schedule.Job,
        given: np.ndarray | None,
        flags: dict[str, bool],
        results: _Arrays,
        derivs: _Arrays,
    ) -> None:
        """Do some pairs of a job again in float64, block by block, each pair with paths, results and derivatives of its own."""
        points = (self.lengths[0] + self.lengths[1]) * paths[0].shape[2]
        step = max(1, self._pairs_in_block(points + self.rows * self.columns * self.grids))
        for start in range(0, len(pairs), step):
            again = pairs[start : start + step]
            own = np.arange(len(again), dtype=np.int64)
            own_paths = tuple(path[index[again]].astype(_DOUBLE) for path, index in zip(paths, job, strict=True))
            own_results = {n: None if a is None else np.zeros((len(again), *a.shape[1:])) for n, a in results.items()}
            own_derivs = {n: None if a is None else a[again].astype(_DOUBLE) for n, a in derivs.items()}
            own_given = None if given is None else given[again].astype(_DOUBLE)
            self._call(own_paths, (own, own), own_given, flags, own_results, own_derivs)
            for name, result in results.items():
                if result is None:
                    continue
                if name in ("grad1", "grad2"):
                    np.add.at(result, job[name == "grad2"][again], own_results[name].astype(result.dtype))
                else:
                    result[again] = own_results[name]


class CpuBackend:
    """The compiled core. See `branchsig.backends.Backend` for the methods."""

    name = "cpu"

    def log_kernel(self, problem: Problem) -> np.ndarray:
        """Return log K_depth at the end of both paths."""
        sweep = _Sweep(problem, grids=False)
        result = np.zeros(sweep.shape, dtype=problem.path1.dtype)
        if sweep.trivial:
            return result
        paths = problem.path1, problem.path2

        def work(index1: np.ndarray, index2: np.ndarray) -> Any:
            log_k = np.empty(len(index1), dtype=result.dtype)
            sweep.forward(paths, (index1, index2), sweep.given(index1, index2)[1], {"log_k": log_k})
            return index1, index2, log_k

        def collect(done: Any) -> None:
            index1, index2, log_k = done
            if problem.pairing == "paired":
                result[index1] = log_k
                return
            result[index1, index2] = log_k
            if problem.pairing == "symmetric":
                result[index2, index1] = log_k

        with np.errstate(over="ignore", invalid="ignore"):
            sweep.run(work, collect, fixed=False)
        return result

    def grid(self, problem: Problem, *, all_levels: bool) -> np.ndarray:
        """Return K_depth, or K_0 to K_depth, at every node."""
        sweep = _Sweep(problem, grids=True, all_levels=all_levels)
        levels = (problem.depth + 1,) if all_levels else ()
        shape = (*levels, sweep.rows + 1, sweep.columns + 1)
        if sweep.trivial:
            return np.ones((*sweep.shape, *shape), dtype=problem.path1.dtype)
        result = np.empty((sweep.count, *shape), dtype=problem.path1.dtype)
        paths = problem.path1, problem.path2

        def work(index1: np.ndarray, index2: np.ndarray) -> None:
            sweep.forward(paths, (index1, index2), sweep.given(index1, index2)[1], {"grid": result[sweep.part(index1, index2)]})

        with np.errstate(over="ignore", invalid="ignore"):
            sweep.run(work, lambda _: None, fixed=False)
        return result.reshape(*sweep.shape, *shape)

    def gradients(
        self,
        problem: Problem,
        derivs: np.ndarray,
        *,
        wrt_log: bool,
        left: bool,
        right: bool,
        k_stack: np.ndarray | None = None,
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return the gradients with respect to `path1` and `path2`."""
        of_grid = derivs.ndim > (1 if problem.pairing == "paired" else 2)
        sweep = _Sweep(problem, grids=of_grid or k_stack is not None)
        symmetric = problem.pairing == "symmetric"
        paths = problem.path1, problem.path2
        d_path1 = np.zeros_like(problem.path1) if left else None
        d_path2 = np.zeros_like(problem.path2) if right else None
        if sweep.trivial:
            return d_path1, d_path2
        dtype = problem.path1.dtype
        flat_derivs = np.ascontiguousarray(derivs).reshape(sweep.count_all, *derivs.shape[len(sweep.shape) :])
        flat_stack = None if k_stack is None else np.ascontiguousarray(k_stack).reshape(sweep.count_all, *k_stack.shape[-3:])
        shared = problem.pairing == "paired"  # every pair has rows of its own in the result

        def work(index1: np.ndarray, index2: np.ndarray) -> Any:
            pairs = index1 if shared else index1 * problem.path2.shape[0] + index2
            arrays: _Arrays = {"grid_derivs": None, "k_stack": None}
            if of_grid:
                arrays["weight1"] = arrays["weight2"] = np.ones(len(pairs), dtype=dtype)
                arrays["grid_derivs"] = flat_derivs[sweep.part(index1, index2)]
            else:
                arrays["weight1"] = arrays["weight2"] = flat_derivs[pairs]
            if flat_stack is not None:
                arrays["k_stack"] = flat_stack[sweep.part(index1, index2)]
            if symmetric:
                mirrored = flat_derivs[index2 * problem.path2.shape[0] + index1]
                arrays["weight2"] = np.where(index1 == index2, np.zeros(1, dtype=dtype), mirrored)
            grad1, grad2 = d_path1, d_path2
            if not shared:
                grad1 = np.zeros_like(problem.path1) if left else None
                grad2 = grad1 if symmetric else np.zeros_like(problem.path2) if right else None
            ctx, given = sweep.given(index1, index2)
            if given is None:
                sweep.backward(paths, (index1, index2), None, {"grad1": grad1, "grad2": grad2}, arrays, wrt_log=wrt_log)
                return grad1, grad2
            # Both weights are in the derivatives of the increments only where they are equal.
            weights = arrays["weight1"], arrays["weight2"]
            arrays["weight1"] = arrays["weight2"] = np.ones(len(pairs), dtype=dtype)
            d_given = np.zeros_like(given)
            sweep.backward(paths, (index1, index2), given, {"grad_increments": d_given}, arrays, wrt_log=wrt_log)
            x, y = problem.path1[index1], problem.path2[index2]
            if grad1 is not None:
                part = kernels.gradient_x(problem.static_kernel, ctx, d_given, x)
                np.add.at(grad1, index1, weights[0][:, None, None] * part)
            if grad2 is not None:
                part = kernels.gradient_y(problem.static_kernel, ctx, d_given, y)
                np.add.at(grad2, index2, weights[1][:, None, None] * part)
            return grad1, grad2

        def collect(parts: Any) -> None:
            if shared:
                return
            for total, part in zip((d_path1, d_path2), parts, strict=True):
                if total is not None:
                    total += part

        with np.errstate(over="ignore", invalid="ignore"):
            sweep.run(work, collect, fixed=not shared)
        return d_path1, d_path2
