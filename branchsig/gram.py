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
    planar: bool = False,
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
    max_batch : int, default: -1
        Process at most ``max_batch**2`` pairs at a time; -1 lets the library choose.
    progress : bool or callable, default: False
        True shows a progress bar with tqdm; a callable is called with (pairs done, total pairs).
    devices : sequence of int, optional
        CUDA devices to distribute the pairs over, for paths on a CUDA device. The result lies on the device of the
        paths.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

    Returns
    -------
    array, shape (*batch1, *batch2)
        The kernels, with the library, dtype and device of the paths. With `return_grid` the kernels at every node,
        shape ``(*batch1, *batch2, grid1, grid2)``, where ``grid = (length - 1) * 2**order + 1`` after the
        transformations.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.
    MemoryError
        If the grids do not fit in memory; raised before they are allocated.
    ImportError
        If a progress bar is requested and tqdm is not installed.

    Warns
    -----
    RuntimeWarning
        Once per call, with the number of values concerned, if values overflow, which gives inf, or lose their digits by
        cancellation, which gives NaN. The warning names the paths that hold NaN or infinities. Also if the axes look
        swapped: if every path has one point, or both arguments have two dimensions.

    See Also
    --------
    branched_sig_kernel : Pairs of paths, and the formula.
    branched_sig_kernel_gram_vjp : The same matrix, and its gradient.

    Notes
    -----
    For equal dyadic orders the matrix of one batch with itself is positive semi-definite at every depth: the rule over
    a cell is built from sums and products of positive semi-definite kernels.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> paths = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(4, 10, 3)), axis=1
    ... )
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
        planar=planar,
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
    planar: bool = False,
) -> tuple[ArrayT, Callable[[Array], tuple[ArrayT | Any, ArrayT | Any]]]:
    """Gram matrix of branched signature kernels, and the pullback of derivatives to the paths.

    Parameters
    ----------
    path1 : array, shape (*batch1, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch2, length2, dimension), or None
        Second paths, with the library, dtype, device and dimension of `path1`. `None`, or `path1` itself, gives the
        symmetric Gram matrix of `path1`, for which one triangle is computed.
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
    max_batch : int, default: -1
        Process at most ``max_batch**2`` pairs at a time; -1 lets the library choose.
    progress : bool or callable, default: False
        True shows a progress bar with tqdm; a callable is called with (pairs done, total pairs).
    devices : sequence of int, optional
        CUDA devices to distribute the pairs over, for paths on a CUDA device. The result lies on the device of the
        paths.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

    Returns
    -------
    value : array, shape (*batch1, *batch2)
        The result of `branched_sig_kernel_gram`.
    pullback : callable
        ``pullback(derivs)`` takes the derivatives of a scalar with respect to `value` and returns those with respect to
        `path1` and `path2`, a list for a list of paths; with ``path2=None`` the total gradient and None. With
        `param_deriv` the last item is a dictionary of the derivatives with respect to the parameters of the static
        kernel. The pullback repeats no forward solve, can be called any number of times and can be pickled. It reads
        the paths again: do not modify them before.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.
    MemoryError
        If the grids do not fit in memory; raised before they are allocated.
    ImportError
        If a progress bar is requested and tqdm is not installed.

    Warns
    -----
    RuntimeWarning
        Once per call, with the number of values concerned, if values overflow, which gives inf, or lose their digits by
        cancellation, which gives NaN. The warning names the paths that hold NaN or infinities. Also if the axes look
        swapped: if every path has one point, or both arguments have two dimensions.

    See Also
    --------
    branched_sig_kernel_gram : The value.
    branched_sig_kernel_gram_backprop : The gradient for given derivatives.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> paths = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(4, 6, 2)), axis=1
    ... )
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
        planar=planar,
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
    planar: bool = False,
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
    k_stack : array, shape (*batch1, *batch2, depth + 1, grid1, grid2), optional
        The result of `branched_sig_kernel_stack` for the paths of all pairs and the same options; it saves the forward
        solve. Not allowed with `GaussLobatto`, which needs values that the stack does not hold.
    max_batch : int, default: -1
        Process at most ``max_batch**2`` pairs at a time; -1 lets the library choose.
    progress : bool or callable, default: False
        True shows a progress bar with tqdm; a callable is called with (pairs done, total pairs).
    devices : sequence of int, optional
        CUDA devices to distribute the pairs over, for paths on a CUDA device. The result lies on the device of the
        paths.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

    Returns
    -------
    tuple of array or None
        The derivatives of the scalar with respect to `path1`, shape ``(*batch1, length1, dimension)``, and to `path2`,
        shape ``(*batch2, length2, dimension)``; None for a gradient that was not requested. For a list of paths, a list
        of arrays, one per path. With ``path2=None`` the matrix is a function of `path1` alone, and the first item is
        the total gradient. If ``path2 is path1``, the two partial gradients are returned; the total gradient is their
        sum. With `param_deriv` the last item is a dictionary of the derivatives with respect to the parameters of the
        static kernel by name, as 0-d arrays.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.
    ImportError
        If a progress bar is requested and tqdm is not installed.

    See Also
    --------
    branched_sig_kernel_gram : The matrix.
    branched_sig_kernel_gram_vjp : Matrix and gradient in one call.

    Notes
    -----
    Since k(x, y) = k(y, x), the total gradient of a symmetric matrix takes one pass over a triangle with
    ``derivs + derivs.T``.

    If the value of a pair is not finite, the gradients of its two paths are NaN in every entry; other paths are not
    affected. A pair whose derivatives are all 0 contributes nothing, whatever its value. Gradients raise no warning.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> paths = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(4, 6, 2)), axis=1
    ... )
    >>> whole, _ = branchsig.branched_sig_kernel_gram_backprop(
    ...     np.ones((4, 4)), paths, None, depth=3
    ... )
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
        planar=planar,
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
