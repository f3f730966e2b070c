"""Programs of JAX that differentiate a value which stands beside a gradient, and warnings of programs that are gone."""

import warnings

import numpy as np
import pytest
from cases import walk
from frameworks import framework_named

import branchsig

jax = pytest.importorskip("jax")
framework_named("jax")  # with 64 bits


def gram(options):
    return lambda a: branchsig.branched_sig_kernel_gram(a, None, 3, **options).sum()


WAYS = {
    "alone": lambda function, a: jax.value_and_grad(function)(a)[0],
    "in a program": lambda function, a: jax.jit(jax.value_and_grad(function))(a)[0],
    "in a loop": lambda function, a: jax.lax.scan(
        lambda carry, _: (carry, jax.value_and_grad(function)(carry)[0]), a, None, length=1
    )[1].sum(),
    "done again": lambda function, a: jax.checkpoint(lambda b: jax.value_and_grad(function)(b)[0])(a),
    "beside a number": lambda function, a: (lambda value, gradient: value + jax.lax.stop_gradient(gradient.sum()))(
        *jax.value_and_grad(function)(a)
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{}, {"normalize": "dilation"}], ids=str)
def test_a_value_has_its_gradient_whatever_is_beside_it(options, way, rng):
    x = walk(rng, 3, 5, 2)
    wanted, _ = branchsig.branched_sig_kernel_gram_backprop(np.ones((3, 3)), x, None, 3, **options)
    found = jax.grad(lambda a: WAYS[way](gram(options), a))
    for function in (found, jax.jit(found)):
        np.testing.assert_allclose(function(x), wanted, rtol=1e-11, atol=1e-13)
    many = jax.vmap(found)(np.stack([x, x]))
    np.testing.assert_allclose(many, np.stack([wanted, wanted]), rtol=1e-11, atol=1e-13)


def test_lengths_and_parameters_stand_beside_gradients_too(rng):
    x, lengths = walk(rng, 3, 5, 2), np.asarray([5, 1, 3])

    def value(a, sigma, valid):
        kernel = branchsig.RBFKernel(sigma)
        return branchsig.branched_sig_kernel_gram(a, None, 3, lengths1=valid, static_kernel=kernel).sum()

    found = jax.jit(jax.grad(lambda *args: jax.value_and_grad(value, (0, 1))(*args)[0], (0, 1)))(x, 0.9, lengths)
    wanted, _, of_parameters = branchsig.branched_sig_kernel_gram_backprop(
        np.ones((3, 3)), x, None, 3, lengths1=lengths, static_kernel=branchsig.RBFKernel(0.9), param_deriv=True
    )
    np.testing.assert_allclose(found[0], wanted, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(found[1], of_parameters["sigma"], rtol=1e-11)


def test_shard_map_has_such_values(rng):
    x = walk(rng, 3, 5, 2)
    mesh, split = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("device",)), jax.sharding.PartitionSpec("device")

    def values(a):
        return jax.value_and_grad(lambda b: branchsig.branched_sig_kernel(b, b, 3).sum())(a)[0][None]

    mapped = jax.shard_map(values, mesh=mesh, in_specs=(split,), out_specs=split)
    found = jax.jit(jax.grad(lambda a: mapped(a).sum()))(x)
    wanted = sum(branchsig.branched_sig_kernel_backprop(np.ones(3), x, x, 3, right_deriv=True))
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-13)


REFUSED = {
    "backward": lambda slope, x: jax.grad(lambda a: slope(a).sum())(x),
    "in a loop": lambda slope, x: jax.grad(
        lambda a: jax.lax.scan(lambda c, _: (c - 0.1 * slope(c), None), a, None, length=3)[0].sum()
    )(x),
    "all rows": lambda slope, x: jax.jacrev(slope)(x),
    "along": lambda slope, x: jax.jvp(slope, (x,), (x,))[1],
    "a linear function": lambda slope, x: jax.linearize(slope, x)[1](x),
    "third": lambda slope, x: jax.grad(lambda a: jax.grad(lambda b: slope(b).sum())(a).sum())(x),
}


@pytest.mark.parametrize("way", REFUSED)
def test_gradients_are_not_differentiated(way, rng):
    x, slope = walk(rng, 3, 5, 2), jax.grad(gram({}))
    for function in (REFUSED[way], jax.jit(REFUSED[way], static_argnums=0)):
        with pytest.raises((NotImplementedError, TypeError), match="second derivatives are not there|forward-mode"):
            function(slope, x)


def test_a_program_warns_where_another_one_lay_that_is_gone(rng, monkeypatch):
    warn_once = branchsig.frameworks.jax._warn_once
    monkeypatch.setattr(branchsig.frameworks.jax, "_warn_once", lambda _, *others: warn_once(1, *others))
    x = 1e3 * walk(rng, 3, 5, 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):  # all of which lie at one address
            program = jax.jit(lambda a: branchsig.branched_sig_kernel(a, a, 3))
            for _ in range(2):
                jax.block_until_ready(program(x))
    assert len(caught) == 3
