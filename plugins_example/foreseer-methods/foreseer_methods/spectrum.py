"""Spectrum (arXiv 2603.01623): Chebyshev polynomials of the step, fitted by ridge regression to all that was
computed; and gaps that grow by a constant.

With t(j) = 2 j / T - 1, X the matrix of T_0(t) to T_M(t) at the computed steps and x that row at the step to
forecast, the weights of the computed features are x (X'X + lambda I)^-1 X'. The constant is penalised with
the rest, so that they do not sum to 1. T is 50 in the released code, whatever the run has. Written for float64,
where the release keeps times and coefficients in bfloat16.
"""

from __future__ import annotations

import functools
from typing import Annotated

import attrs
import numpy as np

from foreseer.errors import OptionError
from foreseer.hookspecs import hookimpl
from foreseer.options import Range, at_least, at_least_float, checked, cites, fraction
from foreseer.outcome import Outcome
from foreseer.policies import PredictorLike, draft_needs, predictor_from, taylor_weights
from foreseer.policies.drafting import Target
from foreseer.types import Drafts, History, Needs, Plan, Run, Site, Step, Weights
from foreseer_methods.due_steps import DueSteps

__all__ = ["ChebyshevRidge", "GrowingGaps", "chebyshev", "chebyshev_weights", "spectrum"]


@functools.lru_cache(maxsize=4096)
def chebyshev_weights(anchors: tuple[float, ...], target: float, *, degree: int = 4, ridge: float = 0.1, mix: float = 0.5, span: int = 50) -> tuple[float, ...]:
    """Weights of the recorded features in the forecast, in float64.

    Args:
        anchors: Step indices of the computed steps, newest first, strictly falling; at least one.
        target: Step index to forecast.
        degree: Highest Chebyshev polynomial, M.
        ridge: Lambda, > 0.
        mix: Share of the fit; the rest is the line through the last two computed features.
        span: Steps that the axis of the polynomials stands for, T.

    Returns:
        One weight per anchor, newest first. They do not sum to 1, unless ``mix`` is 0.

    >>> [round(w, 6) for w in chebyshev_weights((6.0, 4.0, 3.0, 2.0, 1.0, 0.0), 7.0, mix=1.0)]
    [0.670164, 0.303053, 0.147365, 0.017984, -0.078862, -0.1366]
    """
    known, wanted = (np.polynomial.chebyshev.chebvander(2 * np.array(steps) / span - 1, degree) for steps in (anchors, (target,)))
    fit = wanted[0] @ np.linalg.solve(known.T @ known + ridge * np.eye(degree + 1), known.T)
    weights = mix * fit
    line = taylor_weights(anchors, target, max_order=1)
    weights[: len(line)] += (1 - mix) * np.array(line)
    return tuple(weights.tolist())


@attrs.define(eq=False)
class ChebyshevRidge:
    """Predictor: one fit for every site, over each row's own computed steps.

    Attributes:
        degree, ridge, mix: As `chebyshev_weights` has them.
        span: Likewise; None takes the run's number of steps.
        anchors: How many computed features are kept.
        linear: A forecast is linear in the features, by construction.
    """

    linear = True
    degree: int
    ridge: float
    mix: float
    span: int | None
    anchors: int

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Keep what the fit is over."""
        if self.span is None and run.num_steps is None:
            raise OptionError("chebyshev: span=None is the run's number of steps: give the run timesteps= or num_steps=, or write span=50")
        self.span = self.span or run.num_steps
        return Needs(anchors=self.anchors)

    @hookimpl
    def predict_features(self, step: Step, sites: tuple[Site, ...], history: History) -> Drafts:
        """Fit."""
        weights = functools.partial(chebyshev_weights, degree=self.degree, ridge=self.ridge, mix=self.mix, span=self.span or 50)
        return dict.fromkeys(sites, Weights.per_row(weights, history.anchors, step.index))


@attrs.define(eq=False)
class GrowingGaps:
    """Schedule: compute the first ``warmup_steps`` steps, then with gaps of floor(window), which grows by
    ``growth`` at each computed step. The last step is not forced.

    Attributes:
        window: The first gap, in steps.
        growth: What each computed step adds to it.
        warmup_steps: Computed steps at the start.
        target: What is forecast in between.
    """

    window: float
    growth: float
    warmup_steps: int
    target: Target
    _sites: tuple[Site, ...] = attrs.field(default=(), init=False, repr=False)
    _due: DueSteps = attrs.field(factory=lambda: DueSteps(0), init=False, repr=False)
    _windows: list[float] = attrs.field(factory=list, init=False, repr=False)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record what will be forecast."""
        needs = draft_needs(run, self.target)
        self._sites, self._due, self._windows = needs.sites, DueSteps(run.rows), [self.window] * run.rows
        return needs

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Compute what is due."""
        return self._due.plan(step, self._sites, "warm-up" if step.index < self.warmup_steps else "the gap is over")

    @hookimpl
    def commit(self, outcome: Outcome) -> None:
        """Let the gaps grow."""

        def gap(row: int) -> int:
            if outcome.step.index < self.warmup_steps - 1:
                return 1
            steps, self._windows[row] = int(self._windows[row]), self._windows[row] + self.growth
            return steps

        self._due.commit(outcome, gap)


CITATION = """@inproceedings{han2026spectrum,
  title={Adaptive Spectral Feature Forecasting for Diffusion Sampling Acceleration},
  author={Han, Jiaqi and Shi, Juntong and Li, Puheng and Ye, Haotian and Guo, Qiushan and Ermon, Stefano},
  booktitle={CVPR}, year={2026}, note={arXiv:2603.01623}}"""


@cites(CITATION)
@checked
def chebyshev(
    *,
    degree: Annotated[int, at_least(0)] = 4,
    ridge: Annotated[float, Range(float, 0.0, open_low=True)] = 0.1,
    mix: Annotated[float, fraction] = 0.5,
    span: Annotated[int | None, at_least(1)] = 50,
    anchors: Annotated[int, at_least(2)] = 100,
) -> ChebyshevRidge:
    """Predictor: a Chebyshev ridge fit over all computed steps (Spectrum, arXiv 2603.01623), mixed with a line.

    Not even a constant is forecast exactly: the fit shrinks.

    Args:
        degree: Highest polynomial, M (released: 4).
        ridge: Penalty of the coefficients, lambda (released: 0.1, whatever the number of computed steps).
        mix: Share of the fit, the rest is the line through the last two computed features (1: the paper; 0.5:
            what the authors recommend since).
        span: Steps that the polynomials' axis stands for (released: 50, whatever the run has). None: the
            run's own number of steps, which it must then know.
        anchors: How many computed features are kept and fitted (released: 100).
    """
    return ChebyshevRidge(degree, ridge, mix, span, anchors)


@cites(CITATION)
@checked
def spectrum(
    *,
    window: Annotated[float, at_least_float(1.0)] = 2.0,
    growth: Annotated[float, at_least_float(0.0)] = 0.75,
    warmup_steps: Annotated[int, at_least(1)] = 5,
    target: Target = "last_block",
    predictor: PredictorLike = chebyshev,
) -> tuple[GrowingGaps, object]:
    """Forecast the last block by a Chebyshev fit over all that was computed, with gaps that grow (Spectrum,
    arXiv 2603.01623).

    Defaults are those of the released code. It keeps every computed feature, so forecast few sites with it.

    Args:
        window: The first gap in steps; its whole part counts.
        growth: What each computed step adds to the gap (released: 0.75, or 3 for the fast setting).
        warmup_steps: Computed steps at the start.
        target: ``"last_block"``: as released. The others are ours.
        predictor: Another predictor, or this one with options: ``(chebyshev:mix=1.0,span=None)``.
    """
    return GrowingGaps(window, growth, warmup_steps, target), predictor_from(predictor, max_order=1, warmup_steps=warmup_steps)
