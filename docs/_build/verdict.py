"""Cache, solver or both: which way of spending so many evaluations of the model comes nearest to the converged
solution, or to today's full computation.

There are three ways: fewer steps of the best plain solver, the model's own among them; a cache on the model's
own sampler; and a cache on a better solver. Each lane is held, sample by sample, against what the best plain
solver reaches at the lane's block-rows, between two numbers of evaluations by interpolation. So lanes of
different costs can be held against one another: by what each gains over plain solvers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.bench.results import LaneResult, Results
from foreseer.bench.summary import NOTHING, Gain, gain, gain_at_equal_cost, mean_of, nearest_plain, standard_errors

COUNTS = (6, 8, 10, 14, 18, 25)
"""Numbers of evaluations that a reader asks for."""

Way = Literal["solver", "cache", "both"]
WAYS: tuple[Way, ...] = ("solver", "cache", "both")
"""Fewer steps of a plain solver; a cache on the model's own sampler; a cache on a better solver."""


def way_of(lane: LaneResult) -> Way | None:
    """Return which way a lane is; None of full computation and of what was planned on these very samples."""
    if lane.kind == "fewer":
        return "solver"
    if lane.kind not in ("policy", "peer"):
        return None
    return "both" if lane.solver else "cache"


def evaluations_of(results: Results, lane: LaneResult) -> float:
    """Return how many evaluations of the model a lane's block-rows amount to: what a gate computes to judge
    counts.
    """
    return results.cost(lane) * results.num_steps


@attrs.frozen(kw_only=True)
class Held:
    """A lane held against plain solvers.

    Attributes:
        lane: The lane.
        way: Which way it is.
        evaluations: Of the model, mean over the samples, in block-rows.
        over: What it gains over the best plain solver at as many; None of that solver itself.
    """

    lane: LaneResult
    way: Way
    evaluations: float
    over: Gain | None

    @property
    def gains(self) -> NDArray[np.float64]:
        """The gain of each sample, ``(n,)`` dB, in the order of the samples."""
        return np.zeros(len(self.lane.indices)) if self.over is None else np.asarray(self.over.differences)

    @property
    def mean(self) -> float:
        """Mean gain, dB."""
        return 0.0 if self.over is None else self.over.mean


@attrs.frozen(kw_only=True)
class Choice:
    """What is nearest to the converged solution at about so many evaluations.

    Attributes:
        count: How many.
        ways: The best lane of each way that has one there.
        tried: How many caches were there to choose from.
        winners: The ways that no other beats beyond noise: the best first.
    """

    count: int
    ways: dict[Way, Held]
    tried: int
    winners: tuple[Way, ...]

    @property
    def clear(self) -> bool:
        """Whether one way beats all others beyond noise."""
        return len(self.winners) == 1 and len(self.ways) > 1


def beats(one: Held, other: Held, *, comparisons: int = 1) -> bool:
    """Whether a lane gains more over plain solvers than another does, beyond noise.

    Args:
        one, other: Both on the same samples.
        comparisons: Among how many lanes these were chosen by the same samples: the best of many is better
            than it is, so that the more there were, the more is asked (Bonferroni).
    """
    differences = one.gains - other.gains
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    mean = float(differences.mean())
    return mean > NOTHING and mean > standard_errors(len(differences), comparisons=comparisons) * error


def band(count: int, counts: Sequence[int] = COUNTS) -> tuple[float, float]:
    """Return from how many evaluations up to how many a lane belongs to a number: half way to the next ones, and as
    far on the other side where there is no next one.
    """
    place = counts.index(count)
    below, above = (counts[at] if 0 <= at < len(counts) else None for at in (place - 1, place + 1))
    if below is None and above is None:
        return 0.0, math.inf
    low = None if below is None else (below + count) / 2
    high = 2 * count - low if above is None and low is not None else ((above or count) + count) / 2
    return (2 * count - high if low is None else low), high


def choices(results: Results, batch: int, *, counts: Sequence[int] = COUNTS, figure: str = "truth") -> list[Choice]:
    """Return the choice at each number of evaluations at which plain solvers were drawn, by the distance to the
    converged solution (``figure="truth"``) or to full computation (``"psnr"``).

    Lanes that failed, or have not drawn every sample, are left out, as are those that cost more or less than
    every plain lane.
    """
    samples = results.full(batch).indices
    lanes = [lane for lane in results.lanes if lane.batch == batch and lane.has(figure) and not lane.error and lane.indices == samples]
    plain = [lane for lane in lanes if lane.kind == "fewer"]
    caches = [one for lane in lanes if (one := held(results, lane, plain, figure)) is not None and one.way != "solver"]
    return [found for count in counts if (found := choice(plain, caches, count, band(count, counts), figure)) is not None]


def held(results: Results, lane: LaneResult, plain: Sequence[LaneResult], figure: str) -> Held | None:
    """Hold a lane against plain solvers; None where it has no way, or nothing is to be held against."""
    way = way_of(lane)
    over = gain_at_equal_cost(results, lane, plain, figure=figure) if way and plain else None
    return None if way is None or over is None else Held(lane=lane, way=way, evaluations=evaluations_of(results, lane), over=over)


def choice(plain: Sequence[LaneResult], caches: Sequence[Held], count: int, within: tuple[float, float], figure: str) -> Choice | None:
    """Choose at one number of evaluations; None where no plain solver was drawn with it."""
    nearest = nearest_plain(plain, count, figure)
    if nearest is None:
        return None
    there = [one for one in caches if within[0] <= one.evaluations < within[1]]
    ways: dict[Way, Held] = {"solver": Held(lane=nearest, way="solver", evaluations=count, over=None)}
    for way in WAYS[1:]:
        if own := [one for one in there if one.way == way]:
            ways[way] = max(own, key=lambda one: one.mean)
    beaten = functools.partial(beats, comparisons=max(1, len(there)))
    left = [one for one in ways.values() if not any(beaten(other, one) for other in ways.values() if other is not one)]
    return Choice(count=count, ways=ways, tried=len(there), winners=tuple(one.way for one in sorted(left, key=lambda one: -one.mean)))


def enough_steps(results: Results, batch: int) -> tuple[LaneResult, Gain] | None:
    """Return the plain solver with the fewest steps that is nearer to the converged solution than full
    computation beyond noise, and by how much; None where none is. It is the first of as many as were drawn, and with
    more steps its solver must be nearer, too.
    """
    full = results.full(batch)
    plain = [lane for lane in results.lanes if lane.batch == batch and lane.kind == "fewer" and lane.has("truth") and lane.solver]
    for lane in sorted(plain, key=lambda lane: (lane.num_steps, -mean_of(lane, "truth"))):
        over = gain(results, lane, full, figure="truth")
        if over is not None and all(
            _nearer(results, other, full, len(plain)) for other in plain if other.solver == lane.solver and other.num_steps >= lane.num_steps
        ):
            return lane, over
    return None


def _nearer(results: Results, lane: LaneResult, full: LaneResult, comparisons: int) -> bool:
    over = gain(results, lane, full, figure="truth")
    return over is not None and over.mean > standard_errors(over.samples, comparisons=comparisons) * over.error
