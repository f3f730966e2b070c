"""``branchsig info``: what this installation has."""

from __future__ import annotations

import os
import platform

import numpy as np

import branchsig
from branchsig.cli.arguments import has

__all__ = ["run"]


def run() -> int:
    """Print version, backends, instruction set and CUDA; return the exit status."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    extras = [name for name in ("matplotlib", "tqdm", "pandas", "sklearn", "zarr") if has(name)]
    rows = [
        ("branchsig", branchsig.__version__),
        ("Python", platform.python_version()),
        ("NumPy", np.__version__),
        ("backends", _backends()),
        ("CPU", f"{platform.machine()}, {cores} cores usable"),
        ("CUDA", _cuda()),
        ("optional", ", ".join(extras) or "none installed"),
    ]
    for name, value in rows:
        print(f"{name:<10} {value}")
    return 0


def _backends() -> str:
    try:
        from branchsig.backends import cpu
    except ImportError:
        return "reference (the C core is missing)"
    cpu.warn_of_environment()
    return f"cpu (C core, instruction set {cpu.instruction_set()}), reference"


def _cuda() -> str:
    """Describe CuPy and the CUDA devices that it finds."""
    if not has("cupy"):
        return "CuPy is not installed (pip install 'branchsig[cuda12]', or 'branchsig[cuda13]' for CUDA 13)"
    import cupy

    if not cupy.is_available():
        return f"CuPy {cupy.__version__} finds no device"
    number = int(cupy.cuda.runtime.getDeviceCount())
    return f"CuPy {cupy.__version__}, {number} device{'' if number == 1 else 's'}"
