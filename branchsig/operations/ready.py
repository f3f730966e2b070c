"""Calls that have been made before, on few pairs of paths as arrays that NumPy reads in place.

What is checked of such a call depends on options, shapes and dtypes, so a call like one that has passed will pass too.
The backend keeps what it was told, and the arrays go straight to it. Whatever is out of the ordinary is computed again
by the operation, which has the words for it.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from branchsig._arrays import is_plain
from branchsig.backends import backend_for
from branchsig.backends.choice import serving
from branchsig.operations.job import Job
from branchsig.operations.nodes import SumOverNodes
from branchsig.operations.solve import Solve
from branchsig.operations.stages import stage_for
from branchsig.spec import Execution, Spec
from branchsig.static_kernels import is_built_in

__all__ = ["lend", "lent_gradients", "lent_value", "make_ready", "ready_for"]

_MOST = 256
"""Number of calls that are kept."""

_DOUBLE, _SINGLE = np.dtype(np.float64), np.dtype(np.float32)

_Key = tuple[int, int, tuple[int, ...], tuple[int, ...], bool]
_met: dict[_Key, tuple[Spec, Execution]] = {}
"""Calls that were made once. Some never come again, such as those with a parameter that changes from call to call."""

_kept: dict[_Key, tuple[Spec, Execution, Any, Any]] = {}
"""By the identities of spec and execution, which are kept so that no other objects have them, the shapes of the paths
and whether they are float64: the backend, and what it has ready, which may be nothing."""

_lending: dict[type, Any] = {}
"""Types of arrays that a framework has lent, with the file of the framework; see `branchsig.frameworks._binding`."""

_changing = threading.Lock()


def ready_for(
    spec: Spec, how: Execution, path1: Any, path2: Any, lengths1: Any = None, lengths2: Any = None
) -> Any | None:
    """Return what the backend has ready for a call; None where there is nothing."""
    double = is_plain(path1, _DOUBLE)
    if not (is_plain(path2, _DOUBLE) if double else is_plain(path1, _SINGLE) and is_plain(path2, _SINGLE)):
        return None
    found = _kept.get((id(spec), id(how), path1.shape, path2.shape, double))
    if found is None or lengths1 is not None or lengths2 is not None or found[2] is not serving.get("numpy"):
        return None
    return found[3]


def lend(kind: type, framework: Any) -> None:
    """Let arrays of a type, some of which a framework has lent, be read at once in calls that come again."""
    _lending[kind] = framework


def lent_value(
    spec: Spec, how: Execution, path1: Any, path2: Any, lengths1: Any = None, lengths2: Any = None
) -> Any | None:
    """Return the value of paths that are lent, by what is ready for them; None where nothing is."""
    found = _for_lent(spec, how, path1, path2, lengths1, lengths2)
    if found is None:
        return None
    framework, ready, array1, array2 = found
    value = ready.values(array1, array2)
    return None if value is None else framework.given_back(value, path1)


def lent_gradients(
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
    """Return the gradients likewise, for derivatives that are lent."""
    found = _for_lent(spec, how, path1, path2, lengths1, lengths2) if type(derivs) is type(path1) else None
    if found is None:
        return None
    framework, ready, array1, array2 = found
    gradients = ready.gradients(framework.lent(derivs), array1, array2, left, right)
    if gradients is None:
        return None
    return tuple(None if gradient is None else framework.given_back(gradient, path1) for gradient in gradients)


def _for_lent(
    spec: Spec, how: Execution, path1: Any, path2: Any, lengths1: Any, lengths2: Any
) -> tuple[Any, Any, Any, Any] | None:
    """What lends the paths, what is ready for them, and the arrays that are lent; None where nothing is."""
    framework = _lending.get(type(path1))
    if framework is None or type(path2) is not type(path1):
        return None
    array1 = framework.lent(path1)
    if array1 is None:
        return None
    array2 = array1 if path2 is path1 else framework.lent(path2)
    ready = ready_for(spec, how, array1, array2, lengths1, lengths2)
    return None if ready is None else (framework, ready, array1, array2)


def make_ready(job: Job, path1: Any, path2: Any) -> None:
    """Make ready for calls like this one, which has been checked, if it is one of those and has been made before."""
    solve = _solve_of(job)
    if type(path1) is not np.ndarray or type(path2) is not np.ndarray or solve is None:
        return
    spec, how, problem = job.spec, job.how, job.problem
    backend = backend_for(problem)
    key = id(spec), id(how), path1.shape, path2.shape, problem.path1.dtype == _DOUBLE
    with _changing:
        found = _kept.get(key)
        if found is not None and found[2] is backend:
            return
        if _met.pop(key, None) is None:
            if len(_met) >= _MOST:
                del _met[next(iter(_met))]
            _met[key] = spec, how
            return
    make = getattr(backend, "ready", None)
    with np.errstate(all="ignore"):
        ready = None if make is None else make(problem, job.batch, log=solve.output == "log")
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
    )
    return stage if plain else None
