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


def wait_for(value, gradients=()):
    """Wait for arrays of JAX one by one: `jax.block_until_ready` takes longer, since it looks for arrays in trees."""
    for array in (value, *gradients):
        array.block_until_ready()


def of_jax(x, y, depth, gram, module):
    """The same inside `jit`."""
    import jax

    jax.config.update("jax_enable_x64", True)
    function = module.branched_sig_kernel_gram if gram else module.branched_sig_kernel
    arrays = [jax.numpy.asarray(path) for path in (x, y)]
    value = jax.jit(lambda a, b: function(a, b, depth, 0))
    both = jax.jit(jax.value_and_grad(lambda a, b: function(a, b, depth, 0).sum(), (0, 1)))
    return {
        "values": lambda: wait_for(value(*arrays)),
        "values and gradients": lambda: wait_for(*both(*arrays)),
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
            value, pull_back = jax.vjp(lambda a, b: function(a, b, depth, 0), *arrays)
            wait_for(value, pull_back(derivs))
        else:
            value = function(*arrays, depth, 0)
            wait_for(value, backprop(derivs, *arrays, depth, 0, right_deriv=True))

    return {"values": lambda: wait_for(function(*arrays, depth, 0)), "values and gradients": both}


def of_differentiated_jax(x, y, depth, gram, module):
    """Gradients outside of `jit` that JAX takes, which records the function anew in every call."""
    import jax

    jax.config.update("jax_enable_x64", True)
    function = module.branched_sig_kernel_gram if gram else module.branched_sig_kernel
    arrays = [jax.numpy.asarray(path) for path in (x, y)]
    both = jax.value_and_grad(lambda a, b: function(a, b, depth, 0).sum(), (0, 1))
    return {"values and gradients": lambda: wait_for(*both(*arrays))}


def peer_in_jax():
    import pysiglib.jax_api

    return pysiglib.jax_api


FRAMEWORKS = {
    "PyTorch": (lambda *case: of_torch(*case, branchsig), of_peer_in_torch),
    "JAX, jit": (lambda *case: of_jax(*case, branchsig), lambda *case: of_jax(*case, peer_in_jax())),
    "JAX": (lambda *case: of_concrete_jax(*case, branchsig), lambda *case: of_concrete_jax(*case, peer_in_jax())),
    "JAX, grad": (
        lambda *case: of_differentiated_jax(*case, branchsig),
        lambda *case: of_differentiated_jax(*case, peer_in_jax()),
    ),
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
            calls = {name: functions[what] for name, functions in made.items() if what in functions}
            times = measure.interleaved(calls, 5 if arguments.quick else 31, most=10.0, clock=time.process_time)
            title = f"{'Gram of two' if gram else 'pairs'} ({batch}, {length}, {dimension}), depth {depth}, {what}"
            for name in filter(times.__contains__, FRAMEWORKS):
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
        "to both paths. NumPy gives value and gradients by two calls, and so does JAX; the rows of JAX, grad are by",
        "`jax.value_and_grad` outside of `jit`. Arrays of JAX are waited for by their `block_until_ready`.",
        "Written by `python benchmarks/compare_frameworks.py`.",
        "",
        *measure.table(header, rows),
    ]
    measure.report("frameworks.md", lines, write=not arguments.quick)


if __name__ == "__main__":
    main()
