"""Small Gram matrices with options and shapes that have been there before: a short way, which nothing shows."""

import functools
import itertools
import math
import pickle
import warnings

import numpy as np
import pytest
from cases import at_once, forget, static_kernel, walk
from conftest import cpu
from frameworks import framework_named

import branchsig
from branchsig.operations import OPERATIONS
from branchsig.operations import ready as calls

GRAM = OPERATIONS["gram"]
SHAPES = {  # of the first and second paths; None: the first ones
    "one pair": ((1, 10, 2), (1, 8, 2)),
    "fewer than lanes": ((3, 6, 2), (5, 7, 2)),
    "more than lanes": ((11, 6, 4), (19, 7, 4)),
    "batch axes": ((2, 3, 5, 1), (3, 3, 9, 1)),
    "two points": ((9, 2, 5), (10, 2, 5)),
    "products": ((3, 14, 20), (9, 12, 20)),
    "one stack": ((5, 8, 2), None),
    "one stack of more than lanes": ((21, 6, 3), None),
    "one stack with batch axes": ((3, 4, 5, 2), None),
}
pytestmark = pytest.mark.usefixtures("core", "nothing_ready")


@pytest.fixture
def prepared(monkeypatch):
    """A list that grows with every call that is checked, and does not go straight to the core."""
    found = []
    prepare = type(GRAM).prepare

    def spied(self, *arguments):
        found.append(1)
        return prepare(self, *arguments)

    monkeypatch.setattr(type(GRAM), "prepare", spied)
    return found


@pytest.fixture
def all_ways(monkeypatch, prepared):
    """Run a function on the long way, then three times, so that the last takes the short one."""

    def run(function):
        with monkeypatch.context() as long:
            long.setattr(type(GRAM), "made_ready", False)
            wanted = function()
        forget()
        function()
        function()
        prepared.clear()
        return function(), wanted

    return run


def paths_of(rng, shapes, dtype=np.float64):
    x = walk(rng, *shapes[0], size=0.15, dtype=dtype)
    return x, None if shapes[1] is None else walk(rng, *shapes[1], size=0.15, dtype=dtype)


def results(x, y, derivs, depth, **options):
    backprop = branchsig.branched_sig_kernel_gram_backprop
    found = [branchsig.branched_sig_kernel_gram(x, y, depth, **options)]
    asked = [(True, False)] if y is None else [(True, False), (False, True), (True, True)]
    for left, right in asked:
        found += backprop(derivs, x, y, depth, left_deriv=left, right_deriv=right, **options)
    value, pullback = branchsig.branched_sig_kernel_gram_vjp(x, y, depth, **options)
    return [*found, value, *pullback(derivs)]


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert type(one) is type(other)
        if one is not None:
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("depth", [1, 3, math.inf])
def test_a_later_call_has_the_bits_of_the_first(depth, shapes, dtype, rng, all_ways, prepared):
    x, y = paths_of(rng, shapes, dtype)
    other = x if y is None else y
    derivs = np.asarray(rng.normal(size=x.shape[:-2] + other.shape[:-2]), dtype)
    for name, log, order in itertools.product(("linear", "rbf", "matern12"), (False, True), (0, 1)):
        options = {"static_kernel": static_kernel(name)[0], "log": log, "dyadic_order": order}
        assert_same(*all_ways(lambda o=options: results(x, y, derivs, depth, **o)))
        assert not prepared
    for options in ({"planar": True, "depth": 3}, {"dyadic_order": (1, 0)}, {"n_jobs": 2}, {"max_batch": 2}):
        assert_same(*all_ways(lambda o=options: results(x, y, derivs, **{"depth": depth} | o)))


def test_one_array_in_both_places_has_a_gradient_for_each(rng, all_ways, prepared):
    x = walk(rng, 11, 7, 3)
    for derivs in (rng.normal(size=(11, 11)), np.ones((11, 11))):
        assert_same(*all_ways(lambda d=derivs: results(x, x, d, 3)))
        assert not prepared
        left, right = branchsig.branched_sig_kernel_gram_backprop(derivs, x, x, 3, right_deriv=True)
        wanted = branchsig.branched_sig_kernel_gram_backprop(derivs, x, x.copy(), 3, right_deriv=True)
        np.testing.assert_allclose(left, wanted[0], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(right, wanted[1], rtol=1e-12, atol=1e-14)
        total = branchsig.branched_sig_kernel_gram_backprop(derivs, x, None, 3)
        assert total[1] is None
        np.testing.assert_allclose(total[0], left + right, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shapes", [SHAPES["more than lanes"], SHAPES["one stack of more than lanes"]])
def test_every_call_has_the_kernels_of_all_pairs(shapes, rng):
    for _ in range(4):
        x, y = paths_of(rng, shapes)
        other = x if y is None else y
        n1, n2 = len(x), len(other)
        left, right = np.repeat(x, n2, axis=0), np.tile(other, (n1, 1, 1))
        found = branchsig.branched_sig_kernel_gram(x, y, 3)
        np.testing.assert_allclose(found.reshape(-1), branchsig.branched_sig_kernel(left, right, 3), rtol=1e-14)
        derivs = rng.normal(size=(n1, n2))
        of_pairs = branchsig.branched_sig_kernel_backprop(derivs.reshape(-1), left, right, 3, right_deriv=True)
        d_x = of_pairs[0].reshape(n1, n2, *x.shape[1:]).sum(1)
        d_y = of_pairs[1].reshape(n1, n2, *other.shape[1:]).sum(0)
        gradients = branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, 3, right_deriv=y is not None)
        np.testing.assert_allclose(gradients[0], d_x + d_y if y is None else d_x, rtol=1e-11, atol=1e-13)
        if y is not None:
            np.testing.assert_allclose(gradients[1], d_y, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("other", [(4, 6, 2), None])
def test_a_path_that_is_not_finite_is_named_in_every_call(other, depth, rng):
    x, y = paths_of(rng, ((11, 6, 2), other))
    wanted = branchsig.branched_sig_kernel_gram(x, y, depth)
    spoilt = x.copy()
    spoilt[4, 2] = np.nan
    for _ in range(4):
        with pytest.warns(RuntimeWarning, match=r"path1\[4\] holds NaN") as warned:
            found = branchsig.branched_sig_kernel_gram(spoilt, y, depth)
        assert len(warned) == 1
        of = [k for k in range(found.shape[1]) if y is not None or k != 4]
        assert np.isnan(found[4]).all()
        np.testing.assert_allclose(np.delete(found, 4, 0)[:, of], np.delete(wanted, 4, 0)[:, of], rtol=1e-14)
        gradient = branchsig.branched_sig_kernel_gram_backprop(np.ones(found.shape), spoilt, y, depth)[0]
        assert np.isnan(gradient[4]).all()
    for _ in range(40):
        np.testing.assert_array_equal(branchsig.branched_sig_kernel_gram(x, y, depth), wanted)


def test_values_that_overflow_are_warned_of_in_every_call_in_either_dtype():
    x = np.array([[[0.0], [10.0]], [[0.0], [0.1]]])  # exp(100)
    assert np.isfinite(branchsig.branched_sig_kernel_gram(x, None, 1)).all()
    for _ in range(4):
        with pytest.warns(RuntimeWarning, match="1 of 4 values overflowed"):
            found = branchsig.branched_sig_kernel_gram(x.astype(np.float32), None, 1)
        assert found[0, 0] == np.inf
        with pytest.warns(RuntimeWarning, match="1 of 4 values overflowed"):
            branchsig.branched_sig_kernel_gram(10 * x, None, 1)


def test_a_pair_without_a_finite_value_and_with_derivative_zero_contributes_nothing(rng):
    x, y = paths_of(rng, ((11, 6, 2), (3, 6, 2)))
    huge, derivs = x.copy(), np.ones((11, 3))
    huge[3] *= 1e6
    derivs[3] = 0.0
    wanted = branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, 3, right_deriv=True)
    for _ in range(4):
        found = branchsig.branched_sig_kernel_gram_backprop(derivs, huge, y, 3, right_deriv=True)
        assert (found[0][3] == 0).all()
        np.testing.assert_array_equal(np.delete(found[0], 3, 0), np.delete(wanted[0], 3, 0))
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-12, atol=1e-14)


def test_axes_that_look_swapped_are_warned_of_in_every_call(rng):
    single, points = walk(rng, 9, 3), walk(rng, 4, 1, 3)
    for _ in range(4):
        with pytest.warns(RuntimeWarning, match="was taken for one path of 9 points"):
            branchsig.branched_sig_kernel_gram(single, single, 2)
        with pytest.warns(RuntimeWarning, match="every path has one point"):
            branchsig.branched_sig_kernel_gram(points, None, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            branchsig.branched_sig_kernel_gram(single, single, 2, check_finite=False)


def test_arguments_are_checked_in_every_call(rng):
    x, y = paths_of(rng, SHAPES["fewer than lanes"])
    backprop, derivs = branchsig.branched_sig_kernel_gram_backprop, np.ones((3, 5))
    for _ in range(4):
        backprop(derivs, x, y, 3)
        backprop(np.ones((3, 3)), x, None, 3)
        with pytest.raises(ValueError, match=r"derivs has shape \(5, 3\)"):
            backprop(derivs.T.copy(), x, y, 3)
        with pytest.raises(TypeError, match="derivs has dtype float32"):
            backprop(derivs.astype(np.float32), x, y, 3)
        with pytest.raises(TypeError, match="left_deriv is 1"):
            backprop(derivs, x, y, 3, left_deriv=1)
        with pytest.raises(TypeError, match="path2 has dtype float32"):
            branchsig.branched_sig_kernel_gram(x, y.astype(np.float32), 3)
        with pytest.raises(ValueError, match="right_deriv is True and path2 is None"):
            backprop(np.ones((3, 3)), x, None, 3, right_deriv=True)
        assert backprop(derivs, x, y, 3, left_deriv=False) == (None, None)
        value, pullback = branchsig.branched_sig_kernel_gram_vjp(x, y, 3)
        assert value.shape == (3, 5)
        with pytest.raises(ValueError, match=r"derivs has shape \(5, 3\)"):
            pullback(derivs.T)
        with pytest.raises(TypeError, match="param_deriv is 1"):
            branchsig.branched_sig_kernel_gram_vjp(x, y, 3, param_deriv=1)


@pytest.mark.parametrize("function", ["branched_sig_kernel", "branched_sig_kernel_gram"])
def test_a_pullback_of_a_later_call_can_be_pickled_and_needs_nothing_that_was_kept(function, rng):
    x, y = walk(rng, 4, 6, 2), walk(rng, 4, 7, 2)
    for _ in range(4):
        value, pullback = getattr(branchsig, function + "_vjp")(x, y, 3)
        derivs = rng.normal(size=value.shape)
        wanted = getattr(branchsig, function + "_backprop")(derivs, x, y, 3, right_deriv=True)
        assert_same(pickle.loads(pickle.dumps(pullback))(derivs), wanted)
    forget()
    assert_same(pullback(derivs), wanted)


@pytest.mark.parametrize("function", ["branched_sig_kernel", "branched_sig_kernel_gram"])
def test_a_pullback_without_a_finite_value_gives_nan_in_every_call(function, rng):
    x, y = walk(rng, 4, 6, 2), walk(rng, 4, 6, 2)
    for _ in range(4):
        getattr(branchsig, function + "_vjp")(x, y, 3)
    spoilt = x.copy()
    spoilt[2, 3] = np.inf
    for _ in range(3):
        with pytest.warns(RuntimeWarning, match=r"path1\[2\] holds infinities"):
            value, pullback = getattr(branchsig, function + "_vjp")(spoilt, y, 3)
        found = pullback(np.ones(value.shape))[0]
        assert np.isnan(found[2]).all()
        assert np.isfinite(np.delete(found, 2, 0)).all()


def test_arrays_may_change_and_lie_in_any_order_and_lengths_are_heeded(rng):
    for _ in range(4):
        x, y = paths_of(rng, ((9, 6, 2), (10, 6, 2)))
        derivs = rng.normal(size=(9, 10))
        wanted = results(x, y, derivs, 3)
        wide = np.zeros((*x.shape, 2))
        wide[..., 0] = x
        unaligned = np.frombuffer(b"x" + x.tobytes(), dtype=np.uint8)[1:].view(np.float64).reshape(x.shape)
        for other in (np.asfortranarray(x), wide[..., 0], x.astype(">f8"), unaligned):
            assert_same(results(other, y, derivs, 3), wanted)
        assert_same(results(x, y, np.asfortranarray(derivs), 3), wanted)
        lengths = np.array([4] * 9)
        np.testing.assert_allclose(
            branchsig.branched_sig_kernel_gram(x, y, 3, lengths1=lengths),
            branchsig.branched_sig_kernel_gram(x[:, :4].copy(), y, 3),
            rtol=1e-14,
        )


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("size", [1e308, -1e308, np.inf])
def test_derivatives_whose_sum_overflows_give_no_call_a_warning(size, depth, rng):
    """The gradient of a matrix with itself is the derivative of a pair, twice: its sum overflows, which is no fault."""
    x = paths_of(rng, SHAPES["one stack"])[0]
    for _ in range(4):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            d_x, _ = branchsig.branched_sig_kernel_gram_backprop(np.full((5, 5), size), x, None, depth)
        assert not np.isfinite(d_x[:, [0, -1]]).any()


@pytest.mark.skipif(cpu is None, reason="no C core")
def test_a_change_of_the_instruction_set_is_a_new_call(rng):
    """Sums over pairs have an order of their own on every instruction set, whichever calls have been made on others."""
    x = walk(rng, 21, 6, 3, size=0.3)
    derivs = rng.normal(size=(21, 21))

    def gradient():
        return branchsig.branched_sig_kernel_gram_backprop(derivs, x, None, 3)[0]

    before = cpu.instruction_set()
    try:
        for name, other in itertools.permutations(cpu.instruction_sets(), 2):
            forget()
            cpu.set_instruction_set(name)
            wanted = gradient()
            forget()
            cpu.set_instruction_set(other)
            for _ in range(3):
                gradient()
            cpu.set_instruction_set(name)
            for _ in range(4):
                np.testing.assert_array_equal(gradient(), wanted)
            assert [ready.is_current() for *_, ready in calls._kept.values()] == [True]
    finally:
        cpu.set_instruction_set(before)


def test_matrices_without_pairs_are_empty_in_every_call(rng):
    x, y = paths_of(rng, SHAPES["fewer than lanes"])
    for _ in range(4):
        assert branchsig.branched_sig_kernel_gram(x[:0], y, 3).shape == (0, 5)
        assert branchsig.branched_sig_kernel_gram(x[:0], None, 3).shape == (0, 0)
        d_x, d_y = branchsig.branched_sig_kernel_gram_backprop(np.ones((0, 5)), x[:0], y, 3, right_deriv=True)
        assert d_x.shape == (0, 6, 2)
        assert (d_y == 0).all()


def test_matrices_in_several_threads_have_their_own_memory(rng):
    many = [paths_of(rng, SHAPES["products"]) for _ in range(8)]
    wanted = [branchsig.branched_sig_kernel_gram(x, y, 4) for x, y in many]

    def work(x, y):
        return [branchsig.branched_sig_kernel_gram(x, y, 4) for _ in range(50)][-1]

    found = at_once([functools.partial(work, x, y) for x, y in many])
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("shapes", [((40, 40, 2), (40, 40, 2)), ((300, 2, 1), None)])
def test_long_matrices_and_those_of_many_pairs_have_nothing_ready(shapes, rng):
    x, y = paths_of(rng, shapes)
    for _ in range(3):
        branchsig.branched_sig_kernel_gram(x, y, 4)
    assert not any(ready for *_, ready in calls._kept.values())


def test_kernels_of_pairs_and_gram_matrices_of_the_same_paths_do_not_meet(rng):
    x, y = walk(rng, 4, 6, 2), walk(rng, 4, 6, 2)
    for _ in range(4):
        pairs, gram = branchsig.branched_sig_kernel(x, y, 3), branchsig.branched_sig_kernel_gram(x, y, 3)
        assert (pairs.shape, gram.shape) == ((4,), (4, 4))
        np.testing.assert_allclose(np.diagonal(gram), pairs, rtol=1e-14)
        symmetric = branchsig.branched_sig_kernel_gram(x, x, 3)
        np.testing.assert_array_equal(symmetric, symmetric.T)
        np.testing.assert_allclose(symmetric, branchsig.branched_sig_kernel_gram(x, x.copy(), 3), rtol=1e-14)


@pytest.mark.parametrize("name", ["torch", "jax"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shapes", [SHAPES["one pair"], SHAPES["more than lanes"], SHAPES["one stack"]])
def test_arrays_of_frameworks_go_straight_to_the_core_too(shapes, dtype, name, prepared, rng):
    framework = framework_named(name)
    x, y = paths_of(rng, shapes, dtype)
    derivs = np.asarray(rng.normal(size=(len(x), len(x if y is None else y))), dtype)
    wanted = results(x, y, derivs, 3)
    forget()
    arrays = [None if array is None else framework.array(array.copy()) for array in (x, y, derivs)]
    for _ in range(4):
        prepared.clear()
        found = results(*arrays, 3)
        for one, other in zip(found, wanted, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert type(one) is type(arrays[0])
                assert np.asarray(one).dtype == dtype
                np.testing.assert_array_equal(one, other)
    assert not prepared
