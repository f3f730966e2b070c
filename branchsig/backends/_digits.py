"""Detection of values that have lost their digits, because cancelling terms leave only rounding error.

From log K and a bound of its error, the functions decide which values become NaN, depending on their purpose. Over the
cells above and to the left of a node, let S be the sum of |g|, M_m the largest mean of K_m over a cell with g != 0, and
L_m the largest |log K_m| at a node. The bound is::

    e_0 = 0,   e_m = ε S M_{m-1} + e_{m-1} L_m / 2

log K_m is a sum of terms g K_{m-1}. Its error is the rounding of the largest term, even if the sum is small because the
terms cancel, as on paths that return. An error of K_{m-1}, which builds up along the paths, enters in proportion to log
K_m. On thousands of paths, returning or not, no error exceeded 0.6 of this bound. Without truncation K is the integral
of itself, and the bound is ε S M (1 + L).
"""

from __future__ import annotations

import math
from typing import Any

from branchsig._arrays import Array, namespace_of

__all__ = ["TOLERANCE", "lost", "lost_components", "lost_sums", "purpose_of", "tolerated"]

TOLERANCE = 1e-4
"""Largest error allowed: of a kernel, relative to it; of a logarithm, relative to the larger of 1 and its size."""

_RELATIVE = 1e-10
"""Largest relative error of a large logarithm that enters a difference: a difference as large as its terms is then
right, and a smaller one is recognised as lost."""

_LARGEST, _SMALLEST = math.log(1.7976931348623157e308), math.log(5e-324)
"""Beyond these logarithms a kernel is inf or 0 in double precision, whatever the error of its logarithm."""


def purpose_of(problem: Any, *, log: bool) -> str:
    """Return the purpose of a problem: "kernel", "log", "difference", "quotient" or "rough"."""
    return problem.purpose or ("log" if log else "kernel")


def tolerated(log_k: Array) -> Array:
    """Return the largest errors allowed for logarithms with the purpose "quotient"."""
    xp, relative = namespace_of(log_k), _RELATIVE * abs(log_k)
    return xp.where(relative > TOLERANCE, relative, xp.full_like(relative, TOLERANCE))


def lost(log_k: Array, error: Array, purpose: str, tolerance: float = TOLERANCE) -> Array:
    """Tell which values have lost their digits, given log K and bounds of their errors.

    `purpose` is "kernel" if K is requested, "log" for its logarithm, "difference" for a logarithm that enters a
    difference, so that its absolute error counts, and "quotient" if it may be large compared with that difference;
    "rough" accepts every value. Infinite logarithms are never lost.
    """
    xp = namespace_of(log_k)
    size = abs(log_k)
    if purpose == "rough":
        return xp.zeros_like(size, dtype=xp.bool)
    if purpose == "log":
        gone = error > tolerance * xp.where(size > 1.0, size, xp.ones_like(size))
    elif purpose == "quotient":
        gone = error > tolerated(log_k)
    else:
        gone = error > tolerance
    if purpose == "kernel":
        gone = gone & ~(log_k - error > _LARGEST) & ~(log_k + error < _SMALLEST)
    return gone & ~xp.isinf(log_k)


def lost_components(components: Array, errors: Array, purpose: str | None) -> Array:
    """Tell which of k_0..k_order, on the last axis, have lost their digits, given bounds of their errors.

    For K = k_0 + ... + k_order ("kernel") or its logarithm ("log", "difference", "quotient") the answer is the same for
    all components of a pair.
    """
    xp = namespace_of(components)
    if purpose == "rough":
        return xp.zeros_like(components, dtype=xp.bool)

    if purpose is None:
        return errors > TOLERANCE * _at_least_one(components)
    gone = lost_sums(xp.sum(components, axis=-1), xp.sum(errors, axis=-1), purpose)
    return xp.broadcast_to(gone[..., None], components.shape)


def lost_sums(k: Array, error: Array, purpose: str) -> Array:
    """Tell which kernels K, which may be negative, have lost their digits, given bounds of their errors."""
    if purpose == "rough":
        return namespace_of(k).zeros_like(k, dtype=namespace_of(k).bool)
    if purpose == "kernel":
        allowed = _at_least_one(k)
    elif purpose == "log":
        allowed = abs(k) * _at_least_one(namespace_of(k).log(abs(k)))
    else:
        allowed = abs(k)
    return error > TOLERANCE * allowed


def _at_least_one(values: Array) -> Array:
    xp, size = namespace_of(values), abs(values)
    return xp.where(size > 1.0, size, xp.ones_like(size))
