"""Pages: one HTML file that opens from disk, needs nothing from anywhere, and prints. Every text in it is
text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from itertools import repeat
from pathlib import Path
from typing import Any

import attrs

from foreseer.bench.views import Looking, Verdicts
from foreseer.columns import Column, known
from foreseer.files import write_whole

__all__ = ["Chart", "Facts", "Fold", "Picture", "Pictures", "Section", "Table", "Text", "render", "write_page"]


@attrs.frozen
class Text:
    """A paragraph.

    Attributes:
        text: What it says.
        look: Space-separated classes of ``page.css``: ``soft``, ``loud``, ``warn``.
        keys: Colours that it explains, by what they stand for; an empty colour is that of the page.
    """

    text: str
    look: str = "soft"
    keys: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Facts:
    """Names, and what is said of each."""

    pairs: Sequence[tuple[str, str]]
    look: str = ""


@attrs.frozen
class Table:
    """A table, sorted by the heading that is pressed. Columns in which no line says anything are left out.

    Attributes:
        heading: Of the names.
        columns: The others.
        groups: Headings, and the lines under each, which are sorted among themselves.
        name: A line's name.
        kind: A line's class in ``page.css``: ``full`` and ``fewer`` are faint.
    """

    heading: str
    columns: Sequence[Column[Any]]
    groups: Sequence[tuple[str, Sequence[Any]]]
    name: Callable[[Any], str]
    kind: Callable[[Any], str] = lambda line: ""

    def drawn(self) -> dict[str, Any]:
        """Return headings and groups of lines, as ``page.html`` shows them."""
        every = [line for _, lines in self.groups for line in lines]
        shown = known(self.columns, every)
        looks = ["words" if isinstance(column.value(every[0]), str) else "wide" * column.wide for column in shown]
        groups = [
            (heading, [(self.kind(line), self.name(line), [*map(_cell, shown, looks, repeat(line))]) for line in lines])
            for heading, lines in self.groups
            if lines
        ]
        return {"heads": list(zip(shown, looks, strict=True)), "groups": groups}


def _cell(column: Column[Any], look: str, line: Any) -> dict[str, Any]:
    """What a cell says, the number it is sorted by (None: its words), and how it looks."""
    value = column.value(line)
    if look == "words":
        return {"text": column.text(line), "number": None, "look": look}
    nothing = value is None or value != value
    mark = "" if nothing or not column.signed else " good" if value > 0 else " bad" if value < 0 else ""
    number = "" if nothing else str(value).replace("inf", "Infinity")
    return {"text": column.text(line), "number": number, "look": look + mark}


@attrs.frozen
class Chart:
    """A picture by plotly, of which the reader may choose what it shows.

    Attributes:
        figures: What plotly draws, as plain data, by the keys of the choices that lead there, joined by
            spaces. All have the same number of traces.
        about: What is seen, for those who do not see it.
        choices: For each choice its label, and the words for each key; empty for one figure, whose key is
            ``""``.
        note: Below the picture.
        told: Whether a point that is pointed at is told of below: its ``customdata``.
    """

    figures: Mapping[str, Mapping[str, Any]]
    about: str
    choices: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict)
    note: str = ""
    told: bool = False

    @property
    def entries(self) -> int:
        """How many entries the legend has."""
        traces = next(iter(self.figures.values()))["data"]
        return sum(trace.get("showlegend", True) for trace in traces) if len(traces) > 1 else 0

    def data(self) -> str:
        """Return the figures as JSON, which cannot end the script it stands in. What the first says is not
        said again.
        """
        first = next(iter(self.figures.values()))
        data = {
            key: {
                "data": [_less(*pair) for pair in zip(figure["data"], first["data"], strict=True)],
                "layout": _less(figure["layout"], first["layout"]),
            }
            for key, figure in self.figures.items()
            if figure is not first
        }
        return json.dumps({"first": first, "others": data}, allow_nan=False).replace("<", "\\u003c")


def _less(changed: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in changed.items() if key not in first or first[key] != value} | {key: None for key in first if key not in changed}


@attrs.frozen
class Picture:
    """Images with a name.

    Attributes:
        name: Whose they are.
        text: What is said of them.
        images: Data URIs; empty for a gap.
        about: What each shows.
        look: Classes of ``page.css``: ``pixels``.
        style: CSS of the images.
        ends: What stands below the images' left and right ends; empty for nothing.
    """

    name: str
    text: str
    images: Sequence[str]
    about: Sequence[str]
    look: str = ""
    style: str = ""
    ends: Sequence[str] = ()


@attrs.frozen
class Pictures:
    """Pictures below each other (``rows``) or beside each other (``tiles``), and those that are folded."""

    shown: Sequence[Picture]
    folded: Sequence[Picture] = ()
    look: str = "rows"


@attrs.frozen
class Fold:
    """What is seen when its summary is pressed."""

    summary: str
    blocks: Sequence[Any]


@attrs.frozen
class Section:
    """A heading and what stands below it; a section of nothing is left out."""

    heading: str
    blocks: Sequence[Text | Facts | Table | Chart | Pictures | Looking | Verdicts | Fold]


def write_page(path: Path, title: str, heading: str, head: Sequence[Any], sections: Sequence[Section]) -> Path:
    """Write a page: its window's title, a heading, blocks below it, and sections. Returns ``path``.

    Raises:
        ImportError: Without jinja2 or plotly (``pip install 'foreseer[bench]'``).
        FileError: The file cannot be written.
    """
    from plotly.offline import get_plotlyjs

    own = {kind: "\n".join(_own(f"{name}.{kind}") for name in ("page", "looking")) for kind in ("css", "js")}
    sections = [Section("", head), *sections]
    return write_whole(path, render("page.html", title=title, heading=heading, sections=sections, style=own["css"], script=own["js"], plotly=get_plotlyjs()))


def render(template: str, **values: Any) -> str:
    """Fill a template of this folder: every value is text, and what is not a value stands as it is.

    Raises:
        ImportError: Without jinja2 (``pip install 'foreseer[bench]'``).
    """
    import jinja2
    import markupsafe

    def breakable(text: str) -> markupsafe.Markup:
        """Let a narrow column break long names after their commas."""
        return markupsafe.Markup("<wbr>").join(re.split(r"(?<=[,:;])(?=\S)", text))

    loader = jinja2.FunctionLoader(_own)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader)
    environment.filters["breakable"] = breakable
    return environment.get_template(template).render(values)


def _own(name: str) -> str:
    return (files("foreseer.bench") / name).read_text(encoding="utf-8")
