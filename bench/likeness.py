"""The figures of each sample: how like it is to the same sample of full computation, and whether it is what
was asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.bench.workload import OfDigits, Workload
from foreseer.zoo.judge import DigitJudge

__all__ = ["Drawn", "figures_of", "look_at"]


@attrs.frozen(eq=False)
class Drawn:
    """What one lane drew of one batch.

    Attributes:
        latents: ``(B, ...)`` float32 on the CPU.
        images: ``(B, C, H, W)``, or ``(B, F, C, H, W)`` of videos; float32 on the CPU.
        features: ``(B, D)`` classifier's features, or ``(B, F, D)``; D is 0 where samples are no digits.
        seen: ``(B,)`` or ``(B, F)`` class that the classifier sees; -1 where a picture is not finite, or no
            digit.
    """

    latents: Tensor = attrs.field(repr=False)
    images: Tensor = attrs.field(repr=False)
    features: Tensor = attrs.field(repr=False)
    seen: Tensor = attrs.field(repr=False)


def look_at(workload: Workload, judge: Callable[[], DigitJudge], latents: Tensor) -> Drawn:
    """Decode latents and show the pictures to the classifier, which is loaded where they are digits."""
    images, latents = workload.decode(latents), latents.float().cpu()
    if images.shape == latents.shape and torch.equal(images, latents):
        latents = images
    shape = images.shape[:2] if images.ndim == 5 else images.shape[:1]
    digits = workload.digits(images.flatten(0, 1) if images.ndim == 5 else images) if isinstance(workload, OfDigits) else None
    if digits is None:
        return Drawn(latents, images, torch.zeros(*shape, 0), torch.full(shape, -1))
    finite = torch.isfinite(digits).flatten(1).all(1)
    with torch.no_grad():
        features = judge().features(digits)
        seen = judge().classes(digits).masked_fill(~finite, -1)
    return Drawn(latents, images, features.view(*shape, -1), seen.view(shape))


def figures_of(own: Drawn, full: Drawn, labels: Tensor) -> dict[str, tuple[float, ...]]:
    """Return the figures that no measure of images gives, by name, each with one number per sample: of what a
    lane and full computation drew from the same noise, and of what was asked for, ``(B,)``.
    """
    found = {"latent_error": _relative(own.latents, full.latents)}
    if own.features.shape[-1] > 0:
        asked = labels if own.seen.ndim == 1 else labels[:, None]
        found["feature_distance"] = _relative(own.features, full.features)
        found["accuracy"] = (own.seen == asked).double().view(len(labels), -1).mean(1).numpy()
    return {name: tuple(values.tolist()) for name, values in found.items()}


def _relative(own: Tensor, full: Tensor) -> NDArray[np.float64]:
    """``|own - full| / |full|`` of each sample; NaN where it does not exist."""
    a, b = own.double().flatten(1), full.double().flatten(1)
    error: NDArray[np.float64] = ((a - b).norm(dim=1) / b.norm(dim=1)).numpy()
    return np.where(np.isfinite(error), error, np.nan)
