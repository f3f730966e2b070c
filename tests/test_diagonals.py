"""The kernels of all prefixes of a path with themselves, in every backend."""

import dataclasses
import math

import numpy as np
import pytest
from cases import QuarticKernel, problem, static_kernel, walk
from hypothesis import example, given, settings
from hypothesis import strategies as st

import branchsig
from branchsig import _validation
from branchsig.static_kernels import DilatedKernel

KERNELS = {
    "linear": branchsig.LinearKernel(),
    "polynomial": static_kernel("polynomial")[0],
    "matern12": static_kernel("matern12")[0],
    "dilated": DilatedKernel(static_kernel("rbf")[0]),
    "quartic": QuarticKernel(),
}


def of_itself(rng, name, count, length, size, ragged, **options):
    x = walk(rng, count, length, 2, size=size)
    if name == "dilated":
        x = np.concatenate([x, np.full((count, length, 1), 0.7)], axis=2)
    lengths = rng.integers(1, length + 1, count) if ragged else None
    return problem(x, x, static_kernel=KERNELS[name], lengths1=lengths, lengths2=lengths, **options)


@pytest.mark.parametrize("order", [None, 0, 3])
@pytest.mark.parametrize("depth", [0, 1, 3, math.inf])
@pytest.mark.parametrize("length", [1, 2, 6])
def test_the_reference_has_the_self_kernels_of_prefixes(reference, order, depth, length, rng):
    of = of_itself(rng, "linear", 3, length, 1.5, True, depth=depth, orders=(1, 1), order=order)
    found = reference.solve(of, "prefixes")
    for i in range(length):
        valid = np.minimum(of.lengths1, i + 1)
        prefix = dataclasses.replace(of, lengths1=valid, lengths2=valid)
        wanted = reference.solve(prefix, "end", log=True) if order is None else reference.solve(prefix, "end")
        np.testing.assert_allclose(found[:, i], wanted, rtol=1e-12, atol=1e-15)


@settings(max_examples=20)
@given(
    name=st.sampled_from(list(KERNELS)),
    depth=st.sampled_from([1, 2, 3, 5, math.inf]),
    order=st.sampled_from([None, None, None, 1, 4]),
    rule=st.sampled_from(["trapezoid", "trapezoid", "left", "lobatto2", "lobatto3", "lobatto5"]),
    dyadic=st.sampled_from([0, 0, 1, 2, 4]),
    length=st.sampled_from([2, 8, 9, 17]),
    count=st.sampled_from([1, 5, 9]),
    ragged=st.booleans(),
    size=st.sampled_from([0.1, 1.0, 1.5]),
    seed=st.integers(0, 2**32 - 1),
)
@example(
    name="linear", depth=3, order=None, rule="trapezoid", dyadic=0, length=75, count=9, ragged=True, size=1.0, seed=0
)
@example(
    name="matern12", depth=3, order=None, rule="trapezoid", dyadic=0, length=75, count=3, ragged=True, size=1.0, seed=0
)
@example(
    name="linear", depth=2, order=None, rule="lobatto2", dyadic=0, length=75, count=3, ragged=False, size=1.0, seed=0
)
@example(
    name="linear",
    depth=math.inf,
    order=None,
    rule="lobatto2",
    dyadic=1,
    length=40,
    count=3,
    ragged=True,
    size=0.5,
    seed=0,
)
def test_the_core_agrees_with_the_reference(
    core, reference, name, depth, order, rule, dyadic, length, count, ragged, size, seed
):
    rule = _validation.quadrature(rule)
    rng = np.random.default_rng(seed)
    of = of_itself(
        rng, name, count, length, size, ragged, depth=depth, order=order, orders=(dyadic, dyadic), quadrature=rule
    )
    found, wanted = core.solve(of, "prefixes"), reference.solve(of, "prefixes")
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))
    near = np.isfinite(wanted) & (np.abs(wanted) < 30)  # beyond, an exponential loses digits in either
    np.testing.assert_allclose(found[near], wanted[near], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("length", "dyadic"), [(600, 0), (300, 1), (150, 2), (555, 0)])
@pytest.mark.parametrize("name", ["linear", "matern12"])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_single_long_paths_agree_with_the_reference(core, reference, length, dyadic, name, depth, rng):
    ragged = length == 555
    of = of_itself(rng, name, 2 if ragged else 1, length, 1.0, ragged, depth=depth, orders=(dyadic, dyadic))
    if ragged:
        of.lengths1[:] = 530, 2
    found, wanted = core.solve(of, "prefixes"), reference.solve(of, "prefixes")
    small = wanted < 30  # beyond, an exponential loses digits in either
    np.testing.assert_allclose(found[small], wanted[small], rtol=1e-8, atol=1e-11)
    assert not np.any(found[~small] < 29)


@pytest.mark.parametrize("rule", ["trapezoid", "lobatto2"])
@pytest.mark.parametrize("name", ["linear", "matern12", "quartic"])
def test_prefixes_that_leave_the_range_of_the_running_products_are_right(core, reference, rule, name, rng):
    depth, size, length = (3, 1.0, 300) if name == "matern12" else (2, 9.0, 70)
    of = of_itself(rng, name, 4, length, size, False, depth=depth, quadrature=_validation.quadrature(rule))
    found, wanted = core.solve(of, "prefixes"), reference.solve(of, "prefixes")
    assert np.nanmax(wanted) > 400
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))
    finite = np.isfinite(wanted)
    np.testing.assert_allclose(found[finite], wanted[finite], rtol=1e-9, atol=1e-12)
