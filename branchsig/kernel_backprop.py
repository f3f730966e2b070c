"""The backward of each function in `kernel.py`, in the same order, and both at once.

Derivatives of a scalar with respect to kernels come in, with the paths the kernels are of; the derivatives with respect
to the paths go out, through the backend's adjoint, the normalisation and the transformations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Unpack

import numpy as np

from branchsig import _validation
from branchsig._arrays import Array, contiguous, lies_on_cpu, namespace_of
from branchsig._options import KernelOptions, Settings, gather, public
from branchsig._problems import as_given, gram_problem, grid_shape, paired_problem, stack_shape
from branchsig._progress import one_pass, reporting
from branchsig.backends import Backend, Problem, backend_for
from branchsig.dilation import dilated
from branchsig.kernel import values, with_rule
from branchsig.normalization import of_log_of_sum, of_sum, sides, unit_kernel_backprop
from branchsig.transforms import transformed_adjoint

__all__ = [
    "branched_sig_kernel_backprop",
    "branched_sig_kernel_gram_backprop",
    "branched_sig_kernel_gram_vjp",
    "branched_sig_kernel_vjp",
]

Gradients = tuple[Array | None, Array | None]


@public(KernelOptions)
def branched_sig_kernel_backprop(
    derivs: Array,
    path1: Array,
    path2: Array,
    depth: float | None = None,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    left_deriv: bool = True,
    right_deriv: bool = False,
    k_stack: Array | None = None,
    **options: Unpack[KernelOptions],
) -> Gradients:
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
    <depth>
    <dyadic_order>
    <options>
    <left_deriv>
    <right_deriv>
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
    <errors>

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
    settings = gather(depth, dyadic_order, options)
    left, right = _sides(left_deriv, right_deriv)
    problem, batch = paired_problem(path1, path2, settings)
    stack = _checked_stack(k_stack, problem, batch, settings)
    derivs = _checked_derivs(derivs, problem, batch, settings)
    problem = with_rule(problem, batch, settings)
    d_path1, d_path2 = _gradients(problem, derivs, settings, left=left, right=right, k_stack=stack)
    return _as_path(d_path1, path1, settings), _as_path(d_path2, path2, settings)


@public(KernelOptions)
def branched_sig_kernel_gram_backprop(
    derivs: Array,
    path1: Array,
    path2: Array | None,
    depth: float | None = None,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    left_deriv: bool = True,
    right_deriv: bool = False,
    k_stack: Array | None = None,
    max_batch: int = -1,
    progress: bool | Callable[[int, int], None] = False,
    devices: Iterable[int] | None = None,
    **options: Unpack[KernelOptions],
) -> Gradients:
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
    <depth>
    <dyadic_order>
    <options>
    <left_deriv>
    <right_deriv>
    k_stack : array, shape (*batch1, *batch2, depth + 1, grid1, grid2), optional
        The result of `branched_sig_kernel_stack` for the paths of all pairs and the same options. With it nothing is
        solved for again. Not with `GaussLobatto`, which needs values that the stack does not hold.
    <max_batch>
    <progress>
    <devices>

    Returns
    -------
    tuple of array or None
        The derivatives of the scalar with respect to `path1`, shape ``(*batch1, length1, dimension)``, and to `path2`,
        shape ``(*batch2, length2, dimension)``; None for a side that is not asked for. For a list of paths a list of
        arrays, one for each. With ``path2=None`` the matrix is a function of `path1` alone and the first is its whole
        gradient. With `path1` given twice they are those of its two places, and the gradient is their sum.

    Raises
    ------
    <errors>
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
    settings = gather(depth, dyadic_order, options)
    left, right = _sides(left_deriv, right_deriv)
    if path2 is None and right:
        raise ValueError(
            "right_deriv is True and path2 is None: the Gram matrix is a function of path1 alone, and left_deriv asks "
            "for its whole gradient. Leave right_deriv out, or pass path1 as path2 for the gradients of its two places"
        )
    with reporting(progress) as report:
        triangle = not settings.return_grid and k_stack is None
        problem, batch = gram_problem(path1, path2, settings, max_batch, report, devices, triangle=triangle)
        stack = _checked_stack(k_stack, problem, batch, settings)
        derivs = _checked_derivs(derivs, problem, batch, settings)
        problem = with_rule(problem, batch, settings)
        total = left and path2 is None
        d_path1, d_path2 = _gradients(problem, derivs, settings, left=left, right=right, total=total, k_stack=stack)
    return _as_path(d_path1, path1, settings), _as_path(d_path2, path2, settings)


@public(KernelOptions)
def branched_sig_kernel_vjp(
    path1: Array,
    path2: Array,
    depth: float | None = None,
    dyadic_order: int | tuple[int, int] = 0,
    **options: Unpack[KernelOptions],
) -> tuple[Array, Callable[[Array], Gradients]]:
    """Branched signature kernels of pairs of paths, and the function that takes derivatives back to the paths.

    Parameters
    ----------
    path1 : array, shape (*batch, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
    path2 : array, shape (*batch, length2, dimension)
        Second paths, with the library, dtype, device, batch shape and dimension of `path1`.
    <depth>
    <dyadic_order>
    <options>

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
    <errors>
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
    settings = gather(depth, dyadic_order, options)
    problem, batch = paired_problem(path1, path2, settings)
    value, solved = values(problem, batch, settings)

    def pullback(derivs: Array) -> Gradients:
        checked = _checked_derivs(derivs, problem, batch, settings)
        d_path1, d_path2 = _gradients(solved, checked, settings, left=True, right=True)
        return _as_path(d_path1, path1, settings), _as_path(d_path2, path2, settings)

    return value, pullback


@public(KernelOptions)
def branched_sig_kernel_gram_vjp(
    path1: Array,
    path2: Array | None,
    depth: float | None = None,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    max_batch: int = -1,
    progress: bool | Callable[[int, int], None] = False,
    devices: Iterable[int] | None = None,
    **options: Unpack[KernelOptions],
) -> tuple[Array, Callable[[Array], Gradients]]:
    """Gram matrix of branched signature kernels, and the function that takes derivatives back to the paths.

    Parameters
    ----------
    path1 : array, shape (*batch1, length1, dimension)
        First paths, of any library of the array API standard, float32 or float64, or a list of paths of any lengths.
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
    value : array, shape (*batch1, *batch2)
        What `branched_sig_kernel_gram` returns.
    pullback : callable
        ``pullback(derivs)`` takes derivatives of a scalar with respect to `value` and returns those with respect to
        `path1` and `path2`, lists for lists; with ``path2=None`` the whole gradient and None. It may be called any
        number of times, and reads the paths again: do not write to them before. Of all else, lengths too, it has
        copies.

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
    settings = gather(depth, dyadic_order, options)
    total = path2 is None
    with reporting(progress) as report:
        triangle = not settings.return_grid
        problem, batch = gram_problem(path1, path2, settings, max_batch, report, devices, triangle=triangle)
        value, solved = values(problem, batch, settings)

    def pullback(derivs: Array) -> Gradients:
        checked = _checked_derivs(derivs, problem, batch, settings)
        with reporting(progress) as report:
            again = dataclasses.replace(solved, progress=report)
            d_path1, d_path2 = _gradients(again, checked, settings, left=True, right=not total, total=total)
        return _as_path(d_path1, path1, settings), _as_path(d_path2, path2, settings)

    return value, pullback


def _sides(left_deriv: Any, right_deriv: Any) -> tuple[bool, bool]:
    return _validation.flag(left_deriv, "left_deriv"), _validation.flag(right_deriv, "right_deriv")


def _checked_derivs(derivs: Any, problem: Problem, batch: tuple[int, ...], settings: Settings) -> Array:
    """Check derivatives of the result, and return them with one axis for every axis of pairs of the problem."""
    shape = grid_shape(problem, batch) if settings.return_grid else batch
    if settings.return_levels:
        shape = (*shape, settings.order + 1)  # type: ignore[operator]
    derivs = _validation.same_shape(derivs, "derivs", shape, problem.path1, "path1")
    _validation.values_at_hand(derivs, "derivs", problem.depth, problem.order, None)
    return _with_pairs(derivs, problem, batch)


def _checked_stack(k_stack: Any, problem: Problem, batch: tuple[int, ...], settings: Settings) -> Array | None:
    """Check a stack of grids, and return it with one axis for every axis of pairs of the problem."""
    if k_stack is None:
        return None
    if settings.normalize:
        raise ValueError(
            f"normalize={settings.normalize!r} with k_stack: the stack holds no kernel of a path with itself. "
            "Leave k_stack out, or differentiate without normalize"
        )
    if settings.rtol is not None:
        raise ValueError(
            f"rtol is {settings.rtol:g} with k_stack: a stack holds the values of one rule, and a tolerance finds the "
            "rule by itself. Leave one of them out"
        )
    if problem.order is not None:
        raise ValueError("k_stack with order: a stack holds kernels by depth, not by order. Leave one of them out")
    if problem.quadrature.p > 1:
        raise ValueError(
            f"k_stack with quadrature={settings.quadrature!r}: a stack holds values at the corners of the cells, and "
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
    settings: Settings,
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
    if settings.normalize == "dilation":
        scaled = dilated(problem)
        plain = dataclasses.replace(settings, normalize=False)
        # One stack with two lists of factors, for unequal dyadic orders, has a way back for each.
        apart = total and not scaled.problem.itself
        gradients = _gradients(
            scaled.problem, scaled.derivs(derivs), plain, left=left, right=right or apart, total=total and not apart
        )
        return sides(*scaled.adjoint(*gradients), total=apart)
    backend = backend_for(problem)
    with np.errstate(all="ignore"):
        if settings.normalize:
            return unit_kernel_backprop(backend, problem, derivs, log=settings.log, left=left, right=right, total=total)
        if problem.order is not None and not settings.return_levels:
            problem = dataclasses.replace(problem, purpose="log" if settings.log else "kernel")
            derivs = _parts_derivs(backend, one_pass(problem, 0, 2), derivs, settings)
            problem = one_pass(problem, 1, 2) if settings.log else problem
        if problem.pairing == "symmetric":
            return _symmetric_gradients(backend, problem, derivs, settings, left=left, right=right, total=total)
        d_path1, d_path2 = backend.gradients(
            problem, derivs, wrt_log=settings.log, left=left, right=right or total, k_stack=k_stack
        )
    return sides(d_path1, d_path2, total=total)


def _parts_derivs(backend: Backend, problem: Problem, derivs: Array, settings: Settings) -> Array:
    """Derivatives with respect to k_0..k_order, from those with respect to their sum or its logarithm."""
    if settings.log:
        return of_log_of_sum(derivs, problem, backend.parts(problem, grid=settings.return_grid))
    return of_sum(derivs, problem)


def _symmetric_gradients(
    backend: Backend, problem: Problem, derivs: Array, settings: Settings, *, left: bool, right: bool, total: bool
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
        result, _ = backend.gradients(
            one_pass(problem, index, passes), weights, wrt_log=settings.log, left=True, right=False
        )
        return result

    if total:
        return gradient(derivs + transposed, 0), None
    if same:
        both = gradient(derivs, 0)
        return both, xp.asarray(both, copy=True)
    return (
        gradient(derivs, 0) if left else None,
        gradient(contiguous(transposed), passes - 1) if right else None,
    )


def _as_path(gradient: Array | None, path: Array, settings: Settings) -> Array | None:
    """Take a gradient through the transformations, back to the shape of the path."""
    if gradient is None:
        return None
    if settings.time_aug or settings.lead_lag:
        gradient = transformed_adjoint(gradient, settings.time_aug, settings.lead_lag)
    return as_given(gradient, path)
