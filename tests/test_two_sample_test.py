"""The permutation test of two samples, against all regroupings one by one."""

import itertools
import math
import warnings

import numpy as np
import pytest
from cases import walk

import branchsig

two_sample_test = branchsig.branched_sig_mmd_test


def discrepancy(gram, first):
    """The unbiased squared discrepancy of a grouping, from the sums of its definition in rational order."""
    second = [i for i in range(len(gram)) if i not in first]

    def mean(rows, columns):
        return math.fsum(gram[i, j] for i in rows for j in columns if i != j) / sum(
            i != j for i in rows for j in columns
        )

    return mean(first, first) - 2 * mean(first, second) + mean(second, second)


def share(gram, n1, tolerance):
    """The share of regroupings with at least the discrepancy of the first n1 paths."""
    values = [discrepancy(gram, first) for first in itertools.combinations(range(len(gram)), n1)]
    return np.mean(np.asarray(values) >= values[0] - tolerance)


def single_steps(*ends):
    return np.stack([np.zeros(len(ends)), ends], axis=1)[:, :, None]


@pytest.mark.parametrize("normalize", [False, True, "dilation"])
@pytest.mark.parametrize("sizes", [(2, 2), (4, 3), (3, 5)])
def test_the_p_value_of_small_samples_is_the_share_of_all_regroupings(normalize, sizes, rng):
    x, y = walk(rng, sizes[0], 5, 2), walk(rng, sizes[1], 5, 2, size=1.2)
    options = {"normalize": normalize, "time_aug": True}
    result = two_sample_test(x, y, 2, **options)
    gram = branchsig.branched_sig_kernel_gram(np.concatenate([x, y]), None, 2, **options)
    assert result.p_value == pytest.approx(share(gram, sizes[0], 1e-12), rel=1e-12)
    assert result.statistic == pytest.approx(discrepancy(gram, range(sizes[0])), rel=1e-10, abs=1e-14)
    assert result.statistic == pytest.approx(float(branchsig.branched_sig_mmd(x, y, 2, **options)), rel=1e-10)
    assert two_sample_test(x, y, 2, seed=1, **options) == result


def test_the_p_value_of_large_samples_is_near_the_share_of_all_regroupings(rng):
    x, y = walk(rng, 4, 5, 2), walk(rng, 3, 6, 2, size=1.2)
    every = two_sample_test(x, y, 2, permutations=34)  # 35 regroupings, with the observed one
    drawn = [two_sample_test(x, y, 2, permutations=33, seed=seed).p_value for seed in range(120)]
    deviation = math.sqrt(every.p_value * (1 - every.p_value) / (33 * 120))
    # A share of 34, in which the observed one counts.
    assert abs(np.mean(drawn) - (1 + 33 * every.p_value) / 34) < 4 * deviation
    assert two_sample_test(x, y, 2, permutations=33, seed=5) == two_sample_test(x, y, 2, permutations=33, seed=5)


def test_ties_of_cancelling_sums_count():
    # k = exp(x y) at depth 1. The discrepancy is 0 to first order for four of six groupings.
    ends = [0.005, -0.005, -0.005, -0.011]
    x = single_steps(*ends)
    gram = np.exp(np.multiply.outer(ends, ends))
    wanted = share(gram, 2, 1e-12)
    assert wanted == pytest.approx(2 / 3)
    assert two_sample_test(x[:2], x[2:], 1, normalize=False).p_value == pytest.approx(wanted)


@pytest.mark.parametrize("size", [1e-9, 1e-3, 0.7])
@pytest.mark.parametrize("normalize", [False, True, "dilation"])
@pytest.mark.parametrize("permutations", [99, 1000])
def test_equal_paths_give_one(size, normalize, permutations, rng):
    path = walk(rng, 6, 2, size=size)
    x = np.stack([path] * 12)
    assert two_sample_test(x[:6], x[6:], 3, normalize=normalize, permutations=permutations, seed=0).p_value == 1.0
    assert two_sample_test(x[:5], x[5:], 3, normalize=normalize, permutations=permutations, seed=0).p_value == 1.0


def pools(rng):
    """Sets of six paths: without ties, with equal paths, mirrored ones, and ends with equal sums."""
    paths = walk(rng, 6, 4, 2)
    yield paths
    yield paths[[0, 0, 0, 1, 1, 2]]
    yield paths[[0, 1, 2, 0, 1, 2]] * np.array([1, 1, 1, -1, -1, -1])[:, None, None]
    yield single_steps(0.005, -0.005, -0.005, -0.011, 0.005, 0.0)
    yield single_steps(1.0, 2.0, 3.0, 4.0, 5.0, 6.0) * 0.1
    yield np.zeros((6, 3, 1))


@pytest.mark.parametrize("normalize", [False, True, "dilation"])
@pytest.mark.parametrize("n1", [2, 3])
def test_whatever_the_paths_p_is_at_most_alpha_with_probability_at_most_alpha(normalize, n1, rng):
    # Under the hypothesis every grouping of the paths at hand is as likely as every other one.
    for pool in pools(rng):
        p_values = []
        for first in itertools.combinations(range(6), n1):
            rest = [i for i in range(6) if i not in first]
            p_values.append(two_sample_test(pool[list(first)], pool[rest], 2, normalize=normalize).p_value)
        p_values = np.asarray(p_values)
        for alpha in np.unique(p_values):
            assert np.mean(p_values <= alpha) <= alpha + 1e-12


def test_three_paths_against_three_are_never_below_a_tenth(rng):
    # Both groups of a grouping may change places, so at least two of twenty are as large.
    x = np.concatenate([0.1 * walk(rng, 3, 5, 2), walk(rng, 3, 5, 2, size=1.5)])
    for options in ({}, {"permutations": 19}, {"normalize": False, "seed": 3}):
        assert two_sample_test(x[:3], x[3:], 2, **options).p_value >= 0.1


def test_dilation_is_the_default(rng):
    x, y = walk(rng, 5, 6, 2, size=9.0), walk(rng, 5, 6, 2, size=9.0)
    result = two_sample_test(x, y, 4)
    assert result == two_sample_test(x, y, 4, normalize="dilation")
    assert abs(result.statistic) < 2 * math.e
    with pytest.warns(RuntimeWarning, match="of the 65 kernels that the result depends on"):
        assert math.isnan(two_sample_test(x, y, 4, normalize=False).p_value)


def test_a_drift_of_large_paths_is_seen_by_default_and_lost_without_a_bound():
    x, y = 0.9 * np.random.default_rng(3).standard_normal((2, 30, 12, 2))
    y[:, :, 0] += 0.25
    x, y = (steps.cumsum(axis=1) / math.sqrt(12) for steps in (x, y))
    assert two_sample_test(x, y, 2, seed=0).p_value < 0.01
    unbounded = two_sample_test(x, y, 2, normalize=False, seed=0)
    assert abs(unbounded.statistic) > 1e50
    assert unbounded.p_value > 0.05


def test_the_result_is_a_named_tuple_of_floats(rng):
    result = two_sample_test(walk(rng, 3, 4, 2), walk(rng, 4, 4, 2), 2)
    assert type(result) is branchsig.TwoSampleTest
    assert [type(value) for value in result] == [float, float]
    statistic, p_value = result
    assert (statistic, p_value) == (result.statistic, result.p_value)


def test_sums_of_large_kernels_stay_in_the_range():
    # exp(26.6²) is 1e307, and sums of four of it are infinite.
    ends = [26.6] * 3 + [0.1, -0.1, 0.2]
    x = single_steps(*ends)
    gram = np.exp(np.multiply.outer(ends, ends))
    scaled = gram / gram.max()
    for order in ([0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5]):
        result = two_sample_test(x[order[:3]], x[order[3:]], 1, normalize=False)
        assert result.p_value == share(scaled[np.ix_(order, order)], 3, 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-4, 1e-3, 0.5])
def test_the_statistic_is_the_discrepancy(dtype, size, rng):
    x, y = (walk(rng, 20, 8, 2, size=size * scale, dtype=dtype) for scale in (1.0, 1.3))
    for normalize in (False, True, "dilation"):
        statistic = two_sample_test(x, y, 3, normalize=normalize, seed=0).statistic
        rounding = 1e-14 if normalize == "dilation" else 1e-14 * size**2  # of sums of k - 1
        discrepancy = branchsig.branched_sig_mmd(x, y, 3, normalize=normalize)
        assert discrepancy.dtype == dtype
        assert float(discrepancy) == pytest.approx(statistic, rel=float(np.finfo(dtype).eps), abs=rounding)


def test_float32_paths_have_the_p_value_of_their_values(rng):
    x, y = (walk(rng, 12, 8, 2, size=1e-3 * scale, dtype=np.float32) for scale in (1.0, 1.6))
    for normalize in (False, True, "dilation"):
        found = two_sample_test(x, y, 3, normalize=normalize, seed=0)
        assert found == two_sample_test(x.astype(float), y.astype(float), 3, normalize=normalize, seed=0)


def test_padded_and_flattened_samples_are_the_samples(rng):
    x, y = walk(rng, 4, 5, 2), walk(rng, 6, 5, 2)
    wanted = two_sample_test(x, y, 2, seed=0)
    padded = np.concatenate([y, np.full((6, 2, 2), math.nan)], axis=1)
    assert two_sample_test(x, padded, 2, lengths2=[5] * 6, seed=0) == wanted
    assert two_sample_test(x.reshape(2, 2, 5, 2), y.reshape(3, 2, 5, 2), 2, seed=0) == wanted


def test_nan_in_a_sample_gives_nan_and_is_named_once(rng):
    x, y = walk(rng, 4, 5, 2), walk(rng, 6, 5, 2)
    y[2, 3:] = y[5, 3:] = math.nan
    for normalize in (False, True, "dilation"):
        with pytest.warns(RuntimeWarning) as caught:
            result = two_sample_test(x, y, 2, normalize=normalize)
        assert math.isnan(result.statistic)
        assert math.isnan(result.p_value)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        for part in ("sample2[2]", "sample2[5]", "NaN", "lengths2="):
            assert part in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(two_sample_test(x, y, 2, check_finite=False).p_value)


def test_kernels_that_overflow_are_counted_in_the_warning():
    x = np.array([[[0.0], [9.0]]] * 3)
    # Three paths of one sample overflow with each other: six of the 24 kernels of pairs of different paths.
    with pytest.warns(RuntimeWarning, match="6 of the 21 kernels that the result depends on overflowed") as caught:
        assert math.isnan(two_sample_test(x, x / 9e3, 4, normalize=False).p_value)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"permutations": 0}, ValueError, "permutations is 0"),
        ({"permutations": 1.5}, TypeError, "permutations is 1.5"),
        ({"seed": "x"}, TypeError, "SeedSequence"),
        ({"normalize": "no"}, ValueError, "normalize is 'no'"),
        ({"sample1": np.zeros((1, 3, 1))}, ValueError, "sample1 has one path: .* needs two$"),
        ({"unbiased": False}, TypeError, "unexpected keyword argument 'unbiased'"),
        ({"dyadic_order": (1, 0)}, ValueError, "expected one order"),
    ],
)
def test_wrong_arguments_are_refused(change, error, message):
    arguments = {"sample1": np.zeros((2, 3, 1)), "sample2": np.zeros((2, 3, 1)), "depth": 2} | change
    with pytest.raises(error, match=message):
        two_sample_test(**arguments)
