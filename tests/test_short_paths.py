"""Short paths: many pairs of a few points, whose rows are one block of columns of the core."""

import itertools

import numpy as np
import pytest
from cases import STATIC_KERNELS, static_kernel, using, walk

import branchsig

LENGTHS = [(2, 2), (4, 4), (3, 17), (10, 9), (17, 16), (34, 5), (5, 33)]
SIZES = {"terms of every form of exp": 1.0, "tiny cells": 0.01, "cells that take the full exponential": 4.0}
RULES = [("trapezoid", False), ("left", False), ("trapezoid", True), ("left", True)]


def pairs(rng, count, lengths, dimension, size):
    """Pairs of paths of sizes around `size`, so that lanes of a register need different forms of exp."""
    scales = size * np.exp(0.5 * rng.normal(size=(2, count, 1, 1)))
    return [scale * walk(rng, count, length, dimension) for scale, length in zip(scales, lengths, strict=True)]


def values_and_gradients(x, y, derivs, depth, **options):
    return [
        branchsig.branched_sig_kernel(x, y, depth, **options),
        *branchsig.branched_sig_kernel_backprop(derivs, x, y, depth, **options, right_deriv=True),
    ]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("depth", [2, 3, 6])
@pytest.mark.usefixtures("core")
def test_the_core_agrees_with_the_reference(lengths, depth, rng, reference):
    x, y = pairs(rng, 11, lengths, 2, 0.15)
    derivs = rng.normal(size=11)
    for name, (rule, planar), dyadic_order in itertools.product(STATIC_KERNELS, RULES, (0, (1, 2))):
        if dyadic_order and name not in ("linear", "rbf"):
            continue
        options = {
            "static_kernel": static_kernel(name)[0],
            "quadrature": rule,
            "planar": planar,
            "dyadic_order": dyadic_order,
        }
        found = values_and_gradients(x, y, derivs, depth, **options)
        with using(reference):
            wanted = values_and_gradients(x, y, derivs, depth, **options)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10 * max(1.0, np.max(abs(other))))


@pytest.mark.usefixtures("core")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_bits_depend_on_no_other_pair_and_no_thread(lengths, size, rng):
    x, y = pairs(rng, 11, lengths, 2, size)
    derivs = rng.normal(size=11)
    for name, (rule, planar), depth in itertools.product(("linear", "rbf"), RULES, (2, 5)):
        options = {"static_kernel": static_kernel(name)[0], "quadrature": rule, "planar": planar}
        together = values_and_gradients(x, y, derivs, depth, **options)
        threads = values_and_gradients(x, y, derivs, depth, **options, n_jobs=2)
        alone = [
            values_and_gradients(x[k : k + 1], y[k : k + 1], derivs[k : k + 1], depth, **options) for k in range(11)
        ]
        for one, other, *each in zip(together, threads, *alone, strict=True):
            np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(one, np.concatenate(each))


@pytest.mark.usefixtures("core")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_pair_has_the_bits_that_it_has_among_longer_paths(size, rng):
    """Padded to more than a block of columns, the pairs go through the tiles of other paths."""
    lengths = np.full(11, 9)
    x, y = pairs(rng, 11, (9, 9), 3, size)
    longer = [np.concatenate((path, np.full((11, 40, 3), np.nan)), axis=1) for path in (x, y)]
    longer = [np.concatenate((path, walk(rng, 1, 49, 3))) for path in longer]
    points = np.append(lengths, 49)
    for depth in (2, 3, 4):
        wanted = branchsig.branched_sig_kernel(x, y, depth)
        found = branchsig.branched_sig_kernel(*longer, depth, lengths1=points, lengths2=points)[:11]
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.usefixtures("core")
def test_gradients_of_calls_made_again_hold_nothing_of_arrays_before_them(rng):
    x, y = pairs(rng, 13, (4, 4), 2, 0.4)
    derivs = rng.normal(size=13)
    derivs[[0, 5, 12]] = 0.0
    wanted = values_and_gradients(x, y, derivs, 3)
    for _ in range(20):
        rubbish = np.full(x.shape, 7.0)
        del rubbish  # whose memory the next gradient may have
        for one, other in zip(values_and_gradients(x, y, derivs, 3), wanted, strict=True):
            np.testing.assert_array_equal(one, other)
    assert not wanted[1][[0, 5, 12]].any()
    assert not wanted[2][[0, 5, 12]].any()


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_cells_of_every_size_have_the_exponential_of_one_segment(depth):
    """Of one segment each the trapezoid rule is c/4 times the sum of four corners, of which three are 1."""
    c = np.concatenate([sign * np.geomspace(1e-4, 3.0, 60) for sign in (1.0, -1.0)])
    x, y = np.zeros((2, 120, 2, 1))
    x[:, 1, 0], y[:, 1, 0] = c, 1.0
    log_k = c
    with np.errstate(over="ignore"):
        for _ in range(depth - 1):
            log_k = c * (0.75 + 0.25 * np.exp(log_k))
    moderate = abs(log_k) < 30
    found = branchsig.branched_sig_kernel(x[moderate], y[moderate], depth, log=True)
    np.testing.assert_allclose(found, log_k[moderate], rtol=1e-12)
