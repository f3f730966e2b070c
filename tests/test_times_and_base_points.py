"""Times of points and base points, against paths written out by hand, and their gradients against differences."""

import itertools
import pickle

import array_api_strict
import numpy as np
import pytest
from cases import walk

import branchsig

OPTIONS = [
    {"base_point": base, "lead_lag": lead_lag, "with_times": times, "time_aug": time_aug}
    for base, lead_lag, times, time_aug in itertools.product([False, True], repeat=4)
]
every_option = pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: " ".join(k for k, v in o.items() if v) or "none"
)


def by_hand(path, times=None, *, base_point=False, lead_lag=False, time_aug=False, end_time=1.0):
    """One path with all that is asked for, point by point."""
    points, with_time = [list(point) for point in path], time_aug or times is not None
    stamps = list(np.linspace(0.0, end_time, len(points)) if times is None else times)
    if base_point:
        points, stamps = [[0.0] * len(points[0]), *points], [stamps[0], *stamps]
    if lead_lag:
        moved, halfway = [points[0] + points[0]], [stamps[0]]
        for (before, after), (start, end) in zip(itertools.pairwise(points), itertools.pairwise(stamps)):
            moved += [before + after, after + after]
            halfway += [(start + end) / 2, end]
        points, stamps = moved, halfway
    return np.array([[*point, stamp] if with_time else point for point, stamp in zip(points, stamps)])


def given(options, times):
    """The arguments of a function, and those of the path by hand."""
    asked = dict(options)
    with_times = asked.pop("with_times")
    return asked, times if with_times else None


def stamps(rng, *shape):
    """Increasing times, in unequal steps."""
    return rng.uniform(0.05, 0.3, shape).cumsum(axis=-1)


@every_option
@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_transformed_path_is_the_one_by_hand(options, length, rng):
    path, times = rng.standard_normal((length, 3)), stamps(rng, length)
    asked, times = given(options, times)
    result = branchsig.transform_path(path, times=times, **asked)
    np.testing.assert_allclose(result, by_hand(path, times, **asked), rtol=1e-14, atol=1e-14)


@every_option
def test_the_backward_is_the_transpose_of_the_forward(options, rng):
    path, times = rng.standard_normal((2, 4, 3)), stamps(rng, 2, 4)
    asked, times = given(options, times)
    origin = branchsig.transform_path(0 * path, times=None if times is None else 0 * times, **asked)
    moved = branchsig.transform_path(path, times=times, **asked) - origin
    derivs = rng.standard_normal(moved.shape)
    found = branchsig.transform_path_backprop(derivs, times=times, **asked)
    value, pullback = branchsig.transform_path_vjp(path, times=times, **asked)
    assert value.shape == derivs.shape
    if times is None:
        np.testing.assert_array_equal(pullback(derivs), found)
        assert np.sum(found * path) == pytest.approx(np.sum(derivs * moved), rel=1e-12)
        return
    for one, other in zip(pullback(derivs), found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found[0].shape == path.shape
    assert found[1].shape == times.shape
    assert np.sum(found[0] * path) + np.sum(found[1] * times) == pytest.approx(np.sum(derivs * moved), rel=1e-12)


def test_even_times_are_those_of_time_augmentation(rng):
    path, options = rng.standard_normal((2, 5, 2)), {"lead_lag": True, "base_point": True}
    even = branchsig.transform_path(path, time_aug=True, end_time=3.0, **options)
    times = np.broadcast_to(np.linspace(0.0, 3.0, 5), (2, 5))
    np.testing.assert_allclose(branchsig.transform_path(path, times=times, **options), even, rtol=1e-15)


@pytest.mark.parametrize(
    "options", [{}, {"lead_lag": True}, {"base_point": True}, {"lead_lag": True, "base_point": True}]
)
def test_times_shared_by_all_paths_have_the_sum_of_their_gradients(options, rng):
    path, times = rng.standard_normal((2, 3, 4, 2)), stamps(rng, 4)
    each = np.broadcast_to(times, (2, 3, 4))
    value, pullback = branchsig.transform_path_vjp(path, times=times, **options)
    wanted, pullback_each = branchsig.transform_path_vjp(path, times=each, **options)
    np.testing.assert_array_equal(value, wanted)
    derivs = rng.standard_normal(value.shape)
    found, wanted = pullback(derivs), pullback_each(derivs)
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_allclose(found[1], wanted[1].sum(axis=(0, 1)), rtol=1e-13)
    again = branchsig.transform_path_backprop(derivs, times=times, **options)
    np.testing.assert_allclose(again[1], found[1], rtol=1e-14)


def test_a_list_of_paths_has_a_list_of_times(rng):
    paths, times = [rng.standard_normal((n, 2)) for n in (5, 3)], [stamps(rng, n) for n in (5, 3)]
    value, pullback = branchsig.transform_path_vjp(paths, times=times, base_point=True)
    assert [one.shape for one in value] == [(6, 3), (4, 3)]
    for one, path, at in zip(value, paths, times):
        np.testing.assert_array_equal(one, by_hand(path, at, base_point=True))
    of_paths, of_times = pullback(value)
    assert [one.shape for one in of_paths] == [(5, 2), (3, 2)]
    assert [one.shape for one in of_times] == [(5,), (3,)]
    again = branchsig.transform_path_backprop(value, times=times, base_point=True)
    np.testing.assert_array_equal(again[1][0], of_times[0])


def pairs(rng):
    x, y = walk(rng, 3, 5, 2), walk(rng, 3, 4, 2)
    return (x, y), (stamps(rng, 3, 5), stamps(rng, 3, 4))


TWO_SIDED = {
    "branched_sig_kernel": {"normalize": "dilation"},
    "branched_sig_kernel_gram": {"log": True},
    "branched_sig_kernel_stack": {},
    "branched_sig_mmd": {"normalize": True},
    "branched_sig_score": {"normalize": "dilation"},
    "expected_branched_sig_score": {},
}


@pytest.mark.parametrize("name", TWO_SIDED)
@every_option
def test_values_and_gradients_are_those_of_paths_by_hand(name, options, backend, rng):
    (x, y), both = pairs(rng)
    asked, times1 = given(options, both[0])
    times2 = None if times1 is None else both[1]
    extra = TWO_SIDED[name]
    moved = [
        np.stack([by_hand(path, None if at is None else at[k], **asked) for k, path in enumerate(paths)])
        for paths, at in ((x, times1), (y, times2))
    ]
    function, vjp = getattr(branchsig, name), getattr(branchsig, name + "_vjp")
    backprop = getattr(branchsig, name + "_backprop")
    wanted, of_hand = vjp(*moved, 2, **extra)
    value, pullback = vjp(x, y, 2, times1=times1, times2=times2, **asked, **extra)
    np.testing.assert_allclose(value, wanted, rtol=1e-11)
    np.testing.assert_array_equal(value, function(x, y, 2, times1=times1, times2=times2, **asked, **extra))
    derivs = rng.standard_normal(value.shape)
    found = pullback(derivs)
    directions = [
        branchsig.transform_path_backprop(g, times=t, **asked) for g, t in zip(of_hand(derivs), (times1, times2))
    ]
    if times1 is not None:
        directions = [*(d[0] for d in directions), *(d[1] for d in directions)]
    assert len(found) == len(directions)
    for one, other in zip(found, directions):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)
    again = backprop(derivs, x, y, 2, right_deriv=True, times1=times1, times2=times2, **asked, **extra)
    for one, other in zip(again, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["solve", "guard"])
@pytest.mark.parametrize("options", [{}, {"lead_lag": True, "base_point": True}])
def test_factors_of_dilation_know_times_and_base_points(method, options, backend, rng):
    (x, _), (times, _) = pairs(rng)
    moved = np.stack([by_hand(path, at, **options) for path, at in zip(x, times)])
    wanted, of_hand = branchsig.dilation_vjp(moved, 3, method=method)
    factors, pullback = branchsig.dilation_vjp(x, 3, method=method, times=times, **options)
    np.testing.assert_allclose(factors, wanted, rtol=1e-10)
    derivs = rng.standard_normal(3)
    expected = branchsig.transform_path_backprop(of_hand(derivs), times=times, **options)
    for one, other in zip(pullback(derivs), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)
    for one, other in zip(branchsig.dilation_backprop(derivs, x, 3, method=method, times=times, **options), expected):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("normalize", [False, True, "dilation"])
@pytest.mark.parametrize("kernel", [None, branchsig.RBFKernel(0.8)])
def test_gradients_with_respect_to_times_are_those_of_differences(normalize, kernel, rng):
    (x, y), (times1, times2) = pairs(rng)
    options = {"depth": 3, "normalize": normalize, "static_kernel": kernel, "base_point": True, "lead_lag": True}
    value, pullback = branchsig.branched_sig_kernel_gram_vjp(x, y, times1=times1, times2=times2, **options)
    derivs, steps = rng.standard_normal(value.shape), [rng.standard_normal(t.shape) for t in (times1, times2)]
    found = sum(np.sum(g * d) for g, d in zip(pullback(derivs)[2:], steps, strict=True))

    def at(h):
        moved = [t + h * step for t, step in zip((times1, times2), steps)]
        return np.sum(derivs * branchsig.branched_sig_kernel_gram(x, y, times1=moved[0], times2=moved[1], **options))

    assert found == pytest.approx((at(1e-5) - at(-1e-5)) / 2e-5, rel=1e-6)


def test_times_of_the_first_paths_are_those_of_the_second_where_these_are_the_first(rng):
    (x, _), (times, _) = pairs(rng)
    moved = np.concatenate([x, times[:, :, None]], axis=2)
    wanted, pullback_wanted = branchsig.branched_sig_kernel_gram_vjp(moved, None, 2)
    gram, pullback = branchsig.branched_sig_kernel_gram_vjp(x, None, 2, times1=times)
    np.testing.assert_array_equal(gram, wanted)
    np.testing.assert_array_equal(branchsig.branched_sig_kernel_gram(x, x, 2, times1=times), wanted)
    derivs = rng.standard_normal((3, 3))
    whole = pullback_wanted(derivs)[0]
    found = pullback(derivs)
    np.testing.assert_array_equal(found[0], whole[..., :-1])
    assert found[1] is None
    np.testing.assert_array_equal(found[2], whole[..., -1])
    assert found[3] is None
    twice = branchsig.branched_sig_kernel_gram_backprop(derivs, x, x, 2, times1=times, right_deriv=True)
    np.testing.assert_allclose(twice[2] + twice[3], found[2], rtol=1e-12)


def test_one_stack_may_have_two_sets_of_times(rng):
    (x, _), (times, _) = pairs(rng)
    gram = branchsig.branched_sig_kernel_gram(x, x, 2, times1=times, times2=2 * times)
    moved = [np.concatenate([x, t[:, :, None]], axis=2) for t in (times, 2 * times)]
    np.testing.assert_array_equal(gram, branchsig.branched_sig_kernel_gram(*moved, 2))


@pytest.mark.parametrize("normalize", [False, "dilation"])
def test_what_lies_behind_the_valid_points_is_never_read(normalize, backend, rng):
    (x, _), (times, _) = pairs(rng)
    lengths = [5, 2, 4]
    options = {"normalize": normalize, "base_point": True, "lead_lag": True}
    paths, stamped = [x[k, :n] for k, n in enumerate(lengths)], [times[k, :n] for k, n in enumerate(lengths)]
    x, times = x.copy(), times.copy()
    for k, n in enumerate(lengths):
        x[k, n:] = times[k, n:] = np.nan
    wanted, of_list = branchsig.branched_sig_kernel_gram_vjp(paths, None, 2, times1=stamped, **options)
    moved = [by_hand(path, at, base_point=True, lead_lag=True) for path, at in zip(paths, stamped)]
    np.testing.assert_allclose(
        wanted, branchsig.branched_sig_kernel_gram(moved, None, 2, normalize=normalize), rtol=1e-12
    )
    gram, pullback = branchsig.branched_sig_kernel_gram_vjp(x, None, 2, times1=times, lengths1=lengths, **options)
    np.testing.assert_array_equal(gram, wanted)
    derivs = rng.standard_normal((3, 3))
    expected, found = of_list(derivs), pullback(derivs)
    for k, n in enumerate(lengths):
        np.testing.assert_array_equal(found[0][k, :n], expected[0][k])
        np.testing.assert_array_equal(found[2][k, :n], expected[2][k])
        assert not found[0][k, n:].any()
        assert not found[2][k, n:].any()


def test_time_of_padded_paths_with_a_base_point_runs_over_their_own_points(rng):
    paths = [walk(rng, 1, n, 2)[0] for n in (6, 1, 3)]
    options = {"base_point": True, "lead_lag": True, "time_aug": True, "end_time": 0.5}
    moved = [by_hand(path, **options) for path in paths]
    np.testing.assert_allclose(
        branchsig.branched_sig_kernel_gram(paths, None, 2, **options),
        branchsig.branched_sig_kernel_gram(moved, None, 2),
        rtol=1e-13,
    )


def test_a_base_point_makes_the_level_count(rng):
    x = walk(rng, 1, 5, 2)
    shifted = x + 0.5
    options = {"depth": 1, "base_point": True}
    np.testing.assert_allclose(
        branchsig.branched_sig_kernel(x, shifted, **options),
        np.exp(np.sum(x[:, -1] * shifted[:, -1], axis=1)),
        rtol=1e-14,
    )
    without = [branchsig.branched_sig_kernel(x, other, 1) for other in (x, shifted)]
    np.testing.assert_allclose(without[0], without[1], rtol=1e-14)


def test_the_two_sample_test_takes_times(rng):
    (x, y), (times1, times2) = pairs(rng)
    moved = [np.concatenate([p, t[:, :, None]], axis=2) for p, t in ((x, times1), (y, times2))]
    wanted = branchsig.branched_sig_mmd_test(*moved, 2, seed=0)
    assert branchsig.branched_sig_mmd_test(x, y, 2, times1=times1, times2=times2, seed=0) == wanted


def test_a_single_observation_has_times_of_its_own(rng):
    (x, y), (times1, times2) = pairs(rng)
    score, pullback = branchsig.branched_sig_score_vjp(x, y[0], 2, times1=times1, times2=times2[0])
    moved = [np.concatenate([p, t[..., None]], axis=-1) for p, t in ((x, times1), (y[0], times2[0]))]
    assert score == branchsig.branched_sig_score(*moved, 2)
    assert [g.shape for g in pullback(1.0)] == [x.shape, y[0].shape, times1.shape, times2[0].shape]


def test_gradients_of_parameters_come_last(rng):
    (x, y), (times1, times2) = pairs(rng)
    options = {"static_kernel": branchsig.RBFKernel(0.8), "times1": times1, "times2": times2, "param_deriv": True}
    _, pullback = branchsig.branched_sig_kernel_vjp(x, y, 2, **options)
    *of_arrays, of_parameters = pullback(np.ones(3))
    assert [g.shape for g in of_arrays] == [x.shape, y.shape, times1.shape, times2.shape]
    assert set(of_parameters) == {"sigma"}
    *_, again = branchsig.branched_sig_kernel_backprop(np.ones(3), x, y, 2, left_deriv=False, **options)
    assert again["sigma"] == pytest.approx(float(of_parameters["sigma"]), rel=1e-12)


def test_only_gradients_that_are_asked_for_come_back(rng):
    (x, y), (times1, times2) = pairs(rng)
    found = branchsig.branched_sig_kernel_backprop(np.ones(3), x, y, 2, times1=times1, times2=times2)
    assert [g is None for g in found] == [False, True, False, True]


def test_a_pullback_with_times_can_be_pickled(rng):
    (x, y), (times1, times2) = pairs(rng)
    _, pullback = branchsig.branched_sig_kernel_vjp(x, y, 2, times1=times1, times2=times2)
    for one, other in zip(pickle.loads(pickle.dumps(pullback))(np.ones(3)), pullback(np.ones(3)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_libraries_and_single_precision_come_back_as_they_came(rng):
    (x, y), both = pairs(rng)
    strict = [array_api_strict.asarray(a.astype(np.float32)) for a in (x, y, *both)]
    value, pullback = branchsig.branched_sig_kernel_vjp(
        *strict[:2], 2, times1=strict[2], times2=strict[3], base_point=True
    )
    for gradient, operand in zip(pullback(value), strict, strict=True):
        assert gradient.dtype == array_api_strict.float32
        assert gradient.shape == operand.shape


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda x, t: {"times1": t}, ValueError, "times1 is given and times2 is not: give times for the points of all"),
        (lambda x, t: {"times2": t}, ValueError, "times2 is given and times1 is not"),
        (
            lambda x, t: {"times1": t[:, :4], "times2": t},
            ValueError,
            r"times1 has shape \(3, 4\): expected \(3, 5\), a time",
        ),
        (
            lambda x, t: {"times1": t[:2], "times2": t},
            ValueError,
            r"a time for each point of path1, or \(5,\) for the p",
        ),
        (lambda x, t: {"times1": t[..., None], "times2": t}, ValueError, r"times1 has shape \(3, 5, 1\)"),
        (
            lambda x, t: {"times1": t.astype(np.float32), "times2": t},
            TypeError,
            "times1 has dtype float32 and path1 has",
        ),
        (lambda x, t: {"times1": t.astype(int), "times2": t}, TypeError, "times1 has dtype int64: expected float32 or"),
        (lambda x, t: {"times1": t.tolist(), "times2": t}, TypeError, "times1 is of type list"),
        (
            lambda x, t: {"times1": t, "times2": t, "time_aug": True, "end_time": 2.0},
            ValueError,
            "end_time is 2.0 and times are given",
        ),
        (lambda x, t: {"base_point": 1}, TypeError, "base_point is 1: expected True or False"),
    ],
)
def test_times_that_do_not_fit_are_refused(make, error, words, rng):
    x, t = rng.standard_normal((3, 5, 2)), stamps(rng, 3, 5)
    with pytest.raises(error, match=words):
        branchsig.branched_sig_kernel(x, x.copy(), 2, **make(x, t))


def test_times_of_lists_must_be_lists_of_as_many(rng):
    paths = [rng.standard_normal((n, 2)) for n in (5, 3)]
    with pytest.raises(TypeError, match="times1 is of type ndarray, and path1 is a list: expected a list of 2 arrays"):
        branchsig.branched_sig_kernel_gram(paths, None, 2, times1=np.zeros((2, 5)))
    with pytest.raises(ValueError, match="times1 is a list of 1 arrays: expected 2"):
        branchsig.branched_sig_kernel_gram(paths, None, 2, times1=[np.zeros(5)])
    with pytest.raises(ValueError, match=r"times1\[1\] has shape \(5,\): expected \(3,\)"):
        branchsig.branched_sig_kernel_gram(paths, None, 2, times1=[np.zeros(5)] * 2)
    with pytest.raises(ValueError, match="times2 is given and path2 is None"):
        branchsig.branched_sig_kernel_gram(paths, None, 2, times1=[np.zeros(5), np.zeros(3)], times2=[np.zeros(5)])


def test_shapes_in_messages_are_those_of_the_paths_without_their_times(rng):
    x, y, times = rng.standard_normal((3, 5, 2)), rng.standard_normal((3, 5, 4)), stamps(rng, 3, 5)
    with pytest.raises(ValueError, match=r"path1 has shape \(3, 5, 2\) and path2 \(3, 5, 4\): expected .* not 2 and 4"):
        branchsig.branched_sig_kernel(x, y, 2, times1=times, times2=times)
    with pytest.warns(RuntimeWarning, match=r"every path has one point, .*: path1 has shape \(3, 1, 2\)"):
        branchsig.branched_sig_kernel_gram(x[:, :1], None, 2, times1=times[:, :1])
    with pytest.warns(RuntimeWarning, match=r"path1 of shape \(5, 2\) was taken for one path of 5 points in 2 dim"):
        branchsig.branched_sig_kernel_gram(x[0] / 10, None, 2, times1=times[0])


@pytest.mark.parametrize(
    ("shape", "options"),
    [((1, 3), {"base_point": True}), ((1, 4), {"base_point": True, "lead_lag": True}), ((4, 4), {"lead_lag": True})],
)
def test_derivatives_must_have_the_shape_of_a_transformed_path(shape, options):
    with pytest.raises(ValueError, match="derivs has shape"):
        branchsig.transform_path_backprop(np.zeros(shape), **options)
