"""The state of an installation as plain data for ``fcntag doctor``: its parts, their abilities, its faults."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

from .errors import DeviceError, ModelError

# Extra -> the packages that it stands for, by their names on the package index.
EXTRAS = {
    "cuda12": ("cupy-cuda12x",),
    "cuda13": ("cupy-cuda13x",),
    "validate": ("numba", "torch", "onnx", "onnxruntime"),
    "onnx": ("onnx",),
    "convert": ("h5py", "pooch"),
    "av": ("av",),
    "parquet": ("pyarrow",),
    "plot": ("matplotlib",),
}


def examine() -> dict[str, Any]:
    """The report: sections of plain JSON values; ``problems`` is a list of lines, empty where all is well."""
    problems: list[str] = []
    return {
        "fcntag": _package(),
        "build": _part(problems, "build", _build),
        "cpu": _part(problems, "cpu", _cpu),
        "cuda": _part(problems, "cuda", _cuda),
        "decoders": _part(problems, "decoders", _decoders),
        "extras": {name: _installed(packages) for name, packages in EXTRAS.items()},
        "models": _models(problems),
        "engine": _part(problems, "engine", _engine),
        "problems": problems,
    }


def _part(problems: list[str], name: str, examine_part: Any) -> dict[str, Any]:
    """A section, or a problem: the report must appear above all where something is broken."""
    try:
        return examine_part()
    except Exception as error:
        text = " ".join(f"{error}".split())
        problems.append(f"{name}: {type(error).__name__}: {text}")
        return {"broken": text}


def _package() -> dict[str, Any]:
    from . import __version__

    return {
        "version": __version__,
        "folder": os.path.dirname(os.path.abspath(__file__)),
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "environment": [f"{key}={value}" for key, value in sorted(os.environ.items()) if key.startswith("FCNTAG_")],
    }


def _build() -> dict[str, Any]:
    from . import _C

    return dict(_C.build_info())


def _cpu() -> dict[str, Any]:
    from . import _C

    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpus": os.cpu_count(),
        "affinity": affinity,
        "cgroup_cpus": _cgroup_cpus() or "no limit",
        "threads": _C.available_threads(),
    }


def _cgroup_cpus() -> float | None:
    """CPUs that the cgroup's quota allows; None where there is no quota or no cgroup."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        return None if quota == "max" else round(int(quota) / int(period), 2)
    except (OSError, ValueError):
        pass
    try:
        with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as file:
            quota_us = int(file.read())
        with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as file:
            return round(quota_us / int(file.read()), 2) if quota_us > 0 else None
    except (OSError, ValueError):
        return None


def _cuda() -> dict[str, Any]:
    from .engine import cuda_core

    found: dict[str, Any] = {"driver": _driver() or "none found"}
    try:
        found["build"] = f"for sm_{cuda_core.core().architectures.replace(' ', ', sm_')}"
    except DeviceError as error:
        return {**found, "build": str(error)}
    reason = cuda_core.unavailable()
    if reason:
        return {**found, "usable": f"no: {reason}"}
    for info in cuda_core.devices():
        capability = "{}.{}".format(*info["capability"])
        memory = f"{info['memory_bytes'] / 1e9:.0f} GB"
        found[f"cuda:{info['index']}"] = f"{info['name']}, compute capability {capability}, {memory}"
    return found


def _driver() -> str | None:
    """The NVIDIA kernel driver's version, from the file that it keeps; loads no CUDA library."""
    try:
        with open("/proc/driver/nvidia/version") as file:
            return " ".join(file.readline().split())
    except OSError:
        return None


def _decoders() -> dict[str, Any]:
    import soundfile
    import soxr

    formats = soundfile.available_formats()
    subtypes = soundfile.available_subtypes()
    return {
        "soundfile": soundfile.__version__,
        "libsndfile": soundfile.__libsndfile_version__,
        "formats": sorted(formats),
        "mp3": "MPEG_LAYER_III" in subtypes,
        "opus": "OPUS" in subtypes,
        "soxr": f"{soxr.__version__} (libsoxr {soxr.__libsoxr_version__})",
        "av": _version("av"),
    }


def _installed(packages: tuple[str, ...]) -> dict[str, str | None] | str | None:
    versions = {name: _version(name) for name in packages}
    if all(version is None for version in versions.values()):
        return None
    return ", ".join(f"{name} {version or 'not installed'}" for name, version in versions.items())


def _version(package: str) -> str | None:
    """The installed version, without importing the package."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _models(problems: list[str]) -> dict[str, Any]:
    """Cache folder, and every model that is here with the result of its check."""
    from . import catalogue

    found: dict[str, Any] = {"cache": str(catalogue.home())}
    for entry in catalogue.entries():
        try:
            if not entry.embedded and not catalogue.is_here(entry.name):
                found[entry.name] = "not pulled"
                continue
            facts = catalogue.verify(entry.name)
            found[entry.name] = f"{'embedded' if entry.embedded else 'pulled'}, ok, sha256 {facts['sha256'][:16]}"
        except ModelError as error:
            if str(error) not in problems:  # a folder that cannot be read is one problem, not one for each model
                problems.append(str(error))
            found[entry.name] = "broken"
    return found


def _engine() -> dict[str, Any]:
    """Tag one second of noise with the default model: loading, front end and network, all the way."""
    import numpy as np

    from .tagger import Tagger

    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    with Tagger() as tagger:
        result = tagger.tag(noise, sample_rate=16000)
        best, score = result.top(1)[0]
        return {
            "model": tagger.model_info.name,
            "device": tagger.device,
            "precision": tagger.precision,
            "threads": tagger.threads,
            "memory": f"{tagger.memory_bytes / 1e6:.1f} MB",
            "1 s of noise": f"{best} {score:.3f}",
        }
