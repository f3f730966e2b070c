"""Several devices: how pairs are shared among them, and where arrays are worked on."""

import dataclasses
import math

import numpy as np
import pytest
from cases import gradients_of, problem, relative, using
from cuda_cases import drawn, emulated_cupy, kernel_named

import branchsig
from branchsig.backends.cuda.devices import OverDevices


def over_devices(emulated):
    return OverDevices(emulated.backend, emulated_cupy)


@pytest.mark.parametrize("pairing", ["paired", "gram", "symmetric"])
@pytest.mark.parametrize("devices", [(0, 1), (1,), (1, 0)])
@pytest.mark.parametrize("name", ["linear", "quartic"])
def test_devices_share_the_pairs(emulated, reference, pairing, devices, name, rng):
    x, y = drawn(rng, pairing, (6, 9), 2, counts=(5, 5))
    arguments = problem(x, y, 3, (0, 0), pairing, kernel_named(name))
    with emulated_cupy.Device(1):
        sent = dataclasses.replace(emulated.sent(arguments), devices=devices)
        derivs = rng.standard_normal((5,) if pairing == "paired" else (5, 5))
        there = emulated_cupy.asarray(derivs)
    spread, before = over_devices(emulated), len(emulated_cupy.launches)
    options = {"wrt_log": True, "left": True, "right": pairing != "symmetric"}
    found = [spread.solve(sent, "end", log=True), *gradients_of(spread, sent, there, **options)]
    wanted = [reference.solve(arguments, "end", log=True), *gradients_of(reference, arguments, derivs, **options)]
    if pairing != "symmetric":
        found.append(spread.solve(sent, "stack"))
        wanted.append(reference.solve(arguments, "stack"))
        found.append(spread.solve(dataclasses.replace(sent, depth=math.inf), "end", log=True))
        wanted.append(reference.solve(dataclasses.replace(arguments, depth=math.inf), "end", log=True))
        in_parts = {"depth": math.inf, "order": 3}
        found.append(spread.solve(dataclasses.replace(sent, **in_parts), "end"))
        wanted.append(reference.solve(dataclasses.replace(arguments, **in_parts), "end"))
    for mine, its in zip(found, wanted, strict=True):
        if its is not None:
            assert mine.device.id == 1
            np.testing.assert_allclose(np.asarray(mine), its, rtol=1e-10, atol=1e-12)
    assert {device for *_, device in emulated_cupy.launches[before:]} == set(devices)


def test_more_devices_than_pairs_do_no_harm(emulated, rng):
    x, _ = drawn(rng, "symmetric", (6, 6), 2, counts=(1, 1))
    sent = dataclasses.replace(emulated.sent(problem(x, x, 3, (0, 0), "symmetric")), devices=(0, 1))
    np.testing.assert_array_equal(
        over_devices(emulated).solve(sent, "end", log=True), emulated.backend.solve(sent, "end", log=True)
    )


def test_what_has_no_work_for_devices_is_not_spread(emulated, rng):
    x, _ = drawn(rng, "symmetric", (1, 1), 2)
    for depth, path in ((3, x), (0, drawn(rng, "symmetric", (4, 4), 2)[0])):
        sent = dataclasses.replace(emulated.sent(problem(path, path, depth, (0, 0), "gram")), devices=(0, 1))
        assert np.all(over_devices(emulated).solve(sent, "grid") == 1.0)


def test_gram_matrices_over_devices(on_device, rng):
    x, y = drawn(rng, "gram", (5, 7), 2, counts=(4, 3))
    x, y = emulated_cupy.asarray(x), emulated_cupy.asarray(y)

    def results(**options):
        gram = branchsig.branched_sig_kernel_gram(x, y, 3, normalize="dilation", **options)
        whole, pullback = branchsig.branched_sig_kernel_gram_vjp(x, None, 3, normalize=True, **options)
        return gram, whole, pullback(emulated_cupy.ones(whole.shape))[0]

    before = len(emulated_cupy.launches)
    with using(over_devices(on_device)):
        spread, alone = results(devices=[0, 1]), results()
    for found, wanted in zip(spread, alone, strict=True):
        np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=1e-11, atol=1e-13)
    assert {device for *_, device in emulated_cupy.launches[before:]} == {0, 1}


def test_devices_that_do_not_exist_are_refused(emulated, rng):
    x, y = drawn(rng, "gram", (5, 7), 2)
    sent = dataclasses.replace(emulated.sent(problem(x, y, 3, (0, 0), "gram")), devices=(0, 2))
    with pytest.raises(ValueError, match=r"devices is \[0, 2\]: CuPy finds 2 devices, 0 to 1"):
        over_devices(emulated).solve(sent, "end", log=True)


def test_arrays_of_another_device_are_worked_on_there(emulated, reference, rng):
    x, y = drawn(rng, "gram", (5, 6), 2)
    arguments = problem(x, y, 3, (0, 0), "gram")
    with emulated_cupy.Device(1):
        there = emulated.sent(arguments)
        derivs = emulated_cupy.asarray(np.ones((3, 2)))
    assert emulated_cupy.Device.current == 0
    log_k = emulated.backend.solve(there, "end", log=True)
    gradients = gradients_of(emulated.backend, there, derivs, wrt_log=False, left=True, right=True)
    assert emulated_cupy.Device.current == 0
    assert [array.device.id for array in (log_k, *gradients)] == [1, 1, 1]
    assert relative(log_k, reference.solve(arguments, "end", log=True)) < 1e-12
