"""Gram matrices on disk: memory for many paths, and time beside the matrix in memory.

    python benchmarks/on_disk.py [--paths 20000] [--timed 2000] [--write]

Memory is the largest resident size of a process of its own, less what it has after the imports. Times are medians of
warm, interleaved turns on one thread, without a compressor, on a folder of the local disk.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np

import branchsig

CHILD = """
import json, resource, sys, tempfile, time
import numpy as np
from branchsig.frameworks.zarr import gram_to_zarr
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
paths = np.load(sys.argv[1], mmap_mode="r")
before, start = peak(), time.perf_counter()
with tempfile.TemporaryDirectory() as folder:
    gram = gram_to_zarr(paths, depth=2, store=folder, normalize="dilation", n_jobs=-1)
    end = gram[-1, -1]
print(json.dumps({"before": before, "peak": peak(), "seconds": time.perf_counter() - start, "end": float(end)}))
"""


def memory(count):
    """What many short paths take above the interpreter, in MiB, and seconds."""
    paths = measure.brownian(np.random.default_rng(0), count, 4, 2)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "paths.npy")
        np.save(file, paths)
        run = subprocess.run([sys.executable, "-P", "-c", CHILD, file], check=True, capture_output=True, text=True)
    found = json.loads(run.stdout)
    return (found["peak"] - found["before"]) / 2**20, found["seconds"]


def times(count, repeat=3):
    """Seconds in memory and on disk."""
    from branchsig.frameworks.zarr import gram_to_zarr

    paths = measure.brownian(np.random.default_rng(1), count, 64, 3)
    seconds = {"memory": [], "disk": []}
    for k in range(repeat + 1):
        for where in ("memory", "disk") if k % 2 else ("disk", "memory"):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                if where == "memory":
                    branchsig.branched_sig_kernel_gram(paths, None, 3)
                else:
                    gram_to_zarr(paths, depth=3, store=folder, compressors=None)
                seconds[where].append(time.perf_counter() - start)
    return {where: statistics.median(values[1:]) for where, values in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=20000, help="paths whose memory is measured")
    parser.add_argument("--timed", type=int, default=2000, help="paths whose time is measured")
    parser.add_argument("--write", action="store_true", help="write results/on_disk.md too")
    chosen = parser.parse_args()
    mebibytes, taken = memory(chosen.paths)
    seconds = times(chosen.timed)
    lines = [
        "# Gram matrices on disk",
        "",
        *measure.own_facts(),
        "",
        "Written by `python benchmarks/on_disk.py`.",
        "",
        f"{chosen.paths} paths of (4, 2), depth 2, dilation, all cores: {mebibytes:.0f} MiB above the interpreter, "
        f"{taken:.0f} s.",
        "",
        f"{chosen.timed} paths of (64, 3), depth 3, one thread, no compressor: {seconds['memory']:.1f} s in memory, "
        f"{seconds['disk']:.1f} s on disk, ratio {seconds['disk'] / seconds['memory']:.3f}.",
    ]
    measure.report("on_disk.md", lines, write=chosen.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
