#!/usr/bin/env bash
# pySigLib 4.0.0: a Gram matrix depends on whether the two batches are one object or two equal ones.
#
# One would guess that sig_kernel_gram(x, x, ...) and sig_kernel_gram(x, x.copy(), ...) are equal, whatever the options. If both
# arguments are one object, one triangle is computed and mirrored. That is right at equal dyadic orders. With a pair of orders,
# which refines the first paths otherwise than the second, k(x_i, x_j) and k(x_j, x_i) differ, and half of the matrix holds
# the value of the other half. Nothing warns. The branched kernels do the same. It matters to who refines one side to save time, and
# to who compares with another library: the difference is of the size of the discretisation error and looks like one.
# Run: bash findings/pysiglib_gram_of_one_batch_at_two_orders.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 pysiglib==4.0.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys

import numpy as np
import pysiglib

versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("pysiglib", "torch", "numpy"))
print(f"Python {sys.version.split()[0]}, {versions}")

x = 0.4 * np.random.default_rng(0).standard_normal((4, 6, 2)).cumsum(axis=1)
functions = {
    "sig_kernel_gram": pysiglib.sig_kernel_gram,
    "branched_sig_kernel_gram": lambda a, b, dyadic_order: pysiglib.branched_sig_kernel_gram(a, b, 2, dyadic_order),
}
as_described = True
for name, gram in functions.items():
    for orders in ((2, 2), (1, 2)):
        one, two = (np.asarray(gram(x, second, dyadic_order=orders)) for second in (x, x.copy()))
        apart, crooked = np.max(np.abs(one / two - 1)), np.max(np.abs(two / two.T - 1))
        print(f"{name}, dyadic orders {orders}: one object or two, relative difference {apart:.1e}; two, k(x,y) to k(y,x) {crooked:.1e}")
        mirrored = np.array_equal(one, one.T)
        as_described &= mirrored and (apart < 1e-12 if orders == (2, 2) else apart > 1e-5 and crooked > 1e-5)
if not as_described:
    sys.exit("The behaviour has changed.")
print("As described.")
PYTHON
