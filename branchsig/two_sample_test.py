"""A permutation test of whether two samples of paths come from one distribution."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from branchsig import _validation
from branchsig._arrays import ArrayT, Paths
from branchsig.operations.means import JointGram, joint_gram
from branchsig.operations.timed import timed
from branchsig.quadrature import Quadrature
from branchsig.spec import options_of
from branchsig.static_kernels import StaticKernel

__all__ = ["TwoSampleTest", "branched_sig_mmd_test"]

_BLOCK = 256
"""Regroupings evaluated in one block."""

_ROUNDING = 64.0
"""Rounding errors per path, in units of eps times the sum, by which two equal discrepancies may differ."""


class TwoSampleTest(NamedTuple):
    """Result of `branched_sig_mmd_test`.

    Parameters
    ----------
    statistic : float
        The unbiased squared discrepancy of the samples. NaN if the kernel of any two paths is not finite.
    p_value : float
        The share of regroupings of the paths, the observed one included, whose discrepancy is at least as large. NaN if
        the statistic is NaN.

    See Also
    --------
    branched_sig_mmd_test : The test whose result this is.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> paths = np.cumsum(np.random.default_rng(0).normal(size=(8, 10, 2)), axis=1)
    >>> statistic, p_value = branchsig.branched_sig_mmd_test(paths[:4], paths[4:], depth=2)
    >>> 0 < p_value <= 1
    True
    """

    statistic: float
    p_value: float


def branched_sig_mmd_test(
    sample1: Paths[ArrayT],
    sample2: Paths[ArrayT],
    depth: float | None = None,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    static_kernel: StaticKernel | None = None,
    time_aug: bool = False,
    lead_lag: bool = False,
    end_time: float = 1.0,
    base_point: bool = False,
    n_jobs: int | None = 1,
    quadrature: Quadrature | str = "trapezoid",
    lengths1: Any = None,
    lengths2: Any = None,
    times1: Any = None,
    times2: Any = None,
    order: int | None = None,
    check_finite: bool | None = None,
    normalize: bool | str = "dilation",
    permutations: int = 1000,
    seed: int | np.random.Generator | None = None,
    planar: bool = False,
) -> TwoSampleTest:
    r"""Test whether two samples of paths come from one distribution, by permutations of the discrepancy.

    Parameters
    ----------
    sample1 : array, shape (*batch1, length1, dimension)
        A sample of paths, of any library of the array API standard, float32 or float64. All batch axes belong to it.
    sample2 : array, shape (*batch2, length2, dimension)
        Another sample, with the library, dtype, device and dimension of the first.
    depth : int or math.inf
        Largest depth of the trees, at least 0; `math.inf` for no bound. Optional if `order` is given; both may be
        given. At depth 1 the linear static kernel gives ``exp(<x_end - x_0, y_end - y_0>)``.
    dyadic_order : int, default: 0
        Every cell between two neighbouring points of each path is split into ``2**order`` by ``2**order`` sub-cells.
        One order serves both samples, since their paths are regrouped.
    static_kernel : StaticKernel, optional
        Kernel on the space the paths live in; `None` is the linear kernel.
    time_aug : bool, default: False
        Append time as the last channel of the paths, linear from 0 to `end_time`.
    lead_lag : bool, default: False
        Replace the paths by their lead-lag transforms, of ``2 * length - 1`` points and twice the channels,
        before time is appended.
    end_time : float, default: 1.0
        Time of the last point, in the unit of time of the paths. Only with `time_aug`.
    base_point : bool, default: False
        Prepend the point 0 to every path, at the time of its first point and before lead-lag. The kernel then depends
        on the level of a path and not only on its steps.
    n_jobs : int or None, default: 1
        Number of threads, as in joblib: -1 for all cores, -2 for all but one, None for 1. The result does not depend on
        it.
    quadrature : Quadrature or str, default: "trapezoid"
        The rule for the integral over a sub-cell: `Trapezoid`, `LeftPoint` or `GaussLobatto`, or their names
        ``"trapezoid"``, ``"left"`` and ``"lobatto2"`` to ``"lobatto8"``.
    lengths1 : array of int, shape (*batch1,), optional
        Valid lengths of the first paths, if they are padded to one length; see `pad_paths`. Padding is never read, and
        its gradient is 0. With `time_aug` time runs from 0 to `end_time` over the valid points. Not allowed with a list
        of paths, which has its own lengths.
    lengths2 : array of int, shape (*batch2,), optional
        Valid lengths of the second paths. If the second paths are the first ones, they take `lengths1`.
    times1 : array, shape (*batch1, length1), optional
        Times of the points of the first paths. They become the last channel instead of evenly spaced time, with or
        without `time_aug`, and exclude `end_time`. Shape (length1,) gives all paths the same times; a list of paths
        takes a list of arrays. Points that lead-lag inserts lie halfway between two times. Gradients with respect to
        `times1` and `times2` follow those with respect to the paths.
    times2 : array, shape (*batch2, length2), optional
        Times of the points of the second paths. If the second paths are the first ones, they take `times1`.
    order : int, optional
        Largest number of nodes of a forest. A `depth` below `order` bounds the forests as well; a larger one,
        `math.inf` or none has no effect. On piecewise-linear paths `GaussLobatto` with ``p >= order - 1`` is exact.
    check_finite : bool, optional
        Warn about non-finite values, and name the paths that hold NaN or infinities. None: only for values in CPU
        memory, since checking a CUDA array would synchronise, and lazy or traced arrays have no values yet. True:
        always check values and paths. False: never, and do not warn about the order of axes in a Gram matrix either.
        Gradients are not checked.
    normalize : bool or "dilation", default: "dilation"
        ``"dilation"``: scale every path so that the logarithm of its kernel with itself is 1, as `dilation` does; no
        path then decides the result alone. True: divide kernels by the norms of their paths. False: use the plain
        kernel, which is unbounded, so that a few large paths may decide the result.
    permutations : int, default: 1000
        Number of random regroupings of the paths, at least 1. If at most ``permutations + 1`` regroupings exist, each
        of them is counted once instead.
    seed : int or numpy.random.Generator, optional
        Seed of the random regroupings; the same seed gives the same result.
    planar : bool, default: False
        Sum over ordered forests of planar trees in the place of unordered forests. At depth 1 this is the signature
        kernel, see `sig_kernel`. It need not be positive, and its logarithm is NaN where it is not. Bounded by depth
        alone it has the rules `Trapezoid` and `LeftPoint`, and no `rtol`.

    Returns
    -------
    TwoSampleTest
        A named tuple of floats: `statistic`, the unbiased squared discrepancy, and `p_value`, the share of regroupings,
        the observed one included, whose discrepancy is at least as large. Both are NaN if the kernel of any two paths
        is not finite.

    Raises
    ------
    TypeError
        If an argument has the wrong type; the message says what to do.
    ValueError
        If an argument has an invalid shape or value, or two options exclude each other.

    Warns
    -----
    RuntimeWarning
        Once per call, if kernels are not finite because paths hold NaN or kernels overflow. Also if every path has one
        point.

    See Also
    --------
    branched_sig_mmd : The discrepancy, whose `normalize` is False by default.

    Notes
    -----
    The Gram matrix of all paths is computed once; each regrouping sums other entries of it. Under the null hypothesis
    the p-value is at most α with probability at most α, for every α and every distribution. Discrepancies that differ
    only by rounding count as equal.

    There are :math:`\binom{n_1 + n_2}{n_1}` regroupings, and the p-value is at least one over their number: samples of
    three paths each cannot reject at 5 %.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (
    ...     np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1)
    ...     for scale in (0.05, 0.15)
    ... )
    >>> branchsig.branched_sig_mmd_test(
    ...     near, far, depth=3, time_aug=True, end_time=0.5, seed=0
    ... ).p_value < 0.01
    True
    """
    try:
        count = operator.index(permutations)
    except TypeError:
        raise TypeError(f"permutations is {permutations!r}: expected an integer >= 1") from None
    if count < 1:
        raise ValueError(f"permutations is {permutations}: expected an integer >= 1")
    rng = np.random.default_rng(seed)
    if check_finite is None:
        check_finite = True  # the test waits for the kernels in any case
    spec, how = options_of(
        depth,
        dyadic_order,
        static_kernel,
        time_aug,
        lead_lag,
        end_time,
        n_jobs,
        quadrature,
        order,
        normalize,
        check_finite,
        base_point=base_point,
        planar=planar,
    )
    if spec.dyadic_order[0] != spec.dyadic_order[1]:
        raise ValueError(
            f"dyadic_order is {dyadic_order!r}: expected one order for both samples, since the test exchanges "
            "their paths; give the larger one"
        )
    remedy = "Take branched_sig_mmd, whose value may be traced"
    _validation.not_traced("branched_sig_mmd_test", remedy, sample1, sample2, lengths1, lengths2)
    job = timed(JointGram(), times1, times2).prepare(spec, how, sample1, sample2, lengths1, lengths2)
    gram = joint_gram(job)
    if not np.isfinite(gram).all():
        return TwoSampleTest(math.nan, math.nan)
    return _permutation_test(gram, job.problem.path1.shape[0], count, rng)


def _permutation_test(
    gram: npt.NDArray[np.float64], n1: int, permutations: int, rng: np.random.Generator
) -> TwoSampleTest:
    """Test the first n1 paths against the others. A constant may have been subtracted from the Gram matrix; its
    diagonal is 0."""
    paths = gram.shape[0]
    _, exponent = math.frexp(float(np.max(np.abs(gram))))
    gram = np.ldexp(gram, -exponent)  # sums of very large or small entries would leave the range of floats
    first = np.arange(paths) < n1
    observed = float(_discrepancies(gram, first[None, :])[0])
    # Where the terms of a sum cancel, the result is rounding error, so the slack is relative to the size of the terms.
    pairs = min(n * (n - 1) for n in (n1, paths - n1))
    slack = _ROUNDING * paths * np.finfo(np.float64).eps * float(np.sum(np.abs(gram))) / pairs
    regroupings = math.comb(paths, n1)
    every = regroupings <= permutations + 1
    groups = _all_regroupings(n1, paths) if every else _random_regroupings(first, permutations, rng)
    at_least = sum(int(np.count_nonzero(_discrepancies(gram, some) >= observed - slack)) for some in groups)
    p_value = at_least / regroupings if every else (at_least + 1) / (permutations + 1)
    with np.errstate(over="ignore"):
        return TwoSampleTest(float(np.ldexp(observed, exponent)), p_value)


def _all_regroupings(n1: int, paths: int) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield all regroupings in blocks; each row flags the paths of the first sample."""
    combinations = itertools.combinations(range(paths), n1)
    while some := list(itertools.islice(combinations, _BLOCK)):
        groups = np.zeros((len(some), paths), dtype=bool)
        np.put_along_axis(groups, np.asarray(some), True, axis=1)
        yield groups


def _random_regroupings(
    first: npt.NDArray[np.bool_], count: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield random regroupings in blocks; each row flags the paths of the first sample."""
    for start in range(0, count, _BLOCK):
        yield rng.permuted(np.tile(first, (min(_BLOCK, count - start), 1)), axis=1)


def _discrepancies(gram: npt.NDArray[np.float64], first: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Unbiased squared discrepancies of regroupings; each row flags the paths of the first sample.

    The diagonal of the Gram matrix is 0.
    """
    one, two = first.astype(float), (~first).astype(float)
    n1, n2 = one.sum(axis=1), two.sum(axis=1)
    of_one, of_two = one @ gram, two @ gram
    within = np.sum(of_one * one, axis=1) / (n1 * (n1 - 1)) + np.sum(of_two * two, axis=1) / (n2 * (n2 - 1))
    discrepancies: npt.NDArray[np.float64] = within - 2 * np.sum(of_one * two, axis=1) / (n1 * n2)
    return discrepancies
