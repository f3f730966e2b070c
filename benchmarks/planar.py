"""Signature kernels, which are ordered forests of depth 1, beside `pysiglib.sig_kernel`: times, memory, errors.

    python benchmarks/planar.py [--quick] [--runs N]

Both libraries get the same float64 arrays and one thread each, and take turns within one process. Times are CPU times
of the process, which other work on the machine disturbs less than the clock on the wall. Errors are those of both
libraries' rules by the time that they take, for paths of few and of many points. The report goes to the screen and to
`results/planar.md`.
"""

import functools
import json
import sys
import time
import warnings

import measure
import numpy as np

import branchsig

ROWS = [  # (batch, length, dimension), what, goals forward and backward
    ((64, 64, 4), "paired", (5, 8)),
    ((32, 128, 8), "paired", (5, 8)),
    ((8, 512, 8), "paired", (5, 8)),
    ((128, 100, 4), "symmetric Gram", (6, 15)),
    ((1, 2000, 4), "paired", (5, 5)),
    ((32, 128, 8), "RBF", (None, None)),
    ((32, 64, 4), "dyadic order 2", (None, None)),
    ((32, 128, 200), "paired", (None, None)),
    ((10000, 10, 3), "paired", (None, None)),
]
DEPTHS = (1, 2, 3, 4, 8)
MEMORY = [(1, 2000, 4), (8, 1000, 4)]
ERRORS = [(4, 1.0), (4, 4.0), (32, 1.0), (32, 4.0)]  # points of a path, and about their size
TURN = 0.02
"""Seconds that a call is repeated for before it is the next one's turn."""


def calls(module, shape, what):
    """The forward and the backward call of a library."""
    rng = np.random.default_rng(0)
    x, y = (measure.brownian(rng, *shape) for _ in range(2))
    kernel = module.RBFKernel(1.0) if what == "RBF" else None
    options = {"dyadic_order": 2 if what.startswith("dyadic") else 0, "static_kernel": kernel}
    if what.startswith("symmetric"):
        derivs = np.ones((shape[0], shape[0]))
        return (
            lambda: module.sig_kernel_gram(x, x, **options),
            lambda: module.sig_kernel_gram_backprop(derivs, x, x, right_deriv=True, **options),
        )
    derivs = np.ones(shape[0])
    return (
        lambda: module.sig_kernel(x, y, **options),
        lambda: module.sig_kernel_backprop(derivs, x, y, right_deriv=True, **options),
    )


def turns(named, runs, most=2.0):
    return measure.interleaved(named, runs, TURN, most, time.process_time)


def line(peer, shape, what, goals, runs):
    """Our times for both ways, and the peer's over ours, with the quartiles of the runs."""
    cells = [f"{shape}, {what}"]
    pairs = shape[0] * (shape[0] + 1) // 2 if what.startswith("symmetric") else shape[0]
    sub_cells = pairs * (shape[1] - 1) ** 2 * (16 if what.startswith("dyadic") else 1)
    for ours, theirs, goal in zip(calls(branchsig, shape, what), calls(peer, shape, what), goals, strict=True):
        times = turns({"ours": ours, "theirs": theirs}, runs)
        ratio, low, high = measure.ratio(times["theirs"], times["ours"])
        met = "" if goal is None else f">= {goal:g}: {'met' if ratio >= goal else 'missed'}"
        seconds = times["ours"].median
        cells += [f"{1e3 * seconds:.3f}", f"{1e9 * seconds / sub_cells:.2f}", f"{ratio:.1f} ({low:.1f}-{high:.1f})"]
        cells.append(met)
    print("  ".join(cells), flush=True)
    return cells


def by_depth(shape, runs):
    """Our times, forward and backward, by depth."""
    rng = np.random.default_rng(0)
    x, y = (measure.brownian(rng, *shape) for _ in range(2))
    derivs, rows = np.ones(shape[0]), []
    for depth in DEPTHS:
        options = {"depth": depth, "planar": True}
        times = turns(
            {
                "forward": functools.partial(branchsig.branched_sig_kernel, x, y, **options),
                "backward": functools.partial(
                    branchsig.branched_sig_kernel_backprop, derivs, x, y, right_deriv=True, **options
                ),
            },
            runs,
        )
        cells = shape[0] * (shape[1] - 1) ** 2 * depth
        rows.append([str(depth)])
        for way in ("forward", "backward"):
            seconds = times[way].median
            rows[-1] += [f"{1e3 * seconds:.3f}", f"{1e9 * seconds / cells:.2f}"]
    return rows


def memory(name, shape):
    """Bytes that a backward call adds at its peak."""
    module = branchsig if name == "branchsig" else measure.peer()
    return measure.peak_above_inputs(calls(module, shape, "paired")[1], calls(module, (1, 3, 2), "paired")[1])


def memory_rows():
    for shape in MEMORY:
        cells = [str(shape)]
        for name in ("branchsig", "pysiglib"):
            found = measure.in_child("planar.py", "--memory", name, json.dumps(shape))
            cells.append("" if found is None else f"{found / 2**20:.1f}")
        yield cells


def errors(peer, points, size, runs):
    """Errors, relative to the largest of 1 and |K|, and times of every rule of both libraries, beside our finest."""
    rng = np.random.default_rng(1)
    x, y = (size * measure.brownian(rng, 32, points, 3) for _ in range(2))
    exact = peer.sig_kernel(x, y, method="polynomial", order=64)
    named = {
        f"ours, dyadic order {k}": functools.partial(branchsig.sig_kernel, x, y, dyadic_order=k) for k in range(0, 8, 2)
    }
    for order in (0, 2, 4):
        key = f"pysiglib, finite differences, dyadic order {order}"
        named[key] = functools.partial(peer.sig_kernel, x, y, dyadic_order=order)
    for order in (4, 8, 16):
        key = f"pysiglib, polynomial, order {order}"
        named[key] = functools.partial(peer.sig_kernel, x, y, method="polynomial", order=order)
    for order, rule in ((6, "lobatto3"), (10, "lobatto5")):
        named[f"ours, order {order}, {rule}"] = functools.partial(
            branchsig.sig_kernel, x, y, order=order, quadrature=rule
        )
    times = turns(named, runs)
    for name, call in named.items():
        error = np.max(abs(call() - exact) / np.maximum(1, abs(exact)))
        yield [f"{points}", f"{size:g}", name, f"{1e3 * times[name].median:.3f}", f"{error:.1e}"]


def main():
    parser = measure.arguments(__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=9, help="of every call, or fewer where those last too long")
    parser.add_argument("--memory", nargs=2, help="for a child: a library and a shape")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.memory:
        print(json.dumps(memory(options.memory[0], tuple(json.loads(options.memory[1])))))
        return
    peer = measure.peer()
    if peer is None:
        sys.exit(1)
    runs = 3 if options.quick else options.runs
    rows = [line(peer, *row, runs) for row in (ROWS[:2] if options.quick else ROWS)]
    depths = by_depth((32, 128, 8), runs)
    found = [row for case in (ERRORS[:1] if options.quick else ERRORS) for row in errors(peer, *case, runs)]
    way = ["ms", "ns a sub-cell", "ratio (quartiles)", "goal"]
    lines = [
        "# Signature kernels",
        "",
        *measure.machine_facts(peer),
        "",
        "A case is (batch, length, dimension) of Brownian paths with end points about 0.8 from their start; ratios are "
        "pysiglib's time over ours, of medians of CPU time in turns within one process, one thread each. "
        "`benchmarks/planar.py` writes this page.",
        "",
        *measure.table(["case", *(f"forward, {w}" for w in way), *(f"backward, {w}" for w in way)], rows),
        "",
        "Ordered forests by depth, (32, 128, 8); a sub-cell is one of one level:",
        "",
        *measure.table(["depth", *(f"{way}, {w}" for way in ("forward", "backward") for w in ("ms", "ns"))], depths),
        "",
        "MiB that a backward call adds to what the process holds:",
        "",
        *measure.table(["case", "branchsig", "pysiglib"], list(memory_rows())),
        "",
        "Errors beside the time for 32 pairs of paths in three channels, forward, against the polynomial method of "
        "order 64, relative to the larger of 1 and |K|.",
        "",
        *measure.table(["points", "size", "method", "ms", "error"], found),
    ]
    measure.report("planar.md", lines, write=not options.quick)


if __name__ == "__main__":
    main()
