"""The specification: the recursion of the branched signature kernel and its adjoint, in array API calls.

A `Problem` on arrays of any library comes in; logarithms of kernels, grids, homogeneous parts or gradients go out.
Every other backend is held against this one. It keeps whole grids, so it works on blocks of pairs whose grids fit a
fixed budget of memory, and it never writes into an array, so it serves libraries whose arrays cannot be written to.

A quadrature of p intervals divides each side of a cell by p + 1 nodes ξ_0..ξ_p, shared with the neighbours, so that the
nodes of all cells are one grid. With increments g of the static kernel, B[k, l] the integral of the basis function of
node l from ξ_{k-1} to ξ_k, and sub-cells between neighbouring nodes::

    K_0 = 1
    cell_m[r, c][a, b] = g[r, c] * sum over the nodes k, l of the cell of B[a, k] * B[b, l] * K_{m-1}[r, c][k, l]
    log K_m[node] = sum of cell_m over all sub-cells above and to the left of the node

The trapezoid rule has p = 1 and B = [½, ½]: the mean of the four corners. Since the last level has no level above it,
it is needed at the corners alone, and takes the row of sums over a of B in the place of B.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from branchsig._arrays import Array, device_of, filled, in_float64, namespace_of, unrecorded, weighted
from branchsig.backends._digits import lost, lost_parts, purpose_of
from branchsig.quadrature import Matrix, Quadrature
from branchsig.static_kernels import Context, gradient_x, gradient_y, increments, is_built_in

if TYPE_CHECKING:
    from branchsig.backends import Problem

__all__ = ["ReferenceBackend"]

_BLOCK_BYTES = 64 * 2**20
"""Memory that the grids of the pairs in flight may take together."""

_POINT_ARRAYS = 30
"""Arrays of the size of all pairs of points that the increments of a static kernel are made of."""


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


def _refined(g: Array, dyadic_order: tuple[int, int]) -> Array:
    """Increments of the cells: each increment repeated 2^l1 by 2^l2 times, and divided by that number."""
    if dyadic_order == (0, 0):
        return g
    return _repeated(g, 2 ** dyadic_order[0], 2 ** dyadic_order[1]) * 2.0 ** -sum(dyadic_order)


def _refined_adjoint(gbar: Array, dyadic_order: tuple[int, int]) -> Array:
    """Adjoint of `_refined`."""
    if dyadic_order == (0, 0):
        return gbar
    return _repeated_adjoint(gbar, 2 ** dyadic_order[0], 2 ** dyadic_order[1]) * 2.0 ** -sum(dyadic_order)


def _along(k: Array, axis: int, start: int, stop: int | None, step: int) -> Array:
    """A slice of a stack of grids along axis 1 or 2."""
    return k[:, start:stop:step, :] if axis == 1 else k[:, :, start:stop:step]


def _interleaved(parts: list[Array], axis: int) -> Array:
    """Arrays of equal shape as one, the entries of the parts taken in turn along the axis."""
    if len(parts) == 1:
        return parts[0]
    xp = namespace_of(parts[0])
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return xp.reshape(xp.stack(parts, axis=axis + 1), tuple(shape))


def _integrals(k: Array, weights: Matrix, axis: int) -> Array:
    """Weighted sums over the nodes of each cell along an axis, one for each row of the weights, interleaved.

    A node of weight zero is left out, so that an infinity there is not seen.
    """
    p = len(weights[0]) - 1
    cells = (k.shape[axis] - 1) // p
    sums = []
    for row in weights:
        terms = [w * _along(k, axis, l, l + (cells - 1) * p + 1, p) for l, w in enumerate(row) if w != 0.0]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        sums.append(total)
    return _interleaved(sums, axis)


def _integrals_adjoint(cellbar: Array, weights: Matrix, axis: int) -> Array:
    """Adjoint of `_integrals`: every node gathers from the cells it belongs to."""
    xp = namespace_of(cellbar)
    p, rows = len(weights[0]) - 1, len(weights)
    parts = [_along(cellbar, axis, a, None, rows) for a in range(rows)]
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


def _mean(k: Array, weights: Matrix) -> Array:
    """Integrals of a grid over the sub-cells, or over the cells, of side 1: for the trapezoid rule corner means."""
    return _integrals(_integrals(k, weights, 2), weights, 1)


def _mean_adjoint(cellbar: Array, weights: Matrix) -> Array:
    """Adjoint of `_mean`."""
    return _integrals_adjoint(_integrals_adjoint(cellbar, weights, 2), weights, 1)


def _integral(cells: Array) -> Array:
    """Integral up to every node: along the rows first, then down the columns, 0 on the first row and column."""
    xp = namespace_of(cells)
    along_rows = xp.cumulative_sum(cells, axis=2, include_initial=True)
    return xp.cumulative_sum(along_rows, axis=1, include_initial=True)


def _integral_adjoint(nodebar: Array) -> Array:
    """Adjoint of `_integral`: for every cell the sum over the nodes below and to the right of it."""
    xp = namespace_of(nodebar)
    inner = xp.flip(nodebar[:, 1:, 1:], axis=(1, 2))
    return xp.flip(xp.cumulative_sum(xp.cumulative_sum(inner, axis=2), axis=1), axis=(1, 2))


def _integral_against(g: Array, k: Array, weights: Matrix) -> Array:
    """Integral of K against κ up to every node (or corner, by the weights), from the increments of the cells."""
    xp = namespace_of(g)
    g = _repeated(g, len(weights), len(weights))
    means = _mean(k, weights)
    # Where nothing moves nothing is added, even if K is inf there: 0 · inf must not make NaN of it. A finite K stays a
    # factor, for a library that differentiates by itself.
    return _integral(g * xp.where((g == 0) & ~xp.isfinite(means), xp.zeros_like(means), means))


def _increments_adjoint(k: Array, weights: Matrix, w: Array) -> Array:
    """Derivatives with respect to the increments of the cells, from those with respect to the sub-cells."""
    return _repeated_adjoint(w * _mean(k, weights), len(weights), len(weights))


def _k_adjoint(g: Array, weights: Matrix, w: Array) -> Array:
    """Derivatives with respect to K at all nodes, from those with respect to the sub-cells."""
    return _mean_adjoint(_repeated(g, len(weights), len(weights)) * w, weights)


def _ones(g: Array, p: int) -> Array:
    """K_0 at the nodes of all cells."""
    pairs, rows, columns = g.shape
    return namespace_of(g).ones((pairs, rows * p + 1, columns * p + 1), dtype=g.dtype, device=device_of(g))


def _at_corners(k: Array, p: int) -> Array:
    return k[:, ::p, ::p]


def _at_corners_adjoint(cornerbar: Array, p: int) -> Array:
    """Adjoint of `_at_corners`: zero at all other nodes."""
    for axis in (1, 2):
        size = (cornerbar.shape[axis] - 1) * p + 1
        spread = _interleaved([cornerbar, *[namespace_of(cornerbar).zeros_like(cornerbar)] * (p - 1)], axis)
        cornerbar = _along(spread, axis, 0, size, 1)
    return cornerbar


def _levels(g: Array, depth: int, rule: Quadrature) -> tuple[list[Array], list[Array]]:
    """K_0 to K_{depth-1} at the nodes of all cells, each (pairs, R * p + 1, C * p + 1), and log K_1 to log K_depth.

    The last logarithm is that at the corners.
    """
    xp = namespace_of(g)
    levels, logs = [_ones(g, rule.p)], []
    for _ in range(depth - 1):
        logs.append(_integral_against(g, levels[-1], rule.steps))
        levels.append(xp.exp(logs[-1]))
    return levels, [*logs, _integral_against(g, levels[-1], rule.whole)]


def _levels_adjoint(g: Array, levels: list[Array], w: Array, rule: Quadrature) -> Array:
    """Derivatives with respect to the increments of the cells.

    `levels` are K_0 to K_{depth-1}, and `w` the derivatives with respect to the cells of the last level, log K_depth.
    """
    gbar = _increments_adjoint(levels[-1], rule.whole, w)
    weights = rule.whole
    for k_below, k in zip(levels[-2::-1], levels[:0:-1], strict=True):
        w = _integral_adjoint(_k_adjoint(g, weights, w) * k)
        weights = rule.steps
        gbar = gbar + _increments_adjoint(k_below, weights, w)
    return gbar


def _solved_levels(g: Array, problem: Problem) -> tuple[list[Array], list[Array]]:
    """The kernels that log K is an integral of, at all nodes, and the logarithms of K_1 and so on.

    The last of these is that at the corners. Depth at least 1. Without truncation K is the integral of itself.
    """
    rule = problem.quadrature
    if problem.depth < math.inf:
        return _levels(g, int(problem.depth), rule)
    log_k = _untruncated(g, rule)
    return [namespace_of(g).exp(log_k)], [_at_corners(log_k, rule.p)]


# Bounds of errors, and what has lost its digits (see `_digits`).


def _largest_means(g: Array, k: Array, weights: Matrix, p: int) -> Array:
    """The largest |mean| of K over a sub-cell, for every cell, and 0 where nothing moves."""
    xp = namespace_of(g)
    pairs, rows, columns = g.shape
    widths, parts = [sum(row) for row in weights], len(weights)
    areas = xp.reshape(_small_matrix(([a * b for b in widths] for a in widths), g), (1, 1, parts, 1, parts))
    means = xp.reshape(_mean(k, weights), (pairs, rows, parts, columns, parts)) / areas
    return xp.where(g == 0, xp.zeros_like(g), xp.max(abs(means), axis=(2, 4)))


def _running_maximum(values: Array, axis: int) -> Array:
    """The largest value up to every one along axis 1 or 2."""
    xp, size, shift = namespace_of(values), values.shape[axis], 1
    while shift < size:
        first, rest = _along(values, axis, 0, shift, 1), _along(values, axis, shift, None, 1)
        values = xp.concat([first, xp.maximum(rest, _along(values, axis, 0, size - shift, 1))], axis=axis)
        shift *= 2
    return values


def _with_edges(values: Array) -> Array:
    """Values of cells as those of the corners at their ends, with 0 on the first row and column."""
    xp = namespace_of(values)
    pairs, rows, columns = values.shape
    values = xp.concat([_zeros(values, (pairs, rows, 1)), values], axis=2)
    return xp.concat([_zeros(values, (pairs, 1, columns + 1)), values], axis=1)


def _errors(g: Array, levels: list[Array], logs: list[Array], problem: Problem, *, nodes: bool) -> Array:
    """Bounds of the errors of the last of `logs`, at the end or (nodes) at all corners.

    `logs` are those of K_1, K_2, ... at all nodes, the last one at the corners, and `levels` the K_0, K_1, ... that
    they are integrals of. See `_digits`.
    """
    g = unrecorded(g)
    xp, rule = namespace_of(g), problem.quadrature
    eps = float(xp.finfo(g.dtype).eps)
    sizes = _with_edges(_integral(abs(g))[:, 1:, 1:]) if nodes else xp.sum(abs(g), axis=(1, 2))
    errors = xp.zeros_like(sizes)
    for m, (k, log) in enumerate(zip(levels, logs, strict=True)):
        last = m == len(levels) - 1
        mean = _largest_means(g, unrecorded(k), rule.whole if last and problem.depth < math.inf else rule.steps, rule.p)
        reach = abs(unrecorded(log))
        if nodes:
            mean = _with_edges(_running_maximum(_running_maximum(mean, 1), 2))
            reach = _running_maximum(_running_maximum(reach, 1), 2)
            reach = reach if last else _at_corners(reach, rule.p)
        else:
            mean, reach = xp.max(mean, axis=(1, 2)), xp.max(reach, axis=(1, 2))
        own = eps * sizes * mean
        if problem.depth == math.inf:  # K is the integral of itself
            errors = own * (1.0 + reach)
        else:
            errors = own + xp.where(errors == 0, xp.zeros_like(errors), errors * (0.5 * reach))
    # Where nothing has moved yet there is no error, even if K is infinite elsewhere.
    errors = xp.where(xp.isnan(errors), xp.full_like(errors, math.inf), errors)
    return xp.where(sizes == 0, xp.zeros_like(errors), errors)


def _nan_where(gone: Array, values: Array) -> Array:
    """NaN in the place of values that are gone, for what a library records of them too."""
    xp = namespace_of(values)
    factor = xp.where(gone, xp.full_like(unrecorded(values), math.nan), xp.ones_like(unrecorded(values)))
    return values * factor


# Truncation by the number of nodes. With K = sum of k_n and log K = sum of u_n by the number of nodes,
#     u_n = integral of k_{n-1} against κ,   n k_n = sum over j = 1..n of j u_j k_{n-j},   k_0 = 1.
# With a bound on the depth too, there are such sums for every depth m:
#     u_{m,n} = integral of k_{m-1,n-1} against κ,   n k_{m,n} = sum over j = 1..n of j u_{m,j} k_{m,n-j},
#     k_{m,0} = 1,   k_{0,n} = 0 for n > 0.
# No forest is deeper than it has nodes, so k_{m,n} and u_{m,n} are k_{n,n} and u_{n,n} for n <= m, and stand there
# alone. And k_{depth,order} needs no k_{m,n} of more than order - depth nodes beyond m.

_Components = dict[tuple[int, int], Array]
"""Of forests by (largest depth m, number of nodes n), m <= n, those of smaller m and then of smaller n first."""


def _own(m: int, n: int) -> tuple[int, int]:
    """Where what belongs to forests of n nodes and a depth of at most m stands."""
    return min(m, n), n


def _components(g: Array, depth: int, order: int, rule: Quadrature) -> tuple[_Components, _Components]:
    """k_{m,n} and u_{m,n} at the nodes of all cells; without those that are 0: k_{0,n} for n > 0, u_{1,n} for n > 1."""
    k: _Components = {(0, 0): _ones(g, rule.p)}
    u: _Components = {}
    for m in range(1, depth + 1):
        for n in range(m, m + order - depth + 1):
            if (m - 1, n - 1) in k:
                u[m, n] = _integral_against(g, k[m - 1, n - 1], rule.steps)
            total = u[1, 1] * k[_own(m, n - 1)]
            for j in range(2, n + 1):
                if _own(m, j) in u:
                    total = total + (j * 1.0) * u[_own(m, j)] * k[_own(m, n - j)]
            k[m, n] = total / n
    return k, u


def _components_adjoint(g: Array, k: _Components, u: _Components, kbar: _Components, rule: Quadrature) -> Array:
    """Derivatives with respect to the increments of the cells, from those with respect to some of the k_{m,n}."""
    xp = namespace_of(g)
    gbar, zero = xp.zeros_like(g), xp.zeros_like(k[0, 0])
    ubar, kbar = dict.fromkeys(u, zero), dict.fromkeys(k, zero) | kbar
    for m, n in list(k)[:0:-1]:
        for j in range(1, n + 1):
            left, right = _own(m, j), _own(m, n - j)
            if left in u:
                ubar[left] = ubar[left] + (j / n) * k[right] * kbar[m, n]
                kbar[right] = kbar[right] + (j / n) * u[left] * kbar[m, n]
        if (m, n) in u:
            below = m - 1, n - 1
            w = _integral_adjoint(ubar[m, n])
            gbar = gbar + _increments_adjoint(k[below], rule.steps, w)
            kbar[below] = kbar[below] + _k_adjoint(g, rule.steps, w)
    return gbar


def _component_bounds(g: Array, k: _Components, depth: int, order: int, p: int, *, nodes: bool) -> Array:
    """Bounds of the errors of k_0..k_order at the largest depth, on the last axis, at the end or (nodes) all corners.

    With M_{m,n} the largest |k_{m,n}| so far and S the sum of |g|, that of u_{m,j} is ε S M_{m-1,j-1}, and makes one of
    k_{m,n} of (1/n) sum over j of j ε S M_{m-1,j-1} M_{m,n-j}.
    """
    g = unrecorded(g)
    xp = namespace_of(g)
    size = _integral(abs(g))
    size = float(xp.finfo(g.dtype).eps) * (size if nodes else size[:, -1, -1])
    most = {}
    for which, part in k.items():
        part = abs(unrecorded(part))
        if nodes:
            most[which] = _at_corners(_running_maximum(_running_maximum(part, 1), 2), p)
        else:
            most[which] = xp.max(part, axis=(1, 2))
    errors = [xp.zeros_like(size)]
    for n in range(1, order + 1):
        total = most[0, 0] * most[_own(depth, n - 1)]
        for j in range(2, n + 1):
            if _own(depth - 1, j - 1) in most:
                total = total + (j * 1.0) * most[_own(depth - 1, j - 1)] * most[_own(depth, n - j)]
        errors.append(size * total / n)
    return xp.stack(errors, axis=-1)


def _bounds_of(problem: Problem) -> tuple[int, int]:
    """The largest depth and the largest number of nodes of a problem with an order."""
    return int(problem.largest_depth), int(problem.order or 0)


# No truncation. log K = U solves U = integral of exp(U) against κ. Cells on one anti-diagonal do not need each other,
# so they are solved side by side. In a cell, with T the value on the edge above, S the integral over the strip to the
# left in the same row of cells, and A[a, k] the integral up to node a of the basis function of node k,
#     U[a, b] = T[b] + S[a] + g * sum over k, l of A[a, k] A[b, l] exp(U[k, l]).
# Newton's method node by node, which is exact for a rule of one unknown, and a fixed point between the nodes of a cell.

_LARGEST_ITERATION = 200


def _skewed(cells: Array) -> Array:
    """Cells (pairs, R, C, ...) with row r moved to the right by r, (pairs, R, R + C - 1, ...): anti-diagonals are
    columns."""
    xp = namespace_of(cells)
    pairs, rows, columns, *rest = cells.shape
    padding = xp.zeros((pairs, rows, rows, *rest), dtype=cells.dtype, device=device_of(cells))
    flat = xp.reshape(xp.concat([cells, padding], axis=2), (pairs, rows * (rows + columns), *rest))
    return xp.reshape(flat[:, : rows * (rows + columns - 1), ...], (pairs, rows, rows + columns - 1, *rest))


def _unskewed(skewed: Array) -> Array:
    """Inverse of `_skewed`."""
    xp = namespace_of(skewed)
    pairs, rows, diagonals, *rest = skewed.shape
    flat = xp.reshape(skewed, (pairs, rows * diagonals, *rest))
    padding = xp.zeros((pairs, rows, *rest), dtype=skewed.dtype, device=device_of(skewed))
    square = xp.reshape(xp.concat([flat, padding], axis=1), (pairs, rows, diagonals + 1, *rest))
    return square[:, :, : diagonals + 1 - rows, ...]


def _down(cells: Array) -> Array:
    """What lies on the cell above: rows moved down by one, 0 for the first."""
    xp = namespace_of(cells)
    return xp.concat([xp.zeros_like(cells[:, :1, ...]), cells[:, :-1, ...]], axis=1)


def _by_cell(nodes: Array, p: int) -> Array:
    """Nodes that a cell does not share with an earlier one: (pairs, R * p, C * p) as (pairs, R, C, p, p)."""
    xp = namespace_of(nodes)
    pairs, rows, columns = nodes.shape
    return xp.permute_dims(xp.reshape(nodes, (pairs, rows // p, p, columns // p, p)), (0, 1, 3, 2, 4))


def _by_node(cells: Array) -> Array:
    """Inverse of `_by_cell`."""
    xp = namespace_of(cells)
    pairs, rows, columns, p, _ = cells.shape
    return xp.reshape(xp.permute_dims(cells, (0, 1, 3, 2, 4)), (pairs, rows * p, columns * p))


def _of_one_cell(nodes: Array, weights: Matrix) -> Array:
    """`_mean` of an array (pairs, R, nodes, nodes) of cells that share no nodes."""
    xp = namespace_of(nodes)
    flat = xp.reshape(nodes, (nodes.shape[0] * nodes.shape[1], *nodes.shape[2:]))
    result = _mean(flat, weights)
    return xp.reshape(result, (*nodes.shape[:2], *result.shape[1:]))


def _solved(step: Callable[[Array], tuple[Array, Array]], start: Array, floor: float = 1.0) -> Array:
    """Solve u = f(u) for the nodes of cells, (pairs, R, p, p), by a step that gives f(u) − u and 1 − df/du, by node.

    Rounding is measured by `floor` and the largest |u| of a cell: logarithms are added to others, derivatives may all
    be tiny.
    Where the slope is not above 0 there is no solution that can be reached: inf in the whole cell. Where the iterations
    end before the steps are of the size of rounding: NaN in the whole cell.
    """
    xp = namespace_of(start)
    u, tolerance = start, 8.0 * xp.finfo(start.dtype).eps
    settled = xp.zeros_like(start, dtype=xp.bool)
    blown_up = u == math.inf
    for _ in range(_LARGEST_ITERATION):
        residual, slope = step(u)
        largest = xp.max(xp.max(xp.abs(u), axis=-1, keepdims=True), axis=-2, keepdims=True)
        size = tolerance * (floor + (xp.abs(u) if floor > 0.0 else largest))
        settled = ~xp.isfinite(u) | ((slope > 0.0) & ~(xp.abs(residual) > size * slope))
        moved = xp.where(slope > 0.0, u + residual / slope, xp.full_like(u, math.inf))
        u = xp.where(settled, u, moved)
        blown_up = xp.any(xp.any((u == math.inf) | blown_up, axis=-1, keepdims=True), axis=-2, keepdims=True)
        u = xp.where(blown_up, xp.full_like(u, math.inf), u)
        if bool(xp.all(settled)):
            return u
    done = xp.all(xp.all(settled, axis=-1, keepdims=True), axis=-2, keepdims=True)
    return xp.where(done, u, xp.full_like(u, math.nan))


def _small_matrix(rows: Iterable[Iterable[float]], like: Array) -> Array:
    xp = namespace_of(like)
    return xp.asarray([list(row) for row in rows], dtype=like.dtype, device=device_of(like))


def _untruncated(g: Array, rule: Quadrature) -> Array:
    """log K_∞ at the nodes of all cells."""
    xp = namespace_of(g)
    p, inner = rule.p, rule.matrix[1:]
    diagonal = [row[a] for a, row in enumerate(rule.matrix)][1:]
    own = _small_matrix(([a * b for b in diagonal] for a in diagonal), g)

    def cell_integral(above: Array, left: Array, increment: Array, u: Array) -> Array:
        nodes = xp.concat([above[:, :, None, :], xp.concat([left[:, :, :, None], u], axis=3)], axis=2)
        integral = increment * _of_one_cell(xp.exp(nodes), inner)
        return xp.where(increment == 0.0, xp.zeros_like(integral), integral)

    def step(above: Array, left: Array, strip: Array, increment: Array, u: Array) -> tuple[Array, Array]:
        integral = cell_integral(above, left, increment, u)
        own_share = increment * own * xp.exp(u)
        slope = 1.0 - xp.where((increment == 0.0) | (own == 0.0), xp.zeros_like(u), own_share)
        return above[:, :, None, 1:] + strip[:, :, :, None] + integral - u, slope

    skewed = _skewed(g)
    above, strip = _zeros(g, (*g.shape[:2], p + 1)), _zeros(g, (*g.shape[:2], p))
    diagonals = []
    for d in range(skewed.shape[2]):
        increment = skewed[:, :, d][:, :, None, None]
        left = above[:, :, :1] + strip
        start = above[:, :, None, 1:] + strip[:, :, :, None]
        u = _solved(functools.partial(step, above, left, strip, increment), start)
        # Behind a blow-up all is inf: the integrals there have no meaning.
        integral = xp.where(u == math.inf, u, cell_integral(above, left, increment, u))
        u = above[:, :, None, 1:] + (strip[:, :, :, None] + integral)
        strip = strip + integral[:, :, :, -1]
        above = _down(xp.concat([left[:, :, -1:], u[:, :, -1, :]], axis=2))
        diagonals.append(u)
    nodes = _by_node(_unskewed(xp.stack(diagonals, axis=2)))
    pairs, rows, columns = nodes.shape
    nodes = xp.concat([_zeros(g, (pairs, rows, 1)), nodes], axis=2)
    return xp.concat([_zeros(g, (pairs, 1, columns + 1)), nodes], axis=1)


def _untruncated_adjoint(g: Array, k: Array, nodebar: Array, rule: Quadrature) -> Array:
    """Derivatives with respect to the increments, from those with respect to log K_∞ at the nodes.

    `_untruncated` backwards, from the last cell to the first: with w the derivatives with respect to the sub-cells, S
    the sums over the strip to the right in the same row of cells and T the first row of w of the cell below,
        w[a, b] = T[b] + S[a] + sum over the nodes below and to the right in the cell of (nodebar + K * Kbar),
    where Kbar gathers g * Bᵀ w B over the cells that a node belongs to, its own included.
    """
    xp = namespace_of(g)
    p, steps = rule.p, rule.steps
    weights = _small_matrix(steps, g)
    transposed = xp.permute_dims(weights, (1, 0))
    # The share of w[a, b] in the sum over its own nodes k >= a, l >= b: g * B[a, k] B[b, l] K[k, l].
    behind = _small_matrix(([row[k] if k > a else 0.0 for k in range(1, p + 1)] for a, row in enumerate(steps)), g)
    behind_transposed = xp.permute_dims(behind, (1, 0))

    def of_cell(increment: Array, w: Array) -> Array:
        return increment * xp.matmul(xp.matmul(transposed, w), weights)

    def sums(terms: Array) -> Array:
        terms = xp.flip(terms, axis=(2, 3))
        return xp.flip(xp.cumulative_sum(xp.cumulative_sum(terms, axis=3), axis=2), axis=(2, 3))

    def step(known: Array, slope: Array, k_here: Array, increment: Array, w: Array) -> tuple[Array, Array]:
        return known + sums(k_here * of_cell(increment, w)[:, :, 1:, 1:]) - w, slope

    skewed = _skewed(xp.flip(g, axis=(1, 2)))
    k_skewed, bar_skewed = (_skewed(xp.flip(_by_cell(a[:, 1:, 1:], p), axis=(1, 2))) for a in (k, nodebar))
    pairs, rows, _ = g.shape
    strip, below = _zeros(g, (pairs, rows, p)), _zeros(g, (pairs, rows, p))
    # What the cells to the right, below, and behind both give to the nodes that they share with this one.
    of_right, of_below = _zeros(g, (pairs, rows, p, 1)), _zeros(g, (pairs, rows, 1, p))
    of_behind = of_next_behind = _zeros(g, (pairs, rows, 1, 1))
    diagonals = []
    for d in range(skewed.shape[2]):
        increment = skewed[:, :, d][:, :, None, None]
        k_here = k_skewed[:, :, d, :, :]
        gathered = _at_last(of_right, 3, p) + _at_last(of_below, 2, p) + _at_last(_at_last(of_behind, 3, p), 2, p)
        fixed = sums(bar_skewed[:, :, d, :, :] + k_here * gathered)
        known = below[:, :, None, :] + strip[:, :, :, None] + fixed
        slope = 1.0 - increment * xp.matmul(xp.matmul(behind, k_here), behind_transposed)
        # The equation is linear and has a solution; the slope only hastens the way to it.
        slope = xp.where(slope > 0.25, slope, xp.ones_like(slope))
        w = _solved(functools.partial(step, known, slope, k_here, increment), known, 0.0)
        share = of_cell(increment, w)
        strip = strip + (fixed + sums(k_here * share[:, :, 1:, 1:]))[:, :, :, 0]
        below = _down(w[:, :, 0, :])
        of_behind, of_next_behind = of_next_behind, _down(share[:, :, :1, :1])
        of_right, of_below = share[:, :, 1:, :1], _down(share[:, :, :1, 1:])
        diagonals.append(w)
    w = _by_node(xp.flip(_unskewed(xp.stack(diagonals, axis=2)), axis=(1, 2)))
    return _increments_adjoint(k, steps, w)


def _at_last(part: Array, axis: int, size: int) -> Array:
    """An array of size 1 along an axis as the last entry of one of the given size, zero before."""
    xp = namespace_of(part)
    return xp.concat([*[xp.zeros_like(part)] * (size - 1), part], axis=axis)


class _Paths(NamedTuple):
    """A stack of paths, and the valid lengths of padded ones."""

    points: Array
    lengths: npt.NDArray[np.int64] | None

    def part(self, block: slice) -> _Paths:
        return _Paths(self.points[block, ...], None if self.lengths is None else self.lengths[block])


def _still(problem: Problem, x: _Paths, y: _Paths) -> bool:
    """Tell whether all kernels are 1: no level, or a path of one point."""
    return problem.largest_depth == 0 or x.points.shape[1] == 1 or y.points.shape[1] == 1


def _of_one_point(paths: _Paths) -> Array:
    """Which of the paths have one valid point, (paths,)."""
    count, length, _ = paths.points.shape
    lengths = np.full(count, length) if paths.lengths is None else paths.lengths
    return namespace_of(paths.points).asarray(lengths == 1, device=device_of(paths.points))


def _moving(paths: _Paths, steps: int) -> Array:
    """Which of the steps of padded paths lie within the valid length, (paths, steps)."""
    xp = namespace_of(paths.points)
    lengths = xp.asarray(paths.lengths, device=device_of(paths.points))
    return xp.arange(1, steps + 1, device=device_of(paths.points))[None, :] < lengths[:, None]


def _in_use(x: _Paths, y: _Paths, g: Array) -> Array:
    """Increments within the valid lengths as they are, and zero behind them."""
    xp = namespace_of(g)
    for paths, axis in ((x, 1), (y, 2)):
        if paths.lengths is not None:
            moving = _moving(paths, g.shape[axis])
            g = xp.where(moving[:, :, None] if axis == 1 else moving[:, None, :], g, xp.zeros_like(g))
    return g


def _cell_increments(problem: Problem, ctx: Context, x: _Paths, y: _Paths) -> Array:
    """Increments of the static kernel over the cells, dyadic refinement included. Padding is not read."""
    points = [filled(paths.points, paths.lengths) for paths in (x, y)]
    g = in_float64(increments(problem.static_kernel, ctx, *points))
    return _refined(_in_use(x, y, g), problem.dyadic_order)


def grid_of(g: Array, problem: Problem, *, all_levels: bool) -> Array:
    """K_depth, its logarithm, or K_0 to K_depth, at every corner, from the increments of the cells."""
    xp, purpose, p = namespace_of(g), purpose_of(problem, log=problem.log_grid), problem.quadrature.p
    levels, logs = _solved_levels(g, problem)

    def judged(m: int, log_k: Array, values: Array) -> Array:
        errors = _errors(g, levels[:m], [*logs[: m - 1], log_k], problem, nodes=True)
        return _nan_where(lost(unrecorded(log_k), errors, purpose), values)

    last = judged(len(levels), logs[-1], logs[-1] if problem.log_grid else xp.exp(logs[-1]))
    if not all_levels:
        return last
    corners = [_at_corners(k, p) for k in levels]
    below = [judged(m, _at_corners(logs[m - 1], p), corners[m]) for m in range(1, len(levels))]
    return xp.stack([corners[0], *below, last], axis=1)


def parts_of(g: Array, problem: Problem, *, grid: bool) -> Array:
    """k_0 to k_order at the end, or at every corner, from the increments of the cells."""
    (depth, order), p = _bounds_of(problem), problem.quadrature.p
    k, _ = _components(g, depth, order, problem.quadrature)
    corners = [_at_corners(k[_own(depth, n)], p) for n in range(order + 1)]
    parts = namespace_of(g).stack([part if grid else part[:, -1, -1] for part in corners], axis=-1)
    errors = _component_bounds(g, k, depth, order, p, nodes=grid)
    return _nan_where(lost_parts(unrecorded(parts), errors, problem.purpose), parts)


def gradients_of(
    g: Array, derivs: Array, problem: Problem, *, wrt_log: bool, k_stack: Array | None = None
) -> tuple[Array, Array]:
    """Which pairs have finite values, and derivatives with respect to the increments of the cells."""
    if problem.order is not None:
        return _order_gradients(g, derivs, problem)
    return _depth_gradients(g, derivs, k_stack, problem, wrt_log=wrt_log)


def grid_from_increments(problem: Problem, given: Array, *, all_levels: bool) -> Array:
    """What `ReferenceBackend.grid`, or `ReferenceBackend.parts`, returns for pairs with these increments."""
    g = _refined(in_float64(given), problem.dyadic_order)
    with np.errstate(all="ignore"):
        if problem.order is not None:
            return parts_of(g, problem, grid=True)
        return grid_of(g, problem, all_levels=all_levels)


def increments_gradient(problem: Problem, given: Array, derivs: Array, *, wrt_log: bool) -> Array:
    """Derivatives with respect to increments, for derivatives of grids; NaN for a pair without a finite value."""
    xp = namespace_of(given)
    with np.errstate(all="ignore"):
        finite, gbar = gradients_of(_refined(in_float64(given), problem.dyadic_order), derivs, problem, wrt_log=wrt_log)
        gbar = _refined_adjoint(gbar, problem.dyadic_order)
    return xp.where(finite[:, None, None], gbar, xp.full_like(gbar, math.nan))


class ReferenceBackend:
    """The recursion and its adjoint, on the arrays of any library. See `branchsig.backends.Backend` for the methods."""

    name = "reference"

    def log_kernel(self, problem: Problem) -> Array:
        """Return log K_depth at the end of both paths."""
        return self._ends(problem, log=True)

    def kernel(self, problem: Problem) -> Array:
        """Return K_depth at the end of both paths."""
        return self._ends(problem, log=False)

    def _ends(self, problem: Problem, *, log: bool) -> Array:
        def ends(x: _Paths, y: _Paths) -> Array:
            if _still(problem, x, y):
                return _filled_array(x, float(not log), (x.points.shape[0],))
            g = _cell_increments(problem, Context(), x, y)
            levels, logs = _solved_levels(g, problem)
            end = logs[-1][:, -1, -1]
            gone = lost(unrecorded(end), _errors(g, levels, logs, problem, nodes=False), purpose_of(problem, log=log))
            return _nan_where(gone, end if log else namespace_of(end).exp(end))

        return _map_pairs(problem, ends)

    def grid(self, problem: Problem, *, all_levels: bool) -> Array:
        """Return K_depth, its logarithm, or K_0 to K_depth, at every node."""

        def nodes(x: _Paths, y: _Paths) -> Array:
            if _still(problem, x, y):
                shape = (x.points.shape[0], *((int(problem.depth) + 1,) if all_levels else ()), *_nodes(problem))
                return _filled_array(x, 0.0 if problem.log_grid else 1.0, shape)
            return grid_of(_cell_increments(problem, Context(), x, y), problem, all_levels=all_levels)

        return _map_pairs(problem, nodes)

    def parts(self, problem: Problem, *, grid: bool) -> Array:
        """Return k_0 to k_order at the end of both paths, or at every node."""

        def by_order(x: _Paths, y: _Paths) -> Array:
            xp, order = namespace_of(x.points), int(problem.order or 0)
            if _still(problem, x, y):
                shape = (x.points.shape[0], *(_nodes(problem) if grid else ()))
                first, rest = _filled_array(x, 1.0, shape), _filled_array(x, 0.0, shape)
                return xp.stack([first, *[rest] * order], axis=-1)
            return parts_of(_cell_increments(problem, Context(), x, y), problem, grid=grid)

        return _map_pairs(problem, by_order)

    def diagonal(self, problem: Problem) -> Array:
        """Return log K_depth, or k_0 to k_order, of every path up to each of its points with itself."""
        xp, length = namespace_of(problem.path1), problem.path1.shape[1]
        refinement = 2 ** problem.dyadic_order[0]

        def on_diagonal(grid: Array) -> Array:
            corners = grid[:, ::refinement, ::refinement]
            return xp.reshape(corners, (corners.shape[0], length * length))[:, :: length + 1]

        def prefixes(x: _Paths, y: _Paths) -> Array:
            order = problem.order
            if _still(problem, x, y):
                nothing = _filled_array(x, 0.0, (x.points.shape[0], length))
                return nothing if order is None else xp.stack([nothing + 1.0, *[nothing] * order], axis=-1)
            g = _cell_increments(problem, Context(), x, y)
            if order is None:
                return on_diagonal(_solved_levels(g, problem)[1][-1])
            depth, order = _bounds_of(problem)
            k, _ = _components(g, depth, order, problem.quadrature)
            own = [_at_corners(k[_own(depth, n)], problem.quadrature.p) for n in range(order + 1)]
            return xp.stack([on_diagonal(part) for part in own], axis=-1)

        return _map_pairs(problem, prefixes)

    def gradients(
        self,
        problem: Problem,
        derivs: Array,
        *,
        wrt_log: bool,
        left: bool,
        right: bool,
        k_stack: Array | None = None,
    ) -> tuple[Array | None, Array | None]:
        """Return the gradients with respect to `path1` and `path2`."""
        derivs, k_stack = in_float64(derivs), None if k_stack is None else in_float64(k_stack)
        of_pairs = _paired_gradients if problem.pairing == "paired" else _gram_gradients
        both = of_pairs(problem, derivs, wrt_log=wrt_log, left=left, right=right, k_stack=k_stack)
        d_path1, d_path2 = (None if d is None else _in_dtype_of(problem.path1, d) for d in both)
        return d_path1, d_path2


def _filled_array(like: _Paths, value: float, shape: tuple[int, ...]) -> Array:
    xp = namespace_of(like.points)
    return xp.full(shape, value, dtype=like.points.dtype, device=device_of(like.points))


def _pair_gradients(
    problem: Problem,
    x: _Paths,
    y: _Paths,
    derivs: Array,
    k_stack: Array | None,
    *,
    wrt_log: bool,
    left: bool,
    right: bool,
) -> tuple[Array | None, Array | None]:
    """Gradients of the pairs (x[k], y[k]), each with respect to its own two paths."""
    xp = namespace_of(x.points)
    if _still(problem, x, y):
        return xp.zeros_like(x.points) if left else None, xp.zeros_like(y.points) if right else None
    ctx = Context()
    g = _cell_increments(problem, ctx, x, y)
    finite, gbar = gradients_of(g, derivs, problem, wrt_log=wrt_log, k_stack=k_stack)
    gbar = _in_dtype_of(x.points, _in_use(x, y, _refined_adjoint(gbar, problem.dyadic_order)))
    counted = xp.any(xp.reshape(derivs != 0, (derivs.shape[0], -1)), axis=1)
    alone = _of_one_point(x) | _of_one_point(y)  # κ may be NaN there, but is not asked for

    def marked(gradient: Array, paths: _Paths) -> Array:
        gradient = xp.where(finite[:, None, None], gradient, xp.full_like(gradient, math.nan))
        of_nothing = ~counted[:, None, None] & ~xp.isfinite(gradient)
        gradient = xp.where(of_nothing | alone[:, None, None], xp.zeros_like(gradient), gradient)
        if paths.lengths is None:
            return gradient
        lengths = xp.asarray(paths.lengths, device=device_of(gradient))
        valid = xp.arange(gradient.shape[1], device=device_of(gradient))[None, :] < lengths[:, None]
        return xp.where(valid[:, :, None], gradient, xp.zeros_like(gradient))

    kernel = problem.static_kernel
    return (
        marked(gradient_x(kernel, ctx, gbar, x.points), x) if left else None,
        marked(gradient_y(kernel, ctx, gbar, y.points), y) if right else None,
    )


def _order_gradients(g: Array, derivs: Array, problem: Problem) -> tuple[Array, Array]:
    """Which pairs are finite, and derivatives with respect to the increments, for derivatives of k_0..k_order."""
    xp, rule = namespace_of(g), problem.quadrature
    depth, order = _bounds_of(problem)
    k, u = _components(g, depth, order, rule)
    of_grid = derivs.ndim == 4
    corners = [_at_corners(k[_own(depth, n)], rule.p) for n in range(order + 1)]
    parts = xp.stack([part if of_grid else part[:, -1, -1] for part in corners], axis=-1)
    gone = lost_parts(parts, _component_bounds(g, k, depth, order, rule.p, nodes=of_grid), problem.purpose)
    finite = xp.all(xp.reshape(xp.isfinite(parts) & ~gone, (parts.shape[0], -1)), axis=1)
    bars = [derivs[..., n] if of_grid else _at_end(derivs[:, n], g) for n in range(order + 1)]
    kbar = {_own(depth, n): _at_corners_adjoint(bar, rule.p) for n, bar in enumerate(bars)}
    return finite, _components_adjoint(g, k, u, kbar, rule)


def _at_end(bar: Array, g: Array) -> Array:
    """Derivatives with respect to the last corner as those with respect to all corners."""
    xp = namespace_of(g)
    pairs, rows, columns = g.shape
    row = xp.concat([_zeros(g, (pairs, columns)), bar[:, None]], axis=1)
    return xp.concat([_zeros(g, (pairs, rows, columns + 1)), row[:, None, :]], axis=1)


def _zeros(like: Array, shape: tuple[int, ...]) -> Array:
    return namespace_of(like).zeros(shape, dtype=like.dtype, device=device_of(like))


def _depth_gradients(
    g: Array, derivs: Array, k_stack: Array | None, problem: Problem, *, wrt_log: bool
) -> tuple[Array, Array]:
    """Which pairs are finite, and derivatives with respect to the increments, for derivatives of K_depth or its log."""
    xp, rule, of_grid = namespace_of(g), problem.quadrature, derivs.ndim == 3
    untruncated = problem.depth == math.inf
    if untruncated:
        nodes = _untruncated(g, rule)
        levels, logs = [xp.exp(nodes)], [_at_corners(nodes, rule.p)]
    elif k_stack is None:
        levels, logs = _levels(g, int(problem.depth), rule)
    else:
        levels = [k_stack[:, m, :, :] for m in range(int(problem.depth))]
        logs = [xp.log(k) for k in (*levels[1:], k_stack[:, int(problem.depth), :, :])]
    log_k = logs[-1]
    k = xp.exp(log_k) if k_stack is None else k_stack[:, int(problem.depth), :, :]
    value = log_k if wrt_log else k
    errors = _errors(g, levels, logs, problem, nodes=of_grid)
    gone = lost(log_k if of_grid else log_k[:, -1, -1], errors, purpose_of(problem, log=wrt_log))
    if of_grid:
        finite = xp.all(xp.isfinite(value) & ~gone, axis=(1, 2))
        nodebar = derivs if wrt_log else derivs * k
        if not untruncated:
            w = _integral_adjoint(nodebar)
    else:
        finite = xp.isfinite(value[:, -1, -1]) & ~gone
        end = derivs if wrt_log else derivs * k[:, -1, -1]
        if not untruncated:
            w = xp.broadcast_to(end[:, None, None], g.shape)
        else:
            nodebar = _at_end(end, g)
    if untruncated:
        return finite, _untruncated_adjoint(g, levels[0], _at_corners_adjoint(nodebar, rule.p), rule)
    return finite, _levels_adjoint(g, levels, w, rule)


def _nodes(problem: Problem) -> tuple[int, int]:
    """Numbers of nodes of a grid."""
    return (
        (problem.path1.shape[1] - 1) * 2 ** problem.dyadic_order[0] + 1,
        (problem.path2.shape[1] - 1) * 2 ** problem.dyadic_order[1] + 1,
    )


def _pairs_in_flight(problem: Problem) -> int:
    """Number of pairs whose grids fit the budget of a block."""
    size1, size2 = _nodes(problem)
    levels = 4.0 if problem.depth == math.inf else problem.depth
    if problem.order is not None:
        levels = 4.0 * problem.largest_depth * (problem.order + 1 - problem.largest_depth)
    grids = (levels + 6.0) * problem.quadrature.p**2
    points = problem.path1.shape[1] * problem.path2.shape[1]
    return max(1, int(_BLOCK_BYTES / ((grids * size1 * size2 + _POINT_ARRAYS * points) * 8)))


def _slices(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def _block_sides(problem: Problem) -> tuple[int, int]:
    """Numbers of rows and columns of a block of a Gram matrix."""
    in_flight = _pairs_in_flight(problem)
    columns = min(problem.path2.shape[0], in_flight)
    if problem.pairing == "symmetric":
        columns = min(columns, math.isqrt(in_flight))
    rows = min(problem.path1.shape[0], max(1, in_flight // max(1, columns)))
    if problem.pairing == "symmetric":
        rows = columns
    if problem.max_batch > 0:
        rows, columns = min(rows, problem.max_batch), min(columns, problem.max_batch)
    return max(1, rows), max(1, columns)


def _both(problem: Problem) -> tuple[_Paths, _Paths]:
    """Both stacks, in double precision; a user's own kernel gets its paths as they are."""
    path1, path2 = problem.path1, problem.path2
    if is_built_in(problem.static_kernel):
        path1, path2 = in_float64(path1), in_float64(path2)
    return _Paths(path1, problem.lengths1), _Paths(path2, problem.lengths2)


def _cross(x: _Paths, y: _Paths) -> tuple[_Paths, _Paths]:
    """All pairs of two stacks, as two stacks of equal length."""
    xp = namespace_of(x.points)
    shape1, shape2 = x.points.shape, y.points.shape
    n1, n2 = shape1[0], shape2[0]
    points1 = xp.broadcast_to(x.points[:, None, :, :], (n1, n2, *shape1[1:]))
    points2 = xp.broadcast_to(y.points[None, :, :, :], (n1, n2, *shape2[1:]))
    return (
        _Paths(xp.reshape(points1, (n1 * n2, *shape1[1:])), None if x.lengths is None else np.repeat(x.lengths, n2)),
        _Paths(xp.reshape(points2, (n1 * n2, *shape2[1:])), None if y.lengths is None else np.tile(y.lengths, n1)),
    )


class _Progress:
    """Counts the pairs that are done, and tells the caller."""

    def __init__(self, problem: Problem) -> None:
        n1, n2 = problem.path1.shape[0], problem.path2.shape[0]
        self._done = 0
        self._total = {"paired": n1, "gram": n1 * n2, "symmetric": n1 * (n1 + 1) // 2}[problem.pairing]
        self._report = problem.progress

    def add(self, pairs: int) -> None:
        if self._report is not None:
            self._done += pairs
            self._report(self._done, self._total)


def _map_pairs(problem: Problem, function: Callable[[_Paths, _Paths], Array]) -> Array:
    """Apply a function of stacks of pairs to every pair of a problem, block by block."""
    return _in_dtype_of(problem.path1, _mapped(problem, function))


def _in_dtype_of(like: Array, values: Array) -> Array:
    if values.dtype == like.dtype:
        return values
    with np.errstate(all="ignore"):
        return namespace_of(values).astype(values, like.dtype)


def _mapped(problem: Problem, function: Callable[[_Paths, _Paths], Array]) -> Array:
    x, y = _both(problem)
    n1, n2 = x.points.shape[0], y.points.shape[0]
    xp = namespace_of(x.points)
    progress = _Progress(problem)
    with np.errstate(all="ignore"):
        if problem.pairing == "paired":
            parts = []
            for block in _slices(n1, _pairs_in_flight(problem)):
                parts.append(function(x.part(block), y.part(block)))
                progress.add(block.stop - block.start)
            return _joined(xp, parts, 0) if parts else function(x, y)
        if n1 == 0 or n2 == 0:
            nothing = function(*_cross(x, y))
            return xp.reshape(nothing, (n1, n2, *nothing.shape[1:]))
        rows, columns = _block_sides(problem)
        symmetric = problem.pairing == "symmetric"
        # A list for every row of blocks. A symmetric matrix has blocks on and below the diagonal, and mirrors the
        # others.
        matrix: list[list[Array]] = []
        for rows_block in _slices(n1, rows):
            row = []
            for columns_block in _slices(rows_block.stop if symmetric else n2, columns):
                a, b = rows_block.stop - rows_block.start, columns_block.stop - columns_block.start
                values = function(*_cross(x.part(rows_block), y.part(columns_block)))
                values = xp.reshape(values, (a, b, *values.shape[1:]))
                if symmetric and columns_block == rows_block:
                    values = _mirrored(xp, values)
                    progress.add(a * (a + 1) // 2)
                else:
                    progress.add(a * b)
                row.append(values)
            matrix.append(row)
        if symmetric:
            blocks = len(matrix)
            axes = (1, 0, *range(2, matrix[0][0].ndim))
            matrix = [
                [matrix[i][j] if j <= i else xp.permute_dims(matrix[j][i], axes) for j in range(blocks)]
                for i in range(blocks)
            ]
        return _joined(xp, [_joined(xp, row, 1) for row in matrix], 0)


def _mirrored(xp: Any, square: Array) -> Array:
    """A block on the diagonal with its lower triangle in the place of its upper one."""
    index = xp.arange(square.shape[0], device=device_of(square))
    lower = index[:, None] >= index[None, :]
    lower = xp.reshape(lower, (*lower.shape, *(1,) * (square.ndim - 2)))
    return xp.where(lower, square, xp.permute_dims(square, (1, 0, *range(2, square.ndim))))


def _joined(xp: Any, parts: list[Array], axis: int) -> Array:
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=axis)


def _paired_gradients(
    problem: Problem, derivs: Array, *, wrt_log: bool, left: bool, right: bool, k_stack: Array | None
) -> tuple[Array | None, Array | None]:
    x, y = _both(problem)
    xp = namespace_of(x.points)
    progress = _Progress(problem)
    parts: tuple[list[Array], list[Array]] = ([], [])
    with np.errstate(all="ignore"):
        for block in _slices(x.points.shape[0], _pairs_in_flight(problem)):
            both = _pair_gradients(
                problem,
                x.part(block),
                y.part(block),
                derivs[block, ...],
                None if k_stack is None else k_stack[block, ...],
                wrt_log=wrt_log,
                left=left,
                right=right,
            )
            for side, gradient in zip(parts, both, strict=True):
                if gradient is not None:
                    side.append(gradient)
            progress.add(block.stop - block.start)
    d_path1 = (_joined(xp, parts[0], 0) if parts[0] else xp.zeros_like(x.points)) if left else None
    d_path2 = (_joined(xp, parts[1], 0) if parts[1] else xp.zeros_like(y.points)) if right else None
    return d_path1, d_path2


def _gram_gradients(
    problem: Problem, derivs: Array, *, wrt_log: bool, left: bool, right: bool, k_stack: Array | None
) -> tuple[Array | None, Array | None]:
    """Gradients of all pairs, summed over the partners of each path.

    A symmetric problem visits the blocks on and below the diagonal. Off the diagonal it takes the gradient of a pair
    with respect to both paths at derivative 1, since d_1 k(x_j, x_i) = d_2 k(x_i, x_j), and weighs them by derivs[i, j]
    and [j, i].
    """
    x, y = _both(problem)
    n1, n2 = x.points.shape[0], y.points.shape[0]
    xp = namespace_of(x.points)
    if n1 == 0 or n2 == 0:
        return xp.zeros_like(x.points) if left else None, xp.zeros_like(y.points) if right else None
    progress = _Progress(problem)
    symmetric = problem.pairing == "symmetric"
    rows, columns = _block_sides(problem)
    rows_blocks, columns_blocks = list(_slices(n1, rows)), list(_slices(n2, columns))
    d_rows: list[Array | None] = [None] * len(rows_blocks)
    d_columns: list[Array | None] = [None] * len(columns_blocks)
    with np.errstate(all="ignore"):
        for i, rows_block in enumerate(rows_blocks):
            for j, columns_block in enumerate(columns_blocks[: i + 1] if symmetric else columns_blocks):
                a, b = rows_block.stop - rows_block.start, columns_block.stop - columns_block.start
                below = symmetric and j < i
                weights = derivs[rows_block, columns_block, ...]
                gx, gy = _pair_gradients(
                    problem,
                    *_cross(x.part(rows_block), y.part(columns_block)),
                    _flat(xp, xp.ones_like(weights) if below else weights),
                    None if k_stack is None else _flat(xp, k_stack[rows_block, columns_block, ...]),
                    wrt_log=wrt_log,
                    left=left,
                    right=right or below,
                )
                if gx is not None:
                    gx = xp.reshape(gx, (a, b, *gx.shape[1:]))
                    gx = weighted(weights[:, :, None, None], gx) if below else gx
                    d_rows[i] = _plus(d_rows[i], xp.sum(gx, axis=1))
                if gy is not None:
                    gy = xp.reshape(gy, (a, b, *gy.shape[1:]))
                    if below:
                        mirrored = xp.permute_dims(derivs[columns_block, rows_block], (1, 0))
                        d_rows[j] = _plus(d_rows[j], xp.sum(weighted(mirrored[:, :, None, None], gy), axis=0))
                    else:
                        d_columns[j] = _plus(d_columns[j], xp.sum(gy, axis=0))
                progress.add(a * (a + 1) // 2 if symmetric and i == j else a * b)
    return (
        _joined(xp, d_rows, 0) if left else None,
        _joined(xp, d_columns, 0) if right else None,
    )


def _plus(total: Array | None, term: Array) -> Array:
    return term if total is None else total + term


def _flat(xp: Any, array: Array) -> Array:
    """Rows and columns of pairs as one axis."""
    return xp.reshape(array, (array.shape[0] * array.shape[1], *array.shape[2:]))
