"""Radial kernels on CUDA at distances whose squares are no floats: they are those of paths and sigma in other units."""

import numpy as np
import pytest
from cases import problem, relative_to_path, walk
from test_cuda import backend, cupy  # noqa: F401
from test_cuda_digits import BOTH

import branchsig
from branchsig.static_kernels import DilatedKernel

KINDS = {
    "rbf": lambda unit: branchsig.RBFKernel(0.7 * unit * unit),
    "matern12": lambda unit: branchsig.Matern12Kernel(0.7 * unit),
    "matern32": lambda unit: branchsig.Matern32Kernel(0.7 * unit),
    "matern52": lambda unit: branchsig.Matern52Kernel(0.7 * unit),
    "rational quadratic": lambda unit: branchsig.RationalQuadraticKernel(0.7 * unit, 1.3),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [*((np.float64, e) for e in (-530, -300, 505)), *((np.float32, e) for e in (-60, 60))],
)
def test_units_do_not_matter(backend, kind, dtype, exponent, rng):  # noqa: F811
    if kind == "rbf":  # whose parameter is a square
        exponent = max(-500, min(exponent, 500))
    x, y = walk(rng, 2, 6, 2, dtype=dtype), walk(rng, 2, 7, 2, dtype=dtype)
    plain = problem(x, y, 2, static_kernel=KINDS[kind](1.0))
    unit = dtype(2.0) ** exponent
    scaled = problem(x * unit, y * unit, 2, static_kernel=KINDS[kind](2.0**exponent))
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(backend.log_kernel(scaled), backend.log_kernel(plain), rtol=tolerance)
    found = backend.gradients(scaled, np.ones(2, dtype), wrt_log=True, **BOTH)
    wanted = backend.gradients(plain, np.ones(2, dtype), wrt_log=True, **BOTH)
    for mine, its in zip(found, wanted, strict=True):
        assert relative_to_path(mine * unit, its) < 10 * tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_units_do_not_matter_where_kernels_are_dilated(backend, kind, rng):  # noqa: F811
    x, y = walk(rng, 2, 6, 3), walk(rng, 2, 7, 3)
    sigma = 2.0 ** (-500 if kind == "rbf" else -520)
    unit = np.array([sigma, sigma, 1.0])
    plain = problem(x, y, 2, static_kernel=DilatedKernel(KINDS[kind](1.0)))
    scaled = problem(x * unit, y * unit, 2, static_kernel=DilatedKernel(KINDS[kind](sigma)))
    np.testing.assert_allclose(backend.log_kernel(scaled), backend.log_kernel(plain), rtol=1e-12)
