"""Models with their inputs, as settings want them, and how long a run of one is going to take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import nn

from foreseer.adapters.published import Published
from foreseer.bench.gpu.kept import DeviceLostError, Kept, let_go
from foreseer.bench.gpu.loop import Clock, Loop
from foreseer.bench.gpu.memory import free_bytes
from foreseer.bench.gpu.settings import Settings
from foreseer.bench.gpu.shapes import calls_of, random_model, timesteps
from foreseer.storage import in_bytes

__all__ = ["LANE_SECONDS", "PACE", "Length", "Making"]

LANE_SECONDS = 30.0
"""What one lane may take of a budget: of what takes longer fewer steps are made, and one run."""
SHORTER = (30, 20, 10)
"""Steps of runs that are cut short."""
FEW = 2
"""Full steps beside a run that is cut short."""
PACE = 1.2
"""Seconds that a second of the formula is expected to take where nothing was measured yet."""
COUNTING = 4.0
"""Seconds that profiling a GPU takes beside the steps that are profiled."""
LEFT_OVER = 2**30
"""Bytes that may be held where no model is."""
WARMING = 10
"""Steps beside those that are timed: warm-ups, and the run that is counted."""


@attrs.frozen
class Length:
    """How much of a lane is made.

    Attributes:
        steps: Of a run.
        repeats: Runs.
        full_steps: Steps of full computation beside each.
        work: What that takes by the formula, in seconds.
        said: What was cut short, and why; empty where nothing was.
    """

    steps: int
    repeats: int
    full_steps: int
    work: float
    said: str = ""


@attrs.frozen
class Making:
    """Makes models and loops.

    Attributes:
        settings: Which.
        kept: Where it is noted what a model is and how long it takes.
    """

    settings: Settings
    kept: Kept

    @property
    def device(self) -> torch.device:
        """Where."""
        return torch.device(self.settings.device)

    def model(self, shape: Published) -> nn.Module:
        """Build a model, with what was there before let go of; the first one of a shape is noted and timed."""
        let_go(self.device)
        self.kept.tell(f"{shape.name}: random weights")
        began = time.monotonic()
        model = random_model(shape, device=self.device, dtype=self.settings.torch_dtype)
        if shape.name not in self.kept.content["models"]:
            clock, loop = Clock(self.device), self.loop(model, shape, 2)
            loop(clock.mark, 1)
            clock.seconds()
            loop(clock.mark)
            seconds = clock.seconds()[-1]
            self.kept.content["models"][shape.name] = facts(shape, model) | {"seconds_per_step_first": seconds, "seconds_to_build": time.monotonic() - began}
        return model

    def refuse_leftovers(self, shape: Published) -> None:
        """Raise `DeviceLostError` where what was tried before still holds so much memory that another model of
        this shape does not fit: another process has all of it.
        """
        let_go(self.device)
        known = self.kept.content["models"].get(shape.name)
        if self.device.type != "cuda" or known is None or torch.cuda.memory_allocated(self.device) < LEFT_OVER:
            return
        needed = 1.5 * known["parameters"] * self.settings.torch_dtype.itemsize
        if free_bytes(self.device) < needed:
            raise DeviceLostError(f"{self.device}: {in_bytes(torch.cuda.memory_allocated(self.device))} are still held by what was tried before")

    def loop(self, model: nn.Module, shape: Published, steps: int, history_device: str | None = None, before_call: Callable[[], object] = lambda: None) -> Loop:
        """Return the loop of so many steps around a model."""
        dtype = self.settings.torch_dtype
        times = timesteps(shape, steps, device=self.device, dtype=dtype)
        return Loop(model, calls_of(shape, device=self.device, dtype=dtype), times, history_device, before_call)

    def seconds(self, shape: Published) -> tuple[float, float]:
        """Return the seconds that building a model takes, and a full step of it: measured, or guessed from the
        weights where nothing was built yet.
        """
        known = self.kept.content["models"].get(shape.name)
        if known is not None:
            return known["seconds_to_build"], known["seconds_per_step_first"]
        return (1.0, 0.1) if self.device.type == "cpu" else (15.0, 1.0)

    def length(self, shape: Published, share: float, part: str = "lanes", longest: int | None = None, repeats: int | None = None) -> Length:
        """Choose how much of a lane fits the time that is left.

        Args:
            shape: The model.
            share: Of the steps that are computed.
            part: Whose pace is taken.
            longest: Steps where time is not short; None takes the settings'.
            repeats: Likewise.
        """
        wanted = self.settings.steps if longest is None else min(longest, self.settings.steps)
        full = self.seconds(shape)[1]
        most = min(self.kept.budget.left, LANE_SECONDS)
        lengths = [self._length(full, share, wanted, self.settings.repeats if repeats is None else repeats, part, "")]
        if self.kept.budget.seconds is not None:
            said = "{} steps instead of " + f"{self.settings.steps}, and one run: time is short"
            lengths += [self._length(full, share, steps, 1, part, said.format(steps)) for steps in SHORTER if steps < wanted]
        return next((length for length in lengths if self.kept.seconds_of(part, length.work, PACE) <= most), lengths[-1])

    def _length(self, full: float, share: float, steps: int, repeats: int, part: str, said: str) -> Length:
        full_steps = min(self.settings.full_steps, steps, *([FEW] if said else []))
        counting = COUNTING if part == "lanes" and self.device.type == "cuda" else 0.0
        return Length(steps, repeats, full_steps, full * (repeats * (full_steps + steps * (share + 0.1)) + WARMING) + counting, said)


def facts(shape: Published, model: nn.Module) -> dict[str, Any]:
    """Return what a model is, and how it is called."""
    guidance = "one call (guidance is distilled)"
    if shape.calls_per_step > 1:
        calls = f"{shape.calls_per_step} calls a step, each with a history of its own"
        guidance = f"{calls}; published policies decide in the first"
    elif shape.rows_per_sample > 1:
        guidance = f"one call of {shape.rows_per_sample} rows a sample"
    return {
        "class": shape.cls,
        "checkpoint": shape.checkpoint or "a smaller one of its kind",
        "height_width_frames": list(shape.size),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "rows_per_call": shape.rows_per_sample,
        "calls_per_step": shape.calls_per_step,
        "guidance": guidance,
    }
