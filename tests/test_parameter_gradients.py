"""Gradients with respect to the parameters of static kernels.

Expected numbers are derivatives of the formulas by differences in arithmetic of 150 digits, differences of values of
the library, and identities: what a change of scale of the paths does, a kernel does that is dilated or multiplied.
"""

import dataclasses

import mpmath
import numpy as np
import pytest

import branchsig
from branchsig.static_kernels import (
    DilatedKernel,
    gradient_parameters,
    parameters_of,
)

EPS = 2.0**-52

KERNELS = [
    branchsig.ScaledLinearKernel(0.7),
    branchsig.PolynomialKernel(degree=3, gamma=0.5, scale=2.0),
    branchsig.PolynomialKernel(degree=2.5, gamma=600.0, scale=2.0),
    branchsig.PolynomialKernel(degree=0.5, gamma=600.0, scale=2.0),
    branchsig.PolynomialKernel(degree=1, gamma=3.0, scale=2.0),
    branchsig.PolynomialKernel(degree=0, gamma=3.0, scale=2.0),
    branchsig.RBFKernel(0.7),
    branchsig.Matern12Kernel(0.7),
    branchsig.Matern32Kernel(0.7),
    branchsig.Matern52Kernel(0.7),
    branchsig.RationalQuadraticKernel(0.7),
    branchsig.RationalQuadraticKernel(0.7, alpha=0.3),
    branchsig.RationalQuadraticKernel(0.7, alpha=12.5),
    branchsig.RationalQuadraticKernel(0.7, alpha=1e6),
    branchsig.RationalQuadraticKernel(0.7, alpha=1e12),
]
RADIAL = [kernel for kernel in KERNELS if hasattr(kernel, "sigma")]

every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=repr)


def kappa(kernel, x, y, parameters):
    """A static kernel by its formula."""
    product = sum(a * b for a, b in zip(x, y, strict=True))
    square = sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
    match kernel:
        case branchsig.ScaledLinearKernel():
            return parameters["scale"] ** 2 * product
        case branchsig.PolynomialKernel(degree=degree):
            exponent = int(degree) if degree == int(degree) else mpmath.mpf(degree)
            return parameters["scale"] * (product + parameters["gamma"]) ** exponent
        case branchsig.RBFKernel():
            return mpmath.exp(-square / parameters["sigma"])
    distance = mpmath.sqrt(square) / parameters["sigma"]
    match kernel:
        case branchsig.Matern12Kernel():
            return mpmath.exp(-distance)
        case branchsig.Matern32Kernel():
            return (1 + mpmath.sqrt(3) * distance) * mpmath.exp(-mpmath.sqrt(3) * distance)
        case branchsig.Matern52Kernel():
            a = mpmath.sqrt(5) * distance
            return (1 + a + a * a / 3) * mpmath.exp(-a)
    return (1 + distance**2 / (2 * parameters["alpha"])) ** -parameters["alpha"]


def exact_changes(kernel, x, y, name):
    """The derivatives of all increments with respect to a parameter."""
    with mpmath.workdps(150):
        values = {field: mpmath.mpf(value) for field, value in dataclasses.asdict(kernel).items()}
        step = values[name] * mpmath.mpf(10) ** -50
        x, y = ([[mpmath.mpf(float(a)) for a in point] for point in path] for path in (x, y))

        def change(a, b):
            above, below = (kappa(kernel, a, b, values | {name: values[name] + sign * step}) for sign in (1, -1))
            return (above - below) / (2 * step)

        c = [[change(a, b) for b in y] for a in x]
        pairs = [(i, j) for i in range(len(x) - 1) for j in range(len(y) - 1)]
        made = [float(c[i + 1][j + 1] - c[i][j + 1] - c[i + 1][j] + c[i][j]) for i, j in pairs]
    return np.reshape(made, (len(x) - 1, len(y) - 1))


def walk(rng, scale, points=4, dimension=2):
    return scale * rng.standard_normal((points, dimension)).cumsum(axis=0)


PLACES = {
    "of the size of the kernel": lambda rng: (walk(rng, 1), walk(rng, 1)),
    "close to each other": lambda rng: (walk(rng, 1e-6), walk(rng, 1e-6)),
    "short and apart": lambda rng: (walk(rng, 1e-6), walk(rng, 1e-6) + [1, 0.5]),
    "short and far apart": lambda rng: (walk(rng, 1e-4), walk(rng, 1e-7) + [5, 0.5]),
    "one long and one short": lambda rng: (walk(rng, 10), walk(rng, 1e-8)),
    "long": lambda rng: (walk(rng, 4), walk(rng, 4)),
    "the same": lambda rng: 2 * (walk(rng, 0.05),),
}


@every_kernel
@pytest.mark.parametrize("place", PLACES)
def test_derivatives_of_increments_keep_their_digits(kernel, place, rng):
    x, y = PLACES[place](rng)
    ctx = branchsig.Context()
    cells = kernel(ctx, x[None], y[None]).shape[1:]
    names = parameters_of(kernel)
    made = np.zeros((len(names), *cells))
    for cell in np.ndindex(cells):
        derivs = np.zeros((1, *cells))
        derivs[(0, *cell)] = 1
        made[(slice(None), *cell)] = gradient_parameters(kernel, ctx, derivs)[0]
    for name, mine in zip(names, made, strict=True):
        expected = exact_changes(kernel, x, y, name)
        np.testing.assert_allclose(mine, expected, rtol=3e-12, atol=500 * EPS * np.abs(expected).max() + 1e-90)


@pytest.mark.parametrize("sigma", [1e-250, 1e-30, 1e30, 1e250])
@pytest.mark.parametrize("kernel", RADIAL, ids=repr)
def test_a_length_scale_of_any_size_has_the_derivative_of_paths_measured_by_it(kernel, sigma, rng):
    x, y = walk(rng, 1), walk(rng, 1)
    derivs = rng.standard_normal((1, 3, 3))
    length = np.sqrt(sigma) if isinstance(kernel, branchsig.RBFKernel) else sigma

    def derivatives(kernel, factor):
        ctx = branchsig.Context()
        kernel(ctx, factor * x[None], factor * y[None])
        return gradient_parameters(kernel, ctx, derivs)[0]

    expected = derivatives(dataclasses.replace(kernel, sigma=1.0), 1.0)
    expected[0] /= sigma
    np.testing.assert_allclose(derivatives(dataclasses.replace(kernel, sigma=sigma), length), expected, rtol=1e-10)


def test_an_exponent_beyond_what_makes_a_difference_has_the_derivative_of_the_limit(rng):
    x, y, derivs = walk(rng, 1)[None], walk(rng, 1)[None], rng.standard_normal((1, 3, 3))
    made = []
    for alpha in (1e19, 1e24, 1e120):
        ctx, kernel = branchsig.Context(), branchsig.RationalQuadraticKernel(1.0, alpha=alpha)
        kernel(ctx, x, y)
        made.append(gradient_parameters(kernel, ctx, derivs)[0, 1] * alpha**2)
    np.testing.assert_allclose(made, made[0], rtol=1e-12)


def test_a_factor_of_zero_has_the_derivative_of_the_formula(rng):
    x, y, derivs = walk(rng, 1)[None], walk(rng, 1)[None], rng.standard_normal((1, 3, 3))
    for degree in (1, 2, 2.5):
        nothing, one = (branchsig.PolynomialKernel(degree=degree, gamma=30.0, scale=scale) for scale in (0.0, 1.0))
        ctx = branchsig.Context()
        nothing(ctx, x, y)
        made = gradient_parameters(nothing, ctx, derivs)[0]
        np.testing.assert_allclose(made, [0, np.sum(derivs * one(branchsig.Context(), x, y))], rtol=1e-12)


def test_the_factor_of_paths_may_have_a_square_outside_the_range_of_floats(rng):
    x, y, derivs = walk(rng, 1)[None], walk(rng, 1)[None], rng.standard_normal((1, 3, 3))
    expected = 2 * np.sum(derivs * branchsig.LinearKernel()(branchsig.Context(), x, y))
    for scale in (1e-200, 0.0, 1e200):
        ctx, kernel = branchsig.Context(), branchsig.ScaledLinearKernel(scale)
        with np.errstate(over="ignore"):  # of the increments
            kernel(ctx, x, y)
        np.testing.assert_allclose(gradient_parameters(kernel, ctx, derivs)[0], [scale * expected], rtol=1e-13)


@every_kernel
def test_a_dilated_kernel_has_the_parameters_of_the_one_inside(kernel, rng):
    x, y, derivs = walk(rng, 1)[None], walk(rng, 1)[None], rng.standard_normal((1, 3, 3))
    factors = 0.5, 3.0
    dilated = (np.concatenate((p, np.full((1, 4, 1), factor)), axis=2) for p, factor in zip((x, y), factors))
    inner, outer = branchsig.Context(), branchsig.Context()
    kernel(inner, x, y)
    DilatedKernel(kernel)(outer, *dilated)
    assert parameters_of(DilatedKernel(kernel)) == parameters_of(kernel)
    made = gradient_parameters(DilatedKernel(kernel), outer, derivs)
    np.testing.assert_allclose(made, 1.5 * gradient_parameters(kernel, inner, derivs), rtol=1e-12)


def test_the_linear_kernel_has_no_parameters(rng):
    ctx = branchsig.Context()
    g = branchsig.LinearKernel()(ctx, walk(rng, 1)[None], walk(rng, 1)[None])
    assert gradient_parameters(branchsig.LinearKernel(), ctx, g).shape == (1, 0)
    assert branchsig.LinearKernel().grad_parameters(ctx, g) == {}


class Weighted(branchsig.StaticKernel):
    """κ(x, y) = ⟨weights x, weights y⟩ plus b⟨x, y⟩², whose parameters are a and b."""

    parameters = ("a", "b")

    def __init__(self, a, b):
        self.a, self.b = a, b

    def __call__(self, ctx, x, y):
        products = x @ y.swapaxes(1, 2)
        ctx.save_for_backward(x, y, products)
        return self.differences(self.a * products + self.b * products**2)

    @staticmethod
    def differences(values):
        return np.diff(np.diff(values, axis=1), axis=2)

    def weights(self, products, derivs):
        padded = np.pad(derivs, ((0, 0), (1, 1), (1, 1)))
        return (self.a + 2 * self.b * products) * np.diff(np.diff(padded, axis=1), axis=2)

    def grad_x(self, ctx, derivs):
        _, y, products = ctx.saved_tensors
        return self.weights(products, derivs) @ y

    def grad_y(self, ctx, derivs):
        x, _, products = ctx.saved_tensors
        return self.weights(products, derivs).swapaxes(1, 2) @ x

    def grad_parameters(self, ctx, derivs):
        products = ctx.saved_tensors[2]
        made = {"b": self.differences(products**2), "a": self.differences(products)}
        return {name: np.sum(derivs * change, axis=(1, 2)) for name, change in made.items()}


def through(kernel, rng):
    ctx = branchsig.Context()
    g = kernel(ctx, walk(rng, 1)[None], walk(rng, 1)[None])
    return gradient_parameters(kernel, ctx, g)


def test_parameters_of_a_kernel_of_the_users_own_come_in_the_order_it_names_them(rng):
    ctx, kernel = branchsig.Context(), Weighted(1.0, 2.0)
    g = kernel(ctx, walk(rng, 1)[None], walk(rng, 1)[None])
    named = kernel.grad_parameters(ctx, g)
    np.testing.assert_array_equal(gradient_parameters(kernel, ctx, g), np.stack([named["a"], named["b"]], axis=-1))


def test_a_kernel_without_derivatives_with_respect_to_parameters_says_what_to_define(rng):
    class Silent(Weighted):
        parameters = None

    class Nameless(branchsig.StaticKernel):
        def __call__(self, ctx, x, y):
            return branchsig.LinearKernel()(ctx, x, y)

    class Empty(Nameless):
        parameters = ("a",)

    for kernel in (Silent(1.0, 2.0), Nameless(), Empty()):
        name = type(kernel).__name__
        with pytest.raises(
            NotImplementedError, match=rf"{name} has no derivatives .* define grad_parameters\(self, ctx"
        ):
            parameters_of(kernel)


def test_increments_of_a_subclass_go_with_derivatives_of_its_own(rng):
    class Twice(branchsig.RBFKernel):
        def __call__(self, ctx, x, y):
            return 2 * super().__call__(ctx, x, y)

    class Whole(Twice):
        def grad_parameters(self, ctx, derivs):
            return super().grad_parameters(ctx, 2 * derivs)

    with pytest.raises(NotImplementedError, match=r"Twice defines its own __call__, but not the grad_parameters"):
        parameters_of(Twice(1.0))
    assert parameters_of(Whole(1.0)) == ("sigma",)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (
            lambda made: {"a": made["a"]},
            ValueError,
            r"returned \['a'\]: expected a dictionary with the keys \['a', 'b'\]",
        ),
        (lambda made: [*made.values()], ValueError, "returned list: expected a dictionary"),
        (lambda made: made | {"b": made["b"].sum()}, ValueError, r"returned an array of shape \(\): expected \(1,\)"),
        (
            lambda made: made | {"b": made["b"].astype(np.float32)},
            TypeError,
            "returned an array of dtype float32: expected float64",
        ),
        (lambda made: made | {"b": [1.0]}, TypeError, "returned list: expected an array of the library of the paths"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda kernel: kernel, DilatedKernel], ids=["plain", "dilated"])
def test_what_a_kernel_of_the_users_own_returns_is_checked(returned, error, message, wrap, rng):
    class Own(Weighted):
        def grad_parameters(self, ctx, derivs):
            return returned(super().grad_parameters(ctx, derivs))

    with pytest.raises(error, match=rf"static_kernel: Own.grad_parameters {message}"):
        through(wrap(Own(1.0, 2.0)), rng)
