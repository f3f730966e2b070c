"""What the benchmarks share: interleaved timing, peak memory of a child process, machine facts and tables.

Importing this module fixes the number of threads of every numerical library that may be loaded after it to one, so
import it first. The peer, pysiglib, is optional: `peer()` returns None with a message where it is not installed.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

RESULTS = Path(__file__).parent / "results"


def peer():
    """The module pysiglib held to one thread, or None where it is not installed."""
    try:
        import pysiglib
    except ImportError:
        print(
            "pysiglib is not installed: its columns stay empty. Try `pip install pysiglib==4.0.0 torch`.",
            file=sys.stderr,
        )
        return None
    import torch

    torch.set_num_threads(1)
    return pysiglib


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median and the quartiles over the runs, and every run."""

    runs: tuple

    @property
    def median(self):
        return statistics.median(self.runs)

    @property
    def quartiles(self):
        return np.quantile(self.runs, [0.25, 0.75]) if self.runs else (np.nan, np.nan)


def interleaved(calls, runs, least=0.01, most=30.0, clock=time.perf_counter):
    """Time several calls in turns, so that a change of the machine's mood meets all of them alike.

    `calls` maps a name to a function without arguments; the result maps it to a `Timing`. A run repeats a short call
    until it lasts `least` seconds, and counts the mean. Of `runs` runs, fewer are made where all of them together would
    last longer than `most` seconds, but three always. A `clock` of CPU time leaves out what else the machine does.
    """
    repeats, lasting = {}, 0.0
    for name, call in calls.items():
        call()
        start = clock()
        call()
        once = max(clock() - start, 1e-7)
        repeats[name] = max(1, round(least / once))
        lasting += repeats[name] * once
    seconds = {name: [] for name in calls}
    for _ in range(min(runs, max(3, int(most / lasting)))):
        for name, call in calls.items():
            start = clock()
            for _ in range(repeats[name]):
                call()
            seconds[name].append((clock() - start) / repeats[name])
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def ratio(theirs, ours):
    """Median time of theirs over ours, and the quartiles of the ratio over paired runs."""
    paired = np.array(theirs.runs) / np.array(ours.runs)
    return theirs.median / ours.median, *np.quantile(paired, [0.25, 0.75])


def brownian(rng, batch, length, dimension, dtype=np.float64):
    """Brownian paths whose end points have an expected squared norm of 0.64, whatever their length and dimension."""
    steps = rng.standard_normal((batch, length, dimension)) * 0.8 / np.sqrt(length * dimension)
    return np.ascontiguousarray(steps.cumsum(axis=1), dtype=dtype)


def _status(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def peak_above_inputs(call, warm_up):
    """Bytes by which the resident memory rises above where it stands now while `call` runs. Linux only."""
    warm_up()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    call()
    return max(_status("VmHWM") - before, 0)


def in_child(script, *arguments, environment=None):
    """Run one of these scripts in a fresh process and read the JSON of its last line."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / script), *map(str, arguments)],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        print(f"{script} {' '.join(map(str, arguments))} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    return ", ".join(sorted(names)) or platform.processor()


def machine_facts(module, given="NumPy arrays"):
    """What a reader needs to judge the numbers, as lines of Markdown. `given` is what the peer gets."""
    if module is None:
        return [*own_facts(), "- pysiglib is not installed"]
    import importlib.metadata as metadata

    versions = [f"{name} {metadata.version(name)}" for name in ("pysiglib", "torch")]
    return [*own_facts(), f"- {', '.join(versions)}, given {given}"]


def own_facts():
    """The machine and this library, as lines of Markdown."""
    import branchsig

    facts = [
        f"- Processor: {_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        f"- Python {platform.python_version()}, NumPy {np.__version__}, branchsig {branchsig.__version__}",
    ]
    try:
        from branchsig.backends import cpu

        facts.append(f"- Instruction set of the C core: {cpu.instruction_set()}")
    except (ImportError, AttributeError):
        facts.append("- C core: missing")
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True)
    if compiler.returncode == 0:
        facts.append(f"- C compiler on this machine: {compiler.stdout.splitlines()[0]}")
    return facts


def table(header, rows):
    """A Markdown table whose columns line up in plain text too."""
    cells = [header, *rows]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return lines


def report(name, lines, *, write):
    """Print the lines of a result, and write them to the folder of results too, or not."""
    print("\n".join(lines))
    if not write:
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / name).write_text("\n".join(lines) + "\n")
    print(f"wrote {RESULTS / name}")


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer runs and smaller cases; writes no file")
    return parser
