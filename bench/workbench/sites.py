"""Which sites are recorded, in Python and as written on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from foreseer.errors import OptionError
from foreseer.types import OUTPUT, Site
from foreseer.workbench.trace import site_named

__all__ = ["Recordable", "recorded_sites", "sites_from"]

Recordable = Literal["default", "blocks"] | Sequence[Site]
"""Which sites to record: the first and the last block's output and the denoiser's, or those of every block, or a list."""


def recorded_sites(asked: Recordable, *, depth: int) -> tuple[Site, ...]:
    """Return the sites that were asked for, of a model with so many blocks; ``Site(-1)`` is the last block's."""
    last = Site(depth - 1)
    if asked == "default":
        return tuple(dict.fromkeys((Site(0), last, OUTPUT)))
    if asked == "blocks":
        return (*(Site(block) for block in range(depth)), OUTPUT)
    return tuple(dict.fromkeys(last if site == Site(-1) else site for site in asked if isinstance(site, Site)))


def sites_from(text: str) -> Recordable:
    """Read sites as written on a command line: ``default``, ``blocks``, or a list such as ``0.block,11.attn,last,output``.

    Raises:
        OptionError: It is none of this.
    """
    if text == "default":
        return "default"
    if text == "blocks":
        return "blocks"
    words: dict[str, Site] = {"output": OUTPUT, "last": Site(-1)}
    found = []
    for word in text.split(","):
        try:
            found.append(words[word.strip()] if word.strip() in words else site_named(word.strip()))
        except ValueError as error:
            raise OptionError(f"sites={text!r} is unknown at {word!r}; write default, blocks, or a list such as 0.block,11.attn,last,output") from error
    return tuple(found)
