"""Arrays without values: options that take iterations which look at values say so, with their name and the way out."""

import math

import numpy as np
import pytest
from cases import walk

import branchsig
from branchsig._arrays import is_traced

OPTIONS = {
    "rtol": ((2, {"rtol": 0.1}), "rtol is 0.1, and path1 is traced or lazy .* Leave rtol out and name a rule"),
    "inf": ((math.inf, {}), "depth is math.inf, and path1 is traced or lazy .* Give a finite depth, or an order"),
}
FUNCTIONS = {
    "kernel": lambda x, y, depth, **options: branchsig.branched_sig_kernel(x, y, depth, **options),
    "gram": lambda x, y, depth, **options: branchsig.branched_sig_kernel_gram(x, y, depth, **options),
    "vjp": lambda x, y, depth, **options: branchsig.branched_sig_kernel_vjp(x, y, depth, **options)[0],
    "backprop": lambda x, y, depth, **options: branchsig.branched_sig_kernel_backprop(
        (x[..., 0, 0]), x, y, depth, **options
    )[0],
}


@pytest.fixture
def paths(rng):
    return walk(rng, 2, 2, 1, size=0.3), walk(rng, 2, 2, 1, size=0.3)


def jax_arrays(paths):
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax, tuple(map(jax.numpy.asarray, paths))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("option", OPTIONS)
def test_tracers_of_jax_have_values_when_the_program_runs(name, option, paths):
    (depth, options), _ = OPTIONS[option]
    wanted = FUNCTIONS[name](*paths, depth, **options)
    jax, (x, y) = jax_arrays(paths)
    found = jax.jit(lambda a, b: FUNCTIONS[name](a, b, depth, **options))(x, y)
    np.testing.assert_allclose(found, wanted, rtol=1e-13)


class SquareKernel(branchsig.StaticKernel):
    """A kernel of a user's own, <x, y>**2, in calls that arrays of JAX have."""

    def __call__(self, ctx, x, y):
        kappa = (x @ y.swapaxes(1, 2)) ** 2
        return kappa[:, 1:, 1:] - kappa[:, :-1, 1:] - kappa[:, 1:, :-1] + kappa[:, :-1, :-1]


@pytest.mark.parametrize("option", OPTIONS)
def test_tracers_of_jax_are_refused_by_name_where_jax_runs_the_reference(option, paths):
    jax, (x, y) = jax_arrays(paths)
    (depth, options), message = OPTIONS[option]
    options = {"static_kernel": SquareKernel(), "normalize": True, **options}
    for transform in (jax.jit, jax.vmap):
        with pytest.raises(ValueError, match=message):
            transform(lambda a, b: branchsig.branched_sig_kernel(a, b, depth, **options))(x, y)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("option", OPTIONS)
def test_tensors_under_vmap_of_torch_have_values_when_the_core_is_called(name, option, paths):
    torch = pytest.importorskip("torch")
    (depth, options), _ = OPTIONS[option]
    found = torch.vmap(lambda a, b: FUNCTIONS[name](a, b, depth, **options))(*map(torch.asarray, paths))
    for k, (x, y) in enumerate(zip(*paths)):
        np.testing.assert_allclose(found[k], FUNCTIONS[name](x, y, depth, **options), rtol=1e-13)


def test_the_argument_that_is_traced_is_the_one_that_is_named(paths):
    jax, (x, y) = jax_arrays(paths)
    options = {"static_kernel": SquareKernel(), "normalize": True}
    with pytest.raises(ValueError, match="and path2 is traced"):
        jax.vmap(lambda b: branchsig.branched_sig_kernel(x[0], b, math.inf, **options))(y)
    _, pullback = branchsig.branched_sig_kernel_vjp(x, y, math.inf, **options)
    with pytest.raises(ValueError, match="and derivs is traced"):
        jax.vmap(lambda derivs: pullback(derivs)[0])(jax.numpy.ones((3, 2)))


def test_truncation_by_the_number_of_nodes_needs_no_values(paths):
    jax, (x, y) = jax_arrays(paths)
    found = jax.jit(lambda a, b: branchsig.branched_sig_kernel(a, b, math.inf, order=3))(x, y)
    np.testing.assert_allclose(found, branchsig.branched_sig_kernel(*paths, math.inf, order=3), rtol=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("option", OPTIONS)
def test_arrays_that_are_differentiated_have_values(option, paths):
    (depth, options), _ = OPTIONS[option]
    wanted, _ = branchsig.branched_sig_kernel_backprop(np.ones(2), *paths, depth, **options)
    jax, (x, y) = jax_arrays(paths)
    found = jax.grad(lambda a: branchsig.branched_sig_kernel(a, y, depth, **options).sum())(x)
    np.testing.assert_allclose(found, wanted, rtol=1e-11)
    torch = pytest.importorskip("torch")
    x, y = map(torch.asarray, paths)
    function = lambda a: branchsig.branched_sig_kernel(a, y, depth, **options).sum()  # noqa: E731
    np.testing.assert_allclose(torch.func.grad(function)(x), wanted, rtol=1e-11)
    x.requires_grad_()
    function(x).backward()
    np.testing.assert_allclose(x.grad, wanted, rtol=1e-11)


def test_only_arrays_without_values_are_traced(paths):
    x = paths[0]
    jax, (jax_array, _) = jax_arrays(paths)
    torch, dask = pytest.importorskip("torch"), pytest.importorskip("dask.array")
    strict = pytest.importorskip("array_api_strict")
    for array in (x, x[:0], jax_array, torch.asarray(x), torch.asarray(x).requires_grad_(), strict.asarray(x)):
        assert not is_traced(array)
    assert is_traced(dask.from_array(x))
    seen = []
    jax.jit(lambda a: seen.append(is_traced(a)) or a)(jax_array)
    jax.vmap(lambda a: seen.append(is_traced(a)) or a)(jax_array[:, :0])
    torch.vmap(lambda a: seen.append(is_traced(a)) or a)(torch.asarray(x))
    assert seen == [True] * 3
    jax.grad(lambda a: seen.append(is_traced(a)) or a.sum())(jax_array)
    torch.func.grad(lambda a: seen.append(is_traced(a)) or a.sum())(torch.asarray(x))
    assert seen[3:] == [False] * 2
