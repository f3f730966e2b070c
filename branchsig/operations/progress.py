"""Progress reports: a tqdm bar, a function of the caller, or nothing."""

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
    """Yield the function that a backend reports its progress to, and close the bar at the end.

    Raises
    ------
    ImportError
        If a progress bar is requested and tqdm is not installed.
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
            "or give a callable of (pairs done, total pairs)"
        ) from error
    with tqdm(unit="pair") as bar:

        def report(done: int, pairs: int) -> None:
            bar.total = pairs
            bar.update(done - bar.n)

        yield report


def share(problem: Problem, start: float, stop: float) -> Problem:
    """Return a problem whose progress counts as the share from `start` to `stop` (within 0 to 1) of the whole work."""
    report = problem.progress
    if report is None:
        return problem

    def of_whole(done: int, pairs: int) -> None:
        report(math.floor(pairs * (start + (stop - start) * done / pairs) + 1e-6), pairs)

    return dataclasses.replace(problem, progress=of_whole)


def one_pass(problem: Problem, index: int, count: int) -> Problem:
    """Return a problem whose progress counts as pass number `index` of `count` passes over the same pairs."""
    return share(problem, index / count, (index + 1) / count)
