"""Kernels with norms of one, and their backward.

A problem comes in; kernels k(x, y) / √(k(x, x) k(y, y)) and their gradients go out, formed from logarithms, so that the
result is finite also where the kernels themselves are not.
"""

from __future__ import annotations

import dataclasses
import math

from branchsig._arrays import Array, contiguous, device_of, namespace_of, weighted
from branchsig._progress import one_pass
from branchsig.backends import Backend, Problem

__all__ = ["of_log_of_sum", "of_sum", "sides", "unit_kernel", "unit_kernel_backprop"]


def _self_problem(problem: Problem, side: int) -> Problem:
    """Each path of the first or second stack with itself."""
    path, lengths = (problem.path1, problem.lengths1) if side == 1 else (problem.path2, problem.lengths2)
    return dataclasses.replace(
        problem, path1=path, path2=path, lengths1=lengths, lengths2=lengths, pairing="paired", progress=None
    )


def _diagonal(matrix: Array) -> Array:
    n = matrix.shape[0]
    return namespace_of(matrix).reshape(matrix, (n * n,))[:: n + 1]


def sides(d_path1: Array | None, d_path2: Array | None, *, total: bool) -> tuple[Array | None, Array | None]:
    """Return the gradients of both places or, with `total`, their sum: that of one path which stands in both."""
    if total and d_path1 is not None and d_path2 is not None:
        return d_path1 + d_path2, None
    return d_path1, d_path2


def of_sum(derivs: Array, problem: Problem) -> Array:
    """Derivatives with respect to k_0..k_order, from those with respect to their sum."""
    xp, order = namespace_of(derivs), int(problem.order or 0)
    return 1.0 * xp.broadcast_to(derivs[..., None], (*derivs.shape, order + 1))  # in memory of its own


def of_log_of_sum(derivs: Array, problem: Problem, parts: Array) -> Array:
    """Derivatives with respect to k_0..k_order, from those with respect to the logarithm of their sum."""
    xp = namespace_of(derivs)
    total = xp.sum(parts, axis=-1)
    slope = xp.where(xp.isfinite(total), 1.0 / total, xp.full_like(total, math.nan))  # not 0 where the sum is infinite
    return of_sum(weighted(derivs, slope), problem)


def _log_and_sign(backend: Backend, problem: Problem) -> tuple[Array, Array | float]:
    """log |K| and the sign of K, which only a kernel truncated by the number of nodes can lack."""
    if problem.order is None:
        return backend.log_kernel(problem), 1.0
    k = namespace_of(problem.path1).sum(backend.parts(problem, grid=False), axis=-1)
    return namespace_of(k).log(abs(k)), namespace_of(k).sign(k)


def _gradients_of_log(
    backend: Backend, problem: Problem, derivs: Array, *, left: bool, right: bool
) -> tuple[Array | None, Array | None]:
    """Gradients for derivatives with respect to log K."""
    if problem.order is not None:
        derivs = of_log_of_sum(derivs, problem, backend.parts(problem, grid=False))
    return backend.gradients(problem, derivs, wrt_log=True, left=left, right=right)


def _norms(backend: Backend, problem: Problem, log_k: Array) -> Array:
    """(log k(x, x) + log k(y, y)) / 2 for every pair."""
    xp = namespace_of(log_k)
    if problem.itself:
        log_k1 = log_k2 = log_k if problem.pairing == "paired" else _diagonal(log_k)
    else:
        log_k1, _ = _log_and_sign(backend, _self_problem(problem, 1))
        log_k2, _ = _log_and_sign(backend, _self_problem(problem, 2))
    if problem.pairing != "paired":
        log_k1, log_k2 = log_k1[:, None], log_k2[None, :]
    norm = 0.5 * (log_k1 + log_k2)
    # A norm that overflowed says nothing about the quotient: NaN, not 0.
    return xp.where(xp.isfinite(norm), norm, xp.full_like(norm, math.nan))


def unit_kernel(backend: Backend, problem: Problem, *, log: bool) -> Array:
    """Return the normalised kernels of a problem, or their logarithms, shape (*pairs,)."""
    xp = namespace_of(problem.path1)
    log_k, sign = _log_and_sign(backend, problem)
    log_unit = log_k - _norms(backend, problem, log_k)
    if problem.order is None:
        return log_unit if log else xp.exp(log_unit)
    return xp.where(sign > 0, log_unit, xp.full_like(log_unit, math.nan)) if log else sign * xp.exp(log_unit)


def unit_kernel_backprop(
    backend: Backend, problem: Problem, derivs: Array, *, log: bool, left: bool, right: bool, total: bool
) -> tuple[Array | None, Array | None]:
    """Return the gradients of the normalised kernels, or of their logarithms, with respect to `path1` and `path2`.

    With `total`, for a problem of one stack of paths with itself, the left gradient is that with respect to both
    places.
    """
    xp = namespace_of(problem.path1)
    # d log k_unit(x, y) = d log k(x, y) − d log k(x, x) / 2 − d log k(y, y) / 2
    passes = 3 if problem.pairing == "symmetric" and left and right else 2
    weights = derivs
    if not log:
        weights = weighted(derivs, unit_kernel(backend, one_pass(problem, 0, passes), log=False))
    if problem.pairing == "symmetric":
        return _symmetric(backend, problem, weights, left=left, right=right, total=total)
    d_path1, d_path2 = _gradients_of_log(
        backend, one_pass(problem, 1, passes), weights, left=left or total, right=right or total
    )
    paired = problem.pairing == "paired"
    if d_path1 is not None:
        of_rows = weights if paired else xp.sum(weights, axis=1)
        d_path1 = d_path1 + _self_gradient(backend, _self_problem(problem, 1), -0.5 * of_rows)
    if d_path2 is not None:
        of_columns = weights if paired else xp.sum(weights, axis=0)
        d_path2 = d_path2 + _self_gradient(backend, _self_problem(problem, 2), -0.5 * of_columns)
    return sides(d_path1, d_path2, total=total)


def _self_gradient(backend: Backend, own: Problem, derivs: Array) -> Array:
    """Gradient of log k(x, x), in which x stands in both places."""
    if own.dyadic_order[0] == own.dyadic_order[1]:
        left, _ = _gradients_of_log(backend, own, 2.0 * derivs, left=True, right=False)
        return left
    left, right = _gradients_of_log(backend, own, derivs, left=True, right=True)
    return sides(left, right, total=True)[0]


def _symmetric(
    backend: Backend, problem: Problem, weights: Array, *, left: bool, right: bool, total: bool
) -> tuple[Array | None, Array | None]:
    """Gradients of a symmetric Gram matrix, whose diagonal log k(x_i, x_i) normalises its rows and columns."""
    xp = namespace_of(weights)
    n = weights.shape[0]
    index = xp.arange(n, device=device_of(weights))
    diagonal = index[:, None] == index[None, :]
    transposed = xp.permute_dims(weights, (1, 0))

    passes = 3 if left and right else 2

    def gradient(of: Array, row_sums: Array, index: int) -> Array:
        of = contiguous(xp.where(diagonal, of - row_sums[:, None], of))
        result, _ = backend.gradients(one_pass(problem, index, passes), of, wrt_log=True, left=True, right=False)
        return result

    rows, columns = xp.sum(weights, axis=1), xp.sum(weights, axis=0)
    if total:
        return gradient(weights + transposed, rows + columns, 1), None
    return (
        gradient(weights, rows, 1) if left else None,
        gradient(transposed, columns, passes - 1) if right else None,
    )
