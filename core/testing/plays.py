"""Runs of a policy in a toy world, with a spy on it; forecasts on their own, at anchors of one's choice; and
hypothesis, as the numeric checks use it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from foreseer.bank import FeatureBank
from foreseer.contract import features_to_keep
from foreseer.errors import ContractError, MissingPackageError, OptionError
from foreseer.outcome import Outcome
from foreseer.plugins import Part
from foreseer.registry import PolicySpec
from foreseer.session import Session
from foreseer.testing.spy import Spy, Tamper, weighted
from foreseer.testing.subject import NoStageError, Subject
from foreseer.testing.worlds import DEPTH, Feature, World, constant
from foreseer.types import History, Late, Plan, Run, Site, Step, Verdict
from foreseer.vote import Vote

STEPS = 24
"""Length of a run, in steps."""

STAGES = tuple(itertools.product((STEPS, 50, 100), (DEPTH, 8, 12, 28, 40, 60, 4, 3, 2, 1), (False, True)))
"""Steps of the run, blocks, and whether there are noise levels: tried in this order."""


@attrs.frozen(eq=False)
class Play:
    """A run that is under way, or over: what the policy was asked and answered, and ``step -> (R, ...)`` what
    came out.
    """

    spy: Spy
    session: Session = attrs.field(repr=False)
    world: World = attrs.field(repr=False)
    outputs: dict[int, Tensor] = attrs.field(factory=dict, repr=False)

    def step(self, index: int) -> None:
        """Evaluate."""
        self.outputs[index] = self.session.evaluate(index, index=index).clone()

    def go(self, steps: int | Iterable[int] = STEPS) -> Play:
        """Evaluate these steps, or so many; finish, whatever happens; return itself."""
        try:
            for index in range(steps) if isinstance(steps, int) else steps:
                self.step(index)
        finally:
            self.session.finish()
        return self

    def trace(self) -> list[object]:
        """Everything that happened and came out, to be compared with ``==``; NaN is written as text."""
        told = [(o.step.index, o.computed, o.accept, str((o.error, o.threshold)), o.block_rows) for o in self.spy.outcomes]
        return [*told, *(tuple("nan" if v != v else v for v in out.double().flatten().tolist()) for out in self.outputs.values())]


def noise_at(timesteps: Sequence[float]) -> dict[str, Any]:
    """The noise levels of a run, as flow matching has them: a thousandth of its timesteps is noise. The first
    is noise alone as a rule, whose ``log_snr`` is -inf.
    """
    shares = tuple(t / 1000 for t in timesteps)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"sigmas": shares, "log_snr": tuple((np.log1p(-np.array(shares)) - np.log(shares)).tolist())}


def run_of(world: World, *, num_steps: int = STEPS, groups: Sequence[int] | None = None, sigmas: bool = False) -> Run:
    """The shape of a run in a world: timesteps fall from 1000 in equal steps. With ``sigmas`` there are noise
    levels, those of flow matching.
    """
    rows = len(world.labels)
    timesteps = tuple(1000.0 * (1 - k / num_steps) for k in range(num_steps))
    return Run(
        depth=world.depth,
        rows=rows,
        groups=tuple(range(rows)) if groups is None else tuple(groups),
        num_steps=num_steps,
        timesteps=timesteps,
        **(noise_at(timesteps) if sigmas else {}),
        sites=world.sites,
        places=world.places,
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
            for plugin in subject.build():
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


def play(
    subject: Subject,
    world: World,
    *,
    run: Run | None = None,
    as_given: bool = False,
    tamper: Tamper | None = None,
    vote: Vote | None = None,
    steps: int | Iterable[int] | None = STEPS,
) -> Play:
    """Run a policy in a session, with a spy on it. One that needs more blocks than the worlds have by
    default, or noise levels, gets them.

    Args:
        subject: The policy.
        world: The host.
        run: The shape of the run; None for `run_of` the world.
        as_given: Leave out noise levels where the run has none, whatever the policy needs.
        tamper: What the spy changes on the way.
        vote: How processes that share the rows' entries decide alike.
        steps: How many, or the indices of those in which the stream is called; None evaluates nothing yet.
    """
    spies: list[Spy] = []

    def spied() -> Spy:  # called once to be validated and once by the session
        spies.append(Spy(str(subject.spec), subject.build(), tamper or Tamper()))
        return spies[-1]

    (number, depth, sigmas), shape = stage_of(subject), run or run_of(world)
    if world.depth == DEPTH:
        world = attrs.evolve(world, depth=depth)
    if number != STEPS and not as_given and shape.num_steps == STEPS:
        longer = run_of(world, num_steps=number)
        shape = attrs.evolve(shape, num_steps=number, timesteps=longer.timesteps, sigmas=None, log_snr=None)
    if sigmas and not as_given and shape.sigmas is None and shape.timesteps is not None:
        shape = attrs.evolve(shape, **noise_at(shape.timesteps))
    shape = attrs.evolve(shape, depth=world.depth, sites=world.sites, places=world.places)
    session = Session(world, PolicySpec(str(subject.spec), spied), shape, vote=vote)
    done = Play(spies[-1], session, world)
    return done if steps is None else done.go(steps)


def rejecting(due: Callable[[int, int], bool], labels: Sequence[int] = (0, 1, 2)) -> Tamper:
    """Verdicts that do not depend on the policy: a row of the world is rejected where ``due(step, label)``,
    and computed there where a plan would have it forecast unseen.
    """

    def verdict(step: Step, _: object) -> Verdict:
        answers = torch.tensor([not due(step.index, label) for label in labels])
        return Verdict(torch.where(answers, 0.0, math.inf), answers, 0.0)

    def plan(step: Step, plan: Plan | None) -> Plan | None:
        if plan is None or not plan.forecast or plan.probe is not None:
            return plan
        planned = zip(plan.compute or (False,) * len(labels), labels, strict=True)
        return attrs.evolve(plan, compute=tuple(already or due(step.index, label) for already, label in planned))

    return Tamper(plan=plan, verdict=verdict)


def accept_all() -> Tamper:
    """Every draft is accepted; plans stay."""
    return Tamper(verdict=rejecting(lambda step, label: False).verdict)


def reject_all() -> Tamper:
    """Nothing is forecast in the end."""
    return rejecting(lambda step, label: True)


def some_rejected(labels: Sequence[int] = (0, 1, 2)) -> Tamper:
    """One row of the world is computed after the other, so that each has anchors of its own."""
    return rejecting(lambda step, label: (step + 2 * label) % 5 == 0, labels)


def all_rejected_in_turn(labels: Sequence[int] = (0, 1, 2)) -> Tamper:
    """Verdicts that are the same for all rows: every fifth draft is rejected; plans stay, and inner products
    are the same for all rows too.
    """
    return Tamper(verdict=rejecting(lambda step, label: step % 5 == 0, labels).verdict, outcome=never_changed)


def never_changed(outcome: Outcome) -> Outcome:
    """Inner products as of features that are the same at every step."""
    return attrs.evolve(outcome, products={site: np.ones_like(table) for site, table in outcome.products.items()})


class Forecaster:
    """A policy's predictor on its own: record features at steps of one's choice, and ask for forecasts of
    others.

    Args as of `World` and `run_of`.
    """

    def __init__(self, subject: Subject, *, labels: Sequence[int] = (0, 1, 2), steps: int = 100, sigmas: bool = False) -> None:
        _, depth, leveled = stage_of(subject)
        world, self._labels = World(constant, labels=labels, depth=depth), labels
        self._run = run_of(world, num_steps=steps, sigmas=sigmas or leveled)
        self._spy = Spy(str(subject.spec), subject.build(), Tamper())
        keep = features_to_keep(self._spy.setup(self._run), self._run)
        self.anchors = max(keep.values(), default=1)
        self.sites = tuple(keep)
        self.bank = FeatureBank(keep, len(world.labels))

    def record(self, step: int, feature: Feature, rows: Sequence[int] | None = None) -> None:
        """Store what is computed of these rows, all where None, and tell the policy how the step ended."""
        everyone = range(self._run.rows)
        rows = everyone if rows is None else rows
        if rows:
            features = {site: feature(site, step)[[self._labels[row] for row in rows]] for site in self.sites}
            self.bank.commit(step, None if len(rows) == len(everyone) else rows, features)
        computed, nothing = tuple(row in rows for row in everyone), (math.nan,) * len(everyone)
        at, products = self._step(step), self.bank.products(lambda sums: sums) if self._spy.needs.products else {}
        self._spy.commit(at, Outcome(at, Plan(), computed, nothing, None, math.nan, 0, 0.0, "", products=products))

    def forecast(self, step: int) -> dict[Site, Tensor] | None:
        """Return the forecast at every recorded site, ``(R, ...)``; None where the predictor is not able yet, or
        where a draft waits for what only a run has.

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
        formed = {site: weighted(draft, site, history) for site in self.sites if not isinstance(draft := answer[site], Late)}
        return formed if len(formed) == len(self.sites) else None

    def _step(self, index: int) -> Step:
        """The step as a session tells it."""
        timesteps, sigmas = self._run.timesteps, self._run.sigmas
        return Step(index, None if timesteps is None else timesteps[index], None if sigmas is None else sigmas[index])


def need_hypothesis() -> Any:
    """Import it. Raises `MissingPackageError`, which says what to install."""
    try:
        import hypothesis.strategies
    except ImportError as error:
        raise MissingPackageError("the checks of numbers need hypothesis: pip install 'foreseer[testing]'") from error
    return hypothesis


def strategies() -> Any:
    """Return ``hypothesis.strategies``."""
    return need_hypothesis().strategies


def explore(function: Callable[..., bool | None], *strategies: Any, examples: int = 20) -> int:
    """Try a function with ``examples`` sets of arguments, drawn from the strategies. Return how often it did
    not answer False.
    """
    hypothesis, tried = need_hypothesis(), 0

    @functools.wraps(function)
    def counted(*args: Any, **drawn: Any) -> None:
        nonlocal tried
        tried += function(*args, **drawn) is not False

    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate, hypothesis.Phase.shrink),
        report_multiple_bugs=False,
    )
    settings(hypothesis.given(*strategies)(counted))()
    return tried
