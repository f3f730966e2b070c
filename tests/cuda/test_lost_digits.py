"""Values that have lost their digits on CUDA: NaN where the reference has NaN, and nowhere else.

What is right is known from a proof: a path that goes back the way it came has the kernel 1 with every other.
"""

import dataclasses
import math

import numpy as np
import pytest
from cases import QuarticKernel, gradients_of, mixed, problem, retraced, returning_families, scaled, sizes, walk
from cuda_cases import BOTH, FROM_THE_LEFT, RULES

import branchsig
from branchsig.backends import cuda

FORMS = [
    {"depth": 1},
    {"depth": 2},
    {"depth": 3},
    {"depth": 4},
    {"depth": 7},
    {"depth": 3, "orders": (1, 2)},
    {"depth": 3, "quadrature": RULES["left"]},
    {"depth": 3, "quadrature": RULES["lobatto2"]},
    {"depth": 1, "quadrature": RULES["lobatto2"]},
    {"depth": 2, "quadrature": RULES["lobatto3"], "orders": (0, 1)},
    {"depth": 3, "static_kernel": QuarticKernel()},
    {"depth": 3, "static_kernel": branchsig.RBFKernel(1.0)},
    {"depth": math.inf},
    {"depth": math.inf, "quadrature": RULES["lobatto2"]},
]


def families(rng, depth):
    """Paths that return, or nearly, and ordinary ones, of very different sizes."""
    large = {1: 1e8, math.inf: 0.5}.get(depth, 1.0)
    x, y = [large * retraced(rng, 8, 4, 1) * sizes(8, 0.3, 50.0)], [walk(rng, 8, 7, 1, size=3.0)]
    for a, b in returning_families(rng, 1):
        x.append(large * a)
        y.append(b)
    x.append(large * mixed(rng, 6))
    y.append(mixed(rng, 6))
    return np.concatenate(x), np.concatenate(y)


def same_values(found, wanted, log):
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(wanted))
    found, wanted = (values[np.isfinite(wanted)] for values in (found, wanted))
    allowed = 2e-4 * (np.maximum(1.0, np.abs(wanted)) if log else np.abs(wanted)) + 1e-300
    assert np.all(np.abs(found - wanted) <= allowed)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_values_have_digits_where_those_of_the_reference_have(backend, reference, form, rng):
    x, y = families(rng, form["depth"])
    for swapped in (False, True):
        arguments = problem(*((y, x) if swapped else (x, y)), **form)
        same_values(backend.solve(arguments, "end", log=True), reference.solve(arguments, "end", log=True), log=True)
        same_values(backend.solve(arguments, "end"), reference.solve(arguments, "end"), log=False)
        for purpose in ("difference", "quotient"):
            made = dataclasses.replace(arguments, purpose=purpose)
            same_values(backend.solve(made, "end", log=True), reference.solve(made, "end", log=True), log=True)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_nodes_of_grids_have_digits_where_those_of_the_reference_have(backend, reference, form, rng):
    x, y = families(rng, form["depth"])
    for log in (True, False):
        arguments = problem(x, y, **form)
        found, wanted = (one.solve(arguments, "grid", log=log) for one in (backend, reference))
        if form.get("quadrature") in (RULES["lobatto2"], RULES["lobatto3"]):
            # Of a cell with infinite K the reference integrates the whole, and these its parts, by weights below 0 too.
            found = np.where(np.isinf(wanted) & np.isnan(found), wanted, found)
        same_values(found, wanted, log)


@pytest.mark.parametrize("of_grid", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_gradients_are_nan_where_values_of_the_reference_are_not_finite(backend, reference, form, of_grid, rng):
    x, y = families(rng, form["depth"])
    for log in (False, True):
        arguments = problem(x, y, **form)
        values = reference.solve(arguments, "grid" if of_grid else "end", log=log)
        spoilt = ~np.isfinite(values).reshape(len(x), -1).all(axis=1)
        found = gradients_of(backend, arguments, np.ones(values.shape), wrt_log=log, **BOTH)
        wanted = gradients_of(reference, arguments, np.ones(values.shape), wrt_log=log, **BOTH)
        for mine, its in zip(found, wanted, strict=True):
            gone = np.isnan(mine).all(axis=(1, 2))
            assert gone[spoilt].all()
            # A gradient may overflow where the value does not.
            assert not np.isfinite(its[gone & ~spoilt]).all(axis=(1, 2)).any()


@pytest.mark.parametrize("rule", ["trapezoid", "lobatto2"])
@pytest.mark.parametrize("purpose", [None, "kernel", "log", "difference", "quotient", "rough"])
def test_parts_have_digits_where_those_of_the_reference_have(backend, reference, rule, purpose, rng):
    x, y = families(rng, 3)
    x = np.concatenate([x, 100.0 * x])
    options = {"order": 4} | ({"quadrature": RULES[rule]} if rule in RULES else {})
    arguments = dataclasses.replace(problem(x, np.concatenate([y, y]), 4, **options), purpose=purpose)
    for grid in (False, True):
        found, wanted = (
            backend.solve(arguments, "grid" if grid else "end"),
            reference.solve(arguments, "grid" if grid else "end"),
        )
        np.testing.assert_array_equal(np.isnan(found[..., 1:]), np.isnan(wanted[..., 1:]))


@pytest.mark.parametrize("value", [2, 3])
def test_a_bound_of_parts_not_handed_on_is_caught(emulated, reference, value, rng, monkeypatch):
    text = cuda.source().replace(FROM_THE_LEFT, f"v == {value} ? handed[m][v] : {FROM_THE_LEFT}")
    monkeypatch.setattr(cuda.instances, "source", lambda: text)
    x, y = families(rng, 3)
    arguments = problem(30.0 * y, x, 4, quadrature=RULES["lobatto2"], order=4)
    wanted = reference.solve(arguments, "grid")
    assert (np.isnan(emulated.solve(arguments, "grid")) != np.isnan(wanted)).any()


@pytest.mark.parametrize("depth", [2, 3])
def test_bounds_of_long_paths_are_handed_from_warp_to_warp(backend, reference, depth, rng):
    x, y = retraced(rng, 8, 5, 1) * sizes(8, 0.3, 40.0 / depth), walk(rng, 8, 300, 1, size=20.0)
    y[:, 40:] = y[:, 39:40] + 1e-3 * (y[:, 40:] - y[:, 39:40])  # the bounds are those of the first columns
    arguments = problem(x, y, depth)
    wanted = reference.solve(arguments, "end", log=True)
    assert 0 < np.isnan(wanted).sum() < 8
    same_values(backend.solve(arguments, "end", log=True), wanted, log=True)
    for log in (False, True):
        found, wanted = (one.solve(arguments, "grid", log=log) for one in (backend, reference))
        same_values(found, wanted, log)


@pytest.mark.parametrize("nodes", [None, 3])
@pytest.mark.parametrize("depth", [2, 4])
def test_a_rough_diagonal_takes_values_as_they_come(backend, reference, depth, nodes, rng):
    x = retraced(rng, 6, 6, 1) * sizes(6, 0.3, 50.0 if nodes is None else 1e4)
    arguments = problem(x, x, depth, order=nodes)
    at = np.arange(11)
    grid = reference.solve(arguments, "grid", log=True)
    sound = np.isfinite(grid[:, at, at])
    assert not sound.all()
    arguments = dataclasses.replace(arguments, purpose="rough")
    found, wanted = backend.solve(arguments, "prefixes"), reference.solve(arguments, "prefixes")
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    np.testing.assert_allclose(found[sound], wanted[sound], rtol=2e-4, atol=2e-4)


def test_long_ordinary_paths_are_done_by_running_products(emulated, reference, rng, monkeypatch):
    written = "if (!PARTS) ends[place] = real("
    text = cuda.source()
    assert text.count(written) == 1
    mutated = text.replace(written, f"{written[:-5]}CAREFUL ? real(-1) : real(")
    monkeypatch.setattr(cuda.instances, "source", lambda: mutated)
    x = walk(rng, 2, 1000, 8)
    x, y = scaled(x, 0.7 * x + 0.7 * walk(rng, 2, 1000, 8), 4, reference, log_k=20.0)
    found = emulated.solve(problem(x, y, 4), "end", log=True)
    np.testing.assert_allclose(found, reference.solve(problem(x, y, 4), "end", log=True), rtol=1e-10)
