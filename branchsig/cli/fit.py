"""``branchsig fit``: a support vector classifier of series, cross-validated over depths and regularisations."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from branchsig.cli.arguments import Fail, has, kernel_options
from branchsig.cli.files import read, read_labels

__all__ = ["run"]

_PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)


def run(chosen: argparse.Namespace, fail: Fail) -> int:
    """Read series and labels, print a table of scores and the best choice; return the exit status."""
    if not has("sklearn"):
        fail("branchsig fit needs scikit-learn: pip install 'branchsig[sklearn]'")
    column = chosen.labels if chosen.labels is not None and chosen.file.endswith(".csv") else None
    if column is not None and Path(column).is_file():
        column = None
    series = read(chosen.file, chosen.layout, column)
    labels = series.labels
    if column is None and chosen.labels is not None:
        labels = read_labels(chosen.labels)
    if labels is None:
        fail(f"{chosen.file} has no labels: give a file with one label per series, --labels FILE")
    if len(labels) != len(series.paths):
        fail(f"--labels: {len(labels)} labels for {len(series.paths)} series")
    names, counts = np.unique(labels, return_counts=True)
    if len(names) < 2:
        fail(f"--labels: all series have the label {names[0]}: a classifier needs two")
    if not 2 <= chosen.folds <= counts.min():
        fail(f"--folds: {chosen.folds} folds, and the rarest label has {counts.min()} series: give from 2 to that")
    print(f"{chosen.file}: {series.words}, {len(names)} classes")
    start = time.perf_counter()
    try:
        found = _searched(chosen, kernel_options(chosen, fail), series, labels)
    except (ValueError, TypeError, MemoryError) as error:
        fail(str(error))
    _print(chosen.depths, found)
    print(f"{chosen.folds} folds, {time.perf_counter() - start:.1f} s")
    return 0


def _searched(chosen: argparse.Namespace, options: dict[str, Any], series: Any, labels: np.ndarray) -> Any:
    """A grid search over depths and penalties. Kernels of a depth are computed once for each fold."""
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import Pipeline
    from sklearn.svm import SVC

    from branchsig.frameworks.sklearn import BranchedSigKernel, as_samples

    lengths = series.lengths
    paths = series.paths if lengths is None else [path[:n] for path, n in zip(series.paths, lengths)]
    with tempfile.TemporaryDirectory() as memory:
        model = Pipeline(
            [
                ("kernel", BranchedSigKernel(standardize=not chosen.no_standardize, **options)),
                ("svc", SVC(kernel="precomputed")),
            ],
            memory=memory,
        )
        grid = {"kernel__depth": chosen.depths, "svc__C": list(_PENALTIES)}
        folds = StratifiedKFold(chosen.folds, shuffle=True, random_state=0)
        search = GridSearchCV(model, grid, cv=folds, refit=False)
        return search.fit(as_samples(paths, layout="nlc"), labels)


def _print(depths: list[int], search: Any) -> None:
    found = search.cv_results_
    scores = {
        (params["kernel__depth"], params["svc__C"]): (mean, deviation)
        for params, mean, deviation in zip(found["params"], found["mean_test_score"], found["std_test_score"])
    }
    print("accuracy, mean and standard deviation over the folds")
    print("depth  " + "".join(f"{f'C = {penalty:g}':>16}" for penalty in _PENALTIES))
    for depth in depths:
        of_depth = (scores[depth, penalty] for penalty in _PENALTIES)
        print(f"{depth:<7}" + "".join(f"{f'{mean:.3f} ± {deviation:.3f}':>16}" for mean, deviation in of_depth))
    (depth, penalty), (mean, deviation) = max(scores.items(), key=lambda item: (item[1][0], -item[0][0], -item[0][1]))
    print(f"best: depth {depth}, C = {penalty:g}, accuracy {mean:.3f} ± {deviation:.3f}")
