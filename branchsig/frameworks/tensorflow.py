"""Tensors of TensorFlow: eager, with or without a tape, and inside of `tf.function`.

A call is a function with a gradient of its own, and its gradients are another one, whose gradient refuses: TensorFlow
takes what it cannot look into for a constant. Inside of `tf.function` both are operations that run in this process, of
static shapes where those of the operands are.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from branchsig import _warnings
from branchsig.frameworks._binding import Call
from branchsig.operations import OPERATIONS, Shape

__all__ = ["claims", "joined", "run", "serves", "summed"]

_warnings.pass_over(tf.__file__)


def claims(array: Any) -> bool:
    """Tell whether an array is a tensor or a variable of TensorFlow, watched by a tape or not."""
    return bool(tf.is_tensor(array)) or isinstance(array, tf.Variable)


def serves(call: Call, arrays: Sequence[Any]) -> bool:
    """Tell whether a call is run here: all."""
    return True


@tf.autograph.experimental.do_not_convert
def joined(paths: Any, times: Any) -> Any:
    """Return paths with times as their last channel."""
    paths, times = tf.convert_to_tensor(paths), tf.convert_to_tensor(times)
    channel = tf.zeros_like(paths[..., :1]) + times[..., None]
    return tf.concat([paths, channel], axis=-1)


@tf.autograph.experimental.do_not_convert
def summed(array: Any, axes: tuple[int, ...]) -> Any:
    """Return the sum along some axes."""
    return tf.reduce_sum(array, axis=axes)


@tf.autograph.experimental.do_not_convert
def run(call: Call, arrays: Sequence[Any]) -> list[Any]:
    """Return the results of a call. See `branchsig.frameworks._binding`."""
    tensors = [tf.convert_to_tensor(one if claims(one) else np.asarray(one)) for one in arrays]
    if call.direction in ("backward", "backprop"):
        found = zip(call.places, _gradients(call, tensors), strict=True)
        # A number has all its digits as a parameter, and a gradient of the dtype of the paths.
        return [one if claims(arrays[1 + k]) else tf.cast(one, tensors[1].dtype) for k, one in found]
    # Where sizes are not known, nor is how much is kept.
    known = all(tensor.shape.is_fully_defined() for tensor in tensors)
    needed = [place for place in call.differentiable() if claims(arrays[place])]
    return _values(call.towards("forward" if known else "value"), tensors, needed)


def _values(call: Call, operands: Sequence[Any], needed: Sequence[int]) -> list[Any]:
    """The value of a call, and what is kept."""
    kept: list[Any] = []

    @tf.custom_gradient
    def value(*operands: Any) -> Any:
        result, *kept[:] = _called(call, operands)

        def pull_back(derivs: Any) -> list[Any]:
            gradients: list[Any] = [None] * len(operands)
            back = call.towards("backward" if call.direction == "forward" else "backprop", needed)
            for place, gradient in zip(back.places, _gradients(back, [derivs, *operands, *kept]), strict=True):
                if place in needed:
                    gradients[place] = gradient if gradients[place] is None else gradients[place] + gradient
            return gradients

        return result, pull_back

    return [value(*operands), *kept]


def _gradients(call: Call, arrays: Sequence[Any]) -> list[Any]:
    """The gradients of a call."""

    def refuse(*_: Any) -> NoReturn:
        raise NotImplementedError(
            f"TensorFlow differentiates a gradient of the operation {call.operation!r}: second derivatives are not "
            "there, nor is forward mode. Take finite differences of gradients, or tf.stop_gradient of what is not to "
            "be differentiated"
        )

    @tf.custom_gradient
    def gradients(*arrays: Any) -> Any:
        return _called(call, arrays), refuse

    return list(gradients(*arrays))


def _called(call: Call, tensors: Sequence[Any]) -> list[Any]:
    """Run a call that TensorFlow is not to look into."""
    if all(hasattr(tensor, "numpy") for tensor in tensors):
        return [tf.convert_to_tensor(np.asarray(one)) for one in call(*(tensor.numpy() for tensor in tensors))]
    shapes = _results(call, tensors)
    do = functools.partial(_run, call, _warnings.line_of_the_caller())
    found = tf.numpy_function(do, list(tensors), [tf.as_dtype(dtype) for _, dtype in shapes])
    found = list(found) if isinstance(found, (list, tuple)) else [found]
    for result, (shape, _) in zip(found, shapes, strict=True):
        result.set_shape(shape)
    return found


def _results(call: Call, tensors: Sequence[Any]) -> list[tuple[Any, str]]:
    """Shapes and dtypes of what a call returns, as far as they are known."""
    if all(tensor.shape.is_fully_defined() for tensor in tensors):
        shapes = [Shape(tuple(tensor.shape), tensor.dtype.name) for tensor in tensors]
        return [(shape.shape, shape.dtype) for shape in call.result(*shapes)]
    if call.direction == "backprop":
        return [(tensors[1 + place].shape, tensors[1 + place].dtype.name) for place in call.places]
    some = [Shape(tuple(size or 2 for size in tensor.shape), tensor.dtype.name) for tensor in tensors]
    value = OPERATIONS[call.operation].result(call.spec, *call.taken(some)).value
    return [((None,) * len(value.shape), value.dtype)]


def _run(call: Call, line: tuple[str, int], *arrays: np.ndarray) -> list[np.ndarray]:
    """The results of a call while a program runs, which has no line of the caller."""
    with _warnings.collected() as messages:
        found = [np.asarray(one) for one in call(*arrays)]
    for message, category in messages:
        warnings.warn_explicit(message, category, *line)
    return found
