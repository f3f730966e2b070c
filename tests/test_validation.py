"""Bad input is refused before any work, in words; unusual but valid input is taken as it is, and never written to."""

import math
import re

import array_api_strict
import numpy as np
import pytest

import branchsig
from branchsig import _validation

PAIRED = (
    branchsig.branched_sig_kernel,
    branchsig.branched_sig_kernel_vjp,
    branchsig.branched_sig_kernel_stack,
    lambda path1, path2, *args, **kwargs: branchsig.branched_sig_kernel_backprop(
        np.ones(3), path1, path2, *args, **kwargs
    ),
)
GRAM = (
    branchsig.branched_sig_kernel_gram,
    branchsig.branched_sig_kernel_gram_vjp,
    lambda path1, path2, *args, **kwargs: branchsig.branched_sig_kernel_gram_backprop(
        np.ones((3, 3)), path1, path2, *args, **kwargs
    ),
)
PAIRED_NAMES = ("kernel", "vjp", "stack", "backprop")
GRAM_NAMES = ("gram", "gram_vjp", "gram_backprop")


def in_words(value):
    """The representation of a value without its address, which is another one in every process."""
    return re.sub(r" at 0x\w+", "", repr(value))


every_function = pytest.mark.parametrize("function", PAIRED + GRAM, ids=PAIRED_NAMES + GRAM_NAMES)
every_paired = pytest.mark.parametrize("function", PAIRED, ids=PAIRED_NAMES)
every_gram = pytest.mark.parametrize("function", GRAM, ids=GRAM_NAMES)

pytestmark = pytest.mark.filterwarnings("ignore:the compiled core of branchsig is not available:RuntimeWarning")


class RefuseToWork(branchsig.StaticKernel):
    """Fails where a check let something through to the arithmetic."""

    def __call__(self, ctx, x, y):
        raise AssertionError("the arithmetic was reached")


def paths(*shape, seed=0, scale=0.3):
    return np.random.default_rng(seed).normal(scale=scale, size=shape)


@pytest.fixture
def x():
    return paths(3, 5, 2, seed=1)


@pytest.fixture
def y():
    return paths(3, 4, 2, seed=2)


# Paths


@every_function
@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((), r"path1 has shape \(\): expected \(\.\.\., length, dimension\)"),
        ((5,), r"path1 has shape \(5,\).*shape \(length, 1\)"),
        ((3, 0, 2), r"path1 has shape \(3, 0, 2\).*length >= 1"),
        ((3, 5, 0), r"path1 has shape \(3, 5, 0\).*dimension >= 1"),
        ((0, 2), r"path1 has shape \(0, 2\).*length >= 1"),
    ],
)
def test_a_path_must_have_points_and_channels(function, shape, words, y):
    with pytest.raises(ValueError, match=words):
        function(np.zeros(shape), y, 2, static_kernel=RefuseToWork())


@every_function
def test_the_second_path_is_checked_by_its_own_name(function, x):
    with pytest.raises(ValueError, match=r"path2 has shape \(5,\)"):
        function(x, np.zeros(5), 2, static_kernel=RefuseToWork())


@every_function
def test_both_paths_must_have_the_same_dimension(function, x):
    with pytest.raises(ValueError, match=r"path1 has shape \(3, 5, 2\) and path2 \(3, 4, 3\).*not 2 and 3"):
        function(x, paths(3, 4, 3), 2, static_kernel=RefuseToWork())


@every_paired
@pytest.mark.parametrize("shape", [(4, 4, 2), (4, 2), (1, 4, 2), (3, 1, 4, 2)])
def test_paths_in_pairs_must_have_the_same_batch_shape(function, shape, x):
    with pytest.raises(ValueError, match="batch shape .* expected equal batch shapes.*branched_sig_kernel_gram"):
        function(x, paths(*shape), 2, static_kernel=RefuseToWork())


@every_function
@pytest.mark.parametrize(
    "dtype", [np.int64, np.int32, np.float16, np.longdouble, np.complex128, object, bool, "U4", "M8[s]"]
)
@pytest.mark.parametrize("position", [1, 2])
def test_only_float32_and_float64_are_taken(function, dtype, position, x, y):
    bad = np.zeros((3, 4, 2)).astype(dtype)
    with pytest.raises(TypeError, match=rf"path{position} has dtype .*: expected float32 or float64"):
        function(*((bad, y) if position == 1 else (x, bad)), 2, static_kernel=RefuseToWork())


@every_function
@pytest.mark.parametrize("bad", [[[0.0, 1.0]], ((0.0,),), 1.0, np.float64(1.0), "path", iter([1.0])], ids=in_words)
def test_what_is_no_array_is_refused_with_the_way_to_make_one(function, bad, y):
    with pytest.raises(TypeError, match=r"path1 is of type .*numpy\.asarray\(path1"):
        function(bad, y, 2, static_kernel=RefuseToWork())


@every_paired
def test_functions_of_pairs_need_a_second_path(function, x):
    with pytest.raises(
        TypeError, match="path2 is of type NoneType.*pass them twice; only a Gram matrix takes path2=None"
    ):
        function(x, None, 2, static_kernel=RefuseToWork())
    with pytest.raises(TypeError, match="path1 is of type list.*different lengths give a list of arrays"):
        function([x[0].tolist(), x[0, :2].tolist()], x, 2, static_kernel=RefuseToWork())


@every_function
def test_a_masked_array_is_refused_since_its_mask_would_be_lost(function, x, y):
    with pytest.raises(TypeError, match="path1 is a masked array"):
        function(np.ma.masked_array(x), y, 2, static_kernel=RefuseToWork())


@every_function
def test_both_paths_must_have_the_same_dtype(function, x, y):
    with pytest.raises(TypeError, match="path2 has dtype float32 and path1 has dtype float64"):
        function(x, y.astype(np.float32), 2, static_kernel=RefuseToWork())


@every_function
def test_both_paths_must_come_from_one_library(function, x, y):
    with pytest.raises(TypeError, match="path2 is an array of array_api_strict and path1 of numpy"):
        function(x, array_api_strict.asarray(y), 2, static_kernel=RefuseToWork())


@every_function
def test_both_paths_must_lie_on_one_device(function, x, y):
    here = array_api_strict.asarray(x)
    there = array_api_strict.asarray(y, device=array_api_strict.Device("device1"))
    with pytest.raises(ValueError, match="path2 lies on device .*device1.* move one of them"):
        function(here, there, 2, static_kernel=RefuseToWork())


# Depth and dyadic order


@every_function
@pytest.mark.parametrize(
    ("depth", "error", "words"),
    [
        (-1, ValueError, "depth is -1: expected an integer >= 0"),
        (True, TypeError, "depth is True: .*not a truth value"),
        (np.True_, TypeError, "depth is .*True.*: .*not a truth value"),
        (2.0, TypeError, r"depth is 2\.0: expected an integer >= 0"),
        (1.5, TypeError, r"depth is 1\.5: expected an integer >= 0"),
        ("2", TypeError, "depth is '2': expected an integer >= 0"),
        (None, TypeError, "depth is None: expected an integer >= 0"),
    ],
)
def test_the_depth_is_an_integer_that_is_not_negative(function, depth, error, words, x, y):
    with pytest.raises(error, match=words):
        function(x, y, depth, static_kernel=RefuseToWork())


@every_function
@pytest.mark.parametrize(
    ("order", "error", "words"),
    [
        (-1, ValueError, "dyadic_order is -1: expected an integer >= 0 or a pair"),
        ((0, -1), ValueError, r"dyadic_order is \(0, -1\): expected"),
        (True, TypeError, "dyadic_order is True: .*not a truth value"),
        ((0, False), TypeError, "dyadic_order is False: .*not a truth value"),
        (1.0, TypeError, r"dyadic_order is 1\.0: expected"),
        ((1, 0.5), TypeError, r"dyadic_order is 0\.5: expected"),
        ((1,), ValueError, r"dyadic_order is \(1,\), of length 1: expected"),
        ((1, 1, 1), ValueError, r"dyadic_order is \(1, 1, 1\), of length 3: expected"),
        ((), ValueError, r"dyadic_order is \(\), of length 0: expected"),
        ("1", TypeError, "dyadic_order is '1': expected"),
        (63, ValueError, "dyadic_order is 63: a grid of .* overflows 64 bits"),
        (10**30, ValueError, "overflows 64 bits"),
        (61, ValueError, r"dyadic_order is \(61, 61\): with lengths 5 and 4 a grid has .*overflows 64 bits"),
        ((31, 31), ValueError, r"dyadic_order is \(31, 31\): .*overflows 64 bits"),
    ],
)
def test_the_dyadic_order_is_one_or_two_integers_whose_grid_has_indices(function, order, error, words, x, y):
    with pytest.raises(error, match=words):
        function(x, y, 2, order, static_kernel=RefuseToWork())


def test_the_dyadic_order_may_be_a_list_or_of_numpy_integers(x, y):
    expected = branchsig.branched_sig_kernel(x, y, 2, (1, 2))
    np.testing.assert_array_equal(
        branchsig.branched_sig_kernel(x, y, np.int32(2), [np.int64(1), np.uint8(2)]), expected
    )


# Options


@every_function
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_jobs": 0}, ValueError, "n_jobs is 0: expected a number of threads >= 1"),
        ({"n_jobs": 1.0}, TypeError, r"n_jobs is 1\.0: expected a number of threads"),
        ({"n_jobs": True}, TypeError, "n_jobs is True: .*not a truth value"),
        ({"end_time": 0.0}, ValueError, r"end_time is 0\.0: expected a finite number > 0"),
        ({"end_time": -1}, ValueError, "end_time is -1: expected a finite number > 0"),
        ({"end_time": math.inf}, ValueError, "end_time is inf: expected a finite number > 0"),
        ({"end_time": math.nan}, ValueError, "end_time is nan: expected a finite number > 0"),
        ({"end_time": "1"}, TypeError, "end_time is '1': expected a finite number > 0"),
        ({"end_time": True}, TypeError, "end_time is True"),
        ({"time_aug": 1}, TypeError, "time_aug is 1: expected True or False"),
        ({"lead_lag": "yes"}, TypeError, "lead_lag is 'yes': expected True or False"),
        ({"static_kernel": "rbf"}, TypeError, "static_kernel is 'rbf': expected None or an instance"),
        (
            {"static_kernel": branchsig.RBFKernel},
            TypeError,
            "static_kernel is the class RBFKernel: expected an instance",
        ),
        ({"static_kernel": lambda ctx, x, y: x}, TypeError, r"expected None or an instance of a subclass"),
        ({"static_kernl": None}, TypeError, "unexpected keyword argument 'static_kernl'"),
    ],
    ids=in_words,
)
def test_options_out_of_range_are_refused(function, options, error, words, x, y):
    with pytest.raises(error, match=words):
        function(x, y, 2, **options)


@pytest.mark.parametrize("function", PAIRED[:2] + PAIRED[3:] + GRAM, ids=("kernel", "vjp", "backprop", *GRAM_NAMES))
@pytest.mark.parametrize("options", [{"normalize": 1}, {"log": 0}, {"return_grid": None}], ids=str)
def test_switches_of_the_result_are_true_or_false(function, options, x, y):
    with pytest.raises(TypeError, match="expected True or False"):
        function(x, y, 2, **options)


@pytest.mark.parametrize("function", PAIRED[:2] + PAIRED[3:] + GRAM, ids=("kernel", "vjp", "backprop", *GRAM_NAMES))
def test_normalize_excludes_return_grid(function, x, y):
    with pytest.raises(ValueError, match="normalize=True with return_grid=True.*Leave return_grid out"):
        function(x, y, 2, normalize=True, return_grid=True, static_kernel=RefuseToWork())


@pytest.mark.parametrize("option", ["normalize", "return_grid"])
def test_the_stack_takes_no_option_of_other_results(option, x, y):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
        branchsig.branched_sig_kernel_stack(x, y, 2, **{option: True})


@every_gram
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_batch": 0}, ValueError, "max_batch is 0: expected an integer >= 1, or -1"),
        ({"max_batch": -2}, ValueError, "max_batch is -2: expected an integer >= 1, or -1"),
        ({"max_batch": 2.0}, TypeError, r"max_batch is 2\.0: expected an integer"),
        ({"max_batch": True}, TypeError, "max_batch is True"),
        ({"progress": "bar"}, TypeError, "progress is 'bar': expected False, True for a bar, or a callable"),
        ({"progress": 1}, TypeError, "progress is 1: expected"),
        ({"devices": 1}, TypeError, "devices is 1: expected a sequence of different integers"),
        ({"devices": "01"}, TypeError, "devices is '01': expected a sequence"),
        ({"devices": [0.0]}, TypeError, r"devices is 0\.0: expected a sequence"),
        ({"devices": []}, ValueError, r"devices is \[\]: expected a sequence"),
        ({"devices": [0, 0]}, ValueError, r"devices is \[0, 0\]: expected a sequence of different"),
        ({"devices": [-1]}, ValueError, r"devices is \[-1\]: expected"),
        ({"devices": [0, 1]}, ValueError, r"devices is \[0, 1\], and the paths do not lie on a CUDA device"),
    ],
    ids=str,
)
def test_options_of_gram_matrices_out_of_range_are_refused(function, options, error, words, x, y):
    with pytest.raises(error, match=words):
        function(x, y, 2, static_kernel=RefuseToWork(), **options)


@pytest.mark.parametrize("option", ["max_batch", "progress", "devices"])
def test_functions_of_pairs_have_no_options_of_gram_matrices(option, x, y):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
        branchsig.branched_sig_kernel(x, y, 2, **{option: 1})


def test_threads_are_counted_as_joblib_counts_them():
    cores = _validation.threads(-1)
    assert cores >= 1
    assert _validation.threads(-2) == max(1, cores - 1)
    assert _validation.threads(-1000) == 1
    assert _validation.threads(3) == 3
    assert [_validation.n_jobs(given) for given in (None, np.int64(3), -2)] == [1, 3, -2]


# Static kernels


@pytest.mark.parametrize(
    "kernel",
    [
        branchsig.RBFKernel,
        branchsig.Matern12Kernel,
        branchsig.Matern32Kernel,
        branchsig.Matern52Kernel,
        branchsig.RationalQuadraticKernel,
    ],
)
@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_sigma_is_finite_and_above_0(kernel, sigma):
    with pytest.raises(ValueError, match=rf"{kernel.__name__}: sigma is .*: expected a finite number > 0"):
        kernel(sigma)


@pytest.mark.parametrize("bad", ["1", None, True, 1j, [1.0], np.ones(1)], ids=repr)
def test_a_parameter_of_a_static_kernel_is_a_real_number(bad):
    with pytest.raises(TypeError, match="RBFKernel: sigma is .*: expected a real number"):
        branchsig.RBFKernel(bad)


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf])
def test_alpha_is_finite_and_above_0(alpha):
    with pytest.raises(ValueError, match=r"RationalQuadraticKernel: alpha is .*: expected a finite number > 0"):
        branchsig.RationalQuadraticKernel(1.0, alpha)


@pytest.mark.parametrize(
    "arguments",
    [
        {"degree": -1.0},
        {"degree": math.nan},
        {"degree": math.inf},
        {"gamma": math.nan},
        {"gamma": -math.inf},
        {"scale": -1.0},
        {"scale": math.inf},
    ],
    ids=str,
)
def test_parameters_of_the_polynomial_kernel_are_finite(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"PolynomialKernel: {name} is .*: expected a finite number"):
        branchsig.PolynomialKernel(**arguments)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_the_scale_of_the_linear_kernel_is_finite(scale):
    with pytest.raises(ValueError, match="ScaledLinearKernel: scale is .*: expected a finite number"):
        branchsig.ScaledLinearKernel(scale)


def shaped(result_of):
    class Kernel(branchsig.StaticKernel):
        def __call__(self, ctx, x, y):
            return result_of(x, y)

    return Kernel()


@every_function
@pytest.mark.parametrize(
    ("result_of", "error", "words"),
    [
        (
            lambda x, y: np.zeros((x.shape[0], 5, 4)),
            ValueError,
            r"__call__ returned an array of shape \(\d+, 5, 4\): expected",
        ),
        (lambda x, y: np.zeros((4, 3)), ValueError, r"returned an array of shape \(4, 3\): expected"),
        (lambda x, y: np.zeros((x.shape[0], 4, 3), np.float32), TypeError, "of dtype float32: expected float64"),
        (lambda x, y: 0.0, TypeError, "returned float: expected an array of the library of the paths"),
        (lambda x, y: None, TypeError, "returned NoneType: expected an array of the library of the paths"),
    ],
    ids=["kernel_matrix", "no_batch", "float32", "number", "nothing"],
)
def test_increments_of_a_wrong_kind_are_refused(function, result_of, error, words, x, y):
    def work():
        result = function(x, y, 2, static_kernel=shaped(result_of))
        return result[1](np.ones(result[0].shape)) if callable(result[-1]) else result

    with pytest.raises(error, match=words):
        work()


# Derivatives and stacks


@pytest.mark.parametrize("shape", [(), (2,), (4,), (3, 1), (1, 3), (3, 5, 4)])
def test_derivs_must_have_the_shape_of_the_values(shape, x, y):
    with pytest.raises(ValueError, match=r"derivs has shape .*: expected \(3,\)"):
        branchsig.branched_sig_kernel_backprop(np.ones(shape), x, y, 2, static_kernel=RefuseToWork())


@pytest.mark.parametrize("shape", [(3,), (5, 3), (3, 5, 5, 4), (15,)])
def test_derivs_of_a_gram_matrix_must_have_its_shape(shape, x):
    with pytest.raises(ValueError, match=r"derivs has shape .*: expected \(3, 5\)"):
        branchsig.branched_sig_kernel_gram_backprop(np.ones(shape), x, paths(5, 4, 2), 2, static_kernel=RefuseToWork())


def test_derivs_of_a_grid_must_have_its_shape(x, y):
    with pytest.raises(ValueError, match=r"derivs has shape \(3,\): expected \(3, 9, 7\)"):
        branchsig.branched_sig_kernel_backprop(np.ones(3), x, y, 2, 1, return_grid=True, static_kernel=RefuseToWork())


def test_a_pullback_checks_its_derivs(x, y):
    _, pullback = branchsig.branched_sig_kernel_vjp(x, y, 2)
    with pytest.raises(ValueError, match=r"derivs has shape \(4,\): expected \(3,\)"):
        pullback(np.ones(4))
    _, pullback = branchsig.branched_sig_kernel_gram_vjp(x, None, 2)
    with pytest.raises(ValueError, match=r"derivs has shape \(4,\): expected \(3, 3\)"):
        pullback(np.ones(4))


@pytest.mark.parametrize(
    ("derivs", "words"),
    [
        (np.ones(3, np.float32), "derivs has dtype float32 and path1 has dtype float64"),
        (np.ones(3, int), "derivs has dtype int64: expected float32 or float64"),
        ([1.0, 1.0, 1.0], "derivs is of type list"),
        (None, "derivs is of type NoneType"),
        (array_api_strict.ones(3), "derivs is an array of array_api_strict and path1 of numpy"),
    ],
    ids=["float32", "int", "list", "none", "library"],
)
def test_derivs_must_be_of_the_kind_of_the_paths(derivs, words, x, y):
    with pytest.raises(TypeError, match=words):
        branchsig.branched_sig_kernel_backprop(derivs, x, y, 2, static_kernel=RefuseToWork())


def test_the_derivative_of_one_value_may_be_a_numpy_scalar(x, y):
    value = branchsig.branched_sig_kernel(x[0], y[0], 2)
    assert isinstance(2.0 * value, np.float64)
    left, _ = branchsig.branched_sig_kernel_backprop(2.0 * value, x[0], y[0], 2)
    expected, _ = branchsig.branched_sig_kernel_backprop(np.asarray(2.0 * value), x[0], y[0], 2)
    np.testing.assert_array_equal(left, expected)


@pytest.mark.parametrize("shape", [(3, 2, 5, 4), (3, 3, 4, 4), (3, 3, 5), (1, 3, 5, 4), (3, 5, 4)])
def test_a_stack_must_have_one_grid_for_every_depth(shape, x, y):
    with pytest.raises(ValueError, match=r"k_stack has shape .*: expected \(3, 3, 5, 4\)"):
        branchsig.branched_sig_kernel_backprop(
            np.ones(3), x, y, 2, k_stack=np.ones(shape), static_kernel=RefuseToWork()
        )


def test_a_stack_for_a_gram_matrix_has_grids_of_all_pairs(x, y):
    with pytest.raises(ValueError, match=r"k_stack has shape .*: expected \(3, 3, 3, 5, 4\)"):
        branchsig.branched_sig_kernel_gram_backprop(
            np.ones((3, 3)), x, y, 2, k_stack=np.ones((3, 3, 5, 4)), static_kernel=RefuseToWork()
        )


@pytest.mark.parametrize(
    "stack",
    [np.ones((3, 3, 5, 4), np.float32), [1.0], array_api_strict.ones((3, 3, 5, 4))],
    ids=["dtype", "list", "library"],
)
def test_a_stack_must_be_of_the_kind_of_the_paths(stack, x, y):
    with pytest.raises(TypeError, match="k_stack "):
        branchsig.branched_sig_kernel_backprop(np.ones(3), x, y, 2, k_stack=stack, static_kernel=RefuseToWork())


def test_a_stack_does_not_go_with_normalize(x, y):
    stack = branchsig.branched_sig_kernel_stack(x, y, 2)
    with pytest.raises(ValueError, match="normalize=True with k_stack.*Leave k_stack out"):
        branchsig.branched_sig_kernel_backprop(np.ones(3), x, y, 2, k_stack=stack, normalize=True)


@pytest.mark.parametrize("name", ["left_deriv", "right_deriv"])
def test_the_sides_are_true_or_false(name, x, y):
    with pytest.raises(TypeError, match=f"{name} is 1: expected True or False"):
        branchsig.branched_sig_kernel_backprop(np.ones(3), x, y, 2, **{name: 1})


def test_a_gram_matrix_of_path1_alone_has_no_right_side(x):
    with pytest.raises(ValueError, match="right_deriv is True and path2 is None.*Leave right_deriv out"):
        branchsig.branched_sig_kernel_gram_backprop(np.ones((3, 3)), x, None, 2, right_deriv=True)


# Memory


@pytest.mark.parametrize("order", [22, 30])
def test_a_grid_that_does_not_fit_is_refused_with_its_size(order):
    x = paths(2, 3, 2)
    with pytest.raises(MemoryError, match=r"the grid of shape \(2, \d+, \d+\) takes [\d.]+ GiB.* lower dyadic order"):
        branchsig.branched_sig_kernel(x, x, 2, order, return_grid=True, static_kernel=RefuseToWork())
    with pytest.raises(MemoryError, match=r"the stack of shape \(2, 3, \d+, \d+\) takes [\d.]+ GiB"):
        branchsig.branched_sig_kernel_stack(x, x, 2, order, static_kernel=RefuseToWork())


def test_memory_is_counted_in_bytes_of_the_dtype(monkeypatch):
    monkeypatch.setattr(_validation, "_available_memory", lambda: 2**27)
    for dtype, fits in ((np.float32, True), (np.float64, False)):
        like = np.zeros(1, dtype)
        if fits:
            _validation.fits_memory((2**25,), like, "the grid", "")
        else:
            with pytest.raises(MemoryError, match=r"takes 0\.2 GiB, and 0\.1 GiB are available"):
                _validation.fits_memory((2**25,), like, "the grid", "")


def test_nothing_is_refused_where_the_memory_is_unknown(monkeypatch):
    monkeypatch.setattr(_validation, "_available_memory", lambda: None)
    _validation.fits_memory((2**50,), np.zeros(1), "the grid", "")


# Accepted input


def layouts(a):
    """Arrays of equal values in every layout NumPy knows."""
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]))
    wide[..., ::2] = a
    read_only = a.copy()
    read_only.flags.writeable = False
    return {
        "fortran": np.asfortranarray(a),
        "strided": wide[..., ::2],
        "reversed": a[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
        "read_only": read_only,
        "big_endian": a.astype(">f8"),
        "little_endian": a.astype("<f8"),
        "broadcast": np.broadcast_to(a[:1], a.shape) if np.array_equal(a[:1], a) else a,
        "unaligned": np.frombuffer(b"\0" + a.tobytes(), dtype=np.uint8)[1:].view(a.dtype).reshape(a.shape),
        "matrix_like": a.view(type("Subclass", (np.ndarray,), {})),
    }


@pytest.mark.parametrize("layout", sorted(layouts(np.zeros((1, 1, 1)))))
def test_every_layout_of_an_array_gives_the_same_result(layout, x, y):
    x_there, y_there = layouts(x)[layout], layouts(y)[layout]
    assert np.array_equal(x_there, x)
    derivs = paths(3, seed=5)
    derivs_there = derivs.astype(">f8")[::-1].copy()[::-1] if layout == "big_endian" else derivs

    value, pullback = branchsig.branched_sig_kernel_vjp(x_there, y_there, 2, 1)
    expected, expected_pullback = branchsig.branched_sig_kernel_vjp(x, y, 2, 1)
    np.testing.assert_array_equal(value, expected)
    assert type(value) is np.ndarray
    assert value.dtype == np.float64
    assert value.dtype.isnative
    for gradient, other in zip(pullback(derivs_there), expected_pullback(derivs), strict=True):
        np.testing.assert_array_equal(gradient, other)
        assert type(gradient) is np.ndarray

    gram = branchsig.branched_sig_kernel_gram(x_there, y_there, 2)
    np.testing.assert_array_equal(gram, branchsig.branched_sig_kernel_gram(x, y, 2))
    transformed = branchsig.transform_path(x_there, time_aug=True, lead_lag=True)
    np.testing.assert_array_equal(transformed, branchsig.transform_path(x, time_aug=True, lead_lag=True))


def test_a_big_endian_path_may_meet_a_native_one(x, y):
    expected = branchsig.branched_sig_kernel(x, y, 2)
    np.testing.assert_array_equal(branchsig.branched_sig_kernel(x.astype(">f8"), y, 2), expected)


@pytest.mark.parametrize("batch", [(0,), (2, 0), (0, 3)])
@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"return_grid": True}, {"time_aug": True}], ids=str)
def test_an_empty_batch_gives_an_empty_result(batch, options):
    x, y = np.zeros((*batch, 5, 2)), np.zeros((*batch, 4, 2))
    grid = (5, 4) if options.get("return_grid") else ()
    value, pullback = branchsig.branched_sig_kernel_vjp(x, y, 2, **options)
    assert value.shape == batch + grid
    assert [d.shape for d in pullback(value)] == [x.shape, y.shape]

    other = np.zeros((3, 4, 2))
    for path1, path2, shape in ((x, other, (*batch, 3)), (other, x, (3, *batch)), (x, None, batch + batch)):
        grid = (path1.shape[-2], (path1 if path2 is None else path2).shape[-2]) if options.get("return_grid") else ()
        value, pullback = branchsig.branched_sig_kernel_gram_vjp(path1, path2, 2, **options)
        assert value.shape == shape + grid
        left, right = pullback(np.zeros(value.shape))
        np.testing.assert_array_equal(left, np.zeros(path1.shape))
        if path2 is not None:
            np.testing.assert_array_equal(right, np.zeros(path2.shape))


def test_an_empty_batch_has_an_empty_stack():
    assert branchsig.branched_sig_kernel_stack(np.zeros((0, 5, 2)), np.zeros((0, 4, 2)), 2).shape == (0, 3, 5, 4)


@pytest.mark.parametrize("lengths", [(1, 4), (4, 1), (1, 1)])
@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"time_aug": True}, {"lead_lag": True}], ids=str)
def test_a_path_of_one_point_has_the_kernel_1_and_no_gradient(lengths, options):
    x, y = paths(3, lengths[0], 2), paths(3, lengths[1], 2, seed=1)
    value, pullback = branchsig.branched_sig_kernel_vjp(x, y, 3, **options)
    if options.get("normalize"):
        norm1 = branchsig.branched_sig_kernel(x, x, 3)
        norm2 = branchsig.branched_sig_kernel(y, y, 3)
        np.testing.assert_allclose(value, 1.0 / np.sqrt(norm1 * norm2), rtol=1e-14)
    else:
        np.testing.assert_array_equal(value, np.ones(3))
        for gradient, path in zip(pullback(np.ones(3)), (x, y), strict=True):
            np.testing.assert_array_equal(gradient, np.zeros(path.shape))
    assert branchsig.branched_sig_kernel_gram(x, y, 3, check_finite=False, **options).shape == (3, 3)
    grid = branchsig.branched_sig_kernel_stack(x, y, 3, 1)
    assert grid.shape == (3, 4, 2 * lengths[0] - 1, 2 * lengths[1] - 1)
    np.testing.assert_array_equal(grid, np.ones(grid.shape))


def test_a_single_path_has_a_value_without_axes(x, y):
    value = branchsig.branched_sig_kernel(x[0], y[0], 2)
    assert type(value) is np.ndarray
    assert value.shape == ()
    assert branchsig.branched_sig_kernel_gram(x[0], y, 2).shape == (3,)
    assert branchsig.branched_sig_kernel_gram(x[0], y[0], 2, check_finite=False).shape == ()
    np.testing.assert_allclose(value, branchsig.branched_sig_kernel(x, y, 2)[0], rtol=1e-14)
    left, right = branchsig.branched_sig_kernel_backprop(np.asarray(1.0), x[0], y[0], 2, right_deriv=True)
    assert left.shape == x[0].shape
    assert right.shape == y[0].shape


# What is handed in stays as it is


def every_call(x, y):
    """Results of every public function, each with the arrays it was given."""
    options = {"time_aug": True, "lead_lag": True}
    for normalize in (False, True):
        value, pullback = branchsig.branched_sig_kernel_vjp(x, y, 2, normalize=normalize)
        yield value
        yield from pullback(np.ones(3))
        value, pullback = branchsig.branched_sig_kernel_gram_vjp(x, y, 2, normalize=normalize, **options)
        yield value
        yield from pullback(np.ones((3, 3)))
        yield branchsig.branched_sig_kernel_gram(x, None, 2, normalize=normalize)
        yield branchsig.branched_sig_kernel_gram_backprop(np.ones((3, 3)), x, x, 2, normalize=normalize)[0]
    yield branchsig.branched_sig_kernel(x, y, 0)
    yield from branchsig.branched_sig_kernel_backprop(np.ones(3), x, y, 0, right_deriv=True)
    yield branchsig.branched_sig_kernel_stack(x, y, 2, **options)
    for switches in ({}, {"time_aug": True}, {"lead_lag": True}, options):
        yield branchsig.transform_path(x, **switches)
    yield branchsig.transform_path_backprop(x)
    yield branchsig.transform_path_backprop(x, time_aug=True)
    yield branchsig.transform_path_backprop(x, lead_lag=True)


def test_inputs_are_never_written_to_and_results_never_alias_them(x, y):
    before = x.copy(), y.copy()
    x.flags.writeable = y.flags.writeable = False
    for result in every_call(x, y):
        assert not np.shares_memory(result, x)
        assert not np.shares_memory(result, y)
        assert result.flags.writeable
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


def test_derivs_and_stacks_are_never_written_to_nor_aliased(x, y):
    stack = branchsig.branched_sig_kernel_stack(x, y, 2)
    derivs = paths(3, 5, 4)
    before = stack.copy(), derivs.copy()
    stack.flags.writeable = derivs.flags.writeable = False
    for given in (None, stack):
        gradients = branchsig.branched_sig_kernel_backprop(
            derivs, x, y, 2, right_deriv=True, return_grid=True, k_stack=given
        )
        for gradient in gradients:
            assert not np.shares_memory(gradient, derivs)
            assert not np.shares_memory(gradient, stack)
    np.testing.assert_array_equal(stack, before[0])
    np.testing.assert_array_equal(derivs, before[1])


# Values that are not finite


def overflowing(*shape, seed=0):
    """Paths whose kernels overflow at depth 3, all in one direction so that nothing cancels."""
    return np.cumsum(np.full(shape, 3.0), axis=-2) + paths(*shape, seed=seed)


def test_overflow_is_inf_with_one_warning_that_counts_and_advises(x):
    large = x.copy()
    large[1] = overflowing(5, 2)
    with pytest.warns(
        RuntimeWarning, match=r"1 of 3 values overflowed.*normalize=.dilation.*scale the paths down.*RBFKernel"
    ) as caught:
        value = branchsig.branched_sig_kernel(large, large, 3)
    assert len([w for w in caught if "overflowed" in str(w.message)]) == 1
    assert caught[-1].filename == __file__
    assert value[1] == math.inf
    np.testing.assert_allclose(value[[0, 2]], branchsig.branched_sig_kernel(x[[0, 2]], x[[0, 2]], 3), rtol=1e-14)


def test_overflow_is_counted_in_gram_matrices_grids_and_stacks(x):
    large = x.copy()
    large[1] = overflowing(5, 2)
    with pytest.warns(RuntimeWarning, match=r"of 9 values overflowed") as caught:
        gram = branchsig.branched_sig_kernel_gram(large, None, 3)
    assert str(caught[-1].message).startswith(f"{np.sum(~np.isfinite(gram))} of 9")
    assert caught[-1].filename == __file__
    with pytest.warns(RuntimeWarning, match=r"\d+ of 75 values overflowed") as caught:
        branchsig.branched_sig_kernel(large, large, 3, return_grid=True)
    assert caught[-1].filename == __file__
    with pytest.warns(RuntimeWarning, match=r"\d+ of 300 values overflowed") as caught:
        branchsig.branched_sig_kernel_stack(large, large, 3)
    assert caught[-1].filename == __file__


@pytest.mark.filterwarnings("error:.*overflowed")
@pytest.mark.parametrize("normalize", [False, True])
def test_gradients_of_what_overflowed_are_nan_without_a_warning_and_for_no_other_pair(normalize, x, y):
    large = x.copy()
    large[1] = overflowing(5, 2)
    partner = large if normalize else y.copy()
    if not normalize:
        partner[1] = overflowing(4, 2, seed=1)
    gradients = branchsig.branched_sig_kernel_backprop(
        np.ones(3), large, partner, 4, right_deriv=True, normalize=normalize
    )
    for gradient in gradients:
        assert np.isnan(gradient[1]).all()
        assert np.isfinite(gradient[[0, 2]]).all()
    left, right = branchsig.branched_sig_kernel_gram_backprop(np.ones((3, 2)), large, x[:2], 2, right_deriv=True)
    assert np.isfinite(left[[0, 2]]).all()
    assert np.isfinite(right).all() == np.isfinite(left[1]).all()


@pytest.mark.filterwarnings("error:.*overflowed")
@pytest.mark.filterwarnings("ignore:path1.1. holds (NaN|infinities)")
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_in_a_path_gives_nan_for_its_own_pairs_alone_and_no_word_of_overflow(bad, x, y):
    broken = x.copy()
    broken[1, 2, 0] = bad
    value, pullback = branchsig.branched_sig_kernel_vjp(broken, y, 3)
    np.testing.assert_array_equal(np.isfinite(value), [True, False, True])
    for gradient in pullback(np.ones(3)):
        assert np.isnan(gradient[1]).all()
        assert np.isfinite(gradient[[0, 2]]).all()

    value, pullback = branchsig.branched_sig_kernel_gram_vjp(broken, y, 3)
    np.testing.assert_array_equal(np.isfinite(value).all(axis=1), [True, False, True])
    left, right = pullback(np.ones((3, 3)))
    assert np.isnan(left[1]).all()
    assert np.isfinite(left[[0, 2]]).all()
    assert np.isnan(right).all()

    value, pullback = branchsig.branched_sig_kernel_gram_vjp(broken, None, 3, normalize=True)
    np.testing.assert_array_equal(np.isfinite(value), np.outer([1, 0, 1], [1, 0, 1]).astype(bool))
    assert np.isnan(pullback(np.ones((3, 3)))[0]).all()


def test_normalized_kernels_are_finite_where_the_kernels_are_not():
    large = np.cumsum(np.full((2, 5, 2), [[[0.6]], [[0.601]]]), axis=1)
    with pytest.warns(RuntimeWarning, match="4 of 4 values overflowed"):
        branchsig.branched_sig_kernel_gram(large, None, 2)
    value, pullback = branchsig.branched_sig_kernel_gram_vjp(large, None, 2, normalize=True)
    np.testing.assert_array_equal(np.diagonal(value), 1.0)
    assert 0.0 < value[0, 1] < 1.0
    assert np.isfinite(pullback(np.ones((2, 2)))[0]).all()


# Progress


@pytest.mark.parametrize("pairs", [(None, 6), (4, 12)], ids=["symmetric", "gram"])
@pytest.mark.parametrize("normalize", [False, True])
def test_progress_reports_rise_to_the_number_of_pairs(pairs, normalize, x):
    other, total = pairs
    second = None if other is None else paths(other, 5, 2)
    reports = []
    options = {"max_batch": 1, "progress": lambda *report: reports.append(report), "normalize": normalize}
    value = branchsig.branched_sig_kernel_gram(x, second, 2, **options)
    assert reports[-1] == (total, total)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    reports.clear()
    branchsig.branched_sig_kernel_gram_backprop(np.ones(value.shape), x, second, 2, **options)
    assert reports[-1][0] == reports[-1][1]
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)


def test_a_bar_is_drawn_by_tqdm(capsys, x):
    branchsig.branched_sig_kernel_gram(x, None, 2, progress=True)
    assert "6/6" in capsys.readouterr().err


def test_a_bar_without_tqdm_names_the_remedy(monkeypatch, x):
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="progress=True needs tqdm: install it with 'pip install tqdm'"):
        branchsig.branched_sig_kernel_gram(x, None, 2, progress=True)
