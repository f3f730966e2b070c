"""Signature kernels under the names and keywords of pySigLib, beside it."""

import inspect

import numpy as np
import pytest

import branchsig

rng = np.random.default_rng(0)
X = rng.standard_normal((5, 7, 2)).cumsum(1) * 0.3
Y = rng.standard_normal((5, 6, 2)).cumsum(1) * 0.3


NAMES = [name for name in branchsig.__all__ if name.startswith(("sig_", "expected_sig"))]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("_vjp")])
def test_keywords_are_those_of_pysiglib(name, pysiglib):
    theirs = inspect.signature(getattr(pysiglib, name)).parameters.values()
    ours = inspect.signature(getattr(branchsig, name)).parameters
    for parameter in theirs:
        if not parameter.name.startswith("_"):
            assert ours[parameter.name].kind is parameter.kind
            # It requires a dyadic order, which is 0 here if it is left out.
            assert ours[parameter.name].default == (0 if parameter.name == "dyadic_order" else parameter.default)


OPTIONS = [
    {},
    {"dyadic_order": 1},
    {"dyadic_order": (2, 0), "time_aug": True, "end_time": 0.5},
    {"lead_lag": True, "method": "finite_difference"},
    {"normalize": True},
    {"return_grid": True},
]


def equal(value, expected):
    np.testing.assert_allclose(value, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["sig_kernel", "sig_kernel_gram"])
def test_kernels_are_those_of_pysiglib(name, options, pysiglib):
    own, other = branchsig.RBFKernel(0.6), pysiglib.RBFKernel(0.6)
    options = {"dyadic_order": 0, **options}
    for ours, theirs in ((None, None), (own, other)):
        value = getattr(branchsig, name)(X, Y, static_kernel=ours, **options)
        equal(value, getattr(pysiglib, name)(X, Y, static_kernel=theirs, **options))


@pytest.mark.parametrize("options", [option for option in OPTIONS if "normalize" not in option])
@pytest.mark.parametrize("name", ["sig_kernel", "sig_kernel_gram"])
def test_gradients_are_those_of_pysiglib_with_a_grid_or_without(name, options, pysiglib):
    options = {"dyadic_order": 0, **options}
    value, pullback = getattr(branchsig, name + "_vjp")(X, Y, **options)
    derivs = np.random.default_rng(1).standard_normal(value.shape)
    expected = getattr(pysiglib, name + "_backprop")(derivs, X, Y, right_deriv=True, **options)
    grid = getattr(branchsig, name)(X, Y, **{**options, "return_grid": True})
    for found in (
        pullback(derivs),
        getattr(branchsig, name + "_backprop")(derivs, X, Y, right_deriv=True, **options),
        getattr(branchsig, name + "_backprop")(derivs, X, Y, right_deriv=True, k_grid=grid, **options),
    ):
        for ours, theirs in zip(found, expected, strict=True):
            equal(ours, theirs)


def test_gradients_in_torch_are_those_of_pysiglib(pysiglib):
    torch = pytest.importorskip("torch")
    gradients = []
    for library in (branchsig, pysiglib):
        x, y = (torch.tensor(path, requires_grad=True) for path in (X, Y))
        module = library if library is branchsig else pysiglib.torch_api
        (module.sig_kernel_gram(x, y, dyadic_order=1) ** 2).sum().backward()
        gradients.append((x.grad, y.grad))
    for ours, theirs in zip(*gradients, strict=True):
        equal(ours, theirs)


@pytest.mark.parametrize("dyadic_order", [0, 2])
def test_means_of_kernels_are_those_of_pysiglib(dyadic_order, pysiglib):
    options = {"dyadic_order": dyadic_order, "max_batch": 3, "time_aug": True}
    equal(branchsig.sig_mmd(X, Y, **options), pysiglib.sig_mmd(X, Y, **options))
    for lam in (1.0, 0.4):
        equal(branchsig.sig_score(X, Y[:2], lam=lam, **options), pysiglib.sig_score(X, Y[:2], lam=lam, **options))
        expected = pysiglib.expected_sig_score(X, Y, lam=lam, **options)
        equal(branchsig.expected_sig_score(X, Y, lam=lam, **options), np.squeeze(expected))


def test_levels_are_inner_products_of_the_levels_of_signatures(pysiglib):
    order = 4
    components = branchsig.sig_kernel(X, Y, order=order, quadrature="lobatto3", return_levels=True)
    of_x, of_y = (pysiglib.sig(path, order, scalar_term=True) for path in (X, Y))
    parts = np.split(of_x * of_y, np.cumsum(2 ** np.arange(order)), axis=-1)
    levels = [np.sum(part, axis=-1) for part in parts]
    equal(components, np.stack(levels, axis=-1))
    equal(branchsig.sig_kernel(X, Y, order=order, quadrature="lobatto3"), np.sum(levels, axis=0))


@pytest.mark.parametrize("name", NAMES)
def test_other_methods_are_refused(name):
    first = () if not name.endswith("_backprop") else (np.ones((5, 5) if "gram" in name else 5),)
    with pytest.raises(ValueError, match=r"method is 'polynomial': expected \"finite_difference\".*dyadic_order"):
        getattr(branchsig, name)(*first, X, Y, method="polynomial")


def test_errors_about_a_grid_name_it():
    with pytest.raises(ValueError, match="^k_grid has shape"):
        branchsig.sig_kernel_backprop(np.ones(5), X, Y, k_grid=np.ones((5, 3, 3)))
    with pytest.raises(ValueError, match="with k_grid: "):
        branchsig.sig_kernel_backprop(np.ones(5), X, Y, k_grid=np.ones((5, 7, 6)), normalize=True)
