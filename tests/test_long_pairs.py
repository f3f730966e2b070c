"""Long pairs take a way of their own through the core: strips of rows over the lanes. It must not show."""

import functools
import math

import numpy as np
import pytest
from cases import gradients_of, walk
from remembered import RememberedReference

import branchsig
from branchsig.backends import Problem

CASES = {
    "linear": (600, 700, (0, 0), branchsig.LinearKernel()),
    "lengths that no strip or block divides": (1025, 521, (0, 0), branchsig.ScaledLinearKernel(1.1)),
    "radial": (515, 530, (0, 0), branchsig.RBFKernel(1.0)),
    "a kink": (300, 140, (1, 2), branchsig.Matern12Kernel(1.2)),
    "rows that are refined beyond a band": (40, 700, (4, 0), branchsig.PolynomialKernel(2.0, 1.0, 0.1)),
    "columns that are refined beyond a block": (530, 40, (0, 6), branchsig.LinearKernel()),
}
LOBATTO = branchsig.GaussLobatto(2)


def backend(instruction_set):
    cpu = pytest.importorskip("branchsig.backends.cpu", reason="no compiled core")
    if instruction_set not in cpu.instruction_sets():
        pytest.skip(f"this machine has no {instruction_set}")
    cpu.set_instruction_set(instruction_set)
    return cpu.CpuBackend()


@pytest.fixture(params=["avx512", "avx2", "baseline"])
def core(request):
    cpu = pytest.importorskip("branchsig.backends.cpu", reason="no compiled core")
    before = cpu.instruction_set()
    yield backend(request.param)
    cpu.set_instruction_set(before)


def walks(rng, pairs, length1, length2, dimension=3):
    return tuple(
        rng.standard_normal((pairs, length, dimension)).cumsum(axis=1) * 1.2 / np.sqrt(dimension * length)
        for length in (length1, length2)
    )


@pytest.mark.parametrize(
    ("case", "depth"),
    [*((case, depth) for case in CASES for depth in (1, 3)), ("radial", math.inf), ("linear", math.inf)],
)
def test_long_pair_agrees_with_the_reference(core, case, depth):
    length1, length2, dyadic_order, _ = CASES[case]
    problem, value, *gradients = of_the_reference(case, depth)
    tolerance = 1e-13 * (length1 * 2 ** dyadic_order[0] + length2 * 2 ** dyadic_order[1])
    np.testing.assert_allclose(core.solve(problem, "end", log=True), value, rtol=0, atol=tolerance)
    for wrt_log, theirs in zip((False, True), gradients, strict=True):
        ours = gradients_of(core, problem, np.array([0.7]), wrt_log=wrt_log, left=True, right=True)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@functools.cache
def of_the_reference(case, depth):
    """A problem and what the reference makes of it: log K, and gradients with respect to values and logarithms."""
    length1, length2, dyadic_order, kernel = CASES[case]
    x, y = walks(np.random.default_rng(0), 1, length1, length2)
    x = 0.5 * x if depth == math.inf else x  # well below its blow-up
    problem, reference = Problem(x, y, "paired", kernel, depth, dyadic_order), RememberedReference()
    form = {"left": True, "right": True}
    gradients = [gradients_of(reference, problem, np.array([0.7]), wrt_log=w, **form) for w in (False, True)]
    return problem, reference.solve(problem, "end", log=True), *gradients


@pytest.mark.parametrize("options", [{"depth": 4}, {"depth": math.inf, "order": 3}])
def test_rows_of_nodes_that_are_not_kept_are_recovered(core, options):
    x, y = walks(np.random.default_rng(0), 2, 330, 360)
    problem = Problem(x, y, "paired", branchsig.RBFKernel(1.0), dyadic_order=(0, 0), quadrature=LOBATTO, **options)
    reference = RememberedReference()
    derivs = np.array([0.7, 0.3] if options["depth"] == 4 else [[0.1, 0.2, 0.3, 0.4]] * 2)
    ours, theirs = (
        gradients_of(one, problem, derivs, wrt_log=False, left=True, right=True) for one in (core, reference)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * np.abs(b).max())


@pytest.mark.parametrize(
    ("length1", "length2", "dyadic_order", "kernel"),
    [
        (330, 360, (0, 0), branchsig.LinearKernel()),
        (330, 360, (0, 0), branchsig.RBFKernel(1.0)),
        (3100, 400, (0, 0), branchsig.LinearKernel()),
        (160, 110, (4, 2), branchsig.RBFKernel(1.0)),
    ],
)
def test_rows_of_kernels_that_are_not_kept_are_recovered(core, length1, length2, dyadic_order, kernel):
    # Block by block from their edges and, where these do not fit either, band by band.
    problem, theirs = gradients_of_the_reference(length1, length2, dyadic_order, kernel)
    ours = gradients_of(core, problem, np.array([0.7, 0.3]), wrt_log=True, left=True, right=True)
    tolerance = 1e-13 * (length1 * 2 ** dyadic_order[0] + length2 * 2 ** dyadic_order[1])
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@functools.cache
def gradients_of_the_reference(length1, length2, dyadic_order, kernel):
    x, y = walks(np.random.default_rng(0), 2, length1, length2)
    problem = Problem(x, y, "paired", kernel, 8, dyadic_order)
    derivs = np.array([0.7, 0.3])
    return problem, gradients_of(RememberedReference(), problem, derivs, wrt_log=True, left=True, right=True)


@pytest.mark.parametrize("case", CASES)
def test_long_pair_has_the_same_bits_alone_and_in_a_batch(core, case):
    length1, length2, dyadic_order, kernel = CASES[case]
    x, y = walks(np.random.default_rng(1), 9, length1, length2)
    batch = Problem(x, y, "paired", kernel, 3, dyadic_order)
    alone = Problem(x[:1], y[:1], "paired", kernel, 3, dyadic_order)
    assert core.solve(alone, "end", log=True)[0] == core.solve(batch, "end", log=True)[0]
    options = {"wrt_log": True, "left": True, "right": True}
    for a, b in zip(
        gradients_of(core, alone, np.ones(1), **options), gradients_of(core, batch, np.ones(9), **options), strict=True
    ):
        np.testing.assert_array_equal(a[0], b[0])


def test_long_gram_matrix_adds_up_its_pairs(core):
    x, _ = walks(np.random.default_rng(2), 3, 520, 520)
    symmetric = Problem(x, x, "symmetric", branchsig.LinearKernel(), 2, (0, 0))
    derivs = np.arange(9.0).reshape(3, 3)
    reference = RememberedReference()
    options = {"wrt_log": False, "left": True, "right": False}
    ours, theirs = (gradients_of(one, symmetric, derivs, **options)[0] for one in (core, reference))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10 * np.abs(theirs).max())


def test_long_pair_that_overflows_half_way_is_inf_and_has_no_gradient(core):
    length = 600
    x = np.linspace(0.0, 1.0, length)[None, :, None] * 12.0
    problem = Problem(x, x.copy(), "paired", branchsig.LinearKernel(), 4, (0, 0))
    assert core.solve(problem, "end", log=True)[0] == np.inf
    for gradient in gradients_of(core, problem, np.ones(1), wrt_log=False, left=True, right=True):
        assert np.isnan(gradient).all()


@pytest.mark.parametrize("dyadic_order", [(0, 58), (58, 0), (40, 20)])
def test_rows_that_no_memory_holds_are_refused_before_any_work(dyadic_order):
    pytest.importorskip("branchsig.backends.cpu", reason="no compiled core")
    x = np.array([[0.0], [1.0]])
    with pytest.raises(MemoryError, match="dyadic_order"):
        branchsig.branched_sig_kernel(x, x, 3, dyadic_order)


@pytest.mark.parametrize("channels", [3, 17])
@pytest.mark.parametrize("lengths", [(66, 65), (65, 200), (180, 70), (300, 301)], ids=str)
def test_values_of_few_pairs_have_the_bits_they_have_among_many(core, lengths, channels, rng):
    x, y = (walk(rng, 9, length, channels) for length in lengths)
    for kernel in (branchsig.LinearKernel(), branchsig.RBFKernel(0.9), branchsig.Matern12Kernel(1e3)):
        many = core.solve(Problem(x, y, "paired", kernel, 3, (0, 0)), "end", log=True)
        for count in range(1, 5):
            few = core.solve(Problem(x[:count], y[:count], "paired", kernel, 3, (0, 0)), "end", log=True)
            np.testing.assert_array_equal(few, many[:count])
