"""What the numbers of a lane say, in sentences: how close it comes, what it costs, and whether fewer steps or
a peer come closer at that cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from foreseer.bench.results import LaneResult, Results
from foreseer.bench.summary import Gain, Line, gain, gain_at_equal_cost, lines_of, sweep_of

__all__ = ["Summary", "sentence_of", "summaries"]


@attrs.frozen(kw_only=True)
class Summary:
    """A policy in one sentence, or two.

    Attributes:
        method: Which policy.
        lane: Its setting that gains most over fewer steps; where none can be compared, the one with the best
            mean PSNR.
        sentence: About that lane, and how many of the other settings gain anything.
    """

    method: str
    lane: str
    sentence: str


def sentence_of(results: Results, line: Line) -> str:
    """Say in numbers what a lane reaches, what it costs, and what comes closer at that cost. Empty where
    nothing was finished.
    """
    lane = line.lane
    if not lane.units:
        return ""
    total, cost = results.full(lane.batch).num_steps, f"{line.cost:.2f} of the block-rows"
    if math.isfinite(line.speedup):
        cost += f", {line.speedup:.2f}x {'by the clock' if lane.by_clock else 'measured'}"
    head = f"{lane.name} computes {_short(line.steps)} of {total} steps ({cost})"
    mean, worst = line.means.get("psnr", math.nan), line.worst.get("psnr", math.nan)
    if math.isinf(mean):
        return f"{head} and draws what full computation draws, in every sample."
    they = "is" if line.broken == 1 else "are"
    broken = f", with {line.broken} that {they} broken (not finite) at 0 dB" if line.broken else ""
    reached = f"{mean:.1f} dB in the mean and {worst:.1f} dB in the worst sample of {len(lane.indices)}"
    sentence = f"{head} and reaches {reached}{broken}.{_of_truth(results, line)}"
    parts = []
    if lane.kind in ("policy", "peer") and line.cost < 1:
        over, at = _over_fewer(results, line)
        if over is not None:
            parts.append(_held_against(over, f"fewer steps at {at}"))
        if lane.kind == "policy" and (over := _over_peers(results, lane)) is not None:
            parts.append(_held_against(over, f"the best peer at that cost, {_ends(over)}"))
    return f"{sentence} It is {', and '.join(parts)}." if parts else sentence


def _of_truth(results: Results, line: Line) -> str:
    """Say how near a lane is to the converged solution, and whether a solver is nearer with as many
    evaluations.
    """
    mean, worst = line.means.get("truth", math.nan), line.worst.get("truth", math.nan)
    if not math.isfinite(mean):
        return ""
    reached = f" To the converged solution it has {mean:.1f} dB, {worst:.1f} in the worst sample"
    saves = line.lane.kind in ("policy", "peer") and line.cost < 1
    over, at = _over_fewer(results, line, figure="truth") if saves else (None, "")
    return f"{reached}." if over is None else f"{reached}: {_held_against(over, f'the best solver at {at}, {_ends(over)}')}."


def summaries(results: Results, batch: int) -> list[Summary]:
    """Return a summary of each policy that saved steps, in the order of the lanes."""
    methods: dict[str, list[Line]] = {}
    for line in lines_of(results, batch):
        if line.lane.kind == "policy" and line.lane.units and line.cost < 1:
            methods.setdefault(line.lane.method, []).append(line)
    return [_summary(results, method, lines) for method, lines in methods.items()]


def _summary(results: Results, method: str, lines: Sequence[Line]) -> Summary:
    gains = [(found, line) for line in lines if (found := _over_fewer(results, line)[0]) is not None]
    best = max(gains, key=lambda pair: pair[0].mean)[1] if gains else max(lines, key=lambda line: line.means.get("psnr", -math.inf))
    above, below = (sum(found.clear and sign * found.mean > 0 for found, _ in gains) for sign in (1, -1))
    others = f" Settings of {method} that come closer than fewer steps beyond noise: {above} of {len(gains)}; less close: {below}." if len(gains) > 1 else ""
    return Summary(method=method, lane=best.lane.name, sentence=sentence_of(results, best) + others)


def _rivals(results: Results, lane: LaneResult, kind: str) -> list[LaneResult]:
    """What a lane must beat, of one kind: what was measured at its batch size, and did not fail."""
    others = (other for other in results.lanes if other.batch == lane.batch and other.kind == kind)
    return [other for other in others if other.units and not other.error and other is not lane]


def _over_fewer(results: Results, line: Line, *, figure: str = "psnr") -> tuple[Gain | None, str]:
    """Hold a lane against the best solver: at its block-rows, or else at as many steps, rounded."""
    fewer = _rivals(results, line.lane, "fewer")
    if (found := gain_at_equal_cost(results, line.lane, fewer, figure=figure)) is not None:
        return found, "equal block-rows"
    name = line.fewer if figure == "psnr" else line.solver
    as_many = next((other for other in fewer if other.name == name), None)
    return None if as_many is None else gain(results, line.lane, as_many, figure=figure), "as many steps"


def _over_peers(results: Results, lane: LaneResult) -> Gain | None:
    """Hold a lane against the peer that comes closest at its block-rows; None where none can be compared."""
    sweeps: dict[str, list[LaneResult]] = {}
    for other in _rivals(results, lane, "peer"):
        sweeps.setdefault(sweep_of(other), []).append(other)
    found = (gain_at_equal_cost(results, lane, sweep) for sweep in sweeps.values())
    return min(filter(None, found), key=lambda over: over.mean, default=None)


def _held_against(found: Gain, whom: str) -> str:
    if not found.clear:
        return f"within noise of {whom} ({found.mean:+.1f} dB)"
    better = round(found.share * found.samples)
    return f"{abs(found.mean):.1f} dB {'above' if found.mean > 0 else 'below'} {whom} (better on {better} of {found.samples} samples)"


def _ends(found: Gain) -> str:
    return found.over[0] if len(found.over) == 1 else f"between {found.over[0]} and {found.over[1]}"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
