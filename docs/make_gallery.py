"""Runs the scripts of the gallery, saves what they print and draw, and makes their pages.

    python docs/make_gallery.py [NAME ...]

runs the scripts of `examples` that are named here, or all of them, each in a process of its own, and saves pictures and
output in `docs/gallery/saved`. The build of the pages uses what is saved and runs nothing.
"""

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SAVED = ROOT / "docs" / "gallery" / "saved"
PAGES = ROOT / "docs" / "gallery" / "_generated"

PICTURES = {
    "learn_a_phase": "Predicted against true phases: near the diagonal for the branched kernel, far for time warping",
    "classify_ragged_speech": "Channels of four utterances of unequal length; nine speakers, almost all recognised",
    "kernel_pca_of_motions": "80 motions as points in the plane, in four groups by colour that hardly overlap",
    "compare_classifiers": "Bars of accuracy of three methods, for recorded motions and for simulated shapes",
    "learn_a_bandwidth_in_jax": "Power of a test against the bandwidth, and steps that climb to the top",
    "train_a_generator_in_jax": "A falling discrepancy; paths of the generator, which learn to swing like the data",
    "rough_volatility": "Four Brownian paths with even steps, four of rough volatility with calm and wild stretches",
    "find_change_points": "A series of two channels and, below it, the discrepancy with peaks at both true changes",
    "score_forecasts": "Mean score against correlation and size of the forecast, both lowest at the dashed true value",
    "gaussian_process_regression": "Predictions with intervals against true targets, around the diagonal",
    "million_pairs_by_nystroem": "Unexplained variance, which falls with the number of landmarks",
    "gram_on_disk": "A Gram matrix of 100 paths with white lines between its sixteen blocks",
    "blow_up_without_truncation": "Kernel against c: three rules follow the closed form until each of them blows up",
}
"""The scripts with pictures in the order of the gallery, and what their pictures show."""


def docstring(name):
    """Title and text of a script."""
    text = ast.get_docstring(ast.parse((ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")))
    title, _, body = text.partition("\n\n")
    return " ".join(title.split()).rstrip("."), body


def run(name):
    """Run a script, and save its picture and what it prints."""
    begun = time.perf_counter()
    command = [
        sys.executable,
        str(ROOT / "examples" / f"{name}.py"),
        str(SAVED / f"{name}.svg"),
    ]
    # The same picture has the same bytes.
    environment = {
        "SOURCE_DATE_EPOCH": "0",
        "MATPLOTLIBRC": str(SAVED / "matplotlibrc"),
    }
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    (SAVED / f"{name}.txt").write_text(done.stdout, encoding="utf-8")
    print(f"{name}: {time.perf_counter() - begun:.0f} s")


def write_pages():
    """Write a page for each script, from its docstring, its saved output and picture, and its code."""
    PAGES.mkdir(exist_ok=True)
    for name, shown in PICTURES.items():
        title, body = docstring(name)
        lines = [
            f"# {title}",
            "",
            body,
            "",
            f"![{shown}.](../saved/{name}.svg)",
            "",
            "It prints:",
            "",
        ]
        lines += [
            f"```{{literalinclude}} ../saved/{name}.txt",
            ":language: none",
            "```",
            "",
        ]
        lines += [f"## The script: `examples/{name}.py`", ""]
        lines += [
            f"```{{literalinclude}} ../../../examples/{name}.py",
            ":language: python",
            "```",
            "",
        ]
        (PAGES / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")


def cards():
    """The scripts as cards with pictures, and the hidden list of their pages."""
    lines = ["::::{grid} 1 2 2 3", ":gutter: 3", ""]
    for name, shown in PICTURES.items():
        lines += [
            f":::{{grid-item-card}} {docstring(name)[0]}",
            f":link: _generated/{name}",
            ":link-type: doc",
            "",
        ]
        lines += [f"![{shown}.](saved/{name}.svg)", ":::", ""]
    lines += [
        "::::",
        "",
        "```{toctree}",
        ":hidden:",
        "",
        *(f"_generated/{name}" for name in PICTURES),
        "```",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    SAVED.mkdir(exist_ok=True)
    for chosen in sys.argv[1:] or PICTURES:
        run(chosen)
