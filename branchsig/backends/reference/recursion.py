"""The recursion over depths and its adjoint, from the increments of a static kernel: the specification.

A quadrature of p intervals divides each side of a cell by p + 1 nodes ξ_0..ξ_p, shared with the neighbours, so that the
nodes of all cells are one grid. With increments g of the static kernel, B[k, l] the integral of the basis function of
node l from ξ_{k-1} to ξ_k, and sub-cells between neighbouring nodes::

    K_0 = 1
    cell_m[r, c][a, b] = g[r, c] * sum over the nodes k, l of the cell of B[a, k] * B[b, l] * K_{m-1}[r, c][k, l]
    log K_m[node] = sum of cell_m over all sub-cells above and to the left of the node

The trapezoid rule has p = 1 and B = [½, ½]: the mean of the four corners. The last level is not integrated again, so it
is needed only at the corners, and uses the sums of B over a instead of B.
"""

from __future__ import annotations

from collections.abc import Iterable

from branchsig._arrays import Array, device_of, namespace_of
from branchsig.quadrature import Matrix, Quadrature

__all__ = [
    "along",
    "at_corners",
    "at_corners_adjoint",
    "at_end",
    "by_depth",
    "by_depth_adjoint",
    "cell_means",
    "increments_adjoint",
    "integral",
    "integral_adjoint",
    "integral_against",
    "k_adjoint",
    "ones",
    "refined",
    "refined_adjoint",
    "small_matrix",
    "zeros",
]


def _repeated(g: Array, times1: int, times2: int) -> Array:
    """Each entry repeated along rows and columns."""
    if times1 == times2 == 1:
        return g
    xp = namespace_of(g)
    pairs, rows, columns = g.shape
    repeated = xp.broadcast_to(g[:, :, None, :, None], (pairs, rows, times1, columns, times2))
    return xp.reshape(repeated, (pairs, rows * times1, columns * times2))


def _repeated_adjoint(gbar: Array, times1: int, times2: int) -> Array:
    """Adjoint of `_repeated`: sums over blocks."""
    if times1 == times2 == 1:
        return gbar
    xp = namespace_of(gbar)
    pairs, rows, columns = gbar.shape
    split = xp.reshape(gbar, (pairs, rows // times1, times1, columns // times2, times2))
    return xp.sum(split, axis=(2, 4))


def refined(g: Array, dyadic_order: tuple[int, int]) -> Array:
    """Increments of the cells: each increment repeated 2^l1 by 2^l2 times, and divided by that number."""
    if dyadic_order == (0, 0):
        return g
    return _repeated(g, 2 ** dyadic_order[0], 2 ** dyadic_order[1]) * 2.0 ** -sum(dyadic_order)


def refined_adjoint(gbar: Array, dyadic_order: tuple[int, int]) -> Array:
    """Adjoint of `refined`."""
    if dyadic_order == (0, 0):
        return gbar
    return _repeated_adjoint(gbar, 2 ** dyadic_order[0], 2 ** dyadic_order[1]) * 2.0 ** -sum(dyadic_order)


def along(k: Array, axis: int, start: int, stop: int | None, step: int) -> Array:
    """A slice of a stack of grids along axis 1 or 2."""
    return k[:, start:stop:step, :] if axis == 1 else k[:, :, start:stop:step]


def _interleaved(parts: list[Array], axis: int) -> Array:
    """Interleave arrays of equal shape along an axis."""
    if len(parts) == 1:
        return parts[0]
    xp = namespace_of(parts[0])
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return xp.reshape(xp.stack(parts, axis=axis + 1), tuple(shape))


def _integrals(k: Array, weights: Matrix, axis: int) -> Array:
    """Weighted sums over the nodes of each cell along an axis, one for each row of the weights, interleaved.

    Nodes of weight zero are left out, so that an infinity there has no effect.
    """
    p = len(weights[0]) - 1
    cells = (k.shape[axis] - 1) // p
    sums = []
    for row in weights:
        terms = [w * along(k, axis, l, l + (cells - 1) * p + 1, p) for l, w in enumerate(row) if w != 0.0]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        sums.append(total)
    return _interleaved(sums, axis)


def _integrals_adjoint(cellbar: Array, weights: Matrix, axis: int) -> Array:
    """Adjoint of `_integrals`: every node gathers from the cells it belongs to."""
    xp = namespace_of(cellbar)
    p, rows = len(weights[0]) - 1, len(weights)
    parts = [along(cellbar, axis, a, None, rows) for a in range(rows)]
    by_node = []
    for l in range(p + 1):
        terms = [row[l] * part for row, part in zip(weights, parts) if row[l] != 0.0]
        total = terms[0] if terms else xp.zeros_like(parts[0])
        for term in terms[1:]:
            total = total + term
        by_node.append(total)
    # The last node of a cell is the first of the next one.
    first = _interleaved(by_node[:-1], axis)
    last = _interleaved([*[xp.zeros_like(by_node[-1])] * (p - 1), by_node[-1]], axis)
    shape = list(last.shape)
    shape[axis] = 1
    end = xp.zeros(tuple(shape), dtype=last.dtype, device=device_of(last))
    return xp.concat([first, end], axis=axis) + xp.concat([end, last], axis=axis)


def cell_means(k: Array, weights: Matrix) -> Array:
    """Integrals of a grid over the sub-cells, or over the cells, of side 1: for the trapezoid rule corner means."""
    return _integrals(_integrals(k, weights, 2), weights, 1)


def _cell_means_adjoint(cellbar: Array, weights: Matrix) -> Array:
    """Adjoint of `cell_means`."""
    return _integrals_adjoint(_integrals_adjoint(cellbar, weights, 2), weights, 1)


def integral(cells: Array) -> Array:
    """Integral up to every node: along the rows first, then down the columns, 0 on the first row and column."""
    xp = namespace_of(cells)
    along_rows = xp.cumulative_sum(cells, axis=2, include_initial=True)
    return xp.cumulative_sum(along_rows, axis=1, include_initial=True)


def integral_adjoint(nodebar: Array) -> Array:
    """Adjoint of `integral`: for every cell the sum over the nodes below and to the right of it."""
    xp = namespace_of(nodebar)
    inner = xp.flip(nodebar[:, 1:, 1:], axis=(1, 2))
    return xp.flip(xp.cumulative_sum(xp.cumulative_sum(inner, axis=2), axis=1), axis=(1, 2))


def integral_against(g: Array, k: Array, weights: Matrix) -> Array:
    """Integral of K against κ up to every node (or corner, by the weights), from the increments of the cells."""
    xp = namespace_of(g)
    g = _repeated(g, len(weights), len(weights))
    means = cell_means(k, weights)
    # Where g = 0 nothing is added, even if K is inf: 0 · inf would be NaN. A finite K stays a factor, for automatic
    # differentiation.
    return integral(g * xp.where((g == 0) & ~xp.isfinite(means), xp.zeros_like(means), means))


def increments_adjoint(k: Array, weights: Matrix, w: Array) -> Array:
    """Derivatives with respect to the increments of the cells, from those with respect to the sub-cells."""
    return _repeated_adjoint(w * cell_means(k, weights), len(weights), len(weights))


def k_adjoint(g: Array, weights: Matrix, w: Array) -> Array:
    """Derivatives with respect to K at all nodes, from those with respect to the sub-cells."""
    return _cell_means_adjoint(_repeated(g, len(weights), len(weights)) * w, weights)


def zeros(like: Array, shape: tuple[int, ...]) -> Array:
    return namespace_of(like).zeros(shape, dtype=like.dtype, device=device_of(like))


def ones(g: Array, p: int) -> Array:
    """K_0 at the nodes of all cells."""
    pairs, rows, columns = g.shape
    return namespace_of(g).ones((pairs, rows * p + 1, columns * p + 1), dtype=g.dtype, device=device_of(g))


def small_matrix(rows: Iterable[Iterable[float]], like: Array) -> Array:
    xp = namespace_of(like)
    return xp.asarray([list(row) for row in rows], dtype=like.dtype, device=device_of(like))


def at_corners(k: Array, p: int) -> Array:
    return k[:, ::p, ::p]


def at_corners_adjoint(cornerbar: Array, p: int) -> Array:
    """Adjoint of `at_corners`: zero at all other nodes."""
    for axis in (1, 2):
        size = (cornerbar.shape[axis] - 1) * p + 1
        spread = _interleaved([cornerbar, *[namespace_of(cornerbar).zeros_like(cornerbar)] * (p - 1)], axis)
        cornerbar = along(spread, axis, 0, size, 1)
    return cornerbar


def at_end(bar: Array, g: Array) -> Array:
    """Extend derivatives with respect to the last corner by zeros to all corners."""
    xp = namespace_of(g)
    pairs, rows, columns = g.shape
    row = xp.concat([zeros(g, (pairs, columns)), bar[:, None]], axis=1)
    return xp.concat([zeros(g, (pairs, rows, columns + 1)), row[:, None, :]], axis=1)


def by_depth(g: Array, depth: int, rule: Quadrature) -> tuple[list[Array], list[Array]]:
    """K_0 to K_{depth-1} at the nodes of all cells, each (pairs, R * p + 1, C * p + 1), and log K_1 to log K_depth.

    The last logarithm is given at the corners.
    """
    xp = namespace_of(g)
    levels, logs = [ones(g, rule.p)], []
    for _ in range(depth - 1):
        logs.append(integral_against(g, levels[-1], rule.steps))
        levels.append(xp.exp(logs[-1]))
    return levels, [*logs, integral_against(g, levels[-1], rule.whole)]


def by_depth_adjoint(g: Array, levels: list[Array], w: Array, rule: Quadrature) -> Array:
    """Derivatives with respect to the increments of the cells.

    `levels` are K_0 to K_{depth-1}, and `w` the derivatives with respect to the cells of the last level, log K_depth.
    """
    gbar = increments_adjoint(levels[-1], rule.whole, w)
    weights = rule.whole
    for k_below, k in zip(levels[-2::-1], levels[:0:-1], strict=True):
        w = integral_adjoint(k_adjoint(g, weights, w) * k)
        weights = rule.steps
        gbar = gbar + increments_adjoint(k_below, weights, w)
    return gbar
