"""Calls with options and shapes that have been there before: they take a short way to the core, which nothing shows."""

import functools
import gc
import itertools
import math
import tracemalloc
import weakref

import numpy as np
import pytest
from cases import STATIC_KERNELS, at_once, forget, static_kernel, walk

import branchsig
from branchsig.operations import OPERATIONS
from branchsig.operations import ready as calls
from branchsig.operations.ready import ready_for
from branchsig.spec import options_of

KERNEL = OPERATIONS["kernel"]
SHAPES = {  # of the first and second paths
    "one pair": ((1, 10, 2), (1, 8, 2)),
    "single paths": ((9, 3), (12, 3)),
    "more than a tile": ((11, 6, 4), (11, 7, 4)),
    "batch axes": ((2, 3, 5, 1), (2, 3, 9, 1)),
    "two points": ((9, 2, 5), (9, 2, 5)),
    "products": ((3, 14, 20), (3, 12, 20)),
}


def random_paths(rng, shapes, dtype=np.float64):
    return [walk(rng, *shape, size=0.3, dtype=dtype) for shape in shapes]


def value_and_gradients(x, y, derivs, depth, **options):
    return [
        branchsig.branched_sig_kernel(x, y, depth, **options),
        *branchsig.branched_sig_kernel_backprop(derivs, x, y, depth, **options, right_deriv=True),
        branchsig.branched_sig_kernel_backprop(derivs, x, y, depth, **options)[0],
        branchsig.branched_sig_kernel_backprop(derivs, x, y, depth, **options, left_deriv=False, right_deriv=True)[1],
    ]


@pytest.fixture
def all_ways(monkeypatch):
    """Run a function on the long way, then three times, so that the last takes the short one where there is one."""

    def run(function):
        with monkeypatch.context() as long:
            long.setattr(type(KERNEL), "made_ready", False)
            wanted = function()
        forget()
        function()
        function()
        return function(), wanted

    yield run
    forget()


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert type(one) is type(other)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("depth", [1, 2, 4, math.inf])
def test_a_second_call_has_the_bits_of_the_first(depth, shapes, dtype, rng, all_ways):
    x, y = random_paths(rng, shapes, dtype)
    derivs = rng.normal(size=shapes[0][:-2]).astype(dtype)
    for name, log, dyadic_order in itertools.product(STATIC_KERNELS, (False, True), (0, (1, 0))):
        options = {"static_kernel": static_kernel(name)[0], "log": log, "dyadic_order": dyadic_order}
        found, wanted = all_ways(lambda o=options: value_and_gradients(x, y, derivs, depth, **o))
        assert_same(found, wanted)
        assert len(calls._kept) == 1


@pytest.mark.usefixtures("core")
def test_options_that_need_more_than_the_core_have_nothing_ready(rng, all_ways):
    x, y = random_paths(rng, SHAPES["one pair"])
    for options in (
        {"normalize": True},
        {"normalize": "dilation"},
        {"order": 3},
        {"planar": True, "log": True},
        {"planar": True, "order": 3},
        {"time_aug": True},
        {"base_point": True},
        {"lead_lag": True},
        {"return_grid": True},
        {"rtol": 1e-6},
        {"check_finite": True},
        {"lengths1": np.array([7])},
        {"times1": np.linspace(0.0, 1.0, 10), "times2": np.linspace(0.0, 1.0, 8)},
    ):
        found, wanted = all_ways(lambda o=options: [branchsig.branched_sig_kernel(x, y, 3, **o)])
        assert_same(found, wanted)
        assert not any(ready for *_, ready in calls._kept.values())


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize("depth", [1, 3])
def test_a_path_that_is_not_finite_is_named_in_every_call(depth, rng):
    x, y = random_paths(rng, SHAPES["more than a tile"])
    wanted = branchsig.branched_sig_kernel(x, y, depth)
    spoilt = x.copy()
    spoilt[4, 2] = np.nan
    for _ in range(3):
        with pytest.warns(RuntimeWarning, match=r"path1\[4\] holds NaN"):
            found = branchsig.branched_sig_kernel(spoilt, y, depth)
        assert np.isnan(found[4])
        np.testing.assert_allclose(np.delete(found, 4), np.delete(wanted, 4), rtol=1e-14)
        gradient = branchsig.branched_sig_kernel_backprop(np.ones(11), spoilt, y, depth)[0]
        assert np.isnan(gradient[4]).all()
        assert np.isfinite(np.delete(gradient, 4, axis=0)).all()
    for _ in range(40):
        np.testing.assert_array_equal(branchsig.branched_sig_kernel(x, y, depth), wanted)


@pytest.mark.usefixtures("core")
def test_values_beyond_float32_are_infinite_and_warned_of_in_every_call():
    x = np.array([[0.0], [10.0]], dtype=np.float32)  # exp(100)
    assert np.isfinite(branchsig.branched_sig_kernel(x.astype(np.float64), x.astype(np.float64), 1))
    for _ in range(3):
        with pytest.warns(RuntimeWarning, match="overflow"):
            assert branchsig.branched_sig_kernel(x, x, 1) == np.inf


@pytest.mark.usefixtures("core")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("points", [[0.0, 1e308, -1e308, 1e-3], [0.0, 1e308, 1e308, 1e-3], [0.0, 1e290, -1e290, 1e-3]])
def test_points_whose_steps_overflow_have_one_value_in_every_call(points):
    x = np.array(points)[None, :, None]
    results = [branchsig.branched_sig_kernel(x, x, 1) for _ in range(3)]
    np.testing.assert_array_equal(results, [results[0]] * 3)


@pytest.mark.usefixtures("core")
def test_a_pair_without_a_finite_value_and_with_derivative_zero_contributes_nothing(rng):
    x, y = random_paths(rng, SHAPES["more than a tile"])
    huge, derivs = x.copy(), np.ones(11)
    huge[3] *= 1e6
    derivs[3] = 0.0
    for _ in range(3):
        found = branchsig.branched_sig_kernel_backprop(derivs, huge, y, 3)[0]
        assert (found[3] == 0).all()
        np.testing.assert_array_equal(
            np.delete(found, 3, axis=0),
            np.delete(branchsig.branched_sig_kernel_backprop(np.ones(11), x, y, 3)[0], 3, axis=0),
        )


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize("depth", [1, 3])
def test_arrays_in_another_order_of_memory_or_bytes_have_the_same_values(depth, rng):
    x, y = random_paths(rng, SHAPES["more than a tile"])
    wanted = branchsig.branched_sig_kernel(x, y, depth)
    for _ in range(2):
        branchsig.branched_sig_kernel_backprop(np.ones(11), x, y, depth)
    wide = np.zeros((*x.shape, 2))
    wide[..., 0] = x
    unaligned = np.frombuffer(b"x" + x.tobytes(), dtype=np.uint8)[1:].view(np.float64).reshape(x.shape)
    for other in (
        np.asfortranarray(x),
        wide[..., 0],
        x.astype(">f8"),
        unaligned,
        x.view(type("Own", (np.ndarray,), {})),
    ):
        np.testing.assert_array_equal(branchsig.branched_sig_kernel(other, y, depth), wanted)
        np.testing.assert_array_equal(
            branchsig.branched_sig_kernel_backprop(np.ones(11), other, y, depth)[0],
            branchsig.branched_sig_kernel_backprop(np.ones(11), x, y, depth)[0],
        )


@pytest.mark.usefixtures("core")
def test_arguments_are_checked_in_every_call(rng):
    x, y = random_paths(rng, SHAPES["more than a tile"])
    for _ in range(2):
        branchsig.branched_sig_kernel_backprop(np.ones(11), x, y, 3)
    with pytest.raises(ValueError, match="derivs has shape"):
        branchsig.branched_sig_kernel_backprop(np.ones(10), x, y, 3)
    with pytest.raises(TypeError, match="derivs has dtype float32"):
        branchsig.branched_sig_kernel_backprop(np.ones(11, dtype=np.float32), x, y, 3)
    with pytest.raises(TypeError, match="left_deriv is 1"):
        branchsig.branched_sig_kernel_backprop(np.ones(11), x, y, 3, left_deriv=1)
    with pytest.raises(TypeError, match="path2 has dtype float32"):
        branchsig.branched_sig_kernel(x, y.astype(np.float32), 3)
    with pytest.raises(ValueError, match="batch shape"):
        branchsig.branched_sig_kernel(x, y[:4], 3)
    assert branchsig.branched_sig_kernel_backprop(np.ones(11), x, y, 3, left_deriv=False) == (None, None)


@pytest.mark.usefixtures("core")
def test_nothing_holds_the_arrays_of_a_call(rng):
    class Own(np.ndarray):
        pass  # of which there can be weak references

    base = walk(rng, 1, 10, 2).view(Own)
    seen = weakref.ref(base)
    for _ in range(3):
        branchsig.branched_sig_kernel(np.asarray(base), np.asarray(base), 3)
    del base
    gc.collect()
    assert seen() is None


@pytest.mark.usefixtures("core")
def test_calls_in_several_threads_have_their_own_memory(rng):
    many = [random_paths(rng, SHAPES["products"]) for _ in range(8)]
    wanted = [branchsig.branched_sig_kernel(x, y, 4) for x, y in many]

    def work(x, y):
        return [branchsig.branched_sig_kernel(x, y, 4) for _ in range(50)][-1]

    found = at_once([functools.partial(work, x, y) for x, y in many])
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.usefixtures("core")
def test_so_many_calls_are_kept_and_no_more(rng):
    forget()
    for length in range(2, 2 + calls._MOST + 5):
        x = np.zeros((1, length, 1))
        for _ in range(2):
            branchsig.branched_sig_kernel(x, x, 2)
        assert 0 < len(calls._kept) <= calls._MOST
    spec, how = options_of(2, 0, None, False, False, 1.0, 1, "trapezoid")
    assert ready_for("kernel", spec, how, x, x) is not None


@pytest.mark.usefixtures("core")
def test_calls_that_never_come_again_do_not_drive_out_those_that_do(rng):
    forget()
    (x,) = random_paths(rng, SHAPES["one pair"][:1])
    for _ in range(2):
        branchsig.branched_sig_kernel(x, x, 3)
    for sigma in np.linspace(1.0, 2.0, 2 * calls._MOST):
        branchsig.branched_sig_kernel(x, x, 3, static_kernel=branchsig.RBFKernel(float(sigma)))
        branchsig.branched_sig_kernel(x, x, 3, static_kernel=branchsig.RBFKernel(np.asarray(sigma)))
    spec, how = options_of(3, 0, None, False, False, 1.0, 1, "trapezoid")
    assert ready_for("kernel", spec, how, x, x) is not None
    assert len(calls._met) <= calls._MOST


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_large_paths_are_not_copied_for_their_end_points(dtype):
    x = np.zeros((600, 600, 4), dtype)
    x[:, -1] = 0.1
    peaks = []
    for _ in range(4):
        tracemalloc.start()
        branchsig.branched_sig_kernel(x, x, 1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < x.nbytes / 2


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize("depth", [1, 3])
def test_a_signalling_nan_has_the_warning_of_any_other_in_every_call(depth):
    x, y = np.zeros((2, 3, 6, 2), np.float32)
    for _ in range(4):
        branchsig.branched_sig_kernel(x, y, depth)
    x.view(np.uint32)[1, 2, 0] = 0x7FA00000
    for _ in range(4):
        with pytest.warns(RuntimeWarning, match=r"path1\[1\] holds NaN") as warned, np.errstate(all="raise"):
            branchsig.branched_sig_kernel(x, y, depth)
        assert len(warned) == 1
        with np.errstate(all="raise"):
            branchsig.branched_sig_kernel_backprop(x[:, 2, 0], np.zeros_like(x), y, depth)


@pytest.mark.usefixtures("core")
def test_what_is_wrong_with_derivatives_is_said_before_memory_is_counted():
    x = np.zeros((1, 5, 2))
    for _ in range(3):
        with pytest.raises(ValueError, match="derivs has shape"):
            branchsig.branched_sig_kernel_backprop(np.ones(2), x, x, 2**40)
        assert branchsig.branched_sig_kernel_backprop(np.ones(1), x, x, 2**40, left_deriv=False) == (None, None)
