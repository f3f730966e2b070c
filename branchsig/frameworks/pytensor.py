"""Variables of PyTensor, which PyMC builds its models from.

A call is an `Op`, and its gradients are another one, whose pullback refuses. Nothing is kept between them: how much it
would be depends on sizes that need not be known before a function is called.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.op import Op

from branchsig import _warnings
from branchsig.frameworks._binding import Call
from branchsig.operations import OPERATIONS, Shape

__all__ = ["claims", "joined", "run", "serves", "summed"]

_warnings.pass_over(pytensor.__file__)


def claims(array: Any) -> bool:
    """Tell whether an array is a variable of PyTensor."""
    return isinstance(array, Variable)


def serves(call: Call, arrays: Sequence[Any]) -> bool:
    """Tell whether a call is run here: all."""
    return True


def joined(paths: Any, times: Any) -> Any:
    """Return paths with times as their last channel."""
    paths, times = pt.as_tensor_variable(paths), pt.as_tensor_variable(times)
    return pt.concatenate([paths, pt.zeros_like(paths[..., :1]) + times[..., None]], axis=-1)


def summed(array: Any, axes: tuple[int, ...]) -> Any:
    """Return the sum along some axes."""
    return array.sum(axis=axes)


def run(call: Call, arrays: Sequence[Any]) -> list[Any]:
    """Return the results of a call. See `branchsig.frameworks._binding`."""
    line = _warnings.line_of_the_caller()
    if call.direction in ("backward", "backprop"):
        call = dataclasses.replace(call, direction="backprop")
        found = _Gradients(call.text, line)(*arrays[: 1 + call.operands], return_list=True)
        # A number has all its digits as a parameter, and a gradient of the dtype of the paths.
        paired = zip(call.places, found, strict=True)
        return [one if claims(arrays[1 + k]) else pt.cast(one, str(arrays[1].dtype)) for k, one in paired]
    return [_Value(call.towards("value").text, line)(*arrays)]


class _Call(Op):
    """A call, by its text; calls of one text are merged."""

    __props__ = ("text",)

    def __init__(self, text: str, line: tuple[str, int]) -> None:
        self.text, self.line = text, line

    @property
    def call(self) -> Call:
        """The call."""
        return Call.read(self.text)

    def make_node(self, *arrays: Any) -> Apply:
        """Check the operands as far as their sizes are known."""
        inputs = [pt.as_tensor_variable(array) for array in arrays]
        shapes = [tuple(variable.type.shape) for variable in inputs]
        sizes = None if any(None in shape for shape in shapes) else [*map(_shape, inputs)]
        return Apply(self, inputs, self.results(inputs, sizes))

    def results(self, inputs: list[Any], sizes: list[Shape] | None) -> list[Any]:
        """Variables for the results."""
        raise NotImplementedError

    def perform(self, node: Any, inputs: Sequence[Any], output_storage: Any) -> None:
        """Run the call. Its warnings name the line that it was made in."""
        with _warnings.collected() as messages:
            found = self.call(*map(np.asarray, inputs))
        for message, category in messages:
            warnings.warn_explicit(message, category, *self.line)
        for cell, result, variable in zip(output_storage, found, node.outputs, strict=True):
            cell[0] = np.asarray(result, variable.type.dtype)

    def R_op(self, inputs: Any, eval_points: Any) -> NoReturn:
        """Refuse derivatives forward."""
        self.refuse()

    pushforward = R_op

    def refuse(self, *_: Any) -> NoReturn:
        """Say what there is no derivative of."""
        raise NotImplementedError(
            f"PyTensor differentiates the operation {self.call.operation!r} twice, or forward: second derivatives are "
            "not there, nor is forward mode. Take finite differences of gradients, or disconnected_grad of what is not "
            "to be differentiated"
        )


class _Value(_Call):
    """The value of a call."""

    def results(self, inputs: list[Any], sizes: list[Shape] | None) -> list[Any]:
        """A variable for the value."""
        call = self.call
        if sizes is not None:
            (value,) = call.result(*sizes)
            return [pt.TensorType(value.dtype, value.shape)()]
        some = call.taken([_shape(variable, unknown=2) for variable in inputs])
        value = OPERATIONS[call.operation].result(call.spec, *some).value
        return [pt.TensorType(value.dtype, (None,) * len(value.shape))()]

    def connection_pattern(self, node: Any) -> list[list[bool]]:
        """Tell which operands have gradients."""
        return [[place in self.needed(node.inputs)] for place in range(len(node.inputs))]

    def needed(self, inputs: Sequence[Any]) -> list[int]:
        """The operands that gradients may be asked for with respect to."""
        return [place for place in self.call.differentiable() if not isinstance(inputs[place], Constant)]

    def pullback(self, inputs: Sequence[Any], outputs: Sequence[Any], derivs: Sequence[Any]) -> list[Any]:
        """Return the gradients."""
        back = self.call.towards("backprop", self.needed(inputs))
        weights = derivs[0].astype(outputs[0].type.dtype)
        found = _Gradients(back.text, self.line)(weights, *inputs, return_list=True)
        gradients: dict[int, Any] = {}
        for place, gradient in zip(back.places, found, strict=True):
            gradients[place] = gradients[place] + gradient if place in gradients else gradient
        wanted = self.needed(inputs)
        return [gradients[place] if place in wanted else DisconnectedType()() for place in range(len(inputs))]

    L_op = pullback  # its name before PyTensor 3


class _Gradients(_Call):
    """The gradients of a call."""

    def results(self, inputs: list[Any], sizes: list[Shape] | None) -> list[Any]:
        """A variable for each gradient."""
        if sizes is not None:
            self.call.result(*sizes)  # checks
        return [inputs[1 + place].type() for place in self.call.places]

    pullback = L_op = _Call.refuse


def _shape(variable: Any, unknown: int = 0) -> Shape:
    """Shape and dtype of a variable, with a size in the place of those that are not known."""
    kind = variable.type
    return Shape(tuple(unknown if size is None else size for size in kind.shape), kind.dtype)


def _register() -> None:
    """Let Numba, the default of PyTensor 3, run calls as what they are, without a word about it."""
    from pytensor.link.numba.dispatch import basic

    @basic.numba_funcify.register(_Call)
    def _(op: _Call, node: Any = None, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return basic.generate_fallback_impl(op, node, **options)


if int(pytensor.__version__.partition(".")[0]) >= 3:
    _register()
