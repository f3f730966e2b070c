"""Gradients of one pair of medium length go through strips of rows, and have the bits that they have among many."""

import numpy as np
import pytest
from cases import gradients_of, walk
from remembered import RememberedReference

import branchsig
from branchsig.backends import Problem

pytestmark = pytest.mark.usefixtures("core")

CASES = {  # points of both paths, channels, depth, dyadic order
    "squares": (200, 200, 4, 4, (0, 0)),
    "one channel": (177, 300, 1, 4, (0, 0)),
    "deep": (300, 100, 2, 6, (0, 0)),
    "two runs of channels": (400, 161, 15, 4, (0, 0)),
    "refined rows and columns": (130, 110, 3, 4, (1, 1)),
    "rows refined to a band": (60, 150, 3, 5, (3, 1)),
    "rows refined beyond a band": (40, 300, 3, 6, (4, 0)),
    "a column more than whole blocks": (199, 1025, 2, 4, (0, 0)),
    "too many columns for blocks of their own": (150, 2100, 2, 4, (0, 0)),
    "rows of bands alone": (257, 193, 3, 5, (0, 0)),
    "all rows kept": (110, 90, 3, 3, (0, 0)),
    "all rows kept, in several groups": (1600, 80, 2, 2, (0, 0)),
    "many channels": (150, 130, 33, 4, (0, 0)),
    "many channels, rows in several chunks": (300, 210, 20, 3, (0, 0)),
    "all rows kept, refined": (60, 70, 2, 3, (1, 2)),
}
OPTIONS = {
    "linear": {},
    "logarithm": {"log": True},
    "scaled": {"static_kernel": branchsig.ScaledLinearKernel(0.7)},
    "polynomial": {"static_kernel": branchsig.PolynomialKernel(2.0, 1.0, 0.3)},
    "RBF": {"static_kernel": branchsig.RBFKernel(1.0)},
    "RBF by steps": {"static_kernel": branchsig.RBFKernel(300.0)},
    "RBF by steps in units": {"static_kernel": branchsig.RBFKernel(1e260)},
    "Matern 1/2": {"static_kernel": branchsig.Matern12Kernel(1.1)},
    "ordered forests": {"planar": True},
    "ordered forests by the left point": {"planar": True, "quadrature": branchsig.LeftPoint()},
    "ordered forests, RBF by steps": {"planar": True, "static_kernel": branchsig.RBFKernel(300.0)},
    "ordered forests, RBF": {"planar": True, "static_kernel": branchsig.RBFKernel(1.0)},
    "rational quadratic, logarithm": {"static_kernel": branchsig.RationalQuadraticKernel(1.2, 0.7), "log": True},
}


def gradients(x, y, derivs, depth, dyadic_order, **options):
    return branchsig.branched_sig_kernel_backprop(derivs, x, y, depth, dyadic_order, **options, right_deriv=True)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_gradient_of_few_pairs_has_the_bits_it_has_among_many(case, options, rng):
    length1, length2, channels, depth, dyadic_order = case
    x, y, derivs = walk(rng, 9, length1, channels), walk(rng, 9, length2, channels), rng.normal(size=9)
    many = gradients(x, y, derivs, depth, dyadic_order, **options)
    for few in (slice(5, 6), slice(3, 5), slice(1, 4)):
        for found, wanted in zip(
            gradients(x[few], y[few], derivs[few], depth, dyadic_order, **options), many, strict=True
        ):
            np.testing.assert_array_equal(found, wanted[few])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("kernel", [branchsig.LinearKernel(), branchsig.Matern32Kernel(0.9)], ids=["linear", "Matern"])
def test_the_gradient_of_one_pair_agrees_with_the_reference(case, kernel, rng):
    length1, length2, channels, depth, dyadic_order = case
    x, y = walk(rng, 1, length1, channels), walk(rng, 1, length2, channels)
    problem = Problem(x, y, "paired", kernel, depth, dyadic_order)
    wanted = gradients_of(RememberedReference(), problem, np.array([0.7]), wrt_log=False, left=True, right=True)
    found = gradients(x, y, np.array([0.7]), depth, dyadic_order, static_kernel=kernel)
    for each, gradient in zip(found, wanted, strict=True):
        tolerance = 1e-13 * (length1 * 2 ** dyadic_order[0] + length2 * 2 ** dyadic_order[1])
        np.testing.assert_allclose(each, gradient, rtol=0, atol=tolerance * np.abs(gradient).max())


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_one_side_alone_and_one_path_twice_have_the_same_bits(options, rng):
    x, y = walk(rng, 1, 220, 3), walk(rng, 1, 200, 3)
    left, right = gradients(x, y, np.ones(1), 4, 0, **options)
    np.testing.assert_array_equal(branchsig.branched_sig_kernel_backprop(np.ones(1), x, y, 4, **options)[0], left)
    alone = {"left_deriv": False, "right_deriv": True}
    np.testing.assert_array_equal(
        branchsig.branched_sig_kernel_backprop(np.ones(1), x, y, 4, **options, **alone)[1], right
    )
    total = branchsig.branched_sig_kernel_gram_backprop(np.ones((1, 1)), x, None, 4, **options)[0]
    parts = branchsig.branched_sig_kernel_gram_backprop(np.ones((1, 1)), x, x, 4, **options, right_deriv=True)
    np.testing.assert_allclose(total, parts[0] + parts[1], rtol=1e-12, atol=1e-14)


def test_a_second_path_that_strips_have_overwritten_is_packed_again(rng):
    # The paths with a point that is out of reach go through tiles, and the one between them through strips.
    x, y = walk(rng, 3, 200, 384, size=0.5), walk(rng, 1, 200, 384, size=0.5)
    x[::2, 100, 0] = 1e130
    options = {"static_kernel": branchsig.RBFKernel(0.05)}
    many = branchsig.branched_sig_kernel_gram_backprop(np.ones((3, 1)), x, y, 2, **options)[0]
    alone = branchsig.branched_sig_kernel_gram_backprop(np.ones((1, 1)), x[2:], y, 2, **options)[0]
    np.testing.assert_array_equal(many[2:], alone)


def test_a_pair_that_overflows_has_no_gradient_and_warns_by_its_value(rng):
    x = walk(rng, 1, 200, 2, size=60.0)
    with pytest.warns(RuntimeWarning):
        value = branchsig.branched_sig_kernel(x, x, 4)
    assert not np.isfinite(value).any()
    for gradient in gradients(x, x, np.ones(1), 4, 0):
        assert np.isnan(gradient).all()


def test_a_gradient_with_that_of_the_scale_has_the_bits_of_the_one_without(rng):
    x, y = walk(rng, 1, 200, 4), walk(rng, 1, 210, 4)
    kernel = branchsig.ScaledLinearKernel(0.8)
    alone = gradients(x, y, np.ones(1), 4, 0, static_kernel=kernel)
    *beside, of_scale = gradients(x, y, np.ones(1), 4, 0, static_kernel=kernel, param_deriv=True)
    for found, wanted in zip(beside, alone, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert np.isfinite(of_scale["scale"])
