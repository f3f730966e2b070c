"""The reference as an oracle with a memory: what it has found once, no other test, process or run computes again.

The C core is held against the same numbers on every instruction set, and once more under the sanitizers, where NumPy
and Python take most of the time. What has been found lies in pytest's cache, under a digest of the question and of all
sources that the answer may depend on. Tests of the reference itself have to call ReferenceBackend.
"""

import functools
import hashlib
import os
import pickle
import time
from pathlib import Path

import numpy as np

import branchsig
from branchsig.backends.reference import ReferenceBackend

WORTH_KEEPING = 0.002  # seconds, above which reading a file takes less than computing


class RememberedReference(ReferenceBackend):
    """The reference, for problems with NumPy arrays from its memory where it has one."""

    def solve(self, problem, want, *, log=False):
        return _remembered(super().solve, problem, want, log=log)

    def adjoint(self, problem, want, derivs, wrt, *, log=False, stack=None):
        return _remembered(super().adjoint, problem, want, derivs, wrt, log=log, stack=stack)


def _remembered(compute, problem, *arguments, **options):
    path = _path_of((compute.__name__, problem, arguments, options)) if type(problem.path1) is np.ndarray else None
    if path is None:
        return compute(problem, *arguments, **options)
    if path.exists():
        return pickle.loads(path.read_bytes())
    begun = time.perf_counter()
    found = compute(problem, *arguments, **options)
    if time.perf_counter() - begun > WORTH_KEEPING:
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(pickle.dumps(found, protocol=5))
        unfinished.replace(path)
    return found


def _path_of(question):
    """Where the answer lies, or None where there is no folder, or no digest of a function or class within a test."""
    if "REFERENCE_FOLDER" not in os.environ:
        return None
    try:
        text = pickle.dumps(question, protocol=5)
    except (AttributeError, TypeError, pickle.PicklingError):
        return None
    return Path(os.environ["REFERENCE_FOLDER"]) / hashlib.sha256(_sources() + text).hexdigest()[:32]


@functools.cache
def _sources():
    """A digest of the package and of these tests, which have static kernels of their own."""
    digest = hashlib.sha256()
    for folder in (Path(branchsig.__file__).parent, Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.digest()
