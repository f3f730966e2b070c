"""The public names of the package, its modules left out, and what importing it does not import."""

import inspect
import re
import subprocess
import sys
import types

import pytest

import branchsig

PUBLIC_NAMES = [
    "Context",
    "GaussLobatto",
    "LeftPoint",
    "LinearKernel",
    "Matern12Kernel",
    "Matern32Kernel",
    "Matern52Kernel",
    "PolynomialKernel",
    "RBFKernel",
    "RationalQuadraticKernel",
    "ScaledLinearKernel",
    "StaticKernel",
    "Trapezoid",
    "TwoSampleTest",
    "__version__",
    "as_paths",
    "branched_sig_kernel",
    "branched_sig_kernel_backprop",
    "branched_sig_kernel_gram",
    "branched_sig_kernel_gram_backprop",
    "branched_sig_kernel_gram_vjp",
    "branched_sig_kernel_stack",
    "branched_sig_kernel_stack_backprop",
    "branched_sig_kernel_stack_vjp",
    "branched_sig_kernel_vjp",
    "branched_sig_mmd",
    "branched_sig_mmd_backprop",
    "branched_sig_mmd_test",
    "branched_sig_mmd_vjp",
    "branched_sig_score",
    "branched_sig_score_backprop",
    "branched_sig_score_vjp",
    "dilation",
    "dilation_backprop",
    "dilation_vjp",
    "expected_branched_sig_score",
    "expected_branched_sig_score_backprop",
    "expected_branched_sig_score_vjp",
    "expected_sig_score",
    "pad_paths",
    "sig_kernel",
    "sig_kernel_backprop",
    "sig_kernel_gram",
    "sig_kernel_gram_backprop",
    "sig_kernel_gram_vjp",
    "sig_kernel_vjp",
    "sig_mmd",
    "sig_score",
    "transform_path",
    "transform_path_backprop",
    "transform_path_vjp",
    "warm_up",
]
FUNCTIONS = [
    name
    for name in PUBLIC_NAMES
    if name.startswith(("as_", "branched", "dilation", "expected", "pad", "sig_", "transform"))
]

PLANAR = {"planar": False}
TRANSFORM = {"time_aug": False, "lead_lag": False, "end_time": 1.0, "base_point": False, "n_jobs": 1}
SOLVER = {"static_kernel": None, **TRANSFORM, "quadrature": "trapezoid"}
SHARED = SOLVER | {"lengths1": None, "lengths2": None, "times1": None, "times2": None}
OF_VALUES = (
    SHARED
    | {
        "return_grid": False,
        "normalize": False,
        "log": False,
        "order": None,
        "return_levels": False,
        "check_finite": None,
        "rtol": None,
    }
    | PLANAR
)
OF_GRAMS = {"max_batch": -1, "progress": False, "devices": None}
SIDES = {"left_deriv": True, "right_deriv": False}
PARAMETERS = {"param_deriv": False}
OF_GRADIENTS = SIDES | PARAMETERS | {"k_stack": None}
PATHS = ["path1", "path2", "depth", "dyadic_order"]
SAMPLES = ["sample1", "sample2", *PATHS[2:]]
OF_PYSIGLIB = {"method": "finite_difference", "dyadic_order": 0}


def of_signatures(options):
    """Options of signature kernels: neither a depth nor a choice of forests."""
    return OF_PYSIGLIB | {name: default for name, default in options.items() if name != "planar"}


OF_STACKS = SHARED | {"check_finite": None} | PLANAR
OF_MEANS = SHARED | {"normalize": False, "order": None, "check_finite": None} | PLANAR
OF_METRICS = OF_MEANS | {"unbiased": True}
OF_SIGNATURES = of_signatures(OF_VALUES)
OF_SIGNATURE_MEANS = of_signatures(OF_METRICS) | {"max_batch": -1}
OF_DILATIONS = SOLVER | {"order": None, "target": 1.0, "method": "solve", "lengths": None, "times": None, "room": 9.0}
OF_DILATIONS |= PLANAR


def value_and_gradients(name, operands, options, sides=SIDES):
    """A function, its `_vjp` and its `_backprop`."""
    return {
        name: (operands, options),
        name + "_vjp": (operands, options | PARAMETERS),
        name + "_backprop": (["derivs", *operands], options | sides | PARAMETERS),
    }


SIGNATURES = {
    **value_and_gradients("branched_sig_kernel", PATHS, OF_VALUES, OF_GRADIENTS),
    **value_and_gradients("branched_sig_kernel_gram", PATHS, OF_VALUES | OF_GRAMS, OF_GRADIENTS),
    **value_and_gradients("branched_sig_kernel_stack", PATHS, OF_STACKS),
    **value_and_gradients("branched_sig_mmd", SAMPLES, OF_METRICS),
    **value_and_gradients("branched_sig_score", ["sample", "y", *PATHS[2:]], OF_METRICS | {"lam": 1.0}),
    **value_and_gradients("expected_branched_sig_score", SAMPLES, OF_METRICS | {"lam": 1.0}),
    **value_and_gradients("dilation", ["paths", "depth", "dyadic_order"], OF_DILATIONS, {}),
    "branched_sig_mmd_test": (SAMPLES, OF_MEANS | {"normalize": "dilation", "permutations": 1000, "seed": None}),
    **value_and_gradients("sig_kernel", PATHS[:2], OF_SIGNATURES, SIDES | {"k_grid": None}),
    **value_and_gradients("sig_kernel_gram", PATHS[:2], OF_SIGNATURES | OF_GRAMS, SIDES | {"k_grid": None}),
    "sig_mmd": (SAMPLES[:2], OF_SIGNATURE_MEANS),
    "sig_score": (["sample", "y"], OF_SIGNATURE_MEANS | {"lam": 1.0}),
    "expected_sig_score": (SAMPLES[:2], OF_SIGNATURE_MEANS | {"lam": 1.0}),
    "as_paths": (["data"], {"layout": None}),
    "pad_paths": (["paths"], {}),
    "transform_path": (["path"], TRANSFORM | {"times": None}),
    "transform_path_vjp": (["path"], TRANSFORM | {"times": None}),
    "transform_path_backprop": (["derivs"], TRANSFORM | {"times": None}),
}


def test_the_public_names_are_these_and_no_others():
    assert sorted(branchsig.__all__) == PUBLIC_NAMES
    found = {name for name, value in vars(branchsig).items() if not isinstance(value, types.ModuleType)}
    assert {name for name in found if not name.startswith("_")} | {"__version__"} == set(PUBLIC_NAMES)


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_signatures_are_these(name):
    parameters = inspect.signature(getattr(branchsig, name)).parameters.values()
    positional, keywords = SIGNATURES[name]
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == positional
    assert {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY} == keywords
    assert len(positional) + len(keywords) == len(parameters)


def test_every_function_is_listed_with_its_signature():
    assert sorted(SIGNATURES) == FUNCTIONS


@pytest.mark.parametrize("name", [name for name in PUBLIC_NAMES if name != "__version__"])
def test_every_public_name_is_documented(name):
    documentation = inspect.getdoc(getattr(branchsig, name))
    assert documentation
    assert not re.search(r"^\s*<\w+>$", documentation, flags=re.MULTILINE)
    assert "Examples\n--------" in documentation
    for parameter in inspect.signature(getattr(branchsig, name)).parameters:
        assert f"{parameter} : " in documentation, f"{name} does not document {parameter}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_says_what_it_returns_and_raises(name):
    documentation = inspect.getdoc(getattr(branchsig, name))
    for section in ("Parameters", "Returns", "Raises"):
        assert f"{section}\n{'-' * len(section)}" in documentation


def test_importing_the_package_imports_no_framework():
    heavy = ["cupy", "jax", "torch", "tensorflow", "matplotlib", "sklearn", "dask", "tqdm", "scipy", "pandas"]
    code = f"import sys, branchsig; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
