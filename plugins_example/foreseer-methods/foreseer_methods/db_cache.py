"""DBCache (cache-dit): reuse what the blocks in the middle have added, as long as what the first ones add
stands still; the first and the last blocks run in every step.

Published as code and a technical report by cache-dit (1.5.3, Apache-2.0). With F blocks in front and B behind
the middle, the feature is the residual of blocks F to L-B-1, the evidence that of blocks 0 to F-1, against
the one of the last computed step. Around this test stand a warm-up, a step mask and four guards; the order in
which they answer is cache-dit's, and so is what a threshold of 1 and more means: reuse without looking.

Every counter is the row's own, as its decisions are; rows of a sample have the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import attrs
import torch

from foreseer import Evidence, Needs, OptionError, Outcome, Plan, Probe, Run, Site, Step, Verdict, hookimpl
from foreseer.metrics import relative_l1
from foreseer.options import at_least, at_least_float, checked, cites
from foreseer.policies import PredictorLike, predictor_from, taylor
from foreseer_methods.step_masks import MASKS, read_mask, step_mask

__all__ = ["DualBlockGate", "db_cache"]


@attrs.define(eq=False)
class _Row:
    """What is counted for a row: cached steps so far and in a row, and the sum of the differences measured."""

    cached: int = 0
    streak: int = 0
    differences: float = 0.0


@attrs.define(eq=False, kw_only=True)
class DualBlockGate:
    """Gate: run the first ``fn`` blocks, judge by what they add, forecast the middle, run the last ``bn``.

    Attributes are the options of `db_cache`.
    """

    fn: int
    bn: int
    threshold: float
    warmup_steps: int
    warmup_interval: int
    max_cached_steps: int
    max_continuous: int
    max_difference_sum: float | None
    mask: str | tuple[int, ...] | None
    mask_policy: Literal["dynamic", "static"]
    decide: Literal["row", "batch"]
    forecasts: Literal["residual", "stream"]
    _groups: tuple[int, ...] = attrs.field(default=(), init=False, repr=False)
    _sites: tuple[Site, ...] = attrs.field(default=(), init=False, repr=False)
    _steps: tuple[int, ...] = attrs.field(default=(), init=False, repr=False)
    _warmup: range = attrs.field(default=range(0), init=False, repr=False)
    _rows: list[_Row] = attrs.field(factory=list, init=False, repr=False)
    _due: tuple[bool, ...] = attrs.field(default=(), init=False, repr=False)

    @property
    def max_draft_steps(self) -> int | None:
        """As ``max_continuous``; None for no limit, and where the mask alone decides."""
        return None if self.max_continuous < 0 or (self.mask is not None and self.mask_policy == "static") else self.max_continuous

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record what the blocks in the middle add; write the mask out for so many steps."""
        last = run.depth - 1 - self.bn
        if last < self.fn:
            raise OptionError(f"db_cache: fn={self.fn} and bn={self.bn} leave none of {run.depth} blocks to forecast; write fn + bn <= {run.depth - 1}")
        self._groups = run.groups if self.decide == "row" else (0,) * run.rows
        self._sites = (Site(last, since=self.fn - 1) if self.forecasts == "residual" else Site(last),)
        self._steps = () if self.mask is None else self._mask_of(run)
        leading = next((step for step, computed in enumerate(self._steps) if not computed), len(self._steps))
        self._warmup = range(0, min(self.warmup_steps, leading) if self._steps else self.warmup_steps, self.warmup_interval)
        self._rows = [_Row() for _ in range(run.rows)]
        return Needs(sites=self._sites, evidence=(self._front,))

    @property
    def _front(self) -> Site:
        return Site(self.fn - 1, since=-1)

    def _mask_of(self, run: Run) -> tuple[int, ...]:
        """The mask of a whole sampling, from where this run begins."""
        if run.num_steps is None:
            raise OptionError("db_cache: a mask says which steps are computed, and must know how many there are: give the run timesteps= or num_steps=")
        steps = run.start + run.num_steps
        mask = step_mask(self.mask, steps) if isinstance(self.mask, str) else self.mask or ()
        if len(mask) != steps:
            raise OptionError(f"db_cache: the mask has {len(mask)} entries and the run {steps} steps; write one for each step, or one of {', '.join(MASKS)}")
        return mask[run.start :]

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Warm-up, mask, guards, in cache-dit's order; what none of them settles is probed."""
        self._due = (False,) * len(self._rows)
        masked = self._steps[step.index] if step.index < len(self._steps) else None
        if step.index == 0 or step.index in self._warmup or masked == 1:
            return Plan(reason="the mask says so" if masked else "warm-up")
        if masked == 0 and self.mask_policy == "static":
            return Plan(forecast=self._sites, reason="the mask says so")
        self._due = tuple(self.threshold <= 0 or self._exhausted(row) for row in self._rows)
        if all(self._due):
            return Plan(reason="a limit is reached")
        return Plan(forecast=self._sites, probe=Probe(self._front) if self.threshold < 1 else None, compute=self._due)

    def _exhausted(self, row: _Row) -> bool:
        if 0 <= self.max_cached_steps <= row.cached or 0 <= self.max_continuous <= row.streak:
            return True
        return self.max_difference_sum is not None and row.differences >= self.max_difference_sum

    @hookimpl
    def verify(self, evidence: Evidence) -> Verdict:
        """sum|r_c - r_k| / sum|r_c| over the rows that decide together; r_c of the last computed step."""
        error = evidence.error(relative_l1, groups=self._groups, against="anchor")
        return Verdict(error, torch.lt(error, self.threshold), self.threshold)

    @hookimpl
    def commit(self, outcome: Outcome) -> None:
        """Count. A row that a guard had computed was not asked, whatever was measured beside it."""
        for row, computed, error, due in zip(self._rows, outcome.computed, outcome.error, self._due or (False,) * len(self._rows), strict=True):
            row.cached, row.streak = (row.cached, 0) if computed else (row.cached + 1, row.streak + 1)
            row.differences += error if math.isfinite(error) and not due else 0.0


@cites(
    """@misc{cache-dit@2025,
  title={Cache-DiT: A PyTorch-native Inference Engine with Cache, Parallelism, Quantization and CPU Offload for DiTs},
  author={DefTruth and vipshop.com and others}, year={2025}, url={https://github.com/vipshop/cache-dit.git}}"""
)
@checked
def db_cache(
    *,
    fn: Annotated[int, at_least(1)] = 8,
    bn: Annotated[int, at_least(0)] = 0,
    threshold: Annotated[float, at_least_float(0.0)] = 0.08,
    warmup_steps: Annotated[int, at_least(0)] = 8,
    warmup_interval: Annotated[int, at_least(1)] = 1,
    max_cached_steps: Annotated[int, at_least(-1)] = -1,
    max_continuous: Annotated[int, at_least(-1)] = -1,
    max_difference_sum: Annotated[float | None, at_least_float(0.0)] = None,
    mask: str | int | Sequence[int] | None = None,
    mask_policy: Literal["dynamic", "static"] = "dynamic",
    decide: Literal["row", "batch"] = "row",
    max_order: Annotated[int, at_least(0)] = 0,
    forecasts: Literal["residual", "stream"] = "residual",
    predictor: PredictorLike = taylor,
) -> tuple[DualBlockGate, object]:
    """Reuse what the blocks in the middle add, judged by what the first ``fn`` add (DBCache, cache-dit).

    Defaults are those of cache-dit 1.5.3, except ``decide``. ``fn=1, bn=0, warmup_steps=0`` is
    `foreseer_methods.first_block_cache`. The first answer wins: warm-up, mask, the three limits,
    ``threshold``. The last step is not forced.

    Args:
        fn: Blocks in front that run in every step and judge it ("Fn_compute_blocks").
        bn: Blocks behind the middle that run in every step ("Bn_compute_blocks").
        threshold: Reuse where sum|r_c - r_k| / sum|r_c| is below this; r is what the first blocks add, c the
            row's last computed step. No unit. 0 computes everything; 1 and more reuse without looking.
        warmup_steps: Computed steps at the start; no more than the ones that a mask begins with.
        warmup_interval: In the warm-up, compute every n-th step; the gate has the others.
        max_cached_steps: Most cached steps of a row in the run; -1 for no limit.
        max_continuous: Most cached steps of a row on end; -1 for no limit.
        max_difference_sum: Cache nothing more once the differences measured so far sum up to this; None for
            no limit ("max_accumulated_residual_diff_threshold"). The sum is never taken back.
        mask: Which steps to compute: 0 and 1 for each step of the whole run, as text or a list; or a name,
            ``"slow"``, ``"medium"``, ``"fast"``, ``"ultra"``: see `foreseer_methods.step_masks`. None for no
            mask. The run must know its number of steps.
        mask_policy: What a 0 means: ``"dynamic"``, that the gate decides; ``"static"``, cached without
            looking.
        decide: ``"row"``: each sample decides for itself. ``"batch"``: one decision over the whole batch, as
            released.
        max_order: Order of the forecast: 0 reuses; 1 is cache-dit's TaylorSeer calibrator as it ships. As
            there, steps before the last one of the warm-up count for nothing, so that the first stretch
            behind it is reused.
        forecasts: ``"residual"``: what the middle adds; or the ``"stream"`` behind it, which loses the live
            input ("calibrator_cache_type").
        predictor: Another predictor ("calibrator"), by name or factory.

    Raises:
        OptionError: A mask is none. At setup: it has another length than the run, the run's length is not
            known, or no block is left to forecast.
    """
    written = mask if mask is None or (isinstance(mask, str) and mask in MASKS) else read_mask(mask)
    gate = DualBlockGate(
        fn=fn,
        bn=bn,
        threshold=threshold,
        warmup_steps=warmup_steps,
        warmup_interval=warmup_interval,
        max_cached_steps=max_cached_steps,
        max_continuous=max_continuous,
        max_difference_sum=max_difference_sum,
        mask=written,
        mask_policy=mask_policy,
        decide=decide,
        forecasts=forecasts,
    )
    return gate, predictor_from(predictor, max_order=max_order, warmup_steps=warmup_steps + 1)  # it looks back to the last step of the warm-up
