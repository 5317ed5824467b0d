"""The figures of each sample: how like it is to the same sample of full computation, and whether it is what
was asked for.
"""

from __future__ import annotations

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.bench.layout import layout
from foreseer.bench.workload import Workload
from foreseer.errors import OptionError
from foreseer.psnr import DATA_RANGE, pair_of, psnr
from foreseer.zoo.judge import DigitJudge

__all__ = ["SSIM_WINDOW", "Drawn", "figures_of", "look_at", "ssim"]

SSIM_WINDOW = 7
"""Side of SSIM's uniform window, pixels."""


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


def look_at(workload: Workload, judge: DigitJudge, latents: Tensor) -> Drawn:
    """Decode latents and show the pictures to the classifier."""
    images = workload.decode(latents)
    shape = images.shape[:2] if images.ndim == 5 else images.shape[:1]
    digits = workload.digits(images.flatten(0, 1) if images.ndim == 5 else images)
    if digits is None:
        return Drawn(latents.float().cpu(), images, torch.zeros(*shape, 0), torch.full(shape, -1))
    finite = torch.isfinite(digits).flatten(1).all(1)
    with torch.no_grad():
        features = judge.features(digits)
        seen = judge.classes(digits).masked_fill(~finite, -1)
    return Drawn(latents.float().cpu(), images, features.view(*shape, -1), seen.view(shape))


def figures_of(own: Drawn, full: Drawn, labels: Tensor) -> dict[str, tuple[float, ...]]:
    """Return the figures of `foreseer.bench.results.FIGURES`, each with one number per sample: of what a lane
    and full computation drew from the same noise, and of what was asked for, ``(B,)``.
    """
    video = own.images.ndim == 5
    frames = own.images.shape[1] if video else 1
    own_pictures, full_pictures = (d.images.flatten(0, 1) if video else d.images for d in (own, full))
    found = {"psnr": psnr(own.images, full.images)}
    if min(own_pictures.shape[2:]) >= SSIM_WINDOW:
        found["ssim"] = ssim(own_pictures, full_pictures).reshape(-1, frames).mean(1)
    found["layout"] = layout(own_pictures, full_pictures).reshape(-1, frames).mean(1)
    digits = own.features.shape[-1] > 0
    if digits:
        found["feature_distance"] = _relative(own.features, full.features)
    found["latent_error"] = _relative(own.latents, full.latents)
    if video:
        found["temporal_psnr"] = psnr(own.images.diff(dim=1), full.images.diff(dim=1))
    asked = labels if own.seen.ndim == 1 else labels[:, None]
    if digits:
        found["accuracy"] = (own.seen == asked).double().view(len(labels), -1).mean(1).numpy()
    return {name: tuple(values.tolist()) for name, values in found.items()}


def _relative(own: Tensor, full: Tensor) -> NDArray[np.float64]:
    """``|own - full| / |full|`` of each sample; NaN where it does not exist."""
    a, b = own.double().flatten(1), full.double().flatten(1)
    error: NDArray[np.float64] = ((a - b).norm(dim=1) / b.norm(dim=1)).numpy()
    return np.where(np.isfinite(error), error, np.nan)


def ssim(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """Return the ``(B,)`` float64 structural similarity of each sample, at most 1; NaN where one of the two
    is not finite.

    It is scikit-image's, with a uniform window of 7x7 pixels (``gaussian_weights=False``, since the Gaussian
    window of the original paper is 11 pixels wide and does not fit 8x8) and the sample covariance. Only
    windows that lie inside the image count: four of them in an 8x8 image, so that the border weighs less than
    the middle. Channels are averaged.

    ``a`` and ``b`` are ``(B, C, H, W)`` images in [-1, 1], of any float dtype, on any device, with H and W at
    least 7. They are not clipped.

    Raises:
        OptionError: If the shapes differ, are not ``(B, C, H, W)``, or are smaller than the window.
    """
    from skimage.metrics import structural_similarity

    x, y = pair_of(a, b)
    if x.ndim != 4 or min(x.shape[2:]) < SSIM_WINDOW:
        takes = f"SSIM takes (B, C, H, W) with H and W at least {SSIM_WINDOW}"
        raise OptionError(f"a and b have shape {x.shape}; {takes}; write larger images, or use psnr")
    found = np.full(len(x), np.nan)
    how = {"win_size": SSIM_WINDOW, "gaussian_weights": False, "data_range": DATA_RANGE, "channel_axis": 0}
    for i, (one, other) in enumerate(zip(x, y, strict=True)):
        if np.isfinite(one).all() and np.isfinite(other).all():
            found[i] = structural_similarity(one, other, **how)
    return found
