"""Several CUDA devices: each does a share of the pairs of a problem, and the shares are added up where the paths lie.

A `Problem` on CuPy arrays with `devices` comes in. Every device gets the paths and the share of the pairs that is its
own; its results are 0 for all others, so that their sum is the result. The host waits for nothing: devices wait for
each other by events.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from branchsig._arrays import Array

if TYPE_CHECKING:
    from branchsig.backends.base import Problem
    from branchsig.backends.cuda.backend import CudaBackend

__all__ = ["OverDevices"]

_Arrays = tuple[Array | None, ...]


class OverDevices:
    """The CUDA backend over several devices. See `branchsig.backends.Backend` for the methods.

    Parameters
    ----------
    inner : CudaBackend
        What each of the devices works with. Problems that its kernels do not serve, or that name no devices, are left
        to it as they are.
    cupy : module
        CuPy.
    """

    name = "cuda"

    def __init__(self, inner: CudaBackend, cupy: Any) -> None:
        self.inner = inner
        self._cupy = cupy

    def log_kernel(self, problem: Problem) -> Array:
        """See `Backend.log_kernel`."""
        return self._spread(problem, (), lambda there: (self.inner.log_kernel(there),))[0]

    def kernel(self, problem: Problem) -> Array:
        """See `Backend.kernel`."""
        return self._spread(problem, (), lambda there: (self.inner.kernel(there),))[0]

    def grid(self, problem: Problem, *, all_levels: bool) -> Array:
        """See `Backend.grid`."""
        return self._spread(problem, (), lambda there: (self.inner.grid(there, all_levels=all_levels),))[0]

    def parts(self, problem: Problem, *, grid: bool) -> Array:
        """See `Backend.parts`."""
        return self._spread(problem, (), lambda there: (self.inner.parts(there, grid=grid),))[0]

    def diagonal(self, problem: Problem) -> Array:
        """See `Backend.diagonal`."""
        return self._spread(problem, (), lambda there: (self.inner.diagonal(there),))[0]

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

        def gradients(there: Problem, derivs: Array) -> _Arrays:
            stack = k_stack if there is problem else None  # which no kernel reads
            return self.inner.gradients(there, derivs, wrt_log=wrt_log, left=left, right=right, k_stack=stack)

        d_path1, d_path2 = self._spread(problem, (derivs,), gradients)
        return d_path1, d_path2

    def _spread(self, problem: Problem, arrays: _Arrays, work: Callable[..., _Arrays]) -> _Arrays:
        """The sums over all devices of the results of the work, which takes a problem and arrays on its own device."""
        if not problem.devices or not self.inner.sweeps(problem):
            return work(problem, *arrays)
        home = problem.path1.device
        number = int(self._cupy.cuda.runtime.getDeviceCount())
        if max(problem.devices) >= number:
            raise ValueError(f"devices is {list(problem.devices)}: CuPy finds {number} devices, 0 to {number - 1}")
        results = []
        for share, device in enumerate(problem.devices):
            with self._cupy.cuda.Device(device):
                self._wait_for(home)
                path1 = self._cupy.asarray(problem.path1)
                path2 = path1 if problem.path2 is problem.path1 else self._cupy.asarray(problem.path2)
                there = dataclasses.replace(
                    problem, path1=path1, path2=path2, devices=(), share=(share, len(problem.devices))
                )
                results.append(work(there, *(self._cupy.asarray(array) for array in arrays)))
        totals: list[Array | None] = [None] * len(results[0])
        with home:
            for device, result in zip(problem.devices, results, strict=True):
                self._wait_for(self._cupy.cuda.Device(device))
                for k, part in enumerate(result):
                    if part is not None:
                        part = self._cupy.asarray(part)
                        totals[k] = part if totals[k] is None else totals[k] + part
        for device in problem.devices:  # before it uses the memory of its results for something else
            with self._cupy.cuda.Device(device):
                self._wait_for(home)
        return tuple(totals)

    def _wait_for(self, device: Any) -> None:
        """Let the current stream of the current device wait for what that of another one has been given to do."""
        with device:
            event = self._cupy.cuda.Event(disable_timing=True)
            event.record()
        self._cupy.cuda.get_current_stream().wait_event(event)
