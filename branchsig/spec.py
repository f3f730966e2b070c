"""The options of the public functions as two values: what is computed, and how.

A `Spec` says what is computed and determines the result; an `Execution` says how, and never changes a value. Both are
frozen, hashable, comparable and picklable, so they can serve as keys. Their constructors make every check that needs no
array, including those of options that exclude each other. Paths and their lengths are operands and are passed
separately.

A public function passes its options to `options_of`, which caches both values for later calls with the same options.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from branchsig import _validation
from branchsig._arrays import is_compiling, specialized
from branchsig._validation import Progress
from branchsig.quadrature import TRAPEZOID, Quadrature
from branchsig.static_kernels import LINEAR, StaticKernel, is_built_in

__all__ = ["Execution", "Spec", "Transforms", "Truncation", "options_of", "with_kernel"]

_KEPT = 256
"""Number of cached specs."""


class _Value:
    """A frozen value whose `repr` shows the fields that differ from their defaults and evaluates to an equal value."""

    __slots__ = ()

    def __repr__(self) -> str:
        fields = [(field, getattr(self, field.name)) for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        shown = [f"{field.name}={value!r}" for field, value in fields if value != field.default]
        return f"{type(self).__name__}({', '.join(shown)})"

    def _set(self, **checked: Any) -> None:
        """Set fields to their checked values."""
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Truncation(_Value):
    """The forests that a kernel sums over: bounded by depth, by number of nodes, by both, or by neither.

    Parameters
    ----------
    depth : int or math.inf, default: math.inf
        Largest depth of the trees; `math.inf` for no bound. A depth of at least `order` is stored as `math.inf`, since
        no forest is deeper than its number of nodes.
    order : int, optional
        Largest number of nodes of a forest; None for no bound.
    """

    depth: float = math.inf
    order: int | None = None

    def __post_init__(self) -> None:
        depth, order = _validation.depth(self.depth), _validation.order(self.order)
        if order is not None and depth >= order:
            depth = math.inf
        self._set(depth=depth, order=order)


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Transforms(_Value):
    """Transformations of paths before their kernels are computed; true if there is any.

    With `times` the last input channel holds the times of the points.
    """

    time_aug: bool = False
    lead_lag: bool = False
    end_time: float = 1.0
    base_point: bool = False
    times: bool = False

    def __post_init__(self) -> None:
        self._set(
            time_aug=_validation.flag(self.time_aug, "time_aug"),
            lead_lag=_validation.flag(self.lead_lag, "lead_lag"),
            end_time=_validation.end_time(self.end_time),
            base_point=_validation.flag(self.base_point, "base_point"),
            times=_validation.flag(self.times, "times"),
        )
        _validation.end_time_is_used(self.end_time, self.time_aug)
        if self.times and self.time_aug:
            raise ValueError("times=True with time_aug=True: a path has one time channel. Leave one of them out")

    def __bool__(self) -> bool:
        return self.time_aug or self.lead_lag or self.base_point


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Spec(_Value):
    """What is computed. Fields have the names, meanings and defaults of the options of the public functions.

    `target`, `room` and `method` are those of `dilation`, `lam` and `unbiased` those of scores and discrepancies.

    A spec is hashable if its static kernel is, and equal to another spec if all fields are equal.
    """

    truncation: Truncation
    dyadic_order: tuple[int, int] = (0, 0)
    static_kernel: StaticKernel = LINEAR
    quadrature: Quadrature = TRAPEZOID
    transforms: Transforms = Transforms()
    normalize: bool | str = False
    return_grid: bool = False
    return_levels: bool = False
    log: bool = False
    rtol: float | None = None
    target: float = 1.0
    room: float = 9.0
    method: str = "solve"
    lam: float = 1.0
    unbiased: bool = True
    planar: bool = False

    def __post_init__(self) -> None:
        for name, wanted in (("truncation", Truncation), ("transforms", Transforms)):
            if not isinstance(getattr(self, name), wanted):
                raise TypeError(f"{name} is {getattr(self, name)!r}: expected a {wanted.__name__}")
        self._set(
            dyadic_order=_validation.dyadic_order(self.dyadic_order),
            static_kernel=_validation.static_kernel(self.static_kernel),
            quadrature=_validation.quadrature(self.quadrature),
            normalize=_validation.normalize(self.normalize),
            return_grid=_validation.flag(self.return_grid, "return_grid"),
            return_levels=_validation.flag(self.return_levels, "return_levels"),
            log=_validation.flag(self.log, "log"),
            rtol=_validation.rtol(self.rtol),
            target=_validation.target(self.target),
            room=_validation.room(self.room),
            method=_validation.method(self.method),
            lam=_validation.lam(self.lam),
            unbiased=_validation.flag(self.unbiased, "unbiased"),
            planar=_validation.flag(self.planar, "planar"),
        )
        self._check_together()

    @property
    def signed(self) -> bool:
        """Whether the kernel need not be positive."""
        return self.planar or self.truncation.order is not None

    def _check_together(self) -> None:
        """Check the options that exclude or need each other."""
        if self.return_levels:
            if self.truncation.order is None:
                raise ValueError("return_levels=True without order: give the largest number of nodes, such as order=4")
            if self.log or self.normalize is True:
                raise ValueError(
                    "return_levels=True with log or normalize=True: the components are those of the plain kernel. "
                    "Leave one out"
                )
        if self.rtol is not None and self.quadrature is not TRAPEZOID:
            raise ValueError(
                f"rtol is {self.rtol:g} and quadrature is {self.quadrature!r}: rtol chooses the rule. Leave one out"
            )
        if self.planar and self.room != 9.0:
            raise ValueError(
                f"planar=True with room={self.room:g}: over ordered forests every prefix keeps the bound of the whole "
                "path. Leave room out"
            )
        if self.planar and self.truncation.order is None:
            self._check_planar()
        if self.normalize is True and self.return_grid:
            raise ValueError(
                "normalize=True with return_grid=True: only the value at the end of both paths can be normalized. "
                "Leave return_grid out, or take the grid without normalize"
            )

    def _check_planar(self) -> None:
        """Check the options of ordered forests that are bounded by depth alone."""
        # The guard of dilation needs no truncation.
        if self.truncation.depth == math.inf and self.method != "guard":
            raise ValueError(
                "planar=True with depth=math.inf: ordered forests need a bound. Give a finite depth, such as depth=3, "
                "or the largest number of nodes, such as order=4"
            )
        if self.quadrature.p > 1:
            raise ValueError(
                f"planar=True with quadrature={self.quadrature!r}: ordered forests by depth have the rules Trapezoid() "
                "and LeftPoint(). Use one of these with a higher dyadic_order, or bound the number of nodes too, such "
                "as order=4"
            )
        if self.rtol is not None:
            raise ValueError(
                f"planar=True with rtol={self.rtol:g}: a tolerance chooses Gauss-Lobatto rules, which ordered forests "
                "by depth do not have. Use a higher dyadic_order, or bound the number of nodes too, such as order=4"
            )


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Execution(_Value):
    """How it is computed. Fields have the names, meanings and defaults of the options of the public functions.

    `n_jobs` is stored as given; it is resolved to a number of threads when a problem is created.
    """

    n_jobs: int = 1
    max_batch: int = -1
    devices: tuple[int, ...] | None = None
    progress: Progress = False
    check_finite: bool | None = None

    def __post_init__(self) -> None:
        self._set(
            n_jobs=_validation.n_jobs(self.n_jobs),
            max_batch=_validation.max_batch(self.max_batch),
            devices=_validation.devices(self.devices),
            progress=_validation.progress(self.progress),
            check_finite=_validation.check_finite(self.check_finite),
        )


def options_of(
    depth: Any,
    dyadic_order: Any,
    static_kernel: Any,
    time_aug: Any,
    lead_lag: Any,
    end_time: Any,
    n_jobs: Any,
    quadrature: Any,
    order: Any = None,
    normalize: Any = False,
    check_finite: Any = None,
    return_grid: Any = False,
    log: Any = False,
    return_levels: Any = False,
    rtol: Any = None,
    max_batch: Any = -1,
    progress: Any = False,
    devices: Any = None,
    target: Any = 1.0,
    room: Any = 9.0,
    method: Any = "solve",
    lam: Any = 1.0,
    unbiased: Any = True,
    base_point: Any = False,
    planar: Any = False,
) -> tuple[Spec, Execution]:
    """Check the options of a public function, and return what is computed and how.

    Raises
    ------
    TypeError
        If an option is not of the type it must have.
    ValueError
        If an option is out of range, or two of them exclude each other.
    """
    if type(dyadic_order) is not int:
        dyadic_order = _validation.dyadic_order(dyadic_order)
    if devices is not None:
        devices = _validation.devices(devices)
    # Custom kernels are not cached: two of them may compare equal and yet differ, and the cache would keep them alive.
    # Nor are kernels whose parameters are arrays, which may be modified.
    custom = (
        static_kernel is not None
        and (not is_built_in(static_kernel) or static_kernel.holds_arrays)
        and isinstance(static_kernel, StaticKernel)
    )
    arguments = (
        depth,
        dyadic_order,
        None if custom else static_kernel,
        time_aug,
        lead_lag,
        end_time,
        n_jobs,
        quadrature,
        order,
        normalize,
        check_finite,
        return_grid,
        log,
        return_levels,
        rtol,
        max_batch,
        progress,
        devices,
        target,
        room,
        method,
        lam,
        unbiased,
        base_point,
        planar,
    )
    if is_compiling():
        numbers = (specialized(value) if type(value) in (int, float) else value for value in arguments)
        spec, how = _checked(*numbers)
        return (with_kernel(spec, static_kernel) if custom else spec), how
    try:
        spec, how = _kept(*arguments)
    except TypeError:  # not cacheable, not hashable, or invalid, which raises again
        spec, how = _checked(*arguments)
    return (with_kernel(spec, static_kernel) if custom else spec), how


def with_kernel(spec: Spec, kernel: StaticKernel) -> Spec:
    """Copy a spec with another static kernel, without repeating the checks."""
    result, write = object.__new__(Spec), object.__setattr__
    for name in _FIELDS:
        write(result, name, kernel if name == "static_kernel" else getattr(spec, name))
    return result


_FIELDS = tuple(field.name for field in dataclasses.fields(Spec))


def _checked(
    depth: Any,
    dyadic_order: Any,
    static_kernel: Any,
    time_aug: Any,
    lead_lag: Any,
    end_time: Any,
    n_jobs: Any,
    quadrature: Any,
    order: Any,
    normalize: Any,
    check_finite: Any,
    return_grid: Any,
    log: Any,
    return_levels: Any,
    rtol: Any,
    max_batch: Any,
    progress: Any,
    devices: Any,
    target: Any,
    room: Any,
    method: Any,
    lam: Any,
    unbiased: Any,
    base_point: Any,
    planar: Any,
) -> tuple[Spec, Execution]:
    spec = Spec(
        Truncation(_bound_by_order(order) if depth is None else depth, order),
        dyadic_order,
        static_kernel,
        quadrature,
        Transforms(time_aug, lead_lag, end_time, base_point),
        normalize,
        return_grid,
        return_levels,
        log,
        rtol,
        target,
        room,
        method,
        lam,
        unbiased,
        planar,
    )
    return spec, Execution(n_jobs, max_batch, devices, progress, check_finite)


def _bound_by_order(order: Any) -> float:
    """The depth if none is given: `math.inf`, which requires an order."""
    if order is None:
        raise TypeError(
            "depth is None: expected an integer >= 0 or math.inf, the largest depth of the trees, such as depth=3; or "
            "give order instead, the largest number of nodes of a forest, such as order=4"
        )
    return math.inf


_PLAIN = frozenset({int, float, bool, str, tuple, type(None)})
"""Immutable types whose values are equal only if they mean the same. Tuples have been checked before."""


@functools.lru_cache(maxsize=_KEPT, typed=True)  # typed: 1 == True, but 1 is not a valid flag
def _kept(*arguments: Any) -> tuple[Spec, Execution]:
    """Cached form of `_checked`.

    Raises TypeError for arguments that must not be cached: arrays that act as integers, since they may be modified, and
    functions of the caller, which the cache would keep alive.
    """
    for value in arguments:
        if not (type(value) in _PLAIN or isinstance(value, (np.generic, Quadrature)) or is_built_in(value)):
            raise TypeError
    return _checked(*arguments)
