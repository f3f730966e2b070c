"""Several CUDA devices: each computes a share of the pairs of a problem; the shares are summed on the device of the
paths.

Every device receives all paths of a `Problem` with `devices`, and its share of the pairs. Its results are 0 for all
other pairs, so the sum over the devices is the result. Devices synchronise by events; the host does not wait.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from branchsig._arrays import Array
from branchsig.backends.base import Gradients, Problem, Want, Wrt

if TYPE_CHECKING:
    from branchsig.backends.cuda.backend import CudaBackend

__all__ = ["OverDevices"]

_Arrays = tuple[Array | None, ...]


class OverDevices:
    """The CUDA backend over several devices. See `branchsig.backends.Backend` for the methods.

    Parameters
    ----------
    inner : CudaBackend
        The backend that each device uses. Problems without devices, or that its kernels do not serve, go to it
        unchanged.
    cupy : module
        CuPy.
    """

    name = "cuda"

    def __init__(self, inner: CudaBackend, cupy: Any) -> None:
        self.inner = inner
        self._cupy = cupy

    def solve(self, problem: Problem, want: Want, *, log: bool = False) -> Array:
        """See `Backend.solve`."""
        return self._spread(problem, (), lambda part: (self.inner.solve(part, want, log=log),))[0]

    def adjoint(
        self, problem: Problem, want: Want, derivs: Array, wrt: Wrt, *, log: bool = False, stack: Array | None = None
    ) -> Gradients:
        """See `Backend.adjoint`."""

        def gradients(part: Problem, derivs: Array) -> Gradients:
            read = stack if part is problem else None  # no kernel reads it
            return self.inner.adjoint(part, want, derivs, wrt, log=log, stack=read)

        return Gradients(*self._spread(problem, (derivs,), gradients))

    def _spread(self, problem: Problem, arrays: _Arrays, work: Callable[..., _Arrays]) -> _Arrays:
        """Run `work` on all devices, with the problem and arrays copied there, and sum the results."""
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
                of_device = dataclasses.replace(
                    problem, path1=path1, path2=path2, devices=(), share=(share, len(problem.devices))
                )
                results.append(work(of_device, *(self._cupy.asarray(array) for array in arrays)))
        totals: list[Array | None] = [None] * len(results[0])
        with home:
            for device, result in zip(problem.devices, results, strict=True):
                self._wait_for(self._cupy.cuda.Device(device))
                for k, part in enumerate(result):
                    if part is not None:
                        part = self._cupy.asarray(part)
                        totals[k] = part if totals[k] is None else totals[k] + part
        for device in problem.devices:  # before a device reuses the memory of its results
            with self._cupy.cuda.Device(device):
                self._wait_for(home)
        return tuple(totals)

    def _wait_for(self, device: Any) -> None:
        """Let the current stream of the current device wait for the work in the current stream of another device."""
        with device:
            event = self._cupy.cuda.Event(disable_timing=True)
            event.record()
        self._cupy.cuda.get_current_stream().wait_event(event)
