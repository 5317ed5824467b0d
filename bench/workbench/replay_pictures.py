"""Pictures of a replay: a predictor's error by gap and step, and the cost of each pair against its error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foreseer.bench.pictures import COLORS, FAINT, MARKERS
from foreseer.workbench.ledger_pictures import styled_figure
from foreseer.workbench.replay import GapErrors, Score

__all__ = ["draw_gap_errors", "draw_scores"]


def draw_gap_errors(found: GapErrors, path: Path, *, site: str) -> Path:
    """Draw a predictor's relative error: steps across, gaps between its anchors upwards, on a logarithmic scale.

    Args:
        found: The errors.
        path: Where to write; the ending chooses the format.
        site: What was forecast, for the title.
    """
    from matplotlib.colors import LogNorm

    gaps, steps = found.error.shape
    positive = found.error[np.isfinite(found.error) & (found.error > 0)]
    low, high = (float(np.quantile(positive, 0.02)), float(positive.max())) if len(positive) else (1e-3, 1.0)
    with styled_figure(path, width=7.0, height=1.4 + 0.17 * gaps) as figure:
        axes = figure.add_subplot()
        shown = np.ma.masked_invalid(found.error)
        norm = LogNorm(min(low, 0.999 * high), high, clip=True)
        image = axes.imshow(shown, norm=norm, cmap="viridis", aspect="auto", origin="lower", extent=(-0.5, steps - 0.5, 0.5, gaps + 0.5))
        axes.set_facecolor("#eeeeee")
        axes.set_xlabel("step that is forecast")
        axes.set_ylabel("gap between anchors, steps")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_title(f"{found.predictor} at {site}: relative error, mean over the samples", fontsize=9, loc="left", parse_math=False)
        figure.colorbar(image, ax=axes, pad=0.01).outline.set_linewidth(0.4)
    return path


def draw_scores(scores: Sequence[Score], path: Path) -> Path:
    """Draw computed steps against the mean error, a colour for each predictor; gates are open markers.

    Args:
        scores: At least one.
        path: Where to write; the ending chooses the format.
    """
    predictors = list(dict.fromkeys(score.predictor for score in scores))
    with styled_figure(path, width=6.4, height=4.2) as figure:
        axes = figure.add_subplot()
        for place, predictor in enumerate(predictors):
            color, marker = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
            for gate in (False, True):
                shown = sorted((score for score in scores if score.predictor == predictor and score.gate == gate), key=lambda score: score.cost)
                if shown:
                    axes.plot(
                        [score.cost for score in shown],
                        [float(score.errors.mean()) or math.nan for score in shown],
                        color=color,
                        marker=marker,
                        markerfacecolor="none" if gate else color,
                        linewidth=0,
                        markersize=5,
                        label=f"{predictor}{' (gates)' if gate else ''}",
                    )
        axes.set_yscale("log")
        axes.set_xlabel("computed steps")
        axes.set_ylabel("relative error, mean over steps and samples")
        axes.grid(color=FAINT, alpha=0.2, linewidth=0.5)
        for text in axes.legend(frameon=False, fontsize=7).get_texts():
            text.set_parse_math(False)
        axes.set_title("Open loop: history is that of full computation", fontsize=9, loc="left", parse_math=False)
    return path
