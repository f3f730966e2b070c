"""Calls over ordered forests with options and shapes that have been there before: they take the short way too."""

import itertools

import numpy as np
import pytest
from cases import STATIC_KERNELS, static_kernel, walk
from test_calls_made_again import SHAPES, all_ways, assert_same, random_paths, value_and_gradients

import branchsig
from branchsig.operations import ready as calls

__all__ = ["all_ways"]  # a fixture


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_second_call_has_the_bits_of_the_first(depth, shapes, dtype, rng, all_ways):
    x, y = random_paths(rng, shapes, dtype)
    derivs = rng.normal(size=shapes[0][:-2]).astype(dtype)
    for name, rule, dyadic_order in itertools.product(STATIC_KERNELS, ("trapezoid", "left"), (0, (1, 0))):
        options = {"static_kernel": static_kernel(name)[0], "quadrature": rule, "dyadic_order": dyadic_order}
        found, wanted = all_ways(lambda o=options: value_and_gradients(x, y, derivs, depth, planar=True, **o))
        assert_same(found, wanted)
        assert sum(ready is not None for *_, ready in calls._kept.values()) == 1


@pytest.mark.usefixtures("core")
def test_a_signature_kernel_of_one_segment_is_its_series_in_every_call():
    x, y = np.array([[0.0], [0.5]]), np.array([[0.0], [0.25]])
    for _ in range(3):  # sum of c^n / (n!)^2, of which the rule is off by less than c^3
        found = branchsig.sig_kernel(x, y, dyadic_order=6)
        assert isinstance(found, np.ndarray)
        assert found == pytest.approx(1 + 1 / 8 + 1 / 8**2 / 4 + 1 / 8**3 / 36 + 1 / 8**4 / 576, rel=1e-6)


@pytest.mark.usefixtures("core")
def test_a_value_that_overflows_is_infinite_and_warned_of_in_every_call(rng):
    x = walk(rng, 3, 6, 2)
    x[1] *= 1e200
    for _ in range(3):
        with pytest.warns(RuntimeWarning):
            found = branchsig.sig_kernel(x, x)
        assert np.isfinite(found[[0, 2]]).all()
        assert not np.isfinite(found[1])
    for _ in range(40):
        np.testing.assert_array_equal(branchsig.sig_kernel(x[::2], x[::2]), found[::2])
