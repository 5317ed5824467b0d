"""Votes: processes that share a sample's tokens decide alike. Two of them are simulated by two threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import attrs
import torch
from torch import Tensor

from foreseer.errors import ContractError
from foreseer.testing.check import broken, law, verifies
from foreseer.testing.plays import STEPS, Play, accept_all, play, rehearse
from foreseer.testing.spy import Tamper
from foreseer.testing.subject import Subject
from foreseer.testing.worlds import WIDTH, World, exponential, noise
from foreseer.types import Evidence, Site, Step

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
    """Smooth in the first half of the columns and rough in the second: the two processes see different
    errors.
    """
    rough = noise(site, step) * torch.tensor([1e-3, 1e-2, 1.0], dtype=torch.float64)[:, None]
    rough[:, : WIDTH // 2] = 0
    return exponential(site, step) + rough


def check_vote(subject: Subject) -> str:
    """Two processes that each hold half of a sample's tokens come to one verdict, or refuse in an error that
    says why.

    The run is made twice at once, on the two halves, with an all-reduce between them that adds up. Then a
    gate that takes part in the vote is given the same totals beside tokens of its own that are near the truth
    and far from it, small and large: its answers must be the same.

    Why: under context parallelism the next all-to-all inside the model waits for both. If one computes and
    the other forecasts, the run hangs. The session votes on the verdicts of gates that do not vote
    themselves; a gate that takes part of its answer from ``evidence.error`` and part from its own arithmetic
    has voted, and is not voted on.

    Would have caught: diffusers' first-block cache decides by each process's own tokens, and deadlocks under
    context parallelism.
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
        _see_that_totals_decide(subject, cast, instead)
    return f"{judged} verdicts alike"


def _see_that_totals_decide(subject: Subject, cast: int, instead: str) -> None:
    """Where a gate asks for totals, nothing else of the evidence may enter its answers or its plans."""
    for total in (1e-9, 1e3):
        first: tuple[object, str] | None = None
        for size, off in ((1.0, 1e-6), (1.0, 0.01), (1.0, 1.0), (1.0, 100.0), (1e-3, 1.0), (1e3, 1.0)):
            asked: list[int] = []

            def totals(sums: Tensor, total: float = total, asked: list[int] = asked) -> Tensor:
                asked.append(1)
                values = torch.ones_like(sums)
                values[:1] = total  # of a metric's sums the first is the numerator
                return values

            def evidence(_: Step, shown: Evidence, size: float = size, off: float = off, totals: Callable[[Tensor], Tensor] = totals) -> Evidence:
                away = torch.linspace(-1, 1, shown.computed.numel(), dtype=shown.computed.dtype).reshape(shown.computed.shape)
                computed = size * shown.computed
                return attrs.evolve(shown, computed=computed, forecast=computed + size * off * away, vote=totals)

            spy = play(subject, World(exponential), cast=cast, steps=8, tamper=Tamper(evidence=evidence, verdict=accept_all().verdict)).spy
            if not asked:
                return
            answers = str([(j.step, j.accept, j.error) for j in spy.judgements]), str(spy.plans)
            story = f"tokens of size {size:g} that are off by {off:g} of it"
            if first is not None and first[0] != answers:
                broken(f"with the same totals of all processes, its answers or plans are other ones beside {story} than beside {first[1]}", instead)
            first = first or (answers, story)


CHECKS = (law(check_vote, "engine", verifies),)
