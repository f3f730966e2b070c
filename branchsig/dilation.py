"""Dilations: every path scaled for itself, so that its kernel with itself has a given size, and nothing overflows.

A problem comes in; the problem of the scaled paths goes out, with the adjoint of the scaling. The factors are searched
for in float64, whatever the paths are, by sweeps that give the kernels of all prefixes of a path with themselves.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from branchsig import _roots, _validation
from branchsig._arrays import (
    Array,
    ArrayT,
    Paths,
    all_finite,
    device_of,
    filled,
    from_numpy,
    is_cupy,
    is_recorded,
    is_traced,
    lies_on_cpu,
    lies_on_cuda,
    namespace_of,
    to_numpy,
    unrecorded,
    weighted,
)
from branchsig._inputs import not_finite
from branchsig._problems import given, self_problem
from branchsig._warnings import warn
from branchsig.backends import Problem, Wrt, backend_for
from branchsig.normalization import of_log_of_sum
from branchsig.quadrature import TRAPEZOID, Quadrature
from branchsig.spec import options_of
from branchsig.static_kernels import Context, DilatedKernel, StaticKernel, increments, is_built_in, is_linear

__all__ = ["dilation"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_ROOM = 9.0
"""How far above the target log K of a prefix may lie."""

_LARGEST_CELL = 0.5
"""Largest increment of κ over a cell times K at its ends, where K is to be solved for: the equation of a cell, c = K
exp(-h K), has no solution beyond h c = 1/e, and its value is the more sensitive the nearer it is to that. By
Cauchy-Schwarz what holds for the cells on the diagonal of every path with itself holds for those of all pairs."""


def dilation(
    paths: Paths[ArrayT],
    depth: float | None = None,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    static_kernel: StaticKernel | None = None,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    n_jobs: int | None = 1,
    quadrature: Quadrature | str = "trapezoid",
    order: int | None = None,
    target: float = 1.0,
    method: str = "solve",
    lengths: Any = None,
    room: float = 9.0,
) -> ArrayT:
    r"""Factors of paths, such that the logarithm of the kernel of each scaled path with itself is `target`.

    Parameters
    ----------
    paths : array, shape (*batch, length, dimension)
        Paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound. May be left out where `order` is given.
    dyadic_order : int, default: 0
        Every cell between two neighbouring points is split into ``2**order`` by ``2**order`` sub-cells.
    static_kernel : StaticKernel, optional
        Kernel on the space the paths live in; `None` is the linear kernel.
    time_aug : bool, default: False
        Append time as the last channel of the paths, linear from 0 to `end_time`.
    lead_lag : bool, default: False
        Replace the paths by their lead-lag transforms, of ``2 * length - 1`` points and twice the channels,
        before time is appended.
    end_time : float, default: 1.0
        Time of the last point, in the unit of time of the paths. Only with `time_aug`.
    n_jobs : int or None, default: 1
        Number of threads, as in joblib: -1 for all cores, -2 for all but one, None for 1. The result does not depend on
        it.
    quadrature : Quadrature or str, default: "trapezoid"
        The rule for the integral over a sub-cell: `Trapezoid`, `LeftPoint` or `GaussLobatto`, or their names
        ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
    order : int, optional
        Largest number of nodes of a forest, in the place of a bound on the depth: `depth` is left out, or `math.inf`,
        or at least `order`. On piecewise-linear paths `GaussLobatto` with p of at least ``order - 1`` is exact.
    target : float, default: 1.0
        The logarithm of the kernel of a scaled path with itself, above 0. ``normalize="dilation"`` takes 1.
    method : {"solve", "guard"}, default: "solve"
        "solve" finds the factors by a search. "guard" needs no search and no depth: from the 1-variation of a path
        alone it gives a factor, smaller than the other, for which no logarithm exceeds `target` at any depth.
    lengths : array of int, shape (*batch,), optional
        Valid lengths, where the paths are padded to one length; see `pad_paths`. Not beside a list of paths.
    room : float, default: 9.0
        How far above `target` the logarithm of the kernel of a part ``x[: i + 1]`` of a path with itself may lie, above
        0. ``normalize="dilation"`` takes 9.

    Returns
    -------
    array, shape (*batch,)
        The factors λ, with the library, dtype and device of the paths. NaN for a path that holds NaN or infinities.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have, or the paths are traced, batched or lazy, and have no values
        yet; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.

    See Also
    --------
    branched_sig_kernel_gram : Takes ``normalize="dilation"``.

    Notes
    -----
    The factor of a path is the largest λ for which

    .. math:: \log k(\lambda x, \lambda x) \le \mathrm{target}, \qquad
        \log k(\lambda x_{:i}, \lambda x_{:i}) \le \mathrm{target} + \mathrm{room} \quad \text{for every } i,

    where the static kernel of scaled paths is :math:`\lambda(x) \lambda(y) \kappa(x, y)`; for the linear one that is
    the kernel of the paths times their factors. Most paths reach the target at their end. One that returns need not:
    out and back again the same way its kernel with itself is 1 whatever the factor, and what is computed of it would be
    rounding if it were large on the way. There the second bound says how large the path may be. It also bounds grids:
    the logarithms of kernels of pairs are at most ``target + room`` at every point.

    The logarithms on the left are power series in :math:`\lambda^2` with coefficients of one sign, so there is one such
    factor and a bracket around it, and the search, by interpolation, always ends: whatever is not finite is too large.
    It takes about six sweeps of each path with itself, each of them half a kernel. With `order` it is a search for the
    root of a polynomial. Factors are found in float64 and scale the steps of a path, so an offset costs no digits.

    This carries the normalisation of [1]_ over to branched signatures. Since :math:`\log K` is itself a positive
    semi-definite kernel, :math:`|\log K(\lambda_x x, \lambda_y y)|` is at most `target` for all pairs.

    Without a bound on the depth, a cell holds an equation for K that has no solution where the path is too coarse.
    There :math:`\lambda^2 g_{ii} K \le 1/2` is asked for in addition, of every cell on the diagonal, with its increment
    :math:`g_{ii}` and the larger K at its two ends; for refined paths, of sub-cells. By the inequality of
    Cauchy-Schwarz, no cell of a pair is larger then. Few large steps stay below the target therefore; a `dyadic_order`
    or a rule of higher order does not change the path, but the former makes sub-cells smaller.

    A path that does not move has the kernel 1 with all others, whatever its factor, and gets 1. Where the depth or
    `order` is 0 all kernels are 1, and the factor is that of "guard"; no gradient flows through either. Otherwise
    gradients are those of the bound that is reached.

    The guard is :math:`\lambda^2 a^2 = t e^{-t}` with the 1-variation a of the path in the feature space of κ and
    t the smaller one of `target` and 1: every rule of quadrature gives at most :math:`ab \max K` for paths of
    1-variations a and b, so :math:`ab \le t e^{-t}` and :math:`\log K_{m-1} \le t` give
    :math:`\log K_m \le t`, at every depth. (For the kernel without any discretisation
    :math:`K_\infty \le (1 - ab/2)^{-2}` holds in addition, where :math:`ab < 2`.) Of depth `math.inf` alone, coarse
    cells may ask for less.

    References
    ----------
    .. [1] I. Chevyrev and H. Oberhauser, "Signature moments to characterize laws of stochastic processes", Journal of
       Machine Learning Research 23 (2022).

    Examples
    --------
    >>> import math
    >>> import numpy as np
    >>> import branchsig
    >>> paths = np.cumsum(np.random.default_rng(0).normal(size=(4, 50, 3)), axis=1)
    >>> factors = branchsig.dilation(paths, depth=5, target=2.0)
    >>> scaled = factors[:, None, None] * paths
    >>> branchsig.branched_sig_kernel(scaled, scaled, depth=5, log=True)
    array([2., 2., 2., 2.])
    >>> gram = branchsig.branched_sig_kernel_gram(paths, None, depth=math.inf, normalize="dilation")
    >>> bool(gram.min() > 1 / math.e), bool(gram.max() < math.e + 1e-9)
    (True, True)
    """
    spec, how = options_of(depth, dyadic_order, static_kernel, time_aug, lead_lag, end_time, n_jobs, quadrature, order)
    if spec.dyadic_order[0] != spec.dyadic_order[1]:
        raise ValueError(f"dyadic_order is {dyadic_order!r}: expected one order, for a path with itself")
    if method not in ("solve", "guard"):
        raise ValueError(f'method is {method!r}: expected "solve" or "guard"')
    target, room = _validation.target(target), _validation.room(room)
    problem, batch = self_problem(paths, lengths, spec, how)
    if method == "guard":
        own, units = _centred(_with_path(problem, _working(unrecorded(problem.path1), problem.static_kernel)))
        factors = _array(_Sizes.of(own).guard(target) * units, own.path1)
    else:
        factors = _side(problem, 1, target, room).all_factors
    factors = _as(factors, problem.path1)
    if lies_on_cpu(factors) and not all_finite(factors):
        option = None if isinstance(paths, (list, tuple)) else "lengths"
        message = not_finite(
            given(problem, (lengths, lengths), spec.transforms)[0]._replace(name="paths", option=option)
        )
        if message:
            warn(message)
    result: ArrayT = namespace_of(factors).reshape(factors, batch)
    return result


@dataclasses.dataclass(frozen=True, slots=True)
class _Limits:
    """What keeps the factors of paths from being larger: the kernel of a prefix with itself, and perhaps a cell."""

    node: Indices
    """The point that the active prefix ends with."""
    cell: Indices
    """The step whose cell is active, times K at the node; -1 where it is K alone."""
    found: npt.NDArray[np.bool_]
    """Where there is such a thing. Through other factors nothing flows."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Side:
    """One stack of paths, each with itself, and what they are scaled by."""

    own: Problem
    """Paths that the factors belong to: for a linear κ less their first point, and times a power of two."""
    units: Floats
    """Those powers of two."""
    factors: Array
    """Of the paths in `own`."""
    scaled: Array
    """The paths times their factors or, where κ is not linear, with them in a further channel."""
    limits: _Limits

    @property
    def all_factors(self) -> Array:
        """Those of the paths of the caller."""
        return self.factors * _array(self.units, self.factors)

    def _split(self, gradient: Array) -> tuple[Array, Array]:
        """A gradient with respect to `scaled` as those with respect to the paths, and to the logarithms of factors."""
        xp = namespace_of(gradient)
        if is_linear(self.own.static_kernel):
            scaled = filled(self.scaled, self.own.lengths1)
            return weighted(gradient, self.all_factors[:, None, None]), xp.sum(weighted(gradient, scaled), axis=(1, 2))
        return gradient[:, :, :-1], self.factors * xp.sum(gradient[:, :, -1], axis=1)

    def _of_limit(self) -> Array:
        """The gradient of what is at its limit, see `_at_limit`, with respect to `scaled`."""
        xp, limits = namespace_of(self.scaled), self.limits
        gradient = _gradient_of_log(_prefixes(self.own, self.scaled, limits))
        cell = np.where(limits.cell >= 0, limits.cell, -2)
        if np.any(cell >= 0):
            alone = _cells(self.own, self.scaled, limits)
            of_cell = _gradient_of_log(alone) / backend_for(alone).solve(alone, "end", log=True)[:, None, None]
            for end in (0, 1):
                there = np.arange(gradient.shape[1]) == cell[:, None] + end
                mask = xp.asarray(there[:, :, None], device=device_of(gradient))
                gradient = gradient + xp.where(mask, of_cell[:, end : end + 1, :], xp.zeros_like(gradient))
        return gradient

    def split_of_limit(self) -> tuple[Array, Array]:
        """The gradient of what is at its limit, with respect to the paths, and to the logarithms of the factors."""
        return self._split(self._of_limit())

    def adjoint(self, gradient: Array | None) -> Array | None:
        """The gradient with respect to the paths, from that with respect to `scaled`, through the factors too.

        Where c(λx) is at its limit, d log λ = −(∂c / ∂x · dx) / (∂c / ∂ log λ).
        """
        if gradient is None:
            return None
        xp = namespace_of(gradient)
        d_path, d_factors = self._split(gradient)
        through, slope = self.split_of_limit()
        found = xp.asarray(self.limits.found, device=device_of(gradient))
        share = xp.where(found, -d_factors / slope, xp.zeros_like(slope))
        through = xp.where(found[:, None, None], through, xp.zeros_like(through))
        return d_path + weighted(share[:, None, None], through)


@dataclasses.dataclass(frozen=True, slots=True)
class Dilated:
    """The problem of the scaled paths, and the way back of its results and gradients to the arrays of the caller."""

    problem: Problem
    sides: tuple[_Side, _Side]
    like: Array

    def result(self, result: Array) -> Array:
        """A result of the problem, in the library and dtype of the caller's paths."""
        return _as(result, self.like)

    def derivs(self, derivs: Array) -> Array:
        """Derivatives with respect to such a result, as those of the problem."""
        if isinstance(self.problem.path1, np.ndarray) and is_recorded(derivs):
            raise TypeError(
                "derivs is recorded for derivatives of its own, and the paths are not: gradients through dilations are "
                "computed by NumPy then. Let the paths require gradients too, or detach derivs"
            )
        return _as(derivs, self.problem.path1)

    def adjoint(self, d_path1: Array | None, d_path2: Array | None) -> tuple[Array | None, Array | None]:
        """Gradients with respect to the caller's paths, from those with respect to the scaled ones."""
        with np.errstate(all="ignore"):
            first, second = self.sides[0].adjoint(d_path1), self.sides[1].adjoint(d_path2)
            return (
                None if first is None else _as(first, self.like),
                None if second is None else _as(second, self.like),
            )


def dilated(problem: Problem) -> Dilated:
    """Scale the paths of a problem, each until the logarithm of its kernel with itself is 1.

    The kernel of x with itself takes the dyadic order of x on both sides, so that both paths of a pair have their norms
    in the feature space they meet in, and the bound by the target holds for unequal orders too.
    """
    if problem.dilations is None:
        first = _side(problem, 1, 1.0, _ROOM)
        shared = problem.itself and problem.dyadic_order[0] == problem.dyadic_order[1]
        problem.dilations = first, first if shared else _side(problem, 2, 1.0, _ROOM)
    first, second = problem.dilations
    scaled = _scaled(problem, first.scaled, second.scaled)
    return Dilated(scaled, (first, second), problem.path1)


def _scaled(problem: Problem, path1: Array, path2: Array | None = None) -> Problem:
    """The problem with scaled paths in the place of its own."""
    kernel = problem.static_kernel
    return dataclasses.replace(
        problem,
        path1=path1,
        path2=path1 if path2 is None else path2,
        dilations=None,
        static_kernel=kernel if is_linear(kernel) else DilatedKernel(kernel),
    )


def _gradient_of_log(own: Problem) -> Array:
    """The gradient of log k(x, x), in which x stands in both places."""
    backend, path = backend_for(own), own.path1
    derivs = namespace_of(path).full((path.shape[0],), 2.0, dtype=path.dtype, device=device_of(path))
    if own.order is not None:
        derivs = of_log_of_sum(derivs, own, backend.solve(own, "end"))
    return backend.adjoint(own, "end", derivs, Wrt(path1=True), log=True).path1


def _prefixes(own: Problem, scaled: Array, limits: _Limits) -> Problem:
    """The parts of scaled paths whose kernels with themselves are at a limit."""
    valid = limits.node.astype(np.int64) + 1
    return dataclasses.replace(_scaled(own, scaled), lengths1=valid, lengths2=valid)


def _cells(own: Problem, scaled: Array, limits: _Limits) -> Problem:
    """Two points of each path: log K with themselves, at depth 1, is the increment of κ over their cell."""
    xp, (paths, length, channels) = namespace_of(scaled), scaled.shape
    cell = np.maximum(limits.cell, 0)
    ends = np.stack([cell, cell + 1], axis=1) + length * np.arange(paths)[:, None]
    index = xp.asarray(np.ravel(ends), device=device_of(scaled))
    points = xp.take(xp.reshape(scaled, (paths * length, channels)), index, axis=0)
    pair = _scaled(own, xp.reshape(points, (paths, 2, channels)))
    return dataclasses.replace(
        pair, depth=1, order=None, dyadic_order=(0, 0), quadrature=TRAPEZOID, lengths1=None, lengths2=None
    )


def _at_limit(own: Problem, scaled: Array, limits: _Limits) -> Array:
    """What is at its limit: log K of a prefix with itself, or the logarithm of an increment times K."""
    xp, prefixes = namespace_of(scaled), _prefixes(own, scaled, limits)
    backend = backend_for(prefixes)
    if own.order is not None:
        return xp.log(xp.sum(backend.solve(prefixes, "end"), axis=-1))
    value = backend.solve(prefixes, "end", log=True)
    if not np.any(limits.cell >= 0):
        return value
    alone = _cells(own, scaled, limits)
    increment = backend_for(alone).solve(alone, "end", log=True)
    mask = xp.asarray(limits.cell >= 0, device=device_of(scaled))
    return value + xp.log(xp.where(mask, increment, xp.ones_like(increment)))


def _side(problem: Problem, side: int, target: float, room: float) -> _Side:
    path, lengths = (problem.path1, problem.lengths1) if side == 1 else (problem.path2, problem.lengths2)
    # Both stacks of a problem are arrays of one library.
    recorded = is_recorded(problem.path1) or is_recorded(problem.path2)
    working = _working(path, problem.static_kernel, recorded=recorded)
    own = dataclasses.replace(
        problem,
        path1=working,
        path2=working,
        pairing="paired",
        lengths1=lengths,
        lengths2=lengths,
        dyadic_order=(problem.dyadic_order[side - 1],) * 2,
        progress=None,
    )
    own, units = _centred(own)
    plain = _with_path(own, unrecorded(own.path1))
    factors, limits = _factors(plain, target, room)
    # Kernels for a CUDA device compute float32 paths in float32.
    dtype = path.dtype if lies_on_cuda(path) else working.dtype
    made = _made(plain, units, _array(factors, working), limits, dtype)
    return _recorded(own, made) if is_recorded(working) else made


_DERIVATIVES = 3
"""How many times a library may differentiate through the factors by itself: the next derivative would lack terms."""


def _recorded(own: Problem, plain: _Side) -> _Side:
    """The same for paths whose library is to differentiate by itself: factors with the derivatives they have.

    They are those of steps of Newton's method with a fixed slope, steps of length 0 from the solution. Each of them
    makes one more derivative right, since it shrinks an error by a factor that is as small as the change of the paths.
    """
    xp, limits = namespace_of(own.path1), plain.limits
    own = _with_path(own, xp.astype(own.path1, plain.scaled.dtype, copy=False))
    found = xp.asarray(limits.found, device=device_of(own.path1))
    _, slope = plain.split_of_limit()
    slope = xp.where(found, slope, xp.ones_like(slope))  # the derivative of what is not taken must be finite too
    logs = xp.zeros_like(slope)
    for _ in range(_DERIVATIVES):
        value = _at_limit(own, _times(own, plain.factors * xp.exp(logs)), limits)
        logs = logs - xp.where(found, (value - unrecorded(value)) / slope, xp.zeros_like(logs))
    return _made(own, plain.units, plain.factors * xp.exp(logs), limits, plain.scaled.dtype)


def _made(own: Problem, units: Floats, factors: Array, limits: _Limits, dtype: Any) -> _Side:
    xp = namespace_of(own.path1)
    scaled = _times(own, factors)
    if scaled.dtype != dtype:
        scaled, factors = xp.astype(scaled, dtype), xp.astype(factors, dtype)
        own = _with_path(own, xp.astype(own.path1, dtype))
    return _Side(own, units, factors, scaled, limits)


def _with_path(own: Problem, path: Array) -> Problem:
    return dataclasses.replace(own, path1=path, path2=path)


def _times(own: Problem, factors: Array) -> Array:
    """The paths times their factors or, where κ is not linear, with them in a further channel."""
    path, xp = own.path1, namespace_of(own.path1)
    if is_linear(own.static_kernel):
        with np.errstate(all="ignore"):  # padding may hold anything
            return path * factors[:, None, None]
    column = xp.broadcast_to(factors[:, None, None], (*path.shape[:2], 1))
    return xp.concat([path, column], axis=2)


def _working(path: Array, kernel: Any, *, recorded: bool = False) -> Array:
    """Paths as the arrays that all of this works with: of NumPy where they lie on the CPU, and in float64.

    A static kernel of the user's own expects the paths as they are, and what is recorded stays in its library.

    Raises
    ------
    TypeError
        If the values of the paths are not there, or their library is to differentiate by itself in a way that cannot
        be followed.
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
    """Refuse arrays that have no values yet, or whose values are not all that is to be known of them."""
    # One of jax.grad has values to look at, but a search by NumPy would lose how they are differentiated.
    lazy = is_traced(path) or any(base.__name__ == "Tracer" for base in type(path).__mro__)
    if lazy:
        raise TypeError(
            f'dilation, as by normalize="dilation", of a {type(path).__name__} that is traced, batched or lazy: the '
            "factors are searched for by the values of the paths, which it does not have yet. Take dilations outside "
            "of jit, grad and vmap, on arrays with values, or inside of a callback, as the page on frameworks of the "
            "documentation shows; or find the factors there by branchsig.dilation and hand in paths that are scaled"
        )


def _as(array: Array, like: Array) -> Array:
    """An array in the library, on the device, and in the dtype of another."""
    xp = namespace_of(like)
    if isinstance(array, np.ndarray) and not isinstance(like, np.ndarray):
        with np.errstate(all="ignore"):
            array = from_numpy(array.astype(np.float32 if like.dtype == xp.float32 else np.float64), like)
    elif isinstance(like, np.ndarray) and not isinstance(array, np.ndarray):
        array = _host(array)
    return array if array.dtype == like.dtype else xp.astype(array, like.dtype)


def _array(values: npt.NDArray[Any], like: Array) -> Array:
    return namespace_of(like).asarray(values, dtype=like.dtype, device=device_of(like))


def _host(values: Array) -> Floats:
    """An array of any library as one of NumPy in float64."""
    values = unrecorded(values)
    here = values if isinstance(values, np.ndarray) else to_numpy(values)
    if here is None:
        here = (
            values.get() if is_cupy(values) else np.asarray(values.cpu().tolist() if hasattr(values, "cpu") else values)
        )
    return here.astype(np.float64)


def _centred(own: Problem) -> tuple[Problem, Floats]:
    """For a linear κ, the paths less their first point and times a power of two, and that.

    A factor scales the steps of a path, so that an offset costs no digits. Powers of two change no bit; they bring
    steps near 1 whose squares are near an end of the range.
    """
    path = own.path1
    if not is_linear(own.static_kernel) or path.shape[1] == 1:
        return own, np.ones(path.shape[0])
    units = _units(own)
    with np.errstate(all="ignore"):
        if np.any(units != 1.0):
            path = path * _array(units, path)[:, None, None]
        return _with_path(own, path - path[:, :1, :]), units


def _units(own: Problem) -> Floats:
    """Powers of two that bring the largest step of a path near 1 where its square is near an end of the range, or 1."""
    path = filled(unrecorded(own.path1), own.lengths1)
    xp = namespace_of(path)
    with np.errstate(all="ignore"):
        largest = _host(xp.max(abs(path[:, 1:, :] - path[:, :-1, :]), axis=(1, 2)))
        exponents = np.where(largest > 0, np.frexp(largest)[1], 0)
        if np.any(np.isinf(largest)):  # differences overflow where points need not
            quarter = _host(xp.max(abs(path[:, 1:, :] / 4 - path[:, :-1, :] / 4), axis=(1, 2)))
            exponents = np.where(np.isinf(largest) & np.isfinite(quarter), np.frexp(quarter)[1] + 2, exponents)
    widest = int(np.log2(float(xp.finfo(path.dtype).max)))
    exponents = np.where(np.abs(exponents) < widest // 8, 0, np.clip(exponents, 1 - widest, widest - 1))
    units: Floats = np.ldexp(1.0, -exponents)
    return units


@dataclasses.dataclass(frozen=True, slots=True)
class _Sizes:
    """What the points of each path alone say of its kernel with itself, in the feature space of κ."""

    steps: Floats
    """The squares of the steps, (paths, length - 1)."""
    distances: Floats
    """The squared distances of the points from the first one: the first terms of log K of the prefixes up to them."""

    @classmethod
    def of(cls, own: Problem) -> _Sizes:
        path = filled(own.path1, own.lengths1)
        xp = namespace_of(path)
        paths, length, dimension = path.shape
        if length == 1:
            return cls(np.zeros((paths, 0)), np.zeros((paths, 0)))
        if is_linear(own.static_kernel):
            unit = xp.asarray([[[0.0], [1.0]]], dtype=path.dtype, device=device_of(path))
            of_unit = float(_host(increments(own.static_kernel, Context(), unit, unit))[0, 0, 0])
            with np.errstate(all="ignore"):
                moves = (path[:, 1:, :] - path[:, :-1, :], path[:, 1:, :] - path[:, :1, :])
                return cls(*(of_unit * _host(xp.sum(move * move, axis=2)) for move in moves))
        # The squared norm of a step in the feature space of κ is the increment over its own cell. One step leads from
        # every point to the next, one there from the first.
        k = np.arange(1, length)
        ends = np.stack([np.concatenate([k - 1, 0 * k]), np.concatenate([k, k])], axis=1)
        steps = xp.take(path, xp.asarray(np.ravel(ends), device=device_of(path)), axis=1)
        steps = xp.reshape(steps, (paths * 2 * (length - 1), 2, dimension))
        with np.errstate(all="ignore"):
            squares = _host(xp.reshape(increments(own.static_kernel, Context(), steps, steps), (paths, 2, length - 1)))
            squares = np.where(squares < 0, 0.0, squares)
        return cls(squares[:, 0], squares[:, 1])

    def guard(self, target: float) -> Floats:
        """Factors that bound all logarithms by the target at every depth; 1 for paths that do not move."""
        t = min(target, 1.0)
        with np.errstate(all="ignore"):
            variation = np.sum(np.sqrt(self.steps), axis=1)
            factors = math.sqrt(t * math.exp(-t)) / variation
        return np.where(variation == 0.0, 1.0, np.where(np.isfinite(factors) & (factors > 0), factors, np.nan))

    def guess(self, target: float) -> Floats:
        """Squares of factors near those that are sought, more often below: far above, values are slow and of no use.

        A straight path needs 0.8 to 1 over its extent, a Brownian one about that; for paths that come back again and
        again their squares count.
        """
        with np.errstate(all="ignore"):
            extent = np.max(self.distances, axis=1, initial=0.0)
            squares: Floats = 0.5 * min(target, 1.0) / np.maximum(extent, 0.25 * np.sum(self.steps, axis=1))
            return squares


def _factors(own: Problem, target: float, room: float) -> tuple[Floats, _Limits]:
    """The factors of all paths, and what keeps them from being larger."""
    own = dataclasses.replace(own, purpose="rough")  # closed paths may have lost digits where they are too large
    sizes = _Sizes.of(own)
    paths, length = own.path1.shape[:2]
    guard, nothing = sizes.guard(target), np.full(paths, -1, dtype=np.intp)
    if length == 1 or (own.depth if own.order is None else own.order) == 0:
        return guard, _Limits(np.zeros_like(nothing), nothing, nothing >= 0)
    growth = _OfParts(own, guard) if own.order is not None else _OfLogarithms(own, guard, sizes)
    # Below the guard of half the target the cells are small enough, too.
    with np.errstate(all="ignore"):
        start = np.log(sizes.guess(target) / growth.guard**2)
    usable = np.isfinite(growth.guard) & np.any(sizes.distances > 0, axis=1)
    eps = float(namespace_of(own.path1).finfo(own.path1.dtype).eps)
    v, column = _roots.largest(growth, growth.slopes(), growth.targets(target, room), start, usable, eps)
    factors = np.where(usable, growth.guard * np.exp(0.5 * v), guard)
    cell = np.where(column >= length, column - length, -1)
    node = np.where(cell >= 0, growth.larger_end(cell), np.where(column > 0, column, length - 1))
    if own.lengths1 is not None:  # log K stays as it is behind them
        node = np.minimum(node, own.lengths1 - 1)
    return factors, _Limits(node, cell, column >= 0)


class _OfLogarithms:
    """What is to stay within its target: log K of a path with itself, of its prefixes, and their cells.

    Without truncation, and where K at the end of a cell stands in the equation of that cell, these are log of the
    increments over the cells on the diagonal, refined, times K at their ends.
    """

    def __init__(self, own: Problem, guard: Floats, sizes: _Sizes) -> None:
        self._own, self._sizes = own, sizes
        self._implicit = own.depth == math.inf and own.quadrature.matrix[-1][-1] != 0.0
        self.guard = guard * math.sqrt(0.5) if self._implicit else guard
        self._cells = sizes.steps / 4.0 ** own.dyadic_order[0]
        self._latest = np.zeros(own.path1.shape[:2])

    def targets(self, target: float, room: float) -> Floats:
        steps = self._sizes.steps.shape[1]
        cells = [_LARGEST_CELL] * steps if self._implicit else []
        return np.array([target, *[target + room] * steps, *cells])

    def slopes(self) -> Floats:
        out = self._sizes.distances
        parts = [out[:, -1:], out, *([self._cells] if self._implicit else [])]
        return np.concatenate(parts, axis=1) * self.guard[:, None] ** 2

    def __call__(self, index: Indices, v: Floats) -> Floats:
        part, xp = self._own, namespace_of(self._own.path1)
        if len(index) < part.path1.shape[0]:
            path = xp.take(part.path1, xp.asarray(index, device=device_of(part.path1)), axis=0)
            valid = None if part.lengths1 is None else part.lengths1[index]
            part = dataclasses.replace(_with_path(part, path), lengths1=valid, lengths2=valid)
        factors = self.guard[index] * np.exp(0.5 * v)
        scaled = _scaled(part, _times(part, _array(factors, part.path1)))
        log_k = _host(backend_for(scaled).solve(scaled, "prefixes"))
        self._latest[index] = log_k
        columns = [log_k[:, -1:], log_k[:, 1:]]
        if self._implicit:
            ends = np.maximum(log_k[:, :-1], log_k[:, 1:])
            columns.append(factors[:, None] ** 2 * self._cells[index] * np.exp(ends))
        return np.concatenate(columns, axis=1)

    def larger_end(self, cell: Indices) -> Indices:
        """The end of each cell where K is larger."""
        rows, cell = np.arange(len(cell)), np.maximum(cell, 0)
        return cell + (self._latest[rows, cell + 1] >= self._latest[rows, cell])


class _OfParts:
    """What is to stay within its target with an order: K − 1 of a path with itself, and of its prefixes.

    With λ² = s they are the polynomials sum of s^n k_n from n = 1 on. log K would be no such series.
    """

    def __init__(self, own: Problem, guard: Floats) -> None:
        self.guard = guard
        # At the guard, so that no power leaves the range.
        scaled = _scaled(own, _times(own, _array(guard, own.path1)))
        self._k = _host(backend_for(scaled).solve(scaled, "prefixes"))[:, 1:, 1:]

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
        """No cells are looked at."""
        return cell
