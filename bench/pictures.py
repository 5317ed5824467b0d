"""What pipelines return, as tensors of pictures."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.errors import OptionError

__all__ = ["in_range", "pictures_of"]


def pictures_of(drawn: Any, *, unit_range: bool = False) -> Tensor:
    """Return what a pipeline drew, ``(B, C, H, W)`` or ``(B, F, C, H, W)`` float32 in [-1, 1].

    Args:
        drawn: The output of a pipeline, or what is in it: a list of PIL images, or of lists of them; an array
            with the channels last, uint8 or in [0, 1]; or a tensor, which is taken as it is.
        unit_range: Whether a tensor is in [0, 1], as diffusers' ``output_type="pt"``.

    Raises:
        OptionError: It is none of these.
    """
    for field in ("images", "frames", "videos", "sample"):
        drawn = getattr(drawn, field, drawn)
    if isinstance(drawn, tuple) and drawn:
        drawn = drawn[0]
    if isinstance(drawn, Tensor):
        return drawn.float() * 2.0 - 1.0 if unit_range else drawn.float()
    if isinstance(drawn, list) and drawn:
        if isinstance(drawn[0], Tensor):
            return pictures_of(torch.stack(drawn), unit_range=unit_range)
        frames = drawn[0] if isinstance(drawn[0], list) else drawn
        if hasattr(frames[0], "convert"):
            shape = (len(drawn), len(frames), *np.shape(frames[0])[:2]) if frames is not drawn else (len(drawn), *np.shape(frames[0])[:2])
            flat = [one for sample in drawn for one in sample] if frames is not drawn else drawn
            drawn = np.array([np.array(one.convert("RGB")) for one in flat]).reshape(*shape, 3)
        else:
            drawn = np.array(drawn)
    if not isinstance(drawn, np.ndarray) or drawn.ndim not in (4, 5):
        found = f"an array of shape {drawn.shape}" if isinstance(drawn, np.ndarray) else f"a {type(drawn).__name__}"
        raise OptionError(f"the pipeline drew {found}; return images, frames, or a tensor (B, C, H, W) or (B, F, C, H, W) in [-1, 1]")
    scaled = drawn.astype(np.float32) / (255.0 if drawn.dtype == np.uint8 else 1.0)
    return torch.from_numpy(np.moveaxis(scaled, -1, -3).copy()) * 2.0 - 1.0


def in_range(drawn: Tensor) -> Tensor:
    """Tell where a tensor seems to be in [0, 1]: its PSNR would be 6 dB too high."""
    if drawn.ndim in (4, 5) and drawn.shape[-3] in (1, 3) and 0.0 <= float(drawn.min()) <= float(drawn.max()) <= 1.0:
        warnings.warn("the tensor that call returned lies in [0, 1]; return it in [-1, 1], 2 * x - 1", UserWarning, stacklevel=3)
    return drawn
