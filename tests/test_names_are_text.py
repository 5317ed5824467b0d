"""What users and plugins named is text, never markup: in tables, progress, errors and pictures. Pages have tests of their own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorded import smooth
from typer.testing import CliRunner

from foreseer import Site
from foreseer.__main__ import app
from foreseer.bench.compare import CompareSettings, Result, compare
from foreseer.bench.families import DiTFamily
from foreseer.bench.page import print_table
from foreseer.bench.pictures import draw_samples, draw_speed_quality
from foreseer.bench.workload import HERE
from foreseer.console import complain, console, progress, table
from foreseer.workbench.replay import Replay, gap_errors
from foreseer.workbench.replay_pictures import draw_gap_errors, draw_scores
from foreseer.zoo.dit import CONFIG, build

SOURCES = Path(__file__).parents[1]
NAMES = ("[beta]", "[/b]", ":smile:", "a$\\frac$b$", "[link=x]y[/link]", "100%_{x}", "<b>&amp;</b>")
texts = st.text(st.sampled_from("[]/:\\$<>&=#{}%ab "), min_size=1, max_size=20).map(str.strip).filter(bool)


@pytest.fixture(autouse=True)
def _wide_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")


@given(text=texts)
def test_a_table_shows_every_text_as_it_is(text: str) -> None:
    """Law: headings, cells and lines are printed letter by letter."""
    out = console()
    with out.capture() as caught:
        shown = table(text, "number")
        shown.add_row(text, "1")
        out.print(shown)
        out.print(f"note: {text}")
    heading, *_, row, note = [line.rstrip() for line in caught.get().splitlines()]
    assert heading.strip().startswith(text)
    assert row.strip().startswith(text)
    assert note == f"note: {text}"


@pytest.mark.parametrize("name", NAMES)
def test_an_error_shows_every_text_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    complain(f"{name} is no file")
    assert capsys.readouterr().err == f"foreseer: {name} is no file\n"


@pytest.mark.parametrize("name", NAMES)
def test_progress_shows_every_text_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as tell:
        tell(name, 1, 2)
    assert name in capsys.readouterr().err


def test_a_console_is_made_in_one_place() -> None:
    """Law: no other file makes one, so that none reads markup. (`core/tables.py` prints cells that are rich's Text.)"""
    makes = re.compile(r"\bConsole\(|\bProgress\((?!\*columns, console=console|console=console)")
    found = {
        str(path.relative_to(SOURCES))
        for folder in ("core", "policies", "adapters", "bench")
        for path in (SOURCES / folder).rglob("*.py")
        if makes.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"core/console.py", "core/tables.py"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "command",
    [
        ("compare", "--policies", "{}"),
        ("show", "{}"),
        ("check", "{}"),
        ("bench", "run", "--out", "out", "{}.toml"),
        ("plan", "{}.safetensors"),
        ("replay", "{}.safetensors"),
        ("ledger", "{}.json"),
        ("tune", "{}"),
    ],
)
def test_what_is_no_name_is_named_in_the_error(command: tuple[str, ...], name: str, tmp_path: Path) -> None:
    """Law: every command says which name it did not find, letter by letter."""
    given = [part.format(name.replace("/", "") if "." in part else name) for part in command]
    done = CliRunner().invoke(app, given, prog_name="foreseer")
    assert done.exit_code == 2, done.output
    said = "".join(done.output.split())
    assert given[-1] in said or repr(given[-1]) in said


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A comparison whose policies have such names."""
    torch.manual_seed(0)
    model = build({**CONFIG, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2})
    policies = tuple(f"taylorseer:interval={n}" for n in range(2, 2 + len(NAMES)))
    settings: dict[str, Any] = {"samples": 2, "batch": 2, "steps": 5, "out": tmp_path_factory.mktemp("[b]out[beta]")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HERE, "dit", lambda device, dtype: DiTFamily(model=model.eval().requires_grad_(False)))
        found = compare(CompareSettings(policies=policies, **settings), show=False)
    named = dict(zip(policies, NAMES, strict=True))
    rows = [attrs.evolve(row, name=named.get(row.name, row.name), warnings=(f"see {row.name}[/b]",)) for row in found.rows]
    samples = {named.get(name, name): drawn for name, drawn in found.samples.items()}
    return attrs.evolve(found, rows=rows, samples=samples)


def test_a_comparison_prints_its_names(result: Result, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(result)
    said = capsys.readouterr().out
    for name in NAMES:
        assert f"{name}: see taylorseer:interval=" in said
        assert any(name in line and "see taylorseer" not in line for line in said.splitlines()), name
    assert str(result.settings.out) in said


def test_pictures_show_names_and_read_no_formulas(result: Result, tmp_path: Path) -> None:
    """Law: dollars are dollars. matplotlib raises where it reads a formula that is none."""
    for draw in (draw_samples, draw_speed_quality):
        assert draw(result, tmp_path / "picture.svg").stat().st_size > 0


def test_pictures_of_a_replay_read_no_formulas_either(tmp_path: Path) -> None:
    trace, last = smooth()[0], Site(3)
    found = Replay(trace, last).scores(["taylor"], [f"taylorseer:interval={n}" for n in range(2, 2 + len(NAMES))])
    scores = [attrs.evolve(score, predictor=name) for name, score in zip(NAMES, found, strict=True)]
    assert draw_scores(scores, tmp_path / "scores.svg").stat().st_size > 0
    gaps = gap_errors(trace, "taylor", last)
    for name in NAMES:
        drawn = draw_gap_errors(attrs.evolve(gaps, predictor=name), tmp_path / "gaps.svg", site=name)
        assert drawn.stat().st_size > 0
