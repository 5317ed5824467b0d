"""What a policy costs on a workload's samples, and how near it stays to full computation of the same noise."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from foreseer.bench.lanes import Sampler, Sampling, as_many, split
from foreseer.errors import ForeseerError
from foreseer.presets import Measured
from foreseer.psnr import Likeness, likeness_of, psnr
from foreseer.registry import PolicySpec
from foreseer.signature import Signature
from foreseer.types import Run

__all__ = ["Gauge", "NotFiniteError", "Reading"]


class NotFiniteError(ForeseerError):
    """Samples are broken: they are not finite."""


@attrs.frozen(kw_only=True)
class Reading:
    """What was measured of one policy.

    Attributes:
        measured: The figures.
        seconds: Wall-clock time of drawing the samples with the policy. Shown, never optimised.
        run: That of the first batch's first stream.
    """

    measured: Measured
    seconds: float
    run: Run


class Gauge:
    """Some samples of a workload. Full computation is drawn when it is first needed, and then kept.

    Args:
        sampler: Draws them.
        first, samples: Which samples: their indices.
        batch: How many are drawn together.
    """

    def __init__(self, sampler: Sampler, *, first: int = 0, samples: int, batch: int) -> None:
        self.first, self.samples = first, samples
        self._sampler, self._batches = sampler, split(range(first, first + samples), batch)
        self.seconds = math.nan

    def prepare(self) -> None:
        """Draw full computation, if that was not done yet.

        Raises:
            NotFiniteError: It is not finite, so that nothing can be compared with it.
        """
        _ = self._full

    def measure(self, spec: PolicySpec) -> Reading:
        """Draw the samples with a policy. Those that are broken, that is not finite, count as 0 dB.

        Raises:
            NotFiniteError: See `prepare`.
            Exception: Whatever the policy raises.
        """
        runs = [self._sampler.run(indices, driven=self._sampler.policy(spec, indices)) for indices in self._batches]
        like = self._likeness(runs)
        measured = Measured(
            samples=self.samples,
            first=self.first,
            seed=self._sampler.seed,
            block_rows_ratio=sum(run.block_rows for run in runs) / sum(run.full_block_rows for run in runs),
            steps_computed=float(np.mean([steps for run in runs for steps in run.steps])),
            psnr_mean=like.mean,
            psnr_worst=like.worst,
            broken=like.broken,
        )
        lead = next(iter(runs[0].reports.values())).run
        return Reading(measured=measured, seconds=sum(run.took.clock for run in runs), run=lead)

    def beside_fewer(self, spec: PolicySpec) -> Reading:
        """As `measure`, with plain sampling of as many steps beside it: half a step is rounded up."""
        reading = self.measure(spec)
        count = as_many(reading.measured.steps_computed)
        fewer = self._likeness([self._sampler.run(indices, count) for indices in self._batches])
        return attrs.evolve(reading, measured=attrs.evolve(reading.measured, fewer_psnr_mean=fewer.mean))

    def signature(self, run: Run, *, dtype: str, versions: dict[str, str]) -> Signature:
        """Return what a policy was measured on."""
        which = f"samples {self.first} to {self.first + self.samples - 1}, seed {self._sampler.seed}"
        return Signature(
            model=run.model,
            scheduler=run.scheduler,
            num_steps=run.num_steps or self._sampler.num_steps,
            timesteps=run.timesteps,
            guidance=self._sampler.guidance,
            dtype=dtype,
            conditions=f"{self._sampler.workload.name}: {which}",
            versions=versions,
        )

    @functools.cached_property
    def _full(self) -> Tensor:
        runs = [self._sampler.run(indices) for indices in self._batches]
        self.seconds = sum(run.took.clock for run in runs)
        full = self._images(runs)
        if not bool(torch.isfinite(full).all()):
            raise NotFiniteError("samples of full computation are not finite; write another --dtype")
        return full

    def _images(self, runs: Sequence[Sampling]) -> Tensor:
        return torch.cat([self._sampler.workload.decode(run.latents) for run in runs])

    def _likeness(self, runs: Sequence[Sampling]) -> Likeness:
        return likeness_of(psnr(self._images(runs), self._full))
