"""What the emulator finds: values not handed from lane to lane, deadlocks, unwritten memory; and the sanitizers."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import gradients_of, problem, relative_to_path
from cuda_cases import FROM_THE_LEFT, FROM_THE_RIGHT, RULES, drawn, emulated_cupy

from branchsig.backends import cuda

LOBATTO2_EDGES = [*((FROM_THE_LEFT, v) for v in range(4)), *((FROM_THE_RIGHT, v) for v in range(7))]


MUTATIONS = {
    "the running product comes from the left": (FROM_THE_LEFT, f"v == 0 ? handed[m][v] : {FROM_THE_LEFT}"),
    "the sum over the warp": ("value += __shfl_xor_sync(ALL_LANES, value, distance);", ";"),
    "1 / E comes from the right": (FROM_THE_RIGHT, f"v == 0 ? handed[m][v] : {FROM_THE_RIGHT}"),
    "the suffix sum comes from the right": (FROM_THE_RIGHT, f"v == 1 ? handed[m][v] : {FROM_THE_RIGHT}"),
    "g w comes from the right": (FROM_THE_RIGHT, f"v == 2 ? handed[m][v] : {FROM_THE_RIGHT}"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_value_not_handed_on_is_caught(emulated, reference, mutation, rng, monkeypatch):
    original, mutated = MUTATIONS[mutation]
    text = cuda.source()
    assert text.count(original) == 1
    monkeypatch.setattr(cuda.instances, "source", lambda: text.replace(original, mutated))
    x, y = drawn(rng, "paired", (40, 150), 2, counts=(1, 1))
    arguments, derivs = problem(x, y, 3), np.ones(1)
    options = {"wrt_log": False, "left": True, "right": True}
    wanted = gradients_of(reference, arguments, derivs, **options)
    found = [np.nan_to_num(gradient, nan=1e9) for gradient in gradients_of(emulated, arguments, derivs, **options)]
    assert max(relative_to_path(a, b) for a, b in zip(found, wanted, strict=True)) > 1e-9


@pytest.mark.parametrize(
    ("shuffle", "value", "order", "depth"),
    [
        *((shuffle, v, None, 2) for shuffle, v in LOBATTO2_EDGES),
        *((FROM_THE_LEFT, v, 3, math.inf) for v in (0, 1, 4, 5)),  # between them bounds, see test_lost_digits
        *((FROM_THE_RIGHT, v, 3, math.inf) for v in range(7)),
        *((FROM_THE_LEFT, v, None, math.inf) for v in range(4)),
        *((FROM_THE_RIGHT, v, None, math.inf) for v in range(5)),
    ],
)
def test_an_edge_of_a_cell_not_handed_on_is_caught(emulated, reference, shuffle, value, order, depth, rng, monkeypatch):
    text = cuda.source().replace(shuffle, f"v == {value} ? handed[m][v] : {shuffle}")
    monkeypatch.setattr(cuda.instances, "source", lambda: text)
    x, y = drawn(rng, "paired", (5, 6), 2, counts=(1, 1))
    arguments = problem(x, y, depth, quadrature=RULES["lobatto2"], order=order)
    derivs = np.ones((1,) if order is None else (1, order + 1))
    options = {"wrt_log": False, "left": True, "right": True}
    wanted = gradients_of(reference, arguments, derivs, **options)
    found = [np.nan_to_num(gradient, nan=1e9) for gradient in gradients_of(emulated, arguments, derivs, **options)]
    assert max(relative_to_path(a, b) for a, b in zip(found, wanted, strict=True)) > 1e-9


MISTAKEN = """
__global__ void waits_in_vain(int* out) {
  if (threadIdx.x == 0) __syncthreads();
  else __shfl_sync(0xffffffffu, out[0], 0);
}
__global__ void waits_at_two_places(int* out) {
  if (threadIdx.x < 16) { __syncthreads(); out[0] = 1; }
  else {
    __syncthreads(); out[1] = 2; }
}
__global__ void waits_for_another_block(int* out) {
  const volatile int* told = out;
  while (*told < 2) __nanosleep(1);
}
__global__ void shares_with_other_blocks(int* out) {
  __shared__ int value[2];
  if (threadIdx.x == 0) value[0] = atomicAdd(out, 1);
  __syncthreads();
  const int mine = value[0];
  if (threadIdx.x == 1) value[1] = mine;
  if (threadIdx.x == 0)
    while (*(const volatile int*)out < int(gridDim.x)) __nanosleep(1);
  __threadfence();
  __syncthreads();
  out[1 + mine] = value[1];
}
__global__ void reads_what_nobody_wrote(double* out) {
  __shared__ double value[32];
  if (threadIdx.x == 1) value[1] = 1.0;
  __syncthreads();
  out[threadIdx.x] = value[threadIdx.x];
}
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("waits_in_vain", "deadlock"),
        ("waits_at_two_places", "different places"),
        ("waits_for_another_block", "blocks in flight wait"),
    ],
)
def test_the_emulator_finds_threads_that_wait_for_ever(name, message):
    function = emulated_cupy.RawModule(code=MISTAKEN, name_expressions=(name,)).get_function(name)
    with pytest.raises(RuntimeError, match=message):
        function((2,), (32,), (emulated_cupy.zeros((2,), np.int32),))


def test_the_emulator_gives_every_block_shared_memory_of_its_own():
    name = "shares_with_other_blocks"
    function = emulated_cupy.RawModule(code=MISTAKEN, name_expressions=(name,)).get_function(name)
    for seed in range(6):
        emulated_cupy.seed(seed)
        out = emulated_cupy.zeros((5,), np.int32)
        function((4,), (64,), (out,))
        np.testing.assert_array_equal(out, [4, 0, 1, 2, 3])
    emulated_cupy.seed(0)


def test_the_emulator_poisons_shared_memory():
    name = "reads_what_nobody_wrote"
    function = emulated_cupy.RawModule(code=MISTAKEN, name_expressions=(name,)).get_function(name)
    out = emulated_cupy.zeros((32,))
    function((1,), (32,), (out,))
    assert out[1] == 1.0
    assert np.isnan(np.delete(np.asarray(out), 1)).all()


UNRANKED = """
__global__ void places(int pairing, long long n2, const long long* k, long long* first, long long* second) {
  const Pair pair(pairing, k[threadIdx.x], n2);
  first[threadIdx.x] = pair.first;
  second[threadIdx.x] = pair.second;
}
"""


def test_pairs_are_found_by_their_number_beyond_32_bits():
    module = emulated_cupy.RawModule(code=cuda.source() + UNRANKED, name_expressions=("places",))
    function = module.get_function("places")
    sides = np.array([1, 2, 3, 1000, 2**20 + 1, 2**26 - 1, 2**31 - 5], dtype=np.int64)
    triangles = sides * (sides + 1) // 2
    n2 = 2**31 + 1
    for pairing, k, first, second in (
        (2, triangles, sides, np.zeros_like(sides)),
        (2, triangles - 1, sides - 1, sides - 1),
        (2, triangles + 1, sides, np.ones_like(sides)),
        (1, sides * (n2 + 1), sides, sides),
        (0, sides * n2, sides * n2, sides * n2),
    ):
        found = [emulated_cupy.empty(sides.shape, np.int64) for _ in range(2)]
        function((1,), (len(sides),), (np.int32(pairing), np.int64(n2), emulated_cupy.asarray(k), *found))
        np.testing.assert_array_equal(found[0], first)
        np.testing.assert_array_equal(found[1], second)


SANITIZED_RUN = """
import dataclasses
import numpy as np
from cases import gradients_of, problem, static_kernel, walk
from cuda_cases import OnDevice, relays
from branchsig.backends.cuda import plans
from branchsig.quadrature import BY_NAME
import emulated_cupy
rng, backend = np.random.default_rng(0), OnDevice(emulated_cupy)
plans.LIMITS = plans.Limits(workspace_bytes=1)  # without truncation passes are swept again
cases = ("linear", "paired", (35, 70)), ("rbf", "symmetric", (34, 34)), ("rbf", "gram", (5, 66))
for name, pairing, lengths in cases:
    x = walk(rng, 2, lengths[0], 3, size=0.4)
    x[0] *= 40  # some pairs are done by the log-domain kernels
    y = x if pairing == "symmetric" else walk(rng, 2, lengths[1], 3, size=0.4)
    arguments = problem(x, y, 3, (0, 0), pairing, static_kernel(name)[0])
    if pairing == "gram":
        arguments = dataclasses.replace(arguments, lengths1=np.array([1, 4]), lengths2=np.array([30, 66]))
    derivs = np.ones((2,) if pairing == "paired" else (2, 2))
    gradients_of(backend, arguments, derivs, wrt_log=True, left=True, right=False)
    backend.solve(arguments, "stack")
    if pairing != "symmetric":
        log_k = backend.solve(arguments, "grid", log=True)
        gradients_of(backend, arguments, log_k, wrt_log=True, left=True, right=True)
    for rule in ("left", "lobatto2", "lobatto4") if pairing == "paired" else ("lobatto2",):
        arguments = dataclasses.replace(arguments, quadrature=BY_NAME[rule], lengths1=None, lengths2=None)
        derivs = np.ones((2,) if pairing == "paired" else (2, 2))
        gradients_of(backend, arguments, derivs, wrt_log=True, left=True, right=False)
        if rule == "lobatto2" and pairing == "paired":
            untruncated = dataclasses.replace(arguments, depth=np.inf)
            gradients_of(backend, untruncated, derivs, wrt_log=True, left=True, right=False)
        if pairing != "symmetric":
            log_k = backend.solve(arguments, "grid", log=True)
            gradients_of(backend, arguments, log_k, wrt_log=True, left=True, right=True)
            of_order = dataclasses.replace(arguments, order=3)
            for grid in (False, True):
                parts = backend.solve(of_order, "grid" if grid else "end")
                gradients_of(backend, of_order, parts, wrt_log=True, left=True, right=True)
plans.LIMITS = plans.Limits(relay_team=1, longest_team=1)
x, y = walk(rng, 1, 20, 3, size=0.4), walk(rng, 1, 150, 3, size=0.4)
for name, rule in ("linear", "trapezoid"), ("rbf", "lobatto2"):
    arguments = problem(x, y, 3, (0, 0), "paired", static_kernel(name)[0], quadrature=BY_NAME[rule])
    gradients_of(backend, arguments, np.ones(1), wrt_log=True, left=True, right=True)
assert any(relays(backend))
print("clean")
"""


@pytest.mark.slow
def test_the_kernels_are_clean_under_address_and_undefined_behaviour_sanitizers():
    asan = subprocess.run(
        [os.environ.get("CXX", "g++"), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(asan).is_absolute():
        pytest.skip("the compiler brings no AddressSanitizer")
    here = Path(__file__).parents[1]
    environment = os.environ | {
        "EMULATOR_SANITIZE": "1",
        "LD_PRELOAD": asan,
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": os.pathsep.join([str(here), str(here / "cuda_emulation"), *filter(None, sys.path)]),
    }
    # The compiler runs without the sanitizer of the process that calls it.
    result = subprocess.run(
        [sys.executable, "-c", SANITIZED_RUN], capture_output=True, text=True, check=False, env=environment, cwd=here
    )
    assert result.stdout == "clean\n", result.stderr[-4000:]
