"""Functions at the four corners of every cell, with differences computed without cancellation.

The increments of a static kernel are differences of its values at x_i or x_{i+1} and y_j or y_{j+1}. If the steps of
the paths are small compared with the length scale of the kernel, these values are nearly equal; so are those of ⟨x, y⟩
or ‖x − y‖² if the paths lie far from 0 or from each other. So the differences of ⟨x, y⟩ and ‖x − y‖² are computed
from the steps, and those of functions of them by the rules of this module. The error of each is a few units in its last
place, or in that of the steps times the slope, whichever is larger.
"""

from __future__ import annotations

from typing import NamedTuple

from branchsig._arrays import Array, namespace_of


class Corners(NamedTuple):
    """A function v of the points of a cell."""

    v00: Array
    """v(x_i, y_j)."""
    v10: Array
    """v(x_{i+1}, y_j)."""
    v01: Array
    """v(x_i, y_{j+1})."""
    v11: Array
    """v(x_{i+1}, y_{j+1})."""
    p: Array
    """v10 − v00."""
    q: Array
    """v01 − v00."""
    r: Array
    """v11 − v10 − v01 + v00."""


def at_corners(values: Array, p: Array, q: Array, r: Array) -> Corners:
    """Corners of all cells, from values at all points and their differences p along x, q along y and r along both."""
    return Corners(
        values[:, :-1, :-1], values[:, 1:, :-1], values[:, :-1, 1:], values[:, 1:, 1:], p[:, :, :-1], q[:, :-1, :], r
    )


def scaled(v: Corners, factor: float) -> Corners:
    """The function times a number."""
    return Corners._make(factor * a for a in v)


def product(f: Corners, h: Corners) -> Corners:
    """The product of two functions."""
    return Corners(
        f.v00 * h.v00,
        f.v10 * h.v10,
        f.v01 * h.v01,
        f.v11 * h.v11,
        f.v00 * h.p + f.p * h.v10,
        f.v00 * h.q + f.q * h.v01,
        f.v00 * h.r + f.p * (h.q + h.r) + f.q * (h.p + h.r) + f.r * h.v11,
    )


def power(v: Corners, exponent: int) -> Corners:
    """The function to an integer power, at least 1, by repeated squaring."""
    result = None
    while True:
        if exponent & 1:
            result = v if result is None else product(result, v)
        exponent >>= 1
        if not exponent:
            return v if result is None else result
        v = product(v, v)


def polynomial(v: Corners, coefficients: tuple[float, ...]) -> Corners:
    """A polynomial of the function, with at least two coefficients, the constant first."""
    xp = namespace_of(v.r)
    zero = xp.zeros_like(v.r)
    last = xp.full_like(v.r, coefficients[-1])
    result = Corners(last, last, last, last, zero, zero, zero)
    for c in coefficients[-2::-1]:
        values = product(result, v)
        result = values._replace(v00=values.v00 + c, v10=values.v10 + c, v01=values.v01 + c, v11=values.v11 + c)
    return result


def _opposite(q: Array, r: Array, start: Array, end: Array) -> Array:
    """Return end − start as q + r or, where these cancel, since another corner is so far off, from the values."""
    xp = namespace_of(r)
    return xp.where(xp.abs(q) + xp.abs(r) > xp.abs(start) + xp.abs(end), end - start, q + r)


def from_extreme(v: Corners, *, largest: bool) -> tuple[Corners, Array]:
    """Rename the corners so that v00 is the smallest or largest value of the cell; also return the resulting sign of r.

    Differences are then relative to the corner where a static kernel is largest, so their exponentials neither overflow
    nor vanish, whatever the other corners are.
    """
    xp = namespace_of(v.r)
    sign = xp.ones_like(v.r)
    extreme = xp.maximum if largest else xp.minimum

    def comes_before(a: Array, b: Array) -> Array:
        return a > b if largest else a < b

    swap = comes_before(extreme(v.v10, v.v11), extreme(v.v00, v.v01))

    def either(a: Array, b: Array) -> Array:
        return xp.where(swap, a, b)

    v = Corners(
        either(v.v10, v.v00),
        either(v.v00, v.v10),
        either(v.v11, v.v01),
        either(v.v01, v.v11),
        either(-v.p, v.p),
        either(_opposite(v.q, v.r, v.v10, v.v11), v.q),
        either(-v.r, v.r),
    )
    sign = either(-sign, sign)
    swap = comes_before(v.v01, v.v00)
    v = Corners(
        either(v.v01, v.v00),
        either(v.v11, v.v10),
        either(v.v00, v.v01),
        either(v.v10, v.v11),
        either(_opposite(v.p, v.r, v.v01, v.v11), v.p),
        either(-v.q, v.q),
        either(-v.r, v.r),
    )
    return v, either(-sign, sign)


def exponential(values: tuple[Array, Array, Array, Array], p: Array, q: Array, r: Array) -> Corners:
    """exp(v) from its values and the differences of v, whose v00 is the largest."""
    xp = namespace_of(r)
    e00, e10, e01, e11 = values
    p1, q1, rises = xp.expm1(p), xp.expm1(q), r > 0
    zero = xp.zeros_like(r)
    # e^{p+q+r} − e^{p+q} by the smaller exponential of the two, so that neither factor overflows.
    cross = e10 * xp.exp(q) * xp.expm1(xp.where(rises, zero, r)) - e11 * xp.expm1(xp.where(rises, -r, zero))
    return Corners(e00, e10, e01, e11, e00 * p1, e00 * q1, e00 * p1 * q1 + cross)


def log_one_plus(v: Corners) -> Corners:
    """log(1 + v) for v00 the smallest, at least 0."""
    xp = namespace_of(v.r)
    b00, b10, b01, b11 = (1.0 + a for a in v[:4])
    bend = v.r / b10 * (b00 / b01) - v.p / b10 * (v.q / b01)
    v00, v10, v01, v11 = (xp.log1p(a) for a in v[:4])
    p, q, r = xp.log1p(v.p / b00), xp.log1p(v.q / b00), log_ratio(bend, b11 / b10, b00 / b01)
    return Corners(v00, v10, v01, v11, p, q, r)


def power_of_logarithm(v: Corners, exponent: float) -> Corners:
    """exp(exponent · v) for exponent · v00 the largest."""
    xp = namespace_of(v.r)
    values = xp.exp(exponent * v.v00), xp.exp(exponent * v.v10), xp.exp(exponent * v.v01), xp.exp(exponent * v.v11)
    return exponential(values, exponent * v.p, exponent * v.q, exponent * v.r)


def root(v: Corners) -> Corners:
    """√v for v00 the smallest, at least 0; with derivative 0 at v = 0 under automatic differentiation."""
    xp = namespace_of(v.r)

    def of(a: Array) -> Array:
        nothing = a == 0
        return xp.where(nothing, xp.zeros_like(a), xp.sqrt(xp.where(nothing, xp.ones_like(a), a)))

    def over(a: Array, b: Array) -> Array:
        nothing = b == 0
        return xp.where(nothing, xp.zeros_like(a), a / xp.where(nothing, xp.ones_like(b), b))

    n00, n10, n01, n11 = of(v.v00), of(v.v10), of(v.v01), of(v.v11)
    p, q = over(v.p, n10 + n00), over(v.q, n01 + n00)
    # Of two forms choose the one that divides by the larger sum: the other loses the result in rounding error.
    along_y, along_x = n11 + n01, n11 + n10
    down, across = over(v.q + v.r, along_x), over(v.p + v.r, along_y)
    r = xp.where(along_y > along_x, over(v.r - p * (down + q), along_y), over(v.r - q * (across + p), along_x))
    return Corners(n00, n10, n01, n11, p, q, r)


def log_ratio(bend: Array, ratio1: Array, ratio2: Array) -> Array:
    """Logarithm of a product of two ratios: log1p(bend), bend = product − 1; from the ratios if bend <= −0.5.

    It is infinite where bend is.
    """
    xp = namespace_of(bend)
    near = ~(bend <= -0.5)
    one = xp.ones_like(bend)
    far = xp.log(xp.where(near, one, ratio1)) + xp.log(xp.where(near, one, ratio2))
    return xp.where(near, xp.log1p(xp.where(near, bend, xp.zeros_like(bend))), far)
