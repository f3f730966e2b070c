"""A pullback gives the gradient of the value that it was returned with, whatever is written to since, but the paths."""

import numpy as np
import pytest
from cases import walk

import branchsig


@pytest.mark.parametrize("options", [{}, {"rtol": 1e-6}, {"normalize": "dilation"}, {"lead_lag": True}], ids=str)
@pytest.mark.parametrize("form", ["paired", "gram", "symmetric"])
def test_lengths_may_be_written_to_before_the_pullback(backend, form, options, rng):
    x, y = walk(rng, 3, 6, 2), walk(rng, 3, 5, 2)
    function = branchsig.branched_sig_kernel_vjp if form == "paired" else branchsig.branched_sig_kernel_gram_vjp
    given = {"lengths1": np.array([6, 3, 4])} | ({} if form == "symmetric" else {"lengths2": np.array([2, 5, 4])})
    second = None if form == "symmetric" else y
    value, pullback = function(x, second, 3, **given, **options)
    derivs = rng.standard_normal(value.shape)
    wanted = pullback(derivs)
    for lengths in given.values():
        lengths[:] = 1
    for found, its in zip(pullback(derivs), wanted, strict=True):
        np.testing.assert_array_equal(found, its)
