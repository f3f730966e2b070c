"""A `Job`: the checked and transformed operands of an operation, with its options."""

from __future__ import annotations

import dataclasses

from branchsig.backends import Problem
from branchsig.operations.inputs import Given
from branchsig.spec import Execution, Spec

__all__ = ["Job"]


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """Checked and transformed operands of an operation, with its options."""

    spec: Spec
    how: Execution
    problem: Problem
    batch: tuple[int, ...]
    """Shape of the value, without axes of grids, depths and numbers of nodes."""
    origins: tuple[Given, ...]
    """The first and second paths as given, or the only paths if they are both."""

    @property
    def total(self) -> bool:
        """Whether one argument is both paths of all pairs, so that its gradient is the total one."""
        return len(self.origins) == 1

    def on(self, problem: Problem) -> Job:
        """Return the job with another problem."""
        return dataclasses.replace(self, problem=problem)

    def given(self) -> tuple[Given, ...]:
        """The paths as given; the second ones only if they are not the first."""
        return self.origins[:1] if self.problem.itself else self.origins

    def as_passed(self) -> tuple[Given, ...]:
        """Return the paths as the caller passed them, without the channel of times that joined them."""
        if not self.spec.transforms.times:
            return self.given()
        return tuple(given._replace(path=given.path[:, :, :-1]) for given in self.given())
