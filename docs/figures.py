"""Draws the pictures of the user guide into ``docs/_static``. Run as ``python docs/figures.py``; needs matplotlib."""

import math
import warnings
from importlib import resources
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import branchsig

matplotlib.rcParams["svg.hashsalt"] = "branchsig"  # the same picture has the same bytes
FOLDER = Path(__file__).parent / "_static"
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
SIZE = (5.6, 3.4)


def save(figure, name):
    figure.savefig(FOLDER / name, metadata={"Date": None})


def axes_of(figure, **labels):
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(**labels)
    return axes


def motions():
    """Recorded motions, and their distances under the kernel: the picture of the first page."""
    with resources.files("branchsig").joinpath("data", "basic_motions.npz").open("rb") as file, np.load(file) as data:
        paths, labels = data["train_paths"], data["train_labels"]
    order = np.argsort(labels, kind="stable")
    paths, labels = paths[order], labels[order]
    names, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    scaled = (paths - paths.mean(axis=(0, 1))) / paths.std(axis=(0, 1))
    gram = branchsig.branched_sig_kernel_gram(scaled, None, 2, time_aug=True, normalize="dilation")
    norms = np.diagonal(gram)
    distances = np.sqrt(np.maximum(norms[:, np.newaxis] - 2 * gram + norms, 0.0))
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    seconds = np.arange(100) / 10
    for axes, name, start in zip(left.subplots(4, sharex=True), names, starts):
        axes.plot(seconds, paths[start, :, :3], linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(name, fontsize=9, loc="left", pad=2)
        axes.tick_params(labelsize=8)
    axes.set_xlabel("seconds", fontsize=9)
    left.supylabel("acceleration, 3 axes", fontsize=9)
    axes = right.add_subplot()
    image = axes.imshow(distances, cmap="viridis_r", interpolation="nearest")
    for start in starts[1:]:
        axes.axhline(start - 0.5, color="white", linewidth=0.8)
        axes.axvline(start - 0.5, color="white", linewidth=0.8)
    centres = starts + counts / 2 - 0.5
    axes.set_xticks(centres, names, fontsize=8)
    axes.set_yticks(centres, names, fontsize=8, rotation=90, va="center")
    axes.tick_params(length=0)
    right.colorbar(image, ax=axes, shrink=0.75, label="kernel distance of two recordings")
    save(figure, "motions.svg")


def accuracy():
    """Error of each rule against the nodes it evaluates in a cell of the paths."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 16, 50, 3)).cumsum(axis=2) * 0.8 / math.sqrt(150)
    exact = branchsig.branched_sig_kernel(x, y, 4, 1, quadrature="lobatto8")

    def error(**options):
        return np.abs(branchsig.branched_sig_kernel(x, y, 4, **options) / exact - 1).max()

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = axes_of(figure, xlabel="nodes per cell", ylabel="largest relative error", xscale="log", yscale="log")
    orders = range(6)
    axes.plot(
        [4.0**k for k in orders], [error(dyadic_order=k) for k in orders], "o-", label="trapezoid, dyadic order 0–5"
    )
    degrees = range(2, 6)
    errors = [error(quadrature=f"lobatto{p}") for p in degrees]
    axes.plot([p**2 for p in degrees], errors, "s-", label="Gauss–Lobatto, p = 2–5")
    axes.legend(frameon=False)
    save(figure, "accuracy.svg")


def error_and_time():
    """Error against time as `benchmarks/numerics.py` measured them, the peer beside us."""
    curves = {}
    for line in (RESULTS / "numerics.md").read_text().partition("## Costs")[0].splitlines():
        rule, *numbers = (cell.strip() for cell in line.strip("|").split("|"))
        if not rule.startswith(("trapezoid", "Gauss")):
            continue
        family = "trapezoid" if rule.startswith("trapezoid") else "Gauss–Lobatto"
        for library, error, time in (("branchsig", *numbers[1:3]), ("pysiglib", *numbers[3:5])):
            if error:
                curves.setdefault(f"{family}, {library}", []).append((float(time.split()[0]), float(error)))
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = axes_of(figure, xlabel="milliseconds", ylabel="largest relative error", xscale="log", yscale="log")
    for (label, points), style in zip(sorted(curves.items()), ("s-", "o-", "^--"), strict=True):
        axes.plot(*zip(*points, strict=True), style, label=label)
    axes.legend(frameon=False)
    save(figure, "error_and_time.svg")


def quadratic_variation():
    """The iterated integral of Brownian motion against itself, as the two rules see it."""
    x = np.random.default_rng(0).standard_normal((150, 400, 1)).cumsum(axis=1) / 20
    x = np.concatenate([np.zeros((150, 1, 1)), x], axis=1)
    end = x[:, -1, 0]
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = axes_of(figure, xlabel="$x_1^2$", ylabel="$|\\int x\\,dx|$", xlim=(0, 4), ylim=(0, 2.2))
    for name, label in (("trapezoid", "trapezoid: $x_1^2/2$"), ("left", "left points: $|x_1^2 - [x]|/2$")):
        parts = branchsig.branched_sig_kernel(x, x, 2, order=2, quadrature=name, return_levels=True)
        integral = np.sqrt(np.maximum(parts[:, 2] - parts[:, 1] ** 2 / 2, 0.0))
        axes.plot(end**2, integral, ".", label=label)
    grid = np.linspace(0, 4, 400)
    axes.plot(grid, grid / 2, color="gray", linewidth=0.8)
    axes.plot(grid, np.abs(grid - 1) / 2, color="gray", linewidth=0.8)
    axes.legend(frameon=False)
    save(figure, "quadratic_variation.svg")


def truncation():
    """Kernels of two segments by depth, and the pole of the one without a bound."""
    segment = np.array([[0.0], [1.0]])
    c = np.linspace(0.0, 1.95, 80)
    x, y = np.broadcast_to(segment, (80, 2, 1)), segment * c[:, None, None]
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = axes_of(figure, xlabel=r"$c = \langle\Delta x, \Delta y\rangle$", ylabel="K", yscale="log", ylim=(1, 500))
    for depth in (1, 2, 3, 5, math.inf):
        values = branchsig.branched_sig_kernel(x, y, depth, 2, quadrature="lobatto8")
        axes.plot(c, values, label="no bound" if depth == math.inf else f"depth {depth}")
    order = branchsig.branched_sig_kernel(x, y, math.inf, order=4, quadrature="lobatto3")
    axes.plot(c, order, "--", color="gray", label="order 4")
    axes.legend(frameon=False)
    save(figure, "truncation.svg")


def dilation():
    """Finite entries of the Gram matrix of recorded motions, by normalisation."""
    with resources.files("branchsig").joinpath("data", "basic_motions.npz").open("rb") as file, np.load(file) as data:
        x = data["train_paths"]
    x = (x - x.mean(axis=(0, 1))) / x.std(axis=(0, 1))
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = axes_of(figure, xlabel="depth", ylabel="finite entries of the Gram matrix", ylim=(-0.02, 1.05))
    depths = range(1, 9)
    for normalize, style in ((True, "o-"), ("dilation", "s-")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            grams = [branchsig.branched_sig_kernel_gram(x, None, depth, normalize=normalize) for depth in depths]
        axes.plot(depths, [np.isfinite(gram).mean() for gram in grams], style, label=f"normalize={normalize!r}")
    axes.legend(frameon=False)
    save(figure, "dilation.svg")


def ragged():
    """Paths of different lengths, each with time over its own points."""
    rng = np.random.default_rng(3)
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = axes_of(figure, xlabel="time, the channel that time_aug adds", ylabel="value")
    paths = [rng.standard_normal((n, 1)).cumsum(axis=0) / math.sqrt(n) for n in (15, 40, 100)]
    for path in paths:
        augmented = branchsig.transform_path(path, time_aug=True)
        axes.plot(augmented[:, 1], augmented[:, 0], ".-", markersize=4, label=f"{len(path)} points")
    axes.legend(frameon=False)
    save(figure, "ragged.svg")


def samples():
    """Power of the test of two samples: walks against walks with a memory."""
    rng = np.random.default_rng(0)

    def walks(memory):
        steps = rng.standard_normal((40, 30, 2))
        for k in range(1, 30):
            steps[:, k] = memory * steps[:, k - 1] + math.sqrt(1 - memory**2) * steps[:, k]
        return steps.cumsum(axis=1) / math.sqrt(30)

    memories = [0.0, 0.2, 0.4, 0.6, 0.8]
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = axes_of(
        figure, xlabel="correlation of neighbouring steps in the second sample", ylabel="p-value", yscale="log"
    )
    for repetition in range(5):
        p_values = [
            branchsig.branched_sig_mmd_test(
                walks(0.0), walks(m), 3, time_aug=True, normalize="dilation", seed=repetition
            ).p_value
            for m in memories
        ]
        axes.plot(memories, p_values, "o-", color="C0", alpha=0.5)
    axes.axhline(0.05, color="gray", linewidth=0.8)
    save(figure, "samples.svg")


def forests():
    """Forests of three nodes of one channel, and of two trees of one node of two channels, of both kinds."""
    node, chain = (), ((),)
    ladder, cherry = (((),),), ((), ())
    three = {
        "unordered": [(node, node, node), (chain, node), (cherry,), (ladder,)],
        "ordered": [(node, node, node), (chain, node), (node, chain), (cherry,), (ladder,)],
    }
    two = {"unordered": ["ab"], "ordered": ["ab", "ba"]}
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    for axes, kind in zip(figure.subplots(2, 1), three):
        axes.set(xlim=(-2.2, 17.2), ylim=(-0.5, 2.6), aspect="equal")
        axes.axis("off")
        axes.text(-2.1, 0.8, kind, fontsize=11, va="center")
        place = 1.2
        for forest in three[kind]:
            for tree in forest:
                place = draw_tree(axes, tree, place, 0.0) + 0.6
            place += 1.0
        axes.axvline(13.0, color="gray", linewidth=0.6)
        place = 14.0
        for word in two[kind]:
            for letter in word:
                axes.plot([place], [0.0], "o", color={"a": "C0", "b": "C1"}[letter], markersize=7)
                place += 0.6
            place += 0.8
    figure.axes[0].text(1.2, 2.45, "three nodes, one channel", fontsize=9)
    figure.axes[0].text(13.3, 2.45, "two trees of one node,\ntwo channels", fontsize=9)
    save(figure, "forests.svg")


def draw_tree(axes, children, left, height):
    """Draw a tree whose leaves start at `left`, its root below; return where its last leaf is."""
    right, tops = left, []
    for k, child in enumerate(children):
        start = left if k == 0 else right + 0.6
        right = draw_tree(axes, child, start, height + 0.9)
        tops.append((start + right) / 2)
    root = (left + right) / 2
    for top in tops:
        axes.plot([root, top], [height, height + 0.9], color="black", linewidth=1.2, zorder=1)
    axes.plot([root], [height], "o", color="C0", markersize=7, zorder=2)
    return right


if __name__ == "__main__":
    for draw in (
        motions,
        accuracy,
        error_and_time,
        quadratic_variation,
        truncation,
        dilation,
        ragged,
        samples,
        forests,
    ):
        draw()
