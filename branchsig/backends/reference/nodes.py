"""Truncation by the number of nodes: the components k_0..k_order of the kernel, and their adjoint.

With K = sum of k_n and log K = sum of u_n by the number of nodes::

    u_n = integral of k_{n-1} against κ,   n k_n = sum over j = 1..n of j u_j k_{n-j},   k_0 = 1

If the depth is bounded too, every depth m has such sums::

    u_{m,n} = integral of k_{m-1,n-1},   n k_{m,n} = sum over j = 1..n of j u_{m,j} k_{m,n-j},   k_{0,n} = 0 for n > 0

Ordered forests, of planar trees, have K = 1 + integral of K_m K_{m-1} in the place of an exponential::

    k_{m,n} = integral of the sum over i + j = n - 1 of k_{m,i} k_{m-1,j},   k_{m,0} = 1

No forest is deeper than its number of nodes, so for n <= m these are u_{n,n} and k_{n,n}, and k_{depth,order} depends
only on k_{m,n} with n - m <= order - depth. Without a bound on the depth, the depth is the order, and k_n is k_{n,n}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from branchsig._arrays import Array, namespace_of, unrecorded
from branchsig.backends._digits import lost_components
from branchsig.backends.reference.bounds import nan_where, running_maximum
from branchsig.backends.reference.recursion import (
    at_corners,
    at_corners_adjoint,
    at_end,
    increments_adjoint,
    integral,
    integral_adjoint,
    integral_against,
    k_adjoint,
    ones,
)
from branchsig.quadrature import Quadrature

if TYPE_CHECKING:
    from branchsig.backends.base import Problem

__all__ = ["components_at_nodes", "components_gradient", "components_of"]

_ByDepth = dict[tuple[int, int], Array]
"""Arrays by depth m and number of nodes n, m <= n, sorted by m and then by n."""


def _own(m: int, n: int) -> tuple[int, int]:
    """The key of the sums over forests of n nodes and depth at most m."""
    return min(m, n), n


def _bounds(problem: Problem) -> tuple[int, int]:
    """The largest depth and the largest number of nodes."""
    return int(problem.largest_depth), int(problem.order or 0)


def _solved(g: Array, problem: Problem) -> tuple[_ByDepth, _ByDepth]:
    """k_{m,n} and u_{m,n} at the nodes of all cells, except those that are 0: k_{0,n} for n > 0 and u_{1,n} for n >
    1."""
    (depth, order), rule = _bounds(problem), problem.quadrature
    k: _ByDepth = {(0, 0): ones(g, rule.p)}
    u: _ByDepth = {}
    for m in range(1, depth + 1):
        for n in range(m, m + order - depth + 1):
            if problem.planar:
                k[m, n] = integral_against(g, _product(k, m, n), rule.steps)
                continue
            if (m - 1, n - 1) in k:
                u[m, n] = integral_against(g, k[m - 1, n - 1], rule.steps)
            total = u[1, 1] * k[_own(m, n - 1)]
            for j in range(2, n + 1):
                if _own(m, j) in u:
                    total = total + (j * 1.0) * u[_own(m, j)] * k[_own(m, n - j)]
            k[m, n] = total / n
    return k, u


def _factors(k: _ByDepth, m: int, n: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The pairs of sums whose products are integrated for the ordered forests of n nodes and depth at most m."""
    keys = ((_own(m, n - 1 - j), _own(m - 1, j)) for j in range(n))
    return [(first, second) for first, second in keys if second in k]


def _product(k: _ByDepth, m: int, n: int) -> Array:
    """The sum of these products."""
    first, *rest = (k[one] * k[other] for one, other in _factors(k, m, n))
    return sum(rest, first)


def _planar_adjoint(g: Array, k: _ByDepth, kbar: _ByDepth, rule: Quadrature) -> Array:
    """Derivatives with respect to the increments, from those with respect to some of the k_{m,n} of ordered forests."""
    xp = namespace_of(g)
    gbar, kbar = xp.zeros_like(g), dict.fromkeys(k, xp.zeros_like(k[0, 0])) | kbar
    for m, n in list(k)[:0:-1]:
        w = integral_adjoint(kbar[m, n])
        gbar = gbar + increments_adjoint(_product(k, m, n), rule.steps, w)
        bar = k_adjoint(g, rule.steps, w)
        for one, other in _factors(k, m, n):
            kbar[one] = kbar[one] + bar * k[other]
            kbar[other] = kbar[other] + bar * k[one]
    return gbar


def _largest_depth(k: _ByDepth, problem: Problem) -> list[Array]:
    """k_0..k_order of the largest depth."""
    depth, order = _bounds(problem)
    return [k[_own(depth, n)] for n in range(order + 1)]


def _adjoint(g: Array, k: _ByDepth, u: _ByDepth, kbar: _ByDepth, rule: Quadrature) -> Array:
    """Derivatives with respect to the increments of the cells, from those with respect to some of the k_{m,n}."""
    xp = namespace_of(g)
    gbar, nothing = xp.zeros_like(g), xp.zeros_like(k[0, 0])
    ubar, kbar = dict.fromkeys(u, nothing), dict.fromkeys(k, nothing) | kbar
    for m, n in list(k)[:0:-1]:
        for j in range(1, n + 1):
            of_u, of_k = _own(m, j), _own(m, n - j)
            if of_u in u:
                ubar[of_u] = ubar[of_u] + (j / n) * k[of_k] * kbar[m, n]
                kbar[of_k] = kbar[of_k] + (j / n) * u[of_u] * kbar[m, n]
        if (m, n) in u:
            below = m - 1, n - 1
            w = integral_adjoint(ubar[m, n])
            gbar = gbar + increments_adjoint(k[below], rule.steps, w)
            kbar[below] = kbar[below] + k_adjoint(g, rule.steps, w)
    return gbar


def _error_bounds(g: Array, k: _ByDepth, problem: Problem, *, nodes: bool) -> Array:
    """Bounds of the errors of k_0..k_order, on the last axis, at the end or (nodes) at all corners.

    With M_{m,n} the largest |k_{m,n}| so far and S the sum of |g|, the error of u_{m,j} is at most ε S M_{m-1,j-1}, and
    that of k_{m,n} at most (1/n) sum over j of j ε S M_{m-1,j-1} M_{m,n-j}; over ordered forests it is at most ε S
    times the sum of M_{m,i} M_{m-1,j}.
    """
    g = unrecorded(g)
    xp, (depth, order) = namespace_of(g), _bounds(problem)
    size = integral(abs(g))
    size = float(xp.finfo(g.dtype).eps) * (size if nodes else size[:, -1, -1])
    most = {}
    for which, component in k.items():
        component = abs(unrecorded(component))
        if nodes:
            most[which] = at_corners(running_maximum(running_maximum(component, 1), 2), problem.quadrature.p)
        else:
            most[which] = xp.max(component, axis=(1, 2))
    errors = [xp.zeros_like(size)]
    for n in range(1, order + 1):
        if problem.planar:
            errors.append(size * _product(most, depth, n))
            continue
        total = most[0, 0] * most[_own(depth, n - 1)]
        for j in range(2, n + 1):
            below = _own(depth - 1, j - 1)
            if below in most:
                total = total + (j * 1.0) * most[below] * most[_own(depth, n - j)]
        errors.append(size * total / n)
    return xp.stack(errors, axis=-1)


def components_at_nodes(g: Array, problem: Problem) -> list[Array]:
    """k_0 to k_order at the nodes of all cells, from the increments of the cells."""
    return _largest_depth(_solved(g, problem)[0], problem)


def components_of(g: Array, problem: Problem, *, grid: bool) -> Array:
    """k_0 to k_order at the end, or at every corner, from the increments of the cells."""
    k, _ = _solved(g, problem)
    components = _stacked(k, problem, grid=grid)
    return nan_where(
        lost_components(unrecorded(components), _error_bounds(g, k, problem, nodes=grid), problem.purpose), components
    )


def _stacked(k: _ByDepth, problem: Problem, *, grid: bool) -> Array:
    """k_0 to k_order at the end, or at every corner, on a last axis."""
    corners = [at_corners(component, problem.quadrature.p) for component in _largest_depth(k, problem)]
    return namespace_of(k[0, 0]).stack([k_n if grid else k_n[:, -1, -1] for k_n in corners], axis=-1)


def components_gradient(g: Array, derivs: Array, problem: Problem) -> tuple[Array, Array]:
    """Tell which pairs are finite, and compute derivatives with respect to the increments from those of
    k_0..k_order."""
    xp, rule, of_grid = namespace_of(g), problem.quadrature, derivs.ndim == 4
    depth, order = _bounds(problem)
    k, u = _solved(g, problem)
    components = _stacked(k, problem, grid=of_grid)
    gone = lost_components(components, _error_bounds(g, k, problem, nodes=of_grid), problem.purpose)
    finite = xp.all(xp.reshape(xp.isfinite(components) & ~gone, (components.shape[0], -1)), axis=1)
    bars = [derivs[..., n] if of_grid else at_end(derivs[:, n], g) for n in range(order + 1)]
    kbar = {_own(depth, n): at_corners_adjoint(bar, rule.p) for n, bar in enumerate(bars)}
    if problem.planar:
        return finite, _planar_adjoint(g, k, kbar, rule)
    return finite, _adjoint(g, k, u, kbar, rule)
