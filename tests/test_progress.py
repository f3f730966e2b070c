"""Progress: it moves often, never back, never beyond the end, and ends there."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from cases import walk

import branchsig
from branchsig.operations import prepare
from branchsig.operations.tolerance import refined
from branchsig.spec import Execution, Spec, Truncation

OPTIONS = {
    "plain": {},
    "log": {"log": True},
    "grid": {"return_grid": True},
    "unit": {"normalize": True},
    "unit log": {"normalize": True, "log": True},
    "dilation": {"normalize": "dilation"},
    "order": {"order": 3},
    "order log": {"order": 3, "log": True},
    "order unit": {"order": 3, "normalize": True},
    "levels": {"order": 3, "return_levels": True},
    "no truncation": {"depth": math.inf},
    "rtol": {"rtol": 1e-9},
    "rtol, unit": {"rtol": 1e-6, "normalize": True},
}


def is_progress(reports, pairs):
    assert all(total == pairs for _, total in reports)
    done = [done for done, _ in reports]
    assert done == sorted(done)
    assert done[0] >= 0
    assert done[-1] == pairs
    assert done.count(pairs) <= 2  # the end is reached at the end


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("form", ["gram", "symmetric", "twice"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_reports_rise_to_the_end_and_not_beyond(backend, form, option, n_jobs, rng):
    options = {"depth": 3, "n_jobs": n_jobs, "max_batch": 2} | OPTIONS[option]
    options |= {"depth": math.inf} if "order" in options else {}
    x = walk(rng, 7, 4, 2, size=0.3)
    y = {"gram": walk(rng, 5, 3, 2, size=0.3), "symmetric": None, "twice": x}[form]
    triangle = form != "gram" and not options.get("return_grid")
    pairs = 7 * 5 if form == "gram" else 28 if triangle else 49
    reports = []
    progress = lambda *report: reports.append(report)  # noqa: E731
    value, pullback = branchsig.branched_sig_kernel_gram_vjp(x, y, progress=progress, **options)
    is_progress(reports, pairs)
    derivs = rng.standard_normal(value.shape)
    pairs = pairs if "order" not in options or not triangle else 49  # gradients by order take no triangle
    reports.clear()
    pullback(derivs)
    is_progress(reports, pairs)
    for left, right in itertools.product([True, False], [False] if y is None else [True, False]):
        reports.clear()
        branchsig.branched_sig_kernel_gram_backprop(
            derivs, x, y, left_deriv=left, right_deriv=right, progress=progress, **options
        )
        if left or right:
            is_progress(reports, pairs)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_long_work_moves_twenty_times(n_jobs, rng):
    x, reports = walk(rng, 100, 100, 2, size=0.3), []
    progress = lambda *report: reports.append(report)  # noqa: E731
    for options in ({}, {"normalize": True}, {"quadrature": "lobatto2"}):
        reports.clear()
        _, pullback = branchsig.branched_sig_kernel_gram_vjp(x, None, 4, progress=progress, n_jobs=n_jobs, **options)
        assert len({done for done, _ in reports}) >= 20
        reports.clear()
        pullback(np.ones((100, 100)))
        assert len({done for done, _ in reports}) >= 20


@pytest.mark.parametrize("options", [{}, {"rtol": 1e-9}, {"normalize": True}], ids=str)
def test_an_interruption_in_the_callable_reaches_the_caller(backend, options, rng):
    def interrupt(done, pairs):
        raise KeyboardInterrupt

    x = walk(rng, 6, 5, 2)
    for call in (branchsig.branched_sig_kernel_gram, branchsig.branched_sig_kernel_gram_vjp):
        with pytest.raises(KeyboardInterrupt):
            call(x, None, 3, progress=interrupt, **options)


def test_a_search_for_a_rule_that_takes_every_order_stays_within_the_end(rng):
    x, reports = walk(rng, 3, 3, 1, size=6.0), []
    spec = Spec(Truncation(3), rtol=1e-14)
    problem = prepare.gram(spec, Execution(), x, None).problem
    problem = dataclasses.replace(problem, progress=lambda *report: reports.append(report))

    class NeverTheSame:
        def forward(self, tried, **options):
            tried.progress(3, 6)
            tried.progress(6, 6)
            return np.full((3, 3), float(tried.quadrature.p)), {}

    _, _, found, complaint = refined(problem, spec, NeverTheSame(), keep=False)
    assert found.quadrature.p == 8
    assert "was not reached" in complaint
    is_progress(reports, 6)
