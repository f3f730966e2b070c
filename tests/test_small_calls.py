"""Calls of few pairs: what one call leaves to the next changes no bit, and kernels are exponentials of logarithms."""

import warnings

import numpy as np
import pytest
from cases import STATIC_KERNELS, static_kernel, walk

import branchsig

OPTIONS = {
    "plain": {},
    "dyadic": {"dyadic_order": (1, 0)},
    "order": {"order": 3},
    "lobatto": {"quadrature": "lobatto2"},
    "untruncated": {"depth": float("inf")},
}


def results(x, y, **options):
    options = {"depth": 3} | options
    value = branchsig.branched_sig_kernel(x, y, **options)
    gradients = branchsig.branched_sig_kernel_backprop(np.ones(len(x)), x, y, **options, right_deriv=True)
    return [value, *gradients]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_what_earlier_calls_left_in_memory_changes_no_bit(options, rng):
    x, y = walk(rng, 3, 7, 2), walk(rng, 3, 9, 2)
    before = results(x, y, **options)
    for length, scale in ((40, 0.5), (3, 30.0)):  # a larger workspace, and values that overflow
        other = walk(rng, 2, length, 3) * scale
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            results(other, other, **options)
    for found, wanted in zip(results(x, y, **options), before, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9])
def test_a_kernel_is_the_exponential_of_its_logarithm(count, rng):
    x, y = walk(rng, count, 12, 2), walk(rng, count, 10, 2)
    found = branchsig.branched_sig_kernel(x, y, 3)
    # an error of half a unit in the last place of log K, and two units of exp
    logarithm = branchsig.branched_sig_kernel(x, y, 3, log=True)
    np.testing.assert_allclose(found, np.exp(logarithm), rtol=4e-16 * (1 + np.max(np.abs(logarithm))))


def test_kernels_beyond_the_range_of_a_double_are_infinite_and_zero():
    rises = np.array([[[0.0], [40.0]]])
    with pytest.warns(RuntimeWarning, match="overflow"):
        found = branchsig.branched_sig_kernel(rises, rises, 1)  # exp(1600)
    assert found[0] == np.inf
    assert branchsig.branched_sig_kernel(rises, -rises, 1)[0] == 0  # exp(-1600)


@pytest.mark.parametrize("dimension", [*range(1, 10), 17])
@pytest.mark.parametrize("name", [name for name in STATIC_KERNELS if "matern" in name or name == "rbf"])
def test_gradients_of_radial_kernels_sum_to_zero_for_every_number_of_channels(name, dimension, rng):
    """A radial kernel does not change where both paths are moved by the same vector."""
    kernel = static_kernel(name)[0]
    for length1, length2 in ((2, 3), (10, 19), (18, 40)):
        x, y = walk(rng, 2, length1, dimension), walk(rng, 2, length2, dimension)
        d_x, d_y = branchsig.branched_sig_kernel_backprop(
            np.ones(2), x, y, 3, static_kernel=kernel, left_deriv=True, right_deriv=True
        )
        size = np.abs(d_x).max() + np.abs(d_y).max()
        np.testing.assert_allclose(d_x.sum(axis=1), -d_y.sum(axis=1), atol=1e-13 * length1 * length2 * size)
