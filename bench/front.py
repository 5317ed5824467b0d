"""Peers and policies point by point: each point of a peer's front beside the best policies that compute no more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import numpy as np

from foreseer.bench.equal_cost import sweep_of
from foreseer.bench.results import LaneResult, Results
from foreseer.bench.summary import mean_of, worst_of

__all__ = ["Point", "front_of", "points_of_peers", "steps_of"]

HALF_A_STEP = 0.5
"""A policy that decides per sample computes a fraction on average; up to half a step more counts as as many."""


ANOTHER_PICTURE = 0.0
"""A mean PSNR that is no better, dB, is of errors as large as the range of the values, or of broken samples.

Nothing was cached, something was broken, and to beat it is no merit.
"""


@attrs.frozen(kw_only=True)
class Point:
    """A peer's lane, and what policies reach with as many computed steps or fewer.

    Attributes:
        peer: Name of the sweep, as `foreseer.bench.equal_cost.sweep_of`.
        lane: The peer's lane.
        steps, mean, worst: Its computed steps, and its PSNR in the mean and in the worst sample, dB.
        best_mean: The policy with the best mean PSNR among those that compute no more; None where there is none.
        best_worst: Likewise by the worst sample.
        matched: One policy among them that is at least as good in the mean and in the worst sample; None where there is none.
    """

    peer: str
    lane: LaneResult
    steps: float
    mean: float
    worst: float
    best_mean: LaneResult | None
    best_worst: LaneResult | None
    matched: LaneResult | None

    @property
    def as_good(self) -> bool:
        """Whether one policy is at least as good in the mean and in the worst sample."""
        return self.matched is not None


def steps_of(lane: LaneResult) -> float:
    """Return the computed steps, mean over the samples."""
    return float(np.mean(lane.steps))


def front_of(lanes: Sequence[LaneResult]) -> list[LaneResult]:
    """Return the lanes that no other beats: those with a better mean PSNR than every lane that computes as many steps or fewer, by steps.

    A lane that drew another picture altogether, or whose samples are all broken, is on none.
    """
    front: list[LaneResult] = []
    alike = (lane for lane in lanes if lane.units and mean_of(lane, "psnr") > ANOTHER_PICTURE)
    for lane in sorted(alike, key=lambda lane: (steps_of(lane), -mean_of(lane, "psnr"))):
        if not front or mean_of(lane, "psnr") > mean_of(front[-1], "psnr"):
            front.append(lane)
    return front


def points_of_peers(results: Results, batch: int, *, least: float = 7.0, most: float = 36.0) -> Iterator[Point]:
    """Yield every point of every peer's front. Lanes that failed, or drew something else altogether, are on none.

    Args:
        results: With peers.
        batch: One of its batch sizes.
        least: Fewest computed steps of a point: below, nothing resembles full computation.
        most: Most computed steps: above, nothing is saved.
    """
    lanes = [lane for lane in results.lanes if lane.batch == batch and lane.units and not lane.error]
    policies = [lane for lane in lanes if lane.kind == "policy"]
    sweeps: dict[str, list[LaneResult]] = {}
    for lane in lanes:
        if lane.kind == "peer":
            sweeps.setdefault(sweep_of(lane), []).append(lane)
    for peer, swept in sweeps.items():
        for lane in front_of(swept):
            if not least <= (steps := steps_of(lane)) <= most:
                continue
            fitting = [policy for policy in policies if steps_of(policy) <= steps + HALF_A_STEP]
            mean, worst = mean_of(lane, "psnr"), worst_of(lane, "psnr")
            as_good = [policy for policy in fitting if mean_of(policy, "psnr") >= mean and worst_of(policy, "psnr") >= worst]
            yield Point(
                peer=peer,
                lane=lane,
                steps=steps,
                mean=mean,
                worst=worst,
                matched=max(as_good, key=lambda policy: mean_of(policy, "psnr"), default=None),
                best_mean=max(fitting, key=lambda policy: mean_of(policy, "psnr"), default=None),
                best_worst=max(fitting, key=lambda policy: worst_of(policy, "psnr"), default=None),
            )
