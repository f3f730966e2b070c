"""Paths of different lengths, padded to one: the padding is never read, and changes nothing."""

import math

import numpy as np
import pytest
from cases import STATIC_KERNELS, QuarticKernel, static_kernel, walk
from hypothesis import given, settings
from hypothesis import strategies as st

import branchsig

KERNELS = [*STATIC_KERNELS, "quartic"]
NAMES = {"paired": "branched_sig_kernel", "gram": "branched_sig_kernel_gram"}


def padded(rng, lengths, dimension, filling, dtype=np.float64):
    """The paths one by one, and stacked with anything behind them."""
    paths = [walk(rng, length, dimension, size=0.3, dtype=dtype) for length in lengths]
    stack = np.full((len(paths), max(lengths) + 1, dimension), filling, dtype=dtype)
    for row, path in zip(stack, paths):
        row[: len(path)] = path
    return paths, stack


@settings(max_examples=40)
@given(
    name=st.sampled_from(KERNELS),
    form=st.sampled_from(["paired", "gram", "itself", "none"]),
    lengths1=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
    lengths2=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
    which=st.sampled_from(["both", "first", "second"]),
    depth=st.sampled_from([0, 1, 3, math.inf]),
    orders=st.sampled_from([(0, 0), (1, 1), (0, 2)]),
    rule=st.sampled_from(["trapezoid", "left", "lobatto2", "lobatto3"]),
    order=st.sampled_from([None, None, 3]),
    transform=st.sampled_from(
        [{}, {"time_aug": True, "end_time": 0.2}, {"lead_lag": True, "time_aug": True, "end_time": 0.1}]
    ),
    mode=st.sampled_from([{}, {"normalize": True}, {"log": True}]),
    filling=st.sampled_from([np.nan, np.inf, 0.0, 1e200]),
    dtype=st.sampled_from([np.float64, np.float32]),
    seed=st.integers(0, 2**32 - 1),
)
def test_padded_paths_have_the_kernels_and_gradients_of_the_paths(
    backend, name, form, lengths1, lengths2, which, depth, orders, rule, order, transform, mode, filling, dtype, seed
):
    rng = np.random.default_rng(seed)
    kernel = QuarticKernel() if name == "quartic" else static_kernel(name)[0]
    options = {"static_kernel": kernel, "quadrature": rule, "order": order, **transform, **mode}
    depth = depth if order is None else math.inf
    filling = filling if dtype is np.float64 or filling != 1e200 else 1e30
    xs, x = padded(rng, lengths1 if which != "second" else (4, 4, 4), 2, filling, dtype)
    ys, y = padded(rng, lengths2 if which != "first" else (5, 5, 5), 2, filling, dtype)
    if which == "second":
        x = np.stack(xs)
    if which == "first":
        y = np.stack(ys)
    given_lengths = {"lengths1": np.array([len(p) for p in xs], dtype=np.int32)} if which != "second" else {}
    if form in ("itself", "none"):
        ys, y = xs, x
    elif which != "first":
        given_lengths["lengths2"] = [len(p) for p in ys]
    function = NAMES["paired" if form == "paired" else "gram"]
    second = None if form == "none" else y
    found = getattr(branchsig, function)(x, second, depth, orders, **given_lengths, **options)
    assert found.dtype == dtype
    derivs = rng.standard_normal(found.shape).astype(dtype)
    sides = {"right_deriv": form != "none"}
    gradients = getattr(branchsig, function + "_backprop")(
        derivs, x, second, depth, orders, **sides, **given_lengths, **options
    )
    tolerance = 1e-12 if dtype is np.float64 else 1e-4
    wanted_x, wanted_y = np.zeros_like(x), np.zeros_like(y)
    for at in [(i, i) for i in range(3)] if form == "paired" else np.ndindex(3, 3):
        i, j = at
        index = i if form == "paired" else at
        value = branchsig.branched_sig_kernel(xs[i], ys[j], depth, orders, **options)
        np.testing.assert_allclose(found[index], value, rtol=tolerance, atol=tolerance)
        d_x, d_y = branchsig.branched_sig_kernel_backprop(
            derivs[index].reshape(()), xs[i], ys[j], depth, orders, right_deriv=True, **options
        )
        wanted_x[i, : len(xs[i])] += d_x
        wanted_y[j, : len(ys[j])] += d_y
    if form == "none":
        wanted_x += wanted_y
    size = max(1.0, np.abs(wanted_x).max(), np.abs(wanted_y).max())
    np.testing.assert_allclose(gradients[0], wanted_x, rtol=0, atol=tolerance * size)
    if form != "none":
        np.testing.assert_allclose(gradients[1], wanted_y, rtol=0, atol=tolerance * size)
    for gradient, paths in zip(gradients, (xs, ys)):
        if gradient is not None:
            for row, path in zip(gradient, paths):
                assert not np.any(row[len(path) :])


@pytest.mark.parametrize("options", [{}, {"quadrature": "lobatto2"}, {"dyadic_order": 1}])
def test_cells_of_any_size_have_the_bits_of_the_unpadded_paths(backend, options):
    # How the exponential of a cell is taken depends on the largest cells near it. Kernels of rising lines are largest
    # at their ends, where padding would be noticed first.
    options = {"depth": 3, "log": True, **options}
    lengths = [5, 7, 9, 12, 16, 20, 25, 30]
    for size in np.geomspace(0.05, 1.0, 100):
        lines = [np.linspace(0.0, np.array([1.0, 0.5]) * size * np.sqrt(length / 12), length) for length in lengths]
        x = np.full((len(lines), max(lengths), 2), np.nan)
        for row, line in zip(x, lines):
            row[: len(line)] = line
        found = branchsig.branched_sig_kernel(x, x, lengths1=lengths, lengths2=lengths, **options)
        np.testing.assert_array_equal(found, [branchsig.branched_sig_kernel(line, line, **options) for line in lines])


@pytest.mark.parametrize("name", ["linear", "rbf", "matern12"])
@pytest.mark.parametrize("options", [{}, {"time_aug": True, "lead_lag": True}, {"depth": math.inf}, {"order": 4}])
def test_values_equal_those_of_the_unpadded_paths_to_the_bit(backend, name, options, rng):
    depth = 4 if "order" not in options else math.inf
    options = {"depth": depth, "static_kernel": static_kernel(name)[0], **options}
    xs, x = padded(rng, (9, 17, 2, 30, 12), 3, np.nan)
    ys, y = padded(rng, (11, 3, 21, 1, 8), 3, np.nan)
    lengths = {"lengths1": list(map(len, xs)), "lengths2": list(map(len, ys))}
    found = branchsig.branched_sig_kernel_gram(x, y, **lengths, **options)
    wanted = [[branchsig.branched_sig_kernel(a, b, **options) for b in ys] for a in xs]
    if backend.name == "reference" and name == "linear":
        # The products of the reference are those of BLAS, whose rounding depends on the shape.
        np.testing.assert_allclose(found, wanted, rtol=1e-14)
    else:
        np.testing.assert_array_equal(found, wanted)


def test_grids_are_constant_behind_the_valid_nodes(backend, rng):
    (short, _), x = padded(rng, (3, 6), 2, np.nan)
    y = walk(rng, 2, 4, 2)
    found = branchsig.branched_sig_kernel(x, y, 3, 1, return_grid=True, lengths1=[3, 6])
    wanted = branchsig.branched_sig_kernel(short, y[0], 3, 1, return_grid=True)
    np.testing.assert_allclose(found[0, :5], wanted, rtol=1e-14)
    np.testing.assert_array_equal(found[0, 5:], np.broadcast_to(found[0, 4], found[0, 5:].shape))
    stack = branchsig.branched_sig_kernel_stack(x, y, 3, lengths1=[3, 6])
    options = {"lengths1": [3, 6], "right_deriv": True}
    found = branchsig.branched_sig_kernel_backprop(np.ones(2), x, y, 3, k_stack=stack, **options)
    wanted = branchsig.branched_sig_kernel_backprop(np.ones(2), x, y, 3, **options)
    for mine, its in zip(found, wanted):
        np.testing.assert_allclose(mine, its, rtol=1e-12, atol=1e-14)


@pytest.mark.filterwarnings(r"ignore:path1\[0\] holds NaN")
def test_nan_in_the_valid_part_stays_nan_and_zero_in_the_padding(backend, rng):
    _, x = padded(rng, (3, 5), 2, np.nan)
    x[0, 1] = np.nan
    assert np.isnan(branchsig.branched_sig_kernel(x, x, 3, lengths1=[3, 5])).tolist() == [True, False]
    gradient, _ = branchsig.branched_sig_kernel_backprop(np.ones(2), x, x, 3, lengths1=[3, 5])
    assert np.isnan(gradient[0, :3]).all()
    assert not np.any(gradient[0, 3:])
    assert np.isfinite(gradient[1]).all()


def test_batches_of_any_shape_have_lengths_of_that_shape(backend, rng):
    x, y = walk(rng, 2, 3, 5, 2), walk(rng, 4, 6, 2)
    lengths1, lengths2 = rng.integers(1, 6, size=(2, 3)), rng.integers(1, 7, size=4)
    found = branchsig.branched_sig_kernel_gram(x, y, 3, lengths1=lengths1, lengths2=lengths2)
    for i, j, k in np.ndindex(2, 3, 4):
        value = branchsig.branched_sig_kernel(x[i, j, : lengths1[i, j]], y[k, : lengths2[k]], 3)
        np.testing.assert_allclose(found[i, j, k], value, rtol=1e-14)
    single = branchsig.branched_sig_kernel(y[0], y[1], 3, lengths1=np.int64(4), lengths2=2)
    np.testing.assert_allclose(single, branchsig.branched_sig_kernel(y[0, :4], y[1, :2], 3), rtol=1e-14)


def test_paths_are_padded_with_their_last_points(rng):
    paths = [walk(rng, length, 2) for length in (3, 1, 5)]
    stack, lengths = branchsig.pad_paths(paths)
    assert lengths.tolist() == [3, 1, 5]
    assert stack.shape == (3, 5, 2)
    for row, path in zip(stack, paths):
        np.testing.assert_array_equal(row, np.concatenate([path, np.repeat(path[-1:], 5 - len(path), axis=0)]))


@pytest.mark.parametrize(
    ("paths", "error", "message"),
    [
        ([], ValueError, "paths is empty"),
        ([np.zeros((3, 2)), np.zeros((3, 1))], ValueError, r"paths\[1\] has shape \(3, 1\): expected .* dimension 2"),
        ([np.zeros((3, 2)), np.zeros((3, 2), np.float32)], TypeError, r"paths\[1\] has dtype float32"),
        ([np.zeros(3)], ValueError, r"paths\[0\] has shape"),
        ([np.zeros((2, 3, 2))], ValueError, r"paths\[0\] has shape \(2, 3, 2\): expected \(length, dimension\)"),
        (np.zeros((2, 3, 2)), TypeError, "paths is an array"),
        ([[1.0]], TypeError, r"paths\[0\] is of type list"),
    ],
)
def test_paths_that_cannot_be_padded_are_refused(paths, error, message):
    with pytest.raises(error, match=message):
        branchsig.pad_paths(paths)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([1.0, 2.0], TypeError, "lengths1 has dtype float64: expected integers"),
        ([1, 2, 3], ValueError, r"lengths1 has shape \(3,\): expected \(2,\)"),
        ([0, 2], ValueError, "lengths1 has values from 0 to 2: expected from 1 to 4"),
        ([5, 2], ValueError, "lengths1 has values from 2 to 5: expected from 1 to 4"),
        ("long", TypeError, "lengths1 is of type str"),
    ],
)
def test_wrong_lengths_are_refused(lengths, error, message):
    x = np.zeros((2, 4, 1))
    with pytest.raises(error, match=message):
        branchsig.branched_sig_kernel(x, x, 2, lengths1=lengths)


def test_lengths_of_second_paths_that_are_the_first_are_refused():
    with pytest.raises(ValueError, match="lengths2 with path2=None"):
        branchsig.branched_sig_kernel_gram(np.zeros((2, 4, 1)), None, 2, lengths2=[2, 2])


def test_one_stack_with_two_lists_of_lengths_is_two_stacks(backend, rng):
    x = walk(rng, 2, 5, 2)
    found = branchsig.branched_sig_kernel_gram(x, x, 3, lengths1=[5, 4], lengths2=[2, 5], normalize=True)
    for i, j in np.ndindex(2, 2):
        pair = x[i, : [5, 4][i]], x[j, : [2, 5][j]]
        np.testing.assert_allclose(found[i, j], branchsig.branched_sig_kernel(*pair, 3, normalize=True), rtol=1e-14)
