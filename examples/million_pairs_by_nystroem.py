"""A million pairs by Nyström features: regression on 2000 paths.

A Gram matrix of 2000 training paths with 500 new ones takes a million kernels, and one
of the training paths two million more. Nyström features need only the kernels with 50
landmarks, a twentieth of these. The target is the area that a path in the plane
encloses with its chord. Needs scikit-learn.
"""

import sys
import time

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline

import branchsig
from branchsig.frameworks.sklearn import BranchedSigNystroem


def smooth_paths(rng, number, length=30):
    """Random trigonometric paths in the plane, starting at the origin."""
    times = np.linspace(0, 1, length)
    waves = np.stack(
        [f(np.pi * k * times) for k in (1, 2, 3) for f in (np.sin, np.cos)]
    )
    paths = np.einsum(
        "ndk,kt->ntd", rng.standard_normal((number, 2, len(waves))) / 6, waves
    )
    return paths - paths[:, :1]


def signed_area(paths):
    """Half of ∫ x dy − y dx."""
    x, y = paths[..., 0], paths[..., 1]
    return ((x[:, :-1] * np.diff(y)) - (y[:, :-1] * np.diff(x))).sum(axis=1) / 2


def main(number=2000, new=500, counts=(5, 10, 20, 50), picture=None):
    """Print and return the shares of explained variance by the number of landmarks."""
    rng = np.random.default_rng(0)
    train, test = smooth_paths(rng, number), smooth_paths(rng, new)
    target, truth = signed_area(train), signed_area(test)
    begun = time.perf_counter()
    branchsig.branched_sig_kernel_gram(test, train, depth=2, normalize=True)
    print(
        f"all {number * new} kernels of new and training paths: "
        f"{time.perf_counter() - begun:.1f} s"
    )
    explained = []
    for count in counts:
        begun = time.perf_counter()
        features = BranchedSigNystroem(
            2, n_components=count, normalize=True, random_state=0
        )
        model = make_pipeline(features, RidgeCV(np.logspace(-8, 0, 9))).fit(
            train, target
        )
        explained.append(model.score(test, truth))
        print(
            f"{count} landmarks: {explained[-1]:.3f} of the variance explained, "
            f"{time.perf_counter() - begun:.1f} s for training and prediction"
        )
    if picture:
        draw(counts, explained, picture)
    return explained


def draw(counts, explained, picture):
    """The unexplained share by the number of landmarks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.4), layout="constrained")
    axes = figure.add_subplot(
        xlabel="landmarks", ylabel="share of the variance not explained", yscale="log"
    )
    axes.plot(counts, 1 - np.array(explained), "o-")
    figure.savefig(picture)


if __name__ == "__main__":
    main(picture=sys.argv[1] if len(sys.argv) > 1 else None)
