"""The page of a replay, and its tables."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreseer.bench.charts import COLORS, SHAPES, axis, escaped, finite, layout
from foreseer.bench.page import Chart, Facts, Section, Table, Text
from foreseer.bench.page import write_page as write
from foreseer.columns import Column, known
from foreseer.files import write_csv
from foreseer.workbench.closed_loop import CLOSED, Figures, Measured
from foreseer.workbench.ledger_page import evidence_chart
from foreseer.workbench.replay import Score
from foreseer.workbench.trace import Trace

__all__ = ["COLUMNS", "write_errors", "write_page", "write_table"]


def _column(key: str, title: str, form: str, note: str) -> Column[Figures]:
    return Column(title, note, lambda figures: figures[key], form)


COLUMNS: tuple[Column[Figures], ...] = (
    _column("computed", "computed", ".1f", "Computed steps, mean over the samples."),
    _column(
        "error_mean",
        "error",
        ".2e",
        "Relative error |f - F| / |F| of the forecast feature, mean over all steps (computed steps have none) and samples.",
    ),
    _column("error_worst", "worst sample", ".2e", "The same of the worst sample."),
    _column("step_error_worst", "worst step", ".2e", "The largest relative error of any step and sample."),
    _column(
        "final_error_mean",
        "final error",
        ".3g",
        "Predicted L2 error of the final latent: measured sensitivity times error, summed over the forecast steps "
        "between two computed ones; of these sums, the root of the sum of squares. Errors are taken not to feed back.",
    ),
    _column(
        "psnr_mean",
        "PSNR",
        ".1f",
        "PSNR in dB that the final error promises if latents are images from -1 to 1: 10 log10(4 n / error^2), n numbers of a latent.",
    ),
    _column("psnr_worst", "worst PSNR", ".1f", "The same of the worst sample."),
    _column("rank", "Spearman", ".2f", "Of gates: rank correlation of the gate's error with the true error, over all judged drafts."),
)
"""Columns of `Score.figures`."""

UP = {
    "psnr_mean": "promised PSNR (dB), mean",
    "psnr_worst": "promised PSNR (dB), worst sample",
    "error_mean": "relative error, mean",
    "error_worst": "relative error, worst sample",
    "final_error_mean": "predicted error of the final latent",
}


def write_table(scores: Sequence[Score], path: Path) -> Path:
    """Write one line for each score as CSV."""
    lines = [score.figures() for score in scores]
    for line in lines:
        line["steps"] = line["steps"] and "+".join(map(str, line["steps"]))
    return write_csv(path, list(lines[0]), lines)


def write_errors(trace: Trace, scores: Sequence[Score], path: Path) -> Path:
    """Write one line for each score, sample and step as CSV."""
    columns = ("policy", "predictor", "site", "sample", "label", "step", "computed", "error")
    lines = []
    for score in scores:
        for sample, step in np.ndindex(score.error.shape):
            computed, error = bool(score.computed[sample, step]), f"{score.error[sample, step]:.8g}"
            of = (score.policy, score.predictor, score.site, sample, trace.labels[sample], step)
            lines.append(dict(zip(columns, (*of, computed, error), strict=True)))
    return write_csv(path, columns, lines)


def write_page(trace: Trace, scores: Sequence[Score], gaps: Mapping[str, NDArray[np.float64]], measured: Sequence[Measured], path: Path) -> Path:
    """Write the page of at least one score. Raises `ImportError` without jinja2 or plotly."""
    site, lines = scores[0].site, [score.figures() | {"steps": _steps(score), "name": score.name} for score in scores]
    columns = [*COLUMNS, Column("computed steps", "", lambda line: str(line["steps"]))]
    gates = {score.name: judged for score in scores if (judged := score.judged) is not None and judged.comparable.any()}
    notes = [(score.name, score.note) for score in scores if score.note]
    further = "What came of it with the model is under Closed loop." if measured else "Run the best with the model: --closed-loop 3."
    warning = (
        "Open loop. The history of every forecast is that of full computation: features as they were recorded. In a "
        "real run an error moves the latents, and with them everything that is computed later; none of that is in "
        f"these numbers. They rank predictors and schedules, and say what one forecast is off by. {further}"
    )
    return write(
        path,
        f"foreseer replay: {site}, {trace.num_steps} steps",
        f"Replay at {site}, {trace.num_steps} steps, {trace.samples} samples",
        [Text(warning, "card warn")],
        [
            Section("Cost and error", [_scores_chart(lines)]),
            Section(
                "Table",
                [
                    Text("A column\u2019s head sorts by it."),
                    Table("policy and predictor", columns, [("", lines)], _name),
                    *([Facts(notes)] if notes else []),
                ],
            ),
            Section("Closed loop", _closed(measured)),
            Section("Error by gap and step", _gaps(gaps)),
            Section("Evidence against truth", _gates(gates) if gates else []),
            Section("What the columns mean", [Facts([(c.title, c.note) for c in known(COLUMNS, lines)])]),
            Section("The recording", [Facts(_about(trace))]),
        ],
    )


def _name(line: Figures) -> str:
    return str(line["name"])


def _steps(score: Score) -> str:
    if (steps := score.steps) is not None:
        return ", ".join(map(str, steps))
    fewest, most = score.computed.sum(1).min(), score.computed.sum(1).max()
    return f"{fewest} to {most} steps, other steps for other samples"


def _scores_chart(lines: Sequence[Figures]) -> Chart:
    predictors = list(dict.fromkeys(line["predictor"] for line in lines))
    kinds = dict.fromkeys((predictors.index(line["predictor"]), line["kind"]) for line in lines)

    def figure(key: str) -> dict[str, Any]:
        traces = []
        for place, kind in sorted(kinds, key=lambda one: (one[0], one[1] == "gate")):
            predictor, gate = predictors[place], kind == "gate"
            own = [line for line in lines if line["predictor"] == predictor and line["kind"] == kind]
            symbol = SHAPES[place % len(SHAPES)] + "-open" * gate
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": html.escape(predictor, quote=False) + " (gates)" * gate,
                    "x": [finite(line["computed"]) for line in own],
                    "y": [finite(line[key]) for line in own],
                    "text": [escaped(line["name"]) for line in own],
                    "hovertemplate": "%{text}<br>%{x} steps, %{y:.4g}<extra></extra>",
                    "marker": {"size": 9, "color": COLORS[place % len(COLORS)], "symbol": symbol},
                }
            )
        psnr = key.startswith("psnr")
        title = f"{UP[key]}, {'higher' if psnr else 'lower'} is better"
        up = axis(title, type="linear" if psnr else "log", exponentformat="power")
        return {"data": traces, "layout": layout(axis("computed steps"), up, showlegend=True)}

    offered = {key: title for key, title in UP.items() if any(line[key] is not None for line in lines)}
    return Chart({key: figure(key) for key in offered}, "Computed steps against error", {"up": offered})


def _closed(measured: Sequence[Measured]) -> list[Any]:
    if not measured:
        return []
    text = (
        f"The same with the model, as predicted / measured, on {len(measured[0].error)} other samples. The ratio is "
        "that of the latent errors: above 1 says that open loop was cautious; below, that errors fed back. PSNR is "
        "measured on decoded images; the prediction takes latents for images."
    )
    return [Text(text), Table("policy and predictor", CLOSED, [("", [one.figures() for one in measured])], _name)]


def _gaps(gaps: Mapping[str, NDArray[np.float64]]) -> list[Any]:
    if not gaps:
        return []
    text = "Relative error of step k, forecast from anchors at k - g, k - 2g and so on, as many as the predictor looks at; mean over the samples."
    figures = {name: _heat(error) for name, error in gaps.items()}
    return [Text(text), Chart(figures, "Heat map of errors by gap and step", {"predictor": {key: key for key in figures}})]


def _heat(errors: NDArray[np.float64]) -> dict[str, Any]:
    error = [[finite(value) for value in row] for row in errors.tolist()]
    logs = [[math.log10(value) if value else None for value in row] for row in error]
    present = [value for row in logs for value in row if value is not None] or [0.0]
    ticks = list(range(math.floor(min(present)), math.ceil(max(present)) + 1))
    bar = {"thickness": 12, "tickvals": ticks, "ticktext": [f"1e{tick}" for tick in ticks], "title": {"text": "error"}}
    heat = {
        "type": "heatmap",
        "z": logs,
        "y": list(range(1, len(error) + 1)),
        "customdata": error,
        "colorscale": "Viridis",
        "colorbar": bar,
        "hovertemplate": "step %{x}, gap %{y}: %{customdata:.4g}<extra></extra>",
    }
    up = axis("gap between anchors, steps", showgrid=False, dtick=1)
    return {"data": [heat], "layout": layout(axis("step that is forecast", showgrid=False), up)}


def _gates(gates: dict[str, Any]) -> list[Any]:
    text = (
        "Each dot is one sample in one step: what the gate saw, and how far the forecast was off. A gate that knows "
        "the truth puts them on a rising line; its threshold is grey."
    )
    return [Text(text), evidence_chart(gates)]


def _about(trace: Trace) -> list[tuple[str, str]]:
    steps = ", ".join(map(str, trace.measured))
    return [
        ("model", trace.signature.model or "not known"),
        ("scheduler", trace.signature.scheduler or "not known"),
        ("sites", ", ".join(map(str, trace.sites))),
        ("samples", ", ".join(map(str, trace.labels))),
        ("sensitivities", f"of {trace.target}, measured at steps {steps}" if trace.measured else "none"),
    ]
