"""A schedule that was planned for a model, scheduler and number of steps, or a list; alone or gated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import attrs

from foreseer.errors import OptionError
from foreseer.hookspecs import hookimpl
from foreseer.listing import load_factory
from foreseer.options import at_least, checked
from foreseer.outcome import Outcome
from foreseer.plugins import Part
from foreseer.policies._taylor import taylor
from foreseer.policies.drafting import Target, draft_needs
from foreseer.policies.predictors import PredictorLike, predictor_from
from foreseer.policies.timetable import Timetable, read_schedule, timetable_from
from foreseer.reading import Written, read_options, reads
from foreseer.registry import build_plugins
from foreseer.schedule_plan import SchedulePlan
from foreseer.spelling import read_spec
from foreseer.types import Evidence, Needs, Plan, Run, Site, Step, Verdict

__all__ = ["GatedSchedule", "Schedule", "planned"]


@attrs.define(eq=False)
class Schedule:
    """Schedule: compute the steps of a timetable, forecast the others unseen.

    Attributes:
        timetable: Which steps.
        target: What is forecast.
    """

    timetable: Timetable
    target: Target
    _computed: frozenset[int] | None = attrs.field(default=frozenset(), init=False, repr=False)
    _run: Run | None = attrs.field(default=None, init=False, repr=False)
    _sites: tuple[Site, ...] = attrs.field(default=(), init=False, repr=False)

    @property
    def max_draft_steps(self) -> int | None:
        """Most forecasts in a row; None where that depends on the run, and `setup` was not called yet."""
        return self.timetable.longest(self._run)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Refuse runs that the timetable is not for; record what will be forecast."""
        self._run = run
        self._computed, notes = self.timetable.for_run(run)
        needs = draft_needs(run, self.target)
        self._sites = needs.sites
        return attrs.evolve(needs, note=(*needs.notes, *notes))

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
    """

    timetable: Timetable
    gate: Any
    _computed: frozenset[int] | None = attrs.field(default=frozenset(), init=False, repr=False)
    _run: Run | None = attrs.field(default=None, init=False, repr=False)
    _part: Part = attrs.field(default=attrs.Factory(lambda self: Part(self.gate), takes_self=True), init=False, repr=False)

    @property
    def max_draft_steps(self) -> int | None:
        """As of `Schedule`: a gate computes more."""
        return self.timetable.longest(self._run)

    @property
    def verified(self) -> bool:
        """As the gate says: every forecast is put before it."""
        return bool(getattr(self.gate, "verified", False))

    @property
    def decide(self) -> str:
        """As the gate says."""
        return str(getattr(self.gate, "decide", "row"))

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Refuse runs that the timetable is not for; record what the gate asks for."""
        self._run = run
        self._computed, notes = self.timetable.for_run(run)
        needs = self._part.setup(run)
        return attrs.evolve(needs, note=(*needs.notes, *notes))

    @hookimpl
    def before_step(self, step: Step) -> Plan | None:
        """Compute a scheduled step; else the gate plans."""
        if self._computed is None or step.index in self._computed:
            return None if self._computed is None else Plan(reason="scheduled")
        return self._part.before_step(step)

    @hookimpl
    def verify(self, step: Step, evidence: Evidence) -> Verdict | None:
        """The gate judges."""
        return self._part.verify(step, evidence)

    @hookimpl
    def commit(self, step: Step, outcome: Outcome) -> None:
        """The gate counts, scheduled steps as well."""
        self._part.commit(step, outcome)


def read_gate(gate: Any) -> Any:
    """Return a gate's text together with its name, its factory and its options, whose files are read."""
    if not isinstance(gate, str) or isinstance(gate, Written):
        return gate
    name, given = read_spec(gate)
    factory = load_factory(name)
    return Written(gate, (name, factory, read_options(factory, given)))


@reads(schedule=read_schedule, gate=read_gate)
@checked
def planned(
    *,
    schedule: str | int | Sequence[int] | SchedulePlan | None = None,
    budget: Annotated[int | None, at_least(1)] = None,
    predictor: PredictorLike | None = None,
    max_order: Annotated[int | None, at_least(0)] = None,
    target: Target | None = None,
    gate: str | None = None,
    interpolate: bool = False,
    any_model: bool = False,
) -> tuple[object, ...]:
    """Compute the steps of a planned schedule, forecast the others.

    A plan is a file that ``foreseer plan`` made from a few recorded samples. It holds for one model,
    scheduler and number of steps: a run with others is refused, with what differs. A list of steps is for any
    run of its length.

    Args:
        schedule: A plan's file, read where the policy is named and not again; or a list of the computed steps
            that begins with 0, such as ``0+1+4+9``, which may end well before the run does only where it says
            how long that is, ``0+1+4+9/50``; or a `foreseer.workbench.SchedulePlan`. None computes
            everything, and the report says so.
        budget: How many steps to compute, of those that the plan has; None for the one that it was written
            with.
        predictor: What forecasts, by name or factory. None takes the plan's, or ``taylor`` for a list.
        max_order: Highest order of the predictor. None takes the plan's, or 1.
        target: ``"last_block"``: the last block's output. ``"modules"``: every module's raw output.
            ``"residual"``, ``"residual_after_first"``, ``"output"``: as in `taylorseer`. None takes the
            plan's, or the last block; the last block too under a gate that does not forecast what the plan
            says, and the report says so.
        gate: A policy that judges forecasts, with its options: ``cg_taylor:threshold=0.1``,
            ``speca:threshold=0.3``. The forecast steps are put before it, so that it may compute more than
            was planned, never less. It is given the predictor, the target, a warm-up of 1 and no limit of its
            own to drafts in a row, unless its options say otherwise. None uses forecasts unseen.
        interpolate: Map the schedule to the run's number of steps, where that is another one; the report says
            so.
        any_model: Use a plan on another model, scheduler or timesteps.
    """
    timetable = timetable_from(schedule, budget, interpolate=interpolate, any_model=any_model)
    plan = timetable.plan
    chosen, order = _predictor(predictor, max_order, plan)
    where: Target = target or (plan.target if plan is not None else "last_block")
    if plan is not None and (note := _other_predictor(plan, chosen, order)):
        timetable = attrs.evolve(timetable, notes=(*timetable.notes, note))
    if gate is None:
        return Schedule(timetable, where), predictor_from(chosen, max_order=order)
    try:
        judge, others = _gate(gate, chosen, order, where)
    except OptionError:
        if target is not None or plan is None or plan.target == "last_block":
            raise
        # Nobody asked for the plan's target here, and some gates look at block outputs alone.
        judge, others = _gate(gate, chosen, order, "last_block")
        timetable = attrs.evolve(timetable, notes=(*timetable.notes, f"the gate does not forecast the plan's {plan.target}; the last block is forecast"))
    return (GatedSchedule(timetable, judge), *others)


def _predictor(predictor: PredictorLike | None, max_order: int | None, plan: SchedulePlan | None) -> tuple[PredictorLike, int]:
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
    _, factory, given = read_gate(gate).value
    offered = {"predictor": predictor, "max_order": order, "last_order": order, "target": target, "warmup_steps": 1, "max_draft_steps": None}
    plugins = build_plugins(factory, given, offered)
    judges = [plugin for plugin in plugins if hasattr(plugin, "before_step") and hasattr(plugin, "verify")]
    if len(judges) != 1:
        raise OptionError(f"planned: gate={gate!r} does not judge forecasts; write a policy that does, such as 'cg_taylor:threshold=0.1'")
    return judges[0], tuple(plugin for plugin in plugins if plugin is not judges[0])
