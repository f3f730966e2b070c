"""What the estimators of scikit-learn cost beside plain Gram matrices, and the error of Nyström features by rank.

    python benchmarks/estimators.py [--quick]

Prints and writes `results/estimators.md`. Needs scikit-learn.
"""

import time

import measure
import numpy as np

import branchsig
from branchsig.frameworks.sklearn import BranchedSigKernel, BranchedSigNystroem

OPTIONS = [
    {"depth": 2, "normalize": "dilation"},
    {"depth": 3, "normalize": "dilation"},
    {"depth": 2, "normalize": True},
    {"depth": 2, "normalize": False},
    {"depth": 2, "normalize": "dilation", "static_kernel": branchsig.RBFKernel(1.0)},
]
PATHS, RANKS = 200, (10, 20, 50, 100, 200, 400)


def costs(runs):
    """Rows of the table: `fit_transform` of 200 paths and `transform` of 200 others, over plain calls."""
    rng = np.random.default_rng(0)
    train, new = (measure.brownian(rng, PATHS, 64, 3) for _ in range(2))
    rows = []
    for options in OPTIONS:
        model = BranchedSigKernel(**options)
        seconds = measure.interleaved(
            {
                "plain, fit": lambda options=options: branchsig.branched_sig_kernel_gram(train, None, **options),
                "fit": lambda model=model: model.fit_transform(train),
                "plain, new": lambda options=options: branchsig.branched_sig_kernel_gram(new, train, **options),
                "new": lambda model=model: model.transform(new),
            },
            runs,
            clock=time.process_time,
        )
        fit, of_new = seconds["fit"].median, seconds["new"].median
        plain, plain_new = seconds["plain, fit"].median, seconds["plain, new"].median
        said = ", ".join(f"{key}={value!r}" for key, value in options.items())
        row = [said, *(f"{value * 1e3:.1f}" for value in (plain, fit, plain_new, of_new))]
        rows.append(
            [
                *row,
                *(f"{value:.2f}" for value in (fit / plain, of_new / plain_new, (fit + of_new) / (plain + plain_new))),
            ]
        )
    return rows


def errors(number):
    """Rows of the table of errors: the matrix of the features of walks against the one of the kernels."""
    paths = measure.brownian(np.random.default_rng(1), number, 30, 2)
    gram = branchsig.branched_sig_kernel_gram(paths, None, depth=3, normalize="dilation")
    values = np.linalg.eigvalsh(gram)
    size, rows = np.linalg.norm(gram), []
    for rank in (rank for rank in RANKS if rank <= number):
        found = []
        for seed in range(5):
            features = BranchedSigNystroem(3, n_components=rank, random_state=seed).fit_transform(paths)
            found.append(np.linalg.norm(features @ features.T - gram) / size)
        best = np.linalg.norm(values[: number - rank]) / size
        rows.append([str(rank), f"{np.median(found):.1e}", f"{max(found):.1e}", f"{best:.1e}"])
    return rows


def main():
    quick = measure.arguments(__doc__).parse_args().quick
    header = ["options", "Gram, ms", "fit_transform, ms", "Gram of new, ms", "transform, ms"]
    lines = [
        "# Estimators of scikit-learn",
        "",
        *measure.own_facts(),
        "",
        "Written by `python benchmarks/estimators.py`.",
        "",
        f"`BranchedSigKernel` on {PATHS} paths of (64, 3), and on {PATHS} others, beside `branched_sig_kernel_gram`.",
        "CPU time, medians of runs in turns, one thread. The last columns are the estimator over the plain calls.",
        "",
        *measure.table([*header, "fit", "new", "both"], costs(5 if quick else 31)),
        "",
        "Error of `BranchedSigNystroem` in the Frobenius norm, over that of the matrix: walks of (30, 2), depth 3,",
        "dilation, five draws of landmarks. The best matrix of a rank leaves out the smaller eigenvalues.",
        "",
        *measure.table(["landmarks", "median", "largest", "best of that rank"], errors(200 if quick else 1000)),
    ]
    measure.report("estimators.md", lines, write=not quick)


if __name__ == "__main__":
    main()
