"""CUDA kernels for CuPy arrays.

`instances` names the kernels, `plans` says which are launched how, `sweep` launches them, `backend` serves a `Problem`,
`devices` shares it among several devices, and `warm_up` compiles kernels beforehand.
"""

from branchsig.backends.cuda.backend import CudaBackend
from branchsig.backends.cuda.devices import OverDevices
from branchsig.backends.cuda.instances import Instance, source
from branchsig.backends.cuda.warm_up import warm_up

__all__ = ["CudaBackend", "Instance", "OverDevices", "source", "warm_up"]
