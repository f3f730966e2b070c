"""Where the compiled core is missing the reference serves in its place, and says so once."""

import subprocess
import sys

SCRIPT = """
import sys, warnings
import numpy as np
sys.modules["branchsig._core"] = None  # importing it raises ImportError
import branchsig
x = np.cumsum(np.full((3, 4, 2), 0.1), axis=1)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    values = branchsig.branched_sig_kernel(x, x, 3)
    gradient, _ = branchsig.branched_sig_kernel_backprop(np.ones(3), x, x, 3)
    gram = branchsig.branched_sig_kernel_gram(x, None, 3)
assert np.isfinite(values).all() and np.isfinite(gradient).all() and np.isfinite(gram).all()
for warning in caught:
    print(warning.category.__name__, warning.filename, warning.message)
"""


def test_the_reference_serves_with_one_warning_that_names_the_remedy():
    result = subprocess.run([sys.executable, "-P", "-c", SCRIPT], capture_output=True, text=True, check=True)
    (line,) = result.stdout.splitlines()
    assert line.startswith("RuntimeWarning <string> the compiled core of branchsig is not available")
    assert "pip install" in line


def test_the_reference_serves_where_warnings_are_errors_from_the_second_call_on():
    script = SCRIPT.replace(
        "with warnings", "try: branchsig.branched_sig_kernel(x, x, 3)\nexcept RuntimeWarning: pass\nwith warnings"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout == ""
