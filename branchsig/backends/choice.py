"""The choice of the backend for an array. Each backend is created when it is first needed, once per process."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np

from branchsig._arrays import is_cupy, lies_on_cuda
from branchsig._warnings import warn
from branchsig.backends.base import Backend, Problem
from branchsig.backends.bridges import ThroughCupy, ThroughNumpy
from branchsig.backends.reference import ReferenceBackend

__all__ = ["backend_for", "for_cupy", "serving"]

serving: dict[str, Backend | None] = {}
"""The backends for the arrays of "numpy", of "others" on the CPU, of "cupy", and of other libraries on a CUDA device:
"through cupy", which is None if CuPy is not installed."""


def backend_for(problem: Problem) -> Backend:
    """Return the backend that serves a problem.

    Parameters
    ----------
    problem : Problem
        The problem to be solved.

    Returns
    -------
    Backend
        One object for NumPy arrays, one for CuPy arrays, one for others on the CPU, one for others on a CUDA device.

    Raises
    ------
    ImportError
        If the arrays belong to a CuPy that is too old.

    Warns
    -----
    RuntimeWarning
        Once per process, if the compiled core is missing.
    """
    path = problem.path1
    if isinstance(path, np.ndarray):
        found = serving.get("numpy") or _found("numpy")
    elif is_cupy(path):
        found = _found("cupy")
    else:
        found = (lies_on_cuda(path) and _found("through cupy")) or _found("others")
    return cast(Backend, found)


def for_cupy() -> Backend:
    """Return the backend for CuPy arrays. CuPy must be importable.

    Raises
    ------
    ImportError
        If this is a CuPy that is too old.
    """
    return cast(Backend, _found("cupy"))


def _found(arrays: str) -> Backend | None:
    if arrays not in serving:
        _FINDERS[arrays]()
    return serving[arrays]


def _find_for_cpu() -> None:
    """Choose the backends before warning, since the warning may be turned into an exception."""
    try:
        from branchsig.backends import cpu

        core = serving.setdefault("numpy", cpu.CpuBackend())
        serving.setdefault("others", ThroughNumpy(cast(Backend, core)))
        cpu.warn_of_environment()
    except ImportError as error:
        reference = serving.setdefault("numpy", ReferenceBackend())
        serving.setdefault("others", ThroughNumpy(cast(Backend, reference)))
        warn(
            f"the compiled core of branchsig is not available ({error}): the reference implementation replaces it, "
            "which is slower and needs more memory. To get the core, reinstall branchsig with a C compiler: "
            "'pip install --force-reinstall --no-deps branchsig'"
        )


def _find_for_cupy() -> None:
    import cupy

    from branchsig.backends.cuda import CudaBackend, OverDevices

    serving["cupy"] = OverDevices(CudaBackend(cupy), cupy)


def _find_through_cupy() -> None:
    try:
        import cupy
    except ImportError:
        serving["through cupy"] = None
    else:
        serving["through cupy"] = ThroughCupy(for_cupy(), cupy)


_FINDERS: dict[str, Callable[[], None]] = {
    "numpy": _find_for_cpu,
    "others": _find_for_cpu,
    "cupy": _find_for_cupy,
    "through cupy": _find_through_cupy,
}
