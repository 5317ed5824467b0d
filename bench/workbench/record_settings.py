"""The settings of a recording, checked before anything is loaded, and its sites as written on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import attrs

from foreseer.bench.fields import number, refuse_device, whole
from foreseer.errors import OptionError
from foreseer.types import OUTPUT, Site
from foreseer.workbench.features_store import KeptAs, check_kept
from foreseer.workbench.trace import site_named

__all__ = ["RecordSettings", "Recordable", "recorded_sites", "site_from", "sites_from"]

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
    """Read a site as written on a command line: ``last``, ``first``, ``output``, a block's number, or a block
    with one of its parts. A site stays as it is.

    >>> site_from("11.attn"), site_from("3"), site_from("last")
    (Site(block=11, part='attn'), Site(block=3, part='block'), Site(block=-1, part='block'))

    Raises:
        OptionError: It is none of this; the message names the option ``what``, and what to write instead.
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
        if asked == "default":
            return "default"
        if asked == "blocks":
            return "blocks"
        return tuple(site_from(word.strip(), what="sites") for word in asked.split(","))
    if not asked or not all(isinstance(site, Site) for site in asked):
        raise OptionError(f"sites={asked!r} is unknown; write 'default', 'blocks' or a list of foreseer.Site")
    return tuple(asked)


optional: Any = attrs.validators.optional
_guidance = number(0.0, 100.0, hint="1 means no guidance")

MOST_STEPS = 1000
"""What the schedulers of the bundled families were trained with."""


def _check_place(settings: object, attribute: attrs.Attribute[str], value: str) -> None:
    refuse_device(value, name=attribute.name)


@attrs.frozen(kw_only=True)
class RecordSettings:
    """What to record.

    Attributes:
        samples: How many samples. Those of index 0 to ``samples - 1``.
        steps: Denoising steps, T; None for the family's own number.
        guidance: Weight of the guidance; None for the family's own.
        seed: Seed of the noises.
        batch: Samples that are drawn together.
        sites: Sites to record: ``default`` (first and last block, and output), ``blocks``, or a list as in
            ``0.block,11.attn,last,output``. See `foreseer.workbench.TraceRecorder`.
        every: Measure sensitivities at every so many steps, and interpolate in between; None measures none.
            Each measured step takes one more sampling of the samples that are measured. They may fall by more
            than ten times from one step to the next, so that leaving steps out is a risk.
        measured: How many samples are measured, the first ones; None for all. Plans use the mean over them.
        target: Site whose errors are let through to measure; None for the last block's output, or the
            denoiser's where it is not recorded.
        features: Keep the tensors too, as float32 or float16; None lets go of them.
        keep_on: Where to hold the features of a run under way; None for where they are computed.

    Raises:
        OptionError: A value is out of range; the message says what to write.
    """

    samples: int = attrs.field(default=16, validator=whole(1))
    steps: int | None = attrs.field(default=None, validator=optional(whole(1, MOST_STEPS)))
    guidance: float | None = attrs.field(default=None, validator=optional(_guidance))
    seed: int = attrs.field(default=0, validator=whole(0))
    batch: int = attrs.field(default=16, validator=whole(1))
    sites: Recordable = attrs.field(default="default", converter=sites_from)
    every: int | None = attrs.field(default=1, validator=optional(whole(1)))
    measured: int | None = attrs.field(default=4, validator=optional(whole(1)))
    target: Site | None = attrs.field(default=None, converter=attrs.converters.optional(site_from))
    features: KeptAs | None = attrs.field(default=None, validator=optional(check_kept))
    keep_on: str | None = attrs.field(default=None, validator=optional(_check_place))
