"""How long a run took, and what a speed-up can be: one rule for all that is measured.

On a CPU it is the processor's time that counts, summed over threads: whatever else runs on the machine then
counts little, and a machine that stands still counts for nothing. On a GPU it is the clock.
"""

from __future__ import annotations

import ctypes
import math
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import attrs
import torch

__all__ = ["MEASURING_ERROR", "UNMEASURABLE", "Took", "keep_freed_memory", "possible", "timed"]

T = TypeVar("T")

MEASURING_ERROR = 0.05
"""A speed-up may be so much above what the work allows. Beyond it the machine was measured, not the run."""

UNMEASURABLE = "not measurable now"
"""What is shown in the place of a speed-up that cannot be."""


@attrs.frozen
class Took:
    """How long a run took.

    Attributes:
        seconds: What is compared: on a CPU the processor's time, of all threads; else by the clock.
        clock: By the clock.
    """

    seconds: float
    clock: float


def timed(run: Callable[[], T], device: torch.device) -> tuple[T, Took]:
    """Run something, and time it; an accelerator is waited for before and after.

    Args:
        run: What to time.
        device: Where it computes.
    """
    _wait_for(device)
    clock, used = time.perf_counter(), time.process_time()
    found = run()
    _wait_for(device)
    clock, used = time.perf_counter() - clock, time.process_time() - used
    return found, Took(used if device.type == "cpu" else clock, clock)


def possible(speedup: float, work: float) -> float:
    """Return a measured speed-up, or NaN where the work does not allow it.

    Args:
        speedup: Full computation's time over that of the run.
        work: The run's work over that of full computation, such as its block-rows; NaN where nobody knows.
    """
    return math.nan if speedup * work > 1.0 + MEASURING_ERROR else speedup


def keep_freed_memory() -> bool:
    """Have this process keep the memory that tensors are freed from, as far as glibc lets it, and return whether
    it does.

    Otherwise glibc hands it back to the system or does not, as it happens to lie: a step of the bundled DiT then
    takes up to 15,000 page faults, a fifth of its time, or none, whatever is attached to it.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    trim, top_pad, mmap = -1, -2, -3  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD
    return tune is not None and all([tune(trim, 2**31 - 1), tune(top_pad, 2**28), tune(mmap, 2**25)])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
