"""The page on deciding per sample, from what `mixed_batches.py` tells of its results."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mixed_batches import tell
from pages import table

__all__ = ["samples_section"]


def samples_section(results: Path) -> Iterator[str]:
    """Return the parts of the page; a sentence where there are no results."""
    yield "# Deciding per sample, on unlike samples"
    path = results / "mixed_batches.json"
    if not path.exists():
        yield "There are no results yet: `make evidence` makes them."
        return
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        tell(path)
    about, *sections = told.getvalue().strip().split("\n\n")
    yield (
        "Digits are alike, so that a decision per sample has little to gain on them. Here each batch holds clothes that differ: "
        f"{about}. PSNR is to full computation, in dB. Each gate decides per sample, and by one vote of the batch; what is in brackets is noise."
    )
    yield "```sh\npython docs/_build/mixed_batches.py measure --out docs/results/mixed_batches.json\n```"
    found = [tuple(map(float, pair)) for row in sections[1].splitlines()[1:] for pair in re.findall(r"([+-]\d+\.\d+) \((\d+\.\d+)\)", row)[:1]]
    gains, losses = (sum(sign * mean > noise for mean, noise in found) for sign in (1, -1))
    yield (
        f"**At equal block-rows deciding per sample gains beyond noise in {gains} of {len(found)} comparisons, and loses in {losses}**; the median is "
        f"{np.median([mean for mean, _ in found]):+.2f} dB. Of so many comparisons noise alone may pass once. Whether a picture is near to the converged solution was not asked."
    )
    for section in sections:
        head, *rows = section.splitlines()
        if " | " in head:
            yield table(head, [row.split(" | ") for row in rows])
        elif any(" | " in row for row in rows):
            yield head[0].upper() + head[1:] + ":"
            yield table("budget | gain, dB (noise within) | better on | trousers, patterned | worst | of mean squared error, dB", [row.split(" | ") for row in rows])
        else:
            yield head[0].upper() + head[1:] + ":"
            yield table("policy | correlation:", [row.rsplit(": ", 1) for row in rows])
