"""Transformations of paths (base point, lead-lag, time), their gradients, and padding to one length."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from branchsig import _validation
from branchsig._arrays import Array, ArrayT, Indexable, PathsT1, contiguous, device_of, namespace_of
from branchsig.operations import OPERATIONS
from branchsig.operations.timed import Split, timed, with_times
from branchsig.operations.transform import padded, transformed_adjoint
from branchsig.spec import Execution, Spec, Transforms, options_of

__all__ = ["pad_paths", "transform_path", "transform_path_backprop", "transform_path_vjp"]

_TRANSFORM = OPERATIONS["transform_path"]


def transform_path(
    path: PathsT1,
    *,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    base_point: bool = False,
    n_jobs: int | None = 1,
    times: Any = None,
) -> PathsT1:
    r"""Append time to paths, and apply the lead-lag transform.

    Parameters
    ----------
    path : array, shape (..., length, dimension)
        Paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    time_aug : bool, default: False
        Append time as the last channel, linear from 0 to `end_time`.
    lead_lag : bool, default: False
        Replace a path by its lead-lag transform, before time is appended.
    end_time : float, default: 1.0
        Time of the last point, in the unit of time of the paths. Only with `time_aug`.
    base_point : bool, default: False
        Prepend the point 0 to every path, at the time of its first point and before lead-lag.
    n_jobs : int or None, default: 1
        Checked, but without effect: copying points is bound by memory bandwidth.
    times : array, shape (..., length), optional
        Times of the points. They become the last channel instead of evenly spaced time, with or without `time_aug`, and
        exclude `end_time`. Shape (length,) gives all paths the same times; a list of paths takes a list of arrays.
        Points that lead-lag inserts lie halfway between two times. The gradient with respect to `times` follows that
        with respect to the paths.

    Returns
    -------
    array, shape (..., length', dimension')
        A new array, with the library, dtype and device of `path`. `lead_lag` makes of length and dimension
        ``2 * length - 1`` and ``2 * dimension``, `time_aug` adds a channel. For a list of paths a list of arrays.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.

    See Also
    --------
    transform_path_backprop : The adjoint.

    Notes
    -----
    The channels of the lead-lag transform are those of the lag, then those of the lead:

    .. math:: (x_0, x_0), (x_0, x_1), (x_1, x_1), (x_1, x_2), (x_2, x_2), \ldots

    The functions for kernels take the same options and transform the paths they are given.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> path = np.array([[1.0], [2.0], [4.0]])
    >>> branchsig.transform_path(path, time_aug=True, lead_lag=True)
    array([[1.  , 1.  , 0.  ],
           [1.  , 2.  , 0.25],
           [2.  , 2.  , 0.5 ],
           [2.  , 4.  , 0.75],
           [4.  , 4.  , 1.  ]])
    """
    spec, how = _checked(time_aug, lead_lag, end_time, base_point, n_jobs)
    values = [timed(_TRANSFORM, at).value(spec, how, one) for one, at in _each(path, times, "path")]
    return cast(PathsT1, values if _validation.is_ragged(path) else values[0])


def transform_path_vjp(
    path: PathsT1,
    *,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    base_point: bool = False,
    n_jobs: int | None = 1,
    times: Any = None,
) -> tuple[PathsT1, Callable[[PathsT1], PathsT1]]:
    """Append time to paths, apply the lead-lag transform, and return the function that takes derivatives back.

    Parameters
    ----------
    path : array, shape (..., length, dimension)
        Paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    time_aug : bool, default: False
        Append time as the last channel, linear from 0 to `end_time`.
    lead_lag : bool, default: False
        Replace a path by its lead-lag transform, before time is appended.
    end_time : float, default: 1.0
        Time of the last point, in the unit of time of the paths. Only with `time_aug`.
    base_point : bool, default: False
        Prepend the point 0 to every path, at the time of its first point and before lead-lag.
    n_jobs : int or None, default: 1
        Checked, but without effect: copying points is bound by memory bandwidth.
    times : array, shape (..., length), optional
        Times of the points. They become the last channel instead of evenly spaced time, with or without `time_aug`, and
        exclude `end_time`. Shape (length,) gives all paths the same times; a list of paths takes a list of arrays.
        Points that lead-lag inserts lie halfway between two times. The gradient with respect to `times` follows that
        with respect to the paths.

    Returns
    -------
    value : array, shape (..., length', dimension')
        The result of `transform_path`.
    pullback : callable
        ``pullback(derivs)`` takes the derivatives of a scalar with respect to `value` and returns those with respect to
        `path`, a list for a list of paths. It can be pickled.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.

    See Also
    --------
    transform_path : The value.
    transform_path_backprop : The adjoint, for which no path is needed.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> value, pullback = branchsig.transform_path_vjp(
    ...     np.zeros((3, 1)), time_aug=True, lead_lag=True
    ... )
    >>> pullback(np.ones(value.shape))
    array([[3.],
           [4.],
           [3.]])
    """
    spec, how = _checked(time_aug, lead_lag, end_time, base_point, n_jobs)
    found = [timed(_TRANSFORM, at).vjp(spec, how, one) for one, at in _each(path, times, "path")]
    if not _validation.is_ragged(path):
        return cast(tuple[PathsT1, Callable[[PathsT1], PathsT1]], found[0])
    values, pullbacks = zip(*found, strict=True)
    return cast(PathsT1, list(values)), functools.partial(_pull_back_each, pullbacks, times is not None)


def _pull_back_each(pullbacks: Sequence[Callable[[Any], Any]], with_times: bool, derivs: Any) -> Any:
    if not _validation.is_ragged(derivs) or len(derivs) != len(pullbacks):
        raise TypeError(f"derivs is of type {type(derivs).__name__}: expected a list of {len(pullbacks)} arrays")
    found = [pullback(one) for pullback, one in zip(pullbacks, derivs, strict=True)]
    return _lists(found) if with_times else found


def _lists(pairs: Sequence[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    """Turn pairs of gradients (path, times) into a list of each."""
    paths, times = zip(*pairs, strict=True)
    return list(paths), list(times)


def _each(paths: Any, times: Any, name: str) -> Iterator[tuple[Any, Any]]:
    """Yield an array, or every array of a list, with the times of its points or None."""
    if not _validation.is_ragged(paths):
        yield paths, times
        return
    _validation.ragged_paths(paths, name)
    if times is not None:
        _validation.times_of_list(times, "times", paths, name)
    yield from zip(paths, [None] * len(paths) if times is None else times, strict=True)


def transform_path_backprop(
    derivs: PathsT1,
    *,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    base_point: bool = False,
    n_jobs: int | None = 1,
    times: Any = None,
) -> PathsT1:
    """Take derivatives with respect to transformed paths back to the paths.

    Parameters
    ----------
    derivs : array, shape (..., length', dimension')
        Derivatives of a scalar with respect to the result of `transform_path`: for a list of paths a list.
    time_aug : bool, default: False
        Append time as the last channel, linear from 0 to `end_time`.
    lead_lag : bool, default: False
        Replace a path by its lead-lag transform, before time is appended.
    end_time : float, default: 1.0
        Time of the last point, in the unit of time of the paths. Only with `time_aug`.
    base_point : bool, default: False
        Prepend the point 0 to every path, at the time of its first point and before lead-lag.
    n_jobs : int or None, default: 1
        Checked, but without effect: copying points is bound by memory bandwidth.
    times : array, shape (..., length), optional
        Times of the points. They become the last channel instead of evenly spaced time, with or without `time_aug`, and
        exclude `end_time`. Shape (length,) gives all paths the same times; a list of paths takes a list of arrays.
        Points that lead-lag inserts lie halfway between two times. The gradient with respect to `times` follows that
        with respect to the paths.

    Returns
    -------
    array, shape (..., length, dimension)
        Derivatives of the scalar with respect to the paths, a new array. For a list a list of arrays.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.

    See Also
    --------
    transform_path : The forward function, called with the same options.

    Notes
    -----
    `transform_path` is affine, and this is the transpose of its linear part: no path is needed, and `end_time` has no
    effect.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> branchsig.transform_path_backprop(np.ones((5, 3)), time_aug=True, lead_lag=True)
    array([[3.],
           [4.],
           [3.]])
    """
    spec, _ = _checked(time_aug, lead_lag, end_time, base_point, n_jobs)
    found = [_path_derivs(one, at, spec.transforms) for one, at in _each(derivs, times, "derivs")]
    if not _validation.is_ragged(derivs):
        return cast(PathsT1, found[0])
    return cast(PathsT1, found if times is None else _lists(found))


def _path_derivs(derivs: Array, times: Any, transforms: Transforms) -> Any:
    """Derivatives with respect to a path and, if times are given, to the times of its points."""
    if times is not None:
        transforms = with_times(transforms)
    lead_lag, base_point, with_time = (
        transforms.lead_lag,
        transforms.base_point,
        transforms.time_aug or transforms.times,
    )
    _validation.single_path(derivs, "derivs")
    length, channels = derivs.shape[-2] - base_point * (1 + lead_lag), derivs.shape[-1] - with_time
    if channels == 0 or length < 1 or (lead_lag and (channels % 2 or length % 2 == 0)):
        wanted = ("2 * length + 1" if base_point else "2 * length - 1") if lead_lag else "length" + " + 1" * base_point
        wanted += ", 2 * dimension" if lead_lag else ", dimension"
        options = f"time_aug={transforms.time_aug}, lead_lag={lead_lag}" + ", base_point=True" * base_point
        raise ValueError(
            f"derivs has shape {tuple(derivs.shape)}: expected (..., {wanted}{' + 1' * with_time}), "
            f"that of a path after transform_path({options}{', times=...' * transforms.times})"
        )
    derivs = contiguous(derivs)
    found = transformed_adjoint(derivs, transforms) if transforms else namespace_of(derivs).asarray(derivs, copy=True)
    if times is None:
        return found
    _validation.times(times, "times", found, "the path")
    return Split.of((found,), (times,))(found)


def pad_paths(paths: Sequence[Indexable[ArrayT]]) -> tuple[ArrayT, ArrayT]:
    """Stack paths of different lengths, each padded with its last point.

    Parameters
    ----------
    paths : sequence of array, each of shape (length, dimension)
        Paths of one library, dtype, device and dimension, and of any lengths. At least one.

    Returns
    -------
    padded : array, shape (len(paths), longest length, dimension)
        The paths, with the library, dtype and device they had.
    lengths : array of int64, shape (len(paths),)
        Their lengths, which the functions for kernels take as `lengths1` and `lengths2`.

    Raises
    ------
    TypeError
        If the paths are not a sequence, differ in library or dtype, or are traced.
    ValueError
        If the sequence is empty, or the dimensions of the paths differ.

    See Also
    --------
    as_paths : Paths and lengths from other formats, such as data frames.
    transform_path : Time, a base point, lead and lag.

    Notes
    -----
    Functions that take a list of paths pad it in this way at every call; padding it once saves that. Given the lengths,
    they never read the padding. Without the lengths the kernels are the same, since a repeated point adds nothing, but
    with `time_aug` time runs on over the padding.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> paths = [np.array([[0.0], [0.1], [0.3]]), np.array([[0.0], [0.2]])]
    >>> padded, lengths = branchsig.pad_paths(paths)
    >>> padded[1], lengths
    (array([[0. ], [0.2], [0.2]]), array([3, 2]))
    >>> gram = branchsig.branched_sig_kernel_gram(
    ...     padded, None, depth=2, lengths1=lengths, time_aug=True
    ... )
    >>> gram.shape
    (2, 2)
    """
    _validation.ragged_paths(paths, "paths")
    _validation.not_traced("pad_paths", "Give the list itself to a function for kernels, which pads it", paths)
    xp, lengths = namespace_of(paths[0]), [path.shape[0] for path in paths]
    return padded(paths), xp.asarray(lengths, dtype=xp.int64, device=device_of(paths[0]))


def _checked(time_aug: Any, lead_lag: Any, end_time: Any, base_point: Any, n_jobs: Any) -> tuple[Spec, Execution]:
    return options_of(0, 0, None, time_aug, lead_lag, end_time, n_jobs, "trapezoid", base_point=base_point)
