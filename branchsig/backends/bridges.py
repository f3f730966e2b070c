"""Backends for arrays of other libraries: they convert to NumPy or CuPy through DLPack, solve, and convert back."""

from __future__ import annotations

import dataclasses
from typing import Any

from branchsig._arrays import Array, from_cupy, from_numpy, to_cupy, to_numpy
from branchsig.backends.base import Backend, Gradients, Problem, Want, Wrt
from branchsig.backends.reference import ReferenceBackend
from branchsig.static_kernels import is_built_in

__all__ = ["ThroughCupy", "ThroughNumpy"]


class ThroughNumpy:
    """Serves arrays of other libraries on the CPU: converts to NumPy through DLPack, solves, and converts back.

    A custom static kernel expects arrays of the caller's library, so the reference serves it.
    """

    def __init__(self, inner: Backend) -> None:
        self.name = inner.name
        self._inner = inner
        self._own_namespace = ReferenceBackend()

    def solve(self, problem: Problem, want: Want, *, log: bool = False) -> Array:
        """See `Backend.solve`."""
        converted = self._convert_problem(problem)
        if converted is None:
            return self._own_namespace.solve(problem, want, log=log)
        return self._convert_back(self._inner.solve(converted, want, log=log), problem.path1)

    def adjoint(
        self, problem: Problem, want: Want, derivs: Array, wrt: Wrt, *, log: bool = False, stack: Array | None = None
    ) -> Gradients:
        """See `Backend.adjoint`."""
        converted = self._convert_problem(problem)
        converted_derivs = self._convert(derivs)
        converted_stack = None if stack is None else self._convert(stack)
        if converted is None or converted_derivs is None or (stack is not None and converted_stack is None):
            return self._own_namespace.adjoint(problem, want, derivs, wrt, log=log, stack=stack)
        found = self._inner.adjoint(converted, want, converted_derivs, wrt, log=log, stack=converted_stack)
        return Gradients(
            *(None if gradient is None else self._convert_back(gradient, problem.path1) for gradient in found)
        )

    def _convert(self, array: Array) -> Array | None:
        return to_numpy(array)

    def _convert_back(self, result: Array, like: Array) -> Array:
        return from_numpy(result, like)

    def _convert_problem(self, problem: Problem) -> Problem | None:
        if not is_built_in(problem.static_kernel):
            return None
        path1 = self._convert(problem.path1)
        path2 = path1 if problem.path2 is problem.path1 else self._convert(problem.path2)
        if path1 is None or path2 is None:
            return None
        return dataclasses.replace(problem, path1=path1, path2=path2)


class ThroughCupy(ThroughNumpy):
    """Serves arrays of other libraries on a CUDA device: converts to CuPy through DLPack, solves, and converts back."""

    def __init__(self, inner: Backend, cupy: Any) -> None:
        super().__init__(inner)
        self._cupy = cupy

    def _convert(self, array: Array) -> Array | None:
        return to_cupy(array, self._cupy)

    def _convert_back(self, result: Array, like: Array) -> Array:
        return from_cupy(result, like)
