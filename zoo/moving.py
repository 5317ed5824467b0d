"""Short videos of one handwritten digit that moves in a straight line and bounces off the frame's edges."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["DIGIT", "FRAMES", "SIDE", "find", "move", "place"]

FRAMES = 9
SIDE = 16
"""Height and width of a frame, pixels."""
DIGIT = 12
"""Height and width of a digit in it, enlarged from 8."""


def move(count: int, generator: torch.Generator, *, frames: int = FRAMES) -> Tensor:
    """Draw the paths of ``count`` digits: ``(count, frames, 2)`` float32, row and column of a digit's upper
    left corner, 0 to 4 pixels. The start is anywhere, the direction any, the speed 0.5 to 1.5 pixels a frame.
    """
    free = SIDE - DIGIT
    start = torch.rand(count, 1, 2, generator=generator) * free
    angle, speed = 2 * math.pi * torch.rand(count, generator=generator), 0.5 + torch.rand(count, generator=generator)
    velocity = speed[:, None, None] * torch.stack([angle.sin(), angle.cos()], 1)[:, None]
    unfolded = (start + velocity * torch.arange(frames).view(1, -1, 1)) % (2 * free)
    return torch.minimum(unfolded, 2 * free - unfolded)


def place(digits: Tensor, paths: Tensor) -> Tensor:
    """Return ``(B, 1, F, 16, 16)`` videos of ``(B, 1, 8, 8)`` digits on ``(B, F, 2)`` paths, over -1,
    interpolated linearly between pixels.
    """
    batch, frames, _ = paths.shape
    large = F.interpolate(digits, size=DIGIT, mode="bicubic", align_corners=False).clamp(-1, 1)
    inside = (torch.arange(SIDE) - paths[..., None]) * (2 / (DIGIT - 1)) - 1  # (B, F, 2, 16): where a frame's rows and columns lie in the digit, -1 to 1
    rows, columns = inside[..., 0, :, None].expand(-1, -1, -1, SIDE), inside[..., 1, None, :].expand(-1, -1, SIDE, -1)
    grid = torch.stack([columns, rows], -1).flatten(0, 1)
    ink = F.grid_sample((large + 1).repeat_interleave(frames, 0), grid, align_corners=True)
    return (ink - 1).view(batch, 1, frames, SIDE, SIDE)


def find(frames: Tensor, template: Tensor) -> tuple[Tensor, Tensor]:
    """Return the digit in each of ``(N, 1, 16, 16)`` frames in [-1, 1], ``(N, 1, 8, 8)``, and where it is,
    ``(N, 2)``: the window with the largest sum of products of ink with the ``(1, 8, 8)`` template, the mean
    digit.
    """
    ink = (frames + 1) / 2
    likeness = F.conv2d(ink, F.interpolate(((template + 1) / 2)[None], size=DIGIT, mode="bilinear")).flatten(1)
    best = likeness.argmax(1)
    free = SIDE - DIGIT + 1
    corners = torch.stack([best // free, best % free], 1)
    windows = F.unfold(frames, DIGIT).view(len(frames), 1, DIGIT, DIGIT, -1)[torch.arange(len(frames)), ..., best]
    return F.interpolate(windows, size=8, mode="bilinear", antialias=True), corners
