"""Tensors of PyTorch: its own differentiation through the library, and what happens where it records nothing."""

import math

import numpy as np
import pytest

import branchsig

torch = pytest.importorskip("torch")

OPTIONS = [
    {},
    {"log": True},
    {"normalize": True},
    {"normalize": "dilation"},
    {"normalize": "dilation", "log": True},
    {"normalize": "dilation", "static_kernel": branchsig.RBFKernel(1.0)},
    {"normalize": "dilation", "depth": math.inf, "order": 3},
    {"depth": math.inf, "quadrature": "lobatto2"},
    {"static_kernel": branchsig.Matern12Kernel(1.0)},
    {"static_kernel": branchsig.Matern52Kernel(1.0)},
]


def paths(rng, *shape):
    return torch.asarray(np.cumsum(0.15 * rng.standard_normal(shape), axis=-2))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("itself", [False, True])
def test_its_own_derivatives_are_those_of_the_pullback(options, itself, rng):
    options = {"depth": 3, **options}
    x = paths(rng, 3, 6, 2)
    y = None if itself else paths(rng, 2, 5, 2)
    if y is not None:
        y[0, 0] = x[0, 0]  # where two points coincide Matern 1/2 has no derivative, and 0 in its place
    recorded = [p if p is None else p.clone().requires_grad_() for p in (x, y)]
    value = branchsig.branched_sig_kernel_gram(*recorded, **options)
    wanted, pullback = branchsig.branched_sig_kernel_gram_vjp(x, y, **options)
    torch.testing.assert_close(value.detach(), wanted, rtol=1e-12, atol=1e-13)
    weights = torch.asarray(rng.standard_normal(tuple(wanted.shape)))
    value.backward(weights)
    for path, gradient in zip(recorded, pullback(weights)):
        if path is not None:
            torch.testing.assert_close(path.grad, gradient, rtol=1e-10, atol=1e-12)


def test_factors_of_dilation_have_derivatives_too(rng):
    x = paths(rng, 2, 6, 2)
    x[1] = 1.0  # a path that does not move has the factor 1, through which nothing flows
    recorded = x.clone().requires_grad_()
    branchsig.dilation(recorded, 3)[0].backward()
    step = torch.zeros_like(x)
    step[0, 2, 1] = 1e-6
    ahead, behind = branchsig.dilation(x + step, 3)[0], branchsig.dilation(x - step, 3)[0]
    torch.testing.assert_close(recorded.grad[0, 2, 1], (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-9)
    assert not recorded.grad[1].any()


def test_where_nothing_is_recorded_the_core_serves(monkeypatch, rng):
    x = paths(rng, 2, 6, 2).requires_grad_()

    def refuse(*_, **__):
        raise AssertionError("the reference was asked")

    monkeypatch.setattr(branchsig.backends.reference.ReferenceBackend, "solve", refuse)
    monkeypatch.setattr(branchsig.backends.reference.ReferenceBackend, "adjoint", refuse)
    with torch.no_grad():
        assert branchsig.branched_sig_kernel(x, x, 3).shape == (2,)

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx, path1, path2):
            value, ctx.pullback = branchsig.branched_sig_kernel_vjp(path1, path2, 3)
            return value

        @staticmethod
        def backward(ctx, derivs):
            return ctx.pullback(derivs)

    y = paths(rng, 2, 5, 2)
    Kernel.apply(x, y).sum().backward()
    wanted, _ = branchsig.branched_sig_kernel_backprop(torch.ones(2, dtype=torch.float64), x.detach(), y, 3)
    torch.testing.assert_close(x.grad, wanted)


def test_what_vmap_hands_over_has_no_memory_and_is_not_asked_for_values(rng):
    x, y = paths(rng, 4, 6, 2), paths(rng, 5, 2)
    found = torch.vmap(lambda one: branchsig.branched_sig_kernel(one, y, 3))(x)
    torch.testing.assert_close(found, branchsig.branched_sig_kernel_gram(x, y[None], 3)[:, 0], rtol=1e-12, atol=0.0)
    gradients = torch.vmap(torch.func.grad(lambda one: branchsig.branched_sig_kernel(one, y, 3)))(x)
    wanted, _ = branchsig.branched_sig_kernel_gram_backprop(torch.ones(4, 1, dtype=torch.float64), x, y[None], 3)
    torch.testing.assert_close(gradients, wanted, rtol=1e-10, atol=1e-13)


def test_a_compiled_step_goes_around_a_call_that_is_kept_out_of_it(rng):
    x, y = paths(rng, 3, 6, 2), paths(rng, 3, 5, 2)
    kernel = torch.compiler.disable(branchsig.branched_sig_kernel)
    compiled = torch.compile(lambda path: 2.0 * kernel(1.0 * path, y, 3), backend="eager")
    torch.testing.assert_close(compiled(x), 2.0 * branchsig.branched_sig_kernel(x, y, 3))


@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"depth": math.inf, "order": 3, "log": True}])
def test_gradients_are_linear_in_derivatives_of_zero(options, rng):
    options = {"depth": 3, **options}
    x, y = paths(rng, 3, 6, 2), paths(rng, 2, 5, 2)
    weights = torch.asarray(rng.standard_normal((3, 6, 2)))
    derivs = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    gradient, _ = branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, **options)
    (gradient * weights).sum().backward()
    for place in ((0, 0), (2, 1)):
        one = torch.zeros(3, 2, dtype=torch.float64)
        one[place] = 1.0
        of_one, _ = branchsig.branched_sig_kernel_gram_backprop(one, x, y, **options)
        torch.testing.assert_close(derivs.grad[place], (of_one * weights).sum(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("normalize", [False, True, "dilation"])
def test_one_of_two_stacks_of_paths_may_be_recorded(rng, normalize, side):
    stacks = [paths(rng, 3, 5, 2), paths(rng, 3, 6, 2)]
    wanted = branchsig.branched_sig_kernel_gram_backprop(
        torch.ones(3, 3, dtype=torch.float64), *stacks, 2, normalize=normalize, right_deriv=True
    )[side]
    stacks[side] = stacks[side].clone().requires_grad_()
    branchsig.branched_sig_kernel_gram(*stacks, 2, normalize=normalize).sum().backward()
    torch.testing.assert_close(stacks[side].grad, wanted, rtol=1e-9, atol=1e-12)
