"""The size of a workspace, and the errors of memory, driver and compiler."""

import numpy as np
import pytest
from cases import gradients_of, problem
from cuda_cases import drawn, emulated_cupy

from branchsig import _validation
from branchsig.backends import cuda


@pytest.mark.parametrize(("rule", "order"), [("trapezoid", None), ("left", None), ("lobatto2", 2)])
def test_the_workspace_does_not_grow_with_both_lengths(emulated, rule, order, rng):
    options = {"quadrature": _validation.quadrature(rule), "order": order}
    sizes = []
    for length in (34, 130):
        x, y = drawn(rng, "paired", (length, length), 2, counts=(1, 1), size=0.1)
        emulated_cupy.allocated[0] = 0
        derivs = np.ones((1,) if order is None else (1, order + 1))
        gradients_of(emulated, problem(x, y, 3, **options), derivs, wrt_log=True, left=True, right=True)
        sizes.append(emulated_cupy.allocated[0])
    assert sizes[1] < 4 * sizes[0]


def test_out_of_memory_says_what_to_do(emulated, rng):
    x, y = drawn(rng, "paired", (5, 6), 2)
    with emulated_cupy.limited_memory(16), pytest.raises(MemoryError, match="max_batch"):
        emulated.solve(problem(x, y, 3), "end", log=True)


@pytest.mark.parametrize(
    ("words", "error"),
    [("CUDA_ERROR_OUT_OF_MEMORY: out of memory", MemoryError), ("CUDA_ERROR_ILLEGAL_ADDRESS: illegal", RuntimeError)],
)
def test_errors_of_the_driver_are_raised(emulated, words, error, rng, monkeypatch):
    def fails(*_):
        raise RuntimeError(words)

    monkeypatch.setattr(emulated.backend, "function", lambda _: fails)
    x, y = drawn(rng, "paired", (5, 6), 2)
    with pytest.raises(error, match="max_batch" if error is MemoryError else "ILLEGAL_ADDRESS"):
        emulated.solve(problem(x, y, 3), "end", log=True)


def test_a_kernel_that_does_not_compile_says_what_to_do(emulated, rng, monkeypatch):
    x, y = drawn(rng, "paired", (5, 6), 2)
    monkeypatch.setattr(cuda.instances, "source", lambda: "no C++")
    with pytest.raises(RuntimeError, match=r"branchsig\[cuda12\]"):
        emulated.solve(problem(x, y, 3), "end", log=True)
