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
        ("core", _core()),
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
        return "reference"
    cpu.warn_of_environment()
    return "cpu, reference"


def _core() -> str:
    """Describe the instruction sets that the C core can use here."""
    try:
        from branchsig.backends import cpu
    except ImportError:
        return "the C core is missing"
    baseline = {"x86_64": " (SSE2)", "amd64": " (SSE2)", "aarch64": " (NEON)", "arm64": " (NEON)"}
    names = {name: name for name in cpu.instruction_sets()}
    names["baseline"] += baseline.get(platform.machine().lower(), "")
    usable = ", ".join(f"{shown}: {cpu.lanes(name)}" for name, shown in names.items())
    return f"instruction set {names[cpu.instruction_set()]}; lanes of float64 by instruction set: {usable}"


def _cuda() -> str:
    """Describe CuPy and the CUDA devices that it finds."""
    if not has("cupy"):
        return "CuPy is not installed (pip install 'branchsig[cuda12]', or 'branchsig[cuda13]' for CUDA 13)"
    import cupy

    if not cupy.is_available():
        return f"CuPy {cupy.__version__} finds no device"
    number = int(cupy.cuda.runtime.getDeviceCount())
    return f"CuPy {cupy.__version__}, {number} device{'' if number == 1 else 's'}"
