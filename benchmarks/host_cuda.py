"""What calls on CuPy arrays take on the host: CuPy itself, on a CUDA runtime that launches nothing. Needs no device.

    python benchmarks/host_cuda.py SOURCES [--include DIRECTORY ...]

The runtime is linked into CuPy. So the module that wraps it is compiled again, from the sources of the CuPy that is
installed, against `no_device.cpp`, and takes its place when CuPy is imported. That needs Cython, a compiler, the
headers of CUDA, and NVRTC, which compiles the kernels as ever. Their results are whatever lay in memory, and what a
driver takes for a launch is not in the times. The table goes to the screen and to `results/cuda_host.md`.
"""

import ctypes
import importlib.util
import subprocess
import sys
import sysconfig
import tempfile
import timeit
from pathlib import Path

import measure
import numpy as np

import branchsig

HERE = Path(__file__).parent
MODULE = "cupy_backends.cuda.api.runtime"
CUDA = "/usr/local/cuda/include"


def built(sources, includes, folder):
    """Compile the wrapper of the runtime, and the driver, for the CuPy of some sources; return both libraries."""
    from Cython.Compiler import Errors
    from Cython.Compiler.Main import CompilationOptions
    from Cython.Compiler.Main import compile as translate

    Errors.LEVEL = 2  # CuPy's warnings are not ours

    pyx = sources / (MODULE.replace(".", "/") + ".pyx")
    flags = ["-O2", "-w", "-fPIC", *(f"-I{include}" for include in includes)]
    version = int(run("g++", *flags, "-E", "-dM", "-include", "cuda.h", "-x", "c++", "/dev/null", find="CUDA_VERSION "))
    macros = {"CUPY_CUDA_VERSION": version, "CUPY_HIP_VERSION": 0, "CUPY_USE_CUDA_PYTHON": False}
    cpp = folder / "runtime.cpp"
    options = {"compile_time_env": macros, "cplus": True, "include_path": [str(sources)], "language_level": 3}
    translate(str(pyx), CompilationOptions(output_file=str(cpp), **options), full_module_name=MODULE)
    flags += [f"-I{sysconfig.get_paths()['include']}", f"-I{pyx.parent}"]
    objects = [folder / "runtime.o", folder / "no_device.o", folder / "rest.o"]
    run("g++", *flags, "-c", cpp, "-o", objects[0])
    run("g++", *flags, "-c", HERE / "no_device.cpp", "-o", objects[1])
    wanted, made = (
        set(run("nm", f"--{kind}-only", "-P", name).split())
        for kind, name in (("undefined", objects[0]), ("defined", objects[1]))
    )
    rest = "".join(f"int {name}() {{ return 0; }}\n" for name in sorted(wanted - made) if name.startswith("cuda"))
    (folder / "rest.c").write_text(rest)
    run("gcc", "-fPIC", "-c", folder / "rest.c", "-o", objects[2])
    run("g++", "-shared", *objects, "-o", folder / "runtime.so")
    run("g++", "-shared", objects[1], "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1")
    return folder / "runtime.so", folder / "libcuda.so.1"


def run(*command, find=None):
    """The output of a command, or the rest of the line in it that holds some words."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{result.stderr}")
    if find is None:
        return result.stdout
    return next(line.partition(find)[2] for line in result.stdout.splitlines() if find in line)


def cupy_on(runtime, driver):
    """Import CuPy with another runtime and driver."""
    ctypes.CDLL(str(driver), mode=ctypes.RTLD_GLOBAL)
    import cupy_backends.cuda.api as parent

    spec = importlib.util.spec_from_file_location(MODULE, runtime)
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = parent.runtime = module
    spec.loader.exec_module(module)
    import cupy

    return cupy


def microseconds(call):
    for _ in range(200):
        call()
    return min(timeit.repeat(call, number=500, repeat=15)) / 500 * 1e6


def rows(cupy):
    rng = np.random.default_rng(0)
    x, y = (cupy.asarray(measure.brownian(rng, 4, 8, 3, np.dtype("float64"))) for _ in range(2))
    one, all_pairs = cupy.ones(4), cupy.ones((4, 4))
    rbf = branchsig.RBFKernel(1.0)
    yield "branched_sig_kernel", lambda: branchsig.branched_sig_kernel(x, y, 3)
    yield "the same, RBF", lambda: branchsig.branched_sig_kernel(x, y, 3, static_kernel=rbf)
    yield "branched_sig_kernel_gram", lambda: branchsig.branched_sig_kernel_gram(x, y, 3)
    yield "branched_sig_kernel_backprop", lambda: branchsig.branched_sig_kernel_backprop(one, x, y, 3, right_deriv=True)
    yield (
        "branched_sig_kernel_gram_backprop, symmetric",
        lambda: branchsig.branched_sig_kernel_gram_backprop(all_pairs, x, None, 3),
    )
    yield "cupy.exp, for comparison", lambda: cupy.exp(one)


def main():
    parser = measure.arguments(__doc__.splitlines()[0])
    parser.add_argument("sources", type=Path, help="the unpacked sources of the CuPy that is installed")
    parser.add_argument("--include", action="append", default=[], help="headers of CUDA, those of CuPy's version first")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cupy = cupy_on(*built(arguments.sources, [*arguments.include, CUDA], Path(folder)))
        table = [[name, f"{microseconds(call):.0f}"] for name, call in rows(cupy)]
    lines = [
        "# The host's part of calls on CuPy arrays",
        "",
        f"- CuPy {cupy.__version__}, on a CUDA runtime that launches nothing",
        *measure.machine_facts(None),
        "",
        "Microseconds of a warm call on four pairs of paths of 8 points and 3 channels, depth 3, best of 15 times 500.",
        "Written by `python benchmarks/host_cuda.py`.",
        "",
        *measure.table(["call", "µs"], table),
    ]
    measure.report("cuda_host.md", lines, write=not arguments.quick)


if __name__ == "__main__":
    main()
