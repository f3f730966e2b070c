"""What only a CUDA device can show: arrays of other libraries that lie there, streams, several devices, and its memory.

The kernels themselves are held against the reference in the files beside this one, on a device too where there is one.
"""

import numpy as np
import pytest
from cases import relative, relative_to_path, walk

import branchsig
from branchsig import _arrays

cupy = pytest.importorskip("cupy")
if not cupy.is_available():
    pytest.skip("CuPy finds no device", allow_module_level=True)


class Torch:
    def __init__(self):
        self.torch = pytest.importorskip("torch")
        if not self.torch.cuda.is_available():
            pytest.skip("PyTorch finds no device")
        self.type = self.torch.Tensor

    def sent(self, array):
        return self.torch.from_numpy(array).cuda()

    def fetched(self, array):
        assert array.device.type == "cuda"
        return array.cpu().numpy()

    def address(self, array):
        return array.data_ptr()


class Jax:
    def __init__(self):
        self.jax = pytest.importorskip("jax")
        try:
            self.device = self.jax.devices("gpu")[0]
        except RuntimeError:
            pytest.skip("JAX finds no device")
        self.jax.config.update("jax_enable_x64", True)
        self.type = self.jax.Array

    def sent(self, array):
        return self.jax.device_put(array, self.device)

    def fetched(self, array):
        assert array.devices() == {self.device}
        return np.asarray(array)

    def address(self, array):
        return array.unsafe_buffer_pointer()


@pytest.fixture(params=[Torch, Jax])
def library(request):
    return request.param()


@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"normalize": "dilation"}, {"time_aug": True}])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_arrays_of_other_libraries_come_and_go(library, dtype, options, rng):
    tolerance = 1e-10 if dtype == np.float64 else 1e-4
    x, y = walk(rng, 5, 40, 3, size=0.3, dtype=dtype), walk(rng, 5, 60, 3, size=0.3, dtype=dtype)
    there = library.sent(x), library.sent(y)
    for function in (branchsig.branched_sig_kernel_vjp, branchsig.branched_sig_kernel_gram_vjp):
        wanted, pullback = function(x, y, 3, **options)
        found, pullback_there = function(*there, 3, **options)
        assert isinstance(found, library.type)
        assert relative(library.fetched(found), wanted) < tolerance
        derivs = rng.uniform(0.5, 1.5, wanted.shape).astype(dtype)
        for mine, its in zip(pullback_there(library.sent(derivs)), pullback(derivs), strict=True):
            assert isinstance(mine, library.type)
            assert relative_to_path(library.fetched(mine), its) < tolerance


def test_nothing_is_copied_on_the_way(library, rng):
    x = library.sent(walk(rng, 5, 40, 3))
    came = _arrays.to_cupy(x, cupy)
    assert came.data.ptr == library.address(x)
    made = cupy.arange(6.0)
    assert library.address(_arrays.from_cupy(made, x)) == made.data.ptr


def test_streams_of_other_libraries_are_waited_for(rng):
    torch = Torch().torch
    x = walk(rng, 64, 40, 3, size=0.3)
    wanted = branchsig.branched_sig_kernel_gram(x, None, 3)
    for _ in range(5):
        with torch.cuda.stream(torch.cuda.Stream()):
            busy = torch.ones(6000, 6000, device="cuda")
            for _ in range(20):
                busy = busy @ busy / 6000
            late = torch.from_numpy(x).cuda(non_blocking=True) * busy[0, 0]  # times one, once all of this is done
            found = branchsig.branched_sig_kernel_gram(late, None, 3) * 1.0
            assert relative(found.cpu().numpy(), wanted) < 1e-10


def test_streams_of_cupy_are_used(rng):
    x = walk(rng, 64, 40, 3, size=0.3)
    wanted = branchsig.branched_sig_kernel_gram(x, None, 3)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        busy = cupy.ones((6000, 6000), dtype=cupy.float32)
        for _ in range(20):
            busy = busy @ busy / 6000
        found = branchsig.branched_sig_kernel_gram(cupy.asarray(x) * busy[0, 0].astype(cupy.float64), None, 3)
    stream.synchronize()
    assert relative(cupy.asnumpy(found), wanted) < 1e-5


def test_devices_share_a_gram_matrix(rng):
    count = cupy.cuda.runtime.getDeviceCount()
    if count < 2:
        pytest.skip("there is one device")
    x = walk(rng, 20, 40, 3, size=0.3)
    wanted, pullback = branchsig.branched_sig_kernel_gram_vjp(x, None, 3)
    derivs = rng.standard_normal(wanted.shape)
    for device in range(count):
        with cupy.cuda.Device(device):
            there, derivs_there = cupy.asarray(x), cupy.asarray(derivs)
        found, pullback_there = branchsig.branched_sig_kernel_gram_vjp(there, None, 3, devices=range(count))
        assert found.device.id == device
        assert relative(cupy.asnumpy(found), wanted) < 1e-12
        gradient, _ = pullback_there(derivs_there)
        assert relative_to_path(cupy.asnumpy(gradient), pullback(derivs)[0]) < 1e-11


def test_memory_that_does_not_suffice_is_told_of(rng):
    x = cupy.asarray(walk(rng, 2, 400, 2, size=0.3))
    free = cupy.cuda.Device().mem_info[0]
    count = int((free * 2 / 8 / 400**2) ** 0.5) + 1
    with pytest.raises(MemoryError, match="memory"):
        branchsig.branched_sig_kernel_gram(cupy.concatenate([x[:1]] * count), None, 2, return_grid=True)
    cupy.get_default_memory_pool().free_all_blocks()
    assert bool(cupy.isfinite(branchsig.branched_sig_kernel_gram(x, None, 2)).all())
