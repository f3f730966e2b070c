#!/usr/bin/env bash
# autograd 1.9.1: numpy.broadcast_to to more axes has no gradient, but an AssertionError.
#
# One would guess that autograd.numpy.broadcast_to, which is in its list of differentiable functions, has a gradient for whatever
# NumPy broadcasts. For an array that is repeated along new axes in front, the most common use, it fails with "Can't handle
# extra leading dims". Adding zeros of the shape does the same and works. It matters to code that gives all paths of a batch
# the same times, weights or parameters.
# Run: bash findings/autograd_gradient_of_broadcast_to.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check autograd==1.9.1 numpy==2.2.6
"$work/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys

import autograd.numpy as anp
import numpy as np
from autograd import grad

print(f"Python {sys.version.split()[0]}, autograd {importlib.metadata.version('autograd')}, NumPy {np.__version__}")
x = np.ones(2)
added = grad(lambda a: anp.sum(np.zeros((3, 2)) + a))(x).tolist()
try:
    found = grad(lambda a: anp.sum(anp.broadcast_to(a, (3, 2))))(x).tolist()
except AssertionError as error:
    found = str(error)
print(f"gradient of the sum of zeros plus x, wanted [3, 3]: {added}")
print(f"gradient of the sum of broadcast_to, wanted [3, 3]: {found}")
if (added, found) != ([3.0, 3.0], "Can't handle extra leading dims"):
    sys.exit("The behaviour has changed.")
print("As described: broadcast_to has no gradient.")
PYTHON
