"""One unit of a benchmark: a lane on a batch of samples, drawn once with everything counted, and timed."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import attrs
import torch
from torch import Tensor

from foreseer.adapters.attachment import Attachment
from foreseer.bench.counting import BlockCalls, count_blocks, count_cost
from foreseer.bench.jobs import Beside, Job, Measured
from foreseer.bench.lanes import FULL, LaneOf, Sampler, Sampling, Solved, keep_freed_memory, pairs_of, split
from foreseer.bench.likeness import figures_of, look_at
from foreseer.bench.measures import load_measures
from foreseer.bench.peers import PeerError, Request
from foreseer.bench.reference import Reference
from foreseer.bench.results import Counted, LaneResult, Unit
from foreseer.bench.settings import BenchSettings
from foreseer.bench.source import loaded
from foreseer.bench.workload import Workload, all_blocks_of, device_of, dtype_of, labels_of, prompts_of
from foreseer.psnr import psnr
from foreseer.registry import PolicySpec, parse_policy
from foreseer.zoo.judge import DigitJudge

__all__ = ["Measuring", "judge"]

CALIBRATED = 16
"""Samples that a peer is calibrated on, where it is: the first ones."""

PROBE = "taylorseer:interval=5,max_order=1"
"""By the latent error under this schedule samples are called easy or hard, where batches are to be mixed."""


class Measuring:
    """Measures lanes on batches.

    Args:
        settings: What the lanes have in common.
        workload: That of the settings.
        observers: Plugins that watch the policies' runs.

    Attributes:
        sampler: Draws for all lanes but peers.
        measures: What samples are measured by.
        reference: The converged reference; None for none.
    """

    def __init__(self, settings: BenchSettings, workload: Workload, observers: Sequence[object]) -> None:
        keep_freed_memory()
        self._settings, self._observers = settings, tuple(observers)
        steps, guidance = settings.steps, settings.guidance
        self.sampler = Sampler.of(workload, seed=settings.seed, num_steps=steps, guidance=guidance)
        self.measures = load_measures(settings.measures)
        solvers = (*settings.solvers, *(lane.solver for lane in settings.lanes if isinstance(lane, Solved)))
        self._solvers = {str(solver): solver for solver in solvers}
        self.reference = self._reference()
        self._full_seconds: dict[tuple[int, int], float] = {}
        self._warm: set[str] = set()
        self._memory: dict[object, Any] = {}
        with count_blocks(all_blocks_of(workload)) as calls:
            self._found = self.sampler.draw([0], 2)
        self._calls_per_step, self._block_rows_per_step = calls.steps / 2 or 1.0, calls.block_rows / 2

    def unit(self, job: Job, beside: Beside | None = None) -> Measured:
        """Draw a batch once, and time it.

        Args:
            job: What to draw.
            beside: What full computation came to on this batch; None where that is what is drawn.
        """
        lane, number, indices = job.lane, job.number, job.indices
        draws = self._settings.timed == "draws"
        if job.warm_up:
            self.warm_up(job)
        full_seconds = self._beside(job, beside.seconds) if draws and beside is not None else None
        # A peer gets a model of its own: one that is disabled again can leave a model that computes the same
        # and cannot be given to the next.
        sampler = attrs.evolve(self.sampler, workload=self._load()) if lane.kind == "peer" else self._sampler(lane)
        workload = sampler.workload
        calls: list[BlockCalls] = []
        costs: list[Counted] = []
        counting = self._counting(sampler, job, indices, calls, None if number or draws else costs)
        # What counts blocks takes time from what is timed. Who knows what a pipeline of the user's makes of its
        # steps: image to image leaves some out.
        plain = draws and lane.kind != "peer" and (lane.kind not in ("full", "fewer") or prompts_of(workload) is None)
        driven = self._driven(sampler, job, indices) if plain else counting
        run = sampler.run(indices, lane.num_steps, driven=driven)
        self._check(workload, lane)
        drawn = look_at(workload, judge, run.latents)
        if draws:
            timed = [(run, run.took.seconds if full_seconds is None else full_seconds)]
            if beside is None:
                self._full_seconds[lane.batch, number] = run.took.seconds
        else:
            pairs = pairs_of(number, repeats=self._settings.repeats if beside else 0, batches=job.batches)
            timed = [self._pair(sampler, job, full_first=pair % 2 == 0) for pair in pairs]
        self._check(workload, lane)
        run = timed[-1][0] if timed else run  # its steps' seconds are undisturbed
        steps: Sequence[float] = (float(lane.num_steps),) * len(indices)
        block_rows = lane.num_steps * self._block_rows_per_step * len(indices)
        if run.reports:
            steps, block_rows = run.steps, run.block_rows
        elif calls:  # as seen from outside
            block_rows = calls[0].block_rows
            if lane.kind == "peer":  # a step of a pipeline may be several calls
                steps = (calls[0].steps / self._calls_per_step,) * len(indices)
        full = drawn if beside is None else beside.drawn
        taken, failed = self.take(indices, drawn.images, full.images)
        truth = None if beside is None else beside.truth
        if self.reference is not None:
            truth = self.reference.images(indices) if truth is None else truth
            taken["truth"] = tuple(psnr(drawn.images, truth).tolist())
        unit = Unit(
            number=number,
            indices=indices,
            steps=tuple(steps),
            block_rows=block_rows,
            figures={**taken, **figures_of(drawn, full, labels_of(indices))},
            failed=failed,
            seconds=tuple(own.took.seconds for own, _ in timed),
            clock_seconds=tuple(own.took.clock for own, _ in timed),
            full_seconds=tuple(neighbour for _, neighbour in timed),
            bytes_held=sum(sum(report.bytes_held.values()) for report in run.reports.values()),
            warnings=tuple(dict.fromkeys(said for r in run.reports.values() for said in r.warnings)),
        )
        agreements = {} if self.reference is None else {index: self.reference.agreements[index] for index in indices if index in self.reference.agreements}
        return Measured(
            unit=unit,
            drawn=drawn,
            counted=costs[0] if costs else None,
            reports=run.reports,
            truth=truth if beside is None else None,
            agreements=agreements,
        )

    def _beside(self, job: Job, known: float | None) -> float:
        """Return how long full computation of a job's batch took here; it is drawn where that is not known."""
        batch = job.lane.batch, job.number
        if known is None and batch not in self._full_seconds:
            if job.warm_up and FULL not in self._warm:
                self._warm.add(FULL)
                self.sampler.run([0])
            self._full_seconds[batch] = self.sampler.run(job.indices).took.seconds
        return self._full_seconds[batch] if known is None else known

    def take(self, indices: Sequence[int], own: Tensor, full: Tensor, *, known: Iterable[str] = ()) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
        """Measure the images or videos of a batch, see `foreseer.bench.measures.Measures.take`."""
        return self.measures.take(own, full, self.sampler.workload.words(indices), known=known)

    def warm_up(self, job: Job) -> None:
        """Draw one sample, once. A policy that cannot drive this model fails here, before anything long has
        begun.
        """
        if job.lane.name not in self._warm:
            self._warm.add(job.lane.name)
            sampler = self._sampler(job.lane)
            sampler.run([0], job.lane.num_steps, driven=self._driven(sampler, job, [0], watched=False))

    def difficulty(self) -> list[float]:
        """Return of each sample the relative error of its latent under `PROBE`, which is the same in every
        run.
        """
        found: list[float] = []
        for indices in split(range(self._settings.samples), CALIBRATED):
            full = self.sampler.draw(indices)
            driven = self.sampler.policy(parse_policy(PROBE), indices)
            off = self.sampler.run(indices, driven=driven).latents - full
            found += (off.flatten(1).norm(dim=1) / full.flatten(1).norm(dim=1)).tolist()
        return found

    def _pair(self, sampler: Sampler, job: Job, *, full_first: bool) -> tuple[Sampling, float]:
        """Time a lane, and full computation right before or after it."""
        before = self.sampler.run(job.indices) if full_first else None
        own = sampler.run(job.indices, job.lane.num_steps, driven=self._driven(sampler, job, job.indices))
        return own, (before or self.sampler.run(job.indices)).took.seconds

    @contextmanager
    def _counting(
        self,
        sampler: Sampler,
        job: Job,
        indices: Sequence[int],
        calls: list[BlockCalls],
        costs: list[Counted] | None,
    ) -> Iterator[Attachment | None]:
        """As `_driven`, with blocks counted from outside; FLOPs and memory where there is a list for them."""
        with ExitStack() as stack:
            calls.append(stack.enter_context(count_blocks(all_blocks_of(sampler.workload))))
            attached = stack.enter_context(self._driven(sampler, job, indices))
            calls[0].clear()  # a calibration is no part of the run
            if costs is not None:
                costs.append(stack.enter_context(count_cost(device_of(sampler.workload))))
            yield attached

    @contextmanager
    def _driven(
        self,
        sampler: Sampler,
        job: Job,
        indices: Sequence[int],
        *,
        watched: bool = True,
    ) -> Iterator[Attachment | None]:
        """Let a lane's policy or peer drive a model for one draw."""
        given = job.given
        spec = given.of(indices) if isinstance(given, LaneOf) else given.policy if isinstance(given, Solved) else given
        if isinstance(spec, PolicySpec):
            with sampler.policy(spec, indices, self._observers if watched else ()) as attached:
                if spec.preset is not None:  # a run does not know these two
                    mine = spec.preset.signature
                    spec.elsewhere(attrs.evolve(mine, guidance=sampler.guidance, dtype=dtype_of(sampler.workload)))
                yield attached
            return
        first = range(min(self._settings.samples, CALIBRATED))
        enabled: AbstractContextManager[None] = nullcontext()
        if spec is not None:
            request = Request(sampler.workload, sampler.num_steps, lambda: sampler.draw(first), self._memory)
            enabled = spec.enable()(request)
        with enabled:
            yield None

    def _check(self, workload: Workload, lane: LaneResult) -> None:
        """Raise where a peer left its model, or the one of the other lanes, other than it was, by one input."""
        if lane.kind != "peer":
            return
        for whose, model in (
            ("its model", workload),
            ("a model that it was never given", self.sampler.workload),
        ):
            if not torch.equal(attrs.evolve(self.sampler, workload=model).draw([0], 2), self._found):
                self.sampler = attrs.evolve(self.sampler, workload=self._load())
                raise PeerError(f"it left {whose} changed after it was disabled: the output on one input is another")

    def _sampler(self, lane: LaneResult) -> Sampler:
        """Return what draws a lane: the workload's own solver, or another."""
        return self.sampler.on(self._solvers[lane.solver], lane.num_steps) if lane.solver else self.sampler

    def _reference(self) -> Reference | None:
        chosen = self._settings
        return None if chosen.reference is None else Reference(self.sampler, chosen.workload, chosen.reference, chosen.reference_steps)

    def _load(self) -> Workload:
        return loaded(self._settings.workload)


@functools.cache
def judge() -> DigitJudge:
    """Return the digit classifier that looks at all samples; it is loaded once."""
    return DigitJudge()
