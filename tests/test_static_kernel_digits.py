"""Static kernels keep their digits: wide and narrow ones, paths far from 0 and from each other, parameters of any size.

Errors of logarithms are measured by √(log K(x,x) log K(y,y)), the size of the paths in the eyes of the kernel, for with
a dilation that is what they are multiplied up to 1 by. Expected numbers come from arithmetic of 80 digits.
"""

import functools
import math

import numpy as np
import oracles
import pytest
from cases import gradients_of, problem, walk

import branchsig
from branchsig.backends.reference import ReferenceBackend

EPS = 2.0**-52
MANY = oracles.mpmath_scalars(80)

RADIAL = {
    "rbf": (branchsig.RBFKernel, 2, {}),
    "matern12": (branchsig.Matern12Kernel, 1, {}),
    "matern32": (branchsig.Matern32Kernel, 1, {}),
    "matern52": (branchsig.Matern52Kernel, 1, {}),
    "rational quadratic": (branchsig.RationalQuadraticKernel, 1, {"alpha": 0.7}),
    "rational quadratic, large alpha": (branchsig.RationalQuadraticKernel, 1, {"alpha": 1e12}),
    "rational quadratic, huge alpha": (branchsig.RationalQuadraticKernel, 1, {"alpha": 1e16}),
    "rational quadratic, small alpha": (branchsig.RationalQuadraticKernel, 1, {"alpha": 1e-4}),
}


def oracle(name, parameters):
    formula = "rational_quadratic" if name.startswith("rational") else name
    return oracles.static_kernel(formula, **{key: MANY.number(value) for key, value in parameters.items()})


def exact_log(kappa, x, y, depth, scalars=MANY):
    """log K_depth of two lists of points of many digits, as such a number."""
    return oracles.log_levels(oracles.increments(kappa, x, y, scalars), depth, (0, 0), scalars)[-1][-1][-1]


def exact(kappa, x, y, depth):
    """log K_depth, its gradients with respect to both paths, and √(log K(x,x) log K(y,y))."""
    points = [oracles.points(path, MANY) for path in (x, y)]
    value = exact_log(kappa, *points, depth)
    gradients = []
    for side, path in enumerate((x, y)):
        step = MANY.number(10) ** -25 * MANY.number(float(np.abs(path).max()))
        gradient = np.zeros(path.shape)
        for i, k in np.ndindex(path.shape):
            values = []
            for sign in (1, -1):
                moved = [[list(point) for point in one] for one in points]
                moved[side][i][k] += sign * step
                values.append(exact_log(kappa, *moved, depth))
            gradient[i, k] = float((values[0] - values[1]) / (2 * step))
        gradients.append(gradient)
    own = [abs(float(exact_log(kappa, path, path, depth))) for path in points]
    return value, gradients, math.sqrt(own[0]) * math.sqrt(own[1])


def two_paths(offset, dtype=np.float64):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 2)).cumsum(axis=0) / 2, rng.standard_normal((3, 2)).cumsum(axis=0) / 2
    return x.astype(dtype), (y + offset * np.array([0.6, 0.8])).astype(dtype)


@functools.cache
def radial_case(name, width, offset, dtype):
    """A kernel `width` times as wide, squared, as the paths, which lie `offset` of their sizes apart."""
    kind, power, rest = RADIAL[name]
    parameters = {"sigma": width if power == 2 else math.sqrt(width), **rest}
    x, y = two_paths(offset, dtype)
    return kind(**parameters), x, y, exact(oracle(name, parameters), x, y, 2)


WIDTHS = [1e-3, 1.0, 10.0, 1e3, 1e6, 1e12, 1e16]


@pytest.mark.parametrize("name", RADIAL)
@pytest.mark.parametrize("offset", [0, 3, 1e4])
@pytest.mark.parametrize("width", WIDTHS)
def test_radial_kernels_of_any_width_keep_their_digits(backend, name, width, offset):
    kernel, x, y, (value, gradients, size) = radial_case(name, width, offset, np.float64)
    arguments = problem(x[None], y[None], 2, static_kernel=kernel)
    found = float(backend.solve(arguments, "end", log=True)[0])
    assert abs(float(MANY.number(found) - value)) <= 100 * EPS * size
    pair = gradients_of(backend, arguments, np.ones(1), wrt_log=True, left=True, right=True)
    for mine, its in zip(pair, gradients, strict=True):
        np.testing.assert_allclose(mine[0], its, rtol=0, atol=500 * EPS * (1 + offset) * size)


@pytest.mark.parametrize("name", RADIAL)
@pytest.mark.parametrize("offset", [0, 100])
@pytest.mark.parametrize("width", [1e-3, 1.0, 1e6, 1e12])
def test_radial_kernels_keep_the_digits_of_single_precision(backend, name, width, offset):
    kernel, x, y, (value, gradients, size) = radial_case(name, width, offset, np.float32)
    arguments = problem(x[None], y[None], 2, static_kernel=kernel)
    found = float(backend.solve(arguments, "end", log=True)[0])
    assert abs(found - float(value)) <= 3e-5 * size
    pair = gradients_of(backend, arguments, np.ones(1, np.float32), wrt_log=True, left=True, right=True)
    for mine, its in zip(pair, gradients, strict=True):
        np.testing.assert_allclose(mine[0], its, rtol=0, atol=1e-4 * (1 + offset) * size)


@pytest.mark.parametrize("name", RADIAL)
def test_a_jump_past_a_path_that_hardly_moves_keeps_the_digits_of_the_latter(backend, name):
    """Both steps of one cell need not be small beside the kernel for its increment to be."""
    kind, _, rest = RADIAL[name]
    x = np.array([[-30.0, 0.1], [0.3, 0.2], [0.31, 0.2], [40.0, 1.0]])
    y = np.array([[0.0, 0.0], [1e-9, 2e-9], [3e-9, -1e-9]])
    value, _, size = exact(oracle(name, {"sigma": 1.0, **rest}), x, y, 2)
    for one, other in ((x, y), (y, x)):
        found = backend.solve(
            problem(one[None], other[None], 2, static_kernel=kind(sigma=1.0, **rest)), "end", log=True
        )[0]
        assert abs(float(MANY.number(float(found)) - value)) <= 100 * EPS * size


WIDE = [branchsig.RBFKernel(1e12), branchsig.RBFKernel(1e16), branchsig.Matern52Kernel(1e8)]


@pytest.mark.parametrize("kernel", WIDE, ids=str)
def test_dilation_of_wide_kernels_reaches_its_target(backend, kernel, rng):
    x = walk(rng, 4, 12, 2)
    gram = branchsig.branched_sig_kernel_gram(x, None, 3, normalize="dilation", static_kernel=kernel)
    np.testing.assert_allclose(np.diag(gram), math.e, rtol=1e-8)
    # Wide kernels are those of the linear one, by the part of second order of the distance.
    linear = branchsig.branched_sig_kernel_gram(x, None, 3, normalize="dilation")
    np.testing.assert_allclose(gram, linear, rtol=1e-6)


def test_tiny_paths_under_dilation_are_those_of_the_linear_kernel(backend, rng):
    x = 1e-9 * walk(rng, 4, 12, 2)
    gram = branchsig.branched_sig_kernel_gram(x, None, 3, normalize="dilation", static_kernel=branchsig.RBFKernel(1.0))
    np.testing.assert_allclose(gram, branchsig.branched_sig_kernel_gram(x, None, 3, normalize="dilation"), rtol=1e-8)


@pytest.mark.parametrize("alpha", [1e20, 1e100, 1e300])
def test_a_rational_quadratic_kernel_of_endless_alpha_is_its_limit(backend, alpha, rng):
    x, y = walk(rng, 3, 20, 2), walk(rng, 3, 15, 2)
    kernels = branchsig.RationalQuadraticKernel(0.7, alpha), branchsig.RBFKernel(2 * 0.7**2)
    found, wanted = (branchsig.branched_sig_kernel(x, y, 3, static_kernel=kernel) for kernel in kernels)
    np.testing.assert_allclose(found, wanted, rtol=1e-13)
    found, wanted = (
        branchsig.branched_sig_kernel_backprop(np.ones(3), x, y, 3, static_kernel=kernel)[0] for kernel in kernels
    )
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


@pytest.mark.parametrize("distance", [1e-8, 1e-12, 1e-14, 1e-150])
def test_gradients_of_matern12_keep_the_direction_of_nearly_equal_points(backend, distance):
    """d/dx of exp(−|x − y|) is the unit vector from x to y, times the kernel, however close the points are."""
    direction = np.array([0.6, 0.8])
    y = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, -1.0]])
    x = np.array([[0.0, 0.0], [2.0, 1.0], [3.0, -1.0]])
    x[0] -= distance * direction

    def slope(a, b):
        apart = b - a
        return apart / np.linalg.norm(apart) * np.exp(-np.linalg.norm(apart))

    found = branchsig.branched_sig_kernel_backprop(
        np.array(1.0), x, y, 1, static_kernel=branchsig.Matern12Kernel(1.0), log=True, right_deriv=True
    )
    np.testing.assert_allclose(found[0][0], slope(x[0], y[0]) - slope(x[0], y[2]), rtol=1e-14)
    np.testing.assert_allclose(found[1][0], slope(y[0], x[0]) - slope(y[0], x[2]), rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("sigma", [5e-324, 1e-310, 1e-200, 1e-150, 1e-60, 1e-25])
@pytest.mark.parametrize("kind", dict.fromkeys(kind for kind, _, _ in RADIAL.values()))
def test_of_a_tiny_length_scale_only_equal_points_count(backend, kind, sigma, dtype):
    """κ is 1 for equal points and 0 for others, and does not change where a point is moved."""
    x = np.array([[0.1, 1.0], [0.7, 0.2], [-0.3, 0.5], [2.0, 2.0]], dtype)
    y = np.array([x[1], x[2], [1.0, 1.0], x[0]], dtype)
    g = np.array(oracles.increments(lambda a, b, f: float(a == b), x.tolist(), y.tolist(), oracles.FLOATS))
    wanted = oracles.log_levels(g.tolist(), 2, (0, 0))[-1][-1][-1]
    kernel = kind(sigma)
    value, pullback = branchsig.branched_sig_kernel_vjp(x, y, 2, static_kernel=kernel, log=True)
    np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-6 if dtype == np.float32 else 1e-14)
    for gradient in pullback(np.ones((), dtype)):
        np.testing.assert_allclose(gradient, 0, atol=1e-20)


@pytest.mark.parametrize("sigma", [1e60, 1e150, 1e200, 1e308])
@pytest.mark.parametrize("name", ["rbf", "matern12", "matern32", "matern52", "rational quadratic"])
def test_of_a_huge_length_scale_the_increments_underflow_as_they_should(backend, name, sigma):
    kind, _, rest = RADIAL[name]
    x, y = two_paths(0)
    scalars = oracles.mpmath_scalars(700)
    formula = "rational_quadratic" if name.startswith("rational") else name
    parameters = {key: scalars.number(value) for key, value in {"sigma": sigma, **rest}.items()}
    kappa = oracles.static_kernel(formula, **parameters)
    points = [oracles.points(path, scalars) for path in (x, y)]
    value = float(exact_log(kappa, *points, 1, scalars))
    found = backend.solve(problem(x[None], y[None], 1, static_kernel=kind(sigma, **rest)), "end", log=True)[0]
    np.testing.assert_allclose(found, value, rtol=1e-12, atol=1e-307)


@pytest.mark.parametrize("far", [1e149, 1e155, 1e300])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 3.3])
def test_a_rational_quadratic_kernel_is_zero_at_distances_without_a_square(backend, alpha, far):
    x, y = np.array([[0.0], [1.0]]), np.array([[0.0], [far]])
    kernel = branchsig.RationalQuadraticKernel(1.0, alpha=alpha)
    wanted = -math.expm1(-alpha * math.log1p(0.5 / alpha))  # κ(0, 0) − κ(1, 0)
    value, pullback = branchsig.branched_sig_kernel_vjp(x, y, 1, static_kernel=kernel, log=True)
    np.testing.assert_allclose(value, wanted, rtol=1e-14)
    slope = (1 + 0.5 / alpha) ** (-alpha - 1)  # of κ(1, b) by b at 0, and of −κ(a, 0) by a at 1
    for gradient, expected in zip(pullback(1.0), ([0, slope], [-slope, 0]), strict=True):
        np.testing.assert_allclose(gradient[:, 0], expected, rtol=1e-13, atol=1e-140)
    assert (
        branchsig.branched_sig_kernel(
            far * np.array([[0.0], [1.0]]), far * np.array([[0.3], [0.9]]), 2, static_kernel=kernel
        )
        == 1
    )


@pytest.mark.parametrize("far", [1e155, 1e300])
def test_a_rational_quadratic_kernel_that_hardly_falls_is_not_a_number_at_distances_without_a_square(backend, far):
    x, y = np.array([[0.0], [1.0]]), np.array([[0.0], [far]])
    with pytest.warns(RuntimeWarning):
        value = branchsig.branched_sig_kernel(x, y, 1, static_kernel=branchsig.RationalQuadraticKernel(1.0, alpha=0.01))
    assert np.isnan(value)


# Linear and polynomial kernels


@pytest.mark.parametrize("scale", [1e170, 1e-170, -1e170, 3e-300])
def test_scaled_linear_kernels_scale_the_steps_of_either_path(backend, scale, rng):
    x, y = walk(rng, 3, 20, 2), walk(rng, 3, 40, 2)
    kernel, unit = branchsig.ScaledLinearKernel(scale), 1 / scale
    found = branchsig.branched_sig_kernel(unit * x, unit * y, 3, 1, static_kernel=kernel)
    np.testing.assert_allclose(found, branchsig.branched_sig_kernel(x, y, 3, 1), rtol=1e-12)
    mine, its = (
        branchsig.branched_sig_kernel_backprop(np.ones(3), *paths, 3, 1, static_kernel=static, right_deriv=True)
        for paths, static in (((unit * x, unit * y), kernel), ((x, y), branchsig.LinearKernel()))
    )
    for a, b in zip(mine, its, strict=True):
        np.testing.assert_allclose(unit * a, b, rtol=0, atol=1e-12 * np.abs(b).max())


def test_a_polynomial_kernel_of_degree_one_is_linear_at_any_offset(backend, rng):
    x, y = (np.round(walk(rng, 3, length, 2) * 2**20) / 2**20 for length in (20, 30))
    offset = 2.0**27
    wanted = branchsig.branched_sig_kernel(x, y, 3, static_kernel=branchsig.ScaledLinearKernel(0.7))
    kernel = branchsig.PolynomialKernel(1, gamma=1e9, scale=0.7**2)
    found = branchsig.branched_sig_kernel(x + offset, y + offset, 3, static_kernel=kernel)
    np.testing.assert_allclose(found, wanted, rtol=1e-13)
    mine, its = (
        branchsig.branched_sig_kernel_backprop(np.ones(3), *paths, 3, static_kernel=static)[0]
        for paths, static in (((x + offset, y + offset), kernel), ((x, y), branchsig.ScaledLinearKernel(0.7)))
    )
    np.testing.assert_allclose(mine, its, rtol=0, atol=1e-12 * np.abs(its).max())
    dilated = branchsig.branched_sig_kernel(x + offset, y + offset, 3, static_kernel=kernel, normalize="dilation")
    np.testing.assert_allclose(dilated, branchsig.branched_sig_kernel(x, y, 3, normalize="dilation"), rtol=1e-6)


@pytest.mark.parametrize("degree", [1, 2, 3, 7, 0.5, 2.5, 15])
@pytest.mark.parametrize(("offset", "size"), [(0.0, 1.0), (0.0, 1e-7), (1e3, 1.0), (1e6, 1.0), (1e8, 1.0)])
def test_polynomial_kernels_keep_their_digits_at_any_offset(backend, degree, offset, size):
    x, y = two_paths(0)
    x, y = size * x + offset, size * y + offset
    gamma = 8 * (size**2 + 1e-3)
    # log K(x, x) of about 1 at depth 1
    scale = 1 / (2 * max(degree, 1) * size**2 * (2 * offset**2 + gamma) ** (degree - 1))
    parameters = {"degree": degree, "gamma": gamma, "scale": scale}
    value, gradients, length = exact(oracle("polynomial", parameters), x, y, 2)
    arguments = problem(x[None], y[None], 2, static_kernel=branchsig.PolynomialKernel(**parameters))
    found = float(backend.solve(arguments, "end", log=True)[0])
    assert abs(float(MANY.number(found) - value)) <= 300 * max(degree, 1) * EPS * max(length, abs(float(value)))
    pair = gradients_of(backend, arguments, np.ones(1), wrt_log=True, left=True, right=True)
    # Gradients lose the digits that the points have more than their steps.
    lost = (offset / size) + math.sqrt(gamma) / size + 1
    for mine, its in zip(pair, gradients, strict=True):
        np.testing.assert_allclose(mine[0], its, rtol=0, atol=1e3 * max(degree, 1) * EPS * lost * np.abs(its).max())


@pytest.mark.parametrize("degree", [2.0, 3.0, 64.0, 65.0, 66.0, 1001.0, 2.0**31 + 1, 2.0**40])
def test_whole_degrees_of_any_size_take_negative_bases(backend, degree):
    x = np.array([[-1.0], [0.3], [0.9], [-0.99]])
    y = np.array([[1.0], [0.5], [-0.7]])
    kappa = oracles.static_kernel("polynomial", degree=int(degree), gamma=MANY.number(0), scale=MANY.number(0.5))
    value, gradients, _ = exact(kappa, x, y, 2)
    arguments = problem(x[None], y[None], 2, static_kernel=branchsig.PolynomialKernel(degree, 0.0, 0.5))
    np.testing.assert_allclose(backend.solve(arguments, "end", log=True)[0], float(value), rtol=1e-12, atol=1e-15)
    if degree > 2000:
        return  # the steps of the differences above are no longer small beside 1 / degree
    pair = gradients_of(backend, arguments, np.ones(1), wrt_log=True, left=True, right=True)
    for mine, its in zip(pair, gradients, strict=True):
        np.testing.assert_allclose(mine[0], its, rtol=1e-11, atol=1e-12 * np.abs(its).max())


@pytest.mark.parametrize("gamma", [0.0, -1.0, 2.0])
def test_of_degree_zero_there_are_no_increments(backend, gamma):
    x = np.array([[-1.0], [0.3], [0.9]])
    value, pullback = branchsig.branched_sig_kernel_vjp(
        x, x[::-1].copy(), 2, static_kernel=branchsig.PolynomialKernel(0, gamma, 3.0)
    )
    assert value == 1
    for gradient in pullback(np.array(1.0)):
        np.testing.assert_array_equal(gradient, np.zeros_like(x))


def test_a_fractional_degree_is_not_a_number_for_negative_bases_alone(backend):
    """The base may be 0, from one corner of a cell to all of them."""
    x = np.array([[[0.0], [0.5], [0.0], [2.0]], [[0.0], [0.5], [-0.1], [2.0]], [[0.0], [0.0], [1.0], [0.0]]])
    y = np.array([[0.0], [1.0], [0.0], [0.7]])
    kappa = oracles.static_kernel("polynomial", degree=2.5, gamma=0.0, scale=1.0)
    found = backend.solve(
        problem(x, np.stack([y] * 3), 2, static_kernel=branchsig.PolynomialKernel(2.5, gamma=0.0)), "end", log=True
    )
    assert np.isnan(found[1])
    for k in (0, 2):
        np.testing.assert_allclose(found[k], oracles.log_kernel(x[k], y, 2, kappa=kappa), rtol=1e-13, atol=1e-15)


# The two forms of the core


OF_UNIT_LENGTH = [*(kind(sigma=1.0, **rest) for kind, _, rest in RADIAL.values()), branchsig.PolynomialKernel(3)]
SIZES = [1.0, 0.3, 0.2, 0.15, 0.125, 0.1, 0.03, 1e-3, 1e-6, 5.0, 1e-9, 0.5, 2e4, 1.0, 1e-2, 1.0, 1.0]


@pytest.mark.parametrize("kernel", OF_UNIT_LENGTH, ids=str)
def test_pairs_of_both_forms_are_neighbours_that_do_not_see_each_other(core, kernel, rng):
    """Every pair has the bits that it has alone, and agrees with the reference, on either side of the border."""
    sizes = rng.permutation(SIZES)
    x, y = (sizes[:, None, None] * walk(rng, len(sizes), length, 2, size=1.0) for length in (20, 40))
    if kernel == branchsig.PolynomialKernel(3):
        x, y = (np.where(sizes[:, None, None] > 1, path / 1e5, path) for path in (x, y))
    arguments = problem(x, y, 2, static_kernel=kernel)
    found = core.solve(arguments, "end", log=True)
    np.testing.assert_allclose(found, ReferenceBackend().solve(arguments, "end", log=True), rtol=1e-10, atol=1e-300)
    pair = gradients_of(core, arguments, np.ones(len(x)), wrt_log=True, left=True, right=True)
    expected = gradients_of(ReferenceBackend(), arguments, np.ones(len(x)), wrt_log=True, left=True, right=True)
    for k in range(len(x)):
        alone = problem(x[k : k + 1], y[k : k + 1], 2, static_kernel=kernel)
        assert core.solve(alone, "end", log=True)[0] == found[k]
        own = gradients_of(core, alone, np.ones(1), wrt_log=True, left=True, right=True)
        for mine, its, wanted in zip(own, pair, expected, strict=True):
            np.testing.assert_array_equal(mine[0], its[k])
            np.testing.assert_allclose(mine[0], wanted[k], rtol=0, atol=1e-10 * np.abs(wanted[k]).max())


def test_long_pairs_of_wide_kernels_are_those_of_the_reference(core, rng):
    x, y = walk(rng, 1, 530, 2), walk(rng, 1, 520, 2) + 30.0
    for kernel in (branchsig.RBFKernel(1e9), branchsig.Matern12Kernel(1e5), branchsig.PolynomialKernel(2, 1e4, 1e-4)):
        arguments = problem(x, y, 2, static_kernel=kernel)
        wanted = ReferenceBackend().solve(arguments, "end", log=True)
        np.testing.assert_allclose(core.solve(arguments, "end", log=True), wanted, rtol=1e-10)
        both = core, ReferenceBackend()
        pairs = (gradients_of(one, arguments, np.ones(1), wrt_log=True, left=True, right=True) for one in both)
        for mine, its in zip(*pairs, strict=True):
            np.testing.assert_allclose(mine, its, rtol=0, atol=1e-9 * np.abs(its).max())


@pytest.mark.parametrize("sigma", [1e-100, 1e-154, 1e-170, 1e-210, 1e-300])
@pytest.mark.parametrize("name", [name for name in RADIAL if "small" not in name])
def test_points_far_beyond_a_length_scale_have_nothing_in_common_but_with_themselves(backend, name, sigma):
    # κ is 1 at equal points and 0 at all others: log K of depth 1 is κ(3, 3.5) - κ(3, 0) - κ(0, 3.5) + κ(0, 0) = 1, and
    # the increment of a cell is the number of its corners on the diagonal less that of the others.
    make, power, parameters = RADIAL[name]
    kernel = make(sigma**power if sigma**power else sigma, **parameters)
    x, y = np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [1.0], [3.5]])
    logs = branchsig.branched_sig_kernel(x, y, 1, static_kernel=kernel, log=True, return_grid=True)
    np.testing.assert_allclose(logs, [[0, 0, 0], [0, 2, 1], [0, 1, 1]], rtol=1e-12, atol=0)
    far = np.array([[5.0, 1.0], [7.0, -2.0], [5.0 + sigma, 1.0]])
    log_k = branchsig.branched_sig_kernel(far, far[::-1].copy(), 1, static_kernel=kernel, log=True)
    np.testing.assert_allclose(log_k, 0, atol=1e-12)  # the last point is the first one in floats
