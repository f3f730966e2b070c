"""What is asked of every framework: the public functions with their options, as scalar functions of paths."""

import math

import numpy as np
from cases import walk

import branchsig


class Case:
    """A public function on paths as a scalar function: the sum of its value times weights."""

    def __init__(self, name, shapes, **options):
        self.name, self.shapes, self.options = name, shapes, options

    def __repr__(self):
        said = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name.removeprefix('branched_sig_')}({said})"

    def paths(self, rng, dtype="float64"):
        return [walk(rng, *shape).astype(dtype) for shape in self.shapes]

    def value(self, *paths, **more):
        itself = () if len(self.shapes) > 1 or self.name in ALONE else (None,)
        return getattr(branchsig, self.name)(*paths, *itself, **({"depth": 3} | self.options | more))

    def gradients(self, weights, *paths, **more):
        """Those of NumPy arrays."""
        options = {"depth": 3} | self.options | more
        if self.name in ALONE:
            return (getattr(branchsig, self.name + "_backprop")(weights, *paths, **options),)
        second = paths[1] if len(paths) > 1 else None
        found = getattr(branchsig, self.name + "_backprop")(
            weights, paths[0], second, right_deriv=second is not None, **options
        )
        return found[: len(paths)]


ALONE = ("dilation",)
PAIR, TWO, ONE = [(3, 5, 2), (3, 4, 2)], [(3, 5, 2), (2, 4, 2)], [(3, 5, 2)]
SHORT = [
    Case("branched_sig_kernel", PAIR),
    Case("branched_sig_kernel_gram", TWO),
    Case("branched_sig_kernel_gram", ONE),
    Case("branched_sig_kernel_stack", PAIR),
    Case("branched_sig_mmd", TWO),
    Case("branched_sig_score", TWO),
    Case("expected_branched_sig_score", TWO),
    Case("dilation", ONE),
]
MORE = [
    Case("branched_sig_kernel", PAIR, return_grid=True, dyadic_order=(1, 0)),
    Case("branched_sig_kernel", PAIR, order=3, return_levels=True, depth=math.inf),
    Case("branched_sig_kernel", PAIR, depth=2, time_aug=True, lead_lag=True, end_time=0.5, quadrature="lobatto3"),
    Case("branched_sig_kernel", PAIR, depth=math.inf),
    Case("branched_sig_kernel", PAIR, rtol=1e-4),
    Case("branched_sig_kernel_gram", TWO, normalize=True, log=True),
    Case("branched_sig_kernel_gram", TWO, normalize="dilation"),
    Case("branched_sig_kernel_gram", ONE, normalize=True, order=3, depth=2, n_jobs=2),
    Case("branched_sig_kernel_gram", TWO, static_kernel=branchsig.RBFKernel(0.9), max_batch=1),
    Case("branched_sig_kernel_gram", ONE, static_kernel=branchsig.PolynomialKernel(2, 1.0, 0.5), normalize="dilation"),
    Case("branched_sig_mmd", TWO, unbiased=False, normalize="dilation", check_finite=True),
    Case("branched_sig_score", TWO, lam=0.5, dyadic_order=(1, 0)),
    Case("dilation", ONE, method="guard", static_kernel=branchsig.Matern32Kernel(1.1)),
    Case("branched_sig_kernel", PAIR, planar=True),
    Case("branched_sig_kernel_gram", TWO, planar=True, order=3, normalize=True),
    Case("branched_sig_kernel_gram", ONE, planar=True, depth=1, normalize="dilation"),
    Case("branched_sig_mmd", TWO, planar=True, depth=2, static_kernel=branchsig.RBFKernel(0.9)),
]


def close(found, wanted, dtype="float64"):
    rtol, atol = (1e-12, 1e-13) if dtype == "float64" else (2e-5, 1e-6)
    found = np.asarray(found)
    assert str(found.dtype) == dtype
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol)


KERNELS = [
    (branchsig.RBFKernel, (0.9,), {}),
    (branchsig.ScaledLinearKernel, (0.8,), {}),
    (branchsig.RationalQuadraticKernel, (0.9, 0.7), {}),
    (branchsig.PolynomialKernel, (1.2, 0.2), {"degree": 2.0}),
]
WITH_PARAMETERS = [SHORT[0], SHORT[2], SHORT[4], SHORT[7], MORE[6]]
