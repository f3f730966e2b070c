"""Truncation by the number of nodes: components, their grids and the gradients of both against the reference."""

import dataclasses

import numpy as np
import pytest
from cases import gradients_of, problem, relative_to_path
from cuda_cases import RULES, compare_parts, drawn, in_float64, kernel_named, limit, padded

from branchsig import _validation


@pytest.mark.parametrize(
    ("rule", "order"), [("trapezoid", 4), ("left", 3), ("lobatto2", 4), ("lobatto3", 2), ("lobatto5", 6)]
)
def test_parts_of_every_rule_agree_with_the_reference(backend, reference, rule, order, rng):
    x, y = drawn(rng, "gram", (5, 34), 3)
    quadrature = _validation.quadrature(rule)
    compare_parts(backend, reference, problem(x, y, np.inf, (1, 0), "gram", quadrature=quadrature, order=order))


@pytest.mark.parametrize(("name", "pairing"), [("rbf", "symmetric"), ("quartic", "paired")])
def test_parts_with_other_static_kernels_agree_with_the_reference(backend, reference, name, pairing, rng):
    x, y = drawn(rng, pairing, (9, 6), 3)
    compare_parts(backend, reference, problem(x, y, 3, (0, 0), pairing, kernel_named(name), order=3))


@pytest.mark.parametrize("order", [1, 15, 16])
def test_parts_of_every_order_agree_with_the_reference(backend, reference, order, rng):
    x, y = drawn(rng, "paired", (4, 6), 3, size=1.0)
    compare_parts(backend, reference, problem(x, y, np.inf, quadrature=RULES["lobatto2"], order=order))


@pytest.mark.parametrize(("depth", "order"), [(0, 3), (1, 3), (2, 4), (15, 16)])
def test_a_depth_below_the_order_is_left_to_the_reference(backend, reference, depth, order, rng):
    x, y = drawn(rng, "gram", (4, 6), 3, size=1.0)
    arguments = problem(x, y, depth, (1, 0), "gram", order=order)
    assert not backend.backend.plan(backend.sent(arguments), grid=False).serves
    compare_parts(backend, reference, arguments)


@pytest.mark.parametrize("teams", ["teams of one warp", "teams of several warps"])
def test_parts_on_long_second_paths_are_done_in_passes(backend, reference, teams, rng, monkeypatch):
    limit(monkeypatch, longest_team=1 if teams == "teams of one warp" else 4)
    x, y = drawn(rng, "paired", (40, 150), 2, counts=(1, 1), size=0.5, dtype=np.float32)
    compare_parts(backend, reference, problem(x, y, 3, quadrature=RULES["lobatto2"], order=3))


@pytest.mark.parametrize(("name", "pairing"), [("linear", "gram"), ("quartic", "paired"), ("rbf", "symmetric")])
def test_parts_of_padded_paths_agree_with_the_reference(backend, reference, name, pairing, rng):
    arguments = padded(rng, pairing, ((7, 1, 4), (5, 3, 35)), name=name)
    compare_parts(backend, reference, dataclasses.replace(arguments, order=3, quadrature=RULES["left"]))
    one_side = dataclasses.replace(arguments, order=2, path1=np.nan_to_num(arguments.path1), lengths1=None)
    if pairing != "symmetric":
        compare_parts(backend, reference, one_side)


@pytest.mark.parametrize("of_grid", [False, True])
def test_parts_that_are_not_finite_give_gradients_that_are_none(backend, reference, of_grid, rng):
    x, y = drawn(rng, "paired", (6, 9), 2, counts=(3, 3))
    x[1] *= 1e160
    x[2, 3] = np.nan
    arguments = problem(x, y, 3, order=3)
    wanted, found = (
        reference.solve(arguments, "grid" if of_grid else "end"),
        backend.solve(arguments, "grid" if of_grid else "end"),
    )
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))
    for gradient in gradients_of(backend, arguments, np.ones(wanted.shape), wrt_log=False, left=True, right=True):
        assert np.isfinite(gradient[0]).all()
        assert np.isnan(gradient[1:]).all()


@pytest.mark.parametrize("of_grid", [False, True])
def test_parts_beyond_the_range_of_float32_have_the_gradients_of_their_float64_values(backend, reference, of_grid, rng):
    x, y = drawn(rng, "paired", (4, 5), 2, np.float32, counts=(2, 2))
    x[1] *= np.float32(1e15)
    arguments = problem(x, y, 3, order=3)
    exact = in_float64(arguments)
    wanted = reference.solve(exact, "grid" if of_grid else "end")
    assert np.abs(wanted[1]).max() > 1e39
    derivs = np.zeros(wanted.shape)
    derivs[..., 1] = 1.0  # of k_1, whose gradient float32 holds
    options = {"wrt_log": False, "left": True, "right": True}
    found = gradients_of(backend, arguments, derivs.astype(np.float32), **options)
    for mine, its in zip(found, gradients_of(reference, exact, derivs, **options), strict=True):
        assert relative_to_path(mine, its) < 1e-5


def test_an_order_of_zero_has_one_part_which_is_one(backend, rng):
    x, y = drawn(rng, "gram", (5, 6), 2)
    np.testing.assert_array_equal(backend.solve(problem(x, y, 3, (0, 0), "gram", order=0), "end"), np.ones((3, 2, 1)))
    still = problem(x[:, :1], y, 3, (0, 0), "gram", order=1)
    np.testing.assert_array_equal(backend.solve(still, "grid")[..., 0], np.ones((3, 2, 1, 6)))
    np.testing.assert_array_equal(backend.solve(still, "grid")[..., 1], np.zeros((3, 2, 1, 6)))
