"""The linear static kernels, κ(x, y) = scale² ⟨x, y⟩."""

from __future__ import annotations

import dataclasses

from branchsig._arrays import Array, namespace_of
from branchsig.static_kernels.base import (
    Context,
    Parameters,
    difference,
    difference_adjoint,
    real,
    transposed,
    weighted_sum,
)

__all__ = ["LINEAR", "LinearBody", "LinearKernel", "ScaledLinearKernel"]


class LinearBody(Parameters):
    """κ(x, y) = factor² ⟨x, y⟩.

    Its increments are ⟨factor Δx, factor Δy⟩. Differences come first, so an offset of the paths costs no digits; each
    is scaled by itself, so the square of the factor may overflow or underflow.
    """

    @property
    def _factor(self) -> float:
        return 1.0

    def __call__(self, ctx: Context, x: Array, y: Array) -> Array:
        steps = difference(x, -2), difference(y, -2)
        dx, dy = self._scaled(steps[0]), self._scaled(steps[1])
        ctx.save_for_backward(dx, dy, *steps)
        return namespace_of(x).matmul(dx, transposed(dy))

    def grad_x(self, ctx: Context, derivs: Array) -> Array:
        dy = ctx.saved_tensors[1]
        return self._scaled(difference_adjoint(namespace_of(dy).matmul(derivs, dy), -2))

    def grad_y(self, ctx: Context, derivs: Array) -> Array:
        dx = ctx.saved_tensors[0]
        return self._scaled(difference_adjoint(namespace_of(dx).matmul(transposed(derivs), dx), -2))

    def _scaled(self, a: Array) -> Array:
        factor = self._factor
        return a if factor == 1.0 else factor * a


@dataclasses.dataclass(frozen=True)
class LinearKernel(LinearBody):
    r"""The linear kernel, the default.

    .. math:: \kappa(x, y) = \langle x, y \rangle

    See Also
    --------
    ScaledLinearKernel : The same with a scale, which has a gradient.
    RBFKernel : A bounded static kernel.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x = np.array([[0.0], [0.5], [1.0]])
    >>> value = branchsig.branched_sig_kernel(
    ...     x, x, depth=2, static_kernel=branchsig.LinearKernel()
    ... )
    """

    parameters = ()

    def grad_parameters(self, ctx: Context, derivs: Array) -> dict[str, Array]:
        return {}


@dataclasses.dataclass(frozen=True)
class ScaledLinearKernel(LinearBody):
    r"""The scaled linear kernel: the linear kernel of paths multiplied by `scale`.

    .. math:: \kappa(x, y) = \mathrm{scale}^2 \langle x, y \rangle

    Parameters
    ----------
    scale : float or array, shape (), default: 1.0
        Factor of the paths, finite.

    Raises
    ------
    TypeError
        If a parameter is neither a real number nor an array without axes.
    ValueError
        If a parameter is out of range or not finite.

    See Also
    --------
    LinearKernel : The default.
    PolynomialKernel : Powers of the inner product.

    Examples
    --------
    >>> import numpy as np
    >>> import branchsig
    >>> x = np.array([[0.0], [0.5], [1.0]])
    >>> value = branchsig.branched_sig_kernel(
    ...     x, x, depth=2, static_kernel=branchsig.ScaledLinearKernel(0.5)
    ... )
    >>> bool(np.isclose(value, branchsig.branched_sig_kernel(0.5 * x, 0.5 * x, depth=2)))
    True
    """

    scale: float = 1.0

    parameters = ("scale",)

    def __post_init__(self) -> None:
        real(self, "scale")

    @property
    def _factor(self) -> float:
        return self.scale

    def grad_parameters(self, ctx: Context, derivs: Array) -> dict[str, Array]:
        dx, _, _, step_y = ctx.saved_tensors  # scaled steps of one path only, so that scale² is never formed
        return {"scale": 2 * weighted_sum(derivs, namespace_of(dx).matmul(dx, transposed(step_y)))}


LINEAR = LinearKernel()
"""The default static kernel."""
