"""Dilation: every path is scaled so that its kernel with itself has a given size; then nothing overflows.

The stage passes the problem of the scaled paths to the stage below, and applies the adjoint of the scaling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from branchsig._arrays import (
    Array,
    as_like,
    device_of,
    filled,
    host,
    is_recorded,
    lies_on_cuda,
    namespace_of,
    unrecorded,
    weighted,
)
from branchsig.backends import Gradients, Problem, Wrt, backend_for
from branchsig.operations.factors import (
    Floats,
    Indices,
    Limits,
    as_array,
    cells_of,
    centred,
    scaled_problem,
    search,
    times,
    with_path,
    workable,
)
from branchsig.operations.nodes import less_one_of, of_log_of_sum, of_sum
from branchsig.operations.stages import Geometry, Kept, Shape, Stage
from branchsig.static_kernels import is_linear

__all__ = ["Dilate", "Dilation", "Scaled", "again", "dilation_of", "scale"]

TARGET, ROOM = 1.0, 9.0
"""log K of a scaled path with itself at its end, and by how much its prefixes may exceed that."""


@dataclasses.dataclass(frozen=True, slots=True)
class Dilate:
    """Applies the stage below to paths scaled so that the logarithm of each path's kernel with itself is 1.

    The kernel of x with itself uses the dyadic order of x in both arguments. So it is the squared norm of the features
    of x that enter the kernel of a pair, and the bound by the target holds for unequal orders too.

    It keeps the factors of each stack and their active limits. See `Stage` for the methods.
    """

    inner: Stage

    keeps = True

    @property
    def residual_share(self) -> float:
        """The share of the stage below: the search handles paths, not pairs, and reports no progress."""
        return self.inner.residual_share

    def of_paths(self, problem: Problem) -> Kept:
        """Return the factors, and what keeps them from being larger."""
        return scale(problem, keep=True).kept

    def forward(
        self, problem: Problem, *, keep: bool, before: Kept | None = None, of_paths: Kept | None = None
    ) -> tuple[Array, Kept]:
        """Return the values for the scaled paths, in the library and dtype of the problem."""
        if of_paths is not None:
            scaled = Scaled.again(problem, of_paths)
        else:
            scaled = scale(problem, keep=keep, before=before)
        value, kept = self.inner.forward(scaled.problem, keep=keep)
        return as_like(value, problem.path1), kept | scaled.kept

    def residuals(self, problem: Problem) -> Kept:
        """Return the factors, and the residuals of the stage below."""
        scaled = scale(problem, keep=True)
        return (self.inner.residuals(scaled.problem) if self.inner.keeps else {}) | scaled.kept

    def kept_shapes(self, geometry: Geometry) -> dict[str, Shape]:
        """Return the shapes of the factors and their limits."""
        kept = self.inner.kept_shapes(geometry._replace(dtype="float64"))
        for k, n in enumerate(geometry.paths):
            kept |= {f"factors{k + 1}": Shape((n,)), f"node{k + 1}": Shape((n,), "int64")}
            kept |= {f"cell{k + 1}": Shape((n,), "int64"), f"limit{k + 1}": Shape((n,))}
        return kept

    def adjoint(self, problem: Problem, kept: Kept, derivs: Array, wrt: Wrt, *, total: bool = False) -> Gradients:
        """Return the gradients, through the factors too."""
        scaled = Scaled.again(problem, kept)
        # One stack with two lists of factors (unequal dyadic orders) has an adjoint for each. Factors also depend on
        # the parameters of the static kernel.
        apart = total and not scaled.problem.itself
        asked = Wrt(wrt.path1 or wrt.parameters, wrt.path2 or apart or (wrt.parameters and not total), wrt.parameters)
        found = self.inner.adjoint(scaled.problem, kept, scaled.derivs(derivs), asked, total=total and not apart)
        return scaled.adjoint(found, wrt, total=apart)


@dataclasses.dataclass(frozen=True, slots=True)
class Dilation:
    """One stack of paths, each paired with itself, and their factors."""

    self_pairs: Problem
    """The paths that the factors belong to: for a linear κ, centred on their first point and times a power of two."""
    units: Floats
    """The powers of two."""
    searched: Floats
    """The factors of the paths in `self_pairs`, as found by the search."""
    factors: Array
    """`searched` as an array of the library and dtype of those paths."""
    scaled: Array
    """The paths times their factors or, if κ is not linear, the paths with their factors as a last channel."""
    limits: Limits
    at_limit: Array | None = None
    """The divisor in the gradient of a limit: the sum over nodes at the active node, or the increment of the active
    cell. None unless it is to be kept."""

    @property
    def all_factors(self) -> Array:
        """The factors of the paths of the caller."""
        return self.factors * as_array(self.units, self.factors)

    def kept(self, side: int) -> Kept:
        """The arrays from which `again` rebuilds this object without a search."""
        names = (f"{name}{side + 1}" for name in ("factors", "node", "cell", "limit"))
        limits = self.limits
        arrays = dict(zip(names, (self.searched, limits.node, limits.cell, self.at_limit), strict=True))
        return {name: array for name, array in arrays.items() if array is not None}

    def _split(self, gradient: Array) -> tuple[Array, Array]:
        """Split a gradient with respect to `scaled` into those with respect to the paths and to the logarithms of the
        factors."""
        xp = namespace_of(gradient)
        if is_linear(self.self_pairs.static_kernel):
            scaled = filled(self.scaled, self.self_pairs.lengths1)
            return weighted(gradient, self.all_factors[:, None, None]), xp.sum(weighted(gradient, scaled), axis=(1, 2))
        return gradient[:, :, :-1], self.factors * xp.sum(gradient[:, :, -1], axis=1)

    def of_limit(self, *, parameters: bool = False) -> tuple[Array, Array, Array | None]:
        """Gradients of the active limits (see `_at_limit`) with respect to the paths, the logarithms of the factors and
        the parameters of the static kernel, path by path."""
        xp, limits, at_limit = namespace_of(self.scaled), self.limits, self.at_limit
        if at_limit is None:
            at_limit = _divisors(self.self_pairs, self.scaled, limits)
        found = _gradient_of_log(_prefixes(self.self_pairs, self.scaled, limits), at_limit, parameters)
        gradient: Array = found.path1
        of_parameters = found.parameters
        if np.any(limits.cell >= 0):
            alone = _gradient_of_log(_cells(self.self_pairs, self.scaled, limits), None, parameters)
            of_cell = alone.path1 / at_limit[:, None, None]
            for end in (0, 1):
                selected = np.arange(gradient.shape[1]) == np.where(limits.cell >= 0, limits.cell, -2)[:, None] + end
                mask = xp.asarray(selected[:, :, None], device=device_of(gradient))
                gradient = gradient + xp.where(mask, of_cell[:, end : end + 1, :], xp.zeros_like(gradient))
            if parameters:
                mask = xp.asarray(limits.cell >= 0, device=device_of(gradient))[:, None]
                of_parameters = of_parameters + xp.where(
                    mask, alone.parameters / at_limit[:, None], xp.zeros_like(of_parameters)
                )
        return (*self._split(gradient), of_parameters)

    def through(self, d_factors: Array, of_limit: tuple[Array, Array, Array | None]) -> Gradients:
        """Gradients with respect to the paths and parameters, from one with respect to the logarithms of the factors
        and those of the limits.

        If c(λx) is at its limit, d log λ = −(∂c / ∂x · dx) / (∂c / ∂ log λ).
        """
        xp = namespace_of(d_factors)
        of_paths, slope, of_parameters = of_limit
        found = xp.asarray(self.limits.found, device=device_of(d_factors))
        share = xp.where(found, -d_factors / slope, xp.zeros_like(slope))
        of_paths = xp.where(found[:, None, None], of_paths, xp.zeros_like(of_paths))
        if of_parameters is not None:
            of_parameters = xp.where(found[:, None], of_parameters, xp.zeros_like(of_parameters))
            of_parameters = xp.sum(weighted(share[:, None], of_parameters), axis=0)
        return Gradients(weighted(share[:, None, None], of_paths), None, of_parameters)

    def adjoint(self, gradients: Sequence[Array | None], *, parameters: bool = False) -> list[Gradients]:
        """Gradients with respect to the paths and parameters, from each of several with respect to `scaled`."""
        if all(gradient is None for gradient in gradients):
            return [Gradients()] * len(gradients)
        of_limit = self.of_limit(parameters=parameters)

        def of(gradient: Array | None) -> Gradients:
            if gradient is None:
                return Gradients()
            d_path, d_factors = self._split(gradient)
            found = self.through(d_factors, of_limit)
            return found._replace(path1=d_path + found.path1)

        return [of(gradient) for gradient in gradients]


@dataclasses.dataclass(frozen=True, slots=True)
class Scaled:
    """The problem of the scaled paths, with the adjoint of the scaling."""

    problem: Problem
    sides: tuple[Dilation, ...]
    """The dilations of both stacks, or of the only one."""
    like: Array

    @classmethod
    def of(cls, problem: Problem, sides: tuple[Dilation, ...]) -> Scaled:
        """Build the problem of the scaled paths from its dilations."""
        return cls(scaled_problem(problem, sides[0].scaled, sides[-1].scaled), sides, problem.path1)

    @classmethod
    def again(cls, problem: Problem, kept: Kept) -> Scaled:
        """Rebuild the object from kept arrays."""
        return cls.of(problem, tuple(again(problem, side, kept) for side in range(_sides(problem))))

    @property
    def kept(self) -> Kept:
        """The arrays that `again` takes."""
        kept: Kept = {}
        for side, dilation in enumerate(self.sides):
            kept |= dilation.kept(side)
        return kept

    def derivs(self, derivs: Array) -> Array:
        """Convert derivatives from the library and dtype of the caller's paths to those of the problem."""
        if isinstance(self.problem.path1, np.ndarray) and is_recorded(derivs):
            raise TypeError(
                "derivs requires gradients, and the paths do not: gradients through dilations are then computed by "
                "NumPy. Let the paths require gradients too, or detach derivs"
            )
        return as_like(derivs, self.problem.path1)

    def adjoint(self, found: Gradients, wrt: Wrt, *, total: bool) -> Gradients:
        """Gradients with respect to the caller's paths and parameters, from those with respect to the scaled ones."""
        with np.errstate(all="ignore"):
            given = [(found.path1, found.path2)] if len(self.sides) == 1 else [(found.path1,), (found.path2,)]
            first, second = (
                gradients
                for side, of_side in zip(self.sides, given, strict=True)
                for gradients in side.adjoint(of_side, parameters=wrt.parameters)
            )
            parameters = found.parameters
            for side in (first, second):
                if parameters is not None and side.parameters is not None:
                    parameters = parameters + side.parameters
            d_path1, d_path2 = first.path1, second.path1
            if total and d_path1 is not None and d_path2 is not None:
                d_path1, d_path2 = d_path1 + d_path2, None
            return Gradients(
                *(
                    None if array is None or not asked else as_like(array, self.like)
                    for array, asked in zip((d_path1, d_path2, parameters), wrt, strict=True)
                )
            )


def scale(problem: Problem, *, keep: bool = False, before: Kept | None = None) -> Scaled:
    """Search for the factors of all paths of a problem, starting from those found `before` if given, and scale the
    paths."""
    return Scaled.of(
        problem, tuple(dilation_of(problem, side, keep=keep, before=before) for side in range(_sides(problem)))
    )


def _sides(problem: Problem) -> int:
    """Number of lists of factors."""
    return 1 if problem.itself and problem.dyadic_order[0] == problem.dyadic_order[1] else 2


def _gradient_of_log(self_pairs: Problem, total: Array | None, parameters: bool) -> Gradients:
    """Gradients of log k(x, x), or of k(x, x) over ordered forests, with respect to x, path by path.

    `total` is k, for a problem with an order.
    """
    backend, path = backend_for(self_pairs), self_pairs.path1
    derivs = namespace_of(path).full((path.shape[0],), 2.0, dtype=path.dtype, device=device_of(path))
    if self_pairs.planar:  # the gradient of K itself: only ratios count
        derivs = of_sum(derivs, self_pairs.order)
    elif self_pairs.order is not None:
        derivs = of_log_of_sum(derivs, self_pairs.order, total)
    found = backend.adjoint(self_pairs, "end", derivs, Wrt(True, False, parameters), log=True)
    return found if found.parameters is None else found._replace(parameters=0.5 * found.parameters)


def _divisors(self_pairs: Problem, scaled: Array, limits: Limits) -> Array:
    """The divisors of the gradients of the limits, see `Dilation.at_limit`; 1 for paths without a limit."""
    xp = namespace_of(scaled)
    if self_pairs.order is not None and not self_pairs.planar:
        prefixes = _prefixes(self_pairs, scaled, limits)
        return xp.sum(backend_for(prefixes).solve(prefixes, "end"), axis=-1)
    if not np.any(limits.cell >= 0):
        return xp.ones((scaled.shape[0],), dtype=scaled.dtype, device=device_of(scaled))
    alone = _cells(self_pairs, scaled, limits)
    return backend_for(alone).solve(alone, "end", log=True)


def _prefixes(self_pairs: Problem, scaled: Array, limits: Limits) -> Problem:
    """The prefixes of scaled paths whose kernels with themselves are at a limit."""
    valid = limits.node.astype(np.int64) + 1
    return dataclasses.replace(scaled_problem(self_pairs, scaled), lengths1=valid, lengths2=valid)


def _cells(self_pairs: Problem, scaled: Array, limits: Limits) -> Problem:
    """The cells of the active steps of all paths."""
    xp, (paths, length, channels) = namespace_of(scaled), scaled.shape
    cell = np.maximum(limits.cell, 0)
    ends = np.stack([cell, cell + 1], axis=1) + length * np.arange(paths)[:, None]
    index = xp.asarray(np.ravel(ends), device=device_of(scaled))
    points = xp.take(xp.reshape(scaled, (paths * length, channels)), index, axis=0)
    steps = xp.reshape(points, (paths, 2, channels))
    return cells_of(scaled_problem(self_pairs, steps), steps)


def _at_limit(self_pairs: Problem, scaled: Array, limits: Limits) -> Array:
    """The quantity at its limit: log K of a prefix with itself, or log of an increment times K."""
    xp, prefixes = namespace_of(scaled), _prefixes(self_pairs, scaled, limits)
    backend = backend_for(prefixes)
    if self_pairs.planar:
        return less_one_of(backend.solve(prefixes, "end"), self_pairs.order)
    if self_pairs.order is not None:
        return xp.log(xp.sum(backend.solve(prefixes, "end"), axis=-1))
    value = backend.solve(prefixes, "end", log=True)
    if not np.any(limits.cell >= 0):
        return value
    alone = _cells(self_pairs, scaled, limits)
    increment = backend_for(alone).solve(alone, "end", log=True)
    mask = xp.asarray(limits.cell >= 0, device=device_of(scaled))
    return value + xp.log(xp.where(mask, increment, xp.ones_like(increment)))


def dilation_of(
    problem: Problem,
    side: int,
    target: float = TARGET,
    room: float = ROOM,
    *,
    keep: bool = False,
    before: Kept | None = None,
) -> Dilation:
    """Search for the factors of the paths of one stack, 0 or 1. With `keep`, also compute the divisors of the
    gradient."""
    self_pairs, units = _self_pairs(problem, side)
    start = None if before is None else before[f"factors{side + 1}"]
    factors, limits = search(with_path(self_pairs, unrecorded(self_pairs.path1)), target, room, start)
    dilation = _dilation(self_pairs, units, factors, limits, problem)
    return (
        dataclasses.replace(dilation, at_limit=_divisors(dilation.self_pairs, dilation.scaled, limits))
        if keep
        else dilation
    )


def again(problem: Problem, side: int, kept: Kept) -> Dilation:
    """Rebuild a dilation from kept arrays, without a search."""
    self_pairs, units = _self_pairs(problem, side)
    factors, node, cell, at_limit = (kept[f"{name}{side + 1}"] for name in ("factors", "node", "cell", "limit"))
    dilation = _dilation(self_pairs, units, host(factors), Limits(_on_host(node), _on_host(cell)), problem)
    return dataclasses.replace(dilation, at_limit=as_like(at_limit, dilation.scaled))


def _on_host(index: Array) -> Indices:
    return host(index).astype(np.intp)


def _self_pairs(problem: Problem, side: int) -> tuple[Problem, Floats]:
    """The paths of one stack, each paired with itself, in the form of the search, and their units."""
    path, lengths = ((problem.path1, problem.lengths1), (problem.path2, problem.lengths2))[side]
    # Both stacks of a problem are arrays of one library.
    recorded = is_recorded(problem.path1) or is_recorded(problem.path2)
    path = workable(path, problem.static_kernel, recorded=recorded)
    self_pairs = dataclasses.replace(
        problem,
        path1=path,
        path2=path,
        pairing="paired",
        lengths1=lengths,
        lengths2=lengths,
        dyadic_order=(problem.dyadic_order[side],) * 2,
        progress=None,
    )
    return centred(self_pairs)


_DERIVATIVES = 3
"""Number of times a library may differentiate through the factors; higher derivatives would lack terms."""


def _dilation(self_pairs: Problem, units: Floats, searched: Floats, limits: Limits, problem: Problem) -> Dilation:
    """Scale the paths. Recorded paths get factors that carry their derivatives."""
    # Kernels for a CUDA device compute float32 paths in float32.
    dtype = problem.path1.dtype if lies_on_cuda(problem.path1) else self_pairs.path1.dtype
    plain = with_path(self_pairs, unrecorded(self_pairs.path1))
    dilation = _of_dtype(plain, units, searched, as_array(searched, plain.path1), limits, dtype)
    return _recorded(self_pairs, dilation) if is_recorded(self_pairs.path1) else dilation


def _recorded(self_pairs: Problem, plain: Dilation) -> Dilation:
    """Rebuild a dilation for paths that their library differentiates by itself.

    The factors go through steps of Newton's method with a fixed slope, started at the solution, so each step has
    length 0. Each step makes one more derivative correct, since it multiplies the error by a factor proportional to
    the change of the paths.
    """
    xp, limits = namespace_of(self_pairs.path1), plain.limits
    self_pairs = with_path(self_pairs, xp.astype(self_pairs.path1, plain.scaled.dtype, copy=False))
    found = xp.asarray(limits.found, device=device_of(self_pairs.path1))
    _, slope, _ = plain.of_limit()
    slope = xp.where(found, slope, xp.ones_like(slope))  # the branch not taken by `where` needs a finite derivative too
    logs = xp.zeros_like(slope)
    for _ in range(_DERIVATIVES):
        value = _at_limit(self_pairs, times(self_pairs, plain.factors * xp.exp(logs)), limits)
        logs = logs - xp.where(found, (value - unrecorded(value)) / slope, xp.zeros_like(logs))
    factors = plain.factors * xp.exp(logs)
    return _of_dtype(self_pairs, plain.units, plain.searched, factors, limits, plain.scaled.dtype)


def _of_dtype(
    self_pairs: Problem, units: Floats, searched: Floats, factors: Array, limits: Limits, dtype: Any
) -> Dilation:
    xp = namespace_of(self_pairs.path1)
    scaled = times(self_pairs, factors)
    if scaled.dtype != dtype:
        scaled, factors = xp.astype(scaled, dtype), xp.astype(factors, dtype)
        self_pairs = with_path(self_pairs, xp.astype(self_pairs.path1, dtype))
    return Dilation(self_pairs, units, searched, factors, scaled, limits)
