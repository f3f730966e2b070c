#!/usr/bin/env bash
# scikit-learn 1.9.1: SVC(kernel="precomputed") with a sample weight of zero predicts from the wrong columns, silently.
#
# One would guess that a sample of weight zero is the same as a sample left out, as it is with kernel="linear". The samples of
# weight zero are removed before the fit and support_ counts those that are left, but predict takes support_ for columns of the
# matrix of all samples. A callable kernel goes the same way inside. Leave-out by weights gives plausible wrong predictions, and
# so does BaggingClassifier, which draws its bootstraps as weights, some of them zero. It matters to everybody who hands a Gram
# matrix, of signature kernels for instance, to a support vector machine. Leaving the rows and columns out by hand is right.
# Run: bash findings/scikit_learn_precomputed_kernel_with_weight_zero.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.2.6
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import numpy as np
import sklearn
from sklearn.ensemble import BaggingClassifier
from sklearn.svm import SVC

print(f"Python {sys.version.split()[0]}, scikit-learn {sklearn.__version__}, NumPy {np.__version__}")
warnings.simplefilter("error")

points = np.random.default_rng(0).standard_normal((40, 3))
labels = (points[:, 0] > 0).astype(int)
gram = points @ points.T
weights = np.ones(40)
weights[:5] = 0.0
left = np.arange(5, 40)

by_points = SVC(kernel="linear").fit(points, labels, sample_weight=weights)
by_gram = SVC(kernel="precomputed").fit(gram, labels, sample_weight=weights)
by_callable = SVC(kernel=lambda x, y: x @ y.T).fit(points, labels, sample_weight=weights)
by_hand = SVC(kernel="precomputed").fit(gram[np.ix_(left, left)], labels[left])

wanted = by_points.decision_function(points)
errors = {
    "precomputed, five weights of zero": by_gram.decision_function(gram) - wanted,
    "callable, five weights of zero": by_callable.decision_function(points) - wanted,
    "precomputed, the five left out by hand": by_hand.decision_function(gram[:, left]) - wanted,
}
for name, error in errors.items():
    print(f"{name}: decision function differs from the linear kernel's by {np.abs(error).max():.3g}")
print(f"support_ {by_gram.support_.tolist()}, though the vectors kept are rows", end=" ")
rows = [int(np.flatnonzero((points == vector).all(axis=1))[0]) for vector in by_points.support_vectors_]
print(rows)

scores = {
    "linear": by_points.score(points, labels),
    "precomputed": by_gram.score(gram, labels),
    "callable": by_callable.score(points, labels),
    "bagged, linear": BaggingClassifier(SVC(kernel="linear"), random_state=0).fit(points, labels).score(points, labels),
    "bagged, precomputed": BaggingClassifier(SVC(kernel="precomputed"), random_state=0).fit(gram, labels).score(gram, labels),
}
for name, score in scores.items():
    print(f"accuracy on the training set, {name}: {score}")

size = [float(np.abs(error).max()) for error in errors.values()]
as_described = (
    size[0] > 1.0
    and size[1] > 1.0
    and size[2] < 1e-8
    and rows == [5 + i for i in by_gram.support_.tolist()]
    and min(scores["linear"], scores["bagged, linear"]) > 0.95
    and max(scores["precomputed"], scores["callable"], scores["bagged, precomputed"]) < 0.8
)
if not as_described:
    sys.exit("The behaviour has changed.")
print("As described: the same kernel, the same weights and other predictions, without an exception or a warning.")
PYTHON
