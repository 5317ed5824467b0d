"""A gate for foreseer: compute the first block, and use the last one's forecast where the first one's was right."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from foreseer import Evidence, Needs, Outcome, Plan, Probe, Run, Site, Step, Verdict, hookimpl
from foreseer.metrics import relative_l1
from foreseer.options import at_least, at_least_float, checked
from foreseer.policies import DraftCounter, PredictorLike, predictor_from, taylor

__all__ = ["KeptGate", "kept_gate"]


@dataclass(eq=False)  # plugins are compared by identity
class KeptGate:
    """Gate: accept a forecast where the first block's was within ``threshold``. Options as in its factory."""

    threshold: float
    warmup_steps: int
    max_draft_steps: int
    _drafted: DraftCounter = field(default_factory=lambda: DraftCounter(0), init=False, repr=False)
    _groups: tuple[int, ...] = field(default=(), init=False, repr=False)
    _sites: tuple[Site, ...] = field(default=(), init=False, repr=False)

    # What this gate promises; foreseer's conformance kit holds it to that.
    verified: ClassVar[bool] = True  # no forecast is used unseen
    decide: ClassVar[str] = "row"  # every sample by its own error

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record what is compared and what is used."""
        self._drafted, self._groups = DraftCounter(run.rows), run.groups
        # CHANGE: which block is computed to judge the draft (also in the Probe below), and what is forecast.
        self._sites = tuple(dict.fromkeys((Site(0), Site(run.depth - 1))))
        return Needs(sites=self._sites)

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """CHANGE: which steps are computed whatever the error. No tensors here: the device must not be waited for."""
        if step.index < self.warmup_steps:
            return Plan(reason="warm-up")
        due = self._drafted.exhausted(self.max_draft_steps)
        return Plan(forecast=self._sites, probe=Probe(0, on="input"), compute=due, reason="drafted for long enough")

    @hookimpl
    def verify(self, evidence: Evidence) -> Verdict:
        """CHANGE: the metric (see `foreseer.metrics`), or a threshold that moves over the run."""
        error = evidence.error(relative_l1, groups=self._groups)
        return Verdict(error, error < self.threshold, self.threshold)

    @hookimpl
    def commit(self, outcome: Outcome) -> None:
        """Count what really happened, which is not always what was planned."""
        self._drafted.commit(outcome)


@checked
def kept_gate(
    *,
    threshold: Annotated[float, at_least_float(0.0)] = 0.05,
    max_order: Annotated[int, at_least(0)] = 1,
    warmup_steps: Annotated[int, at_least(1)] = 2,
    max_draft_steps: Annotated[int, at_least(1)] = 5,
    predictor: PredictorLike = taylor,
) -> tuple[KeptGate, object]:
    """Forecast the last block where the forecast of the first was right.

    The first line is what ``foreseer policies`` prints; the rest is for ``foreseer show``.

    Args:
        threshold: Accept where sum|forecast - h| / sum|h| at block 0 is below this. 0 computes everything.
        max_order: Highest order of the forecast.
        warmup_steps: Computed steps at the start.
        max_draft_steps: Drafts in a row after which a row is computed.
        predictor: Another predictor, by name or factory.
    """
    gate = KeptGate(threshold, warmup_steps, max_draft_steps)
    return gate, predictor_from(predictor, max_order=max_order)
