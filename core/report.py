"""What happened in a run: kept while it is under way, and complete after an exception."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING, overload

import attrs

from foreseer.errors import MissingPackageError
from foreseer.facts import Facts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report"]


@attrs.frozen(eq=False)
class Report(Facts):
    """The account of one run: `foreseer.facts.Facts` that show themselves, as text and as a picture."""

    @overload
    def plot(self, path: str | Path) -> Path: ...

    @overload
    def plot(self, path: None = None) -> Figure: ...

    def plot(self, path: str | Path | None = None) -> Path | Figure:
        """Draw the timeline: steps across, rows down, errors against the threshold.

        Args:
            path: Where to write; the ending chooses the format (png, pdf, svg). None writes nothing.

        Returns:
            The path; without one the ``matplotlib.figure.Figure``, which a notebook shows.

        Raises:
            ImportError: Without matplotlib (``pip install 'foreseer[plots]'``).
            OptionError: The path has no ending.
        """
        from foreseer.timeline import draw, figure

        return figure(self) if path is None else draw(self, Path(path))

    def __str__(self) -> str:
        from foreseer.tables import report_text

        return report_text(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the timeline, with the table folded below. Without matplotlib the table."""
        from foreseer.timeline import picture

        text = f'<pre style="line-height: 1.25; overflow-x: auto">{html.escape(str(self))}</pre>'
        try:
            drawn, width = picture(self)
        except MissingPackageError:
            return text
        shown = f'<img alt="Timeline of the run" style="width: {width}px; max-width: 100%" src="data:image/png;base64,{base64.b64encode(drawn).decode()}">'
        title = html.escape(str(self).partition("\n")[0])
        return f"<div>{shown}<details><summary>{title}</summary>{text}</details></div>"
