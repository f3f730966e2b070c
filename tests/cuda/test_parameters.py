"""Gradients with respect to the parameters of static kernels, against the reference."""

import math

import numpy as np
import pytest
from cases import problem
from cuda_cases import drawn, emulated_cupy, in_float64, limit, padded, relays
from test_parameter_gradients_of_backends import OwnRBF, dilated

import branchsig
from branchsig import _validation
from branchsig.backends import Wrt
from branchsig.static_kernels import DilatedKernel

KERNELS = {
    "scaled_linear": branchsig.ScaledLinearKernel(0.8),
    "polynomial": branchsig.PolynomialKernel(degree=2.0, gamma=1.2, scale=0.6),
    "polynomial, fractional": branchsig.PolynomialKernel(degree=2.5, gamma=9.0, scale=0.6),
    "polynomial, degree 1": branchsig.PolynomialKernel(degree=1, gamma=1.2, scale=0.6),
    "polynomial, degree 0": branchsig.PolynomialKernel(degree=0, gamma=1.2, scale=0.6),
    "rbf": branchsig.RBFKernel(0.9),
    "matern12": branchsig.Matern12Kernel(0.7),
    "matern32": branchsig.Matern32Kernel(0.8),
    "matern52": branchsig.Matern52Kernel(1.1),
    "rational_quadratic": branchsig.RationalQuadraticKernel(0.9, alpha=0.7),
    "rational_quadratic, large": branchsig.RationalQuadraticKernel(0.9, alpha=1e7),
    "own": OwnRBF(0.9),
}


def compare(backend, reference, arguments, rng, *, want="end", tolerance=1e-10):
    """Check the gradients of the parameters, asked for alone and beside those of the paths, which do not change."""
    whole = in_float64(arguments)
    derivs = rng.standard_normal(reference.solve(whole, want, log=True).shape)
    given = derivs.astype(arguments.path1.dtype)
    both = Wrt(True, arguments.pairing != "symmetric")
    expected = reference.adjoint(whole, want, derivs, Wrt(parameters=True), log=True).parameters
    found = backend.adjoint(arguments, want, given, both._replace(parameters=True), log=True)
    alone = backend.adjoint(arguments, want, given, Wrt(parameters=True), log=True)
    assert alone.path1 is alone.path2 is None
    np.testing.assert_array_equal(alone.parameters, found.parameters)
    assert found.parameters.dtype == arguments.path1.dtype
    assert found.parameters.shape == expected.shape
    scale = np.abs(expected).max(axis=tuple(range(arguments.axes)), initial=1e-300)
    np.testing.assert_allclose(found.parameters / scale, expected / scale, atol=tolerance)
    paths = backend.adjoint(arguments, want, given, both, log=True)
    for mine, its in zip(found[:2], paths[:2], strict=True):
        if its is not None:
            np.testing.assert_allclose(mine, its, rtol=1e4 * tolerance, atol=tolerance * np.abs(its).max())


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("size", [0.8, 1e-4], ids=["of the size of the kernel", "short"])
def test_every_static_kernel_has_the_gradients_of_the_reference(backend, reference, name, size, rng):
    x, y = drawn(rng, "paired", (6, 7), 2, size=size)
    compare(backend, reference, problem(x, y, 2, static_kernel=KERNELS[name]), rng)


@pytest.mark.parametrize("name", ["scaled_linear", "rbf", "rational_quadratic", "own"])
@pytest.mark.parametrize("pairing", ["gram", "symmetric"])
def test_gram_matrices_have_gradients_of_every_pair(backend, reference, name, pairing, rng):
    x, y = drawn(rng, pairing, (5, 6), 6, size=0.8)
    compare(backend, reference, problem(x, y, 2, (1, 1), pairing, KERNELS[name]), rng)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rbf", {"depth": 3, "quadrature": _validation.quadrature("lobatto2")}),
        ("polynomial", {"depth": 2, "quadrature": _validation.quadrature("left")}),
        ("scaled_linear", {"depth": 0, "order": 3}),
        ("rational_quadratic", {"depth": 0, "order": 2}),
        ("rbf", {"depth": math.inf}),
        ("scaled_linear", {"depth": 8}),
    ],
)
def test_other_rules_and_truncations_have_the_gradients_of_the_reference(backend, reference, name, options, rng):
    x, y = drawn(rng, "paired", (5, 40), 2)
    compare(backend, reference, problem(x, y, static_kernel=KERNELS[name], **options), rng)


@pytest.mark.parametrize("name", ["scaled_linear", "rbf"])
def test_grids_have_the_gradients_of_the_reference(backend, reference, name, rng):
    x, y = drawn(rng, "paired", (4, 5), 2)
    compare(backend, reference, problem(x, y, 3, (1, 0), static_kernel=KERNELS[name]), rng, want="grid")


@pytest.mark.parametrize("name", ["polynomial", "matern32", "own"])
def test_dilated_kernels_have_the_gradients_of_the_reference(backend, reference, name, rng):
    x, y = (dilated(path, rng) for path in drawn(rng, "paired", (5, 6), 2))
    compare(backend, reference, problem(x, y, 2, static_kernel=DilatedKernel(KERNELS[name])), rng)


@pytest.mark.parametrize("name", ["linear", "rbf"])
@pytest.mark.parametrize("pairing", ["paired", "gram"])
def test_padded_paths_have_the_gradients_of_the_reference(backend, reference, name, pairing, rng):
    arguments = padded(rng, pairing, ((7, 1, 4), (5, 35, 1)), name=name)
    arguments.static_kernel = KERNELS["scaled_linear" if name == "linear" else name]
    compare(backend, reference, arguments, rng)


@pytest.mark.parametrize("name", ["scaled_linear", "polynomial", "rbf", "rational_quadratic"])
def test_single_precision_has_the_gradients_of_the_reference(backend, reference, name, rng):
    x, y = drawn(rng, "paired", (9, 8), 3, np.float32, size=0.8)
    compare(backend, reference, problem(x, y, 3, static_kernel=KERNELS[name]), rng, tolerance=3e-6)


@pytest.mark.parametrize("name", ["scaled_linear", "rational_quadratic"])
def test_pairs_of_several_strips_passes_and_teams_have_the_gradients_of_the_reference(
    backend, reference, name, rng, monkeypatch
):
    x, y = drawn(rng, "paired", (9, 300), 2, counts=(1, 1), size=0.5)
    arguments = problem(x, y, 3, static_kernel=KERNELS[name])
    for teams in (1, 4):
        limit(monkeypatch, longest_team=teams)
        compare(backend, reference, arguments, rng)


@pytest.mark.parametrize("name", ["scaled_linear", "rbf"])
def test_relayed_pairs_have_the_gradients_of_the_reference(relaying, reference, name, rng):
    x, y = drawn(rng, "paired", (20, 270), 3, counts=(2, 1), size=0.5)
    compare(relaying, reference, problem(x, y, 3, static_kernel=KERNELS[name]), rng)
    assert min(relays(relaying)) > 0


def test_pairs_beyond_the_range_of_products_have_the_gradients_of_the_log_domain(backend, reference, rng):
    x, y = drawn(rng, "paired", (6, 5), 2)
    x, y = (np.abs(path).cumsum(axis=1) for path in (x, y))
    kernel = branchsig.ScaledLinearKernel(1.0)
    low, high = 1.0, 64.0
    for _ in range(40):  # log K of some hundreds
        size = (low + high) / 2
        largest = reference.solve(problem(size * x, y, 2, static_kernel=kernel), "end", log=True).max()
        low, high = (size, high) if largest < 500 else (low, size)
    compare(backend, reference, problem(low * x, y, 2, static_kernel=kernel), rng, tolerance=1e-9)


@pytest.mark.parametrize("name", ["rbf", "matern32", "rational_quadratic"])
def test_points_as_good_as_infinitely_far_apart_change_nothing(backend, reference, name, rng):
    x, y = drawn(rng, "paired", (4, 5), 2)
    arguments = problem(x, y + 1e200, 2, static_kernel=KERNELS[name])
    found, expected = (b.adjoint(arguments, "end", np.ones(3), Wrt(parameters=True)) for b in (backend, reference))
    np.testing.assert_array_equal(expected.parameters, 0.0)
    np.testing.assert_array_equal(found.parameters, expected.parameters)


def test_a_pair_of_derivative_zero_contributes_zero_and_one_of_infinite_value_nan(backend, rng):
    x, y = drawn(rng, "paired", (4, 4), 2)
    x[1] = 1e60 * (1 + x[1])
    arguments = problem(x, y, 2, static_kernel=branchsig.PolynomialKernel(degree=3))
    found = backend.adjoint(arguments, "end", np.ones(3), Wrt(parameters=True)).parameters
    np.testing.assert_array_equal(np.isnan(found), [[False] * 2, [True] * 2, [False] * 2])
    found = backend.adjoint(arguments, "end", np.array([1.0, 0.0, 1.0]), Wrt(parameters=True)).parameters
    np.testing.assert_array_equal(found[1], 0.0)
    assert np.all(np.isfinite(found))


def test_only_gradients_that_ask_for_parameters_are_summed_by_instances_for_them(emulated, rng):
    x, y = drawn(rng, "paired", (4, 5), 2)
    for wrt, flag in ((Wrt(True), "false"), (Wrt(True, parameters=True), "true")):
        emulated_cupy.launches.clear()
        emulated.adjoint(problem(x, y, 2, static_kernel=KERNELS["rbf"]), "end", np.ones(3), wrt)
        names = [name for name, *_ in emulated_cupy.launches if name.startswith("backward")]
        assert names
        assert all(name.endswith(f", {flag}>") for name in names)


@pytest.mark.parametrize("scale", [0.0, 1e-200])
def test_factors_that_nothing_can_be_divided_by_are_left_to_the_reference(backend, reference, scale, rng):
    x, y = drawn(rng, "paired", (4, 5), 2)
    kernel = branchsig.PolynomialKernel(degree=2, scale=scale)
    arguments = problem(x, y, 1, static_kernel=kernel)
    found, expected = (
        b.adjoint(arguments, "end", np.ones(3), Wrt(True, parameters=True)) for b in (backend, reference)
    )
    np.testing.assert_allclose(found.parameters, expected.parameters, rtol=1e-12)
