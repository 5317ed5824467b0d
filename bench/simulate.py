"""How long a sweep takes on so many workers, and what it costs: its task graph, on a clock of its own.

Work is handed out by the very `foreseer.bench.board.Board` that a real sweep takes from; only the seconds are
given instead of measured. So nothing is known here of a network that is slow, of nodes that wait, or of samples
that differ.
"""

from __future__ import annotations

import heapq

import attrs

from foreseer.bench.board import Board, Wanted
from foreseer.bench.lanes import FULL, pairs_of
from foreseer.bench.settings import BenchSettings
from foreseer.bench.store import Key

__all__ = ["Costs", "Simulated", "simulate"]


@attrs.frozen(kw_only=True)
class Costs:
    """What is known before of a sweep.

    Attributes:
        full: Seconds of full computation of one sample.
        computed: What a lane takes of full computation's time, on average.
        load: Seconds until a worker has loaded its model.
        write: Seconds of the one process that hands out and writes, for each unit.
    """

    full: float
    computed: float = 0.35
    load: float = 60.0
    write: float = 0.1


@attrs.frozen(kw_only=True)
class Simulated:
    """What a sweep comes to.

    Attributes:
        workers: How many.
        units: How many units were measured.
        seconds: From the start to the last unit.
        worked: Seconds of measuring, of all workers.
        again: How often full computation was drawn once more, by another worker, to be a neighbour.
    """

    workers: int
    units: int
    seconds: float
    worked: float
    again: int

    @property
    def busy(self) -> float:
        """Which share of the workers' time was spent on measuring."""
        return self.worked / (self.seconds * self.workers)

    @property
    def hours(self) -> float:
        """Hours of all workers: what is paid for."""
        return self.seconds * self.workers / 3600


class _Sweep:
    def __init__(self, settings: BenchSettings, costs: Costs) -> None:
        self.settings, self.costs = settings, costs
        self.draws = settings.timed == "draws"
        self.board = Board(gathered=self.draws)
        self.batches = {size: -(-settings.samples // size) for size in settings.batch}
        count = len(settings.lanes) + len(settings.peers)
        self.planned = [FULL, *(f"lane {number}" for number in range(count))]
        # plain sampling beside each lane, by each solver: as if no two lanes computed as many steps
        self.fewer = [f"fewer {number}" for number in range(count * (1 + len(settings.solvers)))]
        self.first = {size: {(name, size) for name in self.planned} for size in settings.batch} if self.draws else {}
        self.seen: set[tuple[int, int, int]] = set()
        self.warm: set[tuple[int, str]] = set()
        self.again = 0
        for size in settings.batch:
            self.add(size, self.planned)

    def add(self, size: int, names: list[str]) -> None:
        keys: list[Key] = [(name, size) for name in names]
        for number in range(self.batches[size]):
            self.board.add(size, number, keys, full_is_there=names is self.fewer and not self.draws)

    def seconds(self, unit: Wanted, place: int) -> float:
        """How long a place takes for a unit."""
        size, number = unit.batch
        full = self.costs.full * min(size, self.settings.samples - number * size)
        share, here = full if unit.full else full * self.costs.computed, (place, size, number)
        if self.draws:
            again = not unit.full and here not in self.seen
            self.seen.add(here)
            self.again += again
            warm = [self.warm_up(place, FULL) if again else 0.0, self.warm_up(place, unit.key[0])]
            return share + again * full + sum(warm)
        pairs = 0 if unit.full else len(pairs_of(number, repeats=self.settings.repeats, batches=self.batches[size]))
        return share + pairs * (share + full)

    def warm_up(self, place: int, name: str) -> float:
        """A sample before the first draw of a lane at a place; plain sampling is warm by then."""
        if name not in self.planned or (place, name) in self.warm:
            return 0.0
        self.warm.add((place, name))
        return self.costs.full * (1.0 if name == FULL else self.costs.computed)

    def done(self, unit: Wanted) -> None:
        self.board.done(unit)
        left = self.first.get(unit.key[1])
        if left is not None and unit.number == 0:
            left.discard(unit.key)
            if not left:
                del self.first[unit.key[1]]
                self.add(unit.key[1], self.fewer)


def simulate(settings: BenchSettings, costs: Costs, *, workers: int) -> Simulated:
    """Carry out a benchmark's task graph on a clock of its own.

    Args:
        settings: What is to be measured.
        costs: How long each part takes.
        workers: How many there are from the start.
    """
    sweep = _Sweep(settings, costs)
    coming: list[tuple[float, int, Wanted | None]] = [(costs.load, place, None) for place in range(workers)]
    heapq.heapify(coming)
    idle: list[int] = []
    clock = free = worked = 0.0
    units, later = 0, not sweep.draws
    while coming:
        clock, place, unit = heapq.heappop(coming)
        idle.append(place)
        if unit is not None:
            sweep.done(unit)
            units += 1
            free = clock = max(clock, free) + costs.write  # one writes, and the others wait for it
        for attempt in range(2):
            waiting = []
            for one in idle:
                if (found := sweep.board.take(one)) is None:
                    waiting.append(one)
                    continue
                took = sweep.seconds(found, one)
                worked += took
                heapq.heappush(coming, (clock + took, one, found))
            idle = waiting
            if attempt or not later or any(unit is not None for _, _, unit in coming):
                break
            later = False  # in pairs, plain sampling comes when everything else is done
            for size in settings.batch:
                sweep.add(size, sweep.fewer)
    return Simulated(workers=workers, units=units, seconds=clock, worked=worked, again=sweep.again)
