"""The papers' claims, held against results: each function returns verdicts whose sentences are made of the
numbers found.

A claim holds where every comparison that the results allow is for it beyond noise (`foreseer.bench.noise`, of
the paired differences); it fails where some are against it and none for it, is mixed where some are for it
and others not, and open where none is beyond noise. What was not measured has no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import attrs
import numpy as np

from foreseer.bench.equal_cost import Gain, gain, gain_at_equal_cost
from foreseer.bench.results import LaneResult, Results
from foreseer.bench.summary import mean_of

__all__ = ["CLAIMED_COST", "CLAIMS", "Verdict", "verdicts"]

CLAIMED_COST = (0.0167, 0.035)
"""What verification costs, as a share of a full step, in the SpeCa paper: from HunyuanVideo's 60 blocks to
DiT's 28.
"""

Finding = Literal["holds", "fails", "mixed", "open"]


@attrs.frozen(kw_only=True)
class Verdict:
    """What results say about a claim.

    Attributes:
        claim: Name of the function that judged.
        paper: What is claimed, and where.
        batch: Batch size that it was judged at.
        finding: ``"holds"``, ``"fails"``, ``"mixed"`` or ``"open"``.
        sentence: What was found, in numbers.
        numbers: The numbers.
        lanes: Lanes that were compared.
    """

    claim: str
    paper: str
    batch: int
    finding: Finding
    sentence: str
    numbers: dict[str, float]
    lanes: tuple[str, ...]


def verdicts(results: Results) -> list[Verdict]:
    """Return what the results say about each claim, as far as they say anything."""
    return [verdict for claim in CLAIMS for verdict in claim(results)]


def forecasting_beats_reuse(results: Results) -> Iterator[Verdict]:
    """Judge whether, at equal interval, a Taylor forecast comes closer to full computation than the last
    feature.
    """
    for batch, lanes in _by_batch(results):
        schedules = [lane for lane in lanes if lane.method in ("taylorseer", "reuse")]
        found = [
            gain(results, lane, other)
            for lane in schedules
            for other in schedules
            if _order(lane) >= 1 and _order(other) == 0 and _alike(lane, other, ("interval", "warmup_steps", "target", "predictor"))
        ]
        yield from _judged(forecasting_beats_reuse, "Forecasting beats reuse at equal interval (TaylorSeer)", batch, found, "forecasting over reuse")


def order_one_carries_most(results: Results) -> Iterator[Verdict]:
    """Judge how much of what the best order gains over order 0 is gained by order 1."""
    for batch, lanes in _by_batch(results):
        orders: dict[str, dict[int, LaneResult]] = {}
        for lane in lanes:
            if lane.method == "taylorseer":
                orders.setdefault(repr(sorted((k, v) for k, v in lane.options.items() if k != "max_order")), {})[_order(lane)] = lane
        swept = [found for found in orders.values() if {0, 1} <= set(found) and max(found) > 1]
        shares = []
        for found in swept:
            best = max(found.values(), key=lambda lane: mean_of(lane, "psnr"))
            whole, first = gain(results, best, found[0]), gain(results, found[1], found[0])
            if whole is not None and first is not None and whole.clear and whole.mean > 0:
                shares.append(first.mean / whole.mean)
        if not swept:
            continue
        nothing = len(swept) - len(shares)
        clause = f"; at {nothing} of {len(swept)} settings no order gains anything over reuse beyond noise" if nothing else ""
        said = f"Order 1 brings {100 * min(shares):.0f} to {100 * max(shares):.0f} % of what the best order gains over reuse" if shares else "Nothing to share"
        finding: Finding = "open" if not shares else "fails" if max(shares) <= 0.5 else "holds" if min(shares) > 0.5 and not nothing else "mixed"
        yield Verdict(
            claim="order_one_carries_most",
            paper="Order 1 carries most of the gain (TaylorSeer's tables: FID 2.49 with order 1, 2.34 with order 3, 3.55 with order 0, at N=3)",
            batch=batch,
            finding=finding,
            sentence=f"{said}{clause}.",
            numbers={"settings": len(swept), "without_gain": nothing} | ({"lowest_share": min(shares), "highest_share": max(shares)} if shares else {}),
            lanes=tuple(lane.name for found in swept for lane in found.values()),
        )


def first_block_gate_beats_schedule(results: Results) -> Iterator[Verdict]:
    """Judge whether, at equal block-rows, CG-Taylor comes closer than a fixed schedule that forecasts the
    same feature.
    """
    for batch, lanes in _by_batch(results):
        fixed = [lane for lane in lanes if lane.method in ("taylorseer", "reuse") and lane.options.get("target") == "last_block"]
        found = [gain_at_equal_cost(results, lane, fixed) for lane in lanes if lane.method == "cg_taylor"]
        paper = "A gate at the first block beats the fixed schedule at equal cost (CG-Taylor)"
        yield from _judged(first_block_gate_beats_schedule, paper, batch, found, "the first block's gate over the fixed schedule, at equal block-rows")


def verification_beats_schedule(results: Results) -> Iterator[Verdict]:
    """Judge whether, at equal block-rows, verification counted, SpeCa comes closer than a fixed schedule that
    forecasts the same features to the same order.
    """
    for batch, lanes in _by_batch(results):
        fixed = [lane for lane in lanes if lane.method in ("taylorseer", "reuse") and lane.options.get("target") == "modules"]
        judged = [lane for lane in lanes if lane.method in ("speca", "speca_released")]
        found = [gain_at_equal_cost(results, lane, [other for other in fixed if _order(other) == _order(lane)]) for lane in judged]
        paper = "Verification beats the fixed schedule at equal cost (SpeCa)"
        yield from _judged(verification_beats_schedule, paper, batch, found, "verification over the fixed schedule, at equal block-rows")


def verification_cost(results: Results) -> Iterator[Verdict]:
    """Measure what judging a draft costs, as a share of a full step, by the clock; in block-rows it is 1 / L."""
    for batch, lanes in _by_batch(results):
        unseen = [s for lane in lanes if lane.method == "taylorseer" and lane.options.get("target") == "modules" for s in _seconds(lane, "unseen")]
        for lane in (lane for lane in lanes if lane.method in ("speca", "speca_released")):
            accepted, full = _seconds(lane, "accepted"), _seconds(lane, "full")
            plain = _seconds(lane, "unseen") or unseen
            if not accepted or not full or not plain:
                continue
            share = float((np.median(accepted) - np.median(plain)) / np.median(full))
            counted = 1 / results.depth
            low, high = CLAIMED_COST
            yield Verdict(
                claim="verification_cost",
                paper=f"Verification costs {100 * low:.2f} to {100 * high:.1f} % of a full step (SpeCa; one block of 60 to one of 28)",
                batch=batch,
                finding="holds" if share <= high else "fails",
                sentence=f"Judging a draft took {100 * share:.1f} % of a full step by the clock; one block of {results.depth} is {100 * counted:.1f} %.",
                numbers={"share_of_seconds": share, "share_of_blocks": counted, "accepted": len(accepted), "full": len(full), "unseen": len(plain)},
                lanes=(lane.name,),
            )


def rows_beat_batches(results: Results) -> Iterator[Verdict]:
    """Judge whether, at equal block-rows, samples that decide for themselves come closer than batches that
    decide as one, and by how much.
    """
    for batch, lanes in _by_batch(results):
        if batch == 1:  # both are one and the same
            continue
        gated = [lane for lane in lanes if "decide" in lane.options]
        found = []
        for lane in (lane for lane in gated if lane.options["decide"] == "row"):
            free = {"decide", "threshold"}
            others = [o for o in gated if o.options["decide"] == "batch" and o.method == lane.method and _alike(lane, o, set(lane.options) - free)]
            found.append(gain_at_equal_cost(results, lane, others))
        paper = "Samples should be computed as each needs (SpeCa's sample-adaptive computation, which its code decides per batch)"
        yield from _judged(rows_beat_batches, paper, batch, found, f"decisions per row over decisions per batch, at equal block-rows and batch {batch}")


CLAIMS: tuple[Callable[[Results], Iterator[Verdict]], ...] = (
    forecasting_beats_reuse,
    order_one_carries_most,
    first_block_gate_beats_schedule,
    verification_beats_schedule,
    verification_cost,
    rows_beat_batches,
)
"""Each yields a verdict for each batch size, or none where the results do not allow one."""


def _judged(claim: Callable[..., object], paper: str, batch: int, found: Sequence[Gain | None], what: str) -> Iterator[Verdict]:
    gains = [g for g in found if g is not None]
    if not gains:
        return
    means, worst = [g.mean for g in gains], [g.worst for g in gains]
    wins, losses = sum(g.mean > 0 and g.clear for g in gains), sum(g.mean < 0 and g.clear for g in gains)
    finding: Finding = "holds" if wins == len(gains) else "mixed" if wins else "fails" if losses else "open"
    numbers = {"median_gain_db": float(np.median(means)), "smallest_gain_db": min(means), "largest_gain_db": max(means)}
    unclear = len(gains) - wins - losses
    yield Verdict(
        claim=claim.__name__,
        paper=paper,
        batch=batch,
        finding=finding,
        sentence=(
            f"The gain of {what} is {numbers['median_gain_db']:+.2f} dB in the median ({min(means):+.2f} to {max(means):+.2f}); of {len(gains)} comparisons "
            f"{wins} are for it beyond noise, {losses} against it, {unclear} neither. In the worst sample: {min(worst):+.2f} to {max(worst):+.2f} dB."
        ),
        numbers={**numbers, "comparisons": len(gains), "for": wins, "against": losses, "neither": unclear},
        lanes=tuple(dict.fromkeys(name for g in gains for name in (g.lane, *g.over))),
    )


def _by_batch(results: Results) -> Iterator[tuple[int, list[LaneResult]]]:
    for batch in dict.fromkeys(lane.batch for lane in results.lanes):
        yield batch, [lane for lane in results.lanes if lane.batch == batch and lane.kind == "policy" and lane.units]


def _order(lane: LaneResult) -> int:
    return 0 if lane.method == "reuse" else int(lane.options.get("max_order", 0))


def _alike(lane: LaneResult, other: LaneResult, options: Any) -> bool:
    return all(lane.options.get(name) == other.options.get(name) for name in options)


def _seconds(lane: LaneResult, fate: Literal["full", "accepted", "unseen"]) -> list[float]:
    """Seconds of a lane's steps of one kind, from the reports of its first batch; the first step, which
    checks the model, is left out.
    """
    found = []
    for report in lane.reports.values():
        for step in report["steps"][1:]:
            judged = step["accept"] is not None
            kind = "full" if all(step["computed"]) and not judged else "" if any(step["computed"]) else "accepted" if judged else "unseen"
            if kind == fate:
                found.append(float(step["seconds"]))
    return found
