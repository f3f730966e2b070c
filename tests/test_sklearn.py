"""Estimators of scikit-learn on paths: what they compute, what they keep, and that they are taken everywhere."""

import dataclasses
import doctest
import math
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import using, walk

import branchsig
from branchsig.backends.cpu import CpuBackend

sklearn = pytest.importorskip("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.decomposition import KernelPCA  # noqa: E402
from sklearn.gaussian_process import GaussianProcessRegressor  # noqa: E402
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel  # noqa: E402
from sklearn.kernel_ridge import KernelRidge  # noqa: E402
from sklearn.linear_model import Ridge  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.svm import SVC  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

from branchsig.frameworks import sklearn as estimators  # noqa: E402
from branchsig.frameworks.sklearn import (  # noqa: E402
    BranchedSigGPKernel,
    BranchedSigKernel,
    BranchedSigNystroem,
    as_samples,
)

LENGTHS = [6, 4, 8, 5, 7, 3, 8, 6]


@pytest.fixture
def ragged(rng):
    """Paths of different lengths, in units that differ from channel to channel, and far from 0."""
    return [walk(rng, 1, n, 2)[0] * [1.0, 30.0] + [2.0, -50.0] for n in LENGTHS]


def standardized(paths, training):
    points = np.concatenate(training)
    return [(path - points.mean(axis=0)) / points.std(axis=0) for path in paths]


OPTIONS = {
    "default": {},
    "unit norms": {"normalize": True},
    "without bound": {"normalize": False, "static_kernel": branchsig.RBFKernel(2.0)},
    "all that is done to paths": {"base_point": True, "lead_lag": True, "time_aug": True, "end_time": 0.5},
    "by nodes": {"depth": None, "order": 3, "static_kernel": branchsig.Matern32Kernel(1.5)},
    "unit norms by nodes": {"depth": 3, "order": 4, "normalize": True},
    "another rule": {"quadrature": "lobatto2", "dyadic_order": 1, "n_jobs": 2},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_kernels_are_those_of_the_functions_on_standardised_paths(name, ragged):
    options, train, test = OPTIONS[name], ragged[:5], ragged[5:]
    for standardize in (False, True):
        x, y = (standardized(p, train) if standardize else [q / 100 for q in p] for p in (train, test))
        model = BranchedSigKernel(**options, standardize=standardize)
        given = (train, test) if standardize else (x, y)
        of_functions = {"depth": 2, "normalize": "dilation"} | options
        wanted = branchsig.branched_sig_kernel_gram(x, None, **of_functions)
        np.testing.assert_allclose(model.fit_transform(given[0]), wanted, rtol=1e-10)
        np.testing.assert_allclose(model.transform(given[0]), wanted, rtol=1e-10)
        np.testing.assert_allclose(
            model.transform(given[1]), branchsig.branched_sig_kernel_gram(y, x, **of_functions), rtol=1e-10
        )
        np.testing.assert_array_equal(model.fit(given[0]).transform(given[1]), model.transform(given[1]))


class Counting:
    """A backend that counts the paths, or pairs, of its solves."""

    def __init__(self, inner):
        self.inner, self.name, self.solves = inner, inner.name, []

    def solve(self, problem, want, **options):
        n1, n2 = problem.path1.shape[0], problem.path2.shape[0]
        self.solves.append((want, problem.pairing, n1 if problem.pairing == "paired" else n1 * n2))
        return self.inner.solve(problem, want, **options)

    def adjoint(self, *arguments, **options):
        return self.inner.adjoint(*arguments, **options)


@pytest.mark.parametrize("normalize", [False, True, "dilation"])
def test_what_belongs_to_the_training_paths_alone_is_not_solved_for_again(normalize, rng):
    train, test = walk(rng, 7, 5, 2), walk(rng, 3, 5, 2)
    with using(Counting(CpuBackend())) as counting:
        model = BranchedSigKernel(normalize=normalize)
        model.fit_transform(train)
        of_pairs = [solve for solve in counting.solves if solve[0] == "end"]
        norms = [("end", "paired", 7)] if normalize is True else []
        assert of_pairs == [*norms, ("end", "symmetric", 49)]
        counting.solves.clear()
        model.transform(test)
        of_pairs = sorted(solve for solve in counting.solves if solve[0] == "end")
        assert of_pairs == [("end", "gram", 21)] + ([("end", "paired", 3)] if normalize is True else [])
        assert all(count <= 3 for want, _, count in counting.solves if want == "prefixes")
        counting.solves.clear()
        model.transform(train.copy())
        assert counting.solves == [("end", "symmetric", 49)]


def test_fit_alone_keeps_factors_and_solves_no_pairs(rng):
    train = walk(rng, 7, 5, 2)
    with using(Counting(CpuBackend())) as counting:
        model = BranchedSigKernel(3).fit(train)
        assert {want for want, _, _ in counting.solves} == {"prefixes"}
    np.testing.assert_allclose(model.factors_, branchsig.dilation(train, 3), rtol=1e-12)


def test_what_is_kept_does_not_change_with_the_data_of_the_caller(rng):
    train, test = walk(rng, 5, 6, 2), walk(rng, 3, 6, 2)
    model = BranchedSigKernel().fit(train)
    before = model.transform(test)
    train *= 3.0
    np.testing.assert_array_equal(model.transform(test), before)
    assert model.transform(train).shape == (5, 5)


FORMS = {
    "list": lambda paths: paths,
    "padded": lambda paths: np.stack([np.pad(p, ((0, 8 - len(p)), (0, 0)), constant_values=np.nan) for p in paths]),
    "objects": lambda paths: np.array([*paths, None], dtype=object)[:-1],
    "samples": as_samples,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "make", [BranchedSigKernel, lambda **o: BranchedSigNystroem(n_components=4, random_state=0, **o)]
)
def test_ragged_paths_are_taken_in_every_form(form, make, ragged):
    labels = np.arange(len(ragged)) % 2
    model = make(standardize=True, base_point=True)
    wanted = model.fit(ragged[:6]).transform(ragged)
    given = FORMS[form](ragged)
    np.testing.assert_allclose(model.fit(given[:6]).transform(given), wanted, rtol=1e-9)
    for estimator in (SVC(kernel="precomputed"), KernelRidge(kernel="precomputed")):
        if isinstance(model, BranchedSigKernel):
            assert np.isfinite(cross_val_score(make_pipeline(model, estimator), given, labels, cv=2)).all()


def test_frames_with_a_series_in_each_cell_are_taken(ragged):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({c: [pd.Series(path[:, c]) for path in ragged] for c in range(2)})
    model = make_pipeline(BranchedSigKernel(standardize=True), KernelRidge(kernel="precomputed"))
    scores = cross_val_score(model, frame, np.arange(8.0), cv=2)
    np.testing.assert_allclose(scores, cross_val_score(model, ragged, np.arange(8.0), cv=2), rtol=1e-9)


def test_samples_have_their_axes_in_order_whatever_their_shape(rng):
    x = rng.standard_normal((4, 6, 3)) / 3
    samples = as_samples(x, layout="ncl")  # three points of six channels
    assert np.asarray(samples[1]).shape == (3, 6)
    wanted = BranchedSigKernel(layout="ncl").fit_transform(x)
    np.testing.assert_array_equal(BranchedSigKernel().fit_transform(samples), wanted)
    np.testing.assert_array_equal(BranchedSigKernel(layout="ncl").fit_transform(samples), wanted)


def test_standardisation_is_that_of_the_training_paths(ragged):
    model = BranchedSigKernel(standardize=True).fit(ragged[:5])
    points = np.concatenate(ragged[:5])
    np.testing.assert_allclose(model.mean_, points.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(model.scale_, points.std(axis=0), rtol=1e-12)


def test_a_channel_that_does_not_move_is_not_divided_by_zero(rng):
    paths = walk(rng, 4, 5, 2)
    paths[:, :, 1] = 3.0
    np.testing.assert_allclose(
        BranchedSigKernel(standardize=True).fit_transform(paths),
        BranchedSigKernel().fit_transform(paths[:, :, :1]),
        rtol=1e-9,
    )


@pytest.mark.parametrize(
    ("kernel", "power"), [(None, 2), (branchsig.RBFKernel(9.0), 2), (branchsig.Matern52Kernel(9.0), 1)], ids=repr
)
def test_the_median_heuristic_is_the_median_distance_of_points(kernel, power, rng):
    paths = walk(rng, 3, 5, 2)
    points = paths.reshape(-1, 2)
    distances = [math.dist(a, b) for k, a in enumerate(points) for b in points[k + 1 :] if math.dist(a, b) > 0]
    model = BranchedSigKernel(static_kernel=kernel, sigma="median").fit(paths)
    assert model.static_kernel_.sigma == pytest.approx(np.median(distances) ** power, rel=1e-12)
    wanted = branchsig.branched_sig_kernel_gram(
        paths, None, 2, static_kernel=model.static_kernel_, normalize="dilation"
    )
    np.testing.assert_allclose(model.transform(paths), wanted, rtol=1e-12)
    assert model.static_kernel is kernel


def test_sigma_takes_the_place_of_that_of_the_static_kernel(rng):
    paths = walk(rng, 4, 5, 2)
    model = BranchedSigKernel(static_kernel=branchsig.Matern32Kernel(9.0), sigma=0.5).fit(paths)
    assert model.static_kernel_ == branchsig.Matern32Kernel(0.5)
    assert BranchedSigKernel(sigma=0.5).fit(paths).static_kernel_ == branchsig.RBFKernel(0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigma": "mean"}, "sigma is 'mean': expected a number > 0"),
        (
            {"sigma": 1.0, "static_kernel": branchsig.ScaledLinearKernel(2.0)},
            "sigma is 1.0, and ScaledLinearKernel.* has none",
        ),
        ({"sigma": -1.0}, "RBFKernel: sigma is -1.0"),
        ({"depth": -1}, "depth is -1"),
        ({"normalize": "max"}, "normalize is 'max'"),
    ],
)
def test_options_are_checked_when_it_is_fitted(options, words, rng):
    with pytest.raises(ValueError, match=words):
        BranchedSigKernel(**options).fit(walk(rng, 3, 5, 2))


def test_paths_of_another_number_of_channels_are_refused(rng):
    model = BranchedSigKernel().fit(walk(rng, 3, 5, 2))
    with pytest.raises(ValueError, match="X has 3 channels, but BranchedSigKernel was fitted on paths of 2"):
        model.transform(walk(rng, 3, 5, 3))


@pytest.mark.parametrize("make", [BranchedSigKernel, BranchedSigNystroem, BranchedSigGPKernel])
def test_parameters_of_the_static_kernel_are_set_by_another_kernel(make):
    kernel = branchsig.RationalQuadraticKernel(1.0, 2.0)
    model = make(static_kernel=kernel)
    assert model.get_params()["static_kernel__sigma"] == 1.0
    assert model.set_params(static_kernel__sigma=3.0, depth=4) is model
    assert model.static_kernel == branchsig.RationalQuadraticKernel(3.0, 2.0)
    assert kernel.sigma == 1.0
    assert model.depth == 4
    model.set_params(static_kernel__sigma=5.0, static_kernel=branchsig.RBFKernel(7.0))
    assert model.static_kernel == branchsig.RBFKernel(5.0)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    copy.set_params(static_kernel__sigma=6.0)
    assert model.static_kernel.sigma == 5.0
    for wrong in ({"static_kernel__sigm": 1.0}, {"sigm": 1.0}):
        with pytest.raises(ValueError, match="Invalid parameter '?s"):
            model.set_params(**wrong)
    with pytest.raises(ValueError, match="static_kernel is None"):
        make().set_params(static_kernel__sigma=1.0)


@pytest.fixture
def hidden_scale(rng):
    """Labels that only a static kernel of the right length scale sees: closed loops that do or do not go through 1."""
    angles = np.linspace(0, 2 * np.pi, 16)
    labels = np.arange(40) % 2
    radii = 1.0 + 0.35 * labels[:, None]
    loops = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=2)
    return loops + 0.05 * rng.standard_normal(loops.shape), labels


def test_a_grid_search_tunes_the_static_kernel(hidden_scale):
    paths, labels = hidden_scale
    model = make_pipeline(BranchedSigKernel(static_kernel=branchsig.RBFKernel(1.0)), SVC(kernel="precomputed", C=100.0))
    grid = {"branchedsigkernel__static_kernel__sigma": [1e-4, 1.0]}
    search = GridSearchCV(model, grid, cv=4).fit(paths, labels)
    scores = search.cv_results_["mean_test_score"]
    for score, sigma in zip(scores, (1e-4, 1.0)):
        alone = make_pipeline(
            BranchedSigKernel(static_kernel=branchsig.RBFKernel(sigma)), SVC(kernel="precomputed", C=100.0)
        )
        assert score == cross_val_score(alone, paths, labels, cv=4).mean()
    assert scores[1] > scores[0] + 0.2
    assert search.best_estimator_[0].static_kernel == branchsig.RBFKernel(1.0)


def test_a_grid_search_over_jobs_and_with_a_memory_gives_the_same(hidden_scale, tmp_path):
    paths, labels = hidden_scale
    options = {"static_kernel": branchsig.RBFKernel(1.0), "sigma": "median"}
    grid = {"svc__C": [0.1, 10.0]}
    plain = make_pipeline(BranchedSigKernel(**options), SVC(kernel="precomputed"))
    cached = make_pipeline(BranchedSigKernel(**options), SVC(kernel="precomputed"), memory=str(tmp_path))
    scores = [
        GridSearchCV(model, grid, cv=3, n_jobs=jobs).fit(as_samples(paths), labels).cv_results_["mean_test_score"]
        for model, jobs in ((plain, None), (plain, 2), (cached, None))
    ]
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])


def test_a_pipeline_is_split_by_paths_and_not_by_pairs(rng):
    paths, labels = walk(rng, 12, 5, 2), np.arange(12) % 2
    pipeline = make_pipeline(BranchedSigKernel(), SVC(kernel="precomputed"))
    assert not pipeline.__sklearn_tags__().input_tags.pairwise
    assert SVC(kernel="precomputed").__sklearn_tags__().input_tags.pairwise
    gram = BranchedSigKernel().fit_transform(paths)
    wanted = cross_val_score(SVC(kernel="precomputed"), gram, labels, cv=3)
    np.testing.assert_array_equal(cross_val_score(pipeline, paths, labels, cv=3), wanted)


def test_kernel_principal_components_are_those_of_the_matrix(rng):
    paths = walk(rng, 8, 5, 2)
    wanted = KernelPCA(3, kernel="precomputed").fit_transform(BranchedSigKernel().fit_transform(paths))
    found = make_pipeline(BranchedSigKernel(), KernelPCA(3, kernel="precomputed")).fit_transform(paths)
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), rtol=1e-7, atol=1e-9)


def test_features_have_names_and_come_as_frames_on_demand(rng):
    pd = pytest.importorskip("pandas")
    paths = walk(rng, 6, 5, 2)
    model = BranchedSigKernel().set_output(transform="pandas")
    frame = model.fit_transform(paths)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == list(model.get_feature_names_out()) == [f"branchedsigkernel{k}" for k in range(6)]
    np.testing.assert_array_equal(frame.to_numpy(), BranchedSigKernel().fit_transform(paths))
    model = BranchedSigNystroem(n_components=3, random_state=0).set_output(transform="pandas").fit(paths)
    assert list(model.transform(paths).columns) == [f"branchedsignystroem{k}" for k in range(3)]


@pytest.mark.parametrize("normalize", [True, "dilation"])
def test_a_fitted_estimator_goes_to_another_process(normalize, rng, tmp_path):
    paths, other = walk(rng, 6, 5, 2), walk(rng, 3, 4, 2)
    options = {"normalize": normalize, "sigma": "median", "standardize": True}
    for model in (BranchedSigKernel(**options), BranchedSigNystroem(n_components=4, random_state=0, **options)):
        model.fit(paths)
        (tmp_path / "in.pickle").write_bytes(pickle.dumps((model, other)))
        code = (
            "import pickle, sys, pathlib; folder = pathlib.Path(sys.argv[1]);"
            "model, paths = pickle.loads((folder / 'in.pickle').read_bytes());"
            "(folder / 'out.pickle').write_bytes(pickle.dumps(model.transform(paths)))"
        )
        subprocess.run([sys.executable, "-P", "-c", code, str(tmp_path)], check=True)
        np.testing.assert_array_equal(pickle.loads((tmp_path / "out.pickle").read_bytes()), model.transform(other))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", [BranchedSigKernel(layout="nl"), BranchedSigNystroem(layout="nl", random_state=0)])
def test_checks_of_scikit_learn_pass_on_tables_of_series(model):
    results = check_estimator(model, on_fail=None)
    passed = {result["check_name"] for result in results if result["status"] == "passed"}
    failed = {result["check_name"] for result in results if result["status"] == "failed"}
    assert len(passed) > 35
    # These ask for an error where a table has more columns than that of the fit, but columns are points here, and paths
    # may have any number of them.
    assert failed == {"check_n_features_in_after_fitting", "check_transformer_general", "check_n_features_in"}


def test_nystroem_is_exact_where_all_paths_are_landmarks(ragged):
    model = BranchedSigNystroem(3, n_components=50, standardize=True, random_state=0)
    features = model.fit_transform(ragged)
    wanted = BranchedSigKernel(3, standardize=True).fit_transform(ragged)
    np.testing.assert_allclose(features @ features.T, wanted, rtol=1e-9)
    assert model.component_indices_.tolist() == list(range(8))
    assert (np.diff(model.eigenvalues_) <= 0).all()


def test_the_error_of_nystroem_falls_with_the_rank(rng):
    paths = walk(rng, 150, 8, 2)
    gram = BranchedSigKernel().fit_transform(paths)
    errors = []
    for rank in (5, 20, 60, 150):
        features = BranchedSigNystroem(n_components=rank, random_state=0).fit_transform(paths)
        errors.append(np.linalg.norm(features @ features.T - gram) / np.linalg.norm(gram))
    assert errors[0] > 5 * errors[1]
    assert errors[1] > 2 * errors[2]
    assert errors[3] < 1e-12
    eigenvalues = np.sort(np.linalg.eigvalsh(gram))
    best = [np.linalg.norm(eigenvalues[: 150 - rank]) / np.linalg.norm(gram) for rank in (5, 20, 60)]
    assert all(error > least for error, least in zip(errors, best))


def test_landmarks_that_are_copies_of_each_other_add_no_features(rng):
    paths = np.tile(walk(rng, 4, 6, 2), (3, 1, 1))
    model = BranchedSigNystroem(n_components=12, random_state=0)
    features = model.fit_transform(paths)
    assert features.shape == (12, 4)
    np.testing.assert_allclose(features @ features.T, BranchedSigKernel().fit_transform(paths), rtol=1e-8)


def test_batches_change_nothing(ragged):
    options = {"n_components": 5, "random_state": 0, "standardize": True}
    whole = BranchedSigNystroem(**options).fit(ragged)
    parts = BranchedSigNystroem(**options, batch_size=3).fit(ragged)
    np.testing.assert_allclose(parts.transform(ragged), whole.transform(ragged), rtol=1e-12)


def test_a_linear_model_on_features_is_near_the_one_on_kernels(rng):
    paths = walk(rng, 120, 10, 2)
    values = paths[:, -1, 0] - paths[:, 5, 1]
    of_kernels = make_pipeline(BranchedSigKernel(), KernelRidge(0.01, kernel="precomputed")).fit(
        paths[:80], values[:80]
    )
    of_features = make_pipeline(BranchedSigNystroem(n_components=80, random_state=0), Ridge(0.01, fit_intercept=False))
    found = of_features.fit(paths[:80], values[:80]).predict(paths[80:])
    np.testing.assert_allclose(found, of_kernels.predict(paths[80:]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "value"), [("n_components", 0), ("n_components", 2.5), ("batch_size", True)])
def test_numbers_of_paths_are_positive_integers(name, value, rng):
    with pytest.raises(ValueError, match=f"{name} is .*: expected an integer >= 1"):
        BranchedSigNystroem(**{name: value}).fit(walk(rng, 3, 5, 2))


GP_KERNELS = [
    branchsig.RBFKernel(0.7),
    branchsig.RationalQuadraticKernel(0.8, 1.5),
    branchsig.PolynomialKernel(degree=2, gamma=0.7, scale=0.3),
    branchsig.ScaledLinearKernel(0.8),
    branchsig.Matern32Kernel(0.9),
]


@pytest.mark.parametrize("kernel", GP_KERNELS, ids=repr)
@pytest.mark.parametrize("normalize", [False, True, "dilation"])
@pytest.mark.parametrize("truncation", [{"depth": 3}, {"depth": None, "order": 3}, {"depth": 2, "order": 3}], ids=str)
def test_gradients_of_the_covariance_are_those_of_differences(kernel, normalize, truncation, ragged):
    paths = standardized(ragged, ragged)
    paths = [0.3 * path for path in paths]
    if normalize == "dilation":
        paths[3] = paths[3][[0, 1, 2, 1, 0]] * 5.0  # there and back again: a prefix decides on its factor
    covariance = BranchedSigGPKernel(**truncation, static_kernel=kernel, normalize=normalize, base_point=True)
    gram, gradient = covariance(paths, eval_gradient=True)
    of_functions = {"normalize": normalize, "base_point": True, **truncation}
    np.testing.assert_array_equal(
        gram, branchsig.branched_sig_kernel_gram(paths, None, static_kernel=kernel, **of_functions)
    )
    np.testing.assert_allclose(covariance.diag(paths), np.diag(gram), rtol=1e-12)
    assert gradient.shape == (8, 8, len(covariance.theta)) == (8, 8, len(kernel.parameters))
    for k, direction in enumerate(np.eye(len(covariance.theta))):
        ahead, behind = (
            covariance.clone_with_theta(covariance.theta + step * direction)(paths) for step in (1e-5, -1e-5)
        )
        slopes = (ahead - behind) / 2e-5
        np.testing.assert_allclose(gradient[:, :, k], slopes, rtol=1e-5, atol=1e-8 * max(1.0, np.abs(gram).max()))


def test_a_covariance_of_two_sets_is_their_matrix(rng):
    x, y = walk(rng, 4, 5, 2), walk(rng, 3, 6, 2)
    covariance = BranchedSigGPKernel(static_kernel=branchsig.RBFKernel(0.5))
    wanted = branchsig.branched_sig_kernel_gram(x, y, 2, static_kernel=branchsig.RBFKernel(0.5), normalize="dilation")
    np.testing.assert_array_equal(covariance(x, y), wanted)
    with pytest.raises(ValueError, match="Gradient can only be evaluated when Y is None"):
        covariance(x, y, eval_gradient=True)


def test_pairs_are_differentiated_in_batches(rng, monkeypatch):
    paths = walk(rng, 6, 5, 2)
    covariance = BranchedSigGPKernel(static_kernel=branchsig.RBFKernel(0.5), normalize=True)
    wanted = covariance(paths, eval_gradient=True)[1]
    monkeypatch.setattr("branchsig.operations.known._BATCH_BYTES", 8 * 10 * 4)
    np.testing.assert_allclose(covariance(paths, eval_gradient=True)[1], wanted, rtol=1e-12)


def test_hyperparameters_are_parameters_of_the_static_kernel_in_logarithms():
    kernel = branchsig.RationalQuadraticKernel(2.0, 3.0)
    covariance = BranchedSigGPKernel(static_kernel=kernel, parameter_bounds={"sigma": (0.1, 10.0), "alpha": "fixed"})
    assert [h.name for h in covariance.hyperparameters] == ["static_kernel__sigma", "static_kernel__alpha"]
    np.testing.assert_allclose(covariance.theta, [np.log(2.0)])
    np.testing.assert_allclose(covariance.bounds, np.log([[0.1, 10.0]]))
    moved = covariance.clone_with_theta(np.log([4.0]))
    assert moved.static_kernel == dataclasses.replace(kernel, sigma=4.0)
    assert covariance.static_kernel is kernel
    assert moved != covariance
    assert covariance == clone(covariance)
    assert BranchedSigGPKernel().theta.size == 0
    assert BranchedSigGPKernel(static_kernel=branchsig.PolynomialKernel(degree=2, gamma=0.0)).theta.shape == (1,)
    with pytest.raises(ValueError, match=r"parameter_bounds has \['sigm'\]"):
        BranchedSigGPKernel(static_kernel=kernel, parameter_bounds={"sigm": "fixed"}).theta  # noqa: B018


def test_covariances_are_added_and_multiplied(rng):
    paths = as_samples(walk(rng, 4, 5, 2))
    one, two = (BranchedSigGPKernel(static_kernel=branchsig.RBFKernel(s)) for s in (0.5, 2.0))
    both = ConstantKernel(3.0) * one + two + WhiteKernel(0.1)
    gram, gradient = both(paths, eval_gradient=True)
    np.testing.assert_allclose(gram, 3.0 * one(paths) + two(paths) + 0.1 * np.eye(4), rtol=1e-13)
    assert gradient.shape == (4, 4, 4)
    assert both.theta.shape == (4,)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("kernel", "target"),
    [
        (branchsig.RBFKernel(0.1), lambda p: np.sin(5 * p[:, -1, 0])),
        (branchsig.ScaledLinearKernel(0.1), lambda p: p[:, -1, 0] * p[:, -1, 1]),
    ],
    ids=["sigma", "scale"],
)
def test_a_gaussian_process_that_learns_is_better_out_of_sample(kernel, target):
    rng = np.random.default_rng(0)
    paths = np.cumsum(0.1 * rng.standard_normal((110, 20, 2)), axis=1)
    values = target(paths)
    values += 0.05 * values.std() * rng.standard_normal(110)
    samples = as_samples(paths)
    bounds = (1e-2, 1.0) if "scale" in kernel.parameters else (1e-3, 1e3)
    of_paths = BranchedSigGPKernel(2, static_kernel=kernel, normalize=True, parameter_bounds=bounds)
    covariance = ConstantKernel(1.0) * of_paths + WhiteKernel(0.01)
    fixed, learnt = (
        GaussianProcessRegressor(covariance, optimizer=optimizer, normalize_y=True).fit(samples[:70], values[:70])
        for optimizer in (None, "fmin_l_bfgs_b")
    )
    assert learnt.kernel_.k1.k2.static_kernel != kernel
    assert learnt.log_marginal_likelihood_value_ > fixed.log_marginal_likelihood_value_ + 1.0
    assert learnt.score(samples[70:], values[70:]) > fixed.score(samples[70:], values[70:]) + 0.2


def test_a_gaussian_process_predicts_what_the_matrix_says(rng):
    paths, values = walk(rng, 20, 6, 2), rng.standard_normal(20)
    samples = as_samples(paths)
    model = GaussianProcessRegressor(BranchedSigGPKernel(normalize=True), alpha=1e-3).fit(samples[:15], values[:15])
    gram = branchsig.branched_sig_kernel_gram(paths, paths[:15], 2, normalize=True)
    wanted = gram @ np.linalg.solve(gram[:15] + 1e-3 * np.eye(15), values[:15])
    np.testing.assert_allclose(model.predict(samples), wanted, rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(samples), model.predict(samples))


@pytest.fixture
def searched(monkeypatch):
    """The numbers of paths whose factors of dilation are searched, in order."""
    from branchsig.operations import dilate

    numbers, search = [], dilate.search

    def counted(own, *arguments):
        numbers.append(own.path1.shape[0])
        return search(own, *arguments)

    monkeypatch.setattr(dilate, "search", counted)
    return numbers


def test_a_process_that_predicts_searches_the_factors_of_new_paths_alone(rng, searched):
    paths, values = walk(rng, 20, 6, 2), rng.standard_normal(20)
    samples = as_samples(paths)
    covariance = ConstantKernel(1.0) * BranchedSigGPKernel(static_kernel=branchsig.RBFKernel(0.5)) + WhiteKernel(0.1)
    model = GaussianProcessRegressor(covariance, optimizer=None).fit(samples[:12], values[:12])
    assert searched == [12]
    mean, deviation = model.predict(samples[12:17], return_std=True)
    assert searched == [12, 5]
    model.predict(samples[17:])
    assert searched == [12, 5, 3]
    other = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(other.predict(samples[12:17], return_std=True), [mean, deviation])
    assert searched == [12, 5, 3, 5, 12]


def test_factors_that_are_kept_are_those_of_the_values_and_of_the_kernel(rng, searched):
    x, y = walk(rng, 4, 5, 2), walk(rng, 3, 6, 2)
    options = {"depth": 2, "normalize": "dilation"}

    def wanted(a, b, sigma):
        return branchsig.branched_sig_kernel_gram(a, b, static_kernel=branchsig.RBFKernel(sigma), **options)

    covariance = BranchedSigGPKernel(2, static_kernel=branchsig.RBFKernel(0.5))
    np.testing.assert_array_equal(covariance(x, y), wanted(x, y, 0.5))
    x *= 0.5  # in place
    x[:, 2] += 0.3
    np.testing.assert_array_equal(covariance(x, y), wanted(x, y, 0.5))
    np.testing.assert_array_equal(covariance(x), wanted(x, None, 0.5))
    np.testing.assert_array_equal(covariance(x, x), wanted(x, x.copy(), 0.5))
    del searched[:]
    covariance.set_params(static_kernel__sigma=2.0)
    found = covariance(x, y)
    assert searched == [4, 3]
    np.testing.assert_array_equal(found, wanted(x, y, 2.0))
    np.testing.assert_allclose(covariance.diag(x), np.diag(wanted(x, None, 2.0)), rtol=1e-12)
    assert clone(covariance) == covariance


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_page_of_the_user_guide_does_what_it_says():
    page = (Path(__file__).parents[1] / "docs" / "user_guide" / "sklearn.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert len(blocks) == 4
    exec(compile("\n".join(blocks), "sklearn.md", "exec"), {"__name__": "page"})


def test_the_examples_of_the_estimators_do_what_they_say():
    found = doctest.testmod(estimators, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 20
    assert not found.failed
