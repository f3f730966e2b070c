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


class _DotKernel(StaticKernel):
    """κ(x, y) = φ(⟨x, y⟩)."""

    def _phi(self, xp: Any, t: Array) -> Array:
        raise NotImplementedError

    def _phi_derivative(self, xp: Any, t: Array) -> Array:
        raise NotImplementedError

    def __call__(self, ctx: Context, x: Array, y: Array) -> Array:
        xp = namespace_of(x)
        products = xp.matmul(x, _transposed(y))
        ctx.save_for_backward(x, y, products)
        return _difference(_difference(self._phi(xp, products), -2), -1)

    def grad_x(self, ctx: Context, derivs: Array) -> Array:
        x, y, products = ctx.saved_tensors
        xp = namespace_of(x)
        slope = self._phi_derivative(xp, products)
        ctx.save_for_grad_y(slope)
        weights = slope * _difference_adjoint(_difference_adjoint(derivs, -2), -1)
        return xp.matmul(weights, y)

    def grad_y(self, ctx: Context, derivs: Array) -> Array:
        x, _, products = ctx.saved_tensors
        xp = namespace_of(x)
        slope = ctx.saved_for_y[0] if ctx.saved_for_y else self._phi_derivative(xp, products)
        weights = slope * _difference_adjoint(_difference_adjoint(derivs, -2), -1)
        return xp.matmul(_transposed(weights), x)


class _RadialKernel(StaticKernel):
    """κ(x, y) = φ(‖x − y‖²)."""

    def _phi(self, xp: Any, t: Array) -> Array:
        raise NotImplementedError

    def _phi_derivative(self, xp: Any, t: Array) -> Array:
        raise NotImplementedError

    def __call__(self, ctx: Context, x: Array, y: Array) -> Array:
        xp = namespace_of(x)
        # Channel by channel, and by differences: ‖x‖² + ‖y‖² − 2⟨x, y⟩ would lose the distance of points close to each
        # other.
        squares = _channel_difference(x, y, 0) ** 2
        for channel in range(1, x.shape[-1]):
            squares = squares + _channel_difference(x, y, channel) ** 2
        ctx.save_for_backward(x, y, squares)
        return _difference(_difference(self._phi(xp, squares), -2), -1)

    def grad_x(self, ctx: Context, derivs: Array) -> Array:
        x, y, squares = ctx.saved_tensors
        xp = namespace_of(x)
        slope = self._phi_derivative(xp, squares)
        ctx.save_for_grad_y(slope)
        weights = 2 * slope * _difference_adjoint(_difference_adjoint(derivs, -2), -1)
        channels = range(x.shape[-1])
        return xp.stack([xp.sum(weights * _channel_difference(x, y, k), axis=2) for k in channels], axis=-1)

    def grad_y(self, ctx: Context, derivs: Array) -> Array:
        x, y, squares = ctx.saved_tensors
        xp = namespace_of(x)
        slope = ctx.saved_for_y[0] if ctx.saved_for_y else self._phi_derivative(xp, squares)
        weights = -2 * slope * _difference_adjoint(_difference_adjoint(derivs, -2), -1)
        channels = range(x.shape[-1])
        return xp.stack([xp.sum(weights * _channel_difference(x, y, k), axis=1) for k in channels], axis=-1)


def _channel_difference(x: Array, y: Array, channel: int) -> Array:
    return x[:, :, None, channel] - y[:, None, :, channel]


class _LinearBody(StaticKernel):
    """κ(x, y) = c ⟨x, y⟩.

    Its increments are c ⟨Δx, Δy⟩: differences are taken first, so that an offset of the paths costs no digits.
    """

    @property
    def _factor(self) -> float:
        return 1.0

    def __call__(self, ctx: Context, x: Array, y: Array) -> Array:
        dx, dy = _difference(x, -2), _difference(y, -2)
        ctx.save_for_backward(dx, dy)
        return self._scaled(namespace_of(x).matmul(dx, _transposed(dy)))

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
        return self.scale * self.scale


@dataclasses.dataclass(frozen=True)
class PolynomialKernel(_DotKernel):
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

    def _phi(self, xp: Any, t: Array) -> Array:
        return self.scale * (t + self.gamma) ** self.degree

    def _phi_derivative(self, xp: Any, t: Array) -> Array:
        if self.degree == 0.0:
            return xp.zeros_like(t)
        return self.scale * self.degree * (t + self.gamma) ** (self.degree - 1.0)


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

    def _phi(self, xp: Any, t: Array) -> Array:
        return xp.exp(t * (-1.0 / self.sigma))

    def _phi_derivative(self, xp: Any, t: Array) -> Array:
        return (-1.0 / self.sigma) * self._phi(xp, t)


def _root(xp: Any, t: Array) -> Array:
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

    def _phi(self, xp: Any, t: Array) -> Array:
        return xp.exp(_root(xp, t) * (-1.0 / self.sigma))

    def _phi_derivative(self, xp: Any, t: Array) -> Array:
        coincide = t == 0
        distance = xp.sqrt(xp.where(coincide, xp.ones_like(t), t))
        slope = xp.exp(distance * (-1.0 / self.sigma)) * (-0.5 / self.sigma) / distance
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

    def _phi(self, xp: Any, t: Array) -> Array:
        a = _root(xp, t) * (math.sqrt(3.0) / self.sigma)
        return (1.0 + a) * xp.exp(-a)

    def _phi_derivative(self, xp: Any, t: Array) -> Array:
        a = _root(xp, t) * (math.sqrt(3.0) / self.sigma)
        return (-1.5 / self.sigma / self.sigma) * xp.exp(-a)


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

    def _phi(self, xp: Any, t: Array) -> Array:
        a = _root(xp, t) * (math.sqrt(5.0) / self.sigma)
        return (1.0 + a + a * a / 3.0) * xp.exp(-a)

    def _phi_derivative(self, xp: Any, t: Array) -> Array:
        a = _root(xp, t) * (math.sqrt(5.0) / self.sigma)
        return (-5.0 / 6.0 / self.sigma / self.sigma) * (1.0 + a) * xp.exp(-a)


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

    def _phi(self, xp: Any, t: Array) -> Array:
        return (1.0 + t * (0.5 / self.alpha / self.sigma / self.sigma)) ** -self.alpha

    def _phi_derivative(self, xp: Any, t: Array) -> Array:
        base = 1.0 + t * (0.5 / self.alpha / self.sigma / self.sigma)
        return (-0.5 / self.sigma / self.sigma) * base ** (-self.alpha - 1.0)


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
    """Tell whether the features of a kernel are the points themselves, up to a factor."""
    return type(kernel) is LinearKernel or type(kernel) is ScaledLinearKernel


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
