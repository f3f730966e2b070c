"""Quadrature rules other than the trapezoid rule against the reference."""

import dataclasses

import numpy as np
import pytest
from cases import gradients_of, problem, relative, relative_to_path
from cuda_cases import RULES, compare, drawn, kernel_named, limit, padded

from branchsig.quadrature import BY_NAME


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_agrees_with_the_reference(backend, reference, rule, rng):
    x, y = drawn(rng, "gram", (5, 34), 3)
    compare(backend, reference, problem(x, y, 3, (1, 0), "gram", quadrature=RULES[rule]), grids=True)


@pytest.mark.parametrize(("name", "pairing"), [("rbf", "symmetric"), ("quartic", "symmetric"), ("matern52", "paired")])
def test_rules_with_other_static_kernels_agree_with_the_reference(backend, reference, name, pairing, rng):
    x, y = drawn(rng, pairing, (6, 9), 3)
    compare(backend, reference, problem(x, y, 3, (1, 1), pairing, kernel_named(name), quadrature=RULES["lobatto2"]))


@pytest.mark.parametrize(
    ("rule", "depth"), [("left", 1), ("lobatto2", 4), ("lobatto2", 6), ("lobatto3", 15), ("lobatto5", 7)]
)
def test_rules_at_every_depth_agree_with_the_reference(backend, reference, rule, depth, rng):
    x, y = drawn(rng, "paired", (5, 6), 3)
    compare(backend, reference, problem(x, y, depth, quadrature=RULES[rule]))


@pytest.mark.parametrize("teams", ["teams of one warp", "teams of several warps"])
def test_rules_on_long_second_paths_are_done_in_passes(backend, reference, teams, rng, monkeypatch):
    limit(monkeypatch, longest_team=1 if teams == "teams of one warp" else 4)
    x, y = drawn(rng, "paired", (40, 150), 2, counts=(1, 1), size=0.3)
    compare(backend, reference, problem(x, y, 3, quadrature=RULES["lobatto2"]))


@pytest.mark.parametrize("rule", ["left", "lobatto5"])
def test_rules_in_float32_agree_with_the_reference_in_float64(backend, reference, rule, rng):
    x, y = drawn(rng, "paired", (40, 36), 3, dtype=np.float32)
    compare(backend, reference, problem(x, y, 3, quadrature=RULES[rule]), grids=True)


@pytest.mark.parametrize("rule", ["left", "lobatto3"])
def test_kernels_of_rules_beyond_the_range_are_done_again(backend, reference, rule, rng):
    x, y = drawn(rng, "paired", (12, 40), 2, counts=(5, 5))
    x[:, -1] = x[:, 0] + 1.0
    goal = np.array([1.0, 420.0, -400.0, 0.5, 1e4])  # log K_1, as for the trapezoid
    y += np.linspace(0, 1, 40)[None, :, None] * (goal / 2 - (y[:, -1] - y[:, 0]).sum(axis=1) / 2)[:, None, None]
    arguments = problem(x, y, 2, quadrature=RULES[rule])
    wanted = reference.solve(arguments, "end", log=True)
    assert np.isfinite(wanted[:4]).all()
    assert not np.isfinite(wanted[4])
    assert relative(backend.solve(arguments, "end", log=True), wanted) < 1e-10
    options = {"wrt_log": True, "left": True, "right": True}
    found = gradients_of(backend, arguments, np.ones(5), **options)
    for mine, its in zip(found, gradients_of(reference, arguments, np.ones(5), **options), strict=True):
        assert relative_to_path(mine, its) < 1e-10


def test_left_points_alone_have_weights_of_zero():
    for name, rule in BY_NAME.items():
        steps = np.array(rule.steps)
        weights = steps, steps.cumsum(axis=0), np.array(rule.whole)
        assert all(part.all() for part in weights) == (name != "left")


def test_nodes_of_weight_zero_are_not_seen(backend, reference):
    # K_1 is infinite at the last corner alone, which no cell of the left-point rule looks at.
    x = np.array([[0.0], [0.1], [1e3]])[None]
    y = np.array([[0.0], [0.2], [1e3]])[None]
    arguments = problem(x, y, 2, quadrature=RULES["left"])
    wanted = reference.solve(arguments, "end", log=True)
    assert np.isfinite(wanted).all()
    assert np.isinf(reference.solve(dataclasses.replace(arguments, depth=1), "grid")[0, 2, 2])
    assert relative(backend.solve(arguments, "end", log=True), wanted) < 1e-12


@pytest.mark.parametrize(("rule", "name", "pairing"), [("left", "rbf", "gram"), ("lobatto2", "quartic", "paired")])
def test_rules_on_padded_paths_agree_with_the_reference(backend, reference, rule, name, pairing, rng):
    arguments = padded(rng, pairing, ((7, 1, 4), (5, 3, 35)), name=name)
    compare(backend, reference, dataclasses.replace(arguments, quadrature=RULES[rule]), grids=True)
