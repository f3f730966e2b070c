"""Kernels with norms of one from paths of float32, whose logarithms are large beside what is left of them.

At depth 1 the kernel of two lines with steps a and b is exp(a b), so that with norms of one it is exp(−(a − b)² / 2).
"""

import contextlib

import numpy as np
import pytest
from cases import QuarticKernel, using

import branchsig
from branchsig.backends.reference import ReferenceBackend

SIZES = [1e2, 1e4, 5e5]


def lines(size, dtype=np.float32):
    """Two lines of one channel for which log K is about `size`, and the steps they have in float64."""
    x, y = (np.array([[0.0], [np.sqrt(size) + more]], dtype=dtype) for more in (0.0, 0.75))
    return x, y, float(x[1, 0]), float(y[1, 0])


@pytest.fixture(params=["core", "reference"], autouse=True)
def backend(request):
    with using(ReferenceBackend()) if request.param == "reference" else contextlib.nullcontext():
        yield


@pytest.mark.parametrize("size", SIZES)
def test_values_of_float32_paths_are_those_of_their_points(size):
    x, y, a, b = lines(size)
    exact = np.exp(-0.5 * (a - b) ** 2)
    found = branchsig.branched_sig_kernel(x, y, 1, normalize=True)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, rtol=2e-7)
    gram = branchsig.branched_sig_kernel_gram(x[None], y[None], 1, normalize=True)
    np.testing.assert_allclose(gram, [[exact]], rtol=2e-7)
    log = branchsig.branched_sig_kernel(x, y, 1, normalize=True, log=True)
    np.testing.assert_allclose(log, -0.5 * (a - b) ** 2, rtol=2e-7)


@pytest.mark.parametrize("size", SIZES)
def test_gradients_of_float32_paths_are_those_of_their_points(size):
    x, y, a, b = lines(size)
    slope = (b - a) * np.exp(-0.5 * (a - b) ** 2)
    value, pullback = branchsig.branched_sig_kernel_vjp(x, y, 1, normalize=True)
    d_x, d_y = pullback(np.ones_like(value))
    assert d_x.dtype == d_y.dtype == np.float32
    np.testing.assert_allclose(d_x[:, 0], [-slope, slope], rtol=1e-5)
    np.testing.assert_allclose(d_y[:, 0], [slope, -slope], rtol=1e-5)
    stack = np.stack([x, y])
    d_stack, _ = branchsig.branched_sig_kernel_gram_backprop(
        np.eye(2)[::-1].astype(np.float32), stack, None, 1, normalize=True
    )
    np.testing.assert_allclose(d_stack[0], 2 * d_x, rtol=1e-5)


def test_sums_over_nodes_are_kept_beyond_the_range_of_float32():
    x, y, a, b = lines(1e12)
    # Up to two nodes at depth 1 a kernel of lines is 1 + a b + (a b)² / 2.
    k, kx, ky = (1.0 + c + 0.5 * c * c for c in (a * b, a * a, b * b))
    value, pullback = branchsig.branched_sig_kernel_vjp(x, y, 1, order=2, normalize=True)
    np.testing.assert_allclose(value, k / np.sqrt(kx * ky), rtol=2e-7)
    assert np.isfinite(pullback(np.ones_like(value))[0]).all()


def test_rounded_logarithms_of_a_custom_kernel_give_nan_and_no_number():
    # A kernel of the user's own is called with the paths as they are, so its logarithms are rounded to float32.
    x, y, *_ = lines(200.0)  # log K is about 200 + 200² / 2
    with pytest.warns(RuntimeWarning, match="lost all their digits"):
        found = branchsig.branched_sig_kernel(x, y, 1, static_kernel=QuarticKernel(), normalize=True)
    assert np.isnan(found)
