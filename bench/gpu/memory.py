"""Memory of a device: how much is free, how fast it is copied, and what a lane needs of it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping
from typing import Any

import attrs
import torch

from foreseer.adapters.estimate import estimate
from foreseer.adapters.published import Published
from foreseer.bench.gpu.loop import Clock
from foreseer.registry import PolicySpec, policy
from foreseer.storage import Storage, in_bytes

__all__ = ["Need", "copy_bandwidth", "free_bytes", "needs_of"]

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

    def shortage(self, free: int) -> str:
        """Say what is missing in ``free`` bytes; empty where nothing is."""
        needed = self.parameters + self.activations + self.history
        if needed <= free:
            return ""
        parts = f"{in_bytes(self.parameters)} for weights, about {in_bytes(self.activations)} for activations, {in_bytes(self.history)} for features"
        return f"memory is short: {in_bytes(needed)} needed ({parts}), {in_bytes(free)} free"


def needs_of(
    shape: Published,
    specs: Mapping[str, PolicySpec],
    *,
    steps: int,
    dtype: torch.dtype,
) -> dict[str, Need]:
    """Return what policies need on one model, by the policies' names, in a run of so many steps with weights
    and features of this dtype. It is found out on the meta device, where nothing is allocated.
    """
    model, streams = shape.build(), shape.calls_per_step
    inputs = shape.inputs(shape, shape.rows_per_sample, *shape.size)

    def history(spec: PolicySpec) -> int:
        storage = Storage(dtype=dtype)
        return estimate(model, spec, inputs, num_steps=steps, storage=storage, streams=streams).bytes_held

    parameters = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    last_block = policy("taylorseer", target="last_block", max_order=0)
    activations = WORKING_SET * history(last_block) // streams
    return {name: Need(parameters, activations, history(spec)) for name, spec in specs.items()}


def free_bytes(device: torch.device) -> int:
    """Return the bytes that can still be allocated there."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserved
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # small models are tried out there


def copy_bandwidth(device: torch.device, *, from_host: bool, size: int) -> dict[str, Any]:
    """Measure how fast big copies of so many bytes are, the median of a few: ``"bytes_per_second"``, and in
    words ``"what"`` was copied.

    Copies within the device count twice, read and written; those from pinned memory of the host once.
    """
    other = torch.device("cpu") if from_host else device
    source = torch.zeros(size, dtype=torch.uint8, device=other, pin_memory=from_host)
    target = torch.zeros(size, dtype=torch.uint8, device=device)
    target.copy_(source)
    clock = Clock(device, time.perf_counter)
    clock.mark()
    for _ in range(9):
        target.copy_(source, non_blocking=True)
        clock.mark()
    moved = size if from_host else 2 * size
    where = f"from pinned memory to {device}" if from_host else f"on {device}, read and written"
    speed = moved / statistics.median(clock.seconds())
    return {"bytes_per_second": speed, "what": f"a copy of {size >> 20} MiB {where}"}
