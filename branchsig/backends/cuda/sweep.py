"""One call of the CUDA backend: its arrays, its chunks of pairs, and its launches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from branchsig import static_kernels as kernels
from branchsig._arrays import Array
from branchsig.backends.cuda.instances import REALS, compiled_kernel
from branchsig.backends.cuda.plans import PAIRINGS, Plan

if TYPE_CHECKING:
    from branchsig.backends.base import Problem
    from branchsig.backends.cuda.backend import CudaBackend

__all__ = ["Sweep"]


class _Parameters:
    """Converts the sums of the CUDA kernels to gradients with respect to the parameters of a static kernel."""

    def __init__(self, kernel: Any) -> None:
        kernel = kernel.kernel if type(kernel) is kernels.DilatedKernel else kernel
        # for every parameter: the index of its sum, and the divisor
        self._of: list[tuple[int, float]] = [(0, 1.0)]
        if isinstance(kernel, kernels.ScaledLinearKernel):
            self._of = [(0, kernel.scale / 2)]
        elif isinstance(kernel, kernels.PolynomialKernel):
            self._of = [(0, 1.0), (1, kernel.scale)]
            if compiled_kernel(kernel).name == "LINEAR":
                self._of = [(0, math.inf), (0, kernel.scale)]
        else:
            self._of = [(0, kernel.sigma)]
        if isinstance(kernel, kernels.RationalQuadraticKernel):  # its derivative falls like the inverse square of alpha
            self._of += [(1, (kernel.alpha / kernel.effective_alpha) ** 2)]
        self.sums = 1 + max(place for place, _ in self._of)

    def from_sums(self, cupy: Any, sums: Array) -> Array:
        gradients = cupy.empty((*sums.shape[:-1], len(self._of)), dtype=sums.dtype)
        for parameter, (place, divisor) in enumerate(self._of):
            gradients[..., parameter] = sums[..., place] / divisor
        return gradients


class Sweep:
    """The arrays and launches of one call."""

    def __init__(self, backend: CudaBackend, problem: Problem, plan: Plan) -> None:
        self.backend, self.problem, self.plan = backend, problem, plan
        self.cupy = backend._cupy
        self.path1 = self.cupy.ascontiguousarray(problem.path1)
        same = problem.path2 is problem.path1
        self.path2 = self.path1 if same else self.cupy.ascontiguousarray(problem.path2)
        self.lengths1 = self._lengths(problem.lengths1)
        self.lengths2 = self.lengths1 if problem.itself else self._lengths(problem.lengths2)

    def _lengths(self, lengths: np.ndarray | None) -> Array | None:
        """Convert valid lengths for the kernels."""
        return None if lengths is None else self.cupy.asarray(lengths.astype(np.int32))

    def chunks(self, *, gradients: bool = False) -> Iterator[tuple[int, int]]:
        """Yield the pairs in chunks (first, count), and report each chunk once it has been launched."""
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
        """Indices of the two paths of every pair of a chunk."""
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

    def launch(
        self,
        kernel: str,
        first: int,
        count: int,
        content: int,
        increments: Array | None,
        *results: Array | None,
        log_domain_only: bool = False,
    ) -> None:
        """Run a kernel on a chunk of pairs, then its log-domain form on the flagged pairs, or on all pairs.

        `content` is the content of the results (forward), or whether derivatives are those of logarithms (backward).
        """
        cupy = self.cupy
        parameters = kernel == "backward" and results[-1] is not None
        launches = self.plan.launches(kernel, count, content, log_domain_only=log_domain_only, parameters=parameters)
        workspace = cupy.cuda.alloc(launches.workspace_bytes)
        flags = None if log_domain_only else cupy.cuda.alloc(4 * count)
        arrays = self.path1, self.path2, increments, self.lengths1, self.lengths2
        for one in launches.kernels:
            progress = cupy.zeros((1 + one.turns,), dtype=np.int32) if one.turns else None
            arguments = (*arrays, one.from_pair(first), workspace, progress, flags, *results)
            one.function(one.blocks, one.threads, arguments)

    def pair_gradients(
        self,
        first: int,
        count: int,
        derivs: Array,
        d_path1: Array | None,
        d_path2: Array | None,
        of_parameters: Array | None,
        *,
        log: bool,
    ) -> tuple[Array | None, Array | None]:
        """Compute gradients of every pair of a chunk: written into the results for paired paths, returned otherwise.

        Gradients with respect to parameters are always written into the results.
        """

        def room(total: Array | None, path: Array) -> Array | None:
            if total is None:
                return None
            if self.plan.pairing != "paired":
                return self.cupy.empty((count, *path.shape[1:]), dtype=self.plan.dtype)
            return total if count == self.plan.count else total[first : first + count]

        gradients = (
            room(d_path1, self.path1),
            room(d_path1 if self.plan.pairing == "symmetric" else d_path2, self.path2),
        )
        if of_parameters is None:
            self.launch("backward", first, count, log, None, derivs, *gradients, None, None)
            return gradients
        parameters = _Parameters(self.problem.static_kernel)
        sums = self.cupy.empty((count, 2, parameters.sums), dtype=self.plan.dtype)
        self.launch("backward", first, count, log, None, derivs, *gradients, None, sums)
        of_pairs = parameters.from_sums(self.cupy, sums)
        self.put_parameters(of_parameters, first, count, of_pairs[:, 0], of_pairs[:, 1])
        return gradients

    def put_parameters(self, total: Array, first: int, count: int, values: Array, mirrored: Array) -> None:
        """Write the gradients of parameters for the pairs of a chunk, and for the mirrored pairs."""
        rows = total.reshape(-1, total.shape[-1])
        if self.plan.pairing != "symmetric":
            rows[first : first + count] = values
            return
        index1, index2 = self.index(first, count)
        total[index2, index1] = mirrored
        total[index1, index2] = values  # written last, for the diagonal

    def gathered(self, derivs: Array) -> Array:
        """Add derivatives at padded nodes of grids to those at the valid nodes that they repeat."""
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
        """Sum the gradients of a chunk of pairs over the pairs of each path, in order; with `adds`, add to `total`."""
        if total is None:
            return
        size = math.prod(total.shape[1:])
        threads = 256
        blocks = min(-(-total.shape[0] * size // threads), 2**16)
        function = self.backend.function(f"sum_over_partners<{REALS[self.plan.dtype.itemsize]}>")
        integers = (*self.plan.shape, first, count, size)
        flags = (np.int32(PAIRINGS[self.plan.pairing]), np.int32(adds))
        arguments = (firsts, seconds, total, *flags, *(np.int64(value) for value in integers))
        function((blocks,), (threads,), arguments)
