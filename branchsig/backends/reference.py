"""The specification: the recursion of the branched signature kernel and its adjoint, in array API calls.

A `Problem` on arrays of any library comes in; logarithms of kernels, grids, homogeneous parts or gradients go out. Every
other backend is held against this one. It keeps whole grids, so it works on blocks of pairs whose grids fit a fixed
budget of memory, and it never writes into an array, so it also serves libraries whose arrays cannot be written to.

A quadrature of p intervals divides each side of a cell by p + 1 nodes ξ_0..ξ_p, shared with the neighbours, so that the
nodes of all cells are one grid. With increments g of the static kernel, B[k, l] the integral of the basis function of
node l from ξ_{k-1} to ξ_k, and sub-cells between neighbouring nodes::

    K_0 = 1
    cell_m[r, c][a, b] = g[r, c] * sum over the nodes k, l of the cell of B[a, k] * B[b, l] * K_{m-1}[r, c][k, l]
    log K_m[node] = sum of cell_m over all sub-cells above and to the left of the node

The trapezoid rule has p = 1 and B = [½, ½]: the mean of the four corners. Since the last level has no level above it, it
is needed at the corners alone, and takes the row of sums over a of B in the place of B.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from branchsig._arrays import Array, device_of, namespace_of
from branchsig.quadrature import Matrix, Quadrature
from branchsig.static_kernels import Context, gradient_x, gradient_y, increments

if TYPE_CHECKING:
    from branchsig.backends import Problem

__all__ = ["ReferenceBackend"]

_BLOCK_BYTES = 64 * 2**20
"""Memory that the grids of the pairs in flight may take together."""


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
    cells = g * _mean(k, weights)
    # Where nothing moves nothing is added, even if K is inf there: 0 · inf must not make NaN of it.
    return _integral(xp.where(g == 0, xp.zeros_like(g), cells))


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


def _levels(g: Array, depth: int, rule: Quadrature) -> list[Array]:
    """K_0 to K_depth at the nodes of all cells, each (pairs, R * p + 1, C * p + 1)."""
    xp = namespace_of(g)
    levels = [_ones(g, rule.p)]
    for _ in range(depth):
        levels.append(xp.exp(_integral_against(g, levels[-1], rule.steps)))
    return levels


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


class ReferenceBackend:
    """The recursion and its adjoint, on the arrays of any library. See `branchsig.backends.Backend` for the methods."""

    name = "reference"

    def log_kernel(self, problem: Problem) -> Array:
        """Return log K_depth at the end of both paths."""

        def log_end(x: Array, y: Array) -> Array:
            xp = namespace_of(x)
            if problem.depth == 0 or x.shape[1] == 1 or y.shape[1] == 1:
                return xp.zeros((x.shape[0],), dtype=x.dtype, device=device_of(x))
            g = _refined(increments(problem.static_kernel, Context(), x, y), problem.dyadic_order)
            levels = _levels(g, problem.depth - 1, problem.quadrature)
            return _integral_against(g, levels[-1], problem.quadrature.whole)[:, -1, -1]

        return _map_pairs(problem, log_end)

    def grid(self, problem: Problem, *, all_levels: bool) -> Array:
        """Return K_depth, or K_0 to K_depth, at every node."""

        def nodes(x: Array, y: Array) -> Array:
            xp = namespace_of(x)
            if x.shape[1] == 1 or y.shape[1] == 1:
                size1, size2 = _nodes(problem)
                shape = (x.shape[0], problem.depth + 1, size1, size2)
                levels = xp.ones(shape, dtype=x.dtype, device=device_of(x))
                return levels if all_levels else levels[:, -1, :, :]
            g = _refined(increments(problem.static_kernel, Context(), x, y), problem.dyadic_order)
            rule = problem.quadrature
            levels = _levels(g, max(problem.depth - 1, 0), rule)
            grids = [_at_corners(k, rule.p) for k in levels]
            if problem.depth > 0:
                grids.append(xp.exp(_integral_against(g, levels[-1], rule.whole)))
            return xp.stack(grids, axis=1) if all_levels else grids[-1]

        return _map_pairs(problem, nodes)

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
        if problem.pairing == "paired":
            return _paired_gradients(problem, derivs, wrt_log=wrt_log, left=left, right=right, k_stack=k_stack)
        return _gram_gradients(problem, derivs, wrt_log=wrt_log, left=left, right=right, k_stack=k_stack)


def _pair_gradients(
    problem: Problem,
    x: Array,
    y: Array,
    derivs: Array,
    k_stack: Array | None,
    *,
    wrt_log: bool,
    left: bool,
    right: bool,
) -> tuple[Array | None, Array | None]:
    """Gradients of the pairs (x[k], y[k]), each with respect to its own two paths."""
    xp = namespace_of(x)
    depth, rule = problem.depth, problem.quadrature
    if depth == 0 or x.shape[1] == 1 or y.shape[1] == 1:
        return xp.zeros_like(x) if left else None, xp.zeros_like(y) if right else None
    ctx = Context()
    g = _refined(increments(problem.static_kernel, ctx, x, y), problem.dyadic_order)
    if k_stack is None:
        levels = _levels(g, depth - 1, rule)
        log_k = _integral_against(g, levels[-1], rule.whole)
        k = xp.exp(log_k)
    else:
        levels = [k_stack[:, m, :, :] for m in range(depth)]
        k = k_stack[:, depth, :, :]
        log_k = xp.log(k) if wrt_log else k
    if derivs.ndim == 3:
        finite = xp.all(xp.isfinite(log_k if wrt_log else k), axis=(1, 2))
        w = _integral_adjoint(derivs if wrt_log else derivs * k)
    else:
        finite = xp.isfinite((log_k if wrt_log else k)[:, -1, -1])
        end = derivs if wrt_log else derivs * k[:, -1, -1]
        w = xp.broadcast_to(end[:, None, None], g.shape)
    gbar = _refined_adjoint(_levels_adjoint(g, levels, w, rule), problem.dyadic_order)

    def marked(gradient: Array) -> Array:
        return xp.where(finite[:, None, None], gradient, xp.full_like(gradient, math.nan))

    kernel = problem.static_kernel
    return (
        marked(gradient_x(kernel, ctx, gbar, x)) if left else None,
        marked(gradient_y(kernel, ctx, gbar, y)) if right else None,
    )


def _nodes(problem: Problem) -> tuple[int, int]:
    """Numbers of nodes of a grid."""
    return (
        (problem.path1.shape[1] - 1) * 2 ** problem.dyadic_order[0] + 1,
        (problem.path2.shape[1] - 1) * 2 ** problem.dyadic_order[1] + 1,
    )


def _pairs_in_flight(problem: Problem) -> int:
    """Number of pairs whose grids fit the budget of a block."""
    size1, size2 = _nodes(problem)
    itemsize = 4 if problem.path1.dtype == namespace_of(problem.path1).float32 else 8
    grids = (problem.depth + 6) * problem.quadrature.p**2
    points = problem.path1.shape[1] * problem.path2.shape[1]
    pairs: int = _BLOCK_BYTES // ((grids * size1 * size2 + 6 * points) * itemsize)
    return max(1, pairs)


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


def _cross(x: Array, y: Array) -> tuple[Array, Array]:
    """All pairs of two stacks, as two stacks of equal length."""
    xp = namespace_of(x)
    n1, n2 = x.shape[0], y.shape[0]
    return (
        xp.reshape(xp.broadcast_to(x[:, None, :, :], (n1, n2, *x.shape[1:])), (n1 * n2, *x.shape[1:])),
        xp.reshape(xp.broadcast_to(y[None, :, :, :], (n1, n2, *y.shape[1:])), (n1 * n2, *y.shape[1:])),
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


def _map_pairs(problem: Problem, function: Callable[[Array, Array], Array]) -> Array:
    """Apply a function of stacks of pairs to every pair of a problem, block by block."""
    x, y = problem.path1, problem.path2
    xp = namespace_of(x)
    progress = _Progress(problem)
    with np.errstate(all="ignore"):
        if problem.pairing == "paired":
            parts = []
            for block in _slices(x.shape[0], _pairs_in_flight(problem)):
                parts.append(function(x[block, ...], y[block, ...]))
                progress.add(block.stop - block.start)
            return _joined(xp, parts, 0) if parts else function(x, y)
        if x.shape[0] == 0 or y.shape[0] == 0:
            nothing = function(*_cross(x, y))
            return xp.reshape(nothing, (x.shape[0], y.shape[0], *nothing.shape[1:]))
        rows, columns = _block_sides(problem)
        symmetric = problem.pairing == "symmetric"
        # A list for every row of blocks. A symmetric matrix has blocks on and below the diagonal, and mirrors the
        # others.
        matrix: list[list[Array]] = []
        for rows_block in _slices(x.shape[0], rows):
            row = []
            for columns_block in _slices(rows_block.stop if symmetric else y.shape[0], columns):
                a, b = rows_block.stop - rows_block.start, columns_block.stop - columns_block.start
                values = function(*_cross(x[rows_block, ...], y[columns_block, ...]))
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
    x, y = problem.path1, problem.path2
    xp = namespace_of(x)
    progress = _Progress(problem)
    parts: tuple[list[Array], list[Array]] = ([], [])
    with np.errstate(all="ignore"):
        for block in _slices(x.shape[0], _pairs_in_flight(problem)):
            both = _pair_gradients(
                problem,
                x[block, ...],
                y[block, ...],
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
    d_path1 = (_joined(xp, parts[0], 0) if parts[0] else xp.zeros_like(x)) if left else None
    d_path2 = (_joined(xp, parts[1], 0) if parts[1] else xp.zeros_like(y)) if right else None
    return d_path1, d_path2


def _gram_gradients(
    problem: Problem, derivs: Array, *, wrt_log: bool, left: bool, right: bool, k_stack: Array | None
) -> tuple[Array | None, Array | None]:
    """Gradients of all pairs, summed over the partners of each path.

    A symmetric problem visits the blocks on and below the diagonal. Off the diagonal it takes the gradient of a pair
    with respect to both paths at derivative 1, since d_1 k(x_j, x_i) = d_2 k(x_i, x_j), and weighs them by derivs[i, j]
    and [j, i].
    """
    x, y = problem.path1, problem.path2
    xp = namespace_of(x)
    if x.shape[0] == 0 or y.shape[0] == 0:
        return xp.zeros_like(x) if left else None, xp.zeros_like(y) if right else None
    progress = _Progress(problem)
    symmetric = problem.pairing == "symmetric"
    rows, columns = _block_sides(problem)
    rows_blocks, columns_blocks = list(_slices(x.shape[0], rows)), list(_slices(y.shape[0], columns))
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
                    *_cross(x[rows_block, ...], y[columns_block, ...]),
                    _flat(xp, xp.ones_like(weights) if below else weights),
                    None if k_stack is None else _flat(xp, k_stack[rows_block, columns_block, ...]),
                    wrt_log=wrt_log,
                    left=left,
                    right=right or below,
                )
                if gx is not None:
                    gx = xp.reshape(gx, (a, b, *gx.shape[1:]))
                    gx = gx * weights[:, :, None, None] if below else gx
                    d_rows[i] = _plus(d_rows[i], xp.sum(gx, axis=1))
                if gy is not None:
                    gy = xp.reshape(gy, (a, b, *gy.shape[1:]))
                    if below:
                        mirrored = xp.permute_dims(derivs[columns_block, rows_block], (1, 0))
                        d_rows[j] = _plus(d_rows[j], xp.sum(gy * mirrored[:, :, None, None], axis=0))
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
