"""What is left to measure, and what of it may begin: the order of work, apart from who carries it out.

Every lane is compared with what full computation drew of the same batch, so that full computation of a batch
comes first. One place takes everything in the order in which it was added. Where the draws themselves are timed,
several places part the batches between them, since each has to draw full computation of a batch whose lanes it
times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import attrs

from foreseer.bench.lanes import FULL
from foreseer.bench.store import Key

__all__ = ["Board", "Wanted"]


@attrs.frozen
class Wanted:
    """One unit: a lane, by name and batch size, on the batch of this number."""

    key: Key
    number: int

    @property
    def batch(self) -> Batch:
        """Batch size, and number."""
        return self.key[1], self.number

    @property
    def full(self) -> bool:
        """Whether it is full computation, which others wait for."""
        return self.key[0] == FULL


Batch = tuple[int, int]


class Board:
    """What is left of a benchmark.

    Args:
        gathered: Whether a place shall go on with the batch that it has begun.
    """

    def __init__(self, *, gathered: bool) -> None:
        self._gathered = gathered
        self._left: dict[Batch, list[Key]] = {}
        self._under_way: set[Wanted] = set()
        self._full: set[Batch] = set()
        self._places: defaultdict[Batch, set[int]] = defaultdict(set)

    def add(self, size: int, number: int, keys: Iterable[Key], *, full_is_there: bool) -> None:
        """Add units of a batch after what is left of it already."""
        if full_is_there:
            self._full.add((size, number))
        if more := list(keys):
            self._left.setdefault((size, number), []).extend(more)

    def take(self, place: int) -> Wanted | None:
        """Return what this place is to do next, which is then under way; None where nothing may begin."""
        open_now = (batch for batch, keys in self._left.items() if batch in self._full or keys[0][0] == FULL)
        if not self._gathered:
            batch = next(open_now, None)
        else:
            batch = min(open_now, key=lambda batch: (place not in self._places[batch], len(self._places[batch])), default=None)
        if batch is None:
            return None
        found = Wanted(self._left[batch].pop(0), batch[1])
        if not self._left[batch]:
            del self._left[batch]
        self._places[batch].add(place)
        self._under_way.add(found)
        return found

    def done(self, unit: Wanted) -> None:
        """Take note of a unit that came back, finished or failed."""
        self._under_way.discard(unit)
        if unit.full:
            self._full.add(unit.batch)

    def drop(self, key: Key, *, since: int) -> None:
        """Leave out what has not begun of a lane from this batch on: there it fails."""
        for batch in [batch for batch in self._left if batch[0] == key[1] and batch[1] >= since]:
            self._left[batch] = [other for other in self._left[batch] if other != key]
            if not self._left[batch]:
                del self._left[batch]

    def open(self, batch: Batch) -> list[Key]:
        """Return the lanes that are not done on a batch, also those under way."""
        return [*self._left.get(batch, ()), *(unit.key for unit in self._under_way if unit.batch == batch)]

    def first_open(self, size: int) -> int | None:
        """Return the first batch of a size with something left or under way; None where there is none."""
        mine = [number for batch, number in self._left if batch == size] + [unit.number for unit in self._under_way if unit.key[1] == size]
        return min(mine, default=None)
