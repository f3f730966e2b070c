"""Means of kernels of arrays on a CUDA device: float32 stays float32 in the kernels there, and sums are in float64.

The emulator runs the unmodified kernels on the CPU; see cuda_emulation.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from cases import walk

import branchsig
from branchsig import _arrays, _problems, _validation, kernel_backprop, metrics, normalization
from branchsig.backends import cuda

sys.path.insert(0, str(Path(__file__).parent / "cuda_emulation"))
import emulated_cupy

FUNCTIONS = ["branched_sig_mmd", "branched_sig_score", "expected_branched_sig_score"]


def on_device(array):
    return isinstance(array, emulated_cupy.ndarray)


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    """Public functions take arrays of the emulated CuPy, as no arrays of the host, and its backend serves them."""
    backend = cuda.CudaBackend(emulated_cupy)
    kinds = []

    def as_it_is(array):
        return array if on_device(array) else _arrays.contiguous(array)

    def solved(problem, want, **options):
        kinds.append(problem.path1.dtype)
        return solve(problem, want, **options)

    for module in (_validation, kernel_backprop, normalization):
        monkeypatch.setattr(module, "contiguous", as_it_is, raising=False)
    monkeypatch.setattr(_problems, "lies_on_cuda", on_device)
    monkeypatch.setattr(metrics, "lies_on_cpu", lambda array: not on_device(array))
    monkeypatch.setitem(branchsig.backends.choice.serving, "numpy", backend)
    solve = backend.solve
    monkeypatch.setattr(backend, "solve", solved)
    yield kinds
    emulated_cupy.seed(0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_means_on_a_device_are_those_on_the_host(dtype, emulated, rng, monkeypatch):
    # Kernels are near 1: sums of rounded ones would be off by a tenth.
    x, y = (walk(rng, n, 5, 2, size=1e-3 * scale, dtype=dtype) for n, scale in ((4, 1.0), (3, 1.4)))
    tolerance = 1e-4 if dtype == np.float32 else 1e-11
    there = emulated_cupy.asarray(x), emulated_cupy.asarray(y)
    found = [getattr(branchsig, name)(*there, 2) for name in FUNCTIONS]
    gradients = [branchsig.branched_sig_mmd_backprop(1.0, *there, 2, right_deriv=True)]
    result = branchsig.branched_sig_mmd_test(*there, 2, normalize=False)
    assert set(emulated) == {np.dtype(dtype)}
    monkeypatch.undo()
    for name, mine in zip(FUNCTIONS, found, strict=True):
        its = getattr(branchsig, name)(x, y, 2)
        assert mine.dtype == dtype
        np.testing.assert_allclose(np.asarray(mine), its, rtol=tolerance)
    for mine, its in zip(
        gradients[0], branchsig.branched_sig_mmd_backprop(1.0, x, y, 2, right_deriv=True), strict=True
    ):
        assert np.max(np.abs(np.asarray(mine) - its)) < 1e-3 * np.max(np.abs(its))
    wanted = branchsig.branched_sig_mmd_test(x, y, 2, normalize=False)
    assert result.p_value == wanted.p_value
    assert result.statistic == pytest.approx(wanted.statistic, rel=tolerance)
