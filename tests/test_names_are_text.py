"""What users and plugins named is text, never markup: in tables, progress, errors and pictures. Pages have tests of their own."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from bench_results import lane, made
from hypothesis import given
from hypothesis import strategies as st
from recorded import smooth
from typer.testing import CliRunner

from foreseer import Site
from foreseer.__main__ import app
from foreseer.bench.compare_words import print_table
from foreseer.bench.compared import CompareSettings, Result
from foreseer.bench.comparison import run_comparison as compare
from foreseer.bench.families import DiTFamily
from foreseer.bench.report_page import write_page as write_report
from foreseer.bench.workload import HERE
from foreseer.console import complain, console, progress, table
from foreseer.workbench.replay import Replay, gap_errors
from foreseer.workbench.replay_page import write_page
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
    """Law: no other file makes one, so that none reads markup."""
    makes = re.compile(r"\bConsole\(|\bProgress\((?!\*columns, console=console|console=console)")
    found = {
        str(path.relative_to(SOURCES))
        for folder in ("core", "policies", "adapters", "bench")
        for path in (SOURCES / folder).rglob("*.py")
        if makes.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"core/console.py"}


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
        ("explain", "{}"),
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
    lanes = [
        attrs.evolve(one, name=named.get(one.name, one.name), units=tuple(attrs.evolve(u, warnings=(f"see {one.name}[/b]",)) for u in one.units))
        for one in found.results.lanes
    ]
    return attrs.evolve(found, results=attrs.evolve(found.results, lanes=tuple(lanes)))


def test_a_comparison_prints_its_names(result: Result, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(result)
    said = capsys.readouterr().out
    for name in NAMES:
        assert f"{name}: see taylorseer:interval=" in said
        assert any(name in line and "see taylorseer" not in line for line in said.splitlines()), name
    assert str(result.settings.out) in said


def read(page: Path) -> tuple[str, list[str]]:
    """What a page says outside of its charts, as it is read, and each text that plotly gets, which it reads as HTML."""
    written = page.read_text(encoding="utf-8")
    charts = re.findall(r'<script type="application/json">(.*?)</script>', written, re.S)
    texts: list[str] = []
    for chart in charts:
        json.loads(chart, object_hook=lambda found: texts.extend(texts_of(found)) or found)
    own = written[: written.rindex("<script>", 0, written.index("plotly.js v"))]
    return html.unescape(re.sub(r"<wbr>", "", own)), texts


def texts_of(found: dict[str, Any]) -> list[str]:
    shown = [found.get("name"), *(found["text"] if isinstance(found.get("text"), list) else [])]
    return [text for text in shown if isinstance(text, str)]


def test_pages_show_names_as_they_are(tmp_path: Path) -> None:
    """Law: on a page a name stands letter by letter, and what plotly would read as markup is escaped."""
    lanes = (*made().lanes, *(lane(name, 30.0, 0.5, method=name) for name in NAMES))
    trace, last = smooth()[0], Site(3)
    found = Replay(trace, last).scores(["taylor"], [f"taylorseer:interval={n}" for n in range(2, 2 + len(NAMES))])
    scores = [attrs.evolve(score, predictor=name) for name, score in zip(NAMES, found, strict=True)]
    gaps = dict.fromkeys(NAMES, gap_errors(trace, "taylor", last))
    for page in (write_report(made(lanes=lanes), tmp_path / "bench"), write_page(trace, scores, gaps, [], tmp_path / "index.html")):
        said, texts = read(page)
        assert not [tag for text in texts for tag in re.findall(r"<[^>]*>", text) if tag not in ("<b>", "</b>", "<br>")]
        for name in NAMES:
            assert name in said
            assert any(html.unescape(text) == name for text in texts), name
