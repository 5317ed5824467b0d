"""Timed runs in pairs: one of a lane and one of full computation, back to back."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs
import torch

from foreseer.adapters.attachment import Attachment
from foreseer.bench.lanes import wait_for

__all__ = ["Stopwatch", "Timed"]

STOOD_STILL = 3.0
"""A run on the CPU that took so many times the processor time it used was not running: the machine was suspended, or belonged to others."""
ATTEMPTS = 3
"""Runs of a pair at most. The last counts whatever befell it: a machine that always stands still is what it is."""


@attrs.frozen(eq=False)
class Timed:
    """One run.

    Attributes:
        seconds: By the clock.
        stalled: Whether the machine stood still meanwhile. Judged by the processor time alone, never by how the run compares; of a GPU nobody can say.
        attached: The policy that drove it, if one did.
    """

    seconds: float
    stalled: bool
    attached: Attachment | None

    @classmethod
    def of(cls, run: Callable[[], object], *, device: torch.device, attached: Attachment | None) -> Timed:
        """Run something and time it."""
        wait_for(device)
        started, used = time.perf_counter(), time.process_time()
        run()
        wait_for(device)
        seconds, used = time.perf_counter() - started, time.process_time() - used
        return cls(seconds, device.type == "cpu" and seconds > STOOD_STILL * used, attached)


class Stopwatch:
    """Times pairs.

    Attributes:
        seconds, full_seconds: ``(n,)`` of the n pairs: of the lane, and of full computation beside it.
        stalled: Pairs that were thrown away and repeated.
        attached: The policy of the lane's last run.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.full_seconds: list[float] = []
        self.stalled = 0
        self.attached: Attachment | None = None

    def pair(self, own: Callable[[], Timed], full: Callable[[], Timed], *, full_first: bool) -> None:
        """Time one pair, again where the machine stood still in either run."""
        for left in reversed(range(ATTEMPTS)):
            if full_first:
                beside = full()
                timed = own()
            else:
                timed = own()
                beside = full()
            if not left or not (timed.stalled or beside.stalled):
                break
            self.stalled += 1
        self.seconds.append(timed.seconds)
        self.full_seconds.append(beside.seconds)
        self.attached = timed.attached or self.attached
