"""SpeCa (arXiv 2509.11628): draft by TaylorSeer, verify at a deep block, compute where the draft was wrong.

This is the paper's method: a rejected step is itself computed. `speca_released` is what the released code
does.
"""

from __future__ import annotations

from typing import Annotated, Literal

import attrs
import torch

from foreseer.errors import OptionError
from foreseer.hookspecs import hookimpl
from foreseer.metrics import metric as metric_named
from foreseer.options import Range, at_least, at_least_float, checked, cites
from foreseer.outcome import Outcome
from foreseer.policies._taylor import taylor
from foreseer.policies.drafting import DraftCounter, draft_needs
from foreseer.policies.predictors import PredictorLike, predictor_from
from foreseer.transfer import on_device
from foreseer.types import Evidence, Needs, Plan, Probe, Run, Step, Verdict

__all__ = ["CITATION", "DraftGate", "MetricName", "speca", "threshold_at"]

MetricName = Literal["relative_l2", "relative_l1", "elementwise_l1", "elementwise_l2", "cosine"]

CITATION = """@inproceedings{liu2025speca,
  title={SpeCa: Accelerating Diffusion Transformers with Speculative Feature Caching}, author={Liu, Jiacheng and Zou,
  Chang and Lyu, Yuanhuiyi and Ren, Fei and Wang, Shaobo and Li, Kaixin and Zhang, Linfeng},
  booktitle={ACM Multimedia}, year={2025}, note={arXiv:2509.11628}}"""


def threshold_at(progress: float, *, threshold: float, decay: float, floor: float) -> float:
    """SpeCa's threshold, tau_0 * beta^p, never below the floor; p runs from 0 to 1 over the run."""
    return max(float(threshold * decay**progress), floor)


@attrs.define(eq=False, kw_only=True)
class DraftGate:
    """Gate: draft every step, compute one deep block on its draft input, and accept where the draft of its
    output was within the threshold.

    Attributes: as the options of `speca`, and ``verified``: whether no forecast is used unseen, or in spite
    of what was seen.
    """

    threshold: float
    decay: float
    floor: float
    warmup_steps: int
    min_draft_steps: int
    max_draft_steps: int | None
    metric: MetricName
    decide: Literal["row", "batch"]
    on_reject: Literal["recompute", "next_step"]
    verify_block: int
    target: Literal["modules", "last_block", "residual", "residual_after_first"]
    _run: Run | None = attrs.field(default=None, init=False, repr=False)
    _needs: Needs = attrs.field(factory=Needs, init=False, repr=False)
    _drafted: DraftCounter = attrs.field(factory=lambda: DraftCounter(0), init=False, repr=False)
    _groups: tuple[int, ...] = attrs.field(default=(), init=False, repr=False)
    _due: tuple[bool, ...] = attrs.field(default=(), init=False, repr=False)
    _probe: Probe | None = attrs.field(default=None, init=False, repr=False)

    @property
    def verified(self) -> bool:
        """From the first draft on, and acted upon in the same step."""
        return self.min_draft_steps == 0 and self.on_reject == "recompute"

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record what will be drafted."""
        if run.num_steps is None and self.decay != 1.0:
            raise OptionError("speca's threshold decays over the run: give the run timesteps= or num_steps=, or write threshold_decay=1")
        if not -run.depth <= self.verify_block < run.depth:
            raise OptionError(f"speca: verify_block={self.verify_block} is out of range; this model has blocks {-run.depth} to {run.depth - 1}")
        self._run, self._drafted = run, DraftCounter(run.rows)
        self._groups = run.groups if self.decide == "row" else (0,) * run.rows
        self._due = (False,) * run.rows
        self._probe = Probe(self.verify_block % run.depth, on="draft")
        self._needs = draft_needs(run, self.target, verify_block=self.verify_block % run.depth)
        return self._needs

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Draft, and verify as soon as one row has been drafted often enough."""
        if step.index < self.warmup_steps:
            return Plan(reason="warm-up")
        compute = self._due
        if self.max_draft_steps is not None:
            compute = tuple(a or b for a, b in zip(compute, self._drafted.exhausted(self.max_draft_steps, step), strict=True))
        if all(compute):
            return Plan(reason="next step after a rejection" if any(self._due) else f"{self.max_draft_steps} drafts in a row")
        verified = any(self._drafted.exhausted(self.min_draft_steps, step))
        probe = self._probe if verified else None
        return Plan(forecast=self._needs.sites, probe=probe, compute=compute, reason="" if verified else "not verified yet")

    @hookimpl
    def verify(self, step: Step, evidence: Evidence) -> Verdict:
        """Accept where error <= threshold; rows that were drafted too seldom to be verified are accepted."""
        run = self._run
        progress = (run.start + step.index) / (run.start + run.num_steps) if run is not None and run.num_steps else 0.0
        threshold = threshold_at(progress, threshold=self.threshold, decay=self.decay, floor=self.floor)
        error = evidence.error(metric_named(self.metric), groups=self._groups)
        if self.on_reject == "next_step":
            return Verdict(error, torch.ones_like(error, dtype=torch.bool), threshold)
        accept = torch.le(error, threshold)
        early = [not seen for seen in self._drafted.exhausted(self.min_draft_steps, step)]
        if any(early):
            accept = accept | on_device(early, accept.device)
        return Verdict(error, accept, threshold)

    @hookimpl
    def commit(self, outcome: Outcome) -> None:
        """Count, and remember who is due where a rejection computes the next step."""
        seen = self._drafted.exhausted(self.min_draft_steps, outcome.step)
        if self.on_reject == "next_step":
            self._due = tuple(
                not computed and judged and error > outcome.threshold for computed, judged, error in zip(outcome.computed, seen, outcome.error, strict=True)
            )
        self._drafted.commit(outcome)


@cites(CITATION)
@checked
def speca(
    *,
    threshold: Annotated[float, at_least_float(0.0)] = 0.1,
    threshold_decay: Annotated[float, Range(float, 0.0, 1.0, open_low=True)] = 0.01,
    threshold_floor: Annotated[float, at_least_float(0.0)] = 0.0,
    max_order: Annotated[int, at_least(0)] = 4,
    warmup_steps: Annotated[int, at_least(1)] = 3,
    min_draft_steps: Annotated[int, at_least(0)] = 0,
    max_draft_steps: Annotated[int | None, at_least(1)] = 5,
    metric: MetricName = "relative_l2",
    decide: Literal["row", "batch"] = "row",
    on_reject: Literal["recompute", "next_step"] = "recompute",
    verify_block: int = -1,
    target: Literal["modules", "last_block", "residual", "residual_after_first"] = "modules",
    predictor: PredictorLike = taylor,
) -> tuple[DraftGate, object]:
    """Draft by Taylor sums, verify at a deep block, compute what was wrong (SpeCa, arXiv 2509.11628).

    The paper's method, decided sample by sample. The paper prints no thresholds; the numbers here are those
    of the released DiT script, and they were chosen for its metric, so tune them. A rejected step costs the
    verification on top of a full step.

    Where paper and code disagree, each is an option: what a rejection computes (``on_reject``), the error
    (``metric``), the floor (paper: none; code: 0.01), and drafts that are not verified (paper: none; code:
    2). The progress in the threshold is k/T.

    Args:
        threshold: tau_0; a draft is accepted where error <= tau_0 * beta^(k/T). 0 computes everything.
        threshold_decay: beta; 1 keeps the threshold constant.
        threshold_floor: The threshold never falls below this.
        max_order: Highest order of difference, O.
        warmup_steps: Computed steps at the start, W.
        min_draft_steps: Drafts in a row that are accepted unseen.
        max_draft_steps: Drafts in a row after which a row is computed; None: no limit, as in the paper.
        metric: ``"relative_l2"``: ||d|| / ||h|| (paper). ``"elementwise_l1"``: mean(|d| / |h|) (code).
        decide: ``"row"``: each sample by its own error. ``"batch"``: all rows by one error, as released.
        on_reject: ``"recompute"``: the rejected step is computed (paper). ``"next_step"``: it is kept and the
            next one is computed (code).
        verify_block: The block that is computed, counting from the end if negative. Default: the last (layer
            27 of 28 in the paper).
        target: ``"modules"``: every module's raw output, as published. ``"last_block"``: the blocks around
            ``verify_block`` and the last one; ``"residual"``, ``"residual_after_first"``: what was added up to
            there, as in `taylorseer`.
        predictor: Another predictor, by name or factory.
    """
    gate = DraftGate(
        threshold=threshold,
        decay=threshold_decay,
        floor=threshold_floor,
        warmup_steps=warmup_steps,
        min_draft_steps=min_draft_steps,
        max_draft_steps=max_draft_steps,
        metric=metric,
        decide=decide,
        on_reject=on_reject,
        verify_block=verify_block,
        target=target,
    )
    return gate, predictor_from(predictor, max_order=max_order, warmup_steps=warmup_steps)
