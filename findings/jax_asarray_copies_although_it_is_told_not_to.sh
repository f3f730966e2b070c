#!/usr/bin/env bash
# jax 0.10.2: jnp.asarray copies an array of NumPy that needs no copy, also with copy=False, which promises an error instead.
#
# "If False, then error if a copy is necessary. Default is None, which will only copy when necessary": so says the documentation
# of jnp.asarray. A C-contiguous float64 array that starts at a multiple of 64 bytes lies as XLA needs it on the CPU, and
# jax.device_put takes it over without a copy. jnp.asarray copies it, whatever `copy` says and without an error, so that a large
# array is there twice. branchsig hands large results to JAX by jax.device_put.
# Run: bash findings/jax_asarray_copies_although_it_is_told_not_to.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.2.6
"$work/venv/bin/python" - <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")
print(f"Python {sys.version.split()[0]}, jax {jax.__version__}")

memory = np.zeros(8 * 1000 + 64, np.uint8)
start = -memory.ctypes.data % 64
array = memory[start : start + 8 * 1000].view(np.float64)

found = {
    "jax.device_put(array)": jax.device_put(array),
    "jnp.asarray(array)": jnp.asarray(array),
    "jnp.asarray(array, copy=False)": jnp.asarray(array, copy=False),
}
copied = {name: result.unsafe_buffer_pointer() != array.ctypes.data for name, result in found.items()}
for name, apart in copied.items():
    print(f"{name}: {'a copy' if apart else 'the same memory'}")
if list(copied.values()) != [False, True, True]:
    sys.exit("The behaviour has changed.")
print("As described: jnp.asarray copies what jax.device_put takes over, even where it is told not to.")
PYTHON
