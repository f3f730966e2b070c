"""Series in the containers of aeon, sktime and tslearn as paths, and the example that classifies them with sklearn."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import branchsig

aeon, sktime, tslearn = (pytest.importorskip(name) for name in ("aeon", "sktime", "tslearn"))
pytestmark = pytest.mark.filterwarnings("ignore")  # of these libraries, on import and later

VOWELS = Path(aeon.__file__).parent / "datasets" / "data" / "JapaneseVowels" / "JapaneseVowels_TRAIN.ts"


def load(name):
    path = Path(__file__).parents[1] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"branchsig_example_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example():
    return load("classification_of_public_series")


def assert_equal(found, wanted):
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_array_equal(found[1], wanted[1])


def test_a_file_has_the_paths_that_its_libraries_read():
    from aeon.datasets import load_from_ts_file

    series, labels = load_from_ts_file(str(VOWELS))
    paths, lengths = branchsig.as_paths(VOWELS)
    assert paths.shape == (len(labels), 26, 12)
    assert lengths.tolist() == [one.shape[1] for one in series]
    for path, length, one in zip(paths, lengths, series, strict=True):
        np.testing.assert_array_equal(path[:length], one.T)
    assert_equal(branchsig.as_paths(series, layout="ncl"), (paths, lengths))
    with pytest.raises(ValueError, match='if rows are channels give layout="ncl"'):
        branchsig.as_paths(series)


@pytest.mark.parametrize("container", ["nested_univ", "df-list", "pd-multiindex"])
def test_containers_of_sktime_hold_the_paths_of_the_file(container):
    from sktime.datasets import load_japanese_vowels

    data, _ = load_japanese_vowels(split="train", return_type=container)
    assert_equal(branchsig.as_paths(data), branchsig.as_paths(VOWELS))


def test_arrays_of_sktime_have_channels_first():
    from sktime.datasets import load_basic_motions

    data, _ = load_basic_motions(split="train", return_type="numpy3d")
    with pytest.raises(ValueError, match="more channels than points"):
        branchsig.as_paths(data)
    paths, lengths = branchsig.as_paths(data, layout="ncl")
    assert lengths is None
    np.testing.assert_array_equal(paths, data.swapaxes(1, 2))


def test_a_padded_set_of_tslearn_has_its_lengths():
    from tslearn.utils import to_time_series_dataset

    paths, lengths = branchsig.as_paths(to_time_series_dataset([[1, 2, 3], [4, 5]]))
    assert paths[:, :, 0].tolist() == [[1, 2, 3], [4, 5, 5]]
    assert lengths.tolist() == [3, 2]


def test_vowels_of_different_lengths_are_told_apart_by_their_level(example):
    without, with_base_point = example.vowels(folds=3)
    assert with_base_point > 0.93
    assert with_base_point > without + 0.05


def test_values_that_are_missing_inside_of_a_series_are_named_and_may_be_left_out():
    from sktime.datasets import load_basic_motions

    frame, _ = load_basic_motions(split="train", return_type="pd-multiindex")
    missing = frame.mask(np.random.default_rng(0).random(frame.shape) < 0.1)
    with pytest.raises(
        ValueError, match=r"is NaN at point \d+ in channel \d.*leave these points out and give the times"
    ):
        branchsig.as_paths(missing)
    there = ~missing.isna().any(axis=1)
    paths, lengths = branchsig.as_paths(missing.dropna())
    assert lengths.tolist() == there.groupby(level=0, sort=False).sum().tolist()
    assert 0.4 < there.mean() < 0.6
    for path, length, (_, one) in zip(paths, lengths, frame[there].groupby(level=0, sort=False), strict=True):
        np.testing.assert_array_equal(path[:length], one.to_numpy())


def test_motions_are_told_apart_with_values_missing_at_half_of_the_points(example):
    whole, missing = example.motions(folds=4)
    assert whole > 0.95
    assert missing > 0.9


def test_traces_are_told_apart_by_lead_lag(example):
    without, with_lead_lag = example.traces(folds=2)
    assert with_lead_lag > 0.85
    assert with_lead_lag > without + 0.1


def test_nearly_all_speakers_are_recognised_with_a_base_point():
    without, with_base_point = load("classify_ragged_speech").main()
    assert without < with_base_point
    assert with_base_point > 0.95
