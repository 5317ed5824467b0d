"""Videos that every browser plays: H.264 in MP4, written by PyAV."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

__all__ = ["FRAME_RATE", "enlarged", "film"]

FRAME_RATE = 8
"""Frames a second. Slower than most models mean it, so that differences are seen."""

LEAST_SIDE = 384
"""Smaller videos are enlarged to at least so many pixels a side, each pixel to a square: the format keeps the
colours of squares of two pixels only, and players enlarge softly.
"""

QUALITY = "12"
"""H.264's constant rate factor. 0 loses nothing, 18 is called visually lossless."""


def enlarged(height: int, width: int) -> int:
    """Return how many pixels wide and high a pixel becomes."""
    return -(-LEAST_SIDE // min(height, width))


def film(frames: NDArray[np.uint8]) -> bytes:
    """Return a video as the content of an MP4 file, `FRAME_RATE` frames a second.

    Each second begins with a frame that is coded by itself, so that jumping is quick. Odd sides lose their
    last row or column of pixels, which H.264 cannot hold.

    Args:
        frames: ``(F, H, W, 3)`` of red, green and blue, at least one frame of at least 2x2 pixels.

    Raises:
        ImportError: Without PyAV (``pip install 'foreseer[bench]'``).
    """
    import av
    from av.video.reformatter import ColorRange, Colorspace

    times = enlarged(*frames.shape[1:3])
    large: NDArray[np.uint8] = frames.repeat(times, axis=1).repeat(times, axis=2)
    height, width = (side - side % 2 for side in large.shape[1:3])
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": QUALITY, "preset": "ultrafast", "g": str(FRAME_RATE)}
        # said in the file, else browsers guess it from the size
        context = stream.codec_context
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
        context.color_primaries = context.color_trc = 1  # both are those of ITU-R BT.709
        for number, pixels in enumerate(large):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format="rgb24")
            coded = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            coded.pts, coded.time_base = number, Fraction(1, FRAME_RATE)
            container.mux(stream.encode(coded))
        container.mux(stream.encode())
    return content.getvalue()
