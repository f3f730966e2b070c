"""A problem in the terms of the compiled core: its paths, its pairs cut into jobs, and the calls that work on them."""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from branchsig import _validation
from branchsig import static_kernels as kernels
from branchsig._arrays import weighted
from branchsig._core import ffi, lib
from branchsig.backends._digits import purpose_of
from branchsig.backends.base import Problem, Want, Wrt
from branchsig.backends.cpu import schedule
from branchsig.backends.pairs import count
from branchsig.backends.reference import ReferenceBackend
from branchsig.quadrature import TRAPEZOID, Quadrature
from branchsig.static_kernels.table import TABLE

__all__ = ["DOUBLE", "DOUBLES", "INDICES", "KNOWN", "NOTHING", "TASK", "Arrays", "Sweep", "kept_here", "workspace_of"]

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


def _is_fused(kernel: kernels.StaticKernel, *, parameters: bool) -> bool:
    """Tell whether the core makes the increments of a static kernel itself: one of these, or one that is not linear,
    dilated; if wanted, the gradients with respect to its parameters too."""
    if type(kernel) is kernels.DilatedKernel:
        if kernels.is_linear(kernel.kernel):
            return False
        kernel = kernel.kernel
    return type(kernel) in TABLE and (not parameters or kernels.divides_by_scale(kernel))


class _Parameters:
    """What the gradients with respect to the parameters of a static kernel are, from those that the core returns."""

    def __init__(self, kernel: Any) -> None:
        kernel = kernel.kernel if type(kernel) is kernels.DilatedKernel else kernel
        self.count = len(kernels.parameters_of(kernel))
        self.of_core = self.count
        self._of_linear = None
        self._excess = 1.0
        if isinstance(kernel, kernels.PolynomialKernel):
            linear = kernel.as_linear()
            if linear is not None:  # with respect to the root of the scale, and nothing else
                self.of_core, self._of_linear = 1, 0.5 / linear.scale
        elif isinstance(kernel, kernels.RationalQuadraticKernel):  # which falls like the inverse square
            self._excess = (kernel.effective_alpha / kernel.alpha) ** 2

    def from_core(self, found: np.ndarray) -> np.ndarray:
        if self._of_linear is not None:
            return np.concatenate((np.where(np.isnan(found), found, 0), self._of_linear * found), axis=1)
        if self._excess != 1.0:
            return np.asarray(found * (1.0, self._excess))
        return found


DOUBLE = np.dtype(np.float64)
TASK, KNOWN = ffi.typeof("bs_task *"), ffi.typeof("bs_known *")
DOUBLES, INDICES, _BYTES = ffi.typeof("double[]"), ffi.typeof("int64_t[]"), ffi.typeof("char[]")
_ELEMENTS = {
    **dict.fromkeys(("index1", "index2", "lengths1", "lengths2"), INDICES),
    "out_of_range": ffi.typeof("uint8_t[]"),
    "stop": ffi.typeof("int32_t[]"),
}

_KEPT_BYTES = 2**18
"""Up to so much of a workspace is kept by a thread for its next call."""

_FEW = 8
"""So few pairs are one job."""

_MOST_GROUPS = 8
"""So many threads find work at one long pair, at most."""

kept_here = threading.local()
"""What a thread keeps for its next call: a `workspace`, if it has one."""

S = TypeVar("S")
T = TypeVar("T")
_Paths = tuple[np.ndarray, ...]
_Lengths = tuple[np.ndarray | None, ...]
Arrays = dict[str, Any]


@functools.cache
def _first(number: int) -> np.ndarray:
    """The indices of so many pairs."""
    index = np.arange(number, dtype=np.int64)
    index.flags.writeable = False
    return index


NOTHING = ffi.new("char[]", 0)
_never = np.zeros(1, dtype=np.int32)
"""A `stop` that nobody sets."""


def workspace_of(size: int, blame: Callable[[], str]) -> Any:
    """So many bytes for a call of this thread. `blame` says what they are too many for, where they do not fit."""
    workspace = getattr(kept_here, "workspace", NOTHING)
    if size > len(workspace):
        _validation.bytes_fit_memory(size, "the workspace of a thread", blame)
        workspace = ffi.from_buffer(_BYTES, np.empty(size, dtype=np.uint8))
        if size <= _KEPT_BYTES:
            kept_here.workspace = workspace
    return workspace


def _call(
    template: Any,
    *,
    backward: bool,
    flags: dict[str, Any],
    arrays: Arrays,
    blame: Callable[[], str],
    team: schedule.Team | None,
    helpers: int,
) -> int:
    """Call the core: `flags` and `arrays` are fields of a task, None a null pointer. `blame` says what a workspace that
    does not fit is too large for. So many threads of a `team` are asked to help with a long pair, when they have no
    other work. Returns the number of pairs that are out of range."""
    task = ffi.new(TASK, template)
    for name, value in flags.items():
        setattr(task, name, value)
    task.pairs = len(arrays["index1"])
    for name, array in arrays.items():  # which outlive the task, that holds their addresses
        if array is not None:
            setattr(task, name, ffi.from_buffer(_ELEMENTS.get(name, DOUBLES), array))
    solve = lib.bs_backward if backward else lib.bs_forward
    if helpers:
        most = ffi.new("int32_t *")
        size = lib.bs_shared(task, backward, most)
        helpers = min(most[0] - 1, helpers)
    if helpers:
        _validation.bytes_fit_memory(size, "what threads share", blame)
        shared = np.zeros(size, dtype=np.uint8)
        task.shared = ffi.from_buffer(_BYTES, shared)
    workspace = workspace_of(lib.bs_workspace(task, backward), blame)
    task.workspace = workspace  # which holds its address alone
    if team is None or not helpers:
        return int(solve(task))
    offers = [(task, shared, arrays)]  # what outlives all calls of helpers, which may come when it is withdrawn
    help_out = functools.partial(_help, offers, backward=backward, blame=blame)
    for _ in range(helpers):
        team.submit(help_out)
    try:
        return int(solve(task))
    finally:
        offers.clear()


def _help(offers: list[tuple[Any, ...]], *, backward: bool, blame: Callable[[], str]) -> None:
    """Work on the pair of another thread, if that has not finished it."""
    for offer in offers[:]:
        task = ffi.new(TASK, offer[0][0])
        try:
            workspace = workspace_of(lib.bs_workspace(task, backward), blame)
        except MemoryError:  # the others do it
            return
        task.workspace = workspace
        lib.bs_help(task, backward)


def _template(
    lengths: tuple[int, int],
    dimension: int,
    depth: int,
    order: int | None,
    untruncated: bool,
    dyadic_order: tuple[int, int],
    static_kernel: Any,
    quadrature: Quadrature,
    log_grid: bool,
    planar: bool,
) -> Any:
    """A task with everything that depends on no array; `static_kernel` is None where increments are handed in."""
    task = ffi.new("bs_task *")
    task.length1, task.length2 = task.stride1, task.stride2 = lengths
    task.dimension = dimension
    task.depth = depth
    task.untruncated = untruncated
    task.dyadic1, task.dyadic2 = dyadic_order
    task.log_grid = task.careful = log_grid  # the running products do not have the logarithms
    if order is not None:
        task.order = order
    if planar and order is None:
        task.planar = 1 if quadrature == TRAPEZOID else 2
    elif order is not None or untruncated or quadrature != TRAPEZOID:  # which is built in
        task.nodes, task.ordered = quadrature.p, planar
        for k, value in enumerate(value for row in quadrature.steps for value in row):
            task.steps[k] = value
        for k, value in enumerate(quadrature.whole[0]):
            task.whole[k] = value
    if static_kernel is not None:
        if type(static_kernel) is kernels.DilatedKernel:
            task.dilated, static_kernel = True, static_kernel.kernel
        if type(static_kernel) is kernels.PolynomialKernel:
            static_kernel = static_kernel.as_linear() or static_kernel
        if type(static_kernel) is kernels.LinearKernel:
            static_kernel = kernels.ScaledLinearKernel()
        row = TABLE[type(static_kernel)]
        task.static_kernel = getattr(lib, f"BS_{row.name}")
        for k, value in enumerate(row.values(static_kernel)):
            task.parameter[k] = value
    return task


class Plan:
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
        planar: bool,
    ) -> None:
        self.lengths, self.depth, self.order, self.dyadic_order = lengths, depth, order, dyadic_order
        self.rows, self.columns = ((n - 1) << k for n, k in zip(lengths, dyadic_order, strict=True))
        # Truncated by the number of nodes, there are as many levels, each needing all below it; a bound on the depth as
        # well adds to them (see order.h). Without truncation there is one kernel, whose gradients take the square root
        # of all its rows, and as much time as a few levels.
        untruncated = order is None and depth == math.inf
        deepest = 1 if untruncated else int(depth if order is None else min(depth, order))
        self.levels = deepest * (1 if order is None else order + 1 - deepest)
        rows = math.isqrt(self.rows) + 1 if untruncated else max(1, self.levels)
        longest = max(self.rows, self.columns) * rows * _NODE_BYTES * quadrature.p**2
        if longest > _MOST_BYTES or self.levels > _MOST_LEVELS:
            raise MemoryError(f"one row of the grids takes {longest:.1e} bytes: {self.blame()}")
        self.nodes = max(1.0, float(self.rows) * self.columns * (self.levels + 5 * untruncated) * quadrature.p**2)
        self._task = _template(
            lengths, dimension, deepest, order, untruncated, dyadic_order, static_kernel, quadrature, log_grid, planar
        )
        self.template = self._task[0]

    def blame(self) -> str:
        """What a workspace is too large for, and what to do."""
        if self.levels > max(self.rows, self.columns):
            if self.order is None:
                bounds, smaller = f"depth is {self.depth}", "depth, or math.inf for no bound"
            else:
                beside = f" and depth is {self.depth}" if self.depth < self.order else ""
                bounds, smaller = f"order is {self.order}{beside}", "order"
            return f"{bounds}, which takes memory for {self.levels} rows. Take a smaller {smaller}"
        length1, length2 = self.lengths
        return f"dyadic_order {self.dyadic_order} is too large for paths of {length1} and {length2} points"


_plan = functools.lru_cache(maxsize=64)(Plan)


_PURPOSES = {"kernel": 0, "log": 1, "difference": 2, "quotient": 3, "parts": 4, "rough": 5}
"""What values are wanted for, in the words of the core."""


_FIELDS = {"prefixes": "diagonal"}


def _quietly(work: Callable[[S], T], item: S) -> T:
    with np.errstate(all="ignore"):  # every thread has settings of its own
        return work(item)


class Sweep:
    """A problem in the terms of the core: its paths, its pairs cut into jobs, and the calls that work on them."""

    def __init__(
        self,
        problem: Problem,
        want: Want,
        *,
        log: bool,
        backward: bool = False,
        stack: bool = False,
        parameters: bool = False,
        given: bool = False,
        stop: np.ndarray | None = None,
    ) -> None:
        x, y = problem.path1, problem.path2
        self.problem = problem
        self.want = want
        self._is_adjoint = backward
        self.grids = stack or want in ("grid", "stack")
        self.log = log = log and not problem.planar
        self.log_grid = log and want == "grid" and problem.order is None and not backward
        of_depth = purpose_of(problem, log=log and want != "stack")
        self.purpose = _PURPOSES[of_depth if problem.order is None else problem.purpose or "parts"]
        self.lengths = x.shape[1], y.shape[1]
        self.fused = not given and _is_fused(problem.static_kernel, parameters=parameters)
        self.parameters = _Parameters(problem.static_kernel) if parameters and self.fused else None
        self.plan = plan = _plan(
            self.lengths,
            x.shape[2],
            problem.depth,
            problem.order,
            problem.dyadic_order,
            problem.static_kernel if self.fused else None,
            problem.quadrature,
            self.log_grid,
            problem.planar,
        )
        self.rows, self.columns, self.levels, self.nodes = plan.rows, plan.columns, plan.levels, plan.nodes
        paired = problem.pairing == "paired"
        self.count = count(problem.pairing, x.shape[0], y.shape[0])
        self.paths: _Paths = (x, y)
        if x.dtype != DOUBLE:
            x64 = x.astype(DOUBLE)
            self.paths = (x64, x64 if y is x else y.astype(DOUBLE))
        self.valid: _Lengths = (problem.lengths1, problem.lengths2)
        work, shared = self.nodes * self.count, 2 * _JOB_NODES
        self._by_pairs = work >= shared and self._goes_pair_by_pair()
        self.helpers = min(problem.n_jobs, _MOST_GROUPS) - 1 if self._by_pairs else 0
        # whether the calling thread does all jobs, one after the other; others may help
        few = work < (_INLINE_NODES if problem.n_jobs == 1 or (self._by_pairs and self.count == 1) else shared)
        self.inline = few and self.levels <= _INLINE_LEVELS
        self.alone = self.inline and paired  # then no result is made of two of the core
        self.in_one = self.alone and self.fused and self.count <= _FEW and problem.progress is None
        self._team: schedule.Team | None = None
        if stop is None:
            stop = _never if self.inline else np.zeros(1, dtype=np.int32)
        self.stop = stop

    def job_size(self, *, fixed: bool) -> int:
        """Pairs of a job, which depend on the number of threads only where they are not `fixed`."""
        problem = self.problem
        many = fixed or problem.progress is not None
        runs = _RUNS if fixed else max(4 * problem.n_jobs, _RUNS * many)
        least = _JOB_NODES if many or problem.n_jobs > 1 else _INLINE_NODES
        if not self.fused:  # a kernel written in Python takes its time too, and blocks of whole rows fill lanes badly
            least *= 4
        size = int(max(self.nodes * self.count / runs, least) / self.nodes)
        if not self.fused:
            size = min(size, self.pairs_in_block((self.lengths[0] - 1) * (self.lengths[1] - 1)))
        if self.grids:
            parts = 1 if problem.order is None else problem.order + 1
            size = min(size, self.pairs_in_block((self.rows + 1) * (self.columns + 1) * parts))
        if problem.max_batch > 0:
            size = min(size, problem.max_batch**2)
        return max(1, size)

    def jobs(self, *, fixed: bool) -> Iterator[schedule.Job]:
        """The pairs in jobs."""
        problem, lanes = self.problem, lib.bs_lanes()
        if self.in_one:
            only = _first(self.count)
            return iter(((only, only),))
        if self._by_pairs:
            lanes = 1
        size = -(-self.job_size(fixed=fixed) // lanes) * lanes
        n1, n2 = problem.path1.shape[0], problem.path2.shape[0]
        if self.grids:
            return schedule.in_order(problem.pairing, n1, n2, size)
        jobs = schedule.in_tiles_again(problem.pairing, n1, n2, size, lanes)
        if self.valid[0] is None and self.valid[1] is None:
            return jobs
        valid1, valid2 = (np.full(n, end) if v is None else v for v, n, end in zip(self.valid, (n1, n2), self.lengths))
        orders = schedule.by_length(problem.pairing, valid1, valid2, lanes)
        return schedule.reordered(jobs, problem.pairing, orders)

    def _goes_pair_by_pair(self) -> bool:
        """Tell whether long pairs are to be jobs of their own, each over all lanes, so that threads can share them.

        Values have the same bits whether the core takes pairs so or in tiles, and then what keeps the threads busy
        decides: a pair over all lanes takes half as long again as in a tile.
        """
        if self.grids or not self.fused:
            return False
        task = ffi.new(TASK, self.plan.template)
        if self.want == "prefixes":
            task.diagonal = ffi.cast("double *", task)  # which nobody reads
        if lib.bs_by_strips(task, self.count, self._is_adjoint):
            return True
        few = self.want == "end" and not self._is_adjoint and 3 * self.count <= 2 * lib.bs_lanes() * self.problem.n_jobs
        return few and bool(lib.bs_by_strips(task, 1, False))

    def pairs_in_block(self, values: int) -> int:
        """Number of pairs with so many values each that fit a block."""
        return max(1, _BLOCK_BYTES // (DOUBLE.itemsize * values))

    def run(self, items: Iterable[S], work: Callable[[S], T], collect: Callable[[T], None]) -> None:
        """Do the work on all items, in threads where there is enough of it, and collect the results in order."""
        if not self.inline:
            self._team = schedule.Team(self.problem.n_jobs)
            with np.errstate(all="ignore"):
                calls = (functools.partial(_quietly, work, item) for item in items)
                schedule.run(calls, self._team, self.helpers, self.stop, collect)
            return
        self._team = schedule.Team(self.helpers) if self.helpers else None
        try:
            if self.alone and self.fused and self.paths[0] is self.problem.path1:
                for item in items:  # the core does all of the arithmetic
                    collect(work(item))
                return
            with np.errstate(all="ignore"):
                for item in items:
                    collect(work(item))
        finally:
            if self._team is not None:
                self._team.end(None)

    def forward(self, job: schedule.Job, given: np.ndarray | None, values: np.ndarray) -> None:
        """Fill the values of the pairs of a job: what is wanted."""
        flags = {"wrt_log": self.log, "all_levels": self.want == "stack"}
        field = "grid" if self.grids else _FIELDS.get(self.want) or ("ends" if self.problem.order is None else "parts")
        self._call(self.paths, self.valid, job, given, flags, {field: values}, {})

    def backward(
        self,
        job: schedule.Job,
        given: np.ndarray | None,
        results: Arrays,
        bars: np.ndarray,
        *,
        weights: tuple[np.ndarray, np.ndarray] | None = None,
        stack: np.ndarray | None = None,
        rows: tuple[slice, slice] = (slice(None), slice(None)),
    ) -> None:
        """Add the gradients of the pairs of a job to the results: grad1 and grad2, or grad_increments.

        Those with respect to parameters, grad_parameters, are set, and stand there without the weights. `bars` are the
        derivatives of all pairs of the job, in the place of which `weights` may stand for each path. The paths of the
        job are among these `rows` of both stacks, and grad1 and grad2 are theirs.
        """
        bars = np.ascontiguousarray(bars, dtype=DOUBLE)
        of_grid, many = self.want == "grid", bars.ndim > 1
        if weights is None:
            weights = (np.ones(len(bars)),) * 2 if many else (bars, bars)
        derivs = {
            "weight1": np.ascontiguousarray(weights[0], dtype=DOUBLE),
            "weight2": np.ascontiguousarray(weights[1], dtype=DOUBLE),
            "grid_derivs": bars if of_grid else None,
            "part_derivs": bars if many and not of_grid else None,
            "k_stack": None if stack is None else np.ascontiguousarray(stack, dtype=DOUBLE),
        }
        paths = tuple(path[own] for path, own in zip(self.paths, rows, strict=True))
        valid = tuple(None if v is None else v[own] for v, own in zip(self.valid, rows, strict=True))
        index1, index2 = (index - own.start if own.start else index for index, own in zip(job, rows, strict=True))
        self._call(paths, valid, (index1, index2), given, {"wrt_log": self.log}, results, derivs)

    def _call(
        self,
        paths: _Paths,
        valid: _Lengths,
        job: schedule.Job,
        given: np.ndarray | None,
        flags: dict[str, Any],
        results: Arrays,
        derivs: Arrays,
    ) -> None:
        if given is not None:
            given = np.ascontiguousarray(given, dtype=DOUBLE)
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
        own = {}
        if self.parameters is not None:
            own["grad_parameters"] = np.zeros((len(job[0]), self.parameters.of_core))
        everything = arrays | results | derivs | own
        beyond = _call(
            self.plan.template,
            backward=bool(derivs),
            flags=flags,
            arrays=everything,
            blame=self.plan.blame,
            team=self._team,
            helpers=self.helpers,
        )
        if self.parameters is not None:
            results["grad_parameters"][...] = self.parameters.from_core(own["grad_parameters"])
        if beyond:
            again = np.flatnonzero(out_of_range)
            with np.errstate(all="ignore"):
                self._call_again(again, paths, valid, job, given, flags, results, derivs)

    def _call_again(
        self,
        pairs: np.ndarray,
        paths: _Paths,
        valid: _Lengths,
        job: schedule.Job,
        given: np.ndarray | None,
        flags: dict[str, Any],
        results: Arrays,
        derivs: Arrays,
    ) -> None:
        """Do some pairs of a job once more, block by block, with results and derivatives of their own.

        They are done in the log domain, or over ordered forests with rounding errors propagated, without a stack that
        was handed in, which may lack digits too. Where that has been done and every node of a grid is to be looked at,
        or values of ordered forests are not finite, they are left to the reference.
        """
        careful = flags.get("careful") or self.log_grid
        points = (self.lengths[0] + self.lengths[1]) * paths[0].shape[2]
        step = self.pairs_in_block(points + self.grids * (self.rows + 1) * (self.columns + 1))
        for start in range(0, len(pairs), step):
            again = pairs[start : start + step]
            own = np.arange(len(again), dtype=np.int64)
            own_paths = tuple(path[index[again]] for path, index in zip(paths, job, strict=True))
            own_valid = tuple(None if v is None else v[index[again]] for v, index in zip(valid, job, strict=True))
            own_results: Arrays = {
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
        results: Arrays,
        derivs: Arrays,
    ) -> None:
        """Fill the results of pairs of which some value may have lost its digits, by the reference."""
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
        reference = ReferenceBackend()
        if derivs:
            want, bars, log = self.want, derivs["grid_derivs"], bool(flags["wrt_log"])
            if bars is None:
                bars = np.ones(len(paths[0]))
            if given is not None:
                adjoint = reference.increments_adjoint(own, given, want, bars, log=log, stack=None)
                results["grad_increments"][...] = weighted(derivs["weight1"][:, None, None], adjoint)
                return
            names = "grad1", "grad2", "grad_parameters"
            wrt = Wrt(*(results.get(name) is not None for name in names))
            found = reference.adjoint(own, want, bars, wrt, log=log)
            for name, gradient in zip(names, found, strict=True):
                if gradient is None:
                    continue
                if name in ("grad1", "grad2"):
                    gradient = weighted(derivs["weight" + name[-1]][:, None, None], gradient)
                results[name][...] = gradient
            return
        (result,) = results.values()
        if given is not None:
            result[...] = reference.values(own, given, self.want, log=self.log_grid)
        else:
            result[...] = reference.solve(own, self.want, log=self.log_grid)
