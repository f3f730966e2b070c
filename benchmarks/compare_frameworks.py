"""Values and gradients inside frameworks, beside those of NumPy arrays and beside pysiglib's layers for frameworks.

    python benchmarks/compare_frameworks.py [--quick]

All of them take turns within one process, one thread each. The table goes to the screen and to `results/frameworks.md`.
"""

import time

import measure
import numpy as np

import branchsig

CASES = [
    # paths, length, dimension, depth; whether as a Gram matrix
    (1, 10, 2, 3, False),
    (32, 128, 8, 4, False),
    (1, 10, 2, 3, True),
    (16, 32, 4, 3, True),
    (16, 100, 4, 4, True),
    (32, 64, 4, 4, True),
]


def of_numpy(x, y, depth, gram):
    """Value, then gradients with respect to both paths, of NumPy arrays."""
    name = "branched_sig_kernel_gram" if gram else "branched_sig_kernel"
    value, backprop = getattr(branchsig, name), getattr(branchsig, name + "_backprop")
    derivs = np.ones((len(x), len(y)) if gram else len(x))

    def both():
        value(x, y, depth, 0)
        backprop(derivs, x, y, depth, 0, right_deriv=True)

    return {"values": lambda: value(x, y, depth, 0), "values and gradients": both}


def of_torch(x, y, depth, gram, module):
    """The same by tensors that require gradients."""
    import torch

    function = module.branched_sig_kernel_gram if gram else module.branched_sig_kernel
    tensors = [torch.asarray(path) for path in (x, y)]
    recorded = [tensor.clone().requires_grad_() for tensor in tensors]
    derivs = torch.ones((len(x), len(y)) if gram else len(x), dtype=torch.float64)

    def both():
        torch.autograd.grad(function(*recorded, depth, 0), recorded, derivs)

    return {"values": lambda: function(*tensors, depth, 0), "values and gradients": both}


def of_peer_in_torch(x, y, depth, gram):
    import pysiglib.torch_api

    return of_torch(x, y, depth, gram, pysiglib.torch_api)


def of_jax(x, y, depth, gram, module):
    """The same inside `jit`."""
    import jax

    jax.config.update("jax_enable_x64", True)
    function = module.branched_sig_kernel_gram if gram else module.branched_sig_kernel
    arrays = [jax.numpy.asarray(path) for path in (x, y)]
    value = jax.jit(lambda a, b: function(a, b, depth, 0))
    both = jax.jit(jax.value_and_grad(lambda a, b: function(a, b, depth, 0).sum(), (0, 1)))
    return {
        "values": lambda: jax.block_until_ready(value(*arrays)),
        "values and gradients": lambda: jax.block_until_ready(both(*arrays)),
    }


def of_concrete_jax(x, y, depth, gram, module):
    """The same outside of `jit`: a call on concrete arrays, and another one for the gradients."""
    import jax

    jax.config.update("jax_enable_x64", True)
    arrays = [jax.numpy.asarray(path) for path in (x, y)]
    derivs = jax.numpy.ones((len(x), len(y)) if gram else len(x))
    name = "branched_sig_kernel_gram" if gram else "branched_sig_kernel"
    function, backprop = getattr(module, name), getattr(module, name + "_backprop", None)

    def both():
        if backprop is None:
            return jax.block_until_ready(jax.vjp(lambda a, b: function(a, b, depth, 0), *arrays)[1](derivs))
        value = function(*arrays, depth, 0)
        return jax.block_until_ready((value, backprop(derivs, *arrays, depth, 0, right_deriv=True)))

    return {
        "values": lambda: jax.block_until_ready(function(*arrays, depth, 0)),
        "values and gradients": both,
    }


def peer_in_jax():
    import pysiglib.jax_api

    return pysiglib.jax_api


FRAMEWORKS = {
    "PyTorch": (lambda *case: of_torch(*case, branchsig), of_peer_in_torch),
    "JAX, jit": (lambda *case: of_jax(*case, branchsig), lambda *case: of_jax(*case, peer_in_jax())),
    "JAX": (lambda *case: of_concrete_jax(*case, branchsig), lambda *case: of_concrete_jax(*case, peer_in_jax())),
}
"""For each framework what this library takes in it, and what the peer takes; each makes the functions of a case."""


def main():
    arguments = measure.arguments(__doc__).parse_args()
    peer = measure.peer()
    rng = np.random.default_rng(0)
    rows = []
    for batch, length, dimension, depth, gram in CASES[:3] if arguments.quick else CASES:
        x, y = (measure.brownian(rng, batch, length, dimension) for _ in range(2))
        made = {"NumPy": of_numpy(x, y, depth, gram)}
        for name, (ours, theirs) in FRAMEWORKS.items():
            made[name] = ours(x, y, depth, gram)
            if peer is not None:
                made[f"pysiglib, {name}"] = theirs(x, y, depth, gram)
        for what in ("values", "values and gradients"):
            calls = {name: functions[what] for name, functions in made.items()}
            times = measure.interleaved(calls, 5 if arguments.quick else 31, most=10.0, clock=time.process_time)
            title = f"{'Gram of two' if gram else 'pairs'} ({batch}, {length}, {dimension}), depth {depth}, {what}"
            for name in FRAMEWORKS:
                its, plain, other = times[name], times["NumPy"], times.get(f"pysiglib, {name}")
                row = [title, name, f"{plain.median * 1e6:.0f}", f"{its.median * 1e6:.0f}"]
                row.append(f"{measure.ratio(its, plain)[0]:.2f}")
                row += ["", ""] if other is None else [f"{other.median * 1e6:.0f}", f"{other.median / its.median:.1f}"]
                rows.append(row)
    header = [
        "case",
        "framework",
        "NumPy, µs",
        "framework, µs",
        "over NumPy",
        "pysiglib in it, µs",
        "its time over ours",
    ]
    lines = [
        "# Inside frameworks",
        "",
        *measure.machine_facts(peer, "arrays of the framework"),
        "",
        "CPU time, medians of up to 31 runs in turns in one process, one thread each. Gradients are those with respect",
        "to both paths; for NumPy two calls give value and gradients.",
        "Written by `python benchmarks/compare_frameworks.py`.",
        "",
        *measure.table(header, rows),
    ]
    measure.report("frameworks.md", lines, write=not arguments.quick)


if __name__ == "__main__":
    main()
