"""DBCache against a loop written from its description; its masks against those that are published."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from foreseer_methods.db_cache import db_cache
from foreseer_methods.first_block_cache import first_block_cache
from foreseer_methods.step_masks import MASKS, read_mask, step_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import foreseer
from foreseer.testing.worlds import DEPTH, ROWS, World, constant, mixed
from foreseer.types import STREAM, Site

STEPS = 16


def run(world: World, steps: int = STEPS, policy: Any = db_cache, **options: Any) -> tuple[list[Tensor], foreseer.Report]:
    outputs: list[Tensor] = []
    spec = foreseer.policy(policy, **options)
    told: dict[str, Any] = {"inputs": lambda x, t: int(t), "update": lambda x, output, i: outputs.append(output.clone())}
    _, report = foreseer.sample(world, None, list(range(steps)), policy=spec, **told)
    return outputs, report


def released(
    world: World, *, fn: int, bn: int, threshold: float, warmup_steps: int = 0, warmup_interval: int = 1, **guards: Any
) -> tuple[list[Tensor], list[int]]:
    """One decision over the batch, in the published order."""
    most, on_end, limit = (guards.get(name, -1) for name in ("max_cached_steps", "max_continuous", "max_difference_sum"))
    mask, static = read_mask(guards["mask"]) if "mask" in guards else None, guards.get("mask_policy") == "static"
    leading = len(mask) if mask is not None and 0 not in mask else mask.index(0) if mask is not None else math.inf
    warmup = range(0, int(min(warmup_steps, leading)), warmup_interval)
    kept, cached, streak, total, outputs, computed = None, 0, 0, 0.0, [], []

    def caches(step: int, residual: Tensor) -> bool:
        nonlocal total
        if step in warmup or (mask is not None and mask[step] == 1):
            return False
        if mask is not None and static:
            return True
        if (0 <= most <= cached) or (0 <= on_end <= streak) or (limit is not None and 0 <= limit <= total) or threshold <= 0 or kept is None:
            return False
        if threshold >= 1:
            return True
        difference = ((kept[0] - residual).abs().mean() / kept[0].abs().mean()).item()
        total += difference
        return difference < threshold

    for step in range(STEPS):
        sites = (Site(fn - 1), Site(DEPTH - 1 - bn), Site(DEPTH - 1))
        done = world.forward(step, substitute={}, record=sites, see=(STREAM,))
        front, middle, last = (done.features[site] for site in sites)
        residual = front - done.seen[STREAM]
        if caches(step, residual):
            assert kept is not None
            cached, streak = cached + 1, streak + 1
            outputs.append(front + kept[1])
            for block in range(DEPTH - bn, DEPTH):
                for part in ("attn", "mlp"):
                    outputs[-1] = outputs[-1] + world.forward(step, substitute={}, record=(Site(block, part),)).features[Site(block, part)]
        else:
            kept, streak = (residual, middle - front), 0
            computed.append(step)
            outputs.append(last)
    return outputs, computed


def agree(found: tuple[list[Tensor], foreseer.Report], wanted: tuple[list[Tensor], list[int]]) -> None:
    assert found[1].full_steps == wanted[1]
    assert all(torch.equal(a, b) for a, b in zip(found[0], wanted[0], strict=True))


@pytest.mark.parametrize("threshold", [0.0, 0.003, 0.03, 0.1, 0.3, 0.9, 1.0, math.inf])
@pytest.mark.parametrize(("fn", "bn"), [(1, 0), (2, 0), (1, 2), (3, 1)])
def test_it_is_the_published_loop(threshold: float, fn: int, bn: int) -> None:
    options = {"fn": fn, "bn": bn, "threshold": threshold, "warmup_steps": 2}
    agree(run(World(mixed), decide="batch", **options), released(World(mixed), **options))


MASK = "1110100010010001"
GUARDS: dict[str, st.SearchStrategy[Any]] = {
    "max_cached_steps": st.integers(-1, 6),
    "max_continuous": st.integers(-1, 3),
    "max_difference_sum": st.floats(0.0, 0.6),
    "mask": st.just(MASK),
    "mask_policy": st.sampled_from(["dynamic", "static"]),
    "warmup_interval": st.integers(1, 3),
}


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]), st.integers(0, 6), st.fixed_dictionaries({}, optional=GUARDS))
def test_guards_answer_in_the_published_order(threshold: float, warmup: int, guards: dict[str, Any]) -> None:
    options = {"fn": 1, "bn": 1, "threshold": threshold, "warmup_steps": warmup, **guards}
    agree(run(World(mixed), decide="batch", **options), released(World(mixed), **options))


@settings(deadline=None, max_examples=15)
@given(st.sampled_from([0.02, 0.1, 0.5, 1.0]), st.fixed_dictionaries({}, optional=GUARDS))
def test_every_row_counts_for_itself(threshold: float, guards: dict[str, Any]) -> None:
    options = {"fn": 1, "bn": 0, "threshold": threshold, "warmup_steps": 1, **guards}
    outputs, report = run(World(mixed), **options)
    for row in range(ROWS):
        alone, computed = released(World(mixed, labels=[row]), **options)
        assert report.computed[:, row].nonzero()[0].tolist() == computed
        assert all(torch.equal(a[row : row + 1], b) for a, b in zip(outputs, alone, strict=True))


def test_with_one_block_in_front_and_none_behind_it_is_the_first_block_cache() -> None:
    for threshold in (0.01, 0.1, 0.5):
        ours, report = run(World(mixed), fn=1, bn=0, threshold=threshold, warmup_steps=0)
        theirs, other = run(World(mixed), policy=first_block_cache, threshold=threshold)
        assert (report.computed == other.computed).all()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_what_runs_is_what_is_in_front_and_behind() -> None:
    _, report = run(World(constant), fn=2, bn=1, threshold=0.1, warmup_steps=0)
    assert report.full_steps == [0]
    assert report.block_rows == ROWS * (DEPTH + 3 * (STEPS - 1))


def test_a_stream_or_what_was_added_may_be_forecast() -> None:
    def line(site: Site, step: float) -> Tensor:
        return constant(site) * (1 + 0.01 * step)

    for forecasts in ("residual", "stream"):
        outputs, report = run(World(line), fn=1, bn=1, threshold=1.0, warmup_steps=2, max_continuous=1, max_order=1, forecasts=forecasts)
        assert report.full_steps == [0, *range(1, STEPS, 2)]
        for step, output in enumerate(outputs):
            if step != 2:  # reused: of the warm-up its last step alone is looked back at
                torch.testing.assert_close(output, World(line).output(step), rtol=1e-12, atol=0)


PUBLISHED = {
    "slow": ("1111111101110011100110010001", 38),
    "medium": ("1111110110001100011000110001", 29),
    "fast": ("1111110100010000100000100001", 20),
    "ultra": ("1111001000001000000100000001", 14),
}
FEW = {8: ("11111011", "11110101", "11101001", "11001001"), 6: ("111001",) * 4, 4: ("1101",) * 4}


@pytest.mark.parametrize("name", MASKS)
def test_masks_by_name_are_those_published(name: str) -> None:
    assert step_mask(name, 28) == read_mask(PUBLISHED[name][0])
    assert sum(step_mask(name, 50)) == PUBLISHED[name][1]
    for steps, masks in FEW.items():
        assert step_mask(name, steps) == read_mask(masks[list(MASKS).index(name)])


@given(st.sampled_from(list(MASKS)), st.integers(8, 200))
def test_masks_have_an_entry_for_each_step_and_end_as_they_begin(name: str, steps: int) -> None:
    mask = step_mask(name, steps)
    assert len(mask) == steps
    assert mask[0] == mask[-1] == 1


@given(st.sampled_from(list(MASKS)), st.integers(12, 27))
def test_fewer_than_28_steps_have_the_same_share_computed(name: str, steps: int) -> None:
    """cache-dit cuts the runs at the end: fast has 8 computed steps of 20, and 12 cached ones on end."""
    assert abs(sum(step_mask(name, steps)) - sum(step_mask(name, 28)) * steps / 28) <= 2


def test_a_named_mask_is_a_schedule() -> None:
    _, report = run(World(mixed), steps=28, fn=1, threshold=0.0, mask="ultra", mask_policy="static")
    assert report.full_steps == [i for i, c in enumerate(PUBLISHED["ultra"][0]) if c == "1"]


def test_a_mask_of_another_length_and_a_run_of_unknown_length_are_refused() -> None:
    """cache-dit forecasts every step behind the end of its mask, in silence."""
    with pytest.raises(foreseer.OptionError, match="16 entries and the run 12 steps"):
        run(World(mixed), steps=12, fn=1, mask=MASK)
    world = World(mixed)
    unknown = foreseer.Run(DEPTH, ROWS, (0, 1, 2), sites=world.sites, places=world.places)
    with pytest.raises(foreseer.OptionError, match="give the run timesteps= or num_steps="):
        foreseer.Session(world, foreseer.policy(db_cache, fn=1, mask="slow"), unknown)


def test_a_run_that_begins_later_has_the_rest_of_the_mask() -> None:
    world = World(mixed)
    run = foreseer.Run(DEPTH, ROWS, (0, 1, 2), num_steps=10, sites=world.sites, places=world.places, start=6)
    session = foreseer.Session(world, foreseer.policy(db_cache, fn=1, mask=MASK, mask_policy="static", warmup_steps=0), run)
    for step in range(10):
        session.evaluate(step)
    assert session.finish().full_steps == [0, 2, 5, 9], "the first of it, and steps 8, 11 and 15 of the whole"


def test_blocks_that_leave_nothing_to_forecast_are_refused() -> None:
    """cache-dit accepts numbers that overlap, and computes blocks twice."""
    with pytest.raises(foreseer.OptionError, match=r"fn=8 and bn=0 leave none of 5 blocks to forecast; write fn \+ bn <= 4"):
        run(World(mixed))


@pytest.mark.parametrize("mask", ["slwo", "", "1021", [], [1, 2], True, 12])
def test_what_is_no_mask_is_refused(mask: Any) -> None:
    with pytest.raises(foreseer.OptionError, match="mask="):
        foreseer.policy(db_cache, mask=mask)


@pytest.mark.parametrize("steps", [1, 3, 5, 7])
def test_a_named_mask_for_so_few_steps_is_refused(steps: int) -> None:
    with pytest.raises(foreseer.OptionError, match="published for 4, 6 and 8 steps and more"):
        step_mask("slow", steps)
