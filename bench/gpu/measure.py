"""The timing of one policy on one model: runs interleaved with full computation, step by step."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch

from foreseer.adapters import attach
from foreseer.bench.gpu.device_work import StepCounter, device_work
from foreseer.bench.gpu.lanes import Lane
from foreseer.bench.gpu.loop import Clock, Loop
from foreseer.bench.gpu.memory import peak_bytes, reset_peak
from foreseer.contract import features_to_keep
from foreseer.outcome import Outcome
from foreseer.plugins import Policy
from foreseer.registry import PolicySpec
from foreseer.report import Report
from foreseer.storage import Storage

__all__ = ["Driven", "forecast_bytes", "lane_figures", "timed_run"]

Tell = Callable[[str], object]


@attrs.frozen(eq=False)
class Driven:
    """A run under a policy.

    Attributes:
        seconds: Of each step.
        reports: Of each stream, by its name.
        peak: Most bytes that were allocated during it; None where that is not counted.
    """

    seconds: Sequence[float]
    reports: Mapping[str, Report]
    peak: int | None

    def steps(self, which: Callable[[Outcome], bool]) -> list[float]:
        """Return the seconds of those steps that are so in every stream."""
        outcomes = zip(*(report.outcomes for report in self.reports.values()), strict=True)
        return [seconds for seconds, step in zip(self.seconds, outcomes, strict=True) if all(which(outcome) for outcome in step)]


def timed_run(
    loop: Loop,
    lane: Lane,
    clock: Clock,
    *,
    device: torch.device,
    history_device: str | None = None,
    warm_up: int = 1,
    clear: Callable[[], object] = lambda: None,
) -> Driven:
    """Attach, make a short run and then a whole one, and detach.

    Args:
        loop: The model and its inputs.
        lane: The policy.
        clock: For the device.
        device: The device.
        history_device: Where features are kept, as `foreseer.Storage` says.
        warm_up: Steps of the short run, which is not timed. One step brings the self-check of a fresh
            attachment; more bring the kernels of a forecast.
        clear: Called between the two.
    """
    rows = len(loop.times[0])
    with attach(loop, lane.spec, streams=lane.streams, storage=Storage(device=history_device), copies=rows) as attached:
        loop(clock, warm_up)
        clock.seconds()
        clear()
        reset_peak(device)
        loop(clock)
        return Driven(clock.seconds(), attached.reports, peak_bytes(device))


def lane_figures(
    loop: Loop,
    lane: Lane,
    *,
    device: torch.device,
    history_device: str | None,
    bandwidth: float,
    repeats: int,
    full_steps: int,
    tell: Tell,
    counter: StepCounter | None = None,
) -> dict[str, Any]:
    """Time a policy.

    Args:
        loop: The model with its inputs.
        lane: The policy.
        device: Where it is.
        history_device: Where features are kept, as `foreseer.Storage` says.
        bandwidth: Bytes per second that a forecast could move at best.
        repeats: Runs. Each is beside ``full_steps`` steps of the bare model: before it in even ones, after it
            in odd ones.
        full_steps: See ``repeats``. Full steps are all alike, so that a few stand for a run.
        tell: Told what is under way.
        counter: Counts what steps ask of the device, in a run of its own; None to leave it out.

    Returns:
        What a line of the results holds. Seconds are medians over all repeats; a ratio is the median of each
        repeat's own.
    """
    clock = Clock(device)
    full: list[list[float]] = []
    runs: list[Driven] = []
    full_peak: int | None = None

    def bare() -> None:
        nonlocal full_peak
        loop(clock, 1)
        clock.seconds()
        reset_peak(device)
        loop(clock, full_steps)
        full.append(clock.seconds())
        full_peak = peak_bytes(device)

    def driven() -> None:
        warm_up = 1 if runs else min(len(loop.times), 4)
        runs.append(timed_run(loop, lane, clock, device=device, history_device=history_device, warm_up=warm_up))

    for repeat in range(repeats):
        tell(f"repeat {repeat + 1} of {repeats}")
        for part in (driven, bare) if repeat % 2 else (bare, driven):
            part()
    first, count = runs[0], len(loop.times)
    reports = list(first.reports.values())
    lead = reports[0]
    ratio = sum(r.block_rows for r in reports) / sum(count * r.run.depth * r.run.rows for r in reports)
    speedups = [count * statistics.median(f) / sum(run.seconds) for f, run in zip(full, runs, strict=True)]
    forecast = _median(s for run in runs for s in run.steps(lambda o: not any(o.computed)))
    moved = [forecast_bytes(report, lane.spec) for report in reports]
    read, written = sum(m[0] for m in moved), sum(m[1] for m in moved)
    # What lies on another device is read over the bus; there the sum and what it writes are hidden behind
    # that.
    floor = (read + (0 if history_device not in (None, device.type) else written)) / bandwidth
    speedup = statistics.median(speedups)
    return {
        "seconds_per_run": statistics.median(sum(run.seconds) for run in runs),
        "seconds_of_runs": [sum(run.seconds) for run in runs],
        "seconds_per_full_step": statistics.median(s for part in full for s in part),
        "seconds_per_computed_step": _median(s for run in runs for s in run.steps(lambda o: o.full and (o.accept is None))),
        "seconds_per_forecast_step": forecast,
        "seconds_per_rejected_step": _median(s for run in runs for s in run.steps(lambda o: o.full and o.accept is not None)),
        "steps": count,
        "steps_computed": len(lead.full_steps),
        "steps_judged": int(lead.judged.sum()),
        "steps_rejected": int(lead.rejected.any(axis=1).sum()),
        "block_rows_ratio": ratio,
        "speedup": speedup,
        "speedups": speedups,
        "speedup_promised": 1 / ratio,
        "of_promised": speedup * ratio,
        "forecast_bytes_read": read,
        "forecast_bytes_written": written,
        "forecast_floor_seconds": floor if read else None,
        "forecast_over_floor": forecast / floor if forecast and read else None,
        "device_work": None if counter is None else device_work(loop, lane, counter, history_device=history_device),
        "peak_bytes": first.peak,
        "full_peak_bytes": full_peak,
        "history_bytes": sum(sum(report.bytes_held.values()) for report in reports),
        "streams": list(first.reports),
        "warnings": list(dict.fromkeys(w for report in reports for w in report.warnings)) + _missed(lane, lead),
    }


def forecast_bytes(report: Report, spec: PolicySpec) -> tuple[int, int]:
    """Return the bytes that the weighted sums of one forecast step must read and write.

    Of module parts and of what a gate compares, all are formed; of blocks that nobody judges, the last one
    only.
    """
    outcome = next((o for o in report.outcomes if o.plan.forecast and not any(o.computed)), None)
    if outcome is None:
        return 0, 0
    keep = features_to_keep(Policy(str(spec), spec()).setup(report.run), report.run)
    formed = outcome.plan.forecast
    if outcome.accept is None and all(site.part in ("block", "output") for site in formed):
        formed = formed[-1:]
    held = report.bytes_held
    return sum(held[site] for site in formed), sum(held[site] // keep[site] for site in formed)


def _missed(lane: Lane, report: Report) -> list[str]:
    if not lane.source:
        return []
    asked = lane.spec.options["computed"] * len(report.outcomes) // lane.spec.options["of"]
    reached = len(report.full_steps)
    return [] if reached == asked else [f"{reached} steps were computed where the published rate is {asked} of {len(report.outcomes)}"]


def _median(values: Any) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None
