"""What all backends have of pairs in common: blocks, a custom static kernel, weights of a triangle, padding."""

import dataclasses
import math

import numpy as np
import pytest
from cases import QuarticKernel, gradients_of, problem, walk
from hypothesis import given
from hypothesis import strategies as st

import branchsig
from branchsig.backends import Wrt, pairs


class OwnLinearKernel(branchsig.StaticKernel):
    """<x, y>, as a custom kernel."""

    def __init__(self):
        self.seen = []

    def __call__(self, ctx, x, y):
        self.seen.append(len(x))
        ctx.save_for_backward(np.diff(x, axis=1), np.diff(y, axis=1))
        return np.einsum("bik,bjk->bij", *ctx.saved_tensors)

    def grad_x(self, ctx, derivs):
        return of_points(np.einsum("bij,bjk->bik", derivs, ctx.saved_tensors[1]))

    def grad_y(self, ctx, derivs):
        return of_points(np.einsum("bij,bik->bjk", derivs, ctx.saved_tensors[0]))


def of_points(of_steps):
    """Derivatives with respect to the points of paths, from those with respect to their steps."""
    return -np.diff(np.pad(of_steps, ((0, 0), (1, 1), (0, 0))), axis=1)


@given(
    pairing=st.sampled_from(["paired", "gram", "symmetric"]),
    n1=st.integers(1, 12),
    n2=st.integers(1, 12),
    most=st.integers(1, 160),
    shares=st.integers(1, 4),
)
def test_blocks_of_all_shares_have_every_pair_once_and_in_order(pairing, n1, n2, most, shares):
    n2 = n2 if pairing == "gram" else n1
    x, y = np.zeros((n1, 3, 1)), np.zeros((n2, 3, 1))

    class Bounded:
        def most_pairs(self, problem, *, gradients):
            return most

    found = []
    for share in range(shares):
        of_share = problem(x, y, 2, pairing=pairing, share=(share, shares))
        for block in pairs._shared_blocks(of_share, Bounded(), gradients=False):
            assert 1 <= len(block.index1) <= most
            assert block.first == len(found)
            found += zip(block.index1.tolist(), block.index2.tolist(), strict=True)
    if pairing == "paired":
        wanted = [(k, k) for k in range(n1)]
    else:
        wanted = [(i, j) for i in range(n1) for j in range(i + 1 if pairing == "symmetric" else n2)]
    assert found == wanted
    assert len(found) == pairs.count(pairing, n1, n2)


@pytest.mark.parametrize("max_batch", [-1, 1, 2, 3])
@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
def test_a_custom_kernel_gives_what_the_built_in_one_does(backend, pairing, max_batch, rng):
    x = walk(rng, 5, 6, 2)
    y = x if pairing == "symmetric" else walk(rng, 5 if pairing == "paired" else 4, 7, 2)
    own = problem(
        x, y, 3, (1, 0) if pairing != "symmetric" else (1, 1), pairing, OwnLinearKernel(), max_batch=max_batch
    )
    built_in = dataclasses.replace(own, static_kernel=branchsig.LinearKernel())
    for want in ("end", "grid") if pairing != "symmetric" else ("end",):
        found, wanted = (backend.solve(each, want) for each in (own, built_in))
        np.testing.assert_allclose(found, wanted, rtol=1e-13)
        derivs = rng.standard_normal(wanted.shape) * (rng.random(wanted.shape) < 0.7)
        sides = {"left": True, "right": pairing != "symmetric"}
        found, wanted = (gradients_of(backend, each, derivs, wrt_log=False, **sides) for each in (own, built_in))
        for mine, its in zip(found, wanted, strict=True):
            if its is not None:
                np.testing.assert_allclose(mine, its, rtol=1e-10, atol=1e-12 * np.abs(its).max())


def test_a_custom_kernel_of_a_triangle_sees_every_pair_once(backend, rng):
    x, kernel = walk(rng, 6, 5, 2), OwnLinearKernel()
    backend.solve(problem(x, x, 3, pairing="symmetric", static_kernel=kernel), "end")
    assert sum(kernel.seen) == 21


def test_a_custom_kernel_does_not_see_pairs_without_derivatives(backend, rng):
    x, y, kernel = walk(rng, 4, 5, 2), walk(rng, 3, 5, 2), OwnLinearKernel()
    derivs = np.zeros((4, 3))
    derivs[[0, 2, 2], [1, 0, 2]] = 1.0
    backend.adjoint(problem(x, y, 3, pairing="gram", static_kernel=kernel), "end", derivs, Wrt(path1=True))
    assert sum(kernel.seen) == 3


@pytest.mark.parametrize("pairing", ["paired", "gram"])
def test_derivatives_may_be_as_small_as_a_kernel_is_large(backend, pairing):
    """d k = k d log k leaves the range of a double, and derivs times it does not."""
    cell = 705.0  # log k, of one cell; its slope is `cell` times that of <x, y>
    x, y = np.array([[[0.0], [cell * 1e9]]]), np.array([[[0.0], [1e-9]]])
    arguments = problem(x, y, 1, pairing=pairing, static_kernel=OwnLinearKernel())
    derivs = np.full((1,) if pairing == "paired" else (1, 1), 1e-300)
    _, d_y = gradients_of(backend, arguments, derivs, wrt_log=False, left=True, right=True)
    wanted = math.exp(cell - 300 * math.log(10.0)) * cell * 1e9
    np.testing.assert_allclose(d_y[0, :, 0], [-wanted, wanted], rtol=1e-9)


@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
@pytest.mark.parametrize("kernel", [QuarticKernel(), branchsig.RBFKernel(0.9)], ids=["custom", "rbf"])
def test_gradients_are_zero_behind_valid_lengths_even_for_derivatives_that_are_nan(backend, kernel, pairing, rng):
    x, lengths = walk(rng, 3, 6, 2), np.array([6, 3, 1])
    derivs = np.full((3,) if pairing == "paired" else (3, 3), math.nan)
    arguments = problem(x, x, 2, pairing=pairing, static_kernel=kernel, lengths1=lengths, lengths2=lengths)
    gradients = gradients_of(backend, arguments, derivs, wrt_log=False, left=True, right=pairing != "symmetric")
    for gradient in gradients:
        if gradient is not None:
            assert np.isnan(gradient[0]).all()
            assert np.isnan(gradient[1, :3]).all()
            assert not gradient[1, 3:].any()
            assert not gradient[2, 1:].any()
