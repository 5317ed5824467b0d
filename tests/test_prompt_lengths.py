"""Laws of prompts whose lengths differ: from call to call, between prompt and negative prompt, and between the samples of a batch.

What a block is given depends on them, by shapes or by masks alone, and nobody says so in the arguments' names.
"""

import os
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TINY
from tiny.common import NO_BATCH
from tiny.prompts import Prompts
from torch import Tensor

import foreseer
from foreseer import Report
from foreseer.registry import parse_policy

STEPS = 4
GATES = [
    "cg_taylor:threshold={},warmup_steps=2",
    "speca:threshold={},threshold_decay=1,max_order=1,warmup_steps=2",
    "speca:threshold={},threshold_decay=1,max_order=1,warmup_steps=2,target=last_block",
]
POLICIES = [
    "none",
    "taylorseer:interval=3,max_order=1",
    GATES[0].format(0.5),
    "taylorseer:interval=3,max_order=1,target=last_block",
    GATES[1].format(0.3),
    "taylorseer:interval=2,target=output",
    GATES[2].format(0.3),
]
CALLS: list[dict[str, Any]] = [
    {"own": (6, 3), "negative": 6},
    {"own": (4, 4), "negative": 4, "cut": True},
    {"own": (3, 6), "negative": 2},
]
"""Lengths of the prompts of one call after the other. Pipelines that want both prompts equally long refuse the last, those of a fixed length the second."""
WITHOUT_TEXT = ["DiTPipeline"]
TAKES_TEXT = [name for name in TINY if name not in WITHOUT_TEXT]
IN_BATCHES = [name for name in TAKES_TEXT if NO_BATCH not in TINY[name].notes]
ALL = bool(os.environ.get("FORESEER_ALL"))
"""Every pipeline under every policy, and not each under one, in turn."""


def in_turn(names: list[str], policies: list[str]) -> list[tuple[str, str]]:
    chosen = [policies if ALL else [policies[i % len(policies)]] for i in range(len(names))]
    return [(name, policy) for name, some in zip(names, chosen, strict=True) for policy in some]


def draw(name: str, pipe: Any, **lengths: Any) -> Tensor:
    return TINY[name].call(Prompts(pipe, **lengths), steps=STEPS, batch=1 if NO_BATCH in TINY[name].notes else 2)


def draws(name: str, pipe: Any, lengths: dict[str, Any]) -> Tensor | None:
    """What the pipeline itself gives; None where it refuses lengths that are not equal, or not its own."""
    try:
        return draw(name, pipe, **lengths)
    except (ValueError, RuntimeError) as error:
        if "same shape" in str(error) or "must match" in str(error):
            return None
        raise


def taken(name: str, pipe: Any) -> list[tuple[dict[str, Any], Tensor]]:
    """The calls that the pipeline itself takes, and what it gives."""
    return [(lengths, bare) for lengths in CALLS if (bare := draws(name, pipe, lengths)) is not None]


@pytest.mark.parametrize(("name", "policy"), in_turn(TAKES_TEXT, POLICIES))
def test_prompts_of_other_lengths_give_what_fresh_attachments_give(name: str, policy: str) -> None:
    """Law: whatever lengths came before, a call's result is a fresh attachment's bit for bit, and under `none` the bare pipeline's."""
    pipe = TINY[name].build()
    calls = taken(name, pipe)
    assert len(calls) > 1
    fresh = []
    for lengths, _ in calls:
        with foreseer.attach(pipe, parse_policy(policy)):
            fresh.append(draw(name, pipe, **lengths))
    with foreseer.attach(pipe, parse_policy(policy)):
        again = [draw(name, pipe, **lengths) for lengths, _ in (*calls, *calls[:1])]
    twice = (*calls, *calls[:1])
    for (lengths, bare), wanted, output in zip(twice, (*fresh, fresh[0]), again, strict=True):
        assert torch.equal(output, wanted), lengths
        assert policy != "none" or torch.equal(output, bare)


class Log:
    """Keeps the report of every run: a call of a pipeline may make several."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    @foreseer.hookimpl
    def on_run_end(self, report: Report) -> None:
        self.reports.append(report)


def judged(name: str, pipe: Any, gate: str, lengths: dict[str, Any]) -> tuple[Tensor, list[Report]]:
    log = Log()
    with foreseer.attach(pipe, parse_policy(gate), observers=[log]):
        return draw(name, pipe, **lengths), log.reports


def decided(report: Report) -> list[list[bool]]:
    """``(T, 2)`` whether each sample was computed."""
    groups = np.array(report.run.groups)
    return [[bool(step[groups == sample].any()) for sample in (0, 1)] for step in report.computed]


def parting(reports: list[Report]) -> float:
    """A threshold between the errors of two samples in the first step that is judged; 0 where they are alike."""
    for report in reports:
        for errors in report.error[report.judged][:1]:
            low, high = sorted(np.nanmax(errors[np.array(report.run.groups) == sample]) for sample in (0, 1))
            if low * 1.05 < high < np.inf:
                return float((low * high) ** 0.5)
    return 0.0


@pytest.mark.parametrize(("name", "gate"), in_turn(IN_BATCHES, GATES))
def test_samples_are_decided_alike_wherever_in_the_batch_they_are(name: str, gate: str) -> None:
    """Law: where a pipeline gives a sample the same beside a longer prompt, before or behind it, so do gates that decide by row.

    On one attachment it is, bit for bit, what fresh ones give.
    """
    pipe = TINY[name].build()
    one: dict[str, Any] = {"own": (6, 3), "negative": 4}
    if draws(name, pipe, one) is None:
        one["negative"] = 6
    lengths = [one, one | {"exchanged": True}]
    bare = [draw(name, pipe, **each) for each in lengths]
    atol = 1e-4 * bare[0].abs().max().item()
    if not torch.allclose(bare[0], bare[1].flip(0), rtol=0, atol=atol):
        pytest.skip("the pipeline itself gives a sample something else at another place of the batch")
    _, free = judged(name, pipe, gate.format(100), one)
    threshold = parting(free)
    (first, reports), (second, others) = (judged(name, pipe, gate.format(threshold or 100), each) for each in lengths)
    steps = [step for report in reports for step in decided(report)]
    assert not threshold or any(len(set(step)) > 1 for step in steps), "the threshold parts the samples"
    assert steps == [step[::-1] for report in others for step in decided(report)]
    torch.testing.assert_close(first, second.flip(0), rtol=0, atol=atol)
    with foreseer.attach(pipe, parse_policy(gate.format(threshold or 100))):
        kept = [draw(name, pipe, **each) for each in (*lengths, one)]
    assert list(map(torch.equal, kept, (first, second, first))) == [True] * 3
