"""First Block Cache: reuse what the blocks behind the first have added, as long as what the first one adds
stands still.

Published as code only, by ParaAttention (January 2025), and part of diffusers. The feature is the residual of
blocks 1 to L-1, so that the live stream behind block 0 is kept; the evidence is the residual of block 0,
against that of the last computed step. Nothing is added up, and nothing is forced: no first step, no last, no
longest stretch.

Where sources disagree. ParaAttention computes where the two errors are equal and where one is NaN; diffusers
0.42 reuses there. Here both compute: an error that is no number says nothing.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import attrs
import torch

from foreseer import Evidence, Needs, Plan, Probe, Run, Site, Step, Verdict, hookimpl
from foreseer.metrics import Metric, relative_l1
from foreseer.options import at_least, at_least_float, checked, cites
from foreseer.policies import PredictorLike, predictor_from, taylor

__all__ = ["FirstBlockResidualGate", "first_block_cache"]

FRONT = Site(0, since=-1)
"""What block 0 adds."""


def _every(stride: int) -> Metric:
    """sum|d| / sum|h| over every ``stride``-th channel, the last axis."""
    return Metric("relative_l1", lambda h, f: relative_l1.parts(h[..., ::stride], f[..., ::stride]), relative_l1.finish)


@attrs.define(eq=False)
class FirstBlockResidualGate:
    """Gate: run block 0, and accept the forecast of what the other blocks add where what block 0 adds has
    moved by less than ``threshold`` since the row was last computed.

    Attributes:
        threshold: Accept where error < threshold.
        warmup_steps: Computed steps at the start.
        decide: ``"row"`` or ``"batch"``: see `first_block_cache`.
        channel_stride: Compare every n-th channel only.
        verified: Block 0 is probed in every forecast step.
    """

    verified: ClassVar[bool] = True
    threshold: float
    warmup_steps: int = 0
    decide: Literal["row", "batch"] = "row"
    channel_stride: int = 1
    _groups: tuple[int, ...] = attrs.field(default=(), init=False, repr=False)
    _sites: tuple[Site, ...] = attrs.field(default=(), init=False, repr=False)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record what the blocks behind the first add."""
        self._groups = run.groups if self.decide == "row" else (0,) * run.rows
        if run.depth < 2:
            return Needs(note="first_block_cache judges by the first block, and this model has no other: every step is computed")
        self._sites = (Site(run.depth - 1, since=0),)
        return Needs(sites=self._sites, evidence=(FRONT,))

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Probe block 0 in every step behind the warm-up."""
        if step.index < max(self.warmup_steps, 1):
            return Plan(reason="warm-up")
        return Plan(forecast=self._sites, probe=Probe(FRONT) if self._sites else None)

    @hookimpl
    def verify(self, evidence: Evidence) -> Verdict:
        """sum|r_c - r_k| / sum|r_c| over the rows that decide together; r_c of the last computed step."""
        error = evidence.error(_every(self.channel_stride), groups=self._groups, against="anchor")
        return Verdict(error, torch.lt(error, self.threshold), self.threshold)


@cites(
    """@misc{paraattention2025fbcache,
  title={First Block Cache, in ParaAttention}, author={{chengzeyi}}, year={2025},
  url={https://github.com/chengzeyi/ParaAttention}}"""
)
@checked
def first_block_cache(
    *,
    threshold: Annotated[float, at_least_float(0.0)] = 0.05,
    decide: Literal["row", "batch"] = "row",
    max_order: Annotated[int, at_least(0)] = 0,
    warmup_steps: Annotated[int, at_least(0)] = 0,
    channel_stride: Annotated[int, at_least(1)] = 1,
    predictor: PredictorLike = taylor,
) -> tuple[FirstBlockResidualGate, object]:
    """Reuse what blocks 1 to L-1 add while what block 0 adds stands still (First Block Cache, ParaAttention
    2025; diffusers' ``FirstBlockCacheConfig``).

    Block 0 runs in every step, and its work is kept where the step is computed. Defaults are those of
    diffusers 0.42, except ``decide``. A model of one block is computed, and the report says so.

    Args:
        threshold: Reuse where sum|r_c - r_k| / sum|r_c| is below this; r is what block 0 adds, c the row's
            last computed step. No unit. 0 computes everything, inf only the first step. ParaAttention writes
            .06 to .12 for FLUX.
        decide: ``"row"``: each sample decides for itself. ``"batch"``: one decision over the whole batch, as
            both released codes.
        max_order: Order of the forecast of the residual: 0 reuses it; above, Taylor sums (ParaAttention).
        warmup_steps: Computed steps at the start (ParaAttention; diffusers has none). The first step is
            computed anyway.
        channel_stride: Compare every n-th channel of the stream only (ParaAttention's downsampling).
        predictor: Another predictor of the residual, by name or factory.

    Raises:
        ForeseerError: At setup, where the host does not say what enters block 0.
    """
    return FirstBlockResidualGate(threshold, warmup_steps, decide, channel_stride), predictor_from(predictor, max_order=max_order)
