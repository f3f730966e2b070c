"""The instruction sets of the core, and how many pairs a register of each holds."""

import platform

import numpy as np
import pytest
from cases import walk
from conftest import cpu

import branchsig
from branchsig import cli

pytestmark = pytest.mark.skipif(cpu is None, reason="no C core")
BYTES = {"avx512": 64, "avx2": 32, "baseline": 16}  # of a register; SSE2 and NEON have 16


def test_lanes_are_the_numbers_of_float64_in_a_register():
    assert "baseline" in cpu.instruction_sets()
    for name, size in BYTES.items():
        assert cpu.lanes(name) == (size // 8 if name in cpu.instruction_sets() else 0)
    assert cpu.lanes("avx513") == 0


def test_asking_for_instruction_sets_changes_none(rng):
    x = walk(rng, 3, 20, 2)
    before = cpu.instruction_set()
    for name in cpu.instruction_sets():
        cpu.set_instruction_set(name)
        try:
            value = branchsig.branched_sig_kernel_gram(x, x, 3)
            assert (cpu.instruction_set(), cpu.lanes(name)) == (name, BYTES[name] // 8)
            cpu.instruction_sets()
            assert cpu.instruction_set() == name
            np.testing.assert_array_equal(branchsig.branched_sig_kernel_gram(x, x, 3), value)
        finally:
            cpu.set_instruction_set(before)


def test_info_lists_instruction_sets_with_their_lanes(capsys):
    assert cli.main(["info"]) == 0
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    has_neon = platform.machine() in ("aarch64", "arm64")
    in_use, listed = printed["core"].split("; lanes of float64 by instruction set: ")
    assert dict(entry.split(": ") for entry in listed.split(", ")) == {
        f"baseline ({'NEON' if has_neon else 'SSE2'})" if name == "baseline" else name: str(BYTES[name] // 8)
        for name in cpu.instruction_sets()
    }
    assert in_use.split()[2] == cpu.instruction_set()
