"""A target: what a user wants of a policy, and which of several fulfil it best."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import attrs
import numpy as np

from foreseer.bench.per_sample import Figures, at_least, at_most, mean_of, pareto
from foreseer.errors import OptionError

__all__ = ["Target", "Wanted", "seconds_of"]

SLACK = 1e-9
"""A cost of exactly 1/3 reaches 3x, whatever the last digit of the division."""
MARGIN = 0.1
"""By how much, relative, a cost must be too high before the rest of the samples is left out: those of a batch
may share decisions, and then differ less than the next batch will.
"""
UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "": 1.0}


F = TypeVar("F", bound=Figures)


@attrs.frozen
class Target:
    """What to look for.

    Attributes:
        kind: What is given.

            - ``"speedup"``: the greatest mean PSNR at no more than 1/value of the block-rows.
            - ``"steps_computed"``: the greatest mean PSNR at no more than so many computed steps for a
              sample, on average.
            - ``"time"``: the greatest mean PSNR at no more than so many seconds for a sample, on average, by
              the clock of this machine.
            - ``"psnr"``: the fewest block-rows at a mean PSNR of at least value dB.
            - ``"front"``: all that no other beats in block-rows and mean PSNR.
        value: See ``kind``; 0 for a front.
        share: Of ``"psnr"`` only: this share of the samples must reach the value, in (0, 1]; None for their
            mean.

    Raises:
        OptionError: A value is out of range.
    """

    kind: Literal["speedup", "steps_computed", "time", "psnr", "front"]
    value: float = 0.0
    share: float | None = None

    def __attrs_post_init__(self) -> None:
        number: Any = self.value
        if self.kind == "front":
            return
        low = 1.0 if self.kind == "speedup" else 0.0
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not low < number < math.inf:
            raise OptionError(f"{self.kind}={number!r} is out of range; write a number above {low:g}")
        if self.share is not None and (self.kind != "psnr" or not 0.0 < self.share <= 1.0):
            raise OptionError(f"share={self.share!r} is out of range; write a number above 0 and up to 1, of a psnr")

    def __str__(self) -> str:
        if self.kind == "psnr" and self.share is not None:
            return f"{self.value:g} dB for {100 * self.share:g}% of samples"
        value = f"{self.value:g}"
        return {
            "speedup": f"{value}x by block-rows",
            "steps_computed": f"{value} computed steps",
            "time": f"{value} s a sample",
            "psnr": f"{value} dB",
            "front": "a front",
        }[self.kind]

    @property
    def short(self) -> str:
        """As a file name has it: ``"3x"``."""
        unit = {"speedup": "x", "steps_computed": "steps", "time": "s", "psnr": "db", "front": "front"}[self.kind]
        return f"{self.value:g}{unit}" if self.value else unit

    @property
    def limits_cost(self) -> bool:
        """Whether cost is what is given, and PSNR what is wanted."""
        return self.kind in ("speedup", "steps_computed", "time")

    @property
    def limit(self) -> float:
        """The highest cost, where that is what is given."""
        return 1.0 / self.value if self.kind == "speedup" else self.value

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """What optuna is to do with `values`."""
        return ["minimize", "maximize"] if self.kind == "front" else ["maximize"]

    def costs(self, figures: Figures) -> tuple[float, ...]:
        """Return the ``(n,)`` cost of each sample: what the target counts as one."""
        return {"steps_computed": figures.steps, "time": figures.seconds}.get(self.kind, figures.ratios)

    def quality(self, figures: Figures) -> float:
        """Return the PSNR that decides, dB: the mean, or what the share of samples has or more."""
        if self.share is None:
            return figures.mean
        needed = math.ceil(self.share * figures.samples - SLACK)
        return sorted(figures.psnrs, reverse=True)[needed - 1]

    def reached(self, figures: Figures) -> bool:
        """Whether figures are good enough; those of no samples are not."""
        if not figures.samples:
            return False
        if self.limits_cost:
            return mean_of(self.costs(figures)) <= self.limit * (1.0 + SLACK)
        return self.kind == "front" or self.quality(figures) >= self.value

    def values(self, figures: Figures) -> list[float]:
        """Return what optuna is told of figures. Only the order matters to it: all that reach the target come
        before all that do not, nearest first.
        """
        if self.kind == "front":
            return [figures.ratio, figures.mean]
        if self.limits_cost:
            return [figures.mean if self.reached(figures) else -1e3 - 1e3 * (mean_of(self.costs(figures)) / self.limit - 1.0)]
        return [-figures.ratio if self.reached(figures) else -1e3 - (self.value - self.quality(figures))]

    def best(self, found: Sequence[F]) -> F | None:
        """Return the best of those that reach the target, the first of equals; None where none does, and for
        a front.
        """
        fine = [figures for figures in found if self.reached(figures)]
        if not fine or self.kind == "front":
            return None
        return max(fine, key=self._rank)

    def ranked(self, found: Sequence[F]) -> list[F]:
        """Return all that have samples: best first, or along the front."""
        some = [figures for figures in found if figures.samples]
        return pareto(some) if self.kind == "front" else sorted(some, key=self._rank, reverse=True)

    def _rank(self, figures: Figures) -> tuple[float, ...]:
        """Higher is better: what decides, and among equals the cheaper, or the likelier."""
        other = -mean_of(self.costs(figures)) if self.limits_cost else self.quality(figures)
        return self.values(figures)[0], other

    def hopeless(self, begun: Figures, *, samples: int, finished: Sequence[Figures]) -> str:
        """Say why the rest of the samples need not be drawn; empty where they must.

        A trial is given up when it can no longer be the best, or on the front: what it will come to on all
        samples is bounded from those that are there, in pairs with the same samples of a finished one.
        Nothing is given up before another has reached the target.

        Args:
            begun: Of the first of the samples.
            samples: How many there will be.
            finished: Of all samples, in the same order.
        """
        best = self.best(finished)
        if best is None and self.kind != "front":
            return ""
        if self.limits_cost and best is not None:
            if at_least(self.costs(begun), samples) > self.limit * (1.0 + MARGIN):
                return f"does not reach {self}"
            return f"stays below the best so far, {best.mean:.2f} dB" if self._worse(begun, best, samples) else ""
        if self.kind == "psnr" and self.share is not None:
            missed = begun.samples - begun.reaching(self.value)
            if samples - missed < self.share * samples - SLACK:
                return f"does not reach {self}"
        elif self.kind == "psnr" and at_most(begun.psnrs, samples) < self.value:
            return f"does not reach {self}"
        if self.kind == "psnr" and self.share is None and best is not None and self._dearer(begun, best, samples):
            return f"costs more than the best so far, {best.speedup:.2f}x"
        beaten = (other for other in finished if self._dearer(begun, other, samples) and self._worse(begun, other, samples))
        return "" if next(beaten, None) is None else "costs more than another, and is less like"

    def _worse(self, begun: Figures, other: Figures, samples: int) -> bool:
        return at_most(np.subtract(begun.psnrs, other.psnrs[: begun.samples]), samples) < 0.0

    def _dearer(self, begun: Figures, other: Figures, samples: int) -> bool:
        own, others = np.array(self.costs(begun)), np.array(self.costs(other)[: begun.samples])
        return at_least(own - others * (1.0 + MARGIN), samples) > 0.0


@attrs.frozen(kw_only=True)
class Wanted:
    """The options that give a target, at most one of them.

    Attributes:
        speedup: Closest to full computation at this speed-up by block-rows, such as 3.
        steps_computed: Closest to full computation with so many computed steps, on average.
        time: Closest to full computation in this time a sample, such as 4s, on this machine.
        psnr: Cheapest at this mean PSNR to full computation, in dB.
        front: All that no other beats in cost and PSNR.
    """

    speedup: float | None = None
    steps_computed: float | None = None
    time: str | None = None
    psnr: float | None = None
    front: bool = False

    @property
    def target(self) -> Target | None:
        """The target; None where none is given.

        Raises:
            OptionError: Several are given, or one is out of range.
        """
        seconds = None if self.time is None else seconds_of(self.time)
        given: dict[Any, float | None] = {"speedup": self.speedup, "steps_computed": self.steps_computed, "psnr": self.psnr, "time": seconds}
        found = [Target(kind, value) for kind, value in given.items() if value is not None] + [Target("front")] * self.front
        if len(found) > 1:
            named = " and ".join(f"--{target.kind.replace('_', '-')}" for target in found)
            raise OptionError(f"{named} were given; write one of them")
        return found[0] if found else None


def seconds_of(text: str) -> float:
    """Read a time: ``"4s"``, ``"500ms"``, ``"1.5min"``, or a number of seconds.

    >>> seconds_of("500ms")
    0.5

    Raises:
        OptionError: It is none.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(ms|s|min|)\s*", text)
    if match is None:
        raise OptionError(f"time={text!r} is no time; write 4s, 500ms or 1.5min")
    return float(match[1]) * UNITS[match[2]]
