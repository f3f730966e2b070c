#!/usr/bin/env bash
# jax 0.10.2: in shard_map the result of jax.ffi.ffi_call counts as the same on all devices, although its operands are not.
#
# shard_map knows along which axes of the mesh an array differs from device to device, and refuses a result that is declared to
# be the same everywhere and is not. The results of ffi_call have the type of the jax.ShapeDtypeStruct that describes them, which
# says nothing of axes, and so they count as the same everywhere whatever goes in. A wrong out_specs is not noticed: what one
# device computed comes out, and the rest is lost without a word. jnp.linalg.cholesky, which calls the same function of LAPACK,
# is refused there. Here each of two devices has one number, whose Cholesky factor is its root. branchsig marks the results of its
# calls by jax.lax.pcast.
# Run: bash findings/jax_ffi_call_forgets_that_its_result_varies.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.2.6
XLA_FLAGS=--xla_force_host_platform_device_count=2 JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jaxlib import lapack

jax.config.update("jax_enable_x64", True)
lapack._lapack.initialize()
print(f"Python {sys.version.split()[0]}, jax {jax.__version__}")

mesh = jax.sharding.Mesh(np.array(jax.devices()), ("device",))
split, same = jax.sharding.PartitionSpec("device"), jax.sharding.PartitionSpec()


def by_ffi(a):
    results = [jax.ShapeDtypeStruct(a.shape, a.dtype), jax.ShapeDtypeStruct(a.shape[:-2], np.int32)]
    call = jax.ffi.ffi_call("lapack_dpotrf_ffi", results, input_output_aliases={0: 0})
    return call(a, uplo=np.uint8(ord("L")))[0]


def outcome(function, out_specs):
    try:
        mapped = jax.jit(jax.shard_map(function, mesh=mesh, in_specs=split, out_specs=out_specs))
        return [float(value) for value in mapped(numbers).ravel()]
    except ValueError:
        return "refused"


numbers = jnp.asarray([1.0, 4.0]).reshape(2, 1, 1)
found = {
    "ffi_call, split over the devices": outcome(by_ffi, split),
    "jnp.linalg.cholesky, declared the same on both": outcome(jnp.linalg.cholesky, same),
    "ffi_call, declared the same on both": outcome(by_ffi, same),
}
for name, value in found.items():
    print(f"{name}: {value}")
if list(found.values()) != [[1.0, 2.0], "refused", [1.0]]:
    sys.exit("The behaviour has changed.")
print("As described: the root of 4, which the other device has, is lost without a word.")
PYTHON
