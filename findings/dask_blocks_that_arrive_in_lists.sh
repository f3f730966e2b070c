#!/usr/bin/env bash
# dask 2026.8.0: blockwise hands lists of blocks along a summed axis even where that axis has one chunk, and no check notices.
#
# One would guess that a function of two blocks of paths gets two arrays where only the axis of the paths is cut. Axes that the
# result lacks (time, channels) are summed over, and without concatenate=True each block arrives in nested lists of one element. A
# function that begins with numpy.asarray, as most do, then takes its batch of three paths for one path of two more axes. The dry
# run on empty blocks gets arrays, so that it proves nothing, and what comes back has a shape that the collection does not claim:
# a Gram matrix of shape (6, 6) is computed as (2, 2), the traces of its blocks.
# Run: bash findings/dask_blocks_that_arrive_in_lists.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "dask[array]==2026.8.0" numpy==2.2.6
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import dask
import dask.array as da
import numpy as np

print(f"Python {sys.version.split()[0]}, dask {dask.__version__}, NumPy {np.__version__}")
warnings.simplefilter("error")

paths = np.random.default_rng(0).standard_normal((6, 5, 2))
collection = da.from_array(paths, chunks=(3, 5, 2))
wanted = np.einsum("iab,jab->ij", paths, paths)
arguments = []


def linear_kernel(x, y):
    """Inner products of all pairs of paths, of arrays or of what NumPy makes an array of."""
    arguments.append((type(x).__name__, np.shape(x)))
    x, y = np.asarray(x), np.asarray(y)
    return x.reshape(len(x), -1) @ y.reshape(len(y), -1).T


def gram(**options):
    arguments.clear()
    lazy = da.blockwise(linear_kernel, "ij", collection, "iab", collection, "jab", dtype=paths.dtype, **options)
    values = lazy.compute(scheduler="synchronous")
    print(f"{options or 'by default'}: dry run on {arguments[0]}, then {arguments[1]};")
    print(f"  shape of the collection {lazy.shape}, of what is computed {values.shape}")
    return lazy.shape, values, [arguments[0], arguments[1]]


claimed, values, seen = gram()
as_described = (
    claimed == (6, 6)
    and values.shape == (2, 2)
    and np.allclose(values, np.einsum("aibi->ab", wanted.reshape(2, 3, 2, 3)))
    and seen == [("ndarray", (0, 0, 0)), ("list", (1, 1, 3, 5, 2))]
)
claimed, values, seen = gram(concatenate=True)
as_described &= claimed == values.shape == (6, 6) and np.allclose(values, wanted) and seen[1] == ("ndarray", (3, 5, 2))
if not as_described:
    sys.exit("The behaviour has changed.")
print("As described, without an exception or a warning.")
PYTHON
