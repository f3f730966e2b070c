"""Two builds of branchsig in turns: is the working tree slower than a commit?

    python benchmarks/against.py COMMIT [NOW] [--rows PATTERN] [--repeat N] [--threads N] [--clock cpu] [--write]

Each build is made from what git knows of COMMIT and of the working tree (or of the commit NOW), installed into a
temporary folder with the packages of this environment (those of `pip install -e '.[dev,test]'` will do), and measured
in processes of its own. The two take turns on the same row, A B B A, so that noise of a shared machine meets both. The
rows are those of `compare.py`, which both builds run from this tree, and some more.

A ratio is time before over time now: above 1 is faster. The exit status is 1 where the geometric mean is more than 1 %
slower, where a row is more than 5 % slower and stays so when it is repeated with more turns in fresh processes, and
where a row works in COMMIT and fails now. CPU time (`--clock cpu`) is steadier than wall time where other processes
share the cores; on a machine that is quiet either will do.
"""

import argparse
import contextlib
import functools
import importlib.machinery
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import measure
import numpy as np

ROOT = Path(__file__).resolve().parent.parent

TURN = 0.04
"""Seconds that a build calls the same function over and over before it is the other's turn."""

MEAN_LIMIT, ROW_LIMIT = 0.99, 0.95
"""Ratios below which the geometric mean and a row count as slower."""

AGAIN = 4
"""How many times as many turns a row is given before it is called slower."""

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def rows(compare):
    """The rows of `compare.py`, calls whose arithmetic is nothing, and options that have no peer."""
    yield from compare.rows(np.random.default_rng(0))
    rng = np.random.default_rng(1)

    def both_ways(name, x, y, depth, **options):
        for way, make in (("forward", compare.forward), ("backward", compare.backward)):
            yield compare.Row(f"{name}, {way}", make(x, y, depth, 0, **options))

    x, y = (measure.brownian(rng, 1, 10, 2) for _ in range(2))
    yield from both_ways("small call (1, 10, 2), depth 3", x, y, 3)
    x, y = (measure.brownian(rng, 64, 50, 3) for _ in range(2))
    yield from both_ways("order 4 (64, 50, 3)", x, y, 4, order=4)
    yield from both_ways("depth inf (64, 50, 3)", x, y, float("inf"))
    yield from both_ways("Gauss-Lobatto, p = 2 (64, 50, 3), depth 4", x, y, 4, quadrature="lobatto2")
    yield from both_ways("rtol 1e-8 (64, 50, 3), depth 4", x, y, 4, rtol=1e-8)
    yield from both_ways("log (64, 50, 3), depth 4", x, y, 4, log=True)
    x, y = (measure.brownian(rng, 64, 64, 4) for _ in range(2))
    for normalize in (True, "dilation"):
        for name, kernel in (("linear", None), ("RBF", ("RBFKernel", (1.0,)))):
            call = functools.partial(_value_and_pullback, x, kernel, normalize)
            yield compare.Row(f"normalize={normalize}, Gram 64 x (64, 4), {name}, depth 3, value and pullback", call)
    for way in ("", "_backprop"):
        call = functools.partial(_discrepancy, x[:32], y[:32], way)
        yield compare.Row(f"discrepancy of 32 + 32 x (64, 4), depth 3, {'backward' if way else 'forward'}", call)


def _value_and_pullback(x, kernel, normalize, module):
    derivs = np.ones((len(x), len(x)))
    static_kernel = getattr(module, kernel[0])(*kernel[1]) if kernel else None

    def call():
        _, pullback = module.branched_sig_kernel_gram_vjp(x, None, 3, static_kernel=static_kernel, normalize=normalize)
        return pullback(derivs)

    return call


def _discrepancy(x, y, way, module):
    if way:
        return lambda: module.branched_sig_mmd_backprop(np.asarray(1.0), x, y, 3, right_deriv=True)
    return lambda: module.branched_sig_mmd(x, y, 3)


class WithThreads:
    """branchsig, with a number of threads for every function that takes one."""

    def __init__(self, module, threads):
        self.module, self.threads = module, threads

    def __getattr__(self, name):
        found = getattr(self.module, name)
        return functools.partial(found, n_jobs=self.threads) if name.startswith("branched_sig") else found


def serve(folder, threads, clock):
    """Answer one line of JSON after the other: what the build in `folder` is, and how long its calls take."""
    # An editable install of branchsig would answer before sys.path is looked at.
    sys.path.insert(0, folder)
    sys.meta_path.insert(0, importlib.machinery.PathFinder)
    import compare

    import branchsig

    if not Path(branchsig.__file__).is_relative_to(folder):
        raise ImportError(f"branchsig was imported from {branchsig.__file__}: expected the build in {folder}")
    warnings.simplefilter("ignore")
    module = WithThreads(branchsig, threads) if threads > 1 else branchsig
    every = list(rows(compare))
    answer, call = {"rows": [row.name for row in every], "facts": measure.own_facts()}, None
    while True:
        print(json.dumps(answer), flush=True)
        question = sys.stdin.readline()
        if not question:
            return
        question = json.loads(question)
        try:
            if "row" in question:
                call = every[question["row"]].call(module)
                call()
                answer = {}
            else:
                answer = {"seconds": turn(call, question["least"], CLOCKS[clock])}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}


def turn(call, least, clock):
    """Median seconds of a call over `least` seconds, and of one at least."""
    seconds, end = [], time.perf_counter() + least
    while not seconds or time.perf_counter() < end:
        start = clock()
        call()
        seconds.append(clock() - start)
    return statistics.median(seconds)


class Build:
    """An installed build and the process that measures it."""

    def __init__(self, name, folder, threads, clock):
        self.name = name
        arguments = ["--serve", folder, "--threads", str(threads), "--clock", clock]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.greeting = self._answer()

    def ask(self, **question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that measures {self.name} ended with status {self.process.wait()}")
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


def install(commit, folder):
    """Install what git has of a commit, or the working tree where it is None, and return the folder to import from."""
    sources, target = Path(folder, "sources"), Path(folder, "installed")
    sources.mkdir(parents=True)
    git = ["git", "-C", str(ROOT)]
    if commit is None:
        listed = subprocess.run([*git, "ls-files", "-zco", "--exclude-standard"], check=True, capture_output=True)
        present = [name for name in listed.stdout.split(b"\0") if name and (ROOT / os.fsdecode(name)).is_file()]
        made = ["tar", "-cC", str(ROOT), "--null", "-T", "-"]
        archive = subprocess.run(made, check=True, input=b"\0".join(present), capture_output=True).stdout
    else:
        archive = subprocess.run([*git, "archive", commit], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-xC", str(sources)], check=True, input=archive)
    # Without isolation and dependencies nothing is downloaded; meson and ninja lie beside the interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(sources)], check=True, env={**os.environ, "PATH": path})
    return str(target)


def measured(builds, index, repeat):
    """Timings of a row by either build, `repeat` turns each, or the errors of those that fail."""
    errors = {build.name: build.ask(row=index).get("error") for build in builds}
    if any(errors.values()):
        return {name: error for name, error in errors.items() if error}
    seconds = {build.name: [] for build in builds}
    for k in range(repeat + 1):
        for build in builds if k % 2 else builds[::-1]:
            seconds[build.name].append(build.ask(least=TURN)["seconds"])
    # The first turn warms up.
    return {name: measure.Timing(tuple(values[1:])) for name, values in seconds.items()}


def over_all(results, rng, samples=400):
    """Geometric mean of the ratios, and the middle 95 % of it where turns are drawn again with replacement."""
    means = []
    for k in range(samples + 1):
        logarithms = []
        for before, now in results:
            turns = np.array([before.runs, now.runs])
            chosen = turns if k == 0 else turns[:, rng.integers(turns.shape[1], size=turns.shape[1])]
            logarithms.append(np.log(np.median(chosen[0]) / np.median(chosen[1])))
        means.append(float(np.exp(np.mean(logarithms))))
    return means[0], *np.quantile(means[1:], [0.025, 0.975])


def rounds(start, chosen_rows, repeat, label=""):
    """Measure some rows by processes of their own; return what was found by the name of the row."""
    found = {}
    with contextlib.ExitStack() as stack:
        builds = [stack.enter_context(start(name)) for name in ("before", "now")]
        names = builds[0].greeting["rows"]
        for index in [k for k, name in enumerate(names) if chosen_rows(name)]:
            result = measured(builds, index, repeat)
            found[names[index]] = result
            print(" | ".join(line(names[index] + label, result)), flush=True)
    return found, builds[0].greeting["facts"]


def failed(result):
    return not isinstance(next(iter(result.values())), measure.Timing)


def line(name, result):
    """A line of the table."""
    if failed(result):
        text = "; ".join(f"{build} fails: {error.splitlines()[0][:120]}" for build, error in result.items())
        return [name, "", "", "", text]
    value, low, high = measure.ratio(result["before"], result["now"])
    times = [f"{result[build].median * 1e3:.4g}" for build in ("before", "now")]
    return [name, *times, f"{value:.3f}", f"{low:.3f}-{high:.3f}"]


def ratio(result):
    return measure.ratio(result["before"], result["now"])[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", nargs="?", help="the build before")
    parser.add_argument("now", nargs="?", help="the commit to compare with it; the working tree if left out")
    parser.add_argument("--rows", default="", help="a regular expression that the names of the rows must match")
    parser.add_argument("--repeat", type=int, default=20, help="turns of each build per row")
    parser.add_argument("--threads", type=int, default=1, help="n_jobs of every call")
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="what is counted: CPU time, of all threads"
    )
    parser.add_argument("--write", action="store_true", help="write results/against.md too")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        return serve(chosen.serve, chosen.threads, chosen.clock)
    if chosen.commit is None:
        parser.error("a commit is needed")
    with tempfile.TemporaryDirectory() as folder:
        commits = {"before": chosen.commit, "now": chosen.now}
        folders = {name: install(commit, Path(folder, name)) for name, commit in commits.items()}

        def start(name):
            return Build(name, folders[name], chosen.threads, chosen.clock)

        found, facts = rounds(start, re.compile(chosen.rows).search, chosen.repeat)
        suspects = [name for name, result in found.items() if not failed(result) and ratio(result) < ROW_LIMIT]
        if suspects:
            again, _ = rounds(start, set(suspects).__contains__, AGAIN * chosen.repeat, label=", again")
            found |= again
    lines, status = summary(found, facts, chosen)
    measure.report("against.md", lines, write=chosen.write)
    return status


def summary(found, facts, chosen):
    """The lines of the result, and the exit status."""
    timed = [(result["before"], result["now"]) for result in found.values() if not failed(result)]
    slower = [name for name, result in found.items() if not failed(result) and ratio(result) < ROW_LIMIT]
    broken = [name for name, result in found.items() if failed(result) and list(result) == ["now"]]
    mean, low, high = over_all(timed, np.random.default_rng(0)) if timed else (np.nan,) * 3
    lines = [
        f"# {chosen.now or 'The working tree'} against {chosen.commit}",
        "",
        *facts,
        "",
        f"Milliseconds of a call, medians of {chosen.repeat} turns of {TURN} s. Threads: {chosen.threads}; clock: "
        f"{chosen.clock}.",
        "A ratio is time before over time now, above 1 is faster; its quartiles are those of turns taken in pairs.",
        "Written by `python benchmarks/against.py`.",
        "",
        *measure.table(["row", "before", "now", "ratio", "quartiles"], [line(*item) for item in found.items()]),
        "",
        f"Geometric mean of {len(timed)} ratios: {mean:.4f} (95 % of resampled turns: {low:.4f}-{high:.4f}).",
    ]
    lines += [
        f"More than {1 - ROW_LIMIT:.0%} slower, repeated with {AGAIN} times the turns: {name}." for name in slower
    ]
    lines += [f"Fails now, but not before: {name}." for name in broken]
    return lines, int(bool(slower or broken) or mean < MEAN_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
