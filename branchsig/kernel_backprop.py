"""The backward of each function in `kernel.py`, in the same order, and both at once.

Derivatives of a scalar with respect to kernels come in, with the paths the kernels are of; the derivatives with respect to the
paths go out, through the backend's adjoint, the normalisation and the transformations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from branchsig import _validation
from branchsig._arrays import Array, namespace_of
from branchsig._options import KernelOptions, Settings, gather, public
from branchsig._progress import reporting
from branchsig.backends import Problem, backend_for
from branchsig.kernel import gram_problem, grid_shape, paired_problem, stack_shape, values
from branchsig.normalization import unit_kernel_backprop
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
    depth: int,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    left_deriv: bool = True,
    right_deriv: bool = False,
    k_stack: Array | None = None,
    **options: Unpack[KernelOptions],
) -> Gradients:
    settings = gather(depth, dyadic_order, options)
    left, right = _sides(left_deriv, right_deriv)
    problem, batch = paired_problem(path1, path2, settings)
    stack = _checked_stack(k_stack, problem, batch, settings)
    derivs = _checked_derivs(derivs, problem, batch, settings)
    d_path1, d_path2 = _gradients(problem, derivs, settings, left=left, right=right, k_stack=stack)
    return _as_path(d_path1, path1, settings), _as_path(d_path2, path2, settings)


@public(KernelOptions)
def branched_sig_kernel_gram_backprop(
    derivs: Array,
    path1: Array,
    path2: Array | None,
    depth: int,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    left_deriv: bool = True,
    right_deriv: bool = False,
    k_stack: Array | None = None,
    max_batch: int = -1,
    progress: bool | Callable[[int, int], None] = False,
    **options: Unpack[KernelOptions],
) -> Gradients:
    settings = gather(depth, dyadic_order, options)
    left, right = _sides(left_deriv, right_deriv)
    if path2 is None and right:
        raise ValueError(
            "right_deriv is True and path2 is None: the Gram matrix is a function of path1 alone, and left_deriv asks for its "
            "whole gradient. Leave right_deriv out, or pass path1 as path2 for the gradients of its two places"
        )
    with reporting(progress) as report:
        triangle = not settings.return_grid and k_stack is None
        problem, batch = gram_problem(path1, path2, settings, max_batch, report, triangle=triangle)
        stack = _checked_stack(k_stack, problem, batch, settings)
        derivs = _checked_derivs(derivs, problem, batch, settings)
        total = left and path2 is None
        d_path1, d_path2 = _gradients(problem, derivs, settings, left=left, right=right, total=total, k_stack=stack)
    return _as_path(d_path1, path1, settings), _as_path(d_path2, path2, settings)


@public(KernelOptions)
def branched_sig_kernel_vjp(
    path1: Array,
    path2: Array,
    depth: int,
    dyadic_order: int | tuple[int, int] = 0,
    **options: Unpack[KernelOptions],
) -> tuple[Array, Callable[[Array], Gradients]]:
    settings = gather(depth, dyadic_order, options)
    problem, batch = paired_problem(path1, path2, settings)

    def pullback(derivs: Array) -> Gradients:
        checked = _checked_derivs(derivs, problem, batch, settings)
        d_path1, d_path2 = _gradients(problem, checked, settings, left=True, right=True)
        return _as_path(d_path1, path1, settings), _as_path(d_path2, path2, settings)

    return values(problem, batch, settings), pullback


@public(KernelOptions)
def branched_sig_kernel_gram_vjp(
    path1: Array,
    path2: Array | None,
    depth: int,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    max_batch: int = -1,
    progress: bool | Callable[[int, int], None] = False,
    **options: Unpack[KernelOptions],
) -> tuple[Array, Callable[[Array], Gradients]]:
    settings = gather(depth, dyadic_order, options)
    total = path2 is None

    def prepared(report: Any) -> tuple[Problem, tuple[int, ...]]:
        return gram_problem(path1, path2, settings, max_batch, report, triangle=not settings.return_grid)

    def pullback(derivs: Array) -> Gradients:
        with reporting(progress) as report:
            problem, batch = prepared(report)
            checked = _checked_derivs(derivs, problem, batch, settings)
            d_path1, d_path2 = _gradients(problem, checked, settings, left=True, right=not total, total=total)
        return _as_path(d_path1, path1, settings), _as_path(d_path2, path2, settings)

    with reporting(progress) as report:
        return values(*prepared(report), settings), pullback


def _sides(left_deriv: Any, right_deriv: Any) -> tuple[bool, bool]:
    return _validation.flag(left_deriv, "left_deriv"), _validation.flag(right_deriv, "right_deriv")


def _checked_derivs(derivs: Any, problem: Problem, batch: tuple[int, ...], settings: Settings) -> Array:
    """Check derivatives of the result, and return them with one axis for every axis of pairs of the problem."""
    shape = grid_shape(problem, batch) if settings.return_grid else batch
    derivs = _validation.same_shape(derivs, "derivs", shape, problem.path1, "path1")
    return _with_pairs(derivs, problem, batch)


def _checked_stack(k_stack: Any, problem: Problem, batch: tuple[int, ...], settings: Settings) -> Array | None:
    """Check a stack of grids, and return it with one axis for every axis of pairs of the problem."""
    if k_stack is None:
        return None
    if settings.normalize:
        raise ValueError(
            "normalize=True with k_stack: the stack holds no kernel of a path with itself. "
            "Leave k_stack out, or differentiate without normalize"
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

    With `total`, for a Gram matrix of one stack of paths with itself, the left gradient is that with respect to both places.
    """
    if not (left or right):
        return None, None
    backend = backend_for(problem.path1)
    if settings.normalize:
        return unit_kernel_backprop(backend, problem, derivs, left=left, right=right, total=total)
    if problem.pairing == "symmetric":
        return _symmetric_gradients(problem, derivs, left=left, right=right, total=total)
    d_path1, d_path2 = backend.gradients(
        problem, derivs, wrt_log=False, left=left, right=right or total, k_stack=k_stack
    )
    return (d_path1 + d_path2, None) if total else (d_path1, d_path2)


def _symmetric_gradients(problem: Problem, derivs: Array, *, left: bool, right: bool, total: bool) -> Gradients:
    """Gradients of a symmetric Gram matrix: k(x_i, x_j) = k(x_j, x_i), so the right gradient of D is the left one of Dᵀ."""
    backend = backend_for(problem.path1)

    def gradient(weights: Array) -> Array:
        result, _ = backend.gradients(problem, weights, wrt_log=False, left=True, right=False)
        return result

    xp = namespace_of(derivs)
    if total:
        return gradient(derivs + xp.permute_dims(derivs, (1, 0))), None
    transposed = _validation.contiguous(xp.permute_dims(derivs, (1, 0))) if right else None
    return gradient(derivs) if left else None, gradient(transposed) if right else None


def _as_path(gradient: Array | None, path: Array, settings: Settings) -> Array | None:
    """Take a gradient through the transformations, back to the shape of the path."""
    if gradient is None:
        return None
    if settings.time_aug or settings.lead_lag:
        gradient = transformed_adjoint(gradient, settings.time_aug, settings.lead_lag)
    shape = tuple(path.shape)
    return gradient if gradient.shape == shape else namespace_of(gradient).reshape(gradient, shape)
