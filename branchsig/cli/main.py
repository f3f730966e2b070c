"""The parser of the command line, and which command runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import branchsig
from branchsig.cli import demo, fit, gram, info, two_samples
from branchsig.cli.arguments import add_kernel_options, add_picture, check_picture, jobs, tree_depth, whole
from branchsig.cli.files import ENDINGS, FileError

__all__ = ["main"]

_FILE = f"series: a file of type {', '.join(ENDINGS)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The arguments, without the name of the program. Default: those of the process.

    Returns
    -------
    int
        The exit status: 0, or 1 if the demo found a wrong gradient or could not write the requested picture. Wrong
        arguments and files end the process with status 2.
    """
    parser = argparse.ArgumentParser(prog="branchsig", description="Branched signature kernels of paths.")
    parser.add_argument("--version", action="version", version=f"branchsig {branchsig.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{info,demo,gram,test,fit}")
    commands.add_parser("info", help="version, backends, instruction set and CUDA of this installation")

    of_demo = commands.add_parser("demo", help="classify recorded motions, check a gradient, draw a Gram matrix")
    of_demo.add_argument(
        "--depth", type=tree_depth, metavar="N", default=5, help="largest depth of the trees (default: 5)"
    )
    of_demo.add_argument("--jobs", type=jobs, metavar="N", default=1, help="threads, -1 for all cores (default: 1)")
    add_picture(of_demo, f"{demo.DEFAULT_PICTURE}, where matplotlib is installed")

    of_gram = commands.add_parser("gram", help="Gram matrix of the series of one file, or of two files")
    of_gram.add_argument("files", nargs="+", metavar="FILE", help=_FILE)
    of_gram.add_argument(
        "--out", type=Path, required=True, help="where to write the matrix: .npy, .npz, .csv, or .zarr, block by block"
    )
    of_gram.add_argument("--log", action="store_true", help="logarithms of the kernels")
    add_kernel_options(of_gram)
    add_picture(of_gram, "none")

    of_test = commands.add_parser("test", help="two-sample test: do the series of two files have one law?")
    of_test.add_argument("sample1", metavar="A", help=_FILE)
    of_test.add_argument("sample2", metavar="B", help=_FILE)
    of_test.add_argument("--permutations", type=whole, metavar="N", default=1000, help="regroupings (default: 1000)")
    of_test.add_argument("--seed", type=whole, metavar="N", default=0, help="of the regroupings (default: 0)")
    add_kernel_options(of_test)

    of_fit = commands.add_parser("fit", help="cross-validated classifier over a small grid, with a table of scores")
    of_fit.add_argument("file", metavar="FILE", help=_FILE)
    of_fit.add_argument(
        "--labels", help="a file with a label per series (.npy, .csv or .txt), or a column of a .csv FILE"
    )
    of_fit.add_argument(
        "--depths", type=tree_depth, nargs="+", metavar="N", default=[1, 2, 3], help="depths tried (default: 1 2 3)"
    )
    of_fit.add_argument("--folds", type=whole, metavar="N", default=5, help="folds of cross-validation (default: 5)")
    of_fit.add_argument("--no-standardize", action="store_true", help="leave the channels as they are")
    add_kernel_options(of_fit, depth=False)

    chosen = parser.parse_args(arguments)
    fail = commands.choices[chosen.command].error
    check_picture(getattr(chosen, "picture", None), fail)
    try:
        match chosen.command:
            case "info":
                return info.run()
            case "demo":
                return demo.run(chosen.depth, chosen.jobs, chosen.picture)
            case "gram":
                return gram.run(chosen, fail)
            case "test":
                return two_samples.run(chosen, fail)
            case _:
                return fit.run(chosen, fail)
    except FileError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
