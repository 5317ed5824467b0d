"""The predictor of all three papers: backward differences of recorded features in a Taylor sum, as weights on
the features.

The published recurrence (TaylorSeer, arXiv 2503.06923, and its released code), carried out at every computed
step with fresh feature F at distance d from the computed step before:

    D_0 <- F,    D_{i+1} <- (new D_i - old D_i) / d

and the forecast at distance x is sum_i D_i x^i / i!. Where the sources disagree:

- *Spacing.* The paper assumes a constant interval. The code divides every order by the latest gap, whatever
  the gaps before were; a divided difference would take each order's own span. We do as the code does: policy
  results are compared with it, and at constant spacing the two are one.
- *Exactness.* Backward differences are not derivatives at the anchor, so the sum is exact to degree 1 only,
  whatever the order. For f = k^2 at interval N the order-2 forecast at offset x is off by -N x. Newton's form
  is exact; on small trained models it was not better. We keep the published sum and declare degree 1.
- *Ramp-up.* The code stores order 0 only until the last warm-up step but one: differences grow where k > W -
  2. We keep that.

The axis. The papers measure distances in steps, so that a forecast depends on how a scheduler spaces them.
Solvers extrapolate in lambda = log(alpha / sigma) (DPM-Solver++, arXiv 2211.01095). ``axis="log_snr"`` puts
distances in lambda into the same sum. Newton's form was worse there too.
"""

from __future__ import annotations

import functools
import math
from typing import Annotated, ClassVar, Literal

import attrs

from foreseer.errors import OptionError
from foreseer.hookspecs import hookimpl
from foreseer.options import at_least, checked
from foreseer.policies.predictors import LinearPredictor
from foreseer.types import Drafts, History, Needs, Run, Site, Step, Weights

__all__ = ["AlongLogSnr", "taylor", "taylor_weights"]


@functools.lru_cache(maxsize=32768)  # planning 50 steps with three anchors asks for 20,000 of them, each a dozen times
def _from_offsets(offsets: tuple[float, ...], x: float, order: int) -> tuple[float, ...]:
    # differences[j][i]: weight of feature i in the difference, of the order reached so far, that was stored
    # at anchor j.
    differences = [[float(i == j) for i in range(order + 1)] for j in range(order + 1)]
    weights = list(differences[0])
    for i in range(1, order + 1):
        differences = [
            [(new - old) / (offsets[j + 1] - offsets[j]) for new, old in zip(differences[j], differences[j + 1], strict=True)] for j in range(order + 1 - i)
        ]
        scale = x**i / math.factorial(i)
        weights = [w + scale * d for w, d in zip(weights, differences[0], strict=True)]
    return tuple(weights)


def _order(anchors: tuple[float, ...], most: int, warmup_steps: int) -> int:
    """The order that the ramp-up rule allows."""
    order = 0
    while order < most and order + 1 < len(anchors) and anchors[order] > warmup_steps - 2:
        order += 1
    return order


def taylor_weights(anchors: tuple[float, ...], target: float, *, max_order: int, warmup_steps: int = 1) -> tuple[float, ...]:
    """Weights of the recorded features in TaylorSeer's forecast, in float64.

    Args:
        anchors: Step indices of the computed steps, newest first, strictly falling; at least one.
        target: Step index to forecast.
        max_order: Highest order of difference, >= 0.
        warmup_steps: W of the ramp-up rule; differences grow at anchors k > W - 2 only.

    Returns:
        One weight per anchor used, newest first. They sum to 1.

    >>> taylor_weights((4.0, 0.0), 6.0, max_order=1)
    (1.5, -0.5)
    """
    order = _order(anchors, max_order, warmup_steps)
    newest = anchors[0]
    return _from_offsets(tuple([newest - a for a in anchors[: order + 1]]), target - newest, order)


@attrs.define(eq=False)
class AlongLogSnr:
    """Predictor: TaylorSeer's sum with distances in log(alpha / sigma) in the place of steps.

    An anchor of noise alone, where that is -inf, is infinitely far away: it and those behind it say nothing
    of the slope, and are not used. Of two evaluations at one noise level (Heun's method) the newer counts.

    Attributes:
        max_order: As in `taylor_weights`.
        warmup_steps: Likewise.
        exact_degree: Of polynomials in the step index only constants are exact. Those in log(alpha / sigma)
            are to degree 1, as everywhere in this sum.
        linear: A forecast is linear in the features.
    """

    linear: ClassVar[bool] = True
    exact_degree: ClassVar[int] = 0
    max_order: int
    warmup_steps: int
    _levels: tuple[float, ...] = attrs.field(default=(), init=False, repr=False)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Keep one feature more than the order. Raises `OptionError` where noise levels are not known."""
        if run.log_snr is None:
            raise OptionError(
                "axis='log_snr' of taylor must know how much noise there is, and nobody said: give the run log_snr=, "
                "or write axis=step; pipelines say it for the schedulers of diffusers, recordings do not keep it"
            )
        self._levels = run.log_snr
        return Needs(anchors=self.max_order + 1)

    @hookimpl
    def predict_features(self, step: Step, sites: tuple[Site, ...], history: History) -> Drafts | None:
        """One set of weights per row serves every site. None behind the steps whose noise level is known."""
        if step.index >= len(self._levels):
            return None
        return dict.fromkeys(sites, Weights.per_row(self._weights, history.anchors, step.index))

    def _weights(self, anchors: tuple[float, ...], target: float) -> tuple[float, ...]:
        used = anchors[: _order(anchors, self.max_order, self.warmup_steps) + 1]
        newest, ahead = self._levels[int(anchors[0])], self._levels[int(target)]
        if not math.isfinite(newest) or not math.isfinite(ahead):
            return (1.0,)
        places: dict[float, int] = {}  # distance from the newest, and which anchor
        for number, anchor in enumerate(used):
            if not math.isfinite(level := self._levels[int(anchor)]):
                break
            places.setdefault(newest - level, number)
        weights = [0.0] * len(used)
        for number, weight in zip(places.values(), _from_offsets(tuple(places), ahead - newest, len(places) - 1), strict=True):
            weights[number] = weight
        return tuple(weights)


@checked
def taylor(
    *,
    max_order: Annotated[int, at_least(0)] = 1,
    warmup_steps: Annotated[int, at_least(0)] = 1,
    axis: Literal["step", "log_snr"] = "step",
) -> LinearPredictor | AlongLogSnr:
    """Predictor: Taylor sum of backward differences (TaylorSeer, arXiv 2503.06923).

    Args:
        max_order: Highest order of difference, O. Order 0 is reuse, order 1 a line through the last two
            computed features.
        warmup_steps: Warm-up of the schedule that it works with, W (released code: only order 0 is stored
            before the last warm-up step).
        axis: What distances are measured in. ``"step"``: steps, as published. ``"log_snr"``: log(alpha /
            sigma), the axis of DPM-Solver++ (arXiv 2211.01095); the run must know its noise levels.
    """
    if axis == "log_snr":
        return AlongLogSnr(max_order, warmup_steps)
    return LinearPredictor(functools.partial(taylor_weights, max_order=max_order, warmup_steps=warmup_steps), max_order, exact_degree=min(max_order, 1))
