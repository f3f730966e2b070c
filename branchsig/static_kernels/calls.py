"""Calls of static kernels; what custom kernels return is checked."""

from __future__ import annotations

from branchsig._arrays import Array, device_of, namespace_of
from branchsig.static_kernels.base import Context, StaticKernel, parameters_of
from branchsig.static_kernels.table import BUILT_IN

__all__ = ["gradient_parameters", "gradient_x", "gradient_y", "increments"]


def increments(kernel: StaticKernel, ctx: Context, x: Array, y: Array) -> Array:
    """Call a static kernel, and check the result of a custom one.

    Raises
    ------
    ValueError
        If the increments do not have the shape (batch, length1 - 1, length2 - 1).
    TypeError
        If they are not an array of the library and dtype of the paths.
    """
    result = kernel(ctx, x, y)
    if type(kernel) not in BUILT_IN:
        _check_returned(kernel, "__call__", result, x, (x.shape[0], x.shape[1] - 1, y.shape[1] - 1))
    return result


def gradient_x(kernel: StaticKernel, ctx: Context, derivs: Array, x: Array) -> Array:
    """Call `grad_x` of a static kernel, and check the result of a custom one; raises as `increments` does."""
    result = kernel.grad_x(ctx, derivs)
    if type(kernel) not in BUILT_IN:
        _check_returned(kernel, "grad_x", result, x, tuple(x.shape))
    return result


def gradient_y(kernel: StaticKernel, ctx: Context, derivs: Array, y: Array) -> Array:
    """Call `grad_y` of a static kernel, and check the result of a custom one; raises as `increments` does."""
    result = kernel.grad_y(ctx, derivs)
    if type(kernel) not in BUILT_IN:
        _check_returned(kernel, "grad_y", result, y, tuple(y.shape))
    return result


def gradient_parameters(kernel: StaticKernel, ctx: Context, derivs: Array) -> Array:
    """Call `grad_parameters` of a static kernel, and check the result of a custom one; raises as `increments` does.

    The result has shape (batch, number of parameters), with the columns in the order of `parameters_of`.
    """
    names = parameters_of(kernel)
    xp, count = namespace_of(derivs), derivs.shape[0]
    if not names:
        return xp.zeros((count, 0), dtype=derivs.dtype, device=device_of(derivs))
    result = kernel.grad_parameters(ctx, derivs)
    if type(kernel) not in BUILT_IN:
        title = f"static_kernel: {type(kernel).__name__}.grad_parameters"
        if not isinstance(result, dict) or set(result) != set(names):
            got = sorted(result) if isinstance(result, dict) else type(result).__name__
            raise ValueError(f"{title} returned {got}: expected a dictionary with the keys {sorted(names)}")
        for name in names:
            _check_returned(kernel, "grad_parameters", result[name], derivs, (count,))
    return xp.stack([result[name] for name in names], axis=-1)


def _check_returned(kernel: StaticKernel, method: str, result: Array, like: Array, shape: tuple[int, ...]) -> None:
    title = f"static_kernel: {type(kernel).__name__}.{method}"
    try:
        matches = namespace_of(result) is namespace_of(like)
    except TypeError:
        matches = False
    if not matches:
        raise TypeError(f"{title} returned {type(result).__name__}: expected an array of the library of the paths")
    if tuple(result.shape) != shape:
        raise ValueError(f"{title} returned an array of shape {tuple(result.shape)}: expected {shape}")
    if result.dtype != like.dtype:
        raise TypeError(f"{title} returned an array of dtype {result.dtype}: expected {like.dtype}, that of the paths")
