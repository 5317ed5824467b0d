"""A plan from what a few runs put out, where no sensitivities were measured: errors of all steps weigh alike,
and even steps stay where the plan is hardly better.
"""

from __future__ import annotations

import math

import attrs
import numpy as np

from foreseer.schedule_plan import Budget, SchedulePlan
from foreseer.types import OUTPUT
from foreseer.workbench.planner import Limits, of_gaps, plan, predicted_errors
from foreseer.workbench.trace import Trace

__all__ = ["LEAST_GAIN", "SPREAD", "even_steps", "plan_from_few", "psnr_between"]

LEAST_GAIN = 3.0
"""By how many dB a plan must be predicted to be better than even steps. Below that, what the error model
flatters most is no better, and on the bundled FLUX 0.4 dB worse.
"""
SPREAD = (14.0, 3.0)
"""How many dB below and above its prediction a plan came out on the bundled models."""
PREDICTOR = "taylor:max_order=1"


def even_steps(count: int, num_steps: int) -> tuple[int, ...]:
    """Spread so many steps evenly from the first to the last.

    >>> even_steps(4, 10)
    (0, 3, 6, 9)
    """
    return tuple(round(i * (num_steps - 1) / (count - 1)) for i in range(count))


def psnr_between(budget: Budget) -> tuple[float, float]:
    """Return between which PSNRs, in dB, such a schedule came out on the bundled models: of outputs as large as
    the final sample, in [-1, 1].
    """
    told = 6.0 - 20 * math.log10(max(budget.error, 1e-5))
    return told - SPREAD[0], told + SPREAD[1]


def plan_from_few(trace: Trace, *, samples: int) -> SchedulePlan:
    """Plan from the denoiser's outputs alone.

    The first and the last step are always computed. A forecast's error counts by its share of the outputs'
    size, and each step for 1/T of the run.

    Args:
        trace: Recorded at `foreseer.OUTPUT`, at least three steps.
        samples: How many samples the plan says that it is from.
    """
    size = np.sqrt(np.square(trace.norms(OUTPUT)).mean(axis=1))
    alike = attrs.evolve(trace, target=OUTPUT, sensitivity=np.zeros((trace.samples, 0)), final_norm=size * trace.num_steps, final_size=0)
    errors = predicted_errors(alike, PREDICTOR, "output")
    found = plan(alike, predictor=PREDICTOR, target="output", limits=Limits(last=1), errors=errors)
    budgets = {}
    for count, budget in found.budgets.items():
        steps = even_steps(count, trace.num_steps)
        even = math.sqrt(of_gaps(errors, np.arange(trace.samples), steps, "gaps").mean(axis=0).sum())
        worth = even > budget.error * 10 ** (LEAST_GAIN / 20)
        budgets[count] = attrs.evolve(budget, uniform=even) if worth else Budget(steps=steps, error=even, uniform=even)
    note = f"no sensitivities: all steps weigh alike; even steps where a plan is predicted to gain less than {LEAST_GAIN:g} dB"
    return attrs.evolve(found, budgets=budgets, note=note, samples=samples)
