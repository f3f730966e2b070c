"""Fixtures of the tests of CUDA: the backend on the emulator, and on a device too where CuPy finds one."""

import sys

import pytest
from cases import using
from cuda_cases import OnDevice, emulated_cupy, with_short_teams

import branchsig
from branchsig import _arrays, _problems, _validation, kernel_backprop, metrics, normalization


@pytest.fixture(scope="module", params=["emulated", "device"])
def cupy(request):
    """The emulated CuPy always; the real one where it finds a device."""
    if request.param == "emulated":
        return emulated_cupy
    module = pytest.importorskip("cupy")
    if not module.is_available():
        pytest.skip("CuPy finds no device")
    return module


@pytest.fixture(scope="module")
def backend(cupy):
    return OnDevice(cupy)


@pytest.fixture
def alone(cupy, monkeypatch):
    """A backend that takes the device for so small a one that it relays nothing."""
    backend = OnDevice(cupy)
    monkeypatch.setattr(backend.backend, "processors", lambda: 3)
    return backend


@pytest.fixture
def emulated():
    """A fresh backend on the emulator, for what only the emulator can show."""
    yield OnDevice(emulated_cupy)
    emulated_cupy.seed(0)


@pytest.fixture(params=[1, 2])
def relaying(cupy, request, monkeypatch):
    return with_short_teams(OnDevice(cupy), request.param, monkeypatch)


@pytest.fixture
def installed(emulated, monkeypatch):
    """The emulator in the place of CuPy, for the whole package."""
    monkeypatch.setitem(sys.modules, "cupy", emulated_cupy)
    branchsig.backends.choice.serving.pop("cupy", None)
    yield branchsig.backends.for_cupy()
    branchsig.backends.choice.serving.pop("cupy", None)


@pytest.fixture
def on_device(emulated, monkeypatch):
    """Public functions take arrays of the emulated CuPy, and its backend serves them."""

    def there(array):
        return isinstance(array, emulated_cupy.ndarray)

    def as_it_is(array):
        return array if there(array) else _arrays.contiguous(array)

    for module in (_validation, kernel_backprop, normalization):
        monkeypatch.setattr(module, "contiguous", as_it_is)
    monkeypatch.setattr(_problems, "lies_on_cuda", there)
    monkeypatch.setattr(metrics, "lies_on_cpu", lambda array: not there(array))
    emulated_cupy.waits.clear()
    with using(emulated.backend):
        yield emulated
