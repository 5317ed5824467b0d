"""The pixels of a report's pictures: samples, how they differ from full computation, and timelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreseer.bench.album import inlined, png

__all__ = ["AMPLIFY", "FATES", "difference_of", "fates_of", "pixels_of", "timeline"]

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

GREY = 127
"""Of what is not finite."""


def pixels_of(samples: NDArray[np.float32]) -> Bytes:
    """Return ``(..., H, W, 3)`` pixels of ``(..., C, H, W)`` samples in [-1, 1].

    With three channels or more the first three are the colours, else the first is grey. NaN is grey.
    """
    channels = samples[..., :3, :, :] if samples.shape[-3] > 2 else np.repeat(samples[..., :1, :, :], 3, axis=-3)
    pixels = np.clip((np.nan_to_num(channels, posinf=1, neginf=-1) + 1) * 127.5, 0, 255).astype(np.uint8)
    return np.moveaxis(pixels, -3, -1)


def difference_of(samples: NDArray[np.float32], full: NDArray[np.float32]) -> Bytes:
    """Return ``(..., H, W, 3)`` pixels of signed differences from full computation, mean over the channels,
    `AMPLIFY` times as strong as the samples: below is blue, above is orange, the same is white, and what is not
    finite is grey.
    """
    with np.errstate(invalid="ignore"):
        signed = np.clip(AMPLIFY * (samples - full).mean(axis=-3), -1, 1)
    shades = np.linspace(-1, 1, 511, dtype=np.float32)[:, None]
    colors = (255 + np.abs(shades) * (np.where(shades > 0, HIGH, LOW) - 255)).astype(np.uint8)
    found: Bytes = colors[np.rint((np.nan_to_num(signed) + 1) * 255).astype(np.int64)]
    found[np.isnan(signed)] = GREY
    return found


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
    return inlined(png(np.array(colors, np.uint8)[fates]), "image/png")
