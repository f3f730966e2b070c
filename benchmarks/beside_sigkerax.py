"""Signature kernels inside `jax.jit` beside sigkerax: values, gradients and times.

    python benchmarks/beside_sigkerax.py PYTHON [--quick] [--runs N]

sigkerax 0.2.1 does not run with the JAX that this library needs, so PYTHON is the interpreter of an environment of its
own: `pip install sigkerax==0.2.1 jax==0.4.23 jaxlib==0.4.23 'numpy<2' 'scipy<1.13'`. Each library runs in a process of
its own on the same float64 arrays, one thread each, and the two take turns. Times are CPU times of the processes. The
report goes to the screen and to `results/sigkerax.md`.
"""

import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

CASES = [(8, 32, 4), (16, 64, 4), (32, 100, 4), (4, 400, 8)]
"""Gram matrices of two batches: paths in each, points, channels."""

TURN = 0.05
"""Seconds that a call is repeated for before it is the other's turn."""

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


def calls(library, shape):
    """A Gram matrix of two batches by one of the libraries, and its gradient with respect to the first one."""
    import jax

    jax.config.update("jax_enable_x64", True)
    if library == "sigkerax":
        from sigkerax.sigkernel import SigKernel

        kernel = SigKernel()

        def gram(x, y):
            return kernel.kernel_matrix(x, y)[..., 0]
    else:
        import branchsig

        def gram(x, y):
            return branchsig.sig_kernel_gram(x, y, n_jobs=1)

    rng = np.random.default_rng(0)
    scale = 0.8 / np.sqrt(shape[1] * shape[2])
    x, y = (jax.numpy.asarray(scale * rng.standard_normal(shape).cumsum(axis=1)) for _ in range(2))
    functions = jax.jit(gram), jax.jit(jax.grad(lambda x, y: gram(x, y).sum()))
    return [lambda f=f: f(x, y).block_until_ready() for f in functions]


def child(library):
    """Answer the parent, line by line: a case, then which call to time."""
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, list):
            answers = calls(library, request)
            print(json.dumps([np.asarray(call()).tolist() for call in answers]), flush=True)
            continue
        runs, start = 0, time.process_time()
        while (seconds := time.process_time() - start) < TURN or not runs:
            answers[request]()
            runs += 1
        print(json.dumps(seconds / runs), flush=True)


class Library:
    """A process that answers."""

    def __init__(self, python, name):
        environment = {**os.environ, **ONE_THREAD}
        command = [python, __file__, "--child", name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, request):
        """Send a request and return the answer."""
        print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            sys.exit("a child process has ended, see above")
        return json.loads(line)


def row(libraries, shape, runs):
    """A line of the table."""
    results = [[np.asarray(array) for array in library.ask(shape)] for library in libraries]
    apart = [np.max(np.abs(a - b)) / np.max(np.abs(b)) for a, b in zip(*results, strict=True)]
    cells = [str(tuple(shape))]
    for k in range(2):
        seconds = [[] for _ in libraries]
        for _ in range(runs):
            for library, own in zip(libraries, seconds, strict=True):
                own.append(library.ask(k))
        ours, theirs = map(statistics.median, seconds)
        quartiles = np.quantile(np.divide(seconds[1], seconds[0]), [0.25, 0.75])
        cells += [f"{1e3 * ours:.3f}", f"{1e3 * theirs:.1f}"]
        cells += [f"{theirs / ours:.0f} ({quartiles[0]:.0f}-{quartiles[1]:.0f})", f"{apart[k]:.0e}"]
    return cells


def main():
    """Measure and report."""
    import measure

    parser = measure.arguments(__doc__.partition("\n")[0])
    parser.add_argument("python", metavar="PYTHON", help="the interpreter of an environment with sigkerax")
    parser.add_argument("--runs", type=int, default=9, help="turns of every call")
    options = parser.parse_args()
    libraries = [Library(sys.executable, "branchsig"), Library(options.python, "sigkerax")]
    runs = 3 if options.quick else options.runs
    rows = [row(libraries, shape, runs) for shape in (CASES[:1] if options.quick else CASES)]
    header = ["case"]
    for way in ("values", "gradients"):
        header += [f"{way}: ours, ms", "sigkerax, ms", "ratio (quartiles)", "difference"]
    lines = [
        "# Signature kernels in JAX beside sigkerax",
        "",
        *measure.own_facts(),
        "- sigkerax 0.2.1 with JAX 0.4.23, branchsig with the JAX of its environment",
        "",
        "A case is (paths of each of two batches, points, channels), a Gram matrix inside `jax.jit`, and the gradient",
        "of its sum with respect to the first batch. Both libraries take the same rule. CPU time, medians in turns,",
        "one thread each. A difference is relative to the largest entry. `benchmarks/beside_sigkerax.py` writes this.",
        "",
        *measure.table(header, rows),
    ]
    measure.report("sigkerax.md", lines, write=not options.quick)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2])
    else:
        main()
