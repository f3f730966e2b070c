"""Arrays of Dask, chunked along the batch axes: every result is lazy, and computed chunk by chunk.

Operations that take each path, or pair, by itself run on each chunk as they are. The others are made of blocks of Gram
matrices: the kernels of one chunk of paths with another, and the gradients of these. What the stages find out about
every path alone, the factors of dilation and the norms, is a task of its own for each chunk, which all blocks of this
chunk share. Of a symmetric matrix each pair of chunks is computed once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from branchsig import _validation, _warnings
from branchsig._arrays import in_float64, namespace_of
from branchsig.backends import Wrt
from branchsig.frameworks._binding import Call, stand_in
from branchsig.operations import OPERATIONS, Shape, prepare
from branchsig.operations.complaints import complain, complaints_of, nan_where_paths_are
from branchsig.operations.dilate import Dilate, Scaled
from branchsig.operations.job import Job
from branchsig.operations.stages import Kept, Stage, stage_for, stage_of
from branchsig.spec import Execution, Spec, with_kernel

__all__ = ["claims", "joined", "run", "serves"]

_Key = tuple[Any, ...]
_Index = tuple[int, ...]


def claims(array: Any) -> bool:
    """Tell whether an array is one of Dask."""
    return isinstance(array, da.Array)


def serves(call: Call, arrays: Sequence[Any]) -> bool:
    """Tell whether a call is run here: all."""
    return True


def joined(paths: Any, times: Any) -> Any:
    """Return paths with times as their last channel, in one chunk."""
    paths, times = (one if claims(one) else da.from_array(one, chunks=-1) for one in (paths, times))
    channel = da.broadcast_to(times[..., None], (*paths.shape[:-1], 1))
    return da.concatenate([paths, channel], axis=-1).rechunk({-1: -1})


def run(call: Call, arrays: Sequence[Any]) -> list[Any]:
    """Return the results of a call. Nothing is kept for gradients, which compute what they need."""
    call = dataclasses.replace(call, how=dataclasses.replace(call.how, progress=False))
    derivs = None
    if call.direction in ("backward", "backprop"):
        call, derivs, arrays = dataclasses.replace(call, direction="backprop"), arrays[0], arrays[1:]
    else:
        call = call.towards("value")
    task = _Task.of(call, arrays[: call.operands])
    if any(isinstance(entry, int) for entry in call.given):
        return task.at_once(derivs)
    if OPERATIONS[call.operation].apart:
        return task.by_chunks(derivs)
    return task.gram(derivs) if call.operation == "gram" else task.means(derivs)


class _Task(NamedTuple):
    """A call, its operands as arrays of Dask, and the line it stands in."""

    call: Call
    flat: list[da.Array]
    """The operands but for the parameters."""
    parameters: list[Any]
    """0-d arrays of Dask, or numbers."""
    nodes: tuple[int, ...]
    """Axes of the value after the batch axes, unless operands are lists."""
    line: tuple[str, int]

    @classmethod
    def of(cls, call: Call, arrays: Sequence[Any]) -> _Task:
        """Check the operands without data."""
        count = len(arrays) - len(call.parameters)
        flat, parameters = list(arrays[:count]), list(arrays[count:])
        operation = OPERATIONS[call.operation]
        for k, (operand, name) in enumerate(zip(call.taken(arrays), operation.operands)):
            for one, its in _named(operand, name):
                _check_chunks(one, its, 2 if k < operation.sides else 0)
        shapes = [*_small(flat, call.paths, paired=operation.apart), *map(_shape, parameters)]
        value = call.towards("value").result(*shapes)[0]
        axes = len(value.shape)
        if operation.apart or call.operation == "gram":
            batches = [len(flat[place].shape) - 2 for place in range(call.paths)]
            axes = batches[0] if operation.apart else batches[0] + batches[-1]
        chunked = [_as_dask(one, k < call.paths) for k, one in enumerate(flat)]
        return cls(call, chunked, parameters, value.shape[axes:], _warnings.line_of_the_caller())

    @property
    def operands(self) -> list[Any]:
        """The operands of the operation."""
        return self.call.taken([*self.flat, *self.parameters])

    @property
    def keys(self) -> list[Any]:
        """Keys of the parameters."""
        return [(one.name,) if isinstance(one, da.Array) else one for one in self.parameters]

    @property
    def depends(self) -> list[da.Array]:
        """Arrays among the parameters."""
        return [one for one in self.parameters if isinstance(one, da.Array)]

    def named(self, what: str, *others: Any) -> str:
        """A name for results, the same for the same call of the same arrays."""
        names = [one.name if isinstance(one, da.Array) else one for one in (*self.parameters, *others)]
        return f"branchsig-{what}-{tokenize(self.call.text, *names)}"

    # Everything at once, and each path or pair by itself.

    def at_once(self, derivs: Any) -> list[da.Array]:
        """The results of an operation on lists of paths, in one task."""
        arrays = [one.rechunk(-1) for one in self.flat]
        shapes = self.call.towards("value").result(*map(_shape, (*arrays, *self.parameters)))
        if derivs is not None:
            of_operands = [*map(_shape, (*arrays, *self.parameters))]
            arrays.insert(0, _derivs(derivs, shapes[0].shape, arrays[0]).rechunk(-1))
            shapes = [of_operands[place] for place in self.call.places]
        keys = [(one.name, *(0,) * one.ndim) for one in arrays]
        name = self.named(self.call.operation, *arrays)
        tasks = {(name,): (functools.partial(_run, self.call, self.line), *keys, *self.keys)}
        results = _objects(name, tasks, (), [*arrays, *self.depends])
        return [_taken(results, k, _whole(shape.shape), shape.dtype, arrays[0]) for k, shape in enumerate(shapes)]

    def by_chunks(self, derivs: Any) -> list[da.Array]:
        """The results of an operation that takes each path or pair by itself, on each chunk."""
        arrays, batch = list(self.flat), self.flat[0].shape[:-2]
        if derivs is not None:
            arrays.insert(0, _derivs(derivs, (*batch, *self.nodes), arrays[0]))
        axes, others = len(batch), itertools.count(len(batch))
        labels = [(*range(axes), *(next(others) for _ in range(one.ndim - axes))) for one in arrays]
        _, arrays = da.core.unify_chunks(*itertools.chain.from_iterable(zip(arrays, labels)))
        of_batch = arrays[0].chunks[:axes]
        name = self.named(self.call.operation, *arrays)
        tasks = {}
        for index in np.ndindex(*map(len, of_batch)):
            keys = [(one.name, *index, *(0,) * (one.ndim - axes)) for one in arrays]
            tasks[(name, *index)] = (functools.partial(_run, self.call, self.line), *keys, *self.keys)
        results = _objects(name, tasks, tuple(map(len, of_batch)), [*arrays, *self.depends])
        if derivs is None:
            return [_taken(results, 0, (*of_batch, *_whole(self.nodes)), arrays[0].dtype, arrays[0])]
        found = []
        for k, place in enumerate(self.call.places):
            of_path = place < self.call.paths
            like = arrays[1 + place] if of_path else arrays[1]
            found.append(_taken(results, k, like.chunks, like.dtype, like) if of_path else _added(results, k, like))
        return found

    # What is made of Gram matrices.

    def gram(self, derivs: Any) -> list[da.Array]:
        """The Gram matrix of the paths, or its gradients."""
        path1, path2, lengths1, lengths2 = (*self.operands, None, None)[:4]
        first = _Side.of(path1, lengths1)
        second = first if path2 is None or (path2 is path1 and lengths2 is None) else _Side.of(path2, lengths2)
        if derivs is None:
            return [self.matrix(self.block(), first, second)]
        shape = (*path1.shape[:-2], *second.paths.shape[:-2], *self.nodes)
        derivs = _derivs(derivs, shape, path1)
        found = self.gradients(self.block(), derivs, first, second, self.call.wrt, total=path2 is None)
        return found.listed()

    def means(self, derivs: Any) -> list[da.Array]:
        """A mean of kernels, or its gradients."""
        call, spec, operation = self.call, self.call.spec, cast(Any, OPERATIONS[self.call.operation])
        sample1, sample2, lengths1, lengths2 = (*self.operands, None, None)[:4]
        given = (sample1, lengths1), (sample2, lengths1 if sample2 is sample1 and lengths2 is None else lengths2)
        sides = [_Side.of(sample.astype(np.float64), lengths) for sample, lengths in given]
        counts = [math.prod(side.paths.shape[:-2]) for side in sides]
        weights = [
            weight / (n * (n - 1) if spec.unbiased else n * n) if weight else 0.0
            for weight, n in zip(operation.weights(spec), counts)
        ]
        across = self.block(less_one=True)
        within = [
            across._replace(spec=dataclasses.replace(spec, dyadic_order=(order, order)), alone=spec.unbiased)
            for order in spec.dyadic_order
        ]
        if derivs is None:
            kernels = self.matrix(across, *sides)
            value = -2.0 * (kernels.mean(axis=tuple(range(sides[0].axes))) if operation.each else kernels.mean())
            for side, block, weight in zip(sides, within, weights):
                if weight:
                    value = value + weight * self.matrix(block, side, side).sum()
            return [(value + (sum(operation.weights(spec)) - 2.0)).astype(sample1.dtype)]
        batch = sample2.shape[:-2] if operation.each else ()
        derivs = _derivs(derivs, batch, sample1).astype(np.float64)
        pairs = counts[0] * (1 if operation.each else counts[1])
        of_pairs = _spread(-2.0 / pairs * derivs, sides[0], sides[1])
        found = self.gradients(across, of_pairs, sides[0], sides[1], call.wrt)
        for k, (side, block, weight) in enumerate(zip(sides, within, weights)):
            wrt = Wrt(call.wrt[k], False, call.wrt.parameters)
            if weight and any(wrt):
                of_side = _spread(weight * derivs.sum(), side, side)
                more = self.gradients(block, of_side, side, side, wrt, total=True)
                found = found.plus(more if k == 0 else more._replace(path1=None, path2=more.path1))
        return [one.astype(sample1.dtype) for one in found.listed()]

    def block(self, *, less_one: bool = False) -> _Block:
        """What is computed of the blocks of a Gram matrix."""
        return _Block(self.call, self.call.spec, self.line, less_one, False)

    def of_paths(self, block: _Block, side: _Side, order: int) -> da.Array | None:
        """What the stages find out about every path of a side alone; None if that is nothing."""
        spec = block.spec
        if not spec.normalize or spec.rtol is not None:
            return None
        plain = dataclasses.replace(
            spec, dyadic_order=(order, order), log=False, return_grid=False, return_levels=False, lam=1.0, unbiased=True
        )
        # The same name for the values and the gradients of all matrices that these paths are in.
        text = Call("gram", "value", plain, Execution(), ("array", None, None, None)).text
        names = [one.name if isinstance(one, da.Array) else one for one in (*self.parameters, *side.arrays)]
        name = f"branchsig-of_paths-{tokenize(text, side.lengths is None, *names)}"
        do = functools.partial(_known, block._replace(spec=plain))
        tasks = {(name, *index): (do, *side.at(index), *self.keys) for index in side.chunks()}
        return _objects(name, tasks, side.paths.numblocks[:-2], [*side.arrays, *self.depends]).array

    def matrix(self, block: _Block, first: _Side, second: _Side) -> da.Array:
        """The values of a Gram matrix."""
        triangle = block.is_triangle(first, second)
        known = self.known(block, first, second)
        name = self.named(
            "less_one" if block.less_one else "gram",
            block.spec.dyadic_order,
            block.alone,
            *first.arrays,
            *second.arrays,
        )
        nodes = () if block.less_one else self.nodes
        ends = (0,) * len(nodes)
        tasks: dict[_Key, Any] = {}
        for i, j in itertools.product(first.chunks(), second.chunks()):
            if triangle and i < j:
                tasks[(name, *i, *j, *ends)] = (functools.partial(_mirrored, first.axes), (name, *j, *i, *ends))
                continue
            keys = first.at(i), second.at(j), known.at(i, j)
            tasks[(name, *i, *j, *ends)] = (functools.partial(_values, block), *itertools.chain(*keys), *self.keys)
        chunks = (*first.paths.chunks[:-2], *second.paths.chunks[:-2], *_whole(nodes))
        dependencies = [*first.arrays, *second.arrays, *known.arrays, *self.depends]
        return _array(name, tasks, chunks, first.paths.dtype, first.paths, dependencies)

    def known(self, block: _Block, first: _Side, second: _Side) -> _Known:
        """What is known of the paths of both sides alone."""
        order1, order2 = block.spec.dyadic_order
        return _Known(self.of_paths(block, first, order1), self.of_paths(block, second, order2))

    def gradients(
        self, block: _Block, derivs: da.Array, first: _Side, second: _Side, wrt: Wrt, *, total: bool = False
    ) -> _Found:
        """The gradients of a Gram matrix; with `total`, of one that is a function of the first paths alone."""
        triangle = total and block.is_triangle(first, second)
        derivs = derivs.rechunk(
            (*first.paths.chunks[:-2], *second.paths.chunks[:-2], *derivs.shape[first.axes + second.axes :])
        )
        known = self.known(block, first, second)
        asked = Wrt(wrt.path1, wrt.path2 or (total and wrt.path1), wrt.parameters)
        name = self.named(
            "gradient", block.spec.dyadic_order, block.alone, tuple(asked), total, derivs, *first.arrays, *second.arrays
        )
        ends = (0,) * (derivs.ndim - first.axes - second.axes)
        tasks: dict[_Key, Any] = {}
        for i, j in itertools.product(first.chunks(), second.chunks()):
            if triangle and i < j:
                continue
            mirrored = (derivs.name, *j, *i, *ends) if triangle and i != j else None
            do = functools.partial(_gradients, block, asked, triangle)
            keys = [(derivs.name, *i, *j, *ends), mirrored, *first.at(i), *second.at(j), *known.at(i, j)]
            tasks[(name, *i, *j)] = (do, *keys, *self.keys)
        blocks = (*first.paths.numblocks[:-2], *second.paths.numblocks[:-2])
        dependencies = [derivs, *first.arrays, *second.arrays, *known.arrays, *self.depends]
        results = _objects(name, tasks, blocks, dependencies)
        rows, columns = list(first.chunks()), list(second.chunks())

        def of_rows(i: _Index) -> list[tuple[_Key, int]]:
            if triangle:
                return [((name, *max(i, j), *min(i, j)), int(i < j)) for j in columns]
            return [((name, *i, *j), 0) for j in columns]

        of_first = _summed(results, first.paths, of_rows) if asked.path1 else None
        of_second = None
        if asked.path2 and not triangle:
            of_second = _summed(results, second.paths, lambda j: [((name, *i, *j), 1) for i in rows])
        if total and of_second is not None and of_first is not None:
            of_first, of_second = of_first + of_second, None
        of_parameters: list[da.Array] = []
        if wrt.parameters:
            of_parameters = [_added(results, 2 + k, first.paths) for k in range(len(self.call.parameters))]
        return _Found(of_first if wrt.path1 else None, of_second, of_parameters)


class _Side(NamedTuple):
    """The paths of one side, and their valid lengths, chunked alike."""

    paths: da.Array
    lengths: da.Array | None

    @classmethod
    def of(cls, paths: da.Array, lengths: da.Array | None) -> _Side:
        """Chunk the lengths as the paths are."""
        return cls(paths, None if lengths is None else lengths.rechunk(paths.chunks[:-2]))

    @property
    def axes(self) -> int:
        """Number of batch axes."""
        return len(self.paths.shape) - 2

    @property
    def arrays(self) -> list[da.Array]:
        """The arrays."""
        return [self.paths] if self.lengths is None else [self.paths, self.lengths]

    def chunks(self) -> Iterator[_Index]:
        """The chunks along the batch axes."""
        return iter(np.ndindex(*self.paths.numblocks[:-2]))

    def at(self, index: _Index) -> tuple[_Key, _Key | None]:
        """The keys of one chunk."""
        return (self.paths.name, *index, 0, 0), None if self.lengths is None else (self.lengths.name, *index)

    def is_same(self, other: _Side) -> bool:
        """Whether the other side has the same paths."""
        return [one.name for one in self.arrays] == [one.name for one in other.arrays]


class _Known(NamedTuple):
    """What is known of the paths of both sides of a Gram matrix alone, by chunks, if there is anything to know."""

    first: da.Array | None
    second: da.Array | None

    @property
    def arrays(self) -> list[da.Array]:
        """The arrays that there are."""
        return [one for one in self if one is not None]

    def at(self, i: _Index, j: _Index) -> tuple[_Key | None, _Key | None]:
        """The keys for one block."""
        first, second = self
        return None if first is None else (first.name, *i), None if second is None else (second.name, *j)


class _Found(NamedTuple):
    """Gradients as arrays of Dask."""

    path1: da.Array | None
    path2: da.Array | None
    parameters: list[da.Array]

    def plus(self, other: _Found) -> _Found:
        """The sums with other gradients."""
        first, second = (b if a is None else a if b is None else a + b for a, b in zip(self[:2], other[:2]))
        parameters = [a + b for a, b in zip(self.parameters, other.parameters)]
        return _Found(first, second, parameters)

    def listed(self) -> list[da.Array]:
        """Those that there are, in order."""
        return [*(one for one in (self.path1, self.path2) if one is not None), *self.parameters]


# What tasks do.


class _Block(NamedTuple):
    """What is computed of the blocks of a Gram matrix."""

    call: Call
    spec: Spec
    line: tuple[str, int]
    less_one: bool
    """Whether it is K - 1, for a mean."""
    alone: bool
    """Whether the kernels of paths with themselves are left out of that."""

    @property
    def stage(self) -> Stage:
        """The outermost stage."""
        spec = self.spec
        if self.less_one:
            return stage_of(spec.normalize, spec.signed, "less one", False)
        return stage_for(spec)

    def is_triangle(self, first: _Side, second: _Side) -> bool:
        """Whether the matrix is symmetric."""
        return (
            first.is_same(second)
            and self.spec.dyadic_order[0] == self.spec.dyadic_order[1]
            and not self.spec.return_grid
        )

    def with_values(self, parameters: Sequence[Any]) -> Spec:
        """The spec with the values of the parameters."""
        kernel = self.call.spec_with([*[None] * (self.call.operands - len(parameters)), *parameters]).static_kernel
        return with_kernel(self.spec, kernel)

    def job(self, parameters: Sequence[Any], x: Any, lengths1: Any, y: Any, lengths2: Any) -> Job:
        """The problem of a block."""
        spec, how = self.with_values(parameters), self.call.how
        same = y is x and lengths2 is lengths1
        lengths2 = None if same else lengths2
        if not self.less_one:
            return prepare.gram(spec, how, x, y, lengths1, lengths2)
        names = OPERATIONS[self.call.operation].operands
        job = prepare.samples(spec, how, x, y, lengths1, lengths2, names=(names[0], names[1]), single=True, here=True)
        symmetric = same and spec.dyadic_order[0] == spec.dyadic_order[1]
        return job.on(dataclasses.replace(job.problem, pairing="symmetric")) if symmetric else job


def _run(call: Call, line: tuple[str, int], *arrays: Any) -> list[Any]:
    """The results of a call on one chunk."""
    with _warned(line):
        return call(*(np.asarray(one) if isinstance(one, float) else one for one in arrays))


def _known(block: _Block, x: Any, lengths: Any, *parameters: Any) -> Kept:
    """What the stages find out about every path of a chunk alone."""
    problem = prepare.alone(block.with_values(parameters), block.call.how, x, lengths).problem
    with np.errstate(all="ignore"):
        return block.stage.of_paths(problem)


def _of_both(known1: Kept | None, known2: Kept | None) -> Kept:
    """What is known of the paths of a block."""
    return {**(known1 or {}), **{f"{name[:-1]}2": array for name, array in (known2 or {}).items()}}


def _values(
    block: _Block, x: Any, lengths1: Any, y: Any, lengths2: Any, known1: Any, known2: Any, *parameters: Any
) -> Any:
    """The values of a block."""
    batch, known = tuple(x.shape[:-2]) + tuple(y.shape[:-2]), _of_both(known1, known2) or None
    if block.less_one and 0 in batch:
        return namespace_of(x).zeros(batch, dtype=x.dtype)
    with _warned(block.line):
        job = block.job(parameters, x, lengths1, y, lengths2)
        if not block.less_one:
            return _GRAM.forward(job, keep=False, of_paths=known)[0]
        problem = job.problem
        with np.errstate(all="ignore"):
            value, _ = block.stage.forward(problem, keep=False, of_paths=known)
            if problem.depth == math.inf and problem.order is None:
                value = nan_where_paths_are(value, problem)
            value = in_float64(value)
            if block.alone and problem.pairing == "symmetric":
                value = _off_diagonal(value)
            complain(*complaints_of(value, job))
        return namespace_of(value).reshape(value, batch)


def _gradients(
    block: _Block,
    wrt: Wrt,
    total: bool,
    derivs: Any,
    mirrored: Any,
    x: Any,
    lengths1: Any,
    y: Any,
    lengths2: Any,
    known1: Any,
    known2: Any,
    *parameters: Any,
) -> list[Any]:
    """The gradients of a block, with `total` of one of a symmetric matrix with its mirror image."""
    square = y is x and lengths2 is lengths1
    if mirrored is not None:
        derivs = derivs + _mirrored(x.ndim - 2, mirrored)
    if block.alone and square:
        xp, n = namespace_of(derivs), math.prod(x.shape[:-2])
        derivs = xp.reshape(_off_diagonal(xp.reshape(derivs, (n, n))), derivs.shape)
    plain = block._replace(less_one=False)
    if total and square:
        job = prepare.gram(plain.with_values(parameters), plain.call.how, x, None, lengths1)
        wrt = wrt._replace(path2=False)
    else:
        job = plain.job(parameters, x, lengths1, y, lengths2)
    known, stage = _of_both(known1, known2), plain.stage
    with _warned(block.line), np.errstate(all="ignore"):
        if known and isinstance(stage, Dilate):
            scaled = Scaled.again(job.problem, known)
            kept = known | (stage.inner.residuals(scaled.problem) if stage.inner.keeps else {})
        else:
            kept = _GRAM.residuals(job)
        first, second, *others = _GRAM.pull_back(job, kept, _GRAM.derivs(job, derivs), wrt)
    return [first, second, *(others[0].values() if others else ())]


def _off_diagonal(matrix: Any) -> Any:
    """A square matrix with zeros on its diagonal, whatever stands there."""
    xp, n = namespace_of(matrix), matrix.shape[0]
    index = xp.arange(n)
    return xp.where(index[:, None] == index[None, :], xp.zeros_like(matrix), matrix)


def _mirrored(axes: int, block: Any) -> Any:
    """The block on the other side of the diagonal."""
    order = (*range(axes, 2 * axes), *range(axes), *range(2 * axes, block.ndim))
    return namespace_of(block).permute_dims(block, order)


def _one_of(results: Sequence[Any], k: int) -> Any:
    """The k-th result of a task with one more axis in front."""
    return np.asarray(results[k])[None] if isinstance(results[k], np.generic) else results[k][None]


@contextlib.contextmanager
def _warned(line: tuple[str, int]) -> Iterator[None]:
    """Give the warnings of a task at the line that its array was made in."""
    with _warnings.collected() as messages:
        yield
    for message, category in messages:
        warnings.warn_explicit(message, category, *line)


_GRAM: Any = OPERATIONS["gram"]


# Arrays and graphs.


class _Results(NamedTuple):
    """Tasks that return lists, as an array of objects with one entry for each."""

    array: da.Array
    keys: list[_Key]


def _array(
    name: str, tasks: Mapping[_Key, Any], chunks: Any, dtype: Any, like: da.Array, dependencies: Sequence[da.Array]
) -> da.Array:
    """An array of the chunks that tasks return."""
    graph = HighLevelGraph.from_collections(name, tasks, dependencies)
    return da.Array(graph, name, chunks, meta=da.utils.meta_from_array(like._meta, len(chunks), dtype))


def _objects(name: str, tasks: Mapping[_Key, Any], counts: Sequence[int], dependencies: Sequence[da.Array]) -> _Results:
    graph = HighLevelGraph.from_collections(name, tasks, dependencies)
    chunks = tuple((1,) * count for count in counts)
    return _Results(da.Array(graph, name, chunks, meta=np.empty((0,) * len(chunks), object)), list(tasks))


def _taken(results: _Results, k: int, chunks: Any, dtype: Any, like: da.Array) -> da.Array:
    """The k-th results of all tasks, which are the chunks of an array."""
    name = f"{results.array.name}-{k}"
    ends = (0,) * (len(chunks) - results.array.ndim)
    tasks = {(name, *key[1:], *ends): (operator.getitem, key, k) for key in results.keys}
    return _array(name, tasks, chunks, dtype, like, [results.array])


def _added(results: _Results, k: int, like: da.Array) -> da.Array:
    """The sum of the k-th results, of no axes, of all tasks."""
    name = f"{results.array.name}-sum-{k}"
    tasks = {(name, place): (_one_of, key, k) for place, key in enumerate(results.keys)}
    return _array(name, tasks, ((1,) * len(tasks),), like.dtype, like, [results.array]).sum(axis=0)


def _summed(results: _Results, like: da.Array, of: Callable[[_Index], list[tuple[_Key, int]]]) -> da.Array:
    """For every chunk of paths the sum of those results that are named for it."""
    tasks: dict[_Key, Any] = {}
    terms: list[Any] = []
    name = f"{results.array.name}-{tokenize(like.name, [of(i) for i in np.ndindex(*like.numblocks[:-2])][:1])}"
    for index in np.ndindex(*like.numblocks[:-2]):
        terms = of(index)
        for place, (key, k) in enumerate(terms):
            tasks[(name, place, *index, 0, 0)] = (_one_of, key, k)
    chunks = ((1,) * len(terms), *like.chunks)
    return _array(name, tasks, chunks, like.dtype, like, [results.array]).sum(axis=0)


def _whole(shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Chunks of axes that are in one."""
    return tuple((size,) for size in shape)


def _named(operand: Any, name: str) -> list[tuple[Any, str]]:
    """Arrays of an operand and their names."""
    if isinstance(operand, list):
        return [(one, f"{name}[{k}]") for k, one in enumerate(operand)]
    return [] if operand is None else [(operand, name)]


def _check_chunks(array: Any, name: str, ends: int) -> None:
    """Check that sizes are known, and that the last axes, those of length and dimension, are in one chunk."""
    if not isinstance(array, da.Array):
        return
    if any(map(math.isnan, array.shape)):
        raise ValueError(
            f"{name} has shape {array.shape}, with sizes that Dask does not know: expected sizes that are known. Call "
            f"{name}.compute_chunk_sizes() first"
        )
    if ends and any(count > 1 for count in array.numblocks[-ends:]):
        raise ValueError(
            f"{name} has chunks {array.chunks}: expected its last two axes, length and dimension, in one chunk each. "
            f"Give {name}.rechunk({{-2: -1, -1: -1}})"
        )


def _as_dask(array: Any, is_path: bool) -> da.Array:
    if isinstance(array, da.Array):
        return array
    ends = 2 if is_path else 0
    return da.from_array(array, chunks=(*("auto",) * (array.ndim - ends), *(-1,) * ends))


def _shape(array: Any) -> Shape:
    return Shape((), "float64") if isinstance(array, float) else Shape(tuple(array.shape), str(array.dtype))


_FEW = 2**20
"""So many numbers, or pairs, are checked as they are."""


def _small(flat: Sequence[Any], paths: int, *, paired: bool) -> list[Shape]:
    """Shapes of operands, of fewer paths where there are so many that a check would need memory for all."""
    shapes = [*map(_shape, flat)]
    batches = [shape.shape[:-2] for shape in shapes[:paths]]
    fits = all(shape.shape in batches for shape in shapes[paths:]) and not (paired and len(set(batches)) > 1)
    if not fits or max(math.prod(shape.shape) for shape in shapes) * math.prod(map(math.prod, batches[1:])) <= _FEW:
        return shapes
    cut = [len(shape.shape) - (2 if k < paths else 0) for k, shape in enumerate(shapes)]
    return [
        Shape((*(min(size, 2) for size in shape.shape[:n]), *shape.shape[n:]), shape.dtype)
        for shape, n in zip(shapes, cut)
    ]


def _derivs(derivs: Any, shape: tuple[int, ...], like: da.Array) -> da.Array:
    """Check derivatives of a value of some shape."""
    if isinstance(derivs, (float, int, np.generic)):
        derivs = np.asarray(derivs, like.dtype)
    if not hasattr(derivs, "shape") or tuple(derivs.shape) != shape or derivs.dtype != like.dtype:
        _validation.same_shape(stand_in(derivs), "derivs", shape, stand_in(like), "path1")
    return derivs if isinstance(derivs, da.Array) else da.from_array(derivs)


def _spread(weights: da.Array, first: _Side, second: _Side) -> da.Array:
    """Weights of the second paths, or of all, as weights of all pairs."""
    chunks = (*first.paths.chunks[:-2], *second.paths.chunks[:-2])
    weights = weights.rechunk(second.paths.chunks[:-2]) if weights.ndim else weights
    return da.broadcast_to(weights, tuple(map(sum, chunks)), chunks=chunks)
