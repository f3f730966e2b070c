"""Truncation by the number of nodes, no truncation, and logarithms."""

import itertools
import math
import warnings

import numpy as np
import oracles
import pytest
from cases import STATIC_KERNELS, relative, relative_to_path, static_kernel, walk
from hypothesis import given, settings
from hypothesis import strategies as st

import branchsig
from branchsig import branched_sig_kernel as kernel
from branchsig import branched_sig_kernel_backprop as backprop

RULES = {name: np.array(branchsig.quadrature.BY_NAME[name].matrix) for name in branchsig.quadrature.BY_NAME}


def complex_points(path):
    return oracles.points(path, oracles.COMPLEX)


def wanted_parts(name, x, y, order, orders=(0, 0), kappa=None):
    g = oracles.refined(oracles.increment_array(kappa or oracles.static_kernel("linear"), x, y), orders)
    return oracles.collocation_parts(g, order, RULES[name])


def wanted_untruncated(name, x, y, orders=(0, 0), kappa=None):
    """log K_60, at the end point: depth 60 is infinity for small paths."""
    g = oracles.refined(oracles.increment_array(kappa or oracles.static_kernel("linear"), x, y), orders)
    return oracles.collocation_log_levels(g, 60, RULES[name])[-1][-1, -1, -1, -1]


@pytest.mark.parametrize(("order", "rule"), [(1, "trapezoid"), (3, "lobatto2"), (5, "lobatto4"), (5, "lobatto8")])
def test_parts_are_exact_on_piecewise_linear_paths(backend, order, rule, rng):
    x, y = walk(rng, 4, 2, size=1.5), walk(rng, 5, 2, size=1.5)
    wanted = oracles.forest_parts(oracles.ExactIntegrals(x), oracles.ExactIntegrals(y), math.inf, order, 2)
    found = kernel(x, y, math.inf, order=order, return_levels=True, quadrature=rule)
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-14)
    assert relative(kernel(x, y, math.inf, order=order, quadrature=rule), sum(wanted)) < 1e-13


def test_a_rule_of_too_low_an_order_is_not_exact(backend, rng):
    x, y = walk(rng, 4, 2, size=1.5), walk(rng, 5, 2, size=1.5)
    wanted = oracles.forest_parts(oracles.ExactIntegrals(x), oracles.ExactIntegrals(y), math.inf, 5, 2)
    found = kernel(x, y, math.inf, order=5, return_levels=True, quadrature="lobatto2")
    np.testing.assert_allclose(found[:4], wanted[:4], rtol=1e-13, atol=1e-14)
    assert abs(found[5] / wanted[5] - 1) > 1e-6


@pytest.mark.parametrize(("rule", "integrals"), [("trapezoid", "TrapezoidIntegrals"), ("left", "LeftPointIntegrals")])
@pytest.mark.parametrize("orders", [(0, 0), (1, 0)])
def test_parts_are_sums_over_forests_with_the_iterated_sums_of_the_rule(backend, rule, integrals, orders, rng):
    x, y = walk(rng, 5, 2, size=1.5), walk(rng, 4, 2, size=1.5)
    first, second = (getattr(oracles, integrals)(path, order) for path, order in zip((x, y), orders))
    wanted = oracles.forest_parts(first, second, math.inf, 5, 2)
    found = kernel(x, y, 5, orders, order=5, return_levels=True, quadrature=rule)
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-14)


def test_the_parts_give_the_kernel_of_every_dilation(backend, rng):
    x, y = walk(rng, 3, 4, 2), walk(rng, 3, 5, 2)
    parts = kernel(x, y, math.inf, order=4, return_levels=True)
    for factor in (0.3, 1.7):
        wanted = parts @ (factor ** (2 * np.arange(5)))
        assert relative(kernel(factor * x, factor * y, math.inf, order=4), wanted) < 1e-13


@given(
    rule=st.sampled_from(sorted(RULES)),
    name=st.sampled_from(sorted(STATIC_KERNELS)),
    form=st.sampled_from(["paired", "gram", "symmetric", "none"]),
    order=st.integers(0, 5),
    orders=st.sampled_from([(0, 0), (1, 1), (0, 1)]),
    mode=st.sampled_from(["value", "grid", "unit", "levels", "log", "grid of levels"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_orders_and_their_gradients_under_any_options(backend, rule, name, form, order, orders, mode, seed):
    rng = np.random.default_rng(seed)
    x = walk(rng, 2, 3, 2, size=0.4)
    y = x if form in ("symmetric", "none") else walk(rng, 2, 4, 2, size=0.4)
    static, kappa = static_kernel(name)
    if form != "paired" and form != "gram" and name == "matern12":
        static, kappa = static_kernel("rbf")  # not differentiable where points coincide
    function = "branched_sig_kernel" if form == "paired" else "branched_sig_kernel_gram"
    options = {
        "static_kernel": static,
        "quadrature": rule,
        "order": order,
        "return_grid": mode.startswith("grid"),
        "normalize": mode == "unit",
        "log": mode == "log",
        "return_levels": mode.endswith("levels"),
    }
    second = None if form == "none" else y
    found = getattr(branchsig, function)(x, second, math.inf, orders, **options)
    derivs = rng.standard_normal(found.shape)
    pairs = [(0, 0), (1, 1)] if form == "paired" else list(np.ndindex(2, 2))

    def value(a, b):
        if mode.startswith("grid"):
            g = oracles.refined(oracles.increment_array(kappa, a, b), orders)
            grid = np.ones((g.shape[0] + 1, g.shape[1] + 1, order + 1), dtype=complex)
            grid[..., 1:] = 0
            for r, c in itertools.product(range(1, g.shape[0] + 1), range(1, g.shape[1] + 1)):
                grid[r, c] = oracles.collocation_parts(g[:r, :c], order, RULES[rule])
            return grid if mode.endswith("levels") else grid.sum(axis=-1)
        parts = wanted_parts(rule, a, b, order, orders, kappa)
        if mode == "levels":
            return parts
        norm = 1.0
        if mode == "unit":
            own = [wanted_parts(rule, p, p, order, (o, o), kappa) for p, o in zip((a, b), orders, strict=True)]
            norm = np.sqrt(np.prod([sum(parts_of_own) for parts_of_own in own]))
        return np.log(sum(parts)) if mode == "log" else sum(parts) / norm

    left, right = np.zeros_like(x), np.zeros_like(y)
    for i, j in pairs:
        at = i if form == "paired" else (i, j)
        a, b = complex_points(x[i]), complex_points(y[j])
        np.testing.assert_allclose(found[at], value(a, b).real, rtol=1e-12, atol=1e-14)
        left[i] += oracles.gradient(lambda p, b=b, w=derivs[at]: np.sum(w * value(p, b)), x[i])
        right[j] += oracles.gradient(lambda p, a=a, w=derivs[at]: np.sum(w * value(a, p)), y[j])
    sides = {"right_deriv": form != "none"}
    d_x, d_y = getattr(branchsig, function + "_backprop")(derivs, x, second, math.inf, orders, **sides, **options)
    if form == "none":
        assert relative_to_path(d_x, left + right) < 1e-10
    else:
        assert relative_to_path(d_x, left) < 1e-10
        assert relative_to_path(d_y, right) < 1e-10


@pytest.mark.parametrize("c", [-30.0, -3.0, -0.4, 0.2, 0.9, 1.2])
def test_no_truncation_solves_liouvilles_equation(backend, c):
    x = np.array([[0.0], [1.0]])
    found = kernel(x, c * x, math.inf, 3, quadrature="lobatto8")
    assert abs(found / oracles.one_segment_untruncated(c) - 1) < (1e-9 if c < -3 else 1e-13)
    slope = 1 / (1 - c / 2) ** 3  # of K by c, and c is the second displacement
    gradient = backprop(np.asarray(1.0), x, c * x, math.inf, 3, quadrature="lobatto8", right_deriv=True)[1]
    assert abs(gradient[1, 0] / slope - 1) < (1e-8 if c < -3 else 1e-12)


@pytest.mark.parametrize("c", [-700.0, -40.0, -3.0, -0.2, 1e-3, 0.02, 0.07, 0.3, 0.6, 0.7, 0.75, 0.79])
@pytest.mark.parametrize("columns", [1, 5, 40])
def test_one_cell_solves_its_equation_up_to_its_blow_up(backend, c, columns):
    # log K = c (3 + K) / 4, on one cell; the others stand still
    x, y = np.array([[0.0], [1.0]]), np.zeros((columns + 1, 1))
    y[columns // 2 + 1 :] = c
    found = kernel(x, y, math.inf, log=True)
    assert abs(found - c * (3 + math.exp(found)) / 4) < 1e-14 * max(1, abs(c)) / (1 - c * math.exp(found) / 4)
    slope = (3 + math.exp(found)) / 4 / (1 - c * math.exp(found) / 4)
    gradient = backprop(np.asarray(1.0), x, y, math.inf, log=True, right_deriv=True)[1]
    assert abs(gradient[columns // 2 + 1 :].sum() / slope - 1) < 1e-12


@pytest.mark.parametrize("c", [1.999, 1.99999])
def test_the_kernel_grows_without_bound_towards_the_blow_up(backend, c):
    x = np.array([[0.0], [1.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = kernel(x, c * x, math.inf, 6, quadrature="lobatto4")
    assert found > 1e4


@pytest.mark.parametrize("c", [2.0 + 1e-2, 3.0, 100.0, 1e6])
@pytest.mark.parametrize("rule", ["trapezoid", "lobatto2", "lobatto5"])
def test_past_the_blow_up_the_kernel_is_infinite(backend, c, rule):
    x = np.array([[0.0], [1.0]])
    with pytest.warns(RuntimeWarning, match="1 of 1 values are inf or NaN: the paths lie past the point"):
        assert kernel(x, c * x, math.inf, 3, quadrature=rule) == math.inf
    gradient, _ = backprop(np.asarray(1.0), x, c * x, math.inf, 3, quadrature=rule)
    assert np.all(np.isnan(gradient))


def test_a_pair_past_the_blow_up_does_not_touch_the_others(backend):
    x = np.array([[[0.0], [1.0]], [[0.0], [9.0]], [[0.0], [0.5]]])
    with pytest.warns(RuntimeWarning, match="1 of 3 values"):
        found = kernel(x, x, math.inf, 5, quadrature="lobatto3")
    np.testing.assert_allclose(found[[0, 2]], [(1 - 0.5) ** -2, (1 - 0.125) ** -2], rtol=1e-11)
    assert found[1] == math.inf
    gradient, _ = backprop(np.ones(3), x, x, math.inf, quadrature="lobatto8")
    assert np.isnan(gradient).all(axis=(1, 2)).tolist() == [False, True, False]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_gradients_of_tiny_kernels_are_right_relative_to_their_size(backend, rule):
    x = 3.0 * np.linspace(0.0, 1.0, 6)[:, None] ** np.array([1.0, 2.0])
    options = {"quadrature": rule, "right_deriv": True}
    log_k = kernel(x, -10 * x, math.inf, quadrature=rule, log=True)
    assert -700 < log_k < -8
    found = backprop(np.asarray(1.0), x, -10 * x, math.inf, **options)
    for mine, of_log in zip(found, backprop(np.asarray(1.0), x, -10 * x, math.inf, log=True, **options), strict=True):
        assert relative_to_path(mine, math.exp(log_k) * of_log) < 1e-11


@settings(max_examples=20)
@given(
    rule=st.sampled_from(sorted(RULES)),
    name=st.sampled_from(["linear", "rbf", "matern32"]),
    form=st.sampled_from(["paired", "gram", "symmetric"]),
    orders=st.sampled_from([(0, 0), (1, 1), (0, 1)]),
    mode=st.sampled_from(["value", "unit", "log"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_truncation_under_any_options(backend, rule, name, form, orders, mode, seed):
    rng = np.random.default_rng(seed)
    x = walk(rng, 2, 3, 2, size=0.5)
    y = x if form == "symmetric" else walk(rng, 2, 4, 2, size=0.5)
    static, kappa = static_kernel(name)
    function = "branched_sig_kernel" if form == "paired" else "branched_sig_kernel_gram"
    options = {"static_kernel": static, "quadrature": rule, "normalize": mode == "unit", "log": mode == "log"}
    found = getattr(branchsig, function)(x, y, math.inf, orders, **options)
    derivs = rng.standard_normal(found.shape)

    def value(a, b):
        log_k = wanted_untruncated(rule, a, b, orders, kappa)
        own = zip((a, b), orders, strict=True)
        norm = sum(wanted_untruncated(rule, p, p, (o, o), kappa) for p, o in own) / 2 if mode == "unit" else 0
        return log_k if mode == "log" else np.exp(log_k - norm)

    left, right = np.zeros_like(x), np.zeros_like(y)
    for i, j in [(0, 0), (1, 1)] if form == "paired" else np.ndindex(2, 2):
        at = i if form == "paired" else (i, j)
        a, b = complex_points(x[i]), complex_points(y[j])
        np.testing.assert_allclose(found[at], value(a, b).real, rtol=1e-12, atol=1e-13)
        left[i] += oracles.gradient(lambda p, b=b, w=derivs[at]: w * value(p, b), x[i])
        right[j] += oracles.gradient(lambda p, a=a, w=derivs[at]: w * value(a, p), y[j])
    d_x, d_y = getattr(branchsig, function + "_backprop")(derivs, x, y, math.inf, orders, right_deriv=True, **options)
    assert relative_to_path(d_x, left) < 1e-10
    assert relative_to_path(d_y, right) < 1e-10


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("log", [False, True])
def test_grids_without_truncation_are_the_limit_of_those_of_great_depth(backend, rule, log, rng):
    x, y = walk(rng, 2, 5, 2), walk(rng, 2, 4, 2)
    options = {"quadrature": rule, "return_grid": True, "log": log}
    found, wanted = (kernel(x, y, depth, (1, 0), **options) for depth in (math.inf, 50))
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)
    derivs = rng.standard_normal(found.shape)
    for mine, its in zip(*(backprop(derivs, x, y, d, (1, 0), right_deriv=True, **options) for d in (math.inf, 50))):
        assert relative_to_path(mine, its) < 1e-11


@pytest.mark.parametrize("depth", [0, 1, 3, math.inf])
@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("form", ["paired", "gram", "none"])
def test_logarithms_are_those_of_the_kernels(backend, depth, grid, form, rng):
    x, y = walk(rng, 3, 4, 2, size=0.4), walk(rng, 3, 5, 2, size=0.4)
    y = None if form == "none" else y
    function = "branched_sig_kernel" if form == "paired" else "branched_sig_kernel_gram"
    options = {"return_grid": grid}
    value = getattr(branchsig, function)(x, y, depth, **options)
    log_k = getattr(branchsig, function)(x, y, depth, log=True, **options)
    np.testing.assert_allclose(np.exp(log_k), value, rtol=1e-13)
    derivs = rng.standard_normal(value.shape)
    found = getattr(branchsig, function + "_backprop")(derivs, x, y, depth, log=True, **options)[0]
    wanted = getattr(branchsig, function + "_backprop")(derivs / value, x, y, depth, **options)[0]
    assert relative_to_path(found, wanted) < 1e-12
    again, pullback = getattr(branchsig, function + "_vjp")(x, y, depth, log=True, **options)
    np.testing.assert_array_equal(again, log_k)
    assert relative_to_path(pullback(derivs)[0], found) < 1e-13


def test_logarithms_are_finite_where_kernels_overflow(backend):
    x = np.array([[0.0], [30.0], [40.0]])
    assert kernel(x, x, 1, log=True) == pytest.approx(1600.0, rel=1e-14)
    assert kernel(x, x, 1, log=True, return_grid=True)[1, 1] == pytest.approx(900.0, rel=1e-14)
    assert kernel(x, 2 * x, 1, log=True, normalize=True) == pytest.approx(3200 - 800 - 3200, rel=1e-14)
    gradient, _ = backprop(np.asarray(1.0), x, x, 1, log=True)
    np.testing.assert_allclose(gradient, [[-40.0], [0.0], [40.0]], rtol=1e-13, atol=1e-11)


def test_logarithms_of_a_truncation_that_is_not_positive_are_nan(backend):
    x = np.array([[0.0], [2.0]])
    with pytest.warns(RuntimeWarning, match="truncated by the number of nodes need not be positive"):
        assert np.isnan(kernel(x, -x, 1, order=1, log=True))
    assert kernel(x, -x, 1, order=1) == -3.0
    assert kernel(x, -x, 1, order=1, normalize=True) == pytest.approx(-3.0 / 5.0)


@pytest.mark.parametrize(
    ("depth", "options", "message"),
    [
        (3, {"order": -1}, "order is -1"),
        (3, {"return_levels": True}, "return_levels=True without order"),
        (3, {"return_levels": True, "order": 2, "log": True}, "return_levels=True with log"),
        (3, {"return_levels": True, "order": 2, "normalize": True}, "return_levels=True with log or normalize"),
        (-math.inf, {}, "depth is"),
    ],
)
def test_options_that_exclude_each_other_are_refused(depth, options, message):
    x = np.zeros((3, 1))
    with pytest.raises((ValueError, TypeError), match=message):
        kernel(x, x, depth, **options)


def test_there_is_no_stack_without_a_list_of_depths():
    x = np.zeros((3, 1))
    with pytest.raises(ValueError, match=r"depth is math\.inf"):
        branchsig.branched_sig_kernel_stack(x, x, math.inf)
    with pytest.raises(TypeError, match="unexpected keyword argument 'order'"):
        branchsig.branched_sig_kernel_stack(x, x, 3, order=2)
    with pytest.raises(ValueError, match="k_stack with order"):
        backprop(np.asarray(1.0), x, x, 3, order=2, k_stack=np.ones((4, 3, 3)))
    with pytest.raises(ValueError, match=r"depth is math\.inf"):
        backprop(np.asarray(1.0), x, x, math.inf, k_stack=np.ones((4, 3, 3)))


@pytest.mark.parametrize("options", [{"order": 3}, {}])
def test_single_points_have_kernel_one(backend, options):
    x, y = np.zeros((2, 1, 3)), np.ones((2, 4, 3)).cumsum(axis=1)
    np.testing.assert_array_equal(kernel(x, y, math.inf, **options), np.ones(2))
    np.testing.assert_array_equal(kernel(x, y, math.inf, return_grid=True, **options), np.ones((2, 1, 4)))
    for gradient in backprop(np.ones(2), x, y, math.inf, right_deriv=True, **options):
        assert not np.any(gradient)
