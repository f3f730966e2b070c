"""Depth 1 needs four values of the static kernel: values, gradients, and what must show although no sweep sees it."""

import numpy as np
import oracles
import pytest
from cases import STATIC_KERNELS, problem, relative_to_path, static_kernel, walk

import branchsig
from branchsig.backends import Wrt
from branchsig.backends.cpu import CpuBackend
from branchsig.backends.reference import ReferenceBackend
from branchsig.static_kernels import DilatedKernel

RULES = [branchsig.Trapezoid(), branchsig.LeftPoint(), branchsig.GaussLobatto(3)]


def both(arguments, derivs):
    return (
        backend.adjoint(arguments, "end", derivs, Wrt(True, arguments.pairing != "symmetric", True))
        for backend in (CpuBackend(), ReferenceBackend())
    )


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("name", STATIC_KERNELS)
def test_log_k_is_a_second_difference_of_the_static_kernel_for_every_rule(name, rule, rng):
    kernel, formula = static_kernel(name)
    x, y = walk(rng, 3, 7, 2), walk(rng, 3, 9, 2)
    found = branchsig.branched_sig_kernel(x, y, 1, (1, 2), static_kernel=kernel, quadrature=rule, log=True)
    for log_k, a, b in zip(found, x, y, strict=True):
        wanted = sum(
            sign * formula(list(a[i]), list(b[j]), oracles.FLOATS)
            for i, j, sign in ((-1, -1, 1), (-1, 0, -1), (0, -1, -1), (0, 0, 1))
        )
        assert log_k == pytest.approx(wanted, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", STATIC_KERNELS)
def test_values_and_gradients_are_those_of_a_sweep(name, ragged, pairing, rng):
    kernel, _ = static_kernel(name)
    x, y = walk(rng, 4, 6, 2), walk(rng, 4, 6, 2)
    valid = (np.array([6, 1, 2, 4]), np.array([3, 5, 1, 6])) if ragged else (None, None)
    if pairing == "symmetric":
        y, valid = x, (valid[0], valid[0])
    arguments = problem(x, y, 1, (1, 1), pairing, kernel, lengths1=valid[0], lengths2=valid[1])
    found, wanted = (one.solve(arguments, "end", log=True) for one in (CpuBackend(), ReferenceBackend()))
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-14)
    derivs = rng.normal(size=found.shape)
    gradients, others = both(arguments, derivs)
    for gradient, other in zip(gradients, others, strict=True):
        if other is not None:
            np.testing.assert_allclose(gradient, other, rtol=1e-10, atol=1e-12)


def test_dilated_kernels_have_the_gradients_of_their_factors(rng):
    x, y = walk(rng, 3, 5, 3), walk(rng, 3, 8, 3)
    x[:, :, 2] = y[:, :, 2] = 0
    x[:, 0, 2], y[:, 0, 2] = 0.7, 1.2
    arguments = problem(x, y, 1, static_kernel=DilatedKernel(branchsig.RBFKernel(0.9)))
    for gradient, other in zip(*both(arguments, np.ones(3)), strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_point_in_between_that_is_not_finite_shows_in_its_pairs_alone(bad, rng):
    x, y = walk(rng, 4, 6, 2), walk(rng, 4, 6, 2)
    wanted = branchsig.branched_sig_kernel(x, y, 1)
    x[1, 3, 0] = bad
    with pytest.warns(RuntimeWarning, match=r"path1\[1\]"):
        found = branchsig.branched_sig_kernel(x, y, 1)
    assert np.isnan(found[1])
    np.testing.assert_allclose(np.delete(found, 1), np.delete(wanted, 1), rtol=1e-13)


def test_what_lies_behind_the_end_of_a_path_is_not_read(rng):
    x, y = walk(rng, 2, 6, 2), walk(rng, 2, 6, 2)
    wanted = branchsig.branched_sig_kernel(x[:, :4], y, 1)
    x[:, 4:] = np.nan
    np.testing.assert_array_equal(branchsig.branched_sig_kernel(x, y, 1, lengths1=np.array([4, 4])), wanted)


def test_a_pair_that_overflows_has_the_gradient_nan_at_every_point_and_its_neighbours_their_own(rng):
    x, y = walk(rng, 3, 6, 2), walk(rng, 3, 6, 2)
    wanted = branchsig.branched_sig_kernel_backprop(np.ones(3), x, y, 1)[0]
    x[1], y[1] = (np.linspace(0, 100, 6)[:, None] for _ in range(2))
    found = branchsig.branched_sig_kernel_backprop(np.ones(3), x, y, 1)[0]
    assert np.all(np.isnan(found[1]))
    assert relative_to_path(found[[0, 2]], wanted[[0, 2]]) < 1e-14


def test_points_whose_sum_overflows_give_the_value_of_their_ends(rng):
    x, y = walk(rng, 2, 6, 2), walk(rng, 2, 6, 2)
    wanted = branchsig.branched_sig_kernel(x, y, 1, static_kernel=branchsig.RBFKernel(0.9))
    x[:, 2:4] = 1e308
    np.testing.assert_allclose(
        branchsig.branched_sig_kernel(x, y, 1, static_kernel=branchsig.RBFKernel(0.9)), wanted, rtol=1e-12
    )


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", ["linear", "polynomial", "rbf", "matern12"])
def test_a_path_that_is_not_finite_changes_no_bit_of_other_pairs(name, ragged, rng):
    kernel, _ = static_kernel(name)
    x, y = walk(rng, 7, 40, 15, size=0.3), walk(rng, 7, 65, 15, size=0.3)
    lengths = np.array([40, 2, 40, 17, 40, 30, 40]) if ragged else None
    for spoilt in (np.nan, np.inf, 1e308):
        other = x.copy()
        other[6, 3:5, 2] = spoilt
        for pairing in ("paired", "gram"):
            wanted, found = (
                [
                    CpuBackend().solve(arguments, "end"),
                    *CpuBackend().adjoint(
                        arguments, "end", np.ones((7,) if pairing == "paired" else (7, 7)), Wrt(True, False)
                    )[:1],
                ]
                for arguments in (
                    problem(paths, y, 1, (0, 0), pairing, kernel, lengths1=lengths, lengths2=None)
                    for paths in (x, other)
                )
            )
            for one, its in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(one[:6], its[:6])


def test_infinities_in_between_show_unless_the_static_kernel_is_zero_there(rng):
    x, y = walk(rng, 2, 6, 2), walk(rng, 2, 6, 2)
    for name in ("rbf", "linear"):
        kernel, _ = static_kernel(name)
        wanted = CpuBackend().solve(problem(x, y, 1, static_kernel=kernel), "end")
        spoilt = x.copy()
        spoilt[1, 3, 0] = np.inf
        found = CpuBackend().solve(problem(spoilt, y, 1, static_kernel=kernel), "end")
        np.testing.assert_array_equal(found, wanted if name == "rbf" else [wanted[0], np.nan])
