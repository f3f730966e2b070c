"""Gradients with respect to the parameters of static kernels, through every function and option.

They are held against differences of values. Those of single static kernels, by closed forms and arithmetic of many
digits, are in test_parameter_gradients.py.
"""

import dataclasses
import math

import numpy as np
import pytest
from cases import walk

import branchsig

KERNELS = {
    "scaled linear": branchsig.ScaledLinearKernel(0.8),
    "polynomial": branchsig.PolynomialKernel(degree=2, gamma=0.6, scale=0.9),
    "rbf": branchsig.RBFKernel(1.3),
    "matern32": branchsig.Matern32Kernel(1.1),
    "rational quadratic": branchsig.RationalQuadraticKernel(0.9, alpha=1.4),
}
OPTIONS = {
    "plain": {},
    "grid": {"return_grid": True},
    "log": {"log": True},
    "unit": {"normalize": True},
    "unit log": {"normalize": True, "log": True},
    "dilation": {"normalize": "dilation"},
    "order": {"order": 3, "depth": None},
    "order log": {"order": 3, "depth": None, "log": True},
    "order unit": {"order": 3, "depth": None, "normalize": True},
    "order dilation": {"order": 3, "depth": None, "normalize": "dilation"},
    "no truncation": {"depth": math.inf},
    "no truncation, dilation": {"depth": math.inf, "normalize": "dilation"},
    "dyadic orders": {"dyadic_order": (1, 0), "normalize": True},
    "transforms": {"time_aug": True, "end_time": 0.3, "lead_lag": True},
}


TWO = ["polynomial", "rational quadratic"]


def differences(kernel, value, step=1e-5):
    """Slopes of value(kernel) in each parameter, in an array for each."""
    slopes = {}
    for name in branchsig.static_kernels.parameters_of(kernel):
        at = getattr(kernel, name)
        ahead, behind = (value(dataclasses.replace(kernel, **{name: at + t})) for t in (step, -step))
        slopes[name] = (ahead - behind) / (2 * step)
    return slopes


def options_of(name):
    return {"depth": 3} | OPTIONS[name]


@pytest.mark.parametrize(
    ("kernel", "option"),
    [*((kernel, option) for option in OPTIONS for kernel in TWO), *((kernel, "dilation") for kernel in KERNELS)],
)
@pytest.mark.parametrize("form", ["paired", "gram", "alone", "twice"])
def test_gradients_of_kernels_are_those_of_differences(form, option, kernel, backend, rng):
    x, y = 0.5 * walk(rng, 3, 5, 2), 0.5 * walk(rng, 3, 4, 2)
    function = "branched_sig_kernel" if form == "paired" else "branched_sig_kernel_gram"
    second = {"paired": y, "gram": y[:2], "alone": None, "twice": x}[form]
    kernel, chosen = KERNELS[kernel], options_of(option)

    def value(static):
        return getattr(branchsig, function)(x, second, static_kernel=static, **chosen)

    derivs = rng.standard_normal(value(kernel).shape)
    wanted = {name: np.sum(derivs * slope) for name, slope in differences(kernel, value).items()}
    sides = [(True, False), (False, True), (False, False)] if form != "alone" else [(True, False)]
    for left, right in sides:
        *paths, found = getattr(branchsig, function + "_backprop")(
            derivs,
            x,
            second,
            static_kernel=kernel,
            left_deriv=left,
            right_deriv=right,
            param_deriv=True,
            **chosen,
        )
        assert [path is not None for path in paths] == [left, right]
        assert set(found) == set(wanted)
        for name, slope in wanted.items():
            assert found[name].shape == ()
            assert float(found[name]) == pytest.approx(slope, rel=2e-5, abs=1e-7)
    _, pullback = getattr(branchsig, function + "_vjp")(x, second, static_kernel=kernel, param_deriv=True, **chosen)
    for name, slope in pullback(derivs)[2].items():
        assert float(slope) == pytest.approx(wanted[name], rel=2e-5, abs=1e-7)


@pytest.mark.parametrize("kernel", TWO)
@pytest.mark.parametrize("option", ["plain", "unit", "dilation", "order", "order dilation"])
@pytest.mark.parametrize("function", ["branched_sig_mmd", "branched_sig_score", "expected_branched_sig_score"])
def test_gradients_of_means_are_those_of_differences(function, option, kernel, backend, rng, monkeypatch):
    monkeypatch.setattr("branchsig.operations.means._BLOCK", 2)
    x, y = 0.5 * walk(rng, 5, 5, 2), 0.5 * walk(rng, 3, 4, 2)
    kernel, chosen = KERNELS[kernel], options_of(option)

    def value(static):
        return getattr(branchsig, function)(x, y, static_kernel=static, **chosen)

    derivs = rng.standard_normal(value(kernel).shape)
    _, _, found = getattr(branchsig, function + "_backprop")(
        derivs, x, y, static_kernel=kernel, param_deriv=True, **chosen
    )
    for name, slope in differences(kernel, value).items():
        assert float(found[name]) == pytest.approx(np.sum(derivs * slope), rel=2e-5, abs=1e-7)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("method", ["solve", "guard"])
@pytest.mark.parametrize("depth", [3, math.inf])
def test_gradients_of_dilations_are_those_of_differences(depth, method, kernel, backend, rng):
    x, kernel = walk(rng, 3, 6, 2), KERNELS[kernel]

    def value(static):
        return branchsig.dilation(x, depth, static_kernel=static, method=method)

    derivs = rng.standard_normal(3)
    gradient, found = branchsig.dilation_backprop(
        derivs, x, depth, static_kernel=kernel, method=method, param_deriv=True
    )
    assert gradient.shape == x.shape
    for name, slope in differences(kernel, value).items():
        assert float(found[name]) == pytest.approx(np.sum(derivs * slope), rel=2e-5, abs=1e-7)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_of_stacks_are_those_of_differences(kernel, backend, rng):
    x, y, kernel = 0.5 * walk(rng, 3, 5, 2), 0.5 * walk(rng, 3, 4, 2), KERNELS[kernel]

    def value(static):
        return branchsig.branched_sig_kernel_stack(x, y, 3, static_kernel=static)

    derivs = rng.standard_normal((3, 4, 5, 4))
    for found in (
        branchsig.branched_sig_kernel_stack_backprop(derivs, x, y, 3, static_kernel=kernel, param_deriv=True)[2],
        branchsig.branched_sig_kernel_stack_vjp(x, y, 3, static_kernel=kernel, param_deriv=True)[1](derivs)[2],
    ):
        for name, slope in differences(kernel, value).items():
            assert float(found[name]) == pytest.approx(np.sum(derivs * slope), rel=2e-5, abs=1e-7)


def test_kernels_without_parameters_have_an_empty_dictionary(rng):
    x = walk(rng, 3, 5, 2)
    *_, found = branchsig.branched_sig_kernel_backprop(np.ones(3), x, x, 3, param_deriv=True)
    assert found == {}


def test_gradients_have_the_dtype_of_the_paths(rng):
    x = walk(rng, 3, 5, 2).astype(np.float32)
    for normalize in (False, True, "dilation"):
        *_, found = branchsig.branched_sig_kernel_gram_backprop(
            np.ones((3, 3), np.float32),
            x,
            None,
            3,
            static_kernel=branchsig.RBFKernel(2.0),
            normalize=normalize,
            param_deriv=True,
        )
        assert found["sigma"].dtype == np.float32


def test_a_kernel_that_cannot_be_differentiated_is_named_before_any_work():
    class Own(branchsig.StaticKernel):
        def __call__(self, ctx, x, y):
            raise AssertionError("no work is to be done")

    x = np.zeros((2, 3, 1))
    with pytest.raises(NotImplementedError, match="Own has no derivatives with respect to parameters"):
        branchsig.branched_sig_kernel_backprop(np.ones(2), x, x, 2, static_kernel=Own(), param_deriv=True)
    with pytest.raises(NotImplementedError, match="Own has no derivatives with respect to parameters"):
        branchsig.branched_sig_kernel_vjp(x, x, 2, static_kernel=Own(), param_deriv=True)
    with pytest.raises(TypeError, match="param_deriv is 1"):
        branchsig.branched_sig_kernel_vjp(x, x, 2, param_deriv=1)
