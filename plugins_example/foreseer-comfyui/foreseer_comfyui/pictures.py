"""A sampling as a picture: the timeline of each stream, and below it what the report says."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from foreseer import Report
from foreseer.timeline import picture
from foreseer_comfyui.handle import Sampling

__all__ = ["drawn", "tensor_of"]

EDGE, SIZE = 24, 17
"""White space around, and the size of letters, in pixels."""


def drawn(sampling: Sampling | None) -> Image.Image:
    """Draw a sampling; before the first a sentence."""
    if sampling is None:
        return _written("Nothing was sampled yet.")
    parts = [_written("\n".join(sampling.notes))] if sampling.notes else []
    for name, report in sampling.reports.items():
        parts += [*([_written(name)] if len(sampling.reports) > 1 else []), _timeline(report), _written(str(report))]
    return _stacked(parts or [_written(str(sampling))])


def tensor_of(image: Image.Image) -> Tensor:
    """Return a picture as ComfyUI has them: ``(1, H, W, 3)`` float32 in 0..1."""
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0)[None]


def _timeline(report: Report) -> Image.Image:
    data, _ = picture(report)
    return Image.open(io.BytesIO(data)).convert("RGB")


def _written(text: str) -> Image.Image:
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSansMono.ttf"), SIZE)
    left, top, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font=font)
    image = Image.new("RGB", (round(right - left) + 2 * EDGE, round(bottom - top) + 2 * EDGE), "white")
    ImageDraw.Draw(image).multiline_text((EDGE - left, EDGE - top), text, fill="#222222", font=font)
    return image


def _stacked(parts: list[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    height = 0
    for part in parts:
        whole.paste(part, (0, height))
        height += part.height
    return whole
