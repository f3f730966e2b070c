"""Ordered forests of CuPy arrays, which the reference computes on the device."""

import numpy as np
from cases import using, walk
from cuda_cases import emulated_cupy

import branchsig
from branchsig.backends.reference import ReferenceBackend


def test_ordered_forests_give_the_same_on_a_device(on_device, rng):
    x, y = walk(rng, 3, 5, 2, size=0.3), walk(rng, 3, 4, 2, size=0.3)
    for options in ({"depth": 1}, {"depth": 2, "quadrature": "left"}, {"order": 3}):
        with using(ReferenceBackend()):
            value, pullback = branchsig.branched_sig_kernel_gram_vjp(x, y, planar=True, **options)
            expected = pullback(np.ones((3, 3)))
        there = branchsig.branched_sig_kernel_gram_vjp(
            emulated_cupy.asarray(x), emulated_cupy.asarray(y), planar=True, **options
        )
        np.testing.assert_allclose(np.asarray(there[0]), value, rtol=1e-13)
        found = there[1](emulated_cupy.ones((3, 3)))
        for mine, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(np.asarray(mine), other, rtol=1e-12, atol=1e-14)
