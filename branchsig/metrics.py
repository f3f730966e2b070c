"""Distances of samples of paths and scores of forecasts, from means of kernels, and a test of two samples.

Samples come in; means over the blocks of their Gram matrices go out, so that memory does not grow with the number of
pairs. A backward takes derivatives of the result back to the paths through the same blocks.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple, Unpack

import numpy as np
import numpy.typing as npt

from branchsig import _validation
from branchsig._arrays import Array, device_of, namespace_of, to_numpy
from branchsig._options import MetricOptions, gather, public
from branchsig.kernel import branched_sig_kernel_gram
from branchsig.kernel_backprop import branched_sig_kernel_gram_backprop

__all__ = [
    "branched_sig_mmd",
    "branched_sig_mmd_backprop",
    "branched_sig_mmd_test",
    "branched_sig_score",
    "branched_sig_score_backprop",
    "expected_branched_sig_score",
    "expected_branched_sig_score_backprop",
]

_BLOCK = 256
"""Rows and columns of a block of a Gram matrix."""

Gradients = tuple[Array | None, Array | None]


@public(MetricOptions)
def branched_sig_mmd(
    sample1: Array,
    sample2: Array,
    depth: float,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    unbiased: bool = True,
    **options: Unpack[MetricOptions],
) -> Array:
    r"""Squared maximum mean discrepancy of two samples of paths.

    Parameters
    ----------
    <sample1>
    <sample2>
    <depth>
    <dyadic_order>
    <options>
    <unbiased>

    Returns
    -------
    array, shape ()
        The squared discrepancy, with the library, dtype and device of the samples.

    Raises
    ------
    <errors>

    See Also
    --------
    branched_sig_mmd_test : Whether it is larger than chance makes it.

    Notes
    -----
    .. math:: \mathbb E k(X, X') - 2 \mathbb E k(X, Y) + \mathbb E k(Y, Y')

    with means in the place of expectations [1]_. The unbiased one may be below 0.

    References
    ----------
    .. [1] A. Gretton et al., "A kernel two-sample test", Journal of Machine Learning Research 13 (2012).


    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1) for scale in (0.05, 0.15))
    >>> same = branchsig.branched_sig_mmd(near[:10], near[10:], depth=3)
    >>> bool(branchsig.branched_sig_mmd(near, far, depth=3) > same)
    True
    """
    means = _Means(sample1, sample2, depth, dyadic_order, unbiased, options)
    return means.within(1) - 2.0 * means.mean_across() + means.within(2)


@public(MetricOptions)
def branched_sig_mmd_backprop(
    derivs: Array,
    sample1: Array,
    sample2: Array,
    depth: float,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    unbiased: bool = True,
    left_deriv: bool = True,
    right_deriv: bool = False,
    **options: Unpack[MetricOptions],
) -> Gradients:
    r"""Gradient of the squared maximum mean discrepancy of two samples of paths.

    Parameters
    ----------
    derivs : array, shape ()
        Derivative of a scalar with respect to the result of `branched_sig_mmd`.
    <sample1>
    <sample2>
    <depth>
    <dyadic_order>
    <options>
    <unbiased>
    <left_deriv>
    <right_deriv>

    Returns
    -------
    tuple of array or None
        The derivatives of the scalar with respect to `sample1` and `sample2`; None for a side that is not asked for.

    Raises
    ------
    <errors>

    See Also
    --------
    branched_sig_mmd : The value.

    Notes
    -----
    The mean of the gradients of the kernels, with the signs of the terms; no Gram matrix is stored.


    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1) for scale in (0.05, 0.15))
    >>> toward, _ = branchsig.branched_sig_mmd_backprop(np.asarray(1.0), near, far, depth=3)
    >>> before, after = (branchsig.branched_sig_mmd(near - step * toward, far, depth=3) for step in (0, 0.1))
    >>> bool(after < before)
    True
    """
    means = _Means(sample1, sample2, depth, dyadic_order, unbiased, options)
    weight = means.checked(derivs, ())
    return means.backprop(weight, means.equally(-2.0 * weight), weight, left_deriv, right_deriv)


@public(MetricOptions)
def branched_sig_score(
    sample: Array,
    y: Array,
    depth: float,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    lam: float = 1.0,
    unbiased: bool = True,
    **options: Unpack[MetricOptions],
) -> Array:
    r"""Kernel scores of a sample of paths as a forecast of observed paths.

    Parameters
    ----------
    sample : array, shape (n1, length1, dimension)
        A sample of paths, of any library of the array API standard, float32 or float64.
    y : array, shape (*batch, length2, dimension)
        Observed paths, with the library, dtype, device and dimension of the sample.
    <depth>
    <dyadic_order>
    <options>
    lam : float, default: 1.0
        Weight of the term that is a mean over pairs of `sample`.
    <unbiased>

    Returns
    -------
    array, shape (*batch,)
        The scores, lower ones better, with the library, dtype and device of the paths.

    Raises
    ------
    <errors>

    See Also
    --------
    expected_branched_sig_score : Their mean over a sample of observations.

    Notes
    -----
    .. math:: \lambda \, \mathbb E k(X, X') - 2 \mathbb E k(X, y)

    At λ = 1 it is a proper score: its expectation is lowest for the distribution that the observations come from [1]_.

    References
    ----------
    .. [1] T. Gneiting and A. E. Raftery, "Strictly proper scoring rules, prediction, and estimation", Journal of the
       American Statistical Association 102 (2007).


    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1) for scale in (0.05, 0.15))
    >>> branchsig.branched_sig_score(near, far[:5], depth=3).shape
    (5,)
    """
    means = _Means(sample, y, depth, dyadic_order, unbiased, options)
    return means.shaped(_factor(lam) * means.within(1) - 2.0 * means.across())


@public(MetricOptions)
def branched_sig_score_backprop(
    derivs: Array,
    sample: Array,
    y: Array,
    depth: float,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    lam: float = 1.0,
    unbiased: bool = True,
    left_deriv: bool = True,
    right_deriv: bool = False,
    **options: Unpack[MetricOptions],
) -> Gradients:
    r"""Gradients of kernel scores.

    Parameters
    ----------
    derivs : array, shape (*batch,)
        Derivatives of a scalar with respect to the result of `branched_sig_score`.
    sample : array, shape (n1, length1, dimension)
        A sample of paths, of any library of the array API standard, float32 or float64.
    y : array, shape (*batch, length2, dimension)
        Observed paths, with the library, dtype, device and dimension of the sample.
    <depth>
    <dyadic_order>
    <options>
    lam : float, default: 1.0
        Weight of the term that is a mean over pairs of `sample`.
    <unbiased>
    <left_deriv>
    <right_deriv>

    Returns
    -------
    tuple of array or None
        The derivatives of the scalar with respect to `sample` and `y`; None for a side that is not asked for.

    Raises
    ------
    <errors>

    See Also
    --------
    branched_sig_score : The values.

    Notes
    -----
    The mean of the gradients of the kernels, with the weights of the terms; no Gram matrix is stored.


    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1) for scale in (0.05, 0.15))
    >>> d_sample, _ = branchsig.branched_sig_score_backprop(np.ones(5), near, far[:5], depth=3)
    >>> d_sample.shape
    (20, 10, 2)
    """
    means = _Means(sample, y, depth, dyadic_order, unbiased, options)
    weights = means.flat(means.checked(derivs, means.batch))
    total = _factor(lam) * namespace_of(weights).sum(weights)
    return means.backprop(total, -2.0 * weights, None, left_deriv, right_deriv)


@public(MetricOptions)
def expected_branched_sig_score(
    sample1: Array,
    sample2: Array,
    depth: float,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    lam: float = 1.0,
    unbiased: bool = True,
    **options: Unpack[MetricOptions],
) -> Array:
    r"""Mean kernel score of a sample of paths as a forecast of another sample.

    Parameters
    ----------
    <sample1>
    <sample2>
    <depth>
    <dyadic_order>
    <options>
    lam : float, default: 1.0
        Weight of the term that is a mean over pairs of `sample1`.
    <unbiased>

    Returns
    -------
    array, shape ()
        The mean score, lower ones better, with the library, dtype and device of the samples.

    Raises
    ------
    <errors>

    See Also
    --------
    branched_sig_score : The score of each observation.

    Notes
    -----
    The mean of `branched_sig_score` over the paths of `sample2`.


    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1) for scale in (0.05, 0.15))
    >>> scores = branchsig.branched_sig_score(near, far, depth=3)
    >>> bool(np.isclose(branchsig.expected_branched_sig_score(near, far, depth=3), scores.mean()))
    True
    """
    means = _Means(sample1, sample2, depth, dyadic_order, unbiased, options)
    return _factor(lam) * means.within(1) - 2.0 * means.mean_across()


@public(MetricOptions)
def expected_branched_sig_score_backprop(
    derivs: Array,
    sample1: Array,
    sample2: Array,
    depth: float,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    lam: float = 1.0,
    unbiased: bool = True,
    left_deriv: bool = True,
    right_deriv: bool = False,
    **options: Unpack[MetricOptions],
) -> Gradients:
    r"""Gradient of the mean kernel score of a sample of paths.

    Parameters
    ----------
    derivs : array, shape ()
        Derivative of a scalar with respect to the result of `expected_branched_sig_score`.
    <sample1>
    <sample2>
    <depth>
    <dyadic_order>
    <options>
    lam : float, default: 1.0
        Weight of the term that is a mean over pairs of `sample1`.
    <unbiased>
    <left_deriv>
    <right_deriv>

    Returns
    -------
    tuple of array or None
        The derivatives of the scalar with respect to `sample1` and `sample2`; None for a side that is not asked for.

    Raises
    ------
    <errors>

    See Also
    --------
    expected_branched_sig_score : The value.

    Notes
    -----
    The mean of the gradients of the kernels, with the weights of the terms; no Gram matrix is stored.


    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1) for scale in (0.05, 0.15))
    >>> d_near, d_far = branchsig.expected_branched_sig_score_backprop(
    ...     np.asarray(1.0), near, far, depth=3, right_deriv=True
    ... )
    >>> d_near.shape, d_far.shape
    ((20, 10, 2), (20, 10, 2))
    """
    means = _Means(sample1, sample2, depth, dyadic_order, unbiased, options)
    weight = means.checked(derivs, ())
    return means.backprop(_factor(lam) * weight, means.equally(-2.0 * weight), None, left_deriv, right_deriv)


class TwoSampleTest(NamedTuple):
    """Result of a test of two samples."""

    statistic: float
    p_value: float


@public(MetricOptions)
def branched_sig_mmd_test(
    sample1: Array,
    sample2: Array,
    depth: float,
    dyadic_order: int | tuple[int, int] = 0,
    *,
    permutations: int = 1000,
    seed: int | np.random.Generator | None = None,
    **options: Unpack[MetricOptions],
) -> TwoSampleTest:
    r"""Test whether two samples of paths come from one distribution, by permutations of the discrepancy.

    Parameters
    ----------
    <sample1>
    <sample2>
    <depth>
    <dyadic_order>
    <options>
    permutations : int, default: 1000
        Number of random regroupings of the paths, at least 1.
    seed : int or numpy.random.Generator, optional
        Where the regroupings are drawn from; the same seed gives the same result.

    Returns
    -------
    TwoSampleTest
        A named tuple of floats: `statistic`, the unbiased squared discrepancy, and `p_value`, the share of regroupings,
        the observed one counted, whose discrepancy is at least as large. Both are NaN where the kernel of two paths is
        not finite.

    Raises
    ------
    <errors>

    See Also
    --------
    branched_sig_mmd : The discrepancy.

    Notes
    -----
    The Gram matrix of all paths is computed once; a regrouping only sums other entries of it. Under the hypothesis the
    p-value is at most α with probability at most α, for every α, whatever the distribution.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> rng = np.random.default_rng(0)
    >>> near, far = (np.cumsum(scale * rng.normal(size=(20, 10, 2)), axis=1) for scale in (0.05, 0.15))
    >>> branchsig.branched_sig_mmd_test(near, far, depth=3, normalize=True, seed=0).p_value < 0.01
    True
    """
    try:
        count = operator.index(permutations)
    except TypeError:
        raise TypeError(f"permutations is {permutations!r}: expected an integer >= 1") from None
    if count < 1:
        raise ValueError(f"permutations is {permutations}: expected an integer >= 1")
    gram = _Means(sample1, sample2, depth, dyadic_order, True, options).gram()
    np.fill_diagonal(gram, 0.0)  # no statistic has kernels of paths with themselves, which may be infinite
    n1, paths = sample1.shape[0], gram.shape[0]
    rng = np.random.default_rng(seed)
    first = np.arange(paths) < n1
    if not np.isfinite(gram).all():
        return TwoSampleTest(math.nan, math.nan)
    observed = float(_discrepancies(gram, first[None, :])[0])
    at_least = 1
    for start in range(0, count, _BLOCK):
        groups = rng.permuted(np.tile(first, (min(_BLOCK, count - start), 1)), axis=1)
        # Regroupings that are the observed one up to the order of sums count as equal to it.
        slack = 1e-12 * abs(observed)
        at_least += int(np.count_nonzero(_discrepancies(gram, groups) >= observed - slack))
    return TwoSampleTest(observed, at_least / (count + 1))


def _discrepancies(gram: npt.NDArray[np.float64], first: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Unbiased squared discrepancies of regroupings, each a row that says which paths are in the first sample.

    The diagonal of the Gram matrix is 0.
    """
    one, two = first.astype(float), (~first).astype(float)
    n1, n2 = one.sum(axis=1), two.sum(axis=1)
    of_one, of_two = one @ gram, two @ gram
    within = np.sum(of_one * one, axis=1) / (n1 * (n1 - 1)) + np.sum(of_two * two, axis=1) / (n2 * (n2 - 1))
    discrepancies: npt.NDArray[np.float64] = within - 2 * np.sum(of_one * two, axis=1) / (n1 * n2)
    return discrepancies


def _factor(lam: Any) -> float:
    try:
        return float(lam)
    except (TypeError, ValueError):
        raise TypeError(f"lam is {lam!r}: expected a number") from None


def _blocks(paths: int) -> Iterator[slice]:
    for start in range(0, paths, _BLOCK):
        yield slice(start, min(start + _BLOCK, paths))


class _Means:
    """Means of the kernels of two samples over blocks of their Gram matrices, and the backward of those."""

    def __init__(
        self, first: Any, second: Any, depth: Any, dyadic_order: Any, unbiased: Any, options: MetricOptions
    ) -> None:
        self.options: dict[str, Any] = {k: v for k, v in options.items() if not k.startswith("lengths")}
        gather(depth, dyadic_order, self.options, MetricOptions)
        self.solver = (depth, dyadic_order)
        x, y, shape = _validation.gram_paths(first, second)
        if first.ndim != 3:
            raise ValueError(f"the first sample has shape {tuple(first.shape)}: expected (paths, length, dimension)")
        self.like = x
        self.samples = (x, y)
        self.shapes = (tuple(first.shape), tuple(second.shape))
        self.batch = shape[1:]
        self.lengths = (
            _validation.lengths(options.get("lengths1"), "lengths1", first),
            _validation.lengths(options.get("lengths2"), "lengths2", second),
        )
        self.unbiased = _validation.flag(unbiased, "unbiased")
        self.diagonal: dict[int, Array] = {}
        for sample, name in ((x, "first"), (y, "second")):
            if sample.shape[0] == 0:
                raise ValueError(f"the {name} sample has no paths: expected at least one")

    def _pairs(self, side: int) -> int:
        """Number of pairs of one sample that a mean is over."""
        n: int = self.samples[side - 1].shape[0]
        if self.unbiased and n < 2:
            raise ValueError("a sample has one path: a mean over its pairs needs two, or unbiased=False")
        return n * (n - 1) if self.unbiased else n * n

    def _of_blocks(self, side1: int, block1: slice, side2: int, block2: slice) -> tuple[Array, Array, dict[str, Any]]:
        options = dict(self.options)
        for side, block, name in ((side1, block1, "lengths1"), (side2, block2, "lengths2")):
            lengths = self.lengths[side - 1]
            if lengths is not None:
                options[name] = lengths[block]
        return self._of_block(side1, block1), self._of_block(side2, block2), options

    def _of_block(self, side: int, block: slice) -> Array:
        sample = self.samples[side - 1]
        return sample if block == slice(0, sample.shape[0]) else sample[block, ...]

    def _gram(self, side1: int, block1: slice, side2: int, block2: slice) -> Array:
        x, y, options = self._of_blocks(side1, block1, side2, block2)
        if side1 == side2 and block1 == block2:
            options.pop("lengths2", None)
            return branched_sig_kernel_gram(x, None, *self.solver, **options)
        return branched_sig_kernel_gram(x, y, *self.solver, **options)

    def within(self, side: int) -> Array:
        """Mean over the pairs of one sample."""
        xp, pairs, total = namespace_of(self.like), self._pairs(side), None
        for rows in _blocks(self.samples[side - 1].shape[0]):
            for columns in _blocks(rows.stop):
                gram = self._gram(side, rows, side, columns)
                if rows == columns:
                    term = xp.sum(self._without_diagonal(gram) if self.unbiased else gram)
                else:
                    term = 2.0 * xp.sum(gram)
                total = term if total is None else total + term
        return total / pairs  # type: ignore[operator]

    def _without_diagonal(self, gram: Array) -> Array:
        """Zeros in the place of the kernels of paths with themselves, which may be infinite."""
        xp, like = namespace_of(gram), {"dtype": gram.dtype, "device": device_of(gram)}
        paths = gram.shape[0]
        if paths not in self.diagonal:
            self.diagonal[paths] = xp.eye(paths, **like) == 1.0
        return xp.where(self.diagonal[paths], xp.zeros((), **like), gram)

    def across(self) -> Array:
        """For each path of the second sample the mean over the first."""
        xp, n1 = namespace_of(self.like), self.samples[0].shape[0]
        parts = []
        for columns in _blocks(self.samples[1].shape[0]):
            sums = [xp.sum(self._gram(1, rows, 2, columns), axis=0) for rows in _blocks(n1)]
            parts.append(sum(sums[1:], sums[0]))
        return _joined(parts) / n1

    def mean_across(self) -> Array:
        """Mean over all pairs of a path of the first sample and one of the second."""
        xp, (n1, n2) = namespace_of(self.like), (sample.shape[0] for sample in self.samples)
        sums = [xp.sum(self._gram(1, rows, 2, columns)) for columns in _blocks(n2) for rows in _blocks(n1)]
        return sum(sums[1:], sums[0]) / (n1 * n2)

    def gram(self) -> npt.NDArray[np.float64]:
        """The Gram matrix of both samples together, on the host."""
        self._pairs(1), self._pairs(2)
        whole = slice(0, None)
        k11, k12, k22 = (_on_host(self._gram(a, whole, b, whole)) for a, b in ((1, 1), (1, 2), (2, 2)))
        return np.block([[k11, k12], [k12.T, k22]])

    def shaped(self, values: Array) -> Array:
        return namespace_of(values).reshape(values, self.batch)

    def flat(self, values: Array) -> Array:
        return namespace_of(values).reshape(values, (self.samples[1].shape[0],))

    def checked(self, derivs: Any, shape: tuple[int, ...]) -> Array:
        return _validation.same_shape(derivs, "derivs", shape, self.like, "the first sample")

    def equally(self, weight: Array) -> Array:
        """A weight of the mean over the second sample as weights of its paths."""
        n2 = self.samples[1].shape[0]
        return namespace_of(weight).broadcast_to(weight / n2, (n2,))

    def backprop(self, within1: Array, across: Array, within2: Array | None, left: Any, right: Any) -> Gradients:
        """Gradients for weights of the means within the samples, and of those across for each second path."""
        sides = _validation.flag(left, "left_deriv"), _validation.flag(right, "right_deriv")
        xp, n1 = namespace_of(self.like), self.samples[0].shape[0]
        gradients: list[list[Array | None]] = [[None for _ in _blocks(s.shape[0])] for s in self.samples]

        def add(side: int, block: slice, term: Array | None) -> None:
            if term is not None:
                k = block.start // _BLOCK
                known = gradients[side - 1][k]
                gradients[side - 1][k] = term if known is None else known + term

        for rows in _blocks(n1):
            for columns in _blocks(self.samples[1].shape[0]):
                x, y, options = self._of_blocks(1, rows, 2, columns)
                weights = xp.broadcast_to(across[columns][None, :] / n1, (x.shape[0], y.shape[0]))
                d_x, d_y = branched_sig_kernel_gram_backprop(
                    xp.asarray(weights, copy=True),
                    x,
                    y,
                    *self.solver,
                    left_deriv=sides[0],
                    right_deriv=sides[1],
                    **options,
                )
                add(1, rows, d_x)
                add(2, columns, d_y)
        for side, weight in ((1, within1), (2, within2)):
            if sides[side - 1] and weight is not None:
                self._within_backprop(side, weight / self._pairs(side), add)
        result = [
            xp.reshape(_joined(parts), shape) if asked else None
            for parts, shape, asked in zip(gradients, self.shapes, sides)
        ]
        return result[0], result[1]

    def _within_backprop(self, side: int, weight: Array, add: Any) -> None:
        xp = namespace_of(self.like)
        for rows in _blocks(self.samples[side - 1].shape[0]):
            for columns in _blocks(rows.stop):
                x, y, options = self._of_blocks(side, rows, side, columns)
                counted = xp.ones((x.shape[0], y.shape[0]), dtype=x.dtype, device=device_of(x))
                if rows == columns:
                    counted = self._without_diagonal(counted) if self.unbiased else counted
                    options.pop("lengths2", None)
                    derivs = weight * counted
                    add(side, rows, branched_sig_kernel_gram_backprop(derivs, x, None, *self.solver, **options)[0])
                else:
                    d_x, d_y = branched_sig_kernel_gram_backprop(
                        2.0 * weight * counted, x, y, *self.solver, right_deriv=True, **options
                    )
                    add(side, rows, d_x)
                    add(side, columns, d_y)


def _joined(parts: list[Any]) -> Array:
    return parts[0] if len(parts) == 1 else namespace_of(parts[0]).concat(parts, axis=0)


def _on_host(gram: Array) -> npt.NDArray[np.float64]:
    here = to_numpy(gram)
    return np.asarray(here if here is not None else [[float(v) for v in row] for row in gram], dtype=np.float64)
