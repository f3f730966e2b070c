"""Depth 1 without a sweep.

The first level integrates nothing but the increments of the static kernel, whose sum over all cells is

    log K_1 = kappa(x_end, y_end) - kappa(x_end, y_0) - kappa(x_0, y_end) + kappa(x_0, y_0)

for every rule of quadrature: the single increment of two paths that have the first and the last point alone. A problem
for values at the end, and its gradients, becomes one of such paths.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from branchsig.backends.base import Gradients, Problem, Want
from branchsig.quadrature import TRAPEZOID
from branchsig.static_kernels import BOUNDED, is_built_in

__all__ = ["PLAIN", "most_of", "of_ends", "telescopes", "to_whole_paths"]

PLAIN: dict[str, Any] = {"dyadic_order": (0, 0), "quadrature": TRAPEZOID}
"""How a single increment is taken."""


def most_of(dtype: np.dtype[Any]) -> float:
    """Return a size of coordinates up to which their sum is finite in this dtype, however many they are."""
    return 2.0**900 if dtype.itemsize == 8 else 2.0**60


def telescopes(problem: Problem, want: Want) -> bool:
    """Tell whether a problem is that of its end points, and a larger one.

    A static kernel of the user's own need not be a second difference.
    """
    if problem.depth != 1 or want != "end" or problem.signed or not is_built_in(problem.static_kernel):
        return False
    lengths = problem.path1.shape[1], problem.path2.shape[1]
    return bool(min(lengths) >= 2 and max(lengths) > 2)


def of_ends(problem: Problem, want: Want) -> Problem | None:
    """Return the problem of the end points, or None where that is another one, or no smaller.

    A path with a point that must show in its kernels has ends that are NaN: with a NaN, or an infinity unless the
    static kernel is 0 there.
    """
    if not telescopes(problem, want):
        return None
    x, y = problem.path1, problem.path2
    lengths1, lengths2 = problem.lengths1, problem.lengths2
    vanishes = type(problem.static_kernel) in BOUNDED
    ends1 = _ends(x, lengths1, vanishes)
    ends2 = ends1 if problem.itself else _ends(y, lengths2, vanishes)
    valid1 = None if lengths1 is None else np.minimum(lengths1, 2)
    valid2 = valid1 if lengths2 is lengths1 else None if lengths2 is None else np.minimum(lengths2, 2)
    return dataclasses.replace(
        problem,
        path1=ends1,
        path2=ends2,
        lengths1=valid1,
        lengths2=valid2,
        **PLAIN,
    )


def _ends(path: np.ndarray, lengths: np.ndarray | None, vanishes: bool) -> np.ndarray:
    """The first and the last point of every path, NaN where a point that is not finite must show; `vanishes`: where the
    static kernel is 0 at infinity, infinities need not."""
    if lengths is None:
        ends = np.ascontiguousarray(path[:, :: path.shape[1] - 1])
        with np.errstate(over="ignore", invalid="ignore"):
            if math.isfinite(np.add.reduce(path, axis=None)):
                return ends
    else:
        ends = np.stack((path[:, 0], path[np.arange(len(path)), lengths - 1]), axis=1)
    shows = np.isnan(path) if vanishes else ~np.isfinite(path)
    if lengths is not None:
        shows &= (np.arange(path.shape[1]) < lengths[:, None])[:, :, None]
    bad = np.any(shows, axis=(1, 2))
    if np.any(bad):
        ends = np.where(bad[:, None, None], np.asarray(np.nan, dtype=path.dtype), ends)
    return ends


def to_whole_paths(found: Gradients, problem: Problem) -> Gradients:
    """Gradients with respect to the end points as those with respect to all points, which are 0 in between.

    Where a pair has no finite value, every point of its paths has the gradient NaN.
    """

    def whole(gradient: Any, path: np.ndarray, lengths: np.ndarray | None) -> Any:
        if gradient is None:
            return None
        result = np.zeros(path.shape, dtype=gradient.dtype)
        last = np.full(len(path), path.shape[1]) if lengths is None else lengths
        result[np.arange(len(path)), last - 1] = gradient[:, 1]
        result[:, 0] = gradient[:, 0]
        for k in np.flatnonzero(np.any(np.isnan(gradient), axis=(1, 2))):
            result[k, : last[k]] = np.nan
        return result

    return found._replace(
        path1=whole(found.path1, problem.path1, problem.lengths1),
        path2=whole(found.path2, problem.path2, problem.lengths2),
    )
