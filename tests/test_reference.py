"""The reference, and through the public functions every backend, against answers that share nothing with them."""

import itertools
import math

import numpy as np
import oracles
import pytest
from cases import STATIC_KERNELS, QuarticKernel, gradients_of, problem, quartic, relative, static_kernel, walk

from branchsig.backends.reference import ReferenceBackend


def test_numbers_of_forests_and_trees_are_those_of_the_literature():
    # OEIS A000081: rooted trees 1, 1, 2, 4, 9, 20; a forest with n nodes is a tree with n + 1 nodes without its root.
    assert [len(oracles.trees(n, 1)) for n in range(1, 7)] == [1, 1, 2, 4, 9, 20]
    assert [len(oracles.forests(n, 1)) for n in range(6)] == [1, 1, 2, 4, 9, 20]


def test_symmetry_factors_sum_to_the_number_of_increasing_labellings():
    # Rooted trees with n nodes: sum of n! / (tree factorial * symmetry factor) = (n - 1)!.
    def size(tree):
        return 1 + sum(map(size, tree[1]))

    def factorial(tree):
        return size(tree) * math.prod(map(factorial, tree[1]))

    for n in range(1, 7):
        orderings = sum(
            math.factorial(n) / (factorial(tree) * oracles.symmetry_factor((tree,))) for tree in oracles.trees(n, 1)
        )
        assert orderings == pytest.approx(math.factorial(n - 1), rel=1e-14)


@pytest.mark.parametrize("depth", [0, 1, 2, 3, 4, 6])
@pytest.mark.parametrize("orders", [(0, 0), (1, 2)])
def test_scalar_recursion_equals_the_sum_over_forests(depth, orders, rng):
    x, y = walk(rng, 5, 2), walk(rng, 4, 2)
    first, second = oracles.TrapezoidIntegrals(x, orders[0]), oracles.TrapezoidIntegrals(y, orders[1])
    forests = oracles.forest_parts(first, second, depth, 5, 2)
    g = oracles.increments(oracles.static_kernel("linear"), oracles.points(x), oracles.points(y), oracles.FLOATS)
    np.testing.assert_allclose(oracles.depth_parts(g, depth, orders, 5), forests, rtol=1e-12, atol=1e-15)


def test_trapezoid_iterated_integrals_extrapolate_to_the_exact_ones(rng):
    x, y = walk(rng, 4, 2), walk(rng, 5, 2)
    exact = oracles.forest_parts(oracles.ExactIntegrals(x), oracles.ExactIntegrals(y), 4, 5, 2)
    table = [
        oracles.forest_parts(oracles.TrapezoidIntegrals(x, order), oracles.TrapezoidIntegrals(y, order), 4, 5, 2)
        for order in range(6)
    ]
    assert np.abs(table[0] - exact).max() > 1e-4
    np.testing.assert_allclose(_romberg(table), exact, rtol=0, atol=1e-14)


def _romberg(table):
    """The limit of values whose error is a series in h^2, h halved from each to the next."""
    for k in range(1, len(table)):
        table = [(4**k * fine - coarse) / (4**k - 1) for coarse, fine in itertools.pairwise(table)]
    return table[0]


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("orders", [(0, 0), (2, 1)])
def test_homogeneous_parts_are_the_forests_weighted_by_one_over_sigma(backend, depth, orders, rng):
    # K(x, z y) is an entire function of z. Its Taylor coefficients are the sums over the forests with n nodes of the
    # iterated integrals by the same trapezoid rule, at any dyadic order.
    x, y = walk(rng, 5, 2), walk(rng, 4, 2)
    x = x / np.abs(np.diff(x, axis=0) @ np.diff(y, axis=0).T).sum()  # then the n-th coefficient is below (n + 1) / 2^n
    first, second = oracles.TrapezoidIntegrals(x, orders[0]), oracles.TrapezoidIntegrals(y, orders[1])
    wanted = oracles.forest_parts(first, second, depth, 5, 2)
    radius = 0.5

    def kernel(z):
        return math.exp(backend.solve(problem(x[None], z * y[None], depth, orders), "end", log=True)[0])

    found = oracles.taylor_coefficients(kernel, radius, 5)
    np.testing.assert_allclose(found * radius ** np.arange(6), wanted * radius ** np.arange(6), rtol=0, atol=5e-12)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_reference_has_the_forests_to_rounding_on_a_complex_circle(depth, rng):
    # The same, as sharp as it gets: the reference takes complex paths, and a contour gives the coefficients to 1e-15.
    x, y = walk(rng, 5, 2, size=0.8), walk(rng, 4, 2, size=0.8)
    wanted = oracles.forest_parts(oracles.TrapezoidIntegrals(x, 0), oracles.TrapezoidIntegrals(y, 0), depth, 5, 2)
    circle = np.exp(2j * np.pi * np.arange(64) / 64)
    stacked = circle[:, None, None] * y
    logarithms = ReferenceBackend().solve(problem(np.broadcast_to(x + 0j, (64, 5, 2)), stacked, depth), "end", log=True)
    np.testing.assert_allclose((np.fft.fft(np.exp(logarithms)) / 64)[:6], wanted, rtol=0, atol=1e-14)


def test_refinement_extrapolates_to_the_forests_of_the_exact_iterated_integrals(backend, rng):
    # Small paths: the forests with at most 5 nodes are all of K but a remainder of sixth order in their product.
    size = 0.15
    x, y = walk(rng, 4, 2, size=size), walk(rng, 3, 2, size=size)
    exact = oracles.forest_parts(oracles.ExactIntegrals(x), oracles.ExactIntegrals(y), 3, 5, 2)
    table = [
        math.exp(backend.solve(problem(x[None], y[None], 3, (order, order)), "end", log=True)[0]) for order in range(6)
    ]
    assert abs(_romberg(table) - exact.sum()) < 10 * size**12
    assert abs(exact[5]) < 10 * size**10


def test_depth_zero_is_one(backend, rng):
    x, y = walk(rng, 3, 5, 2), walk(rng, 3, 4, 2)
    np.testing.assert_array_equal(backend.solve(problem(x, y, 0, (1, 0)), "end", log=True), np.zeros(3))
    np.testing.assert_array_equal(backend.solve(problem(x, y, 0, (1, 0)), "stack"), np.ones((3, 1, 9, 4)))


@pytest.mark.parametrize("orders", [(0, 0), (3, 1)])
def test_depth_one_is_the_exponential_of_the_product_of_the_displacements(backend, orders, rng):
    x, y = walk(rng, 6, 9, 3, size=2.0), walk(rng, 6, 7, 3, size=2.0)
    wanted = np.einsum("bk,bk->b", x[:, -1] - x[:, 0], y[:, -1] - y[:, 0])
    np.testing.assert_allclose(backend.solve(problem(x, y, 1, orders), "end", log=True), wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("c", [-1.7, 0.6, 1.3, 2.5])
def test_one_segment_at_depth_two_converges_quadratically_to_its_closed_form(backend, c):
    x, y = np.array([[[0.0], [1.0]]]), np.array([[[0.0], [c]]])
    values = [math.exp(backend.solve(problem(x, y, 2, (order, order)), "end", log=True)[0]) for order in range(7)]
    exact = oracles.one_segment_depth_two(c)
    errors = [abs(value - exact) for value in values]
    for coarse, fine in itertools.pairwise(errors[3:]):
        assert coarse / fine == pytest.approx(4.0, rel=0.05)
    assert _romberg(values) == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize("c", [-1.5, 0.4, 0.9])
def test_great_depth_on_one_segment_solves_liouvilles_equation(backend, c):
    # The iteration over the depth converges like an exponential series: 40 levels are infinity for these c.
    x, y = np.array([[[0.0], [1.0]]]), np.array([[[0.0], [c]]])
    values = [math.exp(backend.solve(problem(x, y, 40, (order, order)), "end", log=True)[0]) for order in range(2, 8)]
    assert _romberg(values) == pytest.approx(oracles.one_segment_untruncated(c), rel=1e-10)


@pytest.mark.parametrize("name", STATIC_KERNELS)
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_values_equal_the_scalar_recursion(backend, name, depth, rng):
    x, y = walk(rng, 2, 6, 3), walk(rng, 2, 4, 3)
    kernel, kappa = static_kernel(name)
    found = backend.solve(problem(x, y, depth, (1, 0), static_kernel=kernel), "end", log=True)
    wanted = [oracles.log_kernel(a, b, depth, (1, 0), kappa) for a, b in zip(x, y)]
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("orders", [(0, 0), (0, 2), (1, 1)])
def test_values_equal_the_recursion_in_forty_digits(backend, orders, rng):
    x, y = walk(rng, 1, 5, 2, size=1.6), walk(rng, 1, 6, 2, size=1.6)
    found = backend.solve(problem(x, y, 4, orders), "end", log=True)
    wanted = oracles.log_kernel(x[0], y[0], 4, orders, scalars=oracles.mpmath_scalars())
    assert float(abs(found[0] - wanted)) < 1e-13 * max(1.0, float(abs(wanted)))


@pytest.mark.parametrize("name", ["linear", "rbf", "matern32"])
def test_grids_of_all_levels_equal_the_scalar_recursion(backend, name, rng):
    x, y = walk(rng, 3, 4, 2), walk(rng, 3, 5, 2)
    kernel, kappa = static_kernel(name)
    grids = [
        oracles.log_levels(oracles.increments(kappa, a.tolist(), b.tolist(), oracles.FLOATS), 3, (1, 2))
        for a, b in zip(x, y)
    ]
    wanted = np.exp(np.array(grids))
    arguments = problem(x, y, 3, (1, 2), static_kernel=kernel)
    assert relative(backend.solve(arguments, "stack"), wanted) < 1e-13
    assert relative(backend.solve(arguments, "grid"), wanted[:, -1]) < 1e-13


def test_gram_has_every_pair_in_its_place(backend, rng):
    x, y = walk(rng, 3, 5, 2), walk(rng, 4, 6, 2)
    found = backend.solve(problem(x, y, 3, pairing="gram"), "end", log=True)
    wanted = [[oracles.log_kernel(a, b, 3) for b in y] for a in x]
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-14)
    symmetric = backend.solve(problem(x, x, 3, pairing="symmetric"), "end", log=True)
    wanted = [[oracles.log_kernel(a, b, 3) for b in x] for a in x]
    np.testing.assert_allclose(symmetric, wanted, rtol=1e-13, atol=1e-14)
    np.testing.assert_array_equal(symmetric, symmetric.T)


def test_a_static_kernel_of_the_users_own_is_used_as_it_is(backend, rng):
    x, y = walk(rng, 3, 5, 2), walk(rng, 3, 4, 2)
    found = backend.solve(problem(x, y, 3, (0, 1), static_kernel=QuarticKernel()), "end", log=True)
    wanted = [oracles.log_kernel(a, b, 3, (0, 1), quartic) for a, b in zip(x, y)]
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("orders", [(0, 0), (1, 1)])
@pytest.mark.parametrize("depth", [2, 4])
def test_gram_matrices_are_positive_semi_definite(backend, depth, orders, rng):
    # With equal dyadic orders the corner mean is a mean over x times a mean over y, so the Schur product theorem holds.
    x = walk(rng, 24, 7, 2, size=0.6)
    gram = np.exp(backend.solve(problem(x, x, depth, orders, "symmetric"), "end", log=True))
    scaled = gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
    assert np.linalg.eigvalsh(scaled).min() > -1e-13


@pytest.mark.parametrize("lengths", [(1, 1), (1, 5), (5, 1)])
def test_paths_of_a_single_point_have_kernel_one_and_no_gradient(backend, lengths, rng):
    x, y = walk(rng, 2, lengths[0], 3), walk(rng, 2, lengths[1], 3)
    arguments = problem(x, y, 3, (1, 2))
    np.testing.assert_array_equal(backend.solve(arguments, "end", log=True), np.zeros(2))
    nodes = ((lengths[0] - 1) * 2 + 1, (lengths[1] - 1) * 4 + 1)
    np.testing.assert_array_equal(backend.solve(arguments, "stack"), np.ones((2, 4, *nodes)))
    left, right = gradients_of(backend, arguments, np.ones(2), wrt_log=False, left=True, right=True)
    np.testing.assert_array_equal(left, np.zeros_like(x))
    np.testing.assert_array_equal(right, np.zeros_like(y))
