"""Pullbacks and gradients by static kernels of the user's own in JAX, against those of the built-in kernel."""

import numpy as np
import pytest
from cases import walk
from frameworks import framework_named

import branchsig

jax = pytest.importorskip("jax")
from jax_kernels import Gaussian  # noqa: E402  it needs JAX

jnp = jax.numpy
framework_named("jax")  # with 64 bits

KERNEL = (branchsig.branched_sig_kernel_vjp, branchsig.branched_sig_kernel_backprop)
GRAM = (branchsig.branched_sig_kernel_gram_vjp, branchsig.branched_sig_kernel_gram_backprop)


def same(found, wanted):
    for mine, its in zip(found, wanted, strict=True):
        assert (mine is None) == (its is None)
        if mine is not None:
            np.testing.assert_allclose(mine, its, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"lengths1": np.asarray([5, 1, 3]), "time_aug": True}], ids=["", "lengths"])
@pytest.mark.parametrize(
    ("functions", "second"),
    [(KERNEL, "another"), (KERNEL, "the same"), (GRAM, "another"), (GRAM, "none"), (GRAM, "the same")],
    ids=["kernel", "kernel of itself", "gram", "gram alone", "gram of itself"],
)
def test_pullbacks_and_gradients_are_those_of_the_built_in_kernel(functions, options, second, rng):
    vjp, backprop = functions
    x, y = walk(rng, 3, 5, 2), walk(rng, 3, 4, 2)
    derivs = rng.standard_normal((3,) if functions is KERNEL else (3, 3))
    sides = {"right_deriv": second != "none"}

    def gradients(kernel, a, b, w):
        b = {"another": b, "none": None, "the same": a}[second]
        value, pullback = vjp(a, b, 3, static_kernel=kernel, **options)
        return (value, *pullback(w)), backprop(w, a, b, 3, static_kernel=kernel, **sides, **options)

    wanted = gradients(branchsig.RBFKernel(0.7), x, y, derivs)
    arrays = [jnp.asarray(array) for array in (x, y, derivs)]
    for function in (gradients, jax.jit(gradients, static_argnums=0)):
        for found, its in zip(function(Gaussian(0.7), *arrays), wanted, strict=True):
            same(found, its)


def test_only_the_gradient_that_is_asked_for_is_given(rng):
    x, y, derivs = (jnp.asarray(array) for array in (walk(rng, 3, 5, 2), walk(rng, 2, 4, 2), np.ones((3, 2))))
    backprop = branchsig.branched_sig_kernel_gram_backprop
    sides = {"left_deriv": False, "right_deriv": True}
    wanted = backprop(derivs, x, y, 3, static_kernel=branchsig.RBFKernel(0.7), **sides)
    same(backprop(derivs, x, y, 3, static_kernel=Gaussian(0.7), **sides), wanted)


def test_derivatives_of_another_shape_and_gradients_of_parameters_are_refused(rng):
    x = jnp.asarray(walk(rng, 3, 5, 2))
    value, pullback = branchsig.branched_sig_kernel_vjp(x, x, 3, static_kernel=Gaussian(0.7))
    with pytest.raises(ValueError, match=r"derivs has shape \(4,\): expected \(3,\)"):
        pullback(jnp.ones(4))

    class WithParameters(Gaussian):
        parameters = ("sigma",)

        def grad_parameters(self, ctx, derivs):
            raise AssertionError("JAX has this gradient by itself")

    kernel = WithParameters(0.7)
    with pytest.raises(NotImplementedError, match="param_deriv with WithParameters, whose increments JAX diff"):
        branchsig.branched_sig_kernel_backprop(value, x, x, 3, static_kernel=kernel, param_deriv=True)
