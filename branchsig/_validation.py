"""Checks of the arguments of public functions.

Each function checks one argument and returns it in the form that the rest of the package uses: numbers as int and
float, paths as C-contiguous stacks ``(batch, length, dimension)`` in native byte order. An invalid argument raises a
TypeError or a ValueError that names the argument, what it was, what it must be and what to do. Each function has a fast
path for plain NumPy arrays and handles rarer cases after it.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import array_api_compat
import numpy as np
import numpy.typing as npt

from branchsig._arrays import (
    Array,
    contiguous,
    device_of,
    is_known,
    is_packed,
    is_traced,
    lies_on_cpu,
    lies_on_cuda,
    namespace_of,
    only_bound,
    to_numpy,
)
from branchsig.quadrature import BY_NAME, Quadrature
from branchsig.static_kernels import LINEAR, StaticKernel

Progress = bool | Callable[[int, int], None]
"""Accepted values of `progress`."""

_INT64_MAX = 2**63 - 1
_FLOAT64 = np.dtype(np.float64)
_FLOAT32 = np.dtype(np.float32)
_UNCHECKED_BYTES = 2**26
"""Results up to this size in bytes are not compared with the available memory."""

_LARGEST_ORDER = 62
"""Largest dyadic order for which the nodes of a grid can be counted in 64 bits."""


def _integer(value: Any, name: str, wanted: str) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {value!r}: expected {wanted}, not a truth value")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}: expected {wanted}, as an integer") from None


def depth(value: Any) -> float:
    """Check the depth: an integer, at least 0, or `math.inf`."""
    if type(value) is not int:
        if isinstance(value, (float, np.floating)) and value == math.inf:
            return math.inf
        value = _integer(value, "depth", "an integer >= 0 or math.inf")
    if value < 0:
        raise ValueError(f"depth is {value}: expected an integer >= 0, the largest depth of the trees, or math.inf")
    return value  # type: ignore[no-any-return]


def _none_or_integer(value: Any, name: str, least: int, meaning: str) -> int | None:
    if value is None:
        return None
    wanted = f"None or an integer >= {least}"
    number = _integer(value, name, wanted)
    if number < least:
        raise ValueError(f"{name} is {number}: expected {wanted}, {meaning}")
    return number


def order(value: Any) -> int | None:
    """Check the order: None, or an integer, at least 0."""
    return _none_or_integer(value, "order", 0, "the largest number of nodes of a forest")


def dyadic_order(value: Any) -> tuple[int, int]:
    """Check the dyadic order: an integer, or a pair of integers, at least 0."""
    if type(value) is int and 0 <= value <= _LARGEST_ORDER:
        return value, value
    wanted = "an integer >= 0 or a pair of them"
    if isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.ndim == 1):
        if len(value) != 2:
            raise ValueError(
                f"dyadic_order is {value!r}, of length {len(value)}: expected {wanted}, one for path1 and one for path2"
            )
        orders = tuple(_integer(order, "dyadic_order", wanted) for order in value)
    else:
        orders = (_integer(value, "dyadic_order", wanted),) * 2
    for order in orders:
        if order < 0:
            raise ValueError(f"dyadic_order is {value!r}: expected {wanted}")
        if order > _LARGEST_ORDER:
            raise ValueError(
                f"dyadic_order is {value!r}: a grid of 2**{order} nodes overflows 64 bits; "
                "expected an order of a few units, each of which doubles the nodes along a path"
            )
    return orders[0], orders[1]


def flag(value: Any, name: str) -> bool:
    """Check a flag: True or False."""
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(f"{name} is {value!r}: expected True or False")


def normalize(value: Any) -> bool | str:
    """Check the normalisation: False, True for unit norm, or "dilation"."""
    if isinstance(value, str):
        if value == "dilation":
            return value
        raise ValueError(f'normalize is {value!r}: expected False, True or "dilation"')
    return flag(value, "normalize")


def target(value: Any) -> float:
    """Check the target of a dilation, the logarithm of self-kernels: a finite number above 0."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"target is {value!r}: expected a finite number > 0")
    number = float(value)
    if not (math.isfinite(number) and number > 0.0):
        raise ValueError(f"target is {value!r}: expected a finite number > 0, the logarithm of k(x, x)")
    return number


def room(value: Any) -> float:
    """Check by how much logarithms of prefixes may exceed the target: a finite number above 0."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"room is {value!r}: expected a finite number > 0")
    number = float(value)
    if not (math.isfinite(number) and number > 0.0):
        raise ValueError(f"room is {value!r}: expected a finite number > 0, which is added to the target")
    return number


def method(value: Any) -> str:
    """Check the method of dilation: "solve" or "guard"."""
    if value not in ("solve", "guard"):
        raise ValueError(f'method is {value!r}: expected "solve" or "guard"')
    return str(value)


def lam(value: Any) -> float:
    """Check the weight of a mean."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"lam is {value!r}: expected a number") from None


def rtol(value: Any) -> float | None:
    """Check the tolerance: None, or a number above 0 and below 1."""
    if value is None:
        return None
    wanted = "expected None or a relative error above 0 and below 1, such as 1e-8"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"rtol is {value!r}: {wanted}")
    number = float(value)
    if not 0.0 < number < 1.0:
        raise ValueError(f"rtol is {value!r}: {wanted}")
    return number


def static_kernel(value: Any) -> StaticKernel:
    """Check the static kernel: None for the linear one, or an instance of a subclass of `StaticKernel`."""
    if value is None:
        return LINEAR
    if isinstance(value, StaticKernel):
        return value
    if isinstance(value, type) and issubclass(value, StaticKernel):
        raise TypeError(
            f"static_kernel is the class {value.__name__}: expected an instance, such as {value.__name__}(...)"
        )
    raise TypeError(
        f"static_kernel is {value!r}: expected None or an instance of a subclass of branchsig.StaticKernel, "
        "such as branchsig.RBFKernel(sigma=1.0)"
    )


def quadrature(value: Any) -> Quadrature:
    """Check the rule for the integral over a cell: one of the rules, or its name."""
    if isinstance(value, Quadrature):
        return BY_NAME["trapezoid"] if value == BY_NAME["trapezoid"] else value
    if isinstance(value, str):
        if value in BY_NAME:
            return BY_NAME[value]
        raise ValueError(f"quadrature is {value!r}: expected one of {', '.join(map(repr, BY_NAME))}")
    if isinstance(value, type) and issubclass(value, Quadrature):
        raise TypeError(f"quadrature is the class {value.__name__}: expected an instance, such as GaussLobatto(2)")
    raise TypeError(f"quadrature is {value!r}: expected a rule such as branchsig.GaussLobatto(2), or its name")


def end_time(value: Any) -> float:
    """Check the end time: a finite number above 0."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"end_time is {value!r}: expected a finite number > 0")
    number = float(value)
    if not (math.isfinite(number) and number > 0.0):
        raise ValueError(f"end_time is {value!r}: expected a finite number > 0, the time of the last point")
    return number


def end_time_in_range(value: float, path: Array) -> None:
    """Check that the end time is a number > 0 in the dtype of the paths too."""
    limits = namespace_of(path).finfo(path.dtype)
    if not float(limits.smallest_normal) <= value <= float(limits.max):
        raise ValueError(
            f"end_time is {value!r}, and the paths have dtype {path.dtype}: expected a time from "
            f"{float(limits.smallest_normal):.1e} to {float(limits.max):.1e}, the range of that dtype. Use another "
            "unit of time, or paths of float64"
        )


def end_time_is_used(value: float, time_aug: bool) -> None:
    """Check that an end time comes with `time_aug`."""
    if value != 1.0 and not time_aug:
        raise ValueError(
            f"end_time is {value!r} and time_aug is False: no time is appended to the paths. Give time_aug=True, or "
            "leave end_time out"
        )


def end_time_or_times(end_time: float) -> None:
    """Check that an end time is not given together with times."""
    if end_time != 1.0:
        raise ValueError(f"end_time is {end_time!r} and times are given, which include it. Leave end_time out")


def times(value: Any, name: str, path: Array, path_name: str) -> None:
    """Check the times of the points of checked paths."""
    _real_array(value, name)
    _same_kind(value, name, path, path_name)
    shape, wanted = tuple(value.shape), tuple(path.shape[:-1])
    if shape not in (wanted, wanted[-1:]):
        also = f", or {wanted[-1:]} for the points of all paths" if len(wanted) > 1 else ""
        raise ValueError(f"{name} has shape {shape}: expected {wanted}, a time for each point of {path_name}{also}")


def times_of_list(value: Any, name: str, paths: Sequence[Array], paths_name: str) -> None:
    """Check that the times of a list of paths are a list of the same length."""
    if not is_ragged(value):
        raise TypeError(
            f"{name} is of type {type(value).__name__}, and {paths_name} is a list: expected a list of {len(paths)} "
            "arrays, the times of the points of each path"
        )
    if len(value) != len(paths):
        raise ValueError(f"{name} is a list of {len(value)} arrays: expected {len(paths)}, as many as {paths_name}")


def n_jobs(value: Any) -> int:
    """Check the number of threads, None as 1, and return it as joblib counts: -1 for all cores, -2 for all but one."""
    if type(value) is int and value > 0:
        return value
    count = 1 if value is None else _integer(value, "n_jobs", "a number of threads, or -1 for all cores")
    if count == 0:
        raise ValueError("n_jobs is 0: expected a number of threads >= 1, or -1 for all cores, -2 for all but one")
    return count


def threads(count: int) -> int:
    """Return the number of threads on this machine that a checked `n_jobs` stands for."""
    return count if count > 0 else max(1, _cores() + 1 + count)


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def max_batch(value: Any) -> int:
    """Check the side of the blocks of a Gram matrix: an integer above 0, or -1 for no limit."""
    side = _integer(value, "max_batch", "an integer >= 1, or -1 for no limit")
    if side < -1 or side == 0:
        raise ValueError(f"max_batch is {side}: expected an integer >= 1, or -1 for no limit")
    return side


def dimension(value: Any) -> int | None:
    """Check a number of channels: None for any, or an integer, at least 1."""
    return _none_or_integer(value, "dimension", 1, "the number of channels of the paths")


def devices(value: Any) -> tuple[int, ...] | None:
    """Check the CUDA devices that a Gram matrix is spread over: different integers from 0 on, or None."""
    if value is None:
        return None
    wanted = "a sequence of different integers >= 0, the numbers of CUDA devices"
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"devices is {value!r}: expected {wanted}")
    numbers = tuple(_integer(number, "devices", wanted) for number in value)
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise ValueError(f"devices is {value!r}: expected {wanted}")
    return numbers


def devices_of_paths(devices: tuple[int, ...] | None, paths: Array) -> None:
    """Check that paths which several CUDA devices are to share lie on one."""
    if devices and not lies_on_cuda(paths):
        raise ValueError(
            f"devices is {list(devices)!r}, and the paths do not lie on a CUDA device: move them there, as arrays of "
            "CuPy, or leave devices out"
        )


def check_finite(value: Any) -> bool | None:
    """Check `check_finite`: True, False, or None for checks on the CPU only."""
    return None if value is None else flag(value, "check_finite")


def progress(value: Any) -> Progress:
    """Check `progress`: False, True for a bar, or a callable."""
    if value is None or isinstance(value, (bool, np.bool_)):
        return bool(value)
    if callable(value):
        return value  # type: ignore[no-any-return]
    raise TypeError(
        f"progress is {value!r}: expected False, True for a bar, or a callable of (pairs done, pairs in all)"
    )


def _is_common(array: Any) -> bool:
    """Tell whether an array is a plain NumPy array of a real type in native byte order."""
    return type(array) is np.ndarray and (array.dtype is _FLOAT64 or array.dtype is _FLOAT32)


def _unmasked(array: Any, name: str) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: expected a plain array; fill in masked entries, or leave them out")


def _real_array(array: Any, name: str) -> None:
    """Check that an argument is an array of an array API library, of dtype float32 or float64."""
    if is_known(array) and (array.dtype is _FLOAT64 or array.dtype is _FLOAT32):
        return
    _unmasked(array, name)
    if not is_array(array):
        if array is None and name == "path2":
            remedy = "to pair paths with themselves pass them twice; only a Gram matrix takes path2=None for that"
        else:
            remedy = f"convert it with numpy.asarray({name}, dtype=float)"
        if isinstance(array, (list, tuple)) and not name.startswith(("derivs", "k_", "times")):
            remedy += ", or for paths of different lengths give a list of arrays of shape (length, dimension)"
        wanted = "expected an array of NumPy or another array API library"
        raise TypeError(f"{name} is of type {type(array).__name__}: {wanted}; {remedy}")
    only_bound(array, name)
    if isinstance(array, np.ndarray):
        dtype = array.dtype
        if dtype.kind == "f" and dtype.itemsize in (4, 8):
            return
    else:
        xp = namespace_of(array)
        if array.dtype == xp.float64 or array.dtype == xp.float32:
            return
    raise TypeError(f"{name} has dtype {array.dtype}: expected float32 or float64; convert it to one of them")


def _path(path: Any, name: str) -> None:
    """Check one path, or one stack of paths."""
    _real_array(path, name)
    shape = path.shape
    if len(shape) < 2 or shape[-2] == 0 or shape[-1] == 0:
        raise ValueError(
            f"{name} has shape {tuple(shape)}: expected (..., length, dimension) with length >= 1 and dimension >= 1"
            + ("; give a path of one channel the shape (length, 1)" if len(shape) == 1 else "")
        )


def _same_kind(array: Array, name: str, like: Array, like_name: str) -> None:
    """Check that two arrays share their library, dtype and device."""
    if type(array) is not type(like) or array.dtype is not like.dtype:
        if namespace_of(array) is not namespace_of(like):
            raise TypeError(
                f"{name} is an array of {_library(array)} and {like_name} of {_library(like)}: expected one library; "
                "convert one of them"
            )
        if _native(array.dtype) != _native(like.dtype):
            raise TypeError(
                f"{name} has dtype {array.dtype} and {like_name} has dtype {like.dtype}: "
                "expected one dtype; convert one of them"
            )
    if isinstance(array, np.ndarray):
        return
    devices = device_of(array), device_of(like)
    if None not in devices and devices[0] != devices[1]:  # a traced array has no device yet
        raise ValueError(
            f"{name} lies on device {device_of(array)} and {like_name} on {device_of(like)}: "
            "expected one device; move one of them"
        )


def _library(array: Array) -> str:
    return type(array).__module__.partition(".")[0]


def _native(dtype: Any) -> Any:
    return dtype.newbyteorder("=") if isinstance(dtype, np.dtype) else dtype


def _stacked(path: Array) -> Array:
    """Return a path as a stack (batch, length, dimension), C-contiguous and in native byte order."""
    if _is_common(path) and path.ndim == 3 and is_packed(path):
        return path
    shape, path = path.shape, contiguous(path)
    if len(shape) == 3:
        return path
    return namespace_of(path).reshape(path, (math.prod(shape[:-2]), shape[-2], shape[-1]))


def paired_paths(path1: Any, path2: Any) -> tuple[Array, Array, tuple[int, ...]]:
    """Check the paths of a function that pairs them; return both as stacks, and their common batch shape."""
    _path(path1, "path1")
    _path(path2, "path2")
    _same_kind(path2, "path2", path1, "path1")
    shape1, shape2 = path1.shape, path2.shape
    if shape1[-1] != shape2[-1]:
        raise ValueError(_different_dimensions(shape1, shape2))
    batch = shape1[:-2]
    if batch != shape2[:-2]:
        raise ValueError(
            f"path1 has batch shape {tuple(batch)} and path2 {tuple(shape2[:-2])}: expected equal batch shapes; "
            "use numpy.broadcast_to, or branched_sig_kernel_gram for all pairs"
        )
    x = _stacked(path1)
    return x, x if path2 is path1 else _stacked(path2), tuple(batch)


def gram_paths(
    path1: Any, path2: Any, name1: str = "path1", name2: str = "path2"
) -> tuple[Array, Array, tuple[int, ...]]:
    """Check the paths of a Gram matrix; return both as stacks (one object for one batch), and its shape."""
    _path(path1, name1)
    x = _stacked(path1)
    batch = tuple(path1.shape[:-2])
    if path2 is None or path2 is path1:
        return x, x, batch + batch
    _path(path2, name2)
    _same_kind(path2, name2, path1, name1)
    if path1.shape[-1] != path2.shape[-1]:
        raise ValueError(_different_dimensions(path1.shape, path2.shape, name1, name2))
    return x, _stacked(path2), batch + tuple(path2.shape[:-2])


def samples(sample1: Any, sample2: Any, name1: str, name2: str, *, single: bool) -> tuple[Array, Array]:
    """Check two samples of paths; return both as stacks, the same object if the samples are.

    With `single`, the second may be one path: an observation instead of a sample.
    """
    if sample2 is None:
        raise TypeError(f"{name2} is None: expected an array of paths")
    x, y, _ = gram_paths(sample1, sample2, name1, name2)
    for sample, stack, name, alone in ((sample1, x, name1, False), (sample2, y, name2, single)):
        shape = tuple(sample.shape)
        if len(shape) < 3 and not alone:
            raise ValueError(
                f"{name} has shape {shape}, which is that of one path: expected a sample, (*batch, length, dimension). "
                f"Give paths of one channel as {name}[:, :, None], a sample of one path as {name}[None]"
            )
        if stack.shape[0] == 0:
            raise ValueError(f"{name} has shape {shape} and holds no paths: expected at least one")
    return x, y


def same_dimension(path1: Any, path2: Any, name1: str, name2: str) -> None:
    """Check that arrays of paths have as many channels, before anything is joined to them."""
    shape1, shape2 = tuple(getattr(path1, "shape", ())), tuple(getattr(path2, "shape", ()))
    known = all(shape and isinstance(shape[-1], int) for shape in (shape1, shape2))
    if known and shape1[-1] != shape2[-1]:
        raise ValueError(_different_dimensions(shape1, shape2, name1, name2))


def _different_dimensions(
    shape1: tuple[int, ...], shape2: tuple[int, ...], name1: str = "path1", name2: str = "path2"
) -> str:
    return (
        f"{name1} has shape {tuple(shape1)} and {name2} {tuple(shape2)}: expected (..., length, dimension) "
        f"with one dimension, not {shape1[-1]} and {shape2[-1]}"
    )


def lengths(value: Any, name: str, path: Array) -> npt.NDArray[np.int64] | None:
    """Check the valid lengths of padded paths; return them with one axis, or None if no lengths are given.

    The result is a copy, since pullbacks keep it.
    """
    if value is None:
        return None
    batch, length = tuple(path.shape[:-2]), path.shape[-2]
    _unmasked(value, name)
    if isinstance(value, (list, tuple, int, np.integer)):
        array = np.asarray(value)
    else:
        if not isinstance(value, np.ndarray) and not array_api_compat.is_array_api_obj(value):
            raise TypeError(f"{name} is of type {type(value).__name__}: expected an array of integers, or None")
        on_host = value if isinstance(value, np.ndarray) else to_numpy(value)
        array = np.asarray([int(entry) for entry in value]) if on_host is None else on_host
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} has dtype {array.dtype}: expected integers, the valid length of every path")
    if array.shape != batch:
        raise ValueError(f"{name} has shape {array.shape}: expected {batch}, the batch shape of the paths")
    if array.size and (array.min() < 1 or array.max() > length):
        raise ValueError(
            f"{name} has values from {array.min()} to {array.max()}: expected from 1 to {length}, the number of points"
        )
    return np.array(array, dtype=np.int64).reshape(-1)


def values_at_hand(array: Array, name: str, depth: float, order: int | None, rtol: float | None) -> None:
    """Check that an array has values, if the options need an iteration that reads them."""
    if type(array) is np.ndarray:
        return
    if rtol is not None:
        option, remedy = f"rtol is {rtol:g}", 'leave rtol out and name a rule, such as quadrature="lobatto4"'
    elif depth == math.inf and order is None:
        option, remedy = "depth is math.inf", "give a finite depth, or an order"
    else:
        return
    if is_traced(array):
        raise ValueError(
            f"{option}, and {name} is traced or lazy (a {type(array).__name__} of {_library(array)}): this option "
            f"reads values, which do not exist yet. {remedy[0].upper()}{remedy[1:]}, or call with arrays that have "
            "values, outside of jit, vmap or compile, or after compute()"
        )


def not_traced(function: str, remedy: str, *operands: Any) -> None:
    """Check that operands, or paths of lists, have values, for a function that is no operation inside of programs."""
    for operand in operands:
        for array in operand if isinstance(operand, (list, tuple)) else (operand,):
            if type(array) is not np.ndarray and is_array(array) and is_traced(array):
                raise TypeError(
                    f"{function} of a {type(array).__name__} of {_library(array)}, which is traced or lazy: its values "
                    f"are not there yet. {remedy}, or call it with arrays that have values: outside of jit, vmap or "
                    "compile, or after compute()"
                )


def is_array(value: Any) -> bool:
    """Tell whether a value is an array, not a scalar, of an array API library."""
    return isinstance(value, np.ndarray) or (
        not isinstance(value, np.generic) and array_api_compat.is_array_api_obj(value)
    )


def is_ragged(paths: Any) -> bool:
    """Tell whether an argument is a list or tuple of arrays, rather than of numbers or points."""
    return isinstance(paths, (list, tuple)) and (not paths or any(is_array(path) for path in paths))


def ragged_paths(paths: Any, name: str) -> None:
    """Check a sequence of single paths of any lengths."""
    if is_array(paths) or not isinstance(paths, Sequence):
        what = "an array" if hasattr(paths, "shape") else f"of type {type(paths).__name__}"
        raise TypeError(f"{name} is {what}: expected a list of paths, each an array of shape (length, dimension)")
    if not paths:
        raise ValueError(f"{name} is empty: expected at least one path of shape (length, dimension)")
    first = f"{name}[0]"
    for k, path in enumerate(paths):
        name_of_path = f"{name}[{k}]"
        _path(path, name_of_path)
        _same_kind(path, name_of_path, paths[0], first)
        if path.ndim != 2 or path.shape[1] != paths[0].shape[1]:
            raise ValueError(
                f"{name_of_path} has shape {tuple(path.shape)}: expected (length, dimension)"
                + (f" with dimension {paths[0].shape[-1]}, that of the first" if path.ndim == 2 else "")
            )


def single_path(path: Any, name: str = "path") -> None:
    """Check a single path or stack of paths."""
    _path(path, name)


def grid_shape(length1: int, length2: int, orders: tuple[int, int]) -> tuple[int, int]:
    """Return the numbers of nodes along both paths, and check that the nodes of the grid can be counted in 64 bits."""
    size1 = ((length1 - 1) << orders[0]) + 1
    size2 = ((length2 - 1) << orders[1]) + 1
    if size1 * size2 > _INT64_MAX:
        raise ValueError(
            f"dyadic_order is {orders}: with lengths {length1} and {length2} a grid has {size1} by {size2} nodes, "
            "which overflows 64 bits; lower the dyadic order"
        )
    return size1, size2


def same_shape(array: Any, name: str, shape: tuple[int, ...], like: Array, like_name: str) -> Array:
    """Check derivatives or grids against the shape they must have; return them C-contiguous, in native byte order."""
    if type(array) is np.ndarray and array.dtype is like.dtype and array.shape == shape and is_packed(array):
        return array
    if isinstance(array, np.generic):
        if isinstance(like, np.ndarray):
            array = np.asarray(array)  # NumPy turns 0-d arrays into scalars in arithmetic
    elif isinstance(array, (int, float)) and not isinstance(array, bool) and shape == ():
        array = namespace_of(like).full((), float(array), dtype=like.dtype, device=device_of(like))
    _real_array(array, name)
    _same_kind(array, name, like, like_name)
    if tuple(array.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(array.shape)}: expected {shape}")
    return contiguous(array)


def fits_memory(shape: tuple[int, ...], like: Array, what: str, remedy: str) -> None:
    """Check that a result fits the memory of the machine, before it is allocated.

    Raises
    ------
    MemoryError
        If it is larger than the available memory. Nothing is checked if that is unknown, or on other devices.
    """
    items = math.prod(shape)
    if items * 8 <= _UNCHECKED_BYTES or not (isinstance(like, np.ndarray) or lies_on_cpu(like)):
        return
    itemsize = 4 if like.dtype == namespace_of(like).float32 else 8
    bytes_fit_memory(items * itemsize, f"{what} of shape {shape}", lambda: remedy)


def bytes_fit_memory(size: int, what: str, remedy: Callable[[], str]) -> None:
    """Check that `size` bytes fit in the available memory, if that is known."""
    if size <= _UNCHECKED_BYTES:
        return
    available = _available_memory()
    if available is not None and size > available:
        raise MemoryError(
            f"{what} takes {size / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB are available: {remedy()}"
        )


def _available_memory() -> int | None:
    """Bytes of memory available to a process, or None if the system does not report them."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
