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
from branchsig.static_kernels import is_built_in

__all__ = ["PLAIN", "most_of", "of_ends", "telescopes", "to_whole_paths"]

PLAIN: dict[str, Any] = {"dyadic_order": (0, 0), "quadrature": TRAPEZOID}
"""How a single increment is taken."""


def most_of(dtype: np.dtype[Any]) -> float:
    """Return a size of coordinates up to which their sum is finite in this dtype, however many they are."""
    return 2.0**900 if dtype.itemsize == 8 else 2.0**60


def telescopes(problem: Problem, want: Want) -> bool:
    """Tell whether a problem of finite paths is that of their end points, and a larger one.

    A static kernel of the user's own need not be a second difference.
    """
    if problem.depth != 1 or want != "end" or problem.signed or not is_built_in(problem.static_kernel):
        return False
    lengths = problem.path1.shape[1], problem.path2.shape[1]
    return bool(min(lengths) >= 2 and max(lengths) > 2)


def of_ends(problem: Problem, want: Want) -> Problem | None:
    """Return the problem of the end points, or None where that is another one, or no smaller.

    A path that is not finite somewhere must show in its kernels.
    """
    if not telescopes(problem, want):
        return None
    x, y = problem.path1, problem.path2
    lengths1, lengths2 = problem.lengths1, problem.lengths2
    ends1 = _ends(x, lengths1)
    ends2 = ends1 if problem.itself else _ends(y, lengths2)
    if ends1 is None or ends2 is None:
        return None
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


def _ends(path: np.ndarray, lengths: np.ndarray | None) -> np.ndarray | None:
    """The first and the last point of every path, or None where some point is not finite, or nearly infinite."""
    if lengths is None:
        with np.errstate(over="ignore", invalid="ignore"):  # finite values whose sum is not are swept
            finite = math.isfinite(np.add.reduce(path, axis=None))
        return np.ascontiguousarray(path[:, :: path.shape[1] - 1]) if finite else None
    behind = np.arange(path.shape[1]) >= lengths[:, None]
    if not np.all(np.isfinite(path) | behind[:, :, None]):
        return None
    return np.stack((path[:, 0], path[np.arange(len(path)), lengths - 1]), axis=1)


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
