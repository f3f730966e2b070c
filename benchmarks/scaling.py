"""Time against length, depth, batch and dimension, and peak memory against length: nothing but the work may grow.

    python benchmarks/scaling.py [--quick]

Prints and writes `results/scaling.md`, and draws `docs/_static/scaling.svg` where matplotlib is installed.
"""

import json
import warnings
from pathlib import Path

import measure
import numpy as np

import branchsig

PICTURE = Path(__file__).parent.parent / "docs" / "_static" / "scaling.svg"
BASE = {"length": 128, "depth": 4, "batch": 32, "dimension": 4}
VARIED = {
    "length": (16, 32, 64, 128, 256, 512, 1024, 2048),
    "depth": (1, 2, 3, 4, 5, 6, 8, 10, 12),
    "batch": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "dimension": (1, 2, 4, 8, 16, 32, 64, 128),
}
MEMORY_LENGTHS = (500, 1000, 2000, 5000, 10000, 20000)
MEMORY_LENGTH2 = 200


def calls(length, depth, batch, dimension):
    rng = np.random.default_rng(0)
    x, y = (measure.brownian(rng, batch, length, dimension) for _ in range(2))
    derivs = np.ones(batch)
    return {
        "forward": lambda: branchsig.branched_sig_kernel(x, y, depth),
        "backward": lambda: branchsig.branched_sig_kernel_backprop(derivs, x, y, depth, right_deriv=True),
    }


def times(runs, quick):
    """{varied: [(value, forward seconds, backward seconds)]}, one thread."""
    found = {}
    for varied, values in VARIED.items():
        found[varied] = []
        for value in values[:4] if quick else values:
            seconds = measure.interleaved(calls(**(BASE | {varied: value})), runs)
            found[varied].append((value, seconds["forward"].median, seconds["backward"].median))
            print(varied, *(f"{number:.4g}" for number in found[varied][-1]), flush=True)
    return found


def memory_of(way, length):
    """Peak bytes above the inputs, to be run in a process of its own."""
    rng = np.random.default_rng(0)
    x, y = measure.brownian(rng, 4, length, 4), measure.brownian(rng, 4, MEMORY_LENGTH2, 4)
    derivs = np.ones(4)

    def call(x, y):
        if way == "forward":
            return branchsig.branched_sig_kernel(x, y, 4)
        return branchsig.branched_sig_kernel_backprop(derivs, x, y, 4, right_deriv=True)

    return measure.peak_above_inputs(lambda: call(x, y), lambda: call(x[:, :5].copy(), y[:, :5].copy()))


def memory(quick):
    found = []
    for length in MEMORY_LENGTHS[:2] if quick else MEMORY_LENGTHS:
        peaks = [measure.in_child("scaling.py", "--memory", way, length) for way in ("forward", "backward")]
        found.append((length, *(np.nan if peak is None else peak for peak in peaks)))
        print("memory", *found[-1], flush=True)
    return found


def draw(seconds, peaks):
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no picture")
        return
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "branchsig"
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(seconds) + 1, figsize=(16, 3.4), layout="constrained")
    for panel, (varied, found) in zip(panels, seconds.items(), strict=False):
        values, forward, backward = np.array(found).T
        panel.loglog(values, forward * 1e3, "o-", label="forward")
        panel.loglog(values, backward * 1e3, "s-", label="backward, both sides")
        power = 2 if varied == "length" else 1
        guide = forward[-1] * 1e3 * (values / values[-1]) ** power
        panel.loglog(values, guide, "k:", label="quadratic" if power == 2 else "linear")
        panel.set(xlabel=varied, ylabel="ms")
        panel.legend(frameon=False, fontsize=8)
    lengths, forward, backward = np.array(peaks).T
    panels[-1].semilogx(lengths, forward / 1e6, "o-", label="forward")
    panels[-1].semilogx(lengths, backward / 1e6, "s-", label="backward, both sides")
    panels[-1].set(xlabel="length of the first path", ylabel="MB above the inputs", ylim=(0, None))
    panels[-1].legend(frameon=False, fontsize=8)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})
    print(f"wrote {PICTURE}")


def main():
    parser = measure.arguments(__doc__)
    parser.add_argument("--memory", nargs=2, help=measure.argparse.SUPPRESS)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    if chosen.memory:
        print(json.dumps(memory_of(chosen.memory[0], int(chosen.memory[1]))))
        return
    seconds = times(3 if chosen.quick else 7, chosen.quick)
    peaks = memory(chosen.quick)
    base = ", ".join(f"{name} {value}" for name, value in BASE.items())
    lines = ["# Scaling of the CPU core", "", *measure.machine_facts(None)[:4], ""]
    lines += [f"One thread, float64, linear static kernel. Where nothing else is said: {base}. Medians.", ""]
    timed = [
        [varied, str(value), f"{forward * 1e3:.3f}", f"{backward * 1e3:.3f}"]
        for varied, found in seconds.items()
        for value, forward, backward in found
    ]
    lines += measure.table(["varied", "value", "forward, ms", "backward, ms"], timed)
    rows = [[str(length), f"{forward / 1e6:.2f}", f"{backward / 1e6:.2f}"] for length, forward, backward in peaks]
    inputs = f"4 pairs of (length, 4) and ({MEMORY_LENGTH2}, 4), depth 4"
    lines += ["", f"Peak memory above the inputs, {inputs}; the gradients themselves are part of it:", ""]
    lines += measure.table(["length", "forward, MB", "backward, MB"], rows)
    measure.report("scaling.md", lines, write=not chosen.quick)
    if not chosen.quick:
        draw(seconds, peaks)


if __name__ == "__main__":
    main()
