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
