"""Paths with what their kernels need of each path alone, for Gram matrices that meet them again and again.

Checked and transformed paths come with their factors of dilation, or the logarithms of their kernels with themselves,
and Gram matrices of two such stacks repeat none of the work that is done path by path.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from branchsig._arrays import Array, as_like, host
from branchsig.backends import Problem, Wrt, backend_for
from branchsig.operations import dilate, prepare
from branchsig.operations.complaints import complain, complaints_of
from branchsig.operations.factors import Floats, Indices, scaled_problem
from branchsig.operations.job import Job
from branchsig.operations.stages import stage_of
from branchsig.operations.unit import Logarithms, UnitNorm
from branchsig.spec import Execution, Spec
from branchsig.static_kernels import is_linear, parameters_of

__all__ = ["Known"]

_BATCH_BYTES = 2**26
"""Bytes of the paths of pairs whose derivatives are taken at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """Paths, and what their kernels need of each of them alone."""

    job: Job
    """The paths, each with itself, transformed."""
    dilation: dilate.Dilation | None = None
    norms: Logarithms | None = None
    """The kernels of the paths with themselves; found where they are needed."""

    @classmethod
    def of(cls, job: Job, *, keep: bool = False) -> Known:
        """Search for the factors of dilation of paths; `keep` also what their gradients need."""
        if job.spec.normalize != "dilation":
            return cls(job)
        with np.errstate(all="ignore"):
            return cls(job, dilate.dilation_of(job.problem, 0, keep=keep))

    @staticmethod
    def prepared(spec: Spec, how: Execution, paths: Any, lengths: Any = None) -> Job:
        """Check and transform paths."""
        return prepare.alone(spec, how, paths, lengths)

    def with_norms(self) -> Known:
        """The same with the kernels of the paths with themselves, where their norms are divided by."""
        if self.job.spec.normalize is not True or self.norms is not None:
            return self
        with np.errstate(all="ignore"):
            return dataclasses.replace(self, norms=Logarithms.of(self._quotients(self.job.problem)))

    @property
    def factors(self) -> Floats | None:
        """The factors of dilation, where there are any."""
        return None if self.dilation is None else host(self.dilation.all_factors)

    @property
    def problem(self) -> Problem:
        """The paths, each with itself, scaled by their factors."""
        problem = self.job.problem
        return problem if self.dilation is None else scaled_problem(problem, self.dilation.scaled)

    @staticmethod
    def _quotients(problem: Problem) -> Problem:
        return dataclasses.replace(problem, purpose="quotient")

    def gram(self, others: Known | None = None) -> tuple[Array, Known]:
        """Return the kernels with all other paths, or of all paths with each other, and these paths with their norms.

        Warns of values that are not finite.
        """
        spec, known = self.job.spec, self.with_norms() if others is not None else self
        problem = self._pairs(self.problem, None if others is None else others.problem)
        with np.errstate(all="ignore"):
            if spec.normalize is not True:
                output = "log" if spec.log else "kernel"
                stage = stage_of(False, spec.truncation.order is not None, output, False)
                value, _ = stage.forward(problem, keep=False)
            else:
                unit = UnitNorm("log" if spec.log else "kernel", spec.truncation.order is not None)
                if others is None and known.norms is None:
                    value, norms = unit.with_norms(problem)
                    known = dataclasses.replace(known, norms=norms)
                else:
                    columns = known if others is None else others.with_norms()
                    value = unit.between(problem, (known.norms, columns.norms))  # type: ignore[arg-type]
        value = as_like(value, self.job.problem.path1)
        origins = self.job.origins if others is None else self.job.origins + others.job.origins
        job = Job(spec, self.job.how, problem, tuple(value.shape), origins)
        complain(*complaints_of(value, job))
        return value, known

    @staticmethod
    def _pairs(rows: Problem, columns: Problem | None) -> Problem:
        if columns is None:
            return dataclasses.replace(rows, pairing="symmetric")
        return dataclasses.replace(rows, path2=columns.path1, lengths2=columns.lengths1, pairing="gram")

    def diagonal(self) -> Array:
        """Return the kernels of the paths with themselves."""
        spec, problem = self.job.spec, self.problem
        if spec.normalize is True:
            return np.zeros(problem.path1.shape[0]) if spec.log else np.ones(problem.path1.shape[0])
        with np.errstate(all="ignore"):
            output = "log" if spec.log else "kernel"
            value, _ = stage_of(False, spec.truncation.order is not None, output, False).forward(problem, keep=False)
        return value

    def with_derivatives(self) -> tuple[Array, Array]:
        """Return the kernels of all paths with each other, shape (n, n), and their derivatives with respect to the
        parameters of the static kernel, shape (n, n, parameters)."""
        value, known = self.gram()
        n, names = value.shape[0], parameters_of(self.job.spec.static_kernel)
        derivs = np.zeros((n, n, len(names)))
        if names and not (self.dilation is not None and is_linear(self.job.spec.static_kernel)):
            first, second = np.triu_indices(n)
            with np.errstate(all="ignore"):
                found = known._derivatives(value, first, second)
            derivs[first, second] = found
            derivs[second, first] = found
        return value, derivs

    def _derivatives(self, value: Array, first: Indices, second: Indices) -> Array:
        """Derivatives of the kernels of some pairs, among them each path with itself, with respect to parameters."""
        by_nodes = self.job.spec.truncation.order is not None
        norms: Any = self.norms if self.job.spec.normalize is True else None
        if norms is not None and not by_nodes:
            _, found = self._of_pairs(first, second, log=True)
            own = found[first == second]
            return value[first, second, None] * (found - 0.5 * (own[first] + own[second]))
        of_factors, found = self._of_pairs(first, second)
        if norms is not None:
            own = found[first == second] / norms.total[:, None]
            sizes = np.sqrt(norms.total[first] * norms.total[second])
            return found / sizes[:, None] - 0.5 * value[first, second, None] * (own[first] + own[second])
        if self.dilation is None:
            return found
        # A factor multiplies all increments of a pair, whichever of its two paths it belongs to.
        of_limit: Array
        _, slope, of_limit = self.dilation.of_limit(parameters=True)
        through = np.where(self.dilation.limits.found[:, None], -of_limit / slope[:, None], 0.0)
        return found + of_factors[:, None] * (through[first] + through[second])

    def _of_pairs(self, first: Indices, second: Indices, *, log: bool = False) -> tuple[Array, Array]:
        """Derivatives of the kernels of pairs, or their logarithms, with respect to the logarithm of a factor of all
        increments, where the paths have factors, and to the parameters."""
        problem, dilation = self.problem, self.dilation
        path, lengths = problem.path1, problem.lengths1
        step = max(1, _BATCH_BYTES // (8 * path[0].size))
        of_factors: list[Array] = []
        of_parameters: list[Array] = []
        for start in range(0, len(first), step):
            i, j = first[start : start + step], second[start : start + step]
            pairs = dataclasses.replace(
                problem,
                path1=path[i],
                path2=path[j],
                lengths1=None if lengths is None else lengths[i],
                lengths2=None if lengths is None else lengths[j],
            )
            ones = np.ones((len(i),) if problem.order is None else (len(i), problem.order + 1))
            found = backend_for(pairs).adjoint(pairs, "end", ones, Wrt(dilation is not None, False, True), log=log)
            gradient: Array = found.path1
            of_parameters.append(found.parameters)
            if dilation is not None:
                of_factors.append(dilation.factors[i] * np.sum(gradient[:, :, -1], axis=1))
        return np.concatenate(of_factors or [np.empty(0)]), np.concatenate(of_parameters)
