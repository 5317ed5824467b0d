"""Blocks of a page with what was drawn: samples to look at, and a sentence about each lane."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

__all__ = ["Compared", "Looking", "Verdicts", "View"]


@attrs.frozen(kw_only=True)
class View:
    """What one lane drew of a sample.

    Attributes:
        name: The lane's.
        said: What became of the sample, in words.
        mark: The same in a few characters.
        value: Sorts the samples, the least first.
        kind: See `Table`.
        small: Address of a small picture.
        own, difference: Addresses of what was drawn and of how it differs from the reference: pictures, or
            videos. ``own`` is empty where ``small`` is all there is.
        still, still_difference: Addresses of one frame of each video; empty for pictures.
    """

    name: str
    said: str
    mark: str
    value: float
    kind: str
    small: str
    own: str
    difference: str
    still: str = ""
    still_difference: str = ""


@attrs.frozen(kw_only=True)
class Compared:
    """A sample, as several lanes drew it, beside a reference.

    Attributes:
        name: The sample's.
        anchor: Where links to it lead.
        caption: What was asked for; empty for nothing.
        reference: Address of the picture or video that the others are held against.
        still: Address of one frame of the reference; empty for a picture.
        views: Of each lane, at least one.
        first: Which of them is shown first.
        size: Width and height, pixels.
        frames: Of a video; 0 for a picture.
        frame: The frame that is shown first.
    """

    name: str
    anchor: str
    caption: str
    reference: str
    views: Sequence[View]
    first: int
    size: tuple[int, int]
    still: str = ""
    frames: int = 0
    frame: int = 0


@attrs.frozen(kw_only=True)
class Looking:
    """Samples beside their references, to be looked at: a slider uncovers one or the other, videos play in
    step. The reader may choose the lane; then the samples that it hurt most come first.

    Attributes:
        samples: As they are shown first.
        rate: Frames a second of videos.
        strength: How many times as strong as the samples the differences are.
        opened: So many are seen at once; the others are folded.
    """

    samples: Sequence[Compared]
    rate: int
    strength: float
    opened: int = 3

    @property
    def names(self) -> list[str]:
        """The lanes, each once."""
        return list(dict.fromkeys(view.name for sample in self.samples for view in sample.views))


@attrs.frozen
class Verdicts:
    """Lanes, a sentence about each, and samples to look at: what the link says, and the sample's anchor."""

    lines: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]
