"""A policy in office: its plugins and what they have on record, and how it begins anew."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from foreseer.backbone import Backbone, places_of
from foreseer.bank import FeatureBank
from foreseer.contract import PlanCheck, features_to_keep
from foreseer.errors import OverBudgetError, in_words
from foreseer.observing import Recorder
from foreseer.outcome import Kind, Outcome
from foreseer.plugins import Policy
from foreseer.registry import PolicySpec
from foreseer.sightings import Sightings
from foreseer.storage import Allowance, Storage
from foreseer.trial import Declined, Done, LazyDrafts, Trial, check_verdict
from foreseer.types import Evidence, History, Late, Live, Plan, Run, Site, Step, Verdict, Weights
from foreseer.vote import Electorate

__all__ = ["Tenure"]

PAUSE = 4
"""Steps in which a stream may be absent without beginning anew, where its policy does not say how far back
its forecasts reach.
"""


class Tenure:
    """A policy in office, from one step of a run on. Every question to it goes through here, and so does all
    that is recorded for it.

    Args:
        spec: The policy. Its plugins are built here and thrown away when it begins anew, so nothing can be
            stale.
        run: The whole run.
        backbone: The host.
        recorder: Whom to tell.
        electorate: Who decides together.
        storage: Where and how features are kept; None keeps them as they are computed.
        allowance: What may be held, with others; None for what ``storage`` allows.

    Attributes:
        run: The part of the run that the policy sees: from where it began. Its steps count from there.
        sites: The sites that are recorded: what the policy needs, and what observers want to see.
        sightings: What was last seen at the places that its gate compares with.
        backbone: The host that the session's own driver asks.
        next: Index of the step that is under way or, between steps, of the next one; counted in the whole
            run.
        given_up: Why nothing is forecast any more; empty while the policy decides.
    """

    def __init__(
        self,
        spec: PolicySpec,
        run: Run,
        backbone: Backbone,
        recorder: Recorder,
        electorate: Electorate,
        *,
        storage: Storage | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        self._spec, self._recorder, self._storage = spec, recorder, storage
        self._allowance = allowance or Allowance(None if storage is None else storage.max_bytes)
        self._electorate, self.backbone, self.next = electorate, backbone, 0
        self.given_up = ""
        self._begin(run)

    def _begin(self, run: Run) -> None:
        self.run = run
        self._policy = Policy(str(self._spec), self._spec(), tolerant=self._electorate.wary)
        needs = self._policy.setup(run)
        self._bank = FeatureBank(features_to_keep(needs, run), run.rows, self._storage, allowance=self._allowance)
        self.sightings, self._products = Sightings(needs.evidence, run.rows), needs.products
        self._told: Mapping[Site, NDArray[np.float64]] = {}
        self._reach = self._policy.reach
        self._check_plan = PlanCheck(run, self._bank.sites, self.sightings.sites)
        self.sites = self._bank.sites | self._recorder.wanted(run)
        for note in needs.notes:
            self._recorder.warn(note)

    @property
    def forecasts(self) -> frozenset[Site]:
        """The sites of which the policy keeps features."""
        return self._bank.sites

    @property
    def seconds(self) -> float:
        """What the policy took for itself since it began."""
        return self._policy.seconds

    def begin_anew(self, why: str, *, backbone: Backbone | None = None) -> None:
        """Let go of what was recorded; a new instance of the policy decides from this step on, and warms up
        as at the start of a run.

        Args:
            why: For the report; empty where there is nothing to say.
            backbone: The host from now on; None for the same.

        Raises:
            ForeseerError: As the session itself, where no step was finished yet.
        """
        self.end()
        recorder = self._recorder
        run = recorder.run
        if backbone is not None:
            self.backbone = backbone
            run = attrs.evolve(run, depth=backbone.depth, sites=backbone.sites, places=places_of(backbone))
        if not recorder.begun:
            recorder.run = run
        try:
            self._begin(run.starting_at(self.next))
        except Exception as error:
            if not recorder.begun:
                raise
            self.give_up(f"{why}, and the policy cannot begin anew ({type(error).__name__}: {error})")
        if why and not self.given_up:
            recorder.warn(f"step {self.next}: {why}; the policy began anew")

    def give_up(self, why: str) -> None:
        """Compute every step from now on, and record nothing."""
        self.end()
        self._bank, self.sites, self.sightings, self._products = FeatureBank({}, self.run.rows), frozenset(), Sightings((), self.run.rows), False
        self.given_up = f"{why}: the rest of the run is computed"

    def enter(self, step: Step) -> None:
        """Begin with the first step of which something is kept, and anew after an absence longer than
        forecasts reach.
        """
        absent, self.next = step.index - self.next, step.index
        if self._bank.filled:
            if absent > (PAUSE if self._reach is None else self._reach):
                self.begin_anew(f"the stream was not called in the {absent} steps before")
        elif self._bank.sites and self.run.start - self._recorder.run.start < step.index:  # what came before, if anything, left nothing behind
            self.begin_anew("")

    def own(self, step: Step) -> Step:
        """Return a step of the whole run as the policy counts it."""
        before = self._recorder.run.start - self.run.start
        return Step(step.index + before, step.timestep, step.sigma) if before else step

    def before_step(self, step: Step) -> Plan | None:
        """Ask for a plan."""
        plan: Plan | None = self._policy.decide("before_step", self._check_plan, step=step)
        return plan

    def propose(self, step: Step, plan: Plan | None) -> Trial | Declined:
        """Return what a plan comes to: a trial of forecasts, or why every row is computed."""
        bank, policy, share_fate = self._bank, self._policy, self._electorate.share_fate
        unable = share_fate(bank.out_of_reach(step.index, self._reach))
        forced = share_fate(plan.compute) if plan is not None and True in plan.compute else [False] * self.run.rows
        condemned = [a or b for a, b in zip(unable, forced, strict=True)] if True in forced else unable
        made: LazyDrafts | None = None
        if plan is not None and plan.forecast and not all(condemned):
            sites, history = plan.forecast, History(bank.anchors, bank.features)
            answer = functools.partial(LazyDrafts, bank, sites, step=step, form=self._form)
            made = policy.decide("predict_features", answer, step=step, sites=sites, history=history)
        if not self._electorate.alone and not all(unable) and self._electorate.stopped(bool(policy.fault), bank.device):
            return Declined(Kind.OVERRULED, "computed as in the process whose policy failed")
        if plan is None or not plan.forecast:
            return Declined(Kind.COMPUTED, (plan and plan.reason) or "computed", plan or Plan())
        if all(condemned):
            return Declined(*((Kind.FORCED, plan.reason or "every row was asked for") if all(forced) else (Kind.UNABLE, plan.reason or "nothing recorded yet")))
        if made is None:
            return Declined(Kind.UNABLE, "no forecast: the predictor is not able yet")
        drafts = made

        def verify(evidence: Evidence) -> Verdict | None:
            shown = drafts.evidence = self.sightings.show(evidence)
            verdict: Verdict | None = policy.decide("verify", lambda v: check_verdict(v, self.run.rows), step=step, evidence=shown)
            return verdict

        return Trial(plan, condemned, self._electorate, drafts, verify)

    def _form(self, late: Late, live: Live) -> Weights | Tensor | None:
        """Form a late draft; None where that fails and is excused. Where processes vote it is not: they would
        have to be told.
        """
        try:
            return late.form(live)
        except Exception as error:
            error.add_note(f"in a late draft of policy {self._spec} at step {live.step.index}")
            if not (self._electorate.wary and self._electorate.alone):
                raise
            self._policy.fault = f"a late draft raised {in_words(error)}"
            return None

    def excused(self, step: Step, done: Done) -> Done:
        """Note what the policy did wrong in a step of the whole run that was computed for it."""
        if not self._policy.fault:
            return done
        reason = f"computed: {self._policy.fault}"
        self._note(step, "; the step was computed instead")
        return done._replace(kind=Kind.FAILED, reason=reason, plan=Plan(), trial=None)

    def _note(self, step: Step, consequence: str = "") -> None:
        fault, self._policy.fault = self._policy.fault, ""
        if fault:
            self._recorder.warn(f"step {step.index}: {fault}{consequence}")

    def keep(self, step: Step, done: Done) -> None:
        """Record what was computed in a step."""
        rows = done.rows
        if self.sightings.sites:
            self._allowance.held -= self.sightings.held
            self.sightings.commit(done.computed)
            self._allowance.held += self.sightings.held
        if rows and self._bank.sites and not done.features:
            self._recorder.warn(f"step {step.index} was computed with nothing recorded: the model called none of its blocks in it")
        elif rows:
            try:
                self._bank.commit(step.index, None if len(rows) == self.run.rows else rows, done.features)
            except OverBudgetError as error:
                if not self._policy.gives_way:
                    raise
                self.give_up(f"memory: {error}")
            self._told = self._bank.products(self._electorate.add) if self._products and self._bank.filled else {}
        if rows or self.sightings.sites:
            self._recorder.held(self._bank.bytes_held() | self.sightings.bytes_held())

    def commit(self, step: Step, outcome: Outcome) -> None:
        """Tell the policy how a step ended: as it counts it, and as the whole run does."""
        self._policy.ask("commit", step=step, outcome=outcome.told_to_policy(step, self._told))
        self._note(outcome.step)
        self.next = outcome.step.index + 1

    def end(self) -> None:
        """Let go of the features."""
        self._bank.clear()
        self._allowance.held -= self.sightings.held
        self.sightings.clear()
