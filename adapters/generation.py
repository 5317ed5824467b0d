"""One sampling of a denoiser: its steps, and whose each call of a model is.

A stream is what belongs together over the steps. It is told by what the host calls it, else by the text that
it brings, else by its place in the step. Never one history for two things: a forecast for one window from
another's features looks like a picture.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from torch import nn

from foreseer.adapters.arguments import named_arguments, signature_of_call
from foreseer.adapters.telling import Text, Time
from foreseer.declared import Schedule
from foreseer.errors import ContractError, OptionError

__all__ = ["MOST_CALLS", "Generation", "Place"]

NAMELESS = re.compile(r"(^| )call \d+$")
MOST_CALLS = 8
"""Calls of one model within a step. More are no loop: others use the model, or its text always changes."""
CHANGING = 4
"""In how many steps texts must have come that never came again, before texts are taken to tell nothing."""
TOO_MANY = f"more than {MOST_CALLS} of one model in a step, or as many texts of which none came again"


@attrs.frozen
class Place:
    """Where in a generation a call of a model is.

    Attributes:
        run: Counts the generations.
        step: Counts the steps of this one, from 0.
        stream: Which of the calls of a step this is; empty for the first where nothing names it.
        kind: What calls that are alike share, as of `signature_of_call`.
        computed_because: Why it is computed, and belongs to no stream; empty where it does.
    """

    run: int
    step: int
    stream: str
    kind: object
    computed_because: str = ""


@attrs.define(eq=False)
class _Stream:
    """What a stream is known by.

    Attributes:
        text: What is the same in each of its calls.
        site: Where in the pipeline's code it is called.
        born: The step of its first call.
        back: Whether its text came again in a later step.
    """

    text: Text
    site: object
    born: int
    back: bool = False


@attrs.define
class _Number:
    """How many calls that only their place tells apart came in a step, and in the last step that had any."""

    step: int
    now: int = 0
    before: int = 0
    changed: str = ""

    def count(self, step: int) -> None:
        """One more came. Where they are not as many as before, nobody knows whose place each is in."""
        if step != self.step:
            self._hold(self.now < self.before, self.step)
            self.step, self.now, self.before = step, 0, self.now
        self.now += 1
        self._hold(0 < self.before < self.now, step)

    def _hold(self, differs: bool, step: int) -> None:
        if differs and not self.changed:
            self.changed = (
                "calls with one text, which only their place in the step tells apart, "
                f"were {self.before} in a step and then {self.now}; forecasts of step {step} may be from one another's features. "
                "Name each (cache_context, generation.call(stream=...))"
            )


@attrs.define(eq=False)
class _Calls:
    """The calls of one model.

    Attributes:
        streams: By their names, in the order in which they came.
        numbers: Of the calls of each text and kind.
        in_step: Streams that were called in this step.
        made: Calls in this step.
    """

    streams: dict[str, _Stream] = attrs.field(factory=dict)
    numbers: dict[object, _Number] = attrs.field(factory=dict)
    in_step: list[str] = attrs.field(factory=list)
    made: int = 0


class Generation:
    """One sampling of one or several models.

    Args:
        number: Counts the generations of an attachment.
        schedule: What is known of its steps, or says it when it is asked for, at a stream's first call.
        groups: As in `foreseer.Attachment.run`; of calls that do not say their own.
        stream: What to call a stream that nothing else names.
        steps_by_itself: A call begins a step where its stream was called in this step already, or its
            timestep is another. Else `step` does.
        alone: Whether it has one kind of call only, as far as anybody said; None where steps come by themselves.

    Attributes:
        index: Of the step under way; -1 before the first.
        groups: Of the call under way.
        alone: As given.
        by_copies: Whether rows of one sample are to be recognised.
        compute: Why the call under way is computed, whatever the policy says; empty where it decides.
        site: Where in a pipeline's code the call under way was made.
    """

    def __init__(
        self,
        *,
        number: int = 0,
        schedule: Schedule | Callable[[], Schedule],
        groups: Sequence[int] | int | None = None,
        stream: str = "",
        steps_by_itself: bool = False,
        alone: bool | None = None,
    ) -> None:
        _refuse_name(stream)
        given = schedule if isinstance(schedule, Schedule) else Schedule()
        self._per_step = _repeats(given.timesteps) if steps_by_itself else 1
        known = given.every(self._per_step)
        self._ahead = known.timesteps or ()
        self.schedule: Callable[[], Schedule] = (lambda: known) if isinstance(schedule, Schedule) else schedule
        self.alone, self.by_copies = steps_by_itself if alone is None else alone, not isinstance(schedule, Schedule)
        self.number, self.index, self.groups, self.compute = number, -1, groups, ""
        self._stream, self._itself, self._given = stream, steps_by_itself, ""
        self._calls: dict[int, _Calls] = {}
        self._time: Time | None = None
        self._looked: set[int] = set()
        self.site: object = None

    def step(self) -> None:
        """Begin the next step. Call it once before the step's calls of the model, however many those are."""
        self.index += 1
        self._time = None
        for calls in self._calls.values():
            calls.in_step.clear()
            calls.made = 0

    @contextlib.contextmanager
    def call(self, *, stream: str = "", groups: Sequence[int] | int | None = None, compute: str = "") -> Iterator[None]:
        """Say whose the calls of the model inside are.

        Args:
            stream: A name that is the same in every step (``"cond"``); empty to tell it by text or place.
            groups: Which rows are one sample, as in `foreseer.Attachment.run`; None takes the generation's.
            compute: Why they are computed without asking the policy, which learns from them all the same; empty
                to ask it.

        Raises:
            OptionError: The name is no text, or one that nameless streams are given.
        """
        _refuse_name(stream)
        before = self._given, self.groups, self.compute
        self._given, self.groups, self.compute = stream, self.groups if groups is None else groups, compute
        try:
            yield
        finally:
            self._given, self.groups, self.compute = before

    def forget(self) -> None:
        """Let go of the texts."""
        self._calls.clear()

    def place(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, named: str = "") -> Place:
        """Say where a call of a model is.

        Args:
            model: The model.
            args: Of the call.
            kwargs: Likewise.
            named: What the model itself calls the stream, if it does.

        Raises:
            ContractError: No step was begun.
        """
        calls = self._calls.setdefault(id(model), _Calls())
        named, kind = self._given or named, signature_of_call(args, kwargs)
        text = Text.of(given := named_arguments(model, args, kwargs))
        known, told = self._known(calls, named, text)
        if self._itself:
            time = Time.of(given) if self._per_step == 0 else None
            if self._begins(calls, known, kind, time):
                self.step()
            self._time = self._time if time is None else time.joined(self._time)
        elif self.index < 0:
            raise ContractError("the model was called before the first step: call generation.step() before each evaluation")
        calls.made += 1
        stream = next((name for name in known if name not in calls.in_step), None)
        if calls.made > MOST_CALLS:
            return Place(self.number, self.index, "", kind, TOO_MANY)
        if stream is None:
            stream = _slot(named, sum(_belongs(name, named) for name in calls.streams))
            calls.streams[stream] = _Stream(text.kept(), self.site, self.index)
        elif told:
            calls.streams[stream].back = True
        calls.in_step.append(stream)
        number = calls.numbers.setdefault(((known or [stream])[0], kind, told), _Number(self.index))
        number.count(self.index)
        return Place(self.number, self.index, stream or self._stream, kind, number.changed)

    def _begins(self, calls: _Calls, known: list[str], kind: object, time: Time | None) -> bool:
        """Whether a step begins, which no loop says: its timestep is another, or a stream's turn comes again."""
        if self.index < 0:
            return True
        if self._per_step > 1:
            return calls.made >= self._per_step
        if time is None or self._time is None:
            order = list(calls.streams)
            return bool(known and calls.in_step) and order.index(known[0]) <= order.index(calls.in_step[-1])
        if time.is_another(self._time):
            return True
        ahead = self._ahead[self.index : self.index + 2]
        if time.values == self._time.values and not (len(ahead) == 2 and time.rounds(*ahead)):
            return False
        number = calls.numbers.get((known[0], kind, True)) if known else None
        return number is not None and number.step == self.index and number.now >= max(number.before, 1)

    def _known(self, calls: _Calls, base: str, text: Text) -> tuple[list[str], bool]:
        """The streams that a call may belong to, the first first, and whether its text told so.

        It does not where none ever comes again, or where a look would make the host wait in every step.
        """
        ours = [name for name in calls.streams if _belongs(name, base)]
        streams = {name: calls.streams[name] for name in ours if calls.streams[name].site == self.site}
        same = [name for name, stream in streams.items() if stream.text.is_in(text, look=False)]
        if not same and streams and not text.free:
            self._looked.add(self.index)
            if len(self._looked) > MOST_CALLS:  # made anew for each call
                return list(streams), False
            same = [name for name, stream in streams.items() if stream.text.is_in(text, look=True)]
        once = [name for name, stream in streams.items() if not stream.back and stream.born < self.index]
        if not same and len(once) >= MOST_CALLS and len({streams[name].born for name in once}) >= CHANGING:
            return once, False
        return same, True


def _refuse_name(stream: object) -> None:
    """Refuse a name that is no text, or one that nameless streams are given."""
    if not isinstance(stream, str):
        raise OptionError(f"stream={stream!r} is no name; write text such as 'cond', or '' for a stream without a name")
    if NAMELESS.search(stream):
        raise OptionError(f"stream={stream!r} is what a nameless stream is called; write another name, such as 'window {stream.split()[-1]}'")


def _slot(base: str, place: int) -> str:
    return " ".join(part for part in (base, f"call {place + 1}" if place else "") if part)


def _belongs(name: str, base: str) -> bool:
    return name == base or name.startswith(f"{base} call " if base else "call ")


def _repeats(timesteps: tuple[float, ...] | None) -> int:
    """Calls of a step by a list of timesteps: n if each comes n times in a row, 0 ask the calls, 1 unknown."""
    if not timesteps or len(timesteps) < 2:
        return 1
    lengths = {len(list(same)) for _, same in itertools.groupby(timesteps)}
    if lengths == {1}:
        return 0
    return lengths.pop() if len(lengths) == 1 and len(timesteps) not in lengths else 1
