"""The compiled core for NumPy arrays: packs its arguments, splits the pairs over threads, and collects the results.

A `Problem` on NumPy arrays comes in. The core (``c_src``) sweeps tiles of pairs by running products, one pair per SIMD
lane; the few pairs whose kernels leave the range of those are swept again in the log domain. It computes in float64,
whatever the dtype of the paths: in float32 the errors of the levels add up to more than the dtype resolves. Beyond the
result it takes a workspace of O(depth · length2) a thread, and up to 26 MB for gradients, 31 MB for those with respect
to parameters (without truncation
O(√length1 · length2), where that is more). Increments of a static kernel of the user's own are computed in blocks of
bounded size.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from branchsig import static_kernels as kernels
from branchsig.backends.base import Gradients, Problem, Want, Wrt
from branchsig.backends.cpu import schedule, telescope
from branchsig.backends.cpu.task import DOUBLE, Arrays, Sweep
from branchsig.quadrature import TRAPEZOID

__all__ = ["CpuBackend"]


class CpuBackend:
    """The compiled core. See `branchsig.backends.Backend` for the methods."""

    name = "cpu"

    def solve(self, problem: Problem, want: Want, *, log: bool = False) -> np.ndarray:
        """Return kernels, their logarithms or components, at the end or at every node."""
        if want == "prefixes":
            return self._prefixes(problem)
        problem = telescope.of_ends(problem, want) or problem
        if problem.order is not None:
            return self._components(problem, grid=want == "grid")
        return self._ends(problem, log=log) if want == "end" else self._grid(problem, want == "stack", log=log)

    def _ends(self, problem: Problem, *, log: bool) -> np.ndarray:
        sweep = Sweep(problem, grids=False, log=log)
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

    def _grid(self, problem: Problem, all_levels: bool, *, log: bool) -> np.ndarray:
        """K_depth, its logarithm, or K_0 to K_depth, at every node."""
        sweep = Sweep(problem, grids=True, log=log, log_grid=log)
        levels = (problem.depth + 1,) if all_levels else ()
        shape = (*levels, sweep.rows + 1, sweep.columns + 1)
        if sweep.trivial:
            return np.full((*sweep.shape, *shape), not log, dtype=problem.path1.dtype)
        result = np.empty((sweep.count, *shape), dtype=problem.path1.dtype)

        def work(index1: np.ndarray, index2: np.ndarray) -> None:
            part = result[sweep.part(index1, index2)]
            grid = part if part.dtype == DOUBLE else np.empty(part.shape)
            sweep.forward((index1, index2), sweep.given(index1, index2)[1], grid=grid)
            if grid is not part:
                part[...] = grid

        sweep.run(work, lambda _: None, fixed=False)
        return result.reshape(*sweep.shape, *shape)

    def _components(self, problem: Problem, *, grid: bool) -> np.ndarray:
        """k_0 to k_order at the end of both paths, or at every node."""
        sweep = Sweep(problem, grids=grid)
        shape = (*((sweep.rows + 1, sweep.columns + 1) if grid else ()), (problem.order or 0) + 1)
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

    def _prefixes(self, problem: Problem) -> np.ndarray:
        """log K_depth, or k_0 to k_order, of every path up to each of its points with itself."""
        sweep = Sweep(problem, grids=False)
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

        A `stack` is read for the trapezoid rule alone: for others it lacks nodes, or saves little.
        """
        ends = telescope.of_ends(problem, want)
        if ends is not None:
            return telescope.to_whole_paths(self.adjoint(ends, want, derivs, wrt, log=log), problem)
        stack = stack if problem.quadrature == TRAPEZOID else None
        paired, symmetric = problem.pairing == "paired", problem.pairing == "symmetric"
        of_parts = problem.order is not None
        of_grid = want == "grid"
        count = len(kernels.parameters_of(problem.static_kernel)) if wrt.parameters else 0
        sweep = Sweep(problem, grids=of_grid or stack is not None, log=log, parameters=count > 0)
        of_parameters = np.zeros((math.prod(sweep.shape), count)) if wrt.parameters else None
        totals = tuple(np.zeros(p.shape) if wanted else None for p, wanted in zip(sweep.paths, wrt[:2], strict=True))
        dtype = problem.path1.dtype

        def gradients() -> Gradients:
            shaped = None if of_parameters is None else of_parameters.reshape(*sweep.shape, count)
            return Gradients(_as(dtype, totals[0]), _as(dtype, totals[1]), _as(dtype, shaped))

        if sweep.trivial:
            return gradients()
        all_derivs = sweep.flat(derivs)
        all_stacks = None if stack is None else sweep.flat(stack)

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
            job, own = (index1, index2), np.zeros((len(index1), count)) if count else None
            ctx, given = sweep.given(*job)
            if given is None:
                results = {"grad1": grads[0], "grad2": grads[1], "grad_parameters": own}
                sweep.backward(job, None, results, arrays, wrt_log=log)
            else:
                _through_given(sweep, ctx, given, job, grads, own, arrays, wrt_log=log)
            if own is not None and of_parameters is not None:  # every pair has a row of its own there
                weight1, weight2 = (np.asarray(arrays[name]) for name in ("weight1", "weight2"))
                of_parameters[index1 if paired else index1 * problem.path2.shape[0] + index2] = _weighted(weight1, own)
                if symmetric:
                    apart = index1 != index2
                    mirrored = index2[apart] * problem.path2.shape[0] + index1[apart]
                    of_parameters[mirrored] = _weighted(weight2[apart], own[apart])
            return grads

        def collect(parts: tuple[np.ndarray | None, ...]) -> None:
            for total, part in zip(totals, parts, strict=True):
                if total is not None and part is not None and total is not part:
                    total += part

        sweep.run(work, collect, fixed=not paired)
        return gradients()


def _counted(arrays: Arrays) -> np.ndarray | None:
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
    sweep: Sweep,
    ctx: kernels.Context,
    given: np.ndarray,
    job: schedule.Job,
    grads: tuple[np.ndarray | None, ...],
    of_parameters: np.ndarray | None,
    arrays: Arrays,
    *,
    wrt_log: bool,
) -> None:
    """Add the gradients of a job through a user's own static kernel, whose increments are `given`, to `grads`, and set
    those with respect to its parameters, without weights."""
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
            np.add.at(grad, index, _weighted(weight, part))
    if of_parameters is not None:
        of_parameters[...] = kernels.gradient_parameters(problem.static_kernel, ctx, d_given)
        for index, valid in zip(job, sweep.valid, strict=True):
            if valid is not None:  # a path of one point: all is constant, whatever the static kernel
                of_parameters[valid[index] == 1] = 0


def _weighted(weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values of pairs, on the first axis, times their weights; those of weight 0 are 0, whatever they were."""
    return np.asarray(np.where(weight == 0, 0, weight * values.T).T)


def _as(dtype: np.dtype[Any], array: np.ndarray | None) -> np.ndarray | None:
    if array is None or array.dtype == dtype:
        return array
    with np.errstate(all="ignore"):
        return array.astype(dtype)
