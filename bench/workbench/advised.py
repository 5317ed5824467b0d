"""What `foreseer advise` measured, and what follows from it, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import attrs
import numpy as np

from foreseer.bench.summary import Gain
from foreseer.columns import Column
from foreseer.document import plain
from foreseer.psnr import counted_psnr, likeness_of
from foreseer.workbench.character import Character

__all__ = ["COLUMNS", "Advice", "Lane", "difference"]

Kind = Literal["full", "limit", "fewer", "solver", "cache", "planned", "hindsight"]
WAYS: tuple[Kind, ...] = ("fewer", "solver", "cache", "planned")
"""What may be advised, the simplest first."""


@attrs.frozen(kw_only=True)
class Lane:
    """One way of drawing the samples.

    Attributes:
        name: What tables call it.
        kind: ``"full"``: as it is run now. ``"limit"``: with many more steps. ``"fewer"``: the same scheduler
            with fewer steps. ``"solver"``: another one. ``"cache"``: a policy. ``"planned"``: one schedule
            for all, planned on these samples. ``"hindsight"``: one for each sample, planned on that sample.
        total: Steps of the run that it is compared with.
        computed: Steps that it computes, mean over the samples.
        cost: Block-rows over those of that run.
        psnr: ``(S,)`` to that run, dB; infinite where a sample is the same, NaN where it is not finite.
        to_limit: ``(S,)`` to the limit; empty where there is none.
    """

    name: str
    kind: Kind
    total: int
    computed: float
    cost: float
    psnr: tuple[float, ...] = attrs.field(repr=False)
    to_limit: tuple[float, ...] = attrs.field(default=(), repr=False)

    @property
    def mean(self) -> float:
        """Mean PSNR, each sample counted as `foreseer.psnr.counted_psnr` counts it."""
        return likeness_of(self.psnr).mean

    @property
    def limit_mean(self) -> float:
        """Mean PSNR to the limit; NaN where there is none."""
        return likeness_of(self.to_limit).mean if self.to_limit else math.nan


def difference(lane: Lane, other: Lane, *, to_limit: bool = False) -> Gain:
    """Return how much nearer a lane is than another, sample by sample; `Gain.clear` says if beyond noise."""
    ours, theirs = (counted_psnr(one.to_limit if to_limit else one.psnr) for one in (lane, other))
    return Gain.of(lane=lane.name, over=(other.name,), cost=lane.cost, ours=ours, theirs=theirs)


COLUMNS: tuple[Column[Lane], ...] = (
    Column("steps", "Steps that are computed.", lambda lane: lane.computed, lambda lane: _short(lane.computed)),
    Column("cost", "Block-rows over those of full computation.", lambda lane: lane.cost, ".2f"),
    Column("PSNR", "To what is drawn now, mean over the samples, dB.", lambda lane: lane.mean, lambda lane: _decibels(lane.psnr, "mean")),
    Column("worst", "The same of the worst sample.", lambda lane: likeness_of(lane.psnr).worst, lambda lane: _decibels(lane.psnr, "worst")),
    Column("to limit", "PSNR to many more steps, dB.", lambda lane: lane.limit_mean, lambda lane: _decibels(lane.to_limit, "mean")),
)


@attrs.frozen(eq=False, kw_only=True)
class Advice:
    """What was measured.

    Attributes:
        workload: Its name.
        num_steps: Steps that it is run with.
        samples: How many samples were drawn.
        psnr: What counts as near enough, dB in the mean.
        character: What configuration and scheduler say.
        lanes: What was drawn.
        notes: What could not be drawn, and why.
    """

    workload: str
    num_steps: int
    samples: int
    psnr: float
    character: Character
    lanes: tuple[Lane, ...]
    notes: tuple[str, ...] = ()

    @property
    def totals(self) -> list[int]:
        """The numbers of steps that were measured: how many a run has."""
        return sorted({lane.total for lane in self.lanes})

    def of(self, kind: Kind, total: int | None = None) -> list[Lane]:
        """Return the lanes of a kind; None: of any number of steps."""
        return [lane for lane in self.lanes if lane.kind == kind and total in (None, lane.total)]

    def choice(self, total: int) -> Lane | None:
        """Return the cheapest way that is near enough; None where no cheaper one is. Of those that compute as
        many steps it is the simplest: fewer steps, another solver, a cache, a planned schedule, unless a later
        one is nearer beyond noise.
        """
        near: dict[int, Lane] = {}
        for kind in WAYS:
            for lane in self.of(kind, total):
                count = round(lane.computed)
                if lane.cost < 1 and lane.mean >= self.psnr and (count not in near or _nearer(lane, near[count])):
                    near[count] = lane
        return near[min(near)] if near else None

    def sentences(self) -> list[str]:
        """Say what is known, what was measured, and last what to do."""
        said = self.character.sentences(self.num_steps)
        for total in self.totals:
            said += filter(None, (self._cache(total), self._solver(total), self._bound(total)))
        return [*said, self._limit(), *self.notes, self.recommendation()]

    def recommendation(self) -> str:
        """Say what to do."""
        if self.character.stochastic:
            return "Compare distributions, not samples: by PSNR nothing can be advised here."
        parts = [self._what_to_do(total, alone=len(self.totals) == 1) for total in self.totals]
        return f"On {self.samples} samples, asking for {self.psnr:g} dB in the mean: {'; '.join(parts)}."

    def _what_to_do(self, total: int, *, alone: bool) -> str:
        head = "" if alone else f"at {total} steps "
        chosen = self.choice(total)
        if chosen is None:
            best = max((lane for kind in WAYS for lane in self.of(kind, total)), key=lambda lane: lane.mean, default=None)
            why = "" if best is None else f" (the nearest, {best.name}, reaches {best.mean:.1f} dB)"
            return f"{head}leave it{why}"
        count = _short(chosen.computed)
        ways = {"fewer": f"run {count} steps", "solver": f"run {chosen.name}", "cache": f"use {chosen.name}"}
        do = ways.get(chosen.kind, f"plan a schedule of {count} steps (foreseer record, foreseer plan --budget {count})")
        reached = f"{chosen.mean:.1f} dB, the worst {likeness_of(chosen.psnr).worst:.1f} dB"
        return f"{head}{do}: {reached}, at {chosen.cost:.2f} of the cost"

    def _cache(self, total: int) -> str:
        """Say what the cache reaches, and whether that is more than fewer steps do."""
        said = []
        for lane in self.of("cache", total):
            fewer = next((other for other in self.of("fewer", total) if other.computed == round(lane.computed)), None)
            if fewer is not None:
                over = difference(lane, fewer)
                said.append(f"{lane.name} reaches {lane.mean:.1f} dB, {_apart(over)} than as many plain steps{_noise(over)}")
        return f"Of {total} steps: {'; '.join(said)}." if said else ""

    def _solver(self, total: int) -> str:
        """Say which other solvers differ from as many steps of the pipeline's own."""
        own = {lane.computed: lane for lane in self.of("fewer", total)}
        found = [(lane, difference(lane, own[lane.computed])) for lane in self.of("solver", total) if lane.computed in own]
        said = [f"{lane.name} is {_apart(over)}" for lane, over in found if over.clear]
        if not said and found:
            low, high = (pick(over.mean for _, over in found) for pick in (min, max))
            said = [f"other solvers differ by {low:+.1f} to {high:+.1f} dB, within the noise of {self.samples} samples"]
        return f"Against as many steps of its own scheduler, {'; '.join(said)}." if said else ""

    def _bound(self, total: int) -> str:
        """Say what a cache reaches at most, as far as was found out."""
        said = []
        for lane in self.of("hindsight", total):
            alike = [other for other in self.lanes if other.total == total and round(other.computed) == round(lane.computed)]
            most = max((one for one in alike if one.kind in ("cache", "planned", "hindsight")), key=lambda one: one.mean)
            over = next((difference(most, one) for one in alike if one.kind == "fewer"), None)
            plain = "" if over is None else f", {_apart(over)} than as many plain ones{_noise(over)}"
            said.append(f"{most.mean:.1f} dB with {_short(lane.computed)} steps{plain}")
        words = "A cache reaches at most, with schedules planned on these very samples"
        return f"{words}: {'; '.join(said)}." if said else ""

    def _limit(self) -> str:
        limit = next(iter(self.of("limit")), None)
        if limit is None:
            return ""
        full = self.of("full", self.num_steps)[0]
        now = f"the {self.num_steps} steps that are run now are {full.limit_mean:.1f} dB from there"
        said = f"With {limit.name} the samples come to where the solver is going; {now}"
        # another solver's picture is not today's, and may be as right
        as_near = [lane for lane in self.of("solver", self.num_steps) if (over := difference(lane, full, to_limit=True)).mean > 0 or not over.clear]
        best = min(as_near, key=lambda lane: lane.cost, default=None)
        if best is None:
            return f"{said}, and no cheaper way that was tried is as near."
        return f"{said}. {best.name} is {best.limit_mean:.1f} dB from there, not to be told from it on {self.samples} samples, and another picture than now."

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        found: dict[str, Any] = plain(self)
        chosen = {str(total): None if (lane := self.choice(total)) is None else lane.name for total in self.totals}
        return {**found, "chosen": chosen, "sentences": [said for said in self.sentences() if said]}

    def __str__(self) -> str:
        return "\n".join(filter(None, self.sentences()))


def _apart(over: Gain) -> str:
    return f"{abs(over.mean):.1f} dB {'nearer' if over.mean > 0 else 'further off'}"


def _noise(over: Gain) -> str:
    return "" if over.clear else f" (within the noise of {over.samples} samples)"


def _nearer(lane: Lane, other: Lane) -> bool:
    over = difference(lane, other)
    return over.clear and over.mean > 0


def _decibels(values: Sequence[float], which: str) -> str:
    if not values:
        return ""
    return "same" if np.isposinf(values).all() else f"{getattr(likeness_of(values), which):.1f}"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
