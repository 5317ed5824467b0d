"""`foreseer compare --headroom`: what schedules reach that were planned on the very samples that are
compared, as many steps as the policies computed.

Three kinds of lanes. *Best static*: one schedule for all samples. *Best per class, hindsight*: one for the
samples of each class, where some share theirs. *Best per sample, hindsight*: each sample has its own, found
from its own recording. No policy can know that beforehand, so the last bounds what schedules *of this
predictor, under this error model* can reach. It bounds no other predictor, and no gate that forecasts
something else; and the model only predicts the true error, so that a lane may in single cases be beaten.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from foreseer.bench.compared import CompareSettings
from foreseer.bench.harness import Tell
from foreseer.bench.lanes import LaneOf
from foreseer.bench.workload import Workload
from foreseer.errors import OptionError
from foreseer.hookspecs import hookimpl
from foreseer.policies.drafting import Whole, draft_needs
from foreseer.policies.predictors import predictor_from
from foreseer.registry import PolicySpec, policy
from foreseer.types import Needs, Plan, Run, Site, Step

if TYPE_CHECKING:
    from foreseer.workbench.trace import Trace

__all__ = ["PREDICTOR", "EachItsOwn", "headroom", "headroom_lanes"]

MEASURED = 8
"""Samples on which sensitivities are measured, at every step."""
PREDICTOR = "taylor:max_order=1"
"""What forecasts in these lanes."""


@attrs.define(eq=False)
class EachItsOwn:
    """Schedule: every sample of a batch, in the order of its first row, computes the steps of a schedule of
    its own, each with step 0.
    """

    schedules: tuple[frozenset[int], ...]
    target: Whole = "last_block"
    _sites: tuple[Site, ...] = attrs.field(default=(), init=False, repr=False)
    _places: tuple[int, ...] = attrs.field(default=(), init=False, repr=False)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record the target."""
        order = {group: place for place, group in enumerate(dict.fromkeys(run.groups))}
        if len(order) != len(self.schedules):
            raise OptionError(f"there are schedules for {len(self.schedules)} samples and the run has {len(order)}; give one for each")
        self._places = tuple(order[group] for group in run.groups)
        needs = draft_needs(run, self.target)
        self._sites = needs.sites
        return needs

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Compute the rows whose schedule says so."""
        due = [step.index in schedule for schedule in self.schedules]
        compute = tuple(due[place] for place in self._places)
        return Plan(reason="scheduled") if all(compute) else Plan(forecast=self._sites, compute=compute)


def headroom(workload: Workload, settings: CompareSettings, samples: int, counts: Sequence[int], tell: Tell, *, target: Whole = "last_block") -> list[LaneOf]:
    """Record the compared samples, and plan on them what to forecast of ``target``: see
    `foreseer.bench.compare.Afterwards`.

    Sensitivities are measured: one sampling, and one more for every measured step. It takes 2 to 3 times as
    long as full computation for each 10 steps of a run.
    """
    from foreseer.workbench.recording import record

    recorded = record(
        workload,
        settings.out / "headroom.safetensors",
        samples=samples,
        steps=settings.steps,
        guidance=settings.guidance,
        seed=settings.seed,
        batch=settings.batch,
        measured=MEASURED,
        sites=target,
        target=target,
        restart="if other",
        tell=lambda what, done, total: tell(f"headroom: {what}", done, total),
    )
    return headroom_lanes(recorded.trace, counts, target=target)


def headroom_lanes(trace: Trace, counts: Sequence[int], *, target: Whole = "last_block") -> list[LaneOf]:
    """Plan on the compared samples, recorded in their order, and return two lanes for each number of computed
    steps, or three where samples share classes.
    """
    from foreseer.workbench.planner import plan, predicted_errors

    find = functools.partial(plan, trace, predictor=PREDICTOR, target=target, errors=predicted_errors(trace, PREDICTOR, target))
    members: dict[str, list[int]] = {}
    for sample, label in enumerate(trace.labels):
        members.setdefault(label, []).append(sample)
    plans = {"sample": [find(samples=[sample]) for sample in range(trace.samples)]}
    if 1 < len(members) < trace.samples:
        classes = {label: find(samples=several) for label, several in members.items()}
        plans = {"class": [classes[label] for label in trace.labels], **plans}
    alike, lanes = find(), []
    for count in counts:
        computed = f"{count} step{'s' * (count != 1)}"
        steps = "+".join(map(str, alike.budget(count).steps))
        spec = policy("planned", schedule=f"{steps}/{trace.num_steps}", predictor=PREDICTOR, target=target)
        lanes.append(LaneOf(f"best static ({computed})", "static", functools.partial(_same, spec)))
        for what, of_samples in plans.items():
            schedules = [frozenset(plan.budget(count).steps) for plan in of_samples]
            lanes.append(_each(f"best per {what}, hindsight ({computed})", schedules, target))
    return lanes


def _same(spec: PolicySpec, indices: Sequence[int]) -> PolicySpec:
    return spec


def _each(name: str, schedules: Sequence[frozenset[int]], target: Whole) -> LaneOf:
    def of(indices: Sequence[int]) -> PolicySpec:
        chosen = tuple(schedules[index] for index in indices)
        return PolicySpec(name, lambda: (EachItsOwn(chosen, target), predictor_from(PREDICTOR, max_order=1)))

    return LaneOf(name, "hindsight", of)
