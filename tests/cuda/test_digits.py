"""Digits on CUDA: increments of static kernels that hardly change along the paths, and values that have none left.

The numbers to reach come from arithmetic of 80 digits, from exact fractions or from closed forms.
"""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import oracles
import pytest
from cases import QuarticKernel, gradients_of, problem, quartic, relative, relative_to_path, using, walk
from cuda_cases import BOTH, RULES

import branchsig
from branchsig.static_kernels import DilatedKernel

MP = oracles.mpmath_scalars(80)


def exact_increments(kappa, x, y, factor=1.0):
    g = oracles.increments(kappa, oracles.points(x, MP), oracles.points(y, MP), MP)
    return [[value * MP.number(factor) for value in row] for row in g]


def exact_log(kappa, x, y, depth, factor=1.0):
    return oracles.log_levels(exact_increments(kappa, x, y, factor), depth, (0, 0), MP)[-1][-1][-1]


def exact_gradient(kappa, x, y, depth, factor=1.0):
    """d log K / d x by differences, whose error is about the square of the step."""
    step = MP.number(1e-28)
    found = np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        values = []
        for sign in (1, -1):
            points = oracles.points(x, MP)
            points[index[0]][index[1]] += sign * step
            g = oracles.increments(kappa, points, oracles.points(y, MP), MP)
            g = [[value * MP.number(factor) for value in row] for row in g]
            values.append(oracles.log_levels(g, depth, (0, 0), MP)[-1][-1][-1])
        found[index] = float((values[0] - values[1]) / (2 * step))
    return found


def wide(name, size):
    """A static kernel that is `size` times as wide as paths of about 1, and its formula."""
    if name == "polynomial":
        parameters = {"degree": 3.0, "gamma": size**2, "scale": 1.0}
        return branchsig.PolynomialKernel(**parameters), oracles.static_kernel(name, **parameters)
    parameters = {"sigma": size**2 if name == "rbf" else size}
    if name.startswith("rational"):
        parameters["alpha"] = 1e16 if name.endswith("of large alpha") else 0.7
        name = "rational_quadratic"
    kinds = {
        "rbf": branchsig.RBFKernel,
        "matern12": branchsig.Matern12Kernel,
        "matern32": branchsig.Matern32Kernel,
        "matern52": branchsig.Matern52Kernel,
        "rational_quadratic": branchsig.RationalQuadraticKernel,
    }
    return kinds[name](**parameters), oracles.static_kernel(name, **parameters)


WIDE = [
    "rbf",
    "matern12",
    "matern32",
    "matern52",
    "rational quadratic",
    "rational quadratic of large alpha",
    "polynomial",
]


def dilated(kernel, x, y, factor):
    """A problem whose increments are multiplied by factor**2."""
    paths = []
    for path in (x, y):
        made = np.concatenate([path, np.zeros_like(path[..., :1])], axis=-1)
        made[:, 0, -1] = factor
        paths.append(made)
    return problem(*paths, 2, static_kernel=DilatedKernel(kernel))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", WIDE)
def test_static_kernels_much_wider_than_the_paths_keep_their_digits(backend, name, dtype, rng):
    for size in (2.0, 1e3, 1e8):
        kernel, kappa = wide(name, size)
        x = walk(rng, 1, 5, 2, dtype=dtype)
        y = x.copy()  # the points coincide, where the distance is not smooth
        y[:, 3:] += dtype(0.25)
        total = sum(abs(value) for row in exact_increments(kappa, x[0], y[0]) for value in row)
        factor = float(dtype(1.0 / math.sqrt(total)))
        found = float(backend.solve(dilated(kernel, x, y, factor), "end", log=True)[0])
        assert found == pytest.approx(
            float(exact_log(kappa, x[0], y[0], 2, factor**2)), rel=1e-10 if dtype == np.float64 else 3e-5
        )


@pytest.mark.parametrize("name", ["rbf", "matern12", "matern32", "rational quadratic", "polynomial"])
def test_gradients_of_wide_static_kernels_keep_their_digits(backend, name, rng):
    kernel, kappa = wide(name, 1e7)
    x, y = walk(rng, 1, 4, 2), walk(rng, 1, 4, 2)
    total = sum(abs(value) for row in exact_increments(kappa, x[0], y[0]) for value in row)
    factor = float(1.0 / math.sqrt(total))
    (found, _) = gradients_of(backend, dilated(kernel, x, y, factor), np.ones(1), wrt_log=True, **BOTH)
    wanted = exact_gradient(kappa, x[0], y[0], 2, factor**2)
    assert relative_to_path(found[:, :, :2], wanted[None]) < 1e-9


def test_nearly_equal_points_have_the_gradient_of_the_matern_kernel(backend):
    kernel, kappa = wide("matern12", 1.0)
    for gap in (1e-8, 1e-12, 1e-14):
        x, y = np.array([[[0.0], [0.5], [1.0]]]), np.array([[[0.25], [0.5 + gap], [1.25]]])
        found = gradients_of(backend, problem(x, y, 1, static_kernel=kernel), np.ones(1), wrt_log=True, **BOTH)[0]
        assert relative_to_path(found, exact_gradient(kappa, x[0], y[0], 1)[None]) < 1e-9


@pytest.mark.parametrize("name", ["rbf", "matern32"])
@pytest.mark.parametrize("far", [1e16, 1e130])
@pytest.mark.parametrize("side", ["first", "second"])
def test_a_point_where_a_radial_kernel_vanishes_takes_no_digits(backend, name, far, side, rng):
    kernel, kappa = wide(name, 1.0)
    x, y = 0.3 * rng.standard_normal((1, 6, 2)), 0.003 * rng.standard_normal((1, 5, 2))
    (x if side == "first" else y)[0, 3, 0] = far
    scalars = oracles.mpmath_scalars(320)
    g = oracles.increments(kappa, oracles.points(x[0], scalars), oracles.points(y[0], scalars), scalars)
    exact = float(oracles.log_levels(g, 2, (0, 0), scalars)[-1][-1][-1])
    found = backend.solve(problem(x, y, 2, static_kernel=kernel), "end", log=True)[0]
    assert abs(float(found) / exact - 1) < 1e-11


@pytest.mark.parametrize("degree", [0.0, 1.0, 2.0, 65.0, 66.0, 101.0])
def test_polynomial_kernels_of_whole_degrees_take_negative_bases(backend, degree, rng):
    x = np.array([[[-1.0], [0.3], [0.9]]])
    y = np.array([[[0.9], [-1.0], [0.5]]])
    kernel = branchsig.PolynomialKernel(degree, 0.0, 0.7)
    kappa = oracles.static_kernel("polynomial", degree=int(degree), gamma=0.0, scale=0.7)
    arguments = problem(x, y, 2, static_kernel=kernel)
    wanted = float(exact_log(kappa, x[0], y[0], 2)) if degree else 0.0
    assert float(backend.solve(arguments, "end", log=True)[0]) == pytest.approx(wanted, rel=1e-12)
    gradient = gradients_of(backend, arguments, np.ones(1), wrt_log=True, **BOTH)[0]
    wanted = exact_gradient(kappa, x[0], y[0], 2)[None] if degree else np.zeros((1, 3, 1))
    assert relative_to_path(gradient, wanted) < 1e-11


@pytest.mark.parametrize("degree", [1.0, 2.0, 2.5])
def test_polynomial_kernels_keep_the_digits_of_paths_far_from_the_origin(backend, degree):
    x = 1e8 + np.array([[[0.0], [0.5], [1.25]]])
    y = 1e8 + np.array([[[0.0], [1.5], [0.75]]])
    scale = 1e8 ** (2 - 2 * degree)
    kernel = branchsig.PolynomialKernel(degree, 1.0, scale)
    kappa = oracles.static_kernel("polynomial", degree=degree, gamma=1.0, scale=scale)
    found = float(backend.solve(problem(x, y, 2, static_kernel=kernel), "end", log=True)[0])
    assert found == pytest.approx(float(exact_log(kappa, x[0], y[0], 2)), rel=1e-9)
    if degree == 1.0:
        same = problem(x - 1e8, y - 1e8, 2)
        assert found == pytest.approx(float(backend.solve(same, "end", log=True)[0]), rel=1e-14)


@pytest.mark.parametrize("degree", [0.5, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("offset", [2.0**10, 2.0**12, 2.0**30])
def test_polynomial_kernels_and_their_gradients_keep_their_digits_far_from_the_origin(backend, degree, offset):
    x = offset + np.array([[[0.0], [0.5], [1.25]]])
    y = offset + np.array([[[0.0], [1.5], [0.75]]])
    scale = 1 / (2 * (2 * offset**2) ** (degree - 1))  # log K of about 1
    kappa = oracles.static_kernel("polynomial", degree=degree, gamma=1.0, scale=scale)
    arguments = problem(x, y, 2, static_kernel=branchsig.PolynomialKernel(degree, 1.0, scale))
    found = float(backend.solve(arguments, "end", log=True)[0])
    assert found == pytest.approx(float(exact_log(kappa, x[0], y[0], 2)), rel=1e-12)
    # Gradients lose the digits that the points have more than their steps.
    (gradient, _) = gradients_of(backend, arguments, np.ones(1), wrt_log=True, **BOTH)
    assert relative_to_path(gradient, exact_gradient(kappa, x[0], y[0], 2)[None]) < 1e-14 * offset


@pytest.mark.parametrize("sigma", [1e-210, 1e-300, 1e-320])
@pytest.mark.parametrize(
    "kind", ["RBFKernel", "Matern12Kernel", "Matern32Kernel", "Matern52Kernel", "RationalQuadraticKernel"]
)
def test_radial_kernels_much_narrower_than_the_steps_are_one_where_points_coincide(backend, kind, sigma):
    x = np.array([[[0.0], [1.0], [3.0]]])
    kernel = getattr(branchsig, kind)(sigma, *([400.0] if kind == "RationalQuadraticKernel" else []))
    arguments = problem(x, x + np.array([0.0, 0.0, 0.5])[:, None], 1, static_kernel=kernel)
    # kappa is 1 at (0, 0) and (1, 1), and 0 elsewhere
    assert float(backend.solve(arguments, "end", log=True)[0]) == 1.0
    for gradient in gradients_of(backend, arguments, np.ones(1), wrt_log=True, **BOTH):
        assert np.all(gradient == 0.0)


@pytest.mark.parametrize("scale", [1e170, 1e-170])
def test_scaled_linear_kernels_scale_the_steps(backend, scale, rng):
    x, y = walk(rng, 1, 5, 2), walk(rng, 1, 5, 2)
    arguments = problem(x / scale, y / scale, 2, static_kernel=branchsig.ScaledLinearKernel(scale))
    assert relative(backend.solve(arguments, "end", log=True), backend.solve(problem(x, y, 2), "end", log=True)) < 1e-13


def returning(rng, count, dtype=np.float64):
    """Paths that go out and come back, on their own way or nearly, and partners for them."""
    out = rng.standard_normal((count, 6, 1)).cumsum(axis=1) * np.geomspace(0.05, 3.0, count)[:, None, None]
    x = np.concatenate([out, out[:, -2::-1]], axis=1)
    x[1::2] += 0.01 * rng.standard_normal((count // 2, 11, 1))
    return x.astype(dtype), (0.6 * rng.standard_normal((count, 7, 1)).cumsum(axis=1)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("depth", [2, 3])
def test_values_of_paths_that_return_are_right_or_nan(backend, depth, dtype, rng):
    x, y = returning(rng, 16, dtype)
    x[-1, :, 0] = [0.0, 1.35, *7 * [2.25], 1.35, 0.0]  # 1 at every depth, and about 1e37 on the way
    y[-1, :, 0] = 6 * [0.0] + [2.6]
    wanted = np.array([float(oracles.log_kernel(a, b, depth, scalars=MP)) for a, b in zip(x, y, strict=True)])
    arguments = problem(x, y, depth)
    logs, kernels = backend.solve(arguments, "end", log=True), backend.solve(arguments, "end")
    finite = np.isfinite(logs)
    assert np.all(np.abs(logs[finite] - wanted[finite]) < 3e-4 * np.maximum(1.0, np.abs(wanted[finite])))
    finite = np.isfinite(kernels) & (kernels > 0)
    assert np.all(np.abs(np.log(kernels[finite]) - wanted[finite]) < 3e-4)
    assert np.isfinite(logs[:5]).all()
    assert np.isnan(logs[-1]) == (depth == 3)
    for wrt_log, values in ((True, logs), (False, kernels)):
        for gradient in gradients_of(backend, arguments, np.ones(16, dtype), wrt_log=wrt_log, **BOTH):
            np.testing.assert_array_equal(np.isnan(gradient).all(axis=(1, 2)), ~np.isfinite(values))
        for gradient in gradients_of(backend, arguments, np.zeros(16, dtype), wrt_log=wrt_log, **BOTH):
            assert np.all(gradient == 0.0)


@pytest.mark.parametrize("log", [False, True])
def test_nodes_of_grids_of_paths_that_return_are_right_or_nan(backend, log, rng):
    x, y = returning(rng, 6)
    arguments = problem(x, y, 3)
    linear = oracles.static_kernel("linear")
    levels = [oracles.log_levels(exact_increments(linear, a, b), 3, (0, 0), MP) for a, b in zip(x, y, strict=True)]
    found = backend.solve(arguments, "grid", log=log)
    wanted = np.array([[[float(value) for value in row] for row in pair[-1]] for pair in levels])
    logs = found if log else np.log(np.where(found > 0, found, 1.0))
    finite = np.isfinite(logs) & (log | (found > 1e-300))
    assert np.all(np.abs(logs[finite] - wanted[finite]) < 2e-4 * np.maximum(1.0, np.abs(wanted[finite])))
    assert finite[:2].all()
    assert np.isnan(found).any()
    gone = np.isnan(found).any(axis=(1, 2))
    for gradient in gradients_of(backend, arguments, np.ones_like(found), wrt_log=log, **BOTH):
        assert np.isnan(gradient[gone]).all()


def test_values_that_others_are_subtracted_from_need_absolute_digits(backend):
    # log K_2 is about 1.4e13, and its error about 1e-2.
    x = np.array([[[0.0], [5.5], [5.6]]])
    arguments = problem(x, x, 2)
    wanted = float(oracles.log_kernel(x[0], x[0], 2, scalars=MP))
    assert 1e13 < wanted < 1e15
    assert float(backend.solve(arguments, "end", log=True)[0]) == pytest.approx(wanted, rel=1e-12)
    assert backend.solve(arguments, "end")[0] == math.inf
    assert np.isnan(backend.solve(dataclasses.replace(arguments, purpose="difference"), "end", log=True))[0]


def test_logarithms_for_quotients_may_be_off_by_a_little_of_their_size(backend):
    found, logs = [], []
    for step in (1.5, 3.4, 5.5, 30.0):
        x = np.array([[[0.0], [step], [step + 0.1]]])
        logs.append(float(oracles.log_kernel(x[0], x[0], 2, scalars=MP)))
        arguments = dataclasses.replace(problem(x, x, 2), purpose="quotient")
        found.append(float(backend.solve(arguments, "end", log=True)[0]))
    # The last one is infinite. Of 1.4e13 the error is about 1e-2, and 1e-10 of it is allowed.
    assert logs[0] < 100 < logs[1] < 1e6 < 1e13 < logs[2] < 1e15
    np.testing.assert_allclose(found, logs, rtol=1e-12)


def test_a_unit_kernel_of_large_logarithms_is_0_for_certain_or_1(backend):
    x = np.array([[[0.0], [5.5], [5.6]], [[0.0], [5.3], [5.6]]])
    with using(backend):
        found = branchsig.branched_sig_kernel_gram(x, None, 2, normalize=True)
    np.testing.assert_array_equal(found, np.eye(2))


def exact_parts(x, y, order):
    """k_0..k_order at every node by the trapezoid rule, in fractions."""
    g = [[sum(Fraction(float(p)) * Fraction(float(q)) for p, q in zip(a, b, strict=True)) for b in np.diff(y, axis=0)]
         for a in np.diff(x, axis=0)]  # fmt: skip
    rows, columns = len(g) + 1, len(g[0]) + 1
    k = [[[Fraction(1)] * columns for _ in range(rows)]]
    u = []
    for n in range(1, order + 1):
        level = [[Fraction(0)] * columns for _ in range(rows)]
        for r in range(1, rows):
            along = Fraction(0)
            for c in range(1, columns):
                below = k[n - 1]
                along += g[r - 1][c - 1] * (below[r - 1][c - 1] + below[r - 1][c] + below[r][c - 1] + below[r][c]) / 4
                level[r][c] = level[r - 1][c] + along
        u.append(level)
        k.append([[sum(j * u[j - 1][r][c] * k[n - j][r][c] for j in range(1, n + 1)) / n for c in range(columns)]
                  for r in range(rows)])  # fmt: skip
    return np.moveaxis(np.array([[[float(value) for value in row] for row in part] for part in k]), 0, -1)


@pytest.mark.parametrize("grid", [False, True])
def test_parts_of_paths_that_return_are_right_or_nan(backend, grid, rng):
    x, y = returning(rng, 6)
    scale = np.array([1.0, 1.0, 1.0, 1e3, 1e7, 1e5])[:, None, None]
    arguments = problem(x * scale, y, 3, order=3)
    found = backend.solve(arguments, "grid" if grid else "end")
    wanted = np.array([exact_parts(a, b, 3) for a, b in zip(x * scale, y, strict=True)])
    wanted = wanted if grid else wanted[:, -1, -1]
    finite = np.isfinite(found)
    assert np.all(np.abs(found[finite] - wanted[finite]) < 2e-4 * np.maximum(1.0, np.abs(wanted[finite])))
    assert np.isfinite(found[:3]).all()
    assert np.isnan(found[4]).any()
    gone = ~np.isfinite(found).all(axis=tuple(range(1, found.ndim)))
    for gradient in gradients_of(backend, arguments, np.ones_like(found), wrt_log=False, **BOTH):
        np.testing.assert_array_equal(np.isnan(gradient).all(axis=(1, 2)), gone)


def test_increments_of_other_kernels_count_too(backend, rng):
    x, y = returning(rng, 6)
    arguments = problem(2 * x, y, 3, static_kernel=QuarticKernel())
    wanted = np.array([float(exact_log(quartic, a, b, 3)) for a, b in zip(2 * x, y, strict=True)])
    found = backend.solve(arguments, "end", log=True)
    finite = np.isfinite(found)
    assert np.all(np.abs(found - wanted)[finite] < 1e-4 * np.maximum(1.0, np.abs(wanted))[finite])
    assert np.isnan(found).any()


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    ("rule", "depth", "nodes", "kernel"),
    [
        ("trapezoid", 1, None, None),
        ("trapezoid", 3, None, None),
        ("trapezoid", 3, None, branchsig.RBFKernel(0.9)),
        ("trapezoid", 2, None, QuarticKernel()),
        ("lobatto2", 2, None, None),
        ("trapezoid", math.inf, None, None),
        ("trapezoid", 3, 2, None),
    ],
)
def test_the_diagonal_has_the_kernels_of_all_prefixes(backend, reference, rule, depth, nodes, kernel, order, rng):
    x = walk(rng, 3, 40, 2, size=0.5)
    options = {} if rule == "trapezoid" else {"quadrature": RULES[rule]}
    for lengths in (None, np.array([40, 1, 7])):
        arguments = problem(x, x, depth, (order, order), static_kernel=kernel, order=nodes, lengths1=lengths, **options)
        arguments = dataclasses.replace(arguments, lengths2=lengths)
        found = backend.solve(arguments, "prefixes")
        grid = reference.solve(arguments, "grid", log=True)
        at = np.arange(40) << order
        np.testing.assert_allclose(found, grid[:, at, at], rtol=1e-11, atol=1e-13)
