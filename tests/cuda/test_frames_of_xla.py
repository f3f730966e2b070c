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

STREAM = 4711


class Frame:
    """A call of a program on a device, made of arrays."""

    def __init__(self, call, operands, results):
        self.alive, self.error = [], ffi.new("int *")
        rank = self._new("int64_t *", operands[0].ndim)
        values = {"call": self._text(call.text), "rank": self._new("bs_xla_scalar *", (lib.BS_XLA_S64, rank))}
        names = [self._new("bs_xla_span *", self._text(name)[0]) for name in values]
        self.messages = []
        api = self._new("bs_xla_api *")
        api.create_error = self._callback("void *(bs_xla_error *)", self._create_error)
        api.get_stream = self._callback("void *(bs_xla_stream *)", self._get_stream)
        self.frame = ffi.new("bs_xla_frame *")
        self.frame.api = api
        self.frame.operands, self.frame.results = self._buffers(operands), self._buffers(results)
        attributes = self.frame.attributes
        attributes.size = len(values)
        attributes.names = self._new("bs_xla_span *[]", names)
        attributes.values = self._new("void *[]", [ffi.cast("void *", value) for value in values.values()])

    def _new(self, *arguments):
        self.alive.append(ffi.new(*arguments))
        return self.alive[-1]

    def _callback(self, *arguments):
        self.alive.append(ffi.callback(*arguments))
        return self.alive[-1]

    def _text(self, text):
        return self._new("bs_xla_span *", (self._new("char[]", text.encode()), len(text.encode())))

    def _buffers(self, arrays):
        numbers = {name: number for number, name in binding._TYPES.items()}
        made = []
        for array in arrays:
            dims = self._new("int64_t[]", list(array.shape))
            data = ffi.cast("void *", array.ctypes.data)
            made.append(self._new("bs_xla_buffer *", (0, ffi.NULL, numbers[array.dtype.name], data, array.ndim, dims)))
        types = self._new("int32_t[]", len(made))
        return (0, ffi.NULL, len(made), types, self._new("bs_xla_buffer *[]", made))

    def _create_error(self, arguments):
        self.messages.append(ffi.string(arguments.message).decode())
        return ffi.cast("void *", self.error)

    @staticmethod
    def _get_stream(arguments):
        arguments.stream = ffi.cast("void *", STREAM)
        return ffi.NULL

    def run(self):
        """Run the call, and return the message of its error."""
        found = binding._handle_on_cuda(self.frame)
        assert (found == ffi.NULL) == (not self.messages)
        return self.messages


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
    assert Frame(call, arrays, [value, *kept]).run() == []

    derivs = rng.standard_normal(3)
    backward = call.towards("backward")
    operands = [emulated_cupy.asarray(derivs), *arrays]
    gradients = results_for(backward, *operands)
    assert Frame(backward, [*operands, *kept], gradients).run() == []
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
    (message,) = Frame(call, arrays, [emulated_cupy.empty((2,))]).run()
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
