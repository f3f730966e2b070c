"""The scripts in examples/ run, on small sizes, and do what they say."""

import importlib.util
import math
from pathlib import Path

import numpy as np
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
    tested |= {"kernel_pca_of_motions", "compare_classifiers", "rough_volatility", "find_change_points"}
    tested |= {"score_forecasts", "gaussian_process_regression", "million_pairs_by_nystroem", "gram_on_disk"}
    tested |= {"blow_up_without_truncation", "learn_a_phase"}
    # Where the libraries that they need are.
    elsewhere = {"classification_of_public_series", "classify_ragged_speech"}
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


def test_motions_have_neighbours_of_their_own_kind_in_the_plane():
    assert load("kernel_pca_of_motions").main() > 0.9


def test_dynamic_time_warping_is_that_of_the_definition():
    pytest.importorskip("sklearn")
    warped = load("compare_classifiers").time_warping(np.array([[[0.0], [1.0], [1.0]], [[0.0], [0.0], [3.0]]]))
    # The last points meet at the cost 4. The middle 1 meets a 0 at the cost 1, or the 3 at the cost 4.
    np.testing.assert_allclose(warped, [[0.0, math.sqrt(5.0)], [math.sqrt(5.0), 0.0]], rtol=1e-12)


def test_a_phase_is_learnt_best_by_the_branched_kernel():
    found = load("learn_a_phase").main(number=150, new=200, length=12, seeds=1)
    assert found["branched kernel"] > found["signature kernel"] + 0.03
    assert found["branched kernel"] > 0.3 > found["time warping"]


def test_time_warping_of_the_phases_is_that_of_the_definition():
    first, second = np.array([[[0.0], [1.0], [1.0]]]), np.array([[[0.0], [0.0], [3.0]]])
    # The last points meet at the cost 4. The middle 1 meets a 0 at the cost 1, or the 3 at the cost 4.
    np.testing.assert_allclose(load("learn_a_phase").time_warping(first, second), [[math.sqrt(5.0)]], rtol=1e-12)


def test_classifiers_are_compared_on_both_sets():
    pytest.importorskip("sklearn")
    found = load("compare_classifiers").main(depths=(2,), number=40, step=10, length=20)
    assert set(found) == {"recorded motions", "simulated shapes"}
    for methods in found.values():
        assert set(methods) == {"branched kernel", "signature kernel", "time warping"}
    assert found["recorded motions"]["branched kernel"] > 0.5  # guessing gets a quarter


def test_rough_volatility_is_found_with_lead_lag():
    without, with_lead_lag = load("rough_volatility").main(permutations=99)
    assert with_lead_lag < 0.05 < without


def test_change_points_are_found_within_a_window():
    found = load("find_change_points").main()
    np.testing.assert_allclose(found, [400, 750], atol=20)


def test_the_true_law_has_the_best_score():
    assert load("score_forecasts").main(number=100, correlations=(0.1, 0.5, 0.9), sizes=(0.6, 1.0, 1.6)) == (0.5, 1.0)


def test_the_gaussian_process_explains_most_of_the_variance():
    pytest.importorskip("sklearn")
    explained, inside = load("gaussian_process_regression").main(number=40, new=30, length=10)
    assert explained > 0.5
    assert inside > 0.6


def test_more_landmarks_explain_more():
    pytest.importorskip("sklearn")
    few, many = load("million_pairs_by_nystroem").main(number=200, new=100, counts=(3, 30))
    assert few < many
    assert many > 0.4


def test_a_resumed_gram_matrix_is_that_in_memory():
    pytest.importorskip("zarr")
    assert load("gram_on_disk").main(number=40, chunk=10)


def test_rules_of_higher_order_come_closer_to_the_pole():
    last = load("blow_up_without_truncation").main()
    assert last["trapezoid"] < last["trapezoid, dyadic order 3"] < last["lobatto8"] < 2.0


def test_the_gallery_has_a_small_picture_and_an_output_for_every_script():
    folder = EXAMPLES.parent / "docs" / "gallery" / "saved"
    names = {path.stem for path in folder.glob("*.svg")}
    assert names == set(gallery().PICTURES)
    for name in names:
        assert (folder / f"{name}.svg").stat().st_size < 100_000
        assert (folder / f"{name}.txt").read_text(encoding="utf-8").strip()


def test_every_script_of_the_gallery_has_a_title_and_a_picture_with_words():
    for name, shown in gallery().PICTURES.items():
        title, body = gallery().docstring(name)
        assert 3 <= len(title.split()) <= 14
        assert body
        assert len(shown.split()) >= 5


def gallery():
    spec = importlib.util.spec_from_file_location("branchsig_gallery", EXAMPLES.parent / "docs" / "make_gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
