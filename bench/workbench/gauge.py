"""What a policy costs on a workload's samples, and how near it stays to full computation of the same noise;
and a plan as a preset, measured so.
"""

from __future__ import annotations

import datetime
import functools
import math
from collections.abc import Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from foreseer.bench.harness import Tell
from foreseer.bench.lanes import Sampler, Sampling, as_many, split
from foreseer.bench.machine import machine
from foreseer.bench.workload import Workload
from foreseer.errors import ForeseerError, OptionError
from foreseer.presets import Measured, Preset
from foreseer.psnr import Likeness, likeness_of, psnr
from foreseer.registry import PolicySpec, parse_policy
from foreseer.schedule_plan import SchedulePlan
from foreseer.signature import Signature
from foreseer.types import Run

__all__ = ["HELD_OUT_SEED", "Gauge", "NotFiniteError", "Reading", "planned_preset"]


class NotFiniteError(ForeseerError):
    """Samples are broken: they are not finite."""


@attrs.frozen(kw_only=True)
class Reading:
    """What was measured of one policy; the wall-clock time of drawing the samples, which is shown and never
    optimised; and the run of the first batch's first stream.
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

    def measure(self, spec: PolicySpec) -> Reading:
        """Draw the samples with a policy. Those that are broken, that is not finite, count as 0 dB.

        Raises:
            NotFiniteError: See `full`.
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
    def full(self) -> Tensor:
        """Images of full computation, drawn once. Raises `NotFiniteError` where they are not finite."""
        runs = [self._sampler.run(indices) for indices in self._batches]
        self.seconds = sum(run.took.clock for run in runs)
        full = self._images(runs)
        if not bool(torch.isfinite(full).all()):
            raise NotFiniteError("samples of full computation are not finite; write another --dtype")
        return full

    def _images(self, runs: Sequence[Sampling]) -> Tensor:
        return torch.cat([self._sampler.workload.decode(run.latents) for run in runs])

    def _likeness(self, runs: Sequence[Sampling]) -> Likeness:
        return likeness_of(psnr(self._images(runs), self.full))


HELD_OUT_SEED = 1
"""Seed of the samples that a plan is checked on; where the plan was recorded from this one, the next."""


def planned_preset(
    plan: SchedulePlan,
    family: Workload,
    *,
    name: str,
    samples: int = 8,
    device: str = "cpu",
    tell: Tell = lambda what, done, total: None,
) -> Preset:
    """Measure the chosen schedule of a plan, and make a preset of it that needs no other file.

    Args:
        plan: With a chosen budget.
        family: The model that it was planned for.
        name: Of the preset.
        samples: How many of the recorded samples to measure on, and how many of another seed.
        device: Where the family is, for the record.
        tell: Told how far it is.

    Raises:
        OptionError: The plan was made for another model, scheduler or number of steps than the family's.
    """
    recorded = 0 if plan.seed is None else plan.seed
    held_out_seed = HELD_OUT_SEED if recorded != HELD_OUT_SEED else HELD_OUT_SEED + 1
    samples = min(samples, plan.samples or samples)
    policy = f"planned:schedule={'+'.join(map(str, plan.budget().steps))}/{plan.num_steps},target={plan.target},predictor=({plan.predictor})"
    spec, found = parse_policy(policy), list[Measured]()
    for own in (recorded, held_out_seed):
        tell("recorded samples" if own == recorded else "samples of another seed", len(found), 2)
        sampler = Sampler.of(family, seed=own, num_steps=plan.num_steps, guidance=plan.signature.guidance)
        reading = Gauge(sampler, samples=samples, batch=samples).beside_fewer(spec)
        differing = plan.signature.conflicts(reading.run)
        if differing:
            raise OptionError(f"the plan was made for another model: {'; '.join(differing)}; record and plan anew")
        found.append(reading.measured)
    tuned, held_out = found
    return Preset(
        name=name,
        policy=str(spec),
        signature=plan.signature,
        tuned=tuned,
        held_out=held_out,
        found={
            "family": family.name,
            "how": "planned from recorded samples",
            "objective": plan.objective,
            "predictor": plan.predictor,
            "computed_steps": len(plan.budget().steps),
        },
        machine=machine(device),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
