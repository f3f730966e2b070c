"""Arrays of other libraries: through DLPack to NumPy or CuPy, to the backend for those, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from branchsig._arrays import Array, from_cupy, from_numpy, to_cupy, to_numpy
from branchsig.backends.base import Backend, Problem
from branchsig.backends.reference import ReferenceBackend
from branchsig.static_kernels import is_built_in

__all__ = ["ThroughCupy", "ThroughNumpy"]


class ThroughNumpy:
    """Serves arrays of another library that lie on the CPU: DLPack to NumPy, a backend for NumPy, and back.

    A static kernel of the user's own expects arrays of the user's own library, and is therefore left to the reference.
    """

    def __init__(self, inner: Backend) -> None:
        self.name = inner.name
        self._inner = inner
        self._own_namespace = ReferenceBackend()

    def log_kernel(self, problem: Problem) -> Array:
        """See `Backend.log_kernel`."""
        return self._through(problem, lambda backend, there: backend.log_kernel(there))

    def kernel(self, problem: Problem) -> Array:
        """See `Backend.kernel`."""
        return self._through(problem, lambda backend, there: backend.kernel(there))

    def grid(self, problem: Problem, *, all_levels: bool) -> Array:
        """See `Backend.grid`."""
        return self._through(problem, lambda backend, there: backend.grid(there, all_levels=all_levels))

    def parts(self, problem: Problem, *, grid: bool) -> Array:
        """See `Backend.parts`."""
        return self._through(problem, lambda backend, there: backend.parts(there, grid=grid))

    def diagonal(self, problem: Problem) -> Array:
        """See `Backend.diagonal`."""
        return self._through(problem, lambda backend, there: backend.diagonal(there))

    def _through(self, problem: Problem, work: Callable[[Backend, Problem], Array]) -> Array:
        converted = self._converted(problem)
        if converted is None:
            return work(self._own_namespace, problem)
        return self._back(work(self._inner, converted), problem.path1)

    def gradients(
        self,
        problem: Problem,
        derivs: Array,
        *,
        wrt_log: bool,
        left: bool,
        right: bool,
        k_stack: Array | None = None,
    ) -> tuple[Array | None, Array | None]:
        """See `Backend.gradients`."""
        converted = self._converted(problem)
        derivs_there = self._there(derivs)
        stack_there = None if k_stack is None else self._there(k_stack)
        if converted is None or derivs_there is None or (k_stack is not None and stack_there is None):
            return self._own_namespace.gradients(
                problem, derivs, wrt_log=wrt_log, left=left, right=right, k_stack=k_stack
            )
        d_path1, d_path2 = self._inner.gradients(
            converted, derivs_there, wrt_log=wrt_log, left=left, right=right, k_stack=stack_there
        )
        return (
            None if d_path1 is None else self._back(d_path1, problem.path1),
            None if d_path2 is None else self._back(d_path2, problem.path2),
        )

    def _there(self, array: Array) -> Array | None:
        return to_numpy(array)

    def _back(self, result: Array, like: Array) -> Array:
        return from_numpy(result, like)

    def _converted(self, problem: Problem) -> Problem | None:
        if not is_built_in(problem.static_kernel):
            return None
        path1 = self._there(problem.path1)
        path2 = path1 if problem.path2 is problem.path1 else self._there(problem.path2)
        if path1 is None or path2 is None:
            return None
        return dataclasses.replace(problem, path1=path1, path2=path2)


class ThroughCupy(ThroughNumpy):
    """Serves arrays of another library that lie on a CUDA device: DLPack to CuPy, its backend, and back."""

    def __init__(self, inner: Backend, cupy: Any) -> None:
        super().__init__(inner)
        self._cupy = cupy

    def _there(self, array: Array) -> Array | None:
        return to_cupy(array, self._cupy)

    def _back(self, result: Array, like: Array) -> Array:
        return from_cupy(result, like)
