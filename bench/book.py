"""The one writer of a benchmark: what came back, put with what is there, and kept after each unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch

from foreseer.bench.board import Wanted
from foreseer.bench.jobs import Measured
from foreseer.bench.lanes import FULL
from foreseer.bench.likeness import Drawn
from foreseer.bench.measuring import judge
from foreseer.bench.results import LaneResult, Results
from foreseer.bench.store import Key, Store
from foreseer.errors import in_one_line
from foreseer.report import Report
from foreseer.zoo.judge import frechet_distance

__all__ = ["Book"]


class Book:
    """Lanes and their units, in memory and in a folder.

    Args:
        store: The folder.
        found: Results without lanes, of what is to be measured now.
        samples: How many samples each lane draws.

    Attributes:
        results: What is there so far.
        lanes: By name and batch size; written with the next `save`.
        reports: For each policy, by its name, the first report of the first batch that was drawn here.
        drawn_here: Units that are not from an earlier process.

    Raises:
        OptionError: The folder holds results of other settings, versions or machines.
    """

    def __init__(self, store: Store, found: Results, *, samples: int) -> None:
        self._store = store
        self.reports: dict[str, Report] = {}
        self.drawn_here: set[Wanted] = set()
        self._reported: dict[str, int] = {}
        self._failed: dict[Key, int] = {}
        there = store.resume(found)
        self._agreements = dict(there.reference.get("agreement", {}))
        self._reference = found.reference
        # packages that were not there before may be there now
        known = {**there.measures, **found.measures}
        now: dict[str, Any] = {"about": found.about, "published": found.published, "measures": known, "missing": found.missing}
        self.results = attrs.evolve(there, **now, versions=found.versions)
        self.lanes: dict[Key, LaneResult] = {lane.key: lane for lane in store.begin_again(self.results, samples=samples).lanes}

    def add(self, lanes: Sequence[LaneResult]) -> list[Key]:
        """Have lanes, where they are not there already."""
        self.lanes |= {lane.key: lane for lane in lanes if lane.key not in self.lanes}
        self._store.name(list(self.lanes))
        return [lane.key for lane in lanes]

    def keep(self, unit: Wanted, found: Measured, where: Mapping[str, str]) -> bool:
        """Keep what a lane came to on a batch. Returns whether it counts: not where the lane has failed on an
        earlier batch, since in one process nobody would have measured it, nor where it is there.
        """
        lane, number = self.lanes[unit.key], unit.number
        if number >= self._failed.get(unit.key, number + 1) or any(one.number == number for one in lane.units):
            return False
        self.lanes[unit.key] = attrs.evolve(
            lane,
            units=tuple(sorted((*lane.units, attrs.evolve(found.unit, where=where)), key=lambda unit: unit.number)),
            frechet=self._frechet(lane, {number: found.drawn}),
            counted=found.counted or lane.counted,
            reports=lane.reports if number else {name: report.to_dict() for name, report in found.reports.items()},
        )
        self._agreements |= {str(index): value for index, value in found.agreements.items()}
        if found.reports and number < self._reported.get(lane.name, number + 1):
            self._reported[lane.name], self.reports[lane.name] = number, next(iter(found.reports.values()))
        self.drawn_here.add(unit)
        self._store.keep(unit.key, number, found.drawn)
        return True

    def fail(self, key: Key, number: int, error: Exception) -> None:
        """Write down that a lane failed on a batch: what it came to before stays. Full computation is raised."""
        if key[0] == FULL:
            raise error
        if number >= self._failed.get(key, number + 1):
            return
        self._failed[key] = number
        lane = self.lanes[key]
        before = tuple(unit for unit in lane.units if unit.number < number or Wanted(key, unit.number) not in self.drawn_here)
        if before != lane.units:
            lane = attrs.evolve(lane, units=before)
            lane = attrs.evolve(lane, frechet=self._frechet(lane, {}))
        self.lanes[key] = attrs.evolve(lane, error=_one_line(error))

    def _frechet(self, lane: LaneResult, more: Mapping[int, Drawn]) -> float | None:
        """Over what is kept of a lane, and what was drawn just now, in the order of the batches."""
        kept = {unit.number: self._store.drawn(lane.key, unit.number) for unit in lane.units} | {**more}
        features = torch.cat([one.features.flatten(0, -2) for _, one in sorted(kept.items())]) if kept else torch.zeros(0, 0)
        usable = len(features) > 1 and features.shape[1] > 0 and bool(features.isfinite().all())
        return frechet_distance(features, judge().reference) if usable else None

    def set_batches(self, size: int, batches: Sequence[tuple[int, ...]]) -> None:
        """Write down which samples are drawn together."""
        self.results = attrs.evolve(self.results, batches={**self.results.batches, str(size): tuple(batches)})

    def save(self, *, finished: bool = False) -> Results:
        """Write everything, whole or not at all, and return it."""
        agreement = dict(sorted(self._agreements.items(), key=lambda one: int(one[0])))
        reference = {**self._reference, "agreement": agreement} if self._reference else {}
        self.results = attrs.evolve(self.results, lanes=tuple(self.lanes.values()), finished=finished, reference=reference)
        self.results.save(self._store.folder)
        return self.results


def _one_line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed: pip install 'foreseer[peers]'"
    return in_one_line(error)
