"""In which order the pairs of a problem are taken, and how they are cut into jobs for threads.

The shape of a problem comes in; jobs go out, each two index arrays: pair k of a job is ``path1[index1[k]]`` with
``path2[index2[k]]``. The core works on tiles of neighbouring pairs, and packs a second path once for all tiles in a row
that share it, so Gram matrices are walked in strips of columns as wide as a tile.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np

from branchsig.backends.pairs import count

T = TypeVar("T")
Job = tuple[np.ndarray, np.ndarray]


def in_order(pairing: str, n1: int, n2: int, size: int) -> Iterator[Job]:
    """Jobs of at most `size` pairs in the order of the result (row by row for a Gram matrix)."""
    total = count(pairing, n1, n2)
    for start in range(0, total, size):
        k = np.arange(start, min(start + size, total), dtype=np.int64)
        yield (k, k) if pairing == "paired" else (k // n2, k % n2)


def in_tiles(pairing: str, n1: int, n2: int, size: int, lanes: int) -> Iterator[Job]:
    """Jobs of about `size` pairs, a multiple of `lanes` but for the last, in the order that suits the core."""
    return in_order(pairing, n1, n2, size) if pairing == "paired" else _tiles(pairing, n1, n2, size, lanes)


_MOST_KEPT = 2**12
"""Jobs of problems of up to so many pairs are kept for problems of the same sizes."""


def in_tiles_again(pairing: str, n1: int, n2: int, size: int, lanes: int) -> Iterator[Job]:
    """The same, which short calls that come again find where one before them has left it."""
    few = count(pairing, n1, n2) <= _MOST_KEPT
    return iter(_kept(pairing, n1, n2, size, lanes)) if few else in_tiles(pairing, n1, n2, size, lanes)


@functools.lru_cache(maxsize=256)
def _kept(pairing: str, n1: int, n2: int, size: int, lanes: int) -> tuple[Job, ...]:
    jobs = tuple(in_tiles(pairing, n1, n2, size, lanes))
    for job in jobs:
        for index in job:
            index.flags.writeable = False
    return jobs


def _tiles(pairing: str, n1: int, n2: int, size: int, lanes: int) -> Iterator[Job]:
    """The same for a Gram matrix."""
    pending: list[Job] = []
    held = 0
    for index1, index2 in _strips(pairing, n1, n2, size, lanes):
        pending.append((index1, index2))
        held += len(index1)
        if held >= size and held % lanes == 0:
            yield _joined(pending)
            pending, held = [], 0
    if pending:
        yield _joined(pending)


def by_length(pairing: str, lengths1: np.ndarray, lengths2: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """Orders of the two stacks of paths in which neighbouring pairs are of similar lengths: a tile is as large as the
    longest of its paths.

    Pairs of a paired problem keep their partners: runs of similar first paths, each sorted by the second ones.
    """
    if pairing != "paired":
        return np.argsort(lengths1, kind="stable"), np.argsort(lengths2, kind="stable")
    order = np.argsort(lengths1, kind="stable")
    run = lanes * max(1, round((len(order) / lanes) ** 0.5))
    parts = [order[start : start + run] for start in range(0, len(order), run)]
    order = np.concatenate([part[np.argsort(lengths2[part], kind="stable")] for part in parts])
    return order, order


def reordered(jobs: Iterator[Job], pairing: str, orders: tuple[np.ndarray, np.ndarray]) -> Iterator[Job]:
    """Jobs for paths in other orders. The pairs of a triangle stay below the diagonal."""
    for job in jobs:
        index1, index2 = orders[0][job[0]], orders[1][job[1]]
        yield (np.maximum(index1, index2), np.minimum(index1, index2)) if pairing == "symmetric" else (index1, index2)


def _joined(parts: list[Job]) -> Job:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _strips(pairing: str, n1: int, n2: int, size: int, lanes: int) -> Iterator[Job]:
    """Full tiles first, strip by strip; then the pairs that no full tile holds."""
    full = n2 // lanes * lanes
    rows_at_once = max(1, size // lanes)
    for first in range(0, full, lanes):
        columns = np.arange(first, first + lanes, dtype=np.int64)
        # of a triangle, the rows below the diagonal for every column of the strip
        top = first + lanes - 1 if pairing == "symmetric" else 0
        for start in range(top, n1, rows_at_once):
            rows = np.arange(start, min(start + rows_at_once, n1), dtype=np.int64)
            yield np.repeat(rows, lanes), np.tile(columns, len(rows))
    if pairing == "symmetric":
        row, column = np.tril_indices(lanes - 1)
        for first in range(0, full, lanes):
            yield row.astype(np.int64) + first, column.astype(np.int64) + first
        row, column = np.tril_indices(n2 - full)
        yield row.astype(np.int64) + full, column.astype(np.int64) + full
    elif n2 > full:
        for start in range(0, n1, rows_at_once):
            rows = np.arange(start, min(start + rows_at_once, n1), dtype=np.int64)
            yield np.repeat(rows, n2 - full), np.tile(np.arange(full, n2, dtype=np.int64), len(rows))


_PATIENCE = 1.0
"""Seconds that an error or an interruption waits for the calls under way, which end when they next look at `stop`."""

_WATCH = 0.1
"""Seconds after which a thread that waits looks for an interruption."""


def _result_of(future: Future[T]) -> T:
    """Wait for the result of a call.

    A signal wakes a thread only if this very thread receives it, and is in the wait by then. Without a global lock,
    Python tries for a while to get a lock before it waits, for tenths of a second if all processors are busy.
    """
    while not future.done():
        with contextlib.suppress(TimeoutError):
            future.exception(_WATCH)
    return future.result()


def run(
    calls: Iterator[Callable[[], T]], team: Team, helpers: int, stop: np.ndarray, collect: Callable[[T], None]
) -> None:
    """Run calls in the threads of a team, and hand their results to `collect` in order, in the calling thread. There
    will be work for so many helpers of each call.

    This is for long work, even of one thread: a thread that waits can be interrupted, one inside the core cannot. On
    any error, an interruption too, `stop` is set, which ends the calls under way. Where the system gives fewer threads
    than the team has room for, those do the work, and without any the calling thread does.
    """
    waiting: deque[Future[T]] = deque()
    try:
        for call in calls:
            future = team.submit(call)
            if future is None:
                collect(call())
                continue
            waiting.append(future)
            if len(waiting) > 2 * team.most:  # what is not collected yet takes memory
                collect(_result_of(waiting.popleft()))
        if waiting:
            team.start(helpers)
        while waiting:
            collect(_result_of(waiting.popleft()))
    except BaseException:
        stop[0] = 1
        for future in waiting:
            future.cancel()
        team.end(_PATIENCE)
        raise
    team.end(None)


class Team:
    """Threads that are started as there is work for them, up to a number. A pool of `concurrent.futures` fails where a
    thread cannot be started, and cannot be left."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._idle = threading.Semaphore(0)
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()

    def submit(self, call: Callable[[], T]) -> Future[T] | None:
        """Let a thread do a call; None where there are no threads. A call may submit others, but not wait for them."""
        future: Future[T] = Future()
        self._tasks.put((future, call))
        if not self._idle.acquire(blocking=False):
            self.start()
        if not self._threads:
            self._tasks.get()
            return None
        return future

    def start(self, threads: int = 1) -> None:
        """Start so many threads more, where there is room for them."""
        with self._starting:
            for _ in range(min(threads, self.most - len(self._threads))):
                thread = threading.Thread(target=self._work, name=f"branchsig_{len(self._threads)}", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system gives no more
                    self.most = len(self._threads)
                    return
                self._threads.append(thread)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        try:
            return self._tasks.get_nowait()
        except Empty:
            self._idle.release()
            return self._tasks.get()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            future, call = task
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del task, future, call  # a thread that waits keeps no results
        self._tasks.put(None)  # for the next thread

    def end(self, patience: float | None) -> None:
        """Wait until all threads have done what they were given, but not longer than so many seconds. None is started
        any more."""
        with self._starting:
            self.most = 0
        self._tasks.put(None)
        until = math.inf if patience is None else time.monotonic() + patience
        for thread in self._threads:
            thread.join(None if patience is None else max(0.0, until - time.monotonic()))
