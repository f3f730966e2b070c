"""The command line: ``branchsig info`` describes the installation, ``branchsig demo`` runs it on real data.

Both print to standard output; the exit status is 0 on success.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import branchsig

__all__ = ["main"]

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.str_]

DEFAULT_PICTURE = Path("branchsig_gram.png")
GRADIENT_TOLERANCE = 1e-6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The arguments, without the name of the program. Default: those of the process.

    Returns
    -------
    int
        The exit status: 0, or 1 if the demo found a wrong gradient or could not write the requested picture.
    """
    parser = argparse.ArgumentParser(prog="branchsig", description="Branched signature kernels of paths.")
    parser.add_argument("--version", action="version", version=f"branchsig {branchsig.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{info,demo}")
    commands.add_parser("info", help="version, backends, instruction set and CUDA of this installation")
    demo = commands.add_parser("demo", help="classify recorded motions, check a gradient, draw a Gram matrix")
    demo.add_argument("--depth", type=_depth, metavar="N", default=5, help="largest depth of the trees (default: 5)")
    demo.add_argument("--jobs", type=_jobs, metavar="N", default=1, help="threads, -1 for all cores (default: 1)")
    demo.add_argument(
        "--picture",
        type=Path,
        default=None,
        help=f"where to write the picture (default: {DEFAULT_PICTURE}, where matplotlib is installed)",
    )
    chosen = parser.parse_args(arguments)
    if chosen.command == "info":
        return _info()
    if chosen.picture is not None and not _has("matplotlib"):
        demo.error("--picture needs matplotlib: pip install 'branchsig[demo]'")
    if chosen.picture is not None and not chosen.picture.absolute().parent.is_dir():
        demo.error(f"--picture: the folder {chosen.picture.parent} does not exist")
    if chosen.picture is not None and chosen.picture.suffix[1:].lower() not in (formats := _formats()):
        demo.error(
            f"--picture: {chosen.picture.name} does not end in a file type that matplotlib can write: give one of "
            + ", ".join(formats)
        )
    return _demo(chosen.depth, chosen.jobs, chosen.picture)


def _depth(text: str) -> int:
    depth = _integer(text)
    if depth < 1:
        raise argparse.ArgumentTypeError(f"depth is {depth}, at which all kernels are 1: give 1 or more")
    return depth


def _jobs(text: str) -> int:
    jobs = _integer(text)
    if jobs == 0:
        raise argparse.ArgumentTypeError("expected a number of threads >= 1, or -1 for all cores")
    return jobs


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from None


def _formats() -> list[str]:
    """File types that matplotlib can write."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    return sorted(FigureCanvasAgg.get_supported_filetypes())


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _info() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    extras = [name for name in ("matplotlib", "tqdm") if _has(name)]
    rows = [
        ("branchsig", branchsig.__version__),
        ("Python", platform.python_version()),
        ("NumPy", np.__version__),
        ("backends", _backends()),
        ("CPU", f"{platform.machine()}, {cores} cores usable"),
        ("CUDA", _cuda()),
        ("optional", ", ".join(extras) or "none installed"),
    ]
    for name, value in rows:
        print(f"{name:<10} {value}")
    return 0


def _backends() -> str:
    try:
        from branchsig.backends import cpu
    except ImportError:
        return "reference (the C core is missing)"
    cpu.warn_of_environment()
    return f"cpu (C core, instruction set {cpu.instruction_set()}), reference"


def _cuda() -> str:
    """Describe CuPy and the CUDA devices that it finds."""
    if not _has("cupy"):
        return "CuPy is not installed (pip install 'branchsig[cuda12]', or 'branchsig[cuda13]' for CUDA 13)"
    import cupy

    if not cupy.is_available():
        return f"CuPy {cupy.__version__} finds no device"
    number = int(cupy.cuda.runtime.getDeviceCount())
    return f"CuPy {cupy.__version__}, {number} device{'' if number == 1 else 's'}"


def _demo(depth: int, jobs: int, picture: Path | None) -> int:
    print("Recorded motions: 6 channels of a smart watch, 10 s at 10 Hz, of people standing, walking, running and")
    print("playing badminton (BasicMotions, UEA archive).")
    train, train_labels, test, test_labels = _motions()
    print(f"  train {train.shape}, test {test.shape}: recordings x samples x channels")

    print("Preparation: channels standardised on the train recordings, time added as the last channel. Unscaled, the")
    print("  kernel overflows on these recordings: it grows like a tower of exponentials. So each path is scaled such")
    print("  that the logarithm of its kernel with itself is 1 (dilation); all kernels then lie between 1/e and e.")
    train, test = _prepared(train, test)

    print(f"Gram matrices at depths 1 to {depth}, {jobs} thread{'' if jobs == 1 else 's'}, and the nearest neighbour")
    print("in the kernel distance d^2 = k(x,x) - 2 k(x,y) + k(y,y):")
    for level in range(1, depth + 1):
        start = time.perf_counter()
        gram_train, gram_test = _gram(train, None, level, jobs), _gram(test, train, level, jobs)
        self_test = _self_kernels(test, level, jobs)
        correct = _nearest_neighbour(gram_train, gram_test, self_test, train_labels) == test_labels
        print(
            f"  depth {level}: {np.count_nonzero(correct)} of {correct.size} test recordings right "
            f"({correct.mean():.1%}), {time.perf_counter() - start:.3f} s"
        )
    largest = max(gram_train.max(), gram_test.max(), self_test.max())
    smallest = np.linalg.eigvalsh(gram_train).min()
    print(f"  largest value {largest:.6f}, smallest eigenvalue of train x train {smallest:.1e}")

    error = _timed("gradient against finite differences", _gradient_error, test[:4], train[:4], depth, jobs)
    right = error <= GRADIENT_TOLERANCE
    print(f"  largest relative difference {error:.1e}: {'passed' if right else 'TOO LARGE'}")

    drawn = _picture(gram_train, train_labels, depth, DEFAULT_PICTURE if picture is None else picture)
    return 0 if right and (drawn or picture is None) else 1


def _motions() -> tuple[Floats, Labels, Floats, Labels]:
    with resources.files("branchsig").joinpath("data", "basic_motions.npz").open("rb") as file, np.load(file) as data:
        return data["train_paths"], data["train_labels"], data["test_paths"], data["test_labels"]


def _prepared(train: Floats, test: Floats) -> tuple[Floats, Floats]:
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
    if not _has("matplotlib"):
        print("No picture: matplotlib is not installed (pip install 'branchsig[demo]').")
        return False
    try:
        _draw(gram, labels, depth, target)
    except (OSError, ValueError) as error:  # the folder is not writable, or the ending is not a format
        print(f"No picture: {error}")
        return False
    print(f"Picture of the train Gram matrix: {target}")
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


def _timed(what: str, function: Any, *arguments: Any) -> Any:
    start = time.perf_counter()
    result = function(*arguments)
    print(f"  {what}: {time.perf_counter() - start:.3f} s")
    return result
