"""The emulator of CUDA kernels: correct kernels pass in every mode, and every bug planted in them is found.

What finds a bug, by mode: a wrong result (NaN where nothing arrived), a check of the emulator's own, a count of bank
conflicts, AddressSanitizer, ThreadSanitizer. Some are found by a sanitizer alone, which is why there are three modes.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import emulation

WRONG = r"wrong: \d+ of \d+ values"
OVERFLOW = r"AddressSanitizer: (heap-buffer-overflow|use-after-poison|unknown-crash)"
RACE = r"ThreadSanitizer: data race"

BUGS = {  # mode: what it says. Modes that are not named find nothing, or the same as plain.
    "reverse-no-barrier-after-wait": {"plain": WRONG, "tsan": RACE},
    "reverse-no-barrier-before-reuse": {"plain": WRONG, "tsan": RACE},
    "reverse-no-async-wait": {"plain": WRONG},
    "reverse-wait-too-deep": {"plain": WRONG},
    "reverse-copies-in-flight": {"plain": r"emulator: a thread ended with 1 asynchronous copies in flight"},
    "reverse-early-return": {"plain": r"emulator: .*(threads have ended|others wait at the barrier)"},
    "reverse-read-beyond-input": {"plain": WRONG, "asan": OVERFLOW},
    "reverse-misaligned-copy": {"plain": r"emulator: an asynchronous copy from a misaligned address"},
    "reverse-unwritten-output": {"plain": r"wrong: 1 of \d+ values"},
    "reverse-shared-memory-too-small": {"plain": r"emulator: shared address \d+ \+ 16 out of range"},
    "reverse-late-wait-for-predecessors": {"tsan": RACE},
    "reverse-no-wait-for-predecessors": {"plain": r"emulator: .* none of its threads had waited", "tsan": RACE},
    "box-halo-off-by-one": {"plain": WRONG},
    "box-no-barrier": {"plain": WRONG, "tsan": RACE},
    "box-two-barriers": {"plain": r"emulator: threads meet at two barriers"},
    "box-read-before-check": {"asan": OVERFLOW},
    "box-read-beyond-shared": {"asan": OVERFLOW},
    "box-write-beyond-shared": {"plain": r"emulator: block .* wrote outside of its 720 bytes", "asan": OVERFLOW},
    "box-write-beyond-output": {"plain": r"emulator: device memory was written just outside", "asan": OVERFLOW},
    "box-misaligned-vector": {"asan": r"runtime error: .*misaligned address"},
    "box-overlapping-blocks": {"tsan": RACE},
    "product-wrong-half": {"plain": WRONG},
    "product-misaligned-matrix": {"plain": r"emulator: shared address \d+ is not a multiple of 16"},
    "product-half-warp": {"plain": r"emulator: divergent warp"},
    "product-offset-for-address": {"plain": r"emulator: shared address 0 \+ 16 out of range"},
    "product-no-swizzle": {"plain": r"bank conflicts: (\d+) of \1 phases"},
    "rotate-shuffle-for-barrier": {"tsan": RACE},
    "rotate-deadlock": {"plain": r"emulator: deadlock .* 16 threads wait in a warp collective .*, 16 at a barrier"},
    "scale-prefetch-beyond": {"plain": r"emulator: a prefetch of an address that is no device memory"},
    "scale-prefetch-gap": {"plain": r"wrong: 640 of 1001 prefetches"},
}

RUNTIME_CASES = {
    "memory": {"FCNTAG_EMULATED_MEMORY": "10000000"},
    "devices": {
        "FCNTAG_EMULATED_DEVICES": "2",
        "FCNTAG_EMULATED_CAPABILITY": "7.5",
        "FCNTAG_EMULATED_SHARED_BYTES": "65536",
    },
    "no-device": {"FCNTAG_EMULATED_DEVICES": "0"},
    "compute": {},
    "launches": {},
    "graphs": {"FCNTAG_EMULATED_SEED": "5"},
    "events": {},
    "late-streams": {"FCNTAG_EMULATED_LATE_STREAMS": "1"},
    "threads": {"FCNTAG_EMULATED_SEED": "6", "FCNTAG_EMULATED_EAGER_COPIES": "1"},
}


@pytest.fixture(scope="session")
def planted() -> dict[str, Path]:
    return {mode: emulation.program("tests/cuda/planted.cpp", mode=mode) for mode in emulation.MODES}


@pytest.fixture(scope="session")
def runtime() -> dict[str, Path]:
    return {mode: emulation.program("tests/cuda/emulated_runtime.cpp", mode=mode) for mode in emulation.MODES}


def assert_clean(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout
    assert "Sanitizer" not in done.stdout
    assert "runtime error" not in done.stdout


@pytest.mark.parametrize("eager", [False, True], ids=["lazy", "eager"])
@pytest.mark.parametrize("seed", ["0", "1", "2", "3"])
@pytest.mark.parametrize("mode", emulation.MODES)
def test_correct_kernels_pass(planted, mode, seed, eager):
    done = emulation.run(planted[mode], "correct", "--seed", seed, *(["--eager"] if eager else []))
    assert_clean(done)
    assert done.stdout.count("right") == 8


def test_every_planted_bug_is_in_the_table(planted):
    assert set(emulation.run(planted["plain"], "list").stdout.split()) == set(BUGS)


@pytest.mark.parametrize(("bug", "mode"), [(bug, mode) for bug, modes in BUGS.items() for mode in modes])
def test_planted_bug_is_found(planted, bug, mode):
    done = emulation.run(planted[mode], bug)
    assert done.returncode != 0, done.stdout
    assert re.search(BUGS[bug][mode], done.stdout), done.stdout


@pytest.mark.parametrize("bug", [bug for bug, modes in BUGS.items() if "plain" not in modes])
def test_sanitizers_are_needed(planted, bug):
    """Bugs that the table gives to a sanitizer alone give the right result in every order that is tried."""
    for seed in range(4):
        assert_clean(emulation.run(planted["plain"], bug, "--seed", str(seed)))


@pytest.mark.parametrize("seed", ["1", "2"])
@pytest.mark.parametrize("bug", ["reverse-no-barrier-before-reuse", "box-no-barrier", "product-half-warp"])
def test_planted_bug_is_found_in_any_order(planted, bug, seed):
    done = emulation.run(planted["plain"], bug, "--seed", seed)
    assert re.search(BUGS[bug]["plain"], done.stdout), done.stdout


@pytest.mark.parametrize("case", RUNTIME_CASES)
@pytest.mark.parametrize("mode", emulation.MODES)
def test_runtime(runtime, mode, case):
    assert_clean(emulation.run(runtime[mode], case, **RUNTIME_CASES[case]))


@pytest.mark.parametrize("mode", ["plain", "asan"])
def test_write_before_an_allocation_is_found(runtime, mode):
    done = emulation.run(runtime[mode], "write-before")
    expected = (
        OVERFLOW if mode == "asan" else r"emulator: device memory was written just outside of an allocation of 100"
    )
    assert re.search(expected, done.stdout), done.stdout


def test_collective_in_an_incomplete_warp_is_found(runtime):
    done = emulation.run(runtime["plain"], "incomplete-warp")
    assert re.search(r"emulator: a warp collective at line \d+, but only 16 of 32 lanes are there", done.stdout)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FCNTAG_EMULATED_MEMORY", "1 GB"),
        ("FCNTAG_EMULATED_DEVICES", "-1"),
        ("FCNTAG_EMULATED_SEED", "x"),
    ],
)
def test_bad_setting_is_named(runtime, name, value):
    done = emulation.run(runtime["plain"], "compute", **{name: value})
    assert done.returncode == 1
    assert f"{name}={value}; allowed: integers from 0" in done.stdout


@pytest.mark.parametrize("value", ["101", "-2", "all", "50 %", "1e2"])
def test_a_bad_division_of_the_shared_memory_is_named(runtime, value):
    done = emulation.run(runtime["plain"], "compute", FCNTAG_CUDA_CARVEOUT=value)
    assert done.returncode == 1
    assert f"FCNTAG_CUDA_CARVEOUT={value}; allowed: 0 to 100, percent, or -1" in done.stdout


@pytest.mark.parametrize("value", ["", "-1", "0", "100"])
def test_a_division_of_the_shared_memory_is_taken(runtime, value):
    assert_clean(emulation.run(runtime["plain"], "compute", FCNTAG_CUDA_CARVEOUT=value))


def test_kernels_run_in_any_thread_of_a_python_process():
    library = ctypes.CDLL(str(emulation.shared_object("tests/cuda/emulated_runtime.cpp")))
    sizes = [4, 1000, 30000, 2560]
    with ThreadPoolExecutor(4) as pool:  # ctypes lets go of the interpreter lock: they run at once
        assert list(pool.map(library.fcntag_emulated_self_test, sizes)) == [0] * len(sizes)
    assert library.fcntag_emulated_self_test(5000) == 0


# ---- the second form of the headers that kernels see of CUDA ----

SHIPPED = ("csrc/cuda", "csrc/bindings/cuda")
INCLUDE = emulation.REPOSITORY / "csrc/emulation/include/cuda"
HEADERS = sorted(str(path.relative_to(INCLUDE)) for path in INCLUDE.rglob("*.h"))


def functions(header: Path) -> set[str]:
    """Names of the functions that a header defines at the start of a line."""
    return set(re.findall(r"^(?:FCNTAG_\w+ |inline |void )[^;()]*?(\w+)\(", header.read_text(), re.MULTILINE))


def test_shipped_code_includes_nothing_of_the_emulator():
    for folder in SHIPPED:
        for path in (emulation.REPOSITORY / folder).rglob("*.*"):
            if path.suffix in (".h", ".cpp", ".cu"):
                assert not re.search(r'#include "emulation|#if.*EMULATE', path.read_text()), path


@pytest.mark.parametrize("header", HEADERS)
def test_both_forms_of_a_header_define_the_same_functions(header):
    shipped, emulated = functions(emulation.REPOSITORY / "csrc/cuda" / header), functions(INCLUDE / header)
    assert shipped - {"launch_kernel", "set_first_kernel"} == emulated - {"launch_emulated", "set_first_emulated"}
    assert len(emulated) >= 1
