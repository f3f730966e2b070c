"""Compilation of the CUDA kernels before they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from branchsig import _validation
from branchsig import static_kernels as kernels
from branchsig.backends.choice import for_cupy
from branchsig.backends.cuda.backend import REMEDY
from branchsig.backends.cuda.instances import ANY_DIMENSION, REALS, Instance, compiled_kernel
from branchsig.backends.cuda.plans import bound_of, has_kernels
from branchsig.quadrature import Quadrature
from branchsig.spec import Spec, Truncation

__all__ = ["warm_up"]


def warm_up(
    depth: int,
    *,
    static_kernel: kernels.StaticKernel | None = None,
    dtype: Any = "float64",
    gradients: bool = True,
    return_grid: bool = False,
    quadrature: Quadrature | str = "trapezoid",
    order: int | None = None,
    dimension: int | None = None,
    planar: bool = False,
) -> None:
    """Compile the CUDA kernels of a depth for the current device of CuPy, before they are needed.

    Without this, each kernel is compiled on first use, which takes about a second; CuPy caches the result on disk.
    Arrays outside CUDA devices need no warm-up. Kernels for padded paths are not included: they are compiled when
    lengths are first given.

    Parameters
    ----------
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound.
    static_kernel : StaticKernel, optional
        The static kernel; the linear one if None.
    dtype : dtype, default: "float64"
        dtype of the paths: float32 or float64.
    gradients : bool, default: True
        Compile the backward kernels too.
    return_grid : bool, default: False
        Compile the kernels for grids instead of those for values.
    quadrature : Quadrature or str, default: "trapezoid"
        The rule for the integral over a sub-cell.
    order : int, optional
        Compile the kernels for truncation by this number of nodes instead of those for a depth. With a `depth` below
        `order` there are none, except over ordered forests: the reference computes those.
    dimension : int, optional
        The number of channels of the paths. If None, compile the kernels for any number, which are up to three times as
        many.
    planar : bool, default: False
        Compile the kernels for ordered forests.

    Raises
    ------
    ImportError
        If CuPy is not installed, or too old.
    RuntimeError
        If CuPy finds no CUDA device, or a kernel cannot be compiled.
    TypeError
        If `depth`, `order` or `dimension` is not an integer, or `planar` not a boolean.
    ValueError
        If `depth`, `dtype` or `dimension` has an invalid value, or ordered forests have no such depth or rule.

    Examples
    --------
    >>> import branchsig
    >>> branchsig.warm_up(depth=4, dtype="float32")  # doctest: +SKIP
    """
    checked = _validation.depth(depth)
    real = REALS.get(np.dtype(dtype).itemsize) if np.dtype(dtype).kind == "f" else None
    if real is None:
        raise ValueError(f"dtype is {dtype!r}: expected float32 or float64")
    checked_kernel = _validation.static_kernel(static_kernel)
    if checked_kernel.holds_arrays:
        raise TypeError(
            f"warm_up with {static_kernel!r}: a parameter is an array, which may be traced. Call warm_up outside of "
            "jit and the like, with numbers for parameters; the kernels serve all values"
        )
    compiled = compiled_kernel(checked_kernel)
    rule = _validation.quadrature(quadrature)
    nodes = _validation.order(order)
    channels = _validation.dimension(dimension)
    coordinates = None if channels is None else channels - compiled.dilated
    Spec(Truncation(checked, nodes), quadrature=rule, planar=planar)  # checks them together
    _require_device()
    over_devices: Any = for_cupy()
    backend = over_devices.inner
    for kernel in ("forward", "backward") if gradients else ("forward",):
        form = {"grid": return_grid, "planar": planar}
        for instance in _instances(kernel, real, compiled.name, checked, rule, nodes, coordinates, **form):
            backend.function(instance.expression)
    if gradients:
        backend.function(f"sum_over_partners<{real}>")


def _require_device() -> None:
    try:
        import cupy
    except ImportError as error:
        raise ImportError(f"CuPy is not installed ({error}): {REMEDY}") from error
    if not cupy.is_available():
        raise RuntimeError("CuPy finds no CUDA device: check the driver with nvidia-smi, or keep the paths in NumPy")


def _instances(
    kernel: str,
    real: str,
    static_kernel: str,
    depth: float,
    quadrature: Quadrature,
    order: int | None,
    coordinates: int | None,
    *,
    grid: bool,
    planar: bool,
) -> Iterator[Instance]:
    """Yield every instance that problems of a depth, or an order, may need, for all lengths."""
    dimensions = ANY_DIMENSION if coordinates is None else (coordinates,)
    components, bound, most = order is not None, bound_of(depth, order), depth if order is None else order
    if depth == 0 or most == 0 or not has_kernels(depth, order, planar=planar):
        return
    for log_domain in (False,) if components else (False, True):
        form: dict[str, Any] = {"grid": grid, "log_domain": log_domain, "components": components, "planar": planar}
        form["bound"] = bound
        for each in dimensions:
            instance = Instance.widest(kernel, real, static_kernel, most, quadrature, **form, dimension=each)
            while instance.columns:
                yield instance
                instance = instance.narrower()
