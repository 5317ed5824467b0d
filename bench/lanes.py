"""Lanes: ways of sampling the same noise. One run of one, how its steps are counted, which samples are drawn
together, and which runs are timed.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import attrs
import numpy as np
from torch import Tensor

from foreseer.adapters.attachment import Attachment
from foreseer.bench.clock import Took, timed
from foreseer.bench.solvers import Solver, scheduler_for, solved_by
from foreseer.bench.workload import Workload, device_of
from foreseer.errors import OptionError
from foreseer.registry import PolicySpec
from foreseer.report import Report

__all__ = ["FULL", "LaneOf", "Sampler", "Sampling", "Solved", "as_many", "fewer_name", "keep_freed_memory", "mixed", "pairs_of", "split"]

FULL = "full"
"""Name of the lane that every other is compared with."""


def as_many(steps: float | Sequence[float]) -> int:
    """Return with how many steps plain sampling costs as much as what computed so many, on average.

    Half a step is rounded up, in favour of what is to be beaten.
    """
    return max(1, math.floor(float(np.mean(steps)) + 0.5))


def fewer_name(num_steps: int, solver: Solver | None = None) -> str:
    """Return the name of the lane of plain sampling with so many steps, or evaluations of a solver."""
    return f"{solver or 'full'}, {num_steps} step{'s' * (num_steps != 1)}"


@attrs.frozen
class Solved:
    """A policy on another solver.

    Attributes:
        policy: What decides.
        solver: What takes the steps.
        num_steps: How often the solver evaluates the model where nothing is forecast.
    """

    policy: PolicySpec
    solver: Solver
    num_steps: int

    def __str__(self) -> str:
        return f"{self.policy} on {fewer_name(self.num_steps, self.solver)}"


@attrs.frozen(eq=False)
class LaneOf:
    """A lane whose policy may differ from batch to batch.

    Attributes:
        name: What tables call it.
        kind: ``"static"`` or ``"hindsight"``, see `foreseer.bench.results.LaneResult`.
        of: ``indices of a batch -> the policy``.
    """

    name: str
    kind: Literal["static", "hindsight"]
    of: Callable[[Sequence[int]], PolicySpec] = attrs.field(repr=False)


@attrs.frozen(eq=False, kw_only=True)
class Sampling:
    """One run of B samples.

    Attributes:
        latents: ``(B, ...)`` as the workload drew them.
        took: How long it took; the device had finished.
        reports: Of each stream, the account of the policy that drove it; empty for none.
        num_steps: Denoising steps that were asked for.
    """

    latents: Tensor = attrs.field(repr=False)
    took: Took
    reports: Mapping[str, Report] = attrs.field(repr=False)
    num_steps: int

    @property
    def steps(self) -> tuple[float, ...]:
        """Return the ``(B,)`` steps that the policy computed for each sample: its share of the model's calls in
        all streams, of the steps that were asked for. Image to image makes fewer, and each of two denoisers
        its part of them.

        Rows of one sample share a fate, so that its first row says it.
        """
        reports = self.reports.values()
        computed = np.sum([report.computed.sum(axis=0)[: len(self.latents)] for report in reports], axis=0)
        calls = sum(len(report.outcomes) for report in reports)
        return tuple((computed * self.num_steps / max(calls, 1)).tolist())

    @property
    def block_rows(self) -> float:
        """Blocks evaluated x rows, of all streams."""
        return float(sum(report.block_rows for report in self.reports.values()))

    @property
    def full_block_rows(self) -> float:
        """What ``block_rows`` were if all had been computed."""
        reports = self.reports.values()
        return float(sum(r.run.depth * r.run.rows * len(r.outcomes) for r in reports))


@attrs.frozen(eq=False, kw_only=True)
class Sampler:
    """What all lanes have in common: where samples come from, and how each begins.

    Attributes:
        workload: What draws.
        seed: Of the noises.
        num_steps: Denoising steps.
        guidance: Weight of the guidance; None for what the pipeline does by itself.
        solver: What takes the steps; None for the workload's own. Steps are then evaluations of the model.
        scheduler: That solver's.
    """

    workload: Workload
    seed: int
    num_steps: int
    guidance: float | None
    solver: Solver | None = None
    scheduler: Any = attrs.field(default=None, repr=False)

    @classmethod
    def of(cls, workload: Workload, *, seed: int, num_steps: int | None, guidance: float | None) -> Sampler:
        """Return a sampler with the workload's own number of steps and guidance where they are None."""
        return cls(
            workload=workload,
            seed=seed,
            num_steps=workload.num_steps if num_steps is None else num_steps,
            guidance=workload.guidance if guidance is None else guidance,
        )

    def on(self, solver: Solver, num_steps: int) -> Sampler:
        """Return a sampler of the same noises on another solver. Raises `OptionError` where it does not fit."""
        if not solver.fits(num_steps):
            raise OptionError(f"solver={str(solver)!r} cannot evaluate the model {num_steps} times; {solver.advice(num_steps)}")
        return attrs.evolve(self, solver=solver, scheduler=scheduler_for(self.workload, solver), num_steps=num_steps)

    def draw(self, indices: Sequence[int], num_steps: int | None = None) -> Tensor:
        """Draw samples with whatever is attached; None takes all steps."""
        count = self.num_steps if num_steps is None else num_steps
        steps = count if self.solver is None else self.solver.steps(count)
        with solved_by(self.workload, self.scheduler):
            return self.workload.draw(indices, seed=self.seed, num_steps=steps, guidance=self.guidance)

    def run(
        self,
        indices: Sequence[int],
        num_steps: int | None = None,
        *,
        driven: AbstractContextManager[Attachment | None] | None = None,
    ) -> Sampling:
        """Draw samples in so many steps (None: all), and time it; ``driven`` attaches what drives the model
        (None: the bare model), outside of that time.
        """
        device = device_of(self.workload)
        with nullcontext() if driven is None else driven as attached:
            latents, took = timed(lambda: self.draw(indices, num_steps), device)
        count = self.num_steps if num_steps is None else num_steps
        return Sampling(latents=latents, took=took, reports={} if attached is None else attached.reports, num_steps=count)

    @contextmanager
    def policy(
        self,
        spec: PolicySpec,
        indices: Sequence[int],
        observers: Sequence[object] = (),
    ) -> Iterator[Attachment]:
        """Attach a policy for one run of these samples."""
        steps = self.num_steps if self.solver is None else self.solver.steps(self.num_steps)
        with solved_by(self.workload, self.scheduler), self.workload.attached(spec, observers=observers, num_steps=steps, samples=len(indices)) as attached:
            yield attached


def split(order: Sequence[int], batch: int) -> list[tuple[int, ...]]:
    """Return the samples of each batch, in the order given; the last may be short."""
    return [tuple(order[i : i + batch]) for i in range(0, len(order), batch)]


def mixed(difficulty: Sequence[float], batch: int) -> list[tuple[int, ...]]:
    """Return batches that each hold easy and hard samples: those ranked by difficulty, ``(n,)``, are dealt out
    like cards. What is not a number counts as the hardest; some batches have one less where they do not come
    out even.
    """
    ranked = sorted(range(len(difficulty)), key=lambda i: (difficulty[i] != difficulty[i], difficulty[i], i))
    count = -(-len(ranked) // batch)
    return [tuple(ranked[first::count]) for first in range(count)]


def pairs_of(number: int, *, repeats: int, batches: int) -> list[int]:
    """Return which of a lane's timed runs, ``repeats`` in all, fall to a batch: they are spread over all
    batches, so that no moment of the machine decides.
    """
    return [pair for pair in range(repeats) if pair * batches // repeats == number]


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory. Returns whether it could be asked (glibc).

    Otherwise whole steps pay for fetching the same pages again and again: on the bundled model up to a
    quarter of a step, in spells that hit one lane and not the next. PyTorch's tuning guide recommends other
    allocators.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    trim_threshold, mmap_threshold = -1, -3
    return bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_threshold, 2**25))
