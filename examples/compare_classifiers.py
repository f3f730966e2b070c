"""Classify motions and shapes: branched kernel, signature kernel and time warping.

No method is best everywhere. On recorded motions (badminton, running, standing,
walking) support vector machines on branched and on plain signature kernels get every
recording right; the nearest neighbour under dynamic time warping gets four of five. On
shapes in noise that begin and end at random times, time warping is better than both
kernels. It aligns two shapes point by point, and iterated integrals say little about
one channel.

Accuracies are means over five folds, on every fourth point of the motions. The kernels
have standardised channels, a base point, time as a channel and dilation; depth, rule
and penalty are chosen within the training part. Needs scikit-learn.
"""

import sys
from importlib import resources

import numpy as np
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

import branchsig

OPTIONS = {"base_point": True, "time_aug": True, "normalize": "dilation"}


def motions(step):
    """80 recordings of a smart watch, every `step`-th of 100 points, and labels."""
    file = resources.files("branchsig") / "data" / "basic_motions.npz"
    with file.open("rb") as opened, np.load(opened) as data:
        paths = np.concatenate([data["train_paths"], data["test_paths"]])
        return paths[:, ::step], np.concatenate(
            [data["train_labels"], data["test_labels"]]
        )


def shapes(number, length):
    """Noise with a plateau, a rising ramp or a falling ramp at random times."""
    rng = np.random.default_rng(1)
    labels = np.arange(number) % 3
    times = np.arange(length)
    series = rng.standard_normal((number, length))
    for one, label in zip(series, labels):
        start, duration = (
            rng.integers(length // 8, length // 4),
            rng.integers(length // 4, 3 * length // 4),
        )
        ramp = (times - start) / duration
        shape = [1.0, ramp, 1.0 - ramp][label]
        one += (6 + rng.standard_normal()) * np.where(
            (ramp >= 0) & (ramp <= 1), shape, 0.0
        )
    return series[:, :, np.newaxis], labels


def time_warping(paths):
    """Distances of all pairs under dynamic time warping of all channels together."""
    number, length = paths.shape[:2]
    first, second = np.triu_indices(number, 1)
    cost = np.sum(
        (paths[first, :, np.newaxis] - paths[second, np.newaxis]) ** 2, axis=-1
    )
    total = np.full((len(first), length + 1, length + 1), np.inf)
    total[:, 0, 0] = 0.0
    for diagonal in range(2, 2 * length + 1):
        i = np.arange(max(1, diagonal - length), min(length, diagonal - 1) + 1)
        j = diagonal - i
        least = np.minimum(
            np.minimum(total[:, i - 1, j], total[:, i, j - 1]), total[:, i - 1, j - 1]
        )
        total[:, i, j] = cost[:, i - 1, j - 1] + least
    distances = np.zeros((number, number))
    distances[first, second] = distances[second, first] = np.sqrt(total[:, -1, -1])
    return distances


def nested(grams, labels, folds):
    """Accuracy by nested cross-validation, which chooses matrix and penalty."""
    scores = []
    for train, test in folds.split(labels, labels):
        searches = []
        for gram in grams:
            machine = GridSearchCV(
                SVC(kernel="precomputed"), {"C": [1.0, 10.0, 100.0, 1000.0]}, cv=3
            )
            machine.fit(gram[np.ix_(train, train)], labels[train])
            searches.append(
                (
                    machine.best_score_,
                    machine.score(gram[np.ix_(test, train)], labels[test]),
                )
            )
        scores.append(max(searches, key=lambda found: found[0])[1])
    return np.mean(scores)


def accuracies(paths, labels, depths):
    """Accuracies of the three methods."""
    paths = (paths - paths.mean(axis=(0, 1))) / paths.std(axis=(0, 1))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    # Signature kernels by the trapezoid rule need not be positive semi-definite, so
    # both kernels get both rules.
    rules = ("trapezoid", "left")
    branched = [
        branchsig.branched_sig_kernel_gram(
            paths, None, depth, quadrature=rule, **OPTIONS
        )
        for depth in depths
        for rule in rules
    ]
    plain = [
        branchsig.sig_kernel_gram(paths, None, quadrature=rule, **OPTIONS)
        for rule in rules
    ]
    warped = time_warping(paths)
    neighbour = KNeighborsClassifier(1, metric="precomputed")
    return {
        "branched kernel": nested(branched, labels, folds),
        "signature kernel": nested(plain, labels, folds),
        "time warping": cross_val_score(neighbour, warped, labels, cv=folds).mean(),
    }


def main(depths=(2, 3), number=60, step=4, length=48, picture=None):
    """Print and return the accuracies, and draw them if a picture is asked for."""
    paths, labels = motions(step)
    found = {
        "recorded motions": accuracies(paths, labels, depths),
        "simulated shapes": accuracies(*shapes(number, length), depths),
    }
    for name, methods in found.items():
        print(
            f"{name}: "
            + ", ".join(
                f"{method} {100 * score:.1f} %" for method, score in methods.items()
            )
        )
    if picture:
        draw(found, picture)
    return found


def draw(found, picture):
    """Bars of the accuracies."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot(ylabel="accuracy, %", xlabel="data", ylim=(0, 105))
    methods = list(next(iter(found.values())))
    for k, method in enumerate(methods):
        bars = axes.bar(
            np.arange(len(found)) + 0.25 * (k - 1),
            [100 * f[method] for f in found.values()],
            0.23,
        )
        bars.set_label(method)
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(found)), found)
    figure.legend(frameon=False, fontsize=8, ncols=3, loc="outside upper center")
    figure.savefig(picture)


if __name__ == "__main__":
    main(picture=sys.argv[1] if len(sys.argv) > 1 else None)
