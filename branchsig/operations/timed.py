"""Times of points given by the caller: they become the last channel of the paths, before any operation.

So operations take only paths; `Transforms.times` marks the last channel as time, and gradients with respect to times
are the last channel of those with respect to the paths. A framework that records operations on its arrays records the
concatenation too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from branchsig import _validation
from branchsig._arrays import Array, contiguous, namespace_of
from branchsig.operations.base import Operation
from branchsig.operations.job import Job
from branchsig.spec import Execution, Spec, Transforms

__all__ = ["Split", "Timed", "joined", "timed", "with_times"]

_NAMES = {1: ("times",), 2: ("times1", "times2")}
"""Names of the arguments, by the number of operands with gradients."""


def timed(operation: Operation, times1: Any, times2: Any = None) -> Operation | Timed:
    """Return the operation, wrapped to take paths with times if any are given."""
    if times1 is None and times2 is None:
        return operation
    return Timed(operation, (times1, times2)[: operation.sides])


def with_times(transforms: Transforms) -> Transforms:
    """Return the requested transformations, for paths whose last channel holds the times."""
    _validation.end_time_or_times(transforms.end_time)
    return dataclasses.replace(transforms, time_aug=False, times=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Timed:
    """An operation on paths and times, which become the last channel. Its methods are those of `Operation`.

    Gradients with respect to times follow those with respect to the paths.
    """

    operation: Operation
    times: tuple[Any, ...]

    def joined(
        self, spec: Spec, *operands: Any, join: Callable[[Any, Any, str, str], Any] | None = None
    ) -> tuple[Spec, Any, Split]:
        """Return spec and operands for paths joined with their times, and the function that splits their gradients.

        `join` takes the place of the function `joined`.
        """
        join = joined if join is None else join
        sides, names = self.operation.sides, _NAMES[self.operation.sides]
        spec = dataclasses.replace(spec, transforms=with_times(spec.transforms))
        paths, times = operands[:sides], self.times
        same = sides == 2 and times[1] is None and (paths[1] is None or paths[1] is paths[0])
        for name, given in zip(names, times):
            if given is None and not (same and name == "times2"):
                other = names[1] if name == names[0] else names[0]
                raise ValueError(f"{other} is given and {name} is not: give times for the points of all paths, or none")
        if sides == 2 and not same:
            _validation.same_dimension(paths[0], paths[1], *self.operation.operands[:2])
        first = join(paths[0], times[0], self.operation.operands[0], names[0])
        done = [first]
        if same:
            done.append(None if paths[1] is None else first)
        elif sides == 2:
            if paths[1] is None:
                raise ValueError("times2 is given and path2 is None: the second paths are the first. Leave times2 out")
            done.append(join(paths[1], times[1], self.operation.operands[1], names[1]))
        return spec, (*done, *operands[sides:]), Split.of(paths, (times[0], times[0]) if same else times)

    def prepare(self, spec: Spec, how: Execution, *operands: Any) -> Job:
        """Check and transform the operands."""
        spec, operands, _ = self.joined(spec, *operands)
        return self.operation.prepare(spec, how, *operands)

    def value(self, spec: Spec, how: Execution, *operands: Any) -> Any:
        """Return the value."""
        spec, operands, _ = self.joined(spec, *operands)
        return self.operation.value(spec, how, *operands)

    def vjp(self, spec: Spec, how: Execution, *operands: Any, **asked: Any) -> tuple[Any, Callable[[Any], Any]]:
        """Return the value and its pullback."""
        spec, operands, split = self.joined(spec, *operands)
        value, pullback = self.operation.vjp(spec, how, *operands, **asked)
        return value, _Pullback(pullback, split)

    def backprop(self, derivs: Any, spec: Spec, how: Execution, *operands: Any, **asked: Any) -> Any:
        """Return the gradients for given derivatives."""
        spec, operands, split = self.joined(spec, *operands)
        return split(self.operation.backprop(derivs, spec, how, *operands, **asked))


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """Splits gradients with respect to paths joined with times into those with respect to paths and times.

    `shared` holds, for each argument, the number of leading axes of the paths that its times lack.
    """

    shared: tuple[int, ...]

    @classmethod
    def of(cls, paths: tuple[Any, ...], times: tuple[Any, ...]) -> Split:
        """Build the split for these paths and times."""
        return cls(tuple(_shared(path, given) for path, given in zip(paths, times)))

    def __call__(self, found: Any) -> tuple[Any, ...]:
        """Return the gradients, those with respect to times after those with respect to the paths."""
        found = found if isinstance(found, tuple) else (found,)
        sides = len(self.shared)
        paths, times = zip(*map(_split, found[:sides], self.shared))
        return (*paths, *times, *found[sides:])


@dataclasses.dataclass(frozen=True, slots=True)
class _Pullback:
    """A pullback that splits its gradients. It can be pickled if the inner pullback can."""

    pullback: Callable[[Any], Any]
    split: Split

    def __call__(self, derivs: Any) -> tuple[Any, ...]:
        return self.split(self.pullback(derivs))


def joined(paths: Any, times: Any, name: str, name_of_times: str) -> Any:
    """Check paths and times, and join them as the last channel; a list for a list."""
    join, shown = None, (paths, times)
    if type(paths) is not np.ndarray or type(times) is not np.ndarray:
        from branchsig.frameworks import _binding  # which knows operations

        join = _binding.offered("joined", paths, times)
        if join is not None:
            shown = _binding.stand_in(paths), _binding.stand_in(times)
            if any(one is None for one in shown):
                return join(paths, times)
    if _validation.is_ragged(shown[0]):
        _validation.ragged_paths(shown[0], name)
        _validation.times_of_list(shown[1], name_of_times, shown[0], name)
        pairs = enumerate(zip(paths, times, strict=True))
        return [joined(path, at, f"{name}[{k}]", f"{name_of_times}[{k}]") for k, (path, at) in pairs]
    _validation.single_path(shown[0], name)
    _validation.times(shown[1], name_of_times, shown[0], name)
    if join is not None:
        return join(paths, times)
    xp = namespace_of(paths)
    paths, times = contiguous(paths), contiguous(times)
    return xp.concat([paths, xp.broadcast_to(times[..., None], (*paths.shape[:-1], 1))], axis=-1)


def _shared(paths: Any, times: Any) -> int:
    return 0 if paths is None or _validation.is_ragged(paths) else paths.ndim - 1 - times.ndim


def _split(gradient: Any, shared: int) -> tuple[Any, Any]:
    if gradient is None:
        return None, None
    if isinstance(gradient, list):
        paths, times = zip(*(_split(one, 0) for one in gradient))
        return list(paths), list(times)
    of_times: Array = gradient[..., -1]
    if shared:
        axes = tuple(range(shared))
        of_framework = None
        if type(gradient) is not np.ndarray:
            from branchsig.frameworks import _binding  # which knows operations

            of_framework = _binding.offered("summed", gradient)
        if of_framework is not None:
            of_times = of_framework(of_times, axes)
        else:
            of_times = namespace_of(gradient).sum(of_times, axis=axes)
    return contiguous(gradient[..., :-1]), contiguous(of_times)
