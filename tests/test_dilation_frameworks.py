"""Dilations of the arrays of frameworks: derivatives that these take by themselves, and arrays without values."""

import math

import numpy as np
import pytest
from cases import QuarticKernel, walk

import branchsig

OPTIONS = [
    {"normalize": "dilation"},
    {"normalize": "dilation", "log": True, "dyadic_order": (0, 1)},
    {"normalize": "dilation", "static_kernel": branchsig.RBFKernel(1.0)},
    {"normalize": "dilation", "depth": math.inf},
    {"normalize": "dilation", "depth": math.inf, "order": 3},
    {"normalize": True},
    {},
]


def loops(rng):
    """A walk, a path that nearly returns, and one with a large step."""
    x = walk(rng, 3, 5, 2, size=2.0)
    x[1, 3:] = x[1, 1::-1] + 0.02 * x[0, 3:]
    x[2, 4] += 1.0
    return x


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of its own, for dual numbers
@pytest.mark.parametrize("options", OPTIONS)
def test_second_and_forward_derivatives_of_torch_equal_differences(options, rng):
    torch = pytest.importorskip("torch")
    forward_ad = torch.autograd.forward_ad
    options = {"depth": 3, **options}
    points, along = loops(rng), rng.standard_normal((3, 5, 2))
    if options.get("normalize") != "dilation":
        points *= 0.3
    weights = rng.standard_normal((3, 3))

    def value(x):
        return (torch.asarray(weights) * branchsig.branched_sig_kernel_gram(x, None, **options)).sum()

    def slope(x):
        gradient, _ = branchsig.branched_sig_kernel_gram_backprop(weights, x, None, **options)
        return np.sum(gradient * along)

    first = slope(points)
    h = 1e-5
    samples = [slope(points + k * h * along) for k in (-2, -1, 1, 2)]
    second = (samples[0] - 8 * samples[1] + 8 * samples[2] - samples[3]) / (12 * h)
    x, v = torch.asarray(points), torch.asarray(along)

    recorded = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(recorded), recorded, create_graph=True)
    assert float((gradient * v).sum().detach()) == pytest.approx(first, rel=1e-9)
    (twice,) = torch.autograd.grad((gradient * v).sum(), recorded)
    assert float((twice * v).sum()) == pytest.approx(second, rel=1e-6)

    assert float(torch.func.jvp(value, (x,), (v,))[1]) == pytest.approx(first, rel=1e-9)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(value(forward_ad.make_dual(x, v))).tangent
    assert float(tangent) == pytest.approx(first, rel=1e-9)
    hessian = torch.func.hessian(value)(x)
    assert float(torch.einsum("abc,abcdef,def", v, hessian, v)) == pytest.approx(second, rel=1e-6)


def test_third_derivatives_of_factors_equal_differences(rng):
    torch = pytest.importorskip("torch")
    points, along = loops(rng), rng.standard_normal((3, 5, 2))

    def derivative(times, t):
        at = torch.tensor(t, dtype=torch.float64, requires_grad=True)
        result = branchsig.dilation(torch.asarray(points) + at * torch.asarray(along), 2).sum()
        for _ in range(times):
            (result,) = torch.autograd.grad(result, at, create_graph=True)
        return float(result.detach())

    h = 1e-4
    samples = [derivative(2, k * h) for k in (-2, -1, 1, 2)]
    wanted = (samples[0] - 8 * samples[1] + 8 * samples[2] - samples[3]) / (12 * h)
    assert derivative(3, 0.0) == pytest.approx(wanted, rel=1e-5)


OWN = QuarticKernel()  # JAX runs built-in kernels as a call, when there are values
CALLS = {
    "kernel": lambda x: branchsig.branched_sig_kernel(x, x, 3, normalize="dilation", static_kernel=OWN),
    "gram": lambda x: branchsig.branched_sig_kernel_gram(x, None, 3, normalize="dilation", order=2, static_kernel=OWN),
    "factors": lambda x: branchsig.dilation(x, 3, static_kernel=OWN),
    "guard": lambda x: branchsig.dilation(x, 3, method="guard", static_kernel=OWN),
}


@pytest.mark.parametrize("call", CALLS)
def test_arrays_without_values_are_refused_with_a_way_out(call):
    jax = pytest.importorskip("jax")
    with pytest.raises(TypeError, match=r'normalize="dilation".*traced, batched or lazy.*callback'):
        jax.jit(CALLS[call])(jax.numpy.ones((5, 2)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_of_other_libraries_have_the_bits_of_numpy(dtype, rng):
    x = walk(rng, 4, 7, 2, size=3.0, dtype=np.dtype(dtype))
    wanted = branchsig.branched_sig_kernel_gram(x, None, 3, normalize="dilation")
    factors = branchsig.dilation(x, 3)
    torch = pytest.importorskip("torch")
    found = branchsig.branched_sig_kernel_gram(torch.asarray(x), None, 3, normalize="dilation")
    assert found.dtype == getattr(torch, dtype)
    np.testing.assert_array_equal(found.numpy(), wanted)
    np.testing.assert_array_equal(branchsig.dilation(torch.asarray(x), 3).numpy(), factors)
    if dtype == "float32":  # without 64 bits, as JAX is by default
        jax = pytest.importorskip("jax")
        found = branchsig.branched_sig_kernel_gram(jax.numpy.asarray(x), None, 3, normalize="dilation")
        np.testing.assert_array_equal(np.asarray(found), wanted)


class Narrow(QuarticKernel):
    def __call__(self, ctx, x, y):
        return super().__call__(ctx, x, y)[:, :, :-1]


class Single(QuarticKernel):
    def grad_x(self, ctx, derivs):
        return super().grad_x(ctx, derivs).astype(np.float32)


class Flat(QuarticKernel):
    def grad_x(self, ctx, derivs):
        return super().grad_x(ctx, derivs)[:, :, :1]


class Forward(branchsig.StaticKernel):
    def __call__(self, ctx, x, y):
        return QuarticKernel()(ctx, x, y)


def test_a_kernel_of_the_users_own_is_named_where_it_is_dilated(rng):
    x, options = walk(rng, 2, 5, 2), {"normalize": "dilation"}
    backward = branchsig.branched_sig_kernel_backprop
    with pytest.raises(ValueError, match=r"Narrow.__call__ returned an array of shape .*: expected \(\d+, 1, 1\)"):
        branchsig.branched_sig_kernel(x, x, 3, static_kernel=Narrow(), **options)
    with pytest.raises(TypeError, match=r"Single.grad_x returned an array of dtype float32: expected float64"):
        backward(np.ones(2), x, x, 3, static_kernel=Single(), **options)
    with pytest.raises(ValueError, match=r"Flat.grad_x returned an array of shape \(2, 5, 1\): expected \(2, 5, 2\)"):
        backward(np.ones(2), x, x, 3, static_kernel=Flat(), **options)
    with pytest.raises(NotImplementedError, match="Forward has no grad_x"):
        backward(np.ones(2), x, x, 3, static_kernel=Forward(), **options)
