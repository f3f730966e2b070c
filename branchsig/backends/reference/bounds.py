"""Bounds of the errors of kernels, and NaN for values that have lost their digits (see `_digits`)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from branchsig._arrays import Array, namespace_of, unrecorded
from branchsig.backends.reference.recursion import along, at_corners, cell_means, integral, small_matrix, zeros
from branchsig.quadrature import Matrix

if TYPE_CHECKING:
    from branchsig.backends.base import Problem

__all__ = ["error_bounds", "nan_where", "running_maximum"]


def _largest_means(g: Array, k: Array, weights: Matrix, p: int) -> Array:
    """For every cell, the largest |mean| of K over its sub-cells, and 0 if g = 0."""
    xp = namespace_of(g)
    pairs, rows, columns = g.shape
    widths, parts = [sum(row) for row in weights], len(weights)
    areas = xp.reshape(small_matrix(([a * b for b in widths] for a in widths), g), (1, 1, parts, 1, parts))
    means = xp.reshape(cell_means(k, weights), (pairs, rows, parts, columns, parts)) / areas
    return xp.where(g == 0, xp.zeros_like(g), xp.max(abs(means), axis=(2, 4)))


def running_maximum(values: Array, axis: int) -> Array:
    """Running maximum along axis 1 or 2."""
    xp, size, shift = namespace_of(values), values.shape[axis], 1
    while shift < size:
        first, rest = along(values, axis, 0, shift, 1), along(values, axis, shift, None, 1)
        values = xp.concat([first, xp.maximum(rest, along(values, axis, 0, size - shift, 1))], axis=axis)
        shift *= 2
    return values


def _with_edges(values: Array) -> Array:
    """Assign values of cells to their lower right corners, with 0 on the first row and column."""
    xp = namespace_of(values)
    pairs, rows, columns = values.shape
    values = xp.concat([zeros(values, (pairs, rows, 1)), values], axis=2)
    return xp.concat([zeros(values, (pairs, 1, columns + 1)), values], axis=1)


def error_bounds(g: Array, levels: list[Array], logs: list[Array], problem: Problem, *, nodes: bool) -> Array:
    """Bounds of the errors of the last of `logs`, at the end or (nodes) at all corners.

    `logs` holds log K_1, log K_2, ... at all nodes, the last one at the corners; `levels` holds K_0, K_1, ..., which
    they integrate. See `_digits`.
    """
    g = unrecorded(g)
    xp, rule = namespace_of(g), problem.quadrature
    eps = float(xp.finfo(g.dtype).eps)
    sizes = _with_edges(integral(abs(g))[:, 1:, 1:]) if nodes else xp.sum(abs(g), axis=(1, 2))
    errors = xp.zeros_like(sizes)
    for m, (k, log) in enumerate(zip(levels, logs, strict=True)):
        last = m == len(levels) - 1
        mean = _largest_means(g, unrecorded(k), rule.whole if last and problem.depth < math.inf else rule.steps, rule.p)
        reach = abs(unrecorded(log))
        if nodes:
            mean = _with_edges(running_maximum(running_maximum(mean, 1), 2))
            reach = running_maximum(running_maximum(reach, 1), 2)
            reach = reach if last else at_corners(reach, rule.p)
        else:
            mean, reach = xp.max(mean, axis=(1, 2)), xp.max(reach, axis=(1, 2))
        own = eps * sizes * mean
        if problem.depth == math.inf:  # K is the integral of itself
            errors = own * (1.0 + reach)
        else:
            errors = own + xp.where(errors == 0, xp.zeros_like(errors), errors * (0.5 * reach))
    # As long as all g are 0 there is no error, even if K is infinite elsewhere.
    errors = xp.where(xp.isnan(errors), xp.full_like(errors, math.inf), errors)
    return xp.where(sizes == 0, xp.zeros_like(errors), errors)


def nan_where(gone: Array, values: Array) -> Array:
    """Replace flagged values by NaN, in a way that also gives NaN derivatives in libraries that record operations."""
    xp = namespace_of(values)
    factor = xp.where(gone, xp.full_like(unrecorded(values), math.nan), xp.ones_like(unrecorded(values)))
    return values * factor
