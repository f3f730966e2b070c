"""How pairs are shared among warps: passes of a team, halves of warps, and relays. All agree with the reference."""

import math

import numpy as np
import pytest
from cases import gradients_of, problem, relative, relative_to_path
from cuda_cases import compare, compare_parts, drawn, emulated_cupy, kernel_named, limit, padded, relays

from branchsig import _validation


@pytest.mark.parametrize("teams", ["teams of one warp", "teams of several warps"])
def test_second_paths_longer_than_a_team_is_wide_are_done_in_passes(backend, reference, teams, rng, monkeypatch):
    limit(monkeypatch, longest_team=1 if teams == "teams of one warp" else 4)
    for name in ("linear", "rbf"):
        x, y = drawn(rng, "paired", (40, 300), 2, counts=(1, 1), size=0.3)
        compare(backend, reference, problem(x, y, 3, static_kernel=kernel_named(name)))


@pytest.mark.parametrize("name", ["linear", "rbf", "quartic"])
@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
def test_few_pairs_of_long_paths_are_relayed(relaying, reference, name, pairing, rng):
    x, y = drawn(rng, pairing, (40, 270) if pairing == "paired" else (270, 270), 3, counts=(2, 1), size=0.2)
    compare(relaying, reference, problem(x, y, 3, (0, 0), pairing, kernel_named(name)), grids=pairing == "paired")
    assert min(relays(relaying)) > 0


def test_few_pairs_in_float32_are_relayed(relaying, reference, rng):
    for name in ("linear", "rbf"):
        x, y = drawn(rng, "paired", (9, 270), 3, np.float32, counts=(2, 2))
        compare(relaying, reference, problem(x, y, 3, static_kernel=kernel_named(name)), grids=True)
    assert min(relays(relaying)) > 0


@pytest.mark.parametrize(("rule", "depth"), [("trapezoid", 7), ("left", 3), ("lobatto2", 3), ("trapezoid", math.inf)])
def test_other_rules_and_depths_are_relayed(relaying, reference, rule, depth, rng):
    x, y = drawn(rng, "paired", (20, 270), 2, counts=(2, 2), size=0.2)
    arguments = problem(x, y, depth, quadrature=_validation.quadrature(rule))
    compare(relaying, reference, arguments, grids=True)
    assert min(relays(relaying)) > 0


def test_truncations_by_nodes_are_relayed(relaying, reference, rng):
    x, y = drawn(rng, "paired", (20, 270), 2, counts=(2, 2), size=0.2)
    compare_parts(relaying, reference, problem(x, y, 3, order=3))
    assert min(relays(relaying)) > 0


def test_wide_cells_are_shared_by_the_stages_of_a_relay(relaying, reference, rng):
    x, y = drawn(rng, "paired", (4, 5), 2, counts=(1, 1))
    for name in ("linear", "quartic"):
        compare(relaying, reference, problem(x, y, 3, (1, 7), static_kernel=kernel_named(name)))
    assert min(relays(relaying)) > 0


@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_padded_paths_are_relayed(relaying, reference, name, rng):
    compare(relaying, reference, padded(rng, "paired", ((20, 1, 9), (300, 270, 1)), name=name), grids=True)


def test_relayed_kernels_beyond_the_range_are_done_again(relaying, reference, rng):
    x, y = drawn(rng, "paired", (20, 270), 2, counts=(3, 3), size=0.2)
    x[1], y[1] = 20 * np.abs(x[1]).cumsum(axis=0), np.abs(y[1]).cumsum(axis=0)
    arguments = problem(x, y, 3)
    assert reference.solve(arguments, "end", log=True)[1] > 709
    wanted = reference.solve(arguments, "end", log=True)
    assert relative(relaying.solve(arguments, "end", log=True), wanted) < 1e-12
    options = {"wrt_log": True, "left": True, "right": True}
    found = gradients_of(relaying, arguments, np.ones(3), **options)
    for mine, its in zip(found, gradients_of(reference, arguments, np.ones(3), **options), strict=True):
        assert relative_to_path(mine, its) < 1e-11
    assert min(relays(relaying)) > 0


@pytest.mark.parametrize(
    ("count", "columns", "kernel", "warps", "turns"),
    [
        (1, 4096, "forward", 4, 8),
        (1, 4096, "backward", 4, 32),
        (32, 1000, "forward", 4, 64),
        (32, 1000, "backward", 4, 256),
        (66, 1000, "forward", 4, 132),
        (66, 1000, "backward", 8, 264),
        (67, 1000, "forward", 8, 0),
        (1, 260, "forward", 4, 3),
        (1, 256, "forward", 8, 0),
        (1, 128, "forward", 4, 0),
    ],
)
def test_pairs_are_relayed_where_they_leave_processors_without_work(
    emulated, count, columns, kernel, warps, turns, monkeypatch
):
    monkeypatch.setattr(emulated_cupy, "PROCESSORS", 132)
    x, y = (emulated_cupy.zeros((count, length, 3)) for length in (8, columns + 1))
    plan = emulated.backend.plan(problem(x, y, 4), grid=False)
    ((instance, lanes, _, most),) = plan.strips(kernel, log_domain=False)
    launch = plan.planned(instance, lanes, count, min(most, plan.columns))
    assert (launch.warps, count * launch.stages) == (warps, turns)


def test_pairs_whose_workspaces_have_no_room_are_not_relayed(relaying, reference, rng, monkeypatch):
    limit(monkeypatch, workspace_bytes=1)
    x, y = drawn(rng, "paired", (5, 270), 2, counts=(2, 2), size=0.2)
    compare(relaying, reference, problem(x, y, 3))
    assert not any(relays(relaying))


@pytest.mark.parametrize("name", ["linear", "rbf", "quartic"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("pairing", "length"), [("gram", 40), ("symmetric", 64), ("paired", 20)])
def test_halves_of_warps_do_a_pair_each(backend, reference, pairing, length, dtype, name, rng, monkeypatch):
    limit(monkeypatch, pairs_per_processor=0)
    x, y = drawn(rng, pairing, (9, length), 3, dtype, counts=(3, 5))
    compare(backend, reference, problem(x, y, 3, (0, 0), pairing, kernel_named(name)), grids=pairing == "paired")


@pytest.mark.parametrize(("lengths", "lanes"), [((9, 40), 16), ((64, 64), 16), ((300, 300), 32), ((5, 9), 16)])
def test_pairs_are_done_by_halves_of_warps_where_that_saves_steps(emulated, lengths, lanes, rng, monkeypatch):
    monkeypatch.setattr(emulated_cupy, "PROCESSORS", 100)
    x, y = drawn(rng, "gram", lengths, 3, counts=(6, 9))
    arguments = emulated.sent(problem(x, y, 3, (0, 0), "gram"))
    for least, expected in ((0, lanes), (1, 32)):
        limit(monkeypatch, pairs_per_processor=least)
        plan = emulated.backend.plan(arguments, grid=False)
        ((instance, found, *_),) = plan.strips("backward", log_domain=False)
        assert found == expected
        launch = plan.planned(instance, found, 54, plan.columns)
        assert launch.warps == 1 or found == 32
        assert launch.threads == found * launch.warps * launch.teams_per_block


def test_the_warps_of_a_team_share_a_wide_cell(backend, reference, rng):
    x, y = drawn(rng, "paired", (3, 3), 2, counts=(1, 1))
    compare(backend, reference, problem(x, y, 3, (0, 7), static_kernel=kernel_named("rbf")))


def test_pairs_in_flight_are_bounded_by_the_workspace(emulated, reference, rng, monkeypatch):
    x, y = drawn(rng, "gram", (6, 40), 2, counts=(5, 5))
    arguments = problem(x, y, 3, (0, 0), "gram")
    limit(monkeypatch, workspace_bytes=1)
    emulated_cupy.launches.clear()
    found = emulated.solve(arguments, "end", log=True)
    assert {(blocks, threads) for _, blocks, threads, _ in emulated_cupy.launches} == {(1, 32)}
    assert relative(found, reference.solve(arguments, "end", log=True)) < 1e-12
