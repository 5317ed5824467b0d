"""Sensitivities: how far the final latent moves for an error in one step. They are measured, by forecasting
that step alone.

Weighting errors by the linear part of the sampler alone makes schedules worse than even ones: what the later
steps make of an error has to be seen.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from foreseer.errors import OptionError
from foreseer.policies._taylor import taylor_weights
from foreseer.registry import PolicySpec
from foreseer.types import Site
from foreseer.workbench.predictors import predictor_named
from foreseer.workbench.replay_gates import pair_spec
from foreseer.workbench.schedules import Schedule
from foreseer.workbench.trace import Trace, squared_error

__all__ = ["interpolated", "one_forecast", "one_forecast_errors", "sensitivities", "steps_to_measure"]

Array = NDArray[np.float64]

NOTHING = 1e-6
"""An error below this part of the feature's norm is none: float32 features of a straight line are off by 1e-7
of it, and inner products in float64 by 6e-8.
"""


def one_forecast(site: Site, step: int, num_steps: int) -> PolicySpec:
    """Return a policy that computes all steps but one, at least step 1, in which it forecasts a site: a line
    through the two steps before, or the one step before where there is one.
    """
    steps = tuple(k for k in range(num_steps) if k != step)
    return pair_spec(Schedule(f"all but step {step}", steps=steps), predictor_named("taylor:max_order=1"), site)


def steps_to_measure(num_steps: int, every: int) -> tuple[int, ...]:
    """Return the steps at which to measure: 1, 1 + ``every``, and so on, and the last two: on the bundled DiT
    the last is 20 times less sensitive than the step before, and values in between must not be drawn to it.

    >>> steps_to_measure(50, 4)
    (1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41, 45, 48, 49)

    Raises:
        OptionError: ``every`` is no whole number >= 1.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise OptionError(f"every={every!r} is out of range; write a whole number >= 1: sensitivities are measured at every so many steps")
    return tuple(sorted({*range(1, num_steps, every), *range(max(num_steps - 2, 1), num_steps)}))


def one_forecast_errors(trace: Trace, site: Site, step: int) -> Array:
    """Return ``(S,)`` the L2 norm of the error that `one_forecast` makes, of all streams together; NaN where
    it is nothing but rounding.
    """
    index = np.arange(step, max(step - 3, -1), -1)
    coefficients = np.array([-1.0, *taylor_weights(tuple(float(i) for i in index[1:]), float(step), max_order=1)])
    gram = trace.gram(site)
    error = np.sqrt(squared_error(gram, index, coefficients))
    return np.where(error > NOTHING * np.sqrt(gram[:, step, step]), error, np.nan)


def sensitivities(trace: Trace, site: Site, step: int, moved: Array) -> Array:
    """Return ``(S,)`` how far the final latents moved, over the error in the step that was forecast; NaN
    where the forecast was exact, so that nothing can be said.

    The trace is of the same samples, fully computed; ``moved`` is the ``(S,)`` L2 norm of the final latent
    less that of full computation, NaN where the step was computed after all.
    """
    return moved / one_forecast_errors(trace, site, step)


def interpolated(measured: dict[int, Array], num_steps: int) -> Array:
    """Return ``(S, T)`` sensitivities of all steps from the ``(S,)`` of those that were measured.

    Logarithms are interpolated, between the nearest measured steps of a sample that are not NaN; where one of
    them is 0, the values themselves. NaN before the first and behind the last.
    """
    steps = sorted(measured)
    samples = len(measured[steps[0]]) if steps else 0
    found = np.full((samples, num_steps), np.nan)
    for sample in range(samples):
        known = [(step, float(measured[step][sample])) for step in steps if np.isfinite(measured[step][sample])]
        for step, value in known:
            found[sample, step] = value
        for (a, low), (b, high) in itertools.pairwise(known):
            share = (np.arange(a + 1, b) - a) / (b - a)
            logarithmic = low > 0 and high > 0
            found[sample, a + 1 : b] = np.exp((1 - share) * np.log(low) + share * np.log(high)) if logarithmic else (1 - share) * low + share * high
    return found
