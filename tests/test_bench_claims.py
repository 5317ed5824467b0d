"""The laws of summaries, claims and differences, on results made by hand."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from foreseer.__main__ import app
from foreseer.bench.diff import diff
from foreseer.bench.results import Counted, LaneResult, Results, Unit
from foreseer.bench.sentences import sentence_of
from foreseer.bench.summary import counted, gain, gain_at_equal_cost, lines_of, mean_of, worst_of
from foreseer.bench.tables import COLUMNS, print_diff
from foreseer.psnr import BEST_PSNR

with pytest.MonkeyPatch.context() as patch:  # what builds the page is no package: it imports what lies beside it
    patch.syspath_prepend(str(Path(__file__).parents[1] / "docs" / "_build"))
    verdicts = importlib.import_module("claims").verdicts

SAMPLES, STEPS, DEPTH = 8, 10, 4
SPREAD = np.linspace(-1, 1, SAMPLES)


def lane(name: str, psnr: float | Sequence[float], cost: float = 1.0, *, kind: Any = "policy", method: str = "", **more: Any) -> LaneResult:
    """A lane whose samples' PSNRs lie around a mean, at a share of the block-rows of full computation."""
    values = tuple(float(v) for v in (psnr if isinstance(psnr, (tuple, list)) else psnr + SPREAD))
    figures: Mapping[str, Any] = {"psnr": values, "accuracy": (1.0,) * SAMPLES}
    times = {key: tuple(more.pop(key)) for key in ("seconds", "full_seconds") if key in more}
    unit = Unit(
        number=0,
        indices=tuple(range(SAMPLES)),
        steps=(cost * STEPS,) * SAMPLES,
        block_rows=cost * STEPS * DEPTH * SAMPLES,
        figures=figures,
        **times,
    )
    counted = Counted(flops=int(cost * 1e9), peak_bytes=1000, peak_how="tensors")
    return LaneResult(name=name, kind=kind, batch=SAMPLES, num_steps=STEPS, method=method, units=(unit,), counted=counted, **more)


def results(*lanes: LaneResult, **more: Any) -> Results:
    full = lane("full", (math.inf,) * SAMPLES, kind="full")
    given: dict[str, Any] = {"family": "dit", "num_steps": STEPS, "seed": 0, "guidance": 1.5, "settings": {}, "machine": {}, "versions": {}, "depth": DEPTH}
    return Results(**{**given, **more}, lanes=(full, *lanes))


def taylor(psnr: float, cost: float = 0.3, target: str = "modules", **options: Any) -> LaneResult:
    return lane(f"taylorseer:{cost},{target},{options}", psnr, cost, method="taylorseer", options={"interval": 3, "max_order": 1, "target": target, **options})


def finding(found: Results, claim: str) -> Any:
    (verdict,) = (v for v in verdicts(found) if v.claim == claim)
    assert all(f"{v:+.2f}" in verdict.sentence for k, v in verdict.numbers.items() if k.endswith("_db"))
    return verdict


def test_what_was_not_measured_has_no_verdict() -> None:
    """Law: claims are judged from what is there, or not at all."""
    assert not verdicts(results())
    assert not verdicts(results(lane("speca", 30, 0.4, method="speca", options={"decide": "row"})))


@pytest.mark.parametrize(("psnr", "expected"), [(33.0, "holds"), (27.0, "fails"), (30.0, "open")])
def test_forecasting_is_held_against_reuse_at_equal_interval(psnr: float, expected: str) -> None:
    """Law: only lanes that differ in the order are compared."""
    found = results(taylor(30.0, max_order=0), taylor(psnr, max_order=1), taylor(50.0, max_order=1, interval=2))
    verdict = finding(found, "forecasting_beats_reuse")
    assert verdict.finding == expected
    assert verdict.numbers["comparisons"] == 1
    assert verdict.numbers["median_gain_db"] == pytest.approx(psnr - 30)


def test_the_share_of_order_one_is_of_the_best_order() -> None:
    """Law: share = (order 1 - order 0) / (best - order 0)."""
    verdict = finding(results(*(taylor(p, max_order=o) for o, p in enumerate((30.0, 33.0, 34.0)))), "order_one_carries_most")
    assert verdict.numbers["lowest_share"] == pytest.approx(0.75)
    assert "75 to 75 %" in verdict.sentence


def test_settings_at_which_no_order_gains_anything_are_counted() -> None:
    """Law: a claim is not judged from the settings that suit it."""
    losing = [taylor(p, max_order=o, interval=5) for o, p in enumerate((30.0, 29.0, 29.5))]
    verdict = finding(results(*(taylor(p, max_order=o) for o, p in enumerate((30.0, 33.0, 34.0))), *losing), "order_one_carries_most")
    assert (verdict.finding, verdict.numbers["without_gain"]) == ("mixed", 1)
    assert "at 1 of 2 settings no order gains anything" in verdict.sentence
    assert finding(results(*losing), "order_one_carries_most").finding == "open"


def test_a_gate_is_held_against_the_schedule_at_equal_cost() -> None:
    """Law: between two schedules each sample is interpolated; where no schedule costs more, nothing is extrapolated."""
    schedules = [taylor(20.0, 0.2, "last_block"), taylor(30.0, 0.4, "last_block"), taylor(99.0, 0.3, "modules")]
    gate = lane("cg_taylor", 27.0, 0.3, method="cg_taylor", options={"decide": "row"})
    verdict = finding(results(*schedules, gate), "first_block_gate_beats_schedule")
    assert (verdict.finding, verdict.numbers["median_gain_db"]) == ("holds", pytest.approx(2.0))
    dear = lane("cg_taylor", 27.0, 0.5, method="cg_taylor", options={"decide": "row"})
    assert gain_at_equal_cost(results(), dear, schedules) is None


def test_rows_are_held_against_batches_of_the_same_policy() -> None:
    """Law: thresholds may differ, since costs are made equal; no other option may."""
    options = {"threshold": 0.1, "max_order": 1}
    batch = [lane(f"b{c}", p, c, method="speca", options={**options, "decide": "batch", "threshold": c}) for c, p in ((0.2, 20.0), (0.4, 30.0))]
    other = lane("other", 50.0, 0.3, method="speca", options={**options, "decide": "batch", "max_order": 4})
    row = lane("row", 26.0, 0.3, method="speca", options={**options, "decide": "row"})
    assert finding(results(*batch, other, row), "rows_beat_batches").numbers["median_gain_db"] == pytest.approx(1.0)


def test_the_cost_of_verification_is_read_from_the_steps() -> None:
    """Law: an accepted step less one that was forecast unseen, over a full step; the first step does not count."""

    def step(computed: bool, accept: bool | None, seconds: float) -> dict[str, Any]:
        return {"computed": [computed], "accept": None if accept is None else [accept], "seconds": seconds}

    steps = [step(True, None, 9.0), step(True, None, 1.0), step(False, True, 0.15), step(False, None, 0.1), step(True, False, 5.0)]
    verdict = finding(results(lane("speca", 30, 0.4, method="speca", reports={"model": {"steps": steps}})), "verification_cost")
    assert verdict.numbers["share_of_seconds"] == pytest.approx(0.05)
    assert verdict.numbers["share_of_blocks"] == 1 / DEPTH
    assert verdict.finding == "fails"


@given(st.lists(st.floats(5, 60), min_size=SAMPLES, max_size=SAMPLES))
def test_a_gain_over_itself_is_nothing(psnr: list[float]) -> None:
    """Law: pairing is by sample, and a lane gains nothing over itself."""
    one = lane("one", psnr, 0.5)
    found = gain(results(), one, one)
    assert found is not None
    assert (found.mean, found.error, found.share, found.clear) == (0.0, 0.0, 0.0, False)


@given(st.lists(st.floats(-1e-4, 1e-4), min_size=SAMPLES, max_size=SAMPLES))
def test_rounding_is_no_gain(jitter: list[float]) -> None:
    """Law: two ways to the same sample differ by rounding, and that is beyond no noise."""
    found = gain(results(), lane("one", (30 + SPREAD + np.array(jitter) + 1e-4).tolist(), 0.5), lane("other", 30.0, 0.5))
    assert found is not None
    assert not found.clear


def test_the_worst_sample_stands_beside_the_verdict() -> None:
    """Law: a mean hides one sample that is lost."""
    reuse = lane("reuse", 30.0, 0.3, method="taylorseer", options={"interval": 3, "max_order": 0})
    lost = lane("order 1", [12.0] + [40.0] * (SAMPLES - 1), 0.3, method="taylorseer", options={"interval": 3, "max_order": 1})
    assert "In the worst sample: -17.00 to -17.00 dB." in finding(results(reuse, lost), "forecasting_beats_reuse").sentence


def test_verification_is_held_against_schedules_of_its_own_order() -> None:
    """Law: what a higher order gains is no merit of verification."""
    fixed = [taylor(20.0, 0.2), taylor(30.0, 0.4), taylor(26.5, 0.2, max_order=4), taylor(36.5, 0.4, max_order=4)]
    judged = [lane(f"speca {o}", p, 0.3, method="speca", options={"max_order": o}) for o, p in ((1, 26.0), (4, 31.0), (2, 99.0))]
    verdict = finding(results(*fixed, *judged), "verification_beats_schedule")
    assert verdict.numbers["comparisons"] == 2
    assert (verdict.numbers["smallest_gain_db"], verdict.numbers["largest_gain_db"]) == (pytest.approx(-0.5), pytest.approx(1.0))


def test_the_gain_over_fewer_steps_is_of_the_samples_that_both_have() -> None:
    """Law: plain sampling that was stopped early is compared on its own samples."""
    fewer = lane("full, 4 steps", [20.0 + i for i in range(SAMPLES)], 0.4, kind="fewer")
    (unit,) = fewer.units
    first = attrs.evolve(unit, indices=(0, 1), steps=unit.steps[:2], figures={name: values[:2] for name, values in unit.figures.items()})
    short = attrs.evolve(fewer, num_steps=4, units=(first,))
    line = next(line for line in lines_of(results(lane("one", [21.0 + 2 * i for i in range(SAMPLES)], 0.4), short), SAMPLES) if line.lane.name == "one")
    assert line.gain == pytest.approx(1.5)


def test_one_sample_that_is_the_same_makes_no_mean_infinite() -> None:
    """Law: in means it counts as so many dB, also where all are the same; a table says so in words."""
    full, some = lines_of(results(lane("some", [math.inf] + [30.0] * (SAMPLES - 1), 0.5)), SAMPLES)
    assert (mean_of(full.lane, "psnr"), worst_of(full.lane, "psnr")) == (BEST_PSNR, BEST_PSNR)
    assert math.isinf(full.means["psnr"])
    assert math.isinf(full.worst["psnr"])
    assert some.means["psnr"] == pytest.approx((BEST_PSNR + 30 * (SAMPLES - 1)) / SAMPLES)
    assert some.worst["psnr"] == 30.0


def test_a_broken_sample_counts_as_nothing_and_the_words_say_so() -> None:
    """Law: it is 0 dB in the mean, in the worst sample and in the gain over fewer steps."""
    fewer = attrs.evolve(lane("full, 4 steps", 20.0, 0.4, kind="fewer"), num_steps=4)
    broken = lane("broken", [math.nan, math.nan] + [30.0] * (SAMPLES - 2), 0.4)
    found = results(broken, fewer)
    line = next(line for line in lines_of(found, SAMPLES) if line.lane == broken)
    assert (line.means["psnr"], line.worst["psnr"], line.broken) == (
        pytest.approx(30 * (1 - 2 / SAMPLES)),
        0.0,
        2,
    )
    assert line.gain == pytest.approx(line.means["psnr"] - 20)
    assert "with 2 that are broken (not finite) at 0 dB" in sentence_of(found, line)
    column = next(column for column in COLUMNS if column.title == "PSNR")
    assert column.text(line) == f"{line.means['psnr']:.1f} / 0.0 (2 broken)"


def test_equal_results_differ_in_nothing() -> None:
    """Law: no change where there is none."""
    found = results(lane("timed", 30.0, seconds=[1.0, 1.1, 1.0], full_seconds=[2.0, 2.0, 2.1]))
    said = diff(found, found)
    assert said.changes
    assert not said.changed
    assert (said.conditions, said.only_before, said.only_after, said.errors) == ((), (), (), ())


@given(st.floats(0.01, 5), st.booleans())
def test_a_planted_change_is_found(size: float, better: bool) -> None:
    """Law: a shift of every sample is beyond noise whatever the samples' spread, since they are paired; its sign says whether it is better."""
    before, after = results(taylor(30.0)), results(attrs.evolve(taylor(30.0 + (size if better else -size))))
    (change,) = (c for c in diff(before, after).changed if c.figure == "psnr")
    assert change.better is better
    assert change.difference == pytest.approx(size if better else -size)


@pytest.mark.parametrize("better", [False, True])
def test_a_figure_that_is_lost_or_found_is_told(better: bool) -> None:
    """Law: a lane whose samples stop being finite has become worse, and a diff is not silent about it."""
    whole, broken = results(taylor(30.0)), results(attrs.evolve(taylor(30.0), units=lane("", [math.nan] * SAMPLES, 0.3).units))
    changes = diff(broken, whole).changed if better else diff(whole, broken).changed
    (change,) = (c for c in changes if c.figure == "psnr")
    assert change.better is better
    assert change.difference == pytest.approx(30.0 if better else -30.0)
    assert change.noise == 0.0
    print_diff(diff(whole, broken))


def test_one_sample_that_differs_is_too_few_to_say() -> None:
    """Law: a single pair has no spread, so that it is neither noise nor a change; where it does not differ there is nothing to say."""

    def single(psnr: float) -> Results:
        unit = attrs.evolve(taylor(30.0).units[0], indices=(0,), steps=(3.0,), figures={"psnr": (psnr,), "accuracy": (1.0,)})
        return results(attrs.evolve(taylor(30.0), units=(unit,)))

    found = diff(single(30.0), single(35.0))
    assert not found.changed
    assert {c.figure: c.changed for c in found.changes if c.figure in ("psnr", "accuracy")} == {"psnr": None, "accuracy": False}


def test_a_sample_that_breaks_is_not_left_out_of_a_gain() -> None:
    """Law: a lane that is better on what it does not break, and breaks a sample, has lost that one whole."""
    broken = lane("broken", [*(32 + SPREAD[1:]), math.nan], 0.4)
    whole = lane("whole", 30.0, 0.4)
    found = gain(results(), broken, whole)
    assert found is not None
    assert found.samples == SAMPLES
    assert found.worst == pytest.approx(-29.0)
    assert found.mean < 0
    assert gain(results(), whole, broken).mean == pytest.approx(-found.mean)


def test_a_sample_that_breaks_in_one_of_two_opponents_counts_by_its_weight() -> None:
    """Law: between two costs, a broken sample of one opponent is not broken in the other."""
    cheap = lane("cheap", [*(20 + SPREAD[1:]), math.nan], 0.2)
    dear = lane("dear", 40.0, 0.4)
    found = gain_at_equal_cost(results(), lane("own", 40.0, 0.3999), [cheap, dear])
    assert found is not None
    assert abs(found.mean) < 0.1
    assert abs(found.worst) < 0.1


@given(st.lists(st.floats(90, 200) | st.just(math.inf), min_size=2, max_size=6))
def test_nearly_the_same_counts_no_more_than_the_same(psnr: list[float]) -> None:
    """Law: a PSNR counts at most as that of what is the same."""
    values = counted("psnr", psnr)
    assert max(values) <= BEST_PSNR
    assert all(not a <= b or c <= d for (a, b), (c, d) in zip(itertools.pairwise(psnr), itertools.pairwise(values), strict=True))
    assert counted("latent_error", psnr).tolist() == psnr


def test_without_pairs_a_shift_within_the_spread_is_noise() -> None:
    """Law: other samples are compared by their means, with both standard errors."""
    before, near, far = (results(taylor(p), seed=s) for s, p in enumerate((30.0, 30.3, 35.0)))
    assert not diff(before, near).changed
    assert [c.figure for c in diff(before, far).changed] == ["psnr"]
    assert "seed: 0 -> 1" in diff(before, near).conditions


def test_times_are_held_against_their_spread() -> None:
    """Law: a change of the median within the notches is noise, and with fewer than three runs nobody can say."""

    def timed(*ratios: float) -> Results:
        return results(lane("timed", 30.0, 0.5, seconds=[1.0] * len(ratios), full_seconds=ratios))

    assert not diff(timed(1.8, 1.9, 1.7), timed(1.85, 1.95, 1.75)).changed
    (change,) = diff(timed(1.5, 1.51, 1.49), timed(2.0, 2.01, 1.99)).changed
    assert (change.figure, change.better) == ("speedup", True)
    (unknown,) = (c for c in diff(timed(1.0, 1.0), timed(2.0, 2.0)).changes if c.figure == "speedup")
    assert unknown.changed is None
    for impossible in (timed(2.0, 2.01, 1.99), timed(9.0, 9.1, 8.9)), (timed(9.0, 9.1, 8.9), timed(2.0, 2.01, 1.99)):
        assert not [c for c in diff(*impossible).changes if c.figure == "speedup"], "half of the blocks give 2x at most"


def test_lanes_that_come_go_or_fail_are_told() -> None:
    """Law: a diff is silent about no lane."""
    failing = LaneResult(name="magcache", kind="peer", batch=SAMPLES, num_steps=STEPS, error="ValueError: no")
    said = diff(results(taylor(30.0), failing), results(lane("new", 1.0), attrs.evolve(failing, error="")))
    assert (len(said.only_before), said.only_after) == (1, (f"new (batch {SAMPLES})",))
    assert said.errors == ((f"magcache (batch {SAMPLES})", "ValueError: no", ""),)


def test_the_command_line_prints_reports_and_differences(tmp_path: Path) -> None:
    """Law: what the results say can be read in the terminal; what is not there is an error that says what to write."""
    for name, psnr in (("a", 30.0), ("b", 31.0)):
        (tmp_path / name).mkdir()
        published = ({"method": "TaylorSeer N=3", "source": "the paper", "fid": 2.34},)
        results(taylor(28.0, max_order=0), taylor(psnr), finished=True, published=published).save(tmp_path / name)
    shown = CliRunner().invoke(app, ["bench", "report", str(tmp_path / "a")])
    assert shown.exit_code == 0, shown.output
    assert "fid 2.34" in shown.output
    (tmp_path / "a" / "index.html").unlink()
    shown = CliRunner().invoke(app, ["bench", "report", str(tmp_path / "a" / "results.json")])
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "a" / "index.html").exists()
    shown = CliRunner().invoke(app, ["bench", "diff", str(tmp_path / "a"), str(tmp_path / "b")])
    assert shown.exit_code == 0, shown.output
    assert "1 changed beyond noise" in shown.output
    refused = CliRunner().invoke(app, ["bench", "report", str(tmp_path)])
    assert refused.exit_code == 2
    assert "bench run --out" in " ".join(refused.output.split())
