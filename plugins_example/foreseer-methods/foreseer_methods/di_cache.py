"""DiCache (arXiv 2508.17356): run the first blocks in every step, and let what they say decide whether the
others run, and how the last two residuals are mixed if they do not.

With H(i) the stream behind block i, q = H(m-1) - H(in) what the m probed blocks add, R what all blocks add,
and c, p the last two computed steps, a step that is not computed gets

    R_p + g (R_c - R_p),    g = clip(|q_k - q_p| / |q_c - q_p|, 1, 1.5)

so that the shallow blocks say how far along the line the deep ones should be.
"""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import attrs
import numpy as np
import torch
from torch import Tensor

from foreseer import STREAM, Evidence, History, Late, Live, Needs, OptionError, Plan, Probe, Run, Site, Step, Verdict, hookimpl
from foreseer.metrics import relative_l1
from foreseer.options import at_least, at_least_float, checked, cites, fraction
from foreseer.transfer import on_device
from foreseer.types import Drafts
from foreseer_methods.gathering_gate import DISTANCE, GatheringGate, reused

__all__ = ["Distance", "ShallowProbeGate", "di_cache"]

Distance = Literal["stream", "difference", "added"]


@attrs.define(eq=False)
class ShallowProbeGate(GatheringGate):
    """Gate and predictor: see the module.

    Attributes:
        probe_depth: Blocks that run in every step, m.
        retention: Share of the steps that is computed at the start.
        distance: What is compared with the step before: see `di_cache`.
        max_weight: Upper end of g; 1 is reuse.
    """

    probe_depth: int
    retention: float
    distance: Distance
    max_weight: float
    _stack: Site = attrs.field(default=Site(0), init=False, repr=False)
    _shallow: Site = attrs.field(default=Site(0), init=False, repr=False)
    _probe: Site = attrs.field(default=Site(0), init=False, repr=False)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record what all blocks add and what the probed ones do, twice each."""
        if run.num_steps is None:
            raise OptionError("di_cache computes a share of the steps first, and the last: give the run timesteps= or num_steps=")
        if self.probe_depth >= run.depth:
            raise OptionError(f"di_cache: probe_depth={self.probe_depth} leaves none of the model's {run.depth} blocks to skip; write a smaller one")
        self.begin(run, first=int(self.retention * run.num_steps), last=1, name="di_cache")
        self._stack, self._shallow = Site(run.depth - 1, since=-1), Site(self.probe_depth - 1, since=-1)
        self._probe = self._shallow if self.distance == "added" else self._shallow.end
        return Needs(sites=(self._stack, self._shallow), anchors=2, evidence=(self._probe, STREAM) if self.distance == "difference" else (self._probe,))

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Run the first blocks, except where the step is computed anyway."""
        return self.computed(step) or Plan(forecast=(self._stack,), probe=Probe(self._probe))

    @hookimpl
    def verify(self, evidence: Evidence) -> Verdict:
        """The relative change since the step before is added, or its distance to that of the input."""
        moved = evidence.error(relative_l1, groups=self._groups, against="before")
        if self.distance == "difference":
            moved = (moved - evidence.at(STREAM).error(relative_l1, groups=self._groups, against="before")).abs()
        return self.judge(moved)

    @hookimpl
    def predict_features(self, sites: tuple[Site, ...], history: History) -> Drafts:
        """Wait for the probe; reuse what is forecast elsewhere."""
        mixture = Late(functools.partial(self._mix, history))
        return {site: mixture if site == self._stack else reused(history) for site in sites}

    def _mix(self, history: History, live: Live) -> Tensor:
        """R_p + g (R_c - R_p); R_c where a row has no p, or where the probe did not move between the two."""
        now, then = history.features(self._stack).unbind(0)
        if self._shallow not in live.features:  # a model of which only the output can be forecast says nothing of its blocks
            return now.clone()
        probed_now, probed_then = history.features(self._shallow)
        far, near = (DISTANCE(probed_then, each, groups=self._groups) for each in (live.features[self._shallow], probed_now))
        pairs = on_device(np.isfinite(history.anchors[:, 1]), now.device)
        weight = torch.where(pairs & (near > 0), (far / near).clamp(1.0, self.max_weight), 1.0)
        shape = (-1, *(1,) * (now.ndim - 1))
        return torch.where(pairs.reshape(shape), then + weight.reshape(shape) * (now - then), now).to(now.dtype)


@cites(
    """@inproceedings{bu2026dicache,
  title={DiCache: Let Diffusion Model Determine Its Own Cache},
  author={Bu, Jiazi and Ling, Pengyang and Zhou, Yujie and Wang, Yibin and Zang, Yuhang and Wu, Tong and Lin, Dahua and
  Wang, Jiaqi},
  booktitle={ICLR}, year={2026}, note={arXiv:2508.17356}}"""
)
@checked
def di_cache(
    *,
    threshold: Annotated[float, at_least_float(0.0)] = 0.4,
    probe_depth: Annotated[int, at_least(1)] = 1,
    retention: Annotated[float, fraction] = 0.2,
    distance: Distance = "stream",
    max_weight: Annotated[float, at_least_float(1.0)] = 1.5,
    decide: Literal["row", "batch"] = "row",
) -> ShallowProbeGate:
    """Judge by the first blocks, and mix the last two residuals as they say (DiCache, arXiv 2508.17356).

    Defaults are those of the released code for FLUX, except ``decide``; HunyuanVideo's threshold is 0.1. The
    first step and the last are always computed. The run must know its number of steps. A step costs
    ``probe_depth`` blocks where it is not computed; where it is, they are part of it.

    Args:
        threshold: Skip the other blocks while the sum of changes is below it. 0 computes everything. The
            authors also have 0.08 with ``retention=0``.
        probe_depth: Blocks that run in every step, m, 1 to 5 in the paper.
        retention: Share of the steps that is computed at the start, rounded down to whole steps.
        distance: What is added up, from one step to the next. ``"stream"`` (the authors' ``delta_y``): how
            much the stream behind the probed blocks changes. ``"difference"`` (the authors' other): how far
            that is from how much the stream in front of them changes. ``"added"`` (ours): how much what they
            add changes.
        max_weight: Upper end of the mixture's weight, 1.5 as released. 1 reuses what was added last.
        decide: ``"row"``: each sample decides, and mixes, for itself. ``"batch"``: all rows together, as
            released.

    Raises:
        OptionError: In ``setup``, where the number of steps is not known, or no block would be left to skip.
    """
    return ShallowProbeGate(threshold, decide, probe_depth, retention, distance, max_weight)
