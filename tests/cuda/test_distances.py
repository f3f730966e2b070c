"""Radial kernels on CUDA at distances whose squares are no floats, and of paths far from each other and from 0.

The increments depend on differences of points in units of sigma alone, so what holds at one size does at all.
"""

import math

import numpy as np
import oracles
import pytest
from cases import gradients_of, problem, relative_to_path, walk
from cuda_cases import BOTH

import branchsig
from branchsig.static_kernels import DilatedKernel

MP = oracles.mpmath_scalars(60)

KINDS = {
    "rbf": lambda unit: branchsig.RBFKernel(0.7 * unit * unit),
    "matern12": lambda unit: branchsig.Matern12Kernel(0.7 * unit),
    "matern32": lambda unit: branchsig.Matern32Kernel(0.7 * unit),
    "matern52": lambda unit: branchsig.Matern52Kernel(0.7 * unit),
    "rational quadratic": lambda unit: branchsig.RationalQuadraticKernel(0.7 * unit, 1.3),
    "rational quadratic of small alpha": lambda unit: branchsig.RationalQuadraticKernel(0.7 * unit, 0.05),
}

# In single precision for some of them: every pair of a kernel and a precision is compiled.
SIZES = [
    *((kind, np.float64, e) for kind in KINDS for e in (-1000, -530, 505)),
    *((kind, np.float32, e) for kind in ("rbf", "rational quadratic") for e in (-60, 90)),
]


def made(rng, kind, dtype, exponent, symmetric, dilated):
    """A problem of ordinary size in float64, and the same in a unit of 2^exponent."""
    if kind == "rbf":  # whose parameter is the square of a length
        exponent = max(exponent, -505)
    unit = math.ldexp(1.0, exponent)
    x, y = walk(rng, 2, 6, 3, dtype=dtype), walk(rng, 2, 7, 3, dtype=dtype)
    y = x if symmetric else y
    units, kernels = np.full(3, unit, dtype), [KINDS[kind](1.0), KINDS[kind](unit)]
    if dilated:  # by a factor in the last channel
        units[2] = 1.0
        kernels = [DilatedKernel(kernel) for kernel in kernels]
    plain = problem(x.astype(float), y.astype(float), 2, static_kernel=kernels[0])
    scaled = x * units
    return units, plain, problem(scaled, scaled if symmetric else y * units, 2, static_kernel=kernels[1])


@pytest.mark.parametrize(("kind", "dtype", "exponent"), SIZES)
@pytest.mark.parametrize("form", ["two paths", "one path", "dilated"])
def test_units_do_not_matter(backend, reference, kind, dtype, exponent, form, rng):
    units, plain, scaled = made(rng, kind, dtype, exponent, form == "one path", form == "dilated")
    tolerance = 1e-11 if dtype == np.float64 else 3e-5
    np.testing.assert_allclose(
        backend.solve(scaled, "end", log=True), reference.solve(plain, "end", log=True), rtol=tolerance
    )
    if form == "one path" and kind == "rbf":
        wanted = reference.solve(plain, "grid")
        np.testing.assert_allclose(backend.solve(scaled, "grid"), wanted, rtol=tolerance)
    found = gradients_of(backend, scaled, np.ones(2, dtype), wrt_log=True, **BOTH)
    for mine, its in zip(found, gradients_of(reference, plain, np.ones(2), wrt_log=True, **BOTH), strict=True):
        assert relative_to_path(mine.astype(float) * units, its) < 10 * tolerance


FORMULAS = {
    "rbf": oracles.static_kernel("rbf", sigma=0.7),
    "matern12": oracles.static_kernel("matern12", sigma=0.7),
    "matern32": oracles.static_kernel("matern32", sigma=0.7),
    "matern52": oracles.static_kernel("matern52", sigma=0.7),
    "rational quadratic": oracles.static_kernel("rational_quadratic", sigma=0.7, alpha=1.3),
    "rational quadratic of small alpha": oracles.static_kernel("rational_quadratic", sigma=0.7, alpha=0.05),
}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *((kind, np.float64) for kind in KINDS),
        ("rbf", np.float32),
        *((k, np.float32) for k in KINDS if "rational" in k),
    ],
)
def test_a_kernel_of_points_whose_distance_has_no_square_is_right_or_nan(backend, kind, dtype):
    far = 100.0 * float(np.sqrt(np.finfo(dtype).max))
    x = np.array([[[0.0], [1.0], [far]]], dtype)
    arguments = problem(x, x.copy(), 1, static_kernel=KINDS[kind](1.0))
    g = oracles.increments(FORMULAS[kind], *(2 * [oracles.points(x[0], MP)]), MP)
    wanted = float(sum(sum(row) for row in g))  # log K_1
    found = float(backend.solve(arguments, "end", log=True)[0])
    if kind.endswith("small alpha") and dtype == np.float64:  # it is not yet near 0 there
        assert math.isnan(found)
    else:
        assert found == pytest.approx(wanted, rel=1e-12 if dtype == np.float64 else 1e-6)


@pytest.mark.parametrize("sigma", [1.0, 2.0**12])
@pytest.mark.parametrize(
    ("kind", "dtype", "offset"),
    [
        *((kind, np.float64, offset) for kind in KINDS for offset in (2.0**12, 2.0**30)),
        *((kind, np.float32, 2.0**12) for kind in ("rbf", "rational quadratic")),
    ],
)
def test_an_offset_of_both_paths_changes_nothing_of_radial_kernels(backend, kind, sigma, dtype, offset, rng):
    x, y = (np.round(2.0**10 * walk(rng, 2, length, 2)) / 2.0**10 for length in (30, 25))  # so that sums are exact
    there = [np.asarray(path + offset, dtype) for path in (x, y)]
    assert all(np.array_equal(path.astype(float) - offset, own) for path, own in zip(there, (x, y), strict=True))
    here, there = (
        problem(*paths, 2, static_kernel=KINDS[kind](sigma)) for paths in ([x.astype(dtype), y.astype(dtype)], there)
    )
    np.testing.assert_array_equal(backend.solve(there, "end", log=True), backend.solve(here, "end", log=True))
    found = gradients_of(backend, there, np.ones(2, dtype), wrt_log=True, **BOTH)
    for mine, its in zip(found, gradients_of(backend, here, np.ones(2, dtype), wrt_log=True, **BOTH), strict=True):
        np.testing.assert_array_equal(mine, its)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("apart", [2.0**12, 2.0**30])
@pytest.mark.parametrize("sigma", [1.0, 2.0**12, 2.0**30])
def test_gradients_of_radial_kernels_of_paths_far_apart_are_those_of_the_reference(
    backend, reference, kind, apart, sigma, rng
):
    x, y = (np.round(2.0**10 * walk(rng, 2, length, 2)) / 2.0**10 for length in (12, 9))
    arguments = problem(x, y + apart, 2, static_kernel=KINDS[kind](sigma))
    own = [problem(path, path, 2, static_kernel=KINDS[kind](sigma)) for path in (x, y)]
    own = [reference.solve(each, "end", log=True) for each in own]
    size = np.sqrt(own[0]) * np.sqrt(own[1])
    found = gradients_of(backend, arguments, np.ones(2), wrt_log=True, **BOTH)
    for mine, its in zip(found, gradients_of(reference, arguments, np.ones(2), wrt_log=True, **BOTH), strict=True):
        # The digits that the distance has more than the paths are lost to both.
        assert np.all(np.abs(mine - its) <= 1e-13 * apart * size[:, None, None])
