"""Where a run begins and what a step is, for a pipeline whose code is not touched.

Of what could tell, only two things hold for every pipeline of diffusers: each generation calls the scheduler's
``set_timesteps``, and each step ends with at least one ``scheduler.step``. So a step begins with the first call of the
transformer after a `step`. Never the `timestep` argument (it rises in Lumina and Z-Image and is constant in
LTX-condition), and never ``scheduler._step_index`` (None before the first step, absent in DDIM).
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import attrs
from torch import Tensor, nn

from foreseer.errors import ContractError

__all__ = ["PipelineLoop", "Place"]

_TEXTS = ("encoder_hidden_states", "cap_feats", "encoder_hidden_states_t5", "prompt_embeds", "text_embed", "caption_feats")
"""Arguments that carry a stream's text: the same tensor in every step of a generation."""
MOST_CALLS = 8
"""Calls of one model within a step. More are not a sampling loop: somebody else uses the model."""


class MethodProbe:
    """An instance attribute that stands in for a method and tells when it was called.

    It survives ``copy.deepcopy`` of its owner by binding to the copy (SkyReels' diffusion forcing steps copies of its
    scheduler), and keeps the signature (pipelines inspect that of ``set_timesteps``). Copied together with its
    pipeline it is the plain method again, since nobody attached to the copy.
    """

    def __init__(self, owner: Any, name: str, told: Callable[[Any], None], pipeline: Any, *, asked: Callable[[], None] | None = None) -> None:
        self._owner, self._name, self._told, self._pipeline, self._asked = owner, name, told, pipeline, asked
        self._before = vars(owner).get(name, _ABSENT)
        self._method = getattr(owner, name)
        functools.update_wrapper(self, self._method)
        vars(owner)[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._asked is not None:
            self._asked()
        result = self._method(*args, **kwargs)
        self._told(self._owner)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        owner = memo.get(id(self._owner))
        if owner is None:
            return self
        plain = getattr(type(owner), self._name).__get__(owner)
        if id(self._pipeline) in memo:
            return plain
        copy = object.__new__(MethodProbe)
        copy._owner, copy._name, copy._told, copy._before = owner, self._name, self._told, _ABSENT
        copy._pipeline, copy._asked, copy._method = self._pipeline, self._asked, plain
        functools.update_wrapper(copy, copy._method)
        return copy

    def restore(self) -> None:
        """Put back what was there."""
        if vars(self._owner).get(self._name) is not self:
            return
        if self._before is _ABSENT:
            del vars(self._owner)[self._name]
        else:
            vars(self._owner)[self._name] = self._before


class ContextProbe:
    """Stands in for a model's ``cache_context`` and remembers the name that is set: ``"cond"``, ``"uncond"``.

    Each thread has its own name: pipelines that share a model enter and leave its context whenever they like.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._here = model, threading.local()
        self._own: Any = getattr(type(model), "cache_context", None)
        object.__setattr__(model, "cache_context", self)

    @property
    def name(self) -> str:
        """The name set in this thread; empty outside of a context."""
        return getattr(self._here, "name", "")

    def __call__(self, name: str, **fields: Any) -> Any:
        @contextlib.contextmanager
        def context() -> Any:
            before, self._here.name = self.name, name
            try:
                with self._own(self._model, name, **fields):
                    yield
            finally:
                self._here.name = before

        return context()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        owner = memo.get(id(self._model), self._model)
        return self._own.__get__(owner)

    def restore(self) -> None:
        """Put back the model's own."""
        vars(self._model).pop("cache_context", None)


def _callers(frame: FrameType | None, kind: type) -> Iterator[Any]:
    """The pipelines in whose calls a stack is, the innermost first."""
    while frame is not None:
        if frame.f_code.co_name == "__call__" and isinstance(owner := frame.f_locals.get("self"), kind):
            yield owner
        frame = frame.f_back


_ABSENT = object()


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
    """The calls of one model in one generation."""

    texts: dict[str, Tensor] = attrs.field(factory=dict)
    in_step: list[str] = attrs.field(factory=list)


class PipelineLoop:
    """Follows a pipeline through its scheduler.

    Args:
        pipeline: With a ``scheduler``.
        models: Its denoisers.
        check: Called before a generation begins; what it raises reaches the pipeline's caller.
        ended: Called when a generation is over.
    """

    def __init__(self, pipeline: Any, models: list[nn.Module], check: Callable[[], None], ended: Callable[[], None]) -> None:
        self._pipeline, self._check, self._ended = pipeline, check, ended
        # The most general class of a pipeline, to know another one by.
        self._kind = next((kind for kind in type(pipeline).__mro__ if kind.__name__ == "DiffusionPipeline"), type(pipeline))
        self._lock = threading.Lock()
        self._thread: int | None = None
        self.run = 0
        self.step = -1
        self.open = False
        self._stepped = True
        self._calls: dict[int, _Calls] = {}
        self._probes: list[MethodProbe] = []
        self._scheduler: Any = None
        self._contexts = {id(model): ContextProbe(model) for model in models if getattr(type(model), "cache_context", None) is not None}
        self._end = MethodProbe(pipeline, "maybe_free_model_hooks", self._on_end, pipeline) if hasattr(type(pipeline), "maybe_free_model_hooks") else None
        self._watch()

    def _watch(self) -> None:
        for probe in self._probes:
            probe.restore()
        self._scheduler = self._pipeline.scheduler
        self._probes = [
            MethodProbe(self._scheduler, "set_timesteps", self._on_set_timesteps, self._pipeline, asked=self._ask),
            MethodProbe(self._scheduler, "step", self._on_step, self._pipeline),
        ]

    def restore(self) -> None:
        """Let go of the pipeline."""
        self._calls.clear()
        for probe in (*self._probes, *self._contexts.values(), *([self._end] if self._end else ())):
            probe.restore()

    def _ask(self) -> None:
        """A generation is about to begin.

        Raises:
            ContractError: One is under way in another thread, whose scheduler this one would set back.
        """
        with self._lock:
            if self._thread is not None and self._thread != threading.get_ident() and self._runs_in(self._thread):
                raise ContractError("another thread is inside of a call of this pipeline; give each thread a pipeline (and a scheduler) of its own")
            self._thread = threading.get_ident()
        if not self._foreign():
            self._check()

    def _runs_in(self, thread: int) -> bool:
        """Whether that thread is inside of a call that steps our scheduler. A call that ended by an exception has not told us so."""
        return any(caller.scheduler is self._scheduler for caller in _callers(sys._current_frames().get(thread), self._kind))

    def _foreign(self) -> bool:
        """Whether what runs here is another pipeline, which shares our model or scheduler (``from_pipe`` shares both)."""
        return next(_callers(sys._getframe(), self._kind), self._pipeline) is not self._pipeline

    def _on_set_timesteps(self, scheduler: Any) -> None:
        if self.open:
            self._ended()
        self.run += 1
        self.step, self.open, self._stepped = -1, not self._foreign(), True
        self._calls.clear()

    def _on_step(self, scheduler: Any) -> None:
        self._stepped = True

    def _on_end(self, pipeline: Any) -> None:
        self._thread = None
        self._calls.clear()
        if self.open:
            self.open = False
            self._ended()

    def place(self, model: nn.Module, kwargs: Mapping[str, Any]) -> Place | None:
        """Say where a call of a model is; None outside of a generation."""
        if self._pipeline.scheduler is not self._scheduler:  # exchanged since, and set up before we could see it
            self._watch()
            self._ask()
            self._on_set_timesteps(self._scheduler)
        if not self.open or self._thread != threading.get_ident() or self._foreign():
            return None
        if self._stepped:
            self._stepped = False
            self.step += 1
            for known in self._calls.values():
                known.in_step.clear()
        calls = self._calls.setdefault(id(model), _Calls())
        if len(calls.in_step) >= MOST_CALLS:
            return None
        context = self._contexts.get(id(model))
        stream = context.name if context is not None else ""
        if not stream:
            stream = self._by_text(calls, kwargs)
        calls.in_step.append(stream)
        return Place(self.run, self.step, stream)

    def _by_text(self, calls: _Calls, kwargs: Mapping[str, Any]) -> str:
        """A call belongs to the stream whose text it brings, or else to the one that came at this place of the step."""
        text = next((kwargs[name] for name in _TEXTS if isinstance(kwargs.get(name), Tensor)), None)
        if text is not None:
            # The texts are held, so that an equal address is the same tensor and not a new one in its place.
            for name, known in calls.texts.items():
                if name not in calls.in_step and known.data_ptr() == text.data_ptr() and known.shape == text.shape:
                    return name
        slot = len(calls.in_step)
        name = f"call {slot + 1}" if slot else ""
        while name in calls.in_step:
            slot += 1
            name = f"call {slot + 1}"
        if text is not None:
            calls.texts[name] = text
        return name

    def timesteps(self) -> tuple[float, ...] | None:
        """The timesteps of the evaluations of this generation; fewer than scheduled where it begins later (img2img)."""
        scheduled = getattr(self._scheduler, "timesteps", None)
        if scheduled is None or not hasattr(scheduled, "tolist"):
            return None
        times = [float(t) for t in scheduled.flatten().tolist()]
        begin = getattr(self._scheduler, "_begin_index", None) or 0
        count = len(times) - begin
        running = getattr(self._pipeline, "_num_timesteps", None)
        if isinstance(running, int) and 0 < running < count:
            count = running
        return tuple(times[len(times) - count :])
