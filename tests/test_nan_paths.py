"""Paths that are allowed but surely not meant are named in one warning, which says what to write instead."""

import math
import re
import warnings

import numpy as np
import pytest
from cases import walk

import branchsig

NAN, INF = math.nan, math.inf


@pytest.fixture(params=["numpy", "torch", "array_api_strict"])
def convert(request):
    """What makes an array of a library of an array of NumPy."""
    library = pytest.importorskip(request.param)
    return lambda array: library.asarray(np.array(array))


@pytest.fixture
def x(rng):
    return walk(rng, 4, 5, 2)


@pytest.fixture
def y(rng):
    return walk(rng, 4, 6, 2)


def said(function, *args, **options):
    """The words of the one warning of a call, or none, and the result."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*args, **options)
    assert len(caught) <= 1
    for warning in caught:
        assert warning.category is RuntimeWarning
        assert warning.filename == __file__
    return (str(caught[0].message) if caught else ""), result


FUNCTIONS = {
    "kernel": branchsig.branched_sig_kernel,
    "vjp": lambda *args, **options: branchsig.branched_sig_kernel_vjp(*args, **options)[0],
    "gram": branchsig.branched_sig_kernel_gram,
    "gram_vjp": lambda *args, **options: branchsig.branched_sig_kernel_gram_vjp(*args, **options)[0],
    "stack": branchsig.branched_sig_kernel_stack,
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)
of_grams = pytest.mark.parametrize("name", ["gram", "gram_vjp"])


# NaN and infinities


@every_function
@pytest.mark.parametrize(("bad", "word"), [(NAN, "NaN"), (INF, "infinities"), (-INF, "infinities")])
def test_a_path_that_is_not_finite_is_named(name, bad, word, convert, x, y):
    x[2, 1, 0] = bad
    message, result = said(FUNCTIONS[name], convert(x), convert(y), 3)
    assert message.startswith(f"path1[2] holds {word}. ")
    assert "path2" not in message
    assert "padding" not in message
    assert "overflowed" not in message
    wrong = ~np.isfinite(np.asarray(result))
    assert f"{np.count_nonzero(wrong)} of {wrong.size} values are not finite because of this" in message
    assert wrong[2].any()
    assert not wrong[[0, 1, 3]].any()


@every_function
def test_both_arguments_are_named(name, x, y):
    x[0, 0, 0] = x[3, 2, 1] = NAN
    y[1, 4, 1] = INF
    message, _ = said(FUNCTIONS[name], x, y, 3)
    assert message.startswith("path1[0] and path1[3] hold NaN. path2[1] holds infinities. ")


@pytest.mark.parametrize(
    "options",
    [
        {"log": True},
        {"normalize": True},
        {"normalize": "dilation"},
        {"depth": math.inf},
        {"depth": math.inf, "order": 3},
        {"order": 3, "depth": 3, "return_levels": True},
        {"return_grid": True},
        {"static_kernel": branchsig.RBFKernel(1.0)},
        {"quadrature": "lobatto2"},
        {"time_aug": True},
        {"lead_lag": True},
        {"lead_lag": True, "time_aug": True},
        {"n_jobs": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["kernel", "gram"])
def test_a_path_is_named_under_every_option(name, options, x, y):
    x[2, 4, 0] = NAN
    message, _ = said(FUNCTIONS[name], x, y, **{"depth": 3, **options})
    assert message.startswith("path1[2] holds NaN. ")
    assert "values are not finite because of this" in message
    assert "padding" not in message


def test_a_path_is_named_by_all_its_indices(x, y):
    x, y = x.reshape(2, 2, 5, 2), y[:2].reshape(2, 1, 6, 2)
    x[1, 0, 3, 1] = y[1, 0, 0, 0] = NAN
    message, _ = said(branchsig.branched_sig_kernel_gram, x, y, 3)
    assert message.startswith("path1[1, 0] holds NaN. path2[1, 0] holds NaN. ")
    message, _ = said(branchsig.branched_sig_kernel, x, x[:, ::-1], 3)
    assert message.startswith("path1[1, 0] holds NaN. path2[1, 1] holds NaN. 2 of 4 ")
    message, _ = said(branchsig.branched_sig_kernel, x[1, 0], x[0, 0], 3)
    assert message.startswith("path1 holds NaN. 1 of 1 values are")


def test_a_path_that_stands_in_both_places_is_named_once(x):
    x[1, 2, 0] = NAN
    for second in (x, None):
        message, _ = said(branchsig.branched_sig_kernel_gram, x, second, 3)
        assert message.startswith("path1[1] holds NaN. 7 of 16 values")


def test_of_many_paths_the_first_are_named_and_the_rest_counted():
    x = np.full((20, 3, 1), NAN)
    x[[4, 7]] = 0.0
    message, _ = said(branchsig.branched_sig_kernel_gram, x, None, 2)
    assert message.startswith("path1[0], path1[1], path1[2], path1[3], path1[5] and 13 more hold NaN. 396 of 400")


@every_function
def test_overflow_elsewhere_is_told_in_the_same_warning(name, x):
    x[0] = 30.0 * np.arange(1, 3) * np.arange(5)[:, None]
    y = x.copy()
    x[1, 2, 0] = NAN
    message, result = said(FUNCTIONS[name], x, y, 3)
    assert message.startswith("path1[1] holds NaN. ")
    total = result.size
    of_nan = np.count_nonzero(~np.isfinite(result[1]))
    overflowed = np.count_nonzero(~np.isfinite(result)) - of_nan
    assert overflowed > 0
    assert f"{of_nan} of {total} values are not finite because of this. {overflowed} of {total} values over" in message


@every_function
def test_with_check_finite_the_paths_are_looked_at_whatever_the_values(name, convert, x, y):
    y[3, 0, 1] = NAN
    message, result = said(FUNCTIONS[name], convert(x), convert(y), 0, check_finite=True)
    assert message.startswith("path2[3] holds NaN")
    if name != "stack":
        assert np.isfinite(np.asarray(result)).all()  # at depth 0 all kernels are 1
    message, _ = said(FUNCTIONS[name], convert(x), convert(y), 3, check_finite=True)
    assert message.startswith("path2[3] holds NaN. ")


@every_function
def test_without_check_finite_nothing_is_said(name, x, y):
    x[0, 0, 0] = NAN
    assert said(FUNCTIONS[name], x, y, 3, check_finite=False)[0] == ""


@every_function
def test_finite_paths_are_not_named(name, convert, x, y):
    for checked in (None, True):
        assert said(FUNCTIONS[name], convert(x), convert(y), 3, check_finite=checked)[0] == ""


def test_nan_that_a_path_does_not_reach_is_not_named(x, y):
    x[1, 3:] = NAN
    for checked in (None, True):
        options = {"lengths1": [5, 3, 5, 5], "check_finite": checked}
        assert said(branchsig.branched_sig_kernel, x, y, 3, **options)[0] == ""
        assert said(branchsig.branched_sig_kernel_gram, x, None, 3, time_aug=True, lead_lag=True, **options)[0] == ""


def test_gradients_are_still_never_warned_of(x, y):
    x[1, 3, 0] = NAN
    said_, _ = said(branchsig.branched_sig_kernel_backprop, np.ones(4), x, y, 3)
    assert said_ == ""
    said_, _ = said(branchsig.branched_sig_kernel_gram_backprop, np.ones((4, 4)), x, y, 3)
    assert said_ == ""


# Padding


@every_function
@pytest.mark.parametrize("options", [{}, {"time_aug": True}, {"lead_lag": True}, {"lead_lag": True, "time_aug": True}])
def test_nan_at_the_end_looks_like_padding_and_the_remedy_works(name, options, x, y):
    x[1, 3:] = x[3, 1:] = NAN
    y[2, 5:] = NAN
    message, _ = said(FUNCTIONS[name], x, y, 3, **options)
    assert message.startswith(
        "path1[1] and path1[3] hold NaN. The NaN at the end of path1[1] and path1[3] looks like padding: give the "
    )
    found = re.findall(r"(lengths[12])=(\(.*?\.sum\(axis=-1\))", message)
    assert [name for name, _ in found] == ["lengths1", "lengths2"]
    lengths = {name: eval(code, {"path1": x, "path2": y}) for name, code in found}
    np.testing.assert_array_equal(lengths["lengths1"], [5, 3, 5, 1])
    np.testing.assert_array_equal(lengths["lengths2"], [6, 6, 5, 6])
    message, result = said(FUNCTIONS[name], x, y, 3, **lengths, **options)
    assert message == ""
    assert np.isfinite(result).all()


def test_the_remedy_works_for_tensors(x):
    torch = pytest.importorskip("torch")
    x[1, 3:] = NAN
    x = torch.asarray(x)
    message, _ = said(branchsig.branched_sig_kernel_gram, x, None, 3)
    (code,) = re.findall(r"lengths1=(\(.*?\.sum\(axis=-1\))", message)
    lengths = eval(code, {"path1": x})
    assert lengths.tolist() == [5, 3, 5, 5]
    assert said(branchsig.branched_sig_kernel_gram, x, None, 3, lengths1=lengths)[0] == ""


def test_padding_is_told_apart_from_other_nan(x, y):
    x[0, 2] = NAN  # in the middle
    x[1, 4, 0] = NAN  # at the end, in one channel
    x[2] = NAN  # everywhere
    message, _ = said(branchsig.branched_sig_kernel, x, y, 3)
    assert message.startswith("path1[0], path1[1] and path1[2] hold NaN. 3 of 4")
    x[3, 4] = NAN
    message, _ = said(branchsig.branched_sig_kernel, x, y, 3)
    assert "and path1[3] hold NaN. The NaN at the end of path1[3] looks like padding" in message


def test_nan_at_the_end_of_a_path_of_a_list_is_to_be_left_out(x):
    paths = [x[0], x[1, :4].copy(), x[2, :2]]
    paths[1][2:] = NAN
    message, _ = said(branchsig.branched_sig_kernel_gram, paths, None, 3)
    assert message.startswith("path1[1] holds NaN. The NaN at the end of path1[1] looks like padding: leave it out")
    assert "lengths1" not in message


def test_lengths_that_count_padding_are_told_of(x):
    x[1, 3:] = NAN
    message, _ = said(branchsig.branched_sig_kernel_gram, x, None, 3, lengths1=[5, 4, 5, 5])
    assert message.startswith("path1[1] holds NaN. The NaN at the end of path1[1] looks like padding: give the valid")


# Axes in another order


@of_grams
@pytest.mark.parametrize("options", [{}, {"time_aug": True}, {"lead_lag": True, "time_aug": True}], ids=str)
def test_a_gram_matrix_of_paths_of_one_point_looks_like_swapped_axes(name, options, convert):
    data = convert(np.random.default_rng(0).normal(scale=0.1, size=(4, 1, 9)))
    for second in (None, data, convert(np.ones((2, 1, 9)))):
        message, result = said(FUNCTIONS[name], data, second, 3, **options)
        assert message == (
            "every path has one point, so that all kernels are 1: path1 has shape (4, 1, 9), and the axes are "
            "(..., length, dimension). If your axes are (..., dimension, length), give "
            "path1.swapaxes(-1, -2)"
        )
        assert np.all(np.asarray(result) == 1.0)


@of_grams
def test_paths_of_one_point_are_told_of_in_lists_and_any_batch(name):
    message, _ = said(FUNCTIONS[name], [np.ones((1, 9)), np.ones((1, 9))], None, 3)
    assert message.endswith("give the transpose of every path")
    message, _ = said(FUNCTIONS[name], np.ones((2, 3, 1, 9)), None, 3)
    assert "path1 has shape (2, 3, 1, 9)" in message


@of_grams
def test_other_paths_of_one_point_are_not_told_of(name, x):
    for first, second in [(x, x[:, :1]), (x[:, :1], x), (np.ones((0, 1, 9)), None)]:
        assert said(FUNCTIONS[name], first, second, 3)[0] == ""
    assert said(FUNCTIONS[name], x, None, 3, lengths1=[1, 1, 1, 1])[0] == ""
    assert said(FUNCTIONS[name], x[:, :1], None, 3, check_finite=False)[0] == ""
    assert said(branchsig.branched_sig_kernel, x[:, :1], x[:, :1], 3)[0] == ""


@of_grams
def test_a_gram_matrix_of_one_path_looks_like_a_missing_axis(name, convert):
    series = np.cumsum(np.random.default_rng(0).normal(scale=0.01, size=(6, 4)), axis=1)
    data = convert(series)
    for second in (None, data, convert(series[:2])):
        message, _ = said(FUNCTIONS[name], data, second, 2)
        assert message == (
            "path1 of shape (6, 4) was taken for one path of 6 points in 4 dimensions. For 6 paths of one channel give "
            "path1[:, :, None]; for one path give path1[None], or use branched_sig_kernel"
        )
    given = series[:, :, None], series[None]
    for array, shape in zip(given, [(6, 6), (1, 1)]):
        message, result = said(FUNCTIONS[name], array, None, 2)
        assert message == ""
        assert result.shape == shape


@of_grams
def test_one_path_beside_a_batch_or_with_one_channel_is_meant(name, x):
    assert said(FUNCTIONS[name], x[0], x, 3)[0] == ""
    assert said(FUNCTIONS[name], x, x[0], 3)[0] == ""
    assert said(FUNCTIONS[name], x[0, :, :1], None, 3)[0] == ""
    assert said(branchsig.branched_sig_kernel, x[0], x[1], 3)[0] == ""


def test_axes_and_nan_are_told_in_one_warning():
    data = np.ones((3, 1, 4))
    data[1, 0, 2] = NAN
    message, _ = said(branchsig.branched_sig_kernel_gram, data, None, 3, check_finite=True)
    assert message.startswith("every path has one point")
    assert "path1[1] holds NaN" in message


def test_warnings_point_at_the_caller_from_any_depth(x):
    def helper():
        return branchsig.branched_sig_kernel_gram(x, None, 3, rtol=1e-6)

    x[0, 0, 0] = NAN
    with pytest.warns(RuntimeWarning, match="holds NaN") as caught:
        helper()
    assert caught[0].filename == __file__
    assert caught[0].lineno == helper.__code__.co_firstlineno + 1


@pytest.mark.parametrize("method", ["solve", "guard"])
@pytest.mark.parametrize("options", [{}, {"time_aug": True, "lead_lag": True}, {"order": 3}], ids=str)
def test_dilation_names_the_paths_it_has_no_factor_for(method, options, convert, x):
    options = {"depth": 3, "method": method, **options}
    x[1, 3:] = NAN
    x[2, 0, 0] = INF
    message, factors = said(branchsig.dilation, convert(x), **options)
    assert message.startswith("paths[1] and paths[2] hold NaN or infinities. The NaN at the end of paths[1] looks like")
    assert " lengths=(paths == paths).any" in message
    np.testing.assert_array_equal(np.isnan(np.asarray(factors)), [False, True, True, False])
    paths = [convert(path) for path in x]
    message, _ = said(branchsig.dilation, paths, **options)
    assert message.endswith("The NaN at the end of paths[1] looks like padding: leave it out of the paths of the list")
    x[2, 0, 0] = 0.0
    assert said(branchsig.dilation, convert(x), lengths=[5, 3, 5, 5], **options)[0] == ""
