#!/usr/bin/env bash
# esig 1.0.0: paths of 50, 99, 104 or 108 points have no signature; their neighbours in length have.
#
# One would guess that whether a signature can be computed does not depend on the number of points. esig hands its backend time
# stamps numpy.arange(0, 1, 1 / (points - 1)), which has one entry too many where 1 / (1 / (points - 1)) is rounded up. From level
# two on it then stops with a ValueError about rows and indices that the caller never gave; at level one it works. Few numbers of
# points are concerned, and tests on 10 or 100 points pass. It matters to everybody who computes signatures
# of series of unequal length, or over expanding windows: one path in a batch stops the whole of it.
# Run: bash findings/esig_paths_of_fifty_points.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check esig==1.0.0 roughpy==0.3.0 pyrecombine==1.0.1 numpy==2.2.6
"$work/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys

import esig
import numpy as np

versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("esig", "roughpy", "numpy"))
print(f"Python {sys.version.split()[0]}, {versions}")

path = np.cumsum(np.random.default_rng(0).standard_normal((130, 2)), axis=0)
refused = {}
for function in (esig.stream2sig, esig.stream2logsig):
    for level in (1, 2, 4):
        lengths = []
        for points in range(2, 131):
            try:
                function(path[:points], level)
            except ValueError as error:
                lengths.append(points)
                message = str(error).splitlines()[-1]
        print(f"{function.__name__}, level {level}: refuses paths of {lengths} points among 2 to 130")
        refused[function.__name__, level] = lengths
print(f"ValueError: {message}")
if any(lengths != ([] if level == 1 else [50, 99, 104, 108]) for (_, level), lengths in refused.items()):
    sys.exit("The behaviour has changed.")
print("As described.")
PYTHON
