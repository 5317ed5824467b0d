"""TaylorSeer (arXiv 2503.06923): compute at a fixed interval, forecast in between. Also `reuse` and `none`."""

from __future__ import annotations

from typing import Annotated

import attrs

from foreseer.hookspecs import hookimpl
from foreseer.options import at_least, checked, cites
from foreseer.outcome import Outcome
from foreseer.policies._taylor import taylor
from foreseer.policies.drafting import DraftCounter, Target, draft_needs
from foreseer.policies.predictors import PredictorLike, predictor_from
from foreseer.types import Needs, Plan, Run, Site, Step

__all__ = ["Everything", "Interval", "none", "reuse", "taylorseer"]


@attrs.define(eq=False)
class Interval:
    """Schedule: compute the first ``warmup_steps`` steps, then every ``interval``-th (released code: full iff
    k < W or c = N - 1, with c steps since the last full one). No step is judged and the last one is not
    forced.

    Attributes:
        interval: Steps from one computed step to the next, N.
        warmup_steps: Computed steps at the start, W.
        target: What is forecast in between.
        max_draft_steps: Most forecasts in a row, N - 1.
    """

    interval: int
    warmup_steps: int
    target: Target = "modules"
    _sites: tuple[Site, ...] = attrs.field(default=(), init=False, repr=False)
    _drafted: DraftCounter = attrs.field(factory=lambda: DraftCounter(0), init=False, repr=False)

    @property
    def max_draft_steps(self) -> int:
        """One less than the interval."""
        return self.interval - 1

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record what will be forecast."""
        needs = draft_needs(run, self.target)
        self._sites, self._drafted = needs.sites, DraftCounter(run.rows)
        return needs

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Rows whose interval is over are computed; as a rule that is all of them or none."""
        if step.index < self.warmup_steps:
            return Plan(reason="warm-up")
        due = self._drafted.exhausted(self.interval - 1, step)
        if all(due):
            return Plan(reason=f"interval of {self.interval}")
        return Plan(forecast=self._sites, compute=due)

    @hookimpl
    def commit(self, outcome: Outcome) -> None:
        """Count."""
        self._drafted.commit(outcome)


class Everything:
    """Schedule: compute everything."""

    @hookimpl
    def before_step(self) -> None:
        """Abstain."""


@checked
def none() -> Everything:
    """Compute everything: the bare model, counted and timed.

    The output is bit for bit that of the bare model.
    """
    return Everything()


@cites(
    """@article{selvaraju2024fora,
  title={FORA: Fast-Forward Caching in Diffusion Transformer Acceleration},
  author={Selvaraju, Pratheba and others},
  journal={arXiv preprint arXiv:2407.01425}, year={2024}}"""
)
@checked
def reuse(
    *,
    interval: Annotated[int, at_least(1)] = 3,
    warmup_steps: Annotated[int, at_least(1)] = 1,
    target: Target = "modules",
    predictor: PredictorLike = taylor,
) -> tuple[Interval, object]:
    """Reuse the last computed features at a fixed interval (FORA, arXiv 2407.01425).

    Args:
        interval: Steps from one computed step to the next, N. Default: FORA's N=3 for DiT-XL/2.
        warmup_steps: Computed steps at the start.
        target: As in `taylorseer`.
        predictor: Called with order 0; any other predictor makes this `taylorseer`.
    """
    return Interval(interval, warmup_steps, target), predictor_from(predictor, max_order=0)


@cites(
    """@inproceedings{liu2025taylorseer,
  title={From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers},
  author={Liu, Jiacheng and Zou, Chang and Lyu, Yuanhuiyi and Chen, Junjie and Zhang, Linfeng},
  booktitle={ICCV}, year={2025}, note={arXiv:2503.06923}}"""
)
@checked
def taylorseer(
    *,
    interval: Annotated[int, at_least(1)] = 4,
    max_order: Annotated[int, at_least(0)] = 4,
    warmup_steps: Annotated[int, at_least(1)] = 2,
    target: Target = "modules",
    predictor: PredictorLike = taylor,
) -> tuple[Interval, object]:
    """Compute at a fixed interval, forecast by Taylor sums in between (TaylorSeer, arXiv 2503.06923).

    Defaults are those of the released code for DiT-XL/2 with 50 DDIM steps. Full steps are k < warmup_steps,
    and then every interval-th.

    Args:
        interval: Steps from one computed step to the next, N.
        max_order: Highest order of difference, O.
        warmup_steps: Computed steps at the start, W ("first_enhance").
        target: ``"modules"``: every module's raw output before its gate, as published. ``"last_block"``: the
            last block's output only; far less memory, and the whole step but the head is skipped.
            ``"residual"``: what all blocks add to the stream that enters the first, which stays live: the
            memory and the work of ``"last_block"``. ``"residual_after_first"``: what those behind the first
            add to its output, which is computed. ``"output"``: the denoiser's output; nothing runs, and the
            head of the current step is not used.
        predictor: Another predictor, by name or factory.
    """
    return Interval(interval, warmup_steps, target), predictor_from(predictor, max_order=max_order, warmup_steps=warmup_steps)
