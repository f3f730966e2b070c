"""The operation that computes kernels from given increments instead of paths and a static kernel.

It serves static kernels that a framework differentiates: it returns gradients with respect to the increments.
"""

from __future__ import annotations

import math
from typing import Any

from branchsig import _validation
from branchsig._arrays import Array, as_like, as_numpy, contiguous, device_of, namespace_of
from branchsig.backends import Gradients, Problem, Wrt
from branchsig.operations.base import Result
from branchsig.operations.inputs import Given
from branchsig.operations.job import Job
from branchsig.operations.kernels import Paired
from branchsig.operations.stages import Kept, Shape
from branchsig.spec import Execution, Spec
from branchsig.static_kernels import Context, StaticKernel

__all__ = ["FromIncrements"]


class _Rows(StaticKernel):
    """A static kernel that returns the points of the first path: row i of the increments of a pair is its i-th
    point."""

    def __call__(self, ctx: Context, x: Array, y: Array) -> Array:
        """Return the rows."""
        return x[:, :-1, :]

    def grad_x(self, ctx: Context, derivs: Array) -> Array:
        """Return the derivatives as rows; the last point is no row and gets 0."""
        xp = namespace_of(derivs)
        return xp.concat([derivs, xp.zeros_like(derivs[:, :1, :])], axis=1)

    def grad_y(self, ctx: Context, derivs: Array) -> Array:
        """Return zeros."""
        xp, (pairs, _, columns) = namespace_of(derivs), derivs.shape
        return xp.zeros((pairs, columns + 1, columns), dtype=derivs.dtype, device=device_of(derivs))

    def __repr__(self) -> str:
        return "increments"


_ROWS = _Rows()


class FromIncrements(Paired):
    """Kernels of pairs from given increments of κ over all cells, shape (*batch, rows, columns)."""

    name = "increments"
    made_ready = False
    operands = ("increments", "lengths1", "lengths2")
    sides = 1
    parametric = False

    def prepare(self, spec: Spec, how: Execution, *operands: Any) -> Job:
        """Check the increments."""
        increments, lengths1, lengths2 = (*operands, None, None)[:3]
        if spec.normalize or spec.transforms:
            raise ValueError(
                "increments with normalize, time_aug or lead_lag: there are no paths to normalise or to transform. "
                "Leave these options out"
            )
        _validation.single_path(increments, "increments")
        batch, (rows, columns) = tuple(increments.shape[:-2]), increments.shape[-2:]
        xp = namespace_of(increments)
        stack = contiguous(xp.reshape(increments, (math.prod(batch), rows, columns)))
        given = Given("increments", stack, batch)
        here = as_numpy(stack)
        stack = stack if here is None else here
        xp, device = namespace_of(stack), device_of(stack)
        empty = xp.zeros((stack.shape[0], 1, columns), dtype=stack.dtype, device=device)
        x = xp.concat([stack, empty], axis=1)
        y = xp.zeros((stack.shape[0], columns + 1, columns), dtype=stack.dtype, device=device)
        _validation.grid_shape(rows + 1, columns + 1, spec.dyadic_order)
        problem = Problem(
            x,
            y,
            "paired",
            _ROWS,
            spec.truncation.depth,
            spec.dyadic_order,
            _validation.threads(how.n_jobs),
            quadrature=spec.quadrature,
            order=spec.truncation.order,
            planar=spec.planar,
            lengths1=_validation.lengths(lengths1, "lengths1", Shape((*batch, rows + 1, 1))),
            lengths2=_validation.lengths(lengths2, "lengths2", Shape((*batch, columns + 1, 1))),
        )
        return Job(spec, how, problem, batch, (given,))

    def forward(self, job: Job, *, keep: bool, of_paths: Kept | None = None) -> tuple[Array, Kept]:
        """Return the kernels, in the library of the increments."""
        value, kept = super().forward(job, keep=keep, of_paths=of_paths)
        return as_like(value, job.origins[0].path), kept

    def derivs(self, job: Job, derivs: Any) -> Array:
        """Check derivatives of the kernels."""
        return super().derivs(job, derivs if as_numpy(derivs) is None else as_numpy(derivs))

    def backward(self, job: Job, kept: Kept, derivs: Array, wrt: Wrt) -> Gradients:
        """Return the gradients with respect to the increments."""
        found = super().backward(job, kept, derivs, Wrt(path1=True))
        rows: Array = found.path1
        return Gradients(rows[:, :-1, :])

    def result(self, spec: Spec, *operands: Shape | None) -> Result:
        """Return the shapes of the kernels and of what is kept."""
        increments = operands[0]
        assert increments is not None
        *batch, rows, columns = increments.shape
        return super().result(
            spec, *(Shape((*batch, points, 1), increments.dtype) for points in (rows + 1, columns + 1))
        )
