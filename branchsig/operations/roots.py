"""A search for the largest factors for which several growing quantities stay within their targets.

Each of many paths has several functions of log λ² with targets. The search returns the largest argument at which no
function exceeds its target, and the function that reaches its target there. All paths are searched simultaneously.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

Growth = Callable[[Indices, Floats], Floats]
"""Maps n path indices and arguments v to the quantities, shape (n, columns): power series in e^v with coefficients
>= 0 and no constant. NaN counts as too large."""

_EVALUATIONS = 100

_POINTS = 4
"""Number of values of a path in an interpolation."""


def largest(
    growth: Growth, slope: Floats, targets: Floats, start: Floats, usable: npt.NDArray[np.bool_], eps: float
) -> tuple[Floats, Indices]:
    """Return the largest v with growth(v) <= targets, and the column that reaches its target there, or -1 for none.

    `slope` holds the first coefficients of the series, `start` the initial v, and growth(0) <= targets must hold. h,
    the largest log(growth / target) of all columns, is convex in v with slope at least 1, since the coefficients are >=
    0. So every value shrinks the bracket. Within it, (growth / e^v)² of the column with the largest h is interpolated
    as a function of its growth. That function is smooth, constant if growth is linear in e^v, linear if growth is a
    multiple of e^2v, and known at 0. If the interpolation leaves the bracket, its midpoint is used instead.

    The final v is evaluated too. If it exceeds the target by rounding, v is lowered by h, since h falls at least as
    fast.
    """
    tolerance = max(1e-13, 16 * eps)
    paths, columns = slope.shape
    reached = np.full(paths, -1, dtype=np.intp)
    with np.errstate(all="ignore"):
        low, high = np.zeros(paths), np.min(np.log(targets / np.where(slope > 0, slope, 0.0)), axis=1)
        v = np.clip(start, low, high)
        nothing = np.full((paths, columns), np.nan), np.zeros(paths)
        latest = [nothing] * _POINTS  # values and their v, the latest first
        expected = np.zeros(paths, dtype=bool)  # whether the next value is expected to end the search
        active = np.flatnonzero(usable & np.isfinite(high))
        for _ in range(_EVALUATIONS):
            if not active.size:
                break
            here = v[active]
            value = growth(active, here)
            growth_of_target = value / targets
            worst = np.argmax(growth_of_target, axis=1)  # argmax takes NaN for the largest
            most = growth_of_target[np.arange(len(active)), worst]
            # Rounding may turn 0 into a small negative value.
            h = np.where(most > 0, np.log(most), np.where(most <= 0, -np.inf, np.inf))
            low[active] = np.where(h < 0, np.maximum(low[active], here), low[active])
            high[active] = np.minimum(high[active], np.where(h < 0, here - h, here))
            latest = [_placed(value, here, active, paths), *latest[:-1]]
            best, lower = _interpolated(
                targets[worst],
                np.stack([values[active, worst] for values, _ in latest]),
                np.stack([at[active] for _, at in latest]),
                slope[active, worst],
            )
            following = np.log(targets[worst]) - 0.5 * np.log(best)
            # An error of v becomes an error of h times the slope of h, which is h over the step.
            sure = 0.5 * np.abs(np.log(best / lower)) * np.abs(h) <= tolerance * np.abs(following - here)
            closed = high[active] - low[active] <= 2 * eps * (1.0 + np.abs(here))
            found = (np.abs(h) <= tolerance) | (expected[active] & (np.abs(h) <= 1e-8)) | (closed & (np.abs(h) <= 1e-3))
            inside = (following > low[active]) & (following < high[active])
            expected[active] = inside & sure
            step_to = np.where(inside, following, 0.5 * (low[active] + high[active]))
            v[active] = np.where(found, here - np.maximum(h, 0.0), np.where(closed, low[active], step_to))
            reached[active] = np.where(found, worst, -1)
            active = active[~(found | closed)]
        v[active] = low[active]
    return v, reached


def first_crossing(
    growth: Growth, targets: Floats, low: Floats, high: Floats, usable: npt.NDArray[np.bool_], eps: float
) -> tuple[Floats, Indices]:
    """Return a v at which no growth exceeds its target while the largest |growth| / target reaches 1, and its column.

    Growths need not be monotone here, and their sizes count. They must stay within their targets at `low`, or v is
    NaN, and exceed one at `high`. Regula falsi keeps such a bracket: every v that is returned has been evaluated and
    found to be within its targets.
    """
    tolerance = max(1e-13, 16 * eps)
    reached = np.full(len(low), -1, dtype=np.intp)
    v, low, high = low.copy(), low.copy(), high.copy()
    with np.errstate(all="ignore"):
        # Logarithms of the largest quotient at both ends, halved if an end stays where it is (Illinois).
        below, above, kept = np.full(len(low), np.nan), np.full(len(low), np.nan), np.zeros(len(low), dtype=int)
        active = np.flatnonzero(usable & np.isfinite(high) & (high > low))
        for step in range(_EVALUATIONS):
            if not active.size:
                break
            lo, hi = low[active], high[active]
            secant = lo - below[active] * (hi - lo) / (above[active] - below[active])
            inside = np.isfinite(secant) & (secant > lo) & (secant < hi)
            here = np.where(inside, secant, 0.5 * (lo + hi))
            if step < 2:
                here = (lo, hi)[step]
            growth_of_target = abs(growth(active, here)) / targets
            worst = np.argmax(growth_of_target, axis=1)  # argmax takes NaN for the largest
            most = growth_of_target[np.arange(len(active)), worst]
            h = np.where(most >= 0, np.log(most), np.inf)
            fits = h <= 0
            v[active] = np.where(fits, here, np.nan if step == 0 else v[active])
            reached[active] = np.where(fits, worst, reached[active])
            low[active], high[active] = np.where(fits, here, lo), np.where(fits, hi, here)
            below[active] = np.where(fits, h, below[active] * np.where(kept[active] == 1, 0.5, 1.0))
            above[active] = np.where(fits, above[active] * np.where(kept[active] == -1, 0.5, 1.0), h)
            kept[active] = np.where(fits, -1, 1)
            done = (
                (~fits & (step == 0))
                | (fits & (h >= -tolerance))
                | (high[active] - low[active] <= 4 * eps * (1.0 + abs(here)))
            )
            active = active[~done]
    return v, reached


def _placed(value: Floats, at: Floats, active: Indices, paths: int) -> tuple[Floats, Floats]:
    """What some of the paths have as arrays over all paths."""
    if len(active) == paths:
        return value, at
    values, places = np.full((paths, value.shape[1]), np.nan), np.zeros(paths)
    values[active], places[active] = value, at
    return values, places


def _interpolated(target: Floats, growths: Floats, at: Floats, slope: Floats) -> tuple[Floats, Floats]:
    """Interpolate (growth / e^v)² at growth = target; also return the interpolation without its last point.

    Points are rows of growths and of v, the latest first, followed by growth 0. Points far above the target are left
    out: growth is a tower of exponentials there, not a polynomial.
    """
    nodes = np.concatenate(
        [np.where((growths > 0) & (growths < 7 * target), growths, np.nan), np.zeros((1, len(slope)))]
    )
    values = np.concatenate([(growths * np.exp(-at)) ** 2, slope[None] ** 2])
    order = np.argsort(np.isnan(nodes), axis=0, kind="stable")[:_POINTS]
    return _neville(target, np.take_along_axis(nodes, order, axis=0), np.take_along_axis(values, order, axis=0))


def _neville(at: Floats, nodes: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Evaluate the polynomials through all points and through all but the last at one argument, by Neville's scheme.

    A point is a row of nodes and of values. Points that are NaN come last and are ignored.
    """
    column, best, lower = values, values[0], np.full_like(values[0], np.nan)
    for k in range(1, len(nodes)):
        column = ((at - nodes[k:]) * column[:-1] - (at - nodes[:-k]) * column[1:]) / (nodes[:-k] - nodes[k:])
        counts = np.isfinite(column[0])
        best, lower = np.where(counts, column[0], best), np.where(counts, best, lower)
    return best, lower
