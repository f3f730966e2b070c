"""Ordered forests by number of nodes on CUDA against the reference: all options, crossed with how pairs are shared."""

import dataclasses
import math

import numpy as np
import pytest
from cases import STATIC_KERNELS, assert_backends_agree, close, problem, retraced, sizes, using, walk
from cuda_cases import (
    FROM_THE_LEFT,
    FROM_THE_RIGHT,
    drawn,
    emulated_cupy,
    in_float64,
    kernel_named,
    limit,
    padded,
    relays,
)

import branchsig
from branchsig import _validation
from branchsig.backends import Wrt, cuda
from branchsig.backends.reference import ReferenceBackend
from branchsig.static_kernels import DilatedKernel, is_built_in

RULES = ["trapezoid", "left", "lobatto2", "lobatto3", "lobatto5"]
TRUNCATIONS = [(math.inf, 1), (math.inf, 2), (math.inf, 5), (1, 3), (1, 6), (2, 4), (3, 4), (3, 6), (5, 6)]


def ordered(x, y, truncation, rule="trapezoid", orders=(0, 0), pairing="paired", name="linear", **options):
    depth, order = truncation
    options |= {"quadrature": _validation.quadrature(rule), "order": order, "planar": True}
    return problem(x, y, depth, orders, pairing, kernel_named(name), **options)


def compare(backend, reference, arguments, wants=("end",)):
    """Hold components and the gradients of both paths and of parameters against the reference."""
    assert backend.backend.sweeps(backend.sent(arguments))
    if arguments.pairing == "symmetric":  # its gradients are asked for as those of all pairs
        assert close(backend.solve(arguments, "end"), reference.solve(arguments, "end"))
        arguments = dataclasses.replace(arguments, pairing="gram")
    wrt = Wrt(True, True, is_built_in(arguments.static_kernel))
    for want in wants:
        assert_backends_agree(backend, reference, arguments, want, wrt, np.random.default_rng(7))


ENDS_AND_GRIDS = ("end", "grid")


@pytest.mark.parametrize(
    ("rule", "truncation"), [("trapezoid", (2, 4)), ("left", (2, 4)), ("lobatto2", (math.inf, 3))], ids=str
)
def test_components_and_their_grids_agree_with_the_reference(backend, reference, rule, truncation, rng):
    x, y = drawn(rng, "gram", (5, 34), 3, size=1.5)
    compare(backend, reference, ordered(x, y, truncation, rule, (1, 0), "gram"), ENDS_AND_GRIDS)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("truncation", TRUNCATIONS, ids=str)
def test_every_rule_and_truncation_agree_with_the_reference(backend, reference, rule, truncation, rng):
    x, y = drawn(rng, "gram", (5, 34), 3, size=1.5)
    compare(backend, reference, ordered(x, y, truncation, rule, (1, 0), "gram"), ENDS_AND_GRIDS)


# Levels beyond 6 are counted at run time, and there are at most 16.
@pytest.mark.parametrize(
    ("rule", "truncation"),
    [
        ("left", (1, 15)),
        ("lobatto2", (2, 9)),
        *(
            pytest.param(rule, truncation, marks=pytest.mark.slow)
            for rule in ("trapezoid", "lobatto5")
            for truncation in ((math.inf, 15), (3, 7), (4, 7), (7, 8), (14, 15))
            if truncation != (14, 15)
        ),
    ],
    ids=str,
)
def test_many_levels_agree_with_the_reference(backend, reference, rule, truncation, rng):
    x, y = drawn(rng, "paired", (5, 36), 3, size=2.0)
    compare(backend, reference, ordered(x, y, truncation, rule))


FORMS = {"rbf": "symmetric", "quartic": "gram"}


@pytest.mark.parametrize(
    "name",
    [name if name in FORMS else pytest.param(name, marks=pytest.mark.slow) for name in (*STATIC_KERNELS, "quartic")],
)
def test_every_static_kernel_agrees_with_the_reference(backend, reference, name, rng):
    pairing = FORMS.get(name, "paired")
    for rule, orders in (("trapezoid", (0, 0)), ("left", (2, 2) if pairing == "symmetric" else (1, 2))):
        x, y = drawn(rng, pairing, (6, 7), 3, size=1.0)
        compare(backend, reference, ordered(x, y, (2, 4), rule, orders, pairing, name))


@pytest.mark.slow
def test_dilated_static_kernels_agree_with_the_reference(backend, reference, rng):
    x, y = (np.concatenate([walk(rng, 3, n, 3), np.full((3, n, 1), size)], axis=2) for n, size in ((9, 0.8), (7, 1.3)))
    for rule, truncation in (("left", (2, 4)), ("lobatto2", (math.inf, 3))):
        arguments = ordered(x, y, truncation, rule)
        compare(backend, reference, dataclasses.replace(arguments, static_kernel=DilatedKernel(kernel_named("rbf"))))


# Strips, warps, phases of 16 rows and passes begin and end at these lengths.
@pytest.mark.parametrize("lengths", [(2, 2), (2, 33), (33, 34), (34, 2), (65, 3), (3, 66), (70, 140)])
def test_every_length_agrees_with_the_reference(backend, reference, lengths, rng):
    compare(backend, reference, ordered(*drawn(rng, "paired", lengths, 3, counts=(2, 2), size=1.0), (2, 4)))


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [1, 4, 9])
def test_every_number_of_channels_agrees_with_the_reference(backend, reference, dimension, rng):
    compare(backend, reference, ordered(*drawn(rng, "paired", (5, 6), dimension, size=1.0), (2, 4)))


@pytest.mark.parametrize("rule", ["trapezoid", "left"])
def test_padded_paths_agree_with_the_reference(backend, reference, rule, rng):
    arguments = padded(rng, "gram", ((7, 1, 4), (5, 3, 35)))
    options = {"depth": 2, "order": 4, "quadrature": _validation.quadrature(rule), "planar": True}
    compare(backend, reference, dataclasses.replace(arguments, **options), ENDS_AND_GRIDS)


def test_float32_paths_are_computed_in_float64(backend, reference, rng):
    arguments = ordered(*drawn(rng, "paired", (40, 36), 3, dtype=np.float32, size=1.0), (2, 4))
    wanted = reference.solve(in_float64(arguments), "end")
    found = backend.solve(arguments, "end")
    assert found.dtype == np.float32
    assert close(found, wanted, 1e-7)
    derivs = rng.standard_normal(wanted.shape).astype(np.float32)
    mine = backend.adjoint(arguments, "end", derivs, Wrt(True, True))
    its = reference.adjoint(in_float64(arguments), "end", derivs.astype(float), Wrt(True, True))
    for own, other in zip(mine[:2], its[:2], strict=True):
        assert own.dtype == np.float32
        assert close(own, other, 1e-6)


@pytest.mark.parametrize("teams", ["teams of one warp", "teams of several warps"])
def test_long_second_paths_are_done_in_passes(backend, reference, teams, rng, monkeypatch):
    limit(monkeypatch, longest_team=1 if teams == "teams of one warp" else 4)
    x, y = drawn(rng, "paired", (40, 150), 3, counts=(1, 1), size=1.0)
    compare(backend, reference, ordered(x, y, (math.inf, 3), "lobatto2"))


@pytest.mark.parametrize("truncation", [(2, 4), pytest.param((1, 15), marks=pytest.mark.slow)], ids=str)
def test_few_pairs_of_long_paths_are_relayed(relaying, reference, truncation, rng):
    x, y = drawn(rng, "paired", (20, 270), 3, counts=(2, 2), size=1.0)
    compare(relaying, reference, ordered(x, y, truncation, "left"))
    assert min(relays(relaying)) > 0


def test_components_of_prefixes_agree_with_the_reference(backend, reference, rng):
    x = walk(rng, 4, 20, 2, size=1.5)
    for orders, lengths in (((0, 0), None), ((1, 1), np.array([20, 1, 8, 13]))):
        arguments = ordered(x, x, (2, 4), "left", orders, lengths1=lengths, lengths2=lengths)
        assert backend.backend.sweeps(backend.sent(arguments))
        assert close(backend.solve(arguments, "prefixes"), reference.solve(arguments, "prefixes"))


def large_and_small(rng):
    """Pairs of first paths that return or do not, of very different sizes."""
    x = np.concatenate([retraced(rng, 6, 5, 1) * sizes(6, 0.3, 1e4), walk(rng, 6, 9, 1) * sizes(6, 0.3, 1e4)])
    return x, walk(rng, 12, 12, 1, size=20.0)


@pytest.mark.parametrize("purpose", [None, "kernel", "log", "difference", "quotient", "rough"])
def test_components_have_digits_where_those_of_the_reference_have(backend, reference, purpose, rng):
    x, y = large_and_small(rng)
    arguments = ordered(x, y, (2, 4), purpose=purpose)
    for want in ENDS_AND_GRIDS:
        found, wanted = (one.solve(arguments, want) for one in (backend, reference))
        np.testing.assert_array_equal(np.isnan(found[..., 1:]), np.isnan(wanted[..., 1:]))
        assert np.isnan(wanted).any() == (purpose != "rough")
        derivs = np.ones(wanted.shape)
        gradients = (one.adjoint(arguments, want, derivs, Wrt(True)) for one in (backend, reference))
        np.testing.assert_array_equal(*(np.isnan(gradient.path1).all(axis=(1, 2)) for gradient in gradients))


@pytest.mark.parametrize("truncation", [(2, 4), (1, 15)], ids=str)
def test_components_that_overflow_are_infinite_and_their_gradients_are_none(backend, reference, truncation, rng):
    x, y = walk(rng, 4, 6, 2), walk(rng, 4, 6, 2)
    x[1] *= 1e160
    x[2, 3] = np.nan
    arguments = ordered(x, y, truncation, "left", purpose="rough")
    with np.errstate(all="ignore"):
        found, wanted = backend.solve(arguments, "end"), reference.solve(arguments, "end")
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))
    assert not np.isfinite(wanted[1:3]).all(axis=1).any()
    gradient = backend.adjoint(arguments, "end", np.ones(wanted.shape), Wrt(True, True))
    for one in gradient[:2]:
        np.testing.assert_array_equal(np.isnan(one).any(axis=(1, 2)), [False, True, True, False])


def test_at_depth_1_the_components_are_the_levels_of_the_signature(backend, rng):
    # One segment each: the inner product of level n is c^n / (n!)^2.
    x, y = np.stack([np.zeros((6, 3)), rng.standard_normal((6, 3))], axis=1), np.zeros((6, 2, 3))
    y[:, 1] = rng.standard_normal((6, 3))
    c = np.sum(x[:, 1] * y[:, 1], axis=1)
    exact = np.stack([c**n / math.factorial(n) ** 2 for n in range(4)], axis=1)
    found = backend.solve(ordered(x, y, (1, 3), "lobatto2", (0, 1)), "end")
    np.testing.assert_allclose(found, exact, rtol=1e-13)


@pytest.mark.parametrize("c", [-2.0, 0.75])
def test_ordered_forests_of_segments_have_the_values_of_their_trees(backend, c):
    # k_2 = the integral of 2 k_1 = c^2 / 2, and k_3 = that of 2 k_2 + k_1^2, with k_1 = c s t: (c^3 + c^3) / 9.
    x, y = np.array([[[0.0], [c]]]), np.array([[[0.0], [1.0]]])
    found = backend.solve(ordered(x, y, (math.inf, 3), "lobatto2"), "end")
    np.testing.assert_allclose(found[0], [1.0, c, c**2 / 2, 2 * c**3 / 9], rtol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shuffle", "value"), [*((FROM_THE_LEFT, v) for v in (2, 3)), *((FROM_THE_RIGHT, v) for v in range(7))]
)
def test_an_edge_of_a_cell_not_handed_on_is_caught(emulated, reference, shuffle, value, rng, monkeypatch):
    text = cuda.source().replace(shuffle, f"v == {value} ? handed[m][v] : {shuffle}")
    monkeypatch.setattr(cuda.instances, "source", lambda: text)
    x, y = drawn(rng, "paired", (5, 6), 2, counts=(1, 1))
    arguments, derivs = ordered(x, y, (2, 4), "lobatto2"), np.ones((1, 5))
    wanted, found = (one.adjoint(arguments, "end", derivs, Wrt(True, True)) for one in (reference, emulated))
    assert not all(close(np.nan_to_num(a, nan=1e9), b, 1e-9) for a, b in zip(found[:2], wanted[:2], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("value", [0, 1])
def test_a_bound_not_handed_on_is_caught(emulated, reference, value, rng, monkeypatch):
    text = cuda.source().replace(FROM_THE_LEFT, f"v == {value} ? handed[m][v] : {FROM_THE_LEFT}")
    monkeypatch.setattr(cuda.instances, "source", lambda: text)
    arguments = ordered(*large_and_small(rng), (2, 4))
    wanted = reference.solve(arguments, "grid")
    assert (np.isnan(emulated.solve(arguments, "grid")) != np.isnan(wanted)).any()


@pytest.mark.parametrize("truncation", [(math.inf, 16), (3, 9), (15, 17), (0, 3)], ids=str)
def test_more_nodes_or_levels_are_left_to_the_reference(backend, reference, truncation, rng):
    arguments = ordered(*drawn(rng, "gram", (4, 6), 3, size=1.0), truncation, "trapezoid", (1, 0), "gram")
    assert not backend.backend.sweeps(backend.sent(arguments))
    assert_backends_agree(backend, reference, arguments, "end", Wrt(True, True), rng)


@pytest.mark.parametrize("options", [{"order": 4}, {"depth": 2, "order": 4, "quadrature": "left"}], ids=str)
def test_public_functions_give_the_same_on_a_device(on_device, options, rng):
    x, y = walk(rng, 3, 5, 2, size=1.0), walk(rng, 3, 4, 2, size=1.0)
    call = {"planar": True, "return_levels": True, **options}
    derivs = rng.standard_normal((3, 3, 5))
    with using(ReferenceBackend()):
        value, pullback = branchsig.branched_sig_kernel_gram_vjp(x, y, **call)
        expected = pullback(derivs)
    there, back = branchsig.branched_sig_kernel_gram_vjp(emulated_cupy.asarray(x), emulated_cupy.asarray(y), **call)
    np.testing.assert_allclose(np.asarray(there), value, rtol=1e-13)
    for mine, other in zip(back(emulated_cupy.asarray(derivs)), expected, strict=True):
        np.testing.assert_allclose(np.asarray(mine), other, rtol=1e-12, atol=1e-14)
