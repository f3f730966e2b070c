"""Sample the parameters of a model of paths that has no likelihood, in PyMC.

The data are paths with a drift, dX = m dt + s dW. We pretend that the likelihood is
unknown, as it is for most simulators. The model makes paths from fixed noise, and the
squared maximum mean discrepancy between these and the data takes the place of the
likelihood. NUTS differentiates it through the simulator and the kernels.
"""

import numpy as np
import pymc as pm

import branchsig


def paths(m, s, noise):
    """Paths of dX = m dt + s dW from 0 on [0, 1], for numbers or variables m and s."""
    walk = (
        np.concatenate([np.zeros_like(noise[:, :1]), noise.cumsum(axis=1)], axis=1)
        / noise.shape[1] ** 0.5
    )
    time = np.linspace(0.0, 1.0, walk.shape[1])
    return (m * time + s * walk)[:, :, None]


def main(number=60, length=8, draws=200, weight=200.0, progress=True):
    """Print the posterior means and deviations. Return the means and the truth."""
    rng = np.random.default_rng(0)
    truth = {"m": 0.8, "s": 0.4}
    data = paths(truth["m"], truth["s"], rng.standard_normal((number, length)))
    noise = rng.standard_normal((number, length))
    with pm.Model():
        m, s = pm.Normal("m", 0.0, 1.0), pm.HalfNormal("s", 1.0)
        options = {
            "static_kernel": branchsig.RBFKernel(1.0),
            "time_aug": True,
            "normalize": True,
        }
        distance = branchsig.branched_sig_mmd(
            paths(m, s, noise), data, depth=2, **options
        )
        pm.Potential("fit", -weight * distance)
        trace = pm.sample(
            draws, tune=draws, chains=1, cores=1, random_seed=0, progressbar=progress
        )
    means = {}
    for name, its in truth.items():
        samples = trace.posterior[name].values
        means[name] = float(samples.mean())
        print(f"{name}: {means[name]:.2f} ± {samples.std():.2f}, {its:.2f} in the data")
    return means, truth


if __name__ == "__main__":
    main()
