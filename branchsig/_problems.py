"""From checked options and the paths of a caller to a `Problem`: checks of the paths, lengths and transformations.

A list of paths of any lengths is padded here to a stack with valid lengths, and gradients with respect to the stack are
taken back to a list.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from branchsig import _validation
from branchsig._arrays import Array, as_numpy, filled, in_float64, lies_on_cuda, namespace_of
from branchsig._inputs import Given
from branchsig._progress import Report
from branchsig.backends import Problem
from branchsig.spec import Execution, Spec, Transforms
from branchsig.static_kernels import is_built_in
from branchsig.transforms import padded, transformed

Lengths = tuple[Any, Any]
"""The valid lengths of both stacks of paths as the caller gave them: `lengths1` and `lengths2`, not checked."""

_Valid = npt.NDArray[np.int64] | None


def paired_problem(
    path1: Any, path2: Any, lengths: Lengths, spec: Spec, how: Execution
) -> tuple[Problem, tuple[int, ...]]:
    """Check and transform paths that are paired up; return the problem and the shape of its pairs."""
    if isinstance(path1, (list, tuple)) or isinstance(path2, (list, tuple)):
        path1, path2, lengths = _both_as_arrays(path1, path2, lengths)
    x, y, batch = _validation.paired_paths(path1, path2)
    valid = _valid_lengths(path1, path2, lengths)
    return _problem(x, y, "paired", valid, spec, how, batches=(batch, batch)), batch


def gram_problem(
    path1: Any, path2: Any, lengths: Lengths, spec: Spec, how: Execution, report: Report | None, *, triangle: bool
) -> tuple[Problem, tuple[int, ...]]:
    """Check and transform the paths of a Gram matrix; return the problem and the shape of its pairs.

    With `triangle` a matrix of one stack of paths with itself is computed from one triangle, where the dyadic orders
    allow it.
    """
    if isinstance(path1, (list, tuple)) or isinstance(path2, (list, tuple)):
        path1, path2, lengths = _both_as_arrays(path1, path2, lengths)
    x, y, batch = _validation.gram_paths(path1, path2)
    batches = batch[: path1.ndim - 2], batch[path1.ndim - 2 :]
    valid = _valid_lengths(path1, path2, lengths)
    symmetric = triangle and y is x and valid[0] is valid[1] and spec.dyadic_order[0] == spec.dyadic_order[1]
    _validation.devices_of_paths(how.devices, path1)
    _validation.fits_memory(batch, x, "the Gram matrix", _IN_BLOCKS)
    pairing = "symmetric" if symmetric else "gram"
    return _problem(x, y, pairing, valid, spec, how, report, batches), batch


def as_array(paths: Any, lengths: Any, name: str, option: str) -> tuple[Any, Any]:
    """Return a list of paths as one padded stack and their lengths; what is no such list comes back as it is.

    Raises
    ------
    ValueError
        If the list is empty, one of the paths has a shape it must not have, or lengths are given beside the list.
    TypeError
        If the paths are not of one library and dtype.
    """
    if not _validation.is_ragged(paths):
        return paths, lengths
    if lengths is not None:
        raise ValueError(
            f"{option} with a list of paths as {name}: the paths of a list are as long as they are. Leave {option} out"
        )
    _validation.ragged_paths(paths, name)
    return padded(paths), np.asarray([path.shape[0] for path in paths])


def as_given(gradient: Array, paths: Any) -> Any:
    """Return a gradient in the shape of the paths that were given: for a list of paths a list of its gradients."""
    if isinstance(paths, (list, tuple)):
        return [gradient[k, : path.shape[0], :] for k, path in enumerate(paths)]
    shape = tuple(paths.shape)
    return gradient if gradient.shape == shape else namespace_of(gradient).reshape(gradient, shape)


def _both_as_arrays(
    path1: Any, path2: Any, lengths: Lengths, name1: str = "path1", name2: str = "path2"
) -> tuple[Any, Any, Lengths]:
    """Lists of paths as stacks, and their lengths. One list in both places is one stack."""
    first, lengths1 = as_array(path1, lengths[0], name1, "lengths1")
    if path2 is path1 and lengths[1] is None:
        return first, first, (lengths1, None)
    second, lengths2 = as_array(path2, lengths[1], name2, "lengths2")
    return first, second, (lengths1, lengths2)


def given(problem: Problem, lengths: Lengths, transforms: Transforms) -> tuple[Given, ...]:
    """The paths of a problem as the caller gave them: the second ones only where they are not the first."""
    sides = [("1", problem.path1, problem.lengths1, lengths[0], problem.batches[0])]
    if not problem.itself:
        sides.append(("2", problem.path2, problem.lengths2, lengths[1], problem.batches[1]))
    result = []
    for number, path, valid, given_lengths, batch in sides:
        option = f"lengths{number}" if valid is None or given_lengths is not None else None
        if transforms.time_aug:
            path = path[:, :, :-1]
        if transforms.lead_lag:
            path = path[:, ::2, : path.shape[2] // 2]
        if transforms:
            valid = None  # `_transformed` has filled what is padded
        result.append(Given(f"path{number}", path, batch, valid, option))
    return tuple(result)


def samples_problem(
    sample1: Any,
    sample2: Any,
    names: tuple[str, str],
    lengths: Lengths,
    spec: Spec,
    how: Execution,
    *,
    single: bool,
    here: bool,
) -> tuple[Problem, tuple[Given, Given]]:
    """Check and transform two samples of paths; return the problem of their Gram matrix, and the samples as given.

    Means of kernels cancel, so arrays of float32 are taken to float64, but on a CUDA device, whose kernels serve both.
    Not every library has float64, so, where `here` allows it, the problem is one of NumPy if the samples can be handed
    out to it. The second sample may be a `single` path.
    """
    lists = isinstance(sample1, (list, tuple)), isinstance(sample2, (list, tuple))
    if any(lists):
        sample1, sample2, lengths = _both_as_arrays(sample1, sample2, lengths, *names)
    x, y = _validation.samples(sample1, sample2, *names, single=single)
    valid = _valid_lengths(sample1, sample2, lengths)
    given = (
        Given(names[0], x, tuple(sample1.shape[:-2]), valid[0], None if lists[0] else "lengths1"),
        Given(names[1], y, tuple(sample2.shape[:-2]), valid[1], None if lists[1] else "lengths2"),
    )
    if not lies_on_cuda(x):
        same = y is x
        if here and is_built_in(spec.static_kernel):
            handed_out = as_numpy(x), as_numpy(y)
            if handed_out[0] is not None and handed_out[1] is not None:
                x, y = handed_out
        x = in_float64(x)
        y = x if same else in_float64(y)
    return _problem(x, y, "gram", valid, spec, how), given


_IN_BLOCKS = (
    "compute it in blocks of rows, as in branched_sig_kernel_gram(path1[:1000], path2, ...), or with paths of float32, "
    "which take half of it"
)


def _valid_lengths(path1: Array, path2: Array | None, lengths: Lengths) -> tuple[_Valid, _Valid]:
    """Check the valid lengths. Where the second paths are the first, so are their lengths, as one object."""
    if lengths[0] is None and lengths[1] is None:
        return None, None
    first = _validation.lengths(lengths[0], "lengths1", path1)
    if path2 is None and lengths[1] is not None:
        raise ValueError("lengths2 with path2=None: the second paths are the first. Leave lengths2 out")
    if path2 is None or (path2 is path1 and lengths[1] is None):
        return first, first
    return first, _validation.lengths(lengths[1], "lengths2", path2)


def _problem(
    x: Array,
    y: Array,
    pairing: str,
    valid: tuple[_Valid, _Valid],
    spec: Spec,
    how: Execution,
    report: Report | None = None,
    batches: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
) -> Problem:
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
        report,
        spec.quadrature,
        truncation.order,
        lengths1,
        lengths2,
        how.devices or (),
        batches=batches,
    )


def _transformed(path: Array, lengths: _Valid, transforms: Transforms) -> tuple[Array, _Valid]:
    """A path with the transformations applied, and its valid lengths afterwards."""
    path = transformed(filled(path, lengths), transforms, lengths)
    return path, 2 * lengths - 1 if transforms.lead_lag and lengths is not None else lengths


def grid_shape(problem: Problem, batch: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the grids of a problem."""
    return batch + _validation.grid_shape(problem.path1.shape[1], problem.path2.shape[1], problem.dyadic_order)


def stack_shape(problem: Problem, batch: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the stacked grids of a problem.

    Raises
    ------
    ValueError
        If there are none, since depth or order leave no list of depths.
    """
    if problem.depth == math.inf:
        raise ValueError("depth is math.inf: a stack of the kernels of all depths has no end. Give a finite depth")
    return (*batch, int(problem.depth) + 1, *grid_shape(problem, ()))


def self_problem(paths: Any, lengths: Any, spec: Spec, how: Execution) -> tuple[Problem, tuple[int, ...]]:
    """Check and transform paths that are each paired with itself; return the problem and the shape of its pairs."""
    if isinstance(paths, (list, tuple)):
        paths, lengths = as_array(paths, lengths, "paths", "lengths")
    _validation.single_path(paths, "paths")
    x, _, batch = _validation.paired_paths(paths, paths)
    valid = _validation.lengths(lengths, "lengths", paths)
    return _problem(x, x, "paired", (valid, valid), spec, how, batches=(batch, batch)), batch
