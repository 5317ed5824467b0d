"""Engine: a policy fits the engine. Rejecting everything is the bare model, the report is true, parts can be
crossed, and processes that share a sample's tokens decide alike.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import attrs
import torch
from torch import Tensor

from foreseer.errors import ContractError, PolicyConflictError
from foreseer.plugins import DECISIONS, policy_hooks
from foreseer.testing.check import broken, law, policies, verifies
from foreseer.testing.partners import ReferenceGate, ReferencePredictor, ReferenceSchedule
from foreseer.testing.plays import Play, accept_all, play, reject_all, some_rejected
from foreseer.testing.spy import Tamper, altered, same
from foreseer.testing.subject import Subject
from foreseer.testing.worlds import WIDTH, World, constant, exponential, mixed, noise
from foreseer.types import Evidence, Site, Step


@law("engine", policies, "bitwise the bare model")
def check_reject_all_is_identity(subject: Subject) -> None:
    """Where everything is rejected, the output is the bare model's, bit for bit.

    Why: to compute is always right. A policy that changes the output even then changes it elsewhere too, and
    every quality that is measured of it is of two changes.

    Would have caught: cache-dit with four first and four last blocks of six gives a wrong output even where
    no step is cached.
    """
    done = play(subject, World(mixed), tamper=reject_all())
    for index, output in done.outputs.items():
        truth = done.world.output(index)
        if not same(output, truth):
            away = (output - truth).abs().max().item()
            broken(f"with every draft rejected, the output of step {index} is up to {away:.3g} off the model's", "Write to nothing that you are shown")


@law("engine", policies, "every block counted, {} answers within the threshold")
def check_accounting(subject: Subject) -> int:
    """The report is true: blocks counted by the model are those reported, and no draft was used whose error
    is above the threshold that is reported.

    A gate that has no threshold leaves it NaN, and is not held to one.

    Why: users tune by the report. An error of 0.3 beside a threshold of 0.1 and the word "accepted" teaches
    them that the numbers mean nothing.

    Would have caught: cache-dit's summary goes on reporting the steps [3,4,6] while its contexts drift and
    others are skipped.
    """
    judged = 0
    for tamper in (None, some_rejected()):
        done = play(subject, World(mixed), tamper=tamper)
        if done.world.counted != done.session.report.block_rows:
            broken(
                f"{done.world.counted} block-rows were computed, and {done.session.report.block_rows} reported",
                "A policy must not evaluate the model itself",
            )
    for judgement in play(subject, World(mixed)).spy.judgements:
        for row, (error, accept) in enumerate(zip(judgement.error, judgement.accept, strict=True)):
            if accept and error > judgement.threshold * (1 + 1e-6):
                broken(
                    f"at step {judgement.step}, row {row} is accepted with an error of {error:.4g}, and the threshold is {judgement.threshold:.4g}",
                    "Report in the Verdict the threshold that was used",
                )
            judged += 1
    return judged


@law("engine", policies)
def check_composes(subject: Subject) -> str:
    """Parts can be crossed: a lone part works with a reference partner, the option ``predictor`` is honoured,
    and a second provider is refused by name.

    Why: a gate is compared with other gates at the same predictor, and the other way round. That is what the
    parts are apart for.

    Would have caught: every released method is one bundle; the same gate was written four times for four
    engines in a month (SeaCache: sglang #36471, vllm-omni #6975 and #6922, diffusers #14663).
    """
    own = play(subject, World(constant))
    forecast = sum(outcome.computed.count(False) for outcome in own.spy.outcomes)
    if "predictor" in subject.can.options and "predict_features" in subject.can.hooks:
        partners: list[ReferencePredictor] = []

        def reference() -> ReferencePredictor:
            partners.append(ReferencePredictor())
            return partners[-1]

        other = play(subject.given(predictor=reference), World(constant))
        if own.spy.forecasts and other.spy.forecasts and not any(partner.asked for partner in partners):
            broken(
                "the predictor that was given as option predictor= was not asked for one forecast", "Build it with foreseer.policies.predictor_from(predictor)"
            )
    rivals: dict[str, Callable[[], object]] = dict(zip(DECISIONS, (ReferenceSchedule, ReferencePredictor, ReferenceGate), strict=True))
    for hook, rival in rivals.items():
        if hook in subject.can.hooks:
            try:
                policy_hooks((*subject.spec(), rival()))
            except PolicyConflictError as conflict:
                if not any(type(plugin).__name__ in str(conflict) for plugin in subject.spec()):
                    broken(f"the conflict over {hook} does not name it: {conflict}", "Give the plugin's class a name of its own")
            else:
                broken(f"a second provider of {hook} was not refused", "Mark the hook with foreseer.hookimpl")
    return f"{subject.cast}: {forecast} row-steps forecast"


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


@law("engine", verifies, "{} verdicts alike")
def check_vote(subject: Subject) -> int | str:
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
    meeting = _Meeting()

    def process(number: int) -> Play | Exception:
        half = slice(0, WIDTH // 2) if number == 0 else slice(WIDTH // 2, WIDTH)
        try:
            run = play(subject, World(_uneven, columns=half), vote=_Voter(meeting, number))
            meeting.meet(number, "the end", torch.zeros(()))
        except Exception as error:
            meeting.barrier.abort()
            return error
        return run

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(process, (0, 1))
    failures = [end for end in (first, second) if isinstance(end, Exception)]
    if any(isinstance(end, ContractError) and "does not add up" in str(end) for end in failures):
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
    _see_that_totals_decide(subject, instead)
    return judged


def _see_that_totals_decide(subject: Subject, instead: str) -> None:
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
                def then(_: Tensor, now: Tensor) -> Tensor:
                    return now + size * off * torch.linspace(-1, 1, now.numel(), dtype=now.dtype).reshape(now.shape)

                return attrs.evolve(altered(shown, lambda now: size * now, then), vote=totals)

            spy = play(subject, World(exponential), steps=8, tamper=Tamper(evidence=evidence, verdict=accept_all().verdict)).spy
            if not asked:
                return
            answers = str([(j.step, j.accept, j.error) for j in spy.judgements]), str(spy.plans)
            story = f"tokens of size {size:g} that are off by {off:g} of it"
            if first is not None and first[0] != answers:
                broken(f"with the same totals of all processes, its answers or plans are other ones beside {story} than beside {first[1]}", instead)
            first = first or (answers, story)
