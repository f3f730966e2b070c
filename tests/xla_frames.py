"""Call frames of XLA's foreign function interface, made of arrays without JAX."""

from branchsig._core import ffi, lib

NUMBERS = {
    "bool": 1,
    "int8": 2,
    "int16": 3,
    "int32": 4,
    "int64": 5,
    "uint8": 6,
    "uint16": 7,
    "uint32": 8,
    "uint64": 9,
    "float32": 11,
    "float64": 12,
}
"""Those of the types of XLA."""

STREAM = 4711


class Frame:
    """A call of a program: attributes by name, which are texts, integers or arrays, operands and results."""

    def __init__(self, attributes, operands, results):
        self.alive, self.error, self.messages = [operands, results], ffi.new("int *"), []
        api = self._new("bs_xla_api *")
        api.create_error = self._callback("void *(bs_xla_error *)", self._create_error)
        api.get_stream = self._callback("void *(bs_xla_stream *)", self._get_stream)
        self.frame = ffi.new("bs_xla_frame *")
        self.frame.api = api
        self.frame.operands, self.frame.results = self._buffers(operands), self._buffers(results)
        given = [*map(self._attribute, attributes.values())]
        of_frame = self.frame.attributes
        of_frame.size = len(attributes)
        of_frame.types = self._new("int32_t[]", [kind for kind, _ in given])
        of_frame.names = self._new("bs_xla_span *[]", [self._text(name) for name in attributes])
        of_frame.values = self._new("void *[]", [ffi.cast("void *", value) for _, value in given])

    def _new(self, *arguments):
        self.alive.append(ffi.new(*arguments))
        return self.alive[-1]

    def _callback(self, *arguments):
        self.alive.append(ffi.callback(*arguments))
        return self.alive[-1]

    def _text(self, text):
        return self._new("bs_xla_span *", (self._new("char[]", text.encode()), len(text.encode())))

    def _attribute(self, value):
        """The kind of an attribute, and its value."""
        if isinstance(value, str):
            return lib.BS_XLA_STRING, self._text(value)
        if isinstance(value, int):
            scalar = 2
            return scalar, self._new("bs_xla_scalar *", (lib.BS_XLA_S64, self._new("int64_t *", value)))
        self.alive.append(value)
        data = ffi.cast("void *", value.ctypes.data)
        return lib.BS_XLA_ARRAY, self._new("bs_xla_array *", (NUMBERS[value.dtype.name], value.size, data))

    def _buffers(self, arrays):
        made = []
        for array in arrays:
            dims = self._new("int64_t[]", list(array.shape))
            data = ffi.cast("void *", array.ctypes.data)
            number = NUMBERS[array.dtype.name]
            made.append(self._new("bs_xla_buffer *", (0, ffi.NULL, number, data, array.ndim, dims)))
        types = self._new("int32_t[]", len(made))
        return (0, ffi.NULL, len(made), types, self._new("bs_xla_buffer *[]", made))

    def _create_error(self, arguments):
        self.messages.append(ffi.string(arguments.message).decode())
        return ffi.cast("void *", self.error)

    @staticmethod
    def _get_stream(arguments):
        arguments.stream = ffi.cast("void *", STREAM)
        return ffi.NULL

    def run(self, handler):
        """Let a handler answer the call, and return the messages of its errors."""
        found = handler(self.frame)
        assert (found == ffi.NULL) == (not self.messages)
        return self.messages
