"""Grids of the CUDA kernels where the work is cut into several pieces, with dyadic orders along either path.

At depth 1 the logarithm at every node is known: the sum of the increments of the cells before it. A value that is kept
from one row to the next, or from one piece of the columns to the next, under a name that says too little is seen there.
"""

import dataclasses
import math

import numpy as np
import pytest
from cases import STATIC_KERNELS, gradients_of, problem, relative_to_path
from cuda_cases import RULES, drawn, kernel_named, limit

ORDERS = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (1, 3), (3, 2)]


def kappa(name, x, y):
    """The static kernel at all pairs of points of two stacks of paths, by its formula."""
    if name == "quartic":
        products = np.einsum("nid,njd->nij", x, y)
        return products + products**2 / 2
    parameters = STATIC_KERNELS.get(name, (None, {}))[1]
    products = np.einsum("nid,njd->nij", x, y)
    distance = np.sqrt(((x[:, :, None] - y[:, None]) ** 2).sum(axis=-1))
    if name == "linear":
        return products
    if name == "polynomial":
        return parameters["scale"] * (products + parameters["gamma"]) ** parameters["degree"]
    if name == "rbf":
        return np.exp(-(distance**2) / parameters["sigma"])
    assert name == "matern32"
    a = math.sqrt(3) * distance / parameters["sigma"]
    return (1 + a) * np.exp(-a)


def sums_of_increments(name, x, y, orders):
    """log K_1 at every node of the refined grid: the increments of the cells before it, each cell divided evenly."""
    g = np.diff(np.diff(kappa(name, x, y), axis=1), axis=2)
    for axis, order in enumerate(orders, 1):
        g = np.repeat(g, 2**order, axis=axis) / 2**order
    return np.pad(g.cumsum(axis=1).cumsum(axis=2), ((0, 0), (1, 0), (1, 0)))


def check_depth_1(backend, name, lengths, orders, rng, dtype=np.float64):
    x, y = drawn(rng, "paired", lengths, 2, dtype, counts=(2, 2))
    arguments = problem(x, y, 1, orders, static_kernel=kernel_named(name))
    wanted = sums_of_increments(name, x.astype(float), y.astype(float), orders)
    tolerance = 1e-12 if dtype == np.float64 else 2e-5
    np.testing.assert_allclose(backend.solve(arguments, "grid"), np.exp(wanted), rtol=tolerance)
    np.testing.assert_allclose(backend.solve(arguments, "grid", log=True), wanted, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        backend.solve(arguments, "end", log=True), wanted[:, -1, -1], rtol=tolerance, atol=tolerance
    )


def check_gradients(backend, reference, arguments, rng):
    grid = reference.solve(arguments, "grid")
    for wrt_log in (False, True):
        options = {"wrt_log": wrt_log, "left": True, "right": True}
        derivs = rng.uniform(-1.0, 1.0, grid.shape)
        found = gradients_of(backend, arguments, derivs, **options)
        for mine, its in zip(found, gradients_of(reference, arguments, derivs, **options), strict=True):
            assert relative_to_path(mine, its) < 1e-11


# Cells of one strip, of several, and of several passes of a team.
@pytest.mark.parametrize("orders", ORDERS)
@pytest.mark.parametrize("name", ["linear", "polynomial", "rbf", "matern32", "quartic"])
def test_grids_of_depth_1_are_sums_of_increments(alone, name, orders, rng, monkeypatch):
    for lengths in ((2, 18), (4, 5), (7, 40)):
        for longest in (1, 4):
            limit(monkeypatch, longest_team=longest)
            check_depth_1(alone, name, lengths, orders, rng)


@pytest.mark.parametrize("orders", [(1, 1), (2, 3), (3, 0)])
@pytest.mark.parametrize("name", ["linear", "rbf", "quartic"])
def test_grids_of_depth_1_are_sums_of_increments_where_pairs_are_relayed(relaying, name, orders, rng):
    check_depth_1(relaying, name, (4, 270 >> orders[1]), orders, rng)


@pytest.mark.parametrize("orders", [(1, 1), (2, 0)])
@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_grids_of_depth_1_in_float32_are_sums_of_increments(alone, name, orders, rng):
    for lengths in ((2, 18), (5, 70)):
        check_depth_1(alone, name, lengths, orders, rng, np.float32)


@pytest.mark.parametrize("orders", [(2, 1), (0, 2)])
@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_gradients_of_refined_grids_in_several_passes(alone, reference, name, orders, rng, monkeypatch):
    limit(monkeypatch, longest_team=1)
    for pairing in ("paired", "gram"):
        x, y = drawn(rng, pairing, (5, 40), 2, counts=(2, 2))
        check_gradients(alone, reference, problem(x, y, 2, orders, pairing, kernel_named(name)), rng)


@pytest.mark.parametrize("orders", [(1, 1), (3, 2)])
@pytest.mark.parametrize(
    ("rule", "depth"), [("left", 1), ("lobatto2", 1), ("lobatto3", 1), ("left", 2), ("lobatto2", math.inf)]
)
def test_grids_of_other_rules_in_several_passes(alone, reference, rule, depth, orders, rng, monkeypatch):
    limit(monkeypatch, longest_team=1)
    x, y = drawn(rng, "paired", (4, 40), 2, counts=(2, 2))
    arguments = problem(x, y, depth, orders, quadrature=RULES[rule])
    wanted = reference.solve(arguments, "grid")
    if depth == 1:
        np.testing.assert_allclose(wanted, np.exp(sums_of_increments("linear", x, y, orders)), rtol=1e-12)
    np.testing.assert_allclose(alone.solve(arguments, "grid"), wanted, rtol=1e-11)
    check_gradients(alone, reference, arguments, rng)


@pytest.mark.parametrize("orders", [(1, 1), (0, 2)])
def test_grids_by_nodes_in_several_passes(alone, reference, orders, rng, monkeypatch):
    limit(monkeypatch, longest_team=1)
    x, y = drawn(rng, "paired", (4, 40), 2, counts=(2, 2))
    arguments = problem(x, y, 2, orders, order=2)
    np.testing.assert_allclose(
        alone.solve(arguments, "grid")[..., 1], sums_of_increments("linear", x, y, orders), rtol=1e-11, atol=1e-13
    )
    np.testing.assert_allclose(
        alone.solve(arguments, "grid"), reference.solve(arguments, "grid"), rtol=1e-10, atol=1e-13
    )


@pytest.mark.parametrize("pairing", ["gram", "symmetric"])
def test_grids_do_not_depend_on_how_pairs_are_cut_into_chunks(alone, pairing, rng):
    x, y = drawn(rng, pairing, (5, 20) if pairing == "gram" else (9, 9), 2, counts=(3, 4))
    arguments = problem(x, y, 2, (1, 1), pairing, kernel_named("rbf"))
    chunked = dataclasses.replace(arguments, max_batch=1)
    np.testing.assert_array_equal(alone.solve(chunked, "stack"), alone.solve(arguments, "stack"))
