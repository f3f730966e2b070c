"""The compiled core for NumPy arrays.

`task` describes a problem to the core, `schedule` cuts its pairs into jobs for threads, `isa` chooses the instruction
set, and `backend` serves a `Problem`.
"""

from branchsig.backends.cpu.backend import CpuBackend
from branchsig.backends.cpu.isa import (
    instruction_set,
    instruction_sets,
    lanes,
    set_instruction_set,
    warn_of_environment,
)

__all__ = ["CpuBackend", "instruction_set", "instruction_sets", "lanes", "set_instruction_set", "warn_of_environment"]
