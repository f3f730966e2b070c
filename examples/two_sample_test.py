"""Do two samples of paths come from one distribution? A permutation test on the maximum
mean discrepancy.

The Gram matrix of all paths is computed once; every permutation only regroups its
entries. Random walks and walks with a memory are told apart though their increments
have the same mean and variance.
"""

import numpy as np

import branchsig


def random_walks(rng, number, length, memory):
    """Walks in the plane whose steps are correlated in time, with unit variance."""
    noise = rng.standard_normal((number, length, 2))
    increments = np.empty_like(noise)
    increments[:, 0] = noise[:, 0]
    for step in range(1, length):
        increments[:, step] = (
            memory * increments[:, step - 1] + np.sqrt(1 - memory**2) * noise[:, step]
        )
    return np.cumsum(increments, axis=1) / length**0.5


def discrepancy(gram, first):
    """Squared discrepancy, without bias, of the paths in `first` and the others."""
    within1 = gram[np.ix_(first, first)]
    within2 = gram[np.ix_(~first, ~first)]
    across = gram[np.ix_(first, ~first)]

    def mean_off_diagonal(block):
        return (block.sum() - np.trace(block)) / (len(block) * (len(block) - 1))

    return mean_off_diagonal(within1) + mean_off_diagonal(within2) - 2 * across.mean()


def p_value(paths1, paths2, permutations, rng):
    """Share of random regroupings with at least the observed discrepancy."""
    paths = np.concatenate([paths1, paths2])
    gram = branchsig.branched_sig_kernel_gram(
        paths,
        None,
        depth=2,
        static_kernel=branchsig.RBFKernel(sigma=2.0),
        time_aug=True,
    )
    first = np.arange(len(paths)) < len(paths1)
    observed = discrepancy(gram, first)
    regrouped = [discrepancy(gram, rng.permutation(first)) for _ in range(permutations)]
    return (1 + np.count_nonzero(np.array(regrouped) >= observed)) / (1 + permutations)


def main(number=40, length=50, permutations=500):
    """Print and return the p-values of a true and of a false null hypothesis."""
    rng = np.random.default_rng(0)
    walks, more_walks = (
        random_walks(rng, number, length, 0.0),
        random_walks(rng, number, length, 0.0),
    )
    with_memory = random_walks(rng, number, length, 0.8)
    same = p_value(walks, more_walks, permutations, rng)
    different = p_value(walks, with_memory, permutations, rng)
    print(f"walks and walks:             p = {same:.3f}")
    print(f"walks and walks with memory: p = {different:.3f}")
    return same, different


if __name__ == "__main__":
    main()
