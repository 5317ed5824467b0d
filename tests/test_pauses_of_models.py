"""Laws of pauses on every tiny model: guidance in some steps, a ControlNet for some, experts that alternate, windows that move."""

import itertools
from collections.abc import Callable, Collection, Mapping

import attrs
import pytest
import torch
from replayed import Handed, handed_over, same, two
from test_pauses import distances
from tiny import TINY
from torch import Tensor

import foreseer
from foreseer.registry import parse_policy

REACH = {
    "reuse:interval=3": 2,
    "taylorseer:interval=4,max_order=1,warmup_steps=3": 3,
    "taylorseer:interval=3,target=last_block": 2,
    "taylorseer:interval=3,target=output": 2,
    "cg_taylor:threshold=100,warmup_steps=2": 4,
    "speca:threshold=100,threshold_decay=1,max_draft_steps=3": 3,
    "speca:threshold=100,threshold_decay=1,target=last_block,max_draft_steps=2": 2,
    "planned:schedule=0+1+4+8+10/14": 3,
}
"""policy -> the longest pause that it bridges, in steps; for those that name a limit, how far back their forecasts reach."""
STEPS = 14
PAUSED = (0, 1, 2, 3, 9, 10, 11, 12, 13)
NEVER_FORECAST = ("Flux2KleinKVPipeline",)
"""Its first call returns keys and values, and is always computed."""
MIXED = {name: list(REACH)[at % len(REACH)] for at, name in enumerate(TINY) if name not in NEVER_FORECAST}
CONTROLLED = [(name, policy) for at, name in enumerate(n for n in TINY if "ControlNet" in n) for policy in list(REACH)[at % 4 :: 4]]
FIRST = ["FluxPipeline", "WanPipeline", "DiTPipeline"]
Output = list[Tensor]


def driven(
    policy: str, streams: Mapping[str, Handed | Callable[[int], Handed]], called: Mapping[str, Collection[int]]
) -> tuple[dict[str, list[Output]], dict[str, foreseer.Report]]:
    """Call streams in these steps of a generation; a stream may be called in another way in each."""
    outputs: dict[str, list[Output]] = {name: [] for name in called}
    model = next(iter(handed(0) if callable(handed) else handed for handed in streams.values())).model
    with foreseer.attach(model, parse_policy(policy)) as attached, attached.generation(num_steps=STEPS) as generation:
        for step in range(STEPS):
            generation.step()
            for name, steps in called.items():
                if step in steps:
                    handed = streams[name]
                    with generation.call(stream=name):
                        outputs[name].append((handed(step) if callable(handed) else handed).at(step))
    return outputs, attached.reports


def keeps_its_reach(report: foreseer.Report, policy: str) -> bool:
    """Whether no forecast reaches further back than the policy says, and no pause was bridged that is longer."""
    limit = REACH[policy]
    bridged = [b.step.index - a.step.index - 1 for a, b in itertools.pairwise(report.outcomes) if not all(b.computed)]
    return max(bridged, default=0) <= limit and ("cg_taylor" in policy or max(distances(report.outcomes), default=0) <= limit)


@pytest.mark.parametrize(("name", "policy"), [*MIXED.items(), *((name, policy) for name in FIRST for policy in REACH if MIXED[name] != policy)])
def test_a_paused_stream_begins_anew_and_its_neighbour_goes_on(name: str, policy: str) -> None:
    """Law: guidance in some steps only. What comes back gets what a stream gets that begins then; the other gets what it gets alone."""
    streams = two(name)
    outputs, reports = driven(policy, streams, {"one": range(STEPS), "other": PAUSED})
    alone, _ = driven(policy, streams, {"one": range(STEPS)})
    late, late_reports = driven(policy, streams, {"other": [step for step in PAUSED if step > 5]})
    assert same(outputs["one"], alone["one"])
    assert same(outputs["other"][4:], late["other"])
    assert [o.step.index for o in reports["other"].outcomes] == list(PAUSED)
    for report in (*reports.values(), *late_reports.values()):
        assert keeps_its_reach(report, policy)


@pytest.mark.parametrize(("name", "policy"), CONTROLLED)
def test_a_control_branch_in_some_steps_is_a_kind_of_call_that_pauses(name: str, policy: str) -> None:
    """Law: calls with and without residuals under one name have histories of their own, and neither reaches further back than the policy says."""
    whole = handed_over(name)[0]
    bare = attrs.evolve(whole, kwargs={key: value for key, value in whole.kwargs.items() if "control" not in key})
    for controlled in ({0, 1, 2, 3, 9, 10, 11, 12, 13}, set(range(0, STEPS, 3))):
        outputs, reports = driven(policy, {"one": lambda step, steps=controlled: whole if step in steps else bare}, {"one": range(STEPS)})
        for handed, steps in ((whole, controlled), (bare, set(range(STEPS)) - controlled)):
            alone, _ = driven(policy, {"one": handed}, {"one": steps})
            assert same([outputs["one"][step] for step in sorted(steps)], alone["one"])
        for report in reports.values():
            assert keeps_its_reach(report, policy)


class Experts:
    """Two denoisers that take turns."""

    def __init__(self, period: int) -> None:
        pipe = TINY["WanPipeline:2.2"].build()
        self.transformer, self.transformer_2, self.scheduler = pipe.transformer, pipe.transformer_2, pipe.scheduler
        self.components = {"transformer": self.transformer, "transformer_2": self.transformer_2}
        self.period, self.handed = period, handed_over("WanPipeline:2.2")[0]

    def sample(self) -> None:
        self.scheduler.set_timesteps(STEPS)
        for step, time in enumerate(self.scheduler.timesteps):
            attrs.evolve(self.handed, model=list(self.components.values())[step // self.period % 2]).at(step)
            self.scheduler.step(torch.zeros(1, 4, 2, 4, 4), time, torch.zeros(1, 4, 2, 4, 4))


@pytest.mark.parametrize("period", [1, 2, 3, 5])
@pytest.mark.parametrize("policy", list(REACH))
def test_experts_that_alternate_reach_no_further_back_than_the_policy_says(policy: str, period: int) -> None:
    """Law: what one expert left behind is as old as the steps since, also those of the other."""
    pipe = Experts(period)
    with foreseer.attach(pipe, parse_policy(policy)) as attached:
        pipe.sample()
        reports = attached.reports
    assert list(reports) == ["transformer", "transformer_2"]
    for report in reports.values():
        assert keeps_its_reach(report, policy)
        if period > REACH[policy]:  # each turn begins with the warm-up
            turns = [o for o in report.outcomes if o.step.index // period != (o.step.index - 1) // period]
            assert all(all(o.computed) for o in turns)


@pytest.mark.parametrize("policy", list(REACH))
@pytest.mark.parametrize("name", FIRST)
def test_windows_that_move_have_a_history_each(name: str, policy: str) -> None:
    """Law: windows that come and go, each under its name and in any order, get what each gets alone."""
    one, other = two(name).values()
    windows = {"left": one, "middle": other, "right": attrs.evolve(one, kwargs=dict(other.kwargs), args=other.args)}
    called = {"left": range(7), "middle": range(3, 11), "right": (*range(6, 9), *range(12, STEPS))}
    together, reports = driven(policy, windows, called)
    for window, steps in called.items():
        alone, _ = driven(policy, windows, {window: steps})
        assert same(together[window], alone[window])
        assert keeps_its_reach(reports[window], policy)
