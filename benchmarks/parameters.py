"""What gradients with respect to the parameters of a static kernel cost on top of those of the paths.

    python benchmarks/parameters.py [--repeat N] [--wall]

The two are computed in turns, and the ratio is that of the medians of their times: CPU time of one thread, unless wall
time is asked for, so that other processes of a shared machine count for less.
"""

import argparse
import math
import statistics
import time

import measure
import numpy as np

import branchsig
from branchsig.backends import Problem, Wrt, backend_for
from branchsig.static_kernels import DilatedKernel

TURN = 0.04
"""Seconds that one of the two takes at least before it is the other's turn."""

KERNELS = [
    branchsig.ScaledLinearKernel(0.8),
    branchsig.PolynomialKernel(degree=2.0),
    branchsig.RBFKernel(1.0),
    branchsig.Matern12Kernel(1.0),
    branchsig.Matern32Kernel(1.0),
    branchsig.Matern52Kernel(1.0),
    branchsig.RationalQuadraticKernel(1.0),
    branchsig.RationalQuadraticKernel(1.0, alpha=0.7),
]

SHAPES = [((256, 20, 3), 2), ((64, 64, 3), 3), ((64, 64, 32), 3), ((16, 200, 4), 3), ((1, 1500, 4), 3)]
"""Pairs, points and channels; depth."""


def problems(rng):
    """What is measured: a name, and a problem."""
    for kernel in KERNELS:
        for shape, depth in SHAPES:
            paths = [measure.brownian(rng, *shape) for _ in range(2)]
            yield f"{kernel!r} {shape}, depth {depth}", Problem(*paths, "paired", kernel, depth, (0, 0))
    x, y = (measure.brownian(rng, 64, 64, 3) for _ in range(2))
    for kernel in KERNELS[1:3]:
        yield f"{kernel!r} short", Problem(1e-3 * x, 1e-3 * y, "paired", kernel, 3, (0, 0))
    rational = KERNELS[-1]
    yield f"{rational!r} short", Problem(1e-3 * x, 1e-3 * y, "paired", rational, 3, (0, 0))
    rbf = branchsig.RBFKernel(1.0)
    factors = np.concatenate((np.full((64, 1, 1), 0.5), np.zeros((64, 63, 1))), axis=1)
    dilated = [np.concatenate((path, factors), axis=2) for path in (x, y)]
    yield "dilated RBF", Problem(*dilated, "paired", DilatedKernel(rbf), 3, (0, 0))
    yield "RBF, order 3", Problem(x, y, "paired", rbf, math.inf, (0, 0), order=3)
    yield "RBF, no truncation", Problem(x, y, "paired", rbf, math.inf, (0, 0))
    yield "RBF, symmetric Gram", Problem(x, x, "symmetric", rbf, 3, (0, 0))


def main():
    """Measure, and print a line for each problem."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=15, help="turns of each of the two")
    parser.add_argument("--wall", action="store_true", help="wall time instead of CPU time")
    options = parser.parse_args()
    clock = time.perf_counter if options.wall else time.process_time
    ratios = []
    for name, problem in problems(np.random.default_rng(0)):
        backend = backend_for(problem)
        shape = problem.path1.shape[:1] * problem.axes
        derivs = np.ones(shape if problem.order is None else (*shape, problem.order + 1))
        times = ([], [])
        calls = 1
        for turn in range(options.repeat + 1):
            for parameters, seconds in zip(
                (False, True) if turn % 2 else (True, False), times[:: 1 if turn % 2 else -1]
            ):
                wrt = Wrt(True, problem.pairing != "symmetric", parameters)
                start = clock()
                for _ in range(calls):
                    backend.adjoint(problem, "end", derivs, wrt, log=problem.order is None)
                seconds.append((clock() - start) / calls)
            if turn == 0:
                calls = max(1, int(TURN / times[0].pop()))
                times[1].pop()
        without, with_parameters = (statistics.median(seconds) for seconds in times)
        ratios.append(with_parameters / without)
        print(f"{name:72} {1e3 * without:9.3f} ms  {ratios[-1]:5.2f}", flush=True)
    print(f"{'geometric mean':72} {'':12} {math.prod(ratios) ** (1 / len(ratios)):5.2f}; largest {max(ratios):.2f}")


if __name__ == "__main__":
    main()
