#!/usr/bin/env bash
# iisignature 0.24: signatures are in double precision, but their products and gradients are in single precision.
#
# One would guess that sigjoin, sigcombine, sigscale and sigbackprop keep float64, as sig and logsig do, which return it even for
# float32 paths. They return float32, which has two consequences. Chen's identity, the usual test of a signature, holds to eight
# digits instead of sixteen, also where the result is added to a float64 array and looks like one. And the range is that of
# float32: the signature of a path with increments of 1e8 is finite at level five, and infinite as the product of two halves. It
# matters to everybody who updates signatures one increment at a time, or checks gradients of kernels against this library.
# Run: bash findings/iisignature_products_in_single_precision.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check numpy==1.26.4 setuptools==75.8.0 wheel==0.45.1
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-build-isolation --no-deps iisignature==0.24
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import iisignature
import numpy as np

print(f"Python {sys.version.split()[0]}, iisignature {iisignature.version()}, NumPy {np.__version__}")
warnings.simplefilter("error")

path = np.random.default_rng(0).standard_normal((6, 2))
level = 3
whole = iisignature.sig(path, level)
first, second = iisignature.sig(path[:3], level), iisignature.sig(path[2:], level)
combined = iisignature.sigcombine(first, second, 2, level)
joined = first[None]
for increment in np.diff(path, axis=0)[2:]:
    joined = iisignature.sigjoin(joined, increment[None], level)
dtypes = {
    "sig": whole.dtype,
    "sig of a float32 path": iisignature.sig(path.astype(np.float32), level).dtype,
    "logsig": iisignature.logsig(path, iisignature.prepare(2, level)).dtype,
    "sigcombine": combined.dtype,
    "sigjoin": joined.dtype,
    "sigscale": iisignature.sigscale(first[None], np.full((1, 2), 2.0), level).dtype,
    "sigbackprop": iisignature.sigbackprop(np.ones_like(whole), path, level).dtype,
}
for name, dtype in dtypes.items():
    print(f"{name}: {dtype}")
errors = {name: float(np.abs(value.reshape(-1) - whole).max()) for name, value in (("sigcombine", combined), ("sigjoin", joined))}
for name, error in errors.items():
    print(f"{name} differs from sig of the whole path by {error:.2g}")

large = 1e8 * np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 3.0]])
direct = iisignature.sig(large, 5)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    product = iisignature.sigcombine(iisignature.sig(large[:2], 5), iisignature.sig(large[1:], 5), 2, 5)
print(f"increments of 1e8, level five: sig at most {np.abs(direct).max():.3g}, sigcombine {np.abs(product).max()}")

if [str(dtype) for dtype in dtypes.values()] != ["float64"] * 3 + ["float32"] * 4:
    sys.exit("The behaviour has changed.")
if not all(1e-9 < error < 1e-5 for error in errors.values()):
    sys.exit("The behaviour has changed.")
if not np.isfinite(direct).all() or np.isfinite(product).all():
    sys.exit("The behaviour has changed.")
print("As described.")
PYTHON
