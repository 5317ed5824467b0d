"""Runs of a policy in a toy world, with a spy on it; and forecasts on their own, at anchors of one's choice."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from foreseer.bank import FeatureBank
from foreseer.contract import features_to_keep
from foreseer.errors import ContractError, OptionError
from foreseer.outcome import Outcome
from foreseer.plugins import Part
from foreseer.registry import PolicySpec
from foreseer.report import Report
from foreseer.session import Session
from foreseer.testing.spy import Spy, Tamper, weighted
from foreseer.testing.subject import NoStageError, Subject
from foreseer.testing.worlds import DEPTH, World, constant
from foreseer.types import History, Plan, Run, Site, Step, Verdict
from foreseer.vote import Vote

__all__ = [
    "STEPS",
    "Forecaster",
    "Play",
    "accept_all",
    "all_rejected_in_turn",
    "forced",
    "play",
    "rehearse",
    "reject_all",
    "run_of",
    "some_rejected",
    "stage_of",
    "steps_of",
]

STEPS = 24
"""Length of a run, in steps."""

STAGES = tuple(itertools.product((STEPS, 50, 100), (DEPTH, 8, 12, 28, 40, 60, 4, 3, 2, 1), (False, True)))
"""Steps of the run, blocks, and whether there are noise levels: tried in this order."""


@attrs.frozen(eq=False)
class Play:
    """A run that is under way, or over.

    Attributes:
        spy: What the policy was asked and answered.
        session: The session.
        outputs: ``step -> (R, ...)`` what came out.
    """

    spy: Spy
    session: Session = attrs.field(repr=False)
    world: World = attrs.field(repr=False)
    outputs: dict[int, Tensor] = attrs.field(factory=dict, repr=False)

    def step(self, index: int) -> None:
        """Evaluate once."""
        self.outputs[index] = self.session.evaluate(index, index=index).clone()

    @property
    def report(self) -> Report:
        """The report so far."""
        return self.session.report

    def trace(self) -> list[object]:
        """Everything that happened and came out, to be compared with ``==``; NaN is written as text."""
        told = [(o.step.index, o.computed, o.accept, str((o.error, o.threshold)), o.block_rows) for o in self.spy.outcomes]
        return [*told, *(tuple("nan" if v != v else v for v in out.double().flatten().tolist()) for out in self.outputs.values())]


def run_of(world: World, *, num_steps: int = STEPS, groups: Sequence[int] | None = None, sigmas: bool = False) -> Run:
    """The shape of a run in a world: timesteps fall from 1000 in equal steps. Without ``sigmas`` there are
    none, as with every adapter; with, they are a thousandth of the timesteps.
    """
    rows = len(world.labels)
    timesteps = tuple(1000.0 * (1 - k / num_steps) for k in range(num_steps))
    return Run(
        depth=world.depth,
        rows=rows,
        groups=tuple(range(rows)) if groups is None else tuple(groups),
        num_steps=num_steps,
        timesteps=timesteps,
        sigmas=tuple(t / 1000 for t in timesteps) if sigmas else None,
        sites=world.sites,
    )


@functools.lru_cache(maxsize=64)
def stage_of(subject: Subject) -> tuple[int, int, bool]:
    """The plainest stage that a policy takes in ``setup``: steps, blocks, and whether there are noise levels.

    Raises:
        NoStageError: It takes none of them, and refuses each by an `OptionError`.
    """
    refused: OptionError | None = None
    for steps, depth, sigmas in STAGES:
        run = run_of(World(constant, depth=depth), num_steps=steps, sigmas=sigmas)
        try:
            for _, build in subject.casts:
                for plugin in build():
                    Part(plugin).setup(run)
        except (OptionError, ContractError) as error:
            refused = error if isinstance(error, OptionError) else refused
            continue
        except Exception:  # a fault: the checks come upon it, and say where
            break
        return steps, depth, sigmas
    if refused is None:
        return STAGES[0]
    raise NoStageError(f"it takes none of the kit's runs: {refused}")


def rehearse(
    subject: Subject,
    world: World,
    *,
    cast: int = 0,
    run: Run | None = None,
    as_given: bool = False,
    tamper: Tamper | None = None,
    vote: Vote | None = None,
) -> Play:
    """Build a session with a spy on the policy, and evaluate nothing yet.

    A policy that needs more blocks than the worlds have by default, or noise levels, gets them.

    Args:
        subject: The policy.
        world: The host.
        cast: Which of the subject's casts.
        run: The shape of the run; None for `run_of` the world.
        as_given: Leave out noise levels where the run has none, whatever the policy needs.
        tamper: What the spy changes on the way.
        vote: How processes that share the rows' entries decide alike.
    """
    spies: list[Spy] = []

    def spied() -> Spy:  # called once to be validated and once by the session
        spies.append(Spy(str(subject.spec), subject.casts[cast][1](), tamper or Tamper()))
        return spies[-1]

    (steps, depth, sigmas), shape = stage_of(subject), run or run_of(world)
    if world.depth == DEPTH:
        world = world.deeper(depth)
    if steps != STEPS and not as_given and shape.num_steps == STEPS:
        longer = run_of(world, num_steps=steps)
        shape = attrs.evolve(shape, num_steps=steps, timesteps=longer.timesteps, sigmas=None)
    if sigmas and not as_given and shape.sigmas is None and shape.timesteps is not None:
        shape = attrs.evolve(shape, sigmas=tuple(t / 1000 for t in shape.timesteps))
    session = Session(world, PolicySpec(str(subject.spec), spied), attrs.evolve(shape, depth=world.depth, sites=world.sites), vote=vote)
    return Play(spies[-1], session, world)


def play(
    subject: Subject,
    world: World,
    *,
    cast: int = 0,
    run: Run | None = None,
    as_given: bool = False,
    tamper: Tamper | None = None,
    steps: int | Iterable[int] = STEPS,
    vote: Vote | None = None,
) -> Play:
    """Run a policy from the first step to the last; ``steps`` may list the indices of those in which the
    stream is called. Arguments as in `rehearse`.
    """
    result = rehearse(subject, world, cast=cast, run=run, as_given=as_given, tamper=tamper, vote=vote)
    try:
        for index in range(steps) if isinstance(steps, int) else steps:
            result.step(index)
    finally:
        result.session.finish()
    return result


def steps_of(first: Play, second: Play) -> list[int]:
    """The steps that both evaluated."""
    return [index for index in first.outputs if index in second.outputs]


def forced(pattern: Mapping[int, Sequence[bool]] | None = None, *, accept: bool = True, rows: int = 3) -> Tamper:
    """Verdicts that do not depend on the policy: ``pattern`` has the answers of single steps, ``accept``
    those of all others.
    """

    def verdict(step: Step, _: object) -> Verdict:
        answers = torch.tensor((pattern or {}).get(step.index, [accept] * rows))
        return Verdict(torch.where(answers, 0.0, math.inf), answers, 0.0)

    return Tamper(verdict=verdict)


def accept_all(rows: int = 3) -> Tamper:
    """Every draft is accepted."""
    return forced(rows=rows)


def reject_all(rows: int = 3) -> Tamper:
    """Every draft is rejected; what would be used unseen is computed."""
    verdict = forced(accept=False, rows=rows).verdict
    return Tamper(verdict=verdict, plan=lambda step, plan: plan if plan is None or plan.probe is not None else attrs.evolve(plan, compute=(True,) * rows))


def some_rejected(labels: Sequence[int] = (0, 1, 2)) -> Tamper:
    """Verdicts and plans that have one row of the world computed after the other, so that each has anchors of
    its own.
    """

    def due(step: int) -> tuple[bool, ...]:
        return tuple((step + 2 * label) % 5 == 0 for label in labels)

    def plan(step: Step, plan: Plan | None) -> Plan | None:
        if plan is None or not plan.forecast or plan.probe is not None:
            return plan
        return attrs.evolve(plan, compute=tuple(a or b for a, b in zip(plan.compute or (False,) * len(labels), due(step.index), strict=True)))

    return Tamper(plan=plan, verdict=forced({k: [not d for d in due(k)] for k in range(200)}, rows=len(labels)).verdict)


def all_rejected_in_turn(labels: Sequence[int] = (0, 1, 2)) -> Tamper:
    """Verdicts that are the same for all rows: every fifth draft is rejected."""
    return forced({k: [False] * len(labels) for k in range(0, 200, 5)}, rows=len(labels))


class Forecaster:
    """A policy's predictor on its own: record features at steps of one's choice, and ask for forecasts of
    others.

    Args:
        subject: The policy.
        cast: Which of the subject's casts.
        labels: Rows of the world.
        steps: Length of the run that the policy is told.
        sigmas: Whether the run has noise levels.
    """

    def __init__(self, subject: Subject, *, cast: int = 0, labels: Sequence[int] = (0, 1, 2), steps: int = 100, sigmas: bool = False) -> None:
        _, depth, leveled = stage_of(subject)
        world = World(constant, labels=labels, depth=depth)
        self._run, self._spy = run_of(world, num_steps=steps, sigmas=sigmas or leveled), Spy(str(subject.spec), subject.casts[cast][1](), Tamper())
        needs = self._spy.setup(self._run)
        keep = features_to_keep(needs, self._run)
        self.anchors = max(keep.values(), default=1)
        self.sites = tuple(keep)
        self.bank = FeatureBank(keep, len(world.labels))

    def record(self, step: int, features: Mapping[Site, Tensor], rows: Sequence[int] | None = None) -> None:
        """Store what was computed, ``site -> (len(rows), ...)``, and tell the policy."""
        self.bank.commit(step, rows, features)
        computed = tuple(rows is None or row in rows for row in range(self._run.rows))
        self.commit(step, computed)

    def commit(self, step: int, computed: Sequence[bool]) -> None:
        """Tell the policy how a step ended."""
        nothing = (math.nan,) * self._run.rows
        at = self._step(step)
        self._spy.commit(at, Outcome(at, Plan(), tuple(computed), nothing, None, math.nan, 0, 0.0, ""))

    def forecast(self, step: int) -> dict[Site, Tensor] | None:
        """Return the forecast at every recorded site, ``(R, ...)``; None where the predictor is not able yet.

        Raises:
            ContractError: The answer leaves sites out.
        """
        history = History(self.bank.anchors, self.bank.features)
        answer = self._spy.predict_features(self._step(step), self.sites, history)
        if answer is None:
            return None
        missing = [str(site) for site in self.sites if site not in answer]
        if missing:
            raise ContractError(f"predict_features gave no forecast for {', '.join(missing)}")
        return {site: weighted(answer[site], site, history, self._step(step)) for site in self.sites}

    def _step(self, index: int) -> Step:
        """The step as a session tells it."""
        timesteps, sigmas = self._run.timesteps, self._run.sigmas
        return Step(index, None if timesteps is None else timesteps[index], None if sigmas is None else sigmas[index])
