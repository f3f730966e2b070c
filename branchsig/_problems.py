"""From checked settings and the paths of a caller to a `Problem`: checks of the paths, lengths and transformations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from branchsig import _validation
from branchsig._arrays import Array, filled
from branchsig._options import Settings
from branchsig._progress import Report
from branchsig.backends import Problem
from branchsig.transforms import transformed


def paired_problem(path1: Any, path2: Any, settings: Settings) -> tuple[Problem, tuple[int, ...]]:
    """Check and transform paths that are paired up; return the problem and the shape of its pairs."""
    x, y, batch = _validation.paired_paths(path1, path2)
    return _problem(x, y, "paired", settings, _lengths(path1, path2, settings)), batch


def gram_problem(
    path1: Any, path2: Any, settings: Settings, max_batch: Any, report: Report | None, devices: Any, *, triangle: bool
) -> tuple[Problem, tuple[int, ...]]:
    """Check and transform the paths of a Gram matrix; return the problem and the shape of its pairs.

    With `triangle` a matrix of one stack of paths with itself is computed from one triangle, where the dyadic orders
    allow it.
    """
    x, y, batch = _validation.gram_paths(path1, path2)
    lengths = _lengths(path1, path2, settings)
    symmetric = (
        triangle and y is x and lengths[0] is lengths[1] and settings.dyadic_order[0] == settings.dyadic_order[1]
    )
    max_batch, devices = _validation.max_batch(max_batch), _validation.devices(devices, path1)
    _validation.fits_memory(batch, x, "the Gram matrix", _IN_BLOCKS)
    return _problem(x, y, "symmetric" if symmetric else "gram", settings, lengths, max_batch, report, devices), batch


_IN_BLOCKS = (
    "compute it in blocks of rows, as in branched_sig_kernel_gram(path1[:1000], path2, ...), or with paths of float32, "
    "which take half of it"
)

_Lengths = npt.NDArray[np.int64] | None


def _lengths(path1: Array, path2: Array | None, settings: Settings) -> tuple[_Lengths, _Lengths]:
    """Check the valid lengths. Where the second paths are the first, so are their lengths, as one object."""
    first = _validation.lengths(settings.lengths1, "lengths1", path1)
    if path2 is None and settings.lengths2 is not None:
        raise ValueError("lengths2 with path2=None: the second paths are the first. Leave lengths2 out")
    if path2 is None or (path2 is path1 and settings.lengths2 is None):
        return first, first
    return first, _validation.lengths(settings.lengths2, "lengths2", path2)


def _problem(
    x: Array,
    y: Array,
    pairing: str,
    settings: Settings,
    lengths: tuple[_Lengths, _Lengths],
    max_batch: int = -1,
    report: Report | None = None,
    devices: tuple[int, ...] = (),
) -> Problem:
    if type(x) is not np.ndarray:
        for path, name in ((x, "path1"), (y, "path2")):
            _validation.values_at_hand(path, name, settings.depth, settings.order, settings.rtol)
    lengths1, lengths2 = lengths
    if settings.time_aug:
        _validation.end_time_in_range(settings.end_time, x)
    if settings.time_aug or settings.lead_lag:
        same = y is x and lengths2 is lengths1
        x, lengths1 = _transformed(x, lengths1, settings)
        y, lengths2 = (x, lengths1) if same else _transformed(y, lengths2, settings)
    _validation.grid_shape(x.shape[1], y.shape[1], settings.dyadic_order)
    return Problem(
        x,
        y,
        pairing,
        settings.static_kernel,
        settings.depth,
        settings.dyadic_order,
        settings.n_jobs,
        max_batch,
        report,
        settings.quadrature,
        settings.order,
        lengths1,
        lengths2,
        settings.log and settings.return_grid,
        devices,
    )


def _transformed(path: Array, lengths: _Lengths, settings: Settings) -> tuple[Array, _Lengths]:
    """A path with the transformations applied, and its valid lengths afterwards."""
    path = transformed(filled(path, lengths), settings.time_aug, settings.lead_lag, settings.end_time, lengths)
    return path, 2 * lengths - 1 if settings.lead_lag and lengths is not None else lengths


def grid_shape(problem: Problem, batch: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the grids of a problem."""
    return batch + _validation.grid_shape(problem.path1.shape[1], problem.path2.shape[1], problem.dyadic_order)


def stack_shape(problem: Problem, batch: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the stacked grids of a problem.

    Raises
    ------
    ValueError
        If there are none, since depth or order leave no list of depths.
    """
    if problem.depth == math.inf:
        raise ValueError("depth is math.inf: a stack of the kernels of all depths has no end. Give a finite depth")
    return (*batch, int(problem.depth) + 1, *grid_shape(problem, ()))


def self_problem(paths: Any, lengths: Any, settings: Settings) -> tuple[Problem, tuple[int, ...]]:
    """Check and transform paths that are each paired with itself; return the problem and the shape of its pairs."""
    _validation.single_path(paths, "paths")
    x, _, batch = _validation.paired_paths(paths, paths)
    valid = _validation.lengths(lengths, "lengths", paths)
    return _problem(x, x, "paired", settings, (valid, valid)), batch
