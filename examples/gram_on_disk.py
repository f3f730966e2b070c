"""A Gram matrix on disk that is interrupted and resumed.

`gram_to_zarr` writes a Gram matrix block by block, and remembers which blocks are done.
Here a run is stopped after five blocks, as by Ctrl-C. A second call with the same
arguments computes only the missing blocks. The result equals the matrix computed in
memory, bit for bit. Needs Zarr.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import branchsig
from branchsig.frameworks.zarr import gram_to_zarr


def main(number=100, chunk=25, picture=None):
    """Print and return how many pairs each of two runs computed."""
    paths = np.random.default_rng(0).standard_normal((number, 40, 3)).cumsum(axis=1)
    counts = []

    def stop_after(limit):
        def progress(done, total):
            seen.append(done)
            if len(seen) > limit:
                raise KeyboardInterrupt

        return progress

    options = {"depth": 2, "normalize": "dilation", "chunk": chunk}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "gram.zarr"
        for limit in (4, np.inf):
            seen = []
            try:
                gram = gram_to_zarr(
                    paths, store=store, progress=stop_after(limit), **options
                )
            except KeyboardInterrupt:
                print(f"interrupted after {len(seen)} reports of progress")
            counts.append(len(seen))
        values = gram[:]
    print(f"the second run reported {counts[1]} times, and finished")
    in_memory = branchsig.branched_sig_kernel_gram(
        paths, None, depth=2, normalize="dilation"
    )
    same = bool(np.array_equal(values, in_memory))
    print(f"equal to the matrix in memory, bit for bit: {same}")
    if picture:
        draw(values, chunk, picture)
    return same


def draw(gram, chunk, picture):
    """The matrix and its blocks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.8), layout="constrained")
    axes = figure.add_subplot(xlabel="path", ylabel="path")
    image = axes.imshow(gram, cmap="viridis", interpolation="nearest")
    for edge in range(chunk, len(gram), chunk):
        axes.axhline(edge - 0.5, color="white", linewidth=0.8)
        axes.axvline(edge - 0.5, color="white", linewidth=0.8)
    figure.colorbar(image, ax=axes, label="kernel")
    figure.savefig(picture)


if __name__ == "__main__":
    main(picture=sys.argv[1] if len(sys.argv) > 1 else None)
