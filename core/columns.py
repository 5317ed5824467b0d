"""Columns of tables in the terminal and on pages: heading, value, and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Column", "known", "listed"]

Line = TypeVar("Line")


@attrs.frozen
class Column(Generic[Line]):
    """A column of a table.

    Attributes:
        title: Its heading.
        note: What it means; empty where the heading says it.
        value: A line's number or word; None or NaN where there is none.
        form: How the value is written: a format, or a function of the line that gives the whole cell.
        wide: Whether only a wide terminal and a screen show it.
        signed: Whether more than 0 is good and less is bad.
    """

    title: str
    note: str
    value: Callable[[Line], Any]
    form: str | Callable[[Line], str] = ""
    wide: bool = False
    signed: bool = False

    def text(self, line: Line) -> str:
        """Return the line's cell; empty where there is nothing to say."""
        if callable(self.form):
            return self.form(line)
        value = self.value(line)
        return "" if value is None or value != value else format(value, self.form)


def known(columns: Iterable[Column[Line]], lines: Sequence[Line]) -> list[Column[Line]]:
    """Return the columns in which any line has something to say."""
    return [column for column in columns if any(column.text(line) for line in lines)]


def listed(
    heading: str,
    columns: Sequence[Column[Line]],
    lines: Iterable[Line],
    name: Callable[[Line], str],
    *,
    faint: Callable[[Line], bool] = lambda line: False,
    name_width: int | None = None,
) -> Table:
    """Return a table for the terminal, headed ``heading`` over the lines' names, at least ``name_width``
    characters wide; ``faint`` lines are dim. Every text is shown as it is.
    """
    from rich.text import Text

    from foreseer.console import table

    looks: dict[str, dict[str, Any]] = {column.title: {"justify": "right"} for column in columns}
    made = table(heading, *(column.title for column in columns), **{heading: {"min_width": name_width}} | looks)
    for line in lines:
        cells = (Text(column.text(line)) for column in columns)
        made.add_row(Text(name(line)), *cells, style="dim" if faint(line) else "")
    return made
