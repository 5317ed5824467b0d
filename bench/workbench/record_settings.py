"""The settings of a recording, checked before anything is loaded."""

from __future__ import annotations

from typing import Any

import attrs

from foreseer.bench.fields import number, refuse_device, whole
from foreseer.types import Site
from foreseer.workbench.features_store import KeptAs, check_kept
from foreseer.workbench.sites import Recordable, site_from, sites_from

__all__ = ["RecordSettings"]

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
