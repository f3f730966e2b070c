"""Kernels with norms of one, k(x, y) / √(k(x, x) k(y, y)), and their adjoint.

They are formed from logarithms, so that they are finite also where the kernels themselves are not.
"""

from __future__ import annotations

import dataclasses
import math

from branchsig._arrays import Array, device_of, namespace_of, weighted
from branchsig.backends import Gradients, Problem, Wrt, backend_for
from branchsig.backends._digits import TOLERANCE, lost, tolerated
from branchsig.operations.nodes import of_log_of_sum
from branchsig.operations.solve import Solve, folded
from branchsig.operations.stages import Geometry, Kept, Output, Shape

__all__ = ["Logarithms", "UnitNorm"]


@dataclasses.dataclass(frozen=True, slots=True)
class UnitNorm:
    """The normalised kernel, its logarithm, or what it is less 1. See `Stage` for the methods.

    Kept are the kernel, if it is not its logarithm that is asked for, and truncated by the number of nodes the sums of
    the components of all pairs and of all paths with themselves.
    """

    output: Output
    by_nodes: bool

    @property
    def residual_share(self) -> float:
        """The kernel, or the sums, take a solve."""
        return 1 / 3 if self.output != "log" or self.by_nodes else 0.0

    def forward(self, problem: Problem, *, keep: bool, before: Kept | None = None) -> tuple[Array, Kept]:
        """Return the values."""
        problem = dataclasses.replace(problem, purpose="quotient")
        of_pairs = Logarithms.of(problem)
        of_paths = _of_paths(problem, of_pairs)
        log_unit = self._quotient(problem, of_pairs, of_paths)
        value = self._value(log_unit, of_pairs.sign)
        if not keep:
            return value, {}
        kept: Kept = {}
        if self.output != "log":
            kept["unit"] = of_pairs.sign * namespace_of(log_unit).exp(log_unit)
        if self.by_nodes:
            kept["total"] = of_pairs.total
            kept |= {f"own{side + 1}": own.total for side, own in enumerate(of_paths)}
        return value, kept

    def between(self, problem: Problem, norms: tuple[Logarithms, ...]) -> Array:
        """Return the values where the kernels of the paths with themselves are known, those of both stacks."""
        problem = dataclasses.replace(problem, purpose="quotient")
        of_pairs = Logarithms.of(problem)
        return self._value(self._quotient(problem, of_pairs, norms), of_pairs.sign)

    def with_norms(self, problem: Problem) -> tuple[Array, Logarithms]:
        """Return the values of a symmetric problem, and the kernels of its paths with themselves."""
        problem = dataclasses.replace(problem, purpose="quotient")
        of_pairs = Logarithms.of(problem)
        norms = of_pairs.on_diagonal()
        return self._value(self._quotient(problem, of_pairs, (norms,)), of_pairs.sign), norms

    def _quotient(self, problem: Problem, of_pairs: Logarithms, of_paths: tuple[Logarithms, ...]) -> Array:
        return _quotient(problem, of_pairs.log_k, of_paths, "log" if self.output == "log" else "kernel")

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
        return self.forward(problem, keep=True)[1] if self.residual_share else {}

    def kept_shapes(self, geometry: Geometry) -> dict[str, Shape]:
        """Return the shapes of the kernel and of the sums."""
        kept = {"unit": Shape(geometry.pairs, geometry.dtype)} if self.output != "log" else {}
        if self.by_nodes:
            kept["total"] = Shape(geometry.pairs, geometry.dtype)
            kept |= {f"own{k + 1}": Shape((n,), geometry.dtype) for k, n in enumerate(geometry.paths)}
        return kept

    def adjoint(self, problem: Problem, kept: Kept, derivs: Array, wrt: Wrt, *, total: bool = False) -> Gradients:
        """Return the gradients.

        d log k_unit(x, y) = d log k(x, y) − d log k(x, x) / 2 − d log k(y, y) / 2.
        """
        xp = namespace_of(derivs)
        problem = dataclasses.replace(problem, purpose="difference")
        weights = derivs if self.output == "log" else weighted(derivs, kept["unit"])
        if problem.pairing == "symmetric" and not self.by_nodes:
            return self._symmetric(problem, weights, wrt, total=total)
        both = wrt._replace(path2=wrt.path2 or (total and wrt.path1))
        of_log = weights
        if self.by_nodes:
            signed = self.output != "log"
            of_log = of_log_of_sum(weights, int(problem.order or 0), kept["total"], signed=signed)
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
        """Gradients of log k(x, x), in which x stands in both places, at one dyadic order: twice that of one place."""
        derivs = 2.0 * derivs
        if self.by_nodes:
            derivs = of_log_of_sum(derivs, int(own.order or 0), own_total)
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
        # A half of the norms belongs to the rows and a half to the columns, and the gradient took one of them for all.
        half = 0.5 * (rows - columns) if wrt.path1 or not wrt.path2 else 0.5 * (columns - rows)
        own = self._of_paths_adjoint(_with_itself(problem, 0), None, half, True)
        return found._replace(parameters=found.parameters + own.parameters)


@dataclasses.dataclass(frozen=True, slots=True)
class Logarithms:
    """log |K| and the sign of K, which only a kernel truncated by the number of nodes can lack, whose sums they are."""

    log_k: Array
    sign: Array | float = 1.0
    total: Array | None = None

    @classmethod
    def of(cls, problem: Problem) -> Logarithms:
        """Solve a problem for them."""
        backend = backend_for(problem)
        if problem.order is None:
            return cls(backend.solve(problem, "end", log=True))
        components = backend.solve(problem, "end")
        xp = namespace_of(components)
        less_one = xp.sum(components[..., 1:], axis=-1)  # the sum over no nodes is 1
        k = 1.0 + less_one
        log_k = xp.where(k > 0, xp.log1p(less_one), xp.log(abs(k)))
        return cls(log_k, xp.sign(k), xp.sum(components, axis=-1))

    def on_diagonal(self) -> Logarithms:
        """Those of the paths of a square matrix with themselves."""
        sign = self.sign if isinstance(self.sign, float) else _diagonal(self.sign)
        return Logarithms(_diagonal(self.log_k), sign, None if self.total is None else _diagonal(self.total))

    def norm(self) -> Array:
        """log K, NaN where it is not finite, or there is none: a norm that overflowed says nothing of the quotient."""
        xp, log_k = namespace_of(self.log_k), _where_positive(self.log_k, self.sign)
        return xp.where(xp.isfinite(log_k), log_k, xp.full_like(log_k, math.nan))


def _has_norms(problem: Problem) -> bool:
    """Whether the kernels of the paths with themselves are among those of the problem."""
    return problem.itself and problem.dyadic_order[0] == problem.dyadic_order[1]


def _of_paths(problem: Problem, of_pairs: Logarithms) -> tuple[Logarithms, ...]:
    """Those of all paths with themselves: of both stacks, or of the only one."""
    if _has_norms(problem):
        return (of_pairs if problem.pairing == "paired" else of_pairs.on_diagonal(),)
    return tuple(Logarithms.of(_with_itself(problem, side)) for side in (0, 1))


def _quotient(problem: Problem, log_k: Array, of_paths: tuple[Logarithms, ...], purpose: str) -> Array:
    """log |k| of the normalised kernel, NaN where the differences of logarithms have no digits."""
    xp = namespace_of(log_k)
    norms = [own.norm() for own in of_paths]
    log_k1, log_k2 = norms[0], norms[-1]
    if problem.pairing != "paired":
        log_k1, log_k2 = log_k1[:, None], log_k2[None, :]
    log_unit = log_k - 0.5 * (log_k1 + log_k2)
    error = tolerated(log_k) + 0.5 * (tolerated(log_k1) + tolerated(log_k2))
    gone = lost(log_unit, error, purpose, 2.0 * TOLERANCE)
    if _has_norms(problem):
        # The kernel of a path with itself over that kernel is 1, whatever its error.
        gone = gone & (xp.zeros_like(gone) if problem.pairing == "paired" else ~_on_diagonal(log_k))
    return log_unit + xp.where(gone, xp.full_like(log_unit, math.nan), xp.zeros_like(log_unit))


def _with_itself(problem: Problem, side: int) -> Problem:
    """Each path of the first or second stack with itself, at the dyadic order of its stack on both sides.

    The kernel of x and y is the inner product of features of x at the first order and of y at the second one, so these
    are the squares of their norms.
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
