"""Comparing lanes sample by sample, also where their costs differ: the other's figures are interpolated at
equal cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import numpy as np

from foreseer.bench.results import LaneResult, Results
from foreseer.bench.summary import mean_of, paired_psnr, standard_errors

__all__ = ["Gain", "gain", "gain_at_equal_cost", "sweep_of"]

NOTHING = 0.01
"""A gain below this is none, dB, however sure it is: two ways to the same sample differ by rounding."""


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
    """

    lane: str
    over: tuple[str, ...]
    cost: float
    mean: float
    worst: float
    error: float
    share: float
    samples: int

    @property
    def clear(self) -> bool:
        """Whether it is beyond noise either way, as `standard_errors` has it, and more than nothing."""
        return abs(self.mean) > NOTHING and abs(self.mean) > standard_errors(self.samples) * self.error


def gain(results: Results, lane: LaneResult, other: LaneResult) -> Gain | None:
    """Return the gain of a lane over another; None where they have no finished sample in common."""
    return _gain(results, lane, [(other, 1.0)])


def gain_at_equal_cost(results: Results, lane: LaneResult, others: Sequence[LaneResult]) -> Gain | None:
    """Return the gain of a lane over what others reach at its block-rows.

    Of others that cost the same the best counts. Between two costs each sample's PSNR is interpolated
    linearly; None outside of them: nothing is extrapolated.
    """
    cost = results.cost(lane)
    best: dict[float, LaneResult] = {}
    for other in others:
        at = round(results.cost(other), 6)
        if math.isfinite(at) and (at not in best or mean_of(other, "psnr") > mean_of(best[at], "psnr")):
            best[at] = other
    below, above = (max((c for c in best if c <= cost), default=None), min((c for c in best if c >= cost), default=None))
    if below is None or above is None:
        return None
    share = 0.0 if above == below else (cost - below) / (above - below)
    return _gain(results, lane, [(best[below], 1 - share), (best[above], share)] if share else [(best[below], 1.0)])


def sweep_of(lane: LaneResult) -> str:
    """Return what a lane is one setting of: its method, of a peer with the calibrator or mode that makes
    another method of it.
    """
    kinds = ("calibrator", "mode") if lane.kind == "peer" else ()
    return ", ".join([lane.method, *(str(lane.options[key]) for key in kinds if lane.options.get(key, "none") not in ("none", "default"))])


def _gain(results: Results, lane: LaneResult, others: Sequence[tuple[LaneResult, float]]) -> Gain | None:
    ours, *theirs = paired_psnr(lane, *(other for other, _ in others))
    beside = sum((weight * values for values, (_, weight) in zip(theirs, others, strict=True)), np.zeros(len(ours)))
    if not len(ours):
        return None
    differences = ours - beside
    return Gain(
        lane=lane.name,
        over=tuple(other.name for other, _ in others),
        cost=results.cost(lane),
        mean=float(differences.mean()),
        worst=float(ours.min() - beside.min()),
        error=float(differences.std(ddof=1) / math.sqrt(len(differences))) if len(differences) > 1 else math.inf,
        share=float((differences > 0).mean()),
        samples=len(differences),
    )
