"""JAX: operations on concrete arrays, and inside whatever JAX traces: jit, grad, vmap, jacrev, checkpoint, shard_map.

Concrete arrays in the memory of the CPU go to NumPy and back without a copy. What is traced becomes a call by XLA's
foreign function interface. A handler in C serves kernels and Gram matrices of built-in static kernels without Python; a
handler in Python over cffi serves every other call, which it finds by its text, so that an exported or cached program
does the same in another process. That process has to know the handlers: import this module before such a program runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import importlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad, batching, mlir

from branchsig import _validation, _warnings
from branchsig.backends import Wrt
from branchsig.frameworks._binding import LENT, Call
from branchsig.operations import Shape
from branchsig.operations.transform import transformed
from branchsig.quadrature import TRAPEZOID
from branchsig.spec import Transforms
from branchsig.static_kernels import LINEAR, Context, calls, is_built_in
from branchsig.static_kernels.dot import PolynomialKernel
from branchsig.static_kernels.linear import LinearKernel, ScaledLinearKernel
from branchsig.static_kernels.table import TABLE

try:
    from branchsig._core import ffi, lib
except ImportError:  # no compiled core: callbacks serve, and the reference behind them
    ffi = lib = None

__all__ = ["TAKES_NUMPY", "claims", "given_back", "in_numpy", "lent", "run", "serves"]

_warnings.pass_over(jax.__file__)

_WITHOUT_PYTHON, _ANY = "branchsig_kernels", "branchsig_call"
"""Names of the handlers, which stand in compiled programs."""


TAKES_NUMPY = True


def claims(array: Any) -> bool | str:
    """Tell whether an array is traced, or lent since it lies in the memory of the CPU."""
    if isinstance(array, jax.core.Tracer):
        return True
    return LENT if isinstance(array, jax.Array) and _place_of(array.sharding).on_cpu else False


class _Place(NamedTuple):
    """Where a sharding puts arrays."""

    on_cpu: bool
    sharding: Any
    """That of arrays on the only device; None for several devices."""
    devices: tuple[Any, ...]
    default: Any
    """The default device with which arrays without a place of their own are put there; None where that is the first."""


@functools.lru_cache(maxsize=256)
def _known_place(sharding: Any) -> _Place:
    devices = tuple(sharding.device_set)
    on_cpu = all(device.platform == "cpu" for device in devices)
    if len(devices) > 1:
        return _Place(on_cpu, None, devices, None)
    single = jax.sharding.SingleDeviceSharding
    alone = sharding if isinstance(sharding, single) else single(devices[0])
    return _Place(on_cpu, alone, devices, None if devices[0] == jax.local_devices()[0] else devices[0])


_MOST_SHARDINGS = 256
_places: dict[int, tuple[Any, _Place]] = {}
"""By the identity of a sharding, which is kept, so that no other has it: JAX takes long to compare two."""


def _place_of(sharding: Any) -> _Place:
    found = _places.get(id(sharding))
    if found is not None:
        return found[1]
    place = _known_place(sharding)
    if len(_places) >= _MOST_SHARDINGS:
        _places.clear()
    _places[id(sharding)] = sharding, place
    return place


in_numpy = np.asarray


lent = None  # a concrete array hands out memory of the CPU as a buffer, and raises an error where it has other memory


def given_back(result: np.ndarray, like: Any) -> Any:
    """Return an array of NumPy, which nobody writes to any more, as one of JAX where another lies."""
    committed, place = like.committed, like.sharding
    known = _places.get(id(place))
    _, sharding, devices, default = _place_of(place) if known is None else known[1]
    if sharding is not None:
        there = committed or _config.jax_default_device is default
        if there and _put is not None and (result.itemsize < 8 or _config.jax_enable_x64):
            return _put(_kind_of(result.shape, result.dtype), sharding, (result,), devices, committed)
        if committed:
            return jax.device_put(result, sharding)
    # The quickest way for a few values, and the one without a copy for many.
    return _as_they_are(result) if result.nbytes <= _FEW_BYTES else jax.device_put(result)


_config: Any = jax.config

try:  # what `device_put` comes to, which takes a tenth of its time
    _put: Any = importlib.import_module("jax._src.lib").xla_client.batched_device_put
except (ImportError, AttributeError):
    _put = None


@functools.lru_cache(maxsize=1024)
def _kind_of(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    return jax.core.ShapedArray(shape, dtype)


_FEW_BYTES = 2**16

_as_they_are = jax.jit(lambda array: array)


def serves(call: Call, arrays: Sequence[Any]) -> bool:
    """Tell whether a call is run here: all, but those of most operations on a static kernel of the user's own."""
    return is_built_in(call.spec.static_kernel) or _has_increments(call)


def run(call: Call, arrays: Sequence[Any]) -> list[Any]:
    """Return the results of a call. See `branchsig.frameworks._binding`."""
    if not is_built_in(call.spec.static_kernel):
        if call.direction in ("backward", "backprop"):
            return _back_through_increments(call, arrays)
        return [_through_increments(call, arrays)]
    operands = _over_one_mesh(tuple(map(_array, arrays)))
    line = _warnings.line_of_the_caller()
    _lines.update({each.text: line for each in (call, call.towards("forward"))})
    if call.direction in ("backward", "backprop"):
        return list(_not_differentiable(call, *operands))
    if (
        call.operation == "transform_path"
    ):  # a few operations of JAX itself, which it differentiates as often as it likes
        return [transformed(operands[0], call.spec.transforms)]
    return list(_differentiable(call, *operands))


def _array(value: Any) -> Any:
    """An array of JAX; `jnp.asarray` would convert what JAX differentiates anew, which takes 0.4 ms."""
    return value if isinstance(value, jax.Array) else jnp.asarray(value)


def _mesh_axes(array: Any) -> frozenset[str]:
    """The axes of a mesh along which `shard_map` knows an array to vary."""
    kind: Any = jax.typeof(array)
    manual = getattr(kind, "manual_axis_type", None)  # JAX before 0.10 says it directly
    axes: frozenset[str] = getattr(kind, "vma", frozenset()) if manual is None else manual.varying
    return axes


def _over_one_mesh(arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    """Let all arrays vary along the axes of a mesh that one of them varies along, as calls take them."""
    axes = frozenset[str]().union(*map(_mesh_axes, arrays))
    missing = [tuple(axes - _mesh_axes(array)) for array in arrays]
    return tuple(
        jax.lax.pcast(array, names, to="varying") if names else array
        for array, names in zip(arrays, missing, strict=True)
    )


# Derivatives. The rules never look into a call: its backward is another call, on what its forward kept.


@jax.tree_util.register_static
class _Needed(tuple[int, ...]):
    """The operands that derivatives are asked for with respect to. No array, so it stays what it is under a trace."""


def _by(rule: Callable[..., Any], call: Call, arrays: Sequence[Any]) -> Sequence[Any]:
    """Run a call by a function with a rule for its derivatives, or at once if JAX traces none of the arrays.

    An array that JAX differentiates or traces once more is traced, so a rule is missed by nobody.
    """
    return rule(call, *arrays) if any(isinstance(array, jax.core.Tracer) for array in arrays) else _called(call, arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _differentiable(call: Call, *operands: Any) -> tuple[Any, ...]:
    return tuple(_called(call, operands))


def _forward(call: Call, *operands: Any) -> tuple[tuple[Any, ...], Any]:
    needed = _Needed(k for k in call.differentiable() if operands[k].perturbed)
    arrays = tuple(_array(operand.value) for operand in operands)  # outside of programs they may be those of NumPy
    # By the same function: who differentiates this rule once more may want no more than the value.
    value, *kept = _by(_differentiable, call.towards("forward"), arrays)
    return (value, *kept) if call.direction == "forward" else (value,), (arrays, kept, needed)


def _backward(call: Call, residuals: Any, derivs: Sequence[Any]) -> tuple[Any, ...]:
    arrays, kept, needed = residuals
    gradients: list[Any] = [None] * len(arrays)
    if needed and not isinstance(derivs[0], jax.custom_derivatives.SymbolicZero):
        backward = call.towards("backward", needed)
        found = _by(_not_differentiable, backward, (_array(derivs[0]), *arrays, *kept))
        for place, gradient in zip(backward.places, found, strict=True):
            gradients[place] = gradient if gradients[place] is None else gradients[place] + gradient
    return tuple(gradients)


_differentiable.defvjp(_forward, _backward, symbolic_zeros=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _not_differentiable(call: Call, *arrays: Any) -> tuple[Any, ...]:
    return tuple(_called(call, arrays))


@_not_differentiable.defjvp
def _with_refusal(call: Call, primals: Any, tangents: Any) -> Any:
    found = _not_differentiable(call, *primals)
    along = [tangent for tangent in tangents if tangent.dtype != jax.dtypes.float0]  # of integers
    return found, tuple(_refusal.bind(*along, operation=call.operation, kinds=tuple(map(jax.typeof, found))))


_refusal: Any = jax.extend.core.Primitive("branchsig_derivative_of_a_gradient")
"""Stands for derivatives of gradients in programs, and is an error once anybody asks for them."""
_refusal.multiple_results = True


def _refuse(*_: Any, operation: str, **__: Any) -> Any:
    raise NotImplementedError(
        f"a gradient of the operation {operation!r} is differentiated: second derivatives are not there, nor is "
        "forward mode. Take differences of gradients, or jax.lax.stop_gradient of what is not to be differentiated"
    )


def _refuse_back(derivs: Sequence[Any], *tangents: Any, operation: str, **_: Any) -> Any:
    if all(type(one) is ad.Zero for one in derivs):
        return [None] * len(tangents)
    return _refuse(operation=operation)


def _refuse_along(tangents: Sequence[Any], axes: Sequence[Any], *, kinds: tuple[Any, ...], **named: Any) -> Any:
    size = next(one.shape[axis] for one, axis in zip(tangents, axes) if axis is not None)
    kinds = tuple(kind.update(shape=(size, *kind.shape)) for kind in kinds)
    return _refusal.bind(*tangents, kinds=kinds, **named), [0] * len(kinds)


_refusal.def_impl(_refuse)
_refusal.def_abstract_eval(lambda *_, kinds, **__: kinds)
ad.primitive_transposes[_refusal] = _refuse_back
ad.primitive_jvps[_refusal] = lambda _, __, *, operation, **___: _refuse(operation=operation)
batching.primitive_batchers[_refusal] = _refuse_along
mlir.register_lowering(_refusal, _refuse)


# Calls, on the host or as a part of a program.


def _called(call: Call, arrays: Sequence[Any]) -> list[Any]:
    """Run a call that JAX is not to look into."""
    ours = [array for array in arrays if isinstance(array, jax.Array)]
    if not ours or any(claims(array) != LENT for array in ours):
        return _foreign(call, arrays)
    return [given_back(np.asarray(result), ours[0]) for result in _run(call, list(map(np.asarray, arrays)))]


def _run(call: Call, arrays: Sequence[Any]) -> list[Any]:
    """Run a call on arrays of NumPy or CuPy, with what is kept in the form that JAX holds it in."""
    if call.direction == "backward":
        first = 1 + call.operands
        if len(arrays) > first:
            shapes = tuple(Shape(array.shape, array.dtype.name) for array in arrays[1:first])
            kept = (_unpacked(array, shape) for array, shape in zip(arrays[first:], _kept(call, shapes), strict=True))
            arrays = [*arrays[:first], *kept]
    results = call(*arrays)
    return results[:1] + list(map(_packed, results[1:])) if call.direction == "forward" else results


@functools.lru_cache(maxsize=1024)
def _kept(call: Call, operands: tuple[Shape, ...]) -> list[Shape]:
    """Shapes of what the forward of a call keeps."""
    return call.towards("forward").result(*operands)[1:]


def _is_wide(dtype: str) -> bool:
    """Tell whether JAX has numbers of this type only where it is told to: they are kept as pairs of 32 bits."""
    return np.dtype(dtype).itemsize == 8


def _packed(array: Any) -> Any:
    if not _is_wide(array.dtype.name):
        return array
    return array.reshape(-1).reshape((*array.shape, 1)).view(np.uint32)


def _unpacked(array: Any, shape: Shape) -> Any:
    if not _is_wide(shape.dtype):
        return array
    return array.reshape(-1).view(shape.dtype).reshape(array.shape[:-1])


def _foreign(call: Call, arrays: Sequence[Any]) -> list[Any]:
    """Make a call a part of the program that is traced."""
    shapes = [Shape(tuple(array.shape), array.dtype.name) for array in arrays]
    value, *others = call.result(*shapes)
    if call.direction == "forward":
        others = [Shape((*s.shape, 2), "uint32") if _is_wide(s.dtype) else s for s in others]
    struct: Any = jax.ShapeDtypeStruct
    results = [struct(shape.shape, np.dtype(shape.dtype)) for shape in (value, *others)]
    if lib is None:

        def repeated(*there: Any) -> list[np.ndarray]:
            return list(map(np.asarray, _repeated(call, arrays[0].ndim, *map(np.asarray, there))))

        return list(jax.pure_callback(repeated, results, *arrays, vmap_method="expand_dims"))
    text = call.text
    _warned.pop(text, None)
    task = _task(call, shapes[0] if call.direction in ("value", "forward") else shapes[1])
    named = {} if task is None else {"task": np.asarray(task.integers, np.int64), "numbers": np.asarray(task.numbers)}
    target = _ANY if task is None else _WITHOUT_PYTHON
    foreign = jax.ffi.ffi_call(target, results, vmap_method="expand_dims")
    called = list(foreign(*arrays, call=text, rank=np.int64(arrays[0].ndim), **named))
    axes = tuple(_mesh_axes(arrays[0]))
    return [jax.lax.pcast(result, axes, to="varying") for result in called] if axes else called


def _repeated(call: Call, rank: int, *arrays: Any) -> list[Any]:
    """Run a call on arrays of more axes than it was traced for: those that `vmap` puts in front."""
    axes = arrays[0].ndim - rank
    return _run(dataclasses.replace(call, axes=axes) if axes else call, arrays)


_MOST_DEPTH, _MOST_DYADIC_ORDER = 1000, 10
"""Beyond these Python looks first if sizes fit the integers of the core."""


class _Task(NamedTuple):
    """What the handler in C needs to know of a call, see core.cdef."""

    integers: list[int]
    numbers: list[float]


def _task(call: Call, path1: Shape) -> _Task | None:
    """Describe a call to the handler in C; None if it is for Python."""
    spec, how, gram = call.spec, call.how, call.operation == "gram"
    kernel: Any = spec.static_kernel
    plain = (
        call.operation in ("kernel", "gram")
        and call.given[0] == "array"
        and call.given[1] in ("array", "first", None)
        and (how.n_jobs, how.max_batch, how.devices, how.check_finite is True) == (1, -1, None, False)
        and not (spec.transforms or spec.normalize or spec.return_grid or spec.truncation.order is not None)
        and spec.rtol is None
        and not (spec.planar and spec.log)
        and (math.isinf(spec.truncation.depth) or spec.truncation.depth <= _MOST_DEPTH)
        and max(spec.dyadic_order) <= _MOST_DYADIC_ORDER
        and not (isinstance(kernel, PolynomialKernel) and kernel.degree == 1.0)
    )
    # Gram matrices of shapes that look wrong are warned of, whatever their values.
    if not plain or (gram and (len(path1.shape) < 3 or path1.shape[-2] == 1)):
        return None
    if type(kernel) is LinearKernel:
        kernel = ScaledLinearKernel()
    row, rule = TABLE[type(kernel)], spec.quadrature
    places: dict[str, int] = {}
    shift = int(call.direction in ("backward", "backprop"))
    taken = iter(range(shift, shift + call.operands))
    operands = ("PATH1", "PATH2", "LENGTHS1", "LENGTHS2")
    for name, entry in zip(operands, call.given):
        if entry == "array":
            places[name] = next(taken)
    if call.given[1] == "first":
        places["PATH2"] = places["PATH1"]
        if "LENGTHS1" in places:
            places["LENGTHS2"] = places["LENGTHS1"]
    for name in call.parameters:
        slot = next(k for k, attribute in enumerate(row.attributes) if attribute in (name, f"effective_{name}"))
        places[f"PARAMETERS+{slot}"] = next(taken)
    if shift:
        places["DERIVS"] = 0
        gradients = iter(range(len(call.places)))
        for name, asked in zip(("GRAD1", "GRAD2"), call.wrt):
            if asked:
                places[name] = next(gradients)
        if call.wrt[2]:
            places |= {f"GRAD_PARAMETERS+{k}": next(gradients) for k in range(len(call.parameters))}
    untruncated = math.isinf(spec.truncation.depth)
    nodes = rule.p if untruncated or not (spec.planar or rule == TRAPEZOID) else 0
    places |= {
        "GRAM": int(gram),
        "RANK": len(path1.shape),
        "DEPTH": 1 if untruncated else int(spec.truncation.depth),
        "DYADIC1": spec.dyadic_order[0],
        "DYADIC2": spec.dyadic_order[1],
        "STATIC_KERNEL": getattr(lib, f"BS_{row.name}"),
        "NODES": nodes,
        "UNTRUNCATED": int(untruncated),
        "LOG": int(spec.log),
        "PLANAR": (1 if rule == TRAPEZOID else 2) if spec.planar else 0,
    }
    integers = [-1] * lib.BS_CALL_SIZE
    for name, value in places.items():
        name, _, further = name.partition("+")
        integers[getattr(lib, f"BS_CALL_{name}") + int(further or 0)] = value
    steps = [value for of_node in rule.steps for value in of_node] if nodes else []
    whole = list(rule.whole[0]) if nodes else []
    return _Task(integers, [*_filled(row.values(kernel), 4), *_filled(steps, 72), *_filled(whole, 9)])


def _filled(values: Sequence[float], size: int) -> list[float]:
    return [*values, *[0.0] * (size - len(values))]


# The handler in Python, which any thread of XLA may call.

_TYPES = {
    1: "bool",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "uint8",
    7: "uint16",
    8: "uint32",
    9: "uint64",
    11: "float32",
    12: "float64",
}
"""The types of XLA by their numbers."""

_lines: dict[str, tuple[str, int]] = {}
"""For each text the line that traced it last, for warnings. It is no part of a program, which would change with it."""

_warned: dict[str, set[int]] = {}
"""For each text the call sites of compiled programs that have warned, by their addresses. These may come again in
another program once one is gone, but not before its call is traced, which forgets them."""


def _handle(frame: Any) -> Any:
    """Run the call of a frame of XLA on its buffers, without a copy."""
    return _answered(frame, _on_cpu)


def _handle_on_cuda(frame: Any) -> Any:
    """The same where the buffers are memory of a CUDA device: by CuPy, in the stream of the program."""
    extension = frame.extension
    while extension != ffi.NULL:
        if extension.type == lib.BS_XLA_METADATA:  # XLA asks for the version when a handler is registered
            answer = ffi.cast("bs_xla_metadata_extension *", extension).metadata
            answer.api_version.major_version = frame.api.api_version.major_version
            answer.api_version.minor_version = frame.api.api_version.minor_version
            return ffi.NULL
        extension = extension.next
    return _answered(frame, _on_cuda)


@contextlib.contextmanager
def _on_cpu(frame: Any) -> Iterator[Callable[[Any], Any]]:
    """What makes arrays of buffers, while it may be used."""
    yield _view


@contextlib.contextmanager
def _on_cuda(frame: Any) -> Iterator[Callable[[Any], Any]]:
    """The same on a CUDA device."""
    import cupy

    question = ffi.new("bs_xla_stream *", (ffi.sizeof("bs_xla_stream"), ffi.NULL, frame.context, ffi.NULL))
    if frame.api.get_stream(question) != ffi.NULL:
        raise RuntimeError("XLA names no stream of a CUDA device")

    def view(buffer: Any) -> Any:
        shape, dtype = _shape_of(buffer)
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return cupy.empty(shape, dtype)
        memory = cupy.cuda.UnownedMemory(int(ffi.cast("intptr_t", buffer.data)), size, None)
        return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(memory, 0))

    with cupy.cuda.ExternalStream(int(ffi.cast("intptr_t", question.stream))):
        yield view


def _answered(frame: Any, place: Callable[[Any], contextlib.AbstractContextManager[Callable[[Any], Any]]]) -> Any:
    """Run the call of a frame, and return an error of XLA where one is raised."""
    try:
        attributes = _attributes(frame)
        text, operands, results = attributes["call"], frame.operands, frame.results
        with place(frame) as view, _warnings.collected() as messages:
            arrays = [view(operands.buffers[k]) for k in range(operands.size)]
            found = _repeated(Call.read(text), attributes["rank"], *arrays)
            for k, result in enumerate(found):
                view(results.buffers[k])[...] = result
        _warn_once(int(ffi.cast("intptr_t", frame.attributes.values)), text, messages)
    except BaseException as error:
        message = ffi.new("char[]", f"{type(error).__name__}: {error}".encode())
        code = lib.BS_XLA_RESOURCE_EXHAUSTED if isinstance(error, MemoryError) else lib.BS_XLA_INVALID_ARGUMENT
        size = ffi.sizeof("bs_xla_error")
        return frame.api.create_error(ffi.new("bs_xla_error *", (size, ffi.NULL, message, code)))
    return ffi.NULL


def _warn_once(site: int, text: str, messages: list[tuple[str, type[Warning]]]) -> None:
    """Give the warnings of a call, unless its place in a program has given some before."""
    if not messages or site in _warned.get(text, ()):
        return
    _warned.setdefault(text, set()).add(site)
    file, line = _lines.get(text, ("<traced in another process>", 1))
    for message, category in messages:
        warnings.warn_explicit(message, category, file, line)


def _attributes(frame: Any) -> dict[str, Any]:
    """The attributes of a call that Python reads."""
    found: dict[str, Any] = {}
    given = frame.attributes
    for k in range(given.size):
        name = ffi.unpack(given.names[k].ptr, given.names[k].len).decode()
        if name == "call":
            text = ffi.cast("bs_xla_span *", given.values[k])
            found[name] = ffi.unpack(text.ptr, text.len).decode()
        elif name == "rank":
            found[name] = ffi.cast("int64_t *", ffi.cast("bs_xla_scalar *", given.values[k]).value)[0]
    return found


def _shape_of(buffer: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    return tuple(ffi.unpack(buffer.dims, buffer.rank)) if buffer.rank else (), np.dtype(_TYPES[buffer.dtype])


def _view(buffer: Any) -> np.ndarray:
    """The memory of a buffer as an array."""
    shape, dtype = _shape_of(buffer)
    size = math.prod(shape)
    if not size:
        return np.empty(shape, dtype)
    return np.frombuffer(ffi.buffer(buffer.data, size * dtype.itemsize), dtype).reshape(shape)


def _register() -> Any:
    """Make the handlers known to JAX. What is returned must live as long as they do."""
    handlers = [ffi.callback("void *(bs_xla_frame *)", function) for function in (_handle, _handle_on_cuda)]
    lib.bs_xla_set_python(handlers[0])
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    for name, function in ((_WITHOUT_PYTHON, "bs_xla_kernels"), (_ANY, "bs_xla_any")):
        for platform, handler in (("cpu", ffi.addressof(lib, function)), ("CUDA", handlers[1])):
            address = int(ffi.cast("intptr_t", handler))
            target = capsule(address, b"xla._CUSTOM_CALL_TARGET", None)
            jax.ffi.register_ffi_target(name, target, platform=platform)
    return handlers


_handlers = None if lib is None else _register()


# Static kernels of the user's own: JAX traces and differentiates their increments, of which the core makes kernels.


def _has_increments(call: Call) -> bool:
    """Tell whether a call on a static kernel of the user's own is one on its increments."""
    return (
        call.operation in ("kernel", "gram")
        and not call.spec.normalize
        and not any(isinstance(entry, int) for entry in call.given)
    )


_MOST_INCREMENTS = 2**25
"""Up to so many increments are made at once: 256 MB of float64."""


def _back_through_increments(call: Call, arrays: Sequence[Any]) -> list[Any]:
    """Return the gradients that a call asks for, from derivatives and operands, with those of increments by JAX."""
    if call.wrt.parameters:
        raise NotImplementedError(
            f"param_deriv with {type(call.spec.static_kernel).__name__}, whose increments JAX differentiates: take "
            "jax.grad of the value with respect to what the static kernel is made of"
        )
    derivs, *operands = map(_array, arrays[: 1 + call.operands])
    given = tuple("array" if entry == "first" else entry for entry in call.given)
    if given != call.given:  # the gradients of the two places are apart
        operands.insert(1, operands[0])
        if given[2] is not None:
            given = (*given[:3], "array")
            operands.append(operands[2])
    forward = dataclasses.replace(call, direction="value", given=given, wrt=Wrt())
    paths = forward.paths
    value, pull_back = jax.vjp(
        lambda *paths: _through_increments(forward, [*paths, *operands[len(paths) :]]), *operands[:paths]
    )
    found = pull_back(_validation.same_shape(derivs, "derivs", value.shape, operands[0], "path1"))
    return [gradient for gradient, asked in zip(found, call.wrt) if asked]


def _through_increments(call: Call, arrays: Sequence[Any]) -> Any:
    """Return kernels of increments that a static kernel makes with JAX."""
    call.result(*(Shape(tuple(array.shape), np.dtype(array.dtype).name) for array in arrays))  # checks
    spec, rest = call.spec, iter(map(_array, arrays))
    operands: list[Any] = [next(rest) if entry == "array" else None for entry in call.given]
    path1, path2, lengths1, lengths2 = operands
    if path2 is None:
        path2, lengths2 = path1, lengths1
    paths1, lengths1 = _prepared(path1, lengths1, spec.transforms)
    paths2, lengths2 = _prepared(path2, lengths2, spec.transforms)
    given = tuple(None if lengths is None else "array" for lengths in (lengths1, lengths2))
    bare = dataclasses.replace(spec, static_kernel=LINEAR, transforms=Transforms())
    of_increments = Call("increments", "value", bare, call.how, ("array", *given))

    def kernels(x: Any, y: Any, valid1: Any, valid2: Any) -> Any:
        increments = calls.increments(spec.static_kernel, Context(), x, y)
        return run(of_increments, [increments, *(valid for valid in (valid1, valid2) if valid is not None)])[0]

    if call.operation == "kernel":
        value = kernels(paths1, paths2, lengths1, lengths2)
        return jnp.reshape(value, path1.shape[:-2] + value.shape[1:])

    def row(one: Any) -> Any:
        x, valid1 = one
        x = jnp.broadcast_to(x, (len(paths2), *x.shape))
        return kernels(x, paths2, None if valid1 is None else jnp.broadcast_to(valid1, len(paths2)), lengths2)

    n1, n2 = len(paths1), len(paths2)
    if n1 * n2 * paths1.shape[1] * paths2.shape[1] > _MOST_INCREMENTS:
        value = jax.lax.map(jax.checkpoint(row), (paths1, lengths1))
    else:
        x, y = jnp.repeat(paths1, n2, axis=0), jnp.tile(paths2, (n1, 1, 1))
        valid1 = None if lengths1 is None else jnp.repeat(lengths1, n2)
        value = kernels(x, y, valid1, None if lengths2 is None else jnp.tile(lengths2, n1))
        value = jnp.reshape(value, (n1, n2, *value.shape[1:]))
    return jnp.reshape(value, path1.shape[:-2] + path2.shape[:-2] + value.shape[2:])


def _prepared(path: Any, lengths: Any, transforms: Transforms) -> tuple[Any, Any]:
    """Paths as a stack, padded with their last valid point and transformed, and their lengths then."""
    stack = jnp.reshape(path, (math.prod(path.shape[:-2]), *path.shape[-2:]))
    if lengths is None:
        return transformed(stack, transforms), None
    lengths = jnp.reshape(lengths, (-1,))
    points = jnp.minimum(jnp.arange(stack.shape[1]), lengths[:, None] - 1)
    stack = jnp.take_along_axis(stack, points[:, :, None], axis=1)
    stack = transformed(stack, dataclasses.replace(transforms, time_aug=False, end_time=1.0))
    if transforms.lead_lag:
        lengths = 2 * lengths - 1
    if transforms.time_aug:
        steps = jnp.arange(stack.shape[1]) / jnp.maximum(lengths - 1, 1)[:, None]
        time = jnp.where(lengths[:, None] == 1, 0.0, transforms.end_time * jnp.minimum(steps, 1.0))
        stack = jnp.concatenate([stack, time[:, :, None].astype(stack.dtype)], axis=-1)
    return stack, lengths
