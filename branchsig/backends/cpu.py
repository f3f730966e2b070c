"""The compiled core for NumPy arrays: packs its arguments, splits the pairs over threads, and collects the results.

A `Problem` on NumPy arrays comes in. The core (``c_src``) sweeps tiles of pairs by running products, one pair per SIMD
lane; the few pairs whose kernels leave the range of those are swept again in the log domain. It computes in float64,
whatever the dtype of the paths: in float32 the errors of the levels add up to more than the dtype resolves. Beyond the
result it takes a workspace of O(depth · length2) a thread, and up to 26 MB for gradients (without truncation
O(√length1 · length2), where that is more). Increments of a static kernel of the user's own are computed in blocks of
bounded size.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from branchsig import _validation
from branchsig import static_kernels as kernels
from branchsig._arrays import filled
from branchsig._core import ffi, lib
from branchsig._warnings import warn
from branchsig.backends import _schedule, reference
from branchsig.backends._digits import purpose_of
from branchsig.quadrature import TRAPEZOID, Quadrature

if TYPE_CHECKING:
    from branchsig.backends import Problem

__all__ = ["CpuBackend", "instruction_set", "instruction_sets", "set_instruction_set", "warn_of_environment"]

_BLOCK_BYTES = 32 * 2**20
"""Memory for the increments of a user's own kernel, or for the derivatives of grids, that are handed in at once."""

_INLINE_NODES = 2e7
"""Up to so many nodes times levels one thread does in one job, which is the calling thread: a few milliseconds."""

_INLINE_LEVELS = 10000
"""Up to so many levels: more take their time even for a few nodes, and the calling thread could not be interrupted."""

_JOB_NODES = 1e6
"""Nodes times levels that a job has at least where there are others at its side: enough to outweigh its overhead."""

_RUNS = 32
"""Jobs that are made where their number must not depend on the threads, and at least where progress is reported."""

_NODE_BYTES = 4096
_MOST_BYTES = 2**53
"""What a node and level of a row may take of a workspace, at most, and a workspace that no machine has: sizes up to it
fit the integers of the core."""

_MOST_LEVELS = 2**31 - 1
"""The largest depth or order that the core takes."""

_GIVEN = 0
_FUSED: dict[type, tuple[int, Callable[[Any], tuple[float, ...]]]] = {
    kernels.LinearKernel: (1, lambda k: (1.0,)),
    kernels.ScaledLinearKernel: (1, lambda k: (k.scale,)),
    kernels.PolynomialKernel: (2, lambda k: (k.degree, k.gamma, k.scale)),
    kernels.RBFKernel: (3, lambda k: (k.sigma,)),
    kernels.Matern12Kernel: (4, lambda k: (k.sigma,)),
    kernels.Matern32Kernel: (5, lambda k: (k.sigma,)),
    kernels.Matern52Kernel: (6, lambda k: (k.sigma,)),
    kernels.RationalQuadraticKernel: (7, lambda k: (k.sigma, min(k.alpha, kernels.LARGEST_ALPHA))),
}
"""Static kernels whose increments the core makes itself: its number for them, and their parameters."""


def _is_fused(kernel: kernels.StaticKernel) -> bool:
    """Tell whether the core makes the increments of a static kernel itself: one of these, or one that is not linear,
    dilated."""
    if type(kernel) is kernels.DilatedKernel:
        return type(kernel.kernel) in _FUSED and not kernels.is_linear(kernel.kernel)
    return type(kernel) in _FUSED


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


def warn_of_environment() -> None:
    """Warn if the environment variable BRANCHSIG_ISA names an instruction set that cannot be used here."""
    name = os.environ.get("BRANCHSIG_ISA")
    if name and name not in instruction_sets():
        warn(
            f"BRANCHSIG_ISA is {name!r}, which is no instruction set that this build and this machine can run: "
            f"expected one of {', '.join(instruction_sets())}. {instruction_set()} is used"
        )


_DOUBLE = np.dtype(np.float64)
_TASK = ffi.typeof("bs_task *")
_DOUBLES, _BYTES = ffi.typeof("double[]"), ffi.typeof("char[]")
_ELEMENTS = {
    **dict.fromkeys(("index1", "index2", "lengths1", "lengths2"), ffi.typeof("int64_t[]")),
    "out_of_range": ffi.typeof("uint8_t[]"),
    "stop": ffi.typeof("int32_t[]"),
}

_KEPT_BYTES = 2**18
"""Up to so much of a workspace is kept by a thread for its next call."""

_kept = threading.local()

_Paths = tuple[np.ndarray, ...]
_Lengths = tuple[np.ndarray | None, ...]
_Arrays = dict[str, Any]


_FEW = 8
"""So few pairs are one job."""


@functools.cache
def _first(count: int) -> np.ndarray:
    """The indices of so many pairs."""
    index = np.arange(count, dtype=np.int64)
    index.flags.writeable = False
    return index


def _call(template: Any, *, backward: bool, flags: dict[str, Any], arrays: _Arrays, blame: Callable[[], str]) -> int:
    """Call the core: `flags` and `arrays` are fields of a task, None a null pointer. `blame` says what a workspace that
    does not fit is too large for. Returns the number of pairs that are out of range."""
    task = ffi.new(_TASK, template)
    for name, value in flags.items():
        setattr(task, name, value)
    task.pairs = len(arrays["index1"])
    for name, array in arrays.items():  # which outlive the task, that holds their addresses
        if array is not None:
            setattr(task, name, ffi.from_buffer(_ELEMENTS.get(name, _DOUBLES), array))
    size = lib.bs_workspace(task, backward)
    workspace = getattr(_kept, "workspace", _NOTHING)
    if size > len(workspace):
        _validation.bytes_fit_memory(size, "the workspace of a thread", blame)
        workspace = ffi.from_buffer(_BYTES, np.empty(size, dtype=np.uint8))
        if size <= _KEPT_BYTES:
            _kept.workspace = workspace
    task.workspace = workspace
    return int((lib.bs_backward if backward else lib.bs_forward)(task))


_NOTHING = ffi.new("char[]", 0)
_never = np.zeros(1, dtype=np.int32)
"""A `stop` that nobody sets."""


def _template(
    lengths: tuple[int, int],
    dimension: int,
    levels: int,
    order: int | None,
    untruncated: bool,
    dyadic_order: tuple[int, int],
    static_kernel: Any,
    quadrature: Quadrature,
    log_grid: bool,
) -> Any:
    """A task with everything that depends on no array; `static_kernel` is None where increments are handed in."""
    task = ffi.new("bs_task *")
    task.length1, task.length2 = task.stride1, task.stride2 = lengths
    task.dimension = dimension
    task.depth = levels
    task.untruncated = untruncated
    task.dyadic1, task.dyadic2 = dyadic_order
    task.log_grid = task.careful = log_grid  # the running products do not have the logarithms
    if order is not None:
        task.order = order
    if order is not None or untruncated or quadrature != TRAPEZOID:  # which is built in
        task.nodes = quadrature.p
        for k, value in enumerate(value for row in quadrature.steps for value in row):
            task.steps[k] = value
        for k, value in enumerate(quadrature.whole[0]):
            task.whole[k] = value
    task.static_kernel = _GIVEN
    if static_kernel is not None:
        if type(static_kernel) is kernels.DilatedKernel:
            task.dilated, static_kernel = True, static_kernel.kernel
        if type(static_kernel) is kernels.PolynomialKernel:
            static_kernel = static_kernel.as_linear() or static_kernel
        task.static_kernel, parameters = _FUSED[type(static_kernel)]
        for k, value in enumerate(parameters(static_kernel)):
            task.parameter[k] = value
    return task


class _Plan:
    """What the core is to do, as far as it follows from options and shapes: the rows and levels of a pair, and a task
    without arrays."""

    def __init__(
        self,
        lengths: tuple[int, int],
        dimension: int,
        depth: float,
        order: int | None,
        dyadic_order: tuple[int, int],
        static_kernel: kernels.StaticKernel | None,
        quadrature: Quadrature,
        log_grid: bool,
    ) -> None:
        self.lengths, self.order, self.dyadic_order = lengths, order, dyadic_order
        self.rows, self.columns = ((n - 1) << k for n, k in zip(lengths, dyadic_order, strict=True))
        # Truncated by the number of nodes, there are as many levels, each needing all below it. Without truncation
        # there is one kernel, whose gradients take the square root of all its rows, and as much time as a few levels.
        untruncated = order is None and depth == math.inf
        self.levels = 1 if untruncated else int(depth if order is None else order)
        rows = math.isqrt(self.rows) + 1 if untruncated else max(1, self.levels)
        longest = max(self.rows, self.columns) * rows * _NODE_BYTES * quadrature.p**2
        if longest > _MOST_BYTES or self.levels > _MOST_LEVELS:
            raise MemoryError(f"one row of the grids takes {longest:.1e} bytes: {self.blame()}")
        self.nodes = max(1.0, float(self.rows) * self.columns * (self.levels + 5 * untruncated) * quadrature.p**2)
        self._task = _template(
            lengths, dimension, self.levels, order, untruncated, dyadic_order, static_kernel, quadrature, log_grid
        )
        self.template = self._task[0]

    def blame(self) -> str:
        """What a workspace is too large for, and what to do."""
        if self.levels > max(self.rows, self.columns):
            name = "depth" if self.order is None else "order"
            return f"{name} is {self.levels}, which takes memory for as many rows. Take a smaller {name}" + (
                ", or math.inf for no bound" if self.order is None else ""
            )
        length1, length2 = self.lengths
        return f"dyadic_order {self.dyadic_order} is too large for paths of {length1} and {length2} points"


_plan = functools.lru_cache(maxsize=64)(_Plan)


_PURPOSES = {"kernel": 0, "log": 1, "difference": 2, "quotient": 3, "parts": 4, "rough": 5}
"""What values are wanted for, in the words of the core."""


class _Sweep:
    """A problem in the terms of the core: its paths, its pairs cut into jobs, and the calls that work on them."""

    def __init__(self, problem: Problem, *, grids: bool, log: bool = False, log_grid: bool = False) -> None:
        x, y = problem.path1, problem.path2
        self.problem = problem
        self.grids = grids
        self.log, self.log_grid = log, log_grid
        purpose = purpose_of(problem, log=log) if problem.order is None else problem.purpose or "parts"
        self.purpose = _PURPOSES[purpose]
        self.lengths = x.shape[1], y.shape[1]
        self.fused = _is_fused(problem.static_kernel)
        self.plan = plan = _plan(
            self.lengths,
            x.shape[2],
            problem.depth,
            problem.order,
            problem.dyadic_order,
            problem.static_kernel if self.fused else None,
            problem.quadrature,
            log_grid,
        )
        self.rows, self.columns, self.levels, self.nodes = plan.rows, plan.columns, plan.levels, plan.nodes
        paired = problem.pairing == "paired"
        self.shape = (x.shape[0],) if paired else (x.shape[0], y.shape[0])
        self.count = _schedule.count(problem.pairing, x.shape[0], y.shape[0])
        # nothing to sweep: no pairs, a path that does not move, or no level
        self.trivial = self.count == 0 or self.rows == 0 or self.columns == 0 or self.levels == 0
        self.paths: _Paths = (x, y)
        if x.dtype != _DOUBLE:
            x64 = x.astype(_DOUBLE)
            self.paths = (x64, x64 if y is x else y.astype(_DOUBLE))
        self.valid: _Lengths = (problem.lengths1, problem.lengths2)
        # whether the calling thread does all jobs, one after the other
        few = self.nodes * self.count < (_INLINE_NODES if problem.n_jobs == 1 else 2 * _JOB_NODES)
        self.inline = few and self.levels <= _INLINE_LEVELS
        self.alone = self.inline and paired  # then no result is made of two of the core
        self.stop = _never if self.inline else np.zeros(1, dtype=np.int32)

    def jobs(self, *, fixed: bool) -> Iterator[_schedule.Job]:
        """The pairs in jobs, which depend on the number of threads only where they are not `fixed`."""
        problem = self.problem
        if self.alone and self.fused and self.count <= _FEW and problem.progress is None:
            only = _first(self.count)
            return iter(((only, only),))
        many = fixed or problem.progress is not None
        runs = _RUNS if fixed else max(4 * problem.n_jobs, _RUNS * many)
        least = _JOB_NODES if many or problem.n_jobs > 1 else _INLINE_NODES
        size = int(max(self.nodes * self.count / runs, least) / self.nodes)
        if not self.fused:
            size = min(size, self.pairs_in_block((self.lengths[0] - 1) * (self.lengths[1] - 1)))
        if self.grids:
            parts = 1 if problem.order is None else problem.order + 1
            size = min(size, self.pairs_in_block((self.rows + 1) * (self.columns + 1) * parts))
        if problem.max_batch > 0:
            size = min(size, problem.max_batch**2)
        lanes = lib.bs_lanes()
        size = max(1, -(-size // lanes)) * lanes
        n1, n2 = problem.path1.shape[0], problem.path2.shape[0]
        if self.grids:
            return _schedule.in_order(problem.pairing, n1, n2, size)
        jobs = _schedule.in_tiles(problem.pairing, n1, n2, size, lanes)
        if all(v is None for v in self.valid):
            return jobs
        valid1, valid2 = (np.full(n, end) if v is None else v for v, n, end in zip(self.valid, (n1, n2), self.lengths))
        orders = _schedule.by_length(problem.pairing, valid1, valid2, lanes)
        return _schedule.reordered(jobs, problem.pairing, orders)

    def pairs_in_block(self, values: int) -> int:
        """Number of pairs with so many values each that fit a block."""
        return max(1, _BLOCK_BYTES // (_DOUBLE.itemsize * values))

    def part(self, index1: np.ndarray, index2: np.ndarray) -> slice:
        """Where a job taken in order lies among all pairs."""
        first = int(index1[0]) if len(self.shape) == 1 else int(index1[0]) * self.shape[1] + int(index2[0])
        return slice(first, first + len(index1))

    def flat(self, array: np.ndarray) -> np.ndarray:
        """An array over all pairs with the pairs on one axis."""
        return np.ascontiguousarray(array).reshape(math.prod(self.shape), *array.shape[len(self.shape) :])

    def run(
        self, work: Callable[[np.ndarray, np.ndarray], Any], collect: Callable[[Any], None], *, fixed: bool
    ) -> None:
        """Do the work on every job, and collect the results in order."""
        problem, done = self.problem, 0

        def finish(job: _schedule.Job, result: Any) -> None:
            nonlocal done
            done += len(job[0])
            collect(result)
            if problem.progress is not None:
                problem.progress(done, self.count)

        def call(job: _schedule.Job) -> Any:
            with np.errstate(all="ignore"):  # every thread has settings of its own
                return job, work(*job)

        if self.alone and self.fused and self.paths[0] is problem.path1:
            for job in self.jobs(fixed=fixed):  # the core does all of the arithmetic
                finish(job, work(*job))
            return
        with np.errstate(all="ignore"):
            if self.inline:
                for job in self.jobs(fixed=fixed):
                    finish(job, work(*job))
                return
            calls = (functools.partial(call, job) for job in self.jobs(fixed=fixed))
            _schedule.run(calls, problem.n_jobs, self.stop, lambda done: finish(*done))

    def given(self, index1: np.ndarray, index2: np.ndarray) -> tuple[kernels.Context, np.ndarray | None]:
        """Increments of a static kernel that the core does not know, in the dtype of the paths."""
        ctx = kernels.Context()
        if self.fused:
            return ctx, None
        job = index1, index2
        paths = (self.filled(side, index) for side, index in enumerate(job))
        return ctx, self.in_use(job, kernels.increments(self.problem.static_kernel, ctx, *paths))

    def filled(self, side: int, index: np.ndarray) -> np.ndarray:
        """The first or second paths of a job for a user's own static kernel, which is to see no padding."""
        path, valid = (self.problem.path1, self.problem.path2)[side], self.valid[side]
        padded: np.ndarray = path[index]
        return padded if valid is None else cast(np.ndarray, filled(padded, valid[index]))

    def in_use(self, job: _schedule.Job, increments: np.ndarray) -> np.ndarray:
        """Increments, or derivatives with respect to them, of a job, and zero behind the valid lengths."""
        for side, (index, valid) in enumerate(zip(job, self.valid, strict=True)):
            if valid is not None:
                moving = np.arange(1, increments.shape[side + 1] + 1) < valid[index][:, None]
                increments = np.where(moving[:, None, :] if side else moving[:, :, None], increments, 0)
        return increments

    def forward(self, job: _schedule.Job, given: np.ndarray | None, **results: np.ndarray) -> None:
        """Fill the results, ends or grid, of the pairs of a job."""
        grid = results.get("grid")
        flags = {"wrt_log": self.log, "all_levels": grid is not None and grid.ndim == 4 and self.problem.order is None}
        self._call(self.paths, self.valid, job, given, flags, results, {})

    def backward(
        self, job: _schedule.Job, given: np.ndarray | None, results: _Arrays, derivs: _Arrays, *, wrt_log: bool
    ) -> None:
        """Add the gradients of the pairs of a job to the results: grad1 and grad2, or grad_increments.

        `derivs` has weight1, weight2, grid_derivs and k_stack, with an entry for every pair of the job.
        """
        derivs = {name: None if a is None else np.ascontiguousarray(a, dtype=_DOUBLE) for name, a in derivs.items()}
        self._call(self.paths, self.valid, job, given, {"wrt_log": wrt_log}, results, derivs)

    def _call(
        self,
        paths: _Paths,
        valid: _Lengths,
        job: _schedule.Job,
        given: np.ndarray | None,
        flags: dict[str, Any],
        results: _Arrays,
        derivs: _Arrays,
    ) -> None:
        if given is not None:
            given = np.ascontiguousarray(given, dtype=_DOUBLE)
        out_of_range = np.empty(len(job[0]), dtype=np.uint8)
        arrays = {
            "index1": job[0],
            "index2": job[1],
            "path1": paths[0],
            "path2": paths[1],
            "lengths1": valid[0],
            "lengths2": valid[1],
            "increments": given,
            "out_of_range": out_of_range,
            "stop": self.stop,
        }
        flags["purpose"] = self.purpose
        arrays = arrays | results | derivs
        if _call(self.plan.template, backward=bool(derivs), flags=flags, arrays=arrays, blame=self.plan.blame):
            again = np.flatnonzero(out_of_range)
            with np.errstate(all="ignore"):
                self._call_again(again, paths, valid, job, given, flags, results, derivs)

    def _call_again(
        self,
        pairs: np.ndarray,
        paths: _Paths,
        valid: _Lengths,
        job: _schedule.Job,
        given: np.ndarray | None,
        flags: dict[str, Any],
        results: _Arrays,
        derivs: _Arrays,
    ) -> None:
        """Do some pairs of a job once more, block by block, with results and derivatives of their own.

        They are done in the log domain, without a stack that was handed in, which may lack digits too. Where that has
        been done and every node of a grid is to be looked at, they are left to the reference.
        """
        careful = flags.get("careful") or self.log_grid
        points = (self.lengths[0] + self.lengths[1]) * paths[0].shape[2]
        step = self.pairs_in_block(points + self.grids * (self.rows + 1) * (self.columns + 1))
        for start in range(0, len(pairs), step):
            again = pairs[start : start + step]
            own = np.arange(len(again), dtype=np.int64)
            own_paths = tuple(path[index[again]] for path, index in zip(paths, job, strict=True))
            own_valid = tuple(None if v is None else v[index[again]] for v, index in zip(valid, job, strict=True))
            own_results: _Arrays = {
                n: None if a is None else np.zeros((len(again), *a.shape[1:])) for n, a in results.items()
            }
            own_derivs = {n: None if a is None or n == "k_stack" else a[again] for n, a in derivs.items()}
            own_given = None if given is None else given[again]
            if careful:
                self._by_node(own_paths, own_valid, own_given, flags, own_results, own_derivs)
            else:
                own_flags = flags | {"careful": True}
                self._call(own_paths, own_valid, (own, own), own_given, own_flags, own_results, own_derivs)
            for name, result in results.items():
                if result is None:
                    continue
                if name in ("grad1", "grad2"):
                    np.add.at(result, job[name == "grad2"][again], own_results[name])
                else:
                    result[again] = own_results[name]

    def _by_node(
        self,
        paths: _Paths,
        valid: _Lengths,
        given: np.ndarray | None,
        flags: dict[str, Any],
        results: _Arrays,
        derivs: _Arrays,
    ) -> None:
        """Fill the results of pairs with a grid of which some node may have lost its digits, by the reference."""
        own = dataclasses.replace(
            self.problem,
            path1=paths[0],
            path2=paths[1],
            lengths1=valid[0],
            lengths2=valid[1],
            pairing="paired",
            max_batch=-1,
            progress=None,
        )
        if derivs:
            bars, wrt_log = derivs["grid_derivs"], bool(flags["wrt_log"])
            if given is not None:
                results["grad_increments"][...] = reference.increments_gradient(own, given, bars, wrt_log=wrt_log)
                return
            wanted = {"left": results["grad1"] is not None, "right": results["grad2"] is not None}
            both = reference.ReferenceBackend().gradients(own, bars, wrt_log=wrt_log, **wanted)
            for name, gradient in zip(("grad1", "grad2"), both, strict=True):
                if gradient is not None:
                    results[name][...] = gradient
        elif given is not None:
            results["grid"][...] = reference.grid_from_increments(own, given, all_levels=flags["all_levels"])
        elif own.order is not None:
            results["grid"][...] = reference.ReferenceBackend().parts(own, grid=True)
        else:
            results["grid"][...] = reference.ReferenceBackend().grid(own, all_levels=flags["all_levels"])


class CpuBackend:
    """The compiled core. See `branchsig.backends.Backend` for the methods."""

    name = "cpu"

    def log_kernel(self, problem: Problem) -> np.ndarray:
        """Return log K_depth at the end of both paths."""
        return self._ends(problem, log=True)

    def kernel(self, problem: Problem) -> np.ndarray:
        """Return K_depth at the end of both paths."""
        return self._ends(problem, log=False)

    def _ends(self, problem: Problem, *, log: bool) -> np.ndarray:
        sweep = _Sweep(problem, grids=False, log=log)
        if sweep.trivial:
            return np.full(sweep.shape, not log, dtype=problem.path1.dtype)
        result = np.empty(sweep.shape, dtype=problem.path1.dtype)

        def work(index1: np.ndarray, index2: np.ndarray) -> Any:
            ends = np.empty(len(index1))
            sweep.forward((index1, index2), sweep.given(index1, index2)[1], ends=ends)
            return index1, index2, ends

        def collect(done: Any) -> None:
            index1, index2, ends = done
            if problem.pairing == "paired":
                result[index1] = ends
                return
            result[index1, index2] = ends
            if problem.pairing == "symmetric":
                result[index2, index1] = ends

        sweep.run(work, collect, fixed=False)
        return result

    def grid(self, problem: Problem, *, all_levels: bool) -> np.ndarray:
        """Return K_depth, or K_0 to K_depth, at every node."""
        sweep = _Sweep(problem, grids=True, log=problem.log_grid, log_grid=problem.log_grid)
        levels = (problem.depth + 1,) if all_levels else ()
        shape = (*levels, sweep.rows + 1, sweep.columns + 1)
        if sweep.trivial:
            return np.full((*sweep.shape, *shape), not problem.log_grid, dtype=problem.path1.dtype)
        result = np.empty((sweep.count, *shape), dtype=problem.path1.dtype)

        def work(index1: np.ndarray, index2: np.ndarray) -> None:
            part = result[sweep.part(index1, index2)]
            grid = part if part.dtype == _DOUBLE else np.empty(part.shape)
            sweep.forward((index1, index2), sweep.given(index1, index2)[1], grid=grid)
            if grid is not part:
                part[...] = grid

        sweep.run(work, lambda _: None, fixed=False)
        return result.reshape(*sweep.shape, *shape)

    def parts(self, problem: Problem, *, grid: bool) -> np.ndarray:
        """Return k_0 to k_order at the end of both paths, or at every node."""
        sweep = _Sweep(problem, grids=grid)
        shape = (*((sweep.rows + 1, sweep.columns + 1) if grid else ()), sweep.levels + 1)
        result = np.zeros((math.prod(sweep.shape), *shape), dtype=problem.path1.dtype)
        if sweep.trivial:
            result[..., 0] = 1
            return result.reshape(*sweep.shape, *shape)

        def work(index1: np.ndarray, index2: np.ndarray) -> Any:
            made = np.empty((len(index1), *shape))
            sweep.forward((index1, index2), sweep.given(index1, index2)[1], **{"grid" if grid else "parts": made})
            return index1, index2, made

        def collect(done: Any) -> None:
            index1, index2, made = done
            count2 = problem.path2.shape[0]
            result[index1 if problem.pairing == "paired" else index1 * count2 + index2] = made
            if problem.pairing == "symmetric":
                result[index2 * count2 + index1] = made

        sweep.run(work, collect, fixed=False)
        return result.reshape(*sweep.shape, *shape)

    def diagonal(self, problem: Problem) -> np.ndarray:
        """Return log K_depth, or k_0 to k_order, of every path up to each of its points with itself."""
        sweep = _Sweep(problem, grids=False)
        of_order = () if problem.order is None else (problem.order + 1,)
        result = np.zeros((sweep.count, sweep.lengths[0], *of_order), dtype=problem.path1.dtype)
        if sweep.trivial:
            if of_order:
                result[..., 0] = 1
            return result

        def work(index1: np.ndarray, index2: np.ndarray) -> Any:
            made = np.empty((len(index1), *result.shape[1:]))
            sweep.forward((index1, index2), sweep.given(index1, index2)[1], diagonal=made)
            return index1, made

        def collect(done: Any) -> None:
            index1, made = done
            result[index1] = made

        sweep.run(work, collect, fixed=False)
        return result

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
        """Return the gradients with respect to `path1` and `path2`.

        A `k_stack` is read for the trapezoid rule alone: for others it lacks nodes, or saves little.
        """
        k_stack = k_stack if problem.quadrature == TRAPEZOID else None
        paired, symmetric = problem.pairing == "paired", problem.pairing == "symmetric"
        of_parts = problem.order is not None
        of_grid = derivs.ndim > (1 if paired else 2) + of_parts
        sweep = _Sweep(problem, grids=of_grid or k_stack is not None, log=wrt_log)
        totals = tuple(
            np.zeros(p.shape) if wanted else None for p, wanted in zip(sweep.paths, (left, right), strict=True)
        )
        dtype = problem.path1.dtype
        if sweep.trivial:
            return _as(dtype, totals[0]), _as(dtype, totals[1])
        all_derivs = sweep.flat(derivs)
        all_stacks = None if k_stack is None else sweep.flat(k_stack)

        def work(index1: np.ndarray, index2: np.ndarray) -> tuple[np.ndarray | None, ...]:
            pairs = index1 if paired else index1 * problem.path2.shape[0] + index2
            weight1 = weight2 = np.ones(len(pairs)) if of_grid or of_parts else all_derivs[pairs]
            if symmetric:  # the pair stands for (i, j) and (j, i)
                weight2 = np.where(index1 == index2, 0.0, all_derivs[index2 * problem.path2.shape[0] + index1])
            arrays = {
                "weight1": weight1,
                "weight2": weight2,
                "grid_derivs": all_derivs[sweep.part(index1, index2)] if of_grid else None,
                "part_derivs": all_derivs[pairs] if of_parts and not of_grid else None,
                "k_stack": None if all_stacks is None else all_stacks[sweep.part(index1, index2)],
            }
            grads = totals  # every pair of a paired problem has rows of its own there
            if not paired:
                grad1 = None if totals[0] is None else np.zeros_like(totals[0])
                grads = (grad1, grad1 if symmetric else None if totals[1] is None else np.zeros_like(totals[1]))
            counted = _counted(arrays)
            if counted is not None:  # the others are not solved for, and may be infinite
                index1, index2 = index1[counted], index2[counted]
                arrays = {name: None if a is None else a[counted] for name, a in arrays.items()}
            if not len(index1):
                return grads
            ctx, given = sweep.given(index1, index2)
            if given is None:
                results = {"grad1": grads[0], "grad2": grads[1]}
                sweep.backward((index1, index2), None, results, arrays, wrt_log=wrt_log)
            else:
                _through_given(sweep, ctx, given, (index1, index2), grads, arrays, wrt_log=wrt_log)
            return grads

        def collect(parts: tuple[np.ndarray | None, ...]) -> None:
            for total, part in zip(totals, parts, strict=True):
                if total is not None and part is not None and total is not part:
                    total += part

        sweep.run(work, collect, fixed=not paired)
        return _as(dtype, totals[0]), _as(dtype, totals[1])


def _counted(arrays: _Arrays) -> np.ndarray | None:
    """Which pairs of a job have a derivative other than 0, or None where all of them have."""
    given = arrays["grid_derivs"] if arrays["part_derivs"] is None else arrays["part_derivs"]
    weight1, weight2 = arrays["weight1"], arrays["weight2"]
    if given is not None:
        counted = np.any(given.reshape(len(given), -1), axis=1)
    elif np.count_nonzero(weight1) == len(weight1):
        return None
    else:
        counted = (weight1 != 0) | (weight2 != 0)
    return None if np.all(counted) else counted


def _through_given(
    sweep: _Sweep,
    ctx: kernels.Context,
    given: np.ndarray,
    job: _schedule.Job,
    grads: tuple[np.ndarray | None, ...],
    arrays: _Arrays,
    *,
    wrt_log: bool,
) -> None:
    """Add the gradients of a job through a user's own static kernel, whose increments are `given`, to `grads`."""
    problem = sweep.problem
    weights = arrays["weight1"], arrays["weight2"]
    ones = np.ones(len(given))
    d_given = np.zeros(given.shape)
    sweep.backward(
        job, given, {"grad_increments": d_given}, arrays | {"weight1": ones, "weight2": ones}, wrt_log=wrt_log
    )
    d_given = sweep.in_use(job, d_given.astype(given.dtype, copy=False))
    gradients = kernels.gradient_x, kernels.gradient_y
    for side, (gradient, grad, index, weight) in enumerate(zip(gradients, grads, job, weights, strict=True)):
        if grad is not None:
            part = gradient(problem.static_kernel, ctx, d_given, sweep.filled(side, index))
            valid = sweep.valid[side]
            if valid is not None:
                behind = np.arange(part.shape[1]) >= valid[index][:, None]
                part = np.where(behind[:, :, None], 0, part)
            np.add.at(grad, index, np.where(weight == 0, 0, weight * part.T).T)


def _as(dtype: np.dtype[Any], array: np.ndarray | None) -> np.ndarray | None:
    if array is None or array.dtype == dtype:
        return array
    with np.errstate(all="ignore"):
        return array.astype(dtype)
