"""Which sites are recorded, in Python and as written on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from foreseer.errors import OptionError
from foreseer.types import OUTPUT, Site
from foreseer.workbench.trace import site_named

__all__ = ["Recordable", "recorded_sites", "site_from", "sites_from"]

Recordable = Literal["default", "blocks"] | Sequence[Site]
"""Which sites to record: the first and the last block's output and the denoiser's, or those of every block,
or a list.
"""


def recorded_sites(asked: Recordable, *, depth: int) -> tuple[Site, ...]:
    """Return the sites that were asked for, of a model with so many blocks; ``Site(-1)`` is the last block's."""
    last = Site(depth - 1)
    if asked == "default":
        return tuple(dict.fromkeys((Site(0), last, OUTPUT)))
    if asked == "blocks":
        return (*(Site(block) for block in range(depth)), OUTPUT)
    return tuple(dict.fromkeys(last if site == Site(-1) else site for site in asked if isinstance(site, Site)))


ANY = "write last, first, output, a block's number, or a block with its part such as 11.attn"


def site_from(text: str | Site, *, what: str = "site", advice: str = ANY) -> Site:
    """Read a site as written on a command line.

    >>> site_from("11.attn"), site_from("3"), site_from("last")
    (Site(block=11, part='attn'), Site(block=3, part='block'), Site(block=-1, part='block'))

    Args:
        text: ``last``, ``first``, ``output``, a block's number, or a block with one of its parts; or a site.
        what: Name of the option, for the message.
        advice: What to write instead, likewise.

    Raises:
        OptionError: It is none of this.
    """
    if isinstance(text, Site):
        return text
    words = {"last": Site(-1), "first": Site(0)}
    try:
        number = text.lstrip("-").isdigit()
        return words[text] if text in words else Site(int(text)) if number else site_named(text)
    except ValueError as error:
        raise OptionError(f"{what}={text!r} is unknown; {advice}") from error


def sites_from(asked: str | Sequence[Site]) -> Recordable:
    """Read which sites to record: ``default``, ``blocks``, a list as ``0.block,last,output``, or sites.

    Raises:
        OptionError: It is none of this.
    """
    if isinstance(asked, str):
        whole: dict[str, Recordable] = {"default": "default", "blocks": "blocks"}
        if asked in whole:
            return whole[asked]
        return tuple(site_from(word.strip(), what="sites") for word in asked.split(","))
    if not asked or not all(isinstance(site, Site) for site in asked):
        raise OptionError(f"sites={asked!r} is unknown; write 'default', 'blocks' or a list of foreseer.Site")
    return tuple(asked)
