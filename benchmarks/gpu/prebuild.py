"""Compiles ``_C`` and ``_cuda`` for this interpreter into a folder, for ``gpu_check.sh --prebuilt`` elsewhere.

prebuild.sh runs this, with the Python that the GPU's machine has. build.json beside the modules says what they are.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu import steps
from gpu.record import REPOSITORY, output, replace_file, tool

# A GPU's machine takes so much of a checkout, the modules included.
MOST_BYTES = 64 << 20


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 if both modules are there and can be imported."""
    options = argparse.ArgumentParser(prog="prebuild.sh", description=(__doc__ or "").splitlines()[0])
    options.add_argument("folder", type=Path, metavar="DIR")
    options.add_argument("--archs", default="90a", help="of the GPUs, as nvcc names them (default: 90a, H100 and H200)")
    arguments = options.parse_args(argv)
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        print(f"prebuild: {header} is missing: {sys.executable} has no headers", file=sys.stderr)
        return 2
    if tool("nvcc") is None:
        print("prebuild: no nvcc on PATH, beside CUDACXX, or in CUDA_HOME", file=sys.stderr)
        return 2
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.json").unlink(missing_ok=True)
    jobs = int(os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or os.cpu_count() or 1)
    code, text, _ = steps.compile_modules(folder, arguments.archs, jobs, time.monotonic() + 3600)
    if code != 0:
        lines = text.strip().splitlines() or [""]
        why = next((line.strip() for line in lines if re.search(r"\berror\b", line)), lines[-1])
        print(f"prebuild: the build failed: {why}", file=sys.stderr)
        return 1
    modules = [folder / name for name in steps.module_names()]
    about = {
        "python": sys.version.split()[0],
        "architectures": arguments.archs,
        "commit": os.environ.get("FCNTAG_COMMIT") or output(["git", "describe", "--always", "--dirty"]),
        "sources": steps.sources_digest(),
        "nvcc": output([str(tool("nvcc")), "--version"]).rpartition("\n")[2],
        "needs": needs(modules),
        "bytes": sum(path.stat().st_size for path in modules),
    }
    replace_file(folder / "build.json", json.dumps(about, indent=1) + "\n")
    print(json.dumps(about, indent=1))
    everything = about["bytes"] + checkout_bytes()
    print(f"modules and checkout: {everything / (1 << 20):.1f} MiB; allowed: {MOST_BYTES >> 20}")
    return 0 if everything <= MOST_BYTES else 1


def needs(modules: Sequence[Path]) -> dict[str, str]:
    """The newest version of glibc's and libstdc++'s symbols that the modules ask for; {} without objdump."""
    found: dict[str, tuple[int, ...]] = {}
    for path in modules:
        for name, version in re.findall(r"\b(GLIBC|GLIBCXX|CXXABI)_([0-9.]+)", output(["objdump", "-T", str(path)])):
            found[name] = max(found.get(name, (0,)), tuple(map(int, version.split("."))))
    return {name: ".".join(map(str, version)) for name, version in sorted(found.items())}


def checkout_bytes() -> int:
    """Bytes of the files that git knows, or does not ignore; 0 outside of a repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 0
    files = [REPOSITORY / name for name in done.stdout.split("\0") if name]
    return sum(path.stat().st_size for path in files if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
