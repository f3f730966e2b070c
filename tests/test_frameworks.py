"""What comes in decides: every operation on the arrays of every framework, inside whatever the framework does.

Values and gradients are held against those of NumPy's arrays, which other tests hold against formulas.
"""

import itertools
import multiprocessing
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from cases import walk
from framework_cases import ALONE, KERNELS, MORE, SHORT, WITH_PARAMETERS, close
from frameworks import FRAMEWORKS, framework_named

import branchsig
from branchsig.frameworks._table import TABLE

# Of its own, when torch.compile meets an autograd.Function, and when it makes dual numbers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
]


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return framework_named(request.param)


def test_every_framework_of_the_documentation_has_an_entry(framework):
    assert [*FRAMEWORKS, "pytensor", "dask"] == list(TABLE)  # the last two have tests of their own
    has = framework.has
    for said, given in (
        (has.gradients, framework.gradients),
        (has.maps, framework.batched),
        (has.programs, framework.compiled),
        (has.forward, framework.along),
    ):
        assert bool(said) == (given is not None)


def scalar(framework, case, weights, **more):
    """The function of arrays of a framework that the gradients are those of."""
    weights = framework.array(weights)
    return lambda *paths: framework.total(weights * case.value(*paths, **more))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", SHORT + MORE, ids=repr)
def test_values_and_gradients_are_those_of_numpy(case, dtype, framework, rng):
    paths = case.paths(rng, dtype)
    value = case.value(*paths)
    weights = rng.standard_normal(value.shape).astype(dtype)
    arrays = [framework.array(path) for path in paths]
    close(case.value(*arrays), value, dtype)
    total, gradients = framework.gradients(scalar(framework, case, weights), *arrays)
    close(total, np.sum(weights * value), dtype)
    for found, wanted in zip(gradients, case.gradients(weights, *paths), strict=True):
        close(found, wanted, dtype)


@pytest.mark.parametrize("case", SHORT + MORE, ids=repr)
def test_programs_have_the_values_and_gradients(case, framework, rng):
    if framework.compiled is None:
        pytest.skip("there is no compiler")
    paths = case.paths(rng)
    value = case.value(*paths)
    weights = rng.standard_normal(value.shape)
    arrays = [framework.array(path) for path in paths]
    function = scalar(framework, case, weights)
    if case in SHORT:  # a program of its own where nothing is differentiated, one for every operation
        close(framework.compiled(function)(*arrays), np.sum(weights * value))
    total, gradients = framework.gradients(framework.compiled(function), *arrays)
    close(total, np.sum(weights * value))
    for found, wanted in zip(gradients, case.gradients(weights, *paths), strict=True):
        close(found, wanted)


@pytest.mark.parametrize("case", SHORT + MORE, ids=repr)
def test_functions_and_derivatives_go_along_an_axis(case, framework, rng):
    if framework.batched is None:
        pytest.skip("there is no map along an axis")
    many = [case.paths(rng) for _ in range(3)]
    stacked = [framework.array(np.stack(paths)) for paths in zip(*many)]
    values = framework.batched(lambda *paths: case.value(*paths))(*stacked)
    for found, paths in zip(np.asarray(values), many):
        close(found, case.value(*paths))
    weights = rng.standard_normal(case.value(*many[0]).shape)
    gradients = framework.batched(framework.derivative(scalar(framework, case, weights)))(*stacked)
    for found, paths in zip(np.asarray(gradients), many):
        close(found, case.gradients(weights, *paths)[0])


@pytest.mark.parametrize("case", [SHORT[1], SHORT[4], SHORT[0]], ids=repr)
def test_two_axes_may_be_nested_and_one_operand_be_the_same_for_all(case, framework, rng):
    if framework.batched is None:
        pytest.skip("there is no map along an axis")
    first, second = ([walk(rng, *case.shapes[side]) for _ in range(2)] for side in (0, 1))
    x, y = (framework.array(np.stack(paths)) for paths in (first, second))
    table = framework.batched(lambda a: framework.batched(lambda b: case.value(a, b))(y))(x)
    for i in (0, 1):
        for j in (0, 1):
            close(np.asarray(table)[i, j], case.value(first[i], second[j]))


ALL_PAIRS = list(itertools.product(WITH_PARAMETERS, KERNELS))
EACH_ONCE = list(zip(WITH_PARAMETERS, itertools.cycle(KERNELS)))  # programs take a second each to be made


@pytest.mark.parametrize(
    ("case", "kernel", "way"),
    [
        *((*pair, way) for pair in ALL_PAIRS for way in ("plain", "batched")),
        *((*pair, "compiled") for pair in EACH_ONCE),
    ],
    ids=lambda part: part[0].__name__ if isinstance(part, tuple) else str(part),
)
def test_parameters_of_static_kernels_have_gradients(case, kernel, way, framework, rng):
    kind, values, fixed = kernel
    paths = [0.5 * path for path in case.paths(rng)]  # on which polynomials stay in range
    names = kind.parameters
    kernel = kind(**dict(zip(names, values)), **fixed)
    weights = rng.standard_normal(case.value(*paths, static_kernel=kernel).shape)
    wanted = case.gradients(weights, *paths, static_kernel=kernel)
    backprop = getattr(branchsig, case.name + "_backprop")
    more = {"depth": 3} | case.options | {"static_kernel": kernel}
    second = [] if case.name in ALONE else [paths[1] if len(paths) > 1 else None]
    of_parameters = backprop(weights, paths[0], *second, param_deriv=True, **more)[-1]

    def function(*arrays):
        held = kind(**dict(zip(names, arrays[len(paths) :])), **fixed)
        return scalar(framework, case, weights, static_kernel=held)(*arrays[: len(paths)])

    arrays = [framework.array(np.asarray(array)) for array in (*paths, *values)]
    if way == "batched":
        if framework.batched is None:
            pytest.skip("there is no map along an axis")
        many = framework.array(np.asarray(values)[-1] * np.asarray([1.0, 1.5]))
        found = framework.batched(framework.derivative(lambda last: function(*arrays[:-1], last)))(many)
        close(found[0], of_parameters[names[-1]])
        return
    if way == "compiled":
        if framework.compiled is None:
            pytest.skip("there is no compiler")
        function = framework.compiled(function)
    _, gradients = framework.gradients(function, *arrays)
    for found, its in zip(gradients, (*wanted, *(of_parameters[name] for name in names)), strict=True):
        np.testing.assert_allclose(np.asarray(found), its, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("compile_it", [False, True])
@pytest.mark.parametrize("case", [SHORT[0], SHORT[1], SHORT[4], MORE[5]], ids=repr)
def test_valid_lengths_are_operands(case, compile_it, framework, rng):
    paths = case.paths(rng)
    lengths = np.asarray([5, 1, 3])
    weights = rng.standard_normal(case.value(*paths).shape)
    wanted = case.gradients(weights, *paths, lengths1=lengths)

    def function(valid, *arrays):
        return scalar(framework, case, weights, lengths1=valid)(*arrays)

    if compile_it:
        if framework.compiled is None:
            pytest.skip("there is no compiler")
        function = framework.compiled(function)
    arrays = [framework.array(array) for array in (lengths, *paths)]
    total, (_, *gradients) = framework.gradients(function, *arrays)
    close(total, np.sum(weights * case.value(*paths, lengths1=lengths)))
    for found, its in zip(gradients, wanted, strict=True):
        close(found, its)


@pytest.mark.parametrize("compile_it", [False, True])
def test_lists_of_paths_are_operands_one_by_one(compile_it, framework, rng):
    paths = [walk(rng, 1, length, 2)[0] for length in (5, 2, 4)]
    weights = rng.standard_normal((3, 3))
    wanted, _ = branchsig.branched_sig_kernel_gram_backprop(weights, paths, None, 3, time_aug=True)
    array = framework.array(weights)

    def function(*arrays):
        return framework.total(array * branchsig.branched_sig_kernel_gram(list(arrays), None, 3, time_aug=True))

    if compile_it:
        if framework.compiled is None:
            pytest.skip("there is no compiler")
        function = framework.compiled(function)
    _, gradients = framework.gradients(function, *map(framework.array, paths))
    for found, its in zip(gradients, wanted, strict=True):
        close(found, its)


@pytest.mark.parametrize("compile_it", [False, True])
def test_batches_of_size_0_have_empty_values_and_gradients(compile_it, framework):
    x, y = framework.array(np.zeros((0, 5, 2))), framework.array(np.zeros((2, 4, 2)))
    for function in (
        lambda a, b: framework.total(branchsig.branched_sig_kernel(a, a, 3)) + framework.total(b) * 0.0,
        lambda a, b: framework.total(branchsig.branched_sig_kernel_gram(a, b, 3)),
        lambda a, b: framework.total(branchsig.branched_sig_kernel_gram(a, b, 3, normalize="dilation")),
        lambda a, b: framework.total(branchsig.dilation(a, 3)) + framework.total(b) * 0.0,
    ):
        if compile_it:
            if framework.compiled is None:
                pytest.skip("there is no compiler")
            function = framework.compiled(function)
        value, (of_x, of_y) = framework.gradients(function, x, y)
        assert float(value) == 0.0
        assert tuple(of_x.shape) == (0, 5, 2)
        assert not np.asarray(of_y).any()


def test_pullbacks_and_gradients_take_the_arrays_too(framework, rng):
    x, y = walk(rng, 3, 5, 2), walk(rng, 2, 4, 2)
    weights = rng.standard_normal((3, 2))
    kernel = branchsig.RBFKernel(0.9)
    options = {"normalize": True, "static_kernel": kernel, "right_deriv": True, "param_deriv": True}
    wanted = branchsig.branched_sig_kernel_gram_backprop(weights, x, y, 3, **options)

    def inside(a, b, w):
        value, pullback = branchsig.branched_sig_kernel_gram_vjp(
            a, b, 3, normalize=True, static_kernel=kernel, param_deriv=True
        )
        first = pullback(w)
        second = branchsig.branched_sig_kernel_gram_backprop(w, a, b, 3, **options)
        return value, first[0], first[1], first[2]["sigma"], second[0], second[1], second[2]["sigma"]

    arrays = [framework.array(array) for array in (x, y, weights)]
    value = branchsig.branched_sig_kernel_gram(x, y, 3, normalize=True, static_kernel=kernel)
    ways = [inside] if framework.compiled is None else [inside, framework.compiled(inside)]
    for function in ways:
        found = function(*arrays)
        for mine, its in zip(found, (value, *wanted[:2], wanted[2]["sigma"], *wanted[:2], wanted[2]["sigma"])):
            np.testing.assert_allclose(np.asarray(mine), its, rtol=1e-10, atol=1e-13)


def test_the_value_that_comes_with_a_pullback_has_a_derivative(framework, rng):
    x, y = walk(rng, 3, 5, 2), walk(rng, 2, 4, 2)
    other = framework.array(y)
    _, (found,) = framework.gradients(
        lambda a: framework.total(branchsig.branched_sig_kernel_gram_vjp(a, other, 3)[0]), framework.array(x)
    )
    close(found, branchsig.branched_sig_kernel_gram_backprop(np.ones((3, 2)), x, y, 3)[0])


def right_or_refused(framework, what, wanted, derivative, *arguments):
    """Whether a derivative is right or, where the table says so, refused by an error that says so."""
    if what == "refused":
        with pytest.raises(framework.refusals, match="derivative|forward-mode"):
            derivative(*arguments)
    elif what:
        np.testing.assert_allclose(np.asarray(derivative(*arguments)), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "case", [*SHORT, MORE[5], MORE[6], *(case for case in MORE if "planar" in case.options)], ids=repr
)
def test_second_derivatives_and_those_forward_are_right_or_refused(case, framework, rng):
    paths, directions = case.paths(rng), case.paths(rng)
    weights = rng.standard_normal(case.value(*paths).shape)
    arrays = [framework.array(path) for path in paths]
    x, along = paths[0], directions[0]

    def function(first):
        return scalar(framework, case, weights)(first, *arrays[1:])

    def slope(t):
        return case.gradients(weights, x + t * along, *paths[1:])[0]

    h = 1e-3
    second = (slope(-2 * h) - 8 * slope(-h) + 8 * slope(h) - slope(2 * h)) / (12 * h)
    first = np.sum(slope(0.0) * along)
    direction = framework.array(along)
    has = framework.has
    right_or_refused(framework, has.second, second, framework.twice, function, arrays[0], direction)
    right_or_refused(framework, has.forward, first, framework.along, function, arrays[0], direction)


def test_second_derivatives_with_respect_to_parameters_are_refused(framework, rng):
    x = framework.array(walk(rng, 3, 5, 2))

    def function(sigma):
        return framework.total(branchsig.branched_sig_kernel_gram(x, None, 3, static_kernel=branchsig.RBFKernel(sigma)))

    sigma, one = framework.array(np.asarray(0.9)), framework.array(np.asarray(1.0))
    with pytest.raises(framework.refusals, match="derivatives|forward-mode"):
        framework.twice(function, sigma, one)
    if framework.along is not None:
        with pytest.raises(framework.refusals, match="derivatives|forward-mode"):
            framework.along(function, sigma, one)


@pytest.mark.parametrize("compile_it", [False, True])
def test_what_is_wrong_with_paths_is_said_in_the_words_of_the_function(compile_it, framework):
    x, y = framework.array(np.zeros((3, 5, 2))), framework.array(np.zeros((3, 5, 3)))

    def function(a, b):
        return framework.total(branchsig.branched_sig_kernel_gram(a, b, 3))

    if compile_it:
        if framework.compiled is None:
            pytest.skip("there is no compiler")
        function = framework.compiled(function)
    with pytest.raises(Exception, match=r"path1 has shape \(3, 5, 2\) and path2 \(3, 5, 3\): expected") as raised:
        framework.gradients(function, x, y)
    assert compile_it or raised.type is ValueError


def test_values_that_overflow_are_warned_of_at_the_line_of_the_caller(framework, rng):
    x = framework.array(30.0 * walk(rng, 3, 5, 2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        framework.gradients(lambda a: framework.total(branchsig.branched_sig_kernel_gram(a, None, 4)), x)
    (said,) = [one for one in caught if "of 9 values" in str(one.message)]
    assert said.category is RuntimeWarning
    assert said.filename == __file__


def test_values_of_parameters_are_checked_when_they_are_there(framework, rng):
    x = framework.array(walk(rng, 3, 5, 2))
    with pytest.raises(Exception, match=r"RBFKernel: sigma is -1.0: expected a finite number > 0"):
        framework.gradients(
            lambda a, s: framework.total(
                branchsig.branched_sig_kernel_gram(a, None, 3, static_kernel=branchsig.RBFKernel(s))
            ),
            x,
            framework.array(np.asarray(-1.0)),
        )


def test_threads_do_not_disturb_each_other(framework, rng):
    x, y = walk(rng, 6, 8, 2), walk(rng, 5, 8, 2)
    results = {}

    def work(depth):
        arrays = framework.array(x), framework.array(y)
        for _ in range(5):
            results[depth] = framework.gradients(
                lambda a, b: framework.total(branchsig.branched_sig_kernel_gram(a, b, depth, normalize=True)), *arrays
            )[1]

    threads = [threading.Thread(target=work, args=(depth,)) for depth in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for depth, gradients in results.items():
        wanted = branchsig.branched_sig_kernel_gram_backprop(
            np.ones((6, 5)), x, y, depth, normalize=True, right_deriv=True
        )
        for found, its in zip(gradients, wanted, strict=True):
            close(found, its)


def _gradient_of_a_gram(name, x):
    framework = framework_named(name)
    _, (found,) = framework.gradients(
        lambda a: framework.total(branchsig.branched_sig_kernel_gram(a, None, 3, normalize=True)), framework.array(x)
    )
    return np.asarray(found)


def test_another_process_has_the_gradients(framework, rng, tmp_path):
    x = walk(rng, 3, 5, 2)
    np.save(tmp_path / "x.npy", x)
    name = next(name for name, entry in FRAMEWORKS.items() if framework_named(name) is framework)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import numpy as np; import test_frameworks;"
        "np.save('found.npy', test_frameworks._gradient_of_a_gram(sys.argv[2], np.load('x.npy')))"
    )
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-P", "-c", code, here, name], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "found.npy")
    close(found, branchsig.branched_sig_kernel_gram_backprop(np.ones((3, 3)), x, None, 3, normalize=True)[0])


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # of JAX, where it has run before
def test_a_forked_process_has_the_gradients(framework, rng):
    if not framework.forks:
        pytest.skip("its own threads do not outlive a fork")
    x = walk(rng, 3, 5, 2)
    name = next(name for name, entry in FRAMEWORKS.items() if framework_named(name) is framework)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=lambda: queue.put(_gradient_of_a_gram(name, x)))
    process.start()
    found = queue.get(timeout=120)
    process.join()
    close(found, branchsig.branched_sig_kernel_gram_backprop(np.ones((3, 3)), x, None, 3, normalize=True)[0])
