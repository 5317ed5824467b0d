"""Votes: processes that share a sample's tokens decide alike. Two of them are simulated by two threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from foreseer.errors import ContractError
from foreseer.testing.check import broken, law, verifies
from foreseer.testing.plays import STEPS, Play, rehearse
from foreseer.testing.subject import Subject
from foreseer.testing.worlds import WIDTH, World, exponential, noise
from foreseer.types import Site

__all__ = ["CHECKS", "check_vote"]

PATIENCE = 20.0
"""Seconds that one process waits for the other."""


class _Parted(Exception):  # noqa: N818  # what happened, not an error of the kit
    """The two processes wait for different things: with real ones the run would hang."""


class _Meeting:
    """Where two threads exchange tensors."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=PATIENCE)
        self.brought: dict[int, tuple[str, Tensor]] = {}

    def meet(self, process: int, what: str, values: Tensor) -> tuple[Tensor, Tensor]:
        """Wait for the other one; return what both brought, the same way round for both."""
        self.brought[process] = (f"{what} of {tuple(values.shape)}", values)
        try:
            self.barrier.wait()
            (first, a), (second, b) = self.brought[0], self.brought[1]
            self.barrier.wait()
        except threading.BrokenBarrierError:
            raise _Parted("one process ended, or waits no longer") from None
        if first != second:
            raise _Parted(f"one process waits for {first}, the other for {second}")
        return a, b


class _Voter:
    """One process's side; satisfies `foreseer.vote.Vote`."""

    processes = 2

    def __init__(self, meeting: _Meeting, process: int) -> None:
        self._meeting, self._process = meeting, process

    def sum(self, values: Tensor) -> Tensor:
        a, b = self._meeting.meet(self._process, "a sum", values)
        return a + b

    def max(self, values: Tensor) -> Tensor:
        a, b = self._meeting.meet(self._process, "a maximum", values)
        return torch.maximum(a, b)


def _uneven(site: Site, step: float) -> Tensor:
    """Smooth in the first half of the columns and rough in the second: the two processes see different errors."""
    rough = noise(site, step) * torch.tensor([1e-3, 1e-2, 1.0], dtype=torch.float64)[:, None]
    rough[:, : WIDTH // 2] = 0
    return exponential(site, step) + rough


def check_vote(subject: Subject) -> str:
    """Two processes that each hold half of a sample's tokens come to one verdict, or refuse in an error that says why.

    The run is made twice at once, on the two halves, with an all-reduce between them that adds up.

    Why: under context parallelism the next all-to-all inside the model waits for both. If one computes and the other forecasts, the run hangs. The session
    votes on the verdicts of gates that do not vote themselves; a gate that takes part of its answer from ``evidence.error`` and part from its own arithmetic
    has voted, and is not voted on.

    Would have caught: diffusers' first-block cache decides by each process's own tokens, and deadlocks under context parallelism.
    """
    judged = 0
    for cast in range(len(subject.casts)):
        meeting = _Meeting()

        def process(number: int, meeting: _Meeting = meeting, cast: int = cast) -> Play | Exception:
            half = slice(0, WIDTH // 2) if number == 0 else slice(WIDTH // 2, WIDTH)
            run: Play | None = None
            try:
                run = rehearse(subject, World(_uneven, columns=half), cast=cast, vote=_Voter(meeting, number))
                for index in range(STEPS):
                    run.step(index)
                meeting.meet(number, "the end", torch.zeros(()))
            except Exception as error:
                meeting.barrier.abort()
                return error
            finally:
                if run is not None:
                    run.session.finish()
            return run

        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(process, (0, 1))
        failures = [end for end in (first, second) if isinstance(end, Exception)]
        refusals = [end for end in failures if isinstance(end, ContractError) and "does not add up" in str(end)]
        if refusals:
            return "it refuses to be voted on"
        instead = "Take the whole error from evidence.error(metric, groups=...), also where several measures are combined; or leave all of it to the session"
        faults = [end for end in failures if not isinstance(end, _Parted)]
        if faults:
            raise faults[0]
        if isinstance(first, Exception) or isinstance(second, Exception):
            broken(f"the two processes parted: {failures[0]}", instead)
        for a, b in zip(first.spy.outcomes, second.spy.outcomes, strict=True):
            if a.computed != b.computed or a.accept != b.accept:
                broken(f"at step {a.step.index} one process accepted {a.accept} (errors {a.error}), the other {b.accept} (errors {b.error})", instead)
            judged += a.accept is not None
    return f"{judged} verdicts alike"


CHECKS = (law(check_vote, "engine", verifies),)
