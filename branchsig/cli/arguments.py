"""Arguments that commands share: numbers, options of kernels, and files to be written, checked before any work."""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import branchsig

__all__ = [
    "add_kernel_options",
    "add_picture",
    "check_picture",
    "check_target",
    "has",
    "jobs",
    "kernel_options",
    "tree_depth",
    "whole",
]

Fail = Callable[[str], NoReturn]

_KERNELS = {
    "linear": None,
    "rbf": branchsig.RBFKernel,
    "matern12": branchsig.Matern12Kernel,
    "matern32": branchsig.Matern32Kernel,
    "matern52": branchsig.Matern52Kernel,
}
_NORMALIZE: dict[str, bool | str] = {"dilation": "dilation", "unit": True, "none": False}
LAYOUTS = ("nlc", "ncl", "nl", "long")


def has(module: str) -> bool:
    """Tell whether a package is installed."""
    return importlib.util.find_spec(module) is not None


def whole(text: str) -> int:
    """An integer."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from None


def tree_depth(text: str) -> int:
    """A depth that tells paths apart."""
    found = whole(text)
    if found < 1:
        raise argparse.ArgumentTypeError(f"depth {found} does not tell paths apart: give 1 or more")
    return found


def _depth(text: str) -> float:
    return math.inf if text == "inf" else tree_depth(text)


def jobs(text: str) -> int:
    """A number of threads."""
    found = whole(text)
    if found == 0:
        raise argparse.ArgumentTypeError("0 threads cannot do anything: give 1 or more, or -1 for all cores")
    return found


def _positive(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not (found > 0 and math.isfinite(found)):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return found


def add_kernel_options(parser: argparse.ArgumentParser, *, depth: bool = True) -> None:
    """Add the options of the kernel, and how series are read."""
    if depth:
        parser.add_argument("--depth", type=_depth, metavar="N", default=3, help="largest depth of the trees, or inf")
    parser.add_argument("--order", type=whole, metavar="N", help="largest number of nodes of a forest")
    parser.add_argument(
        "--planar", action="store_true", help="sum over ordered forests: at depth 1 the signature kernel"
    )
    parser.add_argument("--dyadic-order", type=whole, metavar="N", default=0, help="cells are split 2**N by 2**N")
    parser.add_argument("--kernel", choices=list(_KERNELS), default="linear", help="static kernel (default: linear)")
    parser.add_argument("--sigma", type=_positive, metavar="S", help="its length scale (default: 1)")
    parser.add_argument(
        "--normalize", choices=list(_NORMALIZE), default="dilation", help="normalisation (default: dilation)"
    )
    parser.add_argument("--time-aug", action="store_true", help="append time as a channel")
    parser.add_argument("--lead-lag", action="store_true", help="replace paths by their lead-lag transforms")
    parser.add_argument("--base-point", action="store_true", help="let paths begin at 0, so that their level counts")
    parser.add_argument("--layout", choices=LAYOUTS, help="order of the axes: see branchsig.as_paths")
    parser.add_argument("--jobs", type=jobs, metavar="N", default=-1, help="threads (default: -1, all cores)")


def kernel_options(chosen: argparse.Namespace, fail: Fail) -> dict[str, Any]:
    """Return the options of the kernel as keywords of the public functions."""
    kind = _KERNELS[chosen.kernel]
    if kind is None and chosen.sigma is not None:
        fail("--sigma with the linear kernel, which has no length scale: give --kernel rbf, or leave --sigma out")
    return {
        "order": chosen.order,
        "planar": chosen.planar,
        "dyadic_order": chosen.dyadic_order,
        "static_kernel": None if kind is None else kind(1.0 if chosen.sigma is None else chosen.sigma),
        "normalize": _NORMALIZE[chosen.normalize],
        "time_aug": chosen.time_aug,
        "lead_lag": chosen.lead_lag,
        "base_point": chosen.base_point,
        "n_jobs": chosen.jobs,
    }


def add_picture(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the option of a picture."""
    parser.add_argument("--picture", type=Path, default=None, help=f"where to write the picture (default: {default})")


def check_picture(target: Path | None, fail: Fail) -> None:
    """Check that a picture can be drawn and has a folder and a known file type."""
    if target is None:
        return
    if not has("matplotlib"):
        fail("--picture needs matplotlib: pip install 'branchsig[demo]'")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    check_target(target, "--picture", sorted(FigureCanvasAgg.get_supported_filetypes()), "matplotlib", fail)


def check_target(target: Path, option: str, endings: list[str], writer: str, fail: Fail) -> None:
    """Check that a file has a folder and a known file type."""
    if not target.absolute().parent.is_dir():
        fail(f"{option}: the folder {target.parent} does not exist")
    if target.suffix[1:].lower() not in endings:
        fail(
            f"{option}: {target.name} does not end in a file type that {writer} can write: give one of "
            + ", ".join(endings)
        )
