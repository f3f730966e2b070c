"""No truncation: values and gradients against the reference, the blow-up, and the memory of a backward pass."""

import dataclasses
import math

import numpy as np
import pytest
from cases import gradients_of, problem, relative_to_path, walk
from cuda_cases import RULES, compare, drawn, emulated_cupy, kernel_named, limit, padded

from branchsig import _validation
from branchsig.backends.cuda import plans


def untruncated(rng, pairing, lengths, rule="trapezoid", orders=(0, 0), name="linear", **options):
    x, y = drawn(rng, pairing, lengths, 3, **{"size": 0.8} | options)
    rule = _validation.quadrature(rule)
    return problem(x, y, math.inf, orders, pairing, kernel_named(name), quadrature=rule)


@pytest.mark.parametrize("rule", ["trapezoid", *RULES])
def test_no_truncation_by_any_rule_agrees_with_the_reference(backend, reference, rule, rng):
    compare(backend, reference, untruncated(rng, "gram", (5, 34), rule, (1, 0)), grids=True)


@pytest.mark.parametrize(
    ("rule", "name", "pairing"),
    [("trapezoid", "rbf", "symmetric"), ("lobatto2", "quartic", "symmetric"), ("lobatto2", "matern52", "paired")],
)
def test_no_truncation_with_other_static_kernels_agrees_with_the_reference(
    backend, reference, rule, name, pairing, rng
):
    compare(backend, reference, untruncated(rng, pairing, (6, 9), rule, (1, 1), name, size=0.5))


@pytest.mark.parametrize(("rule", "name", "pairing"), [("trapezoid", "linear", "gram"), ("lobatto2", "rbf", "paired")])
def test_no_truncation_on_padded_paths_agrees_with_the_reference(backend, reference, rule, name, pairing, rng):
    arguments = padded(rng, pairing, ((7, 1, 4), (5, 3, 35)), name=name)
    arguments = dataclasses.replace(arguments, depth=math.inf, quadrature=_validation.quadrature(rule))
    compare(backend, reference, arguments, grids=True)


@pytest.mark.parametrize("rule", ["trapezoid", "lobatto3"])
def test_no_truncation_in_float32_agrees_with_the_reference_in_float64(backend, reference, rule, rng):
    arguments = untruncated(rng, "paired", (40, 36), rule, dtype=np.float32)
    compare(backend, reference, arguments, grids=rule == "trapezoid")


# What is in memory on the way back: the values of all passes, or of one.
@pytest.mark.parametrize("rule", ["trapezoid", "lobatto2"])
@pytest.mark.parametrize("teams", ["teams of one warp", "teams of several warps"])
def test_passes_that_are_swept_again_change_no_bit(alone, reference, rule, teams, rng, monkeypatch):
    limit(monkeypatch, longest_team=1 if teams == "teams of one warp" else 4)
    arguments = untruncated(rng, "paired", (28, 140), rule, (1, 0), size=0.7, counts=(3, 3))
    arguments.path1[1, 4:] += 1.0  # a cell that is solved carefully
    arguments.path2[1, 70:] -= 2.0
    assert np.isfinite(reference.solve(arguments, "end", log=True)).all()
    options = {"wrt_log": False, "left": True, "right": True}
    whole = gradients_of(alone, arguments, np.ones(3), **options)
    limit(monkeypatch, workspace_bytes=1)
    for mine, wanted, its in zip(
        gradients_of(alone, arguments, np.ones(3), **options),
        whole,
        gradients_of(reference, arguments, np.ones(3), **options),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, wanted)
        assert relative_to_path(mine, its) < 1e-12


# Edges are kept by the digits of the number of a pass to base 8, of which these have one, two and three.
@pytest.mark.parametrize(("warps", "length"), [(1, 100), (4, 300), (1, 258), (2, 600), (1, 2400)])
@pytest.mark.parametrize("lengths", ["of equal length", "padded"])
def test_any_number_of_passes_is_swept_again(alone, warps, length, lengths, rng, monkeypatch):
    limit(monkeypatch, longest_team=warps)
    arguments = untruncated(rng, "paired", (4, length), name="rbf", size=0.2, counts=(2, 2))
    if lengths == "padded":
        valid = {"lengths1": np.array([4, 2]), "lengths2": np.array([length // 2 + 1, length])}
        arguments = dataclasses.replace(arguments, **valid)
    options = {"wrt_log": False, "left": True, "right": True}
    whole = gradients_of(alone, arguments, np.ones(2), **options)
    limit(monkeypatch, workspace_bytes=1)
    for mine, wanted in zip(gradients_of(alone, arguments, np.ones(2), **options), whole, strict=True):
        np.testing.assert_array_equal(mine, wanted)


@pytest.mark.parametrize("rule", ["trapezoid", "left", "lobatto3"])
def test_no_truncation_on_rough_paths_agrees_with_the_reference(backend, reference, rule, rng, monkeypatch):
    # From cells near 0 to far beyond the blow-up, and far below -1.
    x, y = (walk(rng, 24, length, 2, size=1.0) * 10 ** rng.uniform(-0.5, 0.9, (24, 1, 1)) for length in (5, 6))
    y[12:] = -np.abs(y[12:]).cumsum(axis=1)
    x[12:] = np.abs(x[12:]).cumsum(axis=1)
    arguments = problem(x, y, math.inf, (0, 3), quadrature=_validation.quadrature(rule))
    wanted = reference.solve(arguments, "end", log=True)
    assert np.isinf(wanted).any() or rule == "left"
    assert wanted[np.isfinite(wanted)].min() < -5
    np.testing.assert_allclose(backend.solve(arguments, "end", log=True), wanted, rtol=1e-12, atol=1e-12)
    grid = reference.solve(arguments, "grid", log=True)
    np.testing.assert_allclose(backend.solve(arguments, "grid", log=True), grid, rtol=1e-12, atol=1e-12)
    for by_pass in (False, True):
        if by_pass:
            limit(monkeypatch, workspace_bytes=1)
        for derivs, wrt_log in ((np.ones(24), False), (np.ones(24), True), (np.ones_like(grid), True)):
            options = {"wrt_log": wrt_log, "left": True, "right": True}
            found = gradients_of(backend, arguments, derivs, **options)
            for mine, its in zip(found, gradients_of(reference, arguments, derivs, **options), strict=True):
                assert relative_to_path(mine, its) < 1e-11


@pytest.mark.parametrize("c", [-700.0, -40.0, -3.0, 1e-3, 0.02, 0.3, 0.6, 0.7, 0.75, 0.79])
def test_one_cell_solves_its_equation_up_to_its_blow_up(backend, c):
    # log K = c (3 + K) / 4, on one cell; the others stand still
    x, y = np.array([[[0.0], [1.0]]]), np.zeros((1, 41, 1))
    y[:, 21:] = c
    arguments = problem(x, y, math.inf)
    found = float(backend.solve(arguments, "end", log=True)[0])
    assert abs(found - c * (3 + math.exp(found)) / 4) < 1e-14 * max(1, abs(c)) / (1 - c * math.exp(found) / 4)
    slope = (3 + math.exp(found)) / 4 / (1 - c * math.exp(found) / 4)
    gradient = gradients_of(backend, arguments, np.ones(1), wrt_log=True, left=False, right=True)[1]
    assert abs(gradient[0, 21:].sum() / slope - 1) < 1e-12


@pytest.mark.parametrize("c", [2.0 + 1e-2, 3.0, 100.0, 1e6])
@pytest.mark.parametrize("rule", ["trapezoid", "lobatto3"])
def test_past_the_blow_up_the_kernel_is_infinite(backend, c, rule):
    x = np.array([[[0.0], [1.0]]])
    arguments = problem(x, c * x, math.inf, (3, 3), quadrature=_validation.quadrature(rule))
    assert backend.solve(arguments, "end", log=True)[0] == math.inf
    gradient, _ = gradients_of(backend, arguments, np.ones(1), wrt_log=True, left=True, right=False)
    assert np.isnan(gradient).all()


def planned(backend, length1, length2, rule):
    """The launch of the way back without truncation of one pair of these lengths."""
    paths = (emulated_cupy.zeros((1, length, 1)) for length in (length1, length2))
    arguments = problem(*paths, math.inf, quadrature=_validation.quadrature(rule))
    plan = backend.plan(arguments, grid=False)
    instance = plan.widest("backward", log_domain=False)
    return plan.planned(instance, 32, 1, plan.columns)


@pytest.mark.parametrize("longest_team", [1, 8])
@pytest.mark.parametrize("rule", ["trapezoid", "lobatto2"])
def test_without_truncation_the_workspace_of_a_long_pair_is_linear_in_its_length(
    emulated, rule, longest_team, monkeypatch
):
    limit(monkeypatch, longest_team=longest_team)
    p = _validation.quadrature(rule).p
    short = planned(emulated.backend, 1000, 1000, rule)
    assert not short.by_pass
    assert short.workspace > p**2 * 999**2
    limit(monkeypatch, workspace_bytes=1)
    for length in (1000, 2000, 10_000, 100_000, 1_000_000):
        launch = planned(emulated.backend, length, length, rule)
        assert launch.by_pass
        assert launch.teams == 1
        # For every row the nodes of a pass, 7 edges for every digit of the number of passes, and one on the way back;
        # for every column its gradient.
        digits = math.ceil(math.log(length / (32 * launch.warps), 8)) + 1
        row = 33 * launch.warps * p**2 + 7 * digits * 2 * p + 2 * p + 1 + 1
        fixed = launch.warps * 40 * 33 * p**2
        assert launch.workspace < length * (row + 2 + 8) + fixed  # 8: a group of channels of both paths


def test_without_truncation_memory_is_that_of_one_pass(emulated, rng, monkeypatch):
    sizes = []
    limit(monkeypatch, longest_team=1)
    for room in (plans.LIMITS.workspace_bytes, 1):
        limit(monkeypatch, workspace_bytes=room)
        emulated_cupy.allocated[0] = 0
        arguments = untruncated(rng, "paired", (400, 230), "lobatto2", counts=(1, 1), size=0.1)
        gradients_of(emulated, arguments, np.ones(1), wrt_log=True, left=True, right=True)
        sizes.append(emulated_cupy.allocated[0])
    assert sizes[0] > 8 * 4 * 400 * 230
    assert sizes[1] < 0.35 * sizes[0]
