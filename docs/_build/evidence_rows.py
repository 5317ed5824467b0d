"""The section of `evidence.py` on decisions per row and per batch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from pages import table

from foreseer.bench.results import LaneResult, Results
from foreseer.bench.summary import lines_of, mean_of, worst_of


def rows_table(results: Results) -> Iterator[str]:
    """Per row against per batch, at each batch size, at equal mean quality: cost, and the worst sample."""
    yield (
        "At equal mean PSNR (interpolated between the two thresholds between which it is cheapest, which "
        "may lie far apart): what deciding per row costs, over what deciding per batch costs."
    )
    batches = list(dict.fromkeys(lane.batch for lane in results.lanes))
    policies = [lane for lane in results.lanes if lane.kind == "policy" and lane.units and "decide" in lane.options]
    rows = []
    for method in dict.fromkeys(lane.method for lane in policies):
        for batch in batches:
            swept = [lane for lane in policies if lane.method == method and lane.batch == batch]
            pair = [[lane for lane in swept if lane.options["decide"] == how] for how in ("row", "batch")]
            if (quality := common_quality(*pair)) is not None:
                row, together = (at_quality(results, lanes, quality) for lanes in pair)
                ratios = f"{row[0] / together[0]:.2f}", f"{together[1] / row[1]:.2f}"
                rows.append([method, batch, f"{quality:.1f}", *ratios, f"{row[2]:.1f}", f"{together[2]:.1f}"])
    titles = "policy | batch: | at PSNR: | block-rows, row / batch: | seconds, row / batch:"
    yield table(f"{titles} | worst sample, row: | worst sample, batch:", rows)
    free = [lane for lane in policies if lane.options["decide"] == "row" and lane.batch == max(batches)]
    spread = "{:.0f} to {:.0f} ({:.1f} standard deviation)".format
    spreads = [spread(min(lane.steps), max(lane.steps), np.std(lane.steps)) for lane in free]
    timed = sorted({len(lane.ratios) for lane in policies})
    yield (
        f"Samples that decided for themselves computed {', '.join(spreads)} of {results.num_steps} steps, by "
        f"threshold. Timed runs of a lane: {', '.join(map(str, timed))}."
    )


def common_quality(row: list[LaneResult], together: list[LaneResult]) -> float | None:
    """The middle of the range of mean PSNR that both sweeps cover; None where they do not overlap."""
    if not row or not together:
        return None
    ranges = [[mean_of(lane, "psnr") for lane in lanes] for lanes in (row, together)]
    low, high = max(map(min, ranges)), min(map(max, ranges))
    return None if low > high else (low + high) / 2


def at_quality(results: Results, lanes: list[LaneResult], quality: float) -> tuple[float, float, float]:
    """Block-rows, speed-up and worst PSNR of a sweep at a mean PSNR.

    Interpolated between the lanes between which it is cheapest, and not the nearest: a threshold that costs
    more and gains next to nothing would stand in the way of a cheaper one.
    """
    known = {line.lane.key: line.speedup for line in lines_of(results, lanes[0].batch)}
    psnr = ((lane, mean_of(lane, "psnr"), worst_of(lane, "psnr")) for lane in lanes)
    figures = [(mean, results.cost(lane), known[lane.key], worst) for lane, mean, worst in psnr]
    mixed = []
    for below in (f for f in figures if f[0] <= quality + 1e-9):
        for above in (f for f in figures if f[0] >= quality - 1e-9):
            share = 0.0 if math.isclose(above[0], below[0]) else (quality - below[0]) / (above[0] - below[0])
            cost, speed, worst = (b + share * (a - b) for b, a in zip(below[1:], above[1:], strict=True))
            mixed.append((cost, speed, worst))
    return min(mixed)
