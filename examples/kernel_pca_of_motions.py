"""Kernel PCA: draw 80 recorded motions as points in the plane.

Kernel PCA finds the directions in which paths differ most, as the kernel sees them. It
needs only the Gram matrix. The labels serve for the colours and for one number: how
often the nearest neighbour in the plane has the same label.
"""

import sys
from importlib import resources

import numpy as np

import branchsig


def main(depth=2, picture=None):
    """Print and return the share of motions next to one of the same label."""
    file = resources.files("branchsig") / "data" / "basic_motions.npz"
    with file.open("rb") as opened, np.load(opened) as data:
        paths = np.concatenate([data["train_paths"], data["test_paths"]])
        labels = np.concatenate([data["train_labels"], data["test_labels"]])
    paths = (paths - paths.mean(axis=(0, 1))) / paths.std(axis=(0, 1))
    gram = branchsig.branched_sig_kernel_gram(
        paths, None, depth, time_aug=True, normalize="dilation"
    )

    centred = gram - gram.mean(axis=0) - gram.mean(axis=1, keepdims=True) + gram.mean()
    eigenvalues, vectors = np.linalg.eigh(centred)
    points = vectors[:, [-1, -2]] * np.sqrt(eigenvalues[[-1, -2]])

    distances = np.linalg.norm(points[:, np.newaxis] - points, axis=-1)
    np.fill_diagonal(distances, np.inf)
    same = np.mean(labels[distances.argmin(axis=1)] == labels)
    explained = eigenvalues[-2:].sum() / eigenvalues.sum()
    print(
        f"two directions hold {explained:.1%} of the variance of {len(paths)} motions"
    )
    print(
        f"{same:.1%} of the motions have a nearest neighbour of their own kind "
        "in the plane"
    )
    if picture:
        draw(points, labels, picture)
    return same


def draw(points, labels, picture):
    """The motions as points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot(xlabel="first direction", ylabel="second direction")
    for label, marker in zip(np.unique(labels), "osD^"):
        axes.plot(*points[labels == label].T, marker, label=label, alpha=0.8)
    axes.legend(frameon=False)
    figure.savefig(picture)


if __name__ == "__main__":
    main(picture=sys.argv[1] if len(sys.argv) > 1 else None)
