"""Digits of float32 on long, smooth and far-reaching paths, and cells of every size in either precision."""

import numpy as np
import pytest
from cases import gradients_of, problem, relative, relative_to_path
from cuda_cases import compare, drawn, in_float64, kernel_named

import branchsig


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
