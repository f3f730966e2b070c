"""The frameworks that the tests of `test_frameworks` run over: one entry each, which says how its things are called.

An entry is made when its framework is installed. What a framework has not, by the table of the documentation, is None
in its entry.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from branchsig.frameworks._table import TABLE, Has


@dataclasses.dataclass(frozen=True)
class Framework:
    """How a framework is asked for what the tests want. Functions take and return arrays of the framework."""

    has: Has
    """What the documentation says that it has."""
    array: Callable[[np.ndarray], Any]
    """An array of the framework."""
    gradients: Callable[..., tuple[Any, tuple[Any, ...]]]
    """``gradients(function, *arrays)``: its value, a scalar, and the derivatives with respect to all arrays."""
    compiled: Callable[[Callable], Callable] | None
    """A function as a program."""
    batched: Callable[[Callable], Callable] | None
    """A function along the first axis of all its arguments."""
    derivative: Callable[..., Callable] | None
    """The derivative of a function of one array with respect to it, as a function that may be batched."""
    along: Callable[..., Any] | None
    """``along(function, array, direction)``: the derivative forward of a function of one array."""
    twice: Callable[..., Any]
    """``twice(function, array, direction)``: d/dx <df/dx, direction>."""
    forks: bool
    """Whether it works in a forked process."""
    refusals: tuple[type[Exception], ...] = ()
    """What it raises where a derivative is refused."""
    total: Callable[[Any], Any] = lambda array: array.sum()
    """The sum of an array."""


def of_torch():
    """PyTorch."""
    torch = pytest.importorskip("torch")

    def gradients(function, *arrays):
        arrays = [array.detach().clone().requires_grad_(array.is_floating_point()) for array in arrays]
        value = function(*arrays)
        value.backward()
        return value.detach(), tuple(array.grad for array in arrays)

    def compiled(function):
        torch.compiler.reset()
        return torch.compile(function, fullgraph=True, backend="aot_eager")

    def twice(function, array, direction):
        array = array.detach().clone().requires_grad_()
        (first,) = torch.autograd.grad(function(array), array, create_graph=True)
        return torch.autograd.grad((first * direction).sum(), array)[0]

    return Framework(
        has=TABLE["torch"],
        array=torch.asarray,
        gradients=gradients,
        compiled=compiled,
        batched=torch.vmap,
        derivative=torch.func.grad,
        along=lambda function, array, direction: torch.func.jvp(function, (array,), (direction,))[1],
        twice=twice,
        forks=True,
        refusals=(RuntimeError,),
    )


def of_jax():
    """JAX."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)

    def gradients(function, *arrays):
        places = tuple(place for place, array in enumerate(arrays) if jax.numpy.issubdtype(array.dtype, np.floating))
        value, found = jax.value_and_grad(function, places)(*arrays)
        return value, tuple(dict(zip(places, found)).get(place) for place in range(len(arrays)))

    def twice(function, array, direction):
        return jax.grad(lambda a: (jax.grad(function)(a) * direction).sum())(array)

    return Framework(
        has=TABLE["jax"],
        array=jax.numpy.asarray,
        gradients=gradients,
        compiled=jax.jit,
        batched=jax.vmap,
        derivative=jax.grad,
        along=lambda function, array, direction: jax.jvp(function, (array,), (direction,))[1],
        twice=twice,
        forks=False,  # once it has run anything, by its own word
        refusals=(NotImplementedError, TypeError),
    )


def of_autograd():
    """HIPS autograd, whose arrays are those of NumPy until it differentiates."""
    autograd = pytest.importorskip("autograd")

    def gradients(function, *arrays):
        places = [place for place, array in enumerate(arrays) if np.issubdtype(array.dtype, np.floating)]
        value, found = autograd.value_and_grad(function, places)(*arrays)
        return value, tuple(dict(zip(places, found)).get(place) for place in range(len(arrays)))

    def twice(function, array, direction):
        return autograd.grad(lambda a: (autograd.grad(function)(a) * direction).sum())(array)

    return Framework(
        has=TABLE["autograd"],
        array=np.asarray,
        gradients=gradients,
        compiled=None,
        batched=None,
        derivative=autograd.grad,
        along=lambda function, array, direction: autograd.make_jvp(function)(array)(direction)[1],
        twice=twice,
        forks=True,
        refusals=(NotImplementedError,),
    )


def of_tensorflow():
    """TensorFlow."""
    tf = pytest.importorskip("tensorflow")
    tf.config.set_visible_devices([], "GPU")

    def gradients(function, *arrays):
        with tf.GradientTape() as tape:
            floats = [array for array in arrays if array.dtype.is_floating]
            tape.watch(floats)
            value = tf.convert_to_tensor(function(*arrays))
        found = iter(tape.gradient(value, floats, unconnected_gradients="zero"))
        return value, tuple(next(found) if array.dtype.is_floating else None for array in arrays)

    def twice(function, array, direction):
        with tf.GradientTape() as outer:
            outer.watch(array)
            with tf.GradientTape() as inner:
                inner.watch(array)
                value = function(array)
            total = tf.reduce_sum(inner.gradient(value, array) * direction)
        return outer.gradient(total, array)

    def along(function, array, direction):
        with tf.autodiff.ForwardAccumulator(array, direction) as accumulator:
            value = function(array)
        return accumulator.jvp(value)

    return Framework(
        has=TABLE["tensorflow"],
        array=tf.convert_to_tensor,
        gradients=gradients,
        compiled=tf.function,
        batched=lambda function: (
            lambda *arrays: tf.map_fn(lambda one: function(*one), arrays, fn_output_signature=arrays[0].dtype)
        ),
        derivative=lambda function: lambda *arrays: gradients(function, *arrays)[1][0],
        along=along,
        twice=twice,
        forks=False,  # its threads hang there
        refusals=(NotImplementedError,),
        total=tf.reduce_sum,
    )


FRAMEWORKS = {"torch": of_torch, "jax": of_jax, "autograd": of_autograd, "tensorflow": of_tensorflow}


@functools.cache
def framework_named(name):
    """An entry of the table."""
    return FRAMEWORKS[name]()
