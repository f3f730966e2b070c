"""The search for the factors of dilation: the largest for which no prefix of a path exceeds its bound.

Each path is paired with itself. The search runs in float64 on the host for paths of any library; a backend computes the
values of the kernels.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from branchsig._arrays import (
    Array,
    device_of,
    filled,
    host,
    is_traced,
    namespace_of,
    to_numpy,
    unrecorded,
)
from branchsig.backends import Problem, backend_for
from branchsig.operations import roots
from branchsig.quadrature import TRAPEZOID
from branchsig.static_kernels import Context, DilatedKernel, increments, is_built_in, is_linear

__all__ = [
    "Floats",
    "Indices",
    "Limits",
    "Sizes",
    "as_array",
    "cells_of",
    "centred",
    "scaled_problem",
    "search",
    "times",
    "with_path",
    "workable",
]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_LARGEST_CELL = 0.5
"""Largest increment of κ over a cell times K at its ends, if K is solved for: the equation of a cell, c = K exp(-h K),
has no solution for h c > 1/e, and becomes ill-conditioned near that point. By Cauchy-Schwarz a bound on the diagonal
cells of every path with itself holds for the cells of all pairs."""


_NONE = -2


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """The active limit of the factor of each path: the kernel of a prefix with itself, possibly times a cell."""

    node: Indices
    """Index of the last point of the active prefix."""
    cell: Indices
    """The step whose cell times K at the node is active; -1 if K alone is active, and `_NONE` if nothing is."""

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """Which paths have an active limit. The other factors have no gradient."""
        return self.cell > _NONE


def scaled_problem(problem: Problem, path1: Array, path2: Array | None = None) -> Problem:
    """The problem with scaled paths instead of its own."""
    kernel = problem.static_kernel
    return dataclasses.replace(
        problem,
        path1=path1,
        path2=path1 if path2 is None else path2,
        static_kernel=kernel if is_linear(kernel) else DilatedKernel(kernel),
    )


def with_path(self_pairs: Problem, path: Array) -> Problem:
    return dataclasses.replace(self_pairs, path1=path, path2=path)


def cells_of(self_pairs: Problem, steps: Array) -> Problem:
    """Steps as paths of two points each: log K with itself at depth 1 is the increment of κ over the cell of a step."""
    return dataclasses.replace(
        with_path(self_pairs, steps),
        depth=1,
        order=None,
        planar=False,
        dyadic_order=(0, 0),
        quadrature=TRAPEZOID,
        lengths1=None,
        lengths2=None,
    )


def times(self_pairs: Problem, factors: Array) -> Array:
    """The paths times their factors or, if κ is not linear, the paths with their factors as a last channel."""
    path, xp = self_pairs.path1, namespace_of(self_pairs.path1)
    if is_linear(self_pairs.static_kernel):
        with np.errstate(all="ignore"):  # padding may hold anything
            return path * factors[:, None, None]
    column = xp.broadcast_to(factors[:, None, None], (*path.shape[:2], 1))
    return xp.concat([path, column], axis=2)


def workable(path: Array, kernel: Any, *, recorded: bool = False) -> Array:
    """Convert paths to the arrays of the search: float64, and NumPy if they lie on the CPU.

    For a custom static kernel the paths stay unchanged; recorded arrays stay in their library.

    Raises
    ------
    TypeError
        If the paths have no values yet, or are differentiated by their library in a way that the search would lose.
    """
    _check_values(path)
    if not is_built_in(kernel):
        return path
    here = path if type(path) is np.ndarray else None if recorded else to_numpy(path)
    if here is not None:
        return here.astype(np.float64, copy=False)
    xp = namespace_of(path)
    return xp.astype(path, xp.float64, copy=False)


def _check_values(path: Array) -> None:
    """Raise for arrays that have no values yet, or whose values do not carry their derivatives."""
    # Arrays under jax.grad have values, but a search in NumPy would lose their derivatives.
    lazy = is_traced(path) or any(base.__name__ == "Tracer" for base in type(path).__mro__)
    if lazy:
        raise TypeError(
            f'dilation, as by normalize="dilation", of a {type(path).__name__} that is traced, batched or lazy: the '
            "search for the factors needs the values of the paths, which do not exist yet. Use dilation outside of "
            "jit, grad and vmap, on arrays with values, or inside of a callback, as the page on frameworks of the "
            "documentation shows; or compute the factors there with branchsig.dilation and pass in scaled paths"
        )


def as_array(values: npt.NDArray[Any], like: Array) -> Array:
    return namespace_of(like).asarray(values, dtype=like.dtype, device=device_of(like))


def centred(self_pairs: Problem) -> tuple[Problem, Floats]:
    """For a linear κ, subtract the first point of each path and multiply by a power of two; also return that power.

    A factor scales the steps of a path, so centring keeps an offset from costing digits. Powers of two are exact; they
    bring steps near 1 if their squares would be near the ends of the range of floats.
    """
    path = self_pairs.path1
    if not is_linear(self_pairs.static_kernel) or path.shape[1] == 1:
        return self_pairs, np.ones(path.shape[0])
    units = _units(self_pairs)
    with np.errstate(all="ignore"):
        if np.any(units != 1.0):
            path = path * as_array(units, path)[:, None, None]
        return with_path(self_pairs, path - path[:, :1, :]), units


def _units(self_pairs: Problem) -> Floats:
    """Powers of two that bring the largest step near 1 if its square is near an end of the range of floats, else 1."""
    path = filled(unrecorded(self_pairs.path1), self_pairs.lengths1)
    xp = namespace_of(path)
    with np.errstate(all="ignore"):
        largest = host(xp.max(abs(path[:, 1:, :] - path[:, :-1, :]), axis=(1, 2)))
        exponents = np.where(largest > 0, np.frexp(largest)[1], 0)
        if np.any(np.isinf(largest)):  # differences may overflow although points are finite
            quarter = host(xp.max(abs(path[:, 1:, :] / 4 - path[:, :-1, :] / 4), axis=(1, 2)))
            exponents = np.where(np.isinf(largest) & np.isfinite(quarter), np.frexp(quarter)[1] + 2, exponents)
    widest = int(np.log2(float(xp.finfo(path.dtype).max)))
    exponents = np.where(np.abs(exponents) < widest // 8, 0, np.clip(exponents, 1 - widest, widest - 1))
    units: Floats = np.ldexp(1.0, -exponents)
    return units


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """Squared steps and distances of each path in the feature space of κ."""

    steps: Floats
    """The squares of the steps, (paths, length - 1)."""
    distances: Floats
    """The squared distances of the points from the first one: the first terms of log K of the prefixes up to them."""

    @classmethod
    def of(cls, self_pairs: Problem) -> Sizes:
        path = filled(self_pairs.path1, self_pairs.lengths1)
        xp = namespace_of(path)
        paths, length, dimension = path.shape
        if length == 1:
            return cls(np.zeros((paths, 0)), np.zeros((paths, 0)))
        if is_linear(self_pairs.static_kernel):
            unit = xp.asarray([[[0.0], [1.0]]], dtype=path.dtype, device=device_of(path))
            of_unit = float(host(increments(self_pairs.static_kernel, Context(), unit, unit))[0, 0, 0])
            with np.errstate(all="ignore"):
                moves = (path[:, 1:, :] - path[:, :-1, :], path[:, 1:, :] - path[:, :1, :])
                return cls(*(of_unit * host(xp.sum(move * move, axis=2)) for move in moves))
        # The squared norm of a step in the feature space of κ is the increment over its own cell. For every point take
        # the step from the point before, and the step from the first point.
        k = np.arange(1, length)
        ends = np.stack([np.concatenate([k - 1, 0 * k]), np.concatenate([k, k])], axis=1)
        steps = xp.take(path, xp.asarray(np.ravel(ends), device=device_of(path)), axis=1)
        steps = xp.reshape(steps, (paths * 2 * (length - 1), 2, dimension))
        cells = cells_of(self_pairs, steps)
        with np.errstate(all="ignore"):
            squares = np.reshape(host(backend_for(cells).solve(cells, "end", log=True)), (paths, 2, length - 1))
            squares = np.where(squares < 0, 0.0, squares)
        return cls(squares[:, 0], squares[:, 1])

    def guard(self, target: float) -> Floats:
        """Factors that bound all logarithms by the target at every depth; 1 for constant paths."""
        t = min(target, 1.0)
        with np.errstate(all="ignore"):
            variation = np.sum(np.sqrt(self.steps), axis=1)
            factors = math.sqrt(t * math.exp(-t)) / variation
        return np.where(variation == 0.0, 1.0, np.where(np.isfinite(factors) & (factors > 0), factors, np.nan))

    def guess(self, target: float) -> Floats:
        """Initial guesses for the squares of the factors, usually too small: values far above are slow and useless.

        A straight path needs 0.8 to 1 over its extent, a Brownian one about the same; for paths that return again and
        again the sum of their squared steps matters.
        """
        with np.errstate(all="ignore"):
            extent = np.max(self.distances, axis=1, initial=0.0)
            squares: Floats = 0.5 * min(target, 1.0) / np.maximum(extent, 0.25 * np.sum(self.steps, axis=1))
            return squares


def search(self_pairs: Problem, target: float, room: float, start: Floats | None) -> tuple[Floats, Limits]:
    """Find the factors of all paths and their active limits; the search starts at `start` if given."""
    # While a factor is too large, closed paths may have lost digits.
    self_pairs = dataclasses.replace(self_pairs, purpose="rough")
    sizes = Sizes.of(self_pairs)
    paths, length = self_pairs.path1.shape[:2]
    guard, nothing = sizes.guard(target), np.full(paths, _NONE, dtype=np.intp)
    if length == 1 or self_pairs.largest_depth == 0:
        return guard, Limits(np.zeros_like(nothing), nothing)
    if self_pairs.planar:
        return _search_planar(self_pairs, target, guard, sizes)
    growth = (
        _OfComponents(self_pairs, guard) if self_pairs.order is not None else _OfLogarithms(self_pairs, guard, sizes)
    )
    # Below the guard of half the target the cells are small enough as well.
    with np.errstate(all="ignore"):
        squares = sizes.guess(target) if start is None else host(start) ** 2
        begin = np.log(squares / growth.guard**2)
    usable = np.isfinite(growth.guard) & np.any(sizes.distances > 0, axis=1)
    eps = float(namespace_of(self_pairs.path1).finfo(self_pairs.path1.dtype).eps)
    v, column = roots.largest(growth, growth.slopes(), growth.targets(target, room), begin, usable, eps)
    factors = np.where(usable, growth.guard * np.exp(0.5 * v), guard)
    cell = np.where(column >= length, column - length, np.where(column >= 0, -1, _NONE))
    node = np.where(cell >= 0, growth.larger_end(cell), np.where(column > 0, column, length - 1))
    if self_pairs.lengths1 is not None:  # log K is constant over padding
        node = np.minimum(node, self_pairs.lengths1 - 1)
    return factors, Limits(node, cell)


def _search_planar(self_pairs: Problem, target: float, guard: Floats, sizes: Sizes) -> tuple[Floats, Limits]:
    """The same for ordered forests, where |K - 1| of every prefix with itself must stay within e^target - 1.

    The trapezoid rule is not positive semi-definite for them, so K - 1 may fall and even be negative. But on the first
    step that moves it is at least the square of the step, which bounds the factors.
    """
    paths, length = self_pairs.path1.shape[:2]
    growth = _OfPrefixes(self_pairs, guard) if self_pairs.order is None else _OfComponents(self_pairs, guard)
    targets = np.full(length, math.expm1(target))
    moves = sizes.steps > 0
    first = sizes.steps[np.arange(paths), np.argmax(moves, axis=1)]
    usable = np.isfinite(guard) & np.any(moves, axis=1)
    eps = float(namespace_of(self_pairs.path1).finfo(self_pairs.path1.dtype).eps)
    with np.errstate(all="ignore"):
        high = np.log(targets[0] / first) - 2.0 * np.log(guard) + 4 * eps
    v, column = roots.first_crossing(growth, targets, np.zeros(paths), high, usable, eps)
    factors = np.where(usable, guard * np.exp(0.5 * v), guard)
    node = np.where(column > 0, column, length - 1)
    if self_pairs.lengths1 is not None:
        node = np.minimum(node, self_pairs.lengths1 - 1)
    return factors, Limits(node, np.where(column >= 0, -1, _NONE))


class _OfPrefixes:
    """K - 1 of each path and prefix with itself, for ordered forests by depth."""

    def __init__(self, self_pairs: Problem, guard: Floats) -> None:
        self._self_pairs, self.guard = self_pairs, guard

    def __call__(self, index: Indices, v: Floats) -> Floats:
        value = _of_prefixes(self._self_pairs, index, self.guard[index] * np.exp(0.5 * v))
        return np.concatenate([value[:, -1:], value[:, 1:]], axis=1)


def _of_prefixes(self_pairs: Problem, index: Indices, factors: Floats) -> Floats:
    """What a backend returns for the prefixes of some of the paths, times factors."""
    part, xp = self_pairs, namespace_of(self_pairs.path1)
    if len(index) < part.path1.shape[0]:
        path = xp.take(part.path1, xp.asarray(index, device=device_of(part.path1)), axis=0)
        valid = None if part.lengths1 is None else part.lengths1[index]
        part = dataclasses.replace(with_path(part, path), lengths1=valid, lengths2=valid)
    scaled = scaled_problem(part, times(part, as_array(factors, part.path1)))
    return host(backend_for(scaled).solve(scaled, "prefixes"))


class _OfLogarithms:
    """The quantities that must stay within their targets: log K of each path and prefix with itself, and their cells.

    The cells count without truncation, if K at the end of a cell enters the equation of that cell: they are the refined
    increments over the diagonal cells times K at their ends.
    """

    def __init__(self, self_pairs: Problem, guard: Floats, sizes: Sizes) -> None:
        self._self_pairs, self._sizes = self_pairs, sizes
        self._implicit = self_pairs.depth == math.inf and self_pairs.quadrature.matrix[-1][-1] != 0.0
        self.guard = guard * math.sqrt(0.5) if self._implicit else guard
        self._cells = sizes.steps / 4.0 ** self_pairs.dyadic_order[0]
        self._latest = np.zeros(self_pairs.path1.shape[:2])

    def targets(self, target: float, room: float) -> Floats:
        steps = self._sizes.steps.shape[1]
        cells = [_LARGEST_CELL] * steps if self._implicit else []
        return np.array([target, *[target + room] * steps, *cells])

    def slopes(self) -> Floats:
        out = self._sizes.distances
        parts = [out[:, -1:], out, *([self._cells] if self._implicit else [])]
        slopes: Floats = np.concatenate(parts, axis=1) * self.guard[:, None] ** 2
        return slopes

    def __call__(self, index: Indices, v: Floats) -> Floats:
        factors = self.guard[index] * np.exp(0.5 * v)
        log_k = _of_prefixes(self._self_pairs, index, factors)
        self._latest[index] = log_k
        columns = [log_k[:, -1:], log_k[:, 1:]]
        if self._implicit:
            ends = np.maximum(log_k[:, :-1], log_k[:, 1:])
            columns.append(factors[:, None] ** 2 * self._cells[index] * np.exp(ends))
        return np.concatenate(columns, axis=1)

    def larger_end(self, cell: Indices) -> Indices:
        """The end of each cell where K is larger."""
        rows, cell = np.arange(len(cell)), np.maximum(cell, 0)
        ends: Indices = cell + (self._latest[rows, cell + 1] >= self._latest[rows, cell])
        return ends


class _OfComponents:
    """The quantities that must stay within their targets with an order: K − 1 of each path and prefix with itself.

    With λ² = s they are the polynomials Σ s^n k_n from n = 1 on. log K is no such series.
    """

    def __init__(self, self_pairs: Problem, guard: Floats) -> None:
        self.guard = guard
        # Evaluated at the guard, so that no power leaves the range of floats.
        scaled = scaled_problem(self_pairs, times(self_pairs, as_array(guard, self_pairs.path1)))
        self._k = host(backend_for(scaled).solve(scaled, "prefixes"))[:, 1:, 1:]

    def targets(self, target: float, room: float) -> Floats:
        return np.array([math.expm1(target), *[math.expm1(target + room)] * self._k.shape[1]])

    def slopes(self) -> Floats:
        first = self._k[:, :, 0]
        return np.concatenate([first[:, -1:], first], axis=1)

    def __call__(self, index: Indices, v: Floats) -> Floats:
        k, s = self._k[index], np.exp(v)[:, None]
        value: Floats = np.zeros(k.shape[:2])
        for n in range(k.shape[2] - 1, -1, -1):
            value = s * (value + k[:, :, n])
        return np.concatenate([value[:, -1:], value], axis=1)

    def larger_end(self, cell: Indices) -> Indices:
        """Return the cells: there are none to consider."""
        return cell
