"""The step engine: one state machine for every policy.

    plan -> draft -> probe -> verdict -> compute the rest -> commit

`Session.step` is one call of the denoiser, and does no work itself. It is a generator: it yields an `Ask` for
each pass to a host, is sent the `Pass` that came of it, and returns the output. Its driver decides where passes
run, and may run those of several sessions together. Rows are `trial.py`'s, what a policy is asked `tenure.py`'s.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any, Literal

from foreseer.backbone import Ask, Backbone, Pass, carry_out
from foreseer.following import Follower
from foreseer.observing import Recorder
from foreseer.outcome import Kind, Outcome
from foreseer.registry import PolicySpec
from foreseer.report import Report
from foreseer.storage import Allowance, Storage
from foreseer.tenure import Tenure
from foreseer.trial import Declined, Done
from foreseer.types import Plan, Run, Step
from foreseer.vote import Electorate, Vote

__all__ = ["Session"]


class Session:
    """One run of one policy over one stream of evaluations.

    Args:
        backbone: The host that `evaluate` asks.
        spec: The policy.
        run: The shape of the run.
        observers: Plugins that watch.
        on_error: ``"raise"`` lets a policy's exception through; ``"compute"`` computes that step and says so.
        storage: Where and how features are kept; None keeps them as they are computed.
        allowance: What may be held, with other sessions; None for what ``storage`` allows.
        leader: Another stream's session of the run, whose decisions this one repeats; None for its own.
        vote: How processes that share the rows' tokens decide alike; None where this one has them all.

    Attributes:
        latest: How the last step ended, or None. ``recorder`` is the account, ``tenure`` the policy at work.

    Raises:
        ForeseerError: The policy cannot be built, or was tuned on other runs; from `step`, too much is held.
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
        allowance: Allowance | None = None,
        leader: Session | None = None,
        vote: Vote | None = None,
    ) -> None:
        self._led = (lambda step: None) if leader is None else Follower(lambda: leader.latest).before_step
        self.latest: Outcome | None = None
        self.recorder = Recorder(str(spec), run, observers, promise=spec.promised(run.whole()))
        self.recorder.warn(spec.elsewhere(run.whole()))
        electorate = Electorate(run.groups, vote=vote, wary=on_error == "compute")
        self.tenure = Tenure(spec, run, backbone, self.recorder, electorate, storage=storage, allowance=allowance)

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

    def evaluate(self, inputs: Any, **at: Any) -> Any:
        """Drive one `step`, which takes ``at``, on the session's host; ``inputs`` are in the host's own form."""
        return carry_out(self.step(**at), self.tenure.backbone, inputs)

    def step(
        self, *, index: int | None = None, timestep: float | None = None, sigma: float | None = None, computed_because: str = ""
    ) -> Generator[Ask, Pass, Any]:
        """Evaluate the denoiser once, row by row computed or forecast. Returns its output, in the host's
        form.

        Args:
            index: Of the step, where the stream skipped some. None, or what is too small, takes the next.
            timestep: As given to the model; None takes the run's, if it has them.
            sigma: Noise level, likewise.
            computed_because: If not empty, compute every row without asking the policy, for this reason.
        """
        started, tenure, recorder = time.perf_counter(), self.tenure, self.recorder
        step = recorder.run.step(max(index or 0, tenure.next), timestep, sigma)
        tenure.enter(step)
        own, overruled = tenure.own(step), recorder.run.over(step) or computed_because or tenure.given_up
        recorder.warn(overruled)
        done = yield from (self._compute(Kind.OVERRULED, overruled) if overruled else self._attempt(step, own))
        done = tenure.excused(step, done)
        shadow, spent = (yield from recorder.shadow(step, done, tenure.sites)) if recorder.shadows else (None, 0.0)
        tenure.keep(own, done)
        self.latest = done.outcome(step, time.perf_counter() - started - spent)
        recorder.record(self.latest, done.features, shadow)
        tenure.commit(own, self.latest)
        return done.output

    def _attempt(self, step: Step, own: Step) -> Generator[Ask, Pass, Done]:
        """Carry out the policy's plan. ``step`` counts as the run does, ``own`` from where the policy began."""
        trial = self.tenure.propose(own, self._led(step) or self.tenure.before_step(own))
        if isinstance(trial, Declined):
            return (yield from self._compute(*trial))
        probe = trial.plan.probe
        on_input = probe is not None and probe.on == "input"
        judge, recorded = (trial.judge, self.tenure.sites | probe.resumed if on_input else ()) if probe else (None, ())
        first = yield from self._ask(substitute=trial.drafts, probe=probe, judge=judge, record=recorded)
        if probe is not None and trial.accept is None:  # the host never called the judge
            full = yield from self._compute(Kind.OVERRULED, "the host did not reach the probed block")
            return full._replace(block_rows=first.block_rows + full.block_rows)
        done = trial.done(first)
        if not any(done.computed):
            return done
        if on_input and trial.refused:  # the host computed all rows in that pass
            return done._replace(features={site: first.features[site] for site in self.tenure.sites & first.features.keys()})
        if all(done.computed):
            full = yield from self._compute(done.kind, done.reason)
            return done._replace(output=full.output, features=full.features, block_rows=done.block_rows + full.block_rows)
        kept, resume = done.behind_probe(first, self.tenure.sites)
        part = yield from self._ask(rows=done.rows, substitute=resume, record=self.tenure.sites - kept.keys(), into=first.output)
        return done._replace(output=part.output, features={**part.features, **kept}, block_rows=first.block_rows + part.block_rows)

    def _compute(self, kind: Kind, reason: str, plan: Plan | None = None) -> Generator[Ask, Pass, Done]:
        """Compute every row: the plain forward, nothing gathered."""
        full = yield from self._ask(record=self.tenure.sites)
        return Done(full.output, full.features, (True,) * self.run.rows, full.block_rows, kind, reason, plan or Plan())

    def _ask(self, **what: Any) -> Generator[Ask, Pass, Pass]:
        found = yield Ask(see=self.tenure.sightings.sites, **what)
        if found.seen:
            self.tenure.sightings.see(found.seen, what.get("rows"))
        self.recorder.check_block_rows += found.check_block_rows
        return found
