"""Static kernels: kernels on the space the paths live in, and the gradients of their increments.

A static kernel κ maps stacks of paths x and y to its increments::

    g[i, j] = κ(x[i+1], y[j+1]) − κ(x[i], y[j+1]) − κ(x[i+1], y[j]) + κ(x[i], y[j])

Its gradients map derivatives with respect to g to those with respect to x, y and the parameters of κ. Everything is
written in array API calls and works on arrays of any library.
"""

from branchsig.static_kernels.base import Context, StaticKernel, parameters_of, with_numbers
from branchsig.static_kernels.calls import gradient_parameters, gradient_x, gradient_y, increments
from branchsig.static_kernels.dilated import DilatedKernel, divides_by_scale, is_built_in
from branchsig.static_kernels.dot import PolynomialKernel
from branchsig.static_kernels.linear import LINEAR, LinearKernel, ScaledLinearKernel
from branchsig.static_kernels.radial import (
    Matern12Kernel,
    Matern32Kernel,
    Matern52Kernel,
    RationalQuadraticKernel,
    RBFKernel,
)
from branchsig.static_kernels.table import BOUNDED, is_linear

__all__ = [
    "BOUNDED",
    "LINEAR",
    "Context",
    "DilatedKernel",
    "LinearKernel",
    "Matern12Kernel",
    "Matern32Kernel",
    "Matern52Kernel",
    "PolynomialKernel",
    "RBFKernel",
    "RationalQuadraticKernel",
    "ScaledLinearKernel",
    "StaticKernel",
    "divides_by_scale",
    "gradient_parameters",
    "gradient_x",
    "gradient_y",
    "increments",
    "is_built_in",
    "is_linear",
    "parameters_of",
    "with_numbers",
]
