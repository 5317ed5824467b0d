"""What a step asks of a CUDA device: kernels and copies that it starts, and moments at which the host waits for
them, held against what the design says.
"""

from __future__ import annotations

import contextlib
import statistics
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs
import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]

from foreseer.bench.gpu.lanes import Lane
from foreseer.bench.gpu.loop import Loop
from foreseer.errors import in_one_line
from foreseer.outcome import Outcome
from foreseer.plugins import Policy
from foreseer.report import Report

__all__ = ["COUNTED_STEPS", "Counts", "CudaCounter", "Work", "device_work", "waits_allowed", "waits_held"]

COUNTED_STEPS = 10
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
        profile: Any = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
        profile.start()
        self._profile, self._caught = profile, warnings.catch_warnings(record=True)
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
        profile, self._profile = self._profile, None
        self._caught.__exit__(None, None, None)
        profile.stop()
        names = [event.name for event in profile.events() if event.device_type == DeviceType.CUDA]
        copies = sum(name.startswith(("Memcpy", "Memset")) for name in names)
        waits = sum("synchronizing" in str(warning.message) for warning in self._waits)
        self._work.append(Work(len(names) - copies, copies, waits))


class Counts(Protocol):
    """What counts: `CudaCounter`."""

    def mark(self) -> object:
        """Mark the end of a step, and the beginning of the next."""

    def work(self) -> list[Work]:
        """Return what was counted between the marks, and forget it."""


def device_work(loop: Loop, lane: Lane, counter: Counts) -> dict[str, Any]:
    """Count what the first steps of a run ask of the device.

    Returns:
        ``"device_work"``: for each kind of step that there was, ``"computed"``, ``"forecast"``,
        ``"rejected"``, the median of each attribute of `Work`. ``"waits"``: as `waits_held` says. Where it
        cannot be counted, None and why.
    """
    try:
        with loop.attach(lane) as attached:
            loop(counter.mark, 1)  # the self-check
            counter.work()
            loop(counter.mark, COUNTED_STEPS)
            reports = list(attached.reports.values())
            work = counter.work()
    except Exception as error:  # what was timed stays; a profiler is not allowed everywhere
        with contextlib.suppress(Exception):
            counter.work()  # ends what it had begun
        return {"device_work": None, "waits": {"holds": None, "most": {}, "said": f"not counted: {in_one_line(error)}"}}
    lead = reports[0].outcomes
    kinds: dict[str, list[dict[str, int]]] = {}
    for outcome, one in zip(lead, work, strict=True):
        kinds.setdefault(_kind(outcome), []).append(attrs.asdict(one))
    medians = {}
    for kind, steps in kinds.items():
        medians[kind] = {key: statistics.median(step[key] for step in steps) for key in steps[0]}
    return {"device_work": medians, "waits": waits_held(reports, lane, [one.waits for one in work])}


def _kind(outcome: Outcome) -> str:
    if not any(outcome.computed):
        return "forecast"
    return "computed" if outcome.accept is None else "rejected"


def waits_allowed(outcomes: Sequence[Outcome], products: Sequence[bool]) -> int:
    """Return how often the host may wait in one step, by the design: once for each verdict, and once where a
    step was computed for a policy that asks for inner products.

    Args:
        outcomes: Of the step, of each stream.
        products: Whether each stream's policy asks for inner products.
    """
    judged = sum(outcome.accept is not None for outcome in outcomes)
    return judged + sum(asks and any(outcome.computed) for outcome, asks in zip(outcomes, products, strict=True))


def waits_held(reports: Sequence[Report], lane: Lane, waits: Sequence[int]) -> dict[str, Any]:
    """Hold the waits of each step against what the design allows.

    Args:
        reports: Of each stream.
        lane: The policy.
        waits: Of each step.

    Returns:
        ``"holds"``; ``"most"``: for each kind of step the most waits of one and what was allowed there;
        ``"said"``: in words, with the first step that waited more often.
    """
    products = [Policy(str(lane.spec), lane.spec()).setup(report.run).products for report in reports]
    steps = list(zip(*(report.outcomes for report in reports), strict=True))
    most: dict[str, dict[str, int]] = {}
    beyond: list[str] = []
    for number, (outcomes, seen) in enumerate(zip(steps, waits, strict=True)):
        allowed, kind = waits_allowed(outcomes, products), _kind(outcomes[0])
        before: Mapping[str, int] = most.get(kind, {"waits": -1})
        if seen > before["waits"]:
            most[kind] = {"waits": seen, "allowed": allowed}
        if seen > allowed:
            beyond.append(f"step {number} ({kind}) waited {seen} times, where the design says {allowed}")
    said = f"{len(beyond)} of {len(steps)} steps waited more often than the design says: {beyond[0]}" if beyond else "as the design says in every step"
    return {"holds": not beyond, "most": most, "said": said}
