#!/usr/bin/env bash
# roughpy 0.3.0: a stream made from some columns of an array, or from every other row, is made of other numbers, silently.
#
# One would guess that a NumPy view is as good as its copy. LieIncrementStream.from_increments misreads a view whose rows are
# contiguous but do not follow one another in memory: X[:, :2], the usual way to leave the time column out, and X[::2], the usual
# way to thin a path, give the signature of another path, of the right shape. A transposed array and every other column are read
# correctly, so that tests on those prove nothing, and so is a view in FreeTensor. numpy.ascontiguousarray is the way out. It
# matters to everybody who feeds slices of a data set to a library for signatures.
# Run: bash findings/roughpy_increments_in_a_view_of_an_array.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check roughpy==0.3.0 numpy==2.2.6
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import numpy as np
import roughpy as rp

print(f"Python {sys.version.split()[0]}, roughpy {rp.__version__}, NumPy {np.__version__}")
warnings.simplefilter("error")
context = rp.get_context(width=2, depth=2, coeffs=rp.DPReal)


def displacement(increments):
    """Level one of the signature, which is the sum of the increments."""
    stream = rp.LieIncrementStream.from_increments(increments, ctx=context)
    return np.array(stream.signature())[1:3].tolist()


table = np.array([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0], [4.0, 40.0, 400.0], [8.0, 80.0, 800.0]])
pairs = table[:, :2].copy()
views = {
    "table[:, :2]": table[:, :2],
    "table[:, 1:]": table[:, 1:],
    "pairs[::2]": pairs[::2],
    "table[:, ::2]": table[:, ::2],
    "transposed": pairs.T.copy().T,
}
wrong = []
for name, view in views.items():
    of_view, of_copy, wanted = displacement(view), displacement(view.copy()), view.sum(axis=0).tolist()
    print(f"{name}: the view {of_view}, its copy {of_copy}, the sum {wanted}")
    if of_copy != wanted:
        sys.exit("The behaviour has changed.")
    if of_view != wanted:
        wrong.append(name)
tensor = np.array(rp.FreeTensor(np.arange(14.0)[::2], ctx=context))
print(f"FreeTensor(arange(14)[::2]): {tensor.tolist()}")
if wrong != ["table[:, :2]", "table[:, 1:]", "pairs[::2]"] or tensor.tolist() != np.arange(0.0, 14.0, 2.0).tolist():
    sys.exit("The behaviour has changed.")
print("As described: three of the five views are read wrongly, without an exception or a warning.")
PYTHON
