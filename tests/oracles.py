"""Independent answers for the tests: explicit forests, closed forms, and the recursion written as scalar loops.

Nothing here imports branchsig or shares code with it, and nothing here is fast. Three kinds of oracle:

- the kernel as a sum over labelled rooted forests, K = sum_f <X, f> <Y, f> / sigma(f), with the iterated integrals of
  each path computed exactly (rational polynomials) or by the trapezoid rule on the refined path;
- values known in closed form;
- the recursion node by node, over any kind of number: floats, complex numbers (whose imaginary part carries an exact
  derivative) or mpmath's floats (which neither overflow nor round).
"""

import cmath
import itertools
import math
from collections import Counter
from fractions import Fraction
from functools import cache, reduce

import numpy as np

# A tree is (label, forest), a forest is a sorted tuple of trees: children are not ordered.


@cache
def trees(nodes, labels):
    """Every rooted non-planar tree with `nodes` nodes, each labelled by one of range(labels)."""
    return tuple((label, forest) for label in range(labels) for forest in forests(nodes - 1, labels))


@cache
def forests(nodes, labels):
    """Every forest of such trees with `nodes` nodes in all, the empty forest included."""
    if nodes == 0:
        return ((),)
    found = set()
    for size in range(1, nodes + 1):
        for tree, rest in itertools.product(trees(size, labels), forests(nodes - size, labels)):
            found.add(tuple(sorted((tree, *rest))))
    return tuple(sorted(found))


def forest_depth(forest):
    """The number of nodes on the longest way from a root to a leaf; 0 for the empty forest."""
    return max((1 + forest_depth(children) for _, children in forest), default=0)


def symmetry_factor(forest):
    """The number of automorphisms: permutations of equal subtrees."""
    factor = 1
    for tree, count in Counter(forest).items():
        factor *= math.factorial(count) * symmetry_factor(tree[1]) ** count
    return factor


class TrapezoidIntegrals:
    """<X, f> at every node of the path refined 2^order times, each integral by the trapezoid rule."""

    def __init__(self, path, order):
        path = np.asarray(path, dtype=float)
        self.steps = np.repeat(np.diff(path, axis=0), 2**order, axis=0) / 2**order
        self.known = {}

    def forest(self, forest):
        return reduce(np.multiply, [self.tree(tree) for tree in forest], np.ones(len(self.steps) + 1))

    def tree(self, tree):
        if tree not in self.known:
            label, children = tree
            below = self.forest(children)
            pieces = self.steps[:, label] * (below[:-1] + below[1:]) / 2
            self.known[tree] = np.concatenate([[0.0], np.cumsum(pieces)])
        return self.known[tree]

    def value(self, forest):
        return float(self.forest(forest)[-1])


def _multiply(p, q):
    product = [Fraction(0)] * (len(p) + len(q) - 1)
    for (i, a), (j, b) in itertools.product(enumerate(p), enumerate(q)):
        product[i + j] += a * b
    return product


class ExactIntegrals:
    """<X, f> of the piecewise-linear path itself: on each segment a polynomial in [0, 1] with rational coefficients."""

    def __init__(self, path):
        points = [[Fraction(float(value)) for value in point] for point in path]
        self.steps = [[b - a for a, b in zip(p, q, strict=True)] for p, q in itertools.pairwise(points)]
        self.known = {}

    def forest(self, forest):
        one = [[Fraction(1)] for _ in self.steps]
        return reduce(lambda P, Q: list(map(_multiply, P, Q)), [self.tree(tree) for tree in forest], one)

    def tree(self, tree):
        if tree not in self.known:
            label, children = tree
            start, pieces = Fraction(0), []
            for step, below in zip(self.steps, self.forest(children), strict=True):
                pieces.append([start] + [step[label] * c / (k + 1) for k, c in enumerate(below)])
                start = sum(pieces[-1])
            self.known[tree] = pieces
        return self.known[tree]

    def value(self, forest):
        return sum(self.forest(forest)[-1]) if self.steps else Fraction(not forest)


def forest_parts(integrals1, integrals2, depth, nodes, labels):
    """k_0..k_nodes: the sums of <X,f><Y,f>/sigma(f) over the forests of depth <= `depth` with exactly n nodes."""
    return np.array(
        [
            float(
                sum(
                    integrals1.value(forest) * integrals2.value(forest) / symmetry_factor(forest)
                    for forest in forests(n, labels)
                    if forest_depth(forest) <= depth
                )
            )
            for n in range(nodes + 1)
        ]
    )


def taylor_coefficients(function, radius, order, degree=22):
    """Coefficients 0..order at 0 of an entire real function, from its values on [-radius, radius]."""
    nodes = np.polynomial.chebyshev.chebpts1(3 * degree)
    values = np.array([function(radius * node) for node in nodes])
    fitted = np.polynomial.chebyshev.chebfit(nodes, values, degree)
    return np.polynomial.chebyshev.cheb2poly(fitted)[: order + 1] / float(radius) ** np.arange(order + 1)


def one_segment_depth_two(c):
    """K_2 of two straight lines with <dx, dy> = c, no discretisation."""
    return math.exp(math.fsum(c**k / (math.factorial(k) * k) for k in range(1, 80)))


def one_segment_untruncated(c):
    """K_infinity of two straight lines: the solution (1 - c/2)^-2 of Liouville's equation, for c < 2."""
    return (1 - c / 2) ** -2


def _dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def _squared_distance(x, y):
    return sum((a - b) * (a - b) for a, b in zip(x, y, strict=True))


class Scalars:
    """The functions of one kind of number; complex ones keep the branch of the real line."""

    def __init__(self, number, exp, sqrt, power):
        self.number, self.exp, self.sqrt, self.power = number, exp, sqrt, power


def _float_exp(value):
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


FLOATS = Scalars(float, _float_exp, math.sqrt, lambda base, exponent: base**exponent)
COMPLEX = Scalars(complex, cmath.exp, cmath.sqrt, lambda base, exponent: base**exponent)


def mpmath_scalars(digits=40):
    """Numbers of `digits` decimal digits whose exponent has no limit."""
    import mpmath

    context = mpmath.mp.clone()
    context.dps = digits
    return Scalars(context.mpf, context.exp, context.sqrt, context.power)


class Series:
    """A power series in one variable, cut off behind its last coefficient."""

    def __init__(self, coefficients):
        self.coefficients = np.asarray(coefficients, dtype=float)

    def __add__(self, other):
        return Series(self.coefficients + other.coefficients)

    def __mul__(self, other):
        if not isinstance(other, Series):
            return Series(self.coefficients * other)
        return Series(np.convolve(self.coefficients, other.coefficients)[: len(self.coefficients)])

    def __truediv__(self, number):
        return Series(self.coefficients / number)

    def __ne__(self, number):
        return bool(np.any(self.coefficients[1:])) or self.coefficients[0] != number

    def exp(self):
        u, e = self.coefficients, [math.exp(self.coefficients[0])]
        for n in range(1, len(u)):
            e.append(sum(k * u[k] * e[n - k] for k in range(1, n + 1)) / n)
        return Series(e)


def depth_parts(g, depth, orders, nodes):
    """k_0..k_nodes of the recursion itself: its value for increments z * g as a power series in z."""
    linear = [[Series([0.0, value] + [0.0] * (nodes - 1)) for value in row] for row in g]
    scalars = Scalars(lambda value: Series([value] + [0.0] * nodes), Series.exp, None, None)
    return log_levels(linear, depth, orders, scalars)[-1][-1][-1].exp().coefficients


def static_kernel(name, **parameters):
    """kappa(x, y, scalars) of a built-in static kernel, from its formula."""
    p = parameters
    if name == "linear":
        return lambda x, y, f: _dot(x, y)
    if name == "scaled_linear":
        return lambda x, y, f: p["scale"] ** 2 * _dot(x, y)
    if name == "polynomial":
        return lambda x, y, f: p["scale"] * f.power(_dot(x, y) + p["gamma"], p["degree"])
    if name == "rbf":
        return lambda x, y, f: f.exp(-_squared_distance(x, y) / p["sigma"])
    if name == "rational_quadratic":
        return lambda x, y, f: f.power(1 + _squared_distance(x, y) / (2 * p["alpha"] * p["sigma"] ** 2), -p["alpha"])
    matern = {
        "matern12": (1, lambda r: 1),
        "matern32": (3, lambda r: 1 + r),
        "matern52": (5, lambda r: 1 + r + r * r / 3),
    }
    root, polynomial = matern[name]

    def kappa(x, y, f):
        r = f.sqrt(f.number(root)) * f.sqrt(f.number(_squared_distance(x, y))) / p["sigma"]
        return polynomial(r) * f.exp(-r)

    return kappa


def increments(kappa, x, y, scalars):
    """g[i][j], the double increments of kappa along the two lists of points."""
    K = [[kappa(a, b, scalars) for b in y] for a in x]
    return [
        [K[i + 1][j + 1] - K[i][j + 1] - K[i + 1][j] + K[i][j] for j in range(len(y) - 1)] for i in range(len(x) - 1)
    ]


def log_levels(g, depth, orders, scalars=FLOATS):
    """log K_0..log K_depth at every node of the refined grid, as nested lists; g a non-empty list of rows."""
    n1, n2 = 2 ** orders[0], 2 ** orders[1]
    rows, columns = len(g) * n1 + 1, len(g[0]) * n2 + 1
    zero = scalars.number(0)
    levels = [[[zero] * columns for _ in range(rows)]]
    for _ in range(depth):
        K = [[scalars.exp(value) for value in row] for row in levels[-1]]
        U = [[zero] * columns]
        for r in range(1, rows):
            U.append([zero])
            along = zero
            for c in range(1, columns):
                increment = g[(r - 1) // n1][(c - 1) // n2]
                if increment != 0:
                    mean = (K[r - 1][c - 1] + K[r - 1][c] + K[r][c - 1] + K[r][c]) / 4
                    along = along + increment / (n1 * n2) * mean
                U[r].append(U[r - 1][c] + along)
        levels.append(U)
    return levels


def points(path, scalars=FLOATS):
    return [[scalars.number(float(value)) for value in point] for point in path]


def log_kernel(x, y, depth, orders=(0, 0), kappa=None, scalars=FLOATS):
    """log K_depth at the end point of two arrays (length, dimension)."""
    if len(x) == 1 or len(y) == 1:
        return scalars.number(0)
    kappa = static_kernel("linear") if kappa is None else kappa
    g = increments(kappa, points(x, scalars), points(y, scalars), scalars)
    return log_levels(g, depth, orders, scalars)[-1][-1][-1]


def gradient(function, path, step=1e-30):
    """d function / d path by the complex step: exact up to rounding for an analytic function of lists of points."""
    result = np.zeros((len(path), len(path[0])))
    for index in np.ndindex(*result.shape):
        shifted = points(path, COMPLEX)
        shifted[index[0]][index[1]] += step * 1j
        result[index] = function(shifted).imag / step
    return result


def transformed(path, time_aug=False, lead_lag=False, end_time=1.0):
    """The transformed path as a list of points over the same numbers: (lag, lead) channels, then time."""
    path = [list(point) for point in path]
    if lead_lag:
        stepped = [path[0] + path[0]]
        for before, after in itertools.pairwise(path):
            stepped += [before + after, after + after]
        path = stepped
    if time_aug:
        path = [point + [end_time * k / max(len(path) - 1, 1)] for k, point in enumerate(path)]
    return path


class LeftPointIntegrals(TrapezoidIntegrals):
    """<X, f> of the discrete Ito signature: each integral is a sum over left points."""

    def tree(self, tree):
        if tree not in self.known:
            label, children = tree
            pieces = self.steps[:, label] * self.forest(children)[:-1]
            self.known[tree] = np.concatenate([[0.0], np.cumsum(pieces)])
        return self.known[tree]


def collocation_integral(g, K, A):
    """Running double integral of K against increments g at the nodes (rows, columns, p + 1, p + 1) of every cell."""
    here = g[:, :, None, None] * np.einsum("ak,ijkl,bl->ijab", A, K, A)
    whole, below, left = np.zeros_like(here), np.zeros_like(here), np.zeros_like(here)
    whole[1:, 1:] = np.cumsum(np.cumsum(here[:, :, -1, -1], 0), 1)[:-1, :-1, None, None]
    below[1:] = np.cumsum(here[:, :, -1, :], 0)[:-1, :, None, :]
    left[:, 1:] = np.cumsum(here[:, :, :, -1], 1)[:, :-1, :, None]
    return whole + below + left + here


def collocation_log_levels(g, depth, A):
    """log K_0..log K_depth at the nodes of every cell; real or complex increments."""
    levels = [np.zeros(g.shape + A.shape, dtype=g.dtype)]
    for _ in range(depth):
        levels.append(collocation_integral(g, np.exp(levels[-1]), A))
    return levels


def collocation_parts(g, order, A, depth=math.inf):
    """k_0..k_order, the homogeneous parts at the end point, from the exponential of a power series at every depth."""
    K = [np.full(g.shape + A.shape, float(n == 0), dtype=g.dtype) for n in range(order + 1)]
    for _ in range(int(min(depth, order))):  # from there on nothing changes any more
        U = [None, *(collocation_integral(g, k, A) for k in K[:-1])]
        K = K[:1]
        for n in range(1, order + 1):
            K.append(sum(k * U[k] * K[n - k] for k in range(1, n + 1)) / n)
    return np.array([k[-1, -1, -1, -1] for k in K])


def refined(g, orders):
    """Increments of the sub-cells."""
    scale = 2.0 ** -sum(orders)
    return np.repeat(np.repeat(g, 2 ** orders[0], axis=0), 2 ** orders[1], axis=1) * scale


def increment_array(kappa, x, y):
    """`increments` of two lists of points of complex numbers, as an array."""
    return np.array(increments(kappa, x, y, COMPLEX))
