"""The page of a replay: one file that opens from disk and needs nothing from anywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from foreseer.files import write_csv, write_whole
from foreseer.workbench.closed_loop import CLOSED, Measured
from foreseer.workbench.replay import GapErrors, Score
from foreseer.workbench.trace import Trace

__all__ = ["COLUMNS", "cells_of", "write_errors", "write_page", "write_table"]

COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    ("computed", "computed", ".1f", "Computed steps, mean over the samples."),
    ("error_mean", "error", ".2e", "Relative error |f - F| / |F| of the forecast feature, mean over all steps (computed steps have none) and samples."),
    ("error_worst", "worst sample", ".2e", "The same of the worst sample."),
    ("step_error_worst", "worst step", ".2e", "The largest relative error of any step and sample."),
    (
        "final_error_mean",
        "final error",
        ".3g",
        "Predicted L2 error of the final latent: measured sensitivity times error, summed over the forecast steps between two computed ones; of these sums, "
        "the root of the sum of squares. Errors are taken not to feed back.",
    ),
    (
        "psnr_mean",
        "PSNR",
        ".1f",
        "PSNR in dB that the final error promises if latents are images from -1 to 1: 10 log10(4 n / error^2), n numbers of a latent.",
    ),
    ("psnr_worst", "worst PSNR", ".1f", "The same of the worst sample."),
    ("rank", "Spearman", ".2f", "Of gates: rank correlation of the gate's error with the true error, over all judged drafts."),
)
"""Key in `Score.figures`, heading, format, meaning."""


def cells_of(figures: dict[str, Any], columns: Sequence[tuple[str, ...]]) -> list[str]:
    """Return a line's numbers as text, empty where one is not known."""
    return ["" if (value := figures[key]) is None else format(value, form) for key, _, form, *_ in columns]


def write_table(scores: Sequence[Score], path: Path) -> Path:
    """Write one line for each score as CSV."""
    lines = [score.figures() for score in scores]
    joined = [{"steps": None if line["steps"] is None else "+".join(map(str, line["steps"]))} for line in lines]
    return write_csv(path, list(lines[0]), [line | steps for line, steps in zip(lines, joined, strict=True)])


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


def write_page(trace: Trace, scores: Sequence[Score], gaps: Sequence[GapErrors], measured: Sequence[Measured], path: Path) -> Path:
    """Write the page.

    Args:
        trace: What was replayed.
        scores: At least one.
        gaps: Errors by gap and step, for each predictor that has them.
        measured: What was run with the model; empty for nothing.
        path: The file.

    Raises:
        ImportError: Without jinja2 or plotly (``pip install 'foreseer[workbench]'``).
    """
    import jinja2
    from plotly.offline import get_plotlyjs

    here = files("foreseer.workbench")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    rows = [(score, cells_of(score.figures(), COLUMNS)) for score in scores]
    shown = [number for number in range(len(COLUMNS)) if any(cells[number] for _, cells in rows)]
    data = {
        "scores": [_point(score) for score in scores],
        "gaps": [{"name": g.predictor, "error": [[_plain(v) for v in row] for row in g.error]} for g in gaps],
        "gates": [_evidence(score) for score in scores if score.judged is not None and score.judged.comparable.any()],
    }
    text = environment.from_string((here / "replay.html").read_text(encoding="utf-8")).render(
        trace=trace,
        site=str(scores[0].site),
        columns=[COLUMNS[number] for number in shown],
        rows=[(score, [cells[number] for number in shown], _steps(score)) for score, cells in rows],
        closed=[(one.score.name, cells_of(one.figures(), CLOSED)) for one in measured],
        closed_columns=[title for _, title, _ in CLOSED],
        samples=len(measured[0].error) if measured else 0,
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        has_gaps=bool(gaps),
        has_gates=bool(data["gates"]),
        promised=any(len(score.promise) for score in scores),
        notes=[(score.name, score.note) for score in scores if score.note],
        style=(files("foreseer.bench") / "report.css").read_text(encoding="utf-8"),
        script=(here / "replay.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
    )
    write_whole(path, text)
    return path


def _steps(score: Score) -> str:
    if (steps := score.steps) is not None:
        return ", ".join(map(str, steps))
    fewest, most = score.computed.sum(1).min(), score.computed.sum(1).max()
    return f"{fewest} to {most} steps, other steps for other samples"


def _point(score: Score) -> dict[str, Any]:
    figures = score.figures()
    keys = ("policy", "predictor", "kind", "computed", "error_mean", "error_worst", "final_error_mean", "psnr_mean", "psnr_worst")
    return {"name": score.name} | {key: _plain(figures[key]) if isinstance(figures[key], float) else figures[key] for key in keys}


def _evidence(score: Score) -> dict[str, Any]:
    assert score.judged is not None
    judged, chosen = score.judged, score.judged.comparable
    by_step = [{"step": int(step), "rank": _plain(judged.rank(int(step)))} for step in np.unique(judged.step[chosen])]
    rank = judged.rank()
    return {
        "name": score.name,
        "error": judged.error[chosen].tolist(),
        "truth": judged.truth[chosen].tolist(),
        "accepted": judged.accepted[chosen].tolist(),
        "step": judged.step[chosen].tolist(),
        "threshold": sorted({_plain(float(t)) for t in judged.threshold[chosen] if math.isfinite(t)}),
        "rank": _plain(rank),
        "by_step": by_step,
    }


def _plain(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
