"""A plan from what a few runs put out, where no sensitivities were measured: errors of all steps weigh alike."""

from __future__ import annotations

import attrs
import numpy as np

from foreseer.psnr import decibels
from foreseer.schedule_plan import Budget, SchedulePlan
from foreseer.types import OUTPUT
from foreseer.workbench.limits import Limits
from foreseer.workbench.planner import plan
from foreseer.workbench.trace import Trace

__all__ = ["SPREAD", "plan_from_few", "psnr_between"]

SPREAD = (15.0, 7.0)
"""How many dB below and above its prediction a plan came out on the bundled models, in the mean of 8 samples or
more. What is predicted are errors that nobody makes up for; below it came out those of few steps, on the DiT.
"""


def psnr_between(budget: Budget) -> tuple[float, float]:
    """Return between which PSNRs, in dB, such a schedule came out on the bundled models, where the outputs are
    as large as the final sample, and that in [-1, 1].
    """
    told = float(decibels(np.array([max(budget.error, 1e-5) ** 2]))[0])
    return told - SPREAD[0], told + SPREAD[1]


def plan_from_few(trace: Trace, *, samples: int) -> SchedulePlan:
    """Plan from the denoiser's outputs alone.

    The first and the last step are always computed: what a plan without sensitivities leaves to chance
    otherwise. A forecast's error counts by its share of the outputs' size, and each step for 1/T of the run.

    Args:
        trace: Recorded at `foreseer.OUTPUT`, at least two steps.
        samples: How many samples the plan says that it is from.
    """
    size = np.sqrt(np.square(trace.norms(OUTPUT)).mean(axis=1))
    alike = attrs.evolve(trace, target=OUTPUT, sensitivity=np.zeros((trace.samples, 0)), final_norm=size * trace.num_steps, final_size=0)
    return attrs.evolve(plan(alike, target="output", limits=Limits(last=1)), samples=samples)
