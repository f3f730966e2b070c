"""Series and labels in files: arrays of NumPy, tables, `.ts` files and Zarr arrays."""

from __future__ import annotations

import csv
import importlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import branchsig

__all__ = ["ENDINGS", "FileError", "Series", "read", "read_labels"]

ENDINGS = (".npy", ".npz", ".csv", ".ts", ".zarr")

_MISSING = ("", "nan", "NaN", "NA")


class FileError(Exception):
    """A file cannot be read as series: the message names the file and says what it must hold."""


class Series(NamedTuple):
    """The series of a file."""

    paths: Any
    """A stack of paths, (n, length, channels)."""
    lengths: np.ndarray | None
    """Valid lengths, where they differ."""
    labels: np.ndarray | None
    """A label for each, where the file has them."""

    @property
    def words(self) -> str:
        """Their number, lengths and channels, for people."""
        n, length, channels = self.paths.shape
        lengths = f"{length}" if self.lengths is None else f"{min(self.lengths)} to {length}"
        return f"{n} series of {lengths} points in {channels} channel{'' if channels == 1 else 's'}"


def read(name: str, layout: str | None, labels: str | None = None) -> Series:
    """Read the series of a file, and labels from it if it has any.

    Parameters
    ----------
    name : str
        The file: `.npy` with an array of series; `.npz` with an array "paths", or a single one, and perhaps "lengths"
        and "labels"; `.csv`, a table with a header whose columns are series, time, and then the channels; `.ts`, by
        aeon or sktime; `.zarr`, an array.
    layout : str or None
        As `branchsig.as_paths` takes it.
    labels : str or None
        For a `.csv` file the column with the labels.

    Raises
    ------
    FileError
        If there is no such file, or it holds something else.
    """
    file = Path(name)
    if file.suffix not in _READERS:
        raise FileError(f"{name}: expected a file that ends with one of {', '.join(ENDINGS)}")
    if not file.exists():
        raise FileError(f"{name}: there is no such file")
    try:
        data, lengths, found, known = _READERS[file.suffix](file, labels)
        paths, of_paths = branchsig.as_paths(data, layout=layout or known)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise FileError(f"{name}: {error}") from error
    if lengths is not None:
        of_paths = np.asarray(lengths)
    if found is not None and len(found) != len(paths):
        raise FileError(f"{name}: {len(found)} labels for {len(paths)} series")
    return Series(paths, None if of_paths is None else np.asarray(of_paths), found)


def _npy(file: Path, _labels: str | None) -> Any:
    return np.load(file, allow_pickle=False), None, None, None


def _npz(file: Path, _labels: str | None) -> Any:
    with np.load(file, allow_pickle=False) as arrays:
        names = [name for name in arrays.files if name not in ("lengths", "labels")]
        name = "paths" if "paths" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise ValueError(f'it holds the arrays {", ".join(arrays.files)}: expected one named "paths"')
        lengths, labels = (arrays[key] if key in arrays.files else None for key in ("lengths", "labels"))
        return arrays[name], lengths, labels, None


def _zarr(file: Path, _labels: str | None) -> Any:
    try:
        import zarr
    except ImportError:
        raise ValueError("to read it install Zarr 3: pip install 'branchsig[zarr]'") from None
    return zarr.open_array(file, mode="r")[...], None, None, None


def _csv(file: Path, labels: str | None) -> Any:
    with file.open(newline="") as lines:
        rows = csv.reader(lines)
        header = next(rows, [])
        if labels is not None and labels not in header[2:]:
            raise ValueError(f"it has no column {labels!r} behind the first two: its columns are {', '.join(header)}")
        place = None if labels is None else header.index(labels)
        channels = [k for k in range(2, len(header)) if k != place]
        if not channels:
            raise ValueError(
                "expected a table with a header, whose first column names the series, whose second is time, and whose "
                f"others are channels; its columns are {', '.join(header)}"
            )
        points: dict[str, list[tuple[float, list[float]]]] = {}
        found: dict[str, str] = {}
        for number, row in enumerate(rows, start=2):
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(f"line {number} has {len(row)} fields: expected {len(header)}, as in the header")
            time = _number(row[1], number, header[1])
            values = [_number(row[k], number, header[k]) for k in channels]
            points.setdefault(row[0], []).append((time, values))
            if place is not None and found.setdefault(row[0], row[place]) != row[place]:
                raise ValueError(f"line {number}: series {row[0]} has two labels, {found[row[0]]} and {row[place]}")
    if not points:
        raise ValueError("it has no rows below the header")
    series = [np.array([values for _, values in sorted(of, key=lambda point: point[0])]) for of in points.values()]
    return series, None, np.array(list(found.values())) if found else None, "nlc"


def _number(text: str, line: int, column: str) -> float:
    if text.strip() in _MISSING:
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"line {line}, column {column}: {text!r} is not a number") from None


def _ts(file: Path, _labels: str | None) -> Any:
    for module, function in (
        ("aeon.datasets", "load_from_ts_file"),
        ("sktime.datasets", "load_from_tsfile_to_dataframe"),
    ):
        try:
            load = getattr(importlib.import_module(module), function)
        except ImportError:
            continue
        data = load(str(file))
        series, labels = data[:2] if isinstance(data, tuple) else (data, None)
        return series, None, None if labels is None else np.asarray(labels), "ncl" if module[:4] == "aeon" else None
    raise ValueError("to read it install aeon or sktime: pip install aeon")


_READERS: dict[str, Any] = {".npy": _npy, ".npz": _npz, ".csv": _csv, ".ts": _ts, ".zarr": _zarr}


def read_labels(name: str) -> np.ndarray:
    """Read a file with one label per series: an array of NumPy, or a line for each."""
    file = Path(name)
    if not file.exists():
        raise FileError(f"{name}: there is no such file, nor a column of that name in a .csv file of series")
    if file.suffix == ".npy":
        return np.asarray(np.load(file, allow_pickle=False)).reshape(-1)
    return np.array([line.strip() for line in file.read_text().splitlines() if line.strip()])
