"""Laws of the comparison with peers, on results made by hand; and that the page of evidence says what the files say."""

from __future__ import annotations

import importlib
import itertools
import math
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from bench_results import SAMPLES, lane, made
from hypothesis import given
from hypothesis import strategies as st

from foreseer.bench.results import LaneResult
from foreseer.bench.summary import mean_of, worst_of

ROOT = Path(__file__).parents[1]
with pytest.MonkeyPatch.context() as patch:  # what builds the page is no package: it imports what lies beside it
    patch.syspath_prepend(str(ROOT / "docs" / "_build"))
    front = importlib.import_module("front")
best, front_of, points_of_peers, steps_of = front.best, front.front_of, front.points_of_peers, front.steps_of
costs = st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
settings = st.lists(st.tuples(costs, st.floats(10, 60)), min_size=1, max_size=8)


@given(settings)
def test_a_front_is_beaten_by_no_lane_and_every_other_lane_is(found: list[tuple[float, float]]) -> None:
    lanes = [lane(f"{n}", psnr, cost) for n, (cost, psnr) in enumerate(found)]
    front = front_of(lanes)
    for one in lanes:
        better = [other for other in front if steps_of(other) <= steps_of(one) and mean_of(other, "psnr") >= mean_of(one, "psnr")]
        assert better, "whatever is not on the front is beaten by something on it"
    assert all(steps_of(a) < steps_of(b) and mean_of(a, "psnr") < mean_of(b, "psnr") for a, b in itertools.pairwise(front))


@given(settings, settings)
def test_a_peer_is_held_against_the_best_of_what_computes_no_more(policies: list[tuple[float, float]], peers: list[tuple[float, float]]) -> None:
    ours = [lane(f"ours {n}", psnr, cost) for n, (cost, psnr) in enumerate(policies)]
    theirs = [lane(f"theirs {n}", psnr, cost, kind="peer", method="other") for n, (cost, psnr) in enumerate(peers)]
    results = made(lanes=(made().lanes[0], *ours, *theirs))
    points = list(points_of_peers(results, SAMPLES, least=0, most=100))
    assert [point.lane.name for point in points] == [one.name for one in front_of(theirs)]
    for point in points:
        fitting = [one for one in ours if steps_of(one) <= point.steps + 0.5]
        assert list(point.fitting) == fitting
        assert (best(fitting) is None) == (not fitting)
        if fitting:
            assert mean_of(best(fitting), "psnr") == max(mean_of(one, "psnr") for one in fitting)
            assert worst_of(best(fitting, worst_of), "psnr") == max(worst_of(one, "psnr") for one in fitting)
        mean, worst = mean_of(point.lane, "psnr"), worst_of(point.lane, "psnr")
        reached = [one for one in fitting if mean_of(one, "psnr") >= mean and worst_of(one, "psnr") >= worst]
        assert (point.matched is not None) == bool(reached)


def with_samples(found: LaneResult, *psnr: float) -> LaneResult:
    """The same lane, with the PSNRs of its samples repeated from a few."""
    (unit,) = found.units
    values = tuple(itertools.islice(itertools.cycle(psnr), SAMPLES))
    return attrs.evolve(found, units=(attrs.evolve(unit, figures={**unit.figures, "psnr": values}),))


def test_the_mean_of_one_policy_and_the_worst_sample_of_another_reach_nobody() -> None:
    """Law: a user runs one policy."""
    peer = with_samples(lane("peer", 30.0, 0.4, kind="peer", method="other"), 35.0, 25.0)
    uneven, even = with_samples(lane("uneven", 30.0, 0.4), 60.0, 20.0), with_samples(lane("even", 30.0, 0.4), 26.0)
    (point,) = points_of_peers(made(lanes=(made().lanes[0], uneven, even, peer)), SAMPLES, least=0)
    assert (best(point.fitting), best(point.fitting, worst_of)) == (uneven, even)
    assert point.matched is None
    both = with_samples(lane("both", 30.0, 0.4), 36.0, 25.0)
    (point,) = points_of_peers(made(lanes=(made().lanes[0], uneven, even, both, peer)), SAMPLES, least=0)
    assert point.matched == both


def test_a_lane_whose_samples_are_not_finite_hides_no_other() -> None:
    """Law: it is on no front, whether it is a peer's or ours; nor is what drew another picture."""
    lanes = [lane(f"{n}", 20.0 + 10 * n, 0.3 + 0.1 * n, kind="peer", method="other") for n in range(3)]
    broken = with_samples(lane("broken", 30.0, 0.1, kind="peer", method="other"), math.nan)
    assert front_of([broken, *lanes]) == lanes
    noise = lane("noise", -27.0, 0.1, kind="peer", method="other")
    ours = [with_samples(lane("ours, broken", 30.0, 0.1), math.nan), lane("ours", 50.0, 0.2)]
    points = list(points_of_peers(made(lanes=(made().lanes[0], *ours, broken, noise, *lanes)), SAMPLES, least=0))
    assert [point.lane for point in points] == lanes
    assert all(best(point.fitting) == best(point.fitting, worst_of) == point.matched == ours[1] for point in points)


def test_failed_lanes_are_on_no_front() -> None:
    broken = lane("broken", 90.0, 0.2, kind="peer", method="other", error="ValueError: no")
    assert not list(points_of_peers(made(lanes=(made().lanes[0], broken)), SAMPLES, least=0))


def test_the_page_of_evidence_is_what_the_results_say() -> None:
    done = subprocess.run([sys.executable, "docs/_build/evidence.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
