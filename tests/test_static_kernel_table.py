"""The table of static kernels says of each what Python, the C core and the CUDA kernels need to know."""

import dataclasses
import inspect

import pytest
from branchsig._core import lib

import branchsig
from branchsig.backends.cpu import task
from branchsig.backends.cuda import instances
from branchsig.static_kernels import DilatedKernel, is_built_in
from branchsig.static_kernels.table import BUILT_IN, NAMES, TABLE

SAMPLES = {
    branchsig.LinearKernel(): ("LINEAR", ()),
    branchsig.ScaledLinearKernel(0.5): ("LINEAR", (0.5,)),
    branchsig.PolynomialKernel(degree=2, gamma=0.5, scale=3.0): ("POLYNOMIAL", (2.0, 0.5, 3.0)),
    branchsig.RBFKernel(2.0): ("RBF", (2.0,)),
    branchsig.Matern12Kernel(2.0): ("MATERN12", (2.0,)),
    branchsig.Matern32Kernel(2.0): ("MATERN32", (2.0,)),
    branchsig.Matern52Kernel(2.0): ("MATERN52", (2.0,)),
    branchsig.RationalQuadraticKernel(2.0, alpha=0.5): ("RATIONAL_QUADRATIC", (2.0, 0.5)),
}


def test_every_static_kernel_of_the_library_stands_in_the_table():
    public = {kernel for name in branchsig.__all__ if inspect.isclass(kernel := getattr(branchsig, name))}
    kernels = {kernel for kernel in public if issubclass(kernel, branchsig.StaticKernel)}
    assert set(TABLE) == BUILT_IN == kernels - {branchsig.StaticKernel}
    assert {type(kernel) for kernel in SAMPLES} == BUILT_IN


@pytest.mark.parametrize("kernel", SAMPLES, ids=lambda kernel: type(kernel).__name__)
def test_a_row_holds_the_name_and_the_parameters_of_a_kernel(kernel):
    row = TABLE[type(kernel)]
    assert (row.name, row.values(kernel)) == SAMPLES[kernel]
    assert len(row.attributes) == len(dataclasses.fields(kernel))


def test_the_numbers_of_the_core_are_the_places_in_the_table():
    numbers = {name.removeprefix("BS_"): getattr(lib, name) for name in dir(lib) if name.startswith("BS_")}
    numbers = {name: number for name, number in numbers.items() if not name.startswith(("CALL_", "XLA_"))}
    assert numbers == {name: number for number, name in enumerate(NAMES)}


def test_the_cuda_sources_take_the_names_from_the_table():
    enumerations = [line for line in instances.source().splitlines() if line.startswith("enum {") and "RBF" in line]
    assert enumerations == [f"enum {{ {', '.join(NAMES)} }};"]
    assert instances.source().splitlines()[0] == enumerations[0]


@pytest.mark.parametrize("kernel", SAMPLES, ids=lambda kernel: type(kernel).__name__)
def test_both_compilers_of_problems_know_every_row(kernel):
    assert instances.compiled_kernel(kernel).name in NAMES
    template = task._template((3, 3), 1, 2, None, False, (0, 0), kernel, branchsig.Trapezoid(), False, False)
    assert NAMES[template.static_kernel] == TABLE[type(kernel)].name
    assert tuple(template.parameter)[: len(TABLE[type(kernel)].attributes)] == TABLE[type(kernel)].values(kernel)


@pytest.mark.parametrize("kernel", SAMPLES, ids=lambda kernel: type(kernel).__name__)
def test_a_subclass_may_do_anything_and_does_not_count_as_a_row(kernel):
    own = type("Own", (type(kernel),), {})(*dataclasses.astuple(kernel))
    assert is_built_in(kernel)
    assert is_built_in(DilatedKernel(kernel))
    assert not is_built_in(own)
    assert not is_built_in(DilatedKernel(own))
    assert instances.compiled_kernel(own).name == "GIVEN"
