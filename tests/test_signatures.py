"""Signatures and docstrings written out: what functions share is the same in all of them, and every option arrives."""

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import branchsig
from branchsig.spec import Execution, Spec, Truncation, options_of

FUNCTIONS = {
    name: getattr(branchsig, name)
    for name in branchsig.__all__
    if name.startswith(("as_", "branched", "dilation", "expected", "pad", "sig_", "transform"))
}
OPTIONS = set(inspect.signature(options_of).parameters)
TRANSFORMING = {"transform_path", "transform_path_vjp", "transform_path_backprop"}

SIGNATURES = {"^sig", "^expected_sig"}
"""The functions of signature kernels, by how their names begin."""

OWN_WORDS = {
    "path1": {"gram"},
    "path2": {"gram"},
    "depth": {"branched_sig_kernel_stack", "dilation"},
    "dyadic_order": {"branched_sig_mmd_test", "dilation"},
    "time_aug": {"transform_path"},
    "base_point": {"transform_path"},
    "times": {"dilation"},
    "lead_lag": {"transform_path"},
    "n_jobs": {"transform_path"},
    "normalize": {"branched_sig_mmd_test"} | SIGNATURES,
    "lam": {"expected"},
    "paths": {"dilation"},
    "k_grid": {"gram"},
    "method": {"dilation"},
    **dict.fromkeys(("quadrature", "order", "log", "return_levels", "rtol"), SIGNATURES),
}
"""Parameters that mean something else in some functions, and parts of the names of those, or how they begin."""

RESULTS = {"derivs", "k_stack"}
"""Parameters whose shape is that of a result, which is told apart for every function."""

OWN_DEFAULTS = {("branched_sig_mmd_test", "normalize"): "dilation"} | {
    (name, "method"): "finite_difference" for name in FUNCTIONS if re.match("(expected_)?sig_", name)
}


def section(function, name):
    """The paragraphs of a section of a docstring, by what stands before their first colon."""
    text = inspect.getdoc(function)
    found = re.search(rf"^{name}\n-+\n(.*?)(?=\n\n\S[^\n]*\n---|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    paragraphs = re.split(r"\n(?=\S)", found[1]) if found else []
    return {paragraph.split("\n")[0].split(" : ")[0]: paragraph for paragraph in paragraphs}


def meaning(function, parameter):
    """Which of its meanings a parameter has in a function."""
    return next((part for part in sorted(OWN_WORDS.get(parameter, ())) if re.search(part, function)), "")


def shared(name):
    """Paragraphs of a section, by parameter and meaning, with those of all functions that have them."""
    found = {}
    for function_name, function in FUNCTIONS.items():
        for parameter, paragraph in section(function, name).items():
            if parameter not in RESULTS:
                found.setdefault((parameter, meaning(function_name, parameter)), {})[function_name] = paragraph
    return found


@pytest.mark.parametrize(("parameter", "which"), list(shared("Parameters")))
def test_functions_describe_a_parameter_in_the_same_words(parameter, which):
    paragraphs = shared("Parameters")[parameter, which]
    assert len(set(paragraphs.values())) == 1, sorted(paragraphs)


@pytest.mark.parametrize("error", ["TypeError", "ValueError"])
def test_functions_describe_an_error_of_options_in_the_same_words(error):
    raised = {
        name: section(f, "Raises").get(error)
        for name, f in FUNCTIONS.items()
        if "static_kernel" in section(f, "Parameters")
    }
    for name in ("dilation", "dilation_vjp", "dilation_backprop"):
        raised.pop(name)  # they look at values, and say so
    assert len(set(raised.values())) == 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_parameters_are_described_in_the_order_of_the_signature(name):
    assert list(section(FUNCTIONS[name], "Parameters")) == list(inspect.signature(FUNCTIONS[name]).parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_source_shows_the_signature_and_the_docstring_that_help_shows(name):
    function = FUNCTIONS[name]
    tree = ast.parse(Path(inspect.getsourcefile(function)).read_text(encoding="utf-8"))
    (written,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    assert ast.get_docstring(written) == inspect.getdoc(function)
    arguments = written.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    assert names == list(inspect.signature(function).parameters)
    assert arguments.vararg is arguments.kwarg is None
    assert not written.decorator_list
    assert all(argument.annotation for argument in (*arguments.args, *arguments.kwonlyargs))


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in TRANSFORMING | {"pad_paths", "as_paths"}])
def test_defaults_are_those_of_the_spec_and_the_execution(name):
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    defaults = {option: parameters[option].default for option in OPTIONS & set(parameters)}
    for (function, option), default in OWN_DEFAULTS.items():
        if function == name:
            assert defaults.pop(option) == default
    spec, how = options_of(**{**defaults, "depth": 3})
    assert spec == Spec(Truncation(3))
    assert how == Execution()


@pytest.mark.parametrize("name", sorted(TRANSFORMING))
def test_defaults_of_transformations_are_those_of_the_functions_of_kernels(name):
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    of_kernels = inspect.signature(branchsig.branched_sig_kernel).parameters
    assert all(parameters[option].default == of_kernels[option].default for option in OPTIONS & set(parameters))


def keywords():
    """Every keyword of every function, but those that take anything, or have no wrong type of their own."""
    for name, function in FUNCTIONS.items():
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "seed":
                yield name, parameter.name


@pytest.mark.parametrize(("name", "option"), list(keywords()))
def test_an_option_that_is_wrong_is_named(name, option):
    # Every option stands in the call of the function that checks it; at the wrong place another one would be named.
    function, x = FUNCTIONS[name], np.zeros((3, 4, 2))
    first = list(inspect.signature(function).parameters)
    arguments = {"derivs": np.zeros(3), "path1": x, "path2": x, "paths": x, "path": x, "y": x, "depth": 2, "data": x}
    arguments |= {"sample": x, "sample1": x, "sample2": x, "dyadic_order": 0}
    if name.endswith("gram_backprop"):
        arguments["derivs"] = np.zeros((3, 3))
    if name == "transform_path_backprop":
        arguments["derivs"] = x
    if name.endswith(("mmd_backprop", "expected_branched_sig_score_backprop")):
        arguments["derivs"] = np.zeros(())
    given = {argument: arguments[argument] for argument in first if argument in arguments and argument != option}
    with pytest.raises((TypeError, ValueError), match=f"^{option} is "):
        function(**given, **{option: {}})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_misspelt_option_is_refused(name):
    with pytest.raises(TypeError, match="unexpected keyword argument 'static_kernl'"):
        FUNCTIONS[name](np.zeros((3, 4, 2)), static_kernl=None)
