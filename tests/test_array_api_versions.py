"""Every version of the array API standard that array-api-strict knows: values and gradients in its namespace alone.

Arrays on its second device cannot be exported to NumPy, so that the reference computes by what the version has.
"""

import contextlib
import warnings

import array_api_strict as strict
import numpy as np
import pytest
from cases import walk
from framework_cases import MORE, SHORT

import branchsig
from branchsig import _arrays

OLDEST = "2023.12"
VERSIONS = [version for version in strict._flags.supported_versions if version >= OLDEST]
TOO_OLD = [version for version in strict._flags.supported_versions if version < OLDEST]


@contextlib.contextmanager
def following(version):
    """Arrays of a version, which are asked for it again, as their type is seen for the first time."""
    kind = type(strict.zeros(1))
    known = _arrays._libraries.pop(kind, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own, about versions that it knows in part
        with strict.ArrayAPIStrictFlags(api_version=version):
            yield
    _arrays._libraries.pop(kind, None)
    if known is not None:
        _arrays._libraries[kind] = known


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("device", ["CPU_DEVICE", "device1"])
@pytest.mark.parametrize("case", SHORT + MORE, ids=repr)
def test_values_and_gradients_are_those_of_numpy(case, device, version, rng):
    paths = case.paths(rng)
    value = case.value(*paths)
    weights = rng.standard_normal(value.shape)
    wanted = case.gradients(weights, *paths)

    def there(array):
        return strict.asarray(array, device=strict.Device(device))

    with following(version):
        found = case.value(*map(there, paths))
        gradients = case.gradients(there(weights), *map(there, paths))
        assert found.device == strict.Device(device)
    np.testing.assert_allclose(found._array, value, rtol=1e-10, atol=1e-12)
    for mine, its in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(mine._array, its, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("version", TOO_OLD)
def test_a_version_that_is_too_old_is_named(version, rng):
    x = strict.asarray(walk(rng, 3, 5, 2))
    with following(version), pytest.raises(TypeError, match=r"version 202\d.12 .*expected 2023.12 or newer"):
        branchsig.branched_sig_kernel_gram(x, None, 3)
