"""Observers: they watch any run through to its end."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from unittest import mock

import attrs
import torch

from foreseer.outcome import Outcome
from foreseer.registry import PolicySpec
from foreseer.report import Report
from foreseer.session import Session
from foreseer.testing.check import broken, law, observes
from foreseer.testing.lifetime import SORTED, sets_in_another_order
from foreseer.testing.partners import ReferenceGate, ReferenceObserver, ReferencePredictor, ReferenceProbe
from foreseer.testing.plays import STEPS, run_of
from foreseer.testing.process import changed_since, left_behind, snapshot
from foreseer.testing.subject import Subject
from foreseer.testing.worlds import MANY, Interrupted, World, mixed, replaced


@law("observer", observes, "told of {} steps")
def check_observer_survives(subject: Subject) -> int:
    """An observer watches any run through: of one row or many, of known length or not, interrupted or empty,
    two in turn; and it changes nothing it is shown.

    All of its hooks are called, whether it asks for features and shadow steps or another observer does. What
    it asks to see does not depend on the order of a set, which is another in every process.

    Why: an observer that raises is dropped for the rest of the run, and its picture or its file is missing
    when the run is over. Guidance in two calls is two runs that take turns, so that an observer of a real
    pipeline is told of both.

    Would have caught: nine of the twenty lines of cache-dit's summary say that something cannot be found, and
    none which guard refused which step. Running a second pipeline overwrites the first one's statistics
    there.
    """
    told = 0
    for what, streams in SITUATIONS.items():
        together = _reports(streams, subject.spec())
        for alone, watched in zip(_alone(what), together, strict=True):
            dropped = next((warning for warning in watched.warnings if warning.startswith("observer ")), "")
            if dropped:
                broken(
                    f"with {what}, {dropped}",
                    "Expect NaN errors, accept=None, num_steps=None, runs of any length, features of any shape, and runs that take turns",
                )
            if alone != tuple(map(_told, watched.outcomes)):
                broken(
                    f"with {what}, it changed the outcomes that it was shown",
                    "Outcomes are shared with the report and with other observers: copy before you change",
                )
            told += len(watched.outcomes)
    wanted = set()
    for salt in range(6):
        with sets_in_another_order(salt), mock.patch("foreseer.observing.log"):
            session = _Stream(World(mixed)).session(subject.spec())
            wanted.add(tuple(sorted(map(str, session.tenure.sites))))
    if len(wanted) > 1:
        broken("where sites hash otherwise, as in another process, it asks to see other features", SORTED)
    return told


@law("observer", observes, "{} steps are the same")
def check_observer_changes_nothing(subject: Subject) -> int:
    """A run that is watched is the run that is not: the same output, the same decisions, the same random
    numbers, the same switches of torch.

    Why: a measurement that changes what it measures is none. One random number that an observer draws is
    another image.

    Would have caught: Lightning runs the callbacks of every installed package in the training loop, with all
    that they do to it.
    """
    bare = _bare()
    torch.set_grad_enabled(True)
    before = snapshot()
    watched = _watched(subject.spec())
    changed = changed_since(before)
    if changed:
        broken(
            f"while it watched a run, {'; '.join(changed)} changed",
            "Draw from a generator of your own, and switch in a with statement: with torch.no_grad()",
        )
    if bare != watched:
        broken("the run that it watched came out differently", "Do nothing but look: write to nothing that the observer is told")
    return len(bare)


@law("observer", observes, "two observers share nothing")
def check_observer_is_its_own(subject: Subject) -> None:
    """What an observer has gathered is in that observer, and goes with it: two of a class share nothing, and
    nothing is left in the class or the module.

    Why: two attachments have two observers, and a server has one after the other. A list that all share mixes
    their runs, and grows for ever.

    Would have caught: running a second pipeline overwrites the first one's statistics in cache-dit, which
    keeps them on a class.
    """
    instead = "Make what it gathers in __init__ or on_run_start: no mutable default argument, no list in the class or the module"
    first, second = subject.spec(), subject.spec()
    before = [_shown(observer) for observer in second]
    _watched(first)
    if before != [_shown(observer) for observer in second]:
        broken("a run that one observer watched is noted in another one of its class", instead)
    sizes = []
    for _ in range(3):
        _watched(subject.spec())
        sizes.append(left_behind(second))
    if sizes[2] > sizes[1] > sizes[0]:
        broken(f"after each run there is more in its class or module: {sizes[0]}, {sizes[1]}, {sizes[2]} entries", instead)


def _shown(observer: object) -> list[str]:
    """An observer's attributes in print, those of its class among them."""
    values = []
    for name in dir(observer):
        with contextlib.suppress(Exception):  # a property may need a run
            value = None if name.startswith("__") else getattr(observer, name)
            values.append("" if callable(value) else f"{name}={value!r}")
    return values


def _watched(observers: Sequence[object]) -> list[str]:
    """What happens and comes out in each step of a session that is watched."""
    with mock.patch("foreseer.observing.log"):
        session = _Stream(World(mixed)).session((*observers, ReferenceObserver()))
        outputs = [session.evaluate(index) for index in range(STEPS)]
        steps = zip(session.finish().outcomes, outputs, strict=True)
    return [f"{_told(outcome)} {output.tolist()}" for outcome, output in steps]


@functools.cache
def _bare() -> list[str]:
    """The same of one that no observer under examination watches."""
    return _watched(())


@attrs.frozen(eq=False)
class _Stream:
    """A run of the reference policy."""

    world: World
    known: bool = True
    steps: int = STEPS
    stream: str = ""
    groups: tuple[int, ...] | None = None
    sigmas: bool = False
    start: int = 0

    def session(self, observers: Sequence[object]) -> Session:
        run = run_of(self.world, num_steps=max(self.steps, STEPS), groups=self.groups, sigmas=self.sigmas)
        run = attrs.evolve(run, stream=self.stream, start=self.start)
        if not self.known:
            run = attrs.evolve(run, num_steps=None, timesteps=None)
        policy = PolicySpec("reference", lambda: (ReferenceProbe(), ReferenceGate(), ReferencePredictor()))
        return Session(self.world, policy, run, observers=observers)


SITUATIONS: dict[str, tuple[_Stream, ...]] = {
    "three rows": (_Stream(World(mixed)),),
    "one row": (_Stream(World(mixed, labels=(1,))),),
    "many rows of bfloat16, of several tokens": (_Stream(World(mixed, labels=MANY, dtype=torch.bfloat16, tokens=6)),),
    "latents of two dimensions": (_Stream(World(mixed, tokens=6, square=True)),),
    "rows that are one sample, and noise levels": (_Stream(World(mixed), groups=(4, 1, 4), sigmas=True),),
    "a run that begins late": (_Stream(World(mixed), start=9),),
    "features that are NaN": (_Stream(World(replaced(mixed, 1, math.nan))),),
    "an unknown number of steps": (_Stream(World(mixed), known=False),),
    "an interrupted run": (_Stream(World(mixed, fails_at=7)),),
    "a run of no step": (_Stream(World(mixed), steps=0),),
    "two streams in turn": (_Stream(World(mixed), stream="cond"), _Stream(World(mixed, labels=(2,)), stream="uncond")),
    "sixty blocks and a hundred steps": (_Stream(World(mixed, labels=(1,), depth=60), steps=100),),
}
"""In words, and the streams that take turns; the longest last."""


@functools.cache
def _alone(what: str) -> tuple[tuple[str, ...], ...]:
    """What is told of each stream where no observer under examination watches. The same for all of them."""
    return tuple(tuple(map(_told, report.outcomes)) for report in _reports(SITUATIONS[what], ()))


def _reports(streams: Sequence[_Stream], observers: Sequence[object]) -> list[Report]:
    """What comes of streams that take turns, up to their end or an interruption, watched by these and by one
    who wants to see everything.
    """
    with mock.patch("foreseer.observing.log"):
        sessions = [stream.session((*observers, ReferenceObserver())) for stream in streams]
        with contextlib.suppress(Interrupted):
            for index in range(max(stream.steps for stream in streams)):
                for stream, session in zip(streams, sessions, strict=True):
                    if index < stream.steps:
                        session.evaluate(index)
        return [session.finish() for session in sessions]


def _told(outcome: Outcome) -> str:
    return str({field.name: getattr(outcome, field.name) for field in attrs.fields(Outcome) if field.name != "seconds"})
