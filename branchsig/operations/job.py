"""An operation on operands that are checked and transformed: what is handed from stage to stage."""

from __future__ import annotations

import dataclasses

from branchsig.backends import Problem
from branchsig.operations.inputs import Given
from branchsig.spec import Execution, Spec

__all__ = ["Job"]


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """An operation on operands that are checked and transformed."""

    spec: Spec
    how: Execution
    problem: Problem
    batch: tuple[int, ...]
    """Shape of the value, but for axes of grids, depths and numbers of nodes."""
    origins: tuple[Given, ...]
    """The first and second paths as they were given, or those that stand in both places."""

    @property
    def total(self) -> bool:
        """Whether one argument stands in both places of all pairs, so that its gradient is that of both."""
        return len(self.origins) == 1

    def on(self, problem: Problem) -> Job:
        """The same with another problem."""
        return dataclasses.replace(self, problem=problem)

    def given(self) -> tuple[Given, ...]:
        """The paths as they were given, the second ones only where they are not the first."""
        return self.origins[:1] if self.problem.itself else self.origins

    def as_passed(self) -> tuple[Given, ...]:
        """Return the paths as the caller passed them, without the channel of times that joined them."""
        if not self.spec.transforms.times:
            return self.given()
        return tuple(given._replace(path=given.path[:, :, :-1]) for given in self.given())
