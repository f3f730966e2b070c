"""Beyond the range of numbers: kernels done again in the log domain, infinities, NaN, and derivatives of 0."""

import dataclasses
import math

import numpy as np
import pytest
from cases import gradients_of, problem, relative, relative_to_path
from cuda_cases import drawn, in_float64, kernel_named, limit

from branchsig import _validation
from branchsig.quadrature import BY_NAME


@pytest.mark.parametrize(
    ("rule", "depth", "length"),
    [("trapezoid", 3, 1.71), ("trapezoid", 7, 1.321), ("left", 3, 2.24), ("lobatto2", 3, 1.77)],
)
def test_float32_values_beyond_their_range_have_the_gradients_of_their_float64_values(
    backend, reference, rule, depth, length, rng
):
    x, y = drawn(rng, "paired", (6, 6), 2, np.float32, counts=(2, 2), size=0.1)
    x[1], y[1] = (np.linspace(0.0, length, 6)[:, None] * [1.0, 0.0] for _ in range(2))
    arguments = problem(x, y, depth, quadrature=_validation.quadrature(rule))
    assert 89 < reference.solve(arguments, "end", log=True)[1] < 340  # within that of float64
    first = np.zeros((2, 6, 6))
    first[:, 1, 1] = 1.0
    for derivs in (first, np.ones((2, 6, 6)), np.ones(2)):
        options = {"wrt_log": False, "left": True, "right": True}
        wanted = gradients_of(reference, in_float64(arguments), derivs, **options)
        found = gradients_of(backend, arguments, derivs.astype(np.float32), **options)
        for mine, its in zip(found, wanted, strict=True):
            assert np.isfinite(mine[1]).all() == (derivs is first)  # of the others they are infinite
            with np.errstate(over="ignore"):
                its = its.astype(np.float32)
            np.testing.assert_array_equal(np.isinf(mine), np.isinf(its))
            usual = np.where(np.isinf(its), 0.0, its)
            assert relative_to_path(np.where(np.isinf(its), 0.0, mine), usual) < 1e-4


@pytest.mark.parametrize("teams", ["warps", "halves of warps"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_kernels_beyond_the_range_of_running_products_are_done_again(
    backend, reference, dtype, teams, rng, monkeypatch
):
    limit(monkeypatch, pairs_per_processor=0 if teams == "halves of warps" else 1000)
    x, y = drawn(rng, "paired", (12, 40), 2, counts=(6, 6), dtype=np.float64)
    x[:, -1] = x[:, 0] + 1.0
    # log K_1 = <x_end - x_0, y_end - y_0>: within the range, beyond it upwards, and far below it.
    goal = np.array([1.0, 2.0, 420.0, -400.0, 0.5, 430.0]) / (1.0 if dtype == np.float64 else 8.0)
    y += np.linspace(0, 1, 40)[None, :, None] * (goal / 2 - (y[:, -1] - y[:, 0]).sum(axis=1) / 2)[:, None, None]
    arguments = problem(x.astype(dtype), y.astype(dtype), 2)
    exact = in_float64(arguments)
    wanted = reference.solve(exact, "end", log=True)
    assert np.isfinite(wanted).all()
    assert relative(backend.solve(arguments, "end", log=True), wanted) < (1e-10 if dtype == np.float64 else 1e-5)
    with np.errstate(over="ignore"):
        ends = np.exp(wanted).astype(dtype)
    np.testing.assert_allclose(backend.solve(arguments, "end"), ends, rtol=1e-9 if dtype == np.float64 else 1e-5)
    derivs = np.ones(6, dtype)
    found = gradients_of(backend, arguments, derivs, wrt_log=True, left=True, right=True)
    for mine, its in zip(
        found, gradients_of(reference, exact, derivs.astype(float), wrt_log=True, left=True, right=True), strict=True
    ):
        assert relative_to_path(mine, its) < (1e-10 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("wrt_log", [False, True])
def test_values_that_are_not_finite_stand_where_the_reference_has_them(backend, reference, wrt_log, rng):
    x, y = drawn(rng, "paired", (8, 40), 2, counts=(5, 5))
    x[1] *= 1e4  # inf or NaN
    x[2, 3] = np.nan
    x[3] *= 60  # K_2 is finite, K_3 is not
    arguments = problem(x, y, 3)
    wanted = reference.solve(arguments, "end", log=True)
    assert np.isfinite(wanted[[0, 4]]).all()
    assert not np.isfinite(wanted[[1, 2]]).any()
    found = backend.solve(arguments, "end", log=True)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    derivs = rng.standard_normal(5)
    gradients = gradients_of(backend, arguments, derivs, wrt_log=wrt_log, left=True, right=True)
    with np.errstate(over="ignore"):
        finite = np.isfinite(wanted if wrt_log else np.exp(wanted))
    for gradient in gradients:
        assert np.isfinite(gradient[finite]).all()
        assert np.isnan(gradient[~finite]).all()


@pytest.mark.parametrize("name", ["linear", "rbf", "quartic"])
@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
@pytest.mark.parametrize(
    ("rule", "depth", "order"), [("trapezoid", 3, None), ("lobatto2", math.inf, None), ("left", 3, 3)]
)
def test_pairs_without_a_derivative_contribute_nothing(backend, reference, rule, depth, order, pairing, name, rng):
    x, y = drawn(rng, pairing, (9, 12), 2, counts=(4, 3))
    x[1] *= np.nan
    arguments = problem(x, y, depth, pairing=pairing, static_kernel=kernel_named(name))
    arguments = dataclasses.replace(arguments, quadrature=BY_NAME[rule])
    options = {"wrt_log": False, "left": True, "right": pairing != "symmetric"}
    pairs = (4,) if pairing == "paired" else (4, y.shape[0])
    for nodes in ((), (9, 12)):
        if pairing == "symmetric" and (nodes or order):
            continue
        made = dataclasses.replace(arguments, order=order)
        derivs = rng.uniform(0.5, 1.5, (*pairs, *nodes, *([] if order is None else [order + 1])))
        derivs[1] = 0.0  # in a symmetric problem its mirror images have derivatives, and give NaN to the other paths
        found = gradients_of(backend, made, derivs, **options)
        for mine, its in zip(found, gradients_of(reference, made, derivs, **options), strict=True):
            if its is not None:
                assert relative_to_path(mine, its) < 1e-12
        assert np.all(found[0][1] == 0.0)


@pytest.mark.parametrize("wrt_log", [False, True])
def test_finite_grids_without_a_derivative_contribute_nothing(backend, wrt_log):
    x, y = np.array([[[0.0], [-1e6]]]), np.arange(6.0)[None, :, None]
    arguments = problem(x, y, 3)
    assert np.isfinite(backend.solve(arguments, "grid")).all()
    for gradient in gradients_of(backend, arguments, np.zeros((1, 2, 6)), wrt_log=wrt_log, left=True, right=True):
        assert np.all(gradient == 0.0)


def test_cells_without_an_increment_contribute_nothing_where_the_kernel_is_infinite(backend, reference, rng):
    x, y = drawn(rng, "paired", (6, 6), 1, counts=(2, 2))
    x[0] = np.array([0.0, 1e3, 1e3, 1e3, 1e3, 1e3])[:, None]
    y[0] = np.array([0.0, 1e3, 1e3, 1e3, 1e3, 1e3])[:, None]
    arguments = problem(x, y, 2)
    for all_levels in (False, True):
        wanted = reference.solve(arguments, "stack" if all_levels else "grid")
        assert np.isinf(wanted[0]).any()
        assert relative(backend.solve(arguments, "stack" if all_levels else "grid"), wanted) < 1e-12
