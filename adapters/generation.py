"""One sampling of a denoiser: its steps, and whose each call of a model is.

A stream is what belongs together over the steps. It is told by what the host calls it, else by the text that it brings, else by its place in the step.
Never one history for two things: a forecast for one window from another's features looks like a picture.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from foreseer.adapters.arguments import named_arguments
from foreseer.errors import ContractError
from foreseer.options import refuse_schedule

__all__ = ["MOST_CALLS", "Generation", "Place"]

TEXTS = (
    "encoder_hidden_states",
    "cap_feats",
    "encoder_hidden_states_t5",
    "prompt_embeds",
    "text_embed",
    "caption_feats",
    "context",
    "class_labels",
    "y",
    "labels",
)
"""Arguments that tell one stream from another: the same tensor in every step of a generation."""
TIMES = ("timestep", "timesteps", "t", "sigma")
LABELS = 4096
MOST_CALLS = 8
"""Calls of one model within a step. More are not a sampling loop: somebody else uses the model, or its text changes with every call."""


@attrs.frozen
class Place:
    """Where in a generation a call of a model is.

    Attributes:
        run: Counts the generations.
        step: Counts the steps of this one, from 0.
        stream: Which of the calls of a step this is; empty for the first where nothing names it.
    """

    run: int
    step: int
    stream: str


@attrs.define(eq=False)
class _Calls:
    """The calls of one model: the text of each stream, and the streams that were called in this step."""

    texts: dict[str, Any] = attrs.field(factory=dict)
    in_step: list[str] = attrs.field(factory=list)


class Generation:
    """One sampling of one or several models.

    Args:
        number: Counts the generations of an attachment.
        timesteps: ``(T,)`` one per step; None where they are not known.
        num_steps: Number of steps, T; None likewise.
        sigmas: ``(T,)`` noise levels, or None.
        groups: As in `foreseer.Attachment.run`; of calls that do not say their own.
        stream: What to call a stream that nothing else names.
        steps_by_itself: A call begins a step where its stream was called in this step already, or its timestep is another. Else `step` does.
        times: Says the timesteps when they are asked for; None takes ``timesteps``.

    Attributes:
        index: Of the step under way; -1 before the first.
        groups: Of the call under way.
        alone: Whether it has one kind of call only, as far as anybody said.
        by_copies: Whether rows of one sample are to be recognised.
    """

    def __init__(
        self,
        *,
        number: int = 0,
        timesteps: tuple[float, ...] | None = None,
        num_steps: int | None = None,
        sigmas: tuple[float, ...] | None = None,
        groups: Sequence[int] | int | None = None,
        stream: str = "",
        steps_by_itself: bool = False,
        times: Callable[[], tuple[float, ...] | None] | None = None,
    ) -> None:
        refuse_schedule(num_steps, timesteps, sigmas)
        self.timesteps, self.num_steps, self.sigmas = timesteps, len(timesteps) if timesteps is not None else num_steps, sigmas
        self.times = times or (lambda: self.timesteps)
        self.alone, self.by_copies = steps_by_itself, times is not None
        self.number, self.index, self.groups = number, -1, groups
        self._stream, self._itself, self._given = stream, steps_by_itself, ""
        self._calls: dict[int, _Calls] = {}
        self._time: float | None = None
        self._looks, self._changing = 0, False
        self._per_step = _repeats(timesteps) if steps_by_itself else 1
        if self._per_step > 1 and timesteps is not None:  # the calls of a step were listed one by one
            self.timesteps, self.sigmas = timesteps[:: self._per_step], sigmas and sigmas[:: self._per_step]
            self.num_steps = len(self.timesteps)

    def step(self) -> None:
        """Begin the next step. Call it before each evaluation of the denoiser, however many calls of the model that takes."""
        self.index += 1
        for calls in self._calls.values():
            calls.in_step.clear()

    @contextlib.contextmanager
    def call(self, *, stream: str = "", groups: Sequence[int] | int | None = None) -> Iterator[None]:
        """Say whose the calls of the model inside are.

        Args:
            stream: A name that is the same in every step, such as ``"cond"``; empty to tell it by its text or place.
            groups: Which rows are one sample, as in `foreseer.Attachment.run`; None takes the generation's.
        """
        before = self._given, self.groups
        self._given, self.groups = stream, self.groups if groups is None else groups
        try:
            yield
        finally:
            self._given, self.groups = before

    def forget(self) -> None:
        """Let go of the texts."""
        self._calls.clear()

    def place(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, named: str = "") -> Place | None:
        """Say where a call of a model is; None where it is one of too many in a step.

        Args:
            model: The model.
            args: Of the call.
            kwargs: Likewise.
            named: What the model itself calls the stream, if it does.

        Raises:
            ContractError: No step was begun.
        """
        calls = self._calls.setdefault(id(model), _Calls())
        named = self._given or named
        given = named_arguments(model, args, kwargs) if self._itself or not named else kwargs
        text = next((given[name] for name in TEXTS if isinstance(given.get(name), (Tensor, list))), None)
        if self._itself:
            stream = self._alone(calls, named, text, given)
        elif self.index < 0:
            raise ContractError("the model was called before the first step: call generation.step() before each evaluation")
        else:
            stream = self._in_step(calls, named, text)
        if len(calls.in_step) >= MOST_CALLS:
            return None
        calls.in_step.append(stream)
        return Place(self.number, self.index, stream or self._stream)

    def _in_step(self, calls: _Calls, base: str, text: Any) -> str:
        """A call belongs to the stream whose text it brings, or else to the one that came at this place of the step."""
        if text is not None:
            for name, known in calls.texts.items():
                if name not in calls.in_step and _belongs(name, base) and _same_memory(known, text):
                    return name
        slot = sum(_belongs(name, base) for name in calls.in_step)
        while (name := _slot(base, slot)) in calls.in_step:
            slot += 1
        if text is not None:
            calls.texts[name] = text  # held, so that an equal address is the same tensor and not a new one in its place
        return name

    def _alone(self, calls: _Calls, base: str, text: Any, given: Mapping[str, Any]) -> str:
        """A loop of one's own does not say when a step begins: where the timestep is another, or else at a stream's next call."""
        time = _time(given) if self._per_step == 0 else None
        counted = self._per_step > 1 and len(calls.in_step) >= self._per_step
        if self.index < 0 or counted or (time is not None and time != self._time):
            self.step()
        self._time = time
        known = self._known(calls, base, text)
        free = [name for name in known if name not in calls.in_step]
        if free or not known:
            name = free[0] if free else self._new(calls, base, text)
        elif time is None and self._per_step <= 1:
            self.step()
            name = known[0]
        else:
            name = self._new(calls, base, text)
        return name

    def _known(self, calls: _Calls, base: str, text: Any) -> list[str]:
        """The streams that bring this text."""
        names = [name for name in calls.texts if _belongs(name, base)]
        if text is None or self._changing:
            return names[:1]
        same = [name for name in names if _same_memory(calls.texts[name], text)]
        if same or not names:
            return same
        if not _on_cpu(text):
            self._looks += 1
            if self._looks > MOST_CALLS:  # made anew for each call: the host is not made to wait for each
                return names[len(calls.in_step) % len(names) :][:1]
        return [name for name in names if _same(calls.texts[name], text)]

    def _new(self, calls: _Calls, base: str, text: Any) -> str:
        """A stream that was not called before. Texts of which none ever came back change with every call, and are one stream's."""
        names = [name for name in calls.texts if _belongs(name, base)]
        if len(names) >= MOST_CALLS and self.index == 0:
            self._changing, self.index = True, len(names) - 1
            self.step()
            return names[0]
        name = _slot(base, len(names))
        calls.texts[name] = _kept(text)
        return name


def _slot(base: str, place: int) -> str:
    return " ".join(part for part in (base, f"call {place + 1}" if place else "") if part)


def _belongs(name: str, base: str) -> bool:
    return name == base or name.startswith(f"{base} call " if base else "call ")


def _kept(text: Any) -> Any:
    """What to know a text by: itself, so that an equal address is the same tensor, or the numbers of a few labels, which are the caller's to let go."""
    labels = isinstance(text, Tensor) and text.device.type == "cpu" and not text.is_floating_point() and text.numel() <= LABELS
    return (text.shape, text.flatten().tolist()) if labels else text


def _same_memory(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    if isinstance(a, tuple):
        return bool(a == _kept(b))
    if isinstance(a, list) or isinstance(b, list):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same_memory, a, b))
    return bool(a.data_ptr() == b.data_ptr() and a.shape == b.shape)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return bool(a == _kept(b))
    if isinstance(a, list) or isinstance(b, list):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


def _on_cpu(text: Any) -> bool:
    return all(map(_on_cpu, text)) if isinstance(text, list) else text.device.type == "cpu"


def _repeats(timesteps: tuple[float, ...] | None) -> int:
    """How many calls a step has by a list of timesteps: n if each comes n times in a row, 0 where the calls must tell, 1 where nobody can."""
    if not timesteps or len(timesteps) < 2:
        return 1
    lengths = {len(list(same)) for _, same in itertools.groupby(timesteps)}
    if lengths == {1}:
        return 0
    return lengths.pop() if len(lengths) == 1 and len(timesteps) not in lengths else 1


def _time(given: Mapping[str, Any]) -> float | None:
    """The timestep of a call, where looking at it is free."""
    value = next((given[name] for name in TIMES if given.get(name) is not None), None)
    if isinstance(value, Tensor):
        return float(value.flatten()[0]) if value.device.type == "cpu" and value.numel() else None
    return float(value) if isinstance(value, (int, float)) else None
