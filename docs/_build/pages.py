"""What the parts of `evidence.py` write with: tables, and what a lane reached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from foreseer.bench.results import LaneResult
from foreseer.bench.summary import mean_of, worst_of


def table(titles: str, rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; a column whose title ends in a colon is of numbers."""
    names = titles.split(" | ")
    rule = "".join("|---:" if name.endswith(":") else "|---" for name in names)
    lines = [[name.removesuffix(":") for name in names], *rows]
    written = [f"| {' | '.join(map(str, cells))} |" for cells in lines]
    return "\n".join([written[0], f"{rule}|", *written[1:]])


def both(lane: LaneResult) -> str:
    """Mean and worst PSNR."""
    return f"{mean_of(lane, 'psnr'):.1f} / {worst_of(lane, 'psnr'):.1f}"
