"""The laws of a target: what it takes, what reaches it, and what is given up for it."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from toy_family import ToyFamily

import foreseer.bench.target
from foreseer.bench.lanes import Sampler
from foreseer.bench.per_sample import Figures
from foreseer.bench.source import Source
from foreseer.bench.target import Target, Wanted, seconds_of
from foreseer.errors import OptionError
from foreseer.registry import parse_policy
from foreseer.workbench.gauge import Gauge
from foreseer.workbench.search import search_of
from foreseer.workbench.tune import TuneSettings, tune
from foreseer.workbench.tune_settings import BUILT_IN

TARGETS = [Target("speedup", 2), Target("steps_computed", 5), Target("time", 0.5), Target("psnr", 30), Target("psnr", 30, 0.8), Target("front")]


def figures_of(psnrs: list[float], costs: list[float]) -> Figures:
    return Figures(psnrs=psnrs, ratios=costs, steps=[10 * cost for cost in costs], seconds=costs)


@st.composite
def samples(draw: st.DrawFn, count: int = 12) -> Figures:
    """Samples as a policy draws them: it has a level, and samples differ around it."""
    level, cost, seed = draw(st.floats(10, 60)), draw(st.floats(0.1, 0.9)), draw(st.integers(0, 999))
    noise = np.random.default_rng(seed).normal(size=(2, count))
    spread = draw(st.sampled_from([0.0, 0.05]))
    return figures_of(list(level + 4 * noise[0]), list(cost * (1 + spread * noise[1])))


@pytest.mark.parametrize("target", TARGETS, ids=str)
@hypothesis_settings(max_examples=25)
@given(found=st.lists(samples(), min_size=1, max_size=8))
def test_the_best_reaches_the_target_and_is_first(target: Target, found: list[Figures]) -> None:
    """Law: for every kind: what reaches it comes before what does not, and the best is what is ranked first."""
    values = [target.values(figures)[0] for figures in found]
    fine = [value for value, figures in zip(values, found, strict=True) if target.reached(figures)]
    best = target.best(found)
    if target.kind == "front":
        assert best is None
        return
    assert (best is None) == (not fine)
    assert best is None or (target.values(best)[0] == max(values) and target.ranked(found)[0] == best)
    assert not fine or all(value < min(fine) for value, figures in zip(values, found, strict=True) if not target.reached(figures))


def test_a_share_of_the_samples_is_counted() -> None:
    """Law: the share counts samples, and the mean does not hide those that miss."""
    found = figures_of([50.0] * 9 + [29.0], [0.5] * 10)
    assert Target("psnr", 30).reached(found)
    assert Target("psnr", 30, 0.9).reached(found)
    assert not Target("psnr", 30, 0.91).reached(found)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@hypothesis_settings(max_examples=25)
@given(found=st.lists(samples(), min_size=2, max_size=6), drawn=st.integers(2, 11))
def test_what_fixed_costs_show_is_right(target: Target, found: list[Figures], drawn: int) -> None:
    """Law: nothing is given up before something reached the target; and what costs no more than all others is
    given up only for its likeness.
    """
    *others, last = found
    begun = figures_of(list(last.psnrs[:drawn]), list(target.costs(last)[:drawn]) if target.kind != "steps_computed" else list(last.ratios[:drawn]))
    why = target.hopeless(begun, samples=12, finished=others)
    if target.kind != "front" and target.best(others) is None:
        assert why == ""
    if why.startswith("costs") and not target.limits_cost:
        assert any(sum(begun.ratios) > sum(other.ratios[:drawn]) for other in others)


def test_bounds_are_seldom_wrong() -> None:
    """Law: of trials that draw from one distribution, those that are given up would have been the best in few cases."""
    random, wrong, given_up = np.random.default_rng(0), 0, 0
    target = Target("speedup", 2)
    for _ in range(600):
        difficulty = random.normal(0, 4, 16)
        best, other = (list(30 + random.normal(0, 2) + difficulty + random.normal(0, 2, 16)) for _ in range(2))
        for drawn in (4, 8, 12):
            begun = figures_of(other[:drawn], [0.4] * drawn)
            if target.hopeless(begun, samples=16, finished=[figures_of(best, [0.4] * 16)]):
                given_up += 1
                wrong += np.mean(other) > np.mean(best)
                break
    assert given_up > 150
    assert wrong <= 0.03 * 600


RANGES = ("interval=1..5", "max_order=0..2", "warmup_steps=1..3")


def settings(**changes: Any) -> TuneSettings:
    given: dict[str, Any] = {"policies": "taylorseer:target=last_block", "workload": "toy", "target": Target("speedup", 2), "ranges": RANGES}
    return TuneSettings(**{**given, "samples": 12, "batch": 3, "trials": 12, **changes})


@pytest.mark.parametrize("target", [Target("speedup", 2), Target("psnr", 60)], ids=str)
def test_what_was_given_up_would_not_have_been_the_best(target: Target, toy: ToyFamily) -> None:
    """Law: measured on all samples, none of it is better than what was chosen; it says why it was given up, is never
    chosen, and is most of what was tried.
    """
    found = tune(settings(target=target))
    assert found.chosen is not None
    assert len(found.pruned) >= 4
    assert all(point.pruned for point in found.points if point.samples < 12)
    assert not {point.policy for point in found.pruned} & {point.policy for point in found.ranked}
    gauge = Gauge(Sampler.of(toy, seed=0, num_steps=None, guidance=None), samples=12, batch=3)
    whole = [gauge.measure(parse_policy(policy)).figures for policy in {point.policy for point in found.pruned}]
    assert target.best([found.chosen, *whole]) is found.chosen
    assert not tune(settings(target=target, trials=2, whole=True)).pruned


@pytest.mark.parametrize(
    ("target", "holds"),
    [(Target("steps_computed", 5), lambda p: p.computed <= 5), (Target("time", 1e9), lambda p: p.time <= 1e9)],
    ids=["steps", "time"],
)
def test_steps_and_times_are_targets(target: Target, holds: Any, toy: ToyFamily) -> None:
    """Law: the likest of what the target allows is found, and a time is written into the preset."""
    found = tune(settings(target=target, trials=8))
    assert found.chosen is not None
    assert found.chosen.mean == max(point.mean for point in found.points if point.whole and holds(point))
    assert found.preset is not None
    assert found.preset.held_out is not None
    assert (found.preset.held_out.seconds is not None) == (target.kind == "time")


def test_policies_are_searched_side_by_side(toy: ToyFamily) -> None:
    """Law: each begins with its defaults; a range is for those that have the option; what is fixed is held."""
    found = tune(
        settings(policies=["taylorseer:target=last_block", "reuse:target=last_block,interval=3"], ranges=("interval=1..5", "max_order=0..2"), trials=10)
    )
    first, second = found.points[:2]
    assert "interval=4" in first.policy
    assert second.policy.startswith("reuse:target=last_block,interval=3")
    assert {point.policy.partition(":")[0] for point in found.points} == {"taylorseer", "reuse"}
    assert {p.policy.partition(":")[0] for p in tune(settings(policies=(), ranges=(), trials=6)).points} == set(BUILT_IN)
    with pytest.raises(OptionError, match="is for no option that is searched"):
        search_of([parse_policy("reuse"), parse_policy("taylorseer")], ["treshold=1..2"])
    with pytest.raises(OptionError, match="named twice"):
        search_of([parse_policy("reuse"), parse_policy("reuse")])


def test_a_pipeline_of_the_users_draws_one_at_a_time_unless_told() -> None:
    """Law: its prompts may differ in what they take; bundled models draw several together."""
    assert settings(batch=None).together == 4
    assert settings(batch=None, workload=Source(pipeline="mine.py:build")).together == 1
    assert settings(workload=Source(pipeline="mine.py:build")).together == 3


@pytest.mark.parametrize("text", ["4", "4s", " 4 s ", "4000ms", "0.0666667min"])
def test_a_time_is_read(text: str) -> None:
    """Law: with its unit."""
    assert seconds_of(text) == pytest.approx(4, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"time": "4h"}, "write 4s, 500ms or 1.5min"),
        ({"time": "0s"}, "time=0.0 is out of range"),
        ({"speedup": 1}, "write a number above 1"),
        ({"steps_computed": -1}, "steps_computed=-1 is out of range"),
        ({"psnr": 3, "steps_computed": 3}, "--steps-computed and --psnr were given; write one"),
    ],
)
def test_every_wrong_target_is_told(options: dict[str, Any], says: str) -> None:
    """Law: with the option and what to write."""
    with pytest.raises(OptionError, match=says):
        assert Wanted(**options).target is None
    assert Wanted().target is None


def test_examples_in_the_docstrings() -> None:
    """Law: they are true."""
    assert not doctest.testmod(foreseer.bench.target).failed
