"""What a reader of a comparison must know, in sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from foreseer.zoo.judge import FRECHET_NOTE

if TYPE_CHECKING:
    from foreseer.bench.compared import Result

__all__ = ["remarks", "verdict"]

HEADROOM_NOTE = (
    "Headroom: 'best static' and 'best per sample, hindsight' are the schedules of the least predicted error, planned "
    "on these very samples for taylor of order 1 at the last block. No policy can know them beforehand. They bound "
    "schedules of that predictor under that error model; not other predictors, and not gates."
)

BUSY = 1.5
"""A speed-up that varies by more than this factor between batches was measured beside other work: on an idle
machine batches differ by a few per cent."""


def remarks(result: Result) -> list[str]:
    """Return what a reader of the table must know, in sentences."""
    found = []
    done, asked = result.count, result.settings.samples or 0
    if result.interrupted:
        rest, every = (
            f"the results rest on {done} of {asked} samples",
            f"all {asked} samples are in the results",
        )
        found.append(f"The comparison was interrupted: {rest if done < asked else every}.")
    if any(math.isfinite(row.frechet) for row in result.rows):
        found.append(FRECHET_NOTE)
    if any(row.lane.kind == "hindsight" for row in result.rows):
        found.append(HEADROOM_NOTE)
    if result.batches == 1:
        return [*found, "Speed-ups rest on one batch, so nothing is known about their spread."]
    ratios = [row.lane.ratios for row in result.rows if row.lane.ratios]
    spread = max((max(some) / min(some) for some in ratios), default=1.0)
    found.append(f"Speed-ups are medians over {result.batches} batches; the least steady row varied by a factor of {spread:.2f} between batches.")
    if spread > BUSY:
        found.append("The machine was busy with other work: repeat the comparison on an idle one before you quote its speed-ups.")
    return found


def verdict(result: Result) -> str:
    """Say how many policies beat fewer steps."""
    gains = [row.gain for row in result.rows if row.fewer and row.lane.kind == "policy"]
    better, closer = (
        sum(gain > 0 for gain in gains),
        "closer to full computation than plain sampling with as many steps.",
    )
    if not gains:
        return "No policy saved steps."
    if len(gains) == 1:
        return f"The policy that saved steps came {'' if better else 'no '}{closer}"
    return f"{better} of {len(gains)} policies that saved steps came {closer}"
