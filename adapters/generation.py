"""One sampling of a denoiser: its steps, and whose each call of a model is.

A stream is what belongs together over the steps. It is told by what the host calls it, else by the text that it brings, else by its place in the step.
Never one history for two things: a forecast for one window from another's features looks like a picture.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from foreseer.adapters.arguments import named_arguments
from foreseer.errors import ContractError, OptionError
from foreseer.options import refuse_schedule

__all__ = ["MOST_CALLS", "Generation", "Place"]

TEXTS = re.compile(r"encoder_hidden_states|text|prompt|caption|cap_|pooled|embeds|global_hidden|label|^context|^input_ids|^y$")
"""Names of arguments that tell one stream from another: the same tensors in every step of a generation."""
TIMES = ("timestep", "timesteps", "t", "sigma")
LABELS = 4096
NAMELESS = re.compile(r"(^| )call \d+$")
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
    """The calls of one model.

    Attributes:
        texts: Of each stream: what is the same in each of its calls.
        back: Streams whose text came again.
        changing: Streams whose text never comes again.
        in_step: Streams that were called in this step.
    """

    texts: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    back: set[str] = attrs.field(factory=set)
    changing: list[str] = attrs.field(factory=list)
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
        _refuse_name(stream)
        if timesteps is not None and num_steps not in (None, len(timesteps)):
            raise OptionError(f"num_steps={num_steps} but timesteps has {len(timesteps)} entries; give one of them")
        self.timesteps, self.num_steps, self.sigmas = timesteps, len(timesteps) if timesteps is not None else num_steps, sigmas
        self.times = times or (lambda: self.timesteps)
        self.alone, self.by_copies = steps_by_itself, times is not None
        self.number, self.index, self.groups = number, -1, groups
        self._stream, self._itself, self._given = stream, steps_by_itself, ""
        self._calls: dict[int, _Calls] = {}
        self._time: float | None = None
        self._looks = 0
        self._per_step = _repeats(timesteps) if steps_by_itself else 1
        if self._per_step > 1 and timesteps is not None:  # the calls of a step were listed one by one
            self.timesteps = timesteps[:: self._per_step]
            self.num_steps = len(self.timesteps)
            if sigmas is not None and len(sigmas) >= len(timesteps):
                self.sigmas = sigmas[:: self._per_step]
        if self.sigmas is not None and self.num_steps is not None and len(self.sigmas) - self.num_steps not in (0, 1):
            raise OptionError(
                f"sigmas has {len(self.sigmas)} entries and the run has {self.num_steps} steps; give one for each step, and one behind them or none"
            )

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

        Raises:
            OptionError: The name is no text, or one that nameless streams are given.
        """
        _refuse_name(stream)
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
        named, given = self._given or named, named_arguments(model, args, kwargs)
        text = {name: value for name, value in given.items() if isinstance(value, (Tensor, list)) and _is_text(name)}
        if self._itself:
            stream = self._alone(calls, named, text, given)
        elif self.index < 0:
            raise ContractError("the model was called before the first step: call generation.step() before each evaluation")
        else:
            stream = self._chosen(calls, named, text, self._known(calls, named, text))
        if len(calls.in_step) >= MOST_CALLS:
            return None
        calls.in_step.append(stream)
        return Place(self.number, self.index, stream or self._stream)

    def _alone(self, calls: _Calls, base: str, text: dict[str, Any], given: Mapping[str, Any]) -> str:
        """A loop of one's own does not say when a step begins: where the timestep is another, or else at a stream's next call."""
        time = _time(given) if self._per_step == 0 else None
        counted = self._per_step > 1 and len(calls.in_step) >= self._per_step
        if self.index < 0 or counted or (time is not None and time != self._time):
            self.step()
        self._time = time
        known = self._known(calls, base, text)
        if time is None and self._per_step <= 1:
            known = known[:1]
            if known and known[0] in calls.in_step:
                self.step()
        return self._chosen(calls, base, text, known)

    def _known(self, calls: _Calls, base: str, text: dict[str, Any]) -> list[str]:
        """The streams that bring this text, the first first; all of them where there is none, or where a look would make the host wait once more."""
        names = [name for name in calls.texts if _belongs(name, base)]
        same = [name for name in names if _alike(calls.texts[name], text)]
        if not same and names:
            if not _on_cpu(text):
                self._looks += 1
                if self._looks > MOST_CALLS:  # made anew for each call
                    return names
            same = [name for name in names if _alike(calls.texts[name], text, look=True)]
        return same or [name for name in calls.changing if _belongs(name, base)]

    def _chosen(self, calls: _Calls, base: str, text: dict[str, Any], known: list[str]) -> str:
        """A call belongs to the first of the known streams that was not called in this step, or to a new one."""
        free = next((name for name in known if name not in calls.in_step), None)
        if free is not None:
            calls.back.add(free)
            return free
        names = [name for name in calls.texts if _belongs(name, base)]
        once = [name for name in names if name not in calls.back]
        if len(once) >= MOST_CALLS:  # of these no text ever came back: it changes with every call, and they are one stream for each place in the step
            calls.changing = once
            if self._itself and self.index == 0:
                self.index = len(once) - 1
                self.step()
            return next((name for name in once if name not in calls.in_step), once[0])
        name = _slot(base, len(names))
        calls.texts[name] = _kept(text)
        return name


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


@functools.cache
def _is_text(name: str) -> bool:
    return TEXTS.search(name) is not None


def _kept(text: Any) -> Any:
    """What to know a text by: itself, so that an equal address is the same tensor, or the numbers of a few labels, which are the caller's to let go."""
    if isinstance(text, dict):
        return {name: _kept(value) for name, value in text.items()}
    labels = isinstance(text, Tensor) and text.device.type == "cpu" and not text.is_floating_point() and text.numel() <= LABELS
    return (text.shape, text.flatten().tolist()) if labels else text


def _alike(known: Any, given: Any, *, look: bool = False) -> bool:
    """Whether a text is the one that is known: the same memory, or the same numbers where they are looked at."""
    if isinstance(known, dict):
        return known.keys() == given.keys() and all(_alike(value, given[name], look=look) for name, value in known.items())
    if isinstance(known, list):
        return isinstance(given, list) and len(known) == len(given) and all(_alike(a, b, look=look) for a, b in zip(known, given, strict=True))
    if not isinstance(known, Tensor) or not isinstance(given, Tensor):
        return bool(known == _kept(given))
    if known.shape != given.shape or known.dtype != given.dtype or known.device != given.device:
        return False
    return known.data_ptr() == given.data_ptr() or (look and torch.equal(known, given))


def _on_cpu(text: Any) -> bool:
    return all(leaf.device.type == "cpu" for leaf in tree_leaves(text) if isinstance(leaf, Tensor))


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
