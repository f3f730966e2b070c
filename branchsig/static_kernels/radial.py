"""The radial static kernels, functions of ‖x − y‖²."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

from branchsig import _corners as corners
from branchsig._arrays import Array, namespace_of
from branchsig.static_kernels.base import Context, Parameters, difference, difference_adjoint, real, weighted_sum

__all__ = [
    "LARGEST_ALPHA",
    "Matern12Kernel",
    "Matern32Kernel",
    "Matern52Kernel",
    "RBFKernel",
    "RadialKernel",
    "RationalQuadraticKernel",
]


LARGEST_ALPHA = 1e20
"""From this alpha on, a rational quadratic kernel equals its limit, the RBF kernel, to rounding."""

_FALLING_ALPHA = 0.1
"""From this alpha on, a rational quadratic kernel is 0 to rounding at differences that count as infinite."""

_FARTHEST = 1e4
"""Distance in length scales at which the exponential of every kernel is 0."""

_SERIES_TO = 1.0 / 16
"""Distance in length scales up to which _SERIES_TERMS terms of its power series give a Matern kernel to rounding."""

_SERIES_TERMS = 9


class RadialKernel(Parameters):
    """κ(x, y) = φ(‖x − y‖²), with a length scale `sigma` or its square.

    The error of the increments is a few units in the last place of the products of their factors, not of φ. This holds
    also if all values of φ are nearly equal, and if the paths are far apart compared with their size. Gradients of
    paths far apart lose about log10(distance / size) digits.
    """

    sigma: float

    parameters: ClassVar[tuple[str, ...]] = ("sigma",)

    _power = 1
    """Power of a length that `sigma` is: 1 or 2."""

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        """Double differences of φ from the squared distances at the corners of all cells, the smallest first."""
        raise NotImplementedError

    def _sigma_increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        """Double differences of sigma ∂φ/∂sigma, from the same distances."""
        raise NotImplementedError

    def _phi_derivative(self, xp: Any, t: Array, sigma: float) -> Array:
        raise NotImplementedError

    def _units(self, *, single: bool) -> tuple[float, float, float]:
        """Return a unit of length, `sigma` in that unit, and the largest difference of coordinates with a finite
        square.

        The unit is 1 except for extreme values of `sigma`, whose square or inverse square would leave the range of
        floats. Differences beyond the largest count as infinite.
        """
        least, most, largest, ratio, range_ = (-10, 30, 55, 40, 126) if single else (-100, 400, 500, 400, 1000)
        exponent = math.frexp(self.sigma)[1] // self._power
        shift = min(max(exponent, least), most) - exponent
        unit = 2.0 ** min(max(shift, -range_), range_)
        sigma = self.sigma * unit if self._power == 1 else self.sigma * unit * unit
        if single:  # no two distinct floats are close enough for this to matter
            sigma = max(sigma, 2.0 ** (2 * least * self._power))
        return unit, sigma, 2.0 ** min(largest, exponent + shift + ratio)

    def __call__(self, ctx: Context, x: Array, y: Array) -> Array:
        xp = namespace_of(x)
        unit, sigma, most = self._units(single=x.dtype == xp.float32)

        def in_units(difference: Array) -> Array:
            return xp.clip(difference if unit == 1.0 else unit * difference, -most, most)

        # Sum squared differences channel by channel: ‖x‖² + ‖y‖² − 2⟨x, y⟩ would lose the distance of close points.
        # Differences of distances come from ‖x' − y‖² − ‖x − y‖² = ⟨x' − x, (x' − y) + (x − y)⟩.
        dx, dy = in_units(difference(x, -2)), in_units(difference(y, -2))
        squares, p, q, r = (xp.zeros_like(x[:, :1, :1]) for _ in range(4))
        apart = [in_units(_channel_difference(x, y, channel)) for channel in range(x.shape[-1])]
        for channel, u in enumerate(apart):
            square = u**2
            squares = squares + square
            # Differences clipped at `most` no longer follow from the steps.
            cut = xp.abs(u) >= most
            along_x = cut[:, 1:, :] | cut[:, :-1, :]
            along_y = cut[:, :, 1:] | cut[:, :, :-1]
            over_x, over_y = difference(square, -2), difference(square, -1)
            p = p + xp.where(along_x, over_x, dx[:, :, None, channel] * (u[:, 1:, :] + u[:, :-1, :]))
            q = q + xp.where(along_y, over_y, -dy[:, None, :, channel] * (u[:, :, 1:] + u[:, :, :-1]))
            steps = -2 * dx[:, :, None, channel] * dy[:, None, :, channel]
            # By the way that does not cross to what is far: where a row is, along the columns.
            by_y = xp.abs(over_x[:, :, :-1]) > xp.abs(over_y[:, :-1, :])
            over_both = xp.where(by_y, difference(over_y, -2), difference(over_x, -1))
            r = r + xp.where(along_x[:, :, 1:] | along_x[:, :, :-1], over_both, steps)
        ctx.save_for_backward(apart, squares, unit, sigma, p, q, r)
        t, sign = corners.from_extreme(corners.at_corners(squares, p, q, r), largest=False)
        return sign * self._increments(xp, t, sigma)

    def grad_x(self, ctx: Context, derivs: Array) -> Array:
        apart, squares, unit, sigma, *_ = ctx.saved_tensors
        xp = namespace_of(squares)
        slope = self._phi_derivative(xp, squares, sigma)
        ctx.save_for_grad_y(slope)
        weights = 2 * slope * difference_adjoint(difference_adjoint(derivs, -2), -1)
        return unit * xp.stack([xp.sum(weights * u, axis=2) for u in apart], axis=-1)

    def grad_y(self, ctx: Context, derivs: Array) -> Array:
        apart, squares, unit, sigma, *_ = ctx.saved_tensors
        xp = namespace_of(squares)
        slope = ctx.saved_for_y[0] if ctx.saved_for_y else self._phi_derivative(xp, squares, sigma)
        weights = -2 * slope * difference_adjoint(difference_adjoint(derivs, -2), -1)
        return unit * xp.stack([xp.sum(weights * u, axis=1) for u in apart], axis=-1)

    def grad_parameters(self, ctx: Context, derivs: Array) -> dict[str, Array]:
        _, squares, _, sigma, p, q, r = ctx.saved_tensors
        xp = namespace_of(squares)
        t, sign = corners.from_extreme(corners.at_corners(squares, p, q, r), largest=False)
        derivs = sign * derivs
        return {"sigma": weighted_sum(derivs, self._sigma_increments(xp, t, sigma)) / self.sigma}


def _channel_difference(x: Array, y: Array, channel: int) -> Array:
    return x[:, :, None, channel] - y[:, None, :, channel]


@dataclasses.dataclass(frozen=True)
class RBFKernel(RadialKernel):
    r"""The radial basis function kernel.

    .. math:: \kappa(x, y) = \exp\bigl( -\lVert x - y \rVert^2 / \sigma \bigr)

    Parameters
    ----------
    sigma : float or array, shape ()
        Squared length scale, in the squared unit of the paths, above 0.

    Raises
    ------
    TypeError
        If a parameter is neither a real number nor an array without axes.
    ValueError
        If a parameter is out of range or not finite.

    See Also
    --------
    RationalQuadraticKernel : A mixture of RBF kernels; ``RBFKernel(2 * sigma**2)`` is its limit for large `alpha`.
    Matern52Kernel : A kernel whose features are less smooth.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x = np.array([[0.0], [0.5], [1.0]])
    >>> value = branchsig.branched_sig_kernel(
    ...     x, x, depth=2, static_kernel=branchsig.RBFKernel(sigma=1.0)
    ... )
    """

    sigma: float

    def __post_init__(self) -> None:
        real(self, "sigma", above=0.0)

    _power = 2

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        return _of_logarithm(xp, corners.scaled(t, -1.0 / sigma)).r

    def _sigma_increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        v = corners.scaled(t, 1.0 / sigma)
        return _falling_increments(xp, v, v, lambda a: a, lambda a, b: 1.0)  # v exp(-v)

    def _phi_derivative(self, xp: Any, t: Array, sigma: float) -> Array:
        return (-1.0 / sigma) * xp.exp(t * (-1.0 / sigma))


def _of_logarithm(xp: Any, v: corners.Corners) -> corners.Corners:
    """exp(v), v at most 0."""
    e = corners.exponential((xp.exp(v.v00), xp.exp(v.v10), xp.exp(v.v01), xp.exp(v.v11)), v.p, v.q, v.r)
    return e._replace(r=xp.where(v.v00 < -_FARTHEST, xp.zeros_like(e.r), e.r))


def _matern_increments(xp: Any, t: corners.Corners, factor: float, second: float) -> Array:
    """Double differences of P(z) exp(−z), z = factor · distance, for P = 1 + z + second · z², whose series in z
    has no linear term.

    Near 0 use 1 + z² S(z), with z² known without a root: there the linear terms of P and exp(−z) would cancel to
    rounding error. If z changes by more than 1 in a cell, subtract values along the larger step.
    """
    z = corners.scaled(corners.root(t), factor)
    powers = range(2, 2 + _SERIES_TERMS)
    series = tuple((-1.0) ** n / math.factorial(n) * (1 - n + second * n * (n - 1)) for n in powers)
    near = corners.product(corners.scaled(t, factor * factor), corners.polynomial(z, series)).r
    polynomial = corners.polynomial(z, (1.0, 1.0, second) if second else (1.0, 1.0))
    far = _falling_increments(
        xp, z, polynomial, lambda a: 1.0 + a + second * a * a, lambda a, b: 1.0 + second * (a + b)
    )
    largest = xp.maximum(xp.maximum(z.v10, z.v01), z.v11)
    return xp.where(largest <= _SERIES_TO, near, far)


def _falling_increments(
    xp: Any, z: corners.Corners, factor: corners.Corners, value: Callable[[Array], Array], slope: Callable[..., Any]
) -> Array:
    """Double differences of P(z) exp(−z) from the corners of z, the smallest first, and those of the factor P(z).

    `value` is P, and ``slope(a, b)`` is (P(b) − P(a)) / (b − a). If z changes by more than 1 in a cell, the polynomial
    of a far corner times the exponential of a near one would leave only rounding error; then values are subtracted
    along the larger step.
    """
    smooth = corners.product(factor, _of_logarithm(xp, corners.scaled(z, -1.0))).r

    def rise(low: Array, high: Array, step: Array) -> Array:
        low, high, step = (xp.clip(a, 0.0, _FARTHEST) for a in (low, high, step))
        return value(low) * xp.exp(-low) * xp.expm1(-step) + step * slope(low, high) * xp.exp(-high)

    far = xp.where(_is_steep(xp, z), _by_larger_step(xp, z, rise), smooth)
    return xp.where(z.v00 > _FARTHEST, xp.zeros_like(far), far)


def _is_steep(xp: Any, z: corners.Corners) -> Array:
    return xp.maximum(xp.abs(z.p), xp.abs(z.q)) > 1


def _by_larger_step(xp: Any, z: corners.Corners, rise: Callable[[Array, Array, Array], Array]) -> Array:
    """Double differences of a function of z: values are subtracted along the larger step; along the other,
    ``rise(low, high, step)`` is the difference of two values whose z differ by the step, at least 0."""

    def difference(start: Array, end: Array, step: Array) -> Array:
        back = step < 0
        value = rise(xp.where(back, end, start), xp.where(back, start, end), xp.where(back, -step, step))
        return xp.where(back, -value, value)

    return xp.where(
        xp.abs(z.p) > xp.abs(z.q),
        difference(z.v10, z.v11, z.q + z.r) - difference(z.v00, z.v01, z.q),
        difference(z.v01, z.v11, z.p + z.r) - difference(z.v00, z.v10, z.p),
    )


def _distance(xp: Any, t: Array) -> Array:
    """√t, with derivative 0 at t = 0 under automatic differentiation."""
    nothing = t == 0
    return xp.where(nothing, xp.zeros_like(t), xp.sqrt(xp.where(nothing, xp.ones_like(t), t)))


@dataclasses.dataclass(frozen=True)
class Matern12Kernel(RadialKernel):
    r"""The Matern 1/2 kernel.

    .. math:: \kappa(x, y) = \exp( -\lVert x - y \rVert / \sigma )

    Parameters
    ----------
    sigma : float or array, shape ()
        Length scale, in the unit of the paths, above 0.

    Raises
    ------
    TypeError
        If a parameter is neither a real number nor an array without axes.
    ValueError
        If a parameter is out of range or not finite.

    See Also
    --------
    Matern32Kernel, Matern52Kernel : Smoother kernels of this family.
    RBFKernel : The limit of this family.

    Notes
    -----
    Where two points coincide the kernel has no gradient; it is set to 0.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x = np.array([[0.0], [0.5], [1.0]])
    >>> value = branchsig.branched_sig_kernel(
    ...     x, x, depth=2, static_kernel=branchsig.Matern12Kernel(sigma=1.0)
    ... )
    """

    sigma: float

    def __post_init__(self) -> None:
        real(self, "sigma", above=0.0)

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        return _of_logarithm(xp, corners.scaled(corners.root(t), -1.0 / sigma)).r

    def _sigma_increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        z = corners.scaled(corners.root(t), 1.0 / sigma)
        return _falling_increments(xp, z, z, lambda a: a, lambda a, b: 1.0)  # z exp(-z)

    def _phi_derivative(self, xp: Any, t: Array, sigma: float) -> Array:
        coincide = t == 0
        distance = xp.sqrt(xp.where(coincide, xp.ones_like(t), t))
        slope = xp.exp(distance * (-1.0 / sigma)) * (-0.5 / sigma) / distance
        return xp.where(coincide, xp.zeros_like(t), slope)


@dataclasses.dataclass(frozen=True)
class Matern32Kernel(RadialKernel):
    r"""The Matern 3/2 kernel.

    .. math:: \kappa(x, y) = (1 + a) \, e^{-a}, \qquad a = \sqrt{3} \, \lVert x - y \rVert / \sigma

    Parameters
    ----------
    sigma : float or array, shape ()
        Length scale, in the unit of the paths, above 0.

    Raises
    ------
    TypeError
        If a parameter is neither a real number nor an array without axes.
    ValueError
        If a parameter is out of range or not finite.

    See Also
    --------
    Matern12Kernel, Matern52Kernel : Other kernels of this family.
    RBFKernel : The limit of this family.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x = np.array([[0.0], [0.5], [1.0]])
    >>> value = branchsig.branched_sig_kernel(
    ...     x, x, depth=2, static_kernel=branchsig.Matern32Kernel(sigma=1.0)
    ... )
    """

    sigma: float

    def __post_init__(self) -> None:
        real(self, "sigma", above=0.0)

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        return _matern_increments(xp, t, math.sqrt(3.0) / sigma, 0.0)

    def _sigma_increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        factor = math.sqrt(3.0) / sigma
        z, square = corners.scaled(corners.root(t), factor), corners.scaled(t, factor * factor)
        return _falling_increments(xp, z, square, lambda a: a * a, lambda a, b: a + b)  # z² exp(-z)

    def _phi_derivative(self, xp: Any, t: Array, sigma: float) -> Array:
        return (-1.5 / sigma / sigma) * xp.exp(_distance(xp, t) * (-math.sqrt(3.0) / sigma))


@dataclasses.dataclass(frozen=True)
class Matern52Kernel(RadialKernel):
    r"""The Matern 5/2 kernel.

    .. math:: \kappa(x, y) = \bigl( 1 + a + a^2 / 3 \bigr) e^{-a}, \qquad a = \sqrt{5} \, \lVert x - y \rVert / \sigma

    Parameters
    ----------
    sigma : float or array, shape ()
        Length scale, in the unit of the paths, above 0.

    Raises
    ------
    TypeError
        If a parameter is neither a real number nor an array without axes.
    ValueError
        If a parameter is out of range or not finite.

    See Also
    --------
    Matern12Kernel, Matern32Kernel : Rougher kernels of this family.
    RBFKernel : The limit of this family.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x = np.array([[0.0], [0.5], [1.0]])
    >>> value = branchsig.branched_sig_kernel(
    ...     x, x, depth=2, static_kernel=branchsig.Matern52Kernel(sigma=1.0)
    ... )
    """

    sigma: float

    def __post_init__(self) -> None:
        real(self, "sigma", above=0.0)

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        return _matern_increments(xp, t, math.sqrt(5.0) / sigma, 1.0 / 3.0)

    def _sigma_increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        factor = math.sqrt(5.0) / sigma
        z = corners.scaled(corners.root(t), factor)
        cubic = corners.product(corners.scaled(t, factor * factor / 3.0), corners.polynomial(z, (1.0, 1.0)))
        return _falling_increments(  # (z² + z³) / 3 exp(-z)
            xp, z, cubic, lambda a: a * a * (1.0 + a) / 3.0, lambda a, b: (a + b + a * a + a * b + b * b) / 3.0
        )

    def _phi_derivative(self, xp: Any, t: Array, sigma: float) -> Array:
        a = _distance(xp, t) * (math.sqrt(5.0) / sigma)
        return (-5.0 / 6.0 / sigma / sigma) * (1.0 + a) * xp.exp(-a)


_LOG_EXCESS = tuple((-1.0) ** n * (n - 1) / n for n in range(2, 17))
"""Coefficients of the series of log(1 + u) − u / (1 + u), from u² on; exact to rounding for u up to 1/16."""


def _log_excess(xp: Any, u: Array) -> Array:
    """log(1 + u) − u / (1 + u) for u at least 0, to a few units in its own last place."""
    series = xp.full_like(u, _LOG_EXCESS[-1])
    for coefficient in _LOG_EXCESS[-2::-1]:
        series = series * u + coefficient
    return xp.where(u <= _SERIES_TO, u * u * series, xp.log1p(u) - u / (1.0 + u))


@dataclasses.dataclass(frozen=True)
class RationalQuadraticKernel(RadialKernel):
    r"""The rational quadratic kernel.

    .. math:: \kappa(x, y) = \Bigl( 1 + \frac{\lVert x - y \rVert^2}{2 \alpha \sigma^2} \Bigr)^{-\alpha}

    Parameters
    ----------
    sigma : float or array, shape ()
        Length scale, in the unit of the paths, above 0.
    alpha : float or array, shape (), default: 1.0
        Exponent, above 0. As it grows, the kernel tends to a radial basis function kernel.

    Raises
    ------
    TypeError
        If a parameter is neither a real number nor an array without axes.
    ValueError
        If a parameter is out of range or not finite.

    See Also
    --------
    RBFKernel : The limit for large `alpha`, with ``2 * sigma**2`` as its parameter.
    Matern52Kernel : Another radial kernel.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x = np.array([[0.0], [0.5], [1.0]])
    >>> kernel = branchsig.RationalQuadraticKernel(sigma=1.0, alpha=0.5)
    >>> value = branchsig.branched_sig_kernel(x, x, depth=2, static_kernel=kernel)
    """

    sigma: float
    alpha: float = 1.0

    parameters = ("sigma", "alpha")

    def __post_init__(self) -> None:
        real(self, "sigma", above=0.0)
        real(self, "alpha", above=0.0)

    @property
    def effective_alpha(self) -> float:
        """`alpha`, but at most LARGEST_ALPHA, beyond which the kernel no longer changes."""
        return min(self.alpha, LARGEST_ALPHA)

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        alpha = self.effective_alpha
        u = corners.scaled(t, 0.5 / alpha / sigma / sigma)
        return self._in_range(xp, t, corners.power_of_logarithm(corners.log_one_plus(u), -alpha).r)

    def _in_range(self, xp: Any, t: corners.Corners, g: Array) -> Array:
        # A kernel that hardly decays is not 0 at differences that count as infinite.
        beyond = self._units(single=g.dtype == xp.float32)[2] ** 2
        g = xp.where(t.v00 >= beyond, xp.zeros_like(g), g)
        if self.effective_alpha >= _FALLING_ALPHA:
            return g
        return xp.where(xp.maximum(xp.maximum(t.v10, t.v01), t.v11) >= beyond, xp.full_like(g, math.nan), g)

    def grad_parameters(self, ctx: Context, derivs: Array) -> dict[str, Array]:
        _, squares, _, sigma, p, q, r = ctx.saved_tensors
        xp = namespace_of(squares)
        t, sign = corners.from_extreme(corners.at_corners(squares, p, q, r), largest=False)
        excess = (self.effective_alpha / self.alpha) ** 2  # the derivative falls like the inverse square
        of_alpha = excess * weighted_sum(sign * derivs, self._alpha_increments(xp, t, sigma))
        return super().grad_parameters(ctx, derivs) | {"alpha": of_alpha}

    def _sigma_increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        """sigma ∂φ/∂sigma = 2 α u (1 + u)^(−α−1)"""
        alpha = self.effective_alpha
        u, over_sigma = corners.scaled(t, 0.5 / alpha / sigma / sigma), 1.0 / sigma / sigma
        v, power = corners.scaled(t, over_sigma), corners.power_of_logarithm(corners.log_one_plus(u), -alpha - 1.0)

        def rise(low: Array, high: Array, step: Array) -> Array:
            start, end = (xp.exp((-alpha - 1.0) * xp.log1p(a)) for a in (low, high))
            fall = xp.expm1((-alpha - 1.0) * xp.log1p(step / (1.0 + low)))
            return 2 * alpha * (low * start * fall + step * end)

        g = xp.where(_is_steep(xp, v), _by_larger_step(xp, u, rise), corners.product(v, power).r)
        return self._in_range(xp, t, g)

    def _alpha_increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        """∂φ/∂α = −M(u) (1 + u)^−α, M(u) = log(1 + u) − u / (1 + u)"""
        alpha = self.effective_alpha
        u = corners.scaled(t, 0.5 / alpha / sigma / sigma)
        logarithm = corners.log_one_plus(u)
        power = corners.power_of_logarithm(logarithm, -alpha)

        def rise(low: Array, high: Array, step: Array) -> Array:
            # 1 + high = (1 + low) (1 + x), so M(high) − M(low) = M(x) + a product of two fractions.
            x = step / (1.0 + low)
            more = _log_excess(xp, x) + x / (1.0 + x) * (low / (1.0 + low))
            start, end = (xp.exp(-alpha * xp.log1p(a)) for a in (low, high))
            return -(_log_excess(xp, low) * start * xp.expm1(-alpha * xp.log1p(x)) + more * end)

        near = corners.product(corners.product(u, u), corners.polynomial(u, _LOG_EXCESS))
        b00, b10, b01, b11 = (1.0 + a for a in u[:4])
        bend = u.q / b01 * (u.p / b00 / b10 + (u.p + u.r) / b10 / b11) - u.r / b10 / b11  # of 1 / (1 + u)
        v00, v10, v01, v11 = (_log_excess(xp, a) for a in u[:4])
        p = _log_excess(xp, u.p / b00) + u.p / b10 * (u.v00 / b00)
        q = _log_excess(xp, u.q / b00) + u.q / b01 * (u.v00 / b00)
        far = corners.Corners(v00, v10, v01, v11, p, q, logarithm.r + bend)
        largest = xp.maximum(xp.maximum(u.v10, u.v01), u.v11)
        excess = corners.Corners._make(xp.where(largest <= _SERIES_TO, a, b) for a, b in zip(near, far, strict=True))
        v = corners.scaled(t, 1.0 / sigma / sigma)
        g = xp.where(_is_steep(xp, v), _by_larger_step(xp, u, rise), -corners.product(excess, power).r)
        return self._in_range(xp, t, g)

    def _phi_derivative(self, xp: Any, t: Array, sigma: float) -> Array:
        alpha = self.effective_alpha
        c = t * (0.5 / alpha / sigma / sigma)
        return (-0.5 / sigma / sigma) * xp.exp((-alpha - 1.0) * xp.log1p(c))
