"""The CUDA kernels as instances of the templates of `raw_kernels`: their names, sizes and task structure.

The choice of an instance depends on the registers of a lane; `branchsig.backends.cuda.plans` chooses lanes and warps.
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
    "CompiledKernel",
    "Instance",
    "compiled_kernel",
    "levels_of",
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
    "planar.cuh",
    "planar_order.cuh",
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
"""Rates: the kernels multiply by them instead of dividing by sigma."""


class CompiledKernel(NamedTuple):
    """A static kernel that the CUDA kernels know: its name, parameters, and whether it is dilated."""

    name: str
    parameters: tuple[float, float, float, float]
    dilated: bool


def compiled_kernel(kernel: kernels.StaticKernel) -> CompiledKernel:
    """Return the name and parameters of a static kernel in the CUDA sources; `GIVEN` if they do not know it."""
    if type(kernel) is kernels.DilatedKernel and not kernels.is_linear(kernel.kernel):
        return _in_words(kernel.kernel, dilated=True)
    return _in_words(kernel, dilated=False)


def _in_words(kernel: kernels.StaticKernel, *, dilated: bool) -> CompiledKernel:
    row = TABLE.get(type(kernel), Row(GIVEN, ()))
    name, parameters = row.name, list(row.values(kernel))
    if name == "LINEAR":  # kappa = <scale x, scale y>: a factor for each of the two paths
        parameters = 2 * (parameters or [1.0])
    elif name == "POLYNOMIAL" and not dilated and parameters[0] in (0.0, 1.0):  # degree 0: no increments
        degree, _, scale = parameters
        name, parameters = "LINEAR", [scale if degree else 0.0, degree]
    elif name in _RATES:
        unit, sigma, most = cast(RadialKernel, kernel)._units(single=False)
        parameters = [_RATES[name](sigma, *parameters[1:]), *parameters[1:], 0.0][:2] + [unit, most]
    first, second, third, fourth = (*parameters, 0.0, 0.0, 0.0, 0.0)[:4]
    return CompiledKernel(name, (first, second, third, fourth), dilated=dilated and name != GIVEN)


_UNROLLED_DEPTH = 6
"""Up to this depth every depth has its own instance of each kernel, with unrolled loops over levels."""

_IN_REGISTERS = 4
"""Largest number of levels for which wide strips still fit in registers. A grid keeps one level more than a value."""

_BASE = 8
"""Base of the checkpoint numbering of passes; BASE in sweep.cuh."""


CHANNELS = 4
"""Number of channels of a path that are read together; some instances read twice as many."""

ANY_DIMENSION = (CHANNELS, 2 * CHANNELS, 2 * CHANNELS + 1)
"""Dimensions that together need the instances of all dimensions."""

_WIDEST = 4
"""Largest number of columns of a strip."""


def levels_of(order: float, bound: int) -> int:
    """Return how many sums by depth and number of nodes there are; `bound` as in `Instance`."""
    return int(bound * (order - bound + 1) if bound else order)


@functools.cache
def source() -> str:
    """Return the CUDA source text of all templates, with the enumeration of the static kernels in front."""
    folder = Path(__file__).parents[2] / "raw_kernels"
    files = ((folder / name).read_text(encoding="utf-8") for name in _SOURCES)
    return "\n".join((f"enum {{ {', '.join(NAMES)} }};", *files))


@dataclasses.dataclass(frozen=True)
class Instance:
    """The template arguments of one kernel.

    `depth` is 0 if the depth is passed at run time, and 1 without truncation. Each lane has a strip of `columns` cells;
    the `rule` has `p` intervals along a side of a cell. With `log_domain` it is the form that decides on values in
    doubt, in the log domain except over ordered forests. An instance for `padded` paths keeps the sizes of each pair,
    which takes registers. It reads `channels` channels of a path together and holds them in registers; with `more`, it
    reads further channels in every step. With `parameters` it also sums the gradients with respect to the parameters of
    the static kernel. `bound` is the largest depth if a number of nodes truncates too, and 0 if only one of them does.
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
    log_domain: bool
    padded: bool = False
    channels: int = 4
    more: bool = False
    parameters: bool = False
    bound: int = 0

    @property
    def expression(self) -> str:
        """The kernel as a C++ template instance."""
        size = self.columns if self.rule in ("Staggered", "Planar") else self.p
        form = str(self.bound) if self._components else _flag(self.log_domain)
        arguments = f"{self.real}, {self.work}, {self.depth}, {size}, {_flag(self.grid)}, {form}"
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
        """Number of points (linear kernels: steps) of the second path whose gradients a lane sums."""
        return self.columns + (self.static_kernel != "LINEAR")

    def lag(self, levels: int) -> int:
        """Rows by which the last level trails the increments."""
        return levels + 1 if self.rule == "Staggered" else 0

    @property
    def handed_on(self) -> int:
        """Values per level in an edge: DOWN of the rule; for the backward kernel the larger of DOWN and UP."""
        bounds = 2 * (self._components or self.log_domain)
        if self.rule == "Staggered":
            down, up = 1, 3
        elif self.rule == "Trapezoid":
            down, up = 2 + bounds, 3
        elif self._every_row:  # the edges of the forward sweep are stored beside that of the backward sweep
            return self._up if self.kernel == "backward" else self._down
        else:
            down, up = (1 + (self.rule != "PlanarOrder")) * self.p + bounds, 3 * self.p + 1
        return down if self.kernel == "forward" else max(down, up)

    @property
    def _components(self) -> bool:
        """Whether it computes components by number of nodes."""
        return self.rule in ("Order", "PlanarOrder")

    @property
    def _every_row(self) -> bool:
        """Whether the backward sweep reads the values of every row from memory."""
        return self.rule in ("Untruncated", "Planar")

    @property
    def _down(self) -> int:
        """DOWN of such a rule."""
        return 1 + 4 * self.log_domain if self.rule == "Planar" else 2 * self.p + 3 * self.log_domain

    @property
    def _up(self) -> int:
        return 3 if self.rule == "Planar" else 2 * self.p + 1

    def kept(self, rows: int, columns: int, warps: int, *, by_pass: bool) -> int:
        """Values per level that the forward sweep stores for the backward sweep, in addition to one edge."""
        if not self._every_row:
            return columns * self.p + 1
        strips = -(-columns // self.span)
        nodes, edge = (rows + 33) * 33 * self.columns * self.p**2, rows * self._down
        if not by_pass:
            return edge + strips * nodes
        edges, passes = 0, -(-strips // warps)
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
        log_domain: bool,
        components: bool = False,
        planar: bool = False,
        bound: int = 0,
        padded: bool = False,
        dimension: int = 1,
        parameters: bool = False,
    ) -> Instance:
        """Choose the instance with the widest strips that registers allow; see the notes on performance on CUDA."""
        levels = levels_of(depth, bound) if components else depth
        unrolled = int(depth) if levels <= _UNROLLED_DEPTH else 0
        of_depth = depth < math.inf and not (components or planar) and quadrature == TRAPEZOID
        staggered, linear = bool(of_depth and unrolled and not log_domain), static_kernel == "LINEAR"
        channels = 2 * CHANNELS if staggered and linear and not grid and dimension > CHANNELS else CHANNELS
        more = static_kernel != GIVEN and dimension > channels
        work, columns = "double", 1
        if depth == math.inf:
            rule, unrolled = "Untruncated", 1
        elif components:
            rule = "PlanarOrder" if planar else "Order"
        elif planar:
            rule = "Planar"
            others = static_kernel not in ("LINEAR", GIVEN)
            if unrolled and not log_domain and kernel == "forward":  # by the register counts of NVRTC
                columns = _WIDEST if depth + grid <= _UNROLLED_DEPTH else 2
            elif unrolled and not log_domain:
                columns = 2 if depth + grid <= _IN_REGISTERS - (3 if others else more) else 1
        elif staggered:
            rule, work = "Staggered", real
            others = static_kernel not in ("LINEAR", GIVEN)
            if kernel == "forward":
                lacking = int(others and more)
            else:  # by the register counts of NVRTC
                lacking = 1 + (grid or linear) if more else others and real == "double"
            room = depth + grid <= _IN_REGISTERS - lacking
            if kernel == "forward":
                columns = 4 if room and channels == CHANNELS else 2
            else:
                columns = 2 if room else 1
            columns = min(columns * (1 if real == "double" else 2), _WIDEST)
        else:
            rule = "Trapezoid" if of_depth else "Collocation"
        form = (grid, log_domain, padded, channels, more, parameters and static_kernel != GIVEN, bound)
        return cls(kernel, real, work, static_kernel, rule, quadrature.p, unrolled, columns, *form)

    @property
    def divides(self) -> bool:
        """Whether each half of a warp can process a pair. With more channels, which are read in every pass, that costs
        time."""
        able = self.rule == "Staggered" and self.static_kernel != GIVEN and not self.padded
        return able and self.channels == CHANNELS

    def narrower(self) -> Instance:
        """Return the instance with strips of half the width."""
        return dataclasses.replace(self, columns=self.columns // 2)

    def covering(self, columns: int, lanes: int) -> Instance:
        """Return the instance with the narrowest strips with which `lanes` lanes still cover the columns."""
        width = self.columns
        while width > 1 and lanes * width // 2 >= columns:
            width //= 2
        return dataclasses.replace(self, columns=width)


@functools.cache
def weights_of(quadrature: Quadrature) -> np.ndarray:
    """Return the weights of a rule, in the order of collocation.cuh and untruncated.cuh."""
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
    """Return the dtype of the structure Task in sweep.cuh."""
    fields: list[Any] = [(name, np.int64) for name in ("n2", "first_pair", "pairs", "turns", "workspace_size")]
    fields += [("parameter", np.float64, 4), *((name, np.int32) for name in INTEGERS)]
    fields += [("weights", np.float64, weights)]
    return np.dtype(fields, align=True)


def _flag(value: bool) -> str:
    return "true" if value else "false"
