"""The kernel without a bound on the depth, and where it becomes infinite.

`depth` says how deeply the integrals in a kernel are nested. With `depth=math.inf`
there is no bound, and the kernel of large paths is infinite. Here each of the two paths
is one straight segment, and c is the inner product of the segments. Then the exact
kernel is (1 − c/2)⁻². It is infinite from c = 2 on, while the kernel of every finite
depth is finite.

The kernel is computed by a rule for integrals, and rules of low order give infinity too
early. The default, the trapezoid rule, does so beyond about c = 0.8. Splitting the
segments by `dyadic_order` helps, and a Gauss–Lobatto rule of high order comes close to
c = 2.
"""

import sys
import warnings

import numpy as np

import branchsig

RULES = {
    "trapezoid": {},
    "trapezoid, dyadic order 3": {"dyadic_order": 3},
    "lobatto8": {"quadrature": "lobatto8"},
}


def main(points=60, picture=None):
    """Print and return the largest c at which each rule has a finite value."""
    c = np.linspace(0.0, 2.2, points)
    segment = np.array([[0.0], [1.0]])
    first, second = (
        np.broadcast_to(segment, (points, 2, 1)),
        segment * c[:, np.newaxis, np.newaxis],
    )
    values = {}
    for name, options in RULES.items():
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", RuntimeWarning
            )  # says how many values are infinite
            values[name] = branchsig.branched_sig_kernel(
                first, second, np.inf, **options
            )
    last = {name: float(c[np.isfinite(value)].max()) for name, value in values.items()}
    for name, value in values.items():
        near = np.abs(c - 0.5).argmin()
        error = abs(value[near] * (1 - c[near] / 2) ** 2 - 1)
        print(
            f"{name}: relative error {error:.1e} at c = {c[near]:.2f}, "
            f"finite up to c = {last[name]:.2f}"
        )
    if picture:
        draw(c, values, picture)
    return last


def draw(c, values, picture):
    """Values by rule, and the closed form."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot(
        xlabel="c, the inner product of two segments",
        ylabel="kernel",
        yscale="log",
        ylim=(1, 1e4),
    )
    below = c[c < 2]
    axes.plot(
        below, (1 - below / 2) ** -2, color="black", linewidth=0.8, label="(1 − c/2)⁻²"
    )
    for (name, value), style in zip(values.items(), ("o", "s", "x")):
        finite = np.isfinite(value)
        axes.plot(c[finite], value[finite], style, markersize=4, label=name)
    axes.axvline(2.0, color="gray", linestyle="--", linewidth=0.8)
    axes.legend(frameon=False)
    figure.savefig(picture)


if __name__ == "__main__":
    main(picture=sys.argv[1] if len(sys.argv) > 1 else None)
