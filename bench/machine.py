"""What numbers were measured on: the machine, the versions, and the state of the source."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

__all__ = ["circumstances", "facts", "git_state", "machine", "threads", "versions"]

PACKAGES = ("foreseer", "torch", "diffusers", "numpy", "scikit-learn", "scikit-image", "cache-dit")


def facts(device: str) -> dict[str, str]:
    """Return machine and versions, in words."""
    said = {key: value for key, value in machine(device).items() if key != "memory"}
    return said | {"versions": ", ".join(f"{name} {version}" for name, version in versions().items())}


def machine(device: str) -> dict[str, str]:
    """Return processor, GPU (where the device is one), system and memory, in words."""
    gpu = {"GPU": torch.cuda.get_device_name(device)} if torch.device(device).type == "cuda" else {}
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used",
        **gpu,
        "system": platform.platform(),
        "memory": _memory(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def circumstances(
    settings: Mapping[str, Any],
    versions: Mapping[str, str],
    machine: Mapping[str, str],
    git: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what must be the same where a run goes on: settings, versions, GPU, processor and commit, by
    name.
    """
    packages = {f"version of {name}": version for name, version in versions.items()}
    # without a GPU in it the machine is its processor; threads used are in its words
    where = {"GPU": machine.get("GPU"), "processor": machine.get("processor"), "commit": git.get("commit")}
    return {**settings, **packages, **where}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads of the CPU, and then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def git_state() -> dict[str, Any]:
    """Return foreseer's ``commit`` and whether tracked files were ``changed`` since; empty where it is not
    run from a checkout.
    """
    source = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(source.parent), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An environment inside somebody else's checkout is not ours: git must know this very file.
    if git("ls-files", "--error-unmatch", str(source)) is None or (commit := git("rev-parse", "HEAD")) is None:
        return {}
    # results that are made one after the other are no change of what makes them
    return {"commit": commit, "changed": bool(git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", ":(top,exclude)docs/results"))}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, OSError, ValueError):
        return "unknown"
