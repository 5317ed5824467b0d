"""Laws of quality measures: plugins that give each sample a number, and whose faults cost their own column only."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_family import ToyFamily
from typer.testing import CliRunner

from foreseer.__main__ import app
from foreseer.bench.compared import figures
from foreseer.bench.diff import diff
from foreseer.bench.harness import run_benchmark
from foreseer.bench.measures import ALWAYS, Measure, Measures, always, load_measure, load_measures
from foreseer.bench.report_page import write_page
from foreseer.bench.results import Results
from foreseer.bench.settings import BenchSettings, read_settings
from foreseer.bench.summary import lines_of
from foreseer.bench.tables import columns_of, print_diff, print_results
from foreseer.errors import OptionError, PluginError
from foreseer.registry import parse_policy

BRINGS = """
import torch
from foreseer.bench.measures import Measure

def spread(*, times: float = 1.0):
    return Measure(call=lambda own, full, conditions: times * own.flatten(1).std(1), note="How far pixels lie apart.", higher_is_better=False)

def letters():
    return Measure(call=lambda own, full, conditions: [len(words) for words in conditions], note="Letters.", higher_is_better=True, title="letters", form=".0f")

def _only_alike(own, full, conditions):
    if not torch.equal(own, full):
        raise ValueError("two lines\\nof trouble")
    own.zero_(), full.zero_()
    return torch.ones(len(own))

def picky():
    return Measure(call=_only_alike, note="Raises.", higher_is_better=True, unit="dB")

def liar():
    return Measure(call=lambda own, full, conditions: 3.0, note="One number.", higher_is_better=True)

def heavy():
    import package_that_nobody_has

def weightless():
    raise FileNotFoundError("get the weights: curl them")

def number():
    return 5

def broken():
    raise RuntimeError("no idea")
"""
NAMES = ("spread", "letters", "picky", "liar", "heavy", "weightless", "number", "broken")
POLICY = "taylorseer:interval=2,warmup_steps=1,target=last_block"
LANES = (parse_policy("none"), parse_policy(POLICY))
ASKED = ("spread:times=2", "letters", "picky", "liar", "heavy", "weightless", "spread")


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A package as pip would have left it there."""
    about = tmp_path_factory.mktemp("site") / "looks-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: looks\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[foreseer.measures]\n" + "".join(f"{name} = their_looks:{name}\n" for name in NAMES) + "accuracy = their_looks:letters\n"
    )
    (about.parent / "their_looks.py").write_text(BRINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FORESEER_NO_PLUGINS", raising=False)
        patch.syspath_prepend(about.parent)
        yield


@pytest.fixture(autouse=True)
def _own_plugins_and_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORESEER_NO_PLUGINS", raising=False)


def settings(**changes: Any) -> BenchSettings:
    return BenchSettings(**{"workload": ToyFamily(), "samples": 3, "batch": 2, "timed": "draws", "lanes": LANES, "measures": ASKED, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    run_benchmark(settings(), out)
    return out


@pytest.fixture
def results(folder: Path) -> Results:
    return Results.load(folder)


def test_a_measure_is_a_column_wherever_figures_are(
    results: Results, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: a measure that is asked for by name is a figure like the others in files, tables, pages and diffs."""
    lane = results.lane(POLICY)
    assert lane.values("letters") == [1.0, 1.0, 1.0]
    assert lane.values("spread:times=2") == pytest.approx([2 * value for value in lane.values("spread")])
    line = next(line for line in lines_of(results, 2) if line.lane.name == POLICY)
    assert line.worst["spread"] == max(lane.values("spread"))
    assert figures(line)["letters_mean"] == 1.0
    for apart in (False, True):
        titles = [column.title for column in columns_of(results, apart=apart)]
        assert {"letters", "spread:times=2", "spread"} <= set(titles)
        assert len(set(titles)) == len(titles)
    monkeypatch.setenv("COLUMNS", "200")
    print_results(results)
    assert re.search(r"letters", capsys.readouterr().out)
    page = write_page(results, folder, path=folder / "page.html").read_text()
    assert "How far pixels lie apart." in page
    worse = attrs.evolve(results, lanes=tuple(attrs.evolve(lane, units=tuple(shifted(unit) for unit in lane.units)) for lane in results.lanes))
    (change, *_) = (c for c in diff(results, worse).changed if c.figure == "spread")
    assert change.better is False  # lower is better
    print_diff(diff(results, worse))


def shifted(unit: Any) -> Any:
    return attrs.evolve(unit, figures={**unit.figures, "spread": tuple(value + 1 for value in unit.figures["spread"])})


def test_what_raises_costs_its_column_in_that_lane(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    """Law: the lane is measured, other lanes keep the column, and what was raised is said in one line."""
    assert results.finished
    assert not any(lane.error for lane in results.lanes)
    lines = {line.lane.name: line for line in lines_of(results, 2)}
    assert lines["none"].means["picky"] == lines["full"].means["picky"] == 1.0
    assert math.isnan(lines[POLICY].means["picky"]), "a PSNR that is not there is not 0 dB"
    assert "Measure 'picky' failed, so that its column is empty: ValueError: two lines of trouble" in lines[POLICY].warnings
    assert any("'liar' failed" in said and "returned shape ()" in said for said in lines["full"].warnings)
    assert set(results.lane(POLICY).units[0].figures) == {"psnr", "latent_error", "layout", "letters", "spread", "spread:times=2"}
    print_results(results)
    assert "two lines of trouble" in capsys.readouterr().out
    assert not [change for change in diff(results, results).changes if change.figure == "picky" and change.lane == POLICY]


def test_what_is_missing_is_said_and_nothing_else_happens(results: Results, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Law: where a package or weights are missing there is no column, and a line says how to get them."""
    assert results.missing == {"heavy": "No module named 'package_that_nobody_has'", "weightless": "get the weights: curl them"}
    assert not {"heavy", "weightless"} & set(results.figures)
    print_results(results)
    assert "Measure 'weightless' was left out: get the weights: curl them" in capsys.readouterr().out
    assert "get the weights: curl them" in write_page(results, folder, path=folder / "page.html").read_text()


def test_measures_change_no_other_number(results: Results, tmp_path: Path) -> None:
    """Law: with measures or without, even such as write to what they are given, the rest is the same."""
    without = run_benchmark(settings(measures=()), tmp_path)
    for lane in without.lanes:
        other = results.lane(lane.name)
        for figure in ("psnr", "latent_error"):
            assert lane.values(figure) == other.values(figure)
        assert lane.steps == other.steps
    assert without.settings == results.settings


def test_results_are_gone_on_with_under_other_measures(results: Results, tmp_path: Path) -> None:
    """Law: what was drawn is measured by what is asked for later, and nothing is drawn again."""
    run_benchmark(settings(measures=()), tmp_path)
    family = ToyFamily()
    later = run_benchmark(settings(workload=family), tmp_path)
    assert [indices for indices, _ in family.bare] == [(0,)], "only what counts the blocks"
    for lane in later.lanes:
        for figure in ("letters", "spread", "spread:times=2"):
            assert lane.values(figure) == results.lane(lane.name).values(figure)
        assert [unit.failed for unit in lane.units] == [unit.failed for unit in results.lane(lane.name).units]


def test_results_of_before_there_were_measures_are_read(folder: Path, tmp_path: Path) -> None:
    """Law: a file of schema 1.1 has no such keys."""
    content = json.loads((folder / "results.json").read_text())
    del content["measures"], content["missing"]
    for lane in content["lanes"]:
        for unit in lane["units"]:
            del unit["failed"]
            unit["figures"] = {name: values for name, values in unit["figures"].items() if name in ("psnr", "latent_error")}
    (tmp_path / "results.json").write_text(json.dumps({**content, "schema": "1.1"}))
    old = Results.load(tmp_path)
    assert old.measures == {}
    print_diff(diff(old, Results.load(folder)))


@given(st.data())
def test_what_is_always_taken_takes_broken_samples(data: st.DataObject) -> None:
    """Law: a broken sample has no number, and the others' do not depend on it; images have no temporal PSNR."""
    video, channels = data.draw(st.booleans()), data.draw(st.sampled_from([1, 3]))
    shape = (2,) * video + (channels, data.draw(st.sampled_from([4, 8])), 9)
    broken = data.draw(st.lists(st.booleans(), min_size=1, max_size=3))
    torch.manual_seed(0)
    own, full = torch.rand(2, len(broken), *shape) * 2 - 1
    whole, _ = Measures(named=always()).take(own, full, [""] * len(broken))
    own[torch.tensor(broken)] = math.nan
    found, failed = Measures(named=always()).take(own, full, [""] * len(broken))
    assert not failed
    assert set(found) == set(whole)
    assert ("temporal_psnr" in found, "ssim" in found) == (video, shape[-2] >= 7)
    for name, values in found.items():
        assert np.isnan(values).tolist() == broken
        assert [v for v, lost in zip(values, broken, strict=True) if not lost] == [v for v, lost in zip(whole[name], broken, strict=True) if not lost]


def test_samples_of_another_shape_are_the_lanes_fault() -> None:
    """Law: without PSNR there is nothing to say of a lane."""
    with pytest.raises(OptionError, match="write two tensors of one shape"):
        Measures(named=always()).take(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9), [""])


def test_frames_are_images_with_their_videos_words() -> None:
    """Law: a measure of frames sees images only, each with the words of its video, and their mean counts."""
    seen: list[tuple[tuple[int, ...], list[str]]] = []

    def call(own: torch.Tensor, full: torch.Tensor, conditions: list[str]) -> torch.Tensor:
        seen.append((tuple(own.shape), list(conditions)))
        return own.flatten(1).mean(1)

    measure = Measure(call=call, note="", higher_is_better=True, of="frames")
    video = torch.arange(4.0).view(2, 2, 1, 1, 1).expand(2, 2, 3, 4, 5)
    assert measure.take(video, video, ["a", "b"]) == (0.5, 2.5)
    assert seen == [((4, 3, 4, 5), ["a", "a", "b", "b"])]
    assert measure.take(torch.zeros(2, 7, 3), torch.zeros(2, 7, 3), ["a", "b"]) is None  # latents


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ("lpisp", PluginError, r"no measure is named 'lpisp'; did you mean 'lpips'\? \(`foreseer measures` lists them\)"),
        ("spread:time=2", OptionError, "measure 'spread' has no option 'time'; did you mean 'times'"),
        ("accuracy", OptionError, "'accuracy' is a figure of every table already; write distribution:accuracy"),
        (5, OptionError, r"measures=5 is no list of names; write measures = \['lpips'\]"),
    ],
)
def test_a_mistake_in_the_settings_is_told(asked: Any, error: type[Exception], says: str) -> None:
    """Law: before anything is loaded; nothing is built."""
    with pytest.raises(error, match=says):
        settings(measures=asked)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("number", PluginError, "'number' built a int; its entry point must name a function that returns a foreseer"),
        ("broken", OptionError, "'broken' cannot be built: RuntimeError: no idea"),
        ("lpips:net=resnet", OptionError, "net='resnet' is out of range"),
        ("dists:device=abacus", OptionError, "device='abacus' is unknown"),
    ],
)
def test_a_measure_that_cannot_be_built_is_told(text: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        load_measures([text])


def test_a_settings_file_names_measures(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text("workload = 'dit'\nmeasures = ['letters', 'looks:accuracy']\n")
    assert read_settings(tmp_path / "one.toml").measures == ("letters", "looks:accuracy")
    assert load_measure("looks:accuracy").title == "letters"


def test_the_command_lists_measures_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: every installed one is there; with --check one that lacks something says how to get it."""
    monkeypatch.setenv("COLUMNS", "400")
    found = {entry["name"]: entry for entry in json.loads(CliRunner().invoke(app, ["measures", "--check", "--json"]).stdout)}
    assert {*ALWAYS, "lpips", "dists", "clip_score", "image_reward", *NAMES} <= set(found)
    assert found["psnr"]["status"] == found["spread"]["status"] == "ok"
    assert found["weightless"]["status"] == "missing: get the weights: curl them"
    assert found["number"]["status"] == "broken: it builds a int, not a foreseer.bench.measures.Measure"
    assert "installed" in CliRunner().invoke(app, ["measures"]).stdout
    assert "whose features are compared" in CliRunner().invoke(app, ["show", "lpips"]).stdout
