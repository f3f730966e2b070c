"""Arrays that a framework lends: NumPy reads them in place, and what comes out are arrays of the framework."""

import pickle

import numpy as np
import pytest
from cases import walk
from frameworks import FRAMEWORKS, framework_named

import branchsig
from branchsig.backends.reference import ReferenceBackend
from branchsig.operations import OPERATIONS

KERNEL = OPERATIONS["kernel"]


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return framework_named(request.param)


@pytest.fixture(params=["torch", "jax"])
def lending(request):
    """A framework whose arrays are lent."""
    return framework_named(request.param)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def read(monkeypatch):
    """Types and addresses of the paths that kernels are computed of."""
    found = []
    prepare = type(KERNEL).prepare

    def spied(self, spec, how, *operands):
        for operand in operands[:2]:
            address = operand.ctypes.data if isinstance(operand, np.ndarray) else None
            found.append((type(operand), address))
        return prepare(self, spec, how, *operands)

    monkeypatch.setattr(type(KERNEL), "prepare", spied)
    monkeypatch.setattr(type(KERNEL), "made_ready", False)  # later calls would not be prepared
    return found


@pytest.fixture
def no_reference(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the reference was asked")

    monkeypatch.setattr(ReferenceBackend, "solve", refuse)
    monkeypatch.setattr(ReferenceBackend, "adjoint", refuse)


def address_of(array):
    return array.data_ptr() if hasattr(array, "data_ptr") else array.unsafe_buffer_pointer()


def test_paths_in_the_memory_of_the_cpu_are_read_in_place(lending, read, rng):
    paths = walk(rng, 3, 5, 2), walk(rng, 3, 4, 2)
    arrays = [lending.array(path.copy()) for path in paths]
    found = branchsig.branched_sig_kernel(*arrays, 3)
    assert read == [(np.ndarray, address_of(array)) for array in arrays]
    assert type(found) is type(arrays[0])
    np.testing.assert_array_equal(np.asarray(found), branchsig.branched_sig_kernel(*paths, 3))


@pytest.mark.parametrize("what", ["a parameter", "a leaf", "a view"])
def test_tensors_are_read_in_place_where_nothing_is_recorded(what, torch, read, rng):
    x = torch.asarray(walk(rng, 3, 5, 2))
    given = {
        "a parameter": lambda: torch.nn.Parameter(x),
        "a leaf": lambda: x.clone().requires_grad_(),
        "a view": lambda: x[1:],
    }[what]()
    with torch.no_grad():
        value, pullback = branchsig.branched_sig_kernel_vjp(given, given, 3)
    assert set(read) == {(np.ndarray, given.data_ptr())}
    assert not value.requires_grad
    for gradient in pullback(torch.ones_like(value)):
        assert type(gradient) is torch.Tensor
        assert not gradient.requires_grad


def test_a_view_whose_sign_is_still_to_be_changed_has_the_values_of_what_it_shows(torch, no_reference, rng):
    x = torch.asarray(walk(rng, 3, 5, 2))
    negated = torch.complex(x, -x).conj().imag
    assert negated.is_neg()
    found = branchsig.branched_sig_kernel_gram(negated, None, 3)
    np.testing.assert_array_equal(found.numpy(), branchsig.branched_sig_kernel_gram(x.numpy(), None, 3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_form_of_result_keeps_library_and_dtype(dtype, framework, rng):
    x = [framework.array(path.astype(dtype)) for path in (walk(rng, 5, 2), walk(rng, 4, 2))]
    gram, pullback = branchsig.branched_sig_kernel_gram_vjp(
        x, None, 3, static_kernel=branchsig.RBFKernel(0.9), param_deriv=True
    )
    single = branchsig.branched_sig_kernel(x[0], x[1], 3)
    gradients, nothing, of_parameters = pullback(gram)
    assert nothing is None
    assert tuple(single.shape) == tuple(of_parameters["sigma"].shape) == ()
    for array in (gram, single, *gradients, of_parameters["sigma"]):
        assert type(array) is type(x[0])
        assert getattr(array.dtype, "name", str(array.dtype)).removeprefix("torch.") == dtype


def test_valid_lengths_and_parameters_may_be_arrays_of_either_library(framework, rng):
    x, lengths = walk(rng, 3, 5, 2), np.asarray([5, 1, 3])
    wanted = branchsig.branched_sig_kernel_gram(x, None, 3, lengths1=lengths, static_kernel=branchsig.RBFKernel(0.9))
    for valid in (lengths, framework.array(lengths), [5, 1, 3]):
        for sigma in (0.9, np.float64(0.9), framework.array(np.asarray(0.9))):
            kernel = branchsig.RBFKernel(sigma)
            array = framework.array(x)
            found = branchsig.branched_sig_kernel_gram(array, None, 3, lengths1=valid, static_kernel=kernel)
            assert type(found) is type(array)
            np.testing.assert_array_equal(np.asarray(found), wanted)


ONE_LIBRARY = "is an array of numpy and path1 of torch: expected one library; convert one of them"


@pytest.mark.parametrize("recorded", [False, True])
def test_a_tensor_beside_an_array_of_numpy_is_an_error_that_names_both(recorded, torch, rng):
    x, y = walk(rng, 3, 5, 2), walk(rng, 3, 4, 2)
    tensor = torch.asarray(x).clone().requires_grad_(recorded)
    with pytest.raises(TypeError, match=f"path2 {ONE_LIBRARY}"):
        branchsig.branched_sig_kernel(tensor, y, 3)
    with pytest.raises(TypeError, match="path2 is an array of torch and path1 of numpy"):
        branchsig.branched_sig_kernel(y, tensor, 3)
    with pytest.raises(TypeError, match=r"path1\[1\] is an array of numpy and path1\[0\] of torch"):
        branchsig.branched_sig_kernel_gram([tensor[0], y[0]], None, 3)


def test_derivatives_of_numpy_for_tensors_are_an_error(torch, rng):
    x, derivs = torch.asarray(walk(rng, 3, 5, 2)), np.ones(3)
    _, pullback = branchsig.branched_sig_kernel_vjp(x, x, 3)
    with pytest.raises(TypeError, match=f"derivs {ONE_LIBRARY}"):
        pullback(derivs)
    with pytest.raises(TypeError, match=f"derivs {ONE_LIBRARY}"):
        branchsig.branched_sig_kernel_backprop(derivs, x, x, 3)


def test_arrays_of_jax_take_those_of_numpy_beside_them(rng):
    jax = framework_named("jax")
    x, y, derivs = walk(rng, 3, 5, 2), walk(rng, 3, 4, 2), rng.standard_normal(3)
    wanted = branchsig.branched_sig_kernel_backprop(derivs, x, y, 3, right_deriv=True)
    for first, second in ((jax.array(x), y), (x, jax.array(y))):
        value, pullback = branchsig.branched_sig_kernel_vjp(first, second, 3)
        np.testing.assert_array_equal(value, branchsig.branched_sig_kernel(x, y, 3))
        for found, its in zip(pullback(derivs), wanted, strict=True):
            assert type(found) is type(value)
            np.testing.assert_array_equal(found, its)


def test_arrays_of_two_frameworks_are_an_error(torch, rng):
    x = walk(rng, 3, 5, 2)
    tensor, array = torch.asarray(x), framework_named("jax").array(x)
    for first, second in ((tensor, array), (array, tensor)):
        with pytest.raises(TypeError, match="expected one library; convert one of them"):
            branchsig.branched_sig_kernel(first, second, 3)
    _, pullback = branchsig.branched_sig_kernel_vjp(array, array, 3)
    with pytest.raises(TypeError, match="derivs is an array of torch and path1 of jaxlib: expected one library"):
        pullback(torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_types_that_numpy_has_not_are_refused_by_the_name_of_the_argument(dtype, recorded, torch, rng):
    x = torch.asarray(walk(rng, 3, 5, 2))
    low = x.to(getattr(torch, dtype)).requires_grad_(recorded)
    with pytest.raises(TypeError, match=rf"path1 has dtype (torch\.)?{dtype}: expected float32 or float64; convert"):
        branchsig.branched_sig_kernel(low, low, 3)


def test_static_kernels_of_the_users_own_are_given_tensors(torch, rng):
    x = torch.asarray(walk(rng, 3, 5, 2))
    seen = set()

    class Own(branchsig.StaticKernel):
        def __call__(self, ctx, a, b):
            seen.add(type(a))
            return torch.einsum("pic,pjc->pij", a.diff(dim=1), b.diff(dim=1))

    found = branchsig.branched_sig_kernel(x, x, 3, static_kernel=Own())
    assert seen == {torch.Tensor}
    wanted = branchsig.branched_sig_kernel(x.numpy(), x.numpy(), 3)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12)


def test_a_pullback_of_tensors_can_be_pickled_and_differentiates_recorded_derivatives(torch, rng):
    x, y, weights = walk(rng, 3, 5, 2), walk(rng, 3, 4, 2), rng.standard_normal(3)
    wanted = branchsig.branched_sig_kernel_backprop(weights, x, y, 3, right_deriv=True)
    _, pullback = branchsig.branched_sig_kernel_vjp(torch.asarray(x), torch.asarray(y), 3)
    for function in (pullback, pickle.loads(pickle.dumps(pullback))):
        derivs = torch.asarray(weights).requires_grad_()
        found = function(derivs)
        for gradient, its in zip(found, wanted, strict=True):
            np.testing.assert_allclose(gradient.detach().numpy(), its, rtol=1e-12)
        found[0].sum().backward()  # the gradient is linear in the derivatives, so that this is one along them
        along = [branchsig.branched_sig_kernel_backprop(one, x, y, 3)[0].sum() for one in np.eye(3)]
        np.testing.assert_allclose(derivs.grad.numpy(), along, rtol=1e-9, atol=1e-12)


def test_what_was_not_recorded_stays_constant_where_derivatives_are(torch, rng):
    x = torch.asarray(walk(rng, 3, 5, 2)).requires_grad_()
    with torch.no_grad():
        value, pullback = branchsig.branched_sig_kernel_vjp(x, x, 3)
    derivs = torch.ones_like(value).requires_grad_()
    pullback(derivs)[0].sum().backward()
    assert x.grad is None
    assert derivs.grad is not None
