"""Pictures of a comparison: the samples side by side, and speed against quality."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foreseer.bench.clock import speedup_text
from foreseer.files import write_whole
from foreseer.timeline import STYLE

if TYPE_CHECKING:
    from foreseer.bench.compared import Result
    from foreseer.bench.summary import Line

__all__ = ["draw_samples"]

INK, FAINT = "#222222", "#767676"
COLUMNS = 10
AMPLIFY = 2.0
"""Differences are shown this many times as strong as the samples."""


def draw_samples(result: Result, path: Path) -> Path:
    """Draw samples of every row: one of each class on the left, how they differ from full computation on the
    right.

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
            pictures = [result.samples[row.lane.name][shown, 0].numpy() for row in rows]
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
                    tick.set(color=FAINT if row.lane.kind == "fewer" else INK, fontsize=7.5, linespacing=1.15, parse_math=False)
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


def _rows_to_show(result: Result) -> list[Line]:
    """Full computation, then each policy with the fewer steps of its cost under it, where that is not there
    already.
    """
    policies = [row for row in result.rows if row.lane.kind == "policy"]
    names = ["full", *(name for row in policies for name in (row.lane.name, row.fewer) if name)]
    return [result.row(name) for name in dict.fromkeys(names)]


def _label(row: Line) -> str:
    lane = row.lane
    if lane.kind == "full":
        return f"full computation, {lane.num_steps} steps"
    broken = f", {row.broken} broken" if row.broken else ""
    psnr = "the same" if np.isinf(row.means["psnr"]) else f"{row.means['psnr']:.1f} dB"
    return f"{lane.name}\n{speedup_text(row.speedup)}, {psnr}{broken}"


def _one_of_each_class(result: Result) -> list[int]:
    """Indices of the first sample of each class."""
    first: dict[int, int] = {}
    for index, label in enumerate(result.labels.tolist()):
        first.setdefault(label, index)
    return [first[label] for label in sorted(first)][:COLUMNS]


def _sheet(pictures: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Put rows of ``(columns, H, W)`` pictures onto one sheet."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in pictures], axis=0)
