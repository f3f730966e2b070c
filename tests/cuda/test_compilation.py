"""The CUDA kernels compile with NVRTC, which needs no device, and keep their state in registers.

The instances here cover every template argument, and NVRTC takes its time for them: they are slow tests, which
``pytest -m slow`` runs where the extra ``nvrtc`` is installed. ``python tests/cuda_emulation/nvrtc.py`` compiles every
instance there is.
"""

import math
import sys
from pathlib import Path

import pytest

from branchsig.backends import cuda
from branchsig.backends.cuda.instances import ANY_DIMENSION, Instance
from branchsig.quadrature import BY_NAME, TRAPEZOID

sys.path.insert(0, str(Path(__file__).parents[1] / "cuda_emulation"))
import nvrtc
import schedule


@pytest.fixture(scope="module")
def compiler():
    if nvrtc.library() is None:
        pytest.skip("NVRTC is not installed: pip install 'branchsig[nvrtc]'")
    return nvrtc.Nvrtc()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
def test_sources_compile_and_nothing_spills_for_every_architecture(compiler, architecture):
    instances = nvrtc.instances(["LINEAR"], [4], reals=["double"])
    check(compiler, architecture, instances, waiting=32)


@pytest.mark.slow
@pytest.mark.parametrize("static_kernel", [name for name in nvrtc.STATIC_KERNELS if name != "LINEAR"])
def test_no_static_kernel_spills(compiler, static_kernel):
    instances = nvrtc.instances([static_kernel], [4], kernels=["backward"], reals=["double"], dimensions=(4,))
    check(compiler, "sm_90", instances)


@pytest.mark.slow
@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_wide_strips_of_many_channels_do_not_spill(compiler, depth, real):
    instances = nvrtc.instances(["LINEAR", "RBF"], [depth], kernels=["backward"], reals=[real], dimensions=(9,))
    check(compiler, "sm_90", [instance for instance in instances if not instance.log_domain])


@pytest.mark.slow
@pytest.mark.parametrize("static_kernel", ["GIVEN", "LINEAR", "RBF"])
def test_the_kernels_for_padded_paths_compile(compiler, static_kernel):
    reals = ("float", "double") if static_kernel == "LINEAR" else ("double",)
    instances = nvrtc.instances([static_kernel], [4], reals=reals, padded=True, dimensions=(9,))
    check(compiler, "sm_90", instances, spills=True)


@pytest.mark.slow
@pytest.mark.parametrize("static_kernel", ["LINEAR", "POLYNOMIAL", "RBF", "RATIONAL_QUADRATIC"])
def test_the_kernels_for_gradients_with_respect_to_parameters_compile(compiler, static_kernel):
    form = {"kernels": ["backward"], "reals": ["double"], "dimensions": (4,), "parameters": True}
    instances = [instance for instance in nvrtc.instances([static_kernel], [3], **form) if not instance.grid]
    check(compiler, "sm_90", instances, spills=True)


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "depth"), [("left", 4), ("lobatto2", 4), ("lobatto3", 2), ("lobatto4", 0)])
def test_every_rule_compiles(compiler, rule, depth):
    for kernel in ("forward", "backward"):
        form = {"kernels": [kernel], "reals": ["double"], "rule": BY_NAME[rule], "dimensions": (4,)}
        instances = nvrtc.instances(["LINEAR"], [depth], **form)
        check(compiler, "sm_90", instances, spills=kernel == "backward" and rule == "lobatto2")
    found = nvrtc.instances(["LINEAR"], [2], rule=BY_NAME[rule], dimensions=(9,))
    values = [instance for instance in found if not instance.log_domain and not instance.grid]
    check(compiler, "sm_70", values)


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "order"), [("trapezoid", 3), ("lobatto2", 3), ("lobatto4", 0)])
def test_every_truncation_by_nodes_compiles(compiler, rule, order):
    form = {"reals": ["float"], "rule": BY_NAME[rule], "components": True, "dimensions": (4,)}
    instances = nvrtc.instances(["LINEAR"], [order], **form)
    check(compiler, "sm_90", instances, spills=rule == "lobatto4")


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["trapezoid", "lobatto2", "lobatto3", "lobatto4"])
def test_no_truncation_compiles(compiler, rule):
    instances = list(nvrtc.instances(["LINEAR"], [math.inf], reals=["double"], rule=BY_NAME[rule], dimensions=(4,)))
    chosen = [instance for instance in instances if not instance.grid or rule in ("trapezoid", "lobatto2")]
    for log_domain in (False, True):
        some = [instance for instance in chosen if instance.log_domain == log_domain]
        check(compiler, "sm_90", some, spills=rule == "lobatto3")
    if rule == "lobatto2":
        check(compiler, "sm_70", [instance for instance in instances if not instance.log_domain and not instance.grid])


# The kernels that propagate errors are rarely run, and spill from depth 3 on.
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_70", "sm_90"])
@pytest.mark.parametrize(("static_kernel", "depth"), [("LINEAR", 1), ("LINEAR", 4), ("RBF", 3), ("GIVEN", 0)])
def test_ordered_forests_compile(compiler, static_kernel, depth, architecture):
    instances = list(nvrtc.instances([static_kernel], [depth], reals=["double"], planar=True))
    for log_domain in (False, True):
        some = [instance for instance in instances if instance.log_domain == log_domain]
        check(compiler, architecture, some, spills=log_domain and depth > 2, waiting=32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "order", "bound"), [("trapezoid", 4, 0), ("trapezoid", 4, 2), ("lobatto2", 4, 0), ("lobatto4", 0, 2)]
)
def test_ordered_forests_by_number_of_nodes_compile(compiler, rule, order, bound):
    form = {"reals": ["float"], "rule": BY_NAME[rule], "components": True, "planar": True, "dimensions": (4,)}
    instances = nvrtc.instances(["LINEAR"], [order], bound=bound, **form)
    check(compiler, "sm_90", instances, spills=rule == "lobatto4")


@pytest.mark.slow
def test_the_largest_kernel_has_enough_shared_memory(compiler):
    instances = nvrtc.instances(["LINEAR"], [6], kernels=["backward"], reals=["double"])
    check(compiler, "sm_70", [i for i in instances if not (i.grid or i.log_domain)], spills=True)


@pytest.mark.slow
@pytest.mark.parametrize("depth", nvrtc.DEPTHS)
def test_every_depth_compiles(compiler, depth):
    instances = nvrtc.instances(["LINEAR"], [depth], reals=["float"], dimensions=(4,))
    check(compiler, "sm_90", instances, spills=depth > 4 or depth == 0)


def check(compiler, architecture, instances, *, spills=False, waiting=0):
    """`waiting`: bytes that may wait in memory outside of the steps, where test_no_step_spills looks."""
    figures = compiler.compile(cuda.source(), architecture, [instance.expression for instance in instances])
    assert figures
    for expression, found in figures.items():
        assert 0 < found["registers"] <= 255
        if not spills:
            assert found["spill_stores"] <= waiting, expression


STEPS = [
    *(("sm_90", each) for each in ANY_DIMENSION),
    *((each, 4) for each in ("sm_80", "sm_100", "sm_120")),
    ("sm_80", 8),
]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "dimension"), STEPS)
@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("kernel", ["forward", "backward"])
def test_no_step_spills(compiler, kernel, real, dimension, architecture):
    steps = steps_of(compiler, kernel, real, dimension, architecture)
    assert len(steps) == (1 if kernel == "forward" else 2)
    assert all(step.spills == 0 and 0 < step.arithmetic < step.instructions < step.cycles for step in steps)


# A sixth more than it was. A step down in float32 took 573 cycles while comparisons waited for each other's flags.
MOST_CYCLES = {
    ("forward", "double"): (550,),
    ("forward", "float"): (375,),
    ("backward", "double"): (355, 905),
    ("backward", "float"): (375, 765),
}


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "real"), MOST_CYCLES)
def test_no_step_waits_for_long(compiler, kernel, real):
    steps = steps_of(compiler, kernel, real, 4, "sm_90")
    for step, most in zip(steps, MOST_CYCLES[kernel, real], strict=True):
        assert step.cycles < most


# The emulator runs fences in the place of these.
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])  # nvdisasm knows none before
def test_stages_of_a_relay_release_and_acquire_their_progress(compiler, architecture):
    names = schedule.names_of(schedule.disassembled(compiler, linear("forward", "float", 4), architecture))
    told = [at for at, name in enumerate(names) if name.startswith("ST") and "STRONG.GPU" in name]
    waits = [at for at, name in enumerate(names) if name == "NANOSLEEP"]
    assert told
    assert waits
    assert all(any(name.startswith("MEMBAR") for name in names[at - 6 : at]) for at in told)
    assert all("CCTL.IVALL" in names[at : at + 24] for at in waits)  # forgets what the first cache has


def steps_of(compiler, kernel, real, dimension, architecture):
    return schedule.steps_of(compiler, linear(kernel, real, dimension), architecture)


def linear(kernel, real, dimension):
    """The instance of depth 4 with the linear kernel, to be disassembled."""
    if schedule.disassembler() is None:
        pytest.skip("nvdisasm is not installed: pip install 'branchsig[nvrtc]'")
    return Instance.widest(kernel, real, "LINEAR", 4, TRAPEZOID, grid=False, log_domain=False, dimension=dimension)


def test_the_source_includes_nothing():
    assert "#include" not in cuda.source()
