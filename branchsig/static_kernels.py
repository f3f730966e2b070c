"""Static kernels: the kernels on the space the paths live in, and the gradients of their increments.

Paths x and y, stacked, come in; the increments of a static kernel κ go out::

    g[i, j] = κ(x[i+1], y[j+1]) − κ(x[i], y[j+1]) − κ(x[i+1], y[j]) + κ(x[i], y[j])

Later the derivatives with respect to g come in, and those with respect to x and y go out. Everything is written in
array API calls, so it works on the arrays of any library.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import numbers
from typing import Any

from branchsig import _corners as corners
from branchsig._arrays import Array, device_of, namespace_of

__all__ = [
    "Context",
    "LinearKernel",
    "Matern12Kernel",
    "Matern32Kernel",
    "Matern52Kernel",
    "PolynomialKernel",
    "RBFKernel",
    "RationalQuadraticKernel",
    "ScaledLinearKernel",
    "StaticKernel",
]


class Context:
    """What a static kernel keeps between its call and its gradients.

    The library makes one for each batch of pairs and hands it to the methods of a `StaticKernel`; users need none of
    their own, except to try a kernel out.

    Attributes
    ----------
    saved_tensors : tuple
        What `save_for_backward` was given.
    saved_for_y : tuple
        What `save_for_grad_y` was given; empty where `grad_x` was not called.

    Examples
    --------
    >>> import branchsig
    >>> ctx = branchsig.Context()
    >>> ctx.save_for_backward("x", "y")
    >>> ctx.saved_tensors
    ('x', 'y')
    """

    def __init__(self) -> None:
        self.saved_tensors: tuple[Any, ...] = ()
        self.saved_for_y: tuple[Any, ...] = ()

    def save_for_backward(self, *arrays: Any) -> None:
        """Keep arrays for `grad_x` and `grad_y`, which find them in `saved_tensors`."""
        self.saved_tensors = arrays

    def save_for_grad_y(self, *arrays: Any) -> None:
        """Keep arrays made in `grad_x` for `grad_y`, which finds them in `saved_for_y`."""
        self.saved_for_y = arrays


class StaticKernel(abc.ABC):
    r"""Base class of all static kernels, and of those of your own.

    A subclass defines three methods. ``__call__(ctx, x, y)`` takes paths x, shape (batch, length1, dimension), and y,
    shape (batch, length2, dimension), and returns the increments

    .. math:: g_{ij} = \kappa(x_{i+1}, y_{j+1}) - \kappa(x_i, y_{j+1}) - \kappa(x_{i+1}, y_j) + \kappa(x_i, y_j),

    shape (batch, length1 - 1, length2 - 1). ``grad_x(ctx, derivs)`` takes derivatives of a scalar with respect to the
    increments and returns those with respect to x, and ``grad_y(ctx, derivs)`` those with respect to y. Either may be
    called alone; if both are, `grad_x` comes first. A kernel that is never differentiated needs `__call__` alone.

    The arrays belong to the library of the caller's paths, and must not be written to. Methods written in array API
    calls serve every library.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> class SquareKernel(branchsig.StaticKernel):  # <x, y>**2
    ...     def __call__(self, ctx, x, y):
    ...         products = x @ y.swapaxes(1, 2)
    ...         ctx.save_for_backward(x, y, products)
    ...         return np.diff(np.diff(products**2, axis=1), axis=2)
    ...
    ...     def grad_x(self, ctx, derivs):
    ...         x, y, products = ctx.saved_tensors
    ...         return self.weights(products, derivs) @ y
    ...
    ...     def grad_y(self, ctx, derivs):
    ...         x, y, products = ctx.saved_tensors
    ...         return self.weights(products, derivs).swapaxes(1, 2) @ x
    ...
    ...     @staticmethod
    ...     def weights(products, derivs):
    ...         padded = np.pad(derivs, ((0, 0), (1, 1), (1, 1)))
    ...         return 2 * products * np.diff(np.diff(padded, axis=1), axis=2)
    >>> x = np.array([[0.0], [0.5], [1.0]])
    >>> value = branchsig.branched_sig_kernel(x, x, depth=2, static_kernel=SquareKernel())
    >>> same = branchsig.PolynomialKernel(degree=2, gamma=0)
    >>> bool(np.isclose(value, branchsig.branched_sig_kernel(x, x, depth=2, static_kernel=same)))
    True
    """

    @abc.abstractmethod
    def __call__(self, ctx: Context, x: Array, y: Array) -> Array:
        """Return the increments of the kernel, shape (batch, length1 - 1, length2 - 1)."""

    def grad_x(self, ctx: Context, derivs: Array) -> Array:
        """Return the derivatives with respect to x, shape (batch, length1, dimension)."""
        raise NotImplementedError(_missing_gradient(self, "grad_x"))

    def grad_y(self, ctx: Context, derivs: Array) -> Array:
        """Return the derivatives with respect to y, shape (batch, length2, dimension)."""
        raise NotImplementedError(_missing_gradient(self, "grad_y"))


def _missing_gradient(kernel: StaticKernel, method: str) -> str:
    return f"{type(kernel).__name__} has no {method}: define {method}(self, ctx, derivs) to differentiate through it"


def _difference(a: Array, axis: int) -> Array:
    """Differences of neighbours along axis -1 or -2 of a stack of matrices."""
    return a[:, 1:, :] - a[:, :-1, :] if axis == -2 else a[:, :, 1:] - a[:, :, :-1]


def _difference_adjoint(derivs: Array, axis: int) -> Array:
    """Adjoint of `_difference`: one entry longer along the axis."""
    xp = namespace_of(derivs)
    shape = list(derivs.shape)
    shape[axis] = 1
    zero = xp.zeros(tuple(shape), dtype=derivs.dtype, device=device_of(derivs))
    return xp.concat([zero, derivs], axis=axis) - xp.concat([derivs, zero], axis=axis)


def _transposed(a: Array) -> Array:
    return namespace_of(a).permute_dims(a, (0, 2, 1))


class _Parameters(StaticKernel):
    """Parameters by name, as scikit-learn asks for them. The kernels are immutable: replaced, and never set."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def set_params(self, **params: Any) -> Any:
        """Refuse: a kernel that changed would change in every place that holds it."""
        if not params:
            return self
        changes = ", ".join(f"{name}={value!r}" for name, value in params.items())
        raise TypeError(
            f"{self!r} cannot be changed by set_params({changes}): kernels are immutable. Make another one, "
            f"dataclasses.replace(static_kernel, {changes}), and set static_kernel to it"
        )


class _RadialKernel(_Parameters):
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
        dx, dy = in_units(_difference(x, -2)), in_units(_difference(y, -2))
        squares, p, q, r = (xp.zeros_like(x[:, :1, :1]) for _ in range(4))
        apart = [in_units(_channel_difference(x, y, channel)) for channel in range(x.shape[-1])]
        for channel, u in enumerate(apart):
            square = u**2
            squares = squares + square
            # Differences that are cut off at `most` are no longer those of the steps.
            cut = xp.abs(u) >= most
            along_x = cut[:, 1:, :] | cut[:, :-1, :]
            along_y = cut[:, :, 1:] | cut[:, :, :-1]
            over_x, over_y = _difference(square, -2), _difference(square, -1)
            p = p + xp.where(along_x, over_x, dx[:, :, None, channel] * (u[:, 1:, :] + u[:, :-1, :]))
            q = q + xp.where(along_y, over_y, -dy[:, None, :, channel] * (u[:, :, 1:] + u[:, :, :-1]))
            steps = -2 * dx[:, :, None, channel] * dy[:, None, :, channel]
            r = r + xp.where(along_x[:, :, 1:] | along_x[:, :, :-1], _difference(over_x, -1), steps)
        ctx.save_for_backward(apart, squares, unit, sigma)
        t, sign = corners.from_extreme(corners.at_corners(squares, p, q, r), largest=False)
        return sign * self._increments(xp, t, sigma)

    def grad_x(self, ctx: Context, derivs: Array) -> Array:
        apart, squares, unit, sigma = ctx.saved_tensors
        xp = namespace_of(squares)
        slope = self._phi_derivative(xp, squares, sigma)
        ctx.save_for_grad_y(slope)
        weights = 2 * slope * _difference_adjoint(_difference_adjoint(derivs, -2), -1)
        return unit * xp.stack([xp.sum(weights * u, axis=2) for u in apart], axis=-1)

    def grad_y(self, ctx: Context, derivs: Array) -> Array:
        apart, squares, unit, sigma = ctx.saved_tensors
        xp = namespace_of(squares)
        slope = ctx.saved_for_y[0] if ctx.saved_for_y else self._phi_derivative(xp, squares, sigma)
        weights = -2 * slope * _difference_adjoint(_difference_adjoint(derivs, -2), -1)
        return unit * xp.stack([xp.sum(weights * u, axis=1) for u in apart], axis=-1)


def _channel_difference(x: Array, y: Array, channel: int) -> Array:
    return x[:, :, None, channel] - y[:, None, :, channel]


class _LinearBody(_Parameters):
    """κ(x, y) = factor² ⟨x, y⟩.

    Its increments are ⟨factor Δx, factor Δy⟩: differences are taken first, so that an offset of the paths costs no
    digits, and each is scaled, so that the square of the factor need not be a finite float above 0.
    """

    @property
    def _factor(self) -> float:
        return 1.0

    def __call__(self, ctx: Context, x: Array, y: Array) -> Array:
        dx, dy = self._scaled(_difference(x, -2)), self._scaled(_difference(y, -2))
        ctx.save_for_backward(dx, dy)
        return namespace_of(x).matmul(dx, _transposed(dy))

    def grad_x(self, ctx: Context, derivs: Array) -> Array:
        _, dy = ctx.saved_tensors
        return self._scaled(_difference_adjoint(namespace_of(dy).matmul(derivs, dy), -2))

    def grad_y(self, ctx: Context, derivs: Array) -> Array:
        dx, _ = ctx.saved_tensors
        return self._scaled(_difference_adjoint(namespace_of(dx).matmul(_transposed(derivs), dx), -2))

    def _scaled(self, a: Array) -> Array:
        factor = self._factor
        return a if factor == 1.0 else factor * a


def _real(kernel: StaticKernel, name: str, *, above: float = -math.inf, least: float = -math.inf) -> None:
    """Check an attribute of a kernel and keep it as a float."""
    value = getattr(kernel, name)
    title = f"{type(kernel).__name__}: {name}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{title} is {value!r}: expected a real number")
    wanted = f"a finite number > {above:g}" if above > -math.inf else f"a finite number >= {least:g}"
    if above == least == -math.inf:
        wanted = "a finite number"
    number = float(value)
    if not math.isfinite(number) or number <= above or number < least:
        raise ValueError(f"{title} is {value!r}: expected {wanted}")
    object.__setattr__(kernel, name, number)


@dataclasses.dataclass(frozen=True)
class LinearKernel(_LinearBody):
    r"""The linear kernel, which every function uses that is given none.

    .. math:: \kappa(x, y) = \langle x, y \rangle

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x = np.array([[0.0], [0.5], [1.0]])
    >>> value = branchsig.branched_sig_kernel(x, x, depth=2, static_kernel=branchsig.LinearKernel())
    """


@dataclasses.dataclass(frozen=True)
class ScaledLinearKernel(_LinearBody):
    r"""The scaled linear kernel: the linear kernel of paths multiplied by `scale`.

    .. math:: \kappa(x, y) = \mathrm{scale}^2 \langle x, y \rangle

    Parameters
    ----------
    scale : float, default: 1.0
        Factor of the paths, finite.

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
    >>> value = branchsig.branched_sig_kernel(x, x, depth=2, static_kernel=branchsig.ScaledLinearKernel(0.5))
    >>> bool(np.isclose(value, branchsig.branched_sig_kernel(0.5 * x, 0.5 * x, depth=2)))
    True
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        _real(self, "scale")

    @property
    def _factor(self) -> float:
        return self.scale


@dataclasses.dataclass(frozen=True)
class PolynomialKernel(_Parameters):
    r"""The polynomial kernel.

    .. math:: \kappa(x, y) = \mathrm{scale} \cdot (\langle x, y \rangle + \gamma)^{\mathrm{degree}}

    Parameters
    ----------
    degree : float, default: 3.0
        Exponent, at least 0.
    gamma : float, default: 1.0
        Constant added to the inner product, finite.
    scale : float, default: 1.0
        Factor, at least 0.

    Raises
    ------
    TypeError
        If a parameter is not a real number.
    ValueError
        If a parameter is out of range or not finite.

    Notes
    -----
    A fractional degree has no real value where the sum is negative: the kernel is NaN there.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x = np.array([[0.0], [0.5], [1.0]])
    >>> value = branchsig.branched_sig_kernel(x, x, depth=2, static_kernel=branchsig.PolynomialKernel(degree=2))
    """

    degree: float = 3.0
    gamma: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        _real(self, "degree", least=0.0)
        _real(self, "gamma")
        _real(self, "scale", least=0.0)

    def as_linear(self) -> ScaledLinearKernel | None:
        """Return the linear kernel that has the same increments, if there is one: for degree 1."""
        return ScaledLinearKernel(math.sqrt(self.scale)) if self.degree == 1.0 else None

    def __call__(self, ctx: Context, x: Array, y: Array) -> Array:
        linear = self.as_linear()
        if linear is not None:
            return linear(ctx, x, y)
        xp = namespace_of(x)
        # Differences of ⟨x, y⟩ + γ by the steps: where the paths lie far from 0, its values are nearly equal.
        dx, dy = _difference(x, -2), _transposed(_difference(y, -2))
        base = xp.matmul(x, _transposed(y)) + self.gamma
        ctx.save_for_backward(x, y, base)
        v = corners.at_corners(base, xp.matmul(dx, _transposed(y)), xp.matmul(x, dy), xp.matmul(dx, dy))
        if self.degree == 0.0:
            return 0.0 * xp.where(xp.isfinite(v.r), v.r, xp.zeros_like(v.r))  # which a library can differentiate
        if self.degree == math.floor(self.degree):
            return self.scale * corners.power(v, int(self.degree)).r
        v, sign = corners.from_extreme(v, largest=True)
        nothing = v.v00 == 0
        over = xp.where(nothing, xp.ones_like(v.r), v.v00)
        # v11 v00 / (v10 v01) − 1, which is as good as infinite where a factor below is 0
        below1, below2 = (xp.where(a == 0, xp.ones_like(a), a) for a in (v.v10, v.v01))
        bend = v.r / below1 * (v.v00 / below2) - v.p / below1 * (v.q / below2)
        bend = xp.where((v.v10 == 0) | (v.v01 == 0), xp.full_like(bend, math.inf), bend)
        logs = (xp.log1p(v.p / over), xp.log1p(v.q / over), _log_ratio(xp, bend, v.v11 / below1, v.v00 / below2))
        powers = (v.v00**self.degree, v.v10**self.degree, v.v01**self.degree, v.v11**self.degree)
        g = sign * self.scale * corners.exponential(powers, *(self.degree * a for a in logs)).r
        negative = xp.minimum(xp.minimum(v.v10, v.v01), v.v11) < 0
        return xp.where(negative, xp.full_like(g, math.nan), g)

    def grad_x(self, ctx: Context, derivs: Array) -> Array:
        linear = self.as_linear()
        if linear is not None:
            return linear.grad_x(ctx, derivs)
        x, y, base = ctx.saved_tensors
        xp = namespace_of(x)
        slope = self._slope(xp, base)
        ctx.save_for_grad_y(slope)
        return xp.matmul(slope * _difference_adjoint(_difference_adjoint(derivs, -2), -1), y)

    def grad_y(self, ctx: Context, derivs: Array) -> Array:
        linear = self.as_linear()
        if linear is not None:
            return linear.grad_y(ctx, derivs)
        x, _, base = ctx.saved_tensors
        xp = namespace_of(x)
        slope = ctx.saved_for_y[0] if ctx.saved_for_y else self._slope(xp, base)
        return xp.matmul(_transposed(slope * _difference_adjoint(_difference_adjoint(derivs, -2), -1)), x)

    def _slope(self, xp: Any, base: Array) -> Array:
        if self.degree == 0.0:
            return xp.zeros_like(base)
        return self.scale * self.degree * base ** (self.degree - 1.0)


@dataclasses.dataclass(frozen=True)
class RBFKernel(_RadialKernel):
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
        _real(self, "sigma", above=0.0)

    _power = 2

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        return _of_logarithm(xp, corners.scaled(t, -1.0 / sigma)).r

    def _phi_derivative(self, xp: Any, t: Array, sigma: float) -> Array:
        return (-1.0 / sigma) * xp.exp(t * (-1.0 / sigma))


def _log_ratio(xp: Any, bend: Array, ratio1: Array, ratio2: Array) -> Array:
    """The logarithm of a product of two ratios, from what it differs by from 1, and where that is much from themselves.

    Infinite where it differs by that.
    """
    near = ~(bend <= -0.5)
    one = xp.ones_like(bend)
    far = xp.log(xp.where(near, one, ratio1)) + xp.log(xp.where(near, one, ratio2))
    return xp.where(near, xp.log1p(xp.where(near, bend, xp.zeros_like(bend))), far)


_FALLING_ALPHA = 0.1
"""From here on a rational quadratic kernel is 0 to rounding where coordinates are as good as infinite."""

_FARTHEST = 1e4
"""At so many length scales the exponential in any kernel is 0."""


def _of_logarithm(xp: Any, v: corners.Corners) -> corners.Corners:
    """exp(v), v at most 0."""
    e = corners.exponential((xp.exp(v.v00), xp.exp(v.v10), xp.exp(v.v01), xp.exp(v.v11)), v.p, v.q, v.r)
    return e._replace(r=xp.where(v.v00 < -_FARTHEST, xp.zeros_like(e.r), e.r))


_SERIES_TO = 1.0 / 16
"""Up to so many length scales, and by so many terms, a Matern kernel is its power series to rounding."""
_SERIES_TERMS = 9


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
class Matern12Kernel(_RadialKernel):
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
        _real(self, "sigma", above=0.0)

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        return _of_logarithm(xp, corners.scaled(corners.root(t), -1.0 / sigma)).r

    def _phi_derivative(self, xp: Any, t: Array, sigma: float) -> Array:
        coincide = t == 0
        distance = xp.sqrt(xp.where(coincide, xp.ones_like(t), t))
        slope = xp.exp(distance * (-1.0 / sigma)) * (-0.5 / sigma) / distance
        return xp.where(coincide, xp.zeros_like(t), slope)


@dataclasses.dataclass(frozen=True)
class Matern32Kernel(_RadialKernel):
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
        _real(self, "sigma", above=0.0)

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        return _matern_increments(xp, t, math.sqrt(3.0) / sigma, 0.0)

    def _phi_derivative(self, xp: Any, t: Array, sigma: float) -> Array:
        return (-1.5 / sigma / sigma) * xp.exp(_distance(xp, t) * (-math.sqrt(3.0) / sigma))


@dataclasses.dataclass(frozen=True)
class Matern52Kernel(_RadialKernel):
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
        _real(self, "sigma", above=0.0)

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        return _matern_increments(xp, t, math.sqrt(5.0) / sigma, 1.0 / 3.0)

    def _phi_derivative(self, xp: Any, t: Array, sigma: float) -> Array:
        a = _distance(xp, t) * (math.sqrt(5.0) / sigma)
        return (-5.0 / 6.0 / sigma / sigma) * (1.0 + a) * xp.exp(-a)


@dataclasses.dataclass(frozen=True)
class RationalQuadraticKernel(_RadialKernel):
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
        _real(self, "sigma", above=0.0)
        _real(self, "alpha", above=0.0)

    def _increments(self, xp: Any, t: corners.Corners, sigma: float) -> Array:
        alpha = min(self.alpha, LARGEST_ALPHA)
        c = corners.scaled(t, 0.5 / alpha / sigma / sigma)
        b00, b10, b01, b11 = (1.0 + a for a in c[:4])
        bend = c.r / b10 * (b00 / b01) - c.p / b10 * (c.q / b01)
        logs = (xp.log1p(c.p / b00), xp.log1p(c.q / b00), _log_ratio(xp, bend, b11 / b10, b00 / b01))
        values = (xp.exp(-alpha * xp.log1p(a)) for a in c[:4])
        g = corners.exponential((*values,), *(-alpha * a for a in logs)).r
        # Coordinates as good as infinite are not so for a kernel that hardly falls.
        beyond = self._units(single=g.dtype == xp.float32)[2] ** 2
        g = xp.where(t.v00 >= beyond, xp.zeros_like(g), g)
        if alpha >= _FALLING_ALPHA:
            return g
        return xp.where(xp.maximum(xp.maximum(t.v10, t.v01), t.v11) >= beyond, xp.full_like(g, math.nan), g)

    def _phi_derivative(self, xp: Any, t: Array, sigma: float) -> Array:
        alpha = min(self.alpha, LARGEST_ALPHA)
        c = t * (0.5 / alpha / sigma / sigma)
        return (-0.5 / sigma / sigma) * xp.exp((-alpha - 1.0) * xp.log1p(c))


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


LARGEST_ALPHA = 1e20
"""From here on a rational quadratic kernel is its limit, the radial basis function kernel, to rounding."""

LINEAR = LinearKernel()
"""The static kernel of every function that is given none."""

BUILT_IN = frozenset(
    {
        LinearKernel,
        ScaledLinearKernel,
        PolynomialKernel,
        RBFKernel,
        Matern12Kernel,
        Matern32Kernel,
        Matern52Kernel,
        RationalQuadraticKernel,
    }
)


def is_built_in(kernel: StaticKernel) -> bool:
    """Tell whether a kernel is one of the eight of this module, dilated or not, and not a subclass that may do anything
    else."""
    return type(kernel) in BUILT_IN or (type(kernel) is DilatedKernel and is_built_in(kernel.kernel))


def is_linear(kernel: StaticKernel) -> bool:
    """Tell whether the features of a kernel are the points themselves, up to a factor and a constant."""
    return (
        type(kernel) is LinearKernel
        or type(kernel) is ScaledLinearKernel
        or (type(kernel) is PolynomialKernel and kernel.degree == 1.0)
    )


def _is_checked(kernel: StaticKernel) -> bool:
    """Tell whether a kernel is the user's own. One that is dilated looks at the kernel inside by itself."""
    return type(kernel) is not DilatedKernel and not is_built_in(kernel)


def increments(kernel: StaticKernel, ctx: Context, x: Array, y: Array) -> Array:
    """Call a static kernel, and check what one of the user's own returns.

    Raises
    ------
    ValueError
        If the increments have not the shape (batch, length1 - 1, length2 - 1).
    TypeError
        If they are no array of the library and dtype of the paths.
    """
    result = kernel(ctx, x, y)
    if _is_checked(kernel):
        _check_returned(kernel, "__call__", result, x, (x.shape[0], x.shape[1] - 1, y.shape[1] - 1))
    return result


def gradient_x(kernel: StaticKernel, ctx: Context, derivs: Array, x: Array) -> Array:
    """Call `grad_x` of a static kernel, and check what one of the user's own returns; raises as `increments` does."""
    result = kernel.grad_x(ctx, derivs)
    if _is_checked(kernel):
        _check_returned(kernel, "grad_x", result, x, tuple(x.shape))
    return result


def gradient_y(kernel: StaticKernel, ctx: Context, derivs: Array, y: Array) -> Array:
    """Call `grad_y` of a static kernel, and check what one of the user's own returns; raises as `increments` does."""
    result = kernel.grad_y(ctx, derivs)
    if _is_checked(kernel):
        _check_returned(kernel, "grad_y", result, y, tuple(y.shape))
    return result


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


BOUNDED = (RBFKernel, Matern12Kernel, Matern32Kernel, Matern52Kernel, RationalQuadraticKernel)
"""Static kernels whose values have a bound."""
