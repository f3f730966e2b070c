"""What the trapezoid rule, the left-point rule and lead-lag see of the roughness of paths, as power of a test.

    python benchmarks/ito.py [--quick]

Prints and writes `results/ito.md`, and draws `ito_paths.svg` and `ito_power.svg` into `docs/_static`. Takes about three
minutes on one core; with --quick it prints only, from few repetitions. Needs matplotlib.
"""

import sys
import time

import matplotlib
import measure
import numpy as np
from matplotlib.figure import Figure

import branchsig

matplotlib.rcParams["svg.hashsalt"] = "branchsig"  # the same picture has the same bytes
PICTURES = measure.RESULTS.parent.parent / "docs" / "_static"
STEPS = 32
TIMES = np.arange(1, STEPS + 1) / STEPS
SIZES = (5, 10, 20, 40, 80)
OPTIONS = {"depth": 2, "time_aug": True, "normalize": True}
RULES = {
    "trapezoid": {},
    "left point": {"quadrature": "left"},
    "trapezoid, lead-lag": {"lead_lag": True},
}


def fractional(rng, number, hurst):
    """Fractional Brownian motions with variance 1 at time 1, exact at all points, from 0."""
    s, t = TIMES[:, np.newaxis], TIMES
    covariance = (s ** (2 * hurst) + t ** (2 * hurst) - np.abs(s - t) ** (2 * hurst)) / 2
    values = rng.standard_normal((number, STEPS)) @ np.linalg.cholesky(covariance).T
    return np.concatenate([np.zeros((number, 1)), values], axis=1)[:, :, np.newaxis]


def rough_volatility(rng, number, hurst=0.1, roughness=2.5):
    """Itô integrals of a rough volatility, exp(roughness · fractional motion) of mean 1. Their variance at 1 is 1."""
    past = fractional(rng, number, hurst)[:, :-1, 0]
    times = np.concatenate([[0.0], TIMES[:-1]])
    variance = np.exp(roughness * past - roughness**2 / 2 * times ** (2 * hurst))
    steps = np.sqrt(variance / STEPS) * rng.standard_normal((number, STEPS))
    return np.concatenate([np.zeros((number, 1)), steps.cumsum(axis=1)], axis=1)[:, :, np.newaxis]


LAWS = {
    "fractional, H = 0.1": lambda rng, number: fractional(rng, number, 0.1),
    "fractional, H = 0.3": lambda rng, number: fractional(rng, number, 0.3),
    "fractional, H = 0.4": lambda rng, number: fractional(rng, number, 0.4),
    "fractional, H = 0.7": lambda rng, number: fractional(rng, number, 0.7),
    "rough volatility": rough_volatility,
    "Brownian (no difference)": lambda rng, number: fractional(rng, number, 0.5),
}


def power(law, options, size, repetitions):
    """Share of tests at 5 % that tell paths of the law from as many Brownian paths."""
    rng = np.random.default_rng(size)
    found = 0
    for _ in range(repetitions):
        brownian, other = (0.7 * make(rng, size) for make in (LAWS["Brownian (no difference)"], law))
        test = branchsig.branched_sig_mmd_test(brownian, other, **OPTIONS, **options, permutations=199, seed=0)
        found += test.p_value <= 0.05
    return found / repetitions


def draw_paths():
    """Two paths of each of four laws."""
    rng = np.random.default_rng(1)
    laws = {"Brownian": LAWS["Brownian (no difference)"]}
    laws |= {name: LAWS[name] for name in ("fractional, H = 0.1", "fractional, H = 0.7", "rough volatility")}
    figure = Figure(figsize=(8.4, 2.4), layout="constrained")
    for axes, (name, law) in zip(figure.subplots(1, 4, sharey=True), laws.items(), strict=True):
        for path in law(rng, 2):
            axes.plot(np.linspace(0, 1, STEPS + 1), path[:, 0], linewidth=1)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("time", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("value", fontsize=9)
    figure.savefig(PICTURES / "ito_paths.svg", metadata={"Date": None})


def draw_power(powers):
    """Power against sample size, a panel for each law."""
    figure = Figure(figsize=(8.4, 4.8), layout="constrained")
    for axes, name in zip(figure.subplots(2, 3, sharex=True, sharey=True).flat, LAWS, strict=True):
        for rule, style in zip(RULES, ("o-", "s-", "^--"), strict=True):
            axes.plot(SIZES, [powers[name, rule, size] for size in SIZES], style, label=rule, markersize=4)
        axes.axhline(0.05, color="gray", linewidth=0.8)
        axes.set(xscale="log", ylim=(-0.03, 1.05), xticks=SIZES, xticklabels=SIZES)
        axes.minorticks_off()
        axes.set_title(name, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("paths in each sample", fontsize=9)
    figure.supylabel("power at 5 %", fontsize=9)
    figure.axes[5].legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(PICTURES / "ito_power.svg", metadata={"Date": None})


HEAD = """# Itô or Stratonovich: power of a two-sample test

{machine}

Written by `python benchmarks/ito.py`. Share of {repetitions} tests at 5 % that told samples of the law from as many
Brownian paths. All paths have {steps} steps, one channel, start at 0 and have variance 1 at time 1. They are scaled by
0.7 and get time as a channel. Kernels of depth 2 with unit norms, 199 permutations. Quadratic variations are means of
1000 paths.
"""


def main():
    """Run all tests."""
    quick = measure.arguments(__doc__.partition("\n")[0]).parse_args().quick
    repetitions = 4 if quick else 30
    powers, rows = {}, []
    for name, law in LAWS.items():
        begun = time.perf_counter()
        paths = law(np.random.default_rng(0), 1000)
        variation = np.mean(np.sum(np.diff(paths[..., 0]) ** 2, axis=1))
        for rule, options in RULES.items():
            for size in SIZES:
                powers[name, rule, size] = power(law, options, size, repetitions)
            cells = [f"{powers[name, rule, size]:.2f}" for size in SIZES]
            rows.append([name, f"{variation:.2f}", rule, *cells])
        print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    if not quick:
        draw_paths()
        draw_power(powers)
    lines = HEAD.format(machine="\n".join(measure.own_facts()), repetitions=repetitions, steps=STEPS).split("\n")
    header = ["law", "quadratic variation", "rule", *(f"{size} + {size}" for size in SIZES)]
    lines += ["<!-- begin power -->", "", *measure.table(header, rows), "", "<!-- end power -->"]
    measure.report("ito.md", lines, write=not quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
