"""What backends give as gradients with respect to the parameters of static kernels.

Expected numbers are differences of values in arithmetic of many digits or of the reference, identities, and the
reference for what the core sums in another order.
"""

import dataclasses
import math

import numpy as np
import oracles
import pytest
from cases import QuarticKernel, problem, scaled, walk

import branchsig
from branchsig.backends import ThroughNumpy, Wrt
from branchsig.backends.cpu import CpuBackend
from branchsig.static_kernels import DilatedKernel, StaticKernel, parameters_of

EPS = 2.0**-52
MANY = oracles.mpmath_scalars(60)

KERNELS = {
    "linear": branchsig.LinearKernel(),
    "scaled_linear": branchsig.ScaledLinearKernel(0.8),
    "polynomial": branchsig.PolynomialKernel(degree=2.0, gamma=1.2, scale=0.6),
    "polynomial, fractional": branchsig.PolynomialKernel(degree=1.5, gamma=9.0, scale=0.6),
    "polynomial, degree 1": branchsig.PolynomialKernel(degree=1, gamma=1.2, scale=0.6),
    "polynomial, nothing": branchsig.PolynomialKernel(degree=3, gamma=1.2, scale=0.0),
    "rbf": branchsig.RBFKernel(0.9),
    "matern12": branchsig.Matern12Kernel(0.7),
    "matern32": branchsig.Matern32Kernel(0.8),
    "matern52": branchsig.Matern52Kernel(1.1),
    "rational_quadratic": branchsig.RationalQuadraticKernel(0.9, alpha=0.7),
    "rational_quadratic, whole": branchsig.RationalQuadraticKernel(0.9, alpha=2.0),
    "rational_quadratic, large": branchsig.RationalQuadraticKernel(0.9, alpha=1e7),
}
RADIAL = [name for name, kernel in KERNELS.items() if hasattr(kernel, "sigma")]
EVERYTHING = Wrt(True, True, True)

every_kernel = pytest.mark.parametrize("name", KERNELS)


def two(rng, lengths=(6, 7), count=3, dimension=2, **options):
    return tuple(walk(rng, count, length, dimension, **options) for length in lengths)


def replaced(arguments, kernel):
    return dataclasses.replace(arguments, static_kernel=kernel)


def dilated(path, rng):
    """Paths with a factor of each in a last channel."""
    channel = np.zeros((*path.shape[:2], 1))
    channel[:, 0, 0] = rng.uniform(0.5, 1.5, path.shape[0])
    return np.concatenate((path, channel), axis=2)


def by_differences(backend, arguments, want, derivs, log):
    """One number per pair and parameter, by differences of fourth order of what a backend returns."""
    kernel = arguments.static_kernel
    inner = kernel.kernel if isinstance(kernel, DilatedKernel) else kernel
    made = []
    for name in parameters_of(kernel):
        value = getattr(inner, name)
        step = 1e-3 * (value or 1.0)

        def moved(times):
            changed = dataclasses.replace(inner, **{name: value + times * step})  # noqa: B023
            return backend.solve(
                replaced(arguments, DilatedKernel(changed) if inner is not kernel else changed), want, log=log
            )

        if value == 0:  # at its least
            change = (-25 * moved(0) + 48 * moved(1) - 36 * moved(2) + 16 * moved(3) - 3 * moved(4)) / (12 * step)
        else:
            change = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * step)
        terms = derivs * change
        made.append(terms.reshape(*terms.shape[: arguments.axes], -1).sum(axis=-1))
    return np.stack(made, axis=-1) if made else np.zeros((*derivs.shape[: arguments.axes], 0))


OPTIONS = {
    "trapezoid": {},
    "left point, finer": {"quadrature": branchsig.LeftPoint(), "orders": (1, 2)},
    "two intervals": {"quadrature": branchsig.GaussLobatto(2)},
    "finer": {"orders": (2, 1)},
    "depth 1": {"depth": 1},
    "no truncation": {"depth": math.inf},
    "by number of nodes": {"depth": 0, "order": 3},
    "by number of nodes, three intervals": {"depth": 0, "order": 2, "quadrature": branchsig.GaussLobatto(3)},
}


@every_kernel
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("want", ["end", "grid"])
def test_gradients_are_differences_of_values(backend, reference, name, option, want, rng):
    options = {"depth": 3, **OPTIONS[option]}
    size = 0.3 if option == "no truncation" else 0.8
    arguments = problem(*two(rng, size=size), static_kernel=KERNELS[name], **options)
    derivs = rng.standard_normal(reference.solve(arguments, want).shape)
    found = backend.adjoint(arguments, want, derivs, Wrt(parameters=True))
    assert found.path1 is found.path2 is None
    expected = by_differences(reference, arguments, want, derivs, False)
    if "large" in name:  # differences with respect to alpha leave nothing: digits are compared elsewhere
        found, expected = found._replace(parameters=found.parameters[..., :1]), expected[..., :1]
    np.testing.assert_allclose(found.parameters, expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max(initial=0))


@every_kernel
@pytest.mark.parametrize("size", [0.8, 1e-3], ids=["of the size of the kernel", "short"])
@pytest.mark.parametrize("dimension", [3, 20])
@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
def test_the_core_sums_what_the_reference_has(core, reference, name, size, dimension, pairing, rng):
    paths = two(rng, (20, 45 if pairing != "symmetric" else 20), 9, dimension, size=size)
    if pairing == "symmetric":
        paths = paths[0], paths[0]
    arguments = problem(*paths, 2, (1, 1), pairing, KERNELS[name])
    derivs = rng.standard_normal((9,) if pairing == "paired" else (9, 9))
    mine, its = (b.adjoint(arguments, "end", derivs, Wrt(parameters=True), log=True) for b in (core, reference))
    scale = np.abs(its.parameters).max(axis=tuple(range(derivs.ndim)), initial=1e-300)
    np.testing.assert_allclose(mine.parameters / scale, its.parameters / scale, atol=3e-12)


@pytest.mark.parametrize("name", ["scaled_linear", "polynomial", "rbf", "rational_quadratic"])
@pytest.mark.parametrize("size", [0.8, 1e-3])
@pytest.mark.parametrize("pairing", ["paired", "gram"])
def test_padding_has_no_share_in_gradients(backend, reference, name, size, pairing, rng):
    x, y = two(rng, (7, 9), 5, size=size)
    lengths = rng.integers(1, 8, 5), rng.integers(1, 10, 5)
    derivs = rng.standard_normal((5,) if pairing == "paired" else (5, 5))
    expected = np.zeros((*derivs.shape, len(parameters_of(KERNELS[name]))))
    for index in np.ndindex(derivs.shape):
        i, j = index[0], index[-1]
        alone = problem(x[i : i + 1, : lengths[0][i]], y[j : j + 1, : lengths[1][j]], 3, static_kernel=KERNELS[name])
        expected[index] = reference.adjoint(alone, "end", derivs[index].reshape(1), Wrt(parameters=True)).parameters
    for path, valid in zip((x, y), lengths, strict=True):
        for k, length in enumerate(valid):
            path[k, length:] = np.nan
    options = {"lengths1": lengths[0], "lengths2": lengths[1], "pairing": pairing}
    arguments = problem(x, y, 3, static_kernel=KERNELS[name], **options)
    found = backend.adjoint(arguments, "end", derivs, Wrt(parameters=True)).parameters
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12 * np.abs(expected).max())


@every_kernel
@pytest.mark.parametrize("option", ["trapezoid", "by number of nodes", "two intervals"])
def test_dilated_kernels_have_gradients_with_respect_to_parameters(backend, reference, name, option, rng):
    options = {"depth": 2, **OPTIONS[option]}
    paths = (dilated(path, rng) for path in two(rng))
    arguments = problem(*paths, static_kernel=DilatedKernel(KERNELS[name]), **options)
    derivs = rng.standard_normal(reference.solve(arguments, "end").shape)
    found = backend.adjoint(arguments, "end", derivs, Wrt(parameters=True)).parameters
    expected = by_differences(reference, arguments, "end", derivs, False)
    if "large" in name:
        found, expected = found[..., :1], expected[..., :1]
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max(initial=0))


def exact(name, kernel, x, y, parameter):
    """The derivative of log K_2 with respect to a parameter, to the digits of a double."""
    points = [oracles.points(path, MANY) for path in (x, y)]
    values = {field: MANY.number(value) for field, value in dataclasses.asdict(kernel).items()}
    step = values[parameter] * MANY.number(10) ** -20

    def log_k(sign):
        kappa = oracles.static_kernel(name.partition(",")[0], **(values | {parameter: values[parameter] + sign * step}))
        return oracles.log_levels(oracles.increments(kappa, *points, MANY), 2, (0, 0), MANY)[-1][-1][-1]

    return float((log_k(1) - log_k(-1)) / (2 * step))


@pytest.mark.parametrize("name", [n for n in KERNELS if n not in ("linear", "polynomial, nothing")])
@pytest.mark.parametrize(
    ("size", "apart"), [(0.8, 0.0), (1e-4, 0.0), (1e-4, 0.5), (3.0, 0.0)], ids=["plain", "short", "apart", "long"]
)
def test_gradients_keep_their_digits(backend, name, size, apart, rng):
    x, y = two(rng, (5, 4), 1, size=size)
    y = y + apart
    kernel = KERNELS[name]
    found = backend.adjoint(problem(x, y, 2, static_kernel=kernel), "end", np.ones(1), Wrt(parameters=True), log=True)
    for place, parameter in enumerate(parameters_of(kernel)):
        expected = exact(name, kernel, x[0], y[0], parameter)
        np.testing.assert_allclose(found.parameters[0, place], expected, rtol=1e-10, atol=1e-30)


@pytest.mark.parametrize("name", RADIAL)
@pytest.mark.parametrize("size", [1e-3, 0.8, 20.0])
def test_a_change_of_scale_is_one_of_the_paths(backend, name, size, rng):
    arguments = problem(*two(rng, (12, 15), size=size), 3, (1, 0), static_kernel=KERNELS[name])
    derivs = rng.standard_normal(3)
    found = backend.adjoint(arguments, "end", derivs, EVERYTHING)
    of_paths = np.sum(arguments.path1 * found.path1, axis=(1, 2)) + np.sum(arguments.path2 * found.path2, axis=(1, 2))
    square = 2 if isinstance(KERNELS[name], branchsig.RBFKernel) else 1
    np.testing.assert_allclose(
        found.parameters[:, 0] * KERNELS[name].sigma * square, -of_paths, rtol=1e-9, atol=1e-13 * size**2
    )


@pytest.mark.parametrize("name", [name for name, kernel in KERNELS.items() if getattr(kernel, "scale", 0)])
def test_a_kernel_times_a_number_changes_with_it_as_with_its_increments(backend, name, rng):
    kernel = KERNELS[name]
    x, y = two(rng)
    found = backend.adjoint(problem(x, y, 2, static_kernel=kernel), "end", np.ones(3), Wrt(parameters=True), log=True)
    factors = dilated(x, rng), dilated(y, rng)
    for path in factors:
        path[:, 0, -1] = 1.0
    through = problem(*factors, 2, static_kernel=DilatedKernel(kernel))
    of_factor = backend.adjoint(through, "end", np.ones(3), EVERYTHING, log=True).path1[:, 0, -1]
    power = 2 if isinstance(kernel, branchsig.ScaledLinearKernel) else 1
    np.testing.assert_allclose(found.parameters[:, -1] * kernel.scale, power * of_factor, rtol=1e-12)


@every_kernel
def test_what_is_asked_for_beside_it_changes_no_gradient(core, name, rng):
    arguments = problem(*two(rng, (20, 30), 5), 3, static_kernel=KERNELS[name])
    derivs = rng.standard_normal(5)
    together = core.adjoint(arguments, "end", derivs, EVERYTHING)
    np.testing.assert_array_equal(
        together.parameters, core.adjoint(arguments, "end", derivs, Wrt(parameters=True)).parameters
    )
    paths = core.adjoint(arguments, "end", derivs, Wrt(True, True))
    assert paths.parameters is None
    for mine, its in zip(together[:2], paths[:2], strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-12, atol=1e-14 * np.abs(its).max())


@pytest.mark.parametrize("name", ["scaled_linear", "polynomial", "rbf", "rational_quadratic"])
@pytest.mark.parametrize("size", [0.8, 1e-3])
@pytest.mark.parametrize(
    "lengths", [(600, 560), (300, 310), (120, 130)], ids=["strips", "rows made again", "rows kept"]
)
def test_long_pairs_have_the_gradients_of_the_reference(reference, name, size, lengths, rng):
    arguments = problem(*two(rng, lengths, 1, size=size), 2, static_kernel=KERNELS[name])
    mine, its = (
        b.adjoint(arguments, "end", np.ones(1), Wrt(parameters=True), log=True).parameters
        for b in (CpuBackend(), reference)
    )
    np.testing.assert_allclose(mine, its, rtol=1e-9)


@pytest.mark.parametrize("name", ["scaled_linear", "polynomial"])
def test_pairs_beyond_the_range_of_products_are_done_again(core, reference, name, rng):
    factors = np.array([0.1, 1.0, 0.2, 0.97])[:, None, None]
    x, y = (factors * np.abs(walk(rng, 1, length, 2)).cumsum(axis=1) for length in (9, 8))
    x, y = scaled(x, y, 2, reference, KERNELS[name], log_k=1500)
    arguments = problem(x, y, 2, static_kernel=KERNELS[name])
    assert np.sum(reference.solve(arguments, "end", log=True) > 600) > 1
    for derivs in (np.ones(4), np.array([1.0, -2.0, 0.0, 3.0])):
        mine, its = (
            b.adjoint(arguments, "end", derivs, Wrt(parameters=True), log=True).parameters for b in (core, reference)
        )
        assert np.all(np.isfinite(its))
        np.testing.assert_allclose(mine, its, rtol=1e-9)


@pytest.mark.parametrize("kernel", [branchsig.PolynomialKernel(degree=3), branchsig.ScaledLinearKernel(1.0)], ids=repr)
@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
def test_a_pair_of_derivative_zero_contributes_zero_and_one_of_infinite_value_nan(backend, kernel, pairing, rng):
    x, y = two(rng, (5, 5), 3)
    x[1] *= 1e60
    y = x if pairing == "symmetric" else y
    arguments = problem(x, y, 2, pairing=pairing, static_kernel=kernel)
    derivs = np.ones((3,) if pairing == "paired" else (3, 3))
    infinite = ~np.isfinite(backend.solve(arguments, "end"))
    assert infinite.any()
    found = backend.adjoint(arguments, "end", derivs, Wrt(parameters=True)).parameters
    np.testing.assert_array_equal(np.isnan(found), np.broadcast_to(infinite[..., None], found.shape))
    found = backend.adjoint(arguments, "end", np.where(infinite, 0, derivs), Wrt(parameters=True)).parameters
    assert np.all(np.isfinite(found))
    assert np.all(found[infinite] == 0)


@pytest.mark.parametrize("name", ["scaled_linear", "polynomial", "rbf", "rational_quadratic"])
@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
def test_paths_of_one_point_or_none_and_no_pairs_have_gradients_of_zero(backend, name, pairing, rng):
    kernel = KERNELS[name]
    for count, length, depth in ((3, 1, 2), (3, 4, 0), (0, 4, 2)):
        x = walk(rng, count, length, 2)
        y = x if pairing == "symmetric" else walk(rng, count, 5, 2)
        arguments = problem(x, y, depth, pairing=pairing, static_kernel=kernel)
        shape = (count,) if pairing == "paired" else (count, count)
        found = backend.adjoint(arguments, "end", np.ones(shape), EVERYTHING).parameters
        np.testing.assert_array_equal(found, np.zeros((*shape, len(parameters_of(kernel)))))


@pytest.mark.parametrize("name", ["scaled_linear", "rbf", "rational_quadratic"])
@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
def test_threads_and_blocks_change_nothing(backend, name, pairing, rng):
    x, y = two(rng, (40, 40), 20)
    y = x if pairing == "symmetric" else y
    derivs = rng.standard_normal((20,) if pairing == "paired" else (20, 20))
    found = [
        backend.adjoint(
            problem(x, y, 2, pairing=pairing, static_kernel=KERNELS[name], **options), "end", derivs, EVERYTHING
        ).parameters
        for options in ({}, {"n_jobs": 2}, {"max_batch": 3})
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["scaled_linear", "rbf", "rational_quadratic"])
def test_paths_in_single_precision_have_gradients_in_it(backend, name, rng):
    x, y = two(rng, dtype=np.float32)
    kernel = KERNELS[name]
    single = backend.adjoint(problem(x, y, 2, static_kernel=kernel), "end", np.ones(3, np.float32), EVERYTHING)
    x, y = x.astype(np.float64), y.astype(np.float64)
    double = backend.adjoint(problem(x, y, 2, static_kernel=kernel), "end", np.ones(3), EVERYTHING)
    assert single.parameters.dtype == np.float32
    np.testing.assert_allclose(single.parameters, double.parameters, rtol=3e-7)


class OwnRBF(StaticKernel):
    """A kernel of a user's own: that of the library by another name."""

    def __init__(self, width):
        self.width = width

    parameters = ("width",)

    @property
    def _same(self):
        return branchsig.RBFKernel(self.width)

    def __call__(self, ctx, x, y):
        return self._same(ctx, x, y)

    def grad_x(self, ctx, derivs):
        return self._same.grad_x(ctx, derivs)

    def grad_y(self, ctx, derivs):
        return self._same.grad_y(ctx, derivs)

    def grad_parameters(self, ctx, derivs):
        return {"width": self._same.grad_parameters(ctx, derivs)["sigma"]}


@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
@pytest.mark.parametrize("wrap", [lambda kernel: kernel, DilatedKernel], ids=["plain", "dilated"])
@pytest.mark.parametrize("ragged", [False, True])
def test_a_kernel_of_the_users_own_is_differentiated_with_respect_to_its_parameters(
    backend, pairing, wrap, ragged, rng
):
    x, y = two(rng, (6, 7), 4)
    if wrap is DilatedKernel:
        x, y = dilated(x, rng), dilated(y, rng)
    lengths = (np.array([1, 3, 6, 2]), np.array([7, 1, 5, 2])) if ragged else (None, None)
    if pairing == "symmetric":
        y, lengths = x, (lengths[0], lengths[0])
    derivs = rng.standard_normal((4,) if pairing == "paired" else (4, 4))
    options = {"pairing": pairing, "lengths1": lengths[0], "lengths2": lengths[1]}
    own, built_in = (
        backend.adjoint(problem(x, y, 2, static_kernel=wrap(kernel), **options), "end", derivs, EVERYTHING).parameters
        for kernel in (OwnRBF(0.9), branchsig.RBFKernel(0.9))
    )
    np.testing.assert_allclose(own, built_in, rtol=1e-11, atol=1e-14)


def test_a_kernel_without_gradients_with_respect_to_parameters_is_refused_before_anything_is_solved(backend, rng):
    class Never(QuarticKernel):
        def __call__(self, ctx, x, y):
            raise AssertionError("solved")

    arguments = problem(*two(rng), 2, static_kernel=Never())
    with pytest.raises(NotImplementedError, match=r"Never has no derivatives with respect to parameters: name them"):
        backend.adjoint(arguments, "end", np.ones(3), Wrt(parameters=True))


@pytest.mark.parametrize("scale", [1e-200, 0.0, -1e-150, 1e150])
def test_a_factor_of_the_paths_may_be_extreme(backend, scale, rng):
    x, y = two(rng)
    if scale > 1:
        x, y = 1e-150 * x, 1e-150 * y
    arguments = problem(x, y, 1, static_kernel=branchsig.ScaledLinearKernel(scale))
    found = backend.adjoint(arguments, "end", np.ones(3), Wrt(parameters=True), log=True).parameters[:, 0]
    product = np.sum((x[:, -1] - x[:, 0]) * scale * (y[:, -1] - y[:, 0]), axis=1)
    np.testing.assert_allclose(found, 2 * product, rtol=1e-12)


@every_kernel
def test_arrays_of_other_libraries_have_the_gradients_of_numpy(name, rng):
    torch = pytest.importorskip("torch")
    x, y = two(rng)
    expected = CpuBackend().adjoint(problem(x, y, 2, static_kernel=KERNELS[name]), "end", np.ones(3), EVERYTHING)
    tensors = problem(torch.tensor(x), torch.tensor(y), 2, static_kernel=KERNELS[name])
    found = ThroughNumpy(CpuBackend()).adjoint(tensors, "end", torch.ones(3, dtype=torch.float64), EVERYTHING)
    assert isinstance(found.parameters, torch.Tensor)
    np.testing.assert_array_equal(found.parameters.numpy(), expected.parameters)


@every_kernel
@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
def test_the_reference_serves_any_library(reference, name, pairing, rng):
    strict = pytest.importorskip("array_api_strict")
    x, y = two(rng)
    y = x if pairing == "symmetric" else y
    derivs = rng.standard_normal((3,) if pairing == "paired" else (3, 3))
    arguments = problem(x, y, 2, pairing=pairing, static_kernel=KERNELS[name], max_batch=2)
    expected = reference.adjoint(arguments, "end", derivs, EVERYTHING).parameters
    there = strict.asarray(x)
    other = there if y is x else strict.asarray(y)
    arguments = dataclasses.replace(arguments, path1=there, path2=other)
    found = reference.adjoint(arguments, "end", strict.asarray(derivs), EVERYTHING).parameters
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-12, atol=1e-14)
