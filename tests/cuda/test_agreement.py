"""Values, grids and gradients against the reference: static kernels, depths, cells, channels, lengths, chunks."""

import dataclasses

import numpy as np
import pytest
from cases import STATIC_KERNELS, gradients_of, problem, relative, relative_to_path
from cuda_cases import RULES, compare, drawn, in_float64, kernel_named, padded


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


@pytest.mark.parametrize("name", ["linear", "rbf", "quartic"])
@pytest.mark.parametrize("pairing", ["paired", "gram"])
def test_grids_and_their_gradients_agree_with_the_reference(backend, reference, name, pairing, rng):
    x, y = drawn(rng, pairing, (4, 37), 3)
    orders = (1, 0) if name == "linear" else (0, 0)
    compare(backend, reference, problem(x, y, 3, orders, pairing, kernel_named(name)), grids=True)


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
