"""Threads share long pairs, and it must not show: values and gradients have the bits of one thread."""

import threading

import numpy as np
import pytest
from cases import walk

import branchsig
from branchsig.backends.cpu import schedule, task

pytestmark = pytest.mark.usefixtures("core")

THREADS = [2, 3, 7]
KERNELS = {
    "linear": branchsig.ScaledLinearKernel(0.9),
    "polynomial": branchsig.PolynomialKernel(2.0, 1.0, 0.3),
    "RBF": branchsig.RBFKernel(1.3),
    "RBF by steps": branchsig.RBFKernel(300.0),
    "RBF by steps in units": branchsig.RBFKernel(1e260),
    "Matern 1/2": branchsig.Matern12Kernel(1.1),
    "Matern 5/2": branchsig.Matern52Kernel(1.1),
    "rational quadratic": branchsig.RationalQuadraticKernel(1.2, 0.7),
}
CASES = {  # points of both paths, channels, options
    "squares": (900, 900, 3, {"depth": 4}),
    "one level": (1400, 900, 3, {"depth": 2}),
    "sums in the order of a tile": (1030, 1010, 2, {"depth": 3}),
    "columns that no block divides": (1999, 773, 3, {"depth": 3}),
    "rows that no strip divides": (817, 2221, 3, {"depth": 3}),
    "logarithms": (1100, 1000, 3, {"depth": 3, "log": True}),
    "refined rows": (300, 900, 3, {"depth": 3, "dyadic_order": (3, 0)}),
    "refined columns": (1600, 300, 3, {"depth": 3, "dyadic_order": (0, 2)}),
    "many channels": (1300, 900, 20, {"depth": 3}),
    "ordered forests": (1100, 1000, 3, {"depth": 3, "planar": True}),
    "ordered forests by the left point": (
        900,
        1100,
        3,
        {"depth": 2, "planar": True, "quadrature": branchsig.LeftPoint()},
    ),
}


def same(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def of_pairs(x, y, options, n_jobs):
    """Values, and gradients with respect to both paths and to the parameters."""
    depth, dyadic_order = options["depth"], options.get("dyadic_order", 0)
    more = {name: value for name, value in options.items() if name not in ("depth", "dyadic_order")}
    values = branchsig.branched_sig_kernel(x, y, depth, dyadic_order, **more, n_jobs=n_jobs)
    derivs = np.linspace(0.5, 1.5, len(x))
    left, right, of_parameters = branchsig.branched_sig_kernel_backprop(
        derivs, x, y, depth, dyadic_order, **more, right_deriv=True, param_deriv=True, n_jobs=n_jobs
    )
    return values, left, right, *of_parameters.values()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("kernel", ["linear", "RBF"])
def test_any_number_of_threads_gives_the_bits_of_one(case, kernel, rng):
    length1, length2, channels, options = case
    x, y = walk(rng, 1, length1, channels), walk(rng, 1, length2, channels)
    options = options | {"static_kernel": KERNELS[kernel]}
    alone = of_pairs(x, y, options, 1)
    assert all(np.isfinite(array).all() for array in alone)
    for threads in THREADS:
        same(of_pairs(x, y, options, threads), alone)


@pytest.mark.parametrize("channels", [3, 18])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_every_static_kernel_has_the_same_bits_with_any_number_of_threads(kernel, channels, rng):
    x, y = walk(rng, 1, 830, channels), walk(rng, 1, 910, channels)
    options = {"depth": 3, "static_kernel": kernel}
    alone = of_pairs(x, y, options, 1)
    for threads in THREADS:
        same(of_pairs(x, y, options, threads), alone)


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_few_long_pairs_have_the_bits_they_have_alone(count, rng):
    x, y = walk(rng, count, 850, 2), walk(rng, count, 900, 2)
    options = {"depth": 3, "static_kernel": branchsig.RBFKernel(1.0)}
    alone = of_pairs(x, y, options, 1)
    for threads in THREADS:
        same(of_pairs(x, y, options, threads), alone)
    for k in range(count):
        one = of_pairs(x[k : k + 1], y[k : k + 1], options, 2)
        assert one[0][0] == alone[0][k]


@pytest.mark.parametrize("symmetric", [False, True])
def test_gram_matrices_of_long_paths_have_the_same_bits_with_any_number_of_threads(symmetric, rng):
    x, y = walk(rng, 3, 840, 2), walk(rng, 2, 830, 2)
    other = None if symmetric else y
    derivs = rng.standard_normal((3, 3 if symmetric else 2))

    def found(n_jobs):
        gradients = branchsig.branched_sig_kernel_gram_backprop(
            derivs, x, other, 3, right_deriv=not symmetric, n_jobs=n_jobs
        )
        values = branchsig.branched_sig_kernel_gram(x, other, 3, n_jobs=n_jobs)
        return values, *(gradient for gradient in gradients if gradient is not None)

    alone = found(1)
    for threads in THREADS:
        same(found(threads), alone)


def test_ragged_long_paths_have_the_same_bits_with_any_number_of_threads(rng):
    x, y = walk(rng, 4, 1100, 2), walk(rng, 4, 1000, 2)
    options = {"depth": 3, "lengths1": np.array([1100, 900, 40, 1]), "lengths2": np.array([950, 1000, 990, 1000])}
    alone = of_pairs(x, y, options, 1)
    for threads in THREADS:
        same(of_pairs(x, y, options, threads), alone)


def test_dilated_long_paths_have_the_same_factors_with_any_number_of_threads(rng):
    x = walk(rng, 2, 900, 2, size=5.0)
    alone = branchsig.dilation(x, 3)
    for threads in THREADS:
        np.testing.assert_array_equal(branchsig.dilation(x, 3, n_jobs=threads), alone)


def test_a_long_pair_that_leaves_the_range_is_done_again_with_any_number_of_threads(rng):
    length = 900
    x = np.linspace(0.0, 1.0, length)[None, :, None] * 12.0
    with pytest.warns(RuntimeWarning):
        assert branchsig.branched_sig_kernel(x, x.copy(), 4, log=True, n_jobs=2)[0] == np.inf
    for gradient in branchsig.branched_sig_kernel_backprop(np.ones(1), x, x.copy(), 4, right_deriv=True, n_jobs=2):
        assert np.isnan(gradient).all()


@pytest.fixture(params=[1, 2], ids=["one pair, led by the caller", "two pairs, led by threads"])
def few(request, rng):
    """Few pairs with their options, and what one thread makes of them."""
    x, y = walk(rng, request.param, 900, 3), walk(rng, request.param, 1000, 3)
    options = {"depth": 3, "static_kernel": branchsig.Matern32Kernel(1.0)}
    return x, y, options, of_pairs(x, y, options, 1)


def is_offer(call):
    return getattr(call, "func", None) is task._help


@pytest.mark.parametrize("most", [0, 1, 2])
def test_pairs_are_solved_where_few_threads_or_none_can_be_started(few, most, monkeypatch):
    x, y, options, alone = few
    start, started = threading.Thread.start, []

    def limited(thread):
        if len(started) >= most:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", limited)
        value = branchsig.branched_sig_kernel(x, y, **options, n_jobs=4)
    assert bool(started) == bool(most)
    np.testing.assert_array_equal(value, alone[0])


def test_a_helper_without_memory_leaves_the_work_to_the_others(few, monkeypatch):
    x, y, options, alone = few
    help_out, workspace_of, helping, refused = task._help, task.workspace_of, threading.local(), []

    def helped(*args, **kwargs):
        helping.now = True
        help_out(*args, **kwargs)
        helping.now = False

    def scarce(size, blame):
        if getattr(helping, "now", False):
            refused.append(size)
            raise MemoryError
        return workspace_of(size, blame)

    monkeypatch.setattr(task, "_help", helped)
    monkeypatch.setattr(task, "workspace_of", scarce)
    for _ in range(20):  # a helper may come too late to ask for memory
        same(of_pairs(x, y, options, 3), alone)
        if refused:
            break
    assert refused


def test_a_helper_that_comes_late_finds_nothing_to_do(few, monkeypatch):
    x, y, options, alone = few
    submit, late = schedule.Team.submit, []

    def kept_back(team, call):
        if not is_offer(call):
            return submit(team, call)
        late.append(call)
        return None

    monkeypatch.setattr(schedule.Team, "submit", kept_back)
    same(of_pairs(x, y, options, 3), alone)
    assert late
    for call in late:
        call()


def test_helpers_that_come_first_do_all_of_the_work(few, monkeypatch):
    x, y, options, alone = few
    submit, early = schedule.Team.submit, []

    def at_once(team, call):
        if not is_offer(call):
            return submit(team, call)
        early.append(call)
        call()
        return None

    monkeypatch.setattr(schedule.Team, "submit", at_once)
    same(of_pairs(x, y, options, 3), alone)
    assert early


def test_no_thread_is_left_behind(few):
    x, y, options, _ = few
    before = threading.active_count()
    of_pairs(x, y, options, 7)
    assert threading.active_count() == before
