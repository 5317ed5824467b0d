"""How like samples are to those of full computation, by structure (SSIM). PSNR is in `foreseer.psnr`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from foreseer.errors import OptionError
from foreseer.psnr import DATA_RANGE, pair_of

__all__ = ["SSIM_WINDOW", "ssim"]

SSIM_WINDOW = 7
"""Side of SSIM's uniform window, pixels."""


def ssim(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """Return the ``(B,)`` float64 structural similarity of each sample, at most 1; NaN where one of the two
    is not finite.

    It is scikit-image's, with a uniform window of 7x7 pixels (``gaussian_weights=False``, since the Gaussian
    window of the original paper is 11 pixels wide and does not fit 8x8) and the sample covariance. Only
    windows that lie inside the image count: four of them in an 8x8 image, so that the border weighs less than
    the middle. Channels are averaged.

    Args:
        a: ``(B, C, H, W)`` images in [-1, 1], of any float dtype, on any device, with H and W at least 7.
            They are not clipped.
        b: Same shape as ``a``.

    Raises:
        OptionError: If the shapes differ, are not ``(B, C, H, W)``, or are smaller than the window.
    """
    from skimage.metrics import structural_similarity

    x, y = pair_of(a, b)
    if x.ndim != 4 or min(x.shape[2:]) < SSIM_WINDOW:
        raise OptionError(f"a and b have shape {x.shape}; SSIM takes (B, C, H, W) with H and W at least {SSIM_WINDOW}; write larger images, or use psnr")
    found = np.full(len(x), np.nan)
    for i, (one, other) in enumerate(zip(x, y, strict=True)):
        if np.isfinite(one).all() and np.isfinite(other).all():
            found[i] = structural_similarity(one, other, win_size=SSIM_WINDOW, gaussian_weights=False, data_range=DATA_RANGE, channel_axis=0)
    return found
