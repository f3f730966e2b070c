"""Ordered forests on CUDA against the reference: all options, crossed with how pairs are shared among warps."""

import dataclasses

import numpy as np
import pytest
from cases import STATIC_KERNELS, problem, sizes, using, walk
from cuda_cases import FROM_THE_LEFT, drawn, emulated_cupy, in_float64, kernel_named, limit, padded, relays

import branchsig
from branchsig import _validation
from branchsig.backends import Wrt, cuda
from branchsig.backends.reference import ReferenceBackend
from branchsig.static_kernels import DilatedKernel, is_built_in

LEFT, TRAPEZOID = branchsig.LeftPoint(), branchsig.Trapezoid()


def planar(x, y, depth=2, rule="trapezoid", orders=(0, 0), pairing="paired", name="linear", **options):
    rule = _validation.quadrature(rule)
    return problem(x, y, depth, orders, pairing, kernel_named(name), quadrature=rule, planar=True, **options)


def close(found, wanted, tolerance=1e-12):
    """Whether arrays agree relative to the largest entry, or to 1."""
    assert found.shape == wanted.shape
    assert np.all(np.isfinite(wanted))
    return np.max(abs(found - wanted), initial=0.0) <= tolerance * np.max(abs(wanted), initial=1.0)


def compare(backend, reference, arguments, *, grids=False):
    """Hold values and gradients of ends, and where asked for of grids and stacks, against the reference."""
    assert backend.backend.sweeps(backend.sent(arguments))
    single = arguments.path1.dtype == np.float32
    tolerance, exact = 1e-6 if single else 1e-12, in_float64(arguments) if single else arguments
    rng, parameters = np.random.default_rng(7), is_built_in(arguments.static_kernel)
    for want in ("end", "grid") if grids else ("end",):
        wanted = reference.solve(exact, want)
        found = backend.solve(arguments, want)
        assert found.dtype == arguments.path1.dtype
        assert close(found, wanted, tolerance)
        derivs = rng.standard_normal(wanted.shape).astype(found.dtype)
        second = arguments.pairing != "symmetric"
        for wrt in (Wrt(True, second, parameters), Wrt(True, False), Wrt(False, second))[: 1 if grids else 2 + second]:
            mine = backend.adjoint(arguments, want, derivs, wrt)
            its = reference.adjoint(exact, want, derivs.astype(float), wrt)
            for own, other in zip(mine, its, strict=True):
                assert (own is None) == (other is None)
                assert own is None or (own.dtype == found.dtype and close(own, other, tolerance))
    if grids:
        assert close(backend.solve(arguments, "stack"), reference.solve(exact, "stack"), tolerance)


@pytest.mark.parametrize("rule", ["trapezoid", "left"])
@pytest.mark.parametrize("depth", [1, 2])
def test_ordered_forests_agree_with_the_reference(backend, reference, rule, depth, rng):
    compare(backend, reference, planar(*drawn(rng, "gram", (5, 34), 3), depth, rule, (1, 0), "gram"), grids=True)


@pytest.mark.parametrize("depth", [3, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (4, 5, 6, 7, 15))])
def test_every_depth_agrees_with_the_reference(backend, reference, depth, rng):
    for rule in ("trapezoid", "left"):
        compare(backend, reference, planar(*drawn(rng, "paired", (9, 6), 3), depth, rule))


FORMS = {"rbf": "symmetric", "quartic": "gram"}


@pytest.mark.parametrize(
    "name",
    [name if name in FORMS else pytest.param(name, marks=pytest.mark.slow) for name in (*STATIC_KERNELS, "quartic")],
)
def test_every_static_kernel_agrees_with_the_reference(backend, reference, name, rng):
    pairing = FORMS.get(name, "paired")
    for rule, orders in (("trapezoid", (0, 0)), ("left", (2, 2) if pairing == "symmetric" else (1, 2))):
        compare(backend, reference, planar(*drawn(rng, pairing, (6, 7), 3), 2, rule, orders, pairing, name))


@pytest.mark.slow
def test_symmetric_matrices_and_increments_of_ones_own_agree_with_the_reference(backend, reference, rng):
    for pairing in ("paired", "gram", "symmetric"):
        for name in ("linear", "quartic", "polynomial"):
            arguments = planar(*drawn(rng, pairing, (6, 37), 3), 2, "trapezoid", (0, 0), pairing, name)
            compare(backend, reference, arguments, grids=pairing != "symmetric")


@pytest.mark.slow
def test_dilated_static_kernels_agree_with_the_reference(backend, reference, rng):
    x, y = (np.concatenate([walk(rng, 3, n, 3), np.full((3, n, 1), size)], axis=2) for n, size in ((9, 0.8), (7, 1.3)))
    for rule in ("trapezoid", "left"):
        arguments = planar(x, y, 2, rule)
        compare(backend, reference, dataclasses.replace(arguments, static_kernel=DilatedKernel(kernel_named("rbf"))))


# Strips, warps, phases of 16 rows and passes begin and end at these lengths.
@pytest.mark.parametrize("lengths", [(2, 2), (2, 33), (33, 34), (34, 2), (65, 3), (3, 66), (100, 140)])
def test_every_length_agrees_with_the_reference(backend, reference, lengths, rng):
    compare(backend, reference, planar(*drawn(rng, "paired", lengths, 3, counts=(2, 2))))


@pytest.mark.parametrize("dimension", [1, 4, 9])
def test_every_number_of_channels_agrees_with_the_reference(backend, reference, dimension, rng):
    compare(backend, reference, planar(*drawn(rng, "paired", (5, 6), dimension)))


@pytest.mark.parametrize("rule", ["trapezoid", "left"])
def test_padded_paths_agree_with_the_reference(backend, reference, rule, rng):
    arguments = padded(rng, "gram", ((7, 1, 4), (5, 3, 35)))
    arguments = dataclasses.replace(arguments, depth=2, quadrature=_validation.quadrature(rule), planar=True)
    compare(backend, reference, arguments, grids=True)


def test_float32_paths_are_computed_in_float64(backend, reference, rng):
    compare(backend, reference, planar(*drawn(rng, "paired", (40, 36), 3, dtype=np.float32)))


@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
def test_nothing_to_sweep_gives_zeros(backend, pairing, rng):
    for count, length, depth in ((0, 4, 2), (2, 1, 2), (2, 4, 0)):
        x, y = drawn(rng, pairing, (length, length), 2, counts=(count, count))
        arguments, shape = planar(x, y, depth, pairing=pairing), (count,) if pairing == "paired" else (count, count)
        assert np.array_equal(backend.solve(arguments, "end"), np.zeros(shape))
        assert np.array_equal(backend.solve(arguments, "grid"), np.zeros((*shape, length, length)))
        found = backend.adjoint(arguments, "end", np.ones(shape), Wrt(True, True))
        assert np.array_equal(found.path1, np.zeros_like(x))


def test_kernels_of_prefixes_agree_with_the_reference(backend, reference, rng):
    x = walk(rng, 4, 150, 2)
    x[0, 60:] += 1e3 * np.arange(90)[:, None]  # whose kernels are infinite
    for points, orders, lengths in ((150, (0, 0), None), (35, (1, 1), np.array([35, 1, 8, 20]))):
        part = x[:, :points].copy()
        arguments = planar(part, part, 2, orders=orders, lengths1=lengths, lengths2=lengths, purpose="rough")
        with np.errstate(all="ignore"):
            found, wanted = (one.solve(arguments, "prefixes") for one in (backend, reference))
        assert np.isinf(wanted).any() == (points == 150)
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_max_batch_cuts_the_pairs_into_chunks(backend, reference, rng):
    arguments = planar(*drawn(rng, "symmetric", (6, 6), 3, counts=(5, 5)), pairing="symmetric")
    compare(backend, reference, dataclasses.replace(arguments, max_batch=2))


# How pairs are shared among warps.


@pytest.mark.parametrize("teams", ["teams of one warp", "teams of several warps"])
def test_passes_that_are_swept_again_change_no_bit(alone, reference, teams, rng, monkeypatch):
    limit(monkeypatch, longest_team=1 if teams == "teams of one warp" else 4)
    # 10 passes of a warp of strips of two columns, so that edges have numbers of two digits
    arguments = planar(*drawn(rng, "paired", (9, 300), 3, counts=(2, 2), size=0.5), orders=(0, 1))
    arguments.path1[1] *= 1e30  # what overflows is swept carefully
    derivs, wrt = np.ones(2), Wrt(True, True)
    whole = alone.adjoint(arguments, "end", derivs, wrt)
    limit(monkeypatch, workspace_bytes=1)
    parts = alone.adjoint(arguments, "end", derivs, wrt)
    wanted = reference.adjoint(arguments, "end", derivs, wrt)
    for mine, its, other in zip(whole[:2], parts[:2], wanted[:2], strict=True):
        np.testing.assert_array_equal(mine, its)
        assert np.isnan(mine[1]).all()
        assert close(mine[:1], other[:1])


def test_memory_is_that_of_one_pass_where_that_of_all_has_no_room(emulated, rng, monkeypatch):
    taken = []
    limit(monkeypatch, longest_team=1)
    for room in (2**28, 1):
        limit(monkeypatch, workspace_bytes=room)
        emulated_cupy.allocated[0] = 0
        arguments = planar(*drawn(rng, "paired", (100, 460), 3, counts=(1, 1), size=0.1))
        emulated.adjoint(arguments, "end", np.ones(1), Wrt(True, True))
        taken.append(emulated_cupy.allocated[0])
    assert taken[0] > 8 * 2 * 100 * 460  # two levels
    assert taken[1] < 0.35 * taken[0]


@pytest.mark.parametrize("rule", ["trapezoid", "left"])
def test_few_pairs_of_long_paths_are_relayed(relaying, reference, rule, rng):
    compare(relaying, reference, planar(*drawn(rng, "paired", (20, 270), 3, counts=(2, 2), size=0.3), 2, rule))
    assert min(relays(relaying)) > 0


@pytest.mark.slow
def test_grids_are_relayed(relaying, reference, rng):
    compare(relaying, reference, planar(*drawn(rng, "paired", (20, 270), 3, counts=(2, 2), size=0.3)), grids=True)
    assert min(relays(relaying)) > 0


# Values that overflow or have lost their digits.


def long_double(x, y, depth, rule):
    """K at all nodes by the recursion in 80-bit arithmetic, increments included."""
    x, y = x.astype(np.longdouble), y.astype(np.longdouble)
    g = np.einsum("nid,njd->nij", np.diff(x, axis=1), np.diff(y, axis=1))
    count, rows, columns = g.shape
    below = np.ones((count, rows + 1, columns + 1), np.longdouble)
    for _ in range(depth):
        k = np.ones_like(below)
        for i in range(rows):
            for j in range(columns):
                corners = below[:, i, j], below[:, i + 1, j], below[:, i, j + 1], below[:, i + 1, j + 1]
                h = g[:, i, j] * (corners[0] if rule == "left" else sum(corners) / 4)
                edges, first = k[:, i + 1, j] + k[:, i, j + 1], k[:, i, j]
                a, b = (0, h) if rule == "left" else (h / 2 + h * h / 12, h * h / 12)
                k[:, i + 1, j + 1] = edges - first + a * edges + b * first
        below = k
    return below


def returning(rng, largest=400.0):
    """Paths that do not return and others that do, of very different sizes, and paths that rise."""
    there_and_back = 1 - abs(np.linspace(-1, 1, 81))[None, :, None]
    x = np.concatenate([walk(rng, 4, 81, 1), np.repeat(there_and_back, 10, axis=0)])
    size = np.concatenate([sizes(4, 0.1, largest), sizes(10, 1.0, largest)])
    return x * size, np.sort(10 * rng.uniform(size=(14, 41, 1)), axis=1)


@pytest.mark.parametrize("rule", ["trapezoid", "left"])
@pytest.mark.parametrize("depth", [1, 2])
def test_values_and_nodes_are_right_or_nan(backend, reference, rule, depth, rng):
    x, y = returning(rng, {1: 1500.0, 2: 400.0}[depth])
    with np.errstate(all="ignore"):
        exact = long_double(x, y, depth, rule)
        for want in ("end", "grid"):
            arguments = planar(x, y, depth, rule)
            k = exact if want == "grid" else exact[:, -1, -1]
            found, wanted = (1.0 + one.solve(arguments, want) for one in (backend, reference))
            given, error = np.isfinite(found), abs(found - k) / np.maximum(1, abs(k))
            assert np.all(error[given] < 1e-4)
            # Both draw signs of errors, so that they may differ where the error is near the tolerance.
            assert np.mean(given != np.isfinite(wanted)) < 0.01
            assert np.isnan(found).any() or want == "end" or depth == 1


@pytest.mark.parametrize("want", ["end", "grid"])
@pytest.mark.parametrize("purpose", ["log", "difference", "rough"])
def test_values_are_judged_by_their_purpose(backend, reference, purpose, want, rng):
    x, y = returning(rng)
    arguments = planar(x, y, purpose=purpose)
    with np.errstate(all="ignore"):
        found, wanted = (1.0 + one.solve(arguments, want) for one in (backend, reference))
        exact = long_double(x, y, 2, "trapezoid")
    given = np.isfinite(found)
    assert np.mean(given != np.isfinite(wanted)) < 0.01
    if purpose == "rough":
        np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    else:
        found, exact = found[given], (exact if want == "grid" else exact[:, -1, -1])[given]
        allowed = abs(exact) * (np.maximum(1, abs(np.log(abs(exact)))) if purpose == "log" else 1)
        assert np.all(abs(found - exact) <= 1e-4 * allowed)


@pytest.mark.parametrize("of_grid", [False, True])
def test_gradients_are_nan_where_values_are_not_finite(backend, rng, of_grid):
    x, y = returning(rng)
    x[3, 5] = np.nan
    arguments = planar(x, y)
    values = backend.solve(arguments, "grid" if of_grid else "end")
    finite = np.isfinite(values).reshape(len(x), -1).all(axis=1)
    derivs = np.ones(values.shape)
    derivs[:2] = 0.0
    found = backend.adjoint(arguments, "grid" if of_grid else "end", derivs, Wrt(True, True))
    for gradient in found[:2]:
        assert not gradient[:2].any()  # nothing counts there
        assert np.array_equal(np.isfinite(gradient[2:]).all(axis=(1, 2)), finite[2:])
        assert np.isnan(gradient[2:][~finite[2:]]).all()


@pytest.mark.parametrize("rule", ["trapezoid", "left"])
def test_what_overflows_is_infinite(backend, reference, rule):
    t = np.linspace(0, 1, 31)[:, None]
    x = np.stack([size * t for size in (1.0, 1e3, 1e60, 1e160)])
    for want in ("end", "grid"):
        arguments = planar(x, x.copy(), 2, rule)
        with np.errstate(all="ignore"):
            wanted, found = reference.solve(arguments, want), backend.solve(arguments, want)
        assert np.isinf(wanted[2]).any()
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)


def test_nodes_of_weight_zero_are_not_seen(backend, reference):
    # K_1 is infinite at the last corner alone, which no cell of the left-point rule looks at.
    x, y = np.array([[0.0], [0.1], [1e155]])[None], np.array([[0.0], [0.2], [1e155]])[None]
    arguments = planar(x, y, 2, "left")
    with np.errstate(all="ignore"):
        wanted, found = reference.solve(arguments, "stack"), backend.solve(arguments, "stack")
    assert np.isinf(wanted[0, :, 2, 2]).sum() == 2
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_errors_that_are_not_handed_on_are_caught(emulated, reference, rng, monkeypatch):
    text = cuda.source()
    assert FROM_THE_LEFT in text
    monkeypatch.setattr(
        cuda.instances, "source", lambda: text.replace(FROM_THE_LEFT, f"v > 0 ? handed[m][v] : {FROM_THE_LEFT}")
    )
    x, y = returning(rng)
    with np.errstate(all="ignore"):
        exact = long_double(x, y, 2, "trapezoid")
        k = 1.0 + emulated.solve(planar(x, y), "grid")
        assert (abs(k - exact) > 1e-4 * np.maximum(1, abs(exact))).any()


def test_ordinary_paths_are_not_swept_twice(emulated, reference, rng, monkeypatch):
    written = "if (!PARTS) ends[place] = real("
    text = cuda.source()
    assert text.count(written) == 1
    mutated = text.replace(written, f"{written[:-5]}CAREFUL ? real(-1) : real(")
    monkeypatch.setattr(cuda.instances, "source", lambda: mutated)
    x, y = walk(rng, 2, 200, 3), walk(rng, 2, 40, 3)
    for depth in (1, 2):
        arguments = planar(x, y, depth)
        assert close(emulated.solve(arguments, "end"), reference.solve(arguments, "end"))


# What runs where.


def test_what_the_kernels_do_not_compute_goes_to_the_reference(backend, reference, rng):
    x, y = drawn(rng, "paired", (5, 6), 2)
    arguments = planar(x, y, 16)
    assert not backend.backend.sweeps(backend.sent(arguments))
    assert close(backend.solve(arguments, "end"), reference.solve(arguments, "end"))


def test_public_functions_of_ordered_forests_give_the_same_on_a_device(on_device, rng):
    x, y = walk(rng, 3, 5, 2, size=0.3), walk(rng, 3, 4, 2, size=0.3)
    for options in ({"depth": 1}, {"depth": 2, "quadrature": "left"}, {"order": 3}, {"depth": 2, "log": True}):
        with using(ReferenceBackend()):
            value, pullback = branchsig.branched_sig_kernel_gram_vjp(x, y, planar=True, **options)
            expected = pullback(np.ones((3, 3)))
        there = branchsig.branched_sig_kernel_gram_vjp(
            emulated_cupy.asarray(x), emulated_cupy.asarray(y), planar=True, **options
        )
        np.testing.assert_allclose(np.asarray(there[0]), value, rtol=1e-13)
        found = there[1](emulated_cupy.ones((3, 3)))
        for mine, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(np.asarray(mine), other, rtol=1e-12, atol=1e-14)
