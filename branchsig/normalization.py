"""Normalisation of kernels, and its backward: norms of one, and dilations.

A problem comes in. For norms of one, kernels k(x, y) / √(k(x, x) k(y, y)) and their gradients go out, formed from
logarithms, so that the result is finite also where the kernels themselves are not. For dilations, the problem of the
scaled paths goes out, with the adjoint of the scaling; there nothing overflows in the first place.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from branchsig import _validation
from branchsig._arrays import (
    Array,
    contiguous,
    device_of,
    filled,
    is_recorded,
    namespace_of,
    to_numpy,
    unrecorded,
    weighted,
)
from branchsig._options import DilationOptions, gather, public
from branchsig._problems import self_problem
from branchsig._progress import one_pass
from branchsig.backends import Backend, Problem, backend_for
from branchsig.static_kernels import Context, DilatedKernel, increments, is_linear

__all__ = ["dilation"]

Floats = npt.NDArray[np.float64]


def _self_problem(problem: Problem, side: int) -> Problem:
    """Each path of the first or second stack with itself."""
    path, lengths = (problem.path1, problem.lengths1) if side == 1 else (problem.path2, problem.lengths2)
    return dataclasses.replace(
        problem, path1=path, path2=path, lengths1=lengths, lengths2=lengths, pairing="paired", progress=None
    )


def _diagonal(matrix: Array) -> Array:
    n = matrix.shape[0]
    return namespace_of(matrix).reshape(matrix, (n * n,))[:: n + 1]


def sides(d_path1: Array | None, d_path2: Array | None, *, total: bool) -> tuple[Array | None, Array | None]:
    """Return the gradients of both places or, with `total`, their sum: that of one path which stands in both."""
    if total and d_path1 is not None and d_path2 is not None:
        return d_path1 + d_path2, None
    return d_path1, d_path2


def of_sum(derivs: Array, problem: Problem) -> Array:
    """Derivatives with respect to k_0..k_order, from those with respect to their sum."""
    xp, order = namespace_of(derivs), int(problem.order or 0)
    return 1.0 * xp.broadcast_to(derivs[..., None], (*derivs.shape, order + 1))  # in memory of its own


def of_log_of_sum(derivs: Array, problem: Problem, parts: Array, *, signed: bool = False) -> Array:
    """Derivatives with respect to k_0..k_order, from those with respect to the logarithm of their sum.

    Where the sum is below 0 there is no logarithm, nor a derivative of it, unless that of log |K| is meant (`signed`).
    """
    xp = namespace_of(derivs)
    total = xp.sum(parts, axis=-1)
    usable = xp.isfinite(total) & (signed | (total >= 0))  # an infinite sum has no slope either, not 0
    slope = xp.where(usable, 1.0 / total, xp.full_like(total, math.nan))
    return of_sum(weighted(derivs, slope), problem)


def _log_and_sign(backend: Backend, problem: Problem) -> tuple[Array, Array | float]:
    """log |K| and the sign of K, which only a kernel truncated by the number of nodes can lack."""
    if problem.order is None:
        return backend.log_kernel(problem), 1.0
    k = namespace_of(problem.path1).sum(backend.parts(problem, grid=False), axis=-1)
    return namespace_of(k).log(abs(k)), namespace_of(k).sign(k)


def _gradients_of_log(
    backend: Backend, problem: Problem, derivs: Array, *, left: bool, right: bool, signed: bool = False
) -> tuple[Array | None, Array | None]:
    """Gradients for derivatives with respect to log K or, where `signed`, to log |K|."""
    if problem.order is not None:
        derivs = of_log_of_sum(derivs, problem, backend.parts(problem, grid=False), signed=signed)
    return backend.gradients(problem, derivs, wrt_log=True, left=left, right=right)


def _norms(backend: Backend, problem: Problem, log_k: Array, sign: Array | float) -> Array:
    """(log k(x, x) + log k(y, y)) / 2 for every pair, NaN where a kernel of a path with itself is not above 0."""
    xp = namespace_of(log_k)

    def above_zero(log_k: Array, sign: Array | float) -> Array:
        return log_k if problem.order is None else xp.where(sign > 0, log_k, xp.full_like(log_k, math.nan))

    if problem.itself:
        own = above_zero(log_k, sign)
        log_k1 = log_k2 = own if problem.pairing == "paired" else _diagonal(own)
    else:
        log_k1, log_k2 = (above_zero(*_log_and_sign(backend, _self_problem(problem, side))) for side in (1, 2))
    if problem.pairing != "paired":
        log_k1, log_k2 = log_k1[:, None], log_k2[None, :]
    norm = 0.5 * (log_k1 + log_k2)
    # A norm that overflowed says nothing about the quotient: NaN, not 0.
    return xp.where(xp.isfinite(norm), norm, xp.full_like(norm, math.nan))


def unit_kernel(backend: Backend, problem: Problem, *, log: bool) -> Array:
    """Return the normalised kernels of a problem, or their logarithms, shape (*pairs,)."""
    xp = namespace_of(problem.path1)
    problem = dataclasses.replace(problem, purpose="difference")
    log_k, sign = _log_and_sign(backend, problem)
    log_unit = log_k - _norms(backend, problem, log_k, sign)
    if problem.order is None:
        return log_unit if log else xp.exp(log_unit)
    return xp.where(sign > 0, log_unit, xp.full_like(log_unit, math.nan)) if log else sign * xp.exp(log_unit)


def unit_kernel_backprop(
    backend: Backend, problem: Problem, derivs: Array, *, log: bool, left: bool, right: bool, total: bool
) -> tuple[Array | None, Array | None]:
    """Return the gradients of the normalised kernels, or of their logarithms, with respect to `path1` and `path2`.

    With `total`, for a problem of one stack of paths with itself, the left gradient is that with respect to both
    places.
    """
    xp = namespace_of(problem.path1)
    problem = dataclasses.replace(problem, purpose="difference")
    # d log k_unit(x, y) = d log k(x, y) − d log k(x, x) / 2 − d log k(y, y) / 2
    passes = 3 if problem.pairing == "symmetric" and left and right else 2
    weights = derivs
    if not log:
        weights = weighted(derivs, unit_kernel(backend, one_pass(problem, 0, passes), log=False))
    if problem.pairing == "symmetric":
        return _symmetric(backend, problem, weights, left=left, right=right, total=total)
    d_path1, d_path2 = _gradients_of_log(
        backend, one_pass(problem, 1, passes), weights, left=left or total, right=right or total, signed=not log
    )
    paired = problem.pairing == "paired"
    if d_path1 is not None:
        of_rows = weights if paired else xp.sum(weights, axis=1)
        d_path1 = d_path1 + _self_gradient(backend, _self_problem(problem, 1), -0.5 * of_rows)
    if d_path2 is not None:
        of_columns = weights if paired else xp.sum(weights, axis=0)
        d_path2 = d_path2 + _self_gradient(backend, _self_problem(problem, 2), -0.5 * of_columns)
    return sides(d_path1, d_path2, total=total)


def _self_gradient(backend: Backend, own: Problem, derivs: Array) -> Array:
    """Gradient of log k(x, x), in which x stands in both places."""
    if own.dyadic_order[0] == own.dyadic_order[1]:
        left, _ = _gradients_of_log(backend, own, 2.0 * derivs, left=True, right=False)
        return left
    left, right = _gradients_of_log(backend, own, derivs, left=True, right=True)
    return sides(left, right, total=True)[0]


def _symmetric(
    backend: Backend, problem: Problem, weights: Array, *, left: bool, right: bool, total: bool
) -> tuple[Array | None, Array | None]:
    """Gradients of a symmetric Gram matrix, whose diagonal log k(x_i, x_i) normalises its rows and columns."""
    xp = namespace_of(weights)
    n = weights.shape[0]
    index = xp.arange(n, device=device_of(weights))
    diagonal = index[:, None] == index[None, :]
    transposed = xp.permute_dims(weights, (1, 0))

    passes = 3 if left and right else 2

    def gradient(of: Array, row_sums: Array, index: int) -> Array:
        of = contiguous(xp.where(diagonal, of - row_sums[:, None], of))
        result, _ = backend.gradients(one_pass(problem, index, passes), of, wrt_log=True, left=True, right=False)
        return result

    rows, columns = xp.sum(weights, axis=1), xp.sum(weights, axis=0)
    if total:
        return gradient(weights + transposed, rows + columns, 1), None
    return (
        gradient(weights, rows, 1) if left else None,
        gradient(transposed, columns, passes - 1) if right else None,
    )


@public(DilationOptions)
def dilation(
    paths: Array,
    depth: float,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    target: float = 1.0,
    method: str = "solve",
    lengths: Any = None,
    **options: Unpack[DilationOptions],
) -> Array:
    r"""Factors of paths, such that the logarithm of the kernel of each scaled path with itself is `target`.

    Parameters
    ----------
    paths : array, shape (*batch, length, dimension)
        Paths, of any library of the array API standard, float32 or float64.
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound.
    dyadic_order : int, default: 0
        Every cell between two neighbouring points is split into ``2**order`` by ``2**order`` sub-cells.
    <options>
    target : float, default: 1.0
        The logarithm of the kernel of a scaled path with itself, above 0. ``normalize="dilation"`` takes 1.
    method : {"solve", "guard"}, default: "solve"
        "solve" finds the factors by a search. "guard" needs no search and no depth: from the 1-variation of a path
        alone it gives a factor, smaller than the other, for which no logarithm exceeds `target` at any depth.
    lengths : array of int, shape (*batch,), optional
        Valid lengths, where the paths are padded to one length; see `pad_paths`.

    Returns
    -------
    array, shape (*batch,)
        The factors λ, with the library, dtype and device of the paths. NaN for a path that holds NaN or infinities.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.

    See Also
    --------
    branched_sig_kernel_gram : Takes ``normalize="dilation"``.

    Notes
    -----
    The static kernel of scaled paths is :math:`\lambda(x) \lambda(y) \kappa(x, y)`; for the linear one that is the
    kernel of the paths times their factors. The logarithm of the kernel of a path with itself grows at least like
    :math:`\lambda^2`, so there is one factor and a bracket around it, and the search, by interpolation, always ends:
    whatever is not finite is too large. It takes four to seven kernels of each path with itself, hardly ever more than
    ten. With `order` it is a search for the root of a polynomial.

    This carries the normalisation of [1]_ over to branched signatures. Since :math:`\log K` is itself a positive
    semi-definite kernel, :math:`|\log K(\lambda_x x, \lambda_y y)|` is at most `target` for all pairs.

    A path that does not move has the kernel 1 with all others, whatever its factor, and gets 1. One that moves and
    whose kernel with itself stays below the target whatever its factor, such as a closed path at depth 1, gets the
    factor of "guard". Without a bound on the depth, a path that returns may blow up on its way before its kernel at the
    end has reached the target, on a grid that is too coarse for it; then it gets the largest factor below the blow-up.
    Through the factors of all these no gradient flows.

    The guard is :math:`\lambda^2 a^2 = t e^{-t}` with the 1-variation a of the path in the feature space of κ and
    t the smaller one of `target` and 1: every rule of quadrature gives at most :math:`ab \max K` for paths of
    1-variations a and b, so :math:`ab \le t e^{-t}` and :math:`\log K_{m-1} \le t` give
    :math:`\log K_m \le t`, at every depth. (For the kernel without any discretisation
    :math:`K_\infty \le (1 - ab/2)^{-2}` holds in addition, where :math:`ab < 2`.)

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
    >>> bool(np.allclose(np.diagonal(gram), math.e)), bool(gram.max() < math.e + 1e-9)
    (True, True)
    """
    settings = gather(depth, dyadic_order, options, DilationOptions)
    if settings.dyadic_order[0] != settings.dyadic_order[1]:
        raise ValueError(f"dyadic_order is {dyadic_order!r}: expected one order, for a path with itself")
    if method not in ("solve", "guard"):
        raise ValueError(f'method is {method!r}: expected "solve" or "guard"')
    target = _validation.target(target)
    problem, batch = self_problem(paths, lengths, settings)
    if method == "guard":
        factors = _array(_Sizes.of(problem).guard(target), problem.path1)
    else:
        factors = _side(problem, 1, target).factors
    return namespace_of(paths).reshape(factors, batch)


@dataclasses.dataclass(frozen=True, slots=True)
class _Side:
    """One stack of paths: each with itself, the factors found, and which of them the search determined."""

    own: Problem
    factors: Array
    found: Array

    def scaled(self) -> Array:
        """The paths times their factors or, where κ is not linear, with them in a further channel."""
        path, xp = self.own.path1, namespace_of(self.own.path1)
        if is_linear(self.own.static_kernel):
            with np.errstate(all="ignore"):  # padding may hold anything
                return path * self.factors[:, None, None]
        column = xp.broadcast_to(self.factors[:, None, None], (*path.shape[:2], 1))
        return xp.concat([path, column], axis=2)

    def _split(self, gradient: Array) -> tuple[Array, Array]:
        """A gradient with respect to `scaled` as those with respect to the paths and the factors."""
        xp = namespace_of(gradient)
        if is_linear(self.own.static_kernel):
            path = filled(self.own.path1, self.own.lengths1)
            of_factors = xp.sum(weighted(gradient, path), axis=(1, 2))
            return weighted(gradient, self.factors[:, None, None]), of_factors
        return gradient[:, :, :-1], xp.sum(gradient[:, :, -1], axis=1)

    def slope(self) -> tuple[Array, Array]:
        """∂ log K(λx, λx) / ∂x and ∂ log K(λx, λx) / ∂λ."""
        own = dataclasses.replace(self.own, **_scaled_fields(self.own, self.scaled()))
        of_log = namespace_of(self.factors).ones_like(self.factors)
        return self._split(_self_gradient(backend_for(own), own, of_log))

    def adjoint(self, gradient: Array | None) -> Array | None:
        """The gradient with respect to the paths, from that with respect to `scaled`, through the factors too.

        Where log K(λx, λx) = target, dλ = −(∂ log K / ∂x · dx) / (∂ log K / ∂λ).
        """
        if gradient is None:
            return None
        d_path, d_factors = self._split(gradient)
        xp = namespace_of(d_path)
        through, slope = self.slope()
        share = xp.where(self.found, -d_factors / slope, xp.zeros_like(slope))
        through = xp.where(self.found[:, None, None], through, xp.zeros_like(through))
        return d_path + weighted(share[:, None, None], through)


@dataclasses.dataclass(frozen=True, slots=True)
class Dilated:
    """The problem of the scaled paths, and the way back of its gradients."""

    problem: Problem
    sides: tuple[_Side, _Side]

    def adjoint(self, d_path1: Array | None, d_path2: Array | None) -> tuple[Array | None, Array | None]:
        """Gradients with respect to the paths, from those with respect to the scaled ones."""
        with np.errstate(all="ignore"):
            return self.sides[0].adjoint(d_path1), self.sides[1].adjoint(d_path2)


def dilated(problem: Problem, target: float = 1.0) -> Dilated:
    """Scale the paths of a problem so that the logarithm of the kernel of each with itself is the target.

    The kernel of x with itself takes the dyadic order of x on both sides, so that both paths of a pair have their norms
    in the feature space they meet in, and the bound by the target holds for unequal orders too.
    """
    first = _side(problem, 1, target)
    shared = problem.itself and problem.dyadic_order[0] == problem.dyadic_order[1]
    second = first if shared else _side(problem, 2, target)
    path1 = first.scaled()
    path2 = path1 if shared else second.scaled()
    return Dilated(dataclasses.replace(problem, **_scaled_fields(problem, path1, path2)), (first, second))


def _scaled_fields(problem: Problem, path1: Array, path2: Array | None = None) -> dict[str, Any]:
    kernel = problem.static_kernel
    return {
        "path1": path1,
        "path2": path1 if path2 is None else path2,
        "static_kernel": kernel if is_linear(kernel) else DilatedKernel(kernel),
    }


def _side(problem: Problem, side: int, target: float) -> _Side:
    own = _self_problem(problem, side)
    own = dataclasses.replace(own, dyadic_order=(problem.dyadic_order[side - 1],) * 2, log_grid=False)
    path = unrecorded(own.path1)
    plain = dataclasses.replace(own, path1=path, path2=path)
    factors, found = _factors(plain, target)
    xp = namespace_of(path)
    plain_side = _Side(plain, _array(factors, path), xp.asarray(found, device=device_of(path)))
    return _recorded_side(own, plain_side) if is_recorded(own.path1) else plain_side


def _recorded_side(own: Problem, plain: _Side) -> _Side:
    """The same for paths whose library is to differentiate by itself: factors with the derivatives they have.

    They are those of a step of Newton's method at the solution, a step of length 0.
    """
    fixed = _Side(own, plain.factors, plain.found)
    scaled = dataclasses.replace(own, **_scaled_fields(own, fixed.scaled()))
    log_k, _ = _log_and_sign(backend_for(scaled), scaled)
    xp = namespace_of(log_k)
    slope = xp.where(plain.found, plain.slope()[1], xp.ones_like(plain.factors))
    step = xp.where(plain.found, (log_k - unrecorded(log_k)) / slope, xp.zeros_like(log_k))
    return dataclasses.replace(fixed, factors=plain.factors - step)


def _array(values: Floats, like: Array) -> Array:
    return namespace_of(like).asarray(values, dtype=like.dtype, device=device_of(like))


def _host(values: Array) -> Floats:
    """An array of one axis of any library as one of NumPy."""
    here = values if isinstance(values, np.ndarray) else to_numpy(values)
    if here is None:
        here = np.asarray([float(value) for value in values])
    return here.astype(np.float64)


@dataclasses.dataclass(frozen=True, slots=True)
class _Sizes:
    """What the points of each path alone say of its kernel with itself, in the feature space of κ."""

    variation: Floats
    """The 1-variation."""
    squares: Floats
    """The sum of the squared steps."""
    extent: Floats
    """The largest squared distance from the first point."""
    end: Floats
    """That of the last point, which is log K at depth 1 and the first term of it at every greater one."""

    @classmethod
    def of(cls, own: Problem) -> _Sizes:
        path = filled(own.path1, own.lengths1)
        xp = namespace_of(path)
        paths, length, dimension = path.shape
        if length == 1:
            return cls(*np.zeros((4, paths)))
        # The squared norm of a step in the feature space of κ is the increment over its own cell. One step leads from
        # every point to the next, one there from the first.
        k = np.arange(1, length)
        ends = np.stack([np.concatenate([k - 1, 0 * k]), np.concatenate([k, k])], axis=1)
        steps = xp.take(path, xp.asarray(np.ravel(ends), device=device_of(path)), axis=1)
        steps = xp.reshape(steps, (paths * 2 * (length - 1), 2, dimension))
        with np.errstate(all="ignore"):
            squares = xp.reshape(increments(own.static_kernel, Context(), steps, steps), (paths, 2, length - 1))
            squares = xp.where(squares < 0, xp.zeros_like(squares), squares)
            steps, out = squares[:, 0, :], squares[:, 1, :]
            sizes = xp.sum(xp.sqrt(steps), axis=1), xp.sum(steps, axis=1), xp.max(out, axis=1), out[:, -1]
            return cls(*map(_host, sizes))

    def guard(self, target: float) -> Floats:
        """Factors that bound all logarithms by the target at every depth; 1 for paths that do not move."""
        t = min(target, 1.0)
        with np.errstate(all="ignore"):
            factors = math.sqrt(t * math.exp(-t)) / self.variation
        return np.where(self.variation == 0.0, 1.0, np.where(np.isfinite(factors) & (factors > 0), factors, np.nan))

    def guess(self, target: float) -> Floats:
        """Squares of factors near those that are sought, more often below: far above, values are slow and of no use.

        A straight path needs 0.8 to 1 over its extent, a Brownian one about that; for paths that come back again and
        again their squares count.
        """
        with np.errstate(all="ignore"):
            return 0.5 * min(target, 1.0) / np.maximum(self.extent, 0.25 * self.squares)


def _factors(own: Problem, target: float) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The factors of all paths, and for which of them the search reached the target."""
    if is_linear(own.static_kernel):
        # Squares of what is very large or small would leave the range. Powers of two change no bit.
        units = _units(own)
        if np.any(units != 1.0):
            path = _Side(own, _array(units, own.path1), units != 1.0).scaled()
            factors, found = _factors(dataclasses.replace(own, path1=path, path2=path), target)
            return factors * units, found
    sizes = _Sizes.of(own)
    guard = sizes.guard(target)
    eps = float(namespace_of(own.path1).finfo(own.path1.dtype).eps)
    with np.errstate(all="ignore"):
        start = np.log(sizes.guess(target) / guard**2)
        if own.order is None:
            growth = _of_log_kernel(own, guard)
        else:
            growth, target = _of_parts(own, guard), math.expm1(target)
        levels = own.depth if own.order is None else own.order
        slope = sizes.end * guard**2 if levels else np.zeros_like(guard)
        squares, found = _roots(growth, slope, start, np.isfinite(guard), target, eps)
        return guard * np.exp(0.5 * squares), found


def _units(own: Problem) -> Floats:
    """Powers of two that bring the largest step of a path near 1 where its square is near an end of the range, or 1."""
    path = filled(own.path1, own.lengths1)
    if path.shape[1] == 1:
        return np.ones(path.shape[0])
    xp = namespace_of(path)
    with np.errstate(all="ignore"):
        largest = _host(xp.max(abs(path[:, 1:, :] - path[:, :-1, :]), axis=(1, 2)))
        exponents = np.where(np.isfinite(largest) & (largest > 0), np.frexp(largest)[1], 0)
    widest = int(np.log2(float(xp.finfo(path.dtype).max)))
    exponents = np.where(np.abs(exponents) < widest // 8, 0, np.clip(exponents, 1 - widest, widest - 1))
    units: Floats = np.ldexp(1.0, -exponents)
    return units


_Growth = Callable[[npt.NDArray[np.intp], Floats], Floats]
"""What is to reach a target, for the paths with the given indices and factors with the given log(λ² / guard²): a power
series in λ² with coefficients >= 0 and no constant."""


def _of_log_kernel(own: Problem, guard: Floats) -> _Growth:
    own = dataclasses.replace(own, purpose="rough")

    def log_kernel(index: npt.NDArray[np.intp], v: Floats) -> Floats:
        part = own
        if len(index) < own.path1.shape[0]:
            xp = namespace_of(own.path1)
            path = xp.take(own.path1, xp.asarray(index, device=device_of(own.path1)), axis=0)
            valid = None if own.lengths1 is None else own.lengths1[index]
            part = dataclasses.replace(own, path1=path, path2=path, lengths1=valid, lengths2=valid)
        factors = _array(guard[index] * np.exp(0.5 * v), own.path1)
        scaled = dataclasses.replace(part, **_scaled_fields(part, _Side(part, factors, factors).scaled()))
        return _host(backend_for(scaled).log_kernel(scaled))

    return log_kernel


def _of_parts(own: Problem, guard: Floats) -> _Growth:
    """K − 1, with λ² = s the polynomial sum of s^n k_n from n = 1 on. log K would be no such series."""
    own = dataclasses.replace(own, purpose="rough")
    parts = backend_for(own).parts(own, grid=False)
    k = np.stack([_host(parts[:, n]) for n in range(int(own.order or 0) + 1)], axis=1)[:, 1:]
    powers = np.arange(1, k.shape[1] + 1)

    def polynomial(index: npt.NDArray[np.intp], v: Floats) -> Floats:
        s = guard[index] ** 2 * np.exp(v)
        value: Floats = np.sum(k[index] * s[:, None] ** powers, axis=1)
        return value

    return polynomial


_LARGEST_SQUARE = 40.0
"""A path whose kernel has not reached the target at λ² of e^39 times the guard is taken never to reach it."""

_EVALUATIONS = 100

_POINTS = 4
"""Values of a path that an interpolation takes."""


def _roots(
    growth: _Growth, slope: Floats, start: Floats, usable: npt.NDArray[np.bool_], target: float, eps: float
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """v with growth(v) = target, and where there is one; otherwise the largest v that is finite, or 0 if all are.

    `slope` is the first coefficient of the series, `start` where to begin. h = log(growth / target) is convex in v and
    has a slope of at least 1, by the signs of the coefficients, and growth(0) <= target, so there is a bracket, which
    shrinks with every value. In it, (growth / λ²)² is interpolated as a function of growth: smooth, constant where
    growth is linear in λ² and linear where it is a multiple of λ⁴, and known at 0. Where that leads out of the bracket,
    the middle takes its place. The last interpolation is not evaluated: it is better than the one of a degree less,
    and both agree to within the tolerance.
    """
    tolerance = max(1e-13, 16 * eps)
    paths = len(slope)
    found = np.zeros(paths, dtype=bool)
    low, high = np.zeros(paths), np.fmin(np.log(target / slope), _LARGEST_SQUARE)
    v = np.clip(start, low, high)
    nodes, values = np.full((2, _POINTS, paths), np.nan)
    nodes[0], values[0] = 0.0, slope**2
    active = np.flatnonzero(usable)
    for _ in range(_EVALUATIONS):
        if not active.size:
            break
        here = v[active]
        value = growth(active, here)
        # Rounding may leave a little less than 0 of nothing. What is NaN is too large.
        h = np.where(value > 0, np.log(value / target), np.where(value <= 0, -math.inf, math.inf))
        below = h < 0
        low[active] = np.where(below, np.maximum(low[active], here), low[active])
        high[active] = np.minimum(high[active], np.where(below, here - h, here))
        # Far above the target growth is a tower of exponentials, and no polynomial.
        taken = (value > 0) & (h < 2.0)
        nodes[:, active[taken]] = _pushed(nodes[:, active[taken]], value[taken])
        values[:, active[taken]] = _pushed(values[:, active[taken]], (value * np.exp(-here))[taken] ** 2)
        best, lower = _interpolated(target, nodes[:, active], values[:, active])
        following = math.log(target) - 0.5 * np.log(best)
        # An error of v makes one of h that is larger by the slope of h, which is h over the step.
        converged = 0.5 * np.abs(np.log(best / lower)) * np.abs(h) <= tolerance * np.abs(following - here)
        closed = high[active] - low[active] <= 2 * eps * (1.0 + np.abs(here))
        at_end = (np.abs(h) <= tolerance) | (closed & (np.abs(h) <= 1e-3))
        out_of_reach = low[active] > _LARGEST_SQUARE - 1.0
        inside = (following > low[active]) & (following < high[active])
        step_to = np.where(inside, following, 0.5 * (low[active] + high[active]))
        unreached = np.where(out_of_reach, 0.0, low[active])
        ended = np.where(at_end, here, np.where(closed | out_of_reach, unreached, step_to))
        v[active] = np.where(converged, following, ended)
        found[active] = converged | at_end
        active = active[~(converged | at_end | closed | out_of_reach)]
    return v, found


def _pushed(rows: Floats, first: Floats) -> Floats:
    """The rows with a new first one, and without the last one."""
    return np.concatenate([first[None], rows[:-1]])


def _interpolated(at: float, nodes: Floats, values: Floats) -> tuple[Floats, Floats]:
    """The polynomial through all points, and that without the last of them, at one place, by Neville's scheme.

    A point is a row of nodes and of values; those that are NaN come last, and do not count.
    """
    column, best, lower = values, values[0], np.full_like(values[0], math.nan)
    for k in range(1, len(nodes)):
        column = ((at - nodes[k:]) * column[:-1] - (at - nodes[:-k]) * column[1:]) / (nodes[:-k] - nodes[k:])
        counts = np.isfinite(column[0])
        best, lower = np.where(counts, column[0], best), np.where(counts, best, lower)
    return best, lower
