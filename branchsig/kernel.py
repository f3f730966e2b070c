"""Branched signature kernels of pairs of paths, at the end, at every node and at every depth, and their gradients."""

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
    planar: bool = False,
) -> ArrayT:
    r"""Branched signature kernels of pairs of paths.

    Parameters
    ----------
    path1 : array, shape (*batch, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch, length2, dimension)
        Second paths, with the library, dtype, device, batch shape and dimension of `path1`.
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound. Optional if `order` is given; both may be
        given. At depth 1 the linear static kernel gives ``exp(<x_end - x_0, y_end - y_0>)``.
    dyadic_order : int or tuple of int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells. A
        pair gives the orders along the first and the second path. Each further order divides the error by about 4 and
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
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    n_jobs : int or None, default: 1
        Number of threads, as in joblib: -1 for all cores, -2 for all but one, None for 1. The result does not depend on
        it.
    quadrature : Quadrature or str, default: "trapezoid"
        The rule for the integral over a sub-cell: `Trapezoid`, `LeftPoint` or `GaussLobatto`, or their names
        ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
    lengths1 : array of int, shape (*batch1,), optional
        Valid lengths of the first paths, if they are padded to one length; see `pad_paths`. Padding is never read, and
        its gradient is 0. With `time_aug` time runs from 0 to `end_time` over the valid points. Not allowed with a list
        of paths, which has its own lengths.
    lengths2 : array of int, shape (*batch2,), optional
        Valid lengths of the second paths. If the second paths are the first ones, they take `lengths1`.
    times1 : array, shape (*batch1, length1), optional
        Times of the points of the first paths. They become the last channel instead of evenly spaced time, with or
        without `time_aug`, and exclude `end_time`. Shape (length1,) gives all paths the same times; a list of paths
        takes a list of arrays. Points that lead-lag inserts lie halfway between two times. Gradients with respect to
        `times1` and `times2` follow those with respect to the paths.
    times2 : array, shape (*batch2, length2), optional
        Times of the points of the second paths. If the second paths are the first ones, they take `times1`.
    return_grid : bool, default: False
        Return the kernel at every node of the grid, that is at the corners of all sub-cells, instead of the value at
        the end of both paths.
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``, computed from logarithms; not allowed with `return_grid`.
        ``"dilation"``: scale every path so that the logarithm of its kernel with itself is 1, as `dilation` does;
        nothing overflows then. Neither is allowed with `k_stack`.
    log : bool, default: False
        Return the logarithm of the kernel, which stays finite where the kernel itself overflows.
    order : int, optional
        Largest number of nodes of a forest. A `depth` below `order` bounds the forests as well; a larger one,
        `math.inf` or none has no effect. On piecewise-linear paths `GaussLobatto` with ``p >= order - 1`` is exact.
    return_levels : bool, default: False
        With `order`: return the components k_0, ..., k_order on a last axis. Component k_n is the sum over the forests
        with n nodes.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    rtol : float, optional
        Largest relative error of discretisation; replaces `quadrature`. The library tries Gauss-Lobatto rules of orders
        2, 3, ... on the given paths until two consecutive ones agree to this tolerance, and guards against agreement by
        chance. With `log`, the tolerance is absolute for logarithms below 1 in size; with `return_levels`, it is
        relative to the largest component of a pair. Gradients use the rule that was found.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

    Returns
    -------
    array, shape (*batch,)
        The kernels, with the library, dtype and device of the paths. With `return_grid` the kernels at every node,
        shape ``(*batch, grid1, grid2)``, where ``grid = (length - 1) * 2**order + 1`` after the transformations.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.
    MemoryError
        If the grids do not fit in memory; raised before they are allocated.

    Warns
    -----
    RuntimeWarning
        Once per call, with the number of values concerned, if values overflow, which gives inf, or if their terms
        cancel beyond the digits of a double, which gives NaN; the latter happens on paths that return to where they
        have been. The warning names the paths that hold NaN or infinities. With ``depth=math.inf`` also if a cell was
        not solved within the allowed iterations, which gives NaN. Also if no rule reaches `rtol`.

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
    >>> branchsig.branched_sig_kernel(
    ...     batch, batch, depth=3, static_kernel=branchsig.RBFKernel(sigma=1.0)
    ... ).shape
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
        planar=planar,
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
    planar: bool = False,
) -> tuple[ArrayT, Callable[[Array], tuple[ArrayT | Any, ArrayT | Any]]]:
    """Branched signature kernels of pairs of paths, and the pullback of derivatives to the paths.

    Parameters
    ----------
    path1 : array, shape (*batch, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch, length2, dimension)
        Second paths, with the library, dtype, device, batch shape and dimension of `path1`.
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound. Optional if `order` is given; both may be
        given. At depth 1 the linear static kernel gives ``exp(<x_end - x_0, y_end - y_0>)``.
    dyadic_order : int or tuple of int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells. A
        pair gives the orders along the first and the second path. Each further order divides the error by about 4 and
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
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    n_jobs : int or None, default: 1
        Number of threads, as in joblib: -1 for all cores, -2 for all but one, None for 1. The result does not depend on
        it.
    quadrature : Quadrature or str, default: "trapezoid"
        The rule for the integral over a sub-cell: `Trapezoid`, `LeftPoint` or `GaussLobatto`, or their names
        ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
    lengths1 : array of int, shape (*batch1,), optional
        Valid lengths of the first paths, if they are padded to one length; see `pad_paths`. Padding is never read, and
        its gradient is 0. With `time_aug` time runs from 0 to `end_time` over the valid points. Not allowed with a list
        of paths, which has its own lengths.
    lengths2 : array of int, shape (*batch2,), optional
        Valid lengths of the second paths. If the second paths are the first ones, they take `lengths1`.
    times1 : array, shape (*batch1, length1), optional
        Times of the points of the first paths. They become the last channel instead of evenly spaced time, with or
        without `time_aug`, and exclude `end_time`. Shape (length1,) gives all paths the same times; a list of paths
        takes a list of arrays. Points that lead-lag inserts lie halfway between two times. Gradients with respect to
        `times1` and `times2` follow those with respect to the paths.
    times2 : array, shape (*batch2, length2), optional
        Times of the points of the second paths. If the second paths are the first ones, they take `times1`.
    return_grid : bool, default: False
        Return the kernel at every node of the grid, that is at the corners of all sub-cells, instead of the value at
        the end of both paths.
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``, computed from logarithms; not allowed with `return_grid`.
        ``"dilation"``: scale every path so that the logarithm of its kernel with itself is 1, as `dilation` does;
        nothing overflows then. Neither is allowed with `k_stack`.
    log : bool, default: False
        Return the logarithm of the kernel, which stays finite where the kernel itself overflows.
    order : int, optional
        Largest number of nodes of a forest. A `depth` below `order` bounds the forests as well; a larger one,
        `math.inf` or none has no effect. On piecewise-linear paths `GaussLobatto` with ``p >= order - 1`` is exact.
    return_levels : bool, default: False
        With `order`: return the components k_0, ..., k_order on a last axis. Component k_n is the sum over the forests
        with n nodes.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    rtol : float, optional
        Largest relative error of discretisation; replaces `quadrature`. The library tries Gauss-Lobatto rules of orders
        2, 3, ... on the given paths until two consecutive ones agree to this tolerance, and guards against agreement by
        chance. With `log`, the tolerance is absolute for logarithms below 1 in size; with `return_levels`, it is
        relative to the largest component of a pair. Gradients use the rule that was found.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

    Returns
    -------
    value : array, shape (*batch,)
        The result of `branched_sig_kernel`.
    pullback : callable
        ``pullback(derivs)`` takes the derivatives of a scalar with respect to `value` and returns those with respect to
        `path1` and `path2`, a list for a list of paths. With `param_deriv` the last item is a dictionary of the
        derivatives with respect to the parameters of the static kernel. The pullback repeats no forward solve, can be
        called any number of times and can be pickled. It reads the paths again: do not modify them before.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.
    MemoryError
        If the grids do not fit in memory; raised before they are allocated.

    Warns
    -----
    RuntimeWarning
        Once per call, with the number of values concerned, if values overflow, which gives inf, or if their terms
        cancel beyond the digits of a double, which gives NaN; the latter happens on paths that return to where they
        have been. The warning names the paths that hold NaN or infinities. With ``depth=math.inf`` also if a cell was
        not solved within the allowed iterations, which gives NaN. Also if no rule reaches `rtol`.

    See Also
    --------
    branched_sig_kernel : The value.
    branched_sig_kernel_backprop : The gradient for given derivatives.

    Examples
    --------
    One step up the gradient of the kernel of two paths:

    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(2, 6, 2)), axis=-2
    ... )
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
        planar=planar,
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
    planar: bool = False,
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
        Largest depth of the trees, at least 0; `math.inf` for no bound. Optional if `order` is given; both may be
        given. At depth 1 the linear static kernel gives ``exp(<x_end - x_0, y_end - y_0>)``.
    dyadic_order : int or tuple of int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells. A
        pair gives the orders along the first and the second path. Each further order divides the error by about 4 and
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
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    n_jobs : int or None, default: 1
        Number of threads, as in joblib: -1 for all cores, -2 for all but one, None for 1. The result does not depend on
        it.
    quadrature : Quadrature or str, default: "trapezoid"
        The rule for the integral over a sub-cell: `Trapezoid`, `LeftPoint` or `GaussLobatto`, or their names
        ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
    lengths1 : array of int, shape (*batch1,), optional
        Valid lengths of the first paths, if they are padded to one length; see `pad_paths`. Padding is never read, and
        its gradient is 0. With `time_aug` time runs from 0 to `end_time` over the valid points. Not allowed with a list
        of paths, which has its own lengths.
    lengths2 : array of int, shape (*batch2,), optional
        Valid lengths of the second paths. If the second paths are the first ones, they take `lengths1`.
    times1 : array, shape (*batch1, length1), optional
        Times of the points of the first paths. They become the last channel instead of evenly spaced time, with or
        without `time_aug`, and exclude `end_time`. Shape (length1,) gives all paths the same times; a list of paths
        takes a list of arrays. Points that lead-lag inserts lie halfway between two times. Gradients with respect to
        `times1` and `times2` follow those with respect to the paths.
    times2 : array, shape (*batch2, length2), optional
        Times of the points of the second paths. If the second paths are the first ones, they take `times1`.
    return_grid : bool, default: False
        Return the kernel at every node of the grid, that is at the corners of all sub-cells, instead of the value at
        the end of both paths.
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``, computed from logarithms; not allowed with `return_grid`.
        ``"dilation"``: scale every path so that the logarithm of its kernel with itself is 1, as `dilation` does;
        nothing overflows then. Neither is allowed with `k_stack`.
    log : bool, default: False
        Return the logarithm of the kernel, which stays finite where the kernel itself overflows.
    order : int, optional
        Largest number of nodes of a forest. A `depth` below `order` bounds the forests as well; a larger one,
        `math.inf` or none has no effect. On piecewise-linear paths `GaussLobatto` with ``p >= order - 1`` is exact.
    return_levels : bool, default: False
        With `order`: return the components k_0, ..., k_order on a last axis. Component k_n is the sum over the forests
        with n nodes.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    rtol : float, optional
        Largest relative error of discretisation; replaces `quadrature`. The library tries Gauss-Lobatto rules of orders
        2, 3, ... on the given paths until two consecutive ones agree to this tolerance, and guards against agreement by
        chance. With `log`, the tolerance is absolute for logarithms below 1 in size; with `return_levels`, it is
        relative to the largest component of a pair. Gradients use the rule that was found.
    left_deriv : bool, default: True
        Whether to differentiate with respect to the first paths.
    right_deriv : bool, default: False
        Whether to differentiate with respect to the second paths.
    k_stack : array, shape (*batch, depth + 1, grid1, grid2), optional
        The result of `branched_sig_kernel_stack` for the same paths and options; it saves the forward solve. Not
        allowed with `GaussLobatto`, which needs values that the stack does not hold.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

    Returns
    -------
    tuple of array or None
        The derivatives of the scalar with respect to `path1`, shape ``(*batch, length1, dimension)``, and to `path2`,
        shape ``(*batch, length2, dimension)``; None for a gradient that was not requested. For a list of paths, a list
        of arrays, one per path. With `param_deriv` the last item is a dictionary of the derivatives with respect to the
        parameters of the static kernel by name, as 0-d arrays.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.

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

    If the value of a pair is not finite, the gradients of its two paths are NaN in every entry; other paths are not
    affected. A pair whose derivatives are all 0 contributes nothing, whatever its value. Gradients raise no warning.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2
    ... )
    >>> d_x, d_y = branchsig.branched_sig_kernel_backprop(
    ...     np.ones(5), x, y, depth=3, right_deriv=True
    ... )
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
        planar=planar,
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
    planar: bool = False,
) -> ArrayT:
    """Branched signature kernels of pairs of paths at every node and every depth.

    The backward functions take this result as `k_stack`, which saves their forward solve.

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
        pair gives the orders along the first and the second path. Each further order divides the error by about 4 and
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
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    n_jobs : int or None, default: 1
        Number of threads, as in joblib: -1 for all cores, -2 for all but one, None for 1. The result does not depend on
        it.
    quadrature : Quadrature or str, default: "trapezoid"
        The rule for the integral over a sub-cell: `Trapezoid`, `LeftPoint` or `GaussLobatto`, or their names
        ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
    lengths1 : array of int, shape (*batch1,), optional
        Valid lengths of the first paths, if they are padded to one length; see `pad_paths`. Padding is never read, and
        its gradient is 0. With `time_aug` time runs from 0 to `end_time` over the valid points. Not allowed with a list
        of paths, which has its own lengths.
    lengths2 : array of int, shape (*batch2,), optional
        Valid lengths of the second paths. If the second paths are the first ones, they take `lengths1`.
    times1 : array, shape (*batch1, length1), optional
        Times of the points of the first paths. They become the last channel instead of evenly spaced time, with or
        without `time_aug`, and exclude `end_time`. Shape (length1,) gives all paths the same times; a list of paths
        takes a list of arrays. Points that lead-lag inserts lie halfway between two times. Gradients with respect to
        `times1` and `times2` follow those with respect to the paths.
    times2 : array, shape (*batch2, length2), optional
        Times of the points of the second paths. If the second paths are the first ones, they take `times1`.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

    Returns
    -------
    array, shape (*batch, depth + 1, grid1, grid2)
        The kernels of depth 0 to `depth` at every node, where ``grid = (length - 1) * 2**order + 1`` after the
        transformations.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.
    MemoryError
        If the grids do not fit in memory; raised before they are allocated.

    Warns
    -----
    RuntimeWarning
        Once per call, with the number of values concerned, if values overflow, which gives inf, or lose their digits by
        cancellation, which gives NaN. The warning names the paths that hold NaN or infinities.

    See Also
    --------
    branched_sig_kernel : The value at the end of both paths, and the formula.
    branched_sig_kernel_backprop : Takes the stack as `k_stack`.

    Notes
    -----
    For a Gram matrix, give the paths of all its pairs: ``path1[:, None]`` and ``path2[None]``, both broadcast to
    ``(n1, n2, length, dimension)``.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2
    ... )
    >>> stack = branchsig.branched_sig_kernel_stack(x, y, depth=3)
    >>> stack.shape
    (5, 4, 6, 6)
    >>> bool(
    ...     np.allclose(stack[:, -1, -1, -1], branchsig.branched_sig_kernel(x, y, depth=3))
    ... )
    True
    """
    depth = _validation.depth(depth)  # required, since stacks take no order
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
        planar=planar,
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
    planar: bool = False,
) -> tuple[ArrayT, Callable[[Array], tuple[ArrayT | Any, ArrayT | Any]]]:
    """Branched signature kernels at every node and depth, and the pullback of derivatives to the paths.

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
        pair gives the orders along the first and the second path. Each further order divides the error by about 4 and
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
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    n_jobs : int or None, default: 1
        Number of threads, as in joblib: -1 for all cores, -2 for all but one, None for 1. The result does not depend on
        it.
    quadrature : Quadrature or str, default: "trapezoid"
        The rule for the integral over a sub-cell: `Trapezoid`, `LeftPoint` or `GaussLobatto`, or their names
        ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
    lengths1 : array of int, shape (*batch1,), optional
        Valid lengths of the first paths, if they are padded to one length; see `pad_paths`. Padding is never read, and
        its gradient is 0. With `time_aug` time runs from 0 to `end_time` over the valid points. Not allowed with a list
        of paths, which has its own lengths.
    lengths2 : array of int, shape (*batch2,), optional
        Valid lengths of the second paths. If the second paths are the first ones, they take `lengths1`.
    times1 : array, shape (*batch1, length1), optional
        Times of the points of the first paths. They become the last channel instead of evenly spaced time, with or
        without `time_aug`, and exclude `end_time`. Shape (length1,) gives all paths the same times; a list of paths
        takes a list of arrays. Points that lead-lag inserts lie halfway between two times. Gradients with respect to
        `times1` and `times2` follow those with respect to the paths.
    times2 : array, shape (*batch2, length2), optional
        Times of the points of the second paths. If the second paths are the first ones, they take `times1`.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

    Returns
    -------
    value : array, shape (*batch, depth + 1, grid1, grid2)
        The result of `branched_sig_kernel_stack`.
    pullback : callable
        ``pullback(derivs)`` takes the derivatives of a scalar with respect to `value` and returns those with respect to
        `path1` and `path2`, a list for a list of paths. With `param_deriv` the last item is a dictionary of the
        derivatives with respect to the parameters of the static kernel. The pullback repeats no forward solve, can be
        called any number of times and can be pickled. It reads the paths again: do not modify them before.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.
    MemoryError
        If the grids do not fit in memory; raised before they are allocated.

    Warns
    -----
    RuntimeWarning
        Once per call, with the number of values concerned, if values overflow, which gives inf, or lose their digits by
        cancellation, which gives NaN. The warning names the paths that hold NaN or infinities.

    See Also
    --------
    branched_sig_kernel_stack : The value.
    branched_sig_kernel_stack_backprop : The gradient for given derivatives.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2
    ... )
    >>> stack, pullback = branchsig.branched_sig_kernel_stack_vjp(x, y, depth=3)
    >>> d_x, d_y = pullback(np.ones(stack.shape))
    >>> d_x.shape, d_y.shape
    ((5, 6, 2), (5, 6, 2))
    """
    depth = _validation.depth(depth)  # required, since stacks take no order
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
        planar=planar,
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
    planar: bool = False,
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
        pair gives the orders along the first and the second path. Each further order divides the error by about 4 and
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
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    n_jobs : int or None, default: 1
        Number of threads, as in joblib: -1 for all cores, -2 for all but one, None for 1. The result does not depend on
        it.
    quadrature : Quadrature or str, default: "trapezoid"
        The rule for the integral over a sub-cell: `Trapezoid`, `LeftPoint` or `GaussLobatto`, or their names
        ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
    lengths1 : array of int, shape (*batch1,), optional
        Valid lengths of the first paths, if they are padded to one length; see `pad_paths`. Padding is never read, and
        its gradient is 0. With `time_aug` time runs from 0 to `end_time` over the valid points. Not allowed with a list
        of paths, which has its own lengths.
    lengths2 : array of int, shape (*batch2,), optional
        Valid lengths of the second paths. If the second paths are the first ones, they take `lengths1`.
    times1 : array, shape (*batch1, length1), optional
        Times of the points of the first paths. They become the last channel instead of evenly spaced time, with or
        without `time_aug`, and exclude `end_time`. Shape (length1,) gives all paths the same times; a list of paths
        takes a list of arrays. Points that lead-lag inserts lie halfway between two times. Gradients with respect to
        `times1` and `times2` follow those with respect to the paths.
    times2 : array, shape (*batch2, length2), optional
        Times of the points of the second paths. If the second paths are the first ones, they take `times1`.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    left_deriv : bool, default: True
        Whether to differentiate with respect to the first paths.
    right_deriv : bool, default: False
        Whether to differentiate with respect to the second paths.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

    Returns
    -------
    tuple of array or None
        The derivatives of the scalar with respect to `path1` and `path2`; None for a gradient that was not requested.
        With `param_deriv` the last item is a dictionary of the derivatives with respect to the parameters of the static
        kernel by name, as 0-d arrays.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.

    See Also
    --------
    branched_sig_kernel_stack : The value.
    branched_sig_kernel_stack_vjp : Value and gradient in one call.

    Notes
    -----
    The sum of the gradients of the grids of all depths; each grid takes one sweep.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2
    ... )
    >>> d_x, _ = branchsig.branched_sig_kernel_stack_backprop(
    ...     np.ones((5, 4, 6, 6)), x, y, depth=3
    ... )
    >>> d_x.shape
    (5, 6, 2)
    """
    depth = _validation.depth(depth)  # required, since stacks take no order
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
        planar=planar,
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
