"""The transformations of paths (base point, lead-lag, time) and their adjoint.

They map checked paths (..., length, dimension) to longer or wider ones; the adjoint maps derivatives back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from branchsig._arrays import Array, device_of, namespace_of
from branchsig.spec import Transforms

__all__ = ["padded", "transformed", "transformed_adjoint", "transformed_lengths", "transformed_shape"]


def padded(paths: Sequence[Array]) -> Array:
    """Stack checked paths (length, dimension), each padded with its last point."""
    xp, device = namespace_of(paths[0]), device_of(paths[0])
    points = xp.arange(max(path.shape[0] for path in paths), device=device)
    return xp.stack([xp.take(path, xp.clip(points, max=path.shape[0] - 1), axis=0) for path in paths], axis=0)


def transformed_shape(shape: tuple[int, ...], transforms: Transforms) -> tuple[int, ...]:
    """Return the shape (..., length, dimension) of paths after the transformations."""
    *batch, length, dimension = shape
    length += transforms.base_point
    if transforms.lead_lag:
        length, dimension = 2 * length - 1, 2 * dimension - transforms.times
    return (*batch, length, dimension + transforms.time_aug)


def transformed_lengths(lengths: npt.NDArray[np.int64], transforms: Transforms) -> npt.NDArray[np.int64]:
    """Return valid lengths after the transformations."""
    lengths = lengths + transforms.base_point
    return 2 * lengths - 1 if transforms.lead_lag else lengths


def transformed(path: Array, transforms: Transforms, lengths: npt.NDArray[np.int64] | None = None) -> Array:
    """Return a checked path with the transformations applied: the base point first, then lead-lag, then time.

    Padded paths (paths, length, dimension) need valid lengths, and padding that repeats the last valid point; the
    result is padded in the same way, including time.
    """
    xp, times = namespace_of(path), None
    if transforms.times:
        path, times = path[..., :-1], path[..., -1:]
    if transforms.base_point:
        first = path[..., :1, :]
        path = xp.concat([xp.zeros_like(first), path], axis=-2)
        times = None if times is None else xp.concat([times[..., :1, :], times], axis=-2)
    if transforms.lead_lag:
        path = xp.concat(_lag_and_lead(path), axis=-1)
        times = None if times is None else _halfway(*_lag_and_lead(times))
    if transforms.time_aug:
        times = _even_times(path, transforms, lengths)
    return path if times is None else xp.concat([path, times], axis=-1)


def _lag_and_lead(path: Array) -> tuple[Array, Array]:
    """The lagged and the leading copy of a path."""
    xp = namespace_of(path)
    index = xp.arange(2 * path.shape[-2] - 1, device=device_of(path))
    return xp.take(path, index // 2, axis=-2), xp.take(path, (index + 1) // 2, axis=-2)


def _halfway(before: Array, after: Array) -> Array:
    return 0.5 * (before + after)


def _even_times(path: Array, transforms: Transforms, lengths: npt.NDArray[np.int64] | None) -> Array:
    """Time of transformed paths, linear over the valid points and constant over padding.

    No time passes between the base point and the first point.
    """
    xp, end_time, length = namespace_of(path), transforms.end_time, path.shape[-2]
    like = {"dtype": path.dtype, "device": device_of(path)}
    start = (1 + transforms.lead_lag) if transforms.base_point else 0
    if lengths is not None:
        valid_lengths = transformed_lengths(lengths, transforms)
        values = np.full((len(lengths), length, 1), end_time)
        for valid in np.unique(valid_lengths):
            values[valid_lengths == valid, start:valid, 0] = np.linspace(0.0, end_time, valid - start)
        values[:, :start] = 0.0
        time = xp.asarray(values, **like)
    else:
        time = xp.reshape(xp.linspace(0.0, end_time, length - start, **like), (length - start, 1))
        time = xp.concat([xp.zeros((start, 1), **like), time], axis=0) if start else time
    return xp.broadcast_to(time, (*path.shape[:-1], 1))


def transformed_adjoint(derivs: Array, transforms: Transforms) -> Array:
    """Return the adjoint of `transformed`, applied to checked derivatives."""
    xp = namespace_of(derivs)
    of_path, of_times = derivs, None
    if transforms.time_aug or transforms.times:
        of_path = derivs[..., :-1]
        of_times = derivs[..., -1:] if transforms.times else None
    if transforms.lead_lag:
        channels = of_path.shape[-1] // 2
        of_path = _of_lag_and_lead(of_path[..., :channels], of_path[..., channels:])
        of_times = None if of_times is None else 0.5 * _of_lag_and_lead(of_times, of_times)
    if transforms.base_point:
        of_path = of_path[..., 1:, :]
        if of_times is not None:  # the base point has the time of the first point
            first = of_times[..., :1, :] + of_times[..., 1:2, :]
            of_times = xp.concat([first, of_times[..., 2:, :]], axis=-2)
    return xp.asarray(of_path, copy=True) if of_times is None else xp.concat([of_path, of_times], axis=-1)


def _of_lag_and_lead(lag: Array, lead: Array) -> Array:
    """The adjoint of `_lag_and_lead`."""
    xp = namespace_of(lag)
    zero = xp.zeros((*lag.shape[:-2], 1, lag.shape[-1]), dtype=lag.dtype, device=device_of(lag))
    # Point k is the lag at nodes 2k and 2k + 1, and the lead at nodes 2k - 1 and 2k, if these nodes exist.
    lag_sum = lag[..., ::2, :] + xp.concat([lag[..., 1::2, :], zero], axis=-2)
    lead_sum = lead[..., ::2, :] + xp.concat([zero, lead[..., 1::2, :]], axis=-2)
    return lag_sum + lead_sum
