"""RACER (arXiv 2608.01740): two forecasts that disagree are a risk. A risky step is computed ahead of its time,
and a planned one is dropped for it.

What is known of the paper is its idea; its constants and rules were not recovered. Here, with A and B the Taylor
forecasts of order n and n - 1, both linear in the kept features, so that all of it follows from their inner
products:

- the risk of a step to come is ||A - B|| / ||A||;
- where it passes a limit between one planned step and the next, the first such step is computed, and the
  planned one behind it is dropped: one step is computed in each interval, as planned;
- the forecast is shrunk towards the last computed feature F: F + s (A - F), s = ||A - F||^2 / (||A - F||^2 + ||A
  - B||^2), a Wiener filter that takes the disagreement for noise.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.hookspecs import hookimpl
from foreseer.options import at_least, at_least_float, checked, cites
from foreseer.outcome import Outcome
from foreseer.policies import draft_needs, taylor_weights
from foreseer.policies.drafting import Target
from foreseer.types import Drafts, History, Needs, Plan, Run, Site, Step, Weights
from foreseer_methods.due_steps import DueSteps
from foreseer_methods.pooled_products import pooled_products

__all__ = ["Racer", "racer"]


@attrs.define(eq=False)
class Racer:
    """Schedule and predictor: planned steps at a fixed interval, moved forward where two forecasts disagree.

    Attributes:
        interval: Planned steps from one computed step to the next, N.
        risk: Relative disagreement above which a step is computed ahead of its time.
        max_order: Order of the forecast, n; it is held against order n - 1.
        warmup_steps: Computed steps at the start, W.
        shrink: Whether to shrink the forecast towards the last computed feature.
        target: What is forecast.
        decide: Whether each sample is by itself, or all rows are together.
        max_draft_steps: Most forecasts in a row: from the first step of one interval to the last of the next.
    """

    interval: int
    risk: float
    max_order: int
    warmup_steps: int
    shrink: bool
    target: Target
    decide: Literal["row", "batch"]
    _sites: tuple[Site, ...] = attrs.field(default=(), init=False, repr=False)
    _groups: tuple[int, ...] = attrs.field(default=(), init=False, repr=False)
    _due: DueSteps = attrs.field(factory=lambda: DueSteps(0), init=False, repr=False)
    _planned: list[int] = attrs.field(factory=list, init=False, repr=False)
    _anchors: list[tuple[float, ...]] = attrs.field(factory=list, init=False, repr=False)
    _products: list[NDArray[np.float64]] = attrs.field(factory=list, init=False, repr=False)

    @property
    def max_draft_steps(self) -> int:
        """From the first step of one interval to the last of the next."""
        return 2 * self.interval - 2

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Keep what both forecasts need."""
        needs, kept = draft_needs(run, self.target), self.max_order + 1
        self._sites, self._due, self._planned = needs.sites, DueSteps(run.rows), [0] * run.rows
        self._groups = run.groups if self.decide == "row" else (0,) * run.rows
        self._anchors, self._products = [()] * run.rows, [np.zeros((kept, kept))] * run.rows
        return attrs.evolve(needs, anchors=kept, products=True)

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Compute what is due."""
        return self._due.plan(step, self._sites, "warm-up" if step.index < self.warmup_steps else "planned, or at risk")

    @hookimpl
    def predict_features(self, step: Step, sites: tuple[Site, ...], history: History) -> Drafts:
        """The forecast of the higher order, shrunk."""
        values = np.zeros(history.anchors.shape)
        for row, (anchors, products) in enumerate(zip(history.anchors.tolist(), self._products, strict=True)):
            higher, moved, apart, _ = self._judge(tuple(a for a in anchors if a == a), products, step.index)
            share = moved / (moved + apart) if self.shrink and moved + apart > 0 else 1.0
            higher[1:] *= share
            higher[0] = 1 - higher[1:].sum()
            values[row, : len(higher)] = higher
        return dict.fromkeys(sites, Weights(values))

    @hookimpl
    def commit(self, outcome: Outcome) -> None:
        """Look ahead to the next planned step."""
        if not any(outcome.computed) or not outcome.products:
            return
        index = outcome.step.index
        pooled = pooled_products(outcome.products, self._groups)

        def gap(row: int) -> int:
            self._anchors[row] = (float(index), *self._anchors[row])[: self.max_order + 1]
            self._products[row] = pooled[row]
            if index < self.warmup_steps - 1:
                return 1
            first = self.warmup_steps - 1
            planned = self._planned[row] = max(self._planned[row], first - (first - index) // self.interval * self.interval)
            ahead = range(max(index, planned) + 1, planned + self.interval)
            risky = (step for step in ahead if not self._judge(self._anchors[row], pooled[row], step)[3] <= self.risk)
            return next(risky, planned + self.interval) - index

        self._due.commit(outcome, gap)

    def _judge(self, anchors: tuple[float, ...], products: NDArray[np.float64], step: int) -> tuple[NDArray[np.float64], float, float, float]:
        """Return the weights of the higher order, how far it moves from the last feature and from the lower
        order (both squared), and the risk.
        """
        kept, (higher, lower) = len(products), (np.zeros(len(products)), np.zeros(len(products)))
        for weights, order in ((higher, self.max_order), (lower, self.max_order - 1)):
            given = taylor_weights(anchors[:kept], step, max_order=order)
            weights[: len(given)] = given

        def squared(weights: NDArray[np.float64]) -> float:
            return max(float(weights @ products @ weights), 0.0)

        apart, size = squared(higher - lower), squared(higher)
        return higher, squared(higher - np.eye(kept)[0]), apart, math.sqrt(apart / size) if size > 0 else math.nan


@cites(
    """@article{racer2026,
  title={RACER},
  journal={arXiv preprint arXiv:2608.01740}, year={2026}}"""
)
@checked
def racer(
    *,
    interval: Annotated[int, at_least(1)] = 4,
    risk: Annotated[float, at_least_float(0.0)] = 0.1,
    max_order: Annotated[int, at_least(1)] = 2,
    warmup_steps: Annotated[int, at_least(1)] = 3,
    shrink: bool = True,
    target: Target = "last_block",
    decide: Literal["row", "batch"] = "row",
) -> Racer:
    """Compute at an interval, but ahead of time where two forecasts disagree (after RACER, arXiv 2608.01740).

    As many steps are computed as were planned, or one more, where the run ends within an interval.
    The idea is the paper's; the rules in detail, and all defaults, are ours. No probe, and no look at a tensor:
    inner products of what is kept say how far the forecasts are apart.

    Args:
        interval: Planned steps from one computed step to the next.
        risk: Compute ahead where ||A - B|| / ||A|| is above this, A and B the forecasts of order ``max_order``
            and one less. inf keeps the plan; 0 takes the first step of each interval.
        max_order: Order of the forecast.
        warmup_steps: Computed steps at the start.
        shrink: Shrink the forecast towards the last computed feature by how much the two disagree.
        target: What is forecast.
        decide: ``"row"``: each sample by itself. ``"batch"``: all rows together.
    """
    return Racer(interval, risk, max_order, warmup_steps, shrink, target, decide)
