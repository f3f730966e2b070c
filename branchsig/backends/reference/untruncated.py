"""No truncation: Newton's method for the kernel of all forests, and its adjoint.

log K = U solves U = integral of exp(U) against κ. The cells on an anti-diagonal are independent and are solved
simultaneously. In a cell, let T be the value on the edge above, S the integral over the strip to the left in the same
row of cells, and A[a, k] the integral up to node a of the basis function of node k::

    U[a, b] = T[b] + S[a] + g * sum over k, l of A[a, k] A[b, l] exp(U[k, l])

The equation is solved by Newton's method at each node, exact for rules with one unknown, and a fixed-point iteration
between the nodes of a cell.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from branchsig._arrays import Array, namespace_of
from branchsig.backends.reference.diagonals import down, skewed, unskewed
from branchsig.backends.reference.recursion import cell_means, increments_adjoint, small_matrix, zeros
from branchsig.quadrature import Matrix, Quadrature

__all__ = ["solve_untruncated", "untruncated_adjoint"]

_LARGEST_ITERATION = 200


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
    """`cell_means` of an array (pairs, R, nodes, nodes) of cells that share no nodes."""
    xp = namespace_of(nodes)
    flat = xp.reshape(nodes, (nodes.shape[0] * nodes.shape[1], *nodes.shape[2:]))
    result = cell_means(flat, weights)
    return xp.reshape(result, (*nodes.shape[:2], *result.shape[1:]))


def _solved(step: Callable[[Array], tuple[Array, Array]], start: Array, floor: float = 1.0) -> Array:
    """Solve u = f(u) for the nodes of cells, (pairs, R, p, p), by a step that gives f(u) − u and 1 − df/du, by node.

    The rounding error is relative to `floor` + |u| (for logarithms, which are added to others) or, with floor 0, to the
    largest |u| of the cell (for derivatives, which may all be tiny). If the slope is not positive, no solution can be
    reached: the whole cell is inf. If the iterations end before the steps reach rounding error, the whole cell is NaN.
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


def solve_untruncated(g: Array, rule: Quadrature) -> Array:
    """log K_∞ at the nodes of all cells."""
    xp = namespace_of(g)
    p, inner = rule.p, rule.matrix[1:]
    diagonal = [row[a] for a, row in enumerate(rule.matrix)][1:]
    own = small_matrix(([a * b for b in diagonal] for a in diagonal), g)

    def cell_integral(above: Array, left: Array, increment: Array, u: Array) -> Array:
        nodes = xp.concat([above[:, :, None, :], xp.concat([left[:, :, :, None], u], axis=3)], axis=2)
        integral = increment * _of_one_cell(xp.exp(nodes), inner)
        return xp.where(increment == 0.0, xp.zeros_like(integral), integral)

    def step(above: Array, left: Array, strip: Array, increment: Array, u: Array) -> tuple[Array, Array]:
        integral = cell_integral(above, left, increment, u)
        own_share = increment * own * xp.exp(u)
        slope = 1.0 - xp.where((increment == 0.0) | (own == 0.0), xp.zeros_like(u), own_share)
        return above[:, :, None, 1:] + strip[:, :, :, None] + integral - u, slope

    on_diagonals = skewed(g)
    above, strip = zeros(g, (*g.shape[:2], p + 1)), zeros(g, (*g.shape[:2], p))
    diagonals = []
    for d in range(on_diagonals.shape[2]):
        increment = on_diagonals[:, :, d][:, :, None, None]
        left = above[:, :, :1] + strip
        start = above[:, :, None, 1:] + strip[:, :, :, None]
        u = _solved(functools.partial(step, above, left, strip, increment), start)
        # Beyond a blow-up everything is inf; the integrals there have no meaning.
        integral = xp.where(u == math.inf, u, cell_integral(above, left, increment, u))
        u = above[:, :, None, 1:] + (strip[:, :, :, None] + integral)
        strip = strip + integral[:, :, :, -1]
        above = down(xp.concat([left[:, :, -1:], u[:, :, -1, :]], axis=2))
        diagonals.append(u)
    nodes = _by_node(unskewed(xp.stack(diagonals, axis=2)))
    pairs, rows, columns = nodes.shape
    nodes = xp.concat([zeros(g, (pairs, rows, 1)), nodes], axis=2)
    return xp.concat([zeros(g, (pairs, 1, columns + 1)), nodes], axis=1)


def untruncated_adjoint(g: Array, k: Array, nodebar: Array, rule: Quadrature) -> Array:
    """Derivatives with respect to the increments, from those with respect to log K_∞ at the nodes.

    The adjoint of `solve_untruncated`, from the last cell to the first. With w the derivatives with respect to the
    sub-cells, S the sums over the strip to the right in the same row of cells and T the first row of w of the cell
    below,
        w[a, b] = T[b] + S[a] + sum over the nodes below and to the right in the cell of (nodebar + K * Kbar),
    where Kbar gathers g * Bᵀ w B over the cells that a node belongs to, including this cell.
    """
    xp = namespace_of(g)
    p, steps = rule.p, rule.steps
    weights = small_matrix(steps, g)
    transposed = xp.permute_dims(weights, (1, 0))
    # The share of w[a, b] in the sum over its own nodes k >= a, l >= b: g * B[a, k] B[b, l] K[k, l].
    behind = small_matrix(([row[k] if k > a else 0.0 for k in range(1, p + 1)] for a, row in enumerate(steps)), g)
    behind_transposed = xp.permute_dims(behind, (1, 0))

    def of_cell(increment: Array, w: Array) -> Array:
        return increment * xp.matmul(xp.matmul(transposed, w), weights)

    def sums(terms: Array) -> Array:
        terms = xp.flip(terms, axis=(2, 3))
        return xp.flip(xp.cumulative_sum(xp.cumulative_sum(terms, axis=3), axis=2), axis=(2, 3))

    def step(known: Array, slope: Array, k_here: Array, increment: Array, w: Array) -> tuple[Array, Array]:
        return known + sums(k_here * of_cell(increment, w)[:, :, 1:, 1:]) - w, slope

    on_diagonals = skewed(xp.flip(g, axis=(1, 2)))
    k_skewed, bar_skewed = (skewed(xp.flip(_by_cell(a[:, 1:, 1:], p), axis=(1, 2))) for a in (k, nodebar))
    pairs, rows, _ = g.shape
    strip, below = zeros(g, (pairs, rows, p)), zeros(g, (pairs, rows, p))
    # Contributions of the cells to the right, below, and diagonally below to the nodes that they share with this cell.
    of_right, of_below = zeros(g, (pairs, rows, p, 1)), zeros(g, (pairs, rows, 1, p))
    of_behind = of_next_behind = zeros(g, (pairs, rows, 1, 1))
    diagonals = []
    for d in range(on_diagonals.shape[2]):
        increment = on_diagonals[:, :, d][:, :, None, None]
        k_here = k_skewed[:, :, d, :, :]
        gathered = _at_last(of_right, 3, p) + _at_last(of_below, 2, p) + _at_last(_at_last(of_behind, 3, p), 2, p)
        fixed = sums(bar_skewed[:, :, d, :, :] + k_here * gathered)
        known = below[:, :, None, :] + strip[:, :, :, None] + fixed
        slope = 1.0 - increment * xp.matmul(xp.matmul(behind, k_here), behind_transposed)
        # The equation is linear and has a solution; the slope only speeds up the convergence.
        slope = xp.where(slope > 0.25, slope, xp.ones_like(slope))
        w = _solved(functools.partial(step, known, slope, k_here, increment), known, 0.0)
        share = of_cell(increment, w)
        strip = strip + (fixed + sums(k_here * share[:, :, 1:, 1:]))[:, :, :, 0]
        below = down(w[:, :, 0, :])
        of_behind, of_next_behind = of_next_behind, down(share[:, :, :1, :1])
        of_right, of_below = share[:, :, 1:, :1], down(share[:, :, :1, 1:])
        diagonals.append(w)
    w = _by_node(xp.flip(unskewed(xp.stack(diagonals, axis=2)), axis=(1, 2)))
    return increments_adjoint(k, steps, w)


def _at_last(part: Array, axis: int, size: int) -> Array:
    """Pad an array of size 1 along an axis with zeros in front, to the given size."""
    xp = namespace_of(part)
    return xp.concat([*[xp.zeros_like(part)] * (size - 1), part], axis=axis)
