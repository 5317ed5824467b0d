"""The harness: every lane on every batch of the same noises, timed beside full computation, resumable.

`foreseer bench run` is all of it, and `foreseer compare` a setting of it. A unit is one lane on one batch,
and is written when it is finished. In pairs, a unit is drawn once with everything counted, and then as often
as the settings say with nothing but the clock running, each time right before or after full computation, in
turns: what slows the machine down slows both. As draws, the one draw of each lane is timed, and beside it
stands full computation of the same batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from foreseer.bench.lanes import FULL, LaneOf, Solved, as_many, fewer_name, mixed, split
from foreseer.bench.likeness import Drawn
from foreseer.bench.machine import git_state, machine, threads, versions
from foreseer.bench.measuring import Measuring, judge
from foreseer.bench.results import LaneResult, Results, Unit
from foreseer.bench.settings import BenchSettings
from foreseer.bench.solvers import Solver
from foreseer.bench.source import loaded
from foreseer.bench.store import Key, Restart, Store
from foreseer.bench.workload import Workload, blocks_of, device_of
from foreseer.errors import in_one_line
from foreseer.files import refuse_unwritable_folder
from foreseer.registry import PolicySpec, signature_of
from foreseer.report import Report
from foreseer.zoo.judge import frechet_distance

__all__ = ["Harness", "Tell", "run_benchmark"]

Tell = Callable[[str, int, int], None]
"""Told what begins, how many units are done, and how many there will be as far as is known."""


def run_benchmark(
    settings: BenchSettings,
    out: Path,
    *,
    restart: Restart = False,
    tell: Tell = lambda what, done, total: None,
) -> Results:
    """Run a benchmark, or go on with one.

    What is given is that of `Harness`. Returns the finished results, which ``out`` holds too.

    Raises:
        OptionError: The folder holds results of other settings or versions.
        KeyboardInterrupt: What was finished is kept; the same call goes on, and tries again what failed.
        OSError: The folder cannot be written to; what was finished is kept.
    """
    refuse_unwritable_folder(out)
    with threads(settings.threads):
        harness = Harness(settings, out, restart=restart, tell=tell)
        for _ in harness.batches():
            pass
        return harness.results


class Harness:
    """A benchmark under way.

    Args:
        settings: What to measure.
        out: Folder of the results; made with the first thing that is kept in it.
        workload: That of the settings, where it is loaded already.
        restart: Begin anew whatever is there; ``"if other"``: where it is of other settings, versions or commit.
        tell: Told how far it is.
        observers: Plugins that watch the policies' runs.
        warm_up: Whether each lane draws a sample before the first draw that is timed.

    Attributes:
        results: What is there so far.
        reports: For each policy, by its name, the first report of the first batch that was drawn here.
    """

    def __init__(
        self,
        settings: BenchSettings,
        out: Path,
        *,
        workload: Workload | None = None,
        restart: Restart = False,
        tell: Tell = lambda what, done, total: None,
        observers: Sequence[object] = (),
        warm_up: bool = True,
    ) -> None:
        self._settings, self._tell, self._warm_up = settings, tell, warm_up
        self._measuring = Measuring(settings, loaded(settings.workload) if workload is None else workload, observers)
        sampler = self._measuring.sampler
        self.reports: dict[str, Report] = {}
        self._drawn_here: set[tuple[Key, int]] = set()
        self.store = Store(out, restart=restart)
        self.results = self.store.resume(
            Results(
                family=sampler.workload.name,
                about=settings.about,
                num_steps=sampler.num_steps,
                seed=settings.seed,
                guidance=sampler.guidance,
                settings=settings.to_dict(),
                machine=machine(str(device_of(sampler.workload))),
                versions=versions(),
                git=git_state(),
                depth=len(blocks_of(sampler.workload)),
                conditions=tuple(sampler.workload.words(range(settings.samples))),
                published=settings.published,
            )
        )
        if (reference := self._measuring.reference) is not None:
            reference.agreements |= {int(index): value for index, value in self.results.reference.get("agreement", {}).items()}
        # packages that were not there before may be there now
        measures = self._measuring.measures
        known = {**self.results.measures, **measures.figures}
        now: dict[str, Any] = {"about": settings.about, "published": settings.published, "measures": known, "missing": dict(measures.missing)}
        self.results = attrs.evolve(self.results, **now, versions=versions())
        self._lanes = {lane.key: lane for lane in self.store.begin_again(self.results, samples=settings.samples).lanes}

    @property
    def workload(self) -> Workload:
        """What draws."""
        return self._measuring.sampler.workload

    def samples(self, lane: str, batch: int, count: int) -> list[Tensor]:
        """Return the images that a lane drew of the first so many batches, each ``(C, H, W)`` or
        ``(F, C, H, W)`` as `Workload.decode` has them.
        """
        return [image for number in range(count) for image in self.store.drawn((lane, batch), number).images]

    def batches(self) -> Iterator[Results]:
        """Measure, and yield what is there: as draws after each batch, and at the end.

        In pairs, plain sampling with fewer steps comes after the rest, when it is known with how many. As
        draws it belongs to each batch, with the steps of the first one, and at the end with others where that
        one was not typical.
        """
        sizes, draws = self._settings.batch, self._settings.timed == "draws"
        planned = [self._add(self._plan(size)) for size in sizes]
        for size, keys in zip(sizes, planned, strict=True):
            if draws and self._warm_up:
                for lane in (self._lanes[key] for key in keys if not self._lanes[key].units):
                    self._tell(f"warm-up, {lane.name}", 0, 0)
                    self._caught(lane, functools.partial(self._measuring.warm_up, lane))
            for number in range(len(self._batches_of(size))):
                self._measure(keys, number)
                if draws:
                    self._measure(self._add(self._fewer(size, first=True)), number)
                    yield self._save()
        fewer = {size: self._add(self._fewer(size)) for size in sizes}
        for size, keys in fewer.items():
            self._measure_all(size, keys)
        self._take_what_lacks()
        yield self._save(finished=True)

    def measure_afterwards(self, lanes: Sequence[LaneOf]) -> Results:
        """Measure lanes that were planned on the finished samples, at each batch size.

        They are timed after the others, so that their speed-ups are less certain.
        """
        self._measuring.given |= {lane.name: lane for lane in lanes}
        for size in self._settings.batch:
            own = [self._lane(lane.name, lane.kind, size) for lane in lanes]
            self._measure_all(size, self._add(own))
        return self._save(finished=True)

    def _plan(self, batch: int) -> list[LaneResult]:
        lanes = [self._lane(FULL, "full", batch)]
        for given in (*self._settings.lanes, *self._settings.peers):
            spec = given.policy if isinstance(given, Solved) else given
            parameters = signature_of(spec.factory).parameters.values()
            chosen = {parameter.name: parameter.default for parameter in parameters} | dict(spec.options)
            options = {k: getattr(v, "__name__", str(v)) if callable(v) else v for k, v in chosen.items()}
            kind = "policy" if isinstance(spec, PolicySpec) else "peer"
            on = {"solver": str(given.solver), "num_steps": given.num_steps} if isinstance(given, Solved) else {}
            lanes.append(self._lane(str(given), kind, batch, method=spec.name, options=options, **on))
            self._measuring.given[str(given)] = given
        return lanes

    def _lane(self, name: str, kind: Any, batch: int, **more: Any) -> LaneResult:
        return LaneResult(**{"name": name, "kind": kind, "batch": batch, "num_steps": self.results.num_steps, **more})

    def _fewer(self, batch: int, *, first: bool = False) -> list[LaneResult]:
        """Plain sampling at each lane's number of computed steps, or of those of the first batch alone, by each
        solver that can take as many.
        """
        here = [lane for lane in self._lanes.values() if lane.batch == batch and lane.units]
        done = [lane for lane in here if lane.kind in ("policy", "peer")]
        counts = sorted({as_many(lane.units[0].steps if first else lane.steps) for lane in done} | {*self._settings.counts})
        able: list[tuple[Solver | None, int]] = [(None, n) for n in counts if n < self.results.num_steps]
        able += [(solver, n) for solver in self._settings.solvers for n in counts if solver.fits(n)]
        return [self._lane(fewer_name(n, solver), "fewer", batch, num_steps=n, solver=str(solver or "")) for solver, n in able]

    def _add(self, lanes: Sequence[LaneResult]) -> list[Key]:
        self._lanes |= {lane.key: lane for lane in lanes if lane.key not in self._lanes}
        self.store.name(list(self._lanes))
        return [lane.key for lane in lanes]

    def _batches_of(self, batch: int) -> list[tuple[int, ...]]:
        """Which samples are drawn together; where that was chosen it is kept, for a run that goes on."""
        if self._settings.together == "as drawn":
            return split(range(self._settings.samples), batch)
        kept = dict(self.results.batches)
        if str(batch) not in kept:
            kept[str(batch)] = tuple(mixed(self._difficulty, batch))
            self.results = attrs.evolve(self.results, batches=kept)
        return list(kept[str(batch)])

    def _measure(self, keys: Sequence[Key], number: int) -> None:
        """Measure what is not there yet of lanes of one batch size on one batch, every second in reverse."""
        # the others are compared with what full computation drew
        first = [key for key in keys if self._lanes[key].kind == "full"]
        others = [key for key in keys if key not in first]
        for key in [*first, *(reversed(others) if number % 2 else others)]:
            lane = self._lanes[key]
            if lane.error or any(unit.number == number for unit in lane.units):
                continue
            batches = self._batches_of(lane.batch)
            total = sum(-(-self._settings.samples // lane.batch) for lane in self._lanes.values())
            done = sum(len(lane.units) for lane in self._lanes.values())
            self._tell(f"{lane.name}, batch {number + 1} of {len(batches)}", done, total)
            # a damaged file is no fault of the lane
            full = None if lane.kind == "full" else self._full(lane.batch, number)
            found = self._caught(lane, functools.partial(self._unit, lane, number, batches, full))
            if found is not None:  # a full disk is no fault of the lane
                self._lanes[key], drawn = found
                self._drawn_here.add((key, number))
                self.store.keep(key, number, drawn)
            self._save()

    def _measure_all(self, batch: int, keys: Sequence[Key]) -> None:
        for number, _ in enumerate(self._batches_of(batch)):
            self._measure(keys, number)

    def _take_what_lacks(self) -> None:
        """Measure what an earlier run drew by what was not asked for then, was missing, or failed."""
        for key, lane in self._lanes.items():
            units = [unit if (key, unit.number) in self._drawn_here else self._taken(lane, unit) for unit in lane.units]
            self._lanes[key] = attrs.evolve(lane, units=tuple(units))

    def _taken(self, lane: LaneResult, unit: Unit) -> Unit:
        lacks = sorted(self._measuring.measures.figures.keys() - unit.figures.keys())
        keys = (lane.key, (FULL, lane.batch))
        if not lacks or not all(self.store.samples(key, unit.number).exists() for key in keys):
            return unit
        self._tell(f"{lane.name}, batch {unit.number + 1}: {', '.join(lacks)}", 0, 0)
        own, full = (self.store.drawn(key, unit.number).images for key in keys)
        figures, failed = self._measuring.take(unit.indices, own, full, known=unit.figures)
        return attrs.evolve(unit, figures={**unit.figures, **figures}, failed=failed)

    def _caught(self, lane: LaneResult, measure: Callable[[], Any]) -> Any:
        """Return what was measured. A lane that fails is a row that says so, unless it is full computation."""
        try:
            return measure()
        except Exception as error:
            if lane.kind == "full":
                raise
            self._lanes[lane.key] = attrs.evolve(lane, error=_one_line(error))
            return None

    def _full(self, batch: int, number: int) -> tuple[Unit, Drawn]:
        """Return what full computation came to on a batch."""
        lane = self._lanes[FULL, batch]
        return next(unit for unit in lane.units if unit.number == number), self.store.drawn(lane.key, number)

    def _unit(self, lane: LaneResult, number: int, *given: Any) -> tuple[LaneResult, Drawn]:
        done, drawn, reports = self._measuring.unit(lane, number, *given)
        for report in reports.values():
            self.reports.setdefault(lane.name, report)
        return attrs.evolve(done, frechet=self._frechet(lane, drawn)), drawn

    def _frechet(self, lane: LaneResult, drawn: Drawn) -> float | None:
        """Over what is kept of a lane, and what was drawn just now."""
        kept = [self.store.drawn(lane.key, unit.number) for unit in lane.units]
        features = torch.cat([one.features.flatten(0, -2) for one in (*kept, drawn)])
        usable = len(features) > 1 and features.shape[1] > 0 and bool(features.isfinite().all())
        return frechet_distance(features, judge().reference) if usable else None

    @functools.cached_property
    def _difficulty(self) -> list[float]:
        self._tell("how hard each sample is", 0, self._settings.samples)
        return self._measuring.difficulty()

    def _save(self, *, finished: bool = False) -> Results:
        known: dict[str, Any] = {"finished": finished, "reference": found.to_dict() if (found := self._measuring.reference) else {}}
        self.results = attrs.evolve(self.results, lanes=tuple(self._lanes.values()), **known)
        self.results.save(self.store.folder)
        return self.results


def _one_line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed: pip install 'foreseer[peers]'"
    return in_one_line(error)
