#!/usr/bin/env bash
# Builds the C core with AddressSanitizer and UndefinedBehaviorSanitizer into a temporary folder and runs the tests of
# its numbers there, on every instruction set of this machine. Needs gcc, meson, ninja, cffi and the test extra on PATH.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
python="${PYTHON:-python}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

export CC="${CC:-gcc}"
preload="$("$CC" -print-file-name=libasan.so)"
[ "$preload" != libasan.so ] || { echo "$CC has no libasan.so: install it (Debian, Ubuntu: apt install libasan8)"; exit 1; }

"$python" -m mesonbuild.mesonmain setup "$work/build" "$root" --prefix "$work" \
  -Dpython.purelibdir="$work/site" -Dpython.platlibdir="$work/site" \
  -Ddebug=true -Doptimization=1 -Db_ndebug=false -Db_lundef=false -Db_sanitize=address,undefined \
  -Dc_args="-g1 -fno-sanitize-recover=all -fno-omit-frame-pointer" >"$work/setup.log" 2>&1 || { cat "$work/setup.log"; exit 1; }
"$python" -m mesonbuild.mesonmain install -C "$work/build" >"$work/install.log" 2>&1 || { cat "$work/install.log"; exit 1; }
echo "built with the sanitizers"

# Leaks are not looked for: Python itself never gives back what it interns. Python's own allocator would hide the ends of
# small buffers from the sanitizer.
export LD_PRELOAD="$preload" PYTHONMALLOC=malloc HYPOTHESIS_PROFILE=bounded PYTHONPATH="$work/site:$root/tests/sanitizers" SITE="$work/site" PYTHONDONTWRITEBYTECODE=1
export ASAN_OPTIONS=detect_leaks=0:strict_string_checks=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
cd "$work"
"$python" "$root/tests/sanitizers/run.py"
