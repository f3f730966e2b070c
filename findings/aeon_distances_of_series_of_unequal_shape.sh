#!/usr/bin/env bash
# aeon 1.6.0: a distance between series of unequal shape leaves out what the shorter or narrower one lacks, silently.
#
# One would guess that a Euclidean distance between series of unequal length raises an exception, as in NumPy, or counts what is
# missing. It is the distance between the common beginnings: a series is at distance zero from each of its prefixes, and the
# triangle inequality fails. Channels are treated likewise, in dynamic time warping too: a series of three channels is at distance
# zero from its own first channel. Nearest neighbours then prefer short series, and the Gaussian kernel of such distances, a
# usual peer of signature kernels, has a Gram matrix with clearly negative eigenvalues.
# Run: bash findings/aeon_distances_of_series_of_unequal_shape.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile aeon==1.6.0 numpy==2.2.6
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import aeon
import numpy as np
from aeon.distances import dtw_distance, euclidean_distance

print(f"Python {sys.version.split()[0]}, aeon {aeon.__version__}, NumPy {np.__version__}")
warnings.simplefilter("error")

rising, start, falling = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.0]), np.array([0.0, 1.0, 0.0, -1.0])
wide = np.array([[0.0, 1.0, 2.0], [5.0, 3.0, 5.0], [7.0, 7.0, 1.0]])
found = {
    "Euclidean, four points against their first two": euclidean_distance(rising, start),
    "Euclidean, another four points against the same two": euclidean_distance(falling, start),
    "Euclidean, the four points against the other four": euclidean_distance(rising, falling),
    "Euclidean, three channels against their first": euclidean_distance(wide, wide[:1].copy()),
    "warping, three channels against their first": dtw_distance(wide, wide[:1].copy()),
}
for name, value in found.items():
    print(f"{name}: {value}")
series = [rising, start, falling]
distances = np.array([[euclidean_distance(x, y) for y in series] for x in series])
eigenvalues = np.linalg.eigvalsh(np.exp(-(distances**2)))
print(f"eigenvalues of the Gaussian Gram matrix of the three: {eigenvalues}")
if not np.allclose(list(found.values()), [0.0, 0.0, 20.0**0.5, 0.0, 0.0]) or not eigenvalues[0] < -0.4:
    sys.exit("The behaviour has changed.")
print("As described, without an exception or a warning.")
PYTHON
