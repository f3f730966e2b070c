"""Paths of different lengths in one batch against the reference, and against each path alone."""

import dataclasses
import math

import numpy as np
import pytest
from cases import gradients_of, problem
from cuda_cases import compare, emulated_cupy, padded

from branchsig.backends import cuda


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
