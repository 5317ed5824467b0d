"""Observers: they watch any run through to its end."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import attrs

from foreseer.plugins import observer_hooks
from foreseer.registry import PolicySpec
from foreseer.session import Session
from foreseer.testing.check import broken, law
from foreseer.testing.partners import ReferenceGate, ReferencePredictor, ReferenceProbe
from foreseer.testing.plays import STEPS, run_of
from foreseer.testing.subject import Capabilities, Subject
from foreseer.testing.worlds import Interrupted, World, mixed
from foreseer.types import Outcome

__all__ = ["CHECKS", "check_observer_survives"]


def check_observer_survives(subject: Subject) -> str:
    """An observer watches any run through: with one row or three, of known length or not, interrupted or empty; and it changes nothing that it is shown.

    Why: an observer that raises is dropped for the rest of the run, and its picture or its file is missing when the run is over.

    Would have caught: nine of the twenty lines of cache-dit's summary say that something cannot be found, and none which guard refused which step.
    """
    cases: Sequence[tuple[str, World, int | None, int]] = (
        ("three rows", World(mixed), STEPS, STEPS),
        ("one row", World(mixed, labels=(1,)), STEPS, STEPS),
        ("an unknown number of steps", World(mixed), None, STEPS),
        ("an interrupted run", World(mixed, fails_at=7), STEPS, STEPS),
        ("a run of no step", World(mixed), STEPS, 0),
    )
    told = 0
    for what, world, number, steps in cases:
        session = Session(world, PolicySpec("reference", lambda: (ReferenceProbe(), ReferenceGate(), ReferencePredictor())), run_of(world, num_steps=number))
        with contextlib.suppress(Interrupted):
            for index in range(steps):
                session.evaluate(index)
        report = session.finish()
        hooks = observer_hooks(subject.spec())
        before = [_told(outcome) for outcome in report.outcomes]
        calls: list[tuple[str, dict[str, Any]]] = [
            ("on_run_start", {"run": report.run}),
            *(("on_step", {"step": o.step, "outcome": o}) for o in report.outcomes),
            ("on_run_end", {"report": report}),
        ]
        for hook, values in calls:
            for listener in hooks[hook]:
                try:
                    listener(values)
                except Exception as error:
                    broken(
                        f"with {what}, {hook} raised {type(error).__name__}: {error}", "Expect NaN errors, accept=None, num_steps=None and runs of any length"
                    )
                told += 1
        if before != [_told(outcome) for outcome in report.outcomes]:
            broken(
                f"with {what}, it changed the outcomes that it was shown",
                "Outcomes are shared with the report and with other observers: copy before you change",
            )
    return f"told {told} times"


def _told(outcome: Outcome) -> str:
    return str({field.name: getattr(outcome, field.name) for field in attrs.fields(Outcome)})


def _observers(can: Capabilities) -> str:
    return "" if can.observer else "it is a policy, not an observer"


CHECKS = (law(check_observer_survives, "observer", _observers),)
