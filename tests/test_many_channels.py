"""Paths of many channels, whose increments and gradients are products: values, gradients, and their bits."""

import numpy as np
import pytest
from cases import gradients_of, problem, relative_to_path, walk
from conftest import cpu
from remembered import RememberedReference

import branchsig
from branchsig.backends import Wrt
from branchsig.static_kernels import DilatedKernel

CHANNELS = [15, 16, 17, 23, 24, 40, 101]
LENGTHS = [(2, 2), (9, 10), (26, 25), (33, 50), (130, 140)]  # of one cell, and of more than one chunk of rows


def both_gradients(x, y, depth=3, **options):
    derivs = np.linspace(0.5, 1.5, len(x))
    return branchsig.branched_sig_kernel_backprop(derivs, x, y, depth, left_deriv=True, right_deriv=True, **options)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("isa", cpu.instruction_sets())
def test_values_and_gradients_are_those_of_the_reference(isa, lengths, channels, rng):
    before = cpu.instruction_set()
    kernel = branchsig.ScaledLinearKernel(0.7)
    x, y = walk(rng, 3, lengths[0], channels), walk(rng, 3, lengths[1], channels)
    arguments = problem(x, y, 3, static_kernel=kernel)
    cpu.set_instruction_set(isa)
    try:
        found = cpu.CpuBackend().solve(arguments, "end", log=True)
        gradients = cpu.CpuBackend().adjoint(arguments, "end", np.ones(3), Wrt(True, True, True))
    finally:
        cpu.set_instruction_set(before)
    reference = RememberedReference()
    np.testing.assert_allclose(found, reference.solve(arguments, "end", log=True), rtol=1e-12, atol=1e-12)
    wanted = reference.adjoint(arguments, "end", np.ones(3), Wrt(True, True, True))
    for gradient, other in zip(gradients[:2], wanted[:2], strict=True):
        assert relative_to_path(gradient, other) < 1e-12
    np.testing.assert_allclose(gradients.parameters, wanted.parameters, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels", [16, 31])
@pytest.mark.parametrize("lengths", [(20, 30), (150, 140)], ids=str)
def test_a_pair_has_the_same_bits_alone_in_a_batch_in_a_gram_matrix_and_beside_longer_paths(lengths, channels, rng):
    x, y = walk(rng, 11, lengths[0], channels), walk(rng, 11, lengths[1], channels)
    values, gradients = branchsig.branched_sig_kernel(x, y, 3), both_gradients(x, y)
    gram = branchsig.branched_sig_kernel_gram(x, y, 3)
    derivs = np.linspace(0.5, 1.5, 11)
    for k in (0, 5, 10):
        assert branchsig.branched_sig_kernel(x[k : k + 1], y[k : k + 1], 3)[0] == values[k] == gram[k, k]
        alone = branchsig.branched_sig_kernel_backprop(
            derivs[k : k + 1], x[k : k + 1], y[k : k + 1], 3, left_deriv=True, right_deriv=True
        )
        for found, wanted in zip(alone, gradients, strict=True):
            np.testing.assert_array_equal(found[0], wanted[k])
    # the same pairs, padded, among longer ones
    longer1, longer2 = walk(rng, 22, lengths[0] + 20, channels), walk(rng, 22, lengths[1] + 20, channels)
    longer1[::2, : lengths[0]], longer2[::2, : lengths[1]] = x, y
    valid1 = np.where(np.arange(22) % 2, lengths[0] + 17, lengths[0])
    valid2 = np.where(np.arange(22) % 2, lengths[1] + 19, lengths[1])
    options = {"lengths1": valid1, "lengths2": valid2}
    np.testing.assert_array_equal(branchsig.branched_sig_kernel(longer1, longer2, 3, **options)[::2], values)
    padded = branchsig.branched_sig_kernel_backprop(
        np.repeat(derivs, 2), longer1, longer2, 3, left_deriv=True, right_deriv=True, **options
    )
    for found, wanted, length in zip(padded, gradients, lengths, strict=True):
        np.testing.assert_array_equal(found[::2, :length], wanted)
        assert not np.any(found[::2, length:])


def test_the_gradient_of_a_gram_matrix_is_the_sum_of_those_of_its_pairs_where_some_have_none(rng):
    x, y = walk(rng, 9, 12, 20), walk(rng, 5, 14, 20)
    derivs = rng.normal(size=(9, 5))
    derivs[::2, 1] = 0
    found = branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, 3, left_deriv=True, right_deriv=True)
    i, j = (index.ravel() for index in np.indices(derivs.shape))
    of_pairs = branchsig.branched_sig_kernel_backprop(derivs.ravel(), x[i], y[j], 3, left_deriv=True, right_deriv=True)
    for gradient, part, index in zip(found, of_pairs, (i, j), strict=True):
        wanted = np.zeros_like(gradient)
        np.add.at(wanted, index, part)
        assert relative_to_path(gradient, wanted) < 1e-13


def test_a_pair_beyond_the_range_of_a_double_leaves_the_gradients_of_its_neighbours_as_they_are(rng):
    x, y = walk(rng, 8, 10, 24), walk(rng, 8, 10, 24)
    wanted = both_gradients(x, y)
    x[3], y[3] = np.linspace(0, 300, 10)[:, None], np.linspace(0, 300, 10)[:, None]
    for gradient, other in zip(both_gradients(x, y), wanted, strict=True):
        assert np.all(np.isnan(gradient[3]))
        np.testing.assert_array_equal(np.delete(gradient, 3, axis=0), np.delete(other, 3, axis=0))


@pytest.mark.parametrize("orders", [(0, 0), (1, 0), (0, 4), (4, 1)], ids=str)
def test_dyadic_orders_have_the_gradients_of_the_reference(orders, rng):
    x, y = walk(rng, 2, 11, 18), walk(rng, 2, 7, 18)
    arguments = problem(x, y, 2, orders)
    found = gradients_of(cpu.CpuBackend(), arguments, np.ones(2), wrt_log=True, left=True, right=True)
    wanted = gradients_of(RememberedReference(), arguments, np.ones(2), wrt_log=True, left=True, right=True)
    for gradient, other in zip(found, wanted, strict=True):
        assert relative_to_path(gradient, other) < 1e-12


def test_one_long_pair_has_the_values_of_many_and_the_gradients_of_the_reference(rng):
    x, y = walk(rng, 8, 530, 17), walk(rng, 8, 560, 17)
    values = branchsig.branched_sig_kernel(x, y, 2)
    assert branchsig.branched_sig_kernel(x[:1], y[:1], 2)[0] == values[0]
    arguments = problem(x[:1], y[:1], 2, static_kernel=branchsig.ScaledLinearKernel(0.9))
    found, wanted = (
        backend.adjoint(arguments, "end", np.ones(1), Wrt(True, True, True), log=True)
        for backend in (cpu.CpuBackend(), RememberedReference())
    )
    for gradient, other in zip(found[:2], wanted[:2], strict=True):
        assert relative_to_path(gradient, other) < 1e-12
    np.testing.assert_allclose(found.parameters, wanted.parameters, rtol=1e-12)


def test_a_translation_that_leaves_steps_exact_changes_no_bit(rng):
    x, y = (np.round(walk(rng, 3, 20, 32) * 2**20) / 2**20 for _ in range(2))
    shift = float(2**20)
    for found, wanted in zip(both_gradients(x + shift, y - shift), both_gradients(x, y), strict=True):
        np.testing.assert_array_equal(found, wanted)


KERNELS = {
    "polynomial": branchsig.PolynomialKernel(2.0, 1.2, 0.6),
    "polynomial, fractional": branchsig.PolynomialKernel(1.5, 9.0, 0.6),
    "rbf": branchsig.RBFKernel(0.9),
    "matern12": branchsig.Matern12Kernel(0.7),
    "matern32": branchsig.Matern32Kernel(0.8),
    "matern52": branchsig.Matern52Kernel(1.1),
    "rational_quadratic": branchsig.RationalQuadraticKernel(0.9, alpha=0.7),
    "rational_quadratic, whole": branchsig.RationalQuadraticKernel(0.9, alpha=2.0),
}
SIZES = {"ordinary": 1.0, "beside a wide kernel": 1e-3, "as good as infinite": 1e150}


def everything(backend, arguments, log=True):
    """Values at the end, and gradients with respect to the paths and the parameters."""
    derivs = np.linspace(0.5, 1.5, len(arguments.path1))
    return backend.solve(arguments, "end", log=log), backend.adjoint(
        arguments, "end", derivs, Wrt(True, True, True), log=log
    )


def assert_alike(found, wanted, tolerance):
    """Values, and gradients relative to the largest of each path and parameter."""
    np.testing.assert_allclose(
        found[0], wanted[0], rtol=tolerance, atol=tolerance * (np.max(np.abs(wanted[0])) + 1e-100)
    )
    for gradient, other in zip(found[1][:2], wanted[1][:2], strict=True):
        assert relative_to_path(gradient, other) < tolerance
    scale = np.max(np.abs(wanted[1].parameters))
    np.testing.assert_allclose(found[1].parameters, wanted[1].parameters, rtol=tolerance, atol=tolerance * scale)


def dilated(path, rng):
    """Paths with a factor of each in a last channel."""
    channel = np.zeros((*path.shape[:2], 1))
    channel[:, 0, 0] = rng.uniform(0.5, 1.5, path.shape[0])
    return np.concatenate((path, channel), axis=2)


@pytest.mark.parametrize("size", ["ordinary", "beside a wide kernel"])
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("channels", [1, 3, 8, 15, 16, 23, 41])
@pytest.mark.parametrize("isa", cpu.instruction_sets())
def test_static_kernels_that_are_not_linear_have_the_values_and_gradients_of_the_reference(
    isa, channels, name, size, rng
):
    before = cpu.instruction_set()
    cpu.set_instruction_set(isa)
    try:
        for lengths in LENGTHS[:4]:
            x, y = (SIZES[size] * walk(rng, 3, length, channels) for length in lengths)
            arguments = problem(x, y, 3, static_kernel=KERNELS[name])
            assert_alike(everything(cpu.CpuBackend(), arguments), everything(RememberedReference(), arguments), 2e-10)
    finally:
        cpu.set_instruction_set(before)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("lengths", [LENGTHS[-1], (200, 230), (530, 560)], ids=str)
def test_so_have_they_on_paths_of_several_chunks_and_on_long_pairs(lengths, name, size, rng):
    """A pair of some hundred points is long where channels are many for each level."""
    if size == "as good as infinite" and "polynomial" in name:
        size = "ordinary"  # whose values would be beyond the range of a double
    count, channels = (1, 16) if lengths[0] > 500 else (2, 50 if lengths[0] == 200 else 16)
    x, y = (SIZES[size] * walk(rng, count, length, channels) for length in lengths)
    arguments = problem(x, y, 2, static_kernel=KERNELS[name])
    assert_alike(everything(cpu.CpuBackend(), arguments), everything(RememberedReference(), arguments), 1e-9)


@pytest.mark.parametrize("size", ["ordinary", "beside a wide kernel"])
@pytest.mark.parametrize("name", KERNELS)
def test_a_dilated_static_kernel_has_them_too(name, size, rng):
    for lengths, channels in (((9, 10), 18), ((30, 25), 3), ((130, 140), 18)):
        x, y = (dilated(SIZES[size] * walk(rng, 3, length, channels), rng) for length in lengths)
        arguments = problem(x, y, 2, static_kernel=DilatedKernel(KERNELS[name]))
        assert_alike(everything(cpu.CpuBackend(), arguments), everything(RememberedReference(), arguments), 1e-9)


@pytest.mark.parametrize("size", ["ordinary", "beside a wide kernel"])
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("channels", [3, 17])
@pytest.mark.parametrize("lengths", [(5, 30), (20, 30), (150, 140)], ids=str)
def test_the_bits_of_a_pair_depend_on_nothing_else_whatever_the_static_kernel(lengths, channels, name, size, rng):
    """Alone, in a batch, in a Gram matrix, and padded among longer paths, some of which are of another size."""
    x, y = (SIZES[size] * walk(rng, 11, length, channels) for length in lengths)
    kernel = KERNELS[name]
    in_batch = everything(cpu.CpuBackend(), problem(x, y, 3, static_kernel=kernel))
    gram = cpu.CpuBackend().solve(problem(x, y, 3, static_kernel=kernel, pairing="gram"), "end", log=True)
    np.testing.assert_array_equal(np.diag(gram), in_batch[0])
    longer1, longer2 = (walk(rng, 22, length + 20, channels) for length in lengths)
    longer1[::2, : lengths[0]], longer2[::2, : lengths[1]] = x, y
    valid1 = np.where(np.arange(22) % 2, lengths[0] + 17, lengths[0])
    valid2 = np.where(np.arange(22) % 2, lengths[1] + 19, lengths[1])
    padded = problem(longer1, longer2, 3, static_kernel=kernel, lengths1=valid1, lengths2=valid2)
    derivs = np.repeat(np.linspace(0.5, 1.5, 11), 2)
    values = cpu.CpuBackend().solve(padded, "end", log=True)
    gradients = cpu.CpuBackend().adjoint(padded, "end", derivs, Wrt(True, True, True), log=True)
    np.testing.assert_array_equal(values[::2], in_batch[0])
    for k in (0, 5, 10):
        own = problem(x[k : k + 1], y[k : k + 1], 3, static_kernel=kernel)
        assert cpu.CpuBackend().solve(own, "end", log=True)[0] == in_batch[0][k]
        alone = cpu.CpuBackend().adjoint(own, "end", derivs[2 * k : 2 * k + 1], Wrt(True, True, True), log=True)
        for found, batch, among, length in zip(alone, in_batch[1], gradients, (*lengths, None), strict=True):
            np.testing.assert_array_equal(found[0], batch[k])
            np.testing.assert_array_equal(found[0], among[2 * k][:length])


@pytest.mark.parametrize("name", KERNELS)
def test_dyadic_orders_and_grids_of_static_kernels_that_are_not_linear_are_those_of_the_reference(name, rng):
    x, y = walk(rng, 2, 11, 18), walk(rng, 2, 7, 18)
    for orders in ((1, 0), (0, 4), (4, 1)):
        arguments = problem(x, y, 2, orders, static_kernel=KERNELS[name])
        assert_alike(everything(cpu.CpuBackend(), arguments), everything(RememberedReference(), arguments), 1e-10)
        found, wanted = (backend.solve(arguments, "grid") for backend in (cpu.CpuBackend(), RememberedReference()))
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
        bars = rng.normal(size=found.shape)
        of_grids = [
            backend.adjoint(arguments, "grid", bars, Wrt(True, True, True))
            for backend in (cpu.CpuBackend(), RememberedReference())
        ]
        assert_alike((found, of_grids[0]), (wanted, of_grids[1]), 1e-10)


@pytest.mark.parametrize("name", [name for name in KERNELS if "polynomial" not in name])
def test_radial_kernels_of_far_points_change_no_bit_under_a_translation_that_leaves_differences_exact(name, rng):
    x, y = (np.round(walk(rng, 3, 20, 32) * 2**20) / 2**20 for _ in range(2))
    found, wanted = (
        everything(cpu.CpuBackend(), problem(x + shift, y + shift, 3, static_kernel=KERNELS[name]))
        for shift in (float(2**20), 0.0)
    )
    np.testing.assert_array_equal(found[0], wanted[0])
    for gradient, other in zip(found[1], wanted[1], strict=True):
        np.testing.assert_array_equal(gradient, other)


@pytest.mark.parametrize("size", [0.3, 30.0])
@pytest.mark.parametrize("name", [name for name in KERNELS if "polynomial" not in name])
@pytest.mark.parametrize("isa", cpu.instruction_sets())
def test_a_path_that_hardly_moves_beside_one_of_some_or_of_many_lengths(isa, name, size, rng):
    """Increments from steps: of paths that lie together by sums at every eighth row and column alone."""
    before = cpu.instruction_set()
    cpu.set_instruction_set(isa)
    try:
        x, y = 1e-3 * walk(rng, 3, 21, 19), size * walk(rng, 3, 35, 19)
        for first, second in ((x, y), (y, x)):
            arguments = problem(first, second, 3, static_kernel=KERNELS[name])
            assert_alike(everything(cpu.CpuBackend(), arguments), everything(RememberedReference(), arguments), 2e-10)
    finally:
        cpu.set_instruction_set(before)


@pytest.mark.parametrize("size", ["ordinary", "beside a wide kernel"])
@pytest.mark.parametrize("name", ["rbf", "matern12", "rational_quadratic"])
def test_paths_of_many_channels_in_chunks_of_many_rows(name, size, rng):
    x, y = (SIZES[size] * walk(rng, 2, length, 70) for length in (150, 300))
    arguments = problem(x, y, 2, static_kernel=KERNELS[name])
    assert_alike(everything(cpu.CpuBackend(), arguments), everything(RememberedReference(), arguments), 1e-9)


@pytest.mark.parametrize("apart", [0.0, 0.1])
@pytest.mark.parametrize("alpha", [1e-12, 1e-6, 1e-3, 0.1, 0.3])
def test_near_points_of_a_rational_quadratic_kernel_that_varies_over_short_lengths_keep_their_digits(alpha, apart, rng):
    """With a small alpha the kernel is steep at lengths of sqrt(2 alpha) sigma, far below sigma."""
    x = walk(rng, 2, 24, 19)
    y = x + np.sqrt(alpha) * apart * walk(rng, 2, 24, 19)
    arguments = problem(x, y, 2, static_kernel=branchsig.RationalQuadraticKernel(2.0, alpha=alpha))
    assert_alike(everything(cpu.CpuBackend(), arguments), everything(RememberedReference(), arguments), 1e-11)


@pytest.mark.parametrize("channels", [1, 16])
@pytest.mark.parametrize("size", [1.0, 1e-40, 1e-150])
def test_a_fractional_power_of_a_negative_number_of_any_size_is_not_a_number(size, channels, rng):
    x = size * np.abs(walk(rng, 3, 20, channels))
    arguments = problem(x, -x, 2, static_kernel=branchsig.PolynomialKernel(1.5, gamma=0.0))
    assert np.isnan(cpu.CpuBackend().solve(arguments, "end", log=True)).all()
    assert np.isnan(RememberedReference().solve(arguments, "end", log=True)).all()
