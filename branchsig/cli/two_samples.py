"""``branchsig test``: do the series of two files have one law?"""

from __future__ import annotations

import argparse

import branchsig
from branchsig.cli.arguments import Fail, kernel_options
from branchsig.cli.files import read

__all__ = ["run"]


def run(chosen: argparse.Namespace, fail: Fail) -> int:
    """Read both samples and print the result of the permutation test; return the exit status."""
    options = kernel_options(chosen, fail) | {"depth": chosen.depth}
    first, second = (read(name, chosen.layout) for name in (chosen.sample1, chosen.sample2))
    for name, one in ((chosen.sample1, first), (chosen.sample2, second)):
        print(f"{name}: {one.words}")
    try:
        found = branchsig.branched_sig_mmd_test(
            first.paths,
            second.paths,
            lengths1=first.lengths,
            lengths2=second.lengths,
            permutations=chosen.permutations,
            seed=chosen.seed,
            **options,
        )
    except (ValueError, TypeError, MemoryError) as error:
        fail(str(error))
    print(f"squared maximum mean discrepancy, unbiased: {found.statistic:.6g}")
    print(f"p-value of the permutation test: {found.p_value:.4g}")
    if found.p_value <= 0.05:
        print("At the level 0.05 the samples do not have one law.")
    else:
        print("At the level 0.05 the test does not tell the samples apart.")
    return 0
