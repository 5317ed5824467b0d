"""Compute where two forecasts of one feature begin to disagree: an error estimate from an embedded pair, as
solvers of differential equations have it. No probe, no block, nothing to calibrate.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.errors import OptionError
from foreseer.hookspecs import hookimpl
from foreseer.options import Range, at_least, at_least_float, checked, cites
from foreseer.outcome import Outcome
from foreseer.policies._taylor import taylor_weights
from foreseer.policies.drafting import Whole, draft_needs
from foreseer.policies.predictors import LinearPredictor
from foreseer.types import Needs, Plan, Run, Site, Step

__all__ = ["AgreementSchedule", "agreement"]


@attrs.define(eq=False, kw_only=True)
class AgreementSchedule:
    """Schedule: behind a computed step, forecast as long as the disagreements of the two forecasts, summed up
    since then, stay within a tolerance.

    At a computed step the inner products of what is kept say how far apart the two forecasts will be in every
    step to come, so that the gap is decided there: nothing is looked at in a forecast step.

    Attributes:
        tolerance: Most that the sum may be; ignored where ``steps`` is given.
        steps: Computed steps in all; None leaves it to the tolerance.
        low, high: Orders of the two forecasts. The higher is used.
        warmup_steps: Computed steps at the start.
        max_draft_steps: Most forecasts in a row; None for no limit.
        decide: Each sample by its own sum, or all rows by one.
        target: What is forecast.
        sensitivities: Weights of the disagreement in each step, stretched to the run; empty for equal ones.
    """

    tolerance: float
    steps: int | None
    low: int
    high: int
    warmup_steps: int
    max_draft_steps: int | None
    decide: Literal["row", "batch"]
    target: Whole
    sensitivities: tuple[float, ...] = ()
    _run: Run = attrs.field(init=False, repr=False)
    _site: Site = attrs.field(init=False, repr=False)
    _rows: list[_Row] = attrs.field(factory=list, init=False, repr=False)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record what is forecast, and ask for its inner products."""
        if run.num_steps is None:
            raise OptionError("agreement computes the last step and must know which it is: give the run timesteps= or num_steps=")
        self._run, needs = run, draft_needs(run, self.target)
        self._site = needs.sites[0]
        groups = run.groups if self.decide == "row" else (0,) * run.rows
        shared: dict[int, _Row] = {}
        self._rows = [shared.setdefault(group, _Row([row for row, other in enumerate(groups) if other == group])) for group in groups]
        return Needs(needs.sites, self.high + 1, needs.note, products=True)

    @property
    def _last(self) -> int:
        assert self._run.num_steps is not None
        return self._run.num_steps - 1

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Compute the rows whose gap is over."""
        if step.index < self.warmup_steps:
            return Plan(reason="warm-up")
        if step.index == self._last:
            return Plan(reason="last step")
        due = tuple(step.index >= row.due for row in self._rows)
        return Plan(reason="the forecasts would disagree") if all(due) else Plan(forecast=(self._site,), compute=due)

    @hookimpl
    def commit(self, step: Step, outcome: Outcome) -> None:
        """Decide the gap of the samples that were computed."""
        table = outcome.products.get(self._site)
        for first, row in {id(row): (row.members[0], row) for row in self._rows}.values():
            if outcome.computed[first] and table is not None:
                row.anchors = (float(step.index), *row.anchors[: self.high])
                row.computed += 1
                row.due = step.index + self._gap(step.index, row, table[row.members].sum(0))

    def _gap(self, index: int, row: _Row, gram: NDArray[np.float64]) -> int:
        """Return how many steps on the next is computed."""
        most = self._last - index
        if self.max_draft_steps is not None:
            most = min(most, self.max_draft_steps + 1)
        if most <= 1 or index < self.warmup_steps - 1:
            return 1
        sums = self._sums(index, row.anchors, gram, most)
        if self.steps is None:
            return 1 + _within(sums, self.tolerance)
        left = self.steps - row.computed  # the last step included
        if left <= 1:
            return most
        first = next(sums)
        even, pace = (self._last - index) / left, math.sqrt(first) / _rise(index / self._last)
        row.pace = pace if row.pace is None else (1 - PULL) * row.pace + PULL * pace
        allowed = (row.pace * sum(_rise(k / self._last) for k in range(index, self._last)) / left) ** 2 / 2
        gap = min(max(1 + _within(itertools.chain((first,), sums), allowed), math.ceil(even / UNEVEN - 0.5)), math.floor(even * UNEVEN + 0.5))
        return max(1, min(gap, most, self._last - index - left + 1))

    def _sums(self, index: int, anchors: tuple[float, ...], gram: NDArray[np.float64], most: int) -> Iterator[float]:
        """Work out the sums of disagreements up to each of the next ``most - 1`` steps; they rise."""
        total = 0.0
        for target in range(index + 1, index + most):
            low, high = np.zeros(len(gram)), np.zeros(len(gram))
            for weights, order in ((low, self.low), (high, self.high)):
                made = taylor_weights(anchors, float(target), max_order=order)
                weights[: len(made)] = made
            apart, size = float((high - low) @ gram @ (high - low)), float(high @ gram @ high)
            total += math.sqrt(max(apart, 0.0) / size) * self._sensitivity(target) if size > 0 else math.inf  # what is not finite is computed
            yield total

    def _sensitivity(self, step: int) -> float:
        given = self.sensitivities
        return given[round(step * (len(given) - 1) / max(self._last, 1))] if given else 1.0


UNEVEN = 1.6
"""How many times longer or shorter than even steps a gap may be, where their number is given: what is expected
of the rest is a guess.
"""
PULL = 0.3
"""How much each computed step moves what is expected of the rest."""


def _within(sums: Iterable[float], most: float) -> int:
    """Return how many of rising sums are at most so much; what lies behind them is not worked out."""
    return sum(1 for _ in itertools.takewhile(lambda each: each <= most, sums))


def _rise(progress: float) -> float:
    """How the square root of the disagreement one step ahead rises along a run, in the mean of three models
    (``docs/design.md``): flat at first, three times as much at the end.
    """
    return 1 + 2 * progress**6


@attrs.define(eq=False)
class _Row:
    """The rows that decide together.

    Attributes:
        members: Which.
        anchors: Their computed steps, newest first.
        due: The step that is computed next.
        computed: How many were.
        pace: Square root of the disagreement one step ahead, less its usual rise, as it was found so far.
            Disagreements grow as the gap does, so that gaps under one tolerance have lengths like its inverse.
    """

    members: Sequence[int]
    anchors: tuple[float, ...] = ()
    due: int = 0
    computed: int = 0
    pace: float | None = None


def _weights(anchors: tuple[float, ...], target: float, *, max_order: int) -> tuple[float, ...]:
    return taylor_weights(anchors, target, max_order=max_order)


@cites(
    """@book{hairer1993solving,
  title={Solving Ordinary Differential Equations I: Nonstiff Problems}, author={Hairer, Ernst and N{\\o}rsett, Syvert
  P. and Wanner, Gerhard}, publisher={Springer}, year={1993}, note={Section II.4, embedded formulas}}
@article{racer2026,
  title={RACER}, journal={arXiv preprint arXiv:2608.01740}, year={2026},
  note={judges forecasts by the disagreement of two of them, too}}"""
)
@checked
def agreement(
    *,
    tolerance: Annotated[float, at_least_float(0.0)] = 0.1,
    steps: Annotated[int | None, at_least(2)] = None,
    low_order: Annotated[int, at_least(0)] = 0,
    max_order: Annotated[int, at_least(1)] = 1,
    warmup_steps: Annotated[int, Range(int, 1)] = 3,
    max_draft_steps: Annotated[int | None, at_least(0)] = None,
    decide: Literal["row", "batch"] = "row",
    target: Whole = "residual",
    sensitivities: Sequence[float] = (),
) -> tuple[AgreementSchedule, LinearPredictor]:
    """Forecast while two forecasts of the feature agree; no probe, nothing to calibrate (ours).

    With F0 and F1 the forecasts of ``low_order`` and ``max_order``, e_k = ||F1 - F0|| / ||F1|| is what the
    higher order changes at step k, as embedded pairs of Runge-Kutta formulas estimate their error (Hairer,
    Norsett, Wanner, section II.4). A row is forecast by F1 as long as the sum of e_k since its last computed
    step is at most ``tolerance``. The first ``warmup_steps`` steps and the last are computed. Both forecasts
    are linear in what is recorded, so that all e_k follow from one small matrix of inner products at each
    computed step: a forecast step costs no block and no wait for the device.

    Args:
        tolerance: Most that the disagreements may come to between two computed steps. 0 computes everything.
        steps: Computed steps in all, for each sample, instead of a tolerance: the tolerance is then moved so
            that the run ends with so many. None takes the tolerance.
        low_order: Order of the forecast that is only compared.
        max_order: Order of the forecast that is used, above ``low_order``.
        warmup_steps: Computed steps at the start; one less than ``steps`` at most.
        max_draft_steps: Most forecasts in a row; None for no limit.
        decide: ``"row"``: each sample by its own sum. ``"batch"``: all rows by one sum.
        target: What is forecast, see `taylorseer`.
        sensitivities: Weights of e_k along the run, for example those that a trace has measured
            (``foreseer.workbench``): any number >= 2 of them, stretched to the run's steps. Empty for equal
            ones.
    """
    if max_order <= low_order:
        raise OptionError(f"agreement: max_order={max_order} is not above low_order={low_order}; write a higher one")
    given = tuple(float(value) for value in sensitivities)
    if len(given) == 1 or any(not math.isfinite(value) or value < 0 for value in given):
        raise OptionError(f"agreement: sensitivities={given} are none; write at least two finite numbers >= 0, or none at all")
    schedule = AgreementSchedule(
        tolerance=tolerance,
        steps=steps,
        low=low_order,
        high=max_order,
        warmup_steps=warmup_steps if steps is None else min(warmup_steps, steps - 1),
        max_draft_steps=max_draft_steps,
        decide=decide,
        target=target,
        sensitivities=given,
    )
    return schedule, LinearPredictor(functools.partial(_weights, max_order=max_order), max_order, exact_degree=max_order)
