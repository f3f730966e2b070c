"""Means of kernels: their digits, their types, and what is warned of, and where."""

import math
import warnings

import mpmath
import numpy as np
import pytest
from cases import walk

import branchsig
from branchsig.operations import dilate, means

FUNCTIONS = ["branched_sig_mmd", "branched_sig_score", "expected_branched_sig_score"]
LIBRARIES = [(name, dtype) for name in ("numpy", "torch", "array_api_strict") for dtype in ("float32", "float64")]
LIBRARIES.append(("jax.numpy", "float32"))  # which has no float64 unless told


def single_steps(ends, dtype=np.float64):
    return np.stack([np.zeros_like(ends), ends], axis=1)[:, :, None].astype(dtype)


def exact(xs, ys, unbiased, weight2):
    """Weighted means of exp(x y), the kernel of single steps at depth 1, with arithmetic of fifty digits."""
    with mpmath.workdps(50):
        xs, ys = ([mpmath.mpf(float(v)) for v in values] for values in (xs, ys))

        def within(values):
            pairs = [(i, j) for i in range(len(values)) for j in range(len(values)) if i != j or not unbiased]
            return mpmath.fsum(mpmath.exp(values[i] * values[j]) for i, j in pairs) / len(pairs)

        across = mpmath.fsum(mpmath.exp(x * y) for x in xs for y in ys) / (len(xs) * len(ys))
        return within(xs) - 2 * across + (within(ys) if weight2 else 0)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-8, 1e-6, 1e-3, 0.1, 1.0])
def test_discrepancies_keep_their_digits_where_all_kernels_are_near_one(size, dtype, unbiased, rng):
    x, y = (size * rng.standard_normal(9) + size * shift for shift in (0.0, 2.0))
    x, y = x.astype(dtype), y.astype(dtype)
    found = branchsig.branched_sig_mmd(single_steps(x, dtype), single_steps(y, dtype), 1, unbiased=unbiased)
    assert found.dtype == dtype
    wanted = float(exact(x, y, unbiased, weight2=True))
    assert float(found) == pytest.approx(wanted, rel=max(1e-13, float(np.finfo(dtype).eps)))
    score = branchsig.expected_branched_sig_score(single_steps(x, dtype), single_steps(y, dtype), 1, unbiased=unbiased)
    assert float(score) == pytest.approx(float(exact(x, y, unbiased, weight2=False)), rel=float(np.finfo(dtype).eps))


@pytest.mark.parametrize("options", [{"normalize": True}, {"order": 3}, {"order": 3, "normalize": True}])
def test_the_digits_are_kept_under_every_option(options, rng):
    # At first order in the square of the size: differences of ends in the first, of directions and sizes in the others.
    x, y = (rng.standard_normal(6) + shift for shift in (0.0, 2.0))
    size = 1e-7
    found = branchsig.branched_sig_mmd(single_steps(size * x), single_steps(size * y), math.inf, **options)
    products = [np.multiply.outer(a, b) for a, b in ((x, x), (x, y), (y, y))]
    if "normalize" in options:
        products = [
            p - (a[:, None] ** 2 + b**2) / 2 for p, (a, b) in zip(products, ((x, x), (x, y), (y, y)), strict=True)
        ]
    within = [(p.sum() - np.trace(p)) / 30 for p in (products[0], products[2])]
    wanted = within[0] - 2 * products[1].mean() + within[1]
    assert float(found) / size**2 == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    "options", [{}, {"normalize": True}, {"normalize": "dilation"}, {"time_aug": True, "lead_lag": True}]
)
def test_arrays_of_float32_are_float32_at_the_border_alone(name, options, rng):
    x, y = (walk(rng, n, 5, 2, size=0.5, dtype=np.float32) for n in (4, 3))
    doubles = x.astype(float), y.astype(float)
    found, wanted = (getattr(branchsig, name)(*samples, 3, **options) for samples in ((x, y), doubles))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted.astype(np.float32))
    derivs = rng.standard_normal(found.shape).astype(np.float32)
    backward = getattr(branchsig, name + "_backprop")
    found = backward(derivs, x, y, 3, right_deriv=True, **options)
    wanted = backward(derivs.astype(float), *doubles, 3, right_deriv=True, **options)
    for mine, its in zip(found, wanted, strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_array_equal(mine, its.astype(np.float32))


@pytest.mark.parametrize(("library", "dtype"), LIBRARIES)
@pytest.mark.parametrize("normalize", [False, True, "dilation"])
def test_results_are_arrays_of_the_library_with_no_axes(library, dtype, normalize, rng):
    xp = pytest.importorskip(library)
    x, y = (walk(rng, n, 5, 2, size=0.5, dtype=np.float32) for n in (4, 3))
    there = [xp.asarray(sample, dtype=getattr(xp, dtype)) for sample in (x, y)]
    for name in FUNCTIONS:
        function, backward = getattr(branchsig, name), getattr(branchsig, name + "_backprop")
        found, wanted = function(*there, 3, normalize=normalize), function(x, y, 3, normalize=normalize)
        assert type(found) is type(there[0])
        assert found.dtype == there[0].dtype
        assert tuple(found.shape) == ((3,) if name == "branched_sig_score" else ())
        np.testing.assert_allclose(np.asarray(found, dtype=float), wanted, rtol=3e-5, atol=1e-6)
        if name != "branched_sig_score":
            gradients = backward(1.0, *there, 3, normalize=normalize, right_deriv=True)
            for gradient, its in zip(
                gradients, backward(1, x, y, 3, normalize=normalize, right_deriv=True), strict=True
            ):
                assert gradient.dtype == there[0].dtype
                np.testing.assert_allclose(np.asarray(gradient, dtype=float), its, rtol=1e-3, atol=1e-5)


def test_a_number_is_taken_for_the_derivative_of_a_result_without_axes(rng):
    x, y = walk(rng, 4, 5, 2), walk(rng, 3, 5, 2)
    wanted, _ = branchsig.branched_sig_mmd_backprop(np.asarray(2.0), x, y, 2)
    for derivs in (2.0, 2, np.float64(2.0)):
        np.testing.assert_array_equal(branchsig.branched_sig_mmd_backprop(derivs, x, y, 2)[0], wanted)
    d_x, _ = branchsig.branched_sig_score_backprop(1.0, x, y[0], 2)
    np.testing.assert_array_equal(d_x, branchsig.branched_sig_score_backprop(np.ones(1), x, y[:1], 2)[0])
    with pytest.raises(TypeError, match="derivs is of type bool"):
        branchsig.branched_sig_mmd_backprop(True, x, y, 2)
    with pytest.raises(TypeError, match="derivs is of type float"):
        branchsig.branched_sig_score_backprop(1.0, x, y, 2)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_samples_of_several_batch_axes_are_flattened(name, rng):
    x, y = walk(rng, 6, 5, 2), walk(rng, 4, 5, 2)
    options = {"lengths1": np.array([5, 4, 3, 2, 5, 5]), "lengths2": np.array([2, 3, 4, 5])}
    function, backward = getattr(branchsig, name), getattr(branchsig, name + "_backprop")
    wanted = function(x, y, 2, **options)
    derivs = rng.standard_normal(wanted.shape)
    gradients = backward(derivs, x, y, 2, right_deriv=True, **options)
    batches = (2, 3), (2, 1, 2)
    samples = [sample.reshape(*batch, 5, 2) for sample, batch in zip((x, y), batches, strict=True)]
    options = {key: lengths.reshape(batch) for (key, lengths), batch in zip(options.items(), batches, strict=True)}
    found = function(*samples, 2, **options)
    shape = batches[1] if name == "branched_sig_score" else ()
    np.testing.assert_array_equal(found, wanted.reshape(shape))
    for gradient, sample, its in zip(
        backward(derivs.reshape(shape), *samples, 2, right_deriv=True, **options), samples, gradients, strict=True
    ):
        np.testing.assert_array_equal(gradient, its.reshape(sample.shape))


def warned(function, *arguments, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*arguments, **options)
    return result, caught


@pytest.fixture(params=[256, 2])
def block(request, monkeypatch):
    """One block, and blocks of which samples have several."""
    monkeypatch.setattr(means, "_BLOCK", request.param)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_overflow_gives_one_warning_at_the_line_of_the_caller(block, name, library, rng):
    xp = pytest.importorskip(library)
    x, y = walk(rng, 5, 4, 1), walk(rng, 3, 4, 1)
    # Two large paths of the first sample: only their kernel with each other, twice, and none of any other pair.
    x[:2] = np.array([0.0, 20, 40, 60])[:, None]
    x[2:] = y[:] = np.array([0.0, 1e-4, 2e-4, 3e-4])[:, None]
    result, caught = warned(getattr(branchsig, name), xp.asarray(x), xp.asarray(y), 2)
    assert not np.isfinite(np.asarray(result)).any()
    assert [warning.category for warning in caught] == [RuntimeWarning]
    assert caught[0].filename == __file__
    total = 20 + 15 + (6 if name == "branched_sig_mmd" else 0)
    assert str(caught[0].message).startswith(f"2 of the {total} kernels that the result depends on overflowed")
    assert 'Use normalize="dilation"' in str(caught[0].message)
    _, caught = warned(getattr(branchsig, name), xp.asarray(x), xp.asarray(y), 2, check_finite=False)
    assert not caught


@pytest.mark.parametrize("name", FUNCTIONS)
def test_kernels_that_the_result_does_not_take_are_not_warned_of(block, name, rng):
    x, y = walk(rng, 3, 4, 1), walk(rng, 3, 4, 1)
    x[0] = np.array([0.0, 20, 40, 60])[:, None]
    x[1:] = y[:] = np.array([0.0, 1e-4, 2e-4, 3e-4])[:, None]
    for normalize in (False, "dilation"):
        result, caught = warned(getattr(branchsig, name), x, y, 2, normalize=normalize)
        assert np.isfinite(result).all()
        assert not caught
    result, caught = warned(getattr(branchsig, name), x, y, 2, unbiased=False)
    assert len(caught) == 1
    assert str(caught[0].message).startswith("1 of the ")


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("normalize", [False, True, "dilation"])
def test_nan_in_a_sample_is_named_in_one_warning(block, name, normalize, rng):
    x, y = walk(rng, 5, 6, 2), walk(rng, 3, 6, 2)
    x[1, 4:] = x[3, 2:] = math.nan
    result, caught = warned(getattr(branchsig, name), x, y, 2, normalize=normalize)
    assert np.isnan(result).all()
    assert [warning.category for warning in caught] == [RuntimeWarning]
    assert caught[0].filename == __file__
    first = "sample" if name == "branched_sig_score" else "sample1"
    for part in (f"{first}[1]", f"{first}[3]", "lengths1="):
        assert part in str(caught[0].message)
    assert "overflowed" not in str(caught[0].message)
    # The remedy of the warning.
    found, caught = warned(getattr(branchsig, name), x, y, 2, normalize=normalize, lengths1=[6, 4, 6, 2, 6])
    assert np.isfinite(found).all()
    assert not caught


def test_nan_in_one_observation_leaves_the_scores_of_others(rng):
    x, y = walk(rng, 4, 6, 2), walk(rng, 3, 6, 2)
    y[1, 2, 0] = math.nan
    scores, caught = warned(branchsig.branched_sig_score, x, y, 2)
    np.testing.assert_array_equal(np.isnan(scores), [False, True, False])
    assert len(caught) == 1
    assert "y[1] holds NaN" in str(caught[0].message)


@pytest.mark.parametrize("name", [*FUNCTIONS, "branched_sig_mmd_test"])
def test_samples_of_one_point_paths_are_warned_of(name, rng):
    # (n, channels, length) with one channel.
    x, y = rng.standard_normal((5, 1, 7)), rng.standard_normal((4, 1, 7))
    _, caught = warned(getattr(branchsig, name), x, y, 2)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "every path has one point" in str(caught[0].message)
    for samples in ((x.swapaxes(1, 2), y.swapaxes(1, 2)), (x, y.swapaxes(1, 2)[:, :, [0] * 7])):
        assert not warned(getattr(branchsig, name), *samples, 2, normalize="dilation")[1]


def test_a_result_beyond_the_range_of_float32_is_warned_of():
    ends = np.array([10.0, 10.0], dtype=np.float32)  # exp(100) is 2.7e43
    found, caught = warned(
        branchsig.branched_sig_mmd, single_steps(ends, np.float32), single_steps(-ends, np.float32), 1
    )
    assert found.dtype == np.float32
    assert found == math.inf
    assert len(caught) == 1
    assert "the result is beyond the range of float32" in str(caught[0].message)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_warn_of_nothing(name, rng):
    x, y = 30 * walk(rng, 4, 5, 2), walk(rng, 3, 5, 2)
    x[1] = math.nan
    backward = getattr(branchsig, name + "_backprop")
    derivs = np.ones(3) if name == "branched_sig_score" else 1.0
    for normalize in (False, True, "dilation"):
        (d_x, _), caught = warned(backward, derivs, x, y, 3, normalize=normalize)
        assert np.isnan(d_x[1]).all()
        assert not caught


@pytest.mark.parametrize("backward", [False, True])
def test_factors_of_dilation_are_found_once_for_every_sample(backward, monkeypatch, rng):
    scale, sizes = dilate.scale, []

    def scaled(problem, **options):
        sizes.append((problem.path1.shape[0], problem.path2.shape[0]))
        return scale(problem, **options)

    monkeypatch.setattr(dilate, "scale", scaled)
    monkeypatch.setattr(means, "_BLOCK", 2)
    x, y = walk(rng, 7, 5, 2), walk(rng, 5, 5, 2)
    if backward:
        branchsig.branched_sig_mmd_backprop(1.0, x, y, 2, normalize="dilation", right_deriv=True)
    else:
        branchsig.branched_sig_mmd(x, y, 2, normalize="dilation")
    assert sizes == [(7, 5)]


@pytest.mark.parametrize("normalize", [False, True, "dilation"])
def test_a_sample_beside_itself_has_its_own_lengths(normalize, rng):
    x, lengths = walk(rng, 5, 6, 2), [6, 3, 2, 5, 4]
    options = {"normalize": normalize, "lengths1": lengths}
    twice = branchsig.branched_sig_mmd(x, x, 2, **options)
    assert float(twice) == pytest.approx(float(branchsig.branched_sig_mmd(x, x.copy(), 2, lengths2=lengths, **options)))
    found = branchsig.branched_sig_mmd_backprop(1.0, x, x, 2, right_deriv=True, **options)
    wanted = branchsig.branched_sig_mmd_backprop(1.0, x, x.copy(), 2, right_deriv=True, lengths2=lengths, **options)
    for mine, its in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-12, atol=1e-14)


def test_one_path_is_a_sample_only_where_pairs_of_it_are_not_needed(rng):
    x, y = walk(rng, 4, 5, 2), walk(rng, 1, 5, 2)
    assert np.isfinite(branchsig.branched_sig_score(y, x, 2, lam=0)).all()
    assert np.isfinite(branchsig.branched_sig_mmd(x, y, 2, unbiased=False))
    assert branchsig.branched_sig_score(x, y[0], 2).shape == ()
    with pytest.raises(ValueError, match="sample2 has one path: .* or unbiased=False"):
        branchsig.branched_sig_mmd(x, y, 2)
    with pytest.raises(ValueError, match=r"sample2 has shape \(5, 2\), which is that of one path"):
        branchsig.expected_branched_sig_score(x, y[0], 2)


def test_samples_that_cannot_be_written_to_are_taken(rng):
    x, y, derivs = walk(rng, 4, 5, 2), walk(rng, 3, 5, 2), rng.standard_normal(3)
    wanted = branchsig.branched_sig_score_backprop(derivs, x, y, 2)[0]
    for array in (x, y, derivs):
        array.flags.writeable = False
    np.testing.assert_array_equal(branchsig.branched_sig_score_backprop(derivs, x, y, 2)[0], wanted)


def test_jax_differentiates_and_compiles_means_by_itself(rng):
    jax = pytest.importorskip("jax")
    x, y = (jax.numpy.asarray(walk(rng, n, 4, 2, size=0.5, dtype=np.float32)) for n in (3, 4))
    value, gradient = jax.jit(jax.value_and_grad(lambda sample: branchsig.branched_sig_mmd(sample, y, 2)))(x)
    np.testing.assert_allclose(value, branchsig.branched_sig_mmd(x, y, 2), rtol=1e-4)
    np.testing.assert_allclose(gradient, branchsig.branched_sig_mmd_backprop(1.0, x, y, 2)[0], rtol=1e-3, atol=1e-5)
    # Derivatives that are traced while the samples are not.
    derivs = jax.numpy.ones((), dtype=x.dtype)
    found = jax.jit(lambda derivs: branchsig.branched_sig_mmd_backprop(derivs, x, y, 2)[0])(derivs)
    np.testing.assert_allclose(found, gradient, rtol=1e-3, atol=1e-5)


def test_torch_differentiates_means_by_itself(rng):
    torch = pytest.importorskip("torch")
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-11)):
        x, y = (torch.asarray(walk(rng, n, 4, 2, size=0.5), dtype=dtype) for n in (3, 4))
        for normalize in (False, True, "dilation"):
            recorded = x.clone().requires_grad_()
            value = branchsig.branched_sig_mmd(recorded, y, 2, normalize=normalize)
            assert value.dtype == dtype
            value.backward()
            wanted, _ = branchsig.branched_sig_mmd_backprop(1.0, x, y, 2, normalize=normalize)
            np.testing.assert_allclose(recorded.grad, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("return_grid", [False, True])
def test_logarithms_of_sums_over_nodes_keep_their_digits(order, return_grid):
    # log K = c + O(c^2) for single steps of product c, as log(1 + c) at order 1.
    c = np.array([1e-18, -1e-12, 1e-9])
    x, y = single_steps(np.ones(3)), single_steps(c)
    found = branchsig.branched_sig_kernel(x, y, math.inf, order=order, log=True, return_grid=return_grid)
    found = found[:, -1, -1] if return_grid else found
    np.testing.assert_allclose(found, np.log1p(c), rtol=3e-9 if order > 1 else 1e-14)


def test_a_kernel_with_itself_that_is_not_positive_has_no_root():
    # With this κ the sum over one node is -3 for x with itself, and the kernel of order 1 is -2.
    class Negative(branchsig.StaticKernel):
        def __call__(self, ctx, x, y):
            return -3.0 * np.diff(np.diff(np.einsum("bik,bjk->bij", x, y), axis=1), axis=2)

    x, y = single_steps(np.ones(2)), single_steps(np.array([0.1, -0.1]))
    for log in (False, True):
        options = {"order": 1, "normalize": True, "log": log, "static_kernel": Negative()}
        for function, second in ((branchsig.branched_sig_kernel, y), (branchsig.branched_sig_kernel_gram, None)):
            found, caught = warned(function, x, second, math.inf, **options)
            assert np.isnan(found).all()
            assert len(caught) == 1
