"""Columns of tables in the terminal and on pages: heading, value, and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Column", "Listed", "known", "listed"]

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


NAME_WIDTH = 30
"""A name is broken into lines of so many characters, not fewer; where a terminal has no room for that beside
the figures, it gets a line of its own above them.
"""


@attrs.frozen(eq=False)
class Listed(Generic[Line]):
    """A table for the terminal, as `listed` makes it; rich draws it as wide as there is room."""

    _heading: str
    _columns: Sequence[Column[Line]]
    _lines: Sequence[Line]
    _name: Callable[[Line], str]
    _faint: Callable[[Line], bool]
    _name_width: int | None

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        names, cells = [self._name(line) for line in self._lines], [[column.text(line) for column in self._columns] for line in self._lines]
        widths = [max(map(len, (*column.title.split(), *below))) for column, *below in zip(self._columns, *cells, strict=True)]
        figures, name = sum(widths) + 2 * len(widths), min(max(map(len, (*self._heading.split(), *names))), NAME_WIDTH) + 1
        room = figures <= options.max_width < figures + name  # columns of long texts are wrapped beside the name
        yield from self._above(names, cells, widths) if room else [self._beside(names, cells)]

    def _style(self, place: int) -> str:
        return "dim" if self._faint(self._lines[place]) else ""

    def _beside(self, names: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
        from rich.text import Text

        from foreseer.console import table

        looks: dict[str, dict[str, Any]] = {column.title: {"justify": "right"} for column in self._columns}
        made = table(self._heading, *(column.title for column in self._columns), **{self._heading: {"min_width": self._name_width}} | looks)
        for place, (name, texts) in enumerate(zip(names, cells, strict=True)):
            made.add_row(Text(name), *map(Text, texts), style=self._style(place))
        return made

    def _above(self, names: Sequence[str], cells: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[Any]:
        from rich.text import Text

        def row(texts: Sequence[str], style: str = "") -> Text:
            return Text("  " + "  ".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True)), style=style)

        titles = [column.title.split() for column in self._columns]
        height = max(map(len, titles), default=0)
        yield Text(self._heading, style="bold")
        yield from (row(words, "bold") for words in zip(*([""] * (height - len(title)) + title for title in titles), strict=True))
        yield Text("\u2500" * (sum(widths) + 2 * len(widths)))
        for place, (name, texts) in enumerate(zip(names, cells, strict=True)):
            yield Text(name, style=self._style(place), overflow="fold")
            yield row(texts, self._style(place))


def listed(
    heading: str,
    columns: Sequence[Column[Line]],
    lines: Iterable[Line],
    name: Callable[[Line], str],
    *,
    faint: Callable[[Line], bool] = lambda line: False,
    name_width: int | None = None,
) -> Listed[Line]:
    """Return a table for the terminal, headed ``heading`` over the lines' names, at least ``name_width``
    characters wide; ``faint`` lines are dim. Every text is shown as it is. On a terminal that is too narrow
    each name stands above its figures.
    """
    return Listed(heading, columns, tuple(lines), name, faint, name_width)
