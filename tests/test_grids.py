"""Options crossed with the granularity of the work: what is kept between blocks of columns, bands of rows and tiles is
that of the block, band and tile at hand.

Every problem here spans several blocks (32 columns of sub-cells, or 16 where rows are kept) and several bands (8 rows).
"""

import functools
import itertools
import math

import numpy as np
import pytest
from cases import gradients_of, problem, walk
from remembered import RememberedReference

import branchsig
from branchsig.quadrature import BY_NAME, TRAPEZOID

RULES = ["trapezoid", "left", "lobatto2", "lobatto3"]
ORDERS = [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (0, 3), (1, 2), (3, 1), (4, 0)]
KERNELS = [
    branchsig.LinearKernel(),
    branchsig.RBFKernel(0.9),
    branchsig.Matern32Kernel(0.8),
    branchsig.RBFKernel(1e6),  # increments from the steps of the paths
]
TRUNCATIONS = {
    "depth 1": {"depth": 1},
    "depth 3": {"depth": 3},
    "no truncation": {"depth": math.inf},
    "three nodes": {"depth": 3, "order": 3},
}


def lengths(orders):
    """Points of two paths with some 19 rows and 70 columns of sub-cells."""
    return max(2, 19 // 2 ** orders[0]) + 1, max(2, 70 // 2 ** orders[1]) + 1


@functools.cache
def problems(rule, truncation):
    """A problem for every pair of dyadic orders and every static kernel, one pair and nine in turn, ragged in turn, and
    all that the reference makes of it."""
    rng, made = np.random.default_rng(0), []
    for place, (orders, kernel) in enumerate(itertools.product(ORDERS, KERNELS)):
        if truncation == "no truncation" and place % 7 > 1:
            continue  # the reference takes its time
        pairs = (9, 1)[place % 2]
        x, y = (walk(rng, pairs, length, 2, size=0.7) for length in lengths(orders))
        valid = [None, None]
        if place % 3 == 1:
            valid = [rng.integers(1, path.shape[1] + 1, size=pairs) for path in (x, y)]
        options = {"quadrature": BY_NAME[rule], "lengths1": valid[0], "lengths2": valid[1]}
        arguments = problem(x, y, orders=orders, static_kernel=kernel, **TRUNCATIONS[truncation], **options)
        made.append((arguments, list(outputs(RememberedReference(), arguments))))
    return made


def assert_close(found, wanted, title):
    """Equal up to rounding, by what the largest entry of each pair is."""
    for mine, its in zip(np.atleast_1d(found), np.atleast_1d(wanted), strict=True):
        size = np.abs(its).max(initial=0.0) + 1e-300
        np.testing.assert_allclose(mine / size, its / size, rtol=0, atol=1e-11, err_msg=title)


def outputs(backend, arguments):
    """Name and array of all that a backend makes of a problem."""
    return every_output(backend, arguments) if arguments.order is None else every_part(backend, arguments)


def every_output(backend, arguments):
    """Name and array of all that a backend makes of a problem by depth."""
    yield "log", backend.solve(arguments, "end", log=True)
    grid = backend.solve(arguments, "grid")
    yield "grid", grid
    yield "grid of logarithms", backend.solve(arguments, "grid", log=True)
    stack = None
    if arguments.depth != math.inf:
        stack = backend.solve(arguments, "stack")
        yield "stack", stack
    stacks = (None, stack) if stack is not None and arguments.quadrature == TRAPEZOID else (None,)
    for wrt_log, k_stack in itertools.product((False, True), stacks):
        for shape in (grid.shape[:1], grid.shape):
            pair = gradients_of(
                backend, arguments, derivatives(shape), wrt_log=wrt_log, left=True, right=True, k_stack=k_stack
            )
            for side, gradient in enumerate(pair, start=1):
                title = f"gradient {side} of {'logarithms' if wrt_log else 'values'}, {len(shape)} axes"
                yield f"{title}{'' if k_stack is None else ', from a stack'}", gradient


def every_part(backend, arguments):
    """The same of a problem truncated by the number of nodes."""
    for grid in (False, True):
        parts = backend.solve(arguments, "grid" if grid else "end")
        yield f"parts, grid {grid}", parts
        pair = gradients_of(backend, arguments, derivatives(parts.shape), wrt_log=False, left=True, right=True)
        for side, gradient in enumerate(pair, start=1):
            yield f"gradient {side} of parts, grid {grid}", gradient


def derivatives(shape):
    return np.random.default_rng(len(shape)).uniform(0.5, 1.5, shape) / np.prod(shape[1:])


@pytest.mark.parametrize("truncation", TRUNCATIONS)
@pytest.mark.parametrize("rule", RULES)
def test_every_output_is_that_of_the_reference_across_blocks_and_bands(core, rule, truncation):
    for arguments, wanted in problems(rule, truncation):
        for (title, mine), (_, its) in zip(outputs(core, arguments), wanted, strict=True):
            where = f"{title}: {arguments.static_kernel}, dyadic orders {arguments.dyadic_order}"
            assert_close(mine, its, where)


@pytest.mark.parametrize("pairs", [1, 9])
@pytest.mark.parametrize("rule", RULES)
def test_pairs_out_of_range_of_the_running_products_are_right_across_blocks_and_bands(
    core, reference, rule, pairs, rng
):
    """log K_1 passes −500 in the middle and comes back, beside pairs that stay in range."""
    for orders in ORDERS:
        length1, length2 = lengths(orders)
        x, y = walk(rng, pairs, length1, 2, size=0.5), walk(rng, pairs, length2, 2, size=0.5)
        x[0, :, 0] = np.linspace(0, 1, length1) ** 2
        y[0, :, 0] = -550 * np.sin(np.linspace(0, 3, length2)) ** 2
        y[0, :, 1] = x[0, :, 1] = 0
        arguments = problem(x, y, 1, orders, quadrature=BY_NAME[rule])
        found, wanted = (outputs(one, arguments) for one in (core, reference))
        for (title, mine), (_, its) in zip(found, wanted, strict=True):
            if "stack" not in title:
                assert_close(mine, its, f"{title}: dyadic orders {orders}")


def nodes(values, order):
    """Values at points as values at nodes, linear in between."""
    at = np.arange((len(values) - 1) * 2**order + 1) / 2**order
    return np.interp(at, np.arange(len(values)), values)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("quadrature", RULES)
@pytest.mark.parametrize("orders", ORDERS, ids=str)
def test_depth_one_is_the_product_of_the_two_paths_at_every_node(backend, orders, quadrature, log):
    """log K_1(s, t) = (x_s − x_0)(y_t − y_0): the double integral telescopes."""
    length1, length2 = lengths(orders)
    x, y = np.linspace(0, 1, length1) ** 3, np.linspace(0, 1, length2) ** 2
    grid = branchsig.branched_sig_kernel(
        x[:, None], y[:, None], 1, orders, quadrature=quadrature, return_grid=True, log=log
    )
    wanted = np.outer(nodes(x, orders[0]), nodes(y, orders[1]))
    np.testing.assert_allclose(grid, wanted if log else np.exp(wanted), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("size", [1.0, 600.0])
@pytest.mark.parametrize("orders", ORDERS, ids=str)
def test_gradients_of_grids_of_depth_one_are_those_of_the_product(backend, orders, size):
    """A derivative of 1 at every node of log K_1 = x_s y_t, paths from 0: the gradient is linear in the other path."""
    length1, length2 = lengths(orders)
    x, y = np.linspace(0, 1, length1) ** 3, -size * np.sin(np.linspace(0, 3, length2)) ** 2
    derivs = np.ones([(n - 1) * 2**order + 1 for n, order in zip((length1, length2), orders, strict=True)])
    wanted = []
    for (path, order), (other, its) in itertools.permutations([(x, orders[0]), (y, orders[1])]):
        # What a point gives to the nodes, less what the first point takes off all of them.
        hats = np.array([nodes(unit, order).sum() for unit in np.eye(len(path))])
        hats[0] -= hats.sum()
        wanted.append(hats * nodes(other - other[0], its).sum())
    pair = branchsig.branched_sig_kernel_backprop(
        derivs, x[:, None], y[:, None], 1, orders, return_grid=True, log=True, right_deriv=True
    )
    for mine, its in zip(pair, wanted, strict=True):
        np.testing.assert_allclose(mine[:, 0], its, rtol=1e-11, atol=1e-12 * np.abs(its).max())


def test_a_stretch_of_512_sub_cells_and_more_has_the_grid_of_its_parts(backend):
    """Long pairs go by strips, grids do not: the end of the grid is the value."""
    rng = np.random.default_rng(0)
    for orders in ((0, 0), (1, 1), (3, 0)):
        x, y = (walk(rng, (513 >> order) + 1, 2, size=0.8) for order in orders)
        grid = branchsig.branched_sig_kernel(x, y, 2, orders, return_grid=True, log=True)
        end = branchsig.branched_sig_kernel(x, y, 2, orders, log=True)
        np.testing.assert_allclose(grid[-1, -1], end, rtol=1e-11)
