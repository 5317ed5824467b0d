"""A pipeline without its text encoders and VAE: the calls of a sampling loop, and the time of each step."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["Clock", "Loop", "Marked"]


class Marked(Protocol):
    """Told when a step is done."""

    def mark(self) -> None:
        """Mark the end of a step, and the beginning of the next."""


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
    """

    def __init__(self, model: nn.Module, calls: Sequence[Mapping[str, Any]], times: Sequence[Tensor]) -> None:
        self.transformer, self.scheduler = model, _Schedule()
        self.calls, self.times = calls, times
        self._values = torch.tensor([float(t.flatten()[0]) for t in times])

    @property
    def components(self) -> dict[str, Any]:
        """What `foreseer.attach` looks for in a pipeline."""
        return {"transformer": self.transformer, "scheduler": self.scheduler}

    def maybe_free_model_hooks(self) -> None:
        """Called at the end, as diffusers' pipelines do."""

    @torch.no_grad()
    def __call__(self, clock: Marked, steps: int | None = None) -> Any:
        """Make a run, and mark each step's beginning and end.

        Args:
            clock: Told when each step is done.
            steps: Make the first ones only; None makes all.

        Returns:
            What the last call returned.
        """
        times = self.times[:steps]
        self.scheduler.set_timesteps(self._values[: len(times)])
        output: Any = None
        clock.mark()
        for timestep in times:
            for call in self.calls:
                output = self.transformer(**call, timestep=timestep, return_dict=False)[0]
            self.scheduler.step()
            clock.mark()
        self.maybe_free_model_hooks()
        return output
