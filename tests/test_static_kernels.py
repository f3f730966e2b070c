"""Static kernels: formulas point by point, gradients by complex steps and differences, and kernels of one's own."""

import cmath
import copy
import math
import pickle

import array_api_strict
import numpy as np
import pytest
from cases import gradients_of

import branchsig
from branchsig.backends import Problem
from branchsig.backends.reference import ReferenceBackend
from branchsig.static_kernels import is_built_in

pytestmark = pytest.mark.filterwarnings("ignore:the compiled core of branchsig is not available:RuntimeWarning")


def dot(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True))


def square(a, b):
    return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))


def matern32(a, b):
    r = math.sqrt(3) * cmath.sqrt(square(a, b)) / 0.7
    return (1 + r) * cmath.exp(-r)


def matern52(a, b):
    r = math.sqrt(5) * cmath.sqrt(square(a, b)) / 0.7
    return (1 + r + r * r / 3) * cmath.exp(-r)


# Each with its formula, on points of Python numbers that may be complex.
FORMULAS = {
    branchsig.LinearKernel(): dot,
    branchsig.ScaledLinearKernel(0.5): lambda a, b: 0.25 * dot(a, b),
    branchsig.PolynomialKernel(): lambda a, b: (dot(a, b) + 1) ** 3,
    branchsig.PolynomialKernel(2.5, 4.0, 0.3): lambda a, b: 0.3 * (dot(a, b) + 4) ** 2.5,
    branchsig.PolynomialKernel(0.0, 1.0, 2.0): lambda a, b: 2.0 + 0 * dot(a, b),
    branchsig.PolynomialKernel(1.0, 0.5, 2.0): lambda a, b: 2.0 * (dot(a, b) + 0.5),
    branchsig.RBFKernel(1.3): lambda a, b: cmath.exp(-square(a, b) / 1.3),
    branchsig.Matern12Kernel(0.7): lambda a, b: cmath.exp(-cmath.sqrt(square(a, b)) / 0.7),
    branchsig.Matern32Kernel(0.7): matern32,
    branchsig.Matern52Kernel(0.7): matern52,
    branchsig.RationalQuadraticKernel(0.7): lambda a, b: 1 / (1 + square(a, b) / (2 * 0.49)),
    branchsig.RationalQuadraticKernel(0.7, 1.5): lambda a, b: (1 + square(a, b) / (2 * 1.5 * 0.49)) ** -1.5,
}
KERNELS = list(FORMULAS)
every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=repr)


def paths(*shape, seed=0):
    return np.random.default_rng(seed).normal(scale=0.6, size=shape)


def increments_by_formula(kernel, x, y):
    """Increments of one pair from the formula, in Python numbers."""
    kappa = FORMULAS[kernel]
    matrix = np.array([[complex(kappa(a, b)) for b in y.tolist()] for a in x.tolist()])
    return np.diff(np.diff(matrix, axis=0), axis=1)


@every_kernel
def test_increments_are_those_of_the_formula(kernel):
    x, y = paths(3, 5, 2), paths(3, 4, 2, seed=1)
    g = kernel(branchsig.Context(), x, y)
    assert g.shape == (3, 4, 3)
    for pair in range(3):
        np.testing.assert_allclose(
            g[pair], increments_by_formula(kernel, x[pair], y[pair]).real, rtol=1e-13, atol=1e-14
        )


@every_kernel
@pytest.mark.parametrize("dimension", [1, 3])
def test_gradients_are_those_of_a_complex_step(kernel, dimension):
    x, y, derivs = paths(5, dimension), paths(4, dimension, seed=1), paths(4, 3, seed=2)
    ctx = branchsig.Context()
    kernel(ctx, x[None], y[None])
    gradients = kernel.grad_x(ctx, derivs[None])[0], kernel.grad_y(ctx, derivs[None])[0]
    step = 1e-30
    for place, gradient in enumerate(gradients):
        expected = np.zeros(gradient.shape)
        for index in np.ndindex(gradient.shape):
            moved = [x.astype(complex), y.astype(complex)]
            moved[place][index] += 1j * step
            expected[index] = np.sum(derivs * increments_by_formula(kernel, *moved).imag) / step
        np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-13)


@every_kernel
def test_either_gradient_may_be_asked_for_alone(kernel):
    x, y, derivs = paths(2, 5, 2), paths(2, 4, 2, seed=1), paths(2, 4, 3, seed=2)
    both, only_y = branchsig.Context(), branchsig.Context()
    kernel(both, x, y)
    kernel(only_y, x, y)
    kernel.grad_x(both, derivs)
    np.testing.assert_array_equal(kernel.grad_y(only_y, derivs), kernel.grad_y(both, derivs))


@every_kernel
def test_gradients_have_no_nan_where_points_coincide(kernel):
    x = paths(2, 5, 2)
    x[:, 3] = x[:, 2]
    ctx = branchsig.Context()
    g = kernel(ctx, x, x.copy())
    np.testing.assert_array_equal(g[:, 2, :], 0.0)
    np.testing.assert_array_equal(g[:, :, 2], 0.0)
    for gradient in (kernel.grad_x(ctx, np.ones(g.shape)), kernel.grad_y(ctx, np.ones(g.shape))):
        assert np.isfinite(gradient).all()
    _, pullback = branchsig.branched_sig_kernel_gram_vjp(0.2 * x, None, 2, static_kernel=kernel, normalize=True)
    gradient, _ = pullback(np.ones((2, 2)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("distance", [1e-300, 1e-160, 1e-30, 1e-8])
def test_the_gradient_of_matern_12_stays_bounded_as_points_meet(distance):
    kernel = branchsig.Matern12Kernel(2.0)
    x, y = np.zeros((1, 2, 1)), np.full((1, 2, 1), 5.0)
    y[0, 0, 0] = distance
    ctx = branchsig.Context()
    kernel(ctx, x, y)
    gradient = kernel.grad_x(ctx, np.ones((1, 1, 1)))
    assert np.all(np.abs(gradient) <= 1.0)


def test_where_points_coincide_the_gradient_of_matern_12_is_0():
    kernel = branchsig.Matern12Kernel(2.0)
    x = np.zeros((1, 2, 1))
    ctx = branchsig.Context()
    kernel(ctx, x, x)
    np.testing.assert_array_equal(kernel.grad_x(ctx, np.ones((1, 1, 1))), 0.0)
    np.testing.assert_array_equal(kernel.grad_y(ctx, np.ones((1, 1, 1))), 0.0)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_the_linear_kernel_loses_no_digits_to_an_offset(offset):
    x, y = paths(1, 5, 2), paths(1, 4, 2, seed=1)
    x, y = np.round(x, 6), np.round(y, 6)
    g = branchsig.LinearKernel()(branchsig.Context(), x + offset, y + offset)
    np.testing.assert_allclose(g, np.diff(x, axis=1) @ np.diff(y, axis=1).swapaxes(1, 2), rtol=1e-6, atol=1e-9)


@every_kernel
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_of_the_paths_is_kept(kernel, dtype):
    x, y = paths(1, 3, 2).astype(dtype), paths(1, 3, 2, seed=1).astype(dtype)
    ctx = branchsig.Context()
    g = kernel(ctx, x, y)
    assert {a.dtype for a in (g, kernel.grad_x(ctx, g), kernel.grad_y(ctx, g))} == {np.dtype(dtype)}


@every_kernel
def test_kernels_work_in_any_array_api_library(kernel):
    x, y, derivs = paths(2, 5, 2), paths(2, 4, 2, seed=1), paths(2, 4, 3, seed=2)

    def results(array):
        ctx = branchsig.Context()
        g = kernel(ctx, array(x), array(y))
        return [np.asarray(a) for a in (g, kernel.grad_x(ctx, array(derivs)), kernel.grad_y(ctx, array(derivs)))]

    for ours, expected in zip(results(array_api_strict.asarray), results(np.asarray), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-14, atol=1e-14)


@every_kernel
def test_gradients_of_the_kernel_are_those_of_central_differences(kernel):
    x, y = 0.3 * paths(2, 4, 2), 0.3 * paths(2, 3, 2, seed=1)
    derivs = np.array([1.0, -0.5])
    gradients = branchsig.branched_sig_kernel_backprop(derivs, x, y, 3, 1, static_kernel=kernel, right_deriv=True)
    step = 1e-6
    for place, gradient in enumerate(gradients):
        expected = np.zeros(gradient.shape)
        for index in np.ndindex(gradient.shape):
            values = []
            for sign in (1, -1):
                moved = [x.copy(), y.copy()]
                moved[place][index] += sign * step
                values.append(derivs @ branchsig.branched_sig_kernel(*moved, 3, 1, static_kernel=kernel))
            expected[index] = (values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max() + 1e-9)


# Kernels as values


@every_kernel
def test_kernels_are_values(kernel):
    assert kernel == copy.deepcopy(kernel) == pickle.loads(pickle.dumps(kernel))
    assert hash(kernel) == hash(copy.deepcopy(kernel))
    assert eval(repr(kernel), vars(branchsig)) == kernel
    assert sum(kernel == other for other in KERNELS) == 1


@every_kernel
def test_parameters_can_be_read_and_not_set(kernel):
    for name in ("sigma", "alpha", "scale", "gamma", "degree"):
        if hasattr(kernel, name):
            assert type(getattr(kernel, name)) is float
            with pytest.raises(AttributeError):
                setattr(kernel, name, 2.0)


def test_parameters_have_the_defaults_of_the_documentation():
    assert branchsig.PolynomialKernel() == branchsig.PolynomialKernel(degree=3, gamma=1, scale=1)
    assert branchsig.ScaledLinearKernel() == branchsig.ScaledLinearKernel(scale=1)
    assert branchsig.RationalQuadraticKernel(0.5) == branchsig.RationalQuadraticKernel(sigma=0.5, alpha=1)


def test_no_kernel_is_the_linear_one():
    x, y = paths(2, 4, 2) / 2, paths(2, 3, 2, seed=1) / 2
    expected = branchsig.branched_sig_kernel(x, y, 3, static_kernel=branchsig.LinearKernel())
    np.testing.assert_array_equal(branchsig.branched_sig_kernel(x, y, 3), expected)


# Kernels of one's own


class SumOfKernels(branchsig.StaticKernel):
    """The linear kernel plus a radial one, from the two."""

    parts = (branchsig.LinearKernel(), branchsig.RBFKernel(1.3))

    def __call__(self, ctx, x, y):
        contexts = tuple(branchsig.Context() for _ in self.parts)
        ctx.save_for_backward(*contexts)
        return sum(part(c, x, y) for part, c in zip(self.parts, contexts, strict=True))

    def grad_x(self, ctx, derivs):
        return sum(part.grad_x(c, derivs) for part, c in zip(self.parts, ctx.saved_tensors, strict=True))

    def grad_y(self, ctx, derivs):
        return sum(part.grad_y(c, derivs) for part, c in zip(self.parts, ctx.saved_tensors, strict=True))


class Disguised(branchsig.StaticKernel):
    """A built-in kernel that the library cannot recognise."""

    def __init__(self, kernel):
        super().__init__()
        self.kernel = kernel

    def __call__(self, ctx, x, y):
        assert x.ndim == y.ndim == 3
        return self.kernel(ctx, x, y)

    def grad_x(self, ctx, derivs):
        return self.kernel.grad_x(ctx, derivs)

    def grad_y(self, ctx, derivs):
        return self.kernel.grad_y(ctx, derivs)


class Halved(branchsig.RBFKernel):
    """A subclass of a built-in kernel, which is not that kernel."""

    def __call__(self, ctx, x, y):
        return 0.5 * super().__call__(ctx, x, y)


def test_only_the_eight_are_built_in():
    assert all(is_built_in(kernel) for kernel in KERNELS)
    assert not is_built_in(Disguised(KERNELS[0]))
    assert not is_built_in(Halved(1.0))


@every_kernel
@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"return_grid": True}], ids=str)
def test_a_kernel_of_ones_own_is_as_good_as_a_built_in_one(kernel, options):
    x, y = 0.3 * paths(3, 5, 2), 0.3 * paths(3, 4, 2, seed=1)
    for function, second in (
        (branchsig.branched_sig_kernel_vjp, y),
        (branchsig.branched_sig_kernel_gram_vjp, y),
        (branchsig.branched_sig_kernel_gram_vjp, None),
    ):
        value, pullback = function(x, second, 3, 1, static_kernel=Disguised(kernel), **options)
        expected, expected_pullback = function(x, second, 3, 1, static_kernel=kernel, **options)
        np.testing.assert_allclose(value, expected, rtol=1e-11)
        for ours, other in zip(pullback(value), expected_pullback(value), strict=True):
            assert (ours is None) == (other is None)
            if other is not None:
                np.testing.assert_allclose(ours, other, rtol=1e-9, atol=1e-11 * np.abs(other).max())


def test_a_subclass_of_a_built_in_kernel_is_taken_at_its_word():
    x, y = paths(2, 5, 2), paths(2, 4, 2, seed=1)
    value = branchsig.branched_sig_kernel(x, y, 1, static_kernel=Halved(1.0))
    expected = np.sqrt(branchsig.branched_sig_kernel(x, y, 1, static_kernel=branchsig.RBFKernel(1.0)))
    np.testing.assert_allclose(value, expected, rtol=1e-13)


def test_kernels_can_be_added_up():
    x, y = paths(2, 5, 2), paths(2, 4, 2, seed=1)
    value = branchsig.branched_sig_kernel(x, y, 1, static_kernel=SumOfKernels())
    factors = [branchsig.branched_sig_kernel(x, y, 1, static_kernel=part) for part in SumOfKernels.parts]
    np.testing.assert_allclose(value, factors[0] * factors[1], rtol=1e-13)


def test_a_kernel_of_ones_own_sees_arrays_of_the_callers_library():
    class Strict(Disguised):
        def __call__(self, ctx, x, y):
            assert isinstance(x, type(array_api_strict.zeros(1)))
            return super().__call__(ctx, x, y)

    x, y = 0.3 * paths(2, 5, 2), 0.3 * paths(2, 4, 2, seed=1)
    here = array_api_strict.asarray(x), array_api_strict.asarray(y)
    value, pullback = branchsig.branched_sig_kernel_vjp(*here, 2, static_kernel=Strict(branchsig.RBFKernel(1.0)))
    expected, expected_pullback = branchsig.branched_sig_kernel_vjp(x, y, 2, static_kernel=branchsig.RBFKernel(1.0))
    np.testing.assert_allclose(np.asarray(value), expected, rtol=1e-12)
    for ours, other in zip(pullback(value), expected_pullback(expected), strict=True):
        np.testing.assert_allclose(np.asarray(ours), other, rtol=1e-10, atol=1e-13)


def test_a_kernel_without_gradients_has_values_and_says_what_is_missing():
    class ValuesOnly(branchsig.StaticKernel):
        def __call__(self, ctx, x, y):
            return branchsig.LinearKernel()(ctx, x, y)

    x, y = 0.3 * paths(2, 5, 2), 0.3 * paths(2, 4, 2, seed=1)
    value, pullback = branchsig.branched_sig_kernel_vjp(x, y, 2, static_kernel=ValuesOnly())
    np.testing.assert_allclose(value, branchsig.branched_sig_kernel(x, y, 2), rtol=1e-13)
    with pytest.raises(NotImplementedError, match="ValuesOnly has no grad_x: define grad_x"):
        pullback(value)


def test_a_kernel_must_be_callable():
    with pytest.raises(TypeError, match="abstract"):
        branchsig.StaticKernel()


@pytest.mark.parametrize("method", ["grad_x", "grad_y"])
def test_a_gradient_of_a_wrong_shape_is_refused(method):
    kernel = Disguised(branchsig.LinearKernel())
    setattr(kernel, method, lambda ctx, derivs: derivs)
    x, y = 0.3 * paths(2, 5, 2), 0.3 * paths(2, 4, 2, seed=1)
    with pytest.raises(ValueError, match=rf"Disguised\.{method} returned an array of shape .*: expected"):
        branchsig.branched_sig_kernel_backprop(np.ones(2), x, y, 2, static_kernel=kernel, right_deriv=True)


def test_every_batch_of_pairs_has_its_own_context():
    seen = []

    class Recording(Disguised):
        def __call__(self, ctx, x, y):
            seen.append(ctx)
            assert ctx.saved_tensors == ()
            assert ctx.saved_for_y == ()
            return super().__call__(ctx, x, y)

    x = 0.3 * paths(4, 5, 2)
    problem = Problem(x, x, "symmetric", Recording(branchsig.LinearKernel()), 2, (0, 0), max_batch=1)
    gradient, _ = gradients_of(ReferenceBackend(), problem, np.ones((4, 4)), wrt_log=False, left=True, right=False)
    assert len(set(map(id, seen))) == len(seen) == 10
    expected, _ = branchsig.branched_sig_kernel_gram_backprop(np.ones((4, 4)), x, x, 2)
    np.testing.assert_allclose(gradient, expected, rtol=1e-11, atol=1e-13)
