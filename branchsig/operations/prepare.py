"""Preparation of a `Job` from options and operands: paths and lengths are checked, and paths are transformed.

Lists of paths of any lengths are padded here to a stack with valid lengths.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from branchsig import _validation
from branchsig._arrays import Array, as_numpy, filled, in_float64, lies_on_cuda
from branchsig.backends import Problem
from branchsig.operations.inputs import Given
from branchsig.operations.job import Job
from branchsig.operations.transform import padded, transformed, transformed_lengths
from branchsig.spec import Execution, Spec, Transforms
from branchsig.static_kernels import is_built_in

__all__ = ["alone", "gram", "paired", "samples"]

_Valid = npt.NDArray[np.int64] | None


class _Stack(NamedTuple):
    """An argument as one array, with unchecked valid lengths."""

    paths: Any
    lengths: Any
    counts: tuple[int, ...] | None
    """The numbers of points of the paths of a list."""

    def given(self, name: str, stack: Array, valid: _Valid, option: str) -> Given:
        """The argument with its name, checked stack (paths, length, dimension) and checked lengths."""
        batch = tuple(self.paths.shape[:-2])
        return Given(name, stack, batch, valid, option if self.counts is None else None, self.counts)


def _stack(paths: Any, lengths: Any, name: str, option: str) -> _Stack:
    """Convert an argument to one array; a list of paths becomes a padded stack with lengths.

    Raises
    ------
    ValueError
        If the list is empty, a path has an invalid shape, or lengths are given for a list.
    TypeError
        If the paths differ in library or dtype.
    """
    if not _validation.is_ragged(paths):
        return _Stack(paths, lengths, None)
    if lengths is not None:
        raise ValueError(
            f"{option} with a list of paths as {name}: the paths of a list have their own lengths. Leave {option} out"
        )
    _validation.ragged_paths(paths, name)
    counts = tuple(int(path.shape[0]) for path in paths)
    return _Stack(padded(paths), np.asarray(counts), counts)


def _stacks(
    path1: Any, path2: Any, lengths1: Any, lengths2: Any, name1: str = "path1", name2: str = "path2"
) -> tuple[_Stack, _Stack]:
    """Convert both arguments to stacks. If both are one list, they share one stack."""
    first = _stack(path1, lengths1, name1, "lengths1")
    if path2 is path1 and lengths2 is None:
        return first, first._replace(lengths=None)
    return first, _stack(path2, lengths2, name2, "lengths2")


def paired(spec: Spec, how: Execution, path1: Any, path2: Any, lengths1: Any = None, lengths2: Any = None) -> Job:
    """Check and transform paths that are paired."""
    first, second = _stacks(path1, path2, lengths1, lengths2)
    x, y, batch = _validation.paired_paths(first.paths, second.paths)
    valid = _valid_lengths(first, second)
    origins = first.given("path1", x, valid[0], "lengths1"), second.given("path2", y, valid[1], "lengths2")
    return Job(spec, how, _problem(x, y, "paired", valid, spec, how), batch, origins)


def gram(spec: Spec, how: Execution, path1: Any, path2: Any, lengths1: Any = None, lengths2: Any = None) -> Job:
    """Check and transform the paths of a Gram matrix.

    The matrix of one stack with itself is computed from one triangle if dyadic orders and grids allow it.
    """
    first, second = _stacks(path1, path2, lengths1, lengths2)
    x, y, batch = _validation.gram_paths(first.paths, second.paths)
    valid = _valid_lengths(first, second)
    triangle = y is x and valid[0] is valid[1] and spec.dyadic_order[0] == spec.dyadic_order[1]
    _validation.devices_of_paths(how.devices, first.paths)
    _validation.fits_memory(batch, x, "the Gram matrix", _IN_BLOCKS)
    origins: tuple[Given, ...] = (first.given("path1", x, valid[0], "lengths1"),)
    if path2 is not None:
        origins += (second.given("path2", y, valid[1], "lengths2"),)
    pairing = "symmetric" if triangle and not spec.return_grid else "gram"
    return Job(spec, how, _problem(x, y, pairing, valid, spec, how), batch, origins)


def alone(spec: Spec, how: Execution, paths: Any, lengths: Any = None) -> Job:
    """Check and transform paths that are each paired with itself."""
    stack = _stack(paths, lengths, "paths", "lengths")
    _validation.single_path(stack.paths, "paths")
    x, _, batch = _validation.paired_paths(stack.paths, stack.paths)
    valid = _validation.lengths(stack.lengths, "lengths", stack.paths)
    problem = _problem(x, x, "paired", (valid, valid), spec, how)
    return Job(spec, how, problem, batch, (stack.given("paths", x, valid, "lengths"),))


def samples(
    spec: Spec,
    how: Execution,
    sample1: Any,
    sample2: Any,
    lengths1: Any = None,
    lengths2: Any = None,
    *,
    names: tuple[str, str],
    single: bool,
    here: bool,
) -> Job:
    """Check and transform two samples of paths; return the job of their Gram matrix.

    Means of kernels cancel, so float32 arrays are converted to float64, except on a CUDA device, whose kernels support
    both. Not every library has float64; so with `here`, samples that NumPy can read are converted to NumPy. With
    `single`, the second sample may be one path.
    """
    first, second = _stacks(sample1, sample2, lengths1, lengths2, *names)
    x, y = _validation.samples(first.paths, second.paths, *names, single=single)
    valid = _valid_lengths(first, second)
    origins = first.given(names[0], x, valid[0], "lengths1"), second.given(names[1], y, valid[1], "lengths2")
    if not lies_on_cuda(x):
        same = y is x
        if here and is_built_in(spec.static_kernel):
            handed_out = as_numpy(x), as_numpy(y)
            if handed_out[0] is not None and handed_out[1] is not None:
                x, y = handed_out
        x = in_float64(x)
        y = x if same else in_float64(y)
    batch = origins[1].batch if single else ()
    return Job(spec, how, _problem(x, y, "gram", valid, spec, how), batch, origins)


_IN_BLOCKS = (
    "compute it in blocks of rows, as in branched_sig_kernel_gram(path1[:1000], path2, ...), or with float32 paths, "
    "which need half the memory"
)


def _valid_lengths(first: _Stack, second: _Stack) -> tuple[_Valid, _Valid]:
    """Check the valid lengths. If the second paths are the first, both share one lengths array."""
    if first.lengths is None and second.lengths is None:
        return None, None
    valid = _validation.lengths(first.lengths, "lengths1", first.paths)
    if second.paths is None and second.lengths is not None:
        raise ValueError("lengths2 with path2=None: the second paths are the first. Leave lengths2 out")
    if second.paths is None or (second.paths is first.paths and second.lengths is None):
        return valid, valid
    return valid, _validation.lengths(second.lengths, "lengths2", second.paths)


def _problem(x: Array, y: Array, pairing: str, valid: tuple[_Valid, _Valid], spec: Spec, how: Execution) -> Problem:
    truncation = spec.truncation
    if type(x) is not np.ndarray:
        for path, name in ((x, "path1"), (y, "path2")):
            _validation.values_at_hand(path, name, truncation.depth, truncation.order, spec.rtol)
    lengths1, lengths2 = valid
    transforms = spec.transforms
    if transforms:
        if transforms.time_aug:
            _validation.end_time_in_range(transforms.end_time, x)
        same = y is x and lengths2 is lengths1
        x, lengths1 = _transformed(x, lengths1, transforms)
        y, lengths2 = (x, lengths1) if same else _transformed(y, lengths2, transforms)
    _validation.grid_shape(x.shape[1], y.shape[1], spec.dyadic_order)
    return Problem(
        x,
        y,
        pairing,
        spec.static_kernel,
        truncation.depth,
        spec.dyadic_order,
        _validation.threads(how.n_jobs),
        how.max_batch,
        None,
        spec.quadrature,
        truncation.order,
        lengths1,
        lengths2,
        devices=how.devices or (),
        planar=spec.planar,
    )


def _transformed(path: Array, lengths: _Valid, transforms: Transforms) -> tuple[Array, _Valid]:
    """Apply the transformations to paths; return them with their valid lengths afterwards."""
    path = transformed(filled(path, lengths), transforms, lengths)
    return path, None if lengths is None else transformed_lengths(lengths, transforms)
