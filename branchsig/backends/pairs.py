"""Pairs of paths: the part of solving a problem that all backends share.

A backend solves pairs with given increments (`Solver`), and may have faster ways for static kernels that it knows.
Everything else happens here, for arrays of any library: pairs are cut into blocks of bounded size, the static kernel
computes their increments, a solver solves them, and the results are collected. A symmetric Gram matrix is solved on and
below its diagonal. This module also mirrors its values, sums gradients over the partners of a path, sets gradients of
padding to zero and those of pairs without a finite value to NaN, and skips pairs whose derivatives are all 0.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from branchsig._arrays import Array, device_of, filled, in_float64, namespace_of, weighted
from branchsig.backends.base import Gradients, Problem, Want, Wrt
from branchsig.static_kernels import (
    Context,
    gradient_parameters,
    gradient_x,
    gradient_y,
    increments,
    is_built_in,
    parameters_of,
)

__all__ = [
    "Solver",
    "adjoint",
    "all_ones",
    "count",
    "counted",
    "shape_of",
    "solve",
    "still",
    "weights_of",
    "without_gradient",
]

S = TypeVar("S")
T = TypeVar("T")
_Index = npt.NDArray[np.int64]


class Solver(Protocol):
    """Solves pairs with given increments, (pairs, length1 - 1, length2 - 1), which are 0 over padding.

    Its problems are paired and hold the paths of these pairs.
    """

    def most_pairs(self, problem: Problem, *, gradients: bool) -> int:
        """Return the largest number of pairs to solve together; it must not depend on the number of threads."""

    def run(self, items: Iterable[S], work: Callable[[S], T], collect: Callable[[T], None]) -> None:
        """Apply `work` to all items, sequentially or in threads, and pass the results to `collect` in order."""

    def room(self, problem: Problem, shape: tuple[int, ...]) -> Array | None:
        """Return an array for the values of all pairs, 0 outside the problem's share; None if arrays are immutable."""

    def values(self, pairs: Problem, given: Array, want: Want, *, log: bool) -> Array:
        """Return what `Backend.solve` returns for these pairs."""

    def increments_adjoint(
        self, pairs: Problem, given: Array, want: Want, derivs: Array, *, log: bool, stack: Array | None
    ) -> Array:
        """Return the gradient with respect to the increments; NaN for every increment of a pair without a finite
        value."""


# Shapes, and problems with nothing to solve.


def count(pairing: str, n1: int, n2: int) -> int:
    """Number of pairs that are computed."""
    if pairing == "paired":
        return n1
    return n1 * n2 if pairing == "gram" else n1 * (n1 + 1) // 2


def shape_of(problem: Problem, want: Want) -> tuple[int, ...]:
    """Return the shape of the result of `Backend.solve`."""
    (n1, length1, _), (n2, length2, _) = problem.path1.shape, problem.path2.shape
    shape: tuple[int, ...] = (n1,) if problem.pairing == "paired" else (n1, n2)
    if want == "prefixes":
        shape = n1, length1
    elif want != "end":
        levels = (int(problem.depth) + 1,) if want == "stack" else ()
        order1, order2 = problem.dyadic_order
        shape = *shape, *levels, ((length1 - 1) << order1) + 1, ((length2 - 1) << order2) + 1
    return shape if problem.order is None else (*shape, problem.order + 1)


def still(problem: Problem) -> bool:
    """Tell whether all kernels are 1: depth 0, paths of one point, or no pairs."""
    (n1, length1, _), (n2, length2, _) = problem.path1.shape, problem.path2.shape
    return problem.largest_depth == 0 or length1 == 1 or length2 == 1 or n1 == 0 or n2 == 0


def all_ones(problem: Problem, want: Want, *, log: bool) -> Array:
    """Return the result of `Backend.solve` if all kernels are 1."""
    xp, shape = namespace_of(problem.path1), shape_of(problem, want)
    in_dtype = {"dtype": problem.path1.dtype, "device": device_of(problem.path1)}
    if problem.order is None:
        return xp.full(shape, float(want == "stack" or not (log or want == "prefixes" or problem.planar)), **in_dtype)
    first = xp.ones((*shape[:-1], 1), **in_dtype)
    return xp.concat([first, xp.zeros((*shape[:-1], problem.order), **in_dtype)], axis=-1)


def without_gradient(problem: Problem, wrt: Wrt) -> Gradients:
    """Return the result of `Backend.adjoint` if all kernels are 1."""
    xp = namespace_of(problem.path1)
    of_parameters = None
    if wrt.parameters:
        shape = *shape_of(dataclasses.replace(problem, order=None), "end"), len(parameters_of(problem.static_kernel))
        of_parameters = xp.zeros(shape, dtype=problem.path1.dtype, device=device_of(problem.path1))
    return Gradients(
        xp.zeros_like(problem.path1) if wrt.path1 else None,
        xp.zeros_like(problem.path2) if wrt.path2 else None,
        of_parameters,
    )


# Blocks of pairs.


@dataclasses.dataclass(frozen=True, slots=True)
class _Block:
    """Pairs that are solved together: path1[index1[k]] with path2[index2[k]].

    They form a rectangle of the matrix, row by row, or a range of paired paths. `first` is the index of the first pair
    among all pairs.
    """

    first: int
    rows: slice
    columns: slice
    index1: _Index
    index2: _Index

    def part(self, chosen: npt.NDArray[np.intp]) -> _Block:
        """Some of the pairs."""
        return dataclasses.replace(self, index1=self.index1[chosen], index2=self.index2[chosen])

    def summed(self, values: Array, pairing: str, side: int) -> Array:
        """Sum values of the pairs (pairs, ...) over the partners of each path in the rows (side 0) or columns (side
        1)."""
        xp = namespace_of(values)
        rows, columns = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        at = self.index1 - self.rows.start, self.index2 - self.columns.start
        if pairing == "paired":  # each path has one partner
            columns, at = 1, (at[0], np.zeros_like(at[1]))
        if len(self.index1) == rows * columns:
            table = xp.reshape(values, (rows, columns, *values.shape[1:]))
        elif type(values) is np.ndarray:
            table = np.zeros((rows, columns, *values.shape[1:]), dtype=values.dtype)
            table[at] = values
        else:
            place, present = np.zeros((rows, columns), dtype=np.int64), np.zeros((rows, columns), dtype=np.bool_)
            place[at], present[at] = np.arange(len(self.index1)), True
            table = xp.reshape(_taken(values, place.ravel()), (rows, columns, *values.shape[1:]))
            present = present.reshape(rows, columns, *(1,) * (values.ndim - 1))
            table = xp.where(_on_device_of(values, present), table, xp.zeros_like(table))
        return table[:, 0, ...] if pairing == "paired" else xp.sum(table, axis=1 - side)


def _blocks(problem: Problem, most: int) -> Iterator[_Block]:
    """Yield the pairs of a problem, row by row, in blocks of at most `most` pairs: whole rows, or parts of one row."""
    n1, n2 = problem.path1.shape[0], problem.path2.shape[0]
    symmetric = problem.pairing == "symmetric"
    if problem.pairing == "paired":
        for start in range(0, n1, most):
            run = slice(start, min(start + most, n1))
            index = np.arange(run.start, run.stop, dtype=np.int64)
            yield _Block(start, run, run, index, index)
        return
    first = start = 0
    while start < n1:
        stop = start + 1
        if symmetric:
            while stop < n1 and (stop + 1) * (stop + 2) // 2 - start * (start + 1) // 2 <= most:
                stop += 1
        else:
            stop = min(n1, start + max(1, most // n2))
        width = stop if symmetric else n2
        step = most if stop == start + 1 else width
        for left in range(0, width, step):
            right = min(left + step, width)
            index1 = np.repeat(np.arange(start, stop, dtype=np.int64), right - left)
            index2 = np.tile(np.arange(left, right, dtype=np.int64), stop - start)
            if symmetric:
                below = index2 <= index1
                index1, index2 = index1[below], index2[below]
            yield _Block(first, slice(start, stop), slice(left, right), index1, index2)
            first += len(index1)
        start = stop


def _shared_blocks(problem: Problem, solver: Solver, *, gradients: bool) -> Iterator[_Block]:
    """The blocks of a problem, or of its share of them."""
    total = count(problem.pairing, problem.path1.shape[0], problem.path2.shape[0])
    most = solver.most_pairs(problem, gradients=gradients)
    if problem.max_batch > 0:
        most = min(most, problem.max_batch**2)
    share, shares = problem.share
    for block in _blocks(problem, max(1, min(most, -(-total // shares)))):
        if total * share // shares <= block.first < total * (share + 1) // shares:
            yield block


def _taken(array: Array, index: _Index) -> Array:
    """Entries of an array along its first axis."""
    if len(index) and np.array_equal(index, np.arange(index[0], index[0] + len(index))):
        return array[int(index[0]) : int(index[0]) + len(index), ...]
    return _chosen(array, index)


def _chosen(array: Array, index: _Index) -> Array:
    return (
        array[index]
        if type(array) is np.ndarray
        else namespace_of(array).take(array, _on_device_of(array, index), axis=0)
    )


def _on_device_of(array: Array, host: Any) -> Array:
    """Convert a NumPy array to the library and device of another array."""
    return host if type(array) is np.ndarray else namespace_of(array).asarray(host, device=device_of(array))


def _pairs(problem: Problem, block: _Block) -> Problem:
    """The pairs of a block as a problem of paired paths."""
    if problem.pairing == "paired" and len(block.index1) == problem.path1.shape[0] and problem.share == (0, 1):
        return problem
    lengths = problem.lengths1, problem.lengths2
    return dataclasses.replace(
        problem,
        path1=_taken(problem.path1, block.index1),
        path2=_taken(problem.path2, block.index2),
        lengths1=None if lengths[0] is None else lengths[0][block.index1],
        lengths2=None if lengths[1] is None else lengths[1][block.index2],
        pairing="paired",
        max_batch=-1,
        progress=None,
        devices=(),
        share=(0, 1),
    )


def _increments(pairs: Problem, ctx: Context) -> Array:
    """Increments of the static kernel, which sees padding replaced by the last valid point."""
    points = filled(pairs.path1, pairs.lengths1), filled(pairs.path2, pairs.lengths2)
    return _in_use(pairs, increments(pairs.static_kernel, ctx, *points))


def _in_use(pairs: Problem, values: Array) -> Array:
    """Set increments, or derivatives with respect to them, to zero over padding."""
    xp = namespace_of(values)
    for lengths, axis in ((pairs.lengths1, 1), (pairs.lengths2, 2)):
        if lengths is not None:
            within = _valid(lengths - 1, values.shape[axis], values)
            values = xp.where(within[:, :, None] if axis == 1 else within[:, None, :], values, xp.zeros_like(values))
    return values


def _valid(lengths: _Index, size: int, like: Array) -> Array:
    """Which of `size` entries lie within the valid lengths, (paths, size)."""
    return _on_device_of(like, np.arange(size)[None, :] < lengths[:, None])


def _in_full_precision(problem: Problem) -> Problem:
    """Convert a problem to double precision, except for custom static kernels."""
    if not is_built_in(problem.static_kernel):
        return problem
    path1 = in_float64(problem.path1)
    path2 = path1 if problem.path2 is problem.path1 else in_float64(problem.path2)
    return dataclasses.replace(problem, path1=path1, path2=path2)


def _in_dtype_of(like: Array, values: Array) -> Array:
    if values.dtype == like.dtype:
        return values
    with np.errstate(all="ignore"):
        return namespace_of(values).astype(values, like.dtype)


# Values.


def solve(problem: Problem, solver: Solver, want: Want, *, log: bool) -> Array:
    """Compute the result of `Backend.solve` with a solver of given increments."""
    if still(problem):
        return all_ones(problem, want, log=log)
    if problem.pairing == "symmetric" and want != "end":  # grids of (x, y) and (y, x) differ
        problem = dataclasses.replace(problem, pairing="gram")
    wide, result = _in_full_precision(problem), _OfPairs(problem, solver, shape_of(problem, want)[problem.axes :])

    def work(block: _Block) -> tuple[_Block, Array]:
        pairs = _pairs(wide, block)
        return block, solver.values(pairs, _increments(pairs, Context()), want, log=log)

    def collect(done: tuple[_Block, Array]) -> None:
        block, values = done
        result.put(block, values, values)
        _report(problem, block)

    with np.errstate(all="ignore"):
        solver.run(_shared_blocks(problem, solver, gradients=False), work, collect)
    return result.all()


class _OfPairs:
    """Collects the values of all pairs block by block; pairs of a triangle come with their mirrored values."""

    def __init__(self, problem: Problem, solver: Solver, behind: tuple[int, ...]) -> None:
        self._problem = problem
        n1, n2 = problem.path1.shape[0], problem.path2.shape[0]
        self._shape = (n1, *behind) if problem.axes == 1 else (n1, n2, *behind)
        self._room = solver.room(problem, (math.prod(self._shape[: problem.axes]), *behind))
        self._parts: tuple[list[Array], list[Array]] = ([], [])

    def put(self, block: _Block, values: Array, mirrored: Array) -> None:
        """Add the values of a block; blocks must come in order."""
        room, problem = self._room, self._problem
        if room is None:
            for parts, part in zip(self._parts, (values, mirrored), strict=True):
                parts.append(_in_dtype_of(problem.path1, part))
        elif problem.pairing == "symmetric":
            n = self._shape[0]
            room[_on_device_of(room, block.index2 * n + block.index1)] = mirrored
            # Written last, so that the diagonal keeps these values.
            room[_on_device_of(room, block.index1 * n + block.index2)] = values
        else:
            room[block.first : block.first + len(block.index1)] = values

    def all(self) -> Array:
        """Return the values, shape (*pairs, ...)."""
        xp, values = namespace_of(self._problem.path1), self._room
        if values is None:
            values = _joined(xp, self._parts[0])
            if self._problem.pairing == "symmetric":
                place, triangle = np.arange(self._shape[0]), values.shape[0]
                row, column = np.maximum.outer(place, place), np.minimum.outer(place, place)
                index = row * (row + 1) // 2 + column + triangle * (place[:, None] < place[None, :])
                values = _chosen(xp.concat([values, _joined(xp, self._parts[1])], axis=0), index.ravel())
        return xp.reshape(values, self._shape)


def _report(problem: Problem, block: _Block) -> None:
    if problem.progress is not None:
        total = count(problem.pairing, problem.path1.shape[0], problem.path2.shape[0])
        problem.progress(block.first + len(block.index1), total)


def _joined(xp: Any, parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)


# Gradients.


def weights_of(derivs: Array, index1: _Index, index2: _Index) -> tuple[Array, Array]:
    """Return the weights of the gradients of both paths of pairs of a triangle, given derivatives (n, n).

    A pair represents (i, j) and (j, i), since d_1 k(x_j, x_i) = d_2 k(x_i, x_j); a diagonal pair represents only
    itself.
    """
    xp, n = namespace_of(derivs), derivs.shape[0]
    flat = xp.reshape(derivs, (n * n,))
    weight1, weight2 = _chosen(flat, index1 * n + index2), _chosen(flat, index2 * n + index1)
    return weight1, xp.where(_on_device_of(flat, index1 == index2), xp.zeros_like(weight2), weight2)


def counted(*derivs: Array) -> Array:
    """Tell which pairs have a nonzero derivative. The others contribute nothing, whatever their values."""
    each = [d if d.ndim == 1 else namespace_of(d).any(d != 0, axis=tuple(range(1, d.ndim))) for d in derivs]
    return functools.reduce(lambda a, b: a | b, (d != 0 for d in each))


def adjoint(
    problem: Problem, solver: Solver, want: Want, derivs: Array, wrt: Wrt, *, log: bool, stack: Array | None = None
) -> Gradients:
    """Compute the result of `Backend.adjoint` with a solver of given increments."""
    names = parameters_of(problem.static_kernel) if wrt.parameters else ()  # raises before anything is solved
    if still(problem) or not (wrt.path1 or wrt.path2 or names):
        return without_gradient(problem, wrt)
    wide, symmetric = _in_full_precision(problem), problem.pairing == "symmetric"
    wanted = wrt.path1, wrt.path1 if symmetric else wrt.path2
    sums = _Sums(problem.path1), _Sums(problem.path2)
    of_parameters = _OfPairs(problem, solver, (len(names),)) if wrt.parameters else None

    def work(block: _Block) -> tuple[_Block, list[Array | None]]:
        weights: tuple[Array, ...] = (
            weights_of(derivs, block.index1, block.index2) if symmetric else (_of_pairs(problem, derivs, block),)
        )
        some = counted(*weights)
        taken = block
        if type(some) is np.ndarray and not some.all():
            chosen = np.flatnonzero(some)
            taken, weights, some = block.part(chosen), tuple(weight[chosen] for weight in weights), some[chosen]
        parts: list[Array | None] = [None, None, None, None]
        if not len(taken.index1):
            if wrt.parameters:
                parts[2] = parts[3] = np.zeros((len(block.index1), len(names)))
            return block, parts
        pairs, ctx = _pairs(wide, taken), Context()
        # The two paths of a pair have different weights, so compute the gradients for the derivative 1 and scale them.
        bars = namespace_of(derivs).ones_like(weights[0]) if symmetric else weights[0]
        of_stack = None if stack is None else _of_pairs(problem, stack, taken)
        d_increments = solver.increments_adjoint(pairs, _increments(pairs, ctx), want, bars, log=log, stack=of_stack)
        gone = _without_value(pairs, d_increments)
        d_increments = _in_dtype_of(pairs.path1, _in_use(pairs, d_increments))
        for side, gradient_of in enumerate((gradient_x, gradient_y)):
            if wanted[side]:
                path, lengths = ((pairs.path1, pairs.lengths1), (pairs.path2, pairs.lengths2))[side]
                gradient = in_float64(gradient_of(pairs.static_kernel, ctx, d_increments, path))
                weight = weights[side] if symmetric else None
                gradient = _judged(pairs, gradient, lengths, gone, some, weight)
                parts[side] = taken.summed(gradient, problem.pairing, side)
        if wrt.parameters:
            of_all = in_float64(gradient_parameters(pairs.static_kernel, ctx, d_increments))
            for place, weight in enumerate(weights if symmetric else (None,), start=2):
                part = _judged(pairs, of_all, None, gone, some, weight)
                if taken is not block:  # pairs without derivatives get 0
                    part, of_some = np.zeros((len(block.index1), len(names))), part
                    part[chosen] = of_some
                parts[place] = part
        return block, parts

    def collect(done: tuple[_Block, list[Array | None]]) -> None:
        block, parts = done
        for side, (part, run) in enumerate(zip(parts[:2], (block.rows, block.columns), strict=True)):
            if part is not None:
                sums[0 if symmetric else side].add(part, run)
        if of_parameters is not None:
            of_parameters.put(block, parts[2], parts[2] if parts[3] is None else parts[3])
        _report(problem, block)

    with np.errstate(all="ignore"):
        solver.run(_shared_blocks(problem, solver, gradients=True), work, collect)
        return Gradients(
            sums[0].total() if wrt.path1 else None,
            sums[1].total() if wrt.path2 else None,
            None if of_parameters is None else of_parameters.all(),
        )


def _of_pairs(problem: Problem, array: Array, block: _Block) -> Array:
    """The entries of an array (*pairs, ...) that belong to the pairs of a block."""
    if problem.axes == 1:
        return _taken(array, block.index1)
    n1, n2 = array.shape[:2]
    return _taken(namespace_of(array).reshape(array, (n1 * n2, *array.shape[2:])), block.index1 * n2 + block.index2)


def _without_value(pairs: Problem, d_increments: Array) -> Array:
    """Which pairs have no finite value: those with gradient NaN for every increment."""
    xp = namespace_of(d_increments)
    gone = xp.isnan(d_increments)
    for lengths, axis in ((pairs.lengths1, 1), (pairs.lengths2, 2)):
        if lengths is not None:
            within = _valid(lengths - 1, gone.shape[axis], gone)
            gone = gone | (~within[:, :, None] if axis == 1 else ~within[:, None, :])
    return xp.all(gone, axis=(1, 2))


def _judged(
    pairs: Problem, gradient: Array, lengths: _Index | None, gone: Array, some: Array, weight: Array | None
) -> Array:
    """Multiply gradients by their weights; set them to NaN for pairs without a finite value unless all derivatives are
    0, and to 0 over padding."""
    xp = namespace_of(gradient)

    def of_pairs(which: Array) -> Array:
        return xp.reshape(which, (-1, *(1,) * (gradient.ndim - 1)))

    gradient = _with(gradient, math.nan, of_pairs(gone))
    if weight is not None:
        gradient = weighted(of_pairs(weight), gradient)
    if not (type(some) is np.ndarray and some.all()):
        gradient = _with(gradient, 0.0, ~of_pairs(some) & ~xp.isfinite(gradient))
    for each in (pairs.lengths1, pairs.lengths2):
        if each is not None:  # the static kernel may be NaN at a path of one point, but has no effect
            gradient = _with(gradient, 0.0, of_pairs(_on_device_of(gradient, each == 1)))
    if lengths is None:
        return gradient
    return _with(gradient, 0.0, ~_valid(lengths, gradient.shape[1], gradient)[:, :, None])


def _with(values: Array, value: float, where: Array) -> Array:
    """Replace the flagged entries of an array by a value."""
    if type(where) is np.ndarray and not where.any():
        return values
    xp = namespace_of(values)
    return xp.where(where, xp.full_like(values, value), values)


class _Sums:
    """Accumulates the gradient of a stack of paths over blocks of pairs."""

    def __init__(self, path: Array) -> None:
        self._path = path
        self._parts: dict[tuple[int, int], Array] = {}

    def add(self, part: Array, run: slice) -> None:
        """Add to the gradients of a run of paths."""
        key = run.start, run.stop
        self._parts[key] = self._parts[key] + part if key in self._parts else part

    def total(self) -> Array:
        """Return the gradient, in the dtype of the paths."""
        xp, ends = namespace_of(self._path), 0
        runs = sorted(self._parts)
        for start, stop in runs:
            ends = stop if start == ends else -1
        if ends == self._path.shape[0]:
            return _in_dtype_of(self._path, _joined(xp, [self._parts[run] for run in runs]))
        total = in_float64(xp.zeros_like(self._path))
        for start, stop in runs:
            pieces = total[:start, ...], total[start:stop, ...] + self._parts[start, stop], total[stop:, ...]
            total = xp.concat(pieces, axis=0)
        return _in_dtype_of(self._path, total)
