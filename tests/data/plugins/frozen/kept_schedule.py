"""A schedule for foreseer: compute the first and the last steps, and every few in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from foreseer import Needs, Outcome, Plan, Run, Site, Step, hookimpl
from foreseer.options import at_least, checked
from foreseer.policies import DraftCounter, PredictorLike, predictor_from, taylor

__all__ = ["KeptSchedule", "kept_schedule"]


@dataclass(eq=False)  # plugins are compared by identity
class KeptSchedule:
    """Schedule: compute both ends of a run, and every ``interval``-th step between. Options as in its factory."""

    interval: int
    first_steps: int
    last_steps: int
    _drafted: DraftCounter = field(default_factory=lambda: DraftCounter(0), init=False, repr=False)
    _end: float = field(default=float("inf"), init=False, repr=False)
    _sites: tuple[Site, ...] = field(default=(), init=False, repr=False)

    # What this schedule promises; foreseer's conformance kit holds it to that.
    verified: ClassVar[bool] = False  # forecasts are used unseen
    decide: ClassVar[str] = "row"  # every row by its own count

    @property
    def max_draft_steps(self) -> int:
        """Forecasts in a row after which a row is computed."""
        return self.interval - 1

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record what will be forecast."""
        self._drafted = DraftCounter(run.rows)
        self._end = float("inf") if run.num_steps is None else run.num_steps - self.last_steps
        self._sites = (Site(run.depth - 1),)  # CHANGE: `foreseer.policies.draft_needs` has other targets
        unknown = run.num_steps is None and self.last_steps > 0
        note = "the number of steps is unknown, so the last ones cannot be treated as such" if unknown else ""
        return Needs(sites=self._sites, note=note)

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """CHANGE: which steps are computed. No tensors here: the device must not be waited for."""
        if step.index < self.first_steps or step.index >= self._end:
            return Plan(reason="near an end of the run")
        due = self._drafted.exhausted(self.interval - 1)
        return Plan(forecast=self._sites, compute=due, reason=f"interval of {self.interval}")

    @hookimpl
    def commit(self, outcome: Outcome) -> None:
        """Count what really happened, which is not always what was planned."""
        self._drafted.commit(outcome)


@checked
def kept_schedule(
    *,
    interval: Annotated[int, at_least(1)] = 4,
    first_steps: Annotated[int, at_least(1)] = 4,
    last_steps: Annotated[int, at_least(0)] = 2,
    max_order: Annotated[int, at_least(0)] = 1,
    predictor: PredictorLike = taylor,
) -> tuple[KeptSchedule, object]:
    """Compute the first and the last steps, and every few in between.

    The first line is what ``foreseer policies`` prints; the rest is for ``foreseer show``.

    Args:
        interval: Steps from one computed step to the next, between the ends.
        first_steps: Computed steps at the start.
        last_steps: Computed steps at the end.
        max_order: Highest order of the forecast.
        predictor: Another predictor, by name or factory.
    """
    schedule = KeptSchedule(interval, first_steps, last_steps)
    return schedule, predictor_from(predictor, max_order=max_order)
