"""The suite's tests that mean something on a GPU, in a process of their own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import foreseer
from foreseer.bench.gpu.kept import Kept

__all__ = ["SELECTION", "run_checks"]

SELECTION = ("test_on_devices.py", "test_bank.py", "test_bank_on_accelerators.py", "test_memory.py")
"""Of ``tests/``. What is parametrized by device takes the GPU where there is one."""
SECONDS = 35.0
"""What they are expected to take where they have not been run."""
LEAST = 15.0


def run_checks(kept: Kept) -> None:
    """Run the selection, and keep its summary line and the names of what failed."""
    name = " ".join(SELECTION)
    tests = _tests()
    if tests is None or importlib.util.find_spec("pytest") is None:
        missing = "pytest is not installed: pip install 'foreseer[testing]'" if tests else "the tests are not here: run it from a checkout"
        kept.keep("checks", name, skipped=missing, for_good=True)
        return
    kept.attempt("checks", name, work=SECONDS, usual=1.0, measure=lambda: _run(tests, kept.budget.left))


def _tests() -> Path | None:
    """The folder of the tests: beside what is imported, or where this process is."""
    for root in (Path(foreseer.__file__).resolve().parents[1], Path.cwd()):
        if all((root / "tests" / name).exists() for name in SELECTION):
            return root / "tests"
    return None


def _run(tests: Path, seconds: float) -> dict[str, Any]:
    # pytest-benchmark's option of the project's own settings would be refused where that is not installed
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", *SELECTION]
    limit = None if seconds == float("inf") else max(seconds, LEAST)
    done = subprocess.run(command, cwd=tests, capture_output=True, text=True, timeout=limit, env={**os.environ, "PY_COLORS": "0"}, stdin=subprocess.DEVNULL)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    failed = [line[:300] for line in lines if re.match(r"(FAILED|ERROR) ", line)]
    return {"summary": lines[-1][:300] if lines else "it printed nothing", "failed": failed[:50], "exit_status": done.returncode}
