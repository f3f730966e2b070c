"""Boxes of HIPS autograd, which it differentiates once, backward.

A call is a primitive of autograd, and its gradients are another one. Autograd takes what it does not know the
derivative of for a constant, so that the second primitive has rules which refuse, as the first one has for derivatives
forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import autograd
import numpy as np
from autograd import numpy as anp
from autograd.extend import defjvp_argnums, defvjp_argnums, primitive, vspace
from autograd.numpy.numpy_boxes import ArrayBox
from autograd.tracer import isbox

from branchsig._warnings import pass_over
from branchsig.frameworks._binding import Call

__all__ = ["claims", "joined", "run", "serves", "summed"]

pass_over(autograd.__file__)


def claims(array: Any) -> bool:
    """Tell whether autograd records what is done with an array."""
    if isbox(array) and not isinstance(array, ArrayBox):
        raise TypeError(
            f"an argument is a {type(array).__name__}, a container that autograd differentiates as a whole: expected "
            "an array, or a list of arrays. Pass list(paths) in the place of paths"
        )
    return isinstance(array, ArrayBox)


def serves(call: Call, arrays: Sequence[Any]) -> bool:
    """Tell whether a call is run here: all."""
    return True


def run(call: Call, arrays: Sequence[Any]) -> list[Any]:
    """Return the results of a call. See `branchsig.frameworks._binding`."""
    if call.direction in ("backward", "backprop"):
        found = _gradients(call, *arrays)
        return [found[k] for k in range(len(call.places))]
    kept = _Kept()
    value = _value(call.towards("forward"), kept, *arrays)
    return [value, *kept.arrays]


def joined(paths: Any, times: Any) -> Any:
    """Return paths with times as their last channel."""
    channel = np.zeros((*paths.shape[:-1], 1), paths.dtype) + times[..., None]  # broadcast_to takes no further axes
    return anp.concatenate([paths, channel], axis=-1)


def summed(array: Any, axes: tuple[int, ...]) -> Any:
    """Return the sum along some axes."""
    return anp.sum(array, axis=axes)


class _Kept:
    """Where the forward of a call puts what its gradients need, which are constants to autograd."""

    arrays: list[np.ndarray]


@primitive
def _value(call: Call, kept: _Kept, *operands: Any) -> Any:
    """The value of a call."""
    value, *kept.arrays = call(*map(np.asarray, operands))
    return value


@primitive
def _gradients(call: Call, *arrays: Any) -> tuple[Any, ...]:
    """The gradients of a call."""
    return tuple(call(*map(np.asarray, arrays)))


def _back(places: Sequence[int], value: Any, arguments: Sequence[Any], _: Any) -> Callable[[Any], tuple[Any, ...]]:
    """The rule of `_value` for some of its arguments."""
    call, kept, *operands = arguments
    needed = [place - 2 for place in places]
    backward = call.towards("backward", needed)

    def pull_back(derivs: Any) -> tuple[Any, ...]:
        # What surrounds a value of float32 may be float64, and then its derivatives are.
        derivs = derivs if isbox(derivs) else np.asarray(derivs)
        derivs = derivs if derivs.dtype == value.dtype else derivs.astype(value.dtype)
        found = _gradients(backward, derivs, *operands, *kept.arrays)
        gradients: dict[int, Any] = {}
        for k, place in enumerate(backward.places):
            gradients[place] = gradients[place] + found[k] if place in gradients else found[k]
        return tuple(gradients[place] if place in gradients else vspace(operands[place]).zeros() for place in needed)

    return pull_back


def _refused(call: Call) -> NoReturn:
    raise NotImplementedError(
        f"autograd differentiates the operation {call.operation!r} twice, or forward: second derivatives are not "
        "there, nor is forward mode. Take finite differences of gradients"
    )


defvjp_argnums(_value, _back)
defjvp_argnums(_value, lambda places, tangents, value, arguments, _: _refused(arguments[0]))
# Not before somebody asks: a gradient may be a number in what is differentiated.
defvjp_argnums(_gradients, lambda places, value, arguments, _: lambda derivs: _refused(arguments[0]))
defjvp_argnums(_gradients, lambda places, tangents, value, arguments, _: _refused(arguments[0]))
