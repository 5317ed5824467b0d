"""The settings of a recording, checked before anything is loaded, and its sites as written on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import attrs

from foreseer.bench.fields import check_guidance, refuse_device, whole
from foreseer.errors import OptionError
from foreseer.policies.drafting import Target, site_at
from foreseer.types import OUTPUT, Site
from foreseer.workbench.features_store import KeptAs, check_kept
from foreseer.workbench.trace import site_named

__all__ = ["USUAL", "Asked", "RecordSettings", "Recordable", "Residual", "located", "recorded_sites", "site_from", "sites_from"]

Residual = Literal["residual", "residual_after_first"]
"""Sites that are named by the target that forecasts them, since they depend on the number of blocks."""
Asked = Site | Residual
"""A site, of which ``Site(-1)`` is the last block's output, or a residual by its name."""
Recordable = Literal["default", "blocks"] | Sequence[Asked]
"""Which sites to record: the first and the last block's output and the denoiser's, or those of every block,
or a list.
"""


def located(asked: Asked, depth: int) -> Site:
    """Return the site that was asked for, of a model with so many blocks."""
    word: Site | Target = "last_block" if asked == Site(-1) else asked
    return word if isinstance(word, Site) else site_at(word, depth)


def recorded_sites(asked: Recordable, *, depth: int) -> tuple[Site, ...]:
    """Return the sites that were asked for, of a model with so many blocks."""
    if asked == "blocks":
        return (*(Site(block) for block in range(depth)), OUTPUT)
    several: Sequence[Any] = (Site(0), Site(-1), OUTPUT) if asked == "default" else asked
    return tuple(dict.fromkeys(located(each, depth) for each in several))


ANY = "write last, first, output, clean, residual, residual_after_first, a block's number, or a site such as 11.attn or '11.block since 0'"


def site_from(text: str | Site, *, what: str = "site", advice: str = ANY) -> Asked:
    """Read a site as written on a command line: ``last``, ``first``, ``output``, ``residual``,
    ``residual_after_first``, a block's number, a block with one of its parts, or what a block and those before
    it added, ``11.block since 0``. A site stays as it is.

    >>> site_from("11.attn"), site_from("3"), site_from("last")
    (Site(block=11, part='attn'), Site(block=3, part='block'), Site(block=-1, part='block'))

    Raises:
        OptionError: It is none of this; the message names the option ``what``, and what to write instead.
    """
    if isinstance(text, Site):
        return text
    words: dict[str, Asked] = {"last": Site(-1), "last_block": Site(-1), "first": Site(0), **{word: word for word in get_args(Residual)}}
    try:
        number = text.lstrip("-").isdigit()
        return words[text] if text in words else Site(int(text)) if number else site_named(text)
    except (ValueError, OptionError) as error:
        raise OptionError(f"{what}={text!r} is unknown; {advice}") from error


def sites_from(asked: str | Sequence[Asked]) -> Recordable:
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
    if not asked or not all(isinstance(site, Site) or site in get_args(Residual) for site in asked):
        raise OptionError(f"sites={asked!r} is unknown; write 'default', 'blocks' or a list of foreseer.Site")
    return tuple(asked)


optional: Any = attrs.validators.optional

MOST_STEPS = 1000
"""What the schedulers of the bundled families were trained with."""


def _check_place(settings: object, attribute: attrs.Attribute[str], value: str) -> None:
    refuse_device(value, name=attribute.name)


USUAL = 16, 16
"""Samples of a bundled model, and of them together, where the settings do not say."""


@attrs.frozen(kw_only=True)
class RecordSettings:
    """What to record.

    Attributes:
        samples: How many samples, from 0 on; None for one for each prompt, or 16.
        steps: Denoising steps, T; None for the workload's own number.
        solver: What takes the steps, such as ``dpmpp_2m``, see `foreseer.bench.solvers`; None for the workload's
            own.
        guidance: Weight of the guidance; None for the workload's own.
        seed: Seed of the noises.
        batch: Samples that are drawn together; None for 1 of a pipeline of yours, or 16.
        sites: Sites to record: ``default`` (first and last block, and output), ``blocks``, or a list as in
            ``0.block,11.attn,last,residual,output``; or ``clean``, a solver's data predictions, for
            `foreseer plan --grid`. See `foreseer.workbench.TraceRecorder`.
        every: Measure sensitivities at every so many steps, and interpolate in between; None measures none.
            Each measured step takes one more sampling of the samples that are measured. They may fall by more
            than ten times from one step to the next, so that leaving steps out is a risk.
        measured: How many samples are measured, the first ones; None for all. Plans use the mean over them.
        target: Site whose errors are let through to measure; None for the last block's output, or the
            denoiser's where it is not recorded. Those of a residual are errors where it ends.
        features: Keep the tensors too, as float32 or float16; None lets go of them.
        keep_on: Where to hold the features of a run under way; None for where they are computed.

    Raises:
        OptionError: A value is out of range; the message says what to write.
    """

    samples: int | None = attrs.field(default=None, validator=optional(whole(1)))
    steps: int | None = attrs.field(default=None, validator=optional(whole(1, MOST_STEPS)))
    solver: str | None = attrs.field(default=None)
    guidance: float | None = attrs.field(default=None, validator=optional(check_guidance))
    seed: int = attrs.field(default=0, validator=whole(0))
    batch: int | None = attrs.field(default=None, validator=optional(whole(1)))
    sites: Recordable = attrs.field(default="default", converter=sites_from)
    every: int | None = attrs.field(default=1, validator=optional(whole(1)))
    measured: int | None = attrs.field(default=4, validator=optional(whole(1)))
    target: Asked | None = attrs.field(default=None, converter=attrs.converters.optional(site_from))
    features: KeptAs | None = attrs.field(default=None, validator=optional(check_kept))
    keep_on: str | None = attrs.field(default=None, validator=optional(_check_place))
