"""Dyadic orders that differ along both paths: norms, means and their gradients.

k(x, y) at the orders (o1, o2) is the inner product of features of x at o1 and of y at o2. What follows from that is
checked: Cauchy-Schwarz, joint Gram matrices without negative eigenvalues, squared distances.
"""

import math

import numpy as np
import pytest
from cases import walk

import branchsig
from branchsig.operations import means

gram = branchsig.branched_sig_kernel_gram

ORDERS = [(0, 2), (3, 0), (1, 2)]
KINDS = [
    {},
    {"quadrature": "left"},
    {"quadrature": "lobatto2"},
    {"static_kernel": branchsig.RBFKernel(2.0)},
    {"depth": math.inf},
    {"depth": math.inf, "order": 4},
]


def diagonal_of_own(paths, order, options):
    return np.diagonal(gram(paths, None, dyadic_order=order, **options))


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("orders", ORDERS)
def test_joint_gram_matrices_have_no_negative_eigenvalues(backend, orders, options, rng):
    options = {"depth": 3, **options}
    x, y = walk(rng, 4, 5, 2, size=0.5), walk(rng, 3, 6, 2, size=0.5)
    k11, k22 = gram(x, None, dyadic_order=orders[0], **options), gram(y, None, dyadic_order=orders[1], **options)
    k12 = gram(x, y, dyadic_order=orders, **options)
    eigenvalues = np.linalg.eigvalsh(np.block([[k11, k12], [k12.T, k22]]))
    assert eigenvalues.min() > -1e-12 * eigenvalues.max()


@pytest.mark.parametrize("size", [0.3, 0.7, 1.2])
@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("orders", ORDERS)
def test_unit_kernels_are_at_most_one(backend, orders, options, size, rng):
    options = {"depth": 3, "normalize": True, "check_finite": False, **options}
    x, y = walk(rng, 4, 5, 2, size=size), walk(rng, 4, 5, 2, size=size)
    # The points of y lie on x, so that the two are alike and differ in their orders alone.
    y[:2] = x[:2]
    for found in (
        gram(x, y, dyadic_order=orders, **options),
        gram(x, x, dyadic_order=orders, **options),
        branchsig.branched_sig_kernel(x, y, dyadic_order=orders, **options),
        branchsig.branched_sig_kernel(x, x, dyadic_order=orders, **options),
    ):
        assert not np.any(np.abs(found) > 1 + 1e-10)
        if size < 0.5:
            assert np.isfinite(found).all()


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("orders", ORDERS)
def test_unit_kernels_are_quotients_by_the_kernels_at_the_order_of_each_path(backend, orders, options, rng):
    options = {"depth": 3, **options}
    x, y = walk(rng, 3, 5, 2, size=0.5), walk(rng, 4, 6, 2, size=0.5)
    norms = np.sqrt(diagonal_of_own(x, orders[0], options)[:, None] * diagonal_of_own(y, orders[1], options))
    wanted = gram(x, y, dyadic_order=orders, **options) / norms
    np.testing.assert_allclose(gram(x, y, dyadic_order=orders, normalize=True, **options), wanted, rtol=1e-12)
    norms = np.sqrt(diagonal_of_own(x, orders[0], options)[:, None] * diagonal_of_own(x, orders[1], options))
    wanted = gram(x, x, dyadic_order=orders, **options) / norms
    np.testing.assert_allclose(gram(x, x, dyadic_order=orders, normalize=True, **options), wanted, rtol=1e-12)
    np.testing.assert_allclose(gram(x, None, dyadic_order=orders, normalize=True, **options), wanted, rtol=1e-12)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("options", KINDS)
def test_the_whole_gradient_of_a_unit_gram_matrix_equals_differences(backend, options, log, rng):
    options = {"depth": 3, "dyadic_order": (0, 2), "normalize": True, "log": log, **options}
    x = walk(rng, 3, 4, 2, size=0.8)
    derivs, direction, step = rng.standard_normal((3, 3)), rng.standard_normal(x.shape), 2e-4
    values = [np.sum(derivs * gram(x + k * step * direction, None, **options)) for k in (-2, -1, 1, 2)]
    wanted = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    found, _ = branchsig.branched_sig_kernel_gram_backprop(derivs, x, None, **options)
    assert np.sum(found * direction) == pytest.approx(wanted, rel=1e-7, abs=1e-9)


MEANS = [*({"normalize": n, **kind} for n in (False, True, "dilation") for kind in KINDS if "order" not in kind)]


@pytest.fixture(params=[256, 2])
def block(request, monkeypatch):
    """One block, and blocks of which samples have several."""
    monkeypatch.setattr(means, "_BLOCK", request.param)


@pytest.mark.parametrize("options", MEANS)
@pytest.mark.parametrize("unbiased", [True, False])
def test_means_are_those_of_gram_matrices_at_the_orders_of_the_samples(block, options, unbiased, rng):
    orders, options = (0, 2), {"depth": 3, **options}
    x, y = walk(rng, 5, 4, 2, size=0.4), walk(rng, 3, 5, 2, size=0.4)
    k11, k22 = gram(x, None, dyadic_order=orders[0], **options), gram(y, None, dyadic_order=orders[1], **options)
    k12 = gram(x, y, dyadic_order=orders, **options)

    def within(k):
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) if unbiased else k.mean()

    options |= {"dyadic_order": orders, "unbiased": unbiased}
    wanted = within(k11) - 2 * k12.mean() + within(k22)
    assert branchsig.branched_sig_mmd(x, y, **options) == pytest.approx(wanted, rel=1e-11, abs=1e-13)
    wanted = 0.7 * within(k11) - 2 * k12.mean(axis=0)
    np.testing.assert_allclose(branchsig.branched_sig_score(x, y, lam=0.7, **options), wanted, rtol=1e-12)
    score = branchsig.expected_branched_sig_score(x, y, lam=0.7, **options)
    assert score == pytest.approx(wanted.mean(), rel=1e-12)


@pytest.mark.parametrize("options", MEANS)
def test_a_biased_discrepancy_is_a_squared_distance(options, rng):
    # The same paths in both samples: what is left is the distance of their features at the two orders.
    x = walk(rng, 4, 4, 2, size=0.4)
    options = {"depth": 3, **options}
    assert branchsig.branched_sig_mmd(x, x, dyadic_order=(0, 3), unbiased=False, **options) > 0
    assert branchsig.branched_sig_mmd(x, x, dyadic_order=1, unbiased=False, **options) == pytest.approx(0, abs=1e-13)


@pytest.mark.parametrize("name", ["branched_sig_mmd", "branched_sig_score", "expected_branched_sig_score"])
@pytest.mark.parametrize("normalize", [False, True, "dilation"])
def test_gradients_of_means_equal_differences(block, name, normalize, rng):
    function, backward = getattr(branchsig, name), getattr(branchsig, name + "_backprop")
    samples = walk(rng, 5, 4, 2, size=0.7), walk(rng, 3, 5, 2, size=0.7)
    options = {"depth": 3, "dyadic_order": (2, 0), "normalize": normalize}
    derivs = rng.standard_normal(function(*samples, **options).shape)
    found = backward(derivs, *samples, right_deriv=True, **options)
    for side in (0, 1):
        direction, step, values = rng.standard_normal(samples[side].shape), 2e-4, []
        for k in (-2, -1, 1, 2):
            moved = list(samples)
            moved[side] = moved[side] + k * step * direction
            values.append(np.sum(derivs * function(*moved, **options)))
        wanted = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
        assert np.sum(found[side] * direction) == pytest.approx(wanted, rel=1e-6, abs=1e-8)


def test_a_test_of_two_samples_takes_one_order(rng):
    x, y = walk(rng, 3, 4, 2), walk(rng, 3, 4, 2)
    with pytest.raises(ValueError, match=r"dyadic_order is \(0, 1\): expected one order for both samples"):
        branchsig.branched_sig_mmd_test(x, y, 2, (0, 1))
    one, pair = (branchsig.branched_sig_mmd_test(x, y, 2, order) for order in (1, (1, 1)))
    assert one == pair
