"""Seconds that are left, and what a piece of work is going to take of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

__all__ = ["LATE", "Budget", "pace_of"]

LATE = "time is short: "
"""How a sentence begins that says so."""


@attrs.define
class Budget:
    """What is left of a number of seconds.

    Attributes:
        seconds: In all; None for no limit.
        now: The clock, in seconds.
    """

    seconds: float | None = None
    now: Callable[[], float] = time.monotonic
    _began: float = attrs.field(init=False)

    @_began.default
    def _begin(self) -> float:
        return self.now()

    @property
    def left(self) -> float:
        """Seconds; infinite without a limit, and never below 0."""
        return float("inf") if self.seconds is None else max(0.0, self.seconds - (self.now() - self._began))

    def shortage(self, seconds: float) -> str:
        """Say that so many seconds are too many; empty where they are not."""
        if self.left > 0 and seconds <= self.left:
            return ""
        return f"{LATE}about {seconds:.0f} s needed, {self.left:.0f} s of {self.seconds:.0f} s left; the same command goes on"


def pace_of(entries: Iterable[Mapping[str, Any]], usual: float) -> float:
    """Return how many seconds a second of work took so far, in the median: what is not in the formula, such as
    building a model and attaching.

    Args:
        entries: What was done, with ``"wall_seconds"`` and ``"work_seconds"``; others are left out.
        usual: What to expect where nothing was done yet.
    """
    found = [entry["wall_seconds"] / entry["work_seconds"] for entry in entries if entry.get("work_seconds")]
    return statistics.median(found) if found else usual
