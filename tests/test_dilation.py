"""Dilations: the factors of paths, the kernels of scaled paths, and gradients through the factors."""

import math
import warnings

import numpy as np
import pytest
from cases import QuarticKernel, relative_to_path, static_kernel, walk
from hypothesis import given, settings
from hypothesis import strategies as st

import branchsig
from branchsig import branched_sig_kernel as kernel
from branchsig import branched_sig_kernel_gram as gram
from branchsig.cli import demo

DEPTHS = [1, 2, 3, 4, 6, 8, math.inf]


def logarithms(x, factors, depth, **options):
    """log K(λx, λx) of a static kernel that is linear."""
    scaled = factors[..., None, None] * x
    return kernel(scaled, scaled, depth, log=True, **options)


def onward(x):
    """Paths that do not return: without a bound on the depth, one that does may blow up on its way."""
    return x + np.linspace(0, 2, x.shape[-2])[:, None]


@pytest.fixture(scope="module")
def motions():
    train, _, _, _ = demo.motions()
    return ((train - train.mean(axis=(0, 1))) / train.std(axis=(0, 1)))[::4]


@pytest.mark.parametrize("target", [0.05, 1.0, 7.0])
@pytest.mark.parametrize("depth", DEPTHS)
def test_scaled_paths_have_the_target(backend, depth, target, rng):
    x = onward(walk(rng, 3, 2, 6, 2)) * rng.lognormal(sigma=5, size=(3, 2, 1, 1))
    options = {}
    if depth == math.inf:
        # Near the blow-up the grid must be fine enough for the target to be reached before.
        options, target = {"quadrature": "lobatto3"}, min(target, 1.0)
    factors = branchsig.dilation(x, depth, target=target, room=50.0, **options)
    assert factors.shape == (3, 2)
    np.testing.assert_allclose(logarithms(x, factors, depth, **options), target, rtol=1e-10)


@pytest.mark.parametrize(
    ("dtype", "exponents"), [(np.float64, [-1000, -550, -300, 500, 1000]), (np.float32, [-120, -80, 60, 115])]
)
def test_no_scale_is_out_of_range(backend, dtype, exponents, rng):
    # Squares of these are 0 or infinite. Powers of two, so that not even the rounding of the paths differs.
    x = walk(rng, 2, 9, 2, dtype=dtype)
    wanted, pullback = branchsig.branched_sig_kernel_gram_vjp(x, None, 3, normalize="dilation")
    gradient, _ = pullback(np.ones_like(wanted))
    tolerance = 1e-12 if dtype is np.float64 else 1e-4
    for exponent in exponents:
        scale = dtype(2.0) ** dtype(exponent)
        mixed = np.full((2, 11, 2), np.finfo(dtype).max / 2, dtype=dtype)  # the last two points are padding
        mixed[:, :9] = x[0] * scale, x[1]
        options = {"normalize": "dilation", "lengths1": [9, 9]}
        found, pullback = branchsig.branched_sig_kernel_gram_vjp(mixed, None, 3, **options)
        np.testing.assert_allclose(found, wanted, rtol=tolerance)
        mine, _ = pullback(np.ones_like(wanted))
        mine[0] *= scale
        np.testing.assert_allclose(mine[:, :9], gradient, rtol=0, atol=tolerance * np.abs(gradient).max())
        assert not mine[:, 9:].any()


def test_depth_one_is_known_in_closed_form(backend, rng):
    x = walk(rng, 5, 7, 3)
    np.testing.assert_allclose(branchsig.dilation(x, 1), 1 / np.linalg.norm(x[:, -1] - x[:, 0], axis=1), rtol=1e-13)


def test_one_segment_without_truncation_is_known_in_closed_form(backend):
    # In many steps (1 - c/2)^-2 = e at c = λ² = 2 (1 - e^(-1/2)).
    # In one step c (1 - c/2)^-2 = 1/2 before, at λ = 2 - √2.
    factors = branchsig.dilation(np.linspace([0.0], [30.0], 12), math.inf, quadrature="lobatto8")
    assert factors == pytest.approx(math.sqrt(2 * (1 - math.exp(-0.5))) / 30, rel=1e-12)
    factors = branchsig.dilation(np.array([[[0.0], [1.0]], [[0.0], [-30.0]]]), math.inf, quadrature="lobatto8")
    np.testing.assert_allclose(factors, (2 - math.sqrt(2)) / np.array([1.0, 30.0]), rtol=1e-9)


@pytest.mark.parametrize("order", [1, 3, 6])
def test_with_an_order_the_factor_is_the_root_of_a_polynomial(backend, order, rng):
    x = walk(rng, 4, 6, 2, size=3.0)
    factors = branchsig.dilation(x, math.inf, order=order, target=0.8)
    np.testing.assert_allclose(logarithms(x, factors, math.inf, order=order), 0.8, rtol=1e-12)
    parts = kernel(x, x, math.inf, order=order, return_levels=True)
    for factor, part in zip(factors, parts):
        roots = np.polynomial.Polynomial([part[0] - math.exp(0.8), *part[1:]]).roots()
        positive = [root.real for root in roots if abs(root.imag) < 1e-9 * abs(root) and root.real > 0]
        assert factor**2 == pytest.approx(positive[0], rel=1e-8)


@pytest.mark.parametrize("factor", [1e-6, 0.3, 40.0, 1e9])
@pytest.mark.parametrize("depth", [1, 4, math.inf])
def test_the_kernel_does_not_see_the_scale_of_a_path(backend, depth, factor, rng):
    x, y = onward(walk(rng, 3, 6, 2)), onward(walk(rng, 3, 7, 2))
    options = {"normalize": "dilation", "quadrature": "lobatto2"}
    np.testing.assert_allclose(kernel(factor * x, y, depth, **options), kernel(x, y, depth, **options), rtol=1e-10)


@pytest.mark.parametrize("depth", [0, 1, 3, math.inf])
@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_paths_that_do_not_move_have_kernel_one(backend, depth, name, rng):
    x = walk(rng, 3, 5, 2)
    x[1] = 3.0
    options = {"static_kernel": static_kernel(name)[0]}
    assert branchsig.dilation(x, depth, **options)[1] == 1.0
    found = gram(x, None, depth, normalize="dilation", quadrature="lobatto2", **options)
    np.testing.assert_array_equal(found[1], np.ones(3))
    gradient, _ = branchsig.branched_sig_kernel_gram_backprop(
        np.ones((3, 3)), x, None, depth, normalize="dilation", **options
    )
    assert np.all(np.isfinite(gradient))


def test_closed_paths_at_depth_one_are_bounded_by_their_farthest_point(backend):
    # log K of a prefix is the squared distance of its ends there.
    x = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    assert branchsig.dilation(x, 1) == pytest.approx(math.sqrt(10.0) / 2, rel=1e-13)
    assert branchsig.dilation(x, 1, target=2.0, room=4.0) == pytest.approx(math.sqrt(6.0) / 2, rel=1e-13)
    assert kernel(x, x, 1, normalize="dilation") == pytest.approx(1.0)


@pytest.mark.parametrize("options", [{"depth": 0}, {"depth": math.inf, "order": 0}])
@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_kernels_that_are_one_whatever_the_factor_have_that_of_the_guard(backend, options, name, rng):
    x = walk(rng, 3, 5, 2)
    options = options | {"static_kernel": static_kernel(name)[0]}
    np.testing.assert_array_equal(branchsig.dilation(x, **options), branchsig.dilation(x, method="guard", **options))


def test_a_path_that_blows_up_on_its_way_keeps_a_finite_kernel(backend):
    # Out by three large steps and back: on this coarse grid the cell equation of the turn has no solution before the
    # end has the target.
    x = np.array([[0.0], [1.0], [2.0], [3.0], [0.1]])
    factor = branchsig.dilation(x, math.inf)
    value = kernel(factor * x, factor * x, math.inf, log=True)
    assert 0 < value <= 1.0 + 1e-10


def _check_limits(log_k, x, depth, orders=0, static=None, room=9.0):
    """log K of each path with itself is 1, or that of a prefix is 1 + room."""
    options = {"static_kernel": static, "normalize": "dilation", "return_grid": True, "log": True}
    prefixes = np.diagonal(kernel(x, x, depth, orders, **options), axis1=1, axis2=2)[:, :: 2**orders]
    np.testing.assert_allclose(prefixes[:, -1], np.diagonal(log_k), atol=1e-9)
    assert prefixes.max() <= (1 + room) * (1 + 1e-9)
    reached = np.maximum(prefixes[:, -1], prefixes.max(axis=1) / (1 + room))
    np.testing.assert_allclose(reached, 1.0, rtol=1e-9)


@pytest.mark.parametrize("name", ["linear", "rbf", "polynomial", "quartic"])
@pytest.mark.parametrize("depth", [1, 3, 5])
@pytest.mark.parametrize("orders", [0, 1, (0, 1)])
def test_no_logarithm_exceeds_the_target_and_grams_are_positive_semi_definite(backend, name, depth, orders, rng):
    x = walk(rng, 12, 6, 2, size=4.0)
    static = QuarticKernel() if name == "quartic" else static_kernel(name)[0]
    options = {"static_kernel": static, "normalize": "dilation"}
    log_k = gram(x, None, depth, orders, log=True, **options)
    assert np.abs(log_k).max() <= 1.0 + 1e-10
    if orders in (0, 1):
        _check_limits(log_k, x, depth, orders, static)
        matrix = gram(x, None, depth, orders, **options)
        np.testing.assert_allclose(matrix, np.exp(log_k), rtol=1e-13)
        np.testing.assert_array_equal(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix).min() > -1e-12


@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_the_static_kernel_is_scaled_by_both_factors(backend, name, rng):
    x, y = walk(rng, 2, 5, 2, size=3.0), walk(rng, 2, 4, 2, size=3.0)
    static = static_kernel(name)[0]
    factor1, factor2 = (branchsig.dilation(path, 3, static_kernel=static) for path in (x, y))

    class Scaled(branchsig.StaticKernel):
        def __call__(self, ctx, a, b):
            return scale * static(branchsig.Context(), a, b)

    found = gram(x, y, 3, static_kernel=static, normalize="dilation")
    for i, j in np.ndindex(2, 2):
        scale = factor1[i] * factor2[j]
        assert found[i, j] == pytest.approx(kernel(x[i], y[j], 3, static_kernel=Scaled()), rel=1e-12)


@pytest.mark.parametrize("name", ["linear", "rbf"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6, 7, 8])
def test_recorded_motions_are_finite_at_every_depth(motions, depth, name):
    static = branchsig.RBFKernel(sigma=5.0) if name == "rbf" else None
    log_k = gram(motions, None, depth, static_kernel=static, normalize="dilation", log=True)
    assert np.abs(log_k).max() <= 1.0 + 1e-10
    _check_limits(log_k, motions, depth, static=static)


@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_recorded_motions_are_finite_without_a_bound_on_the_depth(motions, name):
    static = branchsig.RBFKernel(sigma=5.0) if name == "rbf" else None
    log_k = gram(motions[::3, ::3], None, math.inf, static_kernel=static, normalize="dilation", log=True)
    assert np.abs(log_k).max() <= 1.0 + 1e-10


@pytest.mark.parametrize("target", [0.2, 1.0])
@pytest.mark.parametrize("kind", ["walk", "walk, rbf", "line", "noise", "loop", "motions"])
def test_the_search_takes_few_kernels_of_a_path(backend, kind, target, motions, rng, monkeypatch):
    x = walk(rng, 12, 30, 3)
    if kind == "line":
        x = np.linspace(0, 1, 30)[:, None] * x[:, -1:]
    elif kind == "noise":
        x = rng.standard_normal(x.shape)
    elif kind == "loop":
        x = x * np.sin(np.linspace(0, math.pi, 30))[:, None]
    elif kind == "motions":
        x = motions
    solved = []
    solve = type(backend).solve

    def counted(self, problem, want, **options):
        paths, length = problem.path1.shape[:2]
        solved.append(paths * (length - 1) ** 2)
        return solve(self, problem, want, **options)

    monkeypatch.setattr(type(backend), "solve", counted)
    branchsig.dilation(x, 4, target=target, static_kernel=static_kernel("rbf")[0] if kind == "walk, rbf" else None)
    cells = len(x) * (x.shape[1] - 1) ** 2
    assert sum(solved) <= (10 if kind == "loop" else 8) * cells


@pytest.mark.parametrize("rule", ["trapezoid", "left", "lobatto2", "lobatto7"])
@pytest.mark.parametrize("depth", [1, 2, 5, 12, math.inf])
@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_the_guard_bounds_every_logarithm_at_every_depth(backend, rule, depth, name, rng):
    x = walk(rng, 4, 5, 2, size=3.0)
    x[0] = [[0.0, 0.0]] + [[1.0, 1.0]] * 4  # one large step: the hardest case
    options = {"static_kernel": static_kernel(name)[0], "quadrature": rule}
    for target in (0.2, 1.0, 3.0):
        guard = branchsig.dilation(x, depth, target=target, method="guard", **options)
        if depth < math.inf:  # there coarse cells ask for less
            assert np.all(guard <= branchsig.dilation(x, depth, target=target, **options) * (1 + 1e-12))
        if name == "linear":
            scaled = guard[:, None, None] * x
            assert np.abs(gram(scaled, None, depth, log=True, **options)).max() <= min(target, 1.0)
            variation = np.linalg.norm(np.diff(x, axis=1), axis=2).sum(axis=1)
            t = min(target, 1.0)
            np.testing.assert_allclose(guard * variation, math.sqrt(t * math.exp(-t)), rtol=1e-12)


@pytest.mark.parametrize("size", [0.5, 1.0, 1.4])
def test_the_kernel_of_unbounded_depth_is_at_most_that_of_segments_of_the_same_length(backend, size, rng):
    # K <= (1 - ab/2)^-2 for 1-variations a, b, the value of two parallel segments; near its continuous limit.
    x, y = walk(rng, 20, 5, 2), walk(rng, 20, 6, 2)
    x, y = (size * p / np.linalg.norm(np.diff(p, axis=1), axis=2).sum(axis=1)[:, None, None] for p in (x, y))
    found = kernel(x, y, math.inf, 2, quadrature="lobatto4")
    assert found.max() <= (1 - size**2 / 2) ** -2


def numerical(function, path, direction, step=1e-4):
    """The derivative along a direction by central differences of fourth order."""
    values = [function(path + k * step * direction) for k in (-2, -1, 1, 2)]
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)


@settings(max_examples=25)
@given(
    name=st.sampled_from(["linear", "scaled_linear", "rbf", "polynomial", "quartic"]),
    form=st.sampled_from(["paired", "gram", "itself", "none"]),
    depth=st.sampled_from([1, 2, 4, math.inf]),
    orders=st.sampled_from([(0, 0), (1, 1), (0, 1)]),
    order=st.sampled_from([None, None, 3]),
    rule=st.sampled_from(["trapezoid", "left", "lobatto2"]),
    mode=st.sampled_from(["value", "log", "grid", "levels"]),
    extra=st.sampled_from([{}, {"time_aug": True, "end_time": 0.5}, {"lead_lag": True}]),
    seed=st.integers(0, 2**32 - 1),
)
def test_gradients_through_the_factors_equal_differences(
    backend, name, form, depth, orders, order, rule, mode, extra, seed
):
    rng = np.random.default_rng(seed)
    x = onward(walk(rng, 2, 3, 2))
    y = x if form in ("itself", "none") else onward(walk(rng, 2, 4, 2))
    depth = depth if order is None else math.inf
    if depth == math.inf and order is None:
        rule, orders = "lobatto2", (1, 1)  # fine enough to reach the target before a blow-up
    options = {
        "static_kernel": QuarticKernel() if name == "quartic" else static_kernel(name)[0],
        "quadrature": rule,
        "order": order,
        "normalize": "dilation",
        "log": mode == "log",
        "return_grid": mode == "grid",
        "return_levels": mode == "levels" and order is not None,
        **extra,
    }
    function = getattr(branchsig, "branched_sig_kernel" if form == "paired" else "branched_sig_kernel_gram")
    backward = getattr(branchsig, function.__name__ + "_backprop")
    second = None if form == "none" else y
    directions = rng.standard_normal(x.shape), rng.standard_normal(y.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the logarithm of an order may be NaN
        derivs = rng.standard_normal(function(x, second, depth, orders, **options).shape)

        def output(a, b):
            return np.sum(derivs * function(a, b, depth, orders, **options))

        if form == "none":
            found = backward(derivs, x, None, depth, orders, **options)[:1]
            wanted = [numerical(lambda p: output(p, None), x, directions[0])]
        else:
            found = backward(derivs, x, y, depth, orders, right_deriv=True, **options)
            wanted = [
                numerical(lambda p: output(p, y.copy()), x, directions[0]),
                numerical(lambda p: output(x.copy(), p), y, directions[1]),
            ]
    for mine, its, direction in zip(found, wanted, directions):
        if np.isfinite(its):
            scale = max(1.0, np.abs(mine).max())
            assert np.sum(mine * direction) == pytest.approx(its, abs=1e-7 * scale)


def test_no_gradient_flows_along_the_path_itself(backend, rng):
    # The kernel does not see the scale of x, so its derivative in the direction of x is 0.
    x, y = walk(rng, 3, 6, 2), walk(rng, 3, 5, 2)
    gradient, _ = branchsig.branched_sig_kernel_backprop(np.ones(3), x, y, 4, normalize="dilation")
    along = np.sum(gradient * x, axis=(1, 2))
    assert np.abs(along).max() < 1e-12 * np.abs(gradient).max() + 1e-13
    _, pullback = branchsig.branched_sig_kernel_vjp(x, y, 4, normalize="dilation")
    assert relative_to_path(pullback(np.ones(3))[0], gradient) < 1e-13


@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_padded_paths_have_the_factors_of_the_paths(backend, name, rng):
    x = walk(rng, 2, 6, 2, size=2.0)
    x[0, 4:] = np.nan
    options = {"static_kernel": static_kernel(name)[0]}
    factors = branchsig.dilation(x, 3, lengths=[4, 6], **options)
    assert factors[0] == pytest.approx(float(branchsig.dilation(x[0, :4], 3, **options)), rel=1e-12)
    found = gram(x, None, 3, lengths1=[4, 6], normalize="dilation", **options)
    assert found[1, 0] == pytest.approx(float(kernel(x[1], x[0, :4], 3, normalize="dilation", **options)), rel=1e-12)
    gradient, _ = branchsig.branched_sig_kernel_gram_backprop(
        np.ones((2, 2)), x, None, 3, lengths1=[4, 6], normalize="dilation", **options
    )
    assert np.all(np.isfinite(gradient))
    assert not np.any(gradient[0, 4:])


@pytest.mark.filterwarnings(r"ignore:path1\[1\] holds NaN")
def test_a_nan_stays_with_the_pairs_of_its_path(backend, rng):
    x = walk(rng, 3, 5, 2)
    x[1, 2, 0] = np.nan
    found = gram(x, None, 3, normalize="dilation")
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[::2, ::2]).all()


def test_single_precision_is_that_of_the_paths_alone(backend, rng):
    x = walk(rng, 4, 20, 2, size=3.0, dtype=np.float32)
    single = branchsig.dilation(x, 4)
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, branchsig.dilation(x.astype(np.float64), 4).astype(np.float32))
    found = gram(x, None, 4, normalize="dilation", log=True)
    np.testing.assert_array_equal(found, gram(x.astype(float), None, 4, normalize="dilation", log=True).astype("f4"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": 0.0}, ValueError, "target is 0.0"),
        ({"target": math.inf}, ValueError, "target is inf"),
        ({"target": "one"}, TypeError, "target is 'one'"),
        ({"room": 0.0}, ValueError, "room is 0.0: expected a finite number > 0"),
        ({"room": math.inf}, ValueError, "room is inf"),
        ({"room": "much"}, TypeError, "room is 'much'"),
        ({"method": "newton"}, ValueError, 'method is \'newton\': expected "solve" or "guard"'),
        ({"dyadic_order": (0, 1)}, ValueError, r"dyadic_order is \(0, 1\): expected one order"),
        ({"lengths1": [1]}, TypeError, "unexpected keyword argument 'lengths1'"),
    ],
)
def test_wrong_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        branchsig.dilation(np.ones((1, 3, 1)), 3, **options)


def test_an_unknown_normalisation_is_refused():
    x = np.ones((3, 1))
    with pytest.raises(ValueError, match="normalize is 'unit': expected False, True or \"dilation\""):
        kernel(x, x, 2, normalize="unit")
    with pytest.raises(ValueError, match="normalize='dilation' with k_stack"):
        branchsig.branched_sig_kernel_backprop(
            np.asarray(1.0), x, x, 2, normalize="dilation", k_stack=np.ones((3, 3, 3))
        )
