"""Operations as calls on plain arrays, for frameworks, and the framework that the operands of a call belong to.

A `Call` is one direction of one operation with all its options, but without the values of its operands: plain arrays go
in, plain arrays come out, and shapes and dtypes of the latter are known without data. It has a text, from which another
process reads the same call. A framework wraps calls, and never looks into them.

The file of a framework has these functions:

claims(array)
    Whether it differentiates, traces or defers what is done with an array: then it runs the call. `LENT` where NumPy
    can read the array in place; where that is so of all arrays, the operation runs on arrays of NumPy. What
    `torch.compile` traces is claimed without asking.
serves(call, arrays)
    Whether it runs this call of operands. If not, they go on like any other arrays.
run(call, arrays)
    The results of a call as arrays of the framework, from operands some of which it claims. Others may be arrays of
    NumPy, and parameters may be numbers. Results of the directions "value" and "forward" can be differentiated with
    respect to the operands; what is kept cannot.
in_numpy(array)
    An array that is lent as one of NumPy, which shares its memory; for frameworks that lend any.
lent(array)
    The same of an array of a type that has been lent before, and None where it is not lent; likewise. None in the place
    of the function where arrays have shapes and dtypes of NumPy, and hand out their memory as a buffer.
given_back(result, like)
    An array of NumPy as one of the framework, where `like` lies; for frameworks that lend any.
TAKES_NUMPY
    Whether paths may be arrays of NumPy beside others that are lent.
joined(paths, times)
    Paths with times as their last channel; for frameworks whose arrays have no namespace of the array API.
summed(array, axes)
    The sum along some axes, likewise.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from branchsig import quadrature, static_kernels
from branchsig._arrays import Array, as_like, as_number, as_numpy, from_numpy, is_compiling, namespace_of
from branchsig.backends import Wrt
from branchsig.operations import OPERATIONS, Operation, Shape
from branchsig.operations.ready import lend
from branchsig.spec import Execution, Spec, Transforms, Truncation, with_kernel
from branchsig.static_kernels import StaticKernel, is_built_in, with_numbers
from branchsig.static_kernels.base import with_parameters

__all__ = ["LENT", "Bound", "Call", "bound", "offered", "stand_in"]

_NOTHING = Wrt()

Direction = Literal["value", "forward", "backward", "backprop"]


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One direction of an operation, as a function of plain arrays.

    ``call(*arrays)`` returns a list of arrays. In this order it takes the paths, those of a list one by one, valid
    lengths, and the parameters of the static kernel, 0-d arrays; these are the operands. By direction:

    "value"
        operands -> value
    "forward"
        operands -> value, and what a backward needs
    "backward"
        derivatives of the value, operands, what the forward kept -> gradients
    "backprop"
        derivatives of the value, operands -> gradients

    Gradients are those that `wrt` asks for, each of the shape and dtype of the operand that `places` names.

    Calls are equal where they do the same. ``Call.read(call.text)`` is an equal call, in this and in other processes.
    """

    operation: str
    """Name of the operation in the registry."""
    direction: Direction
    spec: Spec
    """What is computed. The parameters of its static kernel are placeholders: they are operands."""
    how: Execution
    given: tuple[str | int | None, ...]
    """How each operand of the operation is given: as an "array", as the "first" operand once more, as a list of so many
    arrays, or not at all."""
    wrt: Wrt = _NOTHING
    """Whether gradients are asked for, with respect to the first paths, the second paths and the parameters."""
    axes: int = 0
    """Number of leading axes, of all arrays, that the call is repeated along. An array that is the same all along one
    has size 1 there."""
    _found: _Layout | None = dataclasses.field(default=None, init=False, repr=False, compare=False)
    """Where the operands stand, once somebody has asked."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters of the static kernel that are operands: all, but none of a kernel of the user's."""
        return _parameters(self._operation, self.spec.static_kernel)

    @property
    def operands(self) -> int:
        """Number of operands."""
        return self._layout.operands

    @property
    def paths(self) -> int:
        """Number of operands that are paths: the first ones."""
        return len(self._layout.differentiable) - len(self.parameters)

    @property
    def places(self) -> tuple[int, ...]:
        """For each gradient the operand it belongs to. One that stands in two places has two gradients."""
        found: tuple[int, ...] = ()
        for places, asked in zip(self._layout.gradients, self.wrt):
            if asked:
                found += places
        return found

    def differentiable(self) -> tuple[int, ...]:
        """Return the operands that have gradients: the paths, and the parameters."""
        return self._layout.differentiable

    def towards(self, direction: Direction, needed: Sequence[int] | None = None) -> Call:
        """Return the call of another direction, with the gradients that are needed, by default all there are."""
        wrt = _NOTHING
        if direction in ("backward", "backprop"):
            gradients = self._layout.gradients
            wrt = Wrt(*(bool(places) if needed is None else not _disjoint(places, needed) for places in gradients))
        return Call(self.operation, direction, self.spec, self.how, self.given, wrt, self.axes)

    @property
    def _paths(self) -> tuple[str | int | None, ...]:
        return self.given[: self._operation.sides]

    @property
    def _operation(self) -> Operation:
        return OPERATIONS[self.operation]

    @property
    def _layout(self) -> _Layout:
        found = self._found
        if found is None:
            compiling = is_compiling()
            layout = _layout_of if compiling else _kept_layout_of
            found = layout(self.given, self._operation.sides, len(self.parameters))
            if not compiling:
                object.__setattr__(self, "_found", found)
        return found

    @property
    def text(self) -> str:
        """The call as a text, equal for equal calls: a key, and what goes to other processes in its place.

        A static kernel of the user's own has no text. One that only this process knows stands for it, and keeps it
        alive.
        """
        how = dataclasses.replace(self.how, progress=False)
        spec = self.spec
        if not is_built_in(spec.static_kernel):
            spec = with_kernel(spec, _Own.of(spec.static_kernel))
        return _written(dataclasses.replace(self, how=how, spec=spec))

    @staticmethod
    @functools.lru_cache(maxsize=4096)
    def read(text: str) -> Call:
        """Return the call of a text.

        Raises
        ------
        RuntimeError
            If the text was made in another process and its static kernel is one of the user's own.
        """
        call: Call = _read(ast.parse(text, mode="eval").body)
        if isinstance(call.spec.static_kernel, _Own):
            call = dataclasses.replace(call, spec=with_kernel(call.spec, call.spec.static_kernel.kernel()))
        return call

    def result(self, *arrays: Shape) -> list[Shape]:
        """Return shapes and dtypes of what the call returns, for arrays of these shapes and dtypes, and check those.

        Raises
        ------
        ValueError, TypeError
            As the operation raises them, in the words of its arguments.
        """
        lead = np.broadcast_shapes(*(array.shape[: self.axes] for array in arrays)) if self.axes else ()
        alone = [Shape(array.shape[self.axes :], array.dtype) for array in arrays]
        operands = self.taken(alone if self.direction in ("value", "forward") else alone[1:])
        self._check(operands)
        if self.direction in ("backward", "backprop"):
            found = [alone[1 + place] for place in self.places]
        else:
            result = self._operation.result(self.spec, *_stacked(operands))
            found = [result.value]
            if self.direction == "forward":
                found += [result.kept[name] for name in sorted(result.kept)]
        return [Shape(tuple(lead) + shape.shape, shape.dtype) for shape in found]

    def _check(self, operands: list[Any]) -> None:
        """Check operands without data, as those with data are: by arrays that nobody has written to."""

        names, sides = self._operation.operands, len(self._paths)

        def made(operand: Any, name: str, fill: int) -> Any:
            if isinstance(operand, list):
                return [made(one, f"{name}[{k}]", fill) for k, one in enumerate(operand)]
            if operand is None:
                return None
            try:
                dtype = np.dtype(operand.dtype)
            except TypeError:
                wanted = "integers" if fill else "float32 or float64; convert it to one of them"
                raise TypeError(f"{name} has dtype {operand.dtype}: expected {wanted}") from None
            return np.ones(operand.shape, dtype) if fill else np.zeros(operand.shape, dtype)

        dummies = [made(operand, name, int(k >= sides)) for k, (operand, name) in enumerate(zip(operands, names))]
        if self.given[1:2] == ("first",):
            dummies[1] = dummies[0]
        self._operation.prepare(self.spec, self.how, *dummies)

    def __call__(self, *arrays: Array) -> list[Array]:
        """Return the results for these arrays."""
        if not self.axes:
            return self._run(arrays)
        lead = np.broadcast_shapes(*(array.shape[: self.axes] for array in arrays))
        if 0 in lead:
            shapes = self.result(*(_shape(array) for array in arrays))
            return [_handed_out(np.zeros(shape.shape, shape.dtype), arrays[0]) for shape in shapes]
        if self._is_batch(arrays):
            return self._run_batch(lead, arrays)
        runs = [self._run([_at(array, index) for array in arrays]) for index in np.ndindex(*lead)]
        results = []
        for some in zip(*runs, strict=True):
            xp = namespace_of(some[0])
            stacked = xp.stack([np.asarray(one) if isinstance(one, np.generic) else one for one in some])
            results.append(xp.reshape(stacked, tuple(lead) + tuple(stacked.shape[1:])))
        return results

    def _is_batch(self, arrays: Sequence[Array]) -> bool:
        """Whether repetitions are no more than a larger batch of paths."""
        count = len(self.parameters)
        operands = arrays if self.direction in ("value", "forward") else arrays[1 : 1 + self.operands]
        parameters = operands[len(operands) - count :] if count else ()
        return (
            self._operation.apart
            and self.spec.rtol is None
            and not self.wrt[2]
            and all(not isinstance(entry, int) for entry in self.given)
            and all(math.prod(parameter.shape) == 1 for parameter in parameters)
        )

    def _run_batch(self, lead: tuple[int, ...], arrays: Sequence[Array]) -> list[Array]:
        """Run one call in the place of all repetitions."""
        axes, count = self.axes, len(self.parameters)
        last = 1 + self.operands if self.direction in ("backward", "backprop") else len(arrays)
        full = []
        for k, array in enumerate(arrays):
            if last - count <= k < last:
                full.append(array.reshape(()))
                continue
            whole = namespace_of(array).broadcast_to(array, lead + tuple(array.shape[axes:]))
            if k >= last:  # what was kept has one axis of paths or pairs
                whole = whole.reshape((math.prod(whole.shape[: axes + 1]), *whole.shape[axes + 1 :]))
            full.append(whole)
        alone = dataclasses.replace(self, axes=0)
        results = alone._run(full)
        if self.direction != "forward":
            return results
        kept = [k.reshape((*lead, k.shape[0] // math.prod(lead), *k.shape[1:])) for k in results[1:]]
        return [results[0], *kept]

    def _run(self, arrays: Sequence[Array]) -> list[Array]:
        operation, like = self._operation, arrays[0]
        if self.direction in ("value", "forward"):
            operands, spec = self.taken(arrays), self.spec_with(arrays)
            if self._may_be_ready(operands):
                return [operation.value(spec, self.how, *operands)]
            job = operation.prepare(spec, self.how, *operands)
            value, kept = operation.forward(job, keep=self.direction == "forward")
            if self.direction == "value":
                return [value]
            return [value, *(_handed_out(kept[name], like) for name in sorted(kept))]
        derivs, flat = arrays[0], arrays[1 : 1 + self.operands]
        operands, spec, wrt = self.taken(flat), self.spec_with(flat), self.wrt
        ready = self._may_be_ready((derivs, *operands))
        if ready:
            derivs = np.asarray(derivs, order="C")  # those of a sum are one number in memory
        if ready or self.direction == "backprop":
            left, right, of_parameters = wrt
            found = operation.backprop(
                derivs, spec, self.how, *operands, left_deriv=left, right_deriv=right, param_deriv=of_parameters
            )
        else:
            job = operation.prepare(spec, self.how, *operands)
            kept = {}
            if len(arrays) > 1 + self.operands:
                names = sorted(operation.result(spec, *_stacked(self.taken([_shape(one) for one in flat]))).kept)
                handed_out = zip(names, arrays[1 + self.operands :], strict=True)
                kept = {name: _taken_back(array, job.problem.path1) for name, array in handed_out}
            found = operation.pull_back(job, kept, operation.derivs(job, derivs), wrt)
        return list(self._flat(found, flat))

    def _may_be_ready(self, operands: Sequence[Any]) -> bool:
        """Whether the backend may have something ready for the operands, and a forward keeps nothing for a backward."""
        operation = self._operation
        plain = operation.made_ready and _NOT_CLAIMED.issuperset(map(type, operands))
        return plain and self.how.progress is False and not operation.keeps(self.spec)

    def _flat(self, found: Any, operands: Sequence[Array]) -> Iterator[Array]:
        """Gradients in the form of the operands as a list."""
        sides, places = self._operation.sides, iter(self.places)
        found = found if isinstance(found, tuple) else (found,)
        for asked, gradient in zip(self.wrt[:sides], found):
            if asked:
                listed = gradient if isinstance(gradient, list) else [gradient]
                for one in listed:
                    next(places)
                    yield one
        if self.wrt[2]:
            for name in self.parameters:
                yield as_like(found[sides][name], operands[next(places)])

    def taken(self, arrays: Sequence[Any]) -> list[Any]:
        """The operands of the operation from a flat sequence."""
        rest = iter(arrays)
        operands: list[Any] = []
        for entry in self.given:
            if entry is None:
                operands.append(None)
            elif entry == "first":
                operands.append(operands[0])
            elif entry == "array":
                operands.append(next(rest))
            else:
                operands.append([next(rest) for _ in range(int(entry))])
        return operands

    def spec_with(self, operands: Sequence[Array]) -> Spec:
        """The spec with the values of the parameters."""
        names = self.parameters
        if not names:
            return self.spec
        values = [as_number(value) for value in operands[self.operands - len(names) : self.operands]]
        return _spec_with(self.spec, names, tuple(values))


@functools.lru_cache(maxsize=256)  # the same spec for the same values, by which calls that come again are known
def _spec_with(spec: Spec, names: tuple[str, ...], values: tuple[float, ...]) -> Spec:
    return with_kernel(spec, with_parameters(spec.static_kernel, **dict(zip(names, values))))


class _Layout(NamedTuple):
    """Where the operands of a call stand in a flat list."""

    operands: int
    """Their number."""
    gradients: tuple[tuple[int, ...], ...]
    """Places of the first paths, the second paths, and the parameters."""
    differentiable: tuple[int, ...]


def _layout_of(given: tuple[str | int | None, ...], sides: int, parameters: int) -> _Layout:
    counts = [_count(entry) for entry in given]
    operands, n1, paths = sum(counts) + parameters, counts[0], sum(counts[:sides])
    first = tuple(range(n1))
    second = first if given[1:sides] == ("first",) else tuple(range(n1, paths))
    last = tuple(range(operands - parameters, operands))
    return _Layout(operands, (first, second, last), (*range(paths), *last))


_kept_layout_of = functools.lru_cache(maxsize=1024)(_layout_of)


def _disjoint(some: tuple[int, ...], others: Sequence[int]) -> bool:
    return not any(place in others for place in some)


def _parameters(operation: Operation, kernel: StaticKernel) -> tuple[str, ...]:
    return kernel.parameters or () if operation.parametric and is_built_in(kernel) else ()


def _count(entry: str | int | None) -> int:
    """How many arrays an operand is given by."""
    return entry if isinstance(entry, int) else int(entry == "array")


def _stacked(operands: list[Any]) -> list[Shape | None]:
    """Shapes of operands, those of a list as that of one padded stack."""

    def of_list(paths: list[Shape]) -> Shape:
        longest = max(path.shape[0] for path in paths)
        return Shape((len(paths), longest, *paths[0].shape[1:]), paths[0].dtype)

    stacks = {id(operand): of_list(operand) for operand in operands if isinstance(operand, list)}
    return [stacks.get(id(operand), operand) for operand in operands]


def _shape(array: Array | float) -> Shape:
    if isinstance(array, float):
        return Shape(())
    return Shape(tuple(array.shape), str(array.dtype).rpartition(".")[2])


def _at(array: Array, index: tuple[int, ...]) -> Array:
    """One repetition of an array, which has size 1 along axes where it is the same for all."""
    return array[tuple(min(place, size - 1) for place, size in zip(index, array.shape))]


def _handed_out(array: Array, like: Array) -> Array:
    """What NumPy computed in the library of the operands."""
    if not isinstance(array, np.ndarray | np.generic) or isinstance(like, np.ndarray | np.generic):
        return array
    return from_numpy(np.asarray(array), like)


def _taken_back(array: Array, like: Array) -> Array:
    """What was handed out as NumPy goes on with it."""
    here = as_numpy(array) if isinstance(like, np.ndarray) else None
    return array if here is None else here


_CONSTRUCTORS: dict[str, Any] = {
    constructor.__name__: constructor
    for constructor in (
        Call,
        Spec,
        Execution,
        Transforms,
        Truncation,
        Wrt,
        *(getattr(module, name) for module in (quadrature, static_kernels) for name in module.__all__),
    )
    if isinstance(constructor, type)
}


def _written(value: Any) -> str:
    """Return a text that `_read` takes back. It holds what differs from the defaults.

    `torch.compile` follows this code, but not that of `repr`, of `dataclasses.fields` and the like.
    """
    kind = type(value)
    if kind not in _DEFAULTS:
        return repr(value)
    shown = [(name, _written(getattr(value, name)), default) for name, default in _DEFAULTS[kind]]
    return f"{kind.__name__}({', '.join([f'{name}={text}' for name, text, default in shown if text != default])})"


def _defaults_of(kind: Any) -> tuple[tuple[str, str | None], ...]:
    """Names of the arguments of a constructor, with the texts of their defaults."""
    names, defaults = kind.__match_args__, kind.__init__.__defaults__ or ()
    texts = [None] * (len(names) - len(defaults)) + [_written(default) for default in defaults]
    return tuple(zip(names, texts, strict=True))


_DEFAULTS: dict[type, tuple[tuple[str, str | None], ...]] = {}


def _read(node: ast.expr) -> Any:
    """Evaluate the text of a call: constants, tuples, and the constructors of what a call is made of."""
    match node:
        case ast.Constant(value):
            return value
        case ast.UnaryOp(ast.USub(), operand):
            return -_read(operand)
        case ast.Name("inf"):
            return math.inf
        case ast.Tuple(items):
            return tuple(_read(item) for item in items)
        case ast.Call(ast.Name(name), arguments, keywords) if name in _CONSTRUCTORS:
            named = {str(keyword.arg): _read(keyword.value) for keyword in keywords}
            return _CONSTRUCTORS[name](*map(_read, arguments), **named)
    raise ValueError(f"{ast.unparse(node)} is not part of the text of a call")


_PROCESS = uuid.uuid4().hex
_own_kernels: dict[str, StaticKernel] = {}


@dataclasses.dataclass(frozen=True)
class _Own(StaticKernel):
    """The place of a static kernel of the user's own in a text."""

    key: str

    @classmethod
    def of(cls, kernel: StaticKernel) -> _Own:
        """The place of a kernel, which is kept from now on: programs that have its place in them may call it."""
        key = f"{_PROCESS}-{id(kernel)}"
        _own_kernels[key] = kernel
        return cls(key)

    def kernel(self) -> StaticKernel:
        """The kernel itself."""
        try:
            return _own_kernels[self.key]
        except KeyError:
            raise RuntimeError(
                "a program that another process has traced calls a static kernel of the user's own, which stayed "
                "there. Trace it in this process, or take one of the library's static kernels"
            ) from None

    def __call__(self, *_: Any) -> Any:
        raise NotImplementedError


_CONSTRUCTORS["_Own"] = _Own
for _kind in _CONSTRUCTORS.values():
    if dataclasses.is_dataclass(_kind):
        _DEFAULTS[_kind] = _defaults_of(_kind)  # type: ignore[index]


def _file_of(kind: type) -> Any:
    """The file of the framework that a type of arrays belongs to, if there is one, by the package it is from."""
    for base in kind.__mro__:
        package = base.__module__.partition(".")[0]
        if package == "torch":
            from branchsig.frameworks import torch

            return torch
        if package in ("jax", "jaxlib"):
            from branchsig.frameworks import jax

            return jax
        if package == "autograd":
            from branchsig.frameworks import autograd

            return autograd
        if package == "tensorflow":
            from branchsig.frameworks import tensorflow

            return tensorflow
        if package == "pytensor":
            from branchsig.frameworks import pytensor

            return pytensor
        if package == "dask":
            from branchsig.frameworks import dask

            return dask
    return None


_kept_file_of: Callable[[type], Any] = functools.lru_cache(maxsize=256)(_file_of)

LENT = "lent"
"""What a framework claims an array as that NumPy can read in place."""

_NOT_CLAIMED = frozenset({np.ndarray, type(None), bool, float, int})
_NUMPY = (np.ndarray, np.generic)


def _claimed(values: Any) -> tuple[Any, Any, bool, bool]:
    """The framework that runs a call of these operands and paths in lists, or lends them, and the first of its arrays;
    whether it has to run it, and whether NumPy can read everything in place."""
    framework = like = None
    runs, lent, compiling = False, True, is_compiling()
    for value in values:
        kind = type(value)
        if kind in _NOT_CLAIMED:
            continue
        if isinstance(value, (list, tuple)):
            found, one, its, lends = _claimed(value)
        else:
            found, one = (_file_of if compiling else _kept_file_of)(kind), value
            claim = found is not None and (compiling or found.claims(value))
            its, lends = claim is True, claim == LENT or isinstance(value, _NUMPY)
        lent = lent and lends
        if found is None:
            continue
        if framework is None or (its and not runs):
            lent = lent and framework is None
            framework, like = found, one
        elif found is not framework:
            lent = False
        runs = runs or its
    return framework, like, runs, lent and not runs


def _holds_numpy(values: Any) -> bool:
    for value in values:
        if isinstance(value, _NUMPY) or (isinstance(value, (list, tuple)) and _holds_numpy(value)):
            return True
    return False


class Bound:
    """An operation on operands that a framework claims. Its methods are those of the operation, without a job."""

    def __init__(self, framework: Any, call: Call, operands: list[Any]) -> None:
        self.framework, self.call, self.operands = framework, call, operands

    def value(self) -> Any:
        """Return the value."""
        call = self.call
        if call.given[1:2] == ("first",) and OPERATIONS[call.operation].alone:
            call = dataclasses.replace(call, given=(call.given[0], None, *call.given[2:]))
        return self.framework.run(call, self.operands)[0]

    def vjp(self, *, param_deriv: bool) -> tuple[Any, Any]:
        """Return the value and its pullback."""
        value, *kept = self.framework.run(self.call.towards("forward"), self.operands)
        return value, _Pullback(self, kept, param_deriv)

    def backprop(self, derivs: Any, wrt: Wrt) -> Any:
        """Return the gradients for given derivatives."""
        call = dataclasses.replace(self.call, direction="backprop", wrt=wrt)
        return self._gradients(call, self.framework.run(call, [derivs, *self.operands]))

    def pull_back(self, kept: list[Any], derivs: Any, *, param_deriv: bool) -> Any:
        """Return the gradients from what the forward kept."""
        call = self.call.towards("backward")
        call = dataclasses.replace(call, wrt=call.wrt._replace(parameters=param_deriv))
        return self._gradients(call, self.framework.run(call, [derivs, *self.operands, *kept]))

    @staticmethod
    def _gradients(call: Call, found: Sequence[Any]) -> Any:
        """Gradients in the form of the operands."""
        rest = iter(found)
        gradients: list[Any] = []
        entries = call.given[: OPERATIONS[call.operation].sides]
        for entry, asked in zip(entries, call.wrt):
            entry = call.given[0] if entry == "first" else entry
            if not asked:
                gradients.append(None)
            else:
                gradients.append(next(rest) if entry == "array" else [next(rest) for _ in range(int(entry or 0))])
        if call.wrt[2]:
            gradients.append(dict(zip(call.parameters, rest, strict=True)))
        return tuple(gradients) if len(gradients) > 1 else gradients[0]


@dataclasses.dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class _Pullback:
    """The backward pass from a value, on arrays of a framework."""

    bound: Bound
    kept: list[Any]
    param_deriv: bool

    def __call__(self, derivs: Any) -> Any:
        """Return the gradients, for derivatives of the shape of the value."""
        return self.bound.pull_back(self.kept, derivs, param_deriv=self.param_deriv)


class _Lent:
    """An operation on arrays of a framework that NumPy reads in place. Its methods are those of `Bound`."""

    def __init__(
        self, framework: Any, like: Any, operation: Operation, spec: Spec, how: Execution, operands: Sequence[Any]
    ) -> None:
        lend(type(like), framework)
        self.framework, self.like, self.operation, self.how = framework, like, operation, how
        self.spec = with_kernel(spec, with_numbers(spec.static_kernel)) if spec.static_kernel.holds_arrays else spec
        self.operands = [_read_in_place(operand, framework) for operand in operands]
        if len(operands) > 1 and operands[1] is operands[0]:  # one array in both places
            self.operands[1] = self.operands[0]

    def value(self) -> Any:
        """Return the value."""
        value = self.operation.value(self.spec, self.how, *self.operands)
        return self.framework.given_back(np.asarray(value), self.like)

    def vjp(self, *, param_deriv: bool) -> tuple[Any, Any]:
        """Return the value and its pullback."""
        value, pullback = self.operation.vjp(self.spec, self.how, *self.operands, param_deriv=param_deriv)
        return _given_back(value, self.like), _LentPullback(pullback, self.like, tuple(self.operands))

    def backprop(self, derivs: Any, wrt: Wrt) -> Any:
        """Return the gradients for given derivatives."""
        derivs = _read_in_place(derivs, self.framework)
        found = self.operation.backprop(derivs, self.spec, self.how, *self.operands, **_asked(wrt))
        return _given_back(found, self.like)


@dataclasses.dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class _LentPullback:
    """The backward pass from a value of arrays that were lent."""

    pullback: Any
    like: Any
    operands: tuple[Any, ...]

    def __call__(self, derivs: Any) -> Any:
        """Return the gradients, for derivatives of the shape of the value."""
        framework = _kept_file_of(type(self.like))
        its, _, _, lent = _claimed((derivs,))
        if lent and (its is framework or (its is None and (framework.TAKES_NUMPY or not _holds_numpy((derivs,))))):
            return _given_back(self.pullback(_read_in_place(derivs, framework)), self.like)
        # The framework differentiates or traces the derivatives, so that it runs the whole; others are an error.
        job, operation = self.pullback.job, self.pullback.operation
        wrt = Wrt(True, operation.sides > 1 and self.operands[1] is not None, self.pullback.param_deriv)
        operands = [_given_back(operand, self.like) for operand in self.operands]
        if len(operands) > 1 and self.operands[1] is self.operands[0]:
            operands[1] = operands[0]
        return operation.backprop(derivs, job.spec, job.how, *operands, **_asked(wrt))


def _asked(wrt: Wrt) -> dict[str, bool]:
    """Arguments of an operation for the gradients that are asked for."""
    return {"left_deriv": wrt.path1, "right_deriv": wrt.path2, "param_deriv": wrt.parameters}


def _read_in_place(operand: Any, framework: Any) -> Any:
    """An operand that a framework lends, or a list of them, as NumPy reads it."""
    kind = type(operand)
    if kind in _NOT_CLAIMED:
        return operand
    if isinstance(operand, (list, tuple)):
        return [_read_in_place(one, framework) for one in operand]
    return framework.in_numpy(operand) if _kept_file_of(kind) is framework else operand


def _given_back(found: Any, like: Any) -> Any:
    """Results in their form as arrays of the framework that lent `like`."""
    if found is None:
        return None
    if isinstance(found, (list, tuple)):
        return type(found)(_given_back(one, like) for one in found)
    if isinstance(found, dict):
        return {name: _given_back(one, like) for name, one in found.items()}
    return _kept_file_of(type(like)).given_back(np.asarray(found), like)


def bound(
    operation: Operation, spec: Spec, how: Execution, operands: Sequence[Any], *others: Any
) -> Bound | _Lent | None:
    """Return an operation as the framework runs it that claims one of its operands; None where none does."""
    kernel = spec.static_kernel
    held = [getattr(kernel, name) for name in kernel.parameters or ()] if kernel.holds_arrays else []
    framework, like, runs, lent = _claimed((*operands, *others, *held))
    if framework is None or not (runs or lent):
        return None
    if lent and not framework.TAKES_NUMPY and _holds_numpy((*operands[: operation.sides], *others)):
        return None  # which is an error if it is a path
    if lent and is_built_in(kernel):
        return _Lent(framework, like, operation, spec, how, operands)
    parameters = {name: getattr(kernel, name) for name in _parameters(operation, kernel)}
    given: list[str | int | None] = []
    flat: list[Any] = []
    sides = operation.sides
    for k, operand in enumerate(operands):
        if operand is None:
            given.append(None)
        elif k == 1 < sides and operand is operands[0] and (len(operands) <= 3 or operands[3] is None):
            given.append("first")
        elif k < sides and isinstance(operand, (list, tuple)):
            given.append(len(operand))
            flat += operand
        else:
            given.append("array")
            flat.append(np.asarray(operand) if k >= sides and isinstance(operand, (int, list, tuple)) else operand)
    given += [None] * (len(operation.operands) - len(operands))
    if parameters:
        spec = with_kernel(spec, with_parameters(kernel, **dict.fromkeys(parameters, 1.0)))
    call = Call(operation.name, "value", spec, how, tuple(given))
    arrays = [*flat, *parameters.values()]
    if framework.serves(call, arrays):
        return Bound(framework, call, arrays)
    for name, value in parameters.items():
        if _claimed((value,))[2]:
            raise RuntimeError(
                f"{type(kernel).__name__}: {name} is an array that is differentiated, and so are the paths, in a way "
                f"that has no derivatives with respect to parameters. Give {name} as a number"
            )
    return None


def stand_in(array: Any) -> Any:
    """An array of NumPy in the place of another one, of the same shape and dtype, for checks; of a list a list.

    None where sizes are not known yet.
    """
    if isinstance(array, (list, tuple)):
        return [stand_in(one) for one in array]
    if isinstance(array, np.ndarray) or not hasattr(array, "dtype"):
        return array
    shape = tuple(getattr(getattr(array, "type", None), "shape", array.shape))  # of PyTensor as far as it is known
    dtype = getattr(array.dtype, "name", None) or str(array.dtype).rpartition(".")[2]
    return None if None in shape else np.broadcast_to(np.zeros((), dtype), shape)


def offered(name: str, *operands: Any) -> Callable[..., Any] | None:
    """Return a function that the framework which claims any of the operands has for them; None where there is none."""
    framework, *_ = _claimed(operands)
    return getattr(framework, name, None)
