"""The operation that transforms paths: a base point, lead-lag, and time."""

from __future__ import annotations

from typing import Any

from branchsig import _validation
from branchsig._arrays import Array, contiguous, namespace_of
from branchsig.backends import Gradients, Problem, Wrt
from branchsig.operations.base import Operation, Result
from branchsig.operations.inputs import Given
from branchsig.operations.job import Job
from branchsig.operations.stages import Kept, Shape
from branchsig.operations.transform import transformed, transformed_shape
from branchsig.spec import Execution, Spec

__all__ = ["TransformPath"]


class TransformPath(Operation):
    """Paths with a base point, lag and lead channels, and time, as requested."""

    name = "transform_path"
    operands = ("path",)
    sides = 1
    apart = True
    parametric = False

    def prepare(self, spec: Spec, how: Execution, *operands: Any) -> Job:
        """Check the paths."""
        (path,) = operands
        _validation.single_path(path)
        path = contiguous(path)
        if spec.transforms.time_aug:
            _validation.end_time_in_range(spec.transforms.end_time, path)
        problem = Problem(path, path, "paired", spec.static_kernel, 0, (0, 0))
        return Job(spec, how, problem, tuple(path.shape[:-2]), (Given("path", path, tuple(path.shape[:-2])),))

    def forward(self, job: Job, *, keep: bool) -> tuple[Array, Kept]:
        """Return the transformed paths, new arrays."""
        path, transforms = job.problem.path1, job.spec.transforms
        return (transformed(path, transforms) if transforms else namespace_of(path).asarray(path, copy=True)), {}

    def residuals(self, job: Job) -> Kept:
        """Return nothing: the map is affine."""
        return {}

    def derivs(self, job: Job, derivs: Any) -> Array:
        """Check derivatives of the transformed paths."""
        path = job.problem.path1
        shape = transformed_shape(tuple(path.shape), job.spec.transforms)
        return _validation.same_shape(derivs, "derivs", shape, path, "path")

    def backward(self, job: Job, kept: Kept, derivs: Array, wrt: Wrt) -> Gradients:
        """Return the derivatives unchanged: `Operation` applies the adjoint of the transformations."""
        transforms = job.spec.transforms
        return Gradients(derivs if transforms else namespace_of(derivs).asarray(derivs, copy=True))

    def result(self, spec: Spec, *operands: Shape | None) -> Result:
        """Return the shape of the transformed paths; nothing is kept."""
        (path,) = operands
        assert path is not None
        return Result(Shape(transformed_shape(path.shape, spec.transforms), path.dtype), {})
