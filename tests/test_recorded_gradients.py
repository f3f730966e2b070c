"""Gradients that a library finds by itself, from the operations of the reference that it has recorded."""

import numpy as np
import pytest

import branchsig

RADIAL = [
    branchsig.RBFKernel,
    branchsig.Matern12Kernel,
    branchsig.Matern32Kernel,
    branchsig.Matern52Kernel,
    branchsig.RationalQuadraticKernel,
]


@pytest.mark.parametrize(
    "kernel",
    [
        branchsig.LinearKernel(),
        *(kind(sigma) for kind in RADIAL for sigma in (0.7, 1e6)),
        branchsig.RationalQuadraticKernel(0.7, 1e12),
        *(branchsig.PolynomialKernel(degree, 9.0, 1e-3) for degree in (0, 1, 3, 2.5)),
    ],
    ids=str,
)
def test_a_framework_that_differentiates_by_itself_finds_the_gradients(kernel):
    """Of points that coincide, steps of 0 and at right angles, and distances that are equal, too."""
    torch = pytest.importorskip("torch")
    x = np.array([[0.0, 0.5], [1.0, 0.5], [1.0, 0.5], [1.0, -0.5], [-0.5, -0.5], [0.0, 1.0]])
    for y in (x.copy(), x[::-1] + np.array([0.25, 0.0])):
        paths = [torch.tensor(path, requires_grad=True) for path in (x, y)]
        value = branchsig.branched_sig_kernel(*paths, 2, static_kernel=kernel, log=True)
        found = torch.autograd.grad(value, paths, allow_unused=True)
        wanted = branchsig.branched_sig_kernel_backprop(
            np.array(1.0), x, y, 2, static_kernel=kernel, log=True, right_deriv=True
        )
        for mine, its in zip(found, wanted, strict=True):
            mine = np.zeros_like(its) if mine is None else mine.numpy()
            np.testing.assert_allclose(mine, its, rtol=0, atol=1e-10 * np.abs(its).max() + 1e-300)
