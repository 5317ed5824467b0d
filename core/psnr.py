"""PSNR of samples to those of full computation: of each sample, and what those of many come to.

It is worked out and counted here, and nowhere else. Nothing here loads torch: a plan is read without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BEST_PSNR", "BROKEN_PSNR", "DATA_RANGE", "Likeness", "counted_psnr", "decibels", "likeness_of"]
__all__ += ["pair_of", "psnr"]

Array = NDArray[np.float64]
DATA_RANGE = 2.0
"""Images lie in [-1, 1]."""
BEST_PSNR = 100.0
"""What a sample counts with at most, dB: above it are rounding errors, and infinity has no mean."""
BROKEN_PSNR = 0.0
"""What a sample that is not finite counts with, dB: leaving it out would reward breaking hard samples."""


def pair_of(a: Tensor, b: Tensor) -> tuple[Array, Array]:
    """Return two batches of images as float64 arrays. Raises `OptionError` where their shapes differ."""
    if a.shape != b.shape or a.ndim < 2:
        raise OptionError(f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}; write two tensors of one shape (B, ...)")
    return a.detach().cpu().double().numpy(), b.detach().cpu().double().numpy()


def psnr(a: Tensor, b: Tensor) -> Array:
    """Return the ``(B,)`` float64 PSNR in dB of each sample; infinite where two are equal, NaN where not
    finite.

    Args:
        a: ``(B, ...)`` images in [-1, 1], of any float dtype, on any device. They are not clipped.
        b: Same shape as ``a``.

    Raises:
        OptionError: If the shapes differ or have no batch dimension.
    """
    x, y = pair_of(a, b)
    with np.errstate(invalid="ignore"):
        return decibels(np.square(x - y).reshape(len(x), -1).mean(1))


def decibels(error: Array) -> Array:
    """Return the PSNR in dB of mean squared errors in [-1, 1]: infinite where 0, NaN where not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isfinite(error), 10 * np.log10(DATA_RANGE**2 / error), np.nan)


def counted_psnr(psnrs: Sequence[float] | Array) -> Array:
    """Return PSNRs as means and differences take them: at most `BEST_PSNR`, and `BROKEN_PSNR` for NaN."""
    values = np.asarray(psnrs, dtype=np.float64)
    return np.where(np.isnan(values), BROKEN_PSNR, np.minimum(values, BEST_PSNR))


@attrs.frozen
class Likeness:
    """What the PSNRs of some samples come to, each counted as `counted_psnr` counts it.

    Attributes:
        mean, worst: Over the samples, dB.
        samples: How many there are.
        same: How many of them are those of full computation.
        broken: How many are not finite.
    """

    mean: float
    worst: float
    samples: int
    same: int
    broken: int


def likeness_of(psnrs: Sequence[float] | Array) -> Likeness:
    """Return what the PSNRs of one or more samples, as `psnr` gives them, come to."""
    raw, counted = np.asarray(psnrs, dtype=np.float64), counted_psnr(psnrs)
    same, broken = int(np.isposinf(raw).sum()), int(np.isnan(raw).sum())
    return Likeness(float(counted.mean()), float(counted.min()), len(raw), same, broken)
