"""Gram matrices on disk and their gradients, block by block, as Zarr arrays.

A block that is done is recorded beside the array, so that an interrupted run goes on where it stopped, whatever stopped
it. Blocks are computed by this process or by the workers of a `dask.distributed` client, which write them themselves.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from branchsig import _validation
from branchsig._arrays import as_numpy
from branchsig._warnings import warn
from branchsig.frameworks._blocks import Joined, Plan, Stack, fingerprint, joined_where_read, on_disk
from branchsig.operations import OPERATIONS
from branchsig.operations.complaints import what_happened
from branchsig.operations.inputs import axis_order
from branchsig.operations.progress import reporting
from branchsig.operations.stages import Kept
from branchsig.operations.timed import Split, Timed, timed
from branchsig.quadrature import Quadrature
from branchsig.spec import options_of
from branchsig.static_kernels import StaticKernel, is_built_in

try:
    import zarr
    from zarr.errors import ContainsArrayError
except ImportError as error:
    raise ImportError(
        "branchsig.frameworks.zarr needs Zarr 3: install it with 'pip install branchsig[zarr]'"
    ) from error

__all__ = ["gram_to_zarr", "gram_to_zarr_backprop"]

_NOTE = "branchsig"
"""The attribute of a store that says what it is for."""

_AHEAD = 2
"""Blocks that are handed to each thread of the workers at a time."""


def gram_to_zarr(
    path1: Any,
    path2: Any = None,
    depth: float | None = None,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    store: Any,
    chunk: int = 512,
    resume: bool = True,
    client: Any = None,
    compressors: Any = "auto",
    static_kernel: StaticKernel | None = None,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    base_point: bool = False,
    n_jobs: int | None = 1,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    times1: Any = None,
    times2: Any = None,
    normalize: bool | str = False,
    log: bool = False,
    order: int | None = None,
    planar: bool = False,
    check_finite: bool | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Any:
    """Gram matrix of branched signature kernels, written to disk block by block.

    The matrix is that of `branched_sig_kernel_gram`, bit for bit. Neither it nor the paths need to fit in memory. An
    interrupted run goes on where it stopped when it is called again with the same arguments.

    Parameters
    ----------
    path1 : array, shape (n1, length1, dimension)
        First paths: an array of NumPy, a memory-mapped file (`numpy.memmap`) or a Zarr array, of which a block is
        read at a time, or a list of arrays of shape (length, dimension). float32 or float64.
    path2 : array, shape (n2, length2, dimension), optional
        Second paths. `None` gives the symmetric matrix of `path1`, of which one triangle is computed.
    depth : int or math.inf
        Largest depth of the trees. May be left out where `order` is given.
    dyadic_order : int or tuple of int, default: 0
        Every cell is split into ``2**order`` by ``2**order`` sub-cells; a pair of orders is for the first and the
        second path.
    store : path or zarr store
        Where the group is, or is made, whose array ``"gram"`` is the result.
    chunk : int, default: 512
        Rows and columns of a block, and of a chunk of the Zarr array. A block takes ``8 * chunk**2`` bytes for float64.
    resume : bool, default: True
        Whether blocks that are done are kept. False deletes what a former run has left in the store.
    client : distributed.Client, optional
        Whose workers compute and write the blocks; they must see `store`, and paths that lie on disk, under the same
        names. `None`: this process.
    compressors : optional
        Those of the Zarr array, as `zarr.create_array` takes them. `None` for no compression, which is fastest.
    static_kernel, time_aug, lead_lag, end_time, base_point, quadrature, normalize, log, order, planar
        As in `branched_sig_kernel_gram`. With `normalize` the factors or norms are found once for every path.
    n_jobs : int or None, default: 1
        Number of threads for a block, as in joblib.
    lengths1, lengths2 : array of int, shape (n1,) and (n2,), optional
        Valid lengths of padded paths.
    times1, times2 : array, shape (n1, length1) and (n2, length2), optional
        Times of the points, which become the last channel, as in `branched_sig_kernel_gram`; of shape (length1,) and
        (length2,) for those that all paths share. They may lie where paths may, and are a list for a list of paths.
    check_finite : bool, optional
        False turns off the warning of values that are not finite.
    progress : bool or callable, default: False
        True shows a bar, through tqdm; a callable is called with (pairs done, pairs in all).

    Returns
    -------
    zarr.Array, shape (n1, n2)
        The Gram matrix.

    Raises
    ------
    ValueError
        If the store holds something else, or was begun with other paths or options: the message says which. If an
        argument has a shape or value it must not have.
    TypeError
        If an argument is not of the type it must have.
    ImportError
        If Zarr is not installed.

    Warns
    -----
    RuntimeWarning
        Once, with their number, if values that this call computed are not finite.

    See Also
    --------
    gram_to_zarr_backprop : Gradients of a function of such a matrix.
    branchsig.branched_sig_kernel_gram : The same in memory.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from branchsig.frameworks.zarr import gram_to_zarr
    >>> paths = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(5, 6, 2)), axis=1
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gram = gram_to_zarr(paths, depth=3, store=folder, chunk=2, normalize="dilation")
    ...     shape, diagonal = gram.shape, gram[0, 0]
    >>> shape, round(float(diagonal), 6)
    ((5, 5), 2.718282)
    """
    spec, how = options_of(
        depth,
        dyadic_order,
        static_kernel,
        time_aug,
        lead_lag,
        end_time,
        n_jobs,
        quadrature,
        order,
        normalize,
        check_finite,
        log=log,
        base_point=base_point,
        planar=planar,
    )
    spec, path1, path2, _ = _with_times(spec, path1, path2, times1, times2)
    run = _Run(spec, how, path1, path2, lengths1, lengths2, chunk, client)
    group = run.opened(store, resume, "gram")
    plan, dtype = run.plan, run.first.problem.path1.dtype
    if check_finite is not False and (sentence := axis_order(*run.first.given())):
        warn(sentence)
    options = {"dtype": dtype, "compressors": compressors, "config": {"write_empty_chunks": True}}
    gram = _array(group, "gram", plan.shape, (plan.chunk, plan.chunk), fill_value=np.nan, **options)
    done = _marks(group, "done", (plan.count(0), plan.count(1)))
    blocks, finished = list(plan.blocks()), done[...]
    total, reached = sum(map(plan.pairs, blocks)), sum(plan.pairs(block) for block in blocks if finished[block])
    todo = [block for block in blocks if not finished[block]]
    infinite = undefined = 0
    with reporting(progress) as report:
        if report is not None and reached:
            report(reached, total)
        run.find_of_paths(group)
        for block, (not_finite, nan) in run.calls(_write_block, [(group, block) for block in todo]):
            reached, infinite, undefined = reached + plan.pairs(block[1]), infinite + not_finite, undefined + nan
            if report is not None:
                report(reached, total)
    if infinite and check_finite is not False:
        what = what_happened(run.first.problem, spec, infinite, undefined)
        warn(f"{infinite} of the values computed now {what}")
    return gram


def gram_to_zarr_backprop(
    derivs: Any,
    path1: Any,
    path2: Any = None,
    depth: float | None = None,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    store: Any,
    chunk: int = 512,
    resume: bool = True,
    client: Any = None,
    compressors: Any = "auto",
    static_kernel: StaticKernel | None = None,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    base_point: bool = False,
    n_jobs: int | None = 1,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    times1: Any = None,
    times2: Any = None,
    normalize: bool | str = False,
    log: bool = False,
    order: int | None = None,
    planar: bool = False,
    left_deriv: bool = True,
    right_deriv: bool = False,
    progress: bool | Callable[[int, int], None] = False,
) -> tuple[Any, ...]:
    """Gradients of a function of a Gram matrix, block by block, written to disk.

    Parameters
    ----------
    derivs : array, shape (n1, n2)
        Derivatives of a scalar with respect to the Gram matrix, in memory, memory-mapped or in a Zarr array.
    path1 : array, shape (n1, length1, dimension)
        First paths, as in `gram_to_zarr`.
    path2 : array, shape (n2, length2, dimension), optional
        Second paths; `None` for the symmetric matrix of `path1`.
    depth : int or math.inf
        Largest depth of the trees. May be left out where `order` is given.
    dyadic_order : int or tuple of int, default: 0
        Every cell is split into ``2**order`` by ``2**order`` sub-cells.
    store : path or zarr store
        Where the group is, or is made, whose arrays ``"path1"`` and ``"path2"`` are the result. Not that of the matrix.
    chunk : int, default: 512
        Rows and columns of a block.
    resume : bool, default: True
        Whether rows and columns of blocks that are done are kept.
    client : distributed.Client, optional
        Whose workers compute and write. `None`: this process.
    compressors : optional
        Those of the Zarr arrays, as `zarr.create_array` takes them.
    static_kernel, time_aug, lead_lag, end_time, base_point, quadrature, normalize, log, order, planar
        As in `branched_sig_kernel_gram_backprop`.
    n_jobs : int or None, default: 1
        Number of threads for a block, as in joblib.
    lengths1, lengths2 : array of int, shape (n1,) and (n2,), optional
        Valid lengths of padded paths.
    times1, times2 : array, shape (n1, length1) and (n2, length2), optional
        Times of the points, which become the last channel, as in `branched_sig_kernel_gram`; of shape (length1,) and
        (length2,) for those that all paths share. They may lie where paths may, and are a list for a list of paths.
    left_deriv : bool, default: True
        Whether to differentiate with respect to the first paths.
    right_deriv : bool, default: False
        Whether to differentiate with respect to the second paths.
    progress : bool or callable, default: False
        True shows a bar, through tqdm; a callable is called with (pairs done, pairs in all).

    Returns
    -------
    tuple of zarr.Array or None
        The derivatives with respect to `path1`, shape (n1, length1, dimension), and to `path2`; None for a side that is
        not asked for. With ``path2=None`` the first is the whole gradient. For a list of paths they are padded by 0 to
        the longest one. With times, the derivatives with respect to `times1` and `times2` follow, the arrays
        ``"times1"`` and ``"times2"``, in the shapes of the times.

    Raises
    ------
    ValueError
        If the store holds something else, or was begun with other arguments; if an argument has a shape or value it
        must not have.
    TypeError
        If an argument is not of the type it must have.

    See Also
    --------
    gram_to_zarr : The matrix.
    branchsig.branched_sig_kernel_gram_backprop : The same in memory; both agree to within rounding.

    Notes
    -----
    The unit of work, which is recorded when it is done, is a row of blocks for `path1` and a column of blocks for
    `path2`.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from branchsig.frameworks.zarr import gram_to_zarr_backprop
    >>> paths = np.random.default_rng(0).normal(scale=0.1, size=(5, 6, 2)).cumsum(axis=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gradient, _ = gram_to_zarr_backprop(
    ...         np.ones((5, 5)), paths, depth=2, store=folder, chunk=2
    ...     )
    ...     values = gradient[:]
    >>> values.shape
    (5, 6, 2)
    """
    spec, how = options_of(
        depth,
        dyadic_order,
        static_kernel,
        time_aug,
        lead_lag,
        end_time,
        n_jobs,
        quadrature,
        order,
        normalize,
        log=log,
        base_point=base_point,
        planar=planar,
    )
    sides = [side for side, flag in enumerate(_flags(left_deriv, right_deriv, path2)) if flag]
    spec, path1, path2, split = _with_times(spec, path1, path2, times1, times2)
    run = _Run(spec, how, path1, path2, lengths1, lengths2, chunk, client)
    plan = run.plan
    if tuple(getattr(derivs, "shape", ())) != plan.shape:
        raise ValueError(f"derivs has shape {tuple(getattr(derivs, 'shape', ()))}: expected {plan.shape}")
    group = run.opened(store, resume, "gradient", derivs=fingerprint(derivs, None, plan.chunk), sides=sides)
    # With unequal dyadic orders one stack in both places has a gradient for each, which are added.
    both = path2 is None and not plan.triangle
    arrays: list[Any] = [None, None]
    of_times: list[Any] = [None, None]
    options = {"dtype": run.first.problem.path1.dtype, "compressors": compressors}
    for side in sides:
        count, (length, dimension) = plan.stacks[-1 if side else 0].count, _longest(run.paths[side])
        if split is not None:
            dimension -= 1
            of_times[side] = _array(
                group, _of_times(split, side), (count, length), (plan.chunk, length), 0.0, **options
            )
        shape = count, length, dimension
        arrays[side] = _array(group, f"path{side + 1}", shape, (plan.chunk, *shape[1:]), 0.0, **options)
    run.find_of_paths(group)
    done = {side: _marks(group, f"done{side + 1}", (plan.count(side),)) for side in sides}
    finished = {side: marks[...] for side, marks in done.items()}
    work = [(side, block) for side in sides for block in range(plan.count(side))]
    shared = run.sent(on_disk(derivs))
    sizes = {side: plan.shape[1 - side] for side in sides}

    def pairs(side: int, block: int) -> int:
        own = plan.run(side, block)
        return int(own.stop - own.start) * sizes[side]

    reached, total = sum(pairs(*one) for one in work if finished[one[0]][one[1]]), sum(itertools.starmap(pairs, work))
    names = [None if split is None else _of_times(split, side) for side in (0, 1)]
    todo = [(group, shared, *one, both, names[one[0]]) for one in work if not finished[one[0]][one[1]]]
    with reporting(progress) as report:
        for (_, _, side, block, *_), _ in run.calls(_write_gradient, todo):
            reached += pairs(side, block)
            if report is not None:
                report(reached, total)
    if split is None:
        return arrays[0], arrays[1]
    for side in sides:
        if split.shared[side]:
            each, length = of_times[side], of_times[side].shape[1]
            of_times[side] = _array(group, f"times{side + 1}", (length,), (length,), 0.0, **options)
            of_times[side][...] = sum(each[plan.run(side, block)].sum(axis=0) for block in range(plan.count(side)))
    return arrays[0], arrays[1], of_times[0], of_times[1]


def _with_times(spec: Any, path1: Any, path2: Any, times1: Any, times2: Any) -> tuple[Any, Any, Any, Split | None]:
    """Spec and paths with their times, if there are any, and how their gradients are split."""
    operation = timed(OPERATIONS["gram"], times1, times2)
    if not isinstance(operation, Timed):
        return spec, path1, path2, None
    spec, (path1, path2), split = operation.joined(spec, path1, path2, join=joined_where_read)
    return spec, path1, path2, split


def _of_times(split: Split, side: int) -> str:
    """Name of the array of the derivatives with respect to times, for each path."""
    return f"times{side + 1}_of_paths" if split.shared[side] else f"times{side + 1}"


def _flags(left: Any, right: Any, path2: Any) -> tuple[bool, bool]:
    left, right = _validation.flag(left, "left_deriv"), _validation.flag(right, "right_deriv")
    if right and path2 is None:
        raise ValueError(
            "right_deriv is True and path2 is None: the Gram matrix is a function of path1 alone, and left_deriv asks "
            "for its whole gradient. Leave right_deriv out"
        )
    return left, right


def _longest(paths: Any) -> tuple[int, int]:
    """Length and dimension of the longest path."""
    if isinstance(paths, list):
        return max(path.shape[0] for path in paths), paths[0].shape[1]
    return tuple(paths.shape[1:])


def _listed(paths: Any) -> Any:
    return list(paths) if isinstance(paths, tuple) else paths


class _Run:
    """A call: its checked arguments, and who does the work."""

    def __init__(
        self, spec: Any, how: Any, path1: Any, path2: Any, lengths1: Any, lengths2: Any, chunk: Any, client: Any
    ) -> None:
        if isinstance(chunk, bool) or not isinstance(chunk, (int, np.integer)) or chunk < 1:
            raise ValueError(f"chunk is {chunk!r}: expected an integer >= 1, the rows and columns of a block")
        order1, order2 = spec.dyadic_order
        self.paths: tuple[Any, Any] = _listed(path1), _listed(path2)
        first = Stack.of(self.paths[0], lengths1, order1, "path1")
        if path2 is not None:
            stacks: tuple[Stack, ...] = (first, Stack.of(self.paths[1], lengths2, order2, "path2"))
        else:
            if lengths2 is not None:
                raise ValueError("lengths2 with path2=None: the second paths are the first. Leave lengths2 out")
            self.paths = self.paths[0], self.paths[0]
            stacks = (first,) if order1 == order2 else (first, Stack(first.count, first.lengths, order2))
        self.plan = Plan(spec, how, stacks, int(chunk))
        self.client = client
        # One pair tells of all that is wrong with options and shapes, before any work is done.
        self.first = Plan(spec, how, stacks, 1).job(self.paths, (0, 0))
        self._sent = tuple(map(self.sent, map(on_disk, self.paths)))

    def sent(self, paths: Any) -> Any:
        """What stands for an array in the calls: where it lies on disk, or a copy with the workers."""
        if self.client is None or not isinstance(paths, (np.ndarray, list, Joined)):
            return paths
        return self.client.scatter([paths], hash=False)[0]

    def opened(self, store: Any, resume: bool, kind: str, **more: Any) -> zarr.Group:
        """The group of the store, for this call and no other."""
        plan = self.plan
        kernel = plan.spec.static_kernel
        text = repr(plan.spec)
        if not is_built_in(kernel):
            text = f"{text} with parameters {kernel.get_params()}" if hasattr(kernel, "get_params") else text
        same = self.paths[1] is self.paths[0]
        note = {
            "kind": kind,
            "options": text,
            "path1": fingerprint(self.paths[0], plan.stacks[0].lengths, plan.chunk),
            "path2": None if same else fingerprint(self.paths[1], plan.stacks[-1].lengths, plan.chunk),
            "chunk": plan.chunk,
            **more,
        }
        try:
            group = zarr.open_group(store, mode="a")
        except ContainsArrayError:
            raise ValueError(f"store {store!r} holds an array: give a store, or a folder, of its own") from None
        there = group.attrs.asdict().get(_NOTE)
        if there is None and list(group.members()):
            raise ValueError(f"store {store!r} holds other arrays: give a store, or a folder, of its own")
        if there is not None and not resume:
            group = zarr.open_group(store, mode="w")
            there = None
        if there is None:
            group.attrs[_NOTE] = note
            return group
        different = [name for name in note if there.get(name) != note[name]]
        if different:
            name = different[0]
            before, now = (f" ({of[name]})" if name in ("options", "chunk", "kind") else "" for of in (there, note))
            raise ValueError(
                f"store {store!r} was begun with another {name}{before}, and not with the one at hand{now}: its blocks "
                "do not belong to this matrix. Give another store, or resume=False to begin again"
            )
        return group

    def find_of_paths(self, group: zarr.Group) -> None:
        """Find out what is known about every path alone, block by block, and keep it in the group."""
        plan = self.plan
        if not plan.spec.normalize:
            return
        todo = [
            (group, side, block)
            for side in range(len(plan.stacks))
            for block in range(plan.count(side))
            if not _known(group, side, block)
        ]
        for _ in self.calls(_write_of_paths, todo):
            pass

    def calls(self, function: Any, arguments: Iterable[tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Call a function for each of the arguments, by this process or by the workers, and give what it returns."""
        if self.client is None:
            paths = tuple(map(on_disk, self.paths))
            for one in arguments:
                yield one, function(self.plan, *paths, *one)
            return
        from distributed import as_completed

        call = functools.partial(self.client.submit, function, self.plan, *self._sent, pure=False)
        rest = iter(arguments)
        threads = sum(self.client.nthreads().values()) or 1
        running = {call(*one): one for one in itertools.islice(rest, _AHEAD * threads)}
        finished = as_completed(list(running))
        try:
            for future in finished:
                result, one = future.result(), running.pop(future)
                following = next(rest, None)
                if following is not None:
                    future = call(*following)
                    running[future] = following
                    finished.add(future)
                yield one, result
        finally:
            if running and self.client.status == "running":
                self.client.cancel(list(running))


# What workers do.


def _write_of_paths(plan: Plan, paths1: Any, paths2: Any, group: zarr.Group, side: int, block: int) -> None:
    found = plan.of_paths(paths2 if side else paths1, side, block)
    folder = group.require_group(f"of_paths{side + 1}/{block}")
    for name, values in found.items():
        here = as_numpy(values)
        array = np.asarray(values if here is None else here)
        made = folder.create_array(
            name[:-1], shape=array.shape, dtype=array.dtype, overwrite=True, config={"write_empty_chunks": True}
        )
        made[...] = array
    folder.attrs["done"] = True


def _known(group: zarr.Group, side: int, block: int) -> bool:
    folder = group.get(f"of_paths{side + 1}/{block}")
    return folder is not None and bool(folder.attrs.get("done", False))


def _of_paths(plan: Plan, group: zarr.Group, block: tuple[int, int]) -> Kept:
    """What is known about the paths of a block."""
    if not plan.spec.normalize:
        return {}
    found: Kept = {}
    sides = (0,) if plan.triangle and block[0] == block[1] else (0, 1)
    for side in sides:
        stack = 0 if plan.triangle else side
        for name, array in group[f"of_paths{stack + 1}/{block[side]}"].members():
            found[f"{name}{side + 1}"] = array[...]
    return found


def _write_block(plan: Plan, paths1: Any, paths2: Any, group: zarr.Group, block: tuple[int, int]) -> tuple[int, int]:
    """Compute and write a block, and its mirror; return how many values are not finite, and how many of them NaN."""
    rows, columns = plan.run(0, block[0]), plan.run(1, block[1])
    values = plan.values((paths1, paths2), block, _of_paths(plan, group, block))
    gram, mirrored = group["gram"], plan.triangle and block[0] != block[1]
    gram[rows, columns] = values
    if mirrored:
        gram[columns, rows] = np.ascontiguousarray(values.T)
    group["done"][block] = 1
    copies = 2 if mirrored else 1
    return copies * int(np.count_nonzero(~np.isfinite(values))), copies * int(np.count_nonzero(np.isnan(values)))


def _write_gradient(
    plan: Plan,
    paths1: Any,
    paths2: Any,
    group: zarr.Group,
    derivs: Any,
    side: int,
    block: int,
    both: bool,
    of_times: str | None,
) -> None:
    total: Any = None
    for place in (0, 1) if both else (side,):
        others = range(plan.count(1 - place))
        known = [_of_paths(plan, group, (other, block) if place else (block, other)) for other in others]
        found = plan.gradient((paths1, paths2), derivs, place, block, known)
        total = found if total is None else total + found
    there = plan.run(side, block), slice(total.shape[1])
    if of_times is not None:
        total, group[of_times][there] = total[:, :, :-1], total[:, :, -1]
    group[f"path{side + 1}"][there] = total
    group[f"done{side + 1}"][block] = 1


def _array(
    group: zarr.Group, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], fill_value: float, **options: Any
) -> zarr.Array:
    """An array of the group, made where it is not there."""
    found = group.get(name)
    if found is not None:
        return found
    chunks = tuple(min(part, size) for part, size in zip(chunks, shape))
    return group.create_array(name, shape=shape, chunks=chunks, fill_value=fill_value, **options)


def _marks(group: zarr.Group, name: str, shape: tuple[int, ...]) -> zarr.Array:
    """Marks of what is done, each in a chunk of its own, so that two workers never write to one."""
    return _array(group, name, shape, (1,) * len(shape), 0, dtype="uint8", compressors=None)
