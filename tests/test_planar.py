"""Ordered forests of planar trees: the signature kernel and its deeper relatives."""

import dataclasses
import itertools
import math

import array_api_strict
import numpy as np
import pytest
from numpy.polynomial import Polynomial

import branchsig
from branchsig import branched_sig_kernel as kernel
from branchsig import branched_sig_kernel_gram as gram

BY_DEPTH = [(1, "trapezoid"), (3, "trapezoid"), (1, "left"), (3, "left")]
TRUNCATIONS = [
    *({"depth": depth, "quadrature": rule} for depth, rule in BY_DEPTH),
    {"order": 4, "quadrature": "lobatto3"},
    {"depth": 2, "order": 4},
]


def paths(seed, *shape, scale=0.3):
    return np.random.default_rng(seed).standard_normal(shape).cumsum(-2) * scale


# Ordered forests, one by one. A forest is a tuple of trees, a tree (label, forest below its root). A tree is grafted to
# the end of a word: X(f' B_a(f'')) = integral of X(f') X(f'') dx^a.


def forests(nodes, labels):
    """All ordered forests with a number of nodes."""
    if nodes == 0:
        yield ()
        return
    for below in range(nodes):
        for first in forests(nodes - 1 - below, labels):
            for children in forests(below, labels):
                for label in range(labels):
                    yield (*first, (label, children))


def depth_of(forest):
    return max((1 + depth_of(children) for _, children in forest), default=0)


def ito(path):
    """The discrete Itô signature: values at all points of a path, by forest."""
    known = {(): np.ones(len(path))}

    def value(forest):
        if forest not in known:
            label, children = forest[-1]
            terms = value(forest[:-1])[:-1] * value(children)[:-1] * np.diff(path[:, label])
            known[forest] = np.concatenate([[0.0], np.cumsum(terms)])
        return known[forest]

    return lambda forest: value(forest)[-1]


def exact(path):
    """The signature of a piecewise linear path, whose entries are polynomials on every segment."""
    steps = np.diff(path, axis=0)
    known = {(): [Polynomial([1.0])] * len(steps)}

    def value(forest):
        if forest not in known:
            label, children = forest[-1]
            pieces, start = [], 0.0
            for first, second, step in zip(value(forest[:-1]), value(children), steps[:, label], strict=True):
                pieces.append((first * second * step).integ() + start)
                start = pieces[-1](1.0)
            known[forest] = pieces
        return known[forest]

    return lambda forest: value(forest)[-1](1.0)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_left_point_rule_is_the_inner_product_of_discrete_ito_signatures(depth):
    # A forest of a path with n steps has at most 2^n - 1 nodes.
    for points1, points2, dimension in ((3, 6, 2), (4, 4, 1)):
        x, y = paths(points1, points1, dimension, scale=0.8), paths(points2 + 9, points2, dimension, scale=0.8)
        of_x, of_y = ito(x), ito(y)
        expected = sum(
            of_x(forest) * of_y(forest)
            for nodes in range(2 ** (points1 - 1))
            for forest in forests(nodes, dimension)
            if depth_of(forest) <= depth
        )
        value = kernel(x, y, depth, quadrature="left", planar=True)
        assert value == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("depth", [1, 2, 3, math.inf])
def test_lobatto_rules_by_nodes_are_exact_on_piecewise_linear_paths(depth):
    x, y = paths(0, 4, 2, scale=0.7), paths(1, 3, 2, scale=0.7)
    of_x, of_y = exact(x), exact(y)
    expected = [
        sum(of_x(forest) * of_y(forest) for forest in forests(nodes, 2) if depth_of(forest) <= depth)
        for nodes in range(5)
    ]
    options = {"order": 4, "quadrature": "lobatto3", "planar": True}
    components = kernel(x, y, depth, return_levels=True, **options)
    np.testing.assert_allclose(components, expected, rtol=1e-12, atol=1e-14)
    assert kernel(x, y, depth, **options) == pytest.approx(sum(expected), rel=1e-13)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_refined_trapezoid_rules_approach_the_exact_kernel(depth):
    x, y = paths(2, 4, 2, scale=0.15), paths(3, 3, 2, scale=0.15)
    expected = kernel(x, y, depth, order=9, quadrature="lobatto8", planar=True)
    errors = [abs(kernel(x, y, depth, order, planar=True) - expected) for order in (4, 5, 6)]
    assert errors[2] < 1e-8
    assert all(3.8 < coarse / fine < 4.1 for coarse, fine in itertools.pairwise(errors))


@pytest.mark.parametrize("c", [-3.0, -0.5, 0.1, 2.0])
def test_one_segment_has_closed_forms(c):
    x, y = np.array([[0.0], [1.0]]), np.array([[0.0], [c]])
    components = kernel(x, y, 1, order=7, quadrature="lobatto6", planar=True, return_levels=True)
    np.testing.assert_allclose(components, [c**n / math.factorial(n) ** 2 for n in range(8)], rtol=1e-13, atol=1e-15)
    assert kernel(x, y, 1, planar=True) == pytest.approx(1 + c + c**2 / 4, rel=1e-14)
    assert kernel(x, y, 5, quadrature="left", planar=True) == 1 + c
    bessel = sum(c**n / math.factorial(n) ** 2 for n in range(40))
    assert kernel(x, y, 1, 9, planar=True) == pytest.approx(bessel, rel=2e-6, abs=2e-6)


def configurations(pysiglib, count):
    rng = np.random.default_rng(7)
    for _ in range(count):
        batch, length1, length2, dimension = (int(n) for n in rng.integers((1, 2, 2, 1), (4, 14, 14, 5)))
        x, y = (
            rng.standard_normal((batch, n, dimension)).cumsum(1) * 10 ** rng.uniform(-2, 0) for n in (length1, length2)
        )
        kernels = [(None, None), (branchsig.RBFKernel(0.7), pysiglib.RBFKernel(0.7))]
        own, other = kernels[rng.integers(2)]
        orders = tuple(int(n) for n in rng.integers(0, 3, 2))
        options = {"time_aug": bool(rng.integers(2)), "lead_lag": bool(rng.integers(2))}
        yield x, y, orders, own, other, options, rng


def close(value, expected):
    """Whether arrays agree to 1e-11 of the largest entry or of 1."""
    return np.max(np.abs(value - expected)) <= 1e-11 * max(1.0, np.max(np.abs(expected)))


def test_depth_1_is_pysiglib_value_for_value(pysiglib):
    for x, y, orders, own, other, options, rng in configurations(pysiglib, 200):
        ours = {"planar": True, "static_kernel": own, **options}
        theirs = {"dyadic_order": orders, "static_kernel": other, **options}
        grid = bool(rng.integers(2))
        value = kernel(x, y, 1, orders, return_grid=grid, **ours)
        assert close(value, pysiglib.sig_kernel(x, y, return_grid=grid, **theirs))
        derivs = rng.standard_normal(value.shape)
        found = branchsig.branched_sig_kernel_backprop(
            derivs, x, y, 1, orders, return_grid=grid, right_deriv=True, **ours
        )
        expected = pysiglib.sig_kernel_backprop(derivs, x, y, return_grid=grid, right_deriv=True, **theirs)
        assert close(found[0], expected[0])
        assert close(found[1], expected[1])
        assert close(gram(x, y, 1, orders, **ours), pysiglib.sig_kernel_gram(x, y, **theirs))


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_gram_matrices_hold_the_kernels_of_pairs(truncation):
    x, y = paths(0, 4, 6, 2), paths(1, 3, 5, 2)
    value = gram(x, y, planar=True, **truncation)
    for i, j in np.ndindex(4, 3):
        assert value[i, j] == kernel(x[i], y[j], planar=True, **truncation)
    square = gram(x, None, planar=True, **truncation)
    np.testing.assert_allclose(square, gram(x, x.copy(), planar=True, **truncation), rtol=1e-14)


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_a_translation_changes_nothing(truncation):
    x, y = np.round(paths(2, 3, 6, 2) * 64) / 64, np.round(paths(3, 3, 5, 2) * 64) / 64
    value = kernel(x, y, planar=True, **truncation)
    assert np.array_equal(kernel(x + 1024.0, y - 512.0, planar=True, **truncation), value)


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_ragged_batches_hold_the_kernels_of_the_paths_alone(truncation):
    ragged = [paths(seed, length, 2) for seed, length in enumerate((5, 1, 7, 2))]
    value = gram(ragged, None, planar=True, **truncation)
    for i, j in np.ndindex(4, 4):
        assert value[i, j] == pytest.approx(kernel(ragged[i], ragged[j], planar=True, **truncation), rel=1e-14)
    _, pullback = branchsig.branched_sig_kernel_gram_vjp(ragged, None, planar=True, **truncation)
    padded, lengths = branchsig.pad_paths(ragged)
    padded[np.arange(7) >= lengths[:, None]] = np.nan
    derivs = np.random.default_rng(0).standard_normal((4, 4))
    gradient, _ = branchsig.branched_sig_kernel_gram_backprop(
        derivs, padded, None, planar=True, lengths1=lengths, **truncation
    )
    for part, whole, length in zip(pullback(derivs)[0], gradient, lengths, strict=True):
        assert np.array_equal(part, whole[:length])
        assert not np.any(whole[length:])


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_the_stack_and_the_grid_hold_the_kernels_of_all_depths_and_prefixes(depth):
    x, y = paths(4, 2, 5, 2), paths(5, 2, 4, 2)
    stack = branchsig.branched_sig_kernel_stack(x, y, depth, planar=True)
    assert np.array_equal(stack[:, 0], np.ones((2, 5, 4)))
    assert np.array_equal(stack[:, -1], kernel(x, y, depth, planar=True, return_grid=True))
    for m, i, j in np.ndindex(depth + 1, 5, 4):
        expected = kernel(x[:, : i + 1], y[:, : j + 1], m, planar=True)
        np.testing.assert_allclose(stack[:, m, i, j], expected, rtol=1e-14)
    derivs = np.random.default_rng(1).standard_normal((2,))
    plain = branchsig.branched_sig_kernel_backprop(derivs, x, y, depth, planar=True)[0]
    handed = branchsig.branched_sig_kernel_backprop(derivs, x, y, depth, planar=True, k_stack=stack)[0]
    np.testing.assert_allclose(handed, plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_left_point_kernel_is_the_sum_of_its_components(depth):
    x, y = paths(6, 3, 4, 2), paths(7, 3, 4, 2)
    # Of three steps, no forest of depth m has more nodes than 3, 7 and 7.
    value = kernel(x, y, depth, order=7, quadrature="left", planar=True)
    np.testing.assert_allclose(value, kernel(x, y, depth, quadrature="left", planar=True), rtol=1e-13)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gram_matrices_of_the_left_point_rule_are_positive_semi_definite(depth):
    eigenvalues = np.linalg.eigvalsh(gram(paths(8, 20, 8, 2), None, depth, quadrature="left", planar=True))
    assert eigenvalues[0] >= -1e-13 * eigenvalues[-1]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_path_that_retraces_itself_is_trivial_in_the_limit_at_second_order_or_better(depth):
    half, y = paths(9, 4, 2, scale=0.3), paths(10, 5, 2, scale=0.3)
    x = np.concatenate([half, half[-2::-1]])
    errors = [abs(kernel(x, y, depth, order, planar=True) - 1) for order in (2, 3, 4)]
    assert all(coarse / fine > 3.7 for coarse, fine in itertools.pairwise(errors))


OPTIONS = [{}, {"log": True}, {"normalize": True}, {"normalize": "dilation"}, {"return_grid": True}]


def difference(function, arrays, directions, step=1e-6):
    ends = [function(*(a + t * d for a, d in zip(arrays, directions, strict=True))) for t in (step, -step)]
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("truncation", TRUNCATIONS)
@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_are_those_of_differences(truncation, options):
    x, y = paths(11, 3, 5, 2, scale=0.2), paths(12, 3, 4, 2, scale=0.2)
    rng = np.random.default_rng(2)
    options = {"planar": True, "dyadic_order": (1, 0), **truncation, **options}
    for function, vjp in (
        (kernel, branchsig.branched_sig_kernel_vjp),
        (gram, branchsig.branched_sig_kernel_gram_vjp),
    ):
        static_kernel = branchsig.RBFKernel(0.9)
        value, pullback = vjp(x, y, static_kernel=static_kernel, param_deriv=True, **options)
        derivs, directions = rng.standard_normal(value.shape), [rng.standard_normal(a.shape) for a in (x, y)]

        def total(x, y, sigma=0.9, function=function, derivs=derivs):
            static_kernel = branchsig.RBFKernel(sigma)
            return np.sum(derivs * function(x, y, static_kernel=static_kernel, **options))

        d_x, d_y, parameters = pullback(derivs)
        expected = difference(total, [x, y], directions)
        assert np.sum(d_x * directions[0]) + np.sum(d_y * directions[1]) == pytest.approx(expected, rel=1e-6, abs=1e-8)
        expected = difference(lambda sigma, total=total: total(x, y, sigma), [0.9], [1.0])
        assert parameters["sigma"] == pytest.approx(expected, rel=1e-6, abs=1e-8)
        np.testing.assert_allclose(np.sum(d_x, axis=(0, 1)) + np.sum(d_y, axis=(0, 1)), 0, atol=1e-12)


@pytest.mark.parametrize("truncation", TRUNCATIONS)
@pytest.mark.parametrize("normalize", [False, True, "dilation"])
def test_gradients_of_gram_matrices_of_one_stack_are_those_of_differences(truncation, normalize):
    x = paths(13, 4, 5, 2, scale=0.3)
    options = {"planar": True, "normalize": normalize, **truncation}
    value, pullback = branchsig.branched_sig_kernel_gram_vjp(x, None, **options)
    derivs, direction = (np.random.default_rng(3).standard_normal(shape) for shape in (value.shape, x.shape))
    expected = difference(lambda x: np.sum(derivs * gram(x, None, **options)), [x], [direction])
    assert np.sum(pullback(derivs)[0] * direction) == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("truncation", TRUNCATIONS)
@pytest.mark.parametrize("normalize", [False, True, "dilation"])
def test_discrepancies_and_scores_are_means_of_kernels(truncation, normalize):
    x, y = paths(14, 4, 5, 2), paths(15, 3, 6, 2)
    options = {"planar": True, **truncation, "normalize": normalize}
    xx, xy, yy = gram(x, None, **options), gram(x, y, **options), gram(y, None, **options)
    within = (np.sum(xx) - np.trace(xx)) / 12
    expected = within - 2 * np.mean(xy) + (np.sum(yy) - np.trace(yy)) / 6
    assert branchsig.branched_sig_mmd(x, y, **options) == pytest.approx(expected, rel=1e-12, abs=1e-13)
    scores = branchsig.branched_sig_score(x, y, **options)
    np.testing.assert_allclose(scores, within - 2 * np.mean(xy, axis=0), rtol=1e-12, atol=1e-13)
    rng = np.random.default_rng(4)
    for function, vjp in (
        (branchsig.branched_sig_mmd, branchsig.branched_sig_mmd_vjp),
        (branchsig.expected_branched_sig_score, branchsig.expected_branched_sig_score_vjp),
    ):
        directions = [rng.standard_normal(a.shape) for a in (x, y)]
        expected = difference(lambda *a, function=function: function(*a, **options), [x, y], directions)
        gradients = vjp(x, y, **options)[1](np.asarray(1.0))
        found = sum(np.sum(a * b) for a, b in zip(gradients, directions, strict=True))
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_kernels_near_one_keep_their_digits():
    x, y = paths(16, 6, 5, 2) * 1e-7, paths(17, 6, 5, 2) * 1e-7
    first = np.sum((x[:, -1] - x[:, 0]) * (y[:, -1] - y[:, 0]), axis=-1)
    for depth, rule in BY_DEPTH:
        options = {"quadrature": rule, "planar": True}
        np.testing.assert_allclose(kernel(x, y, depth, log=True, **options), first, rtol=1e-10, atol=1e-26)
        discrepancy = branchsig.branched_sig_mmd(x, y, depth, unbiased=False, **options)
        means = np.mean(x[:, -1] - x[:, 0], axis=0) - np.mean(y[:, -1] - y[:, 0], axis=0)
        assert discrepancy == pytest.approx(means @ means, rel=1e-9)


def test_the_logarithm_of_a_kernel_that_is_not_positive_is_nan_with_a_warning():
    x, y = np.array([[[0.0], [1.0]]] * 2), np.array([[[0.0], [-1.0]], [[0.0], [-2.0]]])
    assert np.array_equal(kernel(x, y, 1, quadrature="left", planar=True), [0.0, -1.0])
    with pytest.warns(RuntimeWarning, match="2 of 2 values .* ordered forests need not be positive"):
        assert np.all(np.isnan(kernel(x, y, 1, quadrature="left", planar=True, log=True)))


@pytest.mark.parametrize("truncation", TRUNCATIONS)
@pytest.mark.parametrize("static_kernel", [None, branchsig.RBFKernel(1.0)])
@pytest.mark.parametrize("target", [0.3, 1.0])
def test_dilated_paths_reach_the_bound_at_a_prefix_and_exceed_it_at_none(truncation, static_kernel, target):
    x = np.concatenate([paths(18, 3, 8, 2), paths(19, 2, 8, 2, scale=3.0)])
    x[1] = np.array([0.0, 1.0, 2.0, 4.0, 5.0, 4.0, 2.0, 1.0])[:, None] * [0.3, 0.2]  # returns
    options = {"planar": True, "static_kernel": static_kernel, **truncation}
    factors = branchsig.dilation(x, target=target, **options)

    def sizes(factors):
        prefixes = []
        for i in range(8):
            if static_kernel is None:
                path, own = factors[:, None, None] * x[:, : i + 1], {}
            else:
                path = np.concatenate([x[:, : i + 1], np.broadcast_to(factors[:, None, None], (5, i + 1, 1))], axis=2)
                own = {"static_kernel": branchsig.static_kernels.DilatedKernel(static_kernel)}
            prefixes.append(abs(kernel(path, path, **options | own) - 1))
        return np.max(prefixes, axis=0)

    bound = math.expm1(target)
    assert np.all(sizes(factors) <= bound * (1 + 1e-12))
    np.testing.assert_allclose(sizes(factors), bound, rtol=1e-10)
    direction = np.random.default_rng(5).standard_normal(x.shape)
    gradient = branchsig.dilation_backprop(np.ones(5), x, target=target, **options)
    expected = difference(lambda x: np.sum(branchsig.dilation(x, target=target, **options)), [x], [direction])
    assert np.sum(gradient * direction) == pytest.approx(expected, rel=1e-5)


def test_dilated_kernels_do_not_depend_on_the_scale_of_the_paths():
    x = paths(20, 5, 6, 2)
    options = {"planar": True, "normalize": "dilation"}
    expected = gram(x, None, 2, **options)
    for scale in (1e-90, 1e-3, 40.0, 1e90):
        np.testing.assert_allclose(gram(x * scale, None, 2, **options), expected, rtol=1e-9)


@pytest.mark.parametrize("rule", ["trapezoid", "left"])
@pytest.mark.parametrize("depth", [1, 2])
def test_values_are_right_or_nan_where_terms_cancel(rule, depth):
    t = 1 - abs(np.linspace(-1, 1, 81))[:, None]
    directions = np.array([[1.0, 0.0], [0.6, 0.8]])
    x = np.stack([size * t * direction for size in (1.0, 5.0, 12.0, 24.0) for direction in directions])
    y = x[[0, 0, 2, 2, 4, 4, 6, 6]]
    with np.errstate(all="ignore"):
        expected = recursion(x, y, depth, rule, np.longdouble)
        with pytest.warns(RuntimeWarning):
            value = kernel(x, y, depth, quadrature=rule, planar=True, return_grid=True)
    right = np.abs(value - expected) <= 1e-4 * np.maximum(1, np.abs(expected))
    finite = np.isfinite(value)
    assert np.all(right[finite])
    assert np.all(finite[:2])
    if depth == 1:
        # Nothing is lost where double precision has the digits.
        error = np.abs(recursion(x, y, depth, rule, np.float64) - expected) / np.maximum(1, np.abs(expected))
        assert np.all(finite[error < 1e-10])


def test_a_pair_does_not_depend_on_others_of_its_batch():
    t = 1 - abs(np.linspace(-1, 1, 41))[:, None]
    x = np.stack([30.0 * t, 0.3 * t, np.full_like(t, np.nan)])
    for options in ({"depth": 2}, {"depth": 1, "quadrature": "left", "return_grid": True}):
        with pytest.warns(RuntimeWarning):
            value, pullback = branchsig.branched_sig_kernel_vjp(x, x, planar=True, **options)
        gradient = pullback(np.ones_like(value))[0]
        alone, of_one = branchsig.branched_sig_kernel_vjp(x[1], x[1], planar=True, **options)
        assert np.array_equal(value[1], alone)
        assert np.array_equal(gradient[1], of_one(np.ones_like(alone))[0])
        assert np.all(np.isnan(gradient[2]))


def recursion(x, y, depth, rule, dtype):
    """The recursion in plain loops."""
    g = np.einsum("bik,bjk->bij", np.diff(x, axis=1), np.diff(y, axis=1)).astype(dtype)
    k = np.ones((g.shape[0], g.shape[1] + 1, g.shape[2] + 1), dtype=dtype)
    for _ in range(depth):
        corners = [k[:, :-1, :-1], k[:, 1:, :-1], k[:, :-1, 1:], k[:, 1:, 1:]]
        h = g * (corners[0] if rule == "left" else sum(corners) / 4)
        k = np.ones_like(k)
        for i, j in np.ndindex(g.shape[1:]):
            a = 0 * h[:, i, j] if rule == "left" else h[:, i, j] / 2 + h[:, i, j] ** 2 / 12
            b = h[:, i, j] if rule == "left" else h[:, i, j] ** 2 / 12
            k[:, i + 1, j + 1] = (k[:, i + 1, j] + k[:, i, j + 1]) * (1 + a) - k[:, i, j] * (1 - b)
    return k


def test_kernels_that_overflow_are_infinite():
    x = np.linspace(0, 1e3, 30)[:, None]
    for rule in ("trapezoid", "left"):
        with pytest.warns(RuntimeWarning, match="overflowed and are inf"):
            assert kernel(x, x, 4, quadrature=rule, planar=True) == math.inf


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_arrays_of_other_libraries_give_the_same(truncation):
    x, y = paths(21, 3, 5, 2), paths(22, 3, 4, 2)
    options = {"planar": True, **truncation}
    expected = kernel(x, y, **options)
    strict = kernel(array_api_strict.asarray(x), array_api_strict.asarray(y), **options)
    assert np.array_equal(np.asarray(strict), expected)
    torch = pytest.importorskip("torch")
    first = torch.tensor(x, requires_grad=True)
    value = kernel(first, torch.tensor(y), **options)
    assert np.array_equal(value.detach().numpy(), expected)
    value.sum().backward()
    gradient = branchsig.branched_sig_kernel_backprop(np.ones(3), x, y, **options)[0]
    np.testing.assert_allclose(first.grad.numpy(), gradient, rtol=1e-13)


def test_a_test_of_two_samples_finds_a_difference_in_the_order_of_events():
    t = np.linspace(0, 1, 9)
    early, late = np.clip(2 * t, 0, 1), np.clip(2 * t - 1, 0, 1)
    noise = paths(23, 24, 9, 2, scale=0.02)
    first, second = noise[:12] + np.stack([early, late], -1), noise[12:] + np.stack([late, early], -1)
    assert branchsig.branched_sig_mmd_test(first, second, 1, planar=True, seed=0).p_value < 0.01
    # The unordered forests of depth 1 see the end of a path alone.
    assert branchsig.branched_sig_mmd_test(first, second, 1, seed=0).p_value > 0.01


REFUSED = [
    ({"depth": math.inf}, "planar=True with depth=math.inf.*finite depth"),
    ({"depth": 2, "quadrature": "lobatto3"}, "planar=True with quadrature=.*Trapezoid.*LeftPoint"),
    ({"depth": 2, "rtol": 1e-6}, "planar=True with rtol=1e-06.*dyadic_order"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_options_that_do_not_fit_are_refused(options, message):
    x = paths(24, 3, 4, 2)
    for function in (kernel, gram):
        with pytest.raises(ValueError, match=message):
            function(x, x, planar=True, **options)
    with pytest.raises(ValueError, match="room"):
        branchsig.dilation(x, 2, planar=True, room=3.0)
    with pytest.raises(TypeError, match="planar"):
        kernel(x, x, 2, planar=1)


def test_tolerances_are_kept_by_number_of_nodes():
    x, y = paths(25, 3, 4, 2), paths(26, 3, 5, 2)
    exact_value = kernel(x, y, order=4, quadrature="lobatto3", planar=True)
    np.testing.assert_allclose(kernel(x, y, order=4, rtol=1e-9, planar=True), exact_value, rtol=1e-12)


def test_forests_are_part_of_what_is_computed():
    spec = branchsig.spec.Spec(branchsig.spec.Truncation(2), planar=True)
    assert repr(spec) == "Spec(truncation=Truncation(depth=2), planar=True)"
    assert spec != dataclasses.replace(spec, planar=False)
