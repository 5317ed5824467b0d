"""Memory of a device: how much is free, how fast it is copied, and what a lane needs of it."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import attrs
import torch

from foreseer.adapters.estimate import estimate
from foreseer.adapters.published import Published
from foreseer.bench.gpu.loop import Clock
from foreseer.registry import PolicySpec
from foreseer.registry import policy as named
from foreseer.storage import Storage, in_bytes

__all__ = ["Need", "Needs", "copy_bandwidth", "free_bytes", "peak_bytes", "reset_peak"]

WORKING_SET = 16
"""Activations that are alive at once in a block, in features of the last block: the residual stream, its
norm, queries, keys and values, an MLP four times as wide, and what its activation makes of it."""


@attrs.frozen
class Need:
    """What a policy on a model needs.

    Attributes:
        parameters: Bytes of the weights.
        activations: Bytes of a step's working set; an estimate.
        history: Bytes of the recorded features.
    """

    parameters: int
    activations: int
    history: int

    def shortage(self, free: int, *, history_elsewhere: bool = False) -> str:
        """Say what is missing in ``free`` bytes; empty where nothing is."""
        needed = self.parameters + self.activations + (0 if history_elsewhere else self.history)
        if needed <= free:
            return ""
        history = "" if history_elsewhere else f", {in_bytes(self.history)} for features"
        return (
            f"memory is short: {in_bytes(needed)} needed ({in_bytes(self.parameters)} for weights, about {in_bytes(self.activations)} for activations"
            f"{history}), {in_bytes(free)} free"
        )


class Needs:
    """What policies on one model need, found out by passes on the meta device, where nothing is allocated.

    Args:
        shape: The model.
        steps: Steps of the run.
        dtype: Of weights and features.
    """

    def __init__(self, shape: Published, *, steps: int, dtype: torch.dtype) -> None:
        self._shape, self._steps, self._dtype = shape, steps, dtype
        self._model = shape.build()
        self._parameters = sum(parameter.numel() for parameter in self._model.parameters()) * dtype.itemsize
        last_block = named("taylorseer", target="last_block", max_order=0)
        self._activations = WORKING_SET * self._history(last_block) // shape.calls_per_step

    def of(self, spec: PolicySpec) -> Need:
        """Return what a policy needs."""
        return Need(self._parameters, self._activations, self._history(spec))

    def _history(self, spec: PolicySpec) -> int:
        inputs = self._shape.inputs(self._shape, self._shape.rows_per_sample, *self._shape.size)
        streams = self._shape.calls_per_step
        return estimate(self._model, spec, inputs, num_steps=self._steps, storage=Storage(dtype=self._dtype), streams=streams).bytes_held


def free_bytes(device: torch.device) -> int:
    """Return the bytes that can still be allocated there."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def copy_bandwidth(device: torch.device, *, to: torch.device | None = None, size: int = 2**30, repeats: int = 9) -> float:
    """Return the bytes per second that big copies move, the median of a few.

    Args:
        device: Copies within it count twice, read and written.
        to: Another device: copies from there to ``device`` count once; its memory is pinned where it is the
            CPU and ``device`` is not.
        size: Bytes of a copy.
        repeats: How many.
    """
    other = device if to is None else to
    pinned = other.type == "cpu" and device.type == "cuda"
    source = torch.zeros(size, dtype=torch.uint8, device=other, pin_memory=pinned)
    target = torch.zeros(size, dtype=torch.uint8, device=device)
    target.copy_(source)
    clock = Clock(device, time.perf_counter)
    clock.mark()
    for _ in range(repeats):
        target.copy_(source, non_blocking=True)
        clock.mark()
    moved = size if other != device else 2 * size
    return moved / statistics.median(clock.seconds())


def reset_peak(device: torch.device) -> None:
    """Forget the most that was allocated so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """Return the most bytes of tensors since `reset_peak`, the weights in it; None on the CPU, which does not
    count them.
    """
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
