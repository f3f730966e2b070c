"""Public functions on a device: what they wait for, what a warm-up compiles, and arrays of other libraries."""

import math
import sys
import warnings

import numpy as np
import pytest
from cases import gradients_of, problem, relative, using, walk
from cuda_cases import OnDevice, drawn, emulated_cupy, kernel_named

import branchsig
from branchsig import _validation
from branchsig.backends import cuda
from branchsig.static_kernels import DilatedKernel


def test_public_functions_run_on_the_backend(backend, reference, rng):
    x, y = walk(rng, 2, 3, 5, 2, size=0.2), walk(rng, 2, 3, 4, 2, size=0.2)
    derivs = rng.standard_normal((2, 3))
    options = {"time_aug": True, "lead_lag": True, "end_time": 0.2}

    def results():
        value = branchsig.branched_sig_kernel(x, y, 3, 1, normalize=True, **options)
        gram = branchsig.branched_sig_kernel_gram(x, None, 3, **options)
        whole = branchsig.branched_sig_kernel(x, y, math.inf, normalize=True, **options)
        return value, gram, whole, *branchsig.branched_sig_kernel_backprop(derivs, x, y, 3, right_deriv=True, **options)

    with using(reference):
        wanted = results()
    with using(backend):
        found = results()
    for mine, expected in zip(found, wanted, strict=True):
        assert relative(mine, expected) < 1e-11


def test_the_host_waits_for_the_device_only_where_values_are_to_be_checked(on_device, rng):
    x, y = (emulated_cupy.asarray(path) for path in drawn(rng, "gram", (5, 6), 2))
    one = emulated_cupy.ones((3, 3))
    x[0] *= 1e4
    branchsig.branched_sig_kernel(x[:2], y, 3)
    branchsig.branched_sig_kernel(x[:2], y, 3, return_grid=True, check_finite=False)
    branchsig.branched_sig_kernel(x, x, 3, time_aug=True, lead_lag=True)
    branchsig.branched_sig_kernel_stack(x, x, 3)
    branchsig.branched_sig_kernel_gram(x, None, 3, normalize=True)
    branchsig.branched_sig_kernel_gram_backprop(one, x, x, 3, right_deriv=True)
    gram, pullback = branchsig.branched_sig_kernel_gram_vjp(x, None, 3)
    pullback(gram)
    branchsig.branched_sig_kernel(x, x, 3, time_aug=True, lead_lag=True, lengths1=[2, 5, 3])
    branchsig.branched_sig_kernel(x, x, 3, quadrature="lobatto2", log=True, return_grid=True)
    branchsig.branched_sig_kernel_backprop(one[0], x, x, 3, quadrature="left", right_deriv=True)
    branchsig.branched_sig_kernel_gram(x, None, 3, order=2, return_levels=True)
    branchsig.branched_sig_kernel(x, x, math.inf, lengths1=[2, 5, 3], check_finite=False)
    assert isinstance(gram, emulated_cupy.ndarray)
    assert not emulated_cupy.waits
    with pytest.warns(RuntimeWarning, match="overflowed|lost all their digits"):
        branchsig.branched_sig_kernel(x[:2], y, 3, check_finite=True)
    with pytest.warns(RuntimeWarning, match="overflowed|lost all their digits"):
        branchsig.branched_sig_kernel_stack(x, x, 3, check_finite=True)
    assert emulated_cupy.waits


def test_the_host_looks_at_its_own_values_unless_told_not_to(reference, rng):
    x, _ = drawn(rng, "symmetric", (5, 6), 2)
    x[0] *= 1e4
    for function in (branchsig.branched_sig_kernel, branchsig.branched_sig_kernel_stack, branchsig.branched_sig_mmd):
        with using(reference), pytest.warns(RuntimeWarning, match="overflowed|lost all their digits"):
            function(x, x, 3)
        with using(reference), warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("error")
            function(x, x, 3, check_finite=False)
    with pytest.raises(TypeError, match="check_finite"):
        branchsig.branched_sig_kernel(x, x, 3, check_finite=1)


@pytest.mark.parametrize(
    ("quadrature", "order", "depth", "planar"),
    [
        ("trapezoid", None, 3, False),
        ("lobatto2", None, 3, False),
        ("left", 2, 3, False),
        ("trapezoid", None, math.inf, False),
        ("trapezoid", None, 2, True),
        ("left", 4, 2, True),
    ],
)
@pytest.mark.parametrize("return_grid", [False, True])
def test_after_a_warm_up_nothing_is_compiled(
    installed, return_grid, quadrature, order, depth, planar, rng, monkeypatch
):
    kernel = kernel_named("rbf")
    options = {"return_grid": return_grid, "quadrature": quadrature, "order": order, "planar": planar}
    branchsig.warm_up(depth, static_kernel=kernel, dimension=2, **options)
    monkeypatch.setattr(cuda.instances, "source", lambda: pytest.fail("compiled again"))
    for lengths in ((5, 6), (4, 40)):
        x, y = (emulated_cupy.asarray(path) for path in drawn(rng, "gram", lengths, 2))
        rule = _validation.quadrature(quadrature)
        arguments = problem(x, y, depth, (0, 0), "gram", kernel, quadrature=rule, order=order, planar=planar)
        if order is not None:
            value = installed.solve(arguments, "grid" if return_grid else "end")
        else:
            value = installed.solve(arguments, "grid") if return_grid else installed.solve(arguments, "end", log=True)
        gradients_of(installed, arguments, emulated_cupy.ones(value.shape), wrt_log=True, left=True, right=True)


@pytest.mark.parametrize("return_grid", [False, True])
@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_a_warm_up_without_a_dimension_is_for_all(installed, name, return_grid, monkeypatch):
    compiled = []
    monkeypatch.setattr(installed.inner, "function", compiled.append)
    options = {"static_kernel": kernel_named(name), "return_grid": return_grid}
    branchsig.warm_up(4, **options)
    of_any, compiled[:] = set(compiled), []
    for dimension in range(1, 20):
        branchsig.warm_up(4, dimension=dimension, **options)
    assert set(compiled) == of_any


def test_a_warm_up_counts_no_factor_of_a_dilation_as_a_channel(installed, rng, monkeypatch):
    kernel = DilatedKernel(kernel_named("rbf"))
    compiled = []
    monkeypatch.setattr(installed.inner, "function", compiled.append)
    branchsig.warm_up(4, static_kernel=kernel, dimension=5, gradients=False)
    x, y = drawn(rng, "paired", (5, 6), 5)
    arguments = problem(x, y, 4, static_kernel=kernel)
    plan = installed.inner.plan(OnDevice(emulated_cupy).sent(arguments), grid=False)
    assert plan.widest("forward", log_domain=False).expression in compiled


def test_a_warm_up_refuses_what_it_cannot_compile(installed, monkeypatch):
    with pytest.raises(ValueError, match="dimension"):
        branchsig.warm_up(3, dimension=0)
    with pytest.raises(TypeError, match="dimension"):
        branchsig.warm_up(3, dimension="4")
    with pytest.raises(ValueError, match="dtype"):
        branchsig.warm_up(3, dtype="int32")
    with pytest.raises(ValueError, match="dtype"):
        branchsig.warm_up(3, dtype="float16")
    with pytest.raises(ValueError, match="planar=True with quadrature"):
        branchsig.warm_up(3, planar=True, quadrature="lobatto2")
    with pytest.raises(TypeError, match="planar"):
        branchsig.warm_up(3, planar=1)
    monkeypatch.setattr(emulated_cupy, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="nvidia-smi"):
        branchsig.warm_up(3)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"branchsig\[cuda12\]"):
        branchsig.warm_up(3)


def test_a_cupy_that_is_too_old_is_named(installed, monkeypatch):
    branchsig.backends.choice.serving.pop("cupy", None)
    monkeypatch.setattr(emulated_cupy, "__version__", "13.6.0")
    with pytest.raises(ImportError, match=r"CuPy 13.6.0 is installed, .* CuPy 14 .*branchsig\[cuda12\]"):
        branchsig.warm_up(2)


@pytest.mark.parametrize("pairing", ["paired", "symmetric"])
def test_arrays_of_other_libraries_come_and_go_by_dlpack(installed, reference, pairing, rng, monkeypatch):
    xp = pytest.importorskip("array_api_strict")
    # As the arrays of a library that holds them on a CUDA device.
    monkeypatch.setattr(branchsig.backends.choice, "lies_on_cuda", lambda _: True)
    branchsig.backends.choice.serving.pop("through cupy", None)
    x, y = drawn(rng, pairing, (5, 6), 2)
    there = xp.asarray(x)
    arguments = problem(there, there if y is x else xp.asarray(y), 3, (0, 0), pairing)
    with using(reference):
        serving = branchsig.backends.backend_for(arguments)
    branchsig.backends.choice.serving.pop("through cupy", None)
    assert isinstance(serving, branchsig.backends.ThroughCupy)
    emulated_cupy.launches.clear()
    log_k = serving.solve(arguments, "end", log=True)
    left, _ = gradients_of(serving, arguments, xp.exp(log_k), wrt_log=True, left=True, right=False)
    assert len(emulated_cupy.launches) >= 4
    assert type(log_k) is type(left) is type(there)
    wanted = reference.solve(problem(x, y, 3, (0, 0), pairing), "end", log=True)
    assert relative(np.asarray(log_k), wanted) < 1e-12
    assert left.shape == x.shape
