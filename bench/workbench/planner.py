"""The best static schedules of a recorded run, for every number of computed steps at once, by dynamic
programming.

A forecast's error is a function of the newest anchors and the step, and known exactly from the recorded inner
products. Times the measured sensitivity of the final latent to an error in that step, it is what a forecast
does to the result. Errors between two computed steps are of one forecast, and add up as numbers; those of
different gaps point in directions of their own, and their squares add up. Such a sum splits at every computed
step, so that the best schedule is found exactly over the states (anchors kept): with S samples, T steps and K
anchors in about T^(K+2) operations for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.bench.fields import whole
from foreseer.errors import OptionError
from foreseer.policies.drafting import site_at
from foreseer.policies.predictors import predictor_from
from foreseer.psnr import decibels, likeness_of
from foreseer.schedule_plan import Budget, SchedulePlan, Target
from foreseer.types import Site
from foreseer.workbench.forecast_errors import ForecastErrors, forecast_errors
from foreseer.workbench.predictors import LinearWeights
from foreseer.workbench.schedules import run_of
from foreseer.workbench.trace import Trace

__all__ = ["Limits", "Over", "best_schedules", "check_words", "chosen_samples", "plan", "predicted_errors", "schedules_of", "uniform_steps", "until_next"]

MOST_ANCHORS = 3
"""Of a predictor that looks at more, the newest so many are planned with."""

Objective = Literal["gaps", "sum", "squares"]
Over = Literal["mean", "worst"]
Array = NDArray[np.float64]


@attrs.frozen(kw_only=True)
class Limits:
    """What every schedule must do, besides computing step 0.

    Attributes:
        first: Steps that are computed at the start, at least 1.
        last: Steps that are computed at the end.
        max_gap: Most steps from one computed step to the next, or from the last to the end; None for no limit.

    Raises:
        OptionError: A value is out of range.
    """

    first: int = attrs.field(default=1, validator=whole(1))
    last: int = attrs.field(default=0, validator=whole(0))
    max_gap: int | None = attrs.field(default=None, validator=attrs.validators.optional(whole(1)))

    def forced(self, num_steps: int) -> NDArray[np.bool_]:
        """Return ``(T,)`` steps that must be computed."""
        index = np.arange(num_steps)
        return np.asarray((index < self.first) | (index >= num_steps - self.last))


def uniform_steps(count: int, num_steps: int) -> tuple[int, ...]:
    """Spread so many steps evenly from step 0 on."""
    return tuple(i * num_steps // count for i in range(count))


def until_next(costs: Array) -> Array:
    """Return ``(T+1,) * K + (T+1,)``: what it costs to forecast all steps until the next anchor.

    Args:
        costs: ``(T+1,) * K + (T,)``: of forecasting a step from K anchors, oldest first, then the step; index
            T stands for no anchor. Infinite where a step must not be forecast.
    """
    num_steps = costs.shape[-1]
    ahead = np.arange(num_steps)[None, :] > np.arange(num_steps + 1)[:, None]
    costs = np.where(ahead, costs, 0.0)  # a step is forecast from what was computed before it
    return np.concatenate([np.zeros((*costs.shape[:-1], 1)), np.cumsum(costs, axis=-1)], axis=-1)


def best_schedules(until: Array, *, max_gap: int | None = None) -> dict[int, tuple[tuple[int, ...], float]]:
    """Return for each number of computed steps the schedule of least cost, and its cost.

    Numbers that the limits do not allow are left out.

    Args:
        until: See `until_next`.
        max_gap: See `Limits`.
    """
    num_steps, width = until.shape[-1] - 1, until.ndim - 1
    none = num_steps
    newest, following = np.arange(none + 1)[:, None], np.arange(none + 1)[None, :]
    until = until + np.where((following <= newest) | (following - newest > (max_gap or num_steps)), np.inf, 0.0)
    state = np.full((none + 1,) * width, np.inf)
    state[(none,) * (width - 1) + (0,)] = 0.0
    came_from: list[NDArray[np.uint16]] = []
    found = {}
    for count in range(1, num_steps + 1):
        totals = state + until[..., none]
        end = int(np.argmin(totals))
        if np.isfinite(totals.flat[end]):
            found[count] = (_walk_back(np.unravel_index(end, totals.shape), came_from, none), float(totals.flat[end]))
        step = state[..., None] + until
        came_from.append(np.argmin(step, axis=0).astype(np.uint16))
        state = np.min(step, axis=0)
        state[..., none] = np.inf  # the end of the run is no step
    return found


def _walk_back(end: tuple[np.intp, ...], came_from: Sequence[NDArray[np.uint16]], none: int) -> tuple[int, ...]:
    anchors = [int(a) for a in end]
    steps = [anchors[-1]]
    for parents in reversed(came_from):
        anchors = [int(parents[tuple(anchors)]), *anchors[:-1]]
        steps.append(anchors[-1])
    return tuple(reversed([step for step in steps if step != none]))


def plan(
    trace: Trace,
    *,
    predictor: str = "corrector:max_order=1",
    budget: int | None = None,
    target: Target = "modules",
    objective: Objective = "gaps",
    over: Over = "mean",
    limits: Limits | None = None,
    samples: Sequence[int] | None = None,
    errors: ForecastErrors | None = None,
) -> SchedulePlan:
    """Plan static schedules for every number of computed steps.

    Args:
        trace: Recorded samples; with sensitivities, or all errors weigh alike, and the plan says so.
        predictor: A linear predictor, as on the command line.
        budget: The number of computed steps that is chosen in the plan; None takes about a quarter of the
            steps.
        target: What will be forecast. Errors of a residual are its own, and it must be recorded; of anything
            else those at the site of the sensitivities (the last block): forecasts of every module are off by
            less.
        objective: How errors of single steps add up. ``"gaps"``: those between two computed steps push in one
            direction, those of different gaps in directions of their own: the root of the sum of the gaps'
            squares. ``"sum"``: all push in one direction. ``"squares"``: each in a direction of its own.
        over: The mean over the samples, or in each gap the worst sample.
        limits: What every schedule must do.
        samples: Which samples to plan for; None for all. Of one, planned in hindsight, no static schedule of
            this predictor is better *under this error model*, which bounds nothing else.
        errors: Of `predicted_errors`, of this target, where they are there already.

    Returns:
        A plan; ``error`` of each budget is the objective: it never rises with the number of steps.

    Raises:
        OptionError: The predictor is not linear, the limits leave no schedule, the budget is not among them,
            or another value is out of range.
    """
    check_words(objective=(objective, get_args(Objective)), over=(over, get_args(Over)), target=(target, get_args(Target)))
    if (limits := limits or Limits()).first + limits.last > trace.num_steps:
        raise OptionError(f"first={limits.first} and last={limits.last} are more than the {trace.num_steps} steps there are; write fewer")
    errors = errors or predicted_errors(trace, predictor, target)
    chosen = chosen_samples(samples, trace.samples)
    budgets, wanted = schedules_of(
        trace,
        until_of=lambda sample: _until_of(errors, sample, objective=objective, forced=limits.forced(trace.num_steps)),
        gaps_of=lambda steps: _of_gaps(errors, steps, objective),
        even=lambda count: uniform_steps(count, trace.num_steps),
        samples=chosen,
        power=1 if objective == "sum" else 2,
        over=over,
        limits=limits,
        budget=budget,
    )
    return SchedulePlan(
        signature=trace.signature,
        predictor=predictor,
        target=target,
        site=str(errors.site),
        objective=f"{objective}, {over}",
        budgets=budgets,
        chosen=wanted,
        note="; ".join(errors.notes),
        seed=trace.seed,
        samples=len(chosen),
        grid=trace.grid,
    )


def check_words(**given: tuple[str, Sequence[str]]) -> None:
    """Raise `OptionError` for an option's value that is none of its words."""
    for name, value, words in ((name, value, words) for name, (value, words) in given.items() if value not in words):
        raise OptionError(f"{name}={value!r} is unknown; write one of {', '.join(words)}")


def schedules_of(
    trace: Trace,
    *,
    until_of: Callable[[int], Array],
    gaps_of: Callable[[tuple[int, ...]], Array],
    even: Callable[[int], tuple[int, ...]],
    samples: NDArray[np.int64],
    power: int,
    over: Over,
    limits: Limits,
    budget: int | None,
) -> tuple[dict[int, Budget], int]:
    """Return the best schedule of each number of steps, and the number that is chosen. Raises as `plan`.

    Args:
        until_of: ``sample -> `` its costs, as `best_schedules` takes them; what limits force is in them.
        gaps_of: ``steps -> (S, gaps)`` the same costs of a schedule's gaps, of all samples.
        even: The schedule of so many steps to hold each against.
        power: Which power of an error its cost is.
        trace: As of `plan`, like the rest.
        samples: Likewise.
        over: Likewise.
        limits: Likewise.
        budget: Likewise.
    """
    found = best_schedules(_combined(until_of, samples, over=over), max_gap=limits.max_gap)
    if not found:
        raise OptionError(f"limits={limits} leave no schedule of {trace.num_steps} steps; ask for fewer first and last steps, or a larger max_gap")
    budgets = {}
    for count, (steps, cost) in found.items():
        beside = float(getattr(gaps_of(even(count))[samples], "mean" if over == "mean" else "max")(axis=0).sum() ** (1 / power))
        psnr = _psnr(trace, samples, gaps_of(steps)[samples].sum(axis=1) ** (1 / power))
        budgets[count] = Budget(steps=steps, error=cost ** (1 / power), psnr=psnr, uniform=beside)
    return budgets, budget if budget is not None else min(budgets, key=lambda n: (abs(n - trace.num_steps / 4), n))


def chosen_samples(samples: Sequence[int] | None, recorded: int) -> NDArray[np.int64]:
    """Return which samples to plan for; None for all. Raises `OptionError` for those that were not recorded."""
    if samples is None:
        return np.arange(recorded)
    wrong = [s for s in samples if isinstance(s, bool) or not isinstance(s, (int, np.integer)) or not 0 <= s < recorded]
    if wrong or not len(samples):
        raise OptionError(f"samples={list(samples)!r} cannot be planned for; write some of 0 to {recorded - 1}, or None for all")
    return np.asarray(samples, dtype=np.int64)


def _combined(until_of: Callable[[int], Array], samples: NDArray[np.int64], *, over: Over) -> Array:
    total = until_of(int(samples[0]))
    for sample in samples[1:]:  # all at once would take S times the memory
        until = until_of(int(sample))
        total = np.maximum(total, until) if over == "worst" else total + until
    return total if over == "worst" else total / len(samples)


def _until_of(errors: ForecastErrors, sample: int, *, objective: Objective, forced: NDArray[np.bool_]) -> Array:
    costs = errors.dense(errors.weighted[sample] ** (2 if objective == "squares" else 1))
    costs[..., forced] = np.inf
    return until_next(costs) ** (2 if objective == "gaps" else 1)


def _of_gaps(errors: ForecastErrors, steps: tuple[int, ...], objective: Objective) -> Array:
    """``(S, gaps)`` what the gaps with a forecast cost; one gap of 0 where there is none."""
    values = errors.weighted[:, errors.places(steps)]
    forecast = [k for k in range(errors.num_steps) if k not in set(steps)]
    gap = np.searchsorted(np.array(steps), forecast)
    firsts = np.flatnonzero(np.diff(gap, prepend=-1))
    if not len(firsts):
        return np.zeros((len(values), 1))
    return np.asarray(np.add.reduceat(values ** (2 if objective == "squares" else 1), firsts, axis=1) ** (2 if objective == "gaps" else 1))


def predicted_errors(trace: Trace, predictor: str = "corrector:max_order=1", target: Target = "modules") -> ForecastErrors:
    """Return the error of every forecast from every choice of newest anchors, weighted by the sensitivities.

    Of a predictor that makes up for earlier errors, `foreseer.policies.Corrector`, the errors before that.

    Raises:
        OptionError: The predictor is not linear, or unknown; or the target is a residual that was not
            recorded, or that ends where no sensitivities were measured.
    """
    site = trace.target or Site(trace.depth - 1)
    if target.startswith("residual"):
        measured, site = site, site_at(target, trace.depth)
        if site.end != measured.end:
            raise OptionError(f"target={target!r} ends at {site.end}, and sensitivities were measured at {measured}; record with --target {target}")
    elif site.since is not None and site.end in trace.sites:
        site = site.end
    made = predictor_from(predictor, max_order=1)
    weights = LinearWeights(predictor, getattr(made, "uncorrected", made), run_of(trace), site)
    notes = []
    width = weights.anchors
    if width > MOST_ANCHORS:
        notes.append(f"{predictor} looks at {width} anchors; planned with the newest {MOST_ANCHORS}")
    if not trace.sensitivity.size:
        notes.append("no sensitivities were recorded: errors of all steps weigh alike, which can be worse than an even interval; record with --sensitivity")
    return forecast_errors(trace, weights, site=site, width=min(width, MOST_ANCHORS), notes=tuple(notes))


def _psnr(trace: Trace, samples: NDArray[np.int64], errors: Array) -> float | None:
    """Mean over the samples of the predicted PSNR, for values between -1 and 1."""
    if not trace.final_size or not trace.final_norm.size:
        return None
    apart = errors * trace.final_norm[samples]
    return likeness_of(decibels(np.square(apart) / trace.final_size)).mean
