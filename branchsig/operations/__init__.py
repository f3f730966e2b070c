"""Computations on paths as objects, in one registry. See `Operation` for their methods."""

from __future__ import annotations

from branchsig.operations.base import Operation, Pullback, Result
from branchsig.operations.dilations import DilationFactors
from branchsig.operations.increments import FromIncrements
from branchsig.operations.kernels import Gram, Paired, Stack
from branchsig.operations.means import ExpectedScore, MeanDiscrepancy, Score
from branchsig.operations.stages import Shape
from branchsig.operations.transforms import TransformPath

__all__ = ["OPERATIONS", "Operation", "Pullback", "Result", "Shape", "operation_named"]

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Paired(),
        Gram(),
        Stack(),
        FromIncrements(),
        MeanDiscrepancy(),
        Score(),
        ExpectedScore(),
        DilationFactors(),
        TransformPath(),
    )
}
"""All operations, by name."""


def operation_named(name: str) -> Operation:
    """Return an operation of the registry."""
    return OPERATIONS[name]
