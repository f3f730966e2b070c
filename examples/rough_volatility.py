"""Two-sample test: rough volatility against Brownian motion.

Both kinds of paths have uncorrelated, centred steps and the same variance at every
time. But the volatility of one kind is rough: calm and wild stretches follow one
another on all scales. A permutation test on the maximum mean discrepancy tells them
apart once the kernel sees squared steps. Lead-lag, which puts every path beside its own
past, shows them. See also the page "Itô or Stratonovich?".
"""

import sys

import numpy as np

import branchsig


def brownian(rng, number, steps):
    """Brownian motions on [0, 1], shape (number, steps + 1, 1)."""
    walks = (rng.standard_normal((number, steps)) / np.sqrt(steps)).cumsum(axis=1)
    return np.concatenate([np.zeros((number, 1)), walks], axis=1)[:, :, np.newaxis]


def rough_volatility(rng, number, steps, hurst=0.1, size=2.5):
    """Integrals of a volatility exp(size · fractional Brownian motion), of mean 1."""
    times = np.arange(1, steps) / steps
    s, t = times[:, np.newaxis], times
    covariance = (
        s ** (2 * hurst) + t ** (2 * hurst) - np.abs(s - t) ** (2 * hurst)
    ) / 2
    fractional = (
        rng.standard_normal((number, steps - 1)) @ np.linalg.cholesky(covariance).T
    )
    variance = np.exp(size * fractional - size**2 / 2 * times ** (2 * hurst))
    variance = np.concatenate([np.ones((number, 1)), variance], axis=1)
    walks = (np.sqrt(variance / steps) * rng.standard_normal((number, steps))).cumsum(
        axis=1
    )
    return np.concatenate([np.zeros((number, 1)), walks], axis=1)[:, :, np.newaxis]


def main(number=60, steps=40, permutations=500, picture=None):
    """Print and return the p-values without and with lead-lag."""
    rng = np.random.default_rng(0)
    first, second = (
        0.7 * brownian(rng, number, steps),
        0.7 * rough_volatility(rng, number, steps),
    )
    p_values = []
    for lead_lag in (False, True):
        test = branchsig.branched_sig_mmd_test(
            first,
            second,
            depth=2,
            time_aug=True,
            lead_lag=lead_lag,
            normalize=True,
            permutations=permutations,
            seed=0,
        )
        p_values.append(test.p_value)
        print(f"{'with' if lead_lag else 'without'} lead-lag: p = {test.p_value:.3f}")
    if picture:
        draw(first, second, picture)
    return p_values


def draw(first, second, picture):
    """Four paths of each sample."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    for axes, name, paths in zip(
        figure.subplots(1, 2, sharey=True),
        ("Brownian", "rough volatility"),
        (first, second),
    ):
        axes.plot(np.linspace(0, 1, paths.shape[1]), paths[:4, :, 0].T, linewidth=1)
        axes.set(title=name, xlabel="time")
    figure.axes[0].set_ylabel("value")
    figure.savefig(picture)


if __name__ == "__main__":
    main(picture=sys.argv[1] if len(sys.argv) > 1 else None)
