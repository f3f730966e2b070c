"""The transformations of paths, time and lead-lag, and their adjoint.

Checked paths (..., length, dimension) come in and longer or wider ones go out; the adjoint takes derivatives with
respect to the latter to those with respect to the former.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from branchsig._arrays import Array, device_of, namespace_of
from branchsig.spec import Transforms

__all__ = ["padded", "transformed", "transformed_adjoint", "transformed_shape"]


def padded(paths: Sequence[Array]) -> Array:
    """Return checked paths (length, dimension) as one stack, each with its last point repeated at its end."""
    xp, device = namespace_of(paths[0]), device_of(paths[0])
    points = xp.arange(max(path.shape[0] for path in paths), device=device)
    return xp.stack([xp.take(path, xp.clip(points, max=path.shape[0] - 1), axis=0) for path in paths], axis=0)


def transformed_shape(shape: tuple[int, ...], transforms: Transforms) -> tuple[int, ...]:
    """Return the shape (..., length, dimension) of paths after the transformations."""
    *batch, length, dimension = shape
    if transforms.lead_lag:
        length, dimension = 2 * length - 1, 2 * dimension
    return (*batch, length, dimension + transforms.time_aug)


def transformed(path: Array, transforms: Transforms, lengths: npt.NDArray[np.int64] | None = None) -> Array:
    """Return a checked path with the transformations applied, lead-lag first.

    Padded paths (paths, length, dimension) come with their valid lengths, and with the last valid point in the place of
    the padded ones; so they go out, time included.
    """
    xp, lead_lag, end_time = namespace_of(path), transforms.lead_lag, transforms.end_time
    if lead_lag:
        index = xp.arange(2 * path.shape[-2] - 1, device=device_of(path))
        lag = xp.take(path, index // 2, axis=-2)
        lead = xp.take(path, (index + 1) // 2, axis=-2)
        path = xp.concat([lag, lead], axis=-1)
    if transforms.time_aug:
        length = path.shape[-2]
        like = {"dtype": path.dtype, "device": device_of(path)}
        if lengths is None:
            time = xp.reshape(xp.linspace(0.0, end_time, length, **like), (length, 1))
        else:
            time = xp.asarray(_times(2 * lengths - 1 if lead_lag else lengths, length, end_time), **like)
        path = xp.concat([path, xp.broadcast_to(time, (*path.shape[:-1], 1))], axis=-1)
    return path


def _times(lengths: npt.NDArray[np.int64], length: int, end_time: float) -> npt.NDArray[np.float64]:
    """Time of padded paths, (paths, length, 1): linear over the valid points, and constant behind them."""
    time = np.full((len(lengths), length, 1), end_time)
    for valid in np.unique(lengths):
        time[lengths == valid, :valid, 0] = np.linspace(0.0, end_time, valid)
    return time


def transformed_adjoint(derivs: Array, transforms: Transforms) -> Array:
    """Return the adjoint of `transformed`, applied to checked derivatives."""
    xp = namespace_of(derivs)
    channels = derivs.shape[-1] - int(transforms.time_aug)
    if not transforms.lead_lag:
        return xp.asarray(derivs[..., :channels], copy=True)
    lag, lead = derivs[..., : channels // 2], derivs[..., channels // 2 : channels]
    zero = xp.zeros((*lag.shape[:-2], 1, channels // 2), dtype=derivs.dtype, device=device_of(derivs))
    # Point k is the lag at nodes 2k and 2k + 1, and the lead at nodes 2k - 1 and 2k, as far as there are such nodes.
    lag_sum = lag[..., ::2, :] + xp.concat([lag[..., 1::2, :], zero], axis=-2)
    lead_sum = lead[..., ::2, :] + xp.concat([zero, lead[..., 1::2, :]], axis=-2)
    return lag_sum + lead_sum
