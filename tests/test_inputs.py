"""What people hold is taken as it is: numbers of any kind, lists of paths, options left out; what hides data is not."""

import dataclasses
import inspect
import math

import array_api_strict
import numpy as np
import pytest
from cases import STATIC_KERNELS, static_kernel, walk

import branchsig
from branchsig.static_kernels import StaticKernel

DEPTH = 3


@pytest.fixture(params=["numpy", "torch", "array_api_strict"])
def convert(request):
    """What makes an array of a library of an array of NumPy."""
    library = pytest.importorskip(request.param)
    return lambda array: library.asarray(np.array(array))


def host(value):
    """Arrays of any library as those of NumPy, in lists and tuples too."""
    if value is None:
        return None
    return [host(part) for part in value] if isinstance(value, (list, tuple)) else np.asarray(value)


def assert_equal(found, wanted):
    """The same arrays of the same kinds, in the same lists."""
    assert type(found) is type(wanted)
    if isinstance(found, (list, tuple)):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted):
            assert_equal(one, other)
    elif found is not None:
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))


def _derivs(x, y):
    return np.ones(x.shape[:-2] + y.shape[:-2])


FUNCTIONS = {
    "kernel": branchsig.branched_sig_kernel,
    "gram": branchsig.branched_sig_kernel_gram,
    "stack": branchsig.branched_sig_kernel_stack,
    "vjp": lambda x, y, *args, **options: branchsig.branched_sig_kernel_vjp(x, y, *args, **options)[1](
        np.ones(x.shape[:-2])
    ),
    "gram_vjp": lambda x, y, *args, **options: branchsig.branched_sig_kernel_gram_vjp(x, y, *args, **options)[1](
        _derivs(x, y)
    ),
    "backprop": lambda x, y, *args, **options: branchsig.branched_sig_kernel_backprop(
        np.ones(x.shape[:-2]), x, y, *args, right_deriv=True, **options
    ),
    "gram_backprop": lambda x, y, *args, **options: branchsig.branched_sig_kernel_gram_backprop(
        _derivs(x, y), x, y, *args, right_deriv=True, **options
    ),
    "dilation": lambda x, y, *args, **options: branchsig.dilation(x, *args, **options),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)
with_an_order = pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "stack"])


@pytest.fixture
def x(rng):
    return walk(rng, 3, 5, 2)


@pytest.fixture
def y(rng):
    return walk(rng, 3, 4, 2)


# Numbers


@every_function
def test_no_number_of_threads_is_one_thread(name, x, y):
    function = FUNCTIONS[name]
    assert_equal(function(x, y, DEPTH, n_jobs=None), function(x, y, DEPTH, n_jobs=1))


@pytest.mark.parametrize("transform", [branchsig.transform_path, branchsig.transform_path_backprop])
def test_transformations_take_no_number_of_threads_either(transform, x):
    assert_equal(transform(x, n_jobs=None), transform(x))


KINDS = [np.int64, np.uint8, np.int32, np.asarray, lambda number: np.asarray(number, dtype=np.int16)]


@every_function
@pytest.mark.parametrize("kind", KINDS)
def test_depth_dyadic_order_and_threads_are_integers_of_any_kind(name, kind, x, y):
    function = FUNCTIONS[name]
    found = function(x, y, kind(DEPTH), kind(1), n_jobs=kind(2))
    assert_equal(found, function(x, y, DEPTH, 1, n_jobs=2))


@with_an_order
@pytest.mark.parametrize("kind", KINDS)
def test_an_order_is_an_integer_of_any_kind(name, kind, x, y):
    function = FUNCTIONS[name]
    assert_equal(function(x, y, order=kind(2)), function(x, y, math.inf, order=2))


@pytest.mark.parametrize("kind", KINDS)
def test_the_sides_of_blocks_and_lengths_are_integers_of_any_kind(kind, x):
    gram = branchsig.branched_sig_kernel_gram
    assert_equal(gram(x, None, DEPTH, max_batch=kind(2)), gram(x, None, DEPTH, max_batch=2))
    lengths = {"lengths1": kind(4), "lengths2": kind(3)}
    np.testing.assert_allclose(
        branchsig.branched_sig_kernel(x[0], x[1], DEPTH, **lengths),
        branchsig.branched_sig_kernel(x[0, :4], x[1, :3], DEPTH),
        rtol=1e-14,
    )


def test_a_pair_of_dyadic_orders_may_be_an_array(x, y):
    kernel = branchsig.branched_sig_kernel
    assert_equal(kernel(x, y, DEPTH, np.array([1, 2])), kernel(x, y, DEPTH, (1, 2)))
    with pytest.raises(ValueError, match=r"dyadic_order is array\(\[1, 2, 3\]\), of length 3"):
        kernel(x, y, DEPTH, np.array([1, 2, 3]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_a_rule_is_an_integer_of_any_kind(kind, x, y):
    rule = branchsig.GaussLobatto(kind(3))
    assert type(rule.p) is int
    assert rule == branchsig.GaussLobatto(3)
    assert repr(rule) == "GaussLobatto(p=3)"
    kernel = branchsig.branched_sig_kernel
    assert_equal(kernel(x, y, DEPTH, quadrature=rule), kernel(x, y, DEPTH, quadrature="lobatto3"))


@pytest.mark.parametrize("p", [True, np.True_, 3.0, np.float64(3.0), np.array([3]), np.array(3.0), "3", None], ids=repr)
def test_the_order_of_a_rule_is_nothing_else(p):
    with pytest.raises(TypeError, match="GaussLobatto: p is .*: expected an integer from 2 to 8"):
        branchsig.GaussLobatto(p)


@pytest.mark.parametrize("derivative", [2.5, 2])
def test_the_derivative_of_one_value_may_be_a_number(derivative, convert, x, y):
    a, b = convert(x[0]), convert(y[0])
    wanted = branchsig.branched_sig_kernel_backprop(convert(float(derivative)), a, b, DEPTH, right_deriv=True)
    found = branchsig.branched_sig_kernel_backprop(derivative, a, b, DEPTH, right_deriv=True)
    assert_equal(found, wanted)
    _, pullback = branchsig.branched_sig_kernel_vjp(a, b, DEPTH)
    assert_equal(pullback(derivative), wanted)
    _, pullback = branchsig.branched_sig_kernel_gram_vjp(a, b, DEPTH, check_finite=False)
    assert_equal(pullback(derivative), wanted)
    assert_equal(
        branchsig.branched_sig_kernel_gram_backprop(derivative, a, b, DEPTH, right_deriv=True, check_finite=False),
        wanted,
    )


def test_the_derivative_of_a_mean_may_be_a_number(convert, x, y):
    for name in ("branched_sig_mmd_backprop", "expected_branched_sig_score_backprop"):
        backprop = getattr(branchsig, name)
        samples = convert(x), convert(y)
        assert_equal(
            backprop(1.0, *samples, DEPTH, right_deriv=True), backprop(convert(1.0), *samples, DEPTH, right_deriv=True)
        )


def test_a_number_is_no_derivative_of_several_values_and_a_truth_value_of_none(x, y):
    with pytest.raises(TypeError, match="derivs is of type float: expected an array"):
        branchsig.branched_sig_kernel_backprop(1.0, x, y, DEPTH)
    with pytest.raises(TypeError, match="derivs is of type bool: expected an array"):
        branchsig.branched_sig_kernel_backprop(True, x[0], y[0], DEPTH)


def test_a_scalar_of_numpy_is_no_path_whatever_has_been_seen_before(x, y):
    branchsig.branched_sig_mmd_backprop(1.0, x, y, DEPTH)  # scalars come up in its arithmetic
    with pytest.raises(TypeError, match="path1 is of type float64: expected an array"):
        branchsig.branched_sig_kernel(np.float64(1.0), y, DEPTH)


def test_the_derivative_takes_the_dtype_of_the_paths(x, y):
    a, b = np.float32(x[0]), np.float32(y[0])
    gradient, _ = branchsig.branched_sig_kernel_backprop(1.0, a, b, DEPTH)
    assert_equal(gradient, branchsig.branched_sig_kernel_backprop(np.ones((), np.float32), a, b, DEPTH)[0])


# Lists of paths


def lists(rng, lengths, convert):
    return [convert(walk(rng, length, 2, size=0.4)) for length in lengths]


TRANSFORMS = [{}, {"time_aug": True, "end_time": 0.5}, {"lead_lag": True}, {"time_aug": True, "lead_lag": True}]
MODES = [{}, {"normalize": True}, {"normalize": "dilation"}, {"log": True}, {"order": 4}]
of_options = pytest.mark.parametrize("options", TRANSFORMS + MODES[1:], ids=str)


@of_options
@pytest.mark.parametrize("kind", [list, tuple])
def test_lists_of_paths_are_batches_of_the_paths(options, kind, convert, rng):
    options = {"depth": 5, **options}
    xs, ys = kind(lists(rng, (5, 1, 3), convert)), kind(lists(rng, (2, 4, 3), convert))
    kernel = branchsig.branched_sig_kernel
    wanted = np.array([[float(kernel(x, y, **options)) for y in ys] for x in xs])
    paired, gram = kernel(xs, ys, **options), branchsig.branched_sig_kernel_gram(xs, ys, **options)
    for found in (paired, gram):
        assert type(found) is type(xs[0])
    np.testing.assert_allclose(host(paired), np.diagonal(wanted), rtol=1e-12)
    np.testing.assert_allclose(host(gram), wanted, rtol=1e-12)


@of_options
def test_a_list_with_itself_has_a_symmetric_gram_matrix(options, convert, rng):
    options = {"depth": 5, **options}
    xs = lists(rng, (5, 2, 3), convert)
    wanted = [[float(branchsig.branched_sig_kernel(x, y, **options)) for y in xs] for x in xs]
    for second in (None, xs):
        gram = host(branchsig.branched_sig_kernel_gram(xs, second, **options))
        np.testing.assert_allclose(gram, wanted, rtol=1e-12)
        assert np.array_equal(gram, gram.T)


@of_options
def test_gradients_of_lists_are_lists_of_gradients(options, convert, rng):
    options = {"depth": 5, **options}
    xs, ys = lists(rng, (5, 1, 3), convert), lists(rng, (2, 4, 3), convert)
    weights = rng.standard_normal((3, 3))
    each = [
        [
            host(branchsig.branched_sig_kernel_backprop(float(w), x, y, right_deriv=True, **options))
            for w, y in zip(row, ys)
        ]
        for row, x in zip(weights, xs)
    ]

    def check(found, wanted, paths):
        assert type(found) is list
        for gradient, other, path in zip(found, wanted, paths, strict=True):
            assert type(gradient) is type(path)
            assert tuple(gradient.shape) == tuple(path.shape)
            np.testing.assert_allclose(host(gradient), other, rtol=1e-9, atol=1e-12)

    of_pairs = [each[k][k][0] for k in range(3)], [each[k][k][1] for k in range(3)]
    diagonal = convert(np.diagonal(weights).copy())
    _, pullback = branchsig.branched_sig_kernel_vjp(xs, ys, **options)
    backprop = branchsig.branched_sig_kernel_backprop(diagonal, xs, ys, right_deriv=True, **options)
    for d_xs, d_ys in (pullback(diagonal), backprop):
        check(d_xs, of_pairs[0], xs)
        check(d_ys, of_pairs[1], ys)

    of_all = (
        [sum(each[i][j][0] for j in range(3)) for i in range(3)],
        [sum(each[i][j][1] for i in range(3)) for j in range(3)],
    )
    weights = convert(weights)
    _, pullback = branchsig.branched_sig_kernel_gram_vjp(xs, ys, **options)
    backprop = branchsig.branched_sig_kernel_gram_backprop(weights, xs, ys, right_deriv=True, **options)
    for d_xs, d_ys in (pullback(weights), pullback(weights), backprop):
        check(d_xs, of_all[0], xs)
        check(d_ys, of_all[1], ys)


def test_the_gradient_of_a_matrix_of_one_list_is_one_list(rng, convert):
    xs = lists(rng, (5, 2, 3), convert)
    weights = convert(rng.standard_normal((3, 3)))
    whole, none = branchsig.branched_sig_kernel_gram_vjp(xs, None, DEPTH)[1](weights)
    assert none is None
    first, second = branchsig.branched_sig_kernel_gram_vjp(xs, xs, DEPTH)[1](weights)
    for gradient, one, other in zip(whole, first, second, strict=True):
        np.testing.assert_allclose(host(gradient), host(one) + host(other), rtol=1e-12, atol=1e-14)


def test_a_list_may_meet_an_array_and_lengths_of_it(rng, convert):
    xs = lists(rng, (5, 2, 3), convert)
    padded, lengths = branchsig.pad_paths(lists(rng, (4, 1), convert))
    found = branchsig.branched_sig_kernel_gram(xs, padded, DEPTH, lengths2=lengths)
    stack, lengths1 = branchsig.pad_paths(xs)
    wanted = branchsig.branched_sig_kernel_gram(stack, padded, DEPTH, lengths1=lengths1, lengths2=lengths)
    assert_equal(found, wanted)
    d_xs, d_padded = branchsig.branched_sig_kernel_gram_backprop(
        found, xs, padded, DEPTH, lengths2=lengths, right_deriv=True
    )
    assert isinstance(d_xs, list)
    assert tuple(d_padded.shape) == tuple(padded.shape)


def test_a_list_of_paths_has_stacks_and_grids_of_the_padded_paths(rng, convert):
    xs, ys = lists(rng, (5, 2, 3), convert), lists(rng, (4, 1, 6), convert)
    (x, lengths1), (y, lengths2) = branchsig.pad_paths(xs), branchsig.pad_paths(ys)
    lengths = {"lengths1": lengths1, "lengths2": lengths2}
    stack = branchsig.branched_sig_kernel_stack(xs, ys, DEPTH)
    assert_equal(stack, branchsig.branched_sig_kernel_stack(x, y, DEPTH, **lengths))
    grid = branchsig.branched_sig_kernel(xs, ys, DEPTH, return_grid=True)
    assert_equal(grid, branchsig.branched_sig_kernel(x, y, DEPTH, return_grid=True, **lengths))
    derivs = convert(np.ones(3))
    d_xs, _ = branchsig.branched_sig_kernel_backprop(derivs, xs, ys, DEPTH, k_stack=stack)
    for found, wanted in zip(d_xs, branchsig.branched_sig_kernel_vjp(xs, ys, DEPTH)[1](derivs)[0], strict=True):
        np.testing.assert_allclose(host(found), host(wanted), rtol=1e-12, atol=1e-14)


def test_a_list_of_paths_has_the_dilations_of_the_paths(rng, convert):
    paths = lists(rng, (5, 2, 3), convert)
    for options in ({}, {"method": "guard"}, {"order": 3, "depth": None}):
        options = {"depth": DEPTH, **options}
        wanted = [float(branchsig.dilation(path, **options)) for path in paths]
        np.testing.assert_allclose(host(branchsig.dilation(paths, **options)), wanted, rtol=1e-12)


@pytest.mark.parametrize("options", TRANSFORMS, ids=str)
def test_a_list_of_paths_is_transformed_path_by_path(options, rng, convert):
    paths = lists(rng, (5, 1, 3), convert)
    transformed = branchsig.transform_path(paths, **options)
    assert_equal(transformed, [branchsig.transform_path(path, **options) for path in paths])
    derivs = branchsig.transform_path_backprop(transformed, **options)
    assert_equal(derivs, [branchsig.transform_path_backprop(path, **options) for path in transformed])
    assert all(a is not b for a, b in zip(paths, transformed))


def test_paths_of_a_list_are_not_written_to(rng):
    paths = [walk(rng, length, 2) for length in (4, 2)]
    for path in paths:
        path.flags.writeable = False
    gradients, _ = branchsig.branched_sig_kernel_gram_vjp(paths, None, DEPTH)[1](np.ones((2, 2)))
    for gradient, path in zip(gradients, paths):
        assert not np.shares_memory(gradient, path)
        gradient[...] = 0.0


def test_pytorch_differentiates_lists_by_itself(rng):
    torch = pytest.importorskip("torch")
    paths = [torch.asarray(walk(rng, length, 2)).requires_grad_() for length in (4, 2, 3)]
    branchsig.branched_sig_kernel_gram(paths, None, DEPTH).sum().backward()
    plain = [path.detach() for path in paths]
    _, pullback = branchsig.branched_sig_kernel_gram_vjp(plain, None, DEPTH)
    for path, wanted in zip(paths, pullback(torch.ones((3, 3), dtype=torch.float64))[0]):
        np.testing.assert_allclose(path.grad, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("side", [1, 2])
def test_lengths_do_not_go_with_a_list(side, rng):
    paths = [walk(rng, length, 2) for length in (4, 2)]
    message = f"lengths{side} with a list of paths as path{side}: .* Leave lengths{side} out"
    with pytest.raises(ValueError, match=message):
        branchsig.branched_sig_kernel(paths, list(paths), DEPTH, **{f"lengths{side}": [4, 2]})
    with pytest.raises(ValueError, match=message):
        branchsig.branched_sig_kernel_gram(paths, paths, DEPTH, **{f"lengths{side}": [4, 2]})
    with pytest.raises(ValueError, match="lengths with a list of paths as paths"):
        branchsig.dilation(paths, DEPTH, lengths=[4, 2])


@every_function
@pytest.mark.parametrize(
    ("paths", "error", "words"),
    [
        ([], ValueError, r"paths?1? is empty: expected at least one path"),
        ([np.zeros((3, 2)), np.zeros((3, 1))], ValueError, r"paths?1?\[1\] has shape \(3, 1\): .* dimension 2"),
        ([np.zeros((3, 2)), np.zeros((3, 2), np.float32)], TypeError, r"paths?1?\[1\] has dtype float32"),
        (
            [np.zeros((3, 2)), array_api_strict.zeros((3, 2))],
            TypeError,
            r"paths?1?\[1\] is an array of array_api_strict",
        ),
        ([np.zeros((3, 2)), [[0.0, 1.0]]], TypeError, r"paths?1?\[1\] is of type list"),
        ([np.zeros((3, 2)), np.ma.zeros((3, 2))], TypeError, r"paths?1?\[1\] is a masked array"),
        ([np.zeros((2, 3, 2))], ValueError, r"paths?1?\[0\] has shape \(2, 3, 2\): expected \(length, dimension\)"),
        ([np.zeros(3), np.zeros(3)], ValueError, r"paths?1?\[0\] has shape \(3,\).*shape \(length, 1\)"),
        ([[0.0, 1.0], [2.0]], TypeError, r"paths?1? is of type list: .*asarray\(.*give a list of arrays"),
        ([np.float64(1.0)], TypeError, r"paths?1? is of type list"),
    ],
)
def test_what_is_wrong_in_a_list_is_named_by_its_place(name, paths, error, words, y):
    def function(*arguments):
        if "vjp" in name or "backprop" in name:  # derivatives of whatever shape: the paths are checked before them
            with_derivs = name.endswith("backprop")
            arguments = (np.ones(3), *arguments) if with_derivs else arguments
            return getattr(branchsig, f"branched_sig_kernel_{name}")(*arguments)
        return FUNCTIONS[name](*arguments)

    with pytest.raises(error, match=words):
        function(paths, y, DEPTH)


def test_a_list_must_be_as_long_as_the_other_batch(rng):
    with pytest.raises(ValueError, match=r"path1 has batch shape \(2,\) and path2 \(3,\)"):
        branchsig.branched_sig_kernel([walk(rng, 3, 2)] * 2, walk(rng, 3, 4, 2), DEPTH)


# Masked arrays


def test_masked_arrays_are_refused_wherever_an_array_is_taken(x, y):
    masked = np.ma.masked_array
    kernel, gram = branchsig.branched_sig_kernel, branchsig.branched_sig_kernel_gram
    lengths, stack = masked([4, 3, 2], mask=[0, 1, 0]), branchsig.branched_sig_kernel_stack(x, y, DEPTH)
    calls = {
        "lengths1": [lambda: kernel(x, y, DEPTH, lengths1=lengths), lambda: gram(x, y, DEPTH, lengths1=lengths)],
        "lengths2": [lambda: kernel(x, y, DEPTH, lengths2=lengths), lambda: gram(x, y, DEPTH, lengths2=lengths)],
        "lengths": [lambda: branchsig.dilation(x, DEPTH, lengths=lengths)],
        "derivs": [
            lambda: branchsig.branched_sig_kernel_backprop(masked(np.ones(3)), x, y, DEPTH),
            lambda: branchsig.branched_sig_kernel_gram_backprop(masked(np.ones((3, 3))), x, y, DEPTH),
            lambda: branchsig.branched_sig_kernel_vjp(x, y, DEPTH)[1](masked(np.ones(3))),
            lambda: branchsig.branched_sig_kernel_gram_vjp(x, y, DEPTH)[1](masked(np.ones((3, 3)))),
            lambda: branchsig.transform_path_backprop(masked(x)),
            lambda: branchsig.branched_sig_mmd_backprop(masked(np.ones(())), x, y, DEPTH),
        ],
        "k_stack": [
            lambda: branchsig.branched_sig_kernel_backprop(np.ones(3), x, y, DEPTH, k_stack=masked(stack)),
        ],
        "path": [lambda: branchsig.transform_path(masked(x))],
        "paths": [lambda: branchsig.dilation(masked(x), DEPTH)],
        r"paths\[1\]": [lambda: branchsig.pad_paths([x[0], masked(x[1])])],
    }
    for name, functions in calls.items():
        for function in functions:
            with pytest.raises(TypeError, match=f"^{name} is a masked array: expected a plain array"):
                function()


# Static kernels as scikit-learn sees them


@pytest.mark.parametrize("name", STATIC_KERNELS)
def test_a_static_kernel_says_its_parameters(name):
    kernel = static_kernel(name)[0]
    parameters = kernel.get_params(deep=True)
    assert parameters == dataclasses.asdict(kernel) == kernel.get_params(deep=False)
    assert list(parameters) == list(inspect.signature(type(kernel)).parameters)
    # What makes a copy holds the very objects that are given to it.
    copy = type(kernel)(**parameters)
    assert copy == kernel
    assert all(value is parameters[key] for key, value in copy.get_params().items())


@pytest.mark.parametrize("name", [name for name in STATIC_KERNELS if name != "linear"])
def test_a_static_kernel_is_replaced_and_not_set(name):
    kernel = static_kernel(name)[0]
    (parameter, *_) = kernel.get_params()
    with pytest.raises(TypeError, match=rf"immutable.*dataclasses\.replace\(static_kernel, {parameter}=0\.25\)"):
        kernel.set_params(**{parameter: 0.25})
    assert kernel == static_kernel(name)[0]
    assert kernel.set_params() is kernel
    assert getattr(dataclasses.replace(kernel, **{parameter: 0.25}), parameter) == 0.25


def test_estimators_of_scikit_learn_hold_static_kernels():
    base = pytest.importorskip("sklearn.base")

    class Estimator(base.BaseEstimator):
        def __init__(self, static_kernel=None):
            self.static_kernel = static_kernel

    estimator = Estimator(branchsig.RBFKernel(0.5))
    assert estimator.get_params()["static_kernel__sigma"] == 0.5
    assert base.clone(estimator).static_kernel == branchsig.RBFKernel(0.5)
    with pytest.raises(TypeError, match=r"dataclasses\.replace"):
        estimator.set_params(static_kernel__sigma=2.0)
    estimator.set_params(static_kernel=dataclasses.replace(estimator.static_kernel, sigma=2.0))
    assert estimator.static_kernel == branchsig.RBFKernel(2.0)


def test_static_kernels_of_others_are_left_as_they_are():
    # scikit-learn copies what has no `get_params` as it is, whatever its constructor takes.
    assert not hasattr(StaticKernel, "get_params")


# Depth and order


@with_an_order
def test_the_depth_may_be_left_out_where_an_order_is_given(name, x, y):
    function = FUNCTIONS[name]
    wanted = function(x, y, math.inf, order=3)
    assert_equal(function(x, y, order=3), wanted)
    assert_equal(function(x, y, None, order=3), wanted)
    assert_equal(function(x, y, depth=None, order=3, dyadic_order=0), wanted)
    assert_equal(function(x, y, 3, order=3), wanted)


@with_an_order
@pytest.mark.parametrize("options", [{}, {"depth": None}, {"order": None}, {"dyadic_order": 1}], ids=str)
def test_depth_and_order_are_not_both_left_out(name, options, x, y):
    with pytest.raises(TypeError, match=r"depth is None: expected .*such as depth=3.*such as order=4"):
        FUNCTIONS[name](x, y, **options)


def test_the_stack_needs_a_depth(x, y):
    with pytest.raises(TypeError, match="depth"):
        branchsig.branched_sig_kernel_stack(x, y)
    with pytest.raises(TypeError, match="depth is None: expected an integer >= 0"):
        branchsig.branched_sig_kernel_stack(x, y, None)
    with pytest.raises(TypeError, match="unexpected keyword argument 'order'"):
        branchsig.branched_sig_kernel_stack(x, y, 3, order=3)


@with_an_order
def test_depth_and_dyadic_order_follow_the_paths(name, x, y):
    function = FUNCTIONS[name]
    assert_equal(function(x, y, 3, 1), function(x, y, depth=3, dyadic_order=1))


# Arrays without axes


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 0},
        {"depth": 3},
        {"depth": math.inf},
        {"depth": 3, "log": True},
        {"depth": 3, "normalize": True},
        {"depth": 3, "normalize": "dilation"},
        {"depth": 3, "rtol": 1e-6},
        {"depth": 3, "quadrature": "lobatto3"},
        {"depth": 3, "static_kernel": branchsig.RBFKernel(1.0)},
        {"depth": 3, "lengths1": 3},
        {"order": 3},
        {"order": 3, "log": True},
        {"order": 3, "normalize": True},
        {"order": 3, "normalize": True, "log": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_one_value_is_an_array_without_axes(options, dtype, convert, x, y):
    a, b = convert(dtype(x[0])), convert(dtype(y[0]))
    results = [
        branchsig.branched_sig_kernel(a, b, **options),
        branchsig.branched_sig_kernel_gram(a, b, **options, check_finite=False),
        branchsig.branched_sig_kernel_vjp(a, b, **options)[0],
        branchsig.branched_sig_kernel_gram_vjp(a, b, **options, check_finite=False)[0],
    ]
    if not {"rtol", "log", "normalize", "lengths1"} & set(options):
        results.append(branchsig.dilation(a, **options))
        results.append(branchsig.dilation(a, **options, method="guard"))
    for result in results:
        assert type(result) is type(a)
        assert tuple(result.shape) == ()
        assert result.dtype == a.dtype
