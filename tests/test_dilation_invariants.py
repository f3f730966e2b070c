"""What holds of dilated kernels whatever the paths: those that return, that stand still, and those of any size."""

import math

import numpy as np
import pytest
from cases import QuarticKernel, static_kernel
from hypothesis import example, given, settings
from hypothesis import strategies as st

import branchsig
from branchsig import branched_sig_kernel as kernel
from branchsig import branched_sig_kernel_gram as gram
from branchsig import branched_sig_kernel_gram_backprop as gram_backprop


def rounding(order):
    """What log K may be off by where that of a prefix is 10: about 1e-16 e^10, in a sum over nodes in every term."""
    return 1e-11 if order is None else 1e-9


def returning(points):
    return np.concatenate([points, points[-2::-1]])


def zoo(rng, dimension, length=13):
    """Paths of all kinds, of one length."""
    walks = rng.standard_normal((6, length, dimension)).cumsum(axis=1)
    half = length // 2 + 1
    t = np.linspace(0, 1, length)[:, None]
    signs = rng.choice([-1.0, 1.0], (2, length, dimension)).cumsum(axis=1)
    out_and_back = [returning(walk[:half]) for walk in walks[:3]]
    return np.stack(
        [
            *walks[3:],
            *out_and_back,
            out_and_back[0] + 1e-8 * walks[3],
            out_and_back[1] + 1e-3 * walks[4],
            out_and_back[2] + 0.1 * walks[5],
            *signs,
            np.round(2 * walks[0]),
            np.sin(2 * np.pi * t) + np.zeros(dimension),
            np.sin(6 * np.pi * t + np.arange(dimension)),
            t * np.ones(dimension),
            np.ones((length, dimension)),
            1e60 * walks[1],
            1e-7 * walks[2],
            1e-150 * walks[4],
            1e60 * out_and_back[1],
            1e-150 * out_and_back[2],
        ]
    )


LIMITED = {"linear", "scaled_linear"}  # kernels whose features are of any size


@settings(max_examples=25)
@given(
    name=st.sampled_from(["linear", "linear", "rbf", "matern12", "matern32", "rational_quadratic", "quartic"]),
    dimension=st.integers(1, 3),
    depth=st.sampled_from([1, 2, 3, 4, 5, math.inf]),
    order=st.sampled_from([None, None, None, 1, 3, 5]),
    rule=st.sampled_from(["trapezoid", "left", "lobatto2", "lobatto3"]),
    dyadic=st.sampled_from([0, 0, 1, 2, (0, 1), (2, 1)]),
    ragged=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@example(name="linear", dimension=1, depth=2, order=None, rule="trapezoid", dyadic=0, ragged=False, seed=0)
@example(name="linear", dimension=1, depth=math.inf, order=None, rule="trapezoid", dyadic=0, ragged=False, seed=0)
@example(name="linear", dimension=1, depth=math.inf, order=None, rule="lobatto3", dyadic=1, ragged=True, seed=1)
@example(name="linear", dimension=1, depth=math.inf, order=5, rule="trapezoid", dyadic=0, ragged=False, seed=0)
@example(name="rbf", dimension=1, depth=5, order=None, rule="left", dyadic=0, ragged=False, seed=2)
def test_kernels_lie_within_the_bounds_and_grams_are_positive_semi_definite(
    name, dimension, depth, order, rule, dyadic, ragged, seed
):
    rng = np.random.default_rng(seed)
    x = zoo(rng, dimension)
    if name not in LIMITED:
        x = x[:-5]  # of kernels that are not linear in the paths, the size of a path is no factor
    options = {
        "static_kernel": QuarticKernel() if name == "quartic" else static_kernel(name)[0],
        "quadrature": rule,
        "order": order,
        "dyadic_order": dyadic,
        "normalize": "dilation",
        "depth": depth if order is None else math.inf,
        "lengths1": rng.integers(1, 14, len(x)) if ragged else None,
    }
    matrix = gram(x, None, **options)
    assert np.all(np.isfinite(matrix))
    largest = math.e * (1 + rounding(order))
    assert np.abs(matrix).max() <= largest
    if order is None:
        assert matrix.min() >= 1 / largest
    if isinstance(dyadic, int):
        assert np.diagonal(matrix).min() >= 1 - rounding(order)
        assert np.linalg.eigvalsh(matrix).min() > -len(x) * rounding(order)
    if isinstance(dyadic, int) or dyadic == (2, 1):
        options["lengths1"] = options["lengths2"] = None
        grid = kernel(x, x[::-1].copy(), return_grid=True, **options)
        assert np.all(np.isfinite(grid))
        # At the points of the paths; between them a refined path has no bound of its own.
        steps = (dyadic, dyadic) if isinstance(dyadic, int) else dyadic
        assert np.abs(grid[:, :: 2 ** steps[0], :: 2 ** steps[1]]).max() <= math.exp(10) * (1 + 1e-6)


@pytest.mark.parametrize("options", [{}, {"depth": math.inf}, {"depth": math.inf, "order": 4}, {"dyadic_order": 1}])
def test_the_bound_that_is_reached_is_that_of_a_prefix_where_a_path_returns(backend, options, rng):
    options = {"depth": 2, **options}
    x = returning(np.linspace(0, 1, 9)[:, None] * [1.0, -2.0])
    for target, room in ((1.0, 9.0), (0.5, 2.0)):
        factor = branchsig.dilation(x, target=target, room=room, **options)
        out, back = factor * x[:9], factor * x
        assert kernel(back, back, **options) == pytest.approx(1.0, abs=1e-10)
        if options["depth"] < math.inf or "order" in options:
            assert kernel(out, out, log=True, **options) == pytest.approx(target + room, rel=1e-9)


def test_without_truncation_no_diagonal_cell_is_coarse(backend, rng):
    x = rng.choice([-1.0, 1.0], (5, 30, 1)).cumsum(axis=1)
    for rule, order in (("trapezoid", 0), ("lobatto2", 0), ("trapezoid", 2)):
        options = {"quadrature": rule, "dyadic_order": order}
        scaled = branchsig.dilation(x, math.inf, **options)[:, None, None] * x
        grid = kernel(scaled, scaled, math.inf, return_grid=True, **options)
        k = np.diagonal(grid, axis1=1, axis2=2)[:, :: 2**order]
        cells = np.diff(scaled[:, :, 0], axis=1) ** 2 / 4**order * np.maximum(k[:, :-1], k[:, 1:])
        assert cells.max() <= 0.5 * (1 + 1e-9)


@pytest.mark.parametrize("depth", [1, 2, 4, math.inf])
@pytest.mark.parametrize("scale", [3.7, 1e-7, 1e55])
def test_the_kernel_does_not_see_the_size_of_paths_of_any_kind(depth, scale, rng):
    x = zoo(rng, 2)[:-3]
    factors, scaled = branchsig.dilation(x, depth), branchsig.dilation(scale * x, depth)
    moving = np.ptp(x, axis=1).max(axis=1) > 0
    np.testing.assert_allclose((scale * scaled)[moving], factors[moving], rtol=1e-9)
    found = gram(scale * x, None, depth, normalize="dilation")
    np.testing.assert_allclose(found, gram(x, None, depth, normalize="dilation"), rtol=1e-7)


@pytest.mark.parametrize("depth", [1, 3, math.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_translation_that_leaves_the_steps_exact_changes_no_bit(backend, depth, dtype, rng):
    x = (rng.integers(-200, 200, (6, 12, 2)).cumsum(axis=1) / 128).astype(dtype)
    x[0, 6:] = x[0, 5::-1]
    moved = x + dtype(65536.0 if dtype is np.float32 else 1e11)
    np.testing.assert_array_equal(np.diff(moved, axis=1), np.diff(x, axis=1))
    np.testing.assert_array_equal(branchsig.dilation(moved, depth), branchsig.dilation(x, depth))
    for options in ({}, {"order": 3, "depth": math.inf}):
        options = {"depth": depth, "normalize": "dilation"} | options
        np.testing.assert_array_equal(gram(moved, None, **options), gram(x, None, **options))
        derivs = rng.standard_normal((6, 6)).astype(dtype)
        found, wanted = (gram_backprop(derivs, p, None, **options)[0] for p in (moved, x))
        np.testing.assert_array_equal(found, wanted)
        assert np.abs(wanted.sum(axis=1)).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("name", ["rbf", "matern32", "matern52", "rational_quadratic"])
def test_short_steps_of_float32_reach_the_target(backend, name, rng):
    static = static_kernel(name)[0]
    x = (1e-4 * rng.standard_normal((4, 10, 2)).cumsum(axis=1) + np.linspace(0, 1e-3, 10)[:, None]).astype(np.float32)
    log_k = kernel(x, x, 3, static_kernel=static, normalize="dilation", log=True)
    np.testing.assert_allclose(log_k, 1.0, rtol=1e-5)


@pytest.mark.parametrize("depth", [2, 3, math.inf])
def test_factors_of_paths_near_one_that_returns_are_smooth(backend, depth, rng):
    out = rng.standard_normal((10, 1)).cumsum(axis=0)
    loop, drift = returning(out), np.linspace(0, 1, 19)[:, None]
    exact = branchsig.dilation(loop, depth)
    sizes = 10.0 ** -np.arange(3, 13)
    near = branchsig.dilation(loop + sizes[:, None, None] * drift, depth)
    slopes = (near - exact) / (sizes * exact)
    # The derivative itself, up to rounding and curvature.
    assert np.abs(slopes[:7] - slopes[4]).max() < 1e-2 * (1 + np.abs(slopes[4]))
    assert np.abs(near[-1] / exact - 1) < 1e-9


def numerical(function, path, direction, step=1e-5):
    """The derivative along a direction by central differences of fourth order."""
    values = [function(path + k * step * direction) for k in (-2, -1, 1, 2)]
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)


@pytest.mark.parametrize("options", [{}, {"depth": 1}, {"depth": math.inf}, {"depth": math.inf, "order": 3}])
@pytest.mark.parametrize("name", ["linear", "rbf", "quartic"])
@pytest.mark.parametrize("orders", [0, 1, (1, 0)])
@pytest.mark.parametrize("rule", ["trapezoid", "lobatto2"])
def test_gradients_through_prefixes_and_cells_equal_differences(options, name, orders, rule, rng):
    out = rng.standard_normal((3, 5, 2)).cumsum(axis=1)
    x = np.concatenate([out, out[:, -2::-1]], axis=1) + 0.05 * rng.standard_normal((3, 9, 2))
    static = QuarticKernel() if name == "quartic" else static_kernel(name)[0]
    options = {"depth": 3, "dyadic_order": orders, "static_kernel": static, "quadrature": rule} | options
    options |= {"normalize": "dilation", "lengths1": [9, 9, 7]}
    derivs, direction = rng.standard_normal((3, 3)), rng.standard_normal(x.shape)
    gradient, _ = gram_backprop(derivs, x, None, **options)
    wanted = numerical(lambda p: np.sum(derivs * gram(p, None, **options)), x, direction)
    assert np.sum(gradient * direction) == pytest.approx(wanted, abs=1e-6 * np.abs(gradient).max())


def test_factors_depend_neither_on_threads_nor_on_the_other_paths(rng):
    x = zoo(rng, 2, 41)
    for depth in (3, math.inf):
        together = branchsig.dilation(x, depth)
        np.testing.assert_array_equal(branchsig.dilation(x, depth, n_jobs=2), together)
        np.testing.assert_array_equal([branchsig.dilation(path, depth) for path in x], together)
        np.testing.assert_array_equal(branchsig.dilation(x[::-1].copy(), depth)[::-1], together)
