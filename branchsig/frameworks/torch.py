"""Tensors of PyTorch: that require gradients, that `torch.func` transforms, and that `torch.compile` traces.

A call is an `autograd.Function`, whose gradients are another one, each with a rule for `vmap`. On tensors with memory
they run it as it is. What has none, since something traces it, goes to a custom operator, which finds the call by its
text. Second derivatives, and derivatives forward, are those of the reference, whose operations PyTorch records.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from branchsig._arrays import has_memory, is_dual
from branchsig._warnings import pass_over
from branchsig.backends import Wrt
from branchsig.frameworks._binding import LENT, Call
from branchsig.operations import Shape
from branchsig.static_kernels import is_built_in

__all__ = ["TAKES_NUMPY", "claims", "given_back", "in_numpy", "lent", "run", "serves"]

pass_over(torch.__file__)

_Inputs = Sequence[Any]
"""Tensors, and numbers in the place of parameters."""


TAKES_NUMPY = False

_READABLE = frozenset(
    {torch.float64, torch.float32, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
)
"""The types of numbers that NumPy has too. Others are refused by their names in PyTorch."""

_TYPES = frozenset({torch.Tensor, torch.nn.Parameter})
"""The types of tensors that are no more than their numbers."""


_is_transforming: Any = torch._C._are_functorch_transforms_active  # where no tensor may be read, wrapped or not


def claims(array: Any) -> bool | str:
    """Tell whether PyTorch records, transforms or traces what is done with a tensor, or lends it."""
    if (array.requires_grad and torch.is_grad_enabled()) or is_dual(array) or _is_transforming():
        return True
    try:
        array.data_ptr()  # an error where there is no memory
    except RuntimeError:
        return True
    if array.is_cpu:
        return LENT if array.dtype in _READABLE and type(array) in _TYPES else False
    return bool(array.is_meta)


def in_numpy(array: Any) -> np.ndarray:
    """Return a tensor that is lent as an array of NumPy, which shares its memory."""
    array = array.detach() if array.requires_grad else array
    found: np.ndarray = (array.resolve_neg() if array.is_neg() else array).numpy()
    return found


def lent(array: Any) -> np.ndarray | None:
    """Return a tensor as an array of NumPy, and None for one that is not lent."""
    return None if torch.compiler.is_compiling() or claims(array) != LENT else in_numpy(array)


def given_back(result: np.ndarray, like: Any) -> torch.Tensor:
    """Return an array of NumPy as a tensor that shares its memory."""
    return torch.from_numpy(result if result.flags.writeable else result.copy())


def serves(call: Call, arrays: Sequence[Any]) -> bool:
    """Tell whether a call is run here.

    PyTorch records kernels of the user's own, transformations of paths, and whatever is done with dual numbers.
    Kernels of the user's own take tensors as they are where nothing is recorded.
    """
    if not all(isinstance(array, torch.Tensor) for array in arrays[: call.paths]):
        if any(isinstance(arrays[place], torch.Tensor) for place in _parameters(call)):
            raise TypeError(
                "static_kernel holds a tensor of torch, and a path is an array of another library: expected one "
                "library; convert the paths with torch.asarray, or give the parameter as a number"
            )
        return False  # which is an error too
    if torch.compiler.is_compiling():
        return True
    if call.operation == "transform_path" or not is_built_in(call.spec.static_kernel):
        return False
    return not any(is_dual(array) and has_memory(array) for array in arrays if isinstance(array, torch.Tensor))


def run(call: Call, arrays: Sequence[Any]) -> list[Any]:
    """Return the results of a call as tensors."""
    inputs = [array if isinstance(array, (torch.Tensor, float)) else torch.as_tensor(array) for array in arrays]
    if torch.compiler.is_compiling():
        own = not is_built_in(call.spec.static_kernel)
        return _run_outside(call, inputs) if own else _run_in_program(call, _tensors(inputs))
    if call.direction in ("backward", "backprop"):
        return list(_Gradients.apply(call, *inputs))
    return list(_Values.apply(call.towards("forward"), *inputs))


def _run_in_program(call: Call, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Run a call where `torch.compile` reads this very code."""
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if not recorded or call.direction in ("backward", "backprop"):
        return list(_operator(tensors, call.text))
    # The compiler takes no tensor twice.
    apart = [one.view_as(one) if any(one is other for other in tensors[:k]) else one for k, one in enumerate(tensors)]
    return list(_Compiled.apply(call.towards("forward").text, *apart))


@torch.compiler.disable(reason="a static kernel of the user's own is recorded by torch, and not compiled")
def _run_outside(call: Call, inputs: _Inputs) -> list[torch.Tensor]:
    """Run a call between two programs, by operations that PyTorch records."""
    return call(*inputs)


def _tensors(inputs: _Inputs) -> list[torch.Tensor]:
    return [one if isinstance(one, torch.Tensor) else torch.full((), one, dtype=torch.float64) for one in inputs]


def _compute(call: Call, inputs: _Inputs) -> tuple[torch.Tensor, ...]:
    """Run a call on tensors of which nothing is recorded here."""
    return _compute_here(call, inputs) if _have_memory(inputs) else tuple(_operator(_tensors(inputs), call.text))


def _have_memory(inputs: _Inputs) -> bool:
    try:
        for one in inputs:
            if isinstance(one, torch.Tensor):
                one.data_ptr()  # an error where there is none
                if one.is_meta:
                    return False
    except RuntimeError:
        return False
    return True


def _compute_here(call: Call, inputs: _Inputs) -> tuple[torch.Tensor, ...]:
    """Run a call on tensors with memory, those on the CPU as arrays of NumPy that share it."""
    arrays: list[Any] = []
    for one in inputs:
        if isinstance(one, float):
            arrays.append(one)
        elif not one.is_cpu:
            return tuple(call(*(one if isinstance(one, float) else one.detach() for one in inputs)))
        elif one.dtype in _READABLE:
            arrays.append(in_numpy(one))
        else:
            call.result(*map(_shape_of, inputs))  # says which of the operands has a wrong type
    results = [np.asarray(result) for result in call(*arrays)]
    return tuple([torch.from_numpy(result) for result in results])


def _shape_of(one: torch.Tensor | float) -> Shape:
    return Shape(()) if isinstance(one, float) else Shape(tuple(one.shape), str(one.dtype).removeprefix("torch."))


@torch.library.custom_op("branchsig::call", mutates_args=())
def _operator(arrays: list[torch.Tensor], text: str) -> list[torch.Tensor]:
    """A call on tensors, by its text."""
    return list(_compute_here(Call.read(text), arrays))


@_operator.register_fake
def _(arrays: list[torch.Tensor], text: str) -> list[torch.Tensor]:
    results = Call.read(text).result(*map(_shape_of, arrays))
    return [arrays[0].new_empty(result.shape, dtype=getattr(torch, result.dtype)) for result in results]


def _no_second(*_: Any) -> None:
    raise RuntimeError(
        "a compiled program has no second derivatives of branchsig: differentiate twice outside of torch.compile"
    )


_operator.register_autograd(_no_second)


def _along(call: Call, arrays: Sequence[torch.Tensor], axes: Sequence[int | None]) -> tuple[Call, list[torch.Tensor]]:
    """A call along one more axis of some arrays. It has size 1 for those that are the same all along."""
    moved = [one.unsqueeze(0) if axis is None else one.movedim(axis, 0) for one, axis in zip(arrays, axes, strict=True)]
    return dataclasses.replace(call, axes=call.axes + 1), moved


@_operator.register_vmap
def _(info: Any, in_dims: tuple[Any, None], arrays: list[torch.Tensor], text: str) -> tuple[list[torch.Tensor], Any]:
    call, moved = _along(Call.read(text), arrays, in_dims[0])
    results = _operator(moved, call.text)
    return results, [0] * len(results)


class _Compiled(torch.autograd.Function):
    """The value of a call, and what its gradients need, in a program that is compiled. No more than a text is known."""

    @staticmethod
    def forward(text: str, *operands: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_operator(list(operands), text))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        text, *operands = inputs
        ctx.text = text
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*operands, *output[1:])

    @staticmethod
    def backward(ctx: Any, derivs: torch.Tensor, *_: Any) -> tuple[Any, ...]:
        needed = tuple(place for place, asked in enumerate(ctx.needs_input_grad[1:]) if asked)
        found = _operator([derivs, *ctx.saved_tensors], _text_back(ctx.text, needed))
        gradients = [None] * (len(ctx.needs_input_grad) - 1)
        return (None, *_added(gradients, _places_back(ctx.text, needed), found))


@torch.compiler.assume_constant_result
def _text_back(text: str, needed: tuple[int, ...]) -> str:
    """The text of the gradients that are needed of the call of a text."""
    return Call.read(text).towards("backward", needed).text


@torch.compiler.assume_constant_result
def _places_back(text: str, needed: tuple[int, ...]) -> tuple[int, ...]:
    """The operands that those gradients belong to."""
    return Call.read(text).towards("backward", needed).places


class _Function(torch.autograd.Function):
    """What both directions share: a call, its inputs, and what was kept."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        call, *arrays = inputs
        ctx.call = call
        ctx.numbers = [None if isinstance(one, torch.Tensor) else one for one in arrays]
        kept = output[1:] if call.direction == "forward" else ()
        saved = (*(one for one in arrays if isinstance(one, torch.Tensor)), *kept)
        ctx.mark_non_differentiable(*kept)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.set_materialize_grads(False)


def _inputs(ctx: Any) -> tuple[list[Any], list[Any]]:
    """The inputs of a function, and what was saved behind them."""
    saved = iter(ctx.saved_tensors)
    return [next(saved) if number is None else number for number in ctx.numbers], list(saved)


class _Values(_Function):
    """The value of an operation, and what its gradients need."""

    @staticmethod
    def forward(call: Call, *operands: Any) -> tuple[torch.Tensor, ...]:
        return _compute(call, operands)

    @staticmethod
    def backward(ctx: Any, derivs: torch.Tensor | None, *_: Any) -> tuple[Any, ...]:
        operands, kept = _inputs(ctx)
        gradients: list[Any] = [None] * len(operands)
        if derivs is None:
            return (None, *gradients)
        needed = [place for place in ctx.call.differentiable() if ctx.needs_input_grad[1 + place]]
        back, inputs = ctx.call.towards("backward", needed), (derivs, *operands, *kept)
        plain = not torch.is_grad_enabled() and _have_memory(inputs)  # where nobody differentiates once more
        found = _compute_here(back, inputs) if plain else _Gradients.apply(back, *inputs)
        return (None, *_added(gradients, back.places, found))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Any) -> tuple[Any, ...]:
        operands, kept = _inputs(ctx)
        reference = _Reference(ctx.call, operands)
        _refuse_if(any(tangents[place] is not None for place in _parameters(ctx.call)))
        primals = tuple(reference.paths)
        along = _no_none(primals, [tangents[place] for place in reference.places])
        return (torch.func.jvp(reference.value, primals, along)[1], *(None for _ in kept))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: Call, *operands: Any) -> Any:
        call, moved = _along(call, _tensors(operands), in_dims[1:])
        results = _Values.apply(call, *moved)
        return results, (0,) * len(results)


class _Gradients(_Function):
    """The gradients of an operation, from derivatives of its value."""

    @staticmethod
    def forward(call: Call, *inputs: Any) -> tuple[torch.Tensor, ...]:
        return _compute(call, inputs)

    @staticmethod
    def backward(ctx: Any, *derivs: Any) -> tuple[Any, ...]:
        inputs, _ = _inputs(ctx)
        reference = _Reference(ctx.call, inputs[1:])
        _refuse_if(any(ctx.needs_input_grad[2 + place] for place in _parameters(ctx.call)))
        found, pull_back = torch.func.vjp(reference.gradients, inputs[0], *reference.paths)
        _refuse_if(any(one is not None for one in derivs[len(found) :]))
        of_weights, *of_paths = pull_back(_no_none(found, derivs[: len(found)]))
        gradients = [of_weights, *(None for _ in inputs[1:])]
        return (None, *_added(gradients, [1 + place for place in reference.places], of_paths))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Any) -> tuple[Any, ...]:
        inputs = _inputs(ctx)[0]
        reference = _Reference(ctx.call, inputs[1:])
        of_parameters = [tangents[1 + place] for place in _parameters(ctx.call)]
        _refuse_if(ctx.call.wrt.parameters or any(tangent is not None for tangent in of_parameters))
        primals = (inputs[0], *reference.paths)
        along = (tangents[0], *(tangents[1 + place] for place in reference.places))
        found: tuple[Any, ...] = torch.func.jvp(reference.gradients, primals, _no_none(primals, along))[1]
        return found

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: Call, *inputs: Any) -> Any:
        call, moved = _along(call, _tensors(inputs), in_dims[1:])
        results = _Gradients.apply(call, *moved)
        return results, (0,) * len(results)


def _parameters(call: Call) -> Sequence[int]:
    """Places of the parameters among the operands."""
    return range(call.operands - len(call.parameters), call.operands)


for _function in (_Values, _Gradients):  # which torch would look at for every call
    _function.forward.__signature__ = inspect.signature(_function.forward)  # type: ignore[attr-defined]


def _refuse_if(wanted: bool) -> None:
    if wanted:
        raise RuntimeError(
            "second derivatives, and derivatives forward, with respect to parameters of a static kernel are not there: "
            "detach the parameters, or take finite differences of the gradients"
        )


def _added(gradients: list[Any], places: Sequence[int], found: Sequence[torch.Tensor]) -> list[Any]:
    """Gradients with those that were found added in their places."""
    for place, gradient in zip(places, found, strict=True):
        before = gradients[place]
        gradients[place] = gradient if before is None else before + gradient
    return gradients


def _no_none(like: Sequence[torch.Tensor], arrays: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
    """Arrays, with zeros in the place of those that are not there."""
    return tuple(torch.zeros_like(one) if array is None else array for one, array in zip(like, arrays, strict=True))


class _Reference:
    """A call as a function of its paths by operations that PyTorch records, for derivatives of any order.

    The first paths are two arguments where they stand in both places, since their gradients are apart.
    """

    def __init__(self, call: Call, operands: _Inputs) -> None:
        given = tuple(call.given[0] if entry == "first" else entry for entry in call.given)
        self.call, self.wrt = dataclasses.replace(call, given=given, direction="value", wrt=Wrt()), call.wrt
        paths = dataclasses.replace(
            call.towards("backward"), wrt=call.towards("backward").wrt._replace(parameters=False)
        )
        self.places = paths.places
        """For each path its place among the operands of the call."""
        self.paths = [operands[place] for place in self.places]
        self.others = operands[len(set(self.places)) : call.operands]
        self.of_first = dataclasses.replace(paths, wrt=Wrt(path1=True)).places

    def value(self, *paths: torch.Tensor) -> torch.Tensor:
        """The value."""
        value: torch.Tensor = self.call(*paths, *self.others)[0]
        return value

    def gradients(self, weights: torch.Tensor, *paths: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The gradients that the call asks for, but those of parameters."""
        _, pull_back = torch.func.vjp(self.value, *paths)
        found, n = pull_back(weights), len(self.of_first)
        return (found[:n] if self.wrt.path1 else ()) + (found[n:] if self.wrt.path2 else ())
