#!/usr/bin/env bash
# pySigLib 4.0.0: a gradient of 5 comes out as 2e11 in float32 if a point of one path lies close to a point of the other.
#
# The Matern 1/2 kernel exp(-|x - y| / sigma) has a kink where points coincide, so one expects a convention at distance 0.
# One would guess that points 5e-5 apart, a thousand times the spacing of float32, are no special case: the kernel is smooth
# there with a slope of size 1 / sigma. The value is right. The gradient is 1e9 to 1e12, finite, with nothing said, in more
# than half of the cases: as if the distance had come out as 0 and been divided by. The other kernels and float64 are right at this distance. It
# matters to who learns paths or a bandwidth in float32: paths that cross, or share their first point but for rounding, are
# ordinary, and one such step of a gradient method ends the training.
# Run: bash findings/pysiglib_matern12_gradient_of_near_points.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 pysiglib==4.0.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys

import numpy as np
import pysiglib

versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("pysiglib", "torch", "numpy"))
print(f"Python {sys.version.split()[0]}, {versions}")


def gradient(x, y, kernel):
    one = np.ones((), dtype=x.dtype)
    return np.asarray(pysiglib.branched_sig_kernel_backprop(one, x, y, 2, 0, static_kernel=kernel)[0])


rng = np.random.default_rng(0)
cases = [rng.uniform(-1, 1, (2, 4, 1)).astype(np.float32) for _ in range(200)]
for x, y in cases:
    y[1] = x[1] + np.float32(5e-5)
wrong = {}
for kernel in (pysiglib.Matern12Kernel(1.0), pysiglib.Matern32Kernel(1.0), pysiglib.RBFKernel(1.0)):
    name = type(kernel).__name__
    pairs = [(gradient(x, y, kernel), gradient(x.astype(float), y.astype(float), kernel)) for x, y in cases]
    wrong[name] = sum(np.abs(single).max() > 1e6 for single, _ in pairs)
    single, double = max(pairs, key=lambda pair: np.abs(pair[0]).max())
    print(f"{name}: {wrong[name]} of {len(cases)} gradients above 1e6; the largest entry is {np.abs(single).max():.3g},")
    print(f"  of the same paths in float64 {np.abs(double).max():.3g}")
    if np.abs(double).max() > 1e3:
        sys.exit("The behaviour has changed: float64 is wrong as well.")
if not (wrong["Matern12Kernel"] > 50 and wrong["Matern32Kernel"] == 0 and wrong["RBFKernel"] == 0):
    sys.exit("The behaviour has changed.")
print("As described.")
PYTHON
