"""Accuracy of support vector machines on branched signature kernels beside two baselines, on public and simulated sets.

    python benchmarks/classification.py [--quick] [--jobs N] [SET ...]

Prints and writes `results/classification.md`. Needs scikit-learn, aeon and tslearn, whose wheels contain the sets.
With --quick or names of sets it prints only.
"""

import argparse
import dataclasses
import platform
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import measure
import numpy as np
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import branchsig
from branchsig.frameworks.sklearn import BranchedSigKernel

FOLDS, INNER_FOLDS = 5, 3
PENALTIES = [1.0, 10.0, 100.0, 1000.0]
LONG = 300
"""Points from which on lead-lag, which doubles them, is left out."""

OPTIONS = {
    "linear": {},
    "base point": {"base_point": True},
    "time": {"time_aug": True},
    "both": {"base_point": True, "time_aug": True},
    "both, time to 10": {"base_point": True, "time_aug": True, "end_time": 10.0},
    "both, depth 3": {"base_point": True, "time_aug": True, "depth": 3},
    "both, RBF": {"base_point": True, "time_aug": True, "sigma": "median"},
    "both, RBF, unit norms": {"base_point": True, "time_aug": True, "sigma": "median", "normalize": True},
    "both, lead-lag": {"base_point": True, "time_aug": True, "lead_lag": True},
}
"""What differs from depth 2, the linear static kernel, dilation and standardised channels."""


@dataclasses.dataclass
class Set:
    """Labelled series, each (length, channels), and where they come from."""

    series: list[np.ndarray]
    labels: np.ndarray
    source: str

    @property
    def lengths(self) -> list[int]:
        """Numbers of points."""
        return [len(one) for one in self.series]


def of_aeon(name: str) -> Set:
    """Training and test part of a set in the wheel of aeon."""
    import aeon
    from aeon.datasets import load_from_ts_file

    series, labels = [], []
    for part in ("TRAIN", "TEST"):
        path = Path(aeon.__file__).parent / "datasets" / "data" / name / f"{name}_{part}.ts"
        paths, lengths = branchsig.as_paths(path)
        series += [path if lengths is None else path[: lengths[k]] for k, path in enumerate(paths)]
        labels.append(load_from_ts_file(str(path))[1])
    return Set(series, np.concatenate(labels), "aeon")


def of_tslearn(name: str) -> Set:
    """Training and test part of a set in the wheel of tslearn."""
    from tslearn.datasets import CachedDatasets

    x_train, y_train, x_test, y_test = CachedDatasets().load_dataset(name)
    paths, _ = branchsig.as_paths(np.concatenate([x_train, x_test]))
    return Set(list(paths), np.concatenate([y_train, y_test]), "tslearn")


def leading() -> Set:
    """Two channels that share a signal, one a little later: which of them leads is the label."""
    rng = np.random.default_rng(0)
    labels, series = np.arange(120) % 2, []
    for label in labels:
        length = int(rng.integers(60, 100))
        walk = np.cumsum(rng.standard_normal(length + 4))
        channels = [walk[4:], walk[:-4]] if label else [walk[:-4], walk[4:]]
        series.append(np.stack(channels, axis=1) + 0.5 * rng.standard_normal((length, 2)))
    return Set(series, labels, "simulated")


def rough() -> Set:
    """Walks whose steps have the same variance over the whole length, but in one class in bursts."""
    rng = np.random.default_rng(1)
    labels, series = np.arange(120) % 2, []
    for label in labels:
        size = np.exp(1.0 * label * np.sin(np.linspace(0, 6 * np.pi, 80) + rng.uniform(0, 2 * np.pi)))
        series.append(np.cumsum(rng.standard_normal((80, 1)) * (size / np.sqrt(np.mean(size**2)))[:, None], axis=0))
    return Set(series, labels, "simulated")


SETS: dict[str, Callable[[], Set]] = {
    **{
        name: lambda name=name: of_aeon(name)
        for name in (
            "ArrowHead",
            "BasicMotions",
            "GunPoint",
            "ItalyPowerDemand",
            "JapaneseVowels",
            "OSULeaf",
            "PickupGestureWiimoteZ",
            "UnitTest",
        )
    },
    "Trace": lambda: of_tslearn("Trace"),
    "who leads (simulated)": leading,
    "bursts (simulated)": rough,
}


def kernels(options: dict, jobs: int) -> BranchedSigKernel:
    """The transformer with these options."""
    return BranchedSigKernel(standardize=True, n_jobs=jobs, **options)


def machine() -> GridSearchCV:
    """A support vector machine on matrices, whose penalty is chosen within the training part."""
    return GridSearchCV(SVC(kernel="precomputed"), {"C": PENALTIES}, cv=StratifiedKFold(INNER_FOLDS))


def padded(series: list[np.ndarray], length: int) -> np.ndarray:
    """Series of one length in rows, the last point repeated or the rest cut off."""
    return np.stack([one[np.minimum(np.arange(length), len(one) - 1)].ravel() for one in series])


def flattened(train, labels, test) -> np.ndarray:
    """Predictions of a support vector machine with a radial kernel on all values of the series."""
    longest = max(map(len, train))
    search = GridSearchCV(
        make_pipeline(StandardScaler(), SVC()), {"svc__C": PENALTIES}, cv=StratifiedKFold(INNER_FOLDS)
    )
    return search.fit(padded(train, longest), labels).predict(padded(test, longest))


def nearest(train, labels, test, jobs: int) -> np.ndarray:
    """Predictions of the nearest neighbour by dynamic time warping of all channels together, without a window."""
    from tslearn.metrics import cdist_dtw
    from tslearn.utils import to_time_series_dataset

    points = np.concatenate(train)
    mean, scale = points.mean(axis=0), points.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    first, second = (to_time_series_dataset([(one - mean) / scale for one in part]) for part in (test, train))
    distances = cdist_dtw(first, second, n_jobs=jobs)
    neighbours = KNeighborsClassifier(1, metric="precomputed")
    return neighbours.fit(np.zeros((len(train), len(train))), labels).predict(distances)


def of_fold(data: Set, train: np.ndarray, test: np.ndarray, chosen, jobs: int) -> dict[str, float]:
    """Accuracies on the test part of a fold."""
    x, y = ([data.series[k] for k in part] for part in (train, test))
    labels, truth = data.labels[train], data.labels[test]
    found, inner = {}, {}
    for name, options in chosen.items():
        model = kernels(options, jobs)
        search = machine().fit(model.fit_transform(x), labels)
        inner[name] = search.best_score_
        found[name] = float(np.mean(search.predict(model.transform(y)) == truth))
    found["chosen"] = found[max(inner, key=inner.get)]
    found["1-NN DTW"] = float(np.mean(nearest(x, labels, y, jobs) == truth))
    found["RBF SVM, flat"] = float(np.mean(flattened(x, labels, y) == truth))
    return found


def accuracies(data: Set, jobs: int) -> dict[str, float]:
    """Mean accuracies over the folds."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(np.zeros(len(data.labels)), data.labels)
    chosen = {name: o for name, o in OPTIONS.items() if not (o.get("lead_lag") and max(data.lengths) > LONG)}
    found = [of_fold(data, train, test, chosen, jobs) for train, test in folds]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


COLUMNS = ("chosen", "1-NN DTW", "RBF SVM, flat")

TEXT = """# Classification of series

{machine}

Accuracies in percent: means over {folds} folds of the whole set, training and test parts of the archives together
(stratified, shuffled with seed 0). The support vector machine on branched signature kernels has standardised channels,
dilation, depth 2 and the linear static kernel, but for what the columns of the second table say. "Chosen" takes for
every fold the column with the best accuracy in a cross-validation of {inner} folds within its training part, which also
chooses the penalty out of {penalties}. 1-NN DTW warps all channels together, without a window, on standardised channels
(tslearn). The RBF SVM takes all values of a series as one vector, standardised; series of different lengths are padded
with their last points, and its penalty is chosen likewise.
Written by `python benchmarks/classification.py`.

{summary}

{table}

## What the options do

"Base point" is `base_point=True`, "time" is even, from 0 to 1, and "both" is both of them. "RBF" is `sigma="median"`,
and "unit norms" is `normalize=True`. Lead-lag is left out above {long} points.

{options}

A linear kernel of one channel sees where a path ends and no more: without time, lead-lag or another static kernel sets
of one channel are lost. No option is best everywhere, so choose them by cross-validation.

The sets: {sources}."""


def facts() -> list[str]:
    """Versions that the accuracies may depend on."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scikit-learn", "aeon", "tslearn"))
    return [f"- Python {platform.python_version()}, {libraries}, branchsig {branchsig.__version__}"]


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def report(results: dict[str, tuple[Set, dict[str, float]]]) -> str:
    """The tables as Markdown."""
    head = ["set", "series", "points", "channels", "classes", *COLUMNS]
    rows, of_options = [], []
    for name, (data, found) in results.items():
        low, high = min(data.lengths), max(data.lengths)
        size = [str(len(data.labels)), str(high) if low == high else f"{low} to {high}"]
        size += [str(data.series[0].shape[1]), str(len(set(data.labels)))]
        best = max(found[column] for column in COLUMNS)
        marked = [f"**{percent(found[c])}**" if found[c] == best else percent(found[c]) for c in COLUMNS]
        rows.append([name, *size, *marked])
        of_options.append([name, *(percent(found.get(option)) for option in OPTIONS)])
    means = ["mean", "", "", "", "", *(percent(np.mean([f[c] for _, f in results.values()])) for c in COLUMNS)]
    wins = {column: sum(f["chosen"] > f[column] for _, f in results.values()) for column in COLUMNS[1:]}
    losses = {column: [n for n, (_, f) in results.items() if f["chosen"] < f[column]] for column in COLUMNS[1:]}
    summary = " ".join(
        f"Better than {column} on {wins[column]} of {len(results)} sets, and worse on {len(losses[column])}"
        + (f" ({', '.join(losses[column])})." if losses[column] else ".")
        for column in COLUMNS[1:]
    )
    sources = {}
    for name, (data, _) in results.items():
        sources.setdefault(data.source, []).append(name)
    return TEXT.format(
        machine="\n".join(facts()),
        folds=FOLDS,
        inner=INNER_FOLDS,
        penalties=", ".join(f"{p:g}" for p in PENALTIES),
        summary=summary,
        table="\n".join(measure.table(head, [*rows, means])),
        options="\n".join(measure.table(["set", *OPTIONS], of_options)),
        long=LONG,
        sources="; ".join(f"{', '.join(names)} ({source})" for source, names in sources.items()),
    )


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sets", nargs="*", help="names of sets; all by default")
    parser.add_argument("--quick", action="store_true", help="small sets alone")
    parser.add_argument("--jobs", type=int, default=1, help="threads")
    chosen = parser.parse_args()
    names = chosen.sets or (["UnitTest", "BasicMotions", "who leads (simulated)"] if chosen.quick else list(SETS))
    results = {}
    for name in names:
        begun, data = time.perf_counter(), SETS[name]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results[name] = data, accuracies(data, chosen.jobs)
        shown = ", ".join(f"{column} {percent(value)}" for column, value in results[name][1].items())
        print(f"{name}: {shown} ({time.perf_counter() - begun:.0f} s)", file=sys.stderr, flush=True)
    measure.report("classification.md", report(results).split("\n"), write=not chosen.sets and not chosen.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
