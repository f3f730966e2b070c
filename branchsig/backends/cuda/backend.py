"""CUDA for CuPy arrays: compiles and launches the kernels of `raw_kernels`, on the device of the arrays.

A `Problem` on CuPy arrays comes in; kernels, their logarithms, grids or gradients go out, computed on CuPy's current
stream. A warp owns a pair of paths at a time, or a team of warps where there are few, or half of one where there are
many of short paths; a few pairs of long paths go from team to team. So memory beyond the result is that of the pairs in
flight, O(depth · (length1 + length2)) each; the gradients without truncation keep K at every node where it fits, and
otherwise at those of as many columns as a team has. Pairs whose kernels leave the range of the running products are
done again in float64 in the log domain, by kernels that find them on the device: the host never waits. What the kernels
cannot do is left to the reference, in CuPy's own namespace.
"""

from __future__ import annotations

import math
from typing import Any

from branchsig._arrays import Array
from branchsig.backends.base import Gradients, Problem, Want, Wrt
from branchsig.backends.cuda import instances
from branchsig.backends.cuda.instances import fused
from branchsig.backends.cuda.plans import ALL_LEVELS, DIAGONAL, LAST_LEVEL, LOGARITHM, Plan
from branchsig.backends.cuda.sweep import Sweep
from branchsig.backends.reference import ReferenceBackend

__all__ = ["REMEDY", "CudaBackend"]

_MOST_PLANS = 1024
"""Plans that a backend remembers."""

_OLDEST_CUPY = 14
"""Before it a kernel that is handed None gets no null pointer."""

REMEDY = "pip install 'branchsig[cuda12]', or 'branchsig[cuda13]' for CUDA 13"


class CudaBackend:
    """The CUDA kernels. See `branchsig.backends.Backend` for the methods.

    Parameters
    ----------
    cupy : module
        CuPy, imported by whoever holds an array of it already.

    Raises
    ------
    ImportError
        If this CuPy is too old.
    """

    name = "cuda"

    def __init__(self, cupy: Any) -> None:
        version = cupy.__version__
        if int(version.partition(".")[0]) < _OLDEST_CUPY:
            wanted = f"branchsig needs CuPy {_OLDEST_CUPY} or newer"
            raise ImportError(f"CuPy {version} is installed, and {wanted}: {REMEDY}")
        self._cupy = cupy
        self._reference = ReferenceBackend()
        self._functions: dict[tuple[int, str], Any] = {}
        self._processors: dict[int, int] = {}
        self.plans: dict[Any, Plan] = {}

    def solve(self, problem: Problem, want: Want, *, log: bool = False) -> Array:
        """Return kernels, their logarithms or components, at the end or at every node."""
        plan = self.plan(problem, grid=want != "end")
        if not plan.serves:
            return self._reference.solve(problem, want, log=log)
        if want == "prefixes":
            return self._prefixes(problem, plan)
        if problem.order is not None:
            return self._components(problem, plan, grid=want == "grid")
        content = ALL_LEVELS if want == "stack" else LOGARITHM if log else LAST_LEVEL
        return self._ends(problem, plan, content) if want == "end" else self._grid(problem, plan, content)

    def _ends(self, problem: Problem, plan: Plan, content: int) -> Array:
        """K_depth, or its logarithm, at the end of both paths."""
        with _OnDeviceOf(problem.path1):
            if plan.trivial:
                filled = self._cupy.zeros if content == LOGARITHM else self._cupy.ones
                return filled(plan.shape, dtype=plan.dtype)
            sweep = Sweep(self, problem, plan)
            ends = sweep.room(plan.shape, dtype=plan.dtype)
            for first, count in sweep.chunks():
                increments, _ = sweep.given(first, count)
                sweep.launch("forward", first, count, content, increments, ends, None)
            return ends

    def _grid(self, problem: Problem, plan: Plan, content: int) -> Array:
        """K_depth, its logarithm, or K_0 to K_depth, at every node."""
        with _OnDeviceOf(problem.path1):
            levels = (int(problem.depth) + 1,) if content == ALL_LEVELS else ()
            shape = (*levels, plan.rows + 1, plan.columns + 1)
            if plan.trivial:
                filled = self._cupy.zeros if content == LOGARITHM else self._cupy.ones
                return filled((*plan.shape, *shape), dtype=plan.dtype)
            sweep = Sweep(self, problem, plan)
            grid = sweep.room((plan.count, *shape), dtype=plan.dtype)
            for first, count in sweep.chunks():
                increments, _ = sweep.given(first, count)
                part = grid[first : first + count]
                alone = content == LOGARITHM
                sweep.launch("forward", first, count, content, increments, None, part, careful_alone=alone)
            return grid.reshape(*plan.shape, *shape)

    def _components(self, problem: Problem, plan: Plan, *, grid: bool) -> Array:
        """k_0 to k_order at the end of both paths, or at every node."""
        with _OnDeviceOf(problem.path1):
            shape = (*((plan.rows + 1, plan.columns + 1) if grid else ()), plan.depth + 1)
            if plan.trivial:
                parts = self._cupy.zeros((*plan.shape, *shape), dtype=plan.dtype)
                parts[..., 0] = 1
                return parts
            sweep = Sweep(self, problem, plan)
            parts = sweep.room((math.prod(plan.shape), *shape), dtype=plan.dtype)
            for first, count in sweep.chunks():
                increments, _ = sweep.given(first, count)
                results = (None, parts[first : first + count]) if grid else (parts, None)
                sweep.launch("forward", first, count, ALL_LEVELS, increments, *results)
            return parts.reshape(*plan.shape, *shape)

    def _prefixes(self, problem: Problem, plan: Plan) -> Array:
        """log K_depth, or k_0 to k_order, of every path up to each of its points with itself."""
        with _OnDeviceOf(problem.path1):
            shape = (plan.count, problem.path1.shape[1], *((plan.depth + 1,) if plan.parts else ()))
            if plan.trivial:
                diagonal = self._cupy.zeros(shape, dtype=plan.dtype)
                if plan.parts:
                    diagonal[..., 0] = 1
                return diagonal
            sweep = Sweep(self, problem, plan)
            diagonal = sweep.room(shape, dtype=plan.dtype)
            for first, count in sweep.chunks():
                increments, _ = sweep.given(first, count)
                part = diagonal[first : first + count]
                alone = not plan.parts
                sweep.launch("forward", first, count, DIAGONAL, increments, None, part, careful_alone=alone)
            return diagonal

    def adjoint(
        self, problem: Problem, want: Want, derivs: Array, wrt: Wrt, *, log: bool = False, stack: Array | None = None
    ) -> Gradients:
        """Return the gradients with respect to the paths.

        A `stack` is not read: to sweep again takes less time than to fetch depth + 1 grids from memory.
        """
        plan, cupy = self.plan(problem, grid=want == "grid"), self._cupy
        if not plan.serves:
            return self._reference.adjoint(problem, want, derivs, wrt, log=log, stack=stack)
        with _OnDeviceOf(problem.path1):
            sweep = Sweep(self, problem, plan)
            room1 = cupy.zeros if plan.trivial else sweep.room
            room2 = cupy.zeros if problem.pairing == "symmetric" else room1  # the second is a part of the first
            d_path1 = room1(problem.path1.shape, dtype=plan.dtype) if wrt.path1 else None
            d_path2 = room2(problem.path2.shape, dtype=plan.dtype) if wrt.path2 else None
            if plan.trivial or not (wrt.path1 or wrt.path2):
                return Gradients(d_path1, d_path2)
            derivs = cupy.ascontiguousarray(sweep.gathered(derivs) if want == "grid" else derivs)
            adds = False
            for first, count in sweep.chunks(gradients=True):
                part1, part2 = sweep.pair_gradients(first, count, derivs, d_path1, d_path2, wrt_log=log)
                if problem.pairing == "symmetric":  # both places hold the same paths
                    sweep.add_up(d_path1, part1, part2, first, count, adds=adds)
                elif problem.pairing == "gram":
                    sweep.add_up(d_path1, part1, None, first, count, adds=adds)
                    sweep.add_up(d_path2, None, part2, first, count, adds=adds)
                adds = True
            return Gradients(d_path1, d_path2)

    def sweeps(self, problem: Problem) -> bool:
        """Tell whether there is anything in a problem that the kernels do."""
        plan = self.plan(problem, grid=False)
        return plan.serves and not plan.trivial

    def plan(self, problem: Problem, *, grid: bool) -> Plan:
        """Return the plan of a problem, which is that of all problems that differ in their values alone."""
        made = fused(problem.static_kernel)
        key = Plan.key_of(problem, made, grid=grid), problem.path1.device.id
        plan = self.plans.get(key)
        if plan is None:
            plan = Plan(self, problem, made, grid=grid)
            if key[0] is not None:
                if len(self.plans) >= _MOST_PLANS:
                    self.plans.clear()
                self.plans[key] = plan
        return plan

    def function(self, expression: str) -> Any:
        """Return a kernel for the current device, compiled on first use."""
        key = (self.device(), expression)
        if key not in self._functions:
            code = instances.source()
            module = self._cupy.RawModule(code=code, options=("--std=c++17",), name_expressions=(expression,))
            try:
                self._functions[key] = module.get_function(expression)
            except Exception as error:
                raise RuntimeError(
                    f"the CUDA kernel {expression} could not be compiled: {str(error).strip()}. Install a CuPy that "
                    "fits the driver (pip install 'branchsig[cuda12]' or 'branchsig[cuda13]'), or move the paths to "
                    "NumPy"
                ) from error
        return self._functions[key]

    def device(self) -> int:
        """Return the number of the current device."""
        return int(self._cupy.cuda.Device().id)

    def processors(self) -> int:
        """Return the number of multiprocessors of the current device."""
        device = self._cupy.cuda.Device()
        if device.id not in self._processors:
            self._processors[device.id] = int(device.attributes["MultiProcessorCount"])
        return self._processors[device.id]


class _OnDeviceOf:
    """Works on the device of an array, and says what to do where its memory does not suffice."""

    def __init__(self, path: Array) -> None:
        self._device = path.device

    def __enter__(self) -> None:
        self._device.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._device.__exit__(kind, error, trace)
        # The driver sets memory aside for the threads of a kernel, and has an error of its own for it.
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "OUT_OF_MEMORY" in str(error)):
            raise MemoryError(
                f"out of device memory: {error}. Take fewer pairs at a time (max_batch for a Gram matrix), or free "
                "what CuPy holds with cupy.get_default_memory_pool().free_all_blocks()"
            ) from error
