"""Ordered forests by number of nodes in the compiled core: the reference, and the granularity of the work."""

import dataclasses
import math

import numpy as np
import pytest
from cases import (
    STATIC_KERNELS,
    QuarticKernel,
    assert_backends_agree,
    close,
    problem,
    retraced,
    sizes,
    static_kernel,
    walk,
)
from conftest import cpu
from remembered import RememberedReference

import branchsig
from branchsig import _validation
from branchsig.backends import Wrt
from branchsig.backends.cpu import backend as cpu_backend
from branchsig.static_kernels import is_built_in

pytestmark = pytest.mark.skipif(cpu is None, reason="no C core")

RULES = ["trapezoid", "left", "lobatto2", "lobatto3", "lobatto5"]
TRUNCATIONS = [(math.inf, 1), (math.inf, 2), (math.inf, 5), (1, 3), (2, 4), (3, 4)]
reference = RememberedReference()


@pytest.fixture
def core(monkeypatch):
    """The core, which may not hand a pair to the reference."""
    monkeypatch.setattr(cpu_backend._REFERENCE, "solve", lambda *_, **__: pytest.fail("solved by the reference"))
    monkeypatch.setattr(cpu_backend._REFERENCE, "adjoint", lambda *_, **__: pytest.fail("solved by the reference"))
    return cpu.CpuBackend()


def ordered(x, y, truncation, rule="trapezoid", orders=(0, 0), pairing="paired", kernel=None, **options):
    depth, order = truncation
    options |= {"quadrature": _validation.quadrature(rule), "order": order, "planar": True}
    return problem(x, y, depth, orders, pairing, kernel, **options)


def assert_agrees(core, arguments, rng, wants=("end", "grid")):
    """Components and the gradients of ends and of grids are those of the reference."""
    wrt = Wrt(True, True, is_built_in(arguments.static_kernel))
    for want in wants:
        assert_backends_agree(core, reference, arguments, want, wrt, rng)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("truncation", TRUNCATIONS, ids=str)
def test_components_and_their_gradients_agree_with_the_reference(core, rng, rule, truncation):
    x, y = walk(rng, 9, 5, 2, size=1.5), walk(rng, 9, 7, 2, size=1.5)
    assert_agrees(core, ordered(x, y, truncation, rule, (1, 0)), rng)


@pytest.mark.parametrize("rule", ["left", "lobatto3"])
@pytest.mark.parametrize("truncation", [(math.inf, 4), (2, 4)], ids=str)
def test_blocks_of_columns_hand_on_their_edges(core, rng, rule, truncation):
    x, y = walk(rng, 3, 4, 2, size=1.5), walk(rng, 3, 37, 2, size=1.5)
    assert_agrees(core, ordered(x, y, truncation, rule, (0, 1)), rng)


@pytest.mark.parametrize("name", [*STATIC_KERNELS, "quartic"])
@pytest.mark.parametrize("pairing", ["paired", "gram"])
def test_every_static_kernel_agrees_with_the_reference(core, rng, name, pairing):
    kernel = QuarticKernel() if name == "quartic" else static_kernel(name)[0]
    x, y = walk(rng, 5, 6, 3), walk(rng, 5, 9, 3)
    ragged = {"lengths1": np.array([6, 1, 4, 2, 6]), "lengths2": np.array([3, 9, 5, 9, 1])} if pairing == "gram" else {}
    arguments = ordered(x, y, (2, 4), "lobatto2", (1, 0), pairing, kernel, n_jobs=2, **ragged)
    assert_agrees(core, arguments, rng, ("end",) if ragged else ("end", "grid"))


@pytest.mark.parametrize(("rule", "truncation", "lengths"), [
    ("trapezoid", (math.inf, 4), (200, 250)),
    ("left", (2, 4), (150, 250)),
    ("lobatto2", (math.inf, 3), (130, 150)),
])  # fmt: skip
def test_rows_that_are_not_kept_are_recovered(core, rng, rule, truncation, lengths):
    x, y = (walk(rng, 1, length, 2) for length in lengths)
    assert_agrees(core, ordered(x, y, truncation, rule), rng, ("end",))


@pytest.mark.parametrize("truncation", [(math.inf, 3), (2, 4)], ids=str)
def test_components_of_prefixes_agree_with_the_reference(core, rng, truncation):
    x, lengths = walk(rng, 9, 12, 2, size=1.5), rng.integers(1, 13, 9)
    for valid in (None, lengths):
        arguments = ordered(x, x, truncation, "lobatto2", (1, 1), lengths1=valid, lengths2=valid)
        assert close(core.solve(arguments, "prefixes"), reference.solve(arguments, "prefixes"))


@pytest.mark.parametrize("purpose", [None, "kernel", "log", "difference", "quotient", "rough"])
@pytest.mark.parametrize("truncation", [(math.inf, 4), (2, 4)], ids=str)
def test_components_have_digits_where_those_of_the_reference_have(rng, purpose, truncation):
    x = np.concatenate([retraced(rng, 12, 5, 1) * sizes(12, 0.3, 1e4), walk(rng, 12, 9, 1) * sizes(12, 0.3, 1e4)])
    arguments = ordered(x, walk(rng, 24, 8, 1, size=20.0), truncation, "lobatto2", purpose=purpose)
    for want in ("end", "grid"):
        found, wanted = (backend.solve(arguments, want) for backend in (cpu.CpuBackend(), reference))
        np.testing.assert_array_equal(np.isnan(found[..., 1:]), np.isnan(wanted[..., 1:]))
        assert np.isnan(wanted).any() == (purpose != "rough")
        derivs = np.ones(wanted.shape)
        gradients = (backend.adjoint(arguments, want, derivs, Wrt(True)) for backend in (cpu.CpuBackend(), reference))
        np.testing.assert_array_equal(*(np.isnan(gradient.path1).all(axis=(1, 2)) for gradient in gradients))


@pytest.mark.parametrize("options", [{"order": 3}, {"depth": 2, "order": 4, "quadrature": "lobatto2"}], ids=str)
def test_a_pair_has_the_same_bits_in_any_batch_and_padding_changes_no_value(rng, options):
    x, y, options = walk(rng, 11, 20, 3), walk(rng, 11, 37, 3), options | {"planar": True}
    lengths1, lengths2 = rng.integers(2, 21, 11), rng.integers(2, 38, 11)
    values, pullback = branchsig.branched_sig_kernel_vjp(x, y, **options)
    gradient = pullback(np.ones(11))[0]
    padded, of_padded = branchsig.branched_sig_kernel_vjp(x, y, lengths1=lengths1, lengths2=lengths2, **options)
    gradient_of_padded = of_padded(np.ones(11))[0]
    for k in (0, 7, 10):
        alone, of_one = branchsig.branched_sig_kernel_vjp(x[k], y[k], **options)
        assert values[k] == alone
        assert np.array_equal(gradient[k], of_one(np.ones_like(alone))[0])
        own = x[k, : lengths1[k]], y[k, : lengths2[k]]
        alone, of_one = branchsig.branched_sig_kernel_vjp(*own, **options)
        assert padded[k] == alone
        assert close(gradient_of_padded[k, : lengths1[k]], of_one(np.ones_like(alone))[0], 1e-14)
        assert not np.any(gradient_of_padded[k, lengths1[k] :])


def test_at_depth_1_the_components_are_the_levels_of_the_signature(core, rng):
    # One segment each: the inner product of level n is c^n / (n!)^2.
    x, y = np.stack([np.zeros((6, 3)), rng.standard_normal((6, 3))], axis=1), np.zeros((6, 2, 3))
    y[:, 1] = rng.standard_normal((6, 3))
    c = np.sum(x[:, 1] * y[:, 1], axis=1)
    exact = np.stack([c**n / math.factorial(n) ** 2 for n in range(6)], axis=1)
    arguments = ordered(x, y, (1, 5), "lobatto4")
    np.testing.assert_allclose(core.solve(arguments, "end"), exact, rtol=1e-13)
    finer = dataclasses.replace(arguments, dyadic_order=(2, 3))
    np.testing.assert_allclose(core.solve(finer, "end"), exact, rtol=1e-13)
