"""Dilations: factors of paths, such that the kernel of each scaled path with itself has a given size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from branchsig._arrays import Array, ArrayT, Paths, PathsT1
from branchsig.operations import OPERATIONS
from branchsig.operations.timed import timed
from branchsig.quadrature import Quadrature
from branchsig.spec import options_of
from branchsig.static_kernels import StaticKernel

__all__ = ["dilation", "dilation_backprop", "dilation_vjp"]

_DILATION = OPERATIONS["dilation"]


def dilation(
    paths: Paths[ArrayT],
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
    order: int | None = None,
    target: float = 1.0,
    method: str = "solve",
    lengths: Any = None,
    times: Any = None,
    room: float = 9.0,
) -> ArrayT:
    r"""Factors of paths, such that the logarithm of the kernel of each scaled path with itself is `target`.

    Parameters
    ----------
    paths : array, shape (*batch, length, dimension)
        Paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound. May be left out where `order` is given, and
        may be given beside it.
    dyadic_order : int, default: 0
        Every cell between two neighbouring points is split into ``2**order`` by ``2**order`` sub-cells.
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
    order : int, optional
        Largest number of nodes of a forest. A `depth` below it bounds the forests as well; one that is left out,
        `math.inf`, or at least `order` does not. On piecewise-linear paths `GaussLobatto` with p of at least
        ``order - 1`` is exact.
    target : float, default: 1.0
        The logarithm of the kernel of a scaled path with itself, above 0. ``normalize="dilation"`` takes 1.
    method : {"solve", "guard"}, default: "solve"
        "solve" finds the factors by a search. "guard" needs no search and no depth: from the 1-variation of a path
        alone it gives a factor, smaller than the other, for which no logarithm exceeds `target` at any depth.
    lengths : array of int, shape (*batch,), optional
        Valid lengths, where the paths are padded to one length; see `pad_paths`. Not beside a list of paths.
    times : array, shape (*batch, length), optional
        Times of the points, which become the last channel in the place of evenly spaced time, with `time_aug` or
        without, but not beside `end_time`; (length,) for those of all paths, and a list of arrays for a list of paths.
        Lead-lag puts points halfway between two times. The gradient with respect to `times` follows that with respect
        to the paths.
    room : float, default: 9.0
        How far above `target` the logarithm of the kernel of a part ``x[: i + 1]`` of a path with itself may lie, above
        0. ``normalize="dilation"`` takes 9.

    Returns
    -------
    array, shape (*batch,)
        The factors λ, with the library, dtype and device of the paths. NaN for a path that holds NaN or infinities.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have, or the paths are traced, batched or lazy, and have no values
        yet; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.

    See Also
    --------
    branched_sig_kernel_gram : Takes ``normalize="dilation"``.

    Notes
    -----
    The factor of a path is the largest λ for which

    .. math:: \log k(\lambda x, \lambda x) \le \mathrm{target}, \qquad
        \log k(\lambda x_{:i}, \lambda x_{:i}) \le \mathrm{target} + \mathrm{room} \quad \text{for every } i,

    where the static kernel of scaled paths is :math:`\lambda(x) \lambda(y) \kappa(x, y)`; for the linear one that is
    the kernel of the paths times their factors. Most paths reach the target at their end. One that returns need not:
    out and back again the same way its kernel with itself is 1 whatever the factor, and what is computed of it would be
    rounding if it were large on the way. There the second bound says how large the path may be. It also bounds grids:
    the logarithms of kernels of pairs are at most ``target + room`` at every point.

    The logarithms on the left are power series in :math:`\lambda^2` with coefficients of one sign, so there is one such
    factor and a bracket around it, and the search, by interpolation, always ends: whatever is not finite is too large.
    It takes about six sweeps of each path with itself, each of them half a kernel. With `order` it is a search for the
    root of a polynomial. Factors are found in float64 and scale the steps of a path, so an offset costs no digits.

    This carries the normalisation of [1]_ over to branched signatures. Since :math:`\log K` is itself a positive
    semi-definite kernel, :math:`|\log K(\lambda_x x, \lambda_y y)|` is at most `target` for all pairs.

    Without a bound on the depth, a cell holds an equation for K that has no solution where the path is too coarse.
    There :math:`\lambda^2 g_{ii} K \le 1/2` is asked for in addition, of every cell on the diagonal, with its increment
    :math:`g_{ii}` and the larger K at its two ends; for refined paths, of sub-cells. By the inequality of
    Cauchy-Schwarz, no cell of a pair is larger then. Few large steps stay below the target therefore; a `dyadic_order`
    or a rule of higher order does not change the path, but the former makes sub-cells smaller.

    A path that does not move has the kernel 1 with all others, whatever its factor, and gets 1. Where the depth or
    `order` is 0 all kernels are 1, and the factor is that of "guard"; no gradient flows through either. Otherwise
    gradients are those of the bound that is reached.

    The guard is :math:`\lambda^2 a^2 = t e^{-t}` with the 1-variation a of the path in the feature space of κ and
    t the smaller one of `target` and 1: every rule of quadrature gives at most :math:`ab \max K` for paths of
    1-variations a and b, so :math:`ab \le t e^{-t}` and :math:`\log K_{m-1} \le t` give
    :math:`\log K_m \le t`, at every depth. (For the kernel without any discretisation
    :math:`K_\infty \le (1 - ab/2)^{-2}` holds in addition, where :math:`ab < 2`.) Of depth `math.inf` alone, coarse
    cells may ask for less.

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
    >>> bool(gram.min() > 1 / math.e), bool(gram.max() < math.e + 1e-9)
    (True, True)
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
        target=target,
        room=room,
        method=method,
        base_point=base_point,
    )
    result: ArrayT = timed(_DILATION, times).value(spec, how, paths, lengths)
    return result


def dilation_vjp(
    paths: Paths[ArrayT],
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
    order: int | None = None,
    target: float = 1.0,
    method: str = "solve",
    lengths: Any = None,
    times: Any = None,
    room: float = 9.0,
    param_deriv: bool = False,
) -> tuple[ArrayT, Callable[[Array], Any]]:
    """Factors of paths as by `dilation`, and the function that takes derivatives back to the paths.

    Parameters
    ----------
    paths : array, shape (*batch, length, dimension)
        Paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound. May be left out where `order` is given, and
        may be given beside it.
    dyadic_order : int, default: 0
        Every cell between two neighbouring points is split into ``2**order`` by ``2**order`` sub-cells.
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
    order : int, optional
        Largest number of nodes of a forest. A `depth` below it bounds the forests as well; one that is left out,
        `math.inf`, or at least `order` does not. On piecewise-linear paths `GaussLobatto` with p of at least
        ``order - 1`` is exact.
    target : float, default: 1.0
        The logarithm of the kernel of a scaled path with itself, above 0. ``normalize="dilation"`` takes 1.
    method : {"solve", "guard"}, default: "solve"
        "solve" finds the factors by a search. "guard" needs no search and no depth: from the 1-variation of a path
        alone it gives a factor, smaller than the other, for which no logarithm exceeds `target` at any depth.
    lengths : array of int, shape (*batch,), optional
        Valid lengths, where the paths are padded to one length; see `pad_paths`. Not beside a list of paths.
    times : array, shape (*batch, length), optional
        Times of the points, which become the last channel in the place of evenly spaced time, with `time_aug` or
        without, but not beside `end_time`; (length,) for those of all paths, and a list of arrays for a list of paths.
        Lead-lag puts points halfway between two times. The gradient with respect to `times` follows that with respect
        to the paths.
    room : float, default: 9.0
        How far above `target` the logarithm of the kernel of a part ``x[: i + 1]`` of a path with itself may lie, above
        0. ``normalize="dilation"`` takes 9.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.

    Returns
    -------
    value : array, shape (*batch,)
        What `dilation` returns.
    pullback : callable
        ``pullback(derivs)`` takes derivatives of a scalar with respect to `value` and returns those with respect to
        `paths`, lists for lists. With `param_deriv` a dictionary of those with respect to the parameters of the static
        kernel comes last. Nothing is solved for again. It may be called any number of times and can be pickled, and
        reads the paths again: do not write to them before.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have, or the paths are traced, batched or lazy, and have no values
        yet; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.

    See Also
    --------
    dilation : The value.
    dilation_backprop : The gradient for derivatives that are known before.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> paths = np.cumsum(np.random.default_rng(0).normal(size=(4, 50, 3)), axis=1)
    >>> factors, pullback = branchsig.dilation_vjp(paths, depth=5)
    >>> pullback(np.ones(4)).shape
    (4, 50, 3)
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
        target=target,
        room=room,
        method=method,
        base_point=base_point,
    )
    return timed(_DILATION, times).vjp(spec, how, paths, lengths, param_deriv=param_deriv)


def dilation_backprop(
    derivs: Array,
    paths: PathsT1,
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
    order: int | None = None,
    target: float = 1.0,
    method: str = "solve",
    lengths: Any = None,
    times: Any = None,
    room: float = 9.0,
    param_deriv: bool = False,
) -> PathsT1:
    r"""Gradient of the factors that `dilation` finds.

    Parameters
    ----------
    derivs : array, shape (*batch,)
        Derivatives of a scalar with respect to the result of `dilation`.
    paths : array, shape (*batch, length, dimension)
        Paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound. May be left out where `order` is given, and
        may be given beside it.
    dyadic_order : int, default: 0
        Every cell between two neighbouring points is split into ``2**order`` by ``2**order`` sub-cells.
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
    order : int, optional
        Largest number of nodes of a forest. A `depth` below it bounds the forests as well; one that is left out,
        `math.inf`, or at least `order` does not. On piecewise-linear paths `GaussLobatto` with p of at least
        ``order - 1`` is exact.
    target : float, default: 1.0
        The logarithm of the kernel of a scaled path with itself, above 0. ``normalize="dilation"`` takes 1.
    method : {"solve", "guard"}, default: "solve"
        "solve" finds the factors by a search. "guard" needs no search and no depth: from the 1-variation of a path
        alone it gives a factor, smaller than the other, for which no logarithm exceeds `target` at any depth.
    lengths : array of int, shape (*batch,), optional
        Valid lengths, where the paths are padded to one length; see `pad_paths`. Not beside a list of paths.
    times : array, shape (*batch, length), optional
        Times of the points, which become the last channel in the place of evenly spaced time, with `time_aug` or
        without, but not beside `end_time`; (length,) for those of all paths, and a list of arrays for a list of paths.
        Lead-lag puts points halfway between two times. The gradient with respect to `times` follows that with respect
        to the paths.
    room : float, default: 9.0
        How far above `target` the logarithm of the kernel of a part ``x[: i + 1]`` of a path with itself may lie, above
        0. ``normalize="dilation"`` takes 9.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.

    Returns
    -------
    array, shape (*batch, length, dimension)
        The derivatives of the scalar with respect to the paths; for a list of paths a list. With `param_deriv` a tuple
        of this and a dictionary of the derivatives with respect to the parameters of the static kernel by name.

    Raises
    ------
    TypeError
        If an argument is not of the type it must have; the message says what to do.
    ValueError
        If an argument has a shape or value it must not have, or two options exclude each other.

    See Also
    --------
    dilation : The value.

    Notes
    -----
    A factor λ depends on its path through the bound c(λ, x) that is reached, the kernel of the path or of a prefix with
    itself: by the implicit function theorem :math:`d\log\lambda = -(\partial c/\partial x \cdot dx) / (\partial c /
    \partial \log\lambda)`. Where nothing is reached, for paths that do not move or a depth of 0, the gradient is 0.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> paths = np.cumsum(np.random.default_rng(0).normal(size=(4, 50, 3)), axis=1)
    >>> gradient = branchsig.dilation_backprop(np.ones(4), paths, depth=5)
    >>> gradient.shape
    (4, 50, 3)
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
        target=target,
        room=room,
        method=method,
        base_point=base_point,
    )
    result: PathsT1 = timed(_DILATION, times).backprop(derivs, spec, how, paths, lengths, param_deriv=param_deriv)
    return result
