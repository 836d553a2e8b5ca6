"""The real kernels on the emulator, as plain C++ programs: right results, and clean under ASan, UBSan and TSan.

A missing barrier or a read outside of a buffer can leave every result right on one machine. Seeds shuffle the order of
blocks, warps and lanes; copies land as late as is legal, or at once.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support import emulation
from support.emulated_cuda import HOST, KERNELS, MODEL

PROGRAMS = {
    "network": ("tests/cuda/check_network.cpp", *HOST, *KERNELS, *MODEL),
    "shapes": ("tests/cuda/check_shapes.cpp", *HOST, *KERNELS, *MODEL),
    "frontend": ("tests/cuda/check_frontend.cpp", *HOST, *KERNELS, *MODEL),
    "scorer": ("tests/cuda/check_scorer.cpp", *HOST, *KERNELS, *MODEL),
}


# A GPU that copies weights in bulk, and whose shared memory holds stages of a kernel row. The emulator's default is a
# smaller one that does not.
HOPPER = {"FCNTAG_EMULATED_CAPABILITY": "9.0", "FCNTAG_EMULATED_SHARED_BYTES": "232448"}


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("program", PROGRAMS)
def test_results_are_right_in_any_order(program, seed):
    executable = emulation.program(*PROGRAMS[program])
    gpu = HOPPER if seed in (1, 3) else {}
    done = emulation.run(executable, str(seed), FCNTAG_EMULATED_EAGER_COPIES=str(seed // 2), **gpu)
    assert done.returncode == 0, done.stdout[-4000:]


RUNS = [*((program, {}) for program in PROGRAMS), ("network", HOPPER), ("shapes", HOPPER)]


@pytest.mark.parametrize("mode", ["asan", "tsan"])
@pytest.mark.parametrize(("program", "gpu"), RUNS, ids=[name + (" hopper" if gpu else "") for name, gpu in RUNS])
def test_sanitizers_find_nothing(program, gpu, mode):
    done = emulation.run(emulation.program(*PROGRAMS[program], mode=mode), "3", **gpu)
    assert done.returncode == 0, done.stdout[-4000:]


# ---- the tests are able to fail: mistakes in the real kernel, each made in a copy of its source ----

MISTAKES = {  # file, what is there, what takes its place, mode that sees it; a layer that needs it, if not any
    "no barrier after the wait": (
        "conv/conv_kernel.h",
        "}\n        dev::sync();\n        if (dev::bulk_copies()) {",
        "}\n        if (dev::bulk_copies()) {",
        "tsan",
        "deep",
    ),
    "no wait for a bulk copy": (
        "conv/conv_kernel.h",
        "dev::bulk_wait(weights.barrier(stage.place), stage.parity);",
        "",
        "plain",
        "pairs with bulk copies",
    ),
    "a bulk copy before the barrier": (
        "conv/conv_kernel.h",
        "dev::sync();\n        if (dev::bulk_copies()) {\n          weights.bulk_stage(p);",
        "if (dev::bulk_copies()) weights.bulk_stage(p);\n        dev::sync();\n        if (dev::bulk_copies()) {",
        "tsan",
        "deep with bulk copies",
    ),
    "a phase that is over already": (
        "conv/conv_copies.h",
        "parity ^= place == kRing ? 1 : 0;",
        "",
        "plain",
        "deep with bulk copies",
    ),
    "a bulk copy that nobody waits for": (
        "conv/conv_copies.h",
        "if (left <= 0) return;\n    if (dev::thread_index() == 0) {",
        "if (dev::thread_index() == 0) {",
        "plain",
        "deep with bulk copies",
    ),
    "no barrier before the maxima": ("conv/conv_kernel.h", "if (pass == 0) dev::sync();", "", "tsan"),
    "no barrier before the outputs": (
        "conv/epilogue.h",
        "dev::sync();\n  if (n >= p.out_stride)",
        "if (n >= p.out_stride)",
        "tsan",
        "deep",
    ),
    "no barrier before a CTA arrives": ("device/arrive.h", "fence();\n  sync();\n", "fence();\n", "tsan", "deep"),
    "a CTA more than there are": (
        "conv/conv_kernel.h",
        "blockIdx.x, p.chunks)",
        "blockIdx.x, p.chunks + 1)",
        "plain",
        "deep",
    ),
    "wait one tap too deep": (
        "conv/conv_kernel.h",
        "dev::copy_wait<1>();",
        "dev::copy_wait<2>();",
        "plain",
        "deep in little shared memory",
    ),
    "no wait where a barrier has three taps": (
        "conv/conv_kernel.h",
        "} else {\n          dev::copy_wait<0>();\n        }\n        dev::sync();",
        "} else {\n          dev::copy_wait<1>();\n        }\n        dev::sync();",
        "plain",
    ),
    "halo one row off": ("conv/conv_tile.h", "pass_y * p.sub_h - p.radius", "pass_y * p.sub_h - p.radius + 1", "plain"),
    "no check of the right edge": (
        "conv/conv_tile.h",
        "static_cast<unsigned>(first_x + pixel.x) < static_cast<unsigned>(p.width) &&",
        "",
        "plain",
    ),
    "a pixel's neighbour mapped by another warp": (
        "conv/conv_tile.h",
        "warp * 4 + (lane & 3)",
        "(warp ^ 1) * 4 + (lane & 3)",
        "tsan",
    ),
    "wrong half of the fragment": (
        "conv/conv_math.h",
        "rows[m * 16 + (lane & 15)]",
        "rows[m * 16 + (lane & 7)]",
        "plain",
    ),
    "the next row of the halo one pixel off": (
        "conv/conv_copies.h",
        "return (p.halo_w - p.kernel + Shape::kStageTaps)",
        "return (p.halo_w - p.kernel + 1 + Shape::kStageTaps)",
        "plain",
    ),
    "weights of the next tap": (
        "conv/conv_copies.h",
        "tap < Shape::kRingTaps - Shape::kStageTaps; ++tap",
        "tap < Shape::kRingTaps - Shape::kStageTaps - 1; ++tap",
        "plain",
    ),
    "weights that wrap too late": (
        "conv/conv_copies.h",
        "Shape::kTapBytes == kRingBytes ? 0",
        "Shape::kTapBytes == kRingBytes + Shape::kTapBytes ? 0",
        "plain",
    ),
}


FIRST_MISTAKES = {  # as above, in the first block in 16 bits
    "no barrier between tiles": (
        "conv/conv_first_tile.h",
        "dev::sync();\n    const auto load",
        "if (begins) dev::sync();\n    const auto load",
        "tsan",
    ),
    "one patch for two tiles": ("conv/conv_first_tile.h", "buffer ^= 1;", "buffer ^= 0;", "tsan"),
    "patch a column off": (
        "conv/conv_first_tile.h",
        "(p.tile_w * p.stride_w) - 1)",
        "(p.tile_w * p.stride_w))",
        "plain",
    ),
    "no check of the map's edge": (
        "conv/conv_first_tile.h",
        "static_cast<unsigned>(column) < static_cast<unsigned>(p.width)",
        "column >= 0",
        "plain",
    ),
    "words of odd columns in the wrong place": (
        "conv/conv_first_float16.cu",
        "target[copy + 1 + at] = half;",
        "target[copy + at] = half;",
        "plain",
    ),
    "an image that never ends": (
        "conv/conv_first_tile.h",
        "if (++row < p.tiles_h) return;",
        "if (++row <= p.tiles_h) return;",
        "plain",
    ),
}


FRONT_END_MISTAKES = {  # as above; the source that is compiled again, and the cases that see it
    "no barrier before the transform": (
        "frontend/melspec_general_kernel.h",
        "lane, lanes, a);\n      dev::sync();",
        "lane, lanes, a);",
        "tsan",
        ("frontend/melspec_general.cu", "mel 600 points"),
    ),
    "no barrier between passes": (
        "frontend/fft.h",
        "dev::sync();\n    Complex<Real>* const other",
        "Complex<Real>* const other",
        "tsan",
        ("frontend/melspec_general.cu", "mel 600 points"),
    ),
    "no barrier before the next frame": (
        "frontend/melspec_general_kernel.h",
        "dev::sync();  // the next",
        "// the next",
        "tsan",
        ("frontend/melspec_general.cu", "mel frames in turns, float"),
    ),
    "bins where the transform lies": (
        "frontend/melspec_general_kernel.h",
        "z == a ? b : a",
        "z == a ? a : b",
        "plain",
        ("frontend/melspec_general.cu", "mel 1000 points"),
    ),
    "twiddles of a neighbour": (
        "frontend/fft.h",
        "fft.twiddles[q * k * pass.step]",
        "fft.twiddles[q * (k + 1) * pass.step]",
        "plain",
        ("frontend/melspec_general.cu", "mel 400 points"),
    ),
    "a sum without its last term": (
        "frontend/fft.h",
        "q < pass.radix; ++q",
        "q < pass.radix - 1; ++q",
        "plain",
        ("frontend/melspec_general.cu", "mel 66 points"),
    ),
    "half of the lanes of a band": (
        "frontend/melspec_general_kernel.h",
        "other = p.band_lanes / 2;",
        "other = p.band_lanes / 4;",
        "plain",
        ("frontend/melspec_general.cu", "mel 2048 points, wide"),
    ),
    "a convolution that comes round": (
        "frontend/fft_plan.cpp",
        "points < 2 * size - 1",
        "points < size",
        "plain",
        ("frontend/fft_plan.cpp", "mel 1103 points"),
    ),
    "moments before all parts are there": (
        "frontend/melspec_finish.h",
        "!dev::arrive_last(p.arrivals + clip, kMomentParts)",
        "part != 0",
        "plain",
        ("frontend/melspec.cu", "mel standardised, no floor"),
    ),
    "deviation of one frame less": (
        "frontend/melspec_rows.h",
        "sqrt(block_sum(squares, slots) / p.n_frames)",
        "sqrt(block_sum(squares, slots) / (p.n_frames - 1))",
        "plain",
        ("frontend/melspec.cu", "mel 512 points, each band"),
    ),
}


HEAD_MISTAKES = {  # as above
    "every tag takes the weights of the first": (
        "head.cu",
        "static_cast<int64_t>(exists ? tag : 0) * features",
        "0",
        "plain",
        ("head.cu", "many features bfloat16"),
    ),
    "slots are written under their readers": (
        "head.cu",
        "if (image != first_image) dev::sync();",
        "",
        "tsan",
        ("head.cu", "many features bfloat16"),
    ),
    "slots are read under their writers": (
        "head.cu",
        "slots[warp] = sum;\n      dev::sync();",
        "slots[warp] = sum;",
        "tsan",
        ("head.cu", "many features bfloat16"),
    ),
    "the remainder of the features is left out": (
        "head.cu",
        "int first = own + kHeld * kStep; first < features;",
        "int first = own + 2 * kHeld * kStep; first < features;",
        "plain",
        ("head.cu", "many features bfloat16"),
    ),
    "sums of chunks are read under their writers": (
        "dense.cu",
        "dev::sync();\n    FCNTAG_UNROLL for (int b = 0;",
        "FCNTAG_UNROLL for (int b = 0;",
        "tsan",
        ("dense.cu", "hidden, many inputs bfloat16"),
    ),
    "inputs are read under their writers": (
        "dense.cu",
        "dev::sync();\n    if (first + warp < chunks)",
        "if (first + warp < chunks)",
        "tsan",
        ("dense.cu", "hidden, many inputs bfloat16"),
    ),
    "a chunk has the weights of the round before": (
        "dense.cu",
        "load_weights(first + kWarps + warp);",
        "",
        "plain",
        ("dense.cu", "hidden, many inputs bfloat16"),
    ),
    "the maximum leaves out a position": (
        "head.cu",
        "for (int position = 1; position < p.positions; ++position) {\n      map += p.stride;\n      "
        "FCNTAG_UNROLL for (int j = 0; j < kHeld; ++j) {\n        if (first + j * kStep < features) v[j]",
        "for (int position = 2; position < p.positions; ++position) {\n      map += p.stride;\n      "
        "FCNTAG_UNROLL for (int j = 0; j < kHeld; ++j) {\n        if (first + j * kStep < features) v[j]",
        "plain",
        ("head.cu", "fives bfloat16"),
    ),
}
SCORER_MISTAKES = {  # as above
    "the kernels after the first one read no Io": (
        "open_io.h",
        "*source.target = source.value;",
        "return source.value;",
        "plain",
        ("frontend/melspec.cu", "512 points"),
    ),
    "every block leaves the Io": (
        "open_io.h",
        "if ((blockIdx.x | blockIdx.y | blockIdx.z | threadIdx.x) == 0) ",
        "",
        "tsan",
        ("frontend/melspec.cu", "512 points"),
    ),
    "weights behind the last block are not asked for": (
        "network.cpp",
        "params.next_bytes = next.bytes;\n    run_conv",
        "params.next_bytes = 0;\n    run_conv",
        "plain",
        ("network.cpp", "512 points"),
    ),
    "weights of the second block are not asked for": (
        "network.cpp",
        "params.next_bytes = next.bytes;\n      launch",
        "params.next_bytes = 0;\n      launch",
        "plain",
        ("network.cpp", "512 points"),
    ),
    "a graph keeps its first Io": (
        "scorer.cpp",
        "recorded.repoint(*recorded.graph, io);",
        "",
        "plain",
        ("scorer.cpp", "512 points"),
    ),
}


def mistaken(mistake: tuple[str, str, str, str], program: str, mutant: str, folder: Path) -> Path:
    """The program with a mistake in a copy of ``csrc/cuda`` in ``folder``; of the copy it has the source ``mutant``."""
    file, right, wrong, mode, *_ = mistake
    shutil.copytree(emulation.REPOSITORY / "csrc/cuda", folder / "cuda")
    source = (folder / "cuda" / file).read_text()
    assert source.count(right) == 1, f"{file} has changed: find the place for this mistake again"
    (folder / "cuda" / file).write_text(source.replace(right, wrong))
    others = [name for name in PROGRAMS[program] if name != f"csrc/cuda/{mutant}"]
    assert len(others) == len(PROGRAMS[program]) - 1
    return emulation.program(*others, str(folder / "cuda" / mutant), mode=mode, includes=(str(folder),))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_kernel_is_seen(mistake, tmp_path):
    mode, layers = (*MISTAKES[mistake][3:], "pairs")[:2]
    executable = mistaken(MISTAKES[mistake], "network", "conv/conv_bfloat16.cu", tmp_path)
    settings = {"little": {"FCNTAG_EMULATED_SHARED_BYTES": "40000"}, "bulk": HOPPER}
    chosen = next((setting for word, setting in settings.items() if word in layers), {})
    done = emulation.run(executable, "1", f"{layers.split()[0]} bfloat16", **chosen)
    assert done.returncode != 0, done.stdout[-2000:]
    seen = (
        "ThreadSanitizer: data race"
        if mode == "tsan"
        else "relative L2|emulator: (shared address|a block ended with a bulk copy|a wait for|a bulk barrier expects)"
    )
    assert re.search(seen, done.stdout), done.stdout[-2000:]


@pytest.mark.parametrize("mistake", FIRST_MISTAKES)
def test_a_mistake_in_the_first_block_is_seen(mistake, tmp_path):
    mode = FIRST_MISTAKES[mistake][3]
    executable = mistaken(FIRST_MISTAKES[mistake], "network", "conv/conv_first_float16.cu", tmp_path)
    done = emulation.run(executable, "1", "first of many tiles bfloat16")
    assert done.returncode != 0, done.stdout[-2000:]
    seen = "ThreadSanitizer: data race" if mode == "tsan" else "relative L2|alone gives other bits"
    assert re.search(seen, done.stdout), done.stdout[-2000:]


def assert_seen(done: subprocess.CompletedProcess[str], mode: str, failed: str) -> None:
    """A program with a mistake has failed: by a race that ThreadSanitizer names, or by a case that says ``failed``."""
    assert done.returncode != 0, done.stdout[-2000:]
    assert ("ThreadSanitizer: data race" if mode == "tsan" else failed) in done.stdout, done.stdout[-2000:]


@pytest.mark.parametrize("mistake", FRONT_END_MISTAKES)
def test_a_mistake_in_the_front_end_is_seen(mistake, tmp_path):
    *change, mode, (mutant, cases) = FRONT_END_MISTAKES[mistake]
    executable = mistaken((*change, mode), "frontend", mutant, tmp_path)
    limit = {"FCNTAG_EMULATED_SHARED_BYTES": "4096"} if "turns" in cases else {}
    done = emulation.run(executable, "1", cases, **limit)
    assert_seen(done, mode, " FAIL ")


@pytest.mark.parametrize("mistake", HEAD_MISTAKES)
def test_a_mistake_in_the_head_is_seen(mistake, tmp_path):
    *change, mode, (mutant, cases) = HEAD_MISTAKES[mistake]
    executable = mistaken((*change, mode), "network", mutant, tmp_path)
    done = emulation.run(executable, "1", cases)
    assert_seen(done, mode, " FAIL")


@pytest.mark.parametrize("mistake", SCORER_MISTAKES)
def test_a_mistake_in_a_whole_run_is_seen(mistake, tmp_path):
    *change, mode, (mutant, cases) = SCORER_MISTAKES[mistake]
    executable = mistaken((*change, mode), "scorer", mutant, tmp_path)
    done = emulation.run(executable, "1", cases)
    assert_seen(done, mode, " FAIL")


@pytest.mark.parametrize("mode", ["plain", "asan"])
def test_blocks_take_turns_on_buffers_in_scratch_memory(mode):
    """With so little shared memory that every transform lies there, more frames and more clips than blocks at once."""
    executable = emulation.program(*PROGRAMS["frontend"], mode=mode)
    done = emulation.run(executable, "1", "in turns", FCNTAG_EMULATED_SHARED_BYTES="4096")
    assert done.returncode == 0, done.stdout[-4000:]
    assert "0 of 4 cases failed" in done.stdout
