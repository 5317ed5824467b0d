"""One batch of a search, drawn: in full, with a policy, or plainly with fewer steps. Functions of a sampler that
travel to where it is drawn, and what they come to.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.bench.lanes import Sampler, Sampling
from foreseer.bench.per_sample import Figures
from foreseer.bench.workload import Workload
from foreseer.errors import ForeseerError
from foreseer.psnr import counted_psnr, likeness_of, psnr
from foreseer.registry import PolicySpec
from foreseer.types import Run

__all__ = ["Batch", "Fewer", "Full", "Noises", "NotFiniteError", "draw_fewer", "draw_full", "draw_with", "sampler_of"]


class NotFiniteError(ForeseerError):
    """Samples are broken: they are not finite."""


@attrs.frozen(kw_only=True)
class Noises:
    """What samplers of one search have in common, wherever they are; see `foreseer.bench.lanes.Sampler`.

    Attributes:
        name: Of the workload.
        (others): As of `Sampler`.
    """

    name: str
    seed: int
    num_steps: int
    guidance: float | None

    @classmethod
    def of(cls, sampler: Sampler) -> Noises:
        """Return those of a sampler."""
        return cls(name=sampler.workload.name, seed=sampler.seed, num_steps=sampler.num_steps, guidance=sampler.guidance)


@attrs.frozen(eq=False, kw_only=True)
class Full:
    """Images of full computation, and the seconds that they took, by the clock."""

    images: Tensor
    seconds: float


@attrs.frozen(kw_only=True)
class Batch:
    """What one batch came to with a policy: ``rows`` are block-rows, ``of`` those of full computation."""

    figures: Figures
    broken: int
    rows: float
    of: float
    run: Run


@attrs.frozen(kw_only=True)
class Fewer:
    """``(n,)`` PSNR of the samples of a batch, of plain sampling with fewer steps."""

    psnrs: tuple[float, ...]


def sampler_of(workload: Workload, *, seed: int, num_steps: int | None, guidance: float | None) -> Sampler:
    """Return what draws, of a workload."""
    return Sampler.of(workload, seed=seed, num_steps=num_steps, guidance=guidance)


def draw_full(indices: Sequence[int], sampler: Sampler) -> Full:
    """Draw in full. Raises `NotFiniteError` where that is broken."""
    run = sampler.run(indices)
    images = sampler.workload.decode(run.latents)
    if not bool(torch.isfinite(images).all()):
        raise NotFiniteError("samples of full computation are not finite; write another --dtype")
    return Full(images=images, seconds=run.took.clock)


def draw_with(spec: PolicySpec, indices: Sequence[int], sampler: Sampler, full: Tensor) -> Batch:
    """Draw with a policy; ``full`` are the images of full computation. Raises whatever the policy raises."""
    run = sampler.run(indices, driven=sampler.policy(spec, indices))
    raw = _psnr(run, sampler, full)
    share, mean = run.block_rows / run.full_block_rows, float(np.mean(run.steps)) or 1.0
    figures = Figures(
        psnrs=counted_psnr(raw).tolist(),
        ratios=[share * count / mean for count in run.steps],
        steps=run.steps,
        seconds=[run.took.clock / len(indices)] * len(indices),
    )
    lead = next(iter(run.reports.values())).run
    return Batch(figures=figures, broken=likeness_of(raw).broken, rows=run.block_rows, of=run.full_block_rows, run=lead)


def draw_fewer(count: int, indices: Sequence[int], sampler: Sampler, full: Tensor) -> Fewer:
    """Draw plainly with fewer steps; ``full`` are the images of full computation."""
    return Fewer(psnrs=tuple(_psnr(sampler.run(indices, count), sampler, full).tolist()))


def _psnr(run: Sampling, sampler: Sampler, full: Tensor) -> NDArray[np.float64]:
    return psnr(sampler.workload.decode(run.latents), full)
