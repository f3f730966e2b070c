"""``branchsig demo``: classify recorded motions, check a gradient, draw a Gram matrix."""

from __future__ import annotations

import time
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

import branchsig
from branchsig.cli.arguments import has

__all__ = ["DEFAULT_PICTURE", "motions", "prepared", "run"]

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.str_]

DEFAULT_PICTURE = Path("branchsig_gram.png")
GRADIENT_TOLERANCE = 1e-6


def run(depth: int, jobs: int, picture: Path | None) -> int:
    """Run the demo; return 0, or 1 if it found a wrong gradient or could not write the requested picture."""
    _say("1. Data: recorded motions (BasicMotions, UEA archive). People wore a smart watch while standing, walking,")
    _say("   running and playing badminton. Accelerometer and gyroscope: 6 channels, 10 s at 10 Hz.")
    train, train_labels, test, test_labels = motions()
    _say(f"   train {train.shape}, test {test.shape}: recordings x samples x channels")

    _say("2. Preparation: standardise the channels by the train recordings, and add time as the last channel.")
    _say("   The kernel of these paths as they are would overflow, since it nests exponentials. Dilation scales each")
    _say("   path until the logarithm of its kernel with itself is 1. Then all kernels lie between 1/e and e.")
    train, test = prepared(train, test)

    threads = "1 thread" if jobs == 1 else f"{jobs} threads"
    _say(
        f"3. Classification at depths 1 to {depth}, {threads}. Each test recording gets the label of its nearest train"
    )
    _say("   recording, by the distance d^2 = k(x,x) - 2 k(x,y) + k(y,y):")
    found: list[tuple[int, int, Floats]] = []
    for level in range(1, depth + 1):
        start = time.perf_counter()
        gram_train, gram_test = _gram(train, None, level, jobs), _gram(test, train, level, jobs)
        self_test = _self_kernels(test, level, jobs)
        correct = _nearest_neighbour(gram_train, gram_test, self_test, train_labels) == test_labels
        found.append((int(np.count_nonzero(correct)), level, gram_train))
        _say(
            f"   depth {level}: {found[-1][0]} of {correct.size} test recordings right "
            f"({correct.mean():.1%}), {time.perf_counter() - start:.3f} s"
        )
    right, best, gram_best = max(found, key=lambda result: (result[0], -result[1]))
    _say(f"   Best: depth {best}, {right} of {len(test)} right. Guessing would get 10.")
    smallest = np.linalg.eigvalsh(gram_best).min()
    _say(f"   Smallest eigenvalue of its train Gram matrix: {smallest:.1e}")

    _say(f"4. Gradient of a weighted sum of kernels of depth {depth}, with respect to all points of four paths,")
    _say("   compared with finite differences along five random directions:")
    start = time.perf_counter()
    error = _gradient_error(test[:4], train[:4], depth, jobs)
    correct_gradient = error <= GRADIENT_TOLERANCE
    verdict = "passed" if correct_gradient else "TOO LARGE"
    _say(f"   largest relative difference {error:.1e}: {verdict}, {time.perf_counter() - start:.3f} s")

    _say(f"5. Picture: the train Gram matrix of depth {best}, as distances:")
    drawn = _picture(gram_best, train_labels, best, DEFAULT_PICTURE if picture is None else picture)
    return 0 if correct_gradient and (drawn or picture is None) else 1


def _say(line: str) -> None:
    """Print at once, so that a reader of a pipe sees what is running."""
    print(line, flush=True)


def motions() -> tuple[Floats, Labels, Floats, Labels]:
    """Return paths and labels of the training and the test recordings."""
    with resources.files("branchsig").joinpath("data", "basic_motions.npz").open("rb") as file, np.load(file) as data:
        return data["train_paths"], data["train_labels"], data["test_paths"], data["test_labels"]


def prepared(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    """Return standardised recordings, with time as their last channel."""
    mean, deviation = train.mean(axis=(0, 1)), train.std(axis=(0, 1))
    return _with_time((train - mean) / deviation), _with_time((test - mean) / deviation)


def _with_time(paths: Floats) -> Floats:
    augmented: Floats = branchsig.transform_path(paths, time_aug=True)
    return augmented


def _gram(paths1: Floats, paths2: Floats | None, depth: int, jobs: int) -> Floats:
    gram: Floats = branchsig.branched_sig_kernel_gram(paths1, paths2, depth, n_jobs=jobs, normalize="dilation")
    return gram


def _self_kernels(paths: Floats, depth: int, jobs: int) -> Floats:
    values: Floats = branchsig.branched_sig_kernel(paths, paths, depth, n_jobs=jobs, normalize="dilation")
    return values


def _nearest_neighbour(gram_train: Floats, gram_test: Floats, self_test: Floats, labels: Labels) -> Labels:
    squared_distances = self_test[:, np.newaxis] - 2.0 * gram_test + np.diagonal(gram_train)
    nearest: Labels = labels[squared_distances.argmin(axis=1)]
    return nearest


def _gradient_error(paths1: Floats, paths2: Floats, depth: int, jobs: int) -> float:
    """Largest difference, relative to the largest derivative, along five random directions of all points at once."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((len(paths1), len(paths2)))
    gradient, _ = branchsig.branched_sig_kernel_gram_backprop(
        weights, paths1, paths2, depth, n_jobs=jobs, normalize="dilation"
    )
    directions = rng.standard_normal((5, *paths1.shape))
    step = 2e-6 * np.abs(paths1).max()
    by_hand = np.array([(gradient * direction).sum() for direction in directions])

    def output(paths: Floats) -> float:
        return float((weights * _gram(paths, paths2, depth, jobs)).sum())

    by_differences = np.array(
        [(output(paths1 + step * v) - output(paths1 - step * v)) / (2.0 * step) for v in directions]
    )
    return float(np.abs(by_hand - by_differences).max() / np.abs(by_differences).max())


def _picture(gram: Floats, labels: Labels, depth: int, target: Path) -> bool:
    """Draw the picture if possible, and print where it is or why there is none."""
    if not has("matplotlib"):
        _say("   none: matplotlib is not installed (pip install 'branchsig[demo]')")
        return False
    try:
        _draw(gram, labels, depth, target)
    except (OSError, ValueError) as error:  # the folder is not writable, or the ending is not a format
        _say(f"   none: {error}")
        return False
    _say(f"   written to {target}")
    return True


def _draw(gram: Floats, labels: Labels, depth: int, target: Path) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    order = np.argsort(labels, kind="stable")
    names, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    diagonal = np.sqrt(np.diagonal(gram))
    cosine = (gram / (diagonal[:, np.newaxis] * diagonal))[np.ix_(order, order)]
    # Paths differ by the order of magnitude of the angle between their features, so the scale is logarithmic.
    angle = np.sqrt(2.0 * np.maximum(1.0 - cosine, 0.0))
    apart = ~np.eye(len(angle), dtype=bool)
    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    axes = figure.add_subplot()
    scale = LogNorm(vmin=np.quantile(angle[apart], 0.01), vmax=angle.max(), clip=True)
    image = axes.imshow(angle, cmap="viridis_r", norm=scale, interpolation="nearest")
    for start in starts[1:]:
        axes.axhline(start - 0.5, color="white", linewidth=0.8)
        axes.axvline(start - 0.5, color="white", linewidth=0.8)
    axes.set_xticks(starts + counts / 2 - 0.5, names)
    axes.set_yticks(starts + counts / 2 - 0.5, names, rotation=90, va="center")
    axes.tick_params(length=0)
    axes.set_title(f"Recorded motions under the kernel of depth {depth}")
    figure.colorbar(image, ax=axes, label="distance after unit normalisation (dark: far)")
    figure.savefig(target, dpi=120)
