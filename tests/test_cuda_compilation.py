"""The CUDA kernels compile with NVRTC, which needs no device, and keep their state in registers.

The instances here cover every template argument; ``python tests/cuda_emulation/nvrtc.py`` compiles all of them.
"""

import math
import sys
from pathlib import Path

import pytest

from branchsig.backends import cuda
from branchsig.quadrature import BY_NAME

sys.path.insert(0, str(Path(__file__).parent / "cuda_emulation"))
import nvrtc


@pytest.fixture(scope="module")
def compiler():
    if nvrtc.library() is None:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12")
    return nvrtc.Nvrtc()


@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
def test_sources_compile_and_nothing_spills_for_every_architecture(compiler, architecture):
    instances = nvrtc.instances(["LINEAR"], [4], reals=["double"])
    check(compiler, architecture, instances)


@pytest.mark.parametrize("static_kernel", [name for name in nvrtc.STATIC_KERNELS if name != "LINEAR"])
def test_no_static_kernel_spills(compiler, static_kernel):
    check(compiler, "sm_90", nvrtc.instances([static_kernel], [4], kernels=["backward"], reals=["double"]))


@pytest.mark.parametrize("static_kernel", ["GIVEN", "LINEAR", "RBF"])
def test_the_kernels_for_padded_paths_compile(compiler, static_kernel):
    check(compiler, "sm_90", nvrtc.instances([static_kernel], [4], padded=True), spills=True)


@pytest.mark.parametrize(("rule", "depth"), [("left", 4), ("lobatto2", 4), ("lobatto3", 2), ("lobatto4", 0)])
def test_every_rule_compiles(compiler, rule, depth):
    for kernel in ("forward", "backward"):
        instances = nvrtc.instances(["LINEAR"], [depth], kernels=[kernel], reals=["double"], rule=BY_NAME[rule])
        check(compiler, "sm_90", instances, spills=kernel == "backward" and rule == "lobatto2")
    values = [i for i in nvrtc.instances(["LINEAR"], [2], rule=BY_NAME[rule]) if not i.careful and not i.grid]
    check(compiler, "sm_70", values)


@pytest.mark.parametrize(("rule", "order"), [("trapezoid", 3), ("lobatto2", 3), ("lobatto4", 0)])
def test_every_truncation_by_nodes_compiles(compiler, rule, order):
    instances = nvrtc.instances(["LINEAR"], [order], reals=["float"], rule=BY_NAME[rule], parts=True)
    check(compiler, "sm_90", instances, spills=rule == "lobatto4")


@pytest.mark.parametrize("rule", ["trapezoid", "lobatto2", "lobatto3", "lobatto4"])
def test_no_truncation_compiles(compiler, rule):
    instances = list(nvrtc.instances(["LINEAR"], [math.inf], reals=["double"], rule=BY_NAME[rule]))
    chosen = [instance for instance in instances if not instance.grid or rule in ("trapezoid", "lobatto2")]
    for careful in (False, True):
        some = [instance for instance in chosen if instance.careful == careful]
        check(compiler, "sm_90", some, spills=rule == "lobatto3")
    if rule == "lobatto2":
        check(compiler, "sm_70", [instance for instance in instances if not instance.careful and not instance.grid])


@pytest.mark.parametrize("depth", nvrtc.DEPTHS)
def test_every_depth_compiles(compiler, depth):
    check(compiler, "sm_90", nvrtc.instances(["LINEAR"], [depth], reals=["float"]), spills=depth > 4 or depth == 0)


def check(compiler, architecture, instances, *, spills=False):
    figures = compiler.compile(cuda.source(), architecture, [instance.expression for instance in instances])
    assert figures
    for expression, found in figures.items():
        assert 0 < found["registers"] <= 255
        if not spills:
            assert found["spill_stores"] <= lacking(architecture, expression), expression


def lacking(architecture, expression):
    """Bytes that an instance of depth 4 may spill on the way back in float64, where registers are fewest."""
    if not expression.startswith("backward<double") or "Staggered<double, double, 4" not in expression:
        return 0
    if architecture == "sm_70":
        return 96  # the linear kernel, two columns
    grids = ", true, false>, false>" in expression
    return 96 if grids and ("RBF" in expression or "RATIONAL" in expression) else 0


def test_the_source_includes_nothing():
    assert "#include" not in cuda.source()
