"""EasyCache (arXiv 2507.02860): reuse the denoiser's output less its input while the input has not moved far.

Nothing of the model runs in a reused step, not even its head, and nothing is calibrated: how much the output
moves for a movement of the input, the gain, is measured between the last two computed steps.

    gain = m(y_c - y_p) / m(x_c - x_p)
    added in a step = gain * m(x_k - x_k-1) / m(y_c)

with x the latent, y the output, c and p the last two computed steps, m the mean of absolute values. Where
the mean is over the same entries everywhere, a sum does as well.
"""

from __future__ import annotations

from typing import Annotated, Literal

import attrs
import torch
from torch import Tensor

from foreseer import LATENT, OUTPUT, Evidence, History, Needs, Outcome, Plan, Probe, Run, Site, Step, Verdict, hookimpl
from foreseer.metrics import relative_l1
from foreseer.options import at_least, at_least_float, checked, cites
from foreseer.types import Drafts
from foreseer_methods.gathering_gate import DISTANCE, GatheringGate, reused

__all__ = ["MovementGate", "easy_cache"]

ADDED = Site(-1, "output", since=-1)
"""What the denoiser adds to its input."""


@attrs.define(eq=False)
class MovementGate(GatheringGate):
    """Gate and predictor: reuse output less latent while the latent's movements since the last computed step,
    times the measured gain, summed, stay below ``threshold``.

    The latent of the computed step before the last one is not kept. How far it lay from the last one was seen
    when that was computed, and stays on the device as one number a row. So the last step of the warm-up is
    looked at too, and rejected.

    Attributes:
        warmup_steps: Computed steps at the start.
        movement: ``"step"``: from the step before. ``"computed"``: from the last computed step.
    """

    warmup_steps: int
    movement: Literal["step", "computed"]
    _history: History | None = attrs.field(default=None, init=False, repr=False)
    _moved: tuple[Tensor | None, ...] = attrs.field(default=(), init=False, repr=False)
    _spans: tuple[Tensor | None, ...] = attrs.field(default=(), init=False, repr=False)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record what is added once and the output twice, and keep what was seen of the latent."""
        self.begin(run, first=self.warmup_steps, last=1, name="easy_cache")
        self._spans = self._moved = (None,) * run.rows
        return Needs(anchors={ADDED: 1, OUTPUT: 2}, evidence=(LATENT,))

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Look at the latent, except where the step is computed anyway and the gain does not need it."""
        plan = self.computed(step)
        return plan if plan is not None and step.index != self.warmup_steps - 1 else Plan(forecast=(ADDED,), probe=Probe(LATENT))

    @hookimpl
    def predict_features(self, sites: tuple[Site, ...], history: History) -> Drafts:
        """Reuse."""
        self._history = history
        return dict.fromkeys(sites, reused(history))

    @hookimpl
    def verify(self, step: Step, evidence: Evidence) -> Verdict:
        """Gain times movement over the output is added; NaN, which is rejected, where no gain was measured."""
        moved = evidence.error(DISTANCE, groups=self._groups, against="anchor")
        self._moved = moved.unbind(0)
        if self._history is None or self.computed(step) is not None:
            return self.judge(torch.full_like(moved, torch.inf))  # how far off is not known yet
        now, then = self._history.features(OUTPUT)
        response = relative_l1(now, then, groups=self._groups, vote=evidence.vote)  # m(y_c - y_p) / m(y_c)
        span = torch.stack([moved.new_full((), torch.nan) if span is None else span for span in self._spans])
        if self.movement == "step":
            moved = evidence.error(DISTANCE, groups=self._groups, against="before")
        return self.judge(response * moved / span)

    @hookimpl
    def commit(self, outcome: Outcome) -> None:
        """Keep the sums of the rows that were forecast, and the spans of those that were computed."""
        super().commit(outcome)
        self._spans = tuple(now if computed else then for computed, now, then in zip(outcome.computed, self._moved, self._spans, strict=True))
        self._history, self._moved = None, (None,) * len(self._spans)


@cites(
    """@article{zhou2025easycache,
  title={Less is Enough: Training-Free Video Diffusion Acceleration via Runtime-Adaptive Caching},
  author={Zhou, Xin and Liang, Dingkang and Chen, Kaijin and Feng, Tianrui and Chen, Xiwu and Lin, Hongkai and Ding,
  Yikang and Tan, Feiyang and Zhao, Hengshuang and Bai, Xiang},
  journal={arXiv preprint arXiv:2507.02860}, year={2025}}"""
)
@checked
def easy_cache(
    *,
    threshold: Annotated[float, at_least_float(0.0)] = 0.05,
    warmup_steps: Annotated[int, at_least(1)] = 10,
    movement: Literal["step", "computed"] = "step",
    decide: Literal["row", "batch"] = "row",
) -> MovementGate:
    """Reuse the output less its input while the input moves little (EasyCache, arXiv 2507.02860).

    Defaults are those of the released code for Wan 2.1, except ``decide``; its README takes thresholds of 0.1
    and 0.2, and HunyuanVideo's code 0.025 and 5 steps. The last step is always computed. The run must know
    its number of steps. Where a step brought no movement, the gain is unknown, and the next step is computed.

    Args:
        threshold: Reuse while the sum of expected relative changes of the output is below it. 0 computes
            everything.
        warmup_steps: Computed steps at the start.
        movement: ``"step"`` (the authors): how far the input moved since the step before. ``"computed"``
            (ComfyUI, SGLang): since the last computed step, and summed all the same, which is stricter. Both
            measure every entry here; ComfyUI takes every eighth pixel, SGLang the stream and every n-th token.
        decide: ``"row"``: each sample decides for itself. ``"batch"``: one decision over all rows, as
            released.
    """
    return MovementGate(threshold, decide, warmup_steps, movement)
