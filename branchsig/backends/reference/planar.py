"""Ordered forests by depth: K_m - 1 at the nodes of all cells, and the adjoint.

The kernel over ordered forests of planar trees solves K_m = 1 + integral of K_m K_{m-1} against κ, K_0 = 1. With h the
increment of a cell times the mean of K_{m-1} over it, its corners satisfy::

    K11 - K10 - K01 + K00 = (K10 + K01) a(h) + K00 b(h)

    trapezoid    a = h/2 + h²/12,  b = h²/12
    left point   a = 0,            b = h

At depth 1 these are the plain signature kernel by finite differences, and the inner product of discrete Itô signatures.
K - 1 is computed, so that kernels near 1 keep their digits.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from branchsig._arrays import Array, device_of, is_traced, namespace_of, unrecorded
from branchsig.backends._digits import TOLERANCE, lost_sums
from branchsig.backends.reference.bounds import nan_where
from branchsig.backends.reference.diagonals import down, skewed, unskewed
from branchsig.backends.reference.recursion import (
    at_end,
    cell_means,
    increments_adjoint,
    integral,
    k_adjoint,
    ones,
    zeros,
)
from branchsig.quadrature import Quadrature

if TYPE_CHECKING:
    from branchsig.backends.base import Problem

__all__ = ["kernel_stack", "less_one", "less_one_at_nodes", "less_one_gradient"]


def _coefficients(h: Array, rule: Quadrature) -> tuple[Array, Array]:
    """a(h) and b(h)."""
    if rule.whole[-1][-1] == 0.0:
        return namespace_of(h).zeros_like(h), h
    square = h * h / 12.0
    return 0.5 * h + square, square


def _slopes(h: Array, rule: Quadrature) -> tuple[Array, Array]:
    """The derivatives of a(h) and b(h)."""
    xp = namespace_of(h)
    if rule.whole[-1][-1] == 0.0:
        return xp.zeros_like(h), xp.ones_like(h)
    return 0.5 + h / 6.0, h / 6.0


def _product(coefficient: Array, value: Array) -> Array:
    """A product that is 0 if a factor is 0, even if the other one is infinite."""
    xp, product = namespace_of(value), coefficient * value
    nothing = ((coefficient == 0) | (value == 0)) & xp.isnan(product)
    return xp.where(nothing, xp.zeros_like(product), product)


def _solved(left: Array, above: Array, behind: Array, given: Array) -> Array:
    """Solve X[i, j] = X[i-1, j] + X[i, j-1] - X[i-1, j-1] + left X[i, j-1] + above X[i-1, j] + behind X[i-1, j-1] +
    given for all cells, with X = 0 outside.

    X is the sum of a strip over the row of cells and of the value above, so that an infinite X stays infinite.
    """
    xp = namespace_of(given)
    parts = [skewed(part) for part in (left, above, behind, given)]
    nothing = zeros(given, given.shape[:2])
    of_row = strip = of_above = of_behind = nothing
    found = []
    for d in range(parts[0].shape[2]):
        a, b, c, constant = (part[:, :, d] for part in parts)
        strip = strip + (_product(a, of_row) + _product(b, of_above) + _product(c, of_behind) + constant)
        of_behind, of_row = of_above, of_above + strip
        of_above = down(of_row)
        found.append(of_row)
    return unskewed(xp.stack(found, axis=2))


def _with_first(cells: Array) -> Array:
    """Values of cells at their last corners, with 0 on the first row and column of nodes."""
    xp = namespace_of(cells)
    pairs, rows, columns = cells.shape
    cells = xp.concat([zeros(cells, (pairs, rows, 1)), cells], axis=2)
    return xp.concat([zeros(cells, (pairs, 1, columns + 1)), cells], axis=1)


def _cell(g: Array, k: Array, rule: Quadrature) -> Array:
    """h for all cells: increments times the mean of K, and 0 where the increment is 0."""
    return _product(g, cell_means(k, rule.whole))


def less_one_at_nodes(g: Array, depth: int, rule: Quadrature) -> list[Array]:
    """K_0 - 1 to K_depth - 1 at the corners of all cells, from the increments of the cells."""
    levels = [0.0 * ones(g, 1)]
    for _ in range(depth):
        a, b = _coefficients(_cell(g, 1.0 + levels[-1], rule), rule)
        levels.append(_with_first(_solved(a, a, b, 2.0 * a + b)))
    return levels


def _adjoint(g: Array, levels: list[Array], nodebar: Array, rule: Quadrature) -> Array:
    """Derivatives with respect to the increments of the cells, from those with respect to K_depth at the corners.

    With w the derivative with respect to the right-hand side of a cell, which every corner after it depends on::

        w00 = w01 (1 + a01) + w10 (1 + a10) - w11 (1 - b11) + nodebar at the last corner
    """
    xp = namespace_of(g)
    gbar = xp.zeros_like(g)

    def reversed_(cells: Array) -> Array:
        return xp.flip(cells, axis=(1, 2))

    def one_before(cells: Array, rows: int, columns: int) -> Array:
        """For every cell of a reversed array, the value some rows and columns before it."""
        if rows:
            cells = down(cells)
        if columns:
            cells = xp.permute_dims(down(xp.permute_dims(cells, (0, 2, 1))), (0, 2, 1))
        return cells

    for m in range(len(levels) - 1, 0, -1):
        k_below, k = 1.0 + levels[m - 1], 1.0 + levels[m]
        h = _cell(g, k_below, rule)
        a, b = (reversed_(part) for part in _coefficients(h, rule))
        sources = one_before(a, 0, 1), one_before(a, 1, 0), one_before(b, 1, 1)
        w = reversed_(_solved(*sources, reversed_(nodebar[:, 1:, 1:])))
        slope_a, slope_b = _slopes(h, rule)
        hbar = w * (slope_a * (k[:, 1:, :-1] + k[:, :-1, 1:]) + slope_b * k[:, :-1, :-1])
        gbar = gbar + increments_adjoint(k_below, rule.whole, hbar)
        nodebar = k_adjoint(g, rule.whole, hbar)
    return gbar


_NEGLIGIBLE = 1e-2 * TOLERANCE
"""An error that needs no closer look."""

_SAMPLES = 4
"""Number of patterns of signs of rounding errors."""

_MARGIN = 8.0
"""By how much the largest of the resulting errors is multiplied."""


def _errors(g: Array, levels: list[Array], rule: Quadrature) -> Array:
    """Estimates of the errors of K_depth at all corners.

    A rounding error in a cell enters K after it times the kernel of what is left of the two paths, which may be as
    large as K itself. So with M_m the largest |K_m| and S_m the sum of |h|, errors are at most about::

        e_m = M_m^2 (eps S_m + e_{m-1} S_1)

    That is enough for most pairs, but far too large for large kernels, since K is large where the kernel of what is
    left is small. So if it exceeds the tolerance, rounding errors of drawn signs are propagated to first order instead:
    on 20 million nodes, of paths that return or not, 25000 of them lost, the estimates missed none.
    """
    xp, eps = namespace_of(g), float(namespace_of(g).finfo(g.dtype).eps)
    size, bound = xp.sum(abs(g), axis=(1, 2)), zeros(g, (g.shape[0],))
    for k_below, k in itertools.pairwise(levels):
        largest = xp.max(abs(1.0 + k), axis=(1, 2)) ** 2
        bound = largest * (eps * xp.sum(abs(_cell(g, 1.0 + k_below, rule)), axis=(1, 2)) + bound * size)
    small, bound = (bound <= _NEGLIGIBLE)[:, None, None], bound[:, None, None]
    if not is_traced(g) and bool(xp.all(small)):
        return xp.broadcast_to(bound, levels[-1].shape)
    errors = xp.zeros_like(levels[-1])
    for sample in range(_SAMPLES):
        error = xp.zeros_like(errors)
        for m in range(1, len(levels)):
            error = _with_first(_propagated(g, levels[m - 1], levels[m], error, rule, 2 * sample + 11 * m))
        errors = xp.maximum(errors, abs(error))
    # Nothing is lost as long as all g are 0, even if K is infinite elsewhere.
    errors = xp.where(xp.isnan(errors), xp.full_like(errors, math.inf), _MARGIN * eps * errors)
    errors = xp.where(integral(abs(g)) == 0, xp.zeros_like(errors), errors)
    return xp.where(small, xp.broadcast_to(bound, errors.shape), errors)


def _propagated(g: Array, k_below: Array, k: Array, error: Array, rule: Quadrature, seed: int) -> Array:
    """The errors of K_m at the last corners of all cells, in units of eps, from those of K_{m-1}."""
    xp, (_, rows, columns) = namespace_of(g), g.shape
    h = _cell(g, 1.0 + k_below, rule)
    (a, b), (slope_a, slope_b) = _coefficients(h, rule), _slopes(h, rule)
    left, above, behind = 1.0 + k[:, 1:, :-1], 1.0 + k[:, :-1, 1:], 1.0 + k[:, :-1, :-1]
    terms = abs(a) * (abs(left) + abs(above)) + abs(b) * abs(behind) + abs(k[:, 1:, 1:]) + abs(k[:, :-1, 1:])
    of_h = slope_a * (left + above) + slope_b * behind
    index = [xp.arange(n, dtype=g.dtype, device=device_of(g)) for n in (rows, columns)]
    drawn = xp.sin((12.9898 + seed) * index[0][:, None] + (78.233 - seed) * index[1][None, :] + seed)
    signs = xp.where(drawn < 0, -xp.ones_like(drawn), xp.ones_like(drawn))
    given = xp.where(g == 0, xp.zeros_like(g), _product(g * of_h, cell_means(error, rule.whole)) + signs[None] * terms)
    return _solved(a, a, b, given)


def _judged(g: Array, levels: list[Array], problem: Problem, *, nodes: bool) -> Array:
    """Which values have lost their digits, at the end or (nodes) at all corners."""
    xp, k = namespace_of(g), 1.0 + unrecorded(levels[-1])
    if problem.purpose == "rough":
        return lost_sums(k if nodes else k[:, -1, -1], 0.0, "rough")
    errors = _errors(unrecorded(g), [unrecorded(level) for level in levels], problem.quadrature)
    k, errors = (k, errors) if nodes else (k[:, -1, -1], errors[:, -1, -1])
    return lost_sums(k, errors, problem.purpose or "kernel") & ~xp.isinf(k)


def less_one(g: Array, problem: Problem, *, grid: bool) -> Array:
    """K_depth - 1 at the end, or at every corner, from the increments of the cells."""
    levels = less_one_at_nodes(g, int(problem.depth), problem.quadrature)
    values = levels[-1] if grid else levels[-1][:, -1, -1]
    return nan_where(_judged(g, levels, problem, nodes=grid), values)


def kernel_stack(g: Array, problem: Problem) -> Array:
    """K_0 to K_depth at every corner, from the increments of the cells."""
    levels = less_one_at_nodes(g, int(problem.depth), problem.quadrature)
    stack = [1.0 + levels[0]]
    for m in range(1, len(levels)):
        stack.append(nan_where(_judged(g, levels[: m + 1], problem, nodes=True), 1.0 + levels[m]))
    return namespace_of(g).stack(stack, axis=1)


def less_one_gradient(g: Array, derivs: Array, k_stack: Array | None, problem: Problem) -> tuple[Array, Array]:
    """Tell which pairs are finite, and compute derivatives with respect to the increments from those of K_depth."""
    xp, depth, grid = namespace_of(g), int(problem.depth), derivs.ndim == 3
    if k_stack is None:
        levels = less_one_at_nodes(g, depth, problem.quadrature)
    else:
        levels = [k_stack[:, m, :, :] - 1.0 for m in range(depth + 1)]
    values = levels[-1] if grid else levels[-1][:, -1, -1]
    finite = xp.isfinite(values) & ~_judged(g, levels, problem, nodes=grid)
    if grid:
        finite = xp.all(finite, axis=(1, 2))
    return finite, _adjoint(g, levels, derivs if grid else at_end(derivs, g), problem.quadrature)
