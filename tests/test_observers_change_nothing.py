"""Laws of looking: an observer changes nothing, ever: not the target, not a decision, not a bit of the output."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TINY
from torch import Tensor, nn

import foreseer
from foreseer import OUTPUT, Run, Site, Step, hookimpl
from foreseer.adapters import ArrayBackbone
from foreseer.registry import parse_policy

NAMES = [
    "FluxPipeline",
    "WanPipeline",
    "StableDiffusion3Pipeline",
    "DiTPipeline",
    "CogView4Pipeline",
    "EasyAnimatePipeline",
    "LTX2Pipeline",
    "Lumina2Pipeline",
    "HunyuanVideoPipeline",
    "PRXPipeline",
]
"""Among them some whose parts are called several times, or not at all."""
POLICIES = [
    "none",
    "taylorseer:interval=3,target=last_block",
    "taylorseer:interval=3,target=output",
    "taylorseer:interval=3",
    "cg_taylor:threshold=0.5,warmup_steps=2",
    "speca:threshold=0.5,threshold_decay=1,max_order=1,warmup_steps=2",
]


class Everything:
    """Wants to see every site, those too that no model has."""

    def __init__(self) -> None:
        self.seen: list[set[Site]] = []

    @hookimpl
    def features_wanted(self, run: Run) -> tuple[Site, ...]:
        return (*run.sites, OUTPUT, Site(99), Site(0, "no such part"))

    @hookimpl
    def on_features(self, run: Run, step: Step, rows: tuple[int, ...], features: Mapping[Site, Tensor]) -> None:
        assert all(len(feature) == len(rows) for feature in features.values())
        self.seen.append(set(features))


def driven(name: str, policy: str, observers: list[Any]) -> tuple[Tensor, list[foreseer.Report]]:
    tiny = TINY[name]
    with foreseer.attach(pipe := tiny.build(), parse_policy(policy), observers=observers) as attached:
        return tiny.call(pipe, steps=6), list(attached.reports.values())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", NAMES)
def test_an_observer_of_everything_changes_nothing(name: str, policy: str) -> None:
    """Law: output, decisions, held bytes of the policy's sites and block-rows are those without it, and it is shown every computed step."""
    output, alone = driven(name, policy, [])
    watch = Everything()
    watched, reports = driven(name, policy, [watch])
    assert torch.equal(output, watched)
    for ours, theirs in zip(alone, reports, strict=True):
        assert ours.computed.tolist() == theirs.computed.tolist()
        assert [o.plan for o in ours.outcomes] == [o.plan for o in theirs.outcomes]
        assert ours.bytes_held == theirs.bytes_held
        assert ours.block_rows == theirs.block_rows
        assert set(ours.warnings) <= set(theirs.warnings)
    assert len(watch.seen) == sum(any(outcome.computed) for report in reports for outcome in report.outcomes)
    assert all(OUTPUT in seen for seen in watch.seen)


def test_what_a_block_cannot_show_is_left_out() -> None:
    """Law: where a block returns what is no feature, the observer goes without it, and the policy is not hurt."""

    class Odd(nn.Module):
        def __init__(self, odd: bool) -> None:
            super().__init__()
            self.inner, self.odd = nn.Linear(4, 4), odd

        def forward(self, x: Tensor) -> Any:
            return (x + self.inner(x).tanh(), object()) if self.odd else x + self.inner(x).tanh()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.blocks = nn.ModuleList(Odd(index == 1) for index in range(4))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
                x = x[0] if isinstance(x, tuple) else x
            return x

    model = Model().eval().requires_grad_(False)
    x = torch.ones(2, 4)

    def run(observers: list[Any]) -> tuple[list[Tensor], foreseer.Report]:
        with foreseer.attach(model, parse_policy("none"), observers=observers) as attached, attached.run(num_steps=10):
            return [model(x + 0.1 * step) for step in range(10)], attached.report

    outputs, _ = run([])
    watch = Everything()
    watched, _ = run([watch])
    assert all(map(torch.equal, outputs, watched))
    assert watch.seen == [{Site(0), Site(2), Site(3), OUTPUT}] * 10


class Answers:
    """Answers a hook of an observer with something."""

    def __init__(self, hook, answer):
        self.hook, self.answer = hook, answer

    @foreseer.hookimpl
    def features_wanted(self):
        return self.answer() if self.hook == "features_wanted" else None

    @foreseer.hookimpl
    def shadow(self):
        return self.answer() if self.hook == "shadow" else None

    @foreseer.hookimpl
    def on_step(self):
        return self.answer() if self.hook == "on_step" else None


class Mute(Exception):  # noqa: N818
    def __str__(self):
        return self.missing


def mute():
    raise Mute


def late():
    yield foreseer.Site(0)
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("hook", "answer"),
    [
        ("features_wanted", lambda: 5),
        ("features_wanted", lambda: True),
        ("features_wanted", lambda: [[foreseer.Site(0)]]),
        ("features_wanted", late),
        ("features_wanted", mute),
        ("shadow", lambda: torch.ones(2)),
        ("shadow", mute),
        ("on_step", mute),
    ],
)
def test_an_answer_that_is_none_drops_the_observer_and_no_more(hook, answer):
    """Law: whatever an observer says or raises, the run goes on as without it, and the report names the hook."""
    host = ArrayBackbone(lambda site, t: np.ones((2, 3)) + t, depth=3)
    given = {"inputs": lambda x, t: t, "update": lambda x, out, i: out, "policy": "reuse:interval=2,target=last_block"}
    wanted, _ = foreseer.sample(host, None, range(9, -1, -1), **given)
    output, report = foreseer.sample(host, None, range(9, -1, -1), observers=[Answers(hook, answer)], **given)
    assert torch.equal(torch.as_tensor(output), torch.as_tensor(wanted))
    assert [hook in warning for warning in report.warnings] == [True]
