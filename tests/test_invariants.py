"""What must hold whatever the numbers are: no oracle is asked, a result is held against another of the same functions,
or against a bound that has a proof.

Problems are drawn over all options. Paths are small, so that no kernel is large and no digits are lost; the tests of
dilation take paths of any size and shape.
"""

import dataclasses
import math

import numpy as np
import pytest
from cases import STATIC_KERNELS, QuarticKernel, static_kernel, walk
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import branchsig
from branchsig.backends.reference import ReferenceBackend
from branchsig.operations import means

# Paths of one point, and Gram matrices of single paths, are drawn on purpose.
pytestmark = [
    pytest.mark.filterwarnings("ignore:every path has one point:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:path1 of shape .* was taken for one path:RuntimeWarning"),
]

LINEAR = ["linear", "scaled_linear"]
RADIAL = ["rbf", "matern12", "matern32", "matern52", "rational_quadratic"]
KERNELS = [*STATIC_KERNELS, "quartic"]
SMOOTH = [name for name in KERNELS if name != "matern12"]
RULES = ["trapezoid", "left", "lobatto2", "lobatto3"]
MIRRORED = [rule for rule in RULES if rule != "left"]
DEPTHS = [0, 1, 2, 3, 4, math.inf]
EQUAL = [(0, 0), (1, 1), (2, 2)]
ORDERS = [*EQUAL, (0, 1), (2, 0), (1, 3)]
TRANSFORMS = [
    {},
    {"time_aug": True, "end_time": 0.3},
    {"lead_lag": True},
    {"lead_lag": True, "time_aug": True, "end_time": 0.2},
]
FORMS = ["paired", "gram", "itself", "none"]
BATCHES = [(), (3,), (2, 1), (1, 2, 1)]
DTYPES = [np.float64, np.float64, np.float32]
NORMALIZE = [False, False, True, "dilation"]
OUTPUTS = [{}, {"log": True}, {"return_grid": True}]
SHORT = st.integers(1, 6)
LONG = st.sampled_from([1, 3, 5, 18, 35])
"""Numbers of points of second paths: the last ones make more than one block of columns, 18 at dyadic orders above 0."""

few = settings(max_examples=25, deadline=None, derandomize=True, report_multiple_bugs=False)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Arguments of the public functions, and a call of them."""

    form: str
    x: np.ndarray
    y: np.ndarray
    depth: float
    orders: tuple
    options: dict

    def function(self, suffix=""):
        return getattr(
            branchsig, ("branched_sig_kernel" if self.form == "paired" else "branched_sig_kernel_gram") + suffix
        )

    @property
    def second(self):
        return {"none": None, "itself": self.x}.get(self.form, self.y)

    def replace(self, **changes):
        """The same with other arguments; those that are none of the fields are options."""
        own = {name: changes.pop(name) for name in list(changes) if name in ("form", "x", "y", "depth", "orders")}
        return dataclasses.replace(self, **own, options={**self.options, **changes})

    def value(self, **changes):
        other = self.replace(**changes)
        return other.function()(other.x, other.second, other.depth, other.orders, **other.options)

    def gradients(self, derivs=None, **changes):
        """Of both sides; with no second paths, of the only one."""
        other = self.replace(**changes)
        derivs = np.ones_like(other.value()) if derivs is None else derivs
        sides = {} if other.form == "none" else {"right_deriv": True}
        where = (other.x, other.second, other.depth, other.orders)
        found = other.function("_backprop")(derivs, *where, **sides, **other.options)
        return [gradient for gradient in found if gradient is not None]

    @property
    def eps(self):
        return float(np.finfo(self.x.dtype).eps)

    def close(self, found, wanted, tolerance=1e-12, scale=None):
        """Equal up to a tolerance for float64, relative to `scale` or 1; to a few roundings of the results in float32.

        Under dilation kernels of up to e^10 may cancel, where a path goes out and returns.
        """
        tolerance *= 1000 if self.options["normalize"] == "dilation" else 1
        tolerance = tolerance if self.x.dtype == np.float64 else max(tolerance, 8 * self.eps)
        atol = tolerance * (1.0 if scale is None else float(scale))
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=atol)


def points(rng, lattice, shape, dtype, size):
    """Walks of a bounded extent. On a lattice their differences and sums are exact in float32."""
    paths = np.clip(walk(rng, *shape, size=size), -1, 1)
    return (np.rint(paths * 64) / 64 if lattice else paths).astype(dtype)


@st.composite
def problems(
    draw,
    *,
    kernels=KERNELS,
    forms=FORMS,
    rules=RULES,
    depths=DEPTHS,
    truncations=(None, None, None, 0, 1, 2, 4),
    orders=ORDERS,
    transforms=TRANSFORMS,
    normalize=NORMALIZE,
    batches=BATCHES,
    dtypes=DTYPES,
    outputs=({},),
    ragged=True,
    lattice=False,
    second_lengths=SHORT,
    size=0.5,
):
    """A problem whose kernels are of moderate size."""
    order = draw(st.sampled_from(truncations))
    depth = math.inf if order is not None else draw(st.sampled_from(depths))
    if depth == math.inf and order is None:
        # The reference solves for one cell after the other, and large kernels blow up.
        rules, second_lengths, size = [rule for rule in rules if rule != "lobatto3"], st.integers(1, 4), 0.25
        orders = [pair for pair in orders if sum(pair) <= 2]
        kernels = [name for name in kernels if name not in ("polynomial", "quartic")]
    name = draw(st.sampled_from(kernels))
    options = {
        "static_kernel": QuarticKernel() if name == "quartic" else static_kernel(name)[0],
        "quadrature": draw(st.sampled_from(rules)),
        "normalize": draw(st.sampled_from(normalize)),
        **draw(st.sampled_from(transforms)),
    }
    if order is not None:
        options["order"] = order
    output = draw(st.sampled_from(outputs))
    # Kernels of an order may be negative under dilation, and grids have no norm.
    if not (
        ("log" in output and order is not None and options["normalize"] == "dilation")
        or ("return_grid" in output and options["normalize"] is True)
    ):
        options |= output
    form = draw(st.sampled_from(forms))
    dtype, dimension = draw(st.sampled_from(dtypes)), draw(st.integers(1, 3))
    batch1 = draw(st.sampled_from(batches))
    batch2 = batch1 if form == "paired" else draw(st.sampled_from(batches))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = points(rng, lattice, (*batch1, draw(st.integers(1, 5)), dimension), dtype, size)
    y = points(rng, lattice, (*batch2, draw(second_lengths), dimension), dtype, size)
    if ragged and draw(st.booleans()):
        options["lengths1"] = rng.integers(1, x.shape[-2] + 1, size=batch1)
        if form in ("paired", "gram"):
            options["lengths2"] = rng.integers(1, y.shape[-2] + 1, size=batch2)
    return Problem(form, x, y, depth, draw(st.sampled_from(orders)), options)


def same_bits(backend, found, wanted):
    """Equal to the bit in the core, whose pairs know nothing of each other; the reference calls NumPy's products."""
    if isinstance(backend, ReferenceBackend):
        eps = float(np.finfo(np.asarray(found).dtype).eps)
        np.testing.assert_allclose(found, wanted, rtol=2000 * eps, atol=200 * eps)
    else:
        np.testing.assert_array_equal(found, wanted)


# Motions of the plane and of the data

BESIDE_TIME = Problem(
    "paired",
    np.array([[0.0625]]),
    np.array([[-0.046875], [0.1875]]),
    math.inf,
    (0, 0),
    {
        "static_kernel": branchsig.RBFKernel(sigma=0.9),
        "quadrature": "trapezoid",
        "normalize": True,
        "time_aug": True,
        "end_time": 0.3,
    },
)
"""A shift moves the channel of the data away from that of time."""


@few
@given(
    problem=problems(kernels=LINEAR, lattice=True, outputs=OUTPUTS),
    shifts=st.tuples(*[st.integers(-(2**12), 2**12)] * 2),
)
def test_linear_kernels_do_not_see_where_either_path_lies(backend, problem, shifts):
    moved = problem.replace(
        x=problem.x + problem.x.dtype.type(shifts[0]), y=problem.y + problem.y.dtype.type(shifts[1])
    )
    np.testing.assert_array_equal(moved.value(), problem.value())
    for found, wanted in zip(moved.gradients(), problem.gradients(), strict=True):
        np.testing.assert_array_equal(found, wanted)


@few
@given(problem=problems(kernels=RADIAL, lattice=True, outputs=OUTPUTS), shift=st.integers(-(2**12), 2**12))
@example(problem=BESIDE_TIME, shift=1943)
def test_radial_kernels_do_not_see_where_both_paths_lie(backend, problem, shift):
    shift = problem.x.dtype.type(shift)
    moved = problem.replace(x=problem.x + shift, y=problem.y + shift)
    np.testing.assert_array_equal(moved.value(), problem.value())
    for found, wanted in zip(moved.gradients(), problem.gradients(), strict=True):
        np.testing.assert_array_equal(found, wanted)


@few
@given(problem=problems(kernels=list(STATIC_KERNELS), outputs=OUTPUTS))
def test_no_kernel_sees_a_reflection_of_the_channels(backend, problem):
    reflected = problem.replace(x=-problem.x, y=-problem.y)
    problem.close(reflected.value(), problem.value())


@few
@given(problem=problems(kernels=list(STATIC_KERNELS), outputs=OUTPUTS))
def test_no_kernel_sees_the_order_of_the_channels(backend, problem):
    turned = problem.replace(x=problem.x[..., ::-1], y=problem.y[..., ::-1])
    problem.close(turned.value(), problem.value())


@few
@given(problem=problems(kernels=RADIAL, normalize=[False, True]), exponent=st.sampled_from([-40, -3, 2, 37]))
def test_radial_kernels_see_distances_in_units_of_their_length_scale_alone(backend, problem, exponent):
    scale, kernel = 2.0**exponent, problem.options["static_kernel"]
    sigma = kernel.sigma * (scale**2 if isinstance(kernel, branchsig.RBFKernel) else scale)
    options = problem.options
    other = problem.replace(
        x=problem.x * problem.x.dtype.type(scale),
        y=problem.y * problem.x.dtype.type(scale),
        static_kernel=dataclasses.replace(kernel, sigma=sigma),
        **({"end_time": options["end_time"] * scale} if options.get("time_aug") else {}),
    )
    problem.close(other.value(), problem.value())


@few
@given(
    problem=problems(kernels=LINEAR, normalize=["dilation"], transforms=[{}, {"lead_lag": True}], outputs=OUTPUTS),
    exponents=st.tuples(*[st.sampled_from([-60, -7, 3, 50])] * 2),
)
def test_dilated_kernels_do_not_see_the_size_of_either_path(backend, problem, exponents):
    scales = [problem.x.dtype.type(2.0**exponent) for exponent in exponents]
    other = problem.replace(x=problem.x * scales[0], y=problem.y * scales[1])
    problem.close(other.value(), problem.value())
    if problem.form == "none":
        scales = scales[:1]
    elif problem.form == "itself":
        scales = scales[:1] * 2
    for found, wanted, scale in zip(other.gradients(), problem.gradients(), scales, strict=True):
        problem.close(found * scale, wanted, 1e-10, scale=np.abs(wanted).max(initial=1e-3))


# Points and paths that say nothing new


@few
@given(
    problem=problems(transforms=[{}, {"lead_lag": True}], ragged=False, second_lengths=LONG),
    where=st.integers(0, 3),
    times=st.integers(1, 3),
)
def test_repeating_a_point_changes_nothing(backend, problem, where, times):
    x, y = problem.x, problem.y
    other = problem.replace(
        x=np.insert(x, [min(where, x.shape[-2] - 1)] * times, x[..., [min(where, x.shape[-2] - 1)], :], axis=-2),
        y=np.insert(y, [0], y[..., [0], :], axis=-2),
    )
    problem.close(other.value(), problem.value())


def halved(path, order):
    """The path with points halfway between its points, `order` times."""
    for _ in range(order):
        between = (path[..., 1:, :] + path[..., :-1, :]) / 2
        longer = np.empty((*path.shape[:-2], 2 * path.shape[-2] - 1, path.shape[-1]), dtype=path.dtype)
        longer[..., ::2, :], longer[..., 1::2, :] = path, between
        path = longer
    return path


@few
@given(
    problem=problems(
        kernels=LINEAR,
        transforms=[{}, {"time_aug": True, "end_time": 0.3}],
        ragged=False,
        normalize=[False, "dilation"],
    ),
    grid=st.booleans(),
)
def test_a_dyadic_order_is_points_halfway(backend, problem, grid):
    order1, order2 = problem.orders
    if problem.form in ("itself", "none") and order1 != order2:
        problem = problem.replace(form="gram", y=problem.x.copy())
    other = problem.replace(x=halved(problem.x, order1), y=halved(problem.y, order2), orders=(0, 0))
    problem.close(other.value(return_grid=grid), problem.value(return_grid=grid))


def retraced(path):
    return np.concatenate([path, path[..., -2::-1, :]], axis=-2)


@few
@given(
    problem=problems(
        rules=MIRRORED,
        transforms=[{}],
        ragged=False,
        normalize=[False, "dilation"],
        forms=["paired", "gram"],
        outputs=OUTPUTS[:2],
    )
)
def test_a_retraced_path_has_kernel_one_with_every_path(backend, problem):
    problem = problem.replace(x=retraced(problem.x))
    problem.close(problem.value(), 0.0 if "log" in problem.options else 1.0, 1e-11)
    if problem.options["normalize"] is False:
        along_y = problem.gradients()[1]
        problem.close(along_y, 0.0, 1e-11)


@few
@given(problem=problems(truncations=[1, 2, 4], rules=MIRRORED, transforms=[{}], ragged=False, normalize=[False]))
def test_a_retraced_path_has_no_part_of_any_number_of_nodes(backend, problem):
    problem = problem.replace(x=retraced(problem.x))
    wanted = np.zeros(problem.options["order"] + 1)
    wanted[0] = 1.0
    found = problem.value(return_levels=True)
    problem.close(found, np.broadcast_to(wanted, found.shape), 1e-12)


# Batches


@few
@given(
    problem=problems(forms=["gram"], batches=BATCHES[:3], second_lengths=st.sampled_from([1, 3, 18]), outputs=OUTPUTS)
)
def test_an_entry_of_a_gram_matrix_is_the_kernel_of_its_pair(backend, problem):
    x, y, axes = problem.x, problem.y, problem.x.ndim - 2
    matrix = problem.value()
    pairs = x.shape[:-2] + y.shape[:-2]
    assert matrix.shape[: len(pairs)] == pairs
    lengths1, lengths2 = (problem.options.get(name) for name in ("lengths1", "lengths2"))
    for at in np.ndindex(pairs):
        i, j = at[:axes], at[axes:]
        pair = problem.replace(form="paired", x=x[i], y=y[j])
        if lengths1 is not None:
            pair = pair.replace(lengths1=lengths1[i], lengths2=lengths2[j])
        same_bits(backend, pair.value(), matrix[at])


@few
@given(problem=problems(forms=["itself", "none"], orders=EQUAL, outputs=OUTPUTS[:2]))
def test_a_symmetric_gram_matrix_is_its_transpose_and_that_of_two_equal_batches(backend, problem):
    n = math.prod(problem.x.shape[:-2])
    matrix = problem.value()
    square = matrix.reshape(n, n)
    np.testing.assert_array_equal(square, square.T)
    lengths = problem.options.get("lengths1")
    other = problem.replace(form="gram", y=problem.x.copy(), **({} if lengths is None else {"lengths2": lengths}))
    problem.close(other.value(), matrix)


@few
@given(
    problem=problems(forms=["gram", "itself", "none"], second_lengths=LONG, outputs=OUTPUTS),
    side=st.integers(1, 3),
    threads=st.integers(2, 3),
)
def test_blocks_and_threads_change_no_bit(backend, problem, side, threads):
    value, gradients = problem.value(), problem.gradients()
    np.testing.assert_array_equal(problem.value(n_jobs=threads), value)
    for found, wanted in zip(problem.gradients(n_jobs=threads), gradients, strict=True):
        np.testing.assert_array_equal(found, wanted)
    same_bits(backend, problem.value(max_batch=side), value)
    for found, wanted in zip(problem.gradients(max_batch=side), gradients, strict=True):
        problem.close(found, wanted, 1e-11, scale=np.abs(wanted).max(initial=1e-3))


@few
@given(
    problem=problems(
        forms=["paired"], batches=[(3,), (2, 2), (2, 1, 2)], second_lengths=st.sampled_from([1, 3, 18]), outputs=OUTPUTS
    )
)
def test_the_pairs_of_a_batch_know_nothing_of_each_other(backend, problem):
    value, gradients = problem.value(), problem.gradients()
    lengths = [name for name in ("lengths1", "lengths2") if name in problem.options]
    for at in np.ndindex(problem.x.shape[:-2]):
        valid = {name: problem.options[name][at] for name in lengths}
        pair = problem.replace(x=problem.x[at], y=problem.y[at], **valid)
        same_bits(backend, pair.value(), value[at])
        for found, wanted in zip(pair.gradients(), gradients, strict=True):
            problem.close(found, wanted[at], 1e-12, scale=np.abs(wanted[at]).max(initial=1e-3))


@few
@given(problem=problems(forms=["paired", "gram"], outputs=OUTPUTS))
def test_the_kernel_is_symmetric_in_both_paths_and_their_orders(backend, problem):
    swapped = {"lengths1": problem.options.get("lengths2"), "lengths2": problem.options.get("lengths1")}
    other = problem.replace(x=problem.y, y=problem.x, orders=problem.orders[::-1], **swapped)
    axes1, axes2 = problem.x.ndim - 2, problem.y.ndim - 2
    value = problem.value()
    if problem.form == "gram":
        value = np.moveaxis(value, range(axes1), range(axes2, axes1 + axes2))
    if "return_grid" in problem.options:
        value = value.swapaxes(-2, -1)
    problem.close(other.value(), value)


# Grids, logarithms and parts


@few
@given(problem=problems(normalize=[False, "dilation"], second_lengths=LONG, outputs=OUTPUTS[:2]))
def test_a_grid_ends_with_the_value_and_starts_with_one(backend, problem):
    grid = problem.value(return_grid=True)
    problem.close(grid[..., -1, -1], problem.value())
    start = 0.0 if "log" in problem.options else 1.0
    assert np.all(grid[..., 0, :] == start)
    assert np.all(grid[..., :, 0] == start)


@few
@given(problem=problems(normalize=[False, "dilation"], truncations=[None], second_lengths=LONG))
@example(
    problem=Problem(
        "paired", np.array([[0.0], [1.0]]), np.linspace(0, 1, 18)[:, None] ** 2, 1, (1, 1), {"normalize": False}
    )
)
def test_the_grid_of_logarithms_is_the_logarithm_of_the_grid(backend, problem):
    problem.close(problem.value(return_grid=True, log=True), np.log(problem.value(return_grid=True)))


@few
@given(problem=problems(outputs=[{}, {"return_grid": True}]))
def test_logarithms_are_logarithms_of_kernels_and_their_gradients_are_quotients(backend, problem):
    value = problem.value()
    assume(value.min() > 0)
    problem.close(problem.value(log=True), np.log(value))
    for mine, its in zip(problem.gradients(log=True), problem.gradients(1 / value), strict=True):
        problem.close(mine, its, 1e-11, scale=np.abs(its).max(initial=1e-3))


@few
@given(problem=problems(truncations=[0, 1, 2, 3, 5], normalize=[False, "dilation"]), grid=st.booleans())
def test_the_kernel_of_an_order_is_the_sum_of_its_parts(backend, problem, grid):
    levels = problem.value(return_levels=True, return_grid=grid)
    assert np.all(levels[..., 0] == 1.0)
    problem.close(levels.sum(axis=-1), problem.value(return_grid=grid))


@few
@given(
    problem=problems(
        forms=["paired"], normalize=[False], depths=[0, 1, 2, 4], truncations=[None], transforms=TRANSFORMS
    )
)
def test_a_stack_holds_the_grids_of_all_depths(backend, problem):
    options = {name: value for name, value in problem.options.items() if name != "normalize"}
    stack = branchsig.branched_sig_kernel_stack(problem.x, problem.y, problem.depth, problem.orders, **options)
    for depth in range(problem.depth + 1):
        problem.close(stack[..., depth, :, :], problem.value(depth=depth, return_grid=True))


# Bounds


@few
@given(problem=problems(forms=["none"], orders=EQUAL, normalize=[False], batches=[(3,)]))
def test_kernels_of_paths_with_themselves_are_one_or_more_and_gram_matrices_positive(backend, problem):
    # K is an inner product of features whose first entry is 1. A matrix of logarithms is positive as well. Without
    # truncation it may be infinite.
    matrix = problem.value(check_finite=False).astype(float)
    assume(problem.depth < math.inf or "order" in problem.options or np.isfinite(matrix).all())
    tolerance = 40 * problem.eps * matrix.max()
    assert np.diagonal(matrix).min() >= 1 - tolerance
    assert np.linalg.eigvalsh(matrix).min() >= -tolerance
    if "order" not in problem.options:
        assert np.linalg.eigvalsh(problem.value(log=True).astype(float)).min() >= -tolerance


@settings(few, max_examples=120)
@given(
    problem=problems(
        forms=["gram", "none"],
        kernels=[*LINEAR, "rbf"],
        depths=[2, 3],
        truncations=[None, None, 2],
        transforms=[{}],
        normalize=[True],
        batches=[(4,)],
        ragged=False,
        size=1.5,
    )
)
def test_unit_kernels_are_at_most_one(backend, problem):
    # At unequal orders too: paths of either order have their norms in the same space of features.
    assert np.abs(problem.value()).max() <= 1 + 40 * problem.eps


def shaped(kind, rng, batch, length, dimension, dtype):
    """Paths on which a search for a factor may fail."""
    shape = (*batch, length, dimension)
    paths = {
        "walk": lambda: walk(rng, *shape, size=3.0),
        "retraced": lambda: retraced(walk(rng, *shape, size=3.0)),
        "closed": lambda: walk(rng, *shape) * np.sin(np.linspace(0, math.pi, length))[:, None],
        "there and back": lambda: np.broadcast_to(np.array([0.0, 1.0, 2.0, 1.0, 0.0])[:, None], (*batch, 5, dimension)),
        "steps of one": lambda: rng.choice([-1.0, 1.0], size=shape).cumsum(axis=-2),
        "rounded": lambda: np.rint(walk(rng, *shape, size=4.0)),
        "one that stands still": lambda: np.broadcast_to(rng.standard_normal(dimension), shape),
        "one point": lambda: rng.standard_normal((*batch, 1, dimension)),
        "tiny": lambda: walk(rng, *shape) * 1e-7,
        "huge": lambda: walk(rng, *shape) * (1e60 if dtype is np.float64 else 1e15),
        "line": lambda: np.linspace(0, 1, length)[:, None] * rng.standard_normal((*batch, 1, dimension)),
    }
    return np.ascontiguousarray(paths[kind](), dtype=dtype)


SHAPES = [
    "walk",
    "retraced",
    "closed",
    "there and back",
    "steps of one",
    "rounded",
    "one that stands still",
    "one point",
]
SHAPES += ["tiny", "huge", "line"]


@st.composite
def dilated_problems(draw):
    """Problems under dilation, of paths of all kinds."""
    problem = draw(problems(normalize=["dilation"], ragged=False, kernels=[*LINEAR, *RADIAL, "polynomial"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kinds = SHAPES if problem.options["static_kernel"] in (branchsig.LinearKernel(),) else SHAPES[:-3]
    dimension, dtype = problem.x.shape[-1], problem.x.dtype.type
    x, y = (
        shaped(draw(st.sampled_from(kinds)), rng, path.shape[:-2], draw(st.integers(2, 12)), dimension, dtype)
        for path in (problem.x, problem.y)
    )
    return problem.replace(x=x, y=y)


@settings(few, max_examples=120)
@given(problem=dilated_problems())
def test_dilated_kernels_lie_between_the_inverse_of_e_and_e(backend, problem):
    slack = 1e-9 + 4 * problem.eps
    value = problem.value()
    assert np.all(np.isfinite(value))
    assert np.abs(value).max() <= math.e * (1 + slack)
    if "order" not in problem.options:
        assert value.min() >= (1 - slack) / math.e
    own = problem.replace(form="paired", y=problem.x, orders=(problem.orders[0],) * 2).value(log=True)
    assert own.min() >= -slack
    assert own.max() <= 1 + slack


@settings(few, max_examples=120)
@given(problem=dilated_problems())
def test_grids_of_dilated_paths_are_bounded(backend, problem):
    # Every prefix has a logarithm of at most 1 + 9 with itself.
    grid = problem.value(return_grid=True)
    assert np.all(np.isfinite(grid))
    assert np.abs(grid).max() <= math.exp(10) * (1 + 1e-9 + 4 * problem.eps)


@few
@given(problem=dilated_problems())
def test_gradients_of_dilated_kernels_are_finite(backend, problem):
    for gradient in problem.gradients():
        assert np.all(np.isfinite(gradient))


# Gradients


def total(gradient):
    return gradient.astype(float).sum(axis=tuple(range(gradient.ndim - 1)))


@few
@given(problem=problems(kernels=LINEAR, outputs=OUTPUTS))
def test_gradients_of_linear_kernels_sum_to_zero_over_the_points_of_a_path(backend, problem):
    for gradient in problem.gradients():
        size = np.abs(gradient).astype(float).sum(axis=-2)
        assert np.all(np.abs(gradient.astype(float).sum(axis=-2)) <= 100 * problem.eps * (size + 1e-3))


@few
@given(problem=problems(kernels=RADIAL, outputs=OUTPUTS))
def test_gradients_of_radial_kernels_sum_to_zero_over_both_paths(backend, problem):
    gradients = problem.gradients()
    size = sum(np.abs(gradient).astype(float).sum() for gradient in gradients)
    assert np.abs(sum(map(total, gradients))).max() <= 100 * problem.eps * (size + 1e-3)


def along(gradient, path):
    return np.sum(gradient.astype(float) * path.astype(float), axis=(-2, -1))


@few
@given(
    problem=problems(
        forms=["paired"],
        kernels=LINEAR,
        transforms=[{}, {"lead_lag": True}],
        normalize=[False],
        truncations=[1, 2, 3, 5],
    )
)
def test_the_derivative_in_the_direction_of_the_paths_weighs_each_part_with_its_degree(backend, problem):
    # Euler: k_n(λx, λy) = λ^(2n) k_n(x, y).
    levels = problem.value(return_levels=True).astype(float)
    wanted = np.sum(2 * np.arange(levels.shape[-1]) * levels, axis=-1)
    left, right = problem.gradients()
    problem.close(along(left, problem.x) + along(right, problem.y), wanted, scale=10)


@few
@given(problem=problems(forms=["paired"], kernels=LINEAR, transforms=[{}, {"lead_lag": True}], normalize=[False]))
def test_a_dilation_of_either_path_does_the_same(backend, problem):
    # Increments of a linear kernel are bilinear: K(λx, y) = K(x, λy).
    left, right = problem.gradients()
    problem.close(along(left, problem.x), along(right, problem.y), scale=10)
    problem.close(problem.value(x=2 * problem.x), problem.value(y=2 * problem.y))


@few
@given(
    problem=problems(
        kernels=LINEAR, transforms=[{}, {"lead_lag": True}], normalize=["dilation"], forms=["paired", "gram"]
    )
)
def test_no_gradient_of_dilated_kernels_flows_along_a_path(backend, problem):
    for gradient, path in zip(problem.gradients(), (problem.x, problem.y), strict=True):
        scale = np.abs(gradient).max(initial=1.0) * path.shape[-2] * path.shape[-1]
        problem.close(along(gradient, path), 0.0, 1e-10, scale=scale)


@few
@given(problem=problems(outputs=OUTPUTS))
def test_value_and_pullback_are_value_and_gradients(backend, problem):
    where = (problem.x, problem.second, problem.depth, problem.orders)
    value, pullback = problem.function("_vjp")(*where, **problem.options)
    np.testing.assert_array_equal(value, problem.value())
    derivs = np.cos(np.arange(value.size, dtype=value.dtype)).reshape(value.shape)
    found = [gradient for gradient in pullback(derivs) if gradient is not None]
    for mine, its in zip(found, problem.gradients(derivs), strict=True):
        problem.close(mine, its, 1e-11, scale=np.abs(its).max(initial=1e-3))


@few
@given(problem=problems(forms=["gram"], kernels=SMOOTH))
def test_gradients_of_gram_matrices_are_sums_of_those_of_pairs(backend, problem):
    rng = np.random.default_rng(0)
    axes = problem.x.ndim - 2
    derivs = rng.standard_normal(problem.value().shape).astype(problem.x.dtype)
    wanted = np.zeros(problem.x.shape), np.zeros(problem.y.shape)
    lengths = [problem.options.get(name) for name in ("lengths1", "lengths2")]
    for at in np.ndindex(derivs.shape):
        parts = at[:axes], at[axes:]
        pair = problem.replace(form="paired", x=problem.x[parts[0]], y=problem.y[parts[1]])
        if lengths[0] is not None:
            pair = pair.replace(lengths1=lengths[0][parts[0]], lengths2=lengths[1][parts[1]])
        for mine, gradient, place in zip(wanted, pair.gradients(derivs[at]), parts, strict=True):
            mine[place] += gradient
    for found, mine in zip(problem.gradients(derivs), wanted, strict=True):
        problem.close(found, mine, 1e-11, scale=np.abs(mine).max(initial=1e-3))


# Samples

SAMPLES = {"batches": [(3,), (5,)], "forms": ["gram"], "transforms": [{}], "ragged": False, "dtypes": [np.float64]}


@few
@given(problem=problems(**SAMPLES), unbiased=st.booleans())
def test_a_discrepancy_depends_on_neither_the_order_of_samples_and_paths_nor_on_blocks(backend, problem, unbiased):
    options = {"unbiased": unbiased, **problem.options}
    x, y, depth, orders = problem.x, problem.y, problem.depth, problem.orders
    value = branchsig.branched_sig_mmd(x, y, depth, orders, **options)
    problem.close(branchsig.branched_sig_mmd(y, x, depth, orders[::-1], **options), value, 1e-11)
    problem.close(branchsig.branched_sig_mmd(x[::-1], y, depth, orders, **options), value, 1e-11)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(means, "_BLOCK", 2)
        problem.close(branchsig.branched_sig_mmd(x, y, depth, orders, **options), value, 1e-11)


@few
@given(problem=problems(**SAMPLES, orders=EQUAL))
def test_the_biased_discrepancy_is_a_squared_distance(backend, problem):
    value = branchsig.branched_sig_mmd(
        problem.x, problem.y, problem.depth, problem.orders, unbiased=False, **problem.options
    )
    assert value >= -1e-12
