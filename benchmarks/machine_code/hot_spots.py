"""Where a warp's time in the steps goes: every instruction of the loop, with the cycles until the next one issues."""

from __future__ import annotations

from collections import Counter

from machine_code.interpret import run_cta
from machine_code.model import replay, sub_partition
from machine_code.parts import PARTS, label
from machine_code.toolchain import Built, Planned


def text(built: Built, planned: Planned, part: str = "steps") -> str:
    """The first warp's instructions of ``part``, by address: how often, cycles each, control word, text."""
    launch = planned.launch
    kernel, resources = built.kernels[launch.kernel], built.resources[launch.kernel]
    block = (launch.grid[0] // 2, launch.grid[1] // 2, 0)
    traces = run_cta(kernel, launch, block, param_base=resources.constants - len(launch.params))
    done = replay([sub_partition(traces)])
    times = [*done.warps[0].times, done.cycles]
    cycles: Counter[int] = Counter()
    often: Counter[int] = Counter()
    for n, (step, number) in enumerate(zip(traces[0], label(kernel, traces[0]), strict=True)):
        if PARTS[number] == part:
            cycles[step.instruction.address] += times[n + 1] - times[n]
            often[step.instruction.address] += 1
    lines = [f"{launch.name}, {part}: address, executed, cycles each, stall, scoreboards written, read, waited for"]
    for address in sorted(often):
        i = kernel.instructions[kernel.index[address]]
        lines.append(
            f"{address:6x}{often[address]:6}{cycles[address] / often[address]:9.1f}  {i.stall:2} "
            f"{i.write_scoreboard} {i.read_scoreboard} {i.wait_mask:06b}  {i.text}"
        )
    by_opcode: Counter[str] = Counter()
    for address, value in cycles.items():
        by_opcode[kernel.instructions[kernel.index[address]].opcode] += value
    total = sum(by_opcode.values())
    lines.append("share by opcode: " + ", ".join(f"{o} {c / total:.0%}" for o, c in by_opcode.most_common(12)))
    return "\n".join(lines)
