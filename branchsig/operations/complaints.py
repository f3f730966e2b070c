"""Warnings of a call: non-finite paths, axes that look swapped, and values that overflowed or lost their digits."""

from __future__ import annotations

import math

from branchsig._arrays import Array, all_finite, count_true, filled, lies_on_cpu, namespace_of
from branchsig._warnings import warn
from branchsig.backends import Problem
from branchsig.operations.inputs import axis_order, not_finite
from branchsig.operations.job import Job
from branchsig.spec import Spec
from branchsig.static_kernels import BOUNDED

__all__ = ["complain", "complaints_of", "finite_pairs", "nan_where_paths_are", "odd_axes", "what_happened"]


def complain(*complaints: str | None) -> None:
    """Issue all complaints of a call as one warning."""
    text = ". ".join(filter(None, complaints))
    if text:
        warn(text)


def finite_pairs(result: Array, problem: Problem) -> Array:
    """For every pair: whether both paths are finite. The result has as many axes as `result`."""
    xp = namespace_of(problem.path1)
    finite1 = xp.all(xp.isfinite(filled(problem.path1, problem.lengths1)), axis=(1, 2))
    finite2 = xp.all(xp.isfinite(filled(problem.path2, problem.lengths2)), axis=(1, 2))
    finite = finite1 & finite2 if problem.axes == 1 else finite1[:, None] & finite2[None, :]
    return xp.reshape(finite, (*finite.shape, *(1,) * (result.ndim - problem.axes)))


def nan_where_paths_are(result: Array, problem: Problem) -> Array:
    """Replace non-finite values of pairs with non-finite paths by NaN: without truncation they may look like a
    blow-up."""
    if lies_on_cpu(result) and all_finite(result):
        return result
    xp = namespace_of(result)
    known = xp.isfinite(result) | finite_pairs(result, problem)
    return xp.where(known, result, xp.full_like(result, math.nan))


def complaints_of(result: Array, job: Job) -> list[str]:
    """Return the complaints of a call: about the axes of the paths, their non-finite entries, and non-finite values."""
    problem, checked = job.problem, job.how.check_finite
    if checked is False:
        return []
    odd = odd_axes(job)
    # Checking values on a CUDA device would synchronise; a traced array has no values yet.
    finite = not (checked or lies_on_cpu(result)) or all_finite(result)
    if finite and not checked and not odd:
        return []
    paths = job.given()
    complaints = [odd] if odd else []
    if checked or not finite:
        complaints += map(not_finite, paths)
    if not finite:
        complaints += [_spoilt(result, problem), _undefined(result, problem, job.spec)]
    return complaints


def odd_axes(job: Job) -> str:
    """Return the complaint about the axes of the paths of a Gram matrix, which depends on shapes alone, or nothing."""
    problem = job.problem
    if job.how.check_finite is False:
        return ""
    odd = problem.pairing != "paired" and (problem.path1.shape[1] == 1 or not job.origins[0].batch)
    return axis_order(*job.as_passed()) if odd else ""


def _spoilt(result: Array, problem: Problem) -> str:
    """Count the values that are not finite because of their paths, which the sentence before names."""
    spoilt = count_true(~(finite_pairs(result, problem) | namespace_of(result).isfinite(result)))
    return f"{spoilt} of {math.prod(result.shape)} values are not finite because of this" if spoilt else ""


def _undefined(result: Array, problem: Problem, spec: Spec) -> str:
    """Count the values that are not finite although their paths are, and say why."""
    xp, finite = namespace_of(result), finite_pairs(result, problem)
    count = count_true(finite & ~xp.isfinite(result))
    if not count:
        return ""
    undefined = count_true(finite & xp.isnan(result))
    return f"{count} of {math.prod(result.shape)} values {what_happened(problem, spec, count, undefined)}"


def what_happened(problem: Problem, spec: Spec, count: int, undefined: int) -> str:
    """Say why `count` values are not finite, `undefined` of them NaN and the others infinite, and what to do."""
    bounded = isinstance(problem.static_kernel, BOUNDED)
    scale = 'Use normalize="dilation", which scales each path individually and never overflows, ' + (
        "or scale the paths down"
        if bounded
        else "scale the paths down, or use a bounded static kernel such as RBFKernel"
    )
    if spec.normalize == "dilation":
        scale = (
            'With normalize="dilation" this happens only if increments exceed the range of the dtype, or if the '
            "static_kernel is not positive semi-definite"
        )
    if problem.signed and spec.log:
        kind = "over ordered forests" if problem.order is None else "truncated by the number of nodes"
        remedy = "dyadic_order" if problem.order is None else "order"
        return (
            f"are NaN or infinite: a kernel {kind} need not be positive, and has no logarithm if it is not positive or "
            f"if its terms cancel beyond the digits of a double. Use log=False or a higher {remedy}. " + scale
        )
    if problem.depth == math.inf and problem.order is None:
        fine = spec.rtol is not None or problem.quadrature.p >= 4
        rule = "" if fine else 'a rule of higher order (quadrature="lobatto4", or rtol=1e-6), or '
        return (
            "are inf or NaN: the paths lie past the point where the kernel of unbounded depth blows up, or so close to "
            "it that the equation of a cell has no solution or was not solved within the allowed iterations; in the "
            f"latter case {rule}a higher dyadic_order helps. {scale}"
        )
    if undefined == 0:
        return "overflowed and are inf: the branched signature kernel grows far faster than the paths do. " + scale
    cancel = (
        "their terms cancel beyond the digits or the range of a double, as happens where paths return to earlier points"
    )
    if undefined == count:
        return f"lost all their digits and are NaN: {cancel}. {scale}"
    return (
        f"overflowed or lost all their digits: {count - undefined} are inf, since the branched signature kernel grows "
        f"far faster than the paths do, and {undefined} are NaN, since {cancel}. {scale}"
    )
