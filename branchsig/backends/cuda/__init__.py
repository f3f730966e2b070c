"""CUDA kernels for CuPy arrays.

`instances` names the kernels, `plans` chooses their launches, `sweep` launches them, `backend` solves a `Problem`,
`devices` distributes it over several devices, and `warm_up` compiles kernels in advance.
"""

from branchsig.backends.cuda.backend import CudaBackend
from branchsig.backends.cuda.devices import OverDevices
from branchsig.backends.cuda.instances import Instance, source
from branchsig.backends.cuda.warm_up import warm_up

__all__ = ["CudaBackend", "Instance", "OverDevices", "source", "warm_up"]
