"""Which values have lost their digits: where terms that cancel leave nothing of a double but its rounding.

A bound of the error of log K comes in, with log K; out goes which values are to be NaN, by what they are asked for.
Over the cells above and to the left of a node, with S the sum of |g|, M_m the largest mean of K_m over a cell that
moves, and L_m the largest |log K_m| at a node, the bound is::

    e_0 = 0,   e_m = ε S M_{m-1} + e_{m-1} L_m / 2

log K_m is a sum of terms g K_{m-1}, which is right to within the rounding of the largest of them, however small it is
itself: where a path returns they cancel. And an error of K_{m-1}, which builds up along the way, comes in as log K_m
does. On thousands of paths that return or do not, no error came to more than 0.6 of this. Without truncation K is the
integral of itself, and the bound is ε S M (1 + L).
"""

from __future__ import annotations

import math
from typing import Any

from branchsig._arrays import Array, namespace_of

__all__ = ["TOLERANCE", "lost", "lost_parts", "purpose_of", "tolerated"]

TOLERANCE = 1e-4
"""What an error may be: of a kernel relative to it, of a logarithm to the larger one of 1 and its size."""

_RELATIVE = 1e-10
"""What the error of a logarithm may be, relative to it, where others are subtracted from it and it is large: a
difference as large as its terms is right then, and one that is not shows that its digits are lost."""

_LARGEST, _SMALLEST = math.log(1.7976931348623157e308), math.log(5e-324)
"""Beyond these logarithms a kernel is inf or 0 in double precision, whatever the digits of its logarithm."""


def purpose_of(problem: Any, *, log: bool) -> str:
    """Return what a problem is solved for: "kernel", "log", "difference", "quotient" or "rough"."""
    return problem.purpose or ("log" if log else "kernel")


def tolerated(log_k: Array) -> Array:
    """Return what the errors of logarithms may be, at most, that are taken for a "quotient"."""
    xp, relative = namespace_of(log_k), _RELATIVE * abs(log_k)
    return xp.where(relative > TOLERANCE, relative, xp.full_like(relative, TOLERANCE))


def lost(log_k: Array, error: Array, purpose: str, tolerance: float = TOLERANCE) -> Array:
    """Tell which values have no digits, given log K and bounds of their errors.

    `purpose` is "kernel" where K is asked for, "log" for its logarithm, "difference" for a logarithm that others are
    subtracted from, so that its absolute error counts, and "quotient" where they may be large beside their difference;
    "rough" takes whatever comes out. An infinite logarithm stays what it is.
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


def lost_parts(parts: Array, errors: Array, purpose: str | None) -> Array:
    """Tell which of k_0..k_order, on the last axis, have no digits, given bounds of their errors.

    Where K = k_0 + ... + k_order is asked for ("kernel"), or its logarithm ("log", "difference", "quotient"), all or
    none of them.
    """
    xp = namespace_of(parts)
    if purpose == "rough":
        return xp.zeros_like(parts, dtype=xp.bool)

    def at_least_one(values: Array) -> Array:
        size = abs(values)
        return xp.where(size > 1.0, size, xp.ones_like(size))

    if purpose is None:
        return errors > TOLERANCE * at_least_one(parts)
    k, error = xp.sum(parts, axis=-1), xp.sum(errors, axis=-1)
    if purpose == "kernel":
        allowed = at_least_one(k)
    elif purpose == "log":
        allowed = abs(k) * at_least_one(xp.log(abs(k)))
    else:
        allowed = abs(k)
    return xp.broadcast_to((error > TOLERANCE * allowed)[..., None], parts.shape)
