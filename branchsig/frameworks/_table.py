"""What every framework has. The documentation shows this table, and the tests run by it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TABLE", "Has", "as_markdown"]


class Has(NamedTuple):
    """What is served in a framework: how it is called there, or an empty string where there is no such thing."""

    framework: str
    gradients: str
    """With respect to paths and to parameters of static kernels."""
    maps: str
    """Functions along an axis."""
    programs: str
    second: str
    """Second derivatives with respect to paths: how they come about, or "refused"."""
    forward: str
    """Derivatives forward, likewise."""

    def __repr__(self) -> str:
        return self.framework


TABLE = {
    "torch": Has(
        framework="PyTorch",
        gradients="`requires_grad`, `torch.func.grad`, `vjp`, `jacrev`",
        maps="`torch.vmap`",
        programs="`torch.compile(fullgraph=True)`, `torch.export`",
        second="by the reference",
        forward="by the reference",
    ),
    "jax": Has(
        framework="JAX",
        gradients="`jax.grad`, `vjp`, `jacrev`, `checkpoint`",
        maps="`jax.vmap`, `lax.map`, `shard_map`",
        programs="`jax.jit`, `lax.scan`, `jax.export`",
        second="refused",
        forward="refused",
    ),
    "autograd": Has(
        framework="autograd",
        gradients="`autograd.grad`, `value_and_grad`, `jacobian`",
        maps="",
        programs="",
        second="refused",
        forward="refused",
    ),
    "tensorflow": Has(
        framework="TensorFlow",
        gradients="`tf.GradientTape`",
        maps="`tf.map_fn`",
        programs="`tf.function`",
        second="refused",
        forward="refused",
    ),
    "pytensor": Has(
        framework="PyTensor, PyMC",
        gradients="`pytensor.grad`",
        maps="",
        programs="`pytensor.function`, with Numba and without",
        second="refused",
        forward="refused",
    ),
    "dask": Has(
        framework="Dask",
        gradients="lazy results of `*_vjp` and `*_backprop`",
        maps="",
        programs="lazy values, chunk by chunk",
        second="",
        forward="",
    ),
}
"""By the names of their files."""

_TITLES = ("", "gradients", "along an axis", "programs", "second derivatives", "derivatives forward")


def as_markdown() -> list[str]:
    """Return the table as lines of Markdown."""
    rows = [_TITLES, ("---",) * len(_TITLES), *TABLE.values()]
    return [f"| {' | '.join(cell or '–' for cell in row)} |" for row in rows]
