"""First Block Cache against a loop written from its description, and against diffusers' own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from foreseer_methods.first_block_cache import first_block_cache
from torch import Tensor

import foreseer
from foreseer.bench.gpu.lanes import lane_of
from foreseer.testing.worlds import DEPTH, ROWS, World, constant, mixed, replaced
from foreseer.types import STREAM, Site

FIRST, LAST, STEPS = Site(0), Site(DEPTH - 1), 12
THRESHOLDS = [0.0, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0, math.inf]


def run(world: World, steps: int = STEPS, **options: Any) -> tuple[list[Tensor], foreseer.Report]:
    outputs: list[Tensor] = []
    spec = foreseer.policy(first_block_cache, **options)
    given: dict[str, Any] = {"inputs": lambda x, t: int(t), "update": lambda x, output, i: outputs.append(output.clone())}
    _, report = foreseer.sample(world, None, list(range(steps)), policy=spec, **given)
    return outputs, report


def released(world: World, threshold: float, steps: int = STEPS) -> tuple[list[Tensor], list[int]]:
    """One decision over the batch: the published loop."""
    computed, outputs, kept = [], [], None
    for step in range(steps):
        done = world.forward(step, substitute={}, record=(FIRST, LAST), see=(STREAM,))
        stream, first, last = done.seen[STREAM], done.features[FIRST], done.features[LAST]
        residual = first - stream
        if kept is not None and (kept[0] - residual).abs().mean() / kept[0].abs().mean() < threshold:
            outputs.append(first + kept[1])
            continue
        kept = (residual, last - first)
        computed.append(step)
        outputs.append(last)
    return outputs, computed


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_it_is_the_published_loop(threshold: float) -> None:
    outputs, report = run(World(mixed), threshold=threshold, decide="batch")
    wanted, computed = released(World(mixed), threshold)
    assert report.full_steps == computed
    assert equal(outputs, wanted)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_each_row_decides_as_it_would_alone(threshold: float) -> None:
    outputs, report = run(World(mixed), threshold=threshold)
    for row in range(ROWS):
        wanted, computed = released(World(mixed, labels=[row]), threshold)
        assert report.computed[:, row].nonzero()[0].tolist() == computed
        assert equal([output[row : row + 1] for output in outputs], wanted)


def test_rows_of_a_sample_share_one_fate() -> None:
    outputs: list[Tensor] = []
    given: dict[str, Any] = {"inputs": lambda x, t: int(t), "update": lambda x, output, i: outputs.append(output)}
    _, report = foreseer.sample(World(mixed), None, list(range(STEPS)), policy=foreseer.policy(first_block_cache, threshold=0.05), groups=(0, 1, 0), **given)
    assert (report.computed[:, 0] == report.computed[:, 2]).all()
    assert (report.computed[:, 0] != report.computed[:, 1]).any()


def test_only_the_first_step_is_computed_where_nothing_moves_and_what_costs_is_block_0() -> None:
    _, report = run(World(constant), threshold=1e-9)
    assert report.full_steps == [0]
    assert report.block_rows == ROWS * (DEPTH + STEPS - 1)


def test_it_is_held_against_the_last_computed_step_and_computes_a_jump_once() -> None:
    _, report = run(World(lambda site, step: constant(site) * (1.0 if step < 7 else -3.0)), threshold=0.1)
    assert report.full_steps == [0, 7]


def test_an_error_that_is_no_number_is_no_reuse() -> None:
    """diffusers reuses there: `difference > threshold` is False for NaN."""
    broken = World(lambda site, step: replaced(constant, 0, math.nan)(site, step) if step == 4 else constant(site, step))
    _, report = run(broken, threshold=math.inf)
    assert report.computed[:, 1].nonzero()[0].tolist() == [0]
    assert {0, 4, 5} <= set(report.computed[:, 0].nonzero()[0].tolist()), "and nothing is reused of a step that was broken"


def test_taylor_sums_of_the_residual_are_exact_on_a_line() -> None:
    def line(site: Site, step: float) -> Tensor:
        return constant(site) * (1 + 0.01 * step)

    outputs, report = run(World(line), threshold=1.0, max_order=1, warmup_steps=2)
    assert report.full_steps == [0, 1]
    for step, output in enumerate(outputs):
        torch.testing.assert_close(output, World(line).output(step), rtol=1e-12, atol=0)


def test_of_every_third_channel_only_that_is_compared() -> None:
    def elsewhere(site: Site, step: float) -> Tensor:
        values = constant(site).clone()
        values[:, 1::3] *= 1 + step
        return values

    assert run(World(elsewhere), threshold=0.01, channel_stride=3)[1].full_steps == [0]
    assert run(World(elsewhere), threshold=0.01)[1].full_steps == list(range(STEPS))


def test_a_model_of_one_block_is_computed_and_told() -> None:
    _, report = run(World(constant, depth=1))
    assert report.full_steps == list(range(STEPS))
    assert "has no other" in report.warnings[0]


@pytest.mark.parametrize(("option", "value"), [("threshold", -0.1), ("max_order", -1), ("decide", "rows"), ("channel_stride", 0)])
def test_what_is_no_option_is_refused(option: str, value: Any) -> None:
    with pytest.raises(foreseer.OptionError, match=f"{option}={value!r}"):
        foreseer.policy(first_block_cache, **{option: value})


@pytest.mark.parametrize("model", ["flux-dev", "hunyuan-video"])
def test_decisions_forced_by_foreseer_bench_gpu_reach_the_published_rate(model: str) -> None:
    lane = lane_of("first_block_cache", model)
    assert lane is not None
    given: dict[str, Any] = {"inputs": lambda x, t: int(t), "update": lambda x, output, i: None}
    _, report = foreseer.sample(World(mixed), None, list(range(50)), policy=lane.spec, **given)
    assert len(report.full_steps) == lane.spec.options["computed"]
    assert report.judged.sum(axis=0).max() == 49
