"""The measuring of `foreseer compare`: every lane on every batch, back to back, and what it amounts to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from foreseer.bench.compare_settings import CompareSettings
from foreseer.bench.compared import Row
from foreseer.bench.lanes import FULL, SAMPLE, Lane, LaneOf, Measurement, fewer_lane, labels_of, measure, noise_of, warm_up
from foreseer.bench.quality import ssim
from foreseer.psnr import psnr
from foreseer.registry import PolicySpec, build_observers
from foreseer.report import Report
from foreseer.zoo.judge import DigitJudge

__all__ = ["Bars", "Comparison"]


class Bars(Protocol):
    """Who is told how far the comparison is. Work is counted in steps of a sampling loop."""

    def expect(self, steps: int) -> None:
        """There are this many more steps to come."""

    def begin(self, what: str, steps: int) -> None:
        """Something begins, and takes this many steps."""

    def step(self, index: int) -> None:
        """A step of what is under way is done."""


class Comparison:
    """A comparison under way. Only whole batches enter its results."""

    def __init__(self, settings: CompareSettings, specs: Sequence[PolicySpec], model: nn.Module) -> None:
        self.settings = settings
        self.batches: list[range] = []
        self._model = model
        self._full = Lane(FULL, "full", settings.steps)
        watchers = build_observers(settings.observers)
        self._policies = [Lane(str(spec), "policy", settings.steps, spec, watchers) for spec in specs]
        self._fewer: dict[str, Lane] = {}
        self._afterwards: list[Lane] = []
        self._done: dict[str, list[Measurement]] = {}

    def run(self, bars: Bars, *, on_batch: Callable[[], object]) -> None:
        """Measure all lanes, batch by batch.

        Args:
            bars: Told what is under way.
            on_batch: Called after each finished batch.
        """
        settings = self.settings
        planned = [range(i, min(i + settings.batch, settings.samples)) for i in range(0, settings.samples, settings.batch)]
        bars.expect(len(planned) * settings.steps * (1 + len(self._policies)))
        for lane in (self._full, *self._policies):
            bars.begin(f"warm-up, {lane.name}", 0)
            warm_up(self._model, lane, *self._start(planned[0]), guidance=settings.guidance)
        for number, indices in enumerate(planned):
            lanes = [self._full, *self._policies, *self._fewer_lanes()]
            if number % 2:
                lanes.reverse()  # so that a machine that slows down does not favour the same lanes in every batch
            place = f"batch {number + 1} of {len(planned)}"
            found = {lane.name: self._measure(lane, indices, bars, place) for lane in lanes}
            if not number:
                self._fewer = {lane.name: _as_many(found[lane.name].steps) for lane in self._policies}
                bars.expect(len(planned) * sum(lane.num_steps for lane in self._fewer_lanes()))
                found |= {lane.name: self._measure(lane, indices, bars, place) for lane in self._fewer_lanes()}
            for name, measurement in found.items():
                self._done.setdefault(name, []).append(measurement)
            self.batches.append(indices)
            on_batch()
        self._settle(bars)

    def _settle(self, bars: Bars) -> None:
        """Where the first batch was not typical, measure the number of steps that all batches computed on average."""
        for policy in self._policies:
            lane = _as_many([n for m in self._done[policy.name] for n in m.steps])
            if lane.name not in self._done and lane.num_steps < self.settings.steps:
                bars.expect(len(self.batches) * lane.num_steps)
                self._done[lane.name] = [self._measure(lane, indices, bars, "one more number of steps") for indices in self.batches]
            self._fewer[policy.name] = lane

    def counts(self) -> list[int]:
        """Return the numbers of steps that policies computed on average, each once; all steps are left out."""
        return sorted({lane.num_steps for lane in self._fewer.values() if lane.num_steps < self.settings.steps})

    def measure_afterwards(self, lanes: Sequence[LaneOf], bars: Bars) -> None:
        """Measure lanes that were planned on the finished samples. They are timed after the others, so their speed-ups are less certain."""
        bars.expect(len(lanes) * len(self.batches) * self.settings.steps)
        for lane in lanes:
            self._done[lane.name] = [self._measure(lane.of(indices), indices, bars, "headroom") for indices in self.batches]
            self._afterwards.append(lane.of(self.batches[0]))

    def _fewer_lanes(self) -> list[Lane]:
        """Each number of steps once, in the order of the policies. A policy that computed all steps has full computation beside it."""
        return list({lane.name: lane for lane in self._fewer.values() if lane.num_steps < self.settings.steps}.values())

    def _start(self, indices: range) -> tuple[Tensor, Tensor]:
        noise = noise_of(indices, seed=self.settings.seed, shape=SAMPLE)
        weight = next(self._model.parameters())
        return noise.to(weight.device, weight.dtype), labels_of(indices).to(weight.device)

    def _measure(self, lane: Lane, indices: range, bars: Bars, place: str) -> Measurement:
        bars.begin(f"{place}: {lane.name}", lane.num_steps)
        return measure(self._model, lane, *self._start(indices), guidance=self.settings.guidance, on_step=bars.step)

    def labels(self) -> Tensor:
        """Return the classes of the finished samples, ``(N,)``."""
        return torch.cat([labels_of(indices) for indices in self.batches])

    def samples(self) -> dict[str, Tensor]:
        """Return each lane's finished samples, ``(N, 1, H, W)``."""
        return {name: torch.cat([m.samples for m in found]) for name, found in self._done.items()}

    def reports(self) -> dict[str, Report]:
        """Return each policy's report of the first batch."""
        firsts = {policy.name: self._done[policy.name][0].report for policy in self._policies}
        return {name: report for name, report in firsts.items() if report is not None}

    def rows(self, judge: DigitJudge) -> tuple[Row, ...]:
        """Return full computation, then each policy, and after it the fewer steps of its cost if they are not there already."""
        samples, labels = self.samples(), self.labels()
        rows: dict[str, Row] = {}
        order = [lane for policy in self._policies for lane in (policy, self._fewer[policy.name])]
        for lane in (self._full, *order, *self._afterwards):
            if lane.name not in rows and lane.name in self._done:
                rows[lane.name] = self._row(lane, samples, labels, judge)
        for policy in self._policies:
            fewer = rows.get(self._fewer[policy.name].name)
            if fewer is not None:
                gain = rows[policy.name].likeness.mean - fewer.likeness.mean
                rows[policy.name] = attrs.evolve(rows[policy.name], fewer=fewer.name, gain=gain)
        for lane in self._afterwards:
            beside = rows.get(_as_many(rows[lane.name].steps.tolist()).name)
            if beside is not None:
                gain = rows[lane.name].likeness.mean - beside.likeness.mean
                rows[lane.name] = attrs.evolve(rows[lane.name], fewer=beside.name, gain=gain)
        return tuple(rows.values())

    def _row(self, lane: Lane, samples: dict[str, Tensor], labels: Tensor, judge: DigitJudge) -> Row:
        found, full, own = self._done[lane.name], self._done[FULL], samples[lane.name]
        reports = [m.report for m in found if m.report is not None]
        return Row(
            name=lane.name,
            kind=lane.kind,
            num_steps=lane.num_steps,
            steps=np.array([n for m in found for n in m.steps]),
            ratio=sum(m.block_rows for m in found) / sum(m.block_rows for m in full),
            seconds=tuple(m.seconds for m in found),
            speedups=tuple(f.seconds / m.seconds for m, f in zip(found, full, strict=True)),
            psnr=psnr(own, samples[FULL]),
            ssim=ssim(own, samples[FULL]),
            frechet=judge.frechet_distance(own) if len(own) > 1 and bool(own.isfinite().all()) else float("nan"),
            accuracy=judge.accuracy(own, labels),
            bytes_held=max((sum(report.bytes_held.values()) for report in reports), default=0),
            warnings=tuple(dict.fromkeys(sentence for report in reports for sentence in report.warnings)),
        )


def _as_many(steps: Sequence[int]) -> Lane:
    """Return the fewer-steps lane of a policy that computed these steps; half a step is rounded up, in favour of what is to be beaten."""
    return fewer_lane(max(1, math.floor(np.mean(steps) + 0.5)))
