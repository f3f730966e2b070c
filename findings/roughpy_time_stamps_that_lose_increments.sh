#!/usr/bin/env bash
# roughpy 0.3.0: the time stamps of a stream decide which of its increments count, and some time stamps lose them all, silently.
#
# One would guess that a signature does not change when the clock is moved, and that two increments at one time stamp follow one
# another. Neither holds. The same two increments have the right signature at times 0 and 1, and the trivial one, that of a path
# that stands still, at times 100 and 101 with the resolution by default, and at times in seconds since 1970 with every
# resolution tried. Of two increments with one time stamp the first is kept and the second is dropped. Time stamps of markets and
# of computers are of both kinds. It matters to everybody who computes signatures of recorded streams: a Gram matrix of trivial
# signatures is a matrix of ones, which is positive semi-definite and looks well. Comparing level one with the sum of the
# increments finds it.
# Run: bash findings/roughpy_time_stamps_that_lose_increments.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check roughpy==0.3.0 numpy==2.2.6
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import numpy as np
import roughpy as rp

print(f"Python {sys.version.split()[0]}, roughpy {rp.__version__}, NumPy {np.__version__}")
warnings.simplefilter("error")
context = rp.get_context(width=2, depth=2, coeffs=rp.DPReal)
increments = np.array([[1.0, 0.0], [0.0, 1.0]])


def signature(times, **options):
    """Signature over all of the stream, and over an interval that holds all time stamps well inside: the same numbers."""
    stream = rp.LieIncrementStream.from_increments(increments, indices=np.array(times), ctx=context, **options)
    whole = np.array(stream.signature()).tolist()
    inside = np.array(stream.signature(rp.RealInterval(times[0] - 1.0, times[-1] + 2.0))).tolist()
    print(f"times {times}, {options or 'resolution by default'}: {whole}" + ("" if whole == inside else f", inside {inside}"))
    return whole if whole == inside else None


right, trivial = [1.0, 1.0, 1.0, 0.5, 1.0, 0.0, 0.5], [1.0] + [0.0] * 6
first_alone = [1.0, 1.0, 0.0, 0.5, 0.0, 0.0, 0.0]
as_described = [
    signature([0.0, 1.0]) == right,
    signature([100.0, 101.0]) == trivial,
    signature([100.0, 101.0], resolution=10) == right,
    signature([1.7e9, 1.7e9 + 1.0]) == trivial,
    signature([1.7e9, 1.7e9 + 1.0], resolution=0) == trivial,
    signature([1.7e9, 1.7e9 + 1.0], resolution=10) == trivial,
    signature([0.5, 0.5]) == first_alone,
    signature([0.5, 0.5], resolution=10) == first_alone,
]
if not all(as_described):
    sys.exit("The behaviour has changed.")
print("As described: the increments are lost without an exception or a warning.")
PYTHON
