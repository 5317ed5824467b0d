"""Policy `auto`: the first runs are computed in full and recorded, later ones follow the plan that they give."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import Annotated

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.bench.cache_folder import cache_folder
from foreseer.errors import FileError, OptionError
from foreseer.files import refuse_unwritable_folder
from foreseer.hookspecs import hookimpl
from foreseer.options import Range, at_least, checked
from foreseer.outcome import Outcome
from foreseer.plugins import Part
from foreseer.registry import policy
from foreseer.schedule_plan import SchedulePlan, Target
from foreseer.types import OUTPUT, Drafts, History, Needs, Plan, Run, Site, Step
from foreseer.workbench.few import psnr_between
from foreseer.workbench.kept import Kept, Planned

__all__ = ["Auto", "auto"]

FEWEST_STEPS, MOST_STEPS = 4, 100
"""Fewer leave nothing to forecast from; of more, planning takes too long (1 s for 100, 16 for 200)."""

log = logging.getLogger("foreseer")


@attrs.frozen(kw_only=True)
class Wanted:
    """How many steps to compute: a number of them, or what a speed-up by steps or a predicted PSNR asks for."""

    steps: int | None = None
    speedup: float | None = None
    psnr: float | None = None

    def __str__(self) -> str:
        return f"speedup={self.speedup:g}" if self.speedup else f"target_psnr={self.psnr:g}" if self.psnr else f"steps={self.steps}"

    def of(self, plan: SchedulePlan) -> int:
        """Return which of a plan's schedules is wanted; all steps where none reaches the PSNR."""
        if self.psnr is not None:
            return min((count for count, budget in plan.budgets.items() if psnr_between(budget)[0] >= self.psnr), default=plan.num_steps)
        count = self.steps if self.steps is not None else math.floor(plan.num_steps / (self.speedup or 1.0) + 1e-9)
        return min(max(count, min(plan.budgets), 2), plan.num_steps)


@attrs.define(eq=False, kw_only=True)
class Auto:
    """Schedule and predictor: record whole runs while there are too few, then follow the plan that they give.

    What outlives a run lies in the folder, and nothing here: see `foreseer.workbench.kept.Kept`.

    Attributes:
        wanted: How many steps to compute.
        samples: How many samples to plan from.
        target: What is forecast.
        cache: The folder.
    """

    wanted: Wanted
    samples: int
    target: Target
    cache: Path
    _run: Run = attrs.field(init=False, repr=False)
    _parts: tuple[Part, ...] = attrs.field(default=(), init=False, repr=False)
    _kept: Kept | None = attrs.field(default=None, init=False, repr=False)
    _count: int = attrs.field(default=0, init=False, repr=False)

    @property
    def max_draft_steps(self) -> int | None:
        """As the followed policy declares; None while a run is recorded."""
        declared = [most for part in self._parts if (most := getattr(part.plugin, "max_draft_steps", None)) is not None]
        return min(declared, default=None)

    @property
    def gives_way(self) -> bool:
        """What is recorded is for later runs: where there is no room for it, the run is computed."""
        return self._kept is not None

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Follow a plan where there is one, else record."""
        self._run = run
        if run.num_steps is None:
            raise OptionError("auto must know how many steps the run has: give the run timesteps= or num_steps=")
        if why := _unsuited(run):
            return Needs(note=f"auto: {why}; every step is computed")
        kept = Kept.of(run, self.cache)
        found = kept.plan(self.samples)
        return self._record(run, kept, found) if found.plan is None else self._follow(run, found.plan, found.notes)

    def _record(self, run: Run, kept: Kept, found: Planned) -> Needs:
        known = f"auto: {found.samples} of {self.samples} samples were recorded before this call, which is computed in full"
        try:
            refuse_unwritable_folder(kept.folder)
        except FileError as error:
            return Needs(note=(*found.notes, f"{known} and cannot be recorded: {error}; write cache=FOLDER"))
        if _several_processes():
            return Needs(note=(*found.notes, f"{known} and not recorded: several processes would not agree; record in one, they share its folder"))
        self._kept = kept
        assert run.num_steps is not None
        return Needs((OUTPUT,), run.num_steps, (*found.notes, f"{known} and recorded"), products=True)

    def _follow(self, run: Run, plan: SchedulePlan, notes: tuple[str, ...]) -> Needs:
        assert run.num_steps is not None
        count = self.wanted.of(plan)
        if count >= run.num_steps:
            return Needs(note=(*notes, f"auto: {self.wanted} takes all {run.num_steps} steps; every step is computed"))
        budget = plan.budget(count)
        steps = "+".join(map(str, budget.steps))
        spec = policy("planned", schedule=f"{steps}/{run.num_steps}", predictor=plan.predictor, target=self.target)
        self._parts = tuple(Part(plugin) for plugin in spec())
        needs = Needs.together([part.setup(attrs.evolve(run, start=0)) for part in self._parts])
        low, high = psnr_between(budget)
        note = (
            f"auto: planned from {plan.samples} samples: {count} of {run.num_steps} steps, {steps}; "
            f"predicted {low:.0f} to {high:.0f} dB to full computation, which is no guarantee"
        )
        return attrs.evolve(needs, note=(*notes, note, *needs.notes))

    @hookimpl
    def before_step(self, step: Step) -> Plan | None:
        """As planned; None while a run is recorded."""
        return next((part.before_step(step) for part in self._parts if part.implements("before_step")), None)

    @hookimpl
    def predict_features(self, step: Step, sites: tuple[Site, ...], history: History) -> Drafts | None:
        """As the followed policy's predictor."""
        return next((part.predict_features(step, sites, history) for part in self._parts if part.implements("predict_features")), None)

    @hookimpl
    def commit(self, step: Step, outcome: Outcome) -> None:
        """Tell the followed policy; behind the last step of a run that was recorded whole, keep it."""
        for part in self._parts:
            part.commit(step, outcome)
        if self._kept is None:
            return
        if step.index != self._count or not outcome.full:
            self._kept = None
            return
        self._count += 1
        if self._count == self._run.num_steps and (table := outcome.products.get(OUTPUT)) is not None:
            grams = _of_samples(table, self._run.groups)
            try:
                if np.isfinite(grams).all():
                    self._kept.keep(self._run.stream, grams)
            except FileError as error:  # the samples are whole: nothing of theirs is lost
                log.warning("auto: this run was not recorded: %s", error)


def _of_samples(table: NDArray[np.float64], groups: tuple[int, ...]) -> NDArray[np.float64]:
    """``(S, T, T)``, oldest first, from ``(R, T, T)``, newest first: summed over the rows of each sample."""
    rows = [[row for row, other in enumerate(groups) if other == group] for group in dict.fromkeys(groups)]
    return np.stack([table[members].sum(0) for members in rows])[:, ::-1, ::-1]


def _unsuited(run: Run) -> str:
    """Say why runs like this one are not planned; empty where they can be."""
    assert run.num_steps is not None
    if not run.model:
        return "this host does not say which model it is (Run.model), so that nothing could be kept for it"
    if not FEWEST_STEPS <= run.num_steps <= MOST_STEPS:
        return f"runs of {FEWEST_STEPS} to {MOST_STEPS} steps are planned, and this has {run.num_steps}; write agreement:steps=N"
    if len({run.groups.count(group) for group in run.groups}) > 1:
        return "samples of this run have different numbers of rows"
    return ""


def _several_processes() -> bool:
    """Whether processes work together here: what each reads from the folder while others write could differ."""
    from torch import distributed

    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


@checked
def auto(
    *,
    speedup: Annotated[float | None, Range(float, 1.0, open_low=True)] = None,
    steps: Annotated[int | None, at_least(2)] = None,
    target_psnr: Annotated[float | None, Range(float, 0.0, open_low=True)] = None,
    samples: Annotated[int, at_least(1)] = 4,
    target: Target = "residual",
    cache: str | os.PathLike[str] | None = None,
) -> Auto:
    """Compute and record the first samples, plan from them, and follow the plan from then on; keeps it in a
    folder.

    The first ``samples`` samples are computed in full, exactly as without a policy. What their runs put out is
    recorded, as inner products. Then the best schedule for this model, scheduler, number of steps, shape and
    dtype of the latent is planned, once, and every later run follows it, in this process and in others.
    Other runs (another number of steps, another size) are recorded and planned by themselves.

    Args:
        speedup: Compute so many times fewer steps. None, where the next two are None too, means 3.
        steps: Computed steps, instead.
        target_psnr: The fewest computed steps for which the plan predicts so many dB, instead. A prediction,
            and a rough one: see the page.
        samples: How many samples to record before a plan is made.
        target: What is forecast, see `planned`.
        cache: The folder; None takes that of the environment variable ``FORESEER_CACHE``, or the user's cache
            folder.
    """
    given = {"speedup": speedup, "steps": steps, "target_psnr": target_psnr}
    if len(several := [f"{name}={value}" for name, value in given.items() if value is not None]) > 1:
        raise OptionError(f"auto: {' and '.join(several)} each say how many steps to compute; write one of them")
    wanted = Wanted(steps=steps, speedup=speedup if several else 3.0, psnr=target_psnr)
    return Auto(wanted=wanted, samples=samples, target=target, cache=cache_folder(cache))
