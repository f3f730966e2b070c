"""Arrays of any library: their namespaces and devices, and conversion from and to NumPy and CuPy.

Everything that is specific to a library, to DLPack or to byte order lives here, so that the rest of the package sees
only arrays of the array API standard.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from types import EllipsisType
from typing import Any, NamedTuple, Protocol, TypeVar

import array_api_compat
import numpy as np
import numpy.typing as npt

Array = Any
"""An array of any library of the array API standard. No type describes all of them, so it is `Any` to the checker."""

ArrayT = TypeVar("ArrayT")
_ArrayT_co = TypeVar("_ArrayT_co", covariant=True)


class Indexable(Protocol[_ArrayT_co]):
    """An array as an argument, of any library and any number of axes.

    Type checkers that track the number of axes of a NumPy array drop it here, since results have another number.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""

    def __getitem__(self, key: EllipsisType, /) -> _ArrayT_co:
        """The array itself, of any number of axes to the checker."""


Paths = Indexable[ArrayT] | Sequence[Indexable[ArrayT]]
"""A stack of paths, or a list of paths of any lengths, in functions that return an array of their library."""

PathsT1 = TypeVar("PathsT1", bound=Indexable[Any] | Sequence[Indexable[Any]])
PathsT2 = TypeVar("PathsT2", bound=Indexable[Any] | Sequence[Indexable[Any]])
"""Paths in functions whose result has their form, such as a gradient: an array for an array, a list for a list."""

_DLPACK_CPU, _DLPACK_CUDA = 1, 2
_NOT_HANDED_OUT = (AttributeError, BufferError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""Errors of libraries that cannot export an array by DLPack, or have no double precision."""


class _Library(NamedTuple):
    """Properties of an array that follow from its type."""

    namespace: Any
    is_cupy: bool
    is_torch: bool


def _namespace_of_numpy() -> Any:
    """NumPy 2.1 is a namespace of the standard by itself; that of array-api-compat imports all that NumPy loads when it
    is asked for, which takes longer than anything here."""
    if np.lib.NumpyVersion(np.__version__) >= "2.1.0":
        return np
    import array_api_compat.numpy

    return array_api_compat.numpy


_OLDEST = "2023.12"
"""The first version of the array API standard with all that the reference computes by."""

_libraries: dict[type, _Library] = {np.ndarray: _Library(_namespace_of_numpy(), is_cupy=False, is_torch=False)}


def _library_of(array: Array) -> _Library:
    found = _libraries.get(type(array))
    if found is None:
        if isinstance(array, (np.ndarray, np.generic)):
            return _libraries[np.ndarray]
        only_bound(array, "an argument")
        namespace = array_api_compat.array_namespace(array)
        version = getattr(namespace, "__array_api_version__", None) or _OLDEST
        if version < _OLDEST:
            raise TypeError(
                f"an argument is an array of {namespace.__name__}, which follows the version {version} of the array "
                f"API standard: expected {_OLDEST} or newer. Take a newer {namespace.__name__}, or arrays of NumPy"
            )
        kinds = array_api_compat.is_cupy_array(array), array_api_compat.is_torch_array(array)
        found = _libraries[type(array)] = _Library(namespace, *kinds)
    return found


_ONLY_BOUND = frozenset({"autograd", "tensorflow", "pytensor"})
"""Packages with arrays that are no more than what their framework computes with them."""

_SILENT = frozenset({"mlx"})
"""Packages that differentiate, and do not tell of an array whether they are doing so."""


def only_bound(array: Array, name: str) -> None:
    """Check that an array may be computed with here, and that nobody would take the result for a constant.

    Raises
    ------
    TypeError
        If only its framework can compute with it, and has not taken it. If its library differentiates it, and is none
        that this one knows how to give derivatives to.
    """
    known = _libraries.get(type(array))
    if known is not None and (known.is_torch or known.is_cupy):
        return
    package = type(array).__module__.partition(".")[0]
    if package in _ONLY_BOUND:
        raise TypeError(
            f"{name} is of type {type(array).__name__} of {package}, which this function or option has no derivative "
            f"in: call it on arrays of NumPy, outside of what {package} differentiates"
        )
    silent = package in _SILENT
    if silent or (_says_it_is_differentiated(array) and not array_api_compat.is_torch_array(array)):
        why = "which may be differentiating it" if silent else "which differentiates it"
        raise TypeError(
            f"{name} is of type {type(array).__name__} of {package}, {why}, and would take the result for a constant: "
            f"call this function on numpy.asarray({name}), and give {package} the gradients by the function whose name "
            "ends in _vjp, as the user guide shows for any other framework"
        )


def _says_it_is_differentiated(array: Array) -> bool:
    """Tell whether an array of a library that is not known says so, by the attribute of torch or that of Paddle."""
    return getattr(array, "requires_grad", None) is True or getattr(array, "stop_gradient", None) is False


def namespace_of(array: Array) -> Any:
    """Return the array API namespace of an array; it depends on the type alone."""
    return _library_of(array).namespace


def is_known(array: Array) -> bool:
    """Tell whether arrays of exactly this type have been seen before; never true for subclasses and scalars of
    NumPy."""
    return type(array) in _libraries


def is_cupy(array: Array) -> bool:
    """Tell whether an array is a CuPy array."""
    return _library_of(array).is_cupy


def all_finite(array: Array) -> bool:
    """Tell whether every value is finite."""
    here = as_numpy(array)
    if here is not None:
        return bool(np.count_nonzero(np.isfinite(here)) == here.size)  # faster than all() for small arrays
    xp = namespace_of(array)
    return bool(xp.all(xp.isfinite(array)))


def count_true(array: Array) -> int:
    """Count the true entries of a boolean array."""
    here = to_numpy(array)
    if here is not None:
        return int(np.count_nonzero(here))
    xp = namespace_of(array)
    return int(xp.sum(xp.astype(array, xp.int64)))


def device_of(array: Array) -> Any:
    """Return the device of an array, as its library names it."""
    library = _library_of(array)
    if library.is_cupy or library.is_torch:
        return array.device  # at once
    return array_api_compat.device(array)


def lies_on_cpu(array: Array) -> bool:
    """Tell whether the memory of an array can be read by the CPU through DLPack."""
    return type(array) is np.ndarray or _device_type(array) == _DLPACK_CPU


def lies_on_cuda(array: Array) -> bool:
    """Tell whether an array lies in the memory of a CUDA device and can be read there through DLPack."""
    return not _says_cpu(array) and _device_type(array) == _DLPACK_CUDA


def _device_type(array: Array) -> int | None:
    library = _library_of(array)
    if library.is_cupy:
        return _DLPACK_CUDA  # asking CuPy would call the driver
    try:
        return int(array.__dlpack_device__()[0])
    except _NOT_HANDED_OUT:
        return None


def _says_cpu(array: Array) -> bool:
    """Tell, without DLPack, whether a PyTorch tensor lies on the CPU. A tensor of `torch.vmap` does so without
    memory."""
    return _library_of(array).is_torch and array.device.type == "cpu"


def is_compiling() -> bool:
    """Tell whether PyTorch is tracing this very call to compile it (`torch.compile`), and reads the code itself."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling()


def specialized(value: Any) -> Any:
    """Return a number, where the compiler of PyTorch has a symbol for it too: a key has a value."""
    (number,) = {value: None}
    return number


def is_recorded(array: Array) -> bool:
    """Tell whether PyTorch differentiates operations on this array: backward, by recording them, or forward, by a
    tangent."""
    torch = sys.modules.get("torch")
    if torch is None or not _library_of(array).is_torch:
        return False
    return bool(array.requires_grad and torch.is_grad_enabled()) or is_dual(array)


def is_dual(tensor: Array) -> bool:
    """Tell whether a tensor of PyTorch carries a tangent."""
    return sys.modules["torch"].autograd.forward_ad.unpack_dual(tensor).tangent is not None


def is_traced(array: Array) -> bool:
    """Tell whether an array has no values yet: its library traces it (`jit`, `vmap`), or it is lazy (Dask).

    For an array with memory the answer needs no computation and no synchronisation.
    """
    if isinstance(array, np.ndarray) or has_memory(array):
        return False
    if array_api_compat.is_dask_array(array):
        return True
    try:
        bool(namespace_of(array).any(array != array))
    except Exception:  # each library raises its own errors
        return True
    return False


def has_memory(array: Array) -> bool:
    """Tell whether an array has memory of its own. A wrapper without memory may still have values, as under `grad`."""
    if not _library_of(array).is_torch:
        return _device_type(array) is not None
    try:
        array.data_ptr()  # tensors of torch.vmap report a DLPack device although they have no memory
    except RuntimeError:
        return False
    return bool(array.device.type != "meta")


def as_number(value: Any) -> float:
    """Return a number, or an array of no axes, as a float."""
    return float(value.detach() if hasattr(value, "detach") else value)  # of a tensor that is recorded torch warns


def unrecorded(array: Array) -> Array:
    """Return an array detached from automatic differentiation in PyTorch."""
    return array.detach() if _library_of(array).is_torch else array


def constant(array: Array) -> Array:
    """Return an array of the same values that PyTorch and JAX treat as constant."""
    if array_api_compat.is_jax_array(array) and not has_memory(array):
        return sys.modules["jax"].lax.stop_gradient(array)
    return unrecorded(array)


def is_packed(array: np.ndarray) -> bool:
    """Tell whether a NumPy array is C-contiguous and aligned."""
    flags = array.flags
    return bool(flags.c_contiguous and flags.aligned)


def to_numpy(array: Array) -> np.ndarray | None:
    """Return a C-contiguous NumPy view of an array on the CPU, or None if its library does not export it.

    Contiguous memory is not copied. The view must not be modified: it may share memory with an array of the caller.
    """
    if is_recorded(array) or not (_says_cpu(array) or lies_on_cpu(array)):
        return None
    try:
        plain = unrecorded(array)
        view: np.ndarray = plain.numpy() if _library_of(array).is_torch else np.from_dlpack(plain)
        return view if is_packed(view) else np.require(view, None, ["C", "A"])
    except _NOT_HANDED_OUT:
        return None


def as_numpy(array: Array) -> np.ndarray | None:
    """Return a NumPy array unchanged, and any other array by `to_numpy`."""
    return array if isinstance(array, np.ndarray) else to_numpy(array)


def to_cupy(array: Array, cupy: Any) -> Array | None:
    """Return a CuPy view of an array on a CUDA device, or None if its library does not export it.

    DLPack orders the view after pending writes on the device; nothing is copied.
    """
    if is_recorded(array):
        return None
    try:
        return cupy.from_dlpack(unrecorded(array))
    except _NOT_HANDED_OUT:
        return None


def from_numpy(result: np.ndarray, like: Array) -> Array:
    """Return a freshly computed NumPy array as an array of the library and on the device of `like`."""
    xp = namespace_of(like)
    return xp.asarray(result, device=device_of(like))


def from_cupy(result: Array, like: Array) -> Array:
    """Return a freshly computed CuPy array as an array of the library of `like`, without a copy."""
    return namespace_of(like).from_dlpack(result)


def contiguous(array: Array) -> Array:
    """Return an array in the layout every backend expects: C-contiguous, aligned, native byte order, no subclass.

    A NumPy array that already has this layout is returned unchanged, and so are arrays of other libraries, which hide
    their layout.
    """
    if isinstance(array, np.ndarray):
        return np.require(array, array.dtype.newbyteorder("="), ["C", "A", "E"])
    return array


def in_float64(array: Array) -> Array:
    """Convert a float32 array to float64, unless its library or device has no float64 (JAX without x64)."""
    xp = namespace_of(array)
    if array.dtype != xp.float32:
        return array
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return xp.astype(array, xp.float64)
        except _NOT_HANDED_OUT:
            return array


def weighted(weights: Array, values: Array) -> Array:
    """Return weights times values, but 0 instead of NaN where a weight is 0 and the value is not finite.

    For finite values this is the plain product, which can be differentiated with respect to the weights.
    """
    product = weights * values
    xp = namespace_of(product)
    return xp.where((weights == 0) & ~xp.isfinite(values), xp.zeros_like(product), product)


def filled(path: Array, lengths: np.ndarray | None) -> Array:
    """Replace every padded point of paths (paths, length, dimension) by the last valid point.

    Padding is not read. Without lengths the paths are returned unchanged.
    """
    if lengths is None:
        return path
    xp = namespace_of(path)
    paths, length, dimension = path.shape
    index = np.minimum(np.arange(length), lengths[:, None] - 1) + length * np.arange(paths)[:, None]
    flat = xp.reshape(path, (paths * length, dimension))
    taken = xp.take(flat, xp.asarray(index.reshape(-1), device=device_of(path)), axis=0)
    return xp.reshape(taken, (paths, length, dimension))


def as_like(array: Array, like: Array) -> Array:
    """Convert an array to the library, device and dtype of another."""
    if type(array) is type(like) and array.dtype == like.dtype:
        return array
    xp = namespace_of(like)
    with np.errstate(all="ignore"):
        if isinstance(array, np.ndarray) and not isinstance(like, np.ndarray):
            array = from_numpy(array.astype(np.float32 if like.dtype == xp.float32 else np.float64), like)
        elif isinstance(like, np.ndarray) and not isinstance(array, np.ndarray):
            array = host(array)
        return array if array.dtype == like.dtype else xp.astype(array, like.dtype)


def host(values: Array) -> npt.NDArray[np.float64]:
    """Copy an array of any library to a NumPy array in float64."""
    values = unrecorded(values)
    here = values if isinstance(values, np.ndarray) else to_numpy(values)
    if here is None:
        here = (
            values.get() if is_cupy(values) else np.asarray(values.cpu().tolist() if hasattr(values, "cpu") else values)
        )
    return here.astype(np.float64)
