"""What is wrong with paths that are allowed: what is not finite in them, and axes that look swapped, in words.

Stacks of paths as the caller gave them come in, and sentences for a warning go out, each of which says what to write
instead; an empty string where nothing is wrong.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from branchsig._arrays import Array, device_of, filled, namespace_of

_NAMED = 5
"""Paths that a sentence names at most."""


class Given(NamedTuple):
    """Paths of a caller, as an argument of a public function."""

    name: str
    """That of the argument."""
    path: Array
    """As a stack (paths, length, dimension), before any transformation."""
    batch: tuple[int, ...]
    """The batch shape of the argument."""
    lengths: np.ndarray | None = None
    """The valid lengths, one for each path of the stack."""
    option: str | None = None
    """The option that takes the valid lengths; None for a list of paths, which has lengths of its own."""
    counts: tuple[int, ...] | None = None
    """For a list of paths their numbers of points."""

    def given_back(self, gradient: Array) -> Any:
        """A gradient with respect to the stack in the shape of the argument: for a list of paths a list."""
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
    # Padding is a run of points that are NaN in every channel, up to the last point, and not from the first one on.
    gone = xp.all(rows, axis=2)
    padded = gone[:, -1] & ~xp.all(gone, axis=1)
    if not bool(xp.any(padded)):
        return sentence
    library = namespace_of(path).__name__.removeprefix("array_api_compat.")
    remedy = "leave it out of the paths of the list"
    if given.option is not None:
        remedy = f"give the valid lengths, {given.option}=(~{library}.isnan({given.name}).all(axis=-1)).sum(axis=-1)"
    return f"{sentence}. The NaN at the end of {_indexed(given, padded)} looks like padding: {remedy}"


def axis_order(given: Given, *others: Given) -> str:
    """Tell whether the axes of all paths of a Gram matrix or a mean look as if they stood in another order."""
    everything = (given, *others)
    shape = (*given.batch, *given.path.shape[1:])
    if not all(paths.path.shape[0] for paths in everything):
        return ""
    if all(paths.path.shape[1] == 1 for paths in everything):
        return (
            f"every path has one point, so that all kernels are 1: {given.name} has shape {shape}, and the axes are "
            "(..., length, dimension). If they stand in the order (..., dimension, length), give "
            + (f"{given.name}.swapaxes(-1, -2)" if given.option is not None else "the transpose of every path")
        )
    if all(not paths.batch and paths.path.shape[2] > 1 for paths in everything):
        length, dimension = shape
        return (
            f"{given.name} of shape {shape} was taken for one path of {length} points in {dimension} dimensions. For "
            f"{length} paths of one channel give {given.name}[:, :, None]; for one path give {given.name}[None], or "
            "take branched_sig_kernel"
        )
    return ""


def _indexed(given: Given, flags: Array, verb: str = "") -> str:
    """The paths that are marked, by their indices in the batch, with a verb in the plural."""
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
