"""Where a run begins and what a step is, for a pipeline whose code is not touched.

Of what could tell, only two things hold for every pipeline of diffusers: each generation calls the
scheduler's ``set_timesteps``, and each step ends with at least one ``scheduler.step``. So a step begins with
the first call of the transformer after a `step`. Never the `timestep` argument (it rises in Lumina and
Z-Image and is constant in LTX-condition), and never ``scheduler._step_index`` (None before the first step,
absent in DDIM). A generation ends with the next one, and with the pipeline's call, also where that raises;
where a pipeline does not tell that its call is over, with the last of the scheduled steps.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from torch import Tensor

from foreseer.adapters.generation import Generation
from foreseer.adapters.guiders import Guiders
from foreseer.adapters.methods import Participation, take_part
from foreseer.adapters.noise import schedule_of, times_of
from foreseer.declared import Schedule
from foreseer.errors import ContractError, UnsupportedModelError

__all__ = ["PipelineLoop"]

LOOKS = 20
"""How often another thread's frames are looked through before it counts as outside of a call: a frame that
returns while it is looked at has no caller any more.
"""


def _callers(frame: FrameType | None, kind: type) -> Iterator[tuple[Any, FrameType]]:
    """The pipelines in whose methods a stack is, and where, the innermost first."""
    while frame is not None:
        code = frame.f_code
        if code.co_argcount:
            owner = frame.f_locals.get(code.co_varnames[0])
            if isinstance(owner, kind) and hasattr(type(owner), code.co_name):
                yield owner, frame
        frame = frame.f_back


def _blocks_of(blocks: Any) -> Iterator[Any]:
    """The blocks of a modular pipeline, one inside of the other."""
    for block in getattr(blocks, "sub_blocks", {}).values():
        yield block
        yield from _blocks_of(block)


class PipelineLoop:
    """Follows a pipeline through its scheduler.

    Args:
        pipeline: With a ``scheduler``.
        check: Called before a generation begins; what it raises reaches the pipeline's caller.
        ended: Called when a generation is over.

    Attributes:
        generation: The one under way; None outside of one.
        guiders: The pipeline's guiders, which name streams.

    Raises:
        UnsupportedModelError: The pipeline has no scheduler that can be followed.
    """

    def __init__(self, pipeline: Any, check: Callable[[], None], ended: Callable[[], None]) -> None:
        self._pipeline, self._check, self._ended = pipeline, check, ended
        # The most general class of a pipeline, to know another one by.
        self._kind = next((kind for kind in type(pipeline).__mro__ if kind.__name__ in ("DiffusionPipeline", "ModularPipeline")), type(pipeline))
        self._lock = threading.Lock()
        self._thread: int | None = None
        self.generation: Generation | None = None
        self._number = 0
        self._stepped = True
        self._walked: int | None = None
        self._last: int | None = None
        self._scheduler: Any = None
        self._following: list[Participation] = []
        self.guiders = Guiders()
        self._taken: list[Participation] = []
        # What stands in for a pipeline need not be called.
        self._called = any("__call__" in vars(cls) for cls in type(pipeline).__mro__)
        try:
            if hasattr(pipeline, "maybe_free_model_hooks"):
                self._taken.append(take_part(pipeline, "maybe_free_model_hooks", self._around_end))
            # A modular pipeline tells nobody that its call is over.
            self._silent = self._called and not hasattr(pipeline, "maybe_free_model_hooks")
            if hasattr(pipeline, "update_components"):
                self._taken.append(take_part(pipeline, "update_components", self._around_update))
            for walker in (pipeline, *_blocks_of(getattr(pipeline, "_blocks", None))):
                if hasattr(walker, "progress_bar"):
                    self._taken.append(take_part(walker, "progress_bar", self._around_progress))
            self._follow()
        except UnsupportedModelError:
            self.restore()
            raise

    def _follow(self) -> None:
        """Take part in the calls of the pipeline's scheduler and guiders, which may have been exchanged."""
        self._leave()
        self._scheduler = self._pipeline.scheduler
        self._following.append(take_part(self._scheduler, "set_timesteps", self._around_set_timesteps))
        # Long videos are stepped by copies of the scheduler, one for each frame, which the pipeline makes
        # itself.
        self._following.append(take_part(self._scheduler, "step", self._around_step, copies=self._under_way_here))
        self.guiders.follow(self._pipeline)

    def _leave(self) -> None:
        while self._following:
            self._following.pop().end()

    def restore(self) -> None:
        """Let go of the pipeline."""
        self._leave()
        self.guiders.leave()
        while self._taken:
            self._taken.pop().end()
        self._pipeline = self._scheduler = self.generation = None

    def _site(self) -> object:
        """Where in our pipeline's code we are.

        Nothing in another pipeline that shares our model or scheduler (``from_pipe`` shares both), or in a
        loop around it.
        """
        owner, frame = next(_callers(sys._getframe(), self._kind), (None, None))
        if frame is None:
            return None if self._called else ()
        return (frame.f_code, frame.f_lasti) if owner is self._pipeline else None

    def _runs_in(self, thread: int) -> bool:
        """Whether that thread is inside of a call that steps our scheduler. A call that ended by an exception
        has not told us so.
        """
        for _ in range(LOOKS):
            callers = _callers(sys._current_frames().get(thread), self._kind)
            if any(getattr(caller, "scheduler", None) is self._scheduler for caller, _ in callers):
                return True
        return False

    @property
    def elsewhere(self) -> bool:
        """Whether another thread is inside of a call that steps our scheduler."""
        return self._thread is not None and self._thread != threading.get_ident() and self._runs_in(self._thread)

    def _around_end(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = inner(*args, **kwargs)
        self._end()
        return result

    def _around_update(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Follow at once what a modular pipeline is given: a run begins before a model is called."""
        result = inner(*args, **kwargs)
        if self._pipeline.scheduler is not None and self._pipeline.scheduler is not self._scheduler:
            self._follow()
        return result

    def _around_set_timesteps(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._ask()
        result = inner(*args, **kwargs)
        self.guiders.name = ""  # of a call that raised
        self._begin()
        return result

    def _around_step(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = inner(*args, **kwargs)
        self._stepped = True
        if self._last is not None and self.generation is not None and self.generation.index >= self._last:
            self._end()
        return result

    def _under_way_here(self) -> bool:
        return self.generation is not None and self._thread == threading.get_ident()

    def _around_progress(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A progress bar that is shown before the first step is the loop's: it may leave out the last of the
        timesteps, and when it closes the loop is over.
        """
        walked, times = args[0] if args else kwargs.get("iterable"), getattr(self._scheduler, "timesteps", None)
        bar, generation = inner(*args, **kwargs), self.generation
        if generation is None or generation.index >= 0:
            return bar
        if isinstance(walked, Tensor) and isinstance(times, Tensor) and walked.data_ptr() == times.data_ptr():
            self._walked = len(walked)
        if callable(close := getattr(bar, "close", None)):

            def closed() -> None:
                close()
                if self.generation is generation:
                    self._end()

            bar.close = closed
        return bar

    def _ask(self) -> None:
        """A generation is about to begin.

        Raises:
            ContractError: One is under way in another thread, whose scheduler this one would set back.
        """
        with self._lock:
            if self.elsewhere:
                raise ContractError(
                    "another thread is inside of a call of this pipeline; let calls wait for one another, by one worker or a lock, "
                    "or give each thread a pipeline (and a scheduler) of its own: docs/serving.md shows both"
                )
            self._thread = threading.get_ident()
        if self._site() is not None:
            self._check()

    def _begin(self) -> None:
        self._close()
        self.guiders.follow(self._pipeline)
        self._number += 1
        self._stepped, self._walked, self._last = True, None, None
        ours = self._site() is not None
        self.generation = Generation(number=self._number, schedule=self.schedule) if ours else None

    def _end(self) -> None:
        self._thread = None
        self._close()

    def _close(self) -> None:
        if self.generation is not None:
            self.generation = None
            self._ended()

    def settle(self) -> None:
        """End a generation whose pipeline has not told that it has ended: it raised, or does not tell."""
        if self.generation is not None and self._called and (self._thread is None or not self._runs_in(self._thread)):
            self._end()

    def under_way(self) -> Generation | None:
        """The generation to which a call of a denoiser belongs, in the step under way; None outside of one."""
        self.guiders.follow(self._pipeline)
        if self._pipeline.scheduler is not self._scheduler:  # exchanged since, and set up before we could see it
            self._follow()
            self._ask()
            self._begin()
        if self.generation is None or self._thread != threading.get_ident() or (site := self._site()) is None:
            return None
        if self._stepped:
            self._stepped = False
            self.generation.step()
            if self.generation.index == 0 and self._silent:
                steps = self.schedule().num_steps
                self._last = None if steps is None else steps - 1
        self.generation.site = site
        return self.generation

    def schedule(self) -> Schedule:
        """The timesteps and noise levels of the evaluations of this generation; fewer than scheduled where it
        begins later (img2img) or leaves out the last.
        """
        times = times_of(self._scheduler)
        if times is None:
            return Schedule()
        begin = getattr(self._scheduler, "_begin_index", None) or 0
        count = len(times) - begin
        running = getattr(self._pipeline, "_num_timesteps", None)
        if isinstance(running, int) and 0 < running < count:
            count = running
        first, walked = len(times) - count, self._walked
        return schedule_of(self._scheduler, slice(first, first + walked if walked and walked < count else len(times)))
