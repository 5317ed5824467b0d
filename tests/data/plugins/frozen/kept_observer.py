"""An observer for foreseer: print a line per step, and a sum at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from foreseer import Outcome, Report, Run, Step, hookimpl
from foreseer.options import at_least, checked

__all__ = ["KeptObserver", "kept_observer"]


@dataclass(eq=False)  # plugins are compared by identity
class KeptObserver:
    """Observer: say how each step ended. It decides nothing."""

    every: int
    computed: int = field(default=0, init=False)
    forecast: int = field(default=0, init=False)

    @hookimpl
    def on_run_start(self, run: Run) -> None:
        """Begin to count anew: an observer that was named stays for all runs of an attachment."""
        self.computed = self.forecast = 0

    @hookimpl
    def on_step(self, step: Step, outcome: Outcome) -> None:
        """CHANGE: what is done with a step. An outcome is on the host: reading it makes nobody wait."""
        computed, rows = sum(outcome.computed), len(outcome.computed)
        self.computed += computed
        self.forecast += rows - computed
        if step.index % self.every == 0:
            print(f"step {step.index}: {computed} of {rows} rows computed ({outcome.reason})")

    @hookimpl
    def on_run_end(self, report: Report) -> None:
        """CHANGE: what is done at the end; this is called also where an exception ended the run."""
        print(f"{report.policy}: {self.computed} rows computed, {self.forecast} forecast")


@checked
def kept_observer(
    *,
    every: Annotated[int, at_least(1)] = 1,
) -> KeptObserver:
    """Print a line per step, and a sum at the end.

    The first line is what ``foreseer policies`` prints; the rest is for ``foreseer show``.

    Args:
        every: Print every how-manieth step.
    """
    return KeptObserver(every)
