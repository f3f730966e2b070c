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


WRITTEN_TO = {
    "kernel": lambda x, y: branchsig.branched_sig_kernel_vjp(x, y, 3),
    "grid": lambda x, y: branchsig.branched_sig_kernel_vjp(x, y, 3, return_grid=True),
    "unit norm": lambda x, y: branchsig.branched_sig_kernel_vjp(x, y, 3, normalize=True),
    "logarithm by nodes": lambda x, y: branchsig.branched_sig_kernel_vjp(x, y, order=3, log=True),
    "components": lambda x, y: branchsig.branched_sig_kernel_vjp(x, y, order=3, return_levels=True),
    "dilated Gram": lambda x, y: branchsig.branched_sig_kernel_gram_vjp(x, None, 3, normalize="dilation"),
    "stack": lambda x, y: branchsig.branched_sig_kernel_stack_vjp(x, y, 3),
    "discrepancy": lambda x, y: branchsig.branched_sig_mmd_vjp(x, y, 3, normalize="dilation"),
    "score": lambda x, y: branchsig.branched_sig_score_vjp(x, y, 3),
    "expected score": lambda x, y: branchsig.expected_branched_sig_score_vjp(x, y, 3),
    "dilation": lambda x, y: branchsig.dilation_vjp(x, 3),
    "guard": lambda x, y: branchsig.dilation_vjp(x, 3, method="guard"),
    "transform": lambda x, y: branchsig.transform_path_vjp(x, lead_lag=True),
}


@pytest.mark.parametrize("vjp", WRITTEN_TO.values(), ids=WRITTEN_TO)
def test_a_value_that_is_written_to_leaves_its_pullback_as_it_was(vjp, rng):
    x, y = walk(rng, 5, 7, 2), walk(rng, 5, 6, 2)
    value, pullback = vjp(x, y)
    derivs = rng.standard_normal(value.shape)
    before = pullback(derivs)
    value[...] = 7.0
    after = pullback(derivs)
    for a, b in zip(*(found if isinstance(found, tuple) else (found,) for found in (before, after)), strict=True):
        np.testing.assert_array_equal(a, b)
