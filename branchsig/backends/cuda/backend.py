"""CUDA for CuPy arrays: compiles and launches the kernels of `raw_kernels`, on the device of the arrays.

It solves a `Problem` on CuPy arrays on CuPy's current stream. A warp processes one pair of paths at a time; a team of
warps does if there are few pairs, and half a warp if there are many pairs of short paths. A few pairs of long paths are
relayed between teams. Memory beyond the result is that of the pairs in flight, O(depth · (length1 + length2)) each;
gradients without truncation, and over ordered forests, store K at every node if it fits, and otherwise for the columns
of one pass of a team. Pairs whose kernels leave the range of the running products are recomputed in float64 in the log
domain (over ordered forests: those that may have lost their digits, with rounding errors propagated), by kernels that
find them on the device: the host never synchronises. Problems that the kernels do not support go to the reference, in
CuPy's namespace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from branchsig._arrays import Array
from branchsig.backends import pairs
from branchsig.backends.base import Gradients, Problem, Want, Wrt
from branchsig.backends.cuda import instances
from branchsig.backends.cuda.instances import GIVEN, compiled_kernel
from branchsig.backends.cuda.plans import ALL_LEVELS, DIAGONAL, LAST_LEVEL, LOGARITHM, Plan
from branchsig.backends.cuda.sweep import Sweep
from branchsig.backends.reference import ReferenceBackend
from branchsig.static_kernels import divides_by_scale, parameters_of

__all__ = ["REMEDY", "CudaBackend"]

S = TypeVar("S")
T = TypeVar("T")

_MOST_PLANS = 1024
"""Number of plans that a backend caches."""

_OLDEST_CUPY = 14
"""Oldest major version: before it, passing None to a kernel did not give a null pointer."""

REMEDY = "pip install 'branchsig[cuda12]', or 'branchsig[cuda13]' for CUDA 13"


class CudaBackend:
    """The CUDA kernels. See `branchsig.backends.Backend` for the methods.

    Parameters
    ----------
    cupy : module
        The CuPy module, imported by the caller.

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
        with _OnDeviceOf(problem.path1):
            if plan.still:
                return pairs.all_ones(problem, want, log=log)
            if plan.static_kernel == GIVEN:
                return pairs.solve(problem, self, want, log=log)
            return self._values(problem, plan, want, log=log)

    def _values(self, problem: Problem, plan: Plan, want: Want, *, log: bool, given: Array | None = None) -> Array:
        """Compute the result of `solve` with the CUDA kernels."""
        shape = pairs.shape_of(problem, want)
        if plan.components:
            slowly = False
        elif plan.planar:  # nodes that are judged by their own size
            slowly = want in ("grid", "stack") and problem.purpose not in (None, "kernel", "rough")
        else:
            slowly = want == "prefixes" or (want == "grid" and log)
        if plan.components or want == "stack":
            content = ALL_LEVELS
        else:
            content = LOGARITHM if log or plan.planar else LAST_LEVEL
        if want == "prefixes":
            content = DIAGONAL
        sweep = Sweep(self, problem, plan)
        values = self.room(problem, (math.prod(shape[: problem.axes]), *shape[problem.axes :]))
        for first, count in sweep.chunks():
            results = (values, None) if want == "end" else (None, values[first : first + count])
            sweep.launch("forward", first, count, content, given, *results, log_domain_only=slowly)
        return values.reshape(shape)

    def adjoint(
        self, problem: Problem, want: Want, derivs: Array, wrt: Wrt, *, log: bool = False, stack: Array | None = None
    ) -> Gradients:
        """Return the gradients with respect to the paths and the parameters of the static kernel.

        `stack` is not read: sweeping again is faster than reading depth + 1 grids from memory.
        """
        plan, cupy = self.plan(problem, grid=want == "grid"), self._cupy
        if not plan.serves:
            return self._reference.adjoint(problem, want, derivs, wrt, log=log, stack=stack)
        names = parameters_of(problem.static_kernel) if wrt.parameters else ()
        if names and not divides_by_scale(problem.static_kernel):
            found = self.adjoint(problem, want, derivs, wrt._replace(parameters=False), log=log)
            other = self._reference.adjoint(problem, want, derivs, Wrt(parameters=True), log=log, stack=stack)
            return found._replace(parameters=other.parameters)
        with _OnDeviceOf(problem.path1):
            if plan.still or not (wrt.path1 or wrt.path2 or names):
                return pairs.without_gradient(problem, wrt)
            if plan.static_kernel == GIVEN:
                return pairs.adjoint(problem, self, want, derivs, wrt, log=log)
            sweep = Sweep(self, problem, plan)
            d_path1 = self.room(problem, problem.path1.shape) if wrt.path1 else None
            d_path2 = self.room(problem, problem.path2.shape) if wrt.path2 else None
            if problem.pairing == "symmetric" and wrt.path2:  # included in the first gradient
                d_path2 = cupy.zeros_like(problem.path2)
            of_parameters = self.room(problem, (*plan.shape, len(names))) if wrt.parameters else None
            into = of_parameters if names else None
            derivs = cupy.ascontiguousarray(sweep.gathered(derivs) if want == "grid" else derivs)
            adds = False
            for first, count in sweep.chunks(gradients=True):
                part1, part2 = sweep.pair_gradients(first, count, derivs, d_path1, d_path2, into, log=log)
                if problem.pairing == "symmetric":  # both arguments are the same paths
                    sweep.add_up(d_path1, part1, part2, first, count, adds=adds)
                elif problem.pairing == "gram":
                    sweep.add_up(d_path1, part1, None, first, count, adds=adds)
                    sweep.add_up(d_path2, None, part2, first, count, adds=adds)
                adds = True
            return Gradients(d_path1, d_path2, of_parameters)

    # Pairs with given increments: see `pairs.Solver`.

    def most_pairs(self, problem: Problem, *, gradients: bool) -> int:
        """Return how many pairs may be solved together, by the memory of their increments."""
        return self.plan(problem, grid=False).chunk(gradients=gradients)

    def run(self, items: Iterable[S], work: Callable[[S], T], collect: Callable[[T], None]) -> None:
        """Apply `work` to all items in order; the host continues while the device works."""
        for item in items:
            collect(work(item))

    def room(self, problem: Problem, shape: tuple[int, ...]) -> Array:
        """Return an array for values, filled with 0 if only a share of the pairs is computed."""
        return (self._cupy.empty if problem.share == (0, 1) else self._cupy.zeros)(shape, dtype=problem.path1.dtype)

    def values(self, problem: Problem, given: Array, want: Want, *, log: bool) -> Array:
        """Return kernels, their logarithms or components, of pairs with given increments."""
        plan = self.plan(problem, grid=want != "end")
        return self._values(problem, plan, want, log=log, given=self._cupy.ascontiguousarray(given))

    def increments_adjoint(
        self, problem: Problem, given: Array, want: Want, derivs: Array, *, log: bool, stack: Array | None
    ) -> Array:
        """Return the gradient with respect to the increments, NaN for a pair without a finite value."""
        cupy, sweep = self._cupy, Sweep(self, problem, self.plan(problem, grid=want == "grid"))
        derivs = cupy.ascontiguousarray(sweep.gathered(derivs) if want == "grid" else derivs)
        given, d_given = cupy.ascontiguousarray(given), cupy.empty(given.shape, dtype=given.dtype)
        sweep.launch("backward", 0, given.shape[0], log, given, derivs, None, None, d_given, None)
        return d_given

    def sweeps(self, problem: Problem) -> bool:
        """Tell whether the CUDA kernels have work to do in a problem."""
        plan = self.plan(problem, grid=False)
        return plan.serves and not plan.still

    def plan(self, problem: Problem, *, grid: bool) -> Plan:
        """Return the plan of a problem; problems that differ only in their values share one."""
        compiled = compiled_kernel(problem.static_kernel)
        key = Plan.key_of(problem, compiled, grid=grid), problem.path1.device.id
        plan = self.plans.get(key)
        if plan is None:
            plan = Plan(self, problem, compiled, grid=grid)
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
    """Makes the device of an array current, and turns errors of device memory into a MemoryError with a remedy."""

    def __init__(self, path: Array) -> None:
        self._device = path.device

    def __enter__(self) -> None:
        self._device.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._device.__exit__(kind, error, trace)
        # The driver allocates local memory for the threads of a kernel, and reports a failure with its own error.
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "OUT_OF_MEMORY" in str(error)):
            raise MemoryError(
                f"out of device memory: {error}. Compute fewer pairs at a time (max_batch for a Gram matrix), or free "
                "CuPy's memory pool with cupy.get_default_memory_pool().free_all_blocks()"
            ) from error
