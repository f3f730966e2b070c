"""The innermost stage: values of the kernel by a backend, and their adjoint.

A symmetric Gram matrix is folded here: since k(x_i, x_j) = k(x_j, x_i), the gradient with respect to the second
argument for derivatives D is the gradient with respect to the first argument for Dᵀ.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from branchsig._arrays import Array, contiguous, in_float64, lies_on_cpu, namespace_of
from branchsig.backends import Gradients, Problem, Wrt, backend_for
from branchsig.operations.progress import one_pass
from branchsig.operations.stages import Geometry, Kept, Output, Shape

__all__ = ["Solve", "folded", "summed"]


@dataclasses.dataclass(frozen=True, slots=True)
class Solve:
    """K, its logarithm or its components, at the end of both paths or at every node. See `Stage` for the methods."""

    output: Output
    want: Literal["end", "grid"] = "end"

    keeps = False
    residual_share = 0.0

    def of_paths(self, problem: Problem) -> Kept:
        """Return nothing: kernels belong to pairs."""
        return {}

    def forward(
        self, problem: Problem, *, keep: bool, before: Kept | None = None, of_paths: Kept | None = None
    ) -> tuple[Array, Kept]:
        """Return the values; nothing is kept."""
        if self.output != "less one":
            return backend_for(problem).solve(problem, self.want, log=self.output == "log"), {}
        problem = dataclasses.replace(problem, purpose="kernel")
        log_k = in_float64(backend_for(problem).solve(problem, "end", log=True))
        return namespace_of(log_k).expm1(log_k), {}

    def residuals(self, problem: Problem) -> Kept:
        """Return nothing: the adjoint of a kernel sweeps by itself."""
        return {}

    def kept_shapes(self, geometry: Geometry) -> dict[str, Shape]:
        """Return nothing."""
        return {}

    def adjoint(self, problem: Problem, kept: Kept, derivs: Array, wrt: Wrt, *, total: bool = False) -> Gradients:
        """Return the gradients. `kept` may hold the grids of all depths as "stack"."""
        log = self.output == "log"
        if problem.pairing == "symmetric":
            if problem.order is None:
                derivs2 = namespace_of(derivs).permute_dims(derivs, (1, 0))
                return folded(problem, derivs, derivs2, wrt, log=log, total=total)
            problem = dataclasses.replace(problem, pairing="gram")
        places = wrt._replace(path2=wrt.path2 or (total and wrt.path1))
        backend = backend_for(problem)
        found = backend.adjoint(problem, self.want, derivs, places, log=log, stack=kept.get("stack"))
        return summed(found, problem.axes, total=total)


def folded(problem: Problem, derivs1: Array, derivs2: Array, wrt: Wrt, *, log: bool, total: bool) -> Gradients:
    """Gradients of a symmetric Gram matrix, for derivatives of k(x_i, x_j) with respect to x_i, and to x_j.

    ``derivs2[j, i]`` belongs to the pair (i, j). The parameters use `derivs1` or, if only the second gradient is
    requested, `derivs2`.
    """
    backend, xp = backend_for(problem), namespace_of(derivs1)
    both = wrt.path1 and wrt.path2 and not total
    # Equal derivatives need one pass, but comparing them on a CUDA device would synchronise; traced ones have no
    # values.
    same = both and lies_on_cpu(derivs1) and bool(xp.all(derivs1 == derivs2))
    passes = 2 if both and not same else 1

    def gradient(weights: Array, index: int, parameters: bool) -> Gradients:
        asked = Wrt(wrt.path1 or wrt.path2, False, parameters)
        return backend.adjoint(one_pass(problem, index, passes), "end", contiguous(weights), asked, log=log)

    if total:
        found = summed(gradient(derivs1 + derivs2, 0, wrt.parameters), 2, total=False)
        # Both arguments of all pairs are summed, so the parameters are counted twice.
        parameters = None if found.parameters is None else 0.5 * found.parameters
        return Gradients(found.path1 if wrt.path1 else None, None, parameters)
    if not wrt.path1 and wrt.path2:
        found = summed(gradient(derivs2, 0, wrt.parameters), 2, total=False)
        return Gradients(None, found.path1, found.parameters)
    found = summed(gradient(derivs1, 0, wrt.parameters), 2, total=False)
    if not both:
        return found
    if same:
        return found._replace(path2=xp.asarray(found.path1, copy=True))
    return found._replace(path2=gradient(derivs2, passes - 1, False).path1)


def summed(found: Gradients, axes: int, *, total: bool) -> Gradients:
    """Sum the gradients of parameters over the pairs and, with `total`, add the gradients of both arguments."""
    if found.parameters is not None:
        xp = namespace_of(found.parameters)
        found = found._replace(parameters=xp.sum(found.parameters, axis=tuple(range(axes))))
    if total and found.path1 is not None and found.path2 is not None:
        return found._replace(path1=found.path1 + found.path2, path2=None)
    return found
