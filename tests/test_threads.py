"""Threads, processes and Ctrl-C: what the numbers do not show."""

import os
import signal
import subprocess
import sys
import sysconfig
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import QuarticKernel, walk
from conftest import cpu

import branchsig

needs_core = pytest.mark.skipif(cpu is None, reason="no C core")


@pytest.mark.parametrize("n_jobs", [1, 2, 4, -1, -2, 1000])
def test_any_number_of_jobs_gives_the_same_bits(backend, n_jobs, rng):
    x, y = walk(rng, 40, 30, 3), walk(rng, 17, 25, 3)
    derivs = rng.standard_normal((40, 17))
    np.testing.assert_array_equal(
        branchsig.branched_sig_kernel_gram(x, y, 4, n_jobs=n_jobs), branchsig.branched_sig_kernel_gram(x, y, 4)
    )
    for found, wanted in zip(
        branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, 4, right_deriv=True, n_jobs=n_jobs),
        branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, 4, right_deriv=True),
        strict=True,
    ):
        np.testing.assert_array_equal(found, wanted)


def test_calls_from_several_threads_do_not_disturb_one_another(backend, rng):
    problems = [(walk(rng, 6, 20 + k, 2), walk(rng, 6, 25 - k, 2), 2 + k % 3, k % 2) for k in range(12)]

    def solve(arguments):
        x, y, depth, order = arguments
        left, right = branchsig.branched_sig_kernel_backprop(np.ones(6), x, y, depth, order, right_deriv=True, n_jobs=2)
        return branchsig.branched_sig_kernel_gram(x, y, depth, order, n_jobs=2), left, right

    alone = list(map(solve, problems))
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(solve, problems * 3), alone * 3, strict=True):
            for mine, its in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(mine, its)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_exception_of_a_static_kernel_reaches_the_caller(backend, n_jobs, rng):
    class Failing(QuarticKernel):
        def __call__(self, ctx, x, y):
            raise ZeroDivisionError("from the kernel")

    x = walk(rng, 20, 10, 2)
    with pytest.raises(ZeroDivisionError, match="from the kernel"):
        branchsig.branched_sig_kernel_gram(x, x.copy(), 3, static_kernel=Failing(), n_jobs=n_jobs)
    assert np.all(np.isfinite(branchsig.branched_sig_kernel(0.3 * x, 0.3 * x, 2, n_jobs=n_jobs)))


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_exception_of_a_progress_callback_ends_the_call(backend, n_jobs, rng):
    def stop(done, total):
        raise InterruptedError(f"{done} of {total}")

    x = walk(rng, 12, 10, 2)
    with pytest.raises(InterruptedError):
        branchsig.branched_sig_kernel_gram(x, x.copy(), 3, max_batch=2, progress=stop, n_jobs=n_jobs)
    assert np.all(np.isfinite(branchsig.branched_sig_kernel(0.3 * x, 0.3 * x, 2, n_jobs=n_jobs)))


def run(source, *, interrupt=False):
    """The output of a script that has a minute; with `interrupt` Ctrl-C is pressed once it has printed a line."""
    child = subprocess.Popen(
        # -P: the package in the current folder has no compiled core, the installed one has
        [sys.executable, "-P", "-c", textwrap.dedent(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        first = ""
        if interrupt:
            first = child.stdout.readline()
            assert first, child.communicate()[1]
            child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    assert child.returncode == 0, err
    return first + out


@needs_core
@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize(
    "call",
    [
        "branchsig.branched_sig_kernel_gram(x, y, 4, n_jobs=n_jobs)",
        "branchsig.branched_sig_kernel_gram_backprop(np.ones((600, 600)), x, y, 4, right_deriv=True, n_jobs=n_jobs)",
        "branchsig.branched_sig_kernel_gram(x, None, 4, n_jobs=n_jobs)",
        "branchsig.branched_sig_kernel(long[None], long[None, ::-1], 4, n_jobs=n_jobs)",
        "branchsig.branched_sig_kernel_backprop(np.ones(1), long[None], long[None, ::-1], 4, n_jobs=n_jobs)",
    ],
)
def test_ctrl_c_ends_a_call_that_would_last_hours(call, n_jobs):
    out = run(
        f"""
        import signal, threading, time
        import numpy as np
        import branchsig
        signal.signal(signal.SIGINT, signal.default_int_handler)  # not ignored, as in the background
        n_jobs = {n_jobs}
        rng = np.random.default_rng(0)
        x, y = (0.001 * rng.standard_normal((600, 5000, 2)).cumsum(1) for _ in range(2))
        long = 1e-4 * rng.standard_normal((400000, 2)).cumsum(0)
        threading.Timer(0.3, lambda: print("working", flush=True)).start()
        try:
            {call}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        else:
            print("ended by itself")
        # Nothing is left behind: no thread at work, and the next call is right.
        time.sleep(0.2)
        assert threading.active_count() <= 1 + n_jobs, threading.enumerate()
        value = branchsig.branched_sig_kernel(np.array([[0.0], [1.0]]), np.array([[0.0], [0.5]]), 1, n_jobs=n_jobs)
        assert abs(value - np.exp(0.5)) < 1e-12
        print("alive")
        """,
        interrupt=True,
    )
    assert out.split() == ["working", "interrupted", "alive"]


@needs_core
@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signals of threads on this system")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_ctrl_c_that_wakes_another_thread_ends_a_call(n_jobs):
    out = run(
        f"""
        import signal, threading
        import numpy as np
        import branchsig
        signal.signal(signal.SIGINT, signal.default_int_handler)
        rng = np.random.default_rng(0)
        x = 0.001 * rng.standard_normal((600, 5000, 2)).cumsum(1)
        threading.Timer(0.3, lambda: print("working", flush=True)).start()
        threading.Thread(target=threading.Event().wait, daemon=True).start()  # which receives it
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            branchsig.branched_sig_kernel_gram(x, None, 4, n_jobs={n_jobs})
        except KeyboardInterrupt:
            print("interrupted")
        """,
        interrupt=True,
    )
    assert out.split() == ["working", "interrupted"]


@needs_core
def test_no_thread_is_left_behind_where_ctrl_c_comes_as_it_starts(monkeypatch, rng):
    x = walk(rng, 40, 200, 2)
    start, before, started = threading.Thread.start, threading.active_count(), []

    def interrupted(thread):
        started.append(thread)
        start(thread)
        if len(started) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            branchsig.branched_sig_kernel_gram(x, None, 4, n_jobs=2)
    for thread in started:
        thread.join(60)
    assert len(started) == 2
    assert threading.active_count() == before


@needs_core
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_computes_what_its_parent_computes():
    out = run(
        """
        import os, signal, warnings
        import numpy as np
        import branchsig
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork: this is what is tried here
        signal.alarm(50)
        rng = np.random.default_rng(0)
        x = 0.02 * rng.standard_normal((60, 40, 2)).cumsum(1)
        call = lambda: branchsig.branched_sig_kernel_gram(x, x.copy(), 4, n_jobs=2)
        wanted = call()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(0 if np.array_equal(call(), wanted) else 3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), np.array_equal(call(), wanted))
        """
    )
    assert out.split() == ["0", "True"]


@needs_core
@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="an interpreter with a global lock")
def test_the_core_does_not_bring_back_the_global_lock():
    out = run("import sys, branchsig, branchsig._core; print(sys._is_gil_enabled())")
    assert out.split() == ["False"]
