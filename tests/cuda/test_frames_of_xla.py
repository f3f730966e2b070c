"""Call frames of XLA whose buffers lie on a CUDA device: their stream and their pointers go to the CUDA kernels."""

import sys

import numpy as np
import pytest
from cases import using, walk
from cuda_cases import emulated_cupy

import branchsig
from branchsig.backends import Wrt
from branchsig.frameworks._binding import Call
from branchsig.operations import Shape
from branchsig.spec import options_of

pytest.importorskip("jax")
binding = pytest.importorskip("branchsig.frameworks.jax")
ffi, lib = binding.ffi, binding.lib
from xla_frames import STREAM, Frame  # noqa: E402  it needs the core


def messages_of(call, operands, results):
    """Run a call on a device, and return the messages of its errors."""
    frame = Frame({"call": call.text, "rank": operands[0].ndim}, operands, results)
    return frame.run(binding._handle_on_cuda)


def results_for(call, *arrays):
    """Arrays that a call may write its results to, as JAX makes them."""
    shapes = call.result(*(Shape(array.shape, array.dtype.name) for array in arrays))
    wide = [k > 0 and call.direction == "forward" and binding._is_wide(shape.dtype) for k, shape in enumerate(shapes)]
    return [
        emulated_cupy.empty((*shape.shape, 2), np.uint32) if packed else emulated_cupy.empty(shape.shape, shape.dtype)
        for shape, packed in zip(shapes, wide)
    ]


def on_a_device(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", emulated_cupy)
    emulated_cupy.ExternalStream.entered.clear()
    emulated_cupy.launches.clear()


@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"order": 3}], ids=str)
def test_values_and_gradients_run_in_the_stream_of_the_program(options, on_device, reference, monkeypatch, rng):
    on_a_device(monkeypatch)
    x, y = walk(rng, 3, 5, 2, size=0.3), walk(rng, 3, 4, 2, size=0.3)
    arrays = [emulated_cupy.asarray(path) for path in (x, y)]
    spec, how = options_of(3, 0, None, False, False, 1.0, 1, "trapezoid", check_finite=False, **options)
    call = Call("kernel", "forward", spec, how, ("array", "array", None, None))
    value, *kept = results_for(call, *arrays)
    assert messages_of(call, arrays, [value, *kept]) == []

    derivs = rng.standard_normal(3)
    backward = call.towards("backward")
    operands = [emulated_cupy.asarray(derivs), *arrays]
    gradients = results_for(backward, *operands)
    assert messages_of(backward, [*operands, *kept], gradients) == []
    assert emulated_cupy.ExternalStream.entered == [STREAM, STREAM]
    assert len(emulated_cupy.launches) >= 2
    assert not emulated_cupy.waits
    with using(reference):
        wanted = [branchsig.branched_sig_kernel(x, y, 3, **options)]
        wanted += branchsig.branched_sig_kernel_backprop(derivs, x, y, 3, right_deriv=True, **options)
    for found, its in zip((value, *gradients), wanted, strict=True):
        np.testing.assert_allclose(found, its, rtol=1e-11, atol=1e-15)


def test_errors_on_a_device_keep_their_message(on_device, monkeypatch, rng):
    on_a_device(monkeypatch)
    arrays = [emulated_cupy.asarray(walk(rng, n, 4, 2)) for n in (2, 3)]
    spec, how = options_of(3, 0, None, False, False, 1.0, 1, "trapezoid")
    call = Call("kernel", "value", spec, how, ("array", "array", None, None), Wrt())
    (message,) = messages_of(call, arrays, [emulated_cupy.empty((2,))])
    assert message.startswith("ValueError: path1 has batch shape (2,) and path2 (3,)")


def test_the_handler_answers_which_version_it_is_made_for():
    frame, api = ffi.new("bs_xla_frame *"), ffi.new("bs_xla_api *")
    api.api_version.minor_version = 3
    answer = ffi.new("bs_xla_metadata *")
    extension = ffi.new("bs_xla_metadata_extension *")
    extension.base.type, extension.metadata = lib.BS_XLA_METADATA, answer
    frame.api, frame.extension = api, ffi.cast("bs_xla_extension *", extension)
    for handler in (binding._handle_on_cuda, lib.bs_xla_any, lib.bs_xla_kernels):
        answer.api_version.major_version = answer.api_version.minor_version = 7
        assert handler(frame) == ffi.NULL
        assert (answer.api_version.major_version, answer.api_version.minor_version) == (0, 3)
