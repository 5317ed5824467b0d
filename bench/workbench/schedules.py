"""The steps that a static schedule computes, found by asking it, without a model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import attrs

from foreseer.errors import OptionError
from foreseer.hookspecs import hookimpl
from foreseer.outcome import Outcome
from foreseer.plugins import Part, policy_hooks
from foreseer.registry import PolicySpec, parse_policy, signature_of
from foreseer.types import PLACES, Needs, Plan, Run, Site, Step
from foreseer.workbench.trace import Trace

__all__ = ["Schedule", "ScheduleAt", "computed_steps", "run_of", "schedule_from"]

Able = Callable[[tuple[int, ...], int], bool]
"""``(anchors, step)``: whether a predictor can forecast a step from anchors, newest first."""


@attrs.frozen
class Schedule:
    """A schedule as it was written: that of an installed policy (``spec``), or a list of ``steps``."""

    name: str
    spec: PolicySpec | None = None
    steps: tuple[int, ...] = ()

    @property
    def warmup_steps(self) -> int | None:
        """What the policy would tell its predictor of its warm-up; None where it has none."""
        if self.spec is None or "warmup_steps" not in (names := signature_of(self.spec.factory).parameters):
            return None
        found = self.spec.options.get("warmup_steps", names["warmup_steps"].default)
        return found if isinstance(found, int) else None

    def predictor(self) -> Any | None:
        """Return the predictor that the policy brings, built anew; None where it brings none."""
        plugins = self.spec() if self.spec is not None else ()
        return next((plugin for plugin in plugins if Part(plugin).implements("predict_features")), None)


def schedule_from(text: str | PolicySpec) -> Schedule:
    """Read a schedule as written on a command line: ``taylorseer:interval=4``, or a list,
    ``steps=0+1+2+5+9``.

    Raises:
        PluginError: There is no such policy.
        OptionError: An option is wrong, the policy is a gate or a lone predictor, or the list is none.
    """
    if isinstance(text, str) and text.startswith("steps="):
        listed = text.removeprefix("steps=")
        if not re.fullmatch(r"\d+([+,]\d+)*", listed):
            raise OptionError(f"schedule={text!r} is no list of steps; write whole numbers with + between them, such as steps=0+1+2+5+9")
        return Schedule(text, steps=tuple(sorted({int(step) for step in re.split(r"[+,]", listed)})))
    spec = parse_policy(text) if isinstance(text, str) else text
    hooks = policy_hooks(spec.look() or spec())
    if hooks["verify"]:
        raise OptionError(f"schedule={str(spec)!r} judges features, so that it computes other steps for other samples; write it in --gates")
    if not hooks["before_step"]:
        raise OptionError(f"schedule={str(spec)!r} chooses no steps; write a predictor in --predictors")
    return Schedule(str(spec), spec)


class ScheduleAt:
    """Plugin: the steps of a schedule, forecasting one site whatever the schedule itself would forecast."""

    def __init__(self, schedule: Schedule, site: Site) -> None:
        self._schedule, self._site = schedule, site
        self._parts: list[Part] = []

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Prepare the schedule, and record the site; its notes are handed on."""
        if self._schedule.spec is None:
            if run.num_steps is not None and self._schedule.steps[-1] >= run.num_steps:
                raise OptionError(f"schedule={self._schedule.name!r} names step {self._schedule.steps[-1]}; the run has steps 0 to {run.num_steps - 1}")
        else:
            # The predictor is left out: another may stand in its place.
            parts = [Part(plugin) for plugin in self._schedule.spec()]
            self._parts = [part for part in parts if part.implements("before_step") or part.implements("commit")]
        needs = Needs.together([part.setup(run) for part in self._parts])
        if needs.products or needs.evidence:
            raise OptionError(f"schedule={self._schedule.name!r} looks at features, so that it computes other steps for other samples; write it in --gates")
        return Needs(sites=(self._site,), note=needs.notes)

    @hookimpl
    def before_step(self, step: Step) -> Plan | None:
        """Ask the schedule."""
        if self._schedule.spec is None:
            return Plan(reason="listed") if step.index in self._schedule.steps else Plan(forecast=(self._site,))
        plan = next(part.before_step(step) for part in self._parts if part.implements("before_step"))
        if plan is None or not plan.forecast:
            return plan
        if plan.probe is not None:
            raise OptionError(f"schedule={self._schedule.name!r} probes block {plan.probe.block} at step {step.index}: it is a gate; write it in --gates")
        return attrs.evolve(plan, forecast=(self._site,))

    @hookimpl
    def commit(self, step: Step, outcome: Outcome) -> None:
        """Tell the schedule."""
        for part in self._parts:
            part.commit(step, outcome)


def computed_steps(schedule: Schedule, run: Run, able: Able = lambda anchors, step: True) -> tuple[int, ...]:
    """Return the steps that a schedule computes, ascending, in a run of that shape.

    Its hooks are called as a session calls them: the first step is always computed, and so is a step that the
    predictor cannot forecast.

    Args:
        schedule: The schedule.
        run: The shape of one sample's run; ``num_steps`` must be known.
        able: Asked before a forecast.

    Raises:
        OptionError: The run does not say how many steps it has, or the schedule is a gate.
    """
    if run.num_steps is None:
        raise OptionError("a schedule is asked for the steps of a whole run: give the run num_steps=")
    plugin, computed = ScheduleAt(schedule, Site(run.depth - 1)), list[int]()
    plugin.setup(run)
    for index in range(run.num_steps):
        step = run.step(index)
        plan = plugin.before_step(step)
        if plan is None or not plan.forecast or True in plan.compute or not computed or not able(tuple(reversed(computed)), index):
            computed.append(index)
        full = computed[-1:] == [index]
        nothing = (math.nan,) * run.rows
        carried_out = Plan() if full or plan is None else plan
        plugin.commit(step, Outcome(step, carried_out, (full,) * run.rows, nothing, None, math.nan, run.depth * run.rows * full, 0.0, ""))
    return tuple(computed)


def run_of(trace: Trace, *, rows: int | None = None) -> Run:
    """Return the shape of a run like the recorded one: of so many samples of one row each, or (None) of one
    sample with the rows that it had.
    """
    signature = trace.signature
    return Run(
        depth=trace.depth,
        rows=trace.copies if rows is None else rows,
        groups=(0,) * trace.copies if rows is None else tuple(range(rows)),
        num_steps=signature.num_steps,
        timesteps=signature.timesteps or None,
        sites=tuple(Site(block) for block in range(trace.depth)),
        places=PLACES,
        stream=trace.streams[0],
        model=signature.model,
        scheduler=signature.scheduler,
    )
