"""Kernels with norms of one, and their backward.

A problem comes in; kernels k(x, y) / √(k(x, x) k(y, y)) and their gradients go out, formed from logarithms, so that the
result is finite also where the kernels themselves are not.
"""

from __future__ import annotations

import dataclasses
import math

from branchsig._arrays import Array, contiguous, device_of, namespace_of, weighted
from branchsig._progress import one_pass, share
from branchsig.backends import Backend, Problem, Wrt
from branchsig.backends._digits import TOLERANCE, lost, tolerated

__all__ = ["of_log_of_sum", "of_sum", "sides", "unit_kernel", "unit_kernel_backprop"]


def _self_problem(problem: Problem, side: int) -> Problem:
    """Each path of the first or second stack with itself, at the dyadic order of its stack on both sides.

    The kernel of x and y is the inner product of features of x at the first order and of y at the second one, so these
    are the squares of their norms.
    """
    path, lengths = (problem.path1, problem.lengths1) if side == 1 else (problem.path2, problem.lengths2)
    return dataclasses.replace(
        problem,
        path1=path,
        path2=path,
        lengths1=lengths,
        lengths2=lengths,
        dyadic_order=(problem.dyadic_order[side - 1],) * 2,
        pairing="paired",
        progress=None,
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


def of_log_of_sum(derivs: Array, problem: Problem, parts: Array, *, signed: bool = False) -> Array:
    """Derivatives with respect to k_0..k_order, from those with respect to the logarithm of their sum.

    Where the sum is below 0 there is no logarithm, nor a derivative of it, unless that of log |K| is meant (`signed`).
    """
    xp = namespace_of(derivs)
    total = xp.sum(parts, axis=-1)
    usable = xp.isfinite(total) & (signed | (total >= 0))  # an infinite sum has no slope either, not 0
    slope = xp.where(usable, 1.0 / total, xp.full_like(total, math.nan))
    return of_sum(weighted(derivs, slope), problem)


def _log_and_sign(backend: Backend, problem: Problem) -> tuple[Array, Array | float]:
    """log |K| and the sign of K, which only a kernel truncated by the number of nodes can lack."""
    if problem.order is None:
        return backend.solve(problem, "end", log=True), 1.0
    xp = namespace_of(problem.path1)
    less_one = xp.sum(backend.solve(problem, "end")[..., 1:], axis=-1)  # the sum over no nodes is 1
    k = 1.0 + less_one
    return xp.where(k > 0, xp.log1p(less_one), xp.log(abs(k))), xp.sign(k)


def _gradients_of_log(
    backend: Backend, problem: Problem, derivs: Array, *, left: bool, right: bool, signed: bool = False
) -> tuple[Array | None, Array | None]:
    """Gradients for derivatives with respect to log K or, where `signed`, to log |K|."""
    if problem.order is not None:
        parts = backend.solve(one_pass(problem, 0, 2), "end")
        derivs = of_log_of_sum(derivs, problem, parts, signed=signed)
        problem = one_pass(problem, 1, 2)
    d_path1, d_path2, _ = backend.adjoint(problem, "end", derivs, Wrt(left, right), log=True)
    return d_path1, d_path2


def _log_where_positive(log_k: Array, sign: Array | float) -> Array:
    """log K from log |K| and the sign of K, NaN where K is not positive."""
    if isinstance(sign, float):
        return log_k
    xp = namespace_of(log_k)
    return xp.where(sign > 0, log_k, xp.full_like(log_k, math.nan))


def _of_paths(backend: Backend, problem: Problem, log_k: Array, sign: Array | float) -> tuple[Array, Array]:
    """log k(x, x) and log k(y, y), to be broadcast over the pairs; NaN where they are not finite, or there is none.

    A norm that overflowed says nothing about the quotient.
    """
    xp = namespace_of(log_k)
    if problem.itself and problem.dyadic_order[0] == problem.dyadic_order[1]:
        signed = _log_where_positive(log_k, sign)
        log_k1 = log_k2 = signed if problem.pairing == "paired" else _diagonal(signed)
    else:
        log_k1 = _log_where_positive(*_log_and_sign(backend, _self_problem(problem, 1)))
        log_k2 = _log_where_positive(*_log_and_sign(backend, _self_problem(problem, 2)))
    if problem.pairing != "paired":
        log_k1, log_k2 = log_k1[:, None], log_k2[None, :]
    first, second = (xp.where(xp.isfinite(own), own, xp.full_like(own, math.nan)) for own in (log_k1, log_k2))
    return first, second


def unit_kernel(backend: Backend, problem: Problem, *, log: bool) -> Array:
    """Return the normalised kernels of a problem, or their logarithms, shape (*pairs,)."""
    log_unit, sign = _log_unit(backend, problem, "log" if log else "kernel")
    return _log_where_positive(log_unit, sign) if log else sign * namespace_of(log_unit).exp(log_unit)


def unit_kernel_less_one(backend: Backend, problem: Problem) -> Array:
    """Return the normalised kernels less 1, with all their digits where kernels are near 1."""
    xp = namespace_of(problem.path1)
    log_unit, sign = _log_unit(backend, problem, "kernel")
    if problem.order is None:
        return xp.expm1(log_unit)
    return xp.where(sign > 0, xp.expm1(log_unit), sign * xp.exp(log_unit) - 1.0)


def _log_unit(backend: Backend, problem: Problem, purpose: str) -> tuple[Array, Array | float]:
    """log |k| of the normalised kernel, NaN where the differences of logarithms have no digits, and its sign."""
    problem = dataclasses.replace(problem, purpose="quotient")
    log_k, sign = _log_and_sign(backend, problem)
    log_k1, log_k2 = _of_paths(backend, problem, log_k, sign)
    xp, log_unit = namespace_of(log_k), log_k - 0.5 * (log_k1 + log_k2)
    error = tolerated(log_k) + 0.5 * (tolerated(log_k1) + tolerated(log_k2))
    gone = lost(log_unit, error, purpose, 2.0 * TOLERANCE)
    if problem.itself and problem.dyadic_order[0] == problem.dyadic_order[1]:
        # The kernel of a path with itself over that kernel is 1, whatever its error.
        gone = gone & (xp.zeros_like(gone) if problem.pairing == "paired" else ~_on_diagonal(log_k))
    return log_unit + xp.where(gone, xp.full_like(log_unit, math.nan), xp.zeros_like(log_unit)), sign


def _on_diagonal(matrix: Array) -> Array:
    index = namespace_of(matrix).arange(matrix.shape[0], device=device_of(matrix))
    return index[:, None] == index[None, :]


def unit_kernel_backprop(
    backend: Backend, problem: Problem, derivs: Array, *, log: bool, left: bool, right: bool, total: bool
) -> tuple[Array | None, Array | None]:
    """Return the gradients of the normalised kernels, or of their logarithms, with respect to `path1` and `path2`.

    With `total`, for a problem of one stack of paths with itself, the left gradient is that with respect to both
    places.
    """
    xp = namespace_of(problem.path1)
    problem = dataclasses.replace(problem, purpose="difference")
    # d log k_unit(x, y) = d log k(x, y) − d log k(x, x) / 2 − d log k(y, y) / 2
    weights = derivs
    if not log:
        weights = weighted(derivs, unit_kernel(backend, one_pass(problem, 0, 3), log=False))
        problem = share(problem, 1 / 3, 1.0)
    if problem.pairing == "symmetric":
        return _symmetric(backend, problem, weights, left=left, right=right, total=total)
    d_path1, d_path2 = _gradients_of_log(
        backend, problem, weights, left=left or total, right=right or total, signed=not log
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
    """Gradient of log k(x, x), in which x stands in both places, at one dyadic order: twice that of one place."""
    left, _ = _gradients_of_log(backend, own, 2.0 * derivs, left=True, right=False)
    return left


def _symmetric(
    backend: Backend, problem: Problem, weights: Array, *, left: bool, right: bool, total: bool
) -> tuple[Array | None, Array | None]:
    """Gradients of a symmetric Gram matrix, whose diagonal log k(x_i, x_i) normalises its rows and columns."""
    xp = namespace_of(weights)
    diagonal = _on_diagonal(weights)
    transposed = xp.permute_dims(weights, (1, 0))

    passes = 2 if left and right and not total else 1

    def gradient(of: Array, row_sums: Array, index: int) -> Array:
        of = contiguous(xp.where(diagonal, of - row_sums[:, None], of))
        return backend.adjoint(one_pass(problem, index, passes), "end", of, Wrt(path1=True), log=True).path1

    rows, columns = xp.sum(weights, axis=1), xp.sum(weights, axis=0)
    if total:
        return gradient(weights + transposed, rows + columns, 0), None
    return (
        gradient(weights, rows, 0) if left else None,
        gradient(transposed, columns, passes - 1) if right else None,
    )
