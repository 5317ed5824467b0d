"""What the lanes of a benchmark amount to: means and worst samples, costs over those of full computation, and
the gain over fewer steps; and lanes beside each other sample by sample, also where their costs differ. What
counts as noise is said here, for all who compare.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.bench.figures import FIGURES, Figure
from foreseer.bench.lanes import as_many
from foreseer.bench.results import LaneResult, Results
from foreseer.psnr import counted_psnr

__all__ = [
    "LEVEL",
    "Gain",
    "Line",
    "counted",
    "gain",
    "gain_at_equal_cost",
    "lines_of",
    "mean_of",
    "nearest_plain",
    "paired_psnr",
    "standard_errors",
    "sweep_of",
    "worst_of",
]

NOTHING = 0.01
"""A gain below this is none, dB, however sure it is: two ways to the same sample differ by rounding."""

LEVEL = 0.0027
"""How often noise alone may pass for a difference, either way: what lies outside of three standard deviations
of a normal distribution.
"""


def counted(figure: str, values: Sequence[float], *, figures: Mapping[str, Figure] = FIGURES) -> NDArray[np.float64]:
    """Return a figure's values as means, worst samples and differences take them.

    Those in dB are counted as `foreseer.psnr.counted_psnr` says; others as they are, NaN where one does
    not exist. What figures there are is said by `Results.figures`.
    """
    decibels = figure in figures and figures[figure].unit == "dB"
    return counted_psnr(values) if decibels else np.asarray(values, dtype=np.float64)


def paired_psnr(*lanes: LaneResult, figure: str = "psnr") -> NDArray[np.float64]:
    """Return ``(lanes, n)`` PSNRs in dB, as they are counted, of the n samples that all lanes have; ``"truth"``:
    to the converged reference.
    """
    found = [dict(zip(lane.indices, counted(figure, lane.values(figure)), strict=True)) for lane in lanes]
    common = sorted(set(found[0]).intersection(*found[1:]))
    return np.array([[values[i] for i in common] for values in found], dtype=np.float64)


def mean_of(lane: LaneResult, figure: str, *, figures: Mapping[str, Figure] = FIGURES) -> float:
    """Return a figure's mean over the samples, as counted; NaN for none, or where one does not exist."""
    values = counted(figure, lane.values(figure), figures=figures)
    return float(values.mean()) if lane.has(figure) else math.nan


def worst_of(lane: LaneResult, figure: str, *, figures: Mapping[str, Figure] = FIGURES) -> float:
    """Return a figure of the worst sample, as counted; NaN for none, or where one does not exist."""
    values = counted(figure, lane.values(figure), figures=figures)
    if not lane.has(figure):
        return math.nan
    return float(values.min() if figures[figure].higher_is_better else values.max())


@attrs.frozen(kw_only=True)
class Line:
    """A line of the table.

    Attributes:
        lane: What was measured.
        steps: Mean of the computed steps; NaN where nothing was finished, as in the other numbers.
        cost: Block-rows over those of full computation.
        flops: FLOPs over those of full computation, on the first batch.
        speedup: Median of the paired ratios of time; NaN where there are none, or where it is more than the
            saved work allows, see `foreseer.bench.clock.possible`.
        quartiles: Lower and upper quartile of them.
        peak_bytes: Most bytes alive at once, first batch.
        bytes_held: Most bytes that recorded features occupied in a batch; of a peer what was still alive when
            the first batch was drawn.
        means, worst: By figure, see `mean_of` and `worst_of`; infinite where that of every sample is, so that
            all are the same as full computation, which tables and pictures say in words. What was asked for
            by name is always there, NaN where the lane has none.
        warnings: What the runs warned of, each once.
        broken: How many samples are not finite; their PSNR counts as 0 dB.
        frechet: Distance to the data; NaN where there is none.
        fewer: Name of the lane of plain sampling with as many steps that is nearest to full computation, of all
            solvers that were drawn; empty where there is none.
        gain: Mean PSNR less that of ``fewer``, dB; NaN where there is none.
        solver: Name of the lane of plain sampling with as many steps that is nearest to the converged reference;
            empty where there is none.
        truth_gain: Mean PSNR to the reference less that of ``solver``, dB; NaN where there is none.
    """

    lane: LaneResult
    steps: float
    cost: float
    flops: float
    speedup: float
    quartiles: tuple[float, float]
    peak_bytes: float
    bytes_held: int
    means: dict[str, float]
    worst: dict[str, float]
    frechet: float
    warnings: list[str] = attrs.field(factory=list)
    broken: int = 0
    fewer: str = ""
    gain: float = math.nan
    solver: str = ""
    truth_gain: float = math.nan


def lines_of(results: Results, batch: int) -> list[Line]:
    """Return the table of one batch size: full computation, policies and peers as they were given, then fewer
    steps by their number.
    """
    lanes = [lane for lane in results.lanes if lane.batch == batch]
    fewer = [lane for lane in lanes if lane.kind == "fewer" and lane.units]
    ordered = [lane for lane in lanes if lane.kind != "fewer"] + sorted(fewer, key=lambda lane: lane.num_steps)
    return [_line(results, lane, fewer) for lane in ordered]


def nearest_plain(lanes: Sequence[LaneResult], count: int, figure: str = "psnr") -> LaneResult | None:
    """Return the lane of plain sampling with so many steps whose mean figure is best, of whatever solver; None
    where there is none.
    """
    able = [lane for lane in lanes if lane.kind == "fewer" and lane.num_steps == count and lane.has(figure)]
    return max(able, key=lambda lane: mean_of(lane, figure), default=None)


def _line(results: Results, lane: LaneResult, fewer: Sequence[LaneResult]) -> Line:
    counted, full = lane.counted, results.full(lane.batch).counted
    every = results.figures
    figures = [figure for figure in every if lane.has(figure) or figure in results.measures]
    same = {figure for figure in figures if lane.has(figure) and all(map(math.isinf, lane.values(figure)))}
    means = {figure: math.inf if figure in same else mean_of(lane, figure, figures=every) for figure in figures}
    worst = {figure: math.inf if figure in same else worst_of(lane, figure, figures=every) for figure in figures}
    steps = float(np.mean(lane.steps)) if lane.steps else math.nan
    beside, nearest = (
        nearest_plain(fewer, as_many(steps), figure) if lane.kind not in ("full", "fewer") and lane.steps else None for figure in ("psnr", "truth")
    )
    over = gain(results, lane, beside) if beside else None
    nearer = gain(results, lane, nearest, figure="truth") if nearest else None
    quartiles = np.percentile(lane.ratios, [25, 75]) if lane.ratios else [math.nan, math.nan]
    return Line(
        lane=lane,
        steps=steps,
        cost=results.cost(lane),
        flops=counted.flops / full.flops if counted and full and full.flops else math.nan,
        speedup=results.speedup(lane),
        quartiles=(float(quartiles[0]), float(quartiles[1])),
        peak_bytes=counted.peak_bytes if counted else math.nan,
        bytes_held=(counted.held_bytes if counted else 0) if lane.kind == "peer" else max((unit.bytes_held for unit in lane.units), default=0),
        means=means,
        worst=worst,
        warnings=list(dict.fromkeys(warning for unit in lane.units for warning in unit.said)),
        broken=sum(map(math.isnan, lane.values("psnr"))),
        frechet=math.nan if lane.frechet is None else lane.frechet,
        fewer=beside.name if beside else "",
        gain=over.mean if over else math.nan,
        solver=nearest.name if nearest else "",
        truth_gain=nearer.mean if nearer else math.nan,
    )


@functools.cache
def standard_errors(samples: int, *, comparisons: int = 1) -> float:
    """Return how many of its standard errors a mean of so many differences must exceed to be beyond noise.

    Student's t: 3.1 of 64 samples, 4.5 of 8, 9.2 of 4. Infinite for a single one, whose spread nobody knows.

    Args:
        samples: How many differences.
        comparisons: Of how many such means the largest was taken: noise alone passes in any of them as seldom
            as it does in one (Bonferroni).
    """
    if samples < 2:
        return math.inf
    from scipy.stats import t

    return float(t.isf(LEVEL / 2 / comparisons, samples - 1))


@attrs.frozen(kw_only=True)
class Gain:
    """How much better a lane is than another, in PSNR of the same samples.

    Attributes:
        lane, over: Their names; of an interpolation, both its ends.
        cost: Block-rows of the lane over those of full computation.
        mean: Mean of the paired differences, dB.
        worst: Worst sample less the other's worst sample, dB.
        error: Standard error of the mean.
        share: Share of the samples that are better.
        samples: How many pairs there are.
        differences: ``(samples,)`` the differences, dB, in the order of the samples.
    """

    lane: str
    over: tuple[str, ...]
    cost: float
    mean: float
    worst: float
    error: float
    share: float
    samples: int
    differences: tuple[float, ...] = attrs.field(repr=False)

    @classmethod
    def of(cls, *, lane: str, over: tuple[str, ...], cost: float, ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Gain:
        """Return the gain of PSNRs over others of the same samples, ``(samples,)`` dB, as they are counted."""
        apart = ours - theirs
        return cls(
            lane=lane,
            over=over,
            cost=cost,
            mean=float(apart.mean()),
            worst=float(ours.min() - theirs.min()),
            error=float(apart.std(ddof=1) / math.sqrt(len(apart))) if len(apart) > 1 else math.inf,
            share=float((apart > 0).mean()),
            samples=len(apart),
            differences=tuple(apart.tolist()),
        )

    @property
    def clear(self) -> bool:
        """Whether it is beyond noise either way, as `standard_errors` has it, and more than nothing."""
        return abs(self.mean) > NOTHING and abs(self.mean) > standard_errors(self.samples) * self.error


def gain(results: Results, lane: LaneResult, other: LaneResult, *, figure: str = "psnr") -> Gain | None:
    """Return the gain of a lane over another; None where they have no finished sample in common."""
    return _gain(results, lane, [(other, 1.0)], figure)


def gain_at_equal_cost(results: Results, lane: LaneResult, others: Sequence[LaneResult], *, figure: str = "psnr") -> Gain | None:
    """Return the gain of a lane over what others reach at its block-rows.

    Of others that cost the same the best counts, by the ``figure``: ``"psnr"`` or ``"truth"``. Between two
    costs each sample's PSNR is interpolated linearly; None outside of them: nothing is extrapolated.
    """
    cost = results.cost(lane)
    best: dict[float, LaneResult] = {}
    for other in others:
        at = round(results.cost(other), 6)
        if math.isfinite(at) and (at not in best or mean_of(other, figure) > mean_of(best[at], figure)):
            best[at] = other
    below, above = (max((c for c in best if c <= cost), default=None), min((c for c in best if c >= cost), default=None))
    if below is None or above is None:
        return None
    share = 0.0 if above == below else (cost - below) / (above - below)
    return _gain(results, lane, [(best[below], 1 - share), (best[above], share)] if share else [(best[below], 1.0)], figure)


def sweep_of(lane: LaneResult) -> str:
    """Return what a lane is one setting of: its method, of a peer with the calibrator or mode that makes
    another method of it, and the solver that it is on.
    """
    kinds = ("calibrator", "mode") if lane.kind == "peer" else ()
    method = f"{lane.method} on {lane.solver}, {lane.num_steps} steps" if lane.method and lane.solver else lane.method
    return ", ".join([method, *(str(lane.options[key]) for key in kinds if lane.options.get(key, "none") not in ("none", "default"))])


def _gain(results: Results, lane: LaneResult, others: Sequence[tuple[LaneResult, float]], figure: str) -> Gain | None:
    ours, *theirs = paired_psnr(lane, *(other for other, _ in others), figure=figure)
    beside = sum((weight * values for values, (_, weight) in zip(theirs, others, strict=True)), np.zeros(len(ours)))
    if not len(ours):
        return None
    return Gain.of(lane=lane.name, over=tuple(other.name for other, _ in others), cost=results.cost(lane), ours=ours, theirs=beside)
