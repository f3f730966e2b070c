"""Gram matrices of branched signature kernels, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from branchsig._arrays import Array, ArrayT, Paths, PathsT1, PathsT2
from branchsig.operations import OPERATIONS
from branchsig.operations.timed import timed
from branchsig.quadrature import Quadrature
from branchsig.spec import options_of
from branchsig.static_kernels import StaticKernel

__all__ = ["branched_sig_kernel_gram", "branched_sig_kernel_gram_backprop", "branched_sig_kernel_gram_vjp"]

_GRAM = OPERATIONS["gram"]


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
    base_point: bool = False,
    n_jobs: int | None = 1,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    times1: Any = None,
    times2: Any = None,
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
        Largest depth of the trees, at least 0; `math.inf` for no bound. May be left out where `order` is given, and
        may be given beside it. At depth 1 the linear static kernel gives ``exp(<x_end - x_0, y_end - y_0>)``.
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
    base_point : bool, default: False
        Let every path begin at 0: a point 0 stands before its first point, at the same time, before lead-lag. So the
        kernel sees how high a path lies, and not its steps alone.
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
    times1 : array, shape (*batch1, length1), optional
        Times of the points of the first paths, which become their last channel in the place of evenly spaced time, with
        `time_aug` or without, but not beside `end_time`; (length1,) for those of all paths, and a list of arrays for a
        list of paths. Lead-lag puts points halfway between two times. Among gradients those with respect to `times1`
        and `times2` follow those with respect to the paths.
    times2 : array, shape (*batch2, length2), optional
        Times of the points of the second paths. Where the second paths are the first ones, so are their times.
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
        Largest number of nodes of a forest. A `depth` below it bounds the forests as well; one that is left out,
        `math.inf`, or at least `order` does not. On piecewise-linear paths `GaussLobatto` with p of at least
        ``order - 1`` is exact.
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
        base_point=base_point,
    )
    result: ArrayT = timed(_GRAM, times1, times2).value(spec, how, path1, path2, lengths1, lengths2)
    return result


def branched_sig_kernel_gram_vjp(
    path1: Paths[ArrayT],
    path2: Paths[ArrayT] | None,
    depth: float | None = None,
    dyadic_order: int | tuple[int, int] = 0,
    *,
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
    param_deriv: bool = False,
) -> tuple[ArrayT, Callable[[Array], tuple[ArrayT | Any, ArrayT | Any]]]:
    """Gram matrix of branched signature kernels, and the function that takes derivatives back to the paths.

    Parameters
    ----------
    path1 : array, shape (*batch1, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch2, length2, dimension), or None
        Second paths, with the library, dtype, device and dimension of `path1`. `None`, or `path1` itself, gives the
        symmetric Gram matrix of `path1`, for which one triangle is computed.
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound. May be left out where `order` is given, and
        may be given beside it. At depth 1 the linear static kernel gives ``exp(<x_end - x_0, y_end - y_0>)``.
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
    base_point : bool, default: False
        Let every path begin at 0: a point 0 stands before its first point, at the same time, before lead-lag. So the
        kernel sees how high a path lies, and not its steps alone.
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
    times1 : array, shape (*batch1, length1), optional
        Times of the points of the first paths, which become their last channel in the place of evenly spaced time, with
        `time_aug` or without, but not beside `end_time`; (length1,) for those of all paths, and a list of arrays for a
        list of paths. Lead-lag puts points halfway between two times. Among gradients those with respect to `times1`
        and `times2` follow those with respect to the paths.
    times2 : array, shape (*batch2, length2), optional
        Times of the points of the second paths. Where the second paths are the first ones, so are their times.
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
        Largest number of nodes of a forest. A `depth` below it bounds the forests as well; one that is left out,
        `math.inf`, or at least `order` does not. On piecewise-linear paths `GaussLobatto` with p of at least
        ``order - 1`` is exact.
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
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.

    Returns
    -------
    value : array, shape (*batch1, *batch2)
        What `branched_sig_kernel_gram` returns.
    pullback : callable
        ``pullback(derivs)`` takes derivatives of a scalar with respect to `value` and returns those with respect to
        `path1` and `path2`, lists for lists; with ``path2=None`` the whole gradient and None. With `param_deriv` a
        dictionary of those with respect to the parameters of the static kernel comes last. Nothing is solved for again.
        It may be called any number of times and can be pickled, and reads the paths again: do not write to them before.

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
    branched_sig_kernel_gram : The value.
    branched_sig_kernel_gram_backprop : The gradient for derivatives that are known before.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> paths = np.cumsum(np.random.default_rng(0).normal(scale=0.1, size=(4, 6, 2)), axis=1)
    >>> gram, pullback = branchsig.branched_sig_kernel_gram_vjp(paths, None, depth=3)
    >>> gradient, _ = pullback(2.0 * gram)  # of the squared Frobenius norm
    >>> gradient.shape
    (4, 6, 2)
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
        base_point=base_point,
    )
    return timed(_GRAM, times1, times2).vjp(spec, how, path1, path2, lengths1, lengths2, param_deriv=param_deriv)


def branched_sig_kernel_gram_backprop(
    derivs: Array,
    path1: PathsT1,
    path2: PathsT2 | None,
    depth: float | None = None,
    dyadic_order: int | tuple[int, int] = 0,
    *,
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
    return_grid: bool = False,
    normalize: bool | str = False,
    log: bool = False,
    order: int | None = None,
    return_levels: bool = False,
    check_finite: bool | None = None,
    rtol: float | None = None,
    left_deriv: bool = True,
    right_deriv: bool = False,
    k_stack: Array | None = None,
    max_batch: int = -1,
    progress: bool | Callable[[int, int], None] = False,
    devices: Iterable[int] | None = None,
    param_deriv: bool = False,
) -> tuple[PathsT1 | None, PathsT2 | None]:
    """Gradients of a Gram matrix of branched signature kernels.

    Parameters
    ----------
    derivs : array, shape (*batch1, *batch2)
        Derivatives of a scalar with respect to the result of `branched_sig_kernel_gram`: shape
        ``(*batch1, *batch2, grid1, grid2)`` with `return_grid`.
    path1 : array, shape (*batch1, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch2, length2, dimension), or None
        Second paths, with the library, dtype, device and dimension of `path1`. `None`, or `path1` itself, gives the
        symmetric Gram matrix of `path1`, for which one triangle is computed.
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound. May be left out where `order` is given, and
        may be given beside it. At depth 1 the linear static kernel gives ``exp(<x_end - x_0, y_end - y_0>)``.
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
    base_point : bool, default: False
        Let every path begin at 0: a point 0 stands before its first point, at the same time, before lead-lag. So the
        kernel sees how high a path lies, and not its steps alone.
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
    times1 : array, shape (*batch1, length1), optional
        Times of the points of the first paths, which become their last channel in the place of evenly spaced time, with
        `time_aug` or without, but not beside `end_time`; (length1,) for those of all paths, and a list of arrays for a
        list of paths. Lead-lag puts points halfway between two times. Among gradients those with respect to `times1`
        and `times2` follow those with respect to the paths.
    times2 : array, shape (*batch2, length2), optional
        Times of the points of the second paths. Where the second paths are the first ones, so are their times.
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
        Largest number of nodes of a forest. A `depth` below it bounds the forests as well; one that is left out,
        `math.inf`, or at least `order` does not. On piecewise-linear paths `GaussLobatto` with p of at least
        ``order - 1`` is exact.
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
    left_deriv : bool, default: True
        Whether to differentiate with respect to the first paths.
    right_deriv : bool, default: False
        Whether to differentiate with respect to the second paths.
    k_stack : array, shape (*batch1, *batch2, depth + 1, grid1, grid2), optional
        The result of `branched_sig_kernel_stack` for the paths of all pairs and the same options. With it nothing is
        solved for again. Not with `GaussLobatto`, which needs values that the stack does not hold.
    max_batch : int, default: -1
        At most ``max_batch**2`` pairs are in flight at a time; -1 leaves the choice to the library.
    progress : bool or callable, default: False
        True shows a bar, through tqdm; a callable is called with (pairs done, pairs in all).
    devices : sequence of int, optional
        The CUDA devices that share the pairs among them, for paths that lie on one. The result lies where the paths do.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.

    Returns
    -------
    tuple of array or None
        The derivatives of the scalar with respect to `path1`, shape ``(*batch1, length1, dimension)``, and to `path2`,
        shape ``(*batch2, length2, dimension)``; None for a side that is not asked for. For a list of paths a list of
        arrays, one for each. With ``path2=None`` the matrix is a function of `path1` alone and the first is its whole
        gradient. With `path1` given twice they are those of its two places, and the gradient is their sum. With
        `param_deriv` a third item, a dictionary of the derivatives with respect to the parameters of the static kernel
        by name, 0-d arrays.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.
    ImportError
        If a bar is asked for and tqdm is not installed.

    See Also
    --------
    branched_sig_kernel_gram : The matrix.
    branched_sig_kernel_gram_vjp : Matrix and gradient in one call.

    Notes
    -----
    Since k(x, y) = k(y, x), the whole gradient of a symmetric matrix is one pass over a triangle with
    ``derivs + derivs.T``.

    Gradients of a pair whose value is not finite are NaN in every entry of its two paths, and of no other. A pair whose
    derivatives are all 0 contributes nothing, whatever its value. Nothing is warned of.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> paths = np.cumsum(np.random.default_rng(0).normal(scale=0.1, size=(4, 6, 2)), axis=1)
    >>> whole, _ = branchsig.branched_sig_kernel_gram_backprop(np.ones((4, 4)), paths, None, depth=3)
    >>> left, right = branchsig.branched_sig_kernel_gram_backprop(
    ...     np.ones((4, 4)), paths, paths, depth=3, right_deriv=True
    ... )
    >>> bool(np.allclose(whole, left + right))
    True
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
        base_point=base_point,
    )
    result: tuple[PathsT1 | None, PathsT2 | None] = timed(_GRAM, times1, times2).backprop(
        derivs,
        spec,
        how,
        path1,
        path2,
        lengths1,
        lengths2,
        left_deriv=left_deriv,
        right_deriv=right_deriv,
        param_deriv=param_deriv,
        k_stack=k_stack,
    )
    return result
