"""Signature kernels, with the names and keywords of pySigLib: those over ordered forests of depth 1."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from array_api_compat import is_array_api_obj

from branchsig._arrays import Array, ArrayT, Paths, PathsT1, PathsT2, namespace_of
from branchsig.gram import branched_sig_kernel_gram, branched_sig_kernel_gram_backprop, branched_sig_kernel_gram_vjp
from branchsig.kernel import branched_sig_kernel, branched_sig_kernel_backprop, branched_sig_kernel_vjp
from branchsig.operations import OPERATIONS
from branchsig.operations.timed import timed
from branchsig.quadrature import Quadrature
from branchsig.spec import options_of
from branchsig.static_kernels import StaticKernel

__all__ = [
    "expected_sig_score",
    "sig_kernel",
    "sig_kernel_backprop",
    "sig_kernel_gram",
    "sig_kernel_gram_backprop",
    "sig_kernel_gram_vjp",
    "sig_kernel_vjp",
    "sig_mmd",
    "sig_score",
]


def sig_kernel(
    path1: Paths[ArrayT],
    path2: Paths[ArrayT],
    *,
    method: str = "finite_difference",
    dyadic_order: int | tuple[int, int] = 0,
    order: int | None = None,
    static_kernel: StaticKernel | None = None,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    n_jobs: int | None = 1,
    return_grid: bool = False,
    normalize: bool | str = False,
    base_point: bool = False,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    times1: Any = None,
    times2: Any = None,
    log: bool = False,
    return_levels: bool = False,
    check_finite: bool | None = None,
    rtol: float | None = None,
) -> ArrayT:
    r"""Signature kernels of pairs of paths.

    Parameters
    ----------
    path1 : array, shape (*batch, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch, length2, dimension)
        Second paths, with the library, dtype, device, batch shape and dimension of `path1`.
    method : str, default: "finite_difference"
        Only ``"finite_difference"``, as pySigLib calls it. A higher `dyadic_order` reduces the error.
    dyadic_order : int or tuple of int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells. A
        pair gives the orders along the first and the second path. Each further order divides the error by about 4 and
        takes 4 times the time.
    order : int, optional
        Largest level of the signatures: the kernel truncated there, for which `GaussLobatto` with ``p >= order - 1`` is
        exact on piecewise-linear paths. (The `order` of pySigLib is another one, the degree of polynomials.)
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
    return_grid : bool, default: False
        Return the kernel at every node of the grid, that is at the corners of all sub-cells, instead of the value at
        the end of both paths.
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``; not allowed with `return_grid`. ``"dilation"``: scale every
        path so that its kernel with itself, and those of its prefixes, are at most e, as `dilation` does with `planar`.
    base_point : bool, default: False
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    quadrature : Quadrature or str, default: "trapezoid"
        `Trapezoid`, the rule of pySigLib; `LeftPoint`, the inner product of discrete Itô signatures; or, with `order`,
        `GaussLobatto`. Or their names ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
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
    log : bool, default: False
        Return the logarithm of the kernel, which is NaN where the kernel is not positive.
    return_levels : bool, default: False
        With `order`: return the inner products of the levels 0, ..., order of the signatures, on a last axis.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    rtol : float, optional
        With `order`: largest relative error of discretisation; replaces `quadrature`.

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
    branched_sig_kernel : The kernels of all depths.
    sig_kernel_gram : All pairs of two batches.
    sig_kernel_vjp : The same value, and its gradient.

    Notes
    -----
    The signature kernel solves :math:`k(s, t) = 1 + \int_0^s \int_0^t k(u, v) \, d\kappa(x_u, y_v)`. With h the
    increment of κ over a cell of the refined grid, its corners satisfy

    .. math:: k_{11} = (k_{10} + k_{01}) (1 + h/2 + h^2/12) - k_{00} (1 - h^2/12),

    value for value as in pySigLib. This is ``branched_sig_kernel(..., depth=1, planar=True)``. Gram matrices are
    positive semi-definite in the limit of fine paths; with `LeftPoint` and equal dyadic orders they always are.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2
    ... )
    >>> branchsig.sig_kernel(x, y).shape
    (5,)
    """
    _check_method(method)
    return branched_sig_kernel(
        path1,
        path2,
        1,
        dyadic_order=dyadic_order,
        order=order,
        static_kernel=static_kernel,
        time_aug=time_aug,
        lead_lag=lead_lag,
        end_time=end_time,
        n_jobs=n_jobs,
        return_grid=return_grid,
        normalize=normalize,
        base_point=base_point,
        quadrature=quadrature,
        lengths1=lengths1,
        lengths2=lengths2,
        times1=times1,
        times2=times2,
        log=log,
        return_levels=return_levels,
        check_finite=check_finite,
        rtol=rtol,
        planar=True,
    )


def sig_kernel_vjp(
    path1: Paths[ArrayT],
    path2: Paths[ArrayT],
    *,
    method: str = "finite_difference",
    dyadic_order: int | tuple[int, int] = 0,
    order: int | None = None,
    static_kernel: StaticKernel | None = None,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    n_jobs: int | None = 1,
    return_grid: bool = False,
    normalize: bool | str = False,
    base_point: bool = False,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    times1: Any = None,
    times2: Any = None,
    log: bool = False,
    return_levels: bool = False,
    check_finite: bool | None = None,
    rtol: float | None = None,
    param_deriv: bool = False,
) -> tuple[ArrayT, Callable[[Array], tuple[ArrayT | Any, ArrayT | Any]]]:
    """Signature kernels of pairs of paths, and the pullback of derivatives to the paths.

    Parameters
    ----------
    path1 : array, shape (*batch, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch, length2, dimension)
        Second paths, with the library, dtype, device, batch shape and dimension of `path1`.
    method : str, default: "finite_difference"
        Only ``"finite_difference"``, as pySigLib calls it. A higher `dyadic_order` reduces the error.
    dyadic_order : int or tuple of int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells. A
        pair gives the orders along the first and the second path. Each further order divides the error by about 4 and
        takes 4 times the time.
    order : int, optional
        Largest level of the signatures: the kernel truncated there, for which `GaussLobatto` with ``p >= order - 1`` is
        exact on piecewise-linear paths. (The `order` of pySigLib is another one, the degree of polynomials.)
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
    return_grid : bool, default: False
        Return the kernel at every node of the grid, that is at the corners of all sub-cells, instead of the value at
        the end of both paths.
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``; not allowed with `return_grid`. ``"dilation"``: scale every
        path so that its kernel with itself, and those of its prefixes, are at most e, as `dilation` does with `planar`.
    base_point : bool, default: False
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    quadrature : Quadrature or str, default: "trapezoid"
        `Trapezoid`, the rule of pySigLib; `LeftPoint`, the inner product of discrete Itô signatures; or, with `order`,
        `GaussLobatto`. Or their names ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
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
    log : bool, default: False
        Return the logarithm of the kernel, which is NaN where the kernel is not positive.
    return_levels : bool, default: False
        With `order`: return the inner products of the levels 0, ..., order of the signatures, on a last axis.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    rtol : float, optional
        With `order`: largest relative error of discretisation; replaces `quadrature`.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.

    Returns
    -------
    value : array, shape (*batch,)
        The result of `sig_kernel`.
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
    sig_kernel : The value.
    sig_kernel_backprop : The gradient for given derivatives.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2
    ... )
    >>> value, pullback = branchsig.sig_kernel_vjp(x, y)
    >>> d_x, d_y = pullback(np.ones(value.shape))
    >>> d_x.shape
    (5, 6, 2)
    """
    _check_method(method)
    return branched_sig_kernel_vjp(
        path1,
        path2,
        1,
        dyadic_order=dyadic_order,
        order=order,
        static_kernel=static_kernel,
        time_aug=time_aug,
        lead_lag=lead_lag,
        end_time=end_time,
        n_jobs=n_jobs,
        return_grid=return_grid,
        normalize=normalize,
        base_point=base_point,
        quadrature=quadrature,
        lengths1=lengths1,
        lengths2=lengths2,
        times1=times1,
        times2=times2,
        log=log,
        return_levels=return_levels,
        check_finite=check_finite,
        rtol=rtol,
        param_deriv=param_deriv,
        planar=True,
    )


def sig_kernel_backprop(
    derivs: Array,
    path1: PathsT1,
    path2: PathsT2,
    *,
    method: str = "finite_difference",
    dyadic_order: int | tuple[int, int] = 0,
    order: int | None = None,
    static_kernel: StaticKernel | None = None,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    left_deriv: bool = True,
    right_deriv: bool = False,
    k_grid: Any = None,
    n_jobs: int | None = 1,
    return_grid: bool = False,
    normalize: bool | str = False,
    base_point: bool = False,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    times1: Any = None,
    times2: Any = None,
    log: bool = False,
    return_levels: bool = False,
    check_finite: bool | None = None,
    rtol: float | None = None,
    param_deriv: bool = False,
) -> tuple[PathsT1 | None, PathsT2 | None]:
    """Gradients of signature kernels of pairs of paths, for given derivatives.

    Parameters
    ----------
    derivs : array, shape (*batch,)
        Derivatives of a scalar with respect to the result of `sig_kernel`: shape ``(*batch, grid1, grid2)``
        with `return_grid`.
    path1 : array, shape (*batch, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch, length2, dimension)
        Second paths, with the library, dtype, device, batch shape and dimension of `path1`.
    method : str, default: "finite_difference"
        Only ``"finite_difference"``, as pySigLib calls it. A higher `dyadic_order` reduces the error.
    dyadic_order : int or tuple of int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells. A
        pair gives the orders along the first and the second path. Each further order divides the error by about 4 and
        takes 4 times the time.
    order : int, optional
        Largest level of the signatures: the kernel truncated there, for which `GaussLobatto` with ``p >= order - 1`` is
        exact on piecewise-linear paths. (The `order` of pySigLib is another one, the degree of polynomials.)
    static_kernel : StaticKernel, optional
        Kernel on the space the paths live in; `None` is the linear kernel.
    time_aug : bool, default: False
        Append time as the last channel of the paths, linear from 0 to `end_time`.
    lead_lag : bool, default: False
        Replace the paths by their lead-lag transforms, of ``2 * length - 1`` points and twice the channels,
        before time is appended.
    end_time : float, default: 1.0
        Time of the last point, in the unit of time of the paths. Only with `time_aug`.
    left_deriv : bool, default: True
        Whether to differentiate with respect to the first paths.
    right_deriv : bool, default: False
        Whether to differentiate with respect to the second paths.
    k_grid : array, shape (*batch, grid1, grid2), optional
        The kernels at every node, as with ``return_grid=True``, which saves computing them again. Not with `normalize`,
        `order` or `rtol`.
    n_jobs : int or None, default: 1
        Number of threads, as in joblib: -1 for all cores, -2 for all but one, None for 1. The result does not depend on
        it.
    return_grid : bool, default: False
        Return the kernel at every node of the grid, that is at the corners of all sub-cells, instead of the value at
        the end of both paths.
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``; not allowed with `return_grid`. ``"dilation"``: scale every
        path so that its kernel with itself, and those of its prefixes, are at most e, as `dilation` does with `planar`.
    base_point : bool, default: False
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    quadrature : Quadrature or str, default: "trapezoid"
        `Trapezoid`, the rule of pySigLib; `LeftPoint`, the inner product of discrete Itô signatures; or, with `order`,
        `GaussLobatto`. Or their names ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
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
    log : bool, default: False
        Return the logarithm of the kernel, which is NaN where the kernel is not positive.
    return_levels : bool, default: False
        With `order`: return the inner products of the levels 0, ..., order of the signatures, on a last axis.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    rtol : float, optional
        With `order`: largest relative error of discretisation; replaces `quadrature`.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.

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
    sig_kernel : The value.
    sig_kernel_vjp : Value and gradient in one call.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2
    ... )
    >>> d_x, _ = branchsig.sig_kernel_backprop(np.ones((5,)), x, y)
    >>> d_x.shape
    (5, 6, 2)
    """
    _check_method(method)
    with _naming_k_grid():
        return branched_sig_kernel_backprop(
            derivs,
            path1,
            path2,
            1,
            dyadic_order=dyadic_order,
            order=order,
            static_kernel=static_kernel,
            time_aug=time_aug,
            lead_lag=lead_lag,
            end_time=end_time,
            left_deriv=left_deriv,
            right_deriv=right_deriv,
            n_jobs=n_jobs,
            return_grid=return_grid,
            normalize=normalize,
            base_point=base_point,
            quadrature=quadrature,
            lengths1=lengths1,
            lengths2=lengths2,
            times1=times1,
            times2=times2,
            log=log,
            return_levels=return_levels,
            check_finite=check_finite,
            rtol=rtol,
            param_deriv=param_deriv,
            k_stack=_stack_of(k_grid),
            planar=True,
        )


def sig_kernel_gram(
    path1: Paths[ArrayT],
    path2: Paths[ArrayT] | None,
    *,
    method: str = "finite_difference",
    dyadic_order: int | tuple[int, int] = 0,
    order: int | None = None,
    static_kernel: StaticKernel | None = None,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    n_jobs: int | None = 1,
    max_batch: int = -1,
    return_grid: bool = False,
    normalize: bool | str = False,
    base_point: bool = False,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    times1: Any = None,
    times2: Any = None,
    log: bool = False,
    return_levels: bool = False,
    check_finite: bool | None = None,
    rtol: float | None = None,
    progress: bool | Callable[[int, int], None] = False,
    devices: Iterable[int] | None = None,
) -> ArrayT:
    """Signature kernels of all pairs of two batches of paths.

    Parameters
    ----------
    path1 : array, shape (*batch1, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch2, length2, dimension), or None
        Second paths, with the library, dtype, device and dimension of `path1`. `None`, or `path1` itself, gives the
        symmetric Gram matrix of `path1`, for which one triangle is computed.
    method : str, default: "finite_difference"
        Only ``"finite_difference"``, as pySigLib calls it. A higher `dyadic_order` reduces the error.
    dyadic_order : int or tuple of int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells. A
        pair gives the orders along the first and the second path. Each further order divides the error by about 4 and
        takes 4 times the time.
    order : int, optional
        Largest level of the signatures: the kernel truncated there, for which `GaussLobatto` with ``p >= order - 1`` is
        exact on piecewise-linear paths. (The `order` of pySigLib is another one, the degree of polynomials.)
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
    max_batch : int, default: -1
        Process at most ``max_batch**2`` pairs at a time; -1 lets the library choose.
    return_grid : bool, default: False
        Return the kernel at every node of the grid, that is at the corners of all sub-cells, instead of the value at
        the end of both paths.
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``; not allowed with `return_grid`. ``"dilation"``: scale every
        path so that its kernel with itself, and those of its prefixes, are at most e, as `dilation` does with `planar`.
    base_point : bool, default: False
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    quadrature : Quadrature or str, default: "trapezoid"
        `Trapezoid`, the rule of pySigLib; `LeftPoint`, the inner product of discrete Itô signatures; or, with `order`,
        `GaussLobatto`. Or their names ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
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
    log : bool, default: False
        Return the logarithm of the kernel, which is NaN where the kernel is not positive.
    return_levels : bool, default: False
        With `order`: return the inner products of the levels 0, ..., order of the signatures, on a last axis.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    rtol : float, optional
        With `order`: largest relative error of discretisation; replaces `quadrature`.
    progress : bool or callable, default: False
        True shows a progress bar with tqdm; a callable is called with (pairs done, total pairs).
    devices : sequence of int, optional
        CUDA devices to distribute the pairs over, for paths on a CUDA device. The result lies on the device of the
        paths.

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
    branched_sig_kernel_gram : The kernels of all depths.
    sig_kernel : Pairs of paths, and the formula.
    sig_kernel_gram_vjp : The same value, and its gradient.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2
    ... )
    >>> branchsig.sig_kernel_gram(x, y).shape
    (5, 5)
    """
    _check_method(method)
    return branched_sig_kernel_gram(
        path1,
        path2,
        1,
        dyadic_order=dyadic_order,
        order=order,
        static_kernel=static_kernel,
        time_aug=time_aug,
        lead_lag=lead_lag,
        end_time=end_time,
        n_jobs=n_jobs,
        max_batch=max_batch,
        return_grid=return_grid,
        normalize=normalize,
        base_point=base_point,
        quadrature=quadrature,
        lengths1=lengths1,
        lengths2=lengths2,
        times1=times1,
        times2=times2,
        log=log,
        return_levels=return_levels,
        check_finite=check_finite,
        rtol=rtol,
        progress=progress,
        devices=devices,
        planar=True,
    )


def sig_kernel_gram_vjp(
    path1: Paths[ArrayT],
    path2: Paths[ArrayT] | None,
    *,
    method: str = "finite_difference",
    dyadic_order: int | tuple[int, int] = 0,
    order: int | None = None,
    static_kernel: StaticKernel | None = None,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    n_jobs: int | None = 1,
    max_batch: int = -1,
    return_grid: bool = False,
    normalize: bool | str = False,
    base_point: bool = False,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    times1: Any = None,
    times2: Any = None,
    log: bool = False,
    return_levels: bool = False,
    check_finite: bool | None = None,
    rtol: float | None = None,
    progress: bool | Callable[[int, int], None] = False,
    devices: Iterable[int] | None = None,
    param_deriv: bool = False,
) -> tuple[ArrayT, Callable[[Array], tuple[ArrayT | Any, ArrayT | Any]]]:
    """Signature kernels of all pairs of two batches, and the pullback of derivatives to the paths.

    Parameters
    ----------
    path1 : array, shape (*batch1, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch2, length2, dimension), or None
        Second paths, with the library, dtype, device and dimension of `path1`. `None`, or `path1` itself, gives the
        symmetric Gram matrix of `path1`, for which one triangle is computed.
    method : str, default: "finite_difference"
        Only ``"finite_difference"``, as pySigLib calls it. A higher `dyadic_order` reduces the error.
    dyadic_order : int or tuple of int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells. A
        pair gives the orders along the first and the second path. Each further order divides the error by about 4 and
        takes 4 times the time.
    order : int, optional
        Largest level of the signatures: the kernel truncated there, for which `GaussLobatto` with ``p >= order - 1`` is
        exact on piecewise-linear paths. (The `order` of pySigLib is another one, the degree of polynomials.)
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
    max_batch : int, default: -1
        Process at most ``max_batch**2`` pairs at a time; -1 lets the library choose.
    return_grid : bool, default: False
        Return the kernel at every node of the grid, that is at the corners of all sub-cells, instead of the value at
        the end of both paths.
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``; not allowed with `return_grid`. ``"dilation"``: scale every
        path so that its kernel with itself, and those of its prefixes, are at most e, as `dilation` does with `planar`.
    base_point : bool, default: False
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    quadrature : Quadrature or str, default: "trapezoid"
        `Trapezoid`, the rule of pySigLib; `LeftPoint`, the inner product of discrete Itô signatures; or, with `order`,
        `GaussLobatto`. Or their names ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
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
    log : bool, default: False
        Return the logarithm of the kernel, which is NaN where the kernel is not positive.
    return_levels : bool, default: False
        With `order`: return the inner products of the levels 0, ..., order of the signatures, on a last axis.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    rtol : float, optional
        With `order`: largest relative error of discretisation; replaces `quadrature`.
    progress : bool or callable, default: False
        True shows a progress bar with tqdm; a callable is called with (pairs done, total pairs).
    devices : sequence of int, optional
        CUDA devices to distribute the pairs over, for paths on a CUDA device. The result lies on the device of the
        paths.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.

    Returns
    -------
    value : array, shape (*batch1, *batch2)
        The result of `sig_kernel_gram`.
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
    sig_kernel_gram : The value.
    sig_kernel_gram_backprop : The gradient for given derivatives.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2
    ... )
    >>> value, pullback = branchsig.sig_kernel_gram_vjp(x, y)
    >>> d_x, d_y = pullback(np.ones(value.shape))
    >>> d_x.shape
    (5, 6, 2)
    """
    _check_method(method)
    return branched_sig_kernel_gram_vjp(
        path1,
        path2,
        1,
        dyadic_order=dyadic_order,
        order=order,
        static_kernel=static_kernel,
        time_aug=time_aug,
        lead_lag=lead_lag,
        end_time=end_time,
        n_jobs=n_jobs,
        max_batch=max_batch,
        return_grid=return_grid,
        normalize=normalize,
        base_point=base_point,
        quadrature=quadrature,
        lengths1=lengths1,
        lengths2=lengths2,
        times1=times1,
        times2=times2,
        log=log,
        return_levels=return_levels,
        check_finite=check_finite,
        rtol=rtol,
        progress=progress,
        devices=devices,
        param_deriv=param_deriv,
        planar=True,
    )


def sig_kernel_gram_backprop(
    derivs: Array,
    path1: PathsT1,
    path2: PathsT2 | None,
    *,
    method: str = "finite_difference",
    dyadic_order: int | tuple[int, int] = 0,
    order: int | None = None,
    static_kernel: StaticKernel | None = None,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    left_deriv: bool = True,
    right_deriv: bool = False,
    k_grid: Any = None,
    n_jobs: int | None = 1,
    return_grid: bool = False,
    max_batch: int = -1,
    normalize: bool | str = False,
    base_point: bool = False,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    times1: Any = None,
    times2: Any = None,
    log: bool = False,
    return_levels: bool = False,
    check_finite: bool | None = None,
    rtol: float | None = None,
    progress: bool | Callable[[int, int], None] = False,
    devices: Iterable[int] | None = None,
    param_deriv: bool = False,
) -> tuple[PathsT1 | None, PathsT2 | None]:
    """Gradients of signature kernels of all pairs of two batches, for given derivatives.

    Parameters
    ----------
    derivs : array, shape (*batch1, *batch2)
        Derivatives of a scalar with respect to the result of `sig_kernel_gram`: shape
        ``(*batch1, *batch2, grid1, grid2)`` with `return_grid`.
    path1 : array, shape (*batch1, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch2, length2, dimension), or None
        Second paths, with the library, dtype, device and dimension of `path1`. `None`, or `path1` itself, gives the
        symmetric Gram matrix of `path1`, for which one triangle is computed.
    method : str, default: "finite_difference"
        Only ``"finite_difference"``, as pySigLib calls it. A higher `dyadic_order` reduces the error.
    dyadic_order : int or tuple of int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells. A
        pair gives the orders along the first and the second path. Each further order divides the error by about 4 and
        takes 4 times the time.
    order : int, optional
        Largest level of the signatures: the kernel truncated there, for which `GaussLobatto` with ``p >= order - 1`` is
        exact on piecewise-linear paths. (The `order` of pySigLib is another one, the degree of polynomials.)
    static_kernel : StaticKernel, optional
        Kernel on the space the paths live in; `None` is the linear kernel.
    time_aug : bool, default: False
        Append time as the last channel of the paths, linear from 0 to `end_time`.
    lead_lag : bool, default: False
        Replace the paths by their lead-lag transforms, of ``2 * length - 1`` points and twice the channels,
        before time is appended.
    end_time : float, default: 1.0
        Time of the last point, in the unit of time of the paths. Only with `time_aug`.
    left_deriv : bool, default: True
        Whether to differentiate with respect to the first paths.
    right_deriv : bool, default: False
        Whether to differentiate with respect to the second paths.
    k_grid : array, shape (*batch1, *batch2, grid1, grid2), optional
        The kernels at every node, as with ``return_grid=True``, which saves computing them again. Not with `normalize`,
        `order` or `rtol`.
    n_jobs : int or None, default: 1
        Number of threads, as in joblib: -1 for all cores, -2 for all but one, None for 1. The result does not depend on
        it.
    return_grid : bool, default: False
        Return the kernel at every node of the grid, that is at the corners of all sub-cells, instead of the value at
        the end of both paths.
    max_batch : int, default: -1
        Process at most ``max_batch**2`` pairs at a time; -1 lets the library choose.
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``; not allowed with `return_grid`. ``"dilation"``: scale every
        path so that its kernel with itself, and those of its prefixes, are at most e, as `dilation` does with `planar`.
    base_point : bool, default: False
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    quadrature : Quadrature or str, default: "trapezoid"
        `Trapezoid`, the rule of pySigLib; `LeftPoint`, the inner product of discrete Itô signatures; or, with `order`,
        `GaussLobatto`. Or their names ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
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
    log : bool, default: False
        Return the logarithm of the kernel, which is NaN where the kernel is not positive.
    return_levels : bool, default: False
        With `order`: return the inner products of the levels 0, ..., order of the signatures, on a last axis.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    rtol : float, optional
        With `order`: largest relative error of discretisation; replaces `quadrature`.
    progress : bool or callable, default: False
        True shows a progress bar with tqdm; a callable is called with (pairs done, total pairs).
    devices : sequence of int, optional
        CUDA devices to distribute the pairs over, for paths on a CUDA device. The result lies on the device of the
        paths.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.

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
    sig_kernel_gram : The value.
    sig_kernel_gram_vjp : Value and gradient in one call.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2
    ... )
    >>> d_x, _ = branchsig.sig_kernel_gram_backprop(np.ones((5, 5)), x, y)
    >>> d_x.shape
    (5, 6, 2)
    """
    _check_method(method)
    with _naming_k_grid():
        return branched_sig_kernel_gram_backprop(
            derivs,
            path1,
            path2,
            1,
            dyadic_order=dyadic_order,
            order=order,
            static_kernel=static_kernel,
            time_aug=time_aug,
            lead_lag=lead_lag,
            end_time=end_time,
            left_deriv=left_deriv,
            right_deriv=right_deriv,
            n_jobs=n_jobs,
            return_grid=return_grid,
            max_batch=max_batch,
            normalize=normalize,
            base_point=base_point,
            quadrature=quadrature,
            lengths1=lengths1,
            lengths2=lengths2,
            times1=times1,
            times2=times2,
            log=log,
            return_levels=return_levels,
            check_finite=check_finite,
            rtol=rtol,
            progress=progress,
            devices=devices,
            param_deriv=param_deriv,
            k_stack=_stack_of(k_grid),
            planar=True,
        )


def sig_mmd(
    sample1: Paths[ArrayT],
    sample2: Paths[ArrayT],
    *,
    method: str = "finite_difference",
    dyadic_order: int | tuple[int, int] = 0,
    order: int | None = None,
    static_kernel: StaticKernel | None = None,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    n_jobs: int | None = 1,
    max_batch: int = -1,
    base_point: bool = False,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    times1: Any = None,
    times2: Any = None,
    normalize: bool | str = False,
    check_finite: bool | None = None,
    unbiased: bool = True,
) -> ArrayT:
    """Squared maximum mean discrepancy of two samples, by signature kernels.

    Parameters
    ----------
    sample1 : array, shape (*batch1, length1, dimension)
        A sample of paths, of any library of the array API standard, float32 or float64. All batch axes belong to it.
    sample2 : array, shape (*batch2, length2, dimension)
        Another sample, with the library, dtype, device and dimension of the first.
    method : str, default: "finite_difference"
        Only ``"finite_difference"``, as pySigLib calls it. A higher `dyadic_order` reduces the error.
    dyadic_order : int or tuple of int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells. A
        pair gives the orders along the first and the second path. Each further order divides the error by about 4 and
        takes 4 times the time.
    order : int, optional
        Largest level of the signatures: the kernel truncated there, for which `GaussLobatto` with ``p >= order - 1`` is
        exact on piecewise-linear paths. (The `order` of pySigLib is another one, the degree of polynomials.)
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
    max_batch : int, default: -1
        Process at most ``max_batch**2`` pairs at a time; -1 lets the library choose.
    base_point : bool, default: False
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    quadrature : Quadrature or str, default: "trapezoid"
        `Trapezoid`, the rule of pySigLib; `LeftPoint`, the inner product of discrete Itô signatures; or, with `order`,
        `GaussLobatto`. Or their names ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
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
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``; not allowed with `return_grid`. ``"dilation"``: scale every
        path so that its kernel with itself, and those of its prefixes, are at most e, as `dilation` does with `planar`.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    unbiased : bool, default: True
        Exclude the kernel of each path with itself from the means over pairs of one sample.

    Returns
    -------
    array, shape ()
        The squared discrepancy, with the library, dtype and device of the samples.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.

    Warns
    -----
    RuntimeWarning
        Once per call, if kernels that the result depends on are not finite: with their number if they overflow, and
        with the names of the paths that hold NaN. Also if every path has one point, which suggests swapped axes.

    See Also
    --------
    branched_sig_mmd : That of the kernels of all depths, with gradients.

    Notes
    -----
    With ``depth=1`` and ``planar=True``, `branched_sig_mmd_backprop` gives the gradients.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2
    ... )
    >>> branchsig.sig_mmd(x, y).shape
    ()
    """
    _check_method(method)
    spec, how = options_of(
        1,
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
        max_batch=max_batch,
        unbiased=unbiased,
        base_point=base_point,
        planar=True,
    )
    result: ArrayT = timed(OPERATIONS["branched_sig_mmd"], times1, times2).value(
        spec, how, sample1, sample2, lengths1, lengths2
    )
    return result


def sig_score(
    sample: Paths[ArrayT],
    y: Paths[ArrayT],
    *,
    method: str = "finite_difference",
    dyadic_order: int | tuple[int, int] = 0,
    order: int | None = None,
    lam: float = 1.0,
    static_kernel: StaticKernel | None = None,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    n_jobs: int | None = 1,
    max_batch: int = -1,
    base_point: bool = False,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    times1: Any = None,
    times2: Any = None,
    normalize: bool | str = False,
    check_finite: bool | None = None,
    unbiased: bool = True,
) -> ArrayT:
    """Kernel scores of a sample as a forecast of each of some paths, by signature kernels.

    Parameters
    ----------
    sample : array, shape (*batch1, length1, dimension)
        A sample of paths, of any library of the array API standard, float32 or float64. All batch axes belong to it.
    y : array, shape (*batch, length2, dimension)
        Observed paths, with the library, dtype, device and dimension of the sample.
    method : str, default: "finite_difference"
        Only ``"finite_difference"``, as pySigLib calls it. A higher `dyadic_order` reduces the error.
    dyadic_order : int or tuple of int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells. A
        pair gives the orders along the first and the second path. Each further order divides the error by about 4 and
        takes 4 times the time.
    order : int, optional
        Largest level of the signatures: the kernel truncated there, for which `GaussLobatto` with ``p >= order - 1`` is
        exact on piecewise-linear paths. (The `order` of pySigLib is another one, the degree of polynomials.)
    lam : float, default: 1.0
        Weight of the term that is a mean over pairs of `sample`.
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
    max_batch : int, default: -1
        Process at most ``max_batch**2`` pairs at a time; -1 lets the library choose.
    base_point : bool, default: False
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    quadrature : Quadrature or str, default: "trapezoid"
        `Trapezoid`, the rule of pySigLib; `LeftPoint`, the inner product of discrete Itô signatures; or, with `order`,
        `GaussLobatto`. Or their names ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
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
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``; not allowed with `return_grid`. ``"dilation"``: scale every
        path so that its kernel with itself, and those of its prefixes, are at most e, as `dilation` does with `planar`.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    unbiased : bool, default: True
        Exclude the kernel of each path with itself from the means over pairs of one sample.

    Returns
    -------
    array, shape (*batch,)
        The scores (lower is better), with the library, dtype and device of the paths.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.

    Warns
    -----
    RuntimeWarning
        Once per call, if kernels that the result depends on are not finite: with their number if they overflow, and
        with the names of the paths that hold NaN. Also if every path has one point, which suggests swapped axes.

    See Also
    --------
    branched_sig_score : That of the kernels of all depths, with gradients.

    Notes
    -----
    With ``depth=1`` and ``planar=True``, `branched_sig_score_backprop` gives the gradients.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2
    ... )
    >>> branchsig.sig_score(x, y).shape
    (5,)
    """
    _check_method(method)
    spec, how = options_of(
        1,
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
        max_batch=max_batch,
        lam=lam,
        unbiased=unbiased,
        base_point=base_point,
        planar=True,
    )
    result: ArrayT = timed(OPERATIONS["branched_sig_score"], times1, times2).value(
        spec, how, sample, y, lengths1, lengths2
    )
    return result


def expected_sig_score(
    sample1: Paths[ArrayT],
    sample2: Paths[ArrayT],
    *,
    method: str = "finite_difference",
    dyadic_order: int | tuple[int, int] = 0,
    order: int | None = None,
    lam: float = 1.0,
    static_kernel: StaticKernel | None = None,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    n_jobs: int | None = 1,
    max_batch: int = -1,
    base_point: bool = False,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    times1: Any = None,
    times2: Any = None,
    normalize: bool | str = False,
    check_finite: bool | None = None,
    unbiased: bool = True,
) -> ArrayT:
    """Mean kernel score of a sample as a forecast of another one, by signature kernels.

    Parameters
    ----------
    sample1 : array, shape (*batch1, length1, dimension)
        A sample of paths, of any library of the array API standard, float32 or float64. All batch axes belong to it.
    sample2 : array, shape (*batch2, length2, dimension)
        Another sample, with the library, dtype, device and dimension of the first.
    method : str, default: "finite_difference"
        Only ``"finite_difference"``, as pySigLib calls it. A higher `dyadic_order` reduces the error.
    dyadic_order : int or tuple of int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells. A
        pair gives the orders along the first and the second path. Each further order divides the error by about 4 and
        takes 4 times the time.
    order : int, optional
        Largest level of the signatures: the kernel truncated there, for which `GaussLobatto` with ``p >= order - 1`` is
        exact on piecewise-linear paths. (The `order` of pySigLib is another one, the degree of polynomials.)
    lam : float, default: 1.0
        Weight of the term that is a mean over pairs of `sample1`.
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
    max_batch : int, default: -1
        Process at most ``max_batch**2`` pairs at a time; -1 lets the library choose.
    base_point : bool, default: False
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    quadrature : Quadrature or str, default: "trapezoid"
        `Trapezoid`, the rule of pySigLib; `LeftPoint`, the inner product of discrete Itô signatures; or, with `order`,
        `GaussLobatto`. Or their names ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
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
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``; not allowed with `return_grid`. ``"dilation"``: scale every
        path so that its kernel with itself, and those of its prefixes, are at most e, as `dilation` does with `planar`.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    unbiased : bool, default: True
        Exclude the kernel of each path with itself from the means over pairs of one sample.

    Returns
    -------
    array, shape ()
        The mean score (lower is better), with the library, dtype and device of the samples.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.

    Warns
    -----
    RuntimeWarning
        Once per call, if kernels that the result depends on are not finite: with their number if they overflow, and
        with the names of the paths that hold NaN. Also if every path has one point, which suggests swapped axes.

    See Also
    --------
    expected_branched_sig_score : That of the kernels of all depths, with gradients.

    Notes
    -----
    With ``depth=1`` and ``planar=True``, `expected_branched_sig_score_backprop` gives the gradients.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x, y = np.cumsum(
    ...     np.random.default_rng(0).normal(scale=0.1, size=(2, 5, 6, 2)), axis=-2
    ... )
    >>> branchsig.expected_sig_score(x, y).shape
    ()
    """
    _check_method(method)
    spec, how = options_of(
        1,
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
        max_batch=max_batch,
        lam=lam,
        unbiased=unbiased,
        base_point=base_point,
        planar=True,
    )
    result: ArrayT = timed(OPERATIONS["expected_branched_sig_score"], times1, times2).value(
        spec, how, sample1, sample2, lengths1, lengths2
    )
    return result


def _check_method(method: Any) -> None:
    if not isinstance(method, str):
        raise TypeError(f'method is {method!r}: expected "finite_difference"')
    if method != "finite_difference":
        raise ValueError(
            f'method is {method!r}: expected "finite_difference". Leave it out, and for a smaller error raise '
            "dyadic_order"
        )


@contextlib.contextmanager
def _naming_k_grid() -> Iterator[None]:
    """Name the argument of the caller in errors about the stack that it has become."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("k_stack", "k_grid")) from None


def _stack_of(k_grid: Any) -> Any:
    """The kernels of depths 0 and 1 at every node."""
    if k_grid is None or not is_array_api_obj(k_grid):
        return k_grid
    xp = namespace_of(k_grid)
    return xp.stack([xp.ones_like(k_grid), k_grid], axis=-3)
