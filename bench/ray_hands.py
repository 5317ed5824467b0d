"""Workers of a Ray cluster: one actor for each, with a workload of its own, and one process that hands out work.

Only that process decides and writes. A worker that dies, with its node or alone, loses what it had under way,
which is handed out again; one whose node joins later gets work from then on. Times of different hardware are no
times of one lane: a run keeps to the hardware of its first worker, or of the results that it goes on with, and a
worker of another kind is refused in words.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from foreseer.bench.hands import Call, Came, Take
from foreseer.bench.machine import circumstances
from foreseer.bench.ray_cluster import Cluster, Hired
from foreseer.bench.ray_settings import RaySettings
from foreseer.bench.ray_worker import Place
from foreseer.bench.source import Drawing
from foreseer.bench.workload import Workload
from foreseer.document import changes
from foreseer.errors import ForeseerError, OptionError, in_one_line

__all__ = ["RayHands"]

R = TypeVar("R")

DEATHS = 3
"""So often a call may lose its worker before it is held to be the cause."""
LOOK_AROUND = 1.0
"""Seconds after which the cluster is asked again for nodes that have come or gone."""


class RayHands:
    """Carry out calls on the workers of a cluster; a context, at whose end they are let go of.

    Args:
        drawing: Where samples come from; each worker loads it once.
        settings: Which cluster, and what a worker takes of it.
        threads: Of the CPU, of each worker; None for as many as it takes CPUs, or as this process has.
        like: Machine that every worker must be like; None for that of the first.
        say: Told in a sentence of workers that were refused, lost or are missing; None prints it.

    Raises:
        OptionError, MissingPackageError: See `foreseer.bench.ray_cluster.Cluster`.
    """

    elsewhere = True

    def __init__(
        self,
        drawing: Drawing,
        settings: RaySettings,
        *,
        threads: int | None = None,
        like: Mapping[str, str] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._most, self._say = settings.ray_workers, say or _complain
        self._like = {} if like is None else {name: like.get(name) for name in ("processor", "GPU")}
        self._first: Mapping[str, Any] | None = None
        self._make: Callable[[Workload], Any] | None = None
        self._hired: list[Hired] = []
        self._coming: dict[Any, Hired] = {}
        self._busy: dict[Any, tuple[Hired, Call]] = {}
        self._again: list[Call] = []
        self._held: list[Came] = []
        self._deaths: Counter[Call] = Counter()
        self._refused: dict[str, str] = {}
        self._looked = 0.0
        self._cluster = Cluster(settings, drawing, threads=threads)
        self._ray = self._cluster.ray

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hired in self._hired:
            self._cluster.dismiss(hired)
        self._cluster.leave()

    @property
    def places(self) -> int:
        """See `Hands`: as many as fit, or as were asked for."""
        return self._most or max(1, sum(self._cluster.room(self._refused).values()))

    def look(self, ask: Callable[[Workload], R]) -> R:
        """See `Hands`."""
        found: R = self._once(lambda hired: hired.actor.look.remote(ask), opened=False)
        return found

    def open(self, make: Callable[[Workload], Any]) -> None:
        """See `Hands`: a worker does it as soon as it is there."""
        self._make = make
        for hired in self._hired:
            if hired.place is not None:
                self._coming[hired.actor.open.remote(make)] = hired

    def ask(self, do: Callable[[Any], R]) -> R:
        """See `Hands`."""
        found: R = self._once(lambda hired: hired.actor.do.remote(do), opened=True)
        return found

    def share(self, value: Any) -> Any:
        """See `Hands`: in the store of this node, from which others copy it."""
        return self._ray.put(value)

    def _once(self, send: Callable[[Hired], Any], *, opened: bool) -> Any:
        deaths = 0
        while True:
            while not (able := [hired for hired in self._hired if hired.opened or (hired.place is not None and not opened)]):
                self._hire()
                self._held += self._wait()
            try:
                return self._ray.get(send(able[0]))
            except self._ray.exceptions.RayTaskError as error:
                raise _cause(error) from error
            except self._ray.exceptions.RayError as error:
                self._lost(able[0], error)
                deaths += 1
                if deaths == DEATHS:
                    raise ForeseerError(f"{DEATHS} workers died one after the other: {in_one_line(error)}") from error

    def carry_out(self, take: Take) -> Iterator[Came]:
        """See `Hands`."""
        while True:
            self._hire()
            busy = [hired for hired, _ in self._busy.values()]
            idle = [hired for hired in self._hired if hired.opened and hired not in busy]
            given = [self._give(hired, take) for hired in idle]
            if not self._busy and not self._held and idle and not any(given):
                return
            came = [*self._held, *self._wait()]
            self._held.clear()
            yield from came

    def _give(self, hired: Hired, take: Take) -> bool:
        call = self._again.pop() if self._again else take(hired.number)
        if call is not None:
            self._busy[hired.actor.do.remote(call.do, *call.shared)] = hired, call
        return call is not None

    def _hire(self) -> None:
        """Ask for workers where there is room for more, at most every `LOOK_AROUND`."""
        if time.monotonic() - self._looked < LOOK_AROUND:
            return
        self._looked = time.monotonic()
        taken = Counter(hired.node for hired in self._hired)
        room: list[str | None] = [node for node, count in self._cluster.room(self._refused).items() for _ in range(count - taken[node])]
        if self._most is not None:
            lacking = self._most - len(self._hired)
            # nodes that are not there yet may be made where somebody waits for them
            room = [*room, *([None] * (lacking - len(room) if not self._refused else 0))][:lacking]
        for node in room:
            hired, coming = self._cluster.hire(node)
            self._hired.append(hired)
            self._coming[coming] = hired

    def _wait(self) -> Sequence[Came]:
        """Wait for a while for any worker, and return what came of calls."""
        if not self._busy and not self._coming:
            time.sleep(LOOK_AROUND / 4)  # the last is gone; others may come
            return ()
        ready, _ = self._ray.wait([*self._busy, *self._coming], num_returns=1, timeout=LOOK_AROUND)
        found = list[Came]()
        for one in ready:
            if one in self._coming:
                self._come(one)
            elif (came := self._came(one)) is not None:
                found.append(came)
        return found

    def _came(self, ready: Any) -> Came | None:
        hired, call = self._busy.pop(ready)
        where = {} if hired.place is None else hired.place.where
        try:
            return Came(call=call, value=self._ray.get(ready), where=where)
        except self._ray.exceptions.RayTaskError as error:
            return Came(call=call, error=_cause(error), where=where)
        except self._ray.exceptions.RayError as error:
            self._lost(hired, error)
            self._deaths[call] += 1
            if self._deaths[call] >= DEATHS:
                return Came(call=call, error=ForeseerError(f"it lost its worker {DEATHS} times: {in_one_line(error)}"), where=where)
            self._again.append(call)
            return None

    def _come(self, ready: Any) -> None:
        """A worker says where it is, or that it has opened what it is to work on."""
        hired = self._coming.pop(ready)
        try:
            found = self._ray.get(ready)
        except self._ray.exceptions.RayTaskError as error:
            cause = _cause(error)
            if not any(other.opened for other in self._hired):
                raise cause from error
            self._refuse(hired, f"it cannot load the model: {in_one_line(cause)}")
            return
        except self._ray.exceptions.RayError as error:
            self._lost(hired, error)
            return
        if not isinstance(found, Place):
            hired.opened = True
            return
        hired.place, hired.node = found, found.node_id
        if differing := self._differing(found):
            self._refuse(hired, differing)
        elif self._make is not None:
            self._coming[hired.actor.open.remote(self._make)] = hired

    def _differing(self, place: Place) -> str:
        """Say what keeps a worker from measuring for this run; the first one decides what all must be like."""
        now = circumstances({}, place.versions, place.machine, place.git)
        if self._first is None:
            if differing := changes(self._like, {name: now[name] for name in self._like}):
                return differing
            self._first = now
        return changes(self._first, now)

    def _refuse(self, hired: Hired, why: str) -> None:
        assert hired.node is not None
        self._hired.remove(hired)
        self._cluster.dismiss(hired)
        what = f"a worker on {hired.name} gets no work: {why}"
        if hired.node not in self._refused:
            self._say(what)
            self._refused[hired.node] = what
        if not self._hired and not self._cluster.room(self._refused):
            raise OptionError(f"no worker is left: {what}; write --ray-resources to keep to nodes of one kind, or another --out")

    def _lost(self, hired: Hired, error: Exception) -> None:
        if hired in self._hired:
            self._hired.remove(hired)
            self._cluster.dismiss(hired)
            self._say(f"a worker on {hired.name} is gone, and what it had under way begins again: {in_one_line(error)[:120]}")
        self._coming = {ready: other for ready, other in self._coming.items() if other is not hired}


def _cause(error: Any) -> Exception:
    """Return what a call raised, as it would be raised here."""
    cause = error.cause
    return cause if isinstance(cause, Exception) else ForeseerError(in_one_line(error))


def _complain(what: str) -> None:
    from foreseer.console import complain

    complain(what)
