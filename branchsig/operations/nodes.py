"""The sum of the components by number of nodes, or its logarithm, and their adjoint."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from branchsig._arrays import Array, namespace_of, weighted
from branchsig.backends import Gradients, Problem, Wrt, backend_for
from branchsig.operations.solve import Solve
from branchsig.operations.stages import Geometry, Kept, Output, Shape

__all__ = ["SumOverNodes", "of_log_of_sum", "of_sum"]


@dataclasses.dataclass(frozen=True, slots=True)
class SumOverNodes:
    """K truncated by the number of nodes, or its logarithm. See `Stage` for the methods."""

    output: Output
    want: Literal["end", "grid"] = "end"

    def of_paths(self, problem: Problem) -> Kept:
        """Return nothing: kernels belong to pairs."""
        return {}

    def forward(
        self, problem: Problem, *, keep: bool, before: Kept | None = None, of_paths: Kept | None = None
    ) -> tuple[Array, Kept]:
        """Return the values. With `keep`, a logarithm keeps the sums for its adjoint."""
        problem = self._judged(problem)
        components = backend_for(problem).solve(problem, self.want)
        xp = namespace_of(components)
        # Leave k_0 = 1 out of the sum, so that kernels near 1 and their logarithms keep their digits.
        if self.output == "log":
            value = xp.log1p(xp.sum(components[..., 1:], axis=-1))
            return value, {"total": xp.sum(components, axis=-1)} if keep else {}
        return xp.sum(components[..., 1:] if self.output == "less one" else components, axis=-1), {}

    @property
    def keeps(self) -> bool:
        """A logarithm keeps the sums."""
        return self.output == "log"

    @property
    def residual_share(self) -> float:
        """The sums take one solve."""
        return 0.5 if self.keeps else 0.0

    def residuals(self, problem: Problem) -> Kept:
        """Return the sums."""
        return self.forward(problem, keep=True)[1]

    def kept_shapes(self, geometry: Geometry) -> dict[str, Shape]:
        """Return the shape of the sums."""
        return {"total": Shape(geometry.pairs + geometry.nodes, geometry.dtype)} if self.output == "log" else {}

    def adjoint(self, problem: Problem, kept: Kept, derivs: Array, wrt: Wrt, *, total: bool = False) -> Gradients:
        """Return the gradients."""
        order = int(problem.order or 0)
        by_nodes = of_log_of_sum(derivs, order, kept["total"]) if self.output == "log" else of_sum(derivs, order)
        return Solve("components", self.want).adjoint(self._judged(problem), {}, by_nodes, wrt, total=total)

    def _judged(self, problem: Problem) -> Problem:
        """The problem, whose components must have the digits that their sum, or its logarithm, needs."""
        return dataclasses.replace(problem, purpose="log" if self.output == "log" else "kernel")


def of_sum(derivs: Array, order: int) -> Array:
    """Derivatives with respect to k_0..k_order, from those with respect to their sum."""
    xp = namespace_of(derivs)
    return 1.0 * xp.broadcast_to(derivs[..., None], (*derivs.shape, order + 1))  # a copy, not a view


def of_log_of_sum(derivs: Array, order: int, total: Array, *, signed: bool = False) -> Array:
    """Derivatives with respect to k_0..k_order, from those with respect to the logarithm of their sum.

    If the sum is negative there is no logarithm and no derivative, unless log |K| is meant (`signed`).
    """
    xp = namespace_of(derivs)
    usable = xp.isfinite(total) & (signed | (total >= 0))  # an infinite sum has no derivative either, rather than 0
    slope = xp.where(usable, 1.0 / total, xp.full_like(total, math.nan))
    return of_sum(weighted(derivs, slope), order)
