"""Warnings: one a call, at the line of the caller, and none that advises what is in use already."""

import math
import threading
import warnings

import numpy as np
import pytest

import branchsig


def large(seed=0, size=1e160):
    """Paths of which the second has a kernel with itself beyond the range of a double."""
    paths = 0.1 * np.abs(np.random.default_rng(seed).standard_normal((3, 4, 2))).cumsum(axis=1)
    paths[1] *= size
    return paths


def caught(call):
    """The warnings of a call, which are all at the line below, and the result."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = call()
    assert all(warning.category is RuntimeWarning and warning.filename == __file__ for warning in seen)
    return [str(warning.message) for warning in seen], result


CALLS = {
    "kernel": lambda x: branchsig.branched_sig_kernel(x, x, 3),
    "log": lambda x: branchsig.branched_sig_kernel(x, x, 3, log=True),
    "unit": lambda x: branchsig.branched_sig_kernel(x, x, 3, normalize=True),
    "grid": lambda x: branchsig.branched_sig_kernel(x, x, 3, return_grid=True),
    "order": lambda x: branchsig.branched_sig_kernel(x, x, math.inf, order=3),
    "order log": lambda x: branchsig.branched_sig_kernel(x, x, math.inf, order=3, log=True),
    "no truncation": lambda x: branchsig.branched_sig_kernel(x, x, math.inf),
    "rtol": lambda x: branchsig.branched_sig_kernel(x, x, 3, rtol=1e-6),
    "gram": lambda x: branchsig.branched_sig_kernel_gram(x, None, 3),
    "threads": lambda x: branchsig.branched_sig_kernel_gram(x, x[:2, ...], 3, n_jobs=2),
    "stack": lambda x: branchsig.branched_sig_kernel_stack(x, x, 3),
    "vjp": lambda x: branchsig.branched_sig_kernel_vjp(x, x, 3)[0],
    "gram vjp": lambda x: branchsig.branched_sig_kernel_gram_vjp(x, None, 3)[0],
}


@pytest.mark.parametrize("library", ["numpy", "torch", "jax", "array_api_strict"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_warns_once_at_its_line_and_of_nothing_else(name, library):
    if library == "jax":
        pytest.importorskip("jax").config.update("jax_enable_x64", True)
    module = pytest.importorskip({"jax": "jax.numpy"}.get(library, library))
    messages, _ = caught(lambda: CALLS[name](module.asarray(large())))
    assert len(messages) == 1
    assert " values " in messages[0]


@pytest.mark.parametrize("name", ["kernel", "gram", "rtol"])
def test_single_precision_of_jax_gives_no_warning_of_its_own(name):
    numpy = pytest.importorskip("jax.numpy")
    paths = numpy.asarray(large(size=1e30).astype(np.float32))
    messages, _ = caught(lambda: CALLS[name](paths))
    assert len(messages) == 1
    assert " values " in messages[0]


@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"order": 3}, {"lead_lag": True}, {"log": True}], ids=str)
def test_gradients_and_pullbacks_warn_of_nothing(options):
    x, depth = large(), math.inf if "order" in options else 3
    _, (value, pullback) = caught(lambda: branchsig.branched_sig_kernel_gram_vjp(x, None, depth, **options))
    assert caught(lambda: pullback(np.ones(value.shape)))[0] == []
    _, (value, pullback) = caught(lambda: branchsig.branched_sig_kernel_vjp(x, x, depth, **options))
    assert caught(lambda: pullback(np.ones(value.shape)))[0] == []
    backprop = branchsig.branched_sig_kernel_backprop
    assert caught(lambda: backprop(np.ones(3), x, x, depth, right_deriv=True, **options))[0] == []


def test_a_tolerance_that_is_not_reached_is_warned_of_once_by_values_and_gradients():
    x = np.array([[0.0], [4.0]])
    for call in (
        lambda: branchsig.branched_sig_kernel(x, x, 2, rtol=1e-14, log=True),
        lambda: branchsig.branched_sig_kernel_gram(x, None, 2, rtol=1e-14, log=True),
        lambda: branchsig.branched_sig_kernel_backprop(np.asarray(1.0), x, x, 2, rtol=1e-14, log=True),
        lambda: branchsig.branched_sig_kernel_gram_backprop(np.asarray(1.0), x, None, 2, rtol=1e-14, log=True),
    ):
        messages, _ = caught(call)
        assert len(messages) == 1
        assert "rtol is 1e-14 and was not reached" in messages[0]
    _, (_, pullback) = caught(lambda: branchsig.branched_sig_kernel_vjp(x, x, 2, rtol=1e-14, log=True))
    assert caught(lambda: pullback(np.asarray(1.0)))[0] == []


def test_a_tolerance_that_is_not_reached_and_an_overflow_are_one_warning():
    x = np.array([[[0.0], [4.0]], [[0.0], [1e200]]])
    messages, _ = caught(lambda: branchsig.branched_sig_kernel(x, x, 2, rtol=1e-14, log=True))
    assert len(messages) == 1
    assert "was not reached" in messages[0]
    assert "1 of 2 values overflowed" in messages[0]


def test_a_call_in_a_thread_warns_at_its_line():
    x, messages = large(), []
    thread = threading.Thread(target=lambda: messages.extend(caught(lambda: CALLS["kernel"](x))[0]))
    thread.start()
    thread.join()
    assert len(messages) == 1


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        ({"static_kernel": branchsig.RBFKernel(1e-3)}, "RBFKernel"),
        ({"static_kernel": branchsig.Matern52Kernel(1e-3)}, "RBFKernel"),
        ({"quadrature": "lobatto4"}, "lobatto4"),
        ({"rtol": 1e-6}, "rtol=1e-6"),
        ({"rtol": 1e-6}, "lobatto4"),
    ],
    ids=str,
)
def test_what_is_in_use_is_not_advised(options, absent):
    # Without truncation one step of squared length 2 in feature space is past the blow-up.
    x = np.array([[0.0], [3.0], [0.0], [3.0], [-2.0], [5.0]])
    messages, _ = caught(lambda: branchsig.branched_sig_kernel(x, x, math.inf, **options))
    assert len(messages) == 1
    assert absent not in messages[0]
