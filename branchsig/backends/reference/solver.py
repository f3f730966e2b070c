"""Pairs with given increments: values at the end or on the grid, and derivatives with respect to the increments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from branchsig._arrays import Array, in_float64, namespace_of, unrecorded
from branchsig.backends._digits import lost, purpose_of
from branchsig.backends.reference.bounds import error_bounds, nan_where
from branchsig.backends.reference.nodes import components_gradient, components_of
from branchsig.backends.reference.recursion import (
    at_corners,
    at_corners_adjoint,
    at_end,
    by_depth,
    by_depth_adjoint,
    integral_adjoint,
    refined,
    refined_adjoint,
)
from branchsig.backends.reference.untruncated import solve_untruncated, untruncated_adjoint

if TYPE_CHECKING:
    from branchsig.backends.base import Problem, Want

__all__ = ["gradients_of", "grid_from_increments", "grid_of", "increments_gradient", "solved_levels"]


def solved_levels(g: Array, problem: Problem) -> tuple[list[Array], list[Array]]:
    """The kernels that log K is an integral of, at all nodes, and the logarithms of K_1 and so on.

    The last of these is that at the corners. Depth at least 1. Without truncation K is the integral of itself.
    """
    rule = problem.quadrature
    if problem.depth < math.inf:
        return by_depth(g, int(problem.depth), rule)
    log_k = solve_untruncated(g, rule)
    return [namespace_of(g).exp(log_k)], [at_corners(log_k, rule.p)]


def grid_of(g: Array, problem: Problem, *, all_levels: bool, log: bool) -> Array:
    """K_depth, its logarithm, or K_0 to K_depth, at every corner, from the increments of the cells."""
    xp, purpose, p = namespace_of(g), purpose_of(problem, log=log), problem.quadrature.p
    levels, logs = solved_levels(g, problem)

    def judged(m: int, log_k: Array, values: Array) -> Array:
        errors = error_bounds(g, levels[:m], [*logs[: m - 1], log_k], problem, nodes=True)
        return nan_where(lost(unrecorded(log_k), errors, purpose), values)

    last = judged(len(levels), logs[-1], logs[-1] if log else xp.exp(logs[-1]))
    if not all_levels:
        return last
    corners = [at_corners(k, p) for k in levels]
    below = [judged(m, at_corners(logs[m - 1], p), corners[m]) for m in range(1, len(levels))]
    return xp.stack([corners[0], *below, last], axis=1)


def gradients_of(
    g: Array, derivs: Array, problem: Problem, *, wrt_log: bool, k_stack: Array | None = None
) -> tuple[Array, Array]:
    """Which pairs have finite values, and derivatives with respect to the increments of the cells."""
    if problem.order is not None:
        return components_gradient(g, derivs, problem)
    return _depth_gradient(g, derivs, k_stack, problem, wrt_log=wrt_log)


def _depth_gradient(
    g: Array, derivs: Array, k_stack: Array | None, problem: Problem, *, wrt_log: bool
) -> tuple[Array, Array]:
    """Which pairs are finite, and derivatives with respect to the increments, for derivatives of K_depth or its log."""
    xp, rule, of_grid = namespace_of(g), problem.quadrature, derivs.ndim == 3
    untruncated = problem.depth == math.inf
    if untruncated:
        nodes = solve_untruncated(g, rule)
        levels, logs = [xp.exp(nodes)], [at_corners(nodes, rule.p)]
    elif k_stack is None:
        levels, logs = by_depth(g, int(problem.depth), rule)
    else:
        levels = [k_stack[:, m, :, :] for m in range(int(problem.depth))]
        logs = [xp.log(k) for k in (*levels[1:], k_stack[:, int(problem.depth), :, :])]
    log_k = logs[-1]
    k = xp.exp(log_k) if k_stack is None else k_stack[:, int(problem.depth), :, :]
    value = log_k if wrt_log else k
    errors = error_bounds(g, levels, logs, problem, nodes=of_grid)
    gone = lost(log_k if of_grid else log_k[:, -1, -1], errors, purpose_of(problem, log=wrt_log))
    if of_grid:
        finite = xp.all(xp.isfinite(value) & ~gone, axis=(1, 2))
        nodebar = derivs if wrt_log else derivs * k
        if not untruncated:
            w = integral_adjoint(nodebar)
    else:
        finite = xp.isfinite(value[:, -1, -1]) & ~gone
        end = derivs if wrt_log else derivs * k[:, -1, -1]
        if not untruncated:
            w = xp.broadcast_to(end[:, None, None], g.shape)
        else:
            nodebar = at_end(end, g)
    if untruncated:
        return finite, untruncated_adjoint(g, levels[0], at_corners_adjoint(nodebar, rule.p), rule)
    return finite, by_depth_adjoint(g, levels, w, rule)


def grid_from_increments(problem: Problem, given: Array, want: Want, *, log: bool) -> Array:
    """What `ReferenceBackend.solve` returns for pairs with these increments: "grid" or "stack"."""
    g = refined(in_float64(given), problem.dyadic_order)
    with np.errstate(all="ignore"):
        if problem.order is not None:
            return components_of(g, problem, grid=True)
        return grid_of(g, problem, all_levels=want == "stack", log=log)


def increments_gradient(problem: Problem, given: Array, derivs: Array, *, wrt_log: bool) -> Array:
    """Derivatives with respect to increments, for derivatives of grids; NaN for a pair without a finite value."""
    xp = namespace_of(given)
    with np.errstate(all="ignore"):
        finite, gbar = gradients_of(refined(in_float64(given), problem.dyadic_order), derivs, problem, wrt_log=wrt_log)
        gbar = refined_adjoint(gbar, problem.dyadic_order)
    return xp.where(finite[:, None, None], gbar, xp.full_like(gbar, math.nan))
