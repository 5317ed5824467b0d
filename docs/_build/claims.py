"""The papers' claims, held against results: verdicts, whose sentences are made of the numbers.

A claim holds where every comparison that the results allow is for it beyond noise (`standard_errors` of the
paired differences); it fails where some are against it and none for it, is mixed where some are for it and
others not, and open where none is beyond noise. What was not measured has no verdict.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal

import attrs
import numpy as np

from foreseer.bench.results import LaneResult, Results
from foreseer.bench.summary import Gain, gain, gain_at_equal_cost, mean_of

CLAIMED_COST = (0.0167, 0.035)
"""What verification costs, as a share of a full step, in the SpeCa paper: from HunyuanVideo's 60 blocks to
DiT's 28.
"""
FIXED = ("taylorseer", "reuse")
VERIFIED = ("speca", "speca_released")

Lanes = Sequence[LaneResult]
Gains = Sequence[Gain | None]
Finding = Literal["holds", "fails", "mixed", "open"]


@attrs.frozen
class Verdict:
    """What results say about a claim.

    Attributes:
        claim: Name of the function that judged.
        paper: What is claimed, and where.
        batch: Batch size that it was judged at.
        finding: ``"holds"``, ``"fails"``, ``"mixed"`` or ``"open"``.
        sentence: What was found, in numbers.
        numbers: The numbers.
    """

    claim: str
    paper: str
    batch: int
    finding: Finding
    sentence: str
    numbers: dict[str, float]


def verdicts(results: Results, *, figure: str = "psnr") -> list[Verdict]:
    """Return what the results say about each claim, as far as they say anything, by the distance to full
    computation (``figure="psnr"``), which is what papers mean, or to the converged solution (``"truth"``).
    """
    batches: dict[int, list[LaneResult]] = {}
    for lane in results.lanes:
        batches.setdefault(lane.batch, [])
        if lane.kind == "policy" and lane.has(figure):
            batches[lane.batch].append(lane)
    return [v for claim in CLAIMS for batch, lanes in batches.items() for v in claim(results, batch, lanes, figure)]


def caches_beat_fewer_steps(results: Results, batch: int, lanes: Lanes, figure: str) -> Iterator[Verdict]:
    """Judge whether, at equal block-rows, forecasting comes closer than plain sampling with fewer steps, of the best
    solver that was drawn.
    """
    fewer = [lane for lane in results.lanes if lane.batch == batch and lane.kind == "fewer" and lane.has(figure)]
    own = [lane for lane in lanes if lane.method in (*FIXED, *VERIFIED, "cg_taylor") and not (lane.method in FIXED and _order(lane) < 1)]
    found = [gain_at_equal_cost(results, lane, fewer, figure=figure) for lane in own]
    paper = "Forecasting beats fewer steps at equal cost (all three papers)"
    yield from _judged("caches_beat_fewer_steps", paper, batch, found, "forecasting over fewer steps, at equal block-rows")


def forecasting_beats_reuse(results: Results, batch: int, lanes: Lanes, figure: str) -> Iterator[Verdict]:
    """Judge whether, at equal interval, a Taylor forecast comes closer to full computation than the last
    feature.
    """
    schedules = [lane for lane in lanes if lane.method in FIXED]
    alike = ("interval", "warmup_steps", "target", "predictor")
    forecasts, reuses = ([lane for lane in schedules if (_order(lane) >= 1) == b] for b in (True, False))
    pairs = itertools.product(forecasts, reuses)
    found = [gain(results, lane, other, figure=figure) for lane, other in pairs if _alike(lane, other, alike)]
    paper = "Forecasting beats reuse at equal interval (TaylorSeer)"
    yield from _judged("forecasting_beats_reuse", paper, batch, found, "forecasting over reuse")


def order_one_carries_most(results: Results, batch: int, lanes: Lanes, figure: str) -> Iterator[Verdict]:
    """Judge how much of what the best order gains over order 0 is gained by order 1."""
    orders: dict[str, dict[int, LaneResult]] = {}
    for lane in lanes:
        if lane.method == "taylorseer":
            others = repr(sorted((k, v) for k, v in lane.options.items() if k != "max_order"))
            orders.setdefault(others, {})[_order(lane)] = lane
    swept = [found for found in orders.values() if {0, 1} <= set(found) and max(found) > 1]
    shares = []
    for found in swept:
        best = max(found.values(), key=lambda lane: mean_of(lane, figure))
        whole, first = (gain(results, lane, found[0], figure=figure) for lane in (best, found[1]))
        if whole is not None and first is not None and whole.clear and whole.mean > 0:
            shares.append(first.mean / whole.mean)
    if not swept:
        return
    nothing = len(swept) - len(shares)
    finding: Finding = "mixed"
    if not shares:
        finding = "open"
    elif max(shares) <= 0.5:
        finding = "fails"
    elif min(shares) > 0.5 and not nothing:
        finding = "holds"
    said, numbers = "Nothing to share", {"settings": len(swept), "without_gain": nothing}
    if shares:
        numbers |= {"lowest_share": min(shares), "highest_share": max(shares)}
        percents = f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %"
        said = f"Order 1 brings {percents} of what the best order gains over reuse"
    if nothing:
        said += f"; at {nothing} of {len(swept)} settings no order gains anything over reuse beyond noise"
    fids = "FID 2.49 with order 1, 2.34 with order 3, 3.55 with order 0"
    paper = f"Order 1 carries most of the gain (TaylorSeer's tables: {fids}, at N=3)"
    yield Verdict("order_one_carries_most", paper, batch, finding, f"{said}.", numbers)


def first_block_gate_beats_schedule(results: Results, batch: int, lanes: Lanes, figure: str) -> Iterator[Verdict]:
    """Judge whether, at equal block-rows, CG-Taylor comes closer than a fixed schedule that forecasts the same
    feature.
    """
    fixed = _fixed(lanes, "last_block")
    found = [gain_at_equal_cost(results, lane, fixed, figure=figure) for lane in lanes if lane.method == "cg_taylor"]
    paper = "A gate at the first block beats the fixed schedule at equal cost (CG-Taylor)"
    what = "the first block's gate over the fixed schedule, at equal block-rows"
    yield from _judged("first_block_gate_beats_schedule", paper, batch, found, what)


def verification_beats_schedule(results: Results, batch: int, lanes: Lanes, figure: str) -> Iterator[Verdict]:
    """Judge whether, at equal block-rows, verification counted, SpeCa comes closer than a fixed schedule that
    forecasts the same features to the same order.
    """
    fixed = _fixed(lanes, "modules")
    found = []
    for lane in (lane for lane in lanes if lane.method in VERIFIED):
        alike = [other for other in fixed if _order(other) == _order(lane)]
        found.append(gain_at_equal_cost(results, lane, alike, figure=figure))
    paper = "Verification beats the fixed schedule at equal cost (SpeCa)"
    what = "verification over the fixed schedule, at equal block-rows"
    yield from _judged("verification_beats_schedule", paper, batch, found, what)


def verification_cost(results: Results, batch: int, lanes: Lanes, figure: str) -> Iterator[Verdict]:
    """Measure what judging a draft costs, as a share of a full step, by the clock; in block-rows it is 1 / L."""
    if figure != "psnr":  # a cost has no distance: it is told once
        return
    taylorseer = (lane for lane in _fixed(lanes, "modules") if lane.method == "taylorseer")
    unseen = [seconds for lane in taylorseer for seconds in _seconds(lane, "unseen")]
    counted, (low, high) = 1 / results.depth, CLAIMED_COST
    claimed = f"{100 * low:.2f} to {100 * high:.1f} % of a full step"
    paper = f"Verification costs {claimed} (SpeCa; one block of 60 to one of 28)"
    for lane in (lane for lane in lanes if lane.method in VERIFIED):
        accepted, full = _seconds(lane, "accepted"), _seconds(lane, "full")
        plain = _seconds(lane, "unseen") or unseen
        if not accepted or not full or not plain:
            continue
        share = float((np.median(accepted) - np.median(plain)) / np.median(full))
        block = f"one block of {results.depth} is {100 * counted:.1f} %"
        sentence = f"Judging a draft took {100 * share:.1f} % of a full step by the clock; {block}."
        numbers = {"share_of_seconds": share, "share_of_blocks": counted}
        finding: Finding = "holds" if share <= high else "fails"
        yield Verdict("verification_cost", paper, batch, finding, sentence, numbers)


def rows_beat_batches(results: Results, batch: int, lanes: Lanes, figure: str) -> Iterator[Verdict]:
    """Judge whether, at equal block-rows, samples that decide for themselves come closer than batches that
    decide as one, and by how much.
    """
    if batch == 1:  # both are one and the same
        return
    gated = {kind: [lane for lane in lanes if lane.options.get("decide") == kind] for kind in ("row", "batch")}
    found = []
    for lane in gated["row"]:
        same = set(lane.options) - {"decide", "threshold"}
        others = [o for o in gated["batch"] if o.method == lane.method and _alike(lane, o, same)]
        found.append(gain_at_equal_cost(results, lane, others, figure=figure))
    speca = "SpeCa's sample-adaptive computation, which its code decides per batch"
    paper = f"Samples should be computed as each needs ({speca})"
    what = f"decisions per row over decisions per batch, at equal block-rows and batch {batch}"
    yield from _judged("rows_beat_batches", paper, batch, found, what)


CLAIMS: tuple[Callable[[Results, int, Lanes, str], Iterator[Verdict]], ...] = (
    caches_beat_fewer_steps,
    forecasting_beats_reuse,
    order_one_carries_most,
    first_block_gate_beats_schedule,
    verification_beats_schedule,
    verification_cost,
    rows_beat_batches,
)
"""Each yields verdicts for a batch size and its policies' lanes, or none where the results do not allow one."""


def _judged(claim: str, paper: str, batch: int, found: Gains, what: str) -> Iterator[Verdict]:
    gains = [g for g in found if g is not None]
    if not gains:
        return
    means, worst = [g.mean for g in gains], [g.worst for g in gains]
    wins, losses = (sum(g.clear and sign * g.mean > 0 for g in gains) for sign in (1, -1))
    finding: Finding = "holds" if wins == len(gains) else "mixed" if wins else "fails" if losses else "open"
    median = float(np.median(means))
    sentence = (
        f"The gain of {what} is {median:+.2f} dB in the median ({min(means):+.2f} to {max(means):+.2f}); of "
        f"{len(gains)} comparisons {wins} are for it beyond noise, {losses} against it, "
        f"{len(gains) - wins - losses} neither. In the worst sample: {min(worst):+.2f} to {max(worst):+.2f} dB."
    )
    numbers = {"median_gain_db": median, "smallest_gain_db": min(means), "largest_gain_db": max(means)}
    yield Verdict(claim, paper, batch, finding, sentence, numbers | {"comparisons": len(gains)})


def _fixed(lanes: Lanes, target: str) -> list[LaneResult]:
    return [lane for lane in lanes if lane.method in FIXED and lane.options.get("target") == target]


def _order(lane: LaneResult) -> int:
    return 0 if lane.method == "reuse" else int(lane.options.get("max_order", 0))


def _alike(lane: LaneResult, other: LaneResult, options: Collection[str]) -> bool:
    return all(lane.options.get(name) == other.options.get(name) for name in options)


def _seconds(lane: LaneResult, fate: str) -> list[float]:
    """Seconds of a lane's steps of one kind, from the reports of its first batch; the first step, which
    checks the model, is left out.
    """
    found = []
    for step in (step for report in lane.reports.values() for step in report["steps"][1:]):
        judged = step["accept"] is not None
        kind = "accepted" if judged else "unseen"
        if any(step["computed"]):
            kind = "full" if all(step["computed"]) and not judged else ""
        if kind == fate:
            found.append(float(step["seconds"]))
    return found
