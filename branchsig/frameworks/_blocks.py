"""A Gram matrix in blocks: what a block is made of, and the values and gradients of one.

Paths stay where they are, in memory, in a memory-mapped file or in a Zarr array, and only those of a block are read.
What the stages find out about every path alone, the factors of dilation and the kernels of paths with themselves, is
found once and handed to every block of these paths, so that a block has the bits that it has in the whole matrix.
"""

from __future__ import annotations

import dataclasses
import hashlib
import mmap
import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from branchsig import _validation
from branchsig._arrays import Array, as_like
from branchsig.backends import Wrt
from branchsig.operations import prepare
from branchsig.operations.dilate import Dilate, Scaled
from branchsig.operations.job import Job
from branchsig.operations.stages import Kept, Stage, stage_for
from branchsig.operations.timed import joined
from branchsig.operations.transform import transformed_adjoint
from branchsig.spec import Execution, Spec

__all__ = ["Joined", "Mapped", "Plan", "Stack", "fingerprint", "joined_where_read", "on_disk"]


@dataclasses.dataclass(frozen=True)
class Mapped:
    """Where a memory-mapped array lies, in the place of the array: a process that it is sent to maps it again."""

    filename: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    def __getitem__(self, index: Any) -> np.ndarray:
        whole = np.memmap(self.filename, self.dtype, "r", self.offset, self.shape)
        return np.asarray(whole[index])


@dataclasses.dataclass(frozen=True)
class Joined:
    """Paths with times as their last channel, joined where some of them are read."""

    paths: Any
    times: Any
    """For each path, or the same for all."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of the paths with one more channel."""
        count, length, dimension = self.paths.shape
        return count, length, dimension + 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the paths and of the times."""
        dtype: np.dtype[Any] = np.dtype(self.paths.dtype)
        return dtype

    def __getitem__(self, run: slice) -> np.ndarray:
        paths = np.asarray(self.paths[run])
        times = np.asarray(self.times[run] if len(self.times.shape) == 2 else self.times[:])
        return np.concatenate([paths, np.broadcast_to(times[..., None], (*paths.shape[:-1], 1))], axis=-1)


def joined_where_read(paths: Any, times: Any, name: str, name_of_times: str) -> Any:
    """Check paths and their times, and join them; those of a list at once."""
    if isinstance(paths, (list, tuple)):
        return joined(list(paths), times, name, name_of_times)
    if len(getattr(paths, "shape", ())) != 3:
        return paths  # which `Stack.of` refuses
    like, shown = _without_data(paths), _without_data(times)
    _validation.single_path(like, name)
    _validation.times(shown, name_of_times, like, name)
    return Joined(paths, times)


def _without_data(array: Any) -> Any:
    """An array of NumPy of the shape and dtype of another one, whatever that is, with no memory of its own."""
    if hasattr(array, "shape") and hasattr(array, "dtype"):
        return np.broadcast_to(np.zeros((), array.dtype), array.shape)
    return array


def on_disk(paths: Any) -> Any:
    """Return a memory-mapped array as the place where it lies, and others as they are."""
    if isinstance(paths, Joined):
        return Joined(on_disk(paths.paths), on_disk(paths.times))
    base: Any = getattr(paths, "base", None)
    whole = isinstance(paths, np.memmap) and isinstance(base, mmap.mmap) and paths.flags.c_contiguous
    if whole and paths.filename is not None:
        return Mapped(str(paths.filename), paths.dtype, paths.shape, paths.offset)
    return paths


@dataclasses.dataclass(frozen=True)
class Stack:
    """The paths of one side, without the paths: their number and valid lengths, and the dyadic order of the side."""

    count: int
    lengths: np.ndarray | None
    order: int

    @classmethod
    def of(cls, paths: Any, lengths: Any, order: int, name: str) -> Stack:
        """Check that the paths are a stack or a list, and their valid lengths."""
        if isinstance(paths, (list, tuple)):
            if lengths is not None:
                raise ValueError(
                    f"lengths of a list of paths as {name}: the paths of a list are as long as they are. Leave them out"
                )
            return cls(len(paths), None, order)
        shape = tuple(getattr(paths, "shape", ()))
        if len(shape) != 3 or 0 in shape:
            raise ValueError(
                f"{name} has shape {shape}: expected (paths, length, dimension), each at least 1, of NumPy, a "
                "memory-mapped file or Zarr, or a list of arrays of shape (length, dimension)"
            )
        only = types.SimpleNamespace(shape=shape)
        return cls(shape[0], _validation.lengths(lengths, f"lengths{name[-1]}", only), order)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a Gram matrix is cut into blocks, and what is computed."""

    spec: Spec
    how: Execution
    stacks: tuple[Stack, ...]
    """The stacks of both sides, or the only one, of which one triangle is computed."""
    chunk: int

    @property
    def triangle(self) -> bool:
        """Whether the matrix is symmetric."""
        return len(self.stacks) == 1

    @property
    def stage(self) -> Stage:
        """The outermost stage of the computation."""
        return stage_for(self.spec)

    @property
    def shape(self) -> tuple[int, int]:
        """That of the matrix."""
        return self.stacks[0].count, self.stacks[-1].count

    def blocks(self) -> Iterator[tuple[int, int]]:
        """The blocks that are computed."""
        for i in range(self.count(0)):
            for j in range(i + 1 if self.triangle else self.count(1)):
                yield i, j

    def count(self, side: int) -> int:
        """Number of blocks along one side."""
        return -(-self.stacks[-1 if side else 0].count // self.chunk)

    def run(self, side: int, block: int) -> slice:
        """The paths of a block along one side."""
        return slice(block * self.chunk, min((block + 1) * self.chunk, self.stacks[-1 if side else 0].count))

    def pairs(self, block: tuple[int, int]) -> int:
        """Number of pairs of a block that are computed."""
        n1, n2 = (run.stop - run.start for run in (self.run(side, k) for side, k in enumerate(block)))
        return int(n1 * (n1 + 1) // 2 if self.triangle and block[0] == block[1] else n1 * n2)

    def paths_of(self, paths: Any, side: int, block: int) -> tuple[Any, np.ndarray | None]:
        """The paths of a block along one side, and their valid lengths."""
        run, lengths = self.run(side, block), self.stacks[-1 if side else 0].lengths
        some = paths[run]
        return some if isinstance(some, list) else np.asarray(some), None if lengths is None else lengths[run]

    def of_paths(self, paths: Any, side: int, block: int) -> Kept:
        """What the stages find out about every path of a block alone."""
        x, lengths = self.paths_of(paths, side, block)
        spec = dataclasses.replace(self.spec, dyadic_order=(self.stacks[side].order,) * 2)
        problem = prepare.alone(spec, self.how, x, lengths).problem
        with np.errstate(all="ignore"):
            return self.stage.of_paths(problem)

    def job(self, paths: tuple[Any, Any], block: tuple[int, int]) -> Job:
        """The problem of a block."""
        i, j = block
        x, lengths1 = self.paths_of(paths[0], 0, i)
        if self.triangle and i == j:
            return prepare.gram(self.spec, self.how, x, None, lengths1)
        y, lengths2 = self.paths_of(paths[1], 1, j)
        return prepare.gram(self.spec, self.how, x, y, lengths1, lengths2)

    def values(self, paths: tuple[Any, Any], block: tuple[int, int], of_paths: Kept) -> np.ndarray:
        """The values of a block."""
        job = self.job(paths, block)
        with np.errstate(all="ignore"):
            value, _ = self.stage.forward(job.problem, keep=False, of_paths=of_paths or None)
        return np.asarray(value)

    def gradient(
        self, paths: tuple[Any, Any], derivs: Any, side: int, block: int, of_paths: Sequence[Kept]
    ) -> np.ndarray:
        """The gradient with respect to the paths of a block along one side, from all blocks of its row or column.

        `of_paths` are what is known about the paths of these blocks, in their order.
        """
        total: Array | None = None
        scaled = None
        with np.errstate(all="ignore"):
            for other, known in enumerate(of_paths):
                place = (other, block) if side else (block, other)
                job, stage = self.job(paths, place), self.stage
                bars = _read(derivs, self.run(0, place[0]), self.run(1, place[1]), job.problem.path1.dtype)
                square = self.triangle and block == other
                if self.triangle and not square:
                    bars = bars + _read(derivs, self.run(1, place[1]), self.run(0, place[0]), bars.dtype).T
                problem = job.problem
                if isinstance(stage, Dilate):
                    scaled, stage = Scaled.again(problem, known), stage.inner
                    problem, bars = scaled.problem, scaled.derivs(bars)
                kept = stage.residuals(problem) if stage.keeps else {}
                wrt = Wrt(path1=side == 0, path2=side == 1)
                found = stage.adjoint(problem, kept, np.ascontiguousarray(bars), wrt, total=square)[side]
                total = found if total is None else total + found
            if scaled is not None:  # all blocks hold the same paths on this side
                total = scaled.sides[-1 if side else 0].adjoint([total])[0].path1
            if self.spec.transforms:
                total = transformed_adjoint(total, self.spec.transforms)
            return np.asarray(as_like(total, job.origins[-1 if side else 0].path))


def _read(derivs: Any, rows: slice, columns: slice, dtype: Any) -> np.ndarray:
    return np.asarray(derivs[rows, columns]).astype(dtype, copy=False)


def fingerprint(paths: Any, lengths: np.ndarray | None, chunk: int) -> str:
    """Return a text that other paths, or the same with other valid lengths, do not have. The paths are read once."""
    digest = hashlib.blake2b(digest_size=16)

    def add(array: np.ndarray) -> None:
        digest.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)

    if isinstance(paths, list):
        for path in paths:
            digest.update(f"{path.shape} {path.dtype.str} ".encode())
            add(path)
    else:
        digest.update(f"{tuple(paths.shape)} {np.dtype(paths.dtype).str} ".encode())
        for start in range(0, paths.shape[0], chunk):
            add(np.asarray(paths[start : start + chunk]))
    if lengths is not None:
        digest.update(np.ascontiguousarray(lengths).tobytes())
    return digest.hexdigest()
