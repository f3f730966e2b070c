"""Classify ragged speech: recognise nine speakers by two vowels.

The Japanese Vowels [1] are 640 utterances of two vowels by nine speakers, of 7 to 29
points in 12 channels. No series is cut or stretched: branchsig takes paths of any
lengths. The kernel of depth 2 sees how the channels move. With a base point, that is,
with the point 0 put before every path, it also sees their levels, which tell speakers
apart. Without it the speaker of one utterance in eight is taken for another, with it
that of one in seventy.

Needs scikit-learn, and aeon for the files.

[1] M. Kudo, J. Toyama, M. Shimbo, "Multidimensional curve classification using
passing-through regions", Pattern Recognition Letters 20 (1999).
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from branchsig.frameworks.sklearn import BranchedSigKernel, as_samples


def vowels(part):
    """Utterances and speakers of the part TRAIN or TEST."""
    import aeon
    from aeon.datasets import load_from_ts_file

    folder = Path(aeon.__file__).parent / "datasets" / "data" / "JapaneseVowels"
    file = folder / f"JapaneseVowels_{part}.ts"
    return as_samples(file), load_from_ts_file(str(file))[1].astype(int)


def main(picture=None):
    """Print and return the accuracies without and with a base point."""
    (series, labels), (new, truth) = vowels("TRAIN"), vowels("TEST")
    lengths = [len(np.asarray(one)) for one in [*series, *new]]
    print(f"{len(series)} utterances for training and {len(new)} for testing")
    print(f"{min(lengths)} to {max(lengths)} points each")
    accuracies = []
    for base_point in (False, True):
        kernel = BranchedSigKernel(2, base_point=base_point, standardize=True)
        model = make_pipeline(kernel, SVC(kernel="precomputed", C=100.0))
        predicted = model.fit(series, labels).predict(new)
        accuracies.append(float(np.mean(predicted == truth)))
        name = "with" if base_point else "without"
        print(f"{name} a base point: {accuracies[-1]:.1%} of the speakers are right")
    if picture:
        draw(series, labels, truth, predicted, picture)
    return accuracies


def draw(series, labels, truth, predicted, picture):
    """The first channels of four utterances, and who is taken for whom."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for speaker, colour in ((1, "tab:blue"), (5, "tab:orange")):
        for place in np.flatnonzero(labels == speaker)[:2]:
            path = np.asarray(series[place])
            name = f"speaker {speaker}, {len(path)} points"
            left.plot(path[:, 0], color=colour, linewidth=1, label=name)
    left.set(xlabel="point", ylabel="first channel")
    left.legend(frameon=False, fontsize=7)
    counts = confusion_matrix(truth, predicted)
    right.imshow(np.sqrt(counts), cmap="Blues")
    for row, column in np.argwhere(counts):
        colour = "white" if row == column else "black"
        number = counts[row, column]
        right.text(column, row, number, ha="center", va="center", c=colour, size=7)
    names = range(1, len(counts) + 1)
    right.set_xticks(range(len(counts)), names)
    right.set_yticks(range(len(counts)), names)
    right.set(xlabel="predicted speaker", ylabel="speaker")
    figure.savefig(picture)


if __name__ == "__main__":
    main(picture=sys.argv[1] if len(sys.argv) > 1 else None)
