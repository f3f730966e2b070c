"""Where floating point is hard: overflow and what comes back from it, large cells, long paths, NaN, and bits.

What a kernel must be is said by the reference; the hardest cases of the reference are held against forty digits.
"""

import functools
import itertools
import math
import warnings

import numpy as np
import oracles
import pytest
from cases import (
    STATIC_KERNELS,
    QuarticKernel,
    gradients_of,
    problem,
    relative,
    relative_to_path,
    scaled,
    static_kernel,
    walk,
)
from remembered import RememberedReference

import branchsig
from branchsig.quadrature import BY_NAME

HUGE = 60.0


def sides(backend, x, y, depth, orders=(0, 0), pairing="paired", static_kernel=None, wrt_log=True, **options):
    """log K and both gradients for derivatives 1."""
    arguments = problem(x, y, depth, orders, pairing, static_kernel, **options)
    logarithms = backend.solve(arguments, "end", log=True)
    gradients = gradients_of(
        backend, arguments, np.ones_like(logarithms), wrt_log=wrt_log, left=True, right=pairing != "symmetric"
    )
    return logarithms, *(gradient for gradient in gradients if gradient is not None)


def lines(cells, dtype=np.float64):
    """Pairs of paths of one channel whose increments are the outer products of `cells` with (1,): one row of cells."""
    cells = np.asarray(cells, dtype=float)
    x = np.zeros((*cells.shape[:-1], 2, 1))
    x[..., 1, 0] = 1.0
    y = np.concatenate([np.zeros((*cells.shape[:-1], 1)), np.cumsum(cells, axis=-1)], axis=-1)[..., None]
    return x.astype(dtype), y.astype(dtype)


@pytest.mark.parametrize("function", ["paired", "gram", "symmetric", "grid"])
def test_overflow_is_infinite_and_warned_of_once(backend, function, rng):
    x, y = walk(rng, 4, 5, 2), walk(rng, 4, 5, 2)
    x[2] *= HUGE
    y[2] = x[2]
    call = branchsig.branched_sig_kernel if function in ("paired", "grid") else branchsig.branched_sig_kernel_gram
    other = x if function == "symmetric" else y
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = call(x, other, 3, return_grid=function == "grid")
    broken = np.count_nonzero(~np.isfinite(values))
    assert broken > 0
    assert np.isfinite(values[0]).any()
    assert [w.category for w in caught] == [RuntimeWarning]
    message = str(caught[0].message)
    assert f"{broken} of {values.size}" in message
    assert "scale" in message.lower()
    assert caught[0].filename == __file__


def test_an_overflowing_pair_leaves_its_neighbours_as_they_are(backend, rng):
    x, y = walk(rng, 19, 8, 2), walk(rng, 19, 7, 2)
    wanted = sides(backend, x, y, 4, (1, 0))
    for place in (0, 7, 18):
        spoilt = x.copy()
        spoilt[place] *= HUGE
        y_spoilt = y.copy()
        y_spoilt[place, :, :] = spoilt[place, -1:, :] * np.arange(7)[:, None]
        found = sides(backend, spoilt, y_spoilt, 4, (1, 0))
        assert not np.isfinite(found[0][place])
        others = np.arange(19) != place
        for mine, its in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(mine[others], its[others])
        for gradient in found[1:]:
            assert np.all(np.isnan(gradient[place]))


UNCOUNTED = [
    {},
    {"log": True},
    {"depth": 7, "dyadic_order": (0, 1)},
    {"depth": math.inf},
    {"depth": math.inf, "order": 4, "log": True},
    {"depth": math.inf, "order": 4, "normalize": True},
    {"quadrature": "lobatto2"},
    {"static_kernel": branchsig.PolynomialKernel(2.0, 1.0, 1.0)},
    {"static_kernel": QuarticKernel()},
    {"normalize": True},
    {"normalize": "dilation"},
    {"return_grid": True},
    {"return_grid": True, "time_aug": True, "lead_lag": True},
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("spoilt", [1e60, math.nan])
@pytest.mark.parametrize("options", UNCOUNTED)
def test_pairs_without_a_derivative_contribute_nothing(backend, options, spoilt, rng):
    options = {"depth": 3} | options
    x, y = walk(rng, 11, 6, 2, size=0.4), walk(rng, 11, 6, 2, size=0.4)
    others = np.arange(11) != 2
    x[2], y[2] = x[2] * spoilt, y[2] * spoilt
    for function in (branchsig.branched_sig_kernel_vjp, branchsig.branched_sig_kernel_gram_vjp):
        value, pullback = function(x, y, **options)
        derivs = rng.standard_normal(value.shape)
        derivs[2] = 0.0
        if function is branchsig.branched_sig_kernel_gram_vjp:
            derivs[:, 2] = 0.0
            derivs_of_others = derivs[others][:, others]
        else:
            derivs_of_others = derivs[others]
        _, pullback_of_others = function(x[others], y[others], **options)
        for mine, its in zip(pullback(derivs), pullback_of_others(derivs_of_others), strict=True):
            assert relative_to_path(mine[others], its) < 1e-12
            assert np.all(mine[2] == 0.0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("normalize", [False, True, "dilation"])
@pytest.mark.parametrize("kernel", [branchsig.LinearKernel(), QuarticKernel()])
def test_entries_of_a_symmetric_matrix_without_a_derivative_contribute_nothing(backend, kernel, normalize, rng):
    x = walk(rng, 11, 6, 2, size=0.4)
    x[2] *= math.nan
    options = {"depth": 3, "static_kernel": kernel, "normalize": normalize}
    others = np.arange(11) != 2
    derivs = rng.standard_normal((11, 11))
    derivs[2] = derivs[:, 2] = 0.0
    for left, right in ((True, False), (True, True)):
        found = branchsig.branched_sig_kernel_gram_backprop(derivs, x, x, right_deriv=right, **options)
        wanted = branchsig.branched_sig_kernel_gram_backprop(
            derivs[others][:, others], x[others], x[others], right_deriv=right, **options
        )
        for mine, its, asked in zip(found, wanted, (left, right), strict=True):
            if asked:
                assert relative_to_path(mine[others], its) < 1e-12
                assert np.all(mine[2] == 0.0)
    # An entry and its mirror image are two: here path 2 has derivatives in one place alone.
    derivs[others, 2] = 1.0
    left, right = branchsig.branched_sig_kernel_gram_backprop(derivs, x, x, right_deriv=True, **options)
    if not normalize:
        assert np.all(left[2] == 0.0)
        assert np.all(np.isnan(left[others]))
        assert np.all(np.isfinite(right[others]))
        assert np.all(np.isnan(right[2]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pairing", ["paired", "gram"])
def test_logarithms_of_infinite_sums_of_parts_have_no_gradient(backend, pairing, normalize, rng):
    x, y = walk(rng, 3, 6, 2, size=0.4), walk(rng, 3, 6, 2, size=0.4)
    x[1], y[1] = 1e90 * np.arange(6.0)[:, None], 1e90 * np.arange(6.0)[:, None]
    of = branchsig.branched_sig_kernel_vjp if pairing == "paired" else branchsig.branched_sig_kernel_gram_vjp
    value, pullback = of(x, y, math.inf, order=4, log=True, normalize=normalize)
    assert not np.isfinite(value[(1,) * value.ndim])
    for gradient in pullback(np.ones_like(value)):
        assert np.all(np.isnan(gradient[1]))


def test_unit_normalisation_survives_where_the_kernel_overflows(backend):
    # Depth one: log K = <dx, dy>, so the normalised kernel is exp(-|dx - dy|^2 / 2) although K itself is inf.
    x, y = np.array([[[0.0], [40.0]]]), np.array([[[0.0], [41.5]]])
    value = branchsig.branched_sig_kernel(x, y, 1, normalize=True)
    assert float(value[0]) == pytest.approx(math.exp(-(1.5**2) / 2), rel=1e-12)
    left, right = branchsig.branched_sig_kernel_backprop(np.ones(1), x, y, 1, normalize=True, right_deriv=True)
    slope = 1.5 * math.exp(-(1.5**2) / 2)
    np.testing.assert_allclose(left, [[[-slope], [slope]]], rtol=1e-10)
    np.testing.assert_allclose(right, [[[slope], [-slope]]], rtol=1e-10)


def test_no_value_is_finite_and_wrong(backend, rng):
    # Over seven orders of magnitude of the paths: each value is right to the digits it can have, or it is not finite.
    mpmath_numbers = oracles.mpmath_scalars()
    finite = 0
    for size in np.logspace(-1, 1.2, 12):
        x, y = walk(rng, 4, 5, 2, size=size), walk(rng, 4, 4, 2, size=size)
        found = backend.solve(problem(x, y, 3), "end", log=True)
        for value, a, b in zip(found, x, y, strict=True):
            g = oracles.increments(
                oracles.static_kernel("linear"),
                oracles.points(a, mpmath_numbers),
                oracles.points(b, mpmath_numbers),
                mpmath_numbers,
            )
            levels = oracles.log_levels(g, 3, (0, 0), mpmath_numbers)
            wanted = levels[-1][-1][-1]
            # Each level multiplies the rounding of the one below by the largest cell it is exponentiated into.
            heights = [max(abs(u) for row in level for u in row) for level in levels[1:]]
            noise = 1e-15
            for below, here in itertools.pairwise(heights):
                noise = 1e-15 * (1 + float(min(here, 1e308))) + noise * (1 + float(min(below, 1e308)))
            if math.isfinite(value):
                finite += 1
                assert abs(float(wanted) - value) <= 100 * noise * max(1.0, float(max(heights)))
            else:
                assert max(heights) > 700
    assert 12 < finite < 48


@pytest.mark.filterwarnings("ignore:path1")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (2, -1), (3, 2)])
@pytest.mark.parametrize("name", ["linear", "rbf", "matern12", "polynomial"])
def test_a_bad_path_spoils_its_own_pairs_alone(backend, bad, place, name, rng):
    x, y = walk(rng, 5, 5, 2, size=0.5), walk(rng, 5, 6, 2, size=0.5)
    kernel, _ = static_kernel(name)
    spoilt = x.copy()
    spoilt[place[0], place[1], 1] = bad
    derivs = np.ones(5)
    wanted = branchsig.branched_sig_kernel(x, y, 3, static_kernel=kernel)
    found = branchsig.branched_sig_kernel(spoilt, y, 3, static_kernel=kernel)
    others = np.arange(5) != place[0]
    np.testing.assert_array_equal(found[others], wanted[others])
    if math.isnan(bad):
        assert np.isnan(found[place[0]])
        gradients = branchsig.branched_sig_kernel_backprop(derivs, x, y, 3, static_kernel=kernel, right_deriv=True)
        spoilt_ones = branchsig.branched_sig_kernel_backprop(
            derivs, spoilt, y, 3, static_kernel=kernel, right_deriv=True
        )
        for mine, its in zip(spoilt_ones, gradients, strict=True):
            assert np.all(np.isnan(mine[place[0]]))
            np.testing.assert_array_equal(mine[others], its[others])
    gram = branchsig.branched_sig_kernel_gram(spoilt, y, 3, static_kernel=kernel)
    np.testing.assert_array_equal(
        gram[others], branchsig.branched_sig_kernel_gram(x, y, 3, static_kernel=kernel)[others]
    )
    if math.isnan(bad):
        assert np.all(np.isnan(gram[place[0]]))
        left, right = branchsig.branched_sig_kernel_gram_backprop(
            np.ones((5, 5)), spoilt, y, 3, static_kernel=kernel, right_deriv=True
        )
        assert np.all(np.isnan(left[place[0]]))
        assert np.all(np.isfinite(left[others]))
        assert np.all(np.isnan(right))  # every path of the other side is in a pair with the bad one


BAD_PATH = r"path1\[1\] holds (NaN|infinities)\. \d+ of \d+ values are not finite because of this$"
"""All that is to be said of a path with the index 1."""


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "options",
    [{}, {"log": True}, {"normalize": True}, {"normalize": "dilation"}, {"quadrature": "left"}, {"rtol": 1e-3}],
)
def test_without_truncation_a_bad_path_is_no_blow_up(backend, options, bad, rng):
    x = walk(rng, 3, 6, 2, size=0.02) + np.linspace(0, 0.5, 6)[:, None]
    plain = branchsig.branched_sig_kernel_gram(x, None, math.inf, **options)
    x[1, 2, 0] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", BAD_PATH)
        found = branchsig.branched_sig_kernel_gram(x, None, math.inf, **options)
        grid = branchsig.branched_sig_kernel(x, x, math.inf, return_grid=True)
    assert np.all(np.isnan(found[1]))
    assert np.all(np.isnan(found[:, 1]))
    np.testing.assert_allclose(found[::2, ::2], plain[::2, ::2], rtol=1e-3)
    assert np.isnan(grid[1, -1, -1])
    assert grid[1, 0, 0] == 1
    assert np.all(np.isfinite(grid[::2]))


@pytest.mark.filterwarnings("ignore:path1")
def test_a_nan_in_a_symmetric_gram_matrix_is_a_row_and_a_column(backend, rng):
    x = walk(rng, 6, 5, 2, size=0.5)
    wanted = branchsig.branched_sig_kernel_gram(x, x, 3)
    spoilt = x.copy()
    spoilt[2, 3, 0] = math.nan
    found = branchsig.branched_sig_kernel_gram(spoilt, spoilt, 3)
    assert np.all(np.isnan(found[2]))
    assert np.all(np.isnan(found[:, 2]))
    others = np.ix_(np.arange(6) != 2, np.arange(6) != 2)
    np.testing.assert_array_equal(found[others], wanted[others])


def test_a_nan_is_no_overflow_and_no_other_warning(backend, rng):
    x, y = walk(rng, 3, 5, 2), walk(rng, 3, 5, 2)
    x[1, 2, 0] = math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", BAD_PATH)
        branchsig.branched_sig_kernel(x, y, 3)
        branchsig.branched_sig_kernel(x, y, 3, return_grid=True)
        branchsig.branched_sig_kernel(x, y, 3, normalize=True)
        branchsig.branched_sig_kernel_backprop(np.ones(3), x, y, 3, right_deriv=True)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_one_cell_of_any_size_is_exact_to_rounding(backend, dtype):
    # log K_2 of one cell c is c (3 + exp c) / 4: this is the exponential, from the smallest cell to the largest.
    ends = (-745.0, 700.0) if dtype == np.float64 else (-103.0, 88.0)
    thresholds = np.concatenate(
        [s * 2.0**-k * (1 + e) for s in (1, -1) for k in range(-3, 8) for e in [np.array([-1e-9, 0, 1e-9])]]
    )
    tiny = np.concatenate([10.0 ** -np.arange(5, 30), -(10.0 ** -np.arange(5, 30))])
    cells = np.concatenate([np.linspace(*ends, 2001), np.linspace(-1, 1, 501), thresholds, tiny])
    cells = np.random.default_rng(0).permutation(cells).astype(dtype)  # neighbours of all sizes
    x, y = lines(cells[:, None], dtype)
    found = backend.solve(problem(x, y, 2), "end", log=True)
    exact = cells.astype(float)
    with np.errstate(over="ignore"):
        wanted = (exact * (3 + np.exp(exact)) / 4).astype(dtype)
    assert relative(found, wanted) < (2e-15 if dtype == np.float64 else 1e-6)


@pytest.mark.parametrize("name", ["rbf", "matern12", "matern32", "matern52"])
def test_static_kernels_that_fall_off_are_right_near_and_far(backend, reference, name):
    # Up to where the exponential ends (exp(-708) is nearly the smallest normal number), and absurdly far away.
    distances = np.concatenate(
        [np.linspace(0, 40, 301), np.linspace(690, 760, 301), 10.0 ** np.array([4, 20, 100, 148])]
    )
    x, y = np.zeros((2, len(distances), 2, 1))
    x[:, 1, 0], y[:, 1, 0] = np.sqrt(distances) if name == "rbf" else distances, 0.25
    arguments = problem(x, y, 1, static_kernel=static_kernel(name)[0])
    np.testing.assert_allclose(
        backend.solve(arguments, "end", log=True), reference.solve(arguments, "end", log=True), rtol=1e-14, atol=2e-15
    )


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("size", [1.0, 30.0, 300.0, 700.0])
def test_large_negative_cells_agree_with_the_reference(backend, reference, depth, size, rng):
    cells = -size * rng.uniform(0.2, 1.0, (13, 6))
    x, y = lines(cells)
    found, wanted = sides(backend, x, y, depth), sides(reference, x, y, depth)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-13)
    for mine, its in zip(found[1:], wanted[1:], strict=True):
        assert relative_to_path(mine, its) < 1e-11


DIPS = {
    "one cell down and one up": [-800.0, 800.0],
    "into subnormal numbers": [-735.0, 735.0],
    "deep below": [-3000.0, 3000.0],
    "by small steps": [-7.45] * 100 + [7.45] * 100,
    "by small steps into subnormal numbers": [-3.7] * 200 + [3.7] * 200,
    "twice": [-800.0, 800.0, 0.3, -760.0, 760.0],
    "and only partly up": [-900.0, 880.0],
}


@pytest.mark.parametrize("dip", DIPS)
@pytest.mark.parametrize("along", ["rows", "columns"])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_kernels_that_underflow_and_come_back(backend, reference, dip, along, depth, rng):
    # K_1 goes down to 0 in floating point, and its logarithm comes back: a running product would stay at 0 or turn NaN.
    x, y = lines([DIPS[dip], [0.01 * c for c in DIPS[dip]]])
    if along == "columns":
        x, y = y, x
    arguments = problem(x, y, depth)
    found, wanted = backend.solve(arguments, "end", log=True), reference.solve(arguments, "end", log=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-6)  # cells of 800 that cancel, level by level
    exact = oracles.log_kernel(x[0], y[0], depth, scalars=oracles.mpmath_scalars())
    # From the deepest dip a rounding of level 1 may come up, at level 4, as more than 1e-4 of the kernel.
    assert np.isfinite(found[0]) or (dip, depth) == ("deep below", 4)
    assert found[0] == pytest.approx(float(exact), rel=1e-11, abs=1e-6) or np.isnan(found[0])
    grids = [which.solve(arguments, "stack") for which in (backend, reference)]
    for mine, its in zip(*grids, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-6, atol=1e-300)
    gradients = [sides(which, x, y, depth)[1:] for which in (backend, reference)]
    for mine, its in zip(*gradients, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("columns", [3, 70, 9000])
@pytest.mark.parametrize("drop", [30.0, 37.0, 90.0, 362.0, 400.0, 1000.0])
def test_kernels_that_fall_out_of_range_from_one_row_to_the_next_and_come_back(backend, reference, drop, columns, rng):
    # In many small cells or in a few large ones log K_1 goes down by drop from one row to the next, once more, and
    # comes back within a band of rows. At 362 K_1 is subnormal where it is least: it would come back with few bits.
    x = rng.uniform(-0.5, 0.5, (3, 13, 1)) - drop * np.array([0.0, *([1.0, 2.0, 1.0, 0.0] * 3)])[:, None]
    x[1] *= 0.01  # a neighbour that stays where it is
    y = np.linspace(0.0, 1.0, columns + 1)[None, :, None] * np.ones((3, 1, 1))
    found, wanted = sides(backend, x, y, 3), sides(reference, x, y, 3)
    assert np.all(np.isfinite(wanted[0]))
    for mine, its in zip(found, wanted, strict=True):
        scale = np.maximum(1.0, np.abs(its).reshape(3, -1).max(axis=1))
        assert np.all(np.abs(mine - its).reshape(3, -1).max(axis=1) <= (1e-13 + 2e-15 * columns) * drop * scale)
    alone = sides(backend, x[1:2], y[1:2], 3)
    for mine, its in zip(found, alone, strict=True):
        np.testing.assert_array_equal(mine[1:2], its)


@pytest.mark.parametrize("dip", [-95.0, -104.0, -150.0])
def test_kernels_that_underflow_and_come_back_in_single_precision(backend, dip):
    for cells in ([dip, -dip], [dip / 50] * 50 + [-dip / 50] * 50):
        x, y = lines([cells, cells[::-1]], np.float32)
        found = backend.solve(problem(x[:1], y[:1], 2), "end", log=True)
        wanted = oracles.log_kernel(x[0], y[0], 2)
        assert found[0] == pytest.approx(float(wanted), rel=1e-4, abs=1e-3)


def test_grids_that_overflow_and_come_back(backend):
    # The last level takes no exponential of itself: it is inf where log K > 709.8 and finite again behind.
    x, y = lines([[800.0, -800.0, 0.5]])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = branchsig.branched_sig_kernel(x, y, 1, return_grid=True)
    np.testing.assert_allclose(found[0, 1], [1.0, math.inf, 1.0, math.exp(0.5)], rtol=1e-13)
    assert len(caught) == 1
    assert np.isnan(branchsig.branched_sig_kernel_backprop(np.ones((1, 2, 4)), x, y, 1, return_grid=True)[0]).all()


def test_mixed_batches_have_the_infinities_of_the_reference(backend, reference, rng):
    # Sizes that go from nothing to far beyond overflow, next to one another in every vector.
    count = 67
    sizes = rng.permutation(np.logspace(-3, 2, count))[:, None, None]
    x, y = walk(rng, count, 9, 2, size=1.0) * sizes, walk(rng, count, 7, 2, size=1.0) * sizes
    for depth, orders in ((2, (0, 0)), (3, (1, 0)), (4, (0, 0))):
        arguments = problem(x, y, depth, orders)
        levels = np.log(np.maximum(reference.solve(arguments, "stack"), 1e-308))
        found, wanted = sides(backend, x, y, depth, orders), sides(reference, x, y, depth, orders)
        np.testing.assert_array_equal(np.isnan(found[0]), np.isnan(wanted[0]))
        np.testing.assert_array_equal(np.isposinf(found[0]), np.isposinf(wanted[0]))
        np.testing.assert_array_equal(np.isneginf(found[0]), np.isneginf(wanted[0]))
        assert not np.all(np.isfinite(wanted[0]))
        calm = np.abs(levels).max(axis=(1, 2, 3)) < 20
        assert calm.sum() > 10
        assert relative(np.exp(found[0][calm]), np.exp(wanted[0][calm])) < 1e-12
        for mine, its in zip(found[1:], wanted[1:], strict=True):
            np.testing.assert_array_equal(np.isnan(mine), np.isnan(its))
            assert relative_to_path(mine[calm], its[calm]) < 1e-11


def test_subnormal_increments_are_kept(backend):
    x, y = lines([[3e-310, 2e-310]])
    assert backend.solve(problem(x, y, 3), "end", log=True)[0] == pytest.approx(5e-310, rel=1e-10)


def test_the_floating_point_environment_is_left_alone(backend, rng):
    x, y = walk(rng, 9, 6, 2), walk(rng, 9, 6, 2)
    sides(backend, x, y, 3)
    smallest = np.array([2.0**-1074, 2.0**-1000])
    assert np.all(smallest * 1.0 > 0)
    assert smallest[1] * 2.0**-60 > 0


def test_an_offset_of_linear_paths_costs_no_digits(backend, rng):
    x, y = (np.round(walk(rng, 5, 9, 2) * 2**20) / 2**20 for _ in range(2))
    for mine, its in zip(sides(backend, x + 2.0**30, y - 2.0**29, 3), sides(backend, x, y, 3), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-13, atol=1e-14)


# What the reference takes its time for is made once for all instruction sets.


@functools.cache
def on_long_paths(name, lengths):
    rng = np.random.default_rng(lengths)
    x, y = (walk(rng, 3, length, 3, size=0.5) for length in lengths)
    return x, y, sides(RememberedReference(), x, y, 4, static_kernel=static_kernel(name)[0], wrt_log=False)


@pytest.mark.parametrize("name", STATIC_KERNELS)
@pytest.mark.parametrize("lengths", [(1000, 60), (60, 1000), (500, 500)])
def test_double_precision_keeps_its_digits_on_long_paths(core, name, lengths):
    x, y, wanted = on_long_paths(name, lengths)
    found = sides(core, x, y, 4, static_kernel=static_kernel(name)[0], wrt_log=False)
    assert np.max(np.abs(wanted[0])) < 20
    assert relative(np.exp(found[0]), np.exp(wanted[0])) < 1e-13 * sum(lengths)
    for mine, its in zip(found[1:], wanted[1:], strict=True):
        assert relative_to_path(mine, its) < 1e-13 * sum(lengths)


@pytest.mark.parametrize("length", [40, 300])
def test_double_precision_keeps_its_digits_up_to_log_k_of_twenty(core, reference, length, rng):
    x = walk(rng, 8, length, 3)
    x, y = scaled(x, x + 0.3 * walk(rng, 8, length, 3), 4, reference)
    found, wanted = (sides(which, x, y, 4, wrt_log=False) for which in (core, reference))
    assert 15 < np.max(wanted[0]) < 20
    assert relative(np.exp(found[0]), np.exp(wanted[0])) < 1e-13 * 2 * length
    for mine, its in zip(found[1:], wanted[1:], strict=True):
        assert relative_to_path(mine, its) < 1e-13 * 2 * length


@functools.cache
def up_to_log_k_of_twenty(length, depth):
    rng, reference = np.random.default_rng(length), RememberedReference()
    x = walk(rng, 4, length, 3)
    x, y = scaled(x, x + 0.3 * walk(rng, 4, length, 3), depth, reference)
    x, y = x.astype(np.float32), y.astype(np.float32)
    return x, y, reference.solve(problem(x.astype(float), y.astype(float), depth), "end", log=True)


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("length", [40, 1000])
def test_single_precision_is_within_1e_5_up_to_log_k_of_twenty(core, length, depth):
    x, y, wanted = up_to_log_k_of_twenty(length, depth)
    found = core.solve(problem(x, y, depth), "end", log=True)
    assert 15 < np.max(wanted) < 20
    assert relative(np.exp(found.astype(float)), np.exp(wanted)) < 1e-5


@functools.cache
def in_single_precision(name, lengths):
    rng = np.random.default_rng(lengths)
    x, y = (walk(rng, 4, length, 3, size=0.8, dtype=np.float32) for length in lengths)
    arguments = problem(x.astype(float), y.astype(float), 4, static_kernel=static_kernel(name)[0])
    with np.errstate(over="ignore"):
        return x, y, np.exp(RememberedReference().solve(arguments, "end", log=True))


@pytest.mark.parametrize("name", STATIC_KERNELS)
@pytest.mark.parametrize("lengths", [(1000, 1000), (17, 1000), (1000, 17)])
def test_single_precision_is_within_1e_5_of_double_precision(core, name, lengths):
    x, y, wanted = in_single_precision(name, lengths)
    found = core.solve(problem(x, y, 4, static_kernel=static_kernel(name)[0]), "end", log=True)
    assert found.dtype == np.float32
    moderate = np.abs(np.log(wanted)) < 20
    assert moderate.sum() >= 2
    assert relative(np.exp(found.astype(float))[moderate], wanted[moderate]) < 1e-5


@pytest.mark.parametrize("name", STATIC_KERNELS)
@pytest.mark.parametrize("where", [0, 3, 5])
def test_repeated_points_change_nothing(backend, name, where, rng):
    x, y = walk(rng, 3, 6, 2), walk(rng, 3, 5, 2)
    kernel, _ = static_kernel(name)
    index = np.insert(np.arange(6), where, [where, where])
    plain = sides(backend, x, y, 4, static_kernel=kernel)
    for mine, its in zip(
        sides(backend, np.ascontiguousarray(x[:, index]), y, 4, static_kernel=kernel), plain, strict=True
    ):
        if mine.shape[1:2] == (8,):
            merged = np.zeros_like(its)
            np.add.at(merged, (slice(None), index), mine)
            mine = merged
        np.testing.assert_allclose(mine, its, rtol=1e-12, atol=1e-13)


def test_repeated_points_change_no_bit_of_the_core(core, rng):
    x, y = walk(rng, 9, 6, 2), walk(rng, 9, 5, 2)
    padded = np.concatenate([x, np.repeat(x[:, -1:], 40, axis=1)], axis=1)
    np.testing.assert_array_equal(
        core.solve(problem(padded, y, 4), "end", log=True), core.solve(problem(x, y, 4), "end", log=True)
    )
    padded = np.concatenate([y, np.repeat(y[:, -1:], 40, axis=1)], axis=1)
    np.testing.assert_array_equal(
        core.solve(problem(x, padded, 4), "end", log=True), core.solve(problem(x, y, 4), "end", log=True)
    )


def test_repeated_points_leave_infinity_infinite(backend):
    x, y = lines([[800.0, 0.0, 0.0]])
    assert np.isposinf(backend.solve(problem(x, y, 2), "end", log=True))
    assert np.isposinf(backend.solve(problem(y, x, 2), "end", log=True))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["linear", "rbf", "matern52", "polynomial"])
@pytest.mark.parametrize("rule", ["trapezoid", "left", "lobatto2", "lobatto4"])
@pytest.mark.parametrize(
    ("depth", "orders", "lengths"),
    [(3, (0, 0), (8, 9)), (4, (1, 2), (5, 4)), (7, (0, 0), (70, 6)), (math.inf, (0, 1), (9, 8))],
)
def test_a_pair_has_the_same_bits_in_every_batch(core, dtype, name, rule, depth, orders, lengths, rng):
    options = {"static_kernel": static_kernel(name)[0], "quadrature": BY_NAME[rule]}
    count = 37
    # Some neighbours have large cells, one overflows and one is NaN: the others must not notice.
    sizes = np.where(np.arange(count) % 3 == 1, 3.0, 0.6)[:, None, None]
    x = (walk(rng, count, lengths[0], 2, size=1.0) * sizes).astype(dtype)
    y = (walk(rng, count, lengths[1], 2, size=1.0) * sizes).astype(dtype)
    x[5] *= 100
    x[11, 0, 0] = math.nan
    whole = sides(core, x, y, depth, orders, **options)
    for chosen in ([0], [3], [36], [2, 3], [5, 11, 3], list(range(9)), list(range(1, 18)), list(range(36, -1, -1))):
        part = sides(core, x[chosen], y[chosen], depth, orders, **options)
        for mine, its in zip(part, whole, strict=True):
            np.testing.assert_array_equal(mine, its[chosen])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("length", [6, 150])
def test_gram_matrices_have_the_bits_of_their_pairs(core, dtype, length, rng):
    x, y = walk(rng, 7, length, 3, dtype=dtype), walk(rng, 5, 40, 3, dtype=dtype)
    gram = core.solve(problem(x, y, 4, pairing="gram"), "end", log=True)
    for i in range(7):
        alone = core.solve(problem(np.repeat(x[i : i + 1], 5, axis=0), y, 4), "end", log=True)
        np.testing.assert_array_equal(gram[i], alone)
    symmetric = core.solve(problem(x, x, 4, pairing="symmetric"), "end", log=True)
    whole = core.solve(problem(x, x.copy(), 4, pairing="gram"), "end", log=True)
    lower = np.tril_indices(7)
    np.testing.assert_array_equal(symmetric[lower], whole[lower])


@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_number_of_threads_changes_no_bit(core, pairing, dtype, rng):
    x = walk(rng, 23, 20, 3, dtype=dtype)
    y = x if pairing == "symmetric" else walk(rng, 23, 15, 3, dtype=dtype)
    derivs = rng.standard_normal(23 if pairing == "paired" else (23, 23)).astype(dtype)
    results = []
    for n_jobs in (1, 2, 3, 5):
        arguments = problem(x, y, 4, pairing=pairing, n_jobs=n_jobs)
        gradients = gradients_of(core, arguments, derivs, wrt_log=False, left=True, right=pairing != "symmetric")
        results.append([core.solve(arguments, "end", log=True), *(g for g in gradients if g is not None)])
    for result in results[1:]:
        for mine, its in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(mine, its)


def test_the_same_call_gives_the_same_bits(core, rng):
    x, y = walk(rng, 5, 30, 3), walk(rng, 5, 30, 3)
    first, second = (sides(core, x, y, 4) for _ in range(2))
    for mine, its in zip(first, second, strict=True):
        np.testing.assert_array_equal(mine, its)
