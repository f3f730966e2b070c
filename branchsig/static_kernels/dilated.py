"""Static kernels of dilated features, which `normalize="dilation"` uses for static kernels that are not linear."""

from __future__ import annotations

import dataclasses

from branchsig._arrays import Array, device_of, namespace_of
from branchsig.static_kernels.base import Context, StaticKernel, parameters_of
from branchsig.static_kernels.calls import gradient_parameters, gradient_x, gradient_y, increments
from branchsig.static_kernels.dot import PolynomialKernel
from branchsig.static_kernels.linear import ScaledLinearKernel
from branchsig.static_kernels.table import BUILT_IN

__all__ = ["DilatedKernel", "divides_by_scale", "is_built_in"]


@dataclasses.dataclass(frozen=True)
class DilatedKernel(StaticKernel):
    """A static kernel κ times a scale of each path, given in a last channel: s_x s_y κ(x, y).

    This is the kernel of the features of κ multiplied by the scales. The derivative with respect to a scale is returned
    in the last channel of the first point. The result of a custom κ is checked before it is multiplied.
    """

    kernel: StaticKernel

    @property
    def parameters(self) -> tuple[str, ...]:  # type: ignore[override]
        """The parameters of κ."""
        return parameters_of(self.kernel)

    def __call__(self, ctx: Context, x: Array, y: Array) -> Array:
        inner, points1, points2 = Context(), x[:, :, :-1], y[:, :, :-1]
        g = increments(self.kernel, inner, points1, points2)
        scale1, scale2 = x[:, 0, -1], y[:, 0, -1]
        ctx.save_for_backward(inner, g, scale1, scale2, points1, points2)
        return g * (scale1 * scale2)[:, None, None]

    def grad_x(self, ctx: Context, derivs: Array) -> Array:
        inner, g, scale1, scale2, points1, _ = ctx.saved_tensors
        points = gradient_x(self.kernel, inner, derivs * (scale1 * scale2)[:, None, None], points1)
        return _with_channel(points, scale2 * namespace_of(g).sum(derivs * g, axis=(1, 2)))

    def grad_y(self, ctx: Context, derivs: Array) -> Array:
        inner, g, scale1, scale2, _, points2 = ctx.saved_tensors
        points = gradient_y(self.kernel, inner, derivs * (scale1 * scale2)[:, None, None], points2)
        return _with_channel(points, scale1 * namespace_of(g).sum(derivs * g, axis=(1, 2)))

    def grad_parameters(self, ctx: Context, derivs: Array) -> dict[str, Array]:
        inner, _, scale1, scale2, _, _ = ctx.saved_tensors
        gradients = gradient_parameters(self.kernel, inner, derivs * (scale1 * scale2)[:, None, None])
        return {name: gradients[:, place] for place, name in enumerate(self.parameters)}


def _with_channel(points: Array, first: Array) -> Array:
    """Append a channel that is zero except at the first point."""
    xp = namespace_of(points)
    rest = xp.zeros((points.shape[0], points.shape[1] - 1, 1), dtype=points.dtype, device=device_of(points))
    return xp.concat([points, xp.concat([first[:, None, None], rest], axis=1)], axis=2)


_LEAST_SCALE, _MOST_SCALE = 1e-100, 1e100


def divides_by_scale(kernel: StaticKernel) -> bool:
    """Tell whether the derivative with respect to the factor of a kernel can be computed as its increments divided by
    the factor: if there is no factor, or one that keeps the increments in the range of floats.
    """
    if type(kernel) is DilatedKernel:
        return divides_by_scale(kernel.kernel)
    if isinstance(kernel, ScaledLinearKernel | PolynomialKernel):
        return _LEAST_SCALE <= abs(kernel.scale) <= _MOST_SCALE
    return True


def is_built_in(kernel: StaticKernel) -> bool:
    """Tell whether a kernel is built in, dilated or not; subclasses are custom kernels."""
    return type(kernel) in BUILT_IN or (type(kernel) is DilatedKernel and is_built_in(kernel.kernel))
