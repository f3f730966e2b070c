"""Error against time beside pysiglib, and what the options that make values accurate or finite cost.

    python benchmarks/numerics.py [--quick] [--runs N]

Prints and writes `results/numerics.md`, from which `docs/figures.py` draws the errors against the times.
"""

import math
import sys
import warnings

import measure
import numpy as np
from compare import backward, ceiling, forward, goal, milliseconds

import branchsig
from branchsig.cli import demo

SHAPE = (64, 50, 3)
DEPTH = 4
TOLERANCE = 4e-7
LARGEST_DYADIC_ORDER = 6
LOBATTO_ORDERS = range(2, 9)


def errors_and_times(chosen, peer):
    """Lines of the table of rules, and the line of the ratio at equal error."""
    rng = np.random.default_rng(0)
    x, y = (measure.brownian(rng, *SHAPE) for _ in range(2))
    exact, finer = (forward(x, y, DEPTH, k, quadrature="lobatto8")(branchsig)() for k in (1, 2))
    if np.abs(exact / finer - 1).max() > 1e-12:
        raise RuntimeError("the values that errors are taken against have not converged")
    rules = {
        f"trapezoid, dyadic order {k}": (4**k, forward(x, y, DEPTH, k))
        for k in range(4 if chosen.quick else LARGEST_DYADIC_ORDER + 1)
    }
    calls = {(rule, "branchsig"): call(branchsig) for rule, (_, call) in rules.items()}
    if peer:
        calls |= {(rule, "pysiglib"): call(peer) for rule, (_, call) in rules.items()}
    for p in LOBATTO_ORDERS:
        rule = f"Gauss-Lobatto, p = {p}"
        rules[rule] = p**2, None
        calls[rule, "branchsig"] = forward(x, y, DEPTH, 0, quadrature=f"lobatto{p}")(branchsig)
    errors = {key: np.abs(call() / exact - 1).max() for key, call in calls.items()}
    seconds = measure.interleaved(calls, chosen.runs)
    lines = [
        [rule, str(nodes)]
        + [
            text
            for library in ("branchsig", "pysiglib")
            for text in (
                (f"{errors[rule, library]:.1e}", milliseconds(seconds[rule, library]))
                if (rule, library) in calls
                else ("", "")
            )
        ]
        for rule, (nodes, _) in rules.items()
    ]
    best = {}
    for key in calls:
        if errors[key] <= TOLERANCE and (key[1] not in best or seconds[key].median < seconds[best[key[1]]].median):
            best[key[1]] = key
    if len(best) < 2:
        return lines, []
    ours, theirs = best["branchsig"], best["pysiglib"]
    value, low, high = measure.ratio(seconds[theirs], seconds[ours])
    how = f"to {TOLERANCE:g}: pysiglib, {theirs[0]}, over branchsig, {ours[0]}"
    return lines, [how, f"{value:.0f}", f"{low:.0f}-{high:.0f}", goal(value, 2000.0)]


def cost(chosen, name, call, base, most, share=1.0):
    """A line: the time of a call over `share` of that of another one."""
    seconds = measure.interleaved({"call": call, "base": base}, chosen.runs)
    value, low, high = (number / share for number in measure.ratio(seconds["call"], seconds["base"]))
    times = milliseconds(seconds["call"]), milliseconds(seconds["base"])
    aim = "" if most is None else ceiling(value, most, "times")
    line = [name, *times, f"{value:.2f}", f"{low:.2f}-{high:.2f}", aim]
    print(" | ".join(line), flush=True)
    return line


def dilations(chosen):
    rng = np.random.default_rng(1)
    kernels = {"linear": None, "RBF": ("RBFKernel", (1.0,))}

    def line(name, x, most, plain=None, depth=DEPTH, **options):
        call = forward(x, None, depth, 0, gram=True, normalize="dilation", **options)(branchsig)
        base = forward(x if plain is None else plain, None, depth, 0, gram=True, **options)(branchsig)
        return cost(chosen, f"dilation over none, Gram of {name}, depth {depth}", call, base, most)

    sizes = ((64, 1.5),) if chosen.quick else ((64, 1.5), (512, 1.1), (1024, 1.1))
    for size, most in sizes:
        x = measure.brownian(rng, size, 64, 4)
        for name, kernel in kernels.items():
            if size < 1024 or kernel is None:
                yield line(f"{size} x (64, 4), {name}", x, most, kernel=kernel)
        if size == 64:
            yield line(f"{size} x (64, 4), linear, two threads", x, most, n_jobs=2)
    train, _, _, _ = demo.motions()
    x = (train - train.mean(axis=(0, 1))) / train.std(axis=(0, 1))
    for depth in (2, 4):
        scaled = branchsig.dilation(x, depth)[:, None, None] * x
        yield line(f"{len(x)} recorded motions {x.shape[1:]}", x, None, scaled, depth)


def rules_and_truncations(chosen):
    rng = np.random.default_rng(2)
    x, y = (measure.brownian(rng, *SHAPE) for _ in range(2))
    cases = [
        ("Gauss-Lobatto, p = 2, over trapezoid", DEPTH, DEPTH, {"quadrature": "lobatto2"}, 6.0),
        ("Gauss-Lobatto, p = 3, over trapezoid", DEPTH, DEPTH, {"quadrature": "lobatto3"}, 14.0),
        ("order 6 over depth 6", math.inf, 6, {"order": 6}, 3.0),
        ("depth inf over depth 8", math.inf, 8, {}, 1.0),
    ]
    for name, depth, base_depth, options, most in cases:
        for way, make in (("forward", forward), ("backward", backward)):
            call, base = make(x, y, depth, 0, **options)(branchsig), make(x, y, base_depth, 0)(branchsig)
            yield cost(chosen, f"{name}, {SHAPE}, {way}", call, base, most)


def ragged(chosen):
    rng = np.random.default_rng(3)
    for name, size, gram in (("64 pairs", 64, False), ("512 pairs", 512, False), ("Gram of 64 + 64", 64, True)):
        x, y = (measure.brownian(rng, size, 200, 3) for _ in range(2))
        lengths1, lengths2 = (rng.integers(20, 201, size=size) for _ in range(2))
        products = np.outer(lengths1, lengths2) if gram else lengths1 * lengths2
        for way, make in (("forward", forward), ("backward", backward)):
            call = make(x, y, DEPTH, 0, gram=gram, lengths1=lengths1, lengths2=lengths2)(branchsig)
            full = make(x, y, DEPTH, 0, gram=gram)(branchsig)
            name_of_row = f"lengths from 20 to 200 over their share of (200, 3), depth 4, {name}, {way}"
            yield cost(chosen, name_of_row, call, full, 1.5, share=products.mean() / 200**2)


def main():
    parser = measure.arguments(__doc__)
    parser.add_argument("--runs", type=int, default=None, help="runs per row")
    chosen = parser.parse_args()
    chosen.runs = chosen.runs or (3 if chosen.quick else 11)
    warnings.simplefilter("ignore")
    peer = measure.peer()
    table_of_rules, at_equal_error = errors_and_times(chosen, peer)
    print("\n".join(" | ".join(line) for line in table_of_rules), flush=True)
    costs = [*rules_and_truncations(chosen), *ragged(chosen), *dilations(chosen)]
    lines = [
        "# Accuracy, and what it costs",
        "",
        *measure.machine_facts(peer),
        "",
        f"Medians of up to {chosen.runs} runs in turns in one process, one thread, float64; quartiles in brackets.",
        "Written by `python benchmarks/numerics.py`.",
        "",
        "## Error against time",
        "",
        f"{SHAPE[0]} pairs of Brownian paths {SHAPE[1:]} (NumPy's default generator, seed 0), depth {DEPTH}, linear",
        "static kernel. Errors are relative, the largest over the pairs, against Gauss-Lobatto of p = 8 at dyadic",
        "order 1, whose values dyadic order 2 confirms to 1e-12. Gauss-Lobatto stands at dyadic order 0.",
        "",
        *measure.table(
            ["rule", "nodes per cell", "error", "branchsig, ms", "error", "pysiglib, ms"],
            table_of_rules,
        ),
    ]
    if at_equal_error:
        lines += ["", *measure.table(["time", "ratio", "quartiles", "goal"], [at_equal_error])]
    lines += [
        "",
        "## Costs",
        "",
        "A row compares two calls of branchsig; backward means both sides. Gram matrices are symmetric where one",
        "number of paths is given; paths are Brownian, as above. The share of a ragged batch is the sum of length1 *",
        "length2 over that of full lengths. For recorded motions, whose kernels overflow, the other call is given the",
        "scaled paths, so that the row shows what the search for the factors costs.",
        "",
        *measure.table(["what over what", "ms", "over, ms", "ratio", "quartiles", "goal"], costs),
    ]
    measure.report("numerics.md", lines, write=not chosen.quick)


if __name__ == "__main__":
    sys.exit(main())
