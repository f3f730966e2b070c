"""No two threads of a CUDA kernel touch memory without an order between them, and every barrier is there for that.

The emulator looks for races by what orders the threads, not by what happens to go wrong; see cuda_emulation/races.h.
"""

import math
import re

import numpy as np
import pytest
from cases import gradients_of, problem
from cuda_cases import OnDevice, drawn, emulated_cupy, kernel_named, limit, relays, with_short_teams

from branchsig.backends import cuda
from branchsig.quadrature import BY_NAME
from branchsig.static_kernels import DilatedKernel


@pytest.fixture(autouse=True)
def watched(monkeypatch):
    monkeypatch.setattr(emulated_cupy, "watch_for_races", True)
    monkeypatch.setattr(emulated_cupy, "PROCESSORS", 1)  # so that a team does several pairs


TEAMS = [
    "one warp",
    "warps side by side",
    "several warps",
    "halves of warps",
    "relays of one warp",
    "relays of two warps",
]


def backend_of(teams, monkeypatch):
    backend = OnDevice(emulated_cupy)
    if teams.startswith("relays"):
        return with_short_teams(backend, 1 if "one" in teams else 2, monkeypatch)
    alone = {"workspace_bytes": 1}
    limits = {
        "one warp": alone | {"longest_team": 1},
        "warps side by side": {"longest_team": 1},
        "several warps": alone,
        "halves of warps": alone | {"pairs_per_processor": 0},
    }
    limit(monkeypatch, **limits[teams])
    return backend


FAMILIES = {
    "linear": {},
    "RBF": {"static_kernel": kernel_named("rbf")},
    "one's own": {"static_kernel": kernel_named("quartic")},
    "dilated": {"static_kernel": DilatedKernel(kernel_named("rbf"))},
    "many channels": {"dimension": 11},
    "float32": {"dtype": np.float32},
    "padded": {"padded": True},
    "depth 7": {"depth": 7},
    "lobatto2": {"quadrature": BY_NAME["lobatto2"]},
    "nodes": {"depth": math.inf, "order": 3},
    "untruncated": {"depth": math.inf},
    "ordered": {"depth": 2, "planar": True},
    "ordered nodes": {"depth": 2, "order": 4, "planar": True},
}

VALUES, GRIDS, GRADIENTS, GRADIENTS_OF_GRIDS = ALL = "values", "grids", "gradients", "gradients of grids"


def sweep(backend, rng, family, results=ALL, *, pairing="paired"):
    """Sweep three pairs of a family, one of which the log-domain kernels do."""
    options = {"depth": 3, "dimension": 2, "dtype": np.float64, "padded": False} | FAMILIES[family]
    depth, dimension, dtype, padded = (options.pop(name) for name in ("depth", "dimension", "dtype", "padded"))
    lengths = (20, 20) if pairing == "symmetric" else (40, 270)
    x, y = drawn(rng, pairing, lengths, dimension, dtype, counts=(3, 3), size=0.2)
    x[1] *= 40
    if family == "dilated":
        x, y = (np.concatenate([path, np.full_like(path[..., :1], 1.1)], axis=2) for path in (x, y))
        y = x if pairing == "symmetric" else y
    if padded:
        valid = np.array([lengths[0] // 2, lengths[0], 1])  # the last pair does not move
        options |= {"lengths1": valid, "lengths2": valid if pairing == "symmetric" else lengths[1] - valid + 1}
    arguments = problem(x, y, depth, pairing=pairing, **options)
    parts = () if arguments.order is None else (arguments.order + 1,)
    pairs, nodes = (3,) if pairing == "paired" else (3, 3), lengths
    side = {"wrt_log": False, "left": True, "right": pairing == "paired"}
    if VALUES in results:
        backend.solve(arguments, "end") if parts else backend.solve(arguments, "end", log=True)
    if GRIDS in results:
        backend.solve(arguments, "grid")
    if GRADIENTS in results:
        gradients_of(backend, arguments, np.ones(pairs + parts, dtype), **side)
    if GRADIENTS_OF_GRIDS in results:
        gradients_of(backend, arguments, np.ones(pairs + nodes + parts, dtype), **side)


@pytest.mark.parametrize("teams", TEAMS)
@pytest.mark.parametrize(
    "family", [name if name == "linear" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_threads_that_share_memory_are_ordered(teams, family, rng, monkeypatch):
    backend = backend_of(teams, monkeypatch)
    sweep(backend, rng, family, ALL if family in ("linear", "padded", "lobatto2") else (VALUES, GRADIENTS))
    if family != "padded":  # whose plans are not remembered
        assert any(relays(backend)) == teams.startswith("relays")
    sweep(backend, rng, family, [VALUES] if family.endswith("nodes") else [VALUES, GRADIENTS], pairing="symmetric")


BARRIERS = list(re.finditer(r"(team\.barrier|__sync\w+|__threadfence)\(\);", cuda.source()))

WITNESSES = [
    ("linear", "relays of two warps", GRADIENTS, "paired"),
    ("linear", "relays of two warps", VALUES, "paired"),
    ("linear", "one warp", GRADIENTS, "symmetric"),
    ("linear", "several warps", VALUES, "paired"),
    ("linear", "relays of one warp", GRADIENTS, "paired"),
    ("nodes", "one warp", VALUES, "symmetric"),
    ("padded", "one warp", GRADIENTS, "paired"),
    ("padded", "relays of two warps", GRADIENTS, "paired"),
]


def sweep_witnesses(monkeypatch):
    for family, teams, result, pairing in WITNESSES:
        with monkeypatch.context() as limits:
            sweep(backend_of(teams, limits), np.random.default_rng(0), family, [result], pairing=pairing)


@pytest.mark.slow
@pytest.mark.parametrize("barrier", range(len(BARRIERS)))
def test_every_barrier_is_needed(barrier, monkeypatch):
    text, place = cuda.source(), BARRIERS[barrier]
    monkeypatch.setattr(cuda.instances, "source", lambda: text[: place.start()] + ";" + text[place.end() :])
    with pytest.raises(RuntimeError, match="nothing orders them"):
        sweep_witnesses(monkeypatch)


def told_before_the_barrier(indent, behind):
    """The end of a loop over phases, and the same with its last two statements exchanged."""
    barrier, tell = "team.barrier();", "relay.tell(team, phase + 1 - APART * (team.warps - 1));"
    texts = (f"{indent}  {a}\n{indent}  {b}\n{indent}}}\n{behind}" for a, b in ((barrier, tell), (tell, barrier)))
    return tuple(texts)


FOLLOWS = {
    "a stage follows the one before it, down": (
        "if (end && team.warp == 0) relay.follow(",
        "if (false) relay.follow(",
    ),
    "a stage follows the one before it, up": (
        "if (end && team.warp == team.warps - 1) relay.follow(",
        "if (false) relay.follow(",
    ),
    "a stage waits for the paths to be laid out": ("relay.await(relay.stage - 1, 1);", ";"),
    "the way back waits for the way down": ("relay.await(relay.passes - 1, relay.ALL_DONE);", ";"),
    "a sum waits for the one before": ("relay.await(pass - 1, relay.ALL_DONE);", ";"),
    "the gradients are written when all is added": (
        "if (relay.stage > relay.passes) relay.await(relay.stage - 1, relay.ALL_DONE);",
        "",
    ),
    "phases are told behind a barrier, down": told_before_the_barrier("    ", "    if constexpr"),
    "phases are told behind a barrier, up": told_before_the_barrier("      ", "      if (start"),
    "phases are not told too early": ("release(progress + stage, phases);", "release(progress + stage, phases + 3);"),
    "enough phases are waited for": (
        "const int now = await(stage - 1, phases);",
        "const int now = await(stage - 1, phases - 2);",
    ),
    "warps keep two phases apart, down": ("phase - APART * team.warp;", "phase - team.warp;"),
    "warps keep two phases apart, up": (
        "phase - APART * (team.warps - 1 - team.warp);",
        "phase - (team.warps - 1 - team.warp);",
    ),
}


@pytest.mark.parametrize("mutation", FOLLOWS)
def test_what_follows_waits(mutation, rng, monkeypatch):
    original, mutated = FOLLOWS[mutation]
    text = cuda.source()
    assert text.count(original) == 1
    monkeypatch.setattr(cuda.instances, "source", lambda: text.replace(original, mutated))
    backend = backend_of("relays of two warps", monkeypatch)
    with pytest.raises(RuntimeError, match="nothing orders them"):
        sweep(backend, rng, "linear", [GRADIENTS])


def test_turns_are_taken_in_order(rng, monkeypatch):
    text, original = cuda.source(), "relay.turn = atomicAdd(progress, 1);"
    assert text.count(original) == 1
    backwards = "const int n = atomicAdd(progress, 1); relay.turn = n < task.turns ? int(task.turns) - 1 - n : n;"
    monkeypatch.setattr(cuda.instances, "source", lambda: text.replace(original, backwards))
    backend = backend_of("relays of one warp", monkeypatch)
    with pytest.raises(RuntimeError, match="wait for each other"):
        sweep(backend, rng, "linear", [GRADIENTS])


MISTAKEN = """
__global__ void reads_without_a_barrier(int* out) {
  __shared__ int value[32];
  value[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = value[threadIdx.x ^ 1];
}
__global__ void reads_behind_a_shuffle(int* out) {
  __shared__ int value[32];
  value[threadIdx.x] = threadIdx.x;
  __shfl_sync(0xffffffffu, 0, 0);
  out[threadIdx.x] = value[threadIdx.x ^ 1];
}
__global__ void writes_over_what_is_read(int* out) {
  __shared__ int value[32];
  value[threadIdx.x] = threadIdx.x;
  __syncwarp();
  out[threadIdx.x] = value[threadIdx.x ^ 1];
  value[threadIdx.x] = 0;
}
__global__ void write_different_values(int* out) { out[0] = threadIdx.x; }
struct Two { int value[2]; };
__global__ void write_different_structures(Two* out) {
  const Two two[32] = {{0, 1}, {2, 3}};
  out[0] = two[threadIdx.x];
}
__global__ void write_behind_one_of_two(int* out) {
  if (threadIdx.x < 2) out[0] = 7;
  if (threadIdx.x == 0) __syncwarp(5);
  if (threadIdx.x == 2) {
    __syncwarp(5);
    out[0] = 8;
  }
}
__global__ void blocks_write_different_values(int* out) {
  if (threadIdx.x == 0) out[0] = blockIdx.x;
}
__global__ void goes_on_without_a_fence(int* out) {
  if (threadIdx.x) return;
  if (blockIdx.x == 0) {
    out[1] = 1;
    __threadfence();
    atomicExch(out, 1);
  } else {
    while (*(const volatile int*)out < 1) __nanosleep(1);
    out[2] = out[1];
  }
}
__global__ void tells_without_a_fence(int* out) {
  if (threadIdx.x) return;
  if (blockIdx.x == 0) {
    __threadfence();
    out[1] = 1;
    atomicExch(out, 1);
  } else {
    while (*(const volatile int*)out < 1) __nanosleep(1);
    __threadfence();
    out[2] = out[1];
  }
}
__global__ void is_in_order(int* out) {
  __shared__ int value[32];
  value[threadIdx.x] = threadIdx.x;
  __syncwarp();
  const int neighbour = value[threadIdx.x ^ 1];
  __syncthreads();
  value[threadIdx.x] = neighbour;
  out[0] = 1;
  if (blockIdx.x == 0) {
    if (threadIdx.x == 0) out[2] = 2;
    __syncthreads();
    if (threadIdx.x == 0) {
      __threadfence();
      atomicExch(out + 1, 1);
    }
  } else {
    while (*(const volatile int*)(out + 1) < 1) __nanosleep(1);
    __threadfence();
    out[3] = out[2];
  }
}
"""


def launched(name):
    function = emulated_cupy.RawModule(code=MISTAKEN, name_expressions=(name,)).get_function(name)
    out = emulated_cupy.zeros((32,), np.int32)
    function((2,), (32,), (out,))
    return out


@pytest.mark.parametrize(
    "name",
    [
        "reads_without_a_barrier",
        "reads_behind_a_shuffle",
        "writes_over_what_is_read",
        "write_different_values",
        "write_different_structures",
        "write_behind_one_of_two",
        "blocks_write_different_values",
        "goes_on_without_a_fence",
        "tells_without_a_fence",
    ],
)
def test_the_emulator_finds_what_nothing_orders(name):
    with pytest.raises(RuntimeError, match=r"one thread \w+ at .*:\d+.* what another \w+ at .*:\d+"):
        launched(name)


def test_the_emulator_finds_nothing_where_all_is_in_order():
    assert launched("is_in_order")[3] == 2
