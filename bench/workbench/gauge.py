"""What a policy costs on a workload's samples, and how near it stays to full computation of the same noise;
and a plan as a preset, measured so.
"""

from __future__ import annotations

import datetime
import math
from collections import deque
from collections.abc import Iterator, Sequence

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.bench.harness import Tell
from foreseer.bench.lanes import Sampler, Sampling, as_many, split
from foreseer.bench.machine import machine
from foreseer.bench.per_sample import Figures
from foreseer.bench.workload import Workload
from foreseer.errors import ForeseerError, OptionError
from foreseer.presets import Measured, Preset
from foreseer.psnr import counted_psnr, likeness_of, psnr
from foreseer.registry import PolicySpec, parse_policy
from foreseer.schedule_plan import SchedulePlan
from foreseer.signature import Signature
from foreseer.types import Run

__all__ = ["HELD_OUT_SEED", "Gauge", "NotFiniteError", "Reading", "planned_preset"]


class NotFiniteError(ForeseerError):
    """Samples are broken: they are not finite."""


@attrs.frozen(kw_only=True)
class Reading:
    """What was measured of one policy, on the samples of the batches that were drawn so far.

    Attributes:
        figures: Of each sample.
        run: The run of the first batch's first stream.
        broken: How many samples are not finite.
        measured: What they come to, as a preset has it.
    """

    figures: Figures
    run: Run = attrs.field(repr=False)
    broken: int
    measured: Measured

    @property
    def seconds(self) -> float:
        """Wall-clock time of drawing the samples."""
        return sum(self.figures.seconds)


class Gauge:
    """Some samples of a workload. Full computation of a batch is drawn when it is first needed, and then kept.

    Args:
        sampler: Draws them.
        first: Index of the first sample.
        samples: How many, from ``first`` on; or the indices of all.
        batch: How many are drawn together.
        among: Where indices are given: how many samples they were taken from at random, from ``first`` on.
    """

    def __init__(self, sampler: Sampler, *, first: int = 0, samples: int | Sequence[int], batch: int, among: int | None = None) -> None:
        self.indices = tuple(range(first, first + samples)) if isinstance(samples, int) else tuple(samples)
        self.batches = split(self.indices, batch)
        self._sampler, self._first, self._among = sampler, first, among
        self._full: dict[int, tuple[Tensor, float]] = {}

    @property
    def time(self) -> float:
        """Seconds of full computation for a sample, by the clock; NaN where none was drawn."""
        drawn = sum(len(self.batches[number]) for number in self._full)
        return sum(clock for _, clock in self._full.values()) / drawn if drawn else math.nan

    def full(self, number: int) -> Tensor:
        """Return the images of full computation of a batch, drawn once.

        Raises:
            NotFiniteError: They are not finite.
        """
        if number not in self._full:
            run = self._sampler.run(self.batches[number])
            images = self._sampler.workload.decode(run.latents)
            if not bool(torch.isfinite(images).all()):
                raise NotFiniteError("samples of full computation are not finite; write another --dtype")
            self._full[number] = images, run.took.clock
        return self._full[number][0]

    def follow(self, spec: PolicySpec, *, skip: int = 0) -> Iterator[Reading]:
        """Draw the samples with a policy, batch by batch. Those that are broken, that is not finite, count as
        0 dB. ``skip`` leaves out so many batches.

        Yields:
            After each batch, the reading of the samples up to it.

        Raises:
            NotFiniteError: See `full`.
            Exception: Whatever the policy raises.
        """
        psnrs: list[float] = []
        ratios: list[float] = []
        steps: list[float] = []
        seconds: list[float] = []
        broken, rows, of, lead = 0, 0.0, 0.0, None
        for number, indices in list(enumerate(self.batches))[skip:]:
            run = self._sampler.run(indices, driven=self._sampler.policy(spec, indices))
            raw = self._psnr(run, number)
            lead = lead or next(iter(run.reports.values())).run
            broken, rows, of = broken + likeness_of(raw).broken, rows + run.block_rows, of + run.full_block_rows
            share, mean = run.block_rows / run.full_block_rows, float(np.mean(run.steps)) or 1.0
            psnrs += counted_psnr(raw).tolist()
            ratios += [share * count / mean for count in run.steps]
            steps += run.steps
            seconds += [run.took.clock / len(indices)] * len(indices)
            figures = Figures(psnrs=psnrs, ratios=ratios, steps=steps, seconds=seconds)
            yield Reading(figures=figures, run=lead, broken=broken, measured=self._measured(figures, rows / of, broken))

    def measure(self, spec: PolicySpec) -> Reading:
        """Draw all samples with a policy. Raises as `follow`."""
        (last,) = deque(self.follow(spec), maxlen=1)
        return last

    def beside_fewer(self, spec: PolicySpec) -> Reading:
        """As `measure`, with plain sampling of as many steps beside it: half a step is rounded up."""
        reading = self.measure(spec)
        return attrs.evolve(reading, measured=attrs.evolve(reading.measured, fewer_psnr_mean=self.fewer(reading.figures.computed)))

    def fewer(self, steps: float) -> float:
        """Return the mean PSNR of plain sampling with so many steps, on average; half a step is rounded up."""
        count = as_many(steps)
        found = [self._psnr(self._sampler.run(indices, count), number) for number, indices in enumerate(self.batches)]
        return likeness_of(np.concatenate(found)).mean

    def _psnr(self, run: Sampling, number: int) -> NDArray[np.float64]:
        return psnr(self._sampler.workload.decode(run.latents), self.full(number))

    def _measured(self, figures: Figures, ratio: float, broken: int) -> Measured:
        return Measured(
            samples=figures.samples,
            first=self._first,
            seed=self._sampler.seed,
            block_rows_ratio=ratio,
            steps_computed=figures.computed,
            psnr_mean=figures.mean,
            psnr_worst=figures.worst,
            broken=broken,
            among=self._among,
        )

    def signature(self, run: Run, *, dtype: str, versions: dict[str, str]) -> Signature:
        """Return what a policy was measured on."""
        many = f"{len(self.indices)} of " if self._among is not None else ""
        which = f"{many}samples {self._first} to {self._first + (self._among or len(self.indices)) - 1}, seed {self._sampler.seed}"
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
