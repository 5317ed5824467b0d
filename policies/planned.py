"""A schedule that was planned for this model, scheduler and number of steps, or written by hand; alone, or under a gate."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import attrs

from foreseer.errors import OptionError
from foreseer.hookspecs import hookimpl
from foreseer.options import at_least, checked
from foreseer.plugins import Implementation, policy_hooks
from foreseer.policies.drafting import Target, draft_needs
from foreseer.policies.predictors import PredictorLike, predictor_from
from foreseer.policies.taylor import taylor
from foreseer.registry import check_options, load_factory, signature_of
from foreseer.spelling import read_spec
from foreseer.types import Evidence, Needs, Outcome, Plan, Run, Site, Step, Verdict
from foreseer.workbench.plan_file import SchedulePlan, stretched

__all__ = ["GatedSchedule", "Schedule", "Timetable", "planned"]


@attrs.frozen
class Timetable:
    """Which steps are computed, and for which runs that holds.

    Attributes:
        steps: Indices of the computed steps, rising from 0; None computes every step.
        num_steps: Of the runs that it is for; None where a list did not say.
        plan: The plan that it comes from, whose signature a run must fit; None for a list.
        interpolate: Map it to another number of steps instead of refusing the run.
        any_model: Do not compare model and scheduler.
        notes: Sentences for the report.
    """

    steps: tuple[int, ...] | None
    num_steps: int | None = None
    plan: SchedulePlan | None = attrs.field(default=None, repr=False)
    interpolate: bool = False
    any_model: bool = False
    notes: tuple[str, ...] = ()

    @property
    def longest(self) -> int | None:
        """Most forecasts in a row; None where that depends on the run."""
        if self.steps is None:
            return 0
        if self.interpolate:
            return None
        ends = (*self.steps, self.num_steps) if self.num_steps is not None else self.steps
        return max((b - a - 1 for a, b in itertools.pairwise(ends)), default=0)

    def for_run(self, run: Run) -> tuple[frozenset[int] | None, tuple[str, ...]]:
        """Return the steps to compute in this run (None: all), and sentences for the report.

        Raises:
            OptionError: It is for other runs; the message says what differs.
        """
        if self.steps is None:
            return None, ("planned has no schedule, so that every step is computed; write planned:schedule=plan.json, or schedule=0+1+4+9",)
        if run.num_steps is None:
            raise OptionError("planned must know how many steps the run has: give the run timesteps= or num_steps=")
        if self.plan is not None:
            self._refuse_other(self.plan, run)
        if self.num_steps is None:
            self._refuse_tail(run.num_steps)
        elif self.num_steps != run.num_steps:
            if not self.interpolate:
                raise OptionError(f"planned: the schedule is for {self.num_steps} steps and the run has {run.num_steps}; plan again, or write interpolate=True")
            steps = stretched(self.steps, self.num_steps, run.num_steps)
            note = f"the schedule was planned for {self.num_steps} steps and is stretched to {run.num_steps}; its predicted error does not hold here"
            return frozenset(steps), (*self.notes, note)
        return frozenset(self.steps), self.notes

    def _refuse_other(self, plan: SchedulePlan, run: Run) -> None:
        anywhere = attrs.evolve(run, model="", scheduler="", timesteps=None)

        def conflicts(*, interpolate: bool, any_model: bool) -> list[str]:
            return plan.signature.conflicts(anywhere if any_model else run, other_steps=interpolate and run.num_steps != plan.num_steps)

        found = conflicts(interpolate=self.interpolate, any_model=self.any_model)
        if found:
            steps, model = self.interpolate or run.num_steps != plan.num_steps, bool(conflicts(interpolate=True, any_model=self.any_model))
            asked = [what for what, helps in (("interpolate=True", steps and not self.interpolate), ("any_model=True", model and not self.any_model)) if helps]
            raise OptionError(f"planned: the plan was made for other runs: {'; '.join(found)}; plan again for this one, or write {' and '.join(asked)}")

    def _refuse_tail(self, num_steps: int) -> None:
        """A list that ends long before the run does was written for a shorter one, and would forecast all the rest."""
        assert self.steps is not None
        last, text = self.steps[-1], "+".join(map(str, self.steps))
        if last >= num_steps or num_steps - 1 - last > (self.longest or 0):
            raise OptionError(f"planned: schedule={text} ends at step {last} and the run has {num_steps}; if that is meant write schedule={text}/{num_steps}")


@attrs.define(eq=False)
class Schedule:
    """Schedule: compute the steps of a timetable, forecast the others unseen.

    Attributes:
        timetable: Which steps.
        target: What is forecast.
        max_draft_steps: Most forecasts in a row, where the timetable says so.
    """

    timetable: Timetable
    target: Target
    _computed: frozenset[int] | None = attrs.field(default=frozenset(), init=False, repr=False)
    _sites: tuple[Site, ...] = attrs.field(default=(), init=False, repr=False)

    @property
    def max_draft_steps(self) -> int | None:
        """Of the timetable."""
        return self.timetable.longest

    @hookimpl
    def setup(self, run: Run) -> tuple[Needs, ...]:
        """Refuse runs that the timetable is not for; record what will be forecast."""
        self._computed, notes = self.timetable.for_run(run)
        needs = draft_needs(run, self.target)
        self._sites = needs.sites
        return (needs, *(Needs(sites=needs.sites, note=note) for note in notes))

    @hookimpl
    def before_step(self, step: Step) -> Plan | None:
        """Compute or forecast, as scheduled."""
        if self._computed is None:
            return None
        return Plan(reason="scheduled") if step.index in self._computed else Plan(forecast=self._sites)


@attrs.define(eq=False)
class GatedSchedule:
    """Schedule: compute the steps of a timetable, and put the others before a gate.

    Attributes:
        timetable: Which steps.
        gate: The gate's plugin, which implements ``before_step`` and ``verify``.
        max_draft_steps: Most forecasts in a row, where the timetable says so.
    """

    timetable: Timetable
    gate: Any
    _computed: frozenset[int] | None = attrs.field(default=frozenset(), init=False, repr=False)
    _hooks: dict[str, list[Implementation]] = attrs.field(init=False, repr=False)

    @_hooks.default
    def _its_hooks(self) -> dict[str, list[Implementation]]:
        return policy_hooks([self.gate])

    @property
    def max_draft_steps(self) -> int | None:
        """Of the timetable: a gate computes more."""
        return self.timetable.longest

    @property
    def verified(self) -> bool:
        """As the gate says: every forecast is put before it."""
        return bool(getattr(self.gate, "verified", False))

    @property
    def decide(self) -> str:
        """As the gate says."""
        return str(getattr(self.gate, "decide", "row"))

    @hookimpl
    def setup(self, run: Run) -> tuple[Needs, ...]:
        """Refuse runs that the timetable is not for; record what the gate asks for."""
        self._computed, notes = self.timetable.for_run(run)
        answers = [answer for setup in self._hooks["setup"] if (answer := setup({"run": run})) is not None]
        needs = [n for answer in answers for n in (answer if isinstance(answer, (tuple, list)) else (answer,))]
        sites = tuple(dict.fromkeys(site for n in needs for site in n.sites))
        return (*needs, *(Needs(sites=sites, note=note) for note in notes))

    @hookimpl
    def before_step(self, step: Step) -> Plan | None:
        """Compute a scheduled step; else the gate plans."""
        if self._computed is None or step.index in self._computed:
            return None if self._computed is None else Plan(reason="scheduled")
        return cast("Plan | None", self._hooks["before_step"][0]({"step": step}))

    @hookimpl
    def verify(self, step: Step, evidence: Evidence) -> Verdict | None:
        """The gate judges."""
        return cast("Verdict | None", self._hooks["verify"][0]({"step": step, "evidence": evidence}))

    @hookimpl
    def commit(self, step: Step, outcome: Outcome) -> None:
        """The gate counts, scheduled steps as well."""
        for commit in self._hooks["commit"]:
            commit({"step": step, "outcome": outcome})


@checked
def planned(
    *,
    schedule: str | int | Sequence[int] | SchedulePlan | None = None,
    budget: Annotated[int | None, at_least(1)] = None,
    predictor: PredictorLike | None = None,
    max_order: Annotated[int | None, at_least(0)] = None,
    target: Literal["modules", "last_block", "output"] | None = None,
    gate: str | None = None,
    interpolate: bool = False,
    any_model: bool = False,
) -> tuple[object, ...]:
    """Compute the steps of a planned schedule, forecast the others.

    A plan is a file that ``foreseer plan`` made from a few recorded samples. It holds for one model, scheduler and number of steps: a run with others is
    refused, with what differs. A list of steps is for any run of its length.

    Args:
        schedule: A plan's file; or a list of the computed steps that begins with 0, such as ``0+1+4+9``, which may end well before the run does only where it
            says how long that is, ``0+1+4+9/50``; or a `foreseer.workbench.SchedulePlan`. None computes everything, and the report says so.
        budget: How many steps to compute, of those that the plan has; None for the one that it was written with.
        predictor: What forecasts, by name or factory. None takes the plan's, or ``taylor`` for a list.
        max_order: Highest order of the predictor. None takes the plan's, or 1.
        target: ``"last_block"``: the last block's output. ``"modules"``: every module's raw output. ``"output"``: the denoiser's output. None takes the
            plan's, or the last block.
        gate: A policy that judges forecasts, with its options: ``cg_taylor:threshold=0.1``, ``speca:threshold=0.3``. The forecast steps are put before it, so
            that it may compute more than was planned, never less. It is given the predictor, the target, a warm-up of 1 and no limit of its own to drafts in
            a row, unless its options say otherwise. None uses forecasts unseen.
        interpolate: Map the schedule to the run's number of steps, where that is another one; the report says so.
        any_model: Use a plan on another model, scheduler or timesteps.
    """
    timetable = _timetable(schedule, budget, interpolate=interpolate, any_model=any_model)
    plan = timetable.plan
    chosen, order = _predictor(predictor, max_order, plan)
    where: Target = target or (plan.target if plan is not None else "last_block")
    if plan is not None and (note := _other_predictor(plan, chosen, order)):
        timetable = attrs.evolve(timetable, notes=(*timetable.notes, note))
    if gate is None:
        return Schedule(timetable, where), predictor_from(chosen, max_order=order)
    judge, others = _gate(gate, chosen, order, where)
    return (GatedSchedule(timetable, judge), *others)


_LIST = "the computed steps, rising from 0, such as 0+1+4+9 or 0+1+4+9/50"


def _timetable(schedule: Any, budget: int | None, *, interpolate: bool, any_model: bool) -> Timetable:
    if schedule is None:
        return Timetable(None)
    length: int | None = None
    match = re.fullmatch(r"\s*(\d+(?:\s*\+\s*\d+)*)\s*(?:/\s*(\d+))?\s*", schedule) if isinstance(schedule, str) else None
    if isinstance(schedule, str) and match is None and re.fullmatch(r"[\d\s+/,-]*", schedule):  # nobody calls a file so
        raise OptionError(f"planned: schedule={schedule!r} is no schedule; write {_LIST}, or a plan's file")
    if isinstance(schedule, (str, Path)) and match is None:
        schedule = SchedulePlan.load(schedule)
    if isinstance(schedule, SchedulePlan):
        chosen = schedule.budget(budget)
        return Timetable(chosen.steps, schedule.num_steps, schedule, interpolate, any_model)
    if budget is not None:
        raise OptionError(f"planned: budget={budget} chooses among the schedules of a plan, and schedule={schedule!r} is a list; leave it out")
    if match is not None:
        steps: Any = [int(step) for step in match[1].split("+")]
        length = int(match[2]) if match[2] else None
    else:
        steps = [schedule] if isinstance(schedule, int) else schedule
    try:
        steps = [*steps]
    except TypeError:
        steps = []
    whole = all(isinstance(step, int) and not isinstance(step, bool) for step in steps)
    rising = whole and steps[:1] == [0] and all(a < b for a, b in itertools.pairwise(steps))
    if not rising:
        raise OptionError(f"planned: schedule={schedule!r} is no schedule; write {_LIST}, or a plan's file")
    if length is not None and length <= steps[-1]:
        raise OptionError(
            f"planned: schedule={schedule!r} computes step {steps[-1]} of a run whose steps are 0 to {length - 1}; write the number of steps behind /"
        )
    if interpolate and length is None:
        text = "+".join(map(str, steps))
        raise OptionError(f"planned: interpolate=True needs to know how many steps schedule={text} is for; write schedule={text}/{steps[-1] + 1}")
    return Timetable(tuple(steps), length, None, interpolate, any_model)


def _predictor(predictor: PredictorLike | None, max_order: int | None, plan: SchedulePlan | None) -> tuple[PredictorLike, int]:
    """The predictor without its order, and the order: a gate may want to use another order elsewhere."""
    asked = predictor if predictor is not None else plan.predictor if plan is not None else taylor
    order = 1 if max_order is None else max_order
    if not isinstance(asked, str):
        return asked, order
    name, given = read_spec(asked)
    own = given.pop("max_order", None)
    if own is not None and (predictor is not None or max_order is None):
        order = own
    return (f"{name}:{','.join(f'{key}={value!r}' for key, value in given.items())}" if given else name), order


def _other_predictor(plan: SchedulePlan, chosen: PredictorLike, order: int) -> str:
    """Say that forecasts are made by another predictor than the plan was made for; empty where they are not."""
    theirs = _predictor(None, None, plan)
    mine = getattr(chosen, "__name__", chosen)
    if (mine, order) == theirs:
        return ""
    return f"the plan was made for {plan.predictor} and forecasts are made by {mine} of order {order}; its predicted error does not hold here"


def _gate(gate: str, predictor: PredictorLike, order: int, target: Target) -> tuple[Any, tuple[Any, ...]]:
    """Build the gate. Returns the plugin that plans and judges, and the others."""
    name, given = read_spec(gate)
    factory = load_factory(name)
    names = signature_of(factory).parameters
    offered = {"predictor": predictor, "max_order": order, "last_order": order, "target": target, "warmup_steps": 1, "max_draft_steps": None}
    options = {key: value for key, value in offered.items() if key in names} | given
    check_options(name, factory, options)
    built = factory(**options)
    plugins = built if isinstance(built, tuple) else (built,)
    judges = [plugin for plugin in plugins if hasattr(plugin, "before_step") and hasattr(plugin, "verify")]
    if len(judges) != 1:
        raise OptionError(f"planned: gate={gate!r} does not judge forecasts; write a policy that does, such as 'cg_taylor:threshold=0.1'")
    return judges[0], tuple(plugin for plugin in plugins if plugin is not judges[0])
