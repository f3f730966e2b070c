"""What each option does, measured: depth, order, static kernel, bandwidth, time, base point, norms, rules, float32.

    python benchmarks/choices.py [EXPERIMENT ...]

Prints and writes `results/choices.md`, from which the page on choices takes its tables, and draws its pictures into
`docs/_static`. Takes about three minutes on one core. With names of experiments it runs these and keeps the other
tables. Needs scikit-learn and matplotlib; all data are in the package or simulated here.
"""

import argparse
import math
import re
import sys
import time
import warnings
from importlib import resources
from pathlib import Path

import matplotlib
import measure
import numpy as np
from matplotlib.figure import Figure
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.svm import SVC

import branchsig

matplotlib.rcParams["svg.hashsalt"] = "branchsig"  # the same picture has the same bytes
PICTURES = Path(__file__).parent.parent / "docs" / "_static"
BOTH = {"base_point": True, "time_aug": True}


def motions():
    """80 recorded motions of four kinds, 100 points in 6 channels, standardised."""
    file = resources.files("branchsig") / "data" / "basic_motions.npz"
    with file.open("rb") as opened, np.load(opened) as data:
        paths = np.concatenate([data["train_paths"], data["test_paths"]])
        labels = np.concatenate([data["train_labels"], data["test_labels"]])
    return standardized(paths), labels


def leading():
    """120 pairs of channels that share a walk. Which of the two leads by four points is the label."""
    rng = np.random.default_rng(0)
    labels, series = np.arange(120) % 2, []
    for label in labels:
        walk = np.cumsum(rng.standard_normal(84))
        channels = [walk[4:], walk[:-4]] if label else [walk[:-4], walk[4:]]
        series.append(np.stack(channels, axis=1) + 0.5 * rng.standard_normal((80, 2)))
    return standardized(np.stack(series)), labels


def memory(number=120, length=60, correlation=0.4, seed=1):
    """Walks in the plane. In the second class neighbouring steps are correlated."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % 2
    steps = rng.standard_normal((number, length, 2))
    for k in range(1, length):
        past = correlation * labels[:, np.newaxis] * steps[:, k - 1]
        steps[:, k] = past + np.sqrt(1 - (correlation * labels[:, np.newaxis]) ** 2) * steps[:, k]
    return standardized(steps.cumsum(axis=1)), labels


def levels():
    """120 walks in the plane. The second class starts higher."""
    rng = np.random.default_rng(2)
    labels = np.arange(120) % 2
    walks = rng.standard_normal((120, 60, 2)).cumsum(axis=1) / 8
    return standardized(walks + 2.0 * labels[:, np.newaxis, np.newaxis]), labels


def speeds():
    """120 loops in the plane, all of one shape. The second class starts slowly and ends fast."""
    rng = np.random.default_rng(3)
    labels = np.arange(120) % 2
    even = np.linspace(0, 1, 60)
    clocks = np.stack([even ** (1.0 + 0.5 * label + 0.2 * rng.uniform(-1, 1)) for label in labels])
    angle = 2 * np.pi * clocks
    loops = np.stack([np.sin(angle), 1 - np.cos(angle)], axis=2)
    return standardized(loops + 0.02 * rng.standard_normal(loops.shape)), labels


SETS = {
    "motions (recorded)": motions,
    "who leads": leading,
    "memory": memory,
    "level": levels,
    "speed": speeds,
}


def standardized(paths):
    """Every channel with mean 0 and variance 1 over all paths and points."""
    return (paths - paths.mean(axis=(0, 1))) / paths.std(axis=(0, 1))


def accuracy(gram, labels):
    """Cross-validated accuracy of a support vector machine, as text; its penalty is chosen within the training part."""
    if not np.isfinite(gram).all():
        return f"{np.isfinite(gram).mean():.0%} finite"
    if gram.max() > 1e6:  # on which the machine does not converge
        return f"values to {gram.max():.0e}"
    machine = GridSearchCV(SVC(kernel="precomputed"), {"C": [1.0, 10.0, 100.0, 1000.0]}, cv=StratifiedKFold(3))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return f"{100 * cross_val_score(machine, gram, labels, cv=folds).mean():.1f}"


def gram_of(paths, **options):
    """Gram matrix of depth 2 with dilation, but for what the options say. Overflow is counted, not warned of."""
    options = {"depth": 2, "normalize": "dilation", **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return branchsig.branched_sig_kernel_gram(paths, None, **options)


def by_set(columns, sets=SETS):
    """A table of accuracies: a row for each set, a column for each dictionary of options."""
    rows = []
    for name in sets:
        paths, labels = SETS[name]()
        rows.append([name, *(accuracy(gram_of(paths, **options), labels) for options in columns.values())])
    return measure.table(["set", *columns], rows)


def depth():
    """Accuracy by depth, and by the number of nodes."""
    by_depth = {f"depth {m}": {**BOTH, "depth": m} for m in (1, 2, 3, 4, 6)}
    by_order = {f"order {n}": {**BOTH, "depth": math.inf, "order": n} for n in (2, 3, 4)}
    return by_set({**by_depth, **by_order})


def median(paths):
    """The median distance of two points of the paths, of at most 1000 points spread evenly over them."""
    points = paths.reshape(-1, paths.shape[-1])
    points = points[:: max(1, len(points) // 1000)]
    distances = np.linalg.norm(points[:, np.newaxis] - points, axis=-1)
    return np.median(distances[np.triu_indices(len(points), 1)])


def static_kernel():
    """Accuracy by static kernel, each with the median distance of two points as its length."""
    rows = []
    for name in SETS:
        paths, labels = SETS[name]()
        length = median(branchsig.transform_path(paths, **BOTH))
        kernels = {
            "linear": branchsig.LinearKernel(),
            "polynomial, degree 2": branchsig.PolynomialKernel(2.0, 1.0),
            "RBF": branchsig.RBFKernel(length**2),
            "Matern 3/2": branchsig.Matern32Kernel(length),
            "rational quadratic": branchsig.RationalQuadraticKernel(length, 1.0),
        }
        rows.append([name, *(accuracy(gram_of(paths, **BOTH, static_kernel=k), labels) for k in kernels.values())])
    return measure.table(["set", *kernels], rows)


def bandwidth():
    """The median heuristic against the number of points, with unit norms and with dilation."""
    paths, labels = motions()
    rows, curves = [], {}
    multiples = (0.1, 1.0, 10.0, 100.0, 1000.0)
    for points in (10, 25, 50, 100):
        short = paths[:, :points]
        length = median(branchsig.transform_path(short, **BOTH))
        for normalize in (True, "dilation"):
            cells = []
            for multiple in multiples:
                kernel = branchsig.RBFKernel(multiple * length**2)
                gram = gram_of(short, **BOTH, static_kernel=kernel, normalize=normalize)
                scale = np.sqrt(np.outer(np.diagonal(gram), np.diagonal(gram)))
                apart = (gram / scale)[~np.eye(len(gram), dtype=bool)]
                cells.append(f"{accuracy(gram, labels)} ({np.median(apart):.2g})")
                curves.setdefault((normalize, points), []).append(np.median(apart))
            rows.append([str(points), repr(normalize), *cells])
    figure, axes = picture("σ over the squared median distance", "median of k(x, y) / √(k(x, x) k(y, y))")
    for points in (10, 25, 50, 100):
        axes.plot(multiples, curves[True, points], "o-", label=f"{points} points")
    axes.plot(multiples, curves["dilation", 100], "s--", color="gray", label="100 points, dilation")
    axes.set(xscale="log", ylim=(-0.03, 1.05))
    axes.legend(frameon=False)
    save(figure, "choices_bandwidth.svg")
    return measure.table(["points", "normalize", *(f"{m:g} × median²" for m in multiples)], rows)


def time_scale():
    """Accuracy by the scale of time."""
    scales = {f"time to {end:g}": {"base_point": True, "time_aug": True, "end_time": end} for end in (0.1, 1, 10, 100)}
    return by_set({"no time": {"base_point": True}, **scales})


def base_point():
    """Accuracy with and without a base point."""
    return by_set({"without": {"time_aug": True}, "with": BOTH})


def normalization():
    """Finite entries and accuracy by depth and norm, on motions."""
    paths, labels = motions()
    rows = []
    for normalize in (False, True, "dilation"):
        grams = [gram_of(paths, **BOTH, depth=m, normalize=normalize) for m in (1, 2, 3, 4)]
        rows.append([repr(normalize), *(accuracy(gram, labels) for gram in grams)])
    return measure.table(["normalize", *(f"depth {m}" for m in (1, 2, 3, 4))], rows)


def quadrature():
    """Error, time and accuracy by rule, on motions."""
    paths, labels = motions()
    exact = gram_of(paths, **BOTH, quadrature="lobatto6")
    rules = {
        "trapezoid, the default": {},
        "`dyadic_order=1`": {"dyadic_order": 1},
        "`dyadic_order=2`": {"dyadic_order": 2},
        '`quadrature="lobatto2"`': {"quadrature": "lobatto2"},
        '`quadrature="lobatto3"`': {"quadrature": "lobatto3"},
        "`rtol=1e-3`": {"rtol": 1e-3},
        "`rtol=1e-6`": {"rtol": 1e-6},
    }
    rows = []
    for name, options in rules.items():
        begun = time.perf_counter()
        gram = gram_of(paths, **BOTH, **options)
        seconds = time.perf_counter() - begun
        error = np.abs(gram / exact - 1).max()
        rows.append([name, f"{error:.1e}", f"{seconds:.2f}", accuracy(gram, labels)])
    return measure.table(["rule", "largest relative error", "seconds", "accuracy"], rows)


def float32():
    """What single precision costs, on motions."""
    paths, labels = motions()
    rows = []
    reference = gram_of(paths, **BOTH)
    for dtype in (np.float64, np.float32):
        begun = time.perf_counter()
        gram = gram_of(paths.astype(dtype), **BOTH)
        seconds = time.perf_counter() - begun
        error = np.abs(gram / reference - 1).max()
        rows.append([dtype.__name__, f"{error:.1e}", f"{seconds:.2f}", accuracy(gram.astype(np.float64), labels)])
    return measure.table(["paths", "largest relative difference", "seconds", "accuracy"], rows)


def refinement():
    """Dyadic orders against points added on the segments, for a linear and an RBF static kernel."""
    x = np.array([[0.0, 0.0], [0.2, 0.5], [1.0, 0.5]])
    y = np.array([[0.0, 0.0], [0.6, 0.0], [0.6, 0.4], [1.0, 0.5]])
    rows = []
    for name, kernel in (("linear", branchsig.LinearKernel()), ("RBF, σ = 4", branchsig.RBFKernel(4.0))):
        for order in (0, 1, 2, 4, 6):
            refined = branchsig.branched_sig_kernel(x, y, 2, order, static_kernel=kernel)
            more = (with_points_between(path, 2**order) for path in (x, y))
            added = branchsig.branched_sig_kernel(*more, 2, static_kernel=kernel)
            rows.append([name, str(order), f"{refined:.4f}", f"{added:.4f}"])
    return measure.table(["static kernel", "order λ", "`dyadic_order=λ`", "2^λ − 1 points added per segment"], rows)


def forests():
    """What unordered and ordered forests tell apart, by the trapezoid and the left-point rule."""
    rng = np.random.default_rng(4)
    labels = np.arange(40) % 2
    first, second = (np.sort(rng.uniform(0, 1, (2, 40)), axis=0)[which] for which in (0, 1))
    even = np.linspace(0, 1, 17)
    events = [np.clip(6 * (even - 0.8 * moment[:, np.newaxis]), 0, 1) for moment in (first, second)]
    swapped = np.where(labels == 1, 1, 0)[:, np.newaxis]
    order = np.stack([np.where(swapped, events[1], events[0]), np.where(swapped, events[0], events[1])], axis=2)
    steps = rng.standard_normal((40, 16, 2)) / np.sqrt(16)
    size = np.where(labels == 1, 0.5, 1.0)[:, np.newaxis, np.newaxis]
    # All walks end where one of full size would, so that the size of their steps alone differs.
    bridge = steps - steps.mean(axis=1, keepdims=True)
    walks = (size * bridge + steps.mean(axis=1, keepdims=True)).cumsum(axis=1)
    rows = []
    for name, options in {
        "unordered, depth 1": {"depth": 1},
        "unordered, depth 2": {"depth": 2},
        "unordered, depth 2, left point": {"depth": 2, "quadrature": "left"},
        "ordered, depth 1 (`sig_kernel`)": {"depth": 1, "planar": True},
        "ordered, depth 1, left point": {"depth": 1, "planar": True, "quadrature": "left"},
        "ordered, depth 2": {"depth": 2, "planar": True},
        "ordered, depth 2, left point": {"depth": 2, "planar": True, "quadrature": "left"},
    }.items():
        cells = [accuracy(gram_of(paths, **options, normalize=True), labels) for paths in (order, walks)]
        rows.append([name, *cells])
    return measure.table(["forests", "order of two events", "quadratic variation"], rows)


def with_points_between(path, parts):
    """The path with every segment split into equal parts."""
    old = np.arange(len(path))
    new = np.linspace(0, len(path) - 1, (len(path) - 1) * parts + 1)
    return np.stack([np.interp(new, old, channel) for channel in path.T], axis=1)


def picture(xlabel, ylabel):
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def save(figure, name):
    figure.savefig(PICTURES / name, metadata={"Date": None})


EXPERIMENTS = {
    "depth": depth,
    "static kernel": static_kernel,
    "bandwidth": bandwidth,
    "time": time_scale,
    "base point": base_point,
    "normalisation": normalization,
    "quadrature": quadrature,
    "float32": float32,
    "refinement": refinement,
    "forests": forests,
}

HEAD = """# What the options do

{machine}

Written by `python benchmarks/choices.py`. Numbers without another unit are accuracies in percent: means over 5 folds
(stratified, shuffled with seed 0) of a support vector machine whose penalty, 1, 10, 100 or 1000, is chosen by 3 folds
within the training part. Channels are standardised over all paths. Unless a column says otherwise: depth 2, linear
static kernel, dilation, base point, time from 0 to 1, trapezoid rule. "20% finite" is the share of the Gram matrix that
is neither infinite nor NaN; where not all are, or values are above 1e6, there is no accuracy.

The sets: **motions**, 80 recordings of four motions, 100 points in 6 channels; **who leads**, 120 pairs of noisy
channels of 80 points, one of which leads by 4 points; **memory**, 120 walks of 60 points in the plane, whose
neighbouring steps are correlated by 0.4 in one class; **level**, 120 walks of 60 points, of which one class starts
higher; **speed**, 120 loops of 60 points, of which one class starts slowly. Guessing gets 25 % of the motions and 50 %
of the others."""


def sections(text):
    """The tables of a report by the names of their experiments."""
    return dict(re.findall(r"<!-- begin (.*?) -->\n(.*?)<!-- end ", text, re.S))


def main():
    """Run all experiments, or put those that are named in place of their sections."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("experiments", nargs="*", help=f"of {', '.join(EXPERIMENTS)}; all by default")
    names = parser.parse_args().experiments or list(EXPERIMENTS)
    for name in names:
        begun = time.perf_counter()
        table = "\n".join(EXPERIMENTS[name]())
        print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        target = measure.RESULTS / "choices.md"
        found = sections(target.read_text()) if target.exists() else {}
        found[name] = table
        lines = HEAD.format(machine="\n".join(measure.own_facts())).split("\n")
        for each in EXPERIMENTS:
            if each in found:
                lines += ["", f"## {each.capitalize()}", "", f"<!-- begin {each} -->", ""]
                lines += [*found[each].strip().split("\n"), "", f"<!-- end {each} -->"]
        measure.report("choices.md", lines, write=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
