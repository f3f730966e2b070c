"""Control of the error: the Gauss–Lobatto rule that reaches a relative tolerance on the paths at hand.

A problem comes in; it is solved with rules of rising order until two neighbouring ones agree. The difference of the two
is more than the error of the higher one, whose result is the one that goes out, so nothing is solved again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from branchsig._arrays import Array, namespace_of
from branchsig._options import Settings
from branchsig._progress import one_pass
from branchsig.backends import Problem
from branchsig.quadrature import LARGEST_ORDER, GaussLobatto

_RESOLVED = 8.0
"""Neighbouring numbers of a dtype that a tolerance must span at least: the rounding of a logarithm and its exponential
takes a few."""


def refined(problem: Problem, settings: Settings, solve: Callable[[Problem], Array]) -> tuple[Array, Problem, str]:
    """Solve a problem to within ``settings.rtol``; return the result, the problem with the rule that gave it, and what
    is to be warned of: that the rule of the largest order does not reach the tolerance.

    Raises
    ------
    ValueError
        If the tolerance is below what the dtype of the paths resolves.
    """
    rtol = settings.rtol or 0.0
    _check_resolved(rtol, problem.path1)
    lower = higher = None
    tried, estimate = problem, math.inf
    for index, p in enumerate(range(2, LARGEST_ORDER + 1)):
        tried = dataclasses.replace(problem, quadrature=GaussLobatto(p))
        # How many orders it takes is not known before: at least two, and this one.
        lower, higher = higher, solve(one_pass(tried, index, max(2, index + 1)))
        if lower is not None:
            # Without truncation a rule may find no solution where one of higher order does.
            final = problem.depth < math.inf or problem.order is not None or p == LARGEST_ORDER
            estimate = difference(lower, higher, log=settings.log, levels=settings.return_levels, final=final)
            if estimate <= rtol:
                return higher, tried, ""
    complaint = (
        f"rtol is {rtol:g} and was not reached: the Gauss-Lobatto rules of orders {LARGEST_ORDER - 1} and "
        f"{LARGEST_ORDER} differ by {estimate:.1e}. The rule of order {LARGEST_ORDER} was used; for a smaller error "
        f"take a higher dyadic_order, which is {problem.dyadic_order}"
    )
    return higher, tried, complaint


def _check_resolved(rtol: float, path: Array) -> None:
    least = _RESOLVED * float(namespace_of(path).finfo(path.dtype).eps)
    if rtol < least:
        raise ValueError(
            f"rtol is {rtol:g}: paths of dtype {path.dtype} resolve no error below {least:.1e}. Take a larger rtol"
            + (", or paths of float64" if least > 1e-12 else "")
        )


def difference(lower: Array, higher: Array, *, log: bool, levels: bool, final: bool = True) -> float:
    """Return the largest difference of two results, relative to the higher one.

    Logarithms below 1 are compared absolutely, which is relatively for the kernels, and the sums over forests of one
    number of nodes, any of which may vanish, relative to the largest of their pair. Values that are not finite agree
    with each other and with no others; but infinities only where they are `final`.
    """
    xp = namespace_of(higher)
    if math.prod(higher.shape) == 0:
        return 0.0
    finite1, finite2 = xp.isfinite(lower), xp.isfinite(higher)
    nothing = xp.zeros_like(higher)
    size = xp.where(finite2, abs(higher), nothing)
    if levels:
        size = xp.max(size, axis=-1, keepdims=True)
    if log:
        size = xp.where(size < 1.0, xp.ones_like(size), size)
    with np.errstate(all="ignore"):
        gap = abs(higher - lower)
        relative = xp.where((gap == 0) | ~(finite1 | finite2), nothing, gap / size)
        agreeing = finite1 == finite2
        if not final:
            agreeing = agreeing & ~xp.isinf(higher)
        relative = xp.where(agreeing, relative, xp.full_like(higher, math.inf))
    return float(xp.max(relative))
