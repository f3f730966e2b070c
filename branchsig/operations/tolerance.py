"""Control of the error: the Gauss–Lobatto rule that reaches a relative tolerance on the given paths.

A problem is solved with rules of rising order until two consecutive ones agree, with a guard against agreement by
chance. Their difference exceeds the error of the higher rule, whose result is returned; nothing is solved again.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from branchsig._arrays import Array, constant, namespace_of
from branchsig.backends import Problem
from branchsig.backends.pairs import count
from branchsig.operations.complaints import nan_where_paths_are
from branchsig.operations.progress import share
from branchsig.operations.stages import Kept, Stage
from branchsig.quadrature import LARGEST_ORDER, TRAPEZOID, GaussLobatto, Quadrature
from branchsig.spec import Spec

_RESOLVED = 8.0
"""Smallest tolerance in units of eps: a logarithm and its exponential have rounding errors of a few eps."""


_FIRST_RATE, _BEST_RATE = 0.01, 0.003
"""Assumed rates at which the differences of consecutive rules fall: of the first difference, and the fastest allowed
rate. On 386,000 pairs of few points, at six tolerances from 1e-2 to 1e-10 each, 4 errors exceed the tolerance; with the
last difference alone it would be 18."""


def refined(problem: Problem, spec: Spec, stage: Stage, *, keep: bool) -> tuple[Array, Kept, Problem, str]:
    """Solve a problem to within ``spec.rtol``; return the result, what its rule kept, the problem with that rule, and a
    complaint if the rule of the largest order does not reach the tolerance.

    Raises
    ------
    ValueError
        If the tolerance is below what the dtype of the paths resolves.
    """
    rtol, levels, order = spec.rtol or 0.0, spec.return_levels, problem.order
    _check_resolved(rtol, problem.path1)
    result: Array | None = None
    kept: Kept | None = None
    tried, work = problem, 0
    gaps: list[float] = []
    for p in range(1, LARGEST_ORDER + 1):
        tried = dataclasses.replace(problem, quadrature=rule_of(p))
        lower, part = result, share(tried, _done(work), _done(work + p**2))
        result, kept = stage.forward(part, keep=keep, before=kept)
        if problem.depth == math.inf and order is None:
            result = nan_where_paths_are(result, problem)
        work += p**2
        exact = order is not None and p > 1 and p >= order - 1
        if lower is not None and not exact:
            # Without truncation a rule may find no solution although a rule of higher order does.
            final = problem.depth < math.inf or order is not None or p == LARGEST_ORDER
            gaps.append(difference(constant(lower), constant(result), log=spec.log, levels=levels, final=final))
        if exact or (p > 2 and max(gaps[-1], _expected(gaps[:-1])) <= rtol):
            return result, kept, _ended(tried, problem), ""
    complaint = (
        f"rtol is {rtol:g} and was not reached: the Gauss-Lobatto rules of orders {LARGEST_ORDER - 1} and "
        f"{LARGEST_ORDER} differ by {gaps[-1]:.1e}, the two before by {gaps[-2]:.1e}. The rule of order "
        f"{LARGEST_ORDER} was used; for a smaller error take a higher dyadic_order, which is {problem.dyadic_order}"
    )
    return result, kept or {}, _ended(tried, problem), complaint


def rule_of(p: int) -> Quadrature:
    """The rule of order p: the trapezoid rule for 1, and Gauss–Lobatto rules from 2 on."""
    return GaussLobatto(p) if p > 1 else TRAPEZOID


def _expected(gaps: list[float]) -> float:
    """Predict the next difference of consecutive rules: it falls at the last rate, but at most at the best rate.

    Errors may change sign from one order to the next, or nearly vanish for one order. Then two rules agree by chance,
    and their difference is far below the one before.
    """
    rate = _FIRST_RATE
    if len(gaps) > 1 and gaps[-2] > 0.0:
        rate = min(1.0, max(_BEST_RATE, gaps[-1] / gaps[-2]))
    return gaps[-1] * rate


def _done(work: int) -> float:
    """Estimate the share of the work that is done; `work` counts sub-cells per cell. The total is unknown, but hardly
    ever less than that of the rules up to order 3, after which the estimate is one half."""
    return work / (work + 14.0)


def _ended(tried: Problem, problem: Problem) -> Problem:
    """Report the progress as complete, and return the problem with the rule that was found."""
    if problem.progress is not None:
        pairs = count(problem.pairing, problem.path1.shape[0], problem.path2.shape[0])
        problem.progress(pairs, pairs)
    return tried


def _check_resolved(rtol: float, path: Array) -> None:
    least = _RESOLVED * float(namespace_of(path).finfo(path.dtype).eps)
    if rtol < least:
        raise ValueError(
            f"rtol is {rtol:g}: paths of dtype {path.dtype} resolve no error below {least:.1e}. Take a larger rtol"
            + (", or paths of float64" if least > 1e-12 else "")
        )


def difference(lower: Array, higher: Array, *, log: bool, levels: bool, final: bool = True) -> float:
    """Return the largest difference of two results, relative to the higher one.

    Logarithms below 1 are compared absolutely, which is a relative comparison of the kernels. Components, any of which
    may vanish, are compared relative to the largest component of their pair. Two non-finite values count as equal,
    except infinities while a higher order can still be tried (not `final`).
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
