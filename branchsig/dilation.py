"""Dilation factors: they scale each path so that its kernel with itself has a given size."""

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
    planar: bool = False,
) -> ArrayT:
    r"""Factors that scale each path so that the logarithm of its kernel with itself is `target`.

    Parameters
    ----------
    paths : array, shape (*batch, length, dimension)
        Paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound. Optional if `order` is given; both may be
        given.
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
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    n_jobs : int or None, default: 1
        Number of threads, as in joblib: -1 for all cores, -2 for all but one, None for 1. The result does not depend on
        it.
    quadrature : Quadrature or str, default: "trapezoid"
        The rule for the integral over a sub-cell: `Trapezoid`, `LeftPoint` or `GaussLobatto`, or their names
        ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
    order : int, optional
        Largest number of nodes of a forest. A `depth` below `order` bounds the forests as well; a larger one,
        `math.inf` or none has no effect. On piecewise-linear paths `GaussLobatto` with ``p >= order - 1`` is exact.
    target : float, default: 1.0
        The logarithm of the kernel of a scaled path with itself, above 0. ``normalize="dilation"`` uses 1.
    method : {"solve", "guard"}, default: "solve"
        "solve" searches for the factors. "guard" computes a smaller factor from the 1-variation of the path alone,
        without a search and without a depth; with it no logarithm exceeds `target` at any depth.
    lengths : array of int, shape (*batch,), optional
        Valid lengths, if the paths are padded to one length; see `pad_paths`. Not allowed with a list of paths.
    times : array, shape (*batch, length), optional
        Times of the points. They become the last channel instead of evenly spaced time, with or without `time_aug`, and
        exclude `end_time`. Shape (length,) gives all paths the same times; a list of paths takes a list of arrays.
        Points that lead-lag inserts lie halfway between two times. The gradient with respect to `times` follows that
        with respect to the paths.
    room : float, default: 9.0
        Bound for prefixes, above 0: the logarithm of the kernel of a prefix ``x[: i + 1]`` of a path with itself is at
        most ``target + room``. ``normalize="dilation"`` uses 9. To be left out with `planar`, where every prefix has
        the bound of the whole path.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

    Returns
    -------
    array, shape (*batch,)
        The factors λ, with the library, dtype and device of the paths. NaN for a path that holds NaN or infinities.

    Raises
    ------
    TypeError
        If an argument has the wrong type, or the paths are traced, batched or lazy and have no values yet; the message
        says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.

    See Also
    --------
    branched_sig_kernel_gram : Takes ``normalize="dilation"``.

    Notes
    -----
    The factor of a path is the largest λ for which

    .. math:: \log k(\lambda x, \lambda x) \le \mathrm{target}, \qquad
        \log k(\lambda x_{:i}, \lambda x_{:i}) \le \mathrm{target} + \mathrm{room} \quad \text{for every } i,

    where the static kernel of scaled paths is :math:`\lambda(x) \lambda(y) \kappa(x, y)`; for the linear kernel the
    paths are multiplied by their factors. Most paths reach the target at their end. A path that returns need not: if it
    goes out and back the same way, its kernel with itself is 1 for every factor, and the computed value would be
    rounding error if the kernel were large on the way. The second bound limits the size of such a path. It also bounds
    grids: the logarithms of kernels of pairs are at most ``target + room`` at every point.

    The logarithms on the left are power series in :math:`\lambda^2` with coefficients of one sign. So the factor is
    unique and can be bracketed, and the search by interpolation always ends; non-finite values count as too large. It
    takes about six sweeps of each path with itself, each half as expensive as a kernel. With `order` it finds the root
    of a polynomial. Factors are computed in float64 and scale the steps of a path, so an offset costs no digits.

    This carries the normalisation of [1]_ over to branched signatures. Since :math:`\log K` is itself a positive
    semi-definite kernel, :math:`|\log K(\lambda_x x, \lambda_y y)|` is at most `target` for all pairs.

    At depth `math.inf`, every cell holds an equation for K, which has no solution if the path is too coarse. The factor
    must then also satisfy :math:`\lambda^2 g_{ii} K \le 1/2` in every cell (for refined paths, sub-cell) on the
    diagonal, with its increment :math:`g_{ii}` and the larger K at its two ends. By the Cauchy-Schwarz inequality this
    bounds the cells of all pairs. So a path of few large steps stays below the target. A higher `dyadic_order` makes
    its sub-cells smaller; a rule of higher order does not.

    Over ordered forests (`planar`) the factor is one for which

    .. math:: |k(\lambda x_{:i}, \lambda x_{:i}) - 1| \le e^{\mathrm{target}} - 1 \quad \text{for every } i,

    with equality for one prefix. With `LeftPoint` the left-hand side grows with λ, and this is the largest factor. The
    trapezoid rule is positive semi-definite in the limit of fine paths only, so that on coarse paths there may be a
    larger one. Every factor that is returned has been evaluated.

    A constant path has kernel 1 with every path; its factor is 1. At depth or `order` 0 all kernels are 1, and the
    factor is that of "guard". The gradient of these factors is 0; otherwise gradients are those of the bound that is
    reached.

    The guard is :math:`\lambda^2 a^2 = t e^{-t}` with the 1-variation a of the path in the feature space of κ and t the
    smaller one of `target` and 1: every rule of quadrature gives at most :math:`ab \max K` for paths of 1-variations a
    and b, so :math:`ab \le t e^{-t}` and :math:`\log K_{m-1} \le t` give :math:`\log K_m \le t`, at every depth. (For
    the kernel without any discretisation :math:`K_\infty \le (1 - ab/2)^{-2}` holds in addition, where :math:`ab < 2`.)
    At depth `math.inf`, coarse cells may require a smaller factor.

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
    >>> gram = branchsig.branched_sig_kernel_gram(
    ...     paths, None, depth=math.inf, normalize="dilation"
    ... )
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
        planar=planar,
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
    planar: bool = False,
) -> tuple[ArrayT, Callable[[Array], Any]]:
    """Factors of paths as by `dilation`, and the pullback of derivatives to the paths.

    Parameters
    ----------
    paths : array, shape (*batch, length, dimension)
        Paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound. Optional if `order` is given; both may be
        given.
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
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    n_jobs : int or None, default: 1
        Number of threads, as in joblib: -1 for all cores, -2 for all but one, None for 1. The result does not depend on
        it.
    quadrature : Quadrature or str, default: "trapezoid"
        The rule for the integral over a sub-cell: `Trapezoid`, `LeftPoint` or `GaussLobatto`, or their names
        ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
    order : int, optional
        Largest number of nodes of a forest. A `depth` below `order` bounds the forests as well; a larger one,
        `math.inf` or none has no effect. On piecewise-linear paths `GaussLobatto` with ``p >= order - 1`` is exact.
    target : float, default: 1.0
        The logarithm of the kernel of a scaled path with itself, above 0. ``normalize="dilation"`` uses 1.
    method : {"solve", "guard"}, default: "solve"
        "solve" searches for the factors. "guard" computes a smaller factor from the 1-variation of the path alone,
        without a search and without a depth; with it no logarithm exceeds `target` at any depth.
    lengths : array of int, shape (*batch,), optional
        Valid lengths, if the paths are padded to one length; see `pad_paths`. Not allowed with a list of paths.
    times : array, shape (*batch, length), optional
        Times of the points. They become the last channel instead of evenly spaced time, with or without `time_aug`, and
        exclude `end_time`. Shape (length,) gives all paths the same times; a list of paths takes a list of arrays.
        Points that lead-lag inserts lie halfway between two times. The gradient with respect to `times` follows that
        with respect to the paths.
    room : float, default: 9.0
        Bound for prefixes, above 0: the logarithm of the kernel of a prefix ``x[: i + 1]`` of a path with itself is at
        most ``target + room``. ``normalize="dilation"`` uses 9. To be left out with `planar`, where every prefix has
        the bound of the whole path.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

    Returns
    -------
    value : array, shape (*batch,)
        The result of `dilation`.
    pullback : callable
        ``pullback(derivs)`` takes the derivatives of a scalar with respect to `value` and returns those with respect to
        `paths`, a list for a list of paths. With `param_deriv` the last item is a dictionary of the derivatives with
        respect to the parameters of the static kernel. The pullback repeats no forward solve, can be called any number
        of times and can be pickled. It reads the paths again: do not modify them before.

    Raises
    ------
    TypeError
        If an argument has the wrong type, or the paths are traced, batched or lazy and have no values yet; the message
        says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.

    See Also
    --------
    dilation : The value.
    dilation_backprop : The gradient for given derivatives.

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
        planar=planar,
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
    planar: bool = False,
) -> PathsT1:
    r"""Gradient of the factors that `dilation` finds.

    Parameters
    ----------
    derivs : array, shape (*batch,)
        Derivatives of a scalar with respect to the result of `dilation`.
    paths : array, shape (*batch, length, dimension)
        Paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound. Optional if `order` is given; both may be
        given.
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
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    n_jobs : int or None, default: 1
        Number of threads, as in joblib: -1 for all cores, -2 for all but one, None for 1. The result does not depend on
        it.
    quadrature : Quadrature or str, default: "trapezoid"
        The rule for the integral over a sub-cell: `Trapezoid`, `LeftPoint` or `GaussLobatto`, or their names
        ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
    order : int, optional
        Largest number of nodes of a forest. A `depth` below `order` bounds the forests as well; a larger one,
        `math.inf` or none has no effect. On piecewise-linear paths `GaussLobatto` with ``p >= order - 1`` is exact.
    target : float, default: 1.0
        The logarithm of the kernel of a scaled path with itself, above 0. ``normalize="dilation"`` uses 1.
    method : {"solve", "guard"}, default: "solve"
        "solve" searches for the factors. "guard" computes a smaller factor from the 1-variation of the path alone,
        without a search and without a depth; with it no logarithm exceeds `target` at any depth.
    lengths : array of int, shape (*batch,), optional
        Valid lengths, if the paths are padded to one length; see `pad_paths`. Not allowed with a list of paths.
    times : array, shape (*batch, length), optional
        Times of the points. They become the last channel instead of evenly spaced time, with or without `time_aug`, and
        exclude `end_time`. Shape (length,) gives all paths the same times; a list of paths takes a list of arrays.
        Points that lead-lag inserts lie halfway between two times. The gradient with respect to `times` follows that
        with respect to the paths.
    room : float, default: 9.0
        Bound for prefixes, above 0: the logarithm of the kernel of a prefix ``x[: i + 1]`` of a path with itself is at
        most ``target + room``. ``normalize="dilation"`` uses 9. To be left out with `planar`, where every prefix has
        the bound of the whole path.
    param_deriv : bool, default: False
        Also return the derivatives with respect to the parameters of the static kernel, summed over all pairs.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

    Returns
    -------
    array, shape (*batch, length, dimension)
        The derivatives of the scalar with respect to the paths; for a list of paths a list. With `param_deriv` a tuple
        of this and a dictionary of the derivatives with respect to the parameters of the static kernel by name.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.

    See Also
    --------
    dilation : The value.

    Notes
    -----
    A factor λ depends on its path through the bound c(λ, x) that is reached, the kernel of the path or of a prefix with
    itself: by the implicit function theorem :math:`d\log\lambda = -(\partial c/\partial x \cdot dx) / (\partial c /
    \partial \log\lambda)`. If no bound is reached, that is for constant paths and at depth 0, the gradient is 0.

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
        planar=planar,
    )
    result: PathsT1 = timed(_DILATION, times).backprop(derivs, spec, how, paths, lengths, param_deriv=param_deriv)
    return result
