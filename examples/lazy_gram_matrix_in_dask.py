"""Find outliers among many paths by a Gram matrix that is never in memory as a
whole, in Dask.

The paths are a lazy array in chunks, and so is their Gram matrix. The mean kernel of
every path with all others is computed chunk by chunk, each pair of chunks once and on
all cores. The outliers are the paths whose mean is smallest.
"""

import dask.array as da
import numpy as np

import branchsig


def paths(number, length, odd, chunk):
    """Walks in the plane as a lazy array. The odd ones turn round and round."""
    noise = da.random.default_rng(0).standard_normal(
        (number, length, 2), chunks=(chunk, -1, -1)
    )
    angle = np.linspace(0, 6 * np.pi, length)
    turns = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    is_odd = da.from_array(np.isin(np.arange(number), odd), chunks=chunk)
    return da.cumsum(noise, axis=1) / length**0.5 + da.where(
        is_odd[:, None, None], turns, 0.0
    )


def main(number=2000, length=30, chunk=250):
    """Print and return the paths with the least mean kernels, and the odd ones."""
    odd = list(range(7, number, number // 5))
    x = paths(number, length, odd, chunk)
    kernel = branchsig.RBFKernel(1.0)
    gram = branchsig.branched_sig_kernel_gram(
        x, None, depth=2, static_kernel=kernel, normalize=True
    )
    print(f"a matrix of {gram.nbytes / 2**20:.1f} MiB in {gram.npartitions} chunks")
    means = gram.mean(axis=1).compute()
    found = sorted(np.argsort(means)[: len(odd)].tolist())
    print(f"odd ones: {odd}")
    print(f"found:    {found}")
    return found, odd


if __name__ == "__main__":
    main()
