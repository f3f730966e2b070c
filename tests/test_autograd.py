"""Boxes of HIPS autograd beyond what `test_frameworks` asks of every framework."""

import numpy as np
import pytest
from cases import walk

import branchsig

autograd = pytest.importorskip("autograd")
anp = autograd.numpy


class Products(branchsig.StaticKernel):
    """A multiple of the inner product, with gradients by hand."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, ctx, x, y):
        ctx.save_for_backward(x, y)
        return self.scale * (np.diff(x, axis=1) @ np.diff(y, axis=1).swapaxes(1, 2))

    def grad_x(self, ctx, derivs):
        return self.between(self.scale * (derivs @ np.diff(ctx.saved_tensors[1], axis=1)))

    def grad_y(self, ctx, derivs):
        return self.between(self.scale * (derivs.swapaxes(1, 2) @ np.diff(ctx.saved_tensors[0], axis=1)))

    @staticmethod
    def between(derivs):
        zero = np.zeros_like(derivs[:, :1])
        return np.concatenate([zero, derivs], axis=1) - np.concatenate([derivs, zero], axis=1)


def test_a_static_kernel_of_the_user_has_the_gradients_that_it_defines(rng):
    x, y = walk(rng, 3, 5, 2), walk(rng, 2, 4, 2)

    def total(kernel):
        return lambda a: anp.sum(branchsig.branched_sig_kernel_gram(a, y, 3, static_kernel=kernel))

    found = autograd.grad(total(Products(0.7)))(x)
    wanted = autograd.grad(total(branchsig.ScaledLinearKernel(np.sqrt(0.7))))(x)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("paths_too", [False, True])
def test_what_only_a_static_kernel_of_the_user_holds_is_no_constant(paths_too, rng):
    x = walk(rng, 3, 5, 2)

    def function(scale):
        paths = x * scale if paths_too else x
        return anp.sum(branchsig.branched_sig_kernel_gram(paths, None, 3, static_kernel=Products(scale)))

    with pytest.raises(TypeError, match="__call__ returned ArrayBox"):
        autograd.grad(function)(0.7)


def test_a_jacobian_has_a_gradient_for_every_value(rng):
    x, y = walk(rng, 2, 5, 2), walk(rng, 2, 4, 2)
    found = autograd.jacobian(lambda a: branchsig.branched_sig_kernel_gram(a, y, 3, normalize=True))(x)
    assert found.shape == (2, 2, 2, 5, 2)
    for i, j in np.ndindex(2, 2):
        derivs = np.zeros((2, 2))
        derivs[i, j] = 1.0
        wanted = branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, 3, normalize=True)[0]
        np.testing.assert_allclose(found[i, j], wanted, rtol=1e-12, atol=1e-15)


def test_one_array_in_both_places_has_the_sum_of_both_gradients(rng):
    x = walk(rng, 3, 5, 2)
    found = autograd.grad(lambda a: anp.sum(branchsig.branched_sig_kernel(a, a, 3)))(x)
    first, second = branchsig.branched_sig_kernel_backprop(np.ones(3), x, x, 3, right_deriv=True)
    np.testing.assert_allclose(found, first + second, rtol=1e-13)


def test_a_list_of_paths_may_be_what_is_differentiated(rng):
    paths = [walk(rng, 1, length, 2)[0] for length in (5, 3)]
    found = autograd.grad(lambda a: anp.sum(branchsig.branched_sig_kernel_gram(list(a), None, 3)))(paths)
    wanted, _ = branchsig.branched_sig_kernel_gram_backprop(np.ones((2, 2)), paths, None, 3)
    for mine, its in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-13)
    with pytest.raises(TypeError, match=r"Pass list\(paths\)"):
        autograd.grad(lambda a: anp.sum(branchsig.branched_sig_kernel_gram(a, None, 3)))(paths)


def test_a_value_of_float32_may_stand_among_numbers_of_float64(rng):
    x = walk(rng, 3, 5, 2).astype(np.float32)
    weights = rng.standard_normal((3, 3))
    found = autograd.grad(lambda a: anp.sum(weights * branchsig.branched_sig_kernel_gram(a, None, 3)))(x)
    wanted = branchsig.branched_sig_kernel_gram_backprop(weights.astype(np.float32), x, None, 3)[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_gradient_that_nothing_differentiates_is_a_number(rng):
    x, y = walk(rng, 3, 5, 2), walk(rng, 2, 4, 2)

    def total(a):
        return anp.sum(branchsig.branched_sig_kernel_gram(a, y, 3))

    def function(a):
        slope = autograd.grad(total)(a)
        return anp.sum(a) if bool(anp.all(anp.isfinite(slope))) else anp.sum(slope)

    np.testing.assert_array_equal(autograd.grad(function)(x), np.ones_like(x))


def test_a_gradient_is_not_differentiated_with_respect_to_its_weights(rng):
    x = walk(rng, 3, 5, 2)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        autograd.grad(lambda w: anp.sum(branchsig.branched_sig_kernel_gram_backprop(w, x, None, 3)[0]))(np.ones((3, 3)))


@pytest.mark.parametrize(
    "function",
    [
        lambda a: branchsig.pad_paths([a[0], a[1]])[0],
        lambda a: branchsig.branched_sig_mmd_test(a, a, 3).statistic,
        lambda a: branchsig.branched_sig_kernel_backprop(
            np.ones(3), a, a, 3, k_stack=np.zeros((3, 4, 5, 5), dtype=float)
        )[0],
    ],
)
def test_what_has_no_derivative_says_so(function, rng):
    with pytest.raises(TypeError, match="ArrayBox of autograd"):
        autograd.grad(lambda a: anp.sum(function(a)))(walk(rng, 3, 5, 2))
