"""The operation that returns the factors of dilation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from branchsig import _validation
from branchsig._arrays import Array, all_finite, as_like, lies_on_cpu, namespace_of
from branchsig.backends import Gradients, Wrt
from branchsig.operations import dilate, guard, prepare
from branchsig.operations.base import Operation, Result
from branchsig.operations.complaints import complain
from branchsig.operations.inputs import not_finite
from branchsig.operations.job import Job
from branchsig.operations.stages import Kept, Shape
from branchsig.spec import Execution, Spec

__all__ = ["DilationFactors"]


class DilationFactors(Operation):
    """The factors that scale each path so that the logarithm of its kernel with itself has a given size."""

    name = "dilation"
    operands = ("paths", "lengths")
    sides = 1
    apart = True

    def prepare(self, spec: Spec, how: Execution, *operands: Any) -> Job:
        """Check and transform the paths."""
        if spec.dyadic_order[0] != spec.dyadic_order[1]:
            raise ValueError(f"dyadic_order is {spec.dyadic_order!r}: expected one order, for a path with itself")
        return prepare.alone(spec, how, *operands)

    def forward(self, job: Job, *, keep: bool) -> tuple[Array, Kept]:
        """Return the factors, and warn of paths that are not finite."""
        spec, problem = job.spec, job.problem
        kept: Kept = {}
        if spec.method == "guard":
            factors = guard.factors(problem, spec.target)
        else:
            found = dilate.dilation_of(problem, 0, spec.target, spec.room, keep=keep)
            factors = found.all_factors
            kept = found.kept(0) if keep else {}
        factors = as_like(factors, problem.path1)
        if job.how.check_finite is not False and lies_on_cpu(factors) and not all_finite(factors):
            complain(not_finite(job.origins[0]))
        return namespace_of(factors).reshape(factors, job.batch), kept

    def residuals(self, job: Job) -> Kept:
        """Return the factors, unless they need no search."""
        return {} if job.spec.method == "guard" else self.forward(_silent(job), keep=True)[1]

    def derivs(self, job: Job, derivs: Any) -> Array:
        """Check derivatives of the factors, and return one for each path of the stack."""
        derivs = _validation.same_shape(derivs, "derivs", job.batch, job.problem.path1, "paths")
        return namespace_of(derivs).reshape(derivs, (job.problem.path1.shape[0],))

    def backward(self, job: Job, kept: Kept, derivs: Array, wrt: Wrt) -> Gradients:
        """Return the gradients of the factors, through the bound that each of them reaches."""
        spec, problem = job.spec, job.problem
        with np.errstate(all="ignore"):
            if spec.method == "guard":
                found = guard.adjoint(problem, spec.target, derivs, wrt)
            else:
                dilation = dilate.again(problem, 0, kept)
                weights = as_like(derivs, dilation.factors) * dilation.all_factors
                found = dilation.through(weights, dilation.of_limit(parameters=wrt.parameters))
            return found

    def result(self, spec: Spec, *operands: Shape | None) -> Result:
        """Return the shapes of the factors and of what is kept."""
        paths = operands[0]
        assert paths is not None
        n = (math.prod(paths.shape[:-2]),)
        kept = {}
        if spec.method == "solve":
            kept = {"factors1": Shape(n), "node1": Shape(n, "int64"), "cell1": Shape(n, "int64"), "limit1": Shape(n)}
        return Result(Shape(paths.shape[:-2], paths.dtype), kept)


def _silent(job: Job) -> Job:
    return dataclasses.replace(job, how=dataclasses.replace(job.how, check_finite=False))
