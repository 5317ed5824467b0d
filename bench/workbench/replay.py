"""Open-loop error of any linear predictor under any static schedule on a recorded run, from inner products
alone.

Open loop: features of full computation are taken as history, and errors do not feed back into what is
computed later.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.errors import OptionError
from foreseer.psnr import decibels, likeness_of
from foreseer.registry import PolicySpec
from foreseer.types import Site
from foreseer.workbench.forecast_errors import final_errors
from foreseer.workbench.judgements import Judgements
from foreseer.workbench.predictors import OWN, LinearWeights, Predictor, predictor_named
from foreseer.workbench.record_settings import located, site_from
from foreseer.workbench.schedules import Schedule, computed_steps, run_of, schedule_from
from foreseer.workbench.trace import Trace

__all__ = ["Replay", "Score", "gap_errors", "site_of", "with_promise"]

Array = NDArray[np.float64]
Anchors = tuple[int, ...]
Draft = tuple[Anchors, int]
"""The anchors of a forecast, newest first, and its step."""


@attrs.frozen(eq=False, kw_only=True)
class Score:
    """What one predictor did under one schedule or gate, on S samples of T steps.

    Attributes:
        predictor: As it was written; `OWN` for the policy's.
        policy: The schedule or gate, likewise.
        gate: Whether the steps were chosen by looking at features, so that samples differ.
        site: What was forecast.
        computed: ``(S, T)`` whether the step was computed.
        error: ``(S, T)`` relative error of the forecast that was used, |f - F| / |F|; 0 where the step was
            computed.
        final: ``(S,)`` predicted L2 error of the final latent, see
            `foreseer.workbench.forecast_errors.final_errors`. Empty where the trace has no sensitivities of
            this site.
        promise: ``(S,)`` the PSNR in dB that this promises where latents are images from -1 to 1, infinite
            where nothing is off. Empty likewise.
        judged: What the gate said, and what was true; None for a schedule.
        note: A sentence where something was not as asked; else empty.
    """

    predictor: str
    policy: str
    gate: bool = False
    site: Site
    computed: NDArray[np.bool_] = attrs.field(repr=False)
    error: Array = attrs.field(repr=False)
    final: Array = attrs.field(factory=lambda: np.zeros(0), repr=False)
    promise: Array = attrs.field(factory=lambda: np.zeros(0), repr=False)
    judged: Judgements | None = attrs.field(default=None, repr=False)
    note: str = ""

    @property
    def name(self) -> str:
        """Policy and predictor in one line."""
        return self.policy if self.predictor == OWN else f"{self.policy} with {self.predictor}"

    @property
    def steps(self) -> Anchors | None:
        """The computed steps; None where samples differ."""
        if (self.computed != self.computed[:1]).any():
            return None
        return tuple(int(step) for step in np.flatnonzero(self.computed[0]))

    @property
    def cost(self) -> float:
        """Computed steps, the mean over the samples."""
        return float(self.computed.sum(1).mean())

    @property
    def errors(self) -> Array:
        """``(S,)`` each sample's error: the mean over all T steps, of which computed ones have none."""
        return np.asarray(self.error.mean(1))

    def figures(self) -> dict[str, Any]:
        """Return plain data, one line of a table. What is not known is None."""
        steps, promise = self.steps, likeness_of(self.promise) if len(self.promise) else None
        return {
            "policy": self.policy,
            "predictor": self.predictor,
            "kind": "gate" if self.gate else "schedule",
            "site": str(self.site),
            "computed": self.cost,
            "error_mean": float(self.errors.mean()),
            "error_worst": float(self.errors.max()),
            "step_error_worst": float(self.error.max()),
            "final_error_mean": float(self.final.mean()) if len(self.final) else None,
            "psnr_mean": promise and promise.mean,
            "psnr_worst": promise and promise.worst,
            "rank": None if self.judged is None or math.isnan(rank := self.judged.rank()) else rank,
            "steps": None if steps is None else list(steps),
            "note": self.note,
        }


def site_of(trace: Trace, text: str) -> Site:
    """Read a site as `site_from` does. Raises `OptionError` for one that is not recorded."""
    there = ", ".join(map(str, trace.sites))
    site = located(site_from(text, advice=f"write last, first, output, residual, residual_after_first, or one of {there}"), trace.depth)
    trace.gram(site)
    return site


@attrs.frozen(eq=False)
class _Forecasts:
    """The forecasts that one predictor was asked for, each with its error. Those that wait for a step are
    scored together, at the first question for one of them.
    """

    weights: LinearWeights
    gram: Array
    waiting: defaultdict[int, set[Anchors]] = attrs.field(factory=lambda: defaultdict(set))
    known: dict[Draft, Array | None] = attrs.field(factory=dict)

    def ask(self, drafts: Iterable[Draft]) -> None:
        """Let forecasts wait."""
        for anchors, step in drafts:
            self.waiting[step].add(anchors[: self.weights.anchors])

    def error(self, anchors: Anchors, step: int) -> Array | None:
        """``(S,)`` relative errors of a step from anchors, newest first; None where it is not able."""
        anchors = anchors[: self.weights.anchors]
        if (anchors, step) not in self.known:
            new = [one for one in self.waiting.pop(step, set()) | {anchors} if (one, step) not in self.known]
            padded = np.array([one + (math.nan,) * (self.weights.anchors - len(one)) for one in new])
            squared = self.weights.squared_errors(self.gram, padded, step)
            with np.errstate(invalid="ignore", divide="ignore"):
                relative = np.where(squared > 0, np.sqrt(squared / self.gram[:, step, step, None]), 0.0)
            able = np.isfinite(squared[0])
            self.known.update({(one, step): relative[:, n] if able[n] else None for n, one in enumerate(new)})
        return self.known[anchors, step]


@attrs.frozen(eq=False)
class Replay:
    """Scores predictors under schedules on one trace. Schedules share what they forecast alike.

    Attributes:
        trace: The recording. Streams of a step do the same; their errors are pooled.
        site: What is forecast.
    """

    trace: Trace
    site: Site
    _forecasts: dict[tuple[str, Any], _Forecasts] = attrs.field(factory=dict, init=False, repr=False)
    _drafts: dict[str, list[Draft]] = attrs.field(factory=dict, init=False, repr=False)

    def scores(self, predictors: Sequence[str | PolicySpec], schedules: Sequence[str | PolicySpec]) -> list[Score]:
        """Return a score for every pair, schedule by schedule.

        Raises:
            PluginError, OptionError: A name or an option is wrong; a predictor is not linear.
        """
        pairs = _pairs([schedule_from(s) for s in schedules], [predictor_named(p) for p in predictors])
        forecasts = [self._asked(*pair) for pair in pairs]
        return [self._score(one, *pair) for one, pair in zip(forecasts, pairs, strict=True)]

    def _asked(self, schedule: Schedule, predictor: Predictor) -> _Forecasts:
        """The forecasts of a pair's predictor; those of its schedule wait among them."""
        trace, own = self.trace, predictor.spec is None
        told = schedule.name if own else schedule.warmup_steps if predictor.ramps else None
        if (key := (predictor.name, told)) not in self._forecasts:
            plugin = schedule.predictor() if own else predictor.built(schedule.warmup_steps)
            weights = LinearWeights(predictor.name, plugin, run_of(trace), self.site)
            self._forecasts[key] = _Forecasts(weights, trace.gram(self.site))
        if schedule.name not in self._drafts:
            steps = computed_steps(schedule, run_of(trace))
            before = {step: tuple(s for s in reversed(steps) if s < step) for step in range(trace.num_steps)}
            self._drafts[schedule.name] = [(before[step], step) for step in before if step not in steps]
        self._forecasts[key].ask(self._drafts[schedule.name])
        return self._forecasts[key]

    def _score(self, forecasts: _Forecasts, schedule: Schedule, predictor: Predictor) -> Score:
        trace, drafts = self.trace, self._drafts[schedule.name]
        error = np.zeros((trace.samples, trace.num_steps))

        def able(anchors: Anchors, step: int) -> bool:
            if (found := forecasts.error(anchors, step)) is None:
                return False
            error[:, step] = found
            return True

        steps = sorted(set(range(trace.num_steps)) - {step for _, step in drafts})
        if not all(able(*draft) for draft in drafts):
            steps = list(computed_steps(schedule, run_of(trace), able))
            error[:, steps] = 0.0
        computed = np.tile(np.isin(np.arange(trace.num_steps), steps), (trace.samples, 1))
        names: dict[str, Any] = {"predictor": predictor.name, "policy": schedule.name}
        return with_promise(trace, Score(**names, site=self.site, computed=computed, error=error))


def _pairs(schedules: Sequence[Schedule], predictors: Sequence[Predictor]) -> list[tuple[Schedule, Predictor]]:
    """Every schedule with every predictor; one that brings none of its own is paired with the others."""
    found = []
    for schedule in schedules:
        own = any(predictor.spec is None for predictor in predictors) and schedule.predictor() is not None
        several = [predictor for predictor in predictors if predictor.spec is not None or own]
        if not several:
            raise OptionError(f"schedule={schedule.name!r} brings no predictor of its own; name one with --predictors")
        found += [(schedule, predictor) for predictor in several]
    return found


def with_promise(trace: Trace, score: Score) -> Score:
    """Add what the errors mean for the final latent, where the trace has measured how it depends on them: an
    error of a residual is one of the place where it ends.
    """
    if trace.target is None or trace.target.end != score.site.end or not trace.sensitivity.shape[1]:
        return score
    off = score.error * trace.norms(score.site)
    final = final_errors(trace, off, score.computed)
    promise = decibels(np.square(final) / trace.final_size) if trace.final_size else np.zeros(0)
    return attrs.evolve(score, final=final, promise=promise)


def gap_errors(trace: Trace, predictor: str | PolicySpec, site: Site, *, most: int = 12) -> Array:
    """Return how far a predictor is off by the gap between its anchors, up to ``most`` steps.

    It is ``(G, T)`` relative error, mean over the samples, of step k forecast from anchors at k - g, k - 2g,
    ..., for g = 1..G; NaN where there is no anchor.

    Raises:
        PluginError, OptionError: As `Replay.scores`.
    """
    known = predictor_named(predictor)
    weights = LinearWeights(known.name, known.built(None), run_of(trace), site)
    forecasts = _Forecasts(weights, trace.gram(site))
    error = np.full((min(most, trace.num_steps - 1), trace.num_steps), math.nan)
    drafts = {(gap, step): (tuple(range(step - gap - 1, -1, -gap - 1)), step) for gap, step in np.ndindex(error.shape) if gap < step}
    forecasts.ask(drafts.values())
    for at, draft in drafts.items():
        if (found := forecasts.error(*draft)) is not None:
            error[at] = found.mean()
    return error
