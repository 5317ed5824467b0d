"""Who watches a run: the account that becomes its report, and the observers, who are told and decide nothing."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from typing import Any

from torch import Tensor

from foreseer.backbone import Ask, Pass
from foreseer.contract import lacking
from foreseer.errors import AnswerError, in_words
from foreseer.outcome import Kind, Outcome
from foreseer.plugins import Implementation, observer_hooks
from foreseer.report import Report
from foreseer.trial import Done
from foreseer.types import PLACES, Plan, Run, Site, Step

__all__ = ["Recorder"]

FEW_STEPS = 8
"""Runs of at most so many steps are named as such: distilled models change as much in one step as others in
ten.
"""

log = logging.getLogger("foreseer")


class Recorder:
    """Collects a run's report and tells the observers. An observer that raises is dropped for the rest of the
    run.
    """

    def __init__(self, policy: str, run: Run, observers: Sequence[object], *, promise: str = "") -> None:
        self.policy, self.promise = policy, promise
        self.run = run
        self._listeners: dict[str, list[Implementation]] = observer_hooks(observers)
        self._outcomes: list[Outcome] = []
        self._warnings: list[str] = []
        self._held: dict[Site, int] = {}
        self._finished = False
        self.check_block_rows = 0
        self._begun = False
        self._shown = False

    def _begin(self) -> None:
        """Tell that the run has begun: with its first finished step, since a host may find out in it that the
        session must begin anew.
        """
        if not self._begun:
            self._begun = True
            self._tell("on_run_start", run=self.run)

    def wanted(self, run: Run) -> frozenset[Site]:
        """Ask the observers which of the run's features they want to see. What the model does not have is
        left out, and said.
        """
        asked = dict.fromkeys(site for answer in self._ask("features_wanted", _sites, run=run) for site in answer)
        self._shown = bool(asked) and bool(self._listeners["on_features"])
        missing = [site for site in asked if site in PLACES or lacking(site, run)]
        if missing:
            self.warn(f"observers asked for features that this model does not have: {', '.join(map(str, missing))}")
        return frozenset(asked) - frozenset(missing)

    @property
    def begun(self) -> bool:
        """Whether a step was finished."""
        return bool(self._outcomes)

    @property
    def shadows(self) -> bool:
        """Whether an observer may ask for a shadow."""
        return bool(self._listeners["shadow"])

    def shadow(self, step: Step, done: Done, record: Collection[Site]) -> Generator[Ask, Pass, tuple[dict[str, Any] | None, float]]:
        """Have a step with forecasts computed as well, if an observer wants to compare. Returns what to show
        it, and the seconds that it took.
        """
        if done.trial is None or True not in self._ask("shadow", _yes, run=self.run, step=step):
            return None, 0.0
        started = time.perf_counter()
        drafts = {site: done.trial.drafts[site] for site in done.plan.forecast}
        output, features = done.output, done.features
        if not all(done.computed):
            real = yield Ask(record=record)
            self.check_block_rows += real.block_rows + real.check_block_rows
            output, features = real.output, real.features
        shown = {"drafts": drafts, "features": features, "output": done.output, "computed": output}
        return shown, time.perf_counter() - started

    def record(self, outcome: Outcome, features: Mapping[Site, Tensor], shadow: Mapping[str, Any] | None) -> None:
        """Add a step, and show the observers what was computed in it.

        Args:
            outcome: How it ended.
            features: ``(n, ...)`` of the n computed rows.
            shadow: What `shadow` returned.
        """
        self._begin()
        told: dict[str, Any] = {"run": self.run, "step": outcome.step}
        if self._shown and (rows := tuple(row for row, computed in enumerate(outcome.computed) if computed)):
            self._tell("on_features", **told, rows=rows, features=features)
        if shadow is not None:
            self._tell("on_shadow", **told, outcome=outcome, **shadow)
        self._outcomes.append(outcome)
        self._tell("on_step", **told, outcome=outcome)

    def held(self, bytes_held: Mapping[Site, int]) -> None:
        """Note what the bank holds now."""
        for site, held in bytes_held.items():
            if held > self._held.get(site, 0):
                self._held[site] = held

    def warn(self, sentence: str) -> None:
        """Add a warning, once; an empty one is none."""
        if sentence and sentence not in self._warnings:
            self._warnings.append(sentence)

    def report(self) -> Report:
        """Return the account so far."""
        warnings = tuple(self._warnings) + (_remarks(self._outcomes, self.run) if self._finished else ())
        return Report(self.policy, self.run, tuple(self._outcomes), dict(self._held), warnings, self._finished, self.check_block_rows, self.promise)

    def finish(self) -> Report:
        """Close the account and tell the observers, once."""
        if not self._finished:
            self._finished = True
            self._begin()
            self._tell("on_run_end", report=self.report())
        return self.report()

    def _ask(self, hook: str, accept: Callable[[Any], Any], **values: Any) -> list[Any]:
        """Ask the observers. Returns the answers of those that gave one, each passed through ``accept``."""
        return [answer for answer in self._tell(hook, accept, **values) if answer is not None]

    def _tell(self, hook: str, accept: Callable[[Any], Any] | None = None, **values: Any) -> list[Any]:
        answers = []
        for listener in tuple(self._listeners[hook]):
            try:
                answer = listener(values)
                answers.append(answer if accept is None or answer is None else accept(answer))
            except Exception as error:
                log.exception("observer %s failed in %s and was dropped", listener.owner, hook)
                self.warn(f"observer {listener.owner} was dropped: {hook} raised {in_words(error)}")
                for others in self._listeners.values():
                    others[:] = [other for other in others if other.plugin is not listener.plugin]
        return answers


def _sites(answer: Any) -> tuple[Site, ...]:
    sites = tuple(answer)
    if wrong := [site for site in sites if not isinstance(site, Site)]:
        raise AnswerError(f"{wrong[0]!r} is no site; give foreseer.Site, of Run.sites")
    return sites


def _yes(answer: Any) -> bool:
    return bool(answer)


def _remarks(outcomes: Sequence[Outcome], run: Run) -> tuple[str, ...]:
    """Say plainly that a finished run gained nothing, and why; that its steps were few; or that it ended
    before anybody could know.
    """
    count, forecast = len(outcomes), sum(not o.full for o in outcomes)
    steps = count if run.num_steps is None else max(count, run.num_steps + run.start)
    said = []
    if forecast and steps <= FEW_STEPS:
        said.append(f"{forecast} of {count} steps were forecast, and {steps} steps are few: forecasting needs steps that resemble one another")
    if forecast and run.num_steps is not None and outcomes[-1].step.index < run.num_steps - 1 and not outcomes[-1].full:
        last = outcomes[-1].step.index
        said.append(f"of {run.num_steps} declared steps the last that was run is step {last}, which was forecast: that it was the last could not be known")
    if forecast or all(o.kind is Kind.COMPUTED and o.plan == Plan() for o in outcomes):  # policy "none" computes everything: that is what it is for
        return tuple(said)
    reasons = [o.reason for o in outcomes]
    few = f"; {count} steps are few: forecasting needs steps that resemble one another" if count <= FEW_STEPS else ""
    common = max(set(reasons), key=reasons.count)
    judged = [o for o in outcomes if o.accept is not None]
    if judged:
        low = min((e for o in judged for e in o.error if math.isfinite(e)), default=math.nan)
        high = max(o.threshold for o in judged)
        return (f"nothing was accelerated: all {len(judged)} drafts were rejected; the smallest error was {low:.3g}, the largest threshold {high:.3g}{few}",)
    return (f"nothing was accelerated: all {count} steps were computed ({common}{few})",)
