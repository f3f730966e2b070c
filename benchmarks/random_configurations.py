"""The core beside pysiglib on random configurations: any number of pairs, points, channels and levels, any kernel.

    python benchmarks/random_configurations.py [--quick] [--write] [--seed N] [--number N] [--seconds S]

Draws numbers of pairs up to 100,000, points up to 2000 and channels up to 1000, all logarithmically uniform, depths up
to 12 and a static kernel, from a fresh seed, and no more pairs than take pysiglib about `seconds` forward. Both
libraries get the same arrays and one thread each, and take turns within one process; times are CPU times. float32 is
computed in float64 here. The report goes to the screen and, with `--write`, to `results/random_configurations.md`,
with the picture `docs/_static/random_configurations.svg`.
"""

import math
import statistics
import sys
import time
import warnings
from pathlib import Path

import measure
import numpy as np
from cliffs import KERNELS, calls, once, turns

import branchsig

PICTURE = Path(__file__).parent.parent / "docs" / "_static" / "random_configurations.svg"
MOST = {"pairs": 100_000, "points": 2000, "channels": 1000, "depth": 12}
GOALS = {  # the median, the tenth percentile and the least ratio, forward and backward
    "float64": ((8.0, 2.5, 1.0), (7.0, 2.0, 1.0)),
    "float32": ((5.0, None, 0.6), (5.0, None, 0.6)),
}
_VALUES = 4e7
"""Values of one of the two arrays of paths, at most."""


def log_uniform(rng, least, most):
    return int(np.exp(rng.uniform(np.log(least), np.log(most + 1))))


def configuration(rng, peer, seconds, dtype):
    """A shape and the name of a static kernel, of no more pairs than take the peer about so many seconds forward."""
    length, dimension = log_uniform(rng, 2, MOST["points"]), log_uniform(rng, 1, MOST["channels"])
    depth, kernel = int(rng.integers(1, MOST["depth"] + 1)), list(KERNELS)[rng.integers(len(KERNELS))]
    most = max(1, int(min(MOST["pairs"], _VALUES / (length * dimension))))
    pairs, tried = 1, 0.0
    while pairs < most and tried < seconds / 50:  # as many as tell what one takes
        pairs = min(most, 4 * pairs)
        tried = once(calls(peer, (pairs, length, dimension, depth), kernel, False, dtype)[0])
    most = max(1, int(min(most, pairs * seconds / max(tried, 1e-6))))
    return (log_uniform(rng, 1, most), length, dimension, depth), kernel


def measured(seed, number, peer, seconds, dtype, count, most):
    """The configurations with what both libraries take for them, forward and backward."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(number):
        shape, kernel = configuration(rng, peer, seconds, dtype)
        both = [calls(module, shape, kernel, False, dtype) for module in (branchsig, peer)]
        found.append((shape, kernel, [turns(ours, theirs, count, most) for ours, theirs in zip(*both, strict=True)]))
        print(dtype.__name__, shape, kernel, *(f"{theirs / ours:.2f}" for ours, theirs in found[-1][2]), flush=True)
    return found


def ratios_of(found, direction):
    return [times[direction][1] / times[direction][0] for _, _, times in found]


def summary(name, found):
    """A row for each direction: median, tenth percentile and least of the ratios, and whether the goals are met."""
    rows = []
    for direction, word in enumerate(("forward", "backward")):
        ratios = ratios_of(found, direction)
        values = statistics.median(ratios), float(np.quantile(ratios, 0.1)), min(ratios)
        cells = []
        for value, goal in zip(values, GOALS[name][direction], strict=True):
            met = "" if goal is None else f" (>= {goal:g}: {'met' if value >= goal else 'missed'})"
            cells.append(f"{value:.2f}{met}")
        slower = sum(ratio < 1 for ratio in ratios)
        rows.append([f"{name}, {word}", *cells, f"{math.exp(statistics.mean(map(math.log, ratios))):.2f}", str(slower)])
    return rows


def slowest(found, number):
    """Rows for the configurations with the least ratios."""
    ordered = sorted(found, key=lambda one: min(theirs / ours for ours, theirs in one[2]))[:number]
    return [
        [
            f"{shape}, {kernel}",
            *(text for ours, theirs in times for text in (f"{1e3 * ours:.3f}", f"{theirs / ours:.2f}")),
        ]
        for shape, kernel, times in ordered
    ]


def draw(results):
    """Ratios over our time, a column for each dtype and a row for each direction."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no picture", file=sys.stderr)
        return
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "branchsig"  # the same picture has the same bytes
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, len(results), figsize=(9, 6), sharex=True, sharey=True, squeeze=False)
    for column, (name, found) in enumerate(results.items()):
        for direction, word in enumerate(("forward", "backward")):
            panel, ratios = panels[direction][column], ratios_of(found, direction)
            for kernel in KERNELS:
                chosen = [k for k, (_, of, _) in enumerate(found) if of == kernel]
                own = [1e3 * found[k][2][direction][0] for k in chosen]
                panel.scatter(own, [ratios[k] for k in chosen], s=14, label=kernel)
            panel.axhline(1.0, color="black", linewidth=0.8)
            panel.axhline(statistics.median(ratios), color="grey", linewidth=0.8, linestyle="dashed")
            panel.set(xscale="log", yscale="log", title=f"{name}, {word}")
    for panel in panels[-1]:
        panel.set_xlabel("branchsig, ms")
    for row in panels:
        row[0].set_ylabel("pysiglib / branchsig")
    panels[0][-1].legend(fontsize=6, loc="upper right")
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})
    print(f"wrote {PICTURE}")


def main():
    parser = measure.arguments(__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the report and the picture")
    parser.add_argument("--seed", type=int, default=None, help="of the configurations; a fresh one without it")
    parser.add_argument("--number", type=int, default=200, help="of configurations for each dtype")
    parser.add_argument("--seconds", type=float, default=1.0, help="of the peer's time forward, at most, about")
    options = parser.parse_args()
    peer = measure.peer()
    if peer is None:
        sys.exit(1)
    warnings.simplefilter("ignore")  # values that overflow
    seed = int(np.random.SeedSequence().entropy % 2**32) if options.seed is None else options.seed
    number, seconds = (6, 0.02) if options.quick else (options.number, options.seconds)
    count, most = (3, 0.1) if options.quick else (9, 4.0 * seconds)
    start = time.perf_counter()
    results = {
        dtype.__name__: measured([seed, k], number, peer, seconds, dtype, count, most)
        for k, dtype in enumerate((np.float64, np.float32))
    }
    header = ["ratios", "median", "tenth percentile", "least", "geometric mean", "below 1"]
    lines = [
        "# Random configurations",
        "",
        *measure.machine_facts(peer),
        "",
        f"{number} random configurations for each dtype, seed {seed}: up to {MOST['pairs']} pairs of 2 to "
        f"{MOST['points']} points in 1 to {MOST['channels']} channels, depth 1 to {MOST['depth']}, any of the static "
        f"kernels {', '.join(KERNELS)}, and no more pairs than take pysiglib about {seconds:g} s forward. Ratios are "
        "pysiglib's time over ours, medians of CPU time in turns within one process, one thread each. Paths are "
        "Brownian, with end points about 0.8 from their start.",
        "",
        *measure.table(header, [row for name, found in results.items() for row in summary(name, found)]),
    ]
    for name, found in results.items():
        header = ["(pairs, points, channels, depth), static kernel", "forward, ms", "ratio", "backward, ms", "ratio"]
        lines += ["", f"The least ratios in {name}:", "", *measure.table(header, slowest(found, 15))]
    print(f"took {time.perf_counter() - start:.0f} s")
    measure.report("random_configurations.md", lines, write=options.write and not options.quick)
    if options.write and not options.quick:
        draw(results)


if __name__ == "__main__":
    main()
