"""Ordered forests in estimators and in Gram matrices on disk."""

import numpy as np
import pytest
from sklearn.base import clone

import branchsig
from branchsig.frameworks import sklearn as estimators
from branchsig.frameworks.zarr import gram_to_zarr

X = np.random.default_rng(0).standard_normal((6, 7, 2)).cumsum(1) * 0.3


@pytest.mark.parametrize("options", [{"depth": 1}, {"depth": 2, "normalize": "dilation"}, {"order": 3}])
def test_gram_matrices_on_disk_are_those_in_memory(options, tmp_path):
    expected = branchsig.branched_sig_kernel_gram(X, None, planar=True, **options)
    found = gram_to_zarr(X, store=tmp_path / "gram", chunk=4, planar=True, **options)
    np.testing.assert_allclose(found[:], expected, rtol=1e-14)


@pytest.mark.parametrize("normalize", [False, True, "dilation"])
def test_features_and_covariances_are_those_of_ordered_forests(normalize):
    options = {"depth": 2, "planar": True, "normalize": normalize}
    expected = branchsig.branched_sig_kernel_gram(X, None, **options)
    estimator = clone(estimators.BranchedSigKernel(standardize=False, **options))
    np.testing.assert_allclose(estimator.fit_transform(X), expected, rtol=1e-12)
    features = estimators.BranchedSigNystroem(
        n_components=6, standardize=False, random_state=0, **options | {"quadrature": "left"}
    ).fit_transform(X)
    of_ito = branchsig.branched_sig_kernel_gram(X, None, quadrature="left", **options)
    np.testing.assert_allclose(features @ features.T, of_ito, rtol=1e-8)
    kernel = estimators.BranchedSigGPKernel(static_kernel=branchsig.RBFKernel(0.8), **options)
    value, gradient = kernel(X, eval_gradient=True)
    of_radial = branchsig.branched_sig_kernel_gram(X, None, static_kernel=branchsig.RBFKernel(0.8), **options)
    np.testing.assert_allclose(value, of_radial, rtol=1e-12)
    step = 1e-4
    ends = [kernel.clone_with_theta(kernel.theta + t)(X) for t in (step, -step)]
    np.testing.assert_allclose(gradient[:, :, 0], (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-7)
