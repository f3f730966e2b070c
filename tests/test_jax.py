"""JAX: concrete arrays go to the core in place, and programs call it through XLA's foreign function interface."""

import functools
import inspect
import itertools
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import STATIC_KERNELS, walk

import branchsig

jax = pytest.importorskip("jax")
from jax_kernels import Gaussian  # noqa: E402  it needs JAX

jnp = jax.numpy
binding = pytest.importorskip("branchsig.frameworks.jax")

DILATION = {"normalize": "dilation"}


@pytest.fixture(autouse=True)
def in_float64():
    jax.config.update("jax_enable_x64", True)


@pytest.fixture
def paths(rng):
    return walk(rng, 5, 7, 2, size=0.4), walk(rng, 5, 6, 2, size=0.4)


@pytest.fixture
def calls_of_python():
    """A list that grows with every call that the handler in Python gets."""
    calls = []

    @binding.ffi.callback("void *(bs_xla_frame *)")
    def handler(frame):
        calls.append(1)
        return binding._handle(frame)

    binding.lib.bs_xla_set_python(handler)
    yield calls
    binding.lib.bs_xla_set_python(binding._handlers[0])


def agree(found, wanted, rtol=1e-12):
    """Two trees of arrays are equal to within rounding."""
    found, wanted = jax.tree.leaves(found), jax.tree.leaves(wanted)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        size = np.max(np.abs(other), initial=0.0)
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * size)


# Programs call the core without Python where static kernels are built in.

STRUCTURES = {
    "pairs": {},
    "ragged pairs": {"ragged": True},
    "gram": {"gram": True},
    "ragged gram": {"gram": True, "ragged": True},
    "triangle": {"gram": True, "alone": True},
    "ragged triangle": {"gram": True, "alone": True, "ragged": True},
    "square": {"gram": True, "alone": True, "dyadic_order": (0, 1)},
}
RULES = [
    {"depth": 3},
    {"depth": 2, "log": True, "dyadic_order": 1},
    {"depth": 3, "quadrature": "lobatto3"},
    {"depth": float("inf"), "quadrature": "lobatto2"},
    {"depth": 0},
]
ORDERED = [{"depth": 1, "planar": True}, {"depth": 2, "planar": True, "quadrature": "left"}]


def problem(paths, ragged=False, gram=False, alone=False, **options):
    """A function of parameters, paths and lengths, its arguments, and the lengths."""
    x, y = paths
    lengths = (np.array([7, 3, 1, 5, 7]), np.array([6, 6, 2, 1, 4])) if ragged else (None, None)
    take = branchsig.branched_sig_kernel_gram if gram else branchsig.branched_sig_kernel

    def call(kernel, a, b, valid1, valid2):
        if alone:
            b = valid2 = None
        return take(a, b, static_kernel=kernel, lengths1=valid1, lengths2=valid2, **options)

    return call, (x, y), lengths


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", STATIC_KERNELS)
def test_kernels_and_gram_matrices_are_computed_without_python(name, structure, paths, calls_of_python, rng):
    kind, parameters = STATIC_KERNELS[name]
    given = {key: value for key, value in parameters.items() if key != "degree"}
    kind = functools.partial(kind, degree=parameters["degree"]) if "degree" in parameters else kind
    paths = tuple(0.1 * path for path in paths)  # whose kernels of unbounded depth are finite
    for rule in RULES + ORDERED * (name == "rbf"):
        options = STRUCTURES[structure] | {k: v for k, v in rule.items() if k not in STRUCTURES[structure]}
        call, (x, y), lengths = problem(paths, **options)
        wanted = call(kind(**given), x, y, *lengths)
        weights = rng.standard_normal(wanted.shape)
        weights[0] = 0.0

        def weighted(given, a, b, valid1, valid2, call=call, weights=weights):
            return (weights * call(kind(**given), a, b, valid1, valid2)).sum()

        found = jax.jit(lambda given, a, b, *valid, call=call: call(kind(**given), a, b, *valid))
        agree(found(given, x, y, *lengths), wanted, 1e-13)
        _, pullback = _with_pullback(options, kind(**given), x, y, lengths)
        gradients = jax.jit(jax.grad(weighted, (0, 1, 2)))(given, x, y, *lengths)
        *of_paths, of_parameters = pullback(weights)
        if options.get("alone"):
            of_paths[1] = np.zeros_like(y)
        agree(gradients, (of_parameters, *of_paths))
    assert not calls_of_python


def _with_pullback(options, kernel, x, y, lengths):
    """The value of a problem and its pullback, by NumPy."""
    gram, alone = options.get("gram", False), options.get("alone", False)
    take = branchsig.branched_sig_kernel_gram_vjp if gram else branchsig.branched_sig_kernel_vjp
    rest = {k: v for k, v in options.items() if k not in ("gram", "alone", "ragged")}
    second = (None, None) if alone else (y, lengths[1])
    return take(x, second[0], static_kernel=kernel, lengths1=lengths[0], lengths2=second[1], param_deriv=True, **rest)


@pytest.mark.parametrize("pairs", [3, 9000])
def test_float32_is_summed_up_in_float64(pairs, rng, calls_of_python):
    x, y = (walk(rng, pairs, 3, 2, size=0.5, dtype=np.float32) for _ in range(2))
    found = jax.jit(jax.value_and_grad(lambda a, b: branchsig.branched_sig_kernel(a, b, 2).sum(), (0, 1)))(x, y)
    wanted = branchsig.branched_sig_kernel_backprop(np.ones(pairs, np.float32), x, y, 2, right_deriv=True)
    assert all(gradient.dtype == np.float32 for gradient in found[1])
    for gradient, its in zip(found[1], wanted):
        np.testing.assert_array_equal(gradient, its)
    assert not calls_of_python


def test_many_pairs_go_to_the_core_in_chunks(rng, calls_of_python):
    x, y = walk(rng, 150, 3, 2, size=0.3), walk(rng, 131, 4, 2, size=0.3)
    weights = rng.standard_normal((150, 131))
    gram = jax.jit(lambda a, b: branchsig.branched_sig_kernel_gram(a, b, 2))
    agree(gram(x, y), branchsig.branched_sig_kernel_gram(x, y, 2), 1e-14)
    found = jax.jit(jax.grad(lambda a, b: (weights * gram(a, b)).sum(), (0, 1)))(x, y)
    agree(found, branchsig.branched_sig_kernel_gram_backprop(weights, x, y, 2, right_deriv=True))
    triangle = jax.jit(lambda a: branchsig.branched_sig_kernel_gram(a, None, 2))
    agree(triangle(x), branchsig.branched_sig_kernel_gram(x, None, 2), 1e-14)
    assert not calls_of_python


def test_a_pair_out_of_range_is_done_again_by_python(paths, calls_of_python):
    x, y = paths
    x = x.copy()
    x[1] *= 60.0  # log K of some hundreds, or digits that are lost
    for log in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = branchsig.branched_sig_kernel(x, y, 2, log=log)
            found = jax.jit(lambda a, b, log=log: branchsig.branched_sig_kernel(a, b, 2, log=log))(x, y)
            agree(found, wanted)
            gradient = jax.jit(jax.grad(lambda a, log=log: branchsig.branched_sig_kernel(a, y, 2, log=log).sum()))(x)
            agree(gradient, branchsig.branched_sig_kernel_backprop(np.ones(5), x, y, 2, log=log)[0])
    assert calls_of_python


# Transformations of JAX, alone and one in another, for calls in C and in Python.


@pytest.mark.parametrize("options", [{}, DILATION, {"order": 3}], ids=str)
def test_transformations_of_jax_have_the_values_and_gradients_of_numpy(options, paths):
    x, y = paths
    kernel = functools.partial(branchsig.branched_sig_kernel, depth=3, **options)
    wanted = kernel(x, y)
    _, pullback = branchsig.branched_sig_kernel_vjp(x, y, 3, **options)
    gradients = pullback(np.ones(5))

    def total(a, b):
        return kernel(a, b).sum()

    transformed = {
        "jit": jax.jit(kernel),
        "vmap": jax.vmap(kernel),
        "jit(vmap)": jax.jit(jax.vmap(kernel)),
        "vmap(jit)": jax.vmap(jax.jit(kernel)),
        "scan": lambda a, b: jax.lax.scan(lambda _, ab: (None, kernel(*ab)), None, (a, b))[1],
        "map": lambda a, b: jax.lax.map(lambda ab: kernel(*ab), (a, b)),
        "cond": jax.jit(lambda a, b: jax.lax.cond(a[0, 0, 0] < 9.0, kernel, lambda a, b: kernel(b, b), a, b)),
    }
    for function in transformed.values():
        agree(function(x, y), wanted)
    differentiated = {
        "grad": jax.grad(total, (0, 1)),
        "jit(grad)": jax.jit(jax.grad(total, (0, 1))),
        "grad(jit)": jax.grad(jax.jit(total), (0, 1)),
        "vmap(grad)": jax.vmap(jax.grad(kernel, (0, 1))),
        "jit(vmap(grad))": jax.jit(jax.vmap(jax.grad(kernel, (0, 1)))),
        "grad(vmap)": jax.grad(lambda a, b: jax.vmap(kernel)(a, b).sum(), (0, 1)),
        "grad(checkpoint)": jax.jit(jax.grad(lambda a, b: jax.checkpoint(kernel)(a, b).sum(), (0, 1))),
        "grad(scan)": jax.grad(lambda a, b: transformed["scan"](a, b).sum(), (0, 1)),
        "vjp": lambda a, b: jax.vjp(kernel, a, b)[1](jnp.ones(5)),
        "jacrev": lambda a, b: [jnp.einsum("iijk->ijk", part) for part in jax.jacrev(kernel, (0, 1))(a, b)],
        "jit(jacrev)": lambda a, b: [
            jnp.einsum("iijk->ijk", part) for part in jax.jit(jax.jacrev(kernel, (0, 1)))(a, b)
        ],
    }
    for function in differentiated.values():
        agree(function(*map(jnp.asarray, (x, y))), gradients, 1e-11)


@pytest.mark.parametrize("options", [{}, DILATION], ids=str)
def test_gradients_at_constants_are_constants_inside_of_transformations(options, paths, rng):
    x, y = paths
    weights = rng.standard_normal(5)
    kernel = functools.partial(branchsig.branched_sig_kernel, depth=3, **options)
    wanted, _ = branchsig.branched_sig_kernel_backprop(weights, x, y, 3, **options)
    a, b, w = map(jnp.asarray, (x, y, weights))
    _, pullback = jax.vjp(lambda a: kernel(a, b), a)

    def at_constants(c):
        return jax.grad(lambda a: (w * kernel(a, b)).sum())(a) * c

    def of_weights(c):
        return pullback(c * w)[0]

    for function in (at_constants, of_weights):
        agree(function(2.0), 2.0 * wanted)
        agree(jax.jit(function)(2.0), 2.0 * wanted)
        agree(jax.vmap(function)(jnp.arange(3.0)), np.arange(3.0)[:, None, None, None] * wanted)
    agree(jax.grad(lambda c: (at_constants(c) * a**2).sum())(2.0), (wanted * x**2).sum())
    with pytest.raises(NotImplementedError, match="second derivatives"):
        jax.grad(lambda c: of_weights(c).sum())(2.0)


def test_gradients_outside_of_programs_take_arrays_of_numpy_and_numbers(paths):
    x, y = paths
    kernel = branchsig.RBFKernel(0.7)
    _, pullback = branchsig.branched_sig_kernel_vjp(x, y, 3, static_kernel=kernel, param_deriv=True)
    *of_paths, parameters = pullback(np.ones(5))

    def kernels(sigma, a, b):
        return branchsig.branched_sig_kernel(a, b, 3, static_kernel=branchsig.RBFKernel(sigma))

    found = jax.grad(lambda *arguments: kernels(*arguments).sum(), (0, 1, 2))(0.7, x, y)
    agree(found, (parameters["sigma"], *of_paths))
    agree(jax.vjp(kernels, 0.7, x, y)[1](np.ones(5)), found)
    assert all(isinstance(gradient, jax.Array) for gradient in found)


def test_vmap_over_some_of_the_operands_has_all_combinations(paths, calls_of_python, rng):
    x, y = paths
    sigmas = np.array([0.5, 2.0])

    def kernel(a, b, sigma):
        return branchsig.branched_sig_kernel(a, b, 2, static_kernel=branchsig.RBFKernel(sigma))

    all_pairs = jax.vmap(jax.vmap(kernel, (None, 0, None)), (0, None, None))
    wanted = np.stack(
        [branchsig.branched_sig_kernel_gram(x, y, 2, static_kernel=branchsig.RBFKernel(s)) for s in sigmas]
    )
    for function in (all_pairs, jax.jit(all_pairs)):
        agree(function(x, y, 0.5), wanted[0], 1e-13)
        agree(jax.vmap(function, (None, None, 0))(x, y, sigmas), wanted, 1e-13)
    weights = rng.standard_normal((2, 5, 5))
    gradient = jax.grad(
        lambda a, b, s: (weights * jax.vmap(all_pairs, (None, None, 0))(a, b, s)).sum(), argnums=(0, 1, 2)
    )
    of_paths, of_sigma = [np.zeros_like(x), np.zeros_like(y)], []
    for sigma, some in zip(sigmas, weights):
        kernel_ = branchsig.RBFKernel(sigma)
        _, pullback = branchsig.branched_sig_kernel_gram_vjp(x, y, 2, static_kernel=kernel_, param_deriv=True)
        first, second, parameters = pullback(some)
        of_paths = [of_paths[0] + first, of_paths[1] + second]
        of_sigma.append(parameters["sigma"])
    agree(jax.jit(gradient)(x, y, sigmas), (*of_paths, np.array(of_sigma)))
    assert not calls_of_python


def test_vmap_of_gram_matrices_and_of_lengths_is_a_matrix_for_each(paths, rng):
    x, y = paths
    stack, lengths = np.stack([x, x[::-1]]), np.array([[7, 3, 1, 5, 7], [2, 2, 7, 1, 4]])
    for options in ({}, DILATION):
        gram = functools.partial(branchsig.branched_sig_kernel_gram, depth=2, **options)
        wanted = np.stack([gram(a, y, lengths1=valid) for a, valid in zip(stack, lengths)])
        found = jax.jit(jax.vmap(lambda a, valid, gram=gram: gram(a, y, lengths1=valid)))(stack, lengths)
        agree(found, wanted)
        wanted = np.stack([gram(x, y, lengths1=valid) for valid in lengths])
        agree(jax.jit(jax.vmap(lambda valid, gram=gram: gram(x, y, lengths1=valid)))(lengths), wanted)


@pytest.mark.parametrize("varying", [True, False])
def test_shard_map_over_a_mesh_differentiates_what_it_splits_and_what_it_shares(varying, paths):
    x, y = paths
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("device",))
    split, shared = jax.sharding.PartitionSpec("device"), jax.sharding.PartitionSpec()
    for options in ({}, DILATION):

        def kernel(a, b, sigma, options=options):
            return branchsig.branched_sig_kernel(a, b, 2, static_kernel=branchsig.RBFKernel(sigma), **options)

        mapped = jax.shard_map(kernel, mesh=mesh, in_specs=(split, split, shared), out_specs=split, check_vma=varying)
        found = jax.jit(jax.value_and_grad(lambda *args, f=mapped: f(*args).sum(), (0, 1, 2)))(x, y, 0.7)
        wanted = jax.value_and_grad(lambda *args, f=kernel: f(*args).sum(), (0, 1, 2))(x, y, 0.7)
        agree(found, wanted)


# Every operation with its options.

OPERATIONS = {
    "kernel": (branchsig.branched_sig_kernel, branchsig.branched_sig_kernel_vjp, "xy"),
    "gram": (branchsig.branched_sig_kernel_gram, branchsig.branched_sig_kernel_gram_vjp, "xy"),
    "stack": (branchsig.branched_sig_kernel_stack, branchsig.branched_sig_kernel_stack_vjp, "xy"),
    "mmd": (branchsig.branched_sig_mmd, branchsig.branched_sig_mmd_vjp, "xy"),
    "score": (branchsig.branched_sig_score, branchsig.branched_sig_score_vjp, "xy"),
    "expected score": (branchsig.expected_branched_sig_score, branchsig.expected_branched_sig_score_vjp, "xy"),
    "dilation": (branchsig.dilation, branchsig.dilation_vjp, "x"),
}
OPTIONS = [
    {},
    {"time_aug": True, "lead_lag": True, "end_time": 0.5},
    {"dyadic_order": (1, 0), "quadrature": "left"},
    {"static_kernel": branchsig.Matern32Kernel(0.8), "n_jobs": 2},
    {"normalize": True},
    DILATION,
    {"order": 3},
    {"order": 3, "return_levels": True},
    {"log": True, "normalize": "dilation"},
    {"return_grid": True},
    {"rtol": 1e-6},
    {"lam": 0.5, "unbiased": False},
    {"max_batch": 2},
    {"target": 2.0, "room": 3.0},
    {"method": "guard"},
]


def _takes(function, options):
    return set(options) <= set(inspect.signature(function).parameters)


CASES = [
    (name, options)
    for name, options in itertools.product(OPERATIONS, OPTIONS)
    if _takes(OPERATIONS[name][0], options) and not (name == "dilation" and "dyadic_order" in options)
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda part: str(part))
def test_every_operation_has_the_values_and_gradients_of_numpy(name, options, paths, rng):
    function, with_pullback, operands = OPERATIONS[name]
    given = paths[: len(operands)]
    wanted, pullback = with_pullback(*given, 3, **options)
    weights = rng.standard_normal(wanted.shape)
    gradients = pullback(weights)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    arrays = tuple(map(jnp.asarray, given))

    def weighted(*arrays):
        return (weights * function(*arrays, 3, **options)).sum()

    def through_pullback(weights, *arrays):
        value, pullback = with_pullback(*arrays, 3, **options)
        return value, pullback(weights)

    agree(jax.jit(lambda *arrays: function(*arrays, 3, **options))(*arrays), wanted)
    for transform in (lambda f: f, jax.jit):
        places = tuple(range(len(arrays)))
        agree(transform(jax.grad(weighted, places))(*arrays), gradients, 1e-10)
        agree(transform(through_pullback)(jnp.asarray(weights), *arrays), (wanted, gradients), 1e-10)
    batched = jax.jit(jax.vmap(lambda *arrays: function(*arrays, 3, **options)))
    agree(batched(*(array[None] for array in arrays)), wanted[None])


def test_lists_of_paths_are_traced_one_by_one(paths, rng):
    some = [paths[0][0], paths[0][1, :4], paths[0][2, :2]]
    weights = rng.standard_normal((3, 3))
    for options in ({}, DILATION, {"time_aug": True}):
        gram = functools.partial(branchsig.branched_sig_kernel_gram, path2=None, depth=3, **options)
        listed = list(map(jnp.asarray, some))
        agree(jax.jit(gram)(listed), gram(some))
        found = jax.jit(jax.grad(lambda list_, gram=gram: (weights * gram(list_)).sum()))(listed)
        agree(found, branchsig.branched_sig_kernel_gram_backprop(weights, some, None, 3, **options)[0], 1e-11)
        agree(gram(listed), gram(some))


def test_transformed_paths_are_differentiated_by_jax_itself(paths):
    x = paths[0][0]

    def squares(a):
        return (branchsig.transform_path(a, time_aug=True, lead_lag=True) ** 2).sum()

    agree(
        jax.jit(branchsig.transform_path, static_argnames="lead_lag")(x, lead_lag=True),
        np.asarray(branchsig.transform_path(x, lead_lag=True)),
    )
    second = jax.hessian(squares)(x)
    counts = np.full(7, 4.0)  # how often a point is a lag or a lead
    counts[[0, -1]] = 3.0
    agree(np.einsum("ijij->ij", second), 2.0 * np.broadcast_to(counts[:, None], (7, 2)))


# What is not there is refused.


@pytest.mark.parametrize("options", [{}, DILATION], ids=str)
def test_second_derivatives_and_forward_mode_are_refused(options, paths):
    x, y = map(jnp.asarray, paths)

    def total(a):
        return branchsig.branched_sig_kernel(a, y, 2, **options).sum()

    def squared(a):
        return (jax.grad(total)(a) ** 2).sum()

    for refused in (lambda a: jax.jvp(total, (a,), (a,)), jax.jacfwd(total), jax.hessian(total), jax.grad(squared)):
        for transform in (lambda f: f, jax.jit):
            with pytest.raises((TypeError, NotImplementedError), match="custom_vjp|second derivatives"):
                transform(refused)(x)
    # Who wants no more than the gradient as a number says so.
    gradient = jax.grad(total)(x)
    scaled = jax.grad(lambda a: (jax.lax.stop_gradient(jax.grad(total)(jax.lax.stop_gradient(a))) * a).sum())(x)
    np.testing.assert_array_equal(scaled, gradient)


def test_functions_without_a_value_inside_of_programs_say_so(paths):
    x, y = paths
    with pytest.raises(TypeError, match="pad_paths of a .*Tracer of jax, which is traced.*Give the list itself"):
        jax.jit(lambda a, b: branchsig.pad_paths([a, b]))(x[0], y[0])
    with pytest.raises(TypeError, match="branched_sig_mmd_test of a .*Tracer of jax.*Take branched_sig_mmd"):
        jax.jit(lambda a: branchsig.branched_sig_mmd_test(a, y, 2))(x)
    with pytest.raises(TypeError, match="warm_up with RBFKernel.*Call warm_up outside of jit"):
        jax.jit(lambda sigma: branchsig.warm_up(2, static_kernel=branchsig.RBFKernel(sigma)))(1.0)


ERRORS = {
    "batch": (lambda x, y: branchsig.branched_sig_kernel(x, y[:3], 2), "path1 has batch shape .5,. and path2 .3,."),
    "dtype": (
        lambda x, y: branchsig.branched_sig_kernel(x, y.astype(np.float32), 2),
        "path2 has dtype float32 and path1 has dtype float64",
    ),
    "lengths": (
        lambda x, y: branchsig.branched_sig_kernel(x, y, 2, lengths1=(8 + 0 * x[:, 0, 0]).astype(int)),
        "lengths1 has values from 8 to 8: expected from 1 to 7",
    ),
    "lengths in python": (
        lambda x, y: branchsig.branched_sig_kernel(x, y, 2, lengths1=(0 * x[:, 0, 0]).astype(int), **DILATION),
        "lengths1 has values from 0 to 0: expected from 1 to 7",
    ),
    "parameter": (
        lambda x, y: branchsig.branched_sig_kernel(x, y, 2, static_kernel=branchsig.RBFKernel(0 * x[0, 0, 0] - 1)),
        "RBFKernel: sigma is -1.0: expected a finite number > 0",
    ),
    "rtol": (lambda x, y: branchsig.branched_sig_kernel(x, y, 2, rtol=1e-15), "rtol is 1e-15: paths of dtype float64"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_inside_of_programs_keep_their_message(name, paths):
    function, message = ERRORS[name]
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(jax.jit(function)(*paths))
    with pytest.raises((ValueError, TypeError), match=message):
        function(*map(jnp.asarray, paths))


# Warnings.


def test_a_compiled_call_site_warns_once_at_the_line_that_was_traced(paths):
    x, y = (1e3 * path for path in paths)
    program = jax.jit(lambda a, b: branchsig.branched_sig_kernel(a, b, 3))  # this line
    line = sys._getframe().f_lineno - 1
    for function in (program, jax.jit(jax.value_and_grad(lambda a, b: program(a, b).sum()))):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                jax.block_until_ready(function(x, y))
        assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, line)]
        assert " of 5 values " in str(caught[0].message)


def test_a_warning_that_is_an_error_is_one_of_the_program(paths):
    x, y = (1e3 * path for path in paths)
    program = jax.jit(lambda a, b: branchsig.branched_sig_kernel(a, b, 3, n_jobs=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Exception, match="RuntimeWarning: . of 5 values"):
            jax.block_until_ready(program(x, y))


@pytest.mark.filterwarnings("error")
def test_a_gram_matrix_of_one_path_is_warned_of_in_a_program_too(paths):
    with pytest.raises(Exception, match="was taken for one path of 7 points in 2 dimensions"):
        jax.block_until_ready(jax.jit(lambda a: branchsig.branched_sig_kernel_gram(a, None, 2))(paths[0][0]))


# Shapes and dtypes.


@pytest.mark.parametrize("options", [{}, DILATION, {"static_kernel": branchsig.RBFKernel(1.0)}], ids=str)
def test_empty_batches_have_empty_values_and_gradients_of_zeros(options, paths):
    x, y = map(jnp.asarray, paths)
    kernel = functools.partial(branchsig.branched_sig_kernel, depth=2, **options)
    gram = functools.partial(branchsig.branched_sig_kernel_gram, depth=2, **options)
    for transform in (lambda f: f, jax.jit):
        assert transform(kernel)(x[:0], y[:0]).shape == (0,)
        found = transform(jax.grad(lambda a, b: kernel(a, b).sum(), (0, 1)))(x[:0], y[:0])
        assert [gradient.shape for gradient in found] == [(0, 7, 2), (0, 6, 2)]
        assert transform(gram)(x[:0], y).shape == (0, 5)
        found = transform(jax.grad(lambda a, b: gram(a, b).sum(), (0, 1)))(x[:0], y)
        assert found[0].shape == (0, 7, 2)
        np.testing.assert_array_equal(found[1], np.zeros((5, 6, 2)))
        assert transform(jax.vmap(lambda a: kernel(a, y[:0])))(jnp.ones((3, 0, 7, 2))).shape == (3, 0)
        sigma = jax.grad(
            lambda s: branchsig.branched_sig_kernel(x[:0], y[:0], 2, static_kernel=branchsig.RBFKernel(s)).sum()
        )
        assert float(transform(sigma)(1.0)) == 0.0


@pytest.mark.parametrize("options", [{}, DILATION, {"order": 3}, {"normalize": True}], ids=str)
def test_without_64_bits_what_is_kept_has_all_its_digits(options, rng):
    x, y = (walk(rng, 4, 6, 2, size=0.5, dtype=np.float32) for _ in range(2))
    wanted = branchsig.branched_sig_kernel_backprop(np.ones(4, np.float32), x, y, 3, right_deriv=True, **options)
    jax.config.update("jax_enable_x64", False)
    found = jax.jit(jax.grad(lambda a, b: branchsig.branched_sig_kernel(a, b, 3, **options).sum(), (0, 1)))(x, y)
    for gradient, its in zip(found, wanted):
        assert gradient.dtype == np.float32
        np.testing.assert_array_equal(gradient, its)


# Concrete arrays.


def test_concrete_arrays_are_read_in_place(paths, monkeypatch):
    x, y = map(jnp.asarray, paths)
    addresses = []
    prepare = type(branchsig.kernel._KERNEL).prepare

    def spied(self, spec, how, *operands):
        addresses.extend(operand.ctypes.data for operand in operands[:2])
        return prepare(self, spec, how, *operands)

    monkeypatch.setattr(type(branchsig.kernel._KERNEL), "prepare", spied)
    monkeypatch.setattr(type(branchsig.kernel._KERNEL), "made_ready", False)
    found = branchsig.branched_sig_kernel(x, y, 3)
    assert addresses == [x.unsafe_buffer_pointer(), y.unsafe_buffer_pointer()]
    assert isinstance(found, jax.Array)
    np.testing.assert_array_equal(found, branchsig.branched_sig_kernel(*paths, 3))


def test_results_lie_where_the_paths_were_put(paths):
    device = jax.devices()[-1]
    x, y = (jax.device_put(path, device) for path in paths)
    value, pullback = branchsig.branched_sig_kernel_vjp(x, y, 3)
    for array in (value, *pullback(jnp.ones(5))):
        assert array.committed
        assert array.devices() == {device}


def test_a_pullback_of_concrete_arrays_can_be_pickled_and_differentiates_traced_derivatives(paths):
    x, y = map(jnp.asarray, paths)
    kernel = branchsig.RBFKernel(0.7)
    _, wanted = branchsig.branched_sig_kernel_vjp(*paths, 3, static_kernel=kernel, param_deriv=True)
    _, pullback = branchsig.branched_sig_kernel_vjp(x, y, 3, static_kernel=kernel, param_deriv=True)
    again = pickle.loads(pickle.dumps(pullback))
    wanted = wanted(np.ones(5))
    for function in (pullback, again, jax.jit(pullback)):
        agree(function(jnp.ones(5)), wanted)
    agree(jax.vmap(pullback)(jnp.ones((1, 5))), jax.tree.map(lambda gradient: gradient[None], wanted))


# Static kernels of the user's own.


@pytest.mark.parametrize("take", [branchsig.branched_sig_kernel, branchsig.branched_sig_kernel_gram])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lengths1": np.array([7, 3, 1, 5, 7]), "time_aug": True, "lead_lag": True},
        {"return_grid": True},
        {"order": 3},
    ],
    ids=lambda options: ",".join(options),
)
def test_kernels_written_in_jax_are_differentiated_by_jax(take, options, paths):
    def total(sigma, a, b, kind):
        return take(a, b, 3, static_kernel=kind(sigma), **options).sum()

    arguments = (jnp.asarray(0.7), *map(jnp.asarray, paths))
    wanted = jax.jit(jax.value_and_grad(functools.partial(total, kind=branchsig.RBFKernel), (0, 1, 2)))(*arguments)
    differentiated = jax.value_and_grad(functools.partial(total, kind=Gaussian), (0, 1, 2))
    agree(jax.jit(differentiated)(*arguments), wanted, 1e-9)
    agree(take(*arguments[1:], 3, static_kernel=Gaussian(0.7), **options).sum(), wanted[0])


def test_large_gram_matrices_of_kernels_written_in_jax_are_made_row_by_row(paths, monkeypatch):
    lengths = jnp.array([7, 3, 1, 5, 7])

    def total(sigma, a, b):
        return branchsig.branched_sig_kernel_gram(a, b, 3, static_kernel=Gaussian(sigma), lengths1=lengths).sum()

    at_once = jax.value_and_grad(total, (0, 1, 2))(0.7, *paths)
    monkeypatch.setattr(binding, "_MOST_INCREMENTS", 0)
    agree(jax.value_and_grad(total, (0, 1, 2))(0.7, *paths), at_once, 1e-12)


# Without the compiled core, in threads, and in other processes.


def test_without_the_core_callbacks_serve(paths, monkeypatch):
    x, y = map(jnp.asarray, paths)
    monkeypatch.setattr(binding, "lib", None)
    for options in ({}, DILATION):
        kernel = functools.partial(branchsig.branched_sig_kernel, depth=3, **options)
        agree(jax.jit(jax.vmap(kernel))(x, y), kernel(*paths))
        found = jax.jit(jax.grad(lambda a, kernel=kernel: kernel(a, y).sum()))(x)
        agree(found, branchsig.branched_sig_kernel_backprop(np.ones(5), *paths, 3, **options)[0])


def test_programs_run_in_several_threads_at_once(paths):
    for options in ({}, DILATION):
        wanted = branchsig.branched_sig_kernel(*paths, 3, **options)
        program = jax.jit(functools.partial(branchsig.branched_sig_kernel, depth=3, **options))
        with ThreadPoolExecutor(4) as threads:
            for value in threads.map(lambda _, program=program: np.asarray(program(*paths)), range(80)):
                agree(value, wanted)


SCRIPT = """
import sys

import numpy as np
import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))

import branchsig

x, y = np.random.default_rng(0).normal(scale=0.2, size=(2, 3, 5, 2)).cumsum(axis=2)
calls = [{"depth": 3}, {"depth": 3, "normalize": "dilation"}, {"depth": 2, "order": 3}, {"depth": 2}]
for options in calls[:: int(sys.argv[2])]:
    found = jax.jit(lambda a, b: branchsig.branched_sig_kernel(a, b, **options))(x, y)
    np.testing.assert_allclose(found, branchsig.branched_sig_kernel(x, y, **options), rtol=1e-13)
print(sum(name.endswith("cache_hits") for name in events))
"""


def test_a_program_from_the_compilation_cache_finds_the_right_functions_in_another_process(tmp_path):
    hits = [
        subprocess.run(
            [sys.executable, "-P", "-c", SCRIPT, str(tmp_path), step], capture_output=True, text=True, check=True
        ).stdout.strip()
        for step in ("1", "-1")  # the calls in another order
    ]
    assert hits == ["0", "4"]


EXPORTED = """
import sys

import numpy as np
import jax
from jax import export

jax.config.update("jax_enable_x64", True)
import branchsig.frameworks.jax

data = np.load(sys.argv[1])
for name in ("b", "a"):
    program = export.deserialize(bytearray(data[name].tobytes()))
    np.testing.assert_allclose(program.call(data["x"], data["y"]), data["value_" + name], rtol=1e-13)
    gradient = program.vjp().call(data["x"], data["y"], np.ones(5))[0]
    np.testing.assert_allclose(gradient, data["gradient_" + name], rtol=1e-12)
"""


def test_an_exported_program_finds_the_right_functions_in_another_process(paths, tmp_path):
    pytest.importorskip("flatbuffers")  # which jax.export needs, and does not bring
    x, y = paths
    stored = {"x": x, "y": y}
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in ("branchsig_kernels", "branchsig_call")]
    for name, options in (("a", {}), ("b", DILATION)):
        program = jax.jit(functools.partial(branchsig.branched_sig_kernel, depth=3, **options))
        exported = jax.export.export(program, disabled_checks=checks)(x, y)
        stored[name] = np.frombuffer(exported.serialize(vjp_order=1), np.uint8)
        stored[f"value_{name}"] = branchsig.branched_sig_kernel(x, y, 3, **options)
        stored[f"gradient_{name}"] = branchsig.branched_sig_kernel_backprop(np.ones(5), x, y, 3, **options)[0]
    np.savez(tmp_path / "programs.npz", **stored)
    subprocess.run([sys.executable, "-P", "-c", EXPORTED, str(tmp_path / "programs.npz")], check=True)


PROCESSES = """
import multiprocessing
import sys

import numpy as np
import jax

jax.config.update("jax_enable_x64", True)
import branchsig

X, Y = np.random.default_rng(0).normal(scale=0.2, size=(2, 3, 5, 2)).cumsum(axis=2)


def work(options):
    return np.asarray(jax.jit(lambda a, b: branchsig.branched_sig_kernel(a, b, 3, **options))(X, Y))


if __name__ == "__main__":
    for options in ({}, {"normalize": "dilation"}):
        wanted = branchsig.branched_sig_kernel(X, Y, 3, **options)
        with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
            np.testing.assert_allclose(pool.apply_async(work, (options,)).get(100), wanted, rtol=1e-13)
"""


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_programs_run_in_other_processes(start, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PROCESSES, encoding="utf-8")
    subprocess.run([sys.executable, str(script), start], check=True)
