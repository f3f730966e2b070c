"""Rules for the integral over a cell: the trapezoid rule, left points, and Gauss–Lobatto rules of any order.

A rule has p + 1 nodes from 0 to 1 along each side of a cell, and a matrix A that maps the values of a function at the
nodes to its integrals from 0 to every node. Backends use nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from decimal import Decimal, localcontext
from typing import Any

__all__ = ["GaussLobatto", "LeftPoint", "Quadrature", "Trapezoid"]

Matrix = tuple[tuple[float, ...], ...]

LARGEST_ORDER = 8
"""Largest order of a Gauss–Lobatto rule: 64 nodes per cell; its error is rounding error on all but coarse paths."""


class Quadrature:
    """Base class of quadrature rules.

    Attributes
    ----------
    p : int
        Number of intervals between neighbouring nodes along a side of a cell.
    nodes : tuple of float
        The nodes ξ_0 = 0 to ξ_p = 1.
    matrix : tuple of tuple of float
        A[k][l], the integral from 0 to ξ_k of the l-th basis function.
    """

    __slots__ = ()

    p: int

    @property
    def nodes(self) -> tuple[float, ...]:
        """The nodes, from 0 to 1."""
        return 0.0, 1.0

    @property
    def matrix(self) -> Matrix:
        """Integrals from 0 to node k, row, of the basis function of node l, column."""
        raise NotImplementedError

    @property
    def steps(self) -> Matrix:
        """The integrals from one node to the next: differences of the rows of the matrix."""
        return _steps(self)

    @property
    def whole(self) -> Matrix:
        """The integral over the whole side, the last row of the matrix, as a matrix of one row."""
        return self.matrix[-1:]


@functools.lru_cache(maxsize=32)
def _steps(rule: Quadrature) -> Matrix:
    rows = rule.matrix
    return tuple(tuple(b - a for a, b in zip(low, high)) for low, high in itertools.pairwise(rows))


@dataclasses.dataclass(frozen=True)
class Trapezoid(Quadrature):
    r"""The trapezoid rule, the default: the mean of the four corners of a cell.

    Its error falls like :math:`h^2`.

    See Also
    --------
    LeftPoint : Itô sums, at the same cost.
    GaussLobatto : Rules of higher order.

    Examples
    --------
    >>> import branchsig
    >>> branchsig.Trapezoid().matrix
    ((0.0, 0.0), (0.5, 0.5))
    """

    p: int = dataclasses.field(default=1, init=False, repr=False)

    @property
    def matrix(self) -> Matrix:
        """Integrals from 0 to node k, row, of the basis function of node l, column."""
        return (0.0, 0.0), (0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class LeftPoint(Quadrature):
    r"""The left-point rule: the value at the corner of a cell where both paths are earliest.

    At dyadic order 0 the kernel is the exact inner product of the discrete Itô branched signatures of the paths, whose
    iterated integrals are left-point sums. They see the quadratic variation of a path; the limit of the other rules
    does not.

    See Also
    --------
    Trapezoid : The default, of second order.
    GaussLobatto : Rules of higher order.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x = np.array([[0.0], [1.0], [0.0]])
    >>> value = branchsig.branched_sig_kernel(
    ...     x, x, depth=2, quadrature=branchsig.LeftPoint()
    ... )
    >>> bool(
    ...     np.isclose(value, np.exp(1 - 1 - 1 + np.e))
    ... )  # one corner per cell, with increments 1, -1, -1, 1
    True
    """

    p: int = dataclasses.field(default=1, init=False, repr=False)

    @property
    def matrix(self) -> Matrix:
        """Integrals from 0 to node k, row, of the basis function of node l, column."""
        return (0.0, 0.0), (1.0, 0.0)


@dataclasses.dataclass(frozen=True)
class GaussLobatto(Quadrature):
    r"""A Gauss–Lobatto rule: the polynomial through p + 1 nodes along each side of a cell, integrated exactly.

    Its error at the corners falls like :math:`h^{2p}`, with :math:`p^2` nodes per cell. On piecewise-linear paths p = 2
    at dyadic order 0 is as accurate as the trapezoid rule at a dyadic order of about 6.

    Parameters
    ----------
    p : int
        From 2 to 8.

    Raises
    ------
    TypeError
        If p is not an integer.
    ValueError
        If p is not from 2 to 8.

    See Also
    --------
    Trapezoid : The default, of second order.
    LeftPoint : Itô sums, which see quadratic variation.

    Notes
    -----
    The nodes are 0, 1 and the roots of the derivative of the Legendre polynomial :math:`P_p`, moved to [0, 1]. With the
    Lagrange basis :math:`\ell_l` of the nodes, :math:`A_{kl} = \int_0^{\xi_k} \ell_l`. This is the collocation method
    known as Lobatto IIIA [1]_.

    References
    ----------
    .. [1] E. Hairer and G. Wanner, "Solving Ordinary Differential Equations II", Springer (1996), section IV.5.

    Examples
    --------
    >>> import branchsig
    >>> branchsig.GaussLobatto(2).nodes
    (0.0, 0.5, 1.0)
    >>> [
    ...     round(6 * weight, 12) for weight in branchsig.GaussLobatto(2).matrix[-1]
    ... ]  # Simpson's rule
    [1.0, 4.0, 1.0]
    """

    p: int

    def __post_init__(self) -> None:
        if type(self.p) is not int:
            object.__setattr__(self, "p", _integer(self.p))
        if not 2 <= self.p <= LARGEST_ORDER:
            raise ValueError(
                f"GaussLobatto: p is {self.p}: expected an integer from 2 to {LARGEST_ORDER}"
                + ("; the rule of order 1 is Trapezoid()" if self.p == 1 else "")
            )

    @property
    def nodes(self) -> tuple[float, ...]:
        """The nodes, from 0 to 1."""
        return _lobatto(self.p)[0]

    @property
    def matrix(self) -> Matrix:
        """Integrals from 0 to node k, row, of the basis function of node l, column."""
        return _lobatto(self.p)[1]


def _integer(p: Any) -> int:
    """Convert an integer of any type, such as NumPy's, to int."""
    try:
        number = operator.index(p)
    except TypeError:
        number = None
    if number is None or isinstance(p, bool):
        raise TypeError(f"GaussLobatto: p is {p!r}: expected an integer from 2 to {LARGEST_ORDER}")
    return number


Polynomial = list[Decimal]
"""Coefficients, the constant first."""


def _value(polynomial: Polynomial, x: Decimal) -> Decimal:
    result = Decimal(0)
    for coefficient in reversed(polynomial):
        result = result * x + coefficient
    return result


def _times(polynomial: Polynomial, root: Decimal) -> Polynomial:
    """The polynomial times (x − root)."""
    return [a - root * b for a, b in zip([Decimal(0), *polynomial], [*polynomial, Decimal(0)])]


def _derivative(polynomial: Polynomial) -> Polynomial:
    return [k * coefficient for k, coefficient in enumerate(polynomial)][1:]


@functools.cache
def _lobatto(p: int) -> tuple[tuple[float, ...], Matrix]:
    """Nodes and matrix, computed in 50 digits and then rounded."""
    with localcontext() as context:
        context.prec = 50
        # P_p moved to [0, 1]: the p-th derivative of (x² − x)^p, up to a factor.
        legendre = [Decimal(1)]
        for _ in range(p):
            legendre = _times(_times(legendre, Decimal(0)), Decimal(1))
        for _ in range(p):
            legendre = _derivative(legendre)
        inner = _derivative(legendre)
        nodes = [Decimal(0), *_roots(inner), Decimal(1)]
        columns = []
        for l, node in enumerate(nodes):
            basis = [Decimal(1)]
            for other in nodes[:l] + nodes[l + 1 :]:
                basis = _times(basis, other)
            integral = [Decimal(0), *(coefficient / (k + 1) for k, coefficient in enumerate(basis))]
            columns.append([_value(integral, end) / _value(basis, node) for end in nodes])
        matrix = tuple(tuple(float(column[k]) for column in columns) for k in range(p + 1))
    return tuple(float(node) for node in nodes), matrix


def _roots(polynomial: Polynomial) -> list[Decimal]:
    """The roots of a polynomial whose roots all lie in (0, 1): between those of its derivative, by bisection."""
    if len(polynomial) == 2:
        return [-polynomial[0] / polynomial[1]]
    ends = [Decimal(0), *_roots(_derivative(polynomial)), Decimal(1)]
    roots = []
    for low, high in itertools.pairwise(ends):
        rising = _value(polynomial, high) > 0
        for _ in range(170):
            middle = (low + high) / 2
            low, high = (low, middle) if (_value(polynomial, middle) > 0) == rising else (middle, high)
        roots.append((low + high) / 2)
    return roots


TRAPEZOID = Trapezoid()
"""The default rule."""

BY_NAME: dict[str, Quadrature] = {
    "trapezoid": TRAPEZOID,
    "left": LeftPoint(),
    **{f"lobatto{p}": GaussLobatto(p) for p in range(2, LARGEST_ORDER + 1)},
}
"""Rules by name."""
