"""Observers: they watch any run through to its end."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from foreseer.plugins import observer_hooks
from foreseer.registry import PolicySpec
from foreseer.report import Report
from foreseer.session import Session
from foreseer.testing.check import broken, law
from foreseer.testing.partners import ReferenceGate, ReferencePredictor, ReferenceProbe
from foreseer.testing.plays import STEPS, run_of
from foreseer.testing.subject import Capabilities, Subject
from foreseer.testing.worlds import Interrupted, World, mixed
from foreseer.types import Outcome

__all__ = ["CHECKS", "check_observer_survives"]


def check_observer_survives(subject: Subject) -> str:
    """An observer watches any run through: of one row or three, of known length or not, interrupted or empty, two in turn; and it changes nothing it is shown.

    Why: an observer that raises is dropped for the rest of the run, and its picture or its file is missing when the run is over. Guidance in two calls is
    two runs that take turns, so that an observer of a real pipeline is told of both.

    Would have caught: nine of the twenty lines of cache-dit's summary say that something cannot be found, and none which guard refused which step. Running a
    second pipeline overwrites the first one's statistics there.
    """
    reports = {
        "three rows": [_report(World(mixed))],
        "one row": [_report(World(mixed, labels=(1,)))],
        "an unknown number of steps": [_report(World(mixed), num_steps=None)],
        "an interrupted run": [_report(World(mixed, fails_at=7))],
        "a run of no step": [_report(World(mixed), steps=0)],
        "two streams in turn": [_report(World(mixed), stream="cond"), _report(World(mixed, labels=(2,)), stream="uncond")],
    }
    told = 0
    for what, streams in reports.items():
        hooks = observer_hooks(subject.spec())
        before = [[_told(outcome) for outcome in report.outcomes] for report in streams]
        for hook, values in _calls(streams):
            for listener in hooks[hook]:
                try:
                    listener(values)
                except Exception as error:
                    broken(
                        f"with {what}, {hook} raised {type(error).__name__}: {error}",
                        "Expect NaN errors, accept=None, num_steps=None, runs of any length, and runs that take turns",
                    )
                told += 1
        if before != [[_told(outcome) for outcome in report.outcomes] for report in streams]:
            broken(
                f"with {what}, it changed the outcomes that it was shown",
                "Outcomes are shared with the report and with other observers: copy before you change",
            )
    return f"told {told} times"


def _report(world: World, *, num_steps: int | None = STEPS, steps: int = STEPS, stream: str = "") -> Report:
    """What a reference policy does in a world, up to its end or an interruption."""
    run = attrs.evolve(run_of(world, num_steps=num_steps), stream=stream)
    session = Session(world, PolicySpec("reference", lambda: (ReferenceProbe(), ReferenceGate(), ReferencePredictor())), run)
    with contextlib.suppress(Interrupted):
        for index in range(steps):
            session.evaluate(index)
    return session.finish()


def _calls(streams: Sequence[Report]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a session tells its observers: a run has begun with its first finished step, and streams take turns."""
    for steps in itertools.zip_longest(*(report.outcomes for report in streams)):
        for report, outcome in zip(streams, steps, strict=True):
            if outcome is not None and outcome is report.outcomes[0]:
                yield "on_run_start", {"run": report.run}
            if outcome is not None:
                yield "on_step", {"run": report.run, "step": outcome.step, "outcome": outcome}
    for report in streams:
        if not report.outcomes:
            yield "on_run_start", {"run": report.run}
        yield "on_run_end", {"report": report}


def _told(outcome: Outcome) -> str:
    return str({field.name: getattr(outcome, field.name) for field in attrs.fields(Outcome)})


def _observers(can: Capabilities) -> str:
    return "" if can.observer else "it is a policy, not an observer"


CHECKS = (law(check_observer_survives, "observer", _observers),)
