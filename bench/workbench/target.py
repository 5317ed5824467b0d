"""What a tuned policy is to reach: a cost, a likeness to full computation, or whatever no other point beats
in both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import attrs

from foreseer.bench.charts import front
from foreseer.errors import OptionError

__all__ = ["Point", "Target", "pareto"]

SLACK = 1e-9
"""A cost of exactly 1/3 reaches 3x, whatever the last digit of the division."""


@attrs.frozen(kw_only=True)
class Point:
    """One trial.

    Attributes:
        number: Its place in the study, from 0.
        policy: As one writes it on the command line.
        ratio: Block-rows over those of full computation.
        steps: Steps computed for a sample, on average.
        mean, worst: PSNR to full computation, dB.
        seconds: Wall-clock time of drawing the samples; NaN where the figures are those of an earlier trial
            of the same policy.
        error: Why it failed; empty where it did not. The figures of a failed one are NaN.
    """

    number: int
    policy: str
    ratio: float = math.nan
    steps: float = math.nan
    mean: float = math.nan
    worst: float = math.nan
    seconds: float = math.nan
    error: str = ""

    @property
    def speedup(self) -> float:
        """What the block-rows promise."""
        return 1.0 / self.ratio


@attrs.frozen
class Target:
    """What to look for.

    Attributes:
        kind: ``"speedup"``: the greatest mean PSNR at no more than 1/value of the block-rows. ``"psnr"``: the
            fewest block-rows at a mean PSNR of at least value dB. ``"front"``: all points that no other beats
            in both.
        value: See ``kind``; 0 for a front.

    Raises:
        OptionError: The value is out of range.
    """

    kind: Literal["speedup", "psnr", "front"]
    value: float = 0.0

    def __attrs_post_init__(self) -> None:
        number: Any = self.value
        if self.kind == "front":
            return
        low = 1.0 if self.kind == "speedup" else 0.0
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not low < number < math.inf:
            raise OptionError(f"target_{self.kind}={number!r} is out of range; write a number above {low:g}")

    def __str__(self) -> str:
        return {"speedup": f"{self.value:g}x by block-rows", "psnr": f"{self.value:g} dB", "front": "a front"}[self.kind]

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """What optuna is to do with `values`."""
        return ["minimize", "maximize"] if self.kind == "front" else ["maximize"]

    def reached(self, point: Point) -> bool:
        """Whether a point that did not fail is good enough."""
        if point.error:
            return False
        return point.ratio * self.value <= 1.0 + SLACK if self.kind == "speedup" else point.mean >= self.value if self.kind == "psnr" else True

    def values(self, point: Point) -> list[float]:
        """Return what optuna is told of a point. Only the order matters to it: all that reach the target come
        before all that do not, nearest first.
        """
        if self.kind == "front":
            return [point.ratio, point.mean]
        if self.kind == "speedup":
            return [point.mean if self.reached(point) else -1e3 - 1e3 * (point.ratio * self.value - 1.0)]
        return [-point.ratio if self.reached(point) else -1e3 - (self.value - point.mean)]

    def best(self, points: Sequence[Point]) -> Point | None:
        """Return the best point that reaches the target, the earliest of equals; None where none does, and
        for a front.
        """
        fine = [point for point in points if self.reached(point)]
        if not fine or self.kind == "front":
            return None
        return min(fine, key=lambda p: (-p.mean, p.ratio, p.number) if self.kind == "speedup" else (p.ratio, -p.mean, p.number))

    def ranked(self, points: Sequence[Point]) -> list[Point]:
        """Return the points that did not fail, each policy once: best first, or along the front."""
        fine = list({point.policy: point for point in reversed(points) if not point.error}.values())
        if self.kind == "front":
            return pareto(fine)
        return sorted(fine, key=lambda point: (-self.values(point)[0], point.ratio, point.number))


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in cost and mean PSNR, cheapest first; of equals the earliest."""
    points = sorted(points, key=lambda point: point.number)
    return [points[i] for i in front([(p.ratio, p.mean) for p in points], lower_x=True, lower_y=False)]
