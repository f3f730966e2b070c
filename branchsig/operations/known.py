"""Paths with what their kernels need of each path alone, for Gram matrices that meet them again and again.

Checked and transformed paths come with their factors of dilation, or the logarithms of their kernels with themselves,
and Gram matrices of two such stacks repeat none of the work that is done path by path.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from branchsig._arrays import Array, host
from branchsig.backends import Problem, Wrt, backend_for
from branchsig.operations import dilate
from branchsig.operations.complaints import complain, complaints_of
from branchsig.operations.factors import Floats, Indices, scaled_problem
from branchsig.operations.job import Job
from branchsig.operations.stages import Kept, stage_for
from branchsig.static_kernels import is_linear, parameters_of

__all__ = ["Known"]

_BATCH_BYTES = 2**26
"""Bytes of the paths of pairs whose derivatives are taken at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """Paths, and what their kernels need of each of them alone."""

    job: Job
    """The paths, each with itself, transformed."""
    of_paths: Kept
    """What the stages have found out about each of them; see `Stage`."""

    @classmethod
    def of(cls, job: Job) -> Known:
        """Find out what is needed of each path alone: factors of dilation, or norms."""
        with np.errstate(all="ignore"):
            return cls(job, stage_for(job.spec).of_paths(job.problem))

    @property
    def factors(self) -> Floats | None:
        """The factors of dilation, where there are any."""
        dilation = self._dilation
        return None if dilation is None else host(dilation.all_factors)

    @property
    def _problem(self) -> Problem:
        """The paths in both places as one object, which some ways of pickling make two of."""
        problem = self.job.problem
        return dataclasses.replace(problem, path2=problem.path1, lengths2=problem.lengths1)

    @property
    def _dilation(self) -> dilate.Dilation | None:
        dilated = self.job.spec.normalize == "dilation"
        return dilate.again(self._problem, 0, self.of_paths) if dilated else None

    def gram(self, others: Known | None = None) -> Floats:
        """Return the kernels with all other paths, or of all paths with each other.

        Warns of values that are not finite.
        """
        rows, of_paths, origins = self._problem, self.of_paths, self.job.origins
        if others is None:
            problem = dataclasses.replace(rows, pairing="symmetric")
        else:
            columns = others._problem
            problem = dataclasses.replace(rows, path2=columns.path1, lengths2=columns.lengths1, pairing="gram")
            of_paths = of_paths | {f"{name[:-1]}2": array for name, array in others.of_paths.items()}
            origins = origins + others.job.origins
        value = self._value(problem, of_paths)
        complain(*complaints_of(value, Job(self.job.spec, self.job.how, problem, tuple(value.shape), origins)))
        return value

    def diagonal(self) -> Floats:
        """Return the kernels of the paths with themselves."""
        return self._value(self._problem, self.of_paths)

    def _value(self, problem: Problem, of_paths: Kept) -> Floats:
        with np.errstate(all="ignore"):
            value: Floats
            value, _ = stage_for(self.job.spec).forward(problem, keep=False, of_paths=of_paths)
            return value

    def with_derivatives(self) -> tuple[Array, Array]:
        """Return the kernels of all paths with each other, shape (n, n), and their derivatives with respect to the
        parameters of the static kernel, shape (n, n, parameters)."""
        value = self.gram()
        n, names = value.shape[0], parameters_of(self.job.spec.static_kernel)
        derivs = np.zeros((n, n, len(names)))
        if names and not (self.job.spec.normalize == "dilation" and is_linear(self.job.spec.static_kernel)):
            first, second = np.triu_indices(n)
            with np.errstate(all="ignore"):
                found = self._derivatives(value, first, second)
            derivs[first, second] = found
            derivs[second, first] = found
        return value, derivs

    def _derivatives(self, value: Array, first: Indices, second: Indices) -> Array:
        """Derivatives of the kernels of some pairs, among them each path with itself, with respect to parameters."""
        signed = self.job.spec.signed
        unit, dilation = self.job.spec.normalize is True, self._dilation
        if unit and not signed:
            _, found = self._of_pairs(None, first, second, log=True)
            own = found[first == second]
            return value[first, second, None] * (found - 0.5 * (own[first] + own[second]))
        of_factors, found = self._of_pairs(dilation, first, second)
        if unit:
            total = self.of_paths["total1"]
            own = found[first == second] / total[:, None]
            sizes = np.sqrt(total[first] * total[second])
            return found / sizes[:, None] - 0.5 * value[first, second, None] * (own[first] + own[second])
        if dilation is None:
            return found
        # A factor multiplies all increments of a pair, whichever of its two paths it belongs to.
        of_limit: Array
        _, slope, of_limit = dilation.of_limit(parameters=True)
        through = np.where(dilation.limits.found[:, None], -of_limit / slope[:, None], 0.0)
        return found + of_factors[:, None] * (through[first] + through[second])

    def _of_pairs(
        self, dilation: dilate.Dilation | None, first: Indices, second: Indices, *, log: bool = False
    ) -> tuple[Array, Array]:
        """Derivatives of the kernels of pairs, or their logarithms, with respect to the logarithm of a factor of all
        increments, where the paths have factors, and to the parameters."""
        problem = self._problem
        if dilation is not None:
            problem = scaled_problem(problem, dilation.scaled)
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
