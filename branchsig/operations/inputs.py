"""Warnings about valid but suspicious paths: non-finite entries, and axes that look swapped.

Each function takes stacks of paths as the caller gave them, and returns a sentence that says what to write instead, or
an empty string if nothing is wrong.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from branchsig._arrays import Array, device_of, filled, namespace_of

_NAMED = 5
"""Largest number of paths that a sentence names."""


class Given(NamedTuple):
    """A paths argument of a public function."""

    name: str
    """Name of the argument."""
    path: Array
    """The paths as a stack (paths, length, dimension), before any transformation."""
    batch: tuple[int, ...]
    """The batch shape of the argument."""
    lengths: np.ndarray | None = None
    """The valid lengths, one for each path of the stack."""
    option: str | None = None
    """The option that takes the valid lengths; None for a list of paths, which has lengths of its own."""
    counts: tuple[int, ...] | None = None
    """For a list of paths, their numbers of points."""

    def given_back(self, gradient: Array) -> Any:
        """Reshape a gradient with respect to the stack to the shape of the argument; for a list of paths, return a
        list."""
        if self.counts is not None:
            return [gradient[k, :count, :] for k, count in enumerate(self.counts)]
        shape = (*self.batch, *gradient.shape[-2:])
        return gradient if gradient.shape == shape else namespace_of(gradient).reshape(gradient, shape)


def not_finite(given: Given) -> str:
    """Name the paths that hold NaN or infinities."""
    path = filled(given.path, given.lengths)
    xp = namespace_of(path)
    rows = xp.isnan(path)
    nan, infinite = xp.any(rows, axis=(1, 2)), xp.any(xp.isinf(path), axis=(1, 2))
    bad = nan | infinite
    if not bool(xp.any(bad)):
        return ""
    kinds = " or ".join(kind for kind, where in (("NaN", nan), ("infinities", infinite)) if bool(xp.any(where)))
    sentence = f"{_indexed(given, bad, 'hold')} {kinds}"
    # Padding is a run of points that are NaN in every channel and reaches the last point but not the first.
    gone = xp.all(rows, axis=2)
    padded = gone[:, -1] & ~xp.all(gone, axis=1)
    if not bool(xp.any(padded)):
        return sentence
    remedy = "leave it out of the paths of the list"
    if given.option is not None:
        # NaN is not equal to itself, in every library.
        remedy = f"give the valid lengths, {given.option}=({given.name} == {given.name}).any(axis=-1).sum(axis=-1)"
    return f"{sentence}. The NaN at the end of {_indexed(given, padded)} looks like padding: {remedy}"


def axis_order(given: Given, *others: Given) -> str:
    """Return a warning if the axes of all paths of a Gram matrix or a mean look swapped."""
    everything = (given, *others)
    shape = (*given.batch, *given.path.shape[1:])
    if not all(paths.path.shape[0] for paths in everything):
        return ""
    if all(paths.path.shape[1] == 1 for paths in everything):
        return (
            f"every path has one point, so that all kernels are 1: {given.name} has shape {shape}, and the axes are "
            "(..., length, dimension). If your axes are (..., dimension, length), give "
            + (f"{given.name}.swapaxes(-1, -2)" if given.option is not None else "the transpose of every path")
        )
    if all(not paths.batch and paths.path.shape[2] > 1 for paths in everything):
        length, dimension = shape
        return (
            f"{given.name} of shape {shape} was taken for one path of {length} points in {dimension} dimensions. For "
            f"{length} paths of one channel give {given.name}[:, :, None]; for one path give {given.name}[None], or "
            "use branched_sig_kernel"
        )
    return ""


def _indexed(given: Given, flags: Array, verb: str = "") -> str:
    """Name the flagged paths by their indices in the batch, followed by a verb, given in the plural."""
    xp = namespace_of(flags)
    count = int(xp.sum(xp.astype(flags, xp.int64)))
    if verb:
        verb = " " + (verb if count > 1 else verb + "s")
    if not given.batch:
        return given.name + verb
    index, names = xp.arange(flags.shape[0], device=device_of(flags)), []
    for _ in range(min(count, _NAMED)):
        first = int(xp.argmax(xp.astype(flags, xp.int8)))
        names.append(f"{given.name}[{', '.join(str(k) for k in np.unravel_index(first, given.batch))}]")
        flags = flags & (index != first)
    if count > _NAMED:
        names.append(f"{count - _NAMED} more")
    return (", ".join(names[:-1]) + " and " if len(names) > 1 else "") + names[-1] + verb
