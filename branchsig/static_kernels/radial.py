"""The radial static kernels, functions of ‖x − y‖²."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from branchsig import _corners as corners
from branchsig._arrays import Array, namespace_of
from branchsig.static_kernels.base import Context, Parameters, difference, difference_adjoint, real

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
"""From here on a rational quadratic kernel is its limit, the radial basis function kernel, to rounding."""

_FALLING_ALPHA = 0.1
"""From here on a rational quadratic kernel is 0 to rounding where coordinates are as good as infinite."""

_FARTHEST = 1e4
"""At so many length scales the exponential in any kernel is 0."""

_SERIES_TO = 1.0 / 16
"""Up to so many length scales, and by so many terms, a Matern kernel is its power series to rounding."""

_SERIES_TERMS = 9


class RadialKernel(Parameters):
    """κ(x, y) = φ(‖x − y‖²), with a length scale `sigma` or its square.

    The increments have an error of a few units in the last place of the products of their factors, not of φ: also where
    all values of φ are nearly equal, and where the paths lie far from each other beside their size. Gradients then lose
    the digits that the distance of the paths has more than their size.
    """

    sigma: float

    _power = 1
    """What power of a length `sigma` is."""

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        """Double differences of φ from the squared distances at the corners of all cells, the first the smallest."""
        raise NotImplementedError

    def _phi_derivative(self, xp: Any, t: Array, sigma: float) -> Array:
        raise NotImplementedError

    def _units(self, *, single: bool) -> tuple[float, float, float]:
        """Return a unit of length, `sigma` in it, and the largest difference of coordinates, squared finite beside it.

        The unit is 1 but for extreme values of `sigma`, whose square or its inverse would leave the range of the
        floats. Differences beyond the largest are as good as infinite.
        """
        least, most, largest, ratio, range_ = (-10, 30, 55, 40, 126) if single else (-100, 400, 500, 400, 1000)
        exponent = math.frexp(self.sigma)[1] // self._power
        shift = min(max(exponent, least), most) - exponent
        unit = 2.0 ** min(max(shift, -range_), range_)
        sigma = self.sigma * unit if self._power == 1 else self.sigma * unit * unit
        if single:  # no two floats are so close that it would matter
            sigma = max(sigma, 2.0 ** (2 * least * self._power))
        return unit, sigma, 2.0 ** min(largest, exponent + shift + ratio)

    def __call__(self, ctx: Context, x: Array, y: Array) -> Array:
        xp = namespace_of(x)
        unit, sigma, most = self._units(single=x.dtype == xp.float32)

        def in_units(difference: Array) -> Array:
            return xp.clip(difference if unit == 1.0 else unit * difference, -most, most)

        # Channel by channel, and by differences: ‖x‖² + ‖y‖² − 2⟨x, y⟩ would lose the distance of points close to each
        # other. So are the differences of distances: ‖x' − y‖² − ‖x − y‖² = ⟨x' − x, (x' − y) + (x − y)⟩.
        dx, dy = in_units(difference(x, -2)), in_units(difference(y, -2))
        squares, p, q, r = (xp.zeros_like(x[:, :1, :1]) for _ in range(4))
        apart = [in_units(_channel_difference(x, y, channel)) for channel in range(x.shape[-1])]
        for channel, u in enumerate(apart):
            square = u**2
            squares = squares + square
            # Differences that are cut off at `most` are no longer those of the steps.
            cut = xp.abs(u) >= most
            along_x = cut[:, 1:, :] | cut[:, :-1, :]
            along_y = cut[:, :, 1:] | cut[:, :, :-1]
            over_x, over_y = difference(square, -2), difference(square, -1)
            p = p + xp.where(along_x, over_x, dx[:, :, None, channel] * (u[:, 1:, :] + u[:, :-1, :]))
            q = q + xp.where(along_y, over_y, -dy[:, None, :, channel] * (u[:, :, 1:] + u[:, :, :-1]))
            steps = -2 * dx[:, :, None, channel] * dy[:, None, :, channel]
            r = r + xp.where(along_x[:, :, 1:] | along_x[:, :, :-1], difference(over_x, -1), steps)
        ctx.save_for_backward(apart, squares, unit, sigma)
        t, sign = corners.from_extreme(corners.at_corners(squares, p, q, r), largest=False)
        return sign * self._increments(xp, t, sigma)

    def grad_x(self, ctx: Context, derivs: Array) -> Array:
        apart, squares, unit, sigma = ctx.saved_tensors
        xp = namespace_of(squares)
        slope = self._phi_derivative(xp, squares, sigma)
        ctx.save_for_grad_y(slope)
        weights = 2 * slope * difference_adjoint(difference_adjoint(derivs, -2), -1)
        return unit * xp.stack([xp.sum(weights * u, axis=2) for u in apart], axis=-1)

    def grad_y(self, ctx: Context, derivs: Array) -> Array:
        apart, squares, unit, sigma = ctx.saved_tensors
        xp = namespace_of(squares)
        slope = ctx.saved_for_y[0] if ctx.saved_for_y else self._phi_derivative(xp, squares, sigma)
        weights = -2 * slope * difference_adjoint(difference_adjoint(derivs, -2), -1)
        return unit * xp.stack([xp.sum(weights * u, axis=1) for u in apart], axis=-1)


def _channel_difference(x: Array, y: Array, channel: int) -> Array:
    return x[:, :, None, channel] - y[:, None, :, channel]


@dataclasses.dataclass(frozen=True)
class RBFKernel(RadialKernel):
    r"""The radial basis function kernel.

    .. math:: \kappa(x, y) = \exp\bigl( -\lVert x - y \rVert^2 / \sigma \bigr)

    Parameters
    ----------
    sigma : float
        Squared length scale, in the squared unit of the paths, above 0.

    Raises
    ------
    TypeError
        If a parameter is not a real number.
    ValueError
        If a parameter is out of range or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x = np.array([[0.0], [0.5], [1.0]])
    >>> value = branchsig.branched_sig_kernel(x, x, depth=2, static_kernel=branchsig.RBFKernel(sigma=1.0))
    """

    sigma: float

    def __post_init__(self) -> None:
        real(self, "sigma", above=0.0)

    _power = 2

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        return _of_logarithm(xp, corners.scaled(t, -1.0 / sigma)).r

    def _phi_derivative(self, xp: Any, t: Array, sigma: float) -> Array:
        return (-1.0 / sigma) * xp.exp(t * (-1.0 / sigma))


def _of_logarithm(xp: Any, v: corners.Corners) -> corners.Corners:
    """exp(v), v at most 0."""
    e = corners.exponential((xp.exp(v.v00), xp.exp(v.v10), xp.exp(v.v01), xp.exp(v.v11)), v.p, v.q, v.r)
    return e._replace(r=xp.where(v.v00 < -_FARTHEST, xp.zeros_like(e.r), e.r))


def _matern_increments(xp: Any, t: corners.Corners, factor: float, second: float) -> Array:
    """Double differences of P(z) exp(−z), z = factor · distance, for P = 1 + z + second · z² such that the series in z
    has no term of first order.

    Near 0 that is 1 + z² S(z), and z² is known without a root: there the terms of first order of P and of exp(−z) would
    leave nothing but rounding. Where z itself changes by more than 1 in a cell, the difference along the larger step
    may be one of values.
    """
    z = corners.scaled(corners.root(t), factor)
    powers = range(2, 2 + _SERIES_TERMS)
    series = tuple((-1.0) ** n / math.factorial(n) * (1 - n + second * n * (n - 1)) for n in powers)
    near = corners.product(corners.scaled(t, factor * factor), corners.polynomial(z, series)).r
    polynomial = corners.polynomial(z, (1.0, 1.0, second) if second else (1.0, 1.0))
    smooth = corners.product(polynomial, _of_logarithm(xp, corners.scaled(z, -1.0))).r

    def difference(start: Array, end: Array, step: Array) -> Array:
        """The difference of two values, z of the end less that of the start being the step."""
        back = step < 0
        low, high = xp.where(back, end, start), xp.where(back, start, end)
        low, high, step = (xp.clip(a, 0.0, _FARTHEST) for a in (low, high, xp.where(back, -step, step)))
        value = (1.0 + low + second * low * low) * xp.exp(-low) * xp.expm1(-step)
        value = value + step * (1.0 + second * (low + high)) * xp.exp(-high)
        return xp.where(back, -value, value)

    along_x, along_y = xp.abs(z.p), xp.abs(z.q)
    steep = xp.where(
        along_x > along_y,
        difference(z.v10, z.v11, z.q + z.r) - difference(z.v00, z.v01, z.q),
        difference(z.v01, z.v11, z.p + z.r) - difference(z.v00, z.v10, z.p),
    )
    largest = xp.maximum(xp.maximum(z.v10, z.v01), z.v11)
    far = xp.where(z.v00 > _FARTHEST, xp.zeros_like(steep), xp.where(xp.maximum(along_x, along_y) > 1, steep, smooth))
    return xp.where(largest <= _SERIES_TO, near, far)


def _distance(xp: Any, t: Array) -> Array:
    """√t, whose derivative at 0 is 0 for a library that differentiates by itself."""
    nothing = t == 0
    return xp.where(nothing, xp.zeros_like(t), xp.sqrt(xp.where(nothing, xp.ones_like(t), t)))


@dataclasses.dataclass(frozen=True)
class Matern12Kernel(RadialKernel):
    r"""The Matern 1/2 kernel.

    .. math:: \kappa(x, y) = \exp( -\lVert x - y \rVert / \sigma )

    Parameters
    ----------
    sigma : float
        Length scale, in the unit of the paths, above 0.

    Raises
    ------
    TypeError
        If a parameter is not a real number.
    ValueError
        If a parameter is out of range or not finite.

    Notes
    -----
    Where two points coincide the kernel has no gradient; 0 is taken for it.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x = np.array([[0.0], [0.5], [1.0]])
    >>> value = branchsig.branched_sig_kernel(x, x, depth=2, static_kernel=branchsig.Matern12Kernel(sigma=1.0))
    """

    sigma: float

    def __post_init__(self) -> None:
        real(self, "sigma", above=0.0)

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        return _of_logarithm(xp, corners.scaled(corners.root(t), -1.0 / sigma)).r

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
    sigma : float
        Length scale, in the unit of the paths, above 0.

    Raises
    ------
    TypeError
        If a parameter is not a real number.
    ValueError
        If a parameter is out of range or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x = np.array([[0.0], [0.5], [1.0]])
    >>> value = branchsig.branched_sig_kernel(x, x, depth=2, static_kernel=branchsig.Matern32Kernel(sigma=1.0))
    """

    sigma: float

    def __post_init__(self) -> None:
        real(self, "sigma", above=0.0)

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        return _matern_increments(xp, t, math.sqrt(3.0) / sigma, 0.0)

    def _phi_derivative(self, xp: Any, t: Array, sigma: float) -> Array:
        return (-1.5 / sigma / sigma) * xp.exp(_distance(xp, t) * (-math.sqrt(3.0) / sigma))


@dataclasses.dataclass(frozen=True)
class Matern52Kernel(RadialKernel):
    r"""The Matern 5/2 kernel.

    .. math:: \kappa(x, y) = \bigl( 1 + a + a^2 / 3 \bigr) e^{-a}, \qquad a = \sqrt{5} \, \lVert x - y \rVert / \sigma

    Parameters
    ----------
    sigma : float
        Length scale, in the unit of the paths, above 0.

    Raises
    ------
    TypeError
        If a parameter is not a real number.
    ValueError
        If a parameter is out of range or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x = np.array([[0.0], [0.5], [1.0]])
    >>> value = branchsig.branched_sig_kernel(x, x, depth=2, static_kernel=branchsig.Matern52Kernel(sigma=1.0))
    """

    sigma: float

    def __post_init__(self) -> None:
        real(self, "sigma", above=0.0)

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        return _matern_increments(xp, t, math.sqrt(5.0) / sigma, 1.0 / 3.0)

    def _phi_derivative(self, xp: Any, t: Array, sigma: float) -> Array:
        a = _distance(xp, t) * (math.sqrt(5.0) / sigma)
        return (-5.0 / 6.0 / sigma / sigma) * (1.0 + a) * xp.exp(-a)


@dataclasses.dataclass(frozen=True)
class RationalQuadraticKernel(RadialKernel):
    r"""The rational quadratic kernel.

    .. math:: \kappa(x, y) = \Bigl( 1 + \frac{\lVert x - y \rVert^2}{2 \alpha \sigma^2} \Bigr)^{-\alpha}

    Parameters
    ----------
    sigma : float
        Length scale, in the unit of the paths, above 0.
    alpha : float, default: 1.0
        Exponent, above 0. The kernel tends to a radial basis function kernel as it grows.

    Raises
    ------
    TypeError
        If a parameter is not a real number.
    ValueError
        If a parameter is out of range or not finite.

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

    def __post_init__(self) -> None:
        real(self, "sigma", above=0.0)
        real(self, "alpha", above=0.0)

    @property
    def effective_alpha(self) -> float:
        """The exponent, but no larger than makes a difference."""
        return min(self.alpha, LARGEST_ALPHA)

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        alpha = self.effective_alpha
        c = corners.scaled(t, 0.5 / alpha / sigma / sigma)
        b00, b10, b01, b11 = (1.0 + a for a in c[:4])
        bend = c.r / b10 * (b00 / b01) - c.p / b10 * (c.q / b01)
        logs = (xp.log1p(c.p / b00), xp.log1p(c.q / b00), corners.log_ratio(bend, b11 / b10, b00 / b01))
        values = (xp.exp(-alpha * xp.log1p(a)) for a in c[:4])
        g = corners.exponential((*values,), *(-alpha * a for a in logs)).r
        # Coordinates as good as infinite are not so for a kernel that hardly falls.
        beyond = self._units(single=g.dtype == xp.float32)[2] ** 2
        g = xp.where(t.v00 >= beyond, xp.zeros_like(g), g)
        if alpha >= _FALLING_ALPHA:
            return g
        return xp.where(xp.maximum(xp.maximum(t.v10, t.v01), t.v11) >= beyond, xp.full_like(g, math.nan), g)

    def _phi_derivative(self, xp: Any, t: Array, sigma: float) -> Array:
        alpha = self.effective_alpha
        c = t * (0.5 / alpha / sigma / sigma)
        return (-0.5 / sigma / sigma) * xp.exp((-alpha - 1.0) * xp.log1p(c))
