#!/usr/bin/env bash
# scikit-learn 1.9.1: Gaussian processes take a "list of object", but not if the objects are arrays.
#
# GaussianProcessRegressor.fit documents X as "array-like of shape (n_samples, n_features) or list of object", for kernels on
# structured data (requires_vector_input = False). One would guess that a list of arrays, such as time series, is one. With lists
# of arrays of different lengths NumPy refuses to stack them; with equal lengths X has "dim 3"; and an array of dtype object with an
# array in each entry, which is how such lists are usually wrapped, fails in the search for missing values: it takes X != X, where
# an entry answers by an array, "The truth value of an array with more than one element is ambiguous". An object that merely holds
# the array passes. It matters to everybody with kernels on sequences: the message is about truth values and says nothing of X.
# Run: bash findings/scikit_learn_gaussian_process_of_a_list_of_arrays.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.2.6
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import sklearn
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import GenericKernelMixin, Kernel

print(f"Python {sys.version.split()[0]}, scikit-learn {sklearn.__version__}, NumPy {np.__version__}")


class Holder:
    def __init__(self, series):
        self.series = series


class EndsKernel(GenericKernelMixin, Kernel):
    """A kernel of series, of any lengths: that of their last points."""

    def __init__(self):
        pass

    def __call__(self, X, Y=None, eval_gradient=False):
        ends, others = (np.array([getattr(x, "series", x)[-1] for x in some]) for some in (X, X if Y is None else Y))
        gram = np.exp(-0.5 * np.sum((ends[:, None] - others[None]) ** 2, axis=2))
        return (gram, np.empty((*gram.shape, 0))) if eval_gradient else gram

    def diag(self, X):
        return np.ones(len(X))

    def is_stationary(self):
        return False


rng = np.random.default_rng(0)
ragged = [rng.standard_normal((length, 2)) for length in (5, 3, 4)]
equal = [rng.standard_normal((4, 2)) for _ in range(3)]


def objects(entries):
    array = np.empty(len(entries), dtype=object)
    array[:] = entries
    return array


cases = {
    "a list of arrays of different lengths": (ragged, "inhomogeneous"),
    "a list of arrays of one length": (equal, "dim 3"),
    "an array of dtype object of arrays": (objects(ragged), "truth value"),
    "an array of dtype object of objects that hold arrays": (objects([Holder(one) for one in ragged]), None),
}
as_described = True
for name, (X, words) in cases.items():
    try:
        GaussianProcessRegressor(EndsKernel(), alpha=1e-3).fit(X, np.arange(3.0))
        said = None
    except ValueError as error:
        said = str(error).splitlines()[0]
    print(f"{name}: {said or 'fitted'}")
    as_described &= (said is None) if words is None else said is not None and words in said
if not as_described:
    sys.exit("The behaviour has changed.")
print("As described.")
PYTHON
