"""The reference backend: pairs with given increments, solved by calls of the array API standard.

It solves a `Problem` on arrays of any library. Every other backend is tested against it. It stores whole grids, so it
works on blocks of pairs whose grids fit a fixed amount of memory. It never modifies an array, so it also serves
libraries with immutable arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from branchsig._arrays import Array, in_float64, namespace_of, unrecorded
from branchsig.backends import pairs
from branchsig.backends._digits import lost, purpose_of
from branchsig.backends.base import Gradients, Problem, Want, Wrt
from branchsig.backends.reference.bounds import error_bounds, nan_where
from branchsig.backends.reference.nodes import components_at_nodes, components_gradient, components_of
from branchsig.backends.reference.planar import kernel_stack, less_one, less_one_at_nodes, less_one_gradient
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

__all__ = ["ReferenceBackend"]

S = TypeVar("S")
T = TypeVar("T")

_BLOCK_BYTES = 64 * 2**20
"""Memory in bytes for the grids of a block of pairs."""

_POINT_ARRAYS = 30
"""Number of arrays over all pairs of points that a static kernel needs for its increments."""


class ReferenceBackend:
    """The recursion and its adjoint, on the arrays of any library. See `Backend`, and `pairs.Solver`."""

    name = "reference"

    def solve(self, problem: Problem, want: Want, *, log: bool = False) -> Array:
        """See `Backend.solve`."""
        return pairs.solve(problem, self, want, log=log)

    def adjoint(
        self, problem: Problem, want: Want, derivs: Array, wrt: Wrt, *, log: bool = False, stack: Array | None = None
    ) -> Gradients:
        """See `Backend.adjoint`."""
        derivs, stack = in_float64(derivs), None if stack is None else in_float64(stack)
        return pairs.adjoint(problem, self, want, derivs, wrt, log=log, stack=stack)

    def most_pairs(self, problem: Problem, *, gradients: bool) -> int:
        """Return the number of pairs whose grids fit the memory of a block."""
        nodes = ((path.shape[1] - 1) * 2**order + 1 for path, order in _sides(problem))
        levels = 4.0 if problem.depth == math.inf else problem.depth
        if problem.order is not None:
            levels = 4.0 * problem.largest_depth * (problem.order + 1 - problem.largest_depth)
        grids = (levels + 6.0) * problem.quadrature.p**2
        points = problem.path1.shape[1] * problem.path2.shape[1]
        return max(1, int(_BLOCK_BYTES / ((grids * math.prod(nodes) + _POINT_ARRAYS * points) * 8)))

    def run(self, items: Iterable[S], work: Callable[[S], T], collect: Callable[[T], None]) -> None:
        """Apply `work` to all items, one after the other."""
        for item in items:
            collect(work(item))

    def room(self, problem: Problem, shape: tuple[int, ...]) -> None:
        """Return None: arrays of some libraries are immutable."""

    def values(self, problem: Problem, given: Array, want: Want, *, log: bool) -> Array:
        """Return kernels, their logarithms or components, of pairs with given increments."""
        g = refined(in_float64(given), problem.dyadic_order)
        with np.errstate(all="ignore"):
            if want == "prefixes":
                return _prefixes(g, problem)
            if problem.order is not None:
                return components_of(g, problem, grid=want == "grid")
            if problem.planar:
                return kernel_stack(g, problem) if want == "stack" else less_one(g, problem, grid=want == "grid")
            return _end(g, problem, log=log) if want == "end" else _grid(g, problem, want == "stack", log=log)

    def increments_adjoint(
        self, problem: Problem, given: Array, want: Want, derivs: Array, *, log: bool, stack: Array | None
    ) -> Array:
        """Return the gradient with respect to the increments, NaN for a pair without a finite value."""
        g = refined(in_float64(given), problem.dyadic_order)
        with np.errstate(all="ignore"):
            if problem.order is not None:
                finite, gbar = components_gradient(g, derivs, problem)
            elif problem.planar:
                finite, gbar = less_one_gradient(g, derivs, stack, problem)
            else:
                finite, gbar = _depth_gradient(g, derivs, stack, problem, wrt_log=log)
            gbar = refined_adjoint(gbar, problem.dyadic_order)
        xp = namespace_of(gbar)
        return xp.where(finite[:, None, None], gbar, xp.full_like(gbar, math.nan))


def _sides(problem: Problem) -> Iterator[tuple[Array, int]]:
    return zip((problem.path1, problem.path2), problem.dyadic_order, strict=True)


def _solved_levels(g: Array, problem: Problem) -> tuple[list[Array], list[Array]]:
    """The kernels K_0, K_1, ... that are integrated, at all nodes, and the logarithms of K_1, K_2, ....

    The last logarithm is given at the corners. The depth is at least 1. Without truncation K is the integral of itself.
    """
    rule = problem.quadrature
    if problem.depth < math.inf:
        return by_depth(g, int(problem.depth), rule)
    log_k = solve_untruncated(g, rule)
    return [namespace_of(g).exp(log_k)], [at_corners(log_k, rule.p)]


def _end(g: Array, problem: Problem, *, log: bool) -> Array:
    """K_depth, or its logarithm, at the end of both paths."""
    levels, logs = _solved_levels(g, problem)
    end = logs[-1][:, -1, -1]
    errors = error_bounds(g, levels, logs, problem, nodes=False)
    gone = lost(unrecorded(end), errors, purpose_of(problem, log=log))
    return nan_where(gone, end if log else namespace_of(end).exp(end))


def _grid(g: Array, problem: Problem, all_levels: bool, *, log: bool) -> Array:
    """K_depth, its logarithm, or K_0 to K_depth, at every corner, from the increments of the cells."""
    xp, purpose, p = namespace_of(g), purpose_of(problem, log=log), problem.quadrature.p
    levels, logs = _solved_levels(g, problem)

    def judged(m: int, log_k: Array, values: Array) -> Array:
        errors = error_bounds(g, levels[:m], [*logs[: m - 1], log_k], problem, nodes=True)
        return nan_where(lost(unrecorded(log_k), errors, purpose), values)

    last = judged(len(levels), logs[-1], logs[-1] if log else xp.exp(logs[-1]))
    if not all_levels:
        return last
    corners = [at_corners(k, p) for k in levels]
    below = [judged(m, at_corners(logs[m - 1], p), corners[m]) for m in range(1, len(levels))]
    return xp.stack([corners[0], *below, last], axis=1)


def _prefixes(g: Array, problem: Problem) -> Array:
    """log K_depth, or k_0 to k_order, of every path up to each of its points with itself."""
    xp, refinement = namespace_of(g), 2 ** problem.dyadic_order[0]

    def on_diagonal(grid: Array) -> Array:
        nodes = grid[:, ::refinement, ::refinement]
        length = nodes.shape[1]
        return xp.reshape(nodes, (nodes.shape[0], length * length))[:, :: length + 1]

    if problem.planar and problem.order is None:
        return on_diagonal(less_one_at_nodes(g, int(problem.depth), problem.quadrature)[-1])
    if problem.order is None:
        return on_diagonal(_solved_levels(g, problem)[1][-1])
    corners = (at_corners(part, problem.quadrature.p) for part in components_at_nodes(g, problem))
    return xp.stack([on_diagonal(part) for part in corners], axis=-1)


def _depth_gradient(
    g: Array, derivs: Array, k_stack: Array | None, problem: Problem, *, wrt_log: bool
) -> tuple[Array, Array]:
    """Tell which pairs are finite, and compute derivatives with respect to the increments from those of K_depth or its
    log."""
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
