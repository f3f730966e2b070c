"""Kernels that need not be positive, or their logarithms, and their adjoint.

Those truncated by the number of nodes come as components, and those over ordered forests by depth as K - 1: both leave
out the forest without nodes, so that kernels near 1 and their logarithms keep their digits.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from branchsig._arrays import Array, namespace_of, weighted
from branchsig.backends import Gradients, Problem, Wrt, backend_for
from branchsig.operations.solve import Solve
from branchsig.operations.stages import Geometry, Kept, Output, Shape

__all__ = ["SumOverNodes", "less_one_of", "of_log_of_sum", "of_sum"]


@dataclasses.dataclass(frozen=True, slots=True)
class SumOverNodes:
    """K from its components or from K - 1, or the logarithm of K. See `Stage` for the methods."""

    output: Output
    want: Literal["end", "grid"] = "end"

    def of_paths(self, problem: Problem) -> Kept:
        """Return nothing: kernels belong to pairs."""
        return {}

    def forward(
        self, problem: Problem, *, keep: bool, before: Kept | None = None, of_paths: Kept | None = None
    ) -> tuple[Array, Kept]:
        """Return the values. With `keep`, a logarithm keeps the kernels for its adjoint."""
        problem = self._judged(problem)
        found = backend_for(problem).solve(problem, self.want)
        xp = namespace_of(found)
        if self.output == "log":
            less_one = less_one_of(found, problem.order)
            value = xp.where(less_one > -1.0, xp.log1p(less_one), xp.full_like(less_one, math.nan))
            return value, {"total": 1.0 + less_one} if keep else {}
        if self.output == "less one":
            return less_one_of(found, problem.order), {}
        return (1.0 + found if problem.order is None else xp.sum(found, axis=-1)), {}

    @property
    def keeps(self) -> bool:
        """A logarithm keeps the kernels."""
        return self.output == "log"

    @property
    def residual_share(self) -> float:
        """The kernels take one solve."""
        return 0.5 if self.keeps else 0.0

    def residuals(self, problem: Problem) -> Kept:
        """Return the kernels."""
        return self.forward(problem, keep=True)[1]

    def kept_shapes(self, geometry: Geometry) -> dict[str, Shape]:
        """Return the shape of the kernels."""
        return {"total": Shape(geometry.pairs + geometry.nodes, geometry.dtype)} if self.output == "log" else {}

    def adjoint(self, problem: Problem, kept: Kept, derivs: Array, wrt: Wrt, *, total: bool = False) -> Gradients:
        """Return the gradients."""
        order = problem.order
        of_parts = of_log_of_sum(derivs, order, kept["total"]) if self.output == "log" else of_sum(derivs, order)
        return Solve("components", self.want).adjoint(self._judged(problem), kept, of_parts, wrt, total=total)

    def _judged(self, problem: Problem) -> Problem:
        """The problem, whose parts must have the digits that their sum, or its logarithm, needs."""
        return dataclasses.replace(problem, purpose="log" if self.output == "log" else "kernel")


def less_one_of(found: Array, order: int | None) -> Array:
    """K - 1 from what a backend returns: the components k_0..k_order on a last axis or, without an order, K - 1."""
    return found if order is None else namespace_of(found).sum(found[..., 1:], axis=-1)


def of_sum(derivs: Array, order: int | None) -> Array:
    """Derivatives with respect to what a backend returns, from those with respect to K."""
    if order is None:
        return derivs
    xp = namespace_of(derivs)
    return 1.0 * xp.broadcast_to(derivs[..., None], (*derivs.shape, order + 1))  # a copy, not a view


def of_log_of_sum(derivs: Array, order: int | None, total: Array, *, signed: bool = False) -> Array:
    """Derivatives with respect to what a backend returns, from those with respect to log K; `total` is K.

    If K is negative there is no logarithm and no derivative, unless log |K| is meant (`signed`).
    """
    xp = namespace_of(derivs)
    usable = xp.isfinite(total) & (signed | (total >= 0))  # an infinite sum has no derivative either, rather than 0
    slope = xp.where(usable, 1.0 / total, xp.full_like(total, math.nan))
    return of_sum(weighted(derivs, slope), order)
