"""Estimators of scikit-learn on paths: kernel matrices, features of landmarks, and a kernel for Gaussian processes.

They take series in every form that `branchsig.as_paths` takes and that scikit-learn can index: arrays, lists, arrays of
objects, and frames with a series in each cell.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh
from scipy.sparse import issparse
from scipy.spatial.distance import pdist
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.gaussian_process.kernels import GenericKernelMixin, Hyperparameter, Kernel
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from branchsig._arrays import Array, as_numpy, filled
from branchsig.as_paths import as_paths
from branchsig.operations import prepare
from branchsig.operations.known import Known
from branchsig.spec import Execution, Spec, options_of
from branchsig.static_kernels import RBFKernel, StaticKernel, is_built_in, parameters_of

__all__ = ["BranchedSigGPKernel", "BranchedSigKernel", "BranchedSigNystroem", "as_samples"]

Floats = npt.NDArray[np.float64]

_MEDIAN_POINTS = 1000
"""Points whose distances the median heuristic takes, at most."""


class Sample:
    """A path as one entry of an array of objects.

    scikit-learn compares the entries of such arrays with themselves, to find what is missing, and expects one answer
    for each; an array would give one for each of its values. `numpy.asarray` gives the path.
    """

    __slots__ = ("path",)

    def __init__(self, path: npt.NDArray[Any]) -> None:
        self.path = path

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.path, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"<path of {self.path.shape[0]} points in {self.path.shape[1]} channels>"


def as_samples(data: Any, *, layout: str | None = None) -> npt.NDArray[np.object_]:
    """Series in any of the usual forms as an array of objects, one path for each.

    Every estimator of scikit-learn accepts such an array, also those that refuse lists and arrays of three axes, such
    as Gaussian processes. It can be indexed, split and copied, whatever the lengths of the paths.

    Parameters
    ----------
    data : array, list, pandas.DataFrame, or path of a file
        Series as `branchsig.as_paths` takes them.
    layout : {"nlc", "ncl", "nl", "long"}, optional
        What the axes are, as there. The entries of the result need none.

    Returns
    -------
    array of objects, shape (n,)
        The paths; `numpy.asarray` makes of each an array of shape (length, channels), of float64 or float32.

    See Also
    --------
    branchsig.as_paths : Paths in one array, and their lengths.

    Examples
    --------
    >>> import numpy as np
    >>> from branchsig.frameworks.sklearn import as_samples
    >>> as_samples([np.zeros(4), np.zeros(2)], layout="nl")
    array([<path of 4 points in 1 channels>, <path of 2 points in 1 channels>],
          dtype=object)
    """
    paths, lengths = as_paths(data, layout=layout)
    samples = np.empty(len(paths), dtype=object)
    for k, path in enumerate(_of_numpy(paths)):
        samples[k] = Sample(path if lengths is None else path[: int(lengths[k])])
    return samples


def _paths_of(X: Any, layout: str | None) -> tuple[Floats, Any]:
    """Paths in float64 and their lengths, of NumPy. Those of `as_samples` have their axes in order."""
    if isinstance(X, (np.ndarray, list, tuple)) and len(X) and isinstance(X[0], Sample):
        layout = "nlc"
    elif issparse(X) or (layout == "nl" and hasattr(X, "__array__") and not _is_array_of_series(X)):
        X = check_array(X, ensure_all_finite=False)  # a table, as all estimators take it
    paths, lengths = as_paths(X, layout=layout)
    return _of_numpy(paths).astype(np.float64, copy=False), None if lengths is None else _of_numpy(lengths)


def _is_array_of_series(X: Any) -> bool:
    return isinstance(X, np.ndarray) and X.ndim == 1 and X.dtype.kind == "O"


def _of_numpy(array: Array) -> npt.NDArray[Any]:
    here = as_numpy(array)
    if here is None:
        raise TypeError(
            f"X is of type {type(array).__name__}: expected paths in the memory of the CPU. Move them there"
        )
    return here


class _ReplacedKernels:
    """Parameters of the static kernel as parameters of who holds it: a kernel is frozen, so another one is made."""

    static_kernel: StaticKernel | None

    def set_params(self, **params: Any) -> Any:
        """Set parameters by name; ``static_kernel__sigma`` replaces the static kernel by one of another `sigma`."""
        prefix = "static_kernel__"
        nested = {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
        super().set_params(**{name: value for name, value in params.items() if not name.startswith(prefix)})  # type: ignore[misc]
        if nested:
            self.static_kernel = _replaced(self.static_kernel, nested)
        return self


def _replaced(kernel: StaticKernel | None, changes: dict[str, Any]) -> StaticKernel:
    known = _parameters_by_name(kernel)
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise ValueError(
            f"Invalid parameter 'static_kernel__{unknown[0]}': static_kernel is {kernel!r}, whose parameters are "
            f"{sorted(known)}"
        )
    return dataclasses.replace(kernel, **changes)  # type: ignore[type-var, return-value]


def _parameters_by_name(kernel: Any) -> dict[str, Any]:
    return kernel.get_params() if hasattr(kernel, "get_params") else {}


class _OnPaths(_ReplacedKernels, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What transformers of paths share: their options, standardisation, and the choice of the static kernel."""

    depth: Any
    order: Any
    dyadic_order: Any
    sigma: Any
    quadrature: Any
    normalize: Any
    time_aug: Any
    lead_lag: Any
    end_time: Any
    base_point: Any
    standardize: Any
    layout: Any
    n_jobs: Any
    planar: Any
    _n_features_out: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.two_d_array = self.layout == "nl"
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _options(self, static_kernel: StaticKernel | None) -> tuple[Spec, Execution]:
        return options_of(
            self.depth,
            self.dyadic_order,
            static_kernel,
            self.time_aug,
            self.lead_lag,
            self.end_time,
            self.n_jobs,
            self.quadrature,
            self.order,
            self.normalize,
            base_point=self.base_point,
            planar=self.planar,
        )

    def _fit_paths(self, X: Any) -> tuple[Floats, Any]:
        """Learn the means and scales of channels, and return the standardised paths and their lengths."""
        paths, lengths = _paths_of(X, self.layout)
        self.n_features_in_ = paths.shape[2]
        if self.standardize:
            valid = np.ones(paths.shape[:2], bool) if lengths is None else np.arange(paths.shape[1]) < lengths[:, None]
            points = paths[valid]
            self.mean_ = points.mean(axis=0)
            scale = points.std(axis=0)
            self.scale_ = np.where(scale > 0, scale, 1.0)
        return self._standardized(paths), lengths

    def _paths(self, X: Any) -> tuple[Floats, Any]:
        """The standardised paths and their lengths, with the means and scales that were learnt."""
        check_is_fitted(self)
        paths, lengths = _paths_of(X, self.layout)
        if paths.shape[2] != self.n_features_in_:
            raise ValueError(
                f"X has {paths.shape[2]} channels, but {type(self).__name__} was fitted on paths of "
                f"{self.n_features_in_}"
            )
        return self._standardized(paths), lengths

    def _standardized(self, paths: Floats) -> Floats:
        # A copy in any case: what is kept must not change with the data of the caller.
        return (paths - self.mean_) / self.scale_ if self.standardize else paths.copy()

    def _fit_kernel(self, paths: Floats, lengths: Any) -> Any:
        """Choose the static kernel, and return the paths of a job with it."""
        kernel = self.static_kernel
        if self.sigma is not None and kernel is None:
            kernel = RBFKernel(1.0)
        spec, how = self._options(kernel)
        job = prepare.alone(spec, how, paths, lengths)
        if self.sigma is None:
            self.static_kernel_ = spec.static_kernel
            return job
        if "sigma" not in parameters_of(spec.static_kernel):
            raise ValueError(f"sigma is {self.sigma!r}, and {kernel!r} has none. Leave sigma out")
        sigma = self.sigma
        if isinstance(sigma, str):
            if sigma != "median":
                raise ValueError(f'sigma is {sigma!r}: expected a number > 0, "median", or None')
            sigma = median_distance(filled(job.problem.path1, job.problem.lengths1), spec.static_kernel)
        self.static_kernel_ = _replaced(spec.static_kernel, {"sigma": sigma})
        return dataclasses.replace(
            job,
            spec=dataclasses.replace(spec, static_kernel=self.static_kernel_),
            problem=dataclasses.replace(job.problem, static_kernel=self.static_kernel_),
        )

    def _job(self, paths: Floats, lengths: Any) -> Any:
        return prepare.alone(*self._options(self.static_kernel_), paths, lengths)


def median_distance(paths: Floats, kernel: Any) -> float:
    """The length scale of the median heuristic: the median distance of points, or its square where that is `sigma`."""
    points = paths.reshape(-1, paths.shape[-1])
    chosen = np.linspace(0, len(points) - 1, min(len(points), _MEDIAN_POINTS)).round().astype(int)
    distances = pdist(points[chosen])
    distances = distances[distances > 0]
    return float(np.median(distances)) ** kernel._power if distances.size else 1.0


class BranchedSigKernel(_OnPaths):
    """Kernels of paths with the training paths, for every estimator with ``kernel="precomputed"``.

    Parameters
    ----------
    depth : int or math.inf, default: 2
        Largest depth of the trees; None or `math.inf` where `order` alone is to bound the forests.
    order : int, optional
        Largest number of nodes of a forest.
    dyadic_order : int, default: 0
        Every cell is split into ``2**order`` by ``2**order`` sub-cells.
    static_kernel : StaticKernel, optional
        Kernel on the space of the points; None is the linear kernel. Its parameters are parameters of the estimator:
        ``static_kernel__sigma``.
    sigma : float or "median", optional
        Length scale, in the place of that of `static_kernel`, which is `RBFKernel` if it is None. "median" is the
        median distance of two points of the training paths, after all transformations, of at most 1000 points evenly
        spread over them; for `RBFKernel`, whose `sigma` is the square of a length, the square of that.
    quadrature : Quadrature or str, default: "trapezoid"
        The rule for the integral over a sub-cell.
    normalize : bool or "dilation", default: "dilation"
        How kernels are kept in bounds, as in `branched_sig_kernel_gram`.
    time_aug : bool, default: False
        Append time as the last channel.
    lead_lag : bool, default: False
        Replace the paths by their lead-lag transforms.
    end_time : float, default: 1.0
        Time of the last point. Only with `time_aug`.
    base_point : bool, default: False
        Let every path begin at 0, so that the level counts.
    standardize : bool, default: False
        Subtract the mean of every channel and divide by its standard deviation, over all points of the training paths.
    layout : {"nlc", "ncl", "nl"}, optional
        The axes of the data, see `branchsig.as_paths`.
    n_jobs : int, optional
        Number of threads; None for 1.
    planar : bool, default: False
        Sum over ordered forests of planar trees; at depth 1 this is the signature kernel.

    Attributes
    ----------
    static_kernel_ : StaticKernel
        The static kernel, with the length scale that was found.
    mean_, scale_ : array, shape (channels,)
        Of the channels of the training paths, with `standardize`.
    factors_ : array, shape (n,), or None
        The factors of dilation of the training paths, which are not searched for again.
    n_features_in_ : int
        Number of channels.

    See Also
    --------
    BranchedSigNystroem : Features for linear models, for many paths.
    BranchedSigGPKernel : A covariance for Gaussian processes.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.svm import SVC
    >>> from branchsig.frameworks.sklearn import BranchedSigKernel
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1], 20)
    >>> paths = np.cumsum(
    ...     rng.normal(size=(40, 30, 2)) + 0.6 * labels[:, None, None], axis=1
    ... )
    >>> model = make_pipeline(
    ...     BranchedSigKernel(3, base_point=True), SVC(kernel="precomputed")
    ... )
    >>> model.fit(paths[::2], labels[::2]).score(paths[1::2], labels[1::2]) > 0.8
    True
    """

    def __init__(
        self,
        depth: float | None = 2,
        *,
        order: int | None = None,
        dyadic_order: int = 0,
        static_kernel: StaticKernel | None = None,
        sigma: float | str | None = None,
        quadrature: Any = "trapezoid",
        normalize: bool | str = "dilation",
        time_aug: bool = False,
        lead_lag: bool = False,
        end_time: float = 1.0,
        base_point: bool = False,
        standardize: bool = False,
        layout: str | None = None,
        n_jobs: int | None = None,
        planar: bool = False,
    ) -> None:
        self.depth = depth
        self.order = order
        self.dyadic_order = dyadic_order
        self.static_kernel = static_kernel
        self.sigma = sigma
        self.quadrature = quadrature
        self.normalize = normalize
        self.time_aug = time_aug
        self.lead_lag = lead_lag
        self.end_time = end_time
        self.base_point = base_point
        self.standardize = standardize
        self.layout = layout
        self.n_jobs = n_jobs
        self.planar = planar

    def fit(self, X: Any, y: Any = None) -> BranchedSigKernel:
        """Keep the training paths, with what their kernels need of each of them alone.

        Parameters
        ----------
        X : array, list or frame
            The training paths, in a form that `branchsig.as_paths` takes.
        y : None
            Ignored.

        Returns
        -------
        BranchedSigKernel
            This estimator.
        """
        self._fit(X)
        return self

    _training: Known

    def _fit(self, X: Any) -> None:
        job = self._fit_kernel(*self._fit_paths(X))
        self._training = Known.of(job)
        self.factors_ = self._training.factors
        self._n_features_out = job.problem.path1.shape[0]

    def fit_transform(self, X: Any, y: Any = None) -> Floats:
        """Keep the training paths and return their kernels with each other, shape (n, n)."""
        self._fit(X)
        return self._training.gram()

    def transform(self, X: Any) -> Floats:
        """Return the kernels of paths with the training paths, shape (len(X), n).

        Where the paths are the training paths, one triangle of the matrix is computed.
        """
        job = self._job(*self._paths(X))
        if _are_equal(job.problem, self._training.job.problem):
            return self._training.gram()
        return Known.of(job).gram(self._training)


def _are_equal(problem: Any, other: Any) -> bool:
    """Whether two problems are about the same paths."""
    lengths = problem.lengths1, other.lengths1
    if (lengths[0] is None) is not (lengths[1] is None) or not np.array_equal(problem.path1, other.path1):
        return False
    return lengths[0] is None or np.array_equal(*lengths)


class BranchedSigNystroem(_OnPaths):
    """Features of paths whose inner products are near their kernels, from kernels with some of them, the landmarks.

    With the matrix K of the landmarks, the features of a path with kernels k to them are the entries of
    :math:`k V \\Lambda^{-1/2}`, where :math:`K = V \\Lambda V^T`. They are exact for the landmarks. n paths take
    n times `n_components` kernels instead of n squared.

    Parameters
    ----------
    depth : int or math.inf, default: 2
        Largest depth of the trees; None or `math.inf` where `order` alone is to bound the forests.
    n_components : int, default: 100
        Number of landmarks, drawn from the training paths; all of them where there are no more.
    order : int, optional
        Largest number of nodes of a forest.
    dyadic_order : int, default: 0
        Every cell is split into ``2**order`` by ``2**order`` sub-cells.
    static_kernel : StaticKernel, optional
        Kernel on the space of the points; None is the linear kernel. Its parameters are parameters of the estimator:
        ``static_kernel__sigma``.
    sigma : float or "median", optional
        Length scale, in the place of that of `static_kernel`, as in `BranchedSigKernel`. "median" is that of the
        landmarks.
    quadrature : Quadrature or str, default: "trapezoid"
        The rule for the integral over a sub-cell.
    normalize : bool or "dilation", default: "dilation"
        How kernels are kept in bounds, as in `branched_sig_kernel_gram`.
    time_aug : bool, default: False
        Append time as the last channel.
    lead_lag : bool, default: False
        Replace the paths by their lead-lag transforms.
    end_time : float, default: 1.0
        Time of the last point. Only with `time_aug`.
    base_point : bool, default: False
        Let every path begin at 0, so that the level counts.
    standardize : bool, default: False
        Subtract the mean of every channel and divide by its standard deviation, over all points of the training paths.
    layout : {"nlc", "ncl", "nl"}, optional
        The axes of the data, see `branchsig.as_paths`.
    batch_size : int, default: 1000
        Number of paths that are transformed at once.
    random_state : int, RandomState or None, default: None
        What the landmarks are drawn with.
    n_jobs : int, optional
        Number of threads; None for 1.
    planar : bool, default: False
        Sum over ordered forests of planar trees; at depth 1 this is the signature kernel.

    Attributes
    ----------
    component_indices_ : array of int, shape (landmarks,)
        Which of the training paths are landmarks.
    eigenvalues_ : array, shape (features,)
        Those of the matrix of the landmarks, the largest first. Those that are rounding are left out, and there are as
        many features as are not.
    static_kernel_ : StaticKernel
        The static kernel, with the length scale that was found.
    mean_, scale_ : array, shape (channels,)
        Of the channels of the training paths, with `standardize`.
    n_features_in_ : int
        Number of channels.

    See Also
    --------
    BranchedSigKernel : All kernels, for some thousand paths.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> from branchsig.frameworks.sklearn import BranchedSigNystroem
    >>> paths = np.cumsum(np.random.default_rng(0).normal(size=(300, 20, 2)), axis=1)
    >>> ends = paths[:, -1, 0] / np.abs(paths).max(axis=(1, 2))
    >>> model = make_pipeline(
    ...     BranchedSigNystroem(2, n_components=50, random_state=0), Ridge(0.1)
    ... )
    >>> model.fit(paths[:200], ends[:200]).score(paths[200:], ends[200:]) > 0.8
    True
    """

    def __init__(
        self,
        depth: float | None = 2,
        n_components: int = 100,
        *,
        order: int | None = None,
        dyadic_order: int = 0,
        static_kernel: StaticKernel | None = None,
        sigma: float | str | None = None,
        quadrature: Any = "trapezoid",
        normalize: bool | str = "dilation",
        time_aug: bool = False,
        lead_lag: bool = False,
        end_time: float = 1.0,
        base_point: bool = False,
        standardize: bool = False,
        layout: str | None = None,
        batch_size: int = 1000,
        random_state: Any = None,
        n_jobs: int | None = None,
        planar: bool = False,
    ) -> None:
        self.depth = depth
        self.n_components = n_components
        self.order = order
        self.dyadic_order = dyadic_order
        self.static_kernel = static_kernel
        self.sigma = sigma
        self.quadrature = quadrature
        self.normalize = normalize
        self.time_aug = time_aug
        self.lead_lag = lead_lag
        self.end_time = end_time
        self.base_point = base_point
        self.standardize = standardize
        self.layout = layout
        self.batch_size = batch_size
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.planar = planar

    def fit(self, X: Any, y: Any = None) -> BranchedSigNystroem:
        """Draw the landmarks, and find what makes features of kernels with them.

        Parameters
        ----------
        X : array, list or frame
            The training paths, in a form that `branchsig.as_paths` takes.
        y : None
            Ignored.

        Returns
        -------
        BranchedSigNystroem
            This estimator.
        """
        for name in ("n_components", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} is {value!r}: expected an integer >= 1")
        paths, lengths = self._fit_paths(X)
        drawn = check_random_state(self.random_state).permutation(len(paths))[: self.n_components]
        self.component_indices_ = np.sort(drawn)
        chosen = self.component_indices_
        job = self._fit_kernel(paths[chosen], None if lengths is None else lengths[chosen])
        self._landmarks = Known.of(job)
        values, vectors = eigh(self._landmarks.gram())
        kept = values > _ROUNDING * len(values) * np.finfo(np.float64).eps * values[-1]
        self.eigenvalues_ = values[kept][::-1]
        self._whitening = vectors[:, kept][:, ::-1] / np.sqrt(self.eigenvalues_)
        self._n_features_out = len(self.eigenvalues_)
        return self

    def transform(self, X: Any) -> Floats:
        """Return the features of paths, shape (len(X), features), a batch at a time."""
        paths, lengths = self._paths(X)
        features = np.empty((len(paths), self._n_features_out))
        for start in range(0, len(paths), self.batch_size):
            part = slice(start, start + self.batch_size)
            batch = Known.of(self._job(paths[part], None if lengths is None else lengths[part]))
            features[part] = batch.gram(self._landmarks) @ self._whitening
        return features


_ROUNDING = 10.0
"""Roundings of the largest eigenvalue, for every path, that an eigenvalue has to exceed to be told from none."""


class BranchedSigGPKernel(_ReplacedKernels, GenericKernelMixin, Kernel):
    """The branched signature kernel as a covariance of Gaussian processes, whose static kernel is fitted.

    The hyperparameters are the parameters of the static kernel that are above 0. `GaussianProcessRegressor` maximises
    the likelihood over their logarithms, by hand-written derivatives, also through the factors of dilation. Kernels of
    scikit-learn can be added and multiplied: ``ConstantKernel() * BranchedSigGPKernel(...)``.

    Convert paths by `as_samples` first, since Gaussian processes of scikit-learn refuse arrays of three axes. If
    kernels overflow, the likelihood has no value and the search for its maximum stops. Choose `parameter_bounds` that
    exclude this.

    Parameters
    ----------
    depth : int or math.inf, default: 2
        Largest depth of the trees; None or `math.inf` where `order` alone is to bound the forests.
    order : int, optional
        Largest number of nodes of a forest.
    dyadic_order : int, default: 0
        Every cell is split into ``2**order`` by ``2**order`` sub-cells.
    static_kernel : StaticKernel, optional
        Kernel on the space of the points; None is the linear kernel, which has no parameters.
    parameter_bounds : pair of float, "fixed", or dictionary of these by parameter, default: (1e-5, 1e5)
        Where the parameters of the static kernel are looked for.
    quadrature : Quadrature or str, default: "trapezoid"
        The rule for the integral over a sub-cell.
    normalize : bool or "dilation", default: "dilation"
        How kernels are kept in bounds, as in `branched_sig_kernel_gram`.
    time_aug : bool, default: False
        Append time as the last channel.
    lead_lag : bool, default: False
        Replace the paths by their lead-lag transforms.
    end_time : float, default: 1.0
        Time of the last point. Only with `time_aug`.
    base_point : bool, default: False
        Let every path begin at 0, so that the level counts.
    layout : {"nlc", "ncl", "nl"}, optional
        The axes of the data, see `branchsig.as_paths`.
    n_jobs : int, optional
        Number of threads; None for 1.
    planar : bool, default: False
        Sum over ordered forests of planar trees; at depth 1 this is the signature kernel.

    See Also
    --------
    BranchedSigKernel : Kernels for other estimators.
    as_samples : Paths as an array of objects, as Gaussian processes need them.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.gaussian_process import GaussianProcessRegressor
    >>> import branchsig
    >>> from branchsig.frameworks.sklearn import BranchedSigGPKernel, as_samples
    >>> paths = np.cumsum(np.random.default_rng(0).normal(size=(40, 10, 2)) / 4, axis=1)
    >>> ends = np.sin(2 * paths[:, -1, 0])
    >>> kernel = BranchedSigGPKernel(
    ...     2, static_kernel=branchsig.RBFKernel(1.0), normalize=True
    ... )
    >>> model = GaussianProcessRegressor(kernel, alpha=1e-2).fit(as_samples(paths), ends)
    >>> model.kernel_.static_kernel.sigma > 1.0
    True
    """

    def __init__(
        self,
        depth: float | None = 2,
        *,
        order: int | None = None,
        dyadic_order: int = 0,
        static_kernel: StaticKernel | None = None,
        parameter_bounds: Any = (1e-5, 1e5),
        quadrature: Any = "trapezoid",
        normalize: bool | str = "dilation",
        time_aug: bool = False,
        lead_lag: bool = False,
        end_time: float = 1.0,
        base_point: bool = False,
        layout: str | None = None,
        n_jobs: int | None = None,
        planar: bool = False,
    ) -> None:
        self.depth = depth
        self.order = order
        self.dyadic_order = dyadic_order
        self.static_kernel = static_kernel
        self.parameter_bounds = parameter_bounds
        self.quadrature = quadrature
        self.normalize = normalize
        self.time_aug = time_aug
        self.lead_lag = lead_lag
        self.end_time = end_time
        self.base_point = base_point
        self.layout = layout
        self.n_jobs = n_jobs
        self.planar = planar
        self._lately: tuple[Known, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lately": ()}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name, with `deep` those of the static kernel too."""
        params: dict[str, Any] = super().get_params(deep)
        if deep:
            nested = _parameters_by_name(self.static_kernel)
            params |= {f"static_kernel__{name}": value for name, value in nested.items()}
        return params

    @property
    def hyperparameters(self) -> list[Hyperparameter]:
        """The parameters of the static kernel that are above 0."""
        return [Hyperparameter(f"static_kernel__{name}", "numeric", bounds) for name, bounds in self._parameters()]

    def _parameters(self) -> list[tuple[str, Any]]:
        kernel, bounds = self.static_kernel, self.parameter_bounds
        names = () if kernel is None else parameters_of(kernel)
        if isinstance(bounds, dict):
            unknown = sorted(set(bounds) - set(names))
            if unknown:
                raise ValueError(
                    f"parameter_bounds has {unknown}: expected some of {list(names)}, the parameters of {kernel!r}"
                )
        of_names = [(name, bounds.get(name, (1e-5, 1e5)) if isinstance(bounds, dict) else bounds) for name in names]
        return [(name, of_name) for name, of_name in of_names if getattr(kernel, name) > 0]

    def _known(self, X: Any) -> Known:
        """The paths with what is found out about each of them alone, which is kept of the three stacks met last.

        A process that predicts asks for the kernels of new paths with the training paths, then for those of the new
        paths with themselves: the training paths are the third when other paths come.
        """
        paths, lengths = _paths_of(X, self.layout)
        spec, how = options_of(
            self.depth,
            self.dyadic_order,
            self.static_kernel,
            self.time_aug,
            self.lead_lag,
            self.end_time,
            self.n_jobs,
            self.quadrature,
            self.order,
            self.normalize,
            base_point=self.base_point,
            planar=self.planar,
        )
        # What is kept must not change with the data of the caller.
        job = prepare.alone(spec, how, paths.copy(), lengths)
        for known in self._lately:
            if (known.job.spec, known.job.how) == (spec, how) and _are_equal(known.job.problem, job.problem):
                break
        else:
            known = Known.of(job)
        if is_built_in(spec.static_kernel):  # others may change and yet be equal
            self._lately = (known, *(one for one in self._lately if one is not known))[:3]
        return known

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
        """Return the kernels of all paths of X with those of Y, or with each other.

        Parameters
        ----------
        X : array of objects, list or array
            Paths.
        Y : array of objects, list or array, optional
            Other paths; None for X.
        eval_gradient : bool, default: False
            Also return the derivatives with respect to the logarithms of the hyperparameters. Only without Y.

        Returns
        -------
        K : array, shape (len(X), len(Y))
            The kernels.
        gradient : array, shape (len(X), len(X), hyperparameters)
            With `eval_gradient`.
        """
        if Y is not None:
            if eval_gradient:
                raise ValueError("Gradient can only be evaluated when Y is None.")
            return self._known(X).gram(self._known(Y))
        if not eval_gradient:
            return self._known(X).gram()
        gram, derivs = self._known(X).with_derivatives()
        of_free = {
            name: place
            for place, name in enumerate(() if self.static_kernel is None else parameters_of(self.static_kernel))
        }
        free = [h.name.removeprefix("static_kernel__") for h in self.hyperparameters if not h.fixed]
        values = np.array([getattr(self.static_kernel, name) for name in free])
        return gram, derivs[:, :, [of_free[name] for name in free]] * values

    def diag(self, X: Any) -> Floats:
        """Return the kernels of the paths with themselves, shape (len(X),)."""
        return self._known(X).diagonal()

    def is_stationary(self) -> bool:
        """Return False."""
        return False

    def __repr__(self) -> str:
        return f"BranchedSigGPKernel({self.depth!r}, static_kernel={self.static_kernel!r})"
