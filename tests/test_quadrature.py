"""The rules for the integral over a cell: their nodes and matrices, and the kernels and gradients they give."""

import math
import pickle

import mpmath
import numpy as np
import oracles
import pytest
from cases import STATIC_KERNELS, problem, relative, relative_to_path, static_kernel, walk
from hypothesis import given
from hypothesis import strategies as st

import branchsig
from branchsig.backends.reference import ReferenceBackend

RULES = {
    "trapezoid": branchsig.Trapezoid(),
    "left": branchsig.LeftPoint(),
    **{f"lobatto{p}": branchsig.GaussLobatto(p) for p in range(2, 9)},
}
NAMES = st.sampled_from(sorted(RULES))


def matrix(name):
    return np.array(RULES[name].matrix)


def wanted_log(name, x, y, depth, orders=(0, 0), kappa=None):
    """log K at the corners of the sub-cells for two lists of points of complex numbers."""
    kappa = kappa or oracles.static_kernel("linear")
    g = oracles.refined(oracles.increment_array(kappa, x, y), orders)
    nodes = oracles.collocation_log_levels(g, depth, matrix(name))[-1]
    corners = np.zeros((g.shape[0] + 1, g.shape[1] + 1), dtype=complex)
    corners[1:, 1:] = nodes[:, :, -1, -1]
    return corners


@pytest.mark.parametrize("p", range(2, 9))
def test_lobatto_rules_are_those_of_forty_digits(p):
    rule = branchsig.GaussLobatto(p)
    with mpmath.workdps(40):
        # (t² - 1) P_p'(t) = p (t P_p(t) - P_{p-1}(t)) has the inner nodes and the ends as its roots.
        roots = np.polynomial.legendre.legroots(np.polynomial.legendre.legder(np.eye(p + 1)[p]))
        inner = [
            mpmath.findroot(lambda t: t * mpmath.legendre(p, t) - mpmath.legendre(p - 1, t), float(start))
            for start in np.sort(roots.real)  # from NumPy 2.5 on they are complex numbers
        ]
        nodes = [mpmath.mpf(0), *[(root + 1) / 2 for root in inner], mpmath.mpf(1)]
        np.testing.assert_allclose(rule.nodes, [float(node) for node in nodes], rtol=0, atol=1e-16)
        for l in range(p + 1):

            def basis(t, l=l):
                return mpmath.fprod((t - z) / (nodes[l] - z) for k, z in enumerate(nodes) if k != l)

            column = [float(mpmath.quad(basis, [0, node])) for node in nodes]
            np.testing.assert_allclose([row[l] for row in rule.matrix], column, rtol=0, atol=1e-16)


@pytest.mark.parametrize("name", RULES)
def test_rules_are_immutable_values(name):
    rule = RULES[name]
    assert rule == pickle.loads(pickle.dumps(rule))
    assert hash(rule) == hash(pickle.loads(pickle.dumps(rule)))
    assert eval(repr(rule), vars(branchsig)) == rule
    assert [other for other in RULES.values() if other == rule] == [rule]
    with pytest.raises((AttributeError, TypeError)):
        rule.p = 3


@pytest.mark.parametrize(("p", "error"), [(1, ValueError), (9, ValueError), (2.0, TypeError), (True, TypeError)])
def test_lobatto_rules_exist_from_two_to_eight(p, error):
    with pytest.raises(error, match=r"GaussLobatto: p is .*: expected an integer from 2 to 8"):
        branchsig.GaussLobatto(p)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("simpson", ValueError, "quadrature is 'simpson': expected one of 'trapezoid', 'left'"),
        (branchsig.GaussLobatto, TypeError, "expected an instance"),
        (2, TypeError, "expected a rule"),
    ],
)
def test_a_wrong_rule_is_refused(value, error, message):
    x = np.zeros((3, 1))
    with pytest.raises(error, match=message):
        branchsig.branched_sig_kernel(x, x, 2, quadrature=value)


@pytest.mark.parametrize("name", RULES)
def test_names_stand_for_the_rules(backend, name, rng):
    x, y = walk(rng, 2, 4, 2), walk(rng, 2, 5, 2)
    by_name, by_rule = (branchsig.branched_sig_kernel(x, y, 3, quadrature=rule) for rule in (name, RULES[name]))
    np.testing.assert_array_equal(by_name, by_rule)


@pytest.mark.parametrize("orders", [(0, 0), (0, 2)])
def test_left_points_give_the_inner_product_of_discrete_ito_signatures(backend, orders, rng):
    # The kernel of depth m as a series in the size of one path, against explicit left-point sums over forests.
    x, y = walk(rng, 5, 2), walk(rng, 4, 2)
    first, second = oracles.LeftPointIntegrals(x, orders[0]), oracles.LeftPointIntegrals(y, orders[1])
    wanted = oracles.forest_parts(first, second, 3, 5, 2)
    radius = 0.5 / np.abs(np.diff(x, axis=0) @ np.diff(y, axis=0).T).sum()

    def kernel(z):
        return float(branchsig.branched_sig_kernel(x, z * y, 3, orders, quadrature="left"))

    found = oracles.taylor_coefficients(kernel, radius, 5)
    np.testing.assert_allclose(found * radius ** np.arange(6), wanted * radius ** np.arange(6), rtol=0, atol=1e-10)


def test_left_points_on_a_complex_circle_have_the_forests_to_rounding(rng):
    x, y = walk(rng, 5, 2), walk(rng, 4, 2)
    wanted = oracles.forest_parts(oracles.LeftPointIntegrals(x, 0), oracles.LeftPointIntegrals(y, 0), 3, 5, 2)
    circle = np.exp(2j * np.pi * np.arange(64) / 64)
    arguments = problem(np.broadcast_to(x + 0j, (64, 5, 2)), circle[:, None, None] * y, 3, quadrature=RULES["left"])
    found = (np.fft.fft(np.exp(ReferenceBackend().solve(arguments, "end", log=True))) / 64)[:6]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("p", "tolerance"), [(2, 6e-2), (3, 1e-3), (4, 2e-5), (6, 3e-9), (8, 1e-13)])
def test_depth_two_of_one_segment_approaches_the_closed_form(backend, p, tolerance):
    x = np.array([[0.0], [1.0]])
    value = float(branchsig.branched_sig_kernel(x, 1.3 * x, 2, quadrature=branchsig.GaussLobatto(p)))
    assert abs(value / oracles.one_segment_depth_two(1.3) - 1) < tolerance


@pytest.mark.parametrize("p", [2, 3])
def test_the_error_falls_by_four_to_the_p_with_each_dyadic_order(backend, p, rng):
    x, y = walk(rng, 6, 2, size=1.6), walk(rng, 5, 2, size=1.6)
    exact = branchsig.branched_sig_kernel(x, y, 4, 1, quadrature="lobatto8")  # to rounding
    errors = [
        abs(float(branchsig.branched_sig_kernel(x, y, 4, order, quadrature=f"lobatto{p}") / exact - 1))
        for order in (0, 1)
    ]
    assert 0.3 * 4**p < errors[0] / errors[1] < 3.0 * 4**p


@given(
    rule=NAMES,
    kernel=st.sampled_from(sorted(STATIC_KERNELS)),
    depth=st.integers(0, 5),
    orders=st.tuples(st.integers(0, 2), st.integers(0, 1)),
    lengths=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    seed=st.integers(0, 2**32 - 1),
)
def test_values_and_grids_equal_the_collocation_method(backend, rule, kernel, depth, orders, lengths, seed):
    rng = np.random.default_rng(seed)
    x, y = (walk(rng, 2, length, 2) for length in lengths)
    static, kappa = static_kernel(kernel)
    options = {"static_kernel": static, "quadrature": rule}
    wanted = np.exp(
        [
            wanted_log(rule, *(oracles.points(path, oracles.COMPLEX) for path in pair), depth, orders, kappa).real
            for pair in zip(x, y)
        ]
    )
    assert relative(branchsig.branched_sig_kernel(x, y, depth, orders, **options), wanted[:, -1, -1]) < 1e-12
    assert relative(branchsig.branched_sig_kernel(x, y, depth, orders, return_grid=True, **options), wanted) < 1e-12
    stack = branchsig.branched_sig_kernel_stack(x, y, depth, orders, **options)
    assert relative(stack[:, -1], wanted) < 1e-12
    assert np.all(stack[:, 0] == 1)


@given(
    rule=NAMES,
    kernel=st.sampled_from(["linear", "rbf", "matern32"]),
    form=st.sampled_from(["paired", "gram", "symmetric"]),
    depth=st.integers(1, 4),
    order=st.integers(0, 1),
    mode=st.sampled_from(["value", "grid", "unit"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_gradients_equal_complex_steps(backend, rule, kernel, form, depth, order, mode, seed):
    rng = np.random.default_rng(seed)
    x = walk(rng, 2, 3, 2, size=0.6)
    y = x if form == "symmetric" else walk(rng, 2, 4, 2, size=0.6)
    static, kappa = static_kernel(kernel)
    name = "branched_sig_kernel" if form == "paired" else "branched_sig_kernel_gram"
    options = {"static_kernel": static, "quadrature": rule, "return_grid": mode == "grid", "normalize": mode == "unit"}
    derivs = rng.standard_normal(getattr(branchsig, name)(x, y, depth, order, **options).shape)

    def value(a, b, weight):
        grid = wanted_log(rule, a, b, depth, (order, order), kappa)
        if mode == "grid":
            return np.sum(weight * np.exp(grid))
        norm = (
            sum(wanted_log(rule, p, p, depth, (order, order), kappa)[-1, -1] for p in (a, b)) if mode == "unit" else 0
        )
        return weight * np.exp(grid[-1, -1] - norm / 2)

    left, right = np.zeros_like(x), np.zeros_like(y)
    for i, j in [(0, 0), (1, 1)] if form == "paired" else np.ndindex(2, 2):
        weight = derivs[i] if form == "paired" else derivs[i, j]
        a, b = oracles.points(x[i], oracles.COMPLEX), oracles.points(y[j], oracles.COMPLEX)
        left[i] += oracles.gradient(lambda p, b=b, w=weight: value(p, b, w), x[i])
        right[j] += oracles.gradient(lambda p, a=a, w=weight: value(a, p, w), y[j])
    found = getattr(branchsig, name + "_backprop")(derivs, x, y, depth, order, right_deriv=True, **options)
    assert relative_to_path(found[0], left) < 1e-11
    assert relative_to_path(found[1], right) < 1e-11


def test_a_stack_serves_the_backward_of_left_points(backend, rng):
    x, y, derivs = walk(rng, 3, 4, 2), walk(rng, 3, 5, 2), rng.standard_normal(3)
    stack = branchsig.branched_sig_kernel_stack(x, y, 3, quadrature="left")
    arguments = derivs, x, y, 3
    found, _ = branchsig.branched_sig_kernel_backprop(*arguments, k_stack=stack, quadrature="left")
    wanted, _ = branchsig.branched_sig_kernel_backprop(*arguments, quadrature="left")
    assert relative_to_path(found, wanted) < 1e-13


def test_a_stack_is_refused_where_it_lacks_nodes(backend, rng):
    x = walk(rng, 4, 2)
    stack = branchsig.branched_sig_kernel_stack(x, x, 3, quadrature="lobatto2")
    with pytest.raises(ValueError, match=r"k_stack with quadrature=GaussLobatto\(p=2\): .* Leave k_stack out"):
        branchsig.branched_sig_kernel_backprop(np.asarray(1.0), x, x, 3, k_stack=stack, quadrature="lobatto2")


@pytest.mark.parametrize("name", ["left", "lobatto2", "lobatto5"])
def test_gram_matrices_are_positive_semi_definite(backend, name, rng):
    x = walk(rng, 20, 6, 2, size=0.8)
    gram = branchsig.branched_sig_kernel_gram(x, None, 4, normalize=True, quadrature=name)
    assert np.linalg.eigvalsh(gram).min() > -1e-13


@pytest.mark.parametrize("name", RULES)
def test_repeated_points_change_nothing(backend, name, rng):
    x, y = walk(rng, 2, 4, 2), walk(rng, 2, 5, 2)
    twice = np.repeat(x, 2, axis=1)
    found = branchsig.branched_sig_kernel(twice, y, 3, quadrature=name)
    np.testing.assert_array_equal(found, branchsig.branched_sig_kernel(x, y, 3, quadrature=name))


def test_left_points_see_quadratic_variation(backend):
    # A walk to and fro, 100 steps of 1/10, that ends where it started. The integral of x dx is minus half its quadratic
    # variation for left points and 0 for the trapezoid rule, and log K(z x, x) = z * 0 + z**2 * (integral)**2 + ...
    path = np.concatenate([[0.0], np.cumsum(np.tile([1.0, -1.0], 50) / 10)])[:, None]
    z = 1e-3
    left, limit = (
        math.log(branchsig.branched_sig_kernel(z * path, path, 2, quadrature=name)) for name in ("left", "trapezoid")
    )
    assert left == pytest.approx(z**2 * (100 * 0.1**2 / 2) ** 2, rel=1e-3)
    assert abs(limit) < 1e-12
