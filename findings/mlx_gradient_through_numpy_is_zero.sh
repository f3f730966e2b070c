#!/usr/bin/env bash
# mlx 0.32.4: what NumPy reads of an array inside of mx.grad is a constant, and the gradient is zero, without a word.
#
# One would guess that numpy.asarray, or DLPack, of an array that mx.grad differentiates raises an exception, as it does inside of
# mx.vmap and mx.compile ("Attempting to eval an array during function transformations"), and as JAX and PyTorch do. MLX
# evaluates the array and hands it out. No attribute says that it is being differentiated, so that a library which computes
# on what NumPy reads cannot tell either. It matters to every library of compiled functions that takes any array of the
# array API standard, which mx.array says that it follows: it has to refuse all arrays of MLX, or gradients are zero.
# Run: bash findings/mlx_gradient_through_numpy_is_zero.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' numpy==2.2.6
"$work/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys
import warnings

import mlx.core as mx
import numpy as np

print(f"Python {sys.version.split()[0]}, mlx {importlib.metadata.version('mlx')}, NumPy {np.__version__}")
warnings.simplefilter("error")
x = mx.array([1.0, 2.0, 3.0])


def squares(a):
    return mx.array(np.asarray(a) ** 2).sum()


def squares_and_sum(a):
    return squares(a) + a.sum()


def refused(transform):
    try:
        transform(squares)(x)
    except ValueError:
        return True
    return False


names = [name for name in dir(x) if "grad" in name or "trac" in name]
found = {
    "gradient of sum(x^2), wanted [2, 4, 6]": np.asarray(mx.grad(squares)(x)).tolist(),
    "gradient of sum(x^2 + x), wanted [3, 5, 7]": np.asarray(mx.grad(squares_and_sum)(x)).tolist(),
    "refused inside of vmap and compile": [refused(mx.vmap), refused(mx.compile)],
    "attributes that speak of gradients or tracing": names,
}
for name, value in found.items():
    print(f"{name}: {value}")
if list(found.values()) != [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [True, True], []]:
    sys.exit("The behaviour has changed.")
print("As described: gradients are wrong, and neither an exception nor a warning says so.")
PYTHON
