"""What a policy costs on a family's samples, and how near it stays to full computation from the same noise."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator

import attrs
import numpy as np
import torch
from torch import Tensor

from foreseer.bench.families import Family
from foreseer.bench.lanes import wait_for
from foreseer.errors import ForeseerError
from foreseer.presets import Measured
from foreseer.psnr import Likeness, likeness_of, psnr
from foreseer.registry import PolicySpec
from foreseer.report import Report
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
        run: The run of the first batch's first stream.
    """

    measured: Measured
    seconds: float
    run: Run


class Gauge:
    """Some samples of a family. Full computation is drawn when it is first needed, and then kept.

    Args:
        family: What draws.
        first, samples: Which samples: their indices.
        batch: How many are drawn together.
        seed, num_steps, guidance: As of `Family.draw`.
    """

    def __init__(self, family: Family, *, first: int, samples: int, batch: int, seed: int, num_steps: int, guidance: float) -> None:
        self.family, self.first, self.samples = family, first, samples
        self._batch, self._seed, self._num_steps, self._guidance = batch, seed, num_steps, guidance
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
        found: list[Tensor] = []
        reports: list[Report] = []
        steps: list[float] = []
        seconds = 0.0
        for indices in self._batches():
            with self.family.attached(spec, num_steps=self._num_steps, samples=len(indices)) as attached:
                latents, taken = self._draw(indices, self._num_steps)
            seconds += taken
            found.append(self.family.decode(latents))
            streams = list(attached.reports.values())
            reports += streams
            # rows of one sample share a fate, so that its first row says it; streams are averaged
            steps += np.mean([report.computed.sum(axis=0)[: len(indices)] for report in streams], axis=0).tolist()
        everything = sum(report.run.depth * report.run.rows * len(report.outcomes) for report in reports)
        like = self._likeness(found)
        measured = Measured(
            samples=self.samples,
            first=self.first,
            seed=self._seed,
            block_rows_ratio=sum(report.block_rows for report in reports) / everything,
            steps_computed=float(np.mean(steps)),
            psnr_mean=like.mean,
            psnr_worst=like.worst,
            broken=like.broken,
        )
        return Reading(measured=measured, seconds=seconds, run=reports[0].run)

    def fewer(self, steps_computed: float) -> float:
        """Return the mean PSNR of plain sampling with as many steps as were computed; half a step is rounded up."""
        count = max(1, math.floor(steps_computed + 0.5))
        drawn = [self._draw(indices, count)[0] for indices in self._batches()]
        return self._likeness([self.family.decode(latents) for latents in drawn]).mean

    def signature(self, run: Run, *, dtype: str, versions: dict[str, str]) -> Signature:
        """Return what a policy was measured on."""
        return Signature(
            model=run.model,
            scheduler=run.scheduler,
            num_steps=run.num_steps or self._num_steps,
            timesteps=run.timesteps,
            guidance=self._guidance,
            dtype=dtype,
            conditions=f"{self.family.name}: samples {self.first} to {self.first + self.samples - 1}, seed {self._seed}",
            versions=versions,
        )

    @functools.cached_property
    def _full(self) -> Tensor:
        drawn = [self._draw(indices, self._num_steps) for indices in self._batches()]
        self.seconds = sum(seconds for _, seconds in drawn)
        full = torch.cat([self.family.decode(latents) for latents, _ in drawn])
        if not bool(torch.isfinite(full).all()):
            raise NotFiniteError("samples of full computation are not finite; write another --dtype")
        return full

    def _draw(self, indices: range, num_steps: int) -> tuple[Tensor, float]:
        device = next(self.family.model.parameters()).device
        wait_for(device)
        started = time.perf_counter()
        latents = self.family.draw(indices, seed=self._seed, num_steps=num_steps, guidance=self._guidance)
        wait_for(device)
        return latents, time.perf_counter() - started

    def _batches(self) -> Iterator[range]:
        end = self.first + self.samples
        return (range(i, min(i + self._batch, end)) for i in range(self.first, end, self._batch))

    def _likeness(self, drawn: list[Tensor]) -> Likeness:
        return likeness_of(psnr(torch.cat(drawn), self._full))
