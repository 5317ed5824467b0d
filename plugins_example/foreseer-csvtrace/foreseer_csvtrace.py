"""An observer that writes a run to a CSV file, one line per step, while it is under way."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

from foreseer import Outcome, Run, Step, hookimpl
from foreseer.errors import OptionError

__all__ = ["COLUMNS", "CsvTrace", "csvtrace"]

COLUMNS: tuple[str, ...] = ("run", "stream", "step", "timestep", "sigma", "rows", "rows_computed")
COLUMNS += ("error_min", "error_max", "threshold", "block_rows", "seconds", "reason")
"""The first line of the file. A cell is empty where there is nothing to say: no gate, no timestep."""


class CsvTrace:
    """Observer: appends one line per step, and closes the file behind it, so that a run that is killed keeps
    what it wrote. A file that exists is continued: each run, and stream of one, gets the next number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbers: WeakKeyDictionary[Run, int] = WeakKeyDictionary()
        self._last = 0

    @hookimpl
    def on_run_start(self, run: Run) -> None:
        """Number the run, and begin the file if it is new."""
        self._last = max(self._last, _last_run(self.path)) + 1
        self._numbers[run] = self._last
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists() or self.path.stat().st_size == 0:
            self._write(COLUMNS)

    @hookimpl
    def on_step(self, run: Run, step: Step, outcome: Outcome) -> None:
        """Write the step's line."""
        errors = [error for error in outcome.error if not math.isnan(error)]
        line = [self._numbers[run], run.stream, step.index, step.timestep, step.sigma]
        line += [len(outcome.computed), sum(outcome.computed), min(errors, default=None), max(errors, default=None)]
        line += [None if math.isnan(outcome.threshold) else outcome.threshold, outcome.block_rows]
        self._write([*line, f"{outcome.seconds:.6f}", outcome.reason])

    def _write(self, cells: Sequence[object]) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(cells)


def _last_run(path: Path) -> int:
    """Number of the last run in the file, 0 where there is none. Refuses a file with other columns."""
    if not path.exists() or path.stat().st_size == 0:
        return 0
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        if tuple(next(lines)) != COLUMNS:
            raise OptionError(f"csvtrace: path={str(path)!r} is a file with other columns; write the name of a new file, or of one that csvtrace wrote")
        return max((int(line[0]) for line in lines if line and line[0].isdigit()), default=0)


def csvtrace(*, path: str = "trace.csv") -> CsvTrace:
    """Observer: one line per step in a CSV file, written at once.

    Args:
        path: The file; lines are appended, and every run gets a number of its own.
    """
    if not str(path) or Path(path).is_dir():
        raise OptionError(f"csvtrace: path={path!r} is not the name of a file; write one, such as 'trace.csv'")
    return CsvTrace(Path(path))
