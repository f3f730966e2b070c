"""The branched signature kernel of pairs of paths, at their end, at every node and at every depth, and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from branchsig import _validation
from branchsig._arrays import Array, ArrayT, Paths, PathsT1, PathsT2
from branchsig.operations import OPERATIONS
from branchsig.operations.timed import timed
from branchsig.quadrature import Quadrature
from branchsig.spec import options_of
from branchsig.static_kernels import StaticKernel

__all__ = [
    "branched_sig_kernel",
    "branched_sig_kernel_backprop",
    "branched_sig_kernel_stack",
    "branched_sig_kernel_stack_backprop",
    "branched_sig_kernel_stack_vjp",
    "branched_sig_kernel_vjp",
]

_KERNEL, _STACK = OPERATIONS["kernel"], OPERATIONS["stack"]


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
) -> ArrayT:
    r"""Branched signature kernels of pairs of paths.

    Parameters
    ----------
    path1 : array, shape (*batch, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch, length2, dimension)
        Second paths, with the library, dtype, device, batch shape and dimension of `path1`.
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
        base_point=base_point,
    )
    result: ArrayT = timed(_KERNEL, times1, times2).value(spec, how, path1, path2, lengths1, lengths2)
    return result


def branched_sig_kernel_vjp(
    path1: Paths[ArrayT],
    path2: Paths[ArrayT],
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
    param_deriv: bool = False,
) -> tuple[ArrayT, Callable[[Array], tuple[ArrayT | Any, ArrayT | Any]]]:
    """Branched signature kernels of pairs of paths, and the function that takes derivatives back to the paths.

    Parameters
    ----------
    path1 : array, shape (*batch, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch, length2, dimension)
        Second paths, with the library, dtype, device, batch shape and dimension of `path1`.
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
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.

    Returns
    -------
    value : array, shape (*batch,)
        What `branched_sig_kernel` returns.
    pullback : callable
        ``pullback(derivs)`` takes derivatives of a scalar with respect to `value` and returns those with respect to
        `path1` and `path2`, lists for lists. With `param_deriv` a dictionary of those with respect to the parameters of
        the static kernel comes last. Nothing is solved for again. It may be called any number of times and can be
        pickled, and reads the paths again: do not write to them before.

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
    branched_sig_kernel : The value.
    branched_sig_kernel_backprop : The gradient for derivatives that are known before.

    Examples
    --------
    One step up the gradient of the kernel of two paths:

    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(np.random.default_rng(0).normal(scale=0.1, size=(2, 6, 2)), axis=-2)
    >>> value, pullback = branchsig.branched_sig_kernel_vjp(x, y, depth=3)
    >>> d_x, _ = pullback(np.ones(value.shape))
    >>> bool(branchsig.branched_sig_kernel(x + 0.01 * d_x, y, depth=3) > value)
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
        base_point=base_point,
    )
    return timed(_KERNEL, times1, times2).vjp(spec, how, path1, path2, lengths1, lengths2, param_deriv=param_deriv)


def branched_sig_kernel_backprop(
    derivs: Array,
    path1: PathsT1,
    path2: PathsT2,
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
    param_deriv: bool = False,
) -> tuple[PathsT1 | None, PathsT2 | None]:
    r"""Gradients of branched signature kernels of pairs of paths.

    Parameters
    ----------
    derivs : array, shape (*batch,)
        Derivatives of a scalar with respect to the result of `branched_sig_kernel`: shape ``(*batch, grid1, grid2)``
        with `return_grid`.
    path1 : array, shape (*batch, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch, length2, dimension)
        Second paths, with the library, dtype, device, batch shape and dimension of `path1`.
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
    k_stack : array, shape (*batch, depth + 1, grid1, grid2), optional
        The result of `branched_sig_kernel_stack` for the same paths and options. With it nothing is solved for again.
        Not with `GaussLobatto`, which needs values that the stack does not hold.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.

    Returns
    -------
    tuple of array or None
        The derivatives of the scalar with respect to `path1`, shape ``(*batch, length1, dimension)``, and to `path2`,
        shape ``(*batch, length2, dimension)``; None for a side that is not asked for. For a list of paths a list of
        arrays, one for each. With `param_deriv` a third item, a dictionary of the derivatives with respect to the
        parameters of the static kernel by name, 0-d arrays.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.

    See Also
    --------
    branched_sig_kernel : The value.
    branched_sig_kernel_vjp : Value and gradient in one call.

    Notes
    -----
    The gradient is the adjoint of the recursion, exact to rounding for the discretisation in use. Downwards from the
    last depth, with :math:`w_m` the derivatives with respect to the integrals over the cells and g the increments,

    .. math::

        \bar g \mathrel{+}= w_m \cdot \mathrm{mean}(K_{m-1}), \qquad
        \bar K_{m-1} = \tfrac14 \sum_{cells} g \, w_m, \qquad
        w_{m-1} = \sum_{r' > r, \, c' > c} \bar K_{m-1} K_{m-1}.

    Gradients of a pair whose value is not finite are NaN in every entry of its two paths, and of no other. A pair whose
    derivatives are all 0 contributes nothing, whatever its value. Nothing is warned of.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2)
    >>> d_x, d_y = branchsig.branched_sig_kernel_backprop(np.ones(5), x, y, depth=3, right_deriv=True)
    >>> d_x.shape, d_y.shape
    ((5, 6, 2), (5, 6, 2))
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
        base_point=base_point,
    )
    result: tuple[PathsT1 | None, PathsT2 | None] = timed(_KERNEL, times1, times2).backprop(
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
    base_point: bool = False,
    n_jobs: int | None = 1,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    times1: Any = None,
    times2: Any = None,
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
        depth,
        dyadic_order,
        static_kernel,
        time_aug,
        lead_lag,
        end_time,
        n_jobs,
        quadrature,
        check_finite=check_finite,
        base_point=base_point,
    )
    result: ArrayT = timed(_STACK, times1, times2).value(spec, how, path1, path2, lengths1, lengths2)
    return result


def branched_sig_kernel_stack_vjp(
    path1: Paths[ArrayT],
    path2: Paths[ArrayT],
    depth: float,
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
    check_finite: bool | None = None,
    param_deriv: bool = False,
) -> tuple[ArrayT, Callable[[Array], tuple[ArrayT | Any, ArrayT | Any]]]:
    """Branched signature kernels at every node and depth, and the function that takes derivatives back to the paths.

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
    check_finite : bool, optional
        Whether to look if the values are finite and, if they are not, to warn and to name the paths that hold NaN or
        infinities. `None` looks at values on the CPU: for those on a CUDA device the host would have to wait, and lazy
        or traced arrays have none yet. True looks at the paths in any case. With False the axes of the paths of a Gram
        matrix are not warned of either. Gradients are never looked at.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.

    Returns
    -------
    value : array, shape (*batch, depth + 1, grid1, grid2)
        What `branched_sig_kernel_stack` returns.
    pullback : callable
        ``pullback(derivs)`` takes derivatives of a scalar with respect to `value` and returns those with respect to
        `path1` and `path2`, lists for lists. With `param_deriv` a dictionary of those with respect to the parameters of
        the static kernel comes last. Nothing is solved for again. It may be called any number of times and can be
        pickled, and reads the paths again: do not write to them before.

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
    branched_sig_kernel_stack : The value.
    branched_sig_kernel_stack_backprop : The gradient for derivatives that are known before.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2)
    >>> stack, pullback = branchsig.branched_sig_kernel_stack_vjp(x, y, depth=3)
    >>> d_x, d_y = pullback(np.ones(stack.shape))
    >>> d_x.shape, d_y.shape
    ((5, 6, 2), (5, 6, 2))
    """
    depth = _validation.depth(depth)  # no order can stand in its place
    spec, how = options_of(
        depth,
        dyadic_order,
        static_kernel,
        time_aug,
        lead_lag,
        end_time,
        n_jobs,
        quadrature,
        check_finite=check_finite,
        base_point=base_point,
    )
    return timed(_STACK, times1, times2).vjp(spec, how, path1, path2, lengths1, lengths2, param_deriv=param_deriv)


def branched_sig_kernel_stack_backprop(
    derivs: Array,
    path1: PathsT1,
    path2: PathsT2,
    depth: float,
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
    check_finite: bool | None = None,
    left_deriv: bool = True,
    right_deriv: bool = False,
    param_deriv: bool = False,
) -> tuple[PathsT1 | None, PathsT2 | None]:
    """Gradients of branched signature kernels at every node and every depth.

    Parameters
    ----------
    derivs : array, shape (*batch, depth + 1, grid1, grid2)
        Derivatives of a scalar with respect to the result of `branched_sig_kernel_stack`.
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
    check_finite : bool, optional
        Whether to look if the values are finite and, if they are not, to warn and to name the paths that hold NaN or
        infinities. `None` looks at values on the CPU: for those on a CUDA device the host would have to wait, and lazy
        or traced arrays have none yet. True looks at the paths in any case. With False the axes of the paths of a Gram
        matrix are not warned of either. Gradients are never looked at.
    left_deriv : bool, default: True
        Whether to differentiate with respect to the first paths.
    right_deriv : bool, default: False
        Whether to differentiate with respect to the second paths.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.

    Returns
    -------
    tuple of array or None
        The derivatives of the scalar with respect to `path1` and `path2`; None for a side that is not asked for. With
        `param_deriv` a third item, a dictionary of the derivatives with respect to the parameters of the static kernel
        by name, 0-d arrays.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.

    See Also
    --------
    branched_sig_kernel_stack : The value.
    branched_sig_kernel_stack_vjp : Value and gradient in one call.

    Notes
    -----
    The sum of the gradients of the grids of all depths, each by a sweep of its own.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2)
    >>> d_x, _ = branchsig.branched_sig_kernel_stack_backprop(np.ones((5, 4, 6, 6)), x, y, depth=3)
    >>> d_x.shape
    (5, 6, 2)
    """
    depth = _validation.depth(depth)  # no order can stand in its place
    spec, how = options_of(
        depth,
        dyadic_order,
        static_kernel,
        time_aug,
        lead_lag,
        end_time,
        n_jobs,
        quadrature,
        check_finite=check_finite,
        base_point=base_point,
    )
    result: tuple[PathsT1 | None, PathsT2 | None] = timed(_STACK, times1, times2).backprop(
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
    )
    return result
