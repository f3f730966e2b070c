"""What a call is warned of: paths that are not finite, axes that look swapped, and values that overflowed."""

from __future__ import annotations

import math

from branchsig._arrays import Array, all_finite, count_true, filled, lies_on_cpu, namespace_of
from branchsig._warnings import warn
from branchsig.backends import Problem
from branchsig.operations.inputs import axis_order, not_finite
from branchsig.operations.job import Job
from branchsig.spec import Spec
from branchsig.static_kernels import BOUNDED

__all__ = ["complain", "complaints_of", "finite_pairs", "nan_where_paths_are", "what_happened"]


def complain(*complaints: str | None) -> None:
    """Give all complaints of a call in one warning."""
    text = ". ".join(filter(None, complaints))
    if text:
        warn(text)


def finite_pairs(result: Array, problem: Problem) -> Array:
    """Whether both paths of a pair are finite, for every pair, with as many axes as the result."""
    xp = namespace_of(problem.path1)
    finite1 = xp.all(xp.isfinite(filled(problem.path1, problem.lengths1)), axis=(1, 2))
    finite2 = xp.all(xp.isfinite(filled(problem.path2, problem.lengths2)), axis=(1, 2))
    finite = finite1 & finite2 if problem.axes == 1 else finite1[:, None] & finite2[None, :]
    return xp.reshape(finite, (*finite.shape, *(1,) * (result.ndim - problem.axes)))


def nan_where_paths_are(result: Array, problem: Problem) -> Array:
    """Without truncation what is not finite in a path looks like a kernel that blows up, but says nothing of it."""
    if lies_on_cpu(result) and all_finite(result):
        return result
    xp = namespace_of(result)
    known = xp.isfinite(result) | finite_pairs(result, problem)
    return xp.where(known, result, xp.full_like(result, math.nan))


def complaints_of(result: Array, job: Job) -> list[str]:
    """What to warn of: the axes of the paths, what is not finite in them, and values that overflowed."""
    problem, checked = job.problem, job.how.check_finite
    if checked is False:
        return []
    # To look at the values of a CUDA device the host waits for it; those of a traced array are not there yet.
    finite = not (checked or lies_on_cpu(result)) or all_finite(result)
    odd = problem.pairing != "paired" and (problem.path1.shape[1] == 1 or not job.origins[0].batch)
    if finite and not checked and not odd:
        return []
    paths = job.given()
    complaints = [axis_order(*job.as_passed())] if odd else []
    if checked or not finite:
        complaints += map(not_finite, paths)
    if not finite:
        complaints += [_spoilt(result, problem), _undefined(result, problem, job.spec)]
    return complaints


def _spoilt(result: Array, problem: Problem) -> str:
    """How many values are not finite since their paths are not, which are named before."""
    spoilt = count_true(~(finite_pairs(result, problem) | namespace_of(result).isfinite(result)))
    return f"{spoilt} of {math.prod(result.shape)} values are not finite because of this" if spoilt else ""


def _undefined(result: Array, problem: Problem, spec: Spec) -> str:
    """How many values are not finite although their paths are, and why."""
    xp, finite = namespace_of(result), finite_pairs(result, problem)
    count = count_true(finite & ~xp.isfinite(result))
    if not count:
        return ""
    undefined = count_true(finite & xp.isnan(result))
    return f"{count} of {math.prod(result.shape)} values {what_happened(problem, spec, count, undefined)}"


def what_happened(problem: Problem, spec: Spec, count: int, undefined: int) -> str:
    """Why `count` values are not finite, `undefined` of them NaN and the others infinite, and the ways out."""
    bounded = isinstance(problem.static_kernel, BOUNDED)
    scale = 'Take normalize="dilation", which scales every path for itself and never overflows, ' + (
        "or scale the paths down"
        if bounded
        else "scale the paths down, or use a bounded static kernel such as RBFKernel"
    )
    if spec.normalize == "dilation":
        scale = (
            'With normalize="dilation" this is left to increments beyond the range of the dtype, and to a '
            "static_kernel that is not positive semi-definite"
        )
    if problem.order is not None and spec.log:
        return (
            "are NaN or infinite: a kernel truncated by the number of nodes need not be positive, and has no logarithm "
            "where it is not, or where its terms cancel beyond the digits of a double. Take log=False or a higher "
            "order. " + scale
        )
    if problem.depth == math.inf and problem.order is None:
        fine = spec.rtol is not None or problem.quadrature.p >= 4
        rule = "" if fine else 'a rule of higher order (quadrature="lobatto4", or rtol=1e-6), or '
        return (
            "are inf or NaN: the paths lie past the point where the kernel of unbounded depth blows up, or so close to "
            "it that the equation of a cell has no solution, or was not solved within the iterations allowed; there "
            f"{rule}a higher dyadic_order helps. {scale}"
        )
    if undefined == 0:
        return "overflowed and are inf: the branched signature kernel grows far faster than the paths do. " + scale
    cancel = (
        "the terms they are sums of cancel beyond the digits, or the range, of a double, as they do where paths return "
        "on their way"
    )
    if undefined == count:
        return f"lost all their digits and are NaN: {cancel}. {scale}"
    return (
        f"overflowed or lost all their digits: {count - undefined} are inf, for the branched signature kernel grows "
        f"far faster than the paths do, and {undefined} are NaN, for {cancel}. {scale}"
    )
