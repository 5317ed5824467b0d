"""The timing of one policy on one model: runs interleaved with full computation, step by step."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
import torch

from foreseer.bench.gpu.counted import CudaCounter, device_work
from foreseer.bench.gpu.lanes import Lane
from foreseer.bench.gpu.loop import Clock, Loop
from foreseer.contract import features_to_keep
from foreseer.outcome import Outcome
from foreseer.plugins import Policy
from foreseer.registry import PolicySpec
from foreseer.report import Report

__all__ = ["Driven", "lane_figures", "timed_run"]

WARM_UP = 6
"""Steps before the first repeat: with them the kernels of a forecast are there."""


@attrs.frozen(eq=False)
class Driven:
    """A run under a policy.

    Attributes:
        seconds: Of each step.
        reports: Of each stream, by its name.
        peak: Most bytes of tensors that were allocated during it, the weights in it; None on the CPU, which
            does not count them.
    """

    seconds: Sequence[float]
    reports: Mapping[str, Report]
    peak: int | None

    def steps(self, which: Callable[[Outcome], bool]) -> list[float]:
        """Return the seconds of those steps that are so in every stream."""
        outcomes = zip(*(report.outcomes for report in self.reports.values()), strict=True)
        return [seconds for seconds, step in zip(self.seconds, outcomes, strict=True) if all(map(which, step))]


def timed_run(
    loop: Loop,
    lane: Lane,
    clock: Clock,
    *,
    warm_up: int = 1,
) -> Driven:
    """Attach, make a short run and then a whole one, and detach.

    The short run, of ``warm_up`` steps, is not timed. One step brings the self-check of a fresh attachment;
    more bring the kernels of a forecast.
    """
    with loop.attach(lane) as attached:
        loop(clock.mark, warm_up)
        seconds, peak = _timed(loop, clock)
        return Driven(seconds, attached.reports, peak)


def _timed(loop: Loop, clock: Clock, steps: int | None = None) -> tuple[list[float], int | None]:
    clock.seconds()
    cuda = loop.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(loop.device)
    loop(clock.mark, steps)
    return clock.seconds(), int(torch.cuda.max_memory_allocated(loop.device)) if cuda else None


def lane_figures(
    loop: Loop,
    lane: Lane,
    *,
    bandwidth: float,
    repeats: int,
    full_steps: int,
    tell: Callable[[str], object],
    count_work: bool = True,
) -> dict[str, Any]:
    """Time a policy; on a GPU also count what its steps ask of the device, in a run of its own.

    Args:
        loop: The model with its inputs.
        lane: The policy.
        bandwidth: Bytes per second that a forecast could move at best.
        repeats: Runs. Each is beside ``full_steps`` steps of the bare model: before it in even ones, after it
            in odd ones.
        full_steps: See ``repeats``. Full steps are all alike, so that a few stand for a run.
        tell: Told what is under way.
        count_work: Whether to count.

    Returns:
        What a line of the results holds. Seconds are medians over all repeats; a ratio is the median of each
        repeat's own.
    """
    clock, count = Clock(loop.device), len(loop.times)
    full: list[list[float]] = []
    runs: list[Driven] = []
    full_peak: int | None = None

    def bare() -> None:
        nonlocal full_peak
        loop(clock.mark, 1)
        seconds, full_peak = _timed(loop, clock, full_steps)
        full.append(seconds)

    def driven() -> None:
        runs.append(timed_run(loop, lane, clock, warm_up=1 if runs else min(count, WARM_UP)))

    def median_of(which: Callable[[Outcome], bool]) -> float | None:
        return _median(seconds for run in runs for seconds in run.steps(which))

    for repeat in range(repeats):
        tell(f"repeat {repeat + 1} of {repeats}")
        for part in (driven, bare) if repeat % 2 else (bare, driven):
            part()
    first, took = runs[0], [sum(run.seconds) for run in runs]
    reports = list(first.reports.values())
    lead = reports[0]
    ratio = sum(r.block_rows for r in reports) / sum(count * r.run.depth * r.run.rows for r in reports)
    speedups = [count * statistics.median(f) / own for f, own in zip(full, took, strict=True)]
    speedup = statistics.median(speedups)
    forecast = median_of(lambda o: not any(o.computed))
    read, written = map(sum, zip(*(_forecast_bytes(report, lane.spec) for report in reports), strict=True))
    # What lies on another device is read over the bus; there the sum and what it writes are hidden behind
    # that.
    floor = (read if loop.history_elsewhere else read + written) / bandwidth
    work = device_work(loop, lane, CudaCounter(loop.device)) if count_work and loop.device.type == "cuda" else {"device_work": None, "waits": None}
    return {
        "seconds_per_run": statistics.median(took),
        "seconds_of_runs": took,
        "seconds_per_full_step": _median(s for part in full for s in part),
        "seconds_per_computed_step": median_of(lambda o: o.full and o.accept is None),
        "seconds_per_forecast_step": forecast,
        "seconds_per_rejected_step": median_of(lambda o: o.full and o.accept is not None),
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
        **work,
        "peak_bytes": first.peak,
        "full_peak_bytes": full_peak,
        "history_bytes": sum(sum(report.bytes_held.values()) for report in reports),
        "streams": list(first.reports),
        "warnings": list(dict.fromkeys(w for report in reports for w in report.warnings)) + _missed(lane, lead),
    }


def _forecast_bytes(report: Report, spec: PolicySpec) -> tuple[int, int]:
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
    if "computed" not in lane.spec.options:
        return []
    count, reached = len(report.outcomes), len(report.full_steps)
    asked = lane.spec.options["computed"] * count // lane.spec.options["of"]
    said = f"{reached} steps were computed where the published rate is {asked} of {count}"
    return [] if reached == asked else [said]


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None
