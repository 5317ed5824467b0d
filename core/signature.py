"""What a recording, plan or preset was made for, and what differs where it is to be used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from foreseer.types import Run

__all__ = ["Signature"]

TOLERANCE = 1e-3
"""How far timesteps may be apart, relative to the largest: schedulers compute them in 32 bits."""


def _times(values: Sequence[float] | None) -> tuple[float, ...]:
    return tuple(float(v) for v in values or ())


def _shapes(values: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Earlier files call the output "-1.output"."""
    return {"output" if site == "-1.output" else site: list(shape) for site, shape in values.items()}


@attrs.frozen(kw_only=True)
class Signature:
    """What decides whether something found in one place holds in another.

    Attributes:
        model: Class and hash of the configuration, as `foreseer.Run.model`; empty where it is not known.
        scheduler: Likewise, as `foreseer.Run.scheduler`; empty for a loop of the caller's own.
        num_steps: Denoiser evaluations of a run, T.
        timesteps: ``(T,)`` as given to the model; empty where they are not known.
        guidance: Weight of the guidance; None where it is not known.
        dtype: Of the features, such as ``"float32"``; empty where it is not known.
        shapes: Shape of one row's feature at each recorded site, such as ``{"11.block": [16, 128]}``.
        conditions: Hash of what the samples were conditioned on and of their noises: the seed; empty where it
            is not known. Never compared: what is recorded on some samples is for others.
        versions: Of foreseer, torch and diffusers. Never compared either; for readers.
    """

    model: str = ""
    scheduler: str = ""
    num_steps: int
    timesteps: tuple[float, ...] = attrs.field(default=(), converter=_times)
    guidance: float | None = None
    dtype: str = ""
    shapes: Mapping[str, Sequence[int]] = attrs.field(factory=dict, converter=_shapes)
    conditions: str = ""
    versions: Mapping[str, str] = attrs.field(factory=dict)

    def conflicts(self, other: Signature | Run, *, other_steps: bool = False) -> list[str]:
        """Return what differs, as "50 steps before, 30 now". What one side does not know is not compared.

        Args:
            other: A run, of which guidance, dtype and shapes are not known, or another signature.
            other_steps: Allow another number of steps, and with it other timesteps.
        """
        found = [
            f"{what} {mine} before, {theirs} now"
            for what, mine, theirs in (("model", self.model, other.model), ("scheduler", self.scheduler, other.scheduler))
            if mine and theirs and mine != theirs
        ]
        if not other_steps:
            if other.num_steps is not None and other.num_steps != self.num_steps:
                found.append(f"{self.num_steps} steps before, {other.num_steps} now")
            elif other.timesteps and self.timesteps and len(other.timesteps) != len(self.timesteps):
                found.append(f"{len(self.timesteps)} timesteps before, {len(other.timesteps)} now")
            elif other.timesteps and self.timesteps:
                most = max(map(abs, self.timesteps)) or 1.0
                apart = max(abs(a - b) for a, b in zip(self.timesteps, other.timesteps, strict=True))
                if apart > TOLERANCE * most:
                    found.append(f"timesteps that differ by up to {apart:.3g} of {most:.3g}")
        if isinstance(other, Signature):
            if self.guidance is not None and other.guidance is not None and not math.isclose(self.guidance, other.guidance, rel_tol=1e-6):
                found.append(f"guidance {self.guidance:g} before, {other.guidance:g} now")
            if self.dtype and other.dtype and self.dtype != other.dtype:
                found.append(f"{self.dtype} before, {other.dtype} now")
            found += [
                f"features of {site} of shape {list(shape)} before, {list(other.shapes[site])} now"
                for site, shape in self.shapes.items()
                if site in other.shapes and list(other.shapes[site]) != list(shape)
            ]
        return found
