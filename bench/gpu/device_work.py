"""What a step asks of a CUDA device: kernels and copies that it starts, and moments at which the host waits
for them.
"""

from __future__ import annotations

import statistics
import warnings
from typing import Any

import attrs
import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]

from foreseer.bench.gpu.lanes import Lane
from foreseer.bench.gpu.loop import Loop
from foreseer.outcome import Outcome

__all__ = ["CudaCounter", "Work", "device_work"]

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


class CudaCounter:
    """Counts between marks, by torch's profiler, one profile a step. It slows a step down, so that nothing is
    timed beside it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._work: list[Work] = []
        self._profile: Any = None
        self._caught: Any = None

    def mark(self) -> None:
        """Mark the end of a step, and the beginning of the next."""
        self._close()
        self._profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
        self._profile.start()
        self._caught = warnings.catch_warnings(record=True)
        self._waits = self._caught.__enter__()
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")

    def work(self) -> list[Work]:
        """Return what was counted between the marks, and forget it."""
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


def device_work(loop: Loop, lane: Lane, counter: CudaCounter) -> dict[str, dict[str, float]]:
    """Count what the steps of a run ask of the device.

    Returns:
        For each kind of step that there was, ``"computed"``, ``"forecast"``, ``"rejected"``, the median of
        each attribute of `Work`.
    """
    with loop.attach(lane) as attached:
        loop(counter.mark, 1)  # the self-check
        counter.work()
        loop(counter.mark, STEPS)
        lead = next(iter(attached.reports.values())).outcomes
        kinds: dict[str, list[dict[str, int]]] = {}
        for outcome, work in zip(lead, counter.work(), strict=True):
            kinds.setdefault(_kind(outcome), []).append(attrs.asdict(work))
    medians = {}
    for kind, steps in kinds.items():
        medians[kind] = {key: statistics.median(step[key] for step in steps) for key in steps[0]}
    return medians


def _kind(outcome: Outcome) -> str:
    if not any(outcome.computed):
        return "forecast"
    return "computed" if outcome.accept is None else "rejected"
