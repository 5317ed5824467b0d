"""The laws of `foreseer tune`: it repeats, it can be stopped, what it chooses is best, and what fails costs nothing else."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_family import ToyFamily
from toy_tuning import POLICY, RANGES, settings, without_times
from typer.testing import CliRunner

from foreseer.__main__ import app
from foreseer.bench.per_sample import pareto
from foreseer.bench.target import Target
from foreseer.errors import OptionError
from foreseer.options import Range
from foreseer.presets import Preset
from foreseer.psnr import BEST_PSNR, psnr
from foreseer.registry import parse_policy, policy
from foreseer.workbench.gauge import NotFiniteError
from foreseer.workbench.search import Dimension, parse_range, space_of
from foreseer.workbench.study import Point
from foreseer.workbench.tune import Tuned, tune

pytestmark = pytest.mark.usefixtures("toy")


def span(name: str, low: float, high: float, *, whole: bool = False, log: bool = False) -> Dimension:
    return Dimension(name, Range(int if whole else float, low, high), log)


def measured(found: Tuned) -> dict[str, Any]:
    assert found.preset is not None
    return {**attrs.asdict(found.preset), "found": None}


def test_a_search_repeats_to_the_digit(toy: ToyFamily) -> None:
    """Law: points and preset follow from the settings; another seed makes another search."""
    first, again, other = tune(settings()), tune(settings()), tune(settings(seed=1))
    assert without_times(first) == without_times(again)
    assert first.preset == again.preset
    assert without_times(first) != without_times(other)
    assert len({point.policy for point in first.points}) > 3


def test_the_first_trial_is_the_policys_defaults() -> None:
    """Law: as far as they lie in the ranges."""
    point = tune(settings(ranges=("interval=1..5", "max_order=0..2"), trials=1)).points[0]
    assert "interval=4" in point.policy
    assert "warmup_steps=2" in point.policy


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 3}, "seed was 0, is 3"),
        ({"samples": 4}, "samples was 3, is 4"),
        ({"target": Target("psnr", 30)}, "target was 2x by block-rows, is 30 dB"),
        ({"ranges": RANGES[:2]}, "search was"),
        ({"target": Target("front")}, "target was 2x by block-rows, is a front"),
    ],
)
def test_a_study_of_other_settings_is_refused_with_what_differs(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    """Law: trials of different settings never mix."""
    tune(settings(study=tmp_path / "study.db", trials=1))
    with pytest.raises(OptionError, match=f"begun with other settings: .*{says}"):
        tune(settings(study=tmp_path / "study.db", trials=1, **changes))


def test_a_file_that_is_no_study_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Law: nothing is written into what is not ours."""
    text, database = tmp_path / "text.db", tmp_path / "other.db"
    text.write_text("not a database, but some text that is long enough to be looked at" * 20)
    before = text.read_bytes()
    with pytest.raises(OptionError, match=r"text\.db' is no SQLite database"):
        tune(settings(study=text))
    assert text.read_bytes() == before
    with contextlib.closing(sqlite3.connect(tmp_path / "app.db")) as other:
        other.execute("create table mine (name text)")
        other.commit()
    with pytest.raises(OptionError, match=r"app\.db' is a database of something else"):
        tune(settings(study=tmp_path / "app.db"))
    import optuna

    optuna.create_study(study_name="mine", storage=f"sqlite:///{database}")
    with pytest.raises(OptionError, match=r"holds other studies \('mine'\)"):
        tune(settings(study=database))


def test_a_failing_trial_is_pruned_with_its_error(tmp_path: Path) -> None:
    """Law: it is counted, told, never chosen, and the others go on."""
    found = tune(
        settings(policies="speca:target=last_block,max_order=1", ranges=("verify_block=-1,7", "threshold=0.01..2:log"), trials=8, study=tmp_path / "s.db")
    )
    assert len(found.points) == 8
    assert 0 < len(found.failed) < 8
    assert all("verify_block=7 is out of range" in point.error for point in found.failed)
    assert all("verify_block=7" in point.policy for point in found.failed)
    assert not {point.policy for point in found.failed} & {point.policy for point in found.ranked}
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db")) as database:
        assert database.execute("select count(*) from trials where state = 'PRUNED'").fetchone() == (len(found.failed),)


def test_samples_that_are_not_finite_are_a_failure(toy: ToyFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: NaN is no likeness."""
    draw, lost = ToyFamily.draw, float("nan")
    monkeypatch.setattr(ToyFamily, "draw", lambda self, *a, **k: draw(self, *a, **k) * (lost if self._attached else 1.0))
    found = tune(settings(trials=2))
    said = "NotFiniteError: 2 of the first 2 samples are broken: they are not finite"
    assert [point.error for point in found.failed] == [said, said]
    assert found.preset is None
    monkeypatch.setattr(ToyFamily, "draw", lambda self, *a, **k: draw(self, *a, **k) * lost)
    with pytest.raises(NotFiniteError, match="samples of full computation are not finite"):
        tune(settings(trials=2))


def test_a_sample_that_breaks_on_held_out_samples_counts_as_nothing_and_is_told(
    toy: ToyFamily,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Law: what breaks where nobody searched is measured, not raised; the rest of the figures stand."""
    draw = ToyFamily.draw

    def breaking(self: ToyFamily, indices: Any, **how: Any) -> Any:
        found = draw(self, indices, **how)
        found[[self._attached and index == 4 for index in indices]] = float("nan")
        return found

    whole = tune(settings(trials=2)).preset
    monkeypatch.setattr(ToyFamily, "draw", breaking)
    preset = tune(settings(trials=2)).preset
    assert whole is not None
    assert preset is not None
    assert preset.tuned == whole.tuned
    assert whole.held_out is not None
    assert preset.held_out is not None
    assert (whole.held_out.broken, preset.held_out.broken) == (0, 1)
    assert preset.held_out.psnr_worst == 0.0
    assert 0 < preset.held_out.psnr_mean < whole.held_out.psnr_mean
    assert "(worst 0.00, 1 broken)" in str(preset.held_out)


def test_full_computation_is_drawn_once(toy: ToyFamily) -> None:
    """Law: whatever the number of trials; then once more for the held-out samples, and plain sampling with fewer steps for both."""
    found = tune(settings(held_out=1))
    full = [indices for indices, steps in toy.bare if steps == toy.num_steps]
    assert full == [(0, 1), (2,), (3,)]
    assert [indices for indices, steps in toy.bare if steps < toy.num_steps] == [(0, 1), (2,), (3,)]
    assert found.chosen is not None


def test_what_is_chosen_reaches_the_target_and_nothing_better_does() -> None:
    """Law: for a speed-up the likest of those that are cheap enough; for a PSNR the cheapest of those that are like enough."""
    fast = tune(settings())
    assert fast.chosen is not None
    assert fast.chosen.ratio <= 0.5
    assert fast.chosen.mean == max(point.mean for point in fast.points if point.whole and point.ratio <= 0.5)
    like = tune(settings(target=Target("psnr", fast.chosen.mean)))
    assert like.chosen is not None
    assert like.chosen.ratio == min(point.ratio for point in like.points if point.whole and point.mean >= fast.chosen.mean)
    assert tune(settings(target=Target("speedup", 1000))).preset is None


def test_a_presets_figures_are_those_of_drawing_with_it_again(toy: ToyFamily) -> None:
    """Law: on the samples of the search and on those held out, which are others."""
    preset = tune(settings()).preset
    assert preset is not None
    for m in (preset.tuned, preset.held_out):
        assert m is not None
        indices = range(m.first, m.first + m.samples)
        full = toy.draw(indices, seed=0, num_steps=toy.num_steps, guidance=1.0)
        with toy.attached(policy(preset), num_steps=toy.num_steps, samples=m.samples) as attached:
            own = toy.draw(indices, seed=0, num_steps=toy.num_steps, guidance=1.0)
        assert m.psnr_mean == pytest.approx(psnr(own, full).mean(), rel=1e-3)
        assert m.psnr_worst == pytest.approx(psnr(own, full).min(), rel=1e-3)
        assert m.block_rows_ratio == attached.report.block_rows_ratio
        assert m.fewer_psnr_mean is not None
    assert preset.held_out is not None
    assert (preset.tuned.first, preset.held_out.first) == (0, 3)
    assert preset.signature.num_steps == toy.num_steps
    assert not preset.signature.conflicts(attached.report.run)


points = st.builds(lambda n, r, m: Point(number=n, policy=f"p:{n}", ratios=[r], psnrs=[m]), st.integers(0, 99), st.floats(0.05, 1.2), st.floats(-20, 120))


@given(st.lists(points, min_size=1, max_size=12), st.sampled_from([Target("speedup", 3), Target("psnr", 30)]))
def test_the_order_that_the_sampler_sees_is_that_of_the_choice(found: list[Point], target: Target) -> None:
    """Law: all that reach the target come before all that do not, and the best is first."""
    values = {id(point): target.values(point)[0] for point in found}
    fine = [values[id(p)] for p in found if target.reached(p)]
    poor = [values[id(p)] for p in found if not target.reached(p)]
    assert not fine or not poor or min(fine) > max(poor)
    best = target.best(found)
    assert (best is None) == (not fine)
    assert best is None or values[id(best)] == max(fine)


@given(st.lists(points, min_size=1, max_size=12))
def test_a_front_is_what_nothing_beats(found: list[Point]) -> None:
    """Law: no point of it is beaten in both, and each point that is left out is beaten or equalled by one of it."""
    front = pareto(found)
    assert not any(q.ratio <= p.ratio and q.mean >= p.mean and (q.ratio, q.mean) != (p.ratio, p.mean) for p in front for q in found)
    assert all(any(q.ratio <= p.ratio and q.mean >= p.mean for q in front) for p in found)


def test_a_front_is_searched_and_has_no_preset() -> None:
    """Law: the trials of a front follow from the seed too."""
    found = tune(settings(target=Target("front")))
    assert without_times(found) == without_times(tune(settings(target=Target("front"))))
    assert found.ranked == pareto([point for point in found.points if point.whole])
    assert found.preset is None


@given(st.floats(-1e6, 1e6, allow_nan=False), st.floats(-1e6, 1e6, allow_nan=False), st.booleans())
def test_a_range_is_read_as_it_was_written(low: float, high: float, log: bool) -> None:
    """Law: LOW..HIGH[:log] is read back to the digit, or refused where it has no meaning."""
    text = f"threshold={low!r}..{high!r}{':log' if log else ''}"
    if low < high and (low > 0 or not log):
        assert parse_range(text) == span("threshold", low, high, log=log)
    else:
        with pytest.raises(OptionError, match=r"ends before it begins|has no logarithm"):
            parse_range(text)


@pytest.mark.parametrize(
    ("text", "is_read_as"),
    [
        ("max_order=0..3", span("max_order", 0, 3, whole=True)),
        ("decide=row,batch", Dimension("decide", ("row", "batch"))),
        ("max_draft_steps=None,3,5", Dimension("max_draft_steps", (None, 3, 5))),
        ("predictor=taylor,(hicache:scale=0.5,max_order=2)", Dimension("predictor", ("taylor", "hicache:scale=0.5,max_order=2"))),
    ],
)
def test_ranges_and_lists(text: str, is_read_as: object) -> None:
    """Law: values are read as options are."""
    assert parse_range(text) == is_read_as


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("threshold", "is no range; write NAME=LOW..HIGH"),
        ("threshold=0.1", r"hold it: POLICY:threshold=VALUE"),
        ("threshold=0.1,0.1", "two different values"),
        ("threshold=a..b", "'a' in 'threshold=a..b' is no number"),
        ("threshold=0.1..0.2:lin", "ends in ':lin'"),
        ("threshold=-1..0.5", r"-1 in 'threshold=-1..0.5' is out of range; cg_taylor allows a number >= 0"),
        ("warmup_steps=0.5..2.5", r"0.5 in .* is out of range; cg_taylor allows a whole number >= 1"),
        ("decide=row,column", r"'column' in .* is out of range; cg_taylor allows one of 'row', 'batch'"),
        ("treshold=0.1..0.2", "did you mean 'threshold'"),
        ("last_order=0..3", "is a range for what 'cg_taylor:last_order=1' fixes"),
    ],
)
def test_every_wrong_range_is_told(text: str, says: str) -> None:
    """Law: with the text, and what to write instead."""
    with pytest.raises(OptionError, match=says):
        space_of(parse_policy("cg_taylor:last_order=1"), [text])


def test_a_space_is_what_the_policy_declares() -> None:
    """Law: what is written is held; what is declared is searched; what was decided for the user is said; every value is one that the policy takes."""
    space = space_of(parse_policy("speca:max_order=2"), ["threshold=1..2"])
    found = {dimension.name: dimension for dimension in space.dimensions}
    assert found["threshold"] == span("threshold", 1, 2)
    assert found["threshold_decay"] == span("threshold_decay", 0.001, 1.0, log=True)
    assert found["decide"] == Dimension("decide", ("row", "batch"))
    assert found["target"] == Dimension("target", ("modules", "last_block", "residual", "residual_after_first"))
    assert found["max_draft_steps"] == span("max_draft_steps", 1, 10, whole=True)
    assert not {"max_order", "predictor", "threshold_floor", "verify_block"} & set(found)
    said = " ".join(space.notes)
    assert all(f"{name} " in said for name in ("predictor", "threshold_floor", "verify_block", "warmup_steps", "max_draft_steps"))
    for dimension in space.dimensions:
        for value in dimension.ends:
            space.policy({dimension.name: value})
    with pytest.raises(OptionError, match="there is nothing to tune in 'none'"):
        space_of(parse_policy("none"))


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: nothing was drawn."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(OptionError, match=r"tuning needs optuna: pip install 'foreseer\[workbench\]'"):
        tune(settings())


def test_a_policy_that_cannot_be_written_is_refused() -> None:
    """Law: a preset holds text."""
    spec = attrs.evolve(parse_policy("taylorseer"), options={"predictor": lambda max_order=1: parse_policy("taylor")()[0]})
    with pytest.raises(OptionError, match="cannot be written on one line"):
        settings(policies=spec).specs()


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["tune", POLICY, "--workload", "toy", "--samples", "2", "--trials", "4", *arguments], env={"COLUMNS": "220"})


def test_the_command_writes_a_preset_that_loads(tmp_path: Path) -> None:
    """Law: what it prints and what it writes are one search."""
    done = call("--speedup", "2", "--ranges", *RANGES, "--out", str(tmp_path / "toy.json"))
    assert done.exit_code == 0, done.output
    preset = Preset.load(tmp_path / "toy.json")
    assert preset.name == "toy"
    assert preset.policy in done.output
    assert "2 held out" in done.output
    assert preset.found["search"] == [f"{POLICY}: {', '.join(RANGES)}"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ((), 2, "neither a target nor a promise was given; write one of"),
        (("--front", "--psnr", "3"), 2, "--psnr and --front were given; write one"),
        (("--front", "--out", "x.json"), 2, "a front is many"),
        (("--speedup", "0.5"), 2, "speedup=0.5 is out of range; write a number above 1"),
        (("--psnr", "30", "--trials", "0"), 2, "trials=0 is out of range"),
        (("--speedup", "900", "--ranges", "interval=1..3"), 1, "no trial reached 900x"),
        (("--front", "--ranges", "interval=1..3"), 0, "4 trials on 2 samples of toy, 0 failed"),
    ],
)
def test_the_command_says_what_to_write(arguments: tuple[str, ...], status: int, says: str) -> None:
    """Law: 2 for what is written wrong, 1 where nothing reached the target."""
    done = call(*arguments)
    assert done.exit_code == status, done.output
    assert says in " ".join(done.output.split())


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, toy: ToyFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: status 130; with a study's file the finished trials are kept."""

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(toy, "draw", interrupted)
    done = call("--speedup", "2", "--study", str(tmp_path / "s.db"))
    assert done.exit_code == 130
    assert "go on with: foreseer" in " ".join(done.output.split())
    assert "nothing was kept" in call("--speedup", "2").output


def test_times_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a clock that jumps changes no point."""
    calm = tune(settings(trials=6))
    ticks = iter(range(10**6))
    monkeypatch.setattr("foreseer.bench.clock.time.perf_counter", lambda: float(next(ticks) ** 2))
    assert without_times(tune(settings(trials=6))) == without_times(calm)
    assert not any(math.isnan(point.ratio) for point in calm.points)


def test_a_preset_is_plain_json(tmp_path: Path) -> None:
    """Law: no NaN and no infinity, even where samples are those of full computation."""
    preset = tune(settings(policies="taylorseer:target=last_block,interval=1", target=Target("psnr", 100), ranges=("max_order=0..2",), trials=1)).preset
    assert preset is not None
    content = json.loads(preset.save(tmp_path / "p.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert content["policy"] == preset.policy
    assert content["tuned"]["psnr_mean"] == BEST_PSNR
