"""The CPU core beside pysiglib: times, ratios and peak memory of every case that has a goal.

    python benchmarks/compare.py [--quick] [--only PATTERN] [--runs N]

Both libraries get the same NumPy arrays and the same number of threads (one, unless a row says otherwise) and take
turns within one process. The table goes to the screen and to `results/cpu.md`.
"""

import itertools
import json
import re
import sys
import time
import warnings
from dataclasses import dataclass

import measure
import numpy as np

import branchsig

CASES = [(64, 64, 4, 3, 0), (32, 128, 8, 4, 0), (32, 128, 8, 4, 1), (8, 512, 8, 4, 0), (128, 32, 4, 3, 2)]
STATIC_KERNELS = {
    "RBF": ("RBFKernel", (1.0,)),
    "Matern 1/2": ("Matern12Kernel", (1.0,)),
    "Matern 3/2": ("Matern32Kernel", (1.0,)),
    "Matern 5/2": ("Matern52Kernel", (1.0,)),
    "rational quadratic": ("RationalQuadraticKernel", (1.0, 1.0)),
    "polynomial": ("PolynomialKernel", (2.0, 1.0, 0.5)),
}

TURN = 0.1
"""Seconds that a library calls the same function over and over before it is the other's turn."""


@dataclass(frozen=True)
class Row:
    """One line of the table: the same call made of either library.

    `call(module)` returns a function without arguments. `goal` bounds the ratio theirs/ours from below.
    `group` names the geometric mean that the row enters.
    """

    name: str
    call: object
    goal: float | None = None
    group: str | None = None
    rate: int = 0  # sub-cells x levels that the call works through, for the time of each


def forward(x, y, depth, dyadic_order, kernel=None, gram=False, **options):
    def call(module):
        function = module.branched_sig_kernel_gram if gram else module.branched_sig_kernel
        static_kernel = getattr(module, kernel[0])(*kernel[1]) if kernel else None
        return lambda: function(x, y, depth, dyadic_order, static_kernel=static_kernel, **options)

    return call


def backward(x, y, depth, dyadic_order, kernel=None, gram=False, derivs=None, **options):
    if derivs is None:
        derivs = np.ones((len(x), len(y)) if gram else len(x), dtype=x.dtype)

    def call(module):
        function = module.branched_sig_kernel_gram_backprop if gram else module.branched_sig_kernel_backprop
        static_kernel = getattr(module, kernel[0])(*kernel[1]) if kernel else None
        return lambda: function(
            derivs, x, y, depth, dyadic_order, static_kernel=static_kernel, left_deriv=True, right_deriv=True, **options
        )

    return call


def both_ways(name, x, y, depth, order, goals, groups=(None, None), **options):
    """The forward and the backward row of one case."""
    orders = (order, order) if isinstance(order, int) else order
    cells = (x.shape[-2] - 1) * (y.shape[-2] - 1) * 2 ** sum(orders)
    if options.get("lead_lag"):
        cells *= 4
    pairs = len(x) * len(y) if options.get("gram") else len(x)
    for way, make, goal, group in zip(("forward", "backward"), (forward, backward), goals, groups, strict=True):
        if goal is not None or group is not None:
            yield Row(f"{name}, {way}", make(x, y, depth, order, **options), goal, group, pairs * cells * depth)


def rows(rng):
    for dtype in (np.float64, np.float32):
        for batch, length, dimension, depth, order in CASES:
            x, y = (measure.brownian(rng, batch, length, dimension, dtype) for _ in range(2))
            name = np.dtype(dtype).name
            goals = (6.0, 8.0) if name == "float64" else (None, None)
            groups = (f"paired forward {name}", f"paired backward {name}")
            yield from both_ways(
                f"{name} {(batch, length, dimension, depth, order)}", x, y, depth, order, goals, groups
            )
    x, y = (measure.brownian(rng, 1, 4096, 4) for _ in range(2))
    yield from both_ways("one long pair (1, 4096, 4, 4, 0)", x, y, 4, 0, (4.0, 6.0))
    x = measure.brownian(rng, 128, 100, 4)
    yield from both_ways("symmetric Gram 128 x (100, 4), depth 4", x, x, 4, 0, (15.0, 20.0), gram=True)
    x, y = (measure.brownian(rng, 32, 128, 8) for _ in range(2))
    for name, kernel in STATIC_KERNELS.items():
        yield from both_ways(f"{name} (32, 128, 8, 4, 0)", x, y, 4, 0, (8.0, 8.0), kernel=kernel)
    x, y = (measure.brownian(rng, 32, 128, 4) for _ in range(2))
    yield from both_ways("time_aug (32, 128, 4, 4, 0)", x, y, 4, 0, (8.0, 8.0), time_aug=True)
    yield from both_ways("lead_lag (32, 128, 4, 4, 0)", x, y, 4, 0, (8.0, 8.0), lead_lag=True)
    for orders in ((2, 0), (0, 3)):
        x, y = (measure.brownian(rng, 32, 64, 4) for _ in range(2))
        yield from both_ways(f"dyadic order {orders} (32, 64, 4, 4)", x, y, 4, orders, (8.0, 8.0))
    x, y = (measure.brownian(rng, 16, 128, 4) for _ in range(2))
    derivs = np.full((16, 128, 128), 1e-3)
    cells = 16 * 127 * 127 * 4
    yield Row("return_grid (16, 128, 4, 4, 0), forward", forward(x, y, 4, 0, return_grid=True), 4.0, None, cells)
    grid = backward(x, y, 4, 0, return_grid=True, derivs=derivs)
    yield Row("return_grid (16, 128, 4, 4, 0), backward", grid, 4.0, None, cells)


def timed_rows(chosen, peer):
    """The lines of the main table, the geometric means, and whether each goal is met."""
    lines, means = [], {}
    for row in rows(np.random.default_rng(0)):
        if not re.search(chosen.only, row.name):
            continue
        calls = {"ours": row.call(branchsig)} | ({"theirs": row.call(peer)} if peer else {})
        seconds = measure.interleaved(calls, chosen.runs, 0.01 if chosen.quick else TURN)
        ours = seconds["ours"]
        nanoseconds = f"{ours.median / row.rate * 1e9:.2f}" if row.rate else ""
        if peer:
            value, low, high = measure.ratio(seconds["theirs"], ours)
            means.setdefault(row.group, []).append(value)
            beside = [milliseconds(seconds["theirs"]), f"{value:.1f}", f"{low:.1f}-{high:.1f}", goal(value, row.goal)]
        else:
            beside = ["", "", "", ""]
        lines.append([row.name, milliseconds(ours), nanoseconds, *beside])
        print(" | ".join(lines[-1]), flush=True)
    for group, values in means.items():
        if group:
            mean = float(np.exp(np.mean(np.log(values))))
            least = {"paired forward float32": 10.0, "paired backward float32": None}.get(group, 12.0)
            lines.append([f"geometric mean, {group}", "", "", "", f"{mean:.1f}", "", goal(mean, least)])
    return lines


def milliseconds(timing):
    low, high = timing.quartiles
    return f"{timing.median * 1e3:.3f} ({low * 1e3:.3f}-{high * 1e3:.3f})"


def goal(value, least):
    if least is None:
        return ""
    return f">= {least:g}: {'met' if value >= least else 'MISSED'}"


def ceiling(value, most, unit):
    return f"<= {most:g} {unit}: {'met' if value <= most else 'MISSED'}"


def tiny_calls(chosen, peer):
    """Microseconds of a call whose arithmetic is nothing: what Python and the boundary cost."""
    rng = np.random.default_rng(1)
    x, y = (measure.brownian(rng, 1, 10, 2) for _ in range(2))
    for name, make, most in (("forward", forward, 40.0), ("backward", backward, 70.0)):
        calls = {"ours": make(x, y, 3, 0)(branchsig)} | ({"theirs": make(x, y, 3, 0)(peer)} if peer else {})
        seconds = measure.interleaved(calls, 5 * chosen.runs, 0.002)
        ours = seconds["ours"].median * 1e6
        theirs = f"{seconds['theirs'].median * 1e6:.1f}" if peer else ""
        yield [f"(1, 10, 2), depth 3, {name}, us", f"{ours:.1f}", theirs, ceiling(ours, most, "us")]


def first_calls(chosen, peer):
    """Milliseconds of single calls that find none of their memory in the first and second caches."""
    rng = np.random.default_rng(5)
    x, y = (measure.brownian(rng, 32, 128, 8) for _ in range(2))
    other = np.ones(64 << 17)
    for kernel in (None, STATIC_KERNELS["RBF"]):
        for name, make in (("forward", forward), ("backward", backward)):
            calls = [make(x, y, 4, 0, kernel=kernel)(module) for module in filter(None, (branchsig, peer))]
            seconds = []
            for _ in range(5 * chosen.runs):
                for call in calls:
                    other.sum()
                    start = time.perf_counter()
                    call()
                    seconds.append(time.perf_counter() - start)
            medians = [f"{np.median(seconds[k :: len(calls)]) * 1e3:.2f}" for k in range(len(calls))]
            label = f"{'RBF ' if kernel else ''}(32, 128, 8, 4, 0), {name}, one call after other work, ms"
            yield [label, medians[0], medians[1] if peer else "", ""]


def threads(chosen, peer):
    rng = np.random.default_rng(2)
    x, y = (measure.brownian(rng, 64 if chosen.quick else 128, 100, 4) for _ in range(2))
    for name, make in (("forward", forward), ("backward", backward)):
        results = []
        for module in filter(None, (branchsig, peer)):
            calls = {n: make(x, y, 4, 0, gram=True, n_jobs=n)(module) for n in (1, 2)}
            runs = chosen.runs if module is branchsig else max(1, chosen.runs // 5)
            seconds = measure.interleaved(calls, runs)
            results.append(seconds[1].median / seconds[2].median)
        theirs = f"{results[1]:.2f}" if peer else ""
        yield [f"2 threads over 1, Gram of 128 + 128, {name}", f"{results[0]:.2f}", theirs, goal(results[0], 1.8)]


MEMORY = {
    "gram": ("Gram 64 x (500, 4), depth 4: MB above the inputs", 64.0),
    "symmetric": ("symmetric Gram 64 x (500, 4), depth 4: MB above the inputs", 64.0),
    "backward": ("backward 4 x (2000, 4), depth 4: MB above the inputs", 32.0),
    "gram_backward": ("backward of the Gram 16 x (500, 4), depth 4: MB above the inputs", 64.0),
}


def memory_of(case, library):
    """Peak bytes of one case, to be run in a process of its own."""
    rng = np.random.default_rng(3)
    module = measure.peer() if library == "theirs" else branchsig
    size, length, gram = {"gram": (64, 500, True), "gram_backward": (16, 500, True), "symmetric": (64, 500, True)}.get(
        case, (4, 2000, False)
    )
    x, y = (measure.brownian(rng, size, length, 4) for _ in range(2))
    if case == "symmetric":
        y = x
    make = backward if "backward" in case else forward
    small = make(x[:2, :5].copy(), y[:2, :5].copy(), 4, 0, gram=gram)(module)
    return measure.peak_above_inputs(make(x, y, 4, 0, gram=gram)(module), small)


def memory(chosen, peer):
    for case, (name, most) in MEMORY.items():
        found = []
        for library in ("ours", "theirs"):
            if library == "theirs" and (not peer or chosen.quick):
                found.append(None)
                continue
            result = measure.in_child("compare.py", "--memory", case, "--library", library)
            found.append(None if result is None else result / 1e6)
        ours = found[0]
        texts = ["" if value is None else f"{value:.1f}" for value in found]
        yield [name, *texts, ceiling(ours, most, "MB") if ours is not None else "FAILED"]


def yardstick(runs):
    """Nanoseconds per (sub-cell x level), forward and backward, of the instruction set in use; and np.exp per value."""
    rng = np.random.default_rng(4)
    values = rng.uniform(-0.1, 0.1, 4096)
    out = np.empty_like(values)
    calls, rates = {"np.exp": lambda: np.exp(values, out)}, {"np.exp": values.size}
    for dtype, (way, make) in itertools.product(("float64", "float32"), (("forward", forward), ("backward", backward))):
        x, y = (measure.brownian(rng, 64, 128, 4, dtype) for _ in range(2))
        calls[f"{dtype} {way}"] = make(x, y, 4, 0)(branchsig)
        rates[f"{dtype} {way}"] = 64 * 127 * 127 * 4
    seconds = measure.interleaved(calls, runs)
    return {name: seconds[name].median / rates[name] * 1e9 for name in calls}


def instruction_sets(chosen):
    from branchsig.backends import cpu

    lines = []
    for name in cpu.instruction_sets():
        arguments = ("--yardstick", "--runs", chosen.runs)
        found = measure.in_child("compare.py", *arguments, environment={"BRANCHSIG_ISA": name})
        if found is None:
            lines.append([name, *["FAILED"] * 6])
            continue
        columns = ("float64 forward", "float64 backward", "float32 forward", "float32 backward", "np.exp")
        share = found["float64 forward"] / found["np.exp"]
        lines.append([name, *(f"{found[column]:.3f}" for column in columns), f"{share:.2f} of np.exp"])
    return lines


def main():
    parser = measure.arguments(__doc__)
    parser.add_argument("--runs", type=int, default=None, help="runs per row")
    parser.add_argument("--only", default="", help="a regular expression that the names of the timed rows must match")
    parser.add_argument("--memory", choices=list(MEMORY), help=measure.argparse.SUPPRESS)
    parser.add_argument("--library", choices=["ours", "theirs"], default="ours", help=measure.argparse.SUPPRESS)
    parser.add_argument("--yardstick", action="store_true", help=measure.argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.runs = chosen.runs or (3 if chosen.quick else 11)
    warnings.simplefilter("ignore")
    if chosen.memory or chosen.yardstick:
        found = memory_of(chosen.memory, chosen.library) if chosen.memory else yardstick(chosen.runs)
        print(json.dumps(found))
        return
    peer = measure.peer()
    header = [
        "case",
        "ours, ms (quartiles)",
        "ns per sub-cell x level",
        "pysiglib, ms (quartiles)",
        "ratio",
        "quartiles",
        "goal",
    ]
    lines = ["# The CPU core beside pysiglib", "", *measure.machine_facts(peer), ""]
    lines += [
        f"Medians of up to {chosen.runs} runs, the two libraries in turns in one process, one thread each; a turn",
        f"repeats a call until {TURN} seconds are over. A case is (batch, length, dimension, depth, dyadic order);",
        "backward means both sides. A ratio is pysiglib's time over ours, its quartiles those of the runs taken in",
        "pairs. Written by `python benchmarks/compare.py`.",
        "",
        *measure.table(header, timed_rows(chosen, peer)),
    ]
    if not chosen.only:
        others = [*tiny_calls(chosen, peer), *first_calls(chosen, peer), *threads(chosen, peer), *memory(chosen, peer)]
        lines += ["", *measure.table(["what", "ours", "pysiglib", "goal"], others)]
        lines += [
            "",
            "Nanoseconds per (sub-cell x level), paired (64, 128, 4), depth 4, one thread; np.exp per float64 value:",
            "",
            *measure.table(
                ["instruction set", "float64 forward", "backward", "float32 forward", "backward", "np.exp", "forward"],
                instruction_sets(chosen),
            ),
        ]
    measure.report("cpu.md", lines, write=not chosen.quick and not chosen.only)


if __name__ == "__main__":
    sys.exit(main())
