#!/usr/bin/env bash
# sigkerax 0.2.1: with the JAX that pip picks for it, every call raises; an older one is needed, and no version says so.
#
# The package asks for jax >= 0.4.11, < 0.5. One would guess that a resolver then installs something that works, and that a
# project which pins sigkerax may leave JAX alone. With the newest that is admitted, 0.4.38, the example of its README raises
# ValueError("Non-hashable static arguments ..."): the solver passes a traced number to a jitted function as a static
# argument, which older versions let through. JAX 0.4.30 warns of it, 0.4.23 is silent, and the values are right. Newer ones do not import
# what it uses. It matters to who compares with it, and to who shares an environment with a library that needs a recent JAX: there is
# no common version.
# Run: bash findings/sigkerax_with_the_jax_it_asks_for.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
try() {
  "$work/venv/bin/python" -W ignore - <<'PYTHON'
import importlib.metadata
import sys

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)
from sigkerax.sigkernel import SigKernel

versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("sigkerax", "jax", "jaxlib"))
rng = np.random.default_rng(0)
x, y = (jax.numpy.asarray(0.3 * rng.standard_normal((2, 8, 2)).cumsum(axis=1)) for _ in range(2))
try:
    outcome = f"a Gram matrix of shape {SigKernel().kernel_matrix(x, y)[..., 0].shape}"
except ValueError as error:
    outcome = f"{type(error).__name__}: {str(error).split('.')[0]}"
print(f"Python {sys.version.split()[0]}, {versions}: {outcome}")
PYTHON
}
"$work/venv/bin/pip" install --quiet --disable-pip-version-check sigkerax==0.2.1 jax==0.4.38 jaxlib==0.4.38
newest="$(try)"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.4.23 jaxlib==0.4.23 'numpy<2' 'scipy<1.13'
older="$(try)"
printf '%s\n' "$newest" "$older"
[[ "$newest" == *"jax 0.4.38"*"ValueError: Non-hashable"* && "$older" == *"jax 0.4.23"*"shape (2, 2)"* ]] || { echo "The behaviour has changed."; exit 1; }
echo "As described."
