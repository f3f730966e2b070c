"""``branchsig gram``: the Gram matrix of the series of one file, or of two, into a file."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import branchsig
from branchsig.cli.arguments import Fail, check_target, has, kernel_options
from branchsig.cli.files import Series, read

__all__ = ["estimate", "run"]

_SAMPLE = 12
"""Series of each side that the estimate of the time is made with."""


def run(chosen: argparse.Namespace, fail: Fail) -> int:
    """Read, estimate, compute and write; return the exit status."""
    if len(chosen.files) > 2:
        fail(f"{len(chosen.files)} files: give one, or two for the kernels between their series")
    endings = ["npy", "npz", "csv", *(["zarr"] if has("zarr") else [])]
    check_target(chosen.out, "--out", endings, "branchsig gram", fail)
    options = kernel_options(chosen, fail) | {"depth": chosen.depth, "log": chosen.log}
    series = [read(name, chosen.layout) for name in chosen.files]
    for name, one in zip(chosen.files, series):
        print(f"{name}: {one.words}")
    first, second = series[0], series[1] if len(series) == 2 else None
    try:
        print(estimate(first, second, options))
        start = time.perf_counter()
        gram = _to_zarr(chosen.out, first, second, options) if chosen.out.suffix == ".zarr" else None
        if gram is None:
            gram = branchsig.branched_sig_kernel_gram(
                first.paths,
                None if second is None else second.paths,
                **_lengths(first, second),
                **options,
                progress=has("tqdm"),
            )
            _write(chosen.out, gram)
    except (ValueError, TypeError, MemoryError) as error:
        fail(str(error))
    print(f"{chosen.out}: {gram.shape[0]} x {gram.shape[1]} in {time.perf_counter() - start:.1f} s")
    if chosen.picture is not None:
        _draw(np.asarray(gram[...]), chosen.picture)
        print(f"picture: {chosen.picture}")
    return 0


def _lengths(first: Series, second: Series | None) -> dict[str, Any]:
    return {"lengths1": first.lengths} | ({} if second is None else {"lengths2": second.lengths})


def estimate(first: Series, second: Series | None, options: dict[str, Any]) -> str:
    """Say how many pairs there are, how long they will take and how much memory the matrix takes, from a few pairs."""
    n1, n2 = len(first.paths), len(first.paths if second is None else second.paths)
    pairs = n1 * (n1 + 1) // 2 if second is None else n1 * n2
    few = Series(first.paths[:_SAMPLE], None if first.lengths is None else first.lengths[:_SAMPLE], None)
    start = time.perf_counter()
    with np.errstate(all="ignore"):
        branchsig.branched_sig_kernel_gram(few.paths, None, lengths1=few.lengths, check_finite=False, **options)
    seconds = (time.perf_counter() - start) * pairs / (len(few.paths) * (len(few.paths) + 1) / 2)
    size = n1 * n2 * first.paths.dtype.itemsize
    return f"{pairs:,} pairs: about {_duration(seconds)} at most; the matrix takes {size / 2**20:,.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "1 s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _to_zarr(out: Path, first: Series, second: Series | None, options: dict[str, Any]) -> Any:
    from branchsig.frameworks.zarr import gram_to_zarr

    second_paths = None if second is None else second.paths
    return gram_to_zarr(
        first.paths, second_paths, store=str(out), progress=has("tqdm"), **_lengths(first, second), **options
    )


def _write(out: Path, gram: Any) -> None:
    if out.suffix == ".npy":
        np.save(out, gram)
    elif out.suffix == ".npz":
        np.savez(out, gram=gram)
    else:
        np.savetxt(out, gram, delimiter=",", fmt="%.17g")


def _draw(gram: np.ndarray, target: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(gram, cmap="viridis", interpolation="nearest")
    axes.set_xlabel("series")
    axes.set_ylabel("series")
    figure.colorbar(image, ax=axes, label="kernel")
    figure.savefig(target, dpi=120)
