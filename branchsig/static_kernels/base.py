"""The base class of static kernels, the context of a call, and helper functions that all kernels share."""

from __future__ import annotations

import abc
import dataclasses
import math
import numbers
from typing import Any, ClassVar

import numpy as np

from branchsig._arrays import Array, as_number, device_of, is_compiling, namespace_of, specialized

__all__ = [
    "Context",
    "Parameters",
    "StaticKernel",
    "difference",
    "difference_adjoint",
    "parameters_of",
    "real",
    "transposed",
    "weighted_sum",
    "with_numbers",
]


class Context:
    """Arrays that a static kernel saves in its call for its gradients.

    The library creates one for each batch of pairs and passes it to the methods of a `StaticKernel`. Users create one
    only to try a kernel out.

    Attributes
    ----------
    saved_tensors : tuple
        The arguments of `save_for_backward`.
    saved_for_y : tuple
        The arguments of `save_for_grad_y`; empty if `grad_x` was not called.

    See Also
    --------
    StaticKernel : The base class, whose methods get a context.

    Examples
    --------
    >>> import branchsig
    >>> ctx = branchsig.Context()
    >>> ctx.save_for_backward("x", "y")
    >>> ctx.saved_tensors
    ('x', 'y')
    """

    def __init__(self) -> None:
        self.saved_tensors: tuple[Any, ...] = ()
        self.saved_for_y: tuple[Any, ...] = ()

    def save_for_backward(self, *arrays: Any) -> None:
        """Save arrays for `grad_x` and `grad_y`, which read them from `saved_tensors`."""
        self.saved_tensors = arrays

    def save_for_grad_y(self, *arrays: Any) -> None:
        """Save arrays from `grad_x` for `grad_y`, which reads them from `saved_for_y`."""
        self.saved_for_y = arrays


class StaticKernel(abc.ABC):
    r"""Base class of all static kernels, built-in and custom.

    A subclass defines three methods. ``__call__(ctx, x, y)`` takes paths x, shape (batch, length1, dimension), and y,
    shape (batch, length2, dimension), and returns the increments

    .. math:: g_{ij} = \kappa(x_{i+1}, y_{j+1}) - \kappa(x_i, y_{j+1}) - \kappa(x_{i+1}, y_j) + \kappa(x_i, y_j),

    shape (batch, length1 - 1, length2 - 1). ``grad_x(ctx, derivs)`` takes derivatives of a scalar with respect to the
    increments and returns those with respect to x, and ``grad_y(ctx, derivs)`` those with respect to y. Either may be
    called alone; if both are called, `grad_x` comes first. A kernel that is never differentiated needs only `__call__`.

    A kernel with differentiable parameters lists their names in `parameters` and defines a fourth method:
    ``grad_parameters(ctx, derivs)`` returns a dictionary of the derivatives by name, each of shape (batch,), one value
    per pair.

    The arrays belong to the library of the caller's paths and must not be modified. Methods written in array API calls
    work for every library.

    See Also
    --------
    Context : What the methods may save for one another.
    LinearKernel : The default.
    RBFKernel : A bounded static kernel.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> class SquareKernel(branchsig.StaticKernel):  # <x, y>**2
    ...     def __call__(self, ctx, x, y):
    ...         products = x @ y.swapaxes(1, 2)
    ...         ctx.save_for_backward(x, y, products)
    ...         return np.diff(np.diff(products**2, axis=1), axis=2)
    ...
    ...     def grad_x(self, ctx, derivs):
    ...         x, y, products = ctx.saved_tensors
    ...         return self.weights(products, derivs) @ y
    ...
    ...     def grad_y(self, ctx, derivs):
    ...         x, y, products = ctx.saved_tensors
    ...         return self.weights(products, derivs).swapaxes(1, 2) @ x
    ...
    ...     @staticmethod
    ...     def weights(products, derivs):
    ...         padded = np.pad(derivs, ((0, 0), (1, 1), (1, 1)))
    ...         return 2 * products * np.diff(np.diff(padded, axis=1), axis=2)
    >>> x = np.array([[0.0], [0.5], [1.0]])
    >>> value = branchsig.branched_sig_kernel(x, x, depth=2, static_kernel=SquareKernel())
    >>> same = branchsig.PolynomialKernel(degree=2, gamma=0)
    >>> bool(
    ...     np.isclose(
    ...         value, branchsig.branched_sig_kernel(x, x, depth=2, static_kernel=same)
    ...     )
    ... )
    True
    """

    parameters: ClassVar[tuple[str, ...] | None] = None
    """Names of the parameters that `grad_parameters` differentiates, in the order of results. None: not declared."""

    holds_arrays: bool = False
    """Whether a parameter is an array, such as one that a framework differentiates, instead of a number."""

    @abc.abstractmethod
    def __call__(self, ctx: Context, x: Array, y: Array) -> Array:
        """Return the increments of the kernel, shape (batch, length1 - 1, length2 - 1)."""

    def grad_x(self, ctx: Context, derivs: Array) -> Array:
        """Return the derivatives with respect to x, shape (batch, length1, dimension)."""
        raise NotImplementedError(_missing_gradient(self, "grad_x"))

    def grad_y(self, ctx: Context, derivs: Array) -> Array:
        """Return the derivatives with respect to y, shape (batch, length2, dimension)."""
        raise NotImplementedError(_missing_gradient(self, "grad_y"))

    def grad_parameters(self, ctx: Context, derivs: Array) -> dict[str, Array]:
        """Return the derivatives with respect to each of `parameters`, shape (batch,)."""
        raise NotImplementedError(_missing_gradient(self, "grad_parameters"))


def _missing_gradient(kernel: StaticKernel, method: str) -> str:
    return f"{type(kernel).__name__} has no {method}: define {method}(self, ctx, derivs) to differentiate through it"


def parameters_of(kernel: StaticKernel) -> tuple[str, ...]:
    """Return the names of the differentiable parameters of a static kernel, in the order of results.

    Raises
    ------
    NotImplementedError
        If a custom kernel does not declare its parameters, or overrides `__call__` but inherits `grad_parameters`.
    """
    classes = type(kernel).__mro__

    def place(method: str) -> int:
        return next(place for place, owner in enumerate(classes) if method in vars(owner))

    name = type(kernel).__name__
    if kernel.parameters is None or classes[place("grad_parameters")] is StaticKernel:
        raise NotImplementedError(
            f"{name} has no derivatives with respect to parameters: name them in its attribute `parameters`, a tuple "
            f"of strings, and define grad_parameters(self, ctx, derivs), or leave param_deriv out"
        )
    if place("__call__") < place("grad_parameters"):
        raise NotImplementedError(
            f"{name} defines its own __call__, but not the grad_parameters that belongs to it: define "
            f"grad_parameters(self, ctx, derivs), or leave param_deriv out"
        )
    return kernel.parameters


class Parameters(StaticKernel):
    """Access to parameters by name, as scikit-learn requires. Kernels are immutable; to change one, replace it."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def set_params(self, **params: Any) -> Any:
        """Raise TypeError: kernels are immutable, since several objects may share one."""
        if not params:
            return self
        changes = ", ".join(f"{name}={value!r}" for name, value in params.items())
        raise TypeError(
            f"{self!r} cannot be changed by set_params({changes}): kernels are immutable. Set static_kernel to "
            f"a new one, dataclasses.replace(static_kernel, {changes})"
        )


def real(kernel: StaticKernel, name: str, *, above: float = -math.inf, least: float = -math.inf) -> None:
    """Check an attribute of a kernel and store it as a float; a parameter that is a 0-d array is stored unchanged.

    The value of such an array is checked later, by `with_numbers`.
    """
    value: Any = getattr(kernel, name)
    title = f"{type(kernel).__name__}: {name}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        if name in (kernel.parameters or ()) and _is_array(value):
            axes = getattr(value, "ndim", 0)
            if axes:
                raise TypeError(f"{title} is an array of {axes} axes: expected a real number or a 0-d array")
            object.__setattr__(kernel, "holds_arrays", True)
            return
        raise TypeError(f"{title} is {value!r}: expected a real number")
    if is_compiling():
        if name in (kernel.parameters or ()):
            return  # an operand of the program, and checked when that runs
        value = specialized(value)
    wanted = f"a finite number > {above:g}" if above > -math.inf else f"a finite number >= {least:g}"
    if above == least == -math.inf:
        wanted = "a finite number"
    number = float(value)
    if not math.isfinite(number) or number <= above or number < least:
        raise ValueError(f"{title} is {value!r}: expected {wanted}")
    object.__setattr__(kernel, name, number)


def _is_array(value: object) -> bool:
    """Tell whether a value is an array of any library, or a tracer of one: its type has a dtype."""
    return hasattr(type(value), "dtype") and not isinstance(value, np.generic)


def with_numbers(kernel: StaticKernel) -> StaticKernel:
    """Return a copy of a kernel in which parameters that are arrays are replaced by their numbers.

    Raises
    ------
    ValueError
        If a value is out of range or not finite.
    """
    names = kernel.parameters or ()
    changes = {name: as_number(getattr(kernel, name)) for name in names if _is_array(getattr(kernel, name))}
    return with_parameters(kernel, **changes)


def with_parameters(kernel: StaticKernel, **values: Any) -> StaticKernel:
    """Return a copy of a kernel that is a dataclass, with other values of some parameters."""
    return dataclasses.replace(kernel, **values)  # type: ignore[type-var]


def difference(a: Array, axis: int) -> Array:
    """Differences of neighbours along axis -1 or -2 of a stack of matrices."""
    return a[:, 1:, :] - a[:, :-1, :] if axis == -2 else a[:, :, 1:] - a[:, :, :-1]


def difference_adjoint(derivs: Array, axis: int) -> Array:
    """Adjoint of `difference`: one entry longer along the axis."""
    xp = namespace_of(derivs)
    shape = list(derivs.shape)
    shape[axis] = 1
    zero = xp.zeros(tuple(shape), dtype=derivs.dtype, device=device_of(derivs))
    return xp.concat([zero, derivs], axis=axis) - xp.concat([derivs, zero], axis=axis)


def weighted_sum(derivs: Array, changes: Array) -> Array:
    """Sum of ``derivs * changes`` over the cells of each pair."""
    return namespace_of(derivs).sum(derivs * changes, axis=(1, 2))


def transposed(a: Array) -> Array:
    return namespace_of(a).permute_dims(a, (0, 2, 1))
