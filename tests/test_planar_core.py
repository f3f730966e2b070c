"""Ordered forests in the compiled core against the reference: all options, crossed with the granularity of the work."""

import dataclasses
import itertools

import numpy as np
import pytest
from cases import STATIC_KERNELS, QuarticKernel, assert_backends_agree, close, problem, static_kernel, walk
from conftest import cpu
from remembered import RememberedReference

import branchsig
from branchsig.backends import Wrt
from branchsig.quadrature import LeftPoint, Trapezoid
from branchsig.static_kernels import DilatedKernel, is_built_in, is_linear

pytestmark = pytest.mark.skipif(cpu is None, reason="no C core")

RULES = [Trapezoid(), LeftPoint()]
reference = RememberedReference()


@pytest.fixture
def core():
    return cpu.CpuBackend()


def planar(x, y, depth, rule, *, orders=(0, 0), pairing="paired", kernel=None, **options):
    return problem(x, y, depth, orders, pairing, kernel, quadrature=rule, planar=True, **options)


def moderate(arguments, largest=100.0):
    """The problem with its paths halved until no kernel is larger."""
    while np.max(abs(reference.solve(arguments, "end")), initial=0.0) > largest:
        x = arguments.path1 / 2
        y = x if arguments.path2 is arguments.path1 else arguments.path2 / 2
        arguments = dataclasses.replace(arguments, path1=x, path2=y)
    return arguments


def assert_agrees(core, arguments, rng, *, grids=False):
    """Values and gradients of ends, and of grids and stacks, are those of the reference."""
    parameters = is_built_in(arguments.static_kernel)
    wrt = Wrt(True, arguments.pairing != "symmetric", parameters)
    for want in ("end", "grid") if grids else ("end",):
        assert_backends_agree(core, reference, arguments, want, wrt, rng)
    if grids:
        assert close(core.solve(arguments, "stack"), reference.solve(arguments, "stack"))


OPTIONS = [
    # rule, depth, pairing, counts, lengths, dimension, orders, ragged
    (0, 1, "paired", (9, 9), (70, 37), 3, (0, 0), False),
    (0, 1, "gram", (3, 5), (41, 66), 2, (1, 0), True),
    (0, 2, "symmetric", (5, 5), (35, 35), 4, (0, 0), True),
    (0, 3, "paired", (7, 7), (20, 12), 1, (1, 2), False),
    (0, 4, "gram", (4, 4), (34, 17), 9, (0, 1), False),
    (0, 2, "paired", (3, 3), (9, 6), 2, (4, 3), True),
    (0, 2, "gram", (3, 2), (40, 33), 20, (0, 0), True),
    (1, 1, "paired", (9, 9), (37, 70), 3, (0, 0), True),
    (1, 2, "symmetric", (6, 6), (33, 33), 2, (1, 1), False),
    (1, 3, "gram", (2, 5), (20, 36), 17, (0, 0), True),
    (1, 2, "paired", (2, 2), (6, 9), 2, (3, 4), False),
]


@pytest.mark.parametrize("name", [*STATIC_KERNELS, "quartic"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_values_and_gradients_agree_with_the_reference(core, rng, name, options):
    rule, depth, pairing, counts, lengths, dimension, orders, ragged = options
    kernel = QuarticKernel() if name == "quartic" else static_kernel(name)[0]
    shapes = [(count, length, dimension) for count, length in zip(counts, lengths, strict=True)]
    x = walk(rng, *shapes[0], size=1.2)
    y = x if pairing == "symmetric" else walk(rng, *shapes[1], size=1.2)
    valid = {}
    if ragged:
        first, second = (rng.integers(1, shape[1] + 1, size=shape[0]) for shape in shapes)
        valid = {"lengths1": first, "lengths2": first if y is x else second}
    arguments = planar(x, y, depth, RULES[rule], orders=orders, pairing=pairing, kernel=kernel, n_jobs=2, **valid)
    assert_agrees(core, moderate(arguments), rng, grids=pairing == "paired" and not ragged)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("name", ["rbf", "matern12", "polynomial"])
def test_dilated_kernels_agree_with_the_reference(core, rng, rule, name):
    kernel = static_kernel(name)[0]
    assert not is_linear(kernel)
    x, y = (
        np.concatenate([walk(rng, 9, n, 3), np.full((9, n, 1), size)], axis=2) for n, size in ((40, 0.8), (21, 1.3))
    )
    assert_agrees(core, planar(x, y, 2, rule, kernel=DilatedKernel(kernel)), rng)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(("depth", "order"), [(1, 0), (3, 0), (2, 1), (1, 4)])
@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_kernels_of_prefixes_agree_with_the_reference(core, rng, rule, depth, order, name):
    x, kernel = walk(rng, 11, 50 if order < 4 else 9, 3, size=1.2), static_kernel(name)[0]
    lengths = rng.integers(1, x.shape[1] + 1, size=len(x))
    for valid in (None, lengths):
        arguments = planar(x, x, depth, rule, orders=(order, order), kernel=kernel, lengths1=valid, lengths2=valid)
        assert close(core.solve(arguments, "prefixes"), reference.solve(arguments, "prefixes"))


LONG = [
    # Rows of K that are not kept: first rows of bands and edges of blocks.
    ("linear", 1, 2, (410, 300), 2, (0, 0)),
    ("rbf", 2, 1, (261, 241), 3, (0, 0)),
    ("linear", 1, 1, (100, 130), 2, (3, 0)),
    ("linear", 2, 1, (270, 230), 20, (0, 0)),
]


@pytest.mark.parametrize("case", LONG, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_long_paths_agree_with_the_reference(core, rng, case, rule):
    name, depth, count, lengths, dimension, orders = case
    x, y = (walk(rng, count, length, dimension) for length in lengths)
    arguments = planar(x, y, depth, rule, orders=orders, kernel=static_kernel(name)[0])
    assert_agrees(core, arguments, rng)


@pytest.mark.parametrize(("lengths", "dimension", "order"), [
    ((6000, 400), 2, 0),  # two segments of rows
    ((6000, 400), 20, 0),
    ((700, 900), 2, 0),  # strips
    ((430, 650), 3, (2, 1)),
])  # fmt: skip
@pytest.mark.parametrize("radial", [False, True])
def test_very_long_paths_agree_with_pysiglib(pysiglib, rng, lengths, dimension, order, radial):
    own, other = (branchsig.RBFKernel(0.9), pysiglib.RBFKernel(0.9)) if radial else (None, None)
    x, y = (walk(rng, 2, length, dimension) for length in lengths)
    options = {"dyadic_order": order, "right_deriv": True}
    value = branchsig.sig_kernel(x, y, dyadic_order=order, static_kernel=own)
    np.testing.assert_allclose(value, pysiglib.sig_kernel(x, y, dyadic_order=order, static_kernel=other), rtol=1e-11)
    found = branchsig.sig_kernel_backprop(np.ones(2), x, y, static_kernel=own, **options)
    expected = pysiglib.sig_kernel_backprop(np.ones(2), x, y, static_kernel=other, **options)
    assert all(close(a, b, 1e-11) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(("name", "depth", "lengths", "dimension", "orders"), [
    ("linear", 1, (560, 525), 2, (0, 0)),
    ("rbf", 2, (261, 521), 3, (1, 0)),
    ("linear", 1, (521, 523), 17, (0, 0)),
    ("polynomial", 1, (515, 260), 2, (0, 1)),
])  # fmt: skip
def test_one_long_pair_agrees_with_the_reference(core, rng, rule, name, depth, lengths, dimension, orders):
    x, y = (walk(rng, 1, length, dimension) for length in lengths)
    assert_agrees(core, planar(x, y, depth, rule, orders=orders, kernel=static_kernel(name)[0]), rng)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_pair_has_the_same_bits_in_any_batch_and_with_any_number_of_threads(rng, depth):
    x, y = walk(rng, 21, 70, 3), walk(rng, 21, 45, 3)
    for options in itertools.product((0, (1, 2)), ("trapezoid", "left"), (None, branchsig.RBFKernel(0.9))):
        named = dict(zip(("dyadic_order", "quadrature", "static_kernel"), options, strict=True))
        named |= {"depth": depth, "planar": True}
        values, pullback = branchsig.branched_sig_kernel_vjp(x, y, **named)
        gradient = pullback(np.ones(21))[0]
        whole = branchsig.branched_sig_kernel_gram(x, y, **named)
        assert np.array_equal(branchsig.branched_sig_kernel_gram(x, y, n_jobs=2, **named), whole)
        assert np.array_equal(np.diagonal(whole), values)
        for k in (0, 7, 20):
            alone, of_one = branchsig.branched_sig_kernel_vjp(x[k], y[k], **named)
            assert values[k] == alone
            assert np.array_equal(gradient[k], of_one(np.ones_like(alone))[0])


@pytest.mark.parametrize("rule", ["trapezoid", "left"])
def test_padding_changes_no_bit(rng, rule):
    x, y = walk(rng, 5, 40, 2), walk(rng, 5, 33, 2)
    lengths1, lengths2 = np.array([40, 3, 17, 1, 29]), np.array([5, 33, 17, 8, 2])
    x[np.arange(40) >= lengths1[:, None]] = y[np.arange(33) >= lengths2[:, None]] = np.nan
    options = {"depth": 2, "quadrature": rule, "planar": True}
    valid = {"lengths1": lengths1, "lengths2": lengths2}
    values, pullback = branchsig.branched_sig_kernel_vjp(x, y, **valid, **options)
    gradient = pullback(np.ones(5))[0]
    for k in range(5):
        own = x[k, : lengths1[k]], y[k, : lengths2[k]]
        alone, of_one = branchsig.branched_sig_kernel_vjp(*own, **options)
        assert values[k] == alone
        assert np.array_equal(gradient[k, : lengths1[k]], of_one(np.ones_like(alone))[0])
        assert not np.any(gradient[k, lengths1[k] :])


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("depth", [1, 2])
def test_values_that_overflow_or_have_lost_their_digits_are_those_of_the_reference(core, rng, rule, depth):
    t = 1 - abs(np.linspace(-1, 1, 31))[:, None]
    x = np.stack([size * t for size in (0.1, 1.0, 4.0, 12.0, 40.0, 1e3)] + [1e3 * np.linspace(0, 1, 31)[:, None]])
    x[1, 5] = np.nan
    for y in (x, x[::-1].copy()):
        for purpose in (None, "difference"):
            arguments = planar(x, y, depth, rule, purpose=purpose)
            with np.errstate(all="ignore"):
                wanted, found = reference.solve(arguments, "end"), core.solve(arguments, "end")
                derivs, wrt = np.ones(len(x)), Wrt(True, True)
                gradients = [backend.adjoint(arguments, "end", derivs, wrt).path1 for backend in (core, reference)]
            np.testing.assert_allclose(1 + found, 1 + wanted, rtol=1e-4, atol=1e-4)
            assert np.array_equal(*(np.isnan(gradient) for gradient in gradients))


def test_depth_1_is_pysiglib_over_random_configurations(pysiglib):
    rng = np.random.default_rng(11)
    for _ in range(60):
        batch, length1, length2, dimension = (int(n) for n in rng.integers((1, 2, 2, 1), (20, 90, 90, 24)))
        x, y = (walk(rng, batch, n, dimension, size=10 ** rng.uniform(-2, 0.3)) for n in (length1, length2))
        own, other = [(None, None), (branchsig.RBFKernel(0.7), pysiglib.RBFKernel(0.7))][rng.integers(2)]
        order = tuple(int(n) for n in rng.integers(0, 2, 2))
        value = branchsig.sig_kernel(x, y, dyadic_order=order, static_kernel=own)
        expected = pysiglib.sig_kernel(x, y, dyadic_order=order, static_kernel=other)
        np.testing.assert_allclose(value, expected, rtol=1e-11)
        derivs = rng.standard_normal(batch)
        found = branchsig.sig_kernel_backprop(derivs, x, y, dyadic_order=order, static_kernel=own, right_deriv=True)
        expected = pysiglib.sig_kernel_backprop(derivs, x, y, dyadic_order=order, static_kernel=other, right_deriv=True)
        assert all(close(a, b, 1e-11) for a, b in zip(found, expected, strict=True))


def test_what_the_core_does_not_compute_goes_to_the_reference(core, rng):
    x = walk(rng, 3, 8, 2)
    of_log = planar(x, x, 2, Trapezoid(), purpose="log")
    assert np.array_equal(core.solve(of_log, "grid"), reference.solve(of_log, "grid"))
