"""The stages between the paths and a value, outermost first: dilate, normalise, sum over nodes, solve.

A stage holds the stage below it. It maps a `Problem` to values with one axis of pairs for each stack of paths, and
derivatives with respect to those values to gradients with respect to the paths of the problem.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple, Protocol

from branchsig._arrays import Array
from branchsig.backends import Gradients, Problem, Wrt
from branchsig.spec import Spec

Kept = dict[str, Array]
"""Arrays that a forward keeps for its backward, by name; each has the size of the pairs or of the paths."""

Output = Literal["kernel", "log", "less one", "components"]
"""The requested values: K, log K, K − 1 with all its digits, or the components of K by number of nodes."""


class Shape(NamedTuple):
    """Shape and dtype of an array."""

    shape: tuple[int, ...]
    dtype: str = "float64"


class Geometry(NamedTuple):
    """The sizes of a problem that determine the shapes of kept arrays."""

    pairs: tuple[int, ...]
    """Shape of the pairs: (n1,) or (n1, n2)."""
    nodes: tuple[int, ...]
    """Axes of a value after those of the pairs."""
    paths: tuple[int, ...]
    """Numbers of paths of both stacks, or of the only stack if both are the same, dyadic orders included."""
    dtype: str
    """dtype of the paths."""


class Stage(Protocol):
    """The interface of a stage."""

    @property
    def keeps(self) -> bool:
        """Whether the adjoint needs residuals of the forward."""

    def of_paths(self, problem: Problem) -> Kept:
        """Return what the forward computes for each path alone; the problem has one stack in both places.

        Arrays over the paths, whose names end in 1, the number of the stack. A Gram matrix in blocks computes them once
        for each path and hands slices of them to the forward of each block.
        """

    def forward(
        self, problem: Problem, *, keep: bool, before: Kept | None = None, of_paths: Kept | None = None
    ) -> tuple[Array, Kept]:
        """Return the values and, with `keep`, the arrays that the adjoint needs.

        `before` holds the arrays kept for the same paths by another rule; a search may start from them. `of_paths`
        holds what is computed for each path alone, with names that end in the number of the stack.
        """

    def residuals(self, problem: Problem) -> Kept:
        """Return what the adjoint needs, without the rest of the forward."""

    def adjoint(self, problem: Problem, kept: Kept, derivs: Array, wrt: Wrt, *, total: bool = False) -> Gradients:
        """Return the gradients with respect to the paths, and to the parameters, summed over all pairs.

        With `total`, if one stack is both arguments, the first gradient is the total one.
        """

    def kept_shapes(self, geometry: Geometry) -> dict[str, Shape]:
        """Return the shapes of what `forward` keeps."""

    @property
    def residual_share(self) -> float:
        """The approximate share of the residuals in the work of a gradient, for progress reports."""


def stage_for(spec: Spec) -> Stage:
    """Return the outermost stage for a value of the kernel."""
    output: Output = "components" if spec.return_levels else "log" if spec.log else "kernel"
    return stage_of(spec.normalize, spec.signed, output, spec.return_grid)


@functools.cache
def stage_of(normalize: bool | str, signed: bool, output: Output, grid: bool) -> Stage:
    """Return the outermost stage for these options."""
    from branchsig.operations.dilate import Dilate
    from branchsig.operations.nodes import SumOverNodes
    from branchsig.operations.solve import Solve
    from branchsig.operations.unit import UnitNorm

    if normalize == "dilation":
        return Dilate(stage_of(False, signed, output, grid))
    if normalize:
        return UnitNorm(output, signed)
    if signed and output != "components":
        return SumOverNodes(output, "grid" if grid else "end")
    return Solve(output, "grid" if grid else "end")
