"""The settings of a recording, checked before anything is loaded."""

from __future__ import annotations

import attrs

from foreseer.bench.fields import refuse_device
from foreseer.errors import OptionError
from foreseer.types import Site
from foreseer.workbench.features_store import KeptAs
from foreseer.workbench.sites import Recordable

__all__ = ["RecordSettings"]

MOST_STEPS = 1000
"""What the schedulers of the bundled families were trained with."""


@attrs.frozen(kw_only=True)
class RecordSettings:
    """What to record.

    Attributes:
        samples: How many samples: those of index 0 to ``samples - 1``.
        steps: Denoising steps, T; None for the family's own number.
        guidance: Weight of the guidance; None for the family's own.
        seed: Of the noises.
        batch: Samples that are drawn together.
        sites: See `foreseer.workbench.TraceRecorder`.
        every: Measure sensitivities at every so many steps, and interpolate in between; None measures none. Each measured step takes one more sampling of the
            samples that are measured. They may fall by more than ten times from one step to the next, so that leaving steps out is a risk.
        measured: How many samples are measured, the first ones; None for all. Plans use the mean over them.
        target: Whose errors are let through to measure; None for the last block's output, or the denoiser's where it is not recorded.
        features: Keep the tensors too, as float32 or float16; None lets go of them.
        keep_on: Where to hold the features of a run under way; None holds them where they are computed.

    Raises:
        OptionError: A value is out of range; the message says what to write.
    """

    samples: int = 16
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    batch: int = 16
    sites: Recordable = "default"
    every: int | None = 1
    measured: int | None = 4
    target: Site | None = None
    features: KeptAs | None = None
    keep_on: str | None = None

    def __attrs_post_init__(self) -> None:
        for name, value, low, high in (
            ("samples", self.samples, 1, None),
            ("steps", self.steps, 1, MOST_STEPS),
            ("batch", self.batch, 1, None),
            ("seed", self.seed, 0, None),
            ("every", self.every, 1, None),
            ("measured", self.measured, 1, None),
        ):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high)):
                raise OptionError(f"{name}={value!r} is out of range; write a whole number {f'>= {low}' if high is None else f'from {low} to {high}'}")
        if self.keep_on is not None:
            refuse_device(self.keep_on, name="keep_on")
        if self.guidance is not None and not 0 <= self.guidance <= 100:
            raise OptionError(f"guidance={self.guidance!r} is out of range; write a number from 0 to 100 (1 means no guidance)")
        if self.features not in (None, "float32", "float16"):
            raise OptionError(f"features={self.features!r} is unknown; write 'float32', 'float16' or None")
