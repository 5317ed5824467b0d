"""SpeCa as its released DiT code runs, quirk by quirk, to compare with published samples; see also `speca`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import attrs
import torch

from foreseer.errors import OptionError
from foreseer.hookspecs import hookimpl
from foreseer.metrics import metric as metric_named
from foreseer.options import Range, at_least, at_least_float, checked, cites
from foreseer.outcome import Outcome
from foreseer.policies._speca import CITATION, threshold_at
from foreseer.policies._taylor import taylor
from foreseer.policies.drafting import draft_needs
from foreseer.policies.predictors import PredictorLike, predictor_from
from foreseer.types import Evidence, Needs, Plan, Probe, Run, Step, Verdict

__all__ = ["LaggedGate", "speca_released"]


@attrs.define(eq=False, kw_only=True)
class LaggedGate:
    """Gate: an error above the threshold makes the *next* step full. One decision for the whole batch.

    Attributes: as the options of `speca_released`, and
        decide: All rows share one verdict, as released.
    """

    decide: ClassVar[Literal["batch"]] = "batch"
    threshold: float
    decay: float
    floor: float
    warmup_steps: int
    min_draft_steps: int
    max_draft_steps: int
    metric: Literal["elementwise_l1", "elementwise_l2"]
    _run: Run | None = attrs.field(default=None, init=False, repr=False)
    _needs: Needs = attrs.field(factory=Needs, init=False, repr=False)
    _last_full: bool = attrs.field(default=False, init=False, repr=False)
    _drafted: int = attrs.field(default=0, init=False, repr=False)
    _error: float | None = attrs.field(default=None, init=False, repr=False)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record every module part."""
        if run.num_steps is None:
            raise OptionError("speca_released's threshold decays over the run: give the run timesteps= or num_steps=")
        self._run = run
        self._needs = draft_needs(run, "modules", verify_block=run.depth - 1)
        return self._needs

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """The released schedule, branch by branch."""
        if self._last_full:  # comes before the warm-up test: with W = 3, step 1 is a forecast
            return Plan(forecast=self._needs.sites, reason="the step after a full one")
        verified = self._drafted >= self.min_draft_steps
        limit = self._threshold(step)
        if step.index < self.warmup_steps:
            return Plan(reason="warm-up")
        if self._drafted >= self.max_draft_steps:
            return Plan(reason=f"{self.max_draft_steps} drafts in a row")
        if verified and self._error is not None and self._error > limit:
            return Plan(reason=f"error {self._error:.3g} of the step before, threshold {limit:.3g}")
        if not verified:
            return Plan(forecast=self._needs.sites, reason="not verified yet")
        assert self._run is not None
        return Plan(forecast=self._needs.sites, probe=Probe(self._run.depth - 1, on="draft"))

    @hookimpl
    def verify(self, step: Step, evidence: Evidence) -> Verdict:
        """Measure, and use the forecast whatever the error; the session still rejects one that is not finite."""
        error = evidence.error(metric_named(self.metric), groups=(0,) * len(evidence.computed))
        return Verdict(error, torch.ones_like(error, dtype=torch.bool), self._threshold(step))

    @hookimpl
    def commit(self, outcome: Outcome) -> None:
        """Remember what the next step's schedule looks at."""
        if outcome.full:
            self._drafted = 0
            self._error = None  # the code clears it at the first forecast, which always follows
        else:
            self._drafted += 1
            if outcome.accept is not None:
                self._error = outcome.error[0]
        self._last_full = outcome.full

    def _threshold(self, step: Step) -> float:
        assert self._run is not None
        assert self._run.num_steps is not None
        progress = (self._run.start + step.index + 1) / (self._run.start + self._run.num_steps)
        return threshold_at(progress, threshold=self.threshold, decay=self.decay, floor=self.floor)


@cites(CITATION)
@checked
def speca_released(
    *,
    threshold: Annotated[float, at_least_float(0.0)] = 0.1,
    threshold_decay: Annotated[float, Range(float, 0.0, 1.0, open_low=True)] = 0.01,
    threshold_floor: Annotated[float, at_least_float(0.0)] = 0.01,
    max_order: Annotated[int, at_least(0)] = 4,
    warmup_steps: Annotated[int, at_least(1)] = 3,
    min_draft_steps: Annotated[int, at_least(0)] = 2,
    max_draft_steps: Annotated[int, at_least(1)] = 5,
    metric: Literal["elementwise_l1", "elementwise_l2"] = "elementwise_l1",
    predictor: PredictorLike = taylor,
) -> tuple[LaggedGate, object]:
    """SpeCa as the released DiT code runs: an error above the threshold computes the next step, not this one.

    Defaults are those of the released ``sample.py`` for DiT-XL/2 (``sample_ddp.py``: 0.3, 0.05, floor 0.01,
    drafts 3 to 8). Its quirks, all kept:

    - A rejected forecast is used all the same; the step after it is full. Nothing of the verification is
      reused.
    - The step after a full one is always a forecast, even in warm-up: with ``warmup_steps=3`` steps 0 and 2
      are full and step 1 is reuse.
    - The error is a mean of element-wise ratios over the whole batch, so that activations near zero dominate
      it.
    - The first draft after a full step is never verified; verification starts with the draft that has
      ``min_draft_steps`` before it, so that the earliest error that can trigger comes from draft
      ``min_draft_steps + 1``.
    - The progress in the threshold is (k+1)/T.
    - The compared tensor is the residual stream behind the last block.
    - The last step is not forced.

    One thing differs: an error that is not finite rejects the step, where the code would go on with it.

    Args:
        threshold: tau_0; the step after a draft is full if its error > max(tau_0 * beta^((k+1)/T), floor).
        threshold_decay: beta.
        threshold_floor: The threshold never falls below this.
        max_order: Highest order of difference, O.
        warmup_steps: Steps at the start that are full unless they follow a full one, W.
        min_draft_steps: Drafts in a row before one is verified.
        max_draft_steps: Drafts in a row after which a step is full.
        metric: ``"elementwise_l1"``: mean(|d| / |h|) (default of the code). ``"elementwise_l2"``:
            sqrt(mean((d / h)^2)).
        predictor: Another predictor, by name or factory.
    """
    gate = LaggedGate(
        threshold=threshold,
        decay=threshold_decay,
        floor=threshold_floor,
        warmup_steps=warmup_steps,
        min_draft_steps=min_draft_steps,
        max_draft_steps=max_draft_steps,
        metric=metric,
    )
    return gate, predictor_from(predictor, max_order=max_order, warmup_steps=warmup_steps)
