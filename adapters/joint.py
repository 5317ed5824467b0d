"""One call of a model for several visits: each is led to its own rows of every block, and what several want
computed is computed once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from foreseer.adapters.arguments import first_tensor
from foreseer.adapters.joined_calls import join_calls
from foreseer.adapters.layouts import Pool
from foreseer.adapters.notes import Abandoned
from foreseer.adapters.seams import Cut, Seams
from foreseer.adapters.visits import Visit, called
from foreseer.adapters.walk import Walk
from foreseer.site import site_of

__all__ = ["Joint", "Learning"]

Inner = Callable[..., Any]


class Learning:
    """One visit alone, of which is learnt where the rows of the model's calls lie.

    Args:
        visit: The visit.
        seams: Where that is put.
    """

    def __init__(self, visit: Visit, seams: Seams) -> None:
        self._visit, self._seams = visit, seams

    def make(self) -> Any:
        """Call the model."""
        return self._learnt("output", called(self._visit.wires, self, self._visit.call))

    def block(self, wire: int, inner: Inner, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A block is called."""
        self._learnt((wire, "arguments"), (args, kwargs))
        return self._visit.walk.block(wire, lambda *a, **k: self._learnt((wire, "output"), inner(*a, **k)), args, kwargs)

    def part(self, wire: int, part: str, inner: Inner, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A part of a block is called."""
        self._learnt((wire, part, "arguments"), (args, kwargs))
        return self._visit.walk.part(wire, part, lambda *a, **k: self._learnt((wire, part, "output"), inner(*a, **k)), args, kwargs)

    def idle(self, wire: int, path: str, inner: Inner, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A submodule is called whose result nobody may read."""
        return self._visit.walk.idle(wire, path, inner, args, kwargs)

    def _learnt(self, place: object, value: Any) -> Any:
        self._seams.learn(place, value, self._visit.walk.rows)
        return value


class Joint:
    """See the module. What goes wrong for one visit is kept for it, and its rows are zeros from there on.

    Args:
        visits: Of one model. Their calls are alike, as `foreseer.adapters.joined_calls.Likenesses` says, and
            none is there to examine it.
        seams: Where the rows of the model's calls lie.
        pool: Zeros that were handed out.
    """

    def __init__(self, visits: Sequence[Visit], seams: Seams, pool: Pool) -> None:
        self._visits, self._seams, self._pool = visits, seams, pool
        self._walks: list[Walk] = [visit.walk for visit in visits]
        self._counts = [walk.rows for walk in self._walks]
        self._lost: dict[int, BaseException] = {}
        self._running: Sequence[int] = ()
        self._shared: dict[object, Any] = {}
        for walk in self._walks:
            walk.beside = True

    def make(self) -> list[Any]:
        """Call the model. Returns of each visit what the model returned for it, or the exception that ended it.

        Raises:
            UnsupportedModelError: Its batch cannot be cut.
        """
        wires = self._visits[0].wires
        try:
            output = called(wires, self, join_calls(wires.model, [visit.call for visit in self._visits]))
        except Abandoned:  # by the last of them
            return [self._lost[index] for index in range(len(self._visits))]
        cut = self._cut("output", output, range(len(self._visits)))
        return [self._lost[index] if index in self._lost else _copied(cut.piece(index)) for index in range(len(self._visits))]

    def block(self, wire: int, inner: Inner, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A block is called."""
        everyone = range(len(self._visits))
        if all(index in self._lost or walk.passes_by(wire) for index, walk in enumerate(self._walks)):
            return self._walks[0].zeros(wire, "block", sum(self._counts), self._pool)
        if not self._lost and not any(walk.minds(wire) for walk in self._walks):
            return self._through(wire, inner, args, kwargs, everyone)
        given = self._cut((wire, "arguments"), (args, kwargs), everyone)
        heeds = [walk.heeds(wire) for walk in self._walks]
        for index in everyone:
            if heeds[index]:
                self._guarded(index, self._walks[index].arrive, wire, *given.piece(index))
        ways = {index: self._walks[index].plan.ways(self._walks[index].position(wire)) for index in everyone if index not in self._lost}
        judged = [index for index, each in ways.items() if "judged" in each]
        computing = sorted({*judged, *(index for index, each in ways.items() if "computed" in each)})
        # outside of any visit's answer: what the model itself raises is nobody's own
        computed = self._run(wire, inner, given, computing, judged) if computing else None
        forecast = self._put_through(wire, inner, given, [index for index, each in ways.items() if "forecast" in each])
        if forecast is not None and len(forecast.members) == len(everyone) and not computing and not any(heeds):
            return forecast.output  # of which nobody wants more

        def answer(index: int) -> Any:
            made = iter([forecast if way == "forecast" else computed for way in ways[index]])
            own = given.piece(index) if heeds[index] else ((), {})
            return self._walks[index].answer(wire, lambda *_, **__: _there(next(made)).piece(index), *own)

        return self._put_together(wire, "block", [self._guarded(index, answer, index) for index in everyone], computed, everyone)

    def part(self, wire: int, part: str, inner: Inner, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A part of a block is called, from inside of a block that is run."""
        running, walks = self._running, self._walks
        if not any(walks[index].minds(wire, part) for index in running):
            return inner(*args, **kwargs)
        given = functools.cache(lambda: self._cut((wire, part, "arguments"), (args, kwargs), running))
        wanted = [index for index in running if index not in self._lost and not self._replaces(index, wire, part)]
        made = None
        if wanted:
            some = (args, kwargs) if len(wanted) == len(running) else given().of([running.index(index) for index in wanted])
            made = _Made(wanted, output := inner(*some[0], **some[1]), self._cut((wire, part, "output"), output, wanted))
        answers = []
        for place, index in enumerate(running):
            run = functools.partial(_there(made).piece, index) if index in wanted else _nothing
            live = functools.partial(lambda place: first_tensor(*given().piece(place)), place)
            answers.append(self._guarded(index, walks[index].answer_part, wire, part, run, live))
        return self._put_together(wire, part, answers, made, running)

    def idle(self, wire: int, path: str, inner: Inner, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A submodule is called whose result nobody reads where the block's parts are forecast."""
        layouts = [self._walks[index].idles(wire, path) for index in self._running if index not in self._lost]
        first = layouts[0] if layouts and None not in layouts else None
        return inner(*args, **kwargs) if first is None else first.zeros(sum(self._counts[index] for index in self._running), self._pool)

    def _run(self, wire: int, inner: Inner, given: Cut, members: Sequence[int], judged: Sequence[int] = ()) -> _Made:
        """Run a block for some of the visits; in those that judge it none of its parts is replaced."""
        args, kwargs = given.of(members)
        before, self._running = self._running, members
        for index in judged:
            self._walks[index].plan.bypass = True
        try:
            output = inner(*args, **kwargs)
        finally:
            self._running = before
            for index in judged:
                self._walks[index].plan.bypass = False
        return _Made(members, output, self._cut((wire, "output"), output, members))

    def _through(self, wire: int, inner: Inner, args: tuple[Any, ...], kwargs: dict[str, Any], everyone: Sequence[int]) -> Any:
        """Run a block that all want run, and of which none wants more."""
        for walk in self._walks:
            walk.block_rows += walk.rows
            walk.called.append(wire)
        before, self._running = self._running, everyone
        try:
            return inner(*args, **kwargs)
        finally:
            self._running = before

    def _put_through(self, wire: int, inner: Inner, given: Cut, members: Sequence[int]) -> _Made | None:
        """Run a block for those visits that forecast all its parts, or put it together where that is known to be
        the same. Returns None where there is no such visit.
        """
        assemblies = {self._walks[index].assembly(wire) for index in members}
        if len(assemblies) != 1 or (assemble := assemblies.pop()) is None:
            return self._run(wire, inner, given, members) if members else None
        parts = {index: self._guarded(index, self._walks[index].returned, wire) for index in members}
        members = [index for index in members if index not in self._lost]
        if not members:
            return None
        names = parts[members[0]]
        returned = {name: self._seams.join((wire, name, "output"), [parts[index][name] for index in members]) for name in names}
        args, kwargs = given.of(members)
        shared = self._shared if len(members) == len(self._visits) else {}  # by what all blocks are given, and pieces are made for each
        output = assemble(self._visits[0].wires.blocks[wire], args, kwargs, returned, shared)
        return _Made(members, output, self._cut((wire, "output"), output, members))

    def _replaces(self, index: int, wire: int, part: str) -> bool:
        block = self._walks[index].position(wire)
        return block is not None and self._walks[index].plan.replaces(site_of(block, part))

    def _cut(self, place: object, value: Any, members: Sequence[int]) -> Cut:
        return self._seams.cut(place, value, [self._counts[index] for index in members])

    def _put_together(self, wire: int, part: str, answers: list[Any], made: _Made | None, members: Sequence[int]) -> Any:
        """Return what a block or part returns for all rows of these visits, of what it does for each."""
        if made is not None and len(made.members) == len(members) and all(answer is made.piece(index) for index, answer in zip(members, answers, strict=True)):
            return made.output
        for place, index in enumerate(members):
            if index in self._lost:
                answers[place] = self._walks[index].zeros(wire, part, self._counts[index], self._pool)
        return self._seams.join((wire, "output") if part == "block" else (wire, part, "output"), answers)

    def _guarded(self, index: int, answer: Callable[..., Any], *given: Any) -> Any:
        """Return what a visit answers; None where it is lost."""
        if index in self._lost:
            return None
        try:
            return answer(*given)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # Abandoned among them
            self._lost[index] = error
            if len(self._lost) == len(self._visits):
                raise Abandoned from None
            return None


class _Made:
    """What a block or part returned for some of the visits."""

    def __init__(self, members: Sequence[int], output: Any, cut: Cut) -> None:
        self.members, self.output, self._cut = members, output, cut

    def piece(self, index: int) -> Any:
        """Return what it returned for one of them, each time the same."""
        return self._cut.piece(self.members.index(index))


def _there(made: _Made | None) -> _Made:
    assert made is not None
    return made


def _nothing() -> None:
    """Nobody asks for what a part that is replaced returns."""


def _copied(piece: Any) -> Any:
    """Return a piece that keeps the rows of nobody else alive."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, piece)
