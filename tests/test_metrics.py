"""Discrepancies, scores and the test of two samples, against sums over all pairs."""

import math

import numpy as np
import pytest
from cases import walk

import branchsig
from branchsig import branched_sig_kernel as kernel
from branchsig.operations import means

OPTIONS = [
    {},
    {"static_kernel": branchsig.RBFKernel(1.0), "time_aug": True, "quadrature": "lobatto2"},
    {"normalize": True},
    {"normalize": "dilation"},
    {"order": 3, "depth": math.inf},
    {"lengths1": [3, 4, 4], "lengths2": [5, 2, 5, 4]},
]


@pytest.fixture
def samples(rng):
    return walk(rng, 3, 4, 2, size=0.5), walk(rng, 4, 5, 2, size=0.5)


@pytest.fixture(params=[256, 2])
def block(request, monkeypatch):
    """One block, and blocks of which samples have several."""
    monkeypatch.setattr(means, "_BLOCK", request.param)


def expectations(x, y, unbiased, options):
    """E k(X, X'), k(X, y) for each y averaged over X, E k(Y, Y'): pair by pair."""
    options = {"depth": 3, **options}
    lengths1, lengths2 = options.pop("lengths1", [4] * 3), options.pop("lengths2", [5] * 4)
    xs, ys = [p[:n] for p, n in zip(x, lengths1)], [p[:n] for p, n in zip(y, lengths2)]

    def gram(a, b):
        return np.array([[float(kernel(p, q, **options)) for q in b] for p in a])

    def within(a):
        k = gram(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1)) if unbiased else k.mean()

    return within(xs), gram(xs, ys).mean(axis=0), within(ys)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("unbiased", [True, False])
def test_values_are_those_of_sums_over_all_pairs(block, samples, options, unbiased):
    of_x, across, of_y = expectations(*samples, unbiased, options)
    options = {"depth": 3, "unbiased": unbiased, **options}
    assert branchsig.branched_sig_mmd(*samples, **options) == pytest.approx(
        of_x - 2 * across.mean() + of_y, rel=1e-10, abs=1e-12
    )
    scores = branchsig.branched_sig_score(*samples, lam=0.7, **options)
    np.testing.assert_allclose(scores, 0.7 * of_x - 2 * across, rtol=1e-12)
    assert branchsig.expected_branched_sig_score(*samples, **options) == pytest.approx(of_x - 2 * across.mean())


@pytest.mark.parametrize("name", ["branched_sig_mmd", "branched_sig_score", "expected_branched_sig_score"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("unbiased", [True, False])
def test_gradients_equal_differences(block, samples, name, options, unbiased, rng):
    function, backward = getattr(branchsig, name), getattr(branchsig, name + "_backprop")
    options = {"depth": 3, "unbiased": unbiased, **options}
    derivs = rng.standard_normal(function(*samples, **options).shape)
    found = backward(derivs, *samples, right_deriv=True, **options)
    assert backward(derivs, *samples, **options)[1] is None
    for side in (0, 1):
        direction, step, values = rng.standard_normal(samples[side].shape), 2e-4, []
        for k in (-2, -1, 1, 2):
            moved = list(samples)
            moved[side] = moved[side] + k * step * direction
            values.append(np.sum(derivs * function(*moved, **options)))
        wanted = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
        assert np.sum(found[side] * direction) == pytest.approx(wanted, rel=1e-6, abs=1e-7)


def test_the_biased_discrepancy_of_a_sample_with_itself_is_zero(samples):
    x, _ = samples
    assert branchsig.branched_sig_mmd(x, x.copy(), 3, unbiased=False) == pytest.approx(0.0, abs=1e-14)


def test_single_observations_have_single_scores(samples):
    x, y = samples
    assert branchsig.branched_sig_score(x, y[0], 3).shape == ()
    batch = branchsig.branched_sig_score(x, y.reshape(2, 2, 5, 2), 3)
    np.testing.assert_allclose(batch[1, 0], branchsig.branched_sig_score(x, y[2], 3), rtol=1e-14)


def test_kernels_of_paths_with_themselves_are_not_asked_for():
    ends = np.array([30.0, 0.1, 0.3])
    x = np.stack([np.zeros(3), ends], axis=1)[:, :, None]
    kernels = np.exp([3.0, 9.0, 0.03])  # of depth 1, for pairs of different paths; exp(900) is infinite
    across = np.exp(ends[:, None] * ends[None, 1:]).mean()
    wanted = pytest.approx(kernels.mean() - 2 * across + kernels[2], rel=1e-10)
    assert branchsig.branched_sig_mmd(x, x[1:], 1) == wanted
    result = branchsig.branched_sig_mmd_test(x, x[1:], 1, normalize=False, seed=0)
    assert result.statistic == wanted
    assert 0 < result.p_value <= 1
    gradients = branchsig.branched_sig_mmd_backprop(np.asarray(1.0), x, x[1:], 1, right_deriv=True)
    for gradient, place in zip(gradients, (0, 1), strict=True):
        for path in range(len(gradient)):
            step = np.zeros_like(gradient)
            step[path, 1] = 1e-6
            moved = [[x, x[1:]], [x, x[1:]]]
            moved[0][place], moved[1][place] = moved[0][place] + step, moved[1][place] - step
            ahead, behind = (branchsig.branched_sig_mmd(*samples, 1) for samples in moved)
            assert gradient[path, 1, 0] == pytest.approx((ahead - behind) / 2e-6, rel=1e-5)


def test_the_test_tells_walks_of_different_size_apart(rng):
    x, y, z = walk(rng, 20, 8, 2), walk(rng, 20, 8, 2), walk(rng, 20, 8, 2, size=1.5)
    options = {"normalize": True, "seed": 1}
    assert branchsig.branched_sig_mmd_test(x, z, 2, **options).p_value < 0.02
    assert branchsig.branched_sig_mmd_test(x, y, 2, **options).p_value > 0.02


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sample1": np.zeros((1, 3, 1))}, ValueError, "sample1 has one path: .* needs two, or unbiased=False"),
        ({"sample1": np.zeros((0, 3, 1))}, ValueError, r"sample1 has shape \(0, 3, 1\) and holds no paths"),
        ({"sample1": np.zeros((3, 1))}, ValueError, r"sample1 has shape \(3, 1\), .* sample1\[:, :, None\]"),
        ({"sample2": np.zeros((3, 1))}, ValueError, r"sample2 has shape \(3, 1\)"),
        ({"sample2": None}, TypeError, "sample2 is None"),
        ({"sample2": np.zeros((2, 3, 2))}, ValueError, r"sample1 has shape \(2, 3, 1\) and sample2 \(2, 3, 2\)"),
        ({"sample2": np.zeros((2, 3, 1), dtype=np.float32)}, TypeError, "sample2 has dtype float32 and sample1"),
        ({"return_grid": True}, TypeError, "unexpected keyword argument 'return_grid'"),
        ({"unbiased": 1}, TypeError, "unbiased is 1"),
    ],
)
def test_wrong_arguments_are_refused(change, error, message):
    arguments = {"sample1": np.zeros((2, 3, 1)), "sample2": np.zeros((2, 3, 1)), "depth": 2} | change
    with pytest.raises(error, match=message):
        branchsig.branched_sig_mmd(**arguments)
