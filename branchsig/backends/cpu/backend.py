"""The CPU backend: packs arguments for the compiled core, and collects the results.

A `Problem` on NumPy arrays comes in. The core (``c_src``) sweeps tiles of pairs by running products, one pair per SIMD
lane; the few pairs whose kernels leave the range of those are swept again in the log domain. It computes in float64,
whatever the dtype of the paths: in float32 the errors of the levels add up to more than the dtype resolves. Beyond the
result it takes a workspace of O(depth · length2) a thread, and up to 26 MB for gradients, 31 MB for those with respect
to parameters (without truncation, and over ordered forests, O(√length1 · length2), where that is more; for pairs of
more than 512 sub-cells a side, 2 KB a point and level, which threads that share the pair share too). Pairs of a custom
static kernel come as increments, in blocks of bounded size (see `pairs`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from branchsig._arrays import weighted
from branchsig.backends import pairs
from branchsig.backends.base import Gradients, Problem, Want, Wrt
from branchsig.backends.cpu import schedule, telescope
from branchsig.backends.cpu.ready import Ready
from branchsig.backends.cpu.task import DOUBLE, Sweep
from branchsig.backends.reference import ReferenceBackend
from branchsig.quadrature import TRAPEZOID, LeftPoint
from branchsig.static_kernels import parameters_of

__all__ = ["CpuBackend"]

S = TypeVar("S")
T = TypeVar("T")
_Gradients = tuple[np.ndarray | None, ...]
_Rows = tuple[slice, slice]


class CpuBackend:
    """The compiled core. See `branchsig.backends.Backend` for the methods."""

    name = "cpu"

    def ready(self, problem: Problem, batch: tuple[int, ...], *, log: bool, total: bool) -> Ready | None:
        """Return the description of a problem for later calls with other arrays, where it is short enough for one.

        With `total`, one stack is both arguments, and gradients with respect to it are the total ones.
        """
        return Ready.of(problem, batch, log=log, total=total) if _in_core(problem, "end") else None

    def solve(self, problem: Problem, want: Want, *, log: bool = False) -> np.ndarray:
        """Return kernels, their logarithms or components, at the end or at every node."""
        if not _in_core(problem, want):
            return np.asarray(_REFERENCE.solve(problem, want, log=log))
        problem = telescope.of_ends(problem, want) or problem
        sweep = Sweep(problem, want, log=log)
        if pairs.still(problem):
            return np.asarray(pairs.all_ones(problem, want, log=log))
        if not sweep.fused:
            return np.asarray(pairs.solve(problem, _OfIncrements(sweep), want, log=log))
        result = np.empty(pairs.shape_of(problem, want), dtype=problem.path1.dtype)
        flat = _flat(problem, result)
        behind, in_place = flat.shape[1:], result.dtype == DOUBLE and (sweep.grids or sweep.in_one)

        def work(job: schedule.Job) -> tuple[schedule.Job, np.ndarray]:
            if in_place:
                values = flat if sweep.in_one else flat[_run(problem, job)]
            else:
                values = np.empty((len(job[0]), *behind))
            sweep.forward(job, None, values)
            return job, values

        def collect(job: schedule.Job, values: np.ndarray) -> None:
            if in_place:
                return
            flat[_places(problem, *job)] = values
            if problem.pairing == "symmetric":
                flat[_places(problem, *job[::-1])] = values

        _run_jobs(sweep, work, collect, fixed=False)
        return result

    def adjoint(
        self,
        problem: Problem,
        want: Want,
        derivs: np.ndarray,
        wrt: Wrt,
        *,
        log: bool = False,
        stack: np.ndarray | None = None,
    ) -> Gradients:
        """Return the gradients with respect to the paths and the parameters of the static kernel.

        A `stack` is read for the trapezoid rule alone, over unordered forests: for others it lacks nodes, or saves
        little.
        """
        if not _in_core(problem, want):
            return _REFERENCE.adjoint(problem, want, derivs, wrt, log=log, stack=stack)
        ends = telescope.of_ends(problem, want)
        if ends is not None:
            return telescope.to_whole_paths(self.adjoint(ends, want, derivs, wrt, log=log), problem)
        stack = stack if problem.quadrature == TRAPEZOID and not problem.planar else None
        count = len(parameters_of(problem.static_kernel)) if wrt.parameters else 0
        sweep = Sweep(problem, want, log=log, backward=True, stack=stack is not None, parameters=count > 0)
        if pairs.still(problem):
            return pairs.without_gradient(problem, wrt)
        if not sweep.fused:
            return pairs.adjoint(problem, _OfIncrements(sweep), want, derivs, wrt, log=log, stack=stack)
        paired, symmetric = problem.pairing == "paired", problem.pairing == "symmetric"
        totals: _Gradients = (
            np.zeros(problem.path1.shape) if wrt.path1 else None,
            np.zeros(problem.path2.shape) if wrt.path2 else None,
        )
        bars, stacks = _flat(problem, derivs), None if stack is None else _flat(problem, stack)
        of_parameters = np.zeros((*derivs.shape[: problem.axes], count)) if wrt.parameters else None

        def work(job: schedule.Job) -> tuple[schedule.Job, tuple[_Rows, _Gradients]]:
            every, rows = job, _rows_of(problem, job)
            place = _run(problem, job) if sweep.grids else _places(problem, *job)
            of_job, of_stack = bars[place], None if stacks is None else stacks[place]
            weights = pairs.weights_of(derivs, *job) if symmetric else None
            grads = totals  # every pair of a paired problem has rows of its own there
            if not paired:
                grad1, grad2 = (None if a is None else np.zeros_like(a[r]) for a, r in zip(totals, rows, strict=True))
                grads = (grad1, grad1 if symmetric else grad2)
            if np.count_nonzero(of_job) != of_job.size:  # the others are not solved for, and may be infinite
                some = pairs.counted(*(weights or (of_job,)))
                job, of_job = (job[0][some], job[1][some]), of_job[some]
                of_stack = None if of_stack is None else of_stack[some]
                weights = None if weights is None else (weights[0][some], weights[1][some])
            if len(job[0]):
                own = np.zeros((len(job[0]), count)) if count else None
                results = {"grad1": grads[0], "grad2": grads[1], "grad_parameters": own}
                sweep.backward(job, None, results, of_job, weights=weights, stack=of_stack, rows=rows)
                if own is not None and of_parameters is not None:  # every pair has a row of its own there
                    parameters = _flat(problem, of_parameters)
                    weight1, weight2 = weights or (of_job if of_job.ndim == 1 else np.ones(len(own)),) * 2
                    if symmetric:
                        parameters[_places(problem, *job[::-1])] = weighted(weight2[:, None], own)
                    # the diagonal is no mirror image, and so comes last
                    parameters[_places(problem, *job)] = weighted(weight1[:, None], own)
            return every, (rows, grads)

        def collect(_: schedule.Job, made: tuple[_Rows, _Gradients]) -> None:
            rows, parts = made
            for total, part, own in zip(totals, parts, rows, strict=True):
                if total is not None and part is not None and total is not part:
                    total[own] += part

        _run_jobs(sweep, work, collect, fixed=not paired)
        dtype = problem.path1.dtype
        return Gradients(_as(dtype, totals[0]), _as(dtype, totals[1]), _as(dtype, of_parameters))


_REFERENCE = ReferenceBackend()


def _in_core(problem: Problem, want: Want) -> bool:
    """Tell whether the core solves a problem. Over ordered forests by depth it judges grids only as kernels."""
    if not problem.planar or problem.order is not None:
        return True
    judged = want != "grid" or problem.purpose in (None, "kernel", "rough")
    return judged and problem.quadrature in (TRAPEZOID, LeftPoint())


class _OfIncrements:
    """Solves pairs with given increments. See `pairs.Solver` for the methods."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep

    def most_pairs(self, problem: Problem, *, gradients: bool) -> int:
        return self._sweep.job_size(fixed=True)

    def run(self, items: Iterable[S], work: Callable[[S], T], collect: Callable[[T], None]) -> None:
        self._sweep.run(items, work, collect)

    def room(self, problem: Problem, shape: tuple[int, ...]) -> np.ndarray:
        return np.empty(shape, dtype=problem.path1.dtype)

    def values(self, problem: Problem, given: np.ndarray, want: Want, *, log: bool) -> np.ndarray:
        sweep = self._sweep
        if problem is not sweep.problem:
            sweep = Sweep(problem, want, log=log, given=True, stop=sweep.stop)
        values = np.empty(pairs.shape_of(problem, want))
        sweep.forward(_every(problem), given, values)
        return values

    def increments_adjoint(
        self,
        problem: Problem,
        given: np.ndarray,
        want: Want,
        derivs: np.ndarray,
        *,
        log: bool,
        stack: np.ndarray | None,
    ) -> np.ndarray:
        sweep = self._sweep
        if problem is not sweep.problem:
            of_stack = stack is not None
            sweep = Sweep(problem, want, log=log, backward=True, stack=of_stack, given=True, stop=sweep.stop)
        d_given = np.zeros(given.shape)
        sweep.backward(_every(problem), given, {"grad_increments": d_given}, derivs, stack=stack)
        return d_given


def _every(problem: Problem) -> schedule.Job:
    index = np.arange(problem.path1.shape[0], dtype=np.int64)
    return index, index


def _run_jobs(
    sweep: Sweep,
    work: Callable[[schedule.Job], tuple[schedule.Job, T]],
    collect: Callable[[schedule.Job, T], None],
    *,
    fixed: bool,
) -> None:
    """Do the work on every job, collect the results in order, and report the pairs that are done."""
    progress, done = sweep.problem.progress, 0

    def finish(result: tuple[schedule.Job, T]) -> None:
        nonlocal done
        job, made = result
        collect(job, made)
        done += len(job[0])
        if progress is not None:
            progress(done, sweep.count)

    sweep.run(sweep.jobs(fixed=fixed), work, finish)


def _places(problem: Problem, index1: np.ndarray, index2: np.ndarray) -> np.ndarray:
    """Where pairs lie in a result with all pairs on one axis."""
    return index1 if problem.pairing == "paired" else index1 * problem.path2.shape[0] + index2


def _run(problem: Problem, job: schedule.Job) -> slice:
    """The same for a job taken in order."""
    first = int(_places(problem, job[0][:1], job[1][:1])[0])
    return slice(first, first + len(job[0]))


def _rows_of(problem: Problem, job: schedule.Job) -> _Rows:
    """Rows of both stacks of paths that hold those of a job: the same ones where the stacks are the same."""
    if problem.pairing == "paired":
        return slice(None), slice(None)
    if not len(job[0]):
        return slice(0, 0), slice(0, 0)
    first, second = (slice(int(index.min()), int(index.max()) + 1) for index in job)
    if problem.pairing == "symmetric":
        first = second = slice(min(first.start, second.start), max(first.stop, second.stop))
    return first, second


def _flat(problem: Problem, array: np.ndarray) -> np.ndarray:
    """An array over all pairs with the pairs on one axis: a view, where its memory allows one."""
    return array if problem.axes == 1 else array.reshape(-1, *array.shape[2:])


def _as(dtype: np.dtype[Any], array: np.ndarray | None) -> np.ndarray | None:
    if array is None or array.dtype == dtype:
        return array
    with np.errstate(all="ignore"):
        return array.astype(dtype)
