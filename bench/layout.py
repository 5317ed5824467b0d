"""Whether two images show the same things in the same places: their layouts, side by side."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from foreseer.psnr import DATA_RANGE, pair_of

__all__ = ["layout"]

GRID = 8
"""Cells across and down."""

FAINT = 0.01
"""Cells that differ from their mean by less than about this are no layout: of the images' range, 2."""


def layout(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """Return how much of the layout of two images is the same, ``(B,)`` float64: 1 for all of it, about 0 for
    nothing; NaN where one of the two is not finite.

    It is the correlation of the means of 8x8 cells, each channel about its own mean. What is finer than a
    cell, noise, and a change of brightness, contrast or tint leave it near 1; what moves, comes, goes or is
    mirrored does not. Images without a layout, of one colour, have the same one.

    ``a`` and ``b`` are ``(B, C, H, W)`` images in [-1, 1], of any float dtype and size. They are not clipped.

    Raises:
        OptionError: If the shapes differ.
    """
    x, y = (torch.from_numpy(np.asarray(one, np.float64)) for one in pair_of(a, b))
    cells = (F.adaptive_avg_pool2d(one, GRID) for one in (x, y))
    own, other = ((one - one.mean((2, 3), keepdim=True)).flatten(1) for one in cells)
    faint = own.shape[1] * (FAINT * DATA_RANGE) ** 2
    found: NDArray[np.float64] = (((own * other).sum(1) + faint) / ((own.square().sum(1) + faint) * (other.square().sum(1) + faint)).sqrt()).numpy()
    return np.where(np.isfinite(found), found, np.nan)
