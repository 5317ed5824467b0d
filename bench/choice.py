"""Which samples and lanes of a benchmark are looked at: the worst, and those that matter most."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.bench.plain_words import hurt
from foreseer.bench.results import LaneResult, Results
from foreseer.bench.store import Store
from foreseer.bench.summary import Line

__all__ = ["Choice", "Samples", "choose"]

Samples = NDArray[np.float32]


@attrs.frozen(kw_only=True)
class Choice:
    """What there is to be looked at.

    Attributes:
        full: Full computation.
        lanes: The other lanes, in their order.
        total: How many there are, with those that were left out.
        numbers: By sample the batch that it is in, where the drawings of full computation are kept.
        ranked: These samples, the one that was hurt most first.
    """

    full: LaneResult
    lanes: tuple[LaneResult, ...]
    total: int
    numbers: dict[int, int]
    ranked: tuple[int, ...]
    _store: Store = attrs.field(repr=False, alias="store")

    def kept(self, lane: LaneResult, number: int) -> bool:
        """Whether a lane's drawings of a batch are kept."""
        return _kept(self._store, lane, number)

    def drawn(self, lane: LaneResult, number: int, wanted: Collection[int]) -> dict[int, Samples]:
        """Return what a lane drew of a batch, by sample, of those that are ``wanted``: ``(C, H, W)`` or
        ``(F, C, H, W)`` in [-1, 1].

        Raises:
            OptionError: The file is damaged.
        """
        unit = next(unit for unit in lane.units if unit.number == number)
        images = self._store.drawn(lane.key, number).images.float().numpy()
        return {index: image for index, image in zip(unit.indices, images, strict=False) if index in wanted}


def choose(results: Results, folder: Path, lines: Sequence[Line], batch: int, *, most: int, first: Collection[str] = ()) -> Choice:
    """Choose what is looked at.

    Args:
        results: What was measured.
        folder: Holds the samples; those that are missing are left out.
        lines: The lanes of that batch size.
        batch: The batch size.
        most: So many lanes at most.
        first: Names of those that are chosen first.
    """
    store = Store(folder)
    store.name([lane.key for lane in results.lanes])
    full = results.full(batch)
    numbers = {index: unit.number for unit in full.units if _kept(store, full, unit.number) for index in unit.indices}
    units = set(numbers.values())
    every = [line.lane for line in lines if line.lane.kind != "full"]
    lanes = [lane for lane in every if any(unit.number in units and _kept(store, lane, unit.number) for unit in lane.units)]
    some = {lane.name for lane in sorted(lanes, key=lambda lane: lane.name not in first)[:most]}
    shown = tuple(lane for lane in lanes if lane.name in some)
    ranked = hurt([lane for lane in shown if lane.kind != "fewer"] or shown)
    return Choice(full=full, lanes=shown, total=len(lanes), numbers=numbers, ranked=tuple(index for index in ranked if index in numbers), store=store)


def _kept(store: Store, lane: LaneResult, number: int) -> bool:
    return any(unit.number == number for unit in lane.units) and store.samples(lane.key, number).exists()
