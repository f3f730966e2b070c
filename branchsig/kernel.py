"""The branched signature kernel: of pairs of paths, of all pairs, at every node, and at every depth.

Paths come in; they are checked, transformed and handed to a backend as a `Problem`, and the logarithms or grids that
come back go out as kernels, normalised where that is asked for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from branchsig import _validation
from branchsig._accuracy import refined
from branchsig._arrays import (
    Array,
    ArrayT,
    Paths,
    all_finite,
    count_true,
    filled,
    in_float64,
    lies_on_cpu,
    namespace_of,
)
from branchsig._inputs import axis_order, not_finite
from branchsig._problems import Lengths, given, gram_problem, grid_shape, paired_problem, stack_shape
from branchsig._progress import reporting
from branchsig._warnings import warn
from branchsig.backends import Problem, Want, backend_for
from branchsig.dilation import dilated
from branchsig.normalization import unit_kernel, unit_kernel_less_one
from branchsig.quadrature import Quadrature
from branchsig.spec import Execution, Spec, options_of
from branchsig.static_kernels import BOUNDED, StaticKernel

__all__ = ["branched_sig_kernel", "branched_sig_kernel_gram", "branched_sig_kernel_stack"]


def branched_sig_kernel(
    path1: Paths[ArrayT],
    path2: Paths[ArrayT],
    depth: float | None = None,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    static_kernel: StaticKernel | None = None,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    n_jobs: int | None = 1,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    return_grid: bool = False,
    normalize: bool | str = False,
    log: bool = False,
    order: int | None = None,
    return_levels: bool = False,
    check_finite: bool | None = None,
    rtol: float | None = None,
) -> ArrayT:
    r"""Branched signature kernels of pairs of paths.

    Parameters
    ----------
    path1 : array, shape (*batch, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch, length2, dimension)
        Second paths, with the library, dtype, device, batch shape and dimension of `path1`.
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound. May be left out where `order` is given. At
        depth 1 the linear static kernel gives ``exp(<x_end - x_0, y_end - y_0>)``.
    dyadic_order : int or tuple of int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells. A
        pair gives the orders along the first and the second path. A further order divides the error by about 4 and
        takes 4 times the time.
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
    lengths1 : array of int, shape (*batch1,), optional
        Valid lengths of the first paths, where they are padded to one length; see `pad_paths`. What lies behind is
        never read, and its gradient is 0. With `time_aug` time runs from 0 to `end_time` over the valid points. Not
        beside a list of paths, whose lengths are its own.
    lengths2 : array of int, shape (*batch2,), optional
        Valid lengths of the second paths. Where the second paths are the first ones, so are their lengths.
    return_grid : bool, default: False
        The result is the kernel at every node of the grid, the corners of the sub-cells, instead of the value at the
        end of both paths.
    normalize : bool or "dilation", default: False
        True: the kernel is ``k(x, y) / sqrt(k(x, x) * k(y, y))``, formed from logarithms; not together with
        `return_grid`. ``"dilation"``: every path is scaled so that the logarithm of its kernel with itself is 1, as by
        `dilation`; then nothing overflows. Neither goes with `k_stack`.
    log : bool, default: False
        The result is the logarithm of the kernel, which is finite far beyond the range of the kernel itself.
    order : int, optional
        Largest number of nodes of a forest, in the place of a bound on the depth: `depth` is left out, or `math.inf`,
        or at least `order`. On piecewise-linear paths `GaussLobatto` with p of at least ``order - 1`` is exact.
    return_levels : bool, default: False
        With `order`, the result is the sums k_0, ..., k_order over the forests with 0, ..., order nodes each, on a
        last axis.
    check_finite : bool, optional
        Whether to look if the values are finite and, if they are not, to warn and to name the paths that hold NaN or
        infinities. `None` looks at values on the CPU: for those on a CUDA device the host would have to wait, and lazy
        or traced arrays have none yet. True looks at the paths in any case. With False the axes of the paths of a Gram
        matrix are not warned of either. Gradients are never looked at.
    rtol : float, optional
        Largest relative error of discretisation, in the place of a rule of `quadrature`: on the paths at hand
        Gauss-Lobatto rules of orders 2, 3, ... are tried until two in a row differ by no more than this, and not by
        chance. With `log`, logarithms below 1 in size may have this error itself; with `return_levels` errors are
        relative to the largest sum of a pair. A gradient is that of the rule found.

    Returns
    -------
    array, shape (*batch,)
        The kernels, with the library, dtype and device of the paths. With `return_grid` the kernels at every node,
        shape ``(*batch, grid1, grid2)``, where ``grid = (length - 1) * 2**order + 1`` after the transformations.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.
    MemoryError
        If the grids would not fit in memory, before they are allocated.

    Warns
    -----
    RuntimeWarning
        Once, with their number, if values overflow: they are inf; or if the terms they are sums of cancel beyond the
        digits of a double, as they may where paths return: they are NaN. It names the paths that hold NaN or
        infinities. With ``depth=math.inf`` also if a cell was not solved within the iterations allowed, which gives
        NaN. And if no rule reaches `rtol`.

    See Also
    --------
    branched_sig_kernel_gram : All pairs of two batches.
    branched_sig_kernel_vjp : The same value, and its gradient.

    Notes
    -----
    With a static kernel κ the kernels at the nodes of a grid over both paths are

    .. math:: K_0 = 1, \qquad K_m(s, t) = \exp\Bigl( \int_0^s \int_0^t K_{m-1}(u, v) \, d\kappa(x_u, y_v) \Bigr),

    and the result is ``K_depth`` at the end of both paths: the inner product of the branched signatures of x and y over
    all forests of depth at most `depth`. The integral over a cell is the mean of ``K_{m-1}`` over its corners times the
    increment of κ.

    The kernel overflows on paths that are not small: at depth 2 it already grows like the exponential of an exponential
    of the size of the paths. Scale the paths, use a bounded static kernel, or `normalize`.

    References
    ----------
    .. [1] I. Chevyrev and H. Oberhauser, "Signature moments to characterize laws of stochastic processes",
       Journal of Machine Learning Research 23 (2022).

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x = np.array([[0.0, 0.0], [0.5, 0.0], [0.5, 0.5]])
    >>> y = np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 0.5]])
    >>> print(branchsig.branched_sig_kernel(x, y, depth=1).round(6))
    2.117
    >>> bool(np.isclose(np.exp((x[-1] - x[0]) @ (y[-1] - y[0])), 2.117, atol=1e-5))
    True
    >>> batch = np.stack([x, y])
    >>> branchsig.branched_sig_kernel(batch, batch, depth=3, static_kernel=branchsig.RBFKernel(sigma=1.0)).shape
    (2,)
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
        return_grid=return_grid,
        log=log,
        return_levels=return_levels,
        rtol=rtol,
    )
    lengths = lengths1, lengths2
    problem, batch = paired_problem(path1, path2, lengths, spec, how)
    result: ArrayT = values(problem, batch, lengths, spec, how)[0]
    return result


def branched_sig_kernel_gram(
    path1: Paths[ArrayT],
    path2: Paths[ArrayT] | None,
    depth: float | None = None,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    static_kernel: StaticKernel | None = None,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    n_jobs: int | None = 1,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    return_grid: bool = False,
    normalize: bool | str = False,
    log: bool = False,
    order: int | None = None,
    return_levels: bool = False,
    check_finite: bool | None = None,
    rtol: float | None = None,
    max_batch: int = -1,
    progress: bool | Callable[[int, int], None] = False,
    devices: Iterable[int] | None = None,
) -> ArrayT:
    """Gram matrix of branched signature kernels: all pairs of two batches of paths.

    Parameters
    ----------
    path1 : array, shape (*batch1, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch2, length2, dimension), or None
        Second paths, with the library, dtype, device and dimension of `path1`. `None`, or `path1` itself, gives the
        symmetric Gram matrix of `path1`, for which one triangle is computed.
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound. May be left out where `order` is given. At
        depth 1 the linear static kernel gives ``exp(<x_end - x_0, y_end - y_0>)``.
    dyadic_order : int or tuple of int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells. A
        pair gives the orders along the first and the second path. A further order divides the error by about 4 and
        takes 4 times the time.
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
    lengths1 : array of int, shape (*batch1,), optional
        Valid lengths of the first paths, where they are padded to one length; see `pad_paths`. What lies behind is
        never read, and its gradient is 0. With `time_aug` time runs from 0 to `end_time` over the valid points. Not
        beside a list of paths, whose lengths are its own.
    lengths2 : array of int, shape (*batch2,), optional
        Valid lengths of the second paths. Where the second paths are the first ones, so are their lengths.
    return_grid : bool, default: False
        The result is the kernel at every node of the grid, the corners of the sub-cells, instead of the value at the
        end of both paths.
    normalize : bool or "dilation", default: False
        True: the kernel is ``k(x, y) / sqrt(k(x, x) * k(y, y))``, formed from logarithms; not together with
        `return_grid`. ``"dilation"``: every path is scaled so that the logarithm of its kernel with itself is 1, as by
        `dilation`; then nothing overflows. Neither goes with `k_stack`.
    log : bool, default: False
        The result is the logarithm of the kernel, which is finite far beyond the range of the kernel itself.
    order : int, optional
        Largest number of nodes of a forest, in the place of a bound on the depth: `depth` is left out, or `math.inf`,
        or at least `order`. On piecewise-linear paths `GaussLobatto` with p of at least ``order - 1`` is exact.
    return_levels : bool, default: False
        With `order`, the result is the sums k_0, ..., k_order over the forests with 0, ..., order nodes each, on a
        last axis.
    check_finite : bool, optional
        Whether to look if the values are finite and, if they are not, to warn and to name the paths that hold NaN or
        infinities. `None` looks at values on the CPU: for those on a CUDA device the host would have to wait, and lazy
        or traced arrays have none yet. True looks at the paths in any case. With False the axes of the paths of a Gram
        matrix are not warned of either. Gradients are never looked at.
    rtol : float, optional
        Largest relative error of discretisation, in the place of a rule of `quadrature`: on the paths at hand
        Gauss-Lobatto rules of orders 2, 3, ... are tried until two in a row differ by no more than this, and not by
        chance. With `log`, logarithms below 1 in size may have this error itself; with `return_levels` errors are
        relative to the largest sum of a pair. A gradient is that of the rule found.
    max_batch : int, default: -1
        At most ``max_batch**2`` pairs are in flight at a time; -1 leaves the choice to the library.
    progress : bool or callable, default: False
        True shows a bar, through tqdm; a callable is called with (pairs done, pairs in all).
    devices : sequence of int, optional
        The CUDA devices that share the pairs among them, for paths that lie on one. The result lies where the paths do.

    Returns
    -------
    array, shape (*batch1, *batch2)
        The kernels, with the library, dtype and device of the paths. With `return_grid` the kernels at every node,
        shape ``(*batch1, *batch2, grid1, grid2)``, where ``grid = (length - 1) * 2**order + 1`` after the
        transformations.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.
    MemoryError
        If the grids would not fit in memory, before they are allocated.
    ImportError
        If a bar is asked for and tqdm is not installed.

    Warns
    -----
    RuntimeWarning
        Once, with their number, if values overflow, which are inf, or have lost their digits, which are NaN. It names
        the paths that hold NaN or infinities. Also where the axes look like those of other libraries: if every path
        has one point, or both arguments have two dimensions.

    See Also
    --------
    branched_sig_kernel : Pairs of paths, and the formula.
    branched_sig_kernel_gram_vjp : The same matrix, and its gradient.

    Notes
    -----
    For equal dyadic orders the matrix of one batch with itself is positive semi-definite, whatever the depth: sums and
    products of positive semi-definite kernels are, and the rule over a cell is made of nothing else.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> paths = np.cumsum(np.random.default_rng(0).normal(scale=0.1, size=(4, 10, 3)), axis=1)
    >>> gram = branchsig.branched_sig_kernel_gram(paths, None, depth=3, normalize=True)
    >>> gram.shape
    (4, 4)
    >>> bool(np.array_equal(gram, gram.T)), np.diagonal(gram).tolist()
    (True, [1.0, 1.0, 1.0, 1.0])
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
        return_grid=return_grid,
        log=log,
        return_levels=return_levels,
        rtol=rtol,
        max_batch=max_batch,
        progress=progress,
        devices=devices,
    )
    lengths = lengths1, lengths2
    with reporting(how.progress) as report:
        problem, batch = gram_problem(path1, path2, lengths, spec, how, report, triangle=not spec.return_grid)
        result: ArrayT = values(problem, batch, lengths, spec, how)[0]
        return result


def branched_sig_kernel_stack(
    path1: Paths[ArrayT],
    path2: Paths[ArrayT],
    depth: float,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    static_kernel: StaticKernel | None = None,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    n_jobs: int | None = 1,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    check_finite: bool | None = None,
) -> ArrayT:
    """Branched signature kernels of pairs of paths at every node and every depth.

    This is what the backward functions take as `k_stack`, so that they need not solve for it again.

    Parameters
    ----------
    path1 : array, shape (*batch, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch, length2, dimension)
        Second paths, with the library, dtype, device, batch shape and dimension of `path1`.
    depth : int
        Largest depth of the trees, at least 0. At depth 1 the linear static kernel gives
        ``exp(<x_end - x_0, y_end - y_0>)``.
    dyadic_order : int or tuple of int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells. A
        pair gives the orders along the first and the second path. A further order divides the error by about 4 and
        takes 4 times the time.
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
    lengths1 : array of int, shape (*batch1,), optional
        Valid lengths of the first paths, where they are padded to one length; see `pad_paths`. What lies behind is
        never read, and its gradient is 0. With `time_aug` time runs from 0 to `end_time` over the valid points. Not
        beside a list of paths, whose lengths are its own.
    lengths2 : array of int, shape (*batch2,), optional
        Valid lengths of the second paths. Where the second paths are the first ones, so are their lengths.
    check_finite : bool, optional
        Whether to look if the values are finite and, if they are not, to warn and to name the paths that hold NaN or
        infinities. `None` looks at values on the CPU: for those on a CUDA device the host would have to wait, and lazy
        or traced arrays have none yet. True looks at the paths in any case. With False the axes of the paths of a Gram
        matrix are not warned of either. Gradients are never looked at.

    Returns
    -------
    array, shape (*batch, depth + 1, grid1, grid2)
        The kernels of depth 0 to `depth` at every node, where ``grid = (length - 1) * 2**order + 1`` after the
        transformations.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.
    MemoryError
        If the grids would not fit in memory, before they are allocated.

    Warns
    -----
    RuntimeWarning
        Once, with their number, if values overflow, which are inf, or have lost their digits, which are NaN. It names
        the paths that hold NaN or infinities.

    See Also
    --------
    branched_sig_kernel : The value at the end of both paths, and the formula.
    branched_sig_kernel_backprop : Takes the stack.

    Notes
    -----
    For a Gram matrix, give the paths of all its pairs: ``path1[:, None]`` and ``path2[None]``, both broadcast to
    ``(n1, n2, length, dimension)``.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2)
    >>> stack = branchsig.branched_sig_kernel_stack(x, y, depth=3)
    >>> stack.shape
    (5, 4, 6, 6)
    >>> bool(np.allclose(stack[:, -1, -1, -1], branchsig.branched_sig_kernel(x, y, depth=3)))
    True
    """
    depth = _validation.depth(depth)  # no order can stand in its place
    spec, how = options_of(
        depth, dyadic_order, static_kernel, time_aug, lead_lag, end_time, n_jobs, quadrature, check_finite=check_finite
    )
    lengths = lengths1, lengths2
    problem, batch = paired_problem(path1, path2, lengths, spec, how)
    shape = stack_shape(problem, batch)
    _validation.fits_memory(shape, problem.path1, "the stack", "take fewer pairs at a time, or leave k_stack out")
    with np.errstate(all="ignore"):
        stack = backend_for(problem).solve(problem, "stack")
        _warn(*_complaints(stack, problem, lengths, spec, how))
    result: ArrayT = namespace_of(stack).reshape(stack, shape)
    return result


def values(
    problem: Problem, batch: tuple[int, ...], lengths: Lengths, spec: Spec, how: Execution
) -> tuple[Array, Problem]:
    """Solve a problem for what the spec asks for, and warn of what went wrong; return the problem with its rule too.

    Within the package results have one axis of pairs for each stack of paths; they get the batch axes of the caller
    here, when all checks are made.
    """
    missed = ""
    with np.errstate(all="ignore"):
        if spec.rtol is None:
            result = _solved(problem, batch, spec)
        else:
            result, problem, missed = _refined(problem, batch, spec)
        complaints = _complaints(result, problem, lengths, spec, how)
    if missed or complaints:
        _warn(missed, *complaints)
    if result.shape[: problem.axes] == batch:
        return result, problem
    return namespace_of(result).reshape(result, batch + tuple(result.shape[problem.axes :])), problem


def less_one(problem: Problem, spec: Spec) -> Array:
    """Return K - 1 for all pairs of a problem, from logarithms, so that kernels near 1 keep all their digits."""
    backend, xp = backend_for(problem), namespace_of(problem.path1)
    problem = dataclasses.replace(problem, purpose="kernel")
    with np.errstate(all="ignore"):
        if spec.normalize is True:
            result = unit_kernel_less_one(backend, problem)
        elif problem.order is not None:
            result = xp.sum(backend.solve(problem, "end")[..., 1:], axis=-1)  # the sum over no nodes is 1
        else:
            result = xp.expm1(in_float64(backend.solve(problem, "end", log=True)))
    if problem.depth == math.inf and problem.order is None:
        result = _nan_where_paths_are(result, problem)
    return in_float64(result)


def with_rule(problem: Problem, batch: tuple[int, ...], spec: Spec) -> Problem:
    """Return the problem with the rule its values are computed with, for gradients without the values."""
    if spec.rtol is None:
        return problem
    silent = dataclasses.replace(problem, progress=None)
    with np.errstate(all="ignore"):
        _, found, complaint = _refined(silent, batch, spec)
    _warn(complaint)
    return dataclasses.replace(found, progress=problem.progress)


def _warn(*complaints: str | None) -> None:
    """Give all complaints of a call in one warning."""
    text = ". ".join(filter(None, complaints))
    if text:
        warn(text)


def _refined(problem: Problem, batch: tuple[int, ...], spec: Spec) -> tuple[Array, Problem, str]:
    return refined(problem, spec, lambda tried: _solved(tried, batch, spec))


def _solved(problem: Problem, batch: tuple[int, ...], spec: Spec) -> Array:
    """What the spec asks for, by the rule of the problem, shape (*pairs, ...)."""
    if spec.normalize == "dilation":
        scaled = dilated(problem)
        return scaled.result(_solved(scaled.problem, batch, dataclasses.replace(spec, normalize=False)))
    backend = backend_for(problem)  # which may depend on the rule
    want: Want = "grid" if spec.return_grid else "end"
    if spec.return_grid:
        in_all = grid_shape(problem, batch)
        in_all = in_all if problem.order is None else (*in_all, problem.order + 1)
        _validation.fits_memory(in_all, problem.path1, "the grid", "take fewer pairs at a time or a lower dyadic order")
    if spec.normalize is True:
        result = unit_kernel(backend, problem, log=spec.log)
    elif problem.order is not None:
        purpose = None if spec.return_levels else "log" if spec.log else "kernel"
        result = backend.solve(dataclasses.replace(problem, purpose=purpose), want)
        if not spec.return_levels:
            xp = namespace_of(result)
            # The sum over no nodes is 1; without it logarithms of kernels near 1 keep their digits.
            result = xp.log1p(xp.sum(result[..., 1:], axis=-1)) if spec.log else xp.sum(result, axis=-1)
    else:
        result = backend.solve(problem, want, log=spec.log)
    if problem.depth == math.inf and problem.order is None:
        result = _nan_where_paths_are(result, problem)
    return result


def _finite_pairs(result: Array, problem: Problem) -> Array:
    """Whether both paths of a pair are finite, for every pair, with as many axes as the result."""
    xp = namespace_of(problem.path1)
    finite1 = xp.all(xp.isfinite(filled(problem.path1, problem.lengths1)), axis=(1, 2))
    finite2 = xp.all(xp.isfinite(filled(problem.path2, problem.lengths2)), axis=(1, 2))
    finite = finite1 & finite2 if problem.axes == 1 else finite1[:, None] & finite2[None, :]
    return xp.reshape(finite, (*finite.shape, *(1,) * (result.ndim - problem.axes)))


def _nan_where_paths_are(result: Array, problem: Problem) -> Array:
    """Without truncation what is not finite in a path looks like a kernel that blows up, but says nothing of it."""
    if lies_on_cpu(result) and all_finite(result):
        return result
    xp = namespace_of(result)
    known = xp.isfinite(result) | _finite_pairs(result, problem)
    return xp.where(known, result, xp.full_like(result, math.nan))


def _complaints(result: Array, problem: Problem, lengths: Lengths, spec: Spec, how: Execution) -> list[str]:
    """What to warn of: the axes of the paths, what is not finite in them, and values that overflowed."""
    checked = how.check_finite
    if checked is False:
        return []
    # To look at the values of a CUDA device the host waits for it; those of a traced array are not there yet.
    finite = not (checked or lies_on_cpu(result)) or all_finite(result)
    odd = problem.pairing != "paired" and (problem.path1.shape[1] == 1 or not problem.batches[0])
    if finite and not checked and not odd:
        return []
    paths = given(problem, lengths, spec.transforms)
    complaints = [axis_order(*paths)] if odd else []
    if checked or not finite:
        complaints += map(not_finite, paths)
    if not finite:
        complaints += [_spoilt(result, problem), _undefined(result, problem, spec)]
    return complaints


def _spoilt(result: Array, problem: Problem) -> str:
    """How many values are not finite since their paths are not, which are named before."""
    spoilt = count_true(~(_finite_pairs(result, problem) | namespace_of(result).isfinite(result)))
    return f"{spoilt} of {math.prod(result.shape)} values are not finite because of this" if spoilt else ""


def _undefined(result: Array, problem: Problem, spec: Spec) -> str:
    """How many values are not finite although their paths are, and why."""
    xp, finite = namespace_of(result), _finite_pairs(result, problem)
    count = count_true(finite & ~xp.isfinite(result))
    if not count:
        return ""
    undefined = count_true(finite & xp.isnan(result))
    return f"{count} of {math.prod(result.shape)} values {what_happened(problem, spec, count, undefined)}"


def what_happened(problem: Problem, spec: Spec, count: int, undefined: int) -> str:
    """Why `count` values are not finite, `undefined` of them NaN and the others infinite, and the ways out."""
    bounded = isinstance(problem.static_kernel, BOUNDED)
    scale = 'Take normalize="dilation", which scales every path for itself and never overflows, ' + (
        "or scale the paths down"
        if bounded
        else "scale the paths down, or use a bounded static kernel such as RBFKernel"
    )
    if spec.normalize == "dilation":
        scale = (
            'With normalize="dilation" this is left to increments beyond the range of the dtype, and to a '
            "static_kernel that is not positive semi-definite"
        )
    if problem.order is not None and spec.log:
        return (
            "are NaN or infinite: a kernel truncated by the number of nodes need not be positive, and has no logarithm "
            "where it is not, or where its terms cancel beyond the digits of a double. Take log=False or a higher "
            "order. " + scale
        )
    if problem.depth == math.inf and problem.order is None:
        fine = spec.rtol is not None or problem.quadrature.p >= 4
        rule = "" if fine else 'a rule of higher order (quadrature="lobatto4", or rtol=1e-6), or '
        return (
            "are inf or NaN: the paths lie past the point where the kernel of unbounded depth blows up, or so close to "
            "it that the equation of a cell has no solution, or was not solved within the iterations allowed; there "
            f"{rule}a higher dyadic_order helps. {scale}"
        )
    if undefined == 0:
        return "overflowed and are inf: the branched signature kernel grows far faster than the paths do. " + scale
    cancel = (
        "the terms they are sums of cancel beyond the digits, or the range, of a double, as they do where paths return "
        "on their way"
    )
    if undefined == count:
        return f"lost all their digits and are NaN: {cancel}. {scale}"
    return (
        f"overflowed or lost all their digits: {count - undefined} are inf, for the branched signature kernel grows "
        f"far faster than the paths do, and {undefined} are NaN, for {cancel}. {scale}"
    )
