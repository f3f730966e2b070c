"""Backends: what solves a `Problem`, for the arrays of one library each.

`base` says what a problem and a backend are, `choice` which backend serves an array, and `bridges` takes arrays of
other libraries to NumPy or CuPy. `reference` serves any array, `cpu` those of NumPy, and `cuda` those of CuPy.
"""

from branchsig.backends.base import Backend, Gradients, Problem, Want, Wrt
from branchsig.backends.bridges import ThroughCupy, ThroughNumpy
from branchsig.backends.choice import backend_for, for_cupy

__all__ = [
    "Backend",
    "Gradients",
    "Problem",
    "ThroughCupy",
    "ThroughNumpy",
    "Want",
    "Wrt",
    "backend_for",
    "for_cupy",
]
