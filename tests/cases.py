"""What several tests draw from: static kernels with their oracles, paths, problems, and the choice of a backend."""

import contextlib
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracles

import branchsig
from branchsig.backends import Problem, ThroughNumpy, Wrt, choice
from branchsig.operations import ready

STATIC_KERNELS = {
    "linear": (branchsig.LinearKernel, {}),
    "scaled_linear": (branchsig.ScaledLinearKernel, {"scale": 0.8}),
    "polynomial": (branchsig.PolynomialKernel, {"degree": 2.0, "gamma": 1.2, "scale": 0.6}),
    "rbf": (branchsig.RBFKernel, {"sigma": 0.9}),
    "matern12": (branchsig.Matern12Kernel, {"sigma": 0.7}),
    "matern32": (branchsig.Matern32Kernel, {"sigma": 0.8}),
    "matern52": (branchsig.Matern52Kernel, {"sigma": 1.1}),
    "rational_quadratic": (branchsig.RationalQuadraticKernel, {"sigma": 0.9, "alpha": 0.7}),
}


@contextlib.contextmanager
def using(backend):
    """Let the public functions use `backend` for arrays of NumPy and others on the CPU."""
    saved = dict(choice.serving)
    choice.serving.update(numpy=backend, others=ThroughNumpy(backend))
    try:
        yield backend
    finally:
        choice.serving.clear()
        choice.serving.update(saved)


def forget():
    """Let nothing be ready for a call, as if none had been made."""
    with ready._changing:
        ready._met.clear()
        ready._kept.clear()


def at_once(works):
    """What functions return that are called in threads of their own, all at the same moment."""
    barrier = threading.Barrier(len(works))

    def run(work):
        barrier.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(run, work) for work in works]]


def static_kernel(name):
    """A built-in static kernel and its formula."""
    kind, parameters = STATIC_KERNELS[name]
    return kind(**parameters), oracles.static_kernel(name, **parameters)


class QuarticKernel(branchsig.StaticKernel):
    """A kernel of a user's own, (<x,y> + <x,y>^2 / 2) scaled: no built-in one, with gradients by hand."""

    def __repr__(self):
        return "QuarticKernel()"  # names of tests must not hold an address

    def __call__(self, ctx, x, y):
        products = np.einsum("bik,bjk->bij", x, y)
        ctx.save_for_backward(x, y, products)
        kappa = products + products**2 / 2
        return np.diff(np.diff(kappa, axis=1), axis=2)

    def _weights(self, ctx, derivs):
        products = ctx.saved_tensors[2]
        padded = np.zeros_like(products)
        for shift1, shift2, sign in ((1, 1, 1), (0, 1, -1), (1, 0, -1), (0, 0, 1)):
            rows, columns = padded.shape[1] - 1 + shift1, padded.shape[2] - 1 + shift2
            padded[:, shift1:rows, shift2:columns] += sign * derivs
        return padded * (1 + products)

    def grad_x(self, ctx, derivs):
        return np.einsum("bij,bjk->bik", self._weights(ctx, derivs), ctx.saved_tensors[1])

    def grad_y(self, ctx, derivs):
        return np.einsum("bij,bik->bjk", self._weights(ctx, derivs), ctx.saved_tensors[0])


def quartic(x, y, scalars):
    product = sum(a * b for a, b in zip(x, y))
    return product + product * product / 2


def walk(rng, *shape, size=0.8, dtype=np.float64):
    """Random walks of shape (..., length, dimension) whose end points lie about `size` from their start."""
    length, dimension = shape[-2:]
    steps = rng.standard_normal(shape) * size / np.sqrt(length * dimension)
    return np.ascontiguousarray(steps.cumsum(axis=-2), dtype=dtype)


def retraced(rng, count, points, dimension):
    """Walks of so many points and the way back."""
    out = walk(rng, count, points, dimension, size=1.0)
    return np.concatenate([out, out[:, -2::-1]], axis=1)


def sizes(count, least, most):
    return np.geomspace(least, most, count)[:, None, None]


def returning_families(rng, count):
    """Pairs of short paths of one channel that return more or less: out and back, steps of ±1, rounded, and others."""
    plain = walk(rng, count, 7, 1, size=2.0)
    there = retraced(rng, count, 4, 1)
    steps = np.cumsum(rng.choice([-1.0, 1.0], (count, 7, 1)), axis=1)
    rounded = np.round(walk(rng, count, 7, 1, size=2.0), 1)
    rising = np.cumsum(rng.uniform(0, 0.5, (count, 7, 1)), axis=1)
    families = [plain, there, steps, rounded, rising]
    for a, b in itertools.product(families, families):
        scale = rng.uniform(0.3, 3.0, (count, 1, 1))
        yield a * scale, b * rng.uniform(0.3, 2.0, (count, 1, 1))


def mixed(rng, count):
    """Paths that return and others, of very different sizes."""
    x = np.concatenate([retraced(rng, count, 4, 1), walk(rng, count, 7, 1, size=2.0)])
    return x * sizes(2 * count, 0.05, 8.0)[rng.permutation(2 * count)]


def problem(x, y, depth, orders=(0, 0), pairing="paired", static_kernel=None, **options):
    kernel = branchsig.LinearKernel() if static_kernel is None else static_kernel
    return Problem(x, y, pairing, kernel, depth, orders, **options)


def gradients_of(backend, arguments, derivs, *, wrt_log, left, right, k_stack=None):
    """The gradients of both paths, for derivatives of ends or of grids, as their shape tells."""
    want = "grid" if derivs.ndim > arguments.axes + (arguments.order is not None) else "end"
    found = backend.adjoint(arguments, want, derivs, Wrt(left, right), log=wrt_log, stack=k_stack)
    return found.path1, found.path2


def scaled(x, y, depth, reference, static_kernel=None, log_k=19.0):
    """The two batches times the factor that brings the largest log K to about `log_k`, found by bisection."""
    least, most = 0.0, 16.0
    while most - least > 1e-3 * most:
        size = (least + most) / 2
        largest = np.max(
            reference.solve(problem(size * x, size * y, depth, static_kernel=static_kernel), "end", log=True)
        )
        least, most = (size, most) if largest <= log_k else (least, size)
    return least * x, least * y


def relative(found, wanted):
    """Largest difference relative to each wanted value; infinities and NaN must stand in the same places."""
    found, wanted = np.asarray(found, dtype=float), np.asarray(wanted, dtype=float)
    assert found.shape == wanted.shape
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    with np.errstate(all="ignore"):
        difference = np.where(same, 0.0, np.abs(found - wanted) / np.abs(wanted))
    return float(np.max(np.where(np.isnan(difference), np.inf, difference), initial=0.0))


def relative_to_path(found, wanted):
    """Largest difference of gradients relative to the largest entry of each path's gradient; NaN in the same places."""
    found, wanted = np.asarray(found, dtype=float), np.asarray(wanted, dtype=float)
    assert found.shape == wanted.shape
    if found.size == 0:
        return 0.0
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    difference = np.nan_to_num(np.abs(found - wanted), posinf=np.inf).max(axis=(-2, -1))
    scale = np.nan_to_num(np.abs(wanted)).max(axis=(-2, -1))
    return float(np.max(np.where(difference == 0, 0.0, difference / np.where(scale == 0, 1e-300, scale)), initial=0.0))


def close(found, wanted, tolerance=1e-12):
    """Whether arrays agree relative to the largest entry, or to 1."""
    assert found.shape == wanted.shape
    assert np.all(np.isfinite(wanted))
    return np.max(abs(found - wanted), initial=0.0) <= tolerance * np.max(abs(wanted), initial=1.0)


def assert_backends_agree(backend, reference, arguments, want, wrt, rng):
    """What is wanted, and its gradients, are those of the reference."""
    wanted = reference.solve(arguments, want)
    assert close(backend.solve(arguments, want), wanted)
    derivs = rng.standard_normal(wanted.shape)
    found, expected = (each.adjoint(arguments, want, derivs, wrt) for each in (backend, reference))
    for own, other in zip(found, expected, strict=True):
        assert (own is None) == (other is None)
        assert own is None or close(own, other)
