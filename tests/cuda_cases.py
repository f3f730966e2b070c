"""What the tests of CUDA draw from: a backend for NumPy arrays, problems, and comparisons with the reference.

The emulator runs the unmodified kernels on the CPU, a fiber for every thread; see cuda_emulation.
"""

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
from cases import QuarticKernel, gradients_of, problem, relative, relative_to_path, static_kernel, walk

import branchsig
from branchsig.backends import Gradients, cuda
from branchsig.backends.cuda import plans

sys.path.insert(0, str(Path(__file__).parent / "cuda_emulation"))
import emulated_cupy  # noqa: F401

BOTH = {"left": True, "right": True}

RULES = {
    "left": branchsig.LeftPoint(),
    "lobatto2": branchsig.GaussLobatto(2),
    "lobatto3": branchsig.GaussLobatto(3),
    "lobatto5": branchsig.GaussLobatto(5),
}

FROM_THE_LEFT, FROM_THE_RIGHT = (f"__shfl_{way}_sync(ALL_LANES, handed[m][v], 1)" for way in ("up", "down"))


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


def with_short_teams(backend, warps, monkeypatch):
    """Let a backend have few warps to a team, so that pairs of two hundred columns are relayed."""
    limit(monkeypatch, relay_team=warps, longest_team=warps)
    monkeypatch.setattr(backend.backend, "processors", lambda: 16)
    return backend


def relays(backend):
    """The turns of every launch that a backend has planned."""
    return [
        one.turns
        for plan in backend.backend.plans.values()
        for launches in plan.prepared.values()
        for one in launches.kernels
    ]


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
