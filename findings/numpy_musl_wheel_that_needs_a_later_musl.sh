#!/usr/bin/env bash
# NumPy 2.5.5: its wheel for musllinux_1_2 brings libraries that musl 1.2.3 cannot load.
#
# One would guess that a wheel tagged musllinux_1_2 loads wherever musl is of version 1.2, as Debian 12's musl 1.2.3 is. But
# the libgcc_s and libstdc++ in the wheel have their relocations in the packed form DT_RELR, which musl reads from 1.2.4 on.
# With musl 1.2.3 pip installs the wheel, and a Python built with that musl cannot import NumPy. The same Python with musl
# 1.2.6 can.
# The script only reads the headers of the libraries. Nothing is loaded.
# Run: bash findings/numpy_musl_wheel_that_needs_a_later_musl.sh   Exit status 0: the behaviour is as described.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyelftools==0.33
"$work/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$work" --only-binary=:all: --implementation cp \
  --python-version 3.14 --abi cp314 --platform musllinux_1_2_x86_64 numpy==2.5.5
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import glob
import io
import sys
import zipfile

from elftools.elf.elffile import ELFFile

(name,) = glob.glob("*.whl")
print(name)
packed = {}
with zipfile.ZipFile(name) as wheel:
    for member in wheel.namelist():
        if ".so" in member:
            dynamic = ELFFile(io.BytesIO(wheel.read(member))).get_section_by_name(".dynamic")
            tags = {tag.entry.d_tag for tag in dynamic.iter_tags()}
            packed[member] = "DT_RELR" in tags
brought = sorted(member for member, yes in packed.items() if yes)
print(f"{len(packed)} libraries, of which these have packed relocations:", *brought, sep="\n  ")
if sorted(member.split("/")[-1].split("-")[0] for member in brought) != ["libgcc_s", "libstdc++"]:
    sys.exit("The behaviour has changed.")
print("As described.")
PYTHON
