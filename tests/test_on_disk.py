"""Gram matrices on disk: the bits of those in memory, each block once, whatever stops a run half-way."""

import contextlib
import errno
import itertools
import os
import signal

import numpy as np
import pytest

import branchsig

zarr = pytest.importorskip("zarr")

from branchsig.frameworks import _blocks  # noqa: E402
from branchsig.frameworks.zarr import gram_to_zarr, gram_to_zarr_backprop  # noqa: E402
from branchsig.operations import dilate  # noqa: E402

X = np.random.default_rng(0).normal(scale=0.15, size=(13, 9, 2)).cumsum(axis=1)
Y = np.random.default_rng(1).normal(scale=0.15, size=(6, 7, 2)).cumsum(axis=1)
OPTIONS = {
    "plain": {"depth": 3},
    "dilation": {"depth": 3, "normalize": "dilation"},
    "dilation of RBF": {"depth": 2, "normalize": "dilation", "static_kernel": branchsig.RBFKernel(1.0)},
    "unit norm": {"depth": 3, "normalize": True},
    "unit norm by nodes": {"order": 3, "normalize": True},
    "dilation by nodes": {"order": 3, "normalize": "dilation", "log": True},
    "unequal orders": {"depth": 2, "dyadic_order": (1, 0), "normalize": "dilation"},
    "unit norm at unequal orders": {"depth": 2, "dyadic_order": (0, 1), "normalize": True, "lead_lag": True},
    "transforms": {"depth": 2, "log": True, "time_aug": True, "end_time": 0.5, "base_point": True},
    "untruncated": {"depth": np.inf, "quadrature": "lobatto3"},
}


@pytest.fixture
def store(tmp_path):
    return tmp_path / "gram"


@pytest.fixture
def blocks(monkeypatch):
    """The blocks that are computed, in their order."""
    seen = []
    values = _blocks.Plan.values

    def counted(plan, paths, block, of_paths):
        seen.append(block)
        return values(plan, paths, block, of_paths)

    monkeypatch.setattr(_blocks.Plan, "values", counted)
    return seen


class Stop(Exception):
    """What stops a run."""


def stopping_after(number, how=Stop):
    calls = itertools.count(1)

    def progress(_done, _pairs):
        if next(calls) == number:
            raise how

    return progress


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("second", [False, True], ids=["symmetric", "two stacks"])
def test_a_matrix_on_disk_has_the_bits_of_the_one_in_memory(store, options, dtype, second):
    x, y = X.astype(dtype), Y.astype(dtype) if second else None
    found = gram_to_zarr(x, y, store=store, chunk=4, **options)
    exact = branchsig.branched_sig_kernel_gram(x, y, **options)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[...], exact)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("second", [False, True], ids=["symmetric", "two stacks"])
def test_gradients_on_disk_are_those_in_memory(store, options, second):
    y = Y if second else None
    derivs = np.random.default_rng(2).normal(size=(len(X), len(X if y is None else y)))
    found = gram_to_zarr_backprop(derivs, X, y, store=store, chunk=4, right_deriv=second, **options)
    exact = branchsig.branched_sig_kernel_gram_backprop(derivs, X, y, right_deriv=second, **options)
    for got, wanted in zip(found, exact, strict=True):
        if wanted is None:
            assert got is None
        else:
            np.testing.assert_allclose(got[...], wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["memory", "mapped", "zarr", "list", "padded"])
def test_paths_may_lie_in_memory_in_files_or_in_zarr_arrays(store, tmp_path, kind):
    lengths = None
    if kind == "mapped":
        np.save(tmp_path / "x.npy", X)
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
    elif kind == "zarr":
        x = zarr.create_array(tmp_path / "x", data=X, chunks=(5, 9, 2))
    elif kind == "list":
        x = [path[: 3 + k % 5] for k, path in enumerate(X)]
    else:
        x = X
        lengths = np.arange(len(X)) % 6 + 3 if kind == "padded" else None
    found = gram_to_zarr(x, depth=2, store=store, chunk=5, lengths1=lengths, normalize="dilation")
    in_memory = list(x) if kind == "list" else X
    exact = branchsig.branched_sig_kernel_gram(in_memory, None, 2, lengths1=lengths, normalize="dilation")
    np.testing.assert_array_equal(found[...], exact)


T = np.random.default_rng(4).uniform(0.05, 0.3, size=(13, 9)).cumsum(axis=1)
U = np.random.default_rng(5).uniform(0.05, 0.3, size=(6, 7)).cumsum(axis=1)
TIMED = [{"depth": 2}, {"depth": 2, "normalize": "dilation", "lead_lag": True, "base_point": True}]


def placed(array, where, folder):
    """An array in memory, in a file, or in a Zarr array."""
    if where == "memory":
        return array
    if where == "zarr":
        return zarr.create_array(folder / f"{array.shape}.zarr", data=array, chunks=(5, *array.shape[1:]))
    np.save(folder / f"{array.shape}.npy", array)
    return np.load(folder / f"{array.shape}.npy", mmap_mode="r")


@pytest.mark.parametrize("options", TIMED, ids=repr)
@pytest.mark.parametrize("where", ["memory", "mapped", "zarr", "list"])
@pytest.mark.parametrize("second", [False, True], ids=["symmetric", "two stacks"])
@pytest.mark.parametrize("shared", [False, True], ids=["times of paths", "shared times"])
def test_times_are_a_channel_of_matrices_and_of_their_gradients(tmp_path, options, where, second, shared):
    x, y, t, u = X, Y if second else None, T[0] if shared else T, U[0] if shared else U
    u = u if second else None
    in_memory = x, y, t, u
    if where == "list":
        if shared:
            t = [t] * len(x)
            u = [u] * len(y) if second else None
        cut = [3 + k % 5 for k in range(13)]
        x, t = ([one[:n] for one, n in zip(many, cut)] for many in (x, t))
        y, u = (None if many is None else [one[: n - 1] for one, n in zip(many, cut)] for many in (y, u))
        given = in_memory = x, y, t, u
    else:
        given = [None if one is None else placed(one, where, tmp_path) for one in in_memory]
    x, y, t, u = given
    found = gram_to_zarr(x, y, store=tmp_path / "gram", chunk=4, times1=t, times2=u, **options)
    x, y, t, u = in_memory
    exact = branchsig.branched_sig_kernel_gram(x, y, times1=t, times2=u, **options)
    np.testing.assert_array_equal(found[...], exact)

    derivs = np.random.default_rng(2).normal(size=exact.shape)
    x, y, t, u = given
    found = gram_to_zarr_backprop(
        derivs, x, y, store=tmp_path / "gradient", chunk=4, times1=t, times2=u, right_deriv=second, **options
    )
    x, y, t, u = in_memory
    exact = branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, times1=t, times2=u, right_deriv=second, **options)
    for got, wanted in zip(found, exact, strict=True):
        if wanted is None:
            assert got is None
            continue
        for mine, its in zip(got, wanted, strict=True) if where == "list" else [(got[...], wanted)]:
            mine = mine[: its.shape[0]]
            np.testing.assert_allclose(mine, its, rtol=0, atol=1e-12 * max(1.0, np.abs(its).max()))


def test_times_that_do_not_fit_are_refused_and_other_times_are_another_run(store):
    for times, error, words in (
        (T[:, :5], ValueError, r"times1 has shape \(13, 5\): expected \(13, 9\)"),
        (T.astype(np.float32), TypeError, "float32"),
    ):
        with pytest.raises(error, match=words):
            gram_to_zarr(X, depth=2, store=store, times1=times)
    with pytest.raises(ValueError, match="times1 is given and times2 is not"):
        gram_to_zarr(X, Y, depth=2, store=store, times1=T)
    assert not store.exists()
    gram_to_zarr(X, depth=2, store=store, chunk=4, times1=T)
    with pytest.raises(ValueError, match="begun with another path1"):
        gram_to_zarr(X, depth=2, store=store, chunk=4, times1=2.0 * T)
    with pytest.raises(ValueError, match="begun with another options"):
        gram_to_zarr(X, depth=2, store=store, chunk=4)


def test_every_block_of_one_triangle_is_computed_once_and_every_factor_searched_once(store, blocks, monkeypatch):
    searched = []
    search = dilate.search

    def counted(own, *arguments):
        searched.append(own.path1.shape[0])
        return search(own, *arguments)

    monkeypatch.setattr(dilate, "search", counted)
    gram_to_zarr(X, depth=2, store=store, chunk=4, normalize="dilation")
    assert sorted(blocks) == [(i, j) for i in range(4) for j in range(i + 1)]
    assert sum(searched) == len(X)


@pytest.mark.parametrize("how", [Stop, KeyboardInterrupt])
def test_a_run_that_was_stopped_goes_on_where_it_stopped(store, blocks, how):
    options = {"depth": 3, "normalize": "dilation"}
    with pytest.raises(how):
        gram_to_zarr(X, store=store, chunk=4, progress=stopping_after(3, how), **options)
    before = list(blocks)
    assert len(before) == 3
    reports = []
    found = gram_to_zarr(X, store=store, chunk=4, progress=lambda done, pairs: reports.append((done, pairs)), **options)
    assert len(blocks) == 10
    assert not set(before) & set(blocks[3:])
    np.testing.assert_array_equal(found[...], branchsig.branched_sig_kernel_gram(X, None, **options))
    pairs = len(X) * (len(X) + 1) // 2
    assert reports[0][0] > 0
    assert reports[-1] == (pairs, pairs)
    assert [done for done, _ in reports] == sorted({done for done, _ in reports})


def test_gradients_go_on_where_they_stopped(store, monkeypatch):
    derivs = np.ones((13, 13))
    with pytest.raises(Stop):
        gram_to_zarr_backprop(derivs, X, depth=2, store=store, chunk=4, progress=stopping_after(2))
    seen = []
    gradient = _blocks.Plan.gradient
    monkeypatch.setattr(
        _blocks.Plan, "gradient", lambda plan, *arguments: seen.append(arguments[3]) or gradient(plan, *arguments)
    )
    found, _ = gram_to_zarr_backprop(derivs, X, depth=2, store=store, chunk=4)
    assert seen == [2, 3]
    exact, _ = branchsig.branched_sig_kernel_gram_backprop(derivs, X, None, 2)
    np.testing.assert_allclose(found[...], exact, rtol=0, atol=1e-12 * np.abs(exact).max())


def test_blocks_of_zeros_and_of_nan_are_done_too(store, blocks):
    x = X.copy()
    x[:4] = 0.0  # log K = 0
    x[4:8, 3] = np.nan
    with pytest.warns(RuntimeWarning, match="not finite|NaN"):
        gram_to_zarr(x, depth=2, log=True, store=store, chunk=4)
    assert len(blocks) == 10
    found = gram_to_zarr(x, depth=2, log=True, store=store, chunk=4)
    assert len(blocks) == 10
    assert np.all(found[:4, :4] == 0.0)
    assert np.isnan(found[4:8]).all()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"depth": 2}, "options"),
        ({"normalize": True}, "options"),
        ({"static_kernel": branchsig.RBFKernel(2.0)}, "options"),
        ({"path1": X + 1e-9}, "path1"),
        ({"path2": Y}, "path2"),
        ({"lengths1": [9] * 12 + [8]}, "path1"),
        ({"chunk": 5}, "chunk"),
    ],
)
def test_a_run_with_other_arguments_is_refused_and_says_why(store, blocks, change, named):
    arguments = {"path1": X, "path2": None, "depth": 3, "chunk": 4}
    gram_to_zarr(**arguments, store=store)
    before = zarr.open_array(store / "gram")[...]
    with pytest.raises(ValueError, match=f"begun with another {named}.*resume=False"):
        gram_to_zarr(**(arguments | change), store=store)
    np.testing.assert_array_equal(zarr.open_array(store / "gram")[...], before)
    del blocks[:]
    gram_to_zarr(**(arguments | change), store=store, resume=False)
    assert blocks


def test_what_others_have_put_into_a_store_stays(tmp_path):
    zarr.open_group(tmp_path / "group").create_array("data", data=np.ones(3))
    zarr.create_array(tmp_path / "array", data=np.ones(3))
    for name, resume in itertools.product(("group", "array"), (True, False)):
        with pytest.raises(ValueError, match="holds"):
            gram_to_zarr(X, depth=2, store=tmp_path / name, resume=resume)
    assert zarr.open_group(tmp_path / "group")["data"][0] == 1


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"chunk": 0}, ValueError, "chunk"),
        ({"depth": -1}, ValueError, "depth"),
        ({"path1": X[0]}, ValueError, "path1 has shape"),
        ({"path2": Y[:, :, :1]}, ValueError, "dimension"),
        ({"path2": Y.astype(np.float32)}, TypeError, "float32"),
        ({"lengths2": [1]}, ValueError, "lengths2"),
        ({"lengths1": [3]}, ValueError, "lengths1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(store, change, error, words):
    with pytest.raises(error, match=words):
        gram_to_zarr(**({"path1": X, "depth": 2} | change), store=store)
    assert not store.exists()


def test_a_disk_that_is_full_loses_nothing(tmp_path, blocks):
    class Small(zarr.storage.LocalStore):
        room = 6

        async def set(self, key, value, *arguments, **options):
            if key.startswith("gram/c/"):
                if Small.room == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                Small.room -= 1
            return await super().set(key, value, *arguments, **options)

    with pytest.raises(OSError, match="No space left"):
        gram_to_zarr(X, depth=2, store=Small(tmp_path / "gram"), chunk=4)
    before = len(blocks)
    found = gram_to_zarr(X, depth=2, store=tmp_path / "gram", chunk=4)
    assert len(blocks) == 11  # that which did not fit is computed twice
    assert before > 1
    np.testing.assert_array_equal(found[...], branchsig.branched_sig_kernel_gram(X, None, 2))


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield cluster, client


MANY = np.random.default_rng(3).normal(scale=0.1, size=(48, 40, 3)).cumsum(axis=1)
# Dask and its event loop warn of their own sockets when a worker dies.
dying = pytest.mark.filterwarnings("ignore")


@dying
@pytest.mark.parametrize("kind", ["memory", "mapped"])
def test_workers_share_the_blocks_and_one_may_be_killed(store, tmp_path, cluster, kind):
    _, client = cluster
    paths = MANY
    if kind == "mapped":
        np.save(tmp_path / "x.npy", MANY)
        paths = np.load(tmp_path / "x.npy", mmap_mode="r")
    workers = list(client.run(os.getpid).values())
    calls = itertools.count()

    def progress(_done, _pairs):
        if next(calls) == 5:
            os.kill(workers[0], signal.SIGKILL)

    options = {"depth": 3, "normalize": "dilation"}
    found = gram_to_zarr(paths, store=store, chunk=6, client=client, progress=progress, **options)
    np.testing.assert_array_equal(found[...], branchsig.branched_sig_kernel_gram(MANY, None, **options))
    derivs = np.ones(found.shape)
    gradient, _ = gram_to_zarr_backprop(derivs, paths, store=tmp_path / "gradient", chunk=12, client=client, **options)
    exact, _ = branchsig.branched_sig_kernel_gram_backprop(derivs, MANY, None, **options)
    np.testing.assert_allclose(gradient[...], exact, rtol=0, atol=1e-12 * np.abs(exact).max())


@dying
def test_workers_read_times_where_they_lie(tmp_path, cluster):
    _, client = cluster
    times = np.random.default_rng(6).uniform(0.05, 0.3, size=(48, 40)).cumsum(axis=1)
    for where in ("memory", "mapped"):
        folder = tmp_path / where
        folder.mkdir()
        paths, stamps = placed(MANY, where, folder), placed(times, where, folder)
        found = gram_to_zarr(paths, depth=2, store=folder / "gram", chunk=16, client=client, times1=stamps)
        np.testing.assert_array_equal(found[...], branchsig.branched_sig_kernel_gram(MANY, None, 2, times1=times))


@dying
def test_a_run_whose_scheduler_is_gone_fails_and_goes_on_elsewhere(store, cluster, blocks):
    cluster, client = cluster
    calls = itertools.count()

    def progress(_done, _pairs):
        if next(calls) == 5:
            cluster.close(timeout=20)

    with pytest.raises(Exception) as caught:
        gram_to_zarr(MANY, depth=3, store=store, chunk=6, client=client, progress=progress)
    assert not isinstance(caught.value, (AssertionError, KeyboardInterrupt))
    with contextlib.suppress(Exception):
        client.close(timeout=5)
    found = gram_to_zarr(MANY, depth=3, store=store, chunk=6)
    assert len(blocks) <= 36 - 6
    np.testing.assert_array_equal(found[...], branchsig.branched_sig_kernel_gram(MANY, None, 3))
