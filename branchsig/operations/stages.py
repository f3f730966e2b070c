"""The stages between the paths and a value, outermost first: dilate, normalise, sum over nodes, solve.

A stage is made for what is asked for, and holds the one below it. It takes a `Problem` to values of one axis of pairs
for each stack of paths, and derivatives with respect to those values back to the paths of the problem.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple, Protocol

from branchsig._arrays import Array
from branchsig.backends import Gradients, Problem, Wrt
from branchsig.spec import Spec

Kept = dict[str, Array]
"""What a forward keeps for its backward, by name: arrays of the size of the pairs or of the paths."""

Output = Literal["kernel", "log", "less one", "components"]
"""What is asked for: K, log K, K − 1 with all its digits, or the components of K by number of nodes."""


class Shape(NamedTuple):
    """An array without its values."""

    shape: tuple[int, ...]
    dtype: str = "float64"


class Geometry(NamedTuple):
    """What of a problem decides the shapes of what is kept."""

    pairs: tuple[int, ...]
    """Shape of the pairs: (n1,) or (n1, n2)."""
    nodes: tuple[int, ...]
    """Axes of a value behind those of the pairs."""
    paths: tuple[int, ...]
    """Numbers of paths: of both stacks, or of the only one where both are the same, dyadic orders included."""
    dtype: str
    """That of the paths."""


class Stage(Protocol):
    """What every stage offers."""

    @property
    def keeps(self) -> bool:
        """Whether the adjoint needs anything of the forward; where not, nobody asks for its residuals."""

    def of_paths(self, problem: Problem) -> Kept:
        """Return what the forward finds out about every path alone, for one stack in both places.

        Arrays over the paths, whose names end in 1, the number of the stack. For a Gram matrix in blocks they are found
        once for each path, and parts of them are handed to the forward of each block.
        """

    def forward(
        self, problem: Problem, *, keep: bool, before: Kept | None = None, of_paths: Kept | None = None
    ) -> tuple[Array, Kept]:
        """Return values and, if asked to `keep` it, what the adjoint needs.

        `before` is what was kept for the same paths by another rule, which a search may start from. `of_paths` is what
        is known about every path already, with names that end in the number of its stack.
        """

    def residuals(self, problem: Problem) -> Kept:
        """Return what the adjoint needs, by no more of the forward than that takes."""

    def adjoint(self, problem: Problem, kept: Kept, derivs: Array, wrt: Wrt, *, total: bool = False) -> Gradients:
        """Return the gradients with respect to the paths, and those with respect to parameters, summed over all pairs.

        With `total`, for one stack of paths in both places, the first gradient is that of both.
        """

    def kept_shapes(self, geometry: Geometry) -> dict[str, Shape]:
        """Return the shapes of what `forward` keeps."""

    @property
    def residual_share(self) -> float:
        """Which part of the work of a gradient the residuals are, roughly, for reports of progress."""


def stage_for(spec: Spec) -> Stage:
    """Return the outermost stage for a value of the kernel."""
    output: Output = "components" if spec.return_levels else "log" if spec.log else "kernel"
    return stage_of(spec.normalize, spec.truncation.order is not None, output, spec.return_grid)


@functools.cache
def stage_of(normalize: bool | str, by_nodes: bool, output: Output, grid: bool) -> Stage:
    """Return the outermost stage for the options that decide it."""
    from branchsig.operations.dilate import Dilate
    from branchsig.operations.nodes import SumOverNodes
    from branchsig.operations.solve import Solve
    from branchsig.operations.unit import UnitNorm

    if normalize == "dilation":
        return Dilate(stage_of(False, by_nodes, output, grid))
    if normalize:
        return UnitNorm(output, by_nodes)
    if by_nodes and output != "components":
        return SumOverNodes(output, "grid" if grid else "end")
    return Solve(output, "grid" if grid else "end")
