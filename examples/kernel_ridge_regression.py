"""Kernel ridge regression of a functional of paths by NumPy alone.

The target is the area that a path in the plane encloses with its chord. It is not a
linear function of the points.
"""

import numpy as np

import branchsig


def smooth_paths(rng, number, length):
    """Random trigonometric paths in the plane, starting at the origin."""
    time = np.linspace(0, 1, length)
    waves = np.stack([f(np.pi * k * time) for k in (1, 2, 3) for f in (np.sin, np.cos)])
    paths = np.einsum(
        "ndk,kt->ntd", rng.standard_normal((number, 2, len(waves))) / 6, waves
    )
    return paths - paths[:, :1]


def signed_area(paths):
    """Signed area between each path and its chord: half of ∫ x dy − y dx."""
    x, y = paths[..., 0], paths[..., 1]
    return ((x[:, :-1] * np.diff(y)) - (y[:, :-1] * np.diff(x))).sum(axis=1) / 2


def main(number=80, length=40, ridge=1e-6):
    """Print and return the share of the variance explained on new paths."""
    rng = np.random.default_rng(0)
    train, test = smooth_paths(rng, number, length), smooth_paths(rng, number, length)
    target, truth = signed_area(train), signed_area(test)

    gram = branchsig.branched_sig_kernel_gram(train, None, depth=2, normalize=True)
    cross = branchsig.branched_sig_kernel_gram(test, train, depth=2, normalize=True)
    coefficients = np.linalg.solve(
        gram + ridge * np.eye(number), target - target.mean()
    )
    prediction = target.mean() + cross @ coefficients

    explained = 1 - np.mean((prediction - truth) ** 2) / np.var(truth)
    print(f"variance of the area explained on {number} new paths: {explained:.3f}")
    return explained


if __name__ == "__main__":
    main()
