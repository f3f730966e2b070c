"""Plans of calls on a CUDA device: what is made once for all calls that differ in the values of their arrays alone.

A `Problem` comes in; its sizes, its chunks, and the instances to launch with their teams, blocks and memory go out. See
`sweep.cuh` for what teams, passes and stages are.
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
    Fused,
    Instance,
    task_type,
    weights_of,
)

if TYPE_CHECKING:
    from branchsig.backends.base import Problem
    from branchsig.backends.cuda.backend import CudaBackend

__all__ = ["LARGEST_DEPTH", "LIMITS", "PAIRINGS", "Launches", "Limits", "Plan"]

PAIRINGS = {"paired": 0, "gram": 1, "symmetric": 2}

LAST_LEVEL, ALL_LEVELS, LOGARITHM, DIAGONAL = range(4)
"""What a result holds, as in sweep.cuh."""

_PURPOSES = {"kernel": 0, "log": 1, "difference": 2, "quotient": 3, "part": 4, "rough": 5}
"""What values are asked for, as in elementary.cuh."""

LARGEST_DEPTH = 15
"""Beyond it the reference serves; MOST_LEVELS in sweep.cuh holds one level more, for grids."""

_LONGEST_SIDE = 2**28
"""Refined cells along a path are counted in 32 bits."""

_MOST_STAGES = 2**24
"""Stages of all pairs that are relayed; how far each has come is kept in memory."""

_WARPS_PER_BLOCK, _MOST_TEAMS = 4, 8
_WARPS_PER_PROCESSOR = 16

_MESSAGE = 6
"""Values that a stage tells others, as in sweep.cuh."""

_STEPS_OF_A_PASS = 3
"""What it costs to begin and end a pass, in steps."""


class Limits(NamedTuple):
    """What bounds the teams and the memory of a plan."""

    longest_team: int = 8
    """Warps of a team, at most."""
    relay_team: int = 4
    """Warps of the teams that relay a pair, a power of two, if not more are needed: one for every scheduler."""
    pairs_per_processor: int = 16
    """So many pairs to a multiprocessor may be done by halves of warps."""
    workspace_bytes: int = 2**28
    """Memory for the workspaces of the pairs in flight."""
    chunk_bytes: int = 2**28
    """Memory for what a chunk of pairs hands on: increments of a user's own kernel, or gradients to be summed."""


LIMITS = Limits()


def _aligned(values: int) -> int:
    """Round a number of values up, so that what stands behind them can be read by groups of channels."""
    return -(-values // (2 * CHANNELS)) * (2 * CHANNELS)


@dataclasses.dataclass(frozen=True)
class _Launch:
    """How many teams of how many lanes and warps run an instance, and the values of work for each pair in flight.

    Of kernels without truncation the way back has the values of one pass in memory, or of all. A pair is done by a
    team, or relayed through so many `stages` from team to team.
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
        """Pairs that have a workspace at a time."""
        return self.pairs if self.stages else self.blocks * self.teams_per_block


class Prepared(NamedTuple):
    """A kernel that is ready to be launched, but for its arrays."""

    function: Any
    blocks: tuple[int]
    threads: tuple[int]
    turns: int  # of pairs that are relayed
    task: np.ndarray
    argument: np.ndarray  # the task as bytes: CuPy takes long over a structure with fields

    def from_pair(self, first: int) -> np.ndarray:
        """Return the argument for pairs from one on."""
        if first == 0:
            return self.argument
        task = self.task.copy()
        task["first_pair"] = first
        return _as_bytes(task)


def _as_bytes(task: np.ndarray) -> np.ndarray:
    return task.view(np.dtype((np.void, task.itemsize)))


class Launches(NamedTuple):
    """The kernels to be launched on a chunk of pairs, one after the other, and the workspace that they share."""

    workspace_bytes: int
    kernels: tuple[Prepared, ...]


class Plan:
    """The sizes of a call, and its launches. Problems with the same `key_of` share one.

    Parameters
    ----------
    backend : CudaBackend
        Compiles the kernels, and knows the current device.
    problem : Problem
        What is to be computed.
    made : Fused
        Its static kernel.
    grid : bool
        Whether values are asked for at every node.
    """

    def __init__(self, backend: CudaBackend, problem: Problem, made: Fused, *, grid: bool) -> None:
        self._backend = backend
        self.grid = grid
        # A grid is that of (x, y) in this order, so it is not mirrored.
        self.pairing = "gram" if grid and problem.pairing == "symmetric" else problem.pairing
        self.shapes: tuple[tuple[int, int, int], ...] = problem.path1.shape, problem.path2.shape
        self.dtype = np.dtype(problem.path1.dtype)
        (n1, length1, self.dimension), (n2, length2, _) = self.shapes
        self.orders, self.quadrature, self.lengths2 = problem.dyadic_order, problem.quadrature, problem.lengths2
        self.rows, self.columns = (length1 - 1) << self.orders[0], (length2 - 1) << self.orders[1]
        self.shape = (n1,) if self.pairing == "paired" else (n1, n2)
        self.count = pairs.count(self.pairing, n1, n2)
        self.still = pairs.still(problem)
        self.parts = problem.order is not None
        self.truncation = problem.depth if problem.order is None else problem.order
        self.bounded_twice = self.parts and problem.largest_depth < self.truncation
        untruncated = self.truncation == math.inf
        self.depth = 1 if untruncated else int(self.truncation)
        self.levels = self.depth - (not grid and not untruncated and not self.parts)
        self.static_kernel, self.parameters, self.dilated = made
        self.purpose = problem.purpose
        self.padded = problem.lengths1 is not None or problem.lengths2 is not None
        self.made: dict[Any, Launches] = {}

    @staticmethod
    def key_of(problem: Problem, made: Fused, *, grid: bool) -> Any:
        """Return what problems have in common that share a plan, or None where lengths stand in the way."""
        if problem.lengths1 is not None or problem.lengths2 is not None:
            return None
        shapes = problem.path1.shape, problem.path2.shape
        rules = problem.depth, problem.order, problem.quadrature, problem.dyadic_order, problem.purpose
        return problem.pairing, grid, problem.path1.dtype, shapes, rules, made, LIMITS

    @property
    def serves(self) -> bool:
        """Whether the kernels serve the problem; if not, the reference does."""
        able = not self.bounded_twice and (self.truncation <= LARGEST_DEPTH or self.truncation == math.inf)
        return able and max(self.rows, self.columns) < _LONGEST_SIDE

    def chunk(self, *, gradients: bool) -> int:
        """Return the largest number of pairs to be done at a time, by what they hand on."""
        (_, length1, dimension), (_, length2, _) = self.shapes
        size = max(self.count, 1)
        if self.static_kernel == GIVEN:
            # The points a kernel of the user's own works with are several arrays of this size.
            size = min(size, LIMITS.chunk_bytes // (8 * self.dtype.itemsize * length1 * length2))
        if gradients and self.pairing != "paired":
            size = min(size, LIMITS.chunk_bytes // (self.dtype.itemsize * (length1 + length2) * dimension))
        return max(size, 1)

    def launches(
        self, kernel: str, count: int, kind: int, *, careful_alone: bool, parameters: bool = False
    ) -> Launches:
        """Return the launches of a kernel for so many pairs, and its careful form behind it, or that alone."""
        key = kernel, count, kind, careful_alone, parameters
        found = self.made.get(key)
        if found is None:
            forms = (True,) if careful_alone else (False,) if self.parts else (False, True)
            made = [
                self._prepared(kernel, count, kind, *strips)
                for careful in forms
                for strips in self.strips(kernel, careful=careful, parameters=parameters)
            ]
            sizes, prepared = zip(*made, strict=True)
            found = self.made[key] = Launches(max(sizes), prepared)
        return found

    def _prepared(
        self, kernel: str, count: int, kind: int, instance: Instance, lanes: int, fewest: int, most: int
    ) -> tuple[int, Prepared]:
        """Bytes of the workspace, and the launch, of an instance."""
        launch = self.planned(instance, lanes, count, min(self.columns, most))
        weights = weights_of(self.quadrature)
        task = np.zeros(1, dtype=task_type(weights.size))
        (_, length1, dimension), (n2, length2, _) = self.shapes
        teams = launch.warps, launch.lanes, launch.stages, launch.by_pass
        in_logs = kind in (LOGARITHM, DIAGONAL) if kernel == "forward" else kind
        purpose = _PURPOSES[self.purpose or ("part" if self.parts else "log" if in_logs else "kernel")]
        kinds = (kind, 0, purpose) if kernel == "forward" else (0, kind, purpose)
        sizes = (length1, length2, dimension, *self.orders, self.depth)
        integers = (*sizes, self.dilated, PAIRINGS[self.pairing], fewest, most, *teams, *kinds)
        for name, value in zip(INTEGERS, integers, strict=True):
            task[name] = value
        task["n2"], task["pairs"], task["turns"] = n2, count, count * max(launch.stages, 1)
        task["workspace_size"] = launch.workspace
        task["parameter"], task["weights"] = self.parameters, weights
        # One value at least: an array without memory has no address.
        size = launch.in_flight * launch.workspace + 1
        size *= 8 if instance.work == "double" else 4
        function = self._backend.function(instance.expression)
        blocks, threads = (launch.blocks,), (launch.threads,)
        return size, Prepared(function, blocks, threads, count * launch.stages, task, _as_bytes(task))

    def widest(self, kernel: str, *, careful: bool, parameters: bool = False) -> Instance:
        """Return the instance of a kernel with the widest strips."""
        form: dict[str, Any] = {"grid": self.grid, "careful": careful, "parts": self.parts, "padded": self.padded}
        form |= {"dimension": self.dimension - self.dilated, "parameters": parameters}
        real = REALS[self.dtype.itemsize]
        return Instance.widest(kernel, real, self.static_kernel, self.truncation, self.quadrature, **form)

    def strips(
        self, kernel: str, *, careful: bool, parameters: bool = False
    ) -> Iterator[tuple[Instance, int, int, int]]:
        """Instances, the lanes of their teams, and the columns of their pairs: more than the third, at most the fourth.

        A padded pair gets the strips of a pair that is as short.
        """
        instance = self.widest(kernel, careful=careful, parameters=parameters)
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
        """Choose strips for a number of columns and that of the pairs, and the lanes of a team.

        No wider than a warp needs them, nor so wide that few pairs leave the device without work. Many pairs are done
        by halves of warps where that saves steps, for every lane waits for those before it.
        """
        processors = self._backend.processors()
        if instance.divides and self.count >= LIMITS.pairs_per_processor * processors:
            choices = [(instance.covering(columns, lanes), lanes) for lanes in (32, 16)]
            whole, half = (self.work(strips, lanes, columns) for strips, lanes in choices)
            return choices[half < 0.95 * whole]
        instance = instance.covering(columns, 32)
        while instance.columns > 1:
            parts = -(-columns // instance.span)
            if parts >= LIMITS.longest_team or parts * self.count >= 2 * processors:
                break
            instance = instance.narrower()
        return instance, 32

    def work(self, instance: Instance, lanes: int, columns: int) -> int:
        """Return about the work of a pair; a step of a lane costs as much as a column of its strip beside the strip."""
        passes = -(-columns // (lanes * instance.columns))
        steps = self.rows + instance.lag(self.levels) + lanes + _STEPS_OF_A_PASS
        return passes * steps * lanes * (instance.columns + 1)

    def planned(self, instance: Instance, lanes: int, count: int, columns: int) -> _Launch:
        """Choose the teams that fill the device, as far as the workspace and `max_batch` allow."""
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
            # Another sweep down costs less than processors without work.
            of_a_pass = self.workspace(instance, lanes, warps, by_pass=True)
            by_pass, workspace = of_a_pass < workspace, min(of_a_pass, workspace)
        return _Launch(lanes, warps, min(wanted, max(1, room // max(1, workspace))), count, workspace, by_pass)

    def relayed(self, instance: Instance, count: int, columns: int, room: int) -> _Launch | None:
        """Relay pairs that are so few that this gives more processors work, and more than a column for every lane."""
        processors = self._backend.processors()
        warps, parts = LIMITS.relay_team, -(-columns // instance.span)
        while warps < LIMITS.longest_team and -(-parts // warps) * count > processors:
            warps *= 2
        passes = -(-parts // warps)
        stages = passes * (2 if instance.kernel == "backward" else 1)
        short = columns <= 32 * LIMITS.longest_team
        workspace = _aligned(self.workspace(instance, 32, warps) + _MESSAGE * stages)
        if short or passes == 1 or 2 * count > processors or count * stages > _MOST_STAGES or count * workspace > room:
            return None
        return _Launch(32, warps, min(count * passes, processors), count, workspace, stages=stages)

    def workspace(self, instance: Instance, lanes: int, warps: int, *, by_pass: bool = False) -> int:
        """Return the values of work a pair in flight needs; the kernels lay them out in this order."""
        # Logarithms have a bound of the last level too.
        levels = self.depth if instance.careful else self.levels
        (_, length1, dimension), (_, length2, _) = self.shapes
        groups = 0 if self.static_kernel == GIVEN else -(-max(dimension - self.dilated, 1) // instance.channels)
        channels = groups * instance.channels
        # Rows of points are laid out by blocks of 32, and the sum of |g| behind them; the two factors of a dilated
        # kernel come last, and behind them what parameters have of every part.
        rows1, rows2 = (-(-(length + 1) // 32) * 32 for length in (length1, length2))
        paths = channels * (rows1 + rows2) + 4
        handed_on = (self.rows + instance.lag(levels)) * instance.handed_on * levels
        if instance.kernel == "forward":
            return _aligned(paths + handed_on)
        parts = (self.columns - 1) // (lanes * instance.columns) + 1
        return _aligned(
            paths
            + channels * (rows1 + lanes * parts * instance.slots)
            + handed_on
            + levels * instance.kept(self.rows, self.columns, warps, by_pass=by_pass)
            + parts * (1 + 2 * instance.parameters)
            + 2
        )
