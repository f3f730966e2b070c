"""Backends solve a `Problem`, each for the arrays of one library.

`base` defines problems and backends, `choice` selects the backend for an array, and `bridges` converts arrays of other
libraries to NumPy or CuPy. `reference` serves any array, `cpu` NumPy arrays, and `cuda` CuPy arrays.
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
