"""Any number of batch axes on either side: the values, and the count of those that are not finite, are those of the
pairs taken one by one."""

import itertools
import math
import re
import warnings

import numpy as np
import pytest

import branchsig

AXES = [(), (3,), (2, 3), (2, 1, 3)]
OPTIONS = {
    "plain": {},
    "log": {"log": True},
    "grid": {"return_grid": True},
    "log grid": {"return_grid": True, "log": True},
    "unit": {"normalize": True},
    "order": {"order": 3},
    "levels": {"order": 3, "return_levels": True},
    "levels of grid": {"order": 3, "return_levels": True, "return_grid": True},
    "Lobatto": {"quadrature": "lobatto3"},
    "left point": {"quadrature": "left"},
    "rtol": {"rtol": 1e-6},
    "no truncation": {"depth": math.inf},
    "no truncation, grid": {"depth": math.inf, "return_grid": True},
    "dyadic": {"dyadic_order": (1, 0)},
    "lead-lag": {"lead_lag": True, "time_aug": True},
}
LIBRARIES = ["numpy", "torch", "jax", "array_api_strict"]


def paths(shape, length, seed):
    """Paths of one batch, every third of which is so large that its kernels leave the range of a double."""
    steps = np.abs(np.random.default_rng(seed).standard_normal((math.prod(shape), length, 2)))
    walks = 0.2 * steps.cumsum(axis=1)
    walks[::3] *= 1e160
    return walks.reshape(*shape, length, 2)


def quietly(function, *arguments, **options):
    """The result, and the messages of the warnings, of which there may be no other than those of the package."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*arguments, **options)
    assert all(warning.category is RuntimeWarning and warning.filename == __file__ for warning in caught), caught
    return result, [str(warning.message) for warning in caught]


def one_by_one(x, y, pairs, options):
    """The kernels of pairs without any batch axis, and how many values are not finite."""
    values = [quietly(branchsig.branched_sig_kernel, x[i], y[j], **options)[0] for i, j in pairs]
    return np.stack(values), sum(int(np.count_nonzero(~np.isfinite(value))) for value in values)


def counted(messages):
    """How many values overflowed, from each message, which may tell of the paths before."""
    assert len(messages) == 1
    return re.findall(r"\d+ of \d+(?= values (?!are not finite))", messages[0])


def indices(shape):
    return list(itertools.product(*map(range, shape)))


def is_right(found, messages, wanted, bad, shape):
    assert found.shape == (*shape, *wanted.shape[1:])
    np.testing.assert_allclose(np.asarray(found).reshape(wanted.shape), wanted, rtol=1e-5)
    assert bad > 0
    assert counted(messages) == [f"{bad} of {wanted.size}"]


def arrays(library, *given):
    if library == "numpy":
        return given
    module = pytest.importorskip({"jax": "jax.numpy"}.get(library, library))
    if library == "jax":
        pytest.importorskip("jax").config.update("jax_enable_x64", True)
    return tuple(module.asarray(array) for array in given)


@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("option", OPTIONS)
def test_pairs_of_any_batch_axes_have_the_values_and_the_warning_of_pairs_one_by_one(backend, option, axes):
    options = {"depth": 3} | OPTIONS[option]
    options |= {"depth": math.inf} if "order" in options else {}
    x, y = paths(axes, 4, 0), paths(axes, 3, 1)
    wanted, bad = one_by_one(x, y, [(i, i) for i in indices(axes)], options)
    is_right(*quietly(branchsig.branched_sig_kernel, x, y, **options), wanted, bad, axes)
    (value, pullback), messages = quietly(branchsig.branched_sig_kernel_vjp, x, y, **options)
    is_right(value, messages, wanted, bad, axes)
    (d_x, d_y), messages = quietly(pullback, np.ones(value.shape))
    assert not messages
    assert d_x.shape == x.shape
    assert d_y.shape == y.shape


@pytest.mark.parametrize(("axes1", "axes2"), list(itertools.product(AXES, AXES[:3])), ids=str)
@pytest.mark.parametrize("option", ["plain", "log", "levels of grid", "unit", "rtol", "no truncation"])
def test_gram_matrices_of_any_batch_axes_have_the_values_and_the_warning_of_pairs_one_by_one(
    backend, option, axes1, axes2
):
    options = {"depth": 3} | OPTIONS[option]
    options |= {"depth": math.inf} if "order" in options else {}
    x, y = paths(axes1, 4, 0), paths(axes2, 3, 1)
    wanted, bad = one_by_one(x, y, list(itertools.product(indices(axes1), indices(axes2))), options)
    found = quietly(branchsig.branched_sig_kernel_gram, x, y, max_batch=2, **options)
    is_right(*found, wanted, bad, axes1 + axes2)
    (value, pullback), messages = quietly(branchsig.branched_sig_kernel_gram_vjp, x, y, **options)
    is_right(value, messages, wanted, bad, axes1 + axes2)
    (d_x, d_y), messages = quietly(pullback, np.ones(value.shape))
    assert not messages
    assert d_x.shape == x.shape
    assert d_y.shape == y.shape


@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("option", ["plain", "log", "grid", "levels", "unit", "rtol", "no truncation"])
def test_symmetric_matrices_of_any_batch_axes_have_the_values_and_the_warning_of_pairs_one_by_one(
    backend, option, axes
):
    options = {"depth": 3} | OPTIONS[option]
    options |= {"depth": math.inf} if "order" in options else {}
    x = paths(axes, 4, 0)
    wanted, bad = one_by_one(x, x, list(itertools.product(indices(axes), repeat=2)), options)
    is_right(*quietly(branchsig.branched_sig_kernel_gram, x, None, **options), wanted, bad, axes + axes)
    (value, pullback), messages = quietly(branchsig.branched_sig_kernel_gram_vjp, x, None, **options)
    is_right(value, messages, wanted, bad, axes + axes)
    (d_x, nothing), messages = quietly(pullback, np.ones(value.shape))
    assert not messages
    assert d_x.shape == x.shape
    assert nothing is None


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_stacks_of_any_batch_axes_have_the_warning_of_pairs_one_by_one(backend, axes):
    x, y = paths(axes, 4, 0), paths(axes, 3, 1)
    each = [quietly(branchsig.branched_sig_kernel_stack, x[i], y[i], 3)[0] for i in indices(axes)]
    wanted = np.stack(each)
    found, messages = quietly(branchsig.branched_sig_kernel_stack, x, y, 3)
    is_right(found, messages, wanted, np.count_nonzero(~np.isfinite(wanted)), axes)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("option", ["plain", "log grid", "levels", "unit", "rtol", "no truncation"])
def test_arrays_of_every_library_with_two_batch_axes_are_counted(library, option):
    options = {"depth": 2} | OPTIONS[option]
    options |= {"depth": math.inf} if "order" in options else {}
    x, y = paths((2, 3), 3, 0), paths((2, 3), 3, 1)
    wanted, bad = one_by_one(x, y, [(i, i) for i in indices((2, 3))], options)
    is_right(*quietly(branchsig.branched_sig_kernel, *arrays(library, x, y), **options), wanted, bad, (2, 3))
    pairs = list(itertools.product(indices((2, 3)), repeat=2))
    wanted, bad = one_by_one(x, y, pairs, options)
    is_right(*quietly(branchsig.branched_sig_kernel_gram, *arrays(library, x, y), **options), wanted, bad, (2, 3) * 2)


def test_a_path_that_is_not_finite_is_not_counted_whatever_the_batch_axes(backend):
    x, y = paths((2, 3), 4, 0), paths((2, 3), 3, 1)
    x[0, 0, 1], y[1, 1, 2] = np.nan, np.inf
    _, messages = quietly(branchsig.branched_sig_kernel, x, y, 3)
    assert counted(messages) == ["1 of 6"]  # (1, 0); not (0, 0), which is NaN
    _, messages = quietly(branchsig.branched_sig_kernel_gram, x, y, 3)
    assert counted(messages) == ["13 of 36"]
    # Of 5 finite first paths, the large one overflows with 5 finite second ones, the other 4 with the 2 large ones.
