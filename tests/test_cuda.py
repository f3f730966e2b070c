"""The CUDA backend against the reference: on the emulator always, on a device too where CuPy finds one.

The emulator runs the unmodified kernels on the CPU, a fiber for every thread; see cuda_emulation.
"""

import dataclasses
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from cases import STATIC_KERNELS, QuarticKernel, gradients_of, problem, relative, relative_to_path, static_kernel, walk

import branchsig
from branchsig import _validation
from branchsig.backends import Gradients, cuda
from branchsig.backends.cuda import plans
from branchsig.backends.cuda.devices import OverDevices
from branchsig.quadrature import BY_NAME
from branchsig.static_kernels import DilatedKernel

sys.path.insert(0, str(Path(__file__).parent / "cuda_emulation"))
import emulated_cupy


def limit(monkeypatch, **limits):
    """Let plans have other limits."""
    monkeypatch.setattr(plans, "LIMITS", plans.LIMITS._replace(**limits))


class OnDevice:
    """A backend for NumPy arrays: to the device, through the CUDA backend, and back."""

    name = "cuda"

    def __init__(self, cupy):
        self.cupy = cupy
        self.backend = cuda.CudaBackend(cupy)

    def sent(self, arguments):
        x = self.cupy.asarray(arguments.path1)
        y = x if arguments.path2 is arguments.path1 else self.cupy.asarray(arguments.path2)
        return dataclasses.replace(arguments, path1=x, path2=y)

    def fetched(self, array):
        if array is None:
            return None
        return np.array(array.get() if hasattr(array, "get") else array)

    def solve(self, arguments, want, *, log=False):
        return self.fetched(self.backend.solve(self.sent(arguments), want, log=log))

    def adjoint(self, arguments, want, derivs, wrt, *, log=False, stack=None):
        stack = None if stack is None else self.cupy.asarray(stack)
        derivs = self.cupy.asarray(derivs)
        found = self.backend.adjoint(self.sent(arguments), want, derivs, wrt, log=log, stack=stack)
        return Gradients(*(self.fetched(gradient) for gradient in found))


@pytest.fixture(scope="module", params=["emulated", "device"])
def cupy(request):
    """The emulated CuPy always; the real one where it finds a device."""
    if request.param == "emulated":
        return emulated_cupy
    module = pytest.importorskip("cupy")
    if not module.is_available():
        pytest.skip("CuPy finds no device")
    return module


@pytest.fixture(scope="module")
def backend(cupy):
    return OnDevice(cupy)


@pytest.fixture
def alone(cupy, monkeypatch):
    """A backend that takes the device for so small a one that it relays nothing."""
    backend = OnDevice(cupy)
    monkeypatch.setattr(backend.backend, "processors", lambda: 3)
    return backend


@pytest.fixture
def emulated():
    """A fresh backend on the emulator, for what only the emulator can show."""
    yield OnDevice(emulated_cupy)
    emulated_cupy.seed(0)


def drawn(rng, pairing, lengths, dimension, dtype=np.float64, counts=(3, 2), size=0.35):
    x = walk(rng, counts[0], lengths[0], dimension, size=size, dtype=dtype)
    if pairing == "symmetric":
        return x, x
    return x, walk(rng, counts[0] if pairing == "paired" else counts[1], lengths[1], dimension, size=size, dtype=dtype)


def kernel_named(name):
    return QuarticKernel() if name == "quartic" else static_kernel(name)[0]


def in_float64(arguments):
    x = arguments.path1.astype(np.float64)
    y = x if arguments.path2 is arguments.path1 else arguments.path2.astype(np.float64)
    return dataclasses.replace(arguments, path1=x, path2=y)


def compare(backend, reference, arguments, *, grids=False):
    """Hold values, gradients and, where asked for, grids and their gradients against the reference."""
    single = arguments.path1.dtype == np.float32
    tolerance = 3e-5 if single else 1e-12
    rng = np.random.default_rng(7)
    exact = in_float64(arguments) if single else arguments
    wanted = reference.solve(exact, "end", log=True)
    found = backend.solve(arguments, "end", log=True)
    assert found.dtype == arguments.path1.dtype
    assert relative(np.exp(found.astype(float)), np.exp(wanted)) < tolerance
    sides = [(True, False)] if arguments.pairing == "symmetric" else [(True, True), (True, False), (False, True)]
    values = [wanted]
    if grids:
        for all_levels in (False, True) if exact.depth < math.inf else (False,):
            values.append(reference.solve(exact, "stack" if all_levels else "grid"))
            assert relative(backend.solve(arguments, "stack" if all_levels else "grid"), values[-1]) < tolerance
        values = values[:2]
    for value in values:
        derivs = rng.uniform(0.5, 1.5, value.shape).astype(arguments.path1.dtype)
        for wrt_log in (False, True):
            for left, right in sides[: 3 if wrt_log else 1]:
                options = {"wrt_log": wrt_log, "left": left, "right": right}
                found = gradients_of(backend, arguments, derivs, **options)
                wanted = gradients_of(reference, exact, derivs.astype(float), **options)
                for mine, its in zip(found, wanted, strict=True):
                    assert (mine is None) == (its is None)
                    if mine is not None:
                        assert mine.dtype == arguments.path1.dtype
                        assert relative_to_path(mine, its) < tolerance


@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
@pytest.mark.parametrize("name", [*STATIC_KERNELS, "quartic"])
def test_every_static_kernel_agrees_with_the_reference(backend, reference, name, pairing, rng):
    x, y = drawn(rng, pairing, (9, 6), 3)
    compare(backend, reference, problem(x, y, 3, (0, 0), pairing, kernel_named(name)))


@pytest.mark.parametrize("name", ["linear", "rbf", "quartic"])
@pytest.mark.parametrize("orders", [(1, 2), (3, 0), (0, 3)])
def test_refined_cells_agree_with_the_reference(backend, reference, name, orders, rng):
    x, y = drawn(rng, "gram", (6, 6), 3)
    compare(backend, reference, problem(x, y, 3, orders, "gram", kernel_named(name)))


@pytest.mark.parametrize("depth", [1, 2, 4, 5, 6, 7, 15])
def test_every_depth_agrees_with_the_reference(backend, reference, depth, rng):
    x, y = drawn(rng, "paired", (9, 6), 3)
    compare(backend, reference, problem(x, y, depth))


@pytest.mark.parametrize("name", ["linear", "polynomial"])
@pytest.mark.parametrize("dimension", [1, 4, 5, 8, 9, 13])
def test_every_number_of_channels_agrees_with_the_reference(backend, reference, dimension, name, rng):
    x, y = drawn(rng, "paired", (5, 6), dimension)
    x += np.linspace(0, 1, 5)[:, None]  # a path that ends where it began has a gradient of nearly nothing
    compare(backend, reference, problem(x, y, 3, static_kernel=kernel_named(name)))


# Strips, warps, phases of 32 rows and passes begin and end at these lengths.
@pytest.mark.parametrize("lengths", [(2, 2), (2, 33), (33, 34), (34, 2), (65, 3), (3, 66), (100, 70)])
@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_every_length_agrees_with_the_reference(backend, reference, lengths, name, rng):
    x, y = drawn(rng, "paired", lengths, 3, counts=(2, 2))
    compare(backend, reference, problem(x, y, 3, static_kernel=kernel_named(name)))


@pytest.mark.parametrize("teams", ["teams of one warp", "teams of several warps"])
def test_second_paths_longer_than_a_team_is_wide_are_done_in_passes(backend, reference, teams, rng, monkeypatch):
    limit(monkeypatch, longest_team=1 if teams == "teams of one warp" else 4)
    for name in ("linear", "rbf"):
        x, y = drawn(rng, "paired", (40, 300), 2, counts=(1, 1), size=0.3)
        compare(backend, reference, problem(x, y, 3, static_kernel=kernel_named(name)))


def with_short_teams(backend, warps, monkeypatch):
    """Let a backend have few warps to a team, so that pairs of two hundred columns are relayed."""
    limit(monkeypatch, relay_team=warps, longest_team=warps)
    monkeypatch.setattr(backend.backend, "processors", lambda: 16)
    return backend


@pytest.fixture(params=[1, 2])
def relaying(cupy, request, monkeypatch):
    return with_short_teams(OnDevice(cupy), request.param, monkeypatch)


def relays(backend):
    """The turns of every launch that a backend has planned."""
    return [one.turns for plan in backend.backend.plans.values() for made in plan.made.values() for one in made.kernels]


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
    ((instance, lanes, _, most),) = plan.strips(kernel, careful=False)
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
        ((instance, found, *_),) = plan.strips("backward", careful=False)
        assert found == expected
        launch = plan.planned(instance, found, 54, plan.columns)
        assert launch.warps == 1 or found == 32
        assert launch.threads == found * launch.warps * launch.teams_per_block


def test_the_warps_of_a_team_share_a_wide_cell(backend, reference, rng):
    x, y = drawn(rng, "paired", (3, 3), 2, counts=(1, 1))
    compare(backend, reference, problem(x, y, 3, (0, 7), static_kernel=kernel_named("rbf")))


@pytest.mark.parametrize("name", ["linear", "rbf", "quartic"])
@pytest.mark.parametrize("pairing", ["paired", "gram"])
def test_grids_and_their_gradients_agree_with_the_reference(backend, reference, name, pairing, rng):
    x, y = drawn(rng, pairing, (4, 37), 3)
    orders = (1, 0) if name == "linear" else (0, 0)
    compare(backend, reference, problem(x, y, 3, orders, pairing, kernel_named(name)), grids=True)


@pytest.mark.parametrize("pairing", ["paired", "symmetric"])
@pytest.mark.parametrize("name", ["linear", "matern32"])
def test_float32_agrees_with_the_reference_in_float64(backend, reference, name, pairing, rng):
    x, y = drawn(rng, pairing, (40, 70), 3, dtype=np.float32)
    compare(backend, reference, problem(x, y, 4, (0, 0), pairing, kernel_named(name)), grids=pairing == "paired")


@pytest.mark.parametrize("largest", [2**-5, 2**-2, 2.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cells_of_any_size(backend, reference, dtype, largest, rng):
    # The exponential of a cell has three forms, by the size of the cell.
    x, y = drawn(rng, "paired", (30, 70), 3, dtype=dtype, counts=(2, 2), size=0.05)
    increments = np.einsum("nid,njd->nij", *(np.diff(path.astype(float), axis=1) for path in (x, y)))
    arguments = problem(x, y * dtype(largest / np.max(np.abs(increments))), 2)
    exact, options = in_float64(arguments), {"wrt_log": True, "left": True, "right": True}
    tolerance = 3e-6 if dtype is np.float32 else 1e-13
    assert relative(backend.solve(arguments, "end", log=True), reference.solve(exact, "end", log=True)) < tolerance
    found = gradients_of(backend, arguments, np.ones(2, dtype), **options)
    for mine, its in zip(found, gradients_of(reference, exact, np.ones(2), **options), strict=True):
        assert relative_to_path(mine, its) < 10 * tolerance


@pytest.mark.parametrize(
    ("dtype", "scale", "x", "y"),
    [
        (
            np.float64,
            1e5,
            [[0, 0], [3e-10, 0], [7e-10, 0]],
            [[0, 0], [50, 1], [100, 3]],
        ),  # K is about to overflow
        (np.float32, 1e-3, [[0, 0], [3e3, 0], [7e3, 0]], [[0, 0], [-6e3, 1], [-1.1e4, 3]]),  # or tiny
        (np.float64, 1e150, [[0, 0], [0, 0], [0, 0]], [[0, 0], [1e10, 1], [2e10, 3]]),  # the square of the scale is inf
    ],
)
def test_scales_reach_the_ends_of_the_range(backend, reference, dtype, scale, x, y):
    x, y = (np.array([path], dtype=dtype) for path in (x, y))
    arguments = problem(x, y, 1, static_kernel=branchsig.ScaledLinearKernel(scale=scale))
    exact, options = in_float64(arguments), {"wrt_log": False, "left": True, "right": True}
    tolerance = 1e-4 if dtype is np.float32 else 1e-12
    assert relative(backend.solve(arguments, "end", log=True), reference.solve(exact, "end", log=True)) < tolerance
    found = gradients_of(backend, arguments, np.ones(1, dtype), **options)
    for mine, its in zip(found, gradients_of(reference, exact, np.ones(1), **options), strict=True):
        # Point 1 has the same from both of its steps: nothing, and inf - inf where that is taken last.
        its = np.where(np.isnan(its) & (np.arange(3)[:, None] == 1), 0.0, its)
        np.testing.assert_allclose(mine, its, rtol=tolerance, atol=1e-42 if dtype is np.float32 else 0)


def smooth(rng, length, dimension):
    t = np.linspace(0.0, 2 * np.pi, length)[:, None, None]
    waves = np.sin(np.arange(1, 5) * t + rng.uniform(0, 6, (dimension, 4)))
    return 0.3 * (rng.standard_normal((dimension, 4)) / np.arange(1, 5) * waves).sum(axis=2)[None].astype(np.float32)


@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_float32_keeps_its_digits_on_long_smooth_paths(backend, reference, name, rng):
    # The factors of the running products are within 1e-5 of one, and their roundings would add up to 1e-3 and more.
    x = smooth(rng, 600, 3)
    arguments = problem(x, np.float32(0.8) * x[:, ::2], 4, static_kernel=kernel_named(name))
    exact, options = in_float64(arguments), {"wrt_log": True, "left": True, "right": True}
    assert relative(backend.solve(arguments, "end", log=True), reference.solve(exact, "end", log=True)) < 2e-6
    found = gradients_of(backend, arguments, np.ones(1, np.float32), **options)
    for mine, its in zip(found, gradients_of(reference, exact, np.ones(1), **options), strict=True):
        assert relative_to_path(mine, its) < 5e-5


def test_float32_keeps_its_digits_where_running_products_are_far_from_one(backend, reference, rng):
    x, y = drawn(rng, "paired", (6, 9), 2, np.float32, counts=(4, 4), size=0.1)
    for pair, (down, up) in enumerate(((-9.0, 9.0), (6.0, -6.0), (-4.0, 4.0), (-12.0, 5.0))):
        # two cells of a row next to each other, the one about the inverse of the other
        x[pair, 3:] += [np.sqrt(abs(down)), 0.0]
        y[pair, 4:] += [down / np.sqrt(abs(down)), 0.0]
        y[pair, 5:] += [up / np.sqrt(abs(down)), 0.0]
    compare(backend, reference, problem(x, y, 1), grids=True)
    compare(backend, reference, problem(x, y, 2))


def test_float32_keeps_its_digits_where_running_products_have_small_inverses(backend, reference, rng):
    x, y = drawn(rng, "paired", (9, 9), 2, np.float32, counts=(4, 4), size=0.5)
    x[:, 6:] += [2.0, 0.0]
    for column, increment in ((2, 4.0), (3, 4.0), (5, -4.0), (6, -4.0)):  # 1 to exp(8) and back, in one row
        y[:, column:] += [increment / 2.0, 0.0]
    arguments, options = problem(x, y, 1), {"wrt_log": False, "left": True, "right": True}
    derivs = np.zeros((4, 9, 9), np.float32)
    derivs[:, 4, 2:6] = 1.0  # above that row
    found = gradients_of(backend, arguments, derivs, **options)
    wanted = gradients_of(reference, in_float64(arguments), derivs.astype(float), **options)
    for mine, its in zip(found, wanted, strict=True):
        assert relative_to_path(mine, its) < 1e-6


@pytest.mark.parametrize(
    ("rule", "depth", "length"),
    [("trapezoid", 3, 1.71), ("trapezoid", 7, 1.321), ("left", 3, 2.24), ("lobatto2", 3, 1.77)],
)
def test_grids_beyond_the_range_of_float32_have_no_gradients(backend, reference, rule, depth, length, rng):
    x, y = drawn(rng, "paired", (6, 6), 2, np.float32, counts=(2, 2), size=0.1)
    x[1], y[1] = (np.linspace(0.0, length, 6)[:, None] * [1.0, 0.0] for _ in range(2))
    arguments = problem(x, y, depth, quadrature=_validation.quadrature(rule))
    assert 89 < reference.solve(arguments, "end", log=True)[1] < 340  # within that of float64
    derivs = np.zeros((2, 6, 6), np.float32)
    derivs[:, 1, 1] = 1.0
    options = {"wrt_log": False, "left": True, "right": True}
    wanted = gradients_of(reference, arguments, derivs, **options)
    for mine, its in zip(gradients_of(backend, arguments, derivs, **options), wanted, strict=True):
        assert np.isnan(mine[1]).all()
        assert relative_to_path(mine[:1], its[:1]) < 1e-4


@pytest.mark.parametrize("teams", ["warps", "halves of warps"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_kernels_beyond_the_range_of_running_products_are_done_again(
    backend, reference, dtype, teams, rng, monkeypatch
):
    limit(monkeypatch, pairs_per_processor=0 if teams == "halves of warps" else 1000)
    x, y = drawn(rng, "paired", (12, 40), 2, counts=(6, 6), dtype=np.float64)
    x[:, -1] = x[:, 0] + 1.0
    # log K_1 = <x_end - x_0, y_end - y_0>: within the range, beyond it upwards, and far below it.
    goal = np.array([1.0, 2.0, 420.0, -400.0, 0.5, 430.0]) / (1.0 if dtype == np.float64 else 8.0)
    y += np.linspace(0, 1, 40)[None, :, None] * (goal / 2 - (y[:, -1] - y[:, 0]).sum(axis=1) / 2)[:, None, None]
    arguments = problem(x.astype(dtype), y.astype(dtype), 2)
    exact = in_float64(arguments)
    wanted = reference.solve(exact, "end", log=True)
    assert np.isfinite(wanted).all()
    assert relative(backend.solve(arguments, "end", log=True), wanted) < (1e-10 if dtype == np.float64 else 1e-5)
    with np.errstate(over="ignore"):
        ends = np.exp(wanted).astype(dtype)
    np.testing.assert_allclose(backend.solve(arguments, "end"), ends, rtol=1e-9 if dtype == np.float64 else 1e-5)
    derivs = np.ones(6, dtype)
    found = gradients_of(backend, arguments, derivs, wrt_log=True, left=True, right=True)
    for mine, its in zip(
        found, gradients_of(reference, exact, derivs.astype(float), wrt_log=True, left=True, right=True), strict=True
    ):
        assert relative_to_path(mine, its) < (1e-10 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("wrt_log", [False, True])
def test_values_that_are_not_finite_stand_where_the_reference_has_them(backend, reference, wrt_log, rng):
    x, y = drawn(rng, "paired", (8, 40), 2, counts=(5, 5))
    x[1] *= 1e4  # inf or NaN
    x[2, 3] = np.nan
    x[3] *= 60  # K_2 is finite, K_3 is not
    arguments = problem(x, y, 3)
    wanted = reference.solve(arguments, "end", log=True)
    assert np.isfinite(wanted[[0, 4]]).all()
    assert not np.isfinite(wanted[[1, 2]]).any()
    found = backend.solve(arguments, "end", log=True)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    derivs = rng.standard_normal(5)
    gradients = gradients_of(backend, arguments, derivs, wrt_log=wrt_log, left=True, right=True)
    with np.errstate(over="ignore"):
        finite = np.isfinite(wanted if wrt_log else np.exp(wanted))
    for gradient in gradients:
        assert np.isfinite(gradient[finite]).all()
        assert np.isnan(gradient[~finite]).all()


@pytest.mark.parametrize("name", ["linear", "rbf", "quartic"])
@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
@pytest.mark.parametrize(
    ("rule", "depth", "order"), [("trapezoid", 3, None), ("lobatto2", math.inf, None), ("left", 3, 3)]
)
def test_pairs_without_a_derivative_contribute_nothing(backend, reference, rule, depth, order, pairing, name, rng):
    x, y = drawn(rng, pairing, (9, 12), 2, counts=(4, 3))
    x[1] *= np.nan
    arguments = problem(x, y, depth, pairing=pairing, static_kernel=kernel_named(name))
    arguments = dataclasses.replace(arguments, quadrature=BY_NAME[rule])
    options = {"wrt_log": False, "left": True, "right": pairing != "symmetric"}
    pairs = (4,) if pairing == "paired" else (4, y.shape[0])
    for nodes in ((), (9, 12)):
        if pairing == "symmetric" and (nodes or order):
            continue
        made = dataclasses.replace(arguments, order=order)
        derivs = rng.uniform(0.5, 1.5, (*pairs, *nodes, *([] if order is None else [order + 1])))
        derivs[1] = 0.0  # in a symmetric problem its mirror images have derivatives, and give NaN to the other paths
        found = gradients_of(backend, made, derivs, **options)
        for mine, its in zip(found, gradients_of(reference, made, derivs, **options), strict=True):
            if its is not None:
                assert relative_to_path(mine, its) < 1e-12
        assert np.all(found[0][1] == 0.0)


@pytest.mark.parametrize("wrt_log", [False, True])
def test_finite_grids_without_a_derivative_contribute_nothing(backend, wrt_log):
    x, y = np.array([[[0.0], [-1e6]]]), np.arange(6.0)[None, :, None]
    arguments = problem(x, y, 3)
    assert np.isfinite(backend.solve(arguments, "grid")).all()
    for gradient in gradients_of(backend, arguments, np.zeros((1, 2, 6)), wrt_log=wrt_log, left=True, right=True):
        assert np.all(gradient == 0.0)


def test_cells_without_an_increment_contribute_nothing_where_the_kernel_is_infinite(backend, reference, rng):
    x, y = drawn(rng, "paired", (6, 6), 1, counts=(2, 2))
    x[0] = np.array([0.0, 1e3, 1e3, 1e3, 1e3, 1e3])[:, None]
    y[0] = np.array([0.0, 1e3, 1e3, 1e3, 1e3, 1e3])[:, None]
    arguments = problem(x, y, 2)
    for all_levels in (False, True):
        wanted = reference.solve(arguments, "stack" if all_levels else "grid")
        assert np.isinf(wanted[0]).any()
        assert relative(backend.solve(arguments, "stack" if all_levels else "grid"), wanted) < 1e-12


RULES = {
    "left": branchsig.LeftPoint(),
    "lobatto2": branchsig.GaussLobatto(2),
    "lobatto3": branchsig.GaussLobatto(3),
    "lobatto5": branchsig.GaussLobatto(5),
}


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


def compare_parts(backend, reference, arguments):
    """Hold parts, their grids and the gradients of both against the reference."""
    single = arguments.path1.dtype == np.float32
    tolerance = 1e-5 if single else 1e-12
    rng = np.random.default_rng(7)
    exact = in_float64(arguments) if single else arguments
    symmetric = arguments.pairing == "symmetric"
    for grid in (False,) if symmetric else (False, True):
        wanted = reference.solve(exact, "grid" if grid else "end")
        found = backend.solve(arguments, "grid" if grid else "end")
        assert found.dtype == arguments.path1.dtype
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=1e-2 * tolerance)
        if symmetric:  # its gradients are asked for as those of all pairs
            return
        derivs = rng.uniform(0.5, 1.5, wanted.shape).astype(found.dtype)
        for left, right in [(True, True), (True, False), (False, True)][: 1 if grid else 3]:
            options = {"wrt_log": False, "left": left, "right": right}
            found = gradients_of(backend, arguments, derivs, **options)
            for mine, its in zip(found, gradients_of(reference, exact, derivs.astype(float), **options), strict=True):
                assert (mine is None) == (its is None)
                if mine is not None:
                    assert mine.dtype == arguments.path1.dtype
                    assert relative_to_path(mine, its) < tolerance


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


def test_an_order_of_zero_has_one_part_which_is_one(backend, rng):
    x, y = drawn(rng, "gram", (5, 6), 2)
    np.testing.assert_array_equal(backend.solve(problem(x, y, 3, (0, 0), "gram", order=0), "end"), np.ones((3, 2, 1)))
    still = problem(x[:, :1], y, 3, (0, 0), "gram", order=1)
    np.testing.assert_array_equal(backend.solve(still, "grid")[..., 0], np.ones((3, 2, 1, 6)))
    np.testing.assert_array_equal(backend.solve(still, "grid")[..., 1], np.zeros((3, 2, 1, 6)))


def dilated(rng, pairing, lengths, name, depth=3, rule="trapezoid", **options):
    """A problem with a static kernel times factors of the paths, which stand in a last channel."""
    x, y = drawn(rng, pairing, lengths, 3, **options)
    for path in (x,) if y is x else (x, y):
        path[:, 0, -1] = rng.uniform(0.3, 0.9, len(path))
    kernel = DilatedKernel(kernel_named(name))
    return problem(x, y, depth, (0, 0), pairing, kernel, quadrature=_validation.quadrature(rule))


@pytest.mark.parametrize(
    ("name", "pairing", "lengths"),
    [
        ("rbf", "gram", (9, 6)),
        ("polynomial", "symmetric", (6, 6)),
        ("matern52", "paired", (4, 70)),
        ("linear", "paired", (5, 6)),
        ("quartic", "gram", (5, 6)),
    ],
)
def test_dilated_static_kernels_agree_with_the_reference(backend, reference, name, pairing, lengths, rng):
    compare(backend, reference, dilated(rng, pairing, lengths, name), grids=name == "rbf")


@pytest.mark.parametrize(("rule", "depth"), [("lobatto2", 3), ("trapezoid", math.inf)])
def test_dilated_static_kernels_with_other_rules_and_depths_agree_with_the_reference(
    backend, reference, rule, depth, rng, monkeypatch
):
    arguments = dilated(rng, "paired", (20, 70), "rbf", depth, rule)
    compare(backend, reference, arguments)
    options = {"wrt_log": True, "left": True, "right": True}
    whole = gradients_of(backend, arguments, np.ones(3), **options)
    limit(monkeypatch, longest_team=1)
    limit(monkeypatch, workspace_bytes=1)
    for mine, wanted in zip(gradients_of(backend, arguments, np.ones(3), **options), whole, strict=True):
        np.testing.assert_array_equal(mine, wanted)


def test_dilated_static_kernels_on_padded_paths_agree_with_the_reference(backend, reference, rng):
    arguments = padded(rng, "gram", ((7, 1, 4), (5, 3, 35)), name="rbf")
    for path in (arguments.path1, arguments.path2):
        path[:, 0, -1] = rng.uniform(0.3, 0.9, len(path))
    compare(backend, reference, dataclasses.replace(arguments, static_kernel=DilatedKernel(kernel_named("rbf"))))


def test_dilated_static_kernels_are_made_inside_the_sweep(emulated, rng):
    emulated_cupy.launches.clear()
    emulated.solve(dilated(rng, "gram", (9, 6), "rbf"), "end", log=True)
    assert emulated_cupy.launches
    assert all("RBF" in name for name, *_ in emulated_cupy.launches)


def test_dilated_static_kernels_in_float32_agree_with_the_reference_in_float64(backend, reference, rng):
    compare(backend, reference, dilated(rng, "paired", (40, 70), "rbf", dtype=np.float32))


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


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rule", ["trapezoid", "lobatto2"])
def test_logarithms_of_grids_agree_with_the_reference(backend, reference, rule, dtype, rng):
    arguments = padded(rng, "gram", ((7, 1, 4), (5, 3, 35)), dtype=dtype)
    arguments.path1[0] *= 40  # its K leaves the range of numbers, its log K does not
    options = {"depth": 2, "quadrature": RULES.get(rule, arguments.quadrature)}
    for each in (dataclasses.replace(arguments, **options), problem(*drawn(rng, "paired", (5, 6), 2), 3)):
        wanted = reference.solve(in_float64(each), "grid", log=True)
        found = backend.solve(each, "grid", log=True)
        assert found.dtype == each.path1.dtype
        np.testing.assert_allclose(found, wanted, rtol=1e-5 if found.dtype == np.float32 else 1e-12, atol=1e-6)
    still = problem(*drawn(rng, "paired", (1, 6), 2), 3)
    np.testing.assert_array_equal(backend.solve(still, "grid", log=True), np.zeros((3, 1, 6)))


def padded(rng, pairing, points, orders=(0, 0), name="linear", dtype=np.float64):
    """A problem of paths with these valid points, and NaN behind them."""
    x, y = drawn(rng, pairing, [max(p) for p in points], 3, dtype, counts=[len(p) for p in points])
    for path, lengths in {id(x): (x, points[0]), id(y): (y, points[1])}.values() if y is not x else [(x, points[0])]:
        for one, length in zip(path, lengths, strict=True):
            one[length:] = np.nan
    lengths1 = np.array(points[0], dtype=np.int64)
    lengths2 = lengths1 if y is x else np.array(points[1], dtype=np.int64)
    kernel = kernel_named(name)
    return problem(x, y, 3, orders, pairing, kernel, lengths1=lengths1, lengths2=lengths2)


@pytest.mark.parametrize("name", ["linear", "rbf", "quartic"])
@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
def test_padded_paths_agree_with_the_reference(backend, reference, name, pairing, rng):
    points = ((9, 1, 2, 36), (70, 5, 1, 34))
    compare(backend, reference, padded(rng, pairing, points, name=name))


@pytest.mark.parametrize("name", ["linear", "quartic"])
@pytest.mark.parametrize("pairing", ["paired", "gram"])
def test_grids_of_padded_paths_agree_with_the_reference(backend, reference, name, pairing, rng):
    orders = (0, 1) if name == "linear" else (0, 0)
    compare(backend, reference, padded(rng, pairing, ((7, 1, 4), (5, 3, 20)), orders, name), grids=True)
    one_side = dataclasses.replace(padded(rng, pairing, ((7, 7, 7), (5, 3, 20)), orders, name), lengths1=None)
    compare(backend, reference, one_side, grids=True)


def test_padded_paths_in_float32_agree_with_the_reference(backend, reference, rng):
    compare(backend, reference, padded(rng, "gram", ((9, 40), (129, 33, 66, 2)), dtype=np.float32))


def test_kernels_of_padded_paths_that_overflow_are_done_again(backend, reference, rng):
    arguments = padded(rng, "paired", ((9, 5, 8), (70, 40, 20)))
    arguments.path1[0] *= 1e4
    arguments.path1[1] *= 60
    wanted = reference.solve(arguments, "end", log=True)
    found = backend.solve(arguments, "end", log=True)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))
    options = {"wrt_log": False, "left": True, "right": True}
    gradients = gradients_of(backend, arguments, np.ones(3), **options)
    for mine, its in zip(gradients, gradients_of(reference, arguments, np.ones(3), **options), strict=True):
        np.testing.assert_array_equal(np.isnan(mine), np.isnan(its))
    assert not gradients[0][1, 5:].any()


@pytest.mark.parametrize("name", ["linear", "rbf"])
@pytest.mark.parametrize(("dtype", "depth"), [(np.float64, 3), (np.float32, 3), (np.float64, math.inf)])
def test_padding_changes_no_bit(cupy, backend, name, dtype, depth, rng):
    # A compiler may contract other multiplications in the kernels for padded paths, which are instances of their own.
    tolerance = 0 if cupy is emulated_cupy else 1e-11 if dtype == np.float64 else 1e-5

    def same(found, wanted):
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())

    arguments = padded(rng, "paired", ((36, 5, 8, 33, 2), (130, 33, 20, 66, 40)), name=name, dtype=dtype)
    arguments = dataclasses.replace(arguments, depth=depth)
    derivs = np.ones(5, dtype)
    options = {"wrt_log": True, "left": True, "right": True}
    log_k, grid = backend.solve(arguments, "end", log=True), backend.solve(arguments, "grid")
    gradients = gradients_of(backend, arguments, derivs, **options)
    for k, (length1, length2) in enumerate(zip(arguments.lengths1, arguments.lengths2, strict=True)):
        x, y = (np.repeat(path[k : k + 1, :length], 5, axis=0) for path, length in
                ((arguments.path1, length1), (arguments.path2, length2)))  # fmt: skip
        alone = problem(x, y, depth, static_kernel=arguments.static_kernel)
        same(log_k[k], backend.solve(alone, "end", log=True)[0])
        same(grid[k, :length1, :length2], backend.solve(alone, "grid")[0])
        for whole, part, length in zip(
            gradients, gradients_of(backend, alone, derivs, **options), (length1, length2), strict=True
        ):
            same(whole[k, :length], part[0])
            np.testing.assert_array_equal(whole[k, length:], 0.0)


@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
def test_nothing_to_sweep_gives_ones_and_zeros(backend, pairing, rng):
    for count, length, depth in ((0, 4, 3), (2, 1, 3), (2, 4, 0)):
        x, y = drawn(rng, pairing, (length, length), 2, counts=(count, count))
        arguments = problem(x, y, depth, (0, 0), pairing)
        shape = (count,) if pairing == "paired" else (count, count)
        np.testing.assert_array_equal(backend.solve(arguments, "end", log=True), np.zeros(shape))
        np.testing.assert_array_equal(backend.solve(arguments, "grid"), np.ones((*shape, length, length)))
        left, right = gradients_of(backend, arguments, np.ones(shape), wrt_log=False, left=True, right=True)
        np.testing.assert_array_equal(left, np.zeros_like(x))
        np.testing.assert_array_equal(right, np.zeros_like(y))


@pytest.mark.parametrize("name", ["linear", "quartic"])
@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
def test_max_batch_and_progress_cut_the_pairs_into_chunks(backend, reference, name, pairing, rng):
    x, y = drawn(rng, pairing, (5, 6), 2, counts=(5, 4))
    whole = problem(x, y, 3, (0, 0), pairing, kernel_named(name))
    seen = []
    chunked = dataclasses.replace(whole, max_batch=2, progress=lambda done, pairs: seen.append((done, pairs)))
    total = {"paired": 5, "gram": 20, "symmetric": 15}[pairing]
    np.testing.assert_array_equal(backend.solve(chunked, "end", log=True), backend.solve(whole, "end", log=True))
    assert [pairs for _, pairs in seen] == [total] * len(seen)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (total, total)
    assert len(seen) >= total // 4
    derivs = rng.standard_normal((5,) if pairing == "paired" else (5, len(y)))
    options = {"wrt_log": False, "left": True, "right": pairing != "symmetric"}
    wanted = gradients_of(reference, whole, derivs, **options)
    for mine, its in zip(gradients_of(backend, chunked, derivs, **options), wanted, strict=True):
        assert its is None or relative_to_path(mine, its) < 1e-12


def test_what_the_kernels_cannot_do_is_left_to_the_reference(backend, reference, rng):
    x, y = drawn(rng, "paired", (5, 6), 2)
    assert (
        relative(backend.solve(problem(x, y, 20), "end", log=True), reference.solve(problem(x, y, 20), "end", log=True))
        < 1e-12
    )


def test_results_have_the_same_bits_on_every_run(backend, rng):
    x, _ = drawn(rng, "symmetric", (40, 40), 2, counts=(6, 6))
    arguments = problem(x, x, 3, (0, 0), "symmetric")
    derivs = rng.standard_normal((6, 6))
    first, second = (
        (
            backend.solve(arguments, "end", log=True),
            gradients_of(backend, arguments, derivs, wrt_log=False, left=True, right=False)[0],
        )
        for _ in range(2)
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_public_functions_run_on_the_backend(backend, reference, rng, monkeypatch):
    x, y = walk(rng, 2, 3, 5, 2, size=0.2), walk(rng, 2, 3, 4, 2, size=0.2)
    derivs = rng.standard_normal((2, 3))
    options = {"time_aug": True, "lead_lag": True, "end_time": 0.2}

    def results():
        value = branchsig.branched_sig_kernel(x, y, 3, 1, normalize=True, **options)
        gram = branchsig.branched_sig_kernel_gram(x, None, 3, **options)
        whole = branchsig.branched_sig_kernel(x, y, math.inf, normalize=True, **options)
        return value, gram, whole, *branchsig.branched_sig_kernel_backprop(derivs, x, y, 3, right_deriv=True, **options)

    monkeypatch.setitem(branchsig.backends.choice.serving, "numpy", reference)
    wanted = results()
    monkeypatch.setitem(branchsig.backends.choice.serving, "numpy", backend)
    for found, expected in zip(results(), wanted, strict=True):
        assert relative(found, expected) < 1e-11


@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
def test_kernels_are_the_exponentials_of_their_logarithms(backend, reference, pairing, rng):
    x, y = drawn(rng, pairing, (6, 7), 2)
    arguments = problem(x, y, 3, (0, 0), pairing)
    still = dataclasses.replace(arguments, depth=0)
    ragged = padded(rng, pairing, ((5, 1, 3), (5, 1, 3) if pairing == "symmetric" else (7, 2, 4)))
    for each in (arguments, still, ragged):
        found = backend.solve(each, "end")
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, np.exp(reference.solve(each, "end", log=True)), rtol=1e-12)


# What follows needs the emulator.


@pytest.fixture
def installed(emulated, monkeypatch):
    """The emulator in the place of CuPy, for the whole package."""
    monkeypatch.setitem(sys.modules, "cupy", emulated_cupy)
    branchsig.backends.choice.serving.pop("cupy", None)
    yield branchsig.backends.for_cupy()
    branchsig.backends.choice.serving.pop("cupy", None)


@pytest.fixture
def on_device(emulated, monkeypatch):
    """Public functions take arrays of the emulated CuPy, and its backend serves them."""
    from branchsig import _validation, kernel_backprop, normalization

    def as_it_is(array):
        return array if isinstance(array, emulated_cupy.ndarray) else branchsig._arrays.contiguous(array)

    for module in (_validation, kernel_backprop, normalization):
        monkeypatch.setattr(module, "contiguous", as_it_is)
    monkeypatch.setitem(branchsig.backends.choice.serving, "numpy", emulated.backend)
    emulated_cupy.waits.clear()
    return emulated


def test_the_host_waits_for_the_device_only_where_values_are_to_be_checked(on_device, rng):
    x, y = (emulated_cupy.asarray(path) for path in drawn(rng, "gram", (5, 6), 2))
    one = emulated_cupy.ones((3, 3))
    x[0] *= 1e4
    branchsig.branched_sig_kernel(x[:2], y, 3)
    branchsig.branched_sig_kernel(x[:2], y, 3, return_grid=True, check_finite=False)
    branchsig.branched_sig_kernel(x, x, 3, time_aug=True, lead_lag=True)
    branchsig.branched_sig_kernel_stack(x, x, 3)
    branchsig.branched_sig_kernel_gram(x, None, 3, normalize=True)
    branchsig.branched_sig_kernel_gram_backprop(one, x, x, 3, right_deriv=True)
    gram, pullback = branchsig.branched_sig_kernel_gram_vjp(x, None, 3)
    pullback(gram)
    branchsig.branched_sig_kernel(x, x, 3, time_aug=True, lead_lag=True, lengths1=[2, 5, 3])
    branchsig.branched_sig_kernel(x, x, 3, quadrature="lobatto2", log=True, return_grid=True)
    branchsig.branched_sig_kernel_backprop(one[0], x, x, 3, quadrature="left", right_deriv=True)
    branchsig.branched_sig_kernel_gram(x, None, 3, order=2, return_levels=True)
    branchsig.branched_sig_kernel(x, x, math.inf, lengths1=[2, 5, 3], check_finite=False)
    assert isinstance(gram, emulated_cupy.ndarray)
    assert not emulated_cupy.waits
    with pytest.warns(RuntimeWarning, match="overflowed|lost all their digits"):
        branchsig.branched_sig_kernel(x[:2], y, 3, check_finite=True)
    with pytest.warns(RuntimeWarning, match="overflowed|lost all their digits"):
        branchsig.branched_sig_kernel_stack(x, x, 3, check_finite=True)
    assert emulated_cupy.waits


def test_the_host_looks_at_its_own_values_unless_told_not_to(reference, rng, monkeypatch):
    monkeypatch.setitem(branchsig.backends.choice.serving, "numpy", reference)
    x, _ = drawn(rng, "symmetric", (5, 6), 2)
    x[0] *= 1e4
    for function in (branchsig.branched_sig_kernel, branchsig.branched_sig_kernel_stack, branchsig.branched_sig_mmd):
        with pytest.warns(RuntimeWarning, match="overflowed|lost all their digits"):
            function(x, x, 3)
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("error")
            function(x, x, 3, check_finite=False)
    with pytest.raises(TypeError, match="check_finite"):
        branchsig.branched_sig_kernel(x, x, 3, check_finite=1)


@pytest.mark.parametrize(
    ("quadrature", "order", "depth"),
    [("trapezoid", None, 3), ("lobatto2", None, 3), ("left", 2, 3), ("trapezoid", None, math.inf)],
)
@pytest.mark.parametrize("return_grid", [False, True])
def test_after_a_warm_up_nothing_is_compiled(installed, return_grid, quadrature, order, depth, rng, monkeypatch):
    kernel = kernel_named("rbf")
    options = {"return_grid": return_grid, "quadrature": quadrature, "order": order}
    branchsig.warm_up(depth, static_kernel=kernel, dimension=2, **options)
    monkeypatch.setattr(cuda.instances, "source", lambda: pytest.fail("compiled again"))
    for lengths in ((5, 6), (4, 40)):
        x, y = (emulated_cupy.asarray(path) for path in drawn(rng, "gram", lengths, 2))
        rule = _validation.quadrature(quadrature)
        arguments = problem(x, y, depth, (0, 0), "gram", kernel, quadrature=rule, order=order)
        if order is not None:
            value = installed.solve(arguments, "grid" if return_grid else "end")
        else:
            value = installed.solve(arguments, "grid") if return_grid else installed.solve(arguments, "end", log=True)
        gradients_of(installed, arguments, emulated_cupy.ones(value.shape), wrt_log=True, left=True, right=True)


@pytest.mark.parametrize("return_grid", [False, True])
@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_a_warm_up_without_a_dimension_is_for_all(installed, name, return_grid, monkeypatch):
    compiled = []
    monkeypatch.setattr(installed.inner, "function", compiled.append)
    options = {"static_kernel": kernel_named(name), "return_grid": return_grid}
    branchsig.warm_up(4, **options)
    of_any, compiled[:] = set(compiled), []
    for dimension in range(1, 20):
        branchsig.warm_up(4, dimension=dimension, **options)
    assert set(compiled) == of_any


def test_a_warm_up_counts_no_factor_of_a_dilation_as_a_channel(installed, rng, monkeypatch):
    kernel = DilatedKernel(kernel_named("rbf"))
    compiled = []
    monkeypatch.setattr(installed.inner, "function", compiled.append)
    branchsig.warm_up(4, static_kernel=kernel, dimension=5, gradients=False)
    x, y = drawn(rng, "paired", (5, 6), 5)
    arguments = problem(x, y, 4, static_kernel=kernel)
    plan = installed.inner.plan(OnDevice(emulated_cupy).sent(arguments), grid=False)
    assert plan.widest("forward", careful=False).expression in compiled


def test_a_warm_up_refuses_what_it_cannot_compile(installed, monkeypatch):
    with pytest.raises(ValueError, match="dimension"):
        branchsig.warm_up(3, dimension=0)
    with pytest.raises(TypeError, match="dimension"):
        branchsig.warm_up(3, dimension="4")
    with pytest.raises(ValueError, match="dtype"):
        branchsig.warm_up(3, dtype="int32")
    with pytest.raises(ValueError, match="dtype"):
        branchsig.warm_up(3, dtype="float16")
    monkeypatch.setattr(emulated_cupy, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="nvidia-smi"):
        branchsig.warm_up(3)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"branchsig\[cuda12\]"):
        branchsig.warm_up(3)


def test_a_cupy_that_is_too_old_is_named(installed, monkeypatch):
    branchsig.backends.choice.serving.pop("cupy", None)
    monkeypatch.setattr(emulated_cupy, "__version__", "13.6.0")
    with pytest.raises(ImportError, match=r"CuPy 13.6.0 is installed, .* CuPy 14 .*branchsig\[cuda12\]"):
        branchsig.warm_up(2)


@pytest.mark.parametrize(
    ("quadrature", "order", "depth"),
    [("trapezoid", None, 3), ("lobatto2", None, 3), ("lobatto2", 3, 3), ("trapezoid", None, math.inf)],
)
def test_the_order_of_the_threads_changes_no_bit(emulated, quadrature, order, depth, rng, monkeypatch):
    x, y = drawn(rng, "gram", (35, 70), 3, counts=(2, 2))
    rule = _validation.quadrature(quadrature)
    arguments = problem(x, y, depth, (0, 0), "gram", kernel_named("rbf"), quadrature=rule, order=order)
    results = []
    if depth == math.inf:
        limit(monkeypatch, workspace_bytes=1)
    for seed in range(6):
        emulated_cupy.seed(seed)
        value = emulated.solve(arguments, "end", log=True) if order is None else emulated.solve(arguments, "end")
        gradients = gradients_of(emulated, arguments, np.ones(value.shape), wrt_log=True, left=True, right=True)
        results.append((value, *gradients))
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("rule", "depth"), [("trapezoid", 3), ("lobatto2", 3), ("trapezoid", math.inf)])
def test_the_order_of_the_blocks_changes_no_bit(emulated, rule, depth, rng, monkeypatch):
    relaying = with_short_teams(emulated, 2, monkeypatch)
    x, y = drawn(rng, "paired", (35, 270), 3, counts=(3, 3), size=0.2)
    arguments = problem(x, y, depth, static_kernel=kernel_named("rbf"), quadrature=_validation.quadrature(rule))
    results = []
    for seed in range(8):
        emulated_cupy.seed(seed)
        gradients = gradients_of(relaying, arguments, np.ones(3), wrt_log=True, left=True, right=True)
        results.append((relaying.solve(arguments, "end", log=True), *gradients))
    assert min(relays(relaying)) > 0
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_order_of_the_threads_changes_no_bit_of_padded_paths(emulated, rng):
    arguments = padded(rng, "gram", ((35, 1), (70, 9)), name="rbf")
    results = []
    for seed in range(4):
        emulated_cupy.seed(seed)
        gradients = gradients_of(emulated, arguments, np.ones((2, 2)), wrt_log=True, left=True, right=True)
        results.append((emulated.solve(arguments, "stack"), *gradients))
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


def over_devices(emulated):
    return OverDevices(emulated.backend, emulated_cupy)


@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
@pytest.mark.parametrize("devices", [(0, 1), (1,), (1, 0)])
@pytest.mark.parametrize("name", ["linear", "quartic"])
def test_devices_share_the_pairs(emulated, reference, pairing, devices, name, rng):
    x, y = drawn(rng, pairing, (6, 9), 2, counts=(5, 5))
    arguments = problem(x, y, 3, (0, 0), pairing, kernel_named(name))
    with emulated_cupy.Device(1):
        sent = dataclasses.replace(emulated.sent(arguments), devices=devices)
        derivs = rng.standard_normal((5,) if pairing == "paired" else (5, 5))
        there = emulated_cupy.asarray(derivs)
    spread, before = over_devices(emulated), len(emulated_cupy.launches)
    options = {"wrt_log": True, "left": True, "right": pairing != "symmetric"}
    found = [spread.solve(sent, "end", log=True), *gradients_of(spread, sent, there, **options)]
    wanted = [reference.solve(arguments, "end", log=True), *gradients_of(reference, arguments, derivs, **options)]
    if pairing != "symmetric":
        found.append(spread.solve(sent, "stack"))
        wanted.append(reference.solve(arguments, "stack"))
        found.append(spread.solve(dataclasses.replace(sent, depth=math.inf), "end", log=True))
        wanted.append(reference.solve(dataclasses.replace(arguments, depth=math.inf), "end", log=True))
        in_parts = {"depth": math.inf, "order": 3}
        found.append(spread.solve(dataclasses.replace(sent, **in_parts), "end"))
        wanted.append(reference.solve(dataclasses.replace(arguments, **in_parts), "end"))
    for mine, its in zip(found, wanted, strict=True):
        if its is not None:
            assert mine.device.id == 1
            np.testing.assert_allclose(np.asarray(mine), its, rtol=1e-10, atol=1e-12)
    assert {device for *_, device in emulated_cupy.launches[before:]} == set(devices)


def test_more_devices_than_pairs_do_no_harm(emulated, rng):
    x, _ = drawn(rng, "symmetric", (6, 6), 2, counts=(1, 1))
    sent = dataclasses.replace(emulated.sent(problem(x, x, 3, (0, 0), "symmetric")), devices=(0, 1))
    np.testing.assert_array_equal(
        over_devices(emulated).solve(sent, "end", log=True), emulated.backend.solve(sent, "end", log=True)
    )


def test_what_has_no_work_for_devices_is_not_spread(emulated, rng):
    x, _ = drawn(rng, "symmetric", (1, 1), 2)
    for depth, path in ((3, x), (0, drawn(rng, "symmetric", (4, 4), 2)[0])):
        sent = dataclasses.replace(emulated.sent(problem(path, path, depth, (0, 0), "gram")), devices=(0, 1))
        assert np.all(over_devices(emulated).solve(sent, "grid") == 1.0)


def test_gram_matrices_over_devices(on_device, monkeypatch, rng):
    x, y = drawn(rng, "gram", (5, 7), 2, counts=(4, 3))
    x, y = emulated_cupy.asarray(x), emulated_cupy.asarray(y)
    monkeypatch.setitem(branchsig.backends.choice.serving, "numpy", over_devices(on_device))

    def results(**options):
        gram = branchsig.branched_sig_kernel_gram(x, y, 3, normalize="dilation", **options)
        whole, pullback = branchsig.branched_sig_kernel_gram_vjp(x, None, 3, normalize=True, **options)
        return gram, whole, pullback(emulated_cupy.ones(whole.shape))[0]

    before = len(emulated_cupy.launches)
    for found, wanted in zip(results(devices=[0, 1]), results(), strict=True):
        np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=1e-11, atol=1e-13)
    assert {device for *_, device in emulated_cupy.launches[before:]} == {0, 1}


def test_devices_that_do_not_exist_are_refused(emulated, rng):
    x, y = drawn(rng, "gram", (5, 7), 2)
    sent = dataclasses.replace(emulated.sent(problem(x, y, 3, (0, 0), "gram")), devices=(0, 2))
    with pytest.raises(ValueError, match=r"devices is \[0, 2\]: CuPy finds 2 devices, 0 to 1"):
        over_devices(emulated).solve(sent, "end", log=True)


PADDED_MUTATIONS = {
    "the grid is extended": ("sweep.extend(grid + turns.pair() * nodes, grids, content);", ""),
    "the padding has no gradient": ("if (PADDED) gradients.clear_padding(mine.out1, mine.out2);", ""),
    "a pair has its own first length": ("if (lengths1) problem.length1 = lengths1[pair.first];", "", 2),
    "a pair has its own second length": ("if (lengths2) problem.length2 = lengths2[pair.second];", "", 2),
}


@pytest.mark.parametrize("mutation", PADDED_MUTATIONS)
def test_a_mistake_at_the_padding_is_caught(emulated, reference, mutation, rng, monkeypatch):
    original, mutated, *count = PADDED_MUTATIONS[mutation]
    text = cuda.source()
    assert text.count(original) == (count[0] if count else 1)
    monkeypatch.setattr(cuda.instances, "source", lambda: text.replace(original, mutated))
    arguments = padded(rng, "gram", ((6, 9), (140, 130)))
    derivs = np.ones((2, 2))
    wanted = (
        reference.solve(arguments, "grid"),
        *gradients_of(reference, arguments, derivs, wrt_log=True, left=True, right=True),
    )

    def survives(seed):
        emulated_cupy.seed(seed)
        found = (
            emulated.solve(arguments, "grid"),
            *gradients_of(emulated, arguments, derivs, wrt_log=True, left=True, right=True),
        )
        return all(np.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(found, wanted, strict=True))

    assert not all(survives(seed) for seed in range(8))


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize(
    ("name", "rule", "depth"),
    [("linear", "trapezoid", 3), ("rbf", "trapezoid", 3), ("linear", "lobatto2", 3), ("linear", "trapezoid", math.inf)],
)
def test_nothing_depends_on_memory_that_nobody_wrote(emulated, reference, name, rule, depth, halves, rng, monkeypatch):
    # A NaN that is found there would send a pair to the careful kernels, which might get it right.
    monkeypatch.setattr(emulated_cupy, "poison", 0x3F)  # a small number
    monkeypatch.setattr(emulated_cupy, "PROCESSORS", 132)
    limit(monkeypatch, pairs_per_processor=0 if halves else 1000)
    x, y = drawn(rng, "gram", (9, 80), 3, counts=(3, 5), size=0.3)
    quadrature = _validation.quadrature(rule)
    compare(emulated, reference, problem(x, y, depth, (0, 0), "gram", kernel_named(name), quadrature=quadrature))


@pytest.mark.parametrize("poison", [0x3F, 0xBF, 0xFF])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lengths", [(2, 6), (9, 6), (12, 6), (20, 6), (2, 150), (20, 150)])
def test_no_pair_is_done_again_for_what_lies_beyond_its_rows(emulated, lengths, dtype, poison, rng, monkeypatch):
    monkeypatch.setattr(emulated_cupy, "poison", poison)
    flagged, compiled = [], emulated.backend.function

    def function(expression):
        if "Trapezoid" not in expression:
            return compiled(expression)
        # the careful kernel does nothing, and the ninth of its arguments are the flags
        return lambda blocks, threads, arguments: flagged.append(arguments[8].memory.view(np.int32).copy())

    monkeypatch.setattr(emulated.backend, "function", function)
    x, y = drawn(rng, "paired", lengths, 2, dtype=dtype, size=0.1)
    gradients_of(emulated, problem(x, y, 3, (0, 0), "paired"), np.ones(3, dtype), wrt_log=False, left=True, right=True)
    np.testing.assert_array_equal(flagged, np.zeros((1, 3)))


def test_arrays_of_another_device_are_worked_on_there(emulated, reference, rng):
    x, y = drawn(rng, "gram", (5, 6), 2)
    arguments = problem(x, y, 3, (0, 0), "gram")
    with emulated_cupy.Device(1):
        there = emulated.sent(arguments)
        derivs = emulated_cupy.asarray(np.ones((3, 2)))
    assert emulated_cupy.Device.current == 0
    log_k = emulated.backend.solve(there, "end", log=True)
    gradients = gradients_of(emulated.backend, there, derivs, wrt_log=False, left=True, right=True)
    assert emulated_cupy.Device.current == 0
    assert [array.device.id for array in (log_k, *gradients)] == [1, 1, 1]
    assert relative(log_k, reference.solve(arguments, "end", log=True)) < 1e-12


@pytest.mark.parametrize(("rule", "order"), [("trapezoid", None), ("left", None), ("lobatto2", 2)])
def test_the_workspace_does_not_grow_with_both_lengths(emulated, rule, order, rng):
    options = {"quadrature": _validation.quadrature(rule), "order": order}
    sizes = []
    for length in (34, 130):
        x, y = drawn(rng, "paired", (length, length), 2, counts=(1, 1), size=0.1)
        emulated_cupy.allocated[0] = 0
        derivs = np.ones((1,) if order is None else (1, order + 1))
        gradients_of(emulated, problem(x, y, 3, **options), derivs, wrt_log=True, left=True, right=True)
        sizes.append(emulated_cupy.allocated[0])
    assert sizes[1] < 4 * sizes[0]


def planned(backend, length1, length2, rule):
    """The launch of the way back without truncation of one pair of these lengths."""
    paths = (emulated_cupy.zeros((1, length, 1)) for length in (length1, length2))
    arguments = problem(*paths, math.inf, quadrature=_validation.quadrature(rule))
    plan = backend.plan(arguments, grid=False)
    instance = plan.widest("backward", careful=False)
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


def test_pairs_in_flight_are_bounded_by_the_workspace(emulated, reference, rng, monkeypatch):
    x, y = drawn(rng, "gram", (6, 40), 2, counts=(5, 5))
    arguments = problem(x, y, 3, (0, 0), "gram")
    limit(monkeypatch, workspace_bytes=1)
    emulated_cupy.launches.clear()
    found = emulated.solve(arguments, "end", log=True)
    assert {(blocks, threads) for _, blocks, threads, _ in emulated_cupy.launches} == {(1, 32)}
    assert relative(found, reference.solve(arguments, "end", log=True)) < 1e-12


def test_out_of_memory_says_what_to_do(emulated, rng):
    x, y = drawn(rng, "paired", (5, 6), 2)
    with emulated_cupy.limited_memory(16), pytest.raises(MemoryError, match="max_batch"):
        emulated.solve(problem(x, y, 3), "end", log=True)


@pytest.mark.parametrize(
    ("words", "error"),
    [("CUDA_ERROR_OUT_OF_MEMORY: out of memory", MemoryError), ("CUDA_ERROR_ILLEGAL_ADDRESS: illegal", RuntimeError)],
)
def test_errors_of_the_driver_are_raised(emulated, words, error, rng, monkeypatch):
    def fails(*_):
        raise RuntimeError(words)

    monkeypatch.setattr(emulated.backend, "function", lambda _: fails)
    x, y = drawn(rng, "paired", (5, 6), 2)
    with pytest.raises(error, match="max_batch" if error is MemoryError else "ILLEGAL_ADDRESS"):
        emulated.solve(problem(x, y, 3), "end", log=True)


def test_a_kernel_that_does_not_compile_says_what_to_do(emulated, rng, monkeypatch):
    x, y = drawn(rng, "paired", (5, 6), 2)
    monkeypatch.setattr(cuda.instances, "source", lambda: "no C++")
    with pytest.raises(RuntimeError, match=r"branchsig\[cuda12\]"):
        emulated.solve(problem(x, y, 3), "end", log=True)


FROM_THE_LEFT, FROM_THE_RIGHT = (f"__shfl_{way}_sync(ALL_LANES, handed[m][v], 1)" for way in ("up", "down"))

LOBATTO2_EDGES = [*((FROM_THE_LEFT, v) for v in range(4)), *((FROM_THE_RIGHT, v) for v in range(7))]

MUTATIONS = {
    "the running product comes from the left": (FROM_THE_LEFT, f"v == 0 ? handed[m][v] : {FROM_THE_LEFT}"),
    "the sum over the warp": ("value += __shfl_xor_sync(ALL_LANES, value, distance);", ";"),
    "1 / E comes from the right": (FROM_THE_RIGHT, f"v == 0 ? handed[m][v] : {FROM_THE_RIGHT}"),
    "the suffix sum comes from the right": (FROM_THE_RIGHT, f"v == 1 ? handed[m][v] : {FROM_THE_RIGHT}"),
    "g w comes from the right": (FROM_THE_RIGHT, f"v == 2 ? handed[m][v] : {FROM_THE_RIGHT}"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_value_not_handed_on_is_caught(emulated, reference, mutation, rng, monkeypatch):
    original, mutated = MUTATIONS[mutation]
    text = cuda.source()
    assert text.count(original) == 1
    monkeypatch.setattr(cuda.instances, "source", lambda: text.replace(original, mutated))
    x, y = drawn(rng, "paired", (40, 150), 2, counts=(1, 1))
    arguments, derivs = problem(x, y, 3), np.ones(1)
    options = {"wrt_log": False, "left": True, "right": True}
    wanted = gradients_of(reference, arguments, derivs, **options)
    found = [np.nan_to_num(gradient, nan=1e9) for gradient in gradients_of(emulated, arguments, derivs, **options)]
    assert max(relative_to_path(a, b) for a, b in zip(found, wanted, strict=True)) > 1e-9


@pytest.mark.parametrize(
    ("shuffle", "value", "order", "depth"),
    [
        *((shuffle, v, None, 2) for shuffle, v in LOBATTO2_EDGES),
        *((FROM_THE_LEFT, v, 3, 2) for v in (0, 1, 4, 5)),  # between them bounds, see test_cuda_digits
        *((FROM_THE_RIGHT, v, 3, 2) for v in range(7)),
        *((FROM_THE_LEFT, v, None, math.inf) for v in range(4)),
        *((FROM_THE_RIGHT, v, None, math.inf) for v in range(5)),
    ],
)
def test_an_edge_of_a_cell_not_handed_on_is_caught(emulated, reference, shuffle, value, order, depth, rng, monkeypatch):
    text = cuda.source().replace(shuffle, f"v == {value} ? handed[m][v] : {shuffle}")
    monkeypatch.setattr(cuda.instances, "source", lambda: text)
    x, y = drawn(rng, "paired", (5, 6), 2, counts=(1, 1))
    arguments = problem(x, y, depth, quadrature=RULES["lobatto2"], order=order)
    derivs = np.ones((1,) if order is None else (1, order + 1))
    options = {"wrt_log": False, "left": True, "right": True}
    wanted = gradients_of(reference, arguments, derivs, **options)
    found = [np.nan_to_num(gradient, nan=1e9) for gradient in gradients_of(emulated, arguments, derivs, **options)]
    assert max(relative_to_path(a, b) for a, b in zip(found, wanted, strict=True)) > 1e-9


MISTAKEN = """
__global__ void waits_in_vain(int* out) {
  if (threadIdx.x == 0) __syncthreads();
  else __shfl_sync(0xffffffffu, out[0], 0);
}
__global__ void waits_at_two_places(int* out) {
  if (threadIdx.x < 16) { __syncthreads(); out[0] = 1; }
  else {
    __syncthreads(); out[1] = 2; }
}
__global__ void waits_for_another_block(int* out) {
  const volatile int* told = out;
  while (*told < 2) __nanosleep(1);
}
__global__ void shares_with_other_blocks(int* out) {
  __shared__ int value[2];
  if (threadIdx.x == 0) value[0] = atomicAdd(out, 1);
  __syncthreads();
  const int mine = value[0];
  if (threadIdx.x == 1) value[1] = mine;
  if (threadIdx.x == 0)
    while (*(const volatile int*)out < int(gridDim.x)) __nanosleep(1);
  __threadfence();
  __syncthreads();
  out[1 + mine] = value[1];
}
__global__ void reads_what_nobody_wrote(double* out) {
  __shared__ double value[32];
  if (threadIdx.x == 1) value[1] = 1.0;
  __syncthreads();
  out[threadIdx.x] = value[threadIdx.x];
}
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("waits_in_vain", "deadlock"),
        ("waits_at_two_places", "different places"),
        ("waits_for_another_block", "blocks in flight wait"),
    ],
)
def test_the_emulator_finds_threads_that_wait_for_ever(name, message):
    function = emulated_cupy.RawModule(code=MISTAKEN, name_expressions=(name,)).get_function(name)
    with pytest.raises(RuntimeError, match=message):
        function((2,), (32,), (emulated_cupy.zeros((2,), np.int32),))


def test_the_emulator_gives_every_block_shared_memory_of_its_own():
    name = "shares_with_other_blocks"
    function = emulated_cupy.RawModule(code=MISTAKEN, name_expressions=(name,)).get_function(name)
    for seed in range(6):
        emulated_cupy.seed(seed)
        out = emulated_cupy.zeros((5,), np.int32)
        function((4,), (64,), (out,))
        np.testing.assert_array_equal(out, [4, 0, 1, 2, 3])
    emulated_cupy.seed(0)


def test_the_emulator_poisons_shared_memory():
    name = "reads_what_nobody_wrote"
    function = emulated_cupy.RawModule(code=MISTAKEN, name_expressions=(name,)).get_function(name)
    out = emulated_cupy.zeros((32,))
    function((1,), (32,), (out,))
    assert out[1] == 1.0
    assert np.isnan(np.delete(np.asarray(out), 1)).all()


@pytest.mark.parametrize("pairing", ["paired", "symmetric"])
def test_arrays_of_other_libraries_come_and_go_by_dlpack(installed, reference, pairing, rng, monkeypatch):
    xp = pytest.importorskip("array_api_strict")
    # As the arrays of a library that holds them on a CUDA device.
    monkeypatch.setattr(branchsig.backends.choice, "lies_on_cuda", lambda _: True)
    monkeypatch.setitem(branchsig.backends.choice.serving, "numpy", reference)
    branchsig.backends.choice.serving.pop("through cupy", None)
    x, y = drawn(rng, pairing, (5, 6), 2)
    there = xp.asarray(x)
    arguments = problem(there, there if y is x else xp.asarray(y), 3, (0, 0), pairing)
    serving = branchsig.backends.backend_for(arguments)
    branchsig.backends.choice.serving.pop("through cupy", None)
    assert isinstance(serving, branchsig.backends.ThroughCupy)
    emulated_cupy.launches.clear()
    log_k = serving.solve(arguments, "end", log=True)
    left, _ = gradients_of(serving, arguments, xp.exp(log_k), wrt_log=True, left=True, right=False)
    assert len(emulated_cupy.launches) >= 4
    assert type(log_k) is type(left) is type(there)
    wanted = reference.solve(problem(x, y, 3, (0, 0), pairing), "end", log=True)
    assert relative(np.asarray(log_k), wanted) < 1e-12
    assert left.shape == x.shape


UNRANKED = """
__global__ void places(int pairing, long long n2, const long long* k, long long* first, long long* second) {
  const Pair pair(pairing, k[threadIdx.x], n2);
  first[threadIdx.x] = pair.first;
  second[threadIdx.x] = pair.second;
}
"""


def test_pairs_are_found_by_their_number_beyond_32_bits():
    module = emulated_cupy.RawModule(code=cuda.source() + UNRANKED, name_expressions=("places",))
    function = module.get_function("places")
    sides = np.array([1, 2, 3, 1000, 2**20 + 1, 2**26 - 1, 2**31 - 5], dtype=np.int64)
    triangles = sides * (sides + 1) // 2
    n2 = 2**31 + 1
    for pairing, k, first, second in (
        (2, triangles, sides, np.zeros_like(sides)),
        (2, triangles - 1, sides - 1, sides - 1),
        (2, triangles + 1, sides, np.ones_like(sides)),
        (1, sides * (n2 + 1), sides, sides),
        (0, sides * n2, sides * n2, sides * n2),
    ):
        found = [emulated_cupy.empty(sides.shape, np.int64) for _ in range(2)]
        function((1,), (len(sides),), (np.int32(pairing), np.int64(n2), emulated_cupy.asarray(k), *found))
        np.testing.assert_array_equal(found[0], first)
        np.testing.assert_array_equal(found[1], second)


SANITIZED_RUN = """
import dataclasses
import numpy as np
from cases import gradients_of, problem, static_kernel, walk
from test_cuda import OnDevice, relays
from branchsig.backends.cuda import plans
from branchsig.quadrature import BY_NAME
import emulated_cupy
rng, backend = np.random.default_rng(0), OnDevice(emulated_cupy)
plans.LIMITS = plans.Limits(workspace_bytes=1)  # without truncation passes are swept again
cases = ("linear", "paired", (35, 70)), ("rbf", "symmetric", (34, 34)), ("rbf", "gram", (5, 66))
for name, pairing, lengths in cases:
    x = walk(rng, 2, lengths[0], 3, size=0.4)
    x[0] *= 40  # some pairs are done by the careful kernels
    y = x if pairing == "symmetric" else walk(rng, 2, lengths[1], 3, size=0.4)
    arguments = problem(x, y, 3, (0, 0), pairing, static_kernel(name)[0])
    if pairing == "gram":
        arguments = dataclasses.replace(arguments, lengths1=np.array([1, 4]), lengths2=np.array([30, 66]))
    derivs = np.ones((2,) if pairing == "paired" else (2, 2))
    gradients_of(backend, arguments, derivs, wrt_log=True, left=True, right=False)
    backend.solve(arguments, "stack")
    if pairing != "symmetric":
        log_k = backend.solve(arguments, "grid", log=True)
        gradients_of(backend, arguments, log_k, wrt_log=True, left=True, right=True)
    for rule in ("left", "lobatto2", "lobatto4") if pairing == "paired" else ("lobatto2",):
        arguments = dataclasses.replace(arguments, quadrature=BY_NAME[rule], lengths1=None, lengths2=None)
        derivs = np.ones((2,) if pairing == "paired" else (2, 2))
        gradients_of(backend, arguments, derivs, wrt_log=True, left=True, right=False)
        if rule == "lobatto2" and pairing == "paired":
            untruncated = dataclasses.replace(arguments, depth=np.inf)
            gradients_of(backend, untruncated, derivs, wrt_log=True, left=True, right=False)
        if pairing != "symmetric":
            log_k = backend.solve(arguments, "grid", log=True)
            gradients_of(backend, arguments, log_k, wrt_log=True, left=True, right=True)
            of_order = dataclasses.replace(arguments, order=3)
            for grid in (False, True):
                parts = backend.solve(of_order, "grid" if grid else "end")
                gradients_of(backend, of_order, parts, wrt_log=True, left=True, right=True)
plans.LIMITS = plans.Limits(relay_team=1, longest_team=1)
x, y = walk(rng, 1, 20, 3, size=0.4), walk(rng, 1, 150, 3, size=0.4)
for name, rule in ("linear", "trapezoid"), ("rbf", "lobatto2"):
    arguments = problem(x, y, 3, (0, 0), "paired", static_kernel(name)[0], quadrature=BY_NAME[rule])
    gradients_of(backend, arguments, np.ones(1), wrt_log=True, left=True, right=True)
assert any(relays(backend))
print("clean")
"""


def test_the_kernels_are_clean_under_address_and_undefined_behaviour_sanitizers():
    asan = subprocess.run(
        [os.environ.get("CXX", "g++"), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(asan).is_absolute():
        pytest.skip("the compiler brings no AddressSanitizer")
    here = Path(__file__).parent
    environment = os.environ | {
        "EMULATOR_SANITIZE": "1",
        "LD_PRELOAD": asan,
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": os.pathsep.join([str(here), str(here / "cuda_emulation"), *filter(None, sys.path)]),
    }
    # The compiler runs without the sanitizer of the process that calls it.
    result = subprocess.run(
        [sys.executable, "-c", SANITIZED_RUN], capture_output=True, text=True, check=False, env=environment, cwd=here
    )
    assert result.stdout == "clean\n", result.stderr[-4000:]
