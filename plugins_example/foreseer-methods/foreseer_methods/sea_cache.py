"""SeaCache (arXiv 2602.18993): reuse what the blocks added while the part of the latent that a denoiser can
see has not moved far.

Noise hides fine detail first. So latents are compared behind the filter with which a Wiener denoiser would
look at them, whose gain at frequency f, at noise level s, for images whose power falls as 1 / |f|^p, is

    g(f) = (1 - s) S / ((1 - s)^2 S + s^2),    S = 1 / |f|^p

along each axis; the filter is their product over frames, rows and columns, divided by its mean. Changes from
one step to the next are added up. Nothing is calibrated.
"""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import attrs
import torch
from torch import Tensor

from foreseer import LATENT, Evidence, Needs, OptionError, Outcome, Plan, Probe, Run, Site, Step, Verdict, hookimpl
from foreseer.metrics import pool, relative_l1
from foreseer.options import Range, at_least, at_least_float, checked, cites
from foreseer.policies import DraftCounter, predictor_from, taylor
from foreseer_methods.gathering_gate import GatheringGate

__all__ = ["FilteredLatentGate", "as_seen", "sea_cache"]

TINY = 1e-16


def gain(size: int, sigma: float, power: float, like: Tensor) -> Tensor:
    """Return the filter along one axis, ``(size,)``, in the order of `torch.fft.fft`.

    Args:
        size: Entries along the axis.
        sigma: Noise level of flow matching, 0 to 1; clamped a little inside.
        power: The p of S = 1 / |f|^p.
        like: Whose device and dtype to take.
    """
    sigma = min(max(sigma, 1e-6), 1 - 1e-6)
    frequencies = torch.fft.fftfreq(size, device=like.device, dtype=like.dtype)
    spectrum: Tensor = 1 / (frequencies.abs() ** power + TINY)
    return (1 - sigma) * spectrum / ((1 - sigma) ** 2 * spectrum + sigma**2 + TINY)


def as_seen(latent: Tensor, sigma: float, power: float) -> Tensor:
    """Return a latent as a denoiser sees it, ``(R, C, ...)`` in and out, float32 or wider.

    Args:
        latent: Channels in front of rows and columns, or of frames, rows and columns.
        sigma: Its noise level.
        power: See `gain`.
    """
    wide = latent.to(torch.promote_types(latent.dtype, torch.float32))
    grid = tuple(range(2, wide.ndim))
    gains = [gain(wide.shape[dim], sigma, power, wide).reshape(-1, *(1,) * (wide.ndim - 1 - dim)) for dim in grid]
    whole = functools.reduce(torch.mul, gains)
    seen: Tensor = torch.fft.ifftn(torch.fft.fftn(wide, dim=grid) * (whole / whole.mean()), dim=grid).real
    return seen


@attrs.define(eq=False)
class FilteredLatentGate(GatheringGate):
    """Gate: forecast what all blocks add while the changes of the filtered latent, summed, stay below
    ``threshold``.

    Attributes:
        retention: Steps computed at the start.
        end: Likewise at the end.
        max_continuous: Most forecasts in a row, 0 for no limit.
        power: The p of the filter; None for 3 with frames, 2 without.
        timestep_scale: What timesteps are divided by where the run has no noise levels; None for never.
    """

    retention: int
    end: int
    max_continuous: int
    power: float | None
    timestep_scale: float | None
    _stack: Site = attrs.field(default=Site(0), init=False, repr=False)
    _drafted: DraftCounter = attrs.field(factory=lambda: DraftCounter(0), init=False, repr=False)
    _sigma: float | None = attrs.field(default=None, init=False, repr=False)
    _index: int = attrs.field(default=-1, init=False, repr=False)

    @property
    def max_draft_steps(self) -> int | None:
        """``max_continuous``; None where there is no limit."""
        return self.max_continuous or None

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record the residual of the whole stack, and keep what was seen of the latent."""
        self.begin(run, first=self.retention, last=self.end, name="sea_cache")
        if run.sigmas is None and (self.timestep_scale is None or run.timesteps is None):
            raise OptionError(
                "sea_cache filters by the noise level: give the run sigmas=; or timesteps=, and the policy timestep_scale=, the timestep of noise level 1"
            )
        self._stack, self._drafted = Site(run.depth - 1, since=-1), DraftCounter(run.rows)
        return Needs(sites=(self._stack,), evidence=(LATENT,))

    def level(self, step: Step) -> float | None:
        """Return a step's noise level, or None."""
        if step.sigma is not None or step.timestep is None or self.timestep_scale is None:
            return step.sigma
        return step.timestep / self.timestep_scale

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Look at the latent, except where the step is computed anyway."""
        if plan := self.computed(step):
            return plan
        if self.level(step) is None or self._sigma is None or step.index != self._index + 1:
            return Plan(reason="no noise level, or none of the step before")
        due = self._drafted.exhausted(self.max_continuous, step) if self.max_continuous else ()
        return Plan(forecast=(self._stack,), probe=Probe(LATENT), compute=due, reason="reused often enough" if due and all(due) else "")

    @hookimpl
    def verify(self, step: Step, evidence: Evidence) -> Verdict | None:
        """The mean over a sample's rows of sum|s_k - s_k-1| / sum|s_k-1| is added."""
        now, then, sigma = evidence.computed, evidence.before, self.level(step)
        if now.ndim not in (4, 5):
            raise OptionError(
                f"sea_cache filters latents over rows and columns, and this model is called with {tuple(now.shape)}, which has none "
                "(FLUX packs its latents into tokens); use tea_cache or easy_cache"
            )
        if then is None or sigma is None or self._sigma is None:
            return None
        power = self.power or (3.0 if now.ndim == 5 else 2.0)
        moved = relative_l1(as_seen(then, self._sigma, power), as_seen(now, sigma, power))
        return self.judge(pool(moved, self._groups) / pool(torch.ones_like(moved), self._groups))

    @hookimpl
    def commit(self, outcome: Outcome) -> None:
        """Count, and remember the noise level."""
        super().commit(outcome)
        self._drafted.commit(outcome)
        self._index, self._sigma = outcome.step.index, self.level(outcome.step)


@cites(
    """@inproceedings{chung2026seacache,
  title={SeaCache: Spectral-Evolution-Aware Cache for Accelerating Diffusion Models},
  author={Chung, Jiwoo and Hyun, Sangeek and Lee, MinKyu and Han, Byeongju and Cha, Geonho and Wee, Dongyoon and Hong,
  Youngjun and Heo, Jae-Pil},
  booktitle={CVPR}, year={2026}, note={arXiv:2602.18993}}"""
)
@checked
def sea_cache(
    *,
    threshold: Annotated[float, at_least_float(0.0)] = 0.25,
    order: Annotated[int, Range(int, 0, 1)] = 1,
    retention: Annotated[int, at_least(1)] = 1,
    end: Annotated[int, at_least(0)] = 1,
    max_continuous: Annotated[int, at_least(0)] = 2,
    p: Annotated[float | None, Range(float, 0.0, open_low=True)] = None,
    timestep_scale: Annotated[float | None, Range(float, 0.0, open_low=True)] = None,
    decide: Literal["row", "batch"] = "row",
) -> tuple[FilteredLatentGate, object]:
    """Reuse what all blocks added while the filtered latent moves little (SeaCache, arXiv 2602.18993).

    As in diffusers 0.42, with its defaults, except ``decide``: the latent itself is filtered. The authors'
    code and SGLang filter block 0's modulated input instead. For models that are called with latents on a
    grid, ``(R, C, rows, columns)`` or ``(R, C, frames, rows, columns)``; others are refused at the first step
    that is judged. Noise levels are those of flow matching, 0 to 1.

    Args:
        threshold: Reuse while the sum of changes is below it. 0 computes everything.
        order: 0 reuses what was added in the last computed step (the authors); 1 extrapolates the last two
            along a line (diffusers).
        retention: Computed steps at the start.
        end: Computed steps at the end; above 0 the run must know its number of steps.
        max_continuous: Most forecasts in a row; 0 for no limit.
        p: The power law of the filter's spectrum; None for 3 with frames and 2 without, as the paper has it.
        timestep_scale: Ours, for runs that know timesteps and no noise levels: these are timesteps over this
            (1000 for Wan, 1 for FLUX). None refuses such runs.
        decide: ``"row"``: each sample decides for itself. ``"batch"``: one decision over all rows, as
            released: the mean of the rows' changes.

    Raises:
        OptionError: In ``setup``, where noise levels or the number of steps are missing.
    """
    return FilteredLatentGate(threshold, decide, retention, end, max_continuous, p, timestep_scale), predictor_from(taylor, max_order=order)
