#!/usr/bin/env bash
# scikit-learn 1.9.1: Nystroem turns the negative eigenvalues of a Gram matrix into positive ones, silently.
#
# One would guess that features Z from all samples give Z Z^T = K or, where K has negative eigenvalues, the nearest positive
# semi-definite matrix, which leaves them out. Nystroem takes singular values: Z Z^T has the absolute values of all eigenvalues,
# and is twice as far from K as need be. What is negative, the error of the kernel, comes back as a signal of the same size. It
# happens with a kernel of its own ("sigmoid") and with precomputed matrices; KernelPCA refuses the same matrix. It matters to
# everybody with kernels that are positive semi-definite only up to truncation or coarse grids, or with kernels made of warping
# distances: the step that is thought to repair the matrix hides the fault.
# Run: bash findings/scikit_learn_nystroem_of_an_indefinite_kernel.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.2.6
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import numpy as np
import sklearn
from sklearn.decomposition import KernelPCA
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import sigmoid_kernel

print(f"Python {sys.version.split()[0]}, scikit-learn {sklearn.__version__}, NumPy {np.__version__}")
warnings.simplefilter("error")

points = np.random.default_rng(0).standard_normal((30, 3))
gram = sigmoid_kernel(points)
values, vectors = np.linalg.eigh(gram)
print(f"eigenvalues of K from {values[0]:.3g} to {values[-1]:.3g}")
nearest = (vectors * values.clip(0.0)) @ vectors.T
absolute = (vectors * np.abs(values)) @ vectors.T
lack = np.linalg.norm(nearest - gram)

as_described = True
for kernel, samples in (("sigmoid", points), ("precomputed", gram)):
    features = Nystroem(kernel=kernel, n_components=30, random_state=0).fit_transform(samples)
    product = features @ features.T
    distances = [float(np.linalg.norm(product - matrix)) for matrix in (gram, nearest, absolute)]
    print(f"{kernel}: Z Z^T is {distances[0]:.3g} from K (the nearest positive semi-definite matrix {lack:.3g}),")
    print(f"  {distances[1]:.3g} from that nearest matrix, and {distances[2]:.1g} from K with absolute eigenvalues")
    as_described &= np.isclose(distances[0], 2.0 * lack) and distances[2] < 1e-10
try:
    KernelPCA(n_components=30, kernel="precomputed").fit(gram)
    as_described = False
except ValueError as error:
    print(f"KernelPCA: {type(error).__name__}: {error}")
if not as_described:
    sys.exit("The behaviour has changed.")
print("As described: neither an exception nor a warning from Nystroem.")
PYTHON
