"""Runs nvcc and reads ptxas's report: prints what each kernel takes, and fails where one spills registers.

CMake calls it in front of every nvcc command line (CMAKE_CUDA_COMPILER_LAUNCHER). A register that lives in local memory
costs a hot loop more than any tuning gains, and nothing else would notice: the kernel still gives the right result.
"""

from __future__ import annotations

import re
import subprocess
import sys

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(sm_\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")


def read_report(text: str) -> tuple[dict[str, dict[str, tuple[int, int]]], list[str]]:
    """ptxas's report -> kernel -> architecture -> (registers, bytes in local memory); and the lines not of it."""
    kernels: dict[str, dict[str, tuple[int, int]]] = {}
    rest: list[str] = []
    kernel = arch = ""
    local = 0
    for line in text.splitlines():
        if found := ENTRY.search(line):
            kernel, arch = found.groups()
        elif found := FRAME.search(line):
            local = max(int(n) for n in found.groups())
        elif found := USED.search(line):
            kernels.setdefault(kernel, {})[arch] = (int(found.group(1)), local)
        elif line.strip() and not re.search(r"ptxas info|Function properties|^\s*$", line):
            rest.append(line)
    return kernels, rest


def short(kernel: str) -> str:
    """A mangled name without its namespaces and parameter types: what tells the instances apart stays."""
    name = re.sub(r"^_ZN?|\d*_GLOBAL__N__\w{8}_\d+_\w+?_cu_\w{8}(_\d+)?", "", kernel)
    name = re.sub(r"\d*(fcntag|4cuda)", "", name)
    return re.sub(r"E+v\w*$", "", name)


def main(command: list[str]) -> int:
    done = subprocess.run(command, capture_output=True, text=True)
    kernels, rest = read_report(done.stderr)
    sys.stdout.write(done.stdout)
    for line in rest:
        print(line, file=sys.stderr)
    if done.returncode != 0:
        return done.returncode
    spilled = []
    for kernel, per_arch in kernels.items():
        print(f"  {short(kernel)}: registers " + ", ".join(f"{a} {r}" for a, (r, _) in per_arch.items()))
        spilled += [f"{short(kernel)} for {arch}: {local} bytes" for arch, (_, local) in per_arch.items() if local]
    for line in spilled:
        print(f"error: registers in local memory: {line}", file=sys.stderr)
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
