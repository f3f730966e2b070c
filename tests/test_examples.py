"""The scripts in examples/ run, on small sizes, and do what they say."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"branchsig_example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_has_a_test_here():
    tested = {"two_sample_test", "kernel_ridge_regression", "gradient_descent_on_a_path"}
    tested |= {"train_a_generator_in_torch", "train_a_generator_in_jax", "learn_a_bandwidth_in_jax"}
    tested |= {"train_a_model_in_keras", "sample_a_posterior_in_pymc", "lazy_gram_matrix_in_dask"}
    elsewhere = {"classification_of_public_series"}  # where the libraries that it needs are
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested | elsewhere


def test_the_two_sample_test_tells_walks_with_memory_apart():
    same, different = load("two_sample_test").main(number=20, length=20, permutations=99)
    assert same > 0.05
    assert different < 0.05


def test_ridge_regression_explains_most_of_the_area():
    assert load("kernel_ridge_regression").main(number=40, length=20) > 0.8


def test_gradient_descent_comes_closer_to_the_target():
    first, last = load("gradient_descent_on_a_path").main(length=10, steps=30)
    assert last < 0.2 * first


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # of torch.compile
def test_a_generator_comes_closer_to_paths_it_has_not_seen():
    pytest.importorskip("torch")
    before, after = load("train_a_generator_in_torch").main(number=32, length=10, steps=60)
    assert after < 0.1 * before


def test_a_swing_that_was_learnt_in_one_program_comes_closer_to_paths_it_has_not_seen():
    pytest.importorskip("jax")
    before, after = load("train_a_generator_in_jax").main(number=32, length=10, steps=60)
    assert after < 0.1 * before


def test_a_bandwidth_that_was_learnt_tells_new_samples_apart():
    pytest.importorskip("jax")
    before, after = load("learn_a_bandwidth_in_jax").main()
    assert after < 0.01 < 0.1 < before


def test_a_layer_of_kernels_with_learnt_paths_tells_new_loops_apart(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    pytest.importorskip("tensorflow")
    pytest.importorskip("keras")
    before, after = load("train_a_model_in_keras").main(number=100, epochs=8, verbose=0)
    assert before < 0.7
    assert after > 0.9


@pytest.mark.filterwarnings("ignore:Only 60 samples")  # of PyMC
def test_a_posterior_holds_the_parameters_of_the_data():
    pytest.importorskip("pymc")
    means, truth = load("sample_a_posterior_in_pymc").main(draws=60, progress=False)
    assert abs(means["m"] - truth["m"]) < 0.2
    assert abs(means["s"] - truth["s"]) < 0.15


def test_the_odd_ones_among_lazy_paths_are_found():
    pytest.importorskip("dask.array")
    found, odd = load("lazy_gram_matrix_in_dask").main(number=300, chunk=60)
    assert found == odd
