"""Tables in Markdown, for the parts of `evidence.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(titles: str, rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; a column whose title ends in a colon is of numbers."""
    names = titles.split(" | ")
    rule = "".join("|---:" if name.endswith(":") else "|---" for name in names)
    lines = [[name.removesuffix(":") for name in names], *rows]
    written = [f"| {' | '.join(map(str, cells))} |" for cells in lines]
    return "\n".join([written[0], f"{rule}|", *written[1:]])
