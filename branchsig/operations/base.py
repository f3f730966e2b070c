"""What a computation is: one object that knows its operands, its result, its forward and its backward.

An `Operation` makes a `Job` of the operands of a caller, computes its value and, from what the forward kept, the
gradients. The rest is derived here, in one place: the value alone, a value with its pullback, and the gradients for
given derivatives. What is kept is a dictionary of arrays of the size of the pairs or of the paths, never of grids
unless the value is one, so that a framework can hold it between forward and backward.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np

from branchsig import _validation
from branchsig._arrays import Array, as_like
from branchsig.backends import Gradients, Wrt
from branchsig.operations.job import Job
from branchsig.operations.progress import reporting, share
from branchsig.operations.ready import gradients_again, make_ready, value_again
from branchsig.operations.stages import Kept, Shape
from branchsig.operations.transform import transformed_adjoint
from branchsig.spec import Execution, Spec, with_kernel
from branchsig.static_kernels import parameters_of, with_numbers

__all__ = ["Operation", "Pullback", "Result"]


class Result(NamedTuple):
    """What comes out of the forward of an operation, without its values."""

    value: Shape
    kept: dict[str, Shape]


@dataclasses.dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)  # a function that jax.jit takes
class Pullback:
    """The backward pass from a value: takes derivatives with respect to it to gradients with respect to the operands.

    Nothing is solved for again, since it holds what the forward kept. Can be pickled.
    """

    operation: Operation
    job: Job
    kept: Kept
    param_deriv: bool = False

    def __call__(self, derivs: Array) -> Any:
        """Return the gradients, for derivatives of the shape of the value.

        Parameters
        ----------
        derivs : array, of the shape of the value
            Derivatives of a scalar with respect to the value.

        Returns
        -------
        array or tuple
            The gradient with respect to the operand, or a tuple of those with respect to both, None for one that is
            not there. With `param_deriv` a tuple, in which a dictionary of the gradients with respect to the parameters
            of the static kernel comes last.
        """
        checked = self.operation.derivs(self.job, derivs)
        return self.operation.pull_back(self.job, self.kept, checked, Wrt(True, True, self.param_deriv))


@dataclasses.dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class _PullbackAgain:
    """The same from a value for which something was ready, and for which the forward keeps nothing."""

    operation: Operation
    spec: Spec
    how: Execution
    operands: tuple[Any, ...]

    def __call__(self, derivs: Any) -> Any:
        """Return the gradients, for derivatives of the shape of the value."""
        operation, right = self.operation, self.operands[1] is not None
        found = gradients_again(operation.name, self.spec, self.how, derivs, *self.operands, left=True, right=right)
        return Pullback(operation, self.job, {})(derivs) if found is None else found

    @property
    def param_deriv(self) -> bool:
        """Whether gradients with respect to parameters are asked for: they are not made ready."""
        return False

    @property
    def job(self) -> Job:
        """The operands, checked and transformed."""
        return self.operation.prepare(self.spec, self.how, *self.operands)


class Operation(abc.ABC):
    """A computation on paths."""

    name: ClassVar[str]
    """That in the registry, by which an operation is pickled."""

    operands: tuple[str, ...]
    """Names of the operands: those with gradients, then valid lengths."""

    sides: ClassVar[int] = 2
    """Number of operands with gradients."""

    apart: ClassVar[bool] = False
    """Whether every path, or pair, of a batch has a value by itself: two batches are then one larger batch."""

    made_ready: ClassVar[bool] = False
    """Whether calls that come again may go straight to the backend; see `ready`."""

    alone: ClassVar[bool] = False
    """Whether the second operand may be left out, which stands for the first one, and has no gradient of its own."""

    parametric: ClassVar[bool] = True
    """Whether the static kernel has a say in the value."""

    def __reduce__(self) -> Any:
        from branchsig.operations import operation_named

        return operation_named, (self.name,)

    def __repr__(self) -> str:
        return f"<operation {self.name}>"

    @abc.abstractmethod
    def prepare(self, spec: Spec, how: Execution, *operands: Any) -> Job:
        """Check and transform the operands, before any work is done."""

    def prepare_for(self, derivs: Any, spec: Spec, how: Execution, *operands: Any) -> Job:
        """The same for a gradient, where the given derivatives may have a say in what it is computed with."""
        return self.prepare(spec, how, *operands)

    @abc.abstractmethod
    def result(self, spec: Spec, *operands: Shape | None) -> Result:
        """Return shapes and dtypes of the value and of what is kept, for operands of these shapes.

        One object in two places stands for one array in both.
        """

    @abc.abstractmethod
    def forward(self, job: Job, *, keep: bool) -> tuple[Array, Kept]:
        """Return the value and, if asked to `keep` it, what the backward needs. Warns of what went wrong."""

    @abc.abstractmethod
    def derivs(self, job: Job, derivs: Any) -> Array:
        """Check derivatives with respect to the value, and return them as the backward takes them."""

    @abc.abstractmethod
    def backward(self, job: Job, kept: Kept, derivs: Array, wrt: Wrt) -> Gradients:
        """Return the gradients with respect to the transformed operands; parameters are summed over all pairs."""

    def keeps(self, spec: Spec) -> bool:
        """Tell whether the forward may keep something for the backward."""
        return True

    def residuals(self, job: Job) -> Kept:
        """Return what the backward needs, by no more of the forward than that takes."""
        return self.forward(job, keep=True)[1]

    def residual_share(self, job: Job) -> float:
        """Return which part of the work of a gradient the residuals are, roughly, for reports of progress."""
        return 0.0

    def handed_in(self, job: Job, k_stack: Any) -> tuple[Job, Kept]:
        """Check a stack of kernels that a caller hands in, and return it as what a forward kept."""
        raise TypeError(f"{self.name} takes no k_stack")

    def value(self, spec: Spec, how: Execution, *operands: Any) -> Any:
        """Return the value."""
        if self.made_ready:
            value = value_again(self.name, spec, how, *operands)
            if value is not None:
                return value
        if not _are_plain(operands) or spec.static_kernel.holds_arrays:
            bound, spec = _bound(self, spec, how, operands)
            if bound is not None:
                return bound.value()
        job = self.prepare(spec, how, *operands)
        if self.made_ready:
            make_ready(self.name, job, *operands[:2])
        with _reported(job) as running:
            return self.forward(running, keep=False)[0]

    def vjp(self, spec: Spec, how: Execution, *operands: Any, param_deriv: Any = False) -> tuple[Any, Any]:
        """Return the value and its pullback: a `Pullback`, or what does the same on the arrays of a framework."""
        param_deriv = _validation.flag(param_deriv, "param_deriv")
        if param_deriv:
            parameters_of(spec.static_kernel)  # raises where there are none
        elif self.made_ready and type(operands[0]) is np.ndarray and not self.keeps(spec):
            value = value_again(self.name, spec, how, *operands)
            if value is not None:
                return value, _PullbackAgain(self, spec, how, operands)
        if not _are_plain(operands) or spec.static_kernel.holds_arrays:
            bound, spec = _bound(self, spec, how, operands)
            if bound is not None:
                found: tuple[Any, Any] = bound.vjp(param_deriv=param_deriv)
                return found
        job = self.prepare(spec, how, *operands)
        if self.made_ready:
            make_ready(self.name, job, *operands[:2])
        with _reported(job) as running:
            value, kept = self.forward(running, keep=True)
        return value, Pullback(self, job, kept, param_deriv)

    def backprop(
        self,
        derivs: Any,
        spec: Spec,
        how: Execution,
        *operands: Any,
        left_deriv: Any = True,
        right_deriv: Any = False,
        param_deriv: Any = False,
        k_stack: Any = None,
    ) -> Any:
        """Return the gradients for given derivatives."""
        if self.made_ready and param_deriv is False and k_stack is None:
            found = gradients_again(self.name, spec, how, derivs, *operands, left=left_deriv, right=right_deriv)
            if found is not None:
                return found
        wrt = Wrt(
            _validation.flag(left_deriv, "left_deriv"),
            _validation.flag(right_deriv, "right_deriv"),
            _validation.flag(param_deriv, "param_deriv"),
        )
        if wrt.parameters:
            parameters_of(spec.static_kernel)  # raises where there are none
        if not _are_plain((derivs, *operands)) or spec.static_kernel.holds_arrays:
            bound, spec = _bound(self, spec, how, operands, derivs)
            if bound is not None and k_stack is None and any(wrt):
                return bound.backprop(derivs, wrt)
        job = self.prepare_for(derivs, spec, how, *operands)
        kept: Kept = {}
        if k_stack is not None:
            job, kept = self.handed_in(job, k_stack)
        derivs = self.derivs(job, derivs)
        if not any(wrt):
            return (None,) * self.sides
        if self.made_ready:
            make_ready(self.name, job, *operands[:2])
        with _reported(job) as running:
            part = self.residual_share(job)
            if not part:
                return self._gradients(running, kept | self.residuals(running), derivs, wrt)
            kept |= self.residuals(running.on(share(running.problem, 0.0, part)))
            return self._gradients(running.on(share(running.problem, part, 1.0)), kept, derivs, wrt)

    def pull_back(self, job: Job, kept: Kept, derivs: Array, wrt: Wrt) -> Any:
        """Return the gradients in the form of the operands, from checked derivatives and what the forward kept."""
        with _reported(job) as running:
            return self._gradients(running, kept, derivs, wrt)

    def _gradients(self, job: Job, kept: Kept, derivs: Array, wrt: Wrt) -> Any:
        if job.total:
            wrt = wrt._replace(path2=False)
        found = self.backward(job, kept, derivs, wrt)
        transforms = job.spec.transforms
        paths: list[Any] = [None, None]
        for side, (gradient, origin) in enumerate(zip((found.path1, found.path2), job.origins)):
            if gradient is not None:
                gradient = transformed_adjoint(gradient, transforms) if transforms else gradient
                paths[side] = origin.given_back(as_like(gradient, origin.path))
        if self.sides == 1:
            return (paths[0], self._parameters(job, found)) if wrt.parameters else paths[0]
        return (*paths, self._parameters(job, found)) if wrt.parameters else (*paths,)

    def _parameters(self, job: Job, found: Gradients) -> dict[str, Array]:
        names = parameters_of(job.spec.static_kernel)
        if not names:
            return {}
        parameters = as_like(found.parameters, job.origins[0].path)
        return {name: parameters[k, ...] for k, name in enumerate(names)}


_PLAIN = frozenset({np.ndarray, type(None)})


def _are_plain(operands: tuple[Any, ...]) -> bool:
    """Whether no framework has a say in what is done with any of the operands: they are arrays of NumPy."""
    return _PLAIN.issuperset(map(type, operands))


def _bound(
    operation: Operation, spec: Spec, how: Execution, operands: tuple[Any, ...], *others: Any
) -> tuple[Any, Spec]:
    """The operation as a framework runs it that one of the operands, or others, belongs to, and parameters too.

    Where there is none, parameters that are arrays have values, which the spec gets in their place.
    """
    from branchsig.frameworks._binding import bound  # which knows operations

    found = bound(operation, spec, how, operands, *others)
    if found is None and spec.static_kernel.holds_arrays:
        spec = with_kernel(spec, with_numbers(spec.static_kernel))
    return found, spec


def _reported(job: Job) -> contextlib.AbstractContextManager[Job]:
    """The job, whose work is reported as the execution asks for."""
    return contextlib.nullcontext(job) if job.how.progress is False else _reporting(job)


@contextlib.contextmanager
def _reporting(job: Job) -> Iterator[Job]:
    with reporting(job.how.progress) as report:
        yield job if report is None else job.on(dataclasses.replace(job.problem, progress=report))
