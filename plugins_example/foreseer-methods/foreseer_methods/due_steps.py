"""When each row is computed next, for schedules that know it from one computed step to the next."""

from __future__ import annotations

from collections.abc import Callable

from foreseer.outcome import Outcome
from foreseer.types import Plan, Site, Step

__all__ = ["DueSteps"]


class DueSteps:
    """Each row's next computed step; 0 at first.

    Args:
        rows: Number of rows, R.
    """

    def __init__(self, rows: int) -> None:
        self._due = [0] * rows

    def plan(self, step: Step, sites: tuple[Site, ...], reason: str) -> Plan:
        """Compute the rows that are due, forecast the others at ``sites``.

        Args:
            step: The step.
            sites: What is forecast.
            reason: Why, where all rows are due.
        """
        due = tuple(step.index >= at for at in self._due)
        return Plan(reason=reason) if all(due) else Plan(forecast=sites, compute=due)

    def commit(self, outcome: Outcome, gap: Callable[[int], int]) -> None:
        """Note when the rows that were computed are due again.

        Args:
            outcome: How the step ended.
            gap: ``row -> steps`` from this computed step of that row to its next.
        """
        for row, computed in enumerate(outcome.computed):
            if computed:
                self._due[row] = outcome.step.index + gap(row)
