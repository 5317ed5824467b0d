"""Laws of processes that decide together where the policy of one of them raises: nobody waits for it, and all compute."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest
import torch
from test_session import ROWS, session, world
from torch import Tensor

import foreseer
from foreseer import Kind
from foreseer.metrics import relative_l2

PROCESSES = 3
PATIENCE = 20
"""Seconds after which a vote that others do not join is a law broken, and no longer a slow machine."""


class Ballroom:
    """An all-reduce among threads. A call of another kind or shape than the others' breaks it, as it would hang or poison a real one."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(PROCESSES, timeout=PATIENCE)
        self._given: dict[int, tuple[str, Tensor]] = {}

    def seat(self, number: int) -> Seat:
        return Seat(self, number)

    def meet(self, number: int, kind: str, values: Tensor) -> list[Tensor]:
        self._given[number] = kind, values
        self._barrier.wait()
        kinds, given = zip(*(self._given[n] for n in range(PROCESSES)), strict=True)
        self._barrier.wait()
        if len(set(kinds)) > 1 or len({tensor.shape for tensor in given}) > 1:
            self._barrier.abort()
            raise AssertionError(f"calls that do not match: {kinds}, {[tuple(t.shape) for t in given]}")
        return list(given)


class Seat:
    processes = PROCESSES

    def __init__(self, room: Ballroom, number: int) -> None:
        self._room, self._number = room, number

    def sum(self, values: Tensor) -> Tensor:
        return torch.stack(self._room.meet(self._number, "sum", values)).sum(0)

    def max(self, values: Tensor) -> Tensor:
        return torch.stack(self._room.meet(self._number, "max", values)).amax(0)


def fails_in(s: foreseer.Session, hook: str, at: int, after: Callable[..., object] | None) -> None:
    """Have a hook of a session's policy raise in one step, after something else was done."""
    (inner,) = s.tenure._policy._hooks[hook]

    def raising(step, *given):
        if step.index == at:
            if after is not None:
                after(*given)
            raise ZeroDivisionError(hook)
        return inner(dict(zip(arguments, (step, *given), strict=True)))

    arguments = ("step", *(name for name in inner.arguments if name != "step"))
    s.tenure._policy._hooks[hook] = [attrs.evolve(inner, function=raising, arguments=arguments)]


def votes_before(evidence):
    evidence.error(relative_l2)


def votes_twice(evidence):
    evidence.error(relative_l2)
    evidence.error(relative_l2)


@pytest.mark.parametrize(
    ("hook", "after"),
    [("before_step", None), ("predict_features", None), ("verify", None), ("verify", votes_before), ("verify", votes_twice)],
)
@pytest.mark.parametrize("text", ["cg_taylor:threshold=0.5,warmup_steps=2", "speca:threshold=0.5,warmup_steps=2"])
def test_where_one_raises_all_compute_that_step(text: str, hook: str, after: Callable[..., object] | None) -> None:
    """Law: the calls of a vote match in every process, and all take the same decisions in every step."""
    room, at = Ballroom(), 5

    def run(number: int) -> foreseer.Report:
        s = session(world(), text, vote=room.seat(number), on_error="compute")
        if number == 1:
            fails_in(s, hook, at, after)
        for t in range(12):
            s.evaluate(t)
        return s.finish()

    with ThreadPoolExecutor(PROCESSES) as pool:
        reports = list(pool.map(run, range(PROCESSES)))
    for report in reports:
        assert report.computed.tolist() == reports[0].computed.tolist()
    assert reports[0].outcomes[at].full
    assert reports[1].outcomes[at].kind is Kind.FAILED
    assert not all(outcome.full for outcome in reports[0].outcomes[at + 1 :]), "it goes on with forecasts"
    assert len(reports[0].outcomes[at + 1].computed) == ROWS
