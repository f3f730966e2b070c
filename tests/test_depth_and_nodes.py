"""Truncation by depth and by the number of nodes at once: forests of at most `order` nodes, and `depth` at most."""

import itertools
import math

import numpy as np
import oracles
import pytest
from cases import STATIC_KERNELS, QuarticKernel, quartic, relative_to_path, static_kernel, walk
from hypothesis import given, settings
from hypothesis import strategies as st

import branchsig
from branchsig import branched_sig_kernel as kernel
from branchsig import branched_sig_kernel_backprop as backprop
from branchsig import branched_sig_kernel_gram as gram
from branchsig.spec import Truncation

RULES = {name: np.array(branchsig.quadrature.BY_NAME[name].matrix) for name in branchsig.quadrature.BY_NAME}

BOUNDS = [(depth, order) for order in range(1, 6) for depth in range(order)]
"""Every depth below every order."""

TRUNCATIONS = [(1, 3), (2, 4), (5, 7)]


def kernel_and_formula(name):
    return (QuarticKernel(), quartic) if name == "quartic" else static_kernel(name)


def wanted_parts(rule, x, y, depth, order, orders=(0, 0), kappa=None):
    """k_0..k_order at the end of two lists of points."""
    g = oracles.refined(oracles.increment_array(kappa or oracles.static_kernel("linear"), x, y), orders)
    return oracles.collocation_parts(g, order, RULES[rule], depth)


def wanted_grid(rule, x, y, depth, order, orders=(0, 0), kappa=None):
    """k_0..k_order at every node: each is the end of the paths up to there."""
    g = oracles.refined(oracles.increment_array(kappa or oracles.static_kernel("linear"), x, y), orders)
    grid = np.zeros((g.shape[0] + 1, g.shape[1] + 1, order + 1), dtype=complex)
    grid[..., 0] = 1
    for r, c in itertools.product(range(1, g.shape[0] + 1), range(1, g.shape[1] + 1)):
        grid[r, c] = oracles.collocation_parts(g[:r, :c], order, RULES[rule], depth)
    return grid


def complex_points(path):
    return oracles.points(path, oracles.COMPLEX)


def slope(function, path, direction, step=1e-30):
    """The derivative of a function of a path along a direction, by the complex step."""
    return function(path + (step * 1j) * direction).imag / step


@pytest.mark.parametrize(("depth", "order"), BOUNDS)
def test_parts_are_exact_sums_over_the_forests_within_both_bounds(backend, depth, order, rng):
    x, y = walk(rng, 4, 2, size=1.5), walk(rng, 5, 2, size=1.5)
    wanted = oracles.forest_parts(oracles.ExactIntegrals(x), oracles.ExactIntegrals(y), depth, order, 2)
    for rule in (f"lobatto{max(2, order - 1)}", "lobatto5"):
        found = kernel(x, y, depth, order=order, return_levels=True, quadrature=rule)
        np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(kernel(x, y, depth, order=order, quadrature=rule), sum(wanted), rtol=1e-13)


@pytest.mark.parametrize(("rule", "integrals"), [("trapezoid", "TrapezoidIntegrals"), ("left", "LeftPointIntegrals")])
@pytest.mark.parametrize("orders", [(0, 0), (1, 0), (1, 2)])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_parts_are_sums_over_forests_with_the_iterated_sums_of_the_rule(backend, rule, integrals, orders, depth, rng):
    x, y = walk(rng, 5, 2, size=1.5), walk(rng, 4, 2, size=1.5)
    first, second = (getattr(oracles, integrals)(path, order) for path, order in zip((x, y), orders, strict=True))
    wanted = oracles.forest_parts(first, second, depth, 5, 2)
    found = kernel(x, y, depth, orders, order=5, return_levels=True, quadrature=rule)
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", [*sorted(STATIC_KERNELS), "quartic"])
@pytest.mark.parametrize("rule", ["trapezoid", "left", "lobatto3"])
def test_at_depth_one_parts_are_powers_of_the_whole_increment(backend, name, rule, rng):
    x, y = walk(rng, 5, 2), walk(rng, 4, 2)
    static, kappa = kernel_and_formula(name)
    c = np.zeros((5, 4))
    c[1:, 1:] = np.cumsum(np.cumsum(oracles.increment_array(kappa, x, y).real, axis=0), axis=1)
    wanted = c[..., None] ** np.arange(6) / [math.factorial(n) for n in range(6)]
    options = {"order": 5, "return_levels": True, "quadrature": rule, "static_kernel": static}
    np.testing.assert_allclose(kernel(x, y, 1, **options), wanted[-1, -1], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(kernel(x, y, 1, return_grid=True, **options), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", ["trapezoid", "lobatto2"])
def test_a_depth_of_at_least_the_order_is_no_bound(backend, rule, rng):
    x, y = walk(rng, 3, 6, 2), walk(rng, 3, 5, 2)
    for function in (kernel, lambda *args, **options: backprop(np.ones(3), *args, **options)[0]):
        wanted = function(x, y, math.inf, order=4, quadrature=rule)
        for depth in (4, 5, 100):
            np.testing.assert_array_equal(function(x, y, depth, order=4, quadrature=rule), wanted)


def test_truncations_are_equal_where_they_allow_the_same_forests():
    assert Truncation(4, 4) == Truncation(7, 4) == Truncation(math.inf, 4)
    assert len({Truncation(2, 4), Truncation(3, 4), Truncation(3), Truncation(math.inf, 4), Truncation()}) == 5
    assert (Truncation(2, 4).depth, Truncation(2, 4).order) == (2, 4)
    assert repr(Truncation(2, 4)) == "Truncation(depth=2, order=4)"
    assert eval(repr(Truncation(2, 4))) == Truncation(2, 4)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_forests_of_at_most_as_many_nodes_are_all_there(backend, depth, rng):
    x, y = walk(rng, 3, 6, 2), walk(rng, 3, 5, 2)
    found = kernel(x, y, depth, order=6, return_levels=True)
    every = kernel(x, y, math.inf, order=6, return_levels=True)
    np.testing.assert_allclose(found[:, : depth + 1], every[:, : depth + 1], rtol=1e-14)
    assert np.all(np.abs(found[:, depth + 1] / every[:, depth + 1] - 1) > 1e-3)  # chains of depth + 1 nodes are not


@pytest.mark.parametrize("rule", ["trapezoid", "left", "lobatto2"])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_many_nodes_make_the_kernel_of_the_depth(backend, depth, rule, rng):
    x, y = walk(rng, 3, 5, 2, size=0.5), walk(rng, 3, 6, 2, size=0.5)
    options = {"quadrature": rule}
    np.testing.assert_allclose(kernel(x, y, depth, order=24, **options), kernel(x, y, depth, **options), rtol=1e-12)
    found, wanted = (backprop(np.ones(3), x, y, depth, order=order, **options)[0] for order in (24, None))
    assert relative_to_path(found, wanted) < 1e-11


def test_the_parts_give_the_kernel_of_every_dilation(backend, rng):
    x, y = walk(rng, 3, 4, 2), walk(rng, 3, 5, 2)
    parts = kernel(x, y, 2, order=5, return_levels=True)
    for factor in (0.3, 1.7):
        wanted = parts @ (factor ** (2 * np.arange(6)))
        np.testing.assert_allclose(kernel(factor * x, factor * y, 2, order=5), wanted, rtol=1e-13)


@pytest.mark.parametrize("options", [{}, {"log": True}, {"return_grid": True}, {"return_levels": True}])
def test_of_depth_zero_there_is_the_empty_forest_alone(backend, options, rng):
    x, y = walk(rng, 3, 4, 2), walk(rng, 3, 5, 2)
    found = kernel(x, y, 0, order=3, **options)
    wanted = np.zeros_like(found)
    wanted[..., 0 if "return_levels" in options else slice(None)] = "log" not in options
    np.testing.assert_array_equal(found, wanted)
    for gradient in backprop(np.ones_like(found), x, y, 0, order=3, right_deriv=True, **options):
        assert not np.any(gradient)


@given(
    rule=st.sampled_from(sorted(RULES)),
    name=st.sampled_from([*sorted(STATIC_KERNELS), "quartic"]),
    form=st.sampled_from(["paired", "gram", "symmetric", "none"]),
    bounds=st.sampled_from([bounds for bounds in BOUNDS if bounds[0] > 0]),
    orders=st.sampled_from([(0, 0), (1, 1), (0, 1)]),
    mode=st.sampled_from(["value", "grid", "unit", "levels", "log", "grid of levels"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_values_and_gradients_under_any_options(backend, rule, name, form, bounds, orders, mode, seed):
    depth, order = bounds
    rng = np.random.default_rng(seed)
    x = walk(rng, 2, 3, 2, size=0.4)
    y = x if form in ("symmetric", "none") else walk(rng, 2, 4, 2, size=0.4)
    if form in ("symmetric", "none") and name == "matern12":
        name = "rbf"  # the other is not differentiable where points coincide
    static, kappa = kernel_and_formula(name)
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
    found, pullback = getattr(branchsig, function + "_vjp")(x, second, depth, orders, **options)
    np.testing.assert_array_equal(getattr(branchsig, function)(x, second, depth, orders, **options), found)
    derivs = rng.standard_normal(found.shape)
    pairs = [(0, 0), (1, 1)] if form == "paired" else list(np.ndindex(2, 2))

    def value(a, b):
        if mode.startswith("grid"):
            grid = wanted_grid(rule, a, b, depth, order, orders, kappa)
            return grid if mode.endswith("levels") else grid.sum(axis=-1)
        parts = wanted_parts(rule, a, b, depth, order, orders, kappa)
        if mode == "levels":
            return parts
        norm = 1.0
        if mode == "unit":
            own = [wanted_parts(rule, p, p, depth, order, (o, o), kappa) for p, o in zip((a, b), orders, strict=True)]
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
    d_x, d_y = getattr(branchsig, function + "_backprop")(derivs, x, second, depth, orders, **sides, **options)
    if form == "none":
        assert relative_to_path(d_x, left + right) < 1e-10
    else:
        assert relative_to_path(d_x, left) < 1e-10
        assert relative_to_path(d_y, right) < 1e-10
    assert relative_to_path(pullback(derivs)[0], d_x) < 1e-13


SIZES = [
    (3, 4, (0, 0)),
    (40, 45, (0, 0)),  # more than one block of columns, and not a whole number of bands
    (19, 70, (1, 0)),
    (9, 12, (0, 3)),
    (12, 9, (2, 1)),
    (10, 3, (3, 4)),  # cells that are wider than a block
]


@pytest.mark.parametrize(("depth", "order"), TRUNCATIONS)
@pytest.mark.parametrize(("length1", "length2", "orders"), SIZES)
@pytest.mark.parametrize("rule", ["trapezoid", "left", "lobatto2", "lobatto3", "lobatto4"])
def test_values_and_gradients_across_blocks_and_bands(core, depth, order, length1, length2, orders, rule, rng):
    x, y, direction = (walk(rng, 3, n, 2) for n in (length1, length2, length1))
    derivs = rng.standard_normal((3, order + 1))
    options = {"order": order, "quadrature": rule, "return_levels": True}
    found = kernel(x, y, depth, orders, **options)
    d_x, d_y = backprop(derivs, x, y, depth, orders, right_deriv=True, **options)
    swapped, _ = backprop(derivs, y, x, depth, orders[::-1], **options)
    assert relative_to_path(d_y, swapped) < 1e-11

    def value(path):
        return np.sum(derivs[1] * wanted_parts(rule, path, y[1], depth, order, orders))

    np.testing.assert_allclose(found[1], wanted_parts(rule, x[1], y[1], depth, order, orders).real, rtol=1e-11)
    wanted = slope(value, x[1], direction[1])
    assert abs(np.sum(d_x[1] * direction[1]) - wanted) < 1e-11 * np.sum(np.abs(d_x[1] * direction[1]))


@pytest.mark.parametrize("rule", ["trapezoid", "lobatto2"])
def test_rows_that_are_not_kept_for_the_gradient_are_recovered(core, rule, rng):
    x, y, direction = walk(rng, 1, 90, 2), walk(rng, 1, 70, 2), walk(rng, 1, 90, 2)
    found = backprop(np.ones(1), x, y, 6, (1, 1), order=11, quadrature=rule)[0]
    wanted = slope(lambda path: np.sum(wanted_parts(rule, path, y[0], 6, 11, (1, 1))), x[0], direction[0])
    assert abs(np.sum(found * direction) - wanted) < 1e-10 * np.sum(np.abs(found * direction))


@pytest.mark.parametrize(("depth", "order"), [(1, 3), (2, 4), (3, 4)])
@pytest.mark.parametrize("options", [{}, {"quadrature": "lobatto2"}, {"dyadic_order": (1, 0)}, {"return_grid": True}])
def test_padded_paths_have_the_values_and_gradients_of_the_paths(backend, depth, order, options, rng):
    lengths1, lengths2 = np.array([7, 1, 4, 5]), np.array([2, 6, 6, 3])
    x, y = walk(rng, 4, 7, 2), walk(rng, 4, 6, 2)
    for path, lengths in ((x, lengths1), (y, lengths2)):
        for one, length in zip(path, lengths, strict=True):
            one[length:] = np.nan
    options = {"order": order, "return_levels": True, **options}
    found = kernel(x, y, depth, lengths1=lengths1, lengths2=lengths2, **options)
    derivs = rng.standard_normal(found.shape)
    if "return_grid" in options:
        for one, length1, length2 in zip(derivs, lengths1, lengths2, strict=True):
            one[length1:] = one[:, length2:] = 0
    d_x, d_y = backprop(
        derivs, x, y, depth, lengths1=lengths1, lengths2=lengths2, right_deriv=True, check_finite=False, **options
    )
    for k, (length1, length2) in enumerate(zip(lengths1, lengths2, strict=True)):
        own = x[k, :length1], y[k, :length2]
        wanted, of_own = kernel(*own, depth, **options), derivs[k]
        if "return_grid" in options:
            of_own = of_own[:length1, :length2]
            np.testing.assert_allclose(found[k, :length1, :length2], wanted, rtol=1e-13, atol=1e-16)
        else:
            np.testing.assert_allclose(found[k], wanted, rtol=1e-13, atol=1e-16)
        for mine, its, length in zip(
            (d_x[k], d_y[k]),
            backprop(of_own, *own, depth, right_deriv=True, **options),
            (length1, length2),
            strict=True,
        ):
            assert not np.any(mine[length:])
            assert relative_to_path(mine[:length], its) < 1e-12


def test_neither_threads_nor_blocks_change_a_bit(core, rng):
    x, y = walk(rng, 23, 30, 2), walk(rng, 21, 28, 2)
    options = {"order": 5, "quadrature": "lobatto2"}
    wanted = gram(x, y, 2, **options)
    derivs = rng.standard_normal(wanted.shape)
    back = branchsig.branched_sig_kernel_gram_backprop
    gradient, _ = back(derivs, x, y, 2, **options)
    for how in ({"n_jobs": 2}, {"max_batch": 5}):
        np.testing.assert_array_equal(gram(x, y, 2, **how, **options), wanted)
        assert relative_to_path(back(derivs, x, y, 2, **how, **options)[0], gradient) < 1e-13


def test_single_precision_is_that_of_the_paths_alone(backend, rng):
    x, y = walk(rng, 3, 20, 2, dtype=np.float32), walk(rng, 3, 25, 2, dtype=np.float32)
    options = {"order": 5, "return_levels": True}
    found, pullback = branchsig.branched_sig_kernel_vjp(x, y, 3, **options)
    wanted = kernel(x.astype(float), y.astype(float), 3, **options)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted.astype(np.float32))
    derivs = np.ones_like(found)
    gradient = pullback(derivs)[0]
    assert gradient.dtype == np.float32
    double, _ = backprop(derivs.astype(float), x.astype(float), y.astype(float), 3, **options)
    assert relative_to_path(gradient, double) < 1e-6


@pytest.mark.filterwarnings("ignore:.*values.*(NaN|inf).*:RuntimeWarning")
@pytest.mark.parametrize("rule", ["trapezoid", "lobatto2", "lobatto3"])
@pytest.mark.parametrize(("depth", "order"), [(1, 5), (2, 5), (2, 8), (6, 8)])
def test_a_path_that_goes_back_has_the_value_of_a_point_or_none(backend, depth, order, rule, rng):
    out = walk(rng, 60, 7, 2, size=1.0) * np.geomspace(0.3, 1e4, 60)[:, None, None]
    x, y = np.concatenate([out, out[:, -2::-1]], axis=1), walk(rng, 60, 9, 2, size=3.0)
    options = {"order": order, "quadrature": rule}
    for log in (False, True):
        found = kernel(x, y, depth, log=log, **options)
        assert np.all(np.abs(found[np.isfinite(found)] - (not log)) <= 1e-4)
        assert np.isfinite(found[:10]).all()
    levels = kernel(x, y, depth, return_levels=True, **options)
    assert np.all(np.abs(levels - np.eye(order + 1)[0])[np.isfinite(levels)] <= 1e-4)
    assert np.isfinite(levels).sum() < levels.size
    gradient, _ = backprop(np.ones(60), x, y, depth, **options)
    kept = np.isfinite(kernel(x, y, depth, **options))
    np.testing.assert_array_equal(np.isfinite(gradient).all(axis=(1, 2)), kept)


@pytest.mark.parametrize(("depth", "order"), [(1, 3), (2, 4), (3, 5)])
@pytest.mark.parametrize("name", ["linear", "rbf", "quartic"])
def test_dilated_kernels_are_bounded_and_positive_semi_definite(backend, depth, order, name, rng):
    out = rng.standard_normal((4, 6, 2)).cumsum(axis=1)
    steps = rng.standard_normal((6, 11, 2)).cumsum(axis=1)
    paths = np.concatenate([steps, np.concatenate([out, out[:, -2::-1]], axis=1), 1e3 * steps[:1], np.ones((1, 11, 2))])
    static = kernel_and_formula(name)[0]
    options = {"order": order, "static_kernel": static, "normalize": "dilation"}
    found = gram(paths, None, depth, **options)
    assert np.all(np.abs(found) <= math.e * (1 + 1e-9))
    assert np.all(np.diagonal(found) >= 1 - 1e-9)
    np.testing.assert_allclose(np.diagonal(found)[:6], math.e, rtol=1e-9)  # these do not return
    assert np.linalg.eigvalsh(found).min() > -1e-12 * len(paths)
    np.testing.assert_array_equal(found[-1], np.ones(len(paths)))


@pytest.mark.parametrize(("depth", "order"), [(1, 3), (2, 5), (4, 6)])
def test_the_factor_of_a_dilation_is_the_root_of_a_polynomial(backend, depth, order, rng):
    x = rng.standard_normal((5, 8, 2)).cumsum(axis=1)
    factors = branchsig.dilation(x, depth, order=order, target=0.8)
    parts = kernel(x, x, depth, order=order, return_levels=True)
    squares = factors[:, None] ** (2 * np.arange(order + 1))
    np.testing.assert_allclose(np.sum(parts * squares, axis=1), math.exp(0.8), rtol=1e-11)
    scaled = factors[:, None, None] * x
    np.testing.assert_allclose(kernel(scaled, scaled, depth, order=order, log=True), 0.8, rtol=1e-11)


def test_of_depth_zero_the_factor_is_that_of_the_guard(backend, rng):
    x = rng.standard_normal((3, 8, 2)).cumsum(axis=1)
    found = branchsig.dilation(x, 0, order=4)
    np.testing.assert_array_equal(found, branchsig.dilation(x, 0, method="guard"))


@pytest.mark.parametrize("mode", [{}, {"return_levels": True}, {"return_grid": True}])
def test_gradients_through_dilations_equal_differences(backend, mode, rng):
    x, y, direction = (rng.standard_normal((2, 5, 2)).cumsum(axis=1) for _ in range(3))
    options = {"order": 4, "normalize": "dilation", **mode}
    value, pullback = branchsig.branched_sig_kernel_gram_vjp(x, y, 2, **options)
    derivs = rng.standard_normal(value.shape)
    step = 1e-3

    def at(t):
        return np.sum(derivs * gram(x + t * step * direction, y, 2, **options))

    wanted = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)
    assert np.sum(pullback(derivs)[0] * direction) == pytest.approx(wanted, rel=1e-8)


def test_means_of_kernels_are_those_of_gram_matrices(backend, rng):
    x, y = walk(rng, 5, 6, 2), walk(rng, 4, 7, 2)
    options = {"order": 4, "quadrature": "lobatto2"}
    xx, xy, yy = gram(x, x, 2, **options), gram(x, y, 2, **options), gram(y, y, 2, **options)

    def without_diagonal(matrix):
        return (matrix.sum() - np.trace(matrix)) / (len(matrix) * (len(matrix) - 1))

    wanted = without_diagonal(xx) + without_diagonal(yy) - 2 * xy.mean()
    assert branchsig.branched_sig_mmd(x, y, 2, **options) == pytest.approx(wanted, rel=1e-11)


def test_a_tolerance_ends_with_a_rule_that_is_exact(backend, rng):
    x, y = walk(rng, 3, 4, 2, size=1.5), walk(rng, 3, 5, 2, size=1.5)
    found = kernel(x, y, 2, order=4, rtol=1e-10)
    np.testing.assert_allclose(found, kernel(x, y, 2, order=4, quadrature="lobatto3"), rtol=1e-13)


def test_bounds_that_no_memory_holds_are_refused(core):
    x = np.arange(3.0)[:, None]
    for depth, order in ((10**6, 10**7), (10**9, 2 * 10**9)):
        with pytest.raises(MemoryError, match=f"order is {order} and depth is {depth}, .* Take a smaller order"):
            kernel(x, x, depth, order=order)


def test_neither_bound_may_be_out_of_range():
    x = np.zeros((3, 1))
    with pytest.raises(ValueError, match="depth is -1"):
        kernel(x, x, -1, order=4)
    with pytest.raises(ValueError, match="order is -1"):
        kernel(x, x, 3, order=-1)


@settings(max_examples=20)
@given(depth=st.integers(0, 8), order=st.integers(0, 8), seed=st.integers(0, 2**32 - 1))
def test_kernels_of_paths_with_themselves_grow_with_either_bound(backend, depth, order, seed):
    x = walk(np.random.default_rng(seed), 2, 6, 2)
    here = kernel(x, x, depth, order=order)
    assert np.all(here >= 1)
    assert np.all(kernel(x, x, depth + 1, order=order) >= here * (1 - 1e-14))
    assert np.all(kernel(x, x, depth, order=order + 1) >= here * (1 - 1e-14))
