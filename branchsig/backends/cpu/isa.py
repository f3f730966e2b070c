"""The instruction set of the compiled core: which there are, and which is in use."""

from __future__ import annotations

import os

from branchsig._core import ffi, lib
from branchsig._warnings import warn

__all__ = ["instruction_set", "instruction_sets", "lanes", "set_instruction_set", "warn_of_environment"]


def instruction_set() -> str:
    """Return the instruction set in use: "avx512", "avx2" or "baseline"."""
    return str(ffi.string(lib.bs_isa_name()).decode())


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that this build and this machine can run, the best one first."""
    return tuple(name for name in ("avx512", "avx2", "baseline") if lib.bs_lanes_of(name.encode()) > 0)


def lanes(name: str) -> int:
    """Return how many pairs of paths a register of an instruction set holds; 0 if it cannot be used here."""
    return int(lib.bs_lanes_of(name.encode()))


def set_instruction_set(name: str) -> None:
    """Choose the instruction set for all later calls.

    Raises
    ------
    ValueError
        If this build or this machine cannot run it.
    """
    if lib.bs_set_isa(name.encode()) != 0:
        raise ValueError(f"instruction set {name!r} cannot be used here: expected one of {instruction_sets()}")


def warn_of_environment() -> None:
    """Warn if the environment variable BRANCHSIG_ISA names an instruction set that cannot be used here."""
    name = os.environ.get("BRANCHSIG_ISA")
    if name and name not in instruction_sets():
        warn(
            f"BRANCHSIG_ISA is {name!r}, which is no instruction set that this build and this machine can run: "
            f"expected one of {', '.join(instruction_sets())}. {instruction_set()} is used"
        )
