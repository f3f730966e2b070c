"""Plans of calls on a CUDA device, shared by all calls that differ only in the values of their arrays.

A `Plan` holds the sizes of a `Problem`, its chunks, and the instances to launch with their teams, blocks and memory.
`sweep.cuh` defines teams, passes and stages.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from branchsig.backends import pairs
from branchsig.backends.cuda.instances import (
    CHANNELS,
    GIVEN,
    INTEGERS,
    REALS,
    CompiledKernel,
    Instance,
    levels_of,
    task_type,
    weights_of,
)

if TYPE_CHECKING:
    from branchsig.backends.base import Problem
    from branchsig.backends.cuda.backend import CudaBackend

__all__ = ["LIMITS", "PAIRINGS", "Launches", "Limits", "Plan", "bound_of", "has_kernels"]

PAIRINGS = {"paired": 0, "gram": 1, "symmetric": 2}

LAST_LEVEL, ALL_LEVELS, LOGARITHM, DIAGONAL = range(4)
"""Content of a result, as in sweep.cuh."""

_PURPOSES = {"kernel": 0, "log": 1, "difference": 2, "quotient": 3, "part": 4, "rough": 5}
"""Purposes of values, as in elementary.cuh."""

_LARGEST_DEPTH = 15
"""Beyond this depth the reference serves; MOST_LEVELS in sweep.cuh is one larger, for grids."""

_MOST_LEVELS = 16
"""Largest number of levels, as in sweep.cuh."""

_LONGEST_SIDE = 2**28
"""Largest number of refined cells along a path, which are counted in 32 bits."""

_MOST_STAGES = 2**24
"""Largest number of stages of all relayed pairs; each has a progress counter in memory."""

_WARPS_PER_BLOCK, _MOST_TEAMS = 4, 8
_WARPS_PER_PROCESSOR = 16

_MESSAGE = 6
"""Number of values in the message of a stage, as in sweep.cuh."""

_STEPS_OF_A_PASS = 3
"""Cost of starting and ending a pass, in steps."""


class Limits(NamedTuple):
    """Limits of the teams and the memory of a plan."""

    longest_team: int = 8
    """Largest number of warps of a team."""
    relay_team: int = 4
    """Default number of warps of teams that relay a pair, a power of two: one for every scheduler."""
    pairs_per_processor: int = 16
    """Number of pairs per multiprocessor from which half-warps may process pairs."""
    workspace_bytes: int = 2**28
    """Bytes for the workspaces of the pairs in flight."""
    chunk_bytes: int = 2**28
    """Bytes for the increments of a custom kernel, or for the gradients to be summed, of a chunk of pairs."""


LIMITS = Limits()


def bound_of(depth: float, order: int | None) -> int:
    """Return the largest depth if a number of nodes truncates forests too, and 0 if only one of them does."""
    return 0 if order is None or depth >= order else int(depth)


def has_kernels(depth: float, order: int | None, *, planar: bool) -> bool:
    """Tell whether there are kernels for a depth, for a number of nodes, or for both together.

    There are none for depths and numbers of nodes beyond 15, and for both together only over ordered forests, with at
    most 16 levels.
    """
    if order is None:
        return depth <= _LARGEST_DEPTH or depth == math.inf
    if depth < order and not (planar and 0 < levels_of(order, int(depth)) <= _MOST_LEVELS):
        return False
    return order <= _LARGEST_DEPTH


def _aligned(values: int) -> int:
    """Round a number of values up, so that the data after them is aligned for groups of channels."""
    return -(-values // (2 * CHANNELS)) * (2 * CHANNELS)


@dataclasses.dataclass(frozen=True)
class _Launch:
    """The teams that run an instance, with their lanes and warps, and the workspace per pair in flight, in values.

    Without truncation the backward kernel stores the values of all passes or, with `by_pass`, of one pass. A pair is
    processed by one team, or relayed between teams in `stages` stages.
    """

    lanes: int
    warps: int
    teams: int
    pairs: int
    workspace: int
    by_pass: bool = False
    stages: int = 0

    @property
    def teams_per_block(self) -> int:
        per_warp = 32 // self.lanes
        warps = min(-(-self.teams // per_warp), _WARPS_PER_BLOCK, _MOST_TEAMS // per_warp)
        return 1 if self.warps > 1 or self.stages else warps * per_warp

    @property
    def blocks(self) -> int:
        return -(-self.teams // self.teams_per_block)

    @property
    def threads(self) -> int:
        return self.lanes * self.warps * self.teams_per_block

    @property
    def in_flight(self) -> int:
        """Number of pairs that have a workspace at the same time."""
        return self.pairs if self.stages else self.blocks * self.teams_per_block


class Prepared(NamedTuple):
    """A kernel ready to be launched, except for its arrays."""

    function: Any
    blocks: tuple[int]
    threads: tuple[int]
    turns: int  # stages of all relayed pairs
    task: np.ndarray
    argument: np.ndarray  # the task as bytes: CuPy is slow with structured dtypes

    def from_pair(self, first: int) -> np.ndarray:
        """Return the argument for the chunk that starts at pair `first`."""
        if first == 0:
            return self.argument
        task = self.task.copy()
        task["first_pair"] = first
        return _as_bytes(task)


def _as_bytes(task: np.ndarray) -> np.ndarray:
    return task.view(np.dtype((np.void, task.itemsize)))


class Launches(NamedTuple):
    """The kernels to launch on a chunk of pairs, in order, and the size of their shared workspace."""

    workspace_bytes: int
    kernels: tuple[Prepared, ...]


class Plan:
    """The sizes of a call, and its launches. Problems with the same `key_of` share one.

    Parameters
    ----------
    backend : CudaBackend
        The backend, which compiles kernels for the current device.
    problem : Problem
        What is to be computed.
    compiled : CompiledKernel
        Its static kernel.
    grid : bool
        Whether values at every node are requested.
    """

    def __init__(self, backend: CudaBackend, problem: Problem, compiled: CompiledKernel, *, grid: bool) -> None:
        self._backend = backend
        self.grid, self.planar = grid, problem.planar
        # The grids of (x, y) and (y, x) differ, so they are not mirrored.
        self.pairing = "gram" if grid and problem.pairing == "symmetric" else problem.pairing
        self.shapes: tuple[tuple[int, int, int], ...] = problem.path1.shape, problem.path2.shape
        self.dtype = np.dtype(problem.path1.dtype)
        (n1, length1, self.dimension), (n2, length2, _) = self.shapes
        self.orders, self.quadrature, self.lengths2 = problem.dyadic_order, problem.quadrature, problem.lengths2
        self.rows, self.columns = (length1 - 1) << self.orders[0], (length2 - 1) << self.orders[1]
        self.shape = (n1,) if self.pairing == "paired" else (n1, n2)
        self.count = pairs.count(self.pairing, n1, n2)
        self.still = pairs.still(problem)
        self.components = problem.order is not None
        self.truncation = problem.depth if problem.order is None else problem.order
        self.bound = bound_of(problem.depth, problem.order)
        self._has_kernels = has_kernels(problem.depth, problem.order, planar=problem.planar)
        untruncated = self.truncation == math.inf
        self.depth = 1 if untruncated else int(self.truncation)
        if self.components:
            self.levels = levels_of(self.depth, self.bound)
        else:
            self.levels = self.depth - (not (grid or untruncated or self.planar))
        self.static_kernel, self.parameters, self.dilated = compiled
        self.purpose = problem.purpose
        self.padded = problem.lengths1 is not None or problem.lengths2 is not None
        self.prepared: dict[Any, Launches] = {}

    @staticmethod
    def key_of(problem: Problem, compiled: CompiledKernel, *, grid: bool) -> Any:
        """Return the key of all problems that share a plan, or None for padded paths."""
        if problem.lengths1 is not None or problem.lengths2 is not None:
            return None
        shapes = problem.path1.shape, problem.path2.shape
        rules = problem.planar, problem.depth, problem.order, problem.quadrature, problem.dyadic_order, problem.purpose
        return problem.pairing, grid, problem.path1.dtype, shapes, rules, compiled, LIMITS

    @property
    def serves(self) -> bool:
        """Whether the kernels serve the problem; if not, the reference does."""
        return self._has_kernels and max(self.rows, self.columns) < _LONGEST_SIDE

    def chunk(self, *, gradients: bool) -> int:
        """Return the largest number of pairs to process at a time, by the memory of their increments or gradients."""
        (_, length1, dimension), (_, length2, _) = self.shapes
        size = max(self.count, 1)
        if self.static_kernel == GIVEN:
            # A custom kernel needs several arrays of this size.
            size = min(size, LIMITS.chunk_bytes // (8 * self.dtype.itemsize * length1 * length2))
        if gradients and self.pairing != "paired":
            size = min(size, LIMITS.chunk_bytes // (self.dtype.itemsize * (length1 + length2) * dimension))
        return max(size, 1)

    def launches(
        self, kernel: str, count: int, content: int, *, log_domain_only: bool, parameters: bool = False
    ) -> Launches:
        """Return the launches of a kernel for `count` pairs and of its log-domain form after it, or only the latter."""
        key = kernel, count, content, log_domain_only, parameters
        found = self.prepared.get(key)
        if found is None:
            forms = (True,) if log_domain_only else (False,) if self.components else (False, True)
            kernels = [
                self._prepared(kernel, count, content, *strips)
                for log_domain in forms
                for strips in self.strips(kernel, log_domain=log_domain, parameters=parameters)
            ]
            sizes, prepared = zip(*kernels, strict=True)
            found = self.prepared[key] = Launches(max(sizes), prepared)
        return found

    def _prepared(
        self, kernel: str, count: int, content: int, instance: Instance, lanes: int, fewest: int, most: int
    ) -> tuple[int, Prepared]:
        """Return the bytes of the workspace of an instance, and its launch."""
        launch = self.planned(instance, lanes, count, min(self.columns, most))
        weights = weights_of(self.quadrature)
        task = np.zeros(1, dtype=task_type(weights.size))
        (_, length1, dimension), (n2, length2, _) = self.shapes
        teams = launch.warps, launch.lanes, launch.stages, launch.by_pass
        in_logs = not self.planar and (content in (LOGARITHM, DIAGONAL) if kernel == "forward" else content)
        purpose = _PURPOSES[self.purpose or ("part" if self.components else "log" if in_logs else "kernel")]
        contents = (content, 0, purpose) if kernel == "forward" else (0, content or self.planar, purpose)
        sizes = (length1, length2, dimension, *self.orders, self.depth)
        integers = (*sizes, self.dilated, PAIRINGS[self.pairing], fewest, most, *teams, *contents)
        for name, value in zip(INTEGERS, integers, strict=True):
            task[name] = value
        task["n2"], task["pairs"], task["turns"] = n2, count, count * max(launch.stages, 1)
        task["workspace_size"] = launch.workspace
        task["parameter"], task["weights"] = self.parameters, weights
        # At least one value: an empty array has no address.
        size = launch.in_flight * launch.workspace + 1
        size *= 8 if instance.work == "double" else 4
        function = self._backend.function(instance.expression)
        blocks, threads = (launch.blocks,), (launch.threads,)
        return size, Prepared(function, blocks, threads, count * launch.stages, task, _as_bytes(task))

    def widest(self, kernel: str, *, log_domain: bool, parameters: bool = False) -> Instance:
        """Return the instance of a kernel with the widest strips."""
        form: dict[str, Any] = {
            "grid": self.grid,
            "log_domain": log_domain,
            "components": self.components,
            "planar": self.planar,
            "bound": self.bound,
            "padded": self.padded,
        }
        form |= {"dimension": self.dimension - self.dilated, "parameters": parameters}
        real = REALS[self.dtype.itemsize]
        return Instance.widest(kernel, real, self.static_kernel, self.truncation, self.quadrature, **form)

    def strips(
        self, kernel: str, *, log_domain: bool, parameters: bool = False
    ) -> Iterator[tuple[Instance, int, int, int]]:
        """Yield (instance, lanes per team, low, high): the instance serves pairs with low < columns <= high.

        A padded pair gets the strips of an unpadded pair of the same length.
        """
        instance = self.widest(kernel, log_domain=log_domain, parameters=parameters)
        if self.lengths2 is None:
            yield *self.fitted(instance, self.columns), -1, 2**31 - 1
            return
        most: dict[Instance, int] = {}
        for length in np.unique(self.lengths2):
            columns = int(length - 1) << self.orders[1]
            most[self.fitted(instance, columns)[0]] = columns
        fewest = -1
        for narrowest, columns in most.items():
            yield narrowest, 32, fewest, columns
            fewest = columns

    def fitted(self, instance: Instance, columns: int) -> tuple[Instance, int]:
        """Choose the strips and the lanes of a team, by the number of columns and of pairs.

        Strips are no wider than a warp needs, nor so wide that a few pairs leave multiprocessors idle. Half-warps
        process many pairs if that saves steps, since every lane waits for those before it.
        """
        processors = self._backend.processors()
        if instance.divides and self.count >= LIMITS.pairs_per_processor * processors:
            choices = [(instance.covering(columns, lanes), lanes) for lanes in (32, 16)]
            whole, half = (self.work(strips, lanes, columns) for strips, lanes in choices)
            return choices[half < 0.95 * whole]
        instance = instance.covering(columns, 32)
        while instance.columns > 1:
            strips = -(-columns // instance.span)
            if strips >= LIMITS.longest_team or strips * self.count >= 2 * processors:
                break
            instance = instance.narrower()
        return instance, 32

    def work(self, instance: Instance, lanes: int, columns: int) -> int:
        """Estimate the work of a pair; the overhead of a step costs as much as one column of the strip."""
        passes = -(-columns // (lanes * instance.columns))
        steps = self.rows + instance.lag(self.levels) + lanes + _STEPS_OF_A_PASS
        return passes * steps * lanes * (instance.columns + 1)

    def planned(self, instance: Instance, lanes: int, count: int, columns: int) -> _Launch:
        """Choose teams that fill the device, within the limit of the workspace."""
        processors = self._backend.processors()
        room = LIMITS.workspace_bytes // (8 if instance.work == "double" else 4)
        relayed = self.relayed(instance, count, columns, room) if lanes == 32 else None
        if relayed is not None:
            return relayed
        warps = 1
        longest = min(LIMITS.longest_team, 8 * processors // count) if lanes == 32 else 1
        while 2 * warps <= longest and warps * instance.span < columns:
            warps *= 2
        wanted = min(count, max(1, processors * _WARPS_PER_PROCESSOR * 32 // (lanes * warps)))

        workspace = self.workspace(instance, lanes, warps)
        by_pass = False
        if wanted * workspace > room:
            # Another forward sweep costs less than idle multiprocessors.
            of_a_pass = self.workspace(instance, lanes, warps, by_pass=True)
            by_pass, workspace = of_a_pass < workspace, min(of_a_pass, workspace)
        return _Launch(lanes, warps, min(wanted, max(1, room // max(1, workspace))), count, workspace, by_pass)

    def relayed(self, instance: Instance, count: int, columns: int, room: int) -> _Launch | None:
        """Relay pairs if there are so few that this occupies more multiprocessors, and if lanes have more than one
        column."""
        processors = self._backend.processors()
        warps, strips = LIMITS.relay_team, -(-columns // instance.span)
        while warps < LIMITS.longest_team and -(-strips // warps) * count > processors:
            warps *= 2
        passes = -(-strips // warps)
        stages = passes * (2 if instance.kernel == "backward" else 1)
        short = columns <= 32 * LIMITS.longest_team
        workspace = _aligned(self.workspace(instance, 32, warps) + _MESSAGE * stages)
        if short or passes == 1 or 2 * count > processors or count * stages > _MOST_STAGES or count * workspace > room:
            return None
        return _Launch(32, warps, min(count * passes, processors), count, workspace, stages=stages)

    def workspace(self, instance: Instance, lanes: int, warps: int, *, by_pass: bool = False) -> int:
        """Return the workspace of a pair in flight, in values; the kernels lay it out in this order."""
        # In the log domain the last level has an error bound too.
        levels = self.depth if instance.log_domain else self.levels
        (_, length1, dimension), (_, length2, _) = self.shapes
        groups = 0 if self.static_kernel == GIVEN else -(-max(dimension - self.dilated, 1) // instance.channels)
        channels = groups * instance.channels
        # Rows of points are stored in blocks of 32, followed by the sum of |g|. The two factors of a dilated kernel
        # come last, followed by the sums of parameters for every strip of a warp.
        rows1, rows2 = (-(-(length + 1) // 32) * 32 for length in (length1, length2))
        paths = channels * (rows1 + rows2) + 4
        handed_on = (self.rows + instance.lag(levels)) * instance.handed_on * levels
        if instance.kernel == "forward":
            return _aligned(paths + handed_on)
        strips = (self.columns - 1) // (lanes * instance.columns) + 1
        return _aligned(
            paths
            + channels * (rows1 + lanes * strips * instance.slots)
            + handed_on
            + levels * instance.kept(self.rows, self.columns, warps, by_pass=by_pass)
            + strips * (1 + 2 * instance.parameters)
            + 2
        )
