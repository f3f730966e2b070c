"""Control of the error: a tolerance finds the rule of quadrature, for values and gradients alike."""

import itertools
import math

import mpmath
import numpy as np
import pytest
from cases import relative_to_path, static_kernel, walk
from hypothesis import given, settings
from hypothesis import strategies as st

import branchsig
from branchsig import branched_sig_kernel as kernel
from branchsig import branched_sig_kernel_gram as gram
from branchsig.operations.tolerance import difference

OPTIONS = {
    "plain": {},
    "log": {"log": True},
    "grid": {"return_grid": True},
    "log grid": {"log": True, "return_grid": True},
    "unit": {"normalize": True},
    "dilation": {"normalize": "dilation"},
    "time": {"time_aug": True, "end_time": 0.5},
    "lead-lag": {"lead_lag": True},
    "order": {"order": 4},
    "levels": {"order": 4, "return_levels": True},
}


def error(found, wanted, options):
    """The largest error, as `rtol` measures it."""
    size = np.abs(wanted)
    if options.get("return_levels"):
        size = size.max(axis=-1, keepdims=True)
    if options.get("log"):
        size = np.maximum(size, 1.0)
    return np.max(np.abs(found - wanted) / size)


def rule_of(x, y, depth, rtol, function=kernel, **options):
    """The order of the rule that a tolerance finds, told by the values, which are those of the rule to the last bit.

    But with dilation the search for the factors starts elsewhere, which may change last digits.
    """
    found = function(x, y, depth, rtol=rtol, **options)
    values = {p: function(x, y, depth, quadrature=f"lobatto{p}", **options) for p in range(2, 9)}
    gaps = {p: np.max(np.abs(value - found)) / np.max(np.abs(found)) for p, value in values.items()}
    nearest = min(gaps, key=gaps.get)
    assert gaps[nearest] <= (1e-12 if options.get("normalize") == "dilation" else 0.0)
    return nearest


@settings(max_examples=20)
@given(
    name=st.sampled_from(["linear", "rbf", "polynomial", "matern52"]),
    option=st.sampled_from(sorted(OPTIONS)),
    form=st.sampled_from(["paired", "gram", "symmetric"]),
    depth=st.sampled_from([1, 2, 4, math.inf]),
    orders=st.sampled_from([0, 1, (0, 1)]),
    rtol=st.sampled_from([1e-3, 1e-6, 1e-8, 1e-11]),
    size=st.floats(0.01, 0.9),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_error_is_within_the_tolerance(name, option, form, depth, orders, rtol, size, seed):
    rng = np.random.default_rng(seed)
    x, y = walk(rng, 3, 5, 2, size=size), walk(rng, 3, 4, 2, size=size)
    options = OPTIONS[option] | {"static_kernel": static_kernel(name)[0]}
    if "order" in options:
        depth = math.inf
    function = kernel if form == "paired" else gram
    second = x if form == "symmetric" else y
    found = function(x, second, depth, orders, rtol=rtol, **options)
    if "return_grid" in options:
        wanted = function(x, second, depth, orders, quadrature="lobatto8", **options)
    else:
        finer = tuple(order + 1 for order in orders) if isinstance(orders, tuple) else orders + 1
        wanted = function(x, second, depth, finer, quadrature="lobatto8", **options)
    assert error(found, wanted, options) <= rtol


RBF = branchsig.RBFKernel(sigma=1.0)


@pytest.mark.parametrize(
    ("rtol", "depth", "kappa", "x", "y"),
    [
        (1e-4, 4, RBF, [0.0, 3.4, 1.8], [0.0, 1.4, -0.7, -1.5]),
        (1e-3, 4, RBF, [0.0, -3.1, -1.9], [0.0, -1.8, -2.6]),
        (1e-7, 5, RBF, [0.0, 0.8, 1.3, 0.3], [0.0, 1.1, 3.6, 4.6]),
        (1e-3, 4, RBF, [0.0, 2.0, 4.2], [0.0, 0.0, 2.7, 1.9]),
        (1e-8, 4, None, [0.0, -3.1, -1.0], [0.0, 0.2, 0.9, -0.2]),
    ],
)
def test_two_rules_that_agree_by_chance_do_not_end_the_search(backend, rtol, depth, kappa, x, y):
    # Two neighbouring rules agree to within the tolerance, and are 9 to 15 times the tolerance off.
    x, y = (np.array(path)[:, None] for path in (x, y))
    wanted = kernel(x, y, depth, 3, quadrature="lobatto8", static_kernel=kappa)
    by_rule = [float(kernel(x, y, depth, quadrature=f"lobatto{p}", static_kernel=kappa)) for p in range(2, 9)]
    apart = [abs(higher / lower - 1) for lower, higher in itertools.pairwise(by_rule)]
    first = next(k for k, gap in enumerate(apart) if gap <= rtol)
    assert abs(by_rule[first + 1] / wanted - 1) > 5 * rtol
    assert abs(kernel(x, y, depth, rtol=rtol, static_kernel=kappa) / wanted - 1) <= rtol


@pytest.mark.parametrize(
    ("rtol", "depth", "kappa", "x", "y"),
    [
        (1e-7, 2, None, [0.0, 8.9, 7.0], [0.0, -1.8, -5.3, -0.9]),
        (1e-6, 3, None, [0.0, 0.6, 3.1, 3.9], [0.0, -0.1, -0.4, -4.7]),
        (1e-4, 5, None, [0.0, 1.1, 0.9, -2.3], [0.0, 1.6]),
        (1e-6, 5, RBF, [0.0, -0.3, 2.3, 1.6], [0.0, 1.6, 3.5, 2.6]),
        (1e-5, 3, None, [0.0, 1.3, 2.0, 4.7], [0.0, -3.6, -1.9, 0.2]),
    ],
)
def test_rules_that_agree_by_chance_alone_leave_the_tolerance_unreached(backend, rtol, depth, kappa, x, y):
    # Two neighbouring rules agree to within the tolerance, and are 10 to 400 times the tolerance off.
    x, y = (np.array(path)[:, None] for path in (x, y))
    with pytest.warns(RuntimeWarning, match=f"rtol is {rtol:g} and was not reached"):
        kernel(x, y, depth, rtol=rtol, static_kernel=kappa)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 5])
def test_a_rule_that_is_exact_ends_the_search(backend, order, rng):
    x, y = walk(rng, 3, 4, 2), walk(rng, 3, 5, 2)
    wanted = kernel(x, y, math.inf, 2, quadrature="lobatto8", order=order)
    for rtol in (1e-2, 1e-13):
        found = kernel(x, y, math.inf, rtol=rtol, order=order)
        np.testing.assert_allclose(found, wanted, rtol=max(rtol, 1e-12) if order > 3 else 1e-12)


def test_two_rules_without_a_solution_do_not_agree(backend):
    # Close to the blow-up at c = 2 the equation of a cell has no solution by the rules of order 2 to 5.
    x = np.array([[0.0], [1.0]])
    with pytest.warns(RuntimeWarning, match="rtol is 0.01 and was not reached"):
        found = kernel(x, 1.9 * x, math.inf, rtol=1e-2)
    np.testing.assert_allclose(found, 400.0, rtol=0.02)
    with pytest.warns(RuntimeWarning, match="blows up"):
        assert kernel(x, 2.5 * x, math.inf, rtol=1e-2) == math.inf


@pytest.mark.parametrize("c", [0.5, 1.5, 3.0])
@pytest.mark.parametrize("rtol", [1e-4, 1e-8, 1e-12])
def test_one_cell_has_the_value_of_forty_digits(backend, c, rtol):
    # Of two segments with c the product of their increments, K_1(s, t) = exp(c s t), and log K_2 is its integral.
    x = np.array([[0.0], [1.0]])
    with mpmath.workdps(40):
        wanted = float(mpmath.exp(mpmath.ei(c) - mpmath.log(c) - mpmath.euler))
    assert float(kernel(x, c * x, 2, rtol=rtol)) == pytest.approx(wanted, rel=rtol, abs=0)


def test_a_smaller_tolerance_takes_a_higher_rule(backend, rng):
    x, y = walk(rng, 4, 6, 2), walk(rng, 4, 5, 2)
    rules = [rule_of(x, y, 4, rtol) for rtol in (1e-2, 1e-5, 1e-8, 1e-12)]
    assert rules[0] == 3  # the least: of two rules that agree the higher one
    assert rules == sorted(rules)
    assert rules[-1] > rules[0]


def test_the_hardest_pair_decides_for_all(backend, rng):
    x = walk(rng, 3, 5, 2, size=0.01)
    x[1] *= 80
    alone = rule_of(x[1], x[1], 4, 1e-10)
    assert rule_of(x, x, 4, 1e-10) == rule_of(x, None, 4, 1e-10, gram) == alone
    assert rule_of(x[::2], x[::2], 4, 1e-10) < alone


def test_a_tolerance_out_of_reach_is_warned_of(backend):
    x = np.array([[0.0], [4.0]])
    with pytest.warns(RuntimeWarning, match=r"rtol is 1e-14 and was not reached: .* orders 7 and 8 differ by") as seen:
        found = kernel(x, x, 2, 0, rtol=1e-14, log=True)
    assert seen[0].filename == __file__
    assert "take a higher dyadic_order, which is (0, 0)" in str(seen[0].message)
    assert found == kernel(x, x, 2, quadrature="lobatto8", log=True)
    for function in (branchsig.branched_sig_kernel_vjp, branchsig.branched_sig_kernel_gram):
        with pytest.warns(RuntimeWarning, match="was not reached") as seen:
            function(x, x, 2, rtol=1e-14, log=True)
        assert seen[0].filename == __file__
    for backprop in (branchsig.branched_sig_kernel_backprop, branchsig.branched_sig_kernel_gram_backprop):
        with pytest.warns(RuntimeWarning, match="was not reached") as seen:
            backprop(np.asarray(1.0), x, x, 2, rtol=1e-14, log=True)
        assert seen[0].filename == __file__
    assert error(kernel(x, x, 2, 3, rtol=1e-9, log=True), kernel(x, x, 2, 4, rtol=1e-9, log=True), {}) < 1e-9


def test_values_that_are_not_finite_agree_with_each_other(backend, rng):
    x = walk(rng, 3, 5, 2)
    x[0, 2] = np.nan
    with pytest.warns(RuntimeWarning, match=r"^path1\[0\] holds NaN. 1 of 3 values are not finite because of this$"):
        found = kernel(x, x, 3, rtol=1e-8)
    assert np.isnan(found[0])
    assert np.isfinite(found[1:]).all()
    x[1] *= 1e3
    with pytest.warns(RuntimeWarning) as seen:
        found = kernel(x, x, 3, rtol=1e-8)
    (message,) = (str(warning.message) for warning in seen)
    assert message.startswith("path1[0] holds NaN. 1 of 3 values are not finite because of this. 1 of 3 values ")
    assert not np.isfinite(found[1])
    np.testing.assert_allclose(found[2], kernel(x[2], x[2], 3, quadrature="lobatto8"), rtol=1e-8)


def test_a_value_finite_by_one_rule_alone_is_no_agreement():
    one, inf = np.array([1.0, 2.0]), np.array([1.0, math.inf])
    assert difference(one, inf, log=False, levels=False) == difference(inf, one, log=False, levels=False) == math.inf
    assert difference(inf, inf, log=False, levels=False) == 0.0
    assert difference(np.zeros((0, 3)), np.zeros((0, 3)), log=True, levels=True) == 0.0
    assert difference(np.array([0.0]), np.array([1e-9]), log=True, levels=False) == 1e-9
    parts = np.array([[1.0, 1e-30]]), np.array([[1.0, 2e-30]])
    assert difference(*parts, log=False, levels=True) == 1e-30


@settings(max_examples=12)
@given(
    option=st.sampled_from(sorted(OPTIONS)),
    form=st.sampled_from(["paired", "gram", "symmetric", "none"]),
    depth=st.sampled_from([1, 3, math.inf]),
    orders=st.sampled_from([0, (0, 1)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_gradients_are_those_of_the_rule_of_the_values(option, form, depth, orders, seed):
    rng = np.random.default_rng(seed)
    x, y = walk(rng, 3, 5, 2, size=0.5), walk(rng, 3, 4, 2, size=0.5)
    options = OPTIONS[option]
    depth = math.inf if "order" in options else depth
    function = kernel if form == "paired" else gram
    backprop = getattr(branchsig, function.__name__ + "_backprop")
    vjp = getattr(branchsig, function.__name__ + "_vjp")
    second = {"paired": y, "gram": y, "symmetric": x, "none": None}[form]
    rule = f"lobatto{rule_of(x, second, depth, 1e-7, function, dyadic_order=orders, **options)}"
    right = second is not None
    value, pullback = vjp(x, second, depth, orders, rtol=1e-7, **options)
    derivs = rng.standard_normal(value.shape)
    wanted = backprop(derivs, x, second, depth, orders, right_deriv=right, quadrature=rule, **options)
    found = backprop(derivs, x, second, depth, orders, right_deriv=right, rtol=1e-7, **options)
    for gradients in (found, pullback(derivs)):
        for mine, its in zip(gradients, wanted, strict=True):
            assert (mine is None) == (its is None)
            if its is not None:
                assert relative_to_path(mine, its) < 1e-12


@pytest.mark.parametrize("lengths", [None, [3, 5, 1]])
def test_other_libraries_get_their_own_arrays(backend, lengths, rng):
    xp = pytest.importorskip("array_api_strict")
    x, y = walk(rng, 3, 5, 2), walk(rng, 3, 4, 2)
    for options in ({}, {"log": True}, {"order": 3, "return_levels": True}, {"return_grid": True}):
        depth = math.inf if "order" in options else 3
        arguments = {"rtol": 1e-9, "lengths1": lengths, **options}
        found = kernel(xp.asarray(x), xp.asarray(y), depth, **arguments)
        np.testing.assert_allclose(np.asarray(found), kernel(x, y, depth, **arguments), rtol=1e-13)
        value, pullback = branchsig.branched_sig_kernel_vjp(xp.asarray(x), xp.asarray(y), depth, **arguments)
        gradient, _ = pullback(xp.ones_like(value))
        wanted, _ = branchsig.branched_sig_kernel_backprop(np.ones(value.shape), x, y, depth, **arguments)
        np.testing.assert_allclose(np.asarray(gradient), wanted, rtol=1e-11, atol=1e-14)


def test_no_pairs_have_no_error(backend):
    assert kernel(np.zeros((0, 3, 2)), np.zeros((0, 4, 2)), 3, rtol=1e-8).shape == (0,)


def test_progress_rises_to_its_end(backend, rng):
    x, seen = walk(rng, 5, 4, 2, size=0.4), []
    gram(x, None, 3, rtol=1e-10, progress=lambda done, pairs: seen.append((done, pairs)))
    done, pairs = zip(*seen, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == pairs[-1]


def test_single_precision_reaches_what_it_resolves(backend, rng):
    x, y = walk(rng, 4, 6, 2), walk(rng, 4, 5, 2)
    found = kernel(x.astype(np.float32), y.astype(np.float32), 3, rtol=1e-5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, kernel(x, y, 3, quadrature="lobatto8"), rtol=1.2e-5)
    message = "rtol is 1e-08: paths of dtype float32 resolve no error below 9.5e-07. Take a larger rtol, or"
    with pytest.raises(ValueError, match=message):
        kernel(x.astype(np.float32), y.astype(np.float32), 3, rtol=1e-8)


@pytest.mark.parametrize(
    ("options", "wrong", "message"),
    [
        ({"rtol": 0.0}, ValueError, "rtol is 0.0: expected None or a relative error above 0 and below 1"),
        ({"rtol": 1.0}, ValueError, "rtol is 1.0"),
        ({"rtol": math.nan}, ValueError, "rtol is nan"),
        ({"rtol": 1e-17}, ValueError, "rtol is 1e-17: paths of dtype float64 resolve no error below 1.8e-15"),
        ({"rtol": "small"}, TypeError, "rtol is 'small'"),
        ({"rtol": True}, TypeError, "rtol is True"),
        (
            {"rtol": 1e-8, "quadrature": "lobatto2"},
            ValueError,
            r"rtol is 1e-08 and quadrature is GaussLobatto\(p=2\): .* Leave one out",
        ),
        ({"rtol": 1e-8, "quadrature": "left"}, ValueError, r"rtol is 1e-08 and quadrature is LeftPoint\(\)"),
    ],
)
def test_wrong_tolerances_are_refused(options, wrong, message):
    x = np.zeros((3, 1))
    for function in (kernel, gram, branchsig.branched_sig_kernel_vjp):
        with pytest.raises(wrong, match=message):
            function(x, x, 2, **options)
    with pytest.raises(wrong, match=message):
        branchsig.branched_sig_kernel_backprop(np.asarray(1.0), x, x, 2, **options)


def test_the_default_rule_by_name_goes_with_a_tolerance():
    x = np.array([[0.0], [0.5], [0.2]])
    assert kernel(x, x, 2, rtol=1e-8, quadrature="trapezoid") == kernel(x, x, 2, rtol=1e-8)


def test_a_stack_is_of_one_rule():
    x = np.zeros((3, 1))
    with pytest.raises(ValueError, match="rtol is 1e-08 with k_stack"):
        branchsig.branched_sig_kernel_backprop(np.asarray(1.0), x, x, 2, rtol=1e-8, k_stack=np.ones((3, 3, 3)))
