"""Distances of samples of paths and scores of forecasts, from means of kernels, and a test of two samples.

Samples come in; means over the blocks of their Gram matrices go out, so that memory does not grow with the number of
pairs. A backward takes derivatives of the result back to the paths through the same blocks. The terms of a discrepancy
cancel, so means are those of k - 1, in float64, which loses no digits where all kernels are near 1.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from array_api_compat import is_array_api_obj

from branchsig import _inputs, _validation
from branchsig._arrays import (
    Array,
    ArrayT,
    Paths,
    PathsT1,
    PathsT2,
    all_finite,
    as_numpy,
    count_true,
    device_of,
    filled,
    from_numpy,
    lies_on_cpu,
    namespace_of,
)
from branchsig._problems import Lengths, as_given, samples_problem
from branchsig._warnings import warn
from branchsig.backends import Problem
from branchsig.dilation import Dilated, dilated
from branchsig.kernel import less_one, what_happened
from branchsig.kernel_backprop import _gradients
from branchsig.quadrature import Quadrature
from branchsig.spec import Execution, Spec, options_of
from branchsig.static_kernels import StaticKernel
from branchsig.transforms import transformed_adjoint

__all__ = [
    "TwoSampleTest",
    "branched_sig_mmd",
    "branched_sig_mmd_backprop",
    "branched_sig_mmd_test",
    "branched_sig_score",
    "branched_sig_score_backprop",
    "expected_branched_sig_score",
    "expected_branched_sig_score_backprop",
]

_BLOCK = 256
"""Rows and columns of a block of a Gram matrix."""

_ROUNDING = 64.0
"""Roundings, each of the size of eps times a sum, that two equal discrepancies may differ by for every path."""

Gradients = tuple[Array | None, Array | None]


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
    n_jobs: int | None = 1,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    normalize: bool | str = False,
    order: int | None = None,
    check_finite: bool | None = None,
    unbiased: bool = True,
) -> ArrayT:
    r"""Squared maximum mean discrepancy of two samples of paths.

    Parameters
    ----------
    sample1 : array, shape (*batch1, length1, dimension)
        A sample of paths, all those of the batch, of any library of the array API standard, float32 or float64.
    sample2 : array, shape (*batch2, length2, dimension)
        Another sample, with the library, dtype, device and dimension of the first.
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
    normalize : bool or "dilation", default: False
        True: the kernel is ``k(x, y) / sqrt(k(x, x) * k(y, y))``, formed from logarithms; not together with
        `return_grid`. ``"dilation"``: every path is scaled so that the logarithm of its kernel with itself is 1, as by
        `dilation`; then nothing overflows. Neither goes with `k_stack`.
    order : int, optional
        Largest number of nodes of a forest, in the place of a bound on the depth: `depth` is left out, or `math.inf`,
        or at least `order`. On piecewise-linear paths `GaussLobatto` with p of at least ``order - 1`` is exact.
    check_finite : bool, optional
        Whether to look if the values are finite and, if they are not, to warn and to name the paths that hold NaN or
        infinities. `None` looks at values on the CPU: for those on a CUDA device the host would have to wait, and lazy
        or traced arrays have none yet. True looks at the paths in any case. With False the axes of the paths of a Gram
        matrix are not warned of either. Gradients are never looked at.
    unbiased : bool, default: True
        Leave the kernels of paths with themselves out of the means over pairs of one sample.

    Returns
    -------
    array, shape ()
        The squared discrepancy, with the library, dtype and device of the samples.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.

    Warns
    -----
    RuntimeWarning
        Once, if kernels that the result takes are not finite: with their number if they overflow, and with the paths
        that hold NaN. And if every path has one point, as paths with their axes in another order do.

    See Also
    --------
    branched_sig_mmd_test : Whether it is larger than chance makes it.

    Notes
    -----
    .. math:: \mathbb E k(X, X') - 2 \mathbb E k(X, Y) + \mathbb E k(Y, Y')

    with means in the place of expectations [1]_. The unbiased one may be below 0. The terms cancel, so the means are
    those of :math:`k - 1`, from logarithms, in float64 whatever the dtype of the samples (but that the kernels of
    float32 paths on a CUDA device are computed in float32).

    With two dyadic orders every path is refined by the order of its sample, also beside paths of its own sample: all
    kernels are inner products of the same features, and the biased discrepancy is a squared distance.

    References
    ----------
    .. [1] A. Gretton et al., "A kernel two-sample test", Journal of Machine Learning Research 13 (2012).

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1) for scale in (0.05, 0.15))
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
    )
    lengths = lengths1, lengths2
    result: ArrayT = _Means(sample1, sample2, lengths, spec, how, unbiased, (1.0, 1.0)).value()
    return result


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
    n_jobs: int | None = 1,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    normalize: bool | str = False,
    order: int | None = None,
    check_finite: bool | None = None,
    unbiased: bool = True,
    left_deriv: bool = True,
    right_deriv: bool = False,
) -> tuple[PathsT1 | None, PathsT2 | None]:
    """Gradient of the squared maximum mean discrepancy of two samples of paths.

    Parameters
    ----------
    derivs : float or array, shape ()
        Derivative of a scalar with respect to the result of `branched_sig_mmd`.
    sample1 : array, shape (*batch1, length1, dimension)
        A sample of paths, all those of the batch, of any library of the array API standard, float32 or float64.
    sample2 : array, shape (*batch2, length2, dimension)
        Another sample, with the library, dtype, device and dimension of the first.
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
    normalize : bool or "dilation", default: False
        True: the kernel is ``k(x, y) / sqrt(k(x, x) * k(y, y))``, formed from logarithms; not together with
        `return_grid`. ``"dilation"``: every path is scaled so that the logarithm of its kernel with itself is 1, as by
        `dilation`; then nothing overflows. Neither goes with `k_stack`.
    order : int, optional
        Largest number of nodes of a forest, in the place of a bound on the depth: `depth` is left out, or `math.inf`,
        or at least `order`. On piecewise-linear paths `GaussLobatto` with p of at least ``order - 1`` is exact.
    check_finite : bool, optional
        Whether to look if the values are finite and, if they are not, to warn and to name the paths that hold NaN or
        infinities. `None` looks at values on the CPU: for those on a CUDA device the host would have to wait, and lazy
        or traced arrays have none yet. True looks at the paths in any case. With False the axes of the paths of a Gram
        matrix are not warned of either. Gradients are never looked at.
    unbiased : bool, default: True
        Leave the kernels of paths with themselves out of the means over pairs of one sample.
    left_deriv : bool, default: True
        Whether to differentiate with respect to the first paths.
    right_deriv : bool, default: False
        Whether to differentiate with respect to the second paths.

    Returns
    -------
    tuple of array or None
        The derivatives of the scalar with respect to `sample1` and `sample2`; None for a side that is not asked for.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.

    See Also
    --------
    branched_sig_mmd : The value.

    Notes
    -----
    The mean of the gradients of the kernels, with the signs of the terms; no Gram matrix is stored.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1) for scale in (0.05, 0.15))
    >>> toward, _ = branchsig.branched_sig_mmd_backprop(1.0, near, far, depth=3)
    >>> before, after = (branchsig.branched_sig_mmd(near - step * toward, far, depth=3) for step in (0, 0.1))
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
    )
    lengths = lengths1, lengths2
    return _Means(sample1, sample2, lengths, spec, how, unbiased, (1.0, 1.0), derivs).backprop(left_deriv, right_deriv)


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
    n_jobs: int | None = 1,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    normalize: bool | str = False,
    order: int | None = None,
    check_finite: bool | None = None,
    lam: float = 1.0,
    unbiased: bool = True,
) -> ArrayT:
    r"""Kernel scores of a sample of paths as a forecast of observed paths.

    Parameters
    ----------
    sample : array, shape (*batch1, length1, dimension)
        A sample of paths, all those of the batch, of any library of the array API standard, float32 or float64.
    y : array, shape (*batch, length2, dimension)
        Observed paths, with the library, dtype, device and dimension of the sample.
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
    normalize : bool or "dilation", default: False
        True: the kernel is ``k(x, y) / sqrt(k(x, x) * k(y, y))``, formed from logarithms; not together with
        `return_grid`. ``"dilation"``: every path is scaled so that the logarithm of its kernel with itself is 1, as by
        `dilation`; then nothing overflows. Neither goes with `k_stack`.
    order : int, optional
        Largest number of nodes of a forest, in the place of a bound on the depth: `depth` is left out, or `math.inf`,
        or at least `order`. On piecewise-linear paths `GaussLobatto` with p of at least ``order - 1`` is exact.
    check_finite : bool, optional
        Whether to look if the values are finite and, if they are not, to warn and to name the paths that hold NaN or
        infinities. `None` looks at values on the CPU: for those on a CUDA device the host would have to wait, and lazy
        or traced arrays have none yet. True looks at the paths in any case. With False the axes of the paths of a Gram
        matrix are not warned of either. Gradients are never looked at.
    lam : float, default: 1.0
        Weight of the term that is a mean over pairs of `sample`.
    unbiased : bool, default: True
        Leave the kernels of paths with themselves out of the means over pairs of one sample.

    Returns
    -------
    array, shape (*batch,)
        The scores, lower ones better, with the library, dtype and device of the paths.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.

    Warns
    -----
    RuntimeWarning
        Once, if kernels that the result takes are not finite: with their number if they overflow, and with the paths
        that hold NaN. And if every path has one point, as paths with their axes in another order do.

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
    >>> near, far = (np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1) for scale in (0.05, 0.15))
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
    )
    lengths = lengths1, lengths2
    result: ArrayT = _Means(sample, y, lengths, spec, how, unbiased, (_factor(lam), 0.0), each=True).value()
    return result


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
    n_jobs: int | None = 1,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    normalize: bool | str = False,
    order: int | None = None,
    check_finite: bool | None = None,
    lam: float = 1.0,
    unbiased: bool = True,
    left_deriv: bool = True,
    right_deriv: bool = False,
) -> tuple[PathsT1 | None, PathsT2 | None]:
    """Gradients of kernel scores.

    Parameters
    ----------
    derivs : array, shape (*batch,)
        Derivatives of a scalar with respect to the result of `branched_sig_score`.
    sample : array, shape (*batch1, length1, dimension)
        A sample of paths, all those of the batch, of any library of the array API standard, float32 or float64.
    y : array, shape (*batch, length2, dimension)
        Observed paths, with the library, dtype, device and dimension of the sample.
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
    normalize : bool or "dilation", default: False
        True: the kernel is ``k(x, y) / sqrt(k(x, x) * k(y, y))``, formed from logarithms; not together with
        `return_grid`. ``"dilation"``: every path is scaled so that the logarithm of its kernel with itself is 1, as by
        `dilation`; then nothing overflows. Neither goes with `k_stack`.
    order : int, optional
        Largest number of nodes of a forest, in the place of a bound on the depth: `depth` is left out, or `math.inf`,
        or at least `order`. On piecewise-linear paths `GaussLobatto` with p of at least ``order - 1`` is exact.
    check_finite : bool, optional
        Whether to look if the values are finite and, if they are not, to warn and to name the paths that hold NaN or
        infinities. `None` looks at values on the CPU: for those on a CUDA device the host would have to wait, and lazy
        or traced arrays have none yet. True looks at the paths in any case. With False the axes of the paths of a Gram
        matrix are not warned of either. Gradients are never looked at.
    lam : float, default: 1.0
        Weight of the term that is a mean over pairs of `sample`.
    unbiased : bool, default: True
        Leave the kernels of paths with themselves out of the means over pairs of one sample.
    left_deriv : bool, default: True
        Whether to differentiate with respect to the first paths.
    right_deriv : bool, default: False
        Whether to differentiate with respect to the second paths.

    Returns
    -------
    tuple of array or None
        The derivatives of the scalar with respect to `sample` and `y`; None for a side that is not asked for.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.

    See Also
    --------
    branched_sig_score : The values.

    Notes
    -----
    The mean of the gradients of the kernels, with the weights of the terms; no Gram matrix is stored.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1) for scale in (0.05, 0.15))
    >>> d_sample, _ = branchsig.branched_sig_score_backprop(np.ones(5), near, far[:5], depth=3)
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
    )
    lengths = lengths1, lengths2
    means = _Means(sample, y, lengths, spec, how, unbiased, (_factor(lam), 0.0), derivs, each=True)
    return means.backprop(left_deriv, right_deriv)


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
    n_jobs: int | None = 1,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    normalize: bool | str = False,
    order: int | None = None,
    check_finite: bool | None = None,
    lam: float = 1.0,
    unbiased: bool = True,
) -> ArrayT:
    """Mean kernel score of a sample of paths as a forecast of another sample.

    Parameters
    ----------
    sample1 : array, shape (*batch1, length1, dimension)
        A sample of paths, all those of the batch, of any library of the array API standard, float32 or float64.
    sample2 : array, shape (*batch2, length2, dimension)
        Another sample, with the library, dtype, device and dimension of the first.
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
    normalize : bool or "dilation", default: False
        True: the kernel is ``k(x, y) / sqrt(k(x, x) * k(y, y))``, formed from logarithms; not together with
        `return_grid`. ``"dilation"``: every path is scaled so that the logarithm of its kernel with itself is 1, as by
        `dilation`; then nothing overflows. Neither goes with `k_stack`.
    order : int, optional
        Largest number of nodes of a forest, in the place of a bound on the depth: `depth` is left out, or `math.inf`,
        or at least `order`. On piecewise-linear paths `GaussLobatto` with p of at least ``order - 1`` is exact.
    check_finite : bool, optional
        Whether to look if the values are finite and, if they are not, to warn and to name the paths that hold NaN or
        infinities. `None` looks at values on the CPU: for those on a CUDA device the host would have to wait, and lazy
        or traced arrays have none yet. True looks at the paths in any case. With False the axes of the paths of a Gram
        matrix are not warned of either. Gradients are never looked at.
    lam : float, default: 1.0
        Weight of the term that is a mean over pairs of `sample1`.
    unbiased : bool, default: True
        Leave the kernels of paths with themselves out of the means over pairs of one sample.

    Returns
    -------
    array, shape ()
        The mean score, lower ones better, with the library, dtype and device of the samples.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.

    Warns
    -----
    RuntimeWarning
        Once, if kernels that the result takes are not finite: with their number if they overflow, and with the paths
        that hold NaN. And if every path has one point, as paths with their axes in another order do.

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
    >>> near, far = (np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1) for scale in (0.05, 0.15))
    >>> scores = branchsig.branched_sig_score(near, far, depth=3)
    >>> bool(np.isclose(branchsig.expected_branched_sig_score(near, far, depth=3), scores.mean()))
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
    )
    lengths = lengths1, lengths2
    result: ArrayT = _Means(sample1, sample2, lengths, spec, how, unbiased, (_factor(lam), 0.0)).value()
    return result


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
    n_jobs: int | None = 1,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    normalize: bool | str = False,
    order: int | None = None,
    check_finite: bool | None = None,
    lam: float = 1.0,
    unbiased: bool = True,
    left_deriv: bool = True,
    right_deriv: bool = False,
) -> tuple[PathsT1 | None, PathsT2 | None]:
    """Gradient of the mean kernel score of a sample of paths.

    Parameters
    ----------
    derivs : float or array, shape ()
        Derivative of a scalar with respect to the result of `expected_branched_sig_score`.
    sample1 : array, shape (*batch1, length1, dimension)
        A sample of paths, all those of the batch, of any library of the array API standard, float32 or float64.
    sample2 : array, shape (*batch2, length2, dimension)
        Another sample, with the library, dtype, device and dimension of the first.
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
    normalize : bool or "dilation", default: False
        True: the kernel is ``k(x, y) / sqrt(k(x, x) * k(y, y))``, formed from logarithms; not together with
        `return_grid`. ``"dilation"``: every path is scaled so that the logarithm of its kernel with itself is 1, as by
        `dilation`; then nothing overflows. Neither goes with `k_stack`.
    order : int, optional
        Largest number of nodes of a forest, in the place of a bound on the depth: `depth` is left out, or `math.inf`,
        or at least `order`. On piecewise-linear paths `GaussLobatto` with p of at least ``order - 1`` is exact.
    check_finite : bool, optional
        Whether to look if the values are finite and, if they are not, to warn and to name the paths that hold NaN or
        infinities. `None` looks at values on the CPU: for those on a CUDA device the host would have to wait, and lazy
        or traced arrays have none yet. True looks at the paths in any case. With False the axes of the paths of a Gram
        matrix are not warned of either. Gradients are never looked at.
    lam : float, default: 1.0
        Weight of the term that is a mean over pairs of `sample1`.
    unbiased : bool, default: True
        Leave the kernels of paths with themselves out of the means over pairs of one sample.
    left_deriv : bool, default: True
        Whether to differentiate with respect to the first paths.
    right_deriv : bool, default: False
        Whether to differentiate with respect to the second paths.

    Returns
    -------
    tuple of array or None
        The derivatives of the scalar with respect to `sample1` and `sample2`; None for a side that is not asked for.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.

    See Also
    --------
    expected_branched_sig_score : The value.

    Notes
    -----
    The mean of the gradients of the kernels, with the weights of the terms; no Gram matrix is stored.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1) for scale in (0.05, 0.15))
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
    )
    lengths = lengths1, lengths2
    means = _Means(sample1, sample2, lengths, spec, how, unbiased, (_factor(lam), 0.0), derivs)
    return means.backprop(left_deriv, right_deriv)


class TwoSampleTest(NamedTuple):
    """Result of a test of two samples: what `branched_sig_mmd_test` returns.

    Parameters
    ----------
    statistic : float
        The unbiased squared discrepancy of the samples. NaN where the kernel of two paths is not finite.
    p_value : float
        The share of regroupings of the paths whose discrepancy is at least as large, the observed one counted. NaN
        where the statistic is.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> paths = np.cumsum(np.random.default_rng(0).normal(size=(8, 10, 2)), axis=1)
    >>> statistic, p_value = branchsig.branched_sig_mmd_test(paths[:4], paths[4:], depth=2)
    >>> 0 < p_value <= 1
    True
    """

    statistic: float
    p_value: float


def branched_sig_mmd_test(
    sample1: Paths[ArrayT],
    sample2: Paths[ArrayT],
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
    order: int | None = None,
    check_finite: bool | None = None,
    normalize: bool | str = "dilation",
    permutations: int = 1000,
    seed: int | np.random.Generator | None = None,
) -> TwoSampleTest:
    r"""Test whether two samples of paths come from one distribution, by permutations of the discrepancy.

    Parameters
    ----------
    sample1 : array, shape (*batch1, length1, dimension)
        A sample of paths, all those of the batch, of any library of the array API standard, float32 or float64.
    sample2 : array, shape (*batch2, length2, dimension)
        Another sample, with the library, dtype, device and dimension of the first.
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound. May be left out where `order` is given. At
        depth 1 the linear static kernel gives ``exp(<x_end - x_0, y_end - y_0>)``.
    dyadic_order : int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells.
        One order for both samples, whose paths are regrouped.
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
    order : int, optional
        Largest number of nodes of a forest, in the place of a bound on the depth: `depth` is left out, or `math.inf`,
        or at least `order`. On piecewise-linear paths `GaussLobatto` with p of at least ``order - 1`` is exact.
    check_finite : bool, optional
        Whether to look if the values are finite and, if they are not, to warn and to name the paths that hold NaN or
        infinities. `None` looks at values on the CPU: for those on a CUDA device the host would have to wait, and lazy
        or traced arrays have none yet. True looks at the paths in any case. With False the axes of the paths of a Gram
        matrix are not warned of either. Gradients are never looked at.
    normalize : bool or "dilation", default: "dilation"
        ``"dilation"``: every path is scaled so that the logarithm of its kernel with itself is 1, as by `dilation`, so
        that no path decides the result alone. True: kernels are divided by the norms of their paths. False: the kernel
        as it is, which has no bound, and whose discrepancy a few large paths may decide.
    permutations : int, default: 1000
        Number of random regroupings of the paths, at least 1. Where there are no more regroupings than these and the
        observed one, each of them is counted once in their place.
    seed : int or numpy.random.Generator, optional
        Where the regroupings are drawn from; the same seed gives the same result.

    Returns
    -------
    TwoSampleTest
        A named tuple of floats: `statistic`, the unbiased squared discrepancy, and `p_value`, the share of regroupings,
        the observed one counted, whose discrepancy is at least as large. Both are NaN where the kernel of two paths is
        not finite.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.

    Warns
    -----
    RuntimeWarning
        Once, if kernels of two paths are not finite, because paths hold NaN or because kernels overflow; and if every
        path has one point.

    See Also
    --------
    branched_sig_mmd : The discrepancy, whose `normalize` is False by default.

    Notes
    -----
    The Gram matrix of all paths is computed once; a regrouping only sums other entries of it. Under the hypothesis the
    p-value is at most α with probability at most α, for every α, whatever the distribution. Discrepancies that are
    equal but for rounding count as equal.

    There are :math:`\binom{n_1 + n_2}{n_1}` regroupings, and the p-value is never below one over their number: samples
    of three paths each cannot reject at 5 %.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1) for scale in (0.05, 0.15))
    >>> branchsig.branched_sig_mmd_test(near, far, depth=3, time_aug=True, end_time=0.5, seed=0).p_value < 0.01
    True
    """
    try:
        count = operator.index(permutations)
    except TypeError:
        raise TypeError(f"permutations is {permutations!r}: expected an integer >= 1") from None
    if count < 1:
        raise ValueError(f"permutations is {permutations}: expected an integer >= 1")
    rng = np.random.default_rng(seed)
    if check_finite is None:
        check_finite = True  # the host waits for the kernels in any case
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
    )
    lengths = lengths1, lengths2
    if spec.dyadic_order[0] != spec.dyadic_order[1]:
        raise ValueError(
            f"dyadic_order is {dyadic_order!r}: expected one order for both samples, whose paths the test regroups; "
            "give the larger one"
        )
    means = _Means(sample1, sample2, lengths, spec, how, None, (1.0, 1.0))
    gram = means.gram()
    if not np.isfinite(gram).all():
        return TwoSampleTest(math.nan, math.nan)
    return _permutation_test(gram, means.problem.path1.shape[0], count, rng)


def _permutation_test(
    gram: npt.NDArray[np.float64], n1: int, permutations: int, rng: np.random.Generator
) -> TwoSampleTest:
    """Test the first n1 paths against the others. The Gram matrix may be one less a constant; its diagonal is 0."""
    paths = gram.shape[0]
    _, exponent = math.frexp(float(np.max(np.abs(gram))))
    gram = np.ldexp(gram, -exponent)  # sums of what is very large or small would leave the range
    first = np.arange(paths) < n1
    observed = float(_discrepancies(gram, first[None, :])[0])
    # What the terms of a sum are is decided by rounding where they cancel, so the slack belongs to their sizes.
    pairs = min(n * (n - 1) for n in (n1, paths - n1))
    slack = _ROUNDING * paths * np.finfo(np.float64).eps * float(np.sum(np.abs(gram))) / pairs
    regroupings = math.comb(paths, n1)
    every = regroupings <= permutations + 1
    groups = _all_regroupings(n1, paths) if every else _random_regroupings(first, permutations, rng)
    at_least = sum(int(np.count_nonzero(_discrepancies(gram, some) >= observed - slack)) for some in groups)
    p_value = at_least / regroupings if every else (at_least + 1) / (permutations + 1)
    with np.errstate(over="ignore"):
        return TwoSampleTest(float(np.ldexp(observed, exponent)), p_value)


def _all_regroupings(n1: int, paths: int) -> Iterator[npt.NDArray[np.bool_]]:
    """All regroupings, by blocks, each a row that says which paths are in the first sample."""
    combinations = itertools.combinations(range(paths), n1)
    while some := list(itertools.islice(combinations, _BLOCK)):
        groups = np.zeros((len(some), paths), dtype=bool)
        np.put_along_axis(groups, np.asarray(some), True, axis=1)
        yield groups


def _random_regroupings(
    first: npt.NDArray[np.bool_], count: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.bool_]]:
    """Regroupings drawn at random, by blocks, each a row that says which paths are in the first sample."""
    for start in range(0, count, _BLOCK):
        yield rng.permuted(np.tile(first, (min(_BLOCK, count - start), 1)), axis=1)


def _discrepancies(gram: npt.NDArray[np.float64], first: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Unbiased squared discrepancies of regroupings, each a row that says which paths are in the first sample.

    The diagonal of the Gram matrix is 0.
    """
    one, two = first.astype(float), (~first).astype(float)
    n1, n2 = one.sum(axis=1), two.sum(axis=1)
    of_one, of_two = one @ gram, two @ gram
    within = np.sum(of_one * one, axis=1) / (n1 * (n1 - 1)) + np.sum(of_two * two, axis=1) / (n2 * (n2 - 1))
    discrepancies: npt.NDArray[np.float64] = within - 2 * np.sum(of_one * two, axis=1) / (n1 * n2)
    return discrepancies


def _factor(lam: Any) -> float:
    try:
        return float(lam)
    except (TypeError, ValueError):
        raise TypeError(f"lam is {lam!r}: expected a number") from None


def _blocks(paths: int) -> Iterator[slice]:
    for start in range(0, paths, _BLOCK):
        yield slice(start, min(start + _BLOCK, paths))


class _Means:
    """Weighted means of k within two samples, less twice its mean across, and the backward of that.

    The mean across is one over all pairs or, if `each` path of the second sample has a value, one over the first sample
    for each. Means within are over pairs of different paths, unless `unbiased` is False. All are taken over blocks of
    the Gram matrices.

    A kernel takes the dyadic order of its first path's sample on that side and of its second path's on the other, also
    where both are of one sample: then all kernels are inner products of the same features, and a discrepancy is a
    squared distance.
    """

    def __init__(
        self,
        first: Any,
        second: Any,
        lengths: Lengths,
        spec: Spec,
        how: Execution,
        unbiased: Any,
        within: tuple[float, float],
        derivs: Any = None,
        *,
        each: bool = False,
    ) -> None:
        self.unbiased = unbiased is None or _validation.flag(unbiased, "unbiased")
        self.paths = (first, second)
        self.spec = self.plain = spec
        self.how = how
        names = ("sample", "y") if each else ("sample1", "sample2")
        here = isinstance(derivs, np.generic) or not is_array_api_obj(derivs) or as_numpy(derivs) is not None
        self.problem, self.given = samples_problem(first, second, names, lengths, spec, how, single=each, here=here)
        self.undilated = self.problem
        self.derivs = derivs
        self.sizes = (self.problem.path1.shape[0], self.problem.path2.shape[0])
        remedy = "" if unbiased is None else ", or unbiased=False"
        self.within = [(side, weight / self._pairs(side, remedy)) for side, weight in enumerate(within) if weight]
        self.constant = sum(within) - 2.0
        self.each = each
        self.dilated: Dilated | None = None
        if spec.normalize == "dilation":
            self.plain = dataclasses.replace(spec, normalize=False)
            self.dilated = dilated(self.problem)
            self.problem = self.dilated.problem
        self.kernels = self.overflowed = self.undefined = 0
        self.not_finite = False

    def _pairs(self, side: int, remedy: str) -> int:
        """Number of pairs of one sample that a mean is over."""
        n: int = self.sizes[side]
        if self.unbiased and n < 2:
            raise ValueError(
                f"{self.given[side].name} has one path: a mean over pairs of different paths needs two{remedy}"
            )
        return n * (n - 1) if self.unbiased else n * n

    def _block(self, side1: int, rows: slice, side2: int, columns: slice) -> Problem:
        """The problem of a block of the Gram matrix of both samples, whose sides are 0 and 1."""
        path1, lengths1 = self._part(side1, rows)
        symmetric = side1 == side2 and rows == columns
        path2, lengths2 = (path1, lengths1) if symmetric else self._part(side2, columns)
        orders = self.problem.dyadic_order
        return dataclasses.replace(
            self.problem,
            path1=path1,
            path2=path2,
            lengths1=lengths1,
            lengths2=lengths2,
            dyadic_order=(orders[side1], orders[side2]),
            pairing="symmetric" if symmetric else "gram",
        )

    def _part(self, side: int, block: slice) -> tuple[Array, npt.NDArray[np.int64] | None]:
        problem = self.problem
        path, lengths = ((problem.path1, problem.lengths1), (problem.path2, problem.lengths2))[side]
        whole = block == slice(0, path.shape[0])
        return path if whole else path[block, ...], lengths if whole or lengths is None else lengths[block]

    def _less_one(self, side1: int, rows: slice, side2: int, columns: slice) -> Array:
        """k - 1 for a block, with 0 for the kernels that the means leave out, which may be infinite."""
        block = self._block(side1, rows, side2, columns)
        values = less_one(block, self.plain)
        if self.unbiased and block.pairing == "symmetric":
            xp = namespace_of(values)
            values = xp.where(_diagonal(values), xp.zeros_like(values), values)
        self._count(values, side1, rows, side2, columns)
        return values

    def _count(self, values: Array, side1: int, rows: slice, side2: int, columns: slice) -> None:
        """Count the kernels that are not finite although their paths are, where this is to be checked."""
        within = side1 == side2
        copies = 2 if within and rows != columns else 1
        left_out = values.shape[0] if within and rows == columns and self.unbiased else 0
        self.kernels += copies * math.prod(values.shape) - left_out
        checked = self.how.check_finite
        # To look at the values of a CUDA device the host waits for it; those of a traced array are not there yet.
        if checked is False or not (checked or lies_on_cpu(values)) or all_finite(values):
            return
        self.not_finite = True
        xp = namespace_of(values)
        finite1, finite2 = self._finite(side1), self._finite(side2)
        of_finite = finite1[rows][:, None] & finite2[columns][None, :]
        self.overflowed += copies * count_true(~xp.isfinite(values) & of_finite)
        self.undefined += copies * count_true(xp.isnan(values) & of_finite)

    def _finite(self, side: int) -> Array:
        """Which paths of a sample are finite."""
        problem = self.undilated
        path = filled(*((problem.path1, problem.lengths1), (problem.path2, problem.lengths2))[side])
        xp = namespace_of(path)
        return xp.all(xp.isfinite(path), axis=(1, 2))

    def _given_back(self, result: Array) -> Array:
        """A result with the library and dtype of the samples."""
        like, xp = self.given[0].path, namespace_of(result)
        dtype = xp.float32 if like.dtype == namespace_of(like).float32 else xp.float64
        result = xp.astype(result, dtype, copy=False)
        return from_numpy(result, like) if isinstance(result, np.ndarray) else result

    def _within(self, side: int) -> Array:
        """Sum of k - 1 over the pairs of one sample."""
        xp, total = namespace_of(self.problem.path1), 0.0
        for rows in _blocks(self.sizes[side]):
            for columns in _blocks(rows.stop):
                sums = xp.sum(self._less_one(side, rows, side, columns))
                total = total + (sums if rows == columns else 2.0 * sums)
        return total

    def _across(self) -> Array:
        """For each path of the second sample the mean of k - 1 over the first."""
        xp, parts = namespace_of(self.problem.path1), []
        for columns in _blocks(self.sizes[1]):
            sums = [xp.sum(self._less_one(0, rows, 1, columns), axis=0) for rows in _blocks(self.sizes[0])]
            parts.append(sum(sums[1:], sums[0]))
        return _joined(parts) / self.sizes[0]

    def value(self) -> Array:
        """The result, with the dtype of the samples, and one warning."""
        xp = namespace_of(self.problem.path1)
        with np.errstate(all="ignore"):
            across = self._across()
            result = -2.0 * (across if self.each else xp.mean(across))
            for side, weight in self.within:
                result = result + weight * self._within(side)
            result = result + self.constant
            if isinstance(result, np.generic):
                result = np.asarray(result)  # what NumPy makes of a 0-d array under arithmetic
            result = self._given_back(xp.reshape(result, self.given[1].batch if self.each else ()))
        self._warn(result)
        return result

    def gram(self) -> npt.NDArray[np.float64]:
        """k - 1 for all paths of both samples, with zeros on the diagonal, on the host."""
        first, second = (slice(0, n) for n in self.sizes)
        blocks = ((0, first, 0, first), (0, first, 1, second), (1, second, 1, second))
        k11, k12, k22 = (_on_host(self._less_one(*block)) for block in blocks)
        self._warn(k12)
        return np.block([[k11, k12], [k12.T, k22]])

    def _warn(self, result: Array) -> None:
        """Warn once of all that is to be warned of: the axes of the samples, NaN in them, and overflow."""
        checked = self.how.check_finite
        if checked is False:
            return
        sentences = [_inputs.axis_order(*self.given)]
        if checked or self.not_finite:
            sentences += [_inputs.not_finite(given) for given in self.given]
        if self.overflowed:
            what = what_happened(self.problem, self.spec, self.overflowed, self.undefined)
            sentences.append(f"{self.overflowed} of the {self.kernels} kernels that the result takes {what}")
        elif not self.not_finite and (checked or lies_on_cpu(result)) and not all_finite(result):
            sentences.append(f"the result is beyond the range of {result.dtype}, though all kernels are finite")
        message = ". ".join(sentence for sentence in sentences if sentence)
        if message:
            warn(message)

    def backprop(self, left: Any, right: Any) -> Gradients:
        """The gradients with respect to both samples, from the derivatives of `value`; nothing is warned of."""
        asked = _validation.flag(left, "left_deriv"), _validation.flag(right, "right_deriv")
        given, (n1, n2) = self.given, self.sizes
        shape = given[1].batch if self.each else ()
        derivs = _validation.same_shape(self.derivs, "derivs", shape, given[0].path, given[0].name)
        like = self.problem.path1
        if isinstance(like, np.ndarray):
            derivs = as_numpy(derivs)
        xp = namespace_of(like)
        with np.errstate(all="ignore"):
            derivs = xp.astype(derivs, like.dtype, copy=False)
            derivs = xp.reshape(derivs, (n2,)) if self.each else xp.broadcast_to(derivs / n2, (n2,))
            total = xp.sum(derivs)
            sums = _Sums(self.sizes)
            for rows in _blocks(n1):
                for columns in _blocks(n2):
                    block = self._block(0, rows, 1, columns)
                    weights = (-2.0 / n1) * derivs[columns][None, :] * _ones(block)
                    d_x, d_y = self._gradients(block, weights, left=asked[0], right=asked[1])
                    sums.add(0, rows, d_x)
                    sums.add(1, columns, d_y)
            for side, weight in self.within:
                if asked[side]:
                    self._within_backprop(side, weight * total, sums)
            gradients = sums.joined()
            if self.dilated is not None:
                gradients = self.dilated.adjoint(*gradients)
            return self._as_given(gradients[0], 0), self._as_given(gradients[1], 1)

    def _as_given(self, gradient: Array | None, side: int) -> Array | None:
        """Take a gradient through the transformations, back to the shape and the library of the sample."""
        if gradient is None:
            return None
        if self.spec.transforms:
            gradient = transformed_adjoint(gradient, self.spec.transforms)
        return as_given(self._given_back(gradient), self.paths[side])

    def _within_backprop(self, side: int, weight: Array, sums: _Sums) -> None:
        xp = namespace_of(self.problem.path1)
        for rows in _blocks(self.sizes[side]):
            for columns in _blocks(rows.stop):
                block = self._block(side, rows, side, columns)
                weights = weight * _ones(block)
                if rows == columns:
                    if self.unbiased:
                        weights = xp.where(_diagonal(weights), xp.zeros_like(weights), weights)
                    sums.add(side, rows, self._gradients(block, weights, left=True, total=True)[0])
                else:
                    d_x, d_y = self._gradients(block, 2.0 * weights, left=True, right=True)
                    sums.add(side, rows, d_x)
                    sums.add(side, columns, d_y)

    def _gradients(
        self, block: Problem, weights: Array, *, left: bool, right: bool = False, total: bool = False
    ) -> Gradients:
        return _gradients(block, weights, self.plain, left=left, right=right, total=total)


class _Sums:
    """Sums of gradients by blocks of paths."""

    def __init__(self, sizes: tuple[int, int]) -> None:
        self.parts: list[list[Array | None]] = [[None for _ in _blocks(size)] for size in sizes]

    def add(self, side: int, block: slice, term: Array | None) -> None:
        """Add to the gradient of a block of the first or second sample, if there is anything to add."""
        if term is not None:
            parts, k = self.parts[side], block.start // _BLOCK
            parts[k] = term if parts[k] is None else parts[k] + term

    def joined(self) -> Gradients:
        """The gradients of both samples; None for one that nothing was added to."""
        first, second = (None if parts[0] is None else _joined(parts) for parts in self.parts)
        return first, second


def _ones(block: Problem) -> Array:
    """Ones for all pairs of a block."""
    path1, path2 = block.path1, block.path2
    shape = (path1.shape[0], path2.shape[0])
    return namespace_of(path1).ones(shape, dtype=path1.dtype, device=device_of(path1))


def _diagonal(matrix: Array) -> Array:
    """Which entries of a square matrix lie on its diagonal."""
    index = namespace_of(matrix).arange(matrix.shape[0], device=device_of(matrix))
    return index[:, None] == index[None, :]


def _joined(parts: list[Any]) -> Array:
    return parts[0] if len(parts) == 1 else namespace_of(parts[0]).concat(parts, axis=0)


def _on_host(gram: Array) -> npt.NDArray[np.float64]:
    here = as_numpy(gram)
    return np.asarray(here if here is not None else [[float(v) for v in row] for row in gram], dtype=np.float64)
