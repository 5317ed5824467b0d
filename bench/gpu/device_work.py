"""What a step asks of a CUDA device: kernels and copies that it starts, and moments at which the host waits
for them.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs
import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]

from foreseer.adapters import attach
from foreseer.bench.gpu.lanes import Lane
from foreseer.bench.gpu.loop import Loop, Marked
from foreseer.outcome import Outcome
from foreseer.storage import Storage

__all__ = ["CudaCounter", "StepCounter", "Work", "device_work"]

STEPS = 10
"""Of the run that is counted. It has computed and forecast steps of every lane."""


@attrs.frozen
class Work:
    """Of one step.

    Attributes:
        kernels: Kernels on the device.
        copies: Copies and fills there, from and to the host too.
        waits: Times at which the host waited for the device, as torch's ``set_sync_debug_mode`` sees them.
    """

    kernels: int
    copies: int
    waits: int


class StepCounter(Marked, Protocol):
    """Counts between marks."""

    def work(self) -> Sequence[Work]:
        """Return what was counted between the marks, and forget it."""


class CudaCounter:
    """A `StepCounter` by torch's profiler, one profile a step. It slows a step down, so that nothing is timed
    beside it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._work: list[Work] = []
        self._profile: Any = None
        self._caught: Any = None

    def mark(self) -> None:
        """See `Marked`."""
        self._close()
        self._profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
        self._profile.start()
        self._caught = warnings.catch_warnings(record=True)
        self._waits = self._caught.__enter__()
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")

    def work(self) -> list[Work]:
        """See `StepCounter`."""
        self._close()
        work, self._work = self._work[:-1], []  # the last began with the last mark
        return work

    def _close(self) -> None:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize(self._device)
        if self._profile is None:
            return
        self._caught.__exit__(None, None, None)
        self._profile.stop()
        names = [event.name for event in self._profile.events() if event.device_type == DeviceType.CUDA]
        copies = sum(name.startswith(("Memcpy", "Memset")) for name in names)
        waits = sum("synchronizing" in str(warning.message) for warning in self._waits)
        self._work.append(Work(len(names) - copies, copies, waits))
        self._profile = None


def device_work(loop: Loop, lane: Lane, counter: StepCounter, *, history_device: str | None = None) -> dict[str, dict[str, float]]:
    """Count what the steps of a run ask of the device.

    Args:
        loop: The model and its inputs.
        lane: The policy.
        counter: Counts.
        history_device: Where features are kept, as `foreseer.Storage` says.

    Returns:
        For each kind of step that there was, ``"computed"``, ``"forecast"``, ``"rejected"``, the median of
        each attribute of `Work`.
    """
    with attach(loop, lane.spec, streams=lane.streams, storage=Storage(device=history_device), copies=len(loop.times[0])) as attached:
        loop(counter, 1)  # the self-check
        counter.work()
        loop(counter, STEPS)
        work = counter.work()
        lead = next(iter(attached.reports.values())).outcomes
    kinds: dict[str, list[Mapping[str, int]]] = {}
    for outcome, each in zip(lead, work, strict=True):
        kinds.setdefault(_kind(outcome), []).append(attrs.asdict(each))
    return {kind: {key: statistics.median(one[key] for one in all_of_it) for key in all_of_it[0]} for kind, all_of_it in kinds.items()}


def _kind(outcome: Outcome) -> str:
    if not any(outcome.computed):
        return "forecast"
    return "computed" if outcome.accept is None else "rejected"
