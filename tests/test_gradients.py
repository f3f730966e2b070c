"""Gradients of every function through every option, against complex steps through the scalar recursion.

The oracle differentiates one pair at a time, exactly up to rounding; what a function returns for a batch, a Gram matrix
or one stack of paths with itself is put together from pairs here.
"""

import itertools

import numpy as np
import oracles
import pytest
from cases import STATIC_KERNELS, QuarticKernel, gradients_of, problem, quartic, relative_to_path, static_kernel, walk
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import branchsig

TRANSFORMS = [
    {},
    {"time_aug": True},
    {"time_aug": True, "end_time": 0.3},
    {"lead_lag": True},
    {"time_aug": True, "lead_lag": True, "end_time": 0.4},
]


def pair_value(x, y, weight, depth, orders, kappa, transform, normalize):
    """weight * kernel of two lists of points of complex numbers; for an array of weights the sum over the grid."""
    x, y = (oracles.transformed(path, **transform) for path in (x, y))

    def logarithms(a, b, orders):
        return oracles.log_levels(oracles.increments(kappa, a, b, oracles.COMPLEX), depth, orders, oracles.COMPLEX)[-1]

    grid = logarithms(x, y, orders)
    if np.ndim(weight):
        return sum(w * np.exp(u) for row, us in zip(weight, grid, strict=True) for w, u in zip(row, us, strict=True))
    norms = [logarithms(p, p, (order, order))[-1][-1] for p, order in zip((x, y), orders, strict=True) if normalize]
    norm = sum(norms) / 2
    return weight * np.exp(grid[-1][-1] - norm)


def wanted_gradients(form, x, y, derivs, depth, orders, kappa, transform=None, normalize=False):
    """(d/d path1, d/d path2) for three-dimensional stacks of paths, summed over the pairs of the form."""
    left, right = np.zeros_like(x), np.zeros_like(y)
    pairs = [(i, i) for i in range(len(x))] if form == "paired" else itertools.product(range(len(x)), range(len(y)))
    rest = depth, orders, kappa, transform or {}, normalize
    for i, j in pairs:
        weight = derivs[i] if form == "paired" else derivs[i, j]
        fixed1, fixed2 = oracles.points(x[i], oracles.COMPLEX), oracles.points(y[j], oracles.COMPLEX)
        left[i] += oracles.gradient(lambda p, w=weight, q=fixed2: pair_value(p, q, w, *rest), x[i])
        right[j] += oracles.gradient(lambda q, w=weight, p=fixed1: pair_value(p, q, w, *rest), y[j])
    return left, right


def check(found, wanted, tolerance=1e-12):
    for mine, its in zip(found, wanted, strict=True):
        assert relative_to_path(mine, its) < tolerance


@pytest.mark.parametrize("name", STATIC_KERNELS)
@pytest.mark.parametrize(("depth", "orders"), [(1, (0, 0)), (2, (0, 1)), (4, (1, 0))])
def test_gradients_of_pairs(backend, name, depth, orders, rng):
    x, y, derivs = walk(rng, 2, 4, 2), walk(rng, 2, 5, 2), rng.standard_normal(2)
    kernel, kappa = static_kernel(name)
    found = branchsig.branched_sig_kernel_backprop(derivs, x, y, depth, orders, static_kernel=kernel, right_deriv=True)
    check(found, wanted_gradients("paired", x, y, derivs, depth, orders, kappa))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_gradients_through_transforms_and_normalisation(backend, transform, normalize, name, rng):
    x, y, derivs = walk(rng, 2, 3, 2, size=0.5), walk(rng, 2, 4, 2, size=0.5), rng.standard_normal(2)
    kernel, kappa = static_kernel(name)
    found = branchsig.branched_sig_kernel_backprop(
        derivs, x, y, 3, 0, static_kernel=kernel, right_deriv=True, normalize=normalize, **transform
    )
    check(found, wanted_gradients("paired", x, y, derivs, 3, (0, 0), kappa, transform, normalize))


@pytest.mark.parametrize("orders", [(0, 0), (1, 2)])
@pytest.mark.parametrize("with_stack", [False, True])
@pytest.mark.parametrize("name", ["linear", "matern52"])
def test_gradients_of_grids_with_and_without_a_stack(backend, orders, with_stack, name, rng):
    x, y = walk(rng, 2, 4, 2), walk(rng, 2, 3, 2)
    kernel, kappa = static_kernel(name)
    options = {"static_kernel": kernel, "time_aug": True, "end_time": 0.5}
    derivs = rng.standard_normal(branchsig.branched_sig_kernel(x, y, 3, orders, return_grid=True, **options).shape)
    stack = branchsig.branched_sig_kernel_stack(x, y, 3, orders, **options) if with_stack else None
    found = branchsig.branched_sig_kernel_backprop(
        derivs, x, y, 3, orders, right_deriv=True, k_stack=stack, return_grid=True, **options
    )
    wanted = wanted_gradients("paired", x, y, derivs, 3, orders, kappa, {"time_aug": True, "end_time": 0.5})
    check(found, wanted)


@pytest.mark.parametrize("orders", [(0, 0), (2, 1)])
def test_gradients_of_values_with_a_stack(backend, orders, rng):
    x, y, derivs = walk(rng, 3, 4, 2), walk(rng, 3, 3, 2), rng.standard_normal(3)
    stack = branchsig.branched_sig_kernel_stack(x, y, 3, orders)
    found = branchsig.branched_sig_kernel_backprop(derivs, x, y, 3, orders, right_deriv=True, k_stack=stack)
    check(found, wanted_gradients("paired", x, y, derivs, 3, orders, oracles.static_kernel("linear")))


def test_a_stack_takes_the_place_of_the_recursion(backend, rng):
    # Of a depth-two kernel only K_1 and K_2 enter: with K_1 = 1 on the grid the gradient is that of K_2 * depth 1.
    x, y = walk(rng, 1, 5, 2), walk(rng, 1, 4, 2)
    stack = branchsig.branched_sig_kernel_stack(x, y, 1)
    value = stack[0, -1, -1, -1]
    deeper = np.concatenate([stack[:, :1], np.ones_like(stack[:, :1]), stack[:, 1:]], axis=1)
    found, _ = branchsig.branched_sig_kernel_backprop(np.ones(1), x, y, 2, k_stack=deeper)
    # d log K_2 = sum over the cells of dg * mean K_1 + g * mean dK_1, and dK_1 = K_1 * (integral of dg up to the node).
    g = np.diff(x[0], axis=0) @ np.diff(y[0], axis=0).T
    gbar = np.ones_like(g)
    for (r, c), _ in np.ndenumerate(g):
        corners = [(r + a, c + b) for a in (0, 1) for b in (0, 1)]
        for row, column in corners:
            gbar[:row, :column] += g[r, c] / 4
    path_bar = np.zeros_like(x[0])
    weights = gbar @ np.diff(y[0], axis=0) * value
    path_bar[1:] += weights
    path_bar[:-1] -= weights
    assert relative_to_path(found, path_bar[None]) < 1e-13


def test_a_static_kernel_of_the_users_own_is_differentiated_by_its_own_methods(backend, rng):
    x, y, derivs = walk(rng, 3, 4, 2), walk(rng, 2, 5, 2), rng.standard_normal((3, 2))
    found = branchsig.branched_sig_kernel_gram_backprop(
        derivs, x, y, 3, (0, 1), static_kernel=QuarticKernel(), right_deriv=True
    )
    check(found, wanted_gradients("gram", x, y, derivs, 3, (0, 1), quartic))


def test_single_paths_give_gradients_of_their_own_shape(backend, rng):
    x, y = walk(rng, 4, 2), walk(rng, 5, 2)
    wanted = wanted_gradients("paired", x[None], y[None], np.ones(1), 3, (0, 0), oracles.static_kernel("linear"))
    found = branchsig.branched_sig_kernel_backprop(np.asarray(1.0), x, y, 3, right_deriv=True)
    check([a[None] for a in found], wanted)
    found = branchsig.branched_sig_kernel_gram_backprop(np.asarray(1.0), x, y, 3, right_deriv=True)
    check([a[None] for a in found], wanted)


@pytest.mark.parametrize("function", ["paired", "gram", "symmetric"])
def test_sides_that_nobody_asks_for_are_none(backend, function, rng):
    x = walk(rng, 3, 4, 2)
    y = x if function == "symmetric" else walk(rng, 3, 5, 2)
    name = "branched_sig_kernel_backprop" if function == "paired" else "branched_sig_kernel_gram_backprop"
    derivs = rng.standard_normal(3 if function == "paired" else (3, 3))
    left, right = getattr(branchsig, name)(derivs, x, y, 3, right_deriv=True)
    alone, nothing = getattr(branchsig, name)(derivs, x, y, 3)
    assert nothing is None
    assert relative_to_path(alone, left) < 1e-13
    nothing, alone = getattr(branchsig, name)(derivs, x, y, 3, left_deriv=False, right_deriv=True)
    assert nothing is None
    assert relative_to_path(alone, right) < 1e-13
    assert getattr(branchsig, name)(derivs, x, y, 3, left_deriv=False) == (None, None)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS[::4])
@pytest.mark.parametrize("name", ["linear", "matern12", "polynomial"])
def test_gradients_of_gram_matrices(backend, normalize, transform, name, rng):
    x, y, derivs = walk(rng, 3, 3, 2, size=0.5), walk(rng, 2, 4, 2, size=0.5), rng.standard_normal((3, 2))
    kernel, kappa = static_kernel(name)
    found = branchsig.branched_sig_kernel_gram_backprop(
        derivs, x, y, 3, static_kernel=kernel, right_deriv=True, normalize=normalize, **transform
    )
    check(found, wanted_gradients("gram", x, y, derivs, 3, (0, 0), kappa, transform, normalize))


@pytest.mark.parametrize("with_stack", [False, True])
@pytest.mark.parametrize("on_grid", [False, True])
def test_gradients_of_gram_matrices_with_grids_and_stacks(backend, with_stack, on_grid, rng):
    x, y = walk(rng, 2, 3, 2), walk(rng, 3, 4, 2)
    derivs = rng.standard_normal((2, 3, 5, 4) if on_grid else (2, 3))
    everything = [np.ascontiguousarray(a) for a in (np.repeat(x, 3, axis=0), np.tile(y, (2, 1, 1)))]
    stack = branchsig.branched_sig_kernel_stack(*everything, 3, (1, 0)).reshape(2, 3, 4, 5, 4) if with_stack else None
    found = branchsig.branched_sig_kernel_gram_backprop(
        derivs, x, y, 3, (1, 0), right_deriv=True, k_stack=stack, return_grid=on_grid
    )
    check(found, wanted_gradients("gram", x, y, derivs, 3, (1, 0), oracles.static_kernel("linear")))


SMOOTH = ["linear", "rbf", "matern32"]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("orders", [(0, 0), (1, 1), (1, 0)])
@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_of_a_stack_of_paths_with_itself(backend, normalize, orders, name, rng):
    x, derivs = walk(rng, 3, 4, 2, size=0.6), rng.standard_normal((3, 3))
    kernel, kappa = static_kernel(name)
    left, right = wanted_gradients("gram", x, x, derivs, 3, orders, kappa, normalize=normalize)
    options = {"static_kernel": kernel, "normalize": normalize}
    found = branchsig.branched_sig_kernel_gram_backprop(derivs, x, x, 3, orders, right_deriv=True, **options)
    check(found, (left, right))
    found = branchsig.branched_sig_kernel_gram_backprop(
        derivs, x, x, 3, orders, left_deriv=False, right_deriv=True, **options
    )
    check(found[1:], (right,))
    total, nothing = branchsig.branched_sig_kernel_gram_backprop(derivs, x, None, 3, orders, **options)
    assert nothing is None
    check([total], [left + right])


@pytest.mark.parametrize("other", ["none", "itself"])
def test_gradients_of_a_stack_of_paths_with_itself_on_grids(backend, other, rng):
    x, derivs = walk(rng, 2, 3, 2), rng.standard_normal((2, 2, 3, 3))
    left, right = wanted_gradients("gram", x, x, derivs, 3, (0, 0), oracles.static_kernel("linear"))
    y = None if other == "none" else x
    found = branchsig.branched_sig_kernel_gram_backprop(
        derivs, x, y, 3, right_deriv=y is x, return_grid=True, time_aug=False
    )
    if y is x:
        check(found, (left, right))
    else:
        check(found[:1], (left + right,))


def test_matern_12_takes_the_symmetric_derivative_where_points_coincide(backend, rng):
    # |x - y| has a kink at x = y: the central difference there is the mean of both sides, which is 0.
    x, derivs = walk(rng, 2, 4, 2, size=0.3), rng.standard_normal((2, 2))
    kernel, kappa = static_kernel("matern12")
    found, _ = branchsig.branched_sig_kernel_gram_backprop(derivs, x, x, 3, static_kernel=kernel)
    step, wanted = 1e-7, np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        for sign in (1, -1):
            shifted = x[index[0]].copy()
            shifted[index[1:]] += sign * step
            values = [np.exp(oracles.log_kernel(shifted, other, 3, kappa=kappa)) for other in x]
            wanted[index] += sign * np.dot(derivs[index[0]], values) / (2 * step)
    assert relative_to_path(found, wanted) < 1e-5


@pytest.mark.parametrize("name", STATIC_KERNELS)
def test_no_gradient_is_nan_where_points_coincide(backend, name, rng):
    x = np.repeat(walk(rng, 3, 3, 2, size=0.4), 2, axis=1)
    kernel, _ = static_kernel(name)
    for gradient in branchsig.branched_sig_kernel_backprop(
        np.ones(3), x, x.copy(), 4, 1, static_kernel=kernel, right_deriv=True
    ):
        assert np.all(np.isfinite(gradient))
    constant = np.zeros((2, 4, 2))
    for gradient in branchsig.branched_sig_kernel_gram_backprop(
        np.ones((2, 2)), constant, constant, 3, static_kernel=kernel
    ):
        assert gradient is None or np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    "options", [{}, {"normalize": True}, {"return_grid": True}, {"time_aug": True, "lead_lag": True}]
)
@pytest.mark.parametrize("form", ["paired", "gram", "itself", "none"])
def test_pullbacks_are_the_gradients_of_the_values(backend, options, form, rng):
    x, y = walk(rng, 2, 3, 2, size=0.5), walk(rng, 2, 4, 2, size=0.5)
    y = {"itself": x, "none": None}.get(form, y)
    vjp = branchsig.branched_sig_kernel_vjp if form == "paired" else branchsig.branched_sig_kernel_gram_vjp
    forward = branchsig.branched_sig_kernel if form == "paired" else branchsig.branched_sig_kernel_gram
    value, pullback = vjp(x, y, 3, 0, **options)
    np.testing.assert_array_equal(value, forward(x, y, 3, 0, **options))
    derivs = rng.standard_normal(value.shape)
    transform = {key: value for key, value in options.items() if key in ("time_aug", "lead_lag")}
    left, right = wanted_gradients(
        "paired" if form == "paired" else "gram",
        x,
        x if y is None else y,
        derivs,
        3,
        (0, 0),
        oracles.static_kernel("linear"),
        transform,
        options.get("normalize", False),
    )
    for _ in range(2):  # a pullback may be called again
        found = pullback(derivs)
        if form == "none":
            assert found[1] is None
            check(found[:1], (left + right,))
        else:
            check(found, (left, right))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("length", [1, 2, 5])
def test_transforms_equal_their_definition_point_by_point(backend, transform, length, rng):
    paths = walk(rng, 2, 3, length, 2)
    found = branchsig.transform_path(paths, **transform)
    for index in np.ndindex(2, 3):
        np.testing.assert_allclose(found[index], oracles.transformed(paths[index], **transform), rtol=1e-15, atol=1e-16)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_backward_of_a_transform_is_its_adjoint(backend, transform, rng):
    paths, direction = walk(rng, 2, 5, 3), walk(rng, 2, 5, 3)
    derivs = rng.standard_normal(branchsig.transform_path(paths, **transform).shape)
    change = branchsig.transform_path(paths + direction, **transform) - branchsig.transform_path(paths, **transform)
    found = branchsig.transform_path_backprop(derivs, **transform)
    assert found.shape == paths.shape
    assert np.vdot(found, direction) == pytest.approx(np.vdot(derivs, change), rel=1e-12)


@settings(max_examples=40)
@given(
    name=st.sampled_from([*STATIC_KERNELS, "quartic"]),
    form=st.sampled_from(["paired", "gram"]),
    lengths=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    dimension=st.integers(1, 3),
    depth=st.integers(0, 5),
    orders=st.tuples(st.integers(0, 1), st.integers(0, 2)),
    transform=st.sampled_from(TRANSFORMS),
    mode=st.sampled_from(["value", "grid", "normalize"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_gradients_under_any_options(backend, name, form, lengths, dimension, depth, orders, transform, mode, seed):
    rng = np.random.default_rng(seed)
    x, y = (walk(rng, 2, length, dimension, size=0.4) for length in lengths)
    kernel, kappa = (QuarticKernel(), quartic) if name == "quartic" else static_kernel(name)
    function = "branched_sig_kernel" if form == "paired" else "branched_sig_kernel_gram"
    options = {"static_kernel": kernel, "return_grid": mode == "grid", "normalize": mode == "normalize", **transform}
    values = getattr(branchsig, function)(x, y, depth, orders, check_finite=False, **options)
    assume(np.all(np.isfinite(values)))  # logarithms in the thousands leave no digits to their differences
    derivs = rng.standard_normal(values.shape)
    found = getattr(branchsig, function + "_backprop")(derivs, x, y, depth, orders, right_deriv=True, **options)
    wanted = wanted_gradients(form, x, y, derivs, depth, orders, kappa, transform, mode == "normalize")
    check(found, wanted, tolerance=1e-11)


@pytest.mark.parametrize("name", ["linear", "rbf"])
@pytest.mark.parametrize("lengths", [(90, 70), (3, 300), (300, 3)])
def test_directional_derivatives_of_long_paths(backend, name, lengths, rng):
    # One complex step along a random direction: the whole gradient at once, at the price of one value.
    x, y = walk(rng, 1, lengths[0], 2), walk(rng, 1, lengths[1], 2)
    kernel, kappa = static_kernel(name)
    directions = rng.standard_normal(x.shape), rng.standard_normal(y.shape)
    found = gradients_of(
        backend, problem(x, y, 4, static_kernel=kernel), np.ones(1), wrt_log=True, left=True, right=True
    )
    slopes = sum(np.vdot(gradient, direction) for gradient, direction in zip(found, directions, strict=True))
    size = np.sqrt(sum(np.sum(gradient**2) * np.sum(v**2) for gradient, v in zip(found, directions, strict=True)))
    step = 1e-30
    moved = [
        [
            [complex(value, step * slope) for value, slope in zip(*point, strict=True)]
            for point in zip(path, v, strict=True)
        ]
        for path, v in zip((x[0], y[0]), (directions[0][0], directions[1][0]), strict=True)
    ]
    g = oracles.increments(kappa, *moved, oracles.COMPLEX)
    wanted = oracles.log_levels(g, 4, (0, 0), oracles.COMPLEX)[-1][-1][-1].imag / step
    assert abs(slopes - wanted) < 1e-13 * sum(lengths) * size


@pytest.mark.parametrize("normalize", [False, True])
def test_gradients_in_single_precision_are_those_of_double_precision(backend, normalize, rng):
    x, y = walk(rng, 5, 40, 3, dtype=np.float32), walk(rng, 5, 30, 3, dtype=np.float32)
    derivs = rng.standard_normal(5).astype(np.float32)
    single = branchsig.branched_sig_kernel_backprop(derivs, x, y, 4, right_deriv=True, normalize=normalize)
    double = branchsig.branched_sig_kernel_backprop(
        derivs.astype(float), x.astype(float), y.astype(float), 4, right_deriv=True, normalize=normalize
    )
    for found, wanted in zip(single, double, strict=True):
        assert found.dtype == np.float32
        assert relative_to_path(found, wanted) < 2e-5
