"""A pipeline without its text encoders and VAE: the calls of a sampling loop, and the time of each step."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from foreseer.adapters import attach
from foreseer.adapters.attachment import Attachment
from foreseer.bench.gpu.lanes import Lane
from foreseer.storage import Storage

__all__ = ["Clock", "Loop"]


class Clock:
    """Marks moments on a device: CUDA events, which cost no waiting, or on the host.

    Args:
        device: The device.
        now: The time on the host, in seconds: that of the processor, summed over threads, or the clock.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = time.process_time) -> None:
        self._device, self._now = device, now
        self._marks: list[Any] = []

    def mark(self) -> None:
        """Mark the moment when everything that was asked for so far is done."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
            self._marks.append(event)
        else:
            self._marks.append(self._now())

    def seconds(self) -> list[float]:
        """Return the seconds between the marks, and forget them. On CUDA it waits for the last."""
        marks, self._marks = self._marks, []
        if self._device.type == "cuda" and marks:
            marks[-1].synchronize()
            return [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(marks)]
        return [b - a for a, b in itertools.pairwise(marks)]


class _Schedule:
    """What a scheduler is to an attached policy: a run begins with `set_timesteps`, a step ends with `step`."""

    def __init__(self) -> None:
        self.timesteps = torch.zeros(0)

    def set_timesteps(self, timesteps: Tensor) -> None:
        self.timesteps = timesteps

    def step(self) -> None:
        """A solver's update would be here; it is a few operations on the latents."""


class Loop:
    """Calls a model step after step, on the same inputs but for the timestep.

    A bare model's run has one stream only. This has as many as a pipeline's.

    Args:
        model: The transformer.
        calls: The arguments of each call of a step.
        times: What each step's calls are given as ``timestep``.
        history_device: Where features are kept, as `foreseer.Storage` says.
        before_call: Called before each call of the model.

    Attributes:
        latest: What the last call returned.
    """

    def __init__(
        self,
        model: nn.Module,
        calls: Sequence[Mapping[str, Any]],
        times: Sequence[Tensor],
        history_device: str | None = None,
        before_call: Callable[[], object] = lambda: None,
    ) -> None:
        self.transformer, self.scheduler = model, _Schedule()
        self.calls, self.times, self._before_call = calls, times, before_call
        self.latest: Any = None
        self.device = times[0].device
        self._values = torch.tensor([float(t.flatten()[0]) for t in times])
        self._storage = Storage(device=history_device)
        self.history_elsewhere = history_device not in (None, self.device.type)

    @property
    def components(self) -> dict[str, Any]:
        """What `foreseer.attach` looks for in a pipeline."""
        return {"transformer": self.transformer, "scheduler": self.scheduler}

    def maybe_free_model_hooks(self) -> None:
        """Called at the end, as diffusers' pipelines do."""

    def attach(self, lane: Lane) -> Attachment:
        """Attach a lane's policy."""
        return attach(self, lane.spec, streams=lane.streams, storage=self._storage, copies=len(self.times[0]))

    @torch.no_grad()
    def __call__(self, mark: Callable[[], object], steps: int | None = None) -> Any:
        """Make a run. Returns what the last call returned.

        Args:
            mark: Called at each step's beginning, and at the end.
            steps: End after so many of the run's steps, as one who interrupts it; None makes all.
        """
        self.scheduler.set_timesteps(self._values)
        mark()
        for timestep in self.times[:steps]:
            for number, call in enumerate(self.calls):
                self._before_call()
                with self._named(number):
                    self.latest = self.transformer(**call, timestep=timestep, return_dict=False)[0]
            self.scheduler.step()
            mark()
        self.maybe_free_model_hooks()
        return self.latest

    def _named(self, number: int) -> Any:
        """Tell a cache of diffusers which call of a step this is, as it wants."""
        model: Any = self.transformer
        return model.cache_context(f"call {number}") if getattr(model, "is_cache_enabled", False) else nullcontext()
