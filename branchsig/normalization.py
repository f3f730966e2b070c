"""Unit normalisation of kernels, in the logarithmic domain, and its backward.

A problem and the backend that serves it come in; kernels k(x, y) / √(k(x, x) k(y, y)) and their gradients go out.
Logarithms of kernels are subtracted before anything is exponentiated, so the result is finite also where the kernels
themselves are not.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from branchsig._arrays import Array, contiguous, device_of, namespace_of
from branchsig._progress import one_pass

if TYPE_CHECKING:
    from branchsig.backends import Backend, Problem


def _self_problem(problem: Problem, path: Array) -> Problem:
    """Each path of a stack with itself."""
    return dataclasses.replace(problem, path1=path, path2=path, pairing="paired", progress=None)


def _diagonal(matrix: Array) -> Array:
    n = matrix.shape[0]
    return namespace_of(matrix).reshape(matrix, (n * n,))[:: n + 1]


def sides(d_path1: Array | None, d_path2: Array | None, *, total: bool) -> tuple[Array | None, Array | None]:
    """Return the gradients of both places or, with `total`, their sum: that of one path which stands in both."""
    if total and d_path1 is not None and d_path2 is not None:
        return d_path1 + d_path2, None
    return d_path1, d_path2


def unit_kernel(backend: Backend, problem: Problem) -> Array:
    """Return the normalised kernels of a problem, shape (*pairs,)."""
    xp = namespace_of(problem.path1)
    log_k = backend.log_kernel(problem)
    if problem.path2 is problem.path1:
        log_k1 = log_k2 = log_k if problem.pairing == "paired" else _diagonal(log_k)
    else:
        log_k1 = backend.log_kernel(_self_problem(problem, problem.path1))
        log_k2 = backend.log_kernel(_self_problem(problem, problem.path2))
    if problem.pairing != "paired":
        log_k1, log_k2 = log_k1[:, None], log_k2[None, :]
    with np.errstate(all="ignore"):
        norm = 0.5 * (log_k1 + log_k2)
        # A norm that overflowed says nothing about the quotient: NaN, not 0.
        norm = xp.where(xp.isfinite(norm), norm, xp.full_like(norm, math.nan))
        return xp.exp(log_k - norm)


def unit_kernel_backprop(
    backend: Backend, problem: Problem, derivs: Array, *, left: bool, right: bool, total: bool
) -> tuple[Array | None, Array | None]:
    """Return the gradients of the normalised kernels with respect to `path1` and `path2`.

    With `total`, for a problem of one stack of paths with itself, the left gradient is that with respect to both
    places.
    """
    xp = namespace_of(problem.path1)
    with np.errstate(all="ignore"):
        # d log k_unit(x, y) = d log k(x, y) − d log k(x, x) / 2 − d log k(y, y) / 2
        passes = 3 if problem.pairing == "symmetric" and left and right else 2
        weights = derivs * unit_kernel(backend, one_pass(problem, 0, passes))
        if problem.pairing == "symmetric":
            return _symmetric(backend, problem, weights, left=left, right=right, total=total)
        d_path1, d_path2 = backend.gradients(
            one_pass(problem, 1, passes), weights, wrt_log=True, left=left or total, right=right or total
        )
        paired = problem.pairing == "paired"
        if d_path1 is not None:
            d_path1 = d_path1 + _self_gradient(
                backend, problem, problem.path1, -0.5 * (weights if paired else xp.sum(weights, axis=1))
            )
        if d_path2 is not None:
            d_path2 = d_path2 + _self_gradient(
                backend, problem, problem.path2, -0.5 * (weights if paired else xp.sum(weights, axis=0))
            )
        return sides(d_path1, d_path2, total=total)


def _self_gradient(backend: Backend, problem: Problem, path: Array, derivs: Array) -> Array:
    """Gradient of log k(x, x), in which x stands in both places."""
    own = _self_problem(problem, path)
    if problem.dyadic_order[0] == problem.dyadic_order[1]:
        left, _ = backend.gradients(own, 2.0 * derivs, wrt_log=True, left=True, right=False)
        return left
    left, right = backend.gradients(own, derivs, wrt_log=True, left=True, right=True)
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
