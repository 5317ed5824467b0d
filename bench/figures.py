"""The figures that every sample has: what tables, pages and diffs must know of each."""

from __future__ import annotations

import attrs

__all__ = ["COUNTS", "FIGURES", "Figure"]


@attrs.frozen
class Figure:
    """A figure that every sample has.

    Attributes:
        title: For tables.
        unit: ``"dB"`` or empty.
        higher_is_better: Which end is the worst sample.
        note: What it is.
        form: How a number is written, as Python's `format` takes it.
    """

    title: str
    unit: str
    higher_is_better: bool
    note: str
    form: str = ".3f"


FIGURES: dict[str, Figure] = {
    "psnr": Figure(
        "PSNR",
        "dB",
        True,
        "Peak signal-to-noise ratio to the same sample of full computation. A sample counts with at most "
        "100 dB, and with 0 if it is broken, that is not finite.",
        ".1f",
    ),
    "truth": Figure(
        "truth",
        "dB",
        True,
        "PSNR to the converged solution of the same sample, drawn with very many steps. Counted as the PSNR to full computation is.",
        ".1f",
    ),
    "ssim": Figure("SSIM", "", True, "Structural similarity to the same sample of full computation; of videos the mean over frames."),
    "layout": Figure("layout", "", True, "Correlation of 8x8 cells' means with full computation's. Below 0.8 and 20 dB a sample changed its composition."),
    "feature_distance": Figure(
        "feature dist.",
        "",
        False,
        "Distance to the same sample of full computation in the features of the bundled digit classifier, |f - f_full| / |f_full|. In the manner of LPIPS; "
        "it is not LPIPS, and compares with nothing outside these results.",
    ),
    "latent_error": Figure("latent error", "", False, "Error of the final latent relative to that of full computation, |x - x_full| / |x_full|."),
    "temporal_psnr": Figure(
        "temporal PSNR",
        "dB",
        True,
        "Videos only: PSNR of the differences between consecutive frames to those of full computation, with the range of the images (2). Flicker lowers it.",
        ".1f",
    ),
    "accuracy": Figure("accuracy", "", True, "Whether the classifier sees the digit that was asked for; of videos the share of frames.", ".1%"),
}
"""The figures per sample that every table knows, by the name they have in `Unit.figures`."""

COUNTS = ("steps", "speedup", "block_rows", "flops", "peak_bytes", "bytes_held", "gain", "frechet")
"""What tables and diffs show beside them: no names for a measure."""
