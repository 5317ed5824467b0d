"""The page of a ledger: each gate against the truth, as charts and as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreseer.bench.charts import COLORS, GREY, axis, finite, layout
from foreseer.bench.page import Chart, Section, Table, Text
from foreseer.bench.page import write_page as write
from foreseer.columns import Column
from foreseer.workbench.judgements import Judgements, StepCounts

__all__ = ["COLUMNS", "evidence_chart", "step_of", "write_page"]

ACCEPTED, REJECTED = COLORS[:2]
DOTS = {"type": "scatter", "mode": "markers"}
LINE = {"type": "scatter", "mode": "lines"}


def _chart(figures: Mapping[str, dict[str, Any]], about: str) -> Chart:
    return Chart(figures, about, {"policy": {name: name for name in figures}})


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [finite(float(value)) for value in values]


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "font": {"size": 13}, "x": 0, "y": 0.98, "yanchor": "top"}


def evidence_chart(found: Mapping[str, Judgements], *, dashed: bool = False) -> Chart:
    """Draw each gate's error against the true error, a dot for each draft, with its thresholds and, if asked
    for, the tolerated true error.
    """
    figures = {name: _evidence(judged, dashed) for name, judged in found.items()}
    return _chart(figures, "The gate's error against the true error")


def _evidence(judged: Judgements, dashed: bool) -> dict[str, Any]:
    known, rank = judged.comparable, judged.rank()

    def dots(label: str, chosen: NDArray[np.bool_], marker: dict[str, Any]) -> dict[str, Any]:
        return DOTS | {
            "name": label,
            "marker": marker,
            "x": _numbers(judged.error[chosen]),
            "y": _numbers(judged.truth[chosen]),
            "text": [f"step {step}" for step in judged.step[chosen]],
            "hovertemplate": "%{text}<br>evidence %{x:.4g}, truth %{y:.4g}<extra></extra>",
        }

    def scale(values: NDArray[np.float64]) -> dict[str, Any]:
        return {"type": "log" if (values > 0).all() else "linear", "exponentformat": "power"}

    thresholds = judged.threshold[known & np.isfinite(judged.threshold)]
    ends = [float(end) for end in ({thresholds.min(), thresholds.max()} if len(thresholds) else ())]
    line = {"type": "line", "line": {"color": GREY, "width": 1.5}}
    shapes = [line | {"yref": "paper", "y0": 0, "y1": 1, "x0": end, "x1": end} for end in ends]
    if dashed:
        across = {"xref": "paper", "x0": 0, "x1": 1, "y0": judged.tolerance, "y1": judged.tolerance}
        shapes.append(line | across | {"line": {"color": GREY, "width": 1.5, "dash": "dash"}})
    whose = "forecast feature" if judged.at == "site" else "output"
    return {
        "data": [
            dots("accepted", known & judged.accepted, {"size": 7, "color": ACCEPTED}),
            dots("rejected", known & ~judged.accepted, {"size": 8, "color": REJECTED, "symbol": "x-thin-open"}),
        ],
        "layout": layout(
            axis("the gate's error (line: its threshold)", **scale(judged.error[known])),
            axis(f"true error of the {whose}", **scale(judged.truth[known])),
            showlegend=True,
            shapes=shapes,
            title=_title(f"Spearman {rank:.2f}, {known.sum()} drafts" if math.isfinite(rank) else ""),
        ),
    }


def sweep_chart(found: Mapping[str, Judgements]) -> Chart:
    """Draw the share of good drafts accepted over that of bad ones, as the threshold rises."""
    figures = {name: _sweep(judged) for name, judged in found.items()}
    return _chart(figures, "Share of good drafts that are accepted, over that of bad ones")


def _sweep(judged: Judgements) -> dict[str, Any]:
    sweep, known, good = judged.sweep(), judged.comparable, judged.truth <= judged.tolerance
    two_sided = math.isfinite(sweep.area)
    was = [float(judged.accepted[known & flags].mean()) if two_sided else math.nan for flags in (~good, good)]
    traces: list[dict[str, Any]] = [
        LINE | {"name": "chance", "x": [0, 1], "y": [0, 1], "line": {"color": GREY, "dash": "dash"}, "hoverinfo": "skip"},
        LINE | {"name": "other thresholds", "x": [], "y": [], "line": {"color": ACCEPTED}},
        DOTS | {"name": "the gate as it was", "x": [finite(was[0])], "y": [finite(was[1])]},
    ]
    traces[2]["marker"] = {"color": REJECTED, "size": 10}
    if two_sided:
        factors = [f"threshold x {factor:.3g}" for factor in sweep.factor]
        traces[1] |= {"x": _numbers(sweep.bad_accepted), "y": _numbers(sweep.good_accepted), "text": factors}
    why = "all judged drafts lie on one side of the tolerance" if known.any() else "no draft was judged"
    said = f"area {sweep.area:.3f}" if two_sided else why
    title = _title(f"tolerated true error {judged.tolerance:.3g}, {said}")
    ends = {"range": [-0.02, 1.02]}
    across = axis("share of drafts above the tolerance that are accepted", **ends)
    up = axis("share of drafts within it that are accepted", **ends)
    return {"data": traces, "layout": layout(across, up, showlegend=True, title=title)}


def counts_chart(found: Mapping[str, Judgements]) -> Chart:
    """Draw false accepts and false rejects per step, and the true errors beneath."""
    figures = {}
    for name, judged in found.items():
        *counts, _ = judged.table()
        steps = [count.step for count in counts]
        below = {"x": steps, "yaxis": "y2"}
        rejects = [-(count.false_rejects or 0) for count in counts]
        bars = {"type": "bar", "x": steps}
        traces = [
            bars | {"name": "false accepts", "y": [c.false_accepts for c in counts], "marker": {"color": REJECTED}},
            bars | {"name": "false rejects (downwards)", "y": rejects, "marker": {"color": ACCEPTED}},
            LINE | below | {"name": "worst true error", "y": [finite(c.truth_worst) for c in counts], "line": {"color": GREY}},
            LINE | below | {"name": "mean true error", "y": [finite(c.truth_mean) for c in counts], "line": {"color": COLORS[2]}},
        ]
        level = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y2"}
        level |= {"y0": judged.tolerance, "y1": judged.tolerance}
        more = {
            "barmode": "relative",
            "showlegend": True,
            "yaxis2": axis("true error (dashed: tolerated)", domain=[0, 0.45]),
            "shapes": [level | {"line": {"color": GREY, "dash": "dash"}}],
        }
        up = axis("drafts", domain=[0.55, 1])
        figures[name] = {"data": traces, "layout": layout(axis("step", anchor="y2"), up, **more)}
    return _chart(figures, "False accepts and rejects per step, and the true errors")


COLUMNS: tuple[Column[StepCounts], ...] = (
    Column("drafts", "Samples whose draft was looked at.", lambda c: c.drafts),
    Column("judged", "Those that a gate judged, with a true error that is known.", lambda c: c.judged),
    Column("accepted", "Judged drafts that the gate accepted.", lambda c: c.accepted),
    Column("false accepts", "Accepted although the true error was above the tolerance.", lambda c: c.false_accepts),
    Column("false rejects", "Rejected although the true error was within it.", lambda c: c.false_rejects),
    Column("gate's error", "Mean over the judged drafts.", lambda c: c.error_mean, ".3g"),
    Column("true error", "Mean over all drafts.", lambda c: c.truth_mean, ".3g"),
    Column("worst", "The largest true error.", lambda c: c.truth_worst, ".3g"),
    Column("Spearman", "Rank correlation of the two errors over the samples.", lambda c: c.rank, ".2f"),
)


def step_of(counts: StepCounts) -> str:
    """Return the name of a line of counts."""
    return "all" if counts.step is None else str(counts.step)


def write_page(found: Mapping[str, Judgements], path: Path) -> Path:
    """Write the page of policies' gates, each by its name. Raises `ImportError` without jinja2 or plotly."""
    judged = {name: one for name, one in found.items() if one.comparable.any()}
    evidence = (
        "Each dot is one sample in one step: what the gate saw, and how far the forecast was off. A gate that knows "
        "the truth puts them on a rising line. The tolerance is dashed."
    )
    sweep = "Share of the drafts within the tolerance that are accepted over that of the others, as the threshold rises."
    tables = [(name, one.table()) for name, one in found.items()]
    return write(
        path,
        "foreseer ledger",
        "Gates against the truth",
        [],
        [
            Section("Evidence against truth", [Text(evidence), evidence_chart(judged, dashed=True)] if judged else []),
            Section("Other thresholds", [Text(sweep), sweep_chart(judged)] if judged else []),
            Section("Step by step", [counts_chart(found)]),
            Section("Table", [Table("step", COLUMNS, tables, step_of)]),
        ],
    )
