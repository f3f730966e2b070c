"""Ordered forests of greater depths in the compiled core: which pairs are swept again for their digits."""

import numpy as np
import pytest
from cases import problem, retraced, sizes, walk
from conftest import cpu

from branchsig.backends.cpu import task
from branchsig.quadrature import LeftPoint, Trapezoid

pytestmark = pytest.mark.usefixtures("core")


@pytest.fixture
def again(monkeypatch):
    """The numbers of pairs that are swept again, call by call."""
    counts, sweep = [], task.Sweep._call_again

    def counted(self, pairs, *arguments):
        counts.append(len(pairs))
        return sweep(self, pairs, *arguments)

    monkeypatch.setattr(task.Sweep, "_call_again", counted)
    return counts


def in_long_double(x, y, depth, rule):
    """K at the end by the recursion in 80-bit arithmetic, increments included."""
    x, y = x.astype(np.longdouble), y.astype(np.longdouble)
    g = np.einsum("nid,njd->nij", np.diff(x, axis=1), np.diff(y, axis=1))
    count, rows, columns = g.shape
    below = np.ones((count, rows + 1, columns + 1), np.longdouble)
    for _ in range(depth):
        k = np.ones_like(below)
        for i in range(rows):
            for j in range(columns):
                corners = below[:, i, j], below[:, i + 1, j], below[:, i, j + 1], below[:, i + 1, j + 1]
                left = isinstance(rule, LeftPoint)
                h = g[:, i, j] * (corners[0] if left else sum(corners) / 4)
                edges, first = k[:, i + 1, j] + k[:, i, j + 1], k[:, i, j]
                a, b = (0, h) if left else (h / 2 + h * h / 12, h * h / 12)
                k[:, i + 1, j + 1] = edges - first + a * edges + b * first
        below = k
    return below[:, -1, -1]


@pytest.mark.parametrize("rule", [Trapezoid(), LeftPoint()])
def test_long_walks_of_moderate_size_are_swept_once(again, rule, rng):
    x, y = walk(rng, 32, 128, 8), walk(rng, 32, 128, 8)
    arguments = problem(x, y, 5, quadrature=rule, planar=True)
    assert np.isfinite(cpu.CpuBackend().solve(arguments, "end")).all()
    assert not again


@pytest.mark.parametrize("rule", [Trapezoid(), LeftPoint()])
@pytest.mark.parametrize("depth", [3, 6])
def test_paths_that_lose_their_digits_are_found_at_every_depth(again, rule, depth, rng):
    x = np.concatenate([retraced(rng, 60, 12, 1), walk(rng, 60, 23, 1)])
    x *= np.tile(sizes(60, 0.1, 40 / depth), (2, 1, 1))
    y = walk(rng, 120, 20, 1, size=5.0)
    with np.errstate(all="ignore"):
        found = 1.0 + cpu.CpuBackend().solve(problem(x, y, depth, quadrature=rule, planar=True), "end")
        exact = in_long_double(x, y, depth, rule)
        given = np.isfinite(found)
        assert np.all(abs(found - exact)[given] <= 1e-4 * np.maximum(1, abs(exact))[given])
    assert 0 < again[0] < 100
    assert 0.3 < given.mean() < 1
