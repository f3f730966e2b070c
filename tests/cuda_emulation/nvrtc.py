"""NVRTC without a device: compiles CUDA source to machine code and tells registers, stack and spills of each kernel.

Needs the wheel ``nvidia-cuda-nvrtc-cu12``, whose library is called by ctypes; nothing of CuPy and no driver.
"""

import contextlib
import ctypes
import importlib.util
import itertools
import math
import re
import sys
from pathlib import Path

from branchsig.backends.cuda.instances import ANY_DIMENSION, Instance, source
from branchsig.quadrature import BY_NAME, TRAPEZOID
from branchsig.static_kernels.table import NAMES


def library():
    """Return the library of the wheel, or None where it is not installed."""
    spec = importlib.util.find_spec("nvidia")
    for root in [] if spec is None else spec.submodule_search_locations:
        for path in sorted(Path(root).glob("*/lib/libnvrtc.so.1*")):
            return ctypes.CDLL(str(path))
    return None


class Nvrtc:
    """The compiler; `compile` takes a source text, an architecture such as "sm_90", and the instances wanted."""

    def __init__(self):
        self._library = library()
        if self._library is None:
            raise RuntimeError("NVRTC was not found: pip install nvidia-cuda-nvrtc-cu12")
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def compile(self, source, architecture, names, options=()):
        """Compile, and return for every name a dict of registers, stack, spill_stores and spill_loads (in bytes)."""
        with self._compiled(source, architecture, names, options) as (program, log):
            return {name: self._figures(log, self._lowered(program, name)) for name in names}

    def binary(self, source, architecture, name):
        """Compile, and return the machine code as the bytes of a cubin."""
        with self._compiled(source, architecture, [name]) as (program, _):
            return self._bytes("CUBIN", program)

    @contextlib.contextmanager
    def _compiled(self, source, architecture, names, options=()):
        program = ctypes.c_void_p()
        self._call("CreateProgram", ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
        try:
            for name in names:
                self._call("AddNameExpression", program, name.encode())
            flags = ["--std=c++17", f"--gpu-architecture={architecture}", "--ptxas-options=-v", *options]
            encoded = (ctypes.c_char_p * len(flags))(*[flag.encode() for flag in flags])
            failed = self._library.nvrtcCompileProgram(program, len(flags), encoded)
            log = self._bytes("ProgramLog", program).partition(b"\0")[0].decode()
            if failed:
                raise RuntimeError(log)
            yield program, log
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _call(self, function, *arguments):
        code = getattr(self._library, f"nvrtc{function}")(*arguments)
        if code:
            raise RuntimeError(self._library.nvrtcGetErrorString(code).decode())

    def _bytes(self, what, program):
        size = ctypes.c_size_t()
        self._call(f"Get{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"Get{what}", program, buffer)
        return buffer.raw

    def _lowered(self, program, name):
        lowered = ctypes.c_char_p()
        self._call("GetLoweredName", program, name.encode(), ctypes.byref(lowered))
        return lowered.value.decode()

    @staticmethod
    def _figures(log, lowered):
        _, _, after = log.partition(f"Compiling entry function '{lowered}'")
        part = after.partition("Compiling entry function")[0]
        stack, stores, loads = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
        ).groups()
        return {
            "registers": int(re.search(r"Used (\d+) registers", part)[1]),
            "stack": int(stack),
            "spill_stores": int(stores),
            "spill_loads": int(loads),
        }


def instances(
    static_kernels,
    depths,
    *,
    kernels=("forward", "backward"),
    reals=("float", "double"),
    rule=TRAPEZOID,
    components=False,
    planar=False,
    bound=0,
    padded=False,
    dimensions=ANY_DIMENSION,
    parameters=False,
):
    """Every instance that problems of these static kernels and depths lead to, with the widest strips.

    A depth of 0 stands for depths known only at run time, `math.inf` for no truncation; with `components` depths are
    numbers of nodes, and `bound` is the largest depth, or 0.
    """
    for kernel, real, static_kernel, depth, log_domain, grid in itertools.product(
        kernels, reals, static_kernels, depths, (False,) if components else (False, True), (False, True)
    ):
        form = {
            "grid": grid,
            "log_domain": log_domain,
            "components": components,
            "planar": planar,
            "bound": bound,
            "padded": padded,
            "parameters": parameters,
        }
        arguments = kernel, real, static_kernel, depth or 15, rule
        yield from dict.fromkeys(Instance.widest(*arguments, **form, dimension=d) for d in dimensions)


STATIC_KERNELS = NAMES
DEPTHS = (1, 2, 3, 4, 5, 6, 0)
ARCHITECTURES = ("sm_70", "sm_80", "sm_90")


def main():
    """Compile every instance for the architectures named, and all three if none is.

    Beside them stand the name of a rule, if not the trapezoid, and "components" for the truncation by nodes, with
    "depth1" for a largest depth beside it, "untruncated" for none, or "planar" for ordered forests. Prints what spills,
    and registers by depth as a table.
    """
    rules = [BY_NAME[word] for word in sys.argv[1:] if word in BY_NAME]
    architectures = [word for word in sys.argv[1:] if word.startswith("sm_")] or ARCHITECTURES
    form = {"rule": rules[0] if rules else TRAPEZOID}
    form |= {word: word in sys.argv[1:] for word in ("components", "planar")}
    form["bound"] = sum(int(word[5:]) for word in sys.argv[1:] if word.startswith("depth"))
    all_depths = (math.inf,) if "untruncated" in sys.argv[1:] else DEPTHS
    nvrtc, most, spilled, count = Nvrtc(), {}, [], 0
    for architecture, depth, static_kernel in itertools.product(architectures, all_depths, STATIC_KERNELS):
        found = list(instances([static_kernel], [depth], **form))
        chosen = {i.expression: i for i in found if i.depth == depth or depth == math.inf}
        for expression, figures in nvrtc.compile(source(), architecture, list(chosen)).items():
            count += 1
            instance = chosen[expression]
            family = "linear" if static_kernel == "LINEAR" else "given" if static_kernel == "GIVEN" else "others"
            family += ", many channels" if instance.channels > 4 else ""
            form_of = "log domain" if instance.log_domain else f"{instance.work} of {instance.real}"
            key = (instance.kernel, form_of, "grid" if instance.grid else "value", family, depth)
            before = most.get(key, (0, 0))
            most[key] = (max(before[0], figures["registers"]), max(before[1], figures["spill_stores"]))
            if figures["spill_stores"]:
                spilled.append((architecture, expression, figures))
        print(f"{architecture} depth {depth} {static_kernel}: {len(chosen)} compiled", file=sys.stderr, flush=True)
    print(f"{count} instances compiled; those with spills:")
    for architecture, expression, figures in spilled:
        print(f"{architecture} {expression} {figures}")
    depths = [depth for depth in all_depths if any(key[4] == depth for key in most)]
    headings = ["any" if depth == 0 else str(depth) for depth in depths]
    print("| kernel | real | result | static kernel |", " | ".join(f"depth {depth}" for depth in headings), "|")
    print("|---|---|---|---|" + "---:|" * len(depths))
    for row in sorted({key[:4] for key in most}):
        cells = [most[(*row, depth)] for depth in depths]
        shown = [f"{registers}" + (f" ({spill} B)" if spill else "") for registers, spill in cells]
        print("|", " | ".join([*row, *shown]), "|")


if __name__ == "__main__":
    main()
