"""The backward of each function in `kernel.py`, in the same order, and both at once.

Derivatives of a scalar with respect to kernels come in, with the paths the kernels are of; the derivatives with respect
to the paths go out, through the backend's adjoint, the normalisation and the transformations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from branchsig import _validation
from branchsig._arrays import Array, ArrayT, Paths, PathsT1, PathsT2, contiguous, lies_on_cpu, namespace_of
from branchsig._problems import as_given, gram_problem, grid_shape, paired_problem, stack_shape
from branchsig._progress import one_pass, reporting
from branchsig.backends import Backend, Problem, Want, Wrt, backend_for
from branchsig.dilation import dilated
from branchsig.kernel import values, with_rule
from branchsig.normalization import of_log_of_sum, of_sum, sides, unit_kernel_backprop
from branchsig.quadrature import Quadrature
from branchsig.spec import Spec, Transforms, options_of
from branchsig.static_kernels import StaticKernel
from branchsig.transforms import transformed_adjoint

__all__ = [
    "branched_sig_kernel_backprop",
    "branched_sig_kernel_gram_backprop",
    "branched_sig_kernel_gram_vjp",
    "branched_sig_kernel_vjp",
]

Gradients = tuple[Array | None, Array | None]


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
    left_deriv: bool = True,
    right_deriv: bool = False,
    k_stack: Array | None = None,
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
    left_deriv : bool, default: True
        Whether to differentiate with respect to the first paths.
    right_deriv : bool, default: False
        Whether to differentiate with respect to the second paths.
    k_stack : array, shape (*batch, depth + 1, grid1, grid2), optional
        The result of `branched_sig_kernel_stack` for the same paths and options. With it nothing is solved for again.
        Not with `GaussLobatto`, which needs values that the stack does not hold.

    Returns
    -------
    tuple of array or None
        The derivatives of the scalar with respect to `path1`, shape ``(*batch, length1, dimension)``, and to `path2`,
        shape ``(*batch, length2, dimension)``; None for a side that is not asked for. For a list of paths a list of
        arrays, one for each.

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
    )
    lengths = lengths1, lengths2
    left, right = _sides(left_deriv, right_deriv)
    problem, batch = paired_problem(path1, path2, lengths, spec, how)
    stack = _checked_stack(k_stack, problem, batch, spec)
    derivs = _checked_derivs(derivs, problem, batch, spec)
    problem = with_rule(problem, batch, spec)
    d_path1, d_path2 = _gradients(problem, derivs, spec, left=left, right=right, k_stack=stack)
    return _as_path(d_path1, path1, spec.transforms), _as_path(d_path2, path2, spec.transforms)


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
    left_deriv: bool = True,
    right_deriv: bool = False,
    k_stack: Array | None = None,
    max_batch: int = -1,
    progress: bool | Callable[[int, int], None] = False,
    devices: Iterable[int] | None = None,
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

    Returns
    -------
    tuple of array or None
        The derivatives of the scalar with respect to `path1`, shape ``(*batch1, length1, dimension)``, and to `path2`,
        shape ``(*batch2, length2, dimension)``; None for a side that is not asked for. For a list of paths a list of
        arrays, one for each. With ``path2=None`` the matrix is a function of `path1` alone and the first is its whole
        gradient. With `path1` given twice they are those of its two places, and the gradient is their sum.

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
    )
    lengths = lengths1, lengths2
    left, right = _sides(left_deriv, right_deriv)
    if path2 is None and right:
        raise ValueError(
            "right_deriv is True and path2 is None: the Gram matrix is a function of path1 alone, and left_deriv asks "
            "for its whole gradient. Leave right_deriv out, or pass path1 as path2 for the gradients of its two places"
        )
    with reporting(how.progress) as report:
        triangle = not spec.return_grid and k_stack is None
        problem, batch = gram_problem(path1, path2, lengths, spec, how, report, triangle=triangle)
        stack = _checked_stack(k_stack, problem, batch, spec)
        derivs = _checked_derivs(derivs, problem, batch, spec)
        problem = with_rule(problem, batch, spec)
        total = left and path2 is None
        d_path1, d_path2 = _gradients(problem, derivs, spec, left=left, right=right, total=total, k_stack=stack)
    return _as_path(d_path1, path1, spec.transforms), _as_path(d_path2, path2, spec.transforms)


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
) -> tuple[ArrayT, Callable[[Array], tuple[ArrayT | Any, ArrayT | Any]]]:
    """Branched signature kernels of pairs of paths, and the function that takes derivatives back to the paths.

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
    value : array, shape (*batch,)
        What `branched_sig_kernel` returns.
    pullback : callable
        ``pullback(derivs)`` takes derivatives of a scalar with respect to `value` and returns those with respect to
        `path1` and `path2`, lists for lists. It may be called any number of times, and reads the paths again: do not
        write to them before. Of all else, lengths too, it has copies.

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
        Once, with their number, if values overflow: they are inf, or NaN where infinities cancel. It names the paths
        that hold NaN or infinities.

    See Also
    --------
    branched_sig_kernel : The value, and the formula.
    branched_sig_kernel_backprop : The gradient, one side at a time or with a stack.

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
    )
    lengths = lengths1, lengths2
    problem, batch = paired_problem(path1, path2, lengths, spec, how)
    value, solved = values(problem, batch, lengths, spec, how)

    def pullback(derivs: Array) -> Gradients:
        checked = _checked_derivs(derivs, problem, batch, spec)
        d_path1, d_path2 = _gradients(solved, checked, spec, left=True, right=True)
        return _as_path(d_path1, path1, spec.transforms), _as_path(d_path2, path2, spec.transforms)

    return value, pullback


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
    value : array, shape (*batch1, *batch2)
        What `branched_sig_kernel_gram` returns.
    pullback : callable
        ``pullback(derivs)`` takes derivatives of a scalar with respect to `value` and returns those with respect to
        `path1` and `path2`, lists for lists; with ``path2=None`` the whole gradient and None. It may be called any
        number of times, and reads the paths again: do not write to them before. Of all else, lengths too, it has
        copies.

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
        Once, with their number, if values overflow: they are inf, or NaN where infinities cancel. It names the paths
        that hold NaN or infinities. Also where the axes look like those of other libraries: if every path has
        one point, or both arguments have two dimensions.

    See Also
    --------
    branched_sig_kernel_gram : The matrix.
    branched_sig_kernel_gram_backprop : The gradient, one side at a time or with a stack.

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
    )
    lengths = lengths1, lengths2
    total = path2 is None
    with reporting(how.progress) as report:
        problem, batch = gram_problem(path1, path2, lengths, spec, how, report, triangle=not spec.return_grid)
        value, solved = values(problem, batch, lengths, spec, how)

    def pullback(derivs: Array) -> Gradients:
        checked = _checked_derivs(derivs, problem, batch, spec)
        with reporting(how.progress) as report:
            again = dataclasses.replace(solved, progress=report)
            d_path1, d_path2 = _gradients(again, checked, spec, left=True, right=not total, total=total)
        return _as_path(d_path1, path1, spec.transforms), _as_path(d_path2, path2, spec.transforms)

    return value, pullback


def _sides(left_deriv: Any, right_deriv: Any) -> tuple[bool, bool]:
    return _validation.flag(left_deriv, "left_deriv"), _validation.flag(right_deriv, "right_deriv")


def _checked_derivs(derivs: Any, problem: Problem, batch: tuple[int, ...], spec: Spec) -> Array:
    """Check derivatives of the result, and return them with one axis for every axis of pairs of the problem."""
    shape = grid_shape(problem, batch) if spec.return_grid else batch
    if spec.return_levels:
        shape = (*shape, problem.order + 1)  # type: ignore[operator]
    derivs = _validation.same_shape(derivs, "derivs", shape, problem.path1, "path1")
    _validation.values_at_hand(derivs, "derivs", problem.depth, problem.order, None)
    return _with_pairs(derivs, problem, batch)


def _checked_stack(k_stack: Any, problem: Problem, batch: tuple[int, ...], spec: Spec) -> Array | None:
    """Check a stack of grids, and return it with one axis for every axis of pairs of the problem."""
    if k_stack is None:
        return None
    if spec.normalize:
        raise ValueError(
            f"normalize={spec.normalize!r} with k_stack: the stack holds no kernel of a path with itself. "
            "Leave k_stack out, or differentiate without normalize"
        )
    if spec.rtol is not None:
        raise ValueError(
            f"rtol is {spec.rtol:g} with k_stack: a stack holds the values of one rule, and a tolerance finds the "
            "rule by itself. Leave one of them out"
        )
    if problem.order is not None:
        raise ValueError("k_stack with order: a stack holds kernels by depth, not by order. Leave one of them out")
    if problem.quadrature.p > 1:
        raise ValueError(
            f"k_stack with quadrature={spec.quadrature!r}: a stack holds values at the corners of the cells, and "
            "this rule needs them at its inner nodes too. Leave k_stack out, or use Trapezoid() or LeftPoint()"
        )
    stack = _validation.same_shape(k_stack, "k_stack", stack_shape(problem, batch), problem.path1, "path1")
    return _with_pairs(stack, problem, batch)


def _with_pairs(array: Array, problem: Problem, batch: tuple[int, ...]) -> Array:
    n1, n2 = problem.path1.shape[0], problem.path2.shape[0]
    pairs = (n1,) if problem.pairing == "paired" else (n1, n2)
    return array if pairs == batch else namespace_of(array).reshape(array, pairs + tuple(array.shape[len(batch) :]))


def _gradients(
    problem: Problem,
    derivs: Array,
    spec: Spec,
    *,
    left: bool,
    right: bool,
    total: bool = False,
    k_stack: Array | None = None,
) -> Gradients:
    """Gradients with respect to the transformed paths.

    With `total`, for a Gram matrix of one stack of paths with itself, the left gradient is that with respect to both
    places.
    """
    if not (left or right):
        return None, None
    if problem.order is not None and problem.pairing == "symmetric":
        problem = dataclasses.replace(problem, pairing="gram")
    if spec.normalize == "dilation":
        scaled = dilated(problem)
        plain = dataclasses.replace(spec, normalize=False)
        # One stack with two lists of factors, for unequal dyadic orders, has a way back for each.
        apart = total and not scaled.problem.itself
        gradients = _gradients(
            scaled.problem, scaled.derivs(derivs), plain, left=left, right=right or apart, total=total and not apart
        )
        return sides(*scaled.adjoint(*gradients), total=apart)
    backend = backend_for(problem)
    with np.errstate(all="ignore"):
        if spec.normalize:
            return unit_kernel_backprop(backend, problem, derivs, log=spec.log, left=left, right=right, total=total)
        if problem.order is not None and not spec.return_levels:
            problem = dataclasses.replace(problem, purpose="log" if spec.log else "kernel")
            derivs = _parts_derivs(backend, one_pass(problem, 0, 2), derivs, spec)
            problem = one_pass(problem, 1, 2) if spec.log else problem
        if problem.pairing == "symmetric":
            return _symmetric_gradients(backend, problem, derivs, spec, left=left, right=right, total=total)
        wrt = Wrt(left, right or total)
        d_path1, d_path2, _ = backend.adjoint(problem, _want(spec), derivs, wrt, log=spec.log, stack=k_stack)
    return sides(d_path1, d_path2, total=total)


def _want(spec: Spec) -> Want:
    return "grid" if spec.return_grid else "end"


def _parts_derivs(backend: Backend, problem: Problem, derivs: Array, spec: Spec) -> Array:
    """Derivatives with respect to k_0..k_order, from those with respect to their sum or its logarithm."""
    if spec.log:
        return of_log_of_sum(derivs, problem, backend.solve(problem, _want(spec)))
    return of_sum(derivs, problem)


def _symmetric_gradients(
    backend: Backend, problem: Problem, derivs: Array, spec: Spec, *, left: bool, right: bool, total: bool
) -> Gradients:
    """Gradients of a symmetric Gram matrix.

    Since k(x_i, x_j) = k(x_j, x_i), the right gradient of D is the left one of Dᵀ.
    """
    xp = namespace_of(derivs)
    transposed = xp.permute_dims(derivs, (1, 0))
    # One pass serves both places, but to see that on a CUDA device the host would wait; traced values are not there.
    same = left and right and lies_on_cpu(derivs) and bool(xp.all(derivs == transposed))
    passes = 2 if left and right and not same else 1

    def gradient(weights: Array, index: int) -> Array:
        return backend.adjoint(one_pass(problem, index, passes), "end", weights, Wrt(path1=True), log=spec.log).path1

    if total:
        return gradient(derivs + transposed, 0), None
    if same:
        both = gradient(derivs, 0)
        return both, xp.asarray(both, copy=True)
    return (
        gradient(derivs, 0) if left else None,
        gradient(contiguous(transposed), passes - 1) if right else None,
    )


def _as_path(gradient: Array | None, path: Any, transforms: Transforms) -> Array | None:
    """Take a gradient through the transformations, back to the shape of the path."""
    if gradient is None:
        return None
    if transforms:
        gradient = transformed_adjoint(gradient, transforms)
    return as_given(gradient, path)
