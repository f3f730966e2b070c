"""The polynomial static kernel, a function of ⟨x, y⟩."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from branchsig import _corners as corners
from branchsig._arrays import Array, namespace_of
from branchsig.static_kernels.base import (
    Context,
    Parameters,
    difference,
    difference_adjoint,
    real,
    transposed,
    weighted_sum,
)
from branchsig.static_kernels.linear import ScaledLinearKernel

__all__ = ["PolynomialKernel"]


@dataclasses.dataclass(frozen=True)
class PolynomialKernel(Parameters):
    r"""The polynomial kernel.

    .. math:: \kappa(x, y) = \mathrm{scale} \cdot (\langle x, y \rangle + \gamma)^{\mathrm{degree}}

    Parameters
    ----------
    degree : float, default: 3.0
        Exponent, at least 0.
    gamma : float or array, shape (), default: 1.0
        Constant added to the inner product, finite.
    scale : float or array, shape (), default: 1.0
        Factor, at least 0.

    Raises
    ------
    TypeError
        If a parameter is neither a real number nor, but for `degree`, an array without axes.
    ValueError
        If a parameter is out of range or not finite.

    See Also
    --------
    LinearKernel : The default.
    RBFKernel : A bounded static kernel.

    Notes
    -----
    A fractional degree has no real value where the sum is negative: the kernel is NaN there.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x = np.array([[0.0], [0.5], [1.0]])
    >>> value = branchsig.branched_sig_kernel(
    ...     x, x, depth=2, static_kernel=branchsig.PolynomialKernel(degree=2)
    ... )
    """

    degree: float = 3.0
    gamma: float = 1.0
    scale: float = 1.0

    parameters = ("gamma", "scale")

    def __post_init__(self) -> None:
        real(self, "degree", least=0.0)
        real(self, "gamma")
        real(self, "scale", least=0.0)

    def as_linear(self) -> ScaledLinearKernel | None:
        """Return the linear kernel with the same increments for degree 1, else None."""
        return ScaledLinearKernel(math.sqrt(self.scale)) if self.degree == 1.0 else None

    def __call__(self, ctx: Context, x: Array, y: Array) -> Array:
        linear = self.as_linear()
        if linear is not None:
            return linear(ctx, x, y)
        base = namespace_of(x).matmul(x, transposed(y)) + self.gamma
        ctx.save_for_backward(x, y, base)
        return _power_increments(_corners_of_base(x, y, base), self.degree, self.scale)

    def grad_x(self, ctx: Context, derivs: Array) -> Array:
        linear = self.as_linear()
        if linear is not None:
            return linear.grad_x(ctx, derivs)
        x, y, base = ctx.saved_tensors
        xp = namespace_of(x)
        slope = self._slope(xp, base)
        ctx.save_for_grad_y(slope)
        return xp.matmul(slope * difference_adjoint(difference_adjoint(derivs, -2), -1), y)

    def grad_y(self, ctx: Context, derivs: Array) -> Array:
        linear = self.as_linear()
        if linear is not None:
            return linear.grad_y(ctx, derivs)
        x, _, base = ctx.saved_tensors
        xp = namespace_of(x)
        slope = ctx.saved_for_y[0] if ctx.saved_for_y else self._slope(xp, base)
        return xp.matmul(transposed(slope * difference_adjoint(difference_adjoint(derivs, -2), -1)), x)

    def _slope(self, xp: Any, base: Array) -> Array:
        if self.degree == 0.0:
            return xp.zeros_like(base)
        return self.scale * self.degree * base ** (self.degree - 1.0)

    def grad_parameters(self, ctx: Context, derivs: Array) -> dict[str, Array]:
        if self.degree == 1.0:
            _, _, step_x, step_y = ctx.saved_tensors
            of_scale = namespace_of(step_x).matmul(step_x, transposed(step_y))
            of_gamma = 0.0 * derivs
        else:
            v = _corners_of_base(*ctx.saved_tensors)
            of_scale = _power_increments(v, self.degree, 1.0)
            of_gamma = _power_increments(v, self.degree - 1.0 if self.degree else 0.0, self.scale * self.degree)
        return {"gamma": weighted_sum(derivs, of_gamma), "scale": weighted_sum(derivs, of_scale)}


def _corners_of_base(x: Array, y: Array, base: Array) -> corners.Corners:
    """⟨x, y⟩ + γ at the corners of all cells."""
    xp = namespace_of(x)
    # Differences are computed from the steps, since far from 0 the values are nearly equal.
    dx, dy = difference(x, -2), transposed(difference(y, -2))
    return corners.at_corners(base, xp.matmul(dx, transposed(y)), xp.matmul(x, dy), xp.matmul(dx, dy))


def _power_increments(v: corners.Corners, exponent: float, factor: float) -> Array:
    """Double differences of factor · v^exponent; NaN where v is negative and the exponent is no whole number."""
    xp = namespace_of(v.r)
    if exponent == 0.0:
        return 0.0 * xp.where(xp.isfinite(v.r), v.r, xp.zeros_like(v.r))  # differentiable by a library
    if exponent == math.floor(exponent):
        return factor * corners.power(v, int(exponent)).r
    v, sign = corners.from_extreme(v, largest=exponent > 0)
    nothing = v.v00 == 0
    over = xp.where(nothing, xp.ones_like(v.r), v.v00)
    # v11 v00 / (v10 v01) − 1, treated as infinite where the denominator is 0
    below1, below2 = (xp.where(a == 0, xp.ones_like(a), a) for a in (v.v10, v.v01))
    bend = v.r / below1 * (v.v00 / below2) - v.p / below1 * (v.q / below2)
    bend = xp.where((v.v10 == 0) | (v.v01 == 0), xp.full_like(bend, math.inf), bend)
    logs = (xp.log1p(v.p / over), xp.log1p(v.q / over), corners.log_ratio(bend, v.v11 / below1, v.v00 / below2))
    powers = (v.v00**exponent, v.v10**exponent, v.v01**exponent, v.v11**exponent)
    g = sign * factor * corners.exponential(powers, *(exponent * a for a in logs)).r
    negative = xp.minimum(xp.minimum(v.v10, v.v01), xp.minimum(v.v00, v.v11)) < 0
    return xp.where(negative, xp.full_like(g, math.nan), g)
