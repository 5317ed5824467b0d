"""Pictures of a gate against the truth: evidence over true error, what other thresholds would do, and counts per step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from foreseer.bench.pictures import COLORS, FAINT, STYLE
from foreseer.files import write_whole
from foreseer.workbench.judgements import Judgements

__all__ = ["draw_calibration", "draw_counts", "draw_roc", "styled_figure"]

ACCEPTED, REJECTED = COLORS[0], COLORS[1]


@contextmanager
def styled_figure(path: Path, *, width: float = 5.2, height: float = 4.0) -> Iterator[Any]:
    """Make a figure in the style of the benchmarks' pictures, and write it to ``path``. Raises ImportError without matplotlib."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(width, height), dpi=200, layout="constrained")
        yield figure
        write_whole(path, lambda part: figure.savefig(part, format=path.suffix[1:]))


def draw_calibration(judged: Judgements, path: Path, *, title: str = "", tolerance: float | None = None) -> Path:
    """Draw the gate's error against the true error, a dot for each draft, with the thresholds and the tolerance.

    Args:
        judged: What the gate said and what was true.
        path: Where to write; the ending chooses the format.
        title: Above the picture.
        tolerance: The tolerated true error; None for none.
    """
    with styled_figure(path) as figure:
        axes = figure.add_subplot()
        known = judged.comparable
        for accepted, label, color, marker in ((True, "accepted", ACCEPTED, "o"), (False, "rejected", REJECTED, "x")):
            chosen = known & (judged.accepted == accepted)
            axes.scatter(judged.error[chosen], judged.truth[chosen], s=14, marker=marker, color=color, alpha=0.7, linewidths=0.9, label=label)
        thresholds = judged.threshold[known & np.isfinite(judged.threshold)]
        if len(thresholds):
            low, high = float(thresholds.min()), float(thresholds.max())
            axes.axvspan(low, high, color=FAINT, alpha=0.15, linewidth=0) if high > low else axes.axvline(low, color=FAINT, linewidth=0.9)
        if tolerance is not None and math.isfinite(tolerance):
            axes.axhline(tolerance, color=FAINT, linewidth=0.9, linestyle="--")
        for scale, values in ((axes.set_xscale, judged.error[known]), (axes.set_yscale, judged.truth[known])):
            if len(values) and (values > 0).all():
                scale("log")
        rank = judged.rank()
        axes.set_xlabel("the gate's error (grey: its threshold)")
        axes.set_ylabel(f"true error of the {'forecast feature' if judged.at == 'site' else 'output'} (dashed: tolerated)")
        axes.set_title(f"{title}\nSpearman {rank:.2f}, {known.sum()} drafts" if math.isfinite(rank) else title, fontsize=9, loc="left", parse_math=False)
        axes.legend(frameon=False, fontsize=8)
    return path


def draw_roc(judged: Judgements, tolerance: float, path: Path, *, title: str = "") -> Path:
    """Draw the share of good drafts accepted over that of bad ones, as the threshold rises, with the gate as it was. Raises as `Judgements.sweep`."""
    sweep = judged.sweep(tolerance)
    with styled_figure(path, width=4.4) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle="--")
        if math.isfinite(sweep.area):
            axes.plot(sweep.bad_accepted, sweep.good_accepted, color=ACCEPTED, linewidth=1.6, drawstyle="default")
            known = judged.comparable
            good = judged.truth <= tolerance
            at = [float(judged.accepted[known & flags].mean()) for flags in (~good, good)]
            axes.scatter(*at, s=42, color=REJECTED, zorder=3, label="the gate as it was")
            axes.legend(frameon=False, fontsize=8, loc="lower right")
        else:
            why = "no draft was judged" if not judged.comparable.any() else "all judged drafts lie on one side of the tolerance"
            axes.text(0.5, 0.55, why, ha="center", fontsize=8, color=FAINT)
        axes.set_xlabel("share of drafts above the tolerance that are accepted")
        axes.set_ylabel("share of drafts within it that are accepted")
        area = f", area {sweep.area:.3f}" if math.isfinite(sweep.area) else ""
        axes.set_title(f"{title}\ntolerated true error {tolerance:.3g}{area}", fontsize=9, loc="left", parse_math=False)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
    return path


def draw_counts(judged: Judgements, tolerance: float, path: Path, *, title: str = "") -> Path:
    """Draw false accepts and false rejects per step, and the true errors beneath. Raises as `Judgements.counts`."""
    counts = judged.table(tolerance)[:-1]
    steps = [c.step for c in counts]
    with styled_figure(path, width=6.2, height=4.2) as figure:
        above, beneath = figure.subplots(2, 1, sharex=True)
        above.bar(steps, [c.false_accepts for c in counts], color=REJECTED, width=0.8, label="false accepts")
        above.bar(steps, [-(c.false_rejects or 0) for c in counts], color=ACCEPTED, width=0.8, label="false rejects (downwards)")
        above.axhline(0, color=FAINT, linewidth=0.6)
        above.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        above.set_ylabel("drafts")
        above.legend(frameon=False, fontsize=8)
        above.set_title(f"{title}\ntolerated true error {tolerance:.3g}", fontsize=9, loc="left", parse_math=False)
        beneath.plot(steps, [c.truth_worst for c in counts], color=FAINT, linewidth=1.0, label="worst")
        beneath.plot(steps, [c.truth_mean for c in counts], color=COLORS[2], linewidth=1.4, label="mean")
        beneath.axhline(tolerance, color=FAINT, linewidth=0.9, linestyle="--")
        beneath.set_ylabel("true error")
        beneath.set_xlabel("step")
        beneath.legend(frameon=False, fontsize=8)
    return path
