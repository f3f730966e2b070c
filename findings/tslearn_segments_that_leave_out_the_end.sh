#!/usr/bin/env bash
# tslearn 0.10.0: piecewise aggregation leaves out the end of a series whose length is not a multiple of the number of segments.
#
# One would guess that the segments cover the series, some of them being a point longer than others, or sharing a point. tslearn
# takes the length divided by the number of segments, rounded down, for the length of each, and what is left over counts nowhere:
# of 9 points in 5 segments the last 4. Series that differ there alone have the same features and symbols. inverse_transform
# fills the end with zeros, a jump that was never there. It matters to everybody who shortens paths before they compute kernels or
# signatures: for a signature kernel the end of a path counts as much as any other part of it.
# Run: bash findings/tslearn_segments_that_leave_out_the_end.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile tslearn==0.10.0 numpy==2.2.6
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings

warnings.filterwarnings("ignore", message="h5py not installed")
import numpy as np
import tslearn
from tslearn.piecewise import PiecewiseAggregateApproximation, SymbolicAggregateApproximation

print(f"Python {sys.version.split()[0]}, tslearn {tslearn.__version__}, NumPy {np.__version__}")
warnings.simplefilter("error")

rising = np.arange(-1.5, 3.0, 0.5)
falling = np.concatenate([rising[:5], rising[3::-1]])
both = np.stack([rising, falling])[..., None]
print(f"series: {rising.tolist()} and {falling.tolist()}")

means = PiecewiseAggregateApproximation(n_segments=5)
features = means.fit_transform(both)
back = means.inverse_transform(features)
symbols = SymbolicAggregateApproximation(n_segments=5, alphabet_size_avg=4).fit_transform(both)
for name, values in (("means of 5 segments", features), ("back", back), ("symbols", symbols)):
    print(f"{name}: {values[0].ravel().tolist()} and {values[1].ravel().tolist()}")
lost = {}
for points, segments in ((9, 3), (10, 3), (99, 50), (100, 50)):
    impulses = np.eye(points)[..., None]
    counted = PiecewiseAggregateApproximation(n_segments=segments).fit_transform(impulses).any(axis=(1, 2))
    lost[points, segments] = int(points - counted.sum())
    print(f"{points} points in {segments} segments: {lost[points, segments]} points count nowhere")

head = rising[:5].tolist()
as_described = (
    features.tolist() == [[[value] for value in head]] * 2
    and back[..., 0].tolist() == [head + [0.0] * 4] * 2
    and symbols[..., 0].tolist() == [[0, 0, 1, 2, 2]] * 2
    and lost == {(9, 3): 0, (10, 3): 1, (99, 50): 49, (100, 50): 0}
)
if not as_described:
    sys.exit("The behaviour has changed.")
print("As described, without an exception or a warning.")
PYTHON
