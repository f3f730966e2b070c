"""A stand-in for the few calls of CuPy that branchsig.backends.cuda makes: arrays are NumPy's, kernels run on the CPU.

`cuda` and `RawModule` are what CuPy calls them. A `RawModule` compiles its unmodified source behind ``emulator.h`` and
runs the threads of a launch as fibers. Memory that `empty` hands out is full of NaN, so that what a kernel reads
before it is written is seen; every launch is checked for the number of arguments and the device of its arrays.
"""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import math
import os
import re
import subprocess
import tempfile
import typing
from collections import Counter
from pathlib import Path

import numpy as np

__version__ = "14.0.0"
HERE = Path(__file__).parent
FLAGS = ["-std=c++17", "-pipe", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-ffp-contract=off"]
FLAGS += ["-fno-strict-aliasing", "-Wno-unknown-pragmas"]
SANITIZED = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-DEMULATOR_STATIC_SHARED"]
WATCHED = [
    "-O1",  # without which what threads keep in registers would count as memory
    "-g1",
    "-fsanitize=thread",
    "--param=tsan-distinguish-volatile=1",
    "--param=tsan-instrument-func-entry-exit=0",
]

LARGEST_GRID = 2**31 - 1
LARGEST_BLOCK = 1024
DEVICES = 2
PROCESSORS = 3  # so few that a team has to take several pairs

sanitize = os.environ.get("EMULATOR_SANITIZE") == "1"
watch_for_races = os.environ.get("EMULATOR_RACES") == "1"  # see races.h
memory_limit = math.inf
poison = 0xFF  # every byte of memory that nobody wrote; a floating-point number of these bytes is NaN
allocated = [0]
_libraries = {}
launches = []  # (name, blocks, threads, device) of every launch
waits = []  # the methods by which the host asked for a value on a device, and had to wait for it


class OutOfMemoryError(MemoryError):
    """As cupy.cuda.memory.OutOfMemoryError."""


class Device:
    """A device; entered, it becomes the current one."""

    current = 0

    def __init__(self, number=None):
        self.id = Device.current if number is None else number
        assert 0 <= self.id < DEVICES, "no such device"
        self._before = []

    @property
    def attributes(self):
        return {"MultiProcessorCount": PROCESSORS}

    def __enter__(self):
        self._before.append(Device.current)
        Device.current = self.id
        return self

    def __exit__(self, *_):
        Device.current = self._before.pop()

    def __eq__(self, other):
        return self.id == other.id

    def __hash__(self):
        return hash(self.id)


class Event:
    """A point in what a device has been given to do: a number of launches and copies."""

    def __init__(self, *, disable_timing):
        assert disable_timing

    def record(self):
        self.device, self.work = Device.current, work_of[Device.current]


class Stream:
    """The one stream of a device."""

    def __init__(self):
        self.device = Device.current

    def wait_event(self, event):
        seen[self.device][event.device] = max(seen[self.device][event.device], event.work)


work_of = [0] * DEVICES  # what each device has been given to do so far
seen = [[0] * DEVICES for _ in range(DEVICES)]  # how much of it of each other device each device waits for


class runtime:
    def getDeviceCount():
        return DEVICES


class ExternalStream:
    """A stream that somebody else has made; entered, it becomes the current one."""

    entered: typing.ClassVar = []

    def __init__(self, address):
        self.ptr = address

    def __enter__(self):
        ExternalStream.entered.append(self.ptr)
        return self

    def __exit__(self, *_):
        pass


class UnownedMemory:
    """Memory that somebody else looks after."""

    def __init__(self, address, size, owner):
        self.ptr, self.size = address, size


class MemoryPointer:
    """A place in memory."""

    def __init__(self, memory, offset):
        self.ptr = memory.ptr + offset


class Allocation:
    """Memory without a shape, as CuPy hands it out; nobody has written to it."""

    def __init__(self, size):
        self.memory = empty((size,), np.int8)


class cuda:
    Device = Device
    alloc = Allocation
    Event = Event
    ExternalStream = ExternalStream
    UnownedMemory = UnownedMemory
    MemoryPointer = MemoryPointer
    get_current_stream = Stream
    runtime = runtime


class ndarray(np.ndarray):
    """A NumPy array that lies on a device."""

    _device = None

    def __new__(cls, shape, dtype=float, memptr=None):
        size = math.prod(shape) * np.dtype(dtype).itemsize
        return super().__new__(cls, shape, dtype, (ctypes.c_char * size).from_address(memptr.ptr))

    __array_priority__ = 1.0  # what is made of arrays on a device lies there too

    def __array_finalize__(self, parent):
        self._device = getattr(parent, "_device", None)
        if self._device is None:
            self._device = Device.current

    @property
    def device(self):
        return Device(self._device)

    def __dlpack_device__(self):
        return (2, self._device)

    def _waiting(name):
        method = getattr(np.ndarray, name)

        def waiting(self, *arguments):
            waits.append(name)
            return method(self, *arguments)

        return waiting

    for _name in ("__bool__", "__int__", "__float__", "__index__", "item", "tolist"):
        locals()[_name] = _waiting(_name)


def _on_current(array):
    result = np.ascontiguousarray(array).reshape(np.shape(array)).view(ndarray)
    result._device = Device.current
    return result


def asarray(array, dtype=None):
    """A copy of an array on the current device, which must know of an array on another one that it is ready."""
    if isinstance(array, ndarray) and array._device != Device.current:
        assert seen[Device.current][array._device] == work_of[array._device], "an array that may not be ready yet"
        work_of[Device.current] += 1
    return _on_current(np.array(array, dtype=dtype))


def empty(shape, dtype=float):
    size = math.prod(shape) * np.dtype(dtype).itemsize
    allocated[0] = max(allocated[0], size)
    if size > memory_limit:
        raise OutOfMemoryError(f"Out of memory allocating {size} bytes")
    return _on_current(np.full((size,), poison, dtype=np.uint8).view(dtype).reshape(shape))


def zeros(shape, dtype=float):
    return _on_current(np.zeros(shape, dtype=dtype))


def ones(shape, dtype=float):
    return _on_current(np.ones(shape, dtype=dtype))


def arange(*limits, dtype=None):
    return _on_current(np.arange(*limits, dtype=dtype))


def ascontiguousarray(array):
    if isinstance(array, ndarray) and array.flags.c_contiguous:
        return array
    return _on_current(array)


def from_dlpack(array):
    return _on_current(np.from_dlpack(array))


def is_available():
    return True


sqrt = np.sqrt


def where(condition, a, b):
    return _on_current(np.where(condition, a, b))


def seed(number):
    """Choose the order in which the threads of every later launch run; 0 is the natural one."""
    RawModule.seed = number


class RawModule:
    """Kernels of one source text, compiled when the first is asked for."""

    seed = 0

    def __init__(self, *, code, options=(), name_expressions=()):
        assert all(option.startswith(("--std=", "-D")) for option in options)
        self._code = code
        self._names = list(name_expressions)

    def get_function(self, name):
        index = self._names.index(name)
        library = self._library()
        entry = getattr(library, f"kernel{index}")
        entry.argtypes = [ctypes.c_uint, ctypes.c_uint, ctypes.POINTER(ctypes.c_void_p)]
        wanted = getattr(library, f"kernel{index}_parameters")()
        device = Device.current

        def launch(grid, block, arguments):
            assert Device.current == device, "a function of one device is launched on another"
            assert len(arguments) == wanted, f"{name} takes {wanted} arguments, not {len(arguments)}"
            assert 0 < grid[0] <= LARGEST_GRID
            assert 0 < block[0] <= LARGEST_BLOCK
            values = [_by_value(argument) for argument in arguments]
            pointers = (ctypes.c_void_p * wanted)(*[value.ctypes.data for value in values])
            launches.append((name, grid[0], block[0], device))
            work_of[device] += 1
            library.emulator_seed(ctypes.c_uint64(RawModule.seed))
            library.emulator_poison(poison)
            if entry(grid[0], block[0], pointers):
                raise RuntimeError(f"{name}: {_with_lines(library.emulator_error().decode(), library._name)}")

        return launch

    def _library(self):
        key = (self._code, *self._names, sanitize, watch_for_races)
        if key not in _libraries:
            entries = [f"EMULATED_KERNEL(kernel{i}, (&{name}))" for i, name in enumerate(self._names)]
            library = ctypes.CDLL(str(compiled(self._code, "\n".join(entries))))
            library.emulator_error.restype = ctypes.c_char_p
            _libraries[key] = library
        return _libraries[key]


def _by_value(argument):
    """What CuPy hands to a kernel: an address, null for None, or the bytes of a NumPy scalar, or of one structure."""
    if argument is None:
        return np.array(0, dtype=np.uintp)
    if isinstance(argument, Allocation):
        argument = argument.memory
    if isinstance(argument, ndarray):
        assert argument.device.id == Device.current, "an array of another device"
        assert argument.flags.c_contiguous
        return np.array(argument.ctypes.data, dtype=np.uintp)
    if isinstance(argument, np.ndarray) and argument.dtype.kind == "V" and argument.size == 1:
        return argument
    assert isinstance(argument, np.generic), f"{type(argument)} is no NumPy scalar"
    return np.array(argument)


@functools.cache
def folder():
    """Where compiled kernels are kept: for later runs and other processes, if the tests have named a folder."""
    if "EMULATOR_FOLDER" in os.environ:
        return Path(os.environ["EMULATOR_FOLDER"])
    _folder.append(tempfile.TemporaryDirectory(prefix="branchsig-emulated-"))
    return Path(_folder[-1].name)


_folder = []  # holds a temporary folder, which lasts as long as the process


@functools.cache
def _compiler():
    """The command of the compiler, and what tells its version."""
    command = os.environ.get("CXX", "g++").split()
    return command, _run([*command, "--version"])


@functools.cache
def _runtime(watched):
    """The object files of the emulator."""
    if not watched:
        return [_made("emulator.cpp", (HERE / "emulator.cpp").read_text(), ".o", ["-O1", "-c"])]
    sources = [(name, (HERE / name).read_text()) for name in ("emulator.cpp", "races.cpp")]
    return [_made(name, text, ".o", ["-O2", "-DEMULATOR_RACES", "-c"]) for name, text in sources]


def compiled(code, entries):
    """Compile a source text with entry points of its kernels to a shared library, and return its path."""
    flags = WATCHED if watch_for_races else []
    text = f'#include "emulator.h"\n#line 1 "kernels.cu"\n{code}\n'
    _uses[code, *flags] += 1
    if _uses[code, *flags] > 4:  # before, precompiling would cost more than it saves
        header = _made("kernels.h", text, ".h.gch", [*flags, "-x", "c++-header"])
        text = f'#include "{header.with_suffix("")}"\n'
    libraries = ["-nodefaultlibs", "-lstdc++", "-lm", "-lc", "-lgcc"]  # not that of the sanitizer, which races.cpp is
    objects = [*_runtime(watch_for_races), *libraries * watch_for_races]
    return _made("kernels.cpp", text + entries + "\n", ".so", [*flags, "-shared"], objects)


_uses = Counter()


def _made(name, text, suffix, flags, objects=()):
    """Compile a text, unless this or another process, now or before, has compiled the same, and return the path."""
    command, version = _compiler()
    flags = [*FLAGS, *(SANITIZED if sanitize else []), *flags]
    headers = [path.read_text() for path in sorted(HERE.glob("*.h"))]
    parts = [version, *command, *flags, *headers, *map(str, objects), text]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    result = folder() / f"{digest}{suffix}"
    with open(folder() / f"{digest}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        if not result.exists():
            source, unfinished = folder() / f"{digest}-{name}", folder() / f"{digest}.unfinished"
            source.write_text(text)
            _run([*command, *flags, f"-I{HERE}", str(source), *map(str, objects), "-o", str(unfinished)])
            unfinished.replace(result)
        result.touch()  # for whoever clears what has not been used for long
    return result


def _with_lines(message, library):
    """A message in which places in a library are lines of its source."""

    def line(match):
        found = subprocess.run(["addr2line", "-e", library, match[1]], capture_output=True, text=True, check=False)
        return found.stdout.strip() or match[0]

    return re.sub(r"\+(0x[0-9a-f]+)", line, message)


def _run(command):
    without_sanitizer = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=without_sanitizer)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")
    return result.stdout


@contextlib.contextmanager
def limited_memory(size):
    """Let every allocation above `size` bytes fail."""
    global memory_limit
    memory_limit = size
    try:
        yield
    finally:
        memory_limit = math.inf
