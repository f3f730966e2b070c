"""The branched signature kernel: of pairs of paths, of all pairs, at every node, and at every depth.

Paths come in; they are checked, transformed and handed to a backend as a `Problem`, and the logarithms or grids that come back
go out as kernels, normalised where that is asked for.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Unpack

import numpy as np

from branchsig import _validation
from branchsig._arrays import Array, namespace_of
from branchsig._options import KernelOptions, PathOptions, Settings, gather, public
from branchsig._progress import Report, reporting
from branchsig.backends import Problem, backend_for
from branchsig.normalization import unit_kernel
from branchsig.transforms import transformed

__all__ = ["branched_sig_kernel", "branched_sig_kernel_gram", "branched_sig_kernel_stack"]


@public(KernelOptions)
def branched_sig_kernel(
    path1: Array,
    path2: Array,
    depth: int,
    dyadic_order: int | tuple[int, int] = 0,
    **options: Unpack[KernelOptions],
) -> Array:
    settings = gather(depth, dyadic_order, options)
    problem, batch = paired_problem(path1, path2, settings)
    return values(problem, batch, settings)


@public(KernelOptions)
def branched_sig_kernel_gram(
    path1: Array,
    path2: Array | None,
    depth: int,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    max_batch: int = -1,
    progress: bool | Callable[[int, int], None] = False,
    **options: Unpack[KernelOptions],
) -> Array:
    settings = gather(depth, dyadic_order, options)
    with reporting(progress) as report:
        problem, batch = gram_problem(path1, path2, settings, max_batch, report, triangle=not settings.return_grid)
        return values(problem, batch, settings)


@public(PathOptions)
def branched_sig_kernel_stack(
    path1: Array,
    path2: Array,
    depth: int,
    dyadic_order: int | tuple[int, int] = 0,
    **options: Unpack[PathOptions],
) -> Array:
    settings = gather(depth, dyadic_order, options, PathOptions)
    problem, batch = paired_problem(path1, path2, settings)
    shape = stack_shape(problem, batch)
    _validation.fits_memory(shape, problem.path1, "the stack", "take fewer pairs at a time, or leave k_stack out")
    stack = backend_for(problem.path1).grid(problem, all_levels=True)
    _warn_of_overflow(stack, problem)
    return namespace_of(stack).reshape(stack, shape)


def paired_problem(path1: Any, path2: Any, settings: Settings) -> tuple[Problem, tuple[int, ...]]:
    """Check and transform paths that are paired up; return the problem and the shape of its pairs."""
    x, y, batch = _validation.paired_paths(path1, path2)
    return _problem(x, y, "paired", settings), batch


def gram_problem(
    path1: Any, path2: Any, settings: Settings, max_batch: Any, report: Report | None, *, triangle: bool
) -> tuple[Problem, tuple[int, ...]]:
    """Check and transform the paths of a Gram matrix; return the problem and the shape of its pairs.

    With `triangle` a matrix of one stack of paths with itself is computed from one triangle, where the dyadic orders allow it.
    """
    x, y, batch = _validation.gram_paths(path1, path2)
    symmetric = triangle and y is x and settings.dyadic_order[0] == settings.dyadic_order[1]
    max_batch = _validation.max_batch(max_batch)
    return _problem(x, y, "symmetric" if symmetric else "gram", settings, max_batch, report), batch


def _problem(
    x: Array, y: Array, pairing: str, settings: Settings, max_batch: int = -1, report: Report | None = None
) -> Problem:
    if settings.time_aug or settings.lead_lag:
        same = y is x
        x = transformed(x, settings.time_aug, settings.lead_lag, settings.end_time)
        y = x if same else transformed(y, settings.time_aug, settings.lead_lag, settings.end_time)
    _validation.grid_shape(x.shape[1], y.shape[1], settings.dyadic_order)
    return Problem(
        x, y, pairing, settings.static_kernel, settings.depth, settings.dyadic_order, settings.n_jobs, max_batch, report
    )


def grid_shape(problem: Problem, batch: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the grids of a problem."""
    return batch + _validation.grid_shape(problem.path1.shape[1], problem.path2.shape[1], problem.dyadic_order)


def stack_shape(problem: Problem, batch: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the stacked grids of a problem."""
    return (*batch, problem.depth + 1, *grid_shape(problem, ())) 


def values(problem: Problem, batch: tuple[int, ...], settings: Settings) -> Array:
    """Solve a problem for what the settings ask for, and warn of overflow."""
    backend = backend_for(problem.path1)
    shape = batch
    if settings.return_grid:
        shape = grid_shape(problem, batch)
        _validation.fits_memory(shape, problem.path1, "the grid", "take fewer pairs at a time or a lower dyadic order")
        result = backend.grid(problem, all_levels=False)
    elif settings.normalize:
        result = unit_kernel(backend, problem)
    else:
        log_k = backend.log_kernel(problem)
        with np.errstate(all="ignore"):
            result = namespace_of(log_k).exp(log_k)
    _warn_of_overflow(result, problem)
    return result if result.shape == shape else namespace_of(result).reshape(result, shape)


def _warn_of_overflow(result: Array, problem: Problem) -> None:
    """Warn once if values are not finite although the paths they belong to are."""
    xp = namespace_of(result)
    if bool(xp.all(xp.isfinite(result))):
        return
    finite1 = xp.all(xp.isfinite(problem.path1), axis=(1, 2))
    finite2 = xp.all(xp.isfinite(problem.path2), axis=(1, 2))
    expected = finite1 & finite2 if problem.pairing == "paired" else finite1[:, None] & finite2[None, :]
    expected = xp.reshape(expected, (*expected.shape, *(1,) * (result.ndim - expected.ndim)))
    overflowed = int(xp.sum(xp.astype(expected & ~xp.isfinite(result), xp.int64)))
    if overflowed:
        warnings.warn(
            f"{overflowed} of {math.prod(result.shape)} values overflowed and are inf or NaN: the branched signature kernel "
            "grows faster than the exponential of the size of the paths. Scale the paths down, use a bounded static kernel "
            "such as RBFKernel, or normalize=True",
            RuntimeWarning,
            stacklevel=4,
        )
