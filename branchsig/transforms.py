"""Time augmentation and the lead-lag transform of paths, and their adjoints.

Paths ``(..., length, dimension)`` come in and longer or wider paths go out; for the adjoints derivatives with respect to the
latter come in and those with respect to the former go out.
"""

from __future__ import annotations

from typing import Any

from branchsig import _validation
from branchsig._arrays import Array, contiguous, device_of, namespace_of

__all__ = ["transform_path", "transform_path_backprop"]


def transform_path(
    path: Array, *, time_aug: bool = False, lead_lag: bool = False, end_time: float = 1.0, n_jobs: int = 1
) -> Array:
    time_aug, lead_lag, end_time = _checked(time_aug, lead_lag, end_time, n_jobs)
    _validation.single_path(path)
    path = contiguous(path)
    if time_aug or lead_lag:
        return transformed(path, time_aug, lead_lag, end_time)
    return namespace_of(path).asarray(path, copy=True)


def transform_path_backprop(
    derivs: Array, *, time_aug: bool = False, lead_lag: bool = False, end_time: float = 1.0, n_jobs: int = 1
) -> Array:
    time_aug, lead_lag, end_time = _checked(time_aug, lead_lag, end_time, n_jobs)
    _validation.single_path(derivs, "derivs")
    length, channels = derivs.shape[-2], derivs.shape[-1] - int(time_aug)
    if channels == 0 or (lead_lag and (channels % 2 or length % 2 == 0)):
        wanted = "2 * length - 1, 2 * dimension" if lead_lag else "length, dimension"
        raise ValueError(
            f"derivs has shape {tuple(derivs.shape)}: expected (..., {wanted}{' + 1' if time_aug else ''}), "
            f"that of a path after transform_path(time_aug={time_aug}, lead_lag={lead_lag})"
        )
    derivs = contiguous(derivs)
    if time_aug or lead_lag:
        return transformed_adjoint(derivs, time_aug, lead_lag)
    return namespace_of(derivs).asarray(derivs, copy=True)


def _checked(time_aug: Any, lead_lag: Any, end_time: Any, n_jobs: Any) -> tuple[bool, bool, float]:
    _validation.n_jobs(n_jobs)
    return (
        _validation.flag(time_aug, "time_aug"),
        _validation.flag(lead_lag, "lead_lag"),
        _validation.end_time(end_time),
    )


def transformed(path: Array, time_aug: bool, lead_lag: bool, end_time: float) -> Array:
    """Return a checked path with the transformations applied, lead-lag first."""
    xp = namespace_of(path)
    if lead_lag:
        index = xp.arange(2 * path.shape[-2] - 1, device=device_of(path))
        lag = xp.take(path, index // 2, axis=-2)
        lead = xp.take(path, (index + 1) // 2, axis=-2)
        path = xp.concat([lag, lead], axis=-1)
    if time_aug:
        length = path.shape[-2]
        time = xp.linspace(0.0, end_time, length, dtype=path.dtype, device=device_of(path))
        time = xp.broadcast_to(xp.reshape(time, (length, 1)), (*path.shape[:-1], 1))
        path = xp.concat([path, time], axis=-1)
    return path


def transformed_adjoint(derivs: Array, time_aug: bool, lead_lag: bool) -> Array:
    """Return the adjoint of `transformed`, applied to checked derivatives."""
    xp = namespace_of(derivs)
    channels = derivs.shape[-1] - int(time_aug)
    if not lead_lag:
        return xp.asarray(derivs[..., :channels], copy=True)
    lag, lead = derivs[..., : channels // 2], derivs[..., channels // 2 : channels]
    zero = xp.zeros((*lag.shape[:-2], 1, channels // 2), dtype=derivs.dtype, device=device_of(derivs))
    # Point k is the lag at nodes 2k and 2k + 1, and the lead at nodes 2k - 1 and 2k, as far as there are such nodes.
    lag_sum = lag[..., ::2, :] + xp.concat([lag[..., 1::2, :], zero], axis=-2)
    lead_sum = lead[..., ::2, :] + xp.concat([zero, lead[..., 1::2, :]], axis=-2)
    return lag_sum + lead_sum
