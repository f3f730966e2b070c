"""Truncation by the number of nodes: the components k_0..k_order of the kernel, and their adjoint.

With K = sum of k_n and log K = sum of u_n by the number of nodes::

    u_n = integral of k_{n-1} against κ,   n k_n = sum over j = 1..n of j u_j k_{n-j},   k_0 = 1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from branchsig._arrays import Array, namespace_of, unrecorded
from branchsig.backends._digits import lost_parts
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

__all__ = ["components", "components_gradient", "components_of"]


def components(g: Array, order: int, rule: Quadrature) -> tuple[list[Array], list[Array]]:
    """k_0..k_order and u_1..u_order at the nodes of all cells."""
    k, u = [ones(g, rule.p)], []
    for n in range(1, order + 1):
        u.append(integral_against(g, k[n - 1], rule.steps))
        total = u[0] * k[n - 1]
        for j in range(2, n + 1):
            total = total + (j * 1.0) * u[j - 1] * k[n - j]
        k.append(total / n)
    return k, u


def _components_adjoint(g: Array, k: list[Array], u: list[Array], kbar: list[Array], rule: Quadrature) -> Array:
    """Derivatives with respect to the increments of the cells, from those with respect to k_0..k_order."""
    xp = namespace_of(g)
    gbar, kbar = xp.zeros_like(g), list(kbar)
    ubar = [xp.zeros_like(kbar[0]) for _ in u]
    for n in range(len(u), 0, -1):
        for j in range(1, n + 1):
            ubar[j - 1] = ubar[j - 1] + (j / n) * k[n - j] * kbar[n]
            kbar[n - j] = kbar[n - j] + (j / n) * u[j - 1] * kbar[n]
        w = integral_adjoint(ubar[n - 1])
        gbar = gbar + increments_adjoint(k[n - 1], rule.steps, w)
        kbar[n - 1] = kbar[n - 1] + k_adjoint(g, rule.steps, w)
    return gbar


def _component_bounds(g: Array, k: list[Array], p: int, *, nodes: bool) -> Array:
    """Bounds of the errors of k_0..k_order, on the last axis, at the end or (nodes) at all corners.

    With M_n the largest |k_n| so far and S the sum of |g|, that of u_j is ε S M_{j-1}, and makes one of k_n of
    (1/n) sum over j of j ε S M_{j-1} M_{n-j}.
    """
    g = unrecorded(g)
    xp = namespace_of(g)
    size = integral(abs(g))
    size = float(xp.finfo(g.dtype).eps) * (size if nodes else size[:, -1, -1])
    most = []
    for part in k:
        part = abs(unrecorded(part))
        if nodes:
            most.append(at_corners(running_maximum(running_maximum(part, 1), 2), p))
        else:
            most.append(xp.max(part, axis=(1, 2)))
    errors = [xp.zeros_like(size)]
    for n in range(1, len(k)):
        total = most[0] * most[n - 1]
        for j in range(2, n + 1):
            total = total + (j * 1.0) * most[j - 1] * most[n - j]
        errors.append(size * total / n)
    return xp.stack(errors, axis=-1)


def components_of(g: Array, problem: Problem, *, grid: bool) -> Array:
    """k_0 to k_order at the end, or at every corner, from the increments of the cells."""
    p = problem.quadrature.p
    k, _ = components(g, int(problem.order or 0), problem.quadrature)
    corners = [at_corners(part, p) for part in k]
    parts = namespace_of(g).stack([part if grid else part[:, -1, -1] for part in corners], axis=-1)
    return nan_where(lost_parts(unrecorded(parts), _component_bounds(g, k, p, nodes=grid), problem.purpose), parts)


def components_gradient(g: Array, derivs: Array, problem: Problem) -> tuple[Array, Array]:
    """Which pairs are finite, and derivatives with respect to the increments, for derivatives of k_0..k_order."""
    xp, rule, order = namespace_of(g), problem.quadrature, int(problem.order or 0)
    k, u = components(g, order, rule)
    of_grid = derivs.ndim == 4
    corners = [at_corners(part, rule.p) for part in k]
    parts = xp.stack([part if of_grid else part[:, -1, -1] for part in corners], axis=-1)
    gone = lost_parts(parts, _component_bounds(g, k, rule.p, nodes=of_grid), problem.purpose)
    finite = xp.all(xp.reshape(xp.isfinite(parts) & ~gone, (parts.shape[0], -1)), axis=1)
    bars = [derivs[..., n] if of_grid else at_end(derivs[:, n], g) for n in range(order + 1)]
    return finite, _components_adjoint(g, k, u, [at_corners_adjoint(bar, rule.p) for bar in bars], rule)
