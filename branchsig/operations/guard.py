"""Factors of dilation that need neither a search nor a depth, and their adjoint.

With the 1-variation a of a path in the feature space of κ, every quadrature rule gives log K ≤ t at every depth for
λ² a² = t e^{−t}, t ≤ 1.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from branchsig._arrays import Array, device_of, filled, host, namespace_of, unrecorded
from branchsig.backends import Gradients, Problem, Wrt
from branchsig.operations.factors import Sizes, as_array, centred, workable
from branchsig.static_kernels import Context, gradient_parameters, gradient_x, gradient_y, increments

__all__ = ["adjoint", "factors"]


def factors(problem: Problem, target: float) -> Array:
    """Return factors that bound all logarithms by the target at every depth; 1 for constant paths."""
    self_pairs, units = centred(_working(problem))
    return as_array(Sizes.of(self_pairs).guard(target) * units, self_pairs.path1)


def _working(problem: Problem) -> Problem:
    path = workable(unrecorded(problem.path1), problem.static_kernel)
    return dataclasses.replace(problem, path1=path, path2=path)


def adjoint(problem: Problem, target: float, derivs: Array, wrt: Wrt) -> Gradients:
    """Return the gradients with respect to the paths and parameters, from those with respect to the factors.

    λ = c / a with a = Σ √s_i over the squared steps s_i, so that dλ = −λ/a Σ ds_i / (2 √s_i). A step of length 0 is not
    differentiable and gets the gradient 0.
    """
    self_pairs, units = centred(_working(problem))
    path, kernel = filled(self_pairs.path1, self_pairs.lengths1), self_pairs.static_kernel
    xp, (paths, length, dimension) = namespace_of(path), path.shape
    gradient = xp.zeros_like(path)
    if length == 1:
        return Gradients(gradient)
    sizes = Sizes.of(self_pairs)
    roots = np.sqrt(sizes.steps)
    variation = np.sum(roots, axis=1)
    slope = host(derivs) * units * -sizes.guard(target) / np.where(variation > 0, variation, 1.0)
    weights = np.where(roots > 0, slope[:, None] * 0.5 / np.where(roots > 0, roots, 1.0), 0.0)
    ends = xp.reshape(xp.stack([path[:, :-1, :], path[:, 1:, :]], axis=2), (paths * (length - 1), 2, dimension))
    ctx = Context()
    increments(kernel, ctx, ends, ends)
    of_steps = as_array(np.reshape(weights, (-1, 1, 1)), path)
    both = gradient_x(kernel, ctx, of_steps, ends) + gradient_y(kernel, ctx, of_steps, ends)
    both = xp.reshape(both, (paths, length - 1, 2, dimension))
    zero = xp.zeros((paths, 1, dimension), dtype=path.dtype, device=device_of(path))
    gradient = xp.concat([both[:, :, 0, :], zero], axis=1) + xp.concat([zero, both[:, :, 1, :]], axis=1)
    gradient = gradient * as_array(units, path)[:, None, None]
    if self_pairs.lengths1 is not None:
        padding = np.arange(length) >= self_pairs.lengths1[:, None]
        gradient = xp.where(xp.asarray(padding[:, :, None], device=device_of(path)), xp.zeros_like(gradient), gradient)
    parameters = None
    if wrt.parameters:
        parameters = xp.sum(gradient_parameters(kernel, ctx, of_steps), axis=0)
    return Gradients(gradient, None, parameters)
