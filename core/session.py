"""The step engine: one state machine for every policy.

    plan -> draft -> probe -> verdict -> compute the rest -> commit

`Session.step` evaluates the denoiser once and does no work itself. It is a generator: it yields what it asks of a host
(an `Ask`), is sent the `Pass` that came of it, and returns the output. So whoever drives it decides where the passes
run, and of which requests together. `Session.evaluate` is the plain driver. Every decision about rows is in this file
and in `trial.py`: policies propose, the session merges.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any, Literal

import attrs

from foreseer.backbone import Ask, Backbone, Pass, carry_out
from foreseer.bank import Storage
from foreseer.following import Follower
from foreseer.observing import Recorder
from foreseer.outcome import Kind, Outcome
from foreseer.registry import PolicySpec
from foreseer.report import Report
from foreseer.tenure import Tenure
from foreseer.transfer import on_device
from foreseer.trial import Declined, Done
from foreseer.types import Plan, Run, Site, Step
from foreseer.vote import Electorate, Vote

__all__ = ["Session"]


class Session:
    """One run of one policy over one stream of evaluations.

    Args:
        backbone: The host that `evaluate` asks.
        spec: The policy.
        run: The shape of the run.
        observers: Plugins that watch.
        on_error: ``"raise"`` lets a policy's exception through, with a note that names the plugin, the hook and the step; ``"compute"`` computes
            that step for real and says so in the report.
        storage: Where and how features are kept; None keeps them as they are computed.
        leader: Another stream's session of the same run, whose decisions this one repeats; None to decide by itself.
        vote: How processes that share the rows' tokens decide alike; None where this one has them all.

    Raises:
        PluginError, PolicyConflictError: See `foreseer.plugins.policy_hooks`.
        AnswerError: A plugin asks for a site that the host does not have.
        OverBudgetError: From `evaluate`, on the first computed step, where ``storage`` has a limit.

    Attributes:
        latest: How the last step ended; None before the first.
        recorder: The account of the run.
        tenure: The policy, with what it has on record.
    """

    def __init__(
        self,
        backbone: Backbone,
        spec: PolicySpec,
        run: Run,
        *,
        observers: Sequence[object] = (),
        on_error: Literal["raise", "compute"] = "raise",
        storage: Storage | None = None,
        leader: Session | None = None,
        vote: Vote | None = None,
    ) -> None:
        self._backbone, self._follower, self._next = backbone, None if leader is None else Follower(leader), 0
        self.latest: Outcome | None = None
        self.recorder = Recorder(str(spec), run, observers)
        tolerant = on_error == "compute"
        electorate = Electorate(run.groups, vote=vote, wary=tolerant)
        self.tenure = Tenure(spec, run, self.recorder, electorate, storage=storage, tolerant=tolerant)

    @property
    def run(self) -> Run:
        """The shape of the whole run, as the report tells it."""
        return self.recorder.run

    @property
    def report(self) -> Report:
        """What happened so far."""
        return self.recorder.report()

    def finish(self) -> Report:
        """End the run: let go of the features, tell the observers, and return the report."""
        self.tenure.end()
        return self.recorder.finish()

    def begin_anew(self, why: str, *, backbone: Backbone | None = None) -> None:
        """Forget what was recorded, on another host if one is given: see `Tenure.begin_anew`."""
        self._backbone = backbone or self._backbone
        self.tenure.begin_anew(why, self._next, backbone=backbone)

    def evaluate(self, inputs: Any, **at: Any) -> Any:
        """Evaluate the denoiser once: `step`, driven on the session's own host.

        Args:
            inputs: The evaluation's arguments, in the host's own form.
            **at: See `step`.
        """
        return carry_out(self.step(**at), self._backbone, inputs)

    def step(
        self, *, index: int | None = None, timestep: float | None = None, sigma: float | None = None, computed_because: str = ""
    ) -> Generator[Ask, Pass, Any]:
        """Evaluate the denoiser once: compute it, forecast it, or both, row by row.

        Args:
            index: The step's index where the stream was not called in every step; at least that of the next step, which None takes.
            timestep: As given to the model; None takes the run's, if it has them.
            sigma: Noise level, likewise.
            computed_because: If not empty, compute every row without asking the policy, for this reason.

        Returns:
            The denoiser's output, in the host's own form.
        """
        started = time.perf_counter()
        step = self.run.step(self._next if index is None else max(index, self._next), timestep, sigma)
        absent, self._next = step.index - self._next, step.index
        self.tenure.enter(step.index, absent)
        own, overruled = self.tenure.own(step), self.run.over(step) or computed_because or self.tenure.given_up
        if overruled:
            self.recorder.warn(overruled)
            done = yield from self._compute(Kind.OVERRULED, overruled)
        else:
            done = yield from self._attempt(step, own)
        if fault := self.tenure.fault():
            self.recorder.warn(f"step {step.index}: {fault}; the step was computed instead")
            done = done._replace(kind=Kind.FAILED, reason=f"computed: {fault}", plan=Plan(), trial=None)
        shadow, spent = yield from self.recorder.shadow(step, done, self.tenure.sites)
        self.tenure.keep(own, done)
        outcome = done.outcome(own, time.perf_counter() - started - spent)
        self.latest = attrs.evolve(outcome, step=step)
        self.recorder.record(self.latest, done.features, shadow)
        self.tenure.commit(own, outcome)
        if fault := self.tenure.fault():
            self.recorder.warn(f"step {step.index}: {fault}")
        self._next = step.index + 1
        return done.output

    def _attempt(self, step: Step, own: Step) -> Generator[Ask, Pass, Done]:
        """Carry out the plan for one step: as the run counts it, and as the policy does."""
        plan = self._follower.before_step(step) if self._follower else None
        plan = plan or self.tenure.before_step(own)
        trial = self.tenure.propose(own, plan)
        if isinstance(trial, Declined):
            return (yield from self._compute(*trial))
        plan = trial.plan
        on_input = plan.probe is not None and plan.probe.on == "input"
        first = yield Ask(
            substitute=trial.drafts,
            probe=plan.probe,
            judge=trial.judge if plan.probe else None,
            record=self.tenure.sites if on_input else (),
        )
        if plan.probe is not None and trial.accept is None:  # a host that did not ask has judged nothing: what was to be verified is computed
            full = yield from self._compute(Kind.OVERRULED, "the host did not reach the probed block")
            return full._replace(block_rows=first.block_rows + full.block_rows)
        trial.reject_non_finite(first.finite)
        done = Done(first.output, {}, tuple(trial.rejected), first.block_rows, trial.kind, trial.reason(), plan, trial)
        if not any(trial.rejected):
            return done
        if all(trial.rejected) and on_input and trial.refused:  # the pass went on computing: nothing is wasted
            return done._replace(features=first.features)
        return (yield from self._rest(done, first))

    def _rest(self, done: Done, first: Pass) -> Generator[Ask, Pass, Done]:
        """Compute the rejected rows. After an input probe they resume behind the probed block: what was computed up to there stands in for it."""
        rejected = [r for r, out in enumerate(done.computed) if out]
        if len(rejected) == self.run.rows:
            full = yield from self._compute(done.kind, done.reason)
            return done._replace(output=full.output, features=full.features, block_rows=done.block_rows + full.block_rows)
        probed = -1 if done.plan.probe is None else done.plan.probe.block
        kept = {site: feature[on_device(rejected, feature.device)] for site, feature in first.features.items() if 0 <= site.block <= probed}
        # A copy: the model may write into what it is given, and what is kept goes into the history.
        resume = {site: feature.clone() for site, feature in kept.items() if site == Site(probed)}
        part = yield Ask(rows=rejected, substitute=resume, record=self.tenure.sites - kept.keys(), into=first.output)
        self.recorder.check_block_rows += part.check_block_rows
        return done._replace(output=part.output, features={**part.features, **kept}, block_rows=first.block_rows + part.block_rows)

    def _compute(self, kind: Kind, reason: str, plan: Plan | None = None) -> Generator[Ask, Pass, Done]:
        """Compute every row: the plain forward, nothing gathered."""
        done = yield Ask(record=self.tenure.sites)
        self.recorder.check_block_rows += done.check_block_rows
        return Done(done.output, done.features, (True,) * self.run.rows, done.block_rows, kind, reason, plan or Plan())
