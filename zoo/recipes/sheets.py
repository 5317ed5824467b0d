"""Pictures for the cards: loss curves in panels, and sheets of samples in labelled blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from torch import Tensor

from foreseer.timeline import STYLE
from foreseer.zoo.recipes.card import read_log

__all__ = ["Block", "draw_curves", "draw_sheet"]

TRAINED, HELD = "#0072b2", "#d55e00"  # Okabe and Ito's palette
TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0)


def draw_curves(logs: Mapping[str, Path], path: Path) -> None:
    """Draw the training and the held-out loss over the steps, one panel for each log, under its title."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(4.8 * len(logs), 2.7), dpi=200, layout="constrained")
        panels = figure.subplots(1, len(logs), squeeze=False)[0]
        for axes, (title, log) in zip(panels, logs.items(), strict=True):
            steps, trained, held, _ = read_log(log)
            seen, unseen = "training images, mean since the last point", "held-out images, averaged weights"
            axes.plot(steps, trained, color=TRAINED, linewidth=1.3, label=seen)
            axes.plot(steps, held, color=HELD, linewidth=1.3, label=unseen)
            axes.set_yscale("log")
            low, high = min(*trained, *held) / 1.15, max(*trained, *held) * 1.15
            ticks = [tick for tick in TICKS if low <= tick <= high]
            axes.set_ylim(low, high)
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.set_xlim(left=0)
            axes.set(xlabel="training step", ylabel="mean squared error", title=title)
            axes.grid(color="#ececec", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.legend(frameon=False)
        figure.savefig(path)


@attrs.frozen(eq=False)
class Block:
    """Pictures ``(rows, columns, H, W)`` in [-1, 1], with a label for each row or one for all, labels of the
    columns above, and a line below the block.
    """

    pictures: Tensor = attrs.field(repr=False)
    rows: Sequence[str]
    columns: Sequence[str] = ()
    below: str = ""


def draw_sheet(blocks: Sequence[Block], path: Path, *, left: float = 1.1) -> None:
    """Draw blocks of equally many columns from the top down; ``left`` is the room for labels, in inches."""
    import matplotlib.style
    from matplotlib.figure import Figure

    cell, columns = 0.46, blocks[0].pictures.shape[1]
    above = [0.3 if block.columns else 0.12 for block in blocks]
    under = [0.25 if block.below else 0.08 for block in blocks]
    width = left + columns * cell + 0.08
    height = sum(above) + sum(under) + cell * sum(len(block.pictures) for block in blocks)
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(width, height), dpi=200)
        upper = height
        for block, over, beneath in zip(blocks, above, under, strict=True):
            count = len(block.pictures)
            upper -= over + count * cell
            place = (left / width, upper / height, columns * cell / width, count * cell / height)
            axes = figure.add_axes(place)
            sheet = np.block([[picture.numpy() for picture in row] for row in block.pictures])
            shown: dict[str, Any] = {"cmap": "gray", "interpolation": "nearest", "aspect": "auto"}
            axes.imshow(sheet, vmin=-1, vmax=1, extent=(0, columns, count, 0), **shown)
            axes.hlines(range(1, count), 0, columns, color="white", linewidth=2)
            axes.vlines(range(1, columns), 0, count, color="white", linewidth=2)
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
            axes.set_yticks([count / 2] if len(block.rows) == 1 else np.arange(count) + 0.5, block.rows)
            axes.set_xticks(np.arange(len(block.columns)) + 0.5, block.columns)
            axes.xaxis.tick_top()
            if block.below:
                axes.set_xlabel(block.below, fontsize=7.5, labelpad=2)
            upper -= beneath
        figure.savefig(path)
