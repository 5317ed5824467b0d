"""A report as text (core/tables.py)."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import attrs
import numpy as np
import pytest
from some_reports import CASES, NAN, make, with_errors

import foreseer
from foreseer.report import Report
from foreseer.tables import report_text


@pytest.fixture(params=CASES)
def report(request) -> Report:
    return CASES[request.param]()


def test_text_holds_every_fact(report):
    text = report_text(report)
    assert text == str(report)
    words = " ".join(text.split())
    assert text.startswith(f"{report.policy}:")
    counts = report.computed.sum(axis=0)
    mean = "" if np.ptp(counts) else f"{counts[0]}"
    assert f"computed {mean or f'{counts.mean():.1f}'} of {len(report.outcomes)} steps" in words
    assert (f", {len(report.full_steps)} of them for all rows at once" in words) == (not mean or counts[0] != len(report.full_steps))
    assert f"{report.block_rows} of {len(report.outcomes) * report.run.depth * report.run.rows}" in text
    if report.outcomes:
        assert f"({100 * report.block_rows_ratio:.1f} %)" in text
    assert ("not finished" in text) == (not report.finished)
    for warning in report.warnings:
        assert f"! {warning}" in words
    assert "\x1b" not in text
    assert not any(line != line.rstrip() for line in text.split("\n"))
    # no line is wider than 80 characters, unless a word is: what is long is wrapped
    assert all(len(line) <= 80 or len(line.split()) == 1 for line in text.split("\n"))


def lines_of(text: str) -> list[str]:
    """The lines of the table, without its header."""
    body = re.split(r"\n[-─]+\n", text)[1]
    return body.split("\n\n")[0].split("\n")


def test_text_has_a_line_per_step():
    report = make("cg_taylor", threshold=0.05)
    lines = lines_of(report_text(report))
    assert len(lines) == len(report.outcomes)
    outcomes = set()
    for line, o in zip(lines, report.outcomes, strict=True):
        assert re.match(rf".? +{o.step.index} +{o.step.timestep:.4g} ", line)
        refused = 0 if o.accept is None else o.accept.count(False)
        word = "computed" if o.accept is None else f"rejected {refused} of 4" if refused else "accepted"
        outcomes.add(word)
        assert line.partition("  " + word)[2] == (f": {o.reason}" if o.accept is None else "")
        numbers = line.split("  " + word)[0].split()[3:]
        if o.accept is not None:
            assert numbers[0] == f"{min(o.error):.3g}" + (f"–{max(o.error):.3g}" if min(o.error) < max(o.error) else "")
            assert numbers[1] == "0.05"
            assert numbers[2] == str(o.block_rows)
        else:
            assert numbers[0] == str(o.block_rows)
    assert {"computed", "accepted"} < outcomes, "the run should show more than one outcome"
    assert any(word.startswith("rejected") for word in outcomes)


def test_text_of_a_schedule_shows_no_columns_for_errors():
    text = report_text(make("taylorseer", interval=4))
    assert "threshold" not in text
    assert "error" not in text
    assert [line.split()[5].rstrip(":") for line in lines_of(text)] == ["computed"] * 2 + (["forecast"] * 3 + ["computed"]) * 2 + ["forecast"] * 2
    assert "interval of 4" in text
    assert "ms full, " in text
    assert "ms forecast" in text


def test_long_runs_fit_a_screen_and_lose_no_step():
    report = make("speca", steps=50, threshold=0.3)
    spans = [re.match(r"[■·✓✗◧] +(\d+)(?:–(\d+))? ", line) for line in lines_of(report_text(report))]
    assert sum(map(bool, spans)) <= 40
    shown = [step for span in spans if span for step in range(int(span[1]), int(span[2] or span[1]) + 1)]
    assert shown == list(range(50))


def test_rows_computed_for_another_reason_than_a_rejection_are_counted():
    report = make("cg_taylor", threshold=0.05)
    index = next(o.step.index for o in report.outcomes if o.accept is not None and all(o.accept))
    outcomes = list(report.outcomes)
    outcomes[index] = attrs.evolve(outcomes[index], computed=(True, False, False, False), kind=foreseer.Kind.MIXED)
    assert "computed 1 of 4, others accepted" in " ".join(report_text(attrs.evolve(report, outcomes=tuple(outcomes))).split())
    outcomes[index] = attrs.evolve(outcomes[index], accept=None)
    assert "computed 1 of 4, others forecast" in " ".join(report_text(attrs.evolve(report, outcomes=tuple(outcomes))).split())


def test_nan_errors_are_counted_beside_the_others():
    report = with_errors(make("cg_taylor"), lambda step, row, error: NAN if row < 3 else 0.25)
    assert "0.25, 3 NaN" in report_text(report)


def test_calls_beyond_the_declared_steps_are_no_steps_of_them():
    """A loop that calls its model twice in a step does not read as "12 of 6 steps"."""
    report = make("none", steps=12)
    text = report_text(attrs.evolve(report, run=attrs.evolve(report.run, num_steps=6, timesteps=None)))
    assert text.startswith("none: 12 calls where 6 steps were declared, ")


def test_bytes_are_summed_by_part_in_human_units():
    report = attrs.evolve(
        make("none"), bytes_held={foreseer.Site(b, part): held for b in range(12) for part, held in (("attn", 100 * 1024), ("mlp", 3 * 1024**2))}
    )
    assert "39.0 MB in 24 sites: attn 1.2 MB, mlp 37.7 MB" in report_text(report)
    assert "512 B in 1 site: block 512 B" in report_text(attrs.evolve(report, bytes_held={foreseer.Site(0): 512}))


def test_a_run_that_gained_nothing_says_so():
    assert "\n! nothing was accelerated: all 8 drafts were rejected" in report_text(make("cg_taylor", threshold=0.0))


def test_text_is_ascii_where_the_terminal_is(monkeypatch):
    report = make("cg_taylor", steps=60, threshold=0.05)
    assert not report_text(report).isascii()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(encoding="ascii"))
    assert report_text(report).isascii()
    assert "rejected" in report_text(report)
