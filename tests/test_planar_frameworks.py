"""Ordered forests in frameworks, in estimators and in Gram matrices on disk."""

import warnings

import numpy as np
import pytest
from framework_cases import close
from frameworks import FRAMEWORKS, framework_named

import branchsig

X = np.random.default_rng(0).standard_normal((6, 7, 2)).cumsum(1) * 0.3
Y = np.random.default_rng(1).standard_normal((5, 6, 2)).cumsum(1) * 0.3

# Of torch.compile.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return framework_named(request.param)


SIGNATURE_KERNELS = {
    "pairs": ("sig_kernel", (X[:5], Y), {}),
    "grids": ("sig_kernel", (X[:5], Y), {"return_grid": True, "dyadic_order": (1, 0)}),
    "gram": ("sig_kernel_gram", (X, Y), {"normalize": "dilation"}),
    "symmetric": ("sig_kernel_gram", (X, X), {"static_kernel": branchsig.RBFKernel(0.9)}),
    "mmd": ("sig_mmd", (X, Y), {"time_aug": True}),
    "score": ("sig_score", (X, Y), {"lam": 0.4}),
    "expected": ("expected_sig_score", (X, Y), {}),
}


def weights_and_gradients(name, paths, options):
    """Weights of the values, and the gradients of their sum by the function of depth 1."""
    of_all_depths = {"sig": "branched_sig", "expected": "expected_branched_sig"}[name.partition("_")[0]]
    function = getattr(branchsig, name)
    weights = np.random.default_rng(2).standard_normal(np.shape(function(*paths, **options)))
    backprop = getattr(branchsig, f"{of_all_depths}_{name.partition('sig_')[2]}_backprop")
    return weights, backprop(weights, *paths, 1, planar=True, right_deriv=True, **options)


@pytest.mark.parametrize("case", SIGNATURE_KERNELS.values(), ids=SIGNATURE_KERNELS)
@pytest.mark.parametrize("compile_it", [False, True])
def test_signature_kernels_are_differentiated(case, compile_it, framework):
    name, paths, options = case
    weights, wanted = weights_and_gradients(*case)
    array = framework.array(weights)

    def function(x, y):
        return framework.total(array * getattr(branchsig, name)(x, y, **options))

    if compile_it:
        if framework.compiled is None:
            pytest.skip("there is no compiler")
        function = framework.compiled(function)
    total, found = framework.gradients(function, *map(framework.array, paths))
    close(total, np.sum(weights * getattr(branchsig, name)(*paths, **options)))
    for mine, its in zip(found, wanted, strict=True):
        close(mine, its)


# By the left-point rule the kernels of one step each are 1 + c: here 2, 0 and -1.
STEPS = np.array([[[0.0], [1.0]]] * 3), np.array([[[0.0], [step]] for step in (1.0, -1.0, -2.0)])
OF_STEPS = {"quadrature": "left", "planar": True, "depth": 1}


@pytest.mark.parametrize("compile_it", [False, True])
def test_kernels_that_are_not_positive_have_no_logarithm(compile_it, framework):
    def values(x, y):
        return branchsig.branched_sig_kernel(x, y, **OF_STEPS)

    def logarithms(x, y):
        return branchsig.branched_sig_kernel(x, y, log=True, **OF_STEPS)

    if compile_it:
        if framework.compiled is None:
            pytest.skip("there is no compiler")
        values, logarithms = framework.compiled(values), framework.compiled(logarithms)
    arrays = [framework.array(path) for path in STEPS]
    np.testing.assert_allclose(np.asarray(values(*arrays)), [2.0, 0.0, -1.0], atol=1e-15)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = np.asarray(logarithms(*arrays))
    np.testing.assert_allclose(found, [np.log(2.0), np.nan, np.nan], rtol=1e-15)
    (said,) = [one for one in caught if issubclass(one.category, RuntimeWarning)]
    assert "2 of 3 values" in str(said.message)
    assert "ordered forests need not be positive" in str(said.message)


@pytest.fixture
def lazy():
    """What makes an array of Dask in chunks of two paths."""
    dask, da = pytest.importorskip("dask"), pytest.importorskip("dask.array")
    with dask.config.set(scheduler="synchronous"):
        yield lambda array: da.from_array(array, chunks=(2,) + (-1,) * (np.ndim(array) - 1) if np.ndim(array) else ())


@pytest.mark.parametrize("case", SIGNATURE_KERNELS.values(), ids=SIGNATURE_KERNELS)
def test_signature_kernels_of_lazy_arrays_are_lazy(case, lazy):
    name, paths, options = case
    x, y = map(lazy, paths)
    y = x if paths[1] is paths[0] else y
    weights, wanted = weights_and_gradients(*case)
    value = getattr(branchsig, name)(x, y, **options)
    assert hasattr(value, "dask")
    close(value.compute(), getattr(branchsig, name)(*paths, **options))
    if hasattr(branchsig, name + "_vjp"):
        for mine, its in zip(getattr(branchsig, name + "_vjp")(x, y, **options)[1](lazy(weights)), wanted, strict=True):
            close(mine.compute(), its)


@pytest.mark.parametrize("truncation", [{"depth": 1}, {"depth": 2}, {"order": 3}], ids=repr)
@pytest.mark.parametrize("normalize", [False, True, "dilation"])
@pytest.mark.parametrize("name", ["branched_sig_mmd", "branched_sig_score", "expected_branched_sig_score"])
def test_means_of_lazy_arrays_are_those_of_ordered_forests(name, normalize, truncation, lazy):
    options = {"planar": True, "normalize": normalize, **truncation}
    wanted = getattr(branchsig, name)(X, Y, **options)
    value, pullback = getattr(branchsig, name + "_vjp")(lazy(X), lazy(Y), **options)
    close(value.compute(), wanted)
    weights = np.ones(np.shape(wanted))
    wanted = getattr(branchsig, name + "_backprop")(weights, X, Y, right_deriv=True, **options)
    for mine, its in zip(pullback(lazy(weights)), wanted, strict=True):
        np.testing.assert_allclose(mine.compute(), its, rtol=1e-10, atol=1e-13)


def test_lazy_logarithms_of_kernels_that_are_not_positive_are_nan(lazy):
    x, y = map(lazy, STEPS)
    np.testing.assert_allclose(branchsig.branched_sig_kernel_gram(x, y, **OF_STEPS).compute(), [[2.0, 0.0, -1.0]] * 3)
    gram = branchsig.branched_sig_kernel_gram(x, y, log=True, **OF_STEPS)
    with pytest.warns(RuntimeWarning, match="ordered forests need not be positive"):
        found = gram.compute()
    np.testing.assert_allclose(found, [[np.log(2.0), np.nan, np.nan]] * 3)


class Counted(branchsig.StaticKernel):
    """The inner product, which counts the pairs of paths that it is asked for."""

    pairs = 0

    def __call__(self, ctx, x, y):
        type(self).pairs += len(x)
        return np.diff(x, axis=1) @ np.diff(y, axis=1).swapaxes(1, 2)


def test_each_pair_of_chunks_of_a_symmetric_lazy_matrix_is_computed_once(lazy):
    Counted.pairs = 0
    gram = branchsig.sig_kernel_gram(lazy(X), None, static_kernel=Counted()).compute()
    assert Counted.pairs == 3 * 3 + 3 * 4  # triangles of three chunks, and three pairs of chunks
    np.testing.assert_array_equal(gram, gram.T)


@pytest.mark.parametrize("options", [{"depth": 1}, {"depth": 2, "normalize": "dilation"}, {"order": 3}])
def test_gram_matrices_on_disk_are_those_in_memory(options, tmp_path):
    pytest.importorskip("zarr")
    from branchsig.frameworks.zarr import gram_to_zarr

    expected = branchsig.branched_sig_kernel_gram(X, None, planar=True, **options)
    found = gram_to_zarr(X, store=tmp_path / "gram", chunk=4, planar=True, **options)
    np.testing.assert_allclose(found[:], expected, rtol=1e-14)


@pytest.mark.parametrize("normalize", [False, True, "dilation"])
def test_features_and_covariances_are_those_of_ordered_forests(normalize):
    clone = pytest.importorskip("sklearn.base").clone
    from branchsig.frameworks import sklearn as estimators

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
