"""Results have the same bits in any order of threads and blocks, and depend on no memory that nobody wrote."""

import math

import numpy as np
import pytest
from cases import gradients_of, problem
from cuda_cases import compare, drawn, emulated_cupy, kernel_named, limit, padded, relays, with_short_teams

from branchsig import _validation


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


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize(
    ("name", "rule", "depth"),
    [("linear", "trapezoid", 3), ("rbf", "trapezoid", 3), ("linear", "lobatto2", 3), ("linear", "trapezoid", math.inf)],
)
def test_nothing_depends_on_memory_that_nobody_wrote(emulated, reference, name, rule, depth, halves, rng, monkeypatch):
    # A NaN that is found there would send a pair to the log-domain kernels, which might get it right.
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
        # the log-domain kernel does nothing, and the ninth of its arguments are the flags
        return lambda blocks, threads, arguments: flagged.append(arguments[8].memory.view(np.int32).copy())

    monkeypatch.setattr(emulated.backend, "function", function)
    x, y = drawn(rng, "paired", lengths, 2, dtype=dtype, size=0.1)
    gradients_of(emulated, problem(x, y, 3, (0, 0), "paired"), np.ones(3, dtype), wrt_log=False, left=True, right=True)
    np.testing.assert_array_equal(flagged, np.zeros((1, 3)))
