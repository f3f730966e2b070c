"""Threads that make the same calls at the same moment while others forget them find the bits that one thread finds.

With a global lock they are made to switch as often as they can. Without one they run at the same time.
"""

import functools
import sys

import numpy as np
import pytest
from cases import at_once, forget, walk

import branchsig
from branchsig import quadrature, spec
from branchsig.backends.cpu import schedule, task
from branchsig.operations import stages

pytestmark = pytest.mark.usefixtures("core")

THREADS = 8
CACHES = [spec._kept, task._plan, task._first, schedule._kept, stages.stage_for, quadrature.GaussLobatto]
OPTIONS = [
    {"depth": 3},
    {"depth": 3, "log": True},
    {"depth": 2, "dyadic_order": (1, 0), "static_kernel": branchsig.RBFKernel(0.7)},
    {"order": 4},
    {"depth": 3, "planar": True},
    {"depth": 2, "quadrature": branchsig.GaussLobatto(3)},
    {"depth": 3, "normalize": True},
    {"depth": 3, "normalize": "dilation"},
    {"depth": 2, "lead_lag": True, "time_aug": True},
]


@pytest.fixture(autouse=True)
def switching():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def forget_all():
    """Let nothing be kept of any call."""
    forget()
    for cache in CACHES:
        if hasattr(cache, "cache_clear"):
            cache.cache_clear()


def in_turn(problems, first):
    """The same problems from another one on."""
    return problems[first:] + problems[:first]


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def of_pairs(x, y, options):
    derivs = np.linspace(0.5, 1.5, len(x)).astype(x.dtype)
    value = branchsig.branched_sig_kernel(x, y, **options)
    return value, *branchsig.branched_sig_kernel_backprop(derivs, x, y, **options, right_deriv=True)


def of_grams(x, y, options):
    derivs = np.linspace(0.5, 1.5, len(x) * len(y)).reshape(len(x), len(y)).astype(x.dtype)
    value = branchsig.branched_sig_kernel_gram(x, y, **options)
    alone = branchsig.branched_sig_kernel_gram(x, None, **options)
    return value, alone, *branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, **options, right_deriv=True)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("solve", [of_pairs, of_grams])
@pytest.mark.parametrize("forgetful", [False, True], ids=["kept", "forgotten again and again"])
def test_threads_that_make_the_same_calls_at_once_find_what_one_finds(forgetful, solve, dtype, rng):
    problems = [
        (walk(rng, 5, length, 2, dtype=dtype), walk(rng, 5, length + 3, 2, dtype=dtype), options)
        for options in OPTIONS
        for length in (2, 6, 13)
    ]
    alone = [solve(*problem) for problem in problems]

    def work(number):
        for again in range(4):
            for k in in_turn(list(range(len(problems))), number if again % 2 else 0):
                assert_same(solve(*problems[k]), alone[k])
                if forgetful and k % THREADS == number:
                    forget_all()

    forget_all()
    at_once([functools.partial(work, number) for number in range(THREADS)])


def test_calls_that_the_core_does_not_finish_leave_those_of_other_threads_alone(rng):
    line = np.linspace(0.0, 1.0, 9)[:, None] * np.ones(2)
    near, far = np.stack([line, 0.9 * line]), np.stack([line, 2.2 * line])
    options = {"depth": 2, "log": True}
    wanted = [of_pairs(x, x.copy(), options) for x in (near, far)]
    assert wanted[1][0][1] > 1000  # a logarithm whose kernel no double holds: it takes a second go

    def work(number):
        for again in range(60):
            which = (again + number) % 7 == 0
            x = far if which else near
            assert_same(of_pairs(x, x.copy(), options), wanted[which])

    forget_all()
    at_once([functools.partial(work, number) for number in range(THREADS)])


def test_long_pairs_of_several_threads_that_have_helpers_each(rng):
    problems = [(walk(rng, n, 900, 2), walk(rng, n, 1000, 2), {"depth": 3}) for n in (1, 2, 1, 3)]
    alone = [of_pairs(*problem) for problem in problems]

    def work(x, y, options):
        return of_pairs(x, y, options | {"n_jobs": 3})

    for _ in range(3):
        for found, wanted in zip(at_once([functools.partial(work, *problem) for problem in problems]), alone):
            assert_same(found, wanted)
