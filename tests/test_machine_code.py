"""The kernels' machine code, without a GPU: the interpreter against NumPy, traces against what a layer has to compute,
and benchmarks/machine_code/table.txt, whose bounds no kernel may pass.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from support.run_folder import run_folder

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from machine_code import floors, layers, table
from machine_code.interpret import Step, run_cta
from machine_code.machine import Launch, MachineError, Region
from machine_code.model import replay, sub_partition
from machine_code.parts import PARTS, CtaReport, label, report_cta, resident_ctas, step_loops
from machine_code.sass import find_program, parse
from machine_code.toolchain import Built, Planned, Toolchain, architectures_of

ROOT = Path(__file__).resolve().parent.parent

ARCHITECTURE = "90a"  # the one that the interpreter knows
# Disassembling an architecture takes some 5 CPU seconds; a change of the source shows in both of these.
DISASSEMBLED = ("80", "90a")


@pytest.fixture(scope="module")
def tools() -> Toolchain:
    for name in ("nvcc", "cuobjdump", "nvdisasm"):
        if find_program(name) is None:
            pytest.skip(f"{name} is neither on PATH nor in the packages nvidia-cuda-*")
    return Toolchain(ROOT, run_folder("machine-code"))


# ---- the interpreter: a kernel of its own, against NumPy ----

PROBE = r"""
#include <cstdint>
struct Params { const int32_t* a; const int32_t* b; int64_t* out; int n, by; };
__device__ int64_t mixed(int x, int y, int by) {
  const unsigned ux = x, uy = y;
  int64_t sum = 0;
  sum += x / by + x % by;
  sum += ux / 7 + int64_t(x) * y;
  sum += (uint64_t(ux) << 32 | uy) >> 5;
  sum += min(x, y) ^ max(x, y) ^ ((x >> 3) + (ux >> 4)) ^ (x << 2);
  sum += __byte_perm(ux, uy, 0x5410) + __popc(ux);
  sum += x < y ? x - 3 * int64_t(y) : int64_t(__umulhi(ux, uy));
  return sum;
}
__global__ void probe(const __grid_constant__ Params p) {
  __shared__ int32_t shared[64];
  const int t = threadIdx.x, x = p.a[t], y = p.b[t];
  int64_t sum = mixed(x, y, p.by);
  for (int i = 0; i < (t & 7); ++i) sum = sum * 3 + i;      // lanes leave at different turns
  if (t & 1) sum += __shfl_xor_sync(0xaaaaaaaau, x, 2);      // half of the lanes
  shared[t] = x;
  __syncthreads();
  sum += shared[63 - t];                                     // the other warp's
  sum += __syncthreads_or(t == 5 && x > 0) ? 1000 : 0;
  if (t < p.n) p.out[t] = sum;
}
"""


def probe_result(a: np.ndarray, b: np.ndarray, by: int) -> list[int]:
    """What the probe computes, in whole numbers of Python that are cut to the widths of the C++ types."""

    def u32(x: int) -> int:
        return x & 0xFFFFFFFF

    def s32(x: int) -> int:
        return (x + 2**31) % 2**32 - 2**31

    def s64(x: int) -> int:
        return (x + 2**63) % 2**64 - 2**63

    result = []
    for t in range(64):
        x, y = int(a[t]), int(b[t])
        ux, uy = u32(x), u32(y)
        quotient = abs(x) // by * (1 if x >= 0 else -1)
        total = s32(quotient + (x - quotient * by)) + ux // 7 + x * y
        total += (ux << 32 | uy) >> 5
        total += u32(min(x, y) ^ max(x, y) ^ u32((x >> 3) + (ux >> 4)) ^ u32(x << 2))
        total += u32((ux & 0xFFFF | (uy & 0xFFFF) << 16) + ux.bit_count())
        total += x - 3 * y if x < y else ux * uy >> 32
        for i in range(t & 7):
            total = s64(total) * 3 + i
        if t & 1:
            total += int(a[t ^ 2])
        total += int(a[63 - t]) + (1000 if a[5] > 0 else 0)
        result.append(s64(total))
    return result


@pytest.fixture(scope="module")
def probe(tools: Toolchain) -> tuple[Built, str]:
    source = tools.work / "probe/csrc/cuda/probe.cu"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(PROBE)
    built = Toolchain(tools.work / "probe", tools.work / "probe").built("probe.cu", ARCHITECTURE)
    return built, next(iter(built.kernels))


def launch_probe(name: str, a: np.ndarray, b: np.ndarray, by: int, n: int = 64, bytes_: int = 64 * 8) -> Launch:
    regions = [
        Region("a", 1 << 40, 256, a.view(np.uint8).copy()),
        Region("b", 2 << 40, 256, b.view(np.uint8).copy()),
        Region("out", 3 << 40, bytes_, np.zeros(bytes_, np.uint8)),
    ]
    params = np.array([1 << 40, 2 << 40, 3 << 40], "<u8").tobytes() + np.array([n, by], "<i4").tobytes()
    return Launch("probe", name, (1, 1, 1), 64, 256, params, regions)  # 64 words of shared memory


@pytest.mark.parametrize(("seed", "by"), [(0, 5), (1, 1), (2, 12345), (3, 2**31 - 1)])
def test_the_interpreter_computes_what_the_source_says(probe: tuple[Built, str], seed: int, by: int) -> None:
    built, name = probe
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-(2**31), 2**31, 64).astype(np.int32) for _ in range(2))
    launch = launch_probe(name, a, b, by)
    base = built.resources[name].constants - len(launch.params)
    run_cta(built.kernels[name], launch, (0, 0, 0), param_base=base)
    assert launch.regions[2].content.view(np.int64).tolist() == probe_result(a, b, by)


def test_an_access_outside_of_memory_is_an_error(probe: tuple[Built, str]) -> None:
    built, name = probe
    zeros = np.zeros(64, np.int32)
    launch = launch_probe(name, zeros, zeros, 3, bytes_=63 * 8)
    base = built.resources[name].constants - len(launch.params)
    with pytest.raises(MachineError, match="beyond the 504 bytes of out"):
        run_cta(built.kernels[name], launch, (0, 0, 0), param_base=base)


BULK = r"""
#include <cstdint>
struct Params { const uint8_t* x; int* out; int n; };
__global__ void bulk(const __grid_constant__ Params p) {
  extern __shared__ __align__(128) uint8_t shared[];
  const uint32_t bar = static_cast<uint32_t>(__cvta_generic_to_shared(shared)), to = bar + 128;
  if (threadIdx.x == 0) asm volatile("mbarrier.init.shared.b64 [%0], 1; fence.proxy.async;" ::"r"(bar) : "memory");
  __syncthreads();
  for (int i = 0; i < p.n; ++i) {
    if (threadIdx.x == 0) {
      asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], 6000;" ::"r"(bar) : "memory");
      asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 6000, [%2];"
                   ::"r"(to), "l"(p.x + i * 6000), "r"(bar) : "memory");
    }
    asm volatile("{.reg .pred done; wait: mbarrier.try_wait.parity.shared.b64 done, [%0], %1; @!done bra wait;}"
                 ::"r"(bar), "r"(i & 1) : "memory");
    __syncthreads();
  }
  p.out[threadIdx.x] = 1;
}
"""


def test_bulk_copies_are_waited_for(tools: Toolchain) -> None:
    source = tools.work / "bulk/csrc/cuda/bulk.cu"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(BULK)
    built = Toolchain(tools.work / "bulk", tools.work / "bulk").built("bulk.cu", ARCHITECTURE)
    (name,) = built.kernels

    def cycles(n: int) -> float:
        regions = [Region("x", 1 << 40, 6000 * n), Region("out", 2 << 40, 256)]
        params = np.array([1 << 40, 2 << 40], "<u8").tobytes() + np.array([n, 0], "<i4").tobytes()
        launch = Launch("bulk", name, (1, 1, 1), 64, 6144, params, regions)
        base = built.resources[name].constants - len(params)
        return replay([sub_partition(run_cta(built.kernels[name], launch, (0, 0, 0), param_base=base))]).cycles

    # 6000 bytes take 250 cycles at a multiprocessor's share of the level-2 cache, and 260 more to come.
    assert 2 * 510 < cycles(4) - cycles(2) < 2 * 700


SASS = """
	Function : k
        /*0000*/                   {} ;  /* 0x0000000000007918 */
                                         /* 0x000fc00000000000 */
        /*0010*/                   EXIT ;  /* 0x000000000000794d */
                                           /* 0x000fea0003800000 */
"""


@pytest.mark.parametrize("text", ["QADD4 R0, R1, R2", "IADD3.QQ R0, R1, R2, R3", "IADD3 R0, R1, R2, Q3"])
def test_code_that_is_not_known_is_an_error(text: str) -> None:
    (kernel,) = parse(SASS.format(text))
    with pytest.raises(MachineError, match="not known"):
        run_cta(kernel, Launch("k", "k", (1, 1, 1), 32, 0, b"", []), (0, 0, 0), param_base=0x210)


# ---- traces of CTAs ----

LAYERS = "fcn4/2,fcn4/3,fcn5-narrow/2,fcn5-narrow/5"


@pytest.fixture(scope="module")
def planned(tools: Toolchain) -> list[Planned]:
    return tools.plan(layers.lines(LAYERS, "bfloat16", 64))


@pytest.fixture(scope="module")
def reports(tools: Toolchain, planned: list[Planned]) -> dict[str, CtaReport]:
    built = tools.built("conv/conv_bfloat16.cu", ARCHITECTURE)
    return {p.launch.name: report_cta(built, p) for p in planned}


def test_a_warp_issues_the_products_of_its_layer(reports: dict[str, CtaReport]) -> None:
    for r in reports.values():
        p = r.planned
        # An m16n8k16 has 16 rows, 8 output channels and two 16-byte chunks of input channels.
        of_a_step = p.rows // 16 * (p.channels // 8) * (p.chunks // 2)
        assert r.products == p.steps * of_a_step // (p.launch.threads // 32), p.launch.name


def test_parts_add_up_to_a_cta(reports: dict[str, CtaReport]) -> None:
    for name, r in reports.items():
        assert sum(r.part_cycles.values()) == pytest.approx(r.cycles), name
        assert all(r.instructions[part] > 0 for part in PARTS if part != "between passes"), name
        assert (r.instructions["between passes"] > 0) == (r.planned.passes > 1), name
        # The products of the two warps of a sub-partition are a bound from below, and nearly all is in the steps.
        assert r.product_cycles <= r.part_cycles["steps"], name


def test_ctas_that_share_a_multiprocessor_hide_one_another(reports: dict[str, CtaReport]) -> None:
    for name, r in reports.items():
        assert r.cycles_each <= r.cycles * 1.01, name
        assert r.cycles_each >= r.product_cycles, name


def test_the_last_cta_of_split_sums_has_more_to_do(tools: Toolchain) -> None:
    built = tools.built("conv/conv_bfloat16.cu", ARCHITECTURE)
    (split,) = (p for p in tools.plan(layers.lines("fcn5-narrow/5", "bfloat16", 1)))
    assert split.launch.grid[1] > 1, "the planner no longer splits this layer: take another one"
    r = report_cta(built, split)
    assert r.cycles_mean < r.cycles_each


def test_floors_count_what_pooling_sees() -> None:
    (second,) = layers.lines("fcn4/2", "bfloat16", 64)  # 48 x 341 pixels in windows of (4, 5): 340 columns
    assert floors.operations(second) == 2 * 48 * 340 * 128 * 384 * 9
    (first_overlap,) = layers.lines("mtt-vgg/2", "bfloat16", 64)  # 92 x 48 in windows of (2, 2)
    assert floors.operations(first_overlap) == 2 * 92 * 48 * 128 * 128 * 9


def test_residency() -> None:
    assert resident_ctas(255, 256, 200_000) == 1
    assert resident_ctas(128, 128, 50_000) == 4
    assert resident_ctas(96, 128, 50_000) == 4  # shared memory
    assert resident_ctas(168, 128, 1_000) == 3  # registers


def test_the_model_waits_for_barriers_and_copies() -> None:
    """Two warps of 100 and 10 units of work that meet: neither goes on before the longer one."""
    add, bar = ("IADD3 R0, R0, R1, R2", "BAR.SYNC 0x0")
    word = "0x000fe40000000000"  # stall 2
    lines = [
        f"        /*{16 * n:04x}*/   {t} ;  /* 0x{0:016x} */\n   /* {word} */" for n, t in enumerate((add, bar, add))
    ]
    (kernel,) = parse("\tFunction : k\n" + "\n".join(lines))
    work, barrier = (Step(kernel.instructions[n], True, 0, False) for n in (0, 1))
    done = replay([[[work] * 100 + [barrier, work], [work] * 10 + [barrier, work]]])
    assert abs(done.warps[0].times[-1] - done.warps[1].times[-1]) <= 2
    assert done.warps[1].times[-1] > 200
    alone = replay([[[work] * 10 + [barrier, work]]])
    assert alone.cycles < 60


# ---- the planner ----

# The planner knows no instructions, only constants. A factor of 1.4 between what it estimates and what the machine code
# takes on the model still ranks tiles: the shapes that it chooses from differ by more.
PLANNER_FACTOR = 1.4


def test_the_planner_agrees_with_the_machine_code(reports: dict[str, CtaReport]) -> None:
    for name, r in reports.items():
        ratio = r.planned.planned_cycles / r.layer_cycles()
        assert 1 / PLANNER_FACTOR <= ratio <= PLANNER_FACTOR, (name, ratio)


# ---- the table ----


@pytest.fixture(scope="module")
def rows(tools: Toolchain) -> dict[table.Key, table.Row]:
    library = fresh_module()
    if library is None:  # nothing was built here: compile the files whose machine code matters most
        files = [f"conv/conv_{precision}.cu" for precision in ("bfloat16", "float32")]
        return table.rows_of({ARCHITECTURE: tools.compiled(files, ARCHITECTURE)})
    architectures = architectures_of(library, tools.cuobjdump)
    return table.rows_of(tools.module(library, architectures, [a for a in DISASSEMBLED if a in architectures]))


def fresh_module() -> Path | None:
    """A module that nvcc has built of these sources: the installed one, if it is newer than all of them."""
    spec = importlib.util.find_spec("fcntag")
    folders = [*(spec.submodule_search_locations or [] if spec else []), *ROOT.glob("build/lib*/fcntag")]
    newest = max(path.stat().st_mtime for path in (ROOT / "csrc").rglob("*") if path.is_file())
    for folder in folders:
        for path in Path(folder).glob("_cuda.*.so"):
            if path.stat().st_mtime > newest:
                return path
    return None


def test_no_kernel_is_worse_than_its_bound(rows: dict[table.Key, table.Row]) -> None:
    assert not table.compare(table.read(), rows)
    assert any("conv_block" in kernel for kernel, _ in rows)


def test_conv_kernels_neither_divide_nor_spill() -> None:
    """In all architectures, by the committed table, whose bounds the test before holds."""
    seen = set()
    for (kernel, architecture), row in table.read().items():
        assert row["local"][1] == 0, (kernel, architecture)
        if kernel.startswith("conv_block"):
            seen.add(architecture)
            assert row["divisions"][1] == 0, (kernel, architecture)
    assert seen >= {"75", "80", "86", "89", "90a"}


@pytest.mark.parametrize(("column", "change"), [(c.name, c.loss) for c in table.COLUMNS])
def test_a_worse_figure_is_found(column: str, change: int) -> None:
    committed = table.read()
    key = next(key for key, row in committed.items() if len(row) == len(table.COLUMNS))
    good = {name: value for name, (value, _) in committed[key].items()}
    assert not table.compare(committed, {key: good})
    bad = {**good, column: committed[key][column][1] + change}
    (line,) = table.compare(committed, {key: bad})
    assert column in line


def test_a_kernel_without_a_row_is_found() -> None:
    assert "no row" in table.compare({}, {("new", "90a"): {"registers": 8.0}})[0]


def test_the_table_is_read_as_it_is_written() -> None:
    assert table.format_table(table.figures(table.read())) == table.TABLE.read_text(encoding="utf-8")


DIVIDES = r"""
__global__ void divides(int* x, int n, int by) {
  for (int i = threadIdx.x; i < n; i += 32) x[i] = i / by;
}
__global__ void once(int* x, int n, int by) {
  const int k = n / by;
  for (int i = threadIdx.x; i < k; i += 32) x[i] = i / 3;
}
__global__ void far(long long* x, int n, long long by) {
  for (int i = threadIdx.x; i < n; i += 32) x[i] = x[i] / by;
}
"""


@pytest.mark.parametrize("architecture", ["75", "90a", "120"])
def test_divisions_in_loops_are_counted(tools: Toolchain, architecture: str) -> None:
    source = tools.work / "divides/csrc/cuda/divides.cu"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(DIVIDES)
    built = Toolchain(tools.work / "divides", tools.work / "divides").built("divides.cu", architecture)
    found = {k: row["divisions"] for (k, _), row in table.rows_of({architecture: built}).items()}
    assert found["divides"] >= 1
    assert found["far"] >= 1
    assert found["once"] == 0


def test_names_are_short() -> None:
    name = "void fcntag::cuda::conv_block<fcntag::cuda::ConvShape<fcntag::cuda::MmaMath<fcntag::cuda::Bfloat16>, 20, 2, 4, false> >(fcntag::cuda::ConvParams)"  # noqa: E501
    assert table.short(name) == "conv_block<Bfloat16, 20, 2, 4, false>"
    assert table.short("fcntag::cuda::(anonymous namespace)::pool(fcntag::cuda::PoolParams)") == "pool"


def test_every_conv_kernel_has_a_loop_of_steps(tools: Toolchain) -> None:
    built = tools.built("conv/conv_bfloat16.cu", ARCHITECTURE)
    for kernel in built.kernels.values():
        assert step_loops(kernel), kernel.name
        assert label(kernel, []) == []
