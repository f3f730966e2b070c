"""Points so far off that a radial kernel vanishes there take no digits from the rest of the path, at whatever distance.

Expected numbers come from arithmetic of 320 digits, in which squares of distances keep the small ones beside the large.
"""

import functools

import numpy as np
import oracles
import pytest
from cases import gradients_of, problem

import branchsig
from branchsig.backends.reference import ReferenceBackend

MANY = oracles.mpmath_scalars(320)
KERNELS = {
    "rbf": (branchsig.RBFKernel, {"sigma": 0.75}),
    "matern12": (branchsig.Matern12Kernel, {"sigma": 0.5}),
    "matern32": (branchsig.Matern32Kernel, {"sigma": 0.5}),
    "matern52": (branchsig.Matern52Kernel, {"sigma": 0.5}),
    "rational_quadratic": (branchsig.RationalQuadraticKernel, {"sigma": 1.0, "alpha": 2.5}),
}
# how far, and how large the second path is
CASES = [(1e9, 1.0), (1e12, 0.01), (1e16, 1.0), (1e20, 0.01), (1e124, 1.0), (1e130, 0.01)]
DEPTH = 2


def paths(side, far, size):
    """Paths of six and five points, the second `size` times as large, with a point of one of them far off."""
    rng = np.random.default_rng(2)
    x, y = 0.3 * rng.standard_normal((1, 6, 2)), 0.3 * size * rng.standard_normal((1, 5, 2))
    (x if side == "first" else y)[0, 3, 0] = far
    return x, y


def exact_log(kappa, x, y):
    return oracles.log_levels(oracles.increments(kappa, x, y, MANY), DEPTH, (0, 0), MANY)[-1][-1][-1]


@functools.cache
def exact(name, side, far, size):
    """log K, and its gradients by differences, whose error is about the square of the step."""
    kappa = oracles.static_kernel(name, **{key: MANY.number(value) for key, value in KERNELS[name][1].items()})
    both = [oracles.points(path[0], MANY) for path in paths(side, far, size)]
    value, step, gradients = float(exact_log(kappa, *both)), MANY.number(1e-20), []
    for path in both:
        found = np.zeros((len(path), len(path[0])))
        for i, k in np.ndindex(*found.shape):
            here, logs = path[i][k], []
            for sign in (1, -1):
                path[i][k] = here + sign * step
                logs.append(exact_log(kappa, *both))
            path[i][k] = here
            found[i, k] = float((logs[0] - logs[1]) / (2 * step))
        gradients.append(found)
    return value, gradients


def agrees(backend, name, side, far, size):
    kernel, parameters = KERNELS[name]
    arguments = problem(*paths(side, far, size), DEPTH, static_kernel=kernel(**parameters))
    value, gradients = exact(name, side, far, size)
    assert abs(float(backend.solve(arguments, "end", log=True)[0]) / value - 1) < 1e-12
    found = gradients_of(backend, arguments, np.ones(1), wrt_log=True, left=True, right=True)
    for ours, theirs in zip(found, gradients, strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("side", ["first", "second"])
@pytest.mark.parametrize(("far", "size"), CASES)
def test_the_reference_keeps_its_digits(name, side, far, size):
    agrees(ReferenceBackend(), name, side, far, size)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("side", ["first", "second"])
@pytest.mark.parametrize(("far", "size"), CASES)
def test_the_core_keeps_its_digits(core, name, side, far, size):
    agrees(core, name, side, far, size)


@pytest.mark.parametrize("length", [5, 65])
@pytest.mark.parametrize("still", ["first", "second"])
def test_a_path_that_stands_still_beside_one_that_is_as_good_as_infinite_has_no_increments(core, length, still, rng):
    moving = rng.standard_normal((1, length, 3))
    moving[0, -1, 0] = 1e130
    path = np.repeat(rng.standard_normal((1, 1, 3)), 100, axis=1)
    both = (path, moving) if still == "first" else (moving, path)
    for count in (1, 8):
        x, y = (np.repeat(one, count, axis=0) for one in both)
        arguments = problem(x, y, DEPTH, static_kernel=branchsig.RBFKernel(1.0), planar=True)
        np.testing.assert_array_equal(core.solve(arguments, "end"), 0)  # K - 1
