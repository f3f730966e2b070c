"""Learn a phase: where the branched kernel beats the signature kernel and time warping.

A charge moves at random in the plane. In a magnetic field its phase turns by the area
that its path encloses, and an experiment measures the cosine of the phase. The task is
to predict this cosine from the path.

Both kernels compare integrals along two paths. The area is a linear function of such
integrals. Its cosine is not: it needs products of many areas. The branched kernel of
depth 2 is an exponential, so it holds these products with large weights; the signature
kernel holds them only as sums of many iterated integrals with small weights.

Both kernels choose their options and the penalty of ridge regression by the same
five folds within the training paths, and predictions are clipped to the range of the
training targets. The neighbours under dynamic time warping choose their number
likewise. The branched kernel is the best on each of five seeds. For an area itself,
which is linear, it has no advantage: see the table on the page "How to choose".
"""

import itertools
import sys

import numpy as np

import branchsig

FOLDS = 5
PENALTIES = 10.0 ** np.arange(-7, 2)


def charges(rng, number, length):
    """Walks in the plane, and the cosine of four times their areas."""
    steps = rng.standard_normal((number, length, 2)) / np.sqrt(length)
    steps *= rng.uniform(0.5, 1.5, (number, 1, 2))
    paths = np.concatenate([np.zeros((number, 1, 2)), steps.cumsum(axis=1)], axis=1)
    x, y = paths[:, :-1].transpose(2, 0, 1)
    areas = np.sum(x * steps[..., 1] - y * steps[..., 0], axis=1) / 2
    return paths, np.cos(4 * areas)


def explained(predicted, targets):
    """The share of the variance of the targets that is explained."""
    return 1 - np.mean((predicted - targets) ** 2) / np.var(targets)


def ridge(gram, cross, targets):
    """Predictions by kernel ridge regression, a column for each penalty."""
    values, vectors = np.linalg.eigh(gram)
    projected = vectors.T @ (targets - targets.mean())
    # Signature kernels by the trapezoid rule may have small negative eigenvalues.
    shrunk = np.maximum(values, 0)[:, np.newaxis] + PENALTIES
    predicted = targets.mean() + cross @ vectors @ (projected[:, np.newaxis] / shrunk)
    return predicted.clip(targets.min(), targets.max())  # a cosine is bounded


def cross_validated(predict, matrix, targets):
    """Mean explained variance over the folds, for each column of the predictions."""
    folds = np.arange(len(targets)) % FOLDS
    scores = []
    for fold in range(FOLDS):
        train, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        within, across = matrix[np.ix_(train, train)], matrix[np.ix_(held, train)]
        columns = predict(within, across, targets[train]).T
        scores.append([explained(column, targets[held]) for column in columns])
    return np.mean(scores, axis=0)


def by_kernel(gram, paths, targets, new):
    """Predictions with the options and the penalty that are best by the folds."""
    best = (-np.inf,)
    for scale, norm, lead_lag, time_aug in itertools.product(
        (0.25, 0.5, 1.0), (False, True), (False, True), (False, True)
    ):
        options = {"lead_lag": lead_lag, "time_aug": time_aug, "normalize": norm}
        options["check_finite"] = False  # options whose kernels overflow are left out
        matrix = gram(scale * paths, None, **options)
        if not np.isfinite(matrix).all():
            continue
        scores = cross_validated(ridge, matrix, targets)
        if scores.max() > best[0]:
            best = (scores.max(), int(scores.argmax()), scale, options, matrix)
    _, penalty, scale, options, matrix = best
    across = gram(scale * new, scale * paths, **options)
    return ridge(matrix, across, targets)[:, penalty]


def time_warping(first, second):
    """Distances of all pairs under dynamic time warping of both channels together."""
    length = first.shape[1]
    cost = np.sum((first[:, None, :, None] - second[None, :, None]) ** 2, axis=-1)
    total = np.full((len(first), len(second), length + 1, length + 1), np.inf)
    total[:, :, 0, 0] = 0.0
    for diagonal in range(2, 2 * length + 1):
        i = np.arange(max(1, diagonal - length), min(length, diagonal - 1) + 1)
        j = diagonal - i
        least = np.minimum(total[:, :, i - 1, j], total[:, :, i, j - 1])
        least = np.minimum(least, total[:, :, i - 1, j - 1])
        total[:, :, i, j] = cost[:, :, i - 1, j - 1] + least
    return np.sqrt(total[:, :, -1, -1])


def neighbours(within, across, targets):
    """Means over the nearest 1, 3, 5, 9 and 15, a column for each number."""
    nearest = targets[np.argsort(across, axis=1)]
    return np.stack([nearest[:, :k].mean(axis=1) for k in (1, 3, 5, 9, 15)], axis=1)


def by_warping(paths, targets, new):
    """Predictions of the neighbours, whose number is best by the folds."""
    matrix, across = time_warping(paths, paths), time_warping(new, paths)
    best = int(cross_validated(neighbours, matrix, targets).argmax())
    return neighbours(matrix, across, targets)[:, best]


def branched(first, second, **options):
    """Branched kernels of depth 2."""
    return branchsig.branched_sig_kernel_gram(first, second, 2, **options)


def main(number=150, new=200, length=24, seeds=5, picture=None):
    """Print and return the mean explained variance of each method over the seeds."""
    scores = {"branched kernel": [], "signature kernel": [], "time warping": []}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        (paths, targets), (others, truth) = (
            charges(rng, size, length) for size in (number, new)
        )
        predicted = {
            "branched kernel": by_kernel(branched, paths, targets, others),
            "signature kernel": by_kernel(
                branchsig.sig_kernel_gram, paths, targets, others
            ),
            "time warping": by_warping(paths, targets, others),
        }
        for name, values in predicted.items():
            scores[name].append(explained(values, truth))
    print(f"explained variance of {new} new phases, mean (by seed):")
    for name, values in scores.items():
        shown = ", ".join(f"{value:.2f}" for value in values)
        print(f"{name}: {np.mean(values):.2f} ({shown})")
    if picture:
        draw(predicted, truth, scores, picture)
    return {name: float(np.mean(values)) for name, values in scores.items()}


def draw(predicted, truth, scores, picture):
    """Predictions of the last seed against the true values."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 2.9), layout="constrained")
    panels = figure.subplots(1, len(predicted), sharex=True, sharey=True)
    for axes, (name, values) in zip(panels, predicted.items()):
        axes.plot(truth[:120], values[:120], ".", markersize=3)
        axes.plot([-1, 1], [-1, 1], color="gray", linewidth=0.8)
        axes.set(title=f"{name}, {np.mean(scores[name]):.2f}", xlabel="cosine of phase")
    panels[0].set_ylabel("predicted")
    figure.savefig(picture)


if __name__ == "__main__":
    main(picture=sys.argv[1] if len(sys.argv) > 1 else None)
