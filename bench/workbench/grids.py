"""The best steps of a solver for one model: which K of a recorded fine grid to evaluate the model at.

A multistep solver takes the data prediction x(l), over the half logarithm l of signal over noise, for a line
through the two newest evaluations, and integrates it: what it is off by from one evaluation i to the next j,
where p was the one before, is a sum of data predictions of the fine grid, the solver's own weights less those of
the fine steps. Its norm is known exactly from their inner products. An error of the latent counts alike whenever
it is made, so that the best grid is a shortest path over the states (p, i), as the best schedule is
(`foreseer.workbench.planner`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.bench.solvers import Solver
from foreseer.errors import OptionError
from foreseer.schedule_plan import Grid, SchedulePlan
from foreseer.workbench.clean import CLEAN
from foreseer.workbench.limits import Limits
from foreseer.workbench.planner import Over, check_words, chosen_samples, schedules_of
from foreseer.workbench.trace import Trace, squared_error

__all__ = ["GRID_SOLVERS", "GapErrors", "even_steps", "gap_errors", "plan_grid", "sigmas_for", "solver_of", "solver_weights"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Combining = Literal["gaps", "sum"]

GRID_SOLVERS = ("euler", "dpmpp_2m", "unipc")
"""Solvers whose steps depend on two evaluations, or three with the one that corrects them."""


def solver_weights(kind: str, before: Array, now: Array, after: Array) -> Array:
    """Return ``(..., 3)``: how a solver weighs the data predictions at ``before``, ``now`` and ``after`` in the
    change of x / sigma from ``now`` to ``after``, where x is the latent and sigma its share of noise.

    The exact change is the integral of exp(l) x(l) over l (arXiv 2211.01095, prop. 4.1).

    Args:
        kind: One of `GRID_SOLVERS`: ``euler`` takes x(l) for constant, ``dpmpp_2m`` for a line (algorithm 2 of
            that paper), and ``unipc`` corrects that by the prediction at ``after`` (arXiv 2302.04867, order 2,
            B(h) = exp(h) - 1).
        before: ``(...)`` half logarithms of signal over noise; NaN where ``now`` is the first evaluation.
        now: Likewise.
        after: Likewise, finite.

    Raises:
        OptionError: ``kind`` is another.
    """
    if kind not in GRID_SOLVERS:
        raise OptionError(
            f"solver={kind!r} cannot be planned for: its steps depend on other evaluations than the newest two; write one of {', '.join(GRID_SOLVERS)}"
        )
    before, now, after = np.broadcast_arrays(before, now, after)
    h = after - now
    whole = np.exp(after) - np.exp(now)
    first, weights = np.isnan(before), np.zeros((*h.shape, 3))
    if kind == "euler":
        weights[..., 1] = whole
        return weights
    past = np.where(first, 0.0, (before - now) / h)  # the place of the past evaluation, in steps from now on
    share = np.zeros_like(h), np.zeros_like(h)
    if kind == "dpmpp_2m":
        share = np.where(first, 0.0, 0.5 / np.where(first, 1.0, past)), share[1]
    else:
        # rho_1 + rho_2 = b_1 and past rho_1 + rho_2 = b_2; the first step corrects with rho_2 = 1/2
        phi_1 = (np.expm1(-h) / -h - 1.0) / np.expm1(-h)
        phi_2 = 2.0 * ((np.expm1(-h) / -h - 1.0) / -h - 0.5) / np.expm1(-h)
        old = np.where(first, 0.0, (phi_1 - phi_2) / np.where(first, 1.0, 1.0 - past))
        share = np.where(first, 0.0, old / np.where(first, 1.0, past)), np.where(first, 0.5, phi_1 - old)
    weights[..., 0], weights[..., 2] = whole * share[0], whole * share[1]
    weights[..., 1] = whole - weights[..., 0] - weights[..., 2]
    return weights


@attrs.frozen(eq=False, kw_only=True)
class GapErrors:
    """Errors of N gaps of S samples: from every evaluation to every later one, with every one before.

    Attributes:
        num_steps: Of the fine grid, T.
        gaps: ``(N, 3)`` the evaluation before, T where there is none; this one; and the next, T for the end of
            the run, where the newest data prediction is the sample.
        weighted: ``(S, N)`` a gap's error of the latent over the norm of the final one, both L2.
    """

    num_steps: int
    gaps: Index = attrs.field(repr=False)
    weighted: Array = attrs.field(repr=False)

    def until(self, values: Array, forced: NDArray[np.bool_]) -> Array:
        """Lay values of the N gaps out as `foreseer.workbench.planner.best_schedules` takes them; infinite
        where a gap leaves out a step that is forced.
        """
        laid = np.full((self.num_steps + 1,) * 3, np.inf)
        so_far = np.concatenate([[0], np.cumsum(forced)])
        left_out = so_far[self.gaps[:, 2]] > so_far[self.gaps[:, 1] + 1]
        laid[tuple(self.gaps.T)] = np.where(left_out, np.inf, values)
        return laid

    def of(self, steps: tuple[int, ...]) -> Array:
        """Return ``(S, K)`` the errors of the gaps of a grid."""
        none = self.num_steps
        gaps = np.array(list(zip((none, *steps), steps, (*steps[1:], none), strict=False)))
        keys = self.gaps @ [(none + 1) ** 2, none + 1, 1]
        order = np.argsort(keys)
        return self.weighted[:, order[np.searchsorted(keys, gaps @ [(none + 1) ** 2, none + 1, 1], sorter=order)]]


def gap_errors(trace: Trace, grid: Grid, kind: str, *, recorded: str) -> GapErrors:
    """Score every gap of every grid.

    Args:
        trace: With `CLEAN` predictions.
        grid: Their levels of noise.
        kind: The solver that is to step through the grid, one of `GRID_SOLVERS`.
        recorded: The one that stepped through the fine grid, likewise: a grid of all steps of the same one is
            off by nothing.

    Raises:
        OptionError: Either is another.
    """
    gram, steps = trace.gram(CLEAN), trace.num_steps
    half = -np.log(np.array(grid.levels))
    before = np.concatenate([[np.nan], half[:-2]]) if steps > 1 else half[:0]
    fine = np.zeros((steps, steps))  # row k: how the predictions are weighed in the change from 0 to k
    of_step = solver_weights(recorded, before, half[:-1], half[1:])
    for k in range(steps - 1):
        fine[k + 1] = fine[k]
        fine[k + 1, [max(k - 1, 0), k, k + 1]] += of_step[k] * [k > 0, 1, 1]
    levels, share = np.array(grid.levels), np.array(grid.sigmas)
    if np.allclose(levels, share):  # variance preserving
        share = levels / np.sqrt(1.0 + levels**2)
    norms = np.maximum(trace.final_norm, np.finfo(float).tiny) if trace.final_norm.size else np.ones(trace.samples)
    gaps, errors = [], []
    for now in range(steps):
        earlier = np.append(np.arange(now), steps)
        past = np.append(half[:now], np.nan)
        for after in range(now + 1, steps):
            reached = fine[after] - fine[now]
            seen = gram @ reached
            index = np.stack([np.minimum(earlier, now), np.full_like(earlier, now), np.full_like(earlier, after)], axis=-1)
            weights = solver_weights(kind, past, half[now], half[after])
            both = np.einsum("nk,snk->sn", weights, seen[:, index])
            square = squared_error(gram, index, weights) - 2 * both + (seen @ reached)[:, None]
            gaps.append(np.stack([earlier, index[:, 1], index[:, 2]], axis=-1))
            errors.append(np.sqrt(np.maximum(square, 0.0)) * share[after])
        last = squared_error(gram, np.array([now, steps - 1]), np.array([1.0, -1.0]))
        gaps.append(np.stack([earlier, np.full_like(earlier, now), np.full_like(earlier, steps)], axis=-1))
        errors.append(np.repeat(np.sqrt(last)[:, None], len(earlier), axis=1))
    return GapErrors(num_steps=steps, gaps=np.concatenate(gaps), weighted=np.concatenate(errors, axis=1) / norms[:, None])


def plan_grid(
    trace: Trace,
    *,
    solver: str | None = None,
    budget: int | None = None,
    objective: Combining = "gaps",
    over: Over = "mean",
    limits: Limits | None = None,
    samples: Sequence[int] | None = None,
) -> SchedulePlan:
    """Plan a solver's steps for every number of evaluations.

    Args:
        trace: Recorded with the data predictions (``--sites clean``) on a fine grid.
        solver: What is to step through the grid, one of `GRID_SOLVERS`; None for what the trace was recorded
            with.
        budget: The number of evaluations that is chosen in the plan; None takes about a quarter of the steps.
        objective: How errors of gaps add up. ``"gaps"``: each in a direction of its own, so that their squares
            do. ``"sum"``: all push in one direction.
        over: The mean over the samples, or in each gap the worst sample.
        limits: What every grid must do.
        samples: Which samples to plan for; None for all.

    Returns:
        A plan whose steps are those of the fine grid that are visited at all; ``uniform`` is the predicted error
        of as many spread evenly over it.

    Raises:
        OptionError: The trace has no data predictions, the solver cannot be planned for, the limits leave no
            grid, the budget is not among them, or another value is out of range.
    """
    check_words(objective=(objective, get_args(Combining)), over=(over, get_args(Over)))
    if trace.grid is None or CLEAN not in trace.sites:
        raise OptionError("a grid is planned from data predictions, and this trace has none; record with --solver dpmpp_2m --steps 100 --sites clean")
    if len(trace.grid.timesteps) != trace.num_steps:
        raise OptionError(
            f"the trace has {trace.num_steps} steps of a grid of {len(trace.grid.timesteps)}, as image to image leaves them; record with text to image"
        )
    recorded = trace.grid.solver.partition(":")[0]
    kind = recorded if solver is None else solver
    limits = limits or Limits()
    forced = limits.forced(trace.num_steps)
    errors = gap_errors(trace, trace.grid, kind, recorded=recorded)
    power = 2 if objective == "gaps" else 1
    found, chosen = schedules_of(
        trace,
        until_of=lambda sample: errors.until(errors.weighted[sample] ** power, forced),
        gaps_of=lambda steps: errors.of(steps) ** power,
        even=lambda count: even_steps(count, trace.num_steps),
        samples=chosen_samples(samples, trace.samples),
        power=power,
        over=over,
        limits=limits,
        budget=budget,
    )
    return SchedulePlan(
        signature=trace.signature,
        predictor="taylor:max_order=1",
        target="output",
        site=str(CLEAN),
        objective=f"{objective}, {over}",
        budgets=found,
        chosen=chosen,
        seed=trace.seed,
        samples=trace.samples if samples is None else len(samples),
        grid=attrs.evolve(trace.grid, solver=kind),
        between="not visited",
    )


def solver_of(plan: SchedulePlan, number: int | None = None) -> Solver:
    """Return a solver that visits the steps of a plan, of a budget (None: the chosen one): for lanes, and
    ``solver_of(plan).instead_of(pipe.scheduler)`` for a pipeline.

    Raises:
        OptionError: As `SchedulePlan.visited`, or the plan is of the pipeline's own scheduler.
    """
    visited = plan.visited(number)
    return Solver(kind=visited.solver.partition(":")[0], timesteps=visited.timesteps)


def sigmas_for(plan: SchedulePlan, scheduler: Any, number: int | None = None, *, mu: float | None = None) -> list[float]:
    """Return the ``(K,)`` noise levels to call a pipeline with, ``pipe(sigmas=...)``, so that its own scheduler,
    which shifts what it is given, visits those of a plan.

    Args:
        plan: Of flow matching.
        scheduler: The pipeline's.
        number: The budget's; None for the chosen one.
        mu: The logarithm of the shift where the scheduler has it from the pipeline (``use_dynamic_shifting``),
            as that works it out from the size of the picture.

    Raises:
        OptionError: Its shift cannot be undone, or ``mu`` is missing; or as `SchedulePlan.visited`.
    """
    config, name = scheduler.config, type(scheduler).__name__
    bent = [what for what in ("shift_terminal", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas") if config.get(what)]
    if bent:
        raise OptionError(f"{name} has {bent[0]}, which cannot be undone; write pipe.scheduler = solver_of(plan).instead_of(pipe.scheduler)")
    shift = config.get("shift", config.get("flow_shift", 1.0))
    if config.get("use_dynamic_shifting"):
        if mu is None:
            raise OptionError(f"{name} shifts by what the pipeline says: write mu=, or pipe.scheduler = solver_of(plan).instead_of(pipe.scheduler)")
        shift = mu if config.get("time_shift_type") == "linear" else math.exp(mu)
    return [sigma / (shift - (shift - 1.0) * sigma) for sigma in plan.visited(number).sigmas]


def even_steps(count: int, num_steps: int) -> tuple[int, ...]:
    """Spread so many steps evenly from the first to the last.

    >>> even_steps(4, 10)
    (0, 3, 6, 9)
    """
    return tuple(round(i * (num_steps - 1) / max(count - 1, 1)) for i in range(count))
