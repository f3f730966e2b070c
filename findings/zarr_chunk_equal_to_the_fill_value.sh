#!/usr/bin/env bash
# zarr 3.1.0: a chunk that equals the fill value is not stored, so a store does not tell which chunks have been computed.
#
# One would guess that a Gram matrix written to disk block by block can be resumed by looking at which chunks are there
# (nchunks_initialized). A block of zeros that was computed and written leaves no chunk behind, and writing zeros over a stored
# chunk deletes it: the block counts as never done and is computed again on every resumption, and a progress read from the
# store never reaches the end. write_empty_chunks=True, or a fill value that no result takes (NaN), is the way out.
# Run: bash findings/zarr_chunk_equal_to_the_fill_value.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check zarr==3.1.0 numpy==2.2.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import zarr

print(f"Python {sys.version.split()[0]}, zarr {zarr.__version__}, NumPy {np.__version__}")


def stored(name, **options):
    """Chunks that the store counts after all four were written: one of them of zeros; then after zeros over another."""
    gram = zarr.create_array(f"{name}.zarr", shape=(4, 4), chunks=(2, 2), dtype="f8", **options)
    for i in (0, 2):
        for j in (0, 2):
            gram[i : i + 2, j : j + 2] = 0.0 if (i, j) == (0, 2) else 1.0
    counts = [gram.nchunks_initialized]
    gram[2:, 2:] = 0.0
    return [*counts, gram.nchunks_initialized]


found = {
    "by default": stored("default"),
    "write_empty_chunks": stored("all", config={"write_empty_chunks": True}),
    "fill value NaN": stored("nan", fill_value=np.nan),
}
for name, (first, second) in found.items():
    print(f"{name}: {first} of 4 written chunks are stored; {second} after one is overwritten by zeros")
if found != {"by default": [3, 2], "write_empty_chunks": [4, 4], "fill value NaN": [4, 4]}:
    sys.exit("The behaviour has changed.")
print("As described.")
PYTHON
