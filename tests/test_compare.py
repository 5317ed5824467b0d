from __future__ import annotations

import csv
import html
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from foreseer.bench.clock import MEASURING_ERROR, UNMEASURABLE
from foreseer.bench.compare_words import remarks
from foreseer.bench.compared import CompareSettings, Result, figures
from foreseer.bench.comparison import run_comparison as compare
from foreseer.bench.families import DiTFamily
from foreseer.bench.lanes import FULL, Sampler
from foreseer.bench.results import Results, Unit
from foreseer.bench.source import Source
from foreseer.bench.store import file_names
from foreseer.bench.tables import APART
from foreseer.bench.workload import HERE, noise_of
from foreseer.errors import FileError, OptionError, PluginError
from foreseer.psnr import BEST_PSNR
from foreseer.zoo.dit import CONFIG, build
from foreseer.zoo.judge import FRECHET_NOTE

POLICIES = ("none", "taylorseer", "speca:threshold=0.3,decide='row'")
SMALL: dict[str, Any] = {"samples": 5, "batch": 2, "steps": 6}


@pytest.fixture(scope="module", autouse=True)
def tiny_model() -> Any:
    """A random model in place of the trained one."""
    torch.manual_seed(0)
    model = build({**CONFIG, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 3}).eval().requires_grad_(False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HERE, "dit", lambda device, dtype: DiTFamily(model=model))
        yield model


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return compare(CompareSettings(policies=POLICIES, out=tmp_path_factory.mktemp("compare"), **SMALL), show=False)


def strict(text: str) -> Any:
    def refuse(literal: str) -> None:
        raise AssertionError(f"{literal} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_every_file_is_written(result: Result) -> None:
    out = result.settings.out
    for name in ("index.html", "table.csv", "results.json"):
        assert (out / name).stat().st_size > 0
    for folder, ending in (("timelines", ".png"), ("reports", ".json")):
        found = [path.name for path in (out / folder).iterdir()]
        assert len(found) == len(POLICIES)
        assert all(re.fullmatch(r"[\w.=-]+" + re.escape(ending), name) for name in found)
    assert not list(out.glob("*.part"))


def test_policy_none_is_full_computation(result: Result) -> None:
    full, none = result.row(FULL), result.row("none")
    assert set(none.lane.values("psnr")) == {math.inf}
    assert none.cost == 1.0
    assert set(none.lane.steps) == {SMALL["steps"]}
    assert (none.frechet, none.means["accuracy"]) == (full.frechet, full.means["accuracy"])
    assert figures(none)["gain_over_fewer_steps_db"] is None
    assert none.means["ssim"] == pytest.approx(1.0)
    assert set(full.lane.ratios) == {1.0}


def test_fewer_steps_stand_beside_each_policy(result: Result) -> None:
    row = result.row("taylorseer")
    fewer = result.row(row.fewer)
    assert fewer.lane.num_steps == round(row.steps) < SMALL["steps"]
    assert fewer.cost == pytest.approx(fewer.lane.num_steps / SMALL["steps"])
    assert row.gain == pytest.approx(np.mean(row.lane.values("psnr")) - np.mean(fewer.lane.values("psnr")))
    assert fewer.bytes_held == 0 < row.bytes_held


def test_policies_of_equal_cost_share_their_fewer_steps(tmp_path: Path) -> None:
    found = compare(CompareSettings(policies=("reuse:interval=2", "reuse:interval=2,target=last_block"), out=tmp_path, samples=1, steps=4), show=False)
    assert [row.lane.kind for row in found.rows] == ["full", "policy", "fewer", "policy"]
    assert found.rows[1].fewer == found.rows[3].fewer == found.rows[2].lane.name


def test_results_are_valid_json(result: Result) -> None:
    data = strict((result.settings.out / "results.json").read_text())
    rows = {row["name"]: row for row in data["rows"]}
    assert rows["none"]["psnr_mean"] == rows["none"]["psnr_worst"] == BEST_PSNR
    assert rows["none"]["psnr_per_sample"] == ["inf"] * SMALL["samples"]
    assert rows["none"]["identical_samples"] == SMALL["samples"]
    assert rows["taylorseer"]["psnr_per_sample"] == pytest.approx(result.row("taylorseer").lane.values("psnr"))
    assert data["settings"]["steps"] == SMALL["steps"]
    assert data["notes"]["frechet_distance"] == FRECHET_NOTE
    for path in (result.settings.out / "reports").iterdir():
        strict(path.read_text())


def changed(result: Result, change: Callable[[Unit], Unit]) -> Result:
    """The same comparison with other units of taylorseer."""
    lanes = [attrs.evolve(lane, units=tuple(map(change, lane.units))) if lane.name == "taylorseer" else lane for lane in result.results.lanes]
    return attrs.evolve(result, results=attrs.evolve(result.results, lanes=tuple(lanes)))


def test_a_broken_sample_counts_as_nothing_and_the_table_says_so(result: Result) -> None:
    psnr = {0: (math.nan, 40.0), 1: (30.0, math.inf), 2: (20.0,)}
    broken = changed(result, lambda unit: attrs.evolve(unit, figures=unit.figures | {"psnr": psnr[unit.number]})).row("taylorseer")
    found = figures(broken)
    assert (found["psnr_mean"], found["psnr_worst"]) == ((0 + 40 + 30 + BEST_PSNR + 20) / 5, 0.0)
    assert (found["broken_samples"], found["identical_samples"]) == (1, 1)
    text = {column.title: column.text(broken) for column in APART}
    assert (text["PSNR"], text["worst PSNR"]) == ("38.0 (1 broken)", "0.0")


def test_table_has_a_line_for_each_row(result: Result) -> None:
    with (result.settings.out / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == [row.lane.name for row in result.rows]
    assert set(lines[0]) == set(figures(result.rows[0]))


def test_it_draws_itself_in_a_notebook(result: Result) -> None:
    """Law: every row and the drawings of the worst samples, and where the page is."""
    drawn = result._repr_html_()
    assert all(row.lane.name in html.unescape(drawn.replace("<wbr>", "")) for row in result.rows)
    assert drawn.count("<img") > len(result.rows)
    assert str(result.page) in drawn


def test_page_needs_nothing_else(result: Result) -> None:
    written = result.page.read_text()
    page = written[: written.index("<script>")]
    for row in result.rows:
        assert row.lane.name in html.unescape(page.replace("<wbr>", ""))
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:|#)[^\s"')>]+""", page)
    assert "http" not in re.sub(r"data:image/png;base64,[\w+/=]+", "", page)
    assert FRECHET_NOTE in page
    for sentence in remarks(result):
        assert sentence in html.unescape(page)
    assert 'data-lane="taylorseer' in page
    assert "Timeline of taylorseer" in page


def with_speedup(unit: Unit, speedup: float) -> Unit:
    return attrs.evolve(unit, seconds=(1 / speedup,), full_seconds=(1.0,))


def test_a_busy_machine_is_told_of(result: Result) -> None:
    def timed(*speedups: float) -> str:
        found = changed(result, lambda unit: with_speedup(unit, speedups[min(unit.number, len(speedups) - 1)]))
        only = [attrs.evolve(lane, units=lane.units[: len(speedups)]) for lane in found.results.lanes if lane.name in (FULL, "taylorseer")]
        return " ".join(remarks(attrs.evolve(found, results=attrs.evolve(found.results, lanes=tuple(only)))))

    assert "busy" not in timed(2.0, 2.1, 2.05)
    assert "varied by a factor of 1.05" in timed(2.0, 2.1, 2.05)
    assert "busy" in timed(2.0, 0.5, 2.05)
    assert "rest on one batch" in timed(2.0)


def stop_at(monkeypatch: pytest.MonkeyPatch, draw: int, error: BaseException) -> None:
    """Raise at that run of a lane, the ones that warm up counted."""
    runs, run = [], Sampler.run

    def impatient(self: Sampler, *args: Any, **kwargs: Any) -> Any:
        runs.append(args)
        if len(runs) == draw:
            raise error
        return run(self, *args, **kwargs)

    monkeypatch.setattr(Sampler, "run", impatient)


def test_interruption_keeps_finished_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stop_at(monkeypatch, 6, KeyboardInterrupt())  # a warm-up; then full, taylorseer and fewer steps make a batch
    found = compare(CompareSettings(policies="taylorseer", out=tmp_path, **SMALL))
    assert found.interrupted
    assert found.count == SMALL["batch"]
    assert [row.lane.kind for row in found.rows] == ["full", "policy", "fewer"]
    assert all(len(row.lane.indices) == SMALL["batch"] for row in found.rows)
    sentence = f"The comparison was interrupted: the results rest on 2 of {SMALL['samples']} samples."
    assert sentence in found.page.read_text()
    assert sentence in " ".join(capsys.readouterr().out.split())
    data = strict((tmp_path / "results.json").read_text())
    assert (data["interrupted"], data["samples"]) == (True, 2)


def test_interruption_before_the_first_batch_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        compare(CompareSettings(policies="taylorseer", out=tmp_path, **SMALL), show=False)
    assert not list(tmp_path.iterdir())


def test_a_crash_of_a_policy_leaves_the_finished_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 7, RuntimeError("out of memory"))  # of the second batch fewer steps come first, and full computation before them
    found = compare(CompareSettings(policies="taylorseer", out=tmp_path, **SMALL), show=False)
    assert [(lane.name, lane.error, len(lane.units)) for lane in found.failed] == [("taylorseer", "RuntimeError: out of memory", 1)]
    assert strict((tmp_path / "results.json").read_text())["samples"] == SMALL["samples"]


def test_a_comparison_is_a_benchmark_whose_draws_are_timed(result: Result) -> None:
    """Law: what the harness keeps holds each row's figures, and `foreseer bench report` reads it."""
    kept = Results.load(result.settings.out / "measured")
    assert kept.finished
    for row in result.rows:
        lane = kept.lane(row.lane.name)
        assert lane.values("psnr") == row.lane.values("psnr")
        assert all(len(unit.seconds) == len(unit.clock_seconds) == 1 for unit in lane.units)


@pytest.mark.parametrize(("above", "shown"), [(0.9, True), (1 + 0.9 * MEASURING_ERROR, True), (1 + 1.1 * MEASURING_ERROR, False), (3.0, False)])
def test_a_speed_up_above_what_the_work_allows_is_never_shown(above: float, shown: bool, result: Result) -> None:
    """Law: a row that computed a part of the block-rows is at most so much faster, whatever the clock says."""
    cost = result.row("taylorseer").cost
    found = changed(result, lambda unit: with_speedup(unit, above / cost))
    fast = found.row("taylorseer")
    assert math.isnan(fast.speedup) != shown
    assert (figures(fast)["speedup"] is None) != shown
    (cell,) = (column.text(fast) for column in APART if column.title == "speed-up")
    assert (cell == UNMEASURABLE) != shown


@pytest.mark.parametrize(("policy", "error"), [("specca", PluginError), ("speca:treshold=0.2", OptionError), ("speca:threshold=-1", OptionError)])
def test_a_bad_policy_fails_before_anything_is_computed(policy: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HERE, "dit", lambda device, dtype: pytest.fail("the model was loaded"))
    with pytest.raises(error):
        compare(CompareSettings(policies=("none", policy), out=tmp_path / "new"), show=False)
    assert not (tmp_path / "new").exists()


def test_samples_do_not_depend_on_the_batch_size(result: Result, tmp_path: Path) -> None:
    other = compare(attrs.evolve(result.settings, policies="taylorseer", batch=5, out=tmp_path), show=False)
    for name in (FULL, "taylorseer"):
        torch.testing.assert_close(other.samples[name], result.samples[name], rtol=1e-4, atol=1e-4)
    assert other.results.conditions == ("0", "1", "2", "3", "4")
    assert not torch.equal(noise_of(range(3), seed=0, shape=(2,)), noise_of(range(3), seed=1, shape=(2,)))


def test_a_policy_that_cannot_drive_the_model_is_told_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compare(CompareSettings(policies=("none", "speca:verify_block=7"), out=tmp_path, **SMALL))
    assert [row.lane.name for row in found.rows] == ["full", "none"]
    assert "verify_block=7" in found.failed[0].error
    assert "speca:verify_block=7 failed: OptionError" in " ".join(capsys.readouterr().out.split())


def test_file_names_are_safe_and_unique() -> None:
    names = file_names(["a:b=1", "a:b=2", "A:B=1", "a/b=1", "../..", "x" * 300])
    assert len({name.lower() for name in names.values()}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9=_-][A-Za-z0-9.=_-]{0,85}", name) for name in names.values())


@pytest.mark.parametrize(
    ("option", "value", "advice"),
    [
        ("samples", 0, ">= 1"),
        ("steps", 1001, "from 1 to 1000"),
        ("batch", 1.5, "whole number"),
        ("seed", -1, ">= 0"),
        ("guidance", float("nan"), "from 0 to 100"),
        ("dtype", "int8", "write one of float32, bfloat16, float16"),
        ("device", "tpu?", "write 'cpu'"),
    ],
)
def test_settings_are_checked(option: str, value: Any, advice: str) -> None:
    with pytest.raises(OptionError, match=f"^{option}=") as caught:
        CompareSettings(**({"workload": Source(**{option: value})} if option in ("dtype", "device") else {option: value}))
    assert advice in str(caught.value)
    assert repr(value) in str(caught.value)


def test_the_folder_must_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(FileError, match="is a file"):
        CompareSettings(out=tmp_path / "taken")
