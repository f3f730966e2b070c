"""The CPU core beside pysiglib where one would look for a cliff: many channels, short paths, few paths, random shapes.

    python benchmarks/cliffs.py [--quick] [--seed N] [--number N] [--seconds S]

Both libraries get the same float64 arrays and one thread each, and take turns within one process. Times are CPU times
of the process, which other work on the machine disturbs less than the clock on the wall. The rows with a goal come
first, then what two threads gain on one long pair, and what dilation and ragged paths cost, then random configurations
of a fresh seed, each sized to about `seconds` of the peer's time, and all of those where this library is the slower
one. Threads are timed by the clock on the wall, so they need free cores. The report goes to the screen and to
`results/cliffs.md`.
"""

import math
import statistics
import sys
import time
import warnings

import measure
import numpy as np

import branchsig

KERNELS = {
    "linear": ("LinearKernel", ()),
    "RBF": ("RBFKernel", (1.0,)),
    "wide RBF": ("RBFKernel", (100.0,)),
    "Matern 1/2": ("Matern12Kernel", (1.0,)),
    "Matern 3/2": ("Matern32Kernel", (1.0,)),
    "Matern 5/2": ("Matern52Kernel", (1.0,)),
    "rational quadratic": ("RationalQuadraticKernel", (1.0, 1.0)),
    "polynomial": ("PolynomialKernel", (2.0, 1.0, 0.5)),
}
ROWS = [  # (batch, length, dimension, depth), static kernel, whether it is a Gram matrix, goals forward and backward
    ((32, 64, 1000, 2), "linear", False, (1.6, 1.1)),
    ((64, 64, 256, 3), "linear", False, (1.9, 1.5)),
    ((256, 20, 64, 3), "linear", False, (3, 2.5)),
    ((64, 64, 256, 3), "linear", True, (7, 7)),
    ((64, 64, 256, 3), "RBF", True, (7, None)),
    ((64, 64, 64, 3), "linear", True, (8, 9)),
    ((100000, 4, 2, 3), "linear", False, (8, 8)),
    ((10000, 10, 3, 3), "linear", False, (11, 10)),
    ((64, 64, 3, 1), "linear", False, (20, 12)),
    ((1, 200, 4, 4), "linear", False, (6, 5)),
    ((1, 400, 200, 3), "linear", False, (2, 1.5)),
    ((1, 400, 200, 2), "linear", False, (1.4, 1.2)),
    ((1, 400, 200, 3), "RBF", False, (2, 1.5)),
    ((1, 400, 200, 2), "RBF", False, (1.4, 1.2)),
    ((1, 600, 90, 4), "linear", False, (2, 1.5)),
    ((1, 10, 2, 3), "linear", False, (3, 4)),
    ((32, 64, 1000, 2), "RBF", False, (None, None)),
    ((32, 64, 1000, 2), "wide RBF", False, (None, None)),
    ((64, 64, 64, 3), "wide RBF", False, (None, None)),
]
TURN = 0.02
"""Seconds that a library calls the same function over and over before it is the other's turn."""


def calls(module, shape, kernel, gram, dtype=np.float64):
    """The forward and the backward call of a library."""
    batch, length, dimension, depth = shape
    rng = np.random.default_rng(0)
    x, y = (measure.brownian(rng, batch, length, dimension, dtype) for _ in range(2))
    name, parameters = KERNELS[kernel]
    static_kernel = None if kernel == "linear" else getattr(module, name)(*parameters)
    derivs = np.ones((batch, batch) if gram else batch, dtype=dtype)
    value = module.branched_sig_kernel_gram if gram else module.branched_sig_kernel
    backprop = module.branched_sig_kernel_gram_backprop if gram else module.branched_sig_kernel_backprop
    return (
        lambda: value(x, y, depth, 0, static_kernel=static_kernel),
        lambda: backprop(derivs, x, y, depth, 0, static_kernel=static_kernel, left_deriv=True, right_deriv=True),
    )


def once(call):
    start = time.process_time()
    call()
    return time.process_time() - start


def turns(ours, theirs, count, most):
    """Seconds of CPU time per call of both, medians over `count` turns, or fewer where those last too long."""
    repeats, times = [], ([], [])
    for call in (ours, theirs):
        call()
        repeats.append(max(1, round(TURN / max(once(call), 1e-7))))
    start = time.perf_counter()
    while len(times[0]) < count and (len(times[0]) < 3 or time.perf_counter() - start < most):
        for call, repeat, seconds in zip((ours, theirs), repeats, times, strict=True):
            began = time.process_time()
            for _ in range(repeat):
                call()
            seconds.append((time.process_time() - began) / repeat)
    return tuple(statistics.median(seconds) for seconds in times)


def compared(peer, shape, kernel, gram, count, most):
    """For forward and backward: our time, and the peer's over ours."""
    found = []
    for ours, theirs in zip(calls(branchsig, shape, kernel, gram), calls(peer, shape, kernel, gram), strict=True):
        own, other = turns(ours, theirs, count, most)
        found.append((own, other / own))
    return found


def beside_ours():
    """Calls of this library and what they are held against: a name, call and base, the share of the base that is due,
    and the goal: how often the base is to take as long, or by a negative number how often the call may."""
    rng = np.random.default_rng(0)
    x, y = (measure.brownian(rng, 1, 2000, 4) for _ in range(2))
    ones = np.ones(64)

    def of_threads(n_jobs):
        options = {"n_jobs": n_jobs}
        return (
            lambda: branchsig.branched_sig_kernel(x, y, 4, **options),
            lambda: branchsig.branched_sig_kernel_backprop(ones[:1], x, y, 4, right_deriv=True, **options),
        )

    for way, two, one in zip(("forward", "backward"), of_threads(2), of_threads(1), strict=True):
        yield f"(1, 2000, 4, 4), two threads over one, {way}", two, one, 1.0, 1.6
    paths = measure.brownian(rng, 64, 64, 4)

    def gram(**options):
        return branchsig.branched_sig_kernel_gram(paths, None, 4, n_jobs=2, **options)

    yield (
        "Gram of 64 x (64, 4), depth 4, two threads, dilation over none",
        lambda: gram(normalize="dilation"),
        gram,
        1.0,
        -1.3,
    )
    a, b = (measure.brownian(rng, 64, 200, 3) for _ in range(2))
    lengths1, lengths2 = (rng.integers(20, 201, size=64) for _ in range(2))
    cells = (lengths1 - 1) * (lengths2 - 1) / 199.0**2
    lengths = {"lengths1": lengths1, "lengths2": lengths2}

    def value(**options):
        return branchsig.branched_sig_kernel(a, b, 4, **options)

    def gradient(**options):
        return branchsig.branched_sig_kernel_backprop(ones, a, b, 4, right_deriv=True, **options)

    for way, call in (("forward", value), ("backward", gradient)):
        name = f"64 pairs of 20 to 200 points, 3 channels, depth 4, over their share of whole ones, {way}"
        yield name, lambda call=call: call(**lengths), call, cells.mean(), -1.3


def line_of_ours(name, call, base, share, goal, count):
    times = measure.interleaved({"call": call, "base": base}, count)
    taken, held = times["call"].median, times["base"].median * share
    found = held / taken if goal > 0 else taken / held
    met = found >= goal if goal > 0 else found <= -goal
    cells = [
        name,
        f"{1e3 * taken:.3f}",
        f"{1e3 * held:.3f}",
        f"{found:.2f}",
        f"{'>=' if goal > 0 else '<='} {abs(goal):g}: {'met' if met else 'missed'}",
    ]
    print("  ".join(cells), flush=True)
    return cells


def random_shape(rng, seconds):
    """A shape that takes the peer about so many seconds forward, by what it takes for a cell, level and channel."""
    length = int(np.exp(rng.uniform(np.log(2), np.log(1500))))
    dimension = int(np.exp(rng.uniform(0, np.log(800))))
    depth = int(rng.integers(1, 9))
    pair = length**2 * (5e-9 * depth + 2e-11 * dimension) + 2e-7
    most = min(60000, seconds / pair, 3e7 / (length * dimension))
    return max(1, int(np.exp(rng.uniform(0, np.log(max(1.0, most)))))), length, dimension, depth


def quantiles(ratios):
    return " / ".join(f"{value:.2f}" for value in (statistics.median(ratios), np.quantile(ratios, 0.1), min(ratios)))


def main():
    parser = measure.arguments(__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=None, help="of the random configurations; a fresh one without it")
    parser.add_argument("--number", type=int, default=60, help="of random configurations")
    parser.add_argument("--seconds", type=float, default=0.3, help="of the peer's time, at most, for a configuration")
    options = parser.parse_args()
    peer = measure.peer()
    if peer is None:
        sys.exit(1)
    warnings.simplefilter("ignore")  # values that overflow
    count, most = (3, 0.5) if options.quick else (15, 3.0)
    header = ["case", "forward, ms", "ratio", "goal", "backward, ms", "ratio", "goal"]

    def line(name, found, goals=(None, None)):
        cells = [name]
        for (own, ratio), goal in zip(found, goals, strict=True):
            met = "" if goal is None else f">= {goal:g}: {'met' if ratio >= goal else 'missed'}"
            cells += [f"{1e3 * own:.3f}", f"{ratio:.2f}", met]
        print("  ".join(cells), flush=True)
        return cells

    def title(shape, kernel, gram):
        return f"{'Gram ' if gram else ''}{shape}, {kernel}"

    named = [
        line(title(shape, kernel, gram), compared(peer, shape, kernel, gram, count, most), goals)
        for shape, kernel, gram, goals in ROWS[: 3 if options.quick else None]
    ]
    ours = [line_of_ours(*row, 3 if options.quick else 41) for row in beside_ours()]
    seed = int(np.random.SeedSequence().entropy % 2**32) if options.seed is None else options.seed
    rng, names, ratios, slower = np.random.default_rng(seed), list(KERNELS), ([], []), []
    for _ in range(3 if options.quick else options.number):
        shape, kernel = random_shape(rng, options.seconds), names[rng.integers(len(names))]
        found = compared(peer, shape, kernel, False, count, most / 3)
        for (_, ratio), all_ratios in zip(found, ratios, strict=True):
            all_ratios.append(ratio)
        cells = line(title(shape, kernel, False), found)
        if min(ratio for _, ratio in found) < 1:
            slower.append(cells)
    lines = [
        "# Where one would look for a cliff",
        "",
        *measure.machine_facts(peer),
        "",
        "A case is (batch, length, dimension, depth); ratios are pysiglib's time over ours, of medians of CPU time in "
        f"turns of {TURN:g} seconds within one process, one thread each, up to {count} turns. Paths are Brownian, "
        "with end points about 0.8 from their start; kernels have the parameters of `benchmarks/cliffs.py`, which "
        "writes this page.",
        "",
        *measure.table(header, named),
        "",
        "Beside calls of this library, by the clock on the wall, medians: what two threads gain, and what dilation and "
        "ragged paths cost.",
        "",
        *measure.table(["case", "call, ms", "held against, ms", "times", "goal"], ours),
        "",
        f"{len(ratios[0])} random configurations, seed {seed}: up to 60000 pairs of 2 to 1500 points in 1 to 800 "
        f"channels, depth 1 to 8, any of the static kernels above, at most about {options.seconds:g} s of the peer's "
        f"time each. Ratios, median / tenth percentile / least: forward {quantiles(ratios[0])}, backward "
        f"{quantiles(ratios[1])}; geometric means {math.exp(statistics.mean(map(math.log, ratios[0]))):.2f} and "
        f"{math.exp(statistics.mean(map(math.log, ratios[1]))):.2f}.",
        "",
        "Those where this library is the slower one, forward or backward:"
        if slower
        else "In none this library is slower.",
        "",
        *(measure.table(header, slower) if slower else []),
    ]
    measure.report("cliffs.md", lines, write=not options.quick)


if __name__ == "__main__":
    main()
