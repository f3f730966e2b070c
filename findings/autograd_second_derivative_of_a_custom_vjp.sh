#!/usr/bin/env bash
# autograd 1.8.0: a second derivative through a function whose vjp autograd cannot see into is a wrong number.
#
# One would guess that differentiating twice through a primitive whose vjp hands plain arrays to compiled code raises an
# exception, as it does in PyTorch (once_differentiable) and in JAX. autograd takes what such a vjp returns for a constant. It
# warns ("Output seems independent of input") only where nothing else depends on the input; in a sum or a product the second
# derivative is a plausible wrong number, silently. Newton's method, Laplace approximations and gradient penalties go astray.
# It matters to every library that offers compiled gradients, such as signature kernels, to autograd.
# Run: bash findings/autograd_second_derivative_of_a_custom_vjp.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check autograd==1.8.0 numpy==2.2.6
"$work/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys
import warnings

import numpy as np
from autograd import grad
from autograd.extend import defvjp, primitive
from autograd.tracer import getval

print(f"Python {sys.version.split()[0]}, autograd {importlib.metadata.version('autograd')}, NumPy {np.__version__}")
warnings.simplefilter("error")


@primitive
def cube(x):
    return x**3


def compiled_slope(x):
    """3x^2, as compiled code gives it: a plain number in, a plain number out."""
    return 3.0 * float(x) ** 2


defvjp(cube, lambda answer, x: lambda g: g * compiled_slope(getval(x)))

found = {
    "first derivative of x^3 at 2, wanted 12": grad(cube)(2.0),
    "second derivative of x^3 + x^2, wanted 14": grad(grad(lambda x: cube(x) + x * x))(2.0),
    "second derivative of x * x^3, wanted 48": grad(grad(lambda x: x * cube(x)))(2.0),
}
for name, value in found.items():
    print(f"{name}: found {value}")
seen = list(found.values())
if seen != [12.0, 2.0, 24.0]:
    sys.exit("The behaviour has changed.")
print("As described: the second derivatives are wrong, and neither an exception nor a warning says so.")
PYTHON
