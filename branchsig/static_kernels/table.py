"""The table of built-in static kernels: one row each, shared by Python, the C core and the CUDA kernels.

The position of a name in `NAMES` is its number in the sources. The enumeration in core.cdef has the same order; that of
the CUDA kernels is generated from here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from branchsig.static_kernels.base import StaticKernel
from branchsig.static_kernels.dot import PolynomialKernel
from branchsig.static_kernels.linear import LinearKernel, ScaledLinearKernel
from branchsig.static_kernels.radial import (
    Matern12Kernel,
    Matern32Kernel,
    Matern52Kernel,
    RadialKernel,
    RationalQuadraticKernel,
    RBFKernel,
)

__all__ = ["BOUNDED", "BUILT_IN", "NAMES", "TABLE", "Row", "is_linear"]


class Row(NamedTuple):
    """Name and parameters of a static kernel in the C and CUDA sources."""

    name: str
    attributes: tuple[str, ...]
    """Its parameters, in the order of the sources."""

    def values(self, kernel: Any) -> tuple[float, ...]:
        """The parameters of a kernel."""
        return tuple(float(getattr(kernel, name)) for name in self.attributes)


TABLE: dict[type, Row] = {
    LinearKernel: Row("LINEAR", ()),
    ScaledLinearKernel: Row("LINEAR", ("scale",)),
    PolynomialKernel: Row("POLYNOMIAL", ("degree", "gamma", "scale")),
    RBFKernel: Row("RBF", ("sigma",)),
    Matern12Kernel: Row("MATERN12", ("sigma",)),
    Matern32Kernel: Row("MATERN32", ("sigma",)),
    Matern52Kernel: Row("MATERN52", ("sigma",)),
    RationalQuadraticKernel: Row("RATIONAL_QUADRATIC", ("sigma", "effective_alpha")),
}

GIVEN = "GIVEN"
"""In the sources: the increments are precomputed and passed in, as for custom kernels."""

NAMES = tuple(dict.fromkeys((GIVEN, *(row.name for row in TABLE.values()))))

BUILT_IN = frozenset(TABLE)

BOUNDED = tuple(kernel for kernel in TABLE if issubclass(kernel, RadialKernel))
"""Static kernels whose values have a bound."""


def is_linear(kernel: StaticKernel) -> bool:
    """Tell whether the feature map of a kernel is the identity, up to a factor and a constant."""
    return (
        type(kernel) is LinearKernel
        or type(kernel) is ScaledLinearKernel
        or (type(kernel) is PolynomialKernel and kernel.degree == 1.0)
    )
