"""Change points: compare what comes before and after each moment of a series.

The series is a noisy loop in the plane that changes its direction of rotation twice.
Mean, variance and speed stay the same, so no statistic of single points shows the
change. The series is cut into short overlapping windows. At each moment the 12 windows
before it and the 12 windows after it are two samples, compared by the squared maximum
mean discrepancy. Its peaks are where the series changes. One Gram matrix of all windows
serves all moments.
"""

import sys

import numpy as np

import branchsig


def series(rng, length, changes, noise=0.3):
    """A loop in the plane with noise, which turns the other way after every change."""
    direction = np.ones(length)
    for change in changes:
        direction[change:] *= -1
    angle = np.cumsum(direction) * 2 * np.pi / 20
    loop = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return loop + noise * rng.standard_normal((length, 2))


def discrepancy(gram):
    """Squared discrepancy, without bias, of the two halves of the windows."""
    half = len(gram) // 2
    within = [
        block.sum() - np.trace(block)
        for block in (gram[:half, :half], gram[half:, half:])
    ]
    return sum(within) / (half * (half - 1)) - 2 * gram[:half, half:].mean()


def main(length=1200, changes=(400, 750), window=20, count=12, picture=None):
    """Print and return the changes that were found."""
    path = series(np.random.default_rng(0), length, changes)
    starts = np.arange(0, length - window + 1, window // 2)
    windows = np.stack([path[start : start + window] for start in starts])
    gram = branchsig.branched_sig_kernel_gram(
        windows, None, depth=2, normalize="dilation"
    )

    moments = np.arange(count, len(windows) - count + 1)
    values = np.array(
        [
            discrepancy(gram[m - count : m + count, m - count : m + count])
            for m in moments
        ]
    )
    where = starts[moments]
    found, left = [], values.copy()
    for _ in changes:
        peak = left.argmax()
        found.append(int(where[peak]))
        left[np.abs(where - where[peak]) < count * window // 2] = -np.inf
    found.sort()
    print(f"changes at {list(changes)}, found at {found}")
    if picture:
        draw(path, changes, where, values, picture)
    return found


def draw(path, changes, where, values, picture):
    """The series and the discrepancy along it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(path, linewidth=0.5)
    above.set_ylabel("both channels")
    below.plot(where, values)
    below.set(xlabel="point of the series", ylabel="squared discrepancy")
    for axes in (above, below):
        for change in changes:
            axes.axvline(change, color="black", linestyle="--", linewidth=0.8)
    figure.savefig(picture)


if __name__ == "__main__":
    main(picture=sys.argv[1] if len(sys.argv) > 1 else None)
