"""Every other backend against the reference, over the whole grid of options.

Hypothesis draws shapes and options; the paths themselves come from a seed, scaled down until log K is at most 20, where
the core promises 1e-13 * (nodes along both paths) in float64 and 1e-5 in float32.
"""

import dataclasses
import math
import warnings

import numpy as np
import pytest
from cases import (
    STATIC_KERNELS,
    QuarticKernel,
    gradients_of,
    problem,
    relative,
    relative_to_path,
    static_kernel,
    using,
    walk,
)
from conftest import cpu
from hypothesis import assume, example, given
from hypothesis import strategies as st

import branchsig
from branchsig.quadrature import BY_NAME
from branchsig.static_kernels import DilatedKernel, is_linear

KERNELS = [*STATIC_KERNELS, "quartic"]


def test_the_compiled_core_is_present():
    assert cpu is not None, "branchsig.backends.cpu cannot be imported: build branchsig with a C compiler"
    assert cpu.instruction_set() in cpu.instruction_sets()


def test_an_instruction_set_that_does_not_exist_is_refused():
    before = cpu.instruction_set()
    with pytest.raises(ValueError, match="sse9"):
        cpu.set_instruction_set("sse9")
    assert cpu.instruction_set() == before


DEPTHS = st.one_of(st.integers(0, 9), st.just(math.inf))


@st.composite
def settings_of_problems(draw, pairings=("paired", "gram", "symmetric"), depths=DEPTHS, rules=tuple(BY_NAME)):
    """What a problem is made of; counts of pairs around the widths of vectors, lengths from one point on."""
    pairing = draw(st.sampled_from(pairings))
    counts = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33] if pairing == "paired" else [0, 1, 2, 3, 5, 6]
    lengths = st.one_of(st.integers(1, 12), st.sampled_from([16, 17, 31, 33, 64, 100]))
    count1, length1, order1 = draw(st.sampled_from(counts)), draw(lengths), draw(st.integers(0, 3))
    count2, length2, order2 = draw(st.sampled_from(counts)), draw(lengths), draw(st.integers(0, 3))
    if pairing != "gram":
        count2 = count1
    if pairing == "symmetric":
        length2, order2 = length1, order1
    # Work is bounded, so that an example takes milliseconds.
    depth = draw(depths)
    pairs = count1 * (count2 if pairing != "paired" else 1)
    quadrature = draw(st.sampled_from(["trapezoid", "trapezoid", *rules]))
    nodes = BY_NAME[quadrature].p ** 2
    levels = 200 if depth == math.inf else depth + 1
    assume(pairs * length1 * length2 * 2 ** (order1 + order2) * nodes * levels < 3_000_000)
    return {
        "pairing": pairing,
        "counts": (count1, count2),
        "lengths": (length1, length2),
        "dimension": draw(st.sampled_from([1, 2, 3, 4, 5, 8, 9, 17])),
        "depth": depth,
        "orders": (order1, order2),
        "kernel": draw(st.sampled_from(KERNELS)),
        "dilated": draw(st.sampled_from([False, False, True])),
        "quadrature": quadrature,
        "ragged": draw(st.sampled_from([False, False, True])),
        "dtype": draw(st.sampled_from([np.float64, np.float64, np.float32])),
        "size": draw(st.sampled_from([1e-3, 0.3, 1.0, 2.0])),
        "n_jobs": draw(st.integers(1, 3)),
        "max_batch": draw(st.sampled_from([-1, 1, 2, 4])),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def built(settings, reference, largest=20.0):
    """The problem of some settings, its paths halved until log K of every pair is at most `largest`.

    Without truncation at most 2: towards the blow-up the condition of the problem itself has no bound.
    """
    largest = min(largest, 2.0) if settings["depth"] == math.inf else largest
    rng = np.random.default_rng(settings["seed"])
    shapes = [
        (count, length, settings["dimension"])
        for count, length in zip(settings["counts"], settings["lengths"], strict=True)
    ]
    size, dtype = settings["size"], settings["dtype"]
    x = walk(rng, *shapes[0], size=size, dtype=dtype)
    y = x if settings["pairing"] == "symmetric" else walk(rng, *shapes[1], size=size, dtype=dtype)
    kernel = QuarticKernel() if settings["kernel"] == "quartic" else static_kernel(settings["kernel"])[0]
    if settings["dilated"] and not is_linear(kernel):
        kernel = DilatedKernel(kernel)
        x, y = with_factors(rng, x), with_factors(rng, y)
        if settings["pairing"] == "symmetric":
            y = x
    valid = [None, None]
    if settings["ragged"]:
        valid = [rng.integers(1, length + 1, size=count) for count, length, _ in shapes]
        if settings["pairing"] == "symmetric":
            valid[1] = valid[0]
    while True:
        found = problem(
            x,
            y,
            settings["depth"],
            settings["orders"],
            settings["pairing"],
            kernel,
            n_jobs=settings["n_jobs"],
            max_batch=settings["max_batch"],
            quadrature=BY_NAME[settings["quadrature"]],
            lengths1=valid[0],
            lengths2=valid[1],
        )
        if np.max(np.abs(reference.solve(found, "end", log=True)), initial=0.0) <= largest:
            return found
        x, y = (x / 2, x / 2) if y is x else (x / 2, y / 2)
        if settings["pairing"] == "symmetric":
            y = x


def with_factors(rng, path):
    """Paths with a last channel that holds a factor of each of them."""
    factors = rng.uniform(0.5, 1.5, (len(path), 1, 1)).astype(path.dtype)
    return np.concatenate([path, np.broadcast_to(factors, (*path.shape[:2], 1))], axis=2)


def double(arguments):
    """The same problem in float64."""
    x = arguments.path1.astype(np.float64)
    y = x if arguments.path2 is arguments.path1 else arguments.path2.astype(np.float64)
    return dataclasses.replace(arguments, path1=x, path2=y)


def tolerance(arguments):
    nodes = sum(
        (path.shape[1] - 1) * 2**order + 1
        for path, order in zip((arguments.path1, arguments.path2), arguments.dyadic_order, strict=True)
    )
    return 1e-13 * max(nodes, 10) if arguments.path1.dtype == np.float64 else 1e-5


ODD = {
    "pairing": "paired",
    "counts": (9, 9),
    "lengths": (33, 7),
    "dimension": 3,
    "depth": 4,
    "orders": (1, 2),
    "kernel": "linear",
    "dilated": False,
    "quadrature": "trapezoid",
    "ragged": False,
    "dtype": np.float64,
    "size": 1.0,
    "n_jobs": 2,
    "max_batch": -1,
    "seed": 1,
}


@given(settings=settings_of_problems())
@example(settings=ODD | {"quadrature": "lobatto2", "ragged": True})
@example(settings=ODD | {"quadrature": "left", "lengths": (33, 70), "orders": (0, 0)})
@example(settings=ODD | {"depth": math.inf, "ragged": True})
@example(settings=ODD | {"depth": math.inf, "quadrature": "lobatto2", "lengths": (13, 7)})
@example(settings=ODD)
@example(settings=ODD | {"pairing": "symmetric", "lengths": (33, 33), "orders": (1, 1)})
@example(settings=ODD | {"pairing": "gram", "counts": (5, 7), "dtype": np.float32})
@example(settings=ODD | {"counts": (1, 1), "lengths": (100, 64), "orders": (0, 0)})
@example(settings=ODD | {"kernel": "rbf", "dilated": True, "pairing": "gram", "counts": (5, 7), "ragged": True})
def test_values_agree_with_the_reference(core, reference, settings):
    arguments = built(settings, reference)
    found = core.solve(arguments, "end", log=True)
    assert found.dtype == arguments.path1.dtype
    wanted = reference.solve(double(arguments), "end", log=True)
    assert relative(np.exp(found.astype(float)), np.exp(wanted)) < tolerance(arguments)
    ends = core.solve(arguments, "end")
    assert ends.dtype == arguments.path1.dtype
    assert relative(ends, np.exp(wanted)) < tolerance(arguments)


@given(settings=settings_of_problems(), all_levels=st.booleans())
@example(settings=ODD, all_levels=True)
@example(settings=ODD | {"depth": math.inf}, all_levels=False)
def test_grids_agree_with_the_reference(core, reference, settings, all_levels):
    arguments = built(settings, reference, largest=10.0)
    if arguments.pairing == "symmetric":
        arguments = dataclasses.replace(arguments, pairing="gram")
    all_levels = all_levels and arguments.depth != math.inf
    wanted = reference.solve(double(arguments), "stack" if all_levels else "grid")
    assume(np.max(np.abs(np.log(wanted)), initial=0.0) < 20)
    found = core.solve(arguments, "stack" if all_levels else "grid")
    assert found.dtype == arguments.path1.dtype
    assert relative(found, wanted) < tolerance(arguments)
    if not all_levels:
        logs = core.solve(arguments, "grid", log=True)
        assert relative(np.exp(logs.astype(float)), wanted) < tolerance(arguments)


@given(settings=settings_of_problems(), order=st.integers(0, 7), on_grid=st.booleans())
@example(settings=ODD | {"quadrature": "lobatto3", "ragged": True}, order=5, on_grid=True)
@example(settings=ODD | {"pairing": "symmetric", "lengths": (9, 9), "orders": (1, 1)}, order=3, on_grid=False)
def test_parts_and_their_gradients_agree_with_the_reference(core, reference, settings, order, on_grid):
    arguments = dataclasses.replace(built(settings, reference), order=order)
    if on_grid and arguments.pairing == "symmetric":
        arguments = dataclasses.replace(arguments, pairing="gram")
    wanted = reference.solve(double(arguments), "grid" if on_grid else "end")
    found = core.solve(arguments, "grid" if on_grid else "end")
    assert found.dtype == arguments.path1.dtype
    scale = np.maximum(1.0, np.max(np.abs(wanted), axis=-1, keepdims=True))
    np.testing.assert_allclose(found / scale, wanted / scale, rtol=0, atol=tolerance(arguments))
    if arguments.pairing != "symmetric":
        ones = np.ones_like(wanted)
        compare_gradients(core, reference, arguments, settings["seed"], wrt_log=False, left=True, right=True, grid=ones)


@given(settings=settings_of_problems(), wrt_log=st.booleans(), sides=st.sampled_from([(1, 0), (0, 1), (1, 1)]))
@example(settings=ODD, wrt_log=False, sides=(1, 1))
@example(settings=ODD | {"depth": math.inf, "ragged": True}, wrt_log=False, sides=(1, 1))
@example(settings=ODD | {"depth": math.inf, "quadrature": "lobatto2", "lengths": (13, 7)}, wrt_log=True, sides=(1, 1))
@example(settings=ODD | {"quadrature": "lobatto3", "ragged": True}, wrt_log=False, sides=(1, 1))
@example(settings=ODD | {"quadrature": "left", "lengths": (33, 70), "orders": (0, 0)}, wrt_log=True, sides=(1, 1))
@example(settings=ODD | {"pairing": "gram", "counts": (5, 7)}, wrt_log=True, sides=(1, 1))
@example(settings=ODD | {"pairing": "symmetric", "lengths": (9, 9), "orders": (0, 0)}, wrt_log=False, sides=(1, 0))
@example(settings=ODD | {"counts": (1, 1), "lengths": (100, 64), "orders": (0, 0)}, wrt_log=False, sides=(1, 1))
@example(settings=ODD | {"kernel": "rbf", "dilated": True, "ragged": True}, wrt_log=True, sides=(1, 1))
@example(settings=ODD | {"kernel": "polynomial", "dilated": True, "orders": (4, 0)}, wrt_log=False, sides=(1, 1))
def test_gradients_agree_with_the_reference(core, reference, settings, wrt_log, sides):
    arguments = built(settings, reference, largest=15.0)
    left, right = (True, False) if arguments.pairing == "symmetric" else map(bool, sides)
    compare_gradients(core, reference, arguments, settings["seed"], wrt_log=wrt_log, left=left, right=right)


@given(settings=settings_of_problems(pairings=("paired", "gram")), wrt_log=st.booleans())
@example(settings=ODD, wrt_log=False)
@example(settings=ODD | {"depth": math.inf}, wrt_log=False)
@example(settings=ODD | {"depth": math.inf, "quadrature": "lobatto3", "lengths": (9, 7)}, wrt_log=True)
def test_gradients_of_grids_agree_with_the_reference(core, reference, settings, wrt_log):
    arguments = built(settings, reference, largest=15.0)
    grid = reference.solve(double(arguments), "grid")
    assume(np.max(np.abs(np.log(grid)), initial=0.0) < 15)
    compare_gradients(core, reference, arguments, settings["seed"], wrt_log=wrt_log, left=True, right=True, grid=grid)


@given(
    settings=settings_of_problems(
        pairings=("paired", "gram"),
        depths=st.integers(0, 9),
        rules=[name for name, rule in BY_NAME.items() if rule.p == 1],  # a stack has the corners alone
    ),
    on_grid=st.booleans(),
)
@example(settings=ODD, on_grid=False)
def test_gradients_with_a_stack_agree_with_those_without(core, reference, settings, on_grid):
    arguments = built(settings, reference, largest=15.0)
    stack = reference.solve(double(arguments), "stack")
    assume(np.max(np.abs(np.log(stack)), initial=0.0) < 15)
    grid = stack[..., -1, :, :] if on_grid else None
    stack = stack.astype(arguments.path1.dtype)
    compare_gradients(
        core, reference, arguments, settings["seed"], wrt_log=False, left=True, right=True, grid=grid, k_stack=stack
    )


def compare_gradients(core, reference, arguments, seed, *, wrt_log, left, right, grid=None, k_stack=None):
    """Hold gradients against the reference's; `grid` holds the values that derivs belong to, None for the end point."""
    rng = np.random.default_rng(seed)
    if grid is None:
        pairs = (
            (len(arguments.path1),) if arguments.pairing == "paired" else (len(arguments.path1), len(arguments.path2))
        )
        values = np.exp(reference.solve(double(arguments), "end", log=True))
        assert values.shape == pairs
    else:
        values = grid
    # Of one sign and weighed by 1/K, so that no pair drowns another and no sum cancels by chance.
    derivs = rng.uniform(0.5, 1.5, values.shape) / (1.0 if wrt_log else values) / max(values.shape[-1], 1)
    dtype = arguments.path1.dtype
    found = gradients_of(
        core, arguments, derivs.astype(dtype), wrt_log=wrt_log, left=left, right=right, k_stack=k_stack
    )
    wanted = gradients_of(
        reference, double(arguments), derivs.astype(dtype).astype(float), wrt_log=wrt_log, left=left, right=right
    )
    for mine, its, path in zip(found, wanted, (arguments.path1, arguments.path2), strict=True):
        assert (mine is None) == (its is None)
        if mine is not None:
            assert mine.dtype == dtype
            assert mine.shape == path.shape
            assert relative_to_path(mine, its) < 10 * tolerance(arguments)


@pytest.mark.parametrize("dimension", [*range(1, 20), 24, 33])
@pytest.mark.parametrize("kernel", ["linear", "rbf", "polynomial"])
def test_paths_may_have_any_number_of_channels(core, reference, kernel, dimension):
    settings = ODD | {"kernel": kernel, "dimension": dimension, "lengths": (19, 40), "orders": (0, 0)}
    for dilated in {False, kernel != "linear"}:
        arguments = built(settings | {"dilated": dilated}, reference)
        values = core.solve(arguments, "end", log=True), reference.solve(arguments, "end", log=True)
        assert relative(*map(np.exp, values)) < tolerance(arguments)
        compare_gradients(core, reference, arguments, 1, wrt_log=False, left=True, right=True)


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "every other point of a longer path": lambda a: np.repeat(a, 2, axis=-2)[..., ::2, :],
    "every other channel": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "negative strides": lambda a: np.ascontiguousarray(a[..., ::-1, ::-1])[..., ::-1, ::-1],
    "read-only": lambda a: (b := a.copy(), b.setflags(write=False))[0],
    "foreign byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "a view with an offset": lambda a: np.concatenate([a.ravel()[:1], a.ravel()])[1:].reshape(a.shape),
    "broadcast over the batch": lambda a: np.broadcast_to(a[:1], a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_values_and_gradients_do_not_depend_on_how_arrays_lie_in_memory(backend, layout, dtype, rng):
    x, y = walk(rng, 3, 7, 2, dtype=dtype), walk(rng, 3, 5, 2, dtype=dtype)
    derivs = rng.standard_normal(3).astype(dtype)
    strange = [LAYOUTS[layout](a) for a in (x, y)]
    plain = [np.array(a, dtype=dtype, order="C") for a in strange]
    copies = [a.copy() for a in strange]
    np.testing.assert_array_equal(
        branchsig.branched_sig_kernel(*strange, 3, (0, 1)), branchsig.branched_sig_kernel(*plain, 3, (0, 1))
    )
    for found, wanted in zip(
        branchsig.branched_sig_kernel_backprop(derivs[::-1][::-1], *strange, 3, right_deriv=True),
        branchsig.branched_sig_kernel_backprop(derivs, *plain, 3, right_deriv=True),
        strict=True,
    ):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, wanted)
    for a, before in zip(strange, copies, strict=True):
        np.testing.assert_array_equal(a, before)


def test_results_never_share_memory_with_their_inputs(backend, rng):
    x, y = walk(rng, 2, 1, 3), walk(rng, 2, 4, 3)
    derivs = np.ones(2)
    results = [
        branchsig.branched_sig_kernel(x, y, 0),
        *branchsig.branched_sig_kernel_backprop(derivs, x, y, 0, right_deriv=True),
        *branchsig.branched_sig_kernel_backprop(derivs, x, y, 2, right_deriv=True),
        branchsig.transform_path(x),
        branchsig.transform_path_backprop(x),
    ]
    for result in results:
        assert result.flags.writeable
        for given_array in (x, y, derivs):
            assert not np.shares_memory(result, given_array)


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (0,), (2, 0), (2, 1, 2)])
def test_any_number_of_batch_dimensions_is_the_flat_batch_reshaped(backend, batch, rng):
    x, y = walk(rng, *batch, 5, 2), walk(rng, *batch, 4, 2)
    derivs = rng.standard_normal(batch)
    flat = x.reshape(-1, 5, 2), y.reshape(-1, 4, 2)
    value = branchsig.branched_sig_kernel(x, y, 3, 1)
    assert isinstance(value, np.ndarray)
    np.testing.assert_array_equal(value, branchsig.branched_sig_kernel(*flat, 3, 1).reshape(batch))
    grids = branchsig.branched_sig_kernel(x, y, 3, 1, return_grid=True)
    np.testing.assert_array_equal(
        grids, branchsig.branched_sig_kernel(*flat, 3, 1, return_grid=True).reshape(*batch, 9, 7)
    )
    stack = branchsig.branched_sig_kernel_stack(x, y, 3, 1)
    assert stack.shape == (*batch, 4, 9, 7)
    found = branchsig.branched_sig_kernel_backprop(np.asarray(derivs), x, y, 3, 1, right_deriv=True)
    wanted = branchsig.branched_sig_kernel_backprop(np.reshape(derivs, -1), *flat, 3, 1, right_deriv=True)
    for mine, its, path in zip(found, wanted, (x, y), strict=True):
        np.testing.assert_array_equal(mine, its.reshape(path.shape))


@pytest.mark.parametrize("batches", [((), ()), ((2,), ()), ((2, 3), (4,)), ((0,), (3,)), ((2,), (0, 2))])
def test_gram_matrices_have_the_batch_shapes_of_both_sides(backend, batches, rng):
    x, y = walk(rng, *batches[0], 5, 2), walk(rng, *batches[1], 4, 2)
    shape = batches[0] + batches[1]
    gram = branchsig.branched_sig_kernel_gram(x, y, 3, check_finite=False)  # of two single paths it warns
    assert isinstance(gram, np.ndarray)
    assert gram.shape == shape
    for index in np.ndindex(*shape):
        first, second = index[: len(batches[0])], index[len(batches[0]) :]
        alone = branchsig.branched_sig_kernel(x[first], y[second], 3)
        assert gram[index] == pytest.approx(float(alone), rel=1e-13)
    derivs = np.asarray(rng.standard_normal(shape))
    left, right = branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, 3, right_deriv=True)
    assert left.shape == x.shape
    assert right.shape == y.shape


@pytest.mark.parametrize("max_batch", [1, 2, 3, 100])
@pytest.mark.parametrize("which", ["gram", "symmetric", "none"])
def test_max_batch_changes_nothing_but_the_order_of_the_work(backend, max_batch, which, rng):
    x = walk(rng, 5, 6, 2)
    y = {"gram": walk(rng, 4, 5, 2), "symmetric": x, "none": None}[which]
    derivs = rng.standard_normal((5, 4 if which == "gram" else 5))
    whole = branchsig.branched_sig_kernel_gram(x, y, 3)
    np.testing.assert_array_equal(branchsig.branched_sig_kernel_gram(x, y, 3, max_batch=max_batch), whole)
    wanted, _ = branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, 3)
    found, _ = branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, 3, max_batch=max_batch)
    assert relative_to_path(found, wanted) < 1e-13


@pytest.mark.parametrize("which", ["gram", "symmetric"])
def test_progress_counts_up_to_the_number_of_pairs(backend, which, rng):
    x = walk(rng, 6, 5, 2)
    y = x if which == "symmetric" else walk(rng, 4, 5, 2)
    seen = []
    branchsig.branched_sig_kernel_gram(x, y, 3, max_batch=2, progress=lambda done, total: seen.append((done, total)))
    done, totals = zip(*seen, strict=True)
    assert len(set(totals)) == 1
    assert list(done) == sorted(set(done))
    assert done[-1] == totals[0]
    assert totals[0] == (21 if which == "symmetric" else 24)


@given(
    name=st.sampled_from(KERNELS),
    time_aug=st.booleans(),
    lead_lag=st.booleans(),
    mode=st.sampled_from(["value", "grid", "normalize"]),
    form=st.sampled_from(["paired", "gram", "symmetric"]),
    depth=st.integers(0, 5),
    orders=st.sampled_from([(0, 0), (1, 1), (0, 2), (2, 0)]),
    dtype=st.sampled_from([np.float64, np.float32]),
    seed=st.integers(0, 2**32 - 1),
)
def test_public_functions_agree_between_core_and_reference(
    core, reference, name, time_aug, lead_lag, mode, form, depth, orders, dtype, seed
):
    rng = np.random.default_rng(seed)
    x = walk(rng, 4, 9, 2, size=0.2, dtype=dtype)
    y = x if form == "symmetric" else walk(rng, 4, 6, 2, size=0.2, dtype=dtype)
    function = branchsig.branched_sig_kernel if form == "paired" else branchsig.branched_sig_kernel_gram
    options = {
        "static_kernel": QuarticKernel() if name == "quartic" else static_kernel(name)[0],
        "time_aug": time_aug,
        "lead_lag": lead_lag,
        "end_time": 0.3 if time_aug else 1.0,
        "return_grid": mode == "grid",
        "normalize": mode == "normalize",
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*overflowed", category=RuntimeWarning)
        found = function(x, y, depth, orders, **options)
        wide = x.astype(float)
        with using(reference):
            wanted = function(wide, wide if y is x else y.astype(float), depth, orders, **options)
    assert found.dtype == dtype
    moderate = wanted < 1e4  # a path with itself is far larger for some kernels, and then sensitive to each rounding
    assert moderate.any()
    assert relative(found[moderate], wanted[moderate]) < (1e-12 if dtype == np.float64 else 1e-5)
