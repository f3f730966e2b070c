"""Times of points are operands in frameworks too: what differentiates the paths differentiates them."""

import numpy as np
import pytest
from cases import walk

import branchsig


@pytest.mark.parametrize("options", [{}, {"lead_lag": True, "base_point": True}])
def test_torch_differentiates_with_respect_to_times(options, rng):
    torch = pytest.importorskip("torch")
    x, times = walk(rng, 3, 5, 2), rng.uniform(0.05, 0.3, (3, 5)).cumsum(axis=1)
    paths, stamps = (torch.tensor(a, requires_grad=True) for a in (x, times))
    gram = branchsig.branched_sig_kernel_gram(paths, None, 2, times1=stamps, **options)
    derivs = rng.standard_normal((3, 3))
    of_paths, of_times = torch.autograd.grad((gram * torch.tensor(derivs)).sum(), (paths, stamps))
    wanted = branchsig.branched_sig_kernel_gram_backprop(derivs, x, None, 2, times1=times, **options)
    np.testing.assert_allclose(of_paths.numpy(), wanted[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(of_times.numpy(), wanted[2], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"lead_lag": True, "base_point": True}])
def test_jax_differentiates_with_respect_to_times_under_jit(options, rng):
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    x, times = walk(rng, 3, 5, 2), rng.uniform(0.05, 0.3, (3, 5)).cumsum(axis=1)
    derivs = rng.standard_normal((3, 3))

    def weighted(paths, stamps):
        return (derivs * branchsig.branched_sig_kernel_gram(paths, None, 2, times1=stamps, **options)).sum()

    found = jax.jit(jax.grad(weighted, argnums=(0, 1)))(x, times)
    wanted = branchsig.branched_sig_kernel_gram_backprop(derivs, x, None, 2, times1=times, **options)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[1], wanted[2], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("options", [{}, {"lead_lag": True, "base_point": True}])
def test_autograd_differentiates_with_respect_to_times(options, shared, rng):
    autograd = pytest.importorskip("autograd")
    x, times = walk(rng, 3, 5, 2), rng.uniform(0.05, 0.3, (3, 5)).cumsum(axis=1)
    times = times[0] if shared else times
    derivs = rng.standard_normal((3, 3))

    def weighted(paths, stamps):
        return (derivs * branchsig.branched_sig_kernel_gram(paths, None, 2, times1=stamps, **options)).sum()

    wanted = branchsig.branched_sig_kernel_gram_backprop(derivs, x, None, 2, times1=times, **options)
    of_paths, of_times = autograd.grad(weighted, (0, 1))(x, times)
    np.testing.assert_allclose(of_paths, wanted[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(of_times, wanted[2], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(autograd.grad(weighted, 0)(x, times), wanted[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(autograd.grad(weighted, 1)(x, times), wanted[2], rtol=1e-9, atol=1e-12)
    pulled_back = []

    def with_pullback(paths, stamps):
        value, pullback = branchsig.branched_sig_kernel_gram_vjp(paths, None, 2, times1=stamps, **options)
        pulled_back.append(autograd.tracer.getval(pullback(derivs)[2]))
        return (derivs * value).sum()

    np.testing.assert_allclose(autograd.grad(with_pullback)(x, times), wanted[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(pulled_back[0], wanted[2], rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match=r"times1 has shape \(4,\): expected \(3, 5\)"):
        autograd.grad(weighted)(x, np.zeros(4))
