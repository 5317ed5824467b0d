"""CG-Taylor (arXiv 2508.02240): forecast the last block, and trust it where block 0's forecast was right."""

from __future__ import annotations

import functools
from typing import Annotated, ClassVar, Literal

import attrs
import torch

from foreseer.errors import OptionError
from foreseer.hookspecs import hookimpl
from foreseer.metrics import relative_l1
from foreseer.options import Range, at_least, at_least_float, checked, cites
from foreseer.policies._taylor import taylor
from foreseer.policies.drafting import Whole, whole_of
from foreseer.policies.predictors import BlockWise, PredictorLike, predictor_from
from foreseer.types import Evidence, Needs, Plan, Probe, Run, Site, Step, Verdict

__all__ = ["FirstBlockGate", "cg_taylor"]


FIRST_BLOCK = Probe(0, on="input")


@attrs.define(eq=False)
class FirstBlockGate:
    """Gate: run block 0 on the step's real input, and accept the forecast of the last block where that of
    block 0 was within ``threshold`` of what block 0 computed. On rejection block 0's output is kept, and the
    other blocks run.

    Attributes: as the options of `cg_taylor`, and ``verified``: no forecast is used without a look at block
    0.
    """

    verified: ClassVar[bool] = True
    threshold: float
    warmup_steps: int
    decide: Literal["row", "batch"] = "row"
    target: Whole = "last_block"
    _groups: tuple[int, ...] = attrs.field(default=(), init=False, repr=False)
    _last_step: int = attrs.field(default=0, init=False, repr=False)
    _sites: tuple[Site, ...] = attrs.field(default=(), init=False, repr=False)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record the first and the last block's output."""
        if run.num_steps is None:
            raise OptionError("cg_taylor computes the last step and must know which it is: give the run timesteps= or num_steps=")
        self._last_step = run.num_steps - 1
        self._groups = run.groups if self.decide == "row" else (0,) * run.rows
        whole = whole_of(run, self.target)
        self._sites = (Site(0),) if whole.end == Site(0) else (Site(0), whole)
        note = "the model has one block: judging it costs as much as computing the step" if run.depth == 1 else ""
        return Needs(sites=self._sites, note=note)

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Probe block 0, except where the step is computed anyway."""
        if step.index < self.warmup_steps:
            return Plan(reason="warm-up")
        if step.index == self._last_step:
            return Plan(reason="last step")
        return Plan(forecast=self._sites, probe=FIRST_BLOCK)

    @hookimpl
    def verify(self, evidence: Evidence) -> Verdict:
        """sum|forecast - h| / sum|h| over the rows that decide together."""
        error = evidence.error(relative_l1, groups=self._groups)
        return Verdict(error, torch.lt(error, self.threshold), self.threshold)


@cites(
    """@article{guan2025cgtaylor,
  title={Forecasting When to Forecast: Accelerating Diffusion Models with Confidence-Gated Taylor}, author={Guan,
  Xiaoliu and Jiang, Lielin and Chen, Hanqi and Zhang, Xu and Yan, Jiaxing and Wang, Guanzhong and Liu, Yi and Zhang,
  Zetao and Wu, Yu},
  journal={arXiv preprint arXiv:2508.02240}, year={2025}}"""
)
@checked
def cg_taylor(
    *,
    threshold: Annotated[float, at_least_float(0.0)] = 0.008,
    first_order: Annotated[int, at_least(0)] = 3,
    last_order: Annotated[int, at_least(0)] = 1,
    warmup_steps: Annotated[int, Range(int, 1)] = 3,
    decide: Literal["row", "batch"] = "row",
    target: Whole = "last_block",
    predictor: PredictorLike = taylor,
) -> tuple[FirstBlockGate, object]:
    """Forecast the last block, gated by the error of the first (CG-Taylor, arXiv 2508.02240).

    Defaults are those of the released code for DiT-XL/2 (threshold 0.008, orders 3 and 1, the first three
    steps computed), except ``decide``. The last step is always computed. The run must know its number of
    steps.

    Where sources disagree: the released Paddle code never updates the first block's features after warm-up
    (it tests a tensor with ``is False``); we update them at every computed step, as the authors' DiT code
    does. Thresholds differ between scripts and README (FLUX 0.03 and 0.13, Wan 0.18 and 0.36): they belong to
    a model, so tune them.

    Args:
        threshold: Accept where sum|forecast - h| / sum|h| at block 0 is below this. 0 computes everything.
        first_order: Order of the forecast of block 0, which is only compared.
        last_order: Order of the forecast of the last block, which is used.
        warmup_steps: Computed steps at the start.
        decide: ``"row"``: each sample decides for itself. ``"batch"``: one decision over the whole batch, as
            released.
        target: ``"last_block"``: its output, as published, so that the head of the current step runs.
            ``"residual"``: what all blocks add to the live stream; ``"residual_after_first"``: what those
            behind the first add to its output, which the gate computes anyway. ``"output"``: the denoiser's
            output; for models whose last block cannot be forecast on its own.
        predictor: Another predictor for both sites, by name or factory.
    """
    first = predictor_from(predictor, max_order=first_order)
    last = predictor_from(predictor, max_order=last_order)
    return FirstBlockGate(threshold, warmup_steps, decide, target), BlockWise(((0, first), (functools.partial(whole_of, target=target), last)))
