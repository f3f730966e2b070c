"""Means of kernels of arrays on a CUDA device: float32 stays float32 in the kernels there, and sums are in float64.

The emulator runs the unmodified kernels on the CPU; see cuda_emulation.
"""

import numpy as np
import pytest
from cases import using, walk
from cuda_cases import emulated_cupy

import branchsig

FUNCTIONS = ["branched_sig_mmd", "branched_sig_score", "expected_branched_sig_score"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_means_on_a_device_are_those_on_the_host(dtype, on_device, reference, rng, monkeypatch):
    kinds, solve = [], on_device.backend.solve

    def solved(problem, want, **options):
        kinds.append(problem.path1.dtype)
        return solve(problem, want, **options)

    monkeypatch.setattr(on_device.backend, "solve", solved)
    # Kernels are near 1: sums of rounded ones would be off by a tenth.
    x, y = (walk(rng, n, 5, 2, size=1e-3 * scale, dtype=dtype) for n, scale in ((4, 1.0), (3, 1.4)))
    tolerance = 1e-4 if dtype == np.float32 else 1e-11
    there = emulated_cupy.asarray(x), emulated_cupy.asarray(y)
    found = [getattr(branchsig, name)(*there, 2) for name in FUNCTIONS]
    gradients = branchsig.branched_sig_mmd_backprop(1.0, *there, 2, right_deriv=True)
    result = branchsig.branched_sig_mmd_test(*there, 2, normalize=False)
    assert set(kinds) == {np.dtype(dtype)}
    with using(reference):
        wanted = [getattr(branchsig, name)(x, y, 2) for name in FUNCTIONS]
        wanted_gradients = branchsig.branched_sig_mmd_backprop(1.0, x, y, 2, right_deriv=True)
        wanted_result = branchsig.branched_sig_mmd_test(x, y, 2, normalize=False)
    for mine, its in zip(found, wanted, strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(np.asarray(mine), its, rtol=tolerance)
    for mine, its in zip(gradients, wanted_gradients, strict=True):
        assert np.max(np.abs(np.asarray(mine) - its)) < 1e-3 * np.max(np.abs(its))
    assert result.p_value == wanted_result.p_value
    assert result.statistic == pytest.approx(wanted_result.statistic, rel=tolerance)
