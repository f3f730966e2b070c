"""Discrepancies of samples of paths and scores of forecasts, computed from means of kernels, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from branchsig._arrays import Array, ArrayT, Paths, PathsT1, PathsT2
from branchsig.operations import OPERATIONS
from branchsig.operations.timed import timed
from branchsig.quadrature import Quadrature
from branchsig.spec import options_of
from branchsig.static_kernels import StaticKernel

__all__ = [
    "branched_sig_mmd",
    "branched_sig_mmd_backprop",
    "branched_sig_mmd_vjp",
    "branched_sig_score",
    "branched_sig_score_backprop",
    "branched_sig_score_vjp",
    "expected_branched_sig_score",
    "expected_branched_sig_score_backprop",
    "expected_branched_sig_score_vjp",
]

_MMD = OPERATIONS["branched_sig_mmd"]
_SCORE, _EXPECTED_SCORE = OPERATIONS["branched_sig_score"], OPERATIONS["expected_branched_sig_score"]


def branched_sig_mmd(
    sample1: Paths[ArrayT],
    sample2: Paths[ArrayT],
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
    normalize: bool | str = False,
    order: int | None = None,
    check_finite: bool | None = None,
    unbiased: bool = True,
    planar: bool = False,
) -> ArrayT:
    r"""Squared maximum mean discrepancy of two samples of paths.

    Parameters
    ----------
    sample1 : array, shape (*batch1, length1, dimension)
        A sample of paths, of any library of the array API standard, float32 or float64. All batch axes belong to it.
    sample2 : array, shape (*batch2, length2, dimension)
        Another sample, with the library, dtype, device and dimension of the first.
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
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``, computed from logarithms; not allowed with `return_grid`.
        ``"dilation"``: scale every path so that the logarithm of its kernel with itself is 1, as `dilation` does;
        nothing overflows then. Neither is allowed with `k_stack`.
    order : int, optional
        Largest number of nodes of a forest. A `depth` below `order` bounds the forests as well; a larger one,
        `math.inf` or none has no effect. On piecewise-linear paths `GaussLobatto` with ``p >= order - 1`` is exact.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    unbiased : bool, default: True
        Exclude the kernel of each path with itself from the means over pairs of one sample.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

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
    branched_sig_mmd_test : Tests whether the discrepancy is larger than chance explains.

    Notes
    -----
    .. math:: \mathbb E k(X, X') - 2 \mathbb E k(X, Y) + \mathbb E k(Y, Y')

    with means in place of expectations [1]_. The unbiased estimate may be negative. Since the terms cancel, the means
    are taken of :math:`k - 1`, computed from logarithms in float64 for samples of either dtype. (Kernels of float32
    paths on a CUDA device are computed in float32.)

    With two dyadic orders every path is refined by the order of its sample, also in pairs within one sample. All
    kernels are then inner products of the same features, and the biased discrepancy is a squared distance.

    References
    ----------
    .. [1] A. Gretton et al., "A kernel two-sample test", Journal of Machine Learning Research 13 (2012).

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (
    ...     np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1)
    ...     for scale in (0.05, 0.15)
    ... )
    >>> same = branchsig.branched_sig_mmd(near[:10], near[10:], depth=3)
    >>> bool(branchsig.branched_sig_mmd(near, far, depth=3) > same)
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
        unbiased=unbiased,
        base_point=base_point,
        planar=planar,
    )
    result: ArrayT = timed(_MMD, times1, times2).value(spec, how, sample1, sample2, lengths1, lengths2)
    return result


def branched_sig_mmd_vjp(
    sample1: Paths[ArrayT],
    sample2: Paths[ArrayT],
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
    normalize: bool | str = False,
    order: int | None = None,
    check_finite: bool | None = None,
    unbiased: bool = True,
    param_deriv: bool = False,
    planar: bool = False,
) -> tuple[ArrayT, Callable[[Array], tuple[ArrayT | Any, ArrayT | Any]]]:
    """Squared maximum mean discrepancy of two samples, and the pullback of derivatives to the paths.

    Parameters
    ----------
    sample1 : array, shape (*batch1, length1, dimension)
        A sample of paths, of any library of the array API standard, float32 or float64. All batch axes belong to it.
    sample2 : array, shape (*batch2, length2, dimension)
        Another sample, with the library, dtype, device and dimension of the first.
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
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``, computed from logarithms; not allowed with `return_grid`.
        ``"dilation"``: scale every path so that the logarithm of its kernel with itself is 1, as `dilation` does;
        nothing overflows then. Neither is allowed with `k_stack`.
    order : int, optional
        Largest number of nodes of a forest. A `depth` below `order` bounds the forests as well; a larger one,
        `math.inf` or none has no effect. On piecewise-linear paths `GaussLobatto` with ``p >= order - 1`` is exact.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    unbiased : bool, default: True
        Exclude the kernel of each path with itself from the means over pairs of one sample.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

    Returns
    -------
    value : array, shape ()
        The result of `branched_sig_mmd`.
    pullback : callable
        ``pullback(derivs)`` takes the derivatives of a scalar with respect to `value` and returns those with respect to
        `sample1` and `sample2`, a list for a list of paths. With `param_deriv` the last item is a dictionary of the
        derivatives with respect to the parameters of the static kernel. The pullback repeats no forward solve, can be
        called any number of times and can be pickled. It reads the paths again: do not modify them before.

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
    branched_sig_mmd : The value.
    branched_sig_mmd_backprop : The gradient for given derivatives.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (
    ...     np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1)
    ...     for scale in (0.05, 0.15)
    ... )
    >>> discrepancy, pullback = branchsig.branched_sig_mmd_vjp(
    ...     near, far, depth=3, normalize=True
    ... )
    >>> toward, _ = pullback(1.0)
    >>> bool(
    ...     branchsig.branched_sig_mmd(near - 0.1 * toward, far, depth=3, normalize=True)
    ...     < discrepancy
    ... )
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
        unbiased=unbiased,
        base_point=base_point,
        planar=planar,
    )
    return timed(_MMD, times1, times2).vjp(spec, how, sample1, sample2, lengths1, lengths2, param_deriv=param_deriv)


def branched_sig_mmd_backprop(
    derivs: Array,
    sample1: PathsT1,
    sample2: PathsT2,
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
    normalize: bool | str = False,
    order: int | None = None,
    check_finite: bool | None = None,
    unbiased: bool = True,
    left_deriv: bool = True,
    right_deriv: bool = False,
    param_deriv: bool = False,
    planar: bool = False,
) -> tuple[PathsT1 | None, PathsT2 | None]:
    """Gradient of the squared maximum mean discrepancy of two samples of paths.

    Parameters
    ----------
    derivs : float or array, shape ()
        Derivative of a scalar with respect to the result of `branched_sig_mmd`.
    sample1 : array, shape (*batch1, length1, dimension)
        A sample of paths, of any library of the array API standard, float32 or float64. All batch axes belong to it.
    sample2 : array, shape (*batch2, length2, dimension)
        Another sample, with the library, dtype, device and dimension of the first.
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
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``, computed from logarithms; not allowed with `return_grid`.
        ``"dilation"``: scale every path so that the logarithm of its kernel with itself is 1, as `dilation` does;
        nothing overflows then. Neither is allowed with `k_stack`.
    order : int, optional
        Largest number of nodes of a forest. A `depth` below `order` bounds the forests as well; a larger one,
        `math.inf` or none has no effect. On piecewise-linear paths `GaussLobatto` with ``p >= order - 1`` is exact.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    unbiased : bool, default: True
        Exclude the kernel of each path with itself from the means over pairs of one sample.
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
        The derivatives of the scalar with respect to `sample1` and `sample2`; None for a gradient that was not
        requested. With `param_deriv` the last item is a dictionary of the derivatives with respect to the parameters of
        the static kernel by name, as 0-d arrays.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.

    See Also
    --------
    branched_sig_mmd : The value.

    Notes
    -----
    The gradient is the mean of the gradients of the kernels, with the signs of the terms. No Gram matrix is stored.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (
    ...     np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1)
    ...     for scale in (0.05, 0.15)
    ... )
    >>> toward, _ = branchsig.branched_sig_mmd_backprop(1.0, near, far, depth=3)
    >>> before, after = (
    ...     branchsig.branched_sig_mmd(near - step * toward, far, depth=3)
    ...     for step in (0, 0.1)
    ... )
    >>> bool(after < before)
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
        unbiased=unbiased,
        base_point=base_point,
        planar=planar,
    )
    result: tuple[PathsT1 | None, PathsT2 | None] = timed(_MMD, times1, times2).backprop(
        derivs,
        spec,
        how,
        sample1,
        sample2,
        lengths1,
        lengths2,
        left_deriv=left_deriv,
        right_deriv=right_deriv,
        param_deriv=param_deriv,
    )
    return result


def branched_sig_score(
    sample: Paths[ArrayT],
    y: Paths[ArrayT],
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
    normalize: bool | str = False,
    order: int | None = None,
    check_finite: bool | None = None,
    lam: float = 1.0,
    unbiased: bool = True,
    planar: bool = False,
) -> ArrayT:
    r"""Kernel scores of a sample of paths as a forecast of observed paths.

    Parameters
    ----------
    sample : array, shape (*batch1, length1, dimension)
        A sample of paths, of any library of the array API standard, float32 or float64. All batch axes belong to it.
    y : array, shape (*batch, length2, dimension)
        Observed paths, with the library, dtype, device and dimension of the sample.
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
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``, computed from logarithms; not allowed with `return_grid`.
        ``"dilation"``: scale every path so that the logarithm of its kernel with itself is 1, as `dilation` does;
        nothing overflows then. Neither is allowed with `k_stack`.
    order : int, optional
        Largest number of nodes of a forest. A `depth` below `order` bounds the forests as well; a larger one,
        `math.inf` or none has no effect. On piecewise-linear paths `GaussLobatto` with ``p >= order - 1`` is exact.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    lam : float, default: 1.0
        Weight of the term that is a mean over pairs of `sample`.
    unbiased : bool, default: True
        Exclude the kernel of each path with itself from the means over pairs of one sample.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

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
    expected_branched_sig_score : Their mean over a sample of observations.

    Notes
    -----
    .. math:: \lambda \, \mathbb E k(X, X') - 2 \mathbb E k(X, y)

    At λ = 1 it is a proper score: its expectation is lowest for the distribution that the observations come from [1]_.

    References
    ----------
    .. [1] T. Gneiting and A. E. Raftery, "Strictly proper scoring rules, prediction, and estimation", Journal of the
       American Statistical Association 102 (2007).

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (
    ...     np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1)
    ...     for scale in (0.05, 0.15)
    ... )
    >>> branchsig.branched_sig_score(near, far[:5], depth=3).shape
    (5,)
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
        lam=lam,
        unbiased=unbiased,
        base_point=base_point,
        planar=planar,
    )
    result: ArrayT = timed(_SCORE, times1, times2).value(spec, how, sample, y, lengths1, lengths2)
    return result


def branched_sig_score_vjp(
    sample: Paths[ArrayT],
    y: Paths[ArrayT],
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
    normalize: bool | str = False,
    order: int | None = None,
    check_finite: bool | None = None,
    lam: float = 1.0,
    unbiased: bool = True,
    param_deriv: bool = False,
    planar: bool = False,
) -> tuple[ArrayT, Callable[[Array], tuple[ArrayT | Any, ArrayT | Any]]]:
    """Kernel scores of a sample of paths as a forecast, and the pullback of derivatives to the paths.

    Parameters
    ----------
    sample : array, shape (*batch1, length1, dimension)
        A sample of paths, of any library of the array API standard, float32 or float64. All batch axes belong to it.
    y : array, shape (*batch, length2, dimension)
        Observed paths, with the library, dtype, device and dimension of the sample.
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
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``, computed from logarithms; not allowed with `return_grid`.
        ``"dilation"``: scale every path so that the logarithm of its kernel with itself is 1, as `dilation` does;
        nothing overflows then. Neither is allowed with `k_stack`.
    order : int, optional
        Largest number of nodes of a forest. A `depth` below `order` bounds the forests as well; a larger one,
        `math.inf` or none has no effect. On piecewise-linear paths `GaussLobatto` with ``p >= order - 1`` is exact.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    lam : float, default: 1.0
        Weight of the term that is a mean over pairs of `sample`.
    unbiased : bool, default: True
        Exclude the kernel of each path with itself from the means over pairs of one sample.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

    Returns
    -------
    value : array, shape (*batch,)
        The result of `branched_sig_score`.
    pullback : callable
        ``pullback(derivs)`` takes the derivatives of a scalar with respect to `value` and returns those with respect to
        `sample` and `y`, a list for a list of paths. With `param_deriv` the last item is a dictionary of the
        derivatives with respect to the parameters of the static kernel. The pullback repeats no forward solve, can be
        called any number of times and can be pickled. It reads the paths again: do not modify them before.

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
    branched_sig_score : The value.
    branched_sig_score_backprop : The gradient for given derivatives.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (
    ...     np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1)
    ...     for scale in (0.05, 0.15)
    ... )
    >>> scores, pullback = branchsig.branched_sig_score_vjp(near, far[:5], depth=3)
    >>> d_sample, d_y = pullback(np.ones(5))
    >>> d_sample.shape, d_y.shape
    ((20, 10, 2), (5, 10, 2))
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
        lam=lam,
        unbiased=unbiased,
        base_point=base_point,
        planar=planar,
    )
    return timed(_SCORE, times1, times2).vjp(spec, how, sample, y, lengths1, lengths2, param_deriv=param_deriv)


def branched_sig_score_backprop(
    derivs: Array,
    sample: PathsT1,
    y: PathsT2,
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
    normalize: bool | str = False,
    order: int | None = None,
    check_finite: bool | None = None,
    lam: float = 1.0,
    unbiased: bool = True,
    left_deriv: bool = True,
    right_deriv: bool = False,
    param_deriv: bool = False,
    planar: bool = False,
) -> tuple[PathsT1 | None, PathsT2 | None]:
    """Gradients of kernel scores.

    Parameters
    ----------
    derivs : array, shape (*batch,)
        Derivatives of a scalar with respect to the result of `branched_sig_score`.
    sample : array, shape (*batch1, length1, dimension)
        A sample of paths, of any library of the array API standard, float32 or float64. All batch axes belong to it.
    y : array, shape (*batch, length2, dimension)
        Observed paths, with the library, dtype, device and dimension of the sample.
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
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``, computed from logarithms; not allowed with `return_grid`.
        ``"dilation"``: scale every path so that the logarithm of its kernel with itself is 1, as `dilation` does;
        nothing overflows then. Neither is allowed with `k_stack`.
    order : int, optional
        Largest number of nodes of a forest. A `depth` below `order` bounds the forests as well; a larger one,
        `math.inf` or none has no effect. On piecewise-linear paths `GaussLobatto` with ``p >= order - 1`` is exact.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    lam : float, default: 1.0
        Weight of the term that is a mean over pairs of `sample`.
    unbiased : bool, default: True
        Exclude the kernel of each path with itself from the means over pairs of one sample.
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
        The derivatives of the scalar with respect to `sample` and `y`; None for a gradient that was not requested. With
        `param_deriv` the last item is a dictionary of the derivatives with respect to the parameters of the static
        kernel by name, as 0-d arrays.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.

    See Also
    --------
    branched_sig_score : The values.

    Notes
    -----
    The gradient is the mean of the gradients of the kernels, with the weights of the terms. No Gram matrix is stored.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (
    ...     np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1)
    ...     for scale in (0.05, 0.15)
    ... )
    >>> d_sample, _ = branchsig.branched_sig_score_backprop(
    ...     np.ones(5), near, far[:5], depth=3
    ... )
    >>> d_sample.shape
    (20, 10, 2)
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
        lam=lam,
        unbiased=unbiased,
        base_point=base_point,
        planar=planar,
    )
    result: tuple[PathsT1 | None, PathsT2 | None] = timed(_SCORE, times1, times2).backprop(
        derivs,
        spec,
        how,
        sample,
        y,
        lengths1,
        lengths2,
        left_deriv=left_deriv,
        right_deriv=right_deriv,
        param_deriv=param_deriv,
    )
    return result


def expected_branched_sig_score(
    sample1: Paths[ArrayT],
    sample2: Paths[ArrayT],
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
    normalize: bool | str = False,
    order: int | None = None,
    check_finite: bool | None = None,
    lam: float = 1.0,
    unbiased: bool = True,
    planar: bool = False,
) -> ArrayT:
    """Mean kernel score of a sample of paths as a forecast of another sample.

    Parameters
    ----------
    sample1 : array, shape (*batch1, length1, dimension)
        A sample of paths, of any library of the array API standard, float32 or float64. All batch axes belong to it.
    sample2 : array, shape (*batch2, length2, dimension)
        Another sample, with the library, dtype, device and dimension of the first.
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
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``, computed from logarithms; not allowed with `return_grid`.
        ``"dilation"``: scale every path so that the logarithm of its kernel with itself is 1, as `dilation` does;
        nothing overflows then. Neither is allowed with `k_stack`.
    order : int, optional
        Largest number of nodes of a forest. A `depth` below `order` bounds the forests as well; a larger one,
        `math.inf` or none has no effect. On piecewise-linear paths `GaussLobatto` with ``p >= order - 1`` is exact.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    lam : float, default: 1.0
        Weight of the term that is a mean over pairs of `sample1`.
    unbiased : bool, default: True
        Exclude the kernel of each path with itself from the means over pairs of one sample.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

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
    branched_sig_score : The score of each observation.

    Notes
    -----
    The mean of `branched_sig_score` over the paths of `sample2`.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (
    ...     np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1)
    ...     for scale in (0.05, 0.15)
    ... )
    >>> scores = branchsig.branched_sig_score(near, far, depth=3)
    >>> bool(
    ...     np.isclose(
    ...         branchsig.expected_branched_sig_score(near, far, depth=3), scores.mean()
    ...     )
    ... )
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
        lam=lam,
        unbiased=unbiased,
        base_point=base_point,
        planar=planar,
    )
    result: ArrayT = timed(_EXPECTED_SCORE, times1, times2).value(spec, how, sample1, sample2, lengths1, lengths2)
    return result


def expected_branched_sig_score_vjp(
    sample1: Paths[ArrayT],
    sample2: Paths[ArrayT],
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
    normalize: bool | str = False,
    order: int | None = None,
    check_finite: bool | None = None,
    lam: float = 1.0,
    unbiased: bool = True,
    param_deriv: bool = False,
    planar: bool = False,
) -> tuple[ArrayT, Callable[[Array], tuple[ArrayT | Any, ArrayT | Any]]]:
    """Mean kernel score of a sample as a forecast, and the pullback of derivatives to the paths.

    Parameters
    ----------
    sample1 : array, shape (*batch1, length1, dimension)
        A sample of paths, of any library of the array API standard, float32 or float64. All batch axes belong to it.
    sample2 : array, shape (*batch2, length2, dimension)
        Another sample, with the library, dtype, device and dimension of the first.
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
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``, computed from logarithms; not allowed with `return_grid`.
        ``"dilation"``: scale every path so that the logarithm of its kernel with itself is 1, as `dilation` does;
        nothing overflows then. Neither is allowed with `k_stack`.
    order : int, optional
        Largest number of nodes of a forest. A `depth` below `order` bounds the forests as well; a larger one,
        `math.inf` or none has no effect. On piecewise-linear paths `GaussLobatto` with ``p >= order - 1`` is exact.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    lam : float, default: 1.0
        Weight of the term that is a mean over pairs of `sample1`.
    unbiased : bool, default: True
        Exclude the kernel of each path with itself from the means over pairs of one sample.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

    Returns
    -------
    value : array, shape ()
        The result of `expected_branched_sig_score`.
    pullback : callable
        ``pullback(derivs)`` takes the derivatives of a scalar with respect to `value` and returns those with respect to
        `sample1` and `sample2`, a list for a list of paths. With `param_deriv` the last item is a dictionary of the
        derivatives with respect to the parameters of the static kernel. The pullback repeats no forward solve, can be
        called any number of times and can be pickled. It reads the paths again: do not modify them before.

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
    expected_branched_sig_score : The value.
    expected_branched_sig_score_backprop : The gradient for given derivatives.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (
    ...     np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1)
    ...     for scale in (0.05, 0.15)
    ... )
    >>> score, pullback = branchsig.expected_branched_sig_score_vjp(near, far, depth=3)
    >>> d_near, d_far = pullback(1.0)
    >>> d_near.shape, d_far.shape
    ((20, 10, 2), (20, 10, 2))
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
        lam=lam,
        unbiased=unbiased,
        base_point=base_point,
        planar=planar,
    )
    return timed(_EXPECTED_SCORE, times1, times2).vjp(
        spec, how, sample1, sample2, lengths1, lengths2, param_deriv=param_deriv
    )


def expected_branched_sig_score_backprop(
    derivs: Array,
    sample1: PathsT1,
    sample2: PathsT2,
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
    normalize: bool | str = False,
    order: int | None = None,
    check_finite: bool | None = None,
    lam: float = 1.0,
    unbiased: bool = True,
    left_deriv: bool = True,
    right_deriv: bool = False,
    param_deriv: bool = False,
    planar: bool = False,
) -> tuple[PathsT1 | None, PathsT2 | None]:
    """Gradient of the mean kernel score of a sample of paths.

    Parameters
    ----------
    derivs : float or array, shape ()
        Derivative of a scalar with respect to the result of `expected_branched_sig_score`.
    sample1 : array, shape (*batch1, length1, dimension)
        A sample of paths, of any library of the array API standard, float32 or float64. All batch axes belong to it.
    sample2 : array, shape (*batch2, length2, dimension)
        Another sample, with the library, dtype, device and dimension of the first.
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
    normalize : bool or "dilation", default: False
        True: return ``k(x, y) / sqrt(k(x, x) * k(y, y))``, computed from logarithms; not allowed with `return_grid`.
        ``"dilation"``: scale every path so that the logarithm of its kernel with itself is 1, as `dilation` does;
        nothing overflows then. Neither is allowed with `k_stack`.
    order : int, optional
        Largest number of nodes of a forest. A `depth` below `order` bounds the forests as well; a larger one,
        `math.inf` or none has no effect. On piecewise-linear paths `GaussLobatto` with ``p >= order - 1`` is exact.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    lam : float, default: 1.0
        Weight of the term that is a mean over pairs of `sample1`.
    unbiased : bool, default: True
        Exclude the kernel of each path with itself from the means over pairs of one sample.
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
        The derivatives of the scalar with respect to `sample1` and `sample2`; None for a gradient that was not
        requested. With `param_deriv` the last item is a dictionary of the derivatives with respect to the parameters of
        the static kernel by name, as 0-d arrays.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.

    See Also
    --------
    expected_branched_sig_score : The value.

    Notes
    -----
    The gradient is the mean of the gradients of the kernels, with the weights of the terms. No Gram matrix is stored.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (
    ...     np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1)
    ...     for scale in (0.05, 0.15)
    ... )
    >>> d_near, d_far = branchsig.expected_branched_sig_score_backprop(
    ...     1.0, near, far, depth=3, right_deriv=True
    ... )
    >>> d_near.shape, d_far.shape
    ((20, 10, 2), (20, 10, 2))
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
        lam=lam,
        unbiased=unbiased,
        base_point=base_point,
        planar=planar,
    )
    result: tuple[PathsT1 | None, PathsT2 | None] = timed(_EXPECTED_SCORE, times1, times2).backprop(
        derivs,
        spec,
        how,
        sample1,
        sample2,
        lengths1,
        lengths2,
        left_deriv=left_deriv,
        right_deriv=right_deriv,
        param_deriv=param_deriv,
    )
    return result
