"""Kernels of unit norm, k(x, y) / √(k(x, x) k(y, y)), and their adjoint.

They are computed from logarithms, so they are finite even if the kernels are not. The logarithms may be large compared
with their difference. So float32 paths are converted to float64 if they lie on the CPU and the static kernel is built
in; otherwise the rounding of the logarithms counts as an error.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from branchsig._arrays import Array, as_like, device_of, in_float64, lies_on_cuda, namespace_of, weighted
from branchsig.backends import Gradients, Problem, Wrt, backend_for
from branchsig.backends._digits import TOLERANCE, lost, tolerated
from branchsig.operations.nodes import less_one_of, of_log_of_sum
from branchsig.operations.solve import Solve, folded
from branchsig.operations.stages import Geometry, Kept, Output, Shape
from branchsig.static_kernels import is_built_in

__all__ = ["UnitNorm"]


@dataclasses.dataclass(frozen=True, slots=True)
class UnitNorm:
    """The normalised kernel, its logarithm, or the kernel minus 1. See `Stage` for the methods.

    It keeps the kernel unless the logarithm is requested. Kernels that need not be positive (`signed`), by number of
    nodes or over ordered forests, are also kept as they are, of all pairs and of all paths with themselves.
    """

    output: Output
    signed: bool

    @property
    def keeps(self) -> bool:
        """Whether the kernel or the sums are needed."""
        return self.output != "log" or self.signed

    @property
    def residual_share(self) -> float:
        """The residuals take one solve."""
        return 1 / 3 if self.keeps else 0.0

    def of_paths(self, problem: Problem) -> Kept:
        """Return the logarithms of the kernels of the paths with themselves, and the kernels themselves."""
        own = _Logarithms.of(_with_itself(_with_digits(problem, "quotient"), 0))
        return {name + "1": array for name, array in own.arrays().items()}

    def forward(
        self, problem: Problem, *, keep: bool, before: Kept | None = None, of_paths: Kept | None = None
    ) -> tuple[Array, Kept]:
        """Return the values."""
        given, problem = problem.path1, _with_digits(problem, "quotient")
        purpose = "log" if self.output == "log" else "kernel"
        of_pairs = _Logarithms.of(problem)
        selves = _of_paths(problem, of_pairs) if of_paths is None else _Logarithms.handed_in(of_paths)
        log_unit = _quotient(problem, of_pairs.log_k, selves, purpose)
        value = self._value(log_unit, of_pairs.sign)
        if self.output != "less one":
            value = as_like(value, given)
        if not keep:
            return value, {}
        kept: Kept = {}
        if self.output != "log":
            kept["unit"] = of_pairs.sign * namespace_of(log_unit).exp(log_unit)
        if self.signed:
            kept["total"] = of_pairs.total
            kept |= {f"own{side + 1}": own.total for side, own in enumerate(selves)}
        return value, {name: in_float64(array) for name, array in kept.items()}

    def _value(self, log_unit: Array, sign: Array | float) -> Array:
        xp = namespace_of(log_unit)
        if self.output == "log":
            return _where_positive(log_unit, sign)
        if self.output == "kernel":
            return sign * xp.exp(log_unit)
        if isinstance(sign, float):
            return xp.expm1(log_unit)
        return xp.where(sign > 0, xp.expm1(log_unit), sign * xp.exp(log_unit) - 1.0)

    def residuals(self, problem: Problem) -> Kept:
        """Return what the adjoint needs."""
        return self.forward(problem, keep=True)[1]

    def kept_shapes(self, geometry: Geometry) -> dict[str, Shape]:
        """Return the shapes of the kernel and of the sums."""
        kept = {"unit": Shape(geometry.pairs)} if self.output != "log" else {}
        if self.signed:
            kept["total"] = Shape(geometry.pairs)
            kept |= {f"own{k + 1}": Shape((n,)) for k, n in enumerate(geometry.paths)}
        return kept

    def adjoint(self, problem: Problem, kept: Kept, derivs: Array, wrt: Wrt, *, total: bool = False) -> Gradients:
        """Return the gradients.

        d log k_unit(x, y) = d log k(x, y) − d log k(x, x) / 2 − d log k(y, y) / 2.
        """
        given, problem = problem.path1, _with_digits(problem, "difference")
        kept = {name: as_like(array, problem.path1) for name, array in kept.items()}
        found = self._adjoint(problem, kept, as_like(derivs, problem.path1), wrt, total=total)
        return Gradients(*(None if gradient is None else as_like(gradient, given) for gradient in found))

    def _adjoint(self, problem: Problem, kept: Kept, derivs: Array, wrt: Wrt, *, total: bool) -> Gradients:
        xp = namespace_of(derivs)
        weights = derivs if self.output == "log" else weighted(derivs, kept["unit"])
        if problem.pairing == "symmetric" and not self.signed:
            return self._symmetric(problem, weights, wrt, total=total)
        both = wrt._replace(path2=wrt.path2 or (total and wrt.path1))
        of_log = weights
        if self.signed:
            of_log = of_log_of_sum(weights, problem.order, kept["total"], signed=self.output != "log")
        found = Solve("log").adjoint(problem, {}, of_log, both)
        paired, shared = problem.pairing == "paired", kept.get("own2", kept.get("own1"))
        for side, own_total in enumerate((kept.get("own1"), shared)):
            if not (both[side] or wrt.parameters):
                continue
            of_side = weights if paired else xp.sum(weights, axis=1 - side)
            own = self._of_paths_adjoint(_with_itself(problem, side), own_total, -0.5 * of_side, wrt.parameters)
            gradient = found[side]
            found = found._replace(
                **{f"path{side + 1}": None if gradient is None else gradient + own.path1},
                parameters=None if found.parameters is None else found.parameters + own.parameters,
            )
        if total and found.path1 is not None and found.path2 is not None:
            return found._replace(path1=found.path1 + found.path2, path2=None)
        return found

    def _of_paths_adjoint(self, own: Problem, own_total: Array | None, derivs: Array, parameters: bool) -> Gradients:
        """Gradients of log k(x, x) at one dyadic order: twice the gradient with respect to one argument."""
        derivs = 2.0 * derivs
        if self.signed:
            derivs = of_log_of_sum(derivs, own.order, own_total)
        found = Solve("log").adjoint(own, {}, derivs, Wrt(True, False, parameters))
        return found if found.parameters is None else found._replace(parameters=0.5 * found.parameters)

    def _symmetric(self, problem: Problem, weights: Array, wrt: Wrt, *, total: bool) -> Gradients:
        """Gradients of a symmetric Gram matrix, whose diagonal log k(x_i, x_i) normalises its rows and columns."""
        xp = namespace_of(weights)
        diagonal = _on_diagonal(weights)
        rows, columns = xp.sum(weights, axis=1), xp.sum(weights, axis=0)

        def less_norms(of: Array, sums: Array) -> Array:
            return xp.where(diagonal, of - sums[:, None], of)

        transposed = xp.permute_dims(weights, (1, 0))
        found = folded(problem, less_norms(weights, rows), less_norms(transposed, columns), wrt, log=True, total=total)
        if total or found.parameters is None:
            return found
        # Half of the norms belongs to the rows and half to the columns, but the gradient above used one of the two for
        # all.
        half = 0.5 * (rows - columns) if wrt.path1 or not wrt.path2 else 0.5 * (columns - rows)
        own = self._of_paths_adjoint(_with_itself(problem, 0), None, half, True)
        return found._replace(parameters=found.parameters + own.parameters)


@dataclasses.dataclass(frozen=True, slots=True)
class _Logarithms:
    """log |K| and the sign of K. If K may be negative, `total` is K itself."""

    log_k: Array
    sign: Array | float = 1.0
    total: Array | None = None

    @classmethod
    def of(cls, problem: Problem) -> _Logarithms:
        """Solve a problem for its logarithms and signs."""
        backend = backend_for(problem)
        if not problem.signed:
            return cls(backend.solve(problem, "end", log=True))
        less_one = less_one_of(backend.solve(problem, "end"), problem.order)
        xp = namespace_of(less_one)
        k = 1.0 + less_one
        log_k = xp.where(k > 0, xp.log1p(less_one), xp.log(abs(k)))
        return cls(log_k, xp.sign(k), k)

    def arrays(self) -> Kept:
        """The same by name."""
        if isinstance(self.sign, float):
            return {"log": self.log_k}
        return {"log": self.log_k, "sign": self.sign, "total": self.total}

    @classmethod
    def handed_in(cls, of_paths: Kept) -> tuple[_Logarithms, ...]:
        """Those of both stacks, or of the only one, from `arrays` with the numbers of the stacks."""

        def of_stack(number: str) -> _Logarithms:
            return cls(*(of_paths.get(name + number, default) for name, default in _DEFAULTS.items()))

        return tuple(of_stack(number) for number in "12" if "log" + number in of_paths)

    def on_diagonal(self) -> _Logarithms:
        """The logarithms on the diagonal of a square matrix."""
        sign = self.sign if isinstance(self.sign, float) else _diagonal(self.sign)
        return _Logarithms(_diagonal(self.log_k), sign, None if self.total is None else _diagonal(self.total))

    def norm(self) -> Array:
        """log K, or NaN if it is infinite or undefined: a norm that overflowed does not determine the quotient."""
        xp, log_k = namespace_of(self.log_k), _where_positive(self.log_k, self.sign)
        return xp.where(xp.isfinite(log_k), log_k, xp.full_like(log_k, math.nan))


def _with_digits(problem: Problem, purpose: str) -> Problem:
    """The problem with a purpose, in float64 if that is cheap and the static kernel allows it."""
    path1, path2 = problem.path1, problem.path2
    if is_built_in(problem.static_kernel) and not lies_on_cuda(path1):
        path1 = in_float64(path1)
        path2 = path1 if problem.path2 is problem.path1 else in_float64(path2)
    return dataclasses.replace(problem, path1=path1, path2=path2, purpose=purpose)


_DEFAULTS: dict[str, Any] = {"log": None, "sign": 1.0, "total": None}


def _has_norms(problem: Problem) -> bool:
    """Whether the problem contains the kernels of the paths with themselves."""
    return problem.itself and problem.dyadic_order[0] == problem.dyadic_order[1]


def _of_paths(problem: Problem, of_pairs: _Logarithms) -> tuple[_Logarithms, ...]:
    """The logarithms of all paths with themselves, for both stacks or for the only one."""
    if _has_norms(problem):
        return (of_pairs if problem.pairing == "paired" else of_pairs.on_diagonal(),)
    return tuple(_Logarithms.of(_with_itself(problem, side)) for side in (0, 1))


def _quotient(problem: Problem, log_k: Array, of_paths: tuple[_Logarithms, ...], purpose: str) -> Array:
    """log |k| of the normalised kernel, NaN where the differences of logarithms have lost their digits."""
    xp = namespace_of(log_k)
    norms = [own.norm() for own in of_paths]
    log_k1, log_k2 = norms[0], norms[-1]
    if problem.pairing != "paired":
        log_k1, log_k2 = log_k1[:, None], log_k2[None, :]
    log_unit = log_k - 0.5 * (log_k1 + log_k2)
    error = tolerated(log_k) + 0.5 * (tolerated(log_k1) + tolerated(log_k2))
    gone = lost(log_unit, error, purpose, 2.0 * TOLERANCE)
    if log_k.dtype == xp.float32:
        rounding = 2.0**-24 * (abs(log_k) + 0.5 * (abs(log_k1) + abs(log_k2)))
        gone = gone | lost(log_unit, rounding, purpose, 2.0 * TOLERANCE)
    if _has_norms(problem):
        # On the diagonal the quotient is exactly 1, whatever the error of the kernel.
        gone = gone & (xp.zeros_like(gone) if problem.pairing == "paired" else ~_on_diagonal(log_k))
    return log_unit + xp.where(gone, xp.full_like(log_unit, math.nan), xp.zeros_like(log_unit))


def _with_itself(problem: Problem, side: int) -> Problem:
    """Each path of the first or second stack paired with itself, at the dyadic order of its stack in both arguments.

    The kernel of x and y is the inner product of features of x at the first order and of y at the second one, so these
    kernels are squared norms.
    """
    path, lengths = ((problem.path1, problem.lengths1), (problem.path2, problem.lengths2))[side]
    return dataclasses.replace(
        problem,
        path1=path,
        path2=path,
        lengths1=lengths,
        lengths2=lengths,
        dyadic_order=(problem.dyadic_order[side],) * 2,
        pairing="paired",
        progress=None,
    )


def _where_positive(log_k: Array, sign: Array | float) -> Array:
    """log K from log |K| and the sign of K, NaN where K is not positive."""
    if isinstance(sign, float):
        return log_k
    xp = namespace_of(log_k)
    return xp.where(sign > 0, log_k, xp.full_like(log_k, math.nan))


def _diagonal(matrix: Array) -> Array:
    n = matrix.shape[0]
    return namespace_of(matrix).reshape(matrix, (n * n,))[:: n + 1]


def _on_diagonal(matrix: Array) -> Array:
    index = namespace_of(matrix).arange(matrix.shape[0], device=device_of(matrix))
    return index[:, None] == index[None, :]
