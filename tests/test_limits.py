"""Limits of memory, time and machine: errors come before the work and name the argument; nothing hangs."""

import importlib
import math
import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from cases import walk
from conftest import cpu

import branchsig
import branchsig._validation

needs_core = pytest.mark.skipif(cpu is None, reason="no C core")
X = np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.2]])


@needs_core
def test_a_depth_or_an_order_beyond_all_memory_is_named():
    for depth in (3 * 10**9, 10**18):
        with pytest.raises(MemoryError, match=rf"depth is {depth}, .* Take a smaller depth, or math.inf"):
            branchsig.branched_sig_kernel(X, X, depth)
        with pytest.raises(MemoryError, match=rf"depth is {depth}"):
            branchsig.branched_sig_kernel_backprop(np.asarray(1.0), X, X, depth)
        with pytest.raises(MemoryError, match=rf"order is {depth}, .* Take a smaller order$"):
            branchsig.branched_sig_kernel(X, X, math.inf, order=depth)


@needs_core
def test_a_workspace_beyond_the_memory_that_is_left_names_the_depth(monkeypatch):
    monkeypatch.setattr(branchsig._validation, "_available_memory", lambda: 10**8)
    with pytest.raises(MemoryError, match=r"the workspace of a thread takes .* GiB are available: depth is 1000000"):
        branchsig.branched_sig_kernel(X, X, 10**6)


@pytest.mark.parametrize("options", [{}, {"depth": math.inf, "order": 2, "return_levels": True}], ids=str)
def test_a_gram_matrix_beyond_all_memory_is_refused_before_the_work_with_a_way_out(backend, options):
    options = {"depth": 2} | options
    many = np.zeros((3_000_000, 2, 1))
    for second in (None, many, many[:2_999_999]):
        for call in (branchsig.branched_sig_kernel_gram, branchsig.branched_sig_kernel_gram_vjp):
            with pytest.raises(
                MemoryError,
                match=r"the Gram matrix of shape \(3000000, \d+\) takes .* blocks of rows, .*path1\[:1000\]",
            ):
                call(many, second, **options)


@needs_core
@pytest.mark.parametrize(
    "call",
    [
        "branchsig.branched_sig_kernel(x, y, 300000)",
        "branchsig.branched_sig_kernel_backprop(np.asarray(1.0), x, y, 100000)",
        "branchsig.branched_sig_kernel(x, y, np.inf, order=30000)",
    ],
)
def test_work_of_very_many_levels_is_done_beside_the_calling_thread_and_can_be_left(call, monkeypatch):
    # Ctrl-C reaches a thread that waits, and only such a one.
    from branchsig.backends.cpu import schedule

    class Left(Exception):
        pass

    class Impatient(schedule.Future):
        def result(self, timeout=None):
            raise Left

    monkeypatch.setattr(schedule, "Future", Impatient)
    x = 0.1 * np.random.default_rng(0).standard_normal((3, 2))
    with pytest.raises(Left):
        eval(call, {"branchsig": branchsig, "np": np, "x": x, "y": x[::-1].copy()})


@needs_core
@pytest.mark.parametrize("given", [0, 1, 3])
def test_work_is_done_by_as_many_threads_as_the_system_gives(given, monkeypatch, rng):
    x, y = walk(rng, 60, 60, 2, size=0.3), walk(rng, 50, 60, 2, size=0.3)
    wanted = branchsig.branched_sig_kernel_gram(x, y, 4)
    derivs = rng.standard_normal((60, 50))
    gradients = branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, 4, right_deriv=True)
    start, started = threading.Thread.start, []

    def scarce(thread):
        if len(started) >= given:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    np.testing.assert_array_equal(branchsig.branched_sig_kernel_gram(x, y, 4, n_jobs=64), wanted)
    started.clear()
    found = branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, 4, right_deriv=True, n_jobs=64)
    for gradient, its in zip(found, gradients, strict=True):
        np.testing.assert_array_equal(gradient, its)
    assert len(started) == given


@needs_core
@pytest.mark.parametrize(("name", "warned"), [("avx513", True), ("AVX2", True), ("baseline", False), ("", False)])
def test_an_instruction_set_that_the_environment_misspells_is_warned_of_once(name, warned):
    source = """
        import warnings
        import numpy as np
        import branchsig
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                branchsig.branched_sig_kernel(np.zeros((2, 1)), np.zeros((2, 1)), 2)
        for warning in caught:
            print(warning.category.__name__, warning.filename, warning.message)
    """
    ran = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(source)],
        env=os.environ | {"BRANCHSIG_ISA": name},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = ran.stdout.splitlines()
    assert len(lines) == warned
    if warned:
        assert lines[0].startswith(f"RuntimeWarning <string> BRANCHSIG_ISA is {name!r}, which is no instruction set")
        assert "baseline" in lines[0]


@pytest.mark.parametrize("end_time", [1e39, 1e-60])
def test_an_end_time_that_the_dtype_cannot_hold_is_refused(end_time):
    single = X.astype(np.float32)
    message = "end_time is .* and the paths have dtype float32: expected a time from 1.2e-38 to 3.4e.38"
    for call in (
        lambda path: branchsig.transform_path(path, time_aug=True, end_time=end_time),
        lambda path: branchsig.branched_sig_kernel(path, path, 2, time_aug=True, end_time=end_time),
        lambda path: branchsig.branched_sig_kernel_gram(path, None, 2, time_aug=True, end_time=end_time),
        lambda path: branchsig.dilation(path, 2, time_aug=True, end_time=end_time),
    ):
        with pytest.raises(ValueError, match=message):
            call(single)
    assert branchsig.transform_path(X, time_aug=True, end_time=end_time)[-1, -1] == end_time


def test_an_end_time_that_nothing_uses_is_refused():
    for call in (
        lambda **options: branchsig.transform_path(X, **options),
        lambda **options: branchsig.transform_path_backprop(X, **options),
        lambda **options: branchsig.branched_sig_kernel(X, X, 2, **options),
        lambda **options: branchsig.branched_sig_mmd(X[None], X[None], 2, unbiased=False, **options),
        lambda **options: branchsig.dilation(X, 2, **options),
    ):
        with pytest.raises(ValueError, match=r"end_time is 2.0 and time_aug is False: .* Give time_aug=True, or leave"):
            call(end_time=2.0)
        call(end_time=1.0)


def test_the_module_of_the_core_has_no_question_with_one_answer():
    if cpu is not None:
        assert not hasattr(importlib.import_module("branchsig.backends.cpu"), "available")
