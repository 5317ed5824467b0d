"""The error of every possible forecast of a recorded run, from inner products alone."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.types import Site
from foreseer.workbench.predictors import LinearWeights
from foreseer.workbench.trace import Trace

__all__ = ["ForecastErrors", "final_errors", "forecast_errors", "mean_sensitivity"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@attrs.frozen(eq=False, kw_only=True)
class ForecastErrors:
    """Errors of N forecasts of S samples: every step from every choice of newest anchors, step 0 being
    computed.

    Attributes:
        site: What is forecast.
        num_steps: Steps, T.
        anchors: ``(N, K)`` the newest computed steps, oldest first; T where there are fewer, which means that
            step 0 is the oldest one there.
        target: ``(N,)`` the forecast step, rising.
        weighted: ``(S, N)`` L2 norm of the forecast's error, times the sensitivity of the sample's final
            latent in that step, over that latent's norm: how far it moves the result. Infinite where the
            predictor is not able.
        notes: What a reader of a plan should know.
    """

    site: Site
    num_steps: int
    anchors: Index = attrs.field(repr=False)
    target: Index = attrs.field(repr=False)
    weighted: Array = attrs.field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Anchors that a forecast depends on, K."""
        return int(self.anchors.shape[1])

    def dense(self, values: Array) -> Array:
        """Lay values of the N forecasts out as ``(T+1,) * K + (T,)``; 0 where there is no such forecast."""
        laid = np.zeros((self.num_steps + 1,) * self.width + (self.num_steps,))
        laid[(*self.anchors.T, self.target)] = values
        return laid

    def places(self, steps: tuple[int, ...]) -> Index:
        """Return which of the N forecasts a schedule makes, in the order of the steps."""
        forecast = [step for step in range(self.num_steps) if step not in steps]
        none = [self.num_steps] * self.width
        newest = [(none + [s for s in steps if s < step])[-self.width :] for step in forecast]
        return self._place[(*np.array(newest, dtype=np.int64).reshape(-1, self.width).T, forecast)]

    @functools.cached_property
    def _place(self) -> Index:
        return self.dense(np.arange(len(self.target), dtype=np.float64)).astype(np.int64)


def forecast_errors(trace: Trace, weights: LinearWeights, *, site: Site, width: int, notes: tuple[str, ...] = ()) -> ForecastErrors:
    """Score every forecast that a linear predictor makes of a site from its newest ``width`` anchors. Where
    no sensitivities were measured, all are 1.
    """
    gram, none = trace.gram(site), trace.num_steps
    scale = _scale(trace)
    no_step = np.zeros(0, dtype=np.int64)
    parts = [(no_step.reshape(0, width), no_step, np.zeros((trace.samples, 0)))]
    for target in range(1, none):
        anchors = _choices(target, width, none)
        given = np.where(anchors == none, np.nan, anchors)[:, ::-1]  # a predictor is told the newest first
        errors = np.sqrt(weights.squared_errors(gram, given, target)) * scale[:, target, None]
        parts.append((anchors, np.full(len(anchors), target), errors))
    every: list[Any] = list(zip(*parts, strict=True))
    made = {"anchors": np.concatenate(every[0]), "target": np.concatenate(every[1])}
    weighted = np.concatenate(every[2], axis=1)
    return ForecastErrors(site=site, num_steps=none, weighted=weighted, notes=notes, **made)


def _choices(target: int, width: int, none: int) -> Index:
    """``(n, K)`` newest anchors of a forecast, rising: K of the steps before it, or fewer with step 0."""
    full = list(itertools.combinations(range(target), width))
    fewer = [(none,) * (width - count - 1) + (0, *rest) for count in range(min(width - 1, target)) for rest in itertools.combinations(range(1, target), count)]
    return np.array(sorted(full + fewer), dtype=np.int64).reshape(-1, width)


def mean_sensitivity(trace: Trace) -> Array:
    """Return ``(T,)`` how far the final latent moves for an error in each step; 1 where nothing was measured.

    It is the mean over the samples that were measured: one sample's is mostly chance, of the direction of its
    one error. Between measured steps, and beyond them, it is continued; between the last two it is the
    larger.
    """
    measured = np.isfinite(trace.sensitivity) & (trace.sensitivity > 0)
    if not measured.any():
        return np.ones(trace.num_steps)
    steps = np.arange(trace.num_steps)
    count = measured.sum(axis=0)
    means = np.where(measured, trace.sensitivity, 0.0).sum(axis=0) / np.maximum(count, 1)
    known = count > 0
    found = np.exp(np.interp(steps, steps[known], np.log(means[known])))
    # A sampler may end with a step that hardly counts: what lies before it is not halfway to nothing.
    if len(trace.measured) > 1:
        before, last = sorted(trace.measured)[-2:]
        found[before + 1 : last] = max(found[before], found[last])
    return np.asarray(found, dtype=np.float64)


def final_errors(trace: Trace, errors: Array, computed: NDArray[np.bool_]) -> Array:
    """Return ``(S,)`` how far errors of single steps move the final latents, L2, as plans predict it.

    Errors between two computed steps are of one forecast, and add up; those of different gaps point in
    directions of their own, and their squares add up.

    Args:
        trace: With sensitivities.
        errors: ``(S, T)`` L2 norms of the errors; 0 where a step was computed.
        computed: ``(S, T)`` computed steps.
    """
    moved, gap = errors * mean_sensitivity(trace), np.cumsum(computed, axis=1)
    sums = np.zeros((len(moved), moved.shape[1] + 1))
    np.add.at(sums, (np.arange(len(moved))[:, None], gap), moved)
    return np.asarray(np.linalg.norm(sums, axis=1))


def _scale(trace: Trace) -> Array:
    """``(S, T)`` what an error is multiplied by: sensitivity over the norm of the final latent."""
    scale = np.tile(mean_sensitivity(trace), (trace.samples, 1))
    if trace.final_norm.size:
        scale = scale / np.maximum(trace.final_norm, np.finfo(float).tiny)[:, None]
    return scale
