"""Arrays of a library that nobody has heard of: served by the array API, and refused where it differentiates them."""

import array_api_strict as strict
import numpy as np
import pytest
from cases import walk

import branchsig


class Stranger:
    """An array that hands its memory to NumPy, which loses whatever its library had recorded."""

    def __init__(self, array, **attributes):
        self.array = np.asarray(array)
        self.__dict__.update(attributes)

    def __array_namespace__(self, *, api_version=None):
        return strict

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    shape = property(lambda self: self.array.shape)
    ndim = property(lambda self: self.array.ndim)
    dtype = property(lambda self: strict.float64)
    device = property(lambda self: strict.Device("CPU_DEVICE"))


FUNCTIONS = {
    "kernel": lambda x: branchsig.branched_sig_kernel(x, x, 3),
    "gram": lambda x: branchsig.branched_sig_kernel_gram(x, None, 3, normalize="dilation"),
    "mmd": lambda x: branchsig.branched_sig_mmd(x, x, 3),
    "dilation": lambda x: branchsig.dilation(x, 3),
    "backprop": lambda x: branchsig.branched_sig_kernel_backprop(x, x, x, 3),
    "pullback": lambda x: branchsig.branched_sig_kernel_vjp(x, x, 3),
}
DIFFERENTIATED = [{"requires_grad": True}, {"stop_gradient": False}]
CONSTANT = [{}, {"requires_grad": False}, {"requires_grad": None}, {"stop_gradient": True}]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("attributes", DIFFERENTIATED, ids=repr)
def test_what_is_differentiated_is_refused_and_no_constant(name, attributes, rng):
    x = walk(rng, 3, 5, 2)
    for constant in ({}, None):
        if constant is not None:  # one that is not differentiated, of the same type, came in before
            branchsig.branched_sig_kernel_gram(Stranger(x), None, 3)
        with pytest.raises(TypeError, match=r"is of type Stranger of .*differentiates it.*numpy.asarray.*_vjp"):
            FUNCTIONS[name](Stranger(x, **attributes))


@pytest.mark.parametrize("attributes", CONSTANT, ids=repr)
def test_what_is_not_differentiated_is_served(attributes, rng):
    x = walk(rng, 3, 5, 2)
    found = branchsig.branched_sig_kernel_gram(Stranger(x, **attributes), None, 3)
    np.testing.assert_array_equal(np.asarray(found), branchsig.branched_sig_kernel_gram(x, None, 3))


def test_second_paths_that_are_differentiated_are_refused_too(rng):
    x, y = walk(rng, 3, 5, 2), walk(rng, 2, 5, 2)
    with pytest.raises(TypeError, match="path2 is of type Stranger"):
        branchsig.branched_sig_kernel_gram(Stranger(x), Stranger(y, requires_grad=True), 3)
