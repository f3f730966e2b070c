"""The specification: the recursion of the branched signature kernel and its adjoint, in array API calls.

A `Problem` on arrays of any library comes in; logarithms of kernels, grids, homogeneous parts or gradients go out.
Every other backend is held against this one. It keeps whole grids, so it works on blocks of pairs whose grids fit a
fixed budget of memory, and it never writes into an array, so it serves libraries whose arrays cannot be written to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from branchsig._arrays import Array, device_of, filled, in_float64, namespace_of, unrecorded, weighted
from branchsig.backends._digits import lost, purpose_of
from branchsig.backends.base import Gradients, Problem, Want, Wrt
from branchsig.backends.reference.bounds import error_bounds, nan_where
from branchsig.backends.reference.nodes import components, components_of
from branchsig.backends.reference.recursion import at_corners, refined, refined_adjoint
from branchsig.backends.reference.solver import gradients_of, grid_of, solved_levels
from branchsig.static_kernels import Context, gradient_x, gradient_y, increments, is_built_in

__all__ = ["ReferenceBackend"]

_BLOCK_BYTES = 64 * 2**20
"""Memory that the grids of the pairs in flight may take together."""


_POINT_ARRAYS = 30
"""Arrays of the size of all pairs of points that the increments of a static kernel are made of."""


class ReferenceBackend:
    """The recursion and its adjoint, on the arrays of any library. See `branchsig.backends.Backend` for the methods."""

    name = "reference"

    def solve(self, problem: Problem, want: Want, *, log: bool = False) -> Array:
        """Return kernels, their logarithms or components, at the end or at every node."""
        if want == "prefixes":
            return self._prefixes(problem)
        if problem.order is not None:
            return self._components(problem, grid=want == "grid")
        return self._ends(problem, log=log) if want == "end" else self._grid(problem, want == "stack", log=log)

    def _ends(self, problem: Problem, *, log: bool) -> Array:
        def ends(x: _Paths, y: _Paths) -> Array:
            if _still(problem, x, y):
                return _filled_array(x, float(not log), (x.points.shape[0],))
            g = _cell_increments(problem, Context(), x, y)
            levels, logs = solved_levels(g, problem)
            end = logs[-1][:, -1, -1]
            gone = lost(
                unrecorded(end), error_bounds(g, levels, logs, problem, nodes=False), purpose_of(problem, log=log)
            )
            return nan_where(gone, end if log else namespace_of(end).exp(end))

        return _map_pairs(problem, ends)

    def _grid(self, problem: Problem, all_levels: bool, *, log: bool) -> Array:
        """K_depth, its logarithm, or K_0 to K_depth, at every node."""

        def nodes(x: _Paths, y: _Paths) -> Array:
            if _still(problem, x, y):
                shape = (x.points.shape[0], *((int(problem.depth) + 1,) if all_levels else ()), *_nodes(problem))
                return _filled_array(x, 0.0 if log else 1.0, shape)
            return grid_of(_cell_increments(problem, Context(), x, y), problem, all_levels=all_levels, log=log)

        return _map_pairs(problem, nodes)

    def _components(self, problem: Problem, *, grid: bool) -> Array:
        """k_0 to k_order at the end of both paths, or at every node."""

        def by_order(x: _Paths, y: _Paths) -> Array:
            xp, order = namespace_of(x.points), int(problem.order or 0)
            if _still(problem, x, y):
                shape = (x.points.shape[0], *(_nodes(problem) if grid else ()))
                first, rest = _filled_array(x, 1.0, shape), _filled_array(x, 0.0, shape)
                return xp.stack([first, *[rest] * order], axis=-1)
            return components_of(_cell_increments(problem, Context(), x, y), problem, grid=grid)

        return _map_pairs(problem, by_order)

    def _prefixes(self, problem: Problem) -> Array:
        """log K_depth, or k_0 to k_order, of every path up to each of its points with itself."""
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
                return on_diagonal(solved_levels(g, problem)[1][-1])
            k, _ = components(g, order, problem.quadrature)
            return xp.stack([on_diagonal(at_corners(part, problem.quadrature.p)) for part in k], axis=-1)

        return _map_pairs(problem, prefixes)

    def adjoint(
        self, problem: Problem, want: Want, derivs: Array, wrt: Wrt, *, log: bool = False, stack: Array | None = None
    ) -> Gradients:
        """Return the gradients with respect to the paths."""
        derivs, stack = in_float64(derivs), None if stack is None else in_float64(stack)
        of_pairs = _paired_gradients if problem.pairing == "paired" else _gram_gradients
        both = of_pairs(problem, derivs, wrt_log=log, left=wrt.path1, right=wrt.path2, k_stack=stack)
        return Gradients(*(None if d is None else _in_dtype_of(problem.path1, d) for d in both))


class _Paths(NamedTuple):
    """A stack of paths, and the valid lengths of padded ones."""

    points: Array
    lengths: npt.NDArray[np.int64] | None

    def part(self, block: slice) -> _Paths:
        return _Paths(self.points[block, ...], None if self.lengths is None else self.lengths[block])


def _still(problem: Problem, x: _Paths, y: _Paths) -> bool:
    """Tell whether all kernels are 1: no level, or a path of one point."""
    levels = problem.depth if problem.order is None else problem.order
    return levels == 0 or x.points.shape[1] == 1 or y.points.shape[1] == 1


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
    return refined(_in_use(x, y, g), problem.dyadic_order)


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
    gbar = _in_dtype_of(x.points, _in_use(x, y, refined_adjoint(gbar, problem.dyadic_order)))
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
        levels = 4.0 * problem.order
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
