"""Three public sets of series, from the files of three libraries to cross-validated accuracies.

Vowels of different lengths from a file of aeon, motions of which half of the points are missing from a data frame of
sktime, and traces from an array of tslearn. Needs scikit-learn and these libraries.
"""

from pathlib import Path

from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from branchsig.frameworks.sklearn import BranchedSigKernel, as_samples


def vowels(folds=5):
    """Nine speakers by two vowels, series of 7 to 26 points in 12 channels. The level of the channels tells most."""
    import aeon
    from aeon.datasets import load_from_ts_file

    file = Path(aeon.__file__).parent / "datasets" / "data" / "JapaneseVowels" / "JapaneseVowels_TRAIN.ts"
    series, labels = as_samples(file), load_from_ts_file(str(file))[1]
    accuracies = []
    for base_point in (False, True):
        kernel = BranchedSigKernel(base_point=base_point, standardize=True)
        model = make_pipeline(kernel, SVC(kernel="precomputed", C=10.0))
        accuracies.append(cross_val_score(model, series, labels, cv=folds).mean())
    return accuracies


def motions(folds=5):
    """Four motions by accelerometer and gyroscope. Half of the points are left out, and times become a channel."""
    from sktime.datasets import load_basic_motions

    frame, labels = load_basic_motions(split="train", return_type="pd-multiindex")
    frame = frame.assign(time=frame.index.get_level_values(1) / 100.0)
    missing = frame.sample(frac=0.5, random_state=0).sort_index()
    accuracies = []
    for rows in (frame, missing):
        kernel = BranchedSigKernel(base_point=True, standardize=True)
        model = make_pipeline(kernel, SVC(kernel="precomputed", C=10.0))
        accuracies.append(cross_val_score(model, as_samples(rows), labels, cv=folds).mean())
    return accuracies


def traces(folds=4):
    """Four kinds of transients of one channel, which a linear kernel without lead-lag does not see."""
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
    print("motions: {:.3f}, without half of the points {:.3f}".format(*motions()))
    print("traces: {:.3f}, with lead-lag {:.3f}".format(*traces()))


if __name__ == "__main__":
    main()
