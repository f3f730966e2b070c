"""The CUDA kernels as instances of the templates of `raw_kernels`: their names, their sizes, and their task.

Which instance serves a problem depends on what the registers of a lane hold; how many lanes and warps run it is up to
`branchsig.backends.cuda.plans`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from branchsig import static_kernels as kernels
from branchsig.quadrature import TRAPEZOID, Quadrature
from branchsig.static_kernels.radial import RadialKernel
from branchsig.static_kernels.table import GIVEN, NAMES, TABLE, Row

__all__ = [
    "ANY_DIMENSION",
    "CHANNELS",
    "GIVEN",
    "INTEGERS",
    "REALS",
    "Fused",
    "Instance",
    "fused",
    "source",
    "task_type",
    "weights_of",
]

_SOURCES = (
    "elementary.cuh",
    "static.cuh",
    "parameters.cuh",
    "increments.cuh",
    "sweep.cuh",
    "trapezoid.cuh",
    "staggered.cuh",
    "collocation.cuh",
    "order.cuh",
    "untruncated.cuh",
    "gradients.cuh",
    "forward.cu",
    "backward.cu",
)

REALS = {4: "float", 8: "double"}

_RATES: dict[str, Callable[..., float]] = {
    "RBF": lambda sigma: 1.0 / sigma,
    "MATERN12": lambda sigma: 1.0 / sigma,
    "MATERN32": lambda sigma: math.sqrt(3.0) / sigma,
    "MATERN52": lambda sigma: math.sqrt(5.0) / sigma,
    "RATIONAL_QUADRATIC": lambda sigma, alpha: 1.0 / sigma / math.sqrt(2.0) / math.sqrt(alpha),
}
"""What the kernels multiply by, in the place of a division by sigma."""


class Fused(NamedTuple):
    """A static kernel in the words of the kernels."""

    name: str
    parameters: tuple[float, float, float, float]
    dilated: bool


def fused(kernel: kernels.StaticKernel) -> Fused:
    """Return how the kernels make the increments of a static kernel, dilated or not."""
    if type(kernel) is kernels.DilatedKernel and not kernels.is_linear(kernel.kernel):
        return _in_words(kernel.kernel, dilated=True)
    return _in_words(kernel, dilated=False)


def _in_words(kernel: kernels.StaticKernel, *, dilated: bool) -> Fused:
    row = TABLE.get(type(kernel), Row(GIVEN, ()))
    name, parameters = row.name, list(row.values(kernel))
    if name == "LINEAR":  # kappa = <scale x, scale y>: a factor for each of the two paths
        parameters = 2 * (parameters or [1.0])
    elif name == "POLYNOMIAL" and not dilated and parameters[0] in (0.0, 1.0):  # constants have no increments
        degree, _, scale = parameters
        name, parameters = "LINEAR", [scale if degree else 0.0, degree]
    elif name in _RATES:
        unit, sigma, most = cast(RadialKernel, kernel)._units(single=False)
        parameters = [_RATES[name](sigma, *parameters[1:]), *parameters[1:], 0.0][:2] + [unit, most]
    first, second, third, fourth = (*parameters, 0.0, 0.0, 0.0, 0.0)[:4]
    return Fused(name, (first, second, third, fourth), dilated=dilated and name != GIVEN)


_UNROLLED_DEPTH = 6
"""Up to this depth there is an instance of every kernel for the depth alone, and levels are no indices at run time."""

_IN_REGISTERS = 4
"""Levels whose state leaves room for wide strips, at most; a grid has one more than the values of its depth."""

_BASE = 8
"""That of the numbers of passes in sweep.cuh, where the edges between them are kept."""


CHANNELS = 4
"""Channels of a path that are read together, or twice as many."""

ANY_DIMENSION = (CHANNELS, 2 * CHANNELS, 2 * CHANNELS + 1)
"""Fewer channels, or more, are like these."""

_WIDEST = 4
"""Columns of a strip, at most."""


@functools.cache
def source() -> str:
    """Return the CUDA source text, of which every kernel is an instance, the static kernels by their names."""
    folder = Path(__file__).parents[2] / "raw_kernels"
    files = ((folder / name).read_text(encoding="utf-8") for name in _SOURCES)
    return "\n".join((f"enum {{ {', '.join(NAMES)} }};", *files))


@dataclasses.dataclass(frozen=True)
class Instance:
    """The template arguments of one kernel.

    `depth` is 0 where the depth is handed over at run time, and 1 without truncation. A strip of `columns` cells
    belongs to a lane, and the `rule` has `p` intervals along a side of a cell. An instance for `padded` paths has sizes
    of its own for every pair, which takes registers. So many `channels` of a path are read together, and held; an
    instance for paths of `more` channels reads the others in every step. One for `parameters` of the static kernel sums
    the gradients with respect to these.
    """

    kernel: str
    real: str
    work: str
    static_kernel: str
    rule: str
    p: int
    depth: int
    columns: int
    grid: bool
    careful: bool
    padded: bool = False
    channels: int = 4
    more: bool = False
    parameters: bool = False

    @property
    def expression(self) -> str:
        """The kernel in the words of C++."""
        size = self.columns if self.rule == "Staggered" else self.p
        arguments = f"{self.real}, {self.work}, {self.depth}, {size}, {_flag(self.grid)}, {_flag(self.careful)}"
        rule = f"{self.rule}<{arguments}>"
        paths = f"{self.static_kernel}, {self.channels}, {_flag(self.more)}"
        flags = (self.padded, self.parameters) if self.kernel == "backward" else (self.padded,)
        return f"{self.kernel}<{self.real}, {paths}, {rule}, {', '.join(map(_flag, flags))}>"

    @property
    def span(self) -> int:
        """Columns of a warp."""
        return 32 * self.columns

    @property
    def slots(self) -> int:
        """Points (linear kernels: steps) of the second path that a lane sums the gradients of."""
        return self.columns + (self.static_kernel != "LINEAR")

    def lag(self, levels: int) -> int:
        """Rows by which the last level trails the increments."""
        return levels + 1 if self.rule == "Staggered" else 0

    @property
    def handed_on(self) -> int:
        """The values of a level in an edge: DOWN, or for the way back UP, of the rule, and no less than DOWN."""
        bounds = 2 * (self.rule == "Order" or self.careful)
        if self.rule == "Staggered":
            down, up = 1, 3
        elif self.rule == "Trapezoid":
            down, up = 2 + bounds, 3
        elif self.rule == "Untruncated":
            return 2 * self.p + (1 if self.kernel == "backward" else 3 * self.careful)
        else:
            down, up = 2 * self.p + bounds, 3 * self.p + 1
        return down if self.kernel == "forward" else max(down, up)

    def kept(self, rows: int, columns: int, warps: int, *, by_pass: bool) -> int:
        """The values of a level that the sweep down leaves for the way back, beside one edge."""
        if self.rule != "Untruncated":
            return columns * self.p + 1
        parts = -(-columns // 32)
        nodes, edge = (rows + 33) * 33 * self.p**2, rows * (2 * self.p + 3 * self.careful)
        if not by_pass:
            return edge + parts * nodes
        edges, passes = 0, -(-parts // warps)
        while passes:
            edges += min(passes, _BASE - 1)
            passes //= _BASE
        return edges * edge + warps * nodes

    @classmethod
    def widest(
        cls,
        kernel: str,
        real: str,
        static_kernel: str,
        depth: float,
        quadrature: Quadrature,
        *,
        grid: bool,
        careful: bool,
        parts: bool = False,
        padded: bool = False,
        dimension: int = 1,
        parameters: bool = False,
    ) -> Instance:
        """Choose the instance whose strips are as wide as its registers allow; see the notes on performance on CUDA."""
        unrolled = int(depth) if depth <= _UNROLLED_DEPTH else 0
        of_depth = depth < math.inf and not parts and quadrature == TRAPEZOID
        staggered, linear = bool(of_depth and unrolled and not careful), static_kernel == "LINEAR"
        channels = 2 * CHANNELS if staggered and linear and not grid and dimension > CHANNELS else CHANNELS
        more = static_kernel != GIVEN and dimension > channels
        work, columns = "double", 1
        if depth == math.inf:
            rule, unrolled = "Untruncated", 1
        elif staggered:
            rule, work = "Staggered", real
            others = static_kernel not in ("LINEAR", GIVEN)
            if kernel == "forward":
                lacking = int(others and more)
            else:  # as NVRTC tells of registers
                lacking = 1 + (grid or linear) if more else others and real == "double"
            room = depth + grid <= _IN_REGISTERS - lacking
            if kernel == "forward":
                columns = 4 if room and channels == CHANNELS else 2
            else:
                columns = 2 if room else 1
            columns = min(columns * (1 if real == "double" else 2), _WIDEST)
        else:
            rule = "Trapezoid" if of_depth else "Order" if parts else "Collocation"
        form = (grid, careful, padded, channels, more, parameters and static_kernel != GIVEN)
        return cls(kernel, real, work, static_kernel, rule, quadrature.p, unrolled, columns, *form)

    @property
    def divides(self) -> bool:
        """Whether each half of a warp can do a pair, and may save time: more channels are read in every pass."""
        able = self.rule == "Staggered" and self.static_kernel != GIVEN and not self.padded
        return able and self.channels == CHANNELS

    def narrower(self) -> Instance:
        """The same with strips of half the width."""
        return dataclasses.replace(self, columns=self.columns // 2)

    def covering(self, columns: int, lanes: int) -> Instance:
        """The same with strips no wider than so many lanes need them."""
        width = self.columns
        while width > 1 and lanes * width // 2 >= columns:
            width //= 2
        return dataclasses.replace(self, columns=width)


@functools.cache
def weights_of(quadrature: Quadrature) -> np.ndarray:
    """Return the weights of a rule, as collocation.cuh and untruncated.cuh have them."""
    steps = np.array(quadrature.steps)
    until = np.cumsum(steps, axis=0)
    norms = np.abs(until[:, 1:]).sum(axis=1).max(), np.abs(steps[:, 1:]).sum()
    return np.concatenate((steps.ravel(), np.ravel(quadrature.whole), steps.sum(axis=1), until.ravel(), norms))


INTEGERS = (
    "length1", "length2", "dimension", "order1", "order2", "depth", "dilated",
    "pairing", "fewest", "most", "warps", "lanes", "stages", "by_pass", "content", "wrt_log",
    "purpose",
)  # fmt: skip


@functools.cache
def task_type(weights: int) -> np.dtype:
    """Return the type of a Task of sweep.cuh."""
    fields: list[Any] = [(name, np.int64) for name in ("n2", "first_pair", "pairs", "turns", "workspace_size")]
    fields += [("parameter", np.float64, 4), *((name, np.int32) for name in INTEGERS)]
    fields += [("weights", np.float64, weights)]
    return np.dtype(fields, align=True)


def _flag(value: bool) -> str:
    return "true" if value else "false"
