"""Fixtures: which backend and which instruction set the tests run on, and what random numbers they draw.

The C core is expected to be present; where it is not, one test says so and the rest runs on the reference alone.
"""

import os
import re
import sys
import time
import zlib
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# The tests are imported one by one, without a package around them: this makes `import oracles` find its neighbour.
sys.path.insert(0, str(Path(__file__).parent))

from cases import forget, using
from remembered import RememberedReference

from branchsig.backends.reference import ReferenceBackend

pytest.register_assert_rewrite("cuda_cases")  # whose assertions then say what they compared

try:
    from branchsig.backends import cpu
except ImportError:
    cpu = None

# "ci" draws the same examples on every run; HYPOTHESIS_PROFILE=explore looks further.
ALLOWED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
settings.register_profile("ci", max_examples=60, deadline=None, derandomize=True, suppress_health_check=ALLOWED)
settings.register_profile("explore", max_examples=2000, deadline=None, suppress_health_check=ALLOWED)
settings.register_profile("bounded", max_examples=15, deadline=None, derandomize=True, suppress_health_check=ALLOWED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_configure(config):
    """Let all processes of this run, and later runs, share what the emulator compiles and what the reference finds."""
    for variable, name in (("EMULATOR_FOLDER", "emulated"), ("REFERENCE_FOLDER", "reference")):
        if variable in os.environ or not hasattr(config, "cache"):
            continue
        folder = config.cache.mkdir(name)
        os.environ[variable] = str(folder)
        for path in folder.iterdir():
            if path.stat().st_mtime < time.time() - 7 * 24 * 3600:
                path.unlink(missing_ok=True)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file():
    """Look for no examples in docstrings of tests: of a test that cannot be imported, pytest would make a skip."""
    found = yield
    return [collector for collector in found if type(collector).__name__ != "DoctestModule"]


INSTRUCTION_SETS = [] if cpu is None else list(cpu.instruction_sets())


@pytest.fixture
def rng(request):
    """Random numbers that depend on the name of the test alone.

    They are the same on a device as on the emulator, and on every instruction set, so that the reference finds once
    what all of them are held against.
    """
    name = re.sub(r"\bdevice\b", "emulated", request.node.nodeid.split("::", 1)[-1])
    name = re.sub(r"\b(avx2|avx512)\b", "baseline", name)
    return np.random.default_rng(zlib.crc32(name.encode()))


@pytest.fixture
def pysiglib():
    """The library to agree with, where it is installed."""
    return pytest.importorskip("pysiglib")


@pytest.fixture(scope="module", params=["reference", *(["cpu"] if cpu else [])])
def backend(request):
    """Every backend that serves NumPy arrays; the public functions use it too."""
    with using(ReferenceBackend() if request.param == "reference" else cpu.CpuBackend()) as chosen:
        yield chosen


@pytest.fixture(scope="module", params=INSTRUCTION_SETS or [pytest.param(None, marks=pytest.mark.skip("no C core"))])
def instruction_set(request):
    """Every instruction set of the C core that this machine can run, set for the process."""
    before = cpu.instruction_set()
    cpu.set_instruction_set(request.param)
    yield request.param
    cpu.set_instruction_set(before)


@pytest.fixture(scope="module")
def core(instruction_set):
    """The C core on one instruction set; the public functions use it too."""
    with using(cpu.CpuBackend()) as chosen:
        yield chosen


@pytest.fixture(scope="module")
def reference():
    """What others are held against."""
    return RememberedReference()


@pytest.fixture
def nothing_ready():
    """A test to which no call comes again that others have made, nor from it to others."""
    yield forget()
    forget()
