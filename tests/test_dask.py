"""Arrays of Dask, chunked along the batch axes: lazy values and gradients of every operation, chunk by chunk.

Values and gradients are held against those of NumPy's arrays, which other tests hold against formulas.
"""

import math
import warnings

import numpy as np
import pytest
from cases import QuarticKernel, walk
from framework_cases import ALONE, KERNELS, MORE, SHORT, WITH_PARAMETERS, close

import branchsig

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

RTOL = [case for case in MORE if "rtol" in case.options]
CASES = [case for case in SHORT + MORE if case not in RTOL]


@pytest.fixture(autouse=True)
def one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def chunked(array, size=2):
    """Paths or weights in chunks along their first axis."""
    array = np.asarray(array)
    return da.from_array(array, chunks=(size,) + (-1,) * (array.ndim - 1) if array.ndim else ())


def lazily(function, *arrays):
    """Results of a function, checked to be arrays of Dask of the shape and dtype that they say."""
    found = function(*arrays)
    for one in found if isinstance(found, tuple) else (found,):
        if one is not None and not isinstance(one, dict):
            assert isinstance(one, da.Array)
            there = one.compute()
            assert one.shape == there.shape
            assert one.dtype == there.dtype
            assert one._meta.ndim == one.ndim
    return found


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_values_and_gradients_are_those_of_numpy(case, dtype, rng):
    paths = case.paths(rng, dtype)
    value = case.value(*paths)
    arrays = [chunked(path) for path in paths]
    close(lazily(case.value, *arrays).compute(), value, dtype)
    weights = np.asarray(rng.standard_normal(value.shape), dtype)
    found = lazily(case.gradients, chunked(weights), *arrays)
    for mine, its in zip(found, case.gradients(weights, *paths), strict=True):
        close(mine.compute(), its, dtype)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_pullbacks_give_the_same(case, rng):
    paths = case.paths(rng)
    itself = () if len(paths) > 1 or case.name in ALONE else (None,)
    value, pullback = getattr(branchsig, case.name + "_vjp")(
        *map(chunked, paths), *itself, **{"depth": 3} | case.options
    )
    close(value.compute(), case.value(*paths))
    weights = rng.standard_normal(value.shape)
    found = pullback(chunked(weights))
    found = found if isinstance(found, tuple) else (found,)
    for mine, its in zip(found, case.gradients(weights, *paths)):
        close(mine.compute(), its)


@pytest.mark.parametrize(("kind", "values", "fixed"), KERNELS)
@pytest.mark.parametrize("case", WITH_PARAMETERS, ids=repr)
def test_parameters_of_static_kernels_have_gradients(case, kind, values, fixed, rng):
    paths = case.paths(rng)
    kernel = kind(**dict(zip(kind.parameters, values)), **fixed)
    lazy = kind(**{name: da.from_array(np.asarray(value)) for name, value in zip(kind.parameters, values)}, **fixed)
    weights = rng.standard_normal(case.value(*paths, static_kernel=kernel).shape)
    backprop = getattr(branchsig, case.name + "_backprop")
    second = [] if case.name in ALONE else [None]
    more = {"depth": 3} | case.options | {"param_deriv": True}

    def gradients(weights, *paths, static_kernel):
        return backprop(
            weights, *(*paths, *second)[: 1 if case.name in ALONE else 2], **more, static_kernel=static_kernel
        )

    *wanted, of_parameters = gradients(weights, *paths, static_kernel=kernel)
    for held in (kernel, lazy):
        *found, mine = gradients(chunked(weights), *map(chunked, paths), static_kernel=held)
        for one, its in zip(found, wanted, strict=True):
            assert (one is None) == (its is None)
            if its is not None:
                np.testing.assert_allclose(one.compute(), its, rtol=1e-10, atol=1e-13)
        assert list(mine) == list(of_parameters)
        for name, its in of_parameters.items():
            np.testing.assert_allclose(mine[name].compute(), its, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"normalize": "dilation"}, {"order": 3}], ids=repr)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_symmetric_gram_matrix_has_the_bits_of_numpy(options, dtype, rng):
    x = walk(rng, 7, 6, 2).astype(dtype)
    found = branchsig.branched_sig_kernel_gram(chunked(x, 3), None, 3, **options).compute()
    np.testing.assert_array_equal(found, branchsig.branched_sig_kernel_gram(x, None, 3, **options))
    np.testing.assert_array_equal(found, found.T)


class Counted(branchsig.StaticKernel):
    """The inner product, which counts the pairs of paths that it is asked for."""

    pairs = 0

    def __call__(self, ctx, x, y):
        type(self).pairs += len(x)
        return np.diff(x, axis=1) @ np.diff(y, axis=1).swapaxes(1, 2)


def test_each_pair_of_chunks_of_a_symmetric_matrix_is_computed_once(rng):
    Counted.pairs = 0
    x = walk(rng, 6, 5, 2)
    branchsig.branched_sig_kernel_gram(chunked(x), None, 3, static_kernel=Counted()).compute()
    assert Counted.pairs == 3 * 3 + 3 * 4  # triangles of three chunks, and three pairs of chunks
    Counted.pairs = 0
    branchsig.branched_sig_kernel_gram(chunked(x), chunked(0.5 * x), 3, static_kernel=Counted()).compute()
    assert Counted.pairs == 36


@pytest.mark.parametrize("case", [SHORT[0], SHORT[2], SHORT[4], MORE[6]], ids=repr)
def test_a_static_kernel_of_the_user_has_the_gradients_that_it_defines(case, rng):
    paths = case.paths(rng)
    weights = rng.standard_normal(case.value(*paths).shape)
    own = {"static_kernel": QuarticKernel()}
    close(case.value(*map(chunked, paths), **own).compute(), case.value(*paths, **own))
    found = case.gradients(chunked(weights), *map(chunked, paths), **own)
    for mine, its in zip(found, case.gradients(weights, *paths, **own), strict=True):
        close(mine.compute(), its)


def test_factors_of_dilation_are_searched_once_for_each_path(monkeypatch, rng):
    from branchsig.operations import dilate

    searched = []
    search = dilate.search

    def counting(self_pairs, *arguments):
        searched.append(len(self_pairs.path1))
        return search(self_pairs, *arguments)

    monkeypatch.setattr(dilate, "search", counting)
    x, y = walk(rng, 6, 5, 2), walk(rng, 4, 5, 2)
    options = {"depth": 3, "normalize": "dilation"}
    lazy = chunked(x)
    value, pullback = branchsig.branched_sig_kernel_gram_vjp(lazy, None, **options)
    dask.compute(value, pullback(da.ones((6, 6), chunks=2))[0])
    assert sum(searched) == 6
    searched.clear()
    lazy = chunked(x), chunked(y)
    value, pullback = branchsig.branched_sig_mmd_vjp(*lazy, **options)
    dask.compute(value, *pullback(1.0))
    assert sum(searched) == 10


def test_nothing_is_computed_and_nothing_is_said_while_graphs_are_built(rng):
    def never(block):
        if block.size:
            raise AssertionError("computed")
        return block

    x = chunked(walk(rng, 6, 5, 2)).map_blocks(never, dtype=float, meta=np.empty((0, 0, 0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for case in CASES:
            value = case.value(*(x for _ in case.shapes))
            case.gradients(da.ones(value.shape), *(x for _ in case.shapes))
    with pytest.raises(AssertionError, match="computed"):
        value.compute()


def test_several_batch_axes_are_chunked_each(rng):
    x, y = walk(rng, 12, 5, 2).reshape(4, 3, 5, 2), walk(rng, 2, 4, 2)
    lazy = da.from_array(x, chunks=(2, 2, -1, -1))
    weights = rng.standard_normal((4, 3, 4, 3))
    for options in ({}, {"normalize": "dilation", "order": 3, "return_levels": True}, {"return_grid": True}):
        found = branchsig.branched_sig_kernel_gram(lazy, None, 3, **options)
        assert found.numblocks[:4] == (2, 2, 2, 2)
        close(found.compute(), branchsig.branched_sig_kernel_gram(x, None, 3, **options))
    found, _ = branchsig.branched_sig_kernel_gram_backprop(weights, lazy, None, 3)
    close(found.compute(), branchsig.branched_sig_kernel_gram_backprop(weights, x, None, 3)[0])
    found = branchsig.branched_sig_kernel_gram(y, lazy, 3, normalize=True)
    close(found.compute(), branchsig.branched_sig_kernel_gram(y, x, 3, normalize=True))
    close(branchsig.branched_sig_score(y, lazy, 3).compute(), branchsig.branched_sig_score(y, x, 3))
    close(branchsig.branched_sig_score(lazy, y[0], 3).compute(), branchsig.branched_sig_score(x, y[0], 3))


@pytest.mark.parametrize("options", [{}, {"normalize": "dilation"}], ids=repr)
def test_unequal_dyadic_orders_are_those_of_the_sides(options, rng):
    x, y = walk(rng, 5, 5, 2), walk(rng, 4, 4, 2)
    options = options | {"dyadic_order": (1, 0)}
    weights = rng.standard_normal((5, 5))
    found = branchsig.branched_sig_kernel_gram(chunked(x), None, 3, **options)
    close(found.compute(), branchsig.branched_sig_kernel_gram(x, None, 3, **options))
    found, _ = branchsig.branched_sig_kernel_gram_backprop(chunked(weights), chunked(x), None, 3, **options)
    close(found.compute(), branchsig.branched_sig_kernel_gram_backprop(weights, x, None, 3, **options)[0])
    close(
        branchsig.branched_sig_mmd(chunked(x), chunked(y), 3, **options).compute(),
        branchsig.branched_sig_mmd(x, y, 3, **options),
    )
    found = branchsig.branched_sig_mmd_backprop(1.0, chunked(x), chunked(y), 3, right_deriv=True, **options)
    wanted = branchsig.branched_sig_mmd_backprop(1.0, x, y, 3, right_deriv=True, **options)
    for mine, its in zip(found, wanted, strict=True):
        close(mine.compute(), its)


def test_paths_in_both_places_have_gradients_apart(rng):
    x = walk(rng, 5, 5, 2)
    lazy, weights = chunked(x), rng.standard_normal((5, 5))
    options = {"depth": 3, "normalize": True, "right_deriv": True}
    found = branchsig.branched_sig_kernel_gram_backprop(chunked(weights), lazy, lazy, **options)
    wanted = branchsig.branched_sig_kernel_gram_backprop(weights, x, x, **options)
    for mine, its in zip(found, wanted, strict=True):
        close(mine.compute(), its)


RBF = branchsig.RBFKernel(0.9)
GRADIENTS = [
    ("branched_sig_kernel_gram", 2, {"time_aug": True, "lead_lag": True, "base_point": True, "normalize": "dilation"}),
    ("branched_sig_kernel_gram", 1, {"order": 3, "return_levels": True, "normalize": "dilation"}),
    ("branched_sig_kernel_gram", 1, {"return_grid": True}),
    ("branched_sig_kernel_gram", 1, {"left_deriv": False, "param_deriv": True, "static_kernel": RBF}),
    ("branched_sig_mmd", 2, {"normalize": "dilation", "static_kernel": RBF, "param_deriv": True}),
    ("branched_sig_mmd", 2, {"normalize": True, "order": 3, "static_kernel": RBF, "param_deriv": True}),
    ("branched_sig_mmd", 2, {"left_deriv": False}),
    ("branched_sig_score", 2, {"lam": 0.3, "normalize": "dilation", "unbiased": False}),
    ("dilation", 1, {"static_kernel": RBF, "param_deriv": True}),
]


@pytest.mark.parametrize(("name", "operands", "options"), GRADIENTS)
def test_gradients_of_many_options_are_those_of_numpy(name, operands, options, rng):
    paths = [walk(rng, 5, 5, 2), walk(rng, 4, 4, 2)][:operands]
    deriving = {name for name in options if name.endswith("_deriv")}
    plain = {"depth": 3} | {key: value for key, value in options.items() if key not in deriving}
    itself = [None] if (operands, name) == (1, "branched_sig_kernel_gram") else []
    weights = rng.standard_normal(np.shape(getattr(branchsig, name)(*paths, *itself, **plain)))
    sides = {"right_deriv": True} if operands > 1 else {}

    def gradients(weights, *paths):
        found = getattr(branchsig, name + "_backprop")(weights, *paths, *itself, **{"depth": 3} | sides | options)
        for one in found if isinstance(found, tuple) else (found,):
            if one is not None:
                yield from one.values() if isinstance(one, dict) else [one]

    for mine, its in zip(gradients(chunked(weights), *map(chunked, paths)), gradients(weights, *paths), strict=True):
        close(mine.compute(), its)


@pytest.mark.parametrize("case", [SHORT[0], SHORT[1], SHORT[2], SHORT[4], MORE[5]], ids=repr)
@pytest.mark.parametrize("lazy_lengths", [False, True])
def test_valid_lengths_are_chunked_with_their_paths(case, lazy_lengths, rng):
    paths, lengths = case.paths(rng), np.asarray([5, 1, 3])
    weights = rng.standard_normal(case.value(*paths).shape)
    given = da.from_array(lengths, chunks=3) if lazy_lengths else lengths
    arrays = [chunked(path) for path in paths]
    close(case.value(*arrays, lengths1=given).compute(), case.value(*paths, lengths1=lengths))
    for mine, its in zip(
        case.gradients(chunked(weights), *arrays, lengths1=given),
        case.gradients(weights, *paths, lengths1=lengths),
        strict=True,
    ):
        close(mine.compute(), its)


def test_times_are_chunked_with_their_paths(rng):
    x, times = walk(rng, 5, 6, 2), rng.uniform(0.05, 0.3, (5, 6)).cumsum(axis=1)
    weights = rng.standard_normal((5, 5))
    for stamps in (times, times[0]):
        wanted = branchsig.branched_sig_kernel_gram_backprop(weights, x, None, 3, times1=stamps)
        for lazy in (stamps, da.from_array(stamps)):
            found = branchsig.branched_sig_kernel_gram_backprop(weights, chunked(x), None, 3, times1=lazy)
            close(found[0].compute(), wanted[0])
            close(found[2].compute(), wanted[2])


def test_lists_of_paths_are_one_task(rng):
    paths = [walk(rng, 1, length, 2)[0] for length in (5, 2, 4)]
    lazy, weights = [da.from_array(path) for path in paths], rng.standard_normal((3, 3))
    close(
        lazily(branchsig.branched_sig_kernel_gram, lazy, None, 3).compute(),
        branchsig.branched_sig_kernel_gram(paths, None, 3),
    )
    found, _ = branchsig.branched_sig_kernel_gram_backprop(weights, lazy, None, 3)
    wanted, _ = branchsig.branched_sig_kernel_gram_backprop(weights, paths, None, 3)
    for mine, its in zip(found, wanted, strict=True):
        close(mine.compute(), its)


@pytest.mark.parametrize("case", [*RTOL, SHORT[1]], ids=repr)
def test_with_a_tolerance_every_chunk_finds_its_rule(case, rng):
    paths = case.paths(rng)
    found = case.value(*map(chunked, paths), rtol=1e-6).compute()
    np.testing.assert_allclose(found, case.value(*paths, rtol=1e-12), rtol=1e-6)


def test_chunks_of_no_paths_are_no_matter(rng):
    x, y = walk(rng, 5, 5, 2), walk(rng, 3, 4, 2)
    lazy = chunked(x)
    lazy = da.concatenate([lazy, lazy[:0], lazy[:1]])
    whole = np.concatenate([x, x[:1]])
    for name in ("branched_sig_kernel_gram", "branched_sig_mmd", "branched_sig_score"):
        function = getattr(branchsig, name)
        close(
            function(lazy, chunked(y), 3, normalize="dilation").compute(), function(whole, y, 3, normalize="dilation")
        )
    found = branchsig.branched_sig_mmd_backprop(1.0, lazy, chunked(y), 3)[0]
    close(found.compute(), branchsig.branched_sig_mmd_backprop(1.0, whole, y, 3)[0])


@pytest.mark.parametrize("chunks", [(2, 2, -1), (2, -1, 1)])
@pytest.mark.parametrize("case", SHORT, ids=repr)
def test_length_and_dimension_are_in_one_chunk_or_an_error_says_so(case, chunks, rng):
    paths = [da.from_array(path, chunks=chunks) for path in case.paths(rng)]
    with pytest.raises(ValueError, match=r"expected its last two axes, length and dimension, in one chunk.*rechunk"):
        case.value(*paths)


def test_sizes_that_dask_does_not_know_are_named(rng):
    x = chunked(walk(rng, 5, 5, 2))
    some = x[x[:, 0, 0] > -1.0]
    with pytest.raises(ValueError, match=r"path1 has shape \(nan, 5, 2\).*compute_chunk_sizes"):
        branchsig.branched_sig_kernel_gram(some, None, 3)


def test_what_is_wrong_is_said_before_anything_is_computed():
    x, y = da.zeros((4, 5, 2), chunks=(2, -1, -1)), da.zeros((4, 5, 3), chunks=(2, -1, -1))
    with pytest.raises(ValueError, match=r"path1 has shape \(4, 5, 2\) and path2 \(4, 5, 3\): expected"):
        branchsig.branched_sig_kernel_gram(x, y, 3)
    with pytest.raises(ValueError, match=r"derivs has shape \(4, 3\): expected \(4, 4\)"):
        branchsig.branched_sig_kernel_gram_backprop(da.zeros((4, 3)), x, None, 3)
    many = da.zeros((2_000_000, 5, 2), chunks=(1_000_000, -1, -1))
    with pytest.raises(ValueError, match="expected equal batch shapes"):
        branchsig.branched_sig_kernel(many, many[1:], 3)
    with pytest.raises(ValueError, match=r"lengths1 has shape \(3,\): expected \(2000000,\)"):
        branchsig.branched_sig_kernel(many, many, 3, lengths1=[1, 2, 3])


def test_a_stack_that_is_handed_in_is_refused(rng):
    x = walk(rng, 4, 5, 2)
    stack = branchsig.branched_sig_kernel_stack(x, x, 3)
    with pytest.raises(ValueError, match="k_stack with arrays of Dask.*Leave k_stack out"):
        branchsig.branched_sig_kernel_backprop(np.ones(4), chunked(x), chunked(x), 3, k_stack=stack)


def test_a_matrix_of_any_size_is_a_graph():
    many = da.zeros((2_000_000, 5, 2), chunks=(500_000, -1, -1))
    found = branchsig.branched_sig_kernel_gram(many, None, 3, normalize="dilation")
    assert found.shape == (2_000_000, 2_000_000)
    assert found.numblocks == (4, 4)


def test_warnings_name_the_line_that_asked(rng):
    x = chunked(30.0 * walk(rng, 3, 5, 2), 3)
    gram = branchsig.branched_sig_kernel_gram(x, None, 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gram.compute()
    (said,) = [one for one in caught if "of 9 values" in str(one.message)]
    assert said.category is RuntimeWarning
    assert said.filename == __file__


def test_parameters_are_checked_when_they_are_there(rng):
    kernel = branchsig.RBFKernel(da.from_array(np.asarray(-1.0)))
    gram = branchsig.branched_sig_kernel_gram(chunked(walk(rng, 3, 5, 2)), None, 3, static_kernel=kernel)
    with pytest.raises(ValueError, match=r"RBFKernel: sigma is -1.0: expected a finite number > 0"):
        gram.compute()


def test_threads_and_equal_calls_give_equal_names_and_bits(rng):
    x = chunked(walk(rng, 7, 5, 2))
    first, second = (branchsig.branched_sig_kernel_gram(x, None, 3, normalize=True) for _ in range(2))
    assert first.name == second.name
    assert first.name != branchsig.branched_sig_kernel_gram(x, None, 4, normalize=True).name
    with dask.config.set(scheduler="threads"):
        np.testing.assert_array_equal(first.compute(), second.compute(scheduler="synchronous"))


def test_unbounded_depth_and_a_transform_are_lazy_too(rng):
    x = walk(rng, 5, 6, 2)
    close(
        branchsig.branched_sig_kernel_gram(chunked(x), None, math.inf).compute(),
        branchsig.branched_sig_kernel_gram(x, None, math.inf),
    )
    options = {"time_aug": True, "lead_lag": True}
    found = lazily(lambda a: branchsig.transform_path(a, **options), chunked(x))
    close(found.compute(), branchsig.transform_path(x, **options))
