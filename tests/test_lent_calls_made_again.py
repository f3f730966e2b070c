"""Calls on arrays of PyTorch and JAX that come again: they go straight to the core, and have what the first one had."""

import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from cases import forget, walk
from frameworks import framework_named

import branchsig
from branchsig.operations import OPERATIONS

KERNEL = OPERATIONS["kernel"]
pytestmark = pytest.mark.usefixtures("core", "nothing_ready")


@pytest.fixture(params=["torch", "jax"])
def lending(request):
    """A framework whose arrays are lent."""
    return framework_named(request.param)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def jax():
    framework_named("jax")  # with 64 bits
    return pytest.importorskip("jax")


@pytest.fixture
def prepared(monkeypatch):
    """A list that grows with every call that is checked, and does not go straight to the core."""
    found = []
    prepare = type(KERNEL).prepare

    def spied(self, *arguments):
        found.append(1)
        return prepare(self, *arguments)

    monkeypatch.setattr(type(KERNEL), "prepare", spied)
    return found


def value_and_gradients(x, y, derivs, depth, **options):
    backprop = branchsig.branched_sig_kernel_backprop
    return [
        branchsig.branched_sig_kernel(x, y, depth, **options),
        *backprop(derivs, x, y, depth, right_deriv=True, **options),
        *backprop(derivs, x, y, depth, **options),
        *backprop(derivs, x, y, depth, left_deriv=False, right_deriv=True, **options),
    ]


@pytest.mark.parametrize("shape", [(1, 10, 2), (9, 3), (2, 3, 5, 1)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("depth", [1, 3])
def test_every_call_has_the_bits_of_numpy_and_later_ones_go_straight_to_the_core(
    depth, dtype, shape, lending, prepared, rng
):
    x, y = walk(rng, *shape, dtype=dtype), walk(rng, *shape, dtype=dtype)
    derivs = np.asarray(rng.standard_normal(shape[:-2]), dtype)
    kernel = branchsig.RBFKernel(0.9)
    for options in ({}, {"static_kernel": kernel}, {"log": True, "dyadic_order": 1}):
        forget()
        wanted = value_and_gradients(x, y, derivs, depth, **options)
        forget()
        arrays = [lending.array(array.copy()) for array in (x, y, derivs)]
        for _ in range(3):
            prepared.clear()
            found = value_and_gradients(*arrays, depth, **options)
            for one, other in zip(found, wanted, strict=True):
                assert (one is None) == (other is None)
                if one is not None:
                    assert type(one) is type(arrays[0])
                    assert np.asarray(one).dtype == dtype
                    np.testing.assert_array_equal(one, other)
        assert not prepared


def test_results_of_many_calls_are_apart(lending, rng):
    many = [(walk(rng, 3, 8, 2), walk(rng, 3, 8, 2)) for _ in range(50)]
    wanted = [branchsig.branched_sig_kernel(x, y, 3) for x, y in many]
    found = [branchsig.branched_sig_kernel(lending.array(x.copy()), lending.array(y.copy()), 3) for x, y in many]
    np.testing.assert_array_equal(list(map(np.asarray, found)), wanted)


def test_one_array_in_both_places_has_both_gradients(lending, rng):
    x, derivs = walk(rng, 3, 8, 2), rng.standard_normal(3)
    wanted = value_and_gradients(x, x, derivs, 3)
    array, weights = lending.array(x), lending.array(derivs)
    for _ in range(3):
        for one, other in zip(value_and_gradients(array, array, weights, 3), wanted, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_array_equal(one, other)


def test_what_is_wrong_is_said_in_every_call(lending, rng):
    x, y, derivs = (lending.array(array) for array in (walk(rng, 3, 8, 2), walk(rng, 3, 8, 2), np.ones(3)))
    spoilt = lending.array(np.full((3, 8, 2), np.nan))
    for _ in range(4):
        value_and_gradients(x, y, derivs, 3)
        with pytest.raises(ValueError, match=r"derivs has shape \(2,\)"):
            branchsig.branched_sig_kernel_backprop(derivs[:2], x, y, 3)
        with pytest.raises(TypeError, match="left_deriv is 1"):
            branchsig.branched_sig_kernel_backprop(derivs, x, y, 3, left_deriv=1)
        with pytest.warns(RuntimeWarning, match="path1 hold NaN|path1\\[0\\]"):
            assert np.isnan(np.asarray(branchsig.branched_sig_kernel(spoilt, y, 3))).all()


def test_transformations_see_the_derivatives_of_calls_that_came_before(lending, rng):
    x, y = walk(rng, 3, 8, 2), walk(rng, 3, 8, 2)
    wanted = branchsig.branched_sig_kernel_backprop(np.ones(3), x, y, 3, right_deriv=True)
    arrays = [lending.array(x), lending.array(y)]

    def total(a, b):
        return branchsig.branched_sig_kernel(a, b, 3).sum()

    for _ in range(4):
        total(*arrays)
        value, found = lending.gradients(total, *arrays)
        np.testing.assert_allclose(value, branchsig.branched_sig_kernel(x, y, 3).sum(), rtol=1e-12)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-14)
        mapped = lending.batched(lambda a, b: branchsig.branched_sig_kernel(a, b, 3))(*arrays)
        np.testing.assert_allclose(mapped, branchsig.branched_sig_kernel(x, y, 3), rtol=1e-12)


def test_kernels_of_constants_inside_of_derivatives_and_maps_have_their_values(lending, rng):
    x, y = walk(rng, 3, 8, 2), walk(rng, 3, 8, 2)
    arrays, weights = [lending.array(x), lending.array(y)], lending.array(np.arange(3.0))
    kernels, gram = branchsig.branched_sig_kernel(x, y, 3), branchsig.branched_sig_kernel_gram(x, y, 3)

    def total(a):
        matrix = branchsig.branched_sig_kernel_gram(*arrays, 3)
        return (branchsig.branched_sig_kernel(*arrays, 3) * a + matrix @ a).sum()

    for _ in range(3):
        np.testing.assert_allclose(lending.derivative(total)(weights), kernels + gram.sum(0), rtol=1e-12)
        mapped = lending.batched(lambda a: branchsig.branched_sig_kernel(*arrays, 3) * a)(weights)
        np.testing.assert_allclose(mapped, np.arange(3.0)[:, None] * kernels, rtol=1e-12)


def test_recorded_calls_that_come_again_have_the_bits_of_the_first(torch, prepared, rng):
    x, y = (torch.asarray(walk(rng, 3, 8, 2)).requires_grad_() for _ in range(2))
    sigma = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    for kernel, inputs in (
        (None, [x, y]),
        (branchsig.RBFKernel(0.9), [x, y]),
        (branchsig.RBFKernel(sigma), [x, y, sigma]),
    ):
        forget()
        wanted = None
        for _ in range(4):
            prepared.clear()
            value = branchsig.branched_sig_kernel(x, y, 3, static_kernel=kernel)
            found = [value.detach(), *torch.autograd.grad(value.sum(), inputs)]
            wanted = wanted or found
            for one, other in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(one, other)
        assert len(prepared) == len(inputs) - 2  # gradients of parameters are not made ready


def test_second_derivatives_of_calls_that_come_again_are_those_of_the_first(torch, rng):
    x, y = walk(rng, 2, 5, 2), walk(rng, 2, 5, 2)
    x, y = torch.asarray(x).requires_grad_(), torch.asarray(y)
    found = []
    for _ in range(4):
        (first,) = torch.autograd.grad(branchsig.branched_sig_kernel(x, y, 2).sum(), x, create_graph=True)
        found.append(torch.autograd.grad((first**2).sum(), x)[0])
    assert found[0].abs().max() > 0
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-12)


def test_tensors_are_read_anew_in_every_call_and_parameters_may_change(torch, rng):
    x, y = torch.asarray(walk(rng, 3, 8, 2)), torch.asarray(walk(rng, 3, 8, 2))
    for _ in range(4):
        x.mul_(0.9)
        found = branchsig.branched_sig_kernel(x, y, 3)
        np.testing.assert_array_equal(found, branchsig.branched_sig_kernel(x.numpy().copy(), y.numpy(), 3))
    with torch.no_grad():
        leaf = torch.nn.Parameter(x)
        np.testing.assert_array_equal(branchsig.branched_sig_kernel(leaf, y, 3), found)
    assert branchsig.branched_sig_kernel(leaf, y, 3).requires_grad
    strided = torch.stack([x, x], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    np.testing.assert_array_equal(branchsig.branched_sig_kernel(strided, y, 3), found)


def test_arrays_of_jax_that_are_gone_or_lie_in_another_order_are_taken_as_what_they_are(jax, rng):
    x, y = walk(rng, 3, 8, 2), walk(rng, 3, 8, 2)
    wanted = branchsig.branched_sig_kernel(x, y, 3)
    array, other = jax.numpy.asarray(x), jax.numpy.asarray(y)
    for _ in range(3):
        branchsig.branched_sig_kernel(array, other, 3)
    from jax.experimental.layout import Format, Layout

    turned = jax.device_put(array, Format(Layout((2, 0, 1)), array.sharding))
    np.testing.assert_array_equal(branchsig.branched_sig_kernel(turned, other, 3), wanted)
    gone = jax.numpy.array(x)
    gone.delete()
    with pytest.raises(RuntimeError, match="deleted"):
        branchsig.branched_sig_kernel(gone, other, 3)


@pytest.mark.parametrize("put", [True, False])
def test_dtypes_of_jax_are_those_it_has_without_64_bits(put, jax, rng, monkeypatch):
    binding = pytest.importorskip("branchsig.frameworks.jax")
    if not put:  # as in a version of JAX without the function
        monkeypatch.setattr(binding, "_put", None)
    x, y = walk(rng, 3, 8, 2, dtype=np.float32), walk(rng, 3, 8, 2, dtype=np.float32)
    wanted = value_and_gradients(x, y, np.ones(3, np.float32), 3)
    jax.config.update("jax_enable_x64", False)
    try:
        arrays = [jax.numpy.asarray(array) for array in (x, y, np.ones(3))]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(3):
                found = value_and_gradients(*arrays, 3)
                given = branchsig.branched_sig_kernel_gram_vjp(*arrays[:2], 3)[0]
    finally:
        jax.config.update("jax_enable_x64", True)
    assert given.dtype == np.float32
    for one, other in zip(found, wanted, strict=True):
        if one is not None:
            assert one.dtype == np.float32
            np.testing.assert_array_equal(one, other)


def test_results_lie_where_jax_puts_them(jax):
    program = textwrap.dedent(
        """
        import jax
        jax.config.update("jax_num_cpu_devices", 2)
        jax.config.update("jax_enable_x64", True)
        import jax.numpy as jnp
        import numpy as np
        import branchsig
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        rng = np.random.default_rng(0)
        x, y = 0.1 * rng.standard_normal((2, 4, 8, 2)).cumsum(2)
        wanted = branchsig.branched_sig_kernel(x, y, 3)
        first, last = jax.devices()
        derivs = np.ones(4)

        def check(put, device, committed, context=None):
            with jax.default_device(context):
                a, b, w = map(put, (x, y, derivs))
            for _ in range(4):
                with jax.default_device(context):
                    value = branchsig.branched_sig_kernel(a, b, 3)
                    found = branchsig.branched_sig_kernel_backprop(w, a, b, 3, right_deriv=True)
                np.testing.assert_array_equal(value, wanted)
                for array in (value, *found):
                    assert (array.devices(), array.committed) == ({device}, committed), (array.devices(), put)

        check(jnp.asarray, first, False)
        check(lambda array: jax.device_put(array, first), first, True)
        check(lambda array: jax.device_put(array, last), last, True)
        check(jnp.asarray, last, False, last)
        check(jnp.asarray, first, False, first)
        check(lambda array: jax.device_put(array, first), first, True, last)
        alone = NamedSharding(Mesh([last], "i"), PartitionSpec("i"))
        check(lambda array: jax.device_put(array, alone), last, True)
        shared = NamedSharding(Mesh([first, last], "i"), PartitionSpec("i"))
        a, b = (jax.device_put(array, shared) for array in (x, y))
        for _ in range(4):
            np.testing.assert_array_equal(branchsig.branched_sig_kernel(a, b, 3), wanted)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
