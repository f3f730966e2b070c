"""Static kernels times factors of the paths, as dilation makes them, against the reference."""

import dataclasses
import math

import numpy as np
import pytest
from cases import gradients_of, problem
from cuda_cases import compare, drawn, emulated_cupy, kernel_named, limit, padded

from branchsig import _validation
from branchsig.static_kernels import DilatedKernel


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
