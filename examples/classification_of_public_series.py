"""Classify three public sets of series, read from the files of three libraries, and
print cross-validated accuracies.

Vowels of different lengths from a file of aeon, motions with missing values from a data
frame of sktime, and traces from an array of tslearn. Needs scikit-learn and these
libraries.
"""

from pathlib import Path

import numpy as np
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from branchsig.frameworks.sklearn import BranchedSigKernel, as_samples


def vowels(folds=5):
    """Nine speakers by two vowels, of 7 to 26 points. Levels tell most."""
    import aeon
    from aeon.datasets import load_from_ts_file

    file = (
        Path(aeon.__file__).parent
        / "datasets"
        / "data"
        / "JapaneseVowels"
        / "JapaneseVowels_TRAIN.ts"
    )
    series, labels = as_samples(file), load_from_ts_file(str(file))[1]
    accuracies = []
    for base_point in (False, True):
        kernel = BranchedSigKernel(base_point=base_point, standardize=True)
        model = make_pipeline(kernel, SVC(kernel="precomputed", C=10.0))
        accuracies.append(cross_val_score(model, series, labels, cv=folds).mean())
    return accuracies


def motions(folds=5):
    """Four motions by six sensors. A tenth of the points is missing."""
    from sktime.datasets import load_basic_motions

    frame, labels = load_basic_motions(split="train", return_type="pd-multiindex")
    missing = frame.mask(np.random.default_rng(0).random(frame.shape) < 0.1)
    accuracies = []
    for values in (frame, missing):
        rows = values.assign(time=values.index.get_level_values(1) / 100.0).dropna()
        kernel = BranchedSigKernel(base_point=True, standardize=True)
        model = make_pipeline(kernel, SVC(kernel="precomputed", C=10.0))
        accuracies.append(
            cross_val_score(model, as_samples(rows), labels, cv=folds).mean()
        )
    return accuracies


def traces(folds=4):
    """Four kinds of transients of one channel, invisible without lead-lag."""
    from tslearn.datasets import CachedDatasets

    series, labels, *_ = CachedDatasets().load_dataset("Trace")
    accuracies = []
    for lead_lag in (False, True):
        kernel = BranchedSigKernel(lead_lag=lead_lag, standardize=True)
        model = make_pipeline(kernel, SVC(kernel="precomputed", C=100.0))
        accuracies.append(cross_val_score(model, series, labels, cv=folds).mean())
    return accuracies


def main():
    """Print the accuracies."""
    print("vowels: {:.3f}, with a base point {:.3f}".format(*vowels()))
    print(
        "motions: {:.3f}, with values missing at half of the points {:.3f}".format(
            *motions()
        )
    )
    print("traces: {:.3f}, with lead-lag {:.3f}".format(*traces()))


if __name__ == "__main__":
    main()
