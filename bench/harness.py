"""The harness: every lane on every batch of the same noises, timed beside full computation, resumable.

`foreseer bench run` is all of it, and `foreseer compare` a setting of it. A unit is one lane on one batch,
and is written when it is finished. In pairs, a unit is drawn once with everything counted, and then as often
as the settings say with nothing but the clock running, each time right before or after full computation, in
turns: what slows the machine down slows both. As draws, the one draw of each lane is timed, and beside it
stands full computation of the same batch, drawn by the same process.

What is left, and in which order, is on a `foreseer.bench.board.Board`; `foreseer.bench.hands.Hands` take from it
and hand back what they measured, and one writer keeps it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from torch import Tensor

from foreseer.bench.board import Board, Wanted
from foreseer.bench.book import Book
from foreseer.bench.desk import difficulty, header, measured, taken, warmed
from foreseer.bench.hands import Call, Came, Hands, hands_for
from foreseer.bench.jobs import Beside, Given, Job
from foreseer.bench.lane_plan import fewer_lanes, planned_lanes
from foreseer.bench.lanes import FULL, LaneOf, mixed, split
from foreseer.bench.machine import threads
from foreseer.bench.measuring import Measuring
from foreseer.bench.results import LaneResult, Results, Unit
from foreseer.bench.settings import BenchSettings
from foreseer.bench.store import Key, Restart, Store, machine_of
from foreseer.files import refuse_unwritable_folder
from foreseer.report import Report

if TYPE_CHECKING:
    from foreseer.bench.ray_settings import RaySettings

__all__ = ["Harness", "Tell", "run_benchmark"]

Tell = Callable[[str, int, int], None]
"""Told what begins, how many units are done, and how many there will be as far as is known."""


def run_benchmark(
    settings: BenchSettings,
    out: Path,
    *,
    restart: Restart = False,
    tell: Tell = lambda what, done, total: None,
    ray: RaySettings | None = None,
) -> Results:
    """Run a benchmark, or go on with one.

    What is given is that of `Harness`; ``ray`` lets workers of a Ray cluster measure, None this process. Returns
    the finished results, which ``out`` holds too.

    Raises:
        OptionError: The folder holds results of other settings or versions.
        KeyboardInterrupt: What was finished is kept; the same call goes on, and tries again what failed.
        OSError: The folder cannot be written to; what was finished is kept.
    """
    refuse_unwritable_folder(out)
    like = None if restart else machine_of(out)
    with threads(settings.threads), hands_for(settings.workload, ray, threads=settings.threads, like=like) as hands:
        harness = Harness(settings, out, hands, restart=restart, tell=tell)
        for _ in harness.batches():
            pass
        return harness.results


class Harness:
    """A benchmark under way.

    Args:
        settings: What to measure.
        out: Folder of the results; made with the first thing that is kept in it.
        hands: Who measures, with the workload of the settings.
        restart: Begin anew whatever is there; ``"if other"``: where it is of other settings, versions or commit.
        tell: Told how far it is.
        observers: Plugins that watch the policies' runs.
        warm_up: Whether each lane draws a sample before the first draw that is timed.
    """

    def __init__(
        self,
        settings: BenchSettings,
        out: Path,
        hands: Hands,
        *,
        restart: Restart = False,
        tell: Tell = lambda what, done, total: None,
        observers: Sequence[object] = (),
        warm_up: bool = True,
    ) -> None:
        self._settings, self._hands, self._tell, self._warm_up = settings, hands, tell, warm_up
        if hands.elsewhere:
            tell("workers are on their way", 0, 0)
        hands.open(functools.partial(Measuring, settings, observers=tuple(observers)))
        found = hands.ask(functools.partial(header, settings=settings))
        self._given: dict[str, Given] = {}
        self._board = Board(gathered=settings.timed == "draws")
        self._beside: dict[tuple[int, int], Any] = {}
        self._asked = tuple(found.measures)
        self._store = Store(out, restart=restart)
        self._book = Book(self._store, found, samples=settings.samples)

    @property
    def results(self) -> Results:
        """What is there so far."""
        return self._book.results

    @property
    def reports(self) -> dict[str, Report]:
        """For each policy, by its name, the first report of the first batch that was drawn here."""
        return self._book.reports

    def samples(self, lane: str, batch: int, count: int) -> list[Tensor]:
        """Return the images that a lane drew of the first so many batches, each ``(C, H, W)`` or
        ``(F, C, H, W)`` as `Workload.decode` has them.
        """
        return [image for number in range(count) for image in self._store.drawn((lane, batch), number).images]

    @property
    def whole(self) -> int:
        """How many batches of the first size, from the first on, are done by all lanes that did not fail."""
        size = self._settings.batch[0]
        first = self._board.first_open(size)
        return len(self._batches_of(size)) if first is None else first

    def batches(self) -> Iterator[Results]:
        """Measure, and yield what is there: as draws whenever all lanes are done with a batch, and at the end.

        In pairs, plain sampling with fewer steps comes after the rest, when it is known with how many. As
        draws it belongs to each batch, with the steps of the first one, and at the end with others where that
        one was not typical.
        """
        sizes, draws = self._settings.batch, self._settings.timed == "draws"
        planned = {size: self._book.add(self._plan(size)) for size in sizes}
        for size, keys in planned.items():
            if draws and self._warm_up and not self._hands.elsewhere:
                for lane in (self._book.lanes[key] for key in keys if not self._book.lanes[key].units):
                    self._tell(f"warm-up, {lane.name}", 0, 0)
                    self._warmed(lane)
            self._want(size, keys)
        # beside the lanes of a batch, as soon as the first batch says with how many steps
        coming = {size: set(keys) for size, keys in planned.items()} if draws else {}
        yield from self._carry_out(coming)
        for size, keys in {size: self._book.add(self._fewer(size)) for size in sizes}.items():
            self._want(size, keys)
        self._carry_out_all()
        self._take_what_lacks()
        yield self._book.save(finished=True)

    def measure_afterwards(self, lanes: Sequence[LaneOf]) -> Results:
        """Measure lanes that were planned on the finished samples, at each batch size.

        They are timed after the others, so that their speed-ups are less certain.
        """
        self._given |= {lane.name: lane for lane in lanes}
        for size in self._settings.batch:
            self._want(size, self._book.add([LaneResult(name=lane.name, kind=lane.kind, batch=size, num_steps=self.results.num_steps) for lane in lanes]))
            self._carry_out_all()
        return self._book.save(finished=True)

    def _carry_out(self, coming: dict[int, set[Key]]) -> Iterator[Results]:
        """Have everything on the board measured. ``coming``: by batch size, the lanes whose first batch says
        with how many steps plain sampling is to be drawn beside them.
        """
        whole = 0
        self._beside_lanes(coming)
        for came in itertools.chain([None], self._hands.carry_out(self._call)):
            if came is not None:
                self._settle(came)
                self._beside_lanes(coming)
            if self._settings.timed == "draws" and self.whole > whole:
                whole = self.whole
                yield self._book.save()

    def _carry_out_all(self) -> None:
        for came in self._hands.carry_out(self._call):
            self._settle(came)

    def _beside_lanes(self, coming: dict[int, set[Key]]) -> None:
        for size, keys in list(coming.items()):
            if keys & {*self._board.open((size, 0))}:
                return  # lanes keep the order of the sizes, in whatever order their batches are done
            del coming[size]
            self._want(size, self._book.add(self._fewer(size, first=True)))

    def _plan(self, batch: int) -> list[LaneResult]:
        planned = planned_lanes(self._settings, batch=batch, num_steps=self.results.num_steps)
        self._given |= {lane.name: given for lane, given in planned if given is not None}
        return [lane for lane, _ in planned]

    def _fewer(self, batch: int, *, first: bool = False) -> list[LaneResult]:
        return fewer_lanes(self._settings, self._book.lanes.values(), batch=batch, num_steps=self.results.num_steps, first=first)

    def _batches_of(self, batch: int) -> list[tuple[int, ...]]:
        """Which samples are drawn together; where that was chosen it is kept, for a run that goes on."""
        if self._settings.together == "as drawn":
            return split(range(self._settings.samples), batch)
        if str(batch) not in self.results.batches:
            self._book.set_batches(batch, mixed(self._difficulty, batch))
        return list(self.results.batches[str(batch)])

    def _want(self, size: int, keys: Sequence[Key]) -> None:
        """Put on the board what is not there yet of lanes of one batch size, every second batch in reverse."""
        done = {key: {unit.number for unit in self._book.lanes[key].units} for key in {*keys, (FULL, size)}}
        for number, _ in enumerate(self._batches_of(size)):
            # the others are compared with what full computation drew
            first = [key for key in keys if self._book.lanes[key].kind == "full"]
            others = [key for key in keys if key not in first]
            lacking = [key for key in (*first, *(reversed(others) if number % 2 else others)) if number not in done[key] and not self._book.lanes[key].error]
            self._board.add(size, number, lacking, full_is_there=number in done[FULL, size])

    def _call(self, place: int) -> Call | None:
        """What a place is to do next."""
        unit = self._board.take(place)
        if unit is None:
            return None
        lane, batches = self._book.lanes[unit.key], self._batches_of(unit.key[1])
        total = sum(-(-self._settings.samples // lane.batch) for lane in self._book.lanes.values())
        done = sum(len(lane.units) for lane in self._book.lanes.values())
        what = f"{lane.name}, batch {unit.number + 1} of {len(batches)}"
        self._tell(what, done, total)
        # a damaged file is no fault of the lane
        shared = () if unit.full else (self._full(unit),)
        return Call(about=unit, do=functools.partial(measured, self._job(lane, unit.number)), what=what, shared=shared)

    def _job(self, lane: LaneResult, number: int) -> Job:
        batches, alone = self._batches_of(lane.batch), attrs.evolve(lane, units=(), reports={})
        warm_up = self._warm_up and self._settings.timed == "draws" and lane.kind in ("full", "policy", "peer") and (self._hands.elsewhere or not lane.units)
        return Job(lane=alone, given=self._given.get(lane.name), number=number, indices=tuple(batches[number]), batches=len(batches), warm_up=warm_up)

    def _warmed(self, lane: LaneResult) -> None:
        """Draw a sample, before anything long has begun."""
        try:
            self._hands.ask(functools.partial(warmed, self._job(lane, 0)))
        except Exception as error:
            self._fail(lane.key, 0, error)

    def _settle(self, came: Came) -> None:
        """Keep what came of a unit."""
        unit: Wanted = came.call.about
        self._board.done(unit)
        if came.error is not None:
            self._fail(unit.key, unit.number, came.error)
        elif self._book.keep(unit, found := came.value, came.where) and unit.full:
            self._share(unit.batch, Beside(drawn=found.drawn, seconds=next(iter(found.unit.seconds), None), truth=found.truth))
        if not self._board.open(unit.batch):
            self._beside.pop(unit.batch, None)
        self._book.save()

    def _fail(self, key: Key, number: int, error: Exception) -> None:
        self._book.fail(key, number, error)
        self._board.drop(key, since=number)

    def _full(self, unit: Wanted) -> Any:
        """Return what stands for what full computation came to on a unit's batch."""
        if unit.batch not in self._beside:
            lane = self._book.lanes[FULL, unit.key[1]]
            done = next(one for one in lane.units if one.number == unit.number)
            self._share(unit.batch, Beside(drawn=self._store.drawn(lane.key, unit.number), seconds=next(iter(done.seconds), None)))
        return self._beside[unit.batch]

    def _share(self, batch: tuple[int, int], beside: Beside) -> None:
        # a time of another process is no neighbour
        self._beside[batch] = self._hands.share(attrs.evolve(beside, seconds=None) if self._hands.elsewhere else beside)

    def _take_what_lacks(self) -> None:
        """Measure what an earlier run drew by what was not asked for then, was missing, or failed."""
        for key, lane in self._book.lanes.items():
            units = [unit if Wanted(key, unit.number) in self._book.drawn_here else self._taken(lane, unit) for unit in lane.units]
            self._book.lanes[key] = attrs.evolve(lane, units=tuple(units))

    def _taken(self, lane: LaneResult, unit: Unit) -> Unit:
        lacks = sorted({*self._asked} - unit.figures.keys())
        keys = (lane.key, (FULL, lane.batch))
        if not lacks or not all(self._store.samples(key, unit.number).exists() for key in keys):
            return unit
        self._tell(f"{lane.name}, batch {unit.number + 1}: {', '.join(lacks)}", 0, 0)
        own, full = (self._store.drawn(key, unit.number).images for key in keys)
        figures, failed = self._hands.ask(functools.partial(taken, unit.indices, own, full, tuple(unit.figures)))
        return attrs.evolve(unit, figures={**unit.figures, **figures}, failed=failed)

    @functools.cached_property
    def _difficulty(self) -> list[float]:
        self._tell("how hard each sample is", 0, self._settings.samples)
        return self._hands.ask(difficulty)
