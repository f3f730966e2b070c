"""Run the tests that suit the sanitizers on the package installed in a folder: SITE=folder run.py.

This module is also a plugin of pytest, so that the workers too take the package from there.
"""

import os
import sys
from pathlib import Path

site, repository = Path(os.environ["SITE"]), Path(__file__).parents[2]
# An editable install of the package answers imports before sys.path does.
sys.meta_path[:] = [finder for finder in sys.meta_path if "esonpy" not in type(finder).__name__]

import pytest  # noqa: E402

import branchsig  # noqa: E402
from branchsig import _core  # noqa: E402

for module in (branchsig, _core):
    assert site in Path(module.__file__).parents, f"{module.__file__} is not the build under test"
assert b"__asan_report_load" in Path(_core.__file__).read_bytes(), "the core was built without AddressSanitizer"

# A workspace that is kept may be larger than what is asked for, which would hide what is beyond its end.
from branchsig.backends.cpu import task  # noqa: E402

task._KEPT_BYTES = 0

tests = [
    str(repository / "tests" / f"test_{name}.py")
    for name in (
        "numerics",
        "backends",
        "reference",
        "gradients",
        "gradients_of_one_pair",
        "threads",
        "threads_of_a_pair",
        "threads_that_race",
        "long_pairs",
        "diagonals",
        "lost_digits",
        "many_channels",
        "frames_of_xla",
        "planar_core",
        "planar_nodes",
        "short_paths",
        "calls_made_again",
        "gram_matrices_made_again",
    )
]
# Long paths repeat what short ones do, at a price. Scripts run by the tests would not start under a preloaded library,
# and jaxlib cannot throw its exceptions under one.
left_out = " and ".join(
    f"not {name}" for name in ("long_paths", "log_k_of_twenty", "single_precision", "ctrl_c", "forked", "of_frameworks")
)

if __name__ == "__main__":
    configuration = ["-c", str(repository / "pyproject.toml"), "-p", "run"]
    # -s, since a report would be lost with the process whose output pytest holds
    sys.exit(pytest.main([*configuration, "-q", "-x", "-s", "-n", "2", "--dist", "worksteal", "-k", left_out, *tests]))
