"""The options that the public functions share: their names, types, defaults, checks and documentation, each in one
place.

A function takes them as ``**options`` and hands them to `gather`; the decorator `public` writes them into its signature
and its docstring. A new option is a field of `Settings`, a key of `PathOptions` or `KernelOptions`, a check and a
paragraph here.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import re
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any, TypedDict, TypeVar

from branchsig import _validation
from branchsig.quadrature import TRAPEZOID, Quadrature
from branchsig.static_kernels import LINEAR, StaticKernel

_Function = TypeVar("_Function", bound=Callable[..., Any])


class SolverOptions(TypedDict, total=False):
    """Options of every function that solves for kernels."""

    static_kernel: StaticKernel | None
    time_aug: bool
    lead_lag: bool
    end_time: float
    n_jobs: int | None
    quadrature: Quadrature | str


class DilationOptions(SolverOptions, total=False):
    """Options of `dilation`."""

    order: int | None


class PathOptions(SolverOptions, total=False):
    """Options of the functions of two stacks of paths."""

    lengths1: Any
    lengths2: Any


class KernelOptions(PathOptions, total=False):
    """Options of the functions whose result is a kernel or the gradient of one."""

    return_grid: bool
    normalize: bool | str
    log: bool
    order: int | None
    return_levels: bool
    check_finite: bool | None
    rtol: float | None


class StackOptions(PathOptions, total=False):
    """Options of `branched_sig_kernel_stack`."""

    check_finite: bool | None


class TwoSampleOptions(PathOptions, total=False):
    """Options of the test of two samples, whose normalisation has a default of its own."""

    order: int | None
    check_finite: bool | None


class MetricOptions(PathOptions, total=False):
    """Options of the functions whose result is a mean of kernels."""

    normalize: bool | str
    order: int | None
    check_finite: bool | None


@dataclasses.dataclass(slots=True)
class Settings:
    """Checked options; the defaults are those of the public functions."""

    depth: float
    dyadic_order: tuple[int, int]
    static_kernel: StaticKernel = LINEAR
    time_aug: bool = False
    lead_lag: bool = False
    end_time: float = 1.0
    n_jobs: int = 1
    quadrature: Quadrature = TRAPEZOID
    lengths1: Any = None
    lengths2: Any = None
    return_grid: bool = False
    normalize: bool | str = False
    log: bool = False
    order: int | None = None
    return_levels: bool = False
    check_finite: bool | None = None
    rtol: float | None = None


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "static_kernel": _validation.static_kernel,
    "time_aug": lambda value: _validation.flag(value, "time_aug"),
    "lead_lag": lambda value: _validation.flag(value, "lead_lag"),
    "end_time": _validation.end_time,
    "n_jobs": _validation.n_jobs,
    "quadrature": _validation.quadrature,
    "lengths1": lambda value: value,  # checked against the paths
    "lengths2": lambda value: value,
    "return_grid": lambda value: _validation.flag(value, "return_grid"),
    "normalize": _validation.normalize,
    "log": lambda value: _validation.flag(value, "log"),
    "order": _validation.order,
    "return_levels": lambda value: _validation.flag(value, "return_levels"),
    "check_finite": lambda value: None if value is None else _validation.flag(value, "check_finite"),
    "rtol": _validation.rtol,
}

_DOCUMENTATION = {
    "static_kernel": """\
static_kernel : StaticKernel, optional
    Kernel on the space the paths live in; `None` is the linear kernel.""",
    "time_aug": """\
time_aug : bool, default: False
    Append time as the last channel of the paths, linear from 0 to `end_time`.""",
    "lead_lag": """\
lead_lag : bool, default: False
    Replace the paths by their lead-lag transforms, of ``2 * length - 1`` points and twice the channels,
    before time is appended.""",
    "end_time": """\
end_time : float, default: 1.0
    Time of the last point, in the unit of time of the paths. Only with `time_aug`.""",
    "n_jobs": """\
n_jobs : int or None, default: 1
    Number of threads, as in joblib: -1 for all cores, -2 for all but one, None for 1. The result does not depend on
    it.""",
    "quadrature": """\
quadrature : Quadrature or str, default: "trapezoid"
    The rule for the integral over a sub-cell: `Trapezoid`, `LeftPoint` or `GaussLobatto`, or their names
    ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.""",
    "lengths1": """\
lengths1 : array of int, shape (*batch1,), optional
    Valid lengths of the first paths, where they are padded to one length; see `pad_paths`. What lies behind is never
    read, and its gradient is 0. With `time_aug` time runs from 0 to `end_time` over the valid points. Not beside a
    list of paths, whose lengths are its own.""",
    "lengths2": """\
lengths2 : array of int, shape (*batch2,), optional
    Valid lengths of the second paths. Where the second paths are the first ones, so are their lengths.""",
    "return_grid": """\
return_grid : bool, default: False
    The result is the kernel at every node of the grid, the corners of the sub-cells, instead of the value at the
    end of both paths.""",
    "normalize": """\
normalize : bool or "dilation", default: False
    True: the kernel is ``k(x, y) / sqrt(k(x, x) * k(y, y))``, formed from logarithms; not together with
    `return_grid`. ``"dilation"``: every path is scaled so that the logarithm of its kernel with itself is 1, as by
    `dilation`; then nothing overflows. Neither goes with `k_stack`.""",
    "log": """\
log : bool, default: False
    The result is the logarithm of the kernel, which is finite far beyond the range of the kernel itself.""",
    "order": """\
order : int, optional
    Largest number of nodes of a forest, in the place of a bound on the depth: `depth` is left out, or `math.inf`, or
    at least `order`. On piecewise-linear paths `GaussLobatto` with p of at least ``order - 1`` is exact.""",
    "return_levels": """\
return_levels : bool, default: False
    With `order`, the result is the sums k_0, ..., k_order over the forests with 0, ..., order nodes each, on a
    last axis.""",
    "check_finite": """\
check_finite : bool, optional
    Whether to look if the values are finite and, if they are not, to warn and to name the paths that hold NaN or
    infinities. `None` looks at values on the CPU: for those on a CUDA device the host would have to wait, and lazy or
    traced arrays have none yet. True looks at the paths in any case. With False the axes of the paths of a Gram matrix
    are not warned of either. Gradients are never looked at.""",
    "rtol": """\
rtol : float, optional
    Largest relative error of discretisation, in the place of a rule of `quadrature`: on the paths at hand Gauss-Lobatto
    rules of orders 2, 3, ... are tried until two in a row differ by no more than this, and not by chance. With `log`,
    logarithms below 1 in size may have this error itself; with `return_levels` errors are relative to the largest sum
    of a pair. A gradient is that of the rule found.""",
}


_SHARED = {
    "depth": """\
depth : int or math.inf
    Largest depth of the trees, at least 0; `math.inf` for no bound. May be left out where `order` is given. At depth 1
    the linear static kernel gives ``exp(<x_end - x_0, y_end - y_0>)``.""",
    "dyadic_order": """\
dyadic_order : int or tuple of int, default: 0
    Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells. A
    pair gives the orders along the first and the second path. A further order divides the error by about 4 and
    takes 4 times the time.""",
    "max_batch": """\
max_batch : int, default: -1
    At most ``max_batch**2`` pairs are in flight at a time; -1 leaves the choice to the library.""",
    "progress": """\
progress : bool or callable, default: False
    True shows a bar, through tqdm; a callable is called with (pairs done, pairs in all).""",
    "devices": """\
devices : sequence of int, optional
    The CUDA devices that share the pairs among them, for paths that lie on one. The result lies where the paths do.""",
    "left_deriv": """\
left_deriv : bool, default: True
    Whether to differentiate with respect to the first paths.""",
    "right_deriv": """\
right_deriv : bool, default: False
    Whether to differentiate with respect to the second paths.""",
    "sample1": """\
sample1 : array, shape (*batch1, length1, dimension)
    A sample of paths, all those of the batch, of any library of the array API standard, float32 or float64.""",
    "sample2": """\
sample2 : array, shape (*batch2, length2, dimension)
    Another sample, with the library, dtype, device and dimension of the first.""",
    "unbiased": """\
unbiased : bool, default: True
    Leave the kernels of paths with themselves out of the means over pairs of one sample.""",
    "errors": """\
TypeError
    If an argument is not of the type it must have; the message says what to do.
ValueError
    If an argument has a shape or value it must not have, or two options exclude each other.""",
}
"""Paragraphs that stand in several docstrings beside those of the options."""

_SHOWN = {"static_kernel": None, "quadrature": "trapezoid"}
"""Defaults of the signatures that are not those of the settings."""


def gather(depth: Any, dyadic_order: Any, options: Mapping[str, Any], accepted: type = KernelOptions) -> Settings:
    """Check depth, dyadic order and options, and return them as settings.

    Raises
    ------
    TypeError
        If an option has no such name, or not the type it must have.
    ValueError
        If an option is out of range, or two of them exclude each other.
    """
    if depth is None and "order" in accepted.__annotations__:
        depth = _bound_by_order(options)
    settings = Settings(_validation.depth(depth), _validation.dyadic_order(dyadic_order))
    if options:
        names = accepted.__annotations__
        for name, value in options.items():
            if name not in names:
                raise TypeError(_unexpected(name, _accepted_by_the_caller() or list(names)))
            setattr(settings, name, _CHECKS[name](value))
        _check_together(settings)
    return settings


def _bound_by_order(options: Mapping[str, Any]) -> float:
    """The depth where it is left out: none is needed beside an order."""
    if options.get("order") is None:
        raise TypeError(
            "depth is None: expected an integer >= 0 or math.inf, the largest depth of the trees, such as depth=3, or "
            "in its place order, the largest number of nodes of a forest, such as order=4"
        )
    return math.inf


def _check_together(settings: Settings) -> None:
    """Check the options that exclude or need each other."""
    _validation.end_time_is_used(settings.end_time, settings.time_aug)
    if settings.order is None:
        if settings.return_levels:
            raise ValueError("return_levels=True without order: give the largest number of nodes, such as order=4")
    elif settings.depth < settings.order:
        raise ValueError(
            f"depth is {settings.depth} and order is {settings.order}: trees of {settings.order} nodes may be as deep "
            "as that; give depth=math.inf, or a depth of at least the order"
        )
    if settings.return_levels and (settings.log or settings.normalize is True):
        raise ValueError(
            "return_levels=True with log or normalize=True: the parts are those of the kernel itself. Leave one out"
        )
    if settings.rtol is not None and settings.quadrature is not TRAPEZOID:
        raise ValueError(
            f"rtol is {settings.rtol:g} and quadrature is {settings.quadrature!r}: a tolerance finds the rule by "
            "itself. Leave one out"
        )
    if settings.normalize is True and settings.return_grid:
        raise ValueError(
            "normalize=True with return_grid=True: only the value at the end of both paths is normalized. "
            "Leave return_grid out, or take the grid without normalize"
        )


_ACCEPTED: dict[CodeType, list[str]] = {}
"""All keywords of every public function, by its code."""


def _accepted_by_the_caller() -> list[str] | None:
    """The keywords of the public function that is being called, those of its own among them."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code in _ACCEPTED:
            return _ACCEPTED[frame.f_code]
        frame = frame.f_back
    return None


def _unexpected(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unexpected keyword argument {name!r}: expected one of {', '.join(names)}{hint}"


def public(accepted: type) -> Callable[[_Function], _Function]:
    """Write the options a function accepts into its signature and its docstring.

    There the line ``<options>`` stands for the paragraphs of the options, and ``<depth>`` and the like for shared ones.
    """

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        positional = [p for p in own if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
        shared = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_SHOWN.get(name, defaults[name]),
                annotation=annotation.__forward_arg__ if hasattr(annotation, "__forward_arg__") else annotation,
            )
            for name, annotation in accepted.__annotations__.items()
        ]
        keywords = [p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
        _ACCEPTED[function.__code__] = [p.name for p in (*shared, *keywords)]
        function.__signature__ = signature.replace(parameters=[*positional, *shared, *keywords])  # type: ignore[attr-defined]
        if function.__doc__:
            paragraphs = {**_SHARED, "options": "\n".join(_DOCUMENTATION[name] for name in accepted.__annotations__)}
            text = inspect.cleandoc(function.__doc__)
            function.__doc__ = re.sub(r"^<(\w+)>$", lambda line: paragraphs[line[1]], text, flags=re.MULTILINE)
        return function

    return decorate
