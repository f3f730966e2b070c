"""Branched signature kernels of paths, their Gram matrices and their gradients, on the arrays of any library."""

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version

from branchsig.as_paths import as_paths
from branchsig.backends.cuda import warm_up
from branchsig.dilation import dilation, dilation_backprop, dilation_vjp
from branchsig.gram import branched_sig_kernel_gram, branched_sig_kernel_gram_backprop, branched_sig_kernel_gram_vjp
from branchsig.kernel import (
    branched_sig_kernel,
    branched_sig_kernel_backprop,
    branched_sig_kernel_stack,
    branched_sig_kernel_stack_backprop,
    branched_sig_kernel_stack_vjp,
    branched_sig_kernel_vjp,
)
from branchsig.paths import pad_paths, transform_path, transform_path_backprop, transform_path_vjp
from branchsig.quadrature import GaussLobatto, LeftPoint, Trapezoid
from branchsig.samples import (
    branched_sig_mmd,
    branched_sig_mmd_backprop,
    branched_sig_mmd_vjp,
    branched_sig_score,
    branched_sig_score_backprop,
    branched_sig_score_vjp,
    expected_branched_sig_score,
    expected_branched_sig_score_backprop,
    expected_branched_sig_score_vjp,
)
from branchsig.signature_kernel import (
    expected_sig_score,
    sig_kernel,
    sig_kernel_backprop,
    sig_kernel_gram,
    sig_kernel_gram_backprop,
    sig_kernel_gram_vjp,
    sig_kernel_vjp,
    sig_mmd,
    sig_score,
)
from branchsig.static_kernels import (
    Context,
    LinearKernel,
    Matern12Kernel,
    Matern32Kernel,
    Matern52Kernel,
    PolynomialKernel,
    RationalQuadraticKernel,
    RBFKernel,
    ScaledLinearKernel,
    StaticKernel,
)
from branchsig.two_sample_test import TwoSampleTest, branched_sig_mmd_test

try:
    __version__ = _version("branchsig")
except _PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "Context",
    "GaussLobatto",
    "LeftPoint",
    "LinearKernel",
    "Matern12Kernel",
    "Matern32Kernel",
    "Matern52Kernel",
    "PolynomialKernel",
    "RBFKernel",
    "RationalQuadraticKernel",
    "ScaledLinearKernel",
    "StaticKernel",
    "Trapezoid",
    "TwoSampleTest",
    "__version__",
    "as_paths",
    "branched_sig_kernel",
    "branched_sig_kernel_backprop",
    "branched_sig_kernel_gram",
    "branched_sig_kernel_gram_backprop",
    "branched_sig_kernel_gram_vjp",
    "branched_sig_kernel_stack",
    "branched_sig_kernel_stack_backprop",
    "branched_sig_kernel_stack_vjp",
    "branched_sig_kernel_vjp",
    "branched_sig_mmd",
    "branched_sig_mmd_backprop",
    "branched_sig_mmd_test",
    "branched_sig_mmd_vjp",
    "branched_sig_score",
    "branched_sig_score_backprop",
    "branched_sig_score_vjp",
    "dilation",
    "dilation_backprop",
    "dilation_vjp",
    "expected_branched_sig_score",
    "expected_branched_sig_score_backprop",
    "expected_branched_sig_score_vjp",
    "expected_sig_score",
    "pad_paths",
    "sig_kernel",
    "sig_kernel_backprop",
    "sig_kernel_gram",
    "sig_kernel_gram_backprop",
    "sig_kernel_gram_vjp",
    "sig_kernel_vjp",
    "sig_mmd",
    "sig_score",
    "transform_path",
    "transform_path_backprop",
    "transform_path_vjp",
    "warm_up",
]
