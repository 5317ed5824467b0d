"""What happened in a run: kept while it is under way, and complete after an exception."""

from __future__ import annotations

from pathlib import Path

import attrs

from foreseer.facts import Facts

__all__ = ["Report"]


@attrs.frozen(eq=False)
class Report(Facts):
    """The account of one run: `foreseer.facts.Facts` that show themselves, as text and as a picture."""

    def plot(self, path: str | Path) -> Path:
        """Draw the timeline: steps across, rows down, errors against the threshold.

        Args:
            path: Where to write; the ending chooses the format (png, pdf, svg).

        Raises:
            ImportError: Without matplotlib (``pip install 'foreseer[plots]'``).
        """
        from foreseer.timeline import draw

        return draw(self, Path(path))

    def __str__(self) -> str:
        from foreseer.tables import report_text

        return report_text(self)
