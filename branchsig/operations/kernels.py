"""The operations that compute kernels: of pairs of paths, of all pairs, and at every node and depth."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
from array_api_compat import is_dask_array

from branchsig import _validation
from branchsig._arrays import Array, namespace_of
from branchsig.backends import Gradients, Problem, Wrt, backend_for
from branchsig.operations import prepare
from branchsig.operations.base import Operation, Result
from branchsig.operations.complaints import complain, complaints_of, nan_where_paths_are
from branchsig.operations.job import Job
from branchsig.operations.solve import Solve
from branchsig.operations.stages import Geometry, Kept, Shape, stage_for
from branchsig.operations.tolerance import refined, rule_of
from branchsig.operations.transform import transformed_shape
from branchsig.spec import Execution, Spec

__all__ = ["Gram", "Paired", "Stack"]


class _Kernels(Operation):
    """Kernels of pairs, at their end or at every node, and their gradients through all stages."""

    all_pairs: ClassVar[bool]
    """Whether every first path meets every second one."""

    def forward(self, job: Job, *, keep: bool, of_paths: Kept | None = None) -> tuple[Array, Kept]:
        """Return the kernels, and warn about paths and values.

        `of_paths` is what is known of every path alone, see `Stage`; not with a tolerance.
        """
        spec, problem, missed = job.spec, job.problem, ""
        if spec.return_grid:
            self._check_memory(job)
        with np.errstate(all="ignore"):
            if spec.rtol is None:
                value, kept = stage_for(spec).forward(problem, keep=keep, of_paths=of_paths)
            else:
                value, kept, found, missed = refined(problem, spec, stage_for(spec), keep=keep)
                kept = kept | {"rule": np.asarray(found.quadrature.p)}
            if problem.depth == math.inf and problem.order is None:
                value = nan_where_paths_are(value, problem)
            complaints = complaints_of(value, job)
        if missed or complaints:
            complain(missed, *complaints)
        if value.shape[: problem.axes] != job.batch:
            value = namespace_of(value).reshape(value, job.batch + tuple(value.shape[problem.axes :]))
        return value, kept

    def keeps(self, spec: Spec) -> bool:
        """Tell whether a stage keeps something, or a tolerance the rule that was found."""
        return spec.rtol is not None or stage_for(spec).keeps

    def residuals(self, job: Job) -> Kept:
        """Return what the backward needs. With a tolerance this includes the rule, which only a forward solve finds."""
        spec, problem, stage = job.spec, job.problem, stage_for(job.spec)
        if not self.keeps(spec):
            return {}
        if _in_silence(job) and problem.progress is not None:
            problem = dataclasses.replace(problem, progress=None)
        with np.errstate(all="ignore"):
            if spec.rtol is None:
                return stage.residuals(problem)
            _, kept, found, missed = refined(problem, spec, stage, keep=True)
        complain(missed)
        return kept | {"rule": np.asarray(found.quadrature.p)}

    def residual_share(self, job: Job) -> float:
        """See `Stage`."""
        return 0.0 if _in_silence(job) else stage_for(job.spec).residual_share

    def derivs(self, job: Job, derivs: Any) -> Array:
        """Check derivatives of the kernels, and return them with one axis for every axis of pairs."""
        problem, shape = job.problem, job.batch + _nodes(job.problem, job.spec)
        derivs = _validation.same_shape(derivs, "derivs", shape, problem.path1, "path1")
        _validation.values_at_hand(derivs, "derivs", problem.depth, problem.order, None)
        return with_pairs(derivs, job)

    def backward(self, job: Job, kept: Kept, derivs: Array, wrt: Wrt) -> Gradients:
        """Return the gradients with respect to the transformed paths."""
        problem = job.problem
        if "rule" in kept:
            problem = dataclasses.replace(problem, quadrature=rule_of(int(kept["rule"])))
        with np.errstate(all="ignore"):
            total = job.total and problem.itself
            return stage_for(job.spec).adjoint(problem, kept, derivs, wrt, total=total)

    def handed_in(self, job: Job, k_stack: Any) -> tuple[Job, Kept]:
        """Check a stack of kernels, and return it with one axis for every axis of pairs."""
        spec, problem = job.spec, job.problem
        if is_dask_array(problem.path1):
            raise ValueError(
                "k_stack with arrays of Dask, whose gradients are computed chunk by chunk. Leave k_stack out, or give "
                "arrays that have values, after compute()"
            )
        if spec.normalize:
            raise ValueError(
                f"normalize={spec.normalize!r} with k_stack: the stack holds no kernel of a path with itself. "
                "Leave k_stack out, or differentiate without normalize"
            )
        if spec.rtol is not None:
            raise ValueError(
                f"rtol is {spec.rtol:g} with k_stack: a stack holds the values of one rule, and rtol chooses the rule. "
                "Leave one of them out"
            )
        if problem.order is not None:
            raise ValueError("k_stack with order: a stack holds kernels by depth, not by order. Leave one of them out")
        if problem.quadrature.p > 1:
            raise ValueError(
                f"k_stack with quadrature={spec.quadrature!r}: a stack holds values at the corners of the cells, and "
                "this rule needs them at its inner nodes too. Leave k_stack out, or use Trapezoid() or LeftPoint()"
            )
        shape = job.batch + stack_shape(problem)
        stack = _validation.same_shape(k_stack, "k_stack", shape, problem.path1, "path1")
        if problem.pairing == "symmetric":
            job = job.on(dataclasses.replace(problem, pairing="gram"))
        return job, {"stack": with_pairs(stack, job)}

    def _check_memory(self, job: Job) -> None:
        shape = job.batch + _nodes(job.problem, job.spec, every_component=True)
        remedy = "take fewer pairs at a time or a lower dyadic order"
        _validation.fits_memory(shape, job.problem.path1, "the grid", remedy)

    def result(self, spec: Spec, *operands: Shape | None) -> Result:
        """Return the shapes of the kernels and of what is kept."""
        path1, path2 = operands[0], operands[1] if len(operands) > 1 else None
        assert path1 is not None
        same = path2 is None or path2 is path1
        path2 = path1 if path2 is None else path2
        lengths = [transformed_shape(path.shape, spec.transforms)[-2] for path in (path1, path2)]
        nodes: tuple[int, ...] = ()
        if spec.return_grid:
            nodes = _validation.grid_shape(lengths[0], lengths[1], spec.dyadic_order)
        n1, n2 = (math.prod(path.shape[:-2]) for path in (path1, path2))
        same = same and spec.dyadic_order[0] == spec.dyadic_order[1]
        batch = path1.shape[:-2] + (path2.shape[:-2] if self.all_pairs else ())
        pairs = (n1, n2) if self.all_pairs else (n1,)
        kept = stage_for(spec).kept_shapes(Geometry(pairs, nodes, (n1,) if same else (n1, n2), path1.dtype))
        if spec.rtol is not None:
            kept["rule"] = Shape((), "int64")
        if spec.return_levels:
            nodes += (int(spec.truncation.order or 0) + 1,)
        return Result(Shape(batch + nodes, path1.dtype), kept)


class Paired(_Kernels):
    """Kernels of pairs of paths."""

    name = "kernel"
    all_pairs = False
    apart = True
    made_ready = True
    operands: tuple[str, ...] = ("path1", "path2", "lengths1", "lengths2")

    def prepare(self, spec: Spec, how: Execution, *operands: Any) -> Job:
        """Check and transform the paths."""
        return prepare.paired(spec, how, *operands)


class Gram(_Kernels):
    """Kernels of all pairs of two batches of paths."""

    name = "gram"
    all_pairs = True
    alone = True
    made_ready = True
    operands: tuple[str, ...] = ("path1", "path2", "lengths1", "lengths2")

    def prepare(self, spec: Spec, how: Execution, *operands: Any) -> Job:
        """Check and transform the paths."""
        return prepare.gram(spec, how, *operands)

    def backprop(self, derivs: Any, spec: Spec, how: Execution, *operands: Any, **asked: Any) -> Any:
        """Return the gradients for given derivatives."""
        if operands[1] is None and asked.get("right_deriv") is True:
            raise ValueError(
                "right_deriv is True and path2 is None: the Gram matrix is a function of path1 alone, and left_deriv "
                "gives its total gradient. Leave right_deriv out, or pass path1 as path2 for the two partial gradients"
            )
        return super().backprop(derivs, spec, how, *operands, **asked)


class Stack(Operation):
    """Kernels of pairs of paths at every node and every depth.

    It keeps the stack for the backward, which sums the gradients of the grids of all depths.
    """

    name = "stack"
    apart = True
    operands: tuple[str, ...] = ("path1", "path2", "lengths1", "lengths2")

    def prepare(self, spec: Spec, how: Execution, *operands: Any) -> Job:
        """Check and transform the paths."""
        job = prepare.paired(spec, how, *operands)
        _validation.fits_memory(
            job.batch + stack_shape(job.problem),
            job.problem.path1,
            "the stack",
            "take fewer pairs at a time, or leave k_stack out",
        )
        return job

    def forward(self, job: Job, *, keep: bool) -> tuple[Array, Kept]:
        """Return the stack, and warn of values that overflowed."""
        problem = job.problem
        with np.errstate(all="ignore"):
            stack = backend_for(problem).solve(problem, "stack")
            complain(*complaints_of(stack, job))
        value = namespace_of(stack).reshape(stack, job.batch + stack_shape(problem))
        if not keep or problem.quadrature.p > 1:
            return value, {}
        # The caller may write to the value.
        return value, {"stack": namespace_of(stack).asarray(stack, copy=True)}

    def residuals(self, job: Job) -> Kept:
        """Return nothing: the adjoint of a grid sweeps by itself."""
        return {}

    def derivs(self, job: Job, derivs: Any) -> Array:
        """Check derivatives of the stack, and return them with one axis of pairs."""
        shape = job.batch + stack_shape(job.problem)
        return with_pairs(_validation.same_shape(derivs, "derivs", shape, job.problem.path1, "path1"), job)

    def backward(self, job: Job, kept: Kept, derivs: Array, wrt: Wrt) -> Gradients:
        """Return the sums of the gradients of the grids of all depths."""
        total, stack = Gradients(), kept.get("stack")
        with np.errstate(all="ignore"):
            for depth in range(derivs.shape[1]):
                of_depth = dataclasses.replace(job.problem, depth=depth, progress=None)
                known = {} if stack is None else {"stack": stack[:, : depth + 1, ...]}
                found = Solve("kernel", "grid").adjoint(of_depth, known, derivs[:, depth, ...], wrt)
                total = Gradients(*(b if a is None else a if b is None else a + b for a, b in zip(total, found)))
        return total

    def result(self, spec: Spec, *operands: Shape | None) -> Result:
        """Return the shape of the stack, which is kept too."""
        path1, path2 = operands[0], operands[1]
        assert path1 is not None
        assert path2 is not None
        lengths = [transformed_shape(path.shape, spec.transforms)[-2] for path in (path1, path2)]
        grids = (int(spec.truncation.depth) + 1, *_validation.grid_shape(lengths[0], lengths[1], spec.dyadic_order))
        batch = path1.shape[:-2]
        kept = {"stack": Shape((math.prod(batch), *grids), path1.dtype)} if spec.quadrature.p == 1 else {}
        return Result(Shape(batch + grids, path1.dtype), kept)


def _in_silence(job: Job) -> bool:
    """Whether the residuals report no progress: a search for a rule has no known end, and the residuals of one triangle
    are followed by a gradient over all pairs."""
    return job.spec.rtol is not None or (job.problem.order is not None and job.problem.pairing == "symmetric")


def with_pairs(array: Array, job: Job) -> Array:
    """Reshape an array over the pairs of a job: one axis for each stack of paths instead of the batch axes."""
    problem, batch = job.problem, job.batch
    n1, n2 = problem.path1.shape[0], problem.path2.shape[0]
    pairs = (n1,) if problem.pairing == "paired" else (n1, n2)
    return array if pairs == batch else namespace_of(array).reshape(array, pairs + tuple(array.shape[len(batch) :]))


def _nodes(problem: Problem, spec: Spec, *, every_component: bool = False) -> tuple[int, ...]:
    """The axes of a value after those of the pairs."""
    nodes: tuple[int, ...] = ()
    if spec.return_grid:
        nodes = _validation.grid_shape(problem.path1.shape[1], problem.path2.shape[1], problem.dyadic_order)
    if problem.order is not None and (spec.return_levels or every_component):
        nodes += (problem.order + 1,)
    return nodes


def stack_shape(problem: Problem) -> tuple[int, ...]:
    """Shape of the stacked grids of a pair.

    Raises
    ------
    ValueError
        If the depth is unbounded.
    """
    if problem.depth == math.inf:
        raise ValueError("depth is math.inf: a stack of the kernels of all depths has no end. Give a finite depth")
    lengths = problem.path1.shape[1], problem.path2.shape[1]
    return (int(problem.depth) + 1, *_validation.grid_shape(*lengths, problem.dyadic_order))
