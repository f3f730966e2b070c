"""Calls that have been made before, on few pairs of paths as arrays that NumPy reads in place.

What is checked of such a call depends on options, shapes and dtypes, so a call like one that has passed will pass too.
The backend keeps what it was told, and the arrays go straight to it. Whatever is out of the ordinary is computed again
by the operation, which has the words for it.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from branchsig.backends import backend_for
from branchsig.backends.choice import serving
from branchsig.operations.complaints import odd_axes
from branchsig.operations.job import Job
from branchsig.operations.nodes import SumOverNodes
from branchsig.operations.solve import Solve
from branchsig.operations.stages import stage_for
from branchsig.spec import Execution, Spec
from branchsig.static_kernels import is_built_in

__all__ = ["gradients_again", "lend", "make_ready", "ready_for", "value_again"]

_MOST = 256
"""Number of calls that are kept."""

_TYPES = frozenset({np.dtype(np.float64), np.dtype(np.float32)})

_Key = tuple[str, int, int, tuple[int, ...], Any, tuple[int, ...] | None, Any]
_met: dict[_Key, tuple[Spec, Execution]] = {}
"""Calls that were made once. Some never come again, such as those with a parameter that changes from call to call."""

_kept: dict[_Key, tuple[Spec, Execution, Any, Any]] = {}
"""By what `_key_of` returns: spec and execution, so that no other objects have their identities, the backend, and what
it has ready, which may be nothing."""

_lending: dict[type, tuple[Any, Any]] = {np.ndarray: (None, None)}
"""For types of arrays that a framework has lent, its functions `lent` and `given_back`, see
`branchsig.frameworks._binding`: how its arrays become such that NumPy reads, and back. None where they are such."""

_changing = threading.Lock()


def _key_of(name: str, spec: Spec, how: Execution, path1: Any, path2: Any) -> _Key:
    """The name of the operation, the identities of spec and execution, and the shapes and dtypes of the paths.

    Second paths that are left out have no shape, and those that are the first ones that of no path.
    """
    if path2 is None:
        return name, id(spec), id(how), path1.shape, path1.dtype, None, None
    if path2 is path1:
        return name, id(spec), id(how), path1.shape, path1.dtype, (), None
    return name, id(spec), id(how), path1.shape, path1.dtype, path2.shape, path2.dtype


def ready_for(name: str, spec: Spec, how: Execution, path1: Any, path2: Any) -> Any | None:
    """Return what the backend has ready for a call of the operation of this name; None where there is nothing.

    The paths are arrays of NumPy, or of one type that hands out its memory as a buffer.
    """
    found = _kept.get(_key_of(name, spec, how, path1, path2))
    return None if found is None or found[2] is not serving.get("numpy") else found[3]


def lend(kind: type, framework: Any) -> None:
    """Let arrays of a type, some of which a framework has lent, be read at once in calls that come again."""
    _lending[kind] = framework.lent, framework.given_back


def value_again(
    name: str, spec: Spec, how: Execution, path1: Any, path2: Any, lengths1: Any = None, lengths2: Any = None
) -> Any | None:
    """Return the value of a call, by what is ready for it; None where nothing is, or it is not enough.

    Paths are arrays of NumPy, or of a framework that has lent some.
    """
    kind = type(path1)
    ways = _lending.get(kind)
    if ways is None or lengths1 is not None or lengths2 is not None:
        return None
    if path2 is not None and type(path2) is not kind:
        return None
    lent, given_back = ways
    array1, array2 = (path1, path2) if lent is None else _lent(lent, path1, path2)
    ready = None if array1 is None else ready_for(name, spec, how, array1, array2)
    value = None if ready is None else ready.values(array1, array2)
    return value if value is None or given_back is None else given_back(value, path1)


def gradients_again(
    name: str,
    spec: Spec,
    how: Execution,
    derivs: Any,
    path1: Any,
    path2: Any,
    lengths1: Any = None,
    lengths2: Any = None,
    *,
    left: Any,
    right: Any,
) -> Any | None:
    """Return the gradients likewise. Neither derivatives nor flags have been checked."""
    kind = type(path1)
    ways = _lending.get(kind)
    if ways is None or lengths1 is not None or lengths2 is not None:
        return None
    if type(derivs) is not kind or not (path2 is None or type(path2) is kind):
        return None
    lent, given_back = ways
    array1, array2 = (path1, path2) if lent is None else _lent(lent, path1, path2)
    ready = None if array1 is None else ready_for(name, spec, how, array1, array2)
    if ready is None:
        return None
    found = ready.gradients(derivs if lent is None else lent(derivs), array1, array2, left, right)
    if found is None or given_back is None:
        return found
    first, second = found
    return (
        None if first is None else given_back(first, path1),
        None if second is None else given_back(second, path1),
    )


def _lent(lent: Any, path1: Any, path2: Any) -> tuple[Any, Any]:
    """Both paths as NumPy can read them; None for the first where one of them is not lent."""
    array1 = lent(path1)
    if path2 is None or path2 is path1:
        return array1, None if path2 is None else array1
    array2 = lent(path2)
    return (None, None) if array2 is None else (array1, array2)


def make_ready(name: str, job: Job, path1: Any, path2: Any) -> None:
    """Make ready for calls like this one, which has been checked, if it is one of those and has been made before."""
    solve = _solve_of(job)
    if type(path1) is not np.ndarray or solve is None:
        return
    spec, how, problem = job.spec, job.how, job.problem
    backend = backend_for(problem)
    key = _key_of(name, spec, how, path1, path2)
    if not (path1.dtype in _TYPES and (path2 is None or type(path2) is np.ndarray)):
        return
    with _changing:
        found = _kept.get(key)
        if found is not None and found[2] is backend and (found[3] is None or found[3].is_current()):
            return
        if _met.pop(key, None) is None:
            if len(_met) >= _MOST:
                del _met[next(iter(_met))]
            _met[key] = spec, how
            return
    make = getattr(backend, "ready", None)
    with np.errstate(all="ignore"):
        ready = None if make is None else make(problem, job.batch, log=solve.output == "log", total=job.total)
    with _changing:
        if len(_kept) >= _MOST:
            del _kept[next(iter(_kept))]
        _kept[key] = spec, how, backend, ready


def _solve_of(job: Job) -> Solve | SumOverNodes | None:
    """The only stage of a job whose options and operands are of the kind that is made ready; None for others.

    Over ordered forests those are kernels, which are K - 1 of the backend and 1.
    """
    spec, how, problem = job.spec, job.how, job.problem
    stage = stage_for(spec)
    if not isinstance(stage, Solve | SumOverNodes) or stage.want != "end":
        return None
    if stage.output != "kernel" and (spec.signed or stage.output != "log"):
        return None
    plain = (
        spec.rtol is None
        and problem.lengths1 is None
        and problem.lengths2 is None
        and how.progress is False
        and not how.check_finite
        and not (spec.transforms or spec.transforms.times)  # a spec with times is made for one call
        and is_built_in(spec.static_kernel)
        and not spec.static_kernel.holds_arrays  # which may be modified
        and not odd_axes(job)  # which every call says
    )
    return stage if plain else None
