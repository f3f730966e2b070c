"""Conversion of time series to paths: arrays in either order of axes, lists, NaN-padded batches, frames, `.ts` files.

The input is split into series, checked, and stacked as paths with valid lengths. Where the shapes allow two readings,
the caller must name the order of the axes.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from branchsig import _validation
from branchsig._arrays import Array, all_finite, as_numpy, device_of, filled, host, namespace_of
from branchsig.operations.transform import padded

__all__ = ["as_paths", "path_list"]

_AXES = {"nlc": "(n, length, channels)", "ncl": "(n, channels, length)", "nl": "(n, length), one channel each"}
"""Axes of a batch by layout; a single series has the same axes without n."""

_LONG = "long"

_INDEXED = (
    "a two-level index (series, time) with the channels as columns, cells that hold whole series, or, with "
    f'layout="{_LONG}", the columns series, time and then the channels'
)
"""The accepted data frames, in words."""


def as_paths(data: Any, *, layout: str | None = None) -> tuple[Array, Array | None]:
    """Convert time series in any usual form to one stack of paths with valid lengths.

    Parameters
    ----------
    data : array, list, pandas.DataFrame, or path of a file
        One of these:

        - an array of three axes of any library; of two axes for series of one channel, with a `layout`;
        - a list of series of any lengths, each an array, a list of lists of numbers, or a frame with a row for each
          point;
        - a pandas data frame: with a two-level index (series, time) and the channels as columns, with a column for each
          of these and ``layout="long"``, or nested, with a series in each cell;
        - the path of a `.ts` file, where aeon or sktime is installed.

        Points that are NaN in all channels, at the end of a series, are padding.
    layout : {"nlc", "ncl", "nl", "long"}, optional
        Order of the axes: ``"nlc"`` for (n, length, channels), and (length, channels) of the series in a list;
        ``"ncl"`` for (n, channels, length), as in aeon and PyTorch; ``"nl"`` for (n, length) of one channel. ``"long"``
        for a frame whose first column names the series and whose second is time. None means ``"nlc"``; if there are
        more channels than points, or an axis is missing, the layout must be given.

    Returns
    -------
    paths : array, shape (n, longest length, channels)
        The paths, float32 if the series are float32 and float64 otherwise, each padded with its last point. An array of
        the library of `data` if that is an array, and of NumPy otherwise. It may share memory with `data`.
    lengths : array of int64, shape (n,), or None
        Their lengths, which the functions for kernels take as `lengths1` and `lengths2`; None if all lengths are equal.

    Raises
    ------
    TypeError
        If the data have an unsupported type, or do not hold numbers.
    ValueError
        If the order of the axes is ambiguous, values other than padding are NaN or infinite, a series has no points, or
        the numbers of channels differ.
    ImportError
        If `data` is a file and neither aeon nor sktime is installed.

    See Also
    --------
    pad_paths : Stacks a list of arrays (length, dimension).

    Notes
    -----
    Series of a long frame or of a two-level index are returned in the order in which they first appear, with their
    points sorted by time. The times themselves are dropped; to keep them, add them as a channel.

    To read the labels of a `.ts` file, use the library that reads the file, ``aeon.datasets.load_from_ts_file`` or
    ``sktime.datasets.load_from_tsfile``.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> data = np.zeros(
    ...     (2, 3, 50)
    ... )  # two series of three channels, as aeon and PyTorch have them
    >>> data[1, :, 30:] = np.nan
    >>> paths, lengths = branchsig.as_paths(data, layout="ncl")
    >>> paths.shape, lengths
    ((2, 50, 3), array([50, 30]))
    >>> series = [np.zeros(4), np.zeros(2)]
    >>> branchsig.as_paths(series, layout="nl")[0].shape
    (2, 4, 1)
    """
    series = path_list(data, layout=layout)
    if not isinstance(series, list):
        return _cut(series)
    counts = [path.shape[0] for path in series]
    paths = padded(series)
    xp = namespace_of(paths)
    return paths, None if min(counts) == max(counts) else xp.asarray(counts, dtype=xp.int64, device=device_of(paths))


def path_list(data: Any, *, layout: str | None = None) -> Any:
    """Convert the data of `as_paths` to a NaN-padded array (n, length, channels) or a list of arrays (length,
    channels)."""
    layout = _checked_layout(layout)
    if isinstance(data, (str, os.PathLike)):
        data, layout = _read(os.fspath(data)), "ncl" if layout is None else layout
    if _is_pandas(data):
        return _of_frame(data, layout)
    if layout == _LONG:
        raise ValueError(f'layout="{_LONG}" with data of type {type(data).__name__}: expected a pandas DataFrame')
    if isinstance(data, np.ma.MaskedArray):
        raise TypeError(
            "data is a masked array: expected a plain array. If the mask marks padding at the end of series, give "
            "data.filled(numpy.nan)"
        )
    if isinstance(data, np.ndarray) and data.dtype == object:
        data = list(data) if data.ndim == 1 else _numbers(data, "data")
    if _validation.is_array(data):
        return _of_array(_numbers(data, "data"), layout)
    if isinstance(data, (list, tuple)):
        return _of_list(data, layout)
    raise TypeError(
        f"data is of type {type(data).__name__}: expected an array, a list of arrays, a pandas DataFrame, or the path "
        "of a .ts file"
    )


def _checked_layout(layout: Any) -> str | None:
    if layout is None or (isinstance(layout, str) and layout in (*_AXES, _LONG)):
        return layout
    meanings = ", ".join(f'"{name}" for {axes}' for name, axes in _AXES.items())
    message = f'layout is {layout!r}: expected None, {meanings}, or "{_LONG}" for a long data frame'
    raise (ValueError if isinstance(layout, str) else TypeError)(message)


def _numbers(array: Array, name: str) -> Array:
    """Convert an array to real numbers: integers, booleans and floats of other sizes become float64."""
    if not isinstance(array, np.ndarray):
        xp = namespace_of(array)
        if array.dtype in (xp.float32, xp.float64):
            return array
        if xp.isdtype(array.dtype, ("integral", "bool")):
            return xp.astype(array, xp.float64)
        raise TypeError(f"{name} has dtype {array.dtype}: expected real numbers")
    if array.dtype.kind == "f" and array.dtype.itemsize in (4, 8):
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind in "biuf":
        return array.astype(np.float64)
    if array.dtype == object:
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError):
            pass
    hint = ". If it holds series and labels, give the series only" if array.dtype.kind in "USO" else ""
    raise TypeError(f"{name} has dtype {array.dtype}: expected real numbers{hint}")


def _of_array(data: Array, layout: str | None) -> Array:
    """Convert an array to (n, length, channels)."""
    xp, shape = namespace_of(data), tuple(int(size) for size in data.shape)
    axes = 2 if layout == "nl" else 3
    if layout is not None and len(shape) != axes:
        raise ValueError(f'data has shape {shape}: expected {axes} axes with layout="{layout}", {_AXES[layout]}')
    if len(shape) == 2:
        if layout is None:
            raise ValueError(
                f"data has shape {shape}, which may be {shape[0]} series of one channel, or one series of {shape[1]} "
                'channels. Give layout="nl" for the former, and data[None] for the latter'
            )
        data = data[:, :, None]
    elif len(shape) != 3:
        raise ValueError(f"data has shape {shape}: expected {_AXES['nlc']}")
    elif layout is None:
        _check_order("data", shape, *shape[1:])
    if layout == "ncl":
        data = xp.permute_dims(data, (0, 2, 1))
    if 0 in data.shape:
        raise ValueError(f"data has shape {shape}: expected at least one series, point and channel")
    return data


def _check_order(name: str, shape: tuple[int, ...], points: int, channels: int) -> None:
    """Raise if an array has more channels than points and no layout."""
    if channels > points:
        raise ValueError(
            f"{name} has shape {shape}, which would be {points} points in {channels} channels: more channels than "
            f'points. Give layout="nlc" if that is so, or layout="ncl" for {channels} points in {points} channels'
        )


def _of_list(data: Sequence[Any], layout: str | None) -> list[Array]:
    """Convert the series of a list to arrays (length, channels) without padding."""
    if not data:
        raise ValueError("data is an empty list: expected at least one series")
    framed = [_is_pandas(one) for one in data]
    if any(framed):
        # The rows of a frame are its points, whatever the layout of arrays.
        data = [one.to_numpy() if is_frame else one for one, is_frame in zip(data, framed)]
        data = [one[:, None] if is_frame and one.ndim == 1 else one for one, is_frame in zip(data, framed)]
    arrays = [_numbers(_as_array(one, f"data[{k}]"), f"data[{k}]") for k, one in enumerate(data)]
    axes = 1 if layout == "nl" else 2
    for k, array in enumerate(arrays):
        if not framed[k] and len(array.shape) != axes:
            raise ValueError(_wrong_axes(k, tuple(array.shape), layout))
    if layout is None and not all(framed):
        _check_orders([tuple(array.shape) for array in arrays])
    paths = []
    for array, is_frame in zip(arrays, framed):
        if not is_frame and layout != "nlc" and layout is not None:
            array = array[:, None] if layout == "nl" else namespace_of(array).permute_dims(array, (1, 0))
        paths.append(array)
    return _together(paths)


def _as_array(one: Any, name: str) -> Array:
    if isinstance(one, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: expected a plain array")
    if _validation.is_array(one):
        return one
    if isinstance(one, (list, tuple)):
        try:
            return np.asarray(one)
        except ValueError:
            raise ValueError(
                f"{name} is a list whose rows are not of one length: expected (length, channels)"
            ) from None
    if hasattr(one, "__array__"):
        return np.asarray(one)
    if one is None or isinstance(one, (int, float, str)):
        raise TypeError(f"{name} is {one!r}: expected a series, an array of shape (length, channels)")
    raise TypeError(f"{name} is of type {type(one).__name__}: expected a series, an array of shape (length, channels)")


def _wrong_axes(k: int, shape: tuple[int, ...], layout: str | None) -> str:
    if len(shape) == 1 and layout is None:
        return f'data[{k}] has shape {shape}: for a list of series of one channel give layout="nl"'
    wanted = _AXES[layout or "nlc"].replace("(n, ", "(").replace(" each", "")
    named = "" if layout is None else f' with layout="{layout}"'
    return f"data[{k}] has shape {shape}: expected {wanted}{named}"


def _check_orders(shapes: list[tuple[int, ...]]) -> None:
    """Raise if the series of a list have, or may have, their channels first and no layout is given."""
    first, last = ({shape[axis] for shape in shapes} for axis in (0, 1))
    if len(last) > 1:
        if len(first) == 1:
            raise ValueError(
                f"the series of data have {min(last)} to {max(last)} columns and {shapes[0][0]} rows each: if rows are "
                'channels give layout="ncl"'
            )
        k = next(k for k, shape in enumerate(shapes) if shape[1] != shapes[0][1])
        raise ValueError(
            f"data[0] has shape {shapes[0]} and data[{k}] {shapes[k]}: expected (length, channels) with the "
            "same number of channels in each"
        )
    if len(first) == 1:
        _check_order("data[0]", shapes[0], *shapes[0])


def _together(paths: list[Array]) -> list[Array]:
    """Check series, convert them to one dtype and remove their padding."""
    channels = paths[0].shape[1]
    for k, path in enumerate(paths):
        if path.shape[1] != channels:
            raise ValueError(
                f"data[{k}] has {path.shape[1]} channels and data[0] has {channels}: expected the same number in each"
            )
        if 0 in path.shape:
            raise ValueError(f"data[{k}] has no points")
    if all(isinstance(path, np.ndarray) for path in paths):
        dtype = np.result_type(*paths)
        paths = [path.astype(dtype, copy=False) for path in paths]
    return [_unpadded(path, f"data[{k}]") for k, path in enumerate(paths)]


def _unpadded(path: Array, name: str) -> Array:
    """Remove the padding of a series (length, channels)."""
    counts = _lengths(path[None, ...], lambda _: name)
    return path if counts is None else path[: int(counts[0]), :]


def _cut(data: Array) -> tuple[Array, Array | None]:
    """Cut an array (n, length, channels) to its longest path, fill the padding, and return the lengths."""
    counts = _lengths(data, lambda k: f"data[{k}]")
    if counts is None:
        return data, None
    longest = int(counts.max())
    paths = filled(data, counts)[:, :longest, :]
    if counts.min() == longest:
        return paths, None
    xp = namespace_of(data)
    return paths, xp.asarray(counts, dtype=xp.int64, device=device_of(data))


def _lengths(data: Array, name: Callable[[int], str]) -> npt.NDArray[np.int64] | None:
    """Lengths of NaN-padded paths (n, length, channels), or None without padding. Raise on other NaN or infinities."""
    if all_finite(data):
        return None
    xp = namespace_of(data)
    finite, gone = _on_host(xp.isfinite(data)), _on_host(xp.isnan(data))
    there: Array = ~gone.all(axis=2)
    length = data.shape[1]
    counts: npt.NDArray[np.int64] = np.where(there.any(axis=1), length - there[:, ::-1].argmax(axis=1), 0)
    wrong = ~finite & (np.arange(length) < counts[:, None])[:, :, None]
    if not counts.all():
        raise ValueError(f"{name(int(np.argmin(counts)))} has no points: all of its values are NaN")
    if wrong.any():
        k, point, channel = (int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
        others = int(wrong.sum()) - 1
        what = "NaN" if gone[k, point, channel] else "infinite"
        raise ValueError(
            f"{name(k)} is {what} at point {point} in channel {channel}"
            + (f", and {others} more values are not finite" if others else "")
            + ". Only points at the end of a series that are NaN in all channels are padding: fill in missing values, "
            "or leave these points out and give the times of the others as a channel"
        )
    return counts


def _on_host(flags: Array) -> Array:
    here = as_numpy(flags)
    return host(namespace_of(flags).astype(flags, namespace_of(flags).float64)) > 0 if here is None else here


def _is_pandas(data: Any) -> bool:
    """Tell whether an object is a pandas DataFrame or Series, without importing pandas."""
    return any(
        base.__module__.partition(".")[0] == "pandas" and base.__name__ in ("DataFrame", "Series")
        for base in type(data).__mro__
    )


def _of_frame(frame: Any, layout: str | None) -> list[Array]:
    if frame.ndim == 1:
        frame = frame.to_frame()
    if 0 in frame.shape:
        raise ValueError(f"data is a frame of shape {tuple(frame.shape)}: expected at least one row and one column")
    levels = frame.index.nlevels
    if layout == _LONG:
        if frame.shape[1] < 3:
            raise ValueError(
                f'layout="{_LONG}" with a frame of columns {list(frame.columns)}: expected a column that names the '
                "series, one of times, and at least one channel"
            )
        series, time, channels = frame.iloc[:, 0], frame.iloc[:, 1], frame.iloc[:, 2:]
        return _grouped(series, time, channels)
    if levels == 2:
        index = frame.index
        return _grouped(index.get_level_values(0), index.get_level_values(1), frame)
    if levels > 2:
        raise ValueError(f"data is a frame with an index of {levels} levels: expected {_INDEXED}")
    if np.ndim(frame.iat[0, 0]):
        return _nested(frame, layout)
    if layout == "nl":
        return [row[:, None] for row in _unpadded_rows(_numbers(frame.to_numpy(), "data"))]
    raise ValueError(
        f"data is a frame of shape {tuple(frame.shape)} with an index of one level: expected {_INDEXED}. For a frame "
        'with a series of one channel in each row give layout="nl"'
    )


def _unpadded_rows(rows: np.ndarray) -> Iterable[np.ndarray]:
    counts = _lengths(rows[:, :, None], lambda k: f"row {k} of data")
    return rows if counts is None else [row[:count] for row, count in zip(rows, counts)]


def _grouped(series: Any, time: Any, channels: Any) -> list[Array]:
    """Split the rows of a frame, each with a series and a time, into paths."""
    import pandas as pd

    values = _numbers(channels.to_numpy(), "data without the columns of series and time")
    codes, names = pd.factorize(series)
    if (codes < 0).any() or pd.isna(time).any():
        what = "series" if (codes < 0).any() else "time"
        row = int(np.argmax(codes < 0) if what == "series" else np.argmax(np.asarray(pd.isna(time))))
        raise ValueError(f"row {row} of data has no {what}: expected the name of a series and a time in every row")
    order = pd.factorize(time, sort=True)[0]
    rows = np.lexsort((order, codes))
    codes, order, values = codes[rows], order[rows], values[rows]
    twice = (codes[1:] == codes[:-1]) & (order[1:] == order[:-1])
    if twice.any():
        row = rows[int(np.argmax(twice)) + 1]
        raise ValueError(
            f"series {names[codes[int(np.argmax(twice))]]!r} of data has two points at one time, the second in row "
            f"{row}: expected one row for each series and time, with the channels as columns"
        )
    paths = np.split(values, np.flatnonzero(np.diff(codes)) + 1)
    return [_unpadded(path, f"series {name!r} of data") for path, name in zip(paths, names)]


def _nested(frame: Any, layout: str | None) -> list[Array]:
    """Paths of a frame with a series in each cell: a row is a path, a column is a channel."""
    if layout not in (None, "ncl"):
        raise ValueError(
            f'layout="{layout}" with a frame whose cells hold series: its rows are paths and its columns are channels. '
            "Leave layout out"
        )
    paths = []
    for k in range(frame.shape[0]):
        cells = [_numbers(np.asarray(cell), f"row {k} of data") for cell in frame.iloc[k]]
        lengths = {cell.shape for cell in cells}
        if len(lengths) > 1 or cells[0].ndim != 1:
            raise ValueError(
                f"row {k} of data has cells of shapes {[cell.shape for cell in cells]}: expected series of one channel "
                "and of one length in all columns"
            )
        paths.append(np.stack(cells, axis=1))
    return _together(paths)


_READERS = (("aeon.datasets", "load_from_ts_file"), ("sktime.datasets", "load_from_tsfile"))


def _read(path: str) -> Any:
    """Read the series of a `.ts` file with whichever library is installed."""
    if not path.endswith(".ts"):
        raise ValueError(f"data is {path!r}: expected the path of a file that ends with .ts")
    if not os.path.exists(path):
        raise FileNotFoundError(f"data is {path!r}, and there is no such file")
    for module, function in _READERS:
        try:
            read = getattr(importlib.import_module(module), function)
        except ImportError:
            continue
        data = read(path)
        return data[0] if isinstance(data, tuple) else data
    raise ImportError("to read a .ts file install aeon or sktime: pip install aeon")
