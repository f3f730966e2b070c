"""Reports of progress: a bar of tqdm, a function of the caller's, or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from branchsig import _validation

if TYPE_CHECKING:
    from branchsig.backends import Problem

Report = Callable[[int, int], None]


@contextlib.contextmanager
def reporting(progress: Any) -> Iterator[Report | None]:
    """Give the function that a backend reports its progress to, and close the bar at the end.

    Raises
    ------
    ImportError
        If a bar is asked for and tqdm is not installed.
    """
    progress = _validation.progress(progress)
    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "progress=True needs tqdm: install it with 'pip install tqdm', "
            "or give a callable of (pairs done, pairs in all)"
        ) from error
    with tqdm(unit="pair") as bar:

        def report(done: int, pairs: int) -> None:
            bar.total = pairs
            bar.update(done - bar.n)

        yield report


def share(problem: Problem, start: float, stop: float) -> Problem:
    """Return a problem that reports its progress as the part from `start` to `stop`, of 0 to 1, of all that is done."""
    report = problem.progress
    if report is None:
        return problem

    def of_whole(done: int, pairs: int) -> None:
        report(math.floor(pairs * (start + (stop - start) * done / pairs) + 1e-6), pairs)

    return dataclasses.replace(problem, progress=of_whole)


def one_pass(problem: Problem, index: int, count: int) -> Problem:
    """Return a problem that reports its progress as pass number `index` of `count` passes over the same pairs."""
    return share(problem, index / count, (index + 1) / count)
