"""The step engine: one state machine for every policy.

    plan -> draft -> probe -> verdict -> compute the rejected rows -> commit

`Session.evaluate` is one denoiser evaluation. It does not own the loop: `foreseer.sample` and `foreseer.attach` are
two thin drivers of it. Every decision about rows is in this file and in `trial.py`; policies propose, the session
merges.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor

from foreseer.backbone import Backbone
from foreseer.bank import FeatureBank, Storage
from foreseer.contract import check_plan, features_to_keep
from foreseer.plugins import Policy
from foreseer.registry import PolicySpec
from foreseer.report import Recorder, Report
from foreseer.transfer import on_device
from foreseer.trial import LazyDrafts, Trial, share_fate
from foreseer.types import OUTPUT, Evidence, History, Outcome, Plan, Run, Site, Step, Verdict
from foreseer.vote import Vote

__all__ = ["Session"]


class _Done(NamedTuple):
    """A step that was carried out but is not committed yet."""

    output: Any
    features: Mapping[Site, Tensor]
    computed: tuple[bool, ...]
    block_rows: int
    reason: str
    plan: Plan = Plan()
    trial: Trial | None = None


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

    Raises:
        PluginError, PolicyConflictError: See `foreseer.plugins.policy_hooks`.
        ContractError: A plugin asks for a site that the host does not have.
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
        self._vote = vote
        self._leader = leader
        self._latest: Outcome | None = None
        self._backbone = backbone
        self._tolerant = on_error == "compute"
        self._policy = Policy(str(spec), spec())
        self._recorder = Recorder(str(spec), run, observers)
        answers = [a for a in self._policy.ask("setup", run=run) if a is not None]
        needs = [n for a in answers for n in (a if isinstance(a, (tuple, list)) else (a,))]
        self._bank = FeatureBank(features_to_keep(needs, run), run.rows, storage)
        self._recorded = self._bank.sites | self._wanted()
        self._groups = run.groups if len(set(run.groups)) < run.rows else None
        self._index = 0
        for n in needs:
            if n.note:
                self._recorder.warn(n.note)

    @property
    def sites(self) -> frozenset[Site]:
        """The sites that are recorded: what the policy needs, and what observers want to see."""
        return self._recorded

    @property
    def verifies(self) -> bool:
        """Whether the policy judges drafts, so that rows may meet different fates."""
        return self._policy.implements("verify")

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
        run = self.run
        self._index = index = self._index if index is None else max(index, self._index)
        if timestep is None and run.timesteps is not None and index < len(run.timesteps):
            timestep = run.timesteps[index]
        if sigma is None and run.sigmas is not None and index < len(run.sigmas):
            sigma = run.sigmas[index]
        step = Step(index, timestep, sigma)
        if run.num_steps is not None and index >= run.num_steps:
            computed_because = f"the run was declared with {run.num_steps} steps: later evaluations are computed"
        if computed_because:
            self._recorder.warn(computed_because)
        try:
            done = self._compute(inputs, computed_because) if computed_because else self._attempt(step, inputs)
        except Exception:
            if not (self._tolerant and self._policy.fault):
                raise
            done = self._compute(inputs, self._excuse())
        shadow, spent = self._shadow(step, inputs, done)
        rows = tuple(r for r, computed in enumerate(done.computed) if computed)
        if rows:
            self._bank.commit(index, None if len(rows) == run.rows else rows, done.features)
            self._recorder.held(self._bank.bytes_held())
        outcome = Outcome(
            step,
            done.plan,
            done.computed,
            done.trial.error if done.trial else (float("nan"),) * run.rows,
            done.trial.accept if done.trial else None,
            done.trial.threshold if done.trial else float("nan"),
            done.block_rows,
            time.perf_counter() - started - spent,
            done.reason,
        )
        self._index += 1
        self._latest = outcome
        if rows and self._watched:
            self._recorder.see("on_features", run=run, step=step, rows=rows, features=done.features)
        if shadow is not None:
            self._recorder.see("on_shadow", run=run, step=step, outcome=outcome, **shadow)
        self._recorder.record(step, outcome)
        try:
            self._policy.ask("commit", step=step, outcome=outcome)
        except Exception:
            if not self._tolerant:
                raise
            self._excuse()
        return done.output

    def _attempt(self, step: Step, inputs: Any) -> _Done:
        """Carry out the policy's plan for one step."""
        plan = self._follow(step) if self._leader is not None else self._decide(step)
        if plan is None or not plan.forecast:
            return self._compute(inputs, plan.reason if plan is not None and plan.reason else "computed")
        condemned = self._bank.unrecorded()
        if True in plan.compute:
            condemned = [a or b for a, b in zip(condemned, plan.compute, strict=True)]
        condemned = share_fate(condemned, self._groups)
        if all(condemned) or (any(condemned) and not self._backbone.separable):
            return self._compute(inputs, plan.reason or "nothing recorded yet")
        sites, history = plan.forecast, History(self._bank.anchors, self._bank.features)
        drafts = self._policy.decide("predict_features", lambda d: LazyDrafts(self._bank, sites, d), step=step, sites=sites, history=history)
        if drafts is None:
            return self._compute(inputs, "no forecast: the predictor is not able yet")

        verify, separable = functools.partial(self._verify, step), self._backbone.separable
        trial = Trial(plan, condemned, self._groups, drafts, verify, separable=separable, vote=self._vote)
        on_input = plan.probe is not None and plan.probe.on == "input"
        first = self._backbone.forward(
            inputs,
            substitute=drafts,
            probe=plan.probe,
            judge=trial.judge if plan.probe else None,
            record=self._recorded if on_input else (),
        )
        if plan.probe is None:
            trial.reject_non_finite()
        elif trial.accept is None:  # a host that did not ask has judged nothing: what was to be verified is computed
            full = self._compute(inputs, "the host did not reach the probed block")
            return full._replace(block_rows=first.block_rows + full.block_rows)
        rejected = [r for r, out in enumerate(trial.rejected) if out]
        done = _Done(first.output, {}, tuple(trial.rejected), first.block_rows, trial.reason(), plan, trial)
        if not rejected:
            return done
        if len(rejected) == self.run.rows:
            if on_input:  # the pass went on computing: nothing is wasted
                return done._replace(features=first.features)
            full = self._compute(inputs, done.reason)
            return done._replace(output=full.output, features=full.features, block_rows=first.block_rows + full.block_rows)
        # After an input probe the rejected rows resume behind the probed block: what was computed up to there stands in for it.
        kept = {
            site: feature[on_device(rejected, feature.device)]
            for site, feature in first.features.items()
            if plan.probe is not None and 0 <= site.block <= plan.probe.block
        }
        # A copy: the model may write into what it is given, and what is kept goes into the history.
        resume = {site: feature.clone() for site, feature in kept.items() if plan.probe is not None and site == Site(plan.probe.block)}
        part = self._backbone.forward(inputs, rows=rejected, substitute=resume, record=self._recorded - kept.keys())
        return done._replace(
            output=self._backbone.merge(first.output, rejected, part.output),
            features={**part.features, **kept},
            block_rows=first.block_rows + part.block_rows,
        )

    def _shadow(self, step: Step, inputs: Any, done: _Done) -> tuple[dict[str, Any] | None, float]:
        """Compute a step with forecasts as well, if an observer wants to compare. Returns what to show it, and the seconds that it took."""
        if done.trial is None or not self._recorder.listens("shadow") or True not in self._recorder.ask("shadow", run=self.run, step=step):
            return None, 0.0
        started = time.perf_counter()
        drafts = {site: done.trial.drafts[site] for site in done.plan.forecast}
        output, features = done.output, done.features
        if not all(done.computed):
            real = self._backbone.forward(inputs, substitute={}, record=self._recorded)
            self._recorder.check_block_rows += real.block_rows + real.check_block_rows
            output, features = real.output, real.features
        shown = {"drafts": drafts, "features": features, "output": done.output, "computed": output}
        return shown, time.perf_counter() - started

    def _wanted(self) -> frozenset[Site]:
        """Sites that observers want to see."""
        answers = self._recorder.ask("features_wanted", run=self.run)
        self._watched = bool(answers) and self._recorder.listens("on_features")
        asked = dict.fromkeys(site for answer in answers for site in answer)
        missing = [site for site in asked if site not in self.run.sites and site != OUTPUT]
        if missing:
            self._recorder.warn(f"observers asked for features that this model does not have: {', '.join(map(str, missing))}")
        return frozenset(asked) - frozenset(missing)

    def _decide(self, step: Step) -> Plan | None:
        plan: Plan | None = self._policy.decide("before_step", lambda p: check_plan(p, self.run, self._bank.sites), step=step)
        return plan

    def _follow(self, step: Step) -> Plan | None:
        """Do as the first stream did in this step, without judging again."""
        led = None if self._leader is None else self._leader._latest
        if led is None or led.step.index != step.index:  # it was not called in this step
            return self._decide(step)
        if led.full:
            return Plan(reason="computed as the first stream was")
        return Plan(forecast=led.plan.forecast, compute=led.computed, reason="as the first stream")

    def _compute(self, inputs: Any, reason: str) -> _Done:
        """Compute every row: the plain forward, nothing gathered."""
        done = self._backbone.forward(inputs, substitute={}, record=self._recorded)
        self._recorder.check_block_rows += done.check_block_rows
        return _Done(done.output, done.features, (True,) * self.run.rows, done.block_rows, reason)

    def _verify(self, step: Step, evidence: Evidence) -> Verdict | None:
        verdict: Verdict | None = self._policy.decide("verify", step=step, evidence=evidence)
        return verdict

    def _excuse(self) -> str:
        """Turn the pending fault into a reason, and report it."""
        fault, self._policy.fault = self._policy.fault, ""
        self._recorder.warn(f"step {self._index}: {fault}; the step was computed instead")
        return f"computed: {fault}"
