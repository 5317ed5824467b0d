"""The step engine: one state machine for every policy.

    plan -> draft -> probe -> verdict -> compute the rejected rows -> commit

`Session.evaluate` is one denoiser evaluation. It does not own the loop: `foreseer.sample` and `foreseer.attach` are
two thin drivers of it. Every decision about rows is in this file and in `trial.py`; policies propose, the session
merges.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any, Literal

import attrs

from foreseer.backbone import Backbone
from foreseer.bank import FeatureBank, Storage
from foreseer.contract import check_plan, features_to_keep
from foreseer.errors import AnswerError
from foreseer.observing import ABSTAINED, Recorder
from foreseer.plugins import Policy
from foreseer.registry import PolicySpec
from foreseer.report import Report
from foreseer.transfer import on_device
from foreseer.trial import Done, LazyDrafts, Trial, check_verdict, share_fate
from foreseer.types import Evidence, History, Outcome, Plan, Run, Site, Step, Verdict
from foreseer.vote import Vote

__all__ = ["Session"]

PAUSE = 4
"""Steps in which a stream may be absent without beginning anew, where its policy does not say how far back its forecasts reach."""


class Session:
    """One run of one policy over one stream of evaluations.

    Args:
        backbone: The host.
        spec: The policy; its plugins are built here and thrown away with the session, so nothing can be stale.
        run: The shape of the run.
        observers: Plugins that watch.
        on_error: ``"raise"`` lets a policy's exception through, with a note that names the plugin, the hook and the
            step; ``"compute"`` computes that step for real and says so in the report.
        storage: Where and how features are kept; None keeps them as they are computed.
        leader: Another stream's session of the same run, whose decisions this one repeats; None to decide by itself.
        vote: How processes that share the rows' tokens decide alike; None where this one has them all.

    Attributes:
        run: The shape of the whole run, as the report tells it.

    Raises:
        PluginError, PolicyConflictError: See `foreseer.plugins.policy_hooks`.
        AnswerError: A plugin asks for a site that the host does not have.
        OverBudgetError: From `evaluate`, on the first computed step, where ``storage`` has a limit.
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
        self.run = run
        self._spec, self._storage, self._vote, self._leader = spec, storage, vote, leader
        self._tolerant = on_error == "compute"
        self._recorder = Recorder(str(spec), run, observers)
        self._groups = run.groups if len(set(run.groups)) < run.rows else None
        self._index = 0
        self._latest: Outcome | None = None
        self._given_up = ""
        self._begin(backbone, run)

    def _begin(self, backbone: Backbone, run: Run) -> None:
        """Build the policy, ask it what to keep, and keep nothing yet. Steps are counted from here on."""
        self._backbone, self._own = backbone, run
        self._policy = Policy(str(self._spec), self._spec())
        answers = [a for a in self._policy.ask("setup", run=run) if a is not None]
        needs = [n for a in answers for n in (a if isinstance(a, (tuple, list)) else (a,))]
        self._bank = FeatureBank(features_to_keep(needs, run), run.rows, self._storage)
        self._reach = self._policy.reach
        self._recorded = self._bank.sites | self._recorder.wanted(run)
        for n in needs:
            if n.note:
                self._recorder.warn(n.note)

    def begin_anew(self, why: str, *, backbone: Backbone | None = None) -> None:
        """Let go of what was recorded; from the next step on a new instance of the policy decides, and warms up as at the start of a run.

        Args:
            why: For the report; empty where there is nothing to say.
            backbone: The host from now on; None for the same.

        Raises:
            ForeseerError: As the session itself, where no step was finished yet.
        """
        backbone = backbone or self._backbone
        self._bank.clear()
        run = attrs.evolve(self.run, depth=backbone.depth, sites=backbone.sites)
        if not self.begun:
            self.run = self._recorder.run = run
        try:
            self._begin(backbone, run.starting_at(self._index))
        except Exception as error:
            if not self.begun:
                raise
            self.give_up(f"{why}, and the policy cannot begin anew ({type(error).__name__}: {error})")
        if why:
            self._recorder.warn(f"step {self._index}: {why}; the policy began anew")

    def give_up(self, why: str) -> None:
        """Compute every step from now on, and record nothing."""
        self._bank.clear()
        self._bank, self._recorded = FeatureBank({}, self.run.rows), frozenset()
        self._given_up = f"{why}: the rest of the run is computed"

    @property
    def sites(self) -> frozenset[Site]:
        """The sites that are recorded: what the policy needs, and what observers want to see."""
        return self._recorded

    @property
    def forecasts(self) -> frozenset[Site]:
        """The sites of which the policy keeps features."""
        return self._bank.sites

    @property
    def begun(self) -> bool:
        """Whether a step was finished."""
        return self._latest is not None

    def warn(self, sentence: str) -> None:
        """Put a sentence into the report, once."""
        self._recorder.warn(sentence)

    @property
    def report(self) -> Report:
        """What happened so far."""
        return self._recorder.report()

    def finish(self) -> Report:
        """End the run: let go of the features, tell the observers, and return the report."""
        self._bank.clear()
        return self._recorder.finish()

    def evaluate(self, inputs: Any, *, index: int | None = None, timestep: float | None = None, sigma: float | None = None, computed_because: str = "") -> Any:
        """Evaluate the denoiser once: compute it, forecast it, or both, row by row.

        Args:
            inputs: The evaluation's arguments, in the host's own form.
            index: The step's index where the stream was not called in every step; at least that of the next step,
                which None takes.
            timestep: As given to the model; None takes the run's, if it has them.
            sigma: Noise level, likewise.
            computed_because: If not empty, compute every row without asking the policy, for this reason.

        Returns:
            The denoiser's output, in the host's own form.
        """
        started = time.perf_counter()
        step = self._step(index, timestep, sigma)
        own = attrs.evolve(step, index=step.index + self.run.start - self._own.start)
        computed_because = computed_because or self._given_up
        if self.run.num_steps is not None and step.index >= self.run.num_steps:
            computed_because = f"the run was declared with {self.run.num_steps} steps: later evaluations are computed"
        if computed_because:
            self._recorder.warn(computed_because)
        try:
            done = self._compute(inputs, computed_because) if computed_because else self._attempt(own, inputs)
        except Exception as error:
            if not (self._tolerant and (self._policy.fault or isinstance(error, AnswerError))):
                raise
            done = self._compute(inputs, f"computed: {self._excuse(error, step, '; the step was computed instead')}")
        shadow, spent = self._recorder.shadow(self._backbone, inputs, step, done, self._recorded)
        rows = tuple(r for r, computed in enumerate(done.computed) if computed)
        if rows and self._bank.sites and not done.features:
            self._recorder.warn(f"step {step.index} was computed with nothing recorded: the model called none of its blocks in it")
        elif rows:
            self._bank.commit(own.index, None if len(rows) == self.run.rows else rows, done.features)
            self._recorder.held(self._bank.bytes_held())
        outcome = done.outcome(own, time.perf_counter() - started - spent)
        told = attrs.evolve(outcome, step=step)
        self._index, self._latest = step.index + 1, told
        self._recorder.record(told, done.features, shadow)
        try:
            self._policy.ask("commit", step=own, outcome=outcome)
        except Exception as error:
            if not self._tolerant:
                raise
            self._excuse(error, step)
        return done.output

    def _step(self, index: int | None, timestep: float | None, sigma: float | None) -> Step:
        """The step to evaluate. The policy begins with the first step of which something is kept, and anew after an absence longer than forecasts reach."""
        run = self.run
        index = self._index if index is None else max(index, self._index)
        if timestep is None and run.timesteps is not None and index < len(run.timesteps):
            timestep = run.timesteps[index]
        if sigma is None and run.sigmas is not None and index < len(run.sigmas):
            sigma = run.sigmas[index]
        absent, self._index = index - self._index, index
        if self._bank.filled:
            if absent > (PAUSE if self._reach is None else self._reach):
                self.begin_anew(f"the stream was not called in the {absent} steps before")
        elif self._bank.sites and self._own.start - self.run.start < index:  # what came before, if anything, left nothing behind
            self.begin_anew("")
        return Step(index, timestep, sigma)

    def _attempt(self, step: Step, inputs: Any) -> Done:
        """Carry out the policy's plan for one step."""
        plan = self._follow(step) if self._leader is not None else self._decide(step)
        if plan is None or not plan.forecast:
            return self._compute(inputs, plan.reason if plan is not None and plan.reason else ABSTAINED, plan)
        condemned = self._bank.out_of_reach(step.index, self._reach)
        if True in plan.compute:
            condemned = [a or b for a, b in zip(condemned, plan.compute, strict=True)]
        condemned = share_fate(condemned, self._groups)
        if all(condemned):
            return self._compute(inputs, plan.reason or "nothing recorded yet")
        sites, history = plan.forecast, History(self._bank.anchors, self._bank.features)
        drafts = self._policy.decide("predict_features", lambda d: LazyDrafts(self._bank, sites, d), step=step, sites=sites, history=history)
        if drafts is None:
            return self._compute(inputs, "no forecast: the predictor is not able yet")

        trial = Trial(plan, condemned, self._groups, drafts, functools.partial(self._verify, step), vote=self._vote)
        on_input = plan.probe is not None and plan.probe.on == "input"
        first = self._backbone.forward(
            inputs,
            substitute=drafts,
            probe=plan.probe,
            judge=trial.judge if plan.probe else None,
            record=self._recorded if on_input else (),
        )
        if plan.probe is not None and trial.accept is None:  # a host that did not ask has judged nothing: what was to be verified is computed
            full = self._compute(inputs, "the host did not reach the probed block")
            return full._replace(block_rows=first.block_rows + full.block_rows)
        trial.reject_non_finite(first.finite)
        rejected = [r for r, out in enumerate(trial.rejected) if out]
        done = Done(first.output, {}, tuple(trial.rejected), first.block_rows, trial.reason(), plan, trial)
        if not rejected:
            return done
        if len(rejected) == self.run.rows:
            if on_input and trial.refused:  # the pass went on computing: nothing is wasted
                return done._replace(features=first.features)
            return self._compute_instead(inputs, done)
        # After an input probe the rejected rows resume behind the probed block: what was computed up to there stands in for it.
        behind = [site for site in first.features if plan.probe is not None and 0 <= site.block <= plan.probe.block]
        kept = {site: first.features[site][on_device(rejected, first.features[site].device)] for site in behind}
        # A copy: the model may write into what it is given, and what is kept goes into the history.
        resume = {site: feature.clone() for site, feature in kept.items() if plan.probe is not None and site == Site(plan.probe.block)}
        part = self._backbone.forward(inputs, rows=rejected, substitute=resume, record=self._recorded - kept.keys())
        self._recorder.check_block_rows += part.check_block_rows
        return done._replace(
            output=self._backbone.merge(first.output, rejected, part.output),
            features={**part.features, **kept},
            block_rows=first.block_rows + part.block_rows,
        )

    def _compute(self, inputs: Any, reason: str, plan: Plan | None = None) -> Done:
        """Compute every row: the plain forward, nothing gathered."""
        done = self._backbone.forward(inputs, substitute={}, record=self._recorded)
        self._recorder.check_block_rows += done.check_block_rows
        return Done(done.output, done.features, (True,) * self.run.rows, done.block_rows, reason, plan or Plan())

    def _compute_instead(self, inputs: Any, done: Done) -> Done:
        """Compute every row after a pass of which nothing can be used."""
        full = self._compute(inputs, done.reason)
        return done._replace(output=full.output, features=full.features, block_rows=done.block_rows + full.block_rows)

    def _decide(self, step: Step) -> Plan | None:
        plan: Plan | None = self._policy.decide("before_step", lambda p: check_plan(p, self._own, self._bank.sites), step=step)
        return plan

    def _follow(self, step: Step) -> Plan | None:
        """Do as the first stream did in this step, without judging again."""
        led = None if self._leader is None else self._leader._latest
        if led is None or led.step.index != self._index:  # it was not called in this step
            return self._decide(step)
        if led.full:
            return Plan(reason="computed as the first stream was")
        return Plan(forecast=led.plan.forecast, compute=led.computed, reason="as the first stream")

    def _verify(self, step: Step, evidence: Evidence) -> Verdict | None:
        verdict: Verdict | None = self._policy.decide("verify", lambda v: check_verdict(v, self.run.rows), step=step, evidence=evidence)
        return verdict

    def _excuse(self, error: Exception, step: Step, consequence: str = "") -> str:
        """Report a policy's fault, and return it."""
        fault, self._policy.fault = self._policy.fault or str(error), ""
        self._recorder.warn(f"step {step.index}: {fault}{consequence}")
        return fault
