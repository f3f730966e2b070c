"""Computations as objects: what they say of their results without data, and what a backward does not do again."""

import contextlib
import itertools
import math
import pickle

import numpy as np
import pytest
from cases import using, walk
from hypothesis import example, given, settings
from hypothesis import strategies as st

import branchsig
from branchsig.backends import choice
from branchsig.backends.reference import ReferenceBackend
from branchsig.operations import OPERATIONS, Shape, dilate, means
from branchsig.operations.stages import stage_for
from branchsig.spec import Execution, Spec, Transforms, Truncation

# Paths of one point, and of unbounded depth beyond where the kernel blows up, are drawn on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

HOW = Execution()


class Counting:
    """A backend that counts its solves and adjoints."""

    def __init__(self, inner):
        self.inner, self.name = inner, inner.name
        self.solves = self.adjoints = 0

    def solve(self, problem, want, **options):
        self.solves += 1
        return self.inner.solve(problem, want, **options)

    def adjoint(self, problem, want, derivs, wrt, **options):
        self.adjoints += 1
        return self.inner.adjoint(problem, want, derivs, wrt, **options)


@contextlib.contextmanager
def counted(backend):
    counting = Counting(backend)
    with using(counting):
        yield counting


SPECS = {
    "plain": {},
    "grid": {"return_grid": True},
    "log": {"log": True},
    "unit": {"normalize": True},
    "unit log": {"normalize": True, "log": True},
    "dilation": {"normalize": "dilation"},
    "dilation, no truncation": {"normalize": "dilation", "depth": math.inf},
    "order": {"order": 3},
    "order log": {"order": 3, "log": True},
    "order unit": {"order": 3, "normalize": True},
    "order dilation": {"order": 3, "normalize": "dilation"},
    "order log grid": {"order": 2, "log": True, "return_grid": True},
    "levels": {"order": 3, "return_levels": True},
    "rtol": {"rtol": 1e-6},
    "rtol dilation": {"rtol": 1e-6, "normalize": "dilation"},
    "rbf dilation": {"normalize": "dilation", "static_kernel": branchsig.RBFKernel(2.0)},
}


def options(name):
    chosen = dict(SPECS[name])
    chosen.setdefault("depth", None if "order" in chosen else 3)
    return chosen


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("form", ["paired", "gram", "alone", "twice"])
def test_a_pullback_solves_nothing_again(name, form, backend, rng):
    x, y = walk(rng, 4, 5, 2), walk(rng, 4, 6, 2)
    function = branchsig.branched_sig_kernel_vjp if form == "paired" else branchsig.branched_sig_kernel_gram_vjp
    second = {"paired": y, "gram": y, "alone": None, "twice": x}[form]
    with counted(backend) as counts:
        value, pullback = function(x, second, **options(name))
        counts.solves = 0
        pullback(np.ones_like(value))
    assert counts.solves == 0
    assert counts.adjoints > 0


@pytest.mark.parametrize("function", ["branched_sig_mmd", "branched_sig_score", "expected_branched_sig_score"])
@pytest.mark.parametrize("name", ["plain", "unit", "dilation", "order", "order unit", "order dilation"])
def test_a_pullback_of_means_in_blocks_solves_nothing_again(name, function, backend, rng, monkeypatch):
    monkeypatch.setattr(means, "_BLOCK", 2)
    x, y = walk(rng, 5, 5, 2), walk(rng, 3, 6, 2)
    with counted(backend) as counts:
        value, pullback = getattr(branchsig, function + "_vjp")(x, y, **options(name))
        counts.solves = 0
        found = pullback(np.ones_like(value))
    assert counts.solves == 0
    wanted = getattr(branchsig, function + "_backprop")(np.ones_like(value), x, y, right_deriv=True, **options(name))
    for mine, its in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", SPECS)
def test_a_plain_gradient_solves_for_what_it_needs_alone(name, backend, rng):
    x, y = walk(rng, 4, 5, 2), walk(rng, 3, 6, 2)
    with counted(backend) as counts:
        branchsig.branched_sig_kernel_gram_backprop(
            np.ones_like(branchsig.branched_sig_kernel_gram(x, y, **options(name))), x, y, **options(name)
        )
        counts.solves = 0
        value = branchsig.branched_sig_kernel_gram(x, y, **options(name))
        solves, counts.solves = counts.solves, 0
        branchsig.branched_sig_kernel_gram_backprop(np.ones_like(value), x, y, **options(name))
    needs_none = {"plain", "grid", "log", "order", "levels", "unit log"}
    if name in needs_none:
        assert counts.solves == 0
    elif name in {"dilation", "rbf dilation"}:
        assert counts.solves < solves  # the search alone


def test_with_a_tolerance_each_rule_starts_the_search_at_the_factors_before(backend, rng):
    x, y = walk(rng, 4, 8, 2), walk(rng, 3, 8, 2)
    with counted(backend) as counts:
        branchsig.branched_sig_kernel_gram(x, y, 3, normalize="dilation")
        alone, counts.solves = counts.solves, 0
        branchsig.branched_sig_kernel_gram(x, y, 3, normalize="dilation", rtol=1e-8)
    rules = 6
    assert counts.solves < 0.75 * rules * alone


OPERANDS = {
    "kernel": lambda rng: (walk(rng, 3, 5, 2), walk(rng, 3, 4, 2)),
    "gram": lambda rng: (walk(rng, 3, 5, 2), walk(rng, 2, 4, 2)),
    "stack": lambda rng: (walk(rng, 3, 5, 2), walk(rng, 3, 4, 2)),
    "increments": lambda rng: (0.1 * rng.standard_normal((3, 4, 3)),),
    "branched_sig_mmd": lambda rng: (walk(rng, 3, 5, 2), walk(rng, 2, 4, 2)),
    "branched_sig_score": lambda rng: (walk(rng, 3, 5, 2), walk(rng, 2, 4, 2)),
    "expected_branched_sig_score": lambda rng: (walk(rng, 3, 5, 2), walk(rng, 2, 4, 2)),
    "dilation": lambda rng: (walk(rng, 3, 5, 2),),
    "transform_path": lambda rng: (walk(rng, 3, 5, 2),),
}


def test_the_registry_lists_operations_by_their_names():
    assert set(OPERATIONS) == set(OPERANDS)
    for name, operation in OPERATIONS.items():
        assert operation.name == name
        assert pickle.loads(pickle.dumps(operation)) is operation


@pytest.mark.parametrize("name", OPERANDS)
def test_value_pullback_and_gradient_belong_together(name, backend, rng):
    operation, operands = OPERATIONS[name], OPERANDS[name](rng)
    spec = Spec(Truncation(2), transforms=Transforms(name == "transform_path"))
    value, pullback = operation.vjp(spec, HOW, *operands)
    np.testing.assert_array_equal(operation.value(spec, HOW, *operands), value)
    derivs = rng.standard_normal(value.shape)
    found = pullback(derivs)
    wanted = operation.backprop(derivs, spec, HOW, *operands, right_deriv=True)
    found, wanted = ((found,), (wanted,)) if operation.sides == 1 else (found, wanted)
    step = 1e-6
    for side, (mine, its, operand) in enumerate(zip(found, wanted, operands, strict=True)):
        np.testing.assert_allclose(mine, its, rtol=1e-12, atol=1e-14)
        direction = rng.standard_normal(operand.shape)

        def along(t, side=side, direction=direction):
            moved = [o + t * direction if k == side else o for k, o in enumerate(operands)]
            return np.sum(derivs * operation.value(spec, HOW, *moved))

        slope = (along(step) - along(-step)) / (2 * step)
        assert np.sum(mine * direction) == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", OPERANDS)
def test_a_pullback_can_be_pickled(name, rng):
    operation, operands = OPERATIONS[name], OPERANDS[name](rng)
    spec = Spec(Truncation(2), transforms=Transforms(name == "transform_path"))
    value, pullback = operation.vjp(spec, HOW, *operands)
    derivs = rng.standard_normal(value.shape)
    again = pickle.loads(pickle.dumps(pullback))
    found, wanted = again(derivs), pullback(derivs)
    for mine, its in zip(*((found, wanted) if operation.sides == 2 else ([found], [wanted])), strict=True):
        np.testing.assert_array_equal(mine, its)


@st.composite
def specs(draw):
    order = draw(st.sampled_from([None, None, 1, 3]))
    depth = math.inf if order is not None else draw(st.sampled_from([0, 1, 3, math.inf]))
    normalize = draw(st.sampled_from([False, True, "dilation"]))
    levels = order is not None and normalize is not True and draw(st.booleans())
    return Spec(
        Truncation(depth, order),
        dyadic_order=draw(st.sampled_from([(0, 0), (1, 1), (0, 2)])),
        static_kernel=draw(st.sampled_from([branchsig.LinearKernel(), branchsig.RBFKernel(2.0)])),
        transforms=Transforms(draw(st.booleans()), draw(st.booleans()), base_point=draw(st.booleans())),
        normalize=normalize,
        return_grid=normalize is not True and draw(st.booleans()),
        return_levels=levels,
        log=not levels and draw(st.booleans()),
        rtol=draw(st.sampled_from([None, None, 1e-3])),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    spec=specs(),
    batch1=st.sampled_from([(), (3,), (2, 1)]),
    batch2=st.sampled_from([(), (2,)]),
    lengths=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    form=st.sampled_from(["kernel", "gram", "alone", "twice"]),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_results_are_what_an_operation_says_without_data(spec, batch1, batch2, lengths, form, dtype):
    rng = np.random.default_rng(0)
    x = walk(rng, *batch1, lengths[0], 2).astype(dtype) if batch1 else walk(rng, 1, lengths[0], 2)[0].astype(dtype)
    batch2 = batch1 if form == "kernel" else batch2
    y = rng.standard_normal((*batch2, lengths[1], 2)).astype(dtype) * 0.2
    operands = {"kernel": (x, y), "gram": (x, y), "alone": (x, None), "twice": (x, x)}[form]
    operation = OPERATIONS["kernel" if form == "kernel" else "gram"]
    shapes = [None if o is None else Shape(o.shape, dtype) for o in operands]
    if form == "twice":
        shapes[1] = shapes[0]
    result = operation.result(spec, *shapes)
    job = operation.prepare(spec, HOW, *operands)
    value, kept = operation.forward(job, keep=True)
    assert (value.shape, str(value.dtype)) == result.value
    assert {name: Shape(array.shape, str(array.dtype)) for name, array in kept.items()} == result.kept


@settings(max_examples=30, deadline=None, derandomize=True)
@example(
    spec=Spec(Truncation(order=2), (0, 2), normalize=True),
    name="branched_sig_mmd",
    sizes=(2, 3),
    same=False,
    dtype="float64",
)
@given(
    spec=specs(),
    name=st.sampled_from(["branched_sig_mmd", "branched_sig_score", "expected_branched_sig_score"]),
    sizes=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    same=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_results_of_means_are_what_they_say_without_data(spec, name, sizes, same, dtype):
    spec = Spec(spec.truncation, spec.dyadic_order, spec.static_kernel, normalize=spec.normalize)
    rng, operation = np.random.default_rng(0), OPERATIONS[name]
    x, y = (walk(rng, n, 4, 2).astype(dtype) for n in sizes)
    operands = (x, x) if same else (x, y)
    shapes = [Shape(o.shape, dtype) for o in operands]
    shapes = [shapes[0]] * 2 if same else shapes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(means, "_BLOCK", 2)
        result = operation.result(spec, *shapes)
        value, kept = operation.forward(operation.prepare(spec, HOW, *operands), keep=True)
    assert (value.shape, str(value.dtype)) == result.value
    assert {name: Shape(array.shape, str(array.dtype)) for name, array in kept.items()} == result.kept


@pytest.mark.parametrize("name", ["increments", "dilation", "transform_path", "stack"])
def test_results_of_the_others_are_what_they_say_without_data(name, rng):
    operation, operands = OPERATIONS[name], OPERANDS[name](rng)
    spec = Spec(Truncation(2), (1, 1), transforms=Transforms(name == "transform_path"))
    result = operation.result(spec, *(Shape(o.shape) for o in operands))
    value, kept = operation.forward(operation.prepare(spec, HOW, *operands), keep=True)
    assert (value.shape, str(value.dtype)) == result.value
    assert {name: Shape(array.shape, str(array.dtype)) for name, array in kept.items()} == result.kept


@pytest.mark.parametrize("quadrature", ["trapezoid", "left", "lobatto3"])
@pytest.mark.parametrize("extra", [{}, {"log": True}, {"order": 3, "depth": None}, {"return_grid": True}])
def test_kernels_of_given_increments_are_those_of_the_paths(quadrature, extra, backend, rng):
    x, y = walk(rng, 3, 6, 2), walk(rng, 3, 5, 2)
    chosen = {"depth": 3, "dyadic_order": (1, 0), "quadrature": quadrature} | extra
    increments = np.diff(x, axis=1) @ np.diff(y, axis=1).swapaxes(1, 2)
    truncation = Truncation(math.inf if chosen["depth"] is None else 3, chosen.get("order"))
    spec = Spec(
        truncation,
        (1, 0),
        quadrature=quadrature,
        log=chosen.get("log", False),
        return_grid=chosen.get("return_grid", False),
    )
    wanted, of_paths = branchsig.branched_sig_kernel_vjp(x, y, lengths1=[6, 4, 1], **chosen)
    found, of_increments = OPERATIONS["increments"].vjp(spec, HOW, increments, [6, 4, 1], None)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    derivs = rng.standard_normal(wanted.shape)
    g = of_increments(derivs)
    steps = g @ np.diff(y, axis=1)
    d_x = np.concatenate([-steps[:, :1], steps[:, :-1] - steps[:, 1:], steps[:, -1:]], axis=1)
    np.testing.assert_allclose(d_x, of_paths(derivs)[0], rtol=1e-10, atol=1e-12)


def test_kernels_of_increments_know_no_paths_to_normalise(rng):
    spec = Spec(Truncation(2), normalize=True)
    with pytest.raises(ValueError, match="increments with normalize"):
        OPERATIONS["increments"].value(spec, HOW, rng.standard_normal((3, 4, 3)))


@pytest.mark.parametrize("method", ["solve", "guard"])
@pytest.mark.parametrize("kernel", [None, branchsig.ScaledLinearKernel(0.7), branchsig.RBFKernel(2.0)])
@pytest.mark.parametrize("depth", [3, math.inf, None])
def test_gradients_of_dilations_are_those_of_differences(method, kernel, depth, backend, rng):
    x = walk(rng, 3, 6, 2)
    x[2] = x[2, [0, 1, 3, 2, 1, 0]] * 4.0  # there and back again: a prefix is active
    chosen = {"depth": depth, "order": 3 if depth is None else None, "method": method, "static_kernel": kernel}
    factors, pullback = branchsig.dilation_vjp(x, lengths=[6, 4, 6], **chosen)
    derivs, direction, step = rng.standard_normal(3), rng.standard_normal(x.shape), 1e-6
    found = pullback(derivs)
    np.testing.assert_array_equal(found, branchsig.dilation_backprop(derivs, x, lengths=[6, 4, 6], **chosen))
    np.testing.assert_array_equal(factors, branchsig.dilation(x, lengths=[6, 4, 6], **chosen))
    ahead, behind = (branchsig.dilation(x + t * direction, lengths=[6, 4, 6], **chosen) for t in (step, -step))
    slopes = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(np.sum(found * direction, axis=(1, 2)), derivs * slopes, rtol=1e-5, atol=1e-9)
    assert not found[1, 4:].any()


def test_gradients_of_lists_of_paths_come_back_as_lists(rng):
    paths = [rng.standard_normal((n, 2)).cumsum(axis=0) for n in (5, 3)]
    factors, pullback = branchsig.dilation_vjp(paths, 2)
    gradient = pullback(np.ones_like(factors))
    assert [g.shape for g in gradient] == [(5, 2), (3, 2)]
    value, pullback = branchsig.transform_path_vjp(paths, time_aug=True)
    gradient = pullback([np.ones_like(v) for v in value])
    assert [g.shape for g in gradient] == [(5, 2), (3, 2)]
    with pytest.raises(TypeError, match="expected a list of 2 arrays"):
        pullback(np.ones(3))


def test_overflow_of_means_is_warned_of_once_at_the_line_of_the_caller(rng):
    x, y = 30.0 * walk(rng, 3, 5, 2), walk(rng, 3, 5, 2)
    with pytest.warns(RuntimeWarning) as caught:
        branchsig.branched_sig_mmd(x, y, 4)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_stages_hold_each_other_in_the_order_of_the_house():
    spec = Spec(Truncation(order=3), normalize="dilation", log=True)
    stage = stage_for(spec)
    assert type(stage) is dilate.Dilate
    assert type(stage.inner).__name__ == "SumOverNodes"
    assert stage_for(Spec(Truncation(3), log=True)) is stage_for(Spec(Truncation(4), log=True))


def test_the_choice_of_a_backend_is_what_it_was():
    before = dict(choice.serving)
    with using(Counting(ReferenceBackend())):
        pass
    assert all(choice.serving.get(name) is backend for name, backend in before.items() if backend is not None)


@pytest.mark.parametrize(("left", "right"), list(itertools.product([True, False], repeat=2)))
def test_gradients_of_stacks_are_sums_of_those_of_grids(left, right, backend, rng):
    x, y = walk(rng, 3, 5, 2), walk(rng, 3, 4, 2)
    derivs = rng.standard_normal((3, 4, 5, 4))
    found = branchsig.branched_sig_kernel_stack_backprop(derivs, x, y, 3, left_deriv=left, right_deriv=right)
    for side, asked in enumerate((left, right)):
        if not asked:
            assert found[side] is None
            continue
        wanted = sum(
            branchsig.branched_sig_kernel_backprop(derivs[:, m], x, y, m, return_grid=True, right_deriv=True)[side]
            for m in range(4)
        )
        np.testing.assert_allclose(found[side], wanted, rtol=1e-12, atol=1e-14)
