"""Short calls: problems that the core is told of once, and that come again with other arrays.

To check a call of a few pairs and to describe it to the core takes longer than its arithmetic, and depends on nothing
but options, shapes and dtype. A `Ready` holds the description; a call then hands over the addresses of its arrays.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np

from branchsig._core import ffi, lib
from branchsig.backends import pairs
from branchsig.backends.base import Problem
from branchsig.backends.cpu import telescope
from branchsig.backends.cpu.task import DOUBLE, DOUBLES, INDICES, KNOWN, NOTHING, Sweep, kept_here, workspace_of

__all__ = ["Ready"]

_MOST_NODES = 4e6
"""Up to so many nodes times levels a call is short."""

_MOST_NUMBERS = 2e6
"""And up to so many numbers in its paths, which are read and perhaps converted as a whole."""

_MOST_PAIRS = 2**13
"""And up to so many pairs of a Gram matrix, whose places are kept."""

_REST = 16
"""So many calls after one that was not finished are not begun: arrays like it may come again, and cost time twice."""

_NOT_HANDED_OUT = BufferError, ValueError
"""Errors of arrays whose memory is elsewhere, in another order, or gone."""

_NULL = ffi.NULL
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


class Ready:
    """Pairs of paths as the core takes them, but for their arrays.

    Both methods return None where the core does not finish the work: a value is not finite or has lost its digits, or
    derivatives are no such arrays, or the memory of an array is not in order. The problem is then to be solved in full.
    Paths are in the dtype of the problem and of the shapes that it was made for: arrays of NumPy, or others that hand
    out their memory as a buffer. The second paths may be None where the first stand in both places.
    """

    def __init__(self, problem: Problem, sweep: Sweep, batch: tuple[int, ...], *, at_ends: bool, total: bool) -> None:
        self._batch = batch
        self._dtype = np.dtype(problem.path1.dtype.type)  # the object that arrays have
        self._at_ends = at_ends
        self._symmetric = problem.pairing == "symmetric"
        self._total = total
        self._single = problem.path1.dtype != DOUBLE
        self._planar = problem.planar  # values of the core are then K - 1
        self._in_place = not (at_ends or self._single)
        self._largest = _LARGEST_FLOAT32 if self._single else sys.float_info.max
        self._most = telescope.most_of(problem.path1.dtype)
        self._plan = sweep.plan
        self._rest = 0
        self._lanes = lib.bs_lanes()
        known = self._known = ffi.new(KNOWN)
        known.paths1, known.paths2, known.most = problem.path1.shape[0], problem.path2.shape[0], self._largest
        known.task = sweep.plan.template
        task = known.task
        task.wrt_log, task.purpose = sweep.log, sweep.purpose
        task.pairs = sweep.count
        task.stop = ffi.from_buffer("int32_t[]", sweep.stop)  # one that outlives everything
        task.fresh = problem.pairing == "paired"  # gradients are set: nothing needs to be there before
        self._indices: list[Any] = []  # which outlive their addresses
        if problem.pairing != "paired":
            ((index1, index2),) = sweep.jobs(fixed=True)
            place, mirror = index1 * known.paths2 + index2, index2 * known.paths2 + index1
            task.index1, task.index2 = self._address(index1), self._address(index2)
            if self._symmetric:
                known.place, known.mirror = self._address(place), self._address(mirror)
            elif np.any(place != np.arange(sweep.count)):
                known.place = self._address(place)

    def is_current(self) -> bool:
        """Tell whether the instruction set in use cuts the pairs into the tiles that this was made for."""
        return bool(lib.bs_lanes() == self._lanes)

    def _address(self, index: np.ndarray) -> ffi.CData:
        self._indices.append(ffi.from_buffer(INDICES, index))
        return self._indices[-1]

    @classmethod
    def of(cls, problem: Problem, batch: tuple[int, ...], *, log: bool, total: bool) -> Ready | None:
        """Return what is known of a problem before its arrays; None where the core alone is not enough, or the work is
        not short. Values have the shape `batch`."""
        if problem.order is not None or problem.progress is not None or pairs.still(problem):
            return None
        if problem.lengths1 is not None or problem.lengths2 is not None:
            return None
        if problem.path1.size + problem.path2.size > _MOST_NUMBERS:
            return None
        if total and problem.pairing != "symmetric":
            return None
        at_ends = telescope.telescopes(problem, "end")
        of_core = problem
        if at_ends:
            x = problem.path1[:, :2]
            y = x if problem.path2 is problem.path1 else problem.path2[:, :2]
            of_core = dataclasses.replace(problem, path1=x, path2=y, **telescope.PLAIN)
        sweep = Sweep(of_core, "end", log=log)
        short = sweep.inline and sweep.fused and not sweep.helpers and sweep.nodes * sweep.count <= _MOST_NODES
        if problem.pairing != "paired":  # whose gradients are sums, of one job with the bits that they have in full
            short = short and sweep.count <= min(_MOST_PAIRS, sweep.job_size(fixed=True))
        return cls(problem, sweep, batch, at_ends=at_ends, total=total) if short else None

    def values(self, path1: Any, path2: Any) -> np.ndarray | None:
        """Return the kernels, or their logarithms."""
        try:
            paths = self._opened(path1, path2)
        except _NOT_HANDED_OUT:
            return None
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
        self, derivs: Any, path1: Any, path2: Any, left: Any, right: Any
    ) -> tuple[np.ndarray | None, np.ndarray | None] | None:
        """Return the gradients with respect to the paths, None for one that is not asked for.

        The derivatives have not been checked, nor have the flags.
        """
        flags = (left is True or left is False) and (right is True or right is False) and (left or right)
        if not flags or type(derivs) is not type(path1) or derivs.dtype is not self._dtype:
            return None
        if derivs.shape != self._batch:
            return None
        try:
            return self._gradients(derivs, path1, path2, left, right)
        except _NOT_HANDED_OUT:
            return None

    def _gradients(
        self, derivs: Any, path1: Any, path2: Any, left: bool, right: bool
    ) -> tuple[np.ndarray | None, np.ndarray | None] | None:
        paths = self._opened(path1, path2)
        if paths is None:
            return None
        if not self._symmetric:
            return self._solved(paths, derivs, path1 if left else None, path2 if right else None)
        # The gradient with respect to the second argument is that to the first for exchanged derivatives.
        square = np.asarray(derivs).reshape(self._known.paths1, self._known.paths1)
        if self._total:
            with np.errstate(all="ignore"):
                total = square + square.T
            return self._solved(paths, total, path1, None)
        found: list[np.ndarray | None] = []
        for asked, weights in ((left, square), (right, square.T)):
            one = self._solved(paths, np.ascontiguousarray(weights), path1, None) if asked else (None,)
            if one is None:
                return None
            found.append(one[0])
        return found[0], found[1]

    def _solved(
        self, paths: tuple[ffi.CData, ffi.CData], derivs: Any, path1: Any, path2: Any
    ) -> tuple[np.ndarray | None, np.ndarray | None] | None:
        """The gradients with respect to the paths that are given."""
        if self._single:
            derivs = _widened(derivs)
        grad1 = grad2 = None
        data1 = data2 = _NULL
        if path1 is not None:
            grad1 = np.empty(self._shape_of(path1, self._known.paths1))
            data1 = ffi.from_buffer(DOUBLES, grad1)
        if path2 is not None:
            grad2 = np.empty(self._shape_of(path2, self._known.paths2))
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

    def _opened(self, path1: Any, path2: Any) -> tuple[ffi.CData, ffi.CData] | None:
        """What the core takes of both paths; None where nothing is begun."""
        rest = self._rest
        if rest > 0:
            self._rest = rest - 1
            return None
        if not self.is_current():
            return None
        same = path2 is None or path2 is path1
        if self._in_place:
            data1 = ffi.from_buffer(DOUBLES, path1)
            return data1, data1 if same else ffi.from_buffer(DOUBLES, path2)
        data1 = self._read(path1, self._known.paths1)
        data2 = data1 if same else self._read(path2, self._known.paths2)
        if data1 is None or data2 is None:
            self._rest = _REST
            return None
        return data1, data2

    def _read(self, path: Any, count: int) -> ffi.CData | None:
        """What the core takes of paths that it does not read in place: all points, or the first and the last of each,
        which are None where some point is not finite, or as good as not."""
        data = ffi.from_buffer(DOUBLES, _widened(path) if self._single else path)
        if not self._at_ends:
            return data
        ends = ffi.from_buffer(DOUBLES, np.empty(self._shape_of(path, count)))
        fine = lib.bs_ends(data, count, path.shape[-2], path.shape[-1], self._most, ends)
        return ends if fine else None

    def _shape_of(self, path: Any, count: int) -> tuple[int, ...]:
        """The shape of what the core takes of so many paths."""
        return (count, 2, path.shape[-1]) if self._at_ends else path.shape

    def _done(self, *arrays: ffi.CData) -> bool:
        """Let the core do the work, and tell whether it has."""
        room = getattr(kept_here, "workspace", NOTHING)
        wanted = lib.bs_again(self._known, *arrays, room, len(room))
        if wanted > 0:
            room = workspace_of(wanted, self._plan.blame)
            wanted = lib.bs_again(self._known, *arrays, room, len(room))
        if wanted:
            self._rest = _REST
        return not wanted

    def _whole(self, gradient: np.ndarray | None, path: Any) -> np.ndarray | None:
        """A gradient of finite numbers in the shape and dtype of a path."""
        if gradient is None:
            return None
        if self._single:
            gradient = _narrow(gradient)
        if not self._at_ends:
            return gradient
        result = np.zeros(path.shape, dtype=self._dtype)
        result.reshape(-1, *path.shape[-2:])[:, :: path.shape[-2] - 1] = gradient
        return result


def _widened(array: Any) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # of a signalling NaN
        return np.asarray(array).astype(DOUBLE)


def _narrow(values: np.ndarray) -> np.ndarray:
    with np.errstate(under="ignore"):
        return values.astype(np.float32)
