"""The small pictures of a report, as PNGs inside of the page: samples, how they differ from full computation,
and timelines.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["AMPLIFY", "FATES", "differences", "fates_of", "inlined", "samples", "timeline"]

Bytes = NDArray[np.uint8]

AMPLIFY = 4.0
"""Differences are shown this many times as strong as the samples: at 30 dB they are 6 % of them, and could
not be seen.
"""

FATES = {"computed": "#0072b2", "rejected and computed": "#d55e00", "accepted": "#56b4e9", "forecast unseen": ""}
"""What becomes of a row in a step, and its colour in timelines; empty: none, the page shows through, so that
it fits light and dark.
"""

LOW, HIGH = (np.array(rgb, np.float32) for rgb in ((0, 114, 178), (213, 94, 0)))
"""Colours of -1 and +1 in difference maps; 0 is white."""


def samples(images: NDArray[np.float32]) -> str:
    """Return images side by side, or videos below each other with their frames side by side.

    Args:
        images: ``(N, C, H, W)``, or ``(N, F, C, H, W)`` of videos, in [-1, 1]. With one channel they are
            grey, with three in colour.
    """
    pixels = np.clip((np.nan_to_num(images) + 1) * 127.5, 0, 255).astype(np.uint8)
    return inlined(_sheet(np.moveaxis(np.repeat(pixels, 3, axis=-3) if images.shape[-3] == 1 else pixels[..., :3, :, :], -3, -1)))


def differences(images: NDArray[np.float32], full: NDArray[np.float32]) -> str:
    """Return signed differences from full computation, mean over the channels, `AMPLIFY` times as strong as
    the images: below is blue, above is orange.
    """
    signed = np.clip(AMPLIFY * np.nan_to_num(images - full).mean(axis=-3), -1, 1)[..., None]
    towards = np.where(signed > 0, HIGH, LOW)
    return inlined(_sheet((255 + np.abs(signed) * (towards - 255)).astype(np.uint8)))


def fates_of(report: Mapping[str, Any]) -> NDArray[np.int64]:
    """Return what became of each sample in each step, ``(samples, T)`` indices into `FATES`. Rows of one
    sample share a fate.
    """
    groups = list(report["groups"])
    firsts = [groups.index(group) for group in dict.fromkeys(groups)]
    found = np.full((len(firsts), len(report["steps"])), 3)
    for number, step in enumerate(report["steps"]):
        for place, row in enumerate(firsts):
            judged = step["accept"] is not None
            if step["computed"][row]:
                found[place, number] = 1 if judged and not step["accept"][row] else 0
            elif judged:
                found[place, number] = 2
    return found


def timeline(fates: NDArray[np.int64]) -> str:
    """Return a timeline with one pixel for each step, across, and sample, down."""
    colors = [[*bytes.fromhex(color[1:]), 255] if color else [0, 0, 0, 0] for color in FATES.values()]
    return inlined(np.array(colors, np.uint8)[fates])


def inlined(pixels: Bytes) -> str:
    """Return ``(H, W, 3 or 4)`` pixels as a PNG in a data URI."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _sheet(pixels: Bytes) -> Bytes:
    """Put ``(N, H, W, 3)`` in a row, or ``(N, F, H, W, 3)`` into rows, with gaps through which the page
    shows.
    """
    rows = pixels[None] if pixels.ndim == 4 else pixels
    gap = max(1, pixels.shape[-2] // 12)
    opaque = np.pad(rows, [(0, 0)] * 4 + [(0, 1)], constant_values=255)
    spaced = np.pad(opaque, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)))
    n, f, height, width, _ = spaced.shape
    return spaced.swapaxes(1, 2).reshape(n * height, f * width, 4)[:-gap, :-gap]
