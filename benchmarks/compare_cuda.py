"""The CUDA backend beside pysiglib with pysiglib-cuda: times, ratios, memory, and the share of the arithmetic peak.

    python benchmarks/compare_cuda.py [--quick]

branchsig gets CuPy arrays and pysiglib torch tensors on the same device, holding the same values. Calls are timed with
CUDA events around a warm call, in turns, and the medians go to the screen and to `results/cuda.md`. Without CuPy and a
device the script says so and ends; without pysiglib-cuda its columns stay empty.
"""

import sys
import time
from dataclasses import dataclass

import measure
import numpy as np

import branchsig

PAIRED = [(128, 64, 4, 3), (128, 256, 8, 4), (32, 1000, 8, 4), (1, 4096, 4, 4)]  # batch, length, dimension, depth
GRAMS = [(32, 1000, 4, 4), (512, 64, 4, 4)]
GOAL = 20
MOST = 2.0  # seconds for the runs of a case

OPERATIONS = {
    ("forward", "float64"): (12, 1),
    ("forward", "float32"): (10, 1),
    ("backward", "float64"): (32, 6),
    ("backward", "float32"): (28, 6),
}
"""Floating-point instructions for each node and level, and for each node, besides those that grow with the dimension
(see docs/development/performance_cuda.md)."""

PER_CLOCK = {60: (64, 32), 70: (64, 32), 75: (64, 2), 80: (64, 32), 86: (128, 2), 89: (128, 2), 90: (128, 64)}
"""Instructions a multiprocessor issues a clock in float32 and float64, by compute capability."""


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    form: str
    batch: int
    length: int
    dimension: int
    depth: int
    dtype: str
    direction: str

    @property
    def name(self):
        size = f"{self.batch} × {self.batch}" if self.form == "Gram" else f"{self.batch}"
        return f"{self.form} {size}, L {self.length}, d {self.dimension}, depth {self.depth}"

    @property
    def instructions(self):
        """Floating-point instructions of one call, as the roofline counts them."""
        per_level, per_node = OPERATIONS[self.direction, self.dtype]
        passes = 1 if self.direction == "forward" else 4
        node = per_level * (self.depth - 1) + per_node + passes * self.dimension
        pairs = self.batch**2 if self.form == "Gram" else self.batch
        return pairs * (self.length - 1) ** 2 * node


def cases(quick):
    for dtype in ("float64", "float32"):
        for direction in ("forward", "backward"):
            for form, sizes in (("paired", PAIRED), ("Gram", GRAMS)):
                for size in sizes[:1] if quick else sizes:
                    yield Case(form, *size, dtype, direction)


def call_of(module, case, x, y, derivs):
    """The call of a case, of either library."""
    name = "branched_sig_kernel_gram" if case.form == "Gram" else "branched_sig_kernel"
    if case.direction == "forward":
        return lambda: getattr(module, name)(x, y, case.depth, 0)
    return lambda: getattr(module, f"{name}_backprop")(derivs, x, y, case.depth, 0, right_deriv=True)


def timed(cupy, streams, calls, runs):
    """Medians in milliseconds of warm calls, which take turns, between events on the stream of each library.

    Of `runs` runs, fewer are made where all of them together would last longer than `MOST` seconds, but three always.
    """
    for call in calls.values():
        call()
    cupy.cuda.Device().synchronize()
    start = time.perf_counter()
    for call in calls.values():
        call()
    cupy.cuda.Device().synchronize()
    lasting = time.perf_counter() - start
    found = {name: [] for name in calls}
    for _ in range(min(runs, max(3, int(MOST / lasting)))):
        for name, call in calls.items():
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record(streams[name])
            call()
            end.record(streams[name])
            end.synchronize()
            found[name].append(cupy.cuda.get_elapsed_time(start, end))
    return {name: float(np.median(values)) for name, values in found.items()}


def peer_on_device():
    """pysiglib and torch where both can use the device, or None."""
    module = measure.peer()
    if module is None:
        return None
    import torch

    if not torch.cuda.is_available():
        print("torch finds no CUDA device: the columns of pysiglib stay empty.", file=sys.stderr)
        return None
    return module, torch


def peak(cupy, dtype):
    """Instructions a second of the current device in a real type, or None for a device that is not in the table."""
    device = cupy.cuda.Device()
    rates = PER_CLOCK.get(int(device.compute_capability))
    if rates is None:
        return None
    clock = device.attributes["ClockRate"] * 1e3
    return rates[dtype == "float64"] * device.attributes["MultiProcessorCount"] * clock


def row_of(cupy, peer, case, runs):
    rng = np.random.default_rng(0)
    x, y = (measure.brownian(rng, case.batch, case.length, case.dimension, np.dtype(case.dtype)) for _ in range(2))
    derivs = np.ones((case.batch,) * (2 if case.form == "Gram" else 1), dtype=case.dtype)
    ours = [cupy.asarray(array) for array in (x, y, derivs)]
    calls, streams = {"ours": call_of(branchsig, case, *ours)}, {"ours": cupy.cuda.get_current_stream()}
    if peer is not None:
        module, torch = peer
        theirs = [torch.from_numpy(array).cuda() for array in (x, y, derivs)]
        calls["theirs"] = call_of(module, case, *theirs)
        streams["theirs"] = cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream)
    try:
        medians = timed(cupy, streams, calls, runs)
    except Exception as error:  # the peer runs out of memory on the long cases
        print(f"{case.name}: {error}", file=sys.stderr)
        medians = timed(cupy, streams, {"ours": calls["ours"]}, runs)
    milliseconds, other = medians["ours"], medians.get("theirs")
    top = peak(cupy, case.dtype)
    return [
        case.name,
        case.dtype,
        case.direction,
        f"{milliseconds:.3g}",
        "" if other is None else f"{other:.3g}",
        "" if other is None else f"{other / milliseconds:.1f} (goal {GOAL})",
        "" if top is None else f"{case.instructions / (milliseconds * 1e-3) / top:.0%}",
    ]


def main():
    arguments = measure.arguments(__doc__.splitlines()[0]).parse_args()
    try:
        import cupy
    except ImportError:
        sys.exit("CuPy is not installed: pip install 'branchsig[cuda12]', or 'branchsig[cuda13]' for CUDA 13")
    if not cupy.is_available():
        sys.exit("CuPy finds no CUDA device: nothing is measured")
    peer = peer_on_device()
    runs = 3 if arguments.quick else 15
    header = ["case", "dtype", "direction", "branchsig, ms", "pysiglib, ms", "ratio", "share of peak"]
    rows = [row_of(cupy, peer, case, runs) for case in cases(arguments.quick)]
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    facts = measure.machine_facts(None if peer is None else peer[0], given="CUDA tensors")
    lines = ["# The CUDA backend", "", f"- Device: {name}, CuPy {cupy.__version__}", *facts, ""]
    lines += [
        f"Medians of {runs} warm calls between CUDA events, the two libraries in turns; of fewer, but three, where all",
        f"together would last longer than {MOST:g} s. The first event stands before the call, so what the host takes",
        "before its first launch counts. Written by `python benchmarks/compare_cuda.py`.",
        "",
        *measure.table(header, rows),
    ]
    measure.report("cuda.md", lines, write=not arguments.quick)


if __name__ == "__main__":
    main()
