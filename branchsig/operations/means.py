"""The operations that compute means of kernels: discrepancies of samples, and scores of forecasts.

Gram matrices are processed in blocks, forward and backward, so memory does not grow with the number of pairs. The terms
of a discrepancy cancel, so the means are taken of k − 1, in float64, which keeps the digits of kernels near 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from array_api_compat import is_array_api_obj

from branchsig import _validation
from branchsig._arrays import (
    Array,
    all_finite,
    as_like,
    as_numpy,
    count_true,
    device_of,
    filled,
    in_float64,
    lies_on_cpu,
    namespace_of,
)
from branchsig.backends import Gradients, Problem, Wrt
from branchsig.operations import dilate, inputs, prepare
from branchsig.operations.base import Operation, Result
from branchsig.operations.complaints import complain, nan_where_paths_are, what_happened
from branchsig.operations.job import Job
from branchsig.operations.stages import Geometry, Kept, Shape, Stage, stage_of
from branchsig.spec import Execution, Spec

__all__ = ["ExpectedScore", "MeanDiscrepancy", "Score"]

_BLOCK = 256
"""Rows and columns of a block of a Gram matrix."""


class _Means(Operation):
    """Weighted means of k within two samples, less twice its mean across.

    The mean across runs over all pairs or, with `each`, over the first sample for each path of the second one. Means
    within run over pairs of different paths, unless `unbiased=False`.

    Each path of a kernel is refined at the dyadic order of its sample, also if both paths belong to one sample. So all
    kernels are inner products of the same features, and a discrepancy is a squared distance.
    """

    operands = ("sample1", "sample2", "lengths1", "lengths2")
    each: ClassVar[bool] = False
    remedy: ClassVar[str] = ", or unbiased=False"

    def weights(self, spec: Spec) -> tuple[float, float]:
        """Weights of the means within both samples."""
        return spec.lam, 0.0

    def prepare(self, spec: Spec, how: Execution, *operands: Any) -> Job:
        """Check and transform the samples."""
        return self._prepare(spec, how, operands, here=True)

    def prepare_for(self, derivs: Any, spec: Spec, how: Execution, *operands: Any) -> Job:
        """As `prepare`, for a gradient: convert samples to NumPy only if the derivatives can be converted too."""
        here = isinstance(derivs, np.generic) or not is_array_api_obj(derivs) or as_numpy(derivs) is not None
        return self._prepare(spec, how, operands, here=here)

    def _prepare(self, spec: Spec, how: Execution, operands: tuple[Any, ...], *, here: bool) -> Job:
        names = self.operands[0], self.operands[1]
        job = prepare.samples(spec, how, *operands, names=names, single=self.each, here=here)
        sizes = _sizes(job.problem)
        for side, weight in enumerate(self.weights(spec)):
            if weight and spec.unbiased and sizes[side] < 2:
                raise ValueError(
                    f"{names[side]} has one path: a mean over pairs of different paths needs two{self.remedy}"
                )
        return job

    def forward(self, job: Job, *, keep: bool) -> tuple[Array, Kept]:
        """Return the value, and warn about its kernels."""
        spec = job.spec
        with np.errstate(all="ignore"):
            kernels = Kernels(job, keep=keep)
            xp = namespace_of(kernels.problem.path1)
            across = kernels.across()
            value = -2.0 * (across if self.each else xp.mean(across))
            for side, weight in enumerate(self.weights(spec)):
                if weight:
                    value = value + weight / _pairs(kernels.sizes[side], spec) * kernels.within(side)
            value = value + (sum(self.weights(spec)) - 2.0)
            if isinstance(value, np.generic):
                value = np.asarray(value)  # NumPy turns 0-d arrays into scalars in arithmetic
            value = as_like(xp.reshape(value, job.batch), job.origins[0].path)
        kernels.complain(value)
        return value, kernels.kept

    def residuals(self, job: Job) -> Kept:
        """Return only the factors of dilation. The residuals of a block are computed when the block is, and not
        stored."""
        with np.errstate(all="ignore"):
            return dilate.scale(job.problem, keep=True).kept if job.spec.normalize == "dilation" else {}

    def derivs(self, job: Job, derivs: Any) -> Array:
        """Check derivatives of the value, and return one for each path of the second sample."""
        origin, like = job.origins[0], job.problem.path1
        derivs = _validation.same_shape(derivs, "derivs", job.batch, origin.path, origin.name)
        if isinstance(like, np.ndarray):
            here = as_numpy(derivs)
            if here is None:
                raise TypeError(
                    "derivs is recorded or traced, and the samples are not: their means are computed by NumPy. Pass "
                    f"derivs to {self.name}_backprop, or detach them"
                )
            derivs = here
        n2 = job.problem.path2.shape[0]
        xp = namespace_of(like)
        with np.errstate(all="ignore"):
            derivs = xp.astype(derivs, like.dtype, copy=False)
            return xp.reshape(derivs, (n2,)) if self.each else xp.broadcast_to(derivs / n2, (n2,))

    def backward(self, job: Job, kept: Kept, derivs: Array, wrt: Wrt) -> Gradients:
        """Return the gradients with respect to the transformed samples."""
        spec = job.spec
        with np.errstate(all="ignore"):
            blocks = Blocks(job, kept)
            # Factors of dilation depend on the parameters, whose gradients therefore need those of all paths.
            through = wrt._replace(path1=True, path2=True) if blocks.scaled and wrt.parameters else wrt
            n1 = blocks.sizes[0]
            blocks.across(derivs, -2.0 / n1, through)
            total = namespace_of(derivs).sum(derivs)
            for side, weight in enumerate(self.weights(spec)):
                if weight and (through[side] or wrt.parameters):
                    blocks.within(side, weight / _pairs(blocks.sizes[side], spec) * total, through)
            found = blocks.joined()
            if blocks.scaled is not None:
                found = blocks.scaled.adjoint(found, wrt, total=False)
            return found

    def result(self, spec: Spec, *operands: Shape | None) -> Result:
        """Return the shapes of the value and of what is kept."""
        first, second = operands[0], operands[1]
        assert first is not None
        assert second is not None
        sizes = math.prod(first.shape[:-2]), math.prod(second.shape[:-2])
        kept: dict[str, Shape] = {}
        if spec.normalize == "dilation":
            shared = second is first and spec.dyadic_order[0] == spec.dyadic_order[1]
            paths = sizes[:1] if shared else sizes
            kept = dilate.Dilate(_stage(spec)).kept_shapes(Geometry((), (), paths, "float64"))
        for side1, rows, side2, columns in self._blocks(spec, sizes):
            n1, n2 = rows.stop - rows.start, columns.stop - columns.start
            square = side1 == side2 and rows == columns  # both at the dyadic order of the sample
            of_block = _stage(spec).kept_shapes(Geometry((n1, n2), (), (n1,) if square else (n1, n2), "float64"))
            kept |= {_name(side1, rows, side2, columns) + name: shape for name, shape in of_block.items()}
        return Result(Shape(second.shape[:-2] if self.each else (), first.dtype), kept)

    def _blocks(self, spec: Spec, sizes: tuple[int, int]) -> Iterator[tuple[int, slice, int, slice]]:
        """The blocks of the value: all blocks across the samples, and one triangle of blocks within each sample."""
        for columns in _slices(sizes[1]):
            for rows in _slices(sizes[0]):
                yield 0, rows, 1, columns
        for side, weight in enumerate(self.weights(spec)):
            if weight:
                for rows in _slices(sizes[side]):
                    for columns in _slices(rows.stop):
                        yield side, rows, side, columns


class MeanDiscrepancy(_Means):
    """The squared maximum mean discrepancy of two samples."""

    name = "branched_sig_mmd"

    def weights(self, spec: Spec) -> tuple[float, float]:
        """Both samples have weight 1."""
        return 1.0, 1.0


class JointGram(MeanDiscrepancy):
    """The kernels of the permutation test, which has no biased variant."""

    remedy = ""


class Score(_Means):
    """The kernel score of a sample as a forecast of each of some paths."""

    name = "branched_sig_score"
    operands = ("sample", "y", "lengths1", "lengths2")
    each = True


class ExpectedScore(_Means):
    """The mean kernel score of a sample as a forecast of another one."""

    name = "expected_branched_sig_score"


class _Blocked:
    """Two samples, dilated if requested, and the blocks of the Gram matrices of their paths."""

    def __init__(self, job: Job, scaled: dilate.Scaled | None) -> None:
        self.job, self.scaled = job, scaled
        self.problem = job.problem if scaled is None else scaled.problem
        self.sizes = _sizes(self.problem)
        self.stage = _stage(job.spec)

    def block(self, side1: int, rows: slice, side2: int, columns: slice) -> Problem:
        """The problem of a block of the Gram matrix of both samples, whose sides are 0 and 1."""
        path1, lengths1 = self._part(side1, rows)
        symmetric = side1 == side2 and rows == columns
        path2, lengths2 = (path1, lengths1) if symmetric else self._part(side2, columns)
        orders = self.problem.dyadic_order
        return dataclasses.replace(
            self.problem,
            path1=path1,
            path2=path2,
            lengths1=lengths1,
            lengths2=lengths2,
            dyadic_order=(orders[side1], orders[side2]),
            pairing="symmetric" if symmetric else "gram",
        )

    def _part(self, side: int, block: slice) -> tuple[Array, npt.NDArray[np.int64] | None]:
        problem = self.problem
        path, lengths = ((problem.path1, problem.lengths1), (problem.path2, problem.lengths2))[side]
        whole = block == slice(0, path.shape[0])
        return path if whole else path[block, ...], lengths if whole or lengths is None else lengths[block]


class Kernels(_Blocked):
    """Sums of k − 1 over blocks, with counts of non-finite kernels."""

    def __init__(self, job: Job, *, keep: bool) -> None:
        self.keep = keep
        scaled = dilate.scale(job.problem, keep=keep) if job.spec.normalize == "dilation" else None
        super().__init__(job, scaled)
        self.kept: Kept = scaled.kept if scaled is not None and keep else {}
        self.kernels = self.overflowed = self.undefined = 0
        self.not_finite = False

    def less_one(self, side1: int, rows: slice, side2: int, columns: slice) -> Array:
        """k − 1 for a block, with 0 for the kernels that the means exclude, which may be infinite."""
        block = self.block(side1, rows, side2, columns)
        values, kept = self.stage.forward(block, keep=self.keep)
        if block.depth == math.inf and block.order is None:
            values = nan_where_paths_are(values, block)
        values = in_float64(values)
        if self.keep:
            self.kept |= {_name(side1, rows, side2, columns) + name: array for name, array in kept.items()}
        if self.job.spec.unbiased and block.pairing == "symmetric":
            xp = namespace_of(values)
            values = xp.where(_diagonal(values), xp.zeros_like(values), values)
        self._count(values, side1, rows, side2, columns)
        return values

    def within(self, side: int) -> Array:
        """Sum of k − 1 over the pairs of one sample."""
        xp, total = namespace_of(self.problem.path1), 0.0
        for rows in _slices(self.sizes[side]):
            for columns in _slices(rows.stop):
                sums = xp.sum(self.less_one(side, rows, side, columns))
                total = total + (sums if rows == columns else 2.0 * sums)
        return total

    def across(self) -> Array:
        """For each path of the second sample, the mean of k − 1 over the first sample."""
        xp, parts = namespace_of(self.problem.path1), []
        for columns in _slices(self.sizes[1]):
            sums = [xp.sum(self.less_one(0, rows, 1, columns), axis=0) for rows in _slices(self.sizes[0])]
            parts.append(sum(sums[1:], sums[0]))
        return _joined(parts) / self.sizes[0]

    def _count(self, values: Array, side1: int, rows: slice, side2: int, columns: slice) -> None:
        """Count the kernels that are not finite although their paths are, if this is to be checked."""
        within = side1 == side2
        copies = 2 if within and rows != columns else 1
        left_out = values.shape[0] if within and rows == columns and self.job.spec.unbiased else 0
        self.kernels += copies * math.prod(values.shape) - left_out
        checked = self.job.how.check_finite
        # Checking values on a CUDA device would synchronise; a traced array has no values yet.
        if checked is False or not (checked or lies_on_cpu(values)) or all_finite(values):
            return
        self.not_finite = True
        xp = namespace_of(values)
        of_finite = self._finite(side1)[rows][:, None] & self._finite(side2)[columns][None, :]
        self.overflowed += copies * count_true(~xp.isfinite(values) & of_finite)
        self.undefined += copies * count_true(xp.isnan(values) & of_finite)

    def _finite(self, side: int) -> Array:
        """Which paths of a sample are finite."""
        problem = self.job.problem
        path = filled(*((problem.path1, problem.lengths1), (problem.path2, problem.lengths2))[side])
        xp = namespace_of(path)
        return xp.all(xp.isfinite(path), axis=(1, 2))

    def complain(self, result: Array) -> None:
        """Give one warning about the axes of the samples, NaN in them, and overflow."""
        job, checked = self.job, self.job.how.check_finite
        if checked is False:
            return
        sentences = [inputs.axis_order(*job.as_passed())]
        if checked or self.not_finite:
            sentences += [inputs.not_finite(given) for given in job.origins]
        if self.overflowed:
            what = what_happened(self.problem, job.spec, self.overflowed, self.undefined)
            sentences.append(f"{self.overflowed} of the {self.kernels} kernels that the result depends on {what}")
        elif not self.not_finite and (checked or lies_on_cpu(result)) and not all_finite(result):
            sentences.append(f"the result is beyond the range of {result.dtype}, though all kernels are finite")
        complain(*sentences)


class Blocks(_Blocked):
    """Sums of gradients over blocks, from residuals that the forward kept or that are computed for each block."""

    def __init__(self, job: Job, kept: Kept) -> None:
        dilated = job.spec.normalize == "dilation"
        super().__init__(job, dilate.Scaled.again(job.problem, kept) if dilated else None)
        self.kept = kept
        self.parts: list[list[Array | None]] = [[None for _ in _slices(size)] for size in self.sizes]
        self.parameters: Array | None = None

    def across(self, derivs: Array, factor: float, wrt: Wrt) -> None:
        """Add the gradient of the sums over the first sample, for one derivative per path of the second sample."""
        for rows in _slices(self.sizes[0]):
            for columns in _slices(self.sizes[1]):
                place = 0, rows, 1, columns
                block = self.block(*place)
                self._add(place, block, factor * derivs[columns][None, :] * _ones(block), wrt)

    def within(self, side: int, weight: Array, wrt: Wrt) -> None:
        """Add the gradient of a weight times the sum over the pairs of one sample."""
        for rows in _slices(self.sizes[side]):
            for columns in _slices(rows.stop):
                place = side, rows, side, columns
                block = self.block(*place)
                weights = weight * _ones(block)
                if rows != columns:
                    both = Wrt(wrt[side], wrt[side], wrt.parameters)
                    self._add(place, block, 2.0 * weights, both)
                    continue
                if self.job.spec.unbiased:
                    xp = namespace_of(weights)
                    weights = xp.where(_diagonal(weights), xp.zeros_like(weights), weights)
                self._add(place, block, weights, Wrt(wrt[side], False, wrt.parameters), total=True)

    def _add(
        self, place: tuple[int, slice, int, slice], block: Problem, weights: Array, wrt: Wrt, *, total: bool = False
    ) -> None:
        prefix = _name(*place)
        kept = {name[len(prefix) :]: array for name, array in self.kept.items() if name.startswith(prefix)}
        if not kept and self.stage.keeps:
            kept = self.stage.residuals(block)
        found = self.stage.adjoint(block, kept, weights, wrt, total=total)
        side1, rows, side2, columns = place
        for side, part, term in ((side1, rows, found.path1), (side2, columns, found.path2)):
            if term is not None:
                parts, k = self.parts[side], part.start // _BLOCK
                parts[k] = term if parts[k] is None else parts[k] + term
        if found.parameters is not None:
            self.parameters = found.parameters if self.parameters is None else self.parameters + found.parameters

    def joined(self) -> Gradients:
        """The gradients of both samples and of the parameters; None for those that nothing was added to."""
        first, second = (None if parts[0] is None else _joined(parts) for parts in self.parts)
        return Gradients(first, second, self.parameters)


def joint_gram(job: Job) -> npt.NDArray[np.float64]:
    """k − 1 for all paths of both samples, with zeros on the diagonal, on the host. Warns about kernels and paths."""
    with np.errstate(all="ignore"):
        kernels = Kernels(job, keep=False)
        first, second = (slice(0, n) for n in kernels.sizes)
        blocks = ((0, first, 0, first), (0, first, 1, second), (1, second, 1, second))
        k11, k12, k22 = (kernels.less_one(*block) for block in blocks)
        kernels.complain(k12)
        k11, k12, k22 = (_on_host(k) for k in (k11, k12, k22))
    return np.block([[k11, k12], [k12.T, k22]])


def _stage(spec: Spec) -> Stage:
    """The stage that all blocks share, below that of dilation."""
    return stage_of(spec.normalize is True, spec.signed, "less one", False)


def _sizes(problem: Problem) -> tuple[int, int]:
    return problem.path1.shape[0], problem.path2.shape[0]


def _pairs(n: int, spec: Spec) -> int:
    """Number of pairs of a sample in a mean."""
    return n * (n - 1) if spec.unbiased else n * n


def _slices(paths: int) -> Iterator[slice]:
    for start in range(0, paths, _BLOCK):
        yield slice(start, min(start + _BLOCK, paths))


def _name(side1: int, rows: slice, side2: int, columns: slice) -> str:
    """Prefix of the names of the arrays kept for a block."""
    return f"block{side1}{side2}/{rows.start}/{columns.start}/"


def _ones(block: Problem) -> Array:
    """Ones for all pairs of a block."""
    path1, path2 = block.path1, block.path2
    shape = (path1.shape[0], path2.shape[0])
    return namespace_of(path1).ones(shape, dtype=path1.dtype, device=device_of(path1))


def _diagonal(matrix: Array) -> Array:
    """Which entries of a square matrix lie on its diagonal."""
    index = namespace_of(matrix).arange(matrix.shape[0], device=device_of(matrix))
    return index[:, None] == index[None, :]


def _joined(parts: list[Any]) -> Array:
    return parts[0] if len(parts) == 1 else namespace_of(parts[0]).concat(parts, axis=0)


def _on_host(gram: Array) -> npt.NDArray[np.float64]:
    here = as_numpy(gram)
    return np.asarray(here if here is not None else [[float(v) for v in row] for row in gram], dtype=np.float64)
