"""Values whose terms cancel beyond the digits of a double are NaN, and no finite value is wrong by more than 1e-4.

What is right is known from a proof and from arithmetic of many digits. A path that goes back the way it came has the
kernel 1 with every other, at every depth, under the trapezoid and Lobatto rules: mirrored cells have mirrored values
and opposite increments.
"""

import itertools
import math
import warnings

import numpy as np
import oracles
import pytest
from cases import QuarticKernel, mixed, retraced, returning_families, scaled, sizes, walk

import branchsig

pytestmark = pytest.mark.filterwarnings("ignore:.*values.*(NaN|inf).*:RuntimeWarning")

kernel, gram, stack = (
    branchsig.branched_sig_kernel,
    branchsig.branched_sig_kernel_gram,
    branchsig.branched_sig_kernel_stack,
)
backprop, gram_backprop = branchsig.branched_sig_kernel_backprop, branchsig.branched_sig_kernel_gram_backprop

THERE, OTHER = np.array([[0.0], [1.35], [2.25], [1.35], [0.0]]), np.array([[0.0], [2.6]])
"""A path that returns, and one with which its kernel of depth 3 has no digits."""

RULES = [
    {},
    {"dyadic_order": (1, 2)},
    {"quadrature": "lobatto2"},
    {"quadrature": "lobatto3", "dyadic_order": (0, 1)},
    {"static_kernel": branchsig.RBFKernel(1.0)},
]


def right(values, wanted, *, log=False):
    """Every finite value is within 1e-4, relative for kernels; and which of them are finite."""
    values, wanted = np.asarray(values, dtype=float), np.asarray(wanted, dtype=float)
    finite = np.isfinite(values)
    allowed = 1e-4 * np.maximum(1.0, np.abs(wanted)) if log else 1e-4 * np.abs(wanted)
    with np.errstate(all="ignore"):
        assert np.all(np.abs(values - wanted)[finite] <= np.broadcast_to(allowed, values.shape)[finite])
    return finite


def test_two_paths_of_a_report_have_no_kernel(backend):
    with pytest.warns(RuntimeWarning, match=r"1 of 1 values lost all their digits and are NaN.*paths return"):
        assert math.isnan(kernel(THERE, OTHER, 3))
    assert math.isnan(kernel(0.52 / 0.45 * THERE, 0.52 / 0.45 * THERE, 3))
    assert kernel(0.3 * THERE, OTHER, 3) == pytest.approx(1.0, rel=1e-10)


@pytest.mark.parametrize("options", RULES, ids=str)
@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_path_that_goes_back_has_the_kernel_one_with_every_other_or_none(backend, options, depth, swapped, rng):
    x = retraced(rng, 60, 7, 2) * sizes(60, 0.3, 50.0)
    y = walk(rng, 60, 9, 2, size=3.0)
    if swapped:
        x, y = y, x
    finite = right(kernel(x, y, depth, **options), np.ones(60))
    logs = right(kernel(x, y, depth, log=True, **options), np.zeros(60), log=True)
    np.testing.assert_array_equal(finite, logs)
    assert finite[:4].all()
    if "static_kernel" not in options:  # which is bounded
        assert not finite.all()


def test_long_paths_that_go_back_have_the_kernel_one_or_none(backend, rng):
    x, y = retraced(rng, 4, 270, 1) * sizes(4, 0.5, 8.0), walk(rng, 4, 530, 1, size=2.0)
    together = kernel(x, y, 4)
    finite = right(together, np.ones(4))
    assert 0 < finite.sum() < 4
    alone = [kernel(a, b, 4) for a, b in zip(x, y, strict=True)]
    np.testing.assert_array_equal(np.isnan(alone), np.isnan(together))


def exact_levels(x, y, depth, scalars):
    """log K_0 to log K_depth at every node."""
    g = oracles.increments(oracles.static_kernel("linear"), *(oracles.points(p, scalars) for p in (x, y)), scalars)
    levels = oracles.log_levels(g, depth, (0, 0), scalars)
    return np.array([[[float(u) for u in row] for row in level] for level in levels])


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_every_finite_value_grid_and_stack_is_right_to_many_digits(backend, depth, rng):
    scalars = oracles.mpmath_scalars(digits=60)
    alarms = known = 0
    for x, y in returning_families(rng, 2):
        stacks, logs = stack(x, y, depth), kernel(x, y, depth, log=True, return_grid=True)
        kernels, ends = kernel(x, y, depth), kernel(x, y, depth, log=True)
        for k, (a, b) in enumerate(zip(x, y, strict=True)):
            exact = exact_levels(a, b, depth, oracles.FLOATS)
            if not np.abs(exact).max() < 600:  # where kernels overflow, digits by the million would be needed
                continue
            exact = exact_levels(a, b, depth, scalars)
            known += 1
            right(stacks[k], np.exp(exact))
            right(logs[k], exact[-1], log=True)
            finite = right(kernels[k], np.exp(exact[-1, -1, -1]))
            right(ends[k], exact[-1, -1, -1], log=True)
            assert stacks[k, -1, -1, -1] == pytest.approx(kernels[k], rel=1e-3, nan_ok=True)
            alarms += not finite
    assert known > 20
    assert alarms < known / 2


@pytest.mark.parametrize("options", [{}, {"quadrature": "lobatto2"}], ids=str)
@pytest.mark.parametrize("order", [2, 5, 8])
def test_truncations_by_nodes_have_the_value_of_a_point_or_none(backend, order, options, rng):
    x, y = retraced(rng, 40, 6, 1) * sizes(40, 0.5, 300.0), walk(rng, 40, 8, 1, size=3.0)
    for which in ({}, {"log": True}, {"normalize": True}):
        values = kernel(x, y, math.inf, order=order, **which, **options)
        if "normalize" in which:
            own = kernel(y, y, math.inf, order=order, **options)
            finite = right(values, 1 / np.sqrt(own))
        else:
            finite = right(values, np.full(40, float("log" not in which)), log="log" in which)
        assert finite[:5].all()
    levels = kernel(x, y, math.inf, order=order, return_levels=True, **options)
    right(levels, np.eye(order + 1)[0] * np.ones((40, 1)), log=True)
    grids = kernel(x, y, math.inf, order=order, return_grid=True, **options)
    right(grids[:, -1], np.ones((40, 8)))
    assert order == 2 or not np.isfinite(levels).all()


@pytest.mark.parametrize("options", [{}, {"quadrature": "lobatto2"}], ids=str)
def test_without_truncation_a_path_that_goes_back_has_the_kernel_one_or_none(backend, options, rng):
    x, y = retraced(rng, 40, 6, 2) * sizes(40, 0.1, 2.0), walk(rng, 40, 8, 2)
    finite = right(kernel(x, y, math.inf, **options), np.ones(40))
    assert finite[:10].all()
    grids = kernel(x, y, math.inf, return_grid=True, **options)
    right(grids[:, -1], np.ones((40, 8)))


def test_normalised_kernels_are_right_where_logarithms_are_large(backend):
    # log K of depth 2 is of the size 1e13 on both sides. It has its digits, and a small difference has none of them.
    x = np.array([[0.0], [3.0], [5.5]])
    near = (1 + 1e-7) * x
    assert kernel(x, near, 2, log=True) > 1e13
    for log in (False, True):
        assert math.isnan(kernel(x, near, 2, normalize=True, log=log))
        gradient, _ = backprop(np.asarray(1.0), x, near, 2, normalize=True, log=log)
        assert np.isnan(gradient).all()
        assert kernel(x, x, 2, normalize=True, log=log) == (0.0 if log else 1.0)
    scalars = oracles.mpmath_scalars()
    far = 1.0001 * x
    wanted = oracles.log_kernel(x, far, 2, scalars=scalars)
    wanted -= (oracles.log_kernel(x, x, 2, scalars=scalars) + oracles.log_kernel(far, far, 2, scalars=scalars)) / 2
    assert wanted < -1e8  # a difference so large that the kernel is 0 all the same
    assert kernel(x, far, 2, normalize=True) == 0.0
    y = 0.5 * x

    def exact(a, b):
        return oracles.log_kernel(a, b, 2, scalars=scalars)

    wanted = exact(y, 1.1 * y) - (exact(y, y) + exact(1.1 * y, 1.1 * y)) / 2
    assert kernel(y, 1.1 * y, 2, normalize=True) == pytest.approx(math.exp(wanted), rel=1e-10)


def test_self_kernels_below_zero_have_no_norm(backend):
    # Of order 1 the kernel is 1 + the increment of the static kernel, here 1 - 4 for x with itself.
    class Negative(QuarticKernel):
        def __call__(self, ctx, x, y):
            ctx.save_for_backward(x, y)
            return -np.einsum("bik,bjk->bij", np.diff(x, axis=1), np.diff(y, axis=1))

        def grad_x(self, ctx, derivs):
            d = np.einsum("bij,bjk->bik", -derivs, np.diff(ctx.saved_tensors[1], axis=1))
            return np.pad(d, ((0, 0), (1, 0), (0, 0))) - np.pad(d, ((0, 0), (0, 1), (0, 0)))

        def grad_y(self, ctx, derivs):
            d = np.einsum("bij,bik->bjk", -derivs, np.diff(ctx.saved_tensors[0], axis=1))
            return np.pad(d, ((0, 0), (1, 0), (0, 0))) - np.pad(d, ((0, 0), (0, 1), (0, 0)))

    x, y = np.array([[0.0], [2.0]]), np.array([[0.0], [0.5]])
    options = {"order": 1, "static_kernel": Negative()}
    assert kernel(x, x, 1, **options) == -3.0
    for log in (False, True):
        for a, b in ((x, x), (x, y), (y, x)):
            assert math.isnan(kernel(a, b, 1, normalize=True, log=log, **options))
            for gradient in backprop(np.asarray(1.0), a, b, 1, normalize=True, log=log, right_deriv=True, **options):
                assert np.isnan(gradient).all()
    both = np.stack([x, y])
    np.testing.assert_array_equal(np.isnan(gram(both, None, 1, normalize=True, **options)), [[1, 1], [1, 0]])
    # a kernel below 0 with norms above it is a value, but has no logarithm, nor a gradient of one
    plain = {"order": 1}
    assert kernel(x, -x, 1, normalize=True, **plain) == pytest.approx(-3.0 / 5.0)
    for normalize in (False, True):
        assert math.isnan(kernel(x, -x, 1, normalize=normalize, log=True, **plain))
        gradient, _ = backprop(np.asarray(1.0), x, -x, 1, normalize=normalize, log=True, **plain)
        assert np.isnan(gradient).all()


VARIANTS = [
    {"depth": 3},
    {"depth": 3, "log": True},
    {"depth": 3, "normalize": True},
    {"depth": 3, "return_grid": True},
    {"depth": 3, "return_grid": True, "log": True},
    {"depth": 3, "quadrature": "lobatto2"},
    {"depth": 3, "quadrature": "lobatto2", "return_grid": True},
    {"depth": 3, "dyadic_order": (1, 1)},
    {"depth": 8, "order": 8},
    {"depth": 8, "order": 8, "return_grid": True},
    {"depth": 8, "order": 8, "return_levels": True},
    {"depth": 3, "static_kernel": QuarticKernel()},
    {"depth": 3, "static_kernel": QuarticKernel(), "return_grid": True},
]


def spoilt_pairs(values, pairs):
    """Which pairs have a value that is not finite."""
    return ~np.isfinite(np.asarray(values).reshape(*pairs, -1)).all(axis=-1)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_gradients_are_nan_where_values_are_not_finite_and_nowhere_else(backend, options, rng):
    x, y = mixed(rng, 12), mixed(rng, 12)
    x = 100 * x if "order" in options else x  # a polynomial loses its digits later
    values = kernel(x, y, **options)
    spoilt = spoilt_pairs(values, (24,))
    assert 0 < spoilt.sum() < 24
    for gradient in backprop(np.ones(values.shape), x, y, right_deriv=True, **options):
        np.testing.assert_array_equal(np.isnan(gradient).all(axis=(1, 2)), spoilt)
        np.testing.assert_array_equal(np.isnan(gradient).any(axis=(1, 2)), spoilt)
    nothing = np.where(spoilt.reshape(24, *(1,) * (values.ndim - 1)), 0.0, np.ones(values.shape))
    for gradient in backprop(nothing, x, y, right_deriv=True, **options):
        assert np.isfinite(gradient).all()
        assert not gradient[spoilt].any()


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_pair_is_judged_by_itself_in_every_batch(backend, options, rng):
    x, y = mixed(rng, 5), mixed(rng, 4)
    matrix = gram(x, y, **options)
    for i, j in itertools.product(range(10), range(8)):
        np.testing.assert_array_equal(matrix[i, j], kernel(x[i], y[j], **options))
    square = gram(x, None, **options)
    np.testing.assert_array_equal(np.isnan(square), np.isnan(gram(x, x.copy(), **options)))
    halves = (a.reshape(2, 5, *x.shape[1:]) for a in (x, x[::-1]))
    batched = kernel(*halves, check_finite=False, **options)
    flat = kernel(x, x[::-1].copy(), **options)
    np.testing.assert_array_equal(batched, flat.reshape(batched.shape))
    limited = gram(x, y, max_batch=2, n_jobs=2, **options)
    np.testing.assert_array_equal(limited, matrix)
    left, right_side = gram_backprop(np.ones(matrix.shape), x, y, right_deriv=True, **options)
    spoilt = spoilt_pairs(matrix, (10, 8))
    np.testing.assert_array_equal(np.isnan(left).any(axis=(1, 2)), spoilt.any(axis=1))
    np.testing.assert_array_equal(np.isnan(right_side).any(axis=(1, 2)), spoilt.any(axis=0))


@pytest.mark.parametrize("options", VARIANTS[:9], ids=str)
def test_padding_says_nothing_of_digits(backend, options, rng):
    x, y = 6 * mixed(rng, 12), mixed(rng, 12)
    x = 100 * x if "order" in options else x
    lengths = rng.integers(1, 8, (2, 24))
    values = kernel(x, y, lengths1=lengths[0], lengths2=lengths[1], **options)
    alone = [
        np.asarray(kernel(a[:m], b[:n], **options)).reshape(-1)[-1] for a, b, m, n in zip(x, y, *lengths, strict=True)
    ]
    ends = values.reshape(24, -1)[:, -1]
    np.testing.assert_array_equal(np.isnan(ends), np.isnan(alone))
    finite = np.isfinite(alone)
    np.testing.assert_allclose(ends[finite], np.asarray(alone)[finite], rtol=1e-3)
    assert 0 < finite.sum() < 24 or "order" in options


@pytest.mark.parametrize("options", VARIANTS[:9], ids=str)
def test_single_precision_is_judged_by_the_digits_of_double(backend, options, rng):
    x, y = mixed(rng, 12).astype(np.float32), mixed(rng, 12).astype(np.float32)
    values, wanted = kernel(x, y, **options), kernel(x.astype(float), y.astype(float), **options)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(values), np.isnan(wanted))
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(values, wanted.astype(np.float32), rtol=1e-6)


@pytest.mark.parametrize("form", [{}, {"log": True}, {"return_grid": True}], ids=str)
def test_gradients_with_a_stack_are_judged_as_those_without(backend, form, rng):
    x, y = mixed(rng, 12), mixed(rng, 12)
    values, kept = kernel(x, y, 3, **form), stack(x, y, 3)
    derivs = np.ones(values.shape)
    found = backprop(derivs, x, y, 3, right_deriv=True, k_stack=kept, **form)
    wanted = backprop(derivs, x, y, 3, right_deriv=True, **form)
    for mine, its in zip(found, wanted, strict=True):
        assert np.isnan(mine[np.isnan(its)]).all()
        if "log" not in form:  # the logarithm of a kernel that overflowed is not to be had from a stack
            np.testing.assert_array_equal(np.isnan(mine), np.isnan(its))
    assert 0 < np.isnan(wanted[0]).sum() < wanted[0].size


def test_ordinary_paths_keep_their_digits(backend, reference, rng):
    for depth in (2, 3, 4, 6, 8):
        x = walk(rng, 12, 40, 3)
        x, _ = scaled(x, x, depth, reference, log_k=15.0)
        assert np.isfinite(gram(x, None, depth)).all()
        assert np.isfinite(gram(x, None, depth, log=True)).all()
        assert np.isfinite(gram(x, None, depth, normalize=True)).all()
        assert np.isfinite(gram(x, None, 10, order=depth)).all()


def test_overflow_is_infinite_even_where_its_logarithm_has_few_digits(backend):
    x = np.array([[0.0], [3.0], [6.0], [9.0]])
    assert kernel(x, x, 3) == math.inf
    assert kernel(x, -x, 1) == pytest.approx(math.exp(-81.0))


def test_the_warning_counts_what_is_infinite_and_what_is_nan(backend):
    far = np.array([[0.0], [4.0], [8.0], [9.0], [9.5]])
    fine = 0.01 * far
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = kernel(np.stack([THERE, far, fine]), np.stack([2.6 / 9.5 * far, far, fine]), 3)
    assert math.isnan(values[0])
    assert values[1] == math.inf
    [warning] = caught
    text = str(warning.message)
    assert text.startswith("2 of 3 values overflowed or lost all their digits: 1 are inf")
    assert "and 1 are NaN" in text
    assert 'normalize="dilation"' in text
    assert "RBFKernel" in text
    apart = 10.0 * np.arange(100)[:, None]  # every cell of the diagonal has the increment 2
    with pytest.warns(RuntimeWarning, match="1 of 1 values") as caught:
        kernel(apart, apart, 4, static_kernel=branchsig.RBFKernel(1.0))
    assert "RBFKernel" not in str(caught[-1].message)


@pytest.mark.parametrize("options", [{}, {"quadrature": "lobatto2"}, {"order": 3}], ids=str)
@pytest.mark.parametrize("spoilt", ["kappa", "path"])
def test_a_padded_path_of_one_point_has_the_kernel_one_whatever_the_other_is(backend, options, spoilt):
    # (<x, y> - 1)^1.5 is not a number at any point of these.
    static_kernel = branchsig.PolynomialKernel(1.5, -1.0, 1.0) if spoilt == "kappa" else branchsig.LinearKernel()
    x = np.zeros((3, 4, 1))
    y = np.linspace(0.0, 1.0, 5)[None, :, None] * np.ones((3, 1, 1))
    if spoilt == "path":
        y[:, 2] = math.nan
    options = {"static_kernel": static_kernel, "lengths1": [1, 4, 1], "check_finite": False, **options}
    for which in ({}, {"return_grid": True}):
        values = kernel(x, y, 3, **which, **options)
        assert np.all(values[[0, 2]] == 1.0)
        assert np.isnan(values[1]).any()
        for gradient in backprop(np.ones(values.shape), x, y, 3, right_deriv=True, **which, **options):
            assert not gradient[[0, 2]].any()
            assert np.isnan(gradient[1]).all() or gradient.shape[1] == 4
