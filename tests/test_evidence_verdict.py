"""Laws of the verdict on cache, solver or both, on results made by hand, and of the page that says it."""

from __future__ import annotations

import importlib
import itertools
import math
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreseer.bench.results import LaneResult, Results, Unit
from foreseer.bench.summary import gain_at_equal_cost, standard_errors
from foreseer.errors import OptionError

ROOT = Path(__file__).parents[1]


def beside_the_page(name: str) -> ModuleType:
    """What builds the page is no package: it imports what lies beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs" / "_build"))
        return importlib.import_module(name)


verdict, answer, picture, sections, short = map(beside_the_page, ("verdict", "evidence_answer", "front_picture", "evidence_results", "evidence_short"))

SAMPLES, STEPS, DEPTH = 16, 50, 4
SPREAD = np.linspace(-3, 3, SAMPLES)
"""How samples differ, dB: far more than lanes do, so that only pairs tell them apart."""
WOBBLE = 0.05 * np.resize([1.0, -1.0], SAMPLES)
"""What a lane differs by from sample to sample: its mean is 0."""


def lane(name: str, truth: Any, evaluations: float, *, kind: Any = "policy", solver: str = "", steps: float | None = None, **more: Any) -> LaneResult:
    """A lane with PSNRs to the converged solution, at so many evaluations in block-rows; it computes ``steps``."""
    values = tuple(np.broadcast_to(truth, SAMPLES).tolist())
    unit = Unit(
        number=0,
        indices=tuple(range(SAMPLES)),
        steps=(evaluations if steps is None else steps,) * SAMPLES,
        block_rows=evaluations * DEPTH * SAMPLES,
        figures={"psnr": values, "truth": values},
    )
    given: dict[str, Any] = {"num_steps": round(evaluations) if kind == "fewer" else STEPS, "batch": SAMPLES, "units": (unit,)}
    return LaneResult(name=name, kind=kind, solver=solver, **{**given, **more})


def plain(count: int, truth: float, solver: str = "") -> LaneResult:
    return lane(f"{solver or 'full'}, {count} steps", truth + SPREAD, count, kind="fewer", solver=solver)


def results(*lanes: LaneResult, **changes: Any) -> Results:
    full = lane("full", 40.0 + SPREAD, STEPS, kind="full")
    reference = {"solver": "dpmpp_2m", "steps": 400, "agreement": {str(i): 66.0 for i in range(SAMPLES)}}
    given: dict[str, Any] = {"family": "dit", "num_steps": STEPS, "seed": 17, "guidance": 1.5, "depth": DEPTH, "finished": True, "reference": reference}
    known: dict[str, Any] = {"settings": {"batch": [SAMPLES], "repeats": 0}, "machine": {}, "versions": {}}
    return Results(**{**given, **known, "lanes": (full, *lanes), **changes})


def own(count: int) -> float:
    """What plain sampling reaches with so many evaluations, dB: a straight line, so that interpolation is exact."""
    return 30.0 + 0.8 * count


FEWER = tuple(plain(count, own(count) - (0.0 if solver else 2.0), solver) for count in (5, *verdict.COUNTS, 30) for solver in ("", "dpmpp_2m"))
few = settings(max_examples=15)
counts, ways = st.sampled_from(verdict.COUNTS), st.sampled_from(("cache", "both"))


def cache(way: str, truth: Any, evaluations: float, **more: Any) -> LaneResult:
    return lane(f"gate {way} {evaluations} {next(NUMBERS)}", truth, evaluations, method="gate", solver="dpmpp_2m" if way == "both" else "", **more)


NUMBERS = itertools.count()


def at(found: Results, count: int) -> Any:
    (chosen,) = (one for one in verdict.choices(found, SAMPLES) if one.count == count)
    return chosen


@few
@given(counts, ways, st.floats(0.5, 20), st.integers(0, 4), st.floats(-0.4, 0.4))
def test_what_is_better_on_every_sample_by_more_than_noise_wins(count: int, way: str, margin: float, others: int, aside: float) -> None:
    """Law: and it wins at whatever cost it has near a number of evaluations, held against plain solvers at that cost."""
    there = count + aside
    best = cache(way, own(there) + margin + SPREAD + WOBBLE, there)
    rest = [cache("both", own(count) - 1.0 - n + SPREAD, count) for n in range(others)]
    chosen = at(results(*FEWER, *rest, best), count)
    assert chosen.winners == (way,)
    assert chosen.clear
    assert chosen.ways[way].lane == best
    assert chosen.ways[way].mean == pytest.approx(margin, abs=1e-6)


@few
@given(counts, ways, st.floats(0.5, 20))
def test_what_is_worse_on_every_sample_loses_to_the_best_plain_solver(count: int, way: str, margin: float) -> None:
    """Law: the baseline is the best solver with as many evaluations, not the model's own."""
    chosen = at(results(*FEWER, cache(way, own(count) - margin + SPREAD + WOBBLE, count)), count)
    assert chosen.winners == ("solver",)
    assert chosen.ways["solver"].lane.solver == "dpmpp_2m"


@few
@given(counts, st.floats(0, 0.9), st.floats(0.1, 5))
def test_nothing_wins_within_noise(count: int, share: float, spread: float) -> None:
    """Law: a mean difference below the bound, whichever way it points, leaves both among the winners."""
    noise = spread * np.resize([1.0, -1.0], SAMPLES)
    error = noise.std(ddof=1) / math.sqrt(SAMPLES)
    for sign in (1, -1):
        apart = sign * share * standard_errors(SAMPLES) * error
        chosen = at(results(*FEWER, cache("both", own(count) + apart + noise + SPREAD, count)), count)
        assert set(chosen.winners) == {"solver", "both"}
        assert not chosen.clear


@few
@given(st.integers(2, 40), st.floats(1.05, 1.6))
def test_the_best_of_many_must_be_better_than_the_best_of_one(tried: int, factor: float) -> None:
    """Law: what is barely beyond noise alone is not when it was chosen among many."""
    noise = np.resize([1.0, -1.0], SAMPLES)
    error = noise.std(ddof=1) / math.sqrt(SAMPLES)
    apart = factor * standard_errors(SAMPLES) * error
    best = cache("both", own(14) + apart + noise + SPREAD, 14)
    rest = [cache("cache", own(14) - 10.0 + SPREAD, 14) for _ in range(tried - 1)]
    assert at(results(*FEWER, best), 14).winners == ("both",)
    among = at(results(*FEWER, *rest, best), 14)
    assert among.tried == tried
    assert among.winners == (("both",) if factor * standard_errors(SAMPLES) > standard_errors(SAMPLES, comparisons=tried) else ("both", "solver"))


def test_what_a_gate_computes_to_judge_counts() -> None:
    """Law: costs are block-rows: eight computed steps and probes worth six more are fourteen evaluations."""
    gate = cache("cache", own(8) + 3.0 + SPREAD + WOBBLE, 14, steps=8)
    found = results(*FEWER, gate)
    assert at(found, 8).ways.keys() == {"solver"}
    assert at(found, 14).winners == ("solver",)
    assert at(found, 14).ways["cache"].evaluations == pytest.approx(14)


@few
@given(st.floats(5.5, 28.4))
def test_every_cost_belongs_to_one_number_of_evaluations(evaluations: float) -> None:
    """Law: a lane is shown at one number, the nearest by half way, and held against plain solvers interpolated to its cost."""
    found = results(*FEWER, one := cache("both", own(evaluations) + 1.0 + SPREAD, evaluations))
    places = [choice for choice in verdict.choices(found, SAMPLES) if "both" in choice.ways]
    assert len(places) == 1
    nearest = min(abs(count - evaluations) for count in verdict.COUNTS)
    assert abs(places[0].count - evaluations) == pytest.approx(nearest)
    held = places[0].ways["both"]
    assert held.over == gain_at_equal_cost(found, one, FEWER, figure="truth")
    assert held.mean == pytest.approx(1.0, abs=1e-6)


def test_what_failed_or_was_not_drawn_whole_or_costs_too_much_is_left_out() -> None:
    best = own(14) + 9.0 + SPREAD
    failed, far = cache("both", best, 14, error="ValueError: no"), cache("both", best, 45)
    (unit,) = cache("both", best, 14).units
    half = attrs.evolve(unit, indices=unit.indices[:8], steps=unit.steps[:8], figures={name: values[:8] for name, values in unit.figures.items()})
    part, blind = cache("both", best, 14, units=(half,)), cache("both", best, 14, units=(attrs.evolve(unit, figures={"psnr": unit.figures["psnr"]}),))
    assert all(choice.ways.keys() == {"solver"} for choice in verdict.choices(results(*FEWER, failed, far, part, blind), SAMPLES))


def test_the_fewest_evaluations_that_are_nearer_than_full_computation_are_found() -> None:
    """Law: beyond noise, and by another solver: full computation has 40 dB here, and 14 evaluations 41.2."""
    lane, over = verdict.enough_steps(results(*FEWER), SAMPLES)
    assert (lane.solver, lane.num_steps) == ("dpmpp_2m", 14)
    assert over.mean == pytest.approx(own(14) - 40)
    assert verdict.enough_steps(results(*(plain(count, 20.0, "dpmpp_2m") for count in verdict.COUNTS)), SAMPLES) is None


@settings(max_examples=10)
@given(st.lists(st.tuples(counts, ways, st.sampled_from([-3.0, 0.0, 3.0])), max_size=8))
def test_the_page_says_what_was_chosen(lanes: list[tuple[int, str, float]]) -> None:
    """Law: a cell names the winners, bold where it is one; the counts in the first sentence are those of the cells."""
    found = results(*FEWER, *(cache(way, own(count) + margin + SPREAD + WOBBLE, count) for count, way, margin in lanes))
    (said,) = answer.answers({"solvers_dit": found})
    written = list(answer.cells(said))
    for choice, cell in zip(said.choices, written, strict=True):
        named = " or ".join(way for way in verdict.WAYS if way in choice.winners)
        level = set(choice.winners) == set(choice.ways)
        assert cell == ("no cache tried" if len(choice.ways) < 2 else f"**{named}**" if choice.clear else "level" if level else named)
    judged = [cell for cell in written if cell != "no cache tried"]
    alone = sum(cell == "level" or "solver" in cell for cell in judged)
    page = "\n".join(answer.page({"solvers_dit": found}))
    assert f"At {alone} of {len(judged)} places" in page
    assert "The truth is dpmpp_2m with 400 steps" in page


def test_a_claim_is_judged_by_either_distance() -> None:
    """Law: near to full computation and far from the solution, a method holds its claim by one and fails it by the other."""
    values = [tuple((own(14) + apart + SPREAD + WOBBLE).tolist()) for apart in (3.0, -3.0)]
    gate = lane("gate", 0.0, 14, method="cg_taylor")
    (unit,) = gate.units
    gate = attrs.evolve(gate, units=(attrs.evolve(unit, figures=dict(zip(("psnr", "truth"), values, strict=True))),))
    found = results(*FEWER, gate)
    judged = [answer.judged({"cg_taylor": found}, figure) for figure in ("psnr", "truth")]
    paper = "Forecasting beats fewer steps at equal cost (all three papers)"
    assert judged == [{paper: {finding: {"the DiT": ["cg_taylor"]}}} for finding in ("holds", "fails")]


def test_a_planned_grid_is_held_against_the_same_solver() -> None:
    """Law: at as many evaluations, beyond noise, and against no other solver."""
    grids = [plain(count, own(count) + apart, "dpmpp_2m:timesteps=plan.json") for count, apart in ((6, 2.0), (8, -2.0), (10, 0.0))]
    said = short.grids({"grid_dit": results(*FEWER, *grids, plain(14, 60.0, "unipc:timesteps=plan.json"))})
    assert said.endswith("at 1 of 3 places, and farther at 1")
    assert not short.grids({"grid_dit": results(*FEWER)})


def test_the_worst_sample_is_held_against_the_peer_whose_worst_sample_is_best() -> None:
    peers = [cache("cache", values, 14, kind="peer") for values in (30.0 + SPREAD, 28.0 + 0.5 * SPREAD)]  # worst 27 and 26.5
    ours = [cache("cache", values, 14) for values in (40.0 + 5 * SPREAD, 33.0 + SPREAD)]  # worst 25 and 30
    assert "+3.0 dB in the worst sample and +3.0 in the mean (" in short.worst({"worst_dit": results(*peers, *ours)})
    assert not short.worst({"worst_dit": results(*ours)})


def test_results_without_a_reference_say_so() -> None:
    """Law: no table without the converged reference stands without a sentence that says so."""
    old = results(*FEWER, reference={}, settings={"batch": [SAMPLES], "repeats": 0})
    assert sections.WITHOUT_TRUTH in list(sections.section(ROOT, "speca", old))
    assert sections.WITHOUT_TRUTH not in list(sections.section(ROOT, "speca", results(*FEWER)))


def test_the_picture_has_every_lane_near_and_no_markup_of_a_name() -> None:
    lanes = [cache("both", 40.0 + SPREAD, 9), attrs.evolve(cache("cache", 41.0 + SPREAD, 9), name='<script>"&'), cache("cache", 41.0 + SPREAD, 45)]
    drawn = picture.picture(results(*FEWER, *lanes))
    assert "<script>" not in drawn
    assert "&lt;script&gt;&quot;&amp;" in drawn
    svg = drawn.partition("</svg>")[0]
    assert [svg.count(f'class="mark {kind}"') for kind in picture.SAID] == [len(verdict.COUNTS), len(verdict.COUNTS), 1, 1]
    bare = attrs.evolve(FEWER[0].units[0], figures={"psnr": FEWER[0].units[0].figures["psnr"]})
    with pytest.raises(ValueError, match="no lane has a distance to a converged reference"):
        picture.picture(results(attrs.evolve(FEWER[0], units=(bare,))))
    with pytest.raises(OptionError, match="holds no results"):
        picture.draw("nowhere")


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "benchmarks").glob("*.toml")), ids=lambda path: path.stem)
def test_every_benchmark_has_the_strong_baseline_and_the_truth(path: Path) -> None:
    """Law: no table without another solver than the model's own, and without the converged reference."""
    content = tomllib.loads(path.read_text())
    assert content["solvers"]
    assert content["reference"]
