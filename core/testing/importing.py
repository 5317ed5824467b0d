"""Another process, into which a plugin's module is imported: what that changed, and what the policy does
there.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import importlib.util
import inspect
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from foreseer.registry import PolicySpec
from foreseer.testing.plays import play
from foreseer.testing.subject import subject_of
from foreseer.testing.surroundings import changed_since, snapshot
from foreseer.testing.worlds import World, mixed

__all__ = ["changed_by_import", "home_of", "runs_elsewhere"]

BOOT = (
    "import json, sys; task = json.loads(sys.argv[1]); sys.path[:] = task['path']; from foreseer.testing.importing import _here; print(json.dumps(_here(task)))"
)


def home_of(spec: PolicySpec) -> tuple[str, str] | None:
    """The module in which a policy's factory lives, and its file; None where it cannot be imported."""
    module = getattr(spec.factory, "__module__", None) or type(spec.factory).__module__
    if module in ("__main__", "builtins", "functools"):
        return None
    try:
        return module, inspect.getsourcefile(sys.modules[module]) or ""
    except (TypeError, KeyError):
        return module, ""


def changed_by_import(module: str, file: str) -> tuple[str, ...]:
    """What importing a module changes, in words."""
    (done,) = _processes({"module": module, "file": file}, (None,))
    if done.returncode:
        return (f"it cannot be imported by itself: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no message'}",)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def runs_elsewhere(spec: PolicySpec, seeds: Sequence[int]) -> list[str]:
    """What the policy does in a process of each hash seed; empty where its factory or its options cannot be
    sent to one.
    """
    home = home_of(spec)
    try:
        sent = base64.b64encode(pickle.dumps((spec.name, spec.factory, dict(spec.options)))).decode()
    except (pickle.PicklingError, AttributeError, TypeError):
        return []
    if home is None:
        return []
    told = _processes({"module": home[0], "file": home[1], "spec": sent}, seeds)
    return [] if any(done.returncode for done in told) else [done.stdout.splitlines()[-1] for done in told]


def _processes(task: dict[str, Any], seeds: Sequence[int | None]) -> list[subprocess.CompletedProcess[str]]:
    """Carry out a task in processes side by side."""
    command = [sys.executable, "-c", BOOT, json.dumps({**task, "path": [entry for entry in sys.path if entry]})]
    begun = []
    for seed in seeds:
        environment = {**os.environ, **({} if seed is None else {"PYTHONHASHSEED": str(seed)})}
        begun.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment))
    return [subprocess.CompletedProcess(command, process.returncode, *said) for process in begun for said in [process.communicate(timeout=300)]]


def _here(task: dict[str, Any]) -> list[str]:
    before, out = snapshot(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        _load(task["module"], task["file"])
    changed = changed_since(before)
    if out.getvalue().strip():
        changed.append(f"the output: {out.getvalue().strip().splitlines()[0]!r}")
    if "spec" not in task:
        return changed
    name, factory, options = pickle.loads(base64.b64decode(task["spec"]))
    subject = subject_of(PolicySpec(name, factory, options))
    with contextlib.redirect_stdout(out):
        return [str(play(subject, World(mixed), cast=cast).trace()) for cast in range(len(subject.casts))]


def _load(module: str, file: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not file or (error.name or "") not in (module, module.split(".")[0]):
            raise
        found = importlib.util.spec_from_file_location(module, file)
        if found is None or found.loader is None:
            raise
        loaded = importlib.util.module_from_spec(found)
        sys.modules[module] = loaded
        found.loader.exec_module(loaded)
