"""What a step of the CUDA kernels takes, from their machine code: needs no device, and NVRTC and nvdisasm alone.

The compiler writes into every instruction how many cycles pass before the next one of the same warp is issued. Their
sum over the loop of the steps is what a warp takes that has a scheduler to itself and never waits for memory. What a
step does once in a while is left out: the further channels of a path, cells that are not small, and all between two
phases.

    python tests/cuda_emulation/schedule.py sm_90
"""

import importlib.util
import itertools
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from branchsig.backends.cuda.instances import Instance, source
from branchsig.quadrature import TRAPEZOID

sys.path.insert(0, str(Path(__file__).parent))
import nvrtc


def disassembler():
    """Return the path of nvdisasm, or None where its wheel is not installed."""
    spec = importlib.util.find_spec("nvidia")
    for root in [] if spec is None else spec.submodule_search_locations:
        for path in sorted(Path(root).glob("*/bin/nvdisasm")):
            return path
    return None


class Step(NamedTuple):
    """A step of a warp: its instructions, those of floating-point arithmetic among them, cycles, and spilled registers
    that are written or read."""

    instructions: float
    arithmetic: float
    cycles: float
    spills: float


class _Instruction(NamedTuple):
    name: str
    target: str | None  # of a branch
    conditional: bool
    stall: int
    spill: bool


_CODE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([\w.]+)([^;]*);")
_HIGH_WORD = re.compile(r"^\s*/\* 0x([0-9a-f]{16}) \*/")
_LABEL = re.compile(r"^(\.L[\w$]+):")
_ARITHMETIC = {"DFMA", "DMUL", "DADD", "FFMA", "FMUL", "FADD"}


def disassembled(compiler, instance, architecture):
    """The machine code of a kernel in words."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiler.binary(source(), architecture, instance.expression))
        file.flush()
        command = [disassembler(), "-hex", "-c", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def names_of(text):
    """The names of the instructions of machine code in words, with their suffixes."""
    return [found[2] for found in map(_CODE.search, text.splitlines()) if found]


def steps_of(compiler, instance, architecture):
    """The steps of a kernel, in the order of its loops: the way down and, of a backward kernel, the way back."""
    code, labels = _parsed(disassembled(compiler, instance, architecture))
    levels = instance.depth - (not instance.grid)
    words = 2 if instance.work == "double" else 1
    shuffles = [words * levels * values for values in ((1,) if instance.kernel == "forward" else (1, 3))]
    return [_step(body, count) for body, count in zip(_step_loops(code, labels, min(shuffles)), shuffles, strict=True)]


def _parsed(text):
    code, labels, waiting = [], {}, []
    for line in text.splitlines():
        if label := _LABEL.match(line):
            waiting.append(label[1])
        elif found := _CODE.search(line):
            guard, name, operands = found.groups()
            target = re.search(r"`\((\.L[\w$]+)\)", operands) if name.startswith("BRA") else None
            code.append(
                _Instruction(name.split(".")[0], target and target[1], guard is not None, 0, "SpillRefill" in line)
            )
            labels.update(dict.fromkeys(waiting, len(code) - 1))
            waiting = []
        elif (high := _HIGH_WORD.match(line)) and code:
            # Bits 105 to 108 of the 128 of an instruction are the cycles before the next one.
            code[-1] = code[-1]._replace(stall=max(1, int(high[1], 16) >> 41 & 15))
    return code, labels


def _step_loops(code, labels, shuffles):
    """The loops that shuffle and have no such loop in them, without what they skip most of the time."""
    loops = {
        (labels[each.target], at) for at, each in enumerate(code) if each.target in labels and labels[each.target] <= at
    }
    loops = {(a, b) for a, b in loops if sum(each.name == "SHFL" for each in code[a : b + 1]) >= shuffles}
    inner = sorted(x for x in loops if not any(y != x and x[0] <= y[0] and y[1] <= x[1] for y in loops))
    bodies = []
    for a, b in inner:
        kept, at = [], a
        while at <= b:
            kept.append(code[at])
            at = _behind_a_loop(code, labels, at, b) or at + 1
        # what follows the last exit of a loop is code that warps which have come apart take
        if sum(each.name == "SHFL" for each in kept) >= shuffles and not any(x.name == "WARPSYNC" for x in kept):
            bodies.append(kept)
    return bodies


def _behind_a_loop(code, labels, at, end):
    """Where a branch leads that leaves out a loop which no branch behind it leaves out too; otherwise None."""
    to = labels.get(code[at].target, 0) if code[at].conditional else 0
    if not at < to <= end:
        return None
    forward = [(k, labels.get(code[k].target, 0)) for k in range(at + 1, to) if code[k].conditional]
    for last in range(at + 1, to):
        first = labels.get(code[last].target, to)
        if at < first <= last and not any(k < first and last < goal <= to for k, goal in forward):
            return to
    return None


def _step(body, shuffles):
    count = Counter(each.name for each in body)
    steps = count["SHFL"] / shuffles
    arithmetic = sum(count[name] for name in _ARITHMETIC)
    sums = len(body), arithmetic, sum(each.stall for each in body), sum(each.spill for each in body)
    return Step(*(number / steps for number in sums))


def main():
    """Print the steps at depth 4 of the architectures named, or of sm_90, as a table."""
    compiler = nvrtc.Nvrtc()
    print("| architecture | kernel | computes in | channels | columns | instructions | arithmetic | cycles | spills |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|")
    for architecture in sys.argv[1:] or ["sm_90"]:
        for kernel, real, dimension in itertools.product(("forward", "backward"), ("double", "float"), (4, 8)):
            form = {"grid": False, "log_domain": False, "dimension": dimension}
            instance = Instance.widest(kernel, real, "LINEAR", 4, TRAPEZOID, **form)
            for way, step in zip(("down", "back"), steps_of(compiler, instance, architecture), strict=False):
                figures = " | ".join(f"{number:.0f}" for number in step)
                what = f"{kernel}, {way} | {real} | {dimension} | {instance.columns}"
                print(f"| {architecture} | {what} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
