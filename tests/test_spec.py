"""What is computed and how, as values: they can be compared, hashed, copied, pickled, and read."""

import copy
import dataclasses
import gc
import math
import pickle
import weakref

import numpy as np
import pytest
from cases import walk
from hypothesis import given
from hypothesis import strategies as st

import branchsig
from branchsig.quadrature import BY_NAME
from branchsig.spec import Execution, Spec, Transforms, Truncation, options_of

NAMES = {name: getattr(branchsig, name) for name in branchsig.__all__} | {
    value.__name__: value for value in (Execution, Spec, Transforms, Truncation)
}
"""What a `repr` may name."""

KERNELS = [
    branchsig.LinearKernel(),
    branchsig.ScaledLinearKernel(0.5),
    branchsig.PolynomialKernel(degree=3),
    branchsig.RBFKernel(0.7),
    branchsig.Matern12Kernel(0.7),
    branchsig.Matern32Kernel(0.7),
    branchsig.Matern52Kernel(0.7),
    branchsig.RationalQuadraticKernel(0.7),
]


@dataclasses.dataclass(frozen=True)
class ShiftedKernel(branchsig.StaticKernel):
    """A custom kernel that is a value: the inner product, and a constant that no increment sees."""

    shift: float = 0.0
    weight: float = dataclasses.field(default=1.0, compare=False)

    def __call__(self, ctx, x, y):
        products = self.weight * np.einsum("bik,bjk->bij", x, y) + self.shift
        return np.diff(np.diff(products, axis=1), axis=2)


NAMES["ShiftedKernel"] = ShiftedKernel

truncations = st.one_of(
    st.builds(Truncation, depth=st.one_of(st.integers(0, 9), st.just(math.inf))),
    st.builds(Truncation, order=st.integers(0, 9)),
    st.builds(Truncation, st.integers(0, 9), st.integers(0, 9)),
)
transforms = st.one_of(
    st.builds(Transforms, lead_lag=st.booleans(), base_point=st.booleans(), times=st.booleans()),
    st.builds(Transforms, st.just(True), st.booleans(), st.floats(1e-300, 1e300), st.booleans()),
)


@st.composite
def specs(draw):
    """Every combination of options that do not exclude each other."""
    truncation, normalize = draw(truncations), draw(st.sampled_from([False, True, "dilation"]))
    log = draw(st.booleans())
    return_grid = normalize is not True and draw(st.booleans())
    return_levels = truncation.order is not None and normalize is not True and not log and draw(st.booleans())
    rtol = draw(st.one_of(st.none(), st.floats(1e-15, 0.9)))
    quadrature = draw(st.sampled_from(list(BY_NAME.values()))) if rtol is None else "trapezoid"
    by_nodes = truncation.order is not None
    planar = by_nodes or (truncation.depth < math.inf and rtol is None and quadrature.p == 1)
    return Spec(
        truncation,
        draw(st.tuples(st.integers(0, 62), st.integers(0, 62))),
        draw(st.sampled_from([*KERNELS, ShiftedKernel(2.0)])),
        quadrature,
        draw(transforms),
        normalize,
        return_grid,
        return_levels,
        log,
        rtol,
        planar=planar and draw(st.booleans()),
    )


def report(done, pairs):
    """A function that can be pickled."""


NAMES["report"] = report

executions = st.builds(
    Execution,
    n_jobs=st.one_of(st.integers(1, 99), st.integers(-9, -1), st.none()),
    max_batch=st.one_of(st.just(-1), st.integers(1, 99)),
    devices=st.one_of(st.none(), st.lists(st.integers(0, 9), min_size=1, unique=True)),
    progress=st.sampled_from([False, True, report]),
    check_finite=st.sampled_from([None, True, False]),
)
values = st.one_of(specs(), executions, truncations, transforms)


@given(value=values)
def test_copies_of_a_value_are_equal_to_it(value):
    for other in (copy.copy(value), copy.deepcopy(value), dataclasses.replace(value)):
        assert other == value
        assert hash(other) == hash(value)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(value, protocol)) == value


@given(value=values)
def test_a_value_shows_what_makes_it(value):
    if getattr(value, "progress", None) is not report:  # a function shows its address
        assert eval(repr(value), dict(NAMES)) == value


@given(first=values, second=values)
def test_values_are_equal_where_all_fields_are(first, second):
    same = type(first) is type(second) and dataclasses.asdict(first) == dataclasses.asdict(second)
    assert (first == second) is same
    assert (len({first, second}) == 1) is same


def test_a_value_shows_what_differs_from_the_defaults():
    assert repr(Spec(Truncation(depth=3))) == "Spec(truncation=Truncation(depth=3))"
    spec = Spec(Truncation(order=4), 1, branchsig.RBFKernel(0.5), "lobatto2", Transforms(True, end_time=2), log=True)
    assert repr(spec) == (
        "Spec(truncation=Truncation(order=4), dyadic_order=(1, 1), static_kernel=RBFKernel(sigma=0.5), "
        "quadrature=GaussLobatto(p=2), transforms=Transforms(time_aug=True, end_time=2.0), log=True)"
    )
    assert repr(Execution()) == "Execution()"
    assert repr(Execution(n_jobs=-1, devices=[1, 0])) == "Execution(n_jobs=-1, devices=(1, 0))"


@given(value=values)
def test_a_value_cannot_be_written_to(value):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)


def test_arguments_that_mean_the_same_make_equal_values():
    assert Spec(Truncation(np.int64(3)), np.int8(1), None, "lobatto3") == Spec(
        Truncation(3), [1, 1], branchsig.LinearKernel(), branchsig.GaussLobatto(3)
    )
    assert Truncation(7, 4) == Truncation(4, 4) == Truncation(math.inf, 4) == Truncation(order=4)
    assert Execution(n_jobs=None, devices=np.array([0, 2])) == Execution(n_jobs=1, devices=(0, 2))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Truncation(-1), ValueError, "depth is -1: expected an integer >= 0"),
        (lambda: Transforms(end_time=2.0), ValueError, "end_time is 2.0 and time_aug is False"),
        (lambda: Transforms(time_aug=1), TypeError, "time_aug is 1: expected True or False"),
        (lambda: Transforms(base_point=0), TypeError, "base_point is 0: expected True or False"),
        (lambda: Transforms(True, times=True), ValueError, "times=True with time_aug=True: a path has one time"),
        (lambda: Spec(3), TypeError, "truncation is 3: expected a Truncation"),
        (lambda: Spec(Truncation(3), transforms=True), TypeError, "transforms is True: expected a Transforms"),
        (lambda: Spec(Truncation(3), return_levels=True), ValueError, "return_levels=True without order"),
        (lambda: Spec(Truncation(order=3), return_levels=True, log=True), ValueError, "return_levels=True with log"),
        (lambda: Spec(Truncation(3), quadrature="left", rtol=0.1), ValueError, "rtol is 0.1 and quadrature is LeftPo"),
        (lambda: Spec(Truncation(3), normalize=True, return_grid=True), ValueError, "normalize=True with return_grid"),
        (lambda: Execution(n_jobs=0), ValueError, "n_jobs is 0: expected a number of threads"),
        (lambda: Execution(devices=[0, 0]), ValueError, r"devices is \[0, 0\]: expected a sequence of different"),
        (lambda: Execution(check_finite=1), TypeError, "check_finite is 1: expected True or False"),
    ],
)
def test_what_needs_no_array_is_checked_when_a_value_is_made(make, error, words):
    with pytest.raises(error, match=words):
        make()


COMMON = {
    "depth": 3,
    "dyadic_order": 0,
    "static_kernel": None,
    "time_aug": False,
    "lead_lag": False,
    "end_time": 1.0,
    "n_jobs": 1,
    "quadrature": "trapezoid",
}


@pytest.mark.parametrize(
    ("option", "accepted", "refused"),
    [
        ("log", True, 1),
        ("time_aug", False, 0),
        ("base_point", False, 0),
        ("depth", 1, True),
        ("depth", 3, 3.0),
        ("dyadic_order", (1, 2), (True, 2)),
        ("n_jobs", 1, True),
        ("devices", (0, 1), (False, 1)),
        ("check_finite", True, 1),
        ("progress", False, 0),
        ("normalize", True, 1),
    ],
    ids=str,
)
def test_what_is_equal_to_an_option_accepted_before_is_refused_all_the_same(option, accepted, refused):
    for _ in range(2):
        options_of(**COMMON | {option: accepted})
    with pytest.raises((TypeError, ValueError), match=f"^{option} is "):
        options_of(**COMMON | {option: refused})


def test_a_depth_that_is_written_to_counts_as_it_is_now(rng):
    x, depth = walk(rng, 2, 5, 2), np.array(2)
    np.testing.assert_array_equal(branchsig.branched_sig_kernel(x, x, depth), branchsig.branched_sig_kernel(x, x, 2))
    depth += 1
    np.testing.assert_array_equal(branchsig.branched_sig_kernel(x, x, depth), branchsig.branched_sig_kernel(x, x, 3))


def test_custom_kernels_that_are_equal_are_not_taken_for_each_other(rng):
    x = walk(rng, 2, 5, 2)
    plain, doubled = (
        branchsig.branched_sig_kernel(x, x, 1, static_kernel=ShiftedKernel(0.0, weight)) for weight in (1.0, 2.0)
    )
    np.testing.assert_allclose(doubled, plain**2, rtol=1e-13)  # exp(2 <x, x>)


def test_a_custom_kernel_need_not_be_hashable(rng):
    class Unhashable(ShiftedKernel):
        __hash__ = None

    x = walk(rng, 2, 5, 2)
    value = branchsig.branched_sig_kernel(x, x, 2, static_kernel=Unhashable())
    np.testing.assert_allclose(value, branchsig.branched_sig_kernel(x, x, 2), rtol=1e-13)
    with pytest.raises(TypeError, match="unhashable"):
        hash(Spec(Truncation(2), static_kernel=Unhashable()))


def test_what_a_caller_owns_is_not_kept_after_the_call(rng):
    class Report:
        def __call__(self, done, pairs):
            pass

    x, kernel, progress = walk(rng, 2, 5, 2), ShiftedKernel(), Report()
    branchsig.branched_sig_kernel_gram(x, None, 2, static_kernel=kernel, progress=progress)
    there = weakref.ref(progress), weakref.ref(kernel)
    del kernel, progress
    gc.collect()
    assert [reference() for reference in there] == [None, None]
