"""What a policy costs on a workload's samples, and how near it stays to full computation of the same noise;
and a plan as a preset, measured so.
"""

from __future__ import annotations

import datetime
import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.bench.harness import Tell
from foreseer.bench.kept_draws import Draw, KeptDraws
from foreseer.bench.lanes import Sampler, Sampling, as_many, split
from foreseer.bench.machine import machine
from foreseer.bench.per_sample import Figures
from foreseer.bench.workload import Workload, device_of, how_many
from foreseer.document import plain, structured
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


@attrs.frozen(kw_only=True)
class _Batch:
    """What one batch came to with a policy: ``rows`` are block-rows, ``of`` those of full computation."""

    figures: Figures
    broken: int
    rows: float
    of: float
    run: Run


@attrs.frozen(kw_only=True)
class _Fewer:
    """``(n,)`` PSNR of the samples of a batch, of plain sampling with fewer steps."""

    psnrs: tuple[float, ...]


class Gauge:
    """Some samples of a workload. A batch is drawn when it is first needed, of full computation or with a
    policy, and what it came to is then kept.

    Args:
        sampler: Draws them.
        first: Index of the first sample.
        samples: How many, from ``first`` on; or the indices of all.
        batch: How many are drawn together.
        among: Where indices are given: how many samples they were taken from at random, from ``first`` on.
        kept: Where draws are kept besides, for the next process; None for nowhere.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        first: int = 0,
        samples: int | Sequence[int],
        batch: int,
        among: int | None = None,
        kept: KeptDraws | None = None,
    ) -> None:
        self.indices = tuple(range(first, first + samples)) if isinstance(samples, int) else tuple(samples)
        self.batches = split(self.indices, batch)
        self._sampler, self._first, self._among, self._kept = sampler, first, among, kept
        self._full: dict[int, tuple[Tensor, float]] = {}
        self._facts: dict[tuple[str, int], Mapping[str, Any]] = {}

    @property
    def time(self) -> float:
        """Seconds of full computation for a sample, by the clock; NaN where none was needed yet."""
        drawn = sum(len(self.batches[number]) for number in self._full)
        return sum(clock for _, clock in self._full.values()) / drawn if drawn else math.nan

    def full(self, number: int) -> Tensor:
        """Return the images of full computation of a batch, drawn once.

        Raises:
            NotFiniteError: They are not finite.
        """
        if number not in self._full:
            drawn = self._draw("full computation", number, lambda: self._draw_full(number))
            self._full[number] = drawn.tensors["images"], drawn.facts["seconds"]
        return self._full[number][0]

    def _draw(self, what: str, number: int, make: Callable[[], Draw]) -> Draw:
        name = f"{what}, samples {'+'.join(map(str, self.batches[number]))}"
        return make() if self._kept is None else self._kept.draw(name, make)

    def _draw_full(self, number: int) -> Draw:
        run = self._sampler.run(self.batches[number])
        images = self._sampler.workload.decode(run.latents)
        if not bool(torch.isfinite(images).all()):
            raise NotFiniteError("samples of full computation are not finite; write another --dtype")
        return Draw(tensors={"images": images}, facts={"seconds": run.took.clock})

    def _found(self, what: str, number: int, make: Callable[[], object]) -> Mapping[str, Any]:
        """What a batch came to, measured where it is not known."""
        key = what, number
        if key not in self._facts:
            self._facts[key] = self._draw(what, number, lambda: Draw(tensors={}, facts=plain(make()))).facts
        return self._facts[key]

    def follow(self, spec: PolicySpec) -> Iterator[Reading]:
        """Draw the samples with a policy, batch by batch. Those that are broken, that is not finite, count as
        0 dB.

        Yields:
            After each batch, the reading of the samples up to it.

        Raises:
            NotFiniteError: See `full`.
            Exception: Whatever the policy raises.
        """
        figures, broken, rows, of, lead = Figures(), 0, 0.0, 0.0, None
        for number in range(len(self.batches)):
            found = structured(_Batch, self._found(str(spec), number, functools.partial(self._follow, spec, number)))
            figures, broken, rows, of, lead = figures + found.figures, broken + found.broken, rows + found.rows, of + found.of, lead or found.run
            yield Reading(figures=figures, run=lead, broken=broken, measured=self._measured(figures, rows / of, broken))

    def _follow(self, spec: PolicySpec, number: int) -> _Batch:
        indices = self.batches[number]
        self.full(number)  # first: what is drawn with the policy is then lost to no interruption
        run = self._sampler.run(indices, driven=self._sampler.policy(spec, indices))
        raw = self._psnr(run, number)
        share, mean = run.block_rows / run.full_block_rows, float(np.mean(run.steps)) or 1.0
        figures = Figures(
            psnrs=counted_psnr(raw).tolist(),
            ratios=[share * count / mean for count in run.steps],
            steps=run.steps,
            seconds=[run.took.clock / len(indices)] * len(indices),
        )
        lead = next(iter(run.reports.values())).run
        return _Batch(figures=figures, broken=likeness_of(raw).broken, rows=run.block_rows, of=run.full_block_rows, run=lead)

    def measure(self, spec: PolicySpec) -> Reading:
        """Draw all samples with a policy. Raises as `follow`."""
        (last,) = deque(self.follow(spec), maxlen=1)
        return last

    def beside_fewer(self, spec: PolicySpec, *, tell: Callable[[int, int], None] = lambda followed, fewer: None) -> Reading:
        """As `measure`, with plain sampling of as many steps beside it: half a step is rounded up. ``tell`` is
        told after each batch of how many samples there is either.
        """
        for reading in self.follow(spec):
            tell(reading.figures.samples, 0)
        count, psnrs, followed = as_many(reading.figures.computed), list[float](), reading.figures.samples
        for number in range(len(self.batches)):
            psnrs += structured(_Fewer, self._found(f"{count} plain steps", number, functools.partial(self._fewer, count, number))).psnrs
            tell(followed, len(psnrs))
        return attrs.evolve(reading, measured=attrs.evolve(reading.measured, fewer_psnr_mean=likeness_of(np.array(psnrs)).mean))

    def _fewer(self, count: int, number: int) -> _Fewer:
        return _Fewer(psnrs=tuple(self._psnr(self._sampler.run(self.batches[number], count), number).tolist()))

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
    samples: int | None = None,
    batch: int | None = None,
    tell: Tell = lambda what, done, total: None,
) -> Preset:
    """Measure the chosen schedule of a plan, and make a preset of it that needs no other file.

    Args:
        plan: With a chosen budget.
        family: The model that it was planned for.
        name: Of the preset.
        samples: How many of the recorded samples to measure on, and how many of another seed; no more than were
            recorded. None for 8; of a pipeline with prompts, each prompt once.
        batch: How many are drawn together; None for all, of a pipeline with prompts one.
        tell: Told how far it is.

    Raises:
        OptionError: The plan was made for another model, scheduler or number of steps than the family's.
    """
    recorded = 0 if plan.seed is None else plan.seed
    held_out_seed = HELD_OUT_SEED if recorded != HELD_OUT_SEED else HELD_OUT_SEED + 1
    samples, together = how_many(family, samples=samples, batch=batch, usual=(8, 8))
    samples = min(samples, plan.samples or samples)
    policy = f"planned:schedule={'+'.join(map(str, plan.budget().steps))}/{plan.num_steps},target={plan.target},predictor=({plan.predictor})"
    spec, found = parse_policy(policy), list[Measured]()
    for own in (recorded, held_out_seed):
        what, begun = "recorded samples" if own == recorded else "samples of another seed", 2 * samples * len(found)
        tell(what, begun, 4 * samples)
        sampler = Sampler.of(family, seed=own, num_steps=plan.num_steps, guidance=plan.signature.guidance)
        gauge = Gauge(sampler, samples=samples, batch=together)

        def told(followed: int, fewer: int, what: str = what, begun: int = begun) -> None:
            tell(what, begun + followed + fewer, 4 * samples)

        reading = gauge.beside_fewer(spec, tell=told)
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
        machine=machine(str(device_of(family))),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
