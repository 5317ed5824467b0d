"""Each point of a peer's front beside the best policies that compute no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs
import numpy as np
from pages import table

from foreseer.bench.results import LaneResult, Results
from foreseer.bench.summary import mean_of, sweep_of, worst_of

Figure = Callable[[LaneResult, str], float]
HALF_A_STEP = 0.5
"""A policy that decides per sample computes a fraction on average; up to half a step more is let pass."""
ANOTHER_PICTURE = 0.0
"""A mean PSNR that is no better, dB, is of another picture, or of broken samples: to beat it is no merit."""


def both(lane: LaneResult) -> str:
    """Mean and worst PSNR."""
    return f"{mean_of(lane, 'psnr'):.1f} / {worst_of(lane, 'psnr'):.1f}"


def steps_of(lane: LaneResult) -> float:
    """Return the computed steps, mean over the samples."""
    return float(np.mean(lane.steps))


def best(lanes: Iterable[LaneResult], figure: Figure = mean_of) -> LaneResult | None:
    """Return the lane with the best PSNR, in the mean or as ``figure`` has it; None of none."""
    return max(lanes, key=lambda lane: figure(lane, "psnr"), default=None)


@attrs.frozen
class Point:
    """A peer's lane, and the policies that compute as many steps or fewer."""

    lane: LaneResult
    fitting: Sequence[LaneResult]

    @property
    def steps(self) -> float:
        """The peer's computed steps."""
        return steps_of(self.lane)

    @property
    def matched(self) -> LaneResult | None:
        """One policy that is at least as good in the mean and in the worst sample."""
        return self.reached_by(self.fitting)

    def reached_by(self, lanes: Iterable[LaneResult]) -> LaneResult | None:
        """Return the best of these lanes that are at least as good, in the mean and in the worst sample."""
        figures = (mean_of, worst_of)
        return best(one for one in lanes if all(of(one, "psnr") >= of(self.lane, "psnr") for of in figures))


def front_of(lanes: Sequence[LaneResult]) -> list[LaneResult]:
    """Return by steps the lanes with a better mean PSNR than every lane that computes as many steps or fewer,
    but for those that drew another picture altogether.
    """
    front: list[LaneResult] = []
    alike = (lane for lane in lanes if lane.units and mean_of(lane, "psnr") > ANOTHER_PICTURE)
    for lane in sorted(alike, key=lambda lane: (steps_of(lane), -mean_of(lane, "psnr"))):
        if not front or mean_of(lane, "psnr") > mean_of(front[-1], "psnr"):
            front.append(lane)
    return front


def points_of_peers(results: Results, batch: int, *, least: float = 7.0, most: float = 36.0) -> Iterator[Point]:
    """Yield every point of every peer's front of ``least`` steps, below which nothing resembles full
    computation, to ``most``, above which nothing is saved. Failed lanes are on none.
    """
    lanes = [lane for lane in results.lanes if lane.batch == batch and lane.units and not lane.error]
    sweeps: dict[str, list[LaneResult]] = {}
    for lane in lanes:
        if lane.kind == "peer":
            sweeps.setdefault(sweep_of(lane), []).append(lane)
    for lane in (lane for swept in sweeps.values() for lane in front_of(swept)):
        if least <= (steps := steps_of(lane)) <= most:
            policies = [one for one in lanes if one.kind == "policy" and steps_of(one) <= steps + HALF_A_STEP]
            yield Point(lane, policies)


def reached_of(results: Results) -> tuple[int, int]:
    """Return at how many points of the peers' fronts a policy is as good, and how many points there are."""
    points = list(points_of_peers(results, results.settings["batch"][0]))
    return sum(point.matched is not None for point in points), len(points)


def reached(title: str, results: Results) -> str:
    """At how many points of the peers' fronts a policy is as good, with and without plans."""
    points = list(points_of_peers(results, results.settings["batch"][0]))

    def without(left_out: Callable[[LaneResult], bool]) -> int:
        kept = ((point, [one for one in point.fitting if not left_out(one)]) for point in points)
        return sum(point.reached_by(lanes) is not None for point, lanes in kept)

    def by_hand(lane: LaneResult) -> bool:
        return lane.method == "planned" and "+" in str(lane.options.get("schedule"))

    every, unlisted = reached_of(results)[0], without(by_hand)
    listed = " Without lists of steps that were written by hand, as one in place of a peer's own schedule, it"
    return (
        f"- {title}: at {every} of {len(points)} points of the peers' fronts one built-in policy that "
        "computes no more steps (half a step let pass) is at least as good, in the mean and in the worst "
        "sample; without `planned`, whose schedules were made from other samples of the same model, at "
        f"{without(lambda lane: lane.method == 'planned')}."
    ) + (f"{listed} is {unlisted}." if unlisted < every else "")


def peers_table(results: Results) -> Iterator[str]:
    """Each point of a peer's front beside the best policies that compute no more."""
    yield ("Each point of a peer's front from 7 to 36 steps, and the best of our policies that compute as many steps or fewer (half a step more let pass):")
    rows, missed = [], []
    for point in points_of_peers(results, results.settings["batch"][0]):
        cells = [f"`{point.lane.name}`", f"{point.steps:.1f}", both(point.lane)]
        for own in (best(point.fitting), best(point.fitting, worst_of)):
            cells += [f"`{own.name}`, {steps_of(own):.1f} steps", both(own)] if own else ["none", ""]
        rows.append([*cells, "yes" if point.matched else "**no**"])
        missed += [] if point.matched else [f"- {why_not(results, point)}"]
    titles = "peer | steps: | PSNR: | our best in the mean | PSNR: | our best in the worst sample | PSNR:"
    yield table(f"{titles} | one of ours at least as good in both", rows)
    yield "\n".join(missed)


def why_not(results: Results, point: Point) -> str:
    """Say what a peer's point that none reached costs in blocks, and whether one reaches it at that."""
    cost, share = results.cost(point.lane), point.steps / results.num_steps
    said = f"`{point.lane.name}` was not reached. It evaluates {cost:.3f} of the block-rows"
    if cost > share + 0.01:
        said += f", more than the {share:.3f} of {point.steps:.1f} steps: it computes a part of every step"
        said += " that it forecasts"
    policies = (lane for lane in results.lanes if lane.kind == "policy" and lane.units and not lane.error)
    found = point.reached_by(lane for lane in policies if results.cost(lane) <= cost + 1e-9)
    if found is None:
        return f"{said}. No policy of ours that evaluates as few is as good in both."
    as_good = f"`{found.name}` is as good in both: {both(found)} dB with {results.cost(found):.3f}"
    return f"{said}. Of ours that evaluate as few {as_good}."
