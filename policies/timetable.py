"""Which steps a planned schedule computes, and for which runs that holds: a plan's, or those of a list."""

from __future__ import annotations

import contextlib
import itertools
import re
from pathlib import Path
from typing import Any

import attrs

from foreseer.errors import OptionError
from foreseer.reading import Written
from foreseer.schedule_plan import SchedulePlan, stretched
from foreseer.types import Run

__all__ = ["Timetable", "read_schedule", "timetable_from"]

_LIST = "the computed steps, rising from 0, such as 0+1+4+9 or 0+1+4+9/50"
_NO_FILE = re.compile(r"[\d\s+/,-]*")
"""Nobody calls a file so."""


@attrs.frozen
class Timetable:
    """Which steps are computed, and for which runs that holds.

    Attributes:
        steps: Indices of the computed steps, rising from 0; None computes every step.
        num_steps: Of the runs that it is for; None where a list did not say.
        plan: The plan that it comes from, whose signature a run must fit; None for a list.
        interpolate: Map it to another number of steps instead of refusing the run.
        any_model: Do not compare model and scheduler.
        notes: Sentences for the report.
    """

    steps: tuple[int, ...] | None
    num_steps: int | None = None
    plan: SchedulePlan | None = attrs.field(default=None, repr=False)
    interpolate: bool = False
    any_model: bool = False
    notes: tuple[str, ...] = ()

    def longest(self, run: Run | None) -> int | None:
        """Most forecasts in a row in this run, or in any (None); None where that depends on the run."""
        if self.steps is None:
            return 0
        steps, length = self.steps, self.num_steps
        if self.interpolate:
            if run is None or run.num_steps is None or length is None:
                return None
            steps, length = stretched(steps, length, run.start + run.num_steps), run.start + run.num_steps
        ends = steps if length is None else (*steps, length)
        return max((b - a - 1 for a, b in itertools.pairwise(ends)), default=0)

    def for_run(self, run: Run) -> tuple[frozenset[int] | None, tuple[str, ...]]:
        """Return the steps to compute in this run (None: all), and sentences for the report.

        A schedule is of a whole sampling. Of a stream that begins in the middle of one, or begins anew, it
        says the rest.

        Raises:
            OptionError: It is for other runs; the message says what differs.
        """
        if self.steps is None:
            return None, ("planned has no schedule, so that every step is computed; write planned:schedule=plan.json, or schedule=0+1+4+9",)
        if run.num_steps is None:
            raise OptionError("planned must know how many steps the run has: give the run timesteps= or num_steps=")
        if run.start:
            steps, notes = self.for_run(run.whole())
            return None if steps is None else frozenset(step - run.start for step in steps if step >= run.start), notes
        if self.plan is not None:
            self._refuse_other(self.plan, run)
        if self.num_steps is None:
            self._refuse_tail(run.num_steps)
        elif self.num_steps != run.num_steps:
            if not self.interpolate:
                raise OptionError(f"planned: the schedule is for {self.num_steps} steps and the run has {run.num_steps}; plan again, or write interpolate=True")
            longer = stretched(self.steps, self.num_steps, run.num_steps)
            note = f"the schedule was planned for {self.num_steps} steps and is stretched to {run.num_steps}; its predicted error does not hold here"
            return frozenset(longer), (*self.notes, note)
        return frozenset(self.steps), self.notes

    def _refuse_other(self, plan: SchedulePlan, run: Run) -> None:
        anywhere = attrs.evolve(run, model="", scheduler="", timesteps=None)

        def conflicts(*, interpolate: bool, any_model: bool) -> list[str]:
            return plan.signature.conflicts(anywhere if any_model else run, other_steps=interpolate and run.num_steps != plan.num_steps)

        found = conflicts(interpolate=self.interpolate, any_model=self.any_model)
        if found:
            steps, model = self.interpolate or run.num_steps != plan.num_steps, bool(conflicts(interpolate=True, any_model=self.any_model))
            asked = [what for what, helps in (("interpolate=True", steps and not self.interpolate), ("any_model=True", model and not self.any_model)) if helps]
            raise OptionError(f"planned: the plan was made for other runs: {'; '.join(found)}; plan again for this one, or write {' and '.join(asked)}")

    def _refuse_tail(self, num_steps: int) -> None:
        assert self.steps is not None
        last, text = self.steps[-1], "+".join(map(str, self.steps))
        if last >= num_steps or num_steps - 1 - last > (self.longest(None) or 0):
            raise OptionError(f"planned: schedule={text} ends at step {last} and the run has {num_steps}; if that is meant write schedule={text}/{num_steps}")


def read_schedule(schedule: Any) -> Any:
    """Return a plan's file together with the plan in it; a list, a plan, or what is none of this as it is.

    Raises:
        OptionError: As `SchedulePlan.load`.
    """
    named = isinstance(schedule, (str, Path)) and not isinstance(schedule, Written)
    if not named or _NO_FILE.fullmatch(str(schedule)):
        return schedule
    return Written(str(schedule), SchedulePlan.load(schedule))


def timetable_from(schedule: Any, budget: int | None, *, interpolate: bool, any_model: bool) -> Timetable:
    """Read the options of `foreseer.policies.planned`.

    Raises:
        OptionError: ``schedule`` is none, or the options do not fit one another; the message says what to
            write.
    """
    if schedule is None:
        return Timetable(None)
    schedule = read_schedule(schedule)
    if isinstance(schedule, Written):
        schedule = schedule.value
    if isinstance(schedule, SchedulePlan):
        return Timetable(schedule.budget(budget).steps, schedule.num_steps, schedule, interpolate, any_model)
    steps: list[Any] = [schedule] if isinstance(schedule, int) else []
    length: int | None = None
    if isinstance(schedule, str):
        match = re.fullmatch(r"\s*(\d+(?:\s*\+\s*\d+)*)\s*(?:/\s*(\d+))?\s*", schedule)
        steps = [int(step) for step in match[1].split("+")] if match else []
        length = int(match[2]) if match and match[2] else None
    else:
        with contextlib.suppress(TypeError):
            steps = [*schedule]
    whole = all(isinstance(step, int) and not isinstance(step, bool) for step in steps)
    if not whole or steps[:1] != [0] or any(a >= b for a, b in itertools.pairwise(steps)):
        raise OptionError(f"planned: schedule={schedule!r} is no schedule; write {_LIST}, or a plan's file")
    if budget is not None:
        raise OptionError(f"planned: budget={budget} chooses among the schedules of a plan, and schedule={schedule!r} is a list; leave it out")
    if length is not None and length <= steps[-1]:
        raise OptionError(
            f"planned: schedule={schedule!r} computes step {steps[-1]} of a run whose steps are 0 to {length - 1}; write the number of steps behind /"
        )
    if interpolate and length is None:
        text = "+".join(map(str, steps))
        raise OptionError(f"planned: interpolate=True needs to know how many steps schedule={text} is for; write schedule={text}/{steps[-1] + 1}")
    return Timetable(tuple(steps), length, None, interpolate, any_model)
