"""Score forecasts of paths: the honest forecast wins.

A forecast is a sample of paths, and one path comes true. The score of a forecast is the
mean of k(X, X') − 2 k(X, y), where X and X' are two of its paths and y is the path that
came true. It is *proper*: on average over what comes true, no forecast scores lower
than the true law. Here the true paths are walks whose steps have the correlation 0.5.
Forecasts assume another correlation, or another size of the steps. The mean score is
smallest at the truth in both directions.
"""

import sys

import numpy as np

import branchsig


def walks(rng, number, correlation, size=1.0, length=30):
    """Walks in the plane whose neighbouring steps are correlated, from the origin."""
    steps = rng.standard_normal((number, length, 2))
    for k in range(1, length):
        steps[:, k] = (
            correlation * steps[:, k - 1] + np.sqrt(1 - correlation**2) * steps[:, k]
        )
    return size * steps.cumsum(axis=1) / length


def main(
    number=200,
    correlations=(0.1, 0.3, 0.5, 0.7, 0.9),
    sizes=(0.6, 0.8, 1.0, 1.25, 1.6),
    picture=None,
):
    """Print the mean scores, and return the best correlation and the best size."""
    rng = np.random.default_rng(0)
    truth = walks(rng, number, 0.5)
    options = {"depth": 2, "static_kernel": branchsig.RBFKernel(1.0), "time_aug": True}

    def score(correlation, size):
        # One seed for all forecasts: their scores then differ by the law alone.
        forecast = walks(np.random.default_rng(1), number, correlation, size)
        return float(branchsig.expected_branched_sig_score(forecast, truth, **options))

    by_correlation = [score(correlation, 1.0) for correlation in correlations]
    by_size = [score(0.5, size) for size in sizes]
    best = correlations[int(np.argmin(by_correlation))], sizes[int(np.argmin(by_size))]
    for name, values, scores in (
        ("correlation", correlations, by_correlation),
        ("size", sizes, by_size),
    ):
        print(
            f"scores by {name}: "
            + ", ".join(f"{value:g}: {s:.3f}" for value, s in zip(values, scores))
        )
    print(f"best correlation {best[0]}, best size {best[1]}; the truth is 0.5 and 1.0")
    if picture:
        draw((correlations, by_correlation), (sizes, by_size), picture)
    return best


def draw(by_correlation, by_size, picture):
    """Mean scores against both parameters."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.0), layout="constrained")
    for axes, name, (values, scores), truth in zip(
        figure.subplots(1, 2),
        ("correlation of steps", "size of steps"),
        (by_correlation, by_size),
        (0.5, 1.0),
    ):
        axes.plot(values, scores, "o-")
        axes.axvline(truth, color="black", linestyle="--", linewidth=0.8)
        axes.set(xlabel=f"{name} in the forecast", ylabel="mean score")
    figure.savefig(picture)


if __name__ == "__main__":
    main(picture=sys.argv[1] if len(sys.argv) > 1 else None)
