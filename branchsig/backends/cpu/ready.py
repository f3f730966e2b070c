"""Short calls: problems that the core is told of once, and that come again with other arrays.

To check a call of a few pairs and to describe it to the core takes longer than its arithmetic, and depends on nothing
but options, shapes and dtype. A `Ready` holds the description; a call then sets the addresses of its arrays.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np

from branchsig._arrays import is_plain
from branchsig._core import ffi, lib
from branchsig.backends import pairs
from branchsig.backends.base import Problem
from branchsig.backends.cpu import telescope
from branchsig.backends.cpu.task import DOUBLE, DOUBLES, TASK, Sweep, workspace_of

__all__ = ["Ready"]

_MOST_NODES = 4e6
"""Up to so many nodes times levels a call is short."""

_MOST_NUMBERS = 2e6
"""And up to so many numbers in its paths, which are read and perhaps converted as a whole."""

_REST = 16
"""So many calls after one that was not finished are not begun: arrays like it may come again, and cost time twice."""

_NULL = ffi.NULL
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


class Ready:
    """Pairs of paths as the core takes them, but for their arrays.

    Both methods return None where the core does not finish the work: a value is not finite or has lost its digits, or
    derivatives are no such arrays. The problem is then to be solved in full. Paths are as `is_plain` says, in the
    dtype of the problem and with the shapes that it was made for.
    """

    def __init__(self, problem: Problem, sweep: Sweep, batch: tuple[int, ...], *, at_ends: bool) -> None:
        self._batch = batch
        self._count = sweep.count
        self._at_ends = at_ends
        self._single = problem.path1.dtype != DOUBLE
        self._planar = problem.planar  # values of the core are then K - 1
        self._in_place = not (at_ends or self._single)
        self._largest = _LARGEST_FLOAT32 if self._single else sys.float_info.max
        self._most = telescope.most_of(problem.path1.dtype)
        self._plan = sweep.plan
        self._rest = 0
        task = self._task = ffi.new(TASK, sweep.plan.template)
        task.wrt_log, task.purpose = sweep.log, sweep.purpose
        task.pairs, task.fresh = sweep.count, True  # gradients are set: nothing needs to be there before
        task.stop = ffi.from_buffer("int32_t[]", sweep.stop)  # one that outlives everything

    @classmethod
    def of(cls, problem: Problem, batch: tuple[int, ...], *, log: bool) -> Ready | None:
        """Return what is known of a problem before its arrays; None where the core alone is not enough, or the work is
        not short. Values have the shape `batch`."""
        if problem.pairing != "paired" or problem.order is not None or problem.progress is not None:
            return None
        if pairs.still(problem):
            return None
        if problem.lengths1 is not None or problem.lengths2 is not None:
            return None
        if problem.path1.size + problem.path2.size > _MOST_NUMBERS:
            return None
        at_ends = telescope.telescopes(problem, "end")
        of_core = problem
        if at_ends:
            ends = problem.path1[:, :2], problem.path2[:, :2]
            of_core = dataclasses.replace(problem, path1=ends[0], path2=ends[1], **telescope.PLAIN)
        sweep = Sweep(of_core, "end", log=log)
        short = sweep.alone and not sweep.helpers and sweep.nodes * sweep.count <= _MOST_NODES
        return cls(problem, sweep, batch, at_ends=at_ends) if short and sweep.fused else None

    def values(self, path1: np.ndarray, path2: np.ndarray) -> np.ndarray | None:
        """Return the kernels, or their logarithms."""
        paths = self._opened(path1, path2)
        if paths is None:
            return None
        values = np.empty(self._batch)
        if not self._done(*paths, ffi.from_buffer(DOUBLES, values), _NULL, _NULL, _NULL):
            return None
        if self._single:
            values = _narrow(values)
        if self._planar:
            values += 1.0
        return values

    def gradients(
        self, derivs: Any, path1: np.ndarray, path2: np.ndarray, left: Any, right: Any
    ) -> tuple[np.ndarray | None, np.ndarray | None] | None:
        """Return the gradients with respect to the paths, None for one that is not asked for.

        The derivatives have not been checked, nor have the flags.
        """
        flags = (left is True or left is False) and (right is True or right is False) and (left or right)
        if not flags or not is_plain(derivs, path1.dtype) or derivs.shape != self._batch:
            return None
        paths = self._opened(path1, path2)
        if paths is None:
            return None
        if self._single:
            derivs = _widened(derivs)
        grad1 = grad2 = None
        data1 = data2 = _NULL
        if left:
            grad1 = np.empty(self._shape_of(path1))
            data1 = ffi.from_buffer(DOUBLES, grad1)
        if right:
            grad2 = np.empty(self._shape_of(path2))
            data2 = ffi.from_buffer(DOUBLES, grad2)
        if not self._done(*paths, _NULL, ffi.from_buffer(DOUBLES, derivs), data1, data2):
            return None
        if self._in_place:
            return grad1, grad2
        for gradient, data in ((grad1, data1), (grad2, data2)):
            if gradient is not None and not lib.bs_within(data, gradient.size, self._largest):
                self._rest = _REST
                return None
        return self._whole(grad1, path1), self._whole(grad2, path2)

    def _opened(self, path1: np.ndarray, path2: np.ndarray) -> tuple[ffi.CData, ffi.CData] | None:
        """What the core takes of both paths; None where nothing is begun."""
        rest = self._rest
        if rest > 0:
            self._rest = rest - 1
            return None
        if self._in_place:
            return ffi.from_buffer(DOUBLES, path1), ffi.from_buffer(DOUBLES, path2)
        data1 = self._read(path1)
        data2 = data1 if path2 is path1 else self._read(path2)
        if data1 is None or data2 is None:
            self._rest = _REST
            return None
        return data1, data2

    def _read(self, path: np.ndarray) -> ffi.CData | None:
        """What the core takes of paths that it does not read in place: all points, or the first and the last of each,
        which are None where some point is not finite, or as good as not."""
        data = ffi.from_buffer(DOUBLES, _widened(path) if self._single else path)
        if not self._at_ends:
            return data
        ends = ffi.from_buffer(DOUBLES, np.empty(self._shape_of(path)))
        fine = lib.bs_ends(data, self._count, path.shape[-2], path.shape[-1], self._most, ends)
        return ends if fine else None

    def _shape_of(self, path: np.ndarray) -> tuple[int, ...]:
        """The shape of what the core takes of paths."""
        return (self._count, 2, path.shape[-1]) if self._at_ends else path.shape

    def _done(self, *arrays: ffi.CData) -> bool:
        """Let the core do the work, and tell whether it has."""
        room = workspace_of(0, self._plan.blame)
        wanted = lib.bs_again(self._task, *arrays, room, len(room), self._largest)
        if wanted > 0:
            room = workspace_of(wanted, self._plan.blame)
            wanted = lib.bs_again(self._task, *arrays, room, len(room), self._largest)
        if wanted:
            self._rest = _REST
        return not wanted

    def _whole(self, gradient: np.ndarray | None, path: np.ndarray) -> np.ndarray | None:
        """A gradient of finite numbers in the shape and dtype of a path."""
        if gradient is None:
            return None
        if self._single:
            gradient = _narrow(gradient)
        if not self._at_ends:
            return gradient
        result = np.zeros(path.shape, dtype=path.dtype)
        result.reshape(-1, *path.shape[-2:])[:, :: path.shape[-2] - 1] = gradient
        return result


def _widened(array: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # of a signalling NaN
        return array.astype(DOUBLE)


def _narrow(values: np.ndarray) -> np.ndarray:
    with np.errstate(under="ignore"):
        return values.astype(np.float32)
