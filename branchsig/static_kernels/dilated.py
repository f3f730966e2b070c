"""Static kernels of dilated features: what `normalize="dilation"` makes of a static kernel that is not linear."""

from __future__ import annotations

import dataclasses

from branchsig._arrays import Array, device_of, namespace_of
from branchsig.static_kernels.base import Context, StaticKernel
from branchsig.static_kernels.calls import gradient_x, gradient_y, increments
from branchsig.static_kernels.table import BUILT_IN

__all__ = ["DilatedKernel", "is_built_in"]


@dataclasses.dataclass(frozen=True)
class DilatedKernel(StaticKernel):
    """A static kernel κ times a scale of each path, which stands in a last channel: s_x s_y κ(x, y).

    That is κ of features multiplied by the scales. The derivatives with respect to the scale stand in the last channel
    of the first point. What a kernel of the user's own returns is checked before it is multiplied.
    """

    kernel: StaticKernel

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


def _with_channel(points: Array, first: Array) -> Array:
    """Append a channel that is zero but at the first point."""
    xp = namespace_of(points)
    rest = xp.zeros((points.shape[0], points.shape[1] - 1, 1), dtype=points.dtype, device=device_of(points))
    return xp.concat([points, xp.concat([first[:, None, None], rest], axis=1)], axis=2)


def is_built_in(kernel: StaticKernel) -> bool:
    """Tell whether a kernel is one of the library's own, dilated or not, and not a subclass that may do anything
    else."""
    return type(kernel) in BUILT_IN or (type(kernel) is DilatedKernel and is_built_in(kernel.kernel))
