"""Reads the machine code that nvcc makes of the kernels, without a GPU.

    python benchmarks/machine_code/report.py replay                  # CTAs of the networks' layers, by part
    python benchmarks/machine_code/report.py replay --source TREE --against OTHER --layers fcn4/2,fcn4/3,fcn5-narrow/2
    python benchmarks/machine_code/report.py table --write           # table.txt anew, all architectures (minutes)
    python benchmarks/machine_code/report.py table --module fcntag/_cuda*.so    # what is worse than its bound
    python benchmarks/machine_code/report.py profile --layers fcn4/2 # where the cycles of its steps go
    python benchmarks/machine_code/report.py constants               # what the planner's constants stand for

Times are predictions of a model that has never been compared with hardware (model.py).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machine_code import constants, floors, hot_spots, layers, table
from machine_code.machine import MachineError
from machine_code.parts import PARTS, CtaReport, report_cta
from machine_code.toolchain import REPOSITORY, Missing, Toolchain, architectures_of

ARCHITECTURE = "90a"  # that the interpreter knows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=Path, default=REPOSITORY, help="source tree whose kernels are read")
    parser.add_argument("--work", type=Path, help="folder that keeps cubins and programs; default: a temporary one")
    parser.add_argument("--cuda-bin", type=Path, help="folder of cuobjdump and nvdisasm; default: PATH, then packages")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("replay", help="cycles and instructions of a CTA by part")
    run.add_argument("--layers", default=",".join(layers.NETWORKS), help="networks or blocks, such as fcn4/2")
    run.add_argument("--precision", default="bfloat16", choices=layers.PRECISIONS)
    run.add_argument("--batch", type=int, default=64)
    run.add_argument("--against", type=Path, help="another source tree, whose figures stand beside")
    run.add_argument("--markdown", action="store_true", help="only a table of predicted times and their floors")
    run.add_argument("--block", type=int, help="which CTA; default: the one in the middle of the grid")
    show = commands.add_parser("table", help="figures of every kernel; exit code 1 if one is worse than its bound")
    show.add_argument("--module", type=Path, help="a built fcntag._cuda; default: every source file is compiled")
    show.add_argument("--archs", help="architectures, such as 80,90a; default: the module's, or CMakeLists.txt's")
    show.add_argument("--files", default="*.cu", help="which files below csrc/cuda to compile, such as conv/conv_*.cu")
    show.add_argument("--write", action="store_true", help=f"make these figures {table.TABLE.name}, with new bounds")
    where = commands.add_parser("profile", help="where the cycles of a part go, by instruction")
    where.add_argument("--layers", default="fcn4/2")
    where.add_argument("--precision", default="bfloat16", choices=layers.PRECISIONS)
    where.add_argument("--batch", type=int, default=64)
    where.add_argument("--part", default="steps", choices=PARTS)
    figures = commands.add_parser("constants", help="what the planner's constants stand for, by shape of the kernel")
    figures.add_argument("--layers", default=",".join(layers.NETWORKS))
    figures.add_argument("--precision", default="bfloat16", choices=layers.PRECISIONS)
    figures.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args(argv)
    try:
        return COMMANDS[arguments.command](arguments)
    except (Missing, MachineError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def toolchain(arguments: argparse.Namespace, source: Path, name: str) -> Toolchain:
    return Toolchain(source, arguments.work / name if arguments.work else None, arguments.cuda_bin)


def replays(tools: Toolchain, arguments: argparse.Namespace) -> list[CtaReport]:
    """A CTA of every layer that is asked for, as the planner cuts it."""
    planned = tools.plan(layers.lines(arguments.layers, arguments.precision, arguments.batch))
    built = tools.built(f"conv/conv_{arguments.precision}.cu", ARCHITECTURE)
    block = None if getattr(arguments, "block", None) is None else (arguments.block, 0, 0)
    return [report_cta(built, p, block) for p in planned]


def print_report(r: CtaReport, batch: int) -> None:
    p = r.planned
    print(
        f"{p.launch.name}: {p.rows} x {p.channels}, {p.ctas} CTAs of {p.launch.threads} threads, {p.passes} passes, "
        f"{p.steps} steps, {p.launch.shared_bytes} bytes of shared memory"
    )
    for part in PARTS:
        if r.instructions[part]:
            print(f"  {part:<16}{r.instructions[part]:>8} instructions{r.part_cycles[part]:>10,.0f} cycles")
    print(
        f"  {'CTA':<16}{sum(r.instructions.values()):>8} instructions{r.cycles:>10,.0f} cycles; "
        f"step {r.step_cycles:,.0f} ({r.step_overhead:,.0f} beyond its {r.products} / {max(1, p.steps)} products)"
    )
    print(
        f"  {r.resident} CTAs a multiprocessor: {r.cycles_each:,.0f} cycles each, products busy {r.busy:.0%}; "
        f"predicted {r.microseconds(batch):.2f} us a clip (planner {p.planned_cycles / 1755 / batch:.2f})"
    )


def replay_command(arguments: argparse.Namespace) -> int:
    now = replays(toolchain(arguments, arguments.source, "now"), arguments)
    if arguments.markdown:
        lines = layers.lines(arguments.layers, arguments.precision, arguments.batch)
        print(floors.text(lines, now, arguments.precision, arguments.batch))
        return 0
    for r in now:
        print_report(r, arguments.batch)
    if arguments.against:
        before = replays(toolchain(arguments, arguments.against, "before"), arguments)
        print(f"\n{'layer':<22}{'before':>24}{'now':>24}  cycles of a multiprocessor a CTA; us a clip: before, now")
        for name in dict.fromkeys(r.planned.launch.name for r in [*before, *now]):
            row = [next((r for r in side if r.planned.launch.name == name), None) for side in (before, now)]
            cells = [f"{r.planned.rows}x{r.planned.channels} {r.cycles_each:,.0f}" if r else "-" for r in row]
            times = [r.microseconds(arguments.batch) if r else 0.0 for r in row]
            ratio = f"{times[0] / times[1]:.2f}x" if all(times) else ""
            print(f"{name:<22}{cells[0]:>24}{cells[1]:>24}  {times[0]:.2f} {times[1]:.2f} {ratio}")
        for name in dict.fromkeys(r.planned.launch.name.split("/")[0] for r in now):
            sums = [
                sum(r.microseconds(arguments.batch) for r in side if r.planned.launch.name.startswith(f"{name}/"))
                for side in (before, now)
            ]
            print(f"{name + ', all':<70}  {sums[0]:.2f} {sums[1]:.2f} {sums[0] / sums[1]:.2f}x")
    return 0


def table_command(arguments: argparse.Namespace) -> int:
    tools = toolchain(arguments, arguments.source, "now")
    if arguments.module:
        architectures = architectures_of(arguments.module, tools.cuobjdump)
    else:
        text = (arguments.source / "CMakeLists.txt").read_text(encoding="utf-8")
        architectures = [a for found in re.findall(r"FCNTAG_CUDA_ARCHS ([\da ]+)\)", text) for a in found.split()]
    if arguments.archs:
        architectures = arguments.archs.split(",")
    if arguments.module:
        built = tools.module(arguments.module, architectures, architectures)
    else:
        files = [file for file in tools.sources() if fnmatch(file, arguments.files)]
        built = {a: tools.compiled(files, a) for a in architectures}
    rows = table.rows_of(built)
    if arguments.write:
        kept = table.figures(table.read()) if table.TABLE.exists() else {}
        rows = table.replaced(kept, rows)
        table.TABLE.write_text(table.format_table(rows), encoding="utf-8")
        print(f"{table.TABLE}: {len(rows)} rows")
        return 0
    print(table.format_table(rows), end="")
    wrong = table.compare(table.read(), rows)
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


def profile_command(arguments: argparse.Namespace) -> int:
    tools = toolchain(arguments, arguments.source, "now")
    built = tools.built(f"conv/conv_{arguments.precision}.cu", ARCHITECTURE)
    for planned in tools.plan(layers.lines(arguments.layers, arguments.precision, arguments.batch)):
        print(hot_spots.text(built, planned, arguments.part))
    return 0


def constants_command(arguments: argparse.Namespace) -> int:
    tools = toolchain(arguments, arguments.source, "now")
    planned = tools.plan(layers.lines(arguments.layers, arguments.precision, arguments.batch, "all"))
    built = tools.built(f"conv/conv_{arguments.precision}.cu", ARCHITECTURE)
    reports = [report_cta(built, p) for p in planned]
    print(constants.text(constants.constants(reports)))
    fit = constants.fit(reports)
    print(
        f"\nCycles of a CTA = products + halos + {fit.tap:,.0f} a tap + {fit.barrier:,.0f} a barrier\n"
        f"+ {fit.start:,.0f} + {fit.pass_:,.0f} a pass + {fit.output:,.0f} a pair of channels that a thread writes: "
        f"{min(fit.ratios):.2f} to {max(fit.ratios):.2f} of the replays."
    )
    print("\nlayer                    planner   replay, cycles of the whole layer (a prediction)")
    for r in replays(tools, arguments):
        ratio = r.planned.planned_cycles / r.layer_cycles()
        print(f"{r.planned.launch.name:<20}{r.planned.planned_cycles:>12,.0f}{r.layer_cycles():>12,.0f}  {ratio:.2f}")
    return 0


COMMANDS = {
    "replay": replay_command,
    "profile": profile_command,
    "constants": constants_command,
    "table": table_command,
}

if __name__ == "__main__":
    sys.exit(main())
