"""Observer `ledger`: what a gate said of each draft beside how wrong the draft was, found by computing the
step as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves  # diffusers registers its output classes there

from foreseer.document import Document, plain, structured
from foreseer.errors import OptionError
from foreseer.files import append, make_folder, refuse_unwritable
from foreseer.hookspecs import hookimpl
from foreseer.metrics import metric as metric_named
from foreseer.options import at_least, checked
from foreseer.outcome import Outcome
from foreseer.report import Report
from foreseer.types import OUTPUT, Run, Site, Step
from foreseer.workbench.judgements import Entry, Judgements, judgements

__all__ = ["FILE", "Ledger", "ledger", "read_ledger"]

FILE = Document(
    format="foreseer ledger 1",
    made_by="the observer `ledger`",
    again="run again with the observer `ledger`",
)
"""The first line of the file, which also says which metric is the truth. All lines are JSON."""

MetricName = Literal["relative_l2", "relative_l1"]


class Ledger:
    """Observer: computes chosen forecast steps as well, and notes gate and truth side by side.

    A step costs a full computation more. It is counted apart (``Report.check_block_rows``), and nothing of it
    enters the run.

    Args:
        every: Look at steps whose index is a multiple of this, >= 1.
        steps: Look at these steps instead; None for those of ``every``.
        path: A file to which each entry is appended at once, as a line of JSON; a file that exists is
            continued. None keeps the entries in memory only.
        metric: The error that is the truth: ``"relative_l2"`` or ``"relative_l1"``.

    Raises:
        OptionError: An option is out of range, or the file is none that this ledger can continue.
    """

    def __init__(self, *, every: int = 1, steps: Sequence[int] | None = None, path: Path | None = None, metric: MetricName = "relative_l2") -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise OptionError(f"ledger: every={every!r} is out of range; write a whole number >= 1")
        if steps is not None and (not steps or any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in steps)):
            raise OptionError(f"ledger: steps={steps!r} is out of range; write whole numbers >= 0, such as 5,10,15")
        if metric not in ("relative_l2", "relative_l1"):
            raise OptionError(f"ledger: metric={metric!r} is unknown; write 'relative_l2' or 'relative_l1'")
        self.path, self.metric = path, metric
        self._every, self._steps, self._metric = every, None if steps is None else frozenset(steps), metric_named(metric)
        self._numbers: WeakKeyDictionary[Run, int] = WeakKeyDictionary()
        self._lines: list[dict[str, Any]] = []
        self._last = 0 if path is None else _continue(path, metric)
        self._begun = self._last > 0

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What this object noted, oldest first. What an older file held is read with `read_ledger`."""
        return _entries(self._lines)

    def judgements(self, *, tolerance: float | None = None, at: Literal["site", "output"] = "site") -> Judgements:
        """Return what was noted, sample by sample: see `foreseer.workbench.judgements.judgements`."""
        return judgements(self.entries, at=at, tolerance=tolerance)

    @hookimpl
    def shadow(self, step: Step) -> bool:
        """Ask for the chosen steps."""
        return step.index % self._every == 0 if self._steps is None else step.index in self._steps

    @hookimpl
    def on_shadow(
        self, run: Run, step: Step, outcome: Outcome, drafts: Mapping[Site, Tensor], features: Mapping[Site, Tensor], output: Any, computed: Any
    ) -> None:
        """Note a step."""
        if run not in self._numbers:
            self._last += 1
            self._numbers[run] = self._last
            facts = {name: getattr(run, name) for name in ("stream", "groups", "num_steps", "model")}
            self._write({"run": self._last, **facts})
        site = max(drafts, key=lambda s: math.inf if s.end == OUTPUT else run.sites.index(s.end))
        site_error = self._metric(features[site], drafts[site], groups=run.groups).tolist()
        used, full = _rows(output, run.rows), _rows(computed, run.rows)
        output_error = [math.nan] * run.rows
        if used is not None and full is not None and used.shape == full.shape:
            found = self._metric(full, used, groups=run.groups).tolist()
            output_error = [math.nan if real else error for real, error in zip(outcome.computed, found, strict=True)]
        noted = {"run": self._numbers[run], "step": step.index, "site": str(site), "site_error": site_error}
        noted |= {name: getattr(outcome, name) for name in ("error", "threshold", "accept", "computed")}
        self._write({**noted, "output_error": output_error})

    @hookimpl
    def on_run_end(self, report: Report) -> None:
        """Note whose run it was."""
        if report.run in self._numbers:
            self._write({"run": self._numbers[report.run], "policy": report.policy})

    def _write(self, noted: dict[str, Any]) -> None:
        line = plain(noted)
        self._lines.append(line)
        if self.path is None:
            return
        if not self._begun:
            make_folder(self.path.parent)
        text = "" if self._begun else json.dumps({"format": FILE.format, "metric": self.metric}) + "\n"
        append(self.path, text + json.dumps(line) + "\n")
        self._begun = True


@checked
def ledger(
    *,
    path: str = "ledger.json",
    every: Annotated[int, at_least(1)] = 1,
    steps: tuple[int, ...] | int | None = None,
    metric: MetricName = "relative_l2",
) -> Ledger:
    """Observer: computes forecast steps as well, and notes the gate's errors and answers beside the true
    errors. `foreseer ledger` reads the file.

    Args:
        path: The file; lines are appended, and every run gets a number of its own.
        every: Look at steps whose index is a multiple of this.
        steps: Look at these steps instead, such as ``steps=5,10,15``.
        metric: The error that is the truth: ``"relative_l2"`` is ||d|| / ||h||, ``"relative_l1"`` is sum|d| /
            sum|h|.
    """
    if not str(path) or Path(path).is_dir():
        raise OptionError(f"ledger: path={path!r} is not the name of a file; write one, such as 'ledger.json'")
    return Ledger(every=every, steps=(steps,) if isinstance(steps, int) else steps, path=Path(path), metric=metric)


def read_ledger(path: Path) -> tuple[tuple[Entry, ...], str]:
    """Return the entries of a ledger's file, finished or not, oldest first, and the name of the metric that is
    the truth. A last line that was cut off is left out.

    Raises:
        OptionError: It cannot be read, or is no ledger.
    """
    lines, _ = _lines_of(path)
    with FILE.content(path):
        return _entries(lines[1:]), str(lines[0]["metric"])


def _lines_of(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The file's lines, and how many of its bytes are whole lines."""
    with FILE.opened(path):
        content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    lines = [FILE.parsed(path, line) for line in whole.splitlines()] or [{}]
    FILE.check_format(path, lines[0].get("format", "nothing"))
    with FILE.content(path):
        lines[0]["metric"]
    return lines, len(whole)


def _continue(path: Path, metric: str) -> int:
    """Number of the last run in a file that is to be continued, 0 where there is none."""
    refuse_unwritable(path)
    if not path.exists() or path.stat().st_size == 0:
        return 0
    lines, whole = _lines_of(path)
    if lines[0]["metric"] != metric:
        raise OptionError(f"ledger: {str(path)!r} holds errors in {lines[0]['metric']}, not {metric}; write metric={lines[0]['metric']} or another path")
    with path.open("r+b") as file:
        file.truncate(whole)
    return max((int(line["run"]) for line in lines[1:]), default=0)


def _entries(lines: Sequence[Mapping[str, Any]]) -> tuple[Entry, ...]:
    runs: dict[int, dict[str, Any]] = {}
    for line in lines:
        if "step" not in line:
            runs.setdefault(line["run"], {"policy": ""}).update(line)
    return tuple(structured(Entry, {**runs[line["run"]], **line}) for line in lines if "step" in line)


def _rows(output: Any, rows: int) -> Tensor | None:
    """A host's output as one tensor with the rows in front; None where it has no such form."""
    leaves = [torch.tensor(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in tree_leaves(output)]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim]
    if len(tensors) == rows > 1 and len({tensor.shape for tensor in tensors}) == 1 and isinstance(_inner(output), list):
        return torch.stack(tensors)  # one tensor for each row (Z-Image)
    found = next((tensor for tensor in tensors if len(tensor) and len(tensor) % rows == 0), None)
    return None if found is None else found.reshape(rows, -1)


def _inner(output: Any) -> Any:
    """What a tuple or an output class of one entry holds."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    return _inner(output[0]) if isinstance(output, tuple) and len(output) == 1 else output
