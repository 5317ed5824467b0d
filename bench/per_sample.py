"""What some samples cost under a policy, and how near they are to full computation; and what those still to
come can make of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.bench.charts import front

__all__ = ["Figures", "at_least", "at_most", "mean_of", "pareto"]

DOUBT = 0.01
"""Of a bound on what the samples still to come will make of a mean: how often it may be wrong."""


def mean_of(values: Sequence[float]) -> float:
    """Return the mean; NaN of nothing."""
    return float(np.mean(values)) if values else math.nan


def _numbers(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True)
class Figures:
    """What n samples cost under a policy, and how near they are to full computation.

    Attributes:
        psnrs: ``(n,)`` PSNR to full computation, dB, as `foreseer.psnr.counted_psnr` counts it.
        ratios: ``(n,)`` block-rows over those of full computation. Samples of one batch share its block-rows
            in the ratio of their steps.
        steps: ``(n,)`` steps that were computed.
        seconds: ``(n,)`` seconds by the clock; samples of one batch share its time evenly.
    """

    psnrs: tuple[float, ...] = attrs.field(default=(), converter=_numbers, repr=False)
    ratios: tuple[float, ...] = attrs.field(default=(), converter=_numbers, repr=False)
    steps: tuple[float, ...] = attrs.field(default=(), converter=_numbers, repr=False)
    seconds: tuple[float, ...] = attrs.field(default=(), converter=_numbers, repr=False)

    @property
    def samples(self) -> int:
        """How many there are, n."""
        return len(self.psnrs)

    @property
    def mean(self) -> float:
        """Of the PSNRs, dB; NaN without samples."""
        return mean_of(self.psnrs)

    @property
    def worst(self) -> float:
        """Of the PSNRs, dB; NaN without samples."""
        return min(self.psnrs, default=math.nan)

    @property
    def ratio(self) -> float:
        """Block-rows over those of full computation; NaN without samples."""
        return mean_of(self.ratios)

    @property
    def speedup(self) -> float:
        """What the block-rows promise."""
        return 1.0 / self.ratio

    @property
    def computed(self) -> float:
        """Steps computed for a sample, on average; NaN without samples."""
        return mean_of(self.steps)

    @property
    def time(self) -> float:
        """Seconds for a sample by the clock, on average; NaN without samples."""
        return mean_of(self.seconds)

    def __add__(self, other: Figures) -> Figures:
        """Return the figures of these samples and others."""
        return Figures(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in attrs.fields(Figures)})

    def reaching(self, psnr: float) -> int:
        """Return how many samples have this PSNR or more."""
        return sum(value >= psnr for value in self.psnrs)


F = TypeVar("F", bound=Figures)


def pareto(found: Sequence[F]) -> list[F]:
    """Return those that no other beats in block-rows and mean PSNR, cheapest first; of equals the first."""
    return [found[i] for i in front([(f.ratio, f.mean) for f in found], lower_x=True, lower_y=False)]


def at_most(values: Sequence[float] | NDArray[np.float64], samples: int) -> float:
    """Return what the mean of so many values will hardly exceed, of which the first ``(n,)`` are given; infinity
    for fewer than two.
    """
    from scipy.stats import t

    array = np.asarray(values, dtype=np.float64)
    n = len(array)
    if n < 2:
        return math.inf
    spread = float(array.std(ddof=1)) * math.sqrt(1.0 / n - 1.0 / samples)
    return float(array.mean()) + spread * float(t.ppf(1.0 - DOUBT, n - 1))


def at_least(values: Sequence[float] | NDArray[np.float64], samples: int) -> float:
    """Return what the mean of so many values will hardly stay below; see `at_most`."""
    return -at_most(-np.asarray(values, dtype=np.float64), samples)
