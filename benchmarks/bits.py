"""Two builds of branchsig, bit for bit: are values and gradients those of a commit?

    python benchmarks/bits.py COMMIT [NOW] [--configurations 3000] [--seed 0] [--backend cpu] [--write]

Each build is installed and run in processes of its own, as in `against.py`. Both compute the same random
configurations, of every public function and every option, over paths that are smooth, return, overflow, hold NaN, have
one point or are padded. An outcome is the arrays that come back, or the message of the exception. The exit status is 1
where outcomes differ; the sign of 0 and of NaN aside. Under `rtol` with dilation the search for the factors may start
elsewhere, so that differences up to 1e-12 are allowed there.

`--backend` is what serves arrays of NumPy: the compiled core ("cpu"), the "reference", or the kernels of "cuda" on the
emulator of the tests.
"""

import argparse
import dataclasses
import functools
import importlib.machinery
import pickle
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import against
import measure
import numpy as np

ALLOWED = 1e-12
"""The relative difference that is allowed under `rtol` with dilation."""

STATIC_KERNELS = {
    "LinearKernel": (),
    "ScaledLinearKernel": (0.8,),
    "PolynomialKernel": (2.0, 1.2, 0.6),
    "RBFKernel": (0.9,),
    "Matern12Kernel": (0.7,),
    "Matern32Kernel": (0.8,),
    "Matern52Kernel": (1.1,),
    "RationalQuadraticKernel": (0.9, 0.7),
}

PAIRED = ("branched_sig_kernel", "branched_sig_kernel_backprop", "branched_sig_kernel_vjp")
GRAMS = ("branched_sig_kernel_gram", "branched_sig_kernel_gram_backprop", "branched_sig_kernel_gram_vjp")
MEANS = ("branched_sig_mmd", "branched_sig_score", "expected_branched_sig_score")
OTHERS = ("branched_sig_kernel_stack", "dilation", "branched_sig_mmd_test", "transform_path")


def draw(rng, backend):
    """One configuration, as plain data."""
    few = backend != "cpu"

    def maybe(probability, value, other=None):
        return value if rng.random() < probability else other

    kind = rng.choice(["paired", "gram", "mean", "other"], p=[0.35, 0.4, 0.15, 0.1])
    name = str(rng.choice({"paired": PAIRED, "gram": GRAMS, "mean": MEANS, "other": OTHERS}[kind]))
    if kind == "mean":
        name += maybe(0.5, "_backprop", "")
    most = 8 if few else int(rng.choice([5, 14, 40]))
    config = {
        "name": name,
        "kind": str(kind),
        "counts": [int(n) for n in rng.integers(0 if rng.random() < 0.03 else 1, 4 if few else 12, 2)],
        "lengths": [int(n) for n in rng.integers(1, most, 2)],
        "dimension": int(rng.choice([1, 2, 3, 5, 9])),
        "dtype": maybe(0.25, "float32", "float64"),
        "paths": [str(p) for p in rng.choice(["smooth", "smooth", "rough", "returning", "huge", "nan"], 2)],
        "same": bool(rng.random() < 0.4),
        "padded": maybe(0.3, str(rng.choice(["lengths", "list"]))),
        "zeros": bool(rng.random() < 0.3),
        "wanted": [bool(b) for b in rng.integers(0, 2, 2)],
        "stack": bool(rng.random() < 0.15),
        "seed": int(rng.integers(2**31)),
    }
    if kind == "paired" or name == "branched_sig_kernel_stack":
        config["counts"][1] = config["counts"][0]
    depth = maybe(0.1, float("inf"), int(rng.integers(0, 4 if few else 7)))
    orders = maybe(0.6, 0, [int(n) for n in rng.integers(0, 2 if few else 3, 2)])
    kernel = maybe(0.4, None, str(rng.choice([*STATIC_KERNELS, "custom", "custom", "custom"])))
    options = {"depth": depth, "dyadic_order": orders, "static_kernel": kernel}
    options["order"] = maybe(0.15, int(rng.integers(0, 5)))
    if options["order"] is not None:
        options["depth"] = maybe(0.5, float("inf"), 7)
    options["quadrature"] = maybe(0.7, "trapezoid", str(rng.choice(["left", "lobatto2", "lobatto3", "lobatto5"])))
    options["time_aug"], options["lead_lag"] = maybe(0.2, True, False), maybe(0.1, True, False)
    options["end_time"] = 0.4 if options["time_aug"] else 1.0
    options["n_jobs"] = maybe(0.3, 2, 1)
    if kind in ("paired", "gram"):
        options["log"], options["return_grid"] = maybe(0.3, True, False), maybe(0.2, True, False)
        options["return_levels"] = options["order"] is not None and maybe(0.4, True, False)
        options["rtol"] = maybe(0.03, 1e-5)
    if kind in ("paired", "gram", "mean"):
        options["normalize"] = maybe(0.6, False, str(rng.choice(["unit", "dilation"])))
    if kind == "gram":
        options["max_batch"] = maybe(0.7, -1, int(rng.integers(1, 4)))
    if kind == "mean":
        options["unbiased"] = maybe(0.5, True, False)
    return config | {"options": options}


def paths_of(rng, kind, count, length, dimension, dtype):
    """A stack of paths."""
    x = np.cumsum(rng.standard_normal((count, length, dimension)), axis=1) / np.sqrt(max(length, 1) * dimension)
    if kind == "rough":
        x = rng.choice([-1.0, 1.0], x.shape).cumsum(axis=1)
    if kind == "returning":
        half = x[:, : (length + 1) // 2]
        x = np.concatenate([half, half[:, ::-1]], axis=1)[:, :length] * 3.0
    if kind == "huge" and count:
        x[rng.integers(count)] *= 60.0
    if kind == "nan" and count:
        x[rng.integers(count), rng.integers(length)] = np.nan
    return np.ascontiguousarray(x, dtype=dtype)


def custom_kernel(module):
    """A static kernel of a user's own: <x, y> + <x, y>² / 2, by NumPy."""

    class QuarticKernel(module.StaticKernel):
        def __call__(self, ctx, x, y):
            products = np.einsum("bik,bjk->bij", x, y)
            ctx.save_for_backward(x, y, products)
            return np.diff(np.diff(products + products**2 / 2, axis=1), axis=2)

        def weights(self, ctx, derivs):
            padded = np.pad(derivs, ((0, 0), (1, 1), (1, 1)))
            return np.diff(np.diff(padded, axis=1), axis=2) * (1 + ctx.saved_tensors[2])

        def grad_x(self, ctx, derivs):
            return np.einsum("bij,bjk->bik", self.weights(ctx, derivs), ctx.saved_tensors[1])

        def grad_y(self, ctx, derivs):
            return np.einsum("bij,bik->bjk", self.weights(ctx, derivs), ctx.saved_tensors[0])

    return QuarticKernel()


def outcome(module, config):
    """The arrays that a configuration gives, or what it is refused with."""
    rng = np.random.default_rng(config["seed"])
    options = dict(config["options"])
    if isinstance(options["dyadic_order"], list):
        options["dyadic_order"] = tuple(options["dyadic_order"])
    if options.get("normalize") == "unit":
        options["normalize"] = True
    kernel = options["static_kernel"]
    if kernel is not None:
        known = kernel in STATIC_KERNELS
        options["static_kernel"] = getattr(module, kernel)(*STATIC_KERNELS[kernel]) if known else custom_kernel(module)
    sides = zip(config["paths"], config["counts"], config["lengths"], strict=True)
    x, y = (paths_of(rng, *side, config["dimension"], config["dtype"]) for side in sides)
    valid = [rng.integers(1, p.shape[1] + 1, len(p)) for p in (x, y)]
    if config["same"]:
        y, valid[1] = x, valid[0]
    if config["padded"] == "list":
        x_list = [path[:n] for path, n in zip(x, valid[0], strict=True)]
        x, y = x_list, x_list if config["same"] else [path[:n] for path, n in zip(y, valid[1], strict=True)]
    elif config["padded"]:
        options["lengths1"] = valid[0]
        if not (config["same"] and config["kind"] == "gram"):
            options["lengths2"] = valid[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return list(arrays_of(called(module, config, options, rng, x, y)))
        except (ValueError, TypeError, MemoryError, ArithmeticError) as error:
            return f"{type(error).__name__}: {error}"


def called(module, config, options, rng, x, y):
    """What the function of a configuration returns."""
    name, function = config["name"], getattr(module, config["name"])
    second = None if config["same"] and config["kind"] == "gram" else y

    def derivatives(value):
        derivs = rng.uniform(-1.0, 1.0, np.shape(value))
        if config["zeros"]:
            derivs *= rng.random(derivs.shape) < 0.5
        return derivs.astype(config["dtype"])

    if name == "transform_path":
        taken = {key: options[key] for key in ("time_aug", "lead_lag", "end_time", "n_jobs")}
        return function(x, **taken)
    if name == "dilation":
        options["lengths"] = options.pop("lengths1", None)
        options.pop("lengths2", None)
        return function(x, **options)
    if name == "branched_sig_mmd_test":
        return function(x, y, permutations=20, seed=0, **options)
    if name == "branched_sig_kernel_stack":
        options.pop("order")
        return function(x, y, **options)
    if config["kind"] == "mean":
        score = name.startswith("branched_sig_score")
        options |= {} if "lengths2" in options else {"lengths1": options.get("lengths1")}
        y = y[0] if score and len(y) else y
        if score and "lengths2" in options:
            options["lengths2"] = options["lengths2"][0] if len(options["lengths2"]) else None
        if not name.endswith("_backprop"):
            return function(x, y, **options)
        wanted = {"left_deriv": config["wanted"][0], "right_deriv": config["wanted"][1]}
        return function(np.asarray(0.7, dtype=config["dtype"]), x, y, **options, **wanted)
    if name.endswith("_vjp"):
        value, pullback = function(x, second, **options)
        return value, pullback(derivatives(value))
    if not name.endswith("_backprop"):
        return function(x, second, **options)
    value = getattr(module, name.removesuffix("_backprop"))(x, second, **options)
    wanted = {"left_deriv": config["wanted"][0], "right_deriv": config["wanted"][1]}
    if config["stack"] and config["kind"] == "paired":
        plain = {key: options[key] for key in options if key not in ("order", "log", "return_grid", "return_levels")}
        plain = {key: plain[key] for key in plain if key not in ("normalize", "rtol")}
        wanted["k_stack"] = module.branched_sig_kernel_stack(x, y, **plain)
    return value, function(derivatives(value), x, second, **options, **wanted)


def arrays_of(result):
    """All arrays and numbers of nested results."""
    if isinstance(result, (tuple, list)):
        for part in result:
            yield from arrays_of(part)
    elif result is not None:
        yield np.asarray(result)


def serve(folder, target, count, seed, backend):
    """Compute all configurations by the build in `folder`, and leave the outcomes in `target`."""
    # An editable install of branchsig would answer before sys.path is looked at.
    sys.path.insert(0, folder)
    sys.meta_path.insert(0, importlib.machinery.PathFinder)
    import branchsig

    if not Path(branchsig.__file__).is_relative_to(folder):
        raise ImportError(f"branchsig was imported from {branchsig.__file__}: expected the build in {folder}")
    if backend != "cpu":
        let_serve(branchsig, OnNumpy(other_backend(branchsig, backend)))
    outcomes = [outcome(branchsig, config) for config in configurations(count, seed, backend)]
    Path(target).write_bytes(pickle.dumps(outcomes))


def other_backend(module, name):
    """The reference, or the CUDA kernels on the emulator."""
    if name == "reference":
        from branchsig.backends.reference import ReferenceBackend

        return ReferenceBackend()
    sys.path.insert(0, str(against.ROOT / "tests" / "cuda_emulation"))
    import emulated_cupy

    from branchsig.backends.cuda import CudaBackend

    return CudaBackend(emulated_cupy)


class OnNumpy:
    """A backend for arrays of NumPy, which go to one for arrays of the emulator and back, by any of its methods."""

    def __init__(self, inner):
        self.name, self.inner = inner.name, inner

    def __getattr__(self, name):
        return functools.partial(self._through, getattr(self.inner, name))

    def _through(self, method, problem, *arguments, **options):
        if self.name != "cuda":
            return method(problem, *arguments, **options)
        import emulated_cupy

        there = functools.partial(mapped, lambda array: emulated_cupy.asarray(np.ascontiguousarray(array)))
        x = there(problem.path1)
        y = x if problem.path2 is problem.path1 else there(problem.path2)
        problem = dataclasses.replace(problem, path1=x, path2=y)
        result = method(problem, *map(there, arguments), **{key: there(value) for key, value in options.items()})
        return mapped(np.array, result)


def mapped(function, value):
    """A function of arrays on an array, or on those in a tuple; whatever is no array stays as it is."""
    if isinstance(value, np.ndarray):
        return function(value)
    if isinstance(value, tuple):
        parts = [mapped(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def let_serve(module, backend):
    """Let a backend serve arrays of NumPy, in a build that keeps its choice in a dictionary or one before it."""
    try:
        from branchsig.backends.choice import serving
    except ImportError:
        module.backends._for_numpy = backend
        module.backends._for_others = module.backends.ThroughNumpy(backend)
    else:
        serving.update(numpy=backend, others=module.backends.ThroughNumpy(backend))


def configurations(count, seed, backend):
    rng = np.random.default_rng(seed)
    return [draw(rng, backend) for _ in range(count)]


def difference(before, now):
    """What differs between two outcomes, in words, and by how much; None where they are the same."""
    if isinstance(before, str) or isinstance(now, str):
        same = isinstance(before, str) and isinstance(now, str) and before == now
        return None if same else (f"{text_of(before)} before, {text_of(now)} now", np.inf)
    forms = [[(array.shape, array.dtype) for array in arrays] for arrays in (before, now)]
    if forms[0] != forms[1]:
        return f"{forms[0]} before, {forms[1]} now", np.inf
    if all(np.array_equal(a, b, equal_nan=True) for a, b in zip(before, now, strict=True)):
        return None
    worst = max(relative(a, b) for a, b in zip(before, now, strict=True))
    return "values differ", worst


def text_of(outcome):
    return outcome if isinstance(outcome, str) else "a value"


def relative(before, now):
    """The largest difference over the largest value; infinite where not the same entries are finite."""
    if not np.array_equal(np.isfinite(before), np.isfinite(now)):
        return np.inf
    finite = np.isfinite(before)
    if not np.array_equal(before[~finite], now[~finite], equal_nan=True):
        return np.inf
    size = np.max(np.abs(before[finite]), initial=0.0)
    return float(np.max(np.abs(before[finite] - now[finite]), initial=0.0) / size) if size else 0.0


def is_allowed(config, found):
    """Whether a difference is one of the search for factors of dilation under a tolerance."""
    options = config["options"]
    return bool(options.get("rtol")) and options.get("normalize") == "dilation" and found[1] <= ALLOWED


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", nargs="?", help="the build before")
    parser.add_argument("now", nargs="?", help="the commit to compare with it; the working tree if left out")
    parser.add_argument("--configurations", type=int, default=3000, help="how many of them")
    parser.add_argument("--seed", type=int, default=0, help="of the random configurations")
    parser.add_argument("--backend", choices=["cpu", "reference", "cuda"], default="cpu", help="what is compared")
    parser.add_argument("--write", action="store_true", help="write results/bits.md too")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        return serve(*chosen.serve, chosen.configurations, chosen.seed, chosen.backend)
    if chosen.commit is None:
        parser.error("a commit is needed")
    options = ["--configurations", str(chosen.configurations), "--seed", str(chosen.seed), "--backend", chosen.backend]
    with tempfile.TemporaryDirectory() as folder:
        processes, targets = [], []
        for name, commit in (("before", chosen.commit), ("now", chosen.now)):
            targets.append(Path(folder, name + ".pickle"))
            built = against.install(commit, Path(folder, name))
            command = [sys.executable, __file__, *options, "--serve", built, str(targets[-1])]
            processes.append(subprocess.Popen(command))
        statuses = [process.wait() for process in processes]
        if any(statuses):
            return 1
        outcomes = [pickle.loads(target.read_bytes()) for target in targets]
    lines, status = summary(outcomes, chosen)
    name = "bits.md" if chosen.backend == "cpu" else f"bits_{chosen.backend}.md"
    measure.report(name, lines, write=chosen.write)
    return status


def summary(outcomes, chosen):
    """The lines of the result, and the exit status."""
    configs = configurations(chosen.configurations, chosen.seed, chosen.backend)
    refused = sum(isinstance(before, str) for before in outcomes[0])
    different, allowed, by_name = [], 0, {}
    for config, before, now in zip(configs, *outcomes, strict=True):
        counted = by_name.setdefault(config["name"], [0, 0])
        counted[0] += 1
        found = difference(before, now)
        if found is None:
            continue
        if is_allowed(config, found):
            allowed += 1
            continue
        counted[1] += 1
        different.append((found, config))
    lines = [
        f"# Bits of {chosen.now or 'the working tree'} against {chosen.commit}",
        "",
        f"{len(configs)} random configurations (seed {chosen.seed}) by {chosen.backend}; {refused} of them are refused "
        "with a message.",
        f"Different: {len(different)}; within {ALLOWED:g} under rtol with dilation, and not counted: {allowed}.",
        "Written by `python benchmarks/bits.py`.",
        "",
        *measure.table(["function", "configurations", "different"], [[n, *map(str, c)] for n, c in by_name.items()]),
    ]
    for (words, size), config in sorted(different, key=lambda item: -item[0][1])[:40]:
        lines += ["", f"{words}, {size:.1e}: {config}"]
    return lines, int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
