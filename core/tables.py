"""A run's report as text."""

from __future__ import annotations

import math
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, zip_longest

import attrs
import numpy as np

from foreseer.facts import Facts
from foreseer.outcome import Kind, Outcome
from foreseer.storage import in_bytes

__all__ = ["report_text"]

WIDTH = 80
SCREEN = 40
"""Lines that the table should not exceed: where it would, consecutive steps that went alike share a line."""
MARKS = {"computed": "■", "forecast": "·", "accepted": "✓", "rejected": "✗", "partly computed": "◧"}
HEADER = ("", "step", "timestep", "error", "threshold", "block- rows", "ms", "outcome")
RIGHT = ("step", "timestep", "threshold", "block- rows", "ms")
YIELDING = {"outcome": 16, "error": 9, "timestep": 9, "step": 4}
"""Columns that are wrapped where the table is too wide, in this order, and how narrow they may become."""
ASCII = str.maketrans({"■": "#", "·": ".", "✓": "+", "✗": "x", "◧": "%", "–": "-", "→": ">", "─": "-"})


@attrs.frozen
class _Line:
    """One line of the table: a step, or several in a row that went alike."""

    steps: tuple[Outcome, ...]
    kind: str

    def cells(self) -> tuple[str, ...]:
        first, last = self.steps[0].step, self.steps[-1].step
        return (
            MARKS[self.kind],
            _span([str(first.index), str(last.index)], "–"),
            _span([_number(t) for t in (first.timestep, last.timestep)], "→"),
            self._error(),
            _span([_number(o.threshold) for o in self.steps if not math.isnan(o.threshold)], "→"),
            str(sum(o.block_rows for o in self.steps)),
            _milliseconds(sum(o.seconds for o in self.steps)),
            ": ".join(filter(None, (self._outcome(), "; ".join(dict.fromkeys(r for r in map(_reason, self.steps) if r))))),
        )

    def _outcome(self) -> str:
        rows = len(self.steps[0].computed)
        computed = [sum(o.computed) for o in self.steps]
        if self.kind == "partly computed":
            others = "accepted" if self.steps[0].accept is not None else "forecast"
            return f"computed {_between(computed)} of {rows}, others {others}"
        if self.kind == "rejected":
            refused = [o.accept.count(False) for o in self.steps if o.accept is not None]
            forced = f", computed {_between(computed)}" if computed != refused else ""
            return f"rejected {_between(refused)} of {rows}{forced}"
        return self.kind

    def _error(self) -> str:
        errors = [e for o in self.steps if o.accept is not None for e in o.error]
        numbers = [e for e in errors if not math.isnan(e)]
        words = _span([_number(min(numbers)), _number(max(numbers))], "–") if numbers else ""
        missing = len(errors) - len(numbers)
        return ", ".join(part for part in (words, f"{missing} NaN" if missing else "") if part)


def report_text(report: Facts) -> str:
    """Write a report as a table, with a title, a summary and the warnings.

    Args:
        report: The report of a run, finished or not.

    Returns:
        Lines of at most 80 characters, longer only where a word is, without colour codes. They are plain
        ASCII where standard output could not print anything else.
    """
    lines, notes = _lines(report), [_wrapped(f"! {warning}", "  ") for warning in report.warnings]
    if len(lines) < len(report.outcomes):
        notes.insert(0, "Lines for several steps give the sum of their block-rows and ms.")
    if report.promise:
        notes.insert(0, textwrap.fill(f"Promised: {report.promise}.", WIDTH, break_on_hyphens=False))
    body = _table([line.cells() for line in lines]) if lines else ["No step was made."]
    summary = (_wrapped(f"  {name:<10}  {fact}", " " * 14) for name, fact in _summary(report))
    text = "\n".join([_title(report), "", *summary, "", *body, *([""] if notes else []), *notes])
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return text.translate(ASCII)
    return text


def _title(report: Facts) -> str:
    made, run = len(report.outcomes), report.run
    total = f"{made} of {run.num_steps} steps" if made < (run.num_steps or 0) else f"{made} step{'s' * (made != 1)}"
    if run.num_steps is not None and made > run.num_steps:  # a loop that calls its model several times in a step, or goes on
        total = f"{made} calls where {run.num_steps} step{'s were' if run.num_steps != 1 else ' was'} declared"
    samples = len(set(run.groups))
    facts = ", ".join(
        [
            total,
            f"{run.rows} row{'s' * (run.rows != 1)}" + (f" in {samples} sample{'s' * (samples != 1)}" if samples < run.rows else ""),
            f"{run.depth} block{'s' * (run.depth != 1)}",
            *([f"stream {run.stream}"] if run.stream else []),
            *([] if report.finished else ["not finished"]),
        ]
    )
    return f"{report.policy}: {facts}" if len(report.policy) + 2 + len(facts) <= WIDTH else f"{report.policy}:\n{_wrapped('  ' + facts, '  ')}"


def _computed(report: Facts) -> str:
    """Say how many steps were computed, as tables of results count them: for each sample, and their mean."""
    made, samples, together = len(report.outcomes), len(set(report.run.groups)), len(report.full_steps)
    counts = report.computed.sum(axis=0)
    low, high = int(counts.min()), int(counts.max())
    said = f"{low} of {made} steps" if low == high else f"{report.steps_computed:.1f} of {made} steps in the mean over {samples} samples ({low} to {high})"
    return said if low == high == together else f"{said}, {together} of them for all rows at once"


def _summary(report: Facts) -> list[tuple[str, str]]:
    outcomes = report.outcomes
    made = len(outcomes)
    full = made * report.run.depth * report.run.rows
    ratio = f" ({100 * report.block_rows_ratio:.1f} %)" if full else ""
    kinds = {
        "full": [o.seconds for o in outcomes if o.full],
        "in part": [o.seconds for o in outcomes if any(o.computed) and not o.full],
        "forecast": [o.seconds for o in outcomes if not any(o.computed)],
    }
    medians = ", ".join(f"{_milliseconds(float(np.median(s)))} ms {kind}" for kind, s in kinds.items() if s)
    parts, sites = Counter[str](), len(report.bytes_held)
    for site, held in report.bytes_held.items():
        parts[site.part] += held
    by_part = ", ".join(f"{part} {in_bytes(held)}" for part, held in parts.items())
    total = f"{in_bytes(parts.total())} in {sites} site{'s' * (sites != 1)}: {by_part}"
    return [
        ("computed", _computed(report)),
        ("block-rows", f"{report.block_rows} of {full}{ratio}"),
        ("time", f"{_seconds(sum(report.seconds.tolist()))}" + (f"; median per step: {medians}" if medians else "")),
        ("held", total if sites else "nothing"),
    ]


def _lines(report: Facts) -> list[_Line]:
    """A line per step, or the finest grouping of equal neighbours that fits a screen."""
    ways: tuple[Callable[[Outcome], object], ...] = (lambda o: o.step.index, lambda o: (_kind(o), o.accept is None, sum(o.computed)), _kind)
    for way in ways:
        lines = [_Line(steps, _kind(steps[0])) for steps in (tuple(group) for _, group in groupby(report.outcomes, way))]
        if len(lines) <= SCREEN:
            break
    return lines


def _kind(outcome: Outcome) -> str:
    if outcome.kind is Kind.MIXED:
        return "partly computed" if outcome.accept is None or all(outcome.accept) else "rejected"
    return outcome.kind.value if outcome.kind in (Kind.FORECAST, Kind.ACCEPTED, Kind.REJECTED) else "computed"


def _reason(outcome: Outcome) -> str:
    """The reason, less what the other columns say already."""
    said = outcome.kind in (Kind.COMPUTED, Kind.FORECAST, Kind.MIXED) or outcome.accept is not None
    return outcome.plan.reason if said else outcome.reason


def _span(ends: Sequence[str], dash: str) -> str:
    ends = [e for e in ends if e]
    return "" if not ends else ends[0] if ends[0] == ends[-1] else f"{ends[0]}{dash}{ends[-1]}"


def _between(counts: Iterable[int]) -> str:
    low, *_, high = sorted([*counts, *counts])
    return f"{low}" if low == high else f"{low}–{high}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) >= 1 else f"{value:.3g}"


def _milliseconds(seconds: float) -> str:
    ms = 1000 * seconds
    return f"{ms:.{2 if ms < 10 else 1 if ms < 100 else 0}f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{_milliseconds(seconds)} ms"


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _broken(cell: str, width: int) -> list[str]:
    """Break a cell between words, and behind the dash of a range; a longer word stays whole."""
    lines = [""]
    for word in re.findall(r"[^\s–→]+[–→]| ?[^\s–→]+|\s", cell):
        if lines[-1] and len(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word if lines[-1] else word.lstrip()
    return [line.rstrip() for line in lines]


def _table(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Draw the columns in which a line has something to say; what is too wide is wrapped."""
    columns = {column[0]: column for column in zip(HEADER, *lines, strict=True) if any(column[1:])}
    widths = {name: max(map(len, (*name.split(), *column[1:]))) for name, column in columns.items()}
    between = 2 * (len(widths) - 1)
    for name, least in YIELDING.items():
        if name in widths:
            widths[name] = min(widths[name], max(least, widths[name] - (sum(widths.values()) + between - WIDTH)))
            widths[name] = max(len(part) for cell in columns[name] for part in _broken(cell, widths[name]))
    for number, cells in enumerate(zip(*columns.values(), strict=True)):
        parts = [_broken(cell, width) for cell, width in zip(cells, widths.values(), strict=True)]
        for several in zip_longest(*parts, fillvalue=""):
            padded = (f"{part:{'>' if name in RIGHT else '<'}{widths[name]}}" for part, name in zip(several, widths, strict=True))
            yield "  ".join(padded).rstrip()
        if number == 0:
            yield "─" * (sum(widths.values()) + between)
