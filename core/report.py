"""What happened in a run: kept while it is under way, and complete after an exception."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.plugins import Implementation, observer_hooks
from foreseer.types import Outcome, Run, Site, Step

__all__ = ["Recorder", "Report"]

FEW_STEPS = 8
"""Runs of at most so many steps are named as such where nothing was gained: distilled models change as much in one step as others in ten."""

log = logging.getLogger("foreseer")


@attrs.frozen(eq=False)
class Report:
    """The account of one run, T steps so far, R rows.

    Attributes:
        policy: The policy and its options, as one would write them on the command line.
        run: The shape of the run.
        outcomes: ``(T,)`` how each step ended.
        bytes_held: For each recorded site, the most bytes that its features occupied.
        warnings: What the user should know, in sentences.
        finished: Whether the run ended; False while it is under way.
        check_block_rows: Block-rows that the host spent on checking itself, on top of ``block_rows``.
    """

    policy: str
    run: Run
    outcomes: tuple[Outcome, ...] = attrs.field(repr=False)
    bytes_held: Mapping[Site, int] = attrs.field(repr=False)
    warnings: tuple[str, ...]
    finished: bool
    check_block_rows: int = 0

    @property
    def full_steps(self) -> list[int]:
        """Indices of the steps in which every row was computed."""
        return [o.step.index for o in self.outcomes if o.full]

    @property
    def computed(self) -> NDArray[np.bool_]:
        """``(T, R)`` True where the row was computed."""
        return np.array([o.computed for o in self.outcomes], dtype=bool).reshape(-1, self.run.rows)

    @property
    def error(self) -> NDArray[np.float32]:
        """``(T, R)`` the gate's error, NaN where nothing was judged."""
        return np.array([o.error for o in self.outcomes], dtype=np.float32).reshape(-1, self.run.rows)

    @property
    def judged(self) -> NDArray[np.bool_]:
        """``(T,)`` whether a gate was asked."""
        return np.array([o.accept is not None for o in self.outcomes], dtype=bool)

    @property
    def rejected(self) -> NDArray[np.bool_]:
        """``(T, R)`` True where a gate refused the draft and the row was computed for that reason."""
        rows = [tuple(not a for a in o.accept) if o.accept is not None else (False,) * self.run.rows for o in self.outcomes]
        return np.array(rows, dtype=bool).reshape(-1, self.run.rows)

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """``(T,)`` what the errors were held against, NaN where nothing was judged."""
        return np.array([o.threshold for o in self.outcomes], dtype=np.float64)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """``(T,)`` host seconds of each step. On an accelerator a step may still be running when its time is taken."""
        return np.array([o.seconds for o in self.outcomes], dtype=np.float64)

    @property
    def reasons(self) -> list[str]:
        """Why each step went as it did."""
        return [o.reason for o in self.outcomes]

    @property
    def block_rows(self) -> int:
        """Blocks evaluated x rows, over the run so far."""
        return sum(o.block_rows for o in self.outcomes)

    @property
    def block_rows_ratio(self) -> float:
        """Block-rows over those of computing everything; NaN before the first step."""
        full = len(self.outcomes) * self.run.depth * self.run.rows
        return self.block_rows / full if full else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: what `to_json` writes. Numbers that are not finite become None."""
        return {
            "policy": self.policy,
            "finished": self.finished,
            "depth": self.run.depth,
            "rows": self.run.rows,
            "groups": list(self.run.groups),
            "num_steps": self.run.num_steps,
            "stream": self.run.stream,
            "full_steps": self.full_steps,
            "block_rows": self.block_rows,
            "block_rows_ratio": _finite(self.block_rows_ratio),
            "check_block_rows": self.check_block_rows,
            "bytes_held": {str(site): held for site, held in self.bytes_held.items()},
            "warnings": list(self.warnings),
            "steps": [
                {
                    "index": o.step.index,
                    "timestep": o.step.timestep,
                    "computed": list(o.computed),
                    "error": [_finite(e) for e in o.error],
                    "accept": None if o.accept is None else list(o.accept),
                    "threshold": _finite(o.threshold),
                    "block_rows": o.block_rows,
                    "seconds": o.seconds,
                    "reason": o.reason,
                }
                for o in self.outcomes
            ],
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the report as JSON, and write it to ``path`` if one is given."""
        text = json.dumps(self.to_dict(), indent=1)
        if path is not None:
            Path(path).write_text(text + "\n")
        return text

    def plot(self, path: str | Path) -> Path:
        """Draw the timeline: steps across, rows down, errors against the threshold.

        Args:
            path: Where to write; the ending chooses the format (png, pdf, svg).

        Raises:
            ImportError: Without matplotlib (``pip install 'foreseer[plots]'``).
        """
        from foreseer.timeline import draw

        return draw(self, Path(path))

    def __str__(self) -> str:
        from foreseer.tables import report_text

        return report_text(self)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Recorder:
    """Collects a run's report and tells the observers. An observer that raises is dropped for the rest of the run."""

    def __init__(self, policy: str, run: Run, observers: Sequence[object]) -> None:
        self.policy = policy
        self._run = run
        self._listeners: dict[str, list[Implementation]] = observer_hooks(observers)
        self._outcomes: list[Outcome] = []
        self._warnings: list[str] = []
        self._held: dict[Site, int] = {}
        self._finished = False
        self.check_block_rows = 0
        self._begun = False

    def _begin(self) -> None:
        """Tell that the run has begun: with its first finished step, since a host may find out in it that the session must begin anew."""
        if not self._begun:
            self._begun = True
            self._tell("on_run_start", run=self._run)

    def record(self, step: Step, outcome: Outcome) -> None:
        """Add a step."""
        self._begin()
        self._outcomes.append(outcome)
        self._tell("on_step", run=self._run, step=step, outcome=outcome)

    def held(self, bytes_held: Mapping[Site, int]) -> None:
        """Note what the bank holds now."""
        for site, held in bytes_held.items():
            if held > self._held.get(site, 0):
                self._held[site] = held

    def warn(self, sentence: str) -> None:
        """Add a warning, once."""
        if sentence not in self._warnings:
            self._warnings.append(sentence)

    def report(self) -> Report:
        """Return the account so far."""
        warnings = tuple(self._warnings) + _nothing_gained(self._outcomes, self._run, self._finished)
        return Report(self.policy, self._run, tuple(self._outcomes), dict(self._held), warnings, self._finished, self.check_block_rows)

    def finish(self) -> Report:
        """Close the account and tell the observers, once."""
        if not self._finished:
            self._finished = True
            self._begin()
            self._tell("on_run_end", report=self.report())
        return self.report()

    def listens(self, hook: str) -> bool:
        """Whether any observer implements the hook."""
        return bool(self._listeners[hook])

    def ask(self, hook: str, **values: Any) -> list[Any]:
        """Ask the observers. Returns the answers of those that gave one."""
        return [answer for answer in self._tell(hook, **values) if answer is not None]

    def see(self, hook: str, **values: Any) -> None:
        """Show the observers something of the step that is about to be recorded."""
        self._begin()
        self._tell(hook, **values)

    def _tell(self, hook: str, **values: Any) -> list[Any]:
        answers = []
        for listener in tuple(self._listeners[hook]):
            try:
                answers.append(listener(values))
            except Exception as error:
                log.exception("observer %s failed in %s and was dropped", listener.owner, hook)
                self.warn(f"observer {listener.owner} was dropped: {hook} raised {type(error).__name__}: {error}")
                for others in self._listeners.values():
                    others[:] = [other for other in others if other.owner != listener.owner]
        return answers


def _nothing_gained(outcomes: Sequence[Outcome], run: Run, finished: bool) -> tuple[str, ...]:
    """Say plainly that a finished run gained nothing, and why."""
    reasons = [o.reason for o in outcomes]
    planned_nothing = all(reason == "computed" for reason in reasons)  # policy "none": that is what it is for
    if not finished or planned_nothing or any(not all(o.computed) for o in outcomes):
        return ()
    few = f"; {len(outcomes)} steps are few: forecasting needs steps that resemble one another" if len(outcomes) <= FEW_STEPS else ""
    common = max(set(reasons), key=reasons.count)
    judged = [o for o in outcomes if o.accept is not None]
    if judged:
        low = min((e for o in judged for e in o.error if math.isfinite(e)), default=math.nan)
        high = max(o.threshold for o in judged)
        return (f"nothing was accelerated: all {len(judged)} drafts were rejected; the smallest error was {low:.3g}, the largest threshold {high:.3g}{few}",)
    return (f"nothing was accelerated: all {len(outcomes)} steps were computed ({common}{few})",)
