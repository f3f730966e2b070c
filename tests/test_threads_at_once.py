"""Threads whose first calls of all start at once: nothing is cached yet, and every thread finds its own results."""

import subprocess
import sys
import textwrap

import pytest

SOURCE = """
import sys, threading
import numpy as np
import branchsig

sys.setswitchinterval(1e-6)
rng = np.random.default_rng(5)
x, y = np.cumsum(0.2 * rng.standard_normal((2, 5, 12, 2)), axis=2)
options = [
    {},
    {"dyadic_order": 1},
    {"static_kernel": branchsig.RBFKernel(0.7)},
    {"order": 5},
    {"quadrature": branchsig.GaussLobatto(3)},
    {"normalize": True},
    {"normalize": "dilation"},
    {"lead_lag": True, "time_aug": True},
]


def solve(chosen):
    chosen = dict(chosen)
    depth = chosen.pop("depth", 3)
    value = branchsig.branched_sig_kernel_gram(x, y, depth, **chosen)
    derivs = np.ones_like(value)
    return value, *branchsig.branched_sig_kernel_gram_backprop(derivs, x, y, depth, right_deriv=True, **chosen)


def at_once(problems):
    found, barrier = [None] * len(problems), threading.Barrier(len(problems))

    def work(k):
        barrier.wait()
        found[k] = solve(problems[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


problems = {problems}
together = at_once(problems)
for problem, found in zip(problems, together):
    for mine, alone in zip(found, solve(problem)):
        np.testing.assert_array_equal(mine, alone, err_msg=str(problem))
print("equal")
"""


@pytest.mark.parametrize("problems", ["options * 2", "[options[0]] * 12", "[options[5]] * 8 + [options[4]] * 4"])
def test_first_calls_of_all_threads_at_once_find_what_each_finds_alone(problems):
    source = textwrap.dedent(SOURCE).replace("{problems}", problems)
    command = [sys.executable, "-P", "-W", "error", "-c", source]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert ran.stdout == "equal\n", ran.stderr
