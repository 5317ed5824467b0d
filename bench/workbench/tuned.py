"""What `foreseer tune` found."""

from __future__ import annotations

import attrs

from foreseer.bench.per_sample import Figures
from foreseer.presets import Preset
from foreseer.workbench.promise import Test
from foreseer.workbench.search import Search
from foreseer.workbench.study import Point
from foreseer.workbench.tune_settings import TuneSettings

__all__ = ["Tuned"]


@attrs.frozen(eq=False, kw_only=True)
class Tuned:
    """What `tune` found.

    Attributes:
        settings: What was asked for.
        search: What was searched.
        points: All trials, also those that failed or were given up.
        chosen: The best that reaches the target, with a promise the fastest that keeps it; None where none
            does, and for a front.
        tests: With a promise: the tests of settings, in their order.
        preset: The chosen one, measured on held-out samples too.
        time: Seconds of full computation for a sample; NaN where none was drawn.
    """

    settings: TuneSettings
    search: Search
    points: tuple[Point, ...]
    chosen: Figures | None
    tests: tuple[Test, ...] = ()
    preset: Preset | None
    time: float

    @property
    def ranked(self) -> list[Point]:
        """The points that drew all samples, each policy once: best first, or along the front."""
        firsts: dict[str, Point] = {}
        for point in self.points:
            if point.whole:
                firsts.setdefault(point.policy, point)
        return self.settings.goal.ranked(list(firsts.values()))

    @property
    def failed(self) -> list[Point]:
        """The points that did."""
        return [point for point in self.points if point.error]

    @property
    def pruned(self) -> list[Point]:
        """The points that were given up."""
        return [point for point in self.points if point.pruned]
