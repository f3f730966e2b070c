"""Learn a bandwidth by the power of a two-sample test, in JAX.

How well a two-sample test works depends on the bandwidth of the static kernel. The
power of the test on the maximum mean discrepancy grows with the ratio of the
discrepancy and its standard deviation [1]. This ratio is a function of three Gram
matrices, so JAX can differentiate it with respect to the bandwidth. The bandwidth is
learnt on one half of the data, and the test is done on the other.

[1] F. Liu et al., "Learning deep kernels for non-parametric two-sample tests", ICML
2020.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import branchsig

jax.config.update("jax_enable_x64", True)


def walks(rng, number, length, memory):
    """Walks in the plane whose steps are correlated in time, with unit variance."""
    noise = rng.standard_normal((number, length, 2))
    increments = np.empty_like(noise)
    increments[:, 0] = noise[:, 0]
    for step in range(1, length):
        increments[:, step] = (
            memory * increments[:, step - 1] + np.sqrt(1 - memory**2) * noise[:, step]
        )
    return np.cumsum(increments, axis=1) / length**0.5


@jax.jit
def power(log_sigma, x, y):
    """The discrepancy of two samples of one size over its standard deviation."""
    kernel = branchsig.RBFKernel(jnp.exp(log_sigma))

    def gram(a, b):
        return branchsig.branched_sig_kernel_gram(
            a, b, depth=2, static_kernel=kernel, time_aug=True
        )

    across = gram(x, y)
    h = gram(x, None) + gram(y, None) - across - across.T
    h = h - jnp.diag(jnp.diag(h))
    n = len(x)
    discrepancy = h.sum() / (n * (n - 1))
    variance = 4 * (jnp.mean((h.sum(axis=1) / n) ** 2) - jnp.mean(h) ** 2)
    return discrepancy / jnp.sqrt(variance + 1e-8)


def p_value(log_sigma, x, y):
    """That of the test on two samples with a bandwidth."""
    kernel = branchsig.RBFKernel(float(np.exp(log_sigma)))
    return branchsig.branched_sig_mmd_test(
        x, y, depth=2, static_kernel=kernel, time_aug=True, normalize=False, seed=0
    ).p_value


def main(number=60, length=30, steps=60, picture=None):
    """Print and return the p-values on new data before and after the learning."""
    rng = np.random.default_rng(0)
    x, y, new_x, new_y = (
        jnp.asarray(walks(rng, number, length, memory))
        for memory in (0.0, 0.5, 0.0, 0.5)
    )
    start = log_sigma = jnp.log(100.0)
    slope, way = jax.grad(power), [float(start)]
    for step in range(steps):
        log_sigma = log_sigma + 0.2 * 0.97**step * jnp.sign(slope(log_sigma, x, y))
        way.append(float(log_sigma))
    before, after = p_value(start, new_x, new_y), p_value(log_sigma, new_x, new_y)
    print(f"bandwidth {float(jnp.exp(start)):.2f}: p = {before:.3f} on new data")
    print(f"bandwidth {float(jnp.exp(log_sigma)):.2f}: p = {after:.3f} on new data")
    if picture:
        draw(way, x, y, picture)
    return before, after


def draw(way, x, y, picture):
    """The ratio against the bandwidth, and the bandwidths on the way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="bandwidth")
    axes.set_ylabel("discrepancy / deviation")
    grid = np.linspace(min(way) - 1, max(way) + 1, 40)
    axes.plot(np.exp(grid), [float(power(value, x, y)) for value in grid])
    steps = way[::4]
    reached = [float(power(value, x, y)) for value in steps]
    axes.plot(np.exp(steps), reached, "o", markersize=4, label="every fourth step")
    axes.annotate(
        "start", (np.exp(steps[0]), reached[0]), (0, 8), textcoords="offset points"
    )
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture)


if __name__ == "__main__":
    main(picture=sys.argv[1] if len(sys.argv) > 1 else None)
