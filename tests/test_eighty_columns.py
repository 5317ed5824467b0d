"""What is printed fits a terminal of 80 columns, and loses nothing by it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from foreseer.__main__ import app
from foreseer.adapters.models import findings
from foreseer.columns import NAME_WIDTH, Column, listed


def printed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, list(arguments), prog_name="foreseer")
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def commands() -> list[tuple[str, ...]]:
    """Every command, and those of the groups among them."""
    top: Any = typer.main.get_command(app)
    found: list[tuple[str, ...]] = [()]
    with top.make_context("foreseer", [], resilient_parsing=True) as context:
        for name in top.list_commands(context):
            found += [(name,), *((name, below) for below in getattr(top.get_command(context, name), "commands", ()))]
    return found


def test_help_of_every_command_fits_and_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option's line may be as wide as its own spelling; what a command does is told to the end of its sentence."""
    every = commands()
    assert len(every) > 14
    for words in every:
        lines = printed(monkeypatch, *words, "--help")
        assert max(map(len, lines)) <= 80, words
        assert not [line for line in lines if line.endswith("...") and not line.startswith(("Usage:", "  --"))], words
        below = {name: lines for parent, name in (pair for pair in every if len(pair) == 2) if (parent,) == words}
        assert all(any(line.split()[:1] == [name] for line in lines) for name in below)


@pytest.mark.parametrize("name", ["", "flux", "SD3"])
def test_models_names_each_pipeline_once_with_the_reason_of_every_no(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, "models", name)
    assert max(map(len, lines)) <= 80
    text, closed = "\n".join(lines), "".join("".join(lines).split())
    found = json.loads("\n".join(printed(monkeypatch, "models", name, "--json")))["findings"]
    assert found
    for finding in found:
        assert finding["transformer"] in closed
        reasons = {finding[key].partition(": ")[2] for key in ("modules", "last_block", "output", "rows")} - {""}
        assert all(len(re.findall(re.escape(reason), " ".join(text.split()))) == 1 for reason in reasons)
    for number in set(re.findall(r"\w \[(\d+)\]", text)):
        assert f"\n[{number}] " in text


def test_models_that_there_are_not_is_an_error_that_names_what_there_is() -> None:
    done = CliRunner().invoke(app, ["models", "qqq"], prog_name="foreseer")
    assert done.exit_code == 2
    assert "name='qqq' is in no transformer's or pipeline's name; write one of these" in done.stderr
    named = " ".join(done.stderr.split()).partition("a part of one: ")[2].split(", ")
    assert all(word and any(word in finding.transformer for finding in findings()[1]) for word in named)
    assert {"Flux", "Wan", "QwenImage", "LTXVideo", "SD3"} <= set(named)


names = st.lists(st.text("abcdefgh:=,._0123456789", min_size=1, max_size=120), min_size=1, max_size=5)


@given(names=names, digits=st.lists(st.integers(1, 9), min_size=1, max_size=6), width=st.integers(60, 130))
@settings(max_examples=40, deadline=None)
def test_a_table_of_figures_keeps_its_figures_on_a_line_and_every_name_whole(names: list[str], digits: list[int], width: int) -> None:
    """Where there is no room for a name of some length beside the figures, it stands above them."""
    columns = [Column[str](f"c{place}", "", lambda name, digit=digit: "9" * digit) for place, digit in enumerate(digits)]
    console = Console(width=width, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(listed("policy", columns, names, lambda name: name))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    figures = re.compile(r"\s+".join("9" * digit for digit in digits) + r"\s*$")
    rows = [line for line in lines if figures.search(line)]
    assert len(rows) >= len(names)
    assert "".join(names) in "".join(figures.sub("", line).strip() for line in lines)
    beside = [line for line in rows if figures.sub("", line).strip()]
    if beside and max(map(len, names)) > NAME_WIDTH:
        assert max(len(figures.sub("", line).strip()) for line in beside) >= NAME_WIDTH
