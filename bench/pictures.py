"""Pictures of a comparison: the samples side by side, and speed against quality."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foreseer.bench.clock import speedup_text
from foreseer.files import write_whole
from foreseer.zoo.judge import FRECHET_MINIMUM_SAMPLES

if TYPE_CHECKING:
    from foreseer.bench.compared import Result, Row

__all__ = ["draw_samples", "draw_speed_quality"]

# Okabe and Ito's palette without its yellow, which is faint on white; with a marker each, so that colour is never needed to tell policies apart.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")
MARKERS = ("o", "s", "^", "D", "v", "p", "<", ">", "h", "d", "H")
INK, FAINT = "#222222", "#767676"
COLUMNS = 10
AMPLIFY = 2.0
"""Differences are shown this many times as strong as the samples."""
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "text.color": INK,
    "axes.labelcolor": INK,
    "pdf.fonttype": 42,  # TrueType outlines: publishers refuse the default, Type 3
}


def draw_samples(result: Result, path: Path) -> Path:
    """Draw samples of every row: one of each class on the left, how they differ from full computation on the right.

    Args:
        result: At least one sample.
        path: Where to write; the ending chooses the format.

    Raises:
        ImportError: Without matplotlib.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    shown = _one_of_each_class(result)
    rows = _rows_to_show(result)
    full = result.samples["full"][shown, 0].numpy()
    labels = [_label(row) for row in rows]
    margin = 0.15 + 0.062 * max(len(line) for label in labels for line in label.split("\n"))
    cell, gap, top, bottom = 0.42, 0.3, 0.32, 0.42
    width, height = margin + 2 * cell * len(shown) + gap + 0.1, top + cell * len(rows) + bottom
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(width, height), dpi=200)
        for column, (title, low, cmap) in enumerate((("samples", -1.0, "gray"), (f"difference from full computation, x{AMPLIFY:g}", -1.0, "RdBu_r"))):
            left = margin + column * (cell * len(shown) + gap)
            axes = figure.add_axes((left / width, bottom / height, cell * len(shown) / width, cell * len(rows) / height))
            pictures = [result.samples[row.name][shown, 0].numpy() for row in rows]
            if column:
                pictures = [AMPLIFY * (picture - full) for picture in pictures]
            image = axes.imshow(_sheet(pictures), cmap=cmap, vmin=low, vmax=-low, interpolation="nearest", aspect="auto", extent=(0, len(shown), len(rows), 0))
            for edge in range(1, len(rows)):
                axes.axhline(edge, color="white", linewidth=2.4)
            for edge in range(1, len(shown)):
                axes.axvline(edge, color="white", linewidth=2.4)
            axes.set_title(title, fontsize=9, loc="left", pad=4)
            axes.set_xticks([])
            axes.set_yticks([])
            if not column:
                axes.set_yticks([i + 0.5 for i in range(len(rows))], labels)
                for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
                    tick.set(color=FAINT if row.kind == "fewer" else INK, fontsize=7.5, linespacing=1.15, parse_math=False)
                axes.tick_params(axis="y", length=0)
            for spine in axes.spines.values():
                spine.set_visible(False)
            strip = figure.add_axes((left / width, (bottom - 0.16) / height, 1.2 / width, 0.07 / height))
            bar = figure.colorbar(image, cax=strip, orientation="horizontal", ticks=[low, 0, -low])
            scale = AMPLIFY if column else 1.0
            bar.ax.set_xticklabels([f"{v / scale:g}" for v in (low, 0, -low)], fontsize=6)
            bar.ax.tick_params(length=2, width=0.5, pad=1)
            bar.outline.set_linewidth(0.4)
        write_whole(path, lambda part: figure.savefig(part, format=path.suffix[1:]))
    return path


def draw_speed_quality(result: Result, path: Path) -> Path:
    """Draw measured speed-up against PSNR and against the Frechet distance, with fewer steps as the line to beat.

    Bars across show the smallest and the largest speed-up of a batch. A row that equals full computation is
    left out of the panel of the PSNR.

    Args:
        result: At least one row.
        path: Where to write; the ending chooses the format.

    Raises:
        ImportError: Without matplotlib.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    full = result.row("full")
    policies = [row for row in result.rows if row.kind == "policy"]
    fewer = sorted((row for row in result.rows if row.kind == "fewer"), key=lambda row: row.num_steps)
    few = f" (few samples: {len(result.labels)})" if len(result.labels) < FRECHET_MINIMUM_SAMPLES else ""
    panels: tuple[tuple[str, Any], ...] = (
        (
            "PSNR to full computation (dB), higher is better",
            lambda row: np.inf if row.likeness.identical else row.likeness.mean,
        ),
        (f"Frechet distance to the data, lower is better{few}", lambda row: row.frechet),
    )
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(9.0, 3.6 + 0.2 * ((len(policies) + 3) // 3)), dpi=200, layout="constrained")
        for axes, (title, quality) in zip(figure.subplots(1, 2), panels, strict=True):
            line = [(row.speedup, quality(row), row) for row in fewer if np.isfinite([quality(row), row.speedup]).all()]
            if line:
                axes.plot([x for x, _, _ in line], [y for _, y, _ in line], color=FAINT, linewidth=1.2, marker=".", markersize=6, zorder=1)
            for x, y, row in line:
                axes.annotate(f"{row.num_steps}", (x, y), xytext=(0, -4), textcoords="offset points", fontsize=7, color=FAINT, ha="center", va="top", zorder=1)
            if np.isfinite(quality(full)):
                axes.axhline(quality(full), color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
                axes.annotate("full computation", (1, quality(full)), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points",
                              fontsize=7, color=FAINT, ha="right", va="bottom")  # fmt: skip
            for index, row in enumerate(policies):
                if np.isfinite([quality(row), row.speedup]).all():
                    look = _look(index)
                    spread = [[row.speedup - min(row.speedups)], [max(row.speedups) - row.speedup]]
                    axes.errorbar(row.speedup, quality(row), xerr=spread, linestyle="", markersize=7, elinewidth=0.9, markeredgecolor="white",
                                  markeredgewidth=0.6, zorder=3, **look)  # fmt: skip
            axes.set_xlabel("measured speed-up (x)")
            axes.set_title(title, fontsize=9, loc="left")
            axes.grid(color="#ececec", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.margins(0.09)
            if quality(full) < np.inf:
                # a distance: cut off, the axis would make much of differences that the samples cannot show
                axes.set_ylim(0, 1.2 * max(quality(row) for row in result.rows if np.isfinite(quality(row))) or 1)
        handles = _handles(policies, bool(fewer))
        legend = figure.legend(
            handles=handles,
            loc="outside lower left",
            ncols=3,
            frameon=False,
            fontsize=8,
            handletextpad=0.5,
            columnspacing=1.8,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
        write_whole(path, lambda part: figure.savefig(part, format=path.suffix[1:]))
    return path


def _handles(policies: Sequence[Row], line: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linestyle="", markersize=7, markeredgecolor="white", label=row.name, **_look(i)) for i, row in enumerate(policies)]
    if line:
        handles.append(Line2D([], [], color=FAINT, linewidth=1.2, marker=".", label="full computation with fewer steps"))
    return handles


def _look(index: int) -> dict[str, Any]:
    return {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)]}


def _rows_to_show(result: Result) -> list[Row]:
    """Full computation, then each policy with the fewer steps of its cost under it, where that is not there already."""
    rows = {row.name: row for row in result.rows}
    order = ["full"] + [name for row in result.rows if row.kind == "policy" for name in (row.name, row.fewer)]
    return [rows[name] for name in dict.fromkeys(order) if name is not None]


def _label(row: Row) -> str:
    if row.kind == "full":
        return f"full computation, {row.num_steps} steps"
    like = row.likeness
    broken = f", {like.broken} broken" if like.broken else ""
    psnr = "the same" if like.identical else f"{like.mean:.1f} dB"
    return f"{row.name}\n{speedup_text(row.speedup)}, {psnr}{broken}"


def _one_of_each_class(result: Result) -> list[int]:
    """Indices of the first sample of each class."""
    first: dict[int, int] = {}
    for index, label in enumerate(result.labels.tolist()):
        first.setdefault(label, index)
    return [first[label] for label in sorted(first)][:COLUMNS]


def _sheet(pictures: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Put rows of ``(columns, H, W)`` pictures onto one sheet."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in pictures], axis=0)
