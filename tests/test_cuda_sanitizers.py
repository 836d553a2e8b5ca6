"""The real kernels on the emulator, as plain C++ programs: right results, and clean under ASan, UBSan and TSan.

A missing barrier or a read outside of a buffer can leave every result right on one machine. Seeds shuffle the order of
blocks, warps and lanes; copies land as late as is legal, or at once.
"""

from __future__ import annotations

import shutil

import pytest
from support import emulation
from support.emulated_cuda import HOST, KERNELS, MODEL

PROGRAMS = {
    "network": ("tests/cuda/check_network.cpp", *HOST, *KERNELS, *MODEL),
    "shapes": ("tests/cuda/check_shapes.cpp", *HOST, *KERNELS, *MODEL),
    "frontend": ("tests/cuda/check_frontend.cpp", *HOST, *KERNELS, *MODEL),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("program", PROGRAMS)
def test_results_are_right_in_any_order(program, seed):
    executable = emulation.program(*PROGRAMS[program])
    done = emulation.run(executable, str(seed), FCNTAG_EMULATED_EAGER_COPIES=str(seed % 2))
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("mode", ["asan", "tsan"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_sanitizers_find_nothing(program, mode):
    done = emulation.run(emulation.program(*PROGRAMS[program], mode=mode), "3")
    assert done.returncode == 0, done.stdout[-4000:]


# ---- the tests are able to fail: mistakes in the real kernel, each made in a copy of its source ----

MISTAKES = {  # file, what is there, what takes its place, mode that sees it
    "no barrier after the wait": (
        "conv/conv_kernel.h",
        "dev::copy_wait<kStages - 2>();\n      dev::sync();",
        "dev::copy_wait<kStages - 2>();",
        "tsan",
    ),
    "no barrier before the maxima": ("conv/conv_kernel.h", "if (pass == 0) dev::sync();", "", "tsan"),
    "wait one stage too deep": (
        "conv/conv_kernel.h",
        "dev::copy_wait<kStages - 2>()",
        "dev::copy_wait<kStages - 1>()",
        "plain",
    ),
    "halo one row off": ("conv/conv_tile.h", "* p.sub_h - p.radius,", "* p.sub_h - p.radius + 1,", "plain"),
    "no check of the right edge": ("conv/conv_tile.h", "&& x < p.width", "", "plain"),
    "wrong half of the fragment": (
        "conv/conv_math.h",
        "(chunk + (lane >> 4)) << 4",
        "(chunk + (lane >> 3 & 1)) << 4",
        "plain",
    ),
    "weights of the next stage": (
        "conv/conv_kernel.h",
        "load_weights(step + kStages - 1);",
        "load_weights(step + kStages);",
        "plain",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_kernel_is_seen(mistake, tmp_path):
    file, right, wrong, mode = MISTAKES[mistake]
    shutil.copytree(emulation.REPOSITORY / "csrc/cuda", tmp_path / "cuda")
    source = (tmp_path / "cuda" / file).read_text()
    assert source.count(right) == 1, f"{file} has changed: find the place for this mistake again"
    (tmp_path / "cuda" / file).write_text(source.replace(right, wrong))
    mutant = "csrc/cuda/conv/conv_bfloat16.cu"
    executable = emulation.program(
        *(name for name in PROGRAMS["network"] if name != mutant),
        str(tmp_path / "cuda/conv/conv_bfloat16.cu"),
        mode=mode,
        includes=(str(tmp_path),),
    )
    done = emulation.run(executable, "1", "pairs bfloat16")
    assert done.returncode != 0, done.stdout[-2000:]
    assert ("ThreadSanitizer: data race" if mode == "tsan" else "relative L2") in done.stdout, done.stdout[-2000:]
