"""Arrays of any library: their namespace, and the way between them and NumPy.

An array of the array API standard comes in; its namespace, its device, or a NumPy view of its memory goes out.
Everything that is specific to a library, to DLPack or to byte order lives here, so that the rest of the package sees
arrays and nothing else.
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
"""An array of any library of the array API standard. No type describes them all, so the checker sees `Any`."""

ArrayT = TypeVar("ArrayT")
_ArrayT_co = TypeVar("_ArrayT_co", covariant=True)


class Indexable(Protocol[_ArrayT_co]):
    """An array as an argument: a view of it is an array of the same library, of any number of axes.

    A checker that knows the number of axes of a NumPy array so forgets it, and a result has another one.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""

    def __getitem__(self, key: EllipsisType, /) -> _ArrayT_co:
        """The array itself, of any number of axes to the checker."""


Paths = Indexable[ArrayT] | Sequence[Indexable[ArrayT]]
"""A stack of paths, or a list of paths of any lengths, where the result is an array of their library."""

PathsT1 = TypeVar("PathsT1", bound=Indexable[Any] | Sequence[Indexable[Any]])
PathsT2 = TypeVar("PathsT2", bound=Indexable[Any] | Sequence[Indexable[Any]])
"""Paths where the result has their shape, such as a gradient: an array for an array, a list for a list."""

_DLPACK_CPU, _DLPACK_CUDA = 1, 2
_NOT_HANDED_OUT = (AttributeError, BufferError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What the libraries raise that do not hand an array out by DLPack, or have no double precision."""


class _Library(NamedTuple):
    """What the type of an array tells of it."""

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


_libraries: dict[type, _Library] = {np.ndarray: _Library(_namespace_of_numpy(), is_cupy=False, is_torch=False)}


def _library_of(array: Array) -> _Library:
    found = _libraries.get(type(array))
    if found is None:
        if isinstance(array, (np.ndarray, np.generic)):
            return _libraries[np.ndarray]
        namespace = array_api_compat.array_namespace(array)
        kinds = array_api_compat.is_cupy_array(array), array_api_compat.is_torch_array(array)
        found = _libraries[type(array)] = _Library(namespace, *kinds)
    return found


def namespace_of(array: Array) -> Any:
    """Return the array API namespace of an array, which its type alone decides."""
    return _library_of(array).namespace


def is_known(array: Array) -> bool:
    """Tell whether arrays of this very type, and no subclass or scalar of NumPy's, have been seen before."""
    return type(array) in _libraries


def is_cupy(array: Array) -> bool:
    """Tell whether an array is one of CuPy."""
    return _library_of(array).is_cupy


def all_finite(array: Array) -> bool:
    """Tell whether every value is finite."""
    here = as_numpy(array)
    if here is not None:
        return bool(np.count_nonzero(np.isfinite(here)) == here.size)  # faster than all() where there are few
    xp = namespace_of(array)
    return bool(xp.all(xp.isfinite(array)))


def count_true(array: Array) -> int:
    """Return how many entries of an array of truth values are true."""
    here = to_numpy(array)
    if here is not None:
        return int(np.count_nonzero(here))
    xp = namespace_of(array)
    return int(xp.sum(xp.astype(array, xp.int64)))


def device_of(array: Array) -> Any:
    """Return the device an array lies on, in the words of its own library."""
    library = _library_of(array)
    if library.is_cupy or library.is_torch:
        return array.device  # at once
    return array_api_compat.device(array)


def lies_on_cpu(array: Array) -> bool:
    """Tell whether the memory of an array can be read by the CPU through DLPack."""
    return type(array) is np.ndarray or _device_type(array) == _DLPACK_CPU


def lies_on_cuda(array: Array) -> bool:
    """Tell whether the memory of an array is that of a CUDA device, and can be read there through DLPack."""
    return not _says_cpu(array) and _device_type(array) == _DLPACK_CUDA


def _device_type(array: Array) -> int | None:
    library = _library_of(array)
    if library.is_cupy:
        return _DLPACK_CUDA  # it would ask the driver
    try:
        return int(array.__dlpack_device__()[0])
    except _NOT_HANDED_OUT:
        return None


def _says_cpu(array: Array) -> bool:
    """Tell whether PyTorch says, at once, that a tensor lies on the CPU; one of `torch.vmap` does, without memory."""
    return _library_of(array).is_torch and array.device.type == "cpu"


def is_recorded(array: Array) -> bool:
    """Tell whether the library of an array is to differentiate what is done with it by itself (PyTorch): backward, for
    which it records that, or forward, by a tangent that the array carries."""
    torch = sys.modules.get("torch")
    if torch is None or not _library_of(array).is_torch:
        return bool(getattr(array, "requires_grad", False))
    if array.requires_grad and torch.is_grad_enabled():
        return True
    return torch.autograd.forward_ad.unpack_dual(array).tangent is not None


def is_traced(array: Array) -> bool:
    """Tell whether the values of an array are not there: it is traced by its library (`jit`, `vmap`), or lazy (Dask).

    Nothing is computed to find out, and no device waited for, where an array has memory.
    """
    if isinstance(array, np.ndarray) or _has_memory(array):
        return False
    if array_api_compat.is_dask_array(array):
        return True
    try:
        bool(namespace_of(array).any(array != array))
    except Exception:  # every library has errors of its own
        return True
    return False


def _has_memory(array: Array) -> bool:
    """Tell whether an array has memory of its own. A wrapper without any may still have values, as under `grad`."""
    if not _library_of(array).is_torch:
        return _device_type(array) is not None
    try:
        array.data_ptr()  # the tensors of torch.vmap name a device for DLPack all the same
    except RuntimeError:
        return False
    return bool(array.device.type != "meta")


def unrecorded(array: Array) -> Array:
    """Return an array, or a view of it from which no derivatives flow back."""
    return array.detach() if _library_of(array).is_torch else array


def constant(array: Array) -> Array:
    """Return an array of the same values to look at while PyTorch or JAX differentiates what is done with it."""
    if array_api_compat.is_jax_array(array) and not _has_memory(array):
        return sys.modules["jax"].lax.stop_gradient(array)
    return unrecorded(array)


def is_packed(array: np.ndarray) -> bool:
    """Tell whether a NumPy array is C-contiguous and aligned."""
    flags = array.flags
    return bool(flags.c_contiguous and flags.aligned)


def to_numpy(array: Array) -> np.ndarray | None:
    """Return a NumPy view of an array that lies on the CPU, C-contiguous, or None where its library does not hand it
    out.

    Nothing is copied where the memory is contiguous already. The view must not be written to: it may share its memory
    with an array of the caller.
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
    """Return an array of NumPy as it is, and any other one as `to_numpy` does."""
    return array if isinstance(array, np.ndarray) else to_numpy(array)


def to_cupy(array: Array, cupy: Any) -> Array | None:
    """Return a CuPy view of an array that lies on a CUDA device, or None where its library does not hand it out.

    The library of the array waits, on the device, for what it still has to write; nothing is copied.
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

    For NumPy the array itself comes back where it fits already. Other libraries hide their layout, and get their array
    back.
    """
    if isinstance(array, np.ndarray):
        return np.require(array, array.dtype.newbyteorder("="), ["C", "A", "E"])
    return array


def in_float64(array: Array) -> Array:
    """Return an array of float32 in float64, or as it is where its library or device has none (JAX without x64)."""
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
    """Return weights times values, and 0 where a weight is 0, whatever the value: 0 · inf is not to make NaN of it.

    Where values are finite it is their product, so that it may be differentiated with respect to the weights.
    """
    product = weights * values
    xp = namespace_of(product)
    return xp.where((weights == 0) & ~xp.isfinite(values), xp.zeros_like(product), product)


def filled(path: Array, lengths: np.ndarray | None) -> Array:
    """Return padded paths (paths, length, dimension) with the last valid point in the place of every padded one.

    What lies behind the valid points is not read. Without lengths the paths come back as they are.
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
    """Return an array in the library, on the device, and in the dtype of another."""
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
    """Return an array of any library as one of NumPy in float64."""
    values = unrecorded(values)
    here = values if isinstance(values, np.ndarray) else to_numpy(values)
    if here is None:
        here = (
            values.get() if is_cupy(values) else np.asarray(values.cpu().tolist() if hasattr(values, "cpu") else values)
        )
    return here.astype(np.float64)
