"""Time augmentation and lead-lag: the definition point by point, and the adjoint as the transpose of a linear map."""

import itertools

import array_api_strict
import numpy as np
import pytest

import branchsig

SWITCHES = [{"time_aug": t, "lead_lag": ll} for t, ll in itertools.product([False, True], repeat=2)]
every_switch = pytest.mark.parametrize("switches", SWITCHES, ids=str)


def paths(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def by_definition(path, *, time_aug, lead_lag, end_time):
    """One path, point by point: (lag, lead) moves lead first, then lag; time runs from 0 to end_time in equal steps."""
    points = [list(point) for point in path]
    if lead_lag:
        moves = [points[0] + points[0]]
        for before, after in itertools.pairwise(points):
            moves += [before + after, after + after]
        points = moves
    if time_aug:
        steps = max(1, len(points) - 1)
        points = [[*point, end_time * k / steps] for k, point in enumerate(points)]
    return np.array(points)


@every_switch
@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("end_time", [1.0, 0.25])
def test_a_transformed_path_is_the_one_of_the_definition(switches, length, end_time):
    path = paths(length, 3)
    expected = by_definition(path, **switches, end_time=end_time)
    given = {"end_time": end_time} if switches["time_aug"] else {}
    result = branchsig.transform_path(path, **switches, **given)
    np.testing.assert_allclose(result, expected, rtol=1e-15)


@every_switch
@pytest.mark.parametrize("batch", [(), (2,), (2, 3), (0,), (2, 0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_leading_axes_and_dtype_are_kept(switches, batch, dtype):
    path = paths(*batch, 4, 2).astype(dtype)
    result = branchsig.transform_path(path, **switches)
    assert result.dtype == dtype
    assert result.shape[:-2] == batch
    for index in np.ndindex(batch):
        np.testing.assert_array_equal(result[index], branchsig.transform_path(path[index], **switches))
    assert branchsig.transform_path_backprop(result, **switches).shape == path.shape


@every_switch
@pytest.mark.parametrize("length", [1, 2, 5])
def test_the_backward_is_the_transpose_of_the_forward(switches, length):
    size = length * 2
    origin = branchsig.transform_path(np.zeros((length, 2)), **switches)
    basis = np.eye(size).reshape(size, length, 2)
    columns = branchsig.transform_path(basis, **switches) - origin
    outputs = np.eye(origin.size).reshape(origin.size, *origin.shape)
    rows = branchsig.transform_path_backprop(outputs, **switches)
    np.testing.assert_allclose(rows.reshape(origin.size, size), columns.reshape(size, origin.size).T, atol=1e-15)


@every_switch
def test_other_libraries_get_their_own_arrays_back(switches):
    path = paths(2, 4, 3)
    result = branchsig.transform_path(array_api_strict.asarray(path), **switches)
    assert isinstance(result, type(array_api_strict.asarray(path)))
    np.testing.assert_array_equal(np.asarray(result), branchsig.transform_path(path, **switches))
    gradient = branchsig.transform_path_backprop(result, **switches)
    expected = branchsig.transform_path_backprop(np.asarray(result), **switches)
    np.testing.assert_array_equal(np.asarray(gradient), expected)


def test_nothing_to_do_gives_a_copy():
    path = paths(3, 2)
    for result in (branchsig.transform_path(path), branchsig.transform_path_backprop(path)):
        np.testing.assert_array_equal(result, path)
        assert not np.shares_memory(result, path)


@every_switch
def test_the_option_of_a_kernel_is_the_transform_before_it(switches):
    x, y = paths(2, 5, 2) / 4, paths(2, 4, 2, seed=1) / 4
    options = switches | ({"end_time": 0.5} if switches["time_aug"] else {})
    before = [branchsig.transform_path(path, **options) for path in (x, y)]
    expected, expected_pullback = branchsig.branched_sig_kernel_vjp(*before, 2)
    value, pullback = branchsig.branched_sig_kernel_vjp(x, y, 2, **options)
    np.testing.assert_array_equal(value, expected)
    for gradient, through in zip(pullback(value), expected_pullback(value), strict=True):
        np.testing.assert_allclose(gradient, branchsig.transform_path_backprop(through, **switches), rtol=1e-15)


@pytest.mark.parametrize(
    ("shape", "switches", "words"),
    [
        ((4, 4), {"lead_lag": True}, r"expected \(\.\.\., 2 \* length - 1, 2 \* dimension\)"),
        ((5, 3), {"lead_lag": True}, r"expected \(\.\.\., 2 \* length - 1, 2 \* dimension\)"),
        ((5, 4), {"lead_lag": True, "time_aug": True}, r"expected \(\.\.\., 2 \* length - 1, 2 \* dimension \+ 1\)"),
        ((5, 1), {"time_aug": True}, r"expected \(\.\.\., length, dimension \+ 1\)"),
        ((5,), {}, r"derivs has shape \(5,\)"),
        ((0, 5), {}, r"derivs has shape \(0, 5\)"),
    ],
    ids=str,
)
def test_derivs_must_have_the_shape_of_a_transformed_path(shape, switches, words):
    with pytest.raises(ValueError, match=words):
        branchsig.transform_path_backprop(np.ones(shape), **switches)


@pytest.mark.parametrize("function", [branchsig.transform_path, branchsig.transform_path_backprop])
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"time_aug": 1}, TypeError, "time_aug is 1: expected True or False"),
        ({"lead_lag": None}, TypeError, "lead_lag is None: expected True or False"),
        ({"end_time": 0}, ValueError, "end_time is 0: expected a finite number > 0"),
        ({"end_time": float("nan")}, ValueError, "end_time is nan: expected a finite number > 0"),
        ({"n_jobs": 0}, ValueError, "n_jobs is 0"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(function, options, error, words):
    with pytest.raises(error, match=words):
        function(np.ones((3, 2)), **options)


@pytest.mark.parametrize("function", [branchsig.transform_path, branchsig.transform_path_backprop])
@pytest.mark.parametrize("bad", [[[1.0, 2.0]], np.ones((3, 2), int), np.ones((3, 2), object), None], ids=repr)
def test_what_is_no_real_array_is_refused(function, bad):
    with pytest.raises(TypeError, match="(path|derivs) (is of type|has dtype)"):
        function(bad)
