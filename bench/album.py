"""Where the pictures of a page lie: inside of it while they are small, else in a folder beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foreseer.bench.film import enlarged, film
from foreseer.files import write_whole

__all__ = ["INSIDE", "PICTURES", "TINY", "Album", "inlined", "png", "small", "worth"]

Bytes = NDArray[np.uint8]

PICTURES = "pictures"
"""The folder beside the page."""

INSIDE = 2_000_000
"""Pixels of all pictures of a page that still go into it, as `worth` counts them: about 5 MB."""

SMALL = 160
"""Pixels across of a small picture at most."""

TINY = 80
"""Pixels across up to which a small picture is the whole one."""


class Album:
    """What a page shows.

    Args:
        page: The page.
        pixels: How many pixels its pictures have together, as `worth` counts them. Beyond `INSIDE` they are
            files in the folder `PICTURES` beside the page, which it loads when they are looked at.
    """

    def __init__(self, page: Path, *, pixels: int) -> None:
        self._folder = page.parent / PICTURES if pixels > INSIDE else None

    @property
    def inside(self) -> bool:
        """Whether the page needs no other file."""
        return self._folder is None

    def picture(self, name: str, pixels: Bytes) -> str:
        """Keep ``(H, W, 3 or 4)`` pixels as a PNG, without loss, and return its address.

        ``name`` is that of the file, without its ending, of characters that need no escaping in addresses.
        """
        return self._keep(f"{name}.png", png(pixels, quick=self._folder is not None), "image/png")

    def video(self, name: str, frames: Bytes) -> str:
        """Keep ``(F, H, W, 3)`` frames as an MP4, see `foreseer.bench.film.film`, and return its address."""
        return self._keep(f"{name}.mp4", film(frames), "video/mp4")

    def _keep(self, file: str, content: bytes, kind: str) -> str:
        if self._folder is None:
            return inlined(content, kind)
        write_whole(self._folder / file, content)
        return f"{PICTURES}/{file}"


def worth(shape: Sequence[int]) -> int:
    """Return how many pixels a sample takes: ``(C, H, W)`` its own, of ``(F, C, H, W)`` a frame's, and a 32nd of
    those that its video has, which take so much less.
    """
    height, width = shape[-2:]
    return height * width * (1 + (shape[0] * enlarged(height, width) ** 2 // 32 if len(shape) == 4 else 0))


def inlined(content: bytes, kind: str) -> str:
    """Return a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def png(pixels: Bytes, *, quick: bool = False) -> bytes:
    """Return ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)`` pixels as a PNG; ``quick`` makes it larger."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **({"compress_level": 1} if quick else {"optimize": True}))
    return file.getvalue()


def small(pixels: Bytes) -> str:
    """Return ``(H, W, 3)`` pixels at most `SMALL` across, as a data URI: for a glance. It is without
    loss up to `TINY`.
    """
    from PIL import Image

    if max(pixels.shape[:2]) <= TINY:
        return inlined(png(pixels), "image/png")
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((SMALL, SMALL), Image.Resampling.LANCZOS)
    image.save(file, "WEBP", quality=80)
    return inlined(file.getvalue(), "image/webp")
