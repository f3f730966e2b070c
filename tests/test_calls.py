"""Operations as calls on plain arrays: what they say without data, their texts, and their repetitions along axes."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from cases import walk

import branchsig
from branchsig.backends import Wrt
from branchsig.frameworks._binding import Call
from branchsig.operations import OPERATIONS, Shape
from branchsig.spec import options_of

OPTIONS = {
    "plain": {},
    "dilation": {"normalize": "dilation"},
    "unit": {"normalize": True, "log": True},
    "two parameters": {"static_kernel": branchsig.RationalQuadraticKernel(0.7, 2.0)},
    "order": {"depth": None, "order": 3},
    "rtol": {"rtol": 1e-3},
}
PATHS = ["kernel", "gram", "branched_sig_mmd", "branched_sig_score", "expected_branched_sig_score", "dilation"]
CASES = [(name, option) for name in PATHS for option in OPTIONS if (name, option) != ("dilation", "unit")]
CASES += [("stack", "plain"), ("stack", "two parameters"), ("transform_path", "plain"), ("increments", "plain")]


def case(name, option, rng):
    """A call with its operands, and the operation with spec, how and its operands."""
    chosen = {"depth": 3} | OPTIONS[option]
    kernel = chosen.get("static_kernel")
    spec, how = options_of(
        chosen["depth"], 0, kernel, name == "transform_path", False, 1.0, 1, "trapezoid", chosen.get("order"),
        chosen.get("normalize", False), log=chosen.get("log", False), rtol=chosen.get("rtol"),
    )  # fmt: skip
    operation = OPERATIONS[name]
    x, y = walk(rng, 3, 5, 2), walk(rng, 3, 4, 2)
    paths = [0.1 * x if name == "increments" else x, y][: operation.sides]
    lengths = [np.asarray([5, 3, 1])] if name in ("kernel", "dilation") else []
    given = ("array",) * (len(paths) + len(lengths))
    given += (None,) * (len(operation.operands) - len(given))
    parameters, ones = [], spec.static_kernel
    if kernel is not None and operation.parametric:
        parameters = [np.asarray(getattr(kernel, name)) for name in kernel.parameters]
        ones = dataclasses.replace(kernel, **dict.fromkeys(kernel.parameters, 1.0))
    call = Call(name, "value", dataclasses.replace(spec, static_kernel=ones), how, given)
    return call, [*paths, *lengths, *parameters], (operation, spec, how, [*paths, *lengths])


def flat(found):
    """Gradients as one list."""
    if isinstance(found, dict):
        return list(found.values())
    if isinstance(found, (tuple, list)):
        return [array for one in found for array in flat(one)]
    return [] if found is None else [found]


def shapes(arrays):
    return [Shape(array.shape, str(array.dtype)) for array in arrays]


@pytest.mark.parametrize(("name", "option"), CASES)
def test_a_call_does_what_its_operation_does(name, option, rng):
    call, operands, (operation, spec, how, given) = case(name, option, rng)
    wanted, pullback = operation.vjp(spec, how, *given, param_deriv=operation.parametric)
    (value,) = call(*operands)
    np.testing.assert_array_equal(value, wanted)
    forward = call.towards("forward")
    value, *kept = forward(*operands)
    np.testing.assert_array_equal(value, wanted)
    assert shapes([value, *kept]) == forward.result(*shapes(operands))
    derivs = rng.standard_normal(value.shape)
    gradients = flat(pullback(derivs))
    backward = call.towards("backward")
    found = backward(derivs, *operands, *kept)
    assert shapes(found) == backward.result(*shapes([derivs, *operands, *kept]))
    assert shapes(found) == shapes([operands[place] for place in backward.places])
    for mine, its in zip(found, gradients, strict=True):
        np.testing.assert_array_equal(mine, its)
    for mine, its in zip(call.towards("backprop")(derivs, *operands), gradients, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "option"), CASES)
def test_a_call_along_an_axis_is_a_call_for_each_place(name, option, rng):
    call, operands, _ = case(name, option, rng)
    many = [
        np.stack([array, 1.1 * array]) if k % 2 == 0 and array.dtype.kind == "f" else array[None]
        for k, array in enumerate(operands)
    ]
    forward, backward = call.towards("forward"), call.towards("backward")
    repeated, back = dataclasses.replace(forward, axes=1), dataclasses.replace(backward, axes=1)
    found = repeated(*many)
    assert shapes(found) == repeated.result(*shapes(many))
    derivs = rng.standard_normal(found[0].shape)
    gradients = back(derivs, *many, *found[1:])
    assert shapes(gradients) == back.result(*shapes([derivs, *many, *found[1:]]))
    for k in (0, 1):
        alone = [array[min(k, len(array) - 1)] for array in many]
        value, *kept = forward(*alone)
        np.testing.assert_allclose(found[0][k], value, rtol=1e-13)
        for mine, its in zip(gradients, backward(derivs[k], *alone, *kept), strict=True):
            np.testing.assert_allclose(mine[k], its, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", PATHS)
def test_a_call_along_an_axis_of_size_0_is_empty(name, rng):
    call, operands, _ = case(name, "two parameters", rng)
    forward = dataclasses.replace(call.towards("forward"), axes=1)
    found = forward(*(array[None][:0] for array in operands))
    assert shapes(found) == forward.result(*(Shape((0, *array.shape), str(array.dtype)) for array in operands))
    assert all(array.shape[0] == 0 for array in found)


@pytest.mark.parametrize(("name", "option"), CASES)
@pytest.mark.parametrize("direction", ["value", "forward", "backward", "backprop"])
def test_a_text_is_read_as_the_call_it_was_made_of(name, option, direction, rng):
    call, _, _ = case(name, option, rng)
    call = dataclasses.replace(call.towards(direction), axes=2)
    assert Call.read(call.text) == call
    assert Call.read(call.text).text == call.text


def test_texts_hold_no_values_of_parameters(rng):
    texts = set()
    for sigma in (0.3, 0.7):
        bound = dataclasses.replace(branchsig.RBFKernel(sigma), sigma=1.0)
        spec, how = options_of(2, 0, bound, False, False, 1.0, 2, "lobatto3")
        texts.add(Call("gram", "value", spec, how, ("array", "first", None, None)).text)
    (text,) = texts
    assert "0.3" not in text
    assert Call.read(text).how.n_jobs == 2


def test_reading_a_text_runs_nothing_else():
    for text in ("__import__('os')", "Call.read", "print(1)", "[1]", "Spec(Truncation(open('x')))"):
        with pytest.raises((ValueError, TypeError), match="not part of the text of a call"):
            Call.read(text)


def test_another_process_reads_a_text(rng):
    call, _, _ = case("gram", "two parameters", rng)
    code = (
        "import sys, numpy as np; from branchsig.frameworks._binding import Call; rng = np.random.default_rng(0);"
        "x, y = rng.standard_normal((2, 3, 4, 2));"
        "print(float(Call.read(sys.argv[1])(x, y, np.asarray(0.7), np.asarray(2.0))[0].sum()).hex())"
    )
    ran = subprocess.run([sys.executable, "-P", "-c", code, call.text], capture_output=True, text=True, check=True)
    x, y = np.random.default_rng(0).standard_normal((2, 3, 4, 2))
    wanted = branchsig.branched_sig_kernel_gram(x, y, 3, static_kernel=branchsig.RationalQuadraticKernel(0.7, 2.0))
    assert float.fromhex(ran.stdout) == wanted.sum()


class Mine(branchsig.StaticKernel):
    def __call__(self, ctx, x, y):
        return branchsig.LinearKernel()(ctx, x, y)


def test_a_static_kernel_of_the_users_own_has_a_text_in_this_process_alone(rng):
    spec, how = options_of(2, 0, Mine(), False, False, 1.0, 1, "trapezoid")
    call = Call("gram", "value", spec, how, ("array", "first", None, None))
    read = Call.read(call.text)
    x = walk(rng, 3, 5, 2)
    np.testing.assert_array_equal(read(x)[0], call(x)[0])
    code = "import sys; from branchsig.frameworks._binding import Call; Call.read(sys.argv[1])"
    ran = subprocess.run([sys.executable, "-P", "-c", code, call.text], capture_output=True, text=True)
    assert ran.returncode != 0
    assert "another process has traced calls a static kernel of the user's own" in ran.stderr


def test_shapes_are_checked_without_data_in_the_words_of_the_operation(rng):
    call, _, _ = case("gram", "plain", rng)
    with pytest.raises(
        ValueError, match=r"path1 has shape \(3, 5, 2\) and path2 \(3, 5, 3\): expected .* one dimension"
    ):
        call.result(Shape((3, 5, 2)), Shape((3, 5, 3)))
    with pytest.raises(TypeError, match="path2 has dtype float32 and path1 has dtype float64"):
        call.result(Shape((3, 5, 2)), Shape((3, 5, 2), "float32"))
    with pytest.raises(TypeError, match="path1 has dtype bfloat16: expected float32 or float64"):
        call.result(Shape((3, 5, 2), "bfloat16"), Shape((3, 5, 2)))


def test_gradients_that_are_not_needed_are_not_asked_for(rng):
    call, _, _ = case("gram", "two parameters", rng)
    assert call.differentiable() == (0, 1, 2, 3)
    assert call.towards("backward", {0}).wrt == Wrt(True, False, False)
    assert call.towards("backward", {3}).wrt == Wrt(False, False, True)
    assert call.towards("backward", {1, 2}).places == (1, 2, 3)
    twice = dataclasses.replace(call, given=("array", "first", None, None))
    assert twice.towards("backward").places == (0, 0, 1, 2)


@pytest.mark.parametrize("kernel", [branchsig.RBFKernel, branchsig.ScaledLinearKernel])
def test_parameters_of_static_kernels_may_be_arrays_of_no_axes(kernel, rng):
    x = walk(rng, 3, 5, 2)
    sigma = np.asarray(0.7)
    wanted = branchsig.branched_sig_kernel_gram(x, None, 3, static_kernel=kernel(0.7))
    held = kernel(sigma)
    np.testing.assert_array_equal(branchsig.branched_sig_kernel_gram(x, None, 3, static_kernel=held), wanted)
    sigma[...] = 1.3  # an array may be written to, and the kernel reads it when it is called
    wanted = branchsig.branched_sig_kernel_gram(x, None, 3, static_kernel=kernel(1.3))
    np.testing.assert_array_equal(branchsig.branched_sig_kernel_gram(x, None, 3, static_kernel=held), wanted)
    with pytest.raises(TypeError, match="is an array of 1 axes: expected a real number or a 0-d array"):
        kernel(np.ones(1))


def test_values_of_parameters_are_checked_where_they_are_there(rng):
    kernel = branchsig.RBFKernel(np.asarray(-1.0))
    with pytest.raises(ValueError, match="RBFKernel: sigma is -1.0: expected a finite number > 0"):
        branchsig.branched_sig_kernel(walk(rng, 3, 5, 2), walk(rng, 3, 5, 2), 2, static_kernel=kernel)


@pytest.mark.parametrize(("name", "option"), CASES)
def test_a_call_on_tensors_keeps_tensors_and_goes_on_with_them(name, option, rng):
    """As on tensors of a CUDA device, which NumPy cannot read."""
    torch = pytest.importorskip("torch")
    call, operands, _ = case(name, option, rng)
    tensors = [torch.asarray(operand) for operand in operands]
    forward, backward = call.towards("forward"), call.towards("backward")
    wanted, found = forward(*operands), forward(*tensors)
    derivs = rng.standard_normal(wanted[0].shape)
    gradients = backward(torch.asarray(derivs), *tensors, *found[1:])
    assert all(isinstance(array, torch.Tensor) for array in (*found, *gradients))
    for mine, its in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine.numpy(), its, rtol=1e-12)
    for mine, its in zip(gradients, backward(derivs, *operands, *wanted[1:]), strict=True):
        np.testing.assert_allclose(mine.numpy(), its, rtol=1e-10, atol=1e-13)
