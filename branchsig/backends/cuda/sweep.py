"""One call of the CUDA backend: its arrays, its chunks of pairs, and its launches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from branchsig import static_kernels as kernels
from branchsig._arrays import Array, filled, weighted
from branchsig.backends.cuda.instances import GIVEN, REALS
from branchsig.backends.cuda.plans import PAIRINGS, Plan

if TYPE_CHECKING:
    from branchsig.backends.base import Problem
    from branchsig.backends.cuda.backend import CudaBackend

__all__ = ["Sweep"]


class Sweep:
    """One call: its arrays, and its launches."""

    def __init__(self, backend: CudaBackend, problem: Problem, plan: Plan) -> None:
        self.backend, self.problem, self.plan = backend, problem, plan
        self.cupy = backend._cupy
        self.path1 = self.cupy.ascontiguousarray(problem.path1)
        same = problem.path2 is problem.path1
        self.path2 = self.path1 if same else self.cupy.ascontiguousarray(problem.path2)
        self.lengths1 = self._lengths(problem.lengths1)
        self.lengths2 = self.lengths1 if problem.itself else self._lengths(problem.lengths2)

    def _lengths(self, lengths: np.ndarray | None) -> Array | None:
        """Valid lengths for the kernels."""
        return None if lengths is None else self.cupy.asarray(lengths.astype(np.int32))

    @property
    def room(self) -> Any:
        """What makes an array for results: 0 where they are not those of the share of the pairs that is to be done."""
        return self.cupy.empty if self.problem.share == (0, 1) else self.cupy.zeros

    def chunks(self, *, gradients: bool = False) -> Iterator[tuple[int, int]]:
        """The pairs in runs of (first, count), each reported once it is on its way to the device."""
        problem, total = self.problem, self.plan.count
        size = self.plan.chunk(gradients=gradients)
        if problem.progress is not None:
            size = min(size, -(-total // 32))
        if problem.max_batch > 0:
            size = min(size, problem.max_batch**2)
        share, shares = problem.share
        start, stop = total * share // shares, total * (share + 1) // shares
        for first in range(start, stop, size):
            count = min(size, stop - first)
            yield first, count
            if problem.progress is not None:
                problem.progress(first + count, total)

    def index(self, first: int, count: int) -> tuple[Array, Array]:
        """Places of the two paths of every pair of a chunk."""
        cupy = self.cupy
        k = cupy.arange(first, first + count, dtype=np.int64)
        if self.plan.pairing == "paired":
            return k, k
        if self.plan.pairing == "gram":
            n2 = self.path2.shape[0]
            return k // n2, k % n2
        i = ((cupy.sqrt(8.0 * k + 1.0) - 1.0) / 2.0).astype(np.int64)
        i = i - (i * (i + 1) // 2 > k) + ((i + 1) * (i + 2) // 2 <= k)  # the root may be off by one unit
        return i, k - i * (i + 1) // 2

    def given(self, first: int, count: int) -> tuple[Array | None, Any]:
        """Increments of a static kernel that the CUDA kernels do not know, of the pairs of a chunk; their context."""
        if self.plan.static_kernel != GIVEN:
            return None, None
        problem, ctx = self.problem, kernels.Context()
        index1, index2 = self.index(first, count)
        points1, points2 = filled(self.path1, problem.lengths1)[index1], filled(self.path2, problem.lengths2)[index2]
        made = kernels.increments(problem.static_kernel, ctx, points1, points2)
        return self.cupy.ascontiguousarray(made), ctx

    def launch(
        self,
        kernel: str,
        first: int,
        count: int,
        kind: int,
        increments: Array | None,
        *results: Array | None,
        careful_alone: bool = False,
    ) -> None:
        """Run a kernel on a chunk of pairs, and its careful form on those of them that it flags, or on all of them.

        `kind` is the content of the results, or whether derivatives are those of logarithms.
        """
        cupy = self.cupy
        launches = self.plan.launches(kernel, count, kind, careful_alone=careful_alone)
        workspace = cupy.cuda.alloc(launches.workspace_bytes)
        flags = None if careful_alone else cupy.cuda.alloc(4 * count)
        arrays = self.path1, self.path2, increments, self.lengths1, self.lengths2
        for one in launches.kernels:
            progress = cupy.zeros((1 + one.turns,), dtype=np.int32) if one.turns else None
            arguments = (*arrays, one.from_pair(first), workspace, progress, flags, *results)
            one.function(one.blocks, one.threads, arguments)

    def pair_gradients(
        self, first: int, count: int, derivs: Array, d_path1: Array | None, d_path2: Array | None, *, wrt_log: bool
    ) -> tuple[Array | None, Array | None]:
        """Gradients of every pair of a chunk: written into the results where pairs are paired, returned otherwise."""
        cupy = self.cupy
        paired, symmetric = self.plan.pairing == "paired", self.plan.pairing == "symmetric"

        def room(total: Array | None, path: Array) -> Array | None:
            if total is None:
                return None
            if not paired:
                return cupy.empty((count, *path.shape[1:]), dtype=self.plan.dtype)
            return total if count == self.plan.count else total[first : first + count]

        gradient1 = room(d_path1, self.path1)
        gradient2 = room(d_path1 if symmetric else d_path2, self.path2)
        increments, ctx = self.given(first, count)
        if increments is None:
            self.launch("backward", first, count, wrt_log, None, derivs, gradient1, gradient2, None)
            return gradient1, gradient2
        d_increments = cupy.empty(increments.shape, dtype=self.plan.dtype)
        index1, index2 = self.index(first, count)
        if symmetric:
            # The two places have weights of their own, so the sweep runs with ones.
            weights1 = derivs[index1, index2]
            weights2 = cupy.where(index1 == index2, 0.0, derivs[index2, index1]).astype(self.plan.dtype)
            ones = cupy.ones(self.plan.shape, dtype=self.plan.dtype)
            self.launch("backward", first, count, wrt_log, increments, ones, None, None, d_increments)
        else:
            # The sweep has the derivatives, and what is left are the pairs that have none.
            of_pairs = derivs.reshape(math.prod(self.plan.shape), -1)[first : first + count]
            weights1 = weights2 = (of_pairs != 0.0).any(axis=1).astype(self.plan.dtype)
            self.launch("backward", first, count, wrt_log, increments, derivs, None, None, d_increments)
        static_kernel = self.problem.static_kernel
        if gradient1 is not None:
            made = kernels.gradient_x(static_kernel, ctx, d_increments, self.path1[index1])
            gradient1[...] = self.unpadded(weighted(weights1[:, None, None], made), self.lengths1, index1)
        if gradient2 is not None:
            made = kernels.gradient_y(static_kernel, ctx, d_increments, self.path2[index2])
            gradient2[...] = self.unpadded(weighted(weights2[:, None, None], made), self.lengths2, index2)
        return gradient1, gradient2

    def unpadded(self, gradients: Array, lengths: Array | None, index: Array) -> Array:
        """Gradients with zeros behind the valid points."""
        if lengths is None:
            return gradients
        valid = self.cupy.arange(0, gradients.shape[1])[None, :] < lengths[index][:, None]
        return self.cupy.where(valid[:, :, None], gradients, 0.0)

    def gathered(self, derivs: Array) -> Array:
        """Derivatives at the nodes of grids, those at padded nodes added to those at the valid nodes they repeat."""
        cupy, problem = self.cupy, self.problem
        for side, lengths in enumerate((self.lengths1, self.lengths2)):
            if lengths is None:
                continue
            axis = len(self.plan.shape) + side
            shape = [1] * derivs.ndim
            shape[0 if self.plan.pairing == "paired" else side] = lengths.shape[0]
            last = ((lengths - 1) << problem.dyadic_order[side]).reshape(shape)
            shape = [1] * derivs.ndim
            shape[axis] = derivs.shape[axis]
            node = cupy.arange(0, derivs.shape[axis]).reshape(shape)
            behind = cupy.where(node < last, 0.0, derivs).sum(axis=axis, keepdims=True)
            derivs = cupy.where(node < last, derivs, cupy.where(node == last, behind, 0.0)).astype(self.plan.dtype)
        return derivs

    def add_up(
        self, total: Array | None, firsts: Array | None, seconds: Array | None, first: int, count: int, *, adds: bool
    ) -> None:
        """Sum, or add, the gradients of a chunk of pairs to those of their first and second paths, pair after pair."""
        if total is None:
            return
        size = math.prod(total.shape[1:])
        threads = 256
        blocks = min(-(-total.shape[0] * size // threads), 2**16)
        function = self.backend.function(f"sum_over_partners<{REALS[self.plan.dtype.itemsize]}>")
        integers = (*self.plan.shape, first, count, size)
        kinds = (np.int32(PAIRINGS[self.plan.pairing]), np.int32(adds))
        arguments = (firsts, seconds, total, *kinds, *(np.int64(value) for value in integers))
        function((blocks,), (threads,), arguments)
