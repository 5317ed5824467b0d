"""A gate that is given a share of the work, and not a threshold.

A threshold belongs to a model, a metric and a sampler; a share of the work belongs to the user. This gate
probes the first block in every step, as CG-Taylor does, and computes a sample where the errors that it has
gathered since it was last computed are large *for this sample*. How large that is, it finds out on the way:
each row has a scale of its own, set by the first error measured and pulled along so that the row keeps pace.

The account comes out because it is simple. In every step behind the warm-up a row is probed, for 1 block, or
computed, for all L of them. Then a run of T steps with m computed ones costs T + (L - 1) m blocks a row, and
a budget of B blocks pays for m = (B - T) // (L - 1).
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import attrs
import torch

from foreseer import OUTPUT, Evidence, Needs, OptionError, Outcome, Plan, Probe, Run, Site, Step, Verdict, hookimpl
from foreseer.metrics import relative_l1
from foreseer.options import Range, at_least, checked
from foreseer.policies import PredictorLike, predictor_from, taylor

__all__ = ["BudgetGate", "budget", "computed_steps"]

GROWTH = 1.5
"""Errors gathered over x steps grow about as x to this power."""
GAIN = 0.3
"""How fast a row's scale moves: by this power of e, for every computed step more than the pace asks for."""
NOTHING = 1e-12
"""Relative errors below this are rounding: a row whose features stand still has no scale yet."""


def computed_steps(fraction: float, *, steps: int, depth: int) -> int:
    """How many steps of each row a share of the block-rows pays for, the probes of the other steps included.

    >>> computed_steps(0.25, steps=50, depth=12)
    9
    """
    blocks = math.floor(fraction * steps * depth + 1e-9)  # 0.28 * 50 * 12 is a little less than 168
    return (blocks - steps) // (depth - 1)


@attrs.define(eq=False)
class _Row:
    """What is kept for a row: computed steps left, the sum of the errors since it was last computed, and what
    errors would gather in one step, judged by those so far; None before one was measured.
    """

    left: int
    gathered: float = 0.0
    scale: float | None = None

    def pace(self, remaining: int) -> float:
        """Computed steps left, over steps left (this one included)."""
        return min(self.left / remaining, 1.0)

    def allowed(self, remaining: int) -> float:
        """What the errors may add up to in this step: as much as they gather from one computed step to the
        next, at this pace; inf where the budget is used up. Before anything was measured 1, which refuses
        only a forecast that is no better than zero.
        """
        if not self.left:
            return math.inf
        return 1.0 if self.scale is None else max(self.scale, NOTHING) * self.pace(remaining) ** -GROWTH

    def learn(self, gathered: float, remaining: int, *, computed: bool) -> None:
        """Move the scale after a step that was judged; ``gathered`` has this step's error in it."""
        if self.scale is None or self.scale <= NOTHING:
            self.scale = gathered
        else:
            self.scale *= math.exp(GAIN * (computed - self.pace(remaining)))
        self.gathered = gathered


@attrs.define(eq=False)
class BudgetGate:
    """Gate: probe the first block in every step, and compute a row's share of the steps where its errors are
    largest. Rows are also probed in the steps in which they can no longer be computed: a row must cost, and
    get, in a batch what it would alone.

    Attributes: as the options of `budget`, ``verified``: no forecast is used unseen, and ``decide``: each
    sample by itself.
    """

    verified: ClassVar[bool] = True
    decide: ClassVar[str] = "row"
    fraction: float
    target: Literal["last_block", "output"] = "last_block"
    warmup_steps: int = 2
    _groups: tuple[int, ...] = attrs.field(default=(), init=False, repr=False)
    _sites: tuple[Site, ...] = attrs.field(default=(), init=False, repr=False)
    _rows: list[_Row] = attrs.field(factory=list, init=False, repr=False)
    _warmup: int = attrs.field(default=0, init=False, repr=False)
    _steps: int = attrs.field(default=0, init=False, repr=False)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Find out what the budget pays for."""
        if run.num_steps is None:
            raise OptionError("budget spreads its work over the run and must know how long it is: give the run timesteps= or num_steps=")
        if run.depth < 2:
            raise OptionError("budget judges by the first block, and this model has no other: use taylorseer:target=last_block, with an interval")
        steps, computed = run.num_steps, computed_steps(self.fraction, steps=run.num_steps, depth=run.depth)
        if computed < 1:
            least = math.ceil((steps + run.depth - 1) / (steps * run.depth) * 1e4) / 1e4
            raise OptionError(
                f"budget: fraction={self.fraction} does not pay for the first step of {steps} steps with {run.depth} blocks and a probe in each of the others; "
                f"write {least:g} or more"
            )
        self._warmup = min(self.warmup_steps, computed)
        note = ""
        if self._warmup < min(self.warmup_steps, steps):
            note = (
                f"budget: fraction={self.fraction} pays for {computed} computed steps of {steps}, fewer than warmup_steps={self.warmup_steps}: "
                "no other step is computed"
            )
        self._steps, self._groups = steps, run.groups
        self._sites = (Site(0), OUTPUT if self.target == "output" else Site(run.depth - 1))
        self._rows = [_Row(computed) for _ in range(run.rows)]
        return Needs(sites=self._sites, note=note)

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Rows with as many computed steps left as there are steps are computed; the others are judged."""
        if step.index < self._warmup:
            return Plan(reason="warm-up")
        due = tuple(row.left >= self._steps - step.index for row in self._rows)
        if all(due):
            return Plan(reason="the budget pays for all steps that are left")
        return Plan(forecast=self._sites, probe=Probe(0, on="input"), compute=due)

    @hookimpl
    def verify(self, step: Step, evidence: Evidence) -> Verdict:
        """Errors gathered since a row was last computed, this one included, over what the row is allowed."""
        error = evidence.error(relative_l1, groups=self._groups)
        gathered = error + error.new_tensor([row.gathered for row in self._rows])
        share = gathered / error.new_tensor([row.allowed(self._steps - step.index) for row in self._rows])
        return Verdict(share, torch.le(share, 1.0), 1.0)

    @hookimpl
    def commit(self, step: Step, outcome: Outcome) -> None:
        """Keep the accounts."""
        for row, computed, share in zip(self._rows, outcome.computed, outcome.error, strict=True):
            if row.left and math.isfinite(share):
                row.learn(share * row.allowed(self._steps - step.index), self._steps - step.index, computed=computed)
            if computed:
                row.left, row.gathered = max(row.left - 1, 0), 0.0


@checked
def budget(
    *,
    fraction: Annotated[float, Range(float, 0.0, 1.0, open_low=True)] = 0.35,
    predictor: PredictorLike = taylor,
    max_order: Annotated[int, at_least(0)] = 1,
    target: Literal["last_block", "output"] = "last_block",
    warmup_steps: Annotated[int, at_least(1)] = 2,
) -> tuple[BudgetGate, object]:
    """Spend a given share of the work where the measured error is largest.

    Every row ends within one step of ``fraction``, and never above it. The run must know its number of steps.

    Args:
        fraction: Block-rows, over those of computing everything; the probes count.
        predictor: Another predictor, by name or factory.
        max_order: Order of the forecasts.
        target: ``"last_block"``: its output is forecast, and the head of the current step runs. ``"output"``:
            the denoiser's output is.
        warmup_steps: Computed steps at the start; fewer, and a note in the report, where the budget does not
            pay for them.
    """
    return BudgetGate(fraction, target, warmup_steps), predictor_from(predictor, max_order=max_order, warmup_steps=warmup_steps)
