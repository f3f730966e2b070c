"""The branched signature kernel: of pairs of paths, of all pairs, at every node, and at every depth.

Paths come in; they are checked, transformed and handed to a backend as a `Problem`, and the logarithms or grids that
come back go out as kernels, normalised where that is asked for.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Unpack

import numpy as np

from branchsig import _validation
from branchsig._accuracy import refined
from branchsig._arrays import Array, all_finite, filled, lies_on_cpu, namespace_of
from branchsig._options import KernelOptions, Settings, StackOptions, gather, public
from branchsig._problems import gram_problem, grid_shape, paired_problem, stack_shape
from branchsig._progress import reporting
from branchsig.backends import Backend, Problem, backend_for
from branchsig.normalization import dilated, unit_kernel
from branchsig.static_kernels import LinearKernel, PolynomialKernel, ScaledLinearKernel

__all__ = ["branched_sig_kernel", "branched_sig_kernel_gram", "branched_sig_kernel_stack"]


@public(KernelOptions)
def branched_sig_kernel(
    path1: Array,
    path2: Array,
    depth: float,
    dyadic_order: int | tuple[int, int] = 0,
    **options: Unpack[KernelOptions],
) -> Array:
    r"""Branched signature kernels of pairs of paths.

    Parameters
    ----------
    path1 : array, shape (*batch, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64.
    path2 : array, shape (*batch, length2, dimension)
        Second paths, with the library, dtype, device, batch shape and dimension of `path1`.
    <depth>
    <dyadic_order>
    <options>

    Returns
    -------
    array, shape (*batch,)
        The kernels, with the library, dtype and device of the paths. With `return_grid` the kernels at every node,
        shape ``(*batch, grid1, grid2)``, where ``grid = (length - 1) * 2**order + 1`` after the transformations.

    Raises
    ------
    <errors>
    MemoryError
        If the grids would not fit in memory, before they are allocated.

    Warns
    -----
    RuntimeWarning
        Once, with their number, if values overflow: they are inf; or if the terms they are sums of cancel beyond the
        digits of a double, as they may where paths return: they are NaN. With ``depth=math.inf`` also if a cell was not
        solved within the iterations allowed, which gives NaN. And if no rule reaches `rtol`.

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
    settings = gather(depth, dyadic_order, options)
    problem, batch = paired_problem(path1, path2, settings)
    return values(problem, batch, settings)[0]


@public(KernelOptions)
def branched_sig_kernel_gram(
    path1: Array,
    path2: Array | None,
    depth: float,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    max_batch: int = -1,
    progress: bool | Callable[[int, int], None] = False,
    devices: Iterable[int] | None = None,
    **options: Unpack[KernelOptions],
) -> Array:
    """Gram matrix of branched signature kernels: all pairs of two batches of paths.

    Parameters
    ----------
    path1 : array, shape (*batch1, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64.
    path2 : array, shape (*batch2, length2, dimension), or None
        Second paths, with the library, dtype, device and dimension of `path1`. `None`, or `path1` itself, gives the
        symmetric Gram matrix of `path1`, for which one triangle is computed.
    <depth>
    <dyadic_order>
    <options>
    <max_batch>
    <progress>
    <devices>

    Returns
    -------
    array, shape (*batch1, *batch2)
        The kernels, with the library, dtype and device of the paths. With `return_grid` the kernels at every node,
        shape ``(*batch1, *batch2, grid1, grid2)``, where ``grid = (length - 1) * 2**order + 1`` after the
        transformations.

    Raises
    ------
    <errors>
    MemoryError
        If the grids would not fit in memory, before they are allocated.
    ImportError
        If a bar is asked for and tqdm is not installed.

    Warns
    -----
    RuntimeWarning
        Once, with their number, if values overflow, which are inf, or have lost their digits, which are NaN.

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
    settings = gather(depth, dyadic_order, options)
    with reporting(progress) as report:
        triangle = not settings.return_grid
        problem, batch = gram_problem(path1, path2, settings, max_batch, report, devices, triangle=triangle)
        return values(problem, batch, settings)[0]


@public(StackOptions)
def branched_sig_kernel_stack(
    path1: Array,
    path2: Array,
    depth: float,
    dyadic_order: int | tuple[int, int] = 0,
    **options: Unpack[StackOptions],
) -> Array:
    """Branched signature kernels of pairs of paths at every node and every depth.

    This is what the backward functions take as `k_stack`, so that they need not solve for it again.

    Parameters
    ----------
    path1 : array, shape (*batch, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64.
    path2 : array, shape (*batch, length2, dimension)
        Second paths, with the library, dtype, device, batch shape and dimension of `path1`.
    <depth>
    <dyadic_order>
    <options>

    Returns
    -------
    array, shape (*batch, depth + 1, grid1, grid2)
        The kernels of depth 0 to `depth` at every node, where ``grid = (length - 1) * 2**order + 1`` after the
        transformations.

    Raises
    ------
    <errors>
    MemoryError
        If the grids would not fit in memory, before they are allocated.

    Warns
    -----
    RuntimeWarning
        Once, with their number, if values overflow, which are inf, or have lost their digits, which are NaN.

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
    settings = gather(depth, dyadic_order, options, StackOptions)
    problem, batch = paired_problem(path1, path2, settings)
    shape = stack_shape(problem, batch)
    _validation.fits_memory(shape, problem.path1, "the stack", "take fewer pairs at a time, or leave k_stack out")
    stack = backend_for(problem).grid(problem, all_levels=True)
    _warn_of_overflow(stack, problem, settings, stacklevel=2)
    return namespace_of(stack).reshape(stack, shape)


def values(problem: Problem, batch: tuple[int, ...], settings: Settings) -> tuple[Array, Problem]:
    """Solve a problem for what the settings ask for, and warn of overflow; return the problem with its rule too."""
    if settings.rtol is None:
        result = _solved(backend_for(problem), problem, batch, settings)
    else:
        result, problem = refined(problem, settings, _solver(batch, settings), stacklevel=3)
    _warn_of_overflow(result, problem, settings, stacklevel=3)
    return result, problem


def with_rule(problem: Problem, batch: tuple[int, ...], settings: Settings) -> Problem:
    """Return the problem with the rule its values are computed with, for gradients without the values."""
    if settings.rtol is None:
        return problem
    silent = dataclasses.replace(problem, progress=None)
    _, found = refined(silent, settings, _solver(batch, settings), stacklevel=3)
    return dataclasses.replace(found, progress=problem.progress)


def _solver(batch: tuple[int, ...], settings: Settings) -> Callable[[Problem], Array]:
    """What solves a problem with whatever rule it has: which backend does depends on the rule."""
    return lambda problem: _solved(backend_for(problem), problem, batch, settings)


def _solved(backend: Backend, problem: Problem, batch: tuple[int, ...], settings: Settings) -> Array:
    """What the settings ask for, by the rule of the problem."""
    if settings.normalize == "dilation":
        problem = dilated(problem).problem
    shape = batch
    if settings.return_grid:
        shape = grid_shape(problem, batch)
        in_all = shape if problem.order is None else (*shape, problem.order + 1)
        _validation.fits_memory(in_all, problem.path1, "the grid", "take fewer pairs at a time or a lower dyadic order")
    with np.errstate(all="ignore"):
        if settings.normalize is True:
            result = unit_kernel(backend, problem, log=settings.log)
        elif problem.order is not None:
            purpose = None if settings.return_levels else "log" if settings.log else "kernel"
            result = backend.parts(dataclasses.replace(problem, purpose=purpose), grid=settings.return_grid)
            if settings.return_levels:
                shape = (*shape, problem.order + 1)
            else:
                xp = namespace_of(result)
                result = xp.sum(result, axis=-1)
                result = xp.log(result) if settings.log else result
        elif settings.return_grid:
            result = backend.grid(problem, all_levels=False)
        else:
            result = backend.log_kernel(problem) if settings.log else backend.kernel(problem)
    if problem.depth == math.inf and problem.order is None:
        result = _nan_where_paths_are(result, problem)
    return result if result.shape == shape else namespace_of(result).reshape(result, shape)


def _finite_pairs(problem: Problem, axes: int) -> Array:
    """Whether both paths of a pair are finite, for every pair, with so many axes."""
    xp = namespace_of(problem.path1)
    finite1 = xp.all(xp.isfinite(filled(problem.path1, problem.lengths1)), axis=(1, 2))
    finite2 = xp.all(xp.isfinite(filled(problem.path2, problem.lengths2)), axis=(1, 2))
    finite = finite1 & finite2 if problem.pairing == "paired" else finite1[:, None] & finite2[None, :]
    return xp.reshape(finite, (*finite.shape, *(1,) * (axes - finite.ndim)))


def _nan_where_paths_are(result: Array, problem: Problem) -> Array:
    """Without truncation what is not finite in a path looks like a kernel that blows up, but says nothing of it."""
    if lies_on_cpu(result) and all_finite(result):
        return result
    xp = namespace_of(result)
    known = xp.isfinite(result) | _finite_pairs(problem, result.ndim)
    return xp.where(known, result, xp.full_like(result, math.nan))


def _warn_of_overflow(result: Array, problem: Problem, settings: Settings, *, stacklevel: int) -> None:
    """Warn once, where this is to be checked, if values are not finite although the paths they belong to are."""
    checked = settings.check_finite
    # To look at the values of a CUDA device the host waits for it; those of a traced array are not there yet.
    if checked is False or (checked is None and not lies_on_cpu(result)):
        return
    if all_finite(result):
        return
    xp = namespace_of(result)
    expected = _finite_pairs(problem, result.ndim) & ~xp.isfinite(result)
    count = int(xp.sum(xp.astype(expected, xp.int64)))
    if count:
        undefined = int(xp.sum(xp.astype(expected & xp.isnan(result), xp.int64)))
        warnings.warn(
            f"{count} of {math.prod(result.shape)} values {_what_happened(problem, settings, count, undefined)}",
            RuntimeWarning,
            stacklevel=stacklevel + 1,
        )


def _what_happened(problem: Problem, settings: Settings, count: int, undefined: int) -> str:
    """Why `count` values are not finite, `undefined` of them NaN and the others infinite, and the ways out."""
    ways = [
        'take normalize="dilation", which scales every path for itself and never overflows',
        "scale the paths down",
        "use a bounded static kernel such as RBFKernel",
    ]
    if not isinstance(problem.static_kernel, (LinearKernel, ScaledLinearKernel, PolynomialKernel)):
        ways.pop()
    scale = ", ".join(ways[:-1]) + ", or " + ways[-1]
    scale = scale[0].upper() + scale[1:]
    if settings.normalize == "dilation":
        scale = (
            'With normalize="dilation" this is left to paths that return on a grid too coarse for them, to increments '
            "beyond the range of the dtype, and to a static_kernel that is not positive semi-definite"
        )
    if problem.order is not None and settings.log:
        return (
            "are NaN or infinite: a kernel truncated by the number of nodes need not be positive, and has no logarithm "
            "where it is not, or where its terms cancel beyond the digits of a double. Take log=False or a higher "
            "order. " + scale
        )
    if problem.depth == math.inf and problem.order is None:
        return (
            "are inf or NaN: the paths lie past the point where the kernel of unbounded depth blows up, or so close to "
            "it that the equation of a cell has no solution, or was not solved within the iterations allowed; there a "
            'rule of higher order (quadrature="lobatto4", or rtol=1e-6) helps, or a higher dyadic_order. ' + scale
        )
    if undefined == 0:
        return "overflowed and are inf: the branched signature kernel grows far faster than the paths do. " + scale
    cancel = (
        "the terms they are sums of cancel beyond the digits, or the range, of a double, as they do where paths return "
        "on their way"
    )
    if undefined == count:
        return f"lost all their digits and are NaN: {cancel}. {scale}"
    return (
        f"overflowed or lost all their digits: {count - undefined} are inf, for the branched signature kernel grows "
        f"far faster than the paths do, and {undefined} are NaN, for {cancel}. {scale}"
    )
