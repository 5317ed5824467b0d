"""What a host wants of a model: one call of it with a walk in its blocks.

A host asks for visits and does not make them, as a session asks for passes: so one driver makes them on the
spot (`alone`), and another makes those of several requests in one call of the model (`batching.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from foreseer.adapters.calls import Call
from foreseer.adapters.walk import Walk
from foreseer.adapters.wires import Visitor, Wires
from foreseer.errors import ContractError

__all__ = ["Plain", "Visit", "Visits", "alone", "called"]

T = TypeVar("T")
Visits = Generator["Visit | Plain", Any, T]
"""Yields visits, is sent what the model returned in each (or its exception is thrown in), and returns T."""


class Visit:
    """One call of a model that somebody wants.

    Args:
        wires: The model's interceptions.
        call: The call.
        begin: Returns a walk that nobody has made yet.

    Attributes:
        walk: The last that was begun.
    """

    def __init__(self, wires: Wires, call: Call, begin: Callable[[], Walk]) -> None:
        self.wires, self.call, self._begin = wires, call, begin
        self.walk = begin()

    def again(self) -> None:
        """Begin anew: nothing of the walk before counts."""
        self.walk = self._begin()

    def other(self, call: Call) -> Visit:
        """Return one like it of another call."""
        return Visit(self.wires, call, self._begin)

    def make(self) -> Any:
        """Call the model, with nobody beside."""
        return called(self.wires, self.walk, self.call)


class Plain:
    """A call of a model with nobody in its blocks. Attributes as of `Visit`."""

    walk = None

    def __init__(self, call: Call) -> None:
        self.call = call

    def make(self) -> Any:
        """Call the model."""
        return self.call.inner(*self.call.args, **self.call.kwargs)


def called(wires: Wires, visitor: Visitor, call: Call) -> Any:
    """Call a model while somebody is led to its blocks.

    Raises:
        ContractError: Somebody is already.
    """
    here = threading.get_ident()
    if here in wires.walks or (wires.walks and not wires.several):
        raise ContractError("a second evaluation of this model began before the first had ended; give each thread a model of its own")
    wires.walks[here] = visitor
    try:
        return call.inner(*call.args, **call.kwargs)
    finally:
        del wires.walks[here]


def alone(visits: Visits[T]) -> T:
    """Make all visits as they are wanted, and return what comes of it."""
    try:
        visit = next(visits)
        while True:
            try:
                output = visit.make()
            except BaseException as error:
                visit = visits.throw(error)
            else:
                visit = visits.send(output)
    except StopIteration as end:
        result: T = end.value
        return result
